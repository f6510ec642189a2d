/*
 * Near control transfers: the slow reference, with every check. Engines have their own fast path.
 *
 * Source: SDM vol. 2, Jcc, JMP, CALL, RET, LOOP.
 */
#include "isa/isa_internal.h"

static int check_target(struct isa *m, u64 rip)
{
    return isa_check_rip(m, &m->cpu->seg[SEG_CS], rip, 0);
}

/* Where a near branch to `rip` leads: truncated to the operand size, then checked against CS. */
static int near_target(struct isa *m, const struct isa_insn *insn, u64 *rip)
{
    *rip &= isa_mask(isa_branch_opsize(insn));
    return check_target(m, *rip);
}

static int relative(struct isa *m, const struct isa_insn *insn, bool taken)
{
    struct cpu *c = m->cpu;
    u64 rip = isa_next_rip(c, insn);
    if (taken) {
        rip += (u64)insn->imm;
        ISA_TRY(near_target(m, insn, &rip));
    }
    c->rip = rip;
    return CPU_OK;
}

/* The condition that the low four bits of an opcode encode (SDM vol. 1, appendix B). */
static bool condition(const struct cpu *c, unsigned cc)
{
    u64 fl = cpu_arith_to_flags(c->arith);
    bool less = !(fl & FL_SF) != !(fl & FL_OF);
    bool v = false;
    switch (cc >> 1) {
    case 0:
        v = fl & FL_OF;
        break;
    case 1:
        v = fl & FL_CF;
        break;
    case 2:
        v = fl & FL_ZF;
        break;
    case 3:
        v = fl & (FL_CF | FL_ZF);
        break;
    case 4:
        v = fl & FL_SF;
        break;
    case 5:
        v = fl & FL_PF;
        break;
    case 6:
        v = less;
        break;
    case 7:
        v = less || (fl & FL_ZF);
        break;
    }
    return v != (cc & 1);
}

int sys_jcc(struct isa *m, const struct isa_insn *insn)
{
    return relative(m, insn, condition(m->cpu, insn->opcode & 0xf));
}

int sys_jrcxz(struct isa *m, const struct isa_insn *insn)
{
    return relative(m, insn, isa_gpr_get(m->cpu, RCX, insn->addr_size) == 0);
}

int sys_loop(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    u64 count = (isa_gpr_get(c, RCX, insn->addr_size) - 1) & isa_mask(insn->addr_size);
    bool zf = cpu_arith_to_flags(c->arith) & FL_ZF;
    bool taken = count != 0;
    if (insn->mnemonic == ZYDIS_MNEMONIC_LOOPE)
        taken = taken && zf;
    else if (insn->mnemonic == ZYDIS_MNEMONIC_LOOPNE)
        taken = taken && !zf;
    ISA_TRY(relative(m, insn, taken));
    isa_gpr_put(c, RCX, insn->addr_size, count);
    return CPU_OK;
}

/* Opcodes of the far forms: EA and 9A direct, FF /5 and /3 through memory. */
static bool is_far(const struct isa_insn *insn)
{
    unsigned reg = insn->modrm >> 3 & 7;
    return insn->opcode == 0xea || insn->opcode == 0x9a || (insn->opcode == 0xff && (reg == 3 || reg == 5));
}

static int branch_target(struct isa *m, const struct isa_insn *insn, u64 *rip)
{
    if (insn->opcode == 0xff)
        ISA_TRY(isa_op_read(m, insn, 0, isa_branch_opsize(insn), rip));
    else
        *rip = isa_next_rip(m->cpu, insn) + (u64)insn->imm;
    *rip &= isa_mask(isa_branch_opsize(insn));
    return CPU_OK;
}

int sys_jmp(struct isa *m, const struct isa_insn *insn)
{
    u64 rip;
    if (is_far(insn))
        return sys_jmp_far(m, insn);
    ISA_TRY(branch_target(m, insn, &rip));
    ISA_TRY(check_target(m, rip));
    m->cpu->rip = rip;
    return CPU_OK;
}

int sys_call(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct isa_stack st;
    u64 rip;
    if (is_far(insn))
        return sys_call_far(m, insn);
    ISA_TRY(branch_target(m, insn, &rip));
    isa_stack_current(c, isa_branch_opsize(insn), &st);
    isa_stack_push(&st, isa_next_rip(c, insn));
    ISA_TRY(isa_stack_write(m, &st));
    ISA_TRY(check_target(m, rip)); /* the push comes first (seen on silicon) */
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp);
    c->rip = rip;
    return CPU_OK;
}

int sys_ret(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct isa_stack st;
    u64 rip;
    if (insn->opcode == 0xca || insn->opcode == 0xcb)
        return sys_ret_far(m, insn);
    isa_stack_current(c, isa_branch_opsize(insn), &st);
    ISA_TRY(isa_stack_pop(m, &st, 1, &rip));
    ISA_TRY(near_target(m, insn, &rip));
    u64 drop = insn->opcode == 0xc2 ? (u16)insn->imm : 0;
    c->gpr[RSP] = isa_stack_rsp(c, st.mask, st.sp + drop);
    c->rip = rip;
    return CPU_OK;
}
