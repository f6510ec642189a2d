/*
 * Near control transfers, and how a block is left.
 *
 * A direct jump becomes a direct jump between blocks, once the target exists (link). If it leads to another page it first
 * compares that page's TLB entry for code with what it was when the jump was linked; the comparison of a jump that is not
 * linked always holds. Where it does not, and for every indirect jump, the way leads through the hash of targets: the slot of
 * the target's address holds the code of a block that begins by comparing RCX with its own address. So a stale or
 * foreign slot is never wrong, only slow.
 *
 * A jump forward does not end its block, which goes on where execution mostly does: at the target if the interpreter came there
 * more than twice as often as behind the jump, and the page is the same. The other way out of a conditional one is cold code, which
 * gives back the instructions that were counted and do not run.
 *
 * A jump to the block's own address or below lands on the entry that polls for events; so do all through the hash. What
 * goes only upwards needs no poll: it comes to an end.
 */
#include "engine/bt/bt_internal.h"

static struct haddr hash_slot(const struct bt_gen *g, u8 key, u64 va)
{
    unsigned context = key & BK_CONTEXT;
    return AT(H_RSP, ST(hash) + (s32)(context * sizeof(g->bt->st->hash[0]) + bt_hash_set(va) * sizeof(u8 *)));
}

static bool same_page(const struct bt_gen *g, u64 target)
{
    return (target ^ g->b->va) < PAGE_SIZE;
}

static void remember_source(struct bt_gen *g, unsigned undo)
{
    emit_store_imm(&g->e, false, AT_ST(source), (s32)bt_site(g, SITE_INDIRECT, undo));
}

/* The hash, target in RCX and known. */
static void jump_known(struct bt_gen *g, u8 key, u64 target)
{
    bt_moves_value(g, SCRATCH_A, target);
    emit_jmp_mem(&g->e, hash_slot(g, key, target)); /* a displacement of four bytes: the hash is far from RSP */
    bt_moves_hash(g, target);
}

/* A new exit, which is not linkable so far. */
static unsigned new_exit(struct bt_gen *g, u64 target)
{
    g->exit[g->n_exits].target = target;
    g->exit[g->n_exits].field = NULL;
    g->exit[g->n_exits].check = NULL;
    g->exit[g->n_exits].twin = false;
    return g->n_exits++;
}

void bt_exit_other(struct bt_gen *g, u8 key, u64 target)
{
    new_exit(g, target);
    jump_known(g, key, target);
}

/* Displacement of the TLB's entry for code at `va`, from RSP. */
static s32 exec_entry(u8 key, u64 va)
{
    return ST(tlb) + (s32)((key & BK_CONTEXT) * sizeof(struct tlb_tables) + offsetof(struct tlb_tables, exec) +
                           tlb_index(va) * sizeof(u64));
}

/* Write the comparison of an exit to another page: with what is there now if it is linked (`to`), else one that always holds. */
void bt_set_check(u8 *disp_end, const struct bt_block *to)
{
    s32 disp = to ? exec_entry(to->key, to->va) : ST(nothing);
    u64 minus = to ? 0 - tlb_exec_key(to->va, to->start) : 0;
    memcpy(disp_end - 4, &disp, 4);
    memcpy(disp_end + 2, &minus, 8); /* behind the first two bytes of mov r15, imm64 */
}

/* Go on only if the target's page is what it was. */
static void check_page(struct bt_gen *g, u64 target, unsigned x)
{
    struct emit *e = &g->e;
    emit_load(e, SCRATCH_A, AT(H_RSP, exec_entry(g->b->key, target))); /* of four bytes */
    g->exit[x].check = e->p;
    emit_mov_imm64(e, SCRATCH_B, 0);
    if (!e->full)
        bt_set_check(g->exit[x].check, NULL);
    emit_lea(e, SCRATCH_A, (struct haddr){SCRATCH_A, SCRATCH_B, 0, 0});
    u8 *same = emit_jrcxz(e);
    jump_known(g, g->b->key, target);
    emit_here8(e, same);
}

/* The jump of an exit, to be linked. */
static void link_jump(struct bt_gen *g, unsigned x)
{
    u8 *mark = emit_jmp32(&g->e);
    g->exit[x].field = mark;
    bt_cold(g, mark, bt_site(g, SITE_LINK, x));
}

/* Struct bt_exit has no room for what is 2 GiB away. */
static bool out_of_reach(const struct bt_gen *g, u64 target)
{
    s64 distance = (s64)(target - g->b->va);
    return distance != (s32)distance;
}

void bt_exit_to(struct bt_gen *g, u64 target)
{
    if (out_of_reach(g, target)) {
        jump_known(g, g->b->key, target);
        return;
    }
    unsigned x = new_exit(g, target);
    if (!same_page(g, target))
        check_page(g, target, x);
    link_jump(g, x);
}

