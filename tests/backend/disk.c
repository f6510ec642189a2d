/* The disk back end on real files, by io_uring and by threads. */
#include "backend/disk/disk_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/vfs.h>
#include <linux/magic.h>
#include <signal.h>
#include <unistd.h>
#include <cmocka.h>

#define SIZE  (4u << 20)
#define DEPTH 64u

struct fixture {
    char path[64];
    struct disk *d;
    struct disk_engine *g;
};

static char *new_file(char *path, off_t size)
{
    strcpy(path, "/tmp/trapeze-disk-XXXXXX");
    int fd = mkstemp(path);
    assert_true(fd >= 0);
    assert_int_equal(ftruncate(fd, size), 0);
    close(fd);
    return path;
}

/* false: this kernel has no io_uring. */
static bool begin(struct fixture *f, enum disk_engine_kind kind, enum disk_cache cache)
{
    struct error e = {0};
    struct disk_options o = {.path = new_file(f->path, SIZE), .cache = cache};
    if (disk_open(&f->d, &o, &e))
        fail_msg("%s", e.msg);
    if (disk_engine_create(&f->g, kind, &f->d, 1, DEPTH, &e) == 0)
        return true;
    print_message("# %s\n", e.msg);
    disk_close(f->d);
    unlink(f->path);
    return false;
}

static void end(struct fixture *f)
{
    disk_engine_destroy(f->g);
    disk_close(f->d);
    unlink(f->path);
}

static struct disk_io *wait_one(struct fixture *f)
{
    disk_engine_flush(f->g);
    for (int i = 0; i < 1000; i++) {
        struct disk_io *io = disk_engine_reap(f->g);
        if (io)
            return io;
        struct pollfd p = {.fd = disk_engine_fd(f->g), .events = POLLIN};
        u64 n;
        if (poll(&p, 1, 100) == 1 && read(p.fd, &n, sizeof(n)) < 0)
            fail_msg("event: %s", strerror(errno));
    }
    fail_msg("nothing came back");
    return NULL;
}

/* One request with one piece; its result. */
static int one(struct fixture *f, enum disk_op op, u64 offset, void *buf, u64 len)
{
    struct iovec v = {buf, buf ? len : 0};
    struct disk_io io = {.disk = f->d, .op = op, .offset = offset, .len = len, .iov = &v, .n_iov = buf != NULL};
    disk_engine_submit(f->g, &io);
    assert_ptr_equal(wait_one(f), &io);
    return io.result;
}

static void fill(u8 *p, size_t len, u32 seed)
{
    for (size_t i = 0; i < len; i++)
        p[i] = (u8)((i * 2654435761u + seed) >> 13);
}

static void each(void (*test)(struct fixture *f))
{
    static const enum disk_cache modes[] = {DISK_CACHE_AUTO, DISK_CACHE_WRITEBACK, DISK_CACHE_WRITETHROUGH};
    for (enum disk_engine_kind k = DISK_ENGINE_URING; k <= DISK_ENGINE_THREADS; k++)
        for (unsigned i = 0; i < ARRAY_LEN(modes); i++) {
            struct fixture f;
            if (!begin(&f, k, modes[i]))
                continue;
            test(&f);
            end(&f);
        }
}

static void do_transfers(struct fixture *f)
{
    u8 *a = aligned_alloc(4096, 65536), *b = aligned_alloc(4096, 65536);
    static const struct {
        u64 offset;
        u32 len, shift; /* what is not aligned goes through the page cache */
    } cases[] = {{0, 4096, 0}, {512, 512, 0}, {SIZE - 65536, 65536, 0}, {4096, 8192, 3}, {1024, 1536, 256}};
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        fill(a, 65536, i);
        memset(b, 0, 65536);
        u32 n = MIN(cases[i].len, 65536 - cases[i].shift);
        assert_int_equal(one(f, DISK_WRITE, cases[i].offset, a + cases[i].shift, n), 0);
        assert_int_equal(one(f, DISK_FLUSH, 0, NULL, 0), 0);
        assert_int_equal(one(f, DISK_READ, cases[i].offset, b, n), 0);
        assert_memory_equal(a + cases[i].shift, b, n);
        /* others see it: it is in the file */
        int fd = open(f->path, O_RDONLY);
        memset(b, 0, n);
        assert_int_equal(pread(fd, b, n, (off_t)cases[i].offset), n);
        assert_memory_equal(a + cases[i].shift, b, n);
        close(fd);
    }
    assert_int_equal(one(f, DISK_READ, SIZE, b, 512), -EINVAL);
    assert_int_equal(one(f, DISK_WRITE, SIZE - 512, b, 1024), -EINVAL);
    free(a);
    free(b);
}

