/*
 * The local APIC: xAPIC page and x2APIC MSRs over one state. Source: Intel SDM vol. 3A, chapter 11 (numbers of sections
 * below are of that chapter).
 *
 * Interrupts wait in IRR, are in service in ISR, and TMR remembers which are level-triggered: 256 bits each, the vector
 * is the bit, its upper half the priority class. The processor priority PPR is the higher of TPR and the vector in
 * service; an interrupt is offered if its class is above PPR's (11.8.3). lapic_update recomputes that after each change
 * and sets or clears ATTN_INTR, so the offer is never stale and the spurious vector of 11.9 (an interrupt that became
 * masked between the offer and the acknowledge) has no occasion to be delivered; the register is kept.
 *
 * Time: the bus clock is 1 GHz (CPUID 15h and 40000010h say so), so a count is a nanosecond times the divider. Nothing
 * ticks: `timer_next` is the guest time at which the count gets to 0 and the current count follows from it. A periodic
 * timer that is served late has missed periods coalesced into one interrupt. TSC-deadline mode holds the deadline and asks
 * the clock for the guest time at which the TSC gets there.
 *
 * PV EOI: an edge-triggered interrupt that is alone (nothing else in service or waiting) is acknowledged with the guest's
 * flag set; a guest that clears the flag has ended the interrupt without an exit. Before anything looks at ISR or offers
 * another interrupt, pv_sync takes the flag back and learns what the guest did.
 *
 * What must stay true
 *  1. Bits 0-15 of IRR, ISR and TMR are 0.
 *  2. While pv_pending, IRR is empty and ISR has one bit, an edge-triggered one.
 *  3. timer_next is set only if init_count is not 0, and never in TSC-deadline mode; tsc_deadline only in that mode.
 *
 * Not done: SMI (dropped: the machine has no SMM), CMCI, focus processor checking.
 */
#include "machine/irq/irq_internal.h"
#include "machine/cpu/cpuid.h"

#include <errno.h>
#include <string.h>

#define BASE_BSP          BIT(8)
#define BASE_EXTD         BIT(10)
#define BASE_EN           BIT(11)

#define SVR_ENABLE        BIT(8)
#define SVR_NO_BCAST      BIT(12)
#define SVR_WRITABLE      0x13ffu

#define LVT_MODE(v)       ((v) >> 8 & 7)
#define LVT_RIRR          BIT(14)
#define LVT_LEVEL         BIT(15)
#define LVT_MASK          BIT(16)
#define LVT_TIMER_MODE(v) ((v) >> 17 & 3)

#define TIMER_PERIODIC    1u
#define TIMER_DEADLINE    2u

#define ESR_SEND_VECTOR   BIT(5)
#define ESR_RECV_VECTOR   BIT(6)
#define ESR_REGISTER      BIT(7)

#define ICR_LOGICAL       BIT(11)
#define ICR_ASSERT        BIT(14)
#define ICR_LEVEL         BIT(15)
#define ICR_WRITABLE      0x000ccfffu /* vector, modes, level, trigger, shorthand; not delivery status */

/* 14h: P6-style register set; six LVT entries; EOI broadcast suppression (11.4.8) */
#define VERSION (0x14u | (LVT_COUNT - 1) << 16 | 1u << 24)

/* A periodic timer is served this often at most; what falls in between is coalesced anyway. */
#define MIN_SERVICE_NS 10000u

/* Register numbers: xAPIC offset / 10h, x2APIC MSR - 800h */
enum reg {
    R_ID = 0x02,
    R_VERSION = 0x03,
    R_TPR = 0x08,
    R_APR = 0x09,
    R_PPR = 0x0a,
    R_EOI = 0x0b,
    R_RRD = 0x0c,
    R_LDR = 0x0d,
    R_DFR = 0x0e,
    R_SVR = 0x0f,
    R_ISR = 0x10,
    R_TMR = 0x18,
    R_IRR = 0x20,
    R_ESR = 0x28,
    R_ICR = 0x30,
    R_ICR_HIGH = 0x31,
    R_LVT = 0x32,
    R_INIT_COUNT = 0x38,
    R_COUNT = 0x39,
    R_DIVIDE = 0x3e,
    R_SELF_IPI = 0x3f,
    R_END = 0x40,
};

