/*
 * What a guest kernel that knows KVM does with the monitor's help where it has several CPUs.
 *
 *  - PV IPI: one hypercall for interrupts to many CPUs, instead of a register write for each.
 *  - PV unhalt: a CPU that waits for a lock halts, with interrupts off; who releases the lock kicks it by a hypercall. A kick
 *    that comes before the HLT is kept for it (cpu->unhalt).
 *  - Steal time: how long a CPU wanted to run and its thread did not get a processor: the time that passed less the time
 *    its thread was charged for. The guest's scheduler and its `top` take account of it.
 *  - PV TLB flush: in the same record a CPU says that it is not running. Who unmaps a page asks it there to drop its
 *    translations before it runs again, and neither interrupts it nor waits for it.
 *
 * What must stay true: a CPU is marked as out only while its engine executes nothing, and it is marked as in, and has dropped
 * what it was asked to, before its engine executes anything.
 *
 * Not done: steal time where one thread runs all CPUs (board_run). A thread that the host sends away is not marked
 * as out: only the kernel of the host would know.
 */
#include "machine/cpu/cpu_features.h"
#include "vm/board_internal.h"

/* --- hypercalls --- */

/* Args: flags (unused), APIC id. */
static s64 kick(struct board *b, const u64 args[4])
{
    if (args[1] < b->n_cpus)
        __atomic_store_n(&b->cpu[args[1]].cpu.unhalt, 1, __ATOMIC_RELAXED);
    return 0; /* as KVM: an id that nobody has is not an error */
}

/* Args: two words of a bit map, the APIC id of its first bit, vector and mode. */
static s64 send_ipis(struct board *b, const u64 args[4])
{
    if (args[2] > UINT32_MAX || args[3] > UINT32_MAX)
        return -KVM_EINVAL;
    int taken = irq_send_ipis(b->irq, args[0], args[1], (u32)args[2], (u32)args[3]);
    return taken < 0 ? -KVM_EINVAL : taken;
}

static const struct {
    u64 number;
    u32 feature;
    s64 (*call)(struct board *b, const u64 args[4]);
} hypercalls[] = {
    {KVM_HC_KICK_CPU, FEAT_KVM_PV_UNHALT, kick},
    {KVM_HC_SEND_IPI, FEAT_KVM_PV_IPI, send_ipis},
};

s64 board_hypercall(void *ctx, struct cpu *c, u64 number, const u64 args[4])
{
    struct board *b = ctx;
    for (size_t i = 0; i < ARRAY_LEN(hypercalls); i++) {
        if (hypercalls[i].number != number || !cpu_has(&b->model, hypercalls[i].feature))
            continue;
        board_lock(b);
        s64 result = hypercalls[i].call(b, args);
        board_unlock(b);
        return result;
    }
    return -KVM_ENOSYS;
}

/* --- in and out --- */

void board_pv_out(struct board *b, struct board_cpu *c)
{
    if (c->out)
        return; /* what it was asked meanwhile stands */
    c->out = true;
    kvmpv_out(&c->cpu, &b->mem);
}

void board_pv_in(struct board *b, struct board_cpu *c)
{
    if (!c->out)
        return;
    c->out = false;
    if (kvmpv_in(&c->cpu, &b->mem))
        b->engine_ops->flush_tlb(c->engine);
}

void board_pv_began(struct board_cpu *c)
{
    if (!kvmpv_steal_on(&c->cpu))
        return;
    c->began_ns = host_ns(NULL);
    c->began_thread_ns = host_thread_ns();
}

void board_pv_ended(struct board *b, struct board_cpu *c)
{
    if (!kvmpv_steal_on(&c->cpu) || !c->began_ns)
        return;
    u64 passed = host_ns(NULL) - c->began_ns, charged = host_thread_ns() - c->began_thread_ns;
    c->began_ns = 0;
    if (passed > charged)
        kvmpv_steal_add(&c->cpu, &b->mem, passed - charged);
}
