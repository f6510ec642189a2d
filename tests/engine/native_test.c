/*
 * Native execution against the processor itself: each instruction of native_cases.S runs unchanged on a random register
 * state (native_exec.S), then through native_run, and everything that a program could see must be equal: registers,
 * flags, vectors, masks, the x87 image with its pointers, MXCSR, memory, or the fault and its address.
 *
 * Guest-linear addresses are host addresses here. The arena's pages are accessible, missing or read-only, and each
 * environment below makes the instructions' pointers fall on other places of it.
 */
#include "base/bytes.h"
#include "engine/interp/native.h"
#include "host/host.h"

#include <cpuid.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#include <cmocka.h>

struct exec_state {
    u64 gpr[CPU_GPRS];
    u64 rflags, reserved[7];
    u8 fx[512];
    u64 k[8];
    struct cpu_vec v[32];
} __attribute__((aligned(64)));

extern const u8 native_cases64[], native_cases64_end[], native_cases32[], native_cases32_end[], native_cases16[],
    native_cases16_end[], native_cases3264[], native_cases3264_end[];
/* Shared with native_exec.S */
struct exec_state exec_state;
const u8 *exec_target;
u8 exec_width, exec_done;
void exec_enter(void);
void exec_ok(void);
void exec_back(void);

/* --- the arena --- */

#define ARENA       0x50000000ull
#define ARENA_PAGES 8u
#define ARENA_SIZE  (ARENA_PAGES * PAGE_SIZE)
#define RESERVE     (64ull << 20) /* nothing else lies this close, on either side */
#define RW          (PROT_READ | PROT_WRITE)

static const u8 arena_prot[ARENA_PAGES] = {RW, RW, RW, RW, PROT_NONE, RW, PROT_NONE, PROT_READ};

struct env {
    const char *name;
    u64 from; /* pointers lie at from + random(spread) & ~(align - 1) */
    u32 spread, align;
    bool unmasked; /* floating-point exceptions are not masked */
};

static const struct env envs[] = {
    {"aligned", ARENA + 64, 4096, 64, false},
    {"misaligned", ARENA + 64, 4096, 1, false},
    {"page border", ARENA + PAGE_SIZE - 64, 64, 1, false},
    {"missing behind", ARENA + 4 * PAGE_SIZE - 64, 64, 1, false},
    {"missing", ARENA + 4 * PAGE_SIZE, 4000, 1, false},
    {"missing before", ARENA + 5 * PAGE_SIZE - 64, 64, 1, false},
    {"read-only", ARENA + 7 * PAGE_SIZE, 2048, 16, false},
    {"read-only behind missing", ARENA + 7 * PAGE_SIZE - 64, 64, 1, false},
    {"unmasked exceptions", ARENA + 64, 4096, 64, true},
    {"not canonical", 0x1234567812340000ull, 4096, 8, false},
};

struct fixture {
    struct native *native;
    struct host_code code;
    struct cpu *cpu, *before;
    struct isa isa;
    struct isa_ops ops;
    u8 *pristine, *real; /* copies of the arena */
    u64 rng;
    bool keeps_pointers;
};

static u64 rnd(struct fixture *f)
{
    f->rng ^= f->rng << 13;
    f->rng ^= f->rng >> 7;
    f->rng ^= f->rng << 17;
    return f->rng * 0x2545f4914f6cdd1dull;
}

static u64 below(struct fixture *f, u64 n)
{
    return (rnd(f) >> 16) % n;
}

/* --- the operations: memory is the arena --- */

static int access_arena(struct cpu *c, u64 va, unsigned len, int prot)
{
    for (u64 a = va; a < va + len; a = (a | (PAGE_SIZE - 1)) + 1) {
        u64 page = (a - ARENA) >> PAGE_SHIFT;
        if (a < ARENA || page >= ARENA_PAGES || (arena_prot[page] & prot) != prot)
            return cpu_raise_pf(c, GVA(a), 0);
    }
    return CPU_OK;
}

static int op_read(void *ctx, gva_t va, void *buf, unsigned len, enum isa_access acc)
{
    struct fixture *f = ctx;
    if (access_arena(f->cpu, va.v, len, PROT_READ))
        return CPU_FAULT;
    memcpy(buf, (const void *)va.v, len);
    return CPU_OK;
}

static int op_write(void *ctx, gva_t va, const void *buf, unsigned len, enum isa_access acc)
{
    struct fixture *f = ctx;
    if (access_arena(f->cpu, va.v, len, RW))
        return CPU_FAULT;
    memcpy((void *)va.v, buf, len);
    return CPU_OK;
}

static int op_probe_write(void *ctx, gva_t va, unsigned len, enum isa_access acc)
{
    struct fixture *f = ctx;
    return access_arena(f->cpu, va.v, len, RW);
}

static void arena_copy(u8 *to, const u8 *from)
{
    for (unsigned p = 0; p < ARENA_PAGES; p++)
        if (arena_prot[p] == RW)
            memcpy(to + p * PAGE_SIZE, from + p * PAGE_SIZE, PAGE_SIZE);
}

