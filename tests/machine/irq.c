/* Interrupt controllers against their datasheets: priorities, ends of interrupt, modes, timers. */
#include "fake_machine.h"
#include "machine/irq/irq_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define CPUS 2

struct rig {
    struct fake_time time;
    struct vclock clock;
    struct cpu *cpus[CPUS];
    struct irqchip *ic;
    unsigned inits, starts;
};

static void count_init(void *ctx, unsigned id)
{
    ((struct rig *)ctx)->inits += 1 + id * 100;
}

static void count_start(void *ctx, unsigned id, u8 vector)
{
    ((struct rig *)ctx)->starts += vector + id * 1000;
}

static int setup(void **state)
{
    struct rig *g = calloc(1, sizeof(*g));
    fake_clock_init(&g->clock, &g->time);
    for (unsigned i = 0; i < CPUS; i++) {
        g->cpus[i] = aligned_alloc(64, sizeof(struct cpu));
        memset(g->cpus[i], 0, sizeof(struct cpu));
        g->cpus[i]->id = (u8)i;
    }
    g->ic = irqchip_create(&(struct irqchip_config){CPUS, g->cpus, &g->clock, count_init, count_start, g});
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    struct rig *g = *state;
    irqchip_destroy(g->ic);
    assert_null(g->clock.timers);
    for (unsigned i = 0; i < CPUS; i++)
        free(g->cpus[i]);
    free(g);
    return 0;
}

/* --- shorthands --- */

enum { ID = 0x20, TPR = 0x80, PPR = 0xa0, EOI = 0xb0, LDR = 0xd0, DFR = 0xe0, SVR = 0xf0, ISR = 0x100, TMR = 0x180 };
enum { IRR = 0x200, ESR = 0x280, ICR = 0x300, ICR2 = 0x310, TIMER = 0x320, LINT0 = 0x350, LINT1 = 0x360, ERR = 0x370 };
enum { INIT_COUNT = 0x380, COUNT = 0x390, DIVIDE = 0x3e0 };

static u32 rd(struct rig *g, u32 reg)
{
    return lapic_mmio_read(g->ic, 0, reg);
}

static void wr(struct rig *g, u32 reg, u32 v)
{
    lapic_mmio_write(g->ic, 0, reg, v);
}

static void enable(struct rig *g)
{
    for (unsigned i = 0; i < CPUS; i++)
        lapic_mmio_write(g->ic, i, SVR, 0x1ff);
}

static bool attention(struct rig *g, unsigned cpu)
{
    bool set = g->cpus[cpu]->attention & ATTN_INTR;
    assert_int_equal(set, irq_pending(g->ic, cpu));
    return set;
}

static void ipi_self(struct rig *g, u8 vector)
{
    wr(g, ICR, 0x40000 | vector);
}

static void entry(struct rig *g, unsigned pin, u64 e)
{
    ioapic_mmio_write(g->ic, 0, 0x10 + pin * 2 + 1);
    ioapic_mmio_write(g->ic, 0x10, (u32)(e >> 32));
    ioapic_mmio_write(g->ic, 0, 0x10 + pin * 2);
    ioapic_mmio_write(g->ic, 0x10, (u32)e);
}

static u64 read_entry(struct rig *g, unsigned pin)
{
    ioapic_mmio_write(g->ic, 0, 0x11 + pin * 2);
    u64 e = (u64)ioapic_mmio_read(g->ic, 0x10) << 32;
    ioapic_mmio_write(g->ic, 0, 0x10 + pin * 2);
    return e | ioapic_mmio_read(g->ic, 0x10);
}

static void pic_init(struct rig *g, u8 icw4)
{
    static const u16 port[2] = {0x20, 0xa0};
    for (unsigned i = 0; i < 2; i++) {
        pic_io_write(g->ic, port[i], 0x11);
        pic_io_write(g->ic, port[i] + 1, i ? 0x28 : 0x20);
        pic_io_write(g->ic, port[i] + 1, i ? 2 : 4);
        pic_io_write(g->ic, port[i] + 1, icw4);
    }
}

static void virtual_wire(struct rig *g)
{
    enable(g);
    wr(g, LINT0, 0x700);
}

static void pulse(struct rig *g, unsigned gsi)
{
    irq_set(g->ic, gsi, 1);
    irq_set(g->ic, gsi, 0);
}

/* --- local APIC --- */

static void reset_state(void **state)
{
    struct rig *g = *state;
    assert_int_equal(rd(g, ID), 0);
    assert_int_equal(lapic_mmio_read(g->ic, 1, ID), 1u << 24);
    assert_int_equal(rd(g, 0x30), 0x01050014);
    assert_int_equal(rd(g, SVR), 0xff);
    assert_int_equal(rd(g, DFR), 0xffffffff);
    for (u32 r = TIMER; r <= ERR; r += 0x10)
        assert_int_equal(rd(g, r), 0x10000);
    u64 base;
    assert_int_equal(lapic_msr_read(g->ic, 0, 0x1b, &base), CPU_OK);
    assert_int_equal(base, 0xfee00900);
    assert_int_equal(lapic_msr_read(g->ic, 1, 0x1b, &base), CPU_OK);
    assert_int_equal(base, 0xfee00800);
    assert_int_equal(lapic_mmio_base(g->ic, 0), LAPIC_BASE);
}

