/*
 * Translation of a block: decode, look at flags, write the hot code, then the cold code behind it.
 *
 *   code:     compare RCX with the block's address   (reached through the hash)
 *   at_poll:  event or end of the budget? to cold code
 *   at_body:  vectors, x87 unit in place?
 *             the instructions, which are counted somewhere among them, and the exits
 *             cold code: push site; jmp slow
 */
#include "engine/bt/bt_internal.h"

#include <stddef.h>

const u8 bt_host_of[CPU_GPRS] = {H_RAX, H_R11, H_RDX,   H_RBX,   H_R10, H_RBP, H_RSI, H_RDI,
                                 H_R8,  H_R9,  NO_HOST, NO_HOST, H_R12, H_R13, H_R14, NO_HOST};

/* The most that one block may take. */
#define CODE_MAX (8u << 10)
#define COLD_MAX (4 * BT_BLOCK_INSNS * 10u + BT_EXITS * 96u)
#define META_MAX                                                                                                    \
    (sizeof(struct bt_block) + BT_EXITS * sizeof(struct bt_exit) + (BT_BLOCK_INSNS + 1) * sizeof(struct bt_map) +   \
     4 * BT_BLOCK_INSNS * sizeof(struct bt_site) + BT_RELOCS * sizeof(struct bt_reloc) + sizeof(struct bt_second) + \
     64)
_Static_assert(CODE_MAX < 1u << 14 && BT_BLOCK_BYTES + ISA_MAX_LEN <= 1u << 10, "struct bt_map");

unsigned bt_value(struct bt_gen *g, unsigned guest, unsigned scratch)
{
    if (bt_host_of[guest] != NO_HOST)
        return bt_host_of[guest];
    emit_load(&g->e, scratch, bt_slot(guest));
    return scratch;
}

/* --- sites and cold code --- */

u32 bt_site(struct bt_gen *g, enum bt_site_kind kind, unsigned arg)
{
    if (g->n_sites == ARRAY_LEN(g->sites)) {
        g->overflow = true;
        return 0;
    }
    g->sites[g->n_sites] = (struct bt_site){.kind = (u8)kind, .insn = (u8)g->i, .arg = (u16)arg};
    return g->b->index << 8 | g->n_sites++;
}

static void site_operand(const struct bt_gen *g, struct bt_site *s, const struct isa_mem *m, unsigned addr_size)
{
    bool rip = m->base == ISA_RIP_REG;
    s->base = rip ? ISA_NO_REG : m->base;
    s->index = m->index;
    s->shift = (u8)__builtin_ctz(m->scale ? m->scale : 1) & 3;
    s->addr32 = addr_size == 4;
    s->seg = m->seg & 7;
    s->disp = (s32)m->disp; /* all of it: see out_of_range */
    s->rip = rip;
}

u32 bt_access_site(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, unsigned size, bool write)
{
    u32 number = bt_site(g, SITE_MISS, 0);
    struct bt_site *s = &g->sites[number & 0xff];
    s->write = write;
    s->size = (u8)size;
    site_operand(g, s, m, addr_size);
    return number;
}

static unsigned new_cold(struct bt_gen *g, u8 *mark, enum bt_cold_kind kind)
{
    if (g->n_cold == ARRAY_LEN(g->cold)) {
        g->overflow = true;
        g->n_cold--;
    }
    g->cold[g->n_cold].mark = mark;
    g->cold[g->n_cold].kind = kind;
    g->cold[g->n_cold].insn = (u8)g->i;
    return g->n_cold++;
}

void bt_cold(struct bt_gen *g, u8 *mark, u32 site)
{
    g->cold[new_cold(g, mark, COLD_SITE)].site = site;
}

void bt_cold_side(struct bt_gen *g, u8 *mark, u64 target)
{
    g->cold[new_cold(g, mark, COLD_SIDE)].target = target;
}

void bt_cold_twin(struct bt_gen *g, u8 *mark, bool flags_in_memory)
{
    g->cold[new_cold(g, mark, COLD_TWIN)].flags_in_memory = flags_in_memory;
}

/* --- head --- */

static void miss_unless_zero(struct bt_gen *g, enum bt_site_kind kind)
{
    u8 *ok = emit_jrcxz(&g->e);
    u8 *mark = emit_jmp32(&g->e);
    emit_here8(&g->e, ok);
    bt_cold(g, mark, bt_site(g, kind, 0));
}

