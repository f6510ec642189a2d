/*
 * The architectural state of one virtual CPU: the same struct whichever engine runs it.
 *
 * What must stay true
 *  1. Between two instructions everything a guest could observe is in here (an engine keeps nothing back).
 *  2. Arithmetic flags live in `arith`, in the form that LAHF and SETO leave in AX; all other flags in `sysflags`.
 *     Read and write them together through cpu_rflags / cpu_set_rflags.
 *  3. Segment bases, limits and attributes are the hidden ("descriptor cache") part; limits are in bytes, already scaled.
 *  4. `cpl` is the privilege level in force; nobody derives it from a selector.
 *
 * Source: Intel SDM vol. 1 ch. 3, vol. 3A ch. 2-6; AMD APM vol. 2.
 */
#ifndef TRAPEZE_MACHINE_CPU_H
#define TRAPEZE_MACHINE_CPU_H

#include "base/record.h"
#include "base/types.h"

#include <string.h>

enum cpu_gpr { RAX, RCX, RDX, RBX, RSP, RBP, RSI, RDI, R8, R9, R10, R11, R12, R13, R14, R15, CPU_GPRS };

enum cpu_seg { SEG_ES, SEG_CS, SEG_SS, SEG_DS, SEG_FS, SEG_GS, SEG_LDTR, SEG_TR, CPU_SEGS };

/* RFLAGS */
#define FL_CF         BIT(0)
#define FL_ONE        BIT(1) /* reads as 1 */
#define FL_PF         BIT(2)
#define FL_AF         BIT(4)
#define FL_ZF         BIT(6)
#define FL_SF         BIT(7)
#define FL_TF         BIT(8)
#define FL_IF         BIT(9)
#define FL_DF         BIT(10)
#define FL_OF         BIT(11)
#define FL_IOPL       (BIT(12) | BIT(13))
#define FL_NT         BIT(14)
#define FL_RF         BIT(16)
#define FL_VM         BIT(17)
#define FL_AC         BIT(18)
#define FL_VIF        BIT(19)
#define FL_VIP        BIT(20)
#define FL_ID         BIT(21)

#define FL_IOPL_SHIFT 12
#define FL_ARITH      (FL_CF | FL_PF | FL_AF | FL_ZF | FL_SF | FL_OF)
#define FL_SYS        (FL_TF | FL_IF | FL_DF | FL_IOPL | FL_NT | FL_RF | FL_VM | FL_AC | FL_VIF | FL_VIP | FL_ID)

/* Control registers */
#define CR0_PE         BIT(0)
#define CR0_MP         BIT(1)
#define CR0_EM         BIT(2)
#define CR0_TS         BIT(3)
#define CR0_ET         BIT(4)
#define CR0_NE         BIT(5)
#define CR0_WP         BIT(16)
#define CR0_AM         BIT(18)
#define CR0_NW         BIT(29)
#define CR0_CD         BIT(30)
#define CR0_PG         BIT(31)

#define CR4_VME        BIT(0)
#define CR4_PVI        BIT(1)
#define CR4_TSD        BIT(2)
#define CR4_DE         BIT(3)
#define CR4_PSE        BIT(4)
#define CR4_PAE        BIT(5)
#define CR4_MCE        BIT(6)
#define CR4_PGE        BIT(7)
#define CR4_PCE        BIT(8)
#define CR4_OSFXSR     BIT(9)
#define CR4_OSXMMEXCPT BIT(10)
#define CR4_UMIP       BIT(11)
#define CR4_LA57       BIT(12)
#define CR4_FSGSBASE   BIT(16)
#define CR4_PCIDE      BIT(17)
#define CR4_OSXSAVE    BIT(18)
#define CR4_SMEP       BIT(20)
#define CR4_SMAP       BIT(21)
#define CR4_PKE        BIT(22)

#define EFER_SCE       BIT(0)
#define EFER_LME       BIT(8)
#define EFER_LMA       BIT(10)
#define EFER_NXE       BIT(11)
#define EFER_AUTOIBRS  BIT(21) /* AMD: the guest's wish, without effect here */

