/*
 * Time of a Linux host: the monotonic and the wall clock, and the TSC with its frequency.
 *
 * The frequency is asked of CPUID first. Leaf 15h gives crystal * numerator / denominator, exactly, on processors that
 * know their crystal; leaf 40000010h is where hypervisors (VMware's convention, also Xen's and Firecracker's) tell kHz.
 * Where neither tells, it is measured over 20 ms. Reading a clock takes tens of nanoseconds but may be interrupted at
 * any time, so each end point is the tightest of several TSC-clock-TSC sandwiches: error about 50 ns in 20 ms, 3 ppm.
 *
 * Source: Intel SDM vol. 2A, CPUID leaf 15h; vol. 3B, 18.7.3.
 */
#include "host/host.h"

#include <cpuid.h>
#include <time.h>
#include <x86intrin.h>

#define NS_PER_S     1000000000ll
#define MEASURE_NS   20000000ll
#define CHECK_NS     500000
#define SANDWICHES   9

#define HV_BASE_LEAF 0x40000000u
#define HV_TSC_LEAF  0x40000010u

static s64 clock_ns(clockid_t id)
{
    struct timespec t;
    clock_gettime(id, &t);
    return (s64)t.tv_sec * NS_PER_S + t.tv_nsec;
}

u64 host_ns(void *unused)
{
    (void)unused;
    return (u64)clock_ns(CLOCK_MONOTONIC);
}

u64 host_thread_ns(void)
{
    return (u64)clock_ns(CLOCK_THREAD_CPUTIME_ID);
}

s64 host_wall_ns(void)
{
    return clock_ns(CLOCK_REALTIME);
}

/* Behind a fence: processors read the counter ahead of a lock that was taken before, and a guest on two CPUs sees time go back. */
u64 host_tsc(void *unused)
{
    (void)unused;
    _mm_lfence();
    return __rdtsc();
}

bool host_tsc_invariant(void)
{
    u32 a, b, c, d;
    return __get_cpuid(0x80000007u, &a, &b, &c, &d) && (d & BIT(8));
}

/* Leaf 15h, 0 when it does not tell. */
static u64 tsc_hz_crystal(void)
{
    u32 den, num, crystal, d;
    if (!__get_cpuid_count(0x15, 0, &den, &num, &crystal, &d) || !den || !num || !crystal)
        return 0;
    return (u64)crystal * num / den;
}

/* The hypervisor's leaf, 0 when there is none. __get_cpuid's range check knows nothing of these leaves. */
static u64 tsc_hz_hypervisor(void)
{
    u32 a, b, c, d;
    if (!__get_cpuid(1, &a, &b, &c, &d) || !(c & BIT(31)))
        return 0;
    __cpuid(HV_BASE_LEAF, a, b, c, d);
    if (a < HV_TSC_LEAF || a > HV_BASE_LEAF + 0xffff)
        return 0;
    __cpuid(HV_TSC_LEAF, a, b, c, d);
    return (u64)a * 1000;
}

struct tsc_point {
    u64 tsc;
    s64 ns;
};

/* A clock reading and the TSC in its middle, the tightest of several tries. */
static struct tsc_point tsc_point(void)
{
    struct tsc_point best = {0};
    u64 best_gap = UINT64_MAX;
    for (int i = 0; i < SANDWICHES; i++) {
        u64 before = __rdtsc();
        s64 ns = clock_ns(CLOCK_MONOTONIC);
        u64 gap = __rdtsc() - before;
        if (gap < best_gap) {
            best_gap = gap;
            best = (struct tsc_point){.tsc = before + gap / 2, .ns = ns};
        }
    }
    return best;
}

static u64 tsc_hz_measured(s64 for_ns)
{
    struct tsc_point from = tsc_point(), to;
    do {
        struct timespec rest = {.tv_nsec = for_ns};
        nanosleep(&rest, NULL);
        to = tsc_point();
    } while (to.ns - from.ns < for_ns); /* a signal ended the sleep early */
    return (u64)((unsigned __int128)(to.tsc - from.tsc) * NS_PER_S / (u64)(to.ns - from.ns));
}

u64 host_tsc_told(void)
{
    u64 hz = tsc_hz_crystal();
    return hz ? hz : tsc_hz_hypervisor();
}

u64 host_tsc_hz(void)
{
    u64 hz = host_tsc_told();
    return hz ? hz : tsc_hz_measured(MEASURE_NS);
}

bool host_tsc_is(u64 hz)
{
    u64 now = tsc_hz_measured(CHECK_NS);
    return (now > hz ? now - hz : hz - now) <= hz / 1000;
}
