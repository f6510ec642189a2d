/*
 * The oracle test: random and directed user-mode instructions, on silicon and on the interpreter.
 *
 *   test-engine-oracle [--count N] [--seed S]     N cases from seed S on (100,000 from 1)
 *   test-engine-oracle --case SEED                one case, everything shown
 *   test-engine-oracle --code HEX [--seed S]      given code instead of a random one; --count tries many states
 *   test-engine-oracle --self                     silicon against silicon: tests the test
 *   test-engine-oracle --sequence N               2 to N instructions a case: what one leaves behind, the next one finds
 *   test-engine-oracle --narrow                   16-bit code in segments of its own, by the host kernel's modify_ldt
 *   test-engine-oracle --engine NAME --test LIST  which engine (interp), and switches: single, nolink, evict
 *   test-engine-oracle --show N                   so many of the differences in full (10)
 *
 * Flags that the manual leaves undefined are not compared (the table in oracle_case.c), nor is the last x87 instruction's
 * address and opcode, which processors keep in different ways.
 */
#include "../engines.h"
#include "oracle.h"

#include <cpuid.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_MNEMONICS 4096

struct options {
    u64 count, seed;
    bool single, self, narrow;
    u32 sequence; /* most instructions of a case; 0: cases about one instruction */
    const char *engine;
    u32 test;
    u32 show;
    u8 code[ORACLE_MAX_CODE];
    size_t code_len;
};

struct oracle {
    struct options opt;
    struct cpu_model model;
    u64 xcr0;
    struct oracle_forms *forms;
    struct oracle_native *native, *native2;
    struct oracle_guest *guest;
    u64 failed, hung, faults;
    u32 failed_of[MAX_MNEMONICS];
    struct oracle_case cases[ORACLE_BATCH];
    struct oracle_result want[ORACLE_BATCH], got[ORACLE_BATCH];
};

static u64 host_xcr0(void)
{
    u32 a, d;
    __asm__ volatile("xgetbv" : "=a"(a), "=d"(d) : "c"(0));
    return (u64)d << 32 | a;
}

/* ---- comparing ---- */

/* Flags undefined where the case ended: behind it, at the instruction that faulted, or (a branch's target faults) wherever. */
static u16 undefined_at_end(const struct oracle_case *c, const struct oracle_result *r)
{
    u16 before = 0, any = 0;
    if (r->vector == VEC_BP)
        return c->undefined_flags;
    for (u32 i = 0; i < c->n_insns; i++) {
        if (r->out.rip == c->in.rip + (i ? c->insn_end[i - 1] : 0))
            return before | c->undefined[i];
        before = c->undefined[i];
        any |= before;
    }
    return any;
}

/* Flags that a program can see and that the manual defines. RF: faults push it set, traps clear. */
static u64 flags_mask(const struct oracle_case *c, const struct oracle_result *r)
{
    u16 undefined = undefined_at_end(c, r);
    return (FL_ARITH | FL_DF | FL_AC | FL_TF | FL_IF | FL_NT | FL_IOPL | FL_RF) & ~(u64)undefined;
}

/* The instruction that ended the case by a fault; false if it was none of the case's. */
static bool faulting_insn(const struct oracle_case *c, const struct oracle_result *r, struct isa_insn *x)
{
    for (u32 at = 0; at < c->code_len; at += x->len) {
        if (isa_decode(c->mode, c->code + at, c->code_len - at, x))
            return false;
        if (r->out.rip == c->in.rip + at)
            return true;
    }
    return false;
}

/*
 * What processors do beyond or beside the manual when an instruction faults; a model is free to differ. Seen on Intel's
 * Sapphire Rapids; other processors do as the manual says.
 */
#define SKIP_MEMORY      1u
#define SKIP_FX          2u
#define SKIP_MXCSR       4u
#define SKIP_CR2         8u
#define SKIP_STRING_HIGH 16u
#define SKIP_GPRS        32u
#define SKIP_VECTORS     64u
#define SKIP_FLAGS       128u

/* The other vendor's processors differ in places of their own; seen on family 1Ah. */
static bool on_amd(void)
{
    return __builtin_cpu_is("amd");
}

