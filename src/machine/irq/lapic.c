/*
 * The local APIC: how interrupts arrive, wait, are offered, and end. Its timer is in lapic_timer.c, its registers in
 * lapic_regs.c. Source: Intel SDM vol. 3A, chapter 11 (numbers of sections below are of that chapter).
 *
 * Interrupts wait in IRR, are in service in ISR, and TMR remembers which are level-triggered: 256 bits each, the vector
 * is the bit, its upper half the priority class. The processor priority PPR is the higher of TPR and the vector in
 * service; an interrupt is offered if its class is above PPR's (11.8.3). lapic_update recomputes that after each change
 * and sets or clears ATTN_INTR, so the offer is never stale and the spurious vector of 11.9 (an interrupt that became
 * masked between the offer and the acknowledge) has no occasion to be delivered; the register is kept.
 *
 * PV EOI: an edge-triggered interrupt that is alone (nothing else in service or waiting) is acknowledged with the guest's
 * flag set; a guest that clears the flag has ended the interrupt without an exit. Before anything looks at ISR or offers
 * another interrupt, lapic_pv_sync takes the flag back and learns what the guest did.
 *
 * What must stay true
 *  1. Bits 0-15 of IRR, ISR and TMR are 0.
 *  2. While pv_pending, IRR is empty and ISR has one bit, an edge-triggered one.
 *
 * Not done: SMI (dropped: the machine has no SMM), CMCI, focus processor checking.
 */
#include "machine/irq/lapic_internal.h"

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

void lapic_eoi(struct lapic *l)
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
void lapic_pv_sync(struct lapic *l)
{
    if (!l->pv_pending)
        return;
    l->pv_pending = 0;
    if (l->pv && l->pv->test_clear(l->pv->ctx, l->index))
        lapic_eoi(l);
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
void lapic_error(struct lapic *l, u32 bit)
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
        lapic_error(l, ESR_RECV_VECTOR);
        return true;
    }
    lapic_pv_sync(l);
    vec_put(l->irr, vector, true);
    vec_put(l->tmr, vector, level);
    lapic_update(l);
    return true;
}

/* A local source fires: what its LVT entry says happens (11.5.1). Returns whether a fixed interrupt was made. */
bool lapic_lvt_deliver(struct lapic *l, enum lapic_lvt n, bool level)
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
    if (rose && !(triggered && *lvt & LVT_RIRR) && lapic_lvt_deliver(l, LVT_LINT0, triggered) && triggered)
        *lvt |= LVT_RIRR;
    lapic_update(l);
}

void lapic_lint1_edge(struct lapic *l)
{
    if (hw_enabled(l))
        lapic_lvt_deliver(l, LVT_LINT1, false);
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
    lapic_pv_sync(l);
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

int irq_send_ipis(struct irqchip *ic, u64 low, u64 high, u32 first, u32 icr)
{
    struct irq_message m = {.wide = true, .mode = icr >> 8 & 7, .vector = (u8)icr};
    int taken = 0;
    if (icr & ~0x7ffu || (m.mode != IRQ_FIXED && m.mode != IRQ_NMI))
        return -1;
    for (unsigned i = 0; i < 128; i++) {
        u64 id = (u64)first + i;
        if (!((i < 64 ? low : high) >> i % 64 & 1) || id >= UINT8_MAX) /* 255 and more: nobody's, or everybody's */
            continue;
        m.dest = (u32)id;
        taken += irq_deliver(ic, &m);
    }
    return taken;
}

void lapic_send_ipi(struct lapic *l)
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
        lapic_error(l, ESR_SEND_VECTOR);
        return;
    }
    if (shorthand)
        deliver_shorthand(l, &m, shorthand);
    else
        irq_deliver(l->chip, &m);
}
