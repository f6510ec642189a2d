/*
 * Writing and reading the stream. Both sides go through one buffer of a record's size; pages are copied into it before they are
 * summed up and written, so a page that changes meanwhile is sent as what was summed.
 */
#include "migrate/stream.h"
#include "base/bytes.h"

#include <errno.h>
#include <lz4.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TYPE_HEAD   REC_TYPE('T', 'R', 'P', 'Z')
#define TYPE_CONFIG REC_TYPE('C', 'O', 'N', 'F')
#define TYPE_PAGES  REC_TYPE('P', 'A', 'G', 'E')
#define TYPE_ZERO   REC_TYPE('Z', 'E', 'R', 'O')
#define TYPE_PAD    REC_TYPE('P', 'A', 'D', 'D')
#define TYPE_ABSENT REC_TYPE('A', 'B', 'S', 'N')
#define TYPE_ROUND  REC_TYPE('R', 'O', 'U', 'N')
#define TYPE_INDEX  REC_TYPE('I', 'N', 'D', 'X')
#define TYPE_STATE  REC_TYPE('M', 'A', 'C', 'H')
#define TYPE_DIGEST REC_TYPE('D', 'G', 'S', 'T')
#define TYPE_END    REC_TYPE('T', 'E', 'N', 'D')

#define RAW         0u  /* encoding of pages: as they are */
#define LZ4         1u  /* all pages of the record as one block */
#define PAGES_HEAD  16u /* first page, number of pages, encoding */
#define BUFFER      (REC_HEADER + PAGES_HEAD + STREAM_PAGES * (u32)PAGE_SIZE)
#define TELL_PAGES  2048u
#define RUN_HEAD    24u   /* of a run in an index: first page, offset, number of pages, 0; its sums follow */
#define ABSENT_MAX  8192u /* pages in one ABSN record, at most: their sums have to fit into the buffer */
#define END_VERSION 2u    /* since 2: where the index begins */

_Static_assert(PAGES_HEAD + 8 * ABSENT_MAX <= BUFFER - REC_HEADER, "the sums of a record of absent pages");

static int check_head(const void *candidate, struct error *e)
{
    const struct stream_head *h = candidate;
    if (h->page_size != PAGE_SIZE || h->flags)
        return error_set(e, EINVAL, "stream: pages of %u bytes, flags %#x: a later version wrote it", h->page_size,
                         h->flags);
    if (!h->ram_size || h->ram_size % PAGE_SIZE || h->ram_size > STREAM_RAM_MAX)
        return error_set(e, EINVAL, "stream: %llu bytes of memory can not be", (unsigned long long)h->ram_size);
    return 0;
}

static const struct rec_field head_fields[] = {
    REC_FIELD(struct stream_head, page_size), REC_FIELD(struct stream_head, flags),
    REC_FIELD(struct stream_head, ram_size), REC_FIELD(struct stream_head, created), REC_FIELD(struct stream_head, id)};

static const struct rec_desc head_record = {.name = "stream head",
                                            .type = TYPE_HEAD,
                                            .version = 1,
                                            .object_size = sizeof(struct stream_head),
                                            .fields = head_fields,
                                            .n_fields = ARRAY_LEN(head_fields),
                                            .check = check_head};

/* --- writing --- */

static int put(struct stream_out *o, const void *data, size_t len, struct error *e)
{
    int r = o->put(o->ctx, data, len, e);
    o->offset += r == 0 ? len : 0;
    return r;
}

/* A record whose payload is not in the buffer. */
static int put_record(struct stream_out *o, u32 type, const void *payload, u32 len, struct error *e)
{
    u8 header[REC_HEADER];
    rec_put_header(header, type, 1, 0, payload, len);
    o->records++;
    int r = put(o, header, sizeof(header), e);
    return r == 0 && len ? put(o, payload, len, e) : r;
}

int stream_begin(struct stream_out *o, const struct stream_head *head, struct error *e)
{
    struct rec_buf b = {0};
    o->offset = o->records = o->pages = 0;
    o->packed = NULL;
    o->index = (struct stream_index){0};
    o->buf = malloc(BUFFER);
    int r = o->buf ? sums_init(&o->sums, head->ram_size / PAGE_SIZE, e) : error_set(e, ENOMEM, "stream: out of memory");
    if (r == 0 && rec_save(&b, &head_record, 0, head) < 0)
        r = error_set(e, ENOMEM, "stream: out of memory");
    if (r == 0)
        r = put(o, b.data, b.len, e);
    o->records++;
    rec_buf_free(&b);
    return r;
}

