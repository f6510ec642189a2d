/*
 * 32-bit code: compatibility mode under a 64-bit system, and flat protected mode.
 *
 * It goes through the same translator. What makes that right:
 *
 *  1. The upper halves of the eight registers are zero. Translated code is entered only if they are (bt_compat_mode; else the
 *     interpreter goes on until the guest has written them), and no instruction of 32-bit code sets one: of what writes a
 *     register, 32 bits clear the upper half on the host as well, fewer leave it. What moves ESP here uses 32-bit LEA.
 *  2. No TLB entry for data is at 4 GiB or above, or has a negative address (tlb_drop_high). So an operand [register + disp] is
 *     looked up as in 64-bit code: its sum is the guest's address; or it has wrapped around and misses, and the interpreter
 *     executes that instruction. Operands with an index, or without any register, are computed in 32 bits.
 *  3. What shares a look-up relative to ESP adds in 32 bits once ESP has moved: it may have gone round 4 GiB and the operand
 *     back again (group.c). The sum is then the address that was looked up.
 *  4. CS, SS, DS and ES are flat (KEY_FLAT). FS and GS add their base, in 32 bits; where their limit or type would have to be
 *     looked at, st->no_segment is a number that makes each of their look-ups miss.
 *  5. An instruction is copied only if its bytes, decoded as 64-bit code, are the same instruction with the same operands.
 *     Where those bytes mean another one, and a longer form exists that means the same in both, it takes the form's
 *     place: INC and DEC (40-4F), MOV between EAX and an absolute address (A0-A3), group 82. Everything else that differs is
 *     executed by the interpreter.
 *  6. The last page below 4 GiB is not translated: what follows it is the interpreter's question.
 *
 * CALL, RET, PUSH, POP and LEAVE are those of flow.c and stack.c with slots of four bytes.
 *
 * Not done: operand and address sizes of 16 bits in what moves the stack, jumps or addresses memory; segments with limits;
 * stacks of 16 bits. The interpreter has them.
 */
#include "engine/bt/bt_internal.h"

/* --- mode --- */

/* In a sum of 32-bit numbers: more than any of them. */
#define BEYOND BIT(40)

/* A data segment that lets every access pass: all that is left of it is its base. */
static bool whole(const struct cpu_segment *s)
{
    u32 must = SEG_P | SEG_RW;
    return (s->attr & must) == must && !(s->attr & (SEG_UNUSABLE | SEG_CODE | SEG_CE)) && s->limit == 0xffffffff;
}

bool bt_compat_mode(struct bt *bt)
{
    const struct cpu *c = bt->ip.cpu;
    u64 any = c->rip;
    for (unsigned r = 0; r < 8; r++)
        any |= c->gpr[r];
    if (any >> 32)
        return false;
    bt->st->no_segment[0] = whole(&c->seg[SEG_FS]) ? 0 : BEYOND;
    bt->st->no_segment[1] = whole(&c->seg[SEG_GS]) ? 0 : BEYOND;
    tlb_drop_high(&bt->ip);
    return true;
}

/* --- decoding --- */

/* The form in ModRM of an instruction that has none, or has an opcode of its own, in 64-bit mode. Its length; 0: none. */
static unsigned other_form(const struct isa_insn *insn, u8 *out)
{
    static const u8 moves[4] = {0x8a, 0x8b, 0x88, 0x89};
    unsigned n = insn->off_opcode, tail = n + 1;
    if (insn->encoding != ISA_ENC_LEGACY || insn->map != 0 || insn->addr_size != 4 || insn->len == ISA_MAX_LEN)
        return 0;
    memcpy(out, insn->bytes, n);
    if ((insn->opcode & 0xf0) == 0x40) {
        out[n++] = 0xff;
        out[n++] = (u8)(0xc0 | (insn->opcode & 15)); /* /0 and /1 */
    } else if ((insn->opcode & 0xfc) == 0xa0) {
        out[n++] = moves[insn->opcode & 3];
        out[n++] = 0x05;
    } else if (insn->opcode == 0x82) {
        out[n++] = 0x80;
    } else {
        return 0;
    }
    memcpy(out + n, insn->bytes + tail, insn->len - tail);
    return n + insn->len - tail;
}

static bool same_operand(const struct isa_operand *a, const struct isa_operand *b)
{
    if (a->hidden && b->hidden && a->reg_class == ISA_REG_OTHER && b->reg_class == ISA_REG_OTHER)
        return true; /* flags, under their names of either mode */
    return a->kind == b->kind && a->reg_class == b->reg_class && a->reg == b->reg && a->read == b->read &&
           a->written == b->written && a->hidden == b->hidden && a->enc == b->enc && a->size == b->size;
}

/* Absolute addresses are written like those relative to RIP; lookups and encodings start from what 32-bit code says. */
static bool same_memory(const struct isa_mem *a, const struct isa_mem *b)
{
    bool absolute = a->base == ISA_NO_REG && a->index == ISA_NO_REG;
    return (a->base == b->base || (absolute && b->base == ISA_RIP_REG)) && a->index == b->index &&
           a->scale == b->scale && a->vsib == b->vsib && a->disp == b->disp;
}

