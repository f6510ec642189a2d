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
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/xattr.h>
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

/* Sparse members (GNU's old form, tar.h): long files of a short archive. All of them together are bounded. */
static void test_sparse_bomb(void **state)
{
    struct error e = {0};
    CLEANUP_FD int tar = memfd_create("tar", MFD_CLOEXEC);
    for (int i = 0; i < 4; i++) {
        char name[8], block[512];
        unsigned sum = 0;
        snprintf(name, sizeof(name), "s%d", i);
        off_t at = lseek(tar, 0, SEEK_END);
        add(tar, name, 'S', "", 0);
        assert_int_equal(pread(tar, block, sizeof(block), at), sizeof(block));
        memcpy(block + 257, "ustar  ", 8);
        snprintf(block + 386, 12, "%011o", 40000u); /* a hole of 40000 bytes, then no data */
        snprintf(block + 398, 12, "%011o", 0u);
        snprintf(block + 483, 12, "%011o", 40000u);
        memset(block + 148, ' ', 8);
        for (size_t k = 0; k < sizeof(block); k++)
            sum += (u8)block[k];
        snprintf(block + 148, 8, "%06o", sum);
        assert_int_equal(pwrite(tar, block, sizeof(block), at), sizeof(block));
    }
    assert_int_equal(ftruncate(tar, lseek(tar, 0, SEEK_END) + 1024), 0);
    assert_int_equal(unpack(tar, 160000, 10, &e), 0);
    assert_int_equal(unpack(tar, 159999, 10, &e), -EFBIG);
}

/* Parents that no entry names count as well. */
static void test_many_parents(void **state)
{
    struct error e = {0};
    CLEANUP_FD int tar = memfd_create("tar", MFD_CLOEXEC);
    add(tar, "a/b/c/d/e/f/g", '0', "", 0);
    assert_int_equal(ftruncate(tar, lseek(tar, 0, SEEK_END) + 1024), 0);
    assert_int_equal(unpack(tar, 1 << 20, 7, &e), 0);
    assert_int_equal(unpack(tar, 1 << 20, 6, &e), -EFBIG);
}

/*
 * A link out of the root where a layer below has a directory of mode 0777: what is made of the parent "l" must not give that
 * mode to what the link leads to.
 */
static void test_link_takes_mode(void **state)
{
    struct error e = {0};
    struct stat st;
    char victim[128], diff_id[DIGEST_TEXT] = "";
    CLEANUP_FD int mine = directory("victim"), lower = directory("lower"), root = directory("upper");
    CLEANUP_FD int tar = memfd_create("tar", MFD_CLOEXEC);
    snprintf(victim, sizeof(victim), "%s/victim", top);
    assert_return_code(fchmod(mine, 0700), errno);
    assert_return_code(mkdirat(lower, "l", 0777), errno);
    assert_return_code(fchmodat(lower, "l", 0777, 0), errno);
    add(tar, "l", '2', victim, 0);
    add(tar, "l/x", '0', "", 0);
    assert_return_code(ftruncate(tar, lseek(tar, 0, SEEK_END) + 1024), errno);
    const struct layer_input in = {.fd = tar, .lower = &lower, .n_lower = 1, .bytes_max = 1 << 20, .entries_max = 10};
    lseek(tar, 0, SEEK_SET);
    assert_int_equal(layer_unpack(root, &in, diff_id, &e), -EINVAL);
    assert_return_code(fstat(mine, &st), errno);
    assert_int_equal(st.st_mode & 07777, 0700);
}

