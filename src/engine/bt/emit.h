/*
 * Writing x86-64 machine code: the few forms that translated code is made of.
 *
 * An emitter writes through the writable mapping of code memory; addresses are those of the executable one. Running over
 * the end sets `full` and writes nothing more: the caller looks once, when all is written.
 */
#ifndef TRAPEZE_BT_EMIT_H
#define TRAPEZE_BT_EMIT_H

#include "base/types.h"

#include <string.h>

struct emit {
    u8 *start, *p, *end; /* writable */
    const u8 *rx;        /* where `start` executes */
    bool full;
};

/* Host registers by number; NO_HOST: none. */
enum host_reg {
    H_RAX,
    H_RCX,
    H_RDX,
    H_RBX,
    H_RSP,
    H_RBP,
    H_RSI,
    H_RDI,
    H_R8,
    H_R9,
    H_R10,
    H_R11,
    H_R12,
    H_R13,
    H_R14,
    H_R15
};
#define NO_HOST 0xff

/* A host memory operand: [base + index << shift + disp]; base NO_HOST: absolute (sign-extended disp). */
struct haddr {
    u8 base, index, shift;
    s32 disp;
};
#define AT(base_, disp_) ((struct haddr){(base_), NO_HOST, 0, (s32)(disp_)})

static inline void put8e(struct emit *e, unsigned v)
{
    if (e->p < e->end)
        *e->p++ = (u8)v;
    else
        e->full = true;
}
static inline void put_bytes(struct emit *e, const void *b, size_t n)
{
    if ((size_t)(e->end - e->p) < n) {
        e->full = true;
        return;
    }
    memcpy(e->p, b, n);
    e->p += n;
}
static inline void put32e(struct emit *e, u32 v)
{
    put_bytes(e, &v, 4);
}
static inline void put64e(struct emit *e, u64 v)
{
    put_bytes(e, &v, 8);
}
static inline u32 emit_offset(const struct emit *e)
{
    return (u32)(e->p - e->start);
}

/* What encodes an operand in ModRM, SIB and displacement. `wide_disp`: no 8-bit displacement (EVEX scales those). */
void emit_modrm_mem(struct emit *e, unsigned reg, struct haddr a, bool wide_disp);
/* REX.W op reg, [a] (or op [a], reg) of the one-byte map; `w`: 64-bit. */
void emit_mem(struct emit *e, bool w, unsigned opcode, unsigned reg, struct haddr a);
void emit_reg(struct emit *e, bool w, unsigned opcode, unsigned reg, unsigned rm);

static inline void emit_load(struct emit *e, unsigned reg, struct haddr a) /* mov reg, [a] */
{
    emit_mem(e, true, 0x8b, reg, a);
}
static inline void emit_load32(struct emit *e, unsigned reg, struct haddr a)
{
    emit_mem(e, false, 0x8b, reg, a);
}
static inline void emit_store(struct emit *e, struct haddr a, unsigned reg) /* mov [a], reg */
{
    emit_mem(e, true, 0x89, reg, a);
}
static inline void emit_lea(struct emit *e, unsigned reg, struct haddr a)
{
    emit_mem(e, true, 0x8d, reg, a);
}
/* The same of four bytes: registers get a zero upper half. */
static inline void emit_lea32(struct emit *e, unsigned reg, struct haddr a)
{
    emit_mem(e, false, 0x8d, reg, a);
}
static inline void emit_store32(struct emit *e, struct haddr a, unsigned reg)
{
    emit_mem(e, false, 0x89, reg, a);
}
static inline void emit_mov(struct emit *e, unsigned to, unsigned from)
{
    if (to != from)
        emit_reg(e, true, 0x89, from, to);
}
/* mov reg, imm by its shortest form; with an 8-byte immediate */
void emit_mov_imm(struct emit *e, unsigned reg, u64 imm);
void emit_mov_imm64(struct emit *e, unsigned reg, u64 imm);
/* mov dword/qword [a], imm32 (sign-extended) */
void emit_store_imm(struct emit *e, bool w, struct haddr a, s32 imm);
void emit_rorx(struct emit *e, unsigned to, unsigned from, unsigned count);
void emit_shrx(struct emit *e, unsigned to, unsigned from, unsigned count_reg);
void emit_pext32(struct emit *e, unsigned to, unsigned from, struct haddr mask);
/* Keep the bits of `mask` in a register; no flags are touched. */
void emit_keep_bits(struct emit *e, unsigned reg, struct haddr mask);
void emit_movzx16(struct emit *e, unsigned to, unsigned from);
void emit_movzx16_mem(struct emit *e, unsigned to, struct haddr a);
void emit_movzx8_mem(struct emit *e, unsigned to, struct haddr a);
/* push imm32 (sign-extended) */
void emit_push_imm(struct emit *e, u32 imm);
/* jmp, jcc, call to an executable address within 2 GiB */
void emit_jmp(struct emit *e, const u8 *target);
void emit_call(struct emit *e, const u8 *target);
void emit_jmp_mem(struct emit *e, struct haddr a);

/*
 * Jumps forward inside what is being written: emit_jcc32/emit_jmp32/emit_jrcxz return a mark, emit_here lets it land at
 * the present place. A mark of jrcxz must land within 127 bytes.
 */
u8 *emit_jcc32(struct emit *e, unsigned cc);
u8 *emit_jmp32(struct emit *e);
u8 *emit_jrcxz(struct emit *e);
void emit_here8(struct emit *e, u8 *mark);
void emit_here32(struct emit *e, u8 *mark);
/* The executable address of the present place. */
static inline const u8 *emit_rx(const struct emit *e)
{
    return e->rx + (e->p - e->start);
}

/* Flags to AX form and back: clobber RAX, which the caller keeps. */
void emit_lahf_seto(struct emit *e);
void emit_sahf(struct emit *e);

#endif