void stream_out_free(struct stream_out *o)
{
    free(o->buf);
    free(o->packed);
    o->buf = o->packed = NULL;
    sums_free(&o->sums);
    stream_index_free(&o->index);
}

int stream_put_config(struct stream_out *o, const char *text, struct error *e)
{
    size_t len = strlen(text);
    if (len > STREAM_CONFIG_MAX)
        return error_set(e, E2BIG, "stream: a configuration of %zu bytes; %u are allowed", len, STREAM_CONFIG_MAX);
    return put_record(o, TYPE_CONFIG, text, (u32)len, e);
}

/* Nothing, of such a length that the pages of the next record lie where they should. */
static int pad(struct stream_out *o, struct error *e)
{
    u64 next = o->offset + 2 * REC_HEADER + PAGES_HEAD; /* pages behind a PADD of no length */
    u32 len = (u32)(-next & (PAGE_SIZE - 1));
    if (((o->offset + REC_HEADER + PAGES_HEAD) & (PAGE_SIZE - 1)) == 0)
        return 0;
    memset(o->buf, 0, len);
    return put_record(o, TYPE_PAD, o->buf, len, e);
}

/* Pack the pages at `from` behind the head of a record; the bytes that they take, or 0 when it does not pay. */
static u32 pack_pages(struct stream_out *o, const u8 *from, u32 n)
{
    int size = (int)(n * PAGE_SIZE);
    if (!o->packed && !(o->packed = malloc(BUFFER)))
        return 0;
    int len = LZ4_compress_default((const char *)from, (char *)o->packed + REC_HEADER + PAGES_HEAD, size, size * 7 / 8);
    return len > 0 ? (u32)len : 0;
}

/* Pages [first, first + n) lie, as they are, where the next record of pages has them. */
static int note_run(struct stream_index *x, u64 first, u32 n, u64 offset, struct error *e)
{
    if (x->n == x->cap) {
        size_t cap = x->cap ? 2 * x->cap : 256;
        struct stream_run *more = reallocarray(x->run, cap, sizeof(*more));
        if (!more)
            return error_set(e, ENOMEM, "stream: out of memory");
        x->run = more;
        x->cap = cap;
    }
    x->run[x->n++] = (struct stream_run){first, offset, n};
    return 0;
}

void stream_index_free(struct stream_index *x)
{
    free(x->run);
    *x = (struct stream_index){0};
}

/* Pages [first, first + n), STREAM_PAGES at most. */
static int put_pages(struct stream_out *o, const u8 *ram, u64 first, u32 n, struct error *e)
{
    u8 *payload = o->buf + REC_HEADER;
    int r = o->aligned ? pad(o, e) : 0;
    if (r < 0)
        return r;
    put_le64(payload, first);
    put_le32(payload + 8, n);
    memcpy(payload + PAGES_HEAD, ram + first * PAGE_SIZE, n * PAGE_SIZE);
    sums_note(&o->sums, first, n, payload + PAGES_HEAD);
    u32 packed = o->pack ? pack_pages(o, payload + PAGES_HEAD, n) : 0;
    u32 len = PAGES_HEAD + (packed ? packed : n * (u32)PAGE_SIZE);
    u8 *record = packed ? o->packed : o->buf;
    put_le32(payload + 12, packed ? LZ4 : RAW);
    if (packed)
        memcpy(record + REC_HEADER, payload, PAGES_HEAD);
    rec_put_header(record, TYPE_PAGES, 1, 0, record + REC_HEADER, len);
    o->records++;
    o->pages += n * PAGE_SIZE;
    if (o->indexed && (r = note_run(&o->index, first, n, o->offset + REC_HEADER + PAGES_HEAD, e)) < 0)
        return r;
    return put(o, record, REC_HEADER + len, e);
}

static void tell(stream_progress progress, void *ctx, u64 before, u64 done, u64 total)
{
    if (progress && (before / TELL_PAGES != done / TELL_PAGES || done == total))
        progress(ctx, done, total);
}

/* What of pages [from, to) is not zero. */
static int put_range(struct stream_out *o, const u8 *ram, u64 from, u64 to, struct error *e)
{
    int r = 0;
    for (u64 at = from; at < to && r == 0;) {
        u32 n = 0;
        while (at + n < to && n < STREAM_PAGES && !page_is_zero(ram + (at + n) * PAGE_SIZE))
            n++;
        if (n)
            r = put_pages(o, ram, at, n, e);
        u64 next = at + MAX(n, 1u);
        tell(o->progress, o->progress_ctx, at, next, o->sums.n);
        at = next;
    }
    return r;
}

