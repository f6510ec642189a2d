/* Moves, addresses, exchanges, stack, conversions, conditional moves and sets, flag instructions. */
#include "engine/interp/interp.h"

/* --- MOV, MOVZX, MOVSX, LEA --- */

#define DEFINE_MOV(T, bits)                                                           \
    static void mov_rr_##bits(struct interp *ip, const struct op *op)                 \
    {                                                                                 \
        put##bits(ip->cpu, op->dst, REG(T, ip->cpu, op->src));                        \
        NEXT;                                                                         \
    }                                                                                 \
    static void mov_ri_##bits(struct interp *ip, const struct op *op)                 \
    {                                                                                 \
        put##bits(ip->cpu, op->dst, (T)op->imm);                                      \
        NEXT;                                                                         \
    }                                                                                 \
    static void mov_rm_##bits(struct interp *ip, const struct op *op)                 \
    {                                                                                 \
        put##bits(ip->cpu, op->dst, load##bits(ip, op, ea(ip, op, bits / 8, false))); \
        NEXT;                                                                         \
    }                                                                                 \
    static void mov_mr_##bits(struct interp *ip, const struct op *op)                 \
    {                                                                                 \
        store##bits(ip, op, ea(ip, op, bits / 8, true), REG(T, ip->cpu, op->src));    \
        NEXT;                                                                         \
    }                                                                                 \
    static void mov_mi_##bits(struct interp *ip, const struct op *op)                 \
    {                                                                                 \
        store##bits(ip, op, ea(ip, op, bits / 8, true), (T)op->imm);                  \
        NEXT;                                                                         \
    }
DEFINE_MOV(u8, 8)
DEFINE_MOV(u16, 16)
DEFINE_MOV(u32, 32)
DEFINE_MOV(u64, 64)

/* Extension from `from` to `to` bits; TF is the source's C type, signed for MOVSX. */
#define DEFINE_EXTEND(name, TF, from, to, TT)                                               \
    static void name##_rr_##from##_##to(struct interp *ip, const struct op *op)             \
    {                                                                                       \
        put##to(ip->cpu, op->dst, (TT)REG(TF, ip->cpu, op->src));                           \
        NEXT;                                                                               \
    }                                                                                       \
    static void name##_rm_##from##_##to(struct interp *ip, const struct op *op)             \
    {                                                                                       \
        put##to(ip->cpu, op->dst, (TT)(TF)load##from(ip, op, ea(ip, op, from / 8, false))); \
        NEXT;                                                                               \
    }
DEFINE_EXTEND(movzx, u8, 8, 16, u16)
DEFINE_EXTEND(movzx, u8, 8, 32, u32)
DEFINE_EXTEND(movzx, u8, 8, 64, u64)
DEFINE_EXTEND(movzx, u16, 16, 16, u16)
DEFINE_EXTEND(movzx, u16, 16, 32, u32)
DEFINE_EXTEND(movzx, u16, 16, 64, u64)
DEFINE_EXTEND(movsx, s8, 8, 16, u16)
DEFINE_EXTEND(movsx, s8, 8, 32, u32)
DEFINE_EXTEND(movsx, s8, 8, 64, u64)
DEFINE_EXTEND(movsx, s16, 16, 16, u16)
DEFINE_EXTEND(movsx, s16, 16, 32, u32)
DEFINE_EXTEND(movsx, s16, 16, 64, u64)
DEFINE_EXTEND(movsx, s32, 32, 16, u16)
DEFINE_EXTEND(movsx, s32, 32, 32, u32)
DEFINE_EXTEND(movsx, s32, 32, 64, u64)

static u64 lea_offset(const struct cpu *c, const struct op *op)
{
    u64 off = ea_offset(c, op);
    return op->addr_size == 8 ? off : op->addr_size == 4 ? off & 0xffffffff : off & 0xffff;
}
static void lea_16(struct interp *ip, const struct op *op)
{
    put16(ip->cpu, op->dst, (u16)ea_offset(ip->cpu, op));
    NEXT;
}
static void lea_32(struct interp *ip, const struct op *op)
{
    put32(ip->cpu, op->dst, (u32)lea_offset(ip->cpu, op));
    NEXT;
}
static void lea_64(struct interp *ip, const struct op *op)
{
    put64(ip->cpu, op->dst, lea_offset(ip->cpu, op));
    NEXT;
}

