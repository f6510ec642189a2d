/*
 * The inline look-up of the software TLB, for each guest access to memory.
 *
 *   tag    = tlb.read or tlb.write [page number of the address, low 16 bits]   (the negated page address)
 *   hit    : address + tag is an offset in the page that leaves room for the access
 *   host   = address + tlb.addend[same index]
 *
 * Two forms. Where EFLAGS need not survive (flags.c), ADD, CMP, JA. Where they must, nothing that writes flags is used:
 * LEA adds, SHRX by RSP shifts by 12, JRCXZ tests; the index is taken from the access's last byte, so that one which
 * crosses a page comes out negative.
 *
 * An operand [base + disp] whose base is in a host register ends as [base + addend + disp]; any other address is computed
 * again or kept in st->spill while the scratch registers are in use.
 */
#include "engine/bt/bt_internal.h"

/* What is known of an address before it is computed. */
struct shape {
    bool constant; /* RIP-relative or absolute, without segment base */
    bool rip;
    u64 value;
    bool simple; /* [host register + disp] */
    u8 host;
    bool one_lea; /* one LEA computes it */
};

static bool has_segment(const struct isa_mem *m)
{
    return m->seg == SEG_FS || m->seg == SEG_GS;
}

static bool resident(unsigned guest)
{
    return bt_host_of[guest] != NO_HOST;
}

static struct shape shape_of(const struct bt_gen *g, const struct isa_mem *m, unsigned addr_size)
{
    struct shape s = {0};
    bool base = m->base != ISA_NO_REG, index = m->index != ISA_NO_REG, rip = m->base == ISA_RIP_REG;
    if (has_segment(m))
        return s;
    if ((rip || !base) && !index) {
        s.constant = true;
        s.rip = rip;
        s.value = (u64)m->disp + (rip ? g->rip + g->insn[g->i].len : 0);
        if (addr_size == 4)
            s.constant = !rip, s.value = (u32)s.value;
        return s;
    }
    if (addr_size != 8 || rip)
        return s;
    if (base && !index && resident(m->base)) {
        s.simple = true;
        s.host = bt_host_of[m->base];
    }
    s.one_lea = (!base || resident(m->base)) && (!index || resident(m->index));
    return s;
}

/* Offset (base + index * scale + disp) into RCX; may use R15. RIP-relative ones are constants. */
static void offset_into_a(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size)
{
    struct emit *e = &g->e;
    bool wide = addr_size == 8;
    struct haddr a = {NO_HOST, NO_HOST, (u8)__builtin_ctz(m->scale ? m->scale : 1), (s32)m->disp};
    unsigned base = m->base, index = m->index;
    if (base != ISA_NO_REG)
        a.base = bt_host_of[base];
    if (index != ISA_NO_REG)
        a.index = bt_host_of[index];
    if (base != ISA_NO_REG && a.base == NO_HOST) {
        emit_load(e, SCRATCH_A, bt_slot(base));
        a.base = SCRATCH_A;
    }
    if (index != ISA_NO_REG && a.index == NO_HOST) {
        a.index = a.base == SCRATCH_A ? SCRATCH_B : SCRATCH_A;
        emit_load(e, a.index, bt_slot(index));
    }
    emit_mem(e, wide, 0x8d, SCRATCH_A, a);
}

void bt_address(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, s32 extra)
{
    struct emit *e = &g->e;
    bool rip = m->base == ISA_RIP_REG, nothing = m->base == ISA_NO_REG && m->index == ISA_NO_REG;
    if (rip || nothing) {
        u64 v = (u64)m->disp + (rip ? g->rip + g->insn[g->i].len : 0);
        if (rip && addr_size == 8)
            bt_moves_value(g, SCRATCH_A, v);
        else
            emit_mov_imm(e, SCRATCH_A, addr_size == 4 ? (u32)v : v);
        g->fixed |= rip && addr_size != 8;
    } else {
        offset_into_a(g, m, addr_size);
    }
    if (has_segment(m) && (g->b->key & BK_COMPAT)) {
        bool fs = m->seg == SEG_FS;
        emit_load(e, SCRATCH_B, fs ? AT_ST(fs_base) : AT_ST(gs_base));
        emit_lea32(e, SCRATCH_A, (struct haddr){SCRATCH_A, SCRATCH_B, 0, extra});
        emit_load(e, SCRATCH_B, fs ? AT_ST(no_segment[0]) : AT_ST(no_segment[1]));
        emit_lea(e, SCRATCH_A, (struct haddr){SCRATCH_A, SCRATCH_B, 0, 0});
    } else if (has_segment(m)) {
        emit_load(e, SCRATCH_B, m->seg == SEG_FS ? AT_ST(fs_base) : AT_ST(gs_base));
        emit_lea(e, SCRATCH_A, (struct haddr){SCRATCH_A, SCRATCH_B, 0, extra});
    } else if (extra) {
        emit_lea(e, SCRATCH_A, AT(SCRATCH_A, extra));
    }
}

