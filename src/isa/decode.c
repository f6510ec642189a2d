/*
 * Decoding, over Zydis.
 *
 * Zydis tells encodings, operands and flags; this file turns that into struct isa_insn, which is flat, owns its bytes and
 * says what native execution must know: every register that is read or written, hidden ones included. Where the
 * library's tables leave something out, the fix-ups below add it, each with its reason. Over-reporting a read is
 * harmless (the register is loaded needlessly), under-reporting is a wrong result: in doubt a register counts as read.
 *
 * What counts as read besides the obvious
 *  1. a destination that may keep its old value: 8- and 16-bit registers, conditional writes, BSF/BSR, merging masks
 *  2. flags that stay as they are when a shift count is zero or a repeated string instruction has nothing to do
 *  3. address registers
 *
 * Instruction sets that no guest is offered but whose encodings are NOPs without them (CET's ENDBR and RDSSP, MPX,
 * CLDEMOTE) are switched off in the library: they decode as the NOPs that they are on such a processor. LZCNT and TZCNT
 * stay on: no hypervisor can hide them, and compilers emit TZCNT as a faster BSF without asking.
 *
 * Not done: AMD's reading of 66 on near branches in 64-bit mode (16-bit branch); here it is ignored, as Intel does.
 */
#include "isa/decode.h"
#include "isa/class.h"
#include "machine/cpu/cpu.h"

#include <Zydis/Zydis.h>
#include <stdio.h>
#include <string.h>

/* What the steps of one decoding share. */
struct decoding {
    const ZydisDecodedInstruction *zi;
    const ZydisDecodedOperand *zo;
    struct isa_insn *insn;
};

static const struct {
    ZydisMachineMode machine;
    ZydisStackWidth stack;
} modes[] = {
    [ISA_MODE_16] = {ZYDIS_MACHINE_MODE_LEGACY_16, ZYDIS_STACK_WIDTH_16},
    [ISA_MODE_32] = {ZYDIS_MACHINE_MODE_LEGACY_32, ZYDIS_STACK_WIDTH_32},
    [ISA_MODE_64] = {ZYDIS_MACHINE_MODE_LONG_64, ZYDIS_STACK_WIDTH_64},
};

/* Registers of the library, by range. */
static const struct {
    ZydisRegister first, last;
    u8 cls, number;
} reg_ranges[] = {
    {ZYDIS_REGISTER_RAX, ZYDIS_REGISTER_R15, ISA_REG_GPR64, 0},
    {ZYDIS_REGISTER_EAX, ZYDIS_REGISTER_R15D, ISA_REG_GPR32, 0},
    {ZYDIS_REGISTER_XMM0, ZYDIS_REGISTER_XMM31, ISA_REG_XMM, 0},
    {ZYDIS_REGISTER_YMM0, ZYDIS_REGISTER_YMM31, ISA_REG_YMM, 0},
    {ZYDIS_REGISTER_ZMM0, ZYDIS_REGISTER_ZMM31, ISA_REG_ZMM, 0},
    {ZYDIS_REGISTER_AX, ZYDIS_REGISTER_R15W, ISA_REG_GPR16, 0},
    {ZYDIS_REGISTER_AL, ZYDIS_REGISTER_BL, ISA_REG_GPR8, 0},
    {ZYDIS_REGISTER_AH, ZYDIS_REGISTER_BH, ISA_REG_GPR8H, 0},
    {ZYDIS_REGISTER_SPL, ZYDIS_REGISTER_R15B, ISA_REG_GPR8, 4},
    {ZYDIS_REGISTER_ES, ZYDIS_REGISTER_GS, ISA_REG_SEG, SEG_ES},
    {ZYDIS_REGISTER_CR0, ZYDIS_REGISTER_CR15, ISA_REG_CR, 0},
    {ZYDIS_REGISTER_DR0, ZYDIS_REGISTER_DR15, ISA_REG_DR, 0},
    {ZYDIS_REGISTER_ST0, ZYDIS_REGISTER_ST7, ISA_REG_X87, 0},
    {ZYDIS_REGISTER_MM0, ZYDIS_REGISTER_MM7, ISA_REG_MMX, 0},
    {ZYDIS_REGISTER_K0, ZYDIS_REGISTER_K7, ISA_REG_MASK, 0},
};

static u8 reg_lookup(ZydisRegister r, u8 *number)
{
    for (size_t i = 0; i < ARRAY_LEN(reg_ranges); i++) {
        if (r >= reg_ranges[i].first && r <= reg_ranges[i].last) {
            *number = (u8)(r - reg_ranges[i].first + reg_ranges[i].number);
            return reg_ranges[i].cls;
        }
    }
    *number = ISA_NO_REG;
    return r == ZYDIS_REGISTER_NONE ? ISA_REG_NONE : ISA_REG_OTHER;
}