/* XCR0 components that this machine carries */
#define XCR0_X87       BIT(0)
#define XCR0_SSE       BIT(1)
#define XCR0_AVX       BIT(2)
#define XCR0_OPMASK    BIT(5)
#define XCR0_ZMM_HI256 BIT(6)
#define XCR0_HI16_ZMM  BIT(7)
#define XCR0_AVX512    (XCR0_OPMASK | XCR0_ZMM_HI256 | XCR0_HI16_ZMM)

/* Where each component stands in a guest's XSAVE area (standard format); CPUID leaf 0Dh reports these. */
#define XSAVE_AVX_OFFSET       576u
#define XSAVE_OPMASK_OFFSET    1088u
#define XSAVE_ZMM_HI256_OFFSET 1152u
#define XSAVE_HI16_ZMM_OFFSET  1664u
#define XSAVE_MAX_SIZE         2688u

/* Exception vectors (SDM vol. 3A, table 6-1) */
enum cpu_vector {
    VEC_DE = 0,
    VEC_DB = 1,
    VEC_NMI = 2,
    VEC_BP = 3,
    VEC_OF = 4,
    VEC_BR = 5,
    VEC_UD = 6,
    VEC_NM = 7,
    VEC_DF = 8,
    VEC_TS = 10,
    VEC_NP = 11,
    VEC_SS = 12,
    VEC_GP = 13,
    VEC_PF = 14,
    VEC_MF = 16,
    VEC_AC = 17,
    VEC_MC = 18,
    VEC_XM = 19,
};

/* Page-fault error code (SDM vol. 3A, 4.7) */
#define PF_P    BIT(0)
#define PF_W    BIT(1)
#define PF_U    BIT(2)
#define PF_RSVD BIT(3)
#define PF_I    BIT(4)

/*
 * Hidden part of a segment register. `attr` holds bits 8-23 of the descriptor's second dword, moved down by 8, limit
 * bits removed:
 *
 *   16   15  14  13  12  11..8   7   6..5   4   3..0
 *   unus. G  D/B  L  AVL   0     P   DPL    S   type
 */
struct cpu_segment {
    u64 base;
    u32 limit; /* in bytes: the last valid offset */
    u32 attr;
    u16 selector;
    u16 reserved[3];
};

#define SEG_TYPE      0xfu
#define SEG_S         BIT(4)
#define SEG_DPL       (3u << 5)
#define SEG_DPL_SHIFT 5
#define SEG_P         BIT(7)
#define SEG_AVL       BIT(12)
#define SEG_L         BIT(13)
#define SEG_DB        BIT(14)
#define SEG_G         BIT(15)
#define SEG_UNUSABLE  BIT(16) /* a null selector was loaded */
/* Type bits of code and data segments */
#define SEG_ACCESSED 1u
#define SEG_RW       2u /* data: writable; code: readable */
#define SEG_CE       4u /* data: expand-down; code: conforming */
#define SEG_CODE     8u

struct cpu_table {
    u64 base;
    u16 limit;
    u16 reserved[3];
};

struct cpu_vec {
    u8 b[64];
};

/*
 * Floating-point and vector state in one layout for every host: whole ZMM registers, the opmasks, and an FXSAVE64 image
 * whose first 160 bytes (x87 environment, MXCSR, ST/MM registers) count and whose XMM part is scratch.
 */
struct cpu_fpu {
    struct cpu_vec zmm[32];
    u8 fx[512];
    u64 k[8];
} __attribute__((aligned(64)));

static inline u32 *cpu_mxcsr(struct cpu_fpu *f)
{
    return (u32 *)(void *)(f->fx + 24);
}

/* Model-specific registers that are plain storage; the rules for each are in msr.c. */
struct cpu_msrs {
    u64 star, lstar, cstar, sfmask;
    u64 kernel_gs_base;
    u64 sysenter_cs, sysenter_esp, sysenter_eip;
    u64 tsc_aux;
    u64 tsc_adjust;
    u64 pat;
    u64 misc_enable;
    u64 mtrr_def_type;
    u64 mtrr_fixed[11];
    u64 mtrr_base[8], mtrr_mask[8];
    u64 mcg_status, mcg_ctl;
    u64 debugctl;
    u64 spec_ctrl;
    u64 microcode_rev;
    /* KVM's paravirtual registers (machine/cpu/kvmpv.h) */
    u64 kvm_system_time, kvm_wall_clock, kvm_pv_eoi, kvm_async_pf, kvm_steal_time, kvm_poll_control;
};

