/*
 * From a decoded instruction to the plan of its stub.
 *
 * The bytes that the host executes are the guest's with four changes: prefixes that only concern addressing, locking or
 * hints are left out; the memory operand becomes [BASE] with a host register that the instruction does not use; guest
 * registers that a stub can not occupy (RSP, and the callee-saved RBP, R12-R15) are renamed to others; and what 64-bit
 * mode reads differently from 16- and 32-bit mode (default operand size, ignored bits of VEX and EVEX) is adjusted.
 *
 * No table says which encoding field names which operand. The decoder is asked instead: a field is changed, the result
 * decoded, and the change kept only if it did to the operands what the renaming should do. At the end the whole result is
 * decoded once more, in 64-bit mode, and compared with the original operand by operand. So whatever goes wrong here, or
 * differs between modes (40h-4Fh are INC and DEC or REX, 63h is ARPL or MOVSXD, ...), is found before it executes: a stub
 * holds only what the decoder has confirmed to be the same innocuous instruction on the right registers.
 *
 * What must stay true
 *  1. Host registers of a stub: RDI holds struct cpu at entry, RSI the operand; the pool below may hold guest registers and
 *     BASE; R8-R11 keep their own guest registers or hold CTX. All are below 8 in the pool, so that a renamed
 *     field fits every encoding, with or without REX.
 *  2. A flag outside FL_ARITH is never read or written by a stub: the host's DF, AC and TF are not the guest's.
 *
 * Not done: instructions with two memory operands (MOVDIR64B, ENQCMD), absolute addresses (MOV moffs), implicit memory
 * operands but MASKMOVQ's and MASKMOVDQU's, instructions that exist only outside 64-bit mode. FCS and FDS of the x87 state
 * are not carried (struct cpu holds the 64-bit FXSAVE image; processors of the last ten years store zero).
 */
#include "engine/interp/native_internal.h"

#include <string.h>

/* Host registers that may hold renamed guest registers and BASE, in order of preference. */
static const u8 pool[] = {RSI, RCX, RDX, RAX, RBX, RDI};
/* ... and that may hold CTX. */
static const u8 ctx_pool[] = {RDI, R8, R9, R10, R11};
#define NOT_IN_STUB (BIT(RSP) | BIT(RBP) | BIT(R12) | BIT(R13) | BIT(R14) | BIT(R15))

/* An instruction being re-encoded. */
struct draft {
    u8 bytes[ISA_MAX_LEN];
    u8 len;
    u8 off_rex, off_opcode, off_modrm; /* as in struct isa_insn */
    bool has_rex;
    enum isa_encoding encoding;
};

static bool no(const char **why, const char *reason)
{
    *why = reason;
    return false;
}

/* --- operands --- */

static bool is_gpr(const struct isa_operand *o)
{
    return o->kind == ISA_OP_REG && o->reg_class >= ISA_REG_GPR8 && o->reg_class <= ISA_REG_GPR64;
}

static unsigned vec_class_width(u8 reg_class)
{
    return reg_class == ISA_REG_XMM ? 16 : reg_class == ISA_REG_YMM ? 32 : reg_class == ISA_REG_ZMM ? 64 : 0;
}

/* The memory operand, or NULL. */
static const struct isa_operand *mem_operand(const struct isa_insn *insn)
{
    for (unsigned i = 0; i < insn->n_ops; i++)
        if (insn->op[i].kind == ISA_OP_MEM)
            return &insn->op[i];
    return NULL;
}

static bool is_maskmov(u16 mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
           mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU;
}

static bool is_bit_string(const struct isa_insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return insn->op[0].kind == ISA_OP_MEM && insn->op[1].kind == ISA_OP_REG;
    default:
        return false;
    }
}

static bool is_flush(u16 mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_CLFLUSH || mnemonic == ZYDIS_MNEMONIC_CLFLUSHOPT ||
           mnemonic == ZYDIS_MNEMONIC_CLWB;
}

