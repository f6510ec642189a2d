/*
 * The XSAVE family against the processor: the same state is loaded into the real registers and saved by the real
 * instruction, and saved by isa_xsave from struct cpu; memory must be equal byte for byte, what is not written included.
 * Restores go the other way: the same image through both, then the whole state is compared.
 *
 * Hardware may call a component in its initial state "in use" (SDM vol. 1, 13.6). Where it does, the comparison takes the
 * host's word: fewer bits in ours are fine, more are not, and what the host stored then must be the initial value.
 */
#include "isa/isa_internal.h"
#include "machine/cpu/cpu_features.h"

#include <cpuid.h>
#include <setjmp.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define AREA  4096u
#define BASE  0x10000u
#define SEED  0x5eed0001u
#define TRIES 3000

enum form { SAVE, SAVEOPT, SAVEC, FXSAVE, RSTOR, FXRSTOR, SAVES, RSTORS, FORMS };

static const struct {
    const char *name;
    u8 bytes[3];
} forms[FORMS] = {
    [SAVE] = {"xsave", {0x0f, 0xae, 0x27}},   [SAVEOPT] = {"xsaveopt", {0x0f, 0xae, 0x37}},
    [SAVEC] = {"xsavec", {0x0f, 0xc7, 0x27}}, [FXSAVE] = {"fxsave", {0x0f, 0xae, 0x07}},
    [RSTOR] = {"xrstor", {0x0f, 0xae, 0x2f}}, [FXRSTOR] = {"fxrstor", {0x0f, 0xae, 0x0f}},
    [SAVES] = {"xsaves", {0x0f, 0xc7, 0x2f}}, [RSTORS] = {"xrstors", {0x0f, 0xc7, 0x1f}},
};

/* --- randomness -------------------------------------------------------------------------------------------------- */

static u32 rnd(u64 *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return (u32)(*s >> 16);
}
static void fill(u64 *s, void *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        ((u8 *)p)[i] = (u8)rnd(s);
}

/* --- a machine of one CPU and a page ----------------------------------------------------------------------------- */

struct bench {
    struct cpu cpu;
    struct cpu_model model;
    u8 mem[AREA] __attribute__((aligned(64)));
    u32 limit;       /* bytes that are there */
    u32 write_limit; /* bytes that may be written */
    unsigned writes;
    u64 seed;
};

static int fault_at(struct bench *b, u64 va, unsigned len, u32 limit, u32 err)
{
    if (va >= BASE && va - BASE <= limit && len <= limit - (va - BASE))
        return CPU_OK;
    return cpu_raise_pf(&b->cpu, GVA(va), err);
}
static int op_read(void *ctx, gva_t va, void *buf, unsigned len, enum isa_access acc)
{
    struct bench *b = ctx;
    ISA_TRY(fault_at(b, va.v, len, b->limit, 0));
    memcpy(buf, b->mem + (va.v - BASE), len);
    return CPU_OK;
}
static int op_write(void *ctx, gva_t va, const void *buf, unsigned len, enum isa_access acc)
{
    struct bench *b = ctx;
    ISA_TRY(fault_at(b, va.v, len, b->write_limit, PF_W));
    memcpy(b->mem + (va.v - BASE), buf, len);
    b->writes++;
    return CPU_OK;
}
static int op_probe(void *ctx, gva_t va, unsigned len, enum isa_access acc)
{
    struct bench *b = ctx;
    return fault_at(b, va.v, len, b->write_limit, PF_W);
}

static const struct isa_ops ops = {.read = op_read, .write = op_write, .probe_write = op_probe};

static int setup(void **state)
{
    struct bench *b = aligned_alloc(64, (sizeof(*b) + 63) & ~63ul);
    struct error e = {0};
    if (!b)
        return -1;
    memset(b, 0, sizeof(*b));
    if (cpu_model_make(&b->model, "host", 1000000000, 1, &e) < 0) {
        fprintf(stderr, "%s\n", e.msg);
        return -1;
    }
    b->seed = SEED;
    *state = b;
    return 0;
}
static int teardown(void **state)
{
    free(*state);
    return 0;
}

