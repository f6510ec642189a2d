/*
 * Segments: from a selector to the hidden part of a segment register.
 *
 * A descriptor is 8 bytes, in long mode 16 for LDTs, TSSs and call gates:
 *
 *   31      24 23 22 21 20 19   16 15 14 13 12 11   8 7       0
 *   base 31:24 G  DB L  AVL lim    P  DPL   S  type   base 23:16    hi
 *   base 15:0                      limit 15:0                       lo
 *
 * Reading one is a supervisor access whatever CPL is. Which exception a bad one raises depends on why it is read: the
 * callers pass the vector, and EXT in bit 0 of the error code while an event is being delivered.
 *
 * Source: SDM vol. 3A ch. 3.4 and 5; MOV, LLDT, LTR in vol. 2; APM vol. 2 ch. 4.
 */
#include "isa/isa_internal.h"
#include "machine/cpu/cpuid.h"

#include <string.h>

bool isa_desc_find(const struct cpu *c, u16 sel, unsigned bytes, gva_t *at)
{
    u32 off = sel & 0xfff8;
    u64 base = c->gdtr.base;
    u32 limit = c->gdtr.limit;
    if (sel & 4) {
        const struct cpu_segment *ldt = &c->seg[SEG_LDTR];
        if ((ldt->attr & SEG_UNUSABLE) || !(ldt->attr & SEG_P))
            return false;
        base = ldt->base;
        limit = ldt->limit;
    }
    *at = GVA(cpu_long_mode(c) ? base + off : (u32)(base + off));
    return off + bytes - 1 <= limit;
}

int isa_desc_read(struct isa *m, u16 sel, u8 vector, u32 ext, struct isa_desc *d)
{
    u32 raw[2];
    *d = (struct isa_desc){.sel = sel};
    if (!isa_desc_find(m->cpu, sel, 8, &d->at))
        return isa_fault_sel(m, vector, sel, ext);
    ISA_TRY(m->ops->read(m->ctx, d->at, raw, 8, ISA_ACC_SYSTEM));
    d->lo = raw[0];
    d->hi = raw[1];
    return CPU_OK;
}

int isa_desc_read_system(struct isa *m, u16 sel, struct isa_desc *d)
{
    u32 raw[4];
    if (!cpu_long_mode(m->cpu))
        return isa_desc_read(m, sel, VEC_GP, 0, d);
    *d = (struct isa_desc){.sel = sel};
    if (!isa_desc_find(m->cpu, sel, 16, &d->at))
        return isa_fault_sel(m, VEC_GP, sel, 0);
    ISA_TRY(m->ops->read(m->ctx, d->at, raw, 16, ISA_ACC_SYSTEM));
    d->lo = raw[0];
    d->hi = raw[1];
    d->top_lo = raw[2];
    d->top_hi = raw[3];
    return CPU_OK;
}

int isa_desc_accessed(struct isa *m, struct isa_desc *d)
{
    if (d->hi & 0x100)
        return CPU_OK;
    ISA_TRY(m->ops->or32(m->ctx, GVA(d->at.v + 4), 0x100, ISA_ACC_SYSTEM));
    d->hi |= 0x100;
    return CPU_OK;
}

void isa_desc_unpack(const struct isa_desc *d, u16 sel, struct cpu_segment *s)
{
    u32 limit = (d->lo & 0xffff) | (d->hi & 0xf0000);
    if (d->hi & 1u << 23)
        limit = limit << 12 | 0xfff;
    *s = (struct cpu_segment){
        .base = (d->lo >> 16) | (d->hi & 0xff) << 16 | (d->hi & 0xff000000),
        .limit = limit,
        .attr = d->hi >> 8 & 0xf0ff,
        .selector = sel,
    };
}

/* AMD's processors keep base and limit of a segment into which a null selector is loaded; Intel's clear them. */
void isa_segment_null(const struct cpu *c, u16 sel, struct cpu_segment *s)
{
    if (!c->model || !c->model->amd)
        *s = (struct cpu_segment){0};
    s->selector = sel;
    s->attr = SEG_UNUSABLE;
}

void isa_segment_null_ss(u16 sel, unsigned cpl, struct cpu_segment *s)
{
    *s = (struct cpu_segment){.selector = sel, .attr = SEG_UNUSABLE | cpl << SEG_DPL_SHIFT};
}

