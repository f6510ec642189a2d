/*
 * Decoding: from bytes to a compact description that everything else works from.
 *
 * decode.c is the only file that calls the decoder library (Zydis), so that it can be replaced or built in where no
 * shared library is; its enumerations of mnemonics and instruction sets are used by name throughout.
 */
#ifndef TRAPEZE_ISA_DECODE_H
#define TRAPEZE_ISA_DECODE_H

#include "base/types.h"

#include <Zydis/MetaInfo.h>
#include <Zydis/Mnemonic.h>

#define ISA_MAX_LEN 15
#define ISA_MAX_OPS 8

/* Width of code: what CS.L and CS.D select. */
enum isa_mode { ISA_MODE_16, ISA_MODE_32, ISA_MODE_64 };

enum isa_operand_kind { ISA_OP_NONE, ISA_OP_REG, ISA_OP_MEM, ISA_OP_IMM, ISA_OP_FAR };

enum isa_reg_class {
    ISA_REG_NONE,
    ISA_REG_GPR8,  /* number 0-15: low byte */
    ISA_REG_GPR8H, /* number 0-3: AH CH DH BH */
    ISA_REG_GPR16,
    ISA_REG_GPR32,
    ISA_REG_GPR64,
    ISA_REG_SEG, /* enum cpu_seg */
    ISA_REG_CR,
    ISA_REG_DR,
    ISA_REG_X87,
    ISA_REG_MMX,
    ISA_REG_XMM,
    ISA_REG_YMM,
    ISA_REG_ZMM,
    ISA_REG_MASK,
    ISA_REG_OTHER, /* flags, tables, bounds, tiles, ...: never named by an innocuous instruction's explicit operand */
};

/* Where an encoded register operand stands in the bytes. */
enum isa_operand_enc {
    ISA_AT_NONE,   /* implied, or not a register */
    ISA_AT_REG,    /* ModRM.reg */
    ISA_AT_RM,     /* ModRM.rm */
    ISA_AT_VVVV,   /* VEX/EVEX.vvvv */
    ISA_AT_OPCODE, /* the opcode's low three bits */
    ISA_AT_IMM,    /* imm8[7:4] */
    ISA_AT_MASK,   /* EVEX.aaa */
};

#define ISA_NO_REG  0xff
#define ISA_RIP_REG 0xfe /* base of a RIP-relative operand */

struct isa_operand {
    u8 kind;                              /* enum isa_operand_kind */
    u8 reg_class;                         /* enum isa_reg_class, for ISA_OP_REG */
    u8 reg;                               /* number within the class */
    u8 read : 1, written : 1, hidden : 1; /* hidden: implied by the opcode, not encoded */
    u8 enc : 3;                           /* enum isa_operand_enc */
    u16 size; /* in bytes; for a memory operand what is accessed (a broadcast: one element); 0 for LEA's and NOP's */
};

/*
 * The memory operand: the one that ModRM or a moffs encodes. Without such a one it is the hidden one (XLAT, MASKMOV, the
 * stack of PUSH and POP: RSP as it is before the instruction); of MOVS and CMPS, which have two, the RSI side, where an
 * override applies.
 */
struct isa_mem {
    u8 base;  /* GPR number, ISA_RIP_REG or ISA_NO_REG */
    u8 index; /* GPR number, vector number for VSIB, or ISA_NO_REG */
    u8 scale; /* 1, 2, 4, 8 */
    u8 seg;   /* enum cpu_seg in force, override applied */
    u8 vsib;  /* the index is a vector register */
    s64 disp; /* sign-extended, EVEX compression undone; an absolute address for MOV moffs */
};

/* Prefixes that count */
#define ISA_PFX_LOCK  1u
#define ISA_PFX_REP   2u /* F3 that acts as REP/REPE */
#define ISA_PFX_REPNE 4u
#define ISA_PFX_66    8u  /* 66 present */
#define ISA_PFX_67    16u /* 67 present */
#define ISA_PFX_REX_W 32u
#define ISA_PFX_F3    64u  /* F3 present, whatever it means here */
#define ISA_PFX_F2    128u /* F2 present */

