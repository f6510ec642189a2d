/*
 * The code cache: blocks, where they are found, how they are joined, and how they go away.
 *
 * Code memory is one memfd under two mappings (host.h), cut into regions; so is the memory of the blocks' descriptions. One
 * region is filled from its start; when it is full the next one, the oldest, is emptied and filled. Emptying takes
 * the region's blocks out of the tables and undoes the jumps into them; the other regions stay. Nothing stops for it but
 * the vCPU that needs room: a cache belongs to one vCPU.
 *
 * A block is found by RAM offset, linear address and key; listed by RAM page, for writes to it; and may stand in the hash of
 * jump targets of its context.
 *
 * What must stay true
 *  1. A block in the tables has its page traced. A write to the page kills the blocks that it touches: their code stays where
 *     it is, so a block that overwrites itself can be left in order, but nothing leads there any more.
 *  2. Direct jumps are joined between blocks of one key, within one RAM page, or behind a comparison that says that the
 *     target's page is in the TLB, and which: whoever gets there may execute the other block.
 *  3. Code is patched by the one thread that runs it, while it does not: so the field of a jump may lie anywhere.
 *  4. The hash of a context holds blocks that were entered under the present TLB entries of their pages; it is cleared or
 *     picked when those go (flushed in run.c), and cleared when another key than theirs comes into force (set_key there).
 */
#include "engine/bt/bt_internal.h"

#include <errno.h>
#include <stdlib.h>

#define THUNKS       (8u << 10)
#define CACHE_PRESET (28u << 20)
#define CACHE_LARGE  (4u << 20) /* from here on, many regions */
#define CACHE_AMPLE  (8u << 20) /* below, code must be hotter to be worth its room */
#define HOT_RUNS     16u        /* times that code is interpreted before it is translated */
#define CACHE_MIN    (256u << 10)
#define META_HEAD    8u /* no ref is 0 */

static u64 chain_of(u64 va, u64 start, u8 key)
{
    return ((start ^ (u64)key << 52 ^ va << 20) * 0x9e3779b97f4a7c15ull) >> (64 - BT_CHAIN_BITS);
}

int bt_cache_init(struct bt *bt, size_t size, struct error *e)
{
    size = size ? MAX(size, CACHE_MIN) : CACHE_PRESET;
    bt->hot_runs = size >= CACHE_AMPLE ? HOT_RUNS : (u32)(HOT_RUNS * CACHE_AMPLE / size);
    bt->n_regions = size >= CACHE_LARGE ? BT_REGIONS : BT_REGIONS / 4;
    size_t code = size * 11 / 20 / bt->n_regions & ~(size_t)4095, meta = size * 9 / 20 / bt->n_regions & ~(size_t)4095;
    int r = host_code_create(&bt->code, THUNKS + code * bt->n_regions, e);
    if (r < 0)
        return r;
    bt->blocks = calloc(1u << BT_TABLE_BITS, sizeof(*bt->blocks));
    bt->chains = calloc(1u << BT_CHAIN_BITS, sizeof(*bt->chains));
    bt->views = calloc(bt->ip.mem->size >> PAGE_SHIFT, sizeof(*bt->views));
    bt->view_memory = host_map_anonymous(BT_VIEWS * sizeof(*bt->view_memory), e);
    bt->meta_size = META_HEAD + meta * bt->n_regions;
    bt->meta = host_map_anonymous(bt->meta_size, e);
    if (!bt->blocks || !bt->chains || !bt->views || !bt->view_memory || !bt->meta)
        return error_set(e, ENOMEM, "binary translation: no memory for its code cache; choose a smaller --code-cache");
    for (unsigned i = 0; i < bt->n_regions; i++)
        bt->regions[i] = (struct bt_region){.code = (u32)(THUNKS + i * code),
                                            .code_end = (u32)(THUNKS + (i + 1) * code),
                                            .code_used = (u32)(THUNKS + i * code),
                                            .cold = (u32)(THUNKS + (i + 1) * code),
                                            .meta = bt->meta + META_HEAD + i * meta,
                                            .meta_size = meta};
    for (unsigned i = BT_VIEWS; i-- > 0;) {
        bt->view_memory[i].next = bt->free_views;
        bt->free_views = &bt->view_memory[i];
    }
    bt->stats.code_limit = code * bt->n_regions;
    return 0;
}

