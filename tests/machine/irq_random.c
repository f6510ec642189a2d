/*
 * Interrupt controllers under random accesses: nothing crashes, ATTN_INTR always tells the truth, and a machine that was
 * saved at a random point and loaded into another one goes on exactly like the original.
 */
#include "fake_machine.h"
#include "machine/irq/irq_internal.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define CPUS   3
#define ROUNDS 300

struct rig {
    struct fake_time time;
    struct vclock clock;
    struct cpu *cpus[CPUS];
    struct irqchip *ic;
    struct irq_pv_eoi_ops pv;
    u8 pv_flag[CPUS];
};

static bool pv_set(void *ctx, unsigned cpu)
{
    ((struct rig *)ctx)->pv_flag[cpu] = 1;
    return true;
}

static bool pv_test_clear(void *ctx, unsigned cpu)
{
    struct rig *g = ctx;
    bool ended = !g->pv_flag[cpu];
    g->pv_flag[cpu] = 0;
    return ended;
}

static void open_rig(struct rig *g)
{
    memset(g, 0, sizeof(*g));
    fake_clock_init(&g->clock, &g->time);
    for (unsigned i = 0; i < CPUS; i++) {
        g->cpus[i] = aligned_alloc(64, sizeof(struct cpu));
        memset(g->cpus[i], 0, sizeof(struct cpu));
        g->cpus[i]->id = (u8)i;
    }
    g->ic = irqchip_create(&(struct irqchip_config){.n_cpus = CPUS, .cpus = g->cpus, .clock = &g->clock});
    g->pv = (struct irq_pv_eoi_ops){pv_set, pv_test_clear, g};
    for (unsigned i = 0; i < CPUS; i++)
        irqchip_set_pv_eoi(g->ic, i, &g->pv);
}

static void close_rig(struct rig *g)
{
    irqchip_destroy(g->ic);
    for (unsigned i = 0; i < CPUS; i++)
        free(g->cpus[i]);
}

/* A register value: often something meaningful, sometimes anything. */
static u32 value(u64 *seed)
{
    static const u32 likely[] = {0x1ff,  0x11ff,  0x700,   0x400,   0x20041, 0x40042,
                                 0x8039, 0x10000, 0x84030, 0x40050, 0,       0xb};
    switch (rnd_below(seed, 4)) {
    case 0:
        return (u32)rnd(seed);
    case 1:
        return (u32)rnd_below(seed, 256);
    default:
        return likely[rnd_below(seed, ARRAY_LEN(likely))] | (rnd_below(seed, 4) ? 0 : (u32)rnd_below(seed, 256));
    }
}

static u64 ioapic_op(struct rig *g, u64 *seed)
{
    static const u32 offset[] = {0, 0x10, 0x40, 4, 0xffc};
    u32 at = offset[rnd_below(seed, ARRAY_LEN(offset))], v = value(seed);
    if (rnd_below(seed, 3) == 0)
        return ioapic_mmio_read(g->ic, at);
    if (at == 0)
        v = (u32)rnd_below(seed, 0x48);
    ioapic_mmio_write(g->ic, at, v);
    return 0;
}

static u64 pic_op(struct rig *g, u64 *seed)
{
    static const u16 port[] = {0x20, 0x21, 0xa0, 0xa1, 0x4d0, 0x4d1};
    u16 at = port[rnd_below(seed, ARRAY_LEN(port))];
    u8 v = (u8)rnd(seed);
    if (rnd_below(seed, 3) == 0)
        return pic_io_read(g->ic, at);
    pic_io_write(g->ic, at, v);
    return 0;
}

static u64 lapic_op(struct rig *g, u64 *seed)
{
    unsigned cpu = (unsigned)rnd_below(seed, CPUS);
    u32 at = (u32)rnd_below(seed, 0x48) << 4, v = value(seed);
    if (rnd_below(seed, 16) == 0)
        at = (u32)rnd(seed);
    if (rnd_below(seed, 2))
        return lapic_mmio_read(g->ic, cpu, at);
    lapic_mmio_write(g->ic, cpu, at, v);
    return 0;
}

static u64 msr_op(struct rig *g, u64 *seed)
{
    static const u32 other[] = {0x1b, 0x6e0, 0x7ff, 0x900};
    unsigned cpu = (unsigned)rnd_below(seed, CPUS);
    u32 index = rnd_below(seed, 3) ? 0x800 + (u32)rnd_below(seed, 0x44) : other[rnd_below(seed, ARRAY_LEN(other))];
    u64 v = value(seed), got = 0;
    if (index == 0x1b)
        v = 0xfee00000 | rnd_below(seed, 16) << 8;
    if (index == 0x6e0)
        v = rnd_below(seed, 4) ? vclock_tsc(&g->clock) + rnd_below(seed, 100000) : rnd(seed);
    if (rnd_below(seed, 2))
        return (u64)lapic_msr_read(g->ic, cpu, index, &got) << 60 ^ got;
    return (u64)lapic_msr_write(g->ic, cpu, index, v);
}