static void enter64(struct bench *b)
{
    struct cpu *c = &b->cpu;
    memset(c, 0, sizeof(*c));
    c->model = &b->model;
    cpu_reset(c);
    c->cr0 = CR0_PE | CR0_PG | CR0_ET;
    c->efer = EFER_LME | EFER_LMA;
    c->cr4 = CR4_PAE | CR4_OSFXSR | CR4_OSXSAVE;
    c->seg[SEG_CS].attr |= SEG_L;
    c->xcr0 = b->model.xcr0_mask;
    c->gpr[RDI] = BASE;
    b->limit = b->write_limit = AREA;
    b->writes = 0;
}

static void enter32(struct bench *b)
{
    enter64(b);
    b->cpu.seg[SEG_CS].attr = (b->cpu.seg[SEG_CS].attr & ~(u32)SEG_L) | SEG_DB;
    for (int i = 0; i < CPU_SEGS; i++)
        b->cpu.seg[i].limit = 0xffffffff;
}

static int run(struct bench *b, enum form f, bool w, u64 rfbm)
{
    struct isa m = {&b->cpu, &ops, b};
    struct isa_insn insn;
    u8 bytes[4] = {0x48};
    memcpy(bytes + w, forms[f].bytes, 3);
    enum isa_mode mode = cpu_code64(&b->cpu) ? ISA_MODE_64 : ISA_MODE_32;
    assert_int_equal(isa_decode(mode, bytes, 3 + w, &insn), ISA_DECODE_OK);
    b->cpu.gpr[RAX] = (u32)rfbm;
    b->cpu.gpr[RDX] = rfbm >> 32;
    return isa_xsave(&m, &insn);
}

/* --- the real instructions --------------------------------------------------------------------------------------- */

static sigjmp_buf on_fault;
static void handler(int sig)
{
    siglongjmp(on_fault, 1);
}

#define NATIVE(text)                                                                                      \
    __asm__ volatile("mov $0xe7, %%eax\n\txor %%edx, %%edx\n\txsave64 (%[own])\n\txrstor64 (%[in])\n\t"   \
                     "mov %[lo], %%eax\n\tmov %[hi], %%edx\n\t" text " (%[mem])\n\t"                      \
                     "mov $0xe7, %%eax\n\txor %%edx, %%edx\n\txsave64 (%[out])\n\txrstor64 (%[own])"      \
                     :                                                                                    \
                     : [own] "r"(own), [in] "r"(in), [out] "r"(out), [mem] "r"(mem), [lo] "r"((u32)rfbm), \
                       [hi] "r"((u32)(rfbm >> 32))                                                        \
                     : "memory", "eax", "edx")

/*
 * Where components lie in the standard format is the processor's affair: AMD's have no place for MPX between AVX and AVX-512. Ours is
 * one layout (machine/cpu/cpu.h), which the guest is told of. Bytes of the one from the other, all of them: the hole goes behind.
 */
#define HOLE   832u
#define PARTS  1088u
#define BEHIND 2688u
static bool has_hole(void)
{
    u32 a, b, c, d;
    return !__get_cpuid_count(0xd, 5, &a, &b, &c, &d) || b != HOLE;
}
static void to_host(u8 *im)
{
    u8 hole[PARTS - HOLE];
    if (has_hole())
        return;
    memcpy(hole, im + HOLE, sizeof(hole));
    memmove(im + HOLE, im + PARTS, BEHIND - PARTS);
    memcpy(im + BEHIND - sizeof(hole), hole, sizeof(hole));
}
static void from_host(u8 *im)
{
    u8 hole[PARTS - HOLE];
    if (has_hole())
        return;
    memcpy(hole, im + BEHIND - sizeof(hole), sizeof(hole));
    memmove(im + PARTS, im + HOLE, BEHIND - PARTS);
    memcpy(im + HOLE, hole, sizeof(hole));
}

/*
 * Load `in` (standard format), execute the instruction on `mem`, store all state to `out`, put the old state back. false
 * if the instruction faulted (then `out` is not filled).
 */
