/*
 * The timer of the local APIC. Source: Intel SDM vol. 3A, 11.5.4.
 *
 * Time: the bus clock is 1 GHz (CPUID 15h and 40000010h say so), so a count is a nanosecond times the divider. Nothing
 * ticks: `timer_next` is the guest time at which the count gets to 0 and the current count follows from it. A periodic
 * timer that is served late has missed periods coalesced into one interrupt. TSC-deadline mode holds the deadline and asks
 * the clock for the guest time at which the TSC gets there.
 *
 * What must stay true
 *  1. timer_next is set only if init_count is not 0, and never in TSC-deadline mode; tsc_deadline only in that mode.
 */
#include "machine/irq/lapic_internal.h"

/* A periodic timer is served this often at most; what falls in between is coalesced anyway. */
#define MIN_SERVICE_NS 10000u

static u64 divider(const struct lapic *l)
{
    unsigned code = (l->divide & 3) | (l->divide >> 1 & 4);
    return code == 7 ? 1 : 2ull << code;
}

static u64 period_ns(const struct lapic *l)
{
    return l->init_count * divider(l);
}

static u64 guest_tsc(const struct lapic *l)
{
    return vclock_tsc(l->chip->clock) + l->cpu->tsc_offset;
}

/* Put the timer on the clock's list as the state says. */
void lapic_timer_arm(struct lapic *l)
{
    struct vclock *k = l->chip->clock;
    if (deadline_mode(l) && l->tsc_deadline)
        vtimer_set(k, &l->timer, vclock_tsc_deadline(k, guest_tsc(l), l->tsc_deadline));
    else if (l->timer_next != UINT64_MAX)
        vtimer_set(k, &l->timer, l->timer_next);
    else
        vtimer_stop(k, &l->timer);
}

/* Move a periodic timer past `now`: late periods count as one. */
static void timer_next_period(struct lapic *l, u64 now)
{
    u64 period = period_ns(l);
    u64 missed = now >= l->timer_next ? (now - l->timer_next) / period : 0;
    l->timer_next += (missed + 1) * period;
    u64 soonest = now + MIN_SERVICE_NS;
    vtimer_set(l->chip->clock, &l->timer, MAX(l->timer_next, soonest));
}

void lapic_fire(void *ctx)
{
    struct lapic *l = ctx;
    u64 now = vclock_ns(l->chip->clock);
    if (deadline_mode(l)) {
        if (!l->tsc_deadline)
            return;
        if (guest_tsc(l) < l->tsc_deadline) {
            lapic_timer_arm(l); /* the two host counters drifted, or the guest moved its TSC */
            return;
        }
        l->tsc_deadline = 0;
    } else if (l->timer_next == UINT64_MAX) {
        return;
    } else if (LVT_TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_PERIODIC) {
        timer_next_period(l, now);
    } else {
        l->timer_next = UINT64_MAX;
    }
    lapic_lvt_deliver(l, LVT_TIMER, false);
}

u32 lapic_timer_count(const struct lapic *l)
{
    if (deadline_mode(l) || l->timer_next == UINT64_MAX)
        return 0;
    u64 now = vclock_ns(l->chip->clock), div = divider(l);
    if (now < l->timer_next)
        return (u32)MIN((l->timer_next - now + div - 1) / div, l->init_count);
    if (LVT_TIMER_MODE(l->lvt[LVT_TIMER]) != TIMER_PERIODIC)
        return 0;
    return l->init_count - (u32)((now - l->timer_next) / div % l->init_count);
}

static void start_count(struct lapic *l, u32 count)
{
    l->timer_next = count ? vclock_ns(l->chip->clock) + count * divider(l) : UINT64_MAX;
    lapic_timer_arm(l);
}

void lapic_timer_start(struct lapic *l, u32 value)
{
    if (deadline_mode(l))
        return;
    l->init_count = value;
    start_count(l, value);
}

/* The count stays, its speed changes. */
void lapic_timer_divide(struct lapic *l, u32 value)
{
    u32 count = lapic_timer_count(l);
    bool running = l->timer_next != UINT64_MAX;
    l->divide = value & 0xb;
    if (running)
        start_count(l, count ? count : 1);
}

void lapic_timer_mode(struct lapic *l, u32 value)
{
    bool was = deadline_mode(l);
    l->lvt[LVT_TIMER] = value;
    if (deadline_mode(l) == was)
        return;
    /* Entering or leaving deadline mode disarms (11.5.4.1). */
    l->timer_next = UINT64_MAX;
    l->tsc_deadline = 0;
    lapic_timer_arm(l);
}

void lapic_timer_deadline(struct lapic *l, u64 value)
{
    if (!deadline_mode(l) || !hw_enabled(l))
        return;
    l->tsc_deadline = value;
    lapic_timer_arm(l);
}
