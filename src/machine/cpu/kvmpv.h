/*
 * KVM's paravirtual interfaces that this machine offers: kvmclock, PV EOI and steal time, the parts that live in guest
 * memory.
 *
 * The guest names an address by MSR (msr.c); these functions write there. Addresses are a guest's word: everything goes
 * through the doorway of mem.h, and what isn't RAM is silently left alone, as KVM does.
 * Source: Linux Documentation/virt/kvm/x86/msr.rst, arch/x86/include/asm/pvclock-abi.h.
 */
#ifndef TRAPEZE_MACHINE_KVMPV_H
#define TRAPEZE_MACHINE_KVMPV_H

#include "machine/cpu/cpu.h"
#include "machine/mem/mem.h"
#include "machine/time/clock.h"

/*
 * Write the time of `c` at the address of its SYSTEM_TIME MSR, if that is enabled. To be called when the relation of TSC
 * to guest nanoseconds changed: after load and resume, after a write to TSC or TSC_ADJUST, and now and then (once a
 * second is plenty) to follow the host's clock, which NTP slews against the TSC. `stopped`: the guest did not run for a
 * while (pause, load): it is told, so that its watchdogs keep quiet.
 */
void kvmpv_clock_refresh(struct cpu *c, struct guest_mem *m, struct vclock *k, bool stopped);

/* Write the wall-clock time of guest nanosecond 0 at the address of the WALL_CLOCK MSR. */
void kvmpv_wall_clock_write(const struct cpu *c, struct guest_mem *m, const struct vclock *k);

/* Where PV EOI finds its flags: the context of the two functions below. */
struct kvmpv {
    struct cpu **cpus;
    unsigned n_cpus;
    struct guest_mem *mem;
};

/*
 * The guest-memory half of struct irq_pv_eoi_ops (machine/irq/irq.h), `ctx` being a struct kvmpv. kvmpv_eoi_set puts 1 into
 * the flag, false if it is off or not in RAM. kvmpv_eoi_test_clear clears it, true if the guest had done so already
 * (that was its EOI).
 */
bool kvmpv_eoi_set(void *ctx, unsigned cpu);
bool kvmpv_eoi_test_clear(void *ctx, unsigned cpu);

/*
 * Steal time: a record a CPU, at the address of its STEAL_TIME MSR, of the nanoseconds for which it wanted to run and the host
 * ran something else, and whether it runs now. Each of these does nothing while that is switched off.
 *
 * kvmpv_steal_add: so many more. kvmpv_out: the CPU is not running, and looks at nothing that it has translated: whoever would
 * have to interrupt it to drop translations may ask for that in the record instead. kvmpv_in: it runs again, after what
 * came meanwhile; true if it has to drop all translations first (PV TLB flush).
 */
bool kvmpv_steal_on(const struct cpu *c);
void kvmpv_steal_add(const struct cpu *c, struct guest_mem *m, u64 ns);
void kvmpv_out(const struct cpu *c, struct guest_mem *m);
bool kvmpv_in(const struct cpu *c, struct guest_mem *m);

#endif
