/* The 8254 against its datasheet: modes, latches, read-back, BCD, gate, interrupts. */
#include "rig.h"
#include "machine/platform.h"

static int setup(void **state)
{
    *state = rig_one(&i8254_device);
    return 0;
}

/* Let `n` input clocks pass, to the middle of one. */
static void clocks(struct rig *g, u64 n)
{
    u64 now = (u64)((unsigned __int128)g->time.ns * PIT_HZ / 1000000000u) + n;
    u64 target = (u64)(((unsigned __int128)now * 1000000000u + PIT_HZ / 2) / PIT_HZ) + 300;
    pass(g, target - g->time.ns);
}

static void program(struct rig *g, unsigned counter, unsigned mode, bool bcd, u16 n)
{
    out(g, 0x43, (u8)(counter << 6 | 0x30 | mode << 1 | bcd));
    out(g, 0x40 + counter, (u8)n);
    out(g, 0x40 + counter, (u8)(n >> 8));
}

static u16 latch(struct rig *g, unsigned counter)
{
    out(g, 0x43, (u8)(counter << 6));
    u16 low = in(g, 0x40 + counter);
    return (u16)(low | in(g, 0x40 + counter) << 8);
}

static u8 status(struct rig *g, unsigned counter)
{
    out(g, 0x43, (u8)(0xe0 | 2 << counter));
    return in(g, 0x40 + counter);
}

#define OUT        0x80
#define NULL_COUNT 0x40

static void mode0(void **state)
{
    struct rig *g = *state;
    clocks(g, 10);
    program(g, 0, 0, false, 1000);
    assert_int_equal(status(g, 0), NULL_COUNT | 0x30);
    clocks(g, 1); /* the next clock loads the count */
    assert_int_equal(status(g, 0), 0x30);
    assert_int_equal(latch(g, 0), 1000);
    clocks(g, 999);
    assert_int_equal(latch(g, 0), 1);
    assert_int_equal(g->level[GSI_PIT], 0);
    clocks(g, 1);
    assert_int_equal(status(g, 0), OUT | 0x30);
    assert_int_equal(g->edges[GSI_PIT], 1);
    clocks(g, 1);
    assert_int_equal(latch(g, 0), 0xffff); /* goes on counting */
    clocks(g, 200000);
    assert_int_equal(g->edges[GSI_PIT], 1);
    out(g, 0x40, 5); /* the first byte of a new count takes OUT down */
    assert_int_equal(status(g, 0) & OUT, 0);
    assert_int_equal(g->level[GSI_PIT], 0);
    out(g, 0x40, 0);
    clocks(g, 6);
    assert_int_equal(g->edges[GSI_PIT], 2);
}

static void mode2(void **state)
{
    struct rig *g = *state;
    program(g, 0, 2, false, 1000);
    clocks(g, 1);
    assert_int_equal(status(g, 0), OUT | 0x34);
    clocks(g, 998);
    assert_int_equal(latch(g, 0), 2);
    clocks(g, 1);
    assert_int_equal(latch(g, 0), 1);
    assert_int_equal(status(g, 0) & OUT, 0); /* low while the count is 1 */
    clocks(g, 1);
    assert_int_equal(latch(g, 0), 1000);
    assert_int_equal(status(g, 0) & OUT, OUT);
    unsigned edges = g->edges[GSI_PIT];
    clocks(g, 10000);
    assert_int_equal(g->edges[GSI_PIT], edges + 10);
    g->time.ns += 50000000; /* 59 periods in which nobody served timers: one edge */
    vclock_run_timers(&g->clock);
    assert_int_equal(g->edges[GSI_PIT], edges + 11);
}

/* A count written while mode 2 runs waits for the end of the period. */
static void mode2_new_count(void **state)
{
    struct rig *g = *state;
    program(g, 0, 2, false, 1000);
    clocks(g, 101);
    out(g, 0x40, 200);
    out(g, 0x40, 0);
    assert_int_equal(status(g, 0) & NULL_COUNT, NULL_COUNT);
    assert_int_equal(latch(g, 0), 900);
    unsigned edges = g->edges[GSI_PIT];
    clocks(g, 899);
    assert_int_equal(latch(g, 0), 1);
    clocks(g, 1);
    assert_int_equal(latch(g, 0), 200);
    assert_int_equal(status(g, 0) & NULL_COUNT, 0);
    assert_int_equal(g->edges[GSI_PIT], edges + 1);
    clocks(g, 400);
    assert_int_equal(g->edges[GSI_PIT], edges + 3);
}