void isa_segment_flat_code(u16 sel, unsigned dpl, bool l, struct cpu_segment *s)
{
    *s = (struct cpu_segment){
        .limit = 0xffffffff,
        .attr = SEG_CODE | SEG_RW | SEG_ACCESSED | SEG_S | dpl << SEG_DPL_SHIFT | SEG_P | SEG_G,
        .selector = sel,
    };
    s->attr |= l ? SEG_L : SEG_DB;
}

void isa_segment_flat_data(u16 sel, unsigned dpl, struct cpu_segment *s)
{
    *s = (struct cpu_segment){
        .limit = 0xffffffff,
        .attr = SEG_RW | SEG_ACCESSED | SEG_S | dpl << SEG_DPL_SHIFT | SEG_P | SEG_DB | SEG_G,
        .selector = sel,
    };
}

int isa_segment_new_ss(struct isa *m, u16 sel, unsigned cpl, u8 vector, u32 ext, struct cpu_segment *s)
{
    struct isa_desc d;
    if (sel_null(sel))
        return cpu_raise_error(m->cpu, vector, ext);
    ISA_TRY(isa_desc_read(m, sel, vector, ext, &d));
    if ((sel & 3u) != cpl || desc_dpl(&d) != cpl || !desc_writable_data(&d))
        return isa_fault_sel(m, vector, sel, ext);
    if (!desc_present(&d))
        return isa_fault_sel(m, VEC_SS, sel, ext);
    ISA_TRY(isa_desc_accessed(m, &d));
    isa_desc_unpack(&d, sel, s);
    return CPU_OK;
}

/* Null into SS is for 64-bit mode below CPL 3; Intel's want the RPL right as well. */
static int load_null_ss(struct isa *m, u16 sel)
{
    struct cpu *c = m->cpu;
    bool amd = c->model && c->model->amd;
    if (!cpu_code64(c) || c->cpl == 3 || (!amd && (sel & 3) != c->cpl))
        return isa_gp0(m);
    isa_segment_null_ss(sel, c->cpl, &c->seg[SEG_SS]);
    return CPU_OK;
}

int isa_segment_load_data(struct isa *m, u16 sel, u8 vector, u32 ext, struct cpu_segment *s)
{
    struct isa_desc d;
    ISA_TRY(isa_desc_read(m, sel, vector, ext, &d));
    bool readable = desc_s(&d) && (!desc_code(&d) || (desc_type(&d) & SEG_RW));
    if (!readable)
        return isa_fault_sel(m, vector, sel, ext);
    if (!desc_conforming(&d) && ((sel & 3u) > desc_dpl(&d) || m->cpu->cpl > desc_dpl(&d)))
        return isa_fault_sel(m, vector, sel, ext);
    if (!desc_present(&d))
        return isa_fault_sel(m, VEC_NP, sel, ext);
    ISA_TRY(isa_desc_accessed(m, &d));
    isa_desc_unpack(&d, sel, s);
    return CPU_OK;
}

int isa_load_segment(struct isa *m, enum cpu_seg seg, u16 selector)
{
    struct cpu *c = m->cpu;
    struct cpu_segment s;
    if (seg == SEG_CS || seg > SEG_GS)
        return isa_ud(m);
    if (cpu_paragraphs(c)) {
        isa_segment_paragraph(c, selector, &c->seg[seg]);
        return CPU_OK;
    }
    if (seg == SEG_SS) {
        if (sel_null(selector))
            return load_null_ss(m, selector);
        ISA_TRY(isa_segment_new_ss(m, selector, c->cpl, VEC_GP, 0, &s));
    } else if (sel_null(selector)) {
        isa_segment_null(c, selector, &c->seg[seg]);
        return CPU_OK;
    } else {
        ISA_TRY(isa_segment_load_data(m, selector, VEC_GP, 0, &s));
    }
    c->seg[seg] = s;
    return CPU_OK;
}

void isa_commit_cs(struct isa *m, const struct cpu_segment *cs, unsigned cpl)
{
    struct cpu *c = m->cpu;
    c->seg[SEG_CS] = *cs;
    c->cpl = (u8)cpl;
    if (!cpu_paragraphs(c))
        c->seg[SEG_CS].selector = (u16)((cs->selector & 0xfffc) | cpl);
}

