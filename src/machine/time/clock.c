/*
 * The machine's clock.
 *
 * Two counters of the host are passed on with an offset each: CLOCK_MONOTONIC as guest nanoseconds, the TSC as guest TSC.
 * They tick on while the machine is paused, so pausing remembers both guest values and resuming moves both offsets. The
 * wall clock is not the guest's to stop: it keeps the host's truth over pauses and loads, as the battery-backed clock of
 * a PC does over a suspend.
 *
 * The rates of the two counters are not in an exact ratio (tsc_hz is measured, CLOCK_MONOTONIC is slewed by NTP).
 * Conversions are therefore exact for differences only; a deadline in TSC ticks is converted relative to now
 * (vclock_tsc_deadline), so that the error is a fraction of the time to wait instead of one of the uptime.
 *
 * What must stay true
 *  1. `earliest` is the minimum of all deadlines whenever control is outside this file.
 *  2. A timer is disarmed before its function is called, and is called at most once per vclock_run_timers: a chip whose
 *     guest asked for a period of a nanosecond can not hold the machine here.
 *
 * Not done: scaling of the TSC. A saved machine whose TSC rate is not this host's is refused.
 */
#include "machine/time/clock.h"

#include <errno.h>

#define NS_PER_S 1000000000ull
/* Largest deviation of TSC rates between save and load: measurements differ by this much at most (parts in 1000). */
#define TSC_HZ_TOLERANCE 1

typedef unsigned __int128 u128;

/* a * b / c, all ones when it does not fit */
static u64 mul_div(u64 a, u64 b, u64 c)
{
    u128 r = (u128)a * b / c;
    return r > UINT64_MAX ? UINT64_MAX : (u64)r;
}

void vclock_init(struct vclock *k, u64 (*host_ns)(void *), u64 (*host_tsc)(void *), void *ctx, u64 tsc_hz,
                 s64 wall_ns_now)
{
    *k = (struct vclock){.host_ns = host_ns, .host_tsc = host_tsc, .ctx = ctx, .tsc_hz = tsc_hz ? tsc_hz : NS_PER_S};
    k->offset = (s64)(0 - host_ns(ctx));
    k->tsc_offset = 0 - host_tsc(ctx);
    k->wall_offset = wall_ns_now;
    k->earliest = UINT64_MAX;
}

u64 vclock_ns(const struct vclock *k)
{
    return k->paused ? k->stopped_at : k->host_ns(k->ctx) + (u64)k->offset;
}

u64 vclock_tsc(const struct vclock *k)
{
    return k->paused ? k->saved_tsc : k->host_tsc(k->ctx) + k->tsc_offset;
}

s64 vclock_wall_ns(const struct vclock *k)
{
    return (s64)(k->host_ns(k->ctx) + (u64)k->offset + (u64)k->wall_offset);
}

u64 vclock_tsc_to_ns(const struct vclock *k, u64 tsc)
{
    return mul_div(tsc, NS_PER_S, k->tsc_hz);
}

u64 vclock_ns_to_tsc(const struct vclock *k, u64 ns)
{
    return mul_div(ns, k->tsc_hz, NS_PER_S);
}

u64 vclock_tsc_deadline(const struct vclock *k, u64 now_tsc, u64 tsc)
{
    u64 now = vclock_ns(k);
    if (tsc <= now_tsc)
        return now;
    /* One more than the floor: when the timer fires the TSC must have got there. */
    u64 wait = vclock_tsc_to_ns(k, tsc - now_tsc);
    return wait >= UINT64_MAX - 1 - now ? UINT64_MAX - 1 : now + wait + 1;
}

/* --- the line --- */

#define STEER_PPM 500
#define JUMP_NS   50000000

/* ns = (ticks shifted left by *shift) * *mul >> 32, *mul with its top bit set. */
static void time_scale(u64 hz, u32 *mul, s8 *shift)
{
    int s = 0;
    while (hz > 2 * NS_PER_S) {
        hz >>= 1;
        s--;
    }
    while (hz <= NS_PER_S) {
        hz <<= 1;
        s++;
    }
    /* now 1 < hz / NS_PER_S <= 2: the quotient fits 32 bits */
    *mul = (u32)((NS_PER_S << 32) / hz);
    *shift = (s8)s;
}

/* Read TSC and ns as close together as a few tries allow: an interruption in between would be an error for the guest. */
static void sample(const struct vclock *k, u64 *tsc, u64 *ns)
{
    u64 best = UINT64_MAX;
    for (int i = 0; i < 4 && best; i++) {
        u64 before = vclock_tsc(k), now = vclock_ns(k), gap = vclock_tsc(k) - before;
        if (gap > best)
            continue;
        best = gap;
        *tsc = before + gap / 2;
        *ns = now;
    }
}

u64 vclock_line_ns(const struct vclock_line *l, u64 tsc)
{
    u64 ticks = tsc - l->tsc;
    ticks = l->shift < 0 ? ticks >> -l->shift : ticks << l->shift;
    return l->ns + (u64)((u128)ticks * l->mul >> 32);
}

const struct vclock_line *vclock_line(struct vclock *k)
{
    if (!k->line.mul) {
        sample(k, &k->line.tsc, &k->line.ns);
        time_scale(k->tsc_hz, &k->line.mul, &k->line.shift);
    }
    return &k->line;
}