/* Writable bits of each LVT entry, figure 11-8 */
static const u32 lvt_writable[LVT_COUNT] = {
    [LVT_TIMER] = 0x000700ff, [LVT_THERMAL] = 0x000107ff, [LVT_PERF] = 0x000107ff,
    [LVT_LINT0] = 0x0001a7ff, [LVT_LINT1] = 0x0001a7ff,   [LVT_ERROR] = 0x000100ff,
};
/* Read-only status bits that a write may carry: delivery status, remote IRR */
#define LVT_STATUS 0x5000u

/* --- state queries --- */

static bool hw_enabled(const struct lapic *l)
{
    return l->apic_base & BASE_EN;
}

static bool x2apic(const struct lapic *l)
{
    return l->apic_base & BASE_EXTD;
}

static bool sw_enabled(const struct lapic *l)
{
    return hw_enabled(l) && l->svr & SVR_ENABLE;
}

/* Without a model (unit tests of this room) every feature is there. */
static bool has_feature(const struct lapic *l, u32 feature)
{
    return !l->cpu->model || cpu_has(l->cpu->model, feature);
}

static bool deadline_mode(const struct lapic *l)
{
    return LVT_TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_DEADLINE;
}

static int highest(const u32 *bits)
{
    for (int i = 7; i >= 0; i--)
        if (bits[i])
            return i * 32 + 31 - __builtin_clz(bits[i]);
    return -1;
}

static bool vec_test(const u32 *bits, unsigned v)
{
    return bits[v >> 5] >> (v & 31) & 1;
}

static void vec_put(u32 *bits, unsigned v, bool on)
{
    u32 bit = 1u << (v & 31);
    bits[v >> 5] = on ? bits[v >> 5] | bit : bits[v >> 5] & ~bit;
}

u32 lapic_ppr(const struct lapic *l)
{
    int serving = highest(l->isr);
    u32 v = serving < 0 ? 0 : (u32)serving;
    return (l->tpr & 0xf0) >= (v & 0xf0) ? l->tpr : v & 0xf0;
}

/* --- the offer to the processor --- */

static int deliverable(const struct lapic *l)
{
    int v = highest(l->irr);
    if (v < 0 || !sw_enabled(l))
        return -1;
    return ((u32)v & 0xf0) > (lapic_ppr(l) & 0xf0) ? v : -1;
}

bool lapic_takes_pic(const struct lapic *l)
{
    if (!hw_enabled(l))
        return l->apic_base & BASE_BSP;
    u32 lvt = l->lvt[LVT_LINT0];
    if (l->svr & SVR_ENABLE && !(lvt & LVT_MASK) && LVT_MODE(lvt) == IRQ_EXTINT)
        return true;
    return sw_enabled(l) && ioapic_extint(l->chip, l);
}

static bool pic_offers(const struct lapic *l)
{
    return i8259_output(&l->chip->pic) && lapic_takes_pic(l);
}

bool lapic_pending(const struct lapic *l)
{
    return deliverable(l) >= 0 || pic_offers(l);
}

void lapic_update(struct lapic *l)
{
    if (lapic_pending(l))
        cpu_attention_set(l->cpu, ATTN_INTR);
    else if (__atomic_load_n(&l->cpu->attention, __ATOMIC_RELAXED) & ATTN_INTR)
        cpu_attention_clear(l->cpu, ATTN_INTR);
}

void lapic_nmi(struct lapic *l)
{
    l->cpu->nmi_pending = 1;
    cpu_attention_set(l->cpu, ATTN_NMI);
}

/* --- end of interrupt --- */

/* Remote IRR of a level-triggered LINT0 clears at EOI; an input still active asks again. */
static void lint0_eoi(struct lapic *l, u8 vector)
{
    u32 *lvt = &l->lvt[LVT_LINT0];
    if (!(*lvt & LVT_RIRR) || (*lvt & 0xff) != vector)
        return;
    *lvt &= ~(u32)LVT_RIRR;
    bool level = l->lint0;
    l->lint0 = 0;
    lapic_set_lint0(l, level);
}