static void transfers(void **state)
{
    each(do_transfers);
}

/* As many as there may be at once, in pieces, in any order of completion. */
static void do_many(struct fixture *f)
{
    enum { PIECES = 5, LEN = 4096 * PIECES };
    struct disk_io io[DEPTH];
    struct iovec v[DEPTH][PIECES];
    u8 *mem = aligned_alloc(4096, DEPTH * LEN), *want = malloc(DEPTH * LEN);
    fill(mem, DEPTH * LEN, 9);
    memcpy(want, mem, DEPTH * LEN);
    for (int round = 0; round < 2; round++) {
        for (unsigned i = 0; i < DEPTH; i++) {
            for (unsigned j = 0; j < PIECES; j++)
                v[i][j] = (struct iovec){mem + i * LEN + j * 4096, 4096};
            io[i] = (struct disk_io){.disk = f->d,
                                     .op = round ? DISK_READ : DISK_WRITE,
                                     .offset = (DEPTH - 1 - i) * LEN,
                                     .len = LEN,
                                     .iov = v[i],
                                     .n_iov = PIECES};
            disk_engine_submit(f->g, &io[i]);
        }
        for (unsigned i = 0; i < DEPTH; i++)
            assert_int_equal(wait_one(f)->result, 0);
        if (!round)
            memset(mem, 0, DEPTH * LEN);
    }
    assert_memory_equal(mem, want, DEPTH * LEN);
    free(mem);
    free(want);
}

static void many_at_once(void **state)
{
    each(do_many);
}

static void do_holes(struct fixture *f)
{
    u8 *a = aligned_alloc(4096, 65536), *b = aligned_alloc(4096, 65536);
    struct stat before, after;
    fill(a, 65536, 3);
    for (u64 at = 0; at < SIZE; at += 65536)
        assert_int_equal(one(f, DISK_WRITE, at, a, 65536), 0);
    assert_int_equal(one(f, DISK_FLUSH, 0, NULL, 0), 0);
    assert_int_equal(stat(f->path, &before), 0);
    assert_int_equal(one(f, DISK_DISCARD, 1 << 20, NULL, 1 << 20), 0);
    assert_int_equal(one(f, DISK_ZERO, 512, NULL, 1024), 0);
    assert_int_equal(stat(f->path, &after), 0);
    assert_int_equal(after.st_size, SIZE);
    assert_true(after.st_blocks < before.st_blocks);
    assert_int_equal(one(f, DISK_READ, 0, b, 4096), 0);
    memset(a + 512, 0, 1024);
    assert_memory_equal(a, b, 4096);
    free(a);
    free(b);
}

static void holes(void **state)
{
    each(do_holes);
}

/* The image is cut while in use: what is gone is an error, and nothing grows it again. */
static void do_shrinks(struct fixture *f)
{
    u8 *a = aligned_alloc(4096, 8192);
    struct stat st;
    fill(a, 8192, 1);
    assert_int_equal(one(f, DISK_WRITE, SIZE - 8192, a, 8192), 0);
    assert_int_equal(truncate(f->path, SIZE / 2), 0);
    assert_int_equal(one(f, DISK_READ, SIZE - 8192, a, 8192), -EIO);
    assert_int_equal(one(f, DISK_READ, SIZE / 2 - 4096, a, 8192), -EIO); /* a part is there */
    assert_int_equal(one(f, DISK_READ, 0, a, 8192), 0);
    assert_int_equal(one(f, DISK_WRITE, SIZE - 8192, a, 8192), -EIO);
    assert_int_equal(one(f, DISK_ZERO, SIZE - 8192, NULL, 8192), -EIO);
    assert_int_equal(stat(f->path, &st), 0);
    assert_int_equal(st.st_size, SIZE / 2);
    free(a);
}