/*
 * Zydis 4.0 takes R13D for the base when an address has a 67 prefix, a SIB byte without base and B set; there is none,
 * whatever B says (SDM vol. 2A, table 2-3, note 1).
 */
static void repair_no_base(const ZydisDecodedInstruction *zi, ZydisDecodedOperand *zo)
{
    if (!(zi->attributes & ZYDIS_ATTRIB_HAS_SIB) || zi->raw.modrm.mod != 0 || zi->raw.sib.base != 5)
        return;
    for (unsigned i = 0; i < zi->operand_count; i++) {
        if (zo[i].type != ZYDIS_OPERAND_TYPE_MEMORY || zo[i].visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN)
            continue;
        zo[i].mem.base = ZYDIS_REGISTER_NONE;
        zo[i].mem.disp.has_displacement = ZYAN_TRUE;
        zo[i].mem.disp.value = zi->raw.disp.value;
    }
}

static ZyanStatus decode_full(const ZydisDecoder *dec, const u8 *bytes, size_t avail, ZydisDecodedInstruction *zi,
                              ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT])
{
    ZyanStatus s = ZydisDecoderDecodeFull(dec, bytes, avail, zi, zo);
    if (ZYAN_SUCCESS(s))
        repair_no_base(zi, zo);
    return s;
}

/* ---- what is touched ---- */

static bool is_gpr(u8 cls)
{
    return cls >= ISA_REG_GPR8 && cls <= ISA_REG_GPR64;
}

static bool is_partial(u8 cls)
{
    return cls <= ISA_REG_GPR16;
}

/* A register operand's part in the masks. Conditional writes leave the old value, so they read it. */
static void touch_reg(struct isa_insn *insn, u8 cls, u8 n, ZydisOperandActions act)
{
    bool written = act & ZYDIS_OPERAND_ACTION_MASK_WRITE;
    bool read = (act & ZYDIS_OPERAND_ACTION_MASK_READ) || (act & ZYDIS_OPERAND_ACTION_CONDWRITE);

    if (is_gpr(cls)) {
        insn->gpr_read |= (read || is_partial(cls)) ? (u16)BIT(n) : 0;
        insn->gpr_written |= written ? (u16)BIT(n) : 0;
    } else if (cls >= ISA_REG_XMM && cls <= ISA_REG_ZMM) {
        insn->vec_used |= (u32)BIT(n);
        insn->vec_written |= written ? (u32)BIT(n) : 0;
    } else if (cls == ISA_REG_MASK) {
        insn->mask_used |= (u8)BIT(n);
        insn->mask_written |= written ? (u8)BIT(n) : 0;
    } else if (cls == ISA_REG_X87 || cls == ISA_REG_MMX) {
        insn->uses_x87 = 1;
    }
}

/* An address register: read; returns how struct isa_mem names it. */
static u8 touch_address(struct isa_insn *insn, ZydisRegister r, bool vsib)
{
    u8 n;
    if (r == ZYDIS_REGISTER_RIP || r == ZYDIS_REGISTER_EIP)
        return ISA_RIP_REG;
    u8 cls = reg_lookup(r, &n);
    if (vsib && cls >= ISA_REG_XMM && cls <= ISA_REG_ZMM)
        insn->vec_used |= (u32)BIT(n);
    else if (is_gpr(cls))
        insn->gpr_read |= (u16)BIT(n);
    else
        return ISA_NO_REG;
    return n;
}

/* ---- operands ---- */

static bool is_legacy_map0(const ZydisDecodedInstruction *zi)
{
    return zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && zi->opcode_map == ZYDIS_OPCODE_MAP_DEFAULT;
}

static void set_mem(struct isa_insn *insn, const ZydisDecodedOperand *o)
{
    u8 seg;
    bool vsib = o->mem.type == ZYDIS_MEMOP_TYPE_VSIB;
    struct isa_mem m = {
        .base = touch_address(insn, o->mem.base, false),
        .index = touch_address(insn, o->mem.index, vsib),
        .scale = o->mem.scale ? o->mem.scale : 1,
        .vsib = vsib,
        .disp = o->mem.disp.has_displacement ? o->mem.disp.value : 0,
    };
    reg_lookup(o->mem.segment, &seg);
    m.seg = seg < SEG_LDTR ? seg : SEG_DS;
    /* An absolute address is not sign-extended, whatever its width. */
    if (o->encoding == ZYDIS_OPERAND_ENCODING_DISP16_32_64 && insn->addr_size < 8)
        m.disp &= (s64)(BIT(insn->addr_size * 8) - 1);
    insn->mem = m;
}

