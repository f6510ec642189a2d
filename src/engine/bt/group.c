/*
 * Groups: several accesses of a block that share one look-up.
 *
 * Accesses relative to one base register, which does not change between them, mostly lie in one page: the fields of a
 * structure, the slots of a stack frame, a run of PUSHes. The first of them looks the whole range up; if it lies in one page
 * the addend is kept in st->addend[], and the others add it to their own address. The stack pointer may move by constants.
 *
 * What must stay true
 *  1. A group with a write is looked up for writing, though its first access may be a read, and the write may not be
 *     reached. So a miss fills nothing: it would set the dirty bit of a page that may never be written.
 *  2. Nothing in a group's life can change the TLB but a refill, which adds to it. So an instruction for which C runs ends
 *     all groups, and the code behind it is not entered again in the middle where a group lives: see bt_map.grouped.
 *  3. Where the look-up misses, or the range runs over a page end, though the accesses may not, the rest of the block is
 *     executed by a twin of it that was translated without groups (BK_PLAIN), whose look-ups fill the TLB.
 *
 *  4. The way to the twin has no poll: it could be taken again and again without an instruction being executed. Behind an STI,
 *     where the block's exits must poll, there are no groups.
 *
 * Not done: groups over an index register or a segment base, and over blocks; a group for reading where its page turns out
 * to be never writable.
 */
#include "engine/bt/bt_internal.h"

#define RANGE_MAX 80 /* bytes; and fits struct bt_site */

/* An access of an instruction relative to a register. */
struct access {
    s64 off;
    unsigned size;
    bool write;
};

static bool groupable(const struct isa_mem *m, unsigned addr_size)
{
    return m->base < CPU_GPRS && bt_host_of[m->base] != NO_HOST && m->index == ISA_NO_REG && addr_size == 8 &&
           m->seg != SEG_FS && m->seg != SEG_GS && m->disp > INT32_MIN / 2 && m->disp < INT32_MAX / 2;
}

/* The constant by which an instruction moves RSP, in *by; false if it does something else to it. */
static bool moves_stack(const struct isa_insn *insn, s64 *by)
{
    s64 slot = bt_slot_size(insn);
    *by = 0;
    if (!(insn->gpr_written & BIT(RSP)))
        return true;
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_CALL:
        *by = -slot;
        return !(insn->prefixes & ISA_PFX_66);
    case ZYDIS_MNEMONIC_POP:
        *by = slot;
        return !(insn->prefixes & ISA_PFX_66) && insn->op[0].kind == ISA_OP_REG && insn->op[0].reg != RSP;
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
        *by = insn->mnemonic == ZYDIS_MNEMONIC_ADD ? insn->imm : -insn->imm;
        return insn->op[0].kind == ISA_OP_REG && insn->op[0].size == slot && insn->op[1].kind == ISA_OP_IMM;
    default:
        return false;
    }
}

/* Accesses of `insn` relative to guest register `base`, at most two. */
static unsigned accesses_of(const struct isa_insn *insn, unsigned base, struct access *out)
{
    unsigned n = 0, slot = bt_slot_size(insn);
    for (unsigned i = 0; i < insn->n_ops && n == 0; i++)
        if (insn->op[i].kind == ISA_OP_MEM && !insn->op[i].hidden && insn->op[i].size && insn->mem.base == base &&
            groupable(&insn->mem, insn->addr_size))
            out[n++] = (struct access){insn->mem.disp, insn->op[i].size, insn->op[i].written};
    if (base != RSP || (insn->prefixes & ISA_PFX_66))
        return n;
    if (insn->mnemonic == ZYDIS_MNEMONIC_PUSH || insn->mnemonic == ZYDIS_MNEMONIC_CALL)
        out[n++] = (struct access){-(s64)slot, slot, true};
    else if (insn->mnemonic == ZYDIS_MNEMONIC_POP || insn->mnemonic == ZYDIS_MNEMONIC_RET)
        out[n++] = (struct access){0, slot, false};
    return n;
}