/* --- random states --- */

static u64 random_double(struct fixture *f)
{
    static const u64 special[] = {0,
                                  BIT(63),
                                  0x3ff0000000000000,
                                  0x7ff0000000000000,
                                  0xfff8000000000001,
                                  1,
                                  0x000fffffffffffff,
                                  0x7ff0000000000001,
                                  0x4024000000000000};
    switch (below(f, 4)) {
    case 0:
        return special[below(f, ARRAY_LEN(special))];
    case 1:
        return 0x3fe0000000000000 + (rnd(f) >> 8); /* around 1 */
    default:
        return rnd(f);
    }
}

static u32 random_float(struct fixture *f)
{
    static const u32 special[] = {0, 0x80000000, 0x3f800000, 0x7f800000, 0xffc00001, 1, 0x007fffff, 0x7f800001};
    switch (below(f, 3)) {
    case 0:
        return special[below(f, ARRAY_LEN(special))];
    case 1:
        return (u32)(0x3f000000 + (rnd(f) >> 40));
    default:
        return (u32)rnd(f);
    }
}

static void random_vector(struct fixture *f, u8 *b, unsigned len)
{
    bool floats = below(f, 2);
    for (unsigned i = 0; i < len; i += 8) {
        u64 v = floats ? random_float(f) | (u64)random_float(f) << 32 : random_double(f);
        memcpy(b + i, &v, 8);
    }
}

/* An x87 register: a random finite number, zero, infinity, NaN or denormal. */
static void random_st(struct fixture *f, u8 *b)
{
    u64 m = rnd(f) | BIT(63);
    u16 e = (u16)(0x3ff0 + below(f, 32)) | (u16)(rnd(f) >> 63 << 15);
    switch (below(f, 8)) {
    case 0:
        m = 0, e &= 0x8000;
        break;
    case 1:
        m = BIT(63), e |= 0x7fff;
        break;
    case 2:
        e |= 0x7fff;
        break;
    case 3:
        m &= ~BIT(63), e &= 0x8000;
        break;
    }
    memcpy(b, &m, 8);
    memcpy(b + 8, &e, 2);
}

static void random_fx(struct fixture *f, u8 *fx, bool unmasked)
{
    u16 fcw = (u16)(0x37f | below(f, 16) << 8), fsw = (u16)((rnd(f) & 0x4700) | below(f, 8) << 11);
    u32 mxcsr = (u32)(0x1f80 | (rnd(f) & 0xe07f));
    if (unmasked) {
        fcw &= (u16)(0xffc0 | rnd(f));
        mxcsr &= (u32)(~0x1f80ull | rnd(f));
        fsw |= rnd(f) & 0x3f & (below(f, 4) ? fcw : 0xffff);
        fsw |= fsw & ~fcw & 0x3f ? 0x8080 : 0;
    }
    memset(fx, 0, 512);
    memcpy(fx, &fcw, 2);
    memcpy(fx + 2, &fsw, 2);
    fx[4] = (u8)(below(f, 4) ? 0xff : rnd(f));
    u16 fop = (u16)below(f, 0x800);
    u64 fip = rnd(f) >> 17, fdp = rnd(f) >> 17;
    memcpy(fx + 6, &fop, 2);
    memcpy(fx + 8, &fip, 8);
    memcpy(fx + 16, &fdp, 8);
    memcpy(fx + 24, &mxcsr, 4);
    for (unsigned i = 0; i < 8; i++)
        random_st(f, fx + 32 + 16 * i);
}

static u64 random_pointer(struct fixture *f, const struct env *e)
{
    return e->from + (below(f, e->spread) & ~(u64)(e->align - 1));
}

static void random_gprs(struct fixture *f, const struct env *e, u64 *gpr)
{
    static const u8 pointers[] = {RBX, RSP, RBP, RSI, RDI, R12, R13};
    for (unsigned i = 0; i < CPU_GPRS; i++)
        gpr[i] = below(f, 3) ? rnd(f) : below(f, 70);
    for (unsigned i = 0; i < ARRAY_LEN(pointers); i++)
        gpr[pointers[i]] = random_pointer(f, e);
    gpr[R9] = below(f, 3) * 8;
}

/* One index: mostly within the arena, sometimes far off but within the reserve. */
static s64 random_index(struct fixture *f)
{
    s64 far = (s64)(RESERVE / 8 / 2);
    return below(f, 12) ? (s64)below(f, 96) - 16 : (s64)below(f, (u64)far) - far / 2;
}

/* Vectors 5 and 6 are the indices of gathers: an address of nobody must not be hit, scatters would write there. */
static void random_indices(struct fixture *f, struct cpu_fpu *fpu)
{
    for (unsigned i = 0; i < 16; i++) {
        s32 d = (s32)random_index(f);
        memcpy(fpu->zmm[5].b + 4 * i, &d, 4);
    }
    for (unsigned i = 0; i < 8; i++) {
        s64 q = below(f, 16) ? random_index(f) : (s64)(BIT(58) + rnd(f) % BIT(50)); /* not canonical */
        memcpy(fpu->zmm[6].b + 8 * i, &q, 8);
    }
}

