/*
 * The cache of decoded blocks.
 *
 * Blocks are found by RAM offset and key through a hash table, and listed by RAM page so that a write can kill those it
 * touches. Memory comes from one arena that is never freed piecemeal: when it is full, everything is dropped at once
 * (the common policy of translators; blocks are cheap to make again).
 *
 * An instruction that crosses a page end makes a block of its own which belongs to no page: it is checked against the
 * bytes that stand there now each time it is entered.
 */
#include "engine/interp/interp.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_DEFAULT (8u << 20)
#define ARENA_MIN     (256u << 10)
/* The most that one block can take: its ops and a payload for each. */
#define BLOCK_ROOM \
    (sizeof(struct block) + (BLOCK_MAX_OPS + 1) * sizeof(struct op) + BLOCK_MAX_OPS * (sizeof(struct payload) + 16))

int blocks_init(struct interp *ip, struct error *e)
{
    ip->arena_size = ip->cfg.code_cache ? MAX(ip->cfg.code_cache, ARENA_MIN) : ARENA_DEFAULT;
    ip->arena = malloc(ip->arena_size);
    ip->page_blocks = calloc(ip->mem->size >> PAGE_SHIFT, sizeof(*ip->page_blocks));
    if (!ip->arena || !ip->page_blocks)
        return error_set(e, ENOMEM, "interpreter: no memory for its code cache; choose a smaller --code-cache");
    return 0;
}

void blocks_destroy(struct interp *ip)
{
    free(ip->arena);
    free(ip->page_blocks);
}

void *arena_alloc(struct interp *ip, size_t size)
{
    size = (size + 15) & ~(size_t)15;
    if (ip->arena_size - ip->arena_used < size)
        return NULL;
    void *p = ip->arena + ip->arena_used;
    ip->arena_used += size;
    return p;
}

void blocks_flush(struct interp *ip)
{
    for (unsigned i = 0; i < ARRAY_LEN(ip->hash); i++)
        for (struct block *b = ip->hash[i]; b; b = b->hash_next) {
            u64 page = b->start >> PAGE_SHIFT;
            ip->page_blocks[page] = NULL;
            blocks_untrace_page(ip, page);
            ip->stats.blocks_dropped++;
        }
    memset(ip->hash, 0, sizeof(ip->hash));
    memset(ip->jumps, 0, sizeof(ip->jumps));
    ip->arena_used = 0;
    ip->flush_wanted = false;
}

static unsigned hash_of(u64 start, u8 key)
{
    u64 h = (start ^ (u64)key << 40) * 0x9e3779b97f4a7c15ull;
    return h >> (64 - HASH_BITS);
}

static void unhash(struct interp *ip, struct block *b)
{
    struct block **p = &ip->hash[hash_of(b->start, b->key)];
    while (*p && *p != b)
        p = &(*p)->hash_next;
    if (*p)
        *p = b->hash_next;
}

static void kill_block(struct interp *ip, struct block *b)
{
    unhash(ip, b);
    b->key = KEY_DEAD;
    for (unsigned i = 0; i <= b->n; i++)
        b->ops[i].fn = op_leave;
    ip->stats.blocks_dropped++;
}

void blocks_kill(struct interp *ip, u64 ram_page, unsigned from, unsigned to)
{
    struct block **p = &ip->page_blocks[ram_page];
    while (*p) {
        struct block *b = *p;
        unsigned start = b->start & 0xfff;
        if (start < to && from < start + b->bytes) {
            *p = b->page_next;
            kill_block(ip, b);
        } else {
            p = &b->page_next;
        }
    }
}

void blocks_trace_page(struct interp *ip, u64 ram_page)
{
    coherence_trace(ip->seat, ram_page);
}

void blocks_untrace_page(struct interp *ip, u64 ram_page)
{
    if (!ip->page_blocks[ram_page] && !(ip->has_code && ip->has_code(ip->owner, ram_page)))
        coherence_untrace(ip->seat, ram_page);
}

void code_changed(struct interp *ip, u64 ram_page, unsigned from, unsigned to)
{
    coherence_written(ip->seat, ram_page, from, to);
}

/* --- what coherence asks --- */

static void protect(void *engine, u64 ram_page)
{
    if (ram_page == COHERENCE_TRACED)
        tlb_protect_traced(engine);
    else
        tlb_protect_page(engine, ram_page);
}

static void kill(void *engine, u64 ram_page, unsigned from, unsigned to)
{
    struct interp *ip = engine;
    ip->stats.code_writes++;
    blocks_kill(ip, ram_page, from, to);
    if (ip->code_killed)
        ip->code_killed(ip->owner, ram_page, from, to);
    blocks_untrace_page(ip, ram_page);
}

const struct coherence_ops interp_coherence_ops = {protect, kill};

/* --- making a block --- */

static enum isa_mode mode_of(const struct interp *ip)
{
    return (enum isa_mode)(ip->key & KEY_MODE);
}

static struct op *add_op(struct interp *ip, struct block *b, const struct isa_insn *insn, unsigned off, bool *ends)
{
    struct op *op = &b->ops[b->n];
    *op = (struct op){.off = (u16)off, .len = insn->len};
    if (b->n == 0)
        b->mnemonic = insn->mnemonic;
    *ends = translate(ip, insn, op);
    if (op->fn)
        b->n++;
    return op->fn ? op : NULL;
}