static void shrinks(void **state)
{
    each(do_shrinks);
}

/* A limit on file sizes stands for a full file system: the write fails, all else goes on. */
static void no_space(void **state)
{
    struct fixture f;
    u8 *a = aligned_alloc(4096, 4096);
    signal(SIGXFSZ, SIG_IGN);
    assert_true(begin(&f, DISK_ENGINE_THREADS, DISK_CACHE_WRITEBACK));
    struct rlimit old, r;
    getrlimit(RLIMIT_FSIZE, &old);
    r = (struct rlimit){SIZE / 2, old.rlim_max};
    fill(a, 4096, 1);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &r), 0);
    int failed = one(&f, DISK_WRITE, SIZE - 4096, a, 4096), worked = one(&f, DISK_WRITE, 0, a, 4096);
    setrlimit(RLIMIT_FSIZE, &old);
    assert_int_equal(failed, -EFBIG);
    assert_int_equal(worked, 0);
    end(&f);
    free(a);
}

/* Of linux/mman.h since 6.5: what the page cache holds of a file. */
struct cache_range {
    u64 offset, len;
};
struct cache_state {
    u64 cached, dirty, writeback, evicted, recently_evicted;
};
#define SYS_CACHESTAT 451

/* Pages of the image that are not on the disk yet; -1: this kernel does not say. */
static s64 unwritten(const struct fixture *f)
{
    struct cache_range all = {0};
    struct cache_state s = {0};
    struct statfs fs;
    int fd = open(f->path, O_RDONLY);
    long r = syscall(SYS_CACHESTAT, fd, &all, &s, 0);
    bool memory = fstatfs(fd, &fs) == 0 && fs.f_type == TMPFS_MAGIC;
    close(fd);
    return r < 0 || memory ? -1 : (s64)(s.dirty + s.writeback);
}

/* A flush leaves nothing in memory alone, a write with cache=writethrough neither; one with writeback does. */
static void do_flushes(struct fixture *f)
{
    enum { LEN = 65536 };
    u8 *a = aligned_alloc(4096, LEN);
    bool cached = disk_cache_mode(f->d) == DISK_CACHE_WRITEBACK;
    fill(a, LEN, 5);
    assert_int_equal(one(f, DISK_FLUSH, 0, NULL, 0), 0);
    if (unwritten(f) >= 0) {
        assert_int_equal(one(f, DISK_WRITE, LEN, a, LEN), 0);
        assert_int_equal(unwritten(f), cached ? LEN / 4096 : 0);
        assert_int_equal(one(f, DISK_FLUSH, 0, NULL, 0), 0);
        assert_int_equal(unwritten(f), 0);
    } else {
        print_message("# this kernel does not say what is dirty\n");
    }
    free(a);
}

static void flushes(void **state)
{
    each(do_flushes);
}