/*
 * Virtual-8086 mode fixes limit and rights. Real mode changes neither: what protected mode left there stays in force ("big
 * real mode"). But a null selector's segment becomes one that can be used.
 */
void isa_segment_paragraph(const struct cpu *c, u16 sel, struct cpu_segment *s)
{
    s->selector = sel;
    s->base = (u64)sel << 4;
    if (cpu_v86(c)) {
        s->limit = 0xffff;
        s->attr = SEG_P | SEG_DPL | SEG_S | SEG_RW | SEG_ACCESSED;
    } else if (s->attr & SEG_UNUSABLE) {
        s->limit = 0xffff;
        s->attr = SEG_P | SEG_S | SEG_RW | SEG_ACCESSED;
    }
}

void isa_null_outer_segments(struct cpu *c)
{
    static const u8 data[] = {SEG_ES, SEG_DS, SEG_FS, SEG_GS};
    for (unsigned i = 0; i < ARRAY_LEN(data); i++) {
        struct cpu_segment *s = &c->seg[data[i]];
        bool conforming = (s->attr & (SEG_S | SEG_CODE | SEG_CE)) == (SEG_S | SEG_CODE | SEG_CE);
        if ((s->attr & SEG_UNUSABLE) || conforming)
            continue;
        if ((s->attr & SEG_DPL) >> SEG_DPL_SHIFT < c->cpl) {
            s->selector = 0;
            s->attr = SEG_UNUSABLE;
        }
    }
}

int isa_check_rip(struct isa *m, const struct cpu_segment *cs, u64 rip, u32 ext)
{
    bool ok = cpu_long_mode(m->cpu) && (cs->attr & SEG_L) ? isa_canonical(rip) : rip <= cs->limit;
    return ok ? CPU_OK : cpu_raise_error(m->cpu, VEC_GP, ext);
}

/* 16-bit TSS: SP, SS words from 2 + 4 * ring; 32-bit: ESP, SS from 4 + 8 * ring (SDM vol. 3A, 7.2.1 and 7.6). */
static int tss_stack_legacy(struct isa *m, unsigned cpl, u32 ext, struct cpu_segment *ss, u64 *sp)
{
    struct cpu *c = m->cpu;
    const struct cpu_segment *tr = &c->seg[SEG_TR];
    bool wide = (tr->attr & SEG_TYPE) >= DESC_TSS;
    unsigned off = wide ? 4 + 8 * cpl : 2 + 4 * cpl;
    unsigned len = wide ? 6 : 4;
    u8 raw[6] = {0};
    if (off + len - 1 > tr->limit)
        return isa_fault_sel(m, VEC_TS, tr->selector, ext);
    ISA_TRY(m->ops->read(m->ctx, GVA((u32)(tr->base + off)), raw, len, ISA_ACC_SYSTEM));
    u32 esp = 0;
    u16 sel;
    memcpy(&esp, raw, wide ? 4 : 2);
    memcpy(&sel, raw + (wide ? 4 : 2), 2);
    *sp = esp;
    return isa_segment_new_ss(m, sel, cpl, VEC_TS, ext, ss);
}

/* 64-bit TSS: RSP0-2 from 4, IST1-7 from 36 (SDM vol. 3A, 7.7). */
int isa_tss_stack(struct isa *m, unsigned cpl, bool long64, unsigned ist, u32 ext, struct cpu_segment *ss, u64 *sp)
{
    const struct cpu_segment *tr = &m->cpu->seg[SEG_TR];
    if (!long64)
        return tss_stack_legacy(m, cpl, ext, ss, sp);
    unsigned off = ist ? 28 + 8 * ist : 4 + 8 * cpl;
    if (off + 7 > tr->limit)
        return isa_fault_sel(m, VEC_TS, tr->selector, ext);
    ISA_TRY(m->ops->read(m->ctx, GVA(tr->base + off), sp, 8, ISA_ACC_SYSTEM));
    if (!isa_canonical(*sp))
        return cpu_raise_error(m->cpu, VEC_SS, ext);
    isa_segment_null_ss((u16)cpl, cpl, ss);
    return CPU_OK;
}
