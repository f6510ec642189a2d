/*
 * Near control transfers in 64-bit mode. Those of 16- and 32-bit code, and the rare forms (66 prefix), go through isa/.
 */
#include "engine/interp/interp.h"

/* Go to `target`, ending the block. A target outside the canonical range faults at the branch. */
static inline void go(struct interp *ip, const struct op *op, u64 target)
{
    if (unlikely(!gva_canonical(GVA(target))))
        fault_exit(ip, op, cpu_raise_error(ip->cpu, VEC_GP, 0));
    ip->cpu->rip = target;
}

static void jmp_imm(struct interp *ip, const struct op *op)
{
    go(ip, op, op_next_ip(ip, op) + (u64)op->imm);
}
static void jmp_r(struct interp *ip, const struct op *op)
{
    go(ip, op, *reg64(ip->cpu, op->dst));
}
static void jmp_m(struct interp *ip, const struct op *op)
{
    go(ip, op, load64(ip, op, ea(ip, op, 8, false)));
}

/* Taken or not, the block ends: the next one is looked up at RIP. */
#define DEFINE_JCC(cc)                                           \
    static void jcc_##cc(struct interp *ip, const struct op *op) \
    {                                                            \
        u64 next = op_next_ip(ip, op);                           \
        if (cond(ip->cpu->arith, cc))                            \
            go(ip, op, next + (u64)op->imm);                     \
        else                                                     \
            ip->cpu->rip = next;                                 \
    }
DEFINE_JCC(0)
DEFINE_JCC(1)
DEFINE_JCC(2)
DEFINE_JCC(3)
DEFINE_JCC(4)
DEFINE_JCC(5)
DEFINE_JCC(6)
DEFINE_JCC(7)
DEFINE_JCC(8)
DEFINE_JCC(9)
DEFINE_JCC(10)
DEFINE_JCC(11)
DEFINE_JCC(12)
DEFINE_JCC(13)
DEFINE_JCC(14)
DEFINE_JCC(15)
static const op_fn jcc[16] = {jcc_0, jcc_1, jcc_2,  jcc_3,  jcc_4,  jcc_5,  jcc_6,  jcc_7,
                              jcc_8, jcc_9, jcc_10, jcc_11, jcc_12, jcc_13, jcc_14, jcc_15};

/* Push the return address and go. The push comes first; a target out of range then gives #GP with RSP as before. */
static inline void call(struct interp *ip, const struct op *op, u64 target)
{
    struct cpu *c = ip->cpu;
    u64 sp = c->gpr[RSP] - 8, next = op_next_ip(ip, op);
    u8 *p = tlb_write_ptr(ip, sp, 8);
    if (likely(p))
        *(u64_any *)(void *)p = next;
    else
        push_slow(ip, op, sp, next, 8);
    if (unlikely(!gva_canonical(GVA(target))))
        fault_exit(ip, op, cpu_raise_error(c, VEC_GP, 0));
    c->gpr[RSP] = sp;
    c->rip = target;
}

static void call_imm(struct interp *ip, const struct op *op)
{
    call(ip, op, op_next_ip(ip, op) + (u64)op->imm);
}
static void call_r(struct interp *ip, const struct op *op)
{
    call(ip, op, *reg64(ip->cpu, op->dst));
}
static void call_m(struct interp *ip, const struct op *op)
{
    call(ip, op, load64(ip, op, ea(ip, op, 8, false)));
}

/* RET, RET imm16 (op->imm, else 0) */
static void ret(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    u64 target = load64(ip, op, c->gpr[RSP]);
    if (unlikely(!gva_canonical(GVA(target))))
        fault_exit(ip, op, cpu_raise_error(c, VEC_GP, 0));
    c->gpr[RSP] += 8 + (u64)op->imm;
    c->rip = target;
}

/* LOOP, LOOPE, LOOPNE (op->size 0, 1, 2) and JRCXZ/JECXZ (3): the counter's width is the address size. */
static void loop(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    u64 mask = op->addr_size == 8 ? ~0ull : 0xffffffff;
    u64 n = c->gpr[RCX] & mask, next = op_next_ip(ip, op);
    bool zf = c->arith & 0x4000, take;
    if (op->size == 3) {
        take = n == 0;
    } else {
        n = (n - 1) & mask;
        take = n && (op->size == 0 || zf == (op->size == 1));
    }
    u64 target = take ? next + (u64)op->imm : next;
    if (unlikely(!gva_canonical(GVA(target))))
        fault_exit(ip, op, cpu_raise_error(c, VEC_GP, 0));
    if (op->size != 3)
        c->gpr[RCX] = n;
    c->rip = target;
}

static op_fn near_transfer(const struct isa_insn *insn, struct op *op, op_fn imm, op_fn reg, op_fn mem)
{
    const struct isa_operand *d = &insn->op[0];
    if (d->kind == ISA_OP_IMM) {
        op->imm = insn->imm;
        return imm;
    }
    if (d->kind == ISA_OP_MEM)
        return d->size == 8 ? mem : NULL;
    if (!operand_is_gpr(d) || d->size != 8)
        return NULL;
    op->dst = operand_gpr(d);
    return reg;
}

op_fn flow_choose(const struct isa_insn *insn, struct op *op, u8 key, bool *ends)
{
    if (insn->cls != ISA_CONTROL || (key & KEY_MODE) != ISA_MODE_64 || (insn->prefixes & ISA_PFX_66))
        return NULL;
    *ends = true;
    bool jcc_short = insn->map == 0 && (insn->opcode & 0xf0) == 0x70;
    bool jcc_near = insn->map == 1 && (insn->opcode & 0xf0) == 0x80;
    if (jcc_short || jcc_near) {
        op->imm = insn->imm;
        return jcc[insn->opcode & 15];
    }
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return near_transfer(insn, op, jmp_imm, jmp_r, jmp_m);
    case ZYDIS_MNEMONIC_CALL:
        return near_transfer(insn, op, call_imm, call_r, call_m);
    case ZYDIS_MNEMONIC_RET:
        op->imm = insn->imm_len ? (u16)insn->imm : 0;
        op->segno = SEG_SS;
        return ret;
    case ZYDIS_MNEMONIC_LOOP:
    case ZYDIS_MNEMONIC_LOOPE:
    case ZYDIS_MNEMONIC_LOOPNE:
    case ZYDIS_MNEMONIC_JRCXZ:
    case ZYDIS_MNEMONIC_JECXZ:
        op->imm = insn->imm;
        op->addr_size = insn->addr_size;
        op->size = insn->mnemonic == ZYDIS_MNEMONIC_LOOP     ? 0
                   : insn->mnemonic == ZYDIS_MNEMONIC_LOOPE  ? 1
                   : insn->mnemonic == ZYDIS_MNEMONIC_LOOPNE ? 2
                                                             : 3;
        return loop;
    default:
        return NULL;
    }
}