/*
 * The x87 part was loaded, or an instruction has changed it: AMD's processors save the pointers to the last instruction only while an
 * exception is pending (AMD64 manual vol. 5, FXSAVE), so they are lost with every change of contexts, of which an engine makes more or
 * less than another. There the guest's are always 0.
 */
static inline void cpu_fpu_settle_pointers(struct cpu_fpu *f)
{
    if (__builtin_cpu_is("amd"))
        memset(f->fx + 6, 0, 18); /* FOP, FIP, FDP */
}

/* What keeps an event from being taken at the next boundary. */
#define SHADOW_STI   1u
#define SHADOW_MOVSS 2u

/* Bits of cpu->attention, the one word that engines poll. Set from any thread, atomically; what another thread than the
   vCPU's sets may be seen only when the engine's budget ends. */
#define ATTN_INTR    BIT(0) /* an interrupt controller offers an interrupt */
#define ATTN_NMI     BIT(1) /* an NMI is latched */
#define ATTN_REQUEST BIT(2) /* somebody wants the engine's run function to return */

/* An exception on its way to delivery: what a fault leaves behind for isa/ to deliver. */
struct cpu_fault {
    u8 vector;
    u8 has_error;
    u32 error;
    u64 address; /* CR2 for a page fault; bits to or into DR6 for a debug exception */
};

struct cpu_model;

struct cpu {
    u64 gpr[CPU_GPRS];
    u64 rip;
    u64 zero;     /* always 0: stands in for the register that an address does not have */
    u64 sysflags; /* FL_SYS bits of RFLAGS */
    u16 arith;    /* AH = SF:ZF:0:AF:0:PF:1:CF, AL = OF, as LAHF and SETO AL leave them */
    u8 cpl;
    u8 shadow;      /* SHADOW_* in force for the next boundary */
    u8 halted;      /* HLT executed and no event since */
    u8 nmi_blocked; /* until IRET */
    u8 nmi_pending;
    u8 waits_startup; /* for a start-up IPI: executes nothing */
    u8 unhalt;        /* kicked by another CPU (KVM's PV unhalt): the present HLT, or the next, ends at once */
    u8 id;            /* index of this CPU in its machine and initial APIC id */

    u32 attention; /* ATTN_*: use __atomic builtins */

    struct cpu_segment seg[CPU_SEGS];
    struct cpu_table gdtr, idtr;
    u64 cr0, cr2, cr3, cr4, cr8;
    u64 pdpte[4]; /* PAE paging: the entries that CR3 named when it was loaded; else unused */
    u64 efer, xcr0;
    u64 dr[8]; /* dr[4], dr[5] unused */

    struct cpu_msrs msr;

    /* TSC of this CPU = vclock_tsc() of its machine + tsc_offset: 0 until the guest writes TSC or TSC_ADJUST */
    u64 tsc_offset;

    struct cpu_fault fault; /* valid right after a function returned CPU_FAULT */
    char stop_reason[160];  /* valid right after a function returned CPU_UNIMPLEMENTED */

    const struct cpu_model *model; /* CPUID and what follows from it; not owned */

    struct cpu_fpu fpu;
};

/*
 * Results of everything that may raise an exception: 0 went well; the others leave the CPU as it was before the
 * instruction unless its definition says otherwise.
 */
#define CPU_OK            0
#define CPU_FAULT         1 /* cpu->fault says which exception */
#define CPU_UNIMPLEMENTED 2 /* cpu->stop_reason names what is not there yet */
#define CPU_SHUTDOWN      3 /* triple fault */

