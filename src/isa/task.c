/*
 * Hardware task switches.
 *
 * A task is what its TSS says: registers, segment selectors, LDT, page tables. JMP, CALL, interrupts and IRET with NT switch
 * to another one; a task gate, in any descriptor table, names its TSS as well.
 *
 *   32-bit TSS, 104 bytes                      16-bit TSS, 44 bytes
 *     0 link   4 ESP0 SS0 .. ESP2 SS2            0 link   2 SP0 SS0 .. SP2 SS2
 *    28 CR3   32 EIP  36 EFLAGS                 14 IP    16 FLAGS
 *    40 EAX ECX EDX EBX ESP EBP ESI EDI         18 AX CX DX BX SP BP SI DI
 *    72 ES CS SS DS FS GS (a dword each)        34 ES CS SS DS
 *    96 LDT  100 T (bit 0)  102 I/O map         42 LDT
 *
 *                      busy bit of the old, new   link of the new   NT: old (as saved), new
 *   JMP                cleared, set               -                 as is, as loaded
 *   CALL, interrupt    stays, set                 the old TSS       as is, set
 *   IRET               cleared, stays             -                 cleared, as loaded
 *
 * Everything that can be refused in the old task is looked at first, page faults on both TSSs and on the descriptors
 * included. Then the old task is saved and the new one's registers are in force. What is wrong with its segments from then
 * on is the new task's fault: an exception with its EIP (SDM vol. 3A, 7.3; table 7-1). Segment registers that have not been
 * loaded yet hold their selectors, and nothing that can be used.
 *
 * The upper halves of registers that come from a 16-bit TSS are zero; the manual leaves them open.
 *
 * Not done: RF of the new task's EFLAGS is lost when its first instruction has a breakpoint and the switch was single-stepped.
 *
 * Source: SDM vol. 3A ch. 7; CALL, INT n, IRET in vol. 2.
 */
#include "isa/isa_internal.h"

#include <string.h>

#define TSS32_BYTES  104u
#define TSS16_BYTES  44u
#define TSS32_SAVED  32u /* first of the bytes that are written when a task is left, and their end */
#define TSS32_END    96u
#define TSS16_SAVED  14u
#define TSS16_END    42u
#define TSS32_TRAP   100u

#define DESC_BUSY    2u       /* of a TSS's type */
#define DESC_BUSY_HI 0x200u   /* the same bit in a descriptor's second dword */
#define DR7_LOCAL    0x155ull /* L0-L3, LE */

/* Registers and selectors of a task as its TSS has them. */
struct task {
    u32 cr3, eip, eflags, gpr[8];
    u16 sel[6]; /* by enum cpu_seg */
    u16 ldt;
    bool wide, trap;
};

static u16 word(const u8 *p)
{
    u16 v;
    memcpy(&v, p, 2);
    return v;
}
static u32 dword(const u8 *p)
{
    u32 v;
    memcpy(&v, p, 4);
    return v;
}

static bool is_wide(unsigned type)
{
    return (type & ~DESC_BUSY) == DESC_TSS;
}

static void unpack32(const u8 *raw, struct task *t)
{
    t->cr3 = dword(raw + 28);
    t->eip = dword(raw + 32);
    t->eflags = dword(raw + 36);
    for (unsigned i = 0; i < 8; i++)
        t->gpr[i] = dword(raw + 40 + 4 * i);
    for (unsigned i = 0; i < 6; i++)
        t->sel[i] = word(raw + 72 + 4 * i);
    t->ldt = word(raw + 96);
    t->trap = raw[TSS32_TRAP] & 1;
}

static void unpack16(const u8 *raw, struct task *t)
{
    t->eip = word(raw + 14);
    t->eflags = word(raw + 16);
    for (unsigned i = 0; i < 8; i++)
        t->gpr[i] = word(raw + 18 + 2 * i);
    for (unsigned i = 0; i < 4; i++)
        t->sel[i] = word(raw + 34 + 2 * i);
    t->ldt = word(raw + 42);
}

/* --- before: nothing has changed yet --- */

static gva_t at(const struct cpu_segment *tss, unsigned off)
{
    return GVA((u32)(tss->base + off));
}