/* SDM vol. 3A, 11.8.3: an interrupt is taken when its class beats TPR and what is in service; EOI ends the highest. */
static void priorities(void **state)
{
    struct rig *g = *state;
    enable(g);
    ipi_self(g, 0x31);
    ipi_self(g, 0x52);
    ipi_self(g, 0x55);
    assert_true(attention(g, 0));
    assert_int_equal(irq_ack(g->ic, 0), 0x55);
    assert_int_equal(rd(g, PPR), 0x50);
    assert_false(attention(g, 0)); /* 52h is of the class in service */
    ipi_self(g, 0x60);
    assert_int_equal(irq_ack(g->ic, 0), 0x60);
    wr(g, EOI, 0);
    assert_int_equal(rd(g, PPR), 0x50);
    wr(g, EOI, 0);
    assert_int_equal(rd(g, PPR), 0);
    assert_int_equal(irq_ack(g->ic, 0), 0x52);
    wr(g, EOI, 0);
    wr(g, TPR, 0x3f);
    assert_false(attention(g, 0));
    assert_int_equal(irq_ack(g->ic, 0), -1);
    assert_int_equal(rd(g, PPR), 0x3f);
    lapic_set_tpr(g->ic, 0, 2);
    assert_int_equal(lapic_get_tpr(g->ic, 0), 2);
    assert_int_equal(rd(g, TPR), 0x20);
    assert_true(attention(g, 0));
    assert_int_equal(irq_ack(g->ic, 0), 0x31);
    assert_int_equal(rd(g, ISR + 0x10), 1u << 0x11);
    assert_int_equal(rd(g, IRR + 0x10), 0);
    wr(g, EOI, 0);
    wr(g, EOI, 0); /* nothing in service: no effect */
    assert_false(attention(g, 0));
}

static void software_disable(void **state)
{
    struct rig *g = *state;
    enable(g);
    wr(g, LINT0, 0x700);
    ipi_self(g, 0x40);
    wr(g, SVR, 0xff);
    assert_false(attention(g, 0));
    assert_int_equal(rd(g, LINT0), 0x10700); /* masked, and can't be unmasked */
    wr(g, LINT0, 0x700);
    assert_int_equal(rd(g, LINT0), 0x10700);
    ipi_self(g, 0x41); /* not accepted */
    wr(g, SVR, 0x1ff);
    assert_int_equal(irq_ack(g->ic, 0), 0x40); /* what waited still waits */
    wr(g, EOI, 0);
    assert_false(attention(g, 0));
}

static void errors(void **state)
{
    struct rig *g = *state;
    enable(g);
    wr(g, ERR, 0xfe);
    wr(g, ICR, 0x40005); /* send illegal vector */
    assert_int_equal(rd(g, ESR), 0);
    assert_int_equal(irq_ack(g->ic, 0), 0xfe);
    wr(g, EOI, 0);
    irq_msi(g->ic, LAPIC_BASE, 3); /* receive illegal vector: logged, no second interrupt before ESR is written */
    assert_false(attention(g, 0));
    wr(g, ESR, 0);
    assert_int_equal(rd(g, ESR), 0x60);
    rd(g, 0x040); /* reserved register */
    assert_int_equal(irq_ack(g->ic, 0), 0xfe);
    wr(g, ESR, 0);
    assert_int_equal(rd(g, ESR), 0x80);
    wr(g, ERR, 0x0e); /* an error interrupt with an illegal vector is an error, once */
    rd(g, 0x040);
    wr(g, ESR, 0);
    assert_int_equal(rd(g, ESR), 0xc0);
}

static void destinations(void **state)
{
    struct rig *g = *state;
    enable(g);
    wr(g, ICR2, 1u << 24);
    wr(g, ICR, 0x4030); /* physical, CPU 1 */
    assert_false(attention(g, 0));
    assert_int_equal(irq_ack(g->ic, 1), 0x30);
    wr(g, ICR2, 0xffu << 24);
    wr(g, ICR, 0x4031); /* broadcast */
    assert_int_equal(irq_ack(g->ic, 0), 0x31);
    wr(g, EOI, 0);
    wr(g, ICR, 0xc4050); /* all but self */
    assert_false(attention(g, 0));
    assert_int_equal(irq_ack(g->ic, 1), 0x50);
    wr(g, ICR, 0x84060); /* all */
    assert_int_equal(irq_ack(g->ic, 0), 0x60);
    assert_int_equal(irq_ack(g->ic, 1), 0x60);
    wr(g, EOI, 0);

    wr(g, LDR, 1u << 24); /* flat model */
    lapic_mmio_write(g->ic, 1, LDR, 2u << 24);
    wr(g, ICR2, 3u << 24);
    wr(g, ICR, 0x4870);
    assert_int_equal(irq_ack(g->ic, 0), 0x70);
    assert_int_equal(irq_ack(g->ic, 1), 0x70);
    wr(g, EOI, 0);
    wr(g, ICR, 0x4980); /* lowest priority: CPU 1 serves 70h, CPU 0 nothing */
    assert_int_equal(irq_ack(g->ic, 0), 0x80);
    assert_false(attention(g, 1));
    wr(g, EOI, 0);

    for (unsigned i = 0; i < CPUS; i++) { /* cluster model: CPU 0 is 2.1, CPU 1 is 3.1 */
        lapic_mmio_write(g->ic, i, DFR, 0);
        lapic_mmio_write(g->ic, i, LDR, (0x21 + i * 0x10) << 24);
    }
    assert_int_equal(rd(g, DFR), 0x0fffffff);
    wr(g, ICR2, 0x23u << 24);
    wr(g, ICR, 0x4890);
    assert_int_equal(irq_ack(g->ic, 0), 0x90);
    assert_false(attention(g, 1));
}