/* RCX - va */
static void compare_address(struct bt_gen *g)
{
    u64 minus = 0 - g->b->va;
    if (minus == (u64)(s64)(s32)minus) {
        emit_lea(&g->e, SCRATCH_A, AT(SCRATCH_A, (s32)minus));
    } else {
        bt_moves_minus(g, SCRATCH_B, g->b->va);
        emit_lea(&g->e, SCRATCH_A, (struct haddr){SCRATCH_A, SCRATCH_B, 0, 0});
    }
    miss_unless_zero(g, SITE_RESTART);
}

/* A negative budget: its upper half is not 0. Events make it so (bt_attention). */
static void poll(struct bt_gen *g)
{
    emit_load32(&g->e, SCRATCH_A, AT(H_RSP, ST(left) + 4));
    miss_unless_zero(g, SITE_POLL);
}

/* left += by, no flags touched. */
static void add_left(struct bt_gen *g, s32 by)
{
    if (!by)
        return;
    struct emit *e = &g->e;
    emit_load(e, SCRATCH_A, AT_ST(left));
    emit_lea(e, SCRATCH_A, AT(SCRATCH_A, by));
    emit_store(e, AT_ST(left), SCRATCH_A);
}

static void count(struct bt_gen *g)
{
    if (!bt_flags_count_cheap(g)) {
        add_left(g, -(s32)g->n);
        return;
    }
    emit_mem(&g->e, true, 0x83, 5, AT_ST(left)); /* sub qword [left], imm8 */
    put8e(&g->e, g->n);
    g->flags_ok = false;
}

static u8 units_used(const struct bt_gen *g)
{
    u8 units = 0;
    for (unsigned i = 0; i < g->n; i++) {
        const struct isa_insn *insn = &g->insn[i];
        bool x87 = bt_uses_x87(insn);
        if (insn->cls != ISA_INNOCUOUS || (x87 && !(g->b->key & BK_X87)) || bt_x87_left(insn))
            continue;
        units |= (x87 ? BT_UNIT_X87 : 0) | (bt_uses_vectors(insn) ? BT_UNIT_VECTORS : 0);
    }
    return units;
}

static void load_unit(struct bt_gen *g, struct haddr missing, const u8 *load)
{
    emit_movzx8_mem(&g->e, SCRATCH_A, missing);
    u8 *ok = emit_jrcxz(&g->e);
    emit_call(&g->e, load);
    emit_here8(&g->e, ok);
}

static void load_units(struct bt_gen *g)
{
    if (g->b->units & BT_UNIT_X87)
        load_unit(g, AT_ST(x87_missing), g->bt->x87_load);
    if (g->b->units & BT_UNIT_VECTORS)
        load_unit(g, AT_ST(vec_missing), g->bt->vec_load);
}

/* The next page must still be the one whose bytes were translated. */
static void check_second(struct bt_gen *g)
{
    u64 va = g->b->va + g->b->bytes;
    s32 exec = ST(tlb) + (s32)((g->b->key & BK_CONTEXT) * sizeof(struct tlb_tables) +
                               offsetof(struct tlb_tables, exec) + tlb_index(va) * sizeof(u64));
    emit_load(&g->e, SCRATCH_A, AT(H_RSP, exec));
    emit_mov_imm(&g->e, SCRATCH_B, 0 - tlb_exec_key(va, g->second));
    emit_lea(&g->e, SCRATCH_A, (struct haddr){SCRATCH_A, SCRATCH_B, 0, 0});
    miss_unless_zero(g, SITE_CROSS);
}

static void head(struct bt_gen *g)
{
    compare_address(g);
    g->off_poll = emit_offset(&g->e);
    poll(g);
    g->off_body = emit_offset(&g->e);
    if (g->second != BT_NO_PAGE)
        check_second(g);
    load_units(g);
}

/* --- body --- */

