/*
 * kvmclock, PV EOI and steal time in guest memory.
 *
 * kvmclock gives the guest a line: at TSC value `tsc_timestamp` it was `system_time` ns, and a tick is mul * 2^(shift - 32) ns.
 * The guest reads the TSC and computes; nobody has to enter the monitor. The structure carries a version that is odd
 * while it is being written:
 *
 *     0  version    4  pad    8  tsc_timestamp    16  system_time    24  mul    28  shift    29  flags    30  pad
 *
 * The line is vclock_line, so that kvmclock, the timers and the chips share one source. Flag bit 0 (TSC_STABLE) lets the
 * guest trust it without comparing with what other CPUs read: it is the same for all, and time by it never goes back. While it
 * is bent, CPUs go by the old and the new one for some microseconds, which differ by less than a nanosecond then. Bit 1 says
 * that the clock was stopped.
 *
 * The record of steal time, 64 bytes, has a version of the same kind; of `preempted` the monitor sets bit 0, the guest bit 1:
 *
 *     0  steal, ns    8  version    12  flags    16  preempted    17  pad
 */
#include "machine/cpu/kvmpv.h"
#include "machine/cpu/cpu_features.h"
#include "machine/cpu/msr.h"

#define NS_PER_S           1000000000ull
#define FLAG_TSC_STABLE    1u
#define FLAG_GUEST_STOPPED 2u

struct time_info {
    u32 version;
    u32 pad0;
    u64 tsc_timestamp;
    u64 system_time;
    u32 mul;
    s8 shift;
    u8 flags;
    u8 pad[2];
};
_Static_assert(sizeof(struct time_info) == 32, "pvclock_vcpu_time_info");

struct wall_clock {
    u32 version, sec, nsec;
};

/* The next odd version: what a reader takes as "being written". */
static u32 version_begin(struct guest_mem *m, gpa_t at)
{
    u32 v = 0;
    mem_read(m, at, &v, sizeof(v));
    v = v & 1 ? v + 2 : v + 1;
    mem_write(m, at, &v, sizeof(v));
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return v;
}

static void version_end(struct guest_mem *m, gpa_t at, u32 odd)
{
    u32 v = odd + 1;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    mem_write(m, at, &v, sizeof(v));
}

void kvmpv_clock_refresh(struct cpu *c, struct guest_mem *m, struct vclock *k, bool stopped)
{
    struct time_info t = {0};
    gpa_t at = GPA(c->msr.kvm_system_time & ~(u64)KVM_MSR_ENABLED);

    if (!(c->msr.kvm_system_time & KVM_MSR_ENABLED) || !mem_at(m, at, sizeof(t)))
        return;
    const struct vclock_line *l = vclock_line(k);
    t.tsc_timestamp = l->tsc + c->tsc_offset;
    t.system_time = l->ns;
    t.mul = l->mul;
    t.shift = l->shift;
    if (!c->model || cpu_has(c->model, FEAT_KVM_CLOCK_STABLE))
        t.flags |= FLAG_TSC_STABLE;
    if (stopped)
        t.flags |= FLAG_GUEST_STOPPED;
    t.version = version_begin(m, at);
    mem_write(m, at, &t, sizeof(t));
    version_end(m, at, t.version);
}

void kvmpv_wall_clock_write(const struct cpu *c, struct guest_mem *m, const struct vclock *k)
{
    struct wall_clock w = {0};
    gpa_t at = GPA(c->msr.kvm_wall_clock);
    s64 boot = vclock_wall_ns(k) - (s64)vclock_ns(k);

    if (!mem_at(m, at, sizeof(w)))
        return;
    if (boot > 0) {
        w.sec = (u32)((u64)boot / NS_PER_S);
        w.nsec = (u32)((u64)boot % NS_PER_S);
    }
    w.version = version_begin(m, at);
    mem_write(m, at, &w, sizeof(w));
    version_end(m, at, w.version);
}

