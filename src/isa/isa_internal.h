/*
 * What the files behind isa.h share: operands, stacks, descriptors, and the functions of the dispatch table.
 *
 * Three rules for whoever adds an instruction
 *  1. Read and check everything first, write memory next, change the struct cpu last. After the first change of the CPU
 *     nothing may fail.
 *  2. A function of the table leaves RIP alone unless its row says SYS_BRANCH; isa_execute advances it.
 *  3. What an engine may have keyed on (CS, CPL, CR0, CR4, EFER, AC, TF) is followed by isa_mode_changed.
 */
#ifndef TRAPEZE_ISA_INTERNAL_H
#define TRAPEZE_ISA_INTERNAL_H

#include "isa/isa.h"

/* ---- The dispatch table (execute.c) ---- */

typedef int sys_fn(struct isa *m, const struct isa_insn *insn);

#define SYS_BRANCH  1u /* sets RIP itself */
#define SYS_KEEP_RF 2u /* RF is left as the instruction set it (IRET; INT n, which may switch tasks) */
#define SYS_PROT    4u /* #UD in real and virtual-8086 mode */

struct sys_row {
    sys_fn *fn;
    u8 flags;
};

/* The row of a mnemonic, or NULL. */
const struct sys_row *isa_row(u16 mnemonic);

/* XSAVE family, FXSAVE and FXRSTOR: all their mnemonics come here (xsave.c). A sequential instruction: RIP is not its. */
int isa_xsave(struct isa *m, const struct isa_insn *insn);

/* XCR0 components whose state is not in its initial configuration: XINUSE of XGETBV with ECX=1 (xsave.c). */
u64 isa_xinuse(const struct cpu *c);

/* ---- Operands (operand.c) ---- */

/* Operand size in bytes without a 64-bit default: far branches, IRET, LGDT, IN and OUT. */
unsigned isa_opsize(const struct isa_insn *insn);
/* Operand size of what works on the stack by default with 64 bits in 64-bit mode: PUSH, POP, PUSHF, ENTER. */
unsigned isa_stack_opsize(const struct isa_insn *insn);
/* Operand size of near branches: 8 in 64-bit mode whatever the prefixes say. */
unsigned isa_branch_opsize(const struct isa_insn *insn);

/* Register of `size` bytes (1 is the low byte); writes of 4 bytes clear the upper half. */
u64 isa_gpr_get(const struct cpu *c, unsigned reg, unsigned size);
void isa_gpr_put(struct cpu *c, unsigned reg, unsigned size, u64 v);

static inline u64 isa_mask(unsigned size)
{
    return size >= 8 ? ~0ull : (1ull << (size * 8)) - 1;
}
static inline bool isa_canonical(u64 va)
{
    return (u64)((s64)(va << 16) >> 16) == va;
}

/* The memory operand: `size` bytes at its effective address, checked by isa_linear. ISA_ACC_DATA. */
int isa_mem_read(struct isa *m, const struct isa_insn *insn, void *buf, unsigned size);
int isa_mem_write(struct isa *m, const struct isa_insn *insn, const void *buf, unsigned size);

/* Operand n as `size` bytes: a general register, or the memory operand. */
int isa_op_read(struct isa *m, const struct isa_insn *insn, unsigned n, unsigned size, u64 *v);
int isa_op_write(struct isa *m, const struct isa_insn *insn, unsigned n, unsigned size, u64 v);

/* Address of the next instruction, wrapped as the code's width demands. */
u64 isa_next_rip(const struct cpu *c, const struct isa_insn *insn);

/* Set or clear flags among FL_ARITH. */
static inline void isa_set_arith(struct cpu *c, u64 flag, bool on)
{
    u64 fl = cpu_arith_to_flags(c->arith);
    c->arith = cpu_flags_to_arith(on ? fl | flag : fl & ~flag);
}

static inline void isa_mode_changed(struct isa *m)
{
    m->ops->mode_changed(m->ctx);
}
static inline int isa_gp0(struct isa *m)
{
    return cpu_raise_error(m->cpu, VEC_GP, 0);
}
static inline int isa_ud(struct isa *m)
{
    return cpu_raise(m->cpu, VEC_UD);
}
/* #GP(0) outside CPL 0. */
#define ISA_NEED_CPL0(m)        \
    do {                        \
        if ((m)->cpu->cpl != 0) \
            return isa_gp0(m);  \
    } while (0)
