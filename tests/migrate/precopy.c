/*
 * Rounds of pre-copy, with a guest, a link and a clock of our own: bytes take the time that the link needs for them, the guest writes
 * pages by the same clock. What went over is read back and compared with memory, so that nothing that was written is missed.
 */
#include "migrate/precopy.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define NS_PER_S 1000000000ull
#define PAGES    8192ull
#define SET      4096ull /* pages that the guest writes */

struct world {
    struct stream_out out;
    u8 *ram;
    u64 dirty[PAGES / 64]; /* the log */
    u64 ns;
    u64 link;      /* bytes a second */
    u64 writes;    /* bytes a second */
    double owed;   /* pages that the guest has not written yet */
    u64 at, stamp; /* its next page, its next value */
    unsigned throttle, throttled, told;
    u64 limit, spent; /* the channel's */
    u8 *data;
    size_t len, cap, read;
    int fail_at;           /* round that fails; 0: none */
    u64 disk, disk_writes; /* bytes that go beside memory and are to be sent; a second, of what is written to it */
    unsigned disk_sends;
};

/* Time passes, and the guest writes. */
static void pass(struct world *w, u64 ns)
{
    w->ns += ns;
    w->disk += (u64)((double)w->disk_writes * (double)ns / NS_PER_S);
    w->owed += (double)w->writes * (10000 - w->throttle) / 10000 * (double)ns / NS_PER_S / PAGE_SIZE;
    for (; w->owed >= 1; w->owed--, w->at = (w->at * 5 + 1) % SET) { /* goes through all of them */
        u64 stamp = ++w->stamp;
        memcpy(w->ram + w->at * PAGE_SIZE + stamp % 500 * 8, &stamp, sizeof(stamp));
        w->dirty[w->at / 64] |= 1ull << (w->at % 64);
    }
}

static int put(void *ctx, const void *data, size_t len, struct error *e)
{
    struct world *w = ctx;
    if (w->len + len > w->cap) {
        w->cap = (w->len + len) * 2;
        w->data = realloc(w->data, w->cap);
        assert_non_null(w->data);
    }
    memcpy(w->data + w->len, data, len);
    w->len += len;
    u64 rate = w->limit && w->limit < w->link ? w->limit : w->link;
    pass(w, (u64)((double)len * NS_PER_S / (double)rate));
    return 0;
}

static int get(void *ctx, void *buf, size_t len, struct error *e)
{
    struct world *w = ctx;
    if (len > w->len - w->read)
        return error_set(e, EPIPE, "the end");
    memcpy(buf, w->data + w->read, len);
    w->read += len;
    return 0;
}

static int take(void *ctx, u64 *bits, struct error *e)
{
    struct world *w = ctx;
    for (unsigned i = 0; i < PAGES / 64; i++)
        bits[i] |= w->dirty[i];
    memset(w->dirty, 0, sizeof(w->dirty));
    return 0;
}

static int end_round(void *ctx, const struct precopy_status *s, struct error *e)
{
    struct world *w = ctx;
    if (w->fail_at && (int)s->round == w->fail_at)
        return error_set(e, EPIPE, "the link");
    return stream_put_round(&w->out, "{}", e);
}

static u64 now(void *ctx)
{
    return ((struct world *)ctx)->ns;
}

static u64 waited(void *ctx)
{
    return ((struct world *)ctx)->ns; /* all of it */
}

static void limit(void *ctx, u64 rate)
{
    ((struct world *)ctx)->limit = rate;
}

static void tell(void *ctx, const struct precopy_status *s)
{
    ((struct world *)ctx)->told++;
}

static int throttle(void *ctx, unsigned share, struct error *e)
{
    struct world *w = ctx;
    assert_in_range(share, w->throttle + 1, 9999);
    w->throttle = share;
    w->throttled++;
    return 0;
}

static u64 beside(void *ctx)
{
    return ((struct world *)ctx)->disk;
}

