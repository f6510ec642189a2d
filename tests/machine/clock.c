/* The machine's clock: offsets, conversions, timers, pause, record. */
#include "fake_machine.h"

#include <setjmp.h>
#include <string.h>
#include <stdarg.h>
#include <cmocka.h>

struct shot {
    struct vclock *clock;
    struct vtimer timer;
    unsigned fired;
    u64 at;
    u64 again; /* re-arm for this deadline */
};

static void shoot(void *ctx)
{
    struct shot *s = ctx;
    s->fired++;
    s->at = vclock_ns(s->clock);
    if (s->again)
        vtimer_set(s->clock, &s->timer, s->again);
}

static void starts_at_zero(void **state)
{
    struct fake_time t = {123456789};
    struct vclock k;
    fake_clock_init(&k, &t);
    assert_int_equal(vclock_ns(&k), 0);
    assert_int_equal(vclock_tsc(&k), 0);
    assert_int_equal(vclock_wall_ns(&k), FAKE_WALL_NS);
    t.ns += 1000;
    assert_int_equal(vclock_ns(&k), 1000);
    assert_in_range(vclock_tsc(&k), 2499, 2501); /* the fake TSC rounds */
    assert_int_equal(vclock_wall_ns(&k), FAKE_WALL_NS + 1000);
}

static void conversions_are_exact(void **state)
{
    struct fake_time t = {0};
    struct vclock k;
    fake_clock_init(&k, &t);
    k.tsc_hz = 2399999987ull;
    const u64 century = 100ull * 365 * 86400 * 1000000000ull;
    for (u64 ns = 1; ns < century; ns = ns * 3 + 7) {
        u64 back = vclock_tsc_to_ns(&k, vclock_ns_to_tsc(&k, ns));
        assert_true(back == ns || back + 1 == ns);
    }
    assert_true(vclock_ns_to_tsc(&k, UINT64_MAX) == UINT64_MAX);
    assert_true(vclock_tsc_deadline(&k, 0, UINT64_MAX) < UINT64_MAX);
    assert_int_equal(vclock_tsc_deadline(&k, 500, 400), 0);
}

static void timers_fire_in_order_and_once(void **state)
{
    struct fake_time t = {50};
    struct vclock k;
    struct shot a = {.clock = &k}, b = {.clock = &k};
    fake_clock_init(&k, &t);
    vtimer_init(&k, &a.timer, shoot, &a);
    vtimer_init(&k, &b.timer, shoot, &b);
    assert_true(k.earliest == UINT64_MAX);
    vtimer_set(&k, &a.timer, 1000);
    vtimer_set(&k, &b.timer, 500);
    assert_int_equal(k.earliest, 500);
    assert_int_equal(vclock_run_timers(&k), 500);
    assert_int_equal(a.fired + b.fired, 0);
    t.ns += 600;
    assert_int_equal(vclock_run_timers(&k), 1000);
    assert_int_equal(b.fired, 1);
    assert_int_equal(b.at, 600);
    vtimer_stop(&k, &a.timer);
    assert_true(k.earliest == UINT64_MAX);
    t.ns += 10000;
    vclock_run_timers(&k);
    assert_int_equal(a.fired, 0);
    vtimer_remove(&k, &a.timer);
    vtimer_remove(&k, &b.timer);
    assert_null(k.timers);
}

/* A timer that asks for the past again and again is served once a call, so that the machine's loop goes on. */
static void hostile_timer_does_not_hang(void **state)
{
    struct fake_time t = {0};
    struct vclock k;
    struct shot a = {.clock = &k, .again = 1};
    fake_clock_init(&k, &t);
    vtimer_init(&k, &a.timer, shoot, &a);
    vtimer_set(&k, &a.timer, 1);
    t.ns = 100;
    vclock_run_timers(&k);
    assert_int_equal(a.fired, 1);
    vclock_run_timers(&k);
    assert_int_equal(a.fired, 2);
}

static void paused_time_does_not_count(void **state)
{
    struct fake_time t = {0};
    struct vclock k;
    struct shot a = {.clock = &k};
    fake_clock_init(&k, &t);
    vtimer_init(&k, &a.timer, shoot, &a);
    vtimer_set(&k, &a.timer, 2000);
    t.ns = 1000;
    vclock_pause(&k);
    t.ns = 500000;
    assert_int_equal(vclock_ns(&k), 1000);
    assert_int_equal(vclock_tsc(&k), 2500);
    vclock_run_timers(&k);
    assert_int_equal(a.fired, 0);
    vclock_resume(&k);
    assert_int_equal(vclock_ns(&k), 1000);
    assert_int_equal(vclock_tsc(&k), 2500);
    assert_int_equal(vclock_wall_ns(&k), FAKE_WALL_NS + 500000);
    t.ns += 1000;
    vclock_run_timers(&k);
    assert_int_equal(a.fired, 1);
}