void bt_exit_to_twin(struct bt_gen *g, u64 target)
{
    unsigned x = new_exit(g, target);
    g->exit[x].twin = true;
    link_jump(g, x);
}

void bt_exit_cond(struct bt_gen *g, unsigned cc, u64 target)
{
    if (!same_page(g, target)) {
        u8 *over = emit_jcc32(&g->e, cc ^ 1);
        bt_exit_to(g, target);
        emit_here32(&g->e, over);
        return;
    }
    unsigned x = new_exit(g, target);
    u8 *mark = emit_jcc32(&g->e, cc);
    g->exit[x].field = mark;
    bt_cold(g, mark, bt_site(g, SITE_LINK, x));
}

void bt_exit_side(struct bt_gen *g, unsigned cc, u64 target)
{
    bt_cold_side(g, emit_jcc32(&g->e, cc), target);
}

void bt_exit_indirect(struct bt_gen *g, unsigned undo)
{
    struct emit *e = &g->e;
    remember_source(g, undo);
    emit_pext32(e, SCRATCH_B, SCRATCH_A, AT_ST(hash_mask));
    struct haddr slot = hash_slot(g, g->b->key, 0);
    slot.index = SCRATCH_B;
    slot.shift = 3;
    emit_jmp_mem(e, slot);
}

/* --- the instructions --- */

static u64 next_ip(const struct bt_gen *g, const struct isa_insn *insn)
{
    return g->rip + insn->len;
}

static bool is_gpr64(const struct isa_operand *o)
{
    return o->kind == ISA_OP_REG && o->reg_class == ISA_REG_GPR64;
}

static const struct isa_mem stack_top = {.base = RSP, .index = ISA_NO_REG, .seg = SEG_SS, .scale = 1, .disp = 0};
static const struct isa_mem stack_push = {.base = RSP, .index = ISA_NO_REG, .seg = SEG_SS, .scale = 1, .disp = -8};

static void push_return(struct bt_gen *g, const struct isa_insn *insn)
{
    struct haddr at = bt_lookup(g, &stack_push, 8, 8, true);
    u64 next = next_ip(g, insn);
    if (g->fixed && next == (u64)(s64)(s32)next) {
        emit_store_imm(&g->e, true, at, (s32)next);
    } else {
        bt_moves_value(g, SCRATCH_A, next);
        emit_store(&g->e, at, SCRATCH_A);
    }
    emit_lea(&g->e, HOST_SP, AT(HOST_SP, -8));
}

static bool jmp(struct bt_gen *g, const struct isa_insn *insn)
{
    const struct isa_operand *d = &insn->op[0];
    u64 target = bt_target(g, insn);
    if (d->kind == ISA_OP_IMM) {
        if (!gva_canonical(GVA(target)))
            return false;
        bt_how(g, HOW_JUMP);
        bt_exit_to(g, target);
        return true;
    }
    if (d->kind == ISA_OP_MEM && d->size == 8)
        emit_load(&g->e, SCRATCH_A, bt_lookup(g, &insn->mem, insn->addr_size, 8, false));
    else if (is_gpr64(d))
        emit_mov(&g->e, SCRATCH_A, bt_value(g, d->reg, SCRATCH_A));
    else
        return false;
    bt_how(g, HOW_INDIRECT);
    bt_exit_indirect(g, 0);
    return true;
}

/* The return address must not be stored before the target is known to be good: RSP is put back if it is not. */
static bool call(struct bt_gen *g, const struct isa_insn *insn)
{
    const struct isa_operand *d = &insn->op[0];
    u64 target = bt_target(g, insn);
    if (d->kind == ISA_OP_IMM) {
        if (!gva_canonical(GVA(target)))
            return false;
        bt_how(g, HOW_JUMP);
        push_return(g, insn);
        bt_exit_to(g, target);
        return true;
    }
    if (d->kind == ISA_OP_MEM && d->size == 8) {
        emit_load(&g->e, SCRATCH_A, bt_lookup(g, &insn->mem, insn->addr_size, 8, false));
        emit_store(&g->e, AT_ST(target), SCRATCH_A);
        push_return(g, insn);
        emit_load(&g->e, SCRATCH_A, AT_ST(target));
    } else if (is_gpr64(d) && d->reg != RSP) {
        push_return(g, insn);
        emit_mov(&g->e, SCRATCH_A, bt_value(g, d->reg, SCRATCH_A));
    } else {
        return false;
    }
    bt_how(g, HOW_INDIRECT);
    bt_exit_indirect(g, UNDO_CALL);
    return true;
}

