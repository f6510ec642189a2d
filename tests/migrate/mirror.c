/*
 * Disks that go along, from file to file through a stream in memory: while somebody writes, discards and zeroes between the sends, and
 * with a last block that is short. What was not marked is found by looking again; each record that is bent is refused.
 */
#include "migrate/mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <cmocka.h>

#define BYTES (37 * (u64)BLOCKMAP_BLOCK + 3 * 512)

struct world {
    char dir[64], path[96], made[96];
    int file; /* the disk */
    u8 *data; /* the stream */
    size_t len, cap, at;
    size_t last; /* where the last record of a disk begins */
    struct mirror_out out;
    struct mirror_in in;
    struct stream_out so;
    u64 seed;
};

static u64 any(struct world *w, u64 below)
{
    w->seed = w->seed * 6364136223846793005ull + 1442695040888963407ull;
    return (w->seed >> 33) % below;
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
    return 0;
}

static int get(void *ctx, void *data, size_t len, struct error *e)
{
    struct world *w = ctx;
    if (w->len - w->at < len)
        return error_set(e, EBADMSG, "it is cut short");
    memcpy(data, w->data + w->at, len);
    w->at += len;
    return 0;
}

static int take(void *ctx, u32 type, const u8 *payload, u32 len, struct error *e)
{
    struct world *w = ctx;
    return mirror_take(&w->in, type, payload, len, e);
}

/* As a guest does it; `marked`: the keeper saw it. */
static void write_some(struct world *w, bool marked)
{
    static u8 buf[3 * BLOCKMAP_BLOCK];
    u64 at = any(w, BYTES / 512) * 512, len = MIN((any(w, sizeof(buf) / 512) + 1) * 512, BYTES - at);
    switch (any(w, 4)) {
    case 0:
        assert_return_code(fallocate(w->file, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)len), 0);
        break;
    case 1:
        memset(buf, 0, len);
        assert_int_equal(pwrite(w->file, buf, len, (off_t)at), len);
        break;
    default:
        memset(buf, (int)any(w, 255) + 1, len);
        assert_int_equal(pwrite(w->file, buf, len, (off_t)at), len);
    }
    if (marked)
        blockmap_mark(&w->out.disk[0].todo, at, len);
}

static void begin(struct world *w, bool direct, bool pack)
{
    struct error e = {0};
    const struct stream_head h = {.page_size = PAGE_SIZE, .ram_size = PAGE_SIZE};
    *w = (struct world){.dir = "/tmp/trapeze-mirror-XXXXXX", .seed = direct + 2u * pack + 20261124};
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->path, sizeof(w->path), "%s/disk", w->dir);
    snprintf(w->made, sizeof(w->made), "%s/made", w->dir);
    w->file = open(w->path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    assert_return_code(w->file, 0);
    assert_return_code(ftruncate(w->file, BYTES), 0);
    for (unsigned i = 0; i < 8; i++)
        write_some(w, false);
    w->so = (struct stream_out){.put = put, .ctx = w, .pack = pack};
    assert_int_equal(stream_begin(&w->so, &h, &e), 0);
    assert_int_equal(stream_put_config(&w->so, "{}", &e), 0);
    assert_int_equal(mirror_add(&w->out, w->file, BYTES, direct, &e), 0);
    assert_int_equal(mirror_create(&w->in, w->made, BYTES, &e), 0);
}

static void end(struct world *w)
{
    mirror_out_free(&w->out);
    mirror_in_free(&w->in);
    stream_out_free(&w->so);
    close(w->file);
    unlink(w->path);
    unlink(w->made);
    rmdir(w->dir);
    free(w->data);
}

static void finish(struct world *w)
{
    struct error e = {0};
    w->last = w->len;
    assert_int_equal(mirror_put_digests(&w->out, &w->so, &e), 0);
    assert_int_equal(stream_put_state(&w->so, "state", 5, &e), 0);
    assert_int_equal(stream_put_end(&w->so, &e), 0);
}

static int read_back(struct world *w, struct error *e)
{
    u8 *ram = aligned_alloc(PAGE_SIZE, PAGE_SIZE);
    char *config = NULL;
    struct rec_buf state = {0};
    struct stream_in s = {.get = get, .ctx = w, .disk = take};
    memset(ram, 0, PAGE_SIZE);
    w->at = 0;
    int r = stream_open(&s, e);
    if (r == 0 && (r = stream_get_config(&s, &config, e)) == 0 && (r = stream_get_machine(&s, ram, &state, e)) == 0)
        r = mirror_complete(&w->in, e);
    rec_buf_free(&state);
    stream_in_free(&s);
    free(config);
    free(ram);
    return r;
}

static u8 *contents(const char *path)
{
    u8 *p = malloc(BYTES + 1);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    assert_return_code(fd, 0);
    assert_int_equal(pread(fd, p, BYTES + 1, 0), BYTES);
    close(fd);
    return p;
}

static u64 allocated(const char *path)
{
    struct stat st;
    assert_return_code(stat(path, &st), 0);
    return (u64)st.st_blocks * 512;
}

