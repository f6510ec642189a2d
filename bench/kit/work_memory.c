/* Memory: dependent loads, block copies, string instructions, streams. */
#include "kit.h"

#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

#define ARENA (64 * MIB)

enum { SMALL = 4096, LARGE = 4 << 20 };

static u8 *arena;
static u32 small_ring[SMALL], *large_ring;

static void *map(size_t bytes)
{
    void *p = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        abort();
    return p;
}

static void arena_start(void)
{
    arena = map(ARENA);
    for (u32 i = 0; i < ARENA; i += 4096)
        arena[i] = (u8)(i >> 12);
}

static void arena_stop(void)
{
    munmap(arena, ARENA);
}

/* One random cycle through all of `ring` (Sattolo's shuffle). */
static void make_ring(u32 *ring, u32 n, u64 seed)
{
    for (u32 i = 0; i < n; i++)
        ring[i] = i;
    for (u32 i = n - 1; i > 0; i--) {
        u32 j = (u32)(kit_random(&seed) % i), t = ring[i];
        ring[i] = ring[j];
        ring[j] = t;
    }
}

static void small_start(void)
{
    make_ring(small_ring, SMALL, 1);
}

static void large_start(void)
{
    large_ring = map(LARGE * sizeof(*large_ring));
    make_ring(large_ring, LARGE, 2);
}

static void large_stop(void)
{
    munmap(large_ring, LARGE * sizeof(*large_ring));
}

WORK chase_16k(void)
{
    u32 p = 0;
    u64 h = 0;
    for (int i = 0; i < SMALL * 64; i++) {
        p = small_ring[p];
        h += p;
    }
    return h + p;
}

WORK chase_16m(void)
{
    static u32 begin;
    u32 p = begin;
    for (int i = 0; i < 100000; i++)
        p = large_ring[p];
    begin = p;
    return p < LARGE;
}

WORK memcpy_16k(void)
{
    for (int i = 0; i < 200; i++) {
        memcpy(arena + 32768, arena, 16384);
        __asm__ volatile("" ::: "memory");
    }
    return 1;
}

WORK memcpy_16m(void)
{
    memcpy(arena + 32 * MIB, arena, 16 * MIB);
    __asm__ volatile("" ::: "memory");
    return arena[32 * MIB + 12345] == arena[12345];
}

WORK rep_string(void)
{
    for (int i = 0; i < 100; i++) {
        void *to = arena + 65536, *from = arena;
        size_t n = 16384;
        __asm__ volatile("rep movsb" : "+D"(to), "+S"(from), "+c"(n)::"memory");
        n = 2048;
        to = arena + 131072;
        __asm__ volatile("rep stosq" : "+D"(to), "+c"(n) : "a"(0x5a5a) : "memory");
    }
    return arena[131072] == 0x5a;
}

WORK stream_triad(void)
{
    double *a = (double *)arena, *b = a + (1 << 20), *c = b + (1 << 20);
    for (int i = 0; i < 1 << 20; i++)
        a[i] = b[i] + 3.0 * c[i];
    __asm__ volatile("" ::: "memory");
    return 1;
}

static const struct workload rows[] = {
    {"chase_16k", chase_16k, 0x1ffe0000, 262144, "ns/op", 0, small_start, 0},
    {"chase_16m", chase_16m, 1, 100000, "ns/op", 0, large_start, large_stop},
    {"memcpy_16k", memcpy_16k, 1, 200 * 16384.0, "MB/s", 0, arena_start, arena_stop},
    {"memcpy_16m", memcpy_16m, 1, 16777216.0, "MB/s", 0, arena_start, arena_stop},
    {"rep_string", rep_string, 1, 100 * 32768.0, "MB/s", 0, arena_start, arena_stop},
    {"stream_triad", stream_triad, 1, 24.0 * (1 << 20), "MB/s", 0, arena_start, arena_stop},
};
WORK_TABLE(work_memory, rows);