/* What a memory operand accesses, in bytes; 0 where only the address counts. */
static u16 mem_size(const struct decoding *d, const ZydisDecodedOperand *o)
{
    ZydisISASet set = d->zi->meta.isa_set;
    if (o->mem.type == ZYDIS_MEMOP_TYPE_AGEN || d->zi->mnemonic == ZYDIS_MNEMONIC_NOP)
        return 0;
    if (set == ZYDIS_ISA_SET_PREFETCH_NOP || set == ZYDIS_ISA_SET_SSE_PREFETCH || set == ZYDIS_ISA_SET_PREFETCHWT1)
        return 0;
    return o->size / 8;
}

static void set_imm(struct isa_insn *insn, const ZydisDecodedOperand *o, bool second)
{
    if (second)
        insn->imm2 = (u16)o->imm.value.u;
    else
        insn->imm = o->imm.value.s;
}

static u8 operand_kind(const ZydisDecodedOperand *o)
{
    switch (o->type) {
    case ZYDIS_OPERAND_TYPE_REGISTER:
        return ISA_OP_REG;
    case ZYDIS_OPERAND_TYPE_MEMORY:
        return ISA_OP_MEM;
    case ZYDIS_OPERAND_TYPE_POINTER:
        return ISA_OP_FAR;
    case ZYDIS_OPERAND_TYPE_IMMEDIATE:
        return ISA_OP_IMM;
    default:
        return ISA_OP_NONE;
    }
}

/*
 * Does this memory operand describe insn->mem? The explicit one does; among hidden ones the first, but for MOVS it is
 * the source, the one that a segment override applies to.
 */
static bool is_main_mem(const struct decoding *d, const ZydisDecodedOperand *o, bool have)
{
    if (is_legacy_map0(d->zi) && (d->zi->opcode & 0xfe) == 0xa4)
        return o->mem.segment != ZYDIS_REGISTER_ES || o->mem.base == ZYDIS_REGISTER_RSI ||
               o->mem.base == ZYDIS_REGISTER_ESI || o->mem.base == ZYDIS_REGISTER_SI;
    return !have;
}

static u8 operand_place(const ZydisDecodedOperand *o)
{
    switch (o->encoding) {
    case ZYDIS_OPERAND_ENCODING_MODRM_REG:
        return ISA_AT_REG;
    case ZYDIS_OPERAND_ENCODING_MODRM_RM:
        return ISA_AT_RM;
    case ZYDIS_OPERAND_ENCODING_NDSNDD:
        return ISA_AT_VVVV;
    case ZYDIS_OPERAND_ENCODING_OPCODE:
        return ISA_AT_OPCODE;
    case ZYDIS_OPERAND_ENCODING_IS4:
        return ISA_AT_IMM;
    case ZYDIS_OPERAND_ENCODING_MASK:
        return ISA_AT_MASK;
    default:
        return ISA_AT_NONE;
    }
}

static struct isa_operand convert_operand(const struct decoding *d, const ZydisDecodedOperand *o)
{
    struct isa_operand op = {
        .kind = operand_kind(o),
        .read = (o->actions & ZYDIS_OPERAND_ACTION_MASK_READ) != 0,
        .written = (o->actions & ZYDIS_OPERAND_ACTION_MASK_WRITE) != 0,
        .hidden = o->visibility == ZYDIS_OPERAND_VISIBILITY_HIDDEN,
        .enc = operand_place(o),
        .reg = ISA_NO_REG,
        .size = o->size / 8,
    };
    if (op.kind == ISA_OP_REG)
        op.reg_class = reg_lookup(o->reg.value, &op.reg);
    /* VEX.W does not count outside 64-bit mode, though the decoder takes it for VPCMPESTRx's hidden registers. */
    if (op.reg_class == ISA_REG_GPR64 && d->insn->mode != ISA_MODE_64) {
        op.reg_class = ISA_REG_GPR32;
        op.size = 4;
    }
    if (op.kind == ISA_OP_MEM)
        op.size = mem_size(d, o);
    return op;
}