/* The next pages of the file at or behind *from that are not a hole, up to *to; false: there are none. */
static bool next_data(int fd, u64 pages, u64 *from, u64 *to)
{
    off_t data = fd < 0 ? (off_t)(*from * PAGE_SIZE) : lseek(fd, (off_t)(*from * PAGE_SIZE), SEEK_DATA);
    if (*from >= pages || data < 0)
        return false;
    off_t hole = fd < 0 ? -1 : lseek(fd, data, SEEK_HOLE);
    *from = (u64)data / PAGE_SIZE;
    *to = hole < 0 ? pages : MIN(pages, ((u64)hole + PAGE_SIZE - 1) / PAGE_SIZE);
    return *from < *to;
}

int stream_put_memory(struct stream_out *o, const u8 *ram, u64 size, int fd, struct error *e)
{
    u64 pages = size / PAGE_SIZE, from = 0, to;
    int r = 0;
    if (pages != o->sums.n)
        return error_set(e, EINVAL, "stream: begun for another size of memory");
    for (; r == 0 && next_data(fd, pages, &from, &to); from = to)
        r = put_range(o, ram, from, to, e);
    if (r == 0 && o->progress)
        o->progress(o->progress_ctx, pages, pages);
    return r;
}

/* Pages [first, first + n) are zero; those that are known as that are not told again. */
static int put_zero(struct stream_out *o, u64 first, u64 n, struct error *e)
{
    u8 payload[16];
    while (n && o->sums.sum[first] == o->sums.zero)
        first++, n--;
    while (n && o->sums.sum[first + n - 1] == o->sums.zero)
        n--;
    if (!n)
        return 0;
    put_le64(payload, first);
    put_le64(payload + 8, n);
    sums_note(&o->sums, first, n, NULL);
    return put_record(o, TYPE_ZERO, payload, sizeof(payload), e);
}

/* Pages [first, end), all of which have been written. */
static int put_run(struct stream_out *o, const u8 *ram, u64 first, u64 end, struct error *e)
{
    int r = 0;
    while (first < end && r == 0) {
        u64 at = first;
        bool zero = page_is_zero(ram + at * PAGE_SIZE);
        while (++at < end && (zero || at - first < STREAM_PAGES) && page_is_zero(ram + at * PAGE_SIZE) == zero)
            ;
        r = zero ? put_zero(o, first, at - first, e) : put_pages(o, ram, first, (u32)(at - first), e);
        first = at;
    }
    return r;
}

static bool is_set(const u64 *bits, u64 i)
{
    return bits[i / 64] >> (i % 64) & 1;
}

int stream_put_dirty(struct stream_out *o, const u8 *ram, const u64 *bits, u64 from, u64 to, struct error *e)
{
    int r = 0;
    if (to > o->sums.n || from > to)
        return error_set(e, EINVAL, "stream: begun for another size of memory");
    for (u64 i = from; i < to && r == 0;) {
        if (!bits[i / 64] && i % 64 == 0) {
            i += 64;
            continue;
        }
        u64 first = i;
        while (i < to && is_set(bits, i))
            i++;
        if (i > first)
            r = put_run(o, ram, first, i, e);
        else
            i++;
    }
    return r;
}

/* Pages [first, end), none of them zero: their sums. */
static int put_sums(struct stream_out *o, const u8 *ram, u64 first, u64 end, struct error *e)
{
    u8 *p = o->buf + REC_HEADER;
    int r = 0;
    for (u32 n; first < end && r == 0; first += n) {
        n = (u32)MIN(end - first, (u64)ABSENT_MAX);
        sums_note(&o->sums, first, n, ram + first * PAGE_SIZE);
        put_le64(p, first);
        put_le32(p + 8, n);
        put_le32(p + 12, 0);
        for (u32 k = 0; k < n; k++)
            put_le64(p + PAGES_HEAD + 8 * k, o->sums.sum[first + k]);
        r = put_record(o, TYPE_ABSENT, p, PAGES_HEAD + 8 * n, e);
    }
    return r;
}