static void round_trip(bool direct, bool pack)
{
    struct world w;
    struct error e = {0};
    begin(&w, direct, pack);
    for (unsigned round = 0; round < 40; round++) {
        assert_int_equal(mirror_send(&w.out, &w.so, NULL, NULL, &e), 0);
        assert_int_equal(mirror_left(&w.out), 0);
        for (u64 n = any(&w, 5); n; n--)
            write_some(&w, true);
    }
    assert_int_equal(mirror_send(&w.out, &w.so, NULL, NULL, &e), 0);
    assert_int_equal(mirror_verify(&w.out, &e), 0);
    finish(&w);
    assert_int_equal(read_back(&w, &e), 0);
    u8 *was = contents(w.path), *now = contents(w.made);
    assert_memory_equal(was, now, BYTES);
    assert_true(allocated(w.made) <= BYTES + BLOCKMAP_BLOCK);
    free(was);
    free(now);
    end(&w);
}

static void test_round_trip(void **state)
{
    for (unsigned i = 0; i < 4; i++)
        round_trip(i & 1, i & 2);
}

/* Nothing but holes takes nothing, on the wire and there; a file that is there already is left alone. */
static void test_holes(void **state)
{
    struct world w;
    struct error e = {0};
    begin(&w, false, false);
    assert_return_code(ftruncate(w.file, 0), 0);
    assert_return_code(ftruncate(w.file, BYTES), 0);
    size_t before = w.len;
    mirror_out_free(&w.out);
    assert_int_equal(mirror_add(&w.out, w.file, BYTES, false, &e), 0);
    assert_int_equal(mirror_left(&w.out), 0);
    blockmap_mark(&w.out.disk[0].todo, 0, BYTES);
    assert_int_equal(mirror_send(&w.out, &w.so, NULL, NULL, &e), 0);
    assert_int_equal(w.len, before);
    finish(&w);
    assert_int_equal(read_back(&w, &e), 0);
    assert_int_equal(allocated(w.made), 0);
    assert_int_equal(mirror_create(&w.in, w.path, BYTES, &e), -EEXIST);
    end(&w);
}

static void test_missed_write(void **state)
{
    struct world w;
    struct error e = {0};
    begin(&w, false, false);
    assert_int_equal(mirror_send(&w.out, &w.so, NULL, NULL, &e), 0);
    assert_int_equal(pwrite(w.file, "missed", 6, 5 * BLOCKMAP_BLOCK + 77), 6);
    assert_int_equal(mirror_verify(&w.out, &e), -EILSEQ);
    assert_non_null(strstr(e.msg, "1 blocks"));
    assert_non_null(strstr(e.msg, "block 5"));
    blockmap_mark(&w.out.disk[0].todo, 0, 1);
    assert_int_equal(mirror_put_digests(&w.out, &w.so, &e), -EIO); /* something is left */
    end(&w);
}

static void test_cut_short(void **state)
{
    struct world w;
    struct error e = {0};
    begin(&w, false, false);
    blockmap_mark(&w.out.disk[0].todo, 0, BYTES);
    assert_return_code(ftruncate(w.file, 9 * BLOCKMAP_BLOCK), 0);
    assert_int_equal(mirror_send(&w.out, &w.so, NULL, NULL, &e), -EIO);
    assert_non_null(strstr(e.msg, "cut short"));
    end(&w);
}

/* Each byte of the digest's record in turn; and without it, though all else is right. */
static void test_digest(void **state)
{
    struct world w;
    struct error e = {0};
    begin(&w, false, false);
    assert_int_equal(mirror_send(&w.out, &w.so, NULL, NULL, &e), 0);
    finish(&w);
    u8 payload[STREAM_SUM_LEN];
    memcpy(payload, w.data + w.last + REC_HEADER, sizeof(payload));
    assert_int_equal(read_back(&w, &e), 0);
    for (unsigned i = 0; i < sizeof(payload); i++) {
        w.in.disk[0].summed = false;
        payload[i] ^= 0x10;
        assert_int_equal(mirror_take(&w.in, STREAM_DISK_SUM, payload, sizeof(payload), &e), -EBADMSG);
        payload[i] ^= 0x10;
    }
    e = (struct error){0};
    assert_int_equal(mirror_complete(&w.in, &e), -EBADMSG);
    assert_non_null(strstr(e.msg, "no digest"));
    assert_int_equal(mirror_take(&w.in, STREAM_DISK_SUM, payload, sizeof(payload), &e), 0);
    assert_int_equal(mirror_take(&w.in, STREAM_DISK_SUM, payload, sizeof(payload), &e), -EBADMSG); /* twice */
    end(&w);
}

static void test_sizes(void **state)
{
    assert_true(mirror_size_good(512));
    assert_true(mirror_size_good(MIRROR_BYTES_MAX));
    assert_false(mirror_size_good(0));
    assert_false(mirror_size_good(513));
    assert_false(mirror_size_good(MIRROR_BYTES_MAX + 512));
    assert_false(mirror_size_good(UINT64_MAX - 511));
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_round_trip),   cmocka_unit_test(test_holes),
                                       cmocka_unit_test(test_missed_write), cmocka_unit_test(test_cut_short),
                                       cmocka_unit_test(test_digest),       cmocka_unit_test(test_sizes)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