/* [RSP + index * 8 + one of the arrays of the context in force] */
static struct haddr table(const struct bt_gen *g, size_t array)
{
    s32 off = ST(tlb) + (s32)((g->b->key & BK_CONTEXT) * sizeof(struct tlb_tables) + array);
    return (struct haddr){H_RSP, SCRATCH_B, 3, off};
}

static struct haddr tag_table(const struct bt_gen *g, bool write)
{
    return table(g, write ? offsetof(struct tlb_tables, write) : offsetof(struct tlb_tables, read));
}

static struct haddr addend_table(const struct bt_gen *g)
{
    return table(g, offsetof(struct tlb_tables, addend));
}

/* R15 = index of the page that holds the address in `host`. */
static void index_of(struct bt_gen *g, unsigned host)
{
    struct emit *e = &g->e;
    if (g->bt->fast_pext) {
        emit_pext32(e, SCRATCH_B, host, AT_ST(page_mask));
        return;
    }
    emit_rorx(e, SCRATCH_B, host, PAGE_SHIFT);
    emit_movzx16(e, SCRATCH_B, SCRATCH_B);
}

#define TO_TWIN BT_NO_SITE /* instead of a site: a miss goes on in the block's twin */

static void miss(struct bt_gen *g, u8 *mark, u32 site, bool flags_in_memory)
{
    if (site == TO_TWIN)
        bt_cold_twin(g, mark, flags_in_memory);
    else
        bt_cold(g, mark, site);
}

/* To cold code unless RCX is 0. */
static void miss_unless_zero(struct bt_gen *g, u32 site)
{
    u8 *hit = emit_jrcxz(&g->e);
    u8 *jump = emit_jmp32(&g->e);
    emit_here8(&g->e, hit);
    miss(g, jump, site, false);
}

/* RCX is the address, R15 the index: ADD, CMP, JA. RCX becomes the offset in the page. */
static void check_cheap(struct bt_gen *g, unsigned size, bool write, u32 site)
{
    struct emit *e = &g->e;
    emit_mem(e, true, 0x03, SCRATCH_A, tag_table(g, write));
    put8e(e, 0x48); /* cmp rcx, 4096 - size */
    put8e(e, 0x81);
    put8e(e, 0xf9);
    put32e(e, PAGE_SIZE - size);
    miss(g, emit_jcc32(e, 7), site, true);
}

static struct haddr lookup_simple(struct bt_gen *g, const struct shape *s, s32 disp, unsigned size, bool write,
                                  bool cheap, u32 site)
{
    struct emit *e = &g->e;
    if (cheap) {
        emit_lea(e, SCRATCH_A, AT(s->host, disp));
        index_of(g, SCRATCH_A);
        check_cheap(g, size, write, site);
    } else {
        s32 last = disp + (s32)size - 1;
        if (last)
            emit_lea(e, SCRATCH_A, AT(s->host, last));
        index_of(g, last ? (unsigned)SCRATCH_A : s->host);
        emit_load(e, SCRATCH_A, tag_table(g, write));
        emit_lea(e, SCRATCH_A, (struct haddr){SCRATCH_A, s->host, 0, disp});
        emit_shrx(e, SCRATCH_A, SCRATCH_A, H_RSP);
        miss_unless_zero(g, site);
    }
    emit_load(e, SCRATCH_B, addend_table(g));
    return (struct haddr){s->host, SCRATCH_B, 0, disp};
}

/* The entry of an array for a page that is known now. */
static void load_entry(struct bt_gen *g, struct haddr array, const struct shape *s)
{
    array.index = NO_HOST;
    array.disp += (s32)(tlb_index(s->value) * sizeof(u64));
    emit_load(&g->e, SCRATCH_A, array);
    if (s->rip)
        bt_moves_page(g, s->value);
}

/*
 * Where the address is known now, so is the index. The tag must be the negated page address: an access that runs over the
 * page's end does not come here.
 */
static struct haddr lookup_constant(struct bt_gen *g, const struct shape *s, bool write, u32 site)
{
    struct emit *e = &g->e;
    s32 in_page = (s32)(s->value & (PAGE_SIZE - 1));
    if (s->rip)
        bt_moves_value(g, SCRATCH_B, s->value);
    else
        emit_mov_imm(e, SCRATCH_B, s->value);
    load_entry(g, tag_table(g, write), s);
    emit_lea(e, SCRATCH_A, (struct haddr){SCRATCH_A, SCRATCH_B, 0, -in_page});
    miss_unless_zero(g, site);
    load_entry(g, addend_table(g), s);
    return (struct haddr){SCRATCH_A, SCRATCH_B, 0, 0};
}

/*
 * [base + index * scale + disp], all in host registers: computed three times, for the last byte's page, for the sum with the
 * tag, and for the access; EFLAGS stay.
 */
