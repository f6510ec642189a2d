/* What a translator of code has to watch: code that changes, locked operations, instructions that ask the processor. */
#include "kit.h"

#include <cpuid.h>
#include <string.h>
#include <x86intrin.h>

WORK atomic(void)
{
    static u64 c;
    c = 0;
    for (u64 i = 0; i < 100000; i++)
        __atomic_fetch_add(&c, i, __ATOMIC_SEQ_CST);
    return c;
}

/* Fresh code, run, patched, run again: mov eax, imm32; ret */
WORK jit_smc(void)
{
    u64 h = 0;
    for (u32 i = 0; i < 64; i++) {
        u8 *p = kit_code_pages() + i * 64;
        u32 v = i * 3;
        p[0] = 0xb8;
        memcpy(p + 1, &v, 4);
        p[5] = 0xc3;
        h += ((u32(*)(void))p)();
    }
    for (u32 i = 0; i < 64; i++) {
        u8 *p = kit_code_pages() + i * 64;
        u32 v = i * 5;
        memcpy(p + 1, &v, 4);
        h += ((u32(*)(void))p)();
    }
    return h;
}

/* Code on a page that holds hot data as well: lea eax, [rdi + 1]; ret */
WORK jit_data(void)
{
    static const u8 code[] = {0x8d, 0x47, 0x01, 0xc3};
    u8 *p = kit_code_pages() + 8192;
    volatile u32 *d = (u32 *)(p + 2048);
    if (memcmp(p, code, sizeof(code)))
        memcpy(p, code, sizeof(code));
    *d = 0;
    for (int i = 0; i < 2000; i++)
        *d = ((u32(*)(u32))p)(*d);
    return *d;
}

WORK rdtsc(void)
{
    u64 last = __rdtsc(), ok = 1;
    for (int i = 0; i < 2000; i++) {
        u64 t = __rdtsc();
        if (t < last)
            ok = 0;
        last = t;
    }
    return ok;
}

WORK cpuid(void)
{
    u32 a, b, c, d;
    for (int i = 0; i < 100; i++)
        __cpuid_count(0, 0, a, b, c, d);
    return 1;
}

static const struct workload rows[] = {
    {"atomic", atomic, 4999950000, 100000, "ns/op", 0, 0, 0},
    {"jit_smc", jit_smc, 16128, 128, "ns/op", 0, 0, 0},
    {"jit_data", jit_data, 2000, 2000, "ns/op", 0, 0, 0},
    {"rdtsc", rdtsc, 1, 2000, "ns/op", 0, 0, 0},
    {"cpuid", cpuid, 1, 100, "ns/op", 0, 0, 0},
};
WORK_TABLE(work_code, rows);