static void random_state(struct fixture *f, const struct env *e)
{
    struct cpu *c = f->cpu;
    random_gprs(f, e, c->gpr);
    c->arith = cpu_flags_to_arith(rnd(f));
    random_fx(f, c->fpu.fx, e->unmasked);
    for (unsigned i = 0; i < 32; i++)
        random_vector(f, c->fpu.zmm[i].b, 64);
    for (unsigned i = 0; i < 8; i++)
        c->fpu.k[i] = below(f, 8) ? rnd(f) & rnd(f) : 0;
    random_indices(f, &c->fpu);
    for (unsigned p = 0; p < ARENA_PAGES; p++)
        if (arena_prot[p] == RW)
            random_vector(f, f->pristine + p * PAGE_SIZE, PAGE_SIZE);
    /* mostly an MXCSR or environment that can be loaded */
    for (unsigned i = RBX; i <= R13 && below(f, 4); i++)
        if (c->gpr[i] - ARENA < 4 * PAGE_SIZE - 4)
            memset(f->pristine + (c->gpr[i] - ARENA) + 2, 0, 2);
}

/* --- the real thing --- */

static void run_real(struct fixture *f, const u8 *insn, unsigned len)
{
    static const u8 jump[] = {0xff, 0x25, 0, 0, 0, 0};
    const struct cpu *c = f->cpu;
    void (*back)(void) = exec_ok;

    memcpy(f->code.rw + 64, insn, len);
    memcpy(f->code.rw + 64 + len, jump, sizeof(jump));
    memcpy(f->code.rw + 64 + len + sizeof(jump), &back, sizeof(back));
    exec_target = f->code.rx + 64;
    memcpy(exec_state.gpr, c->gpr, sizeof(c->gpr));
    exec_state.rflags = cpu_arith_to_flags(c->arith) | FL_ONE | FL_IF;
    memcpy(exec_state.fx, c->fpu.fx, sizeof(c->fpu.fx));
    memcpy(exec_state.k, c->fpu.k, sizeof(c->fpu.k));
    memcpy(exec_state.v, c->fpu.zmm, sizeof(c->fpu.zmm));
    arena_copy((u8 *)ARENA, f->pristine);
    exec_enter();
    arena_copy(f->real, (u8 *)ARENA);
    arena_copy((u8 *)ARENA, f->pristine);
}

/* --- comparison --- */

static unsigned differences(struct fixture *f, const struct isa_insn *insn, const struct env *e, const char *what)
{
    char text[96];
    isa_format(insn, 0, text, sizeof(text));
    print_error("%s, %s: %s differs\n", text, e->name, what);
    return 1;
}

static unsigned compare_fault(struct fixture *f, const struct isa_insn *insn, const struct env *e, int rc)
{
    const struct cpu *c = f->cpu;
    char text[96];
    u8 vector = exec_state.gpr[RAX] & 0xff;
    u64 address = exec_state.gpr[RDX];
    if (exec_done != (rc == CPU_OK) || rc > CPU_FAULT) {
        print_error("rc %d, vector %u address %llx%s; processor: done %u, vector %u address %llx\n", rc,
                    c->fault.vector, (unsigned long long)c->fault.address, rc > CPU_FAULT ? c->stop_reason : "",
                    exec_done, vector, (unsigned long long)address);
        return differences(f, insn, e, "outcome");
    }
    if (exec_done || (vector == c->fault.vector && (vector != VEC_PF || c->fault.address == address)))
        return 0;
    isa_format(insn, 0, text, sizeof(text));
    print_error("%s, %s: vector %u address %llx, processor: %u %llx\n", text, e->name, c->fault.vector,
                (unsigned long long)c->fault.address, vector, (unsigned long long)address);
    return 1;
}

