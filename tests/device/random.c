/*
 * All devices under random accesses of all sizes: nothing crashes or hangs, and devices that were saved at a random point
 * and loaded into another machine go on exactly like the originals. Damaged records are refused or harmless.
 */
#include "rig.h"
#include "machine/platform.h"

#define ROUNDS 400

static const u16 ports[] = {
    PORT_PIT,  PORT_PIT + 1, PORT_PIT + 2,  PORT_PIT + 3, PORT_PIT_GATE, PORT_I8042, PORT_I8042 + 4,
    PORT_RTC,  PORT_RTC + 1, PORT_FAST_A20, PORT_RESET,   PORT_PM_EVENT, 0x602,      0x601,
    0x603,     0x604,        0x605,         0x608,        0x60a,         0x620,      0x622,
    PORT_COM1, 0x3f9,        0x3fa,         0x3fb,        0x3fc,         0x3fd,      0x3fe,
    0x3ff,     0xf4,         0x80};

static void open_all(struct rig *g)
{
    rig_init(g);
    for (unsigned i = 0; i < device_table_len; i++)
        assert_int_equal(device_table[i]->create(&g->dev[i], &g->env, NULL), 0);
}

static void close_all(struct rig *g)
{
    for (unsigned i = 0; i < device_table_len; i++)
        device_table[i]->destroy(g->dev[i]);
    assert_null(g->clock.timers);
}

static void *device(struct rig *g, const struct device_type *type)
{
    for (unsigned i = 0; i < device_table_len; i++)
        if (device_table[i] == type)
            return g->dev[i];
    fail();
    return NULL;
}

/* Random writes seldom make a sensible sequence: some of those. */
static void sensible(struct rig *g, u64 *seed)
{
    u8 v = (u8)rnd(seed);
    switch (rnd_below(seed, 6)) {
    case 5:
        out(g, v & 1 ? 0x64 : 0x60, v & 1 ? 0xd1 : v);
        break;
    case 0:
        out(g, 0x43, 0x30 | (v & 0xcf));
        out(g, 0x40 + (v >> 6) % 3, (u8)rnd(seed));
        out(g, 0x40 + (v >> 6) % 3, (u8)rnd(seed));
        break;
    case 1:
        out(g, 0x70, (u8)rnd_below(seed, 14));
        out(g, 0x71, v);
        break;
    case 2:
        out(g, 0x70, 0x0a);
        out(g, 0x71, 0x20 | (v & 15));
        out(g, 0x70, 0x0b);
        out(g, 0x71, v & 0x7f);
        break;
    case 3:
        out(g, 0x3fa, 0x01 | (v & 0xc0));
        out(g, 0x3fc, 0x08);
        out(g, 0x3f9, 0x0f);
        out(g, 0x3fb, 0x03);
        for (unsigned i = v & 15; i; i--)
            out(g, 0x3f8, (u8)rnd(seed));
        break;
    default:
        out(g, 0x61, v & 1);
    }
}

static u64 step(struct rig *g, u64 *seed)
{
    u64 v = rnd(seed);
    u8 text[20];
    u16 port = ports[rnd_below(seed, ARRAY_LEN(ports))];
    unsigned size = 1u << (rnd_below(seed, 4) ? 0 : rnd_below(seed, 3));
    switch (rnd_below(seed, 12)) {
    case 0:
        pass(g, v % 3000000);
        return 0;
    case 1:
        g->time.ns += v % 64 ? v % 3000000000 : v % 700000000000; /* nobody serves timers for a while */
        if (v >> 20 & 3)
            vclock_run_timers(&g->clock);
        return 0;
    case 2:
        for (unsigned i = 0; i < sizeof(text); i++)
            text[i] = (u8)(v >> i);
        return uart16550_input(device(g, &uart16550_device), text, v % sizeof(text));
    case 3:
        g->out_room = v % 4 ? v % 20 : 1000;
        uart16550_flush(device(g, &uart16550_device));
        return 0;
    case 4:
        if (v % 16 == 0)
            acpi_pm_power_button(device(g, &acpi_pm_device));
        if (v % 16 == 1)
            uart16550_break(device(g, &uart16550_device));
        return 0;
    case 5:
    case 6:
        sensible(g, seed);
        return 0;
    case 7:
    case 8:
        bus_pio_write(&g->bus, port, size, (u32)v);
        return 0;
    default:
        return bus_pio_read(&g->bus, port, size);
    }
}

