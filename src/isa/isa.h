/*
 * The meaning of system instructions and of event delivery, written once (SDM vol. 2 and vol. 3A; APM vol. 2 and 3).
 *
 * Engines, test harness and fuzzers call the same code. It works on a struct cpu and reaches everything else through a
 * table of operations that the caller supplies. Every function is atomic with respect to faults: on CPU_FAULT the CPU is
 * as before the instruction (RIP included), except where the manual says that a part has been done.
 */
#ifndef TRAPEZE_ISA_ISA_H
#define TRAPEZE_ISA_ISA_H

#include "isa/decode.h"
#include "machine/cpu/cpu.h"

/* How a memory access counts. */
enum isa_access {
    ISA_ACC_DATA,       /* an explicit operand: user access if CPL is 3 */
    ISA_ACC_SYSTEM,     /* implicit supervisor access: GDT, LDT, IDT, TSS */
    ISA_ACC_USER,       /* as CPL 3 whatever CPL is (pushes of an inter-privilege transfer use the new CPL instead) */
    ISA_ACC_SUPERVISOR, /* explicit access done at CPL 0 although CPL is still the old one (frame pushed by delivery) */
};

enum isa_flush {
    ISA_FLUSH_PAGE,          /* INVLPG: one address, global or not, current PCID */
    ISA_FLUSH_NONGLOBAL,     /* MOV CR3: all but global entries of the current PCID */
    ISA_FLUSH_ALL,           /* CR0/CR4/EFER changes, INVPCID type 2: everything */
    ISA_FLUSH_PCID_PAGE,     /* INVPCID type 0: `va` in `pcid` */
    ISA_FLUSH_PCID,          /* INVPCID type 1: all non-global of `pcid` */
    ISA_FLUSH_ALL_NONGLOBAL, /* INVPCID type 3 */
    ISA_FLUSH_SWITCH,        /* MOV CR3 with bit 63: `pcid` is in force now, nothing tagged need go */
};

/*
 * Supplied by the engine. Functions that return int return CPU_OK, CPU_FAULT (with cpu->fault set) or CPU_UNIMPLEMENTED.
 * Addresses are linear; the operations check canonical form, translate, and handle MMIO and page crossing.
 */
struct isa_ops {
    int (*read)(void *ctx, gva_t va, void *buf, unsigned len, enum isa_access acc);
    int (*write)(void *ctx, gva_t va, const void *buf, unsigned len, enum isa_access acc);
    /* Raise the fault that writing `len` bytes would raise, without writing: for instructions that must not half-finish. */
    int (*probe_write)(void *ctx, gva_t va, unsigned len, enum isa_access acc);
    /* Read-modify-write as one locked operation on an aligned u32 of a descriptor (accessed and busy bits): OR in `bits`. */
    int (*or32)(void *ctx, gva_t va, u32 bits, enum isa_access acc);

    /* Guest-physical memory, not watched by breakpoints: the page-directory-pointer entries of PAE paging. */
    void (*read_phys)(void *ctx, gpa_t at, void *buf, unsigned len);

    int (*io_read)(void *ctx, u16 port, unsigned size, u32 *value);
    int (*io_write)(void *ctx, u16 port, unsigned size, u32 value);

    int (*msr_read)(void *ctx, u32 index, u64 *value);
    int (*msr_write)(void *ctx, u32 index, u64 value);

    u64 (*tsc)(void *ctx);      /* guest TSC now */
    u64 (*cr8_read)(void *ctx); /* TPR >> 4 */
    void (*cr8_write)(void *ctx, u64 value);
    /* A hypercall of KVM's, from CPL 0: its result, or -KVM_E*. NULL: the machine has none. */
    s64 (*hypercall)(void *ctx, u64 number, const u64 args[4]);

    void (*flush)(void *ctx, enum isa_flush kind, gva_t va, u16 pcid);
    /* CS, CPL, CR0, CR4, EFER or EFLAGS.AC/TF changed: whatever an engine keyed on them is stale. */
    void (*mode_changed)(void *ctx);
};

struct isa {
    struct cpu *cpu;
    const struct isa_ops *ops;
    void *ctx;
};

/*
 * Execute one instruction that is not ISA_INNOCUOUS (all of class.h's table: privileged, sensitive, IOPL-sensitive, far
 * and near control transfers, INS/OUTS with their REP forms). Whether the guest's model has the instruction (isa_feature)
 * is the caller's check, best made once at decoding. cpu->rip points at the instruction; on CPU_OK it points at the next
 * one to execute and halted etc. are up to date; RF is cleared as after every instruction but IRET; cpu->shadow is only
 * set, by STI and MOV SS: the caller clears it before each instruction. A REP INS/OUTS does at most one element a call and
 * leaves RIP on itself until RCX is 0, so that interrupts are taken in between.
 * CPU_FAULT: cpu->fault is set, nothing else changed; the caller delivers it with isa_deliver_fault.
 */
