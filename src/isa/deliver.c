/*
 * Event delivery through the IDT.
 *
 * One attempt (isa_deliver_once) goes through these steps, and changes the CPU only in the last:
 *
 *   1. gate        inside the IDT, an interrupt or trap gate, DPL >= CPL for INT n, present
 *   2. handler     its code segment; conforming or equal ring: same stack, lower ring: stack from the TSS
 *   3. stack       SS:ESP or RSPn of the TSS, an IST slot, or the current one; in long mode aligned to 16
 *   4. frame       [GS, FS, DS, ES,] [SS, RSP,] RFLAGS, CS, RIP [, error code]: one write with the rights of the new ring;
 *                  the data segments out of virtual-8086 mode, where they become null
 *   5. commit      CS, CPL, RIP, SS, RSP; IF cleared by an interrupt gate, TF NT VM RF by both
 *
 * Error codes name the IDT entry (vector * 8 + 2) or a selector; bit 0 (EXT) is set unless INT n, INT3 or INTO is being
 * delivered.
 *
 * A fault inside is combined with the event (SDM vol. 3A, table 6-5):
 *
 *   first \ second    benign    contributory   page fault
 *   benign            serial    serial         serial
 *   contributory      serial    #DF            serial
 *   page fault        serial    #DF            #DF
 *   double fault      serial    shutdown       shutdown
 *
 * "Serial" means that the second one is delivered; the first is lost and, if it was a fault, comes again.
 *
 * Real mode has a table of far pointers, four bytes each, at the base and within the limit of IDTR; the frame is FLAGS,
 * CS, IP, without error codes. A task gate is a switch of tasks (task.c), the error code pushed by the new one.
 *
 * Source: SDM vol. 3A ch. 6; INT n in vol. 2; APM vol. 2 ch. 8.
 */
#include "isa/isa_internal.h"

#include <string.h>

#define DR6_RAISED 0xe00full /* B0-B3, BD, BS, BT */

/* Gates that a hostile engine callback could make us deliver in a row before we give up: more than the table allows. */
#define MAX_SERIAL 8

struct gate {
    u64 offset;
    u16 selector;
    u8 type, dpl, ist;
    bool present;
    unsigned width; /* of what is pushed */
};

static bool software(const struct isa_event *ev)
{
    return ev->kind == ISA_EVENT_SOFT_INT || ev->kind == ISA_EVENT_SOFT_EXC;
}

static int gate_fault(struct isa *m, const struct isa_event *ev, u8 vector, u32 ext)
{
    return cpu_raise_error(m->cpu, vector, ev->vector * 8u + 2 + ext);
}

static bool gate_type_ok(bool long_mode, unsigned type)
{
    if (type == DESC_INT || type == DESC_TRAP)
        return true;
    return !long_mode && (type == DESC_INT16 || type == DESC_TRAP16 || type == DESC_TASK);
}

static int read_gate(struct isa *m, const struct isa_event *ev, u32 ext, struct gate *g)
{
    struct cpu *c = m->cpu;
    bool lm = cpu_long_mode(c);
    unsigned size = lm ? 16 : 8;
    u32 off = ev->vector * size, raw[4] = {0};
    if (off + size - 1 > c->idtr.limit)
        return gate_fault(m, ev, VEC_GP, ext);
    ISA_TRY(m->ops->read(m->ctx, GVA(lm ? c->idtr.base + off : (u32)(c->idtr.base + off)), raw, size, ISA_ACC_SYSTEM));
    *g = (struct gate){
        .offset = (raw[0] & 0xffff) | (raw[1] & 0xffff0000) | (u64)raw[2] << 32,
        .selector = (u16)(raw[0] >> 16),
        .type = raw[1] >> 8 & 0x1f, /* S included: it must be 0 */
        .dpl = raw[1] >> 13 & 3,
        .ist = lm ? raw[1] & 7 : 0,
        .present = raw[1] >> 15 & 1,
    };
    g->width = lm ? 8 : g->type & 8 ? 4 : 2;
    if (g->width == 2)
        g->offset &= 0xffff;
    if (!gate_type_ok(lm, g->type))
        return gate_fault(m, ev, VEC_GP, ext);
    if (software(ev) && g->dpl < c->cpl)
        return gate_fault(m, ev, VEC_GP, ext);
    if (!g->present)
        return gate_fault(m, ev, VEC_NP, ext);
    return CPU_OK;
}