static bool execute(enum form f, bool w, u64 rfbm, const u8 *in, u8 *mem, u8 *out)
{
    static u8 own_buf[AREA] __attribute__((aligned(64)));
    u8 *own = own_buf;
    struct sigaction sa = {.sa_handler = handler, .sa_flags = SA_NODEFER}, old;
    memset(own, 0, AREA);
    sigaction(SIGSEGV, &sa, &old);
    bool ok = sigsetjmp(on_fault, 1) == 0;
    if (ok) {
        switch (f * 2 + w) {
        case SAVE * 2:
            NATIVE("xsave");
            break;
        case SAVE * 2 + 1:
            NATIVE("xsave64");
            break;
        case SAVEOPT * 2:
            NATIVE("xsaveopt");
            break;
        case SAVEOPT * 2 + 1:
            NATIVE("xsaveopt64");
            break;
        case SAVEC * 2:
            NATIVE("xsavec");
            break;
        case SAVEC * 2 + 1:
            NATIVE("xsavec64");
            break;
        case FXSAVE * 2:
            NATIVE("fxsave");
            break;
        case FXSAVE * 2 + 1:
            NATIVE("fxsave64");
            break;
        case RSTOR * 2:
            NATIVE("xrstor");
            break;
        case RSTOR * 2 + 1:
            NATIVE("xrstor64");
            break;
        case FXRSTOR * 2:
            NATIVE("fxrstor");
            break;
        case FXRSTOR * 2 + 1:
            NATIVE("fxrstor64");
            break;
        }
    }
    sigaction(SIGSEGV, &old, NULL);
    return ok;
}

/* The same with images in our layout. */
static bool native(enum form f, bool w, u64 rfbm, const u8 *in, u8 *mem, u8 *out)
{
    static u8 loaded[AREA] __attribute__((aligned(64)));
    bool standard = f == SAVE || f == SAVEOPT || (f == RSTOR && !(mem[527] & 0x80)); /* XCOMP_BV bit 63 */
    memcpy(loaded, in, AREA);
    to_host(loaded);
    if (standard)
        to_host(mem);
    bool ok = execute(f, w, rfbm, loaded, mem, out);
    if (standard)
        from_host(mem);
    from_host(out);
    return ok;
}

static bool host_can(struct bench *b)
{
    struct cpu_host h;
    cpu_host_probe(&h);
    if (h.xcr0 & XCR0_AVX && cpu_has(&b->model, FEAT_XSAVEC) && (h.cpuid(h.ctx, 0xd, 1).eax & 3) == 3)
        return true;
    print_message("this host has no XSAVEC and XSAVEOPT\n");
    return false;
}

/* --- states ------------------------------------------------------------------------------------------------------ */

/* Components by hand, not by the code under test. */
static void state_to_image(const struct cpu_fpu *f, u8 *im)
{
    memset(im, 0, AREA);
    memcpy(im, f->fx, 160);
    for (int i = 0; i < 16; i++) {
        memcpy(im + 160 + 16 * i, f->zmm[i].b, 16);
        memcpy(im + 576 + 16 * i, f->zmm[i].b + 16, 16);
        memcpy(im + 1152 + 32 * i, f->zmm[i].b + 32, 32);
        memcpy(im + 1664 + 64 * i, f->zmm[16 + i].b, 64);
    }
    memcpy(im + 1088, f->k, 64);
}

/* Does component `bit` of a standard image hold its initial value? MXCSR does not count. */
static bool image_init(const u8 *im, int bit)
{
    static const struct {
        u32 off, len;
    } at[] = {[1] = {160, 256}, [2] = {576, 256}, [5] = {1088, 64}, [6] = {1152, 512}, [7] = {1664, 1024}};
    static const u8 zeros[1024], env[24] = {0x7f, 3};
    if (bit == 0)
        return !memcmp(im, env, 24) && !memcmp(im + 32, zeros, 128);
    return !memcmp(im + at[bit].off, zeros, at[bit].len);
}

/* A state: each component random or initial; x87 as a load leaves it. */
static void random_state(struct bench *b, struct cpu_fpu *f)
{
    static const u8 empty[160] = {0x7f, 3, [24] = 0x80, [25] = 0x1f};
    u32 which = rnd(&b->seed);
    u64 x = b->model.xcr0_mask;
    memset(f, 0, sizeof(*f));
    memcpy(f->fx, empty, sizeof(empty));
    if (which & 1) {
        u16 fcw = (u16)((rnd(&b->seed) & 0x1f3f) | 0x40), fsw = (u16)(rnd(&b->seed) & 0x7f7f), fop;
        fill(&b->seed, f->fx, 24);
        if (fsw & ~fcw & 0x3f)
            fsw |= 0x8080;
        fop = (u16)(rnd(&b->seed) & 0x7ff);
        memcpy(f->fx, &fcw, 2);
        memcpy(f->fx + 2, &fsw, 2);
        f->fx[5] = 0;
        memcpy(f->fx + 6, &fop, 2);
        for (int i = 8; i < 24; i += 8)
            memset(f->fx + i + 6, f->fx[i + 5] & 0x80 ? 0xff : 0, 2);
        for (int i = 0; i < 8; i++)
            fill(&b->seed, f->fx + 32 + 16 * i, 10);
    }
    for (int i = 0; i < 16; i++) {
        if (which & 2)
            fill(&b->seed, f->zmm[i].b, 16);
        if (which & 4 && x & XCR0_AVX)
            fill(&b->seed, f->zmm[i].b + 16, 16);
        if (which & 8 && x & XCR0_AVX512)
            fill(&b->seed, f->zmm[i].b + 32, 32);
        if (which & 16 && x & XCR0_AVX512)
            fill(&b->seed, f->zmm[16 + i].b, 64);
    }
    if (which & 32 && x & XCR0_AVX512)
        fill(&b->seed, f->k, 64);
    if (which & 64) {
        u32 mxcsr = rnd(&b->seed) & b->model.mxcsr_mask;
        memcpy(f->fx + 24, &mxcsr, 4);
    }
}

