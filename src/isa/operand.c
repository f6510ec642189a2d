/*
 * Operands of system instructions: registers, effective and linear addresses, memory through the caller's operations.
 */
#include "isa/isa_internal.h"

unsigned isa_opsize(const struct isa_insn *insn)
{
    bool p66 = insn->prefixes & ISA_PFX_66;
    if (insn->mode == ISA_MODE_64 && (insn->prefixes & ISA_PFX_REX_W))
        return 8;
    return (insn->mode == ISA_MODE_16) == p66 ? 4 : 2;
}

unsigned isa_stack_opsize(const struct isa_insn *insn)
{
    unsigned size = isa_opsize(insn);
    return insn->mode == ISA_MODE_64 && size == 4 ? 8 : size;
}

unsigned isa_branch_opsize(const struct isa_insn *insn)
{
    return insn->mode == ISA_MODE_64 ? 8 : isa_opsize(insn);
}

u64 isa_gpr_get(const struct cpu *c, unsigned reg, unsigned size)
{
    return c->gpr[reg & 15] & isa_mask(size);
}

void isa_gpr_put(struct cpu *c, unsigned reg, unsigned size, u64 v)
{
    u64 *r = &c->gpr[reg & 15];
    if (size >= 4)
        *r = v & isa_mask(size);
    else
        *r = (*r & ~isa_mask(size)) | (v & isa_mask(size));
}

u64 isa_next_rip(const struct cpu *c, const struct isa_insn *insn)
{
    u64 next = c->rip + insn->len;
    return insn->mode == ISA_MODE_64 ? next : (u32)next; /* 16-bit code goes on beyond FFFF if CS lets it */
}

u64 isa_ea(const struct cpu *c, const struct isa_insn *insn)
{
    const struct isa_mem *mem = &insn->mem;
    u64 ea = (u64)mem->disp;
    if (mem->base == ISA_RIP_REG)
        ea += c->rip + insn->len;
    else if (mem->base != ISA_NO_REG)
        ea += c->gpr[mem->base & 15];
    if (mem->index != ISA_NO_REG)
        ea += c->gpr[mem->index & 15] * mem->scale;
    return ea & isa_mask(insn->addr_size);
}

/* Offsets that a data segment allows: [0, limit], or (limit, top] when it expands down. */
static bool within_limit(const struct cpu_segment *s, u64 off, unsigned size)
{
    u64 last = off + size - 1;
    bool down = (s->attr & (SEG_CODE | SEG_CE)) == SEG_CE;
    if (!down)
        return last <= s->limit;
    return off > s->limit && last <= (s->attr & SEG_DB ? 0xffffffffu : 0xffffu);
}

/* In real mode a segment that protected mode left there as readable code takes writes as well. */
static bool type_allows(const struct cpu *c, const struct cpu_segment *s, bool write)
{
    if (s->attr & SEG_UNUSABLE)
        return false;
    if (s->attr & SEG_CODE)
        return (!write || cpu_real_mode(c)) && (s->attr & SEG_RW);
    return !write || (s->attr & SEG_RW);
}

int isa_linear(struct cpu *c, enum cpu_seg seg, u64 off, unsigned size, bool write, gva_t *va)
{
    const struct cpu_segment *s = &c->seg[seg];
    u8 vector = seg == SEG_SS ? VEC_SS : VEC_GP;
    if (cpu_code64(c)) {
        u64 a = off + (seg == SEG_FS || seg == SEG_GS ? s->base : 0);
        if (!isa_canonical(a) || !isa_canonical(a + size - 1))
            return cpu_raise_error(c, vector, 0);
        *va = GVA(a);
        return CPU_OK;
    }
    if (!type_allows(c, s, write) || !within_limit(s, off, size))
        return cpu_raise_error(c, vector, 0);
    *va = GVA((u32)(s->base + off));
    return CPU_OK;
}

int isa_mem_read(struct isa *m, const struct isa_insn *insn, void *buf, unsigned size)
{
    gva_t va;
    ISA_TRY(isa_linear(m->cpu, insn->mem.seg, isa_ea(m->cpu, insn), size, false, &va));
    return m->ops->read(m->ctx, va, buf, size, ISA_ACC_DATA);
}

int isa_mem_write(struct isa *m, const struct isa_insn *insn, const void *buf, unsigned size)
{
    gva_t va;
    ISA_TRY(isa_linear(m->cpu, insn->mem.seg, isa_ea(m->cpu, insn), size, true, &va));
    return m->ops->write(m->ctx, va, buf, size, ISA_ACC_DATA);
}

int isa_op_read(struct isa *m, const struct isa_insn *insn, unsigned n, unsigned size, u64 *v)
{
    const struct isa_operand *o = &insn->op[n];
    if (o->kind == ISA_OP_REG) {
        *v = isa_gpr_get(m->cpu, o->reg, size);
        return CPU_OK;
    }
    *v = 0;
    return isa_mem_read(m, insn, v, size);
}

int isa_op_write(struct isa *m, const struct isa_insn *insn, unsigned n, unsigned size, u64 v)
{
    const struct isa_operand *o = &insn->op[n];
    if (o->kind == ISA_OP_REG) {
        isa_gpr_put(m->cpu, o->reg, size, v);
        return CPU_OK;
    }
    return isa_mem_write(m, insn, &v, size);
}