static void convert_operands(struct decoding *d)
{
    struct isa_insn *insn = d->insn;
    bool have_mem = false, have_imm = false;

    for (unsigned i = 0; i < d->zi->operand_count; i++) {
        const ZydisDecodedOperand *o = &d->zo[i];
        /* k0 as a write mask means that there is none */
        if (o->encoding == ZYDIS_OPERAND_ENCODING_MASK && o->reg.value == ZYDIS_REGISTER_K0)
            continue;
        struct isa_operand op = convert_operand(d, o);
        if (op.kind == ISA_OP_REG) {
            touch_reg(insn, op.reg_class, op.reg, o->actions);
        } else if (op.kind == ISA_OP_MEM) {
            if (is_main_mem(d, o, have_mem))
                set_mem(insn, o);
            touch_address(insn, o->mem.base, false);
            have_mem = true;
        } else if (op.kind == ISA_OP_IMM) {
            set_imm(insn, o, have_imm);
            have_imm = true;
        } else if (op.kind == ISA_OP_FAR) {
            insn->imm = o->ptr.offset;
            insn->imm2 = o->ptr.segment;
        }
        if (insn->n_ops < ISA_MAX_OPS)
            insn->op[insn->n_ops++] = op;
        if (!op.hidden)
            insn->n_visible++;
    }
}

/* ---- where the parts are ---- */

static u8 all_prefixes(const ZydisDecodedInstruction *zi)
{
    u8 p = 0;
    for (unsigned i = 0; i < zi->raw.prefix_count; i++) {
        switch (zi->raw.prefixes[i].value) {
        case 0xf0:
            p |= ISA_PFX_LOCK;
            break;
        case 0xf2:
            p |= ISA_PFX_F2;
            break;
        case 0xf3:
            p |= ISA_PFX_F3;
            break;
        case 0x66:
            p |= ISA_PFX_66;
            break;
        case 0x67:
            p |= ISA_PFX_67;
            break;
        }
    }
    return p;
}

static void locate_opcode(const ZydisDecodedInstruction *zi, struct isa_insn *insn)
{
    static const u8 escapes[] = {[ZYDIS_OPCODE_MAP_0F] = 1, [ZYDIS_OPCODE_MAP_0F38] = 2, [ZYDIS_OPCODE_MAP_0F3A] = 2};
    u8 map = zi->opcode_map, after = zi->raw.prefix_count;

    insn->encoding = ISA_ENC_OTHER;
    switch (zi->encoding) {
    case ZYDIS_INSTRUCTION_ENCODING_LEGACY:
        insn->encoding = ISA_ENC_LEGACY;
        insn->off_opcode = after + (map < ARRAY_LEN(escapes) ? escapes[map] : 1);
        /* a REX prefix counts only right before the opcode */
        if (insn->mode == ISA_MODE_64 && after && (insn->bytes[after - 1] & 0xf0) == 0x40) {
            insn->has_rex = 1;
            insn->off_rex = after - 1;
            insn->prefixes |= insn->bytes[after - 1] & 8 ? ISA_PFX_REX_W : 0;
        }
        break;
    case ZYDIS_INSTRUCTION_ENCODING_VEX:
        insn->encoding = ISA_ENC_VEX;
        insn->off_rex = zi->raw.vex.offset;
        insn->off_opcode = zi->raw.vex.offset + zi->raw.vex.size;
        insn->prefixes |= zi->raw.vex.W ? ISA_PFX_REX_W : 0;
        insn->has_rex = 1;
        break;
    case ZYDIS_INSTRUCTION_ENCODING_EVEX:
        insn->encoding = ISA_ENC_EVEX;
        insn->off_rex = zi->raw.evex.offset;
        insn->off_opcode = zi->raw.evex.offset + 4;
        insn->prefixes |= zi->raw.evex.W ? ISA_PFX_REX_W : 0;
        insn->has_rex = 1;
        break;
    case ZYDIS_INSTRUCTION_ENCODING_XOP:
        insn->off_opcode = zi->raw.xop.offset + 3;
        break;
    default:
        insn->off_opcode = after;
    }
}

static void locate_parts(const ZydisDecodedInstruction *zi, struct isa_insn *insn)
{
    locate_opcode(zi, insn);
    if (zi->attributes & ZYDIS_ATTRIB_HAS_MODRM) {
        insn->off_modrm = zi->raw.modrm.offset;
        insn->modrm = insn->bytes[insn->off_modrm];
    }
    if (zi->attributes & ZYDIS_ATTRIB_HAS_SIB)
        insn->off_sib = zi->raw.sib.offset;
    if (zi->raw.disp.size) {
        insn->off_disp = zi->raw.disp.offset;
        insn->disp_len = zi->raw.disp.size / 8;
    }
    if (zi->raw.imm[0].size) {
        insn->off_imm = zi->raw.imm[0].offset;
        insn->imm_len = (zi->raw.imm[0].size + zi->raw.imm[1].size) / 8;
    }
}