static void special_ipis(void **state)
{
    struct rig *g = *state;
    enable(g);
    wr(g, ICR, 0xc4400); /* NMI to the other */
    assert_int_equal(g->cpus[0]->nmi_pending, 0);
    assert_int_equal(g->cpus[1]->nmi_pending, 1);
    assert_true(g->cpus[1]->attention & ATTN_NMI);
    lapic_mmio_write(g->ic, 1, TPR, 0x20);
    wr(g, ICR, 0xc4500);
    assert_int_equal(g->inits, 101);
    assert_int_equal(lapic_mmio_read(g->ic, 1, TPR), 0);
    assert_int_equal(lapic_mmio_read(g->ic, 1, SVR), 0xff);
    wr(g, ICR, 0xc8500); /* level de-assert: nothing */
    assert_int_equal(g->inits, 101);
    wr(g, ICR, 0xc4608);
    assert_int_equal(g->starts, 1008);
    wr(g, LINT1, 0x400);
    irq_nmi(g->ic);
    assert_int_equal(g->cpus[0]->nmi_pending, 1);
}

static void ipis_by_bit_map(void **state)
{
    struct rig *g = *state;
    enable(g);
    assert_int_equal(irq_send_ipis(g->ic, 3, 0, 0, 0x51), 2);
    assert_int_equal(irq_ack(g->ic, 0), 0x51);
    assert_int_equal(irq_ack(g->ic, 1), 0x51);
    assert_int_equal(irq_send_ipis(g->ic, 1, 0, 1, 0x62), 1);
    assert_false(attention(g, 0));
    assert_int_equal(irq_ack(g->ic, 1), 0x62);
    assert_int_equal(irq_send_ipis(g->ic, 0, ~0ull, 0, 0x73), 0);
    assert_int_equal(irq_send_ipis(g->ic, ~0ull, ~0ull, 2, 0x73), 0);          /* 255 is not "all" */
    assert_int_equal(irq_send_ipis(g->ic, ~0ull, ~0ull, 0xffffffc0, 0x73), 0); /* and does not wrap around */
    assert_false(attention(g, 0) || attention(g, 1));
    assert_int_equal(irq_send_ipis(g->ic, 2, 0, 0, 0x400), 1);
    assert_int_equal(g->cpus[1]->nmi_pending, 1);
    static const u32 refused[] = {0x500, 0x600, 0x100, 0x200, 0x700, 0x800, 0x4040, 0x80040, ~0u};
    for (unsigned i = 0; i < ARRAY_LEN(refused); i++)
        assert_int_equal(irq_send_ipis(g->ic, 3, 0, 0, refused[i]), -1);
    assert_int_equal(g->inits + g->starts, 0);
}

static void timer_one_shot_and_periodic(void **state)
{
    struct rig *g = *state;
    enable(g);
    wr(g, TIMER, 0x40);
    wr(g, DIVIDE, 0xb); /* by 1: a nanosecond a count */
    wr(g, INIT_COUNT, 100000);
    fake_advance(&g->clock, &g->time, 40000);
    assert_int_equal(rd(g, COUNT), 60000);
    wr(g, DIVIDE, 0x3); /* by 16: the count goes on at another speed */
    assert_int_equal(rd(g, COUNT), 60000);
    fake_advance(&g->clock, &g->time, 16 * 60000 - 1);
    assert_false(attention(g, 0));
    assert_int_equal(rd(g, COUNT), 1);
    fake_advance(&g->clock, &g->time, 1);
    assert_int_equal(irq_ack(g->ic, 0), 0x40);
    wr(g, EOI, 0);
    assert_int_equal(rd(g, COUNT), 0);
    fake_advance(&g->clock, &g->time, 10000000);
    assert_false(attention(g, 0));

    wr(g, DIVIDE, 0xb);
    wr(g, TIMER, 0x20041);
    wr(g, INIT_COUNT, 1000000);
    for (int i = 0; i < 3; i++) {
        fake_advance(&g->clock, &g->time, 1000000);
        assert_int_equal(irq_ack(g->ic, 0), 0x41);
        wr(g, EOI, 0);
    }
    g->time.ns += 7500000; /* nobody served 7 periods: one interrupt, and the phase stays */
    vclock_run_timers(&g->clock);
    assert_int_equal(irq_ack(g->ic, 0), 0x41);
    wr(g, EOI, 0);
    assert_false(attention(g, 0));
    assert_int_equal(rd(g, COUNT), 500000);
    wr(g, TIMER, 0x30041); /* masked: counts, no interrupt */
    fake_advance(&g->clock, &g->time, 3000000);
    assert_false(attention(g, 0));
    wr(g, INIT_COUNT, 0);
    assert_int_equal(rd(g, COUNT), 0);
    assert_true(g->clock.earliest == UINT64_MAX);
}

