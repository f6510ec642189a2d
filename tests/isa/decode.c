/*
 * The decoder: known encodings with every field that engines depend on, and random bytes for what must always hold.
 */
#include "isa/class.h"
#include "isa/decode.h"
#include "machine/cpu/cpu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define R(x)   ((u16)BIT(x))
#define ARITH  FL_ARITH
#define NOT_CF (FL_ARITH & ~FL_CF)
#define M16    ISA_MODE_16
#define M32    ISA_MODE_32
#define M64    ISA_MODE_64

static size_t from_hex(const char *hex, u8 *out)
{
    size_t n = 0;
    for (; hex[0] && hex[1]; hex += 2) {
        char two[3] = {hex[0], hex[1], 0};
        out[n++] = (u8)strtoul(two, NULL, 16);
    }
    return n;
}

static struct isa_insn decode(enum isa_mode mode, const char *hex)
{
    u8 bytes[32];
    struct isa_insn insn;
    size_t n = from_hex(hex, bytes);
    int r = isa_decode(mode, bytes, n, &insn);
    if (r)
        fail_msg("%s: isa_decode gave %d", hex, r);
    assert_int_equal(insn.len, n);
    return insn;
}

/* ---- what an instruction touches ---- */

/* Flags that AMD's processors leave as they were. */
#define ONLY_AMD BIT(31)
#define AMD_MUL  (ONLY_AMD | FL_PF | FL_AF | FL_ZF | FL_SF)
#define AMD_DIV  (ONLY_AMD | FL_CF | FL_OF)

