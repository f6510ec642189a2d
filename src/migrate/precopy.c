#include "migrate/precopy.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_S     1000000000ull
#define SLICE        4096u       /* pages between two looks at the clock */
#define LOOK_NS      50000000ull /* between two looks at what was written again: each costs the guest something */
#define FEW          64u         /* pages: 256 KiB, not worth a round (the paper's) */
#define FLOOR        (100000000ull / 8) /* bytes a second of the first round (the paper's 100 Mbit/s) */
#define STEP         (50000000ull / 8)  /* above the rate of dirtying (the paper's 50 Mbit/s) */
#define STUCK        3u
#define PACK_LOOK_NS 10000000ull
#define ROUNDS_MAX   10000u
/*
 * How much of the time a guest stands still which writes too fast, in hundredths of a percent: at first, more each time; from
 * THROTTLE_FINE on a quarter of what it still runs. 99 % is not enough: a loop that does nothing but write does 1 to 10 GB a second,
 * and a hundredth of that is what a slow link takes.
 */
#define THROTTLE_FIRST 2000u
#define THROTTLE_STEP  1500u
#define THROTTLE_FINE  9900u
#define THROTTLE_LAST  9999u
#define THROTTLE_ALL   10000u

static u64 words(const struct precopy *p)
{
    return (p->pages + 63) / 64;
}

static u64 count(const struct precopy *p, const u64 *bits)
{
    u64 n = 0;
    for (u64 i = 0; i < words(p); i++)
        n += (u64)__builtin_popcountll(bits[i]);
    return n;
}

/* What is to be sent, in pages: of memory what `bits` says, and what goes beside it. */
static u64 to_send(const struct precopy *p, const u64 *bits)
{
    return count(p, bits) + (p->ops->beside ? (p->ops->beside(p->ctx) + PAGE_SIZE - 1) / PAGE_SIZE : 0);
}

/* That comes first: memory that is written meanwhile is then skipped in this round. */
static int send_beside(struct precopy *p, struct error *e)
{
    return p->ops->send_beside ? p->ops->send_beside(p->ctx, e) : 0;
}

static void set_range(u64 *bits, u64 from, u64 to)
{
    for (u64 i = from; i < to; i++)
        bits[i / 64] |= 1ull << (i % 64);
}

/* The first round: all pages that have ever been touched. */
static void set_present(struct precopy *p)
{
    off_t at = 0, hole;
    if (p->fd < 0) {
        set_range(p->bits, 0, p->pages);
        return;
    }
    while ((at = lseek(p->fd, at, SEEK_DATA)) >= 0 && (hole = lseek(p->fd, at, SEEK_HOLE)) >= 0) {
        set_range(p->bits, MIN((u64)at / PAGE_SIZE, p->pages), MIN(((u64)hole + PAGE_SIZE - 1) / PAGE_SIZE, p->pages));
        at = hole;
    }
}

/* A round's rate: what it takes to be faster than the guest, between floor and cap. */
static u64 rate(const struct precopy *p)
{
    u64 wanted = p->status.round == 1 ? MAX(FLOOR, p->cap / 4) : p->status.dirty_rate + MAX(STEP, p->cap / 4);
    return p->cap ? MIN(wanted, p->cap) : 0;
}

/* What was written again meanwhile goes into the next round instead. */
static int look(struct precopy *p, u64 from, struct error *e)
{
    u64 now = p->ops->now(p->ctx);
    if (now - p->taken < LOOK_NS)
        return 0;
    p->taken = now;
    int r = p->ops->take(p->ctx, p->next, e);
    for (u64 i = from / 64; r == 0 && i < words(p); i++) {
        u64 again = p->bits[i] & p->next[i];
        p->bits[i] &= ~again;
        p->status.skipped += (u64)__builtin_popcountll(again);
    }
    return r;
}

