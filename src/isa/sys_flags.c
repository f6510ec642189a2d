/*
 * Instructions on flags that the system keeps: PUSHF, POPF, CLI, STI, STAC, CLAC.
 *
 * Virtual-8086 mode has its own rules for all but STAC and CLAC (v86.c).
 *
 * Source: SDM vol. 2; vol. 1, 3.4.3.
 */
#include "isa/isa_internal.h"

int sys_pushf(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct isa_stack st;
    if (cpu_v86(c))
        return isa_v86_pushf(m, insn);
    isa_stack_current(c, isa_stack_opsize(insn), &st);
    isa_stack_push(&st, cpu_rflags(c) & ~(FL_VM | FL_RF));
    ISA_TRY(isa_stack_write(m, &st));
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    return CPU_OK;
}

/* IOPL changes in ring 0 only, IF up to IOPL; elsewhere they stay without a fault. VIF and VIP are unaffected. */
int sys_popf(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct isa_stack st;
    unsigned size = isa_stack_opsize(insn);
    u64 v, mask = FL_ARITH | FL_TF | FL_DF | FL_NT;
    if (cpu_v86(c))
        return isa_v86_popf(m, insn);
    isa_stack_current(c, size, &st);
    ISA_TRY(isa_stack_pop(m, &st, 1, &v));
    if (size > 2)
        mask |= FL_AC | FL_ID;
    if (c->cpl <= isa_iopl(c))
        mask |= FL_IF;
    if (c->cpl == 0)
        mask |= FL_IOPL;
    u64 old = cpu_rflags(c), new = (old & ~mask) | (v & mask);
    cpu_set_rflags(c, new);
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    if ((old ^ new) & (FL_AC | FL_TF))
        isa_mode_changed(m);
    return CPU_OK;
}

int sys_cli(struct isa *m, const struct isa_insn *insn)
{
    if (m->cpu->cpl > isa_iopl(m->cpu))
        return isa_virtual_if(m, false);
    m->cpu->sysflags &= ~FL_IF;
    return CPU_OK;
}

int sys_sti(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    if (c->cpl > isa_iopl(c))
        return isa_virtual_if(m, true);
    if (!(c->sysflags & FL_IF))
        c->shadow |= SHADOW_STI;
    c->sysflags |= FL_IF;
    return CPU_OK;
}

static int set_ac(struct isa *m, u64 ac)
{
    if (m->cpu->cpl != 0)
        return isa_ud(m);
    m->cpu->sysflags = (m->cpu->sysflags & ~FL_AC) | ac;
    isa_mode_changed(m);
    return CPU_OK;
}

int sys_stac(struct isa *m, const struct isa_insn *insn)
{
    return set_ac(m, FL_AC);
}

int sys_clac(struct isa *m, const struct isa_insn *insn)
{
    return set_ac(m, 0);
}