/* May the current task be saved? */
static int check_old(struct isa *m, const struct isa_switch *sw)
{
    const struct cpu_segment *tr = &m->cpu->seg[SEG_TR];
    bool wide = is_wide(tr->attr & SEG_TYPE);
    unsigned from = wide ? TSS32_SAVED : TSS16_SAVED, end = wide ? TSS32_END : TSS16_END;
    gva_t desc;
    if ((tr->attr & SEG_UNUSABLE) || tr->limit < end - 1)
        return isa_fault_sel(m, VEC_TS, tr->selector, sw->ext);
    ISA_TRY(m->ops->probe_write(m->ctx, at(tr, from), end - from, ISA_ACC_SYSTEM));
    if (sw->how == ISA_SWITCH_JMP || sw->how == ISA_SWITCH_IRET) {
        if (!isa_desc_find(m->cpu, tr->selector, 8, &desc))
            return isa_fault_sel(m, VEC_TS, tr->selector, sw->ext);
        ISA_TRY(m->ops->probe_write(m->ctx, GVA(desc.v + 4), 4, ISA_ACC_SYSTEM));
    }
    return CPU_OK;
}

static int read_new(struct isa *m, const struct isa_switch *sw, const struct isa_desc *d, struct cpu_segment *tss,
                    struct task *t)
{
    u8 raw[TSS32_BYTES];
    bool nested = sw->how == ISA_SWITCH_CALL;
    *t = (struct task){.wide = is_wide(desc_type(d))};
    unsigned bytes = t->wide ? TSS32_BYTES : TSS16_BYTES;
    isa_desc_unpack(d, d->sel, tss);
    if (tss->limit < bytes - 1)
        return isa_fault_sel(m, VEC_TS, d->sel, sw->ext);
    ISA_TRY(m->ops->read(m->ctx, at(tss, 0), raw, bytes, ISA_ACC_SYSTEM));
    if (nested)
        ISA_TRY(m->ops->probe_write(m->ctx, at(tss, 0), 2, ISA_ACC_SYSTEM));
    if (sw->how != ISA_SWITCH_IRET)
        ISA_TRY(m->ops->probe_write(m->ctx, GVA(d->at.v + 4), 4, ISA_ACC_SYSTEM));
    if (t->wide)
        unpack32(raw, t);
    else
        unpack16(raw, t);
    return CPU_OK;
}

/* --- leaving the old task --- */

static int save32(struct isa *m, const struct cpu_segment *tr, u32 eip, u32 eflags)
{
    const struct cpu *c = m->cpu;
    u32 raw[10] = {eip, eflags};
    for (unsigned i = 0; i < 8; i++)
        raw[2 + i] = (u32)c->gpr[i];
    ISA_TRY(m->ops->write(m->ctx, at(tr, TSS32_SAVED), raw, sizeof(raw), ISA_ACC_SYSTEM));
    for (unsigned i = 0; i < 6; i++)
        ISA_TRY(m->ops->write(m->ctx, at(tr, 72 + 4 * i), &c->seg[i].selector, 2, ISA_ACC_SYSTEM));
    return CPU_OK;
}

static int save16(struct isa *m, const struct cpu_segment *tr, u32 eip, u32 eflags)
{
    const struct cpu *c = m->cpu;
    u16 raw[14] = {(u16)eip, (u16)eflags};
    for (unsigned i = 0; i < 8; i++)
        raw[2 + i] = (u16)c->gpr[i];
    for (unsigned i = 0; i < 4; i++)
        raw[10 + i] = c->seg[i].selector;
    return m->ops->write(m->ctx, at(tr, TSS16_SAVED), raw, sizeof(raw), ISA_ACC_SYSTEM);
}

/* The busy bit of the current task goes; nobody but this CPU runs it, so nobody else writes this descriptor now. */
static int unbusy(struct isa *m)
{
    gva_t desc;
    u32 hi;
    if (!isa_desc_find(m->cpu, m->cpu->seg[SEG_TR].selector, 8, &desc))
        return CPU_OK;
    ISA_TRY(m->ops->read(m->ctx, GVA(desc.v + 4), &hi, 4, ISA_ACC_SYSTEM));
    hi &= ~DESC_BUSY_HI;
    return m->ops->write(m->ctx, GVA(desc.v + 4), &hi, 4, ISA_ACC_SYSTEM);
}