/* --- PV EOI ----------------------------------------------------------------------------------------------------- */

/* The flag byte of a CPU; NULL when PV EOI is off or its address isn't RAM. */
static u8 *eoi_flag(const struct kvmpv *p, unsigned cpu)
{
    if (cpu >= p->n_cpus)
        return NULL;
    u64 v = p->cpus[cpu]->msr.kvm_pv_eoi;
    return v & KVM_MSR_ENABLED ? mem_at(p->mem, GPA(v & ~(u64)KVM_MSR_ENABLED), 1) : NULL;
}

static void eoi_written(const struct kvmpv *p, const u8 *flag)
{
    mem_traced_write(p->mem, (u64)(flag - p->mem->ram) >> PAGE_SHIFT);
}

bool kvmpv_eoi_set(void *ctx, unsigned cpu)
{
    u8 *flag = eoi_flag(ctx, cpu);
    if (!flag)
        return false;
    __atomic_fetch_or(flag, 1, __ATOMIC_SEQ_CST);
    eoi_written(ctx, flag);
    return true;
}

bool kvmpv_eoi_test_clear(void *ctx, unsigned cpu)
{
    u8 *flag = eoi_flag(ctx, cpu);
    if (!flag)
        return true;
    bool was = __atomic_fetch_and(flag, (u8)~1u, __ATOMIC_SEQ_CST) & 1;
    eoi_written(ctx, flag);
    return !was;
}

/* --- steal time ------------------------------------------------------------------------------------------------- */

#define STEAL_SIZE      64u
#define STEAL_VERSION   8u
#define STEAL_PREEMPTED 16u
#define PREEMPTED       1u
#define PREEMPTED_FLUSH 2u

bool kvmpv_steal_on(const struct cpu *c)
{
    return c->msr.kvm_steal_time & KVM_MSR_ENABLED;
}

static gpa_t steal_record(const struct cpu *c)
{
    return GPA(c->msr.kvm_steal_time & ~(u64)(KVM_MSR_ENABLED | KVM_STEAL_RESERVED));
}

void kvmpv_steal_add(const struct cpu *c, struct guest_mem *m, u64 ns)
{
    gpa_t at = steal_record(c);
    u64 sum;
    if (!kvmpv_steal_on(c) || !mem_at(m, at, STEAL_SIZE))
        return;
    mem_read(m, at, &sum, sizeof(sum)); /* the guest has it when the machine moves on */
    sum += ns;
    gpa_t version = GPA(at.v + STEAL_VERSION);
    u32 odd = version_begin(m, version);
    mem_write(m, at, &sum, sizeof(sum));
    version_end(m, version, odd);
}

/* The byte that says whether the CPU runs; NULL when steal time is off or not in RAM. */
static u8 *preempted(const struct cpu *c, const struct guest_mem *m)
{
    gpa_t at = steal_record(c);
    u8 *record = kvmpv_steal_on(c) ? mem_at(m, at, STEAL_SIZE) : NULL;
    return record ? record + STEAL_PREEMPTED : NULL;
}

void kvmpv_out(const struct cpu *c, struct guest_mem *m)
{
    u8 *byte = preempted(c, m);
    if (!byte)
        return;
    __atomic_store_n(byte, PREEMPTED, __ATOMIC_SEQ_CST);
    mem_traced_write(m, (u64)(byte - m->ram) >> PAGE_SHIFT);
}

bool kvmpv_in(const struct cpu *c, struct guest_mem *m)
{
    u8 *byte = preempted(c, m);
    if (!byte)
        return false;
    u8 was = __atomic_exchange_n(byte, 0, __ATOMIC_SEQ_CST);
    mem_traced_write(m, (u64)(byte - m->ram) >> PAGE_SHIFT);
    return was & PREEMPTED_FLUSH && (!c->model || cpu_has(c->model, FEAT_KVM_PV_TLB_FLUSH));
}
