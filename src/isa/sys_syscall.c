/*
 * The fast ways between ring 3 and ring 0: SYSCALL, SYSRET, SYSENTER, SYSEXIT.
 *
 * No descriptor is read: selectors come from MSRs, the hidden parts are flat. The vendors differ:
 *
 *                         Intel                              AMD
 *   SYSCALL, SYSRET       64-bit mode only, else #UD         any mode; outside it EIP from STAR, from CSTAR in
 *                                                            compatibility mode
 *   SYSRET, bad RCX       #GP(0) in ring 0                   fault in ring 3 when it fetches
 *   SYSRET, SS            loaded whole                       selector alone, the hidden part stays
 *   SYSENTER, SYSEXIT     any mode                           #UD in long mode
 *
 * Source: SDM vol. 2; APM vol. 3; EFER.SCE, STAR: SDM vol. 3A, 5.8.8; APM vol. 2, 6.1.
 */
#include "isa/isa_internal.h"
#include "machine/cpu/cpuid.h"

static bool is_amd(const struct cpu *c)
{
    return c->model && c->model->amd;
}

/* Enter ring 0 or 3 with flat segments; the stack segment follows its code segment by 8. */
static void enter(struct isa *m, u16 cs_sel, u16 ss_sel, unsigned cpl, bool code64)
{
    struct cpu_segment cs;
    isa_segment_flat_code(cs_sel, cpl, code64, &cs);
    isa_segment_flat_data(ss_sel, cpl, &m->cpu->seg[SEG_SS]);
    isa_commit_cs(m, &cs, cpl);
}

static void syscall_legacy(struct isa *m, u64 next)
{
    struct cpu *c = m->cpu;
    u16 sel = (u16)(c->msr.star >> 32) & 0xfffc;
    c->gpr[RCX] = (u32)next;
    c->rip = (u32)c->msr.star;
    c->sysflags &= ~(FL_VM | FL_IF | FL_RF);
    enter(m, sel, (u16)(sel + 8), 0, false);
}

int sys_syscall(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    u64 next = isa_next_rip(c, insn);
    if (!(c->efer & EFER_SCE) || (!is_amd(c) && !cpu_code64(c)))
        return isa_ud(m);
    if (!cpu_long_mode(c)) {
        syscall_legacy(m, next);
    } else {
        u16 sel = (u16)(c->msr.star >> 32) & 0xfffc;
        u64 flags = cpu_rflags(c) & ~FL_RF;
        c->gpr[RCX] = next;
        c->gpr[R11] = flags;
        c->rip = cpu_code64(c) ? c->msr.lstar : c->msr.cstar;
        cpu_set_rflags(c, flags & ~c->msr.sfmask);
        enter(m, sel, (u16)(sel + 8), 0, true);
    }
    isa_mode_changed(m);
    return CPU_OK;
}

/* Flags that SYSRET takes from R11: all but RF, VM and what does not exist. */
#define SYSRET_FLAGS 0x3c7fd7ull

int sys_sysret(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    bool amd = is_amd(c), from64 = cpu_code64(c), to64 = from64 && isa_opsize(insn) == 8;
    u16 sel = (u16)(c->msr.star >> 48);
    struct cpu_segment ss = c->seg[SEG_SS];
    if (!(c->efer & EFER_SCE) || (!amd && !from64))
        return isa_ud(m);
    ISA_NEED_CPL0(m);
    if (to64 && !amd && !isa_canonical(c->gpr[RCX]))
        return isa_gp0(m);
    c->rip = to64 ? c->gpr[RCX] : (u32)c->gpr[RCX];
    if (from64)
        cpu_set_rflags(c, c->gpr[R11] & SYSRET_FLAGS);
    else
        c->sysflags |= FL_IF;
    enter(m, (u16)((to64 ? sel + 16 : sel) | 3), (u16)((sel + 8) | 3), 3, to64);
    if (amd) {
        ss.selector = (u16)(sel + 8);
        c->seg[SEG_SS] = ss;
    }
    isa_mode_changed(m);
    return CPU_OK;
}

int sys_sysenter(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    bool lm = cpu_long_mode(c);
    u16 sel = (u16)(c->msr.sysenter_cs & 0xfffc);
    if (lm && is_amd(c))
        return isa_ud(m);
    if (!sel || cpu_real_mode(c))
        return isa_gp0(m);
    c->sysflags &= ~(FL_VM | FL_IF | FL_RF);
    c->gpr[RSP] = lm ? c->msr.sysenter_esp : (u32)c->msr.sysenter_esp;
    c->rip = lm ? c->msr.sysenter_eip : (u32)c->msr.sysenter_eip;
    enter(m, sel, (u16)(sel + 8), 0, lm);
    isa_mode_changed(m);
    return CPU_OK;
}

int sys_sysexit(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    bool to64 = cpu_code64(c) && isa_opsize(insn) == 8;
    u16 sel = (u16)(c->msr.sysenter_cs & 0xfffc);
    if (cpu_long_mode(c) && is_amd(c))
        return isa_ud(m);
    if (!sel || c->cpl != 0 || cpu_real_mode(c))
        return isa_gp0(m);
    if (to64 && (!isa_canonical(c->gpr[RCX]) || !isa_canonical(c->gpr[RDX])))
        return isa_gp0(m);
    sel = (u16)(sel + (to64 ? 32 : 16));
    c->gpr[RSP] = to64 ? c->gpr[RCX] : (u32)c->gpr[RCX];
    c->rip = to64 ? c->gpr[RDX] : (u32)c->gpr[RDX];
    enter(m, (u16)(sel | 3), (u16)((sel + 8) | 3), 3, to64);
    isa_mode_changed(m);
    return CPU_OK;
}
