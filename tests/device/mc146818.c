/* The real-time clock: formats, setting, update, alarm and periodic interrupts, CMOS. */
#include "rig.h"
#include "machine/platform.h"

#define S 1000000000ull

static int setup(void **state)
{
    *state = rig_one(&mc146818_device);
    return 0;
}

static u8 get(struct rig *g, u8 reg)
{
    out(g, 0x70, reg);
    return in(g, 0x71);
}

static void set(struct rig *g, u8 reg, u8 v)
{
    out(g, 0x70, reg);
    out(g, 0x71, v);
}

static void expect(struct rig *g, const u8 time[7])
{
    static const u8 reg[7] = {0x32, 9, 8, 7, 4, 2, 0}; /* century year month day hour minute second */
    for (unsigned i = 0; i < 7; i++)
        if (get(g, reg[i]) != time[i])
            fail_msg("register %02x is %02x, expected %02x", reg[i], get(g, reg[i]), time[i]);
}

/* The rig's wall clock starts on Tuesday 2023-11-14 22:13:20. */
static void reads_the_wall_clock(void **state)
{
    struct rig *g = *state;
    expect(g, (const u8[]){0x20, 0x23, 0x11, 0x14, 0x22, 0x13, 0x20});
    assert_int_equal(get(g, 6), 3);
    pass(g, 41 * S);
    expect(g, (const u8[]){0x20, 0x23, 0x11, 0x14, 0x22, 0x14, 0x01});
    set(g, 0xb, 0x06); /* binary, 24 hours */
    expect(g, (const u8[]){20, 23, 11, 14, 22, 14, 1});
    set(g, 0xb, 0x04); /* binary, 12 hours */
    assert_int_equal(get(g, 4), 0x80 | 10);
    set(g, 0xb, 0x00);
    assert_int_equal(get(g, 4), 0x90);
    pass(g, 2 * 3600 * S);
    assert_int_equal(get(g, 4), 0x12); /* half past midnight is 12 AM */
    pass(g, 12 * 3600 * S);
    assert_int_equal(get(g, 4), 0x92);
}

static void calendar(void **state)
{
    struct rig *g = *state;
    set(g, 0xb, 0x86); /* SET, binary, 24 hours */
    static const u8 reg[8] = {0x32, 9, 8, 7, 4, 2, 0, 6};
    static const u8 value[8] = {20, 24, 2, 28, 23, 59, 58, 4};
    for (unsigned i = 0; i < 8; i++)
        set(g, reg[i], value[i]);
    pass(g, 10 * S); /* time stands still */
    expect(g, value);
    set(g, 0xb, 0x06);
    pass(g, 2 * S);
    expect(g, (const u8[]){20, 24, 2, 29, 0, 0, 0});
    assert_int_equal(get(g, 6), 5);
    pass(g, 86400 * S);
    expect(g, (const u8[]){20, 24, 3, 1, 0, 0, 0});
    assert_int_equal(get(g, 6), 6);
    set(g, 9, 99); /* without SET: that register alone changes */
    set(g, 8, 12);
    set(g, 7, 31);
    pass(g, 86400 * S);
    expect(g, (const u8[]){21, 0, 1, 1, 0, 0, 0});
}

static void update_in_progress(void **state)
{
    struct rig *g = *state;
    assert_int_equal(get(g, 0xa), 0x26);
    pass(g, S - 244000 - 1);
    assert_int_equal(get(g, 0xa), 0x26);
    pass(g, 1);
    assert_int_equal(get(g, 0xa), 0xa6);
    pass(g, 244000);
    assert_int_equal(get(g, 0xa), 0x26);
    assert_int_equal(get(g, 0), 0x21);
    set(g, 0xa, 0xff);
    assert_int_equal(get(g, 0xa), 0x7f); /* UIP is read-only; the divider is in reset: time stands */
    pass(g, 5 * S);
    assert_int_equal(get(g, 0), 0x21);
    set(g, 0xa, 0x26);
    pass(g, S);
    assert_int_equal(get(g, 0), 0x22);
}

static void update_interrupt(void **state)
{
    struct rig *g = *state;
    set(g, 0xb, 0x12);
    pass(g, S - 1);
    assert_int_equal(g->level[GSI_RTC], 0);
    pass(g, 1);
    assert_int_equal(g->level[GSI_RTC], 1);
    pass(g, 3 * S);
    assert_int_equal(g->edges[GSI_RTC], 1); /* until C is read */
    assert_int_equal(get(g, 0xc) & 0xb0, 0x90);
    assert_int_equal(g->level[GSI_RTC], 0);
    assert_int_equal(get(g, 0xc), 0);
    pass(g, S);
    assert_int_equal(g->edges[GSI_RTC], 2);
    set(g, 0xb, 0x92); /* SET clears UIE */
    assert_int_equal(get(g, 0xb), 0x82);
}

