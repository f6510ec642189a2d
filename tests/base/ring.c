/* Rings: order, wrap-around, starvation, and a peer that writes nonsense into every word it can reach. */
#include "base/ring.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <pthread.h>
#include <sched.h>
#include <errno.h>
#include <cmocka.h>

#define GUARD 256u

/* A ring between two walls whose bytes must stay as they are. */
struct box {
    u8 wall_a[GUARD];
    struct ring_shared shared;
    u8 wall_b[GUARD];
    u8 data[4096];
    u8 wall_c[GUARD];
};

static u64 next_random(u64 *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s;
}

static struct box *box_new(void)
{
    struct box *b = aligned_alloc(64, (sizeof(*b) + 63) & ~63ul);
    assert_non_null(b);
    memset(b, 0xa5, sizeof(*b));
    memset(&b->shared, 0, sizeof(b->shared));
    return b;
}

static void assert_walls(const struct box *b)
{
    for (u32 i = 0; i < GUARD; i++)
        if (b->wall_a[i] != 0xa5 || b->wall_b[i] != 0xa5 || b->wall_c[i] != 0xa5)
            fail_msg("byte %u beside the ring was written", i);
}

static void attach_refuses(void **state)
{
    struct box *b = box_new();
    struct ring r;
    assert_int_equal(ring_attach(&r, &b->shared, b->data, 0, 1), -EINVAL);
    assert_int_equal(ring_attach(&r, &b->shared, b->data, 1000, 1), -EINVAL);
    assert_int_equal(ring_attach(&r, &b->shared, b->data, 32, RING_RECORD), -EINVAL);
    assert_int_equal(ring_attach(&r, &b->shared, b->data, 4096, 3), -EINVAL);
    assert_int_equal(ring_attach(&r, &b->shared, b->data, 4096, RING_RECORD), 0);
    free(b);
}

static void bytes_in_order(void **state)
{
    struct box *b = box_new();
    struct ring out, in;
    u64 seed = 0x1234567;
    u8 buf[700], sent = 0, seen = 0;
    assert_int_equal(ring_attach(&out, &b->shared, b->data, 512, 1), 0);
    assert_int_equal(ring_attach(&in, &b->shared, b->data, 512, 1), 0);
    out.mine = in.mine = b->shared.head = b->shared.tail = 0xffffff00u; /* the indices wrap early */
    for (int turn = 0; turn < 20000; turn++) {
        size_t len = next_random(&seed) % sizeof(buf);
        for (size_t i = 0; i < len; i++)
            buf[i] = (u8)(sent + i);
        s64 n = ring_write(&out, buf, len);
        assert_true(n >= 0 && (u64)n <= len);
        sent = (u8)(sent + n);
        assert_int_equal(ring_used(&in) + ring_room(&out), 512);
        n = ring_read(&in, buf, next_random(&seed) % sizeof(buf));
        for (s64 i = 0; i < n; i++)
            assert_int_equal(buf[i], seen++);
    }
    assert_walls(b);
    free(b);
}

static void records_are_whole(void **state)
{
    struct box *b = box_new();
    struct ring out, in;
    u8 rec[128] = {1};
    assert_int_equal(ring_attach(&out, &b->shared, b->data, 256, RING_RECORD), 0);
    assert_int_equal(ring_attach(&in, &b->shared, b->data, 256, RING_RECORD), 0);
    for (int i = 0; i < 4; i++)
        assert_int_equal(ring_write(&out, rec, 64), 64);
    assert_false(ring_take_starved(&in));
    assert_int_equal(ring_write(&out, rec, 64), 0);
    assert_true(ring_take_starved(&in));
    assert_false(ring_take_starved(&in));
    assert_int_equal(ring_read(&in, rec, 63), 0);
    assert_int_equal(ring_read(&in, rec, 100), 64);
    assert_int_equal(ring_read(&in, rec, 128), 128);
    assert_int_equal(ring_used(&in), 64);
    free(b);
}