/* A period of a nanosecond keeps the host's timers within bounds. */
static void timer_storm_is_bounded(void **state)
{
    struct rig *g = *state;
    enable(g);
    wr(g, TIMER, 0x20041);
    wr(g, DIVIDE, 0xb);
    wr(g, INIT_COUNT, 1);
    fake_advance(&g->clock, &g->time, 1);
    assert_true(g->clock.earliest >= g->time.ns + 10000);
    assert_int_equal(rd(g, COUNT), 1);
}

static void timer_deadline(void **state)
{
    struct rig *g = *state;
    u64 v;
    enable(g);
    assert_int_equal(lapic_msr_write(g->ic, 0, 0x6e0, 5000), CPU_OK); /* another mode: ignored */
    assert_int_equal(lapic_msr_read(g->ic, 0, 0x6e0, &v), CPU_OK);
    assert_int_equal(v, 0);
    wr(g, TIMER, 0x40042);
    wr(g, INIT_COUNT, 5); /* ignored */
    assert_true(g->clock.earliest == UINT64_MAX);
    lapic_msr_write(g->ic, 0, 0x6e0, 2500000);
    lapic_msr_read(g->ic, 0, 0x6e0, &v);
    assert_int_equal(v, 2500000);
    fake_advance(&g->clock, &g->time, 999000);
    assert_false(attention(g, 0));
    fake_advance(&g->clock, &g->time, 1001);
    assert_int_equal(irq_ack(g->ic, 0), 0x42);
    wr(g, EOI, 0);
    lapic_msr_read(g->ic, 0, 0x6e0, &v);
    assert_int_equal(v, 0);
    lapic_msr_write(g->ic, 0, 0x6e0, 1); /* in the past: at once */
    vclock_run_timers(&g->clock);
    assert_int_equal(irq_ack(g->ic, 0), 0x42);
    wr(g, EOI, 0);
    lapic_msr_write(g->ic, 0, 0x6e0, 100000000);
    g->cpus[0]->tsc_offset = 200000000; /* the guest moves its TSC beyond the deadline */
    lapic_tsc_changed(g->ic, 0);
    vclock_run_timers(&g->clock);
    assert_int_equal(irq_ack(g->ic, 0), 0x42);
    lapic_msr_write(g->ic, 0, 0x6e0, 900000000);
    wr(g, TIMER, 0x42); /* leaving the mode disarms */
    assert_true(g->clock.earliest == UINT64_MAX);
}

static void apic_base_transitions(void **state)
{
    struct rig *g = *state;
    const u64 base = 0xfee00000, bsp = 0x100, extd = 0x400, en = 0x800;
    assert_int_equal(lapic_msr_write(g->ic, 0, 0x1b, base | bsp | extd), CPU_FAULT);
    assert_int_equal(g->cpus[0]->fault.vector, VEC_GP);
    assert_int_equal(lapic_msr_write(g->ic, 0, 0x1b, base | bsp | en | 1), CPU_FAULT);
    assert_int_equal(lapic_msr_write(g->ic, 0, 0x1b, 1ull << 60 | en), CPU_FAULT);
    wr(g, TPR, 0x30);
    assert_int_equal(lapic_msr_write(g->ic, 0, 0x1b, base | bsp | en | extd), CPU_OK);
    assert_true(lapic_mmio_base(g->ic, 0) == UINT64_MAX);
    assert_int_equal(lapic_get_tpr(g->ic, 0), 3);
    assert_int_equal(lapic_msr_write(g->ic, 0, 0x1b, base | bsp | en), CPU_FAULT);
    assert_int_equal(lapic_msr_write(g->ic, 0, 0x1b, base | bsp), CPU_OK);
    assert_int_equal(lapic_get_tpr(g->ic, 0), 0);
    assert_int_equal(lapic_msr_write(g->ic, 0, 0x1b, base | bsp | en | extd), CPU_FAULT);
    assert_int_equal(lapic_msr_write(g->ic, 0, 0x1b, 0x12345000 | bsp | en), CPU_OK);
    assert_int_equal(lapic_mmio_base(g->ic, 0), 0x12345000);
}