/* Pass on what is not CPU_OK. */
#define ISA_TRY(expr)           \
    do {                        \
        int isa_try_ = (expr);  \
        if (isa_try_ != CPU_OK) \
            return isa_try_;    \
    } while (0)

/* ---- Stacks (stack.c) ---- */

#define ISA_STACK_SLOTS 40 /* a call gate pushes at most 31 parameters and four values */

/*
 * A stack that is being read or written. Values are collected by isa_stack_push and reach memory together, in one access
 * if the range does not wrap; the caller stores `sp` into RSP when it commits.
 */
struct isa_stack {
    u64 base, sp;
    u64 mask;                  /* wrap of the stack pointer: 16, 32 or 64 bits */
    u32 limit;                 /* outside 64-bit mode */
    u32 attr;                  /* of the segment */
    u32 error;                 /* error code of a #SS */
    bool flat;                 /* 64-bit semantics: canonical addresses instead of limits */
    u8 acc;                    /* enum isa_access */
    u8 width;                  /* bytes a slot */
    u8 n;                      /* slots in `slot` */
    u64 slot[ISA_STACK_SLOTS]; /* in the order pushed */
};

/* The stack in force (SS:RSP of `c`), with slots of `width` bytes. */
void isa_stack_current(const struct cpu *c, unsigned width, struct isa_stack *st);
/* A stack in segment `ss` at `sp`, used at privilege `cpl`; `flat` for 64-bit mode. */
void isa_stack_make(const struct cpu_segment *ss, u64 sp, unsigned width, unsigned cpl, bool flat, u32 error,
                    struct isa_stack *st);
static inline void isa_stack_push(struct isa_stack *st, u64 v)
{
    st->slot[st->n++] = v;
}
/* Write what was pushed; moves st->sp down. #SS(st->error) if there is no room. */
int isa_stack_write(struct isa *m, struct isa_stack *st);
/* Pop n slots, the lowest address first; moves st->sp up. */
int isa_stack_pop(struct isa *m, struct isa_stack *st, unsigned n, u64 *v);
/* RSP after the stack pointer became `sp` under `mask`: 16-bit stacks keep the upper bits. */
u64 isa_stack_rsp(const struct cpu *c, u64 mask, u64 sp);

/* ---- Descriptors (segment.c) ---- */

/* A descriptor as it was read; `top` is the upper half of a 16-byte one. */
struct isa_desc {
    u32 lo, hi;
    u32 top_lo, top_hi;
    u16 sel;
    gva_t at;
};

static inline unsigned desc_type(const struct isa_desc *d)
{
    return d->hi >> 8 & 0xf;
}
static inline bool desc_s(const struct isa_desc *d)
{
    return d->hi >> 12 & 1;
}
static inline unsigned desc_dpl(const struct isa_desc *d)
{
    return d->hi >> 13 & 3;
}
static inline bool desc_present(const struct isa_desc *d)
{
    return d->hi >> 15 & 1;
}
static inline bool desc_l(const struct isa_desc *d)
{
    return d->hi >> 21 & 1;
}
static inline bool desc_db(const struct isa_desc *d)
{
    return d->hi >> 22 & 1;
}
static inline bool desc_code(const struct isa_desc *d)
{
    return desc_s(d) && (desc_type(d) & SEG_CODE);
}
static inline bool desc_conforming(const struct isa_desc *d)
{
    return desc_code(d) && (desc_type(d) & SEG_CE);
}
static inline bool desc_writable_data(const struct isa_desc *d)
{
    return desc_s(d) && !(desc_type(d) & SEG_CODE) && (desc_type(d) & SEG_RW);
}
static inline bool sel_null(u16 sel)
{
    return (sel & 0xfffc) == 0;
}

/* System descriptor types */
enum {
    DESC_TSS16 = 1,
    DESC_LDT = 2,
    DESC_TSS16_BUSY = 3,
    DESC_CALL16 = 4,
    DESC_TASK = 5,
    DESC_INT16 = 6,
    DESC_TRAP16 = 7,
    DESC_TSS = 9,
    DESC_TSS_BUSY = 11,
    DESC_CALL = 12,
    DESC_INT = 14,
    DESC_TRAP = 15,
};

