/*
 * Instructions on flags that the system keeps: PUSHF, POPF, CLI, STI, STAC, CLAC.
 *
 * Not done: virtual interrupt flags (CR4.PVI in ring 3; CR4.VME matters in virtual-8086 mode alone).
 *
 * Source: SDM vol. 2; vol. 1, 3.4.3.
 */
#include "isa/isa_internal.h"

static unsigned iopl(const struct cpu *c)
{
    return (unsigned)((c->sysflags & FL_IOPL) >> FL_IOPL_SHIFT);
}

int sys_pushf(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct isa_stack st;
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
    isa_stack_current(c, size, &st);
    ISA_TRY(isa_stack_pop(m, &st, 1, &v));
    if (size > 2)
        mask |= FL_AC | FL_ID;
    if (c->cpl <= iopl(c))
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

/* May CLI and STI touch IF? */
static int check_iopl(struct isa *m)
{
    struct cpu *c = m->cpu;
    if (c->cpl <= iopl(c))
        return CPU_OK;
    if (c->cpl == 3 && (c->cr4 & CR4_PVI))
        return cpu_unimplemented(c, "protected-mode virtual interrupts (CR4.PVI)");
    return isa_gp0(m);
}

int sys_cli(struct isa *m, const struct isa_insn *insn)
{
    ISA_TRY(check_iopl(m));
    m->cpu->sysflags &= ~FL_IF;
    return CPU_OK;
}

int sys_sti(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    ISA_TRY(check_iopl(m));
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
