/*
 * The features of CPUID, one table: what each is called, where its bit is, and on what terms a guest gets it.
 *
 *   X(ident, name, word, bit, kind, level, vendor, parent)
 *
 * name    as in /proc/cpuinfo; `--cpu` takes '-' and '.' for '_' as well
 * kind    BASE   every 64-bit processor has it; it can't be taken away
 *         OWN    the machine provides it itself (isa/, machine/), whatever the host has
 *         HOST   runs natively on the host or is a promise about the host: offered if the host has it
 *         SAME   says how the host's unit behaves: always the host's bit, in named levels too
 *         TOPO   follows from the number of CPUs
 *         NEVER  hidden: it can't be carried, or nobody has written it yet (the group's comment says why)
 * level   lowest x86-64-vN that has it (psABI for x86-64, 3.1.1; what BASE and OWN have is 1); 0: `host` only
 * vendor  ANY, INTEL, AMD: with the other vendor the bit means nothing
 * parent  a feature without which this one makes no sense (NONE: none); it falls together with its parent
 *
 * Sources: Intel SDM vol. 2A, CPUID; AMD APM vol. 3, appendix E; Linux Documentation/virt/kvm/x86/cpuid.rst.
 */
#ifndef TRAPEZE_MACHINE_CPU_FEATURES_H
#define TRAPEZE_MACHINE_CPU_FEATURES_H

#include "machine/cpu/cpuid.h"

