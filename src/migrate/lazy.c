#include "migrate/lazy.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

_Static_assert(sizeof(struct lazy_head) <= PAGE_SIZE, "the head has its page");

static u64 words(u64 pages)
{
    return (pages + 63) / 64;
}

u64 lazy_size(u64 pages)
{
    u64 n = PAGE_SIZE + 2 * 8 * words(pages) + (8 + 4) * pages;
    return (n + PAGE_SIZE - 1) & PAGE_MASK;
}

static void lay_out(struct lazy *l, void *base, u64 pages, int fd)
{
    u8 *p = base;
    l->head = base;
    l->pages = pages;
    l->absent = (u64 *)(void *)(p + PAGE_SIZE);
    l->claimed = l->absent + words(pages);
    l->sum = l->claimed + words(pages);
    l->place = (u32 *)(void *)(l->sum + pages);
    l->fd = fd;
}

int lazy_attach(struct lazy *l, void *base, u64 pages, int fd, struct error *e)
{
    lay_out(l, base, pages, fd);
    if (l->head->magic != LAZY_MAGIC || l->head->pages != pages)
        return error_set(e, EINVAL, "table of absent pages: not for this memory");
    return 0;
}

/* --- making the table --- */

static int read_at(int fd, u8 *to, size_t len, u64 at, struct error *e)
{
    while (len) {
        ssize_t n = pread(fd, to, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(e, errno, "cannot be read: %s", strerror(errno));
        if (n == 0)
            return error_set(e, EBADMSG, "it is cut short");
        to += n;
        at += (u64)n;
        len -= (size_t)n;
    }
    return 0;
}

int lazy_find(const struct stream_file *f, u64 *at, struct error *e)
{
    struct stat st;
    u8 tail[STREAM_TAIL];
    if (fstat(f->fd, &st) < 0)
        return error_set(e, errno, "cannot be read: %s", strerror(errno));
    u64 size = (u64)st.st_size;
    if (size <= STREAM_TAIL || size / PAGE_SIZE >= UINT32_MAX)
        return 0;
    int r = read_at(f->fd, tail, sizeof(tail), size - sizeof(tail), e);
    if (r < 0 || (r = stream_in_tail(tail, size, at, e)) < 0)
        return r;
    return *at ? 1 : 0;
}

static void note(struct lazy *l, const struct stream_run *run)
{
    for (u64 i = 0; i < run->n; i++) {
        u64 page = run->first + i;
        l->place[page] = (u32)(run->offset / PAGE_SIZE + i);
        l->absent[page / 64] |= BIT(page % 64);
    }
    l->head->left += run->n;
}

int lazy_open(struct stream_file *f, struct stream_in *s, u64 at, void *base, struct rec_buf *state, struct error *e)
{
    struct lazy l;
    struct stream_index x = {0};
    u64 pages = s->head.ram_size / PAGE_SIZE;
    int r = 0;
    lay_out(&l, base, pages, f->fd);
    if (lseek(f->fd, (off_t)at, SEEK_SET) < 0)
        return error_set(e, errno, "cannot be read: %s", strerror(errno));
    if ((r = stream_get_index(s, at, &x, state, e)) == 0)
        r = stream_file_at_end(f, e);
    if (r == 0) {
        *l.head = (struct lazy_head){.magic = LAZY_MAGIC, .pages = pages};
        memcpy(l.head->file, f->name, strnlen(f->name, sizeof(l.head->file)));
        memcpy(l.sum, s->sums.sum, pages * sizeof(*l.sum));
        for (size_t i = 0; i < x.n; i++)
            note(&l, &x.run[i]);
    }
    stream_index_free(&x);
    return r;
}

/* --- pages of a peer --- */

void lazy_begin(struct lazy *l, void *base, u64 pages)
{
    lay_out(l, base, pages, -1);
    *l->head = (struct lazy_head){.magic = LAZY_MAGIC, .pages = pages};
}

int lazy_wish(const struct lazy *l, u64 page)
{
    for (int i = 0; i < (int)LAZY_WISHES; i++) {
        u64 none = 0;
        if (__atomic_compare_exchange_n(&l->head->wish[i], &none, page + 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
            return i;
    }
    return -1;
}

void lazy_unwish(const struct lazy *l, int place)
{
    if (place >= 0)
        __atomic_store_n(&l->head->wish[place], 0, __ATOMIC_RELEASE);
}

void lazy_putting(const struct lazy *l, u64 page)
{
    __atomic_store_n(&l->head->putting, page + 1, __ATOMIC_SEQ_CST);
}

void lazy_put(const struct lazy *l)
{
    __atomic_store_n(&l->head->putting, 0, __ATOMIC_RELEASE);
}

/* --- reading by it --- */

static bool is_absent(const struct lazy *l, u64 page)
{
    return __atomic_load_n(&l->absent[page / 64], __ATOMIC_ACQUIRE) >> (page % 64) & 1;
}

/* Pages are the other side's word: each is looked at once. */
u32 lazy_wishes(const struct lazy *l, u64 *page)
{
    u32 n = 0;
    for (u32 i = 0; i < LAZY_WISHES; i++) {
        u64 wish = __atomic_load_n(&l->head->wish[i], __ATOMIC_ACQUIRE);
        if (wish && wish <= l->pages && is_absent(l, wish - 1))
            page[n++] = wish - 1;
    }
    return n;
}

void lazy_disown(const struct lazy *l)
{
    u64 page = __atomic_load_n(&l->head->putting, __ATOMIC_ACQUIRE);
    if (page && page <= l->pages && is_absent(l, page - 1))
        __atomic_fetch_and(&l->claimed[(page - 1) / 64], ~BIT((page - 1) % 64), __ATOMIC_ACQ_REL);
    lazy_put(l);
}

u32 lazy_together(const struct lazy *l, u64 first, u32 most)
{
    u32 n = 0;
    while (n < most && first + n < l->head->pages && is_absent(l, first + n) &&
           l->place[first + n] == l->place[first] + n)
        n++;
    return n;
}

int lazy_fetch(const struct lazy *l, u64 first, u32 n, u8 *to, struct error *e)
{
    u64 at = (u64)l->place[first] * PAGE_SIZE;
    int r = at ? read_at(l->fd, to, (size_t)n * PAGE_SIZE, at, e) : error_set(e, EINVAL, "it has no place there");
    u64 page = first;
    for (u32 i = 0; i < n && r == 0; i++, page = first + i)
        if (page_sum(to + (size_t)i * PAGE_SIZE) != l->sum[first + i]) {
            r = error_set(e, EBADMSG, "its checksum is wrong: the file is damaged");
            break;
        }
    if (r < 0)
        error_prefix(e, "%.*s: page %llu at byte %llu", (int)sizeof(l->head->file), l->head->file,
                     (unsigned long long)page, (unsigned long long)(at + (page - first) * PAGE_SIZE));
    return r;
}

void lazy_fail(const struct lazy *l, const struct error *why)
{
    u32 none = 0;
    if (!__atomic_compare_exchange_n(&l->head->failed, &none, 1, false, __ATOMIC_ACQ_REL, __ATOMIC_RELAXED))
        return;
    memcpy(l->head->why, why->msg, strnlen(why->msg, sizeof(l->head->why) - 1));
    __atomic_store_n(&l->head->failed, 2, __ATOMIC_RELEASE);
}
