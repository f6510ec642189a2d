/*
 * Far control transfers: JMP, CALL, RET and IRET between segments and rings.
 *
 * Privilege goes inward (to a lower number) through call gates only, with a stack from the TSS; outward through RET and
 * IRET only, with the stack that the frame names. A conforming segment runs at the caller's level.
 *
 *   call gate, 32-bit:  31 offset 31:16 16 | P DPL 0 type | count 4:0        hi
 *                       31 selector     16 | offset 15:0                     lo
 *   in long mode 16 bytes, type 12 alone: offset 63:32 follows, no parameters, the target is 64-bit code.
 *
 * Task gates and TSSs as targets, and IRET with NT, are task.c's; what leads into and out of virtual-8086 mode is v86.c's.
 *
 * Source: SDM vol. 2, JMP, CALL, RET, IRET; vol. 3A ch. 5.8.
 */
#include "isa/isa_internal.h"
#include "machine/cpu/cpuid.h"

#include <string.h>

/* The code segment that a transfer leads to, checked and ready to be committed. */
struct far_target {
    struct cpu_segment cs;
    unsigned cpl;
    u64 rip;
};

struct call_gate {
    u16 selector;
    u64 offset;
    unsigned params;
    unsigned width;
};

static bool is_amd(const struct cpu *c)
{
    return c->model && c->model->amd;
}

/* AMD's processors know no m16:64 pointer: REX.W is ignored for what comes from memory. */
static unsigned pointer_size(const struct isa *m, const struct isa_insn *insn)
{
    unsigned size = isa_opsize(insn);
    return size == 8 && is_amd(m->cpu) ? 4 : size;
}

static int read_pointer(struct isa *m, const struct isa_insn *insn, u16 *sel, u64 *off)
{
    unsigned size = pointer_size(m, insn);
    u8 raw[10];
    *off = 0;
    if (insn->opcode != 0xff) {
        *off = (u64)insn->imm & isa_mask(size);
        *sel = insn->imm2;
        return CPU_OK;
    }
    ISA_TRY(isa_mem_read(m, insn, raw, size + 2));
    memcpy(off, raw, size);
    memcpy(sel, raw + size, 2);
    return CPU_OK;
}

/* The rest of loading CS from `d`, whose privilege is checked already. */
static int enter_code(struct isa *m, struct isa_desc *d, u16 sel, unsigned cpl, u64 rip, struct far_target *t)
{
    if (cpu_long_mode(m->cpu) && desc_l(d) && desc_db(d))
        return isa_fault_sel(m, VEC_GP, sel, 0);
    if (!desc_present(d))
        return isa_fault_sel(m, VEC_NP, sel, 0);
    isa_desc_unpack(d, sel, &t->cs);
    t->cs.attr |= SEG_ACCESSED;
    t->cpl = cpl;
    t->rip = rip;
    return isa_check_rip(m, &t->cs, rip, 0);
}

/* JMP and CALL straight to a code segment: the privilege level stays. */
static int direct_target(struct isa *m, struct isa_desc *d, u64 rip, struct far_target *t)
{
    unsigned cpl = m->cpu->cpl, dpl = desc_dpl(d), rpl = d->sel & 3;
    bool ok = desc_conforming(d) ? dpl <= cpl : dpl == cpl && rpl <= cpl;
    if (!ok)
        return isa_fault_sel(m, VEC_GP, d->sel, 0);
    return enter_code(m, d, d->sel, cpl, rip, t);
}

/* The same in real and virtual-8086 mode, which know no descriptors. */
static int paragraph_target(struct isa *m, u16 sel, u64 rip, struct far_target *t)
{
    struct cpu *c = m->cpu;
    t->cs = c->seg[SEG_CS];
    isa_segment_paragraph(c, sel, &t->cs);
    t->cpl = c->cpl;
    t->rip = rip;
    return isa_check_rip(m, &t->cs, rip, 0);
}

static void commit(struct isa *m, const struct far_target *t)
{
    isa_commit_cs(m, &t->cs, t->cpl);
    m->cpu->rip = t->rip;
    isa_mode_changed(m);
}

/* A task gate or an available TSS as target: the switch. */
static int switch_task(struct isa *m, const struct isa_insn *insn, const struct isa_desc *d, bool call)
{
    const struct isa_switch sw = {.how = call ? ISA_SWITCH_CALL : ISA_SWITCH_JMP,
                                  .flags = (u32)(cpu_rflags(m->cpu) & ~FL_RF),
                                  .rip = isa_next_rip(m->cpu, insn)};
    if (desc_type(d) == DESC_TASK)
        return isa_task_to(m, &sw, (u16)(d->lo >> 16));
    return d->sel & 4 ? isa_fault_sel(m, VEC_GP, d->sel, 0) : isa_task_switch(m, &sw, d);
}

