/*
 * Instructions on segment registers, descriptor tables and descriptors.
 *
 * Source: SDM vol. 2; APM vol. 3.
 */
#include "isa/isa_internal.h"
#include "machine/cpu/cpuid.h"

#include <string.h>

static bool umip(const struct cpu *c)
{
    return (c->cr4 & CR4_UMIP) && c->cpl != 0;
}

/* MOV with a segment, control or debug register among its operands. */
int sys_mov(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    const struct isa_operand *to = &insn->op[0], *from = &insn->op[1];
    if (to->reg_class == ISA_REG_CR && to->kind == ISA_OP_REG)
        return sys_mov_to_cr(m, insn);
    if (from->reg_class == ISA_REG_CR && from->kind == ISA_OP_REG)
        return sys_mov_from_cr(m, insn);
    if (to->reg_class == ISA_REG_DR && to->kind == ISA_OP_REG)
        return sys_mov_to_dr(m, insn);
    if (from->reg_class == ISA_REG_DR && from->kind == ISA_OP_REG)
        return sys_mov_from_dr(m, insn);
    if (insn->opcode == 0x8c) {
        unsigned size = to->kind == ISA_OP_MEM ? 2 : isa_opsize(insn);
        return isa_op_write(m, insn, 0, size, c->seg[from->reg].selector);
    }
    if (insn->opcode != 0x8e)
        return cpu_unimplemented(c, "instruction mov (opcode %02x)", insn->opcode);
    u64 sel;
    ISA_TRY(isa_op_read(m, insn, 1, 2, &sel));
    ISA_TRY(isa_load_segment(m, to->reg, (u16)sel));
    if (to->reg == SEG_SS)
        c->shadow |= SHADOW_MOVSS;
    return CPU_OK;
}

/* Intel's processors write 16 bits of a 32-bit slot. */
int sys_push(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    unsigned size = isa_stack_opsize(insn);
    bool amd = c->model && c->model->amd;
    struct isa_stack st;
    if (insn->op[0].kind != ISA_OP_REG || insn->op[0].reg_class != ISA_REG_SEG)
        return cpu_unimplemented(c, "instruction push");
    u16 sel = c->seg[insn->op[0].reg].selector;
    isa_stack_current(c, size, &st);
    if (size == 4 && !amd) {
        u64 sp = (st.sp - 4) & st.mask;
        st.sp = (sp + 2) & st.mask;
        st.width = 2;
    }
    isa_stack_push(&st, sel);
    ISA_TRY(isa_stack_write(m, &st));
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    return CPU_OK;
}

int sys_pop(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct isa_stack st;
    u64 v;
    if (insn->op[0].kind != ISA_OP_REG || insn->op[0].reg_class != ISA_REG_SEG)
        return cpu_unimplemented(c, "instruction pop");
    enum cpu_seg seg = insn->op[0].reg;
    isa_stack_current(c, isa_stack_opsize(insn), &st);
    ISA_TRY(isa_stack_pop(m, &st, 1, &v));
    ISA_TRY(isa_load_segment(m, seg, (u16)v));
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    if (seg == SEG_SS)
        c->shadow |= SHADOW_MOVSS;
    return CPU_OK;
}

/* LDS, LES, LFS, LGS, LSS. AMD's processors ignore REX.W here. */
int sys_load_far(struct isa *m, const struct isa_insn *insn)
{
    static const struct {
        u16 mnemonic;
        u8 seg;
    } which[] = {
        {ZYDIS_MNEMONIC_LDS, SEG_DS}, {ZYDIS_MNEMONIC_LES, SEG_ES}, {ZYDIS_MNEMONIC_LFS, SEG_FS},
        {ZYDIS_MNEMONIC_LGS, SEG_GS}, {ZYDIS_MNEMONIC_LSS, SEG_SS},
    };
    struct cpu *c = m->cpu;
    unsigned size = isa_opsize(insn), i = 0;
    u8 raw[10];
    u64 off = 0;
    u16 sel;
    if (size == 8 && c->model && c->model->amd)
        size = 4;
    while (which[i].mnemonic != insn->mnemonic)
        i++;
    ISA_TRY(isa_mem_read(m, insn, raw, size + 2));
    memcpy(&off, raw, size);
    memcpy(&sel, raw + size, 2);
    ISA_TRY(isa_load_segment(m, which[i].seg, sel));
    isa_gpr_put(c, insn->op[0].reg, size, off);
    return CPU_OK;
}

