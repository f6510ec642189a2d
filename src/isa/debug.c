/*
 * Debug exceptions: what the breakpoint registers match, for engines that execute and access memory.
 *
 *   DR7:  31..30 29..28  ...  19..18 17..16   13   9  8   7  6  5  4  3  2  1  0
 *         LEN3   R/W3         LEN0   R/W0     GD   GE LE  G3 L3 G2 L2 G1 L1 G0 L0
 *
 *   R/W   00 execution   01 data writes   10 I/O (with CR4.DE)   11 data reads and writes
 *   LEN   00 1 byte      01 2 bytes       10 8 bytes             11 4 bytes
 *
 * Instruction breakpoints are faults, reported before the instruction unless RF is set; the others are traps, reported
 * after it. B0-B3 are also set for matching breakpoints that are not enabled, once an enabled one has matched; only enabled
 * ones are looked at here, which the manual allows.
 *
 * Source: SDM vol. 3B ch. 17.2 and 17.3.
 */
#include "isa/isa_internal.h"

enum { RW_EXEC, RW_WRITE, RW_IO, RW_ACCESS };

bool isa_debug_armed(const struct cpu *c)
{
    return c->dr[7] & 0xff;
}

static bool enabled(const struct cpu *c, unsigned i)
{
    return c->dr[7] >> (2 * i) & 3;
}
static unsigned rw_of(const struct cpu *c, unsigned i)
{
    return c->dr[7] >> (16 + 4 * i) & 3;
}
static unsigned len_of(const struct cpu *c, unsigned i)
{
    static const u8 bytes[] = {1, 2, 8, 4};
    return bytes[c->dr[7] >> (18 + 4 * i) & 3];
}

/* Addresses are aligned to the breakpoint's length: its low bits do not count. */
static bool overlaps(const struct cpu *c, unsigned i, u64 at, u64 len)
{
    u64 bp_len = len_of(c, i), bp = c->dr[i] & ~(bp_len - 1);
    return bp - at < len || at - bp < bp_len;
}

u64 isa_debug_exec(const struct cpu *c, gva_t va)
{
    u64 hit = 0;
    if (c->sysflags & FL_RF)
        return 0;
    for (unsigned i = 0; i < 4; i++)
        if (enabled(c, i) && rw_of(c, i) == RW_EXEC && c->dr[i] == va.v)
            hit |= BIT(i);
    return hit;
}

u64 isa_debug_data(const struct cpu *c, gva_t va, unsigned len, bool write)
{
    u64 hit = 0;
    for (unsigned i = 0; i < 4; i++) {
        unsigned rw = rw_of(c, i);
        if (enabled(c, i) && (rw == RW_ACCESS || (rw == RW_WRITE && write)) && overlaps(c, i, va.v, len))
            hit |= BIT(i);
    }
    return hit;
}

u64 isa_debug_io(const struct cpu *c, u16 port, unsigned size)
{
    u64 hit = 0;
    if (!(c->cr4 & CR4_DE))
        return 0;
    for (unsigned i = 0; i < 4; i++)
        if (enabled(c, i) && rw_of(c, i) == RW_IO && overlaps(c, i, port, size))
            hit |= BIT(i);
    return hit;
}

bool isa_debug_step(const struct cpu *c, u16 mnemonic, bool tf_before)
{
    if (c->shadow & SHADOW_MOVSS)
        return false;
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_INT:
    case ZYDIS_MNEMONIC_INT1:
    case ZYDIS_MNEMONIC_INT3:
        return false; /* TF was cleared on the way into the handler */
    case ZYDIS_MNEMONIC_INTO:
    case ZYDIS_MNEMONIC_SYSCALL:
        return tf_before && (c->sysflags & FL_TF);
    default:
        return tf_before;
    }
}

int isa_debug_trap(struct isa *m, u64 dr6)
{
    struct cpu *c = m->cpu;
    c->fault = (struct cpu_fault){.vector = VEC_DB, .address = dr6};
    return isa_deliver_fault(m);
}