int isa_execute(struct isa *m, const struct isa_insn *insn);

/* What is being delivered (SDM vol. 3A, 6.5 and 6.12). */
enum isa_event_kind {
    ISA_EVENT_EXTERNAL, /* maskable interrupt: vector from the controller */
    ISA_EVENT_NMI,
    ISA_EVENT_EXCEPTION, /* fault, trap or abort raised by the processor */
    ISA_EVENT_SOFT_INT,  /* INT n: gate DPL checked */
    ISA_EVENT_SOFT_EXC,  /* INT3, INTO: gate DPL checked */
    ISA_EVENT_ICEBP,     /* INT1: no DPL check */
};

/*
 * Deliver an event through the IDT: gate, privilege change, TSS and IST, frame, error code, flags; with cpu->rip as the
 * return address (software interrupts: already advanced). A fault during delivery is combined with it (benign,
 * contributory, page fault, double fault: SDM vol. 3A, table 6-5); the third one gives CPU_SHUTDOWN. The software kinds
 * are isa_execute's own business: their faults belong to the instruction, not to its successor.
 * CPU_OK: RIP is at the handler's first instruction. CPU_SHUTDOWN, CPU_UNIMPLEMENTED otherwise.
 */
int isa_deliver(struct isa *m, enum isa_event_kind kind, u8 vector);

/* Deliver cpu->fault as an exception: sets CR2 or DR6 first, RF in the pushed image as the manual says. */
int isa_deliver_fault(struct isa *m);

/*
 * Effective and linear address of the memory operand of `insn`: adds base, index, displacement and segment base, applies
 * the address size. VSIB operands are not for this function. `isa_ea` is the offset alone (LEA).
 */
u64 isa_ea(const struct cpu *c, const struct isa_insn *insn);

/*
 * Linear address for an access of `size` bytes at offset `off` of segment `seg`: limit and type checks outside 64-bit
 * mode, canonical check inside (#GP or #SS). CPU_OK or CPU_FAULT.
 */
int isa_linear(struct cpu *c, enum cpu_seg seg, u64 off, unsigned size, bool write, gva_t *va);

/* Load a segment register as MOV to it would (descriptor fetched and checked). For tests and boot code. */
int isa_load_segment(struct isa *m, enum cpu_seg seg, u16 selector);

/*
 * Could an external interrupt (IF, shadows) or an NMI (NMI blocking, MOV SS shadow) be taken at this boundary? Always
 * true for the other kinds.
 */
bool isa_interruptible(const struct cpu *c, enum isa_event_kind kind);

/*
 * At an instruction boundary with no fault pending: take an external interrupt (`vector` as the controller gave it when
 * it was acknowledged) or an NMI (`vector` is ignored; the latch is cleared, further NMIs are blocked until IRET). The
 * caller asked isa_interruptible first. Ends HLT. Between two elements of a REP instruction the caller sets FL_RF first,
 * so that the saved image has it. CPU_OK or as isa_deliver.
 */
int isa_take_interrupt(struct isa *m, enum isa_event_kind kind, u8 vector);

/*
 * Debug exceptions, for engines (SDM vol. 3B, 17.2 and 17.3). The three checks return the bits of DR6 that the access
 * raises, 0 mostly; ask them only if isa_debug_armed.
 *
 * Instruction breakpoints are faults: before executing at linear address `va`, leave the bits in cpu->fault (vector
 * VEC_DB, `address`) and isa_deliver_fault; RF suppresses them. Data and I/O breakpoints and single steps are traps:
 * collect the bits while the instruction runs, and when it is done, RIP advanced, hand them to isa_debug_trap. A MOV SS
 * shadow that the instruction left behind holds traps back until the next one is done.
 */
#define ISA_DR6_BD BIT(13) /* general detect */
#define ISA_DR6_BS BIT(14) /* single step */
#define ISA_DR6_BT BIT(15) /* task switch */
bool isa_debug_armed(const struct cpu *c);
u64 isa_debug_exec(const struct cpu *c, gva_t va);
u64 isa_debug_data(const struct cpu *c, gva_t va, unsigned len, bool write);
u64 isa_debug_io(const struct cpu *c, u16 port, unsigned size);
/* Is a single-step trap due after an instruction of that mnemonic that began with TF as in `tf_before`? */
bool isa_debug_step(const struct cpu *c, u16 mnemonic, bool tf_before);
/* Deliver #DB as a trap with these bits in DR6. As isa_deliver. */
int isa_debug_trap(struct isa *m, u64 dr6);

#endif