unsigned bt_group_base(const struct isa_insn *insn)
{
    struct access a[2];
    if (insn->mem.base < CPU_GPRS && accesses_of(insn, insn->mem.base, a))
        return insn->mem.base;
    return accesses_of(insn, RSP, a) ? RSP : ISA_NO_REG;
}

/*
 * Extend [lo, hi) by what the instructions from the one at hand on will access, and *write by how; returns how many will
 * share the look-up.
 */
static unsigned extend(const struct bt_gen *g, unsigned base, bool *write, s64 *lo, s64 *hi)
{
    s64 shift = base == RSP ? g->stack_shift : 0, by = 0;
    unsigned members = 0;
    for (unsigned i = g->i; i < g->n; i++) {
        const struct isa_insn *insn = &g->insn[i];
        struct access a[2];
        unsigned n = accesses_of(insn, base, a);
        for (unsigned k = 0; k < n; k++) {
            s64 from = MIN(*lo, a[k].off + shift), to = MAX(*hi, a[k].off + shift + (s64)a[k].size);
            if (to - from > RANGE_MAX)
                continue;
            *lo = from, *hi = to;
            *write |= a[k].write;
            members++;
        }
        if (base == RSP ? !moves_stack(insn, &by) : insn->gpr_written >> base & 1)
            break;
        shift += base == RSP ? by : 0;
    }
    return members;
}

/* A group that covers the access, or NULL. */
static struct bt_group *find(struct bt_gen *g, unsigned base, s64 lo, s64 hi, bool write)
{
    for (struct bt_group *p = g->groups; p < g->groups + BT_GROUPS; p++)
        if (p->live && p->base == base && p->lo <= lo && hi <= p->hi && (p->write || !write))
            return p;
    return NULL;
}

static struct bt_group *make(struct bt_gen *g, unsigned base, s64 lo, s64 hi, bool write)
{
    struct bt_group *p = &g->groups[g->next_group++ % BT_GROUPS];
    *p = (struct bt_group){.live = true, .base = (u8)base, .write = write, .lo = lo, .hi = hi, .made = g->stack_shift};
    return p;
}

bool bt_group(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, unsigned size, bool write,
              struct bt_shared *s)
{
    *s = (struct bt_shared){0};
    if ((g->b->key & BK_PLAIN) || g->shadow || !groupable(m, addr_size))
        return false;
    s64 shift = m->base == RSP ? g->stack_shift : 0, lo = m->disp + shift, hi = lo + (s64)size;
    struct bt_group *p = find(g, m->base, lo, hi, write);
    s->member = p != NULL;
    if (!p) {
        if (g->twins == BT_TWINS || extend(g, m->base, &write, &lo, &hi) < 2 || hi - lo > RANGE_MAX)
            return false;
        g->twins++;
        p = make(g, m->base, lo, hi, write);
        p->fresh = true;
    }
    s->write = p->write;
    s->disp = (s32)(lo - shift);
    s->size = (unsigned)(hi - lo);
    s->moved = p->base == RSP && g->stack_shift != p->made;
    s->slot = (s32)((p - g->groups) * sizeof(u64));
    return true;
}

void bt_groups_after(struct bt_gen *g, const struct isa_insn *insn)
{
    s64 by;
    bool known = moves_stack(insn, &by);
    g->stack_shift += by;
    for (struct bt_group *p = g->groups; p < g->groups + BT_GROUPS; p++)
        if (p->base == RSP ? !known : insn->gpr_written >> p->base & 1)
            p->live = false;
}

void bt_groups_end(struct bt_gen *g)
{
    memset(g->groups, 0, sizeof(g->groups));
    g->held = NOT_HELD;
}

bool bt_grouped(const struct bt_gen *g)
{
    for (const struct bt_group *p = g->groups; p < g->groups + BT_GROUPS; p++)
        if (p->live)
            return true;
    return false;
}