/* Whether a function of each of the case's instructions is true of one. */
static bool any_insn(const struct oracle_case *c, bool (*is)(const struct isa_insn *x))
{
    struct isa_insn x;
    for (u32 at = 0; at < c->code_len; at += x.len) {
        if (isa_decode(c->mode, c->code + at, c->code_len - at, &x))
            return false;
        if (is(&x))
            return true;
    }
    return false;
}

static bool stores_x87_pointers(const struct isa_insn *x)
{
    return x->mnemonic == ZYDIS_MNEMONIC_FNSTENV || x->mnemonic == ZYDIS_MNEMONIC_FNSAVE;
}

/* Outside 64-bit mode, with VEX.W, all of a register is moved: also what no program there can see. */
static bool moves_hidden_half(const struct isa_insn *x)
{
    return x->mnemonic == ZYDIS_MNEMONIC_KMOVD && x->mode != ISA_MODE_64 && (x->bytes[x->off_rex + 2] & 0x80);
}

static unsigned amd_quirks(const struct oracle_case *c, const struct oracle_result *r)
{
    struct isa_insn x;
    unsigned skip = any_insn(c, moves_hidden_half) ? SKIP_VECTORS : 0;
    /* Address, opcode and operand of the last x87 instruction are lost with every change of contexts, but for pending exceptions. */
    if (any_insn(c, stores_x87_pointers))
        skip |= SKIP_MEMORY;
    if (r->vector == VEC_BP || !faulting_insn(c, r, &x))
        return skip;
    /* The flags are those of the last element that was compared; and of two places that are missing, the other one is told of. */
    if (isa_is_string(&x))
        skip |= SKIP_FLAGS | SKIP_CR2;
    if (x.mem.vsib) /* a gather: what is above the destination, and its mask, go when it is done */
        skip |= SKIP_VECTORS;
    return skip;
}

/* Vectors in memory are checked by EFLAGS.AC, too: no engine does that (docs/engines.md). */
static bool amd_alignment(const struct oracle_case *c, const struct oracle_result *silicon)
{
    struct isa_insn x;
    if (!on_amd() || silicon->vector != VEC_AC || !faulting_insn(c, silicon, &x))
        return false;
    if (x.mnemonic == ZYDIS_MNEMONIC_MOVSXD) /* with 66: reads 32 bits to move 16 */
        return true;
    for (unsigned i = 0; i < x.n_ops; i++)
        if (x.op[i].kind == ISA_OP_MEM)
            return (x.vec_used || x.encoding != ISA_ENC_LEGACY) && x.op[i].size >= 8;
    return false;
}

static bool touches_mmx(const struct isa_insn *x)
{
    for (unsigned i = 0; i < x->n_ops; i++)
        if (x->op[i].kind == ISA_OP_REG && x->op[i].reg_class == ISA_REG_MMX)
            return true;
    return false;
}

static unsigned intel_quirks(const struct oracle_case *c, const struct oracle_result *r)
{
    struct isa_insn x;
    if (r->vector == VEC_BP || !faulting_insn(c, r, &x))
        return 0;
    /* A store to memory that faults has switched the unit to MMX: TOP is 0 already. */
    if (touches_mmx(&x))
        return SKIP_FX;
    /* The first element faults, and what is above ECX, ESI, EDI is gone already. */
    if (isa_is_string(&x) && x.addr_size == 4)
        return SKIP_STRING_HIGH;
    switch (x.mnemonic) {
    case ZYDIS_MNEMONIC_VCVTPS2PH: /* converts, flags and all, before it stores */
        return SKIP_MXCSR;
    case ZYDIS_MNEMONIC_PUSHA: /* which of the eight faults first */
    case ZYDIS_MNEMONIC_PUSHAD:
        return SKIP_CR2;
    case ZYDIS_MNEMONIC_POPA: /* what lies before the missing page may have been loaded */
    case ZYDIS_MNEMONIC_POPAD:
        return r->vector == VEC_PF ? SKIP_GPRS : 0;
    case ZYDIS_MNEMONIC_FBSTP: /* stored in parts, the first of which may have happened */
    case ZYDIS_MNEMONIC_FSTP:
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
        return r->vector == VEC_PF ? SKIP_MEMORY | SKIP_CR2 : 0;
    case ZYDIS_MNEMONIC_CALL: /* pushes before it looks at the target, but leaves RSP */
        return r->vector == VEC_GP ? SKIP_MEMORY : 0;
    default:
        return 0;
    }
}

