/*
 * Time in a machine: one source, the host's monotonic clock, seen by the guest as TSC, kvmclock, and timer chips.
 *
 * Guest nanoseconds are host CLOCK_MONOTONIC plus an offset (paused time does not count: resume moves the offset).
 * The guest's TSC runs at the host TSC's rate. Timers are a list of absolute guest-nanosecond deadlines that the thread
 * of the machine serves: late ticks are coalesced by their owners, never replayed (facts: time comes from the clock).
 */
#ifndef TRAPEZE_MACHINE_CLOCK_H
#define TRAPEZE_MACHINE_CLOCK_H

#include "base/record.h"
#include "base/types.h"

struct vtimer {
    u64 deadline; /* guest ns; UINT64_MAX while off */
    void (*fire)(void *ctx);
    void *ctx;
    struct vtimer *next; /* list of all timers of the clock, armed or not */
};

/* Guest ns as a line over the TSC: ns + (x * mul >> 32), x being the ticks since `tsc`, shifted left by `shift`. */
struct vclock_line {
    u64 tsc, ns;
    u32 mul; /* its top bit is set; 0: there is no line yet */
    s8 shift;
};

struct vclock {
    u64 (*host_ns)(void *ctx);  /* monotonic host nanoseconds; tests supply their own */
    u64 (*host_tsc)(void *ctx); /* raw host TSC */
    void *ctx;
    s64 offset;              /* guest ns = host ns + offset */
    u64 tsc_hz;              /* rate of host and guest TSC */
    u64 tsc_offset;          /* guest TSC = host TSC + tsc_offset */
    s64 wall_offset;         /* wall-clock ns since the epoch = guest ns + wall_offset (RTC, kvmclock) */
    u64 stopped_at;          /* guest ns at which the machine was paused */
    u64 saved_ns, saved_tsc; /* filled by vclock_save_prepare, for the record; saved_tsc also while paused */
    u64 saved_hz;            /* tsc_hz of the machine that was saved */
    bool paused;
    struct vtimer *timers;
    struct vclock_line line;
    u64 earliest; /* no timer is due before this guest ns: what engines compare with */
};

/* Start a clock at guest time 0, TSC 0. */
void vclock_init(struct vclock *k, u64 (*host_ns)(void *), u64 (*host_tsc)(void *), void *ctx, u64 tsc_hz,
                 s64 wall_ns_now);

u64 vclock_ns(const struct vclock *k);
u64 vclock_tsc(const struct vclock *k);
/* Wall-clock nanoseconds since 1970. Goes on while the machine is paused, and over a load. */
s64 vclock_wall_ns(const struct vclock *k);

/* Guest TSC value <-> guest ns, exact to a nanosecond over centuries (128-bit products). */
u64 vclock_tsc_to_ns(const struct vclock *k, u64 tsc);
u64 vclock_ns_to_tsc(const struct vclock *k, u64 ns);

/* Guest ns at which a TSC that reads `now_tsc` now will have reached `tsc`; now if it has, never UINT64_MAX. */
u64 vclock_tsc_deadline(const struct vclock *k, u64 now_tsc, u64 tsc);

/*
 * The line that guests compute time by where nobody need be asked (kvmclock): one for all CPUs, and time by it never goes
 * back. Steering bends it towards vclock_ns, by 500 parts in a million at most; to be called every second or so. A guest that
 * is behind by more than 50 ms is set forward at once.
 */
const struct vclock_line *vclock_line(struct vclock *k);
void vclock_line_steer(struct vclock *k);
u64 vclock_line_ns(const struct vclock_line *l, u64 tsc);

void vtimer_init(struct vclock *k, struct vtimer *t, void (*fire)(void *), void *ctx);
/* Arm for an absolute guest-ns deadline (a past one is due at once), or disarm. */
void vtimer_set(struct vclock *k, struct vtimer *t, u64 deadline_ns);
void vtimer_stop(struct vclock *k, struct vtimer *t);
/* Take a timer off the clock's list before its memory goes away. */
void vtimer_remove(struct vclock *k, struct vtimer *t);

/*
 * Fire what is due, each timer once at most; nothing while paused. Returns the earliest remaining deadline (UINT64_MAX
 * if none).
 */
u64 vclock_run_timers(struct vclock *k);

/* Stop and continue guest time. */
void vclock_pause(struct vclock *k);
void vclock_resume(struct vclock *k);

/* Call before saving the record ('CLCK') of a running or paused clock; loading it continues at the saved instant. */
void vclock_save_prepare(struct vclock *k);
extern const struct rec_desc vclock_record;

#endif
