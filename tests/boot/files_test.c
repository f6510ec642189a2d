/*
 * Files as they come: cut at every byte, every byte and every field at its extremes, random, compressed, wrong. Nothing may
 * read outside the file (run under ASan by `make test-long`), and each refusal names the file.
 */
#include "boot_test.h"

#include <errno.h>

struct image {
    const char *name;
    void (*make)(u8 *);
    size_t len;
    size_t header; /* bytes that are not mere contents: only a file cut in them may still load or not */
};

static const struct image images[] = {
    {"bzImage", make_bzimage, BZ_LEN, 0x270},
    {"PVH ELF64", make_pvh64, PVH_LEN, 0x200},
    {"PVH ELF32", make_pvh32, PVH_LEN, 0x200},
};
#define LONGEST BZ_LEN

/* Small enough that zeroing all of it many times over is cheap. */
#define SMALL_RAM (4 * MIB)

static void cut_at_every_byte(void **unused)
{
    struct fixture f;
    fixture_make(&f, SMALL_RAM);
    for (size_t i = 0; i < ARRAY_LEN(images); i++) {
        u8 k[LONGEST];
        images[i].make(k);
        /* a bzImage's length is rounded up to 16 bytes: up to 15 need not be there */
        size_t least = images[i].make == make_bzimage ? images[i].len - 15 : images[i].len;
        for (size_t len = 0; len < least; len++) {
            assert_int_equal(fixture_load(&f, k, len, NULL, 0, "dir/kernel"), -EINVAL);
            if (len >= 4 && !strstr(f.err.msg, "truncated"))
                fail_msg("%s cut at %zu: %s", images[i].name, len, f.err.msg);
        }
        assert_int_equal(fixture_load(&f, k, images[i].len, NULL, 0, ""), 0);
    }
    fixture_free(&f);
}

/* Each naturally aligned field of each width at values that tend to wrap. */
static void every_field_at_extremes(void **unused)
{
    static const u64 values[] = {0,
                                 1,
                                 0x7f,
                                 0x80,
                                 0xff,
                                 0x7fff,
                                 0x8000,
                                 0xffff,
                                 0x7fffffff,
                                 0x80000000,
                                 0xfffff000,
                                 0xffffffff,
                                 0x7fffffffffffffff,
                                 0x8000000000000000,
                                 0xfffffffffffff000,
                                 UINT64_MAX};
    struct fixture f;
    unsigned loaded = 0;
    fixture_make(&f, SMALL_RAM);
    for (size_t i = 0; i < ARRAY_LEN(images); i++) {
        for (unsigned width = 1; width <= 8; width *= 2) {
            for (size_t at = 0; at + width <= images[i].header; at += MIN(width, 4u)) {
                for (size_t v = 0; v < ARRAY_LEN(values); v++) {
                    u8 k[LONGEST];
                    images[i].make(k);
                    memcpy(k + at, &values[v], width);
                    loaded += !fixture_load(&f, k, images[i].len, NULL, 0, "dir/kernel");
                }
            }
        }
    }
    assert_true(loaded > 1000); /* most bytes do not matter to the loaders: else nothing was tested */
    fixture_free(&f);
}

static void random_changes(void **unused)
{
    struct fixture f;
    u64 seed = 0x7261706574, refused = 0;
    fixture_make(&f, SMALL_RAM);
    for (unsigned n = 0; n < 20000; n++) {
        const struct image *im = &images[n % ARRAY_LEN(images)];
        u8 k[LONGEST];
        im->make(k);
        for (u64 r = 1 + test_random(&seed) % 8; r; r--)
            k[test_random(&seed) % im->header] = (u8)(test_random(&seed) >> 32);
        refused += fixture_load(&f, k, im->len, NULL, 0, "dir/kernel") != 0;
    }
    assert_true(refused > 1000);
    fixture_free(&f);
}