static void x2apic_registers(void **state)
{
    struct rig *g = *state;
    u64 v;
    assert_int_equal(lapic_msr_read(g->ic, 1, 0x802, &v), CPU_FAULT); /* xAPIC mode */
    lapic_msr_write(g->ic, 1, 0x1b, 0xfee00c00);
    static const struct {
        u16 msr;
        bool readable, writable;
        u64 ok, bad;
    } reg[] = {
        {0x802, true, false, 0, 0},
        {0x803, true, false, 0, 0},
        {0x808, true, true, 0xff, 0x100},
        {0x809, false, false, 0, 0},
        {0x80a, true, false, 0, 0},
        {0x80b, false, true, 0, 1},
        {0x80c, false, false, 0, 0},
        {0x80d, true, false, 0, 0},
        {0x80e, false, false, 0, 0},
        {0x80f, true, true, 0x1ff, 0x400},
        {0x810, true, false, 0, 0},
        {0x827, true, false, 0, 0},
        {0x828, true, true, 0, 1},
        {0x82f, false, false, 0, 0},
        {0x830, true, true, 0xc4030, 1 << 13},
        {0x831, false, false, 0, 0},
        {0x832, true, true, 0x710ff, 0x100},
        {0x835, true, true, 0x107ff, 1 << 17},
        {0x837, true, true, 0x100ff, 0x700},
        {0x838, true, true, 0xffffffff, 1ull << 32},
        {0x839, true, false, 0, 0},
        {0x83e, true, true, 0xb, 0x4},
        {0x83f, false, true, 0x30, 0x100},
        {0x840, false, false, 0, 0},
        {0x8ff, false, false, 0, 0},
    };
    for (unsigned i = 0; i < ARRAY_LEN(reg); i++) {
        assert_int_equal(lapic_msr_read(g->ic, 1, reg[i].msr, &v), reg[i].readable ? CPU_OK : CPU_FAULT);
        assert_int_equal(lapic_msr_write(g->ic, 1, reg[i].msr, reg[i].ok), reg[i].writable ? CPU_OK : CPU_FAULT);
        if (reg[i].bad)
            assert_int_equal(lapic_msr_write(g->ic, 1, reg[i].msr, reg[i].bad), CPU_FAULT);
    }
    assert_int_equal(lapic_msr_read(g->ic, 1, 0x802, &v), CPU_OK);
    assert_int_equal(v, 1);
    lapic_msr_read(g->ic, 1, 0x80d, &v);
    assert_int_equal(v, 2);
    lapic_msr_write(g->ic, 1, 0x808, 0);
    assert_int_equal(irq_ack(g->ic, 1), 0x30); /* the self IPI above */
    lapic_msr_write(g->ic, 1, 0x80b, 0);
    assert_int_equal(lapic_msr_write(g->ic, 1, 0x830, 1ull << 32 | 0x4051), CPU_OK); /* to x2APIC id 1: itself */
    assert_int_equal(irq_ack(g->ic, 1), 0x51);
    assert_int_equal(lapic_msr_read(g->ic, 1, 0x900, &v), -1);
    assert_int_equal(lapic_msr_write(g->ic, 1, 0x7ff, 0), -1);
}

/* --- I/O APIC --- */

static void ioapic_registers(void **state)
{
    struct rig *g = *state;
    ioapic_mmio_write(g->ic, 0, 1);
    assert_int_equal(ioapic_mmio_read(g->ic, 0x10), 0x00170020);
    ioapic_mmio_write(g->ic, 0, 0);
    ioapic_mmio_write(g->ic, 0x10, 0xffffffff);
    assert_int_equal(ioapic_mmio_read(g->ic, 0x10), 0x0f000000);
    assert_int_equal(read_entry(g, 23), 0x10000);
    entry(g, 23, ~0ull);
    assert_true(read_entry(g, 23) == 0xff0000000001afffull);
    ioapic_mmio_write(g->ic, 0, 0x40); /* beyond the last entry */
    assert_int_equal(ioapic_mmio_read(g->ic, 0x10), 0);
}

static void ioapic_edge(void **state)
{
    struct rig *g = *state;
    enable(g);
    entry(g, 5, 0x35);
    irq_set(g->ic, 5, 1);
    assert_int_equal(irq_ack(g->ic, 0), 0x35);
    irq_set(g->ic, 5, 1);
    wr(g, EOI, 0);
    assert_false(attention(g, 0)); /* still the same edge */
    irq_set(g->ic, 5, 0);
    irq_set(g->ic, 5, 1);
    assert_true(attention(g, 0));
    assert_int_equal(irq_ack(g->ic, 0), 0x35);
    wr(g, EOI, 0);
    entry(g, 5, 0x10035);
    irq_set(g->ic, 5, 0);
    irq_set(g->ic, 5, 1);
    entry(g, 5, 0x35);
    assert_false(attention(g, 0)); /* an edge on a masked pin is lost */
    entry(g, 2, 0x32);
    pulse(g, 0); /* GSI 0 is pin 2 */
    assert_int_equal(irq_ack(g->ic, 0), 0x32);
}

static void ioapic_level(void **state)
{
    struct rig *g = *state;
    enable(g);
    entry(g, 9, 0x8039);
    irq_set(g->ic, 9, 1);
    assert_int_equal(read_entry(g, 9), 0xc039); /* remote IRR */
    assert_int_equal(irq_ack(g->ic, 0), 0x39);
    assert_int_equal(rd(g, TMR + 0x10), 1u << 0x19);
    wr(g, EOI, 0);
    assert_true(attention(g, 0)); /* still active: again */
    assert_int_equal(irq_ack(g->ic, 0), 0x39);
    irq_set(g->ic, 9, 0);
    wr(g, EOI, 0);
    assert_false(attention(g, 0));
    assert_int_equal(read_entry(g, 9), 0x8039);

    wr(g, SVR, 0x11ff); /* EOI broadcast suppressed: the guest uses the EOI register */
    irq_set(g->ic, 9, 1);
    irq_ack(g->ic, 0);
    wr(g, EOI, 0);
    assert_int_equal(read_entry(g, 9), 0xc039);
    assert_false(attention(g, 0));
    ioapic_mmio_write(g->ic, 0x40, 0x39);
    assert_true(attention(g, 0));
    assert_int_equal(irq_ack(g->ic, 0), 0x39);
    irq_set(g->ic, 9, 0);
    entry(g, 9, 0x0039); /* edge clears remote IRR */
    assert_int_equal(read_entry(g, 9), 0x39);
}