static bool same_effects(const struct isa_insn *a, const struct isa_insn *b)
{
    return a->gpr_read == b->gpr_read && a->gpr_written == b->gpr_written && a->vec_used == b->vec_used &&
           a->vec_written == b->vec_written && a->mask_used == b->mask_used && a->mask_written == b->mask_written &&
           a->flags_read == b->flags_read && a->flags_written == b->flags_written && a->uses_x87 == b->uses_x87 &&
           a->uses_mxcsr == b->uses_mxcsr;
}

/* Rule 5. */
static bool same_in_64(const struct isa_insn *a)
{
    struct isa_insn b;
    bool memory = false;
    if (isa_decode(ISA_MODE_64, a->bytes, a->len, &b) != ISA_DECODE_OK)
        return false;
    if (a->mnemonic != b.mnemonic || a->len != b.len || a->prefixes != b.prefixes || a->encoding != b.encoding ||
        a->cls != b.cls || a->n_ops != b.n_ops || a->n_visible != b.n_visible || a->map != b.map ||
        a->opcode != b.opcode || a->imm_len != b.imm_len || a->imm != b.imm)
        return false;
    for (unsigned i = 0; i < a->n_ops; i++) {
        if (!same_operand(&a->op[i], &b.op[i]))
            return false;
        memory |= a->op[i].kind == ISA_OP_MEM;
    }
    return same_effects(a, &b) && (!memory || same_memory(&a->mem, &b.mem));
}

static bool has_memory(const struct isa_insn *insn)
{
    for (unsigned i = 0; i < insn->n_ops; i++)
        if (insn->op[i].kind == ISA_OP_MEM && !insn->op[i].hidden)
            return true;
    return false;
}

static bool writes_code_segment(const struct isa_insn *insn)
{
    for (unsigned i = 0; i < insn->n_ops; i++)
        if (insn->op[i].kind == ISA_OP_MEM && insn->op[i].written && insn->mem.seg == SEG_CS)
            return true;
    return false;
}

/* Rule 2: may it be added in 64 bits? What has a displacement far below zero is the address, and the register an index. */
static bool wide_enough(const struct isa_insn *insn)
{
    const struct isa_mem *m = &insn->mem;
    return insn->addr_size == 4 && has_memory(insn) && m->base != ISA_NO_REG && m->index == ISA_NO_REG &&
           m->seg != SEG_FS && m->seg != SEG_GS && m->disp > -(16 << 20);
}

int bt_decode(u8 key, const u8 *bytes, size_t avail, struct isa_insn *insn)
{
    u8 form[ISA_MAX_LEN + 1];
    if (!(key & BK_COMPAT))
        return isa_decode(ISA_MODE_64, bytes, avail, insn);
    int r = isa_decode(ISA_MODE_32, bytes, avail, insn);
    if (r != ISA_DECODE_OK)
        return r;
    u8 len = insn->len;
    unsigned n = other_form(insn, form);
    if (n && isa_decode(ISA_MODE_32, form, n, insn) != ISA_DECODE_OK)
        return isa_decode(ISA_MODE_32, bytes, avail, insn);
    if (insn->addr_size == 2 || writes_code_segment(insn) || !same_in_64(insn))
        insn->encoding = ISA_ENC_OTHER; /* nothing of it is copied */
    if (wide_enough(insn))
        insn->addr_size = 8;
    insn->len = len;
    return r;
}

/* --- the stack --- */

static const struct isa_mem below = {.base = RSP, .index = ISA_NO_REG, .seg = SEG_SS, .scale = 1, .disp = -4};
static const struct isa_mem top = {.base = RSP, .index = ISA_NO_REG, .seg = SEG_SS, .scale = 1, .disp = 0};
static const struct isa_mem frame = {.base = RBP, .index = ISA_NO_REG, .seg = SEG_SS, .scale = 1, .disp = 0};

static struct haddr pushed(struct bt_gen *g)
{
    return bt_lookup(g, &below, 8, 4, true);
}

static void move_stack(struct bt_gen *g, s32 by)
{
    emit_lea32(&g->e, HOST_SP, AT(HOST_SP, by));
}

static bool is_gpr32(const struct isa_operand *o)
{
    return o->kind == ISA_OP_REG && o->reg_class == ISA_REG_GPR32;
}

/* A memory operand of four bytes, into SCRATCH_A. */
static bool load_operand(struct bt_gen *g, const struct isa_insn *insn)
{
    const struct isa_operand *o = &insn->op[0];
    if (o->kind != ISA_OP_MEM || o->hidden || o->size != 4 || insn->addr_size == 2)
        return false;
    emit_load32(&g->e, SCRATCH_A, bt_lookup(g, &insn->mem, insn->addr_size, 4, false));
    return true;
}