static int save_and_load(struct vclock *from, struct vclock *to, struct error *e)
{
    struct rec_buf b = {0};
    struct rec_view v;
    size_t pos = 0;
    vclock_save_prepare(from);
    assert_int_equal(rec_save(&b, &vclock_record, 0, from), 0);
    assert_int_equal(rec_next(b.data, b.len, &pos, &v, e), 1);
    int r = rec_load(&v, &vclock_record, to, e);
    rec_buf_free(&b);
    return r;
}

static void record_continues_at_the_instant(void **state)
{
    struct fake_time t = {77}, t2 = {999999};
    struct vclock k, k2;
    struct error e = {0};
    fake_clock_init(&k, &t);
    t.ns += 123456;
    fake_clock_init(&k2, &t2);
    t2.ns += 5;
    assert_int_equal(save_and_load(&k, &k2, &e), 0);
    assert_int_equal(vclock_ns(&k2), 123456);
    assert_int_equal(vclock_tsc(&k2), vclock_tsc(&k));
    assert_int_equal(vclock_wall_ns(&k2), FAKE_WALL_NS + 5);
    t2.ns += 10;
    assert_int_equal(vclock_ns(&k2), 123466);
}

static void record_of_another_rate_is_refused(void **state)
{
    struct fake_time t = {0};
    struct vclock k, k2;
    struct error e = {0};
    fake_clock_init(&k, &t);
    fake_clock_init(&k2, &t);
    k2.tsc_hz = 3000000000ull;
    t.ns = 1000;
    assert_true(save_and_load(&k, &k2, &e) < 0);
    assert_non_null(strstr(e.msg, "scaling"));
    assert_int_equal(vclock_ns(&k2), 1000);
}

/* A TSC that is not what its rate says, and time that is slewed. */
struct drifting {
    u64 ns, tsc;
};

static u64 drifting_ns(void *ctx)
{
    return ((struct drifting *)ctx)->ns;
}

static u64 drifting_tsc(void *ctx)
{
    return ((struct drifting *)ctx)->tsc;
}

static void the_line_never_goes_back(void **state)
{
    static const s64 ppm[] = {0, 1, -1, 30, -30, 450, -450};
    for (size_t i = 0; i < ARRAY_LEN(ppm); i++) {
        struct drifting d = {1000, 77};
        struct vclock k;
        vclock_init(&k, drifting_ns, drifting_tsc, &d, FAKE_TSC_HZ, 0);
        for (unsigned n = 0; n < 1000; n++) {
            u64 step = 1000000000 + n * 977 % 5000;
            d.ns += step;
            d.tsc += step * 5 / 2 + (u64)((s64)(step * 5 / 2) / 1000000 * ppm[i]);
            struct vclock_line old = *vclock_line(&k);
            u64 tsc = vclock_tsc(&k), before = vclock_line_ns(&old, tsc);
            vclock_line_steer(&k);
            assert_true(vclock_line_ns(&k.line, tsc) == before);
            assert_true(vclock_line_ns(&k.line, tsc + 1000) >= vclock_line_ns(&old, tsc));
            if (n > 10) /* it follows, a step late */
                assert_in_range(before - vclock_ns(&k) + 1000000, 500000, 1500000);
        }
    }
}

static void the_line_is_set_forward(void **state)
{
    struct drifting d = {0, 0};
    struct vclock k;
    vclock_init(&k, drifting_ns, drifting_tsc, &d, FAKE_TSC_HZ, 0);
    vclock_line(&k);
    d.ns = 60000000000; /* a minute without ticks */
    vclock_line_steer(&k);
    assert_int_equal(vclock_line_ns(&k.line, vclock_tsc(&k)), 60000000000);
    d.tsc = 50 * FAKE_TSC_HZ; /* and ticks without time: it waits, slowly */
    u64 at = vclock_line_ns(&k.line, vclock_tsc(&k));
    vclock_line_steer(&k);
    assert_true(vclock_line_ns(&k.line, vclock_tsc(&k)) == at);
    vclock_pause(&k);
    at = vclock_line_ns(&k.line, vclock_tsc(&k));
    d.ns += 1000000000, d.tsc += 3000000000;
    vclock_resume(&k);
    assert_true(vclock_line_ns(&k.line, vclock_tsc(&k)) == at);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(starts_at_zero),
        cmocka_unit_test(conversions_are_exact),
        cmocka_unit_test(timers_fire_in_order_and_once),
        cmocka_unit_test(hostile_timer_does_not_hang),
        cmocka_unit_test(paused_time_does_not_count),
        cmocka_unit_test(the_line_never_goes_back),
        cmocka_unit_test(the_line_is_set_forward),
        cmocka_unit_test(record_continues_at_the_instant),
        cmocka_unit_test(record_of_another_rate_is_refused),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
