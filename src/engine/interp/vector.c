/*
 * The commonest vector moves without a stub: whole XMM and YMM registers between each other and memory.
 *
 * What decides whether SSE or AVX may be used at all (CR0.EM and TS, CR4.OSFXSR, OSXSAVE, XCR0) is derived with the mode
 * into ip->vector_ok; without it these ops take the native path, which raises what is due.
 */
#include "engine/interp/interp.h"

#include <string.h>

/* op->size is the width in bytes; VEX forms clear the register above it. */
#define OPF_VEX     64u
#define OPF_ALIGNED 128u

static bool usable(const struct interp *ip, const struct op *op)
{
    return ip->vector_ok & (op->flags & OPF_VEX ? VECTOR_AVX : VECTOR_SSE);
}

static void put_vec(struct cpu *c, const struct op *op, const u8 *from)
{
    u8 *to = c->fpu.zmm[op->dst].b;
    memmove(to, from, op->size);
    if (op->flags & OPF_VEX)
        memset(to + op->size, 0, 64u - op->size);
}

/* Everything that is not plain: faults, alignment, page crossings, devices. */
static void vec_native(struct interp *ip, const struct op *op)
{
    op_native(ip, op);
}

static void vec_rr(struct interp *ip, const struct op *op)
{
    if (unlikely(!usable(ip, op))) {
        vec_native(ip, op);
        return;
    }
    put_vec(ip->cpu, op, ip->cpu->fpu.zmm[op->src].b);
    NEXT;
}

static void vec_load(struct interp *ip, const struct op *op)
{
    u64 va = ea(ip, op, op->size, false);
    const u8 *p = tlb_read_ptr(ip, va, op->size);
    if (unlikely(!p || !usable(ip, op) || ((op->flags & OPF_ALIGNED) && (va & (op->size - 1u))))) {
        vec_native(ip, op);
        return;
    }
    put_vec(ip->cpu, op, p);
    NEXT;
}

static void vec_store(struct interp *ip, const struct op *op)
{
    u64 va = ea(ip, op, op->size, true);
    u8 *p = tlb_write_ptr(ip, va, op->size);
    if (unlikely(!p || !usable(ip, op) || ((op->flags & OPF_ALIGNED) && (va & (op->size - 1u))))) {
        vec_native(ip, op);
        return;
    }
    memcpy(p, ip->cpu->fpu.zmm[op->src].b, op->size);
    NEXT;
}

static const struct {
    u16 mnemonic;
    bool aligned;
} rows[] = {
    {ZYDIS_MNEMONIC_MOVUPS, false},  {ZYDIS_MNEMONIC_MOVUPD, false},  {ZYDIS_MNEMONIC_MOVDQU, false},
    {ZYDIS_MNEMONIC_LDDQU, false},   {ZYDIS_MNEMONIC_MOVAPS, true},   {ZYDIS_MNEMONIC_MOVAPD, true},
    {ZYDIS_MNEMONIC_MOVDQA, true},   {ZYDIS_MNEMONIC_VMOVUPS, false}, {ZYDIS_MNEMONIC_VMOVUPD, false},
    {ZYDIS_MNEMONIC_VMOVDQU, false}, {ZYDIS_MNEMONIC_VLDDQU, false},  {ZYDIS_MNEMONIC_VMOVAPS, true},
    {ZYDIS_MNEMONIC_VMOVAPD, true},  {ZYDIS_MNEMONIC_VMOVDQA, true},
};

static bool is_vec(const struct isa_operand *o)
{
    return o->kind == ISA_OP_REG && (o->reg_class == ISA_REG_XMM || o->reg_class == ISA_REG_YMM);
}

static op_fn choose(const struct isa_insn *insn, struct op *op, bool aligned)
{
    const struct isa_operand *d = &insn->op[0], *s = &insn->op[1];
    bool dm = d->kind == ISA_OP_MEM, sm = s->kind == ISA_OP_MEM;
    if ((!dm && !is_vec(d)) || (!sm && !is_vec(s)))
        return NULL;
    op->size = (u8)(dm ? s->size : d->size);
    op->dst = dm ? 0 : d->reg;
    op->src = sm ? 0 : s->reg;
    op->flags |= (u8)((insn->encoding == ISA_ENC_VEX ? OPF_VEX : 0) | (aligned ? OPF_ALIGNED : 0));
    return dm ? vec_store : sm ? vec_load : vec_rr;
}

op_fn vector_choose(const struct isa_insn *insn, struct op *op)
{
    if (insn->encoding != ISA_ENC_LEGACY && insn->encoding != ISA_ENC_VEX)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].mnemonic == insn->mnemonic)
            return insn->n_visible == 2 ? choose(insn, op, rows[i].aligned) : NULL;
    return NULL;
}