static void end_of_interrupt(struct lapic *l)
{
    int v = highest(l->isr);
    if (v < 0)
        return;
    vec_put(l->isr, (unsigned)v, false);
    if (vec_test(l->tmr, (unsigned)v)) {
        lint0_eoi(l, (u8)v);
        if (!(l->svr & SVR_NO_BCAST))
            irq_eoi_broadcast(l->chip, (u8)v);
    }
    lapic_update(l);
}

/* Take the PV EOI flag back; if the guest had cleared it, that was its EOI. */
static void pv_sync(struct lapic *l)
{
    if (!l->pv_pending)
        return;
    l->pv_pending = 0;
    if (l->pv && l->pv->test_clear(l->pv->ctx, l->index))
        end_of_interrupt(l);
}

/* The interrupt just acknowledged may end through the flag if nothing depends on seeing its EOI. */
static void pv_offer(struct lapic *l, unsigned vector)
{
    if (!l->pv || vec_test(l->tmr, vector) || highest(l->irr) >= 0)
        return;
    unsigned in_service = 0;
    for (unsigned i = 0; i < 8; i++)
        in_service += (unsigned)__builtin_popcount(l->isr[i]);
    if (in_service == 1 && l->pv->set(l->pv->ctx, l->index))
        l->pv_pending = 1;
}

/* --- arrival --- */

/* Log an error; the error interrupt comes once until the guest has written ESR (11.5.3). */
static void error(struct lapic *l, u32 bit)
{
    bool armed = l->esr_pending == 0;
    l->esr_pending |= bit;
    u32 lvt = l->lvt[LVT_ERROR];
    if (armed && !(lvt & LVT_MASK))
        lapic_accept(l, (u8)lvt, false);
}

bool lapic_accept(struct lapic *l, u8 vector, bool level)
{
    if (!sw_enabled(l))
        return false;
    if (vector < 16) {
        error(l, ESR_RECV_VECTOR);
        return true;
    }
    pv_sync(l);
    vec_put(l->irr, vector, true);
    vec_put(l->tmr, vector, level);
    lapic_update(l);
    return true;
}

/* A local source fires: what its LVT entry says happens (11.5.1). Returns whether a fixed interrupt was made. */
static bool lvt_deliver(struct lapic *l, enum lapic_lvt n, bool level)
{
    u32 lvt = l->lvt[n];
    if (lvt & LVT_MASK || !sw_enabled(l))
        return false;
    unsigned mode = n == LVT_TIMER || n == LVT_ERROR ? IRQ_FIXED : LVT_MODE(lvt);
    if (mode == IRQ_NMI)
        lapic_nmi(l);
    else if (mode == IRQ_INIT && l->chip->init_cpu) {
        lapic_init(l);
        l->chip->init_cpu(l->chip->ctx, l->index);
    } else if (mode == IRQ_FIXED)
        return lapic_accept(l, (u8)lvt, level);
    return false;
}

void lapic_set_lint0(struct lapic *l, bool level)
{
    bool rose = level && !l->lint0;
    l->lint0 = level;
    u32 *lvt = &l->lvt[LVT_LINT0];
    bool triggered = *lvt & LVT_LEVEL && LVT_MODE(*lvt) == IRQ_FIXED;
    if (rose && !(triggered && *lvt & LVT_RIRR) && lvt_deliver(l, LVT_LINT0, triggered) && triggered)
        *lvt |= LVT_RIRR;
    lapic_update(l);
}

void lapic_lint1_edge(struct lapic *l)
{
    if (hw_enabled(l))
        lvt_deliver(l, LVT_LINT1, false);
    else
        lapic_nmi(l);
}

int lapic_ack(struct lapic *l)
{
    int v = -1;
    if (pic_offers(l)) {
        v = i8259_ack(&l->chip->pic);
        irq_pic_changed(l->chip);
        return v;
    }
    pv_sync(l);
    v = deliverable(l);
    if (v >= 0) {
        vec_put(l->irr, (unsigned)v, false);
        vec_put(l->isr, (unsigned)v, true);
        pv_offer(l, (unsigned)v);
    }
    lapic_update(l);
    return v;
}

/* --- addressing (11.6.2) --- */