void bt_cache_fini(struct bt *bt)
{
    host_unmap(bt->meta, bt->meta_size);
    host_code_destroy(&bt->code);
    free(bt->blocks);
    free(bt->chains);
    free(bt->views);
    host_unmap(bt->view_memory, BT_VIEWS * sizeof(*bt->view_memory));
}

/* --- the hash of jump targets --- */

static const u8 *entry(const struct bt *bt, const struct bt_block *b)
{
    return bt->code.rx + b->code;
}

/* The slots of a page are neighbours: a group of them, with a bit for each that may be in use. */
static void clear_group(struct bt *bt, unsigned context, unsigned group)
{
    const u8 **slot = &bt->st->hash[context][group * BT_HASH_GROUP];
    u64 *used = &bt->hash_used[context][group * BT_HASH_GROUP / 64];
    for (unsigned w = 0; w < BT_HASH_GROUP / 64; w++)
        for (; used[w]; used[w] &= used[w] - 1)
            slot[w * 64 + (unsigned)__builtin_ctzll(used[w])] = bt->hash_miss;
    bt->hash_groups[context] &= ~(1u << group);
}

void bt_hash_clear(struct bt *bt, unsigned context)
{
    bt->hash_local[context] = false;
    while (bt->hash_groups[context])
        clear_group(bt, context, (unsigned)__builtin_ctz(bt->hash_groups[context]));
}

void bt_hash_drop_page(struct bt *bt, unsigned context, u64 va)
{
    unsigned group = bt_hash_set(va & PAGE_MASK) / BT_HASH_GROUP;
    if (bt->hash_groups[context] >> group & 1)
        clear_group(bt, context, group);
}

void bt_hash_drop(struct bt *bt, const struct bt_block *b)
{
    const u8 **slot = &bt->st->hash[b->key & BK_CONTEXT][bt_hash_set(b->va)];
    if (*slot == entry(bt, b))
        *slot = bt->hash_miss;
}

static bool page_is_global(const struct interp *ip, unsigned context, u64 va)
{
    const struct tlb_journal *j = &ip->journal[context];
    u16 slot = j->slot[1][tlb_index(va)];
    return slot && (j->used[slot - 1].kind & TLB_GLOBAL);
}

void bt_hash_put(struct bt *bt, const struct bt_block *b)
{
    unsigned context = b->key & BK_CONTEXT;
    u32 set = bt_hash_set(b->va);
    bt->hash_used[context][set / 64] |= BIT(set % 64);
    bt->hash_groups[context] |= 1u << set / BT_HASH_GROUP;
    bt_view_of(bt, b)->used = ++bt->clock;
    bt->hash_local[context] |= !page_is_global(&bt->ip, context, b->va);
    bt->st->hash[context][set] = entry(bt, b);
}

/* --- jumps between blocks --- */

static void patch(struct bt *bt, u32 field_end, u32 target)
{
    u32 distance = target - field_end;
    memcpy(bt->code.rw + field_end - 4, &distance, sizeof(distance));
}

static bt_ref_t *word(struct bt *bt, bt_ref_t ref)
{
    return bt_at(bt, ref);
}

void bt_link(struct bt *bt, struct bt_exit *x, struct bt_block *to)
{
    const struct bt_block *owner = bt_at(bt, x->owner);
    if (!x->field || x->to || to->dead || owner->dead)
        return;
    bt_view_of(bt, to)->used = ++bt->clock;
    x->to = bt_ref_of(bt, to);
    x->next = to->in;
    x->from = bt_ref_of(bt, &to->in);
    to->in = bt_ref_of(bt, x);
    if (x->next)
        ((struct bt_exit *)bt_at(bt, x->next))->from = bt_ref_of(bt, &x->next);
    if (x->check)
        bt_set_check(bt->code.rw + x->check, to);
    bool polls = !x->twin && (x->polls || to->va <= owner->va);
    patch(bt, x->field, to->code + (polls ? to->at_poll : to->at_body));
    bt->stats.links++;
}

void bt_unlink(struct bt *bt, struct bt_exit *x)
{
    if (!x->to)
        return;
    *word(bt, x->from) = x->next;
    if (x->next)
        ((struct bt_exit *)bt_at(bt, x->next))->from = x->from;
    x->to = 0;
    patch(bt, x->field, x->stub);
    if (x->check)
        bt_set_check(bt->code.rw + x->check, NULL);
    bt->stats.unlinks++;
}