/* Raise `vector` with a selector error code: RPL bits dropped, `ext` in bit 0. */
static inline int isa_fault_sel(struct isa *m, u8 vector, u16 sel, u32 ext)
{
    return cpu_raise_error(m->cpu, vector, (u32)(sel & 0xfffc) | ext);
}

/* Is the whole descriptor inside its table? `at` is its address. */
bool isa_desc_find(const struct cpu *c, u16 sel, unsigned bytes, gva_t *at);
/* Read the 8-byte descriptor of `sel`; vector(sel|ext) if its table does not hold it. */
int isa_desc_read(struct isa *m, u16 sel, u8 vector, u32 ext, struct isa_desc *d);
/* The same, 16 bytes in long mode: system descriptors and call gates. #GP(sel) also for a bad upper half. */
int isa_desc_read_system(struct isa *m, u16 sel, struct isa_desc *d);
/* Set the accessed bit in memory and in `d` if it is clear. */
int isa_desc_accessed(struct isa *m, struct isa_desc *d);
/* The hidden part that `d` gives. */
void isa_desc_unpack(const struct isa_desc *d, u16 sel, struct cpu_segment *s);
/* A null selector's segment: what `old` becomes on this vendor's processors. */
void isa_segment_null(const struct cpu *c, u16 sel, struct cpu_segment *s);
/* The null SS of 64-bit mode at privilege `cpl`. */
void isa_segment_null_ss(u16 sel, unsigned cpl, struct cpu_segment *s);

/* What loading `sel` makes of segment `s` in real and virtual-8086 mode. */
void isa_segment_paragraph(const struct cpu *c, u16 sel, struct cpu_segment *s);

/* Fixed segments of SYSCALL and its kin. */
void isa_segment_flat_code(u16 sel, unsigned dpl, bool l, struct cpu_segment *s);
void isa_segment_flat_data(u16 sel, unsigned dpl, struct cpu_segment *s);

/*
 * Check `sel` as the stack segment of privilege `cpl` in a transfer; faults carry `vector` (#TS or #GP) and `ext`, not
 * present is #SS. The accessed bit is set.
 */
int isa_segment_new_ss(struct isa *m, u16 sel, unsigned cpl, u8 vector, u32 ext, struct cpu_segment *s);
/* As MOV to DS does: faults are vector(sel|ext), not present is #NP. The accessed bit is set; `sel` is not null. */
int isa_segment_load_data(struct isa *m, u16 sel, u8 vector, u32 ext, struct cpu_segment *s);
/* Commit CS and CPL (in protected mode the RPL of the visible selector becomes CPL). */
void isa_commit_cs(struct isa *m, const struct cpu_segment *cs, unsigned cpl);
/* After a return to an outer ring: data segments that it may not use become null. */
void isa_null_outer_segments(struct cpu *c);
/* Is `rip` a possible address in code segment `cs`? Else #GP(ext). */
int isa_check_rip(struct isa *m, const struct cpu_segment *cs, u64 rip, u32 ext);

/* Stack of a more privileged level from the TSS: legacy SS:ESP, or RSPn with a null SS when `long64`. */
int isa_tss_stack(struct isa *m, unsigned cpl, bool long64, unsigned ist, u32 ext, struct cpu_segment *ss, u64 *sp);

/* MOV to CR3, with all its checks (sys_cr.c). */
int isa_write_cr3(struct isa *m, u64 v);

/* ---- Tasks (task.c) ---- */

/* What switches: it decides about busy bits, link and NT. */
enum { ISA_SWITCH_JMP, ISA_SWITCH_CALL, ISA_SWITCH_IRET };

struct isa_switch {
    u8 how;         /* ISA_SWITCH_*; interrupts are calls */
    bool has_error; /* `error` goes onto the new task's stack */
    u32 error;
    u32 ext;   /* bit 0 of error codes */
    u32 flags; /* EFLAGS and EIP that are saved in the old task */
    u64 rip;
};

/*
 * The result of a switch that went well: not CPU_OK, because RIP and RF are the new task's and nobody shall touch them.
 * isa_execute and isa_deliver_once make CPU_OK of it. CPU_FAULT: of the old task, or, when CPU and TR are changed already, of
 * the new one, to be delivered there.
 */
#define ISA_SWITCHED 64