/* The state as an image to load: XSTATE_BV names what is not initial. */
static void loadable(const struct cpu_fpu *f, u64 xcr0, u8 *im)
{
    u64 bv = 0;
    state_to_image(f, im);
    for (int i = 0; i < 8; i++)
        if (xcr0 >> i & 1 && !image_init(im, i))
            bv |= BIT(i);
    memcpy(im + 512, &bv, 8);
}

static u64 random_mask(struct bench *b)
{
    u64 m = rnd(&b->seed) % 3 ? rnd(&b->seed) & 0xff : ~0ull;
    return rnd(&b->seed) % 4 ? m : m | (u64)rnd(&b->seed) << 32;
}

static void differ(const struct bench *b, enum form f, bool w, u64 rfbm, const u8 *host, const u8 *ours, u32 len)
{
    for (u32 i = 0; i < len; i++) {
        if (b->model.amd && i >= 6 && i < 24)
            continue; /* FOP, FIP, FDP: AMD's processors handle them only while an exception is pending */
        if (host[i] != ours[i]) {
            print_error("seed %llx: %s%s rfbm=%llx: byte %u: host %02x, ours %02x; XSTATE_BV host %02x ours %02x\n",
                        (unsigned long long)b->seed, forms[f].name, w ? "64" : "", (unsigned long long)rfbm, i, host[i],
                        ours[i], host[512], ours[512]);
            fail();
        }
    }
}

/*
 * The host called initial components in use: `more` are the bits. Take its XSTATE_BV, and put initial values where it
 * stored them (XSAVEOPT, XSAVEC; XSAVE stores anyway).
 */
static void follow_host(enum form f, u64 more, u64 rfbm, const u8 *host, u8 *ours)
{
    static const u32 off[] = {0, 160, 576, 0, 0, 1088, 1152, 1664}, len[] = {0, 256, 256, 0, 0, 64, 512, 1024};
    u32 compact = 576;
    ours[512] |= (u8)more;
    if (f == SAVE)
        return;
    if (more & 1) {
        memset(ours, 0, 24);
        memset(ours + 32, 0, 128);
        ours[0] = 0x7f;
        ours[1] = 3;
    }
    for (int i = 1; i < 8; i++) {
        if (more >> i & 1)
            memset(ours + (i > 1 && f == SAVEC ? compact : off[i]), 0, len[i]);
        if (i > 1 && rfbm >> i & 1)
            compact += len[i];
    }
    if (more & 2 && f == SAVEC)
        memcpy(ours + 24, host + 24, 8); /* with SSE, XSAVEC stores MXCSR */
}

