/* PCI: configuration space by both ways, BARs anywhere, MSI-X, interrupt lines, records. */
#include "dma_rig.h"

#include <errno.h>

#define BAR_SIZE 0x1000u

struct toy {
    struct pci_function fn;
    u64 last;
    unsigned reads, writes;
};

static u64 toy_read(void *dev, u64 offset, unsigned size)
{
    struct toy *t = dev;
    t->reads++;
    return 0x1122334455667788ull + offset;
}

static void toy_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct toy *t = dev;
    t->writes++;
    t->last = value;
}

static const struct bus_ops toy_ops = {toy_read, toy_write, 0};

static void add_toy(struct dma_rig *g, struct toy *t, unsigned vectors)
{
    const struct pci_ids ids = {.vendor = 0x1af4, .device = 0x10ff, .class_code = 0xff0000};
    struct error e = {0};
    memset(t, 0, sizeof(*t));
    pci_init(&t->fn, "toy", &ids);
    pci_set_bar(&t->fn, 0, BAR_SIZE, true, &toy_ops, t);
    if (vectors)
        pci_set_msix(&t->fn, vectors, 2);
    assert_int_equal(pci_add(g->pci, &t->fn, &e), 0);
}

static u32 cfg(struct dma_rig *g, unsigned slot, unsigned at, unsigned size)
{
    bus_pio_write(&g->bus, 0xcf8, 4, 0x80000000 | slot << 11 | (at & 0xfc));
    return bus_pio_read(&g->bus, (u16)(0xcfc + (at & 3)), size);
}

static void cfg_write(struct dma_rig *g, unsigned slot, unsigned at, unsigned size, u32 v)
{
    bus_pio_write(&g->bus, 0xcf8, 4, 0x80000000 | slot << 11 | (at & 0xfc));
    bus_pio_write(&g->bus, (u16)(0xcfc + (at & 3)), size, v);
}

static u64 bar(struct dma_rig *g, unsigned slot, unsigned i)
{
    return cfg(g, slot, 0x10 + 4 * i, 4) & ~0xfu;
}

static void both_ways(void **state)
{
    struct dma_rig g;
    struct toy t;
    dma_rig_init(&g);
    add_toy(&g, &t, 0);
    assert_int_equal(cfg(&g, 0, 0, 4), 0x00081b36);
    assert_int_equal(cfg(&g, 1, 0, 4), 0x10ff1af4);
    assert_int_equal(cfg(&g, 1, 2, 2), 0x10ff);
    assert_int_equal(cfg(&g, 1, 3, 1), 0x10);
    assert_int_equal(cfg(&g, 2, 0, 4), 0xffffffff); /* nothing there */
    for (unsigned at = 0; at < 256; at += 4)
        for (unsigned size = 1; size <= 4; size *= 2)
            for (unsigned i = 0; i < 4; i += size)
                assert_int_equal(cfg(&g, 1, at + i, size),
                                 bus_mmio_read(&g.bus, PCI_ECAM_BASE + 0x8000 + at + i, size));
    /* 8 bytes, a register's end, beyond 256, another function, another bus: bounded, nothing there */
    assert_int_equal(bus_mmio_read(&g.bus, PCI_ECAM_BASE + 0x8000, 8) & 0xffffffff, 0x10ff1af4);
    bus_mmio_read(&g.bus, PCI_ECAM_BASE + 0x8ffe, 4);
    assert_int_equal(bus_mmio_read(&g.bus, PCI_ECAM_BASE + 0x8100, 4), 0);
    assert_int_equal(bus_mmio_read(&g.bus, PCI_ECAM_BASE + 0x9000, 4), 0xffffffff);
    bus_pio_write(&g.bus, 0xcf8, 4, 0x80010800);
    assert_int_equal(bus_pio_read(&g.bus, 0xcfc, 4), 0xffffffff);
    bus_pio_write(&g.bus, 0xcf8, 4, 0x800); /* not enabled */
    assert_int_equal(bus_pio_read(&g.bus, 0xcfc, 4), 0xffffffff);
    /* only whole dwords reach CF8h: a byte at CF9h is another chip's */
    bus_pio_write(&g.bus, 0xcf8, 4, 0x80000800);
    bus_pio_write(&g.bus, 0xcf9, 1, 0x55);
    assert_int_equal(bus_pio_read(&g.bus, 0xcf8, 4), 0x80000800);
    /* identifiers are read-only */
    cfg_write(&g, 1, 0, 4, 0);
    assert_int_equal(cfg(&g, 1, 0, 4), 0x10ff1af4);
    dma_rig_free(&g);
}