static bool matches_physical(const struct lapic *l, const struct irq_message *m)
{
    u32 all = m->wide ? UINT32_MAX : 0xff;
    return m->dest == all || m->dest == (x2apic(l) ? l->id : l->id >> 24);
}

static bool matches_logical(const struct lapic *l, const struct irq_message *m)
{
    if (x2apic(l)) {
        if (m->wide && m->dest == UINT32_MAX)
            return true;
        return m->dest >> 16 == l->ldr >> 16 && m->dest & l->ldr & 0xffff;
    }
    u32 ldr = l->ldr >> 24;
    if (m->dest > 0xff)
        return m->wide && m->dest == UINT32_MAX;
    if (m->dest == 0xff)
        return true;
    if (l->dfr >> 28 == 0xf)
        return m->dest & ldr;
    return m->dest >> 4 == ldr >> 4 && m->dest & ldr & 0xf;
}

bool lapic_matches(const struct lapic *l, const struct irq_message *m)
{
    if (!hw_enabled(l))
        return false;
    return m->logical ? matches_logical(l, m) : matches_physical(l, m);
}

/* --- interprocessor interrupts (11.6.1) --- */

static bool shorthand_selects(const struct lapic *from, const struct lapic *to, unsigned shorthand)
{
    if (!hw_enabled(to))
        return false;
    return shorthand == 2 || (shorthand == 1) == (from == to);
}

static void deliver_shorthand(struct lapic *l, const struct irq_message *m, unsigned shorthand)
{
    struct irqchip *ic = l->chip;
    for (unsigned i = 0; i < ic->n_cpus; i++) {
        struct lapic *to = &ic->lapic[i];
        if (!shorthand_selects(l, to, shorthand))
            continue;
        struct irq_message one = *m;
        one.logical = false;
        one.wide = x2apic(to);
        one.dest = x2apic(to) ? to->id : to->id >> 24;
        irq_deliver(ic, &one);
    }
}

static void send_ipi(struct lapic *l)
{
    u32 low = l->icr_low;
    unsigned shorthand = low >> 18 & 3;
    struct irq_message m = {
        .dest = x2apic(l) ? l->icr_high : l->icr_high >> 24,
        .logical = low & ICR_LOGICAL,
        .wide = x2apic(l),
        .mode = low >> 8 & 7,
        .vector = (u8)low,
        .level = false, /* IPIs are edge-triggered whatever the trigger bit says, INIT level de-assert aside */
    };
    bool deassert = low & ICR_LEVEL && !(low & ICR_ASSERT);
    if (m.mode == IRQ_INIT && deassert)
        return; /* only synchronised arbitration IDs on the Pentium and P6 */
    if (m.mode == IRQ_EXTINT || m.mode == 3)
        return; /* reserved in the ICR */
    if (m.mode <= IRQ_LOWEST && m.vector < 16) {
        error(l, ESR_SEND_VECTOR);
        return;
    }
    if (shorthand)
        deliver_shorthand(l, &m, shorthand);
    else
        irq_deliver(l->chip, &m);
}

/* --- timer (11.5.4) --- */

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
static void timer_arm(struct lapic *l)
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
            timer_arm(l); /* the two host counters drifted, or the guest moved its TSC */
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
    lvt_deliver(l, LVT_TIMER, false);
}

static u32 current_count(const struct lapic *l)
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
    timer_arm(l);
}

static void write_init_count(struct lapic *l, u32 value)
{
    if (deadline_mode(l))
        return;
    l->init_count = value;
    start_count(l, value);
}

/* The count stays, its speed changes. */
static void write_divide(struct lapic *l, u32 value)
{
    u32 count = current_count(l);
    bool running = l->timer_next != UINT64_MAX;
    l->divide = value & 0xb;
    if (running)
        start_count(l, count ? count : 1);
}

static void write_lvt_timer(struct lapic *l, u32 value)
{
    bool was = deadline_mode(l);
    l->lvt[LVT_TIMER] = value;
    if (deadline_mode(l) == was)
        return;
    /* Entering or leaving deadline mode disarms (11.5.4.1). */
    l->timer_next = UINT64_MAX;
    l->tsc_deadline = 0;
    timer_arm(l);
}