static int leave_old(struct isa *m, const struct isa_switch *sw)
{
    struct cpu *c = m->cpu;
    const struct cpu_segment *tr = &c->seg[SEG_TR];
    u32 eflags = sw->flags;
    if (sw->how != ISA_SWITCH_CALL)
        ISA_TRY(unbusy(m));
    if (sw->how == ISA_SWITCH_IRET)
        eflags &= ~FL_NT;
    return is_wide(tr->attr & SEG_TYPE) ? save32(m, tr, (u32)sw->rip, eflags) : save16(m, tr, (u32)sw->rip, eflags);
}

/* --- the new task --- */

/* Registers, and segment registers that hold their selectors and nothing else yet. */
static void take_registers(struct isa *m, const struct task *t)
{
    struct cpu *c = m->cpu;
    for (unsigned i = 0; i < 8; i++)
        c->gpr[i] = t->gpr[i];
    c->rip = t->eip;
    cpu_set_rflags(c, t->eflags);
    c->cpl = cpu_v86(c) ? 3 : t->sel[SEG_CS] & 3;
    for (unsigned i = 0; i <= SEG_GS; i++)
        c->seg[i] = (struct cpu_segment){.selector = t->sel[i], .attr = SEG_UNUSABLE};
    c->seg[SEG_CS].attr = SEG_P | SEG_S | SEG_CODE | SEG_ACCESSED | (u32)c->cpl << SEG_DPL_SHIFT;
    c->seg[SEG_LDTR] = (struct cpu_segment){.selector = t->ldt, .attr = SEG_UNUSABLE};
    c->cr0 |= CR0_TS;
    c->dr[7] &= ~DR7_LOCAL;
    c->shadow = 0;
    c->halted = 0;
}

static int load_ldt(struct isa *m, u16 sel, u32 ext)
{
    struct isa_desc d;
    if (sel_null(sel))
        return CPU_OK;
    if (sel & 4)
        return isa_fault_sel(m, VEC_TS, sel, ext);
    ISA_TRY(isa_desc_read(m, sel, VEC_TS, ext, &d));
    if (desc_s(&d) || desc_type(&d) != DESC_LDT || !desc_present(&d))
        return isa_fault_sel(m, VEC_TS, sel, ext);
    isa_desc_unpack(&d, sel, &m->cpu->seg[SEG_LDTR]);
    return CPU_OK;
}

static int load_cs(struct isa *m, u16 sel, u32 ext)
{
    struct isa_desc d;
    if (sel_null(sel))
        return isa_fault_sel(m, VEC_TS, sel, ext);
    ISA_TRY(isa_desc_read(m, sel, VEC_TS, ext, &d));
    unsigned rpl = sel & 3;
    if (!desc_code(&d) || (desc_conforming(&d) ? desc_dpl(&d) > rpl : desc_dpl(&d) != rpl))
        return isa_fault_sel(m, VEC_TS, sel, ext);
    if (!desc_present(&d))
        return isa_fault_sel(m, VEC_NP, sel, ext);
    ISA_TRY(isa_desc_accessed(m, &d));
    isa_desc_unpack(&d, sel, &m->cpu->seg[SEG_CS]);
    return CPU_OK;
}

static int load_segments(struct isa *m, const struct task *t, u32 ext)
{
    static const u8 data[] = {SEG_DS, SEG_ES, SEG_FS, SEG_GS};
    struct cpu *c = m->cpu;
    struct cpu_segment ss;
    ISA_TRY(load_ldt(m, t->ldt, ext));
    if (cpu_v86(c)) {
        for (unsigned i = 0; i <= SEG_GS; i++)
            isa_segment_paragraph(c, t->sel[i], &c->seg[i]);
        return CPU_OK;
    }
    ISA_TRY(load_cs(m, t->sel[SEG_CS], ext));
    ISA_TRY(isa_segment_new_ss(m, t->sel[SEG_SS], c->cpl, VEC_TS, ext, &ss));
    c->seg[SEG_SS] = ss;
    for (unsigned i = 0; i < ARRAY_LEN(data); i++)
        if (!sel_null(t->sel[data[i]]))
            ISA_TRY(isa_segment_load_data(m, t->sel[data[i]], VEC_TS, ext, &c->seg[data[i]]));
    return CPU_OK;
}