/* What is written while it goes is for the next time. */
static int send_beside(void *ctx, struct error *e)
{
    struct world *w = ctx;
    u64 n = w->disk, rate = w->limit && w->limit < w->link ? w->limit : w->link;
    w->disk = 0;
    w->disk_sends++;
    w->out.pages += n;
    pass(w, (u64)((double)n * NS_PER_S / (double)rate));
    return 0;
}

static int answer(void *ctx, const char *text, struct error *e)
{
    return 0;
}

static const struct precopy_ops plain = {.take = take,
                                         .round = end_round,
                                         .now = now,
                                         .waited = waited,
                                         .limit = limit,
                                         .tell = tell},
                                throttling = {.take = take,
                                              .round = end_round,
                                              .now = now,
                                              .waited = waited,
                                              .limit = limit,
                                              .tell = tell,
                                              .throttle = throttle},
                                with_disk = {.take = take,
                                             .round = end_round,
                                             .now = now,
                                             .waited = waited,
                                             .limit = limit,
                                             .tell = tell,
                                             .beside = beside,
                                             .send_beside = send_beside};

static void begin(struct world *w, struct precopy *p, u64 link, u64 writes)
{
    struct error e = {0};
    const struct stream_head h = {.page_size = PAGE_SIZE, .ram_size = PAGES * PAGE_SIZE};
    *w = (struct world){.link = link, .writes = writes, .ram = calloc(PAGES, PAGE_SIZE)};
    w->out = (struct stream_out){.put = put, .ctx = w};
    assert_non_null(w->ram);
    for (u64 i = 0; i < PAGES; i += 2) /* every other page holds something */
        memset(w->ram + i * PAGE_SIZE, (int)(i / 2 % 255) + 1, PAGE_SIZE);
    assert_int_equal(stream_begin(&w->out, &h, &e), 0);
    assert_int_equal(stream_put_config(&w->out, "{}", &e), 0);
    *p = (struct precopy){.ops = &plain,
                          .ctx = w,
                          .out = &w->out,
                          .ram = w->ram,
                          .pages = PAGES,
                          .fd = -1,
                          .downtime = 50000000,
                          .overhead = 4000000};
}

static void end(struct world *w, struct precopy *p)
{
    precopy_free(p);
    stream_out_free(&w->out);
    free(w->ram);
    free(w->data);
}

/* The machine stands still: what is on the other side then is what is here. */
static void compare(struct world *w, struct precopy *p)
{
    struct error e = {0};
    struct stream_in in = {.get = get, .ctx = w, .round = answer};
    struct rec_buf state = {0};
    char *text;
    u8 *there = calloc(PAGES, PAGE_SIZE);
    u64 stopped = w->ns;
    w->writes = 0;
    assert_int_equal(precopy_last(p, &e), 0);
    assert_true(w->ns - stopped <= p->downtime + p->downtime / 4);
    assert_int_equal(rec_save_raw(&state, REC_TYPE('N', 'O', 'N', 'E'), 1, 0, "", 0), 0);
    assert_int_equal(stream_put_state(&w->out, state.data, state.len, &e), 0);
    assert_int_equal(stream_put_end(&w->out, &e), 0);
    rec_buf_free(&state);
    assert_int_equal(stream_open(&in, &e), 0);
    assert_int_equal(stream_get_config(&in, &text, &e), 0);
    if (stream_get_machine(&in, there, &state, &e) < 0)
        fail_msg("%s", e.msg);
    assert_memory_equal(there, w->ram, PAGES * PAGE_SIZE);
    stream_in_free(&in);
    rec_buf_free(&state);
    free(text);
    free(there);
}

/* Guests that write a part of what the link takes: rounds shrink, and nothing is missed. */
static void converges(void **state)
{
    static const struct {
        u64 writes;
        unsigned most;
    } cases[] = {{0, 1}, {1000000, 3}, {40000000, 6}, {80000000, 16}};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct world w;
        struct precopy p;
        struct error e = {0};
        begin(&w, &p, 125000000, cases[i].writes);
        assert_int_equal(precopy_run(&p, &e), 0);
        assert_in_range(p.status.round, 1, cases[i].most);
        assert_true(p.status.expected <= p.downtime && p.status.converges);
        assert_true(w.told);
        compare(&w, &p);
        end(&w, &p);
    }
}