static void unlink_all(struct bt *bt, struct bt_block *b)
{
    while (b->in)
        bt_unlink(bt, bt_at(bt, b->in));
    for (unsigned i = 0; i < b->n_exits; i++)
        bt_unlink(bt, &bt_exits(b)[i]);
}

/* --- in and out of the tables --- */

static struct bt_block **recent(struct bt *bt, u64 va)
{
    return &bt->recent[(va ^ va >> PAGE_SHIFT) % BT_RECENT];
}

static bool is_block(const struct bt_block *b, u64 va, u64 start, u8 key)
{
    return b->va == va && b->start == start && b->key == key;
}

struct bt_block *bt_find(struct bt *bt, u64 va, u64 start, u8 key)
{
    struct bt_block *b = *recent(bt, va);
    if (likely(b && is_block(b, va, start, key)))
        return b;
    if (!bt->views[start >> PAGE_SHIFT]) /* most code never gets hot: no need to look further away */
        return NULL;
    for (bt_ref_t at = bt->chains[chain_of(va, start, key)]; at; at = b->hash_next) {
        b = bt_at(bt, at);
        if (is_block(b, va, start, key))
            return *recent(bt, va) = b;
    }
    return NULL;
}

static bool add_to_view(struct bt *bt, struct bt_block *b, struct bt_ref *r, u64 va, u64 ram)
{
    struct bt_view *v = bt_view(bt, va, ram);
    if (!v)
        return false;
    *r = (struct bt_ref){.block = bt_ref_of(bt, b), .view = (u32)(v - bt->view_memory), .next = v->refs};
    if (v->refs)
        ((struct bt_ref *)bt_at(bt, v->refs))->previous = bt_ref_of(bt, r);
    v->refs = bt_ref_of(bt, r);
    v->used = ++bt->clock;
    blocks_trace_page(&bt->ip, ram >> PAGE_SHIFT);
    return true;
}

static void remove_from_view(struct bt *bt, struct bt_ref *r)
{
    struct bt_view *v = &bt->view_memory[r->view];
    if (r->previous)
        ((struct bt_ref *)bt_at(bt, r->previous))->next = r->next;
    else
        v->refs = r->next;
    if (r->next)
        ((struct bt_ref *)bt_at(bt, r->next))->previous = r->previous;
    if (!v->refs)
        bt_view_drop(bt, v);
}

struct bt_block *bt_known(struct bt *bt, u64 va, u8 key)
{
    const struct tlb_tables *t = &bt->ip.tlbs[key & BK_CONTEXT];
    unsigned i = tlb_index(va);
    u64 start = va + t->code[i] - (u64)bt->ip.mem->ram;
    if (!t->exec[i] || t->exec[i] != tlb_exec_key(va, start))
        return NULL;
    struct bt_block *b = bt_find(bt, va, start, key);
    return b && b->n ? b : NULL;
}

void bt_chain_add(struct bt *bt, struct bt_block *b)
{
    bt_ref_t *chain = &bt->chains[chain_of(b->va, b->start, b->key)];
    b->hash_next = *chain;
    *chain = bt_ref_of(bt, b);
}

void bt_chain_remove(struct bt *bt, struct bt_block *b)
{
    bt_ref_t *p = &bt->chains[chain_of(b->va, b->start, b->key)], own = bt_ref_of(bt, b);
    while (*p && *p != own)
        p = &((struct bt_block *)bt_at(bt, *p))->hash_next;
    if (*p)
        *p = b->hash_next;
    if (*recent(bt, b->va) == b)
        *recent(bt, b->va) = NULL;
}

bool bt_publish(struct bt *bt, struct bt_block *b)
{
    struct bt_second *second = bt_second(bt, b);
    if (!add_to_view(bt, b, &b->ref, b->va, b->start))
        return false;
    if (second && !add_to_view(bt, b, &second->ref, b->va + b->bytes, second->ram)) {
        remove_from_view(bt, &b->ref);
        return false;
    }
    bt_chain_add(bt, b);
    bt->stats.blocks_made++;
    bt->stats.block_bytes += b->bytes;
    bt->stats.code_bytes += b->code_len;
    return true;
}

void bt_kill(struct bt *bt, struct bt_block *b)
{
    if (b->dead)
        return;
    b->dead = true;
    bt_chain_remove(bt, b);
    remove_from_view(bt, &b->ref);
    if (b->second)
        remove_from_view(bt, &bt_second(bt, b)->ref);
    unlink_all(bt, b);
    bt_hash_drop(bt, b);
    bt->stats.blocks_dropped++;
}

