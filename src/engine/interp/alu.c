/*
 * Integer arithmetic: two-operand operations, shifts, multiplication and division, bit tests.
 *
 * Each operation is one line of inline assembly that runs the guest's own instruction and takes the flags with LAHF and
 * SETO. Macros then make a function for each operand size and form; the chooser at the end picks one from tables.
 */
#include "engine/interp/interp.h"

/* --- the operations: T alu_NAME_BITS(struct cpu *, T a, T b) sets flags, returns the result --- */

#define DEFINE_ALU(name, T, bits, suffix)                                                                      \
    static inline T alu_##name##_##bits(struct cpu *c, T a, T b)                                               \
    {                                                                                                          \
        u32 ax;                                                                                                \
        __asm__(#name suffix " %[b], %[a]\n\tlahf\n\tseto %%al" : "=&a"(ax), [a] "+r"(a) : [b] "r"(b) : "cc"); \
        c->arith = (u16)ax;                                                                                    \
        return a;                                                                                              \
    }
/* With carry in: CF is bit 8 of the LAHF form. */
#define DEFINE_ALU_CARRY(name, T, bits, suffix)                                     \
    static inline T alu_##name##_##bits(struct cpu *c, T a, T b)                    \
    {                                                                               \
        u32 ax = c->arith;                                                          \
        __asm__("btl $8, %%eax\n\t" #name suffix " %[b], %[a]\n\tlahf\n\tseto %%al" \
                : "+&a"(ax), [a] "+r"(a)                                            \
                : [b] "r"(b)                                                        \
                : "cc");                                                            \
        c->arith = (u16)ax;                                                         \
        return a;                                                                   \
    }
/* One operand; INC and DEC keep CF, so it goes in. */
#define DEFINE_ALU1(name, T, bits, suffix)                                                                        \
    static inline T alu_##name##_##bits(struct cpu *c, T a)                                                       \
    {                                                                                                             \
        u32 ax = c->arith;                                                                                        \
        __asm__("btl $8, %%eax\n\t" #name suffix " %[a]\n\tlahf\n\tseto %%al" : "+&a"(ax), [a] "+r"(a) : : "cc"); \
        c->arith = (u16)ax;                                                                                       \
        return a;                                                                                                 \
    }
/* Shifts and rotates: a count of zero keeps all flags, rotates keep most, so all go in. */
#define DEFINE_SHIFT(name, T, bits, suffix)                                                   \
    static inline T alu_##name##_##bits(struct cpu *c, T a, u8 n)                             \
    {                                                                                         \
        u32 ax = c->arith;                                                                    \
        __asm__("addb $127, %%al\n\tsahf\n\t" #name suffix " %%cl, %[a]\n\tlahf\n\tseto %%al" \
                : "+&a"(ax), [a] "+r"(a)                                                      \
                : "c"(n)                                                                      \
                : "cc");                                                                      \
        c->arith = (u16)ax;                                                                   \
        return a;                                                                             \
    }

/* All flags go in: of those that are undefined some processors (AMD's) keep some. */
#define DEFINE_ALU_KEEP(name, T, bits, suffix)                                                \
    static inline T alu_##name##_##bits(struct cpu *c, T a, T b)                              \
    {                                                                                         \
        u32 ax = c->arith;                                                                    \
        __asm__("addb $127, %%al\n\tsahf\n\t" #name suffix " %[b], %[a]\n\tlahf\n\tseto %%al" \
                : "+&a"(ax), [a] "+r"(a)                                                      \
                : [b] "r"(b)                                                                  \
                : "cc");                                                                      \
        c->arith = (u16)ax;                                                                   \
        return a;                                                                             \
    }

#define FOR_SIZES(M, ...)        \
    M(__VA_ARGS__, u8, 8, "b")   \
    M(__VA_ARGS__, u16, 16, "w") \
    M(__VA_ARGS__, u32, 32, "l") \
    M(__VA_ARGS__, u64, 64, "q")

#define FOR_SIZES3(M, ...)       \
    M(__VA_ARGS__, u16, 16, "w") \
    M(__VA_ARGS__, u32, 32, "l") \
    M(__VA_ARGS__, u64, 64, "q")

FOR_SIZES(DEFINE_ALU, add)
FOR_SIZES(DEFINE_ALU, sub)
FOR_SIZES(DEFINE_ALU, and)
FOR_SIZES(DEFINE_ALU, or)
FOR_SIZES(DEFINE_ALU, xor)
FOR_SIZES3(DEFINE_ALU_KEEP, imul)
FOR_SIZES(DEFINE_ALU_CARRY, adc)
FOR_SIZES(DEFINE_ALU_CARRY, sbb)
FOR_SIZES(DEFINE_ALU1, inc)
FOR_SIZES(DEFINE_ALU1, dec)
FOR_SIZES(DEFINE_ALU1, neg)
FOR_SIZES(DEFINE_SHIFT, shl)
FOR_SIZES(DEFINE_SHIFT, shr)
FOR_SIZES(DEFINE_SHIFT, sar)
FOR_SIZES(DEFINE_SHIFT, rol)
FOR_SIZES(DEFINE_SHIFT, ror)
FOR_SIZES(DEFINE_SHIFT, rcl)
FOR_SIZES(DEFINE_SHIFT, rcr)

/*
 * OF behind a rotate by more than one bit is undefined. Processors are known that compute it when the count is in CL or the
 * operand in memory, but leave it when a register is rotated by an immediate: is this one of them?
 */
static inline bool rotate_by_imm_keeps_of(void)
{
    u32 ax = 1, zero = 0; /* OF would be computed as 0 */
    __asm__("addb $127, %%al\n\troll $2, %[zero]\n\tseto %%al" : "+&a"(ax), [zero] "+r"(zero) : : "cc");
    return ax & 1;
}

#define DEFINE_SHIFT_IMM(name, T, bits, suffix)                       \
    static inline T alu_##name##_imm_##bits(struct cpu *c, T a, u8 n) \
    {                                                                 \
        return alu_##name##_##bits(c, a, n);                          \
    }
#define DEFINE_ROTATE_IMM(name, T, bits, suffix)                           \
    static inline T alu_##name##_imm_##bits(struct cpu *c, T a, u8 n)      \
    {                                                                      \
        u8 of = (u8)c->arith;                                              \
        a = alu_##name##_##bits(c, a, n);                                  \
        if ((n & (bits == 64 ? 63 : 31)) != 1 && rotate_by_imm_keeps_of()) \
            c->arith = (u16)((c->arith & 0xff00) | of);                    \
        return a;                                                          \
    }
FOR_SIZES(DEFINE_SHIFT_IMM, shl)
FOR_SIZES(DEFINE_SHIFT_IMM, shr)
FOR_SIZES(DEFINE_SHIFT_IMM, sar)
FOR_SIZES(DEFINE_SHIFT_IMM, rcl)
FOR_SIZES(DEFINE_SHIFT_IMM, rcr)
FOR_SIZES(DEFINE_ROTATE_IMM, rol)
FOR_SIZES(DEFINE_ROTATE_IMM, ror)

#define DEFINE_NOT(name, T, bits, suffix)                   \
    static inline T alu_##name##_##bits(struct cpu *c, T a) \
    {                                                       \
        return (T)~a;                                       \
    }
FOR_SIZES(DEFINE_NOT, not )

/* --- forms --- */

/* dst op= src, with dst and src registers, immediate, memory */
#define DEFINE_REG_FORMS(name, T, bits, suffix)                                                \
    static void name##_rr_##bits(struct interp *ip, const struct op *op)                       \
    {                                                                                          \
        struct cpu *c = ip->cpu;                                                               \
        put##bits(c, op->dst, alu_##name##_##bits(c, REG(T, c, op->dst), REG(T, c, op->src))); \
        NEXT;                                                                                  \
    }                                                                                          \
    static void name##_rm_##bits(struct interp *ip, const struct op *op)                       \
    {                                                                                          \
        struct cpu *c = ip->cpu;                                                               \
        T b = load##bits(ip, op, ea(ip, op, bits / 8, false));                                 \
        put##bits(c, op->dst, alu_##name##_##bits(c, REG(T, c, op->dst), b));                  \
        NEXT;                                                                                  \
    }
#define DEFINE_FORMS(name, T, bits, suffix)                                            \
    DEFINE_REG_FORMS(name, T, bits, suffix)                                            \
    static void name##_ri_##bits(struct interp *ip, const struct op *op)               \
    {                                                                                  \
        struct cpu *c = ip->cpu;                                                       \
        put##bits(c, op->dst, alu_##name##_##bits(c, REG(T, c, op->dst), (T)op->imm)); \
        NEXT;                                                                          \
    }                                                                                  \
    static void name##_mr_##bits(struct interp *ip, const struct op *op)               \
    {                                                                                  \
        T b = REG(T, ip->cpu, op->src);                                                \
        RMW(T, bits, alu_##name##_##bits(ip->cpu, a, b));                              \
        NEXT;                                                                          \
    }                                                                                  \
    static void name##_mi_##bits(struct interp *ip, const struct op *op)               \
    {                                                                                  \
        T b = (T)op->imm;                                                              \
        RMW(T, bits, alu_##name##_##bits(ip->cpu, a, b));                              \
        NEXT;                                                                          \
    }

/*
 * Read, compute from `a`, write back: one compare-and-exchange under LOCK. Where the page has no direct access (MMIO,
 * a trace, a page crossing) the write was probed first, so that no flag changes before the last fault.
 */
#define RMW(T, bits, expr)                                                                                 \
    do {                                                                                                   \
        u64 va_ = ea(ip, op, bits / 8, true);                                                              \
        T *p_ = (T *)(void *)rmw_ptr(ip, op, va_, bits / 8);                                               \
        if (unlikely(!p_)) {                                                                               \
            T a = load##bits(ip, op, va_);                                                                 \
            T r_ = (expr);                                                                                 \
            store##bits(ip, op, va_, r_);                                                                  \
        } else if (likely(!(op->flags & OPF_LOCK))) {                                                      \
            T a = *(T##_any *)p_;                                                                          \
            *(T##_any *)p_ = (expr);                                                                       \
        } else {                                                                                           \
            u16 flags_ = ip->cpu->arith;                                                                   \
            for (;;) {                                                                                     \
                T a = __atomic_load_n(p_, __ATOMIC_SEQ_CST), old_ = a;                                     \
                T r_ = (expr);                                                                             \
                if (__atomic_compare_exchange_n(p_, &old_, r_, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST)) \
                    break;                                                                                 \
                ip->cpu->arith = flags_;                                                                   \
            }                                                                                              \
        }                                                                                                  \
    } while (0)

FOR_SIZES(DEFINE_FORMS, add)
FOR_SIZES(DEFINE_FORMS, sub)
FOR_SIZES(DEFINE_FORMS, and)
FOR_SIZES(DEFINE_FORMS, or)
FOR_SIZES(DEFINE_FORMS, xor)
FOR_SIZES(DEFINE_FORMS, adc)
FOR_SIZES(DEFINE_FORMS, sbb)

/* CMP and TEST: no result. */
#define DEFINE_COMPARE(name, alu, T, bits, suffix)                       \
    static void name##_rr_##bits(struct interp *ip, const struct op *op) \
    {                                                                    \
        struct cpu *c = ip->cpu;                                         \
        alu_##alu##_##bits(c, REG(T, c, op->dst), REG(T, c, op->src));   \
        NEXT;                                                            \
    }                                                                    \
    static void name##_ri_##bits(struct interp *ip, const struct op *op) \
    {                                                                    \
        struct cpu *c = ip->cpu;                                         \
        alu_##alu##_##bits(c, REG(T, c, op->dst), (T)op->imm);           \
        NEXT;                                                            \
    }                                                                    \
    static void name##_rm_##bits(struct interp *ip, const struct op *op) \
    {                                                                    \
        struct cpu *c = ip->cpu;                                         \
        T b = load##bits(ip, op, ea(ip, op, bits / 8, false));           \
        alu_##alu##_##bits(c, REG(T, c, op->dst), b);                    \
        NEXT;                                                            \
    }                                                                    \
    static void name##_mr_##bits(struct interp *ip, const struct op *op) \
    {                                                                    \
        struct cpu *c = ip->cpu;                                         \
        T a = load##bits(ip, op, ea(ip, op, bits / 8, false));           \
        alu_##alu##_##bits(c, a, REG(T, c, op->src));                    \
        NEXT;                                                            \
    }                                                                    \
    static void name##_mi_##bits(struct interp *ip, const struct op *op) \
    {                                                                    \
        T a = load##bits(ip, op, ea(ip, op, bits / 8, false));           \
        alu_##alu##_##bits(ip->cpu, a, (T)op->imm);                      \
        NEXT;                                                            \
    }
FOR_SIZES(DEFINE_COMPARE, cmp, sub)
FOR_SIZES(DEFINE_COMPARE, test, and)

#define DEFINE_UNARY(name, T, bits, suffix)                                \
    static void name##_r_##bits(struct interp *ip, const struct op *op)    \
    {                                                                      \
        struct cpu *c = ip->cpu;                                           \
        put##bits(c, op->dst, alu_##name##_##bits(c, REG(T, c, op->dst))); \
        NEXT;                                                              \
    }                                                                      \
    static void name##_m_##bits(struct interp *ip, const struct op *op)    \
    {                                                                      \
        RMW(T, bits, alu_##name##_##bits(ip->cpu, a));                     \
        NEXT;                                                              \
    }
FOR_SIZES(DEFINE_UNARY, inc)
FOR_SIZES(DEFINE_UNARY, dec)
FOR_SIZES(DEFINE_UNARY, neg)
FOR_SIZES(DEFINE_UNARY, not )

/* Shifts: by immediate (op->imm) or by CL */
#define DEFINE_SHIFT_FORMS(name, T, bits, suffix)                                           \
    static void name##_ri_##bits(struct interp *ip, const struct op *op)                    \
    {                                                                                       \
        struct cpu *c = ip->cpu;                                                            \
        put##bits(c, op->dst, alu_##name##_imm_##bits(c, REG(T, c, op->dst), (u8)op->imm)); \
        NEXT;                                                                               \
    }                                                                                       \
    static void name##_rc_##bits(struct interp *ip, const struct op *op)                    \
    {                                                                                       \
        struct cpu *c = ip->cpu;                                                            \
        put##bits(c, op->dst, alu_##name##_##bits(c, REG(T, c, op->dst), (u8)c->gpr[RCX])); \
        NEXT;                                                                               \
    }                                                                                       \
    static void name##_mi_##bits(struct interp *ip, const struct op *op)                    \
    {                                                                                       \
        RMW(T, bits, alu_##name##_##bits(ip->cpu, a, (u8)op->imm));                         \
        NEXT;                                                                               \
    }                                                                                       \
    static void name##_mc_##bits(struct interp *ip, const struct op *op)                    \
    {                                                                                       \
        RMW(T, bits, alu_##name##_##bits(ip->cpu, a, (u8)ip->cpu->gpr[RCX]));               \
        NEXT;                                                                               \
    }
FOR_SIZES(DEFINE_SHIFT_FORMS, shl)
FOR_SIZES(DEFINE_SHIFT_FORMS, shr)
FOR_SIZES(DEFINE_SHIFT_FORMS, sar)
FOR_SIZES(DEFINE_SHIFT_FORMS, rol)
FOR_SIZES(DEFINE_SHIFT_FORMS, ror)
FOR_SIZES(DEFINE_SHIFT_FORMS, rcl)
FOR_SIZES(DEFINE_SHIFT_FORMS, rcr)

/* --- IMUL with two and three operands --- */

#define DEFINE_IMUL3(name, T, bits, suffix)                                        \
    static void imul_rri_##bits(struct interp *ip, const struct op *op)            \
    {                                                                              \
        struct cpu *c = ip->cpu;                                                   \
        put##bits(c, op->dst, alu_imul_##bits(c, REG(T, c, op->src), (T)op->imm)); \
        NEXT;                                                                      \
    }                                                                              \
    static void imul_rmi_##bits(struct interp *ip, const struct op *op)            \
    {                                                                              \
        T a = load##bits(ip, op, ea(ip, op, bits / 8, false));                     \
        put##bits(ip->cpu, op->dst, alu_imul_##bits(ip->cpu, a, (T)op->imm));      \
        NEXT;                                                                      \
    }
FOR_SIZES3(DEFINE_REG_FORMS, imul)
FOR_SIZES3(DEFINE_IMUL3, imul)

/* --- MUL, IMUL with one operand: RDX:RAX = RAX * register or memory (DIV and IDIV run natively) --- */

#define INSN_mul   "mul"
#define INSN_imul1 "imul"

#define DEFINE_WIDE_MUL(name, T, bits, suffix)                                         \
    static inline void alu_##name##_##bits(struct cpu *c, T b)                         \
    {                                                                                  \
        u64 ax = c->arith, in = REG(T, c, 8 * RAX), lo;                                \
        T hi;                                                                          \
        __asm__("addb $127, %%al\n\tsahf\n\tmovq %[in], %%rax\n\t" INSN_##name suffix  \
                " %[b]\n\tmovq %%rax, %[lo]\n\tlahf\n\tseto %%al"                      \
                : "+&a"(ax), "=&d"(hi), [lo] "=&r"(lo)                                 \
                : [b] "r"(b), [in] "r"(in)                                             \
                : "cc");                                                               \
        put##bits(c, 8 * RAX, (T)lo);                                                  \
        put##bits(c, 8 * RDX, hi);                                                     \
        c->arith = (u16)ax;                                                            \
    }                                                                                  \
    static void name##_r_##bits(struct interp *ip, const struct op *op)                \
    {                                                                                  \
        alu_##name##_##bits(ip->cpu, REG(T, ip->cpu, op->dst));                        \
        NEXT;                                                                          \
    }                                                                                  \
    static void name##_m_##bits(struct interp *ip, const struct op *op)                \
    {                                                                                  \
        alu_##name##_##bits(ip->cpu, load##bits(ip, op, ea(ip, op, bits / 8, false))); \
        NEXT;                                                                          \
    }
FOR_SIZES3(DEFINE_WIDE_MUL, mul)
FOR_SIZES3(DEFINE_WIDE_MUL, imul1)

/* --- bit tests: BT BTS BTR BTC with a register or immediate bit number --- */

#define DEFINE_BIT(name, T, bits, suffix)                                                     \
    static inline T alu_##name##_##bits(struct cpu *c, T a, T n)                              \
    {                                                                                         \
        u32 ax = c->arith;                                                                    \
        __asm__("addb $127, %%al\n\tsahf\n\t" #name suffix " %[n], %[a]\n\tlahf\n\tseto %%al" \
                : "+&a"(ax), [a] "+r"(a)                                                      \
                : [n] "r"(n)                                                                  \
                : "cc");                                                                      \
        c->arith = (u16)ax;                                                                   \
        return a;                                                                             \
    }
#define DEFINE_BIT_FORMS(name, T, bits, suffix)                                                \
    static void name##_rr_##bits(struct interp *ip, const struct op *op)                       \
    {                                                                                          \
        struct cpu *c = ip->cpu;                                                               \
        put##bits(c, op->dst, alu_##name##_##bits(c, REG(T, c, op->dst), REG(T, c, op->src))); \
        NEXT;                                                                                  \
    }                                                                                          \
    static void name##_ri_##bits(struct interp *ip, const struct op *op)                       \
    {                                                                                          \
        struct cpu *c = ip->cpu;                                                               \
        put##bits(c, op->dst, alu_##name##_##bits(c, REG(T, c, op->dst), (T)op->imm));         \
        NEXT;                                                                                  \
    }
/* A bit string in memory: a register's bit number reaches beyond the operand, an immediate one does not. */
#define DEFINE_BIT_MEM(name, T, bits, suffix)                            \
    static void name##_mi_##bits(struct interp *ip, const struct op *op) \
    {                                                                    \
        T n = (T)op->imm;                                                \
        RMW(T, bits, alu_##name##_##bits(ip->cpu, a, n));                \
        NEXT;                                                            \
    }                                                                    \
    static void name##_mr_##bits(struct interp *ip, const struct op *op) \
    {                                                                    \
        T n = REG(T, ip->cpu, op->src);                                  \
        struct op at = *op;                                              \
        at.disp += ((s##bits)n >> __builtin_ctz(bits)) * (bits / 8);     \
        bit_string_##name##_##bits(ip, op, &at, n);                      \
        NEXT;                                                            \
    }
/* The displaced operand as an op of its own on the stack: faults are still reported for the original. */
#define DEFINE_BIT_STRING(name, T, bits, suffix)                                                               \
    static void bit_string_##name##_##bits(struct interp *ip, const struct op *orig, const struct op *at, T n) \
    {                                                                                                          \
        u64 va = ea(ip, at, bits / 8, true);                                                                   \
        const struct op *op = orig;                                                                            \
        T *p = (T *)(void *)rmw_ptr(ip, op, va, bits / 8);                                                     \
        if (!p) {                                                                                              \
            T r = alu_##name##_##bits(ip->cpu, load##bits(ip, op, va), n);                                     \
            store##bits(ip, op, va, r);                                                                        \
            return;                                                                                            \
        }                                                                                                      \
        T old = __atomic_load_n(p, __ATOMIC_SEQ_CST), r;                                                       \
        do                                                                                                     \
            r = alu_##name##_##bits(ip->cpu, old, n);                                                          \
        while (!__atomic_compare_exchange_n(p, &old, r, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST));           \
    }
FOR_SIZES3(DEFINE_BIT, bt)
FOR_SIZES3(DEFINE_BIT, bts)
FOR_SIZES3(DEFINE_BIT, btr)
FOR_SIZES3(DEFINE_BIT, btc)
FOR_SIZES3(DEFINE_BIT_FORMS, bts)
FOR_SIZES3(DEFINE_BIT_FORMS, btr)
FOR_SIZES3(DEFINE_BIT_FORMS, btc)
FOR_SIZES3(DEFINE_BIT_STRING, bts)
FOR_SIZES3(DEFINE_BIT_STRING, btr)
FOR_SIZES3(DEFINE_BIT_STRING, btc)
FOR_SIZES3(DEFINE_BIT_MEM, bts)
FOR_SIZES3(DEFINE_BIT_MEM, btr)
FOR_SIZES3(DEFINE_BIT_MEM, btc)

/* BT reads only. */
#define DEFINE_BT_ONLY(name, T, bits, suffix)                            \
    static void name##_rr_##bits(struct interp *ip, const struct op *op) \
    {                                                                    \
        struct cpu *c = ip->cpu;                                         \
        alu_bt_##bits(c, REG(T, c, op->dst), REG(T, c, op->src));        \
        NEXT;                                                            \
    }                                                                    \
    static void name##_ri_##bits(struct interp *ip, const struct op *op) \
    {                                                                    \
        struct cpu *c = ip->cpu;                                         \
        alu_bt_##bits(c, REG(T, c, op->dst), (T)op->imm);                \
        NEXT;                                                            \
    }                                                                    \
    static void name##_mi_##bits(struct interp *ip, const struct op *op) \
    {                                                                    \
        T a = load##bits(ip, op, ea(ip, op, bits / 8, false));           \
        alu_bt_##bits(ip->cpu, a, (T)op->imm);                           \
        NEXT;                                                            \
    }                                                                    \
    static void name##_mr_##bits(struct interp *ip, const struct op *op) \
    {                                                                    \
        T n = REG(T, ip->cpu, op->src);                                  \
        struct op at = *op;                                              \
        at.disp += ((s##bits)n >> __builtin_ctz(bits)) * (bits / 8);     \
        T a = load##bits(ip, op, ea(ip, &at, bits / 8, false));          \
        alu_bt_##bits(ip->cpu, a, n);                                    \
        NEXT;                                                            \
    }
FOR_SIZES3(DEFINE_BT_ONLY, bt)

/* --- choosing --- */

enum form { FORM_RR, FORM_RI, FORM_RM, FORM_MR, FORM_MI, FORMS };

#define SIZES(f)                      \
    {                                 \
        f##_8, f##_16, f##_32, f##_64 \
    }
#define SIZES3(f)                    \
    {                                \
        NULL, f##_16, f##_32, f##_64 \
    }

struct binary_row {
    u16 mnemonic;
    op_fn fn[FORMS][4];
};
#define BINARY(M, name)                                                                              \
    {                                                                                                \
        ZYDIS_MNEMONIC_##M,                                                                          \
        {                                                                                            \
            SIZES(name##_rr), SIZES(name##_ri), SIZES(name##_rm), SIZES(name##_mr), SIZES(name##_mi) \
        }                                                                                            \
    }
#define BIT_TEST(M, name)                                                                   \
    {                                                                                       \
        ZYDIS_MNEMONIC_##M,                                                                 \
        {                                                                                   \
            SIZES3(name##_rr), SIZES3(name##_ri), {0}, SIZES3(name##_mr), SIZES3(name##_mi) \
        }                                                                                   \
    }
static const struct binary_row binary_rows[] = {
    BINARY(ADD, add),   BINARY(SUB, sub),   BINARY(AND, and),   BINARY(OR, or),     BINARY(XOR, xor),
    BINARY(ADC, adc),   BINARY(SBB, sbb),   BINARY(CMP, cmp),   BINARY(TEST, test), BIT_TEST(BT, bt),
    BIT_TEST(BTS, bts), BIT_TEST(BTR, btr), BIT_TEST(BTC, btc),
};

/* One operand, or shifts: register and memory; shifts by immediate and by CL. */
struct unary_row {
    u16 mnemonic;
    op_fn r[4], m[4];
};
#define UNARY(M, name)                                       \
    {                                                        \
        ZYDIS_MNEMONIC_##M, SIZES(name##_r), SIZES(name##_m) \
    }
#define UNARY3(M, name)                                        \
    {                                                          \
        ZYDIS_MNEMONIC_##M, SIZES3(name##_r), SIZES3(name##_m) \
    }
static const struct unary_row unary_rows[] = {
    UNARY(INC, inc), UNARY(DEC, dec), UNARY(NEG, neg), UNARY(NOT, not ), UNARY3(MUL, mul), UNARY3(IMUL, imul1),
};

struct shift_row {
    u16 mnemonic;
    op_fn ri[4], rc[4], mi[4], mc[4];
};
#define SHIFT(M, name)                                                                             \
    {                                                                                              \
        ZYDIS_MNEMONIC_##M, SIZES(name##_ri), SIZES(name##_rc), SIZES(name##_mi), SIZES(name##_mc) \
    }
static const struct shift_row shift_rows[] = {
    SHIFT(SHL, shl), SHIFT(SHR, shr), SHIFT(SAR, sar), SHIFT(ROL, rol),
    SHIFT(ROR, ror), SHIFT(RCL, rcl), SHIFT(RCR, rcr),
};

/* Set dst, src and imm for a two-operand form; FORMS if the operands are none of ours. */
static enum form binary_form(const struct isa_operand *d, const struct isa_operand *s, const struct isa_insn *insn,
                             struct op *op)
{
    bool dm = d->kind == ISA_OP_MEM, sm = s->kind == ISA_OP_MEM;
    if ((!dm && !operand_is_gpr(d)) || (!sm && s->kind != ISA_OP_IMM && !operand_is_gpr(s)))
        return FORMS;
    if (!dm)
        op->dst = operand_gpr(d);
    if (s->kind == ISA_OP_IMM) {
        op->imm = insn->imm;
        return dm ? FORM_MI : FORM_RI;
    }
    if (!sm)
        op->src = operand_gpr(s);
    return dm ? FORM_MR : sm ? FORM_RM : FORM_RR;
}

static op_fn choose_imul(const struct isa_insn *insn, struct op *op)
{
    static const op_fn rr[4] = SIZES3(imul_rr), rm[4] = SIZES3(imul_rm), rri[4] = SIZES3(imul_rri),
                       rmi[4] = SIZES3(imul_rmi);
    unsigned s = size_index(insn->op[0].size);
    bool mem = insn->op[1].kind == ISA_OP_MEM;
    op->dst = operand_gpr(&insn->op[0]);
    if (!mem)
        op->src = operand_gpr(&insn->op[1]);
    if (insn->n_visible == 2)
        return mem ? rm[s] : rr[s];
    op->imm = insn->imm;
    return mem ? rmi[s] : rri[s];
}

static op_fn choose_shift(const struct shift_row *row, const struct isa_insn *insn, struct op *op)
{
    const struct isa_operand *d = &insn->op[0], *n = &insn->op[1];
    bool mem = d->kind == ISA_OP_MEM, by_cl = n->kind == ISA_OP_REG;
    unsigned s = size_index(d->size);
    if (!mem)
        op->dst = operand_gpr(d);
    /* D0 and D1 shift by one; the decoder gives that as an immediate operand. */
    op->imm = n->kind == ISA_OP_IMM && insn->imm_len ? insn->imm : 1;
    if (mem)
        return by_cl ? row->mc[s] : row->mi[s];
    return by_cl ? row->rc[s] : row->ri[s];
}

op_fn alu_choose(const struct isa_insn *insn, struct op *op)
{
    const struct isa_operand *d = &insn->op[0];
    if (insn->encoding != ISA_ENC_LEGACY || insn->n_ops == 0)
        return NULL;
    for (size_t i = 0; i < ARRAY_LEN(binary_rows); i++)
        if (binary_rows[i].mnemonic == insn->mnemonic && insn->n_ops >= 2) {
            enum form f = binary_form(d, &insn->op[1], insn, op);
            return f == FORMS ? NULL : binary_rows[i].fn[f][size_index(d->size)];
        }
    for (size_t i = 0; i < ARRAY_LEN(shift_rows); i++)
        if (shift_rows[i].mnemonic == insn->mnemonic && insn->n_ops >= 2)
            return choose_shift(&shift_rows[i], insn, op);
    if (insn->mnemonic == ZYDIS_MNEMONIC_IMUL && insn->n_visible >= 2)
        return choose_imul(insn, op);
    for (size_t i = 0; i < ARRAY_LEN(unary_rows); i++)
        if (unary_rows[i].mnemonic == insn->mnemonic) {
            if (d->kind != ISA_OP_MEM && !operand_is_gpr(d))
                return NULL;
            if (d->kind != ISA_OP_MEM)
                op->dst = operand_gpr(d);
            return d->kind == ISA_OP_MEM ? unary_rows[i].m[size_index(d->size)] : unary_rows[i].r[size_index(d->size)];
        }
    return NULL;
}