static unsigned quirks(const struct oracle_case *c, const struct oracle_result *r)
{
    return intel_quirks(c, r) | (on_amd() ? amd_quirks(c, r) : 0);
}

/*
 * Error codes: whether a page is present counts only where the case maps something; the host's own pages are elsewhere
 * than the guest's.
 */
static u32 error_mask(const struct oracle_result *r)
{
    bool ours = (r->cr2 >= ORACLE_CODE && r->cr2 < ORACLE_CODE + 0x20000) ||
                (r->cr2 >= ORACLE_DATA && r->cr2 < ORACLE_DATA + 0x20000);
    return r->vector == VEC_PF && !ours ? (u32)(PF_W | PF_U | PF_I) : ~0u;
}

static bool same_x87(const u8 *a, const u8 *b)
{
    /* FCW, FSW, tags; the ST registers' ten bytes */
    if (memcmp(a, b, 5))
        return false;
    for (unsigned i = 0; i < 8; i++)
        if (memcmp(a + 32 + 16 * i, b + 32 + 16 * i, 10))
            return false;
    return true;
}

static bool same_gprs(const struct oracle_case *c, const struct oracle_state *a, const struct oracle_state *b,
                      unsigned skip)
{
    for (unsigned i = 0; i < CPU_GPRS; i++) {
        bool counter = i == RCX || i == RSI || i == RDI;
        bool low = c->mode != ISA_MODE_64 || (counter && (skip & SKIP_STRING_HIGH));
        u64 mask = low ? 0xffffffff : ~0ull;
        if ((a->gpr[i] ^ b->gpr[i]) & mask)
            return false;
    }
    return true;
}

static bool same_vectors(const struct oracle_state *a, const struct oracle_state *b)
{
    return !memcmp(a->k, b->k, sizeof(a->k)) && !memcmp(a->zmm, b->zmm, sizeof(a->zmm));
}

/*
 * An operand that wraps around at the end of a flat 4 GiB segment: #GP or not is the processor's choice (SDM vol. 3A,
 * 5.3).
 */
static bool wraps(const struct oracle_case *c, const struct oracle_result *silicon, const struct oracle_result *engine)
{
    bool limit = engine->vector == VEC_GP || engine->vector == VEC_SS;
    if (c->mode != ISA_MODE_64 && silicon->vector == VEC_AC && limit)
        return true;
    if (on_amd() && c->mode != ISA_MODE_64 && (silicon->vector == VEC_GP || silicon->vector == VEC_SS))
        return engine->vector == VEC_AC || (engine->vector == VEC_PF && engine->cr2 > 0xffffffff - 128);
    if (c->mode == ISA_MODE_64 || silicon->vector != VEC_PF)
        return false;
    return silicon->cr2 > 0xffffffff - 128 || (limit && silicon->cr2 < 128);
}

static bool is_masked_move(const struct isa_insn *x)
{
    return x->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPS || x->mnemonic == ZYDIS_MNEMONIC_VMASKMOVPD ||
           x->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVD || x->mnemonic == ZYDIS_MNEMONIC_VPMASKMOVQ;
}

/*
 * An operand that lies on both sides of its segment's limit, whose first part is on a page that is absent, or that has to be
 * aligned and is not: processors look at the limit first, at the page, or at the alignment.
 */
static bool straddles(const struct oracle_case *c, const struct oracle_result *silicon,
                      const struct oracle_result *engine)
{
    if (c->mode != ISA_MODE_16 || (engine->vector != VEC_GP && engine->vector != VEC_SS))
        return false;
    struct isa_insn x;
    /* Elements that a mask leaves out fault for no limit either: the engine does not go so far. */
    bool masked = faulting_insn(c, engine, &x) && x.encoding != ISA_ENC_LEGACY && (x.mask_used || is_masked_move(&x));
    if (masked)
        return true;
    if (silicon->vector == VEC_PF)
        return (silicon->cr2 & ORACLE_LIMIT16) > ORACLE_LIMIT16 - 128;
    return engine->vector == VEC_SS && silicon->vector == VEC_GP && silicon->out.rip == engine->out.rip;
}

