/*
 * Translations that follow their code to another linear address.
 *
 * Each process that runs a program maps it, and its libraries, somewhere else. So the blocks of a RAM page are kept by
 * *view*: a linear page under which it is executed. When the page is to run at an address that has no view yet, and there
 * are VIEWS_MAX already, the view that was used longest ago becomes the new one: its blocks are changed in place where they
 * hold an address (struct bt_reloc), which costs a tenth of translating them and no room in the cache. The views left over are
 * those of processes that have ended, more often than not. Jumps within the view stay linked, all others are undone.
 *
 * Only code of user mode moves, between addresses where every address in it takes eight bytes and stays canonical: from
 * MOVE_LOW to MOVE_HIGH. A block with an address of another form (`fixed`), or one that runs over the page's end, is dropped when
 * its view moves.
 *
 * What must stay true
 *  1. Whatever is written with the block's address in it, or with one relative to it, is listed by bt_moves_*, or makes the
 *     block fixed.
 *  2. A view moves only while no code of its blocks is about to be continued.
 */
#include "engine/bt/bt_internal.h"

#define VIEWS_MAX 2u
#define MOVE_LOW  (8ull << 30)
#define MOVE_HIGH (0x800000000000ull - MOVE_LOW)

enum reloc_kind {
    RELOC_ADD,   /* 8 bytes: an address */
    RELOC_MINUS, /* 8 bytes: an address, negated */
    RELOC_PAGE,  /* 4 bytes: displacement of an entry of the TLB */
    RELOC_HASH,  /* 4 bytes: displacement of a slot of the hash of targets */
};

/* --- when a block is written --- */

static bool can_move(u64 va)
{
    return va >= MOVE_LOW && va < MOVE_HIGH;
}

static void note(struct bt_gen *g, enum reloc_kind kind, unsigned size, u64 index)
{
    if (g->n_relocs == ARRAY_LEN(g->relocs)) {
        g->fixed = true;
        return;
    }
    g->relocs[g->n_relocs++] =
        (struct bt_reloc){.at = (u32)(g->e.p - g->bt->code.rw) - size, .kind = (u8)kind, .index = (u16)index};
}

void bt_moves_begin(struct bt_gen *g)
{
    g->n_relocs = 0;
    g->fixed = !can_move(g->b->va) || (g->b->key & BK_CONTEXT) != TLB_USER || g->second != BT_NO_PAGE;
}

static void put_value(struct bt_gen *g, unsigned reg, u64 value, enum reloc_kind kind)
{
    if (g->fixed) {
        emit_mov_imm(&g->e, reg, value);
        return;
    }
    emit_mov_imm64(&g->e, reg, value);
    note(g, kind, 8, 0);
}

void bt_moves_value(struct bt_gen *g, unsigned reg, u64 value)
{
    put_value(g, reg, value, RELOC_ADD);
}

void bt_moves_minus(struct bt_gen *g, unsigned reg, u64 value)
{
    put_value(g, reg, 0 - value, RELOC_MINUS);
}

void bt_moves_page(struct bt_gen *g, u64 va)
{
    if (!g->fixed)
        note(g, RELOC_PAGE, 4, tlb_index(va));
}

void bt_moves_hash(struct bt_gen *g, u64 va)
{
    if (!g->fixed)
        note(g, RELOC_HASH, 4, bt_hash_set(va));
}

/* --- views --- */

struct bt_view *bt_view(struct bt *bt, u64 va, u64 ram)
{
    struct bt_view *v = bt->views[ram >> PAGE_SHIFT];
    while (v && v->va != (va & PAGE_MASK))
        v = v->next;
    if (v || !bt->free_views)
        return v;
    v = bt->free_views;
    bt->free_views = v->next;
    *v = (struct bt_view){.va = va & PAGE_MASK, .ram = ram >> PAGE_SHIFT, .next = bt->views[ram >> PAGE_SHIFT]};
    bt->views[ram >> PAGE_SHIFT] = v;
    return v;
}

