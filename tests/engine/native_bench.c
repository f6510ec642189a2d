/*
 * How long native_run takes: nanoseconds for each of a few instructions, best of several runs. Not a test.
 */
#include "engine/interp/native.h"
#include "host/host.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define CALLS 200000u
#define RUNS  7u

static u8 memory[PAGE_SIZE] __attribute__((aligned(64)));

static int bench_read(void *ctx, gva_t va, void *buf, unsigned len, enum isa_access acc)
{
    memcpy(buf, memory + (va.v & (PAGE_SIZE / 2 - 1)), len);
    return CPU_OK;
}

static int bench_write(void *ctx, gva_t va, const void *buf, unsigned len, enum isa_access acc)
{
    memcpy(memory + (va.v & (PAGE_SIZE / 2 - 1)), buf, len);
    return CPU_OK;
}

static int bench_probe(void *ctx, gva_t va, unsigned len, enum isa_access acc)
{
    return CPU_OK;
}

static const struct {
    const char *text;
    u8 len, bytes[8];
} rows[] = {
    {"popcnt rax, rcx", 5, {0xf3, 0x48, 0x0f, 0xb8, 0xc1}},
    {"imul r12, rsp", 4, {0x4c, 0x0f, 0xaf, 0xe4}},
    {"paddd xmm1, xmm2", 4, {0x66, 0x0f, 0xfe, 0xca}},
    {"mulsd xmm1, xmm2", 4, {0xf2, 0x0f, 0x59, 0xca}},
    {"vpaddd ymm1, ymm2, ymm3", 4, {0xc5, 0xed, 0xfe, 0xcb}},
    {"vaddps zmm1, zmm2, zmm3", 6, {0x62, 0xf1, 0x6c, 0x48, 0x58, 0xcb}},
    {"movaps xmm1, [rbx]", 3, {0x0f, 0x28, 0x0b}},
    {"movaps [rbx], xmm1", 3, {0x0f, 0x29, 0x0b}},
    {"fadd st0, st1", 2, {0xd8, 0xc1}},
    {"fadd qword [rbx]", 2, {0xdc, 0x03}},
    {"paddb mm1, mm2", 3, {0x0f, 0xfc, 0xca}},
};

/* A 64-bit machine with everything enabled and eight ones on the x87 stack. */
static void init_cpu(struct cpu *c)
{
    static const u8 one[] = {0, 0, 0, 0, 0, 0, 0, 0x80, 0xff, 0x3f};
    memset(c, 0, sizeof(*c));
    c->cr0 = CR0_PE | CR0_PG | CR0_MP | CR0_NE;
    c->cr4 = CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    c->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;
    c->efer = EFER_LMA | EFER_LME;
    c->seg[SEG_CS].attr = SEG_L;
    *cpu_mxcsr(&c->fpu) = 0x1f80;
    memcpy(c->fpu.fx, "\x7f\x03\0\0\xff", 5);
    for (unsigned i = 0; i < 8; i++)
        memcpy(c->fpu.fx + 32 + 16 * i, one, sizeof(one));
}

static double measure(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s,
                      int *rc)
{
    u64 best = UINT64_MAX;
    for (unsigned r = 0; r < RUNS; r++) {
        u64 start = host_ns(NULL);
        for (unsigned i = 0; i < CALLS; i++)
            *rc |= native_run(n, m, insn, s);
        best = MIN(best, host_ns(NULL) - start);
    }
    return (double)best / CALLS;
}

int main(void)
{
    static const struct isa_ops ops = {.read = bench_read, .write = bench_write, .probe_write = bench_probe};
    struct cpu *c = aligned_alloc(_Alignof(struct cpu), sizeof(*c));
    struct isa m = {.cpu = c, .ops = &ops};
    struct error e = {0};
    struct native *n;

    if (!c || native_create(&n, 1 << 20, &e)) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    for (unsigned i = 0; i < ARRAY_LEN(rows); i++) {
        struct isa_insn insn;
        const char *why = "does not decode";
        const struct native_stub *s = NULL;
        int rc = 0;
        init_cpu(c);
        if (isa_decode(ISA_MODE_64, rows[i].bytes, rows[i].len, &insn) == ISA_DECODE_OK)
            s = native_prepare(n, &insn, &why);
        if (!s) {
            printf("%-28s %s\n", rows[i].text, why);
            continue;
        }
        double ns = measure(n, &m, &insn, s, &rc);
        printf("%-28s %7.1f ns%s\n", rows[i].text, ns, rc ? "  (faults)" : "");
    }
    native_destroy(n);
    free(c);
    return 0;
}
