#include "migrate/paging.h"
#include "base/bytes.h"
#include "migrate/message.h"
#include "migrate/stream.h"

#include <errno.h>
#include <string.h>

#define GIVE_HEAD  16u /* first page, number of pages, 0 */
#define TELL_PAGES 2048u

static const char lack[] = "LACK", want[] = "WANT", give[] = "GIVE", full[] = "FULL";

static u64 map_bytes(u64 pages)
{
    return (pages + 63) / 64 * 8;
}

/* --- the source --- */

/* What is absent there: a part of what was named as that. */
static int take_lack(struct paging_source *s, struct channel *c, struct error *e)
{
    struct message m = {0};
    struct message_kind kind = {.most = (u32)map_bytes(s->pages)};
    memcpy(kind.type, lack, sizeof(kind.type));
    int r = message_receive(c, &kind, 1, &m, e);
    if (r == 0 && m.len != map_bytes(s->pages))
        r = error_set(e, EBADMSG, "%s: a map of %u bytes, for %llu pages", c->peer, m.len,
                      (unsigned long long)s->pages);
    for (u64 i = 0; r == 0 && i < s->pages; i += 64) {
        s->left[i / 64] = get_le64(m.data + i / 8);
        if (s->left[i / 64] & ~s->named[i / 64])
            r = error_set(e, EPROTO, "%s: asks for pages from %llu on that it has got", c->peer, (unsigned long long)i);
    }
    message_free(&m);
    if (r == 0)
        prepage_init(&s->order, s->left, s->pages);
    return r;
}

static int take_wishes(struct paging_source *s, const struct channel *c, const struct message *m, struct error *e)
{
    int r = 0;
    if (!m->len || m->len % 8)
        return error_set(e, EBADMSG, "%s: WANT of %u bytes can not be", c->peer, m->len);
    for (u32 at = 0; at < m->len && r == 0; at += 8) {
        if ((r = prepage_want(&s->order, get_le64(m->data + at), e)) < 0)
            error_prefix(e, "%s", c->peer);
    }
    return r;
}

/* One word of the target. 1: FULL. */
static int obey(struct paging_source *s, struct channel *c, struct error *e)
{
    struct message m = {0};
    struct message_kind kinds[2] = {{.most = 8 * PREPAGE_WISHES}, {.json = false}};
    memcpy(kinds[0].type, want, sizeof(want));
    memcpy(kinds[1].type, full, sizeof(full));
    int r = message_receive(c, kinds, ARRAY_LEN(kinds), &m, e);
    if (r == 0)
        r = m.kind == 1 ? 1 : take_wishes(s, c, &m, e);
    message_free(&m);
    return r;
}

static int put_pages(struct paging_source *s, struct channel *c, struct error *e)
{
    u8 head[GIVE_HEAD] = {0};
    u64 first = 0, left = s->order.n;
    bool wished = s->order.wishes;
    u32 n = prepage_next(&s->order, &first, STREAM_PAGES);
    if (!n)
        return 0;
    put_le64(head, first);
    put_le32(head + 8, n);
    const struct message_part parts[] = {{head, sizeof(head)}, {s->ram + first * PAGE_SIZE, n * (size_t)PAGE_SIZE}};
    int r = message_send_parts(c, give, parts, ARRAY_LEN(parts), e);
    s->sent += r == 0 ? n : 0;
    s->wished += r == 0 && wished ? n : 0;
    if (s->tell && (!s->order.n || left / TELL_PAGES != s->order.n / TELL_PAGES))
        s->tell(s->ctx, s->order.n);
    return r;
}

int paging_serve(struct paging_source *s, struct channel *c, struct error *e)
{
    int r = map_bytes(s->pages) <= MESSAGE_BYTES_MAX ? take_lack(s, c, e)
                                                     : error_set(e, EFBIG, "post-copy: too much memory for one map");
    /* A look flushes; its errors are told by the call that follows. When nothing is left, FULL is waited for. */
    while (r == 0)
        r = s->order.n && channel_readable(c, 0) == 0 ? put_pages(s, c, e) : obey(s, c, e);
    return MIN(r, 0);
}

/* --- the target --- */

int paging_lack(struct channel *c, const u64 *absent, u64 pages, struct error *e)
{
    struct message_part part = {absent, map_bytes(pages)};
    _Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "words of the map lie as they are sent");
    int r = message_send_parts(c, lack, &part, 1, e);
    return r == 0 ? channel_flush(c, e) : r;
}

int paging_want(struct channel *c, const u64 *page, u32 n, struct error *e)
{
    u8 list[8 * PREPAGE_WISHES];
    if (!n || n > PREPAGE_WISHES)
        return error_set(e, EINVAL, "%u pages can not be asked for at once", n);
    for (u32 i = 0; i < n; i++)
        put_le64(list + 8 * i, page[i]);
    int r = message_send(c, want, list, 8 * n, e);
    return r == 0 ? channel_flush(c, e) : r;
}

static int check_pages(const struct paging_target *t, const struct channel *c, const struct message *m, struct error *e)
{
    u64 first = m->len >= GIVE_HEAD ? get_le64(m->data) : 0;
    u32 n = m->len >= GIVE_HEAD ? get_le32(m->data + 8) : 0;
    if (!n || n > STREAM_PAGES || get_le32(m->data + 12) || m->len != GIVE_HEAD + n * PAGE_SIZE ||
        first >= t->sums->n || n > t->sums->n - first)
        return error_set(e, EBADMSG, "%s: %u pages from %llu on, of %llu, in %u bytes", c->peer, n,
                         (unsigned long long)first, (unsigned long long)t->sums->n, m->len);
    for (u32 i = 0; i < n; i++)
        if (page_sum(m->data + GIVE_HEAD + (size_t)i * PAGE_SIZE) != t->sums->sum[first + i])
            return error_set(e, EBADMSG, "%s: page %llu is not the one that was summed up: its checksum is wrong",
                             c->peer, (unsigned long long)(first + i));
    return 0;
}

int paging_take(struct paging_target *t, struct channel *c, struct error *e)
{
    struct message m = {0};
    struct message_kind kind = {.most = GIVE_HEAD + STREAM_PAGES * (u32)PAGE_SIZE};
    memcpy(kind.type, give, sizeof(kind.type));
    int r = message_receive(c, &kind, 1, &m, e);
    if (r == 0)
        r = check_pages(t, c, &m, e);
    if (r == 0) {
        u64 first = get_le64(m.data);
        u32 n = get_le32(m.data + 8);
        for (u32 i = 0; i < n; i++)
            t->put(t->ctx, first + i, m.data + GIVE_HEAD + (size_t)i * PAGE_SIZE);
        t->taken += n;
    }
    message_free(&m);
    return r;
}

int paging_full(struct channel *c, struct error *e)
{
    int r = message_send(c, full, NULL, 0, e);
    return r == 0 ? channel_flush(c, e) : r;
}