/* Pack while most of the time goes into waiting for the link, and no more when little does. */
void precopy_choose_packing(struct precopy *p)
{
    u64 now = p->ops->now(p->ctx), waited = p->ops->waited(p->ctx);
    u64 took = now - p->looked, idle = waited - p->waited;
    if (!p->may_pack || took < PACK_LOOK_NS)
        return;
    if (idle > took / 2)
        p->out->pack = true;
    else if (idle < took / 16)
        p->out->pack = false;
    p->looked = now;
    p->waited = waited;
}

static int send_round(struct precopy *p, struct error *e)
{
    struct precopy_status *s = &p->status;
    s->left = s->pages;
    int r = send_beside(p, e);
    s->left = MIN(s->left, count(p, p->bits));
    for (u64 at = 0; at < p->pages && r == 0; at += SLICE) {
        u64 to = MIN(at + SLICE, p->pages), n = 0;
        if (at && (r = look(p, at, e)) < 0)
            return r;
        for (u64 i = at / 64; i < (to + 63) / 64; i++)
            n += (u64)__builtin_popcountll(p->bits[i]);
        if (!n)
            continue;
        r = stream_put_dirty(p->out, p->ram, p->bits, at, to, e);
        s->sent += n;
        s->left -= MIN(n, s->left);
        precopy_choose_packing(p);
        p->ops->tell(p->ctx, s);
    }
    return r;
}

/* What the round has shown. `bytes` of pages went over in `ns`; `left`: pages for the next. */
static void judge(struct precopy *p, u64 bytes, u64 ns, u64 left)
{
    struct precopy_status *s = &p->status;
    ns = MAX(ns, 1000);
    if (bytes >= FEW * PAGE_SIZE)
        s->bandwidth = (u64)((double)bytes * NS_PER_S / (double)ns);
    s->dirty_rate = (u64)((double)left * PAGE_SIZE * NS_PER_S / (double)ns);
    /* In the last round nothing holds it back but the link; what is held back now says little of that. */
    u64 fast = s->limit && s->bandwidth >= s->limit / 2 ? MAX(p->cap, s->bandwidth) : s->bandwidth;
    s->expected = p->overhead + (fast ? (u64)((double)left * PAGE_SIZE * NS_PER_S / (double)fast) : 0);
    p->stuck = left < s->pages - s->pages / 16 ? 0 : p->stuck + 1;
    s->converges = !p->stuck;
    s->left = left;
}

static int one_round(struct precopy *p, struct error *e)
{
    struct precopy_status *s = &p->status;
    u64 start = p->taken = p->ops->now(p->ctx), before = p->out->pages;
    s->round++;
    s->pages = to_send(p, p->bits);
    s->limit = rate(p);
    p->ops->limit(p->ctx, s->limit);
    int r = send_round(p, e);
    if (r < 0 || (r = p->ops->round(p->ctx, s, e)) < 0 || (r = p->ops->take(p->ctx, p->next, e)) < 0)
        return r;
    judge(p, p->out->pages - before, p->ops->now(p->ctx) - start, to_send(p, p->next));
    u64 *was = p->bits;
    p->bits = p->next;
    p->next = was;
    memset(p->next, 0, words(p) * sizeof(u64));
    p->ops->tell(p->ctx, s);
    return 0;
}

/* Whether one more round is likely to leave half of this one's rest, or less: it costs little, and the machine stands still for less. */
static bool pays(const struct precopy *p)
{
    return p->status.left < p->status.pages / 2;
}

static bool is_late(const struct precopy *p)
{
    return p->max_ns && p->ops->now(p->ctx) - p->started > p->max_ns;
}