static int read_handler(struct isa *m, u16 sel, u32 ext, struct cpu_segment *cs, unsigned *cpl)
{
    struct cpu *c = m->cpu;
    struct isa_desc d;
    if (sel_null(sel))
        return cpu_raise_error(c, VEC_GP, ext);
    ISA_TRY(isa_desc_read(m, sel, VEC_GP, ext, &d));
    if (!desc_code(&d) || desc_dpl(&d) > c->cpl)
        return isa_fault_sel(m, VEC_GP, sel, ext);
    if (cpu_v86(c) && (desc_conforming(&d) || desc_dpl(&d) != 0))
        return isa_fault_sel(m, VEC_GP, sel, ext);
    if (cpu_long_mode(c) && (!desc_l(&d) || desc_db(&d)))
        return isa_fault_sel(m, VEC_GP, sel, ext);
    if (!desc_present(&d))
        return isa_fault_sel(m, VEC_NP, sel, ext);
    ISA_TRY(isa_desc_accessed(m, &d));
    isa_desc_unpack(&d, sel, cs);
    *cpl = desc_conforming(&d) ? c->cpl : desc_dpl(&d);
    return CPU_OK;
}

/* The stack for the frame, and in *ss what SS becomes. */
static int choose_stack(struct isa *m, const struct gate *g, unsigned cpl, u32 ext, struct cpu_segment *ss,
                        struct isa_stack *st)
{
    struct cpu *c = m->cpu;
    bool lm = cpu_long_mode(c);
    u64 sp = c->gpr[RSP];
    u32 error = ext;
    *ss = c->seg[SEG_SS];
    if (cpl != c->cpl) {
        ISA_TRY(isa_tss_stack(m, cpl, lm, g->ist, ext, ss, &sp));
        error = lm ? ext : (u32)(ss->selector & 0xfffc) | ext;
    } else if (g->ist) {
        struct cpu_segment unused;
        ISA_TRY(isa_tss_stack(m, cpl, lm, g->ist, ext, &unused, &sp));
    }
    if (lm) {
        if (!isa_canonical(sp))
            return cpu_raise_error(c, VEC_SS, ext);
        sp &= ~0xfull;
    }
    isa_stack_make(ss, sp, g->width, cpl, lm, error, st);
    return CPU_OK;
}

/* A software interrupt clears RF before it is delivered (SDM vol. 3A, 17.3.1.1). */
static u64 saved_flags(const struct cpu *c, const struct isa_event *ev)
{
    return (cpu_rflags(c) & ~(software(ev) ? FL_RF : 0ull)) | (ev->set_rf ? FL_RF : 0);
}

