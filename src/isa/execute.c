/*
 * The dispatch table: which function gives which mnemonic its meaning.
 *
 * Mnemonics of the XSAVE family go to isa_xsave. What the decoder knows but no model of this machine offers is #UD, by
 * the instruction's class, without a row here.
 */
#include "isa/isa_internal.h"

#define M(name) ZYDIS_MNEMONIC_##name

static const struct sys_row rows[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
    [M(JO)] = {sys_jcc, SYS_BRANCH},
    [M(JNO)] = {sys_jcc, SYS_BRANCH},
    [M(JB)] = {sys_jcc, SYS_BRANCH},
    [M(JNB)] = {sys_jcc, SYS_BRANCH},
    [M(JZ)] = {sys_jcc, SYS_BRANCH},
    [M(JNZ)] = {sys_jcc, SYS_BRANCH},
    [M(JBE)] = {sys_jcc, SYS_BRANCH},
    [M(JNBE)] = {sys_jcc, SYS_BRANCH},
    [M(JS)] = {sys_jcc, SYS_BRANCH},
    [M(JNS)] = {sys_jcc, SYS_BRANCH},
    [M(JP)] = {sys_jcc, SYS_BRANCH},
    [M(JNP)] = {sys_jcc, SYS_BRANCH},
    [M(JL)] = {sys_jcc, SYS_BRANCH},
    [M(JNL)] = {sys_jcc, SYS_BRANCH},
    [M(JLE)] = {sys_jcc, SYS_BRANCH},
    [M(JNLE)] = {sys_jcc, SYS_BRANCH},
    [M(JCXZ)] = {sys_jrcxz, SYS_BRANCH},
    [M(JECXZ)] = {sys_jrcxz, SYS_BRANCH},
    [M(JRCXZ)] = {sys_jrcxz, SYS_BRANCH},
    [M(LOOP)] = {sys_loop, SYS_BRANCH},
    [M(LOOPE)] = {sys_loop, SYS_BRANCH},
    [M(LOOPNE)] = {sys_loop, SYS_BRANCH},
    [M(JMP)] = {sys_jmp, SYS_BRANCH},
    [M(CALL)] = {sys_call, SYS_BRANCH},
    [M(RET)] = {sys_ret, SYS_BRANCH},

    [M(IRET)] = {sys_iret, SYS_BRANCH | SYS_KEEP_RF},
    [M(IRETD)] = {sys_iret, SYS_BRANCH | SYS_KEEP_RF},
    [M(IRETQ)] = {sys_iret, SYS_BRANCH | SYS_KEEP_RF},
    [M(INT)] = {sys_int, SYS_BRANCH | SYS_KEEP_RF},
    [M(INT1)] = {sys_int1, SYS_BRANCH | SYS_KEEP_RF},
    [M(INT3)] = {sys_int3, SYS_BRANCH | SYS_KEEP_RF},
    [M(INTO)] = {sys_into, SYS_BRANCH | SYS_KEEP_RF},
    [M(BOUND)] = {sys_bound, 0},

    [M(MOV)] = {sys_mov, 0},
    [M(PUSH)] = {sys_push, 0},
    [M(POP)] = {sys_pop, 0},
    [M(LDS)] = {sys_load_far, 0},
    [M(LES)] = {sys_load_far, 0},
    [M(LFS)] = {sys_load_far, 0},
    [M(LGS)] = {sys_load_far, 0},
    [M(LSS)] = {sys_load_far, 0},
    [M(LLDT)] = {sys_lldt, SYS_PROT},
    [M(LTR)] = {sys_ltr, SYS_PROT},
    [M(SLDT)] = {sys_sldt, SYS_PROT},
    [M(STR)] = {sys_str, SYS_PROT},
    [M(SGDT)] = {sys_sgdt, 0},
    [M(SIDT)] = {sys_sidt, 0},
    [M(LGDT)] = {sys_lgdt, 0},
    [M(LIDT)] = {sys_lidt, 0},
    [M(LAR)] = {sys_lar, SYS_PROT},
    [M(LSL)] = {sys_lsl, SYS_PROT},
    [M(VERR)] = {sys_verr, SYS_PROT},
    [M(VERW)] = {sys_verw, SYS_PROT},
    [M(ARPL)] = {sys_arpl, SYS_PROT},

    [M(PUSHF)] = {sys_pushf, 0},
    [M(PUSHFD)] = {sys_pushf, 0},
    [M(PUSHFQ)] = {sys_pushf, 0},
    [M(POPF)] = {sys_popf, 0},
    [M(POPFD)] = {sys_popf, 0},
    [M(POPFQ)] = {sys_popf, 0},
    [M(CLI)] = {sys_cli, 0},
    [M(STI)] = {sys_sti, 0},
    [M(CLAC)] = {sys_clac, 0},
    [M(STAC)] = {sys_stac, 0},

    [M(IN)] = {sys_in, 0},
    [M(OUT)] = {sys_out, 0},
    [M(INSB)] = {sys_ins, SYS_BRANCH},
    [M(INSW)] = {sys_ins, SYS_BRANCH},
    [M(INSD)] = {sys_ins, SYS_BRANCH},
    [M(OUTSB)] = {sys_outs, SYS_BRANCH},
    [M(OUTSW)] = {sys_outs, SYS_BRANCH},
    [M(OUTSD)] = {sys_outs, SYS_BRANCH},

    [M(CLTS)] = {sys_clts, 0},
    [M(LMSW)] = {sys_lmsw, 0},
    [M(SMSW)] = {sys_smsw, 0},
    [M(INVLPG)] = {sys_invlpg, 0},
    [M(INVPCID)] = {sys_invpcid, 0},
    [M(XGETBV)] = {sys_xgetbv, 0},
    [M(XSETBV)] = {sys_xsetbv, 0},

    [M(RDMSR)] = {sys_rdmsr, 0},
    [M(WRMSR)] = {sys_wrmsr, 0},
    [M(RDTSC)] = {sys_rdtsc, 0},
    [M(RDTSCP)] = {sys_rdtscp, 0},
    [M(RDPMC)] = {sys_rdpmc, 0},
    [M(RDPID)] = {sys_rdpid, 0},
    [M(CPUID)] = {sys_cpuid, 0},
    [M(RDFSBASE)] = {sys_rdbase, 0},
    [M(RDGSBASE)] = {sys_rdbase, 0},
    [M(WRFSBASE)] = {sys_wrbase, 0},
    [M(WRGSBASE)] = {sys_wrbase, 0},
    [M(SWAPGS)] = {sys_swapgs, 0},
    [M(HLT)] = {sys_hlt, 0},
    [M(WBINVD)] = {sys_wbinvd, 0},
    [M(INVD)] = {sys_wbinvd, 0},
    [M(VMCALL)] = {sys_vmcall, 0},
    [M(VMMCALL)] = {sys_vmcall, 0},

    [M(SYSCALL)] = {sys_syscall, SYS_BRANCH},
    [M(SYSRET)] = {sys_sysret, SYS_BRANCH | SYS_PROT},
    [M(SYSENTER)] = {sys_sysenter, SYS_BRANCH},
    [M(SYSEXIT)] = {sys_sysexit, SYS_BRANCH},

    [M(FXSAVE)] = {isa_xsave, 0},
    [M(FXSAVE64)] = {isa_xsave, 0},
    [M(FXRSTOR)] = {isa_xsave, 0},
    [M(FXRSTOR64)] = {isa_xsave, 0},
    [M(XSAVE)] = {isa_xsave, 0},
    [M(XSAVE64)] = {isa_xsave, 0},
    [M(XSAVEC)] = {isa_xsave, 0},
    [M(XSAVEC64)] = {isa_xsave, 0},
    [M(XSAVEOPT)] = {isa_xsave, 0},
    [M(XSAVEOPT64)] = {isa_xsave, 0},
    [M(XSAVES)] = {isa_xsave, 0},
    [M(XSAVES64)] = {isa_xsave, 0},
    [M(XRSTOR)] = {isa_xsave, 0},
    [M(XRSTOR64)] = {isa_xsave, 0},
    [M(XRSTORS)] = {isa_xsave, 0},
    [M(XRSTORS64)] = {isa_xsave, 0},

    /* Hidden by CPUID, whatever the host has */
    [M(MONITOR)] = {sys_ud, 0},
    [M(MWAIT)] = {sys_ud, 0},
    [M(UD0)] = {sys_ud, 0},
    [M(UD1)] = {sys_ud, 0},
    [M(UD2)] = {sys_ud, 0},
    [M(RSM)] = {sys_ud, 0},
};

int sys_ud(struct isa *m, const struct isa_insn *insn)
{
    return isa_ud(m);
}

const struct sys_row *isa_row(u16 mnemonic)
{
    return mnemonic < ARRAY_LEN(rows) && rows[mnemonic].fn ? &rows[mnemonic] : NULL;
}

int isa_execute(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    const struct sys_row *row = isa_row(insn->mnemonic);
    if (!row)
        return insn->cls == ISA_UNSUPPORTED ? isa_ud(m)
                                            : cpu_unimplemented(c, "instruction %s", isa_mnemonic_name(insn->mnemonic));
    if ((row->flags & SYS_PROT) && cpu_paragraphs(c))
        return isa_ud(m);
    int r = row->fn(m, insn);
    if (r != CPU_OK)
        return r == ISA_SWITCHED ? CPU_OK : r;
    if (!(row->flags & SYS_BRANCH))
        c->rip = isa_next_rip(c, insn);
    if (!(row->flags & SYS_KEEP_RF))
        c->sysflags &= ~FL_RF;
    return CPU_OK;
}