static int gives_up(const struct precopy *p, struct error *e)
{
    const struct precopy_status *s = &p->status;
    bool late = is_late(p);
    if (!late && p->stuck < STUCK && s->round < ROUNDS_MAX)
        return 0;
    if (p->stop_anyway)
        return 1;
    if (!late && p->max_ns)
        return 0; /* it may calm down */
    return error_set(
        e, ETIMEDOUT,
        "it does not converge: the guest writes %llu MB a second, the link takes %llu; %llu MB are left after "
        "%u rounds, to be sent in %llu ms of downtime; --downtime allows for more, --stop-if-not-converging "
        "for as much as it takes, --throttle slows it down, --postcopy sends the rest when it runs there",
        (unsigned long long)(s->dirty_rate / 1000000), (unsigned long long)(s->bandwidth / 1000000),
        (unsigned long long)(s->left * PAGE_SIZE / 1000000), s->round, (unsigned long long)(s->expected / 1000000));
}

static unsigned throttle_next(unsigned t)
{
    if (!t)
        return THROTTLE_FIRST;
    return t < THROTTLE_FINE ? MIN(t + THROTTLE_STEP, THROTTLE_FINE)
                             : MIN(THROTTLE_ALL - (THROTTLE_ALL - t) / 4, THROTTLE_LAST);
}

/* A guest that writes too fast is slowed down, more each time, as far as it goes. 1: it was. */
static int slow_down(struct precopy *p, struct error *e)
{
    struct precopy_status *s = &p->status;
    if (!p->ops->throttle || !p->stuck || s->throttle >= THROTTLE_LAST || is_late(p))
        return 0;
    s->throttle = throttle_next(s->throttle);
    int r = p->ops->throttle(p->ctx, s->throttle, e);
    p->stuck = 0;
    return r < 0 ? r : 1;
}

/* What goes beside memory may be far more: the most of it goes before the first round, as fast as may be. */
static int bulk(struct precopy *p, struct error *e)
{
    if (!p->ops->send_beside)
        return 0;
    p->ops->limit(p->ctx, p->cap);
    int r = send_beside(p, e);
    if (r == 0)
        r = p->ops->take(p->ctx, p->bits, e);
    p->started = p->ops->now(p->ctx);
    return r;
}

int precopy_run(struct precopy *p, struct error *e)
{
    p->bits = calloc(words(p), sizeof(u64));
    p->next = calloc(words(p), sizeof(u64));
    if (!p->bits || !p->next)
        return error_set(e, ENOMEM, "migration: out of memory");
    p->started = p->looked = p->ops->now(p->ctx);
    p->waited = p->ops->waited(p->ctx);
    int r = bulk(p, e);
    if (r < 0)
        return r;
    set_present(p);
    for (;;) {
        r = one_round(p, e);
        if (r < 0)
            return r;
        if (p->status.left <= FEW || (p->status.expected <= p->downtime && !pays(p)))
            return 0;
        p->names = p->may_name && (p->stuck || is_late(p));
        if (p->names)
            return 0;
        if ((r = slow_down(p, e)) < 0 || (r == 0 && (r = gives_up(p, e)) != 0))
            return MIN(r, 0);
    }
}

int precopy_last(struct precopy *p, struct error *e)
{
    p->ops->limit(p->ctx, p->cap);
    int r = p->ops->take(p->ctx, p->bits, e);
    p->status.pages = p->status.left = to_send(p, p->bits);
    u64 n = count(p, p->bits);
    if (r == 0)
        r = send_beside(p, e);
    if (r == 0)
        r = stream_put_dirty(p->out, p->ram, p->bits, 0, p->pages, e);
    p->status.sent += n;
    return r;
}

int precopy_name(struct precopy *p, const u64 **named, struct error *e)
{
    struct precopy_status *s = &p->status;
    p->ops->limit(p->ctx, p->cap);
    int r = p->ops->take(p->ctx, p->bits, e);
    s->pages = count(p, p->bits);
    s->left = 0;
    if (r == 0)
        r = stream_put_absent(p->out, p->ram, p->bits, 0, p->pages, &s->left, e);
    *named = p->bits;
    return r;
}

void precopy_free(struct precopy *p)
{
    free(p->bits);
    free(p->next);
    p->bits = p->next = NULL;
}
