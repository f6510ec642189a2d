/* What the files of the local APIC share: bits of its registers, and calls between delivery, timer and registers. */
#ifndef TRAPEZE_MACHINE_LAPIC_INTERNAL_H
#define TRAPEZE_MACHINE_LAPIC_INTERNAL_H

#include "machine/cpu/cpuid.h"
#include "machine/irq/irq_internal.h"

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

static inline bool hw_enabled(const struct lapic *l)
{
    return l->apic_base & BASE_EN;
}

static inline bool x2apic(const struct lapic *l)
{
    return l->apic_base & BASE_EXTD;
}

static inline bool sw_enabled(const struct lapic *l)
{
    return hw_enabled(l) && l->svr & SVR_ENABLE;
}

/* Without a model (unit tests of this room) every feature is there. */
static inline bool has_feature(const struct lapic *l, u32 feature)
{
    return !l->cpu->model || cpu_has(l->cpu->model, feature);
}

static inline bool deadline_mode(const struct lapic *l)
{
    return LVT_TIMER_MODE(l->lvt[LVT_TIMER]) == TIMER_DEADLINE;
}

static inline int highest(const u32 *bits)
{
    for (int i = 7; i >= 0; i--)
        if (bits[i])
            return i * 32 + 31 - __builtin_clz(bits[i]);
    return -1;
}

static inline bool vec_test(const u32 *bits, unsigned v)
{
    return bits[v >> 5] >> (v & 31) & 1;
}

static inline void vec_put(u32 *bits, unsigned v, bool on)
{
    u32 bit = 1u << (v & 31);
    bits[v >> 5] = on ? bits[v >> 5] | bit : bits[v >> 5] & ~bit;
}

/* --- lapic.c --- */

/* Log an error; the error interrupt comes once until the guest has written ESR (11.5.3). */
void lapic_error(struct lapic *l, u32 bit);
/* End the interrupt of highest priority in service. */
void lapic_eoi(struct lapic *l);
/* Take the PV EOI flag back; if the guest had cleared it, that was its EOI. */
void lapic_pv_sync(struct lapic *l);
/* The timer's LVT entry (or another's) fires. Returns whether a fixed interrupt was made. */
bool lapic_lvt_deliver(struct lapic *l, enum lapic_lvt n, bool level);
/* Send what ICR says. */
void lapic_send_ipi(struct lapic *l);

/* --- lapic_timer.c --- */

/* Put the timer on the clock's list as the state says. */
void lapic_timer_arm(struct lapic *l);
u32 lapic_timer_count(const struct lapic *l);
/* Writes to the initial count, the divide configuration, the LVT entry and the TSC deadline */
void lapic_timer_start(struct lapic *l, u32 value);
void lapic_timer_divide(struct lapic *l, u32 value);
void lapic_timer_mode(struct lapic *l, u32 value);
void lapic_timer_deadline(struct lapic *l, u64 value);

#endif