static const struct {
    const char *hex;
    enum isa_mode mode;
    u8 op_size, addr_size;
    u16 gpr_read, gpr_written;
    u32 flags_read, flags_written;
} touched[] = {
    {"4801d8", M64, 8, 8, R(RAX) | R(RBX), R(RAX), 0, ARITH},                            /* add rax, rbx */
    {"00d8", M64, 1, 8, R(RAX) | R(RBX), R(RAX), 0, ARITH},                              /* add al, bl */
    {"00e7", M64, 1, 8, R(RAX) | R(RBX), R(RBX), 0, ARITH},                              /* add bh, ah */
    {"4000e7", M64, 1, 8, R(RSP) | R(RDI), R(RDI), 0, ARITH},                            /* add dil, spl */
    {"66b83412", M64, 2, 8, R(RAX), R(RAX), 0, 0},                                       /* mov ax, imm16 */
    {"b878563412", M64, 4, 8, 0, R(RAX), 0, 0},                                          /* mov eax, imm32 */
    {"4d8b64c508", M64, 8, 8, R(R13) | R(RAX), R(R12), 0, 0},                            /* mov r12, [r13+rax*8+8] */
    {"50", M64, 8, 8, R(RAX) | R(RSP), R(RSP), 0, 0},                                    /* push rax */
    {"50", M32, 4, 4, R(RAX) | R(RSP), R(RSP), 0, 0},                                    /* push eax */
    {"50", M16, 2, 2, R(RAX) | R(RSP), R(RSP), 0, 0},                                    /* push ax */
    {"58", M64, 8, 8, R(RSP), R(RAX) | R(RSP), 0, 0},                                    /* pop rax */
    {"c9", M64, 8, 8, R(RBP) | R(RSP), R(RBP) | R(RSP), 0, 0},                           /* leave */
    {"48a5", M64, 8, 8, R(RSI) | R(RDI), R(RSI) | R(RDI), FL_DF, 0},                     /* movsq */
    {"f348a5", M64, 8, 8, R(RSI) | R(RDI) | R(RCX), R(RSI) | R(RDI) | R(RCX), FL_DF, 0}, /* rep movsq */
    {"f2a4", M64, 1, 8, R(RSI) | R(RDI) | R(RCX), R(RSI) | R(RDI) | R(RCX), FL_DF, 0},   /* repne movsb */
    {"f3a6", M64, 1, 8, R(RSI) | R(RDI) | R(RCX), R(RSI) | R(RDI) | R(RCX), FL_DF | ARITH, ARITH}, /* repe cmpsb */
    {"ae", M64, 1, 8, R(RAX) | R(RDI), R(RDI), FL_DF, ARITH},                                      /* scasb */
    {"aa", M64, 1, 8, R(RAX) | R(RDI), R(RDI), FL_DF, 0},                                          /* stosb */
    {"ac", M64, 1, 8, R(RAX) | R(RSI), R(RAX) | R(RSI), FL_DF, 0},                                 /* lodsb */
    {"d7", M64, 4, 8, R(RAX) | R(RBX), R(RAX), 0, 0},                                              /* xlatb */
    {"0fbcc1", M64, 4, 8, R(RAX) | R(RCX), R(RAX), 0, ARITH},                                      /* bsf eax, ecx */
    {"0f44c1", M64, 4, 8, R(RAX) | R(RCX), R(RAX), FL_ZF, 0},                                      /* cmovz eax, ecx */
    {"d3e0", M64, 4, 8, R(RAX) | R(RCX), R(RAX), ARITH, ARITH},                                    /* shl eax, cl */
    {"c1e000", M64, 4, 8, R(RAX), R(RAX), ARITH, ARITH},                                           /* shl eax, 0 */
    {"c1e005", M64, 4, 8, R(RAX), R(RAX), 0, ARITH},                                               /* shl eax, 5 */
    {"48c1e020", M64, 8, 8, R(RAX), R(RAX), 0, ARITH},                                             /* shl rax, 32 */
    {"c1e020", M64, 4, 8, R(RAX), R(RAX), ARITH, ARITH},                                           /* shl eax, 32 */
    {"d1e0", M64, 4, 8, R(RAX), R(RAX), 0, ARITH},                                                 /* shl eax, 1 */
    {"0fa4d805", M64, 4, 8, R(RAX) | R(RBX), R(RAX), 0, ARITH},                       /* shld eax, ebx, 5 */
    {"ffc0", M64, 4, 8, R(RAX), R(RAX), 0, NOT_CF},                                   /* inc eax */
    {"40", M32, 4, 4, R(RAX), R(RAX), 0, NOT_CF},                                     /* inc eax */
    {"f7e1", M64, 4, 8, R(RAX) | R(RCX), R(RAX) | R(RDX), AMD_MUL, ARITH},            /* mul ecx */
    {"48f7f1", M64, 8, 8, R(RAX) | R(RCX) | R(RDX), R(RAX) | R(RDX), AMD_DIV, ARITH}, /* div rcx */
    {"c4e2fbf6c1", M64, 8, 8, R(RCX) | R(RDX), R(RAX), 0, 0},                         /* mulx rax, rax, rcx */
    {"f00fb111", M64, 4, 8, R(RAX) | R(RCX) | R(RDX), R(RAX), 0, ARITH},              /* lock cmpxchg [rcx], edx */
    {"480fc70e", M64, 8, 8, R(RAX) | R(RBX) | R(RCX) | R(RDX) | R(RSI), R(RAX) | R(RDX), 0, FL_ZF}, /* cmpxchg16b */
    {"9f", M64, 4, 8, R(RAX), R(RAX), ARITH & ~FL_OF, 0},                                           /* lahf */
    {"9e", M64, 4, 8, R(RAX), 0, 0, ARITH & ~FL_OF},                                                /* sahf */
    {"7401", M64, 8, 8, 0, 0, FL_ZF, 0},                                                            /* jz */
    {"e8000000ff", M64, 8, 8, R(RSP), R(RSP), 0, 0},                                                /* call */
    {"e200", M64, 8, 8, R(RCX), R(RCX), 0, 0},                                                      /* loop */
    {"67e300", M64, 8, 4, R(RCX), 0, 0, 0},                                                         /* jecxz */
    {"c3", M64, 8, 8, R(RSP), R(RSP), 0, 0},                                                        /* ret */
    {"60", M32, 4, 4, 0xff, R(RSP), 0, 0},                                                          /* pushad */
    {"61", M32, 4, 4, R(RSP), 0xff, 0, 0},                                                          /* popad */
    {"0f2f00", M64, 4, 8, R(RAX), 0, 0, ARITH},                     /* comiss xmm0, [rax] */
    {"660f3a610008", M64, 4, 8, R(RAX) | R(RDX), R(RCX), 0, ARITH}, /* pcmpestri */
    {"8b04a5f0ffffff", M32, 4, 4, 0, R(RAX), 0, 0},                 /* mov eax, [disp32] */
    {"8b01", M16, 2, 2, R(RAX) | R(RBX) | R(RDI), R(RAX), 0, 0},    /* mov ax, [bx+di] */
    {"67668b0488", M16, 4, 4, R(RAX) | R(RCX), R(RAX), 0, 0},       /* mov eax, [eax+ecx*4] */
};