/* --- XCHG, XADD, CMPXCHG --- */

#define DEFINE_XCHG(T, bits)                                                                                   \
    static void xchg_rr_##bits(struct interp *ip, const struct op *op)                                         \
    {                                                                                                          \
        struct cpu *c = ip->cpu;                                                                               \
        T a = REG(T, c, op->dst), b = REG(T, c, op->src);                                                      \
        put##bits(c, op->dst, b);                                                                              \
        put##bits(c, op->src, a);                                                                              \
        NEXT;                                                                                                  \
    }                                                                                                          \
    static void xchg_mr_##bits(struct interp *ip, const struct op *op)                                         \
    {                                                                                                          \
        u64 va = ea(ip, op, bits / 8, true);                                                                   \
        T b = REG(T, ip->cpu, op->src), a;                                                                     \
        T *p = (T *)(void *)rmw_ptr(ip, op, va, bits / 8);                                                     \
        if (likely(p)) {                                                                                       \
            a = __atomic_exchange_n(p, b, __ATOMIC_SEQ_CST);                                                   \
        } else {                                                                                               \
            a = load##bits(ip, op, va);                                                                        \
            store##bits(ip, op, va, b);                                                                        \
        }                                                                                                      \
        put##bits(ip->cpu, op->src, a);                                                                        \
        NEXT;                                                                                                  \
    }                                                                                                          \
    static inline T add_flags_##bits(struct cpu *c, T a, T b)                                                  \
    {                                                                                                          \
        u32 ax;                                                                                                \
        __asm__("add %[b], %[a]\n\tlahf\n\tseto %%al" : "=&a"(ax), [a] "+r"(a) : [b] "r"(b) : "cc");           \
        c->arith = (u16)ax;                                                                                    \
        return a;                                                                                              \
    }                                                                                                          \
    static inline void cmp_flags_##bits(struct cpu *c, T a, T b)                                               \
    {                                                                                                          \
        u32 ax;                                                                                                \
        __asm__("cmp %[b], %[a]\n\tlahf\n\tseto %%al" : "=&a"(ax) : [a] "r"(a), [b] "r"(b) : "cc");            \
        c->arith = (u16)ax;                                                                                    \
    }                                                                                                          \
    static void xadd_rr_##bits(struct interp *ip, const struct op *op)                                         \
    {                                                                                                          \
        struct cpu *c = ip->cpu;                                                                               \
        T a = REG(T, c, op->dst), b = REG(T, c, op->src);                                                      \
        put##bits(c, op->src, a);                                                                              \
        put##bits(c, op->dst, add_flags_##bits(c, a, b));                                                      \
        NEXT;                                                                                                  \
    }                                                                                                          \
    static void xadd_mr_##bits(struct interp *ip, const struct op *op)                                         \
    {                                                                                                          \
        u64 va = ea(ip, op, bits / 8, true);                                                                   \
        T b = REG(T, ip->cpu, op->src), a;                                                                     \
        T *p = (T *)(void *)rmw_ptr(ip, op, va, bits / 8);                                                     \
        if (likely(p)) {                                                                                       \
            a = __atomic_fetch_add(p, b, __ATOMIC_SEQ_CST);                                                    \
        } else {                                                                                               \
            a = load##bits(ip, op, va);                                                                        \
            store##bits(ip, op, va, (T)(a + b));                                                               \
        }                                                                                                      \
        add_flags_##bits(ip->cpu, a, b);                                                                       \
        put##bits(ip->cpu, op->src, a);                                                                        \
        NEXT;                                                                                                  \
    }                                                                                                          \
    static void cmpxchg_rr_##bits(struct interp *ip, const struct op *op)                                      \
    {                                                                                                          \
        struct cpu *c = ip->cpu;                                                                               \
        T acc = REG(T, c, 8 * RAX), a = REG(T, c, op->dst);                                                    \
        cmp_flags_##bits(c, acc, a);                                                                           \
        if (acc == a)                                                                                          \
            put##bits(c, op->dst, REG(T, c, op->src));                                                         \
        else                                                                                                   \
            put##bits(c, 8 * RAX, a);                                                                          \
        NEXT;                                                                                                  \
    }                                                                                                          \
    /* The destination is written in any case (SDM: with its old value if the comparison fails). */            \
    static void cmpxchg_mr_##bits(struct interp *ip, const struct op *op)                                      \
    {                                                                                                          \
        struct cpu *c = ip->cpu;                                                                               \
        u64 va = ea(ip, op, bits / 8, true);                                                                   \
        T acc = REG(T, c, 8 * RAX), a = acc;                                                                   \
        T *p = (T *)(void *)rmw_ptr(ip, op, va, bits / 8);                                                     \
        if (likely(p)) {                                                                                       \
            __atomic_compare_exchange_n(p, &a, REG(T, c, op->src), false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST); \
        } else {                                                                                               \
            a = load##bits(ip, op, va);                                                                        \
            store##bits(ip, op, va, a == acc ? REG(T, c, op->src) : a);                                        \
        }                                                                                                      \
        cmp_flags_##bits(c, acc, a);                                                                           \
        if (acc != a)                                                                                          \
            put##bits(c, 8 * RAX, a);                                                                          \
        NEXT;                                                                                                  \
    }