/* Base and limit of an LDT or TSS: 64-bit in long mode, where the upper half must be in order. */
static int unpack_system(struct isa *m, const struct isa_desc *d, struct cpu_segment *s)
{
    isa_desc_unpack(d, d->sel, s);
    if (!cpu_long_mode(m->cpu))
        return CPU_OK;
    s->base |= (u64)d->top_lo << 32;
    if ((d->top_hi & 0x1f00) || !isa_canonical(s->base))
        return isa_fault_sel(m, VEC_GP, d->sel, 0);
    return CPU_OK;
}

int sys_lldt(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct cpu_segment s;
    struct isa_desc d;
    u64 v;
    ISA_NEED_CPL0(m);
    ISA_TRY(isa_op_read(m, insn, 0, 2, &v));
    u16 sel = (u16)v;
    if (sel_null(sel)) {
        isa_segment_null(c, sel, &c->seg[SEG_LDTR]);
        return CPU_OK;
    }
    if (sel & 4)
        return isa_fault_sel(m, VEC_GP, sel, 0);
    ISA_TRY(isa_desc_read_system(m, sel, &d));
    if (desc_s(&d) || desc_type(&d) != DESC_LDT)
        return isa_fault_sel(m, VEC_GP, sel, 0);
    if (!desc_present(&d))
        return isa_fault_sel(m, VEC_NP, sel, 0);
    ISA_TRY(unpack_system(m, &d, &s));
    c->seg[SEG_LDTR] = s;
    return CPU_OK;
}

int sys_ltr(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct cpu_segment s;
    struct isa_desc d;
    u64 v;
    ISA_NEED_CPL0(m);
    ISA_TRY(isa_op_read(m, insn, 0, 2, &v));
    u16 sel = (u16)v;
    if (sel_null(sel))
        return isa_gp0(m);
    if (sel & 4)
        return isa_fault_sel(m, VEC_GP, sel, 0);
    ISA_TRY(isa_desc_read_system(m, sel, &d));
    bool tss16 = desc_type(&d) == DESC_TSS16 && !cpu_long_mode(c);
    if (desc_s(&d) || (desc_type(&d) != DESC_TSS && !tss16))
        return isa_fault_sel(m, VEC_GP, sel, 0);
    if (!desc_present(&d))
        return isa_fault_sel(m, VEC_NP, sel, 0);
    ISA_TRY(unpack_system(m, &d, &s));
    ISA_TRY(m->ops->or32(m->ctx, GVA(d.at.v + 4), 0x200, ISA_ACC_SYSTEM));
    s.attr |= 2; /* busy */
    c->seg[SEG_TR] = s;
    return CPU_OK;
}

/* SLDT, STR: 16 bits to memory, zero-extended to a register. */
static int store_selector(struct isa *m, const struct isa_insn *insn, u16 sel)
{
    if (umip(m->cpu))
        return isa_gp0(m);
    unsigned size = insn->op[0].kind == ISA_OP_MEM ? 2 : isa_opsize(insn);
    return isa_op_write(m, insn, 0, size, sel);
}

int sys_sldt(struct isa *m, const struct isa_insn *insn)
{
    return store_selector(m, insn, m->cpu->seg[SEG_LDTR].selector);
}

int sys_str(struct isa *m, const struct isa_insn *insn)
{
    return store_selector(m, insn, m->cpu->seg[SEG_TR].selector);
}

/* SGDT, SIDT: limit and the whole base, whatever the operand size (SDM: also with 16 bits). */
static int store_table(struct isa *m, const struct isa_insn *insn, const struct cpu_table *t)
{
    u8 raw[10];
    if (umip(m->cpu))
        return isa_gp0(m);
    memcpy(raw, &t->limit, 2);
    memcpy(raw + 2, &t->base, 8);
    return isa_mem_write(m, insn, raw, insn->mode == ISA_MODE_64 ? 10 : 6);
}

int sys_sgdt(struct isa *m, const struct isa_insn *insn)
{
    return store_table(m, insn, &m->cpu->gdtr);
}

int sys_sidt(struct isa *m, const struct isa_insn *insn)
{
    return store_table(m, insn, &m->cpu->idtr);
}

static int load_table(struct isa *m, const struct isa_insn *insn, struct cpu_table *t)
{
    u8 raw[10];
    u16 limit;
    u64 base = 0;
    bool m64 = insn->mode == ISA_MODE_64;
    ISA_NEED_CPL0(m);
    ISA_TRY(isa_mem_read(m, insn, raw, m64 ? 10 : 6));
    memcpy(&limit, raw, 2);
    memcpy(&base, raw + 2, m64 ? 8 : 4);
    if (!m64 && isa_opsize(insn) == 2)
        base &= 0xffffff;
    if (!isa_canonical(base))
        return isa_gp0(m);
    *t = (struct cpu_table){.base = base, .limit = limit};
    return CPU_OK;
}