void bt_callout(struct bt_gen *g, enum bt_site_kind kind)
{
    const struct isa_insn *insn = &g->insn[g->i];
    u32 site = bt_site(g, kind, kind == SITE_CALLOUT ? bt_quick_arg(g, insn) : 0);
    site_operand(g, &g->sites[site & 0xff], &insn->mem, insn->addr_size);
    emit_push_imm(&g->e, site);
    emit_jmp(&g->e, g->bt->slow);
    bt_how(g, kind == SITE_MONITOR ? HOW_MONITOR : HOW_CALLOUT);
    g->ends = kind == SITE_MONITOR;
}

/* Does it end a block whatever is made of it? */
static bool ends_block(const struct bt_gen *g, const struct isa_insn *insn)
{
    return insn->cls != ISA_INNOCUOUS || insn->mnemonic == ZYDIS_MNEMONIC_BOUND ||
           insn->mnemonic == ZYDIS_MNEMONIC_ARPL || bt_missing(g, insn);
}

/* What a failed attempt must not leave behind. */
struct mark {
    u8 *p;
    unsigned n_cold, n_sites, n_exits, n_relocs, shadow;
    bool flags_ok, saved_ok, full, overflow;
    s32 held;
    struct bt_group groups[BT_GROUPS];
};

static struct mark mark(const struct bt_gen *g)
{
    struct mark m = {.p = g->e.p, .n_cold = g->n_cold, .n_sites = g->n_sites, .n_exits = g->n_exits};
    m.shadow = g->shadow, m.n_relocs = g->n_relocs;
    m.flags_ok = g->flags_ok, m.saved_ok = g->saved_ok, m.full = g->e.full, m.overflow = g->overflow;
    m.held = g->held;
    memcpy(m.groups, g->groups, sizeof(m.groups));
    return m;
}

static void undo(struct bt_gen *g, const struct mark *m)
{
    g->e.p = m->p, g->e.full = m->full;
    g->n_cold = m->n_cold, g->n_sites = m->n_sites, g->n_exits = m->n_exits, g->shadow = m->shadow,
    g->n_relocs = m->n_relocs;
    g->flags_ok = m->flags_ok, g->saved_ok = m->saved_ok, g->overflow = m->overflow;
    g->held = m->held;
    memcpy(g->groups, m->groups, sizeof(g->groups));
}

/* An absolute address for which struct bt_site has no room (MOV with an offset of 64 bits). */
static bool out_of_range(const struct isa_insn *insn)
{
    return insn->addr_size == 8 && insn->mem.disp != (s32)insn->mem.disp;
}

typedef bool (*translate_fn)(struct bt_gen *g, const struct isa_insn *insn);

static void instruction(struct bt_gen *g)
{
    static const translate_fn ways[] = {bt_flow, bt_stack, bt_system, bt_copy};
    const struct isa_insn *insn = &g->insn[g->i];
    struct bt_map *m = &bt_maps(g->b)[g->i];
    m->guest = (u16)(g->rip - g->b->va);
    m->host = emit_offset(&g->e);
    m->grouped = bt_grouped(g);
    struct mark before = mark(g);
    bool done = false;
    for (unsigned w = 0; w < ARRAY_LEN(ways) && !done && !bt_missing(g, insn) && !out_of_range(insn); w++) {
        done = ways[w](g, insn);
        if (!done)
            undo(g, &before);
    }
    m->flags_in_memory = g->saved_ok;
    if (done) {
        bt_flags_after(g, insn);
        bt_groups_after(g, insn);
        g->ends = g->ends || (insn->cls == ISA_CONTROL && g->i + 1 == g->n);
    } else {
        bool on = !ends_block(g, insn) || (bt_system_reads(insn) && !bt_missing(g, insn));
        bt_callout(g, on ? SITE_CALLOUT : SITE_MONITOR);
        g->flags_ok = g->saved_ok = true;
        bt_groups_end(g);
        g->stack_shift = 0;
    }
    g->rip = g->i + 1 < g->n ? g->b->va + g->off[g->i + 1] : g->rip + insn->len;
}

/*
 * Cold code lies at the far end of the region, so that hot code is dense: push site; jmp slow. What comes here with another
 * address than the block's puts it together again first.
 */
/* Bytes of each kind, with what is there at most: */
#define SITE_ROOM    10u /* push site; jmp slow */
#define RESTART_ROOM 19u
#define SIDE_ROOM    (14u + 8 + SITE_ROOM) /* budget; jump, aligned; the site of its link */
#define CHECK_ROOM   41u                   /* of another page */
#define TWIN_ROOM    (SIDE_ROOM + 14)      /* the flags */