static void test_touched(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(touched); i++) {
        struct isa_insn x = decode(touched[i].mode, touched[i].hex);
        u32 read = touched[i].flags_read;
        read = read & ONLY_AMD ? (__builtin_cpu_is("amd") ? read & ~ONLY_AMD : 0) : read;
        if (x.op_size != touched[i].op_size || x.addr_size != touched[i].addr_size ||
            x.gpr_read != touched[i].gpr_read || x.gpr_written != touched[i].gpr_written || x.flags_read != read ||
            x.flags_written != touched[i].flags_written)
            fail_msg("%s: op %u addr %u gpr_read %x gpr_written %x flags_read %x flags_written %x", touched[i].hex,
                     x.op_size, x.addr_size, x.gpr_read, x.gpr_written, x.flags_read, x.flags_written);
    }
}

/* ---- vector state ---- */

static const struct {
    const char *hex;
    u32 vec_used, vec_written;
    u8 mask_used, mask_written, uses_x87, uses_mxcsr;
} vectors[] = {
    {"0f58c1", 0x3, 0x1, 0, 0, 0, 1},                     /* addps xmm0, xmm1 */
    {"0f28c1", 0x3, 0x1, 0, 0, 0, 0},                     /* movaps xmm0, xmm1 */
    {"660fefc1", 0x3, 0x1, 0, 0, 0, 0},                   /* pxor xmm0, xmm1 */
    {"f20f5ac1", 0x3, 0x1, 0, 0, 0, 1},                   /* cvtsd2ss */
    {"f30f2ac0", 0x1, 0x1, 0, 0, 0, 1},                   /* cvtsi2ss xmm0, eax */
    {"0f2ac1", 0x1, 0x1, 0, 0, 1, 1},                     /* cvtpi2ps xmm0, mm1 */
    {"660f3814c1", 0x3, 0x1, 0, 0, 0, 0},                 /* blendvps xmm0, xmm1, <xmm0> */
    {"660f3a0ac9e2", 0x2, 0x2, 0, 0, 0, 1},               /* roundss xmm1, xmm1, 0xe2 */
    {"f30f2c0b", 0, 0, 0, 0, 0, 1},                       /* cvttss2si ecx, [rbx] */
    {"0f2d08", 0, 0, 0, 0, 1, 1},                         /* cvtps2pi mm1, [rax] */
    {"62f27d484cc1", 3, 1, 0, 0, 0, 1},                   /* vrcp14ps zmm0, zmm1: DAZ */
    {"c5f877", 0xffff, 0xffff, 0, 0, 0, 0},               /* vzeroupper */
    {"62f17c4858c1", 0x3, 0x1, 0, 0, 0, 1},               /* vaddps zmm0, zmm0, zmm1 */
    {"62017c4358c1", 0x03010000, 0x01000000, 8, 0, 0, 1}, /* vaddps zmm24 {k3}, zmm16, zmm25 */
    {"62f1754976c2", 0x6, 0, 3, 1, 0, 0},                 /* vpcmpeqd k0 {k1}, zmm1, zmm2 */
    {"c5f441c2", 0, 0, 7, 1, 0, 0},                       /* kandw k0, k1, k2 */
    {"c5fb92c8", 0, 0, 2, 2, 0, 0},                       /* kmovd k1, eax */
    {"62f27f0868d3", 0x9, 0, 0xc, 0xc, 0, 0},             /* vp2intersectd k2 (and k3), xmm0, xmm3 */
    {"c4e3714ac120", 0x7, 0x1, 0, 0, 0, 0},               /* vblendvps xmm0, xmm1, xmm1, xmm2 */
    {"0fae10", 0, 0, 0, 0, 0, 1},                         /* ldmxcsr [rax] */
    {"dec1", 0, 0, 0, 0, 1, 0},                           /* faddp */
    {"0f77", 0, 0, 0, 0, 1, 0},                           /* emms */
    {"0ffcc1", 0, 0, 0, 0, 1, 0},                         /* paddb mm0, mm1 */
    {"62f27d0990048d00000000", 0x3, 0x1, 2, 2, 0, 0},     /* vpgatherdd xmm0 {k1}, [xmm1*4] */
};

