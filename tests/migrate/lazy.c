/* Memory that is read from its file page by page: what was written comes, and what is damaged, short or hostile never does. */
#include "base/bytes.h"
#include "migrate/lazy.h"

#include <errno.h>
#include <fcntl.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <cmocka.h>

#define PAGES  300u
#define CONFIG "{\"name\":\"web\"}"
#define STATE  "records of a machine"
#define NAME   "one.snapshot"

/* A file in a directory of its own, and what it was made of. */
struct place {
    char dir[32];
    int fd;
    u8 *ram, *bytes;
    size_t len;
};

static void fill(u8 *page, u32 seed)
{
    for (u64 i = 0; i < PAGE_SIZE; i += 4)
        put_le32(page + i, seed = seed * 1664525 + 1013904223);
}

static bool is_used(u64 page)
{
    return page < 130 || page % 7 == 0;
}

static void write_file(struct place *p, bool indexed)
{
    struct stream_file f;
    struct error e = {0};
    struct stream_out o = {.ctx = NULL};
    struct stream_head h = {.page_size = PAGE_SIZE, .ram_size = PAGES * PAGE_SIZE, .created = 1700000000};
    assert_int_equal(stream_file_create(&f, p->fd, NAME, &o, &e), 0);
    o.indexed = indexed;
    assert_int_equal(stream_begin(&o, &h, &e), 0);
    assert_int_equal(stream_put_config(&o, CONFIG, &e), 0);
    assert_int_equal(stream_put_memory(&o, p->ram, PAGES * PAGE_SIZE, -1, &e), 0);
    assert_int_equal(stream_put_state(&o, STATE, sizeof(STATE), &e), 0);
    assert_int_equal(stream_put_end(&o, &e), 0);
    stream_out_free(&o);
    assert_int_equal(stream_file_commit(&f, &e), 0);
}

static void read_back(struct place *p)
{
    int fd = openat(p->fd, NAME, O_RDONLY);
    p->len = (size_t)lseek(fd, 0, SEEK_END);
    free(p->bytes);
    p->bytes = malloc(p->len);
    assert_int_equal(pread(fd, p->bytes, p->len, 0), (ssize_t)p->len);
    close(fd);
}

static void put_bytes(struct place *p, const u8 *bytes, size_t len)
{
    int fd = openat(p->fd, NAME, O_WRONLY | O_CREAT | O_TRUNC, 0600);
    assert_int_equal(write(fd, bytes, len), (ssize_t)len);
    close(fd);
}