static bool is_maskmov_vex(u16 mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS || mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
           mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD || mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

/* --- what can be run at all --- */

static bool registers_allowed(const struct isa_insn *insn, const char **why)
{
    for (unsigned i = 0; i < insn->n_ops; i++) {
        const struct isa_operand *o = &insn->op[i];
        if (o->kind != ISA_OP_REG)
            continue;
        if (o->reg_class == ISA_REG_SEG || o->reg_class == ISA_REG_CR || o->reg_class == ISA_REG_DR)
            return no(why, "names a system register");
        if (o->reg_class == ISA_REG_OTHER && !o->hidden)
            return no(why, "names a register that is not carried");
    }
    return true;
}

static bool memory_allowed(const struct isa_insn *insn, const char **why)
{
    unsigned operands = 0;
    for (unsigned i = 0; i < insn->n_ops; i++) {
        const struct isa_operand *o = &insn->op[i];
        if (o->kind == ISA_OP_FAR)
            return no(why, "has a far pointer");
        if (o->kind != ISA_OP_MEM)
            continue;
        if (++operands > 1)
            return no(why, "has two memory operands");
        if (o->size > PAGE_SIZE / 2)
            return no(why, "has a memory operand of no fixed size");
        if (is_maskmov(insn->mnemonic))
            continue;
        if (o->hidden)
            return no(why, "has an implicit memory operand");
        if (!insn->off_modrm)
            return no(why, "has an absolute address");
    }
    return true;
}

static bool allowed(const struct isa_insn *insn, const char **why)
{
    if (insn->cls != ISA_INNOCUOUS)
        return no(why, "is not innocuous");
    if (insn->encoding == ISA_ENC_OTHER)
        return no(why, "has an encoding that is not carried");
    if ((insn->flags_read | insn->flags_written) & ~(FL_ARITH | FL_ONE))
        return no(why, "touches flags that are not arithmetic");
    if (insn->mnemonic == ZYDIS_MNEMONIC_LEA)
        return no(why, "takes an address, not its contents");
    if (is_bit_string(insn))
        return no(why, "addresses a bit string");
    return registers_allowed(insn, why) && memory_allowed(insn, why);
}

/* --- which registers --- */

/* Guest registers that are more than part of an address. */
static u16 value_registers(const struct isa_insn *insn)
{
    u16 set = insn->gpr_written;
    for (unsigned i = 0; i < insn->n_ops; i++)
        if (is_gpr(&insn->op[i]))
            set |= (u16)BIT(insn->op[i].reg);
    if (insn->n_ops == ISA_MAX_OPS) /* there may be operands that did not fit */
        set |= insn->gpr_read;
    return set;
}

static u8 take(const u8 *from, size_t n, u16 *taken)
{
    for (size_t i = 0; i < n; i++)
        if (!(*taken & BIT(from[i]))) {
            *taken |= (u16)BIT(from[i]);
            return from[i];
        }
    return NO_HOST_REG;
}

/* Choose rename, base and ctx. */
static bool assign_registers(const struct isa_insn *insn, struct native_plan *p, bool memory, const char **why)
{
    u16 values = value_registers(insn), taken = values & (u16)~NOT_IN_STUB;
    bool ok = true;

    p->base = NO_HOST_REG;
    if (is_maskmov(insn->mnemonic)) {
        p->base = RDI;
        taken |= BIT(RDI);
    }
    for (unsigned r = 0; r < CPU_GPRS; r++) {
        u64 host = r;
        if (values & NOT_IN_STUB & BIT(r)) {
            host = take(pool, ARRAY_LEN(pool), &taken);
            ok &= host != NO_HOST_REG;
        }
        p->rename |= (host & 15) << (4 * r);
    }
    if (memory && p->base == NO_HOST_REG) {
        p->base = take(pool, ARRAY_LEN(pool), &taken);
        ok &= p->base != NO_HOST_REG;
    }
    p->ctx = take(ctx_pool, ARRAY_LEN(ctx_pool), &taken);
    p->gpr_load = values;
    p->gpr_store = insn->gpr_written;
    return ok && p->ctx != NO_HOST_REG ? true : no(why, "uses too many registers");
}

/* --- re-encoding --- */

static void draft_put(struct draft *d, const u8 *bytes, unsigned len)
{
    len = MIN(len, (unsigned)(sizeof(d->bytes) - d->len));
    memcpy(d->bytes + d->len, bytes, len);
    d->len += (u8)len;
}

/*
 * 66, F2 and F3 may select the instruction and are kept. On locked instructions and in the one-byte map (but for PAUSE)
 * F2 and F3 are at most hints of lock elision, which must not start a transaction here. A second 66 says nothing new, and
 * would be in adjust_size's way.
 */
static void draft_prefixes(struct draft *d, const struct isa_insn *insn, unsigned end)
{
    bool repeats = insn->map != 0 || insn->opcode == 0x90;
    if (insn->prefixes & ISA_PFX_LOCK)
        repeats = false;
    bool seen = false;
    for (unsigned i = 0; i < end; i++) {
        u8 b = insn->bytes[i];
        if ((b == 0x66 && !seen) || (repeats && (b == 0xf2 || b == 0xf3)))
            draft_put(d, &b, 1);
        seen |= b == 0x66;
    }
}

/* Bits of VEX and EVEX that extend registers; 16- and 32-bit modes ignore them or have them all set. */
static void draft_extend_bits(struct draft *d, bool memory, bool legacy_mode)
{
    u8 *b = d->bytes + d->off_rex;
    if (d->encoding == ISA_ENC_LEGACY) {
        if (memory && d->has_rex)
            *b &= (u8)~3; /* X, B */
        return;
    }
    u8 *payload = b + (b[0] == 0xc5 ? 1 : 2); /* the byte with vvvv */
    if (memory && b[0] != 0xc5)
        b[1] |= 0x60;
    if (legacy_mode) {
        *payload |= 0x40;
        if (b[0] == 0xc4)
            b[1] |= 0xe0;
        if (b[0] == 0x62) {
            b[1] |= 0xf0;
            b[3] |= 8;
        }
    }
}

/* The instruction without address: its bytes up to ModRM, [base] instead of the memory operand, and what follows. */
static void draft_make(struct draft *d, const struct isa_insn *insn, const struct native_plan *p)
{
    static const u8 escapes[] = {0, 1, 2, 2};
    unsigned escape = insn->encoding == ISA_ENC_LEGACY && insn->map < ARRAY_LEN(escapes) ? escapes[insn->map] : 0;
    unsigned start = insn->has_rex ? insn->off_rex : insn->off_opcode - escape;
    bool modrm_memory = p->base != NO_HOST_REG && insn->off_modrm && insn->modrm < 0xc0;

    *d = (struct draft){.encoding = insn->encoding, .has_rex = insn->has_rex};
    draft_prefixes(d, insn, start);
    d->off_rex = d->len;
    d->off_opcode = (u8)(d->len + insn->off_opcode - start);
    unsigned end = insn->off_modrm ? insn->off_modrm + 1u : insn->off_opcode + 1u;
    draft_put(d, insn->bytes + start, end - start);
    if (insn->off_modrm) {
        d->off_modrm = d->len - 1;
        if (modrm_memory)
            d->bytes[d->off_modrm] = (u8)((insn->modrm & 0x38) | p->base);
    }
    end = insn->off_sib ? MAX(end, insn->off_sib + 1u) : end;
    end = insn->off_disp ? MAX(end, (unsigned)insn->off_disp + insn->disp_len) : end;
    draft_put(d, insn->bytes + end, insn->len - end);
    draft_extend_bits(d, modrm_memory, insn->mode != ISA_MODE_64);
}

/* --- renaming, by asking the decoder --- */

enum field { FIELD_REG, FIELD_RM, FIELD_VVVV, FIELD_OPCODE, FIELDS };

/* Where the bit that extends a field to four bits stands; stored inverted in VEX and EVEX. */
static u8 *extend_bit(struct draft *d, enum field f, u8 *bit)
{
    u8 *b = d->bytes + d->off_rex;
    if (d->encoding == ISA_ENC_LEGACY) {
        *bit = f == FIELD_REG ? 4 : 1;
        return d->has_rex ? b : NULL;
    }
    *bit = f == FIELD_REG ? 0x80 : 0x20;
    return b[0] == 0xc5 && f != FIELD_REG ? NULL : b + 1;
}

static u8 *field_byte(struct draft *d, enum field f, u8 *shift)
{
    *shift = f == FIELD_REG || f == FIELD_VVVV ? 3 : 0;
    switch (f) {
    case FIELD_REG:
        return d->off_modrm ? d->bytes + d->off_modrm : NULL;
    case FIELD_RM:
        return d->off_modrm && d->bytes[d->off_modrm] >= 0xc0 ? d->bytes + d->off_modrm : NULL;
    case FIELD_OPCODE:
        return d->encoding == ISA_ENC_LEGACY ? d->bytes + d->off_opcode : NULL;
    default:
        return d->encoding == ISA_ENC_LEGACY ? NULL : d->bytes + d->off_rex + (d->bytes[d->off_rex] == 0xc5 ? 1 : 2);
    }
}

/* Value of a field, or -1 if this encoding has none. */
static int field_get(struct draft *d, enum field f)
{
    u8 shift, bit, *p = field_byte(d, f, &shift);
    if (!p)
        return -1;
    if (f == FIELD_VVVV)
        return ~(*p >> 3) & 15;
    const u8 *x = extend_bit(d, f, &bit);
    bool high = x && (d->encoding == ISA_ENC_LEGACY ? *x & bit : !(*x & bit));
    return (*p >> shift & 7) | (high ? 8 : 0);
}

/* Set a field to a register below 8. */
static void field_set(struct draft *d, enum field f, u8 value)
{
    u8 shift, bit, *p = field_byte(d, f, &shift);
    if (f == FIELD_VVVV) {
        *p = (u8)((*p & ~0x78) | (~value & 15) << 3);
        return;
    }
    *p = (u8)((*p & ~(7 << shift)) | value << shift);
    u8 *x = extend_bit(d, f, &bit);
    if (x)
        *x = (u8)(d->encoding == ISA_ENC_LEGACY ? *x & ~bit : *x | bit);
}

/*
 * Did changing a field rename general registers and nothing else? Every operand is as it was, or a general register that
 * now is what the plan wants; at least one is such.
 */
static bool renamed_only(const struct isa_insn *before, const struct isa_insn *after, u8 from, u8 to)
{
    bool any = false;
    if (before->mnemonic != after->mnemonic || before->n_ops != after->n_ops)
        return false;
    for (unsigned i = 0; i < before->n_ops; i++) {
        const struct isa_operand *a = &before->op[i], *b = &after->op[i];
        if (a->kind != b->kind || a->reg_class != b->reg_class)
            return false;
        if (a->reg == b->reg)
            continue;
        if (!is_gpr(a) || a->reg_class == ISA_REG_GPR8H || a->reg != from || b->reg != to)
            return false;
        any = true;
    }
    return any;
}

static void rename_fields(struct draft *d, const struct native_plan *p)
{
    for (enum field f = 0; f < FIELDS; f++) {
        struct isa_insn before, after;
        struct draft changed = *d;
        int from = field_get(d, f);
        if (from < 0 || !(BIT(from) & NOT_IN_STUB) || !(p->gpr_load & BIT(from)))
            continue;
        u8 to = native_host_reg(p, (unsigned)from);
        field_set(&changed, f, to);
        if (isa_decode(ISA_MODE_64, d->bytes, d->len, &before) == ISA_DECODE_OK &&
            isa_decode(ISA_MODE_64, changed.bytes, changed.len, &after) == ISA_DECODE_OK &&
            renamed_only(&before, &after, (u8)from, to))
            *d = changed;
    }
}

/* --- the final comparison --- */

static u16 rename_set(const struct native_plan *p, u16 set)
{
    u16 out = 0;
    for (unsigned r = 0; r < CPU_GPRS; r++)
        if (set >> r & 1)
            out |= (u16)BIT(native_host_reg(p, r));
    return out;
}

static bool same_operand(const struct native_plan *p, const struct isa_operand *a, const struct isa_operand *b)
{
    if (a->kind != b->kind || a->reg_class != b->reg_class || a->read != b->read || a->written != b->written)
        return false;
    if (a->kind == ISA_OP_REG && a->reg_class == ISA_REG_OTHER)
        return true; /* flags and the like: their width follows the mode */
    if (a->kind == ISA_OP_IMM)
        return true;
    return a->size == b->size && b->reg == (is_gpr(a) ? native_host_reg(p, a->reg) : a->reg);
}

static bool same_address(const struct native_plan *p, const struct isa_insn *b)
{
    return p->base == NO_HOST_REG || (b->mem.base == p->base && b->mem.index == ISA_NO_REG && b->mem.disp == 0);
}

static bool confirmed(const struct draft *d, const struct isa_insn *a, const struct native_plan *p)
{
    struct isa_insn b;
    if (isa_decode(ISA_MODE_64, d->bytes, d->len, &b) != ISA_DECODE_OK || b.len != d->len)
        return false;
    if (a->mnemonic != b.mnemonic || b.cls != ISA_INNOCUOUS || a->n_ops != b.n_ops || a->n_visible != b.n_visible)
        return false;
    for (unsigned i = 0; i < a->n_ops; i++)
        if (!same_operand(p, &a->op[i], &b.op[i]))
            return false;
    return a->imm == b.imm && b.gpr_written == rename_set(p, a->gpr_written) && a->vec_used == b.vec_used &&
           a->vec_written == b.vec_written && a->mask_used == b.mask_used && a->mask_written == b.mask_written &&
           a->uses_x87 == b.uses_x87 && same_address(p, &b);
}

/* Outside 64-bit mode: the other operand size prefix, or VEX.W (ignored there) cleared. */
static bool adjust_size(struct draft *d)
{
    u8 *b = d->bytes + d->off_rex;
    if (d->encoding != ISA_ENC_LEGACY) {
        if (b[0] == 0xc5 || !(b[2] & 0x80))
            return false;
        b[2] &= 0x7f;
        return true;
    }
    u8 *old = memchr(d->bytes, 0x66, d->off_rex);
    int shift = old ? -1 : 1;
    u8 *at = old ? old : d->bytes;
    if (!old && d->len == ISA_MAX_LEN)
        return false;
    if (old)
        memmove(at, at + 1, (size_t)(d->bytes + d->len - at - 1));
    else
        memmove(at + 1, at, d->len);
    if (!old)
        *at = 0x66;
    d->len = (u8)(d->len + shift);
    d->off_rex = (u8)(d->off_rex + shift);
    d->off_opcode = (u8)(d->off_opcode + shift);
    d->off_modrm = d->off_modrm ? (u8)(d->off_modrm + shift) : 0;
    return true;
}

/* The fourth operand of VBLENDVPS and its kin: a register in imm8[7:4], bit 7 of which counts in 64-bit mode only. */
static bool names_register_in_imm(const struct isa_insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_VBLENDVPS || insn->mnemonic == ZYDIS_MNEMONIC_VBLENDVPD ||
           insn->mnemonic == ZYDIS_MNEMONIC_VPBLENDVB;
}

static bool encode(const struct isa_insn *given, struct native_plan *p, const char **why)
{
    struct isa_insn narrowed = *given;
    const struct isa_insn *insn = &narrowed;
    struct draft d;
    draft_make(&d, insn, p);
    if (insn->mode != ISA_MODE_64 && names_register_in_imm(insn)) {
        d.bytes[d.len - 1] &= 0x7f;
        narrowed.imm &= 0x7f;
    }
    if (p->gpr_load & NOT_IN_STUB)
        rename_fields(&d, p);
    bool good = confirmed(&d, insn, p);
    if (!good && insn->mode != ISA_MODE_64 && adjust_size(&d))
        good = confirmed(&d, insn, p);
    if (!good)
        return no(why, insn->mode == ISA_MODE_64 ? "can not be re-encoded" : "does not exist in 64-bit mode");
    memcpy(p->bytes, d.bytes, d.len);
    p->len = d.len;
    return true;
}

/* --- everything else about it --- */

static bool is_x87(const struct isa_insn *insn)
{
    return insn->encoding == ISA_ENC_LEGACY && insn->map == 0 && insn->opcode >= 0xd8 && insn->opcode <= 0xdf;
}

/* From memory to MMX: SSE's, although no vector register is named. */
static bool converts_to_mmx(u16 mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_CVTPS2PI || mnemonic == ZYDIS_MNEMONIC_CVTTPS2PI ||
           mnemonic == ZYDIS_MNEMONIC_CVTPD2PI || mnemonic == ZYDIS_MNEMONIC_CVTTPD2PI;
}

static u8 unit(const struct isa_insn *insn)
{
    bool vectors = insn->vec_used || insn->uses_mxcsr || converts_to_mmx(insn->mnemonic);
    if (insn->mnemonic == ZYDIS_MNEMONIC_FWAIT)
        return UNIT_FWAIT;
    if (is_x87(insn))
        return UNIT_X87;
    if (insn->encoding == ISA_ENC_EVEX)
        return UNIT_AVX512;
    if (insn->encoding == ISA_ENC_VEX)
        return insn->mask_used ? UNIT_AVX512 : vectors ? UNIT_AVX : UNIT_INTEGER_VEX;
    if (vectors)
        return UNIT_SSE;
    return insn->uses_x87 ? UNIT_MMX : UNIT_INTEGER;
}

static u8 env(u16 mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
        return ENV_STORE;
    case ZYDIS_MNEMONIC_FNSAVE:
        return ENV_SAVE;
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
        return ENV_LOAD;
    case ZYDIS_MNEMONIC_FNINIT:
        return ENV_CLEAR;
    default:
        return ENV_NONE;
    }
}