static bool ret(struct bt_gen *g, const struct isa_insn *insn)
{
    unsigned extra = insn->imm_len ? (u16)insn->imm : 0;
    emit_load(&g->e, SCRATCH_A, bt_lookup(g, &stack_top, 8, 8, false));
    emit_lea(&g->e, HOST_SP, AT(HOST_SP, 8 + (s32)extra));
    bt_how(g, HOW_INDIRECT);
    bt_exit_indirect(g, 8 + extra);
    return true;
}

/* LOOP, JRCXZ: 64-bit counters only. */
static bool loop(struct bt_gen *g, const struct isa_insn *insn, bool count)
{
    struct emit *e = &g->e;
    u64 next = next_ip(g, insn), target = next + (u64)insn->imm;
    if (insn->addr_size != 8 || !gva_canonical(GVA(target)))
        return false;
    if (count)
        emit_lea(e, HOST_CX, AT(HOST_CX, -1));
    emit_mov(e, SCRATCH_A, HOST_CX);
    u8 *zero = emit_jrcxz(e);
    bt_exit_to(g, count ? target : next);
    emit_here8(e, zero);
    bt_exit_to(g, count ? next : target);
    bt_how(g, HOW_JUMP);
    return true;
}

static bool jcc(struct bt_gen *g, const struct isa_insn *insn)
{
    u64 next = next_ip(g, insn), target = bt_target(g, insn);
    if (!gva_canonical(GVA(target)))
        return false;
    if (g->i + 1 < g->n) {
        bool taken = g->taken[g->i];
        bt_exit_side(g, (insn->opcode & 15) ^ taken, taken ? next : target);
    } else {
        bt_exit_cond(g, insn->opcode & 15, target);
        bt_exit_to(g, next);
    }
    bt_how(g, HOW_JUMP);
    return true;
}

static bool is_jcc(const struct isa_insn *insn)
{
    return insn->cls == ISA_CONTROL &&
           ((insn->map == 0 && (insn->opcode & 0xf0) == 0x70) || (insn->map == 1 && (insn->opcode & 0xf0) == 0x80));
}

/* How often the code at that offset from the block's start was executed, as far as that is known. */
static unsigned runs_at(const struct bt_gen *g, unsigned off)
{
    struct bt *bt = g->bt;
    const struct bt_block *b = g->b;
    return bt_find(bt, b->va + off, b->start + off, b->key) ? bt->hot_runs : blocks_runs(&bt->ip, b->start + off);
}

/* Is the target of the jump at `off` in this page, so that the block can go on there? */
static bool within(const struct bt_gen *g, const struct isa_insn *insn, unsigned off)
{
    u64 room = MIN(PAGE_SIZE - (g->b->start & (PAGE_SIZE - 1)), (u64)BT_BLOCK_BYTES);
    return off + insn->len + (u64)insn->imm < room;
}

bool bt_flow_goes_on(const struct bt_gen *g, const struct isa_insn *insn, unsigned off, unsigned *sides, bool *taken)
{
    bool cond = is_jcc(insn), plain = insn->mnemonic == ZYDIS_MNEMONIC_JMP && insn->op[0].kind == ISA_OP_IMM;
    if ((!cond && !plain) || insn->imm < 0 || (insn->prefixes & ISA_PFX_66) || g->bt->ip.cfg.test & ENGINE_TEST_SINGLE)
        return false;
    if (plain)
        return *taken = within(g, insn, off);
    if (*sides == BT_SIDES)
        return false;
    ++*sides;
    unsigned next = off + insn->len, target = next + (unsigned)insn->imm;
    if (g->bt->ip.cfg.test & ENGINE_TEST_EAGER) /* nothing is known, and both ways are to be tried */
        *taken = within(g, insn, off) && (g->b->va + off) % 3 == 0;
    else
        *taken = within(g, insn, off) && runs_at(g, target) > 2 * runs_at(g, next);
    return true;
}

bool bt_flow(struct bt_gen *g, const struct isa_insn *insn)
{
    if (insn->cls != ISA_CONTROL || (insn->prefixes & ISA_PFX_66))
        return false;
    if (is_jcc(insn))
        return jcc(g, insn);
    if (g->taken[g->i] && g->i + 1 < g->n) {
        bt_how(g, HOW_JUMP);
        return true;
    }
    if (g->b->key & BK_COMPAT)
        return bt_compat_flow(g, insn);
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return jmp(g, insn);
    case ZYDIS_MNEMONIC_CALL:
        return call(g, insn);
    case ZYDIS_MNEMONIC_RET:
        return !insn->imm_len || (u16)insn->imm <= 0xff00 ? ret(g, insn) : false;
    case ZYDIS_MNEMONIC_LOOP:
        return loop(g, insn, true);
    case ZYDIS_MNEMONIC_JRCXZ:
        return loop(g, insn, false);
    default:
        return false;
    }
}