/* ---- fix-ups ---- */

/* Which of RSI and RDI a string instruction steps. */
#define STRING_SI 1u
#define STRING_DI 2u

static u8 string_registers(u8 opcode)
{
    static const u8 row6[] = {STRING_DI, STRING_SI};
    static const u8 rowa[] = {
        [2] = STRING_SI | STRING_DI, [3] = STRING_SI | STRING_DI, [5] = STRING_DI, [6] = STRING_SI, [7] = STRING_DI};
    return opcode < 0x80 ? row6[opcode >> 1 & 1] : rowa[opcode >> 1 & 7];
}

bool isa_is_string(const struct isa_insn *insn)
{
    if (insn->encoding != ISA_ENC_LEGACY || insn->map != 0)
        return false;
    u8 o = insn->opcode;
    return (o >= 0xa4 && o <= 0xa7) || (o >= 0xaa && o <= 0xaf) || (o >= 0x6c && o <= 0x6f);
}

/* The last of F2 and F3 wins; F2 repeats like F3 where there is no ZF to look at. */
static void fix_repeat(const ZydisDecodedInstruction *zi, struct isa_insn *insn)
{
    u8 last = 0;
    for (unsigned i = 0; i < zi->raw.prefix_count; i++)
        if ((zi->raw.prefixes[i].value & 0xfe) == 0xf2)
            last = zi->raw.prefixes[i].value;
    if (!last)
        return;
    bool compares = (insn->opcode & 0xfe) == 0xa6 || (insn->opcode & 0xfe) == 0xae;
    insn->prefixes |= compares && last == 0xf2 ? ISA_PFX_REPNE : ISA_PFX_REP;
    insn->gpr_read |= BIT(RCX);
    insn->gpr_written |= BIT(RCX);
    insn->flags_read |= insn->flags_written; /* RCX 0: nothing happens */
}

static void fix_string(const ZydisDecodedInstruction *zi, struct isa_insn *insn)
{
    u8 r = string_registers(insn->opcode);
    u16 regs = (u16)((r & STRING_SI ? BIT(RSI) : 0) | (r & STRING_DI ? BIT(RDI) : 0));
    insn->gpr_read |= regs;
    insn->gpr_written |= regs;
    insn->flags_read |= FL_DF;
    fix_repeat(zi, insn);
}

static bool is_shift(u16 mnemonic)
{
    static const u16 shifts[] = {ZYDIS_MNEMONIC_SHL, ZYDIS_MNEMONIC_SHR,  ZYDIS_MNEMONIC_SAR,
                                 ZYDIS_MNEMONIC_ROL, ZYDIS_MNEMONIC_ROR,  ZYDIS_MNEMONIC_RCL,
                                 ZYDIS_MNEMONIC_RCR, ZYDIS_MNEMONIC_SHLD, ZYDIS_MNEMONIC_SHRD};
    for (size_t i = 0; i < ARRAY_LEN(shifts); i++)
        if (mnemonic == shifts[i])
            return true;
    return false;
}

static void fix_by_mnemonic(struct isa_insn *insn)
{
    u16 dest = insn->op[0].kind == ISA_OP_REG && is_gpr(insn->op[0].reg_class) ? (u16)BIT(insn->op[0].reg) : 0;

    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_BSF: /* a zero source leaves the destination as it was; so on hosts that lack TZCNT, LZCNT */
    case ZYDIS_MNEMONIC_BSR:
    case ZYDIS_MNEMONIC_TZCNT:
    case ZYDIS_MNEMONIC_LZCNT:
        insn->gpr_read |= dest;
        break;
    case ZYDIS_MNEMONIC_VZEROALL:
    case ZYDIS_MNEMONIC_VZEROUPPER: /* all that the mode can name, though none is an operand */
        insn->vec_used = insn->vec_written = insn->mode == ISA_MODE_64 ? 0xffff : 0xff;
        break;
    case ZYDIS_MNEMONIC_VP2INTERSECTD: /* writes a pair */
    case ZYDIS_MNEMONIC_VP2INTERSECTQ:
        insn->mask_written |= (u8)((insn->mask_written & 0x55) << 1 | (insn->mask_written & 0xaa) >> 1);
        insn->mask_used |= insn->mask_written;
        break;
    case ZYDIS_MNEMONIC_XLAT:
        insn->gpr_read |= BIT(RAX) | BIT(RBX);
        break;
    case ZYDIS_MNEMONIC_MOVSXD: /* with 66 it is a 16-bit move (SDM vol. 2B), the library says 32 */
        insn->op[1].size = MIN(insn->op[1].size, insn->op_size);
        break;
    case ZYDIS_MNEMONIC_LEAVE:
        insn->gpr_read |= BIT(RBP);
        break;
    }
    if (is_shift(insn->mnemonic)) {
        u8 mask = insn->op_size == 8 ? 63 : 31;
        bool fixed = insn->imm_len ? (insn->imm & mask) != 0 : (insn->opcode & 0xfe) == 0xd0 && insn->map == 0;
        bool rotate_carry = insn->mnemonic == ZYDIS_MNEMONIC_RCL || insn->mnemonic == ZYDIS_MNEMONIC_RCR;
        if (!fixed || rotate_carry)
            insn->flags_read |= insn->flags_written;
    }
}

