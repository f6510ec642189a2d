/*
 * Virtual-8086 mode: how a task gets in, what IOPL means there, and the virtual interrupt flag.
 *
 * Code runs at CPL 3 in segments that a selector alone makes (segment.c). PUSHF, POPF, CLI, STI, INT n and IRET need IOPL 3.
 * Below it they are #GP(0), so that a monitor can simulate them; or, with CR4.VME, they work on VIF in place of IF, as long as
 * nothing is asked that the monitor must see:
 *
 *               16-bit operands, IOPL < 3, CR4.VME               #GP(0) all the same
 *   PUSHF       VIF is shown as IF, IOPL as 3                    32-bit operands
 *   POPF, IRET  IF goes to VIF                                   32-bit operands; TF set; IF set while VIP is
 *   CLI, STI    VIF                                              STI while VIP is set
 *   INT n       see below; VIF is cleared, IF shows it           bit n of the redirection map is set
 *
 *   TSS   66h: u16, offset of the I/O map; the 32 bytes before that are the redirection map: bit n is for INT n
 *
 * With CR4.VME and a clear bit INT n goes through the vector table at linear address 0 without leaving the mode, whatever IOPL
 * is; with the bit set, or without CR4.VME, it is an interrupt through the IDT if IOPL is 3.
 *
 * CR4.PVI gives CLI and STI of ring 3 in protected mode the same virtual flag.
 *
 * Source: SDM vol. 3A ch. 20; CLI, INT n, IRET, POPF, PUSHF, STI in vol. 2.
 */
#include "isa/isa_internal.h"

#define TSS_IO_BASE 0x66
#define MAP_BYTES   32u

/* VIF takes IF's place. */
static bool virtual_flag(const struct cpu *c)
{
    return (c->cr4 & CR4_VME) && isa_iopl(c) < 3;
}

/* May an instruction with that operand size go on? */
static int check_iopl(struct isa *m, unsigned size)
{
    const struct cpu *c = m->cpu;
    return isa_iopl(c) == 3 || ((c->cr4 & CR4_VME) && size == 2) ? CPU_OK : isa_gp0(m);
}

int isa_virtual_if(struct isa *m, bool on)
{
    struct cpu *c = m->cpu;
    bool there = cpu_v86(c) ? c->cr4 & CR4_VME : c->cpl == 3 && (c->cr4 & CR4_PVI) && !cpu_real_mode(c);
    if (!there || (on && (c->sysflags & FL_VIP)))
        return isa_gp0(m);
    c->sysflags = on ? c->sysflags | FL_VIF : c->sysflags & ~FL_VIF;
    return CPU_OK;
}

/* The flags that PUSHF and INT n show. */
static u64 shown_flags(const struct cpu *c)
{
    u64 fl = cpu_rflags(c) & ~(FL_VM | FL_RF);
    if (!virtual_flag(c))
        return fl;
    return (fl & ~FL_IF) | FL_IOPL | (c->sysflags & FL_VIF ? FL_IF : 0);
}

/* Is there something in the flags that POPF or IRET take which only the monitor may do? */
static int check_flags(struct isa *m, u64 image)
{
    const struct cpu *c = m->cpu;
    bool pending = (image & FL_IF) && (c->sysflags & FL_VIP);
    return virtual_flag(c) && (pending || (image & FL_TF)) ? isa_gp0(m) : CPU_OK;
}

/* Flags of POPF and IRET; `more`: what else this instruction changes. */
static void take_flags(struct cpu *c, unsigned size, u64 image, u64 more)
{
    u64 mask = FL_ARITH | FL_TF | FL_DF | FL_NT, old = cpu_rflags(c);
    if (size == 4)
        mask |= FL_AC | FL_ID | more;
    if (virtual_flag(c)) {
        mask |= FL_VIF;
        image = (image & ~FL_VIF) | (image & FL_IF ? FL_VIF : 0);
    } else {
        mask |= FL_IF;
    }
    cpu_set_rflags(c, (old & ~mask) | (image & mask));
}

int isa_v86_pushf(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    unsigned size = isa_opsize(insn);
    struct isa_stack st;
    ISA_TRY(check_iopl(m, size));
    isa_stack_current(c, size, &st);
    isa_stack_push(&st, shown_flags(c));
    ISA_TRY(isa_stack_write(m, &st));
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    return CPU_OK;
}