/* --- registers --- */

static u32 ldr_x2apic(u32 id)
{
    return (id >> 4) << 16 | 1u << (id & 15);
}

void lapic_reset(struct lapic *l)
{
    l->apic_base = LAPIC_BASE | BASE_EN | (l->index == 0 ? BASE_BSP : 0);
    l->id = l->index << 24;
    l->lint0 = 0;
    lapic_init(l);
}

/* 11.4.7.1 and 11.4.7.3: everything but the mode and the id; in x2APIC mode LDR follows from the id. */
void lapic_init(struct lapic *l)
{
    l->tpr = l->esr = l->esr_pending = l->icr_low = l->icr_high = 0;
    l->ldr = x2apic(l) ? ldr_x2apic(l->index) : 0;
    l->dfr = UINT32_MAX;
    l->svr = 0xff;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        l->lvt[i] = LVT_MASK;
    memset(l->isr, 0, sizeof(l->isr));
    memset(l->irr, 0, sizeof(l->irr));
    memset(l->tmr, 0, sizeof(l->tmr));
    l->init_count = l->divide = 0;
    l->timer_next = UINT64_MAX;
    l->tsc_deadline = 0;
    l->pv_pending = 0;
    timer_arm(l);
    lapic_update(l);
}

static void write_svr(struct lapic *l, u32 value)
{
    bool was = l->svr & SVR_ENABLE;
    l->svr = value & SVR_WRITABLE;
    bool is = l->svr & SVR_ENABLE;
    if (was && !is)
        for (unsigned i = 0; i < LVT_COUNT; i++)
            l->lvt[i] |= LVT_MASK; /* 11.4.7.2 */
    lapic_update(l);
    if (!was && is)
        ioapic_retry(l->chip);
}

static void write_lvt(struct lapic *l, unsigned n, u32 value)
{
    u32 v = (value & lvt_writable[n]) | (l->lvt[n] & LVT_RIRR);
    if (!(l->svr & SVR_ENABLE))
        v |= LVT_MASK;
    if (!(v & LVT_LEVEL))
        v &= ~(u32)LVT_RIRR;
    if (n == LVT_TIMER)
        write_lvt_timer(l, v);
    else
        l->lvt[n] = v;
    if (n == LVT_LINT0 && v & LVT_LEVEL && l->lint0) {
        l->lint0 = 0; /* a level that was masked shows now */
        lapic_set_lint0(l, true);
    }
    lapic_update(l);
}

static void write_tpr(struct lapic *l, u32 value)
{
    l->tpr = value & 0xff;
    lapic_update(l);
}

static void write_eoi(struct lapic *l)
{
    pv_sync(l);
    end_of_interrupt(l);
}

static void write_esr(struct lapic *l)
{
    l->esr = l->esr_pending;
    l->esr_pending = 0;
}

/* Registers that read the same through both faces; false where there is none. */
static bool read_common(struct lapic *l, unsigned r, u32 *value)
{
    if (r >= R_ISR && r < R_ESR) {
        pv_sync(l);
        const u32 *bits = r < R_TMR ? l->isr : r < R_IRR ? l->tmr : l->irr;
        *value = bits[r & 7];
        return true;
    }
    if (r >= R_LVT && r < R_LVT + LVT_COUNT) {
        *value = l->lvt[r - R_LVT];
        return true;
    }
    switch (r) {
    case R_ID:
        *value = l->id;
        return true;
    case R_VERSION:
        *value = VERSION;
        return true;
    case R_TPR:
        *value = l->tpr;
        return true;
    case R_PPR:
        pv_sync(l);
        *value = lapic_ppr(l);
        return true;
    case R_LDR:
        *value = l->ldr;
        return true;
    case R_SVR:
        *value = l->svr;
        return true;
    case R_ESR:
        *value = l->esr;
        return true;
    case R_INIT_COUNT:
        *value = l->init_count;
        return true;
    case R_COUNT:
        *value = current_count(l);
        return true;
    case R_DIVIDE:
        *value = l->divide;
        return true;
    }
    return false;
}