static void test_vectors(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(vectors); i++) {
        struct isa_insn x = decode(M64, vectors[i].hex);
        if (x.vec_used != vectors[i].vec_used || x.vec_written != vectors[i].vec_written ||
            x.mask_used != vectors[i].mask_used || x.mask_written != vectors[i].mask_written ||
            x.uses_x87 != vectors[i].uses_x87 || x.uses_mxcsr != vectors[i].uses_mxcsr)
            fail_msg("%s: vec %x/%x mask %x/%x x87 %u mxcsr %u", vectors[i].hex, x.vec_used, x.vec_written, x.mask_used,
                     x.mask_written, x.uses_x87, x.uses_mxcsr);
    }
}

/* ---- memory operands ---- */

static const struct {
    const char *hex;
    enum isa_mode mode;
    u8 base, index, scale, seg, vsib;
    s64 disp;
    u16 size; /* of the memory operand */
} mems[] = {
    {"48a10102030405060780", M64, ISA_NO_REG, ISA_NO_REG, 1, SEG_DS, 0, (s64)0x8007060504030201, 8},
    {"67a1010203f4", M64, ISA_NO_REG, ISA_NO_REG, 1, SEG_DS, 0, 0xf4030201, 4},
    {"a1010203f4", M32, ISA_NO_REG, ISA_NO_REG, 1, SEG_DS, 0, 0xf4030201, 4},
    {"648b0425f0ffffff", M64, ISA_NO_REG, ISA_NO_REG, 1, SEG_FS, 0, -16, 4},
    {"8b05f0ffffff", M64, ISA_RIP_REG, ISA_NO_REG, 1, SEG_DS, 0, -16, 4},
    {"678b05f0ffffff", M64, ISA_RIP_REG, ISA_NO_REG, 1, SEG_DS, 0, -16, 4},
    {"8b4424f0", M64, RSP, ISA_NO_REG, 1, SEG_SS, 0, -16, 4},
    {"2e8b45f0", M64, RBP, ISA_NO_REG, 1, SEG_SS, 0, -16, 4}, /* a CS override means nothing there */
    {"2e8b45f0", M32, RBP, ISA_NO_REG, 1, SEG_CS, 0, -16, 4},
    {"438b44be7f", M64, R14, R15, 4, SEG_DS, 0, 0x7f, 4},
    {"6663730c", M64, RBX, ISA_NO_REG, 1, SEG_DS, 0, 12, 2}, /* movsxd si, [rbx+12] */
    {"4863730c", M64, RBX, ISA_NO_REG, 1, SEG_DS, 0, 12, 4},
    {"67438b04dd66000000", M64, ISA_NO_REG, R11, 8, SEG_DS, 0, 0x66, 4}, /* no base, though B is set */
    {"67418b04e566000080", M64, ISA_NO_REG, ISA_NO_REG, 1, SEG_DS, 0, -0x7fffff9a, 4},
    {"67438b44dd66", M64, R13, R11, 8, SEG_DS, 0, 0x66, 4},
    {"62f17c48584001", M64, RAX, ISA_NO_REG, 1, SEG_DS, 0, 64, 64},    /* vaddps zmm0, zmm0, [rax+64] */
    {"62f17c58584001", M64, RAX, ISA_NO_REG, 1, SEG_DS, 0, 4, 4},      /* the same, {1to16} */
    {"62f1fd48584080", M64, RAX, ISA_NO_REG, 1, SEG_DS, 0, -8192, 64}, /* vaddpd zmm0, zmm0, [rax-8192] */
    {"62f17e08584001", M64, RAX, ISA_NO_REG, 1, SEG_DS, 0, 4, 4},      /* vaddss xmm0, xmm0, [rax+4] */
    {"62f27d4990548d01", M64, RBP, 1, 4, SEG_SS, 1, 4, 4},             /* vpgatherdd zmm2 {k1}, [rbp+zmm1*4+4] */
    {"65a4", M64, RSI, ISA_NO_REG, 1, SEG_GS, 0, 0, 1},                /* movsb: the source */
    {"64a7", M64, RSI, ISA_NO_REG, 1, SEG_FS, 0, 0, 4},                /* cmpsd */
    {"64ab", M64, RDI, ISA_NO_REG, 1, SEG_ES, 0, 0, 4},                /* stosd */
    {"64d7", M64, RBX, ISA_NO_REG, 1, SEG_FS, 0, 0, 1},                /* xlatb */
    {"64660ff7c1", M64, RDI, ISA_NO_REG, 1, SEG_FS, 0, 0, 16},         /* maskmovdqu */
    {"50", M64, RSP, ISA_NO_REG, 1, SEG_SS, 0, 0, 8},                  /* push rax */
    {"ff30", M64, RAX, ISA_NO_REG, 1, SEG_DS, 0, 0, 8},                /* push [rax] */
    {"8d442408", M64, RSP, ISA_NO_REG, 1, SEG_SS, 0, 8, 0},            /* lea eax, [rsp+8] */
    {"0f1f00", M64, RAX, ISA_NO_REG, 1, SEG_DS, 0, 0, 0},              /* nop [rax] */
    {"0f1808", M64, RAX, ISA_NO_REG, 1, SEG_DS, 0, 0, 0},              /* prefetcht0 */
    {"660f380010", M64, RAX, ISA_NO_REG, 1, SEG_DS, 0, 0, 16},         /* pshufb xmm2, [rax] */
    {"8b42fe", M16, RBP, RSI, 1, SEG_SS, 0, -2, 2},                    /* mov ax, [bp+si-2] */
    {"db2b", M64, RBX, ISA_NO_REG, 1, SEG_DS, 0, 0, 10},               /* fld tword [rbx] */
};