static void alarm_interrupt(void **state)
{
    struct rig *g = *state;
    set(g, 5, 0x23);
    set(g, 3, 0x00);
    set(g, 1, 0x05);
    set(g, 0xb, 0x22);
    get(g, 0xc);
    pass(g, (46 * 60 + 44) * S); /* 22:13:20 to 23:00:04 */
    assert_int_equal(g->level[GSI_RTC], 0);
    pass(g, S);
    assert_int_equal(g->level[GSI_RTC], 1);
    assert_int_equal(get(g, 0xc) & 0xb0, 0xb0);
    pass(g, 86400 * S - 1);
    assert_int_equal(g->level[GSI_RTC], 0);
    pass(g, 1);
    assert_int_equal(g->level[GSI_RTC], 1);
    get(g, 0xc);
    set(g, 5, 0xff); /* any hour */
    set(g, 3, 0xc0); /* any minute */
    pass(g, 59 * S);
    assert_int_equal(g->level[GSI_RTC], 0);
    pass(g, S);
    assert_int_equal(g->level[GSI_RTC], 1);
    get(g, 0xc);
    set(g, 1, 0x7f); /* no second of a minute: never, and without waking the host */
    assert_true(g->clock.earliest == UINT64_MAX);
}

/* Flags are set whether or not they interrupt (polled by some systems). */
static void flags_without_interrupts(void **state)
{
    struct rig *g = *state;
    get(g, 0xc);
    pass(g, S);
    assert_int_equal(get(g, 0xc), 0x50);
    assert_int_equal(g->edges[GSI_RTC], 0);
    assert_true(g->clock.earliest == UINT64_MAX);
}

static void periodic_interrupt(void **state)
{
    struct rig *g = *state;
    static const unsigned hz[16] = {0, 256, 128, 8192, 4096, 2048, 1024, 512, 256, 128, 64, 32, 16, 8, 4, 2};
    for (unsigned rs = 0; rs < 16; rs++) {
        set(g, 0xa, (u8)(0x20 | rs));
        set(g, 0xb, 0x42);
        get(g, 0xc);
        unsigned before = g->edges[GSI_RTC];
        for (unsigned i = 0; i < 32768; i++) {
            pass(g, 30518);
            if (g->level[GSI_RTC])
                assert_int_equal(get(g, 0xc) & 0xc0, 0xc0);
        }
        assert_in_range(g->edges[GSI_RTC] - before, hz[rs] ? hz[rs] - 1 : 0, hz[rs] ? hz[rs] + 1 : 0);
    }
    get(g, 0xc);
    unsigned before = g->edges[GSI_RTC];
    g->time.ns += 10 * S; /* ticks that nobody served are one interrupt */
    vclock_run_timers(&g->clock);
    assert_int_equal(g->edges[GSI_RTC], before + 1);
}

static void cmos(void **state)
{
    struct rig *g = *state;
    assert_int_equal(get(g, 0xd), 0x80);
    set(g, 0xd, 0);
    set(g, 0xc, 0xff);
    assert_int_equal(get(g, 0xd), 0x80);
    assert_int_equal(get(g, 0x15) | get(g, 0x16) << 8, 640);
    assert_int_equal(get(g, 0x17) | get(g, 0x18) << 8, 0xffff);
    assert_int_equal((get(g, 0x34) | get(g, 0x35) << 8) * 65536u + (16u << 20), 512u << 20);
    unsigned sum = 0;
    for (u8 i = 0x10; i <= 0x2d; i++)
        sum += get(g, i);
    assert_int_equal(get(g, 0x2e) << 8 | get(g, 0x2f), sum);
    set(g, 0x7f, 0xa5);
    assert_int_equal(get(g, 0xff), 0xa5); /* bit 7 of the index is the NMI mask */
    assert_int_equal(in(g, 0x70), 0xff);
    g->type->reset(g->only);
    assert_int_equal(get(g, 0x7f), 0xa5);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, rig_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(reads_the_wall_clock), T(calendar),
        T(update_in_progress),   T(update_interrupt),
        T(alarm_interrupt),      T(flags_without_interrupts),
        T(periodic_interrupt),   T(cmos),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