/*
 * Faults that compete, where the processor's choice is not laid down: the two places of PUSH and POP with memory, the eight of
 * PUSHA, alignment checks of masked stores and half-precision conversions, and of x87 stores that an unmasked exception holds back.
 */
static bool either_fault(const struct oracle_case *c, const struct oracle_result *silicon,
                         const struct oracle_result *engine)
{
    struct isa_insn x;
    const struct oracle_result *faulted = silicon->vector == VEC_BP ? engine : silicon;
    if (engine->vector == VEC_AC && engine->out.rip < silicon->out.rip) /* of a sequence, the one that came first */
        faulted = engine;
    bool both = silicon->vector != VEC_BP && engine->vector != VEC_BP;
    bool alignment = silicon->vector == VEC_AC || engine->vector == VEC_AC;
    if (faulted->vector == VEC_BP || !faulting_insn(c, faulted, &x))
        return false;
    /* AMD looks at the other one of CMPS' two places first, and at both of BOUND's limits. */
    if (on_amd() && (isa_is_string(&x) || x.mnemonic == ZYDIS_MNEMONIC_BOUND))
        return both && silicon->out.rip == engine->out.rip;
    switch (x.mnemonic) {
    case ZYDIS_MNEMONIC_PUSH:
    case ZYDIS_MNEMONIC_POP:
        return both && x.op[0].kind == ISA_OP_MEM;
    case ZYDIS_MNEMONIC_PUSHA:
    case ZYDIS_MNEMONIC_PUSHAD:
        return both;
    case ZYDIS_MNEMONIC_MASKMOVQ:
    case ZYDIS_MNEMONIC_MASKMOVDQU:
    case ZYDIS_MNEMONIC_VMASKMOVDQU:
    case ZYDIS_MNEMONIC_VCVTPS2PH:
    case ZYDIS_MNEMONIC_VCVTPH2PS:
        return alignment;
    default:
        return alignment && (x.uses_x87 || (x.encoding == ISA_ENC_EVEX && x.mask_used)) && x.op[0].kind == ISA_OP_MEM &&
               x.op[0].written;
    }
}

/* `a` is silicon's result. */
static bool same(const struct oracle_case *c, const struct oracle_result *a, const struct oracle_result *b)
{
    if (a->hung || b->hung)
        return a->hung == b->hung;
    unsigned skip = quirks(c, a);
    if (wraps(c, a, b) || straddles(c, a, b) || either_fault(c, a, b) || amd_alignment(c, a))
        return true;
    u32 error = error_mask(a) & error_mask(b);
    if (a->vector != b->vector || a->out.rip != b->out.rip || ((a->error ^ b->error) & error))
        return false;
    return (a->cr2 == b->cr2 || skip & SKIP_CR2) && (a->memory == b->memory || skip & SKIP_MEMORY) &&
           (skip & SKIP_GPRS || same_gprs(c, &a->out, &b->out, skip)) &&
           ((a->out.rflags ^ b->out.rflags) & flags_mask(c, a) & (skip & SKIP_FLAGS ? ~FL_ARITH : ~0ull)) == 0 &&
           (skip & SKIP_FX || same_x87(a->out.fx, b->out.fx)) &&
           (skip & SKIP_MXCSR || !memcmp(a->out.fx + 24, b->out.fx + 24, 4)) &&
           (skip & SKIP_VECTORS || same_vectors(&a->out, &b->out));
}

/* ---- showing ---- */

static const char *const gpr_names[CPU_GPRS] = {"rax", "rcx", "rdx", "rbx", "rsp", "rbp", "rsi", "rdi",
                                                "r8",  "r9",  "r10", "r11", "r12", "r13", "r14", "r15"};

static void show_code(const struct oracle_case *c)
{
    for (u32 at = 0; at < c->code_len;) {
        struct isa_insn x;
        char text[120] = "(does not decode)";
        u32 len = c->code_len - at;
        if (!isa_decode(c->mode, c->code + at, len, &x)) {
            isa_format(&x, c->in.rip + at, text, sizeof(text));
            len = x.len;
        }
        printf("#   %08llx  ", (unsigned long long)(c->in.rip + at));
        for (u32 i = 0; i < 15; i++)
            i < len ? printf("%02x", c->code[at + i]) : printf("  ");
        printf("  %s\n", text);
        at += len;
    }
}

