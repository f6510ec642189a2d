/* Pages that come over a channel while their machine runs: all of them, the right ones, over as many connections as it takes. */
#include "base/bytes.h"
#include "migrate/message.h"
#include "migrate/paging.h"
#include "migrate/stream.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#include <cmocka.h>

#define PAGES 1500u
#define WORDS ((PAGES + 63) / 64)

struct world {
    u8 *ram, *back; /* at the source, at the target */
    u64 named[WORDS], left[WORDS], absent[WORDS];
    u64 n; /* bits of absent */
    struct page_sums sums;
    struct paging_source source;
    struct paging_target target;
    struct channel *here, *there; /* the source's end, the target's */
    pthread_t thread;
    int result;
    struct error e;
};

static bool is_set(const u64 *bits, u64 i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

/* As mem_put_page does: what is present stays, for the guest has written there since. */
static void put(void *ctx, u64 page, const u8 *content)
{
    struct world *w = ctx;
    assert_true(page < PAGES);
    if (!is_set(w->absent, page))
        return;
    memcpy(w->back + page * PAGE_SIZE, content, PAGE_SIZE);
    w->absent[page / 64] &= ~BIT(page % 64);
    w->n--;
}

static void setup(struct world *w)
{
    struct error e = {0};
    u32 seed = 1;
    *w = (struct world){.ram = calloc(PAGES, PAGE_SIZE), .back = calloc(PAGES, PAGE_SIZE)};
    for (u64 i = 0; i < PAGES; i++) {
        for (u64 k = 0; k < PAGE_SIZE; k += 4)
            put_le32(w->ram + i * PAGE_SIZE + k, seed = seed * 1664525 + 1013904223);
        if (i % 10 != 3) {
            w->named[i / 64] |= BIT(i % 64);
            w->n++;
        }
    }
    memcpy(w->absent, w->named, sizeof(w->absent));
    assert_int_equal(sums_init(&w->sums, PAGES, &e), 0);
    sums_note(&w->sums, 0, PAGES, w->ram);
    w->source = (struct paging_source){.ram = w->ram, .pages = PAGES, .named = w->named, .left = w->left};
    w->target = (struct paging_target){.sums = &w->sums, .put = put, .ctx = w};
}

static void teardown(struct world *w)
{
    sums_free(&w->sums);
    free(w->ram);
    free(w->back);
}

static void *serve(void *arg)
{
    struct world *w = arg;
    w->result = paging_serve(&w->source, w->here, &w->e);
    channel_close(w->here);
    return NULL;
}

static void join_up(struct world *w)
{
    int fd[2];
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    assert_int_equal(channel_adopt(fd[0], "target", &w->here, NULL), 0);
    assert_int_equal(channel_adopt(fd[1], "source", &w->there, NULL), 0);
    w->e = (struct error){0};
    assert_int_equal(pthread_create(&w->thread, NULL, serve, w), 0);
}

/* The target's end goes; what the source made of it. */
static int part(struct world *w)
{
    channel_close(w->there);
    assert_int_equal(pthread_join(w->thread, NULL), 0);
    return w->result;
}

/* How many GIVEs it takes until a page that is absent has come. */
static unsigned await_page(struct world *w, u64 page)
{
    struct error e = {0};
    unsigned n = 0;
    assert_int_equal(paging_want(w->there, &page, 1, &e), 0);
    for (; is_set(w->absent, page); n++)
        assert_int_equal(paging_take(&w->target, w->there, &e), 0);
    return n;
}

/* Three connections that break in the middle, a guest that writes meanwhile, and one that goes to the end. */
static void test_recovery(void **state)
{
    struct world w;
    struct error e = {0};
    u64 wish = 700;
    setup(&w);
    for (unsigned cut = 0; cut < 3; cut++, wish += 100) {
        join_up(&w);
        assert_int_equal(paging_lack(w.there, w.absent, PAGES, &e), 0);
        await_page(&w, wish);
        memset(w.back + wish * PAGE_SIZE, 0xa5, PAGE_SIZE); /* the guest's own by now: never taken back */
        assert_int_equal(part(&w) < 0, 1);
        assert_true(w.e.code && w.n);
    }
    join_up(&w);
    assert_int_equal(paging_lack(w.there, w.absent, PAGES, &e), 0);
    while (w.n)
        assert_int_equal(paging_take(&w.target, w.there, &e), 0);
    assert_int_equal(paging_full(w.there, &e), 0);
    assert_int_equal(pthread_join(w.thread, NULL), 0);
    assert_int_equal(w.result, 0);
    channel_close(w.there);
    assert_true(w.source.wished >= 1 && w.source.sent >= w.target.taken);
    for (u64 i = 0; i < PAGES; i++) {
        const u8 *p = w.back + i * PAGE_SIZE;
        if (i == 700 || i == 800 || i == 900)
            assert_true(p[0] == 0xa5 && p[PAGE_SIZE - 1] == 0xa5);
        else if (is_set(w.named, i))
            assert_memory_equal(p, w.ram + i * PAGE_SIZE, PAGE_SIZE);
        else
            assert_true(page_is_zero(p));
    }
    teardown(&w);
}

/* All that is left may have become worth nothing (the guest was reset): FULL before all has been sent is an end, too. */
static void test_full_early(void **state)
{
    struct world w;
    struct error e = {0};
    setup(&w);
    join_up(&w);
    assert_int_equal(paging_lack(w.there, w.absent, PAGES, &e), 0);
    assert_int_equal(paging_take(&w.target, w.there, &e), 0);
    assert_int_equal(paging_full(w.there, &e), 0);
    while (paging_take(&w.target, w.there, &(struct error){0}) == 0 && w.n)
        ; /* what was on its way */
    assert_int_equal(part(&w), 0);
    teardown(&w);
}

/* --- hostile peers --- */

/* What the source makes of a message of the target. */
static void refuse_there(const char *type, const void *payload, size_t len, bool begun)
{
    struct world w;
    struct error e = {0};
    u64 none[WORDS] = {0};
    setup(&w);
    join_up(&w);
    if (begun)
        assert_int_equal(paging_lack(w.there, none, PAGES, &e), 0);
    message_send(w.there, type, payload, len, &e);
    channel_flush(w.there, &e);
    assert_int_equal(pthread_join(w.thread, NULL), 0); /* without its end having gone */
    assert_true(w.result < 0 && w.e.code == -w.result && w.e.msg[0]);
    assert_int_not_equal(w.result, -ETIMEDOUT); /* refused, not waited out */
    assert_int_equal(w.source.sent, 0);
    channel_close(w.there);
    teardown(&w);
}

static void test_hostile_target(void **state)
{
    u64 map[WORDS + 1] = {0}, wishes[PREPAGE_WISHES + 1] = {0};
    refuse_there("LACK", map, 0, false);
    refuse_there("LACK", map, sizeof(map) - 16, false);
    refuse_there("LACK", map, sizeof(map), false);
    map[0] = BIT(3); /* it has that: the source's is old */
    refuse_there("LACK", map, WORDS * 8, false);
    map[0] = 0;
    map[WORDS - 1] = BIT(63); /* beyond the memory */
    refuse_there("LACK", map, WORDS * 8, false);
    refuse_there("WANT", wishes, 8, false);
    refuse_there("FULL", NULL, 0, false);
    refuse_there("LACK", map, WORDS * 8, true);
    refuse_there("WANT", wishes, 0, true);
    refuse_there("WANT", wishes, 7, true);
    refuse_there("WANT", wishes, sizeof(wishes), true);
    refuse_there("FULL", wishes, 8, true);
    wishes[1] = PAGES;
    refuse_there("WANT", wishes, 16, true);
    wishes[1] = UINT64_MAX;
    refuse_there("WANT", wishes, 16, true);
}

/* What the target makes of pages: `len` bytes behind the head. */
static void refuse_here(u64 first, u32 n, u32 zero, size_t len, const u8 *pages)
{
    struct world w;
    struct error e = {0};
    int fd[2];
    u8 *p = calloc(1, 16 + len);
    setup(&w);
    assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, fd), 0);
    assert_int_equal(channel_adopt(fd[0], "target", &w.here, NULL), 0);
    assert_int_equal(channel_adopt(fd[1], "source", &w.there, NULL), 0);
    put_le64(p, first);
    put_le32(p + 8, n);
    put_le32(p + 12, zero);
    memcpy(p + 16, pages ? pages : w.ram, len);
    assert_int_equal(message_send(w.here, "GIVE", p, 16 + len, &e), 0);
    assert_int_equal(channel_flush(w.here, &e), 0);
    u64 before = w.n;
    assert_true(paging_take(&w.target, w.there, &e) < 0 && e.msg[0]);
    assert_true(w.n == before && !w.target.taken);
    channel_close(w.here);
    channel_close(w.there);
    teardown(&w);
    free(p);
}

static void test_hostile_source(void **state)
{
    static const u8 zeros[2 * PAGE_SIZE];
    refuse_here(0, 0, 0, 0, NULL);
    refuse_here(0, 0, 0, PAGE_SIZE, NULL);
    refuse_here(0, 1, 1, PAGE_SIZE, NULL);
    refuse_here(0, 2, 0, PAGE_SIZE, NULL);
    refuse_here(0, 1, 0, 2 * PAGE_SIZE, NULL);
    refuse_here(0, 1, 0, PAGE_SIZE - 1, NULL);
    refuse_here(PAGES, 1, 0, PAGE_SIZE, NULL);
    refuse_here(PAGES - 1, 2, 0, 2 * PAGE_SIZE, NULL);
    refuse_here(UINT64_MAX, 2, 0, 2 * PAGE_SIZE, NULL);
    refuse_here(0, 1u << 20, 0, 0, NULL);  /* times a page's size it is nothing */
    refuse_here(1, 1, 0, PAGE_SIZE, NULL); /* another page's content */
    refuse_here(0, 2, 0, 2 * PAGE_SIZE, zeros);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_recovery), cmocka_unit_test(test_full_early),
                                       cmocka_unit_test(test_hostile_target), cmocka_unit_test(test_hostile_source)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