/* ---- floating point ---- */

/* Exception classes (SDM vol. 2A, 2.4 and 2.8) whose members raise SIMD floating-point exceptions. */
static bool raises_simd_exceptions(ZydisExceptionClass c)
{
    switch (c) {
    case ZYDIS_EXCEPTION_CLASS_SSE2:
    case ZYDIS_EXCEPTION_CLASS_SSE3:
    case ZYDIS_EXCEPTION_CLASS_AVX2:
    case ZYDIS_EXCEPTION_CLASS_AVX3:
    case ZYDIS_EXCEPTION_CLASS_AVX11:
    case ZYDIS_EXCEPTION_CLASS_E2:
    case ZYDIS_EXCEPTION_CLASS_E2NF:
    case ZYDIS_EXCEPTION_CLASS_E3:
    case ZYDIS_EXCEPTION_CLASS_E3NF:
    case ZYDIS_EXCEPTION_CLASS_E11:
    case ZYDIS_EXCEPTION_CLASS_E11NF:
        return true;
    default:
        return false;
    }
}

static bool moves_only(ZydisInstructionCategory c)
{
    switch (c) {
    case ZYDIS_CATEGORY_DATAXFER:
    case ZYDIS_CATEGORY_LOGICAL_FP:
    case ZYDIS_CATEGORY_BROADCAST:
    case ZYDIS_CATEGORY_BLEND:
    case ZYDIS_CATEGORY_GATHER:
    case ZYDIS_CATEGORY_SCATTER:
    case ZYDIS_CATEGORY_EXPAND:
    case ZYDIS_CATEGORY_COMPRESS:
        return true;
    default:
        return false;
    }
}

/*
 * Classes that raise none may still look at MXCSR: VRCP14 and VFPCLASS obey DAZ, the complex FP16 products do raise
 * exceptions, and the conversions between MMX and XMM registers have no class.
 */
static bool may_compute(const ZydisDecodedInstruction *zi)
{
    switch (zi->meta.exception_class) {
    case ZYDIS_EXCEPTION_CLASS_E4:
    case ZYDIS_EXCEPTION_CLASS_E5:
    case ZYDIS_EXCEPTION_CLASS_E6:
    case ZYDIS_EXCEPTION_CLASS_E10:
    case ZYDIS_EXCEPTION_CLASS_E10NF:
        return !moves_only(zi->meta.category);
    case ZYDIS_EXCEPTION_CLASS_NONE:
        return zi->meta.category == ZYDIS_CATEGORY_CONVERT;
    default:
        return false;
    }
}

static bool is_float(const ZydisDecodedOperand *o)
{
    return o->element_type == ZYDIS_ELEMENT_TYPE_FLOAT16 || o->element_type == ZYDIS_ELEMENT_TYPE_FLOAT32 ||
           o->element_type == ZYDIS_ELEMENT_TYPE_FLOAT64;
}

/* The library names MXCSR only for those that load or store it. */
static bool touches_mxcsr(const struct decoding *d)
{
    if (raises_simd_exceptions(d->zi->meta.exception_class))
        return true;
    bool computes = may_compute(d->zi);
    for (unsigned i = 0; i < d->zi->operand_count; i++) {
        const ZydisDecodedOperand *o = &d->zo[i];
        if (o->type == ZYDIS_OPERAND_TYPE_REGISTER && o->reg.value == ZYDIS_REGISTER_MXCSR)
            return true;
        if (computes && is_float(o))
            return true;
    }
    return false;
}