static void show_bytes(const char *name, unsigned n, const u8 *in, const u8 *a, const u8 *b, unsigned len)
{
    const struct {
        const char *what;
        const u8 *p;
    } rows[] = {{"before", in}, {"silicon", a}, {"engine", b}};
    for (size_t r = 0; r < ARRAY_LEN(rows); r++) {
        printf("#   %-8s %s%-2u ", rows[r].what, name, n);
        for (unsigned i = len; i-- > 0;)
            printf("%02x%s", rows[r].p[i], i && i % 8 == 0 ? "_" : "");
        printf("\n");
    }
}

static void show_word(const char *name, u64 in, u64 a, u64 b)
{
    printf("#   %-8s before %016llx  silicon %016llx  engine %016llx\n", name, (unsigned long long)in,
           (unsigned long long)a, (unsigned long long)b);
}

static void show_vectors(const struct oracle_case *c, const struct oracle_state *a, const struct oracle_state *b)
{
    for (unsigned i = 0; i < 32; i++)
        if (memcmp(&a->zmm[i], &b->zmm[i], 64))
            show_bytes("zmm", i, c->in.zmm[i].b, a->zmm[i].b, b->zmm[i].b, 64);
    for (unsigned i = 0; i < 8; i++) {
        if (a->k[i] != b->k[i])
            show_bytes("k", i, (const u8 *)&c->in.k[i], (const u8 *)&a->k[i], (const u8 *)&b->k[i], 8);
        if (memcmp(a->fx + 32 + 16 * i, b->fx + 32 + 16 * i, 10))
            show_bytes("st", i, c->in.fx + 32 + 16 * i, a->fx + 32 + 16 * i, b->fx + 32 + 16 * i, 10);
    }
    if (memcmp(a->fx, b->fx, 5))
        show_bytes("fcw,fsw,tags ", 0, c->in.fx, a->fx, b->fx, 5);
    if (memcmp(a->fx + 24, b->fx + 24, 4))
        show_bytes("mxcsr ", 0, c->in.fx + 24, a->fx + 24, b->fx + 24, 4);
}

/* The first bytes of DATA that differ: both runners must just have run this case alone. */
static void show_memory(const struct oracle_case *c, const u8 *a, const u8 *b)
{
    u8 before[ORACLE_DATA_SIZE];
    unsigned shown = 0;
    oracle_pattern(c->pattern, before);
    if (c->plant_addr)
        memcpy(before + (c->plant_addr + oracle_data_base(c->mode) - ORACLE_DATA), &c->plant_value, 8);
    for (unsigned i = 0; i < ORACLE_DATA_SIZE && shown < 16; i++)
        if (a[i] != b[i]) {
            printf("#   [%llx]  before %02x  silicon %02x  engine %02x\n", (unsigned long long)ORACLE_DATA + i,
                   before[i], a[i], b[i]);
            shown++;
        }
}

static void show_difference(const struct oracle_case *c, const struct oracle_result *a, const struct oracle_result *b)
{
    printf("#   silicon: vector %u error %x cr2 %llx%s;  engine: vector %u error %x cr2 %llx%s\n", a->vector, a->error,
           (unsigned long long)a->cr2, a->hung ? " HUNG" : "", b->vector, b->error, (unsigned long long)b->cr2,
           b->hung ? " HUNG" : "");
    if (a->hung || b->hung)
        return;
    for (unsigned i = 0; i < CPU_GPRS; i++)
        if (a->out.gpr[i] != b->out.gpr[i])
            show_word(gpr_names[i], c->in.gpr[i], a->out.gpr[i], b->out.gpr[i]);
    if (a->out.rip != b->out.rip)
        show_word("rip", c->in.rip, a->out.rip, b->out.rip);
    if ((a->out.rflags ^ b->out.rflags) & flags_mask(c, a))
        show_word("rflags", c->in.rflags, a->out.rflags, b->out.rflags);
    show_vectors(c, &a->out, &b->out);
}

