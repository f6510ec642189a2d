/* What the soak compiles and runs: integers, floating point, recursion, function pointers, strings, signals. Prints checksums. */
#include <setjmp.h>
#include <signal.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static uint64_t rng_state = 88172645463325252ull;

static uint64_t rng(void)
{
    rng_state ^= rng_state << 13;
    rng_state ^= rng_state >> 7;
    rng_state ^= rng_state << 17;
    return rng_state;
}

static int compare(const void *a, const void *b)
{
    const uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

static uint64_t sorted(void)
{
    static uint32_t v[50000];
    uint64_t sum = 0;
    for (size_t i = 0; i < 50000; i++)
        v[i] = (uint32_t)rng();
    qsort(v, 50000, sizeof(v[0]), compare);
    for (size_t i = 0; i < 50000; i++)
        sum = sum * 31 + v[i];
    return sum;
}

static double integral(void)
{
    double sum = 0;
    for (int i = 0; i < 1000000; i++) {
        double x = (i + 0.5) / 1000000;
        sum += 4 / (1 + x * x);
    }
    return sum / 1000000;
}

static long double series(void)
{
    long double sum = 0, term = 1;
    for (int i = 1; i < 40; i++) {
        sum += term;
        term /= i;
    }
    return sum;
}

static float matrix(void)
{
    static float a[64][64], b[64][64], c[64][64];
    float trace = 0;
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++) {
            a[i][j] = (float)(rng() % 16);
            b[i][j] = (float)(rng() % 16);
        }
    for (int i = 0; i < 64; i++)
        for (int j = 0; j < 64; j++)
            for (int k = 0; k < 64; k++)
                c[i][j] += a[i][k] * b[k][j];
    for (int i = 0; i < 64; i++)
        trace += c[i][i];
    return trace;
}

static unsigned ackermann(unsigned m, unsigned n)
{
    return m == 0 ? n + 1 : n == 0 ? ackermann(m - 1, 1) : ackermann(m - 1, ackermann(m, n - 1));
}

static unsigned __int128 factorial(unsigned n)
{
    return n < 2 ? 1 : n * factorial(n - 1);
}

static uint32_t crc(const void *p, size_t n)
{
    uint32_t c = ~0u;
    for (const unsigned char *b = p; n--; b++) {
        c ^= *b;
        for (int k = 0; k < 8; k++)
            c = c >> 1 ^ (c & 1 ? 0xedb88320 : 0);
    }
    return ~c;
}

static uint64_t step_add(uint64_t x)
{
    return x + 12345;
}
static uint64_t step_turn(uint64_t x)
{
    return x << 7 | x >> 57;
}
static uint64_t step_divide(uint64_t x)
{
    return x / 3 + x % 1000003;
}

static uint64_t dispatched(void)
{
    uint64_t (*const steps[])(uint64_t) = {step_add, step_turn, step_divide};
    uint64_t x = 1;
    for (int i = 0; i < 300000; i++)
        x = steps[x % 3](x);
    return x;
}

static sigjmp_buf back;

static void on_fault(int number)
{
    siglongjmp(back, number);
}

/* Dividing by zero and storing through a null pointer, in turns. */
static int faults(void)
{
    static volatile int zero, sum, turn;
    signal(SIGSEGV, on_fault);
    signal(SIGFPE, on_fault);
    for (turn = 0; turn < 1000; turn++) {
        int number = sigsetjmp(back, 1);
        if (number)
            sum += number;
        else if (turn & 1)
            exit(77 / zero); /* 1 / x would become a comparison */
        else
            *(volatile int *)(intptr_t)zero = 1;
    }
    return sum;
}

int main(void)
{
    char text[4096];
    int n = 0;
    for (int i = 0; i < 200; i++)
        n += snprintf(text + n, sizeof(text) - (size_t)n, "%d:%x:%.3f ", i * i, i * 77, i / 7.0);
    printf("sorted %016llx\n", (unsigned long long)sorted());
    printf("integral %.12f\n", integral());
    printf("series %.15Lf\n", series());
    printf("matrix %.1f\n", (double)matrix());
    printf("ackermann %u\n", ackermann(2, 300));
    printf("factorial %016llx\n", (unsigned long long)(factorial(33) >> 40));
    printf("text %d %08x\n", n, crc(text, (size_t)n));
    printf("dispatched %016llx\n", (unsigned long long)dispatched());
    printf("faults %d\n", faults());
    return 0;
}