int stream_put_absent(struct stream_out *o, const u8 *ram, u64 *bits, u64 from, u64 to, u64 *absent, struct error *e)
{
    int r = 0;
    if (to > o->sums.n || from > to)
        return error_set(e, EINVAL, "stream: begun for another size of memory");
    for (u64 i = from; i < to && r == 0;) {
        if (!is_set(bits, i)) {
            i += bits[i / 64] || i % 64 ? 1 : 64;
            continue;
        }
        u64 first = i;
        bool zero = page_is_zero(ram + i * PAGE_SIZE);
        for (; i < to && is_set(bits, i) && page_is_zero(ram + i * PAGE_SIZE) == zero; i++)
            if (zero)
                bits[i / 64] &= ~BIT(i % 64);
        *absent += zero ? 0 : i - first;
        r = zero ? put_zero(o, first, i - first, e) : put_sums(o, ram, first, i, e);
    }
    return r;
}

int stream_put_round(struct stream_out *o, const char *text, struct error *e)
{
    return put_record(o, TYPE_ROUND, text, (u32)strlen(text), e);
}

int stream_put_disk(struct stream_out *o, u32 type, const void *payload, u32 len, u64 bytes, struct error *e)
{
    o->pages += bytes;
    return put_record(o, type, payload, len, e);
}

/* The index: runs of pages, and their sums. */
static int put_index(struct stream_out *o, struct error *e)
{
    u8 *p = o->buf + REC_HEADER;
    u32 len = 0;
    int r = 0;
    o->index_at = o->offset;
    for (size_t i = 0; i < o->index.n && r == 0; i++) {
        const struct stream_run *run = &o->index.run[i];
        put_le64(p + len, run->first);
        put_le64(p + len + 8, run->offset);
        put_le32(p + len + 16, run->n);
        put_le32(p + len + 20, 0);
        len += RUN_HEAD;
        for (u32 k = 0; k < run->n; k++, len += 8)
            put_le64(p + len, o->sums.sum[run->first + k]);
        bool last = i + 1 == o->index.n;
        if (last || len + RUN_HEAD + 8 * STREAM_PAGES > BUFFER - REC_HEADER) {
            r = put_record(o, TYPE_INDEX, p, len, e);
            len = 0;
        }
    }
    return r;
}

int stream_put_state(struct stream_out *o, const void *records, size_t len, struct error *e)
{
    if (!len || len > STREAM_STATE_MAX)
        return error_set(e, E2BIG, "stream: %zu bytes of a machine's records; %u are allowed", len, STREAM_STATE_MAX);
    int r = o->indexed ? put_index(o, e) : 0;
    if (r < 0)
        return r;
    return put_record(o, TYPE_STATE, records, (u32)len, e);
}

int stream_put_end(struct stream_out *o, struct error *e)
{
    u8 digest[DIGEST_LEN], end[REC_HEADER + 16];
    sums_digest(&o->sums, digest);
    int r = put_record(o, TYPE_DIGEST, digest, sizeof(digest), e);
    u32 len = o->indexed ? 16 : 8;
    put_le64(end + REC_HEADER, ++o->records);
    put_le64(end + REC_HEADER + 8, o->index_at);
    rec_put_header(end, TYPE_END, o->indexed ? END_VERSION : 1, 0, end + REC_HEADER, len);
    return r == 0 ? put(o, end, REC_HEADER + len, e) : r;
}

/* --- reading --- */

/* The record at hand can not be: says which, and why. */
__attribute__((format(printf, 4, 5))) static int bad(const struct stream_in *s, struct error *e, int code,
                                                     const char *fmt, ...)
{
    char why[160];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(why, sizeof(why), fmt, ap);
    va_end(ap);
    return error_set(e, code, "record %llu at byte %llu: %s", (unsigned long long)s->records,
                     (unsigned long long)s->offset, why);
}

static int get(struct stream_in *s, void *buf, size_t len, struct error *e)
{
    return len ? s->get(s->ctx, buf, len, e) : 0;
}

/* The header of the next record. */
static int next(struct stream_in *s, struct rec_view *v, struct error *e)
{
    int r = get(s, s->header, REC_HEADER, e);
    if (r == 0)
        rec_get_header(s->header, v);
    return r;
}

/* Its payload, whose length was found good. */
static int payload(struct stream_in *s, struct rec_view *v, u8 *to, struct error *e)
{
    int r = get(s, to, v->len, e);
    if (r < 0)
        return r;
    if (!rec_intact(s->header, to))
        return bad(s, e, EBADMSG, "its checksum is wrong: the stream is damaged");
    v->payload = to;
    s->offset += REC_HEADER + v->len;
    s->records++;
    return 0;
}