static void run_second(struct oracle *o, const struct oracle_case *cases, u32 n, struct oracle_result *results)
{
    if (o->native2)
        oracle_native_run(o->native2, cases, n, results);
    else
        oracle_guest_run(o->guest, cases, n, results);
}

static void show_operands(const struct oracle_case *c)
{
    printf("#   before:");
    for (unsigned i = 0; i < CPU_GPRS; i++)
        printf(" %s=%llx", gpr_names[i], (unsigned long long)c->in.gpr[i]);
    printf(" rflags=%llx mxcsr=%08x\n", (unsigned long long)c->in.rflags, *(const u32 *)(const void *)(c->in.fx + 24));
}

/* An engine that stopped without a result has said why; there is nothing to compare. */
static void show_stopped(const struct oracle_case *c)
{
    printf("# case %llu: no result\n", (unsigned long long)c->seed);
    show_code(c);
}

/* Run one case alone again, so that memory can be shown, and print it. */
static void show_case(struct oracle *o, const struct oracle_case *c)
{
    struct oracle_result a, b;
    oracle_native_run(o->native, c, 1, &a);
    run_second(o, c, 1, &b);
    static const char *const modes[] = {[ISA_MODE_16] = " (16-bit)", [ISA_MODE_32] = " (32-bit)", [ISA_MODE_64] = ""};
    printf("# case %llu%s%s:\n", (unsigned long long)c->seed, modes[c->mode],
           same(c, &a, &b) ? " (equal when run alone)" : "");
    show_code(c);
    show_operands(c);
    show_difference(c, &a, &b);
    if (a.memory != b.memory)
        show_memory(c, oracle_native_data(o->native),
                    o->native2 ? oracle_native_data(o->native2) : oracle_guest_data(o->guest));
}

/* ---- running ---- */

static void make_case(struct oracle *o, u64 seed, struct oracle_case *c)
{
    if (!o->opt.code_len) {
        oracle_case_make(o->forms, seed, o->opt.sequence, c);
    } else if (!oracle_case_from_code(seed, o->opt.narrow ? ISA_MODE_16 : ISA_MODE_64, o->opt.code, o->opt.code_len,
                                      c)) {
        fprintf(stderr, "this code holds what does not decode or is not innocuous\n");
        exit(1);
    }
}

static void run_batch(struct oracle *o, u64 seed, u32 n)
{
    for (u32 i = 0; i < n; i++)
        make_case(o, seed + i, &o->cases[i]);
    oracle_native_run(o->native, o->cases, n, o->want);
    if (o->opt.narrow && !oracle_native_narrow(o->native)) {
        printf("ok 1 # SKIP this kernel gives processes no 16-bit segments\n");
        exit(0);
    }
    run_second(o, o->cases, n, o->got);
    for (u32 i = 0; i < n; i++) {
        const struct oracle_case *c = &o->cases[i];
        o->faults += o->want[i].vector != VEC_BP;
        o->hung += o->want[i].hung;
        if (same(c, &o->want[i], &o->got[i]))
            continue;
        o->failed_of[c->mnemonic % MAX_MNEMONICS]++;
        if (o->failed++ >= o->opt.show)
            continue;
        if (o->got[i].hung)
            show_stopped(c);
        else
            show_case(o, c);
    }
}

static void show_summary(const struct oracle *o)
{
    if (!o->failed)
        return;
    printf("# failed, by the last instruction:");
    for (unsigned i = 0; i < MAX_MNEMONICS; i++)
        if (o->failed_of[i])
            printf(" %s %u", isa_mnemonic_name((u16)i), o->failed_of[i]);
    printf("\n# again: --case NUMBER\n");
}

static int run_all(struct oracle *o)
{
    for (u64 done = 0; done < o->opt.count;) {
        u32 n = (u32)MIN(ORACLE_BATCH, o->opt.count - done);
        run_batch(o, o->opt.seed + done, n);
        done += n;
    }
    if (o->opt.single)
        show_case(o, &o->cases[0]);
    show_summary(o);
    printf("%s 1 - %llu cases from seed %llu, %zu forms, %llu faults, %llu hung, %llu differ\n",
           o->failed ? "not ok" : "ok", (unsigned long long)o->opt.count, (unsigned long long)o->opt.seed,
           oracle_forms_count(o->forms), (unsigned long long)o->faults, (unsigned long long)o->hung,
           (unsigned long long)o->failed);
    return o->failed || o->hung ? 1 : 0;
}

