/*
 * What a look-up that missed asks first: fill the TLB. Compiled with general registers only, as is all that it calls: the
 * guest's vectors are in the host's registers.
 */
#include "engine/bt/bt_internal.h"

/* Linear address of the access. */
static u64 address(const struct cpu *c, const struct bt_site *s)
{
    u64 a = s->disp;
    if (s->base != ISA_NO_REG)
        a += c->gpr[s->base & 15];
    if (s->index != ISA_NO_REG)
        a += c->gpr[s->index & 15] << s->shift;
    if (s->addr32)
        a = (u32)a;
    return s->seg == SEG_FS || s->seg == SEG_GS ? a + c->seg[s->seg].base : a;
}

static bool hits(struct interp *ip, const struct bt_site *s)
{
    u64 va = address(ip->cpu, s);
    return s->write ? tlb_write_ptr(ip, va, s->size) : tlb_read_ptr(ip, va, s->size);
}

/*
 * Would all other accesses of the instruction hit? If filling for the one drove out another's entry, starting again
 * would go on for ever.
 */
static bool others_hit(struct interp *ip, const struct bt_block *b, const struct bt_site *s)
{
    for (const struct bt_site *o = b->sites; o < b->sites + b->n_sites; o++)
        if (o != s && o->insn == s->insn && o->kind == SITE_MISS &&
            tlb_index(address(ip->cpu, o)) == tlb_index(address(ip->cpu, s)) && !hits(ip, o))
            return false;
    return true;
}

const u8 *bt_refill(struct bt_state *st, u32 number)
{
    struct bt *bt = st->bt;
    bt_sync(bt);
    if (number == BT_NO_SITE)
        return NULL;
    const struct bt_block *b = bt->blocks[number >> 8 & ((1u << BT_TABLE_BITS) - 1)];
    const struct bt_site *s = &b->sites[number & 0xff];
    if (s->kind != SITE_MISS)
        return NULL;
    bt->stats.tlb_misses++;
    const struct bt_map *m = &b->map[s->insn];
    if (m->flags_in_memory)
        bt->ip.cpu->arith = st->arith;
    if (!tlb_refill(&bt->ip, address(bt->ip.cpu, s), s->size, s->write) || !others_hit(&bt->ip, b, s))
        return NULL;
    return bt->code.rx + b->code + m->host;
}