/* Type, version and length of a record; those of up to `version` are known. */
static int expect_to(struct stream_in *s, const struct rec_view *v, u32 type, u16 version, u32 least, u32 most,
                     struct error *e)
{
    if (v->type != type)
        return bad(s, e, EBADMSG, "%.4s where %.4s should be", (const char *)&v->type, (const char *)&type);
    if (!v->version || v->version > version || v->instance)
        return bad(s, e, EPROTONOSUPPORT, "%.4s of version %u: a later trapeze wrote it", (const char *)&type,
                   v->version);
    if (v->len < least || v->len > most)
        return bad(s, e, EBADMSG, "%.4s of %u bytes can not be", (const char *)&type, v->len);
    return 0;
}

static int expect(struct stream_in *s, const struct rec_view *v, u32 type, u32 least, u32 most, struct error *e)
{
    return expect_to(s, v, type, 1, least, most, e);
}

int stream_open(struct stream_in *s, struct error *e)
{
    struct rec_view v;
    s->offset = s->records = s->done = s->indexed = s->n_absent = 0;
    s->unpacked = NULL;
    s->buf = malloc(BUFFER);
    int r = s->buf ? next(s, &v, e) : error_set(e, ENOMEM, "stream: out of memory");
    if (r < 0)
        return r;
    if (v.type != TYPE_HEAD)
        return error_set(e, EBADMSG, "it does not begin like a stream of a machine");
    if (v.len > BUFFER || v.instance)
        return bad(s, e, EBADMSG, "a head of %u bytes, number %u, can not be", v.len, v.instance);
    r = payload(s, &v, s->buf, e);
    return r == 0 ? rec_load(&v, &head_record, &s->head, e) : r;
}

void stream_in_free(struct stream_in *s)
{
    free(s->buf);
    free(s->unpacked);
    s->buf = s->unpacked = NULL;
    sums_free(&s->sums);
}

int stream_get_config(struct stream_in *s, char **text, struct error *e)
{
    struct rec_view v;
    int r = next(s, &v, e);
    if (r < 0 || (r = expect(s, &v, TYPE_CONFIG, 1, STREAM_CONFIG_MAX, e)) < 0 || (r = payload(s, &v, s->buf, e)) < 0)
        return r;
    if (memchr(v.payload, 0, v.len))
        return error_set(e, EBADMSG, "its configuration has a zero byte");
    *text = strndup((const char *)v.payload, v.len);
    return *text ? 0 : error_set(e, ENOMEM, "stream: out of memory");
}

/* The pages of a record that was packed: NULL with `e`. Nothing but exactly `n` pages may come of it. */
static const u8 *unpack_pages(struct stream_in *s, const struct rec_view *v, u32 n, struct error *e)
{
    int size = (int)(n * PAGE_SIZE);
    if (!s->unpacked && !(s->unpacked = malloc(STREAM_PAGES * PAGE_SIZE))) {
        error_set(e, ENOMEM, "stream: out of memory");
        return NULL;
    }
    if (LZ4_decompress_safe((const char *)v->payload + PAGES_HEAD, (char *)s->unpacked, (int)(v->len - PAGES_HEAD),
                            size) == size)
        return s->unpacked;
    bad(s, e, EBADMSG, "%u packed pages that can not be unpacked", n);
    return NULL;
}

/* Whether pages [first, first + n) are absent from now on; the caller has found them in memory's range. */
static void note_absent(struct stream_in *s, u64 first, u64 n, bool absent)
{
    for (u64 i = first; s->absent && i < first + n; i++) {
        if (absent == is_set(s->absent, i))
            continue;
        s->absent[i / 64] ^= BIT(i % 64);
        s->n_absent += absent ? 1 : (u64)-1;
    }
}

