/*
 * MOVS, STOS, LODS, SCAS, CMPS with their repeat prefixes.
 *
 * A repeated instruction works in stretches: as many elements as lie in one page on both sides are done at once through
 * host pointers, registers are brought up to date, and events are looked for; so it is interruptible between elements as
 * the manual asks (RIP stays on it), and a fault leaves the registers at the element that faulted. Wherever there is no
 * direct access, it goes element by element.
 */
#include "engine/interp/interp.h"

/* What an instruction is, in op->src; op->size is the element size, op->addr_size and op->seg belong to the source. */
enum string_kind { STR_MOVS, STR_STOS, STR_LODS, STR_SCAS, STR_CMPS };

static u64 addr_mask(const struct op *op)
{
    return op->addr_size == 8 ? ~0ull : op->addr_size == 4 ? 0xffffffff : 0xffff;
}

/* Registers keep their upper part with 16-bit addresses, lose it with 32-bit ones. */
static void put_index(struct cpu *c, const struct op *op, unsigned reg, u64 v)
{
    if (op->addr_size == 8)
        c->gpr[reg] = v;
    else if (op->addr_size == 4)
        c->gpr[reg] = (u32)v;
    else
        put16(c, 8 * reg, (u16)v);
}

static u64 linear(struct interp *ip, const struct op *op, unsigned seg, u64 base, u64 off, bool write)
{
    gva_t va;
    if ((ip->key & KEY_MODE) == ISA_MODE_64)
        return base + off;
    if ((ip->key & KEY_FLAT) && seg < SEG_FS)
        return off;
    int r = isa_linear(ip->cpu, seg, off, op->size, write, &va);
    if (r != CPU_OK)
        fault_exit(ip, op, r);
    return va.v;
}

static u64 source(struct interp *ip, const struct op *op)
{
    u64 base = *(const u64 *)(const void *)((const u8 *)ip->cpu + op->seg);
    return linear(ip, op, op->segno, base, ip->cpu->gpr[RSI] & addr_mask(op), false);
}
static u64 target(struct interp *ip, const struct op *op, bool write)
{
    return linear(ip, op, SEG_ES, 0, ip->cpu->gpr[RDI] & addr_mask(op), write);
}

static u64 load_n(struct interp *ip, const struct op *op, u64 va)
{
    switch (op->size) {
    case 1:
        return load8(ip, op, va);
    case 2:
        return load16(ip, op, va);
    case 4:
        return load32(ip, op, va);
    default:
        return load64(ip, op, va);
    }
}
static void store_n(struct interp *ip, const struct op *op, u64 va, u64 v)
{
    switch (op->size) {
    case 1:
        store8(ip, op, va, (u8)v);
        break;
    case 2:
        store16(ip, op, va, (u16)v);
        break;
    case 4:
        store32(ip, op, va, (u32)v);
        break;
    default:
        store64(ip, op, va, v);
    }
}

static void compare(struct cpu *c, unsigned size, u64 a, u64 b)
{
    u32 ax;
    switch (size) {
    case 1:
        __asm__("cmpb %b2, %b1\n\tlahf\n\tseto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc");
        break;
    case 2:
        __asm__("cmpw %w2, %w1\n\tlahf\n\tseto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc");
        break;
    case 4:
        __asm__("cmpl %k2, %k1\n\tlahf\n\tseto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc");
        break;
    default:
        __asm__("cmpq %2, %1\n\tlahf\n\tseto %%al" : "=&a"(ax) : "r"(a), "r"(b) : "cc");
    }
    c->arith = (u16)ax;
}

static void advance(struct cpu *c, const struct op *op, unsigned reg, s64 by)
{
    put_index(c, op, reg, (c->gpr[reg] + (u64)by) & addr_mask(op));
}

/* One element, registers moved on. */
static void element(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    s64 step = c->sysflags & FL_DF ? -(s64)op->size : (s64)op->size;
    u64 v;
    switch (op->src) {
    case STR_MOVS:
        v = load_n(ip, op, source(ip, op));
        store_n(ip, op, target(ip, op, true), v);
        break;
    case STR_STOS:
        store_n(ip, op, target(ip, op, true), c->gpr[RAX]);
        break;
    case STR_LODS:
        v = load_n(ip, op, source(ip, op));
        if (op->size == 1)
            put8(c, 8 * RAX, (u8)v);
        else if (op->size == 2)
            put16(c, 8 * RAX, (u16)v);
        else
            c->gpr[RAX] = v;
        break;
    case STR_SCAS:
        compare(c, op->size, c->gpr[RAX], load_n(ip, op, target(ip, op, false)));
        break;
    default:
        /* The processor reads ES:RDI first: seen where both operands fault. */
        v = load_n(ip, op, target(ip, op, false));
        compare(c, op->size, load_n(ip, op, source(ip, op)), v);
    }
    if (op->src != STR_STOS && op->src != STR_SCAS)
        advance(c, op, RSI, step);
    if (op->src != STR_LODS)
        advance(c, op, RDI, step);
}

