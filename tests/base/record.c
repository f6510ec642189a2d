/* Records: round trip, refusals of damaged and foreign bytes, versions, the check before the commit. */
#include "base/bytes.h"
#include "base/record.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

struct thing {
    u64 a;
    u32 derived;
    u8 b[5];
    u16 c;
    int loads;
};

static int thing_check(const void *candidate, struct error *e)
{
    const struct thing *t = candidate;
    return t->c > 100 ? error_set(e, EINVAL, "c is %u, at most 100", t->c) : 0;
}
static void thing_loaded(void *object)
{
    struct thing *t = object;
    t->derived = (u32)t->a + 1;
    t->loads++;
}
static const struct rec_field v1_fields[] = {REC_FIELD(struct thing, a), REC_FIELD(struct thing, c)};
static const struct rec_field v2_fields[] = {REC_FIELD(struct thing, a), REC_FIELD(struct thing, c),
                                             REC_FIELD_SINCE(struct thing, b, 2)};
static const struct rec_desc v1 = {
    "thing", REC_TYPE('T', 'H', 'N', 'G'), 1, sizeof(struct thing), v1_fields, 2, thing_check, thing_loaded};
static const struct rec_desc v2 = {
    "thing", REC_TYPE('T', 'H', 'N', 'G'), 2, sizeof(struct thing), v2_fields, 3, thing_check, thing_loaded};

static void test_round_trip(void **state)
{
    struct thing t = {.a = 0x123456789abcdef0, .b = "abcd", .c = 7}, u = {.derived = 99};
    struct rec_buf b = {0};
    struct rec_view v;
    size_t pos = 0;
    assert_int_equal(rec_save(&b, &v2, 3, &t), 0);
    assert_int_equal(rec_save_raw(&b, REC_TYPE('R', 'A', 'W', ' '), 1, 0, "xyz", 3), 0);
    assert_int_equal(rec_next(b.data, b.len, &pos, &v, NULL), 1);
    assert_int_equal(v.instance, 3);
    assert_int_equal(rec_check(&v, &v2, &u, NULL), 0);
    assert_int_equal(u.loads, 0);
    assert_int_equal(rec_load(&v, &v2, &u, NULL), 0);
    assert_int_equal(u.a, t.a);
    assert_int_equal(u.c, 7);
    assert_memory_equal(u.b, "abcd", 5);
    assert_int_equal(u.derived, (u32)t.a + 1);
    assert_int_equal(rec_next(b.data, b.len, &pos, &v, NULL), 1);
    assert_memory_equal(v.payload, "xyz", 3);
    assert_int_equal(rec_next(b.data, b.len, &pos, &v, NULL), 0);
    rec_buf_free(&b);
}

static void test_versions(void **state)
{
    struct thing t = {.a = 5, .b = "old", .c = 6}, u = {.b = "kept"};
    struct rec_buf b = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    rec_save(&b, &v1, 0, &t);
    rec_save(&b, &v2, 0, &t);
    rec_next(b.data, b.len, &pos, &v, NULL);
    assert_int_equal(rec_load(&v, &v2, &u, NULL), 0); /* the newer reads the older: its new fields stay */
    assert_string_equal((char *)u.b, "kept");
    rec_next(b.data, b.len, &pos, &v, NULL);
    assert_int_equal(rec_load(&v, &v1, &u, &e), -EINVAL);
    assert_non_null(strstr(e.msg, "version 2 is not known"));
    rec_buf_free(&b);
}

static void test_refusals(void **state)
{
    struct thing t = {.a = 5, .c = 101}, u = {.a = 1, .c = 2};
    struct rec_buf b = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    rec_save(&b, &v2, 0, &t);
    rec_next(b.data, b.len, &pos, &v, NULL);
    assert_int_equal(rec_load(&v, &v2, &u, &e), -EINVAL);
    assert_non_null(strstr(e.msg, "c is 101"));
    assert_int_equal(u.a, 1); /* nothing changed */
    assert_int_equal(u.loads, 0);
    v.len--;
    assert_int_equal(rec_check(&v, &v2, &u, NULL), -EINVAL);
    v.len++;
    v.type++;
    assert_int_equal(rec_check(&v, &v2, &u, NULL), -EINVAL);
    rec_buf_free(&b);
}

/* Every single-byte change and every cut of a stream is noticed or harmless: never a read outside, never a commit of junk. */
static void test_damage(void **state)
{
    struct thing t = {.a = 5, .c = 50};
    struct rec_buf b = {0};
    rec_save(&b, &v2, 0, &t);
    for (size_t cut = 1; cut < b.len; cut++) {
        struct rec_view v;
        size_t pos = 0;
        u8 *part = malloc(cut);
        memcpy(part, b.data, cut);
        assert_int_equal(rec_next(part, cut, &pos, &v, NULL), -EINVAL);
        free(part);
    }
    for (size_t at = 16; at < b.len; at++) {
        struct rec_view v;
        size_t pos = 0;
        b.data[at] ^= 0x10;
        assert_int_equal(rec_next(b.data, b.len, &pos, &v, NULL), -EINVAL);
        b.data[at] ^= 0x10;
    }
    rec_buf_free(&b);
}

static void test_crc(void **state)
{
    assert_int_equal(crc32c(0, "123456789", 9), 0xe3069283); /* the check value of CRC-32C */
    u32 whole = crc32c(0, "123456789", 9), half = crc32c(0, "1234", 4);
    assert_int_equal(crc32c(half, "56789", 5), whole);
}

static void test_first_error_wins(void **state)
{
    struct error e = {0};
    assert_int_equal(error_set(&e, ENOENT, "disk.img: no such file"), -ENOENT);
    assert_int_equal(error_set(&e, EIO, "later"), -EIO);
    error_prefix(&e, "machine %s", "web");
    assert_string_equal(e.msg, "machine web: disk.img: no such file");
    assert_int_equal(error_set(NULL, EIO, "nobody listens"), -EIO);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_versions), cmocka_unit_test(test_refusals),
        cmocka_unit_test(test_damage),     cmocka_unit_test(test_crc),      cmocka_unit_test(test_first_error_wins),
    };
    return cmocka_run_group_tests_name("base-record", tests, NULL, NULL);
}