/* A level that comes while no local APIC takes it, or while masked, is delivered later. */
static void ioapic_level_waits(void **state)
{
    struct rig *g = *state;
    entry(g, 9, 0x8039);
    irq_set(g->ic, 9, 1);
    assert_int_equal(read_entry(g, 9), 0x8039);
    enable(g);
    assert_int_equal(irq_ack(g->ic, 0), 0x39);
    wr(g, EOI, 0);
    irq_ack(g->ic, 0);
    entry(g, 10, 0x1803a);
    irq_set(g->ic, 10, 1);
    assert_false(attention(g, 0));
    entry(g, 10, 0x803a);
    wr(g, EOI, 0);
    assert_int_equal(irq_ack(g->ic, 0), 0x3a);
}

static void ioapic_modes(void **state)
{
    struct rig *g = *state;
    enable(g);
    entry(g, 6, 0x400);
    pulse(g, 6);
    assert_int_equal(g->cpus[0]->nmi_pending, 1);
    lapic_mmio_write(g->ic, 1, LDR, 0x80000000);
    entry(g, 7, 0x80ull << 56 | 0x857); /* logical */
    pulse(g, 7);
    assert_int_equal(irq_ack(g->ic, 1), 0x57);
    entry(g, 8, 0xffull << 56 | 0x58); /* physical broadcast */
    pulse(g, 8);
    assert_int_equal(irq_ack(g->ic, 0), 0x58);
    assert_true(irq_pending(g->ic, 1) == false); /* CPU 1 has 57h in service: same class */
    lapic_mmio_write(g->ic, 1, EOI, 0);
    assert_int_equal(irq_ack(g->ic, 1), 0x58);
}

static void msi(void **state)
{
    struct rig *g = *state;
    enable(g);
    irq_msi(g->ic, 0xfee01000, 0x4099);
    assert_int_equal(irq_ack(g->ic, 1), 0x99);
    irq_msi(g->ic, 0xfee01000, 0x8098); /* level de-assert */
    irq_msi(g->ic, 0xfed01000, 0x4098); /* not the address of an MSI */
    lapic_mmio_write(g->ic, 1, EOI, 0);
    assert_false(attention(g, 1));
    wr(g, LDR, 1u << 24);
    irq_msi(g->ic, 0xfee0100c, 0x9a);
    assert_int_equal(irq_ack(g->ic, 0), 0x9a);
}

/* --- 8259 --- */

static void pic_priorities(void **state)
{
    struct rig *g = *state;
    virtual_wire(g);
    pic_init(g, 1);
    pic_io_write(g->ic, 0x21, 0);
    pic_io_write(g->ic, 0xa1, 0);
    irq_set(g->ic, 4, 1);
    irq_set(g->ic, 1, 1);
    irq_set(g->ic, 8, 1);
    assert_true(attention(g, 0));
    assert_int_equal(irq_ack(g->ic, 0), 0x21);
    assert_false(attention(g, 0)); /* 8 comes through input 2, below 1 */
    pic_io_write(g->ic, 0x20, 0x20);
    assert_int_equal(irq_ack(g->ic, 0), 0x28);
    pic_io_write(g->ic, 0x20, 0x0b);
    assert_int_equal(pic_io_read(g->ic, 0x20), 0x04); /* ISR: cascade */
    pic_io_write(g->ic, 0xa0, 0x0b);
    assert_int_equal(pic_io_read(g->ic, 0xa0), 0x01);
    pic_io_write(g->ic, 0x20, 0x0a);
    assert_int_equal(pic_io_read(g->ic, 0x20), 0x10); /* IRR: 4 waits */
    pic_io_write(g->ic, 0xa0, 0x20);
    pic_io_write(g->ic, 0x20, 0x62); /* specific EOI of input 2 */
    assert_int_equal(irq_ack(g->ic, 0), 0x24);
    irq_set(g->ic, 0, 1); /* a higher priority nests */
    assert_int_equal(irq_ack(g->ic, 0), 0x20);
    pic_io_write(g->ic, 0x20, 0x20);
    pic_io_write(g->ic, 0x20, 0x20);
    assert_false(attention(g, 0));
}

static void pic_masks_and_falling_lines(void **state)
{
    struct rig *g = *state;
    virtual_wire(g);
    pic_init(g, 1);
    pic_io_write(g->ic, 0x21, 0x10);
    assert_int_equal(pic_io_read(g->ic, 0x21), 0x10);
    irq_set(g->ic, 4, 1);
    assert_false(attention(g, 0));
    pic_io_write(g->ic, 0x21, 0);
    assert_true(attention(g, 0)); /* the latched edge waited behind the mask */
    irq_set(g->ic, 4, 0);
    assert_false(attention(g, 0)); /* the request goes with its input */
    assert_int_equal(irq_ack(g->ic, 0), -1);
    assert_int_equal(i8259_ack(&g->ic->pic), 0x27); /* what the chip answers then: spurious 7 */
    pic_io_write(g->ic, 0x20, 0x0b);
    assert_int_equal(pic_io_read(g->ic, 0x20), 0); /* not in service */
    irq_set(g->ic, 12, 1);
    pic_io_write(g->ic, 0xa1, 0);
    g->ic->pic.chip[1].irr = 0; /* the slave's request vanishes between the two INTA cycles */
    assert_int_equal(i8259_ack(&g->ic->pic), 0x2f);
    assert_int_equal(pic_io_read(g->ic, 0x20), 4); /* the master did serve its input 2 */
}