/* Most random values leave a local APIC off or deaf: make one fit for work again, and give it some. */
static u64 revive(struct rig *g, unsigned cpu, u64 v)
{
    lapic_mmio_write(g->ic, cpu, 0xf0, 0x1ff);
    lapic_msr_write(g->ic, cpu, 0x80f, 0x1ff);
    lapic_set_tpr(g->ic, cpu, 0);
    irq_msi(g->ic, 0xfee00000 | cpu << 12, (u32)(16 + v % 240));
    return (u64)irq_ack(g->ic, cpu);
}

static u64 other_op(struct rig *g, u64 *seed)
{
    unsigned cpu = (unsigned)rnd_below(seed, CPUS), gsi = (unsigned)rnd_below(seed, 26);
    u64 v = rnd(seed);
    switch (rnd_below(seed, 9)) {
    case 0:
        fake_advance(&g->clock, &g->time, v % 200000);
        return 0;
    case 1:
        return (u64)irq_ack(g->ic, cpu);
    case 2:
        irq_msi(g->ic, 0xfee00000 | (v & 0xff00c), value(seed));
        return 0;
    case 3:
        g->pv_flag[cpu] = 0;
        return 0;
    case 4:
        lapic_set_tpr(g->ic, cpu, v);
        return lapic_get_tpr(g->ic, cpu);
    case 5:
    case 6:
        return revive(g, cpu, v);
    default:
        irq_set(g->ic, gsi, v & 1);
        return 0;
    }
}

/* One random operation; both machines of a pair are given the same seed. */
static u64 step(struct rig *g, u64 *seed)
{
    static u64 (*const op[])(struct rig *, u64 *) = {ioapic_op, pic_op, lapic_op, msr_op, other_op, other_op};
    return op[rnd_below(seed, ARRAY_LEN(op))](g, seed);
}

static u64 view(struct rig *g)
{
    u64 v = 0;
    for (unsigned i = 0; i < CPUS; i++) {
        bool attn = g->cpus[i]->attention & ATTN_INTR;
        assert_int_equal(attn, irq_pending(g->ic, i));
        v = v * 4 + attn * 2 + g->cpus[i]->nmi_pending;
    }
    return v;
}

/* What the machine's record holder does: clock, CPUs (here: what counts of them), controllers. */
static void move(struct rig *from, struct rig *to)
{
    struct rec_buf b = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    vclock_save_prepare(&from->clock);
    assert_int_equal(rec_save(&b, &vclock_record, 0, &from->clock), 0);
    assert_int_equal(irqchip_save(from->ic, &b), 0);
    for (unsigned i = 0; i < CPUS; i++) {
        to->cpus[i]->nmi_pending = from->cpus[i]->nmi_pending;
        to->pv_flag[i] = from->pv_flag[i];
    }
    while (rec_next(b.data, b.len, &pos, &v, &e) == 1) {
        if (v.type == vclock_record.type) {
            assert_int_equal(rec_load(&v, &vclock_record, &to->clock, &e), 0);
            continue;
        }
        int r = irqchip_load(to->ic, &v, true, &e);
        if (r == 1)
            r = irqchip_load(to->ic, &v, false, &e);
        if (r != 1)
            fail_msg("%s", e.msg);
    }
    irqchip_loaded(to->ic);
    rec_buf_free(&b);
}

static void saved_machines_go_on_alike(void **state)
{
    for (u64 round = 1; round <= ROUNDS; round++) {
        struct rig a, b;
        u64 seed = round * 0x9e3779b97f4a7c15ull, s2;
        open_rig(&a);
        open_rig(&b);
        for (u64 i = rnd_below(&seed, 600); i; i--) {
            step(&a, &seed);
            view(&a);
        }
        move(&a, &b);
        s2 = seed;
        for (unsigned i = 0; i < 300; i++) {
            u64 ra = step(&a, &seed), rb = step(&b, &s2);
            if (ra != rb || view(&a) != view(&b))
                fail_msg("round %d, step %u: %llx and %llx", (int)round, i, (unsigned long long)ra,
                         (unsigned long long)rb);
        }
        close_rig(&a);
        close_rig(&b);
    }
}

/* Damaged records: refused or harmless, never a crash. */
static void hostile_records(void **state)
{
    unsigned refused = 0;
    for (u64 round = 1; round <= 2000; round++) {
        struct rig g;
        struct rec_buf b = {0};
        struct rec_view v;
        struct error e = {0};
        u64 seed = round * 77777;
        size_t pos = 0;
        open_rig(&g);
        assert_int_equal(irqchip_save(g.ic, &b), 0);
        while (rec_next(b.data, b.len, &pos, &v, NULL) == 1) {
            u8 *payload = b.data + (v.payload - b.data);
            for (unsigned i = 0; i < 3; i++)
                payload[rnd_below(&seed, v.len)] ^= (u8)rnd(&seed);
            if (rnd_below(&seed, 8) == 0)
                v.instance = (u16)rnd(&seed);
            refused += irqchip_load(g.ic, &v, false, &e) < 0;
        }
        irqchip_loaded(g.ic);
        for (unsigned i = 0; i < 50; i++) {
            step(&g, &seed);
            view(&g);
        }
        rec_buf_free(&b);
        close_rig(&g);
    }
    assert_true(refused > 1000);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saved_machines_go_on_alike),
        cmocka_unit_test(hostile_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