/* Registers that are written the same way through both faces; false where there is none. */
static bool write_common(struct lapic *l, unsigned r, u32 value)
{
    if (r >= R_LVT && r < R_LVT + LVT_COUNT) {
        write_lvt(l, r - R_LVT, value);
        return true;
    }
    switch (r) {
    case R_TPR:
        write_tpr(l, value);
        return true;
    case R_EOI:
        write_eoi(l);
        return true;
    case R_SVR:
        write_svr(l, value);
        return true;
    case R_ESR:
        write_esr(l);
        return true;
    case R_INIT_COUNT:
        write_init_count(l, value);
        return true;
    case R_DIVIDE:
        write_divide(l, value);
        return true;
    }
    return false;
}

/* --- xAPIC page --- */

u32 lapic_mmio_read(struct irqchip *ic, unsigned id, u32 offset)
{
    struct lapic *l = &ic->lapic[id];
    unsigned r = offset >> 4;
    u32 value = 0;
    if (lapic_mmio_base(ic, id) == UINT64_MAX)
        return UINT32_MAX;
    if (offset >= PAGE_SIZE || offset & 0xf || read_common(l, r, &value))
        return value;
    switch (r) {
    case R_DFR:
        return l->dfr;
    case R_ICR:
        return l->icr_low;
    case R_ICR_HIGH:
        return l->icr_high;
    case R_APR:
    case R_RRD:
    case R_EOI:
        return 0;
    }
    error(l, ESR_REGISTER);
    return 0;
}

void lapic_mmio_write(struct irqchip *ic, unsigned id, u32 offset, u32 value)
{
    struct lapic *l = &ic->lapic[id];
    unsigned r = offset >> 4;
    if (lapic_mmio_base(ic, id) == UINT64_MAX)
        return;
    if (offset >= PAGE_SIZE || offset & 0xf || write_common(l, r, value) || (r >= R_ISR && r < R_ESR))
        return;
    switch (r) {
    case R_VERSION:
    case R_APR:
    case R_PPR:
    case R_RRD:
    case R_COUNT:
        break; /* read-only */
    case R_ID:
        l->id = value & 0xff000000;
        break;
    case R_LDR:
        l->ldr = value & 0xff000000;
        break;
    case R_DFR:
        l->dfr = value | 0x0fffffff;
        break;
    case R_ICR:
        l->icr_low = value & ICR_WRITABLE;
        send_ipi(l);
        break;
    case R_ICR_HIGH:
        l->icr_high = value & 0xff000000;
        break;
    default:
        error(l, ESR_REGISTER);
    }
    irq_pic_changed(ic);
}

/* --- MSRs --- */

static int fault(struct lapic *l)
{
    return cpu_raise_error(l->cpu, VEC_GP, 0);
}

/* Bits that must be 0 in a WRMSR to each x2APIC register (table 11-6); all ones for those that can not be written. */
static u64 x2apic_reserved(unsigned r)
{
    if (r >= R_LVT && r < R_LVT + LVT_COUNT)
        return ~(u64)(lvt_writable[r - R_LVT] | LVT_STATUS);
    switch (r) {
    case R_TPR:
    case R_SELF_IPI:
        return ~0xffull;
    case R_SVR:
        return ~(u64)SVR_WRITABLE;
    case R_ICR:
        return 0xfffff000u & ~(u64)(ICR_WRITABLE | BIT(12));
    case R_INIT_COUNT:
        return ~0xffffffffull;
    case R_DIVIDE:
        return ~0xbull;
    }
    return UINT64_MAX;
}

static int x2apic_write(struct lapic *l, unsigned r, u64 value)
{
    bool zero_only = r == R_EOI || r == R_ESR;
    u64 reserved = x2apic_reserved(r);
    if ((zero_only || reserved == UINT64_MAX) && !(zero_only && value == 0))
        return fault(l);
    if (!zero_only && value & reserved)
        return fault(l);
    if (r == R_ICR) {
        l->icr_low = (u32)value & ICR_WRITABLE;
        l->icr_high = (u32)(value >> 32);
        send_ipi(l);
    } else if (r == R_SELF_IPI) {
        lapic_accept(l, (u8)value, false);
    } else {
        write_common(l, r, (u32)value);
    }
    irq_pic_changed(l->chip);
    return CPU_OK;
}

