/* Post-copy's parts: a stream that names pages instead of having them, and the order in which they come later. */
#include "base/bytes.h"
#include "migrate/prepage.h"
#include "migrate/stream.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define STATE "records of a machine"
#define PAGES 20000u /* more than one ABSN record names */
#define WORDS ((PAGES + 63) / 64)

/* --- the stream --- */

struct bytes {
    u8 *data;
    size_t len, at, cap;
};

static int put(void *ctx, const void *data, size_t len, struct error *e)
{
    struct bytes *b = ctx;
    if (b->len + len > b->cap) {
        b->cap = (b->len + len) * 2;
        b->data = realloc(b->data, b->cap);
        assert_non_null(b->data);
    }
    memcpy(b->data + b->len, data, len);
    b->len += len;
    return 0;
}

static int get(void *ctx, void *buf, size_t len, struct error *e)
{
    struct bytes *b = ctx;
    if (b->len - b->at < len)
        return error_set(e, EBADMSG, "it is cut short");
    memcpy(buf, b->data + b->at, len);
    b->at += len;
    return 0;
}

static u32 next_random(u32 *seed)
{
    return (*seed = *seed * 1664525 + 1013904223) >> 8;
}

static void fill(u8 *ram, u64 page, u32 seed)
{
    for (u64 i = 0; i < PAGE_SIZE; i += 4)
        put_le32(ram + page * PAGE_SIZE + i, next_random(&seed));
}