/* What follows a result, without a kernel that gives it. */
static void results(void **state)
{
    struct disk d = {.fd = 5, .direct_fd = 6, .device = true, .size = SIZE};
    u8 *p = aligned_alloc(4096, 8192);
    struct iovec v[2] = {{p, 4096}, {p + 4096, 4096}};
    struct disk_io io = {.disk = &d, .op = DISK_WRITE, .offset = 512, .len = 8192, .iov = v, .n_iov = 2};
    struct disk_try t;
    assert_int_equal(disk_begin(&io), 0);
    disk_try(&io, &t);
    assert_true(t.fd == 6 && t.index == 1 && t.offset == 512);
    assert_false(disk_tried(&io, -EINTR));
    assert_false(disk_tried(&io, 4096 + 512)); /* a part: the rest */
    disk_try(&io, &t);
    assert_true(t.fd == 6 && t.offset == 512 + 4608 && t.n_iov == 1 && t.iov->iov_base == p + 4608 && t.len == 3584);
    assert_false(disk_tried(&io, 100)); /* not aligned any more */
    disk_try(&io, &t);
    assert_int_equal(t.fd, 5);
    assert_true(disk_tried(&io, 3484));
    assert_int_equal(io.result, 0);
    io = (struct disk_io){.disk = &d, .op = DISK_READ, .len = 4096, .iov = v, .n_iov = 1};
    v[0] = (struct iovec){p, 4096};
    assert_int_equal(disk_begin(&io), 0);
    assert_false(disk_tried(&io, -EINVAL)); /* the file system wants more alignment than we know of */
    disk_try(&io, &t);
    assert_int_equal(t.fd, 5);
    assert_true(disk_tried(&io, -EIO));
    assert_int_equal(io.result, -EIO);
    /* zeros that have to be written */
    io = (struct disk_io){.disk = &d, .op = DISK_ZERO, .len = SIZE};
    assert_int_equal(disk_begin(&io), 0);
    disk_try(&io, &t);
    assert_int_equal(t.call, CALL_ALLOCATE);
    bool done = disk_tried(&io, -EOPNOTSUPP);
    u64 written = 0;
    while (!done) {
        disk_try(&io, &t);
        assert_int_equal(t.call, CALL_WRITE);
        u64 n = 0;
        for (unsigned i = 0; i < t.n_iov; i++)
            n += t.iov[i].iov_len;
        assert_true(n && t.offset == written);
        written += n;
        done = disk_tried(&io, (s64)n);
    }
    assert_true(written == SIZE && !io.result);
    io = (struct disk_io){.disk = &d, .op = DISK_DISCARD, .len = SIZE};
    assert_int_equal(disk_begin(&io), 0);
    assert_true(disk_tried(&io, -EOPNOTSUPP));
    assert_int_equal(io.result, -EOPNOTSUPP);
    free(p);
}

static void expect_refusal(const struct disk_options *o, int code, const char *word)
{
    struct disk *d;
    struct error e = {0};
    assert_int_equal(disk_open(&d, o, &e), -code);
    if (!strstr(e.msg, word) || !strstr(e.msg, o->path))
        fail_msg("\"%s\" does not say \"%s\"", e.msg, word);
}

static void opening(void **state)
{
    char path[64];
    struct disk *a, *b;
    struct error e = {0};
    struct disk_options o = {.path = new_file(path, SIZE)};
    assert_int_equal(disk_open(&a, &o, &e), 0);
    expect_refusal(&o, EBUSY, "another machine or program uses it");
    o.read_only = true;
    expect_refusal(&o, EBUSY, "another machine or program uses it");
    disk_close(a);
    assert_int_equal(disk_open(&a, &o, &e), 0);
    assert_int_equal(disk_open(&b, &o, &e), 0); /* readers together */
    struct disk_info info = {0};
    disk_describe(a, &info);
    assert_true(info.sectors == SIZE / 512 && info.flags & DISK_READ_ONLY);
    o.read_only = false;
    expect_refusal(&o, EBUSY, "another machine or program uses it");
    disk_close(a);
    disk_close(b);
    assert_int_equal(truncate(path, 1000), 0);
    expect_refusal(&o, EINVAL, "1000 bytes");
    assert_int_equal(truncate(path, 0), 0);
    expect_refusal(&o, EINVAL, "0 bytes");
    unlink(path);
    expect_refusal(&o, ENOENT, "No such file");
    o.path = "/dev/null";
    expect_refusal(&o, EINVAL, "neither");
    o.path = "/tmp";
    o.read_only = true;
    expect_refusal(&o, EINVAL, "neither");
}

static void formats(void **state)
{
    struct error e = {0};
    assert_int_equal(disk_format_find("", "/x/a.img", &e), DISK_RAW);
    assert_int_equal(disk_format_find("", "a.raw", &e), DISK_RAW);
    assert_int_equal(disk_format_find("raw", "a.qcow2", &e), DISK_RAW);
    assert_int_equal(disk_format_find("", "/x.img/a", &e), -EINVAL);
    assert_int_equal(disk_format_find("", "a.im", &e), -EINVAL);
    assert_int_equal(disk_format_find("", "a.qcow2", &e), -ENOSYS);
    assert_int_equal(disk_format_find("vmdk", "a.img", &e), -EINVAL);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(transfers), cmocka_unit_test(many_at_once), cmocka_unit_test(holes),
        cmocka_unit_test(shrinks),   cmocka_unit_test(no_space),     cmocka_unit_test(flushes),
        cmocka_unit_test(results),   cmocka_unit_test(opening),      cmocka_unit_test(formats),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
