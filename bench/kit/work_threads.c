/* Threads: making them, locks, futexes, sleeping, and two processors where there are two. */
#include "kit.h"

#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <stdio.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

/* --- pinning: where a scheduler puts two threads is luck otherwise --- */

static cpu_set_t all_cpus;

static void pin(int nth)
{
    cpu_set_t one;
    if (CPU_COUNT(&all_cpus) < 2)
        return;
    CPU_ZERO(&one);
    for (int k = 0; k < CPU_SETSIZE; k++)
        if (CPU_ISSET(k, &all_cpus) && nth-- == 0) {
            CPU_SET(k, &one);
            break;
        }
    sched_setaffinity(0, sizeof(one), &one);
}

static void pin_start(void)
{
    sched_getaffinity(0, sizeof(all_cpus), &all_cpus);
    pin(0);
}

static void pin_stop(void)
{
    sched_setaffinity(0, sizeof(all_cpus), &all_cpus);
}

/* --- workloads --- */

static int ball; /* of futex_pingpong; 1: the other thread's turn */

static void *return_argument(void *p)
{
    return p;
}

WORK thread(void)
{
    for (int i = 0; i < 5; i++) {
        pthread_t t;
        void *result;
        if (pthread_create(&t, NULL, return_argument, &ball) || pthread_join(t, &result) || result != &ball)
            return 0;
    }
    return 1;
}

static pthread_mutex_t mutex = PTHREAD_MUTEX_INITIALIZER;
static u64 counter;

static void *count_locked(void *p)
{
    for (int i = 0; i < 10000; i++) {
        pthread_mutex_lock(&mutex);
        counter++;
        pthread_mutex_unlock(&mutex);
    }
    return p;
}

WORK futex_mutex2(void)
{
    pthread_t t;
    counter = 0;
    if (pthread_create(&t, NULL, count_locked, NULL))
        return 0;
    count_locked(NULL);
    pthread_join(t, NULL);
    return counter;
}

static void futex(int op, int value)
{
    syscall(SYS_futex, &ball, op | FUTEX_PRIVATE_FLAG, value, NULL, NULL, 0);
}

/* Wait until the ball is `mine`, pass it on; 200 times. */
static void play(int mine, bool serve)
{
    for (int i = 0; i < 200; i++) {
        if (serve) {
            __atomic_store_n(&ball, !mine, __ATOMIC_RELEASE);
            futex(FUTEX_WAKE, 1);
        }
        while (__atomic_load_n(&ball, __ATOMIC_ACQUIRE) != mine)
            futex(FUTEX_WAIT, !mine);
        if (!serve) {
            __atomic_store_n(&ball, !mine, __ATOMIC_RELEASE);
            futex(FUTEX_WAKE, 1);
        }
    }
}

static void *play_thread(void *p)
{
    play(1, false);
    return p;
}

WORK futex_pingpong(void)
{
    pthread_t t;
    ball = 0;
    if (pthread_create(&t, NULL, play_thread, NULL))
        return 0;
    play(0, true);
    pthread_join(t, NULL);
    return 1;
}

WORK sleep_100us(void)
{
    const struct timespec d = {0, 100000};
    double t = kit_now();
    for (int i = 0; i < 10; i++)
        nanosleep(&d, NULL);
    return kit_now() - t >= 0.00099;
}

static u64 shared;

static void *add_shared(void *second)
{
    if (second)
        pin(1);
    for (int i = 0; i < 20000; i++)
        __atomic_fetch_add(&shared, 1, __ATOMIC_SEQ_CST);
    return second;
}

WORK smp_atomic2(void)
{
    pthread_t t;
    shared = 0;
    if (pthread_create(&t, NULL, add_shared, &shared))
        return 0;
    add_shared(NULL);
    pthread_join(t, NULL);
    return shared;
}

static KEEP_CALL u64 mix(void)
{
    u64 h = 1;
    __asm__ volatile("" : "+r"(h)); /* each call works anew */
    for (u32 i = 1; i < 2000000; i++) {
        h = (h ^ i) * 0x9e3779b97f4a7c15ull;
        h ^= h >> 29;
    }
    return h;
}

static void *mix_thread(void *out)
{
    pin(1);
    *(u64 *)out = mix();
    return NULL;
}

WORK smp_int1(void)
{
    return mix();
}

WORK smp_int2(void)
{
    pthread_t t;
    u64 a = 0, b;
    if (pthread_create(&t, NULL, mix_thread, &a))
        return 0;
    b = mix();
    pthread_join(t, NULL);
    return a == b ? a : 0;
}

/* --- kit --parallel --- */

#define PARALLEL_MAX 64
#define PARALLEL_MIXES \
    100 /* a thread's work: a tenth of a second natively, many slices of a scheduler whose last one is shared by nobody */
#define PARALLEL_TURNS 5

static void *mixes_thread(void *nth)
{
    u64 h = 0;
    pin((int)(intptr_t)nth);
    for (int i = 0; i < PARALLEL_MIXES; i++)
        h ^= mix() + (u64)i;
    return (void *)(uintptr_t)h;
}

/* Seconds that so many threads take, each its own work; 0 if a result is wrong. */
static double parallel_turn(long threads, const void *want)
{
    pthread_t t[PARALLEL_MAX];
    bool good = true;
    double begin = kit_now();
    for (long i = 0; i < threads; i++)
        if (pthread_create(&t[i], NULL, mixes_thread, (void *)(intptr_t)i))
            return 0;
    for (long i = 0; i < threads; i++) {
        void *h;
        pthread_join(t[i], &h);
        good &= h == want;
    }
    return good ? kit_now() - begin : 0;
}

int kit_parallel(long threads)
{
    double one = 1e9, all = 1e9;
    if (threads < 1 || threads > PARALLEL_MAX)
        return fprintf(stderr, "kit: --parallel %ld: give 1 to %d threads\n", threads, PARALLEL_MAX);
    sched_getaffinity(0, sizeof(all_cpus), &all_cpus);
    if (CPU_COUNT(&all_cpus) < threads)
        return fprintf(stderr, "kit: --parallel %ld: there are %d CPUs\n", threads, CPU_COUNT(&all_cpus));
    u64 h = 0;
    for (int i = 0; i < PARALLEL_MIXES; i++)
        h ^= mix() + (u64)i;
    for (int i = 0; i < PARALLEL_TURNS; i++) {
        double a = parallel_turn(1, (void *)(uintptr_t)h), b = parallel_turn(threads, (void *)(uintptr_t)h);
        if (a <= 0 || b <= 0)
            return printf("parallel       BAD a thread's result\n");
        one = a < one ? a : one;
        all = b < all ? b : all;
    }
    printf("parallel %ld one %.6f s all %.6f s\n", threads, one, all);
    return 0;
}

static const struct workload rows[] = {
    {"thread", thread, 1, 5, "ns/op", 0, 0, 0},
    {"futex_mutex2", futex_mutex2, 20000, 20000, "ns/op", 0, 0, 0},
    {"futex_pingpong", futex_pingpong, 1, 200, "ns/op", 0, 0, 0},
    {"sleep_100us", sleep_100us, 1, 10, "ns/op", 0, 0, 0},
    {"smp_atomic2", smp_atomic2, 40000, 40000, "ns/op", 0, pin_start, pin_stop},
    {"smp_int1", smp_int1, 0xeb8310629a00d415, 1, "ns/op", 0, 0, 0},
    {"smp_int2", smp_int2, 0xeb8310629a00d415, 2, "ns/op", 0, pin_start, pin_stop},
};
WORK_TABLE(work_threads, rows);