static void random_files(void **unused)
{
    struct fixture f;
    u64 seed = 0x626f6f74;
    fixture_make(&f, SMALL_RAM);
    for (unsigned n = 0; n < 5000; n++) {
        u8 k[2048];
        size_t len = test_random(&seed) % (sizeof(k) + 1);
        for (size_t i = 0; i < len; i++)
            k[i] = (u8)(test_random(&seed) >> 24);
        if (n % 2 && len >= 4) /* get past the magic numbers */
            memcpy(k, n % 4 == 1 ? "\177ELF" : "MZ\0\0", 4);
        assert_true(fixture_load(&f, k, len, NULL, 0, "dir/kernel") < 0);
    }
    fixture_free(&f);
}

static void wrong_kernels(void **unused)
{
    static const struct {
        const char *bytes;
        size_t len;
        const char *text;
    } cases[] = {
        {"", 0, "is empty, not a kernel"},
        {"\x1f\x8b\x08\0\0\0", 6, "is gzip-compressed"},
        {"\xfd\x37zXZ\0\0\0", 8, "is xz-compressed"},
        {"\x28\xb5\x2f\xfd\0\0", 6, "is zstd-compressed"},
        {"\x02\x21\x4c\x18\0\0", 6, "is lz4-compressed"},
        {"BZh91AY", 7, "is bzip2-compressed"},
        {"070701", 6, "neither a bzImage nor an ELF"},
        {"#!/bin/sh\n", 10, "neither a bzImage nor an ELF"},
    };
    struct fixture f;
    fixture_make(&f, SMALL_RAM);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        assert_int_equal(fixture_load(&f, (const u8 *)cases[i].bytes, cases[i].len, NULL, 0, "dir/kernel"), -EINVAL);
        if (!strstr(f.err.msg, cases[i].text))
            fail_msg("\"%s\" does not say \"%s\"", f.err.msg, cases[i].text);
    }
    fixture_free(&f);
}

static void initrds(void **unused)
{
    struct fixture f;
    u8 k[BZ_LEN], cpio[2048], cut[4096];
    make_bzimage(k);
    fixture_make(&f, SMALL_RAM);
    size_t len = make_cpio(cpio, 700);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, cpio, len, ""), 0);

    size_t second = len - 124; /* the trailer: header, "TRAILER!!!" and its zero, padding */
    for (size_t n = 0; n < len; n++) {
        int rc = fixture_load(&f, k, BZ_LEN, cpio, n, "dir/initrd");
        bool whole = n == second; /* ends between two entries: Linux takes that, and so do we */
        if (rc != (whole ? 0 : -EINVAL))
            fail_msg("initrd of %zu of %zu bytes (%zu): %d %s", n, len, second, rc, f.err.msg);
        if (n > 0 && !whole)
            assert_non_null(strstr(f.err.msg, "truncated"));
    }
    assert_int_equal(fixture_load(&f, k, BZ_LEN, cpio, 0, "dir/initrd"), -EINVAL);
    assert_non_null(strstr(f.err.msg, "is empty"));

    memcpy(cpio + 54, "zzzzzzzz", 8);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, cpio, len, "dir/initrd"), -EINVAL);
    assert_non_null(strstr(f.err.msg, "damaged"));

    u64 seed = 99;
    for (size_t i = 0; i < sizeof(cut); i++)
        cut[i] = (u8)(test_random(&seed) >> 24);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, cut, sizeof(cut), "dir/initrd"), -EINVAL);
    assert_non_null(strstr(f.err.msg, "is not an initrd"));

    /* an early archive of microcode, padding, then a compressed one */
    len = make_cpio(cut, 30);
    memcpy(cut + len + 64, "\x1f\x8b\x08", 3);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, cut, len + 67, ""), 0);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(cut_at_every_byte), cmocka_unit_test(every_field_at_extremes),
        cmocka_unit_test(random_changes),    cmocka_unit_test(random_files),
        cmocka_unit_test(wrong_kernels),     cmocka_unit_test(initrds),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