static void pic_level_triggered(void **state)
{
    struct rig *g = *state;
    virtual_wire(g);
    pic_init(g, 1);
    pic_io_write(g->ic, 0x4d1, 0xff);
    pic_io_write(g->ic, 0x4d0, 0xff);
    assert_int_equal(pic_io_read(g->ic, 0x4d0), 0xf8);
    assert_int_equal(pic_io_read(g->ic, 0x4d1), 0xde);
    irq_set(g->ic, 9, 1);
    assert_int_equal(irq_ack(g->ic, 0), 0x29);
    pic_io_write(g->ic, 0xa0, 0x20);
    pic_io_write(g->ic, 0x20, 0x20);
    assert_int_equal(irq_ack(g->ic, 0), 0x29); /* still active */
    irq_set(g->ic, 9, 0);
    pic_io_write(g->ic, 0xa0, 0x20);
    pic_io_write(g->ic, 0x20, 0x20);
    assert_false(attention(g, 0));
}

static void pic_auto_eoi_and_rotation(void **state)
{
    struct rig *g = *state;
    virtual_wire(g);
    pic_init(g, 3);
    pulse(g, 1);
    irq_set(g->ic, 3, 1);
    irq_set(g->ic, 5, 1);
    assert_int_equal(irq_ack(g->ic, 0), 0x23); /* AEOI: nothing stays in service */
    assert_int_equal(irq_ack(g->ic, 0), 0x25);
    assert_false(attention(g, 0));
    irq_set(g->ic, 3, 0);
    irq_set(g->ic, 5, 0);
    pic_io_write(g->ic, 0x20, 0x80); /* rotate in AEOI mode */
    irq_set(g->ic, 3, 1);
    irq_ack(g->ic, 0);
    irq_set(g->ic, 3, 0);
    irq_set(g->ic, 3, 1);
    irq_set(g->ic, 5, 1);
    assert_int_equal(irq_ack(g->ic, 0), 0x25); /* 3 has the lowest priority now */

    pic_init(g, 1);
    irq_set(g->ic, 3, 0);
    irq_set(g->ic, 5, 0);
    pic_io_write(g->ic, 0x20, 0xc4); /* set priority: 4 is the lowest, 5 the highest */
    irq_set(g->ic, 3, 1);
    irq_set(g->ic, 5, 1);
    assert_int_equal(irq_ack(g->ic, 0), 0x25);
    pic_io_write(g->ic, 0x20, 0xa0); /* rotate on non-specific EOI: 5 becomes the lowest */
    irq_set(g->ic, 6, 1);
    assert_int_equal(irq_ack(g->ic, 0), 0x26);
}

static void pic_special_modes(void **state)
{
    struct rig *g = *state;
    virtual_wire(g);
    pic_init(g, 1);
    irq_set(g->ic, 3, 1);
    assert_int_equal(irq_ack(g->ic, 0), 0x23);
    irq_set(g->ic, 6, 1);
    assert_false(attention(g, 0));
    pic_io_write(g->ic, 0x21, 0x08);
    pic_io_write(g->ic, 0x20, 0x68); /* special mask: the masked 3 in service no longer blocks 6 */
    assert_int_equal(irq_ack(g->ic, 0), 0x26);
    pic_io_write(g->ic, 0x20, 0x20); /* non-specific EOI leaves the masked one alone */
    pic_io_write(g->ic, 0x20, 0x0b);
    assert_int_equal(pic_io_read(g->ic, 0x20), 0x08);

    pic_init(g, 1);
    pic_io_write(g->ic, 0x20, 0x0c); /* poll: nothing */
    assert_int_equal(pic_io_read(g->ic, 0x20), 0);
    irq_set(g->ic, 5, 1);
    pic_io_write(g->ic, 0x20, 0x0c);
    assert_int_equal(pic_io_read(g->ic, 0x20), 0x85);
    pic_io_write(g->ic, 0x20, 0x0b);
    assert_int_equal(pic_io_read(g->ic, 0x20), 0x20);

    irq_set(g->ic, 5, 0);
    pic_init(g, 0x11); /* special fully nested: a second slave request while the first is in service */
    irq_set(g->ic, 12, 1);
    assert_int_equal(irq_ack(g->ic, 0), 0x2c);
    irq_set(g->ic, 9, 1);
    assert_int_equal(irq_ack(g->ic, 0), 0x29);
}

