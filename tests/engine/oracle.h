/*
 * The CPU in front of us as the oracle: the same case runs on silicon and on an engine, and everything that a program
 * could see must be equal.
 *
 *   oracle_case.c    makes a case from a seed: code, registers, memory
 *   oracle_native.c  runs cases on the host's processor, in a sealed child
 *   oracle_guest.c   runs cases on an engine, at CPL 3 of a bare struct cpu
 *   oracle.c         compares, reports, and is the program
 */
#ifndef TRAPEZE_TESTS_ORACLE_H
#define TRAPEZE_TESTS_ORACLE_H

#include "engine/engine.h"
#include "isa/decode.h"
#include "machine/cpu/cpu.h"
#include "machine/cpu/cpuid.h"

/*
 * The address space of a case, the same on both sides. Everything else is unmapped.
 *
 *   CODE   2 pages, readable and executable, filled with INT3 around the code
 *   DATA   2 pages, writable; then 1 page read-only
 *
 * 16-bit code has segments: CS begins at CODE, DS, ES and SS at DATA, each with a limit of 64 KiB. So its addresses, RIP and
 * RSP are offsets.
 */
#define ORACLE_CODE       0x10000000ull
#define ORACLE_CODE_SIZE  0x2000u
#define ORACLE_DATA       0x20000000ull
#define ORACLE_DATA_RW    0x2000u
#define ORACLE_DATA_SIZE  0x3000u
#define ORACLE_FS_BASE    (ORACLE_DATA + 0x840)
#define ORACLE_GS_BASE    (ORACLE_DATA + 0x1180)
#define ORACLE_TARGET     (ORACLE_CODE + 0x1400) /* where aimed jumps go: INT3s, never code */
#define ORACLE_TARGET_LEN 0x800u

#define ORACLE_PATTERNS   16 /* initial contents of DATA to choose from */
#define ORACLE_MAX_INSNS  16
#define ORACLE_MAX_CODE   (ORACLE_MAX_INSNS * ISA_MAX_LEN)

/* What a program can see of the processor. */
struct oracle_state {
    u64 gpr[CPU_GPRS];
    u64 rip, rflags;
    u8 fx[160]; /* x87 environment, MXCSR, ST registers: the start of an FXSAVE64 image */
    u64 k[8];
    struct cpu_vec zmm[32];
};

struct oracle_case {
    u64 seed;
    u8 mode; /* enum isa_mode: ISA_MODE_64; ISA_MODE_32 and ISA_MODE_16 in compatibility mode */
    struct oracle_state in;
    u8 code[ORACLE_MAX_CODE];
    u32 code_len, code_off; /* code_off: from ORACLE_CODE */
    u32 n_insns;
    u8 insn_end[ORACLE_MAX_INSNS];   /* where each ends in code[] */
    u16 undefined[ORACLE_MAX_INSNS]; /* flags that the manual leaves undefined behind each */
    u32 pattern;
    u64 plant_addr, plant_value; /* eight bytes put into DATA, at an address as the code sees it; 0: none */
    u16 undefined_flags;         /* those behind the last one so far */
    u16 mnemonic;                /* of the last instruction, for the summary */
};

struct oracle_result {
    struct oracle_state out;
    u8 vector;  /* how it ended: VEC_BP is the INT3 behind the code */
    u8 hung;    /* did not end, nothing else counts */
    u32 error;  /* the exception's error code */
    u64 cr2;    /* for a page fault */
    u64 memory; /* hash of DATA */
};

#define ORACLE_LIMIT16 0xffffu /* of the segments of 16-bit code */

/* What code and data addresses of a mode are relative to. */
static inline u64 oracle_code_base(u8 mode)
{
    return mode == ISA_MODE_16 ? ORACLE_CODE : 0;
}
static inline u64 oracle_data_base(u8 mode)
{
    return mode == ISA_MODE_16 ? ORACLE_DATA : 0;
}

/* ---- random numbers: reproducible from a seed ---- */

struct oracle_rng {
    u64 s;
};
u64 oracle_random(struct oracle_rng *r);
/* 0 to n - 1 */
u32 oracle_below(struct oracle_rng *r, u32 n);
static inline bool oracle_chance(struct oracle_rng *r, u32 percent)
{
    return oracle_below(r, 100) < percent;
}

/* ---- cases ---- */

struct oracle_forms; /* every encoding that is to be tested on this host */

/* Walk all opcode maps. `model` says what the guest (and so the test) may use; `narrow`: of 16-bit code alone. */
struct oracle_forms *oracle_forms_make(const struct cpu_model *model, bool narrow);
void oracle_forms_free(struct oracle_forms *f);
size_t oracle_forms_count(const struct oracle_forms *f);

/*
 * The case of a seed: the same one every time on the same kind of host. `sequence`, if not 0: two to that many instructions (at
 * most ORACLE_MAX_INSNS), most of them everyday ones that work with flags, registers and memory.
 */
void oracle_case_make(const struct oracle_forms *f, u64 seed, u32 sequence, struct oracle_case *c);
/* A case from given code of that mode: registers and memory as oracle_case_make would choose them. False if it does not decode. */
bool oracle_case_from_code(u64 seed, enum isa_mode mode, const u8 *code, size_t len, struct oracle_case *c);

/* Initial contents of DATA: ORACLE_PATTERNS of them. */
void oracle_pattern(u32 pattern, u8 data[ORACLE_DATA_SIZE]);
/* 0 if equal to `pristine`, else a hash. */
u64 oracle_hash(const u8 *data, const u8 *pristine);

/* ---- runners: results[i] for cases[i]; n at most ORACLE_BATCH ---- */

#define ORACLE_BATCH 64

struct oracle_native;
struct oracle_native *oracle_native_start(u64 xcr0);
void oracle_native_run(struct oracle_native *n, const struct oracle_case *cases, u32 count,
                       struct oracle_result *results);
/* Behind the first run: does this host's kernel give a process 16-bit segments? */
bool oracle_native_narrow(const struct oracle_native *n);
/* DATA as the last case of the last run left it. */
const u8 *oracle_native_data(const struct oracle_native *n);
void oracle_native_stop(struct oracle_native *n);

struct oracle_guest;
/* `test`: ENGINE_TEST_* */
struct oracle_guest *oracle_guest_start(const struct cpu_model *model, u64 xcr0, const struct engine_ops *ops,
                                        u32 test);
void oracle_guest_run(struct oracle_guest *g, const struct oracle_case *cases, u32 count,
                      struct oracle_result *results);
const u8 *oracle_guest_data(const struct oracle_guest *g);
void oracle_guest_stats(const struct oracle_guest *g, struct engine_stats *out);
void oracle_guest_stop(struct oracle_guest *g);

#endif