static void test_saves(void **state)
{
    struct bench *b = *state;
    static u8 in[AREA] __attribute__((aligned(64))), host[AREA] __attribute__((aligned(64))),
        out[AREA] __attribute__((aligned(64)));
    if (!host_can(b))
        skip();
    u64 coarse = 0;
    for (int i = 0; i < TRIES; i++) {
        enum form f = (enum form)(rnd(&b->seed) % (FXSAVE + 1));
        bool w = rnd(&b->seed) & 1;
        u64 rfbm = random_mask(b);
        enter64(b);
        random_state(b, &b->cpu.fpu);
        loadable(&b->cpu.fpu, b->cpu.xcr0, in);
        fill(&b->seed, b->mem, AREA);
        memcpy(host, b->mem, AREA);
        assert_true(native(f, w, rfbm, in, host, out));
        assert_int_equal(run(b, f, w, rfbm), CPU_OK);
        if (f != FXSAVE) {
            u64 h, o, live = rfbm & b->cpu.xcr0;
            memcpy(&h, host + 512, 8);
            memcpy(&o, b->mem + 512, 8);
            assert_int_equal(o & ~h, 0);
            assert_int_equal((h & ~o) & ~live, 0);
            for (int k = 0; k < 8; k++)
                assert_true(!((h & ~o) >> k & 1) || image_init(in, k));
            coarse |= h & ~o;
            follow_host(f, h & ~o, live, host, b->mem);
        }
        differ(b, f, w, rfbm, host, b->mem, AREA);
    }
    print_message("components that this host calls in use while initial: %llx\n", (unsigned long long)coarse);
}

/* A header for XRSTOR: mostly right, now and then wrong in one place. */
static void random_header(struct bench *b, u8 *mem)
{
    u64 x = b->model.xcr0_mask, comp = 0, bv = rnd(&b->seed) & x;
    memset(mem + 512, 0, 64);
    if (rnd(&b->seed) & 1) {
        comp = (rnd(&b->seed) & x) | BIT(63);
        bv &= comp;
    }
    switch (rnd(&b->seed) % 16) {
    case 0:
        comp ^= BIT(rnd(&b->seed) % 64);
        break;
    case 1:
        bv ^= BIT(rnd(&b->seed) % 64);
        break;
    case 2:
        mem[528 + rnd(&b->seed) % 48] = 1;
        break;
    }
    memcpy(mem + 512, &bv, 8);
    memcpy(mem + 520, &comp, 8);
}

static void test_restores(void **state)
{
    struct bench *b = *state;
    static u8 in[AREA] __attribute__((aligned(64))), out[AREA] __attribute__((aligned(64))),
        ours[AREA] __attribute__((aligned(64))), image[AREA] __attribute__((aligned(64)));
    int faults = 0;
    if (!host_can(b))
        skip();
    for (int i = 0; i < TRIES; i++) {
        enum form f = rnd(&b->seed) % 4 ? RSTOR : FXRSTOR;
        bool w = rnd(&b->seed) & 1;
        u64 rfbm = random_mask(b);
        enter64(b);
        random_state(b, &b->cpu.fpu);
        loadable(&b->cpu.fpu, b->cpu.xcr0, in);
        fill(&b->seed, b->mem, AREA);
        if (rnd(&b->seed) % 8) {
            u32 mxcsr = rnd(&b->seed) & b->model.mxcsr_mask;
            memcpy(b->mem + 24, &mxcsr, 4);
        }
        if (w) /* 48 bits of pointer: what is kept of more depends on the host (test_x87_pointers) */
            for (int k = 8; k < 24; k += 8)
                memset(b->mem + k + 6, b->mem[k + 5] & 0x80 ? 0xff : 0, 2);
        random_header(b, b->mem);
        memcpy(image, b->mem, AREA);
        struct cpu_fpu before = b->cpu.fpu;
        memset(out, 0, AREA);
        bool ok = native(f, w, rfbm, in, image, out);
        int r = run(b, f, w, rfbm);
        if (ok != (r == CPU_OK)) {
            print_error("seed %llx: %s%s rfbm=%llx: host %s, ours %d\n", (unsigned long long)b->seed, forms[f].name,
                        w ? "64" : "", (unsigned long long)rfbm, ok ? "completes" : "faults", r);
            fail();
        }
        if (!ok) {
            faults++;
            assert_int_equal(b->cpu.fault.vector, VEC_GP);
            assert_int_equal(b->cpu.fault.error, 0);
            assert_memory_equal(&before, &b->cpu.fpu, sizeof(before));
            continue;
        }
        state_to_image(&b->cpu.fpu, ours);
        memset(out + 512, 0, 64);
        memset(out + 28, 0, 4);
        memset(ours + 28, 0, 4);
        memset(out + 416, 0, 96);
        differ(b, f, w, rfbm, out, ours, 2688);
    }
    assert_in_range(faults, TRIES / 50, TRIES / 2);
}

/* --- faults ------------------------------------------------------------------------------------------------------ */

