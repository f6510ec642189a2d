#include "engine/bt/emit.h"

static unsigned rex_of(bool w, unsigned reg, struct haddr a)
{
    return (w ? 8u : 0) | (reg & 8 ? 4 : 0) | (a.index != NO_HOST && (a.index & 8) ? 2 : 0) |
           (a.base != NO_HOST && (a.base & 8) ? 1 : 0);
}

void emit_modrm_mem(struct emit *e, unsigned reg, struct haddr a, bool wide_disp)
{
    reg = (reg & 7) << 3;
    if (a.base == NO_HOST) { /* SIB without base: disp32 */
        put8e(e, reg | 4);
        put8e(e, (unsigned)a.shift << 6 | (a.index == NO_HOST ? 4u : a.index & 7u) << 3 | 5);
        put32e(e, (u32)a.disp);
        return;
    }
    bool small = a.disp >= -128 && a.disp <= 127 && !wide_disp;
    unsigned mod = a.disp == 0 && (a.base & 7) != H_RBP ? 0 : small ? 0x40 : 0x80;
    if (a.index != NO_HOST || (a.base & 7) == H_RSP) {
        put8e(e, mod | reg | 4);
        put8e(e, (unsigned)a.shift << 6 | (a.index == NO_HOST ? 4u : a.index & 7u) << 3 | (a.base & 7u));
    } else {
        put8e(e, mod | reg | (a.base & 7u));
    }
    if (mod == 0x40)
        put8e(e, (u8)a.disp);
    else if (mod == 0x80)
        put32e(e, (u32)a.disp);
}

void emit_mem(struct emit *e, bool w, unsigned opcode, unsigned reg, struct haddr a)
{
    unsigned rex = rex_of(w, reg, a);
    if (rex)
        put8e(e, 0x40 | rex);
    put8e(e, opcode);
    emit_modrm_mem(e, reg, a, false);
}

void emit_reg(struct emit *e, bool w, unsigned opcode, unsigned reg, unsigned rm)
{
    unsigned rex = (w ? 8u : 0) | (reg & 8 ? 4 : 0) | (rm & 8 ? 1 : 0);
    if (rex)
        put8e(e, 0x40 | rex);
    put8e(e, opcode);
    put8e(e, 0xc0 | (reg & 7) << 3 | (rm & 7));
}

void emit_mov_imm(struct emit *e, unsigned reg, u64 imm)
{
    if (imm == (u32)imm) {
        if (reg & 8)
            put8e(e, 0x41);
        put8e(e, 0xb8 | (reg & 7));
        put32e(e, (u32)imm);
    } else if (imm == (u64)(s64)(s32)imm) {
        put8e(e, 0x48 | (reg & 8 ? 1u : 0));
        put8e(e, 0xc7);
        put8e(e, 0xc0 | (reg & 7));
        put32e(e, (u32)imm);
    } else {
        emit_mov_imm64(e, reg, imm);
    }
}

void emit_mov_imm64(struct emit *e, unsigned reg, u64 imm)
{
    put8e(e, 0x48 | (reg & 8 ? 1u : 0));
    put8e(e, 0xb8 | (reg & 7));
    put64e(e, imm);
}

void emit_store_imm(struct emit *e, bool w, struct haddr a, s32 imm)
{
    emit_mem(e, w, 0xc7, 0, a);
    put32e(e, (u32)imm);
}

/* Three-byte VEX with L = 0; maps: 2 is 0F38, 3 is 0F3A; pp: 2 is F3, 3 is F2. */
static void vex(struct emit *e, unsigned map, unsigned pp, bool w, unsigned reg, unsigned vvvv, struct haddr a)
{
    unsigned rex = rex_of(false, reg, a);
    put8e(e, 0xc4);
    put8e(e, ((rex & 4 ? 0 : 0x80u) | (rex & 2 ? 0 : 0x40u) | (rex & 1 ? 0 : 0x20u)) | map);
    put8e(e, (w ? 0x80u : 0) | (~vvvv & 15) << 3 | pp);
}