/* Elements from `va` on, upwards or downwards, that lie in its page. */
static u64 in_page(u64 va, unsigned size, bool down)
{
    u64 off = va & (PAGE_SIZE - 1);
    if (!down)
        return (PAGE_SIZE - off) / size;
    return off + size <= PAGE_SIZE ? off / size + 1 : 0;
}

/* The host's own string instructions: they give overlapping copies the same result element for element. */
#define HOST_STRING(name)                                                                           \
    static void host_##name(u8 *to, const u8 *from, u64 v, u64 n, unsigned size, bool down)         \
    {                                                                                               \
        if (down)                                                                                   \
            __asm__ volatile("std" ::: "cc");                                                       \
        switch (size) {                                                                             \
        case 1:                                                                                     \
            __asm__ volatile("rep " #name "b" : "+D"(to), "+S"(from), "+c"(n) : "a"(v) : "memory"); \
            break;                                                                                  \
        case 2:                                                                                     \
            __asm__ volatile("rep " #name "w" : "+D"(to), "+S"(from), "+c"(n) : "a"(v) : "memory"); \
            break;                                                                                  \
        case 4:                                                                                     \
            __asm__ volatile("rep " #name "l" : "+D"(to), "+S"(from), "+c"(n) : "a"(v) : "memory"); \
            break;                                                                                  \
        default:                                                                                    \
            __asm__ volatile("rep " #name "q" : "+D"(to), "+S"(from), "+c"(n) : "a"(v) : "memory"); \
        }                                                                                           \
        if (down)                                                                                   \
            __asm__ volatile("cld" ::: "cc");                                                       \
    }
HOST_STRING(movs)
HOST_STRING(stos)

/*
 * MOVS and STOS within pages that the TLB gives directly: returns the elements done, 0 if it can't. Under TF each element is
 * a step; under RF, which an interrupt in the middle leaves, it is not.
 */
static u64 stretch(struct interp *ip, const struct op *op, u64 count)
{
    struct cpu *c = ip->cpu;
    if (op->src > STR_STOS || op->addr_size != 8 || (ip->key & KEY_MODE) != ISA_MODE_64 || (c->sysflags & FL_TF))
        return 0;
    bool down = c->sysflags & FL_DF, movs = op->src == STR_MOVS;
    u64 to = target(ip, op, true), from = movs ? source(ip, op) : to;
    u64 n = MIN(count, in_page(to, op->size, down));
    n = MIN(n, in_page(from, op->size, down));
    if (n == 0)
        return 0;
    const u8 *s = movs ? tlb_read_ptr(ip, from, 1) : NULL;
    u8 *d = tlb_write_ptr(ip, to, 1);
    if (!d || (movs && !s))
        return 0;
    u64 by = n * op->size;
    (movs ? host_movs : host_stos)(d, s, c->gpr[RAX], n, op->size, down);
    if (movs)
        c->gpr[RSI] += down ? 0 - by : by;
    c->gpr[RDI] += down ? 0 - by : by;
    return n;
}

/* After a SCAS or CMPS: does the prefix end the repetition? */
static bool ended(const struct cpu *c, const struct op *op)
{
    bool zf = c->arith & 0x4000;
    return op->src >= STR_SCAS && zf != !!(op->flags & OPF_REP);
}

static void string_once(struct interp *ip, const struct op *op)
{
    element(ip, op);
    NEXT;
}

/* Must a repeated instruction stop between elements: for events, the budget, or because its own block was killed? */
static bool pauses(const struct interp *ip, const struct op *op)
{
    const struct cpu *c = ip->cpu;
    if (op->fn == op_leave)
        return true;
    if ((c->sysflags & FL_TF) || isa_debug_armed(c))
        return true;
    return !(ip->cfg.test & ENGINE_TEST_EXACT) && (c->attention || ip->budget < 0);
}

/* What elements cost: a long copy shall not be free. */
static u64 charge(struct interp *ip, u64 work)
{
    if (ip->cfg.test & ENGINE_TEST_EXACT)
        return 0;
    ip->budget -= (s64)(work / 16);
    return work % 16;
}

static void string_rep(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    u64 count, work = 0;
    ip->undo_arith = c->arith;
    ip->undo = op->src >= STR_SCAS;
    if (!(c->gpr[RCX] & addr_mask(op)))
        put_index(c, op, RCX, 0); /* ECX as the counter clears what is above it even so */
    while ((count = c->gpr[RCX] & addr_mask(op))) {
        u64 n = stretch(ip, op, count);
        if (!n) {
            element(ip, op);
            n = 1;
        }
        put_index(c, op, RCX, count - n);
        work = charge(ip, work + n);
        if (ended(c, op))
            break;
        /* Events are taken between elements; so is the end of a block that this very instruction overwrote. */
        if (n != count && pauses(ip, op)) {
            ip->in_repeat = true;
            ip->undo = false;
            ip->uncounted = ip->cfg.test & ENGINE_TEST_EXACT;
            if (!ip->uncounted)
                ip->budget--; /* op_leave gives back what the block paid: an event that waits must not make this free */
            op_leave(ip, op);
            return;
        }
    }
    ip->undo = false;
    NEXT;
}

static const struct {
    u16 mnemonic;
    u8 kind, size;
} rows[] = {
    {ZYDIS_MNEMONIC_MOVSB, STR_MOVS, 1}, {ZYDIS_MNEMONIC_MOVSW, STR_MOVS, 2}, {ZYDIS_MNEMONIC_MOVSD, STR_MOVS, 4},
    {ZYDIS_MNEMONIC_MOVSQ, STR_MOVS, 8}, {ZYDIS_MNEMONIC_STOSB, STR_STOS, 1}, {ZYDIS_MNEMONIC_STOSW, STR_STOS, 2},
    {ZYDIS_MNEMONIC_STOSD, STR_STOS, 4}, {ZYDIS_MNEMONIC_STOSQ, STR_STOS, 8}, {ZYDIS_MNEMONIC_LODSB, STR_LODS, 1},
    {ZYDIS_MNEMONIC_LODSW, STR_LODS, 2}, {ZYDIS_MNEMONIC_LODSD, STR_LODS, 4}, {ZYDIS_MNEMONIC_LODSQ, STR_LODS, 8},
    {ZYDIS_MNEMONIC_SCASB, STR_SCAS, 1}, {ZYDIS_MNEMONIC_SCASW, STR_SCAS, 2}, {ZYDIS_MNEMONIC_SCASD, STR_SCAS, 4},
    {ZYDIS_MNEMONIC_SCASQ, STR_SCAS, 8}, {ZYDIS_MNEMONIC_CMPSB, STR_CMPS, 1}, {ZYDIS_MNEMONIC_CMPSW, STR_CMPS, 2},
    {ZYDIS_MNEMONIC_CMPSD, STR_CMPS, 4}, {ZYDIS_MNEMONIC_CMPSQ, STR_CMPS, 8},
};

/* The segment of the source operand: DS, or its override. */
static unsigned source_segment(const struct isa_insn *insn)
{
    for (unsigned i = 0; i < insn->n_ops; i++)
        if (insn->op[i].kind == ISA_OP_MEM)
            return insn->mem.seg;
    return SEG_DS;
}

op_fn string_choose(const struct isa_insn *insn, struct op *op)
{
    /* MOVSD and CMPSD are also SSE instructions: those have an opcode map. */
    if (insn->encoding != ISA_ENC_LEGACY || insn->map != 0)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        if (rows[i].mnemonic != insn->mnemonic)
            continue;
        op->src = rows[i].kind;
        op->size = rows[i].size;
        op->addr_size = insn->addr_size;
        unsigned seg = rows[i].kind == STR_STOS || rows[i].kind == STR_SCAS ? SEG_ES : source_segment(insn);
        op->segno = (u8)seg;
        op->seg = seg == SEG_FS || seg == SEG_GS ? OFF_SEG(seg) : OFF_ZERO;
        op->flags =
            (u8)((insn->prefixes & ISA_PFX_REP ? OPF_REP : 0) | (insn->prefixes & ISA_PFX_REPNE ? OPF_REPNE : 0));
        return op->flags ? string_rep : string_once;
    }
    return NULL;
}