/* LAHF/SETO form to RFLAGS bits and back. */
static inline u64 cpu_arith_to_flags(u16 a)
{
    return (u64)(a >> 8 & 0xd5) | (u64)(a & 1) << 11;
}
static inline u16 cpu_flags_to_arith(u64 fl)
{
    return (u16)((fl & 0xd5) << 8 | 0x200 | (fl >> 11 & 1));
}
/* The whole RFLAGS register as PUSHFQ would show it. */
static inline u64 cpu_rflags(const struct cpu *c)
{
    return c->sysflags | FL_ONE | cpu_arith_to_flags(c->arith);
}
/* Set all of RFLAGS; bits that do not exist are dropped. */
static inline void cpu_set_rflags(struct cpu *c, u64 fl)
{
    c->sysflags = fl & FL_SYS;
    c->arith = cpu_flags_to_arith(fl);
}

static inline bool cpu_long_mode(const struct cpu *c)
{
    return c->efer & EFER_LMA;
}
static inline bool cpu_real_mode(const struct cpu *c)
{
    return !(c->cr0 & CR0_PE);
}
/* Virtual-8086 mode. */
static inline bool cpu_v86(const struct cpu *c)
{
    return c->sysflags & FL_VM;
}
/* Real or virtual-8086 mode: a selector is no index into a table, but its segment's base divided by 16. */
static inline bool cpu_paragraphs(const struct cpu *c)
{
    return cpu_real_mode(c) || cpu_v86(c);
}
/* 64-bit mode proper: long mode and CS.L. */
static inline bool cpu_code64(const struct cpu *c)
{
    return cpu_long_mode(c) && (c->seg[SEG_CS].attr & SEG_L);
}

/* Leave an exception in cpu->fault; always returns CPU_FAULT. */
static inline int cpu_raise(struct cpu *c, u8 vector)
{
    c->fault = (struct cpu_fault){.vector = vector};
    return CPU_FAULT;
}
static inline int cpu_raise_error(struct cpu *c, u8 vector, u32 error)
{
    c->fault = (struct cpu_fault){.vector = vector, .has_error = 1, .error = error};
    return CPU_FAULT;
}
static inline int cpu_raise_pf(struct cpu *c, gva_t address, u32 error)
{
    c->fault = (struct cpu_fault){.vector = VEC_PF, .has_error = 1, .error = error, .address = address.v};
    return CPU_FAULT;
}

/* Stop the guest with "not implemented: WHAT"; always returns CPU_UNIMPLEMENTED. */
int cpu_unimplemented(struct cpu *c, const char *fmt, ...) __attribute__((format(printf, 2, 3)));

static inline void cpu_attention_set(struct cpu *c, u32 bits)
{
    __atomic_fetch_or(&c->attention, bits, __ATOMIC_SEQ_CST);
}
static inline void cpu_attention_clear(struct cpu *c, u32 bits)
{
    __atomic_fetch_and(&c->attention, ~bits, __ATOMIC_SEQ_CST);
}

/* State after power-up (SDM vol. 3A, table 9-1). `model` and `id` are kept, and a pending ATTN_REQUEST. */
void cpu_reset(struct cpu *c);

/*
 * State after an INIT (the same table): as after power-up, but x87, vectors, XCR0, the TSC, CR0.CD and NW and most MSRs
 * stay; KVM's paravirtual areas are off, because the guest that runs next does not know of them. Whether the CPU then
 * starts at the reset vector or waits for a start-up IPI is not in struct cpu: whoever delivers the INIT knows.
 */
void cpu_init_reset(struct cpu *c);

/*
 * A start-up IPI with that vector, behind cpu_init_reset: the CPU will run from physical address vector * 4 KiB, in real
 * mode (SDM vol. 3A, 8.4.3).
 */
void cpu_startup(struct cpu *c, u8 vector);

/* PAE paging (CR4.PAE, not in long mode). */
static inline bool cpu_pae_paging(const struct cpu *c)
{
    return (c->cr0 & CR0_PG) && (c->cr4 & CR4_PAE) && !cpu_long_mode(c);
}
/* May these be loaded as page-directory-pointer entries? Present ones must have no reserved bits (SDM vol. 3A, 4.4.1). */
bool cpu_pdptes_valid(const struct cpu *c, const u64 pdpte[4]);

/* Write the state as a person reads it (registers, segments, control registers), lines separated by \n. */
void cpu_describe(const struct cpu *c, char *out, size_t len);

/* The record of a CPU ('VCPU'). Its check refuses values that no CPU can have. */
extern const struct rec_desc cpu_record;

#endif
