/*
 * The classification of instructions.
 *
 * Two tables decide. `rows` names every mnemonic that is not innocuous, with the reason. `sets` is the allow-list: what is
 * not in `rows` is innocuous only if its instruction set is listed here; an instruction set that nobody has looked at is
 * unsupported, so that a newer decoder library can not let an unknown sensitive instruction through.
 *
 * Popek and Goldberg (1974): privileged instructions trap outside the most privileged mode; sensitive ones show or change
 * machine state. A machine can be virtualised by trapping alone if all sensitive instructions are privileged. On x86 they
 * are not (Robin and Irvine 2000): those are the ISA_SENSITIVE rows, and what the I/O privilege level changes is
 * ISA_IOPL_SENSITIVE. Where several reasons hold, the row names the one that makes it dangerous in user mode.
 *
 * ISA_UNSUPPORTED means #UD: what no model of this machine offers (machine/cpu/cpuid.h hides its CPUID bits), or what is
 * defined to raise #UD.
 *
 * Innocuous, but worth knowing
 *  - RDRAND, RDSEED: the result is not deterministic (isa_nondeterministic)
 *  - FNSTENV, FNSAVE: store the address of the last x87 instruction: the engine must patch it when it ran native code
 *  - instructions that 64-bit mode lacks (BCD arithmetic, PUSHA, BOUND, ARPL, SALC, one-byte INC and DEC) are innocuous in
 *    their own mode, but a 64-bit host can not run them natively
 *  - SERIALIZE, CLFLUSH and its kin: no more than a hint or a fence for a program, whoever runs it
 */
#include "isa/class.h"
#include "machine/cpu/cpuid.h"