static int x2apic_read(struct lapic *l, unsigned r, u64 *value)
{
    u32 v;
    if (r == R_ICR) {
        *value = (u64)l->icr_high << 32 | l->icr_low;
        return CPU_OK;
    }
    if (!read_common(l, r, &v))
        return fault(l);
    *value = v;
    return CPU_OK;
}

/* APIC_BASE: the transitions of figure 11-27, everything else is #GP. */
static int write_base(struct lapic *l, u64 value)
{
    unsigned bits = l->cpu->model ? l->cpu->model->phys_bits : 52;
    u64 valid = BASE_BSP | BASE_EN | ((BIT(bits) - 1) & PAGE_MASK);
    if (has_feature(l, FEAT(FW_1_ECX, 21)))
        valid |= BASE_EXTD;
    bool en = value & BASE_EN, ext = value & BASE_EXTD;
    if (value & ~valid || (ext && !en))
        return fault(l);
    if ((x2apic(l) && en && !ext) || (!hw_enabled(l) && ext))
        return fault(l);
    u64 old = l->apic_base;
    l->apic_base = value;
    if (!en && old & BASE_EN) {
        l->id = l->index << 24;
        lapic_init(l);
    } else if (ext && !(old & BASE_EXTD)) {
        l->id = l->index;
        l->ldr = ldr_x2apic(l->index);
        l->icr_high = 0;
    }
    irq_pic_changed(l->chip);
    return CPU_OK;
}

static int write_deadline(struct lapic *l, u64 value)
{
    if (!deadline_mode(l) || !hw_enabled(l))
        return CPU_OK;
    l->tsc_deadline = value;
    timer_arm(l);
    return CPU_OK;
}

#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u

int lapic_msr_read(struct irqchip *ic, unsigned id, u32 index, u64 *value)
{
    struct lapic *l = &ic->lapic[id];
    if (index == MSR_APIC_BASE) {
        *value = l->apic_base;
        return CPU_OK;
    }
    if (index == MSR_TSC_DEADLINE) {
        if (!has_feature(l, FEAT(FW_1_ECX, 24)))
            return fault(l);
        *value = l->tsc_deadline;
        return CPU_OK;
    }
    if (index < 0x800 || index > 0x8ff)
        return -1;
    return x2apic(l) ? x2apic_read(l, index - 0x800, value) : fault(l);
}

int lapic_msr_write(struct irqchip *ic, unsigned id, u32 index, u64 value)
{
    struct lapic *l = &ic->lapic[id];
    if (index == MSR_APIC_BASE)
        return write_base(l, value);
    if (index == MSR_TSC_DEADLINE)
        return has_feature(l, FEAT(FW_1_ECX, 24)) ? write_deadline(l, value) : fault(l);
    if (index < 0x800 || index > 0x8ff)
        return -1;
    return x2apic(l) ? x2apic_write(l, index - 0x800, value) : fault(l);
}

u64 lapic_mmio_base(const struct irqchip *ic, unsigned id)
{
    const struct lapic *l = &ic->lapic[id];
    return hw_enabled(l) && !x2apic(l) ? l->apic_base & PAGE_MASK & (BIT(52) - 1) : UINT64_MAX;
}

u64 lapic_get_tpr(const struct irqchip *ic, unsigned id)
{
    return ic->lapic[id].tpr >> 4;
}

void lapic_set_tpr(struct irqchip *ic, unsigned id, u64 cr8)
{
    write_tpr(&ic->lapic[id], (u32)(cr8 & 0xf) << 4);
}

void lapic_tsc_changed(struct irqchip *ic, unsigned id)
{
    timer_arm(&ic->lapic[id]);
}

void irqchip_set_pv_eoi(struct irqchip *ic, unsigned cpu, const struct irq_pv_eoi_ops *ops)
{
    pv_sync(&ic->lapic[cpu]);
    ic->lapic[cpu].pv = ops;
}

/* --- record --- */