/* The routes of the 8259s: bare INTR pin, LINT0, I/O APIC pin 0. */
static void extint_routes(void **state)
{
    struct rig *g = *state;
    pic_init(g, 1);
    irq_set(g->ic, 4, 1);
    assert_false(attention(g, 0)); /* LINT0 is masked after reset */
    enable(g);
    wr(g, LINT0, 0x700);
    assert_true(attention(g, 0));
    assert_false(attention(g, 1));
    wr(g, LINT0, 0x10700);
    assert_false(attention(g, 0));
    entry(g, 0, 0x700);
    assert_true(attention(g, 0));
    entry(g, 0, 0x10700);
    assert_false(attention(g, 0));
    lapic_msr_write(g->ic, 0, 0x1b, 0xfee00100); /* globally off: INTR goes to the boot processor */
    assert_true(attention(g, 0));
    assert_int_equal(irq_ack(g->ic, 0), 0x24);
    lapic_msr_write(g->ic, 0, 0x1b, 0xfee00900);
    enable(g);
    pic_io_write(g->ic, 0x20, 0x20);
    irq_set(g->ic, 4, 0);
    wr(g, LINT0, 0x400); /* NMI through LINT0 */
    irq_set(g->ic, 4, 1);
    assert_int_equal(g->cpus[0]->nmi_pending, 1);
}

static void lint0_fixed_level(void **state)
{
    struct rig *g = *state;
    pic_init(g, 1);
    enable(g);
    wr(g, LINT0, 0x8077);
    irq_set(g->ic, 4, 1);
    assert_int_equal(rd(g, LINT0), 0xc077);
    assert_int_equal(irq_ack(g->ic, 0), 0x77);
    wr(g, EOI, 0);
    assert_int_equal(irq_ack(g->ic, 0), 0x77);
    irq_set(g->ic, 4, 0);
    wr(g, EOI, 0);
    assert_false(attention(g, 0));
    assert_int_equal(rd(g, LINT0), 0x8077);
}

/* --- PV EOI --- */

struct pv {
    bool flag, refuse;
    unsigned sets;
};

static bool pv_set(void *ctx, unsigned cpu)
{
    struct pv *p = ctx;
    if (p->refuse)
        return false;
    p->sets++;
    return p->flag = true;
}

static bool pv_test_clear(void *ctx, unsigned cpu)
{
    struct pv *p = ctx;
    bool ended = !p->flag;
    p->flag = false;
    return ended;
}

static void pv_eoi(void **state)
{
    struct rig *g = *state;
    struct pv p = {0};
    struct irq_pv_eoi_ops ops = {pv_set, pv_test_clear, &p};
    enable(g);
    irqchip_set_pv_eoi(g->ic, 0, &ops);
    ipi_self(g, 0x40);
    assert_int_equal(irq_ack(g->ic, 0), 0x40);
    assert_true(p.flag);
    p.flag = false; /* the guest's EOI */
    ipi_self(g, 0x40);
    assert_int_equal(irq_ack(g->ic, 0), 0x40);
    assert_true(p.flag);
    ipi_self(g, 0x41); /* arrives before the EOI: the flag is taken back, the guest has to write EOI */
    assert_false(p.flag);
    assert_false(attention(g, 0));
    wr(g, EOI, 0);
    assert_int_equal(irq_ack(g->ic, 0), 0x41);
    assert_true(p.flag);
    wr(g, EOI, 0); /* a guest that writes EOI in spite of the flag */
    assert_false(p.flag);
    assert_int_equal(rd(g, PPR), 0);

    ipi_self(g, 0x50);
    ipi_self(g, 0x60);
    p.sets = 0;
    assert_int_equal(irq_ack(g->ic, 0), 0x60);
    assert_int_equal(p.sets, 0); /* another waits: the EOI must be seen */
    wr(g, EOI, 0);
    assert_int_equal(irq_ack(g->ic, 0), 0x50);
    assert_int_equal(p.sets, 1);
    p.flag = false;
    entry(g, 9, 0x8039);
    irq_set(g->ic, 9, 1);
    assert_int_equal(irq_ack(g->ic, 0), 0x39);
    assert_int_equal(p.sets, 1); /* level-triggered */
    irq_set(g->ic, 9, 0);
    wr(g, EOI, 0);
    p.refuse = true;
    ipi_self(g, 0x50);
    irq_ack(g->ic, 0);
    wr(g, EOI, 0);
    assert_int_equal(rd(g, PPR), 0);
}

static void reset_keeps_lines(void **state)
{
    struct rig *g = *state;
    enable(g);
    entry(g, 9, 0x8039);
    irq_set(g->ic, 9, 1);
    irqchip_reset(g->ic);
    assert_false(attention(g, 0));
    enable(g);
    entry(g, 9, 0x8039);
    assert_int_equal(irq_ack(g->ic, 0), 0x39);
    irq_set(g->ic, 24, 1); /* no such input */
    irq_set(g->ic, 2, 1);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(reset_state),
        T(priorities),
        T(software_disable),
        T(errors),
        T(destinations),
        T(ipis_by_bit_map),
        T(special_ipis),
        T(timer_one_shot_and_periodic),
        T(timer_storm_is_bounded),
        T(timer_deadline),
        T(apic_base_transitions),
        T(x2apic_registers),
        T(ioapic_registers),
        T(ioapic_edge),
        T(ioapic_level),
        T(ioapic_level_waits),
        T(ioapic_modes),
        T(msi),
        T(pic_priorities),
        T(pic_masks_and_falling_lines),
        T(pic_level_triggered),
        T(pic_auto_eoi_and_rotation),
        T(pic_special_modes),
        T(extint_routes),
        T(lint0_fixed_level),
        T(pv_eoi),
        T(reset_keeps_lines),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