static void test_memory(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(mems); i++) {
        struct isa_insn x = decode(mems[i].mode, mems[i].hex);
        unsigned k = 0;
        while (k < x.n_ops && (x.op[k].kind != ISA_OP_MEM || (isa_is_string(&x) && mems[i].base == RSI &&
                                                              k + 1 < x.n_ops && x.op[k + 1].kind == ISA_OP_MEM)))
            k++;
        assert_true(k < x.n_ops);
        if (x.mem.base != mems[i].base || x.mem.index != mems[i].index || x.mem.scale != mems[i].scale ||
            x.mem.seg != mems[i].seg || x.mem.vsib != mems[i].vsib || x.mem.disp != mems[i].disp ||
            x.op[k].size != mems[i].size)
            fail_msg("%s: base %u index %u scale %u seg %u vsib %u disp %lld size %u", mems[i].hex, x.mem.base,
                     x.mem.index, x.mem.scale, x.mem.seg, x.mem.vsib, (long long)x.mem.disp, x.op[k].size);
    }
}

/* ---- where the parts stand ---- */

static const struct {
    const char *hex;
    enum isa_mode mode;
    u8 encoding, map, opcode, off_opcode, off_modrm, off_sib, off_disp, disp_len, off_imm, imm_len, has_rex, off_rex;
    s64 imm;
    u16 imm2;
    u8 prefixes;
} parts[] = {
    {"6648c784880102030405060000", M64, ISA_ENC_LEGACY, 0, 0xc7, 2, 3, 4, 5, 4, 9, 4, 1, 1, 0x605, 0,
     ISA_PFX_66 | ISA_PFX_REX_W},
    {"f0480fc1841000010000", M64, ISA_ENC_LEGACY, 1, 0xc1, 3, 4, 5, 6, 4, 0, 0, 1, 1, 0, 0,
     ISA_PFX_LOCK | ISA_PFX_REX_W},
    {"660f3a0fc108", M64, ISA_ENC_LEGACY, 3, 0x0f, 3, 4, 0, 0, 0, 5, 1, 0, 0, 8, 0, ISA_PFX_66},
    {"f20f38f0c1", M64, ISA_ENC_LEGACY, 2, 0xf0, 3, 4, 0, 0, 0, 0, 0, 0, 0, 0, 0, ISA_PFX_F2},
    {"c5f858440801", M64, ISA_ENC_VEX, 1, 0x58, 2, 3, 4, 5, 1, 0, 0, 1, 0, 0, 0, 0},
    {"c4e37d19c101", M64, ISA_ENC_VEX, 3, 0x19, 3, 4, 0, 0, 0, 5, 1, 1, 0, 1, 0, 0},
    {"62f1fd48584480ff", M64, ISA_ENC_EVEX, 1, 0x58, 4, 5, 6, 7, 1, 0, 0, 1, 0, 0, 0, ISA_PFX_REX_W},
    {"c8341207", M64, ISA_ENC_LEGACY, 0, 0xc8, 0, 0, 0, 0, 0, 1, 3, 0, 0, 0x1234, 7, 0},
    {"9a78563412cdab", M32, ISA_ENC_LEGACY, 0, 0x9a, 0, 0, 0, 0, 0, 1, 6, 0, 0, 0x12345678, 0xabcd, 0},
    {"eb80", M64, ISA_ENC_LEGACY, 0, 0xeb, 0, 0, 0, 0, 0, 1, 1, 0, 0, -128, 0, 0},
    {"6a80", M64, ISA_ENC_LEGACY, 0, 0x6a, 0, 0, 0, 0, 0, 1, 1, 0, 0, -128, 0, 0},
    {"4805000000ff", M64, ISA_ENC_LEGACY, 0, 0x05, 1, 0, 0, 0, 0, 2, 4, 1, 0, (s32)0xff000000, 0, ISA_PFX_REX_W},
    {"48b80000000000000080", M64, ISA_ENC_LEGACY, 0, 0xb8, 1, 0, 0, 0, 0, 2, 8, 1, 0, INT64_MIN, 0, ISA_PFX_REX_W},
    {"4866b83412", M64, ISA_ENC_LEGACY, 0, 0xb8, 2, 0, 0, 0, 0, 3, 2, 0, 0, 0x1234, 0, ISA_PFX_66}, /* REX not last */
    {"f2f3a6", M64, ISA_ENC_LEGACY, 0, 0xa6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ISA_PFX_F2 | ISA_PFX_F3 | ISA_PFX_REP},
    {"f3f2a6", M64, ISA_ENC_LEGACY, 0, 0xa6, 2, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, ISA_PFX_F2 | ISA_PFX_F3 | ISA_PFX_REPNE},
    {"a101020304", M32, ISA_ENC_LEGACY, 0, 0xa1, 0, 0, 0, 1, 4, 0, 0, 0, 0, 0, 0, 0},
};