/*
 * A system descriptor as target: a usable call gate in *d (read again whole) and *g, or a fault. Or a task: g->width is 0
 * then.
 */
static int check_gate(struct isa *m, struct isa_desc *d, struct call_gate *g)
{
    struct cpu *c = m->cpu;
    bool lm = cpu_long_mode(c);
    unsigned type = desc_type(d);
    u16 sel = d->sel;
    bool task = type == DESC_TASK || type == DESC_TSS || type == DESC_TSS16;
    if (type != DESC_CALL && (lm || (type != DESC_CALL16 && !task)))
        return isa_fault_sel(m, VEC_GP, sel, 0);
    if (desc_dpl(d) < c->cpl || desc_dpl(d) < (sel & 3u))
        return isa_fault_sel(m, VEC_GP, sel, 0);
    if (!desc_present(d))
        return isa_fault_sel(m, VEC_NP, sel, 0);
    *g = (struct call_gate){0};
    if (task)
        return CPU_OK;
    ISA_TRY(isa_desc_read_system(m, sel, d));
    if (d->top_hi & 0x1f00)
        return isa_fault_sel(m, VEC_GP, sel, 0);
    *g = (struct call_gate){
        .selector = (u16)(d->lo >> 16),
        .offset = (d->lo & 0xffff) | (d->hi & 0xffff0000) | (u64)d->top_lo << 32,
        .params = lm ? 0 : d->hi & 0x1f,
        .width = lm                  ? 8
                 : type == DESC_CALL ? 4
                                     : 2,
    };
    if (g->width == 2)
        g->offset &= 0xffff;
    return CPU_OK;
}

/* The code segment that a call gate names; `inward` when it is more privileged and CALL goes there. */
static int gate_target(struct isa *m, const struct call_gate *g, bool call, struct far_target *t)
{
    struct cpu *c = m->cpu;
    struct isa_desc d;
    if (sel_null(g->selector))
        return isa_gp0(m);
    ISA_TRY(isa_desc_read(m, g->selector, VEC_GP, 0, &d));
    bool same = desc_conforming(&d) || !call;
    bool allowed = desc_conforming(&d) || call ? desc_dpl(&d) <= c->cpl : desc_dpl(&d) == c->cpl;
    if (!desc_code(&d) || !allowed)
        return isa_fault_sel(m, VEC_GP, g->selector, 0);
    if (cpu_long_mode(c) && (!desc_l(&d) || desc_db(&d)))
        return isa_fault_sel(m, VEC_GP, g->selector, 0);
    ISA_TRY(enter_code(m, &d, g->selector, same ? c->cpl : desc_dpl(&d), g->offset, t));
    return isa_desc_accessed(m, &d);
}

int sys_jmp_far(struct isa *m, const struct isa_insn *insn)
{
    struct far_target t;
    struct call_gate g;
    struct isa_desc d;
    u16 sel;
    u64 off;
    ISA_TRY(read_pointer(m, insn, &sel, &off));
    if (cpu_paragraphs(m->cpu)) {
        ISA_TRY(paragraph_target(m, sel, off, &t));
        commit(m, &t);
        return CPU_OK;
    }
    if (sel_null(sel))
        return isa_gp0(m);
    ISA_TRY(isa_desc_read(m, sel, VEC_GP, 0, &d));
    if (!desc_s(&d)) {
        ISA_TRY(check_gate(m, &d, &g));
        if (!g.width)
            return switch_task(m, insn, &d, false);
        ISA_TRY(gate_target(m, &g, false, &t));
    } else {
        if (!desc_code(&d))
            return isa_fault_sel(m, VEC_GP, sel, 0);
        ISA_TRY(direct_target(m, &d, off, &t));
        ISA_TRY(isa_desc_accessed(m, &d));
    }
    commit(m, &t);
    return CPU_OK;
}

/* CALL to the same level: return address on the current stack, which a 64-bit target uses as such. */
static int call_same(struct isa *m, const struct isa_insn *insn, unsigned width, const struct far_target *t)
{
    struct cpu *c = m->cpu;
    struct isa_stack st;
    bool flat = cpu_long_mode(c) && (t->cs.attr & SEG_L);
    isa_stack_make(&c->seg[SEG_SS], c->gpr[RSP], width, c->cpl, flat || cpu_code64(c), 0, &st);
    st.acc = ISA_ACC_DATA;
    isa_stack_push(&st, c->seg[SEG_CS].selector);
    isa_stack_push(&st, isa_next_rip(c, insn));
    ISA_TRY(isa_stack_write(m, &st));
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    commit(m, t);
    return CPU_OK;
}