/* The x87 instructions that do not look for pending exceptions. */
static bool waits(const struct isa_insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FNINIT:
    case ZYDIS_MNEMONIC_FNSTCW:
    case ZYDIS_MNEMONIC_FNSTSW:
    case ZYDIS_MNEMONIC_FNCLEX:
    case ZYDIS_MNEMONIC_FENI8087_NOP:
    case ZYDIS_MNEMONIC_FDISI8087_NOP:
    case ZYDIS_MNEMONIC_FSETPM287_NOP:
    case ZYDIS_MNEMONIC_FNOP:
        return insn->mnemonic == ZYDIS_MNEMONIC_FNOP;
    default:
        return true;
    }
}

static u8 vector_width(const struct native_host *h, const struct isa_insn *insn)
{
    unsigned width = 16;
    for (unsigned i = 0; i < insn->n_ops; i++)
        if (insn->op[i].kind == ISA_OP_REG)
            width = MAX(width, vec_class_width(insn->op[i].reg_class));
    return (u8)MIN(width, h->vec_width);
}

/* Does an EVEX instruction name a mask other than k0? */
static bool evex_masked(const struct isa_insn *insn)
{
    return insn->encoding == ISA_ENC_EVEX && (insn->bytes[insn->off_rex + 3] & 7);
}