static void bars_are_sized_and_moved(void **state)
{
    struct dma_rig g;
    struct toy t;
    dma_rig_init(&g);
    add_toy(&g, &t, 0);
    u64 at = bar(&g, 1, 0);
    assert_in_range(at, PCI_WINDOW_BASE, PCI_WINDOW_BASE + PCI_WINDOW_SIZE - BAR_SIZE);
    assert_int_equal(bus_mmio_read(&g.bus, at + 8, 8), 0x1122334455667790ull);
    cfg_write(&g, 1, PCI_COMMAND, 2, 0);
    assert_int_equal(bus_mmio_read(&g.bus, at, 4), 0xffffffff);
    cfg_write(&g, 1, 0x10, 4, 0xffffffff);
    cfg_write(&g, 1, 0x14, 4, 0xffffffff);
    assert_int_equal(cfg(&g, 1, 0x10, 4), 0xfffff004);
    assert_int_equal(cfg(&g, 1, 0x14, 4), 0xffffffff);
    cfg_write(&g, 1, 0x18, 4, 0xffffffff); /* a BAR that is not there */
    assert_int_equal(cfg(&g, 1, 0x18, 4), 0);
    /* above 4 GiB, with decoding on */
    cfg_write(&g, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    cfg_write(&g, 1, 0x10, 4, 0x5000);
    cfg_write(&g, 1, 0x14, 4, 0x12);
    assert_int_equal(bus_mmio_read(&g.bus, 0x1200005000ull, 4), 0x55667788);
    assert_int_equal(bus_mmio_read(&g.bus, at, 4), 0xffffffff);
    dma_rig_free(&g);
}

static void bars_over_other_things(void **state)
{
    static const u64 bad[] = {0, 0x1000, RIG_RAM - BAR_SIZE, PCI_ECAM_BASE + 0x1000};
    struct dma_rig g;
    struct toy t, u;
    dma_rig_init(&g);
    g.env.ram_high = 1 << 20;
    add_toy(&g, &t, 0);
    add_toy(&g, &u, 0);
    unsigned ranges = g.bus.n_mmio;
    u64 home = bar(&g, 1, 0), other = bar(&g, 2, 0);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        cfg_write(&g, 1, 0x10, 4, (u32)bad[i]);
        assert_int_equal(g.bus.n_mmio, ranges - 1);
        t.writes = 0;
        bus_mmio_write(&g.bus, bad[i], 4, 0);
        assert_int_equal(t.writes, 0);
    }
    cfg_write(&g, 1, 0x14, 4, 1); /* into RAM above 4 GiB */
    cfg_write(&g, 1, 0x10, 4, 0);
    assert_int_equal(g.bus.n_mmio, ranges - 1);
    cfg_write(&g, 1, 0x14, 4, 0xffffffff); /* the last page of all */
    cfg_write(&g, 1, 0x10, 4, 0xfffff000);
    assert_int_equal(g.bus.n_mmio, ranges);
    assert_int_equal(bus_mmio_read(&g.bus, 0xfffffffffffff000ull, 1), 0x88);
    /* both at one place: the low slot answers, whoever came first */
    cfg_write(&g, 1, 0x14, 4, 0);
    cfg_write(&g, 1, 0x10, 4, (u32)other);
    assert_int_equal(g.bus.n_mmio, ranges - 1);
    t.reads = u.reads = 0;
    bus_mmio_read(&g.bus, other, 4);
    assert_true(t.reads == 1 && u.reads == 0);
    cfg_write(&g, 1, 0x10, 4, (u32)home); /* and back: the other one is there again */
    bus_mmio_read(&g.bus, other, 4);
    assert_int_equal(u.reads, 1);
    dma_rig_free(&g);
}

