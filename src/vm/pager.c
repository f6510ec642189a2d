#include "vm/pager.h"
#include "host/host.h"
#include "machine/mem/absent.h"
#include "migrate/lazy.h"
#include "migrate/paging.h"
#include "vm/control.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define SILENCE_MS \
    5000 /* of a source that has pages to send: then it makes another connection, for which this one has to go */
#define DISOWN_MS 1000 /* for a claim that somebody living has */

struct pager {
    int control, ram_fd, table_fd, event;
    u64 size, table_size;
    u8 *ram, *table;
    struct lazy lazy;
    struct mem_absent absent;
    struct guest_mem mem;
    struct page_sums sums;
    struct paging_target target;
    u64 asked[PREPAGE_WISHES]; /* pages that are on their way because somebody waits */
    u32 n_asked;
    u64 heard; /* host ns, when the source last said something */
};

static bool is_absent(const struct pager *p, u64 page)
{
    return __atomic_load_n(&p->lazy.absent[page / 64], __ATOMIC_ACQUIRE) >> (page % 64) & 1;
}

static void put(void *ctx, u64 page, const u8 *content)
{
    struct pager *p = ctx;
    if (!is_absent(p, page))
        return;
    lazy_putting(&p->lazy, page);
    mem_offer_page(&p->mem, &p->absent, page, content); /* a guest that drops it just now, or lies, is not waited for */
    lazy_put(&p->lazy);
}

/* --- what it works on --- */

static int part(struct pager *p, const char *which, u64 *size, struct error *e)
{
    return control_descriptor(p->control, json_pack("{s:s,s:s,s:s}", "do", "paging", "action", "part", "which", which),
                              size, e);
}

static int ask(int control, const char *action, const char *id, const char *from, struct error *e)
{
    json_t *j = json_pack("{s:s,s:s,s:s,s:s}", "do", "paging", "action", action, "id", id, "from", from);
    int r = j ? control_call(control, j, NULL, e) : error_set(e, ENOMEM, "request: out of memory");
    json_decref(j);
    return r;
}

static int open_parts(struct pager *p, struct error *e)
{
    u64 none;
    if ((p->ram_fd = part(p, "memory", &p->size, e)) < 0 || (p->table_fd = part(p, "table", &p->table_size, e)) < 0 ||
        (p->event = part(p, "event", &none, e)) < 0)
        return -EIO;
    u64 pages = p->size / PAGE_SIZE;
    if (p->table_size != lazy_size(pages))
        return error_set(e, EPROTO, "the machine's keeper: a table of another size");
    p->ram = host_map_shared(p->ram_fd, p->size, e);
    p->table = p->ram ? host_map_shared(p->table_fd, p->table_size, e) : NULL;
    if (!p->table || lazy_attach(&p->lazy, p->table, pages, -1, e) < 0)
        return -ENOMEM;
    p->mem = (struct guest_mem){.ram = p->ram, .size = p->size};
    p->absent = (struct mem_absent){.absent = p->lazy.absent, .claimed = p->lazy.claimed, .left = &p->lazy.head->left};
    p->sums = (struct page_sums){.sum = p->lazy.sum, .n = pages};
    p->target = (struct paging_target){.sums = &p->sums, .put = put, .ctx = p};
    return 0;
}

static void close_parts(struct pager *p)
{
    const int fds[] = {p->control, p->ram_fd, p->table_fd, p->event};
    host_unmap(p->ram, p->ram ? p->size : 0);
    host_unmap(p->table, p->table ? p->table_size : 0);
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
}

/* The pager before this one may have died with a page in its hands. Its claim, or that of a guest that drops the page just now. */
static void disown(struct pager *p)
{
    const struct timespec tick = {.tv_nsec = 1000000};
    u64 page = __atomic_load_n(&p->lazy.head->putting, __ATOMIC_ACQUIRE) - 1;
    for (int i = 0; page < p->lazy.pages && is_absent(p, page) && i < DISOWN_MS; i++)
        nanosleep(&tick, NULL);
    lazy_disown(&p->lazy);
}

/* --- the loop --- */