/* Out of the middle of the block: the instructions behind the jump do not run. */
static void side_exit(struct bt_gen *g, unsigned i)
{
    g->i = g->cold[i].insn;
    add_left(g, (s32)bt_counted(g->b, g->i) - (s32)g->i - 1);
    bt_exit_to(g, g->cold[i].target);
}

/* On in the twin, which expects the flags in EFLAGS; this instruction is its first. */
static void twin_exit(struct bt_gen *g, unsigned i)
{
    struct emit *e = &g->e;
    g->i = g->cold[i].insn;
    add_left(g, (s32)bt_counted(g->b, g->i) - (s32)g->i);
    if (g->cold[i].flags_in_memory) {
        emit_mov(e, SCRATCH_A, H_RAX);
        emit_movzx16_mem(e, H_RAX, AT_ST(arith));
        emit_sahf(e);
        emit_mov(e, H_RAX, SCRATCH_A);
    }
    bt_exit_to_twin(g, g->b->va + bt_maps(g->b)[g->i].guest);
}

static void cold_part(struct bt_gen *g, unsigned i, u32 at)
{
    struct bt *bt = g->bt;
    struct emit *e = &g->e;
    u32 site = g->cold[i].site;
    if (!e->full)
        emit_here32(e, g->cold[i].mark);
    if (g->cold[i].kind != COLD_SITE) {
        (g->cold[i].kind == COLD_SIDE ? side_exit : twin_exit)(g, i);
        return;
    }
    const struct bt_site *s = &g->sites[site & 0xff];
    if (s->kind == SITE_LINK)
        g->exit[s->arg].stub = at + emit_offset(e);
    if (s->kind == SITE_RESTART) {
        bt_moves_value(g, SCRATCH_B, g->b->va);
        emit_lea(e, SCRATCH_A, (struct haddr){SCRATCH_A, SCRATCH_B, 0, 0});
        emit_jmp(e, bt->hash_miss);
    } else {
        emit_push_imm(e, site);
        emit_jmp(e, bt->slow);
    }
}

static u32 cold_room(const struct bt_gen *g)
{
    u32 room = 0;
    for (unsigned i = 0; i < g->n_cold; i++) {
        switch (g->cold[i].kind) {
        case COLD_SITE:
            room += g->sites[g->cold[i].site & 0xff].kind == SITE_RESTART ? RESTART_ROOM : SITE_ROOM;
            break;
        case COLD_SIDE:
            room += SIDE_ROOM + ((g->cold[i].target ^ g->b->va) >= PAGE_SIZE ? CHECK_ROOM : 0);
            break;
        case COLD_TWIN:
            room += TWIN_ROOM;
            break;
        }
    }
    return room;
}

static void cold_code(struct bt_gen *g)
{
    struct bt *bt = g->bt;
    struct bt_region *r = &bt->regions[bt->region];
    u32 at = (r->cold - cold_room(g)) & ~3u;
    if (at < g->b->code + CODE_MAX) {
        g->overflow = true;
        return;
    }
    struct emit hot = g->e;
    g->e = (struct emit){
        .start = bt->code.rw + at, .p = bt->code.rw + at, .end = bt->code.rw + r->cold, .rx = bt->code.rx + at};
    g->cold_at = at;
    for (unsigned i = 0; i < g->n_cold; i++) /* side exits add links to the list */
        cold_part(g, i, at);
    hot.full |= g->e.full;
    g->e = hot;
}

/* --- the block --- */

/* The one instruction that begins here and ends in the next page. False: that page can not be fetched now. */
static bool decode_crossing(struct bt_gen *g, const u8 *host)
{
    u8 bytes[ISA_MAX_LEN];
    int result;
    struct bt_block *b = g->b;
    unsigned head = PAGE_SIZE - (unsigned)(b->start & (PAGE_SIZE - 1));
    if (head >= ISA_MAX_LEN)
        return true;
    const u8 *next = tlb_fetch(&g->bt->ip, b->va + head, &result);
    if (!next)
        return false;
    struct interp *ip = &g->bt->ip;
    u64 second = (u64)(next - ip->mem->ram) >> PAGE_SHIFT;
    do { /* tracing the one may have to drop the other's trace */
        blocks_trace_page(ip, second);
        blocks_trace_page(ip, b->start >> PAGE_SHIFT);
    } while (!blocks_traced(ip, second));
    memcpy(bytes, host, head);
    memcpy(bytes + head, next, ISA_MAX_LEN - head);
    if (bt_decode(b->key, bytes, ISA_MAX_LEN, &g->insn[0]) != ISA_DECODE_OK || g->insn[0].len <= head) {
        blocks_untrace_page(ip, second);
        return true;
    }
    g->second = (u64)(next - g->bt->ip.mem->ram);
    b->bytes = (u16)head;
    g->n = b->n = 1;
    return true;
}

