/*
 * Software interrupts: INT n, INT3, INT1, INTO, and BOUND's exception.
 *
 * A fault while one is delivered is reported at the instruction itself and never combines to a double fault, so these
 * go through isa_deliver_once and leave the rest to whoever delivers the fault. INT n alone heeds IOPL in virtual-8086
 * mode (v86.c); the one-byte forms do not.
 */
#include "isa/isa_internal.h"

#include <string.h>

static int software(struct isa *m, const struct isa_insn *insn, enum isa_event_kind kind, u8 vector)
{
    struct isa_event ev = {.kind = kind, .vector = vector, .rip = isa_next_rip(m->cpu, insn)};
    return isa_deliver_once(m, &ev);
}

int sys_int(struct isa *m, const struct isa_insn *insn)
{
    if (cpu_v86(m->cpu))
        return isa_v86_int(m, insn);
    return software(m, insn, ISA_EVENT_SOFT_INT, (u8)insn->imm);
}

int sys_int3(struct isa *m, const struct isa_insn *insn)
{
    return software(m, insn, ISA_EVENT_SOFT_EXC, VEC_BP);
}

int sys_int1(struct isa *m, const struct isa_insn *insn)
{
    return software(m, insn, ISA_EVENT_ICEBP, VEC_DB);
}

int sys_into(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    if (insn->mode == ISA_MODE_64)
        return isa_ud(m);
    if (cpu_arith_to_flags(c->arith) & FL_OF)
        return software(m, insn, ISA_EVENT_SOFT_EXC, VEC_OF);
    c->rip = isa_next_rip(c, insn);
    c->sysflags &= ~FL_RF;
    return CPU_OK;
}

static s32 sign_extend(u32 v, unsigned size)
{
    return size == 2 ? (s16)v : (s32)v;
}

int sys_bound(struct isa *m, const struct isa_insn *insn)
{
    unsigned size = isa_opsize(insn);
    struct isa_insn upper = *insn;
    u32 index = (u32)isa_gpr_get(m->cpu, insn->op[0].reg, size), bound[2] = {0, 0};
    if (insn->mode == ISA_MODE_64)
        return isa_ud(m);
    /* The upper bound is read only if the lower one holds (seen on silicon, where the pair crosses a page). */
    upper.mem.disp += size;
    ISA_TRY(isa_mem_read(m, insn, &bound[0], size));
    if (sign_extend(index, size) < sign_extend(bound[0], size))
        return cpu_raise(m->cpu, VEC_BR);
    ISA_TRY(isa_mem_read(m, &upper, &bound[1], size));
    return sign_extend(index, size) > sign_extend(bound[1], size) ? cpu_raise(m->cpu, VEC_BR) : CPU_OK;
}