/* Faster than the link: it stays, and the figures are those of guest and link. */
static void does_not(void **state)
{
    struct world w;
    struct precopy p;
    struct error e = {0};
    begin(&w, &p, 50000000, 200000000);
    p.downtime = 20000000;
    assert_int_equal(precopy_run(&p, &e), -ETIMEDOUT);
    assert_non_null(strstr(e.msg, "does not converge"));
    assert_in_range(p.status.bandwidth, 40000000, 50000000);
    assert_true(p.status.dirty_rate > 45000000 && !p.status.converges);
    end(&w, &p);
    begin(&w, &p, 50000000, 200000000);
    p.downtime = 20000000;
    p.stop_anyway = true;
    assert_int_equal(precopy_run(&p, &e), 0);
    p.downtime = NS_PER_S;
    compare(&w, &p);
    end(&w, &p);
}

/* Likewise, but what is left is named: then it stands still for much less than that takes, and with what was named all is there. */
static void names_the_rest(void **state)
{
    struct world w;
    struct precopy p;
    struct error e = {0};
    u64 absent[PAGES / 64] = {0};
    const u64 *named;
    char *text;
    struct rec_buf none = {0};
    u8 *there = calloc(PAGES, PAGE_SIZE);
    begin(&w, &p, 50000000, 200000000);
    p.may_name = true;
    assert_int_equal(precopy_run(&p, &e), 0);
    assert_true(p.names && p.status.round <= 3);
    assert_true(p.status.expected > 4 * p.downtime);
    u64 stopped = w.ns;
    w.writes = 0;
    memset(w.ram + 8 * PAGE_SIZE, 0, PAGE_SIZE); /* written last, and worth no name */
    w.dirty[0] |= 1u << 8;
    memset(w.ram + (PAGES - 1) * PAGE_SIZE, 0x5a, PAGE_SIZE); /* in no round */
    w.dirty[(PAGES - 1) / 64] |= 1ull << 63;
    assert_int_equal(precopy_name(&p, &named, &e), 0);
    assert_true(w.ns - stopped < p.downtime / 10);
    assert_int_equal(stream_put_state(&w.out, "state", 6, &e), 0);
    assert_int_equal(stream_put_end(&w.out, &e), 0);
    struct stream_in in = {.get = get, .ctx = &w, .round = answer, .absent = absent};
    assert_int_equal(stream_open(&in, &e), 0);
    assert_int_equal(stream_get_config(&in, &text, &e), 0);
    assert_int_equal(stream_get_machine(&in, there, &none, &e), 0);
    assert_memory_equal(absent, named, sizeof(absent));
    assert_int_equal(in.n_absent, p.status.left);
    assert_true(p.status.left > SET / 2 && p.status.left <= SET + 1 && !(absent[0] >> 8 & 1));
    for (u64 i = 0; i < PAGES; i++) {
        if (!(absent[i / 64] >> (i % 64) & 1))
            assert_memory_equal(there + i * PAGE_SIZE, w.ram + i * PAGE_SIZE, PAGE_SIZE);
        assert_true(in.sums.sum[i] == page_sum(w.ram + i * PAGE_SIZE));
    }
    stream_in_free(&in);
    rec_buf_free(&none);
    free(text);
    free(there);
    end(&w, &p);
}

/* Who may name what is left does so when there is no other way, or no time. */
static void names_when_it_must(void **state)
{
    struct world w;
    struct precopy p;
    struct error e = {0};
    begin(&w, &p, 125000000, 40000000);
    p.may_name = true;
    assert_int_equal(precopy_run(&p, &e), 0);
    assert_false(p.names);
    compare(&w, &p);
    end(&w, &p);
    begin(&w, &p, 125000000, 80000000);
    p.may_name = true;
    p.max_ns = 1000000;
    assert_int_equal(precopy_run(&p, &e), 0);
    assert_true(p.names && p.status.round == 1);
    end(&w, &p);
}