static bool is_set(const u64 *bits, u64 i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

static void set(u64 *bits, u64 i)
{
    bits[i / 64] |= BIT(i % 64);
}

static void begin(struct stream_out *o, struct bytes *b, u64 pages)
{
    struct error e = {0};
    const struct stream_head h = {.page_size = PAGE_SIZE, .ram_size = pages * PAGE_SIZE};
    *o = (struct stream_out){.put = put, .ctx = b};
    assert_int_equal(stream_begin(o, &h, &e), 0);
    assert_int_equal(stream_put_config(o, "{}", &e), 0);
}

static void end(struct stream_out *o)
{
    struct error e = {0};
    assert_int_equal(stream_put_state(o, STATE, sizeof(STATE), &e), 0);
    assert_int_equal(stream_put_end(o, &e), 0);
    stream_out_free(o);
}

/* 0 or -errno; `absent` may be NULL. The sums are left in *s. */
static int read_machine(const struct bytes *b, struct stream_in *s, u8 *ram, u64 *absent)
{
    struct bytes copy = {.data = b->data, .len = b->len};
    struct error e = {0};
    struct rec_buf state = {0};
    char *config = NULL;
    *s = (struct stream_in){.get = get, .ctx = &copy};
    int r = stream_open(s, &e);
    if (r == 0)
        r = stream_get_config(s, &config, &e);
    s->absent = absent;
    if (r == 0)
        r = stream_get_machine(s, ram, &state, &e);
    assert_true(r == 0 || e.code);
    free(config);
    rec_buf_free(&state);
    return r;
}

/* A memory that went over once, was written again here and there, and is named the second time: all is known of it, and its digest. */
static void test_absent(void **state)
{
    u8 *ram = calloc(PAGES, PAGE_SIZE), *back = calloc(PAGES, PAGE_SIZE);
    u64 *bits = calloc(WORDS, 8), *absent = calloc(WORDS, 8), named = 0, count = 0;
    struct bytes b = {0};
    struct stream_out o;
    struct stream_in s;
    struct error e = {0};
    for (u64 i = 0; i < PAGES; i += 3)
        fill(ram, i, (u32)i);
    begin(&o, &b, PAGES);
    assert_int_equal(stream_put_memory(&o, ram, (u64)PAGES * PAGE_SIZE, -1, &e), 0);
    for (u64 i = 100; i < PAGES - 100; i++) { /* a run that has no end in one record, zeros in it, and single pages */
        if (i > 12000 && i % 5)
            continue;
        fill(ram, i, (u32)(i + PAGES));
        if (i % 1000 == 0)
            memset(ram + i * PAGE_SIZE, 0, PAGE_SIZE);
        set(bits, i);
    }
    assert_int_equal(stream_put_absent(&o, ram, bits, 0, PAGES, &named, &e), 0);
    end(&o);
    assert_int_equal(read_machine(&b, &s, back, absent), 0);
    assert_memory_equal(bits, absent, WORDS * 8);
    for (u64 i = 0; i < PAGES; i++) {
        count += is_set(bits, i);
        assert_true(s.sums.sum[i] == page_sum(ram + i * PAGE_SIZE));
        if (!is_set(absent, i))
            assert_memory_equal(ram + i * PAGE_SIZE, back + i * PAGE_SIZE, PAGE_SIZE);
    }
    assert_true(count > 12000);
    assert_int_equal(named, count);
    assert_int_equal(s.n_absent, count);
    assert_false(is_set(absent, 1000));
    stream_in_free(&s);
    assert_true(read_machine(&b, &s, back, NULL) < 0); /* who wants all of it gets no part */
    stream_in_free(&s);
    free(b.data);
    free(ram);
    free(back);
    free(bits);
    free(absent);
}

/* What is sent or is zero after it was named is there. */
static void test_present_again(void **state)
{
    u8 *ram = calloc(6, PAGE_SIZE), *back = calloc(6, PAGE_SIZE);
    u64 bits = 0x3f, absent = 0, named = 0, one;
    struct bytes b = {0};
    struct stream_out o;
    struct stream_in s;
    struct error e = {0};
    for (u64 i = 0; i < 6; i++)
        fill(ram, i, (u32)i + 1);
    begin(&o, &b, 6);
    assert_int_equal(stream_put_dirty(&o, ram, &bits, 0, 6, &e), 0); /* what an earlier round left there */
    fill(ram, 1, 77);
    assert_int_equal(stream_put_absent(&o, ram, &bits, 0, 6, &named, &e), 0);
    assert_int_equal(stream_put_absent(&o, ram, &bits, 2, 4, &named, &e), 0); /* twice */
    memset(ram + 2 * PAGE_SIZE, 0, PAGE_SIZE);
    one = BIT(1) | BIT(2);
    assert_int_equal(stream_put_dirty(&o, ram, &one, 0, 6, &e), 0);
    end(&o);
    assert_int_equal(read_machine(&b, &s, back, &absent), 0);
    assert_int_equal(absent, 0x39);
    assert_int_equal(s.n_absent, 4);
    assert_memory_equal(ram + PAGE_SIZE, back + PAGE_SIZE, 2 * PAGE_SIZE);
    stream_in_free(&s);
    free(b.data);
    free(ram);
    free(back);
}

/* One record with a right checksum, of a memory of 6 pages, and the map of 64 bits that must not grow. */
static void refuse(u64 first, u32 n, u32 zero, u32 sums, u64 sum)
{
    u32 len = 16 + 8 * sums;
    u8 header[REC_HEADER], *p = calloc(1, len), *back = calloc(6, PAGE_SIZE);
    u64 absent[3] = {0x5aULL << 56, 0, 0x5aULL << 56};
    struct bytes b = {0};
    struct stream_out o;
    struct stream_in s;
    put_le64(p, first);
    put_le32(p + 8, n);
    put_le32(p + 12, zero);
    for (u32 i = 0; i < sums; i++)
        put_le64(p + 16 + 8 * i, sum);
    begin(&o, &b, 6);
    rec_put_header(header, REC_TYPE('A', 'B', 'S', 'N'), 1, 0, p, len);
    put(&b, header, sizeof(header), NULL);
    put(&b, p, len, NULL);
    o.records++;
    sums_note(&o.sums, 0, 6, NULL);
    end(&o);
    assert_true(read_machine(&b, &s, back, &absent[1]) < 0);
    assert_true(absent[0] == 0x5aULL << 56 && !absent[1] && absent[2] == 0x5aULL << 56);
    stream_in_free(&s);
    free(b.data);
    free(back);
    free(p);
}

static void test_hostile(void **state)
{
    const u8 zeros[PAGE_SIZE] = {0};
    refuse(6, 1, 0, 1, 1);
    refuse(5, 2, 0, 2, 1);
    refuse(UINT64_MAX, 1, 0, 1, 1);
    refuse(UINT64_MAX, 2, 0, 2, 1);
    refuse(0, 0, 0, 0, 1);
    refuse(0, 0, 0, 1, 1);
    refuse(0, 2, 0, 1, 1);
    refuse(0, 1, 0, 2, 1);
    refuse(0, 1, 1, 1, 1);
    refuse(0, 8193, 0, 8193, 1);
    refuse(0, 1u << 29, 0, 0, 1); /* times 8 it is nothing */
    refuse(0, UINT32_MAX, 0, 1, 1);
    refuse(0, 1, 0, 1, page_sum(zeros));
}

/* A sum that is not that of the page at the source: the digest tells. */
static void test_other_sum(void **state)
{
    u8 *ram = calloc(6, PAGE_SIZE), *back = calloc(6, PAGE_SIZE);
    u64 bits = BIT(3), named = 0, absent = 0;
    struct bytes b = {0};
    struct stream_out o;
    struct stream_in s;
    struct error e = {0};
    fill(ram, 3, 3);
    begin(&o, &b, 6);
    assert_int_equal(stream_put_absent(&o, ram, &bits, 0, 6, &named, &e), 0);
    o.sums.sum[3]++;
    end(&o);
    assert_true(read_machine(&b, &s, back, &absent) < 0);
    stream_in_free(&s);
    free(b.data);
    free(ram);
    free(back);
}

/* --- the order --- */

static void test_bubble(void **state)
{
    u64 left[4] = {~0ull, ~0ull, ~0ull, ~0ull}, at;
    struct prepage p;
    struct error e = {0};
    prepage_init(&p, left, 200);
    assert_int_equal(p.n, 200);
    assert_int_equal(left[3], 0xff);
    assert_int_equal(prepage_next(&p, &at, 4), 4);
    assert_int_equal(at, 0);
    assert_int_equal(prepage_want(&p, 100, &e), 0);
    assert_int_equal(prepage_want(&p, 100, &e), 0);
    assert_int_equal(prepage_want(&p, 50, &e), 0);
    assert_int_equal(prepage_want(&p, 2, &e), 0); /* gone already: neither sent nor looked around */
    static const struct {
        u64 at;
        u32 n;
    } order[] = {{100, 1}, {50, 1}, {46, 4}, {51, 4}, {42, 4}, {55, 4}};
    for (unsigned i = 0; i < ARRAY_LEN(order); i++) {
        assert_int_equal(prepage_next(&p, &at, 4), order[i].n);
        assert_int_equal(at, order[i].at);
    }
    assert_int_equal(prepage_want(&p, 200, &e), -ERANGE);
    assert_int_equal(prepage_want(&p, UINT64_MAX, &e), -ERANGE);
}

/* Whatever is wished for, each page comes once, a wish before all that is none, and then nothing. */
static void test_each_once(void **state)
{
    u32 seed = 5;
    for (unsigned round = 0; round < 200; round++) {
        u64 pages = 1 + next_random(&seed) % 700, left[11] = {0}, want[11], got[11] = {0}, at, n = 0;
        struct prepage p;
        struct error e = {0};
        for (u64 i = 0; i < pages; i++)
            if (next_random(&seed) % 4)
                set(left, i);
        memcpy(want, left, sizeof(want));
        prepage_init(&p, left, pages);
        for (u32 k; p.n; n++) {
            u64 wish = next_random(&seed) % pages;
            bool wished = next_random(&seed) % 3 == 0 && is_set(left, wish) && !p.wishes;
            if (wished)
                assert_int_equal(prepage_want(&p, wish, &e), 0);
            assert_true((k = prepage_next(&p, &at, 1 + next_random(&seed) % 64)) > 0);
            if (wished)
                assert_true(at == wish && k == 1);
            for (u64 i = at; i < at + k; i++) {
                assert_true(i < pages && is_set(want, i) && !is_set(got, i));
                set(got, i);
            }
            assert_true(n < pages);
        }
        assert_memory_equal(got, want, sizeof(got));
        assert_int_equal(prepage_next(&p, &at, 64), 0);
    }
}

/* More wishes than there is room for: those that fit come in their order, and all come. */
static void test_many_wishes(void **state)
{
    u64 left[64], at;
    struct prepage p;
    struct error e = {0};
    memset(left, 0xff, sizeof(left));
    prepage_init(&p, left, 4096);
    for (u64 i = 0; i < 4096; i++)
        assert_int_equal(prepage_want(&p, 4095 - i, &e), 0);
    for (u64 i = 0; i < PREPAGE_WISHES; i++) {
        assert_int_equal(prepage_next(&p, &at, 64), 1);
        assert_int_equal(at, 4095 - i);
    }
    while (prepage_next(&p, &at, 64))
        ;
    assert_int_equal(p.n, 0);
    for (unsigned i = 0; i < 64; i++)
        assert_int_equal(left[i], 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_absent),      cmocka_unit_test(test_present_again), cmocka_unit_test(test_hostile),
        cmocka_unit_test(test_other_sum),   cmocka_unit_test(test_bubble),        cmocka_unit_test(test_each_once),
        cmocka_unit_test(test_many_wishes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
