/* PUSH, POP and LEAVE of 64-bit mode; those of 32-bit code are in compat.c. */
#include "engine/bt/bt_internal.h"

static const struct isa_mem below = {.base = RSP, .index = ISA_NO_REG, .seg = SEG_SS, .scale = 1, .disp = -8};
static const struct isa_mem top = {.base = RSP, .index = ISA_NO_REG, .seg = SEG_SS, .scale = 1, .disp = 0};
static const struct isa_mem frame = {.base = RBP, .index = ISA_NO_REG, .seg = SEG_SS, .scale = 1, .disp = 0};

static bool is_gpr64(const struct isa_operand *o)
{
    return o->kind == ISA_OP_REG && o->reg_class == ISA_REG_GPR64;
}

static bool push(struct bt_gen *g, const struct isa_insn *insn)
{
    const struct isa_operand *s = &insn->op[0];
    struct emit *e = &g->e;
    struct haddr at;
    if (s->kind == ISA_OP_IMM) {
        at = bt_lookup(g, &below, 8, 8, true);
        emit_store_imm(e, true, at, (s32)insn->imm);
    } else if (is_gpr64(s)) {
        at = bt_lookup(g, &below, 8, 8, true);
        emit_store(e, at, bt_value(g, s->reg, SCRATCH_A));
    } else if (s->kind == ISA_OP_MEM && s->size == 8) {
        emit_load(e, SCRATCH_A, bt_lookup(g, &insn->mem, insn->addr_size, 8, false));
        emit_store(e, AT_ST(target), SCRATCH_A);
        at = bt_lookup(g, &below, 8, 8, true);
        emit_load(e, SCRATCH_A, AT_ST(target));
        emit_store(e, at, SCRATCH_A);
    } else {
        return false;
    }
    emit_lea(e, HOST_SP, AT(HOST_SP, -8));
    return true;
}

static bool pop(struct bt_gen *g, const struct isa_insn *insn)
{
    const struct isa_operand *d = &insn->op[0];
    struct emit *e = &g->e;
    if (!is_gpr64(d))
        return false;
    struct haddr at = bt_lookup(g, &top, 8, 8, false);
    u8 host = bt_host_of[d->reg];
    emit_load(e, host == NO_HOST ? (unsigned)SCRATCH_A : host, at);
    if (host == NO_HOST)
        emit_store(e, bt_slot(d->reg), SCRATCH_A);
    if (d->reg != RSP)
        emit_lea(e, HOST_SP, AT(HOST_SP, 8));
    return true;
}

static bool leave(struct bt_gen *g)
{
    struct haddr at = bt_lookup(g, &frame, 8, 8, false);
    emit_lea(&g->e, HOST_SP, AT(H_RBP, 8));
    emit_load(&g->e, H_RBP, at);
    return true;
}

bool bt_stack(struct bt_gen *g, const struct isa_insn *insn)
{
    bool done = false;
    if ((insn->prefixes & ISA_PFX_66) || insn->cls != ISA_INNOCUOUS)
        return false;
    if (g->b->key & BK_COMPAT)
        done = bt_compat_stack(g, insn);
    else if (insn->mnemonic == ZYDIS_MNEMONIC_PUSH)
        done = push(g, insn);
    else if (insn->mnemonic == ZYDIS_MNEMONIC_POP)
        done = pop(g, insn);
    else if (insn->mnemonic == ZYDIS_MNEMONIC_LEAVE)
        done = leave(g);
    if (done)
        bt_how(g, HOW_STACK);
    return done;
}