static void expect(struct bench *b, enum form f, int vector)
{
    static struct bench before;
    memcpy(&before, b, sizeof(before));
    int r = run(b, f, true, ~0ull);
    if (vector < 0) {
        assert_int_equal(r, CPU_OK);
        return;
    }
    assert_int_equal(r, CPU_FAULT);
    assert_int_equal(b->cpu.fault.vector, vector);
    assert_memory_equal(&before.cpu.fpu, &b->cpu.fpu, sizeof(b->cpu.fpu));
    assert_memory_equal(before.mem, b->mem, AREA);
    assert_int_equal(b->writes, 0);
}

/* What each instruction raises under each condition; -1: nothing. */
static void test_fault_kinds(void **state)
{
    struct bench *b = *state;
    for (int f = 0; f < FORMS; f++) {
        bool fx = f == FXSAVE || f == FXRSTOR, ud = f == SAVES || f == RSTORS;
        memset(b->mem, 0, AREA);
        enter64(b);
        expect(b, f, ud ? VEC_UD : -1);
        enter64(b);
        b->cpu.cr0 |= CR0_TS;
        expect(b, f, ud ? VEC_UD : VEC_NM);
        enter64(b);
        b->cpu.cr0 |= CR0_EM;
        expect(b, f, ud ? VEC_UD : fx ? VEC_NM : -1);
        memset(b->mem, 0, AREA);
        enter64(b);
        b->cpu.cr4 &= ~CR4_OSXSAVE;
        expect(b, f, fx ? -1 : VEC_UD);
        memset(b->mem, 0, AREA);
        for (int shift = 1; shift < 64; shift++) {
            enter64(b);
            b->cpu.gpr[RDI] += (u64)shift;
            expect(b, f, ud ? VEC_UD : fx && shift % 16 == 0 ? -1 : VEC_GP);
        }
        enter64(b);
        b->cpu.gpr[RDI] = 0x7fffffffffc0ull;
        expect(b, f, ud ? VEC_UD : VEC_GP);
    }
}

/* Wherever memory ends inside the area: a page fault, nothing written, nothing loaded. */
static void test_page_faults(void **state)
{
    struct bench *b = *state;
    for (int f = 0; f <= FXRSTOR; f++) {
        u64 x = b->model.xcr0_mask;
        u32 end = f == FXSAVE || f == FXRSTOR ? 416 : f == SAVEC ? cpu_xsave_compact_size(x) : cpu_xsave_size(x);
        for (u32 limit = 0; limit <= end + 16; limit += 8) {
            enter64(b);
            memset(b->mem, 0, AREA);
            b->mem[512] = (u8)b->model.xcr0_mask;
            for (int i = 0; i < 32; i++)
                memset(b->cpu.fpu.zmm[i].b, 0x11, b->model.xcr0_mask & XCR0_AVX512 ? 64 : i < 16 ? 32 : 0);
            memset(b->cpu.fpu.k, 0x11, b->model.xcr0_mask & XCR0_AVX512 ? 64 : 0);
            b->cpu.fpu.fx[6] = 1;
            if (f == RSTOR || f == FXRSTOR)
                b->limit = limit;
            else
                b->write_limit = limit;
            expect(b, f, limit < end ? VEC_PF : -1);
        }
    }
}

/* Outside 64-bit mode: eight registers, and what is beyond them in memory and in the CPU stays as it was. */
static void test_mode32(void **state)
{
    struct bench *b = *state;
    u64 x = b->model.xcr0_mask;
    for (int f = 0; f <= FXRSTOR; f++) {
        enter32(b);
        for (int i = 0; i < 32; i++)
            memset(b->cpu.fpu.zmm[i].b, 0x22, x & XCR0_AVX512 ? 64 : i < 16 ? 32 : 0);
        b->cpu.fpu.fx[6] = 1; /* x87 in use */
        memset(b->mem, 0x33, AREA);
        if (f == RSTOR || f == FXRSTOR) {
            memset(b->mem + 24, 0, 8);
            memset(b->mem + 512, 0, 64);
            b->mem[512] = (u8)x;
        }
        assert_int_equal(run(b, f, false, ~0ull), CPU_OK);
        if (f == RSTOR || f == FXRSTOR) {
            assert_int_equal(b->cpu.fpu.zmm[7].b[0], 0x33);
            assert_int_equal(b->cpu.fpu.zmm[8].b[0], 0x22);
            if (x & XCR0_AVX)
                assert_int_equal(b->cpu.fpu.zmm[7].b[16], f == RSTOR ? 0x33 : 0x22);
            if (x & XCR0_AVX512)
                assert_int_equal(b->cpu.fpu.zmm[16].b[0], 0x22);
        } else {
            assert_int_equal(b->mem[287], 0x22);
            assert_int_equal(b->mem[288], 0x33);
            if (f != FXSAVE && x & XCR0_AVX) {
                assert_int_equal(b->mem[576 + 127], 0x22);
                assert_int_equal(b->mem[576 + 128], 0x33);
            }
            if (f != FXSAVE && x & XCR0_AVX512)
                assert_int_equal(b->mem[f == SAVEC ? 576 + 256 + 64 + 512 : 1664], 0x33);
        }
    }
}