static size_t parse_hex(const char *s, u8 *out, size_t room)
{
    size_t n = 0;
    for (; s[0] && s[1] && n < room; s += 2) {
        char two[3] = {s[0], s[1], 0};
        out[n++] = (u8)strtoul(two, NULL, 16);
    }
    return n;
}

static bool parse_options(int argc, char **argv, struct options *opt)
{
    static const struct option longs[] = {
        {"count", required_argument, NULL, 'n'},
        {"seed", required_argument, NULL, 's'},
        {"case", required_argument, NULL, 'c'},
        {"code", required_argument, NULL, 'x'},
        {"self", no_argument, NULL, 'S'},
        {"narrow", no_argument, NULL, 'N'},
        {"sequence", required_argument, NULL, 'q'},
        {"engine", required_argument, NULL, 'e'},
        {"test", required_argument, NULL, 't'},
        {"show", required_argument, NULL, 'w'},
        {0},
    };
    *opt = (struct options){.count = 100000, .seed = 1, .engine = "interp", .test = ENGINE_TEST_EAGER, .show = 10};
    for (int o; (o = getopt_long(argc, argv, "", longs, NULL)) != -1;) {
        switch (o) {
        case 'n':
            opt->count = strtoull(optarg, NULL, 0);
            break;
        case 's':
            opt->seed = strtoull(optarg, NULL, 0);
            break;
        case 'c':
            opt->seed = strtoull(optarg, NULL, 0);
            opt->count = 1;
            opt->single = true;
            break;
        case 'x':
            opt->code_len = parse_hex(optarg, opt->code, sizeof(opt->code));
            break;
        case 'S':
            opt->self = true;
            break;
        case 'N':
            opt->narrow = true;
            break;
        case 'q':
            opt->sequence = (u32)strtoul(optarg, NULL, 0);
            break;
        case 'w':
            opt->show = (u32)strtoul(optarg, NULL, 0);
            break;
        case 'e':
            opt->engine = optarg;
            break;
        case 't':
            opt->test |= test_switches(optarg);
            break;
        default:
            return false;
        }
    }
    return !opt->sequence || (opt->sequence >= 2 && opt->sequence <= ORACLE_MAX_INSNS);
}

/* A translator that leaves most of the work to an interpreter is not what this run is about. */
static bool not_tested(const struct oracle *o)
{
    struct engine_stats s;
    if (!o->guest)
        return false;
    oracle_guest_stats(o->guest, &s);
    printf("# engine %s: %llu instructions, %llu interpreted, %llu called out, %llu quick, %llu blocks\n",
           o->opt.engine, (unsigned long long)s.instructions, (unsigned long long)s.interpreted,
           (unsigned long long)s.callouts, (unsigned long long)s.quick, (unsigned long long)s.blocks_made);
    if (s.interpreted <= s.instructions / 2)
        return false;
    printf("# most of it was interpreted\n");
    return true;
}

int main(int argc, char **argv)
{
    static struct oracle o;
    struct error e = {0};
    if (!parse_options(argc, argv, &o.opt))
        return 1;
    if (cpu_model_make(&o.model, "host", 1000000000, 1, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    const struct engine_ops *ops = test_engine(o.opt.engine);
    printf("1..1\n");
    o.xcr0 = host_xcr0() & o.model.xcr0_mask;
    o.forms = oracle_forms_make(&o.model, o.opt.narrow);
    o.native = oracle_native_start(o.xcr0);
    if (o.opt.self)
        o.native2 = oracle_native_start(o.xcr0);
    else
        o.guest = oracle_guest_start(&o.model, o.xcr0, ops, o.opt.test);
    int r = run_all(&o);
    if (not_tested(&o))
        r = 1;
    oracle_native_stop(o.native);
    if (o.native2)
        oracle_native_stop(o.native2);
    else
        oracle_guest_stop(o.guest);
    oracle_forms_free(o.forms);
    return r;
}
