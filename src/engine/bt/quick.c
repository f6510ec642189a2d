/*
 * Instructions that leave translated code for C, and need little there: string stores and copies, bits of bit strings, CLD.
 *
 * What translated code calls first (bt_refill) does them by the guest's general registers and the TLB, without giving up the
 * guest's vectors and without the interpreter's preparations: a fifth of what a call-out costs. Only what is plain goes this
 * way: 64-bit addresses, upwards, both sides in one page each. Everything else returns NULL with nothing changed, and the
 * interpreter does it.
 *
 * This file is compiled to use general registers only.
 */
#include "engine/bt/bt_internal.h"

/* arg of a SITE_CALLOUT: bits 0-3 the kind, bit 4 repeated, bit 5 locked, bits 8-11 a guest register, bits 12-15 bytes */
enum quick_kind {
    QUICK_NONE,
    QUICK_STOS,
    QUICK_MOVS,
    QUICK_PAUSE,
    QUICK_CLD,
    QUICK_BT,
    QUICK_BTS,
    QUICK_BTR,
    QUICK_BTC
};
#define QUICK_KIND    15u
#define QUICK_REP     BIT(4)
#define QUICK_LOCK    BIT(5)
#define QUICK_REG(a)  ((a) >> 8 & 15)
#define QUICK_SIZE(a) ((a) >> 12)

/* --- which they are --- */

static const struct {
    u16 mnemonic;
    u8 kind, size;
} rows[] = {
    {ZYDIS_MNEMONIC_STOSB, QUICK_STOS, 1}, {ZYDIS_MNEMONIC_STOSW, QUICK_STOS, 2},
    {ZYDIS_MNEMONIC_STOSD, QUICK_STOS, 4}, {ZYDIS_MNEMONIC_STOSQ, QUICK_STOS, 8},
    {ZYDIS_MNEMONIC_MOVSB, QUICK_MOVS, 1}, {ZYDIS_MNEMONIC_MOVSW, QUICK_MOVS, 2},
    {ZYDIS_MNEMONIC_MOVSD, QUICK_MOVS, 4}, {ZYDIS_MNEMONIC_MOVSQ, QUICK_MOVS, 8},
    {ZYDIS_MNEMONIC_CLD, QUICK_CLD, 0},    {ZYDIS_MNEMONIC_BT, QUICK_BT, 0},
    {ZYDIS_MNEMONIC_BTS, QUICK_BTS, 0},    {ZYDIS_MNEMONIC_BTR, QUICK_BTR, 0},
    {ZYDIS_MNEMONIC_BTC, QUICK_BTC, 0},    {ZYDIS_MNEMONIC_PAUSE, QUICK_PAUSE, 0},
};

static unsigned string_arg(const struct isa_insn *insn, unsigned kind, unsigned size)
{
    bool repeated = insn->prefixes & (ISA_PFX_REP | ISA_PFX_REPNE);
    for (unsigned i = 0; i < insn->n_ops; i++)
        if (insn->op[i].kind == ISA_OP_MEM && (insn->mem.seg == SEG_FS || insn->mem.seg == SEG_GS))
            return QUICK_NONE;
    return kind | (repeated ? QUICK_REP : 0) | size << 12;
}

static unsigned bits_arg(const struct isa_insn *insn, unsigned kind)
{
    const struct isa_operand *m = &insn->op[0], *r = &insn->op[1];
    if (m->kind != ISA_OP_MEM || r->kind != ISA_OP_REG || m->size < 4)
        return QUICK_NONE;
    return kind | (insn->prefixes & ISA_PFX_LOCK ? QUICK_LOCK : 0) | (unsigned)r->reg << 8 | (unsigned)m->size << 12;
}

unsigned bt_quick_arg(const struct bt_gen *g, const struct isa_insn *insn)
{
    bool legacy = insn->encoding == ISA_ENC_LEGACY; /* MOVSD is an SSE instruction, too: that has an opcode map */
    if ((g->b->key & BK_COMPAT) || insn->addr_size != 8 || !legacy)
        return QUICK_NONE;
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        unsigned kind = rows[i].kind;
        if (rows[i].mnemonic != insn->mnemonic || (kind <= QUICK_MOVS && insn->map))
            continue;
        return kind > QUICK_CLD     ? bits_arg(insn, kind)
               : kind <= QUICK_MOVS ? string_arg(insn, kind, rows[i].size)
                                    : kind;
    }
    return QUICK_NONE;
}

/* --- doing them --- */

static u8 *pointer(struct bt *bt, u64 va, unsigned size, bool write)
{
    struct interp *ip = &bt->ip;
    u8 *p = write ? tlb_write_ptr(ip, va, size) : tlb_read_ptr(ip, va, size);
    if (p || !tlb_refill(ip, va, size, write))
        return p;
    return write ? tlb_write_ptr(ip, va, size) : tlb_read_ptr(ip, va, size);
}

