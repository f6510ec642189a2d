/* A clock that stands still until told otherwise, a small generator of random numbers: for tests of the machine's chips. */
#ifndef TRAPEZE_TESTS_FAKE_MACHINE_H
#define TRAPEZE_TESTS_FAKE_MACHINE_H

#include "machine/time/clock.h"

struct fake_time {
    u64 ns;
};

#define FAKE_TSC_HZ  2500000000ull
#define FAKE_WALL_NS (1700000000ll * 1000000000ll) /* Tue 14 Nov 2023 22:13:20 UTC */

static inline u64 fake_ns(void *ctx)
{
    return ((struct fake_time *)ctx)->ns;
}

static inline u64 fake_tsc(void *ctx)
{
    return ((struct fake_time *)ctx)->ns * 5 / 2;
}

static inline void fake_clock_init(struct vclock *k, struct fake_time *t)
{
    vclock_init(k, fake_ns, fake_tsc, t, FAKE_TSC_HZ, FAKE_WALL_NS);
}

/* Let time pass, with timers served at each deadline as an idle machine would. */
static inline void fake_advance(struct vclock *k, struct fake_time *t, u64 ns)
{
    u64 end = t->ns + ns;
    vclock_run_timers(k);
    while (k->earliest != UINT64_MAX && k->earliest - (u64)k->offset <= end) {
        u64 due = k->earliest - (u64)k->offset;
        t->ns = due > t->ns ? due : t->ns;
        vclock_run_timers(k);
    }
    t->ns = end;
}

/* xorshift64*: the same sequence everywhere for the same seed (not 0) */
static inline u64 rnd(u64 *state)
{
    u64 x = *state;
    x ^= x >> 12;
    x ^= x << 25;
    x ^= x >> 27;
    *state = x;
    return x * 0x2545f4914f6cdd1dull;
}

static inline u64 rnd_below(u64 *state, u64 n)
{
    return (rnd(state) >> 16) % n;
}

#endif