int isa_v86_popf(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    unsigned size = isa_opsize(insn);
    struct isa_stack st;
    u64 image;
    ISA_TRY(check_iopl(m, size));
    isa_stack_current(c, size, &st);
    ISA_TRY(isa_stack_pop(m, &st, 1, &image));
    ISA_TRY(check_flags(m, image));
    take_flags(c, size, image, 0);
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    isa_mode_changed(m);
    return CPU_OK;
}

int isa_v86_iret(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    unsigned size = isa_opsize(insn);
    struct cpu_segment cs = c->seg[SEG_CS];
    struct isa_stack st;
    u64 v[3];
    ISA_TRY(check_iopl(m, size));
    isa_stack_current(c, size, &st);
    ISA_TRY(isa_stack_pop(m, &st, 3, v));
    isa_segment_paragraph(c, (u16)v[1], &cs);
    ISA_TRY(isa_check_rip(m, &cs, v[0], 0));
    ISA_TRY(check_flags(m, v[2]));
    take_flags(c, size, v[2], FL_RF);
    isa_commit_cs(m, &cs, 3);
    c->rip = v[0];
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    isa_mode_changed(m);
    return CPU_OK;
}

/* --- INT n --- */

/* Does the redirection map leave INT n to the task? */
static int left_to_task(struct isa *m, u8 vector, bool *left)
{
    struct cpu *c = m->cpu;
    const struct cpu_segment *tr = &c->seg[SEG_TR];
    u16 io_map;
    u8 bits;
    if ((tr->attr & SEG_UNUSABLE) || (tr->attr & SEG_TYPE) < DESC_TSS || tr->limit < TSS_IO_BASE + 1)
        return isa_gp0(m);
    ISA_TRY(m->ops->read(m->ctx, GVA((u32)(tr->base + TSS_IO_BASE)), &io_map, 2, ISA_ACC_SYSTEM));
    u32 off = io_map - MAP_BYTES + vector / 8u;
    if (io_map < MAP_BYTES || off > tr->limit)
        return isa_gp0(m);
    ISA_TRY(m->ops->read(m->ctx, GVA((u32)(tr->base + off)), &bits, 1, ISA_ACC_SYSTEM));
    *left = !(bits >> (vector & 7) & 1);
    return CPU_OK;
}

/* Through the task's own vector table, at linear address 0. */
static int int_8086(struct isa *m, u8 vector, u64 next)
{
    struct cpu *c = m->cpu;
    struct cpu_segment cs = c->seg[SEG_CS];
    struct isa_stack st;
    u16 handler[2];
    ISA_TRY(m->ops->read(m->ctx, GVA(vector * 4u), handler, 4, ISA_ACC_SYSTEM));
    isa_segment_paragraph(c, handler[1], &cs);
    isa_stack_current(c, 2, &st);
    isa_stack_push(&st, shown_flags(c));
    isa_stack_push(&st, c->seg[SEG_CS].selector);
    isa_stack_push(&st, next);
    ISA_TRY(isa_stack_write(m, &st));
    c->sysflags &= ~(FL_TF | FL_RF | (virtual_flag(c) ? FL_VIF : FL_IF));
    isa_commit_cs(m, &cs, 3);
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    c->rip = handler[0];
    isa_mode_changed(m);
    return CPU_OK;
}

int isa_v86_int(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    u8 vector = (u8)insn->imm;
    struct isa_event ev = {.kind = ISA_EVENT_SOFT_INT, .vector = vector, .rip = isa_next_rip(c, insn)};
    bool left = false;
    if (c->cr4 & CR4_VME)
        ISA_TRY(left_to_task(m, vector, &left));
    if (left)
        return int_8086(m, vector, ev.rip);
    return isa_iopl(c) == 3 ? isa_deliver_once(m, &ev) : isa_gp0(m);
}

/* --- the way in --- */

int isa_v86_enter(struct isa *m, struct isa_stack *st, const u64 v[3])
{
    static const u8 order[] = {SEG_SS, SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    struct cpu *c = m->cpu;
    u64 more[6]; /* ESP, SS, ES, DS, FS, GS */
    ISA_TRY(isa_stack_pop(m, st, 6, more));
    if (v[0] > 0xffff)
        return isa_gp0(m);
    cpu_set_rflags(c, v[2]);
    c->cpl = 3;
    isa_segment_paragraph(c, (u16)v[1], &c->seg[SEG_CS]);
    for (unsigned i = 0; i < ARRAY_LEN(order); i++)
        isa_segment_paragraph(c, (u16)more[1 + i], &c->seg[order[i]]);
    c->gpr[RSP] = (u32)more[0];
    c->rip = v[0];
    isa_mode_changed(m);
    return CPU_OK;
}