static void is_slowed_down(void **state)
{
    struct world w;
    struct precopy p;
    struct error e = {0};
    begin(&w, &p, 50000000, 200000000);
    p.ops = &throttling;
    assert_int_equal(precopy_run(&p, &e), 0);
    assert_int_equal(p.status.throttle, w.throttle);
    assert_true(w.throttle >= 2000 && w.throttled >= 2);
    compare(&w, &p);
    end(&w, &p);
    /* one of whose writing a hundredth is more than the link takes */
    begin(&w, &p, 12500000, 2000000000);
    p.ops = &throttling;
    assert_int_equal(precopy_run(&p, &e), 0);
    assert_true(w.throttle > 9900);
    compare(&w, &p);
    end(&w, &p);
    /* one that has no need of it is let alone; time that is over is over */
    begin(&w, &p, 125000000, 20000000);
    p.ops = &throttling;
    assert_int_equal(precopy_run(&p, &e), 0);
    assert_int_equal(w.throttled, 0);
    end(&w, &p);
    begin(&w, &p, 1000000, 900000000);
    p.ops = &throttling;
    p.max_ns = 1000000;
    assert_int_equal(precopy_run(&p, &e), -ETIMEDOUT);
    assert_int_equal(w.throttled, 0);
    end(&w, &p);
}

/* A cap is kept to, but for the last round. */
static void is_limited(void **state)
{
    struct world w;
    struct precopy p;
    struct error e = {0};
    begin(&w, &p, 1000000000, 1000000);
    p.cap = 60000000;
    assert_int_equal(precopy_run(&p, &e), 0);
    assert_in_range(w.limit, 1, p.cap);
    assert_true(p.status.bandwidth <= p.cap);
    compare(&w, &p);
    assert_int_equal(w.limit, p.cap);
    end(&w, &p);
}

/* What goes beside memory goes first, counts in all figures, and can keep it from converging as memory can. */
static void takes_along(void **state)
{
    struct world w;
    struct precopy p;
    struct error e = {0};
    begin(&w, &p, 125000000, 20000000);
    p.ops = &with_disk;
    w.disk = 10 * (u64)125000000;
    w.disk_writes = 30000000;
    assert_int_equal(precopy_run(&p, &e), 0);
    assert_true(w.ns > 10 * NS_PER_S && w.disk_sends == p.status.round + 1);
    assert_true(p.status.left * PAGE_SIZE >= w.disk && p.status.expected <= p.downtime);
    assert_in_range(p.status.dirty_rate, 30000000, 60000000);
    assert_in_range(p.status.bandwidth, 60000000, 125000000);
    w.disk_writes = 0;
    compare(&w, &p);
    assert_int_equal(w.disk, 0);
    end(&w, &p);
    begin(&w, &p, 125000000, 0);
    p.ops = &with_disk;
    w.disk = w.disk_writes = 200000000;
    assert_int_equal(precopy_run(&p, &e), -ETIMEDOUT);
    assert_non_null(strstr(e.msg, "does not converge"));
    assert_true(p.status.dirty_rate > 125000000);
    end(&w, &p);
}

static void fails(void **state)
{
    for (int round = 1; round < 3; round++) {
        struct world w;
        struct precopy p;
        struct error e = {0};
        begin(&w, &p, 125000000, 40000000);
        w.fail_at = round;
        assert_int_equal(precopy_run(&p, &e), -EPIPE);
        assert_string_equal(e.msg, "the link");
        end(&w, &p);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(converges),      cmocka_unit_test(does_not),           cmocka_unit_test(is_slowed_down),
        cmocka_unit_test(is_limited),     cmocka_unit_test(takes_along),        cmocka_unit_test(fails),
        cmocka_unit_test(names_the_rest), cmocka_unit_test(names_when_it_must),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
