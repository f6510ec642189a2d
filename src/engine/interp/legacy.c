/*
 * Instructions that the 64-bit host can not execute for a 16- or 32-bit guest, and XLAT: decimal adjustment, PUSHA and
 * POPA, SALC. (SDM vol. 2; flags that it leaves undefined are: OF kept, others by the result.)
 */
#include "engine/interp/interp.h"

static bool flag(const struct cpu *c, u64 f)
{
    return cpu_arith_to_flags(c->arith) & f;
}

/* SF, ZF and PF by a byte, CF and AF as given, OF kept. */
static void set_flags(struct cpu *c, u8 v, bool cf, bool af)
{
    u64 fl = cpu_arith_to_flags(c->arith) & FL_OF;
    fl |= (cf ? FL_CF : 0) | (af ? FL_AF : 0) | (v & 0x80 ? FL_SF : 0) | (v ? 0 : FL_ZF);
    fl |= __builtin_parity(v) ? 0 : FL_PF;
    c->arith = cpu_flags_to_arith(fl);
}

/* DAA (op->size 0) and DAS (1) */
static void daa_das(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    u8 al = (u8)c->gpr[RAX], old = al;
    bool cf = flag(c, FL_CF), low = (al & 15) > 9 || flag(c, FL_AF), high = old > 0x99 || cf, carry = high;
    if (low) {
        /* The borrow of the low step counts for DAS only as the manual's CF expression says. */
        if (op->size)
            carry |= al < 6;
        else
            carry |= al > 0xff - 6;
        al = (u8)(op->size ? al - 6 : al + 6);
    }
    if (high)
        al = (u8)(op->size ? al - 0x60 : al + 0x60);
    put8(c, 8 * RAX, al);
    set_flags(c, al, carry, low);
    NEXT;
}

/* AAA (op->size 0) and AAS (1) */
static void aaa_aas(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    u16 ax = (u16)c->gpr[RAX];
    bool adjust = (ax & 15) > 9 || flag(c, FL_AF);
    if (adjust)
        ax = (u16)(op->size ? ax - 0x106 : ax + 0x106);
    ax &= 0xff0f;
    put16(c, 8 * RAX, ax);
    set_flags(c, (u8)ax, adjust, adjust);
    NEXT;
}

static void aam(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    u8 al = (u8)c->gpr[RAX], base = (u8)op->imm;
    if (!base)
        fault_exit(ip, op, cpu_raise(c, VEC_DE));
    put16(c, 8 * RAX, (u16)(al / base << 8 | al % base));
    set_flags(c, al % base, false, false);
    NEXT;
}

static void aad(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    u16 ax = (u16)c->gpr[RAX];
    u8 al = (u8)((ax & 0xff) + (ax >> 8) * (u8)op->imm);
    put16(c, 8 * RAX, al);
    set_flags(c, al, false, false);
    NEXT;
}

static void salc(struct interp *ip, const struct op *op)
{
    put8(ip->cpu, 8 * RAX, flag(ip->cpu, FL_CF) ? 0xff : 0);
    NEXT;
}

static void xlat(struct interp *ip, const struct op *op)
{
    struct op at = *op;
    at.base = OFF_GPR(RBX);
    at.index = OFF_ZERO;
    at.disp = (u8)ip->cpu->gpr[RAX];
    u64 va = ea(ip, &at, 1, false);
    put8(ip->cpu, 8 * RAX, load8(ip, op, va));
    NEXT;
}

/* --- PUSHA, POPA: eight registers of op->size bytes, as one access --- */

static u64 stack_range(struct interp *ip, const struct op *op, u64 sp, bool write)
{
    gva_t va;
    struct cpu *c = ip->cpu;
    int r = isa_linear(c, SEG_SS, sp, 8u * op->size, write, &va);
    if (r != CPU_OK)
        fault_exit(ip, op, r);
    /* Alignment is that of one register: mem.c would see an operand of 16 or 32 bytes. */
    if ((va.v & (op->size - 1u)) && c->cpl == 3 && (c->cr0 & CR0_AM) && (c->sysflags & FL_AC))
        fault_exit(ip, op, cpu_raise_error(c, VEC_AC, 0));
    return va.v;
}
static u64 wrap(const struct interp *ip, u64 sp)
{
    return ip->key & KEY_SS32 ? (u32)sp : (u16)sp;
}
static void put_sp(struct interp *ip, u64 sp)
{
    if (ip->key & KEY_SS32)
        put32(ip->cpu, 8 * RSP, (u32)sp);
    else
        put16(ip->cpu, 8 * RSP, (u16)sp);
}

static void pusha(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    u8 image[32];
    u64 sp = wrap(ip, c->gpr[RSP] - 8u * op->size);
    for (unsigned i = 0; i < 8; i++) /* (E)DI at the lowest address */
        __builtin_memcpy(image + i * op->size, &c->gpr[7 - i], op->size);
    int r = mem_write_slow(ip, stack_range(ip, op, sp, true), image, 8u * op->size, ip->user, false);
    if (r != CPU_OK)
        fault_exit(ip, op, r);
    put_sp(ip, sp);
    NEXT;
}

static void popa(struct interp *ip, const struct op *op)
{
    struct cpu *c = ip->cpu;
    u8 image[32];
    u64 sp = wrap(ip, c->gpr[RSP]);
    int r = mem_read_slow(ip, stack_range(ip, op, sp, false), image, 8u * op->size, ip->user, false);
    if (r != CPU_OK)
        fault_exit(ip, op, r);
    for (unsigned i = 0; i < 8; i++) {
        u64 v = 0;
        if (7 - i == RSP)
            continue;
        __builtin_memcpy(&v, image + i * op->size, op->size);
        if (op->size == 4)
            put32(c, 8 * (7 - i), (u32)v);
        else
            put16(c, 8 * (7 - i), (u16)v);
    }
    put_sp(ip, wrap(ip, sp + 8u * op->size));
    NEXT;
}

static const struct {
    u16 mnemonic;
    u8 size; /* op->size: a variant, or the operand size of PUSHA and POPA */
    op_fn fn;
} rows[] = {
    {ZYDIS_MNEMONIC_DAA, 0, daa_das},  {ZYDIS_MNEMONIC_DAS, 1, daa_das}, {ZYDIS_MNEMONIC_AAA, 0, aaa_aas},
    {ZYDIS_MNEMONIC_AAS, 1, aaa_aas},  {ZYDIS_MNEMONIC_AAM, 0, aam},     {ZYDIS_MNEMONIC_AAD, 0, aad},
    {ZYDIS_MNEMONIC_SALC, 0, salc},    {ZYDIS_MNEMONIC_XLAT, 0, xlat},   {ZYDIS_MNEMONIC_PUSHA, 2, pusha},
    {ZYDIS_MNEMONIC_PUSHAD, 4, pusha}, {ZYDIS_MNEMONIC_POPA, 2, popa},   {ZYDIS_MNEMONIC_POPAD, 4, popa},
};

op_fn legacy_choose(const struct isa_insn *insn, struct op *op)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].mnemonic == insn->mnemonic) {
            op->size = rows[i].size;
            op->imm = insn->imm;
            return rows[i].fn;
        }
    return NULL;
}