bool bt_has_code(void *owner, u64 ram_page)
{
    return ((struct bt *)owner)->views[ram_page] != NULL;
}

static bool overlaps(const struct bt_block *b, bool first, unsigned from, unsigned to)
{
    unsigned start = first ? b->start & (PAGE_SIZE - 1) : 0, bytes = first ? MAX(b->bytes, 1u) : ISA_MAX_LEN;
    return start < to && from < start + bytes;
}

/* The first block of a page that has a byte in [from, to). */
static struct bt_block *block_in(const struct bt *bt, u64 ram_page, unsigned from, unsigned to)
{
    for (const struct bt_view *v = bt->views[ram_page]; v; v = v->next)
        for (bt_ref_t at = v->refs; at;) {
            const struct bt_ref *r = bt_at(bt, at);
            struct bt_block *b = bt_at(bt, r->block);
            if (overlaps(b, r == &b->ref, from, to))
                return b;
            at = r->next;
        }
    return NULL;
}

void bt_code_killed(void *owner, u64 ram_page, unsigned from, unsigned to)
{
    struct bt *bt = owner;
    struct bt_block *b;
    while ((b = block_in(bt, ram_page, from, to)))
        bt_kill(bt, b);
}

/* --- room --- */

static void empty(struct bt *bt, struct bt_region *r)
{
    for (u32 i = 0; i < r->n_blocks; i++) {
        struct bt_block *b = bt_numbered(bt, r->first_index + i);
        const struct bt_second *second = bt_second(bt, b);
        bt->stats.code_bytes -= b->code_len;
        bt_kill(bt, b);
        blocks_untrace_page(&bt->ip, b->start >> PAGE_SHIFT);
        if (second)
            blocks_untrace_page(&bt->ip, second->ram >> PAGE_SHIFT);
        bt->blocks[b->index] = 0;
    }
    r->code_used = r->code;
    r->cold = r->code_end;
    r->meta_used = 0;
    r->first_index = bt->next_index;
    r->n_blocks = 0;
}

static bool fits(const struct bt_region *r, size_t code, size_t meta)
{
    return r->cold - r->code_used >= code && r->meta_size - r->meta_used >= meta &&
           r->n_blocks < (1u << BT_TABLE_BITS) / BT_REGIONS;
}

bool bt_room(struct bt *bt, size_t code, size_t meta)
{
    if (fits(&bt->regions[bt->region], code, meta))
        return true;
    bt->region = (bt->region + 1) % bt->n_regions;
    if (bt->regions[bt->region].n_blocks) {
        bt->stats.evictions++;
        empty(bt, &bt->regions[bt->region]);
    }
    bt->regions[bt->region].first_index = bt->next_index;
    return fits(&bt->regions[bt->region], code, meta);
}

void bt_evict(struct bt *bt, unsigned region)
{
    if (!bt->regions[region].n_blocks)
        return;
    bt->stats.evictions++;
    empty(bt, &bt->regions[region]);
}

void *bt_meta(struct bt *bt, size_t size)
{
    struct bt_region *r = &bt->regions[bt->region];
    size = (size + 7) & ~(size_t)7;
    if (r->meta_size - r->meta_used < size)
        return NULL;
    void *p = r->meta + r->meta_used;
    r->meta_used += size;
    return p;
}

void bt_flush(struct bt *bt)
{
    for (unsigned i = 0; i < bt->n_regions; i++)
        empty(bt, &bt->regions[i]);
}

/* --- from code to block --- */

struct bt_block *bt_at_code(struct bt *bt, u32 offset)
{
    for (unsigned i = 0; i < bt->n_regions; i++) {
        const struct bt_region *r = &bt->regions[i];
        if (offset < r->code || offset >= r->code_end)
            continue;
        u32 low = 0, high = r->n_blocks; /* they lie in the order of their numbers */
        while (high - low > 1) {
            u32 middle = (low + high) / 2;
            const struct bt_block *b = bt_numbered(bt, r->first_index + middle);
            if (b->code <= offset)
                low = middle;
            else
                high = middle;
        }
        struct bt_block *b = r->n_blocks ? bt_numbered(bt, r->first_index + low) : NULL;
        return b && offset >= b->code && offset - b->code < b->code_len ? b : NULL;
    }
    return NULL;
}