static unsigned compare(struct fixture *f, const struct isa_insn *insn, const struct env *e, int rc)
{
    struct cpu *c = f->cpu;
    unsigned bad = compare_fault(f, insn, e, rc);
    if (bad)
        return bad;
    const u64 *gpr = exec_done ? exec_state.gpr : f->before->gpr; /* the fault handler used two of them */
    if (memcmp(c->gpr, gpr, sizeof(c->gpr)))
        bad += differences(f, insn, e, "a general register");
    if ((exec_state.rflags & FL_ARITH) != (cpu_rflags(c) & FL_ARITH))
        bad += differences(f, insn, e, "a flag");
    /* What a gather that faults leaves of its destination above, and of its mask, is the processor's affair: AMD's differ from ours. */
    bool gather = !exec_done && insn->mem.vsib && __builtin_cpu_is("amd");
    for (unsigned i = 0; i < (exec_width == 64 ? 32 : 16) && !gather; i++)
        if (memcmp(c->fpu.zmm[i].b, exec_state.v[i].b, exec_width))
            bad += differences(f, insn, e, "a vector register");
    if (exec_width == 64 && memcmp(c->fpu.k, exec_state.k, sizeof(c->fpu.k)))
        bad += differences(f, insn, e, "a mask");
    if (memcmp(c->fpu.fx + 24, exec_state.fx + 24, 4))
        bad += differences(f, insn, e, "MXCSR");
    if (memcmp(c->fpu.fx, exec_state.fx, 6) || memcmp(c->fpu.fx + 32, exec_state.fx + 32, 128))
        bad += differences(f, insn, e, "the x87 state");
    if (f->keeps_pointers && memcmp(c->fpu.fx + 6, exec_state.fx + 6, 18))
        bad += differences(f, insn, e, "an x87 pointer");
    /* A faulting x87 store of more than 8 bytes may have written a part: processors differ. */
    bool partial = !exec_done && insn->uses_x87 && insn->op[0].size > 8;
    for (unsigned p = 0; p < ARENA_PAGES && !partial; p++)
        if (arena_prot[p] == RW && memcmp((u8 *)ARENA + p * PAGE_SIZE, f->real + p * PAGE_SIZE, PAGE_SIZE))
            bad += differences(f, insn, e, "memory");
    return bad;
}

static const struct native_stub *prepare(struct fixture *f, const struct isa_insn *insn)
{
    char text[96];
    const char *why = "";
    const struct native_stub *s = native_prepare(f->native, insn, &why);
    if (s)
        return s;
    isa_format(insn, 0, text, sizeof(text));
    fail_msg("%s %s", text, why);
    return NULL;
}

static unsigned run_case(struct fixture *f, const struct isa_insn *insn, const struct env *e, u64 seed)
{
    f->rng = seed;
    random_state(f, e);
    f->cpu->rip = (u64)(uintptr_t)f->code.rx + 64;
    f->cpu->fault = (struct cpu_fault){0};
    *f->before = *f->cpu;
    run_real(f, insn->bytes, insn->len);
    int rc = native_run(f->native, &f->isa, insn, prepare(f, insn));
    unsigned bad = compare(f, insn, e, rc);
    if (bad)
        print_error("seed %llu\n", (unsigned long long)seed);
    return bad;
}

/* --- set-up --- */

/* AMD's FXSAVE and FXRSTOR leave the pointers out while no exception is pending (APM vol. 5, FXSAVE). */
static bool fxsave_keeps_pointers(void)
{
    u8 image[512] __attribute__((aligned(16))) = {0};
    __asm__ volatile("fninit\n\tfld1\n\tfxsave64 %0\n\tfninit" : "=m"(image));
    return get_le64(image + 8) != 0;
}

static int setup(void **state)
{
    struct fixture *f = calloc(1, sizeof(*f));
    struct error e = {0};
    void *reserve = (void *)(ARENA - RESERVE), *arena = (void *)ARENA;
    int flags = MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE | MAP_FIXED_NOREPLACE;
    if (!f || mmap(reserve, 2 * RESERVE, PROT_NONE, flags, -1, 0) != reserve || mprotect(arena, ARENA_SIZE, RW))
        return -1;
    memset(arena, 0x5a, ARENA_SIZE);
    for (unsigned p = 0; p < ARENA_PAGES; p++)
        mprotect((u8 *)arena + p * PAGE_SIZE, PAGE_SIZE, arena_prot[p]);
    f->cpu = aligned_alloc(64, (sizeof(struct cpu) + 63) & ~63ul);
    f->before = aligned_alloc(64, (sizeof(struct cpu) + 63) & ~63ul);
    f->keeps_pointers = fxsave_keeps_pointers();
    f->pristine = calloc(1, ARENA_SIZE);
    f->real = calloc(1, ARENA_SIZE);
    if (native_create(&f->native, 1 << 20, &e) || host_code_create(&f->code, PAGE_SIZE, &e))
        return -1;
    if (host_fault_region_add(f->code.rx, f->code.rx + PAGE_SIZE, (const u8 *)(uintptr_t)exec_back, false))
        return -1;
    memset(f->cpu, 0, sizeof(*f->cpu));
    f->cpu->cr0 = CR0_PE | CR0_MP | CR0_NE | CR0_PG;
    f->cpu->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    f->cpu->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;
    f->cpu->efer = EFER_LMA | EFER_LME;
    f->cpu->seg[SEG_CS].attr = SEG_L | SEG_P | SEG_S | SEG_CODE;
    f->ops = (struct isa_ops){.read = op_read, .write = op_write, .probe_write = op_probe_write};
    f->isa = (struct isa){.cpu = f->cpu, .ops = &f->ops, .ctx = f};
    __builtin_cpu_init();
    exec_width = __builtin_cpu_supports("avx512bw") ? 64 : __builtin_cpu_supports("avx") ? 32 : 16;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fixture *f = *state;
    host_fault_region_remove(f->code.rx);
    host_code_destroy(&f->code);
    native_destroy(f->native);
    munmap((void *)(ARENA - RESERVE), 2 * RESERVE);
    free(f->pristine);
    free(f->real);
    free(f->cpu);
    free(f->before);
    free(f);
    return 0;
}