void emit_rorx(struct emit *e, unsigned to, unsigned from, unsigned count)
{
    vex(e, 3, 3, true, to, 0, AT(from, 0));
    put8e(e, 0xf0);
    put8e(e, 0xc0 | (to & 7) << 3 | (from & 7));
    put8e(e, count);
}

void emit_shrx(struct emit *e, unsigned to, unsigned from, unsigned count_reg)
{
    vex(e, 2, 3, true, to, count_reg, AT(from, 0));
    put8e(e, 0xf7);
    put8e(e, 0xc0 | (to & 7) << 3 | (from & 7));
}

void emit_pext32(struct emit *e, unsigned to, unsigned from, struct haddr mask)
{
    vex(e, 2, 2, false, to, from, mask);
    put8e(e, 0xf5);
    emit_modrm_mem(e, to, mask, false);
}

void emit_keep_bits(struct emit *e, unsigned reg, struct haddr mask)
{
    for (unsigned pp = 2; pp <= 3; pp++) { /* PEXT packs them, PDEP puts them back */
        vex(e, 2, pp, true, reg, reg, mask);
        put8e(e, 0xf5);
        emit_modrm_mem(e, reg, mask, false);
    }
}

void emit_movzx16(struct emit *e, unsigned to, unsigned from)
{
    unsigned rex = (to & 8 ? 4u : 0) | (from & 8 ? 1u : 0);
    if (rex)
        put8e(e, 0x40 | rex);
    put8e(e, 0x0f);
    put8e(e, 0xb7);
    put8e(e, 0xc0 | (to & 7) << 3 | (from & 7));
}

void emit_movzx16_mem(struct emit *e, unsigned to, struct haddr a)
{
    unsigned rex = rex_of(false, to, a);
    if (rex)
        put8e(e, 0x40 | rex);
    put8e(e, 0x0f);
    put8e(e, 0xb7);
    emit_modrm_mem(e, to, a, false);
}

void emit_movzx8_mem(struct emit *e, unsigned to, struct haddr a)
{
    unsigned rex = rex_of(false, to, a);
    if (rex)
        put8e(e, 0x40 | rex);
    put8e(e, 0x0f);
    put8e(e, 0xb6);
    emit_modrm_mem(e, to, a, false);
}

void emit_push_imm(struct emit *e, u32 imm)
{
    put8e(e, 0x68);
    put32e(e, imm);
}

static void relative(struct emit *e, const u8 *target)
{
    put32e(e, (u32)(target - (emit_rx(e) + 4)));
}

void emit_jmp(struct emit *e, const u8 *target)
{
    put8e(e, 0xe9);
    relative(e, target);
}

void emit_call(struct emit *e, const u8 *target)
{
    put8e(e, 0xe8);
    relative(e, target);
}

void emit_jmp_mem(struct emit *e, struct haddr a)
{
    emit_mem(e, false, 0xff, 4, a);
}

u8 *emit_jcc32(struct emit *e, unsigned cc)
{
    put8e(e, 0x0f);
    put8e(e, 0x80 | cc);
    put32e(e, 0);
    return e->p;
}

u8 *emit_jmp32(struct emit *e)
{
    put8e(e, 0xe9);
    put32e(e, 0);
    return e->p;
}

u8 *emit_jrcxz(struct emit *e)
{
    put8e(e, 0xe3);
    put8e(e, 0);
    return e->p;
}

void emit_here8(struct emit *e, u8 *mark)
{
    if (e->full)
        return;
    if (e->p - mark > 127)
        e->full = true; /* can not happen with what is written between; if it did, the block would be refused */
    else
        mark[-1] = (u8)(e->p - mark);
}

void emit_here32(struct emit *e, u8 *mark)
{
    s32 distance = (s32)(e->p - mark);
    if (!e->full)
        memcpy(mark - 4, &distance, 4);
}

void emit_lahf_seto(struct emit *e)
{
    static const u8 code[] = {0x9f, 0x0f, 0x90, 0xc0};
    put_bytes(e, code, sizeof(code));
}

void emit_sahf(struct emit *e)
{
    static const u8 code[] = {0x04, 0x7f, 0x9e}; /* add al, 0x7f sets OF if AL was 1 */
    put_bytes(e, code, sizeof(code));
}