static struct haddr lookup_indexed(struct bt_gen *g, const struct isa_mem *m, unsigned size, bool write, u32 site)
{
    struct emit *e = &g->e;
    struct isa_mem last = *m;
    struct haddr scaled = {SCRATCH_A, bt_host_of[m->index], (u8)__builtin_ctz(m->scale ? m->scale : 1), (s32)m->disp};
    last.disp += size - 1;
    offset_into_a(g, &last, 8);
    index_of(g, SCRATCH_A);
    emit_load(e, SCRATCH_A, tag_table(g, write));
    if (m->base != ISA_NO_REG)
        emit_lea(e, SCRATCH_A, (struct haddr){SCRATCH_A, bt_host_of[m->base], 0, 0});
    emit_lea(e, SCRATCH_A, scaled);
    emit_shrx(e, SCRATCH_A, SCRATCH_A, H_RSP);
    miss_unless_zero(g, site);
    emit_load(e, SCRATCH_B, addend_table(g));
    offset_into_a(g, m, 8);
    return (struct haddr){SCRATCH_A, SCRATCH_B, 0, 0};
}

static struct haddr lookup_complex(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, const struct shape *s,
                                   unsigned size, bool write, bool cheap, u32 site)
{
    struct emit *e = &g->e;
    if (!cheap && s->one_lea && m->index != ISA_NO_REG && m->disp < INT32_MAX - (s32)PAGE_SIZE)
        return lookup_indexed(g, m, size, write, site);
    bt_address(g, m, addr_size, 0);
    if (cheap) {
        index_of(g, SCRATCH_A);
        check_cheap(g, size, write, site);
        if (s->one_lea)
            offset_into_a(g, m, addr_size);
        else
            emit_mem(e, true, 0x2b, SCRATCH_A, tag_table(g, write)); /* the address again */
    } else {
        emit_store(e, AT_ST(spill), SCRATCH_A);
        if (size > 1)
            emit_lea(e, SCRATCH_B, AT(SCRATCH_A, (s32)size - 1));
        index_of(g, size > 1 ? SCRATCH_B : SCRATCH_A);
        emit_load(e, SCRATCH_B, tag_table(g, write));
        emit_lea(e, SCRATCH_B, (struct haddr){SCRATCH_B, SCRATCH_A, 0, 0});
        emit_shrx(e, SCRATCH_A, SCRATCH_B, H_RSP);
        miss_unless_zero(g, site);
        emit_load(e, SCRATCH_A, AT_ST(spill));
        index_of(g, SCRATCH_A);
    }
    emit_load(e, SCRATCH_B, addend_table(g));
    return (struct haddr){SCRATCH_A, SCRATCH_B, 0, 0};
}

/*
 * One of a group: the first looks all of them up and keeps the addend. If nothing used SCRATCH_B since the last of the same
 * group, it is still there; an instruction with another access does not count on that, for a miss of the other starts
 * the instruction again without.
 */
static struct haddr lookup_shared(struct bt_gen *g, const struct shape *s, const struct isa_mem *m,
                                  const struct bt_shared *group)
{
    struct haddr keep = AT(H_RSP, ST(addend) + group->slot);
    if (group->member) {
        if (g->held != group->slot || g->lookups[g->i] != 1)
            emit_load(&g->e, SCRATCH_B, keep);
        g->held = group->slot;
        /* ESP may have gone round 4 GiB, and come back with this access. */
        if ((g->b->key & BK_COMPAT) && group->moved) {
            emit_lea32(&g->e, SCRATCH_A, AT(s->host, (s32)m->disp));
            return (struct haddr){SCRATCH_A, SCRATCH_B, 0, 0};
        }
    } else {
        lookup_simple(g, s, group->disp, group->size, group->write, bt_flags_free(g), TO_TWIN);
        emit_store(&g->e, keep, SCRATCH_B);
        g->held = group->slot;
    }
    return (struct haddr){s->host, SCRATCH_B, 0, (s32)m->disp};
}

struct haddr bt_lookup(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, unsigned size, bool write)
{
    struct shape s = shape_of(g, m, addr_size);
    struct bt_shared group;
    if (bt_group(g, m, addr_size, size, write, &group))
        return lookup_shared(g, &s, m, &group);
    g->held = NOT_HELD;
    u32 site = bt_access_site(g, m, addr_size, size, write);
    if (s.constant && (s.value & (PAGE_SIZE - 1)) + size <= PAGE_SIZE)
        return lookup_constant(g, &s, write, site);
    bool cheap = bt_flags_free(g);
    /* The displacement must leave room for the last byte's. */
    if (s.simple && m->disp < INT32_MAX - (s32)PAGE_SIZE)
        return lookup_simple(g, &s, (s32)m->disp, size, write, cheap, site);
    return lookup_complex(g, m, addr_size, &s, size, write, cheap, site);
}

struct haddr bt_lookup_a(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, unsigned size, bool write)
{
    emit_lea(&g->e, SCRATCH_A, bt_lookup(g, m, addr_size, size, write));
    return AT(SCRATCH_A, 0);
}

struct haddr bt_lookup_b(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, unsigned size, bool write)
{
    emit_lea(&g->e, SCRATCH_B, bt_lookup(g, m, addr_size, size, write));
    g->held = NOT_HELD;
    return AT(SCRATCH_B, 0);
}