/* cmocka puts its own handlers in place before each test. */
static void claim_faults(void)
{
    struct error e = {0};
    assert_int_equal(host_fault_init(&e), 0);
}

/* --- tests --- */

#define MAX_REPORT 3 /* failures of one instruction */

/* Random states for each instruction and environment: the program's argument. */
static unsigned rounds = 6;

static void test_against_processor(void **state)
{
    struct fixture *f = *state;
    unsigned failed = 0, n = 0;
    claim_faults();
    for (const u8 *p = native_cases64; p < native_cases64_end;) {
        struct isa_insn insn;
        unsigned bad = 0;
        assert_int_equal(isa_decode(ISA_MODE_64, p, (size_t)(native_cases64_end - p), &insn), ISA_DECODE_OK);
        for (unsigned e = 0; e < ARRAY_LEN(envs) && bad < MAX_REPORT; e++)
            for (unsigned i = 0; i < rounds && bad < MAX_REPORT; i++, n++)
                bad += run_case(f, &insn, &envs[e], 1 + (n + 1) * 0x9e3779b97f4a7c15ull);
        failed += bad > 0;
        p += insn.len;
    }
    print_message("%u cases\n", n);
    assert_int_equal(failed, 0);
}

/* What a program sees, of two runs. */
static bool same_state(const struct cpu *a, const struct cpu *b)
{
    return memcmp(a->gpr, b->gpr, sizeof(a->gpr)) == 0 && a->arith == b->arith &&
           memcmp(a->fpu.zmm, b->fpu.zmm, sizeof(a->fpu.zmm)) == 0 &&
           memcmp(a->fpu.k, b->fpu.k, sizeof(a->fpu.k)) == 0 && memcmp(a->fpu.fx, b->fpu.fx, 160) == 0;
}

/* Run `insn` on the state in f->before; what it did to memory is left in f->real. */
static int run_copy(struct fixture *f, const struct isa_insn *insn)
{
    *f->cpu = *f->before;
    f->cpu->seg[SEG_CS].attr = SEG_P | SEG_S | SEG_CODE | SEG_RW | (insn->mode == ISA_MODE_64 ? SEG_L : SEG_DB);
    arena_copy((u8 *)ARENA, f->pristine);
    int rc = native_run(f->native, &f->isa, insn, prepare(f, insn));
    arena_copy(f->real, (u8 *)ARENA);
    return rc;
}

/* Each instruction of 16- or 32-bit code does what its 64-bit spelling does. */
static unsigned compare_narrow(struct fixture *f, enum isa_mode mode, const u8 *p, const u8 *end)
{
    const u8 *q = native_cases3264;
    struct isa_insn narrow, wide;
    struct cpu *after = aligned_alloc(64, sizeof(*after));
    u8 *memory = malloc(ARENA_SIZE);
    unsigned bad = 0, n = 0;

    assert_true(after && memory);
    while (p < end) {
        assert_int_equal(isa_decode(mode, p, (size_t)(end - p), &narrow), ISA_DECODE_OK);
        assert_int_equal(isa_decode(ISA_MODE_64, q, (size_t)(native_cases3264_end - q), &wide), ISA_DECODE_OK);
        for (unsigned i = 0; i < 4; i++) {
            f->rng = 77 + ++n;
            random_state(f, &envs[0]);
            *f->before = *f->cpu;
            int rc = run_copy(f, &wide);
            *after = *f->cpu;
            memcpy(memory, f->real, ARENA_SIZE);
            if (run_copy(f, &narrow) != rc || !same_state(after, f->cpu) || memcmp(memory, f->real, ARENA_SIZE))
                bad += differences(f, &narrow, &envs[0], "from its 64-bit form, something");
        }
        p += narrow.len;
        q += wide.len;
    }
    assert_ptr_equal(q, native_cases3264_end);
    free(memory);
    free(after);
    return bad;
}

static void test_narrow_modes(void **state)
{
    struct fixture *f = *state;
    struct cpu_segment flat = {.limit = 0xffffffff, .attr = SEG_P | SEG_S | SEG_RW | SEG_DB | SEG_G};
    claim_faults();
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        f->cpu->seg[i] = flat;
    unsigned bad = compare_narrow(f, ISA_MODE_32, native_cases32, native_cases32_end);
    bad += compare_narrow(f, ISA_MODE_16, native_cases16, native_cases16_end);
    f->cpu->seg[SEG_CS].attr = SEG_L | SEG_P | SEG_S | SEG_CODE;
    assert_int_equal(bad, 0);
}

/* Bytes that decode, and what becomes of them. */
struct spelled {
    u8 mode;
    u8 bytes[8];
};