/* CALL through a gate to an inner ring: the TSS gives the stack, parameters are copied from the caller's. */
static int call_inner(struct isa *m, const struct isa_insn *insn, const struct call_gate *g, const struct far_target *t)
{
    struct cpu *c = m->cpu;
    struct isa_stack from, to;
    struct cpu_segment ss;
    u64 params[32], sp;
    bool lm = cpu_long_mode(c);
    ISA_TRY(isa_tss_stack(m, t->cpl, lm, 0, 0, &ss, &sp));
    isa_stack_current(c, g->width, &from);
    isa_stack_make(&ss, sp, g->width, t->cpl, lm, lm ? 0 : ss.selector & 0xfffc, &to);
    if (g->params)
        ISA_TRY(isa_stack_pop(m, &from, g->params, params));
    isa_stack_push(&to, c->seg[SEG_SS].selector);
    isa_stack_push(&to, c->gpr[RSP]);
    for (unsigned i = g->params; i > 0; i--)
        isa_stack_push(&to, params[i - 1]);
    isa_stack_push(&to, c->seg[SEG_CS].selector);
    isa_stack_push(&to, isa_next_rip(c, insn));
    ISA_TRY(isa_stack_write(m, &to));
    c->seg[SEG_SS] = ss;
    c->gpr[RSP] = isa_stack_rsp(c, to.mask, to.sp);
    commit(m, t);
    return CPU_OK;
}

int sys_call_far(struct isa *m, const struct isa_insn *insn)
{
    struct far_target t;
    struct call_gate g;
    struct isa_desc d;
    u16 sel;
    u64 off;
    ISA_TRY(read_pointer(m, insn, &sel, &off));
    if (cpu_paragraphs(m->cpu)) {
        ISA_TRY(paragraph_target(m, sel, off, &t));
        return call_same(m, insn, pointer_size(m, insn), &t);
    }
    if (sel_null(sel))
        return isa_gp0(m);
    ISA_TRY(isa_desc_read(m, sel, VEC_GP, 0, &d));
    if (desc_s(&d)) {
        if (!desc_code(&d))
            return isa_fault_sel(m, VEC_GP, sel, 0);
        ISA_TRY(direct_target(m, &d, off, &t));
        ISA_TRY(isa_desc_accessed(m, &d));
        return call_same(m, insn, pointer_size(m, insn), &t);
    }
    ISA_TRY(check_gate(m, &d, &g));
    if (!g.width)
        return switch_task(m, insn, &d, true);
    ISA_TRY(gate_target(m, &g, true, &t));
    return t.cpl == m->cpu->cpl ? call_same(m, insn, g.width, &t) : call_inner(m, insn, &g, &t);
}

/* The code segment of a return: RPL says which ring, never an inner one. */
static int return_target(struct isa *m, u16 sel, u64 rip, struct far_target *t)
{
    struct cpu *c = m->cpu;
    struct isa_desc d;
    unsigned rpl = sel & 3;
    if (sel_null(sel))
        return isa_gp0(m);
    ISA_TRY(isa_desc_read(m, sel, VEC_GP, 0, &d));
    if (!desc_code(&d) || rpl < c->cpl)
        return isa_fault_sel(m, VEC_GP, sel, 0);
    if (desc_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl)
        return isa_fault_sel(m, VEC_GP, sel, 0);
    ISA_TRY(enter_code(m, &d, sel, rpl, rip, t));
    return isa_desc_accessed(m, &d);
}

/* The stack segment of a return to ring `cpl`; null for 64-bit code outside ring 3. */
static int return_ss(struct isa *m, u16 sel, const struct far_target *t, struct cpu_segment *ss)
{
    bool code64 = cpu_long_mode(m->cpu) && (t->cs.attr & SEG_L);
    if (!sel_null(sel))
        return isa_segment_new_ss(m, sel, t->cpl, VEC_GP, 0, ss);
    if (!code64 || (sel & 3) == 3 || t->cpl == 3)
        return isa_gp0(m);
    isa_segment_null_ss(sel, t->cpl, ss);
    return CPU_OK;
}