static void test_parts(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(parts); i++) {
        struct isa_insn x = decode(parts[i].mode, parts[i].hex);
#define SAME(f)            \
    if (x.f != parts[i].f) \
    fail_msg("%s: " #f " is %lld, not %lld", parts[i].hex, (long long)x.f, (long long)parts[i].f)
        SAME(encoding);
        SAME(map);
        SAME(opcode);
        SAME(off_opcode);
        SAME(off_modrm);
        SAME(off_sib);
        SAME(off_disp);
        SAME(disp_len);
        SAME(off_imm);
        SAME(imm_len);
        SAME(has_rex);
        SAME(off_rex);
        SAME(imm);
        SAME(imm2);
        SAME(prefixes);
#undef SAME
    }
}

/* ---- what does not decode ---- */

static const struct {
    const char *hex;
    enum isa_mode mode;
    int result;
} refused[] = {
    {"48", M64, ISA_DECODE_SHORT},
    {"0f", M64, ISA_DECODE_SHORT},
    {"e80000", M64, ISA_DECODE_SHORT},
    {"8b84", M64, ISA_DECODE_SHORT},
    {"06", M64, ISA_DECODE_UD},      /* push es */
    {"0fff", M16, ISA_DECODE_SHORT}, /* UD0 has a ModRM byte */
    {"f089c0", M64, ISA_DECODE_UD},  /* lock mov */
    {"f00108", M64, ISA_DECODE_OK},
    {"f00fa308", M64, ISA_DECODE_UD},   /* lock bt */
    {"66c5f858c1", M64, ISA_DECODE_UD}, /* VEX after 66 */
    {"660f0f", M64, ISA_DECODE_SHORT},
    {"6666666666666666666666666666666666", M64, ISA_DECODE_TOO_LONG},
    {"66666666666666666666666666666690", M64, ISA_DECODE_TOO_LONG},
    {"666666666666666666666666666690", M64, ISA_DECODE_OK},
    {"66666666666666666666b80000000000000000", M64, ISA_DECODE_OK},
    {"67676767676767676767678b840000000000", M64, ISA_DECODE_TOO_LONG},
};