static struct isa_insn decode(const struct spelled *s)
{
    struct isa_insn insn;
    assert_int_equal(isa_decode((enum isa_mode)s->mode, s->bytes, sizeof(s->bytes), &insn), ISA_DECODE_OK);
    return insn;
}

static int run_spelled(struct fixture *f, const struct spelled *s)
{
    struct isa_insn insn = decode(s);
    return native_run(f->native, &f->isa, &insn, prepare(f, &insn));
}

static void test_refused(void **state)
{
    static const struct spelled list[] = {
        {ISA_MODE_32, {0x40}},                   /* inc eax: REX in 64-bit mode */
        {ISA_MODE_32, {0x27}},                   /* daa */
        {ISA_MODE_32, {0xd4, 0x0a}},             /* aam */
        {ISA_MODE_32, {0x60}},                   /* pusha */
        {ISA_MODE_64, {0x50}},                   /* push rax */
        {ISA_MODE_64, {0xa4}},                   /* movsb */
        {ISA_MODE_64, {0xd7}},                   /* xlat */
        {ISA_MODE_64, {0xfd}},                   /* std */
        {ISA_MODE_64, {0xf4}},                   /* hlt */
        {ISA_MODE_64, {0x0f, 0x05}},             /* syscall */
        {ISA_MODE_64, {0x0f, 0xa2}},             /* cpuid */
        {ISA_MODE_64, {0xc3}},                   /* ret */
        {ISA_MODE_64, {0x8c, 0xd8}},             /* mov eax, ds */
        {ISA_MODE_64, {0x8d, 0x03}},             /* lea eax, [rbx] */
        {ISA_MODE_64, {0x0f, 0xa3, 0x03}},       /* bt [rbx], eax */
        {ISA_MODE_64, {0x0f, 0xae, 0x03}},       /* fxsave [rbx] */
        {ISA_MODE_64, {0xf3, 0x0f, 0xae, 0xc0}}, /* rdfsbase eax */
    };
    struct fixture *f = *state;
    for (unsigned i = 0; i < ARRAY_LEN(list); i++) {
        struct isa_insn insn = decode(&list[i]);
        const char *why = NULL;
        assert_null(native_prepare(f->native, &insn, &why));
        assert_non_null(why);
    }
}

/* Control bits, the instruction, and the exception that it raises (-1: none). */
static const struct gate_row {
    u64 cr0, cr4, xcr0;
    struct spelled insn;
    int vector;
} gate_rows[] = {
#define CR4_ON  (CR4_OSFXSR | CR4_OSXSAVE)
#define XCR0_ON (XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512)
    {CR0_PE | CR0_TS, CR4_ON, XCR0_ON, {ISA_MODE_64, {0xd9, 0xe8}}, VEC_NM}, /* fld1 */
    {CR0_PE | CR0_EM, CR4_ON, XCR0_ON, {ISA_MODE_64, {0xd9, 0xe8}}, VEC_NM},
    {CR0_PE | CR0_TS, CR4_ON, XCR0_ON, {ISA_MODE_64, {0x9b}}, -1}, /* fwait */
    {CR0_PE | CR0_EM, CR4_ON, XCR0_ON, {ISA_MODE_64, {0x9b}}, -1},
    {CR0_PE | CR0_TS | CR0_MP, CR4_ON, XCR0_ON, {ISA_MODE_64, {0x9b}}, VEC_NM},
    {CR0_PE | CR0_TS, CR4_ON, XCR0_ON, {ISA_MODE_64, {0x0f, 0xfc, 0xc1}}, VEC_NM}, /* paddb mm0, mm1 */
    {CR0_PE | CR0_EM, CR4_ON, XCR0_ON, {ISA_MODE_64, {0x0f, 0xfc, 0xc1}}, VEC_UD},
    {CR0_PE, 0, XCR0_ON, {ISA_MODE_64, {0x0f, 0xfc, 0xc1}}, -1},
    {CR0_PE, 0, XCR0_ON, {ISA_MODE_64, {0x0f, 0x58, 0xc1}}, VEC_UD}, /* addps xmm0, xmm1 */
    {CR0_PE | CR0_EM, CR4_ON, XCR0_ON, {ISA_MODE_64, {0x0f, 0x58, 0xc1}}, VEC_UD},
    {CR0_PE | CR0_TS, CR4_ON, XCR0_ON, {ISA_MODE_64, {0x0f, 0x58, 0xc1}}, VEC_NM},
    {CR0_PE | CR0_TS | CR0_EM, 0, XCR0_ON, {ISA_MODE_64, {0x0f, 0x58, 0xc1}}, VEC_UD},
    {CR0_PE, CR4_OSFXSR, 0, {ISA_MODE_64, {0x0f, 0x58, 0xc1}}, -1},
    {CR0_PE, CR4_OSFXSR, XCR0_ON, {ISA_MODE_64, {0xc5, 0xf0, 0x58, 0xc2}}, VEC_UD}, /* vaddps xmm0, xmm1, xmm2 */
    {CR0_PE, CR4_ON, XCR0_X87 | XCR0_SSE, {ISA_MODE_64, {0xc5, 0xf0, 0x58, 0xc2}}, VEC_UD},
    {CR0_PE | CR0_TS, CR4_ON, XCR0_ON, {ISA_MODE_64, {0xc5, 0xf0, 0x58, 0xc2}}, VEC_NM},
    {CR0_PE, CR4_ON, 7, {ISA_MODE_64, {0xc5, 0xf0, 0x58, 0xc2}}, -1},
    {CR0_PE, CR4_ON, 7, {ISA_MODE_64, {0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2}}, VEC_UD}, /* vaddps zmm0, zmm1, zmm2 */
    {CR0_PE | CR0_TS, CR4_ON, XCR0_ON, {ISA_MODE_64, {0x62, 0xf1, 0x74, 0x48, 0x58, 0xc2}}, VEC_NM},
    {CR0_PE, CR4_ON, 7, {ISA_MODE_64, {0xc5, 0xf8, 0x90, 0xc1}}, VEC_UD},                /* kmovw k0, k1 */
    {CR0_PE | CR0_TS | CR0_EM, 0, 0, {ISA_MODE_64, {0xc4, 0xe2, 0x78, 0xf2, 0xc1}}, -1}, /* andn eax, eax, ecx */
    {0, CR4_ON, XCR0_ON, {ISA_MODE_64, {0xc4, 0xe2, 0x78, 0xf2, 0xc1}}, VEC_UD},         /* no VEX in real mode */
    {CR0_PE | CR0_TS | CR0_EM, 0, 0, {ISA_MODE_64, {0xf3, 0x0f, 0xb8, 0xc1}}, -1},       /* popcnt eax, ecx */
    {CR0_PE | CR0_TS | CR0_EM, 0, 0, {ISA_MODE_64, {0xf2, 0x0f, 0x38, 0xf1, 0xc1}}, -1}, /* crc32 eax, ecx */
    {CR0_PE, 0, XCR0_ON, {ISA_MODE_64, {0x66, 0x0f, 0x2d, 0x03}}, VEC_UD},               /* cvtpd2pi mm0, [rbx] */
};

