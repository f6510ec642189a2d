/*
 * Model-specific registers, counters, identification, segment bases, and the odd instructions of ring 0.
 *
 * Not done: performance counters. RDPMC raises #GP(0) for every index, as CPUID offers none.
 *
 * Source: SDM vol. 2; KVM's hypercalls: Documentation/virt/kvm/x86/hypercalls.rst.
 */
#include "isa/isa_internal.h"
#include "machine/cpu/cpuid.h"

static void put_edx_eax(struct cpu *c, u64 v)
{
    isa_gpr_put(c, RAX, 4, v);
    isa_gpr_put(c, RDX, 4, v >> 32);
}

int sys_rdmsr(struct isa *m, const struct isa_insn *insn)
{
    u64 v = 0;
    ISA_NEED_CPL0(m);
    ISA_TRY(m->ops->msr_read(m->ctx, (u32)m->cpu->gpr[RCX], &v));
    put_edx_eax(m->cpu, v);
    return CPU_OK;
}

int sys_wrmsr(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    u64 efer = c->efer, v = isa_gpr_get(c, RDX, 4) << 32 | isa_gpr_get(c, RAX, 4);
    ISA_NEED_CPL0(m);
    ISA_TRY(m->ops->msr_write(m->ctx, (u32)c->gpr[RCX], v));
    if (c->efer != efer) {
        m->ops->flush(m->ctx, ISA_FLUSH_ALL, GVA(0), 0);
        isa_mode_changed(m);
    }
    return CPU_OK;
}

static int check_tsd(struct isa *m)
{
    return (m->cpu->cr4 & CR4_TSD) && m->cpu->cpl != 0 ? isa_gp0(m) : CPU_OK;
}

int sys_rdtsc(struct isa *m, const struct isa_insn *insn)
{
    ISA_TRY(check_tsd(m));
    put_edx_eax(m->cpu, m->ops->tsc(m->ctx));
    return CPU_OK;
}

int sys_rdtscp(struct isa *m, const struct isa_insn *insn)
{
    ISA_TRY(check_tsd(m));
    put_edx_eax(m->cpu, m->ops->tsc(m->ctx));
    isa_gpr_put(m->cpu, RCX, 4, m->cpu->msr.tsc_aux);
    return CPU_OK;
}

int sys_rdpmc(struct isa *m, const struct isa_insn *insn)
{
    return isa_gp0(m);
}

int sys_rdpid(struct isa *m, const struct isa_insn *insn)
{
    isa_gpr_put(m->cpu, insn->op[0].reg, insn->mode == ISA_MODE_64 ? 8 : 4, (u32)m->cpu->msr.tsc_aux);
    return CPU_OK;
}

int sys_cpuid(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct cpuid_regs r = cpu_cpuid(c, (u32)c->gpr[RAX], (u32)c->gpr[RCX]);
    isa_gpr_put(c, RAX, 4, r.eax);
    isa_gpr_put(c, RBX, 4, r.ebx);
    isa_gpr_put(c, RCX, 4, r.ecx);
    isa_gpr_put(c, RDX, 4, r.edx);
    return CPU_OK;
}

static struct cpu_segment *base_segment(struct cpu *c, const struct isa_insn *insn)
{
    bool fs = insn->mnemonic == ZYDIS_MNEMONIC_RDFSBASE || insn->mnemonic == ZYDIS_MNEMONIC_WRFSBASE;
    return &c->seg[fs ? SEG_FS : SEG_GS];
}

static bool fsgsbase_usable(const struct cpu *c, const struct isa_insn *insn)
{
    return insn->mode == ISA_MODE_64 && (c->cr4 & CR4_FSGSBASE);
}

int sys_rdbase(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    if (!fsgsbase_usable(c, insn))
        return isa_ud(m);
    isa_gpr_put(c, insn->op[0].reg, isa_opsize(insn) == 8 ? 8 : 4, base_segment(c, insn)->base);
    return CPU_OK;
}

int sys_wrbase(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    u64 v = isa_gpr_get(c, insn->op[0].reg, isa_opsize(insn) == 8 ? 8 : 4);
    if (!fsgsbase_usable(c, insn))
        return isa_ud(m);
    if (!isa_canonical(v))
        return isa_gp0(m);
    base_segment(c, insn)->base = v;
    return CPU_OK;
}

int sys_swapgs(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    if (insn->mode != ISA_MODE_64)
        return isa_ud(m);
    ISA_NEED_CPL0(m);
    u64 base = c->seg[SEG_GS].base;
    c->seg[SEG_GS].base = c->msr.kernel_gs_base;
    c->msr.kernel_gs_base = base;
    return CPU_OK;
}

int sys_hlt(struct isa *m, const struct isa_insn *insn)
{
    ISA_NEED_CPL0(m);
    m->cpu->halted = 1;
    return CPU_OK;
}

/* WBINVD, INVD: guest memory is coherent whatever the guest's caches are told. */
int sys_wbinvd(struct isa *m, const struct isa_insn *insn)
{
    ISA_NEED_CPL0(m);
    return CPU_OK;
}

/* VMCALL, VMMCALL: hypercalls as KVM's leaf promises them (Linux Documentation/virt/kvm/x86/hypercalls.rst). */
int sys_vmcall(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    if (!c->model || !c->model->feature[FW_KVM_EAX])
        return isa_ud(m);
    u64 mask = cpu_code64(c) ? ~0ull : UINT32_MAX;
    const u64 args[4] = {c->gpr[RBX] & mask, c->gpr[RCX] & mask, c->gpr[RDX] & mask, c->gpr[RSI] & mask};
    s64 result = c->cpl ? -KVM_EPERM : -KVM_ENOSYS;
    if (!c->cpl && m->ops->hypercall)
        result = m->ops->hypercall(m->ctx, c->gpr[RAX] & mask, args);
    isa_gpr_put(c, RAX, cpu_code64(c) ? 8 : 4, (u64)result);
    return CPU_OK;
}