static bool push(struct bt_gen *g, const struct isa_insn *insn)
{
    const struct isa_operand *s = &insn->op[0];
    struct emit *e = &g->e;
    struct haddr at;
    if (s->kind == ISA_OP_IMM) {
        at = pushed(g);
        emit_store_imm(e, false, at, (s32)insn->imm);
    } else if (is_gpr32(s)) {
        at = pushed(g);
        emit_store32(e, at, bt_host_of[s->reg]);
    } else if (load_operand(g, insn)) {
        emit_store(e, AT_ST(target), SCRATCH_A);
        at = bt_lookup_b(g, &below, 8, 4, true);
        emit_load(e, SCRATCH_A, AT_ST(target));
        emit_store32(e, at, SCRATCH_A);
    } else {
        return false;
    }
    move_stack(g, -4);
    return true;
}

static bool pop(struct bt_gen *g, const struct isa_insn *insn)
{
    const struct isa_operand *d = &insn->op[0];
    if (!is_gpr32(d))
        return false;
    emit_load32(&g->e, bt_host_of[d->reg], bt_lookup(g, &top, 8, 4, false));
    if (d->reg != RSP)
        move_stack(g, 4);
    return true;
}

static bool leave(struct bt_gen *g)
{
    struct haddr at = bt_lookup(g, &frame, 8, 4, false);
    emit_lea32(&g->e, HOST_SP, AT(H_RBP, 4));
    emit_load32(&g->e, H_RBP, at);
    return true;
}

bool bt_compat_stack(struct bt_gen *g, const struct isa_insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
        return push(g, insn);
    case ZYDIS_MNEMONIC_POP:
        return pop(g, insn);
    case ZYDIS_MNEMONIC_LEAVE:
        return leave(g);
    default:
        return false;
    }
}

/* --- jumps --- */

static void push_return(struct bt_gen *g, const struct isa_insn *insn)
{
    struct haddr at = pushed(g);
    emit_store_imm(&g->e, false, at, (s32)(g->rip + insn->len));
    move_stack(g, -4);
}

static bool jmp(struct bt_gen *g, const struct isa_insn *insn)
{
    const struct isa_operand *d = &insn->op[0];
    if (d->kind == ISA_OP_IMM) {
        bt_how(g, HOW_JUMP);
        bt_exit_to(g, bt_target(g, insn));
        return true;
    }
    if (is_gpr32(d))
        emit_mov(&g->e, SCRATCH_A, bt_host_of[d->reg]);
    else if (!load_operand(g, insn))
        return false;
    bt_how(g, HOW_INDIRECT);
    bt_exit_indirect(g, 0);
    return true;
}

static bool call(struct bt_gen *g, const struct isa_insn *insn)
{
    const struct isa_operand *d = &insn->op[0];
    if (d->kind == ISA_OP_IMM) {
        bt_how(g, HOW_JUMP);
        push_return(g, insn);
        bt_exit_to(g, bt_target(g, insn));
        return true;
    }
    if (is_gpr32(d) && d->reg != RSP) {
        push_return(g, insn);
        emit_mov(&g->e, SCRATCH_A, bt_host_of[d->reg]);
    } else if (load_operand(g, insn)) {
        emit_store(&g->e, AT_ST(target), SCRATCH_A);
        push_return(g, insn);
        emit_load(&g->e, SCRATCH_A, AT_ST(target));
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
    if (insn->opcode != 0xc2 && insn->opcode != 0xc3)
        return false;
    emit_load32(&g->e, SCRATCH_A, bt_lookup(g, &top, 8, 4, false));
    move_stack(g, 4 + (s32)extra);
    bt_how(g, HOW_INDIRECT);
    bt_exit_indirect(g, 4 + extra);
    return true;
}

/* LOOP and JECXZ with a counter of 32 bits. */
static bool loop(struct bt_gen *g, const struct isa_insn *insn, bool count)
{
    struct emit *e = &g->e;
    u64 next = g->rip + insn->len, target = bt_target(g, insn);
    if (insn->addr_size != 4)
        return false;
    if (count)
        emit_lea32(e, HOST_CX, AT(HOST_CX, -1));
    emit_mov(e, SCRATCH_A, HOST_CX);
    u8 *zero = emit_jrcxz(e);
    bt_exit_to(g, count ? target : next);
    emit_here8(e, zero);
    bt_exit_to(g, count ? next : target);
    bt_how(g, HOW_JUMP);
    return true;
}

bool bt_compat_flow(struct bt_gen *g, const struct isa_insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_JMP:
        return jmp(g, insn);
    case ZYDIS_MNEMONIC_CALL:
        return call(g, insn);
    case ZYDIS_MNEMONIC_RET:
        return ret(g, insn);
    case ZYDIS_MNEMONIC_LOOP:
        return loop(g, insn, true);
    case ZYDIS_MNEMONIC_JECXZ:
        return loop(g, insn, false);
    default:
        return false;
    }
}