/* Random values into every register, by both ways: never more ranges than BARs, reset puts all back. */
static void hostile_configuration(void **state)
{
    struct dma_rig g;
    struct toy t, u;
    u64 seed = 42;
    dma_rig_init(&g);
    add_toy(&g, &t, 3);
    add_toy(&g, &u, 64);
    unsigned ranges = g.bus.n_mmio;
    u8 before[256];
    memcpy(before, t.fn.config, 256);
    for (unsigned i = 0; i < 200000; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        unsigned at = seed >> 33 & 255, size = 1u << (seed >> 41 & 3), slot = seed >> 44 & 3;
        u32 v = seed & 1 ? (u32)(seed >> 20) : seed & 2 ? 0xffffffff : 0xe0000000;
        if (size > 4)
            bus_mmio_write(&g.bus, PCI_ECAM_BASE + slot * 0x8000 + at, size, v);
        else
            cfg_write(&g, slot, at, size, v);
        bus_mmio_write(&g.bus, t.fn.bar[2].at + (seed >> 50 & 0xfff), size, v);
        pci_msix_send(&u.fn, seed >> 55 & 127);
        assert_true(g.bus.n_mmio <= ranges);
    }
    pci_reset(g.pci);
    assert_int_equal(g.bus.n_mmio, ranges);
    assert_memory_equal(before, t.fn.config, 256);
    dma_rig_free(&g);
}

/* Offset of the capability, found as drivers do. */
static unsigned find_cap(struct dma_rig *g, unsigned slot, u8 id)
{
    unsigned at = cfg(g, slot, PCI_CAPS, 1);
    for (int i = 0; at && i < 48; i++, at = cfg(g, slot, at + 1, 1))
        if (cfg(g, slot, at, 1) == id)
            return at;
    return 0;
}