static void test_gates(void **state)
{
    struct fixture *f = *state;
    const struct cpu keep = *f->cpu;
    claim_faults();
    for (unsigned i = 0; i < ARRAY_LEN(gate_rows); i++) {
        const struct gate_row *r = &gate_rows[i];
        f->rng = i + 1;
        random_state(f, &envs[0]);
        f->cpu->cr0 = r->cr0;
        f->cpu->cr4 = r->cr4;
        f->cpu->xcr0 = r->xcr0;
        int rc = run_spelled(f, &r->insn);
        if (rc != (r->vector < 0 ? CPU_OK : CPU_FAULT) || (rc && f->cpu->fault.vector != r->vector))
            fail_msg("row %u: rc %d, vector %u", i, rc, f->cpu->fault.vector);
    }
    *f->cpu = keep;
}

static void test_stubs_are_shared(void **state)
{
    static const struct spelled a = {ISA_MODE_64, {0x66, 0x0f, 0xfe, 0x08}};          /* paddd xmm1, [rax] */
    static const struct spelled b = {ISA_MODE_64, {0x66, 0x0f, 0xfe, 0x4c, 0x24, 8}}; /* paddd xmm1, [rsp+8] */
    static const struct spelled c = {ISA_MODE_64, {0x66, 0x0f, 0xfe, 0x10}};          /* paddd xmm2, [rax] */
    struct fixture *f = *state;
    struct isa_insn ia = decode(&a), ib = decode(&b), ic = decode(&c);
    assert_ptr_equal(prepare(f, &ia), prepare(f, &ib));
    assert_ptr_not_equal(prepare(f, &ia), prepare(f, &ic));
}

/* A full cache drops everything and says so; stubs made afterwards work. */
static void test_full_cache(void **state)
{
    struct fixture *f = *state;
    struct native *small;
    struct error e = {0};
    const char *why;
    claim_faults();
    assert_int_equal(native_create(&small, 1, &e), 0); /* the least there is */
    u32 first = native_generation(small);
    for (unsigned i = 0; i < 2048; i++) {
        const struct spelled s = {ISA_MODE_64, {0x48, 0x69, 0xc1, (u8)i, (u8)(i >> 8)}}; /* imul rax, rcx, i */
        struct isa_insn insn = decode(&s);
        const struct native_stub *stub = native_prepare(small, &insn, &why);
        assert_non_null(stub);
        f->cpu->gpr[RCX] = 3;
        assert_int_equal(native_run(small, &f->isa, &insn, stub), CPU_OK);
        assert_int_equal(f->cpu->gpr[RAX], 3 * i);
    }
    assert_int_not_equal(first, native_generation(small));
    native_destroy(small);
}

