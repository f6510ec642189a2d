/* Bounds of unpacking, and a directory packed and unpacked again. Archives are written by hand. As root: layers have owners. */
#include "image/layer.h"
#include "image/tree.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

static char top[64];

static int set_up(void **state)
{
    snprintf(top, sizeof(top), "/tmp/trapeze-unpack-XXXXXX");
    return mkdtemp(top) ? 0 : -1;
}

static int tear_down(void **state)
{
    return tree_remove(AT_FDCWD, top, NULL);
}

static int directory(const char *name)
{
    char path[128];
    snprintf(path, sizeof(path), "%s/%s", top, name);
    int fd = tree_make(path, NULL);
    assert_true(fd >= 0);
    return fd;
}

/* A ustar header (POSIX.1-1988) and `size` zeros. */
static void add(int fd, const char *name, char type, const char *link, u64 size)
{
    char block[512] = "";
    unsigned sum = 0;
    snprintf(block, 100, "%s", name);
    memcpy(block + 100, "0000644\0000000000\0000000000\000", 24);
    snprintf(block + 124, 12, "%011llo", (unsigned long long)size);
    memcpy(block + 136, "00000000000\0        ", 20);
    block[156] = type;
    snprintf(block + 157, 100, "%s", link);
    memcpy(block + 257, "ustar\00000", 8);
    for (size_t i = 0; i < sizeof(block); i++)
        sum += (u8)block[i];
    snprintf(block + 148, 8, "%06o", sum);
    assert_int_equal(write(fd, block, sizeof(block)), sizeof(block));
    assert_return_code(ftruncate(fd, (off_t)((u64)lseek(fd, 0, SEEK_END) + (size + 511) / 512 * 512)), errno);
    lseek(fd, 0, SEEK_END);
}

static int unpack(int tar, u64 bytes, u32 entries, struct error *e)
{
    struct layer_input in = {.fd = tar, .bytes_max = bytes, .entries_max = entries};
    char diff_id[DIGEST_TEXT] = "";
    static unsigned n;
    char name[16];
    snprintf(name, sizeof(name), "out%u", n++);
    CLEANUP_FD int root = directory(name);
    lseek(tar, 0, SEEK_SET);
    return layer_unpack(root, &in, diff_id, e);
}

static void test_bounds(void **state)
{
    struct error e = {0};
    CLEANUP_FD int tar = memfd_create("tar", MFD_CLOEXEC);
    for (int i = 0; i < 10; i++) {
        char name[8];
        snprintf(name, sizeof(name), "f%d", i);
        add(tar, name, '0', "", 10000);
    }
    assert_int_equal(ftruncate(tar, lseek(tar, 0, SEEK_END) + 1024), 0);
    assert_int_equal(unpack(tar, 1 << 20, 10, &e), 0);
    assert_int_equal(unpack(tar, 1 << 20, 9, &e), -EFBIG);
    e = (struct error){0};
    assert_int_equal(unpack(tar, 50000, 100, &e), -EFBIG);
    assert_non_null(strstr(e.msg, "50000"));
}

static void test_announced_size(void **state)
{
    struct error e = {0};
    CLEANUP_FD int tar = memfd_create("tar", MFD_CLOEXEC);
    char header[512];
    add(tar, "huge", '0', "", 077777777777);
    /* The header, and nothing of what it promises. */
    assert_int_equal(pread(tar, header, 512, 0), 512);
    assert_int_equal(ftruncate(tar, 512), 0);
    assert_true(unpack(tar, 1 << 20, 10, &e) < 0);
}

static void write_file(int dir, const char *name, const char *text)
{
    CLEANUP_FD int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0640);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
}

static int pack_into(struct image_store *s, int from, const char *out, struct image_descriptor *d, char *diff_id)
{
    struct error e = {0};
    char again[DIGEST_TEXT] = "";
    assert_int_equal(layer_pack(s, from, true, d, diff_id, &e), 0);
    CLEANUP_FD int blob = image_open_blob(s, d->digest, &e);
    int to = directory(out);
    const struct layer_input in = {.fd = blob, .bytes_max = 1 << 20, .entries_max = 100};
    assert_int_equal(layer_unpack(to, &in, again, &e), 0);
    assert_string_equal(again, diff_id);
    return to;
}

/* An upper directory as overlayfs leaves it: its marks survive as whiteouts. */
static void test_round(void **state)
{
    struct image_store s;
    struct image_descriptor d, same;
    struct stat a, b;
    struct error e = {0};
    char path[128], diff_id[DIGEST_TEXT], other[DIGEST_TEXT], text[8] = "";
    if (geteuid())
        skip();
    snprintf(path, sizeof(path), "%s/store", top);
    assert_int_equal(image_store_open(&s, path, false, &e), 0);
    CLEANUP_FD int up = directory("up");
    write_file(up, "one", "text");
    assert_int_equal(linkat(up, "one", up, "two", 0), 0);
    assert_int_equal(symlinkat("/etc/passwd", up, "link"), 0);
    assert_int_equal(mknodat(up, "gone", S_IFCHR, 0), 0);
    assert_int_equal(mkdirat(up, "dir", 01777), 0);
    CLEANUP_FD int out = pack_into(&s, up, "back", &d, diff_id);
    assert_int_equal(fstatat(out, "one", &a, 0), 0);
    assert_int_equal(fstatat(out, "two", &b, 0), 0);
    assert_int_equal(a.st_ino, b.st_ino);
    assert_int_equal(a.st_mode & 07777, 0640);
    assert_int_equal(readlinkat(out, "link", text, 4), 4);
    assert_string_equal(text, "/etc");
    assert_int_equal(fstatat(out, "gone", &a, 0), 0);
    assert_true(S_ISCHR(a.st_mode) && a.st_rdev == 0);
    assert_int_equal(faccessat(out, ".wh.gone", F_OK, 0), -1);
    /* The same tree is the same blob. */
    assert_int_equal(layer_pack(&s, up, true, &same, other, &e), 0);
    assert_string_equal(same.digest, d.digest);
    image_store_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_announced_size),
        cmocka_unit_test(test_round),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
