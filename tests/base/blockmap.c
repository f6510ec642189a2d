/* The map of blocks against one that has a byte a block and no shortcuts: marks, clears, takes and runs, at all edges. */
#include "base/blockmap.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define B      ((u64)BLOCKMAP_BLOCK)
#define BLOCKS 333u /* no multiple of 64 */
#define BYTES  (BLOCKS * B - 512)

static u64 seed = 20261124;

static u64 any(u64 below)
{
    seed = seed * 6364136223846793005ull + 1442695040888963407ull;
    return (seed >> 33) % below;
}

/* Near an edge of something, or wrapping. */
static u64 edge(void)
{
    static const u64 edges[] = {0, B, 63 * B, 64 * B, 65 * B, 128 * B, BYTES - B, BYTES, BLOCKS * B, UINT64_MAX};
    u64 at = edges[any(sizeof(edges) / sizeof(edges[0]))];
    return any(3) ? at + any(5) - 2 : any(BYTES);
}

static void compare(const struct blockmap *m, const u8 *naive)
{
    u64 n = 0;
    for (u64 i = 0; i < m->blocks; i++) {
        assert_int_equal(m->bits[i / 64] >> (i % 64) & 1, naive[i]);
        n += naive[i];
    }
    assert_int_equal(blockmap_count(m), n);
    assert_int_equal(m->bits[m->blocks / 64] >> (m->blocks % 64), 0);
    for (u64 at = 0, first, len; (len = blockmap_run(m, at, 7, &first)); at = first + len) {
        for (; at < first; at++)
            assert_int_equal(naive[at], 0);
        assert_true(len <= 7);
        for (u64 i = 0; i < len; i++)
            assert_int_equal(naive[first + i], 1);
        n -= len;
    }
    assert_int_equal(n, 0);
}

static void test_against_naive(void **state)
{
    struct blockmap m;
    u8 naive[BLOCKS] = {0};
    u64 out[6];
    (void)state;
    assert_int_equal(blockmap_init(&m, BYTES), 0);
    assert_int_equal(m.blocks, BLOCKS);
    for (unsigned round = 0; round < 20000; round++) {
        u64 at = edge(), len = any(4) ? any(4 * B) : edge(), first = any(BLOCKS + 5), n = any(70);
        switch (any(3)) {
        case 0:
            blockmap_mark(&m, at, len);
            for (u64 i = 0; i < BLOCKS; i++) /* the byte at which the two may meet first */
                if (len && at < BYTES && at < MIN((i + 1) * B, BYTES) && (at >= i * B || len > i * B - at))
                    naive[i] = 1;
            break;
        case 1:
            blockmap_clear(&m, first, n);
            for (u64 i = first; i < MIN(first + n, BLOCKS); i++)
                naive[i] = 0;
            break;
        default:
            if (any(8))
                break;
            first = any(6) * 64;
            assert_true(blockmap_fits(&m, first, 384 - first));
            memset(out, 0xff, sizeof(out));
            blockmap_take(&m, first, 384 - first, out);
            for (u64 i = first; i < BLOCKS; i++) {
                assert_int_equal(out[(i - first) / 64] >> (i % 64) & 1, naive[i]);
                naive[i] = 0;
            }
        }
        compare(&m, naive);
    }
    blockmap_free(&m);
}

static void test_what_can_be_taken(void **state)
{
    struct blockmap m;
    (void)state;
    assert_int_equal(blockmap_init(&m, BYTES), 0);
    assert_true(blockmap_fits(&m, 0, 64));
    assert_true(blockmap_fits(&m, 320, 64));
    assert_false(blockmap_fits(&m, 384, 64));
    assert_false(blockmap_fits(&m, 320, 128));
    assert_false(blockmap_fits(&m, 0, 0));
    assert_false(blockmap_fits(&m, 1, 64));
    assert_false(blockmap_fits(&m, 0, 63));
    assert_false(blockmap_fits(&m, 64, UINT64_MAX - 63));
    assert_false(blockmap_fits(&m, UINT64_MAX - 63, 128));
    assert_int_equal(blockmap_length(&m, 0), B);
    assert_int_equal(blockmap_length(&m, BLOCKS - 1), B - 512);
    assert_int_equal(blockmap_length(&m, BLOCKS), 0);
    blockmap_free(&m);
}

/* Where nothing is remembered every question has an answer. */
static void test_none(void **state)
{
    struct blockmap m = {0};
    u64 first;
    (void)state;
    blockmap_mark(&m, 0, B);
    blockmap_clear(&m, 0, 1);
    assert_int_equal(blockmap_count(&m), 0);
    assert_int_equal(blockmap_run(&m, 0, 1, &first), 0);
    assert_false(blockmap_fits(&m, 0, 64));
    assert_int_equal(blockmap_init(&m, UINT64_MAX), -EFBIG);
    assert_int_equal(blockmap_init(&m, BLOCKMAP_BYTES_MAX + 1), -EFBIG);
    assert_null(m.bits);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_against_naive), cmocka_unit_test(test_what_can_be_taken),
                                       cmocka_unit_test(test_none)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