static void test_refused(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(refused); i++) {
        u8 bytes[32];
        struct isa_insn x;
        int r = isa_decode(refused[i].mode, bytes, from_hex(refused[i].hex, bytes), &x);
        if (r != refused[i].result)
            fail_msg("%s: %d, not %d", refused[i].hex, r, refused[i].result);
    }
}

static void test_format(void **state)
{
    char text[96], small[4];
    struct isa_insn x = decode(M64, "f30f1efa");
    assert_string_equal(isa_mnemonic_name(x.mnemonic), "nop");
    isa_format(&x, 0, text, sizeof(text));
    assert_string_equal(text, "endbr64");
    x = decode(M64, "eb10");
    isa_format(&x, 0x1000, text, sizeof(text));
    assert_non_null(strstr(text, "1012"));
    isa_format(&x, 0x1000, small, sizeof(small));
    assert_true(memchr(small, 0, sizeof(small)) != NULL);
    assert_string_equal(isa_mnemonic_name(0xffff), "?");
}

/* ---- random bytes ---- */

static u64 next_random(u64 *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

/* Bytes of which many decode: prefixes and escapes are more frequent than chance. */
static void random_bytes(u64 *s, u8 *b)
{
    static const u8 starts[][3] = {{0x66}, {0xf2}, {0xf3}, {0x67}, {0x48}, {0x0f}, {0x0f, 0x38}, {0x0f, 0x3a},
                                   {0xc4}, {0x62}, {0x64}, {0xf0}, {0x4f}, {0xc5}, {0x8f},       {0x0f, 0x01}};
    u64 r[2] = {next_random(s), next_random(s)};
    memcpy(b, r, 16);
    unsigned at = 0, n = next_random(s) & 3;
    for (unsigned i = 0; i < n; i++) {
        const u8 *p = starts[next_random(s) % ARRAY_LEN(starts)];
        b[at++] = p[0];
        if (p[1])
            b[at++] = p[1];
    }
    if (at && b[at - 1] == 0x62) {
        b[at] = (u8)((b[at] & 0xf0) | 0xf1 | (b[at] & 7));
        b[at + 1] |= 4;
    }
}

/* Prefixes, opcode, ModRM, SIB, displacement, immediate: in this order and without a gap. */
static void check_layout(const struct isa_insn *x)
{
    unsigned at = x->off_opcode + 1u;
    if (x->encoding == ISA_ENC_OTHER)
        return;
    assert_int_equal(x->bytes[x->off_opcode], x->opcode);
    if (x->off_modrm)
        assert_int_equal(x->off_modrm, at++);
    if (x->off_sib)
        assert_int_equal(x->off_sib, at++);
    if (x->disp_len) {
        assert_int_equal(x->off_disp, at);
        at += x->disp_len;
    }
    if (x->imm_len) {
        assert_int_equal(x->off_imm, at);
        at += x->imm_len;
    }
    assert_int_equal(at, x->len);
}

static void check_sane(const struct isa_insn *x, enum isa_mode mode)
{
    assert_in_range(x->len, 1, ISA_MAX_LEN);
    assert_true(x->off_opcode < x->len && x->off_rex < x->len);
    assert_true(x->op_size == 1 || x->op_size == 2 || x->op_size == 4 || (x->op_size == 8 && mode == M64));
    assert_true(x->addr_size == 2 || x->addr_size == 4 || (x->addr_size == 8 && mode == M64));
    assert_true(x->cls < ISA_CLASSES && x->n_ops <= ISA_MAX_OPS);
    assert_true(mode == M64 || !((x->gpr_read | x->gpr_written) & 0xff00) || x->cls != ISA_INNOCUOUS);
    assert_true((x->vec_written & ~x->vec_used) == 0 && (x->mask_written & ~x->mask_used) == 0);
    assert_true(x->mem.base < 16 || x->mem.base == ISA_NO_REG || x->mem.base == ISA_RIP_REG);
    assert_true(x->mem.index < 32 || x->mem.index == ISA_NO_REG);
    assert_true(x->mem.scale == 1 || x->mem.scale == 2 || x->mem.scale == 4 || x->mem.scale == 8);
    assert_true(x->mem.seg <= SEG_GS);
    check_layout(x);
}

/* Cut anywhere, an instruction is incomplete and never another one. */
static void check_prefixes(const struct isa_insn *x, enum isa_mode mode)
{
    struct isa_insn y;
    for (unsigned n = 1; n < x->len; n++)
        assert_int_equal(isa_decode(mode, x->bytes, n, &y), ISA_DECODE_SHORT);
    assert_int_equal(isa_decode(mode, x->bytes, x->len, &y), ISA_DECODE_OK);
    assert_memory_equal(&y, x, sizeof(y));
}

static void random_mode(enum isa_mode mode, u64 seed, unsigned count)
{
    unsigned good = 0;
    for (unsigned i = 0; i < count; i++) {
        u8 b[16];
        u64 s = seed + i * 0x9e3779b97f4a7c15ull, was = s | 1;
        struct isa_insn x;
        s = was;
        random_bytes(&s, b);
        int r = isa_decode(mode, b, ISA_MAX_LEN, &x);
        assert_true(r == ISA_DECODE_OK || r == ISA_DECODE_UD || r == ISA_DECODE_TOO_LONG);
        if (r)
            continue;
        good++;
        check_sane(&x, mode);
        if (i % 16 == 0)
            check_prefixes(&x, mode);
    }
    print_message("%u of %u decode\n", good, count);
    assert_true(good > count / 4);
}

/* How many byte strings a mode: TRAPEZE_TEST_COUNT, or enough for a second. */
static unsigned random_count(void)
{
    const char *s = getenv("TRAPEZE_TEST_COUNT");
    return s ? (unsigned)strtoul(s, NULL, 0) : 500000;
}

static void test_random_16(void **state)
{
    random_mode(M16, 1, random_count());
}
static void test_random_32(void **state)
{
    random_mode(M32, 2, random_count());
}
static void test_random_64(void **state)
{
    random_mode(M64, 3, random_count());
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_touched),   cmocka_unit_test(test_vectors),   cmocka_unit_test(test_memory),
        cmocka_unit_test(test_parts),     cmocka_unit_test(test_refused),   cmocka_unit_test(test_format),
        cmocka_unit_test(test_random_16), cmocka_unit_test(test_random_32), cmocka_unit_test(test_random_64),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