static bool touches_x87(const ZydisDecodedInstruction *zi)
{
    switch (zi->meta.isa_set) {
    case ZYDIS_ISA_SET_X87:
    case ZYDIS_ISA_SET_FCMOV:
    case ZYDIS_ISA_SET_SSE3X87:
    case ZYDIS_ISA_SET_PENTIUMMMX:
    case ZYDIS_ISA_SET_SSE2MMX:
    case ZYDIS_ISA_SET_SSSE3MMX:
    case ZYDIS_ISA_SET_FXSAVE:
    case ZYDIS_ISA_SET_FXSAVE64:
        return true;
    default:
        return false;
    }
}

static void convert_flags(const ZydisDecodedInstruction *zi, struct isa_insn *insn)
{
    const ZydisAccessedFlags *f = zi->cpu_flags;
    if (!f)
        return;
    insn->flags_read = (u16)f->tested;
    insn->flags_written = (u16)(f->modified | f->set_0 | f->set_1 | f->undefined);
}

/* ---- what AMD's processors decode in other ways ---- */

/* The host's vendor is the guest's in every model (machine/cpu/model.c): part of the code is executed as it is. */
static bool on_amd(void)
{
    return __builtin_cpu_is("amd");
}

/*
 * Not there: PREFETCH and PREFETCHW of a register, which are NOPs elsewhere (AMD64 manual vol. 3, PREFETCH); VPEXTRD and VPINSRD with
 * VEX.W outside 64-bit mode, where others ignore W. Seen on family 1Ah.
 */
static bool amd_lacks(enum isa_mode mode, const ZydisDecodedInstruction *zi)
{
    bool prefetch = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_LEGACY && zi->opcode_map == ZYDIS_OPCODE_MAP_0F &&
                    zi->opcode == 0x0d && zi->raw.modrm.mod == 3;
    bool element = zi->encoding == ZYDIS_INSTRUCTION_ENCODING_VEX && zi->raw.vex.W && mode != ISA_MODE_64 &&
                   (zi->mnemonic == ZYDIS_MNEMONIC_VPEXTRD || zi->mnemonic == ZYDIS_MNEMONIC_VPINSRD);
    return prefetch || element;
}

/* F3 or F2, the last one that there is; 0. */
static u8 last_repeat(const ZydisDecodedInstruction *zi)
{
    u8 last = 0;
    for (u8 i = 0; i < zi->raw.prefix_count; i++)
        if (zi->raw.prefixes[i].value == 0xf2 || zi->raw.prefixes[i].value == 0xf3)
            last = zi->raw.prefixes[i].value;
    return last;
}

/*
 * Flags that the manuals call undefined and these processors leave as they were, where others give them a value of their own. So they
 * are read: an engine that has no use for what is overwritten must keep them (seen on family 1Ah).
 */
static u16 amd_keeps(u16 mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_MUL:
    case ZYDIS_MNEMONIC_IMUL:
        return FL_PF | FL_AF | FL_ZF | FL_SF;
    case ZYDIS_MNEMONIC_DIV:
    case ZYDIS_MNEMONIC_IDIV:
        return FL_CF | FL_OF;
    case ZYDIS_MNEMONIC_TZCNT:
    case ZYDIS_MNEMONIC_LZCNT:
        return FL_OF;
    default:
        return 0;
    }
}

/* A repeat prefix decides which of LOOPE and LOOPNE it is, instead of the opcode. */
static void amd_fix(const ZydisDecodedInstruction *zi, struct isa_insn *insn)
{
    bool loop = insn->mnemonic == ZYDIS_MNEMONIC_LOOPE || insn->mnemonic == ZYDIS_MNEMONIC_LOOPNE;
    u8 repeat = loop ? last_repeat(zi) : 0;
    if (repeat)
        insn->mnemonic = repeat == 0xf3 ? ZYDIS_MNEMONIC_LOOPE : ZYDIS_MNEMONIC_LOOPNE;
    insn->flags_read |= amd_keeps(insn->mnemonic);
}

/* REX.B makes XCHG R8, RAX of 90, also behind F3, where others see PAUSE. Decode it without F3; 0 or a ZyanStatus. */
static ZyanStatus amd_pause(const ZydisDecoder *dec, ZydisDecodedInstruction *zi,
                            ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT], const u8 *bytes)
{
    u8 plain[ISA_MAX_LEN];
    memcpy(plain, bytes, zi->length);
    for (u8 i = 0; i < zi->length; i++)
        if (plain[i] == 0xf3)
            plain[i] = 0x3e; /* which means nothing in 64-bit mode */
    return decode_full(dec, plain, zi->length, zi, zo);
}

/* ---- the whole ---- */