void bt_view_drop(struct bt *bt, struct bt_view *v)
{
    struct bt_view **p = &bt->views[v->ram];
    while (*p != v)
        p = &(*p)->next;
    *p = v->next;
    v->next = bt->free_views;
    bt->free_views = v;
}

/* --- moving --- */

static void add64(u8 *at, u64 by)
{
    u64 v;
    memcpy(&v, at, 8);
    v += by;
    memcpy(at, &v, 8);
}

/* The entry of a table that a displacement leads to: another one of `mask` + 1. */
static void add_index(u8 *at, struct bt_reloc *r, u64 by, u32 mask)
{
    u32 disp, index = (u32)(r->index + by) & mask;
    memcpy(&disp, at, 4);
    disp += (index - r->index) * (u32)sizeof(u64);
    memcpy(at, &disp, 4);
    r->index = (u16)index;
}

static void apply(struct bt *bt, struct bt_reloc *r, u64 by)
{
    u8 *at = bt->code.rw + r->at;
    switch ((enum reloc_kind)r->kind) {
    case RELOC_ADD:
        add64(at, by);
        break;
    case RELOC_MINUS:
        add64(at, 0 - by);
        break;
    case RELOC_PAGE:
        add_index(at, r, by >> PAGE_SHIFT, TLB_SIZE - 1);
        break;
    case RELOC_HASH:
        add_index(at, r, by >> 2, BT_HASH_SIZE - 1);
        break;
    }
}

/* Only jumps inside the view stay linked: its other page and this one may part. */
static void unlink_others(struct bt *bt, struct bt_block *b)
{
    bt_ref_t next;
    for (bt_ref_t at = b->in; at; at = next) {
        struct bt_exit *x = bt_at(bt, at);
        next = x->next;
        if (x->check)
            bt_unlink(bt, x);
    }
    for (unsigned i = 0; i < b->n_exits; i++)
        if (bt_exits(b)[i].check)
            bt_unlink(bt, &bt_exits(b)[i]);
}

static void move_block(struct bt *bt, struct bt_block *b, u64 by)
{
    bt_hash_drop(bt, b);
    unlink_others(bt, b);
    bt_chain_remove(bt, b);
    b->va += by;
    bt_chain_add(bt, b);
    for (unsigned i = 0; i < b->n_relocs; i++)
        apply(bt, &bt_relocs(b)[i], by);
}

/* Some block of the view can be moved, so that killing the others does not empty it. */
static void move_view(struct bt *bt, struct bt_view *v, u64 va)
{
    u64 by = va - v->va;
    bt_ref_t next;
    for (bt_ref_t at = v->refs; at; at = next) {
        const struct bt_ref *r = bt_at(bt, at);
        struct bt_block *b = bt_at(bt, r->block);
        next = r->next;
        if (b->fixed)
            bt_kill(bt, b);
        else
            move_block(bt, b, by);
    }
    v->va = va;
    bt->stats.views_moved++;
}

static bool movable(const struct bt *bt, const struct bt_view *v)
{
    for (bt_ref_t at = v->refs; at;) {
        const struct bt_ref *r = bt_at(bt, at);
        if (!((const struct bt_block *)bt_at(bt, r->block))->fixed)
            return true;
        at = r->next;
    }
    return false;
}

bool bt_move_here(struct bt *bt, u64 va, u64 ram, const struct bt_block *busy)
{
    struct bt_view *oldest = NULL;
    unsigned n = 0;
    va &= PAGE_MASK;
    if (!can_move(va) || (bt->st->key & BK_CONTEXT) != TLB_USER)
        return false;
    for (struct bt_view *v = bt->views[ram >> PAGE_SHIFT]; v; v = v->next) {
        if (v->va == va)
            return false;
        n++;
        if (!oldest || v->used < oldest->used)
            oldest = v;
    }
    if (n < VIEWS_MAX || (busy && bt_view_of(bt, busy) == oldest) || !movable(bt, oldest))
        return false;
    move_view(bt, oldest, va);
    return true;
}