static void lies_are_found(void **state)
{
    struct box *b = box_new();
    struct ring r;
    u8 buf[128];
    assert_int_equal(ring_attach(&r, &b->shared, b->data, 256, RING_RECORD), 0);
    b->shared.head = 320; /* more than fits */
    assert_int_equal(ring_read(&r, buf, 64), -EPROTO);
    b->shared.head = 64; /* an honest word later does not help */
    assert_int_equal(ring_read(&r, buf, 64), -EPROTO);
    assert_int_equal(ring_attach(&r, &b->shared, b->data, 256, RING_RECORD), 0);
    b->shared.head = 65; /* no whole record */
    assert_int_equal(ring_used(&r), -EPROTO);
    assert_int_equal(ring_attach(&r, &b->shared, b->data, 256, 1), 0);
    b->shared.tail = 1; /* the consumer took what was never there */
    assert_int_equal(ring_write(&r, buf, 1), -EPROTO);
    free(b);
}

/* The peer writes random words at random moments; own index, walls and results stay sane. */
static void random_lies(void **state)
{
    struct box *b = box_new();
    u64 seed = 0xfeedbeef;
    u8 buf[1024];
    for (int round = 0; round < 2000; round++) {
        struct ring r;
        u32 unit = round & 1 ? 1 : RING_RECORD;
        memset(&b->shared, 0, sizeof(b->shared));
        assert_int_equal(ring_attach(&r, &b->shared, b->data, 256u << (round % 5), unit), 0);
        for (int turn = 0; turn < 50; turn++) {
            u64 x = next_random(&seed);
            u32 lie = (u32)(x >> 32) & (x & 64 ? 0xffffffffu : 0x3ff);
            *(x & 1 ? &b->shared.head : &b->shared.tail) = x & 2 ? lie : r.mine + lie;
            b->shared.starved = (u32)x;
            s64 n = x & 4 ? ring_read(&r, buf, x >> 40 & 0x3ff) : ring_write(&r, buf, x >> 40 & 0x3ff);
            if (n != -EPROTO && (n < 0 || n > 0x3ff || n % unit))
                fail_msg("round %d turn %d: %lld", round, turn, (long long)n);
            ring_take_starved(&r);
        }
        assert_walls(b);
    }
    free(b);
}

#define STREAM (4u << 20)

struct pair {
    struct ring out, in;
};

static void *produce(void *arg)
{
    struct pair *p = arg;
    u8 buf[300];
    u32 sent = 0;
    while (sent < STREAM) {
        u32 n = MIN((u32)sizeof(buf), STREAM - sent);
        for (u32 i = 0; i < n; i++)
            buf[i] = (u8)((sent + i) * 2654435761u >> 24);
        s64 w = ring_write(&p->out, buf, n);
        if (w < 0)
            return (void *)1;
        if (!w)
            sched_yield();
        sent += (u32)w;
    }
    return NULL;
}

static void two_threads(void **state)
{
    struct box *b = box_new();
    struct pair p;
    pthread_t t;
    u8 buf[500];
    void *result;
    assert_int_equal(ring_attach(&p.out, &b->shared, b->data, 4096, 1), 0);
    assert_int_equal(ring_attach(&p.in, &b->shared, b->data, 4096, 1), 0);
    assert_int_equal(pthread_create(&t, NULL, produce, &p), 0);
    for (u32 got = 0; got < STREAM;) {
        s64 n = ring_read(&p.in, buf, sizeof(buf));
        assert_true(n >= 0);
        for (s64 i = 0; i < n; i++)
            if (buf[i] != (u8)((got + (u32)i) * 2654435761u >> 24))
                fail_msg("byte %u is wrong", got + (u32)i);
        got += (u32)n;
        if (!n)
            sched_yield();
    }
    pthread_join(t, &result);
    assert_null(result);
    free(b);
}

static void doors(void **state)
{
    struct ring_door d = {0};
    assert_false(ring_door_knock(&d));
    ring_door_close(&d);
    assert_true(ring_door_knock(&d));
    assert_false(ring_door_knock(&d)); /* woken once */
    ring_door_close(&d);
    ring_door_open(&d);
    assert_false(ring_door_knock(&d));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(attach_refuses), cmocka_unit_test(bytes_in_order), cmocka_unit_test(records_are_whole),
        cmocka_unit_test(lies_are_found), cmocka_unit_test(random_lies),    cmocka_unit_test(two_threads),
        cmocka_unit_test(doors),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