/* From the first instruction's start to the last one's end. */
static u16 guest_bytes(const struct bt_gen *g)
{
    return g->n ? (u16)(g->off[g->n - 1] + g->insn[g->n - 1].len) : 0;
}

/* Decode up to the end of the page, of the block, or to what does not decode. */
static void decode(struct bt_gen *g, const u8 *host)
{
    unsigned room = PAGE_SIZE - (unsigned)(g->b->start & (PAGE_SIZE - 1)), off = 0;
    unsigned max = g->bt->ip.cfg.test & ENGINE_TEST_SINGLE ? 1 : BT_BLOCK_INSNS;
    unsigned sides = 0;
    bool end = false;
    while (!end && g->n < max && off < MIN(room, BT_BLOCK_BYTES)) {
        struct isa_insn *insn = &g->insn[g->n];
        if (bt_decode(g->b->key, host + off, MIN(room - off, (unsigned)ISA_MAX_LEN), insn) != ISA_DECODE_OK)
            break;
        g->off[g->n] = (u16)off;
        g->n++;
        bool taken = false, on = bt_flow_goes_on(g, insn, off, &sides, &taken);
        g->taken[g->n - 1] = taken;
        off += insn->len + (taken ? (unsigned)insn->imm : 0);
        end = (ends_block(g, insn) && !bt_system_goes_on(g, insn) && !on) ||
              (g->n > 1 && insn[-1].mnemonic == ZYDIS_MNEMONIC_STI);
    }
    g->b->bytes = guest_bytes(g);
    g->b->n = (u8)g->n;
}

static unsigned lookups_of(const struct isa_insn *insn)
{
    unsigned n = 0;
    for (unsigned i = 0; i < insn->n_ops; i++)
        n += insn->op[i].kind == ISA_OP_MEM && insn->op[i].size;
    return n;
}

static struct bt_block *new_block(struct bt *bt, u64 va, u64 start, u8 key)
{
    struct bt_region *r = &bt->regions[bt->region];
    struct bt_block *b = bt_meta(bt, sizeof(*b));
    *b = (struct bt_block){.va = va, .start = start, .key = key, .region = (u8)bt->region};
    b->index = bt->next_index & ((1u << BT_TABLE_BITS) - 1);
    b->code = r->code_used;
    return b;
}

/* All is written: the block gets what it keeps, code memory what is used. */
static void finish(struct bt_gen *g)
{
    struct bt *bt = g->bt;
    struct bt_block *b = g->b;
    struct bt_region *r = &bt->regions[bt->region];
    b->code_len = (u16)emit_offset(&g->e);
    b->at_poll = (u16)g->off_poll;
    b->at_body = (u16)g->off_body;
    b->fixed = g->fixed || !g->n;
    b->n_sites = (u8)g->n_sites;
    b->n_relocs = b->fixed ? 0 : (u8)g->n_relocs;
    b->n_exits = (u8)g->n_exits;
    size_t sites = g->n_sites * sizeof(*g->sites), relocs = b->n_relocs * sizeof(*g->relocs);
    u8 *rest = bt_meta(bt, sites + relocs + g->n_exits * sizeof(struct bt_exit));
    b->rest = (u16)(rest - (u8 *)b);
    memcpy(bt_sites(b), g->sites, sites);
    memcpy(bt_relocs(b), g->relocs, relocs);
    for (unsigned i = 0; i < g->n_exits; i++)
        bt_exits(b)[i] = (struct bt_exit){.target = (s32)(g->exit[i].target - b->va),
                                          .owner = bt_ref_of(bt, b),
                                          .check = g->exit[i].check ? (u32)(g->exit[i].check - bt->code.rw) : 0,
                                          .polls = g->shadow != 0,
                                          .twin = g->exit[i].twin,
                                          .field = g->exit[i].field ? (u32)(g->exit[i].field - bt->code.rw) : 0,
                                          .stub = g->exit[i].stub};
    if (g->second != BT_NO_PAGE) {
        struct bt_second *second = bt_meta(bt, sizeof(*second));
        *second = (struct bt_second){.ram = g->second};
        b->second = bt_ref_of(bt, second);
    }
    r->code_used += (b->code_len + 15u) & ~15u;
    r->cold = g->cold_at ? g->cold_at : r->cold;
    bt->blocks[b->index] = bt_ref_of(bt, b);
    bt->next_index++;
    r->n_blocks++;
}