static void convert(struct decoding *d)
{
    const ZydisDecodedInstruction *zi = d->zi;
    struct isa_insn *insn = d->insn;

    insn->mnemonic = (u16)zi->mnemonic;
    insn->isa_set = (u16)zi->meta.isa_set;
    insn->op_size = zi->operand_width / 8;
    insn->addr_size = zi->address_width / 8;
    insn->map = zi->opcode_map;
    insn->opcode = zi->opcode;
    insn->prefixes = all_prefixes(zi);
    insn->mem.base = insn->mem.index = ISA_NO_REG;
    insn->mem.scale = 1;
    insn->mem.seg = SEG_DS;
    locate_parts(zi, insn);
    convert_flags(zi, insn);
    convert_operands(d);
    if (isa_is_string(insn))
        fix_string(zi, insn);
    if (on_amd())
        amd_fix(zi, insn);
    fix_by_mnemonic(insn);
    insn->uses_x87 |= touches_x87(zi);
    insn->uses_mxcsr = touches_mxcsr(d);
    insn->cls = (u8)isa_classify(insn, NULL);
}

static int failure(ZyanStatus s, size_t avail)
{
    if (s == ZYDIS_STATUS_INSTRUCTION_TOO_LONG)
        return ISA_DECODE_TOO_LONG;
    if (s == ZYDIS_STATUS_NO_MORE_DATA)
        return avail >= ISA_MAX_LEN ? ISA_DECODE_TOO_LONG : ISA_DECODE_SHORT;
    return ISA_DECODE_UD;
}

static void decoder_init(ZydisDecoder *dec, enum isa_mode mode)
{
    static const ZydisDecoderMode off[] = {ZYDIS_DECODER_MODE_MPX, ZYDIS_DECODER_MODE_CET, ZYDIS_DECODER_MODE_CLDEMOTE};
    ZydisDecoderInit(dec, modes[mode].machine, modes[mode].stack);
    for (size_t i = 0; i < ARRAY_LEN(off); i++)
        ZydisDecoderEnableMode(dec, off[i], ZYAN_FALSE);
}

int isa_decode(enum isa_mode mode, const u8 *bytes, size_t avail, struct isa_insn *insn)
{
    ZydisDecoder dec;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];
    struct decoding d = {.zi = &zi, .zo = zo, .insn = insn};

    avail = MIN(avail, ISA_MAX_LEN);
    decoder_init(&dec, mode);
    ZyanStatus s = decode_full(&dec, bytes, avail, &zi, zo);
    if (ZYAN_SUCCESS(s) && zi.mnemonic == ZYDIS_MNEMONIC_PAUSE && zi.raw.rex.B && on_amd())
        s = amd_pause(&dec, &zi, zo, bytes);
    if (!ZYAN_SUCCESS(s))
        return failure(s, avail);
    if (on_amd() && amd_lacks(mode, &zi))
        return ISA_DECODE_UD;
    memset(insn, 0, sizeof(*insn));
    insn->len = zi.length;
    insn->mode = (u8)mode;
    memcpy(insn->bytes, bytes, zi.length);
    convert(&d);
    return ISA_DECODE_OK;
}

void isa_format(const struct isa_insn *insn, u64 rip, char *out, size_t len)
{
    ZydisDecoder dec;
    ZydisFormatter fmt;
    ZydisDecodedInstruction zi;
    ZydisDecodedOperand zo[ZYDIS_MAX_OPERAND_COUNT];

    if (!len)
        return;
    /* People want to read endbr64, not the NOP that it is here: the library's own defaults. */
    ZydisDecoderInit(&dec, modes[insn->mode].machine, modes[insn->mode].stack);
    ZydisFormatterInit(&fmt, ZYDIS_FORMATTER_STYLE_INTEL);
    ZydisFormatterSetProperty(&fmt, ZYDIS_FORMATTER_PROP_FORCE_SIZE, ZYAN_TRUE);
    if (!ZYAN_SUCCESS(decode_full(&dec, insn->bytes, insn->len, &zi, zo)) ||
        !ZYAN_SUCCESS(
            ZydisFormatterFormatInstruction(&fmt, &zi, zo, zi.operand_count_visible, out, len, rip, ZYAN_NULL)))
        snprintf(out, len, "(%s)", isa_mnemonic_name(insn->mnemonic));
}

const char *isa_mnemonic_name(u16 mnemonic)
{
    const char *s = mnemonic <= ZYDIS_MNEMONIC_MAX_VALUE ? ZydisMnemonicGetString((ZydisMnemonic)mnemonic) : NULL;
    return s ? s : "?";
}