DEFINE_XCHG(u8, 8)
DEFINE_XCHG(u16, 16)
DEFINE_XCHG(u32, 32)
DEFINE_XCHG(u64, 64)

/*
 * CMPXCHG8B and CMPXCHG16B (op->size the whole width). The wider one asks for alignment: #GP(0). Without direct access the
 * two halves go separately, the write having been probed.
 */
static void set_zf(struct cpu *c, bool on)
{
    c->arith = (u16)(on ? c->arith | 0x4000 : c->arith & ~0x4000);
}

static void cmpxchg8b(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    u64 va = ea(ip, op, 8, true);
    u64 want = (u32)c->gpr[RAX] | c->gpr[RDX] << 32, old = want, new = (u32)c->gpr[RBX] | c->gpr[RCX] << 32;
    u64 *p = (u64 *)(void *)rmw_ptr(ip, op, va, 8);
    if (likely(p)) {
        __atomic_compare_exchange_n(p, &old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    } else {
        old = load64(ip, op, va);
        store64(ip, op, va, old == want ? new : old);
    }
    set_zf(c, old == want);
    if (old != want) {
        put32(c, 8 * RAX, (u32)old);
        put32(c, 8 * RDX, (u32)(old >> 32));
    }
    NEXT;
}

static void cmpxchg16b(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    u64 va = ea(ip, op, 16, true), lo = c->gpr[RAX], hi = c->gpr[RDX];
    bool same;
    if (va & 15)
        fault_exit(ip, op, cpu_raise_error(c, VEC_GP, 0));
    u8 *p = rmw_ptr(ip, op, va, 16);
    if (likely(p)) {
        __asm__ volatile("lock cmpxchg16b %[m]"
                         : [m] "+m"(*(u8(*)[16])p), "+a"(lo), "+d"(hi), "=@ccz"(same)
                         : "b"(c->gpr[RBX]), "c"(c->gpr[RCX])
                         : "memory");
    } else {
        u64 l = load64(ip, op, va), h = load64(ip, op, va + 8);
        same = l == lo && h == hi;
        store64(ip, op, va, same ? c->gpr[RBX] : l);
        store64(ip, op, va + 8, same ? c->gpr[RCX] : h);
        lo = l;
        hi = h;
    }
    set_zf(c, same);
    if (!same) {
        c->gpr[RAX] = lo;
        c->gpr[RDX] = hi;
    }
    NEXT;
}

/* --- CMOVcc, SETcc: op->size holds the condition --- */

#define DEFINE_CMOV(T, bits)                                                                              \
    static void cmov_rr_##bits(struct interp *ip, const struct op *op)                                    \
    {                                                                                                     \
        struct cpu *c = ip->cpu;                                                                          \
        T v = cond(c->arith, op->size) ? REG(T, c, op->src) : REG(T, c, op->dst);                         \
        put##bits(c, op->dst, v);                                                                         \
        NEXT;                                                                                             \
    }                                                                                                     \
    static void cmov_rm_##bits(struct interp *ip, const struct op *op)                                    \
    {                                                                                                     \
        struct cpu *c = ip->cpu;                                                                          \
        T v = load##bits(ip, op, ea(ip, op, bits / 8, false)); /* read, and able to fault, in any case */ \
        put##bits(c, op->dst, cond(c->arith, op->size) ? v : REG(T, c, op->dst));                         \
        NEXT;                                                                                             \
    }
DEFINE_CMOV(u16, 16)
DEFINE_CMOV(u32, 32)
DEFINE_CMOV(u64, 64)

static void setcc_r(struct interp *ip, const struct op *op)
{
    put8(ip->cpu, op->dst, cond(ip->cpu->arith, op->size));
    NEXT;
}
static void setcc_m(struct interp *ip, const struct op *op)
{
    store8(ip, op, ea(ip, op, 1, true), cond(ip->cpu->arith, op->size));
    NEXT;
}

/* --- conversions inside RAX and RDX:RAX; BSWAP --- */

static void cbw(struct interp *ip, const struct op *op)
{
    put16(ip->cpu, 8 * RAX, (u16)(s8)ip->cpu->gpr[RAX]);
    NEXT;
}
static void cwde(struct interp *ip, const struct op *op)
{
    put32(ip->cpu, 8 * RAX, (u32)(s16)ip->cpu->gpr[RAX]);
    NEXT;
}
static void cdqe(struct interp *ip, const struct op *op)
{
    put64(ip->cpu, 8 * RAX, (u64)(s32)ip->cpu->gpr[RAX]);
    NEXT;
}
static void cwd(struct interp *ip, const struct op *op)
{
    put16(ip->cpu, 8 * RDX, (u16)((s16)ip->cpu->gpr[RAX] >> 15));
    NEXT;
}
static void cdq(struct interp *ip, const struct op *op)
{
    put32(ip->cpu, 8 * RDX, (u32)((s32)ip->cpu->gpr[RAX] >> 31));
    NEXT;
}
static void cqo(struct interp *ip, const struct op *op)
{
    put64(ip->cpu, 8 * RDX, (u64)((s64)ip->cpu->gpr[RAX] >> 63));
    NEXT;
}
static void bswap_32(struct interp *ip, const struct op *op)
{
    put32(ip->cpu, op->dst, __builtin_bswap32((u32)*reg64(ip->cpu, op->dst)));
    NEXT;
}
static void bswap_64(struct interp *ip, const struct op *op)
{
    put64(ip->cpu, op->dst, __builtin_bswap64(*reg64(ip->cpu, op->dst)));
    NEXT;
}

/* --- flags that no trap guards --- */

static void clc(struct interp *ip, const struct op *op)
{
    ip->cpu->arith &= (u16)~0x100;
    NEXT;
}
static void stc(struct interp *ip, const struct op *op)
{
    ip->cpu->arith |= 0x100;
    NEXT;
}
static void cmc(struct interp *ip, const struct op *op)
{
    ip->cpu->arith ^= 0x100;
    NEXT;
}
static void cld(struct interp *ip, const struct op *op)
{
    ip->cpu->sysflags &= ~FL_DF;
    NEXT;
}
static void std_(struct interp *ip, const struct op *op)
{
    ip->cpu->sysflags |= FL_DF;
    NEXT;
}

/* --- stack --- */

/*
 * Outside 64-bit mode the stack pointer is ESP or SP, by SS.B, and SS has limits. `stack_linear` gives the address of an
 * access of `size` bytes at offset `sp`.
 */
static u64 stack_linear(struct interp *ip, const struct op *op, u64 sp, unsigned size, bool write)
{
    struct cpu *c = ip->cpu;
    if (likely((ip->key & KEY_MODE) == ISA_MODE_64))
        return sp;
    gva_t va;
    int r = isa_linear(c, SEG_SS, sp, size, write, &va);
    if (r != CPU_OK)
        fault_exit(ip, op, r);
    return va.v;
}
static u64 sp_wrap(const struct interp *ip, u64 sp)
{
    if (likely((ip->key & KEY_MODE) == ISA_MODE_64))
        return sp;
    return ip->key & KEY_SS32 ? (u32)sp : (u16)sp;
}
/* The whole register with `sp` in its part that is the stack pointer. */
static u64 sp_joined(const struct interp *ip, u64 sp)
{
    bool narrow = (ip->key & KEY_MODE) != ISA_MODE_64 && !(ip->key & KEY_SS32);
    return narrow ? (ip->cpu->gpr[RSP] & ~0xffffull) | sp : sp;
}
static void sp_set(struct interp *ip, u64 sp)
{
    if (likely((ip->key & KEY_MODE) == ISA_MODE_64))
        ip->cpu->gpr[RSP] = sp;
    else if (ip->key & KEY_SS32)
        put32(ip->cpu, 8 * RSP, (u32)sp);
    else
        put16(ip->cpu, 8 * RSP, (u16)sp);
}
/* PUSH with a memory operand: a stack pointer out of range is reported before the operand is read. */
static inline void stack_canonical(struct interp *ip, const struct op *op, u64 sp)
{
    if (unlikely((ip->key & KEY_MODE) == ISA_MODE_64 && !gva_canonical(GVA(sp))))
        fault_exit(ip, op, cpu_raise_error(ip->cpu, VEC_SS, 0));
}

#define DEFINE_STACK(T, bits)                                                                              \
    static inline void push_##bits(struct interp *ip, const struct op *op, T v)                            \
    {                                                                                                      \
        u64 sp = sp_wrap(ip, ip->cpu->gpr[RSP] - bits / 8), va = stack_linear(ip, op, sp, bits / 8, true); \
        u8 *p = tlb_write_ptr(ip, va, bits / 8);                                                           \
        if (likely(p))                                                                                     \
            *(T##_any *)(void *)p = v;                                                                     \
        else                                                                                               \
            push_slow(ip, op, va, v, bits / 8);                                                            \
        sp_set(ip, sp);                                                                                    \
    }                                                                                                      \
    static inline T stack_at_##bits(struct interp *ip, const struct op *op, u64 sp)                        \
    {                                                                                                      \
        u64 va = stack_linear(ip, op, sp, bits / 8, false);                                                \
        const u8 *p = tlb_read_ptr(ip, va, bits / 8);                                                      \
        return likely(p) ? *(const T##_any *)(const void *)p : (T)pop_slow(ip, op, va, bits / 8);          \
    }                                                                                                      \
    static inline T top_##bits(struct interp *ip, const struct op *op)                                     \
    {                                                                                                      \
        return stack_at_##bits(ip, op, sp_wrap(ip, ip->cpu->gpr[RSP]));                                    \
    }                                                                                                      \
    static void push_r_##bits(struct interp *ip, const struct op *op)                                      \
    {                                                                                                      \
        push_##bits(ip, op, REG(T, ip->cpu, op->dst));                                                     \
        NEXT;                                                                                              \
    }                                                                                                      \
    static void push_i_##bits(struct interp *ip, const struct op *op)                                      \
    {                                                                                                      \
        push_##bits(ip, op, (T)op->imm);                                                                   \
        NEXT;                                                                                              \
    }                                                                                                      \
    static void push_m_##bits(struct interp *ip, const struct op *op)                                      \
    {                                                                                                      \
        stack_canonical(ip, op, ip->cpu->gpr[RSP] - bits / 8);                                             \
        T v = load##bits(ip, op, ea(ip, op, bits / 8, false));                                             \
        push_##bits(ip, op, v);                                                                            \
        NEXT;                                                                                              \
    }                                                                                                      \
    static void pop_r_##bits(struct interp *ip, const struct op *op)                                       \
    {                                                                                                      \
        T v = top_##bits(ip, op);                                                                          \
        sp_set(ip, sp_wrap(ip, ip->cpu->gpr[RSP] + bits / 8));                                             \
        put##bits(ip->cpu, op->dst, v);                                                                    \
        NEXT;                                                                                              \
    }                                                                                                      \
    static void pop_m_##bits(struct interp *ip, const struct op *op)                                       \
    {                                                                                                      \
        T v = top_##bits(ip, op);                                                                          \
        store##bits(ip, op, ea(ip, op, bits / 8, true), v);                                                \
        sp_set(ip, sp_wrap(ip, ip->cpu->gpr[RSP] + bits / 8));                                             \
        NEXT;                                                                                              \
    }                                                                                                      \
    static void leave_##bits(struct interp *ip, const struct op *op)                                       \
    {                                                                                                      \
        struct cpu *c = ip->cpu;                                                                           \
        u64 sp = sp_wrap(ip, c->gpr[RBP]);                                                                 \
        T v = stack_at_##bits(ip, op, sp);                                                                 \
        sp_set(ip, sp_wrap(ip, sp + bits / 8));                                                            \
        put##bits(c, 8 * RBP, v);                                                                          \
        NEXT;                                                                                              \
    }
DEFINE_STACK(u16, 16)
DEFINE_STACK(u32, 32)
DEFINE_STACK(u64, 64)

/*
 * ENTER: op->imm is the frame size, op->src the nesting level (0-31), op->size the operand size. Registers change after
 * the last access.
 */
static void enter(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    unsigned n = op->size, level = op->src;
    u64 sp = sp_wrap(ip, c->gpr[RSP] - n), bp = c->gpr[RBP];
    u64 frame = sp_joined(ip, sp); /* all of ESP, also where the stack has 16 bits (seen on silicon) */
    push_slow(ip, op, stack_linear(ip, op, sp, n, true), bp, n);
    for (unsigned i = 1; i < level; i++) {
        u64 v = pop_slow(ip, op, stack_linear(ip, op, sp_wrap(ip, bp - i * n), n, false), n);
        sp = sp_wrap(ip, sp - n);
        push_slow(ip, op, stack_linear(ip, op, sp, n, true), v, n);
    }
    if (level) {
        sp = sp_wrap(ip, sp - n);
        push_slow(ip, op, stack_linear(ip, op, sp, n, true), frame, n);
    }
    sp = sp_wrap(ip, sp - (u64)op->imm);
    /* The place that SP is left at must be writable (SDM vol. 2, ENTER). */
    rmw_slow(ip, op, stack_linear(ip, op, sp, n, true), n);
    sp_set(ip, sp);
    if (n == 8)
        put64(c, 8 * RBP, frame);
    else if (n == 4)
        put32(c, 8 * RBP, (u32)frame);
    else
        put16(c, 8 * RBP, (u16)frame);
    NEXT;
}

/* --- choosing --- */

#define S4(f)                         \
    {                                 \
        f##_8, f##_16, f##_32, f##_64 \
    }
#define S3(f)                        \
    {                                \
        NULL, f##_16, f##_32, f##_64 \
    }

struct plain_row {
    u16 mnemonic;
    op_fn fn;
};
static const struct plain_row plain_rows[] = {
    {ZYDIS_MNEMONIC_CBW, cbw}, {ZYDIS_MNEMONIC_CWDE, cwde}, {ZYDIS_MNEMONIC_CDQE, cdqe}, {ZYDIS_MNEMONIC_CWD, cwd},
    {ZYDIS_MNEMONIC_CDQ, cdq}, {ZYDIS_MNEMONIC_CQO, cqo},   {ZYDIS_MNEMONIC_CLC, clc},   {ZYDIS_MNEMONIC_STC, stc},
    {ZYDIS_MNEMONIC_CMC, cmc}, {ZYDIS_MNEMONIC_CLD, cld},   {ZYDIS_MNEMONIC_STD, std_},
};

static bool gpr_or_mem(const struct isa_operand *o)
{
    return o->kind == ISA_OP_MEM || operand_is_gpr(o);
}

/* MOV between registers, memory and immediates (segment, control and debug registers are not innocuous). */
static op_fn choose_mov(const struct isa_insn *insn, struct op *op)
{
    static const op_fn rr[4] = S4(mov_rr), ri[4] = S4(mov_ri), rm[4] = S4(mov_rm), mr[4] = S4(mov_mr),
                       mi[4] = S4(mov_mi);
    const struct isa_operand *d = &insn->op[0], *s = &insn->op[1];
    unsigned z = size_index(d->size);
    if (!gpr_or_mem(d))
        return NULL;
    if (d->kind != ISA_OP_MEM)
        op->dst = operand_gpr(d);
    if (s->kind == ISA_OP_IMM) {
        op->imm = insn->imm;
        return d->kind == ISA_OP_MEM ? mi[z] : ri[z];
    }
    if (s->kind == ISA_OP_MEM)
        return rm[z];
    if (!operand_is_gpr(s))
        return NULL;
    op->src = operand_gpr(s);
    return d->kind == ISA_OP_MEM ? mr[z] : rr[z];
}

static op_fn choose_extend(const struct isa_insn *insn, struct op *op)
{
#define PAIR(name, from)                                                        \
    {                                                                           \
        {name##_rr_##from##_16, name##_rr_##from##_32, name##_rr_##from##_64},  \
        {                                                                       \
            name##_rm_##from##_16, name##_rm_##from##_32, name##_rm_##from##_64 \
        }                                                                       \
    }
    static const op_fn zx[2][2][3] = {PAIR(movzx, 8), PAIR(movzx, 16)};
    static const op_fn sx[3][2][3] = {PAIR(movsx, 8), PAIR(movsx, 16), PAIR(movsx, 32)};
    const struct isa_operand *d = &insn->op[0], *s = &insn->op[1];
    unsigned to = size_index(d->size) - 1, from = size_index(s->size), mem = s->kind == ISA_OP_MEM;
    op->dst = operand_gpr(d);
    if (!mem)
        op->src = operand_gpr(s);
    return insn->mnemonic == ZYDIS_MNEMONIC_MOVZX ? zx[from][mem][to] : sx[from][mem][to];
}

static op_fn choose_exchange(const struct isa_insn *insn, struct op *op)
{
    static const op_fn xr[4] = S4(xchg_rr), xm[4] = S4(xchg_mr), ar[4] = S4(xadd_rr), am[4] = S4(xadd_mr),
                       cr[4] = S4(cmpxchg_rr), cm[4] = S4(cmpxchg_mr);
    const struct isa_operand *d = &insn->op[0], *s = &insn->op[1];
    if (s->kind == ISA_OP_MEM) { /* XCHG r, m is the same as XCHG m, r */
        const struct isa_operand *t = d;
        d = s;
        s = t;
    }
    unsigned z = size_index(d->size);
    bool mem = d->kind == ISA_OP_MEM;
    if (!mem)
        op->dst = operand_gpr(d);
    op->src = operand_gpr(s);
    if (insn->mnemonic == ZYDIS_MNEMONIC_XCHG)
        return mem ? xm[z] : xr[z];
    if (insn->mnemonic == ZYDIS_MNEMONIC_XADD)
        return mem ? am[z] : ar[z];
    return mem ? cm[z] : cr[z];
}

static op_fn choose_stack(const struct isa_insn *insn, struct op *op)
{
    static const op_fn pr[4] = S3(push_r), pi[4] = S3(push_i), pm[4] = S3(push_m), qr[4] = S3(pop_r), qm[4] = S3(pop_m);
    const struct isa_operand *d = &insn->op[0];
    bool push = insn->mnemonic == ZYDIS_MNEMONIC_PUSH;
    unsigned z = size_index(insn->op_size);
    if (d->kind != ISA_OP_IMM && !gpr_or_mem(d))
        return NULL;
    if (d->kind == ISA_OP_MEM) {
        /* POP computes the address of its destination with the stack pointer already moved (SDM vol. 2, POP). */
        if (!push && insn->mem.base == RSP)
            op->disp += insn->op_size;
        return push ? pm[z] : qm[z];
    }
    op->segno = SEG_SS;
    if (d->kind == ISA_OP_IMM) {
        op->imm = insn->imm;
        return pi[z];
    }
    op->dst = operand_gpr(d);
    return push ? pr[z] : qr[z];
}

/* CMOVcc (0F 40-4F) and SETcc (0F 90-9F) carry their condition in the opcode. */
static op_fn choose_cc(const struct isa_insn *insn, struct op *op)
{
    static const op_fn rr[4] = S3(cmov_rr), rm[4] = S3(cmov_rm);
    const struct isa_operand *d = &insn->op[0], *s = &insn->op[1];
    op->size = insn->opcode & 15;
    if (d->kind != ISA_OP_MEM)
        op->dst = operand_gpr(d);
    if ((insn->opcode & 0xf0) == 0x90)
        return d->kind == ISA_OP_MEM ? setcc_m : setcc_r;
    if (s->kind == ISA_OP_MEM)
        return rm[size_index(d->size)];
    op->src = operand_gpr(s);
    return rr[size_index(d->size)];
}

static op_fn choose_enter_leave(const struct isa_insn *insn, struct op *op)
{
    static const op_fn lv[4] = S3(leave);
    op->segno = SEG_SS;
    op->size = insn->op_size;
    if (insn->mnemonic == ZYDIS_MNEMONIC_LEAVE)
        return lv[size_index(insn->op_size)];
    op->imm = (u16)insn->imm;
    op->src = insn->imm2 & 31;
    return enter;
}

op_fn data_choose(const struct isa_insn *insn, struct op *op)
{
    if (insn->encoding != ISA_ENC_LEGACY)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(plain_rows); i++)
        if (plain_rows[i].mnemonic == insn->mnemonic)
            return plain_rows[i].fn;
    if (insn->map == 1 && ((insn->opcode & 0xf0) == 0x40 || (insn->opcode & 0xf0) == 0x90))
        return choose_cc(insn, op);
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CMPXCHG8B:
        return cmpxchg8b;
    case ZYDIS_MNEMONIC_CMPXCHG16B:
        return cmpxchg16b;
    case ZYDIS_MNEMONIC_MOV:
        return choose_mov(insn, op);
    case ZYDIS_MNEMONIC_MOVZX:
    case ZYDIS_MNEMONIC_MOVSX:
    case ZYDIS_MNEMONIC_MOVSXD:
        return choose_extend(insn, op);
    case ZYDIS_MNEMONIC_LEA:
        op->dst = operand_gpr(&insn->op[0]);
        return insn->op[0].size == 8 ? lea_64 : insn->op[0].size == 4 ? lea_32 : lea_16;
    case ZYDIS_MNEMONIC_XCHG:
    case ZYDIS_MNEMONIC_XADD:
    case ZYDIS_MNEMONIC_CMPXCHG:
        return choose_exchange(insn, op);
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
        return choose_stack(insn, op);
    case ZYDIS_MNEMONIC_ENTER:
    case ZYDIS_MNEMONIC_LEAVE:
        return choose_enter_leave(insn, op);
    case ZYDIS_MNEMONIC_BSWAP:
        op->dst = operand_gpr(&insn->op[0]);
        return insn->op[0].size == 8 ? bswap_64 : insn->op[0].size == 4 ? bswap_32 : NULL;
    default:
        return NULL;
    }
}