static u8 kind(const struct isa_insn *insn, const struct isa_operand *mem, u16 flags)
{
    bool scatter;
    if (insn->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER || insn->mnemonic == ZYDIS_MNEMONIC_VZEROALL)
        return NATIVE_VZERO;
    if (!mem)
        return insn->uses_x87 || flags & PLAN_X87 ? NATIVE_X87 : NATIVE_REGISTER;
    if (native_is_gather(insn->mnemonic, &scatter))
        return scatter ? NATIVE_SCATTER : NATIVE_GATHER;
    if (is_flush(insn->mnemonic))
        return NATIVE_TOUCH;
    if (!mem->size)
        return NATIVE_NOTHING;
    return flags & PLAN_MASKED && flags & PLAN_WRITE ? NATIVE_MASKED_STORE : NATIVE_MEMORY;
}

static u16 state_flags(const struct isa_insn *insn)
{
    u16 f = 0;
    if ((insn->flags_read | insn->flags_written) & FL_ARITH)
        f |= PLAN_FLAGS;
    if (insn->uses_mxcsr)
        f |= PLAN_MXCSR;
    if (insn->uses_x87 || is_x87(insn) || insn->mnemonic == ZYDIS_MNEMONIC_FWAIT)
        f |= PLAN_X87 | (waits(insn) ? PLAN_WAITS : 0);
    return f;
}

