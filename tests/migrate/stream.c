/* The stream and its file: what goes in comes out, and what is damaged, cut short or hostile is refused. */
#include "base/bytes.h"
#include "migrate/file.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#include <cmocka.h>

#define CONFIG "{\"name\":\"web\"}"
#define STATE  "records of a machine"

/* A stream in memory. */
struct bytes {
    u8 *data;
    size_t len, at;
};

static int put(void *ctx, const void *data, size_t len, struct error *e)
{
    struct bytes *b = ctx;
    b->data = realloc(b->data, b->len + len);
    assert_non_null(b->data);
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

static u8 *new_ram(u64 pages)
{
    u8 *ram = mmap(NULL, pages * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    assert_true(ram != MAP_FAILED);
    return ram;
}

static void fill(u8 *ram, u64 page, u32 seed)
{
    for (u64 i = 0; i < PAGE_SIZE; i += 4)
        put_le32(ram + page * PAGE_SIZE + i, seed = seed * 1664525 + 1013904223);
}

static void write_stream(struct stream_out *o, const u8 *ram, u64 pages, int fd)
{
    struct stream_head h = {.page_size = PAGE_SIZE, .ram_size = pages * PAGE_SIZE, .created = 1700000000, .id = {1, 2}};
    struct error e = {0};
    assert_int_equal(stream_begin(o, &h, &e), 0);
    assert_int_equal(stream_put_config(o, CONFIG, &e), 0);
    assert_int_equal(stream_put_memory(o, ram, pages * PAGE_SIZE, fd, &e), 0);
    assert_int_equal(stream_put_state(o, STATE, sizeof(STATE), &e), 0);
    assert_int_equal(stream_put_end(o, &e), 0);
    stream_out_free(o);
}

/* Read all of it; 0 or -errno. The memory that came is left in *ram if it is not NULL. */
static int read_stream(struct stream_in *s, u8 **ram, struct error *e)
{
    char *config = NULL;
    struct rec_buf state = {0};
    u8 *to = NULL;
    int r = stream_open(s, e);
    u64 size = r == 0 ? s->head.ram_size : 0;
    if (r == 0)
        r = stream_get_config(s, &config, e);
    if (r == 0 && size <= 64 << 20) {
        to = new_ram(size / PAGE_SIZE);
        r = stream_get_machine(s, to, &state, e);
    } else if (r == 0) {
        r = -EFBIG;
    }
    if (r == 0) {
        assert_string_equal(config, CONFIG);
        assert_int_equal(state.len, sizeof(STATE));
        assert_memory_equal(state.data, STATE, sizeof(STATE));
    } else {
        assert_true(r == -EFBIG || e->code);
    }
    free(config);
    rec_buf_free(&state);
    stream_in_free(s);
    if (ram && r == 0)
        *ram = to;
    else if (to)
        munmap(to, size);
    return r;
}

static int read_bytes(const struct bytes *b, u8 **ram)
{
    struct bytes copy = {b->data, b->len, 0};
    struct stream_in s = {.get = get, .ctx = &copy};
    struct error e = {0};
    int r = read_stream(&s, ram, &e);
    return r == 0 && copy.at != b->len ? -EBADMSG : r;
}

static struct bytes small_stream(bool aligned)
{
    struct bytes b = {0};
    struct stream_out o = {.put = put, .ctx = &b, .aligned = aligned};
    u8 *ram = new_ram(6);
    fill(ram, 1, 7);
    fill(ram, 4, 8);
    write_stream(&o, ram, 6, -1);
    munmap(ram, 6 * PAGE_SIZE);
    return b;
}

/* More pages than a record has, holes, single pages, with and without alignment. */
static void test_round_trip(void **state)
{
    const u64 pages = 1000;
    u8 *ram = new_ram(pages), *back = NULL;
    for (u64 i = 0; i < pages; i++)
        if (i < 200 || i % 7 == 0)
            fill(ram, i, (u32)i);
    for (int aligned = 0; aligned < 2; aligned++) {
        struct bytes b = {0};
        struct stream_out o = {.put = put, .ctx = &b, .aligned = aligned};
        write_stream(&o, ram, pages, -1);
        assert_int_equal(read_bytes(&b, &back), 0);
        assert_memory_equal(ram, back, pages * PAGE_SIZE);
        munmap(back, pages * PAGE_SIZE);
        free(b.data);
    }
    munmap(ram, pages * PAGE_SIZE);
}

/* Where pages lie in a file that is to be mapped. */
static void test_aligned(void **state)
{
    struct bytes b = small_stream(true);
    unsigned found = 0;
    for (size_t at = 0; at < b.len; at += REC_HEADER + get_le32(b.data + at + 8)) {
        if (memcmp(b.data + at, "PAGE", 4))
            continue;
        assert_int_equal((at + REC_HEADER + 16) % PAGE_SIZE, 0);
        found++;
    }
    assert_int_equal(found, 2);
    free(b.data);
}

/* A memfd's holes are passed over without being filled. */
static void test_holes(void **state)
{
    const u64 pages = 4096;
    struct bytes b = {0};
    struct stream_out o = {.put = put, .ctx = &b};
    struct stat before, after;
    u8 *back = NULL;
    int fd = memfd_create("ram", MFD_CLOEXEC);
    assert_true(fd >= 0 && ftruncate(fd, pages * PAGE_SIZE) == 0);
    u8 *ram = mmap(NULL, pages * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    assert_true(ram != MAP_FAILED);
    fill(ram, 100, 1);
    fill(ram, 4095, 2);
    fstat(fd, &before);
    write_stream(&o, ram, pages, fd);
    fstat(fd, &after);
    assert_int_equal(before.st_blocks, after.st_blocks);
    assert_in_range(b.len, 2 * PAGE_SIZE, 3 * PAGE_SIZE);
    assert_int_equal(read_bytes(&b, &back), 0);
    assert_memory_equal(ram, back, pages * PAGE_SIZE);
    munmap(back, pages * PAGE_SIZE);
    munmap(ram, pages * PAGE_SIZE);
    close(fd);
    free(b.data);
}

/* Every single changed byte is noticed, wherever it is. */
static void test_flips(void **state)
{
    struct bytes b = small_stream(false);
    for (size_t i = 0; i < b.len; i++) {
        u8 was = b.data[i];
        b.data[i] ^= (u8)(1u << i % 8);
        if (read_bytes(&b, NULL) == 0)
            fail_msg("byte %zu changed, and nobody noticed", i);
        b.data[i] = was;
    }
    assert_int_equal(read_bytes(&b, NULL), 0);
    free(b.data);
}

static void test_cut_short(void **state)
{
    struct bytes b = small_stream(true), cut = b;
    for (cut.len = 0; cut.len<b.len; cut.len += cut.len % PAGE_SIZE> 200 ? 97 : 1)
        assert_true(read_bytes(&cut, NULL) < 0);
    free(b.data);
}

/* Records left out, doubled or in another order; PAGE and ZERO may come again. */
static void test_order(void **state)
{
    struct bytes b = small_stream(false);
    size_t start[16], n = 0;
    for (size_t at = 0; at < b.len; at += REC_HEADER + get_le32(b.data + at + 8))
        start[n++] = at;
    start[n] = b.len;
    assert_int_equal(n, 7);
    for (size_t i = 0; i < n; i++) {
        struct bytes without = {0}, twice = {0}, swapped = {0};
        put(&without, b.data, start[i], NULL);
        put(&without, b.data + start[i + 1], b.len - start[i + 1], NULL);
        put(&twice, b.data, start[i + 1], NULL);
        put(&twice, b.data + start[i], b.len - start[i], NULL);
        assert_true(read_bytes(&without, NULL) < 0);
        assert_true(read_bytes(&twice, NULL) < 0); /* the count in TEND is wrong */
        if (i + 1 < n && memcmp(b.data + start[i], b.data + start[i + 1], 4)) {
            put(&swapped, b.data, start[i], NULL);
            put(&swapped, b.data + start[i + 1], start[i + 2] - start[i + 1], NULL);
            put(&swapped, b.data + start[i], start[i + 1] - start[i], NULL);
            put(&swapped, b.data + start[i + 2], b.len - start[i + 2], NULL);
            assert_true(read_bytes(&swapped, NULL) < 0);
        }
        free(without.data);
        free(twice.data);
        free(swapped.data);
    }
    free(b.data);
}

/* Put a record with a right checksum in the place of the first of that type, and see that it is refused. */
static void refuse(const char *type, const void *payload, u32 len)
{
    struct bytes b = small_stream(false), out = {0};
    u8 header[REC_HEADER];
    size_t at = 0;
    while (memcmp(b.data + at, type, 4))
        at += REC_HEADER + get_le32(b.data + at + 8);
    rec_put_header(header, get_le32(b.data + at), 1, 0, payload, len);
    put(&out, b.data, at, NULL);
    put(&out, header, sizeof(header), NULL);
    put(&out, payload, len, NULL);
    at += REC_HEADER + get_le32(b.data + at + 8);
    put(&out, b.data + at, b.len - at, NULL);
    assert_true(read_bytes(&out, NULL) < 0);
    free(out.data);
    free(b.data);
}

static void refuse_pages(u64 first, u32 n, u32 encoding, u32 len)
{
    u8 *p = calloc(1, 16 + len);
    put_le64(p, first);
    put_le32(p + 8, n);
    put_le32(p + 12, encoding);
    refuse("PAGE", p, 16 + len);
    free(p);
}

static void test_hostile(void **state)
{
    refuse_pages(6, 1, 0, PAGE_SIZE);
    refuse_pages(5, 2, 0, 2 * PAGE_SIZE);
    refuse_pages(UINT64_MAX, 1, 0, PAGE_SIZE);
    refuse_pages(UINT64_MAX, 2, 0, 2 * PAGE_SIZE);
    refuse_pages(0, 0, 0, 0);
    refuse_pages(0, 1, 1, PAGE_SIZE);
    refuse_pages(0, 2, 0, PAGE_SIZE);
    refuse_pages(0, 65, 0, 65 * PAGE_SIZE);
    refuse_pages(0, UINT32_MAX, 0, PAGE_SIZE);
    refuse("PAGE", "", 0);
    refuse("CONF", "", 0);
    refuse("CONF", "a\0b", 3);
    refuse("DGST", "0123456789abcdef", 16);
    refuse("DGST", "0123456789abcde", 15);
    refuse("TEND", "\6\0\0\0\0\0\0\0", 8);
    struct stream_head h = {.page_size = 8192, .ram_size = 6 * PAGE_SIZE};
    refuse("TRPZ", &h, sizeof(h));
    h = (struct stream_head){.page_size = PAGE_SIZE, .ram_size = 0};
    refuse("TRPZ", &h, sizeof(h));
    h.ram_size = 12345;
    refuse("TRPZ", &h, sizeof(h));
    h.ram_size = 1ull << 63;
    refuse("TRPZ", &h, sizeof(h));
    h = (struct stream_head){.page_size = PAGE_SIZE, .ram_size = 6 * PAGE_SIZE, .flags = 1};
    refuse("TRPZ", &h, sizeof(h));
}

/* Lengths that nobody may believe: the reader must not even ask for so much. */
static void test_lengths(void **state)
{
    struct bytes b = small_stream(false);
    for (size_t at = 0; at < b.len;) {
        u32 len = get_le32(b.data + at + 8);
        put_le32(b.data + at + 8, 0xfffffff0u);
        assert_true(read_bytes(&b, NULL) < 0);
        put_le32(b.data + at + 8, len);
        at += REC_HEADER + len;
    }
    free(b.data);
}

/* A page that has become zero. */
static void test_zero(void **state)
{
    struct bytes b = small_stream(false), out = {0};
    u8 header[REC_HEADER], range[16], *back = NULL;
    size_t at = 0;
    while (memcmp(b.data + at, "MACH", 4))
        at += REC_HEADER + get_le32(b.data + at + 8);
    put_le64(range, 1);
    put_le64(range + 8, 1);
    rec_put_header(header, REC_TYPE('Z', 'E', 'R', 'O'), 1, 0, range, sizeof(range));
    put(&out, b.data, at, NULL);
    put(&out, header, sizeof(header), NULL);
    put(&out, range, sizeof(range), NULL);
    put(&out, b.data + at, b.len - at, NULL);
    /* Digest and count are those of the memory with that page. */
    struct stream_out o = {.put = put, .ctx = &(struct bytes){0}};
    struct error e = {0};
    struct stream_head h = {.page_size = PAGE_SIZE, .ram_size = 6 * PAGE_SIZE};
    u8 *ram = new_ram(6), digest[DIGEST_LEN];
    fill(ram, 4, 8);
    assert_int_equal(stream_begin(&o, &h, &e), 0);
    sums_note(&o.sums, 0, 6, ram);
    sums_digest(&o.sums, digest);
    at = out.len - 2 * REC_HEADER - DIGEST_LEN - 8;
    rec_put_header(out.data + at, REC_TYPE('D', 'G', 'S', 'T'), 1, 0, digest, DIGEST_LEN);
    memcpy(out.data + at + REC_HEADER, digest, DIGEST_LEN);
    at += REC_HEADER + DIGEST_LEN;
    put_le64(out.data + at + REC_HEADER, get_le64(out.data + at + REC_HEADER) + 1);
    rec_put_header(out.data + at, REC_TYPE('T', 'E', 'N', 'D'), 1, 0, out.data + at + REC_HEADER, 8);
    assert_int_equal(read_bytes(&out, &back), 0);
    assert_memory_equal(ram, back, 6 * PAGE_SIZE);
    munmap(back, 6 * PAGE_SIZE);
    munmap(ram, 6 * PAGE_SIZE);
    free(((struct bytes *)o.ctx)->data);
    stream_out_free(&o);
    free(out.data);
    free(b.data);
}

/* --- files --- */

static int read_file(int dir, const char *name)
{
    struct stream_file f;
    struct stream_in s = {0};
    struct error e = {0};
    int r = stream_file_open(&f, dir, name, &s, &e);
    if (r < 0)
        return r;
    r = read_stream(&s, NULL, &e);
    if (r == 0)
        r = stream_file_at_end(&f, &e);
    stream_file_close(&f);
    return r;
}

static void test_file(void **state)
{
    char path[] = "/tmp/stream-XXXXXX";
    struct stream_file f, other;
    struct stream_out o = {0}, o2 = {0};
    struct error e = {0};
    u8 *ram = new_ram(6);
    fill(ram, 2, 3);
    assert_non_null(mkdtemp(path));
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    assert_int_equal(read_file(dir, "a"), -ENOENT);
    assert_int_equal(stream_file_create(&f, dir, "a", &o, &e), 0);
    assert_int_equal(stream_file_create(&other, dir, "a", &o2, &e), -EBUSY);
    write_stream(&o, ram, 6, -1);
    assert_int_equal(read_file(dir, "a"), -ENOENT); /* not before it is whole */
    assert_int_equal(stream_file_commit(&f, NULL), 0);
    assert_int_equal(read_file(dir, "a"), 0);
    /* Another that is given up leaves the old one. */
    assert_int_equal(stream_file_create(&f, dir, "a", &o, NULL), 0);
    write_stream(&o, ram, 6, -1);
    stream_file_abandon(&f);
    assert_int_equal(read_file(dir, "a"), 0);
    assert_int_equal(faccessat(dir, "a.part", F_OK, 0), -1);
    /* What a crash left is taken over; what stands behind the end is found. */
    close(openat(dir, "a.part", O_WRONLY | O_CREAT, 0600));
    assert_int_equal(stream_file_create(&f, dir, "a", &o, NULL), 0);
    write_stream(&o, ram, 6, -1);
    assert_int_equal(stream_file_commit(&f, NULL), 0);
    int fd = openat(dir, "a", O_WRONLY | O_APPEND);
    assert_int_equal(write(fd, "x", 1), 1);
    close(fd);
    assert_int_equal(read_file(dir, "a"), -EBADMSG);
    unlinkat(dir, "a", 0);
    assert_int_equal(mkdirat(dir, "d", 0700), 0);
    assert_int_equal(read_file(dir, "d"), -EINVAL);
    unlinkat(dir, "d", AT_REMOVEDIR);
    close(dir);
    assert_int_equal(rmdir(path), 0);
    munmap(ram, 6 * PAGE_SIZE);
}

/* A disk that is full: an error, and nothing left. */
static void test_no_space(void **state)
{
    struct stream_file f;
    struct stream_out o = {0};
    struct error e = {0};
    struct stream_head h = {.page_size = PAGE_SIZE, .ram_size = 6 * PAGE_SIZE};
    char path[] = "/tmp/stream-XXXXXX";
    assert_non_null(mkdtemp(path));
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC), full = open("/dev/full", O_WRONLY | O_CLOEXEC);
    assert_int_equal(stream_file_create(&f, dir, "a", &o, &e), 0);
    dup2(full, f.fd);
    assert_int_equal(stream_begin(&o, &h, &e), -ENOSPC);
    assert_non_null(strstr(e.msg, "a: cannot be written"));
    stream_out_free(&o);
    stream_file_abandon(&f);
    close(full);
    close(dir);
    assert_int_equal(rmdir(path), 0);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_round_trip), cmocka_unit_test(test_aligned),   cmocka_unit_test(test_holes),
        cmocka_unit_test(test_flips),      cmocka_unit_test(test_cut_short), cmocka_unit_test(test_order),
        cmocka_unit_test(test_hostile),    cmocka_unit_test(test_lengths),   cmocka_unit_test(test_zero),
        cmocka_unit_test(test_file),       cmocka_unit_test(test_no_space),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