/* clang-format off */
#define CPU_FEATURES(X)                                                              \
    /* --- CPUID 1 EDX --- */                                                        \
    X(FPU, "fpu", FW_1_EDX, 0, BASE, 1, ANY, NONE)                                   \
    X(VME, "vme", FW_1_EDX, 1, BASE, 1, ANY, NONE)                                   \
    X(DE, "de", FW_1_EDX, 2, BASE, 1, ANY, NONE)                                     \
    X(PSE, "pse", FW_1_EDX, 3, BASE, 1, ANY, NONE)                                   \
    X(TSC, "tsc", FW_1_EDX, 4, BASE, 1, ANY, NONE)                                   \
    X(MSR, "msr", FW_1_EDX, 5, BASE, 1, ANY, NONE)                                   \
    X(PAE, "pae", FW_1_EDX, 6, BASE, 1, ANY, NONE)                                   \
    X(MCE, "mce", FW_1_EDX, 7, BASE, 1, ANY, NONE)                                   \
    X(CX8, "cx8", FW_1_EDX, 8, BASE, 1, ANY, NONE)                                   \
    X(APIC, "apic", FW_1_EDX, 9, BASE, 1, ANY, NONE)                                 \
    X(SEP, "sep", FW_1_EDX, 11, BASE, 1, ANY, NONE)                                  \
    X(MTRR, "mtrr", FW_1_EDX, 12, BASE, 1, ANY, NONE)                                \
    X(PGE, "pge", FW_1_EDX, 13, BASE, 1, ANY, NONE)                                  \
    X(MCA, "mca", FW_1_EDX, 14, BASE, 1, ANY, NONE)                                  \
    X(CMOV, "cmov", FW_1_EDX, 15, BASE, 1, ANY, NONE)                                \
    X(PAT, "pat", FW_1_EDX, 16, BASE, 1, ANY, NONE)                                  \
    X(PSE36, "pse36", FW_1_EDX, 17, BASE, 1, ANY, NONE)                              \
    X(CLFLUSH, "clflush", FW_1_EDX, 19, BASE, 1, ANY, NONE)                          \
    X(MMX, "mmx", FW_1_EDX, 23, BASE, 1, ANY, NONE)                                  \
    X(FXSR, "fxsr", FW_1_EDX, 24, BASE, 1, ANY, NONE)                                \
    X(SSE, "sse", FW_1_EDX, 25, BASE, 1, ANY, NONE)                                  \
    X(SSE2, "sse2", FW_1_EDX, 26, BASE, 1, ANY, NONE)                                \
    X(SS, "ss", FW_1_EDX, 27, HOST, 0, INTEL, NONE)                                  \
    X(HT, "ht", FW_1_EDX, 28, TOPO, 1, ANY, NONE)                                    \
    /* debug store and thermal hardware */                                           \
    X(PN, "pn", FW_1_EDX, 18, NEVER, 0, ANY, NONE)                                   \
    X(DTS, "dts", FW_1_EDX, 21, NEVER, 0, ANY, NONE)                                 \
    X(ACPI, "acpi", FW_1_EDX, 22, NEVER, 0, ANY, NONE)                               \
    X(TM, "tm", FW_1_EDX, 29, NEVER, 0, ANY, NONE)                                   \
    X(PBE, "pbe", FW_1_EDX, 31, NEVER, 0, ANY, NONE)                                 \
    /* --- CPUID 1 ECX --- */                                                        \
    X(SSE3, "pni", FW_1_ECX, 0, HOST, 2, ANY, NONE)                                  \
    X(PCLMULQDQ, "pclmulqdq", FW_1_ECX, 1, HOST, 0, ANY, NONE)                       \
    X(SSSE3, "ssse3", FW_1_ECX, 9, HOST, 2, ANY, NONE)                               \
    X(FMA, "fma", FW_1_ECX, 12, HOST, 3, ANY, AVX)                                   \
    X(CX16, "cx16", FW_1_ECX, 13, HOST, 2, ANY, NONE)                                \
    X(PCID, "pcid", FW_1_ECX, 17, OWN, 1, ANY, NONE)                                 \
    X(SSE4_1, "sse4_1", FW_1_ECX, 19, HOST, 2, ANY, NONE)                            \
    X(SSE4_2, "sse4_2", FW_1_ECX, 20, HOST, 2, ANY, NONE)                            \
    X(X2APIC, "x2apic", FW_1_ECX, 21, OWN, 1, ANY, NONE)                             \
    X(MOVBE, "movbe", FW_1_ECX, 22, HOST, 3, ANY, NONE)                              \
    X(POPCNT, "popcnt", FW_1_ECX, 23, HOST, 2, ANY, NONE)                            \
    X(TSC_DEADLINE, "tsc_deadline_timer", FW_1_ECX, 24, OWN, 1, ANY, NONE)           \
    X(AES, "aes", FW_1_ECX, 25, HOST, 0, ANY, NONE)                                  \
    X(XSAVE, "xsave", FW_1_ECX, 26, OWN, 1, ANY, NONE)                               \
    X(AVX, "avx", FW_1_ECX, 28, HOST, 3, ANY, XSAVE)                                 \
    X(F16C, "f16c", FW_1_ECX, 29, HOST, 3, ANY, AVX)                                 \
    X(RDRAND, "rdrand", FW_1_ECX, 30, HOST, 0, ANY, NONE)                            \
    X(HYPERVISOR, "hypervisor", FW_1_ECX, 31, OWN, 1, ANY, NONE)                     \
    /* no MWAIT (an idle guest would spin), no nesting, no SMX, no power management, no debug store, no PCI-level cache */ \
    X(DTES64, "dtes64", FW_1_ECX, 2, NEVER, 0, ANY, NONE)                            \
    X(MONITOR, "monitor", FW_1_ECX, 3, NEVER, 0, ANY, NONE)                          \
    X(DS_CPL, "ds_cpl", FW_1_ECX, 4, NEVER, 0, ANY, NONE)                            \
    X(VMX, "vmx", FW_1_ECX, 5, NEVER, 0, ANY, NONE)                                  \
    X(SMX, "smx", FW_1_ECX, 6, NEVER, 0, ANY, NONE)                                  \
    X(EST, "est", FW_1_ECX, 7, NEVER, 0, ANY, NONE)                                  \
    X(TM2, "tm2", FW_1_ECX, 8, NEVER, 0, ANY, NONE)                                  \
    X(CID, "cid", FW_1_ECX, 10, NEVER, 0, ANY, NONE)                                 \
    X(SDBG, "sdbg", FW_1_ECX, 11, NEVER, 0, ANY, NONE)                               \
    X(XTPR, "xtpr", FW_1_ECX, 14, NEVER, 0, ANY, NONE)                               \
    X(PDCM, "pdcm", FW_1_ECX, 15, NEVER, 0, ANY, NONE)                               \
    X(DCA, "dca", FW_1_ECX, 18, NEVER, 0, ANY, NONE)                                 \
    /* --- CPUID 7 EBX --- */                                                        \
    X(FSGSBASE, "fsgsbase", FW_7_EBX, 0, OWN, 1, ANY, NONE)                          \
    X(TSC_ADJUST, "tsc_adjust", FW_7_EBX, 1, OWN, 1, ANY, NONE)                      \
    X(BMI1, "bmi1", FW_7_EBX, 3, HOST, 3, ANY, NONE)                                 \
    X(AVX2, "avx2", FW_7_EBX, 5, HOST, 3, ANY, AVX)                                  \
    X(FDP_EXCPTN_ONLY, "fdp_excptn_only", FW_7_EBX, 6, SAME, 1, ANY, NONE)           \
    X(SMEP, "smep", FW_7_EBX, 7, OWN, 1, ANY, NONE)                                  \
    X(BMI2, "bmi2", FW_7_EBX, 8, HOST, 3, ANY, NONE)                                 \
    X(ERMS, "erms", FW_7_EBX, 9, HOST, 0, ANY, NONE)                                 \
    X(INVPCID, "invpcid", FW_7_EBX, 10, OWN, 1, ANY, PCID)                           \
    X(ZERO_FCS_FDS, "zero_fcs_fds", FW_7_EBX, 13, OWN, 1, ANY, NONE)                 \
    X(AVX512F, "avx512f", FW_7_EBX, 16, HOST, 4, ANY, AVX2)                          \
    X(AVX512DQ, "avx512dq", FW_7_EBX, 17, HOST, 4, ANY, AVX512F)                     \
    X(RDSEED, "rdseed", FW_7_EBX, 18, HOST, 0, ANY, NONE)                            \
    X(ADX, "adx", FW_7_EBX, 19, HOST, 0, ANY, NONE)                                  \
    X(SMAP, "smap", FW_7_EBX, 20, OWN, 1, ANY, NONE)                                 \
    X(AVX512IFMA, "avx512ifma", FW_7_EBX, 21, HOST, 0, ANY, AVX512F)                 \
    X(CLFLUSHOPT, "clflushopt", FW_7_EBX, 23, HOST, 0, ANY, NONE)                    \
    X(CLWB, "clwb", FW_7_EBX, 24, HOST, 0, ANY, NONE)                                \
    X(AVX512CD, "avx512cd", FW_7_EBX, 28, HOST, 4, ANY, AVX512F)                     \
    X(SHA_NI, "sha_ni", FW_7_EBX, 29, HOST, 0, ANY, NONE)                            \
    X(AVX512BW, "avx512bw", FW_7_EBX, 30, HOST, 4, ANY, AVX512F)                     \
    X(AVX512VL, "avx512vl", FW_7_EBX, 31, HOST, 4, ANY, AVX512F)                     \
    /* transactions, enclaves, bounds registers and traces need hardware state that no engine carries */ \
    X(SGX, "sgx", FW_7_EBX, 2, NEVER, 0, ANY, NONE)                                  \
    X(HLE, "hle", FW_7_EBX, 4, NEVER, 0, ANY, NONE)                                  \
    X(RTM, "rtm", FW_7_EBX, 11, NEVER, 0, ANY, NONE)                                 \
    X(CQM, "cqm", FW_7_EBX, 12, NEVER, 0, ANY, NONE)                                 \
    X(MPX, "mpx", FW_7_EBX, 14, NEVER, 0, ANY, NONE)                                 \
    X(RDT_A, "rdt_a", FW_7_EBX, 15, NEVER, 0, ANY, NONE)                             \
    X(INTEL_PT, "intel_pt", FW_7_EBX, 25, NEVER, 0, ANY, NONE)                       \
    X(AVX512PF, "avx512pf", FW_7_EBX, 26, NEVER, 0, ANY, NONE)                       \
    X(AVX512ER, "avx512er", FW_7_EBX, 27, NEVER, 0, ANY, NONE)                       \
    /* --- CPUID 7 ECX --- */                                                        \
    X(AVX512VBMI, "avx512vbmi", FW_7_ECX, 1, HOST, 0, ANY, AVX512F)                  \
    X(UMIP, "umip", FW_7_ECX, 2, OWN, 1, ANY, NONE)                                  \
    X(AVX512_VBMI2, "avx512_vbmi2", FW_7_ECX, 6, HOST, 0, ANY, AVX512F)              \
    X(GFNI, "gfni", FW_7_ECX, 8, HOST, 0, ANY, NONE)                                 \
    X(VAES, "vaes", FW_7_ECX, 9, HOST, 0, ANY, AVX)                                  \
    X(VPCLMULQDQ, "vpclmulqdq", FW_7_ECX, 10, HOST, 0, ANY, AVX)                     \
    X(AVX512_VNNI, "avx512_vnni", FW_7_ECX, 11, HOST, 0, ANY, AVX512F)               \
    X(AVX512_BITALG, "avx512_bitalg", FW_7_ECX, 12, HOST, 0, ANY, AVX512F)           \
    X(AVX512_VPOPCNTDQ, "avx512_vpopcntdq", FW_7_ECX, 14, HOST, 0, ANY, AVX512F)     \
    X(RDPID, "rdpid", FW_7_ECX, 22, OWN, 1, ANY, NONE)                               \
    X(CLDEMOTE, "cldemote", FW_7_ECX, 25, HOST, 0, ANY, NONE)                        \
    X(MOVDIRI, "movdiri", FW_7_ECX, 27, HOST, 0, ANY, NONE)                          \
    /* protection keys, shadow stacks, user waits and key lockers are state of the host's process, not the guest's; five-level \
       paging is not there; MOVDIR64B and ENQCMD have a second memory operand */ \
    X(PREFETCHWT1, "prefetchwt1", FW_7_ECX, 0, NEVER, 0, ANY, NONE)                  \
    X(PKU, "pku", FW_7_ECX, 3, NEVER, 0, ANY, NONE)                                  \
    X(OSPKE, "ospke", FW_7_ECX, 4, NEVER, 0, ANY, NONE)                              \
    X(WAITPKG, "waitpkg", FW_7_ECX, 5, NEVER, 0, ANY, NONE)                          \
    X(SHSTK, "shstk", FW_7_ECX, 7, NEVER, 0, ANY, NONE)                              \
    X(TME, "tme", FW_7_ECX, 13, NEVER, 0, ANY, NONE)                                 \
    X(LA57, "la57", FW_7_ECX, 16, NEVER, 0, ANY, NONE)                               \
    X(KEYLOCKER, "keylocker", FW_7_ECX, 23, NEVER, 0, ANY, NONE)                     \
    X(BUS_LOCK_DETECT, "bus_lock_detect", FW_7_ECX, 24, NEVER, 0, ANY, NONE)         \
    X(MOVDIR64B, "movdir64b", FW_7_ECX, 28, NEVER, 0, ANY, NONE)                     \
    X(ENQCMD, "enqcmd", FW_7_ECX, 29, NEVER, 0, ANY, NONE)                           \
    X(SGX_LC, "sgx_lc", FW_7_ECX, 30, NEVER, 0, ANY, NONE)                           \
    X(PKS, "pks", FW_7_ECX, 31, NEVER, 0, ANY, NONE)                                 \
    /* --- CPUID 7 EDX; SPEC_CTRL and ARCH_CAPABILITIES are plain storage and fixed answers (msr.c) --- */ \
    X(FSRM, "fsrm", FW_7_EDX, 4, HOST, 0, ANY, NONE)                                 \
    X(AVX512_VP2INTERSECT, "avx512_vp2intersect", FW_7_EDX, 8, HOST, 0, ANY, AVX512F) \
    X(SERIALIZE, "serialize", FW_7_EDX, 14, HOST, 0, ANY, NONE)                      \
    X(AVX512_FP16, "avx512_fp16", FW_7_EDX, 23, HOST, 0, ANY, AVX512BW)              \
    X(SPEC_CTRL, "spec_ctrl", FW_7_EDX, 26, OWN, 1, INTEL, NONE)                     \
    X(INTEL_STIBP, "intel_stibp", FW_7_EDX, 27, OWN, 1, INTEL, SPEC_CTRL)            \
    X(ARCH_CAPABILITIES, "arch_capabilities", FW_7_EDX, 29, OWN, 1, INTEL, NONE)     \
    X(UINTR, "uintr", FW_7_EDX, 5, NEVER, 0, ANY, NONE)                              \
    X(AVX512_4VNNIW, "avx512_4vnniw", FW_7_EDX, 2, NEVER, 0, ANY, NONE)              \
    X(AVX512_4FMAPS, "avx512_4fmaps", FW_7_EDX, 3, NEVER, 0, ANY, NONE)              \
    X(MD_CLEAR, "md_clear", FW_7_EDX, 10, NEVER, 0, ANY, NONE)                       \
    X(RTM_ALWAYS_ABORT, "rtm_always_abort", FW_7_EDX, 11, NEVER, 0, ANY, NONE)       \
    X(TSX_FORCE_ABORT, "tsx_force_abort", FW_7_EDX, 13, NEVER, 0, ANY, NONE)         \
    X(HYBRID, "hybrid_cpu", FW_7_EDX, 15, NEVER, 0, ANY, NONE)                       \
    X(TSXLDTRK, "tsxldtrk", FW_7_EDX, 16, NEVER, 0, ANY, NONE)                       \
    X(PCONFIG, "pconfig", FW_7_EDX, 18, NEVER, 0, ANY, NONE)                         \
    X(ARCH_LBR, "arch_lbr", FW_7_EDX, 19, NEVER, 0, ANY, NONE)                       \
    X(IBT, "ibt", FW_7_EDX, 20, NEVER, 0, ANY, NONE)                                 \
    X(AMX_BF16, "amx_bf16", FW_7_EDX, 22, NEVER, 0, ANY, NONE)                       \
    X(AMX_TILE, "amx_tile", FW_7_EDX, 24, NEVER, 0, ANY, NONE)                       \
    X(AMX_INT8, "amx_int8", FW_7_EDX, 25, NEVER, 0, ANY, NONE)                       \
    X(FLUSH_L1D, "flush_l1d", FW_7_EDX, 28, NEVER, 0, ANY, NONE)                     \
    X(CORE_CAPABILITIES, "core_capabilities", FW_7_EDX, 30, NEVER, 0, ANY, NONE)     \
    X(SPEC_CTRL_SSBD, "ssbd", FW_7_EDX, 31, NEVER, 0, ANY, NONE)                     \
    /* --- CPUID 7.1 EAX; what the decoder doesn't know yet (SHA-512, SM3, SM4, AVX-IFMA, CMPCCXADD, RAO-INT) is hidden --- */ \
    X(AVX_VNNI, "avx_vnni", FW_7_1_EAX, 4, HOST, 0, ANY, AVX2)                       \
    X(AVX512_BF16, "avx512_bf16", FW_7_1_EAX, 5, HOST, 0, ANY, AVX512BW)             \
    X(FZRM, "fzrm", FW_7_1_EAX, 10, HOST, 0, ANY, NONE)                              \
    X(FSRS, "fsrs", FW_7_1_EAX, 11, HOST, 0, ANY, NONE)                              \
    X(FSRC, "fsrc", FW_7_1_EAX, 12, HOST, 0, ANY, NONE)                              \
    X(SHA512, "sha512", FW_7_1_EAX, 0, NEVER, 0, ANY, NONE)                          \
    X(SM3, "sm3", FW_7_1_EAX, 1, NEVER, 0, ANY, NONE)                                \
    X(SM4, "sm4", FW_7_1_EAX, 2, NEVER, 0, ANY, NONE)                                \
    X(RAO_INT, "rao_int", FW_7_1_EAX, 3, NEVER, 0, ANY, NONE)                        \
    X(LASS, "lass", FW_7_1_EAX, 6, NEVER, 0, ANY, NONE)                              \
    X(CMPCCXADD, "cmpccxadd", FW_7_1_EAX, 7, NEVER, 0, ANY, NONE)                    \
    X(FRED, "fred", FW_7_1_EAX, 17, NEVER, 0, ANY, NONE)                             \
    X(LKGS, "lkgs", FW_7_1_EAX, 18, NEVER, 0, ANY, NONE)                             \
    X(WRMSRNS, "wrmsrns", FW_7_1_EAX, 19, NEVER, 0, ANY, NONE)                       \
    X(AMX_FP16, "amx_fp16", FW_7_1_EAX, 21, NEVER, 0, ANY, NONE)                     \
    X(HRESET, "hreset", FW_7_1_EAX, 22, NEVER, 0, ANY, NONE)                         \
    X(AVX_IFMA, "avx_ifma", FW_7_1_EAX, 23, NEVER, 0, ANY, NONE)                     \
    X(LAM, "lam", FW_7_1_EAX, 26, NEVER, 0, ANY, NONE)                               \
    /* --- CPUID 7.2 EDX --- */                                                      \
    X(BHI_CTRL, "bhi_ctrl", FW_7_2_EDX, 4, OWN, 1, INTEL, SPEC_CTRL)                 \
    X(MCDT_NO, "mcdt_no", FW_7_2_EDX, 5, SAME, 1, INTEL, NONE)                       \
    X(PSFD, "psfd", FW_7_2_EDX, 0, NEVER, 0, ANY, NONE)                              \
    X(IPRED_CTRL, "ipred_ctrl", FW_7_2_EDX, 1, NEVER, 0, ANY, NONE)                  \
    X(RRSBA_CTRL, "rrsba_ctrl", FW_7_2_EDX, 2, NEVER, 0, ANY, NONE)                  \
    X(DDPD_U, "ddpd_u", FW_7_2_EDX, 3, NEVER, 0, ANY, NONE)                          \
    /* --- CPUID 0Dh.1 EAX --- */                                                    \
    X(XSAVEOPT, "xsaveopt", FW_D_1_EAX, 0, OWN, 1, ANY, XSAVE)                       \
    X(XSAVEC, "xsavec", FW_D_1_EAX, 1, OWN, 1, ANY, XSAVE)                           \
    X(XGETBV1, "xgetbv1", FW_D_1_EAX, 2, OWN, 1, ANY, XSAVE)                         \
    X(XSAVES, "xsaves", FW_D_1_EAX, 3, NEVER, 0, ANY, NONE)                          \
    X(XFD, "xfd", FW_D_1_EAX, 4, NEVER, 0, ANY, NONE)                                \
    /* --- CPUID 80000001h EDX --- */                                                \
    X(SYSCALL, "syscall", FW_80000001_EDX, 11, BASE, 1, ANY, NONE)                   \
    X(NX, "nx", FW_80000001_EDX, 20, BASE, 1, ANY, NONE)                             \
    X(MMXEXT, "mmxext", FW_80000001_EDX, 22, HOST, 0, AMD, NONE)                     \
    X(PDPE1GB, "pdpe1gb", FW_80000001_EDX, 26, OWN, 1, ANY, NONE)                    \
    X(RDTSCP, "rdtscp", FW_80000001_EDX, 27, OWN, 1, ANY, NONE)                      \
    X(LM, "lm", FW_80000001_EDX, 29, BASE, 1, ANY, NONE)                             \
    X(FXSR_OPT, "fxsr_opt", FW_80000001_EDX, 25, NEVER, 0, ANY, NONE)                \
    X(AMD_3DNOWEXT, "3dnowext", FW_80000001_EDX, 30, NEVER, 0, ANY, NONE)            \
    X(AMD_3DNOW, "3dnow", FW_80000001_EDX, 31, NEVER, 0, ANY, NONE)                  \
    /* --- CPUID 80000001h ECX --- */                                                \
    X(LAHF_LM, "lahf_lm", FW_80000001_ECX, 0, HOST, 2, ANY, NONE)                    \
    X(CMP_LEGACY, "cmp_legacy", FW_80000001_ECX, 1, TOPO, 1, AMD, NONE)              \
    X(ABM, "abm", FW_80000001_ECX, 5, HOST, 3, ANY, NONE)                            \
    X(SSE4A, "sse4a", FW_80000001_ECX, 6, HOST, 0, AMD, NONE)                        \
    X(MISALIGNSSE, "misalignsse", FW_80000001_ECX, 7, SAME, 1, AMD, NONE)            \
    X(PREFETCHW, "3dnowprefetch", FW_80000001_ECX, 8, HOST, 0, ANY, NONE)            \
    X(TOPOEXT, "topoext", FW_80000001_ECX, 22, OWN, 1, AMD, NONE)                    \
    /* no nesting, no counters, no XOP family (gone from all processors made since), no MWAITX */ \
    X(SVM, "svm", FW_80000001_ECX, 2, NEVER, 0, ANY, NONE)                           \
    X(EXTAPIC, "extapic", FW_80000001_ECX, 3, NEVER, 0, ANY, NONE)                   \
    X(CR8_LEGACY, "cr8_legacy", FW_80000001_ECX, 4, NEVER, 0, ANY, NONE)             \
    X(OSVW, "osvw", FW_80000001_ECX, 9, NEVER, 0, ANY, NONE)                         \
    X(IBS, "ibs", FW_80000001_ECX, 10, NEVER, 0, ANY, NONE)                          \
    X(XOP, "xop", FW_80000001_ECX, 11, NEVER, 0, ANY, NONE)                          \
    X(SKINIT, "skinit", FW_80000001_ECX, 12, NEVER, 0, ANY, NONE)                    \
    X(WDT, "wdt", FW_80000001_ECX, 13, NEVER, 0, ANY, NONE)                          \
    X(LWP, "lwp", FW_80000001_ECX, 15, NEVER, 0, ANY, NONE)                          \
    X(FMA4, "fma4", FW_80000001_ECX, 16, NEVER, 0, ANY, NONE)                        \
    X(TCE, "tce", FW_80000001_ECX, 17, NEVER, 0, ANY, NONE)                          \
    X(TBM, "tbm", FW_80000001_ECX, 21, NEVER, 0, ANY, NONE)                          \
    X(PERFCTR_CORE, "perfctr_core", FW_80000001_ECX, 23, NEVER, 0, ANY, NONE)        \
    X(PERFCTR_NB, "perfctr_nb", FW_80000001_ECX, 24, NEVER, 0, ANY, NONE)            \
    X(BPEXT, "bpext", FW_80000001_ECX, 26, NEVER, 0, ANY, NONE)                      \
    X(PERFCTR_LLC, "perfctr_llc", FW_80000001_ECX, 28, NEVER, 0, ANY, NONE)          \
    X(MWAITX, "mwaitx", FW_80000001_ECX, 29, NEVER, 0, ANY, NONE)                    \
    /* --- CPUID 80000007h EDX, 80000008h EBX, 80000021h EAX --- */                  \
    X(INVTSC, "invtsc", FW_80000007_EDX, 8, HOST, 0, ANY, NONE)                      \
    X(XSAVEERPTR, "xsaveerptr", FW_80000008_EBX, 2, SAME, 1, AMD, NONE)              \
    X(AMD_IBPB, "ibpb", FW_80000008_EBX, 12, OWN, 1, AMD, NONE)                      \
    X(AMD_IBRS, "ibrs", FW_80000008_EBX, 14, OWN, 1, AMD, NONE)                      \
    X(AMD_STIBP, "stibp", FW_80000008_EBX, 15, OWN, 1, AMD, NONE)                    \
    X(AMD_SSB_NO, "amd_ssb_no", FW_80000008_EBX, 26, OWN, 1, AMD, NONE)              \
    X(IBPB_RET, "ibpb_ret", FW_80000008_EBX, 30, OWN, 1, AMD, AMD_IBPB)              \
    X(BTC_NO, "btc_no", FW_80000008_EBX, 29, OWN, 1, AMD, NONE)                      \
    X(CLZERO, "clzero", FW_80000008_EBX, 0, NEVER, 0, ANY, NONE)                     \
    X(RDPRU, "rdpru", FW_80000008_EBX, 4, NEVER, 0, ANY, NONE)                       \
    X(WBNOINVD, "wbnoinvd", FW_80000008_EBX, 9, NEVER, 0, ANY, NONE)                 \
    X(AMD_SSBD, "amd_ssbd", FW_80000008_EBX, 24, NEVER, 0, ANY, NONE)                \
    X(VIRT_SSBD, "virt_ssbd", FW_80000008_EBX, 25, NEVER, 0, ANY, NONE)              \
    X(NO_NESTED_DATA_BP, "no_nested_data_bp", FW_80000021_EAX, 0, HOST, 0, AMD, NONE) \
    X(LFENCE_RDTSC, "lfence_rdtsc", FW_80000021_EAX, 2, OWN, 1, AMD, NONE)           \
    X(AUTOIBRS, "autoibrs", FW_80000021_EAX, 8, OWN, 1, AMD, NONE)                   \
    X(SRSO_NO, "srso_no", FW_80000021_EAX, 29, OWN, 1, AMD, NONE)                    \
    /* --- CPUID 40000001h EAX: KVM's paravirtual interfaces (kvmpv.h) --- */        \
    X(KVM_CLOCKSOURCE, "kvmclock_old", FW_KVM_EAX, 0, OWN, 1, ANY, HYPERVISOR)       \
    X(KVM_NOP_IO_DELAY, "kvm_nopiodelay", FW_KVM_EAX, 1, OWN, 1, ANY, HYPERVISOR)    \
    X(KVM_CLOCKSOURCE2, "kvmclock", FW_KVM_EAX, 3, OWN, 1, ANY, HYPERVISOR)          \
    X(KVM_PV_EOI, "kvm_pv_eoi", FW_KVM_EAX, 6, OWN, 1, ANY, HYPERVISOR)              \
    X(KVM_CLOCK_STABLE, "kvmclock_stable_bit", FW_KVM_EAX, 24, OWN, 1, ANY, HYPERVISOR) \
    X(KVM_ASYNC_PF, "kvm_asyncpf", FW_KVM_EAX, 4, NEVER, 0, ANY, NONE)               \
    X(KVM_STEAL_TIME, "kvm_steal_time", FW_KVM_EAX, 5, OWN, 1, ANY, HYPERVISOR)      \
    X(KVM_PV_UNHALT, "kvm_pv_unhalt", FW_KVM_EAX, 7, OWN, 1, ANY, HYPERVISOR)        \
    X(KVM_PV_TLB_FLUSH, "kvm_pv_tlb_flush", FW_KVM_EAX, 9, OWN, 1, ANY, KVM_STEAL_TIME)\
    X(KVM_PV_IPI, "kvm_pv_ipi", FW_KVM_EAX, 11, OWN, 1, ANY, HYPERVISOR)             \
    X(KVM_POLL_CONTROL, "kvm_poll_control", FW_KVM_EAX, 12, NEVER, 0, ANY, NONE)
/* clang-format on */

/* FEAT_AVX512F and the like, for cpu_has. */
enum cpu_feature {
#define X(ident, name, word, bit, kind, level, vendor, parent) FEAT_##ident = FEAT(word, bit),
    CPU_FEATURES(X)
#undef X
        FEAT_NONE = 0xffff
};

enum cpu_feature_kind {
    CPU_FEATURE_BASE,
    CPU_FEATURE_OWN,
    CPU_FEATURE_HOST,
    CPU_FEATURE_SAME,
    CPU_FEATURE_TOPO,
    CPU_FEATURE_NEVER
};
enum cpu_feature_vendor { CPU_FEATURE_ANY, CPU_FEATURE_INTEL, CPU_FEATURE_AMD };

/* A row of the table as data. */
struct cpu_feature_row {
    const char *name;
    u16 feature; /* FEAT(word, bit) */
    u16 parent;  /* the same, or FEAT_NONE */
    u8 kind, level, vendor;
};

/* All rows, for model.c, tests and `doctor`: *n of them. */
const struct cpu_feature_row *cpu_feature_rows(size_t *n);

#endif