/* Commit a return that loads SS:RSP. A 16-bit stack segment takes SP alone, the upper half stays. */
static void commit_return_stack(struct isa *m, const struct far_target *t, const struct cpu_segment *ss, u64 sp)
{
    struct cpu *c = m->cpu;
    bool code64 = cpu_long_mode(c) && (t->cs.attr & SEG_L);
    bool outer = t->cpl > c->cpl;
    c->seg[SEG_SS] = *ss;
    if (code64)
        c->gpr[RSP] = sp;
    else if (ss->attr & SEG_DB)
        c->gpr[RSP] = (u32)sp;
    else
        c->gpr[RSP] = (c->gpr[RSP] & 0xffff0000) | (sp & 0xffff);
    commit(m, t);
    if (outer)
        isa_null_outer_segments(c);
}

int sys_ret_far(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct far_target t;
    struct cpu_segment ss;
    struct isa_stack st;
    u64 v[4];
    u64 drop = insn->opcode == 0xca ? (u16)insn->imm : 0;
    isa_stack_current(c, isa_opsize(insn), &st);
    ISA_TRY(isa_stack_pop(m, &st, 2, v));
    ISA_TRY(cpu_paragraphs(c) ? paragraph_target(m, (u16)v[1], v[0], &t) : return_target(m, (u16)v[1], v[0], &t));
    st.sp = (st.sp + drop) & st.mask;
    if (t.cpl == c->cpl) {
        c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
        commit(m, &t);
        return CPU_OK;
    }
    ISA_TRY(isa_stack_pop(m, &st, 2, &v[2]));
    ISA_TRY(return_ss(m, (u16)v[3], &t, &ss));
    commit_return_stack(m, &t, &ss, v[2] + drop);
    return CPU_OK;
}

/* The flags that IRET takes from its frame; IOPL and IF by the level it was executed at. */
static void iret_flags(struct cpu *c, unsigned cpl, unsigned width, u64 image)
{
    u64 mask = FL_ARITH | FL_TF | FL_DF | FL_NT;
    unsigned iopl = (unsigned)((c->sysflags & FL_IOPL) >> FL_IOPL_SHIFT);
    if (width >= 4)
        mask |= FL_RF | FL_AC | FL_ID;
    if (cpl <= iopl)
        mask |= FL_IF;
    if (cpl == 0)
        mask |= FL_IOPL | (width >= 4 && !cpu_real_mode(c) ? FL_VIF | FL_VIP : 0);
    cpu_set_rflags(c, (cpu_rflags(c) & ~mask) | (image & mask));
}

/* IRET in real mode. */
static int iret_real(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct far_target t;
    struct isa_stack st;
    unsigned width = isa_opsize(insn);
    u64 v[3];
    isa_stack_current(c, width, &st);
    ISA_TRY(isa_stack_pop(m, &st, 3, v));
    ISA_TRY(paragraph_target(m, (u16)v[1], v[0], &t));
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    iret_flags(c, 0, width, v[2]);
    commit(m, &t);
    return CPU_OK;
}

/* Pop the whole frame, look at all of it, then commit. */
static int iret(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct far_target t;
    struct cpu_segment ss;
    struct isa_stack st;
    u64 v[5];
    unsigned width = isa_opsize(insn), cpl = c->cpl;
    bool always_ss = cpu_code64(c);

    isa_stack_current(c, width, &st);
    ISA_TRY(isa_stack_pop(m, &st, 3, v));
    if (!cpu_long_mode(c) && width == 4 && cpl == 0 && (v[2] & FL_VM))
        return isa_v86_enter(m, &st, v);
    ISA_TRY(return_target(m, (u16)v[1], v[0], &t));
    if (t.cpl == cpl && !always_ss) {
        c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
        iret_flags(c, cpl, width, v[2]);
        commit(m, &t);
        return CPU_OK;
    }
    ISA_TRY(isa_stack_pop(m, &st, 2, &v[3]));
    ISA_TRY(return_ss(m, (u16)v[4], &t, &ss));
    iret_flags(c, cpl, width, v[2]);
    commit_return_stack(m, &t, &ss, v[3]);
    return CPU_OK;
}

int sys_iret(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    int r;
    if ((c->sysflags & FL_NT) && cpu_long_mode(c))
        return isa_gp0(m);
    if (cpu_real_mode(c))
        r = iret_real(m, insn);
    else if (cpu_v86(c))
        r = isa_v86_iret(m, insn);
    else if (!(c->sysflags & FL_NT))
        r = iret(m, insn);
    else
        r = isa_task_return(m, isa_next_rip(c, insn));
    /* NMIs are possible again even when IRET itself faults (SDM vol. 3C, 28.2.3: "NMI unblocking due to IRET"). */
    if (r != CPU_UNIMPLEMENTED)
        c->nmi_blocked = 0;
    return r;
}