static int get_pages(struct stream_in *s, struct rec_view *v, u8 *ram, struct error *e)
{
    int r = expect(s, v, TYPE_PAGES, PAGES_HEAD, BUFFER - REC_HEADER, e);
    if (r < 0)
        return r;
    if ((r = payload(s, v, s->buf, e)) < 0)
        return r;
    u64 first = get_le64(v->payload);
    u32 n = get_le32(v->payload + 8), encoding = get_le32(v->payload + 12);
    if (encoding > LZ4)
        return bad(s, e, EPROTONOSUPPORT, "pages in encoding %u: a later trapeze wrote it", encoding);
    bool fits = encoding == RAW ? v->len == PAGES_HEAD + n * PAGE_SIZE : v->len > PAGES_HEAD;
    if (!n || n > STREAM_PAGES || !fits || first >= s->sums.n || n > s->sums.n - first)
        return bad(s, e, EBADMSG, "%u pages from %llu on, of %llu, in %u bytes", n, (unsigned long long)first,
                   (unsigned long long)s->sums.n, v->len);
    const u8 *pages = encoding == RAW ? v->payload + PAGES_HEAD : unpack_pages(s, v, n, e);
    if (!pages)
        return e->code ? -e->code : -EBADMSG;
    memcpy(ram + first * PAGE_SIZE, pages, n * PAGE_SIZE);
    sums_note(&s->sums, first, n, pages);
    note_absent(s, first, n, false);
    tell(s->progress, s->progress_ctx, s->done, s->done + n, s->sums.n);
    s->done += n;
    return 0;
}

static int get_zero(struct stream_in *s, struct rec_view *v, u8 *ram, struct error *e)
{
    int r = expect(s, v, TYPE_ZERO, 16, 16, e);
    if (r < 0 || (r = payload(s, v, s->buf, e)) < 0)
        return r;
    u64 first = get_le64(v->payload), n = get_le64(v->payload + 8);
    if (!n || first >= s->sums.n || n > s->sums.n - first)
        return bad(s, e, EBADMSG, "%llu pages of zeros from %llu on, of %llu", (unsigned long long)n,
                   (unsigned long long)first, (unsigned long long)s->sums.n);
    for (u64 i = first; i < first + n; i++)
        if (s->sums.sum[i] != s->sums.zero) /* else it may never have been touched */
            memset(ram + i * PAGE_SIZE, 0, PAGE_SIZE);
    sums_note(&s->sums, first, n, NULL);
    note_absent(s, first, n, false);
    return 0;
}

/* What lies in memory there, from an earlier round, is worth nothing. It may have any sum but that of zeros: such a page is no absent one. */
static int get_absent(struct stream_in *s, struct rec_view *v, u8 *ram, struct error *e)
{
    int r = expect(s, v, TYPE_ABSENT, PAGES_HEAD + 8, PAGES_HEAD + 8 * ABSENT_MAX, e);
    if (r < 0 || (r = payload(s, v, s->buf, e)) < 0)
        return r;
    u64 first = get_le64(s->buf);
    u32 n = get_le32(s->buf + 8), zero = get_le32(s->buf + 12);
    if (!s->absent)
        return bad(s, e, EBADMSG, "ABSN in what has to be whole");
    if (!n || n > ABSENT_MAX || zero || v->len != PAGES_HEAD + 8 * n || first >= s->sums.n || n > s->sums.n - first)
        return bad(s, e, EBADMSG, "ABSN of %u pages from %llu on, of %llu, in %u bytes", n, (unsigned long long)first,
                   (unsigned long long)s->sums.n, v->len);
    for (u32 k = 0; k < n; k++) {
        u64 sum = get_le64(s->buf + PAGES_HEAD + 8 * k);
        if (sum == s->sums.zero)
            return bad(s, e, EBADMSG, "ABSN has page %llu, which is zero", (unsigned long long)(first + k));
        s->sums.sum[first + k] = sum;
    }
    note_absent(s, first, n, true);
    return 0;
}

static int get_pad(struct stream_in *s, struct rec_view *v, u8 *ram, struct error *e)
{
    int r = expect(s, v, TYPE_PAD, 0, PAGE_SIZE, e);
    return r == 0 ? payload(s, v, s->buf, e) : r;
}

static int get_round(struct stream_in *s, struct rec_view *v, u8 *ram, struct error *e)
{
    int r = expect(s, v, TYPE_ROUND, 2, PAGE_SIZE, e);
    if (r < 0 || (r = payload(s, v, s->buf, e)) < 0)
        return r;
    if (!s->round)
        return bad(s, e, EBADMSG, "ROUN in what is no live migration");
    if (memchr(s->buf, 0, v->len))
        return bad(s, e, EBADMSG, "ROUN has a zero byte");
    s->buf[v->len] = 0;
    return s->round(s->ctx, (const char *)s->buf, e);
}