static int enter_new(struct isa *m, const struct isa_switch *sw, const struct cpu_segment *tss, struct task *t)
{
    struct cpu *c = m->cpu;
    if (sw->how == ISA_SWITCH_CALL)
        t->eflags |= FL_NT;
    c->seg[SEG_TR] = *tss;
    c->seg[SEG_TR].attr |= DESC_BUSY;
    take_registers(m, t);
    isa_mode_changed(m);
    if (t->wide && (c->cr0 & CR0_PG))
        ISA_TRY(isa_write_cr3(m, t->cr3));
    ISA_TRY(load_segments(m, t, sw->ext));
    isa_mode_changed(m);
    return CPU_OK;
}

/* An exception's error code goes onto the new task's stack. */
static int push_error(struct isa *m, const struct isa_switch *sw, bool wide)
{
    struct cpu *c = m->cpu;
    struct isa_stack st;
    if (!sw->has_error)
        return CPU_OK;
    isa_stack_current(c, wide ? 4 : 2, &st);
    st.error = sw->ext;
    isa_stack_push(&st, sw->error);
    ISA_TRY(isa_stack_write(m, &st));
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    return CPU_OK;
}

int isa_task_switch(struct isa *m, const struct isa_switch *sw, const struct isa_desc *d)
{
    struct cpu *c = m->cpu;
    struct cpu_segment tss;
    struct task t;
    u16 link = c->seg[SEG_TR].selector;
    ISA_TRY(read_new(m, sw, d, &tss, &t));
    ISA_TRY(check_old(m, sw));
    ISA_TRY(leave_old(m, sw));
    if (sw->how == ISA_SWITCH_CALL)
        ISA_TRY(m->ops->write(m->ctx, at(&tss, 0), &link, 2, ISA_ACC_SYSTEM));
    if (sw->how != ISA_SWITCH_IRET)
        ISA_TRY(m->ops->or32(m->ctx, GVA(d->at.v + 4), DESC_BUSY_HI, ISA_ACC_SYSTEM));

    ISA_TRY(enter_new(m, sw, &tss, &t));
    ISA_TRY(push_error(m, sw, t.wide));
    ISA_TRY(isa_check_rip(m, &c->seg[SEG_CS], c->rip, sw->ext));
    if (!t.trap)
        return ISA_SWITCHED;
    c->fault = (struct cpu_fault){.vector = VEC_DB, .address = ISA_DR6_BT}; /* with the new EIP as its return address */
    return CPU_FAULT;
}

int isa_task_to(struct isa *m, const struct isa_switch *sw, u16 sel)
{
    struct isa_desc d;
    u8 vector = sw->how == ISA_SWITCH_IRET ? VEC_TS : VEC_GP;
    bool busy = sw->how == ISA_SWITCH_IRET;
    if (sel & 4)
        return isa_fault_sel(m, vector, sel, sw->ext);
    ISA_TRY(isa_desc_read(m, sel, vector, sw->ext, &d));
    unsigned type = desc_type(&d), want = busy ? DESC_BUSY : 0;
    if (desc_s(&d) || (type != (DESC_TSS | want) && type != (DESC_TSS16 | want)))
        return isa_fault_sel(m, vector, sel, sw->ext);
    if (!desc_present(&d))
        return isa_fault_sel(m, VEC_NP, sel, sw->ext);
    return isa_task_switch(m, sw, &d);
}

int isa_task_return(struct isa *m, u64 next)
{
    const struct cpu_segment *tr = &m->cpu->seg[SEG_TR];
    const struct isa_switch sw = {.how = ISA_SWITCH_IRET, .rip = next, .flags = (u32)(cpu_rflags(m->cpu) & ~FL_RF)};
    u16 link;
    if ((tr->attr & SEG_UNUSABLE) || tr->limit < 1)
        return isa_fault_sel(m, VEC_TS, tr->selector, 0);
    ISA_TRY(m->ops->read(m->ctx, at(tr, 0), &link, 2, ISA_ACC_SYSTEM));
    return isa_task_to(m, &sw, link);
}
