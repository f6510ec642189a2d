/* Integer code without system calls: loops, branches, calls, table look-ups. */
#include "kit.h"
#include "sha256.h"

#include <string.h>

WORK sieve(void)
{
    enum { N = 200000 };
    static u8 composite[N + 1];
    u64 primes = 0;
    memset(composite, 0, sizeof(composite));
    for (u32 i = 2; i <= N; i++) {
        if (composite[i])
            continue;
        primes++;
        for (u64 j = (u64)i * i; j <= N; j += i)
            composite[j] = 1;
    }
    return primes;
}

static void quicksort(u32 *a, long left, long right)
{
    while (left < right) {
        u32 pivot = a[(left + right) / 2];
        long i = left, j = right;
        while (i <= j) {
            while (a[i] < pivot)
                i++;
            while (a[j] > pivot)
                j--;
            if (i <= j) {
                u32 t = a[i];
                a[i++] = a[j];
                a[j--] = t;
            }
        }
        if (j - left < right - i) {
            quicksort(a, left, j);
            left = i;
        } else {
            quicksort(a, i, right);
            right = j;
        }
    }
}

WORK sort(void)
{
    enum { N = 20000 };
    static u32 a[N];
    u64 seed = 7, h = 0;
    for (int i = 0; i < N; i++)
        a[i] = (u32)kit_random(&seed);
    quicksort(a, 0, N - 1);
    for (int i = 0; i < N; i++)
        h = h * 31 + a[i];
    for (int i = 1; i < N; i++)
        if (a[i - 1] > a[i])
            return 1;
    return h;
}

/* Insert into an open-addressed table with FNV-1a. */
WORK hash(void)
{
    enum { SLOTS = 1 << 14 };
    static u64 key[SLOTS];
    static u32 value[SLOTS];
    u64 seed = 3, h = 0;
    memset(key, 0, sizeof(key));
    for (u32 i = 0; i < 10000; i++) {
        u64 x = kit_random(&seed) | 1, f = 1469598103934665603ull;
        for (int b = 0; b < 8; b++)
            f = (f ^ ((x >> (8 * b)) & 255)) * 1099511628211ull;
        u32 p = f & (SLOTS - 1);
        while (key[p] && key[p] != x)
            p = (p + 1) & (SLOTS - 1);
        key[p] = x;
        value[p] = i;
        h += p;
    }
    for (int i = 0; i < SLOTS; i++)
        h = h * 33 ^ (key[i] + value[i]);
    return h;
}

WORK muldiv(void)
{
    u64 a = 0x123456789abcdefull, h = 1;
    for (u32 i = 1; i < 100000; i++) {
        h = h * a + i;
        u64 q = h / (i | 3), r = h % (i + 7);
        h ^= q + (r << 20);
        h = h << 13 | h >> 51;
    }
    return h;
}

/* A byte-code interpreter with computed goto: indirect jumps that follow a pattern. */
WORK interp(void)
{
    enum { PUSH, ADD, SUB, MUL, DUP, SWAP, JNZ, LOAD, STORE, XOR, SHR, DEC, HALT };
    static const u8 program[] = {PUSH, 200, STORE, 0,     PUSH,  1,   STORE, 1, /* outer count, hash */
                                 PUSH, 250, STORE, 2,                           /* 8: inner count */
                                 LOAD, 1,   LOAD,  2,     ADD,   DUP, PUSH,  7,  MUL,  SWAP, PUSH,
                                 3,    SHR, XOR,   STORE, 1,                     /* 12 */
                                 LOAD, 2,   DEC,   DUP,   STORE, 2,   JNZ,   12, /* to 12 */
                                 LOAD, 0,   DEC,   DUP,   STORE, 0,   JNZ,   8,  LOAD, 1,    HALT};
    static const void *const labels[] = {&&push, &&add,   &&sub, &&mul, &&dup, &&swap, &&jnz,
                                         &&load, &&store, &&xor, &&shr, &&dec, &&halt};
    u64 stack[32], *sp = stack, var[4] = {0};
    const u8 *pc = program;
#define NEXT goto *labels[*pc++]
    NEXT;
push:
    *sp++ = *pc++;
    NEXT;
add:
    sp--;
    sp[-1] += *sp;
    NEXT;
sub:
    sp--;
    sp[-1] -= *sp;
    NEXT;
mul:
    sp--;
    sp[-1] *= *sp;
    NEXT;
dup:
    *sp = sp[-1];
    sp++;
    NEXT;
swap : {
    u64 t = sp[-1];
    sp[-1] = sp[-2];
    sp[-2] = t;
}
    NEXT;
jnz:
    if (*--sp)
        pc = program + *pc;
    else
        pc++;
    NEXT;
load:
    *sp++ = var[*pc++];
    NEXT;
store:
    var[*pc++] = *--sp;
    NEXT;
    xor : sp--;
    sp[-1] ^= *sp;
    NEXT;
shr:
    sp--;
    sp[-1] >>= *sp;
    NEXT;
dec:
    sp[-1]--;
    NEXT;
halt:
    return sp[-1];
#undef NEXT
}

static KEEP_CALL u64 fibonacci(u32 n)
{
    return n < 2 ? n : fibonacci(n - 1) + fibonacci(n - 2);
}

WORK call_fib(void)
{
    return fibonacci(25);
}

WORK step_add(u64 x)
{
    return x + 1;
}
WORK step_mul(u64 x)
{
    return x * 3;
}
WORK step_xor(u64 x)
{
    return x ^ (x >> 7);
}
WORK step_sub(u64 x)
{
    return x - 77;
}

WORK call_indirect(void)
{
    u64 (*volatile steps[4])(u64) = {step_add, step_mul, step_xor, step_sub};
    u64 x = 1, s = 5;
    for (int i = 0; i < 200000; i++) {
        s = s * 1103515245 + 12345;
        x = steps[(s >> 16) & 3](x);
    }
    return x;
}

/* A scan of a string, byte by byte. */
WORK bytes(void)
{
    static char text[65536];
    u64 h = 5381;
    if (!text[0])
        for (int i = 0; i < 65535; i++)
            text[i] = (char)('a' + (i * 7 + (i >> 5)) % 26);
    for (const char *p = text; *p; p++) {
        if (*p == 'e')
            h += 3;
        h = h * 33 + (u8)*p;
    }
    return h;
}

WORK sha256_c(void)
{
    return sha256_run(sha256_block_c, 500);
}

static const struct workload rows[] = {
    {"int_sieve", sieve, 17984, 1, "ns/op", 0, 0, 0},
    {"int_sort", sort, 0x43719ffbce445f71, 1, "ns/op", 0, 0, 0},
    {"int_hash", hash, 0x910ce417ca0f2448, 1, "ns/op", 0, 0, 0},
    {"int_muldiv", muldiv, 0xef88dca70ea52fd1, 1, "ns/op", 0, 0, 0},
    {"interp", interp, 0x6fb45c5b69037115, 1, "ns/op", 0, 0, 0},
    {"call_fib", call_fib, 75025, 1, "ns/op", 0, 0, 0},
    {"call_indirect", call_indirect, 0xb322fb66bc2776c4, 1, "ns/op", 0, 0, 0},
    {"bytes", bytes, 0x8b34b98695070c24, 1, "ns/op", 0, 0, 0},
    {"sha256_c", sha256_c, 0x62b1ce259241b387, 1, "ns/op", 0, 0, 0},
};
WORK_TABLE(work_integer, rows);