static void mode3(void **state)
{
    struct rig *g = *state;
    program(g, 0, 3, false, 1000);
    clocks(g, 1);
    assert_int_equal(status(g, 0), OUT | 0x36);
    clocks(g, 100);
    assert_int_equal(latch(g, 0), 800); /* counts by two */
    clocks(g, 399);
    assert_int_equal(status(g, 0) & OUT, OUT);
    clocks(g, 1);
    assert_int_equal(status(g, 0) & OUT, 0);
    assert_int_equal(latch(g, 0), 1000);
    clocks(g, 500);
    assert_int_equal(status(g, 0) & OUT, OUT);
    unsigned edges = g->edges[GSI_PIT];
    clocks(g, 5000);
    assert_int_equal(g->edges[GSI_PIT], edges + 5);

    program(g, 0, 3, false, 5); /* odd: high for 3 clocks, low for 2 */
    clocks(g, 1);
    static const u8 high[10] = {1, 1, 1, 0, 0, 1, 1, 1, 0, 0};
    static const u16 count[5] = {4, 2, 0, 4, 2};
    for (unsigned i = 0; i < 10; i++) {
        assert_int_equal(!!(status(g, 0) & OUT), high[i]);
        assert_int_equal(latch(g, 0), count[i % 5]);
        clocks(g, 1);
    }
}

/* A count written while mode 3 runs waits for the end of the half period. */
static void mode3_new_count(void **state)
{
    struct rig *g = *state;
    program(g, 0, 3, false, 1000);
    clocks(g, 101);
    out(g, 0x40, 100);
    out(g, 0x40, 0);
    clocks(g, 399);
    assert_int_equal(status(g, 0) & OUT, OUT);
    clocks(g, 1);
    assert_int_equal(status(g, 0) & OUT, 0);
    clocks(g, 49);
    assert_int_equal(status(g, 0) & OUT, 0);
    unsigned edges = g->edges[GSI_PIT];
    clocks(g, 1);
    assert_int_equal(status(g, 0) & OUT, OUT);
    assert_int_equal(g->edges[GSI_PIT], edges + 1);
    clocks(g, 50);
    assert_int_equal(status(g, 0) & OUT, 0);
}

static void mode4(void **state)
{
    struct rig *g = *state;
    program(g, 0, 4, false, 100);
    clocks(g, 100);
    assert_int_equal(status(g, 0) & OUT, OUT);
    clocks(g, 1);
    assert_int_equal(status(g, 0) & OUT, 0); /* strobe */
    unsigned edges = g->edges[GSI_PIT];
    clocks(g, 1);
    assert_int_equal(status(g, 0) & OUT, OUT);
    clocks(g, 100);
    assert_int_equal(g->edges[GSI_PIT], edges + 1);
}

/* Counter 2: the gate is bit 0 of port 61h, the output its bit 5. */
static void gate(void **state)
{
    struct rig *g = *state;
    program(g, 2, 0, false, 1000);
    clocks(g, 500);
    assert_int_equal(latch(g, 2), 1000); /* gate low: does not count */
    out(g, 0x61, 1);
    clocks(g, 301);
    assert_int_equal(latch(g, 2), 700);
    out(g, 0x61, 0);
    clocks(g, 5000);
    assert_int_equal(latch(g, 2), 700);
    assert_int_equal(in(g, 0x61) & 0x21, 0);
    out(g, 0x61, 1);
    clocks(g, 699);
    assert_int_equal(in(g, 0x61) & 0x21, 1);
    clocks(g, 1);
    assert_int_equal(in(g, 0x61) & 0x21, 0x21);

    program(g, 2, 1, false, 100); /* one-shot: the rising gate starts it */
    assert_int_equal(in(g, 0x61) & 0x20, 0x20);
    clocks(g, 200);
    assert_int_equal(in(g, 0x61) & 0x20, 0x20);
    out(g, 0x61, 0);
    out(g, 0x61, 1);
    clocks(g, 1);
    assert_int_equal(in(g, 0x61) & 0x20, 0);
    clocks(g, 50);
    out(g, 0x61, 0);
    out(g, 0x61, 1); /* again: the pulse gets longer */
    clocks(g, 100);
    assert_int_equal(in(g, 0x61) & 0x20, 0);
    clocks(g, 1);
    assert_int_equal(in(g, 0x61) & 0x20, 0x20);

    program(g, 2, 2, false, 10);
    clocks(g, 10);
    assert_int_equal(in(g, 0x61) & 0x20, 0);
    out(g, 0x61, 0); /* gate low forces OUT high */
    assert_int_equal(in(g, 0x61) & 0x20, 0x20);
    clocks(g, 55);
    out(g, 0x61, 1);
    clocks(g, 10);
    assert_int_equal(in(g, 0x61) & 0x20, 0);

    program(g, 2, 5, false, 50);
    out(g, 0x61, 0);
    out(g, 0x61, 1);
    clocks(g, 50);
    assert_int_equal(in(g, 0x61) & 0x20, 0x20);
    clocks(g, 1);
    assert_int_equal(in(g, 0x61) & 0x20, 0);
    clocks(g, 1);
    assert_int_equal(in(g, 0x61) & 0x20, 0x20);
}