int sys_lgdt(struct isa *m, const struct isa_insn *insn)
{
    return load_table(m, insn, &m->cpu->gdtr);
}

int sys_lidt(struct isa *m, const struct isa_insn *insn)
{
    return load_table(m, insn, &m->cpu->idtr);
}

/* System types that LAR and LSL show: bit n for type n (SDM vol. 2, tables in LAR and LSL). */
#define LAR_LEGACY (BIT(1) | BIT(2) | BIT(3) | BIT(4) | BIT(5) | BIT(9) | BIT(11) | BIT(12))
#define LAR_LONG   (BIT(2) | BIT(9) | BIT(11) | BIT(12))
#define LSL_LEGACY (BIT(1) | BIT(2) | BIT(3) | BIT(9) | BIT(11))
#define LSL_LONG   (BIT(2) | BIT(9) | BIT(11))

/*
 * The descriptor of the selector in operand `n`, if the current level may see it: *seen says so. Selectors outside their
 * table are no fault here.
 */
static int look(struct isa *m, const struct isa_insn *insn, unsigned n, u64 system_types, struct isa_desc *d,
                bool *seen)
{
    struct cpu *c = m->cpu;
    gva_t at;
    u64 v;
    *seen = false;
    ISA_TRY(isa_op_read(m, insn, n, 2, &v));
    u16 sel = (u16)v;
    if (sel_null(sel) || !isa_desc_find(c, sel, 8, &at))
        return CPU_OK;
    ISA_TRY(isa_desc_read(m, sel, VEC_GP, 0, d));
    if (!desc_s(d)) {
        if (!(system_types >> desc_type(d) & 1))
            return CPU_OK;
        /* The 16-byte ones of long mode must be in the table whole. */
        if (cpu_long_mode(c) && !isa_desc_find(c, sel, 16, &at))
            return CPU_OK;
    }
    *seen = desc_conforming(d) || (desc_dpl(d) >= c->cpl && desc_dpl(d) >= (sel & 3u));
    return CPU_OK;
}

int sys_lar(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct isa_desc d;
    bool seen;
    ISA_TRY(look(m, insn, 1, cpu_long_mode(c) ? LAR_LONG : LAR_LEGACY, &d, &seen));
    if (seen)
        isa_gpr_put(c, insn->op[0].reg, isa_opsize(insn), d.hi & 0x00ffff00);
    isa_set_arith(c, FL_ZF, seen);
    return CPU_OK;
}

int sys_lsl(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct cpu_segment s;
    struct isa_desc d;
    bool seen;
    ISA_TRY(look(m, insn, 1, cpu_long_mode(c) ? LSL_LONG : LSL_LEGACY, &d, &seen));
    if (seen) {
        isa_desc_unpack(&d, d.sel, &s);
        isa_gpr_put(c, insn->op[0].reg, isa_opsize(insn), s.limit);
    }
    isa_set_arith(c, FL_ZF, seen);
    return CPU_OK;
}

static int verify(struct isa *m, const struct isa_insn *insn, bool write)
{
    struct isa_desc d;
    bool seen;
    ISA_TRY(look(m, insn, 0, 0, &d, &seen));
    if (seen)
        seen = write ? desc_writable_data(&d) : !desc_code(&d) || (desc_type(&d) & SEG_RW);
    isa_set_arith(m->cpu, FL_ZF, seen);
    return CPU_OK;
}

int sys_verr(struct isa *m, const struct isa_insn *insn)
{
    return verify(m, insn, false);
}

int sys_verw(struct isa *m, const struct isa_insn *insn)
{
    return verify(m, insn, true);
}

int sys_arpl(struct isa *m, const struct isa_insn *insn)
{
    u64 to, from;
    ISA_TRY(isa_op_read(m, insn, 0, 2, &to));
    ISA_TRY(isa_op_read(m, insn, 1, 2, &from));
    bool lower = (to & 3) < (from & 3);
    if (lower)
        ISA_TRY(isa_op_write(m, insn, 0, 2, (to & ~3ull) | (from & 3)));
    isa_set_arith(m->cpu, FL_ZF, lower);
    return CPU_OK;
}