/* An image that the processor refuses to load stops the guest and leaves the host's floating point alone. */
static void test_bad_mxcsr(void **state)
{
    static const struct spelled list[] = {{ISA_MODE_64, {0x0f, 0x58, 0xc1}}, {ISA_MODE_64, {0xd9, 0xe8}}};
    struct fixture *f = *state;
    claim_faults();
    for (unsigned i = 0; i < ARRAY_LEN(list); i++) {
        u32 mxcsr;
        *cpu_mxcsr(&f->cpu->fpu) = 0xffffffff;
        assert_int_equal(run_spelled(f, &list[i]), CPU_UNIMPLEMENTED);
        assert_int_equal(*cpu_mxcsr(&f->cpu->fpu), 0xffffffff);
        __asm__ volatile("stmxcsr %0" : "=m"(mxcsr));
        assert_int_equal(mxcsr & ~0x3fu, 0x1f80);
    }
    *cpu_mxcsr(&f->cpu->fpu) = 0x1f80;
}

/* The caller's floating point is as it was, whatever the guest's is. */
static void test_host_state_kept(void **state)
{
    static const struct spelled list[] = {{ISA_MODE_64, {0x0f, 0x58, 0xc1}}, {ISA_MODE_64, {0xd9, 0xe8}}};
    struct fixture *f = *state;
    claim_faults();
    for (unsigned i = 0; i < 200; i++) {
        u32 mxcsr;
        u16 fcw;
        u8 env[28];
        f->rng = i + 1;
        random_state(f, &envs[8]);
        run_spelled(f, &list[i & 1]);
        __asm__ volatile("stmxcsr %0\n\tfnstcw %1\n\tfnstenv %2\n\tfldenv %2" : "=m"(mxcsr), "=m"(fcw), "=m"(env));
        assert_int_equal(mxcsr & ~0x3fu, 0x1f80);
        assert_int_equal(fcw, 0x37f);
        assert_int_equal(env[8] & env[9], 0xff); /* empty stack */
    }
}

static void test_random_numbers(void **state)
{
    static const struct spelled rdrand = {ISA_MODE_64, {0x48, 0x0f, 0xc7, 0xf4}}; /* rdrand rsp */
    struct fixture *f = *state;
    u32 a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & BIT(30)))
        skip();
    f->cpu->gpr[RSP] = 0;
    f->cpu->arith = 0x200;
    for (unsigned i = 0; i < 10 && !(cpu_rflags(f->cpu) & FL_CF); i++)
        assert_int_equal(run_spelled(f, &rdrand), CPU_OK);
    assert_true(cpu_rflags(f->cpu) & FL_CF);
    assert_int_not_equal(f->cpu->gpr[RSP], 0);
}

/* --- host/linux/fault.c by itself --- */

static void call_trap(void *arg)
{
    const struct host_code *code = arg;
    ((void (*)(void))(uintptr_t)code->rx)();
}

static void test_fault_call(void **state)
{
    static const struct {
        u8 code[8];
        int kind, trap;
    } list[] = {
        {{0x0f, 0x0b}, HOST_FAULT_ILL, VEC_UD},
        {{0x31, 0xc9, 0xf7, 0xf1}, HOST_FAULT_FPE, VEC_DE},  /* xor ecx, ecx; div ecx */
        {{0x31, 0xc0, 0x8b, 0x00}, HOST_FAULT_SEGV, VEC_PF}, /* xor eax, eax; mov eax, [rax] */
        {{0xcc}, HOST_FAULT_TRAP, VEC_BP},
        {{0xdb, 0xe3, 0xc3}, HOST_FAULT_NONE, 0}, /* fninit; ret */
    };
    struct host_code code;
    claim_faults();
    assert_int_equal(host_code_create(&code, PAGE_SIZE, NULL), 0);
    for (unsigned i = 0; i < ARRAY_LEN(list); i++) {
        struct host_fault fault;
        memcpy(code.rw, list[i].code, sizeof(list[i].code));
        int kind = host_fault_call(call_trap, &code, code.rx, code.rx + code.size, &fault);
        assert_int_equal(kind, list[i].kind);
        assert_int_equal(fault.kind, kind);
        assert_int_equal(fault.trap, list[i].trap);
    }
    host_code_destroy(&code);
}

int main(int argc, char **argv)
{
    if (argc > 1)
        rounds = (unsigned)strtoul(argv[1], NULL, 10);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_against_processor), cmocka_unit_test(test_narrow_modes),
        cmocka_unit_test(test_refused),           cmocka_unit_test(test_gates),
        cmocka_unit_test(test_stubs_are_shared),  cmocka_unit_test(test_full_cache),
        cmocka_unit_test(test_bad_mxcsr),         cmocka_unit_test(test_host_state_kept),
        cmocka_unit_test(test_random_numbers),    cmocka_unit_test(test_fault_call),
    };
    return cmocka_run_group_tests(tests, setup, teardown);
}