static int get_disk(struct stream_in *s, struct rec_view *v, u8 *ram, struct error *e)
{
    bool fixed = v->type != STREAM_DISK_BLOCK;
    u32 len = v->type == STREAM_DISK_ZERO ? STREAM_ZERO_LEN : STREAM_SUM_LEN;
    int r =
        expect(s, v, v->type, fixed ? len : STREAM_BLOCK_HEAD + 1, fixed ? len : STREAM_BLOCK_HEAD + BLOCKMAP_BLOCK, e);
    if (r < 0 || (r = payload(s, v, s->buf, e)) < 0)
        return r;
    if (!s->disk)
        return bad(s, e, EBADMSG, "%.4s though no disks were announced", (const char *)&v->type);
    return s->disk(s->ctx, v->type, s->buf, v->len, e);
}

/* --- the index --- */

/* The run at `p`, of which `len` bytes are there: its bytes, or -errno. It begins behind all that came before. */
static int take_run(struct stream_in *s, const u8 *p, u32 len, struct stream_run *run, struct error *e)
{
    if (len < RUN_HEAD)
        return bad(s, e, EBADMSG, "INDX ends in the middle of a run");
    *run = (struct stream_run){get_le64(p), get_le64(p + 8), get_le32(p + 16)};
    if (!run->n || run->n > STREAM_PAGES || get_le32(p + 20) || run->first < s->indexed || run->first >= s->sums.n ||
        run->n > s->sums.n - run->first || len - RUN_HEAD < 8 * run->n)
        return bad(s, e, EBADMSG, "INDX has %u pages from %llu on, of %llu, behind %llu", run->n,
                   (unsigned long long)run->first, (unsigned long long)s->sums.n, (unsigned long long)s->indexed);
    if (run->offset % PAGE_SIZE || run->offset > INT64_MAX - STREAM_PAGES * PAGE_SIZE)
        return bad(s, e, EBADMSG, "INDX has pages at byte %llu, where none can be", (unsigned long long)run->offset);
    s->indexed = run->first + run->n;
    return (int)(RUN_HEAD + 8 * run->n);
}

/* Of a stream that is read whole: what it says has to be what came. */
static int get_index(struct stream_in *s, struct rec_view *v, u8 *ram, struct error *e)
{
    struct stream_run run;
    int r = expect(s, v, TYPE_INDEX, RUN_HEAD, BUFFER - REC_HEADER, e);
    if (r < 0 || (r = payload(s, v, s->buf, e)) < 0)
        return r;
    for (u32 at = 0; at < v->len; at += (u32)r) {
        if ((r = take_run(s, s->buf + at, v->len - at, &run, e)) < 0)
            return r;
        for (u32 k = 0; k < run.n; k++)
            if (get_le64(s->buf + at + RUN_HEAD + 8 * k) != s->sums.sum[run.first + k])
                return bad(s, e, EBADMSG, "INDX has another sum of page %llu", (unsigned long long)(run.first + k));
    }
    return 0;
}

/* Memory, up to the record behind it, whose header is in *v then. */
static int get_memory(struct stream_in *s, struct rec_view *v, u8 *ram, struct error *e)
{
    static const struct {
        u32 type;
        int (*get)(struct stream_in *, struct rec_view *, u8 *, struct error *);
    } kinds[] = {{TYPE_PAGES, get_pages},       {TYPE_ZERO, get_zero},        {TYPE_PAD, get_pad},
                 {TYPE_ABSENT, get_absent},     {TYPE_ROUND, get_round},      {TYPE_INDEX, get_index},
                 {STREAM_DISK_BLOCK, get_disk}, {STREAM_DISK_ZERO, get_disk}, {STREAM_DISK_SUM, get_disk}};
    for (;;) {
        unsigned i = 0;
        int r = next(s, v, e);
        if (r < 0)
            return r;
        while (i < ARRAY_LEN(kinds) && kinds[i].type != v->type)
            i++;
        if (i == ARRAY_LEN(kinds))
            return 0;
        if ((r = kinds[i].get(s, v, ram, e)) < 0)
            return r;
    }
}

static int get_state(struct stream_in *s, struct rec_view *v, struct rec_buf *state, struct error *e)
{
    int r = expect(s, v, TYPE_STATE, 1, STREAM_STATE_MAX, e);
    u8 *p = r == 0 ? malloc(v->len) : NULL;
    if (r < 0)
        return r;
    if (!p)
        return error_set(e, ENOMEM, "stream: out of memory");
    *state = (struct rec_buf){.data = p, .len = v->len, .cap = v->len};
    return payload(s, v, p, e);
}