/* What the outside saw so far. */
static u64 view(const struct rig *g)
{
    u64 h = 0;
    for (unsigned i = 0; i < 24; i++)
        h = h * 31 + g->edges[i] * 2 + g->level[i];
    for (unsigned i = 0; i < 3; i++)
        h = h * 31 + g->requests[i];
    for (size_t i = 0; i < g->out_len; i++)
        h = h * 31 + g->out[i];
    return h * 31 + g->exit_value + g->out_len * 7;
}

static void move(struct rig *from, struct rig *to)
{
    struct rec_buf b = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    vclock_save_prepare(&from->clock);
    assert_int_equal(rec_save(&b, &vclock_record, 0, &from->clock), 0);
    for (unsigned i = 0; i < device_table_len; i++)
        if (device_table[i]->record)
            assert_int_equal(rec_save(&b, device_table[i]->record, 0, from->dev[i]), 0);
    to->time = from->time;
    memcpy(to->level, from->level, sizeof(to->level));
    memcpy(to->edges, from->edges, sizeof(to->edges));
    memcpy(to->requests, from->requests, sizeof(to->requests));
    to->exit_value = from->exit_value;
    to->out_len = from->out_len;
    memcpy(to->out, from->out, sizeof(to->out));
    to->out_room = from->out_room;
    assert_int_equal(rec_next(b.data, b.len, &pos, &v, &e), 1);
    assert_int_equal(rec_load(&v, &vclock_record, &to->clock, &e), 0);
    for (unsigned i = 0; i < device_table_len; i++) {
        if (!device_table[i]->record)
            continue;
        assert_int_equal(rec_next(b.data, b.len, &pos, &v, &e), 1);
        if (rec_load(&v, device_table[i]->record, to->dev[i], &e))
            fail_msg("%s", e.msg);
    }
    rec_buf_free(&b);
}

static void saved_devices_go_on_alike(void **state)
{
    static struct rig a, b;
    for (u64 round = 1; round <= ROUNDS; round++) {
        u64 seed = round * 0x9e3779b97f4a7c15ull, s2;
        open_all(&a);
        open_all(&b);
        a.clock.wall_offset = b.clock.wall_offset = FAKE_WALL_NS;
        for (u64 i = rnd_below(&seed, 500); i; i--)
            step(&a, &seed);
        move(&a, &b);
        s2 = seed;
        for (unsigned i = 0; i < 300; i++) {
            u64 ra = step(&a, &seed), rb = step(&b, &s2);
            if (ra != rb || view(&a) != view(&b))
                fail_msg("round %d, step %u: %llx and %llx", (int)round, i, (unsigned long long)ra,
                         (unsigned long long)rb);
        }
        close_all(&a);
        close_all(&b);
    }
}

static void hostile_records(void **state)
{
    static struct rig g;
    unsigned refused = 0;
    for (u64 round = 1; round <= 3000; round++) {
        u64 seed = round * 7777777;
        open_all(&g);
        for (unsigned i = 0; i < device_table_len; i++) {
            struct rec_buf b = {0};
            struct rec_view v;
            size_t pos = 0;
            if (!device_table[i]->record)
                continue;
            assert_int_equal(rec_save(&b, device_table[i]->record, 0, g.dev[i]), 0);
            assert_int_equal(rec_next(b.data, b.len, &pos, &v, NULL), 1);
            for (unsigned n = 0; n < 3; n++)
                b.data[16 + rnd_below(&seed, v.len)] ^= (u8)rnd(&seed);
            refused += rec_load(&v, device_table[i]->record, g.dev[i], NULL) < 0;
            rec_buf_free(&b);
        }
        for (unsigned i = 0; i < 60; i++)
            step(&g, &seed);
        close_all(&g);
    }
    assert_true(refused > 1000);
}

static void any_port_any_size(void **state)
{
    static struct rig g;
    u64 seed = 4711;
    open_all(&g);
    for (unsigned i = 0; i < 300000; i++) {
        u16 port = (u16)(rnd_below(&seed, 2) ? rnd(&seed) : rnd_below(&seed, 0x640));
        unsigned size = 1u << rnd_below(&seed, 3);
        if (rnd_below(&seed, 2))
            bus_pio_write(&g.bus, port, size, (u32)rnd(&seed));
        else
            bus_pio_read(&g.bus, port, size);
        if (i % 64 == 0)
            pass(&g, rnd_below(&seed, 1000000));
    }
    for (unsigned i = 0; i < device_table_len; i++)
        device_table[i]->reset(g.dev[i]);
    for (unsigned i = 0; i < 24; i++)
        assert_int_equal(g.level[i], 0);
    close_all(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(saved_devices_go_on_alike),
        cmocka_unit_test(hostile_records),
        cmocka_unit_test(any_port_any_size),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