static void port61_bits(void **state)
{
    struct rig *g = *state;
    unsigned toggles = 0;
    u8 last = in(g, 0x61);
    out(g, 0x61, 0xff);
    assert_int_equal(in(g, 0x61) & 0xcf, 0x0f);
    for (unsigned i = 0; i < 1000; i++) {
        pass(g, 1509); /* a tenth of the refresh period */
        toggles += (in(g, 0x61) ^ last) >> 4 & 1;
        last = in(g, 0x61);
    }
    assert_in_range(toggles, 98, 102);
}

static void latches_and_read_back(void **state)
{
    struct rig *g = *state;
    program(g, 1, 2, false, 0x1234);
    clocks(g, 0x101);
    out(g, 0x43, 0x40);
    clocks(g, 0x100);
    out(g, 0x43, 0x40); /* a second latch before the first is read: ignored */
    assert_int_equal(in(g, 0x41), 0x34);
    assert_int_equal(in(g, 0x41), 0x11);
    assert_int_equal(latch(g, 1), 0x1034);

    program(g, 2, 3, true, 0x0500);
    out(g, 0x43, 0xce);                  /* status and count of all three */
    assert_int_equal(in(g, 0x41), 0xb4); /* status comes first */
    assert_int_equal(in(g, 0x41), 0x34);
    assert_int_equal(in(g, 0x41), 0x10);
    assert_int_equal(in(g, 0x42), 0xb7);
    assert_int_equal(in(g, 0x43), 0xff);

    out(g, 0x43, 0x54); /* low byte only */
    out(g, 0x41, 100);
    clocks(g, 2);
    assert_int_equal(in(g, 0x41), 99);
    out(g, 0x43, 0x64); /* high byte only */
    out(g, 0x41, 2);
    clocks(g, 2);
    assert_int_equal(in(g, 0x41), 1);
    clocks(g, 0xff);
    assert_int_equal(in(g, 0x41), 1);
    clocks(g, 1);
    assert_int_equal(in(g, 0x41), 0);
}

static void bcd(void **state)
{
    struct rig *g = *state;
    program(g, 0, 2, true, 0x1000);
    clocks(g, 2);
    assert_int_equal(latch(g, 0), 0x0999);
    program(g, 0, 0, true, 0); /* 0 is 10000 */
    clocks(g, 1);
    assert_int_equal(latch(g, 0), 0);
    clocks(g, 1);
    assert_int_equal(latch(g, 0), 0x9999);
    clocks(g, 9998);
    assert_int_equal(status(g, 0) & OUT, 0);
    clocks(g, 1);
    assert_int_equal(status(g, 0) & OUT, OUT);
}

/* A count of 1 or 2 in mode 2 does not make the host serve a timer a microsecond. */
static void storm_is_bounded(void **state)
{
    struct rig *g = *state;
    program(g, 0, 2, false, 1);
    unsigned edges = g->edges[GSI_PIT];
    pass(g, 10000000);
    assert_in_range(g->edges[GSI_PIT] - edges, 10, 1001);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, rig_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(mode0), T(mode2),       T(mode2_new_count),       T(mode3), T(mode3_new_count),  T(mode4),
        T(gate),  T(port61_bits), T(latches_and_read_back), T(bcd),   T(storm_is_bounded),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
