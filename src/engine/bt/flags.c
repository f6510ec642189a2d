/*
 * Where the guest's arithmetic flags are, inside a block.
 *
 * They must be known at every access that may fault: a handler sees them. Between blocks they are in EFLAGS. A look-up may
 * clobber EFLAGS if the flags were saved to st->arith before, and if no instruction reads them (or changes a part of them)
 * before one overwrites them all: then EFLAGS need never be restored. Saving costs about as much as two look-ups gain,
 * so it is done where at least two follow before the flags are overwritten.
 *
 * The block's instructions are counted (bt_block.counted) before the last one that overwrites all flags and can not fault: there
 * one SUB in memory does it. Where there is none, it is done before the last instruction. So a way out of the middle
 * mostly has nothing to give back.
 *
 * What overwrites all flags is a list of those instructions of which the processor leaves no flag as it was: what a manual
 * calls undefined may be "unchanged".
 */
#include "engine/bt/bt_internal.h"

static bool overwrites_all(const struct isa_insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_ADD:
    case ZYDIS_MNEMONIC_SUB:
    case ZYDIS_MNEMONIC_CMP:
    case ZYDIS_MNEMONIC_AND:
    case ZYDIS_MNEMONIC_OR:
    case ZYDIS_MNEMONIC_XOR:
    case ZYDIS_MNEMONIC_TEST:
    case ZYDIS_MNEMONIC_NEG:
    case ZYDIS_MNEMONIC_CMPXCHG:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_UCOMISS:
    case ZYDIS_MNEMONIC_UCOMISD:
    case ZYDIS_MNEMONIC_COMISS:
    case ZYDIS_MNEMONIC_COMISD:
        return true;
    default:
        return false;
    }
}

void bt_flags_scan(struct bt_gen *g)
{
    g->needs_flags[g->n] = true;
    for (unsigned i = g->n; i-- > 0;) {
        const struct isa_insn *insn = &g->insn[i];
        unsigned touched = (insn->flags_read | insn->flags_written) & FL_ARITH;
        if (insn->mnemonic == ZYDIS_MNEMONIC_PUSHFQ)
            touched = FL_ARITH;
        if (overwrites_all(insn))
            g->needs_flags[i] = false;
        else
            g->needs_flags[i] = touched ? true : g->needs_flags[i + 1];
    }
}

/* Look-ups from the instruction at hand until all flags are overwritten; of accesses that make a group, about one. */
static unsigned lookups_ahead(const struct bt_gen *g)
{
    unsigned count = 0, grouped = 0; /* base registers of groups */
    for (unsigned i = g->i; i < g->n; i++) {
        const struct isa_insn *insn = &g->insn[i];
        unsigned base = bt_group_base(insn);
        if (g->lookups[i] != 1 || base == ISA_NO_REG || !(grouped >> base & 1))
            count += g->lookups[i];
        if (overwrites_all(insn))
            break;
        grouped &= ~(unsigned)insn->gpr_written | BIT(RSP);
        if (base != ISA_NO_REG && !(insn->gpr_written >> base & 1 && base != RSP))
            grouped |= BIT(base);
    }
    return count;
}

bool bt_flags_free(struct bt_gen *g)
{
    struct emit *e = &g->e;
    if (g->needs_flags[g->i])
        return false;
    if (!g->saved_ok) {
        if (lookups_ahead(g) < 2)
            return false;
        emit_mov(e, SCRATCH_A, H_RAX);
        emit_lahf_seto(e);
        put8e(e, 0x66);
        emit_mem(e, false, 0x89, H_RAX, AT_ST(arith));
        emit_mov(e, H_RAX, SCRATCH_A);
        g->saved_ok = true;
    }
    g->flags_ok = false;
    return true;
}

/* Does it overwrite all flags, of registers alone? Then nobody sees those before it: it can not fault. */
static bool hides_flags(const struct bt_gen *g, unsigned i)
{
    const struct isa_insn *insn = &g->insn[i];
    return overwrites_all(insn) && !g->lookups[i] && insn->cls == ISA_INNOCUOUS && !bt_uses_vectors(insn) &&
           !(insn->prefixes & ISA_PFX_LOCK);
}

unsigned bt_flags_count_at(const struct bt_gen *g)
{
    for (unsigned i = g->n; i-- > 0;)
        if (hides_flags(g, i))
            return i;
    return g->n ? g->n - 1 : 0;
}

bool bt_flags_count_cheap(const struct bt_gen *g)
{
    return hides_flags(g, g->i) || (g->saved_ok && !g->needs_flags[g->i]);
}

void bt_flags_after(struct bt_gen *g, const struct isa_insn *insn)
{
    if (!(insn->flags_written & FL_ARITH))
        return;
    g->flags_ok = true;
    g->saved_ok = false;
}