static u16 memory_flags(const struct isa_insn *insn, const struct isa_operand *mem, u16 state)
{
    u16 f = 0;
    if (!mem)
        return 0;
    f |= mem->read ? PLAN_READ : 0;
    f |= mem->written ? PLAN_WRITE : 0;
    f |= insn->vec_used || insn->mnemonic == ZYDIS_MNEMONIC_CMPXCHG16B ? PLAN_ALIGNED : 0;
    if (evex_masked(insn) || is_maskmov(insn->mnemonic) || is_maskmov_vex(insn->mnemonic))
        f |= PLAN_MASKED;
    if (mem->written && !mem->read && !insn->gpr_written && !insn->vec_written && !insn->mask_written && !state)
        f |= PLAN_PURE;
    return f;
}

bool native_plan(const struct native_host *h, const struct isa_insn *insn, struct native_plan *p, const char **why)
{
    const struct isa_operand *mem = mem_operand(insn);
    if (!allowed(insn, why))
        return false;
    p->flags = state_flags(insn);
    p->flags |= memory_flags(insn, mem, p->flags);
    p->unit = unit(insn);
    p->env = env(insn->mnemonic);
    p->mem_size = mem ? mem->size : 0;
    p->kind = kind(insn, mem, p->flags);
    if (p->kind >= NATIVE_NOTHING)
        return true; /* no code */
    if (insn->mem.vsib)
        return no(why, "has an address of many parts");
    p->vec_load = insn->vec_used | insn->vec_written;
    p->vec_store = insn->vec_written;
    p->load_width = vector_width(h, insn);
    p->store_width = insn->encoding == ISA_ENC_LEGACY ? 16 : h->vec_width;
    p->k_load = insn->mask_used | insn->mask_written;
    p->k_store = insn->mask_written;
    return assign_registers(insn, p, mem != NULL, why) && encode(insn, p, why);
}