/* A hard link to a file of a layer below is a copy, unless a layer between hides it. */
static void test_link_below(void **state)
{
    struct error e = {0};
    struct stat st;
    char diff_id[DIGEST_TEXT] = "";
    CLEANUP_FD int low = directory("low"), middle = directory("middle"), root = directory("high");
    CLEANUP_FD int tar = memfd_create("tar", MFD_CLOEXEC);
    const int lower[] = {middle, low};
    if (geteuid())
        skip();
    assert_return_code(mkdirat(low, "d", 0755), errno);
    CLEANUP_FD int file = openat(low, "d/f", O_CREAT | O_WRONLY | O_CLOEXEC, 0640);
    assert_int_equal(write(file, "text", 4), 4);
    add(tar, "h", '1', "d/f", 0);
    assert_return_code(ftruncate(tar, lseek(tar, 0, SEEK_END) + 1024), errno);
    const struct layer_input in = {.fd = tar, .lower = lower, .n_lower = 2, .bytes_max = 1 << 20, .entries_max = 10};
    lseek(tar, 0, SEEK_SET);
    assert_int_equal(layer_unpack(root, &in, diff_id, &e), 0);
    assert_return_code(fstatat(root, "h", &st, 0), errno);
    assert_int_equal(st.st_size, 4);
    assert_return_code(unlinkat(root, "h", 0), errno);
    assert_return_code(mkdirat(middle, "d", 0755), errno);
    CLEANUP_FD int hides = openat(middle, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_return_code(fsetxattr(hides, layer_opaque_name(), "y", 1, 0), errno);
    lseek(tar, 0, SEEK_SET);
    assert_int_equal(layer_unpack(root, &in, diff_id, &e), -ENOENT);
}

/* "bin" is a link to "usr/bin" in the layer below: a file "bin/x" here is one of "usr/bin", whose mode stays. */
static void test_parent_is_a_link_below(void **state)
{
    struct error e = {0};
    struct stat st;
    char diff_id[DIGEST_TEXT] = "", text[16] = "";
    if (geteuid())
        skip();
    CLEANUP_FD int lower = directory("linked"), root = directory("above"), bad = directory("looped");
    CLEANUP_FD int tar = memfd_create("tar", MFD_CLOEXEC), loop = memfd_create("tar", MFD_CLOEXEC);
    const struct layer_input in = {.fd = tar, .lower = &lower, .n_lower = 1, .bytes_max = 1 << 20, .entries_max = 100};
    assert_return_code(mkdirat(lower, "usr", 0755), errno);
    assert_return_code(mkdirat(lower, "usr/bin", 0750), errno);
    assert_return_code(symlinkat("./usr/../usr/bin", lower, "bin"), errno);
    assert_return_code(symlinkat("/../bin", lower, "more"), errno);
    assert_return_code(symlinkat("b", lower, "a"), errno);
    assert_return_code(symlinkat("a", lower, "b"), errno);
    add(tar, "more/x", '0', "", 0);
    assert_return_code(ftruncate(tar, lseek(tar, 0, SEEK_END) + 1024), errno);
    lseek(tar, 0, SEEK_SET);
    assert_int_equal(layer_unpack(root, &in, diff_id, &e), 0);
    assert_return_code(fstatat(root, "usr/bin/x", &st, 0), errno);
    assert_return_code(fstatat(root, "usr/bin", &st, 0), errno);
    assert_int_equal(st.st_mode & 07777, 0750);
    assert_return_code(readlinkat(root, "bin", text, sizeof(text) - 1), errno);
    assert_string_equal(text, "./usr/../usr/bi");
    add(loop, "a/x", '0', "", 0);
    assert_return_code(ftruncate(loop, lseek(loop, 0, SEEK_END) + 1024), errno);
    lseek(loop, 0, SEEK_SET);
    struct layer_input round = in;
    round.fd = loop;
    assert_true(layer_unpack(bad, &round, diff_id, &e) < 0);
}

/* Deeper than there are descriptors. */
static void test_remove_deep(void **state)
{
    struct error e = {0};
    struct rlimit old, few = {300, 300};
    int at = directory("deep");
    for (int i = 0; i < 2000; i++) {
        assert_return_code(mkdirat(at, "d", 0755), errno);
        int next = openat(at, "d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        close(at);
        at = next;
        assert_true(at >= 0);
    }
    close(at);
    CLEANUP_FD int parent = open(top, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_return_code(getrlimit(RLIMIT_NOFILE, &old), errno);
    few.rlim_max = old.rlim_max;
    assert_return_code(setrlimit(RLIMIT_NOFILE, &few), errno);
    assert_int_equal(tree_remove(parent, "deep", &e), 0);
    assert_return_code(setrlimit(RLIMIT_NOFILE, &old), errno);
    assert_int_equal(faccessat(parent, "deep", F_OK, 0), -1);
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
    assert_int_equal(layer_pack(s, from, true, NULL, d, diff_id, &e), 0);
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
    assert_int_equal(layer_pack(&s, up, true, NULL, &same, other, &e), 0);
    assert_string_equal(same.digest, d.digest);
    image_store_close(&s);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bounds),
        cmocka_unit_test(test_announced_size),
        cmocka_unit_test(test_sparse_bomb),
        cmocka_unit_test(test_many_parents),
        cmocka_unit_test(test_link_takes_mode),
        cmocka_unit_test(test_link_below),
        cmocka_unit_test(test_parent_is_a_link_below),
        cmocka_unit_test(test_remove_deep),
        cmocka_unit_test(test_round),
    };
    return cmocka_run_group_tests(tests, set_up, tear_down);
}