static void push_frame(const struct cpu *c, const struct isa_event *ev, bool outer, struct isa_stack *st)
{
    static const u8 data[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
    for (unsigned i = 0; cpu_v86(c) && i < ARRAY_LEN(data); i++)
        isa_stack_push(st, c->seg[data[i]].selector);
    if (outer) {
        isa_stack_push(st, c->seg[SEG_SS].selector);
        isa_stack_push(st, c->gpr[RSP]);
    }
    isa_stack_push(st, saved_flags(c, ev));
    isa_stack_push(st, c->seg[SEG_CS].selector);
    isa_stack_push(st, ev->rip);
    if (ev->has_error)
        isa_stack_push(st, ev->error);
}

static int switch_task(struct isa *m, const struct isa_event *ev, u16 tss, u32 ext)
{
    const struct isa_switch sw = {
        .how = ISA_SWITCH_CALL,
        .has_error = ev->has_error,
        .error = ev->error,
        .ext = ext,
        .flags = (u32)saved_flags(m->cpu, ev),
        .rip = ev->rip,
    };
    int r = isa_task_to(m, &sw, tss);
    return r == ISA_SWITCHED ? CPU_OK : r;
}

/* Out of virtual-8086 mode: the data segments are on the stack, and null. */
static void leave_v86(struct cpu *c)
{
    static const u8 data[] = {SEG_GS, SEG_FS, SEG_DS, SEG_ES};
    for (unsigned i = 0; i < ARRAY_LEN(data); i++)
        c->seg[data[i]] = (struct cpu_segment){.attr = SEG_UNUSABLE};
    c->sysflags &= ~FL_VM;
}

/* SDM vol. 3A, 20.1.4; INT n in vol. 2. An error code that a fault in here leaves is pushed by nobody. */
static int deliver_real(struct isa *m, const struct isa_event *ev)
{
    struct cpu *c = m->cpu;
    struct cpu_segment cs = c->seg[SEG_CS];
    struct isa_stack st;
    u32 off = ev->vector * 4u;
    u16 handler[2];
    if (off + 3 > c->idtr.limit)
        return cpu_raise_error(c, VEC_GP, ev->vector * 8u + 2);
    ISA_TRY(m->ops->read(m->ctx, GVA((u32)(c->idtr.base + off)), handler, 4, ISA_ACC_SYSTEM));
    isa_segment_paragraph(c, handler[1], &cs);
    ISA_TRY(isa_check_rip(m, &cs, handler[0], 0));
    isa_stack_current(c, 2, &st);
    isa_stack_push(&st, cpu_rflags(c));
    isa_stack_push(&st, c->seg[SEG_CS].selector);
    isa_stack_push(&st, ev->rip);
    ISA_TRY(isa_stack_write(m, &st));

    isa_commit_cs(m, &cs, 0);
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    c->rip = handler[0];
    c->sysflags &= ~(FL_IF | FL_TF | FL_AC | FL_RF);
    c->shadow = 0;
    c->halted = 0;
    isa_mode_changed(m);
    return CPU_OK;
}

int isa_deliver_once(struct isa *m, const struct isa_event *ev)
{
    struct cpu *c = m->cpu;
    struct cpu_segment cs, ss;
    struct isa_stack st;
    struct gate g;
    unsigned cpl;
    u32 ext = !software(ev);
    if (cpu_real_mode(c))
        return deliver_real(m, ev);
    ISA_TRY(read_gate(m, ev, ext, &g));
    if (g.type == DESC_TASK)
        return switch_task(m, ev, g.selector, ext);
    ISA_TRY(read_handler(m, g.selector, ext, &cs, &cpl));
    ISA_TRY(choose_stack(m, &g, cpl, ext, &ss, &st));
    ISA_TRY(isa_check_rip(m, &cs, g.offset, ext));
    push_frame(c, ev, cpu_long_mode(c) || cpl != c->cpl, &st);
    ISA_TRY(isa_stack_write(m, &st));

    /* Nothing can fail from here on. */
    if (cpu_v86(c))
        leave_v86(c);
    isa_commit_cs(m, &cs, cpl);
    c->seg[SEG_SS] = ss;
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    c->rip = g.offset;
    c->sysflags &= ~(FL_TF | FL_NT | FL_RF);
    if (g.type == DESC_INT || g.type == DESC_INT16)
        c->sysflags &= ~FL_IF;
    c->shadow = 0;
    c->halted = 0;
    isa_mode_changed(m);
    return CPU_OK;
}

enum severity { BENIGN, CONTRIBUTORY, PAGE_FAULT, DOUBLE_FAULT };

static enum severity severity(u8 kind, u8 vector)
{
    if (kind != ISA_EVENT_EXCEPTION)
        return BENIGN;
    switch (vector) {
    case VEC_DE:
    case VEC_TS:
    case VEC_NP:
    case VEC_SS:
    case VEC_GP:
        return CONTRIBUTORY;
    case VEC_PF:
        return PAGE_FAULT;
    case VEC_DF:
        return DOUBLE_FAULT;
    default:
        return BENIGN;
    }
}

static bool combine_to_double(enum severity first, enum severity second)
{
    return (first == CONTRIBUTORY && second == CONTRIBUTORY) ||
           (first == PAGE_FAULT && (second == CONTRIBUTORY || second == PAGE_FAULT));
}

/*
 * What an exception does before its handler is looked for: CR2, DR6, DR7.GD. B0-B3 of DR6 tell of this debug exception
 * alone; the others stay until software clears them (SDM vol. 3A, 17.2.3).
 */
static void record(struct cpu *c, const struct cpu_fault *f)
{
    if (f->vector == VEC_PF)
        c->cr2 = f->address;
    if (f->vector == VEC_DB) {
        c->dr[6] = (c->dr[6] & ~0xfull) | (f->address & DR6_RAISED);
        c->dr[7] &= ~BIT(13);
        c->msr.debugctl &= ~3ull; /* LBR and BTF */
    }
}

/* The saved RF of a fault is 1, but for an instruction breakpoint, whose handler decides (SDM vol. 3A, 17.3.1.1). */
static bool saves_rf(const struct cpu_fault *f)
{
    switch (f->vector) {
    case VEC_DB:
        return f->address & BIT(13); /* general detect */
    case VEC_NMI:
    case VEC_BP:
    case VEC_OF:
    case VEC_DF:
    case VEC_MC:
        return false;
    default:
        return true;
    }
}

static struct isa_event event_of_fault(struct cpu *c)
{
    struct cpu_fault f = c->fault;
    record(c, &f);
    return (struct isa_event){
        .kind = ISA_EVENT_EXCEPTION,
        .vector = f.vector,
        .has_error = f.has_error,
        .error = f.error,
        .set_rf = saves_rf(&f),
        .rip = c->rip,
    };
}

static int deliver_combining(struct isa *m, struct isa_event ev)
{
    struct cpu *c = m->cpu;
    for (unsigned i = 0; i < MAX_SERIAL; i++) {
        int r = isa_deliver_once(m, &ev);
        if (r != CPU_FAULT)
            return r;
        enum severity first = severity(ev.kind, ev.vector);
        enum severity second = severity(ISA_EVENT_EXCEPTION, c->fault.vector);
        if (first == DOUBLE_FAULT)
            return CPU_SHUTDOWN;
        ev = event_of_fault(c);
        if (combine_to_double(first, second))
            ev = (struct isa_event){
                .kind = ISA_EVENT_EXCEPTION, .vector = VEC_DF, .has_error = true, .error = 0, .rip = c->rip};
    }
    return CPU_SHUTDOWN;
}

static bool has_error_code(u8 vector)
{
    const u32 with = 1u << VEC_DF | 1u << VEC_TS | 1u << VEC_NP | 1u << VEC_SS | 1u << VEC_GP | 1u << VEC_PF |
                     1u << VEC_AC | 1u << 21;
    return vector < 32 && (with >> vector & 1);
}

int isa_deliver(struct isa *m, enum isa_event_kind kind, u8 vector)
{
    struct isa_event ev = {.kind = kind, .vector = vector, .rip = m->cpu->rip};
    ev.has_error = kind == ISA_EVENT_EXCEPTION && has_error_code(vector);
    return deliver_combining(m, ev);
}

int isa_deliver_fault(struct isa *m)
{
    return deliver_combining(m, event_of_fault(m->cpu));
}

int isa_take_interrupt(struct isa *m, enum isa_event_kind kind, u8 vector)
{
    struct cpu *c = m->cpu;
    c->halted = 0;
    if (kind == ISA_EVENT_NMI) {
        vector = VEC_NMI;
        c->nmi_pending = 0;
        c->nmi_blocked = 1;
        cpu_attention_clear(c, ATTN_NMI);
    }
    return isa_deliver(m, kind, vector);
}

bool isa_interruptible(const struct cpu *c, enum isa_event_kind kind)
{
    if (kind == ISA_EVENT_EXTERNAL)
        return (c->sysflags & FL_IF) && !c->shadow;
    if (kind == ISA_EVENT_NMI)
        return !c->nmi_blocked && !(c->shadow & SHADOW_MOVSS);
    return true;
}