static int check_vectors(const struct lapic *l, struct error *e)
{
    if ((l->isr[0] | l->irr[0] | l->tmr[0]) & 0xffff)
        return error_set(e, EINVAL, "a vector below 16 is requested or in service");
    if (!l->pv_pending)
        return 0;
    int v = highest(l->isr);
    if (l->pv_pending > 1 || v < 0 || highest(l->irr) >= 0 || vec_test(l->tmr, (unsigned)v))
        return error_set(e, EINVAL, "PV EOI is pending without one edge-triggered interrupt in service");
    return 0;
}

static int check_timer(const struct lapic *l, struct error *e)
{
    if (l->divide & ~0xbu)
        return error_set(e, EINVAL, "divide configuration %08x has reserved bits set", l->divide);
    if (l->timer_next != UINT64_MAX && (!l->init_count || deadline_mode(l) || l->timer_next > INT64_MAX))
        return error_set(e, EINVAL, "the timer runs without a count");
    if (l->tsc_deadline && !deadline_mode(l))
        return error_set(e, EINVAL, "a TSC deadline is set in another timer mode");
    return 0;
}

static int check_registers(const struct lapic *l, struct error *e)
{
    bool en = l->apic_base & BASE_EN, ext = l->apic_base & BASE_EXTD;
    if (l->apic_base & (0x2ff | ~(BIT(52) - 1)) || (ext && !en))
        return error_set(e, EINVAL, "APIC_BASE can not be %016llx", (unsigned long long)l->apic_base);
    if (l->tpr > 0xff || l->svr & ~SVR_WRITABLE || l->icr_low & ~ICR_WRITABLE || l->lint0 > 1)
        return error_set(e, EINVAL, "TPR, SVR, ICR or LINT0 has a value that it can not have");
    if (ext ? l->id != l->index || l->ldr != ldr_x2apic(l->index) : (l->id | l->ldr) & 0xffffff)
        return error_set(e, EINVAL, "ids %08x, %08x do not fit the mode", l->id, l->ldr);
    if ((l->esr | l->esr_pending) & ~(u32)(ESR_SEND_VECTOR | ESR_RECV_VECTOR | ESR_REGISTER))
        return error_set(e, EINVAL, "ESR has bits that are never set");
    for (unsigned i = 0; i < LVT_COUNT; i++)
        if (l->lvt[i] & ~(lvt_writable[i] | (i == LVT_LINT0 ? (u32)LVT_RIRR : 0)))
            return error_set(e, EINVAL, "LVT entry %u can not be %08x", i, l->lvt[i]);
    return 0;
}

static int lapic_check(const void *candidate, struct error *e)
{
    const struct lapic *l = candidate;
    if (check_registers(l, e) || check_vectors(l, e) || check_timer(l, e))
        return -EINVAL;
    return 0;
}

void lapic_loaded(struct lapic *l)
{
    timer_arm(l);
    lapic_update(l);
    if (l->cpu->nmi_pending)
        cpu_attention_set(l->cpu, ATTN_NMI);
    else
        cpu_attention_clear(l->cpu, ATTN_NMI);
}

static const struct rec_field lapic_fields[] = {
    REC_FIELD(struct lapic, apic_base), REC_FIELD(struct lapic, id),          REC_FIELD(struct lapic, tpr),
    REC_FIELD(struct lapic, ldr),       REC_FIELD(struct lapic, dfr),         REC_FIELD(struct lapic, svr),
    REC_FIELD(struct lapic, esr),       REC_FIELD(struct lapic, esr_pending), REC_FIELD(struct lapic, icr_low),
    REC_FIELD(struct lapic, icr_high),  REC_FIELD(struct lapic, lvt),         REC_FIELD(struct lapic, isr),
    REC_FIELD(struct lapic, irr),       REC_FIELD(struct lapic, tmr),         REC_FIELD(struct lapic, init_count),
    REC_FIELD(struct lapic, divide),    REC_FIELD(struct lapic, timer_next),  REC_FIELD(struct lapic, tsc_deadline),
    REC_FIELD(struct lapic, lint0),     REC_FIELD(struct lapic, pv_pending),
};

const struct rec_desc lapic_record = {
    .name = "lapic",
    .type = REC_TYPE('L', 'A', 'P', 'C'),
    .version = 1,
    .object_size = sizeof(struct lapic),
    .fields = lapic_fields,
    .n_fields = ARRAY_LEN(lapic_fields),
    .check = lapic_check,
};