static bool write_code(struct bt_gen *g)
{
    g->flags_ok = true;
    head(g);
    g->rip = g->b->va;
    for (g->i = 0; g->i < g->n; g->i++) {
        if (g->i == g->b->counted)
            count(g);
        instruction(g);
    }
    g->i = g->n ? g->n - 1 : 0;
    if (!g->ends)
        bt_exit_to(g, g->rip);
    bt_maps(g->b)[g->n] = (struct bt_map){.guest = (u16)(g->rip - g->b->va), .host = emit_offset(&g->e)};
    cold_code(g);
    return !g->e.full && !g->overflow;
}

/* With fewer instructions if it came out too long. */
static bool write_block(struct bt_gen *g)
{
    struct bt *bt = g->bt;
    struct bt_region *r = &bt->regions[bt->region];
    while (true) {
        g->e = (struct emit){.start = bt->code.rw + g->b->code,
                             .p = bt->code.rw + g->b->code,
                             .end = bt->code.rw + MIN(g->b->code + CODE_MAX, r->cold),
                             .rx = bt->code.rx + g->b->code};
        g->n_cold = g->n_sites = g->n_exits = 0;
        g->overflow = g->ends = g->saved_ok = false;
        g->shadow = 0;
        bt_moves_begin(g);
        bt_groups_end(g);
        g->next_group = g->twins = 0;
        g->stack_shift = 0;
        for (unsigned i = 0; i < g->n; i++)
            g->lookups[i] = (u8)lookups_of(&g->insn[i]);
        g->b->n = (u8)g->n;
        g->b->units = units_used(g);
        bt_flags_scan(g);
        g->b->counted = (u8)bt_flags_count_at(g);
        if (write_code(g))
            return true;
        if (g->n <= 1)
            return false;
        g->n /= 2;
        g->b->bytes = guest_bytes(g);
    }
}

struct bt_block *bt_translate(struct bt *bt, u64 va, u64 start, u8 key)
{
    struct bt_gen *g = &bt->gen;
    if (((key & BK_COMPAT) && va >= BT_COMPAT_END) || !bt_room(bt, CODE_MAX + COLD_MAX, META_MAX))
        return NULL;
    *g = (struct bt_gen){.bt = bt, .second = BT_NO_PAGE};
    size_t meta = bt->regions[bt->region].meta_used;
    g->b = new_block(bt, va, start, key);
    blocks_trace_page(&bt->ip, start >> PAGE_SHIFT);
    decode(g, bt->ip.mem->ram + start);
    if (!g->n && !decode_crossing(g, bt->ip.mem->ram + start)) {
        bt->regions[bt->region].meta_used = meta; /* not worth remembering: it may be there the next time */
        blocks_untrace_page(&bt->ip, start >> PAGE_SHIFT);
        return NULL;
    }
    memset(bt_meta(bt, (g->n + 1) * sizeof(struct bt_map)), 0, (g->n + 1) * sizeof(struct bt_map));
    if (g->n && !write_block(g))
        g->n = g->b->n = 0;
    if (!g->n) { /* for the interpreter; still known, so that it is not tried again and again */
        g->e = (struct emit){0};
        g->n_sites = g->n_exits = 0;
        g->off_poll = g->off_body = g->cold_at = 0;
    }
    finish(g);
    if (bt_publish(bt, g->b))
        return g->b;
    g->b->dead = true;
    blocks_untrace_page(&bt->ip, start >> PAGE_SHIFT);
    return NULL;
}