/* A block of the one instruction over the page end, or of an instruction that does not decode. */
static struct block *crossing_block(struct interp *ip, u64 rip, const u8 *bytes, unsigned avail, int *result)
{
    u8 buf[ISA_MAX_LEN];
    struct isa_insn insn;
    memcpy(buf, bytes, avail);
    const u8 *next = tlb_fetch(ip, rip + avail, result);
    if (!next)
        return NULL;
    memcpy(buf + avail, next, ISA_MAX_LEN - avail);
    int d = isa_decode(mode_of(ip), buf, ISA_MAX_LEN, &insn);
    if (d != ISA_DECODE_OK) {
        *result = d == ISA_DECODE_UD ? cpu_raise(ip->cpu, VEC_UD) : cpu_raise_error(ip->cpu, VEC_GP, 0);
        return NULL;
    }
    struct block *b = arena_alloc(ip, sizeof(*b) + 2 * sizeof(struct op));
    bool ends;
    if (!b) {
        ip->flush_wanted = true;
        return NULL;
    }
    *b = (struct block){.start = NO_PAGE, .bytes = insn.len, .key = ip->key};
    memcpy(b->copy, buf, insn.len);
    if (!add_op(ip, b, &insn, 0, &ends)) {
        ip->flush_wanted = true;
        return NULL;
    }
    b->ops[1] = (struct op){.fn = op_leave, .off = insn.len};
    return b;
}

/* Decode from `host` (RAM) up to the end of page, of the block, or what does not decode. n == 0: *result says why. */
static void fill_block(struct interp *ip, struct block *b, const u8 *host, int *result)
{
    unsigned room = PAGE_SIZE - (unsigned)(b->start & 0xfff), off = 0;
    unsigned max = ip->key & KEY_SINGLE ? 1 : BLOCK_MAX_OPS;
    bool ends = false;
    while (!ends && b->n < max && off < room) {
        struct isa_insn insn;
        int d = isa_decode(mode_of(ip), host + off, MIN(room - off, (unsigned)ISA_MAX_LEN), &insn);
        if (d != ISA_DECODE_OK) {
            if (d == ISA_DECODE_UD)
                *result = cpu_raise(ip->cpu, VEC_UD);
            else
                *result = d == ISA_DECODE_SHORT ? CPU_OK : cpu_raise_error(ip->cpu, VEC_GP, 0);
            break;
        }
        if (!add_op(ip, b, &insn, off, &ends)) {
            ip->flush_wanted = true;
            break;
        }
        off += insn.len;
    }
    b->bytes = (u16)off;
    b->ops[b->n] = (struct op){.fn = op_leave, .off = (u16)off};
}

static void publish(struct interp *ip, struct block *b)
{
    u64 page = b->start >> PAGE_SHIFT;
    unsigned h = hash_of(b->start, b->key);
    b->hash_next = ip->hash[h];
    ip->hash[h] = b;
    b->page_next = ip->page_blocks[page];
    ip->page_blocks[page] = b;
    ip->stats.blocks_made++;
}

static struct block *make_block(struct interp *ip, u64 rip, const u8 *host, int *result)
{
    size_t mark = ip->arena_used;
    if (ip->arena_size - mark < BLOCK_ROOM) {
        ip->flush_wanted = true;
        return NULL;
    }
    /* Ops first, at their greatest number; what is not used is given back when no payload stands behind it. */
    struct block *b = arena_alloc(ip, sizeof(*b) + (BLOCK_MAX_OPS + 1) * sizeof(struct op));
    *b = (struct block){.start = (u64)(host - ip->mem->ram), .key = ip->key};
    size_t ops_end = ip->arena_used;
    *result = CPU_OK;
    blocks_trace_page(ip, b->start >> PAGE_SHIFT);
    fill_block(ip, b, host, result);
    if (b->n == 0) {
        ip->arena_used = mark;
        blocks_untrace_page(ip, b->start >> PAGE_SHIFT);
        if (*result != CPU_OK || ip->flush_wanted)
            return NULL;
        unsigned avail = PAGE_SIZE - (unsigned)(rip & 0xfff);
        return crossing_block(ip, rip, host, avail, result);
    }
    *result = CPU_OK;
    if (ip->arena_used == ops_end)
        ip->arena_used = mark + ((sizeof(*b) + (b->n + 1u) * sizeof(struct op) + 15) & ~(size_t)15);
    publish(ip, b);
    return b;
}

/* --- finding a block --- */

static bool crossing_valid(struct interp *ip, const struct block *b, u64 rip, const u8 *host, int *result)
{
    unsigned avail = PAGE_SIZE - (unsigned)(rip & 0xfff);
    if (avail >= b->bytes || memcmp(host, b->copy, avail))
        return false;
    const u8 *next = tlb_fetch(ip, rip + avail, result);
    return next && !memcmp(next, b->copy + avail, b->bytes - avail);
}

unsigned blocks_runs(const struct interp *ip, u64 start)
{
    const struct block *b = ip->hash[hash_of(start, ip->key)];
    while (b && (b->start != start || b->key != ip->key))
        b = b->hash_next;
    return b ? b->runs : 0;
}

struct block *block_find(struct interp *ip, int *result)
{
    u64 rip = code_va(ip), tag = rip | (ip->key & KEY_BASED ? JUMP_BASED : 0);
    const u8 *host = tlb_fetch(ip, rip, result);
    if (!host)
        return NULL;
    u64 start = (u64)(host - ip->mem->ram);
    struct jump_entry *j = jump_at(ip, rip);
    struct block *b = j->block;
    if (b && j->rip == tag && b->key == ip->key && b->start == NO_PAGE && crossing_valid(ip, b, rip, host, result))
        return b;
    if (*result != CPU_OK)
        return NULL;
    b = ip->hash[hash_of(start, ip->key)];
    while (b && (b->start != start || b->key != ip->key))
        b = b->hash_next;
    if (!b)
        b = make_block(ip, rip, host, result);
    if (b)
        *j = (struct jump_entry){tag, b};
    return b;
}