static void msix(void **state)
{
    struct dma_rig g;
    struct toy t;
    dma_rig_init(&g);
    add_toy(&g, &t, 3);
    unsigned cap = find_cap(&g, 1, PCI_CAP_MSIX);
    assert_true(cap);
    assert_int_equal(cfg(&g, 1, cap + 2, 2), 2); /* three vectors, off */
    u64 table = bar(&g, 1, 2);
    assert_int_equal(bus_mmio_read(&g.bus, table + 12, 4), 1); /* masked */
    pci_msix_send(&t.fn, 1);
    assert_int_equal(g.msis + t.fn.msix_pending, 0); /* off */
    cfg_write(&g, 1, cap + 2, 2, 0x8000);
    cfg_write(&g, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    bus_mmio_write(&g.bus, table + 16, 8, 0xfee01000);
    bus_mmio_write(&g.bus, table + 24, 4, 0x4055);
    pci_msix_send(&t.fn, 1); /* masked: pending */
    assert_int_equal(g.msis, 0);
    assert_int_equal(bus_mmio_read(&g.bus, table + 0x800, 8), 2);
    bus_mmio_write(&g.bus, table + 28, 4, 0xfffffffe); /* unmasked; other bits do not stick */
    assert_int_equal(bus_mmio_read(&g.bus, table + 28, 4), 0);
    assert_int_equal(g.msis, 1);
    assert_true(g.msi_address == 0xfee01000 && g.msi_data == 0x4055);
    assert_int_equal(bus_mmio_read(&g.bus, table + 0x800, 4), 0);
    cfg_write(&g, 1, cap + 2, 2, 0xc000); /* all masked */
    pci_msix_send(&t.fn, 1);
    pci_msix_send(&t.fn, 1);
    assert_int_equal(g.msis, 1);
    cfg_write(&g, 1, cap + 2, 2, 0x8000);
    assert_int_equal(g.msis, 2);
    cfg_write(&g, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY); /* no master: held back */
    pci_msix_send(&t.fn, 1);
    assert_int_equal(g.msis, 2);
    cfg_write(&g, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_int_equal(g.msis, 3);
    pci_msix_send(&t.fn, 3); /* no such vector */
    pci_msix_send(&t.fn, 0xffff);
    assert_int_equal(g.msis, 3);
    bus_mmio_write(&g.bus, table + 0x800, 8, ~0ull); /* pending bits are read-only */
    assert_int_equal(bus_mmio_read(&g.bus, table + 0x800, 8), 0);
    dma_rig_free(&g);
}

static void lines_are_shared(void **state)
{
    struct dma_rig g;
    struct toy t[9];
    dma_rig_init(&g);
    for (unsigned i = 0; i < 9; i++)
        add_toy(&g, &t[i], 0);
    /* slots 1 and 9 */
    pci_set_intx(&t[0].fn, true);
    pci_set_intx(&t[8].fn, true);
    assert_int_equal(g.level[GSI_PCI + 1], 1);
    assert_true(cfg(&g, 1, PCI_STATUS, 2) & 8);
    pci_set_intx(&t[0].fn, false);
    assert_int_equal(g.level[GSI_PCI + 1], 1);
    cfg_write(&g, 9, PCI_COMMAND, 2, PCI_COMMAND_NO_INTX);
    assert_int_equal(g.level[GSI_PCI + 1], 0);
    cfg_write(&g, 9, PCI_COMMAND, 2, 0);
    assert_int_equal(g.level[GSI_PCI + 1], 1);
    pci_reset(g.pci);
    assert_int_equal(g.level[GSI_PCI + 1], 0);
    dma_rig_free(&g);
}

static void records(void **state)
{
    struct dma_rig g, h;
    struct toy t, u;
    struct rec_buf out = {0}, again = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    dma_rig_init(&g);
    dma_rig_init(&h);
    add_toy(&g, &t, 2);
    add_toy(&h, &u, 2);
    cfg_write(&g, 1, 0x10, 4, 0xd0000000);
    cfg_write(&g, 1, find_cap(&g, 1, PCI_CAP_MSIX) + 2, 2, 0xc000);
    pci_msix_send(&t.fn, 0);
    assert_int_equal(pci_save(g.pci, &out), 0);
    while (rec_next(out.data, out.len, &pos, &v, &e) == 1)
        assert_int_equal(pci_load(h.pci, &v, false, &e), 1);
    assert_int_equal(bus_mmio_read(&h.bus, 0xd0000000, 4), 0x55667788);
    assert_int_equal(u.fn.msix_pending, 1);
    assert_int_equal(pci_save(h.pci, &again), 0);
    assert_int_equal(out.len, again.len);
    assert_memory_equal(out.data, again.data, out.len);
    /* another device in that slot, a slot that is empty, a vector that is not there */
    u.fn.config[2] = 0;
    again.len = 0;
    assert_int_equal(pci_save(h.pci, &again), 0);
    pos = 0;
    for (int i = 0; rec_next(again.data, again.len, &pos, &v, &e) == 1; i++)
        assert_int_equal(pci_load(g.pci, &v, true, &e), i == 2 ? -EINVAL : 1);
    v.instance = 7;
    assert_int_equal(pci_load(g.pci, &v, true, &e), -EINVAL);
    u.fn.config[2] = u.fn.reset[2];
    u.fn.msix_pending = 4;
    again.len = pos = 0;
    assert_int_equal(pci_save(h.pci, &again), 0);
    for (int i = 0; rec_next(again.data, again.len, &pos, &v, &e) == 1; i++)
        assert_int_equal(pci_load(g.pci, &v, true, &e), i == 2 ? -EINVAL : 1);
    rec_buf_free(&out);
    rec_buf_free(&again);
    dma_rig_free(&g);
    dma_rig_free(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(both_ways),
        cmocka_unit_test(bars_are_sized_and_moved),
        cmocka_unit_test(bars_over_other_things),
        cmocka_unit_test(hostile_configuration),
        cmocka_unit_test(msix),
        cmocka_unit_test(lines_are_shared),
        cmocka_unit_test(records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