static int setup(void **state)
{
    struct place *p = calloc(1, sizeof(*p));
    strcpy(p->dir, "/tmp/lazy.XXXXXX");
    assert_non_null(mkdtemp(p->dir));
    p->fd = open(p->dir, O_RDONLY | O_DIRECTORY);
    p->ram = mmap(NULL, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    for (u64 i = 0; i < PAGES; i++)
        if (is_used(i))
            fill(p->ram + i * PAGE_SIZE, (u32)i);
    write_file(p, true);
    read_back(p);
    *state = p;
    return 0;
}

static int teardown(void **state)
{
    struct place *p = *state;
    unlinkat(p->fd, NAME, 0);
    close(p->fd);
    rmdir(p->dir);
    munmap(p->ram, PAGES * PAGE_SIZE);
    free(p->bytes);
    free(p);
    return 0;
}

/* An open file. */
struct reading {
    struct stream_file f;
    struct stream_in in;
    struct lazy l;
    struct rec_buf state;
    void *base;
};

/* 0: it can be read lazily; 1: it has no index; -errno. */
static int open_file(struct place *p, struct reading *r, struct error *e)
{
    char *config = NULL;
    u64 at = 0;
    *r = (struct reading){.f.fd = -1};
    int rc = stream_file_open(&r->f, p->fd, NAME, &r->in, e);
    if (rc == 0)
        rc = stream_open(&r->in, e);
    if (rc == 0)
        rc = stream_get_config(&r->in, &config, e);
    free(config);
    if (rc < 0 || (rc = lazy_find(&r->f, &at, e)) <= 0)
        return rc < 0 ? rc : 1;
    if (r->in.head.ram_size != PAGES * PAGE_SIZE)
        return -EINVAL;
    r->base = aligned_alloc(PAGE_SIZE, lazy_size(PAGES));
    memset(r->base, 0, lazy_size(PAGES));
    rc = lazy_open(&r->f, &r->in, at, r->base, &r->state, e);
    return rc < 0 ? rc : lazy_attach(&r->l, r->base, PAGES, r->f.fd, e);
}

static void close_file(struct reading *r)
{
    stream_in_free(&r->in);
    stream_file_close(&r->f);
    rec_buf_free(&r->state);
    free(r->base);
}

/* Every page that can be had is the one that was written: how many can not. */
static unsigned look(const struct place *p, const struct reading *r)
{
    unsigned bad = 0;
    u8 page[PAGE_SIZE];
    for (u64 i = 0; i < PAGES; i++) {
        struct error e = {0};
        bool absent = r->l.absent[i / 64] >> (i % 64) & 1;
        assert_int_equal(absent, is_used(i));
        if (!absent)
            continue;
        if (lazy_fetch(&r->l, i, 1, page, &e) == 0) {
            assert_memory_equal(page, p->ram + i * PAGE_SIZE, PAGE_SIZE);
            continue;
        }
        assert_non_null(strstr(e.msg, NAME));
        assert_non_null(strstr(e.msg, "page "));
        bad++;
    }
    return bad;
}

static void whole(void **state)
{
    struct place *p = *state;
    struct reading r;
    struct error e = {0};
    u8 *many = malloc(STREAM_PAGES * PAGE_SIZE);
    assert_int_equal(open_file(p, &r, &e), 0);
    assert_int_equal(look(p, &r), 0);
    assert_int_equal(r.l.head->left, 130 + (PAGES - 1) / 7 - 129 / 7);
    assert_int_equal(r.state.len, sizeof(STATE));
    assert_memory_equal(r.state.data, STATE, sizeof(STATE));
    /* As many at once as lie together. */
    assert_int_equal(lazy_together(&r.l, 0, STREAM_PAGES), STREAM_PAGES);
    assert_int_equal(lazy_together(&r.l, 60, STREAM_PAGES), 4); /* the end of a record */
    assert_int_equal(lazy_together(&r.l, 133, STREAM_PAGES), 1);
    assert_int_equal(lazy_together(&r.l, 134, STREAM_PAGES), 0);
    assert_int_equal(lazy_together(&r.l, PAGES, STREAM_PAGES), 0);
    assert_int_equal(lazy_fetch(&r.l, 64, STREAM_PAGES, many, &e), 0);
    assert_memory_equal(many, p->ram + 64 * PAGE_SIZE, STREAM_PAGES * PAGE_SIZE);
    r.l.absent[0] &= ~BIT(3);
    assert_int_equal(lazy_together(&r.l, 0, STREAM_PAGES), 3);
    close_file(&r);
    free(many);
}

/* The same file read eagerly; and one without an index, as an older version wrote it. */
static void eager(void **state)
{
    struct place *p = *state;
    for (int indexed = 1; indexed >= 0; indexed--) {
        struct stream_file f;
        struct stream_in in = {.ctx = NULL};
        struct rec_buf records = {0};
        struct reading r;
        struct error e = {0};
        char *config = NULL;
        u8 *ram = mmap(NULL, PAGES * PAGE_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        write_file(p, indexed);
        assert_int_equal(stream_file_open(&f, p->fd, NAME, &in, &e), 0);
        assert_int_equal(stream_open(&in, &e), 0);
        assert_int_equal(stream_get_config(&in, &config, &e), 0);
        assert_int_equal(stream_get_machine(&in, ram, &records, &e), 0);
        assert_int_equal(stream_file_at_end(&f, &e), 0);
        assert_memory_equal(ram, p->ram, PAGES * PAGE_SIZE);
        assert_int_equal(open_file(p, &r, &e), !indexed);
        close_file(&r);
        stream_in_free(&in);
        stream_file_close(&f);
        rec_buf_free(&records);
        free(config);
        munmap(ram, PAGES * PAGE_SIZE);
    }
}

/* Wherever a bit is turned: it is found, or lies where nobody looks; never is a page another. */
static void flips(void **state)
{
    struct place *p = *state;
    u8 *copy = malloc(p->len);
    unsigned refused = 0, spoilt = 0;
    for (size_t at = 0; at < p->len; at += at < 200 || p->len - at < 4000 ? 1 : 3001) {
        struct reading r;
        struct error e = {0};
        memcpy(copy, p->bytes, p->len);
        copy[at] ^= (u8)(1u << at % 8);
        put_bytes(p, copy, p->len);
        int rc = open_file(p, &r, &e);
        if (rc == 0) {
            unsigned bad = look(p, &r);
            assert_in_range(bad, 0, 1);
            spoilt += bad;
        }
        refused += rc < 0;
        close_file(&r);
    }
    assert_true(refused > 1000 && spoilt > 100); /* both kinds of damage were there */
    free(copy);
}

static void cut_short(void **state)
{
    struct place *p = *state;
    for (size_t len = 0; len < p->len; len += p->len - len < 3000 ? 7 : 5003) {
        struct reading r;
        struct error e = {0};
        put_bytes(p, p->bytes, len);
        assert_int_not_equal(open_file(p, &r, &e), 0);
        close_file(&r);
    }
    u8 *more = malloc(p->len + 1);
    struct reading r;
    struct error e = {0};
    memcpy(more, p->bytes, p->len);
    more[p->len] = 0;
    put_bytes(p, more, p->len + 1);
    assert_int_not_equal(open_file(p, &r, &e), 0);
    close_file(&r);
    free(more);
}

/* Cut while it is read, and torn: a part of it never reached the disk. */
static void changes_later(void **state)
{
    struct place *p = *state;
    struct reading r;
    struct error e = {0};
    u8 page[PAGE_SIZE], zeros[16 * PAGE_SIZE] = {0};
    assert_int_equal(open_file(p, &r, &e), 0);
    int fd = openat(p->fd, NAME, O_WRONLY);
    assert_int_equal(pwrite(fd, zeros, sizeof(zeros), 20 * PAGE_SIZE), (ssize_t)sizeof(zeros));
    assert_int_equal(look(p, &r), 16);
    assert_int_equal(ftruncate(fd, 8 * PAGE_SIZE), 0);
    assert_int_equal(lazy_fetch(&r.l, 0, 1, page, &e), 0);
    assert_true(lazy_fetch(&r.l, 129, 1, page, &e) < 0);
    assert_non_null(strstr(e.msg, "cut short"));
    assert_non_null(strstr(e.msg, "page 129"));
    close(fd);
    close_file(&r);
}

/* --- hostile ones, with right checksums --- */

static size_t find(const struct place *p, const char *type)
{
    for (size_t at = 0; at < p->len; at += REC_HEADER + get_le32(p->bytes + at + 8))
        if (!memcmp(p->bytes + at, type, 4))
            return at;
    fail_msg("no %s", type);
    return 0;
}

/* Put 8 bytes at `at` of the first record of that type, make its checksum right, and see what that does. */
static void refuse_word(struct place *p, const char *type, u32 at, u64 value)
{
    struct reading r;
    struct error e = {0};
    u8 *copy = malloc(p->len);
    memcpy(copy, p->bytes, p->len);
    u8 *record = copy + find(p, type);
    put_le64(record + REC_HEADER + at, value);
    put_le32(record + 12, crc32c(0, record + REC_HEADER, get_le32(record + 8)));
    put_bytes(p, copy, p->len);
    if (open_file(p, &r, &e) == 0)
        fail_msg("%s: %llx at %u was taken", type, (unsigned long long)value, at);
    assert_true(e.msg[0]);
    close_file(&r);
    free(copy);
}

static void hostile(void **state)
{
    struct place *p = *state;
    const u64 first[] = {PAGES, PAGES - 1, 1ull << 52, UINT64_MAX, UINT64_MAX - 63};
    const u64 offset[] = {0, 1, 4097, p->len & PAGE_MASK, 1ull << 62, UINT64_MAX & PAGE_MASK, INT64_MAX & PAGE_MASK};
    const u64 count[] = {0, 65, UINT32_MAX, 64 | 1ull << 32, 63};
    const u64 index[] = {0, 1, p->len, p->len - STREAM_TAIL + 1, UINT64_MAX, find(p, "PAGE"), find(p, "MACH")};
    for (size_t i = 0; i < ARRAY_LEN(first); i++)
        refuse_word(p, "INDX", 0, first[i]);
    for (size_t i = 0; i < ARRAY_LEN(offset); i++)
        refuse_word(p, "INDX", 8, offset[i]);
    for (size_t i = 0; i < ARRAY_LEN(count); i++)
        refuse_word(p, "INDX", 16, count[i]);
    refuse_word(p, "INDX", 24, 1);           /* a sum: the digest is another */
    refuse_word(p, "INDX", 24 + 64 * 8, 63); /* the second run overlaps the first */
    refuse_word(p, "INDX", 24 + 64 * 8, UINT64_MAX);
    for (size_t i = 1; i < ARRAY_LEN(index); i++)
        refuse_word(p, "TEND", 8, index[i]);
    refuse_word(p, "TEND", 8, 0);
    refuse_word(p, "DGST", 0, 0);
}

/* Pages of a peer: wishes are found by whoever looks, and a claim whose owner died is anybody's again. */
static void wishes(void **state)
{
    struct lazy l, other;
    struct error e = {0};
    u64 page[LAZY_WISHES];
    int place[LAZY_WISHES];
    void *base = calloc(1, lazy_size(PAGES));
    assert_non_null(base);
    lazy_begin(&l, base, PAGES);
    assert_int_equal(lazy_attach(&other, base, PAGES, -1, &e), 0);
    assert_int_equal(lazy_attach(&other, base, PAGES + 1, -1, &e), -EINVAL);
    assert_int_equal(lazy_attach(&other, base, PAGES, -1, &e), 0);
    for (u64 i = 0; i < PAGES; i += 2)
        l.absent[i / 64] |= BIT(i % 64);
    for (u32 i = 0; i < LAZY_WISHES; i++) {
        place[i] = lazy_wish(&l, 2 * i);
        assert_true(place[i] >= 0);
    }
    assert_int_equal(lazy_wish(&l, 2), -1);
    lazy_unwish(&l, -1);
    assert_int_equal(lazy_wishes(&other, page), LAZY_WISHES);
    for (u32 i = 0; i < LAZY_WISHES; i++)
        assert_int_equal(page[i], 2 * i);
    l.absent[0] &= ~BIT(4); /* it has come */
    lazy_unwish(&l, place[5]);
    assert_int_equal(lazy_wishes(&other, page), LAZY_WISHES - 2);
    assert_int_equal(lazy_wish(&l, PAGES),
                     place[5]); /* one that can not be, a lie, is passed over; so is one that is there */
    l.head->wish[place[7]] = UINT64_MAX;
    l.head->wish[place[8]] = 1 + 1;
    assert_int_equal(lazy_wishes(&other, page), LAZY_WISHES - 4);

    l.claimed[1] = BIT(100 % 64) | BIT(102 % 64);
    lazy_putting(&l, 100);
    lazy_disown(&other);
    assert_int_equal(l.claimed[1], BIT(102 % 64));
    assert_int_equal(l.head->putting, 0);
    l.claimed[1] |= BIT(101 % 64); /* present: its claim stays as it is */
    lazy_putting(&l, 101);
    lazy_disown(&other);
    assert_int_equal(l.claimed[1], BIT(101 % 64) | BIT(102 % 64));
    l.head->putting = UINT64_MAX; /* a lie */
    lazy_disown(&other);
    lazy_putting(&l, 102);
    lazy_put(&l);
    lazy_disown(&other);
    assert_int_equal(l.claimed[1], BIT(101 % 64) | BIT(102 % 64));
    free(base);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(whole, setup, teardown),
        cmocka_unit_test_setup_teardown(eager, setup, teardown),
        cmocka_unit_test_setup_teardown(flips, setup, teardown),
        cmocka_unit_test_setup_teardown(cut_short, setup, teardown),
        cmocka_unit_test_setup_teardown(changes_later, setup, teardown),
        cmocka_unit_test_setup_teardown(hostile, setup, teardown),
        cmocka_unit_test(wishes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