/* mnemonic, class, form, reason */
#define ROWS(X)                                                                                                  \
    /* near transfers of control */                                                                              \
    X(ZYDIS_MNEMONIC_CALL, ISA_SENSITIVE, ISA_FORM_FAR, "loads CS, may pass a gate")                             \
    X(ZYDIS_MNEMONIC_JMP, ISA_SENSITIVE, ISA_FORM_FAR, "loads CS, may pass a gate")                              \
    X(ZYDIS_MNEMONIC_RET, ISA_SENSITIVE, ISA_FORM_FAR, "loads CS, may change the privilege level")               \
    X(ZYDIS_MNEMONIC_CALL, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                       \
    X(ZYDIS_MNEMONIC_JMP, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                        \
    X(ZYDIS_MNEMONIC_RET, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                        \
    X(ZYDIS_MNEMONIC_JB, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                         \
    X(ZYDIS_MNEMONIC_JBE, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                        \
    X(ZYDIS_MNEMONIC_JL, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                         \
    X(ZYDIS_MNEMONIC_JLE, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                        \
    X(ZYDIS_MNEMONIC_JNB, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                        \
    X(ZYDIS_MNEMONIC_JNBE, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                       \
    X(ZYDIS_MNEMONIC_JNL, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                        \
    X(ZYDIS_MNEMONIC_JNLE, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                       \
    X(ZYDIS_MNEMONIC_JNO, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                        \
    X(ZYDIS_MNEMONIC_JNP, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                        \
    X(ZYDIS_MNEMONIC_JNS, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                        \
    X(ZYDIS_MNEMONIC_JNZ, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                        \
    X(ZYDIS_MNEMONIC_JO, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                         \
    X(ZYDIS_MNEMONIC_JP, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                         \
    X(ZYDIS_MNEMONIC_JS, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                         \
    X(ZYDIS_MNEMONIC_JZ, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                         \
    X(ZYDIS_MNEMONIC_JCXZ, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                       \
    X(ZYDIS_MNEMONIC_JECXZ, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                      \
    X(ZYDIS_MNEMONIC_JRCXZ, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                      \
    X(ZYDIS_MNEMONIC_LOOP, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                       \
    X(ZYDIS_MNEMONIC_LOOPE, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                      \
    X(ZYDIS_MNEMONIC_LOOPNE, ISA_CONTROL, ISA_FORM_ANY, "transfers control")                                     \
    /* events and returns from them */                                                                           \
    X(ZYDIS_MNEMONIC_IRET, ISA_SENSITIVE, ISA_FORM_ANY, "returns from an event: loads CS, SS and flags")         \
    X(ZYDIS_MNEMONIC_IRETD, ISA_SENSITIVE, ISA_FORM_ANY, "returns from an event: loads CS, SS and flags")        \
    X(ZYDIS_MNEMONIC_IRETQ, ISA_SENSITIVE, ISA_FORM_ANY, "returns from an event: loads CS, SS and flags")        \
    X(ZYDIS_MNEMONIC_INT, ISA_SENSITIVE, ISA_FORM_ANY, "enters a handler through the IDT")                       \
    X(ZYDIS_MNEMONIC_INT3, ISA_SENSITIVE, ISA_FORM_ANY, "enters a handler through the IDT")                      \
    X(ZYDIS_MNEMONIC_INT1, ISA_SENSITIVE, ISA_FORM_ANY, "enters a handler through the IDT")                      \
    X(ZYDIS_MNEMONIC_INTO, ISA_SENSITIVE, ISA_FORM_ANY, "enters a handler through the IDT")                      \
    X(ZYDIS_MNEMONIC_SYSCALL, ISA_SENSITIVE, ISA_FORM_ANY, "enters the kernel through an MSR")                   \
    X(ZYDIS_MNEMONIC_SYSENTER, ISA_SENSITIVE, ISA_FORM_ANY, "enters the kernel through an MSR")                  \
    X(ZYDIS_MNEMONIC_SYSRET, ISA_PRIVILEGED, ISA_FORM_ANY, "leaves the kernel through an MSR")                   \
    X(ZYDIS_MNEMONIC_SYSEXIT, ISA_PRIVILEGED, ISA_FORM_ANY, "leaves the kernel through an MSR")                  \
    X(ZYDIS_MNEMONIC_VMCALL, ISA_SENSITIVE, ISA_FORM_ANY, "calls the hypervisor")                                \
    X(ZYDIS_MNEMONIC_VMMCALL, ISA_SENSITIVE, ISA_FORM_ANY, "calls the hypervisor")                               \
    /* descriptor tables, segments */                                                                            \
    X(ZYDIS_MNEMONIC_SGDT, ISA_SENSITIVE, ISA_FORM_ANY, "shows the base of a system table")                      \
    X(ZYDIS_MNEMONIC_SIDT, ISA_SENSITIVE, ISA_FORM_ANY, "shows the base of a system table")                      \
    X(ZYDIS_MNEMONIC_SLDT, ISA_SENSITIVE, ISA_FORM_ANY, "shows a system selector")                               \
    X(ZYDIS_MNEMONIC_STR, ISA_SENSITIVE, ISA_FORM_ANY, "shows a system selector")                                \
    X(ZYDIS_MNEMONIC_SMSW, ISA_SENSITIVE, ISA_FORM_ANY, "shows CR0")                                             \
    X(ZYDIS_MNEMONIC_LGDT, ISA_PRIVILEGED, ISA_FORM_ANY, "loads a system table")                                 \
    X(ZYDIS_MNEMONIC_LIDT, ISA_PRIVILEGED, ISA_FORM_ANY, "loads a system table")                                 \
    X(ZYDIS_MNEMONIC_LLDT, ISA_PRIVILEGED, ISA_FORM_ANY, "loads a system table")                                 \
    X(ZYDIS_MNEMONIC_LTR, ISA_PRIVILEGED, ISA_FORM_ANY, "loads a system table")                                  \
    X(ZYDIS_MNEMONIC_LMSW, ISA_PRIVILEGED, ISA_FORM_ANY, "changes CR0")                                          \
    X(ZYDIS_MNEMONIC_CLTS, ISA_PRIVILEGED, ISA_FORM_ANY, "changes CR0")                                          \
    X(ZYDIS_MNEMONIC_LAR, ISA_SENSITIVE, ISA_FORM_ANY, "reads a descriptor and the privilege level")             \
    X(ZYDIS_MNEMONIC_LSL, ISA_SENSITIVE, ISA_FORM_ANY, "reads a descriptor and the privilege level")             \
    X(ZYDIS_MNEMONIC_VERR, ISA_SENSITIVE, ISA_FORM_ANY, "reads a descriptor and the privilege level")            \
    X(ZYDIS_MNEMONIC_VERW, ISA_SENSITIVE, ISA_FORM_ANY, "reads a descriptor and the privilege level")            \
    X(ZYDIS_MNEMONIC_LDS, ISA_SENSITIVE, ISA_FORM_ANY, "loads a segment register")                               \
    X(ZYDIS_MNEMONIC_LES, ISA_SENSITIVE, ISA_FORM_ANY, "loads a segment register")                               \
    X(ZYDIS_MNEMONIC_LFS, ISA_SENSITIVE, ISA_FORM_ANY, "loads a segment register")                               \
    X(ZYDIS_MNEMONIC_LGS, ISA_SENSITIVE, ISA_FORM_ANY, "loads a segment register")                               \
    X(ZYDIS_MNEMONIC_LSS, ISA_SENSITIVE, ISA_FORM_ANY, "loads a segment register")                               \
    X(ZYDIS_MNEMONIC_MOV, ISA_PRIVILEGED, ISA_FORM_CONTROL, "reaches a control or debug register")               \
    X(ZYDIS_MNEMONIC_MOV, ISA_SENSITIVE, ISA_FORM_SEG, "shows or loads a segment register")                      \
    X(ZYDIS_MNEMONIC_PUSH, ISA_SENSITIVE, ISA_FORM_SEG, "shows or loads a segment register")                     \
    X(ZYDIS_MNEMONIC_POP, ISA_SENSITIVE, ISA_FORM_SEG, "shows or loads a segment register")                      \
    X(ZYDIS_MNEMONIC_RDFSBASE, ISA_SENSITIVE, ISA_FORM_ANY, "reaches a segment base directly")                   \
    X(ZYDIS_MNEMONIC_RDGSBASE, ISA_SENSITIVE, ISA_FORM_ANY, "reaches a segment base directly")                   \
    X(ZYDIS_MNEMONIC_WRFSBASE, ISA_SENSITIVE, ISA_FORM_ANY, "reaches a segment base directly")                   \
    X(ZYDIS_MNEMONIC_WRGSBASE, ISA_SENSITIVE, ISA_FORM_ANY, "reaches a segment base directly")                   \
    X(ZYDIS_MNEMONIC_SWAPGS, ISA_PRIVILEGED, ISA_FORM_ANY, "swaps the GS base")                                  \
    /* flags */                                                                                                  \
    X(ZYDIS_MNEMONIC_PUSHF, ISA_SENSITIVE, ISA_FORM_ANY, "shows IF and IOPL")                                    \
    X(ZYDIS_MNEMONIC_PUSHFD, ISA_SENSITIVE, ISA_FORM_ANY, "shows IF and IOPL")                                   \
    X(ZYDIS_MNEMONIC_PUSHFQ, ISA_SENSITIVE, ISA_FORM_ANY, "shows IF and IOPL")                                   \
    X(ZYDIS_MNEMONIC_POPF, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "silently keeps IF and IOPL without privilege")     \
    X(ZYDIS_MNEMONIC_POPFD, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "silently keeps IF and IOPL without privilege")    \
    X(ZYDIS_MNEMONIC_POPFQ, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "silently keeps IF and IOPL without privilege")    \
    X(ZYDIS_MNEMONIC_CLI, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "changes IF")                                        \
    X(ZYDIS_MNEMONIC_STI, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "changes IF")                                        \
    X(ZYDIS_MNEMONIC_STAC, ISA_PRIVILEGED, ISA_FORM_ANY, "changes AC")                                           \
    X(ZYDIS_MNEMONIC_CLAC, ISA_PRIVILEGED, ISA_FORM_ANY, "changes AC")                                           \
    /* input and output */                                                                                       \
    X(ZYDIS_MNEMONIC_IN, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "reaches an I/O port")                                \
    X(ZYDIS_MNEMONIC_OUT, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "reaches an I/O port")                               \
    X(ZYDIS_MNEMONIC_INSB, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "reaches an I/O port")                              \
    X(ZYDIS_MNEMONIC_INSW, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "reaches an I/O port")                              \
    X(ZYDIS_MNEMONIC_INSD, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "reaches an I/O port")                              \
    X(ZYDIS_MNEMONIC_OUTSB, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "reaches an I/O port")                             \
    X(ZYDIS_MNEMONIC_OUTSW, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "reaches an I/O port")                             \
    X(ZYDIS_MNEMONIC_OUTSD, ISA_IOPL_SENSITIVE, ISA_FORM_ANY, "reaches an I/O port")                             \
    /* processor state */                                                                                        \
    X(ZYDIS_MNEMONIC_HLT, ISA_PRIVILEGED, ISA_FORM_ANY, "stops the processor")                                   \
    X(ZYDIS_MNEMONIC_RDMSR, ISA_PRIVILEGED, ISA_FORM_ANY, "reaches an MSR")                                      \
    X(ZYDIS_MNEMONIC_WRMSR, ISA_PRIVILEGED, ISA_FORM_ANY, "reaches an MSR")                                      \
    X(ZYDIS_MNEMONIC_INVLPG, ISA_PRIVILEGED, ISA_FORM_ANY, "changes cached translations")                        \
    X(ZYDIS_MNEMONIC_INVPCID, ISA_PRIVILEGED, ISA_FORM_ANY, "changes cached translations")                       \
    X(ZYDIS_MNEMONIC_INVD, ISA_PRIVILEGED, ISA_FORM_ANY, "drops caches")                                         \
    X(ZYDIS_MNEMONIC_WBINVD, ISA_PRIVILEGED, ISA_FORM_ANY, "drops caches")                                       \
    X(ZYDIS_MNEMONIC_CPUID, ISA_SENSITIVE, ISA_FORM_ANY, "shows what processor this is")                         \
    X(ZYDIS_MNEMONIC_RDTSC, ISA_SENSITIVE, ISA_FORM_ANY, "shows the time stamp counter")                         \
    X(ZYDIS_MNEMONIC_RDTSCP, ISA_SENSITIVE, ISA_FORM_ANY, "shows the time stamp counter")                        \
    X(ZYDIS_MNEMONIC_RDPID, ISA_SENSITIVE, ISA_FORM_ANY, "shows the number of this processor")                   \
    X(ZYDIS_MNEMONIC_RDPMC, ISA_SENSITIVE, ISA_FORM_ANY, "shows a performance counter")                          \
    X(ZYDIS_MNEMONIC_XGETBV, ISA_SENSITIVE, ISA_FORM_ANY, "shows XCR0")                                          \
    X(ZYDIS_MNEMONIC_XSETBV, ISA_PRIVILEGED, ISA_FORM_ANY, "changes XCR0")                                       \
    /* processor state in memory: its layout and components follow XCR0, and it holds the address of x87 code */ \
    X(ZYDIS_MNEMONIC_XSAVE, ISA_SENSITIVE, ISA_FORM_ANY, "state follows XCR0")                                   \
    X(ZYDIS_MNEMONIC_XSAVE64, ISA_SENSITIVE, ISA_FORM_ANY, "state follows XCR0")                                 \
    X(ZYDIS_MNEMONIC_XSAVEC, ISA_SENSITIVE, ISA_FORM_ANY, "state follows XCR0")                                  \
    X(ZYDIS_MNEMONIC_XSAVEC64, ISA_SENSITIVE, ISA_FORM_ANY, "state follows XCR0")                                \
    X(ZYDIS_MNEMONIC_XSAVEOPT, ISA_SENSITIVE, ISA_FORM_ANY, "state follows XCR0")                                \
    X(ZYDIS_MNEMONIC_XSAVEOPT64, ISA_SENSITIVE, ISA_FORM_ANY, "state follows XCR0")                              \
    X(ZYDIS_MNEMONIC_XRSTOR, ISA_SENSITIVE, ISA_FORM_ANY, "state follows XCR0")                                  \
    X(ZYDIS_MNEMONIC_XRSTOR64, ISA_SENSITIVE, ISA_FORM_ANY, "state follows XCR0")                                \
    X(ZYDIS_MNEMONIC_XSAVES, ISA_PRIVILEGED, ISA_FORM_ANY, "reaches supervisor state")                           \
    X(ZYDIS_MNEMONIC_XSAVES64, ISA_PRIVILEGED, ISA_FORM_ANY, "reaches supervisor state")                         \
    X(ZYDIS_MNEMONIC_XRSTORS, ISA_PRIVILEGED, ISA_FORM_ANY, "reaches supervisor state")                          \
    X(ZYDIS_MNEMONIC_XRSTORS64, ISA_PRIVILEGED, ISA_FORM_ANY, "reaches supervisor state")                        \
    X(ZYDIS_MNEMONIC_FXSAVE, ISA_SENSITIVE, ISA_FORM_ANY,                                                        \
      "the image follows CR4.OSFXSR and EFER, and holds the address of x87 code")                                \
    X(ZYDIS_MNEMONIC_FXSAVE64, ISA_SENSITIVE, ISA_FORM_ANY,                                                      \
      "the image follows CR4.OSFXSR and EFER, and holds the address of x87 code")                                \
    X(ZYDIS_MNEMONIC_FXRSTOR, ISA_SENSITIVE, ISA_FORM_ANY,                                                       \
      "the image follows CR4.OSFXSR and EFER, and holds the address of x87 code")                                \
    X(ZYDIS_MNEMONIC_FXRSTOR64, ISA_SENSITIVE, ISA_FORM_ANY,                                                     \
      "the image follows CR4.OSFXSR and EFER, and holds the address of x87 code")                                \
    /* defined to raise #UD */                                                                                   \
    X(ZYDIS_MNEMONIC_UD0, ISA_UNSUPPORTED, ISA_FORM_ANY, "defined to raise #UD")                                 \
    X(ZYDIS_MNEMONIC_UD1, ISA_UNSUPPORTED, ISA_FORM_ANY, "defined to raise #UD")                                 \
    X(ZYDIS_MNEMONIC_UD2, ISA_UNSUPPORTED, ISA_FORM_ANY, "defined to raise #UD")                                 \
    /* not offered by any model */                                                                               \
    X(ZYDIS_MNEMONIC_RDPKRU, ISA_UNSUPPORTED, ISA_FORM_ANY, "protection keys are not offered")                   \
    X(ZYDIS_MNEMONIC_WRPKRU, ISA_UNSUPPORTED, ISA_FORM_ANY, "protection keys are not offered")                   \
    X(ZYDIS_MNEMONIC_MONITOR, ISA_UNSUPPORTED, ISA_FORM_ANY, "MONITOR is not offered")                           \
    X(ZYDIS_MNEMONIC_MWAIT, ISA_UNSUPPORTED, ISA_FORM_ANY, "MONITOR is not offered")                             \
    X(ZYDIS_MNEMONIC_MONITORX, ISA_UNSUPPORTED, ISA_FORM_ANY, "MONITOR is not offered")                          \
    X(ZYDIS_MNEMONIC_MWAITX, ISA_UNSUPPORTED, ISA_FORM_ANY, "MONITOR is not offered")                            \
    X(ZYDIS_MNEMONIC_UMONITOR, ISA_UNSUPPORTED, ISA_FORM_ANY, "WAITPKG is not offered")                          \
    X(ZYDIS_MNEMONIC_UMWAIT, ISA_UNSUPPORTED, ISA_FORM_ANY, "WAITPKG is not offered")                            \
    X(ZYDIS_MNEMONIC_TPAUSE, ISA_UNSUPPORTED, ISA_FORM_ANY, "WAITPKG is not offered")                            \
    X(ZYDIS_MNEMONIC_XBEGIN, ISA_UNSUPPORTED, ISA_FORM_ANY, "transactional memory is not offered")               \
    X(ZYDIS_MNEMONIC_XEND, ISA_UNSUPPORTED, ISA_FORM_ANY, "transactional memory is not offered")                 \
    X(ZYDIS_MNEMONIC_XABORT, ISA_UNSUPPORTED, ISA_FORM_ANY, "transactional memory is not offered")               \
    X(ZYDIS_MNEMONIC_XTEST, ISA_UNSUPPORTED, ISA_FORM_ANY, "transactional memory is not offered")                \
    X(ZYDIS_MNEMONIC_XSUSLDTRK, ISA_UNSUPPORTED, ISA_FORM_ANY, "transactional memory is not offered")            \
    X(ZYDIS_MNEMONIC_XRESLDTRK, ISA_UNSUPPORTED, ISA_FORM_ANY, "transactional memory is not offered")            \
    X(ZYDIS_MNEMONIC_INVEPT, ISA_UNSUPPORTED, ISA_FORM_ANY, "VMX is not offered")                                \
    X(ZYDIS_MNEMONIC_INVVPID, ISA_UNSUPPORTED, ISA_FORM_ANY, "VMX is not offered")                               \
    X(ZYDIS_MNEMONIC_VMCLEAR, ISA_UNSUPPORTED, ISA_FORM_ANY, "VMX is not offered")                               \
    X(ZYDIS_MNEMONIC_VMFUNC, ISA_UNSUPPORTED, ISA_FORM_ANY, "VMX is not offered")                                \
    X(ZYDIS_MNEMONIC_VMLAUNCH, ISA_UNSUPPORTED, ISA_FORM_ANY, "VMX is not offered")                              \
    X(ZYDIS_MNEMONIC_VMPTRLD, ISA_UNSUPPORTED, ISA_FORM_ANY, "VMX is not offered")                               \
    X(ZYDIS_MNEMONIC_VMPTRST, ISA_UNSUPPORTED, ISA_FORM_ANY, "VMX is not offered")                               \
    X(ZYDIS_MNEMONIC_VMREAD, ISA_UNSUPPORTED, ISA_FORM_ANY, "VMX is not offered")                                \
    X(ZYDIS_MNEMONIC_VMRESUME, ISA_UNSUPPORTED, ISA_FORM_ANY, "VMX is not offered")                              \
    X(ZYDIS_MNEMONIC_VMWRITE, ISA_UNSUPPORTED, ISA_FORM_ANY, "VMX is not offered")                               \
    X(ZYDIS_MNEMONIC_VMXOFF, ISA_UNSUPPORTED, ISA_FORM_ANY, "VMX is not offered")                                \
    X(ZYDIS_MNEMONIC_VMXON, ISA_UNSUPPORTED, ISA_FORM_ANY, "VMX is not offered")                                 \
    X(ZYDIS_MNEMONIC_CLGI, ISA_UNSUPPORTED, ISA_FORM_ANY, "SVM is not offered")                                  \
    X(ZYDIS_MNEMONIC_STGI, ISA_UNSUPPORTED, ISA_FORM_ANY, "SVM is not offered")                                  \
    X(ZYDIS_MNEMONIC_INVLPGA, ISA_UNSUPPORTED, ISA_FORM_ANY, "SVM is not offered")                               \
    X(ZYDIS_MNEMONIC_SKINIT, ISA_UNSUPPORTED, ISA_FORM_ANY, "SVM is not offered")                                \
    X(ZYDIS_MNEMONIC_VMLOAD, ISA_UNSUPPORTED, ISA_FORM_ANY, "SVM is not offered")                                \
    X(ZYDIS_MNEMONIC_VMRUN, ISA_UNSUPPORTED, ISA_FORM_ANY, "SVM is not offered")                                 \
    X(ZYDIS_MNEMONIC_VMSAVE, ISA_UNSUPPORTED, ISA_FORM_ANY, "SVM is not offered")                                \
    X(ZYDIS_MNEMONIC_GETSEC, ISA_UNSUPPORTED, ISA_FORM_ANY, "SMX is not offered")                                \
    X(ZYDIS_MNEMONIC_ENCLS, ISA_UNSUPPORTED, ISA_FORM_ANY, "SGX is not offered")                                 \
    X(ZYDIS_MNEMONIC_ENCLU, ISA_UNSUPPORTED, ISA_FORM_ANY, "SGX is not offered")                                 \
    X(ZYDIS_MNEMONIC_ENCLV, ISA_UNSUPPORTED, ISA_FORM_ANY, "SGX is not offered")                                 \
    X(ZYDIS_MNEMONIC_RSM, ISA_UNSUPPORTED, ISA_FORM_ANY, "no system management mode")                            \
    X(ZYDIS_MNEMONIC_MOVDIR64B, ISA_UNSUPPORTED, ISA_FORM_ANY,                                                   \
      "has a second memory operand that engines do not carry")                                                   \
    X(ZYDIS_MNEMONIC_CLZERO, ISA_UNSUPPORTED, ISA_FORM_ANY, "CLZERO is not offered")                             \
    X(ZYDIS_MNEMONIC_RDPRU, ISA_UNSUPPORTED, ISA_FORM_ANY, "RDPRU is not offered")                               \
    X(ZYDIS_MNEMONIC_CLUI, ISA_UNSUPPORTED, ISA_FORM_ANY, "user interrupts are not offered")                     \
    X(ZYDIS_MNEMONIC_STUI, ISA_UNSUPPORTED, ISA_FORM_ANY, "user interrupts are not offered")                     \
    X(ZYDIS_MNEMONIC_TESTUI, ISA_UNSUPPORTED, ISA_FORM_ANY, "user interrupts are not offered")                   \
    X(ZYDIS_MNEMONIC_UIRET, ISA_UNSUPPORTED, ISA_FORM_ANY, "user interrupts are not offered")                    \
    X(ZYDIS_MNEMONIC_SENDUIPI, ISA_UNSUPPORTED, ISA_FORM_ANY, "user interrupts are not offered")                 \
    X(ZYDIS_MNEMONIC_ENQCMD, ISA_UNSUPPORTED, ISA_FORM_ANY, "ENQCMD is not offered")                             \
    X(ZYDIS_MNEMONIC_ENQCMDS, ISA_UNSUPPORTED, ISA_FORM_ANY, "ENQCMD is not offered")                            \
    X(ZYDIS_MNEMONIC_PTWRITE, ISA_UNSUPPORTED, ISA_FORM_ANY, "PTWRITE is not offered")

static const struct isa_class_row rows[] = {
#define X(mnemonic, cls, form, reason) {mnemonic, cls, form, reason},
    ROWS(X)
#undef X
};

/* Which mnemonics have a row: most instructions have none. A mnemonic with several rows is named several times. */
#pragma GCC diagnostic push
#pragma GCC diagnostic ignored "-Woverride-init"
static const u8 named[ZYDIS_MNEMONIC_MAX_VALUE + 1] = {
#define X(mnemonic, cls, form, reason) [mnemonic] = 1,
    ROWS(X)
#undef X
};
#pragma GCC diagnostic pop

/* The instruction sets that somebody has looked at, and what CPUID must say for them. */
static const struct {
    u32 feature, also;
    bool known;
} sets[ZYDIS_ISA_SET_MAX_VALUE + 1] = {
    [ZYDIS_ISA_SET_I86] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_I186] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_I286REAL] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_I286PROTECTED] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_I386] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_I486] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_I486REAL] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_PENTIUMREAL] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_PPRO] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_LONGMODE] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_AMD] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_FAT_NOP] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_PAUSE] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_PREFETCH_NOP] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SSE_PREFETCH] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_PREFETCHWT1] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_X87] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_RDPMC] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},
    /* without these features the encodings are BSF and BSR, and no hypervisor can hide that */
    [ZYDIS_ISA_SET_LZCNT] = {ISA_FEAT_NONE, ISA_FEAT_NONE, true},

    [ZYDIS_ISA_SET_CMOV] = {FEAT(FW_1_EDX, 15), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_FCMOV] = {FEAT(FW_1_EDX, 15), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_CLFSH] = {FEAT(FW_1_EDX, 19), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_PENTIUMMMX] = {FEAT(FW_1_EDX, 23), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_FXSAVE] = {FEAT(FW_1_EDX, 24), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_FXSAVE64] = {FEAT(FW_1_EDX, 24), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SSE] = {FEAT(FW_1_EDX, 25), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SSEMXCSR] = {FEAT(FW_1_EDX, 25), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SSE2] = {FEAT(FW_1_EDX, 26), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SSE2MMX] = {FEAT(FW_1_EDX, 26), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SSE3] = {FEAT(FW_1_ECX, 0), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SSE3X87] = {FEAT(FW_1_ECX, 0), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SSSE3] = {FEAT(FW_1_ECX, 9), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SSSE3MMX] = {FEAT(FW_1_ECX, 9), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SSE4] = {FEAT(FW_1_ECX, 19), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SSE42] = {FEAT(FW_1_ECX, 20), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SSE4A] = {FEAT(FW_80000001_ECX, 6), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_LAHF] = {FEAT(FW_80000001_ECX, 0), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_CMPXCHG16B] = {FEAT(FW_1_ECX, 13), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_MOVBE] = {FEAT(FW_1_ECX, 22), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_POPCNT] = {FEAT(FW_1_ECX, 23), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_PCLMULQDQ] = {FEAT(FW_1_ECX, 1), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_AES] = {FEAT(FW_1_ECX, 25), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_RDRAND] = {FEAT(FW_1_ECX, 30), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_RDSEED] = {FEAT(FW_7_EBX, 18), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SHA] = {FEAT(FW_7_EBX, 29), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_GFNI] = {FEAT(FW_7_ECX, 8), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_ADOX_ADCX] = {FEAT(FW_7_EBX, 19), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_BMI1] = {FEAT(FW_7_EBX, 3), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_BMI2] = {FEAT(FW_7_EBX, 8), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_CLFLUSHOPT] = {FEAT(FW_7_EBX, 23), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_CLWB] = {FEAT(FW_7_EBX, 24), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_MOVDIR] = {FEAT(FW_7_ECX, 27), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SERIALIZE] = {FEAT(FW_7_EDX, 14), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_XSAVE] = {FEAT(FW_1_ECX, 26), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_XSAVEOPT] = {FEAT(FW_D_1_EAX, 0), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_XSAVEC] = {FEAT(FW_D_1_EAX, 1), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_XSAVES] = {FEAT(FW_D_1_EAX, 3), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_RDWRFSGS] = {FEAT(FW_7_EBX, 0), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_RDTSCP] = {FEAT(FW_80000001_EDX, 27), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_RDPID] = {FEAT(FW_7_ECX, 22), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_SMAP] = {FEAT(FW_7_EBX, 20), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_INVPCID] = {FEAT(FW_7_EBX, 10), ISA_FEAT_NONE, true},

    [ZYDIS_ISA_SET_AVX] = {FEAT(FW_1_ECX, 28), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_AVX2] = {FEAT(FW_7_EBX, 5), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_AVX2GATHER] = {FEAT(FW_7_EBX, 5), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_FMA] = {FEAT(FW_1_ECX, 12), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_F16C] = {FEAT(FW_1_ECX, 29), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_AVXAES] = {FEAT(FW_1_ECX, 25), FEAT(FW_1_ECX, 28), true},
    [ZYDIS_ISA_SET_AVX_GFNI] = {FEAT(FW_7_ECX, 8), FEAT(FW_1_ECX, 28), true},
    [ZYDIS_ISA_SET_AVX_VNNI] = {FEAT(FW_7_1_EAX, 4), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_VAES] = {FEAT(FW_7_ECX, 9), FEAT(FW_1_ECX, 28), true},
    [ZYDIS_ISA_SET_VPCLMULQDQ] = {FEAT(FW_7_ECX, 10), FEAT(FW_1_ECX, 28), true},

    [ZYDIS_ISA_SET_AVX512F_128] = {FEAT(FW_7_EBX, 16), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512F_256] = {FEAT(FW_7_EBX, 16), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512F_512] = {FEAT(FW_7_EBX, 16), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_AVX512F_128N] = {FEAT(FW_7_EBX, 16), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_AVX512F_KOP] = {FEAT(FW_7_EBX, 16), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_AVX512F_SCALAR] = {FEAT(FW_7_EBX, 16), ISA_FEAT_NONE, true},
    [ZYDIS_ISA_SET_AVX512BW_128] = {FEAT(FW_7_EBX, 30), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512BW_256] = {FEAT(FW_7_EBX, 30), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512BW_512] = {FEAT(FW_7_EBX, 30), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512BW_128N] = {FEAT(FW_7_EBX, 30), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512BW_KOP] = {FEAT(FW_7_EBX, 30), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512CD_128] = {FEAT(FW_7_EBX, 28), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512CD_256] = {FEAT(FW_7_EBX, 28), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512CD_512] = {FEAT(FW_7_EBX, 28), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512DQ_128] = {FEAT(FW_7_EBX, 17), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512DQ_256] = {FEAT(FW_7_EBX, 17), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512DQ_512] = {FEAT(FW_7_EBX, 17), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512DQ_128N] = {FEAT(FW_7_EBX, 17), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512DQ_KOP] = {FEAT(FW_7_EBX, 17), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512DQ_SCALAR] = {FEAT(FW_7_EBX, 17), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_BF16_128] = {FEAT(FW_7_1_EAX, 5), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_BF16_256] = {FEAT(FW_7_1_EAX, 5), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_BF16_512] = {FEAT(FW_7_1_EAX, 5), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_BITALG_128] = {FEAT(FW_7_ECX, 12), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_BITALG_256] = {FEAT(FW_7_ECX, 12), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_BITALG_512] = {FEAT(FW_7_ECX, 12), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_FP16_128] = {FEAT(FW_7_EDX, 23), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_FP16_256] = {FEAT(FW_7_EDX, 23), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_FP16_512] = {FEAT(FW_7_EDX, 23), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_FP16_128N] = {FEAT(FW_7_EDX, 23), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_FP16_SCALAR] = {FEAT(FW_7_EDX, 23), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_GFNI_128] = {FEAT(FW_7_ECX, 8), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_GFNI_256] = {FEAT(FW_7_ECX, 8), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_GFNI_512] = {FEAT(FW_7_ECX, 8), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_IFMA_128] = {FEAT(FW_7_EBX, 21), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_IFMA_256] = {FEAT(FW_7_EBX, 21), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_IFMA_512] = {FEAT(FW_7_EBX, 21), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_VAES_128] = {FEAT(FW_7_ECX, 9), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VAES_256] = {FEAT(FW_7_ECX, 9), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VAES_512] = {FEAT(FW_7_ECX, 9), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_VBMI_128] = {FEAT(FW_7_ECX, 1), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VBMI_256] = {FEAT(FW_7_ECX, 1), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VBMI_512] = {FEAT(FW_7_ECX, 1), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_VBMI2_128] = {FEAT(FW_7_ECX, 6), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VBMI2_256] = {FEAT(FW_7_ECX, 6), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VBMI2_512] = {FEAT(FW_7_ECX, 6), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_VNNI_128] = {FEAT(FW_7_ECX, 11), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VNNI_256] = {FEAT(FW_7_ECX, 11), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VNNI_512] = {FEAT(FW_7_ECX, 11), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_VP2INTERSECT_128] = {FEAT(FW_7_EDX, 8), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VP2INTERSECT_256] = {FEAT(FW_7_EDX, 8), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VP2INTERSECT_512] = {FEAT(FW_7_EDX, 8), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_128] = {FEAT(FW_7_ECX, 10), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_256] = {FEAT(FW_7_ECX, 10), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VPCLMULQDQ_512] = {FEAT(FW_7_ECX, 10), FEAT(FW_7_EBX, 16), true},
    [ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_128] = {FEAT(FW_7_ECX, 14), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_256] = {FEAT(FW_7_ECX, 14), FEAT(FW_7_EBX, 31), true},
    [ZYDIS_ISA_SET_AVX512_VPOPCNTDQ_512] = {FEAT(FW_7_ECX, 14), FEAT(FW_7_EBX, 16), true},
};

static bool is_far(const struct isa_insn *insn)
{
    if (insn->map != 0)
        return false;
    switch (insn->opcode) {
    case 0x9a: /* CALL ptr16:32 */
    case 0xea: /* JMP ptr16:32 */
    case 0xca: /* RETF imm16 */
    case 0xcb: /* RETF */
        return true;
    case 0xff: /* CALL and JMP m16:32 */
        return (insn->modrm >> 3 & 7) == 3 || (insn->modrm >> 3 & 7) == 5;
    default:
        return false;
    }
}

/* Is one of the operands that assembly names a register of class `a` or `b`? */
static bool names_register(const struct isa_insn *insn, enum isa_reg_class a, enum isa_reg_class b)
{
    for (unsigned i = 0; i < insn->n_visible && i < ISA_MAX_OPS; i++)
        if (insn->op[i].kind == ISA_OP_REG && (insn->op[i].reg_class == a || insn->op[i].reg_class == b))
            return true;
    return false;
}

static bool has_form(const struct isa_insn *insn, enum isa_form form)
{
    switch (form) {
    case ISA_FORM_FAR:
        return is_far(insn);
    case ISA_FORM_SEG:
        return names_register(insn, ISA_REG_SEG, ISA_REG_SEG);
    case ISA_FORM_CONTROL:
        return names_register(insn, ISA_REG_CR, ISA_REG_DR);
    default:
        return true;
    }
}

const struct isa_class_row *isa_class_rows(size_t *n)
{
    *n = ARRAY_LEN(rows);
    return rows;
}

enum isa_class isa_classify(const struct isa_insn *insn, const char **reason)
{
    const char *dummy;
    if (!reason)
        reason = &dummy;
    *reason = "";
    for (size_t i = 0; i < ARRAY_LEN(rows) && insn->mnemonic < ARRAY_LEN(named) && named[insn->mnemonic]; i++) {
        if (rows[i].mnemonic == insn->mnemonic && has_form(insn, rows[i].form)) {
            *reason = rows[i].reason;
            return rows[i].cls;
        }
    }
    if (insn->isa_set < ARRAY_LEN(sets) && sets[insn->isa_set].known)
        return ISA_INNOCUOUS;
    *reason = "an instruction set that is not offered";
    return ISA_UNSUPPORTED;
}

const char *isa_class_name(enum isa_class cls)
{
    static const char *const names[ISA_CLASSES] = {
        [ISA_INNOCUOUS] = "innocuous",           [ISA_CONTROL] = "control",     [ISA_PRIVILEGED] = "privileged",
        [ISA_IOPL_SENSITIVE] = "IOPL-sensitive", [ISA_SENSITIVE] = "sensitive", [ISA_UNSUPPORTED] = "unsupported",
    };
    return (unsigned)cls < ISA_CLASSES ? names[cls] : "?";
}

u32 isa_feature(const struct isa_insn *insn)
{
    /* TZCNT is BSF where BMI1 is not there: compilers and kernels use it without asking. */
    if (insn->mnemonic == ZYDIS_MNEMONIC_TZCNT || insn->isa_set >= ARRAY_LEN(sets) || !sets[insn->isa_set].known)
        return ISA_FEAT_NONE;
    return sets[insn->isa_set].feature;
}

u32 isa_feature_also(const struct isa_insn *insn)
{
    if (insn->isa_set >= ARRAY_LEN(sets) || !sets[insn->isa_set].known)
        return ISA_FEAT_NONE;
    return sets[insn->isa_set].also;
}

bool isa_nondeterministic(const struct isa_insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_RDRAND || insn->mnemonic == ZYDIS_MNEMONIC_RDSEED;
}
