/*
 * What a look-up that missed asks first: fill the TLB. Compiled with general registers only, as is all that it calls: the
 * guest's vectors are in the host's registers.
 */
#include "engine/bt/bt_internal.h"

u64 bt_site_address(const struct cpu *c, const struct bt_block *b, const struct bt_site *s)
{
    u64 a = (u64)(s64)s->disp + (s->rip ? b->va + bt_maps(b)[s->insn + 1].guest : 0);
    if (s->base != ISA_NO_REG)
        a += c->gpr[s->base & 15];
    if (s->index != ISA_NO_REG)
        a += c->gpr[s->index & 15] << s->shift;
    if (s->addr32)
        a = (u32)a;
    if (s->seg == SEG_FS || s->seg == SEG_GS)
        a = cpu_code64(c) ? a + c->seg[s->seg].base : (u32)(a + c->seg[s->seg].base);
    return a;
}

static bool hits(struct interp *ip, const struct bt_block *b, const struct bt_site *s)
{
    u64 va = bt_site_address(ip->cpu, b, s);
    return s->write ? tlb_write_ptr(ip, va, s->size) : tlb_read_ptr(ip, va, s->size);
}

/*
 * Would all other accesses of the instruction hit? If filling for the one drove out another's entry, starting again
 * would go on for ever.
 */
static bool others_hit(struct interp *ip, const struct bt_block *b, const struct bt_site *s)
{
    for (const struct bt_site *o = bt_sites(b); o < bt_sites(b) + b->n_sites; o++)
        if (o != s && o->insn == s->insn && o->kind == SITE_MISS &&
            tlb_index(bt_site_address(ip->cpu, b, o)) == tlb_index(bt_site_address(ip->cpu, b, s)) && !hits(ip, b, o))
            return false;
    return true;
}

/* The code at `va`, if it was translated and its page is in the TLB; a jump there is linked, or entered in the hash. */
static const u8 *known_code(struct bt *bt, u64 va, struct bt_exit *link)
{
    struct bt_block *b = bt_known(bt, va, bt->st->key | (link && link->twin ? BK_PLAIN : 0));
    if (!b || ((bt->st->left < 0 || bt_attention(bt)) && !(link && link->twin)) || bt->ip.cfg.test)
        return NULL;
    if (link)
        bt_link(bt, link, b);
    else
        bt_hash_put(bt, b);
    bt->ip.cpu->rip = va;
    return bt_body(bt, b);
}

static const u8 *jump(struct bt *bt, u32 number)
{
    if (number == BT_NO_SITE) {
        const u8 *code = known_code(bt, bt->st->target, NULL);
        bt->stats.exit_indirect += code != NULL; /* else bt_service counts it */
        return code;
    }
    struct bt_block *b = bt_numbered(bt, number >> 8);
    const struct bt_site *s = &bt_sites(b)[number & 0xff];
    if (s->kind != SITE_LINK)
        return NULL;
    const u8 *code = known_code(bt, bt_exit_target(b, &bt_exits(b)[s->arg]), &bt_exits(b)[s->arg]);
    bt->stats.exit_link += code != NULL;
    return code;
}

const u8 *bt_refill(struct bt_state *st, u32 number)
{
    struct bt *bt = st->bt;
    bt_sync(bt);
    if (number == BT_NO_SITE)
        return jump(bt, number);
    const struct bt_block *b = bt_numbered(bt, number >> 8);
    const struct bt_site *s = &bt_sites(b)[number & 0xff];
    if (s->kind == SITE_CALLOUT)
        return bt_quick(bt, b, s);
    if (s->kind != SITE_MISS)
        return jump(bt, number);
    bt->stats.tlb_misses++;
    const struct bt_map *m = &bt_maps(b)[s->insn];
    if (m->flags_in_memory)
        bt->ip.cpu->arith = st->arith;
    u64 va = bt_site_address(bt->ip.cpu, b, s);
    if (bt_compat_odd(st, b->key, va, s->seg) || !tlb_refill(&bt->ip, va, s->size, s->write) ||
        !others_hit(&bt->ip, b, s))
        return NULL;
    return bt->code.rx + b->code + m->host;
}