enum isa_encoding { ISA_ENC_LEGACY, ISA_ENC_VEX, ISA_ENC_EVEX, ISA_ENC_OTHER };

enum isa_class {
    ISA_INNOCUOUS,      /* may run natively in user mode, memory operands redirected */
    ISA_CONTROL,        /* innocuous, but transfers control: rewritten by every engine */
    ISA_PRIVILEGED,     /* traps (#GP) outside CPL 0 */
    ISA_IOPL_SENSITIVE, /* traps or changes meaning with CPL > IOPL */
    ISA_SENSITIVE,      /* shows or changes machine state without a trap: breaks Popek and Goldberg's condition */
    ISA_UNSUPPORTED,    /* decodes, but no model of this machine offers it: raises #UD */
    ISA_CLASSES
};

struct isa_insn {
    u16 mnemonic; /* ZydisMnemonic */
    u16 isa_set;  /* ZydisISASet */
    u8 len;
    u8 mode;      /* enum isa_mode it was decoded in */
    u8 op_size;   /* effective operand size in bytes: 1, 2, 4, 8 (1 for byte forms) */
    u8 addr_size; /* 2, 4, 8 */
    u8 prefixes;  /* ISA_PFX_* */
    u8 encoding;  /* enum isa_encoding */
    u8 cls;       /* enum isa_class, from isa/class.h */
    u8 n_ops;     /* operands in op[], hidden ones included as far as they fit, in the decoder's order */
    u8 n_visible; /* how many of the operands are written in assembly; a write mask of k0 is left out */
    u8 map;       /* opcode map: 0 one-byte, 1 0F, 2 0F38, 3 0F3A, 5.. EVEX maps */
    u8 opcode;
    u8 modrm; /* 0 when there is none */

    /* Where the parts stand in bytes[]; 0 means not there (a part is never at 0 but a prefixless opcode). */
    u8 off_opcode, off_modrm, off_sib, off_disp, off_imm, disp_len, imm_len; /* imm_len: all immediates together */
    u8 off_rex; /* REX prefix, or first byte of VEX/EVEX; off_has_rex tells */
    u8 has_rex;

    /* What it touches, hidden operands included; address registers count as read. */
    u16 gpr_read, gpr_written;
    u32 vec_used, vec_written; /* vector registers by number, whatever width */
    u8 mask_used, mask_written;
    u16 flags_read, flags_written; /* RFLAGS bits 0-15; "may change, undefined" counts as written */
    u8 uses_x87;                   /* touches the x87/MMX state */
    u8 uses_mxcsr;                 /* reads or writes MXCSR (SIMD floating-point exceptions possible) */

    struct isa_mem mem; /* valid if any operand is ISA_OP_MEM */
    s64 imm;  /* first immediate, sign- or zero-extended as the instruction uses it; relative branches: the offset */
    u16 imm2; /* second one: ENTER's level, a far pointer's selector */
    struct isa_operand op[ISA_MAX_OPS];
    u8 bytes[ISA_MAX_LEN];
};

/* What decoding yields besides a good instruction. */
#define ISA_DECODE_OK       0
#define ISA_DECODE_SHORT    1 /* `avail` bytes end inside the instruction */
#define ISA_DECODE_UD       2 /* no such instruction: #UD */
#define ISA_DECODE_TOO_LONG 3 /* over 15 bytes: #GP */

/*
 * Decode the instruction at bytes[0..avail), avail at least 1, at most 15 are looked at. Pure: no state between calls.
 * On ISA_DECODE_OK `insn` is complete, its class included.
 */
int isa_decode(enum isa_mode mode, const u8 *bytes, size_t avail, struct isa_insn *insn);

/* MOVS, CMPS, STOS, LODS, SCAS, INS, OUTS: mnemonics do not tell (MOVSD and CMPSD are SSE2's as well). */
bool isa_is_string(const struct isa_insn *insn);

/* Assembly text (Intel syntax) of an instruction at `rip`, for people. */
void isa_format(const struct isa_insn *insn, u64 rip, char *out, size_t len);

/* "mov", "vaddps": the mnemonic's name. */
const char *isa_mnemonic_name(u16 mnemonic);

#endif