/* To the TSS of `d`, an available one (busy for IRET), whose descriptor has been checked but for its limit. */
int isa_task_switch(struct isa *m, const struct isa_switch *sw, const struct isa_desc *d);
/* To the TSS that a task gate or a link names. */
int isa_task_to(struct isa *m, const struct isa_switch *sw, u16 sel);
/* IRET with NT: to the task that the current TSS is linked to. `next`: EIP to save. */
int isa_task_return(struct isa *m, u64 next);

/* ---- Virtual-8086 mode (v86.c) ---- */

/* IRET with VM in its flags, from ring 0. `v`: the frame's EIP, CS, EFLAGS; `st` is behind them. */
int isa_v86_enter(struct isa *m, struct isa_stack *st, const u64 v[3]);
/* IRET, INT n, PUSHF and POPF of virtual-8086 mode. */
int isa_v86_iret(struct isa *m, const struct isa_insn *insn);
int isa_v86_int(struct isa *m, const struct isa_insn *insn);
int isa_v86_pushf(struct isa *m, const struct isa_insn *insn);
int isa_v86_popf(struct isa *m, const struct isa_insn *insn);
/* CLI (on: false) and STI where CPL > IOPL, or #GP(0): virtual-8086 mode with CR4.VME, ring 3 with CR4.PVI. */
int isa_virtual_if(struct isa *m, bool on);
static inline unsigned isa_iopl(const struct cpu *c)
{
    return (unsigned)((c->sysflags & FL_IOPL) >> FL_IOPL_SHIFT);
}

/* ---- Delivery (deliver.c) ---- */

/*
 * One attempt to deliver, without combining faults: CPU_FAULT leaves the CPU as it was. `rip` is the return address,
 * `error` is pushed if has_error, `set_rf` sets RF in the pushed image.
 */
struct isa_event {
    u8 kind; /* enum isa_event_kind */
    u8 vector;
    bool has_error;
    bool set_rf;
    u32 error;
    u64 rip;
};
int isa_deliver_once(struct isa *m, const struct isa_event *ev);

/* ---- The functions of the table ---- */

/* clang-format off */
#define SYS_FUNCTIONS(X) \
    X(sys_ud) \
    /* sys_near.c */ \
    X(sys_jcc) X(sys_loop) X(sys_jrcxz) X(sys_jmp) X(sys_call) X(sys_ret) \
    /* sys_far.c */ \
    X(sys_jmp_far) X(sys_call_far) X(sys_ret_far) X(sys_iret) \
    /* sys_int.c */ \
    X(sys_int) X(sys_int3) X(sys_int1) X(sys_into) X(sys_bound) \
    /* sys_segment.c */ \
    X(sys_mov) X(sys_push) X(sys_pop) X(sys_load_far) X(sys_lldt) X(sys_ltr) X(sys_sldt) X(sys_str) X(sys_sgdt) \
    X(sys_sidt) X(sys_lgdt) X(sys_lidt) X(sys_lar) X(sys_lsl) X(sys_verr) X(sys_verw) X(sys_arpl) \
    /* sys_flags.c */ \
    X(sys_pushf) X(sys_popf) X(sys_cli) X(sys_sti) X(sys_stac) X(sys_clac) \
    /* sys_io.c */ \
    X(sys_in) X(sys_out) X(sys_ins) X(sys_outs) \
    /* sys_cr.c */ \
    X(sys_mov_from_cr) X(sys_mov_to_cr) X(sys_clts) X(sys_lmsw) X(sys_smsw) X(sys_mov_from_dr) X(sys_mov_to_dr) \
    X(sys_invlpg) X(sys_invpcid) X(sys_xgetbv) X(sys_xsetbv) \
    /* sys_msr.c */ \
    X(sys_rdmsr) X(sys_wrmsr) X(sys_rdtsc) X(sys_rdtscp) X(sys_rdpmc) X(sys_rdpid) X(sys_cpuid) X(sys_rdbase) \
    X(sys_wrbase) X(sys_swapgs) X(sys_hlt) X(sys_wbinvd) X(sys_vmcall) \
    /* sys_syscall.c */ \
    X(sys_syscall) X(sys_sysret) X(sys_sysenter) X(sys_sysexit)
/* clang-format on */

#define X(fn) sys_fn fn;
SYS_FUNCTIONS(X)
#undef X

#endif