static int begin(struct pager *p, struct channel *c, struct error *e)
{
    u64 words = (p->lazy.pages + 63) / 64;
    u64 *map = malloc(words * sizeof(*map));
    if (!map)
        return error_set(e, ENOMEM, "post-copy: out of memory");
    for (u64 i = 0; i < words; i++) /* once: it is summed up before it is sent */
        map[i] = __atomic_load_n(&p->lazy.absent[i], __ATOMIC_ACQUIRE);
    int r = paging_lack(c, map, p->lazy.pages, e);
    free(map);
    return r;
}

static bool is_asked(const struct pager *p, u64 page)
{
    for (u32 i = 0; i < p->n_asked; i++)
        if (p->asked[i] == page)
            return true;
    return false;
}

/* Ask for what somebody waits for and that is not on its way for this. */
static int want(struct pager *p, struct channel *c, struct error *e)
{
    u64 page[LAZY_WISHES], more[LAZY_WISHES];
    u32 n = 0, kept = 0, wishes = lazy_wishes(&p->lazy, page);
    for (u32 i = 0; i < p->n_asked; i++)
        if (is_absent(p, p->asked[i]))
            p->asked[kept++] = p->asked[i];
    p->n_asked = kept;
    for (u32 i = 0; i < wishes; i++)
        if (!is_asked(p, page[i]) && p->n_asked < PREPAGE_WISHES)
            more[n++] = p->asked[p->n_asked++] = page[i];
    return n ? paging_want(c, more, n, e) : 0;
}

/* Until the source says something, somebody wishes for something, or the machine ends. */
static int doze(struct pager *p, const struct channel *c, struct error *e)
{
    struct pollfd f[] = {
        {.fd = c->fd, .events = POLLIN}, {.fd = p->event, .events = POLLIN}, {.fd = p->control, .events = POLLIN}};
    u64 silent = (host_ns(NULL) - p->heard) / 1000000;
    int n = silent < SILENCE_MS ? poll(f, ARRAY_LEN(f), SILENCE_MS - (int)silent) : 0;
    if (n == 0)
        return error_set(e, ETIMEDOUT, "%s: has been silent for %d s while it has pages to send", c->peer,
                         SILENCE_MS / 1000);
    if (n < 0 && errno != EINTR)
        return error_set(e, errno, "poll: %s", strerror(errno));
    if (n > 0 && f[1].revents)
        host_event_clear(p->event);
    if (n > 0 && f[2].revents)
        return error_set(e, ESRCH, "the machine has ended");
    return 0;
}

static int take(struct pager *p, struct channel *c, struct error *e)
{
    struct lazy_head *h = p->lazy.head;
    p->heard = host_ns(NULL);
    int r = paging_take(&p->target, c, e);
    __atomic_fetch_add(&h->arrived, 1, __ATOMIC_SEQ_CST);
    if (__atomic_load_n(&h->waiting, __ATOMIC_SEQ_CST))
        host_word_wake_shared(&h->arrived);
    return r;
}

static int bring_all(struct pager *p, struct channel *c, struct error *e)
{
    int r = begin(p, c, e);
    p->heard = host_ns(NULL);
    while (r == 0 && __atomic_load_n(&p->lazy.head->left, __ATOMIC_ACQUIRE)) {
        if ((r = want(p, c, e)) < 0)
            return r;
        r = channel_readable(c, 0) == 0 ? doze(p, c, e) : take(p, c, e);
    }
    return r;
}

int pager_run(const struct machine_row *row, const char *id, struct channel *c, struct error *e)
{
    struct pager p = {.control = control_connect(row->socket, e), .ram_fd = -1, .table_fd = -1, .event = -1};
    if (p.control < 0)
        return p.control;
    int r = ask(p.control, "begin", id, c->peer, e);
    if (r == 0 && (r = open_parts(&p, e)) == 0) {
        disown(&p);
        r = bring_all(&p, c, e);
    }
    if (r == 0)
        r = ask(p.control, "full", id, "", e);
    if (r == 0)
        paging_full(c, &(struct error){0}); /* if it is not heard: the source asks, and is told */
    close_parts(&p);
    return r;
}

int pager_perished(const struct machine_row *row, const char *id, struct error *e)
{
    return control_once(row->socket, json_pack("{s:s,s:s,s:s}", "do", "paging", "action", "perished", "id", id), NULL,
                        e);
}