void vclock_line_steer(struct vclock *k)
{
    struct vclock_line next;
    u64 now;
    sample(k, &next.tsc, &now);
    next.ns = vclock_line_ns(vclock_line(k), next.tsc);
    s64 behind = (s64)(now - next.ns);
    if (behind > JUMP_NS) {
        next.ns = now;
        behind = 0;
    }
    s64 most = NS_PER_S / 1000000 * STEER_PPM; /* in a second */
    behind = behind > most ? most : behind < -most ? -most : behind;
    time_scale(k->tsc_hz - (u64)((__int128)k->tsc_hz * behind / (s64)NS_PER_S), &next.mul, &next.shift);
    k->line = next;
}

static void find_earliest(struct vclock *k)
{
    u64 first = UINT64_MAX;
    for (const struct vtimer *t = k->timers; t; t = t->next)
        first = MIN(first, t->deadline);
    k->earliest = first;
}

void vtimer_init(struct vclock *k, struct vtimer *t, void (*fire)(void *), void *ctx)
{
    *t = (struct vtimer){.deadline = UINT64_MAX, .fire = fire, .ctx = ctx, .next = k->timers};
    k->timers = t;
}

void vtimer_remove(struct vclock *k, struct vtimer *t)
{
    struct vtimer **p = &k->timers;
    while (*p && *p != t)
        p = &(*p)->next;
    if (*p)
        *p = t->next;
    find_earliest(k);
}

void vtimer_set(struct vclock *k, struct vtimer *t, u64 deadline_ns)
{
    u64 old = t->deadline;
    t->deadline = deadline_ns;
    if (deadline_ns <= k->earliest)
        k->earliest = deadline_ns;
    else if (old == k->earliest)
        find_earliest(k);
}

void vtimer_stop(struct vclock *k, struct vtimer *t)
{
    vtimer_set(k, t, UINT64_MAX);
}

/* The armed timer with the smallest deadline not after `now`, NULL if none is due. */
static struct vtimer *first_due(const struct vclock *k, u64 now)
{
    struct vtimer *first = NULL;
    for (struct vtimer *t = k->timers; t; t = t->next)
        if (t->deadline != UINT64_MAX && t->deadline <= now && (!first || t->deadline < first->deadline))
            first = t;
    return first;
}

u64 vclock_run_timers(struct vclock *k)
{
    if (k->paused)
        return k->earliest;
    u64 now = vclock_ns(k);
    if (now < k->earliest)
        return k->earliest;
    unsigned rounds = 0;
    for (const struct vtimer *t = k->timers; t; t = t->next)
        rounds++;
    struct vtimer *t;
    while (rounds-- && (t = first_due(k, now))) {
        vtimer_stop(k, t);
        t->fire(t->ctx);
    }
    return k->earliest;
}

void vclock_pause(struct vclock *k)
{
    if (k->paused)
        return;
    k->stopped_at = vclock_ns(k);
    k->saved_tsc = vclock_tsc(k);
    k->paused = true;
}

/* Let guest time go on from the given values; the wall clock stays what it is. */
static void continue_at(struct vclock *k, u64 ns, u64 tsc)
{
    s64 wall = vclock_wall_ns(k);
    k->offset = (s64)(ns - k->host_ns(k->ctx));
    k->tsc_offset = tsc - k->host_tsc(k->ctx);
    k->wall_offset = (s64)((u64)wall - ns);
}

void vclock_resume(struct vclock *k)
{
    if (!k->paused)
        return;
    continue_at(k, k->stopped_at, k->saved_tsc);
    k->paused = false;
}

void vclock_save_prepare(struct vclock *k)
{
    k->saved_tsc = vclock_tsc(k);
    k->saved_ns = vclock_ns(k);
    k->saved_hz = k->tsc_hz;
}

static int clock_check(const void *candidate, struct error *e)
{
    const struct vclock *k = candidate;
    u64 off = k->saved_hz > k->tsc_hz ? k->saved_hz - k->tsc_hz : k->tsc_hz - k->saved_hz;
    if (off > k->tsc_hz / 1000 * TSC_HZ_TOLERANCE)
        return error_set(e, EINVAL,
                         "the machine was saved with a TSC of %llu Hz and this host's has %llu Hz; "
                         "scaling is not implemented, load it on a host with the same rate",
                         (unsigned long long)k->saved_hz, (unsigned long long)k->tsc_hz);
    if (k->saved_ns > INT64_MAX)
        return error_set(e, EINVAL, "guest time %llu ns lies beyond 292 years", (unsigned long long)k->saved_ns);
    return 0;
}

static void clock_loaded(void *object)
{
    struct vclock *k = object;
    if (k->paused)
        k->stopped_at = k->saved_ns;
    k->line.mul = 0; /* of another machine */
    continue_at(k, k->saved_ns, k->saved_tsc);
}

static const struct rec_field clock_fields[] = {
    REC_FIELD(struct vclock, saved_ns),
    REC_FIELD(struct vclock, saved_tsc),
    REC_FIELD(struct vclock, saved_hz),
};

const struct rec_desc vclock_record = {
    .name = "clock",
    .type = REC_TYPE('C', 'L', 'C', 'K'),
    .version = 1,
    .object_size = sizeof(struct vclock),
    .fields = clock_fields,
    .n_fields = ARRAY_LEN(clock_fields),
    .check = clock_check,
    .loaded = clock_loaded,
};