/* The host's own string instructions: overlapping copies get the same result element for element. */
static void elements(u8 *to, const u8 *from, u64 v, u64 n, unsigned size)
{
#define ELEMENTS(width, letter)                                                               \
    case width:                                                                               \
        if (from)                                                                             \
            __asm__ volatile("rep movs" letter : "+D"(to), "+S"(from), "+c"(n) : : "memory"); \
        else                                                                                  \
            __asm__ volatile("rep stos" letter : "+D"(to), "+c"(n) : "a"(v) : "memory");      \
        break
    switch (size) {
        ELEMENTS(1, "b");
        ELEMENTS(2, "w");
        ELEMENTS(4, "l");
        ELEMENTS(8, "q");
    default:
        break;
    }
#undef ELEMENTS
}

static u64 room_in_page(u64 va)
{
    return PAGE_SIZE - (va & (PAGE_SIZE - 1));
}

static bool string(struct bt *bt, unsigned arg)
{
    struct cpu *c = bt->ip.cpu;
    unsigned size = QUICK_SIZE(arg);
    bool movs = (arg & QUICK_KIND) == QUICK_MOVS;
    u64 n = arg & QUICK_REP ? c->gpr[RCX] : 1, to = c->gpr[RDI], from = c->gpr[RSI];
    if (c->sysflags & FL_DF)
        return false;
    if (n == 0)
        return true;
    if (n > room_in_page(to) / size || (movs && n > room_in_page(from) / size))
        return false;
    const u8 *s = movs ? pointer(bt, from, size, false) : NULL;
    u8 *d = !movs || s ? pointer(bt, to, size, true) : NULL;
    if (!d)
        return false;
    elements(d, s, c->gpr[RAX], n, size);
    c->gpr[RDI] += n * size;
    c->gpr[RSI] += movs ? n * size : 0;
    if (arg & QUICK_REP) {
        c->gpr[RCX] = 0;
        bt->st->left -= (s64)(n / 16); /* as the interpreter charges it */
    }
    return true;
}

/* The old value of the bit. */
static bool change_bit(u8 *at, u64 bit, unsigned arg)
{
    bool was;
#define CHANGE(kind, op)                                                                                  \
    case kind:                                                                                            \
        if (arg & QUICK_LOCK)                                                                             \
            __asm__ volatile("lock " op " %2, %1" : "=@ccc"(was), "+m"(*at) : "Ir"((u32)bit) : "memory"); \
        else                                                                                              \
            __asm__ volatile(op " %2, %1" : "=@ccc"(was), "+m"(*at) : "Ir"((u32)bit) : "memory");         \
        break
    switch (arg & QUICK_KIND) {
        CHANGE(QUICK_BTS, "btsl");
        CHANGE(QUICK_BTR, "btrl");
        CHANGE(QUICK_BTC, "btcl");
    default:
        was = at[bit >> 3] >> (bit & 7) & 1;
    }
#undef CHANGE
    return was;
}

/* A bit string reaches 2^63 bits to both sides of its address; the access is one of the operand's size. */
static bool bits(struct bt *bt, const struct bt_block *b, const struct bt_site *s)
{
    struct cpu *c = bt->ip.cpu;
    unsigned size = QUICK_SIZE(s->arg);
    u64 reg = c->gpr[QUICK_REG(s->arg)];
    s64 index = size == 8 ? (s64)reg : (s32)reg;
    u64 va = bt_site_address(c, b, s) + (u64)(index >> (size == 8 ? 6 : 5)) * size;
    u8 *at = pointer(bt, va, size, (s->arg & QUICK_KIND) != QUICK_BT);
    if (!at)
        return false;
    bool was = change_bit(at, reg & (size * 8 - 1), s->arg);
    c->arith = (u16)((c->arith & ~0x100u) | (was ? 0x100u : 0));
    return true;
}

/* Who waits for another CPU for long comes back at the next poll: see INTERP_PATIENCE. */
static void count_pause(struct bt *bt)
{
    __builtin_ia32_pause();
    if (++bt->ip.pauses >= INTERP_PATIENCE)
        bt_come_back(bt);
}

static bool perform(struct bt *bt, const struct bt_block *b, const struct bt_site *s)
{
    unsigned kind = s->arg & QUICK_KIND;
    if (kind == QUICK_PAUSE)
        count_pause(bt);
    else if (kind == QUICK_CLD)
        bt->ip.cpu->sysflags &= ~(u64)FL_DF;
    else
        return kind < QUICK_CLD ? string(bt, s->arg) : bits(bt, b, s);
    return true;
}

/* Nothing is written before it is sure that the instruction will be done, and where to go on. */
const u8 *bt_quick(struct bt *bt, const struct bt_block *b, const struct bt_site *s)
{
    const struct bt_map *m = &bt_maps(b)[s->insn];
    if (!(s->arg & QUICK_KIND) || s->insn + 1u >= b->n || m[1].grouped || (bt->ip.cfg.test & ENGINE_TEST_EXACT))
        return NULL;
    if (m->flags_in_memory)
        bt->ip.cpu->arith = bt->st->arith;
    if (!perform(bt, b, s))
        return NULL;
    bt->stats.quick++;
    return bt_continue(bt, b, s->insn + 1u);
}