/* XINUSE: nothing in use after reset; each component by itself, and one bit of it is enough. */
static void test_xinuse(void **state)
{
    struct bench *b = *state;
    static const struct {
        size_t at;
        u64 bit;
    } where[] = {
        {offsetof(struct cpu_fpu, fx) + 32 + 9, XCR0_X87},
        {offsetof(struct cpu_fpu, fx) + 2, XCR0_X87},
        {offsetof(struct cpu_fpu, zmm) + 15, XCR0_SSE},
        {offsetof(struct cpu_fpu, zmm) + 15 * 64 + 31, XCR0_AVX},
        {offsetof(struct cpu_fpu, zmm) + 15 * 64 + 63, XCR0_ZMM_HI256},
        {offsetof(struct cpu_fpu, zmm) + 31 * 64, XCR0_HI16_ZMM},
        {offsetof(struct cpu_fpu, k) + 63, XCR0_OPMASK},
    };
    enter64(b);
    assert_int_equal(isa_xinuse(&b->cpu), 0);
    for (size_t i = 0; i < ARRAY_LEN(where); i++) {
        enter64(b);
        ((u8 *)&b->cpu.fpu)[where[i].at] = 1;
        assert_int_equal(isa_xinuse(&b->cpu), where[i].bit);
    }
    enter64(b);
    *cpu_mxcsr(&b->cpu.fpu) = 0; /* MXCSR is no part of it */
    assert_int_equal(isa_xinuse(&b->cpu), 0);
}

/* FXSAVE and FXRSTOR without CR4.OSFXSR leave the XMM registers out. */
static void test_no_osfxsr(void **state)
{
    struct bench *b = *state;
    enter64(b);
    b->cpu.cr4 &= ~CR4_OSFXSR;
    memset(b->cpu.fpu.zmm[0].b, 0x22, 16);
    memset(b->mem, 0x33, AREA);
    assert_int_equal(run(b, FXSAVE, true, 0), CPU_OK);
    assert_int_equal(b->mem[160], 0x33);
    assert_int_equal(b->mem[25], 0x1f);
    assert_int_equal(run(b, FXRSTOR, true, 0), CPU_OK);
    assert_int_equal(b->cpu.fpu.zmm[0].b[0], 0x22);
}

/* FIP and FDP: 48 bits and their sign in the 64-bit form, 32 bits and no selectors in the other. */
static void test_x87_pointers(void **state)
{
    struct bench *b = *state;
    const bool amd = __builtin_cpu_is("amd"); /* machine/cpu/cpu.h, cpu_fpu_settle_pointers */
    enter64(b);
    memset(b->mem, 0, AREA);
    memset(b->mem + 8, 0x9a, 16);
    assert_int_equal(run(b, FXRSTOR, true, 0), CPU_OK);
    assert_int_equal(run(b, FXSAVE, true, 0), CPU_OK);
    for (int i = 8; i < 24; i++)
        assert_int_equal(b->mem[i], amd ? 0 : i % 8 >= 6 ? 0xff : 0x9a);
    assert_int_equal(run(b, FXSAVE, false, 0), CPU_OK);
    for (int i = 8; i < 24; i++)
        assert_int_equal(b->mem[i], amd || i % 8 >= 4 ? 0 : 0x9a);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_saves),       cmocka_unit_test(test_restores),     cmocka_unit_test(test_fault_kinds),
        cmocka_unit_test(test_page_faults), cmocka_unit_test(test_mode32),       cmocka_unit_test(test_xinuse),
        cmocka_unit_test(test_no_osfxsr),   cmocka_unit_test(test_x87_pointers),
    };
    return cmocka_run_group_tests_name("isa/xsave", tests, setup, teardown);
}