static int get_digest(struct stream_in *s, struct error *e)
{
    struct rec_view v;
    u8 digest[DIGEST_LEN];
    int r = next(s, &v, e);
    if (r < 0 || (r = expect(s, &v, TYPE_DIGEST, DIGEST_LEN, DIGEST_LEN, e)) < 0 || (r = payload(s, &v, s->buf, e)) < 0)
        return r;
    sums_digest(&s->sums, digest);
    if (memcmp(digest, v.payload, DIGEST_LEN))
        return error_set(e, EBADMSG, "the memory is not the one that was written: its digest is another");
    return 0;
}

/* `counted`: all its records have been read. */
static int get_end(struct stream_in *s, bool counted, struct error *e)
{
    struct rec_view v;
    int r = next(s, &v, e);
    if (r < 0 || (r = expect_to(s, &v, TYPE_END, END_VERSION, 8, 16, e)) < 0)
        return r;
    if (v.len != 8u * v.version)
        return bad(s, e, EBADMSG, "TEND of %u bytes can not be", v.len);
    if ((r = payload(s, &v, s->buf, e)) < 0)
        return r;
    if (counted && get_le64(v.payload) != s->records)
        return error_set(e, EBADMSG, "%llu records where %llu were written", (unsigned long long)s->records,
                         (unsigned long long)get_le64(v.payload));
    return 0;
}

int stream_get_machine(struct stream_in *s, u8 *ram, struct rec_buf *state, struct error *e)
{
    struct rec_view v;
    int r = sums_init(&s->sums, s->head.ram_size / PAGE_SIZE, e);
    if (r < 0 || (r = get_memory(s, &v, ram, e)) < 0 || (r = get_state(s, &v, state, e)) < 0 ||
        (r = get_digest(s, e)) < 0)
        return r;
    return get_end(s, true, e);
}

/* --- reading without the memory --- */

int stream_in_tail(const u8 tail[STREAM_TAIL], u64 size, u64 *index, struct error *e)
{
    struct rec_view v;
    rec_get_header(tail, &v);
    *index = 0;
    if (v.type != TYPE_END || v.version != END_VERSION || v.instance || v.len != STREAM_TAIL - REC_HEADER)
        return 0;
    if (!rec_intact(tail, tail + REC_HEADER))
        return error_set(e, EBADMSG, "its end is damaged");
    u64 at = get_le64(tail + REC_HEADER + 8);
    if (!at || at > size - STREAM_TAIL)
        return error_set(e, EBADMSG, "it has its index at byte %llu of %llu", (unsigned long long)at,
                         (unsigned long long)size);
    *index = at;
    return 0;
}

/* A record of the index: its runs, which lie before it, and the sums of their pages. */
static int take_index(struct stream_in *s, struct rec_view *v, u64 end, struct stream_index *x, struct error *e)
{
    struct stream_run run;
    int r = expect(s, v, TYPE_INDEX, RUN_HEAD, BUFFER - REC_HEADER, e);
    if (r < 0 || (r = payload(s, v, s->buf, e)) < 0)
        return r;
    for (u32 at = 0; at < v->len; at += (u32)r) {
        int len = take_run(s, s->buf + at, v->len - at, &run, e);
        if (len < 0)
            return len;
        if (run.offset < PAGE_SIZE || run.offset + run.n * (u64)PAGE_SIZE > end)
            return bad(s, e, EBADMSG, "INDX has pages at byte %llu, where none can be", (unsigned long long)run.offset);
        for (u32 k = 0; k < run.n; k++)
            s->sums.sum[run.first + k] = get_le64(s->buf + at + RUN_HEAD + 8 * k);
        if ((r = note_run(x, run.first, run.n, run.offset, e)) < 0)
            return r;
        r = len;
    }
    return 0;
}

int stream_get_index(struct stream_in *s, u64 at, struct stream_index *x, struct rec_buf *state, struct error *e)
{
    struct rec_view v;
    s->offset = at;
    int r = sums_init(&s->sums, s->head.ram_size / PAGE_SIZE, e);
    while (r == 0 && (r = next(s, &v, e)) == 0 && v.type == TYPE_INDEX)
        r = take_index(s, &v, at, x, e);
    if (r < 0 || (r = get_state(s, &v, state, e)) < 0 || (r = get_digest(s, e)) < 0)
        return r;
    return get_end(s, false, e);
}
