/*
 * Paging over a channel: the pages of a machine that runs at the target already come to it (post-copy), those that somebody waits
 * for first, the rest around them (prepage.h). docs/migration-stream.md has the messages.
 *
 *     target   LACK ──> what is absent, once a connection
 *              WANT ──> pages that somebody waits for            <── GIVE  pages
 *              FULL ──> nothing is absent any more
 *
 * The source holds its memory until FULL. A connection that breaks is followed by another, which begins with LACK again: what was on
 * its way is sent once more, what comes twice is passed over. So neither side keeps count of what the other has got.
 *
 * What must stay true
 *  1. The source hands out no page but those that it has named as absent: the others are at the target, and written there since.
 *  2. The target takes no page whose sum is not the one of the digest that was compared before the commit.
 *  3. Both sides look at each length and page number before they use it; what they allocate depends on their own memory's size.
 *  4. The target has no more than PREPAGE_WISHES wishes on their way that were not fulfilled: then neither side waits for the other
 *     to read.
 */
#ifndef TRAPEZE_MIGRATE_PAGING_H
#define TRAPEZE_MIGRATE_PAGING_H

#include "migrate/channel.h"
#include "migrate/digest.h"
#include "migrate/prepage.h"

struct paging_source {
    /* set by the caller */
    const u8 *ram; /* nobody writes there */
    u64 pages;
    const u64 *named;                        /* a bit a page: named as absent in the stream (stream_put_absent) */
    u64 *left;                               /* as many words, of the caller's memory: what is still to go */
    void (*tell)(void *ctx, u64 left_pages); /* now and then; may be NULL */
    void *ctx;
    /* may be read */
    u64 sent, wished; /* pages, of them those that were waited for; over all connections */
    /* its own */
    struct prepage order;
};

/*
 * Serve one connection until the target has said FULL: 0. -EPROTO, -EBADMSG: what it says can not be. Another -errno: the
 * connection is broken; call it again with the next one. The memory is to be kept in each of these cases.
 */
int paging_serve(struct paging_source *s, struct channel *c, struct error *e);

struct paging_target {
    /* set by the caller */
    const struct page_sums *sums; /* of the digest */
    /* A page has come, whose sum is right; it may be present already. */
    void (*put)(void *ctx, u64 page, const u8 *content);
    void *ctx;
    /* may be read */
    u64 taken; /* pages that came, over all connections */
};

/* A connection begins: say what is absent (a bit a page, read once). 0 or -errno. */
int paging_lack(struct channel *c, const u64 *absent, u64 pages, struct error *e);
/* Ask for pages, PREPAGE_WISHES at most, at once. 0 or -errno. */
int paging_want(struct channel *c, const u64 *page, u32 n, struct error *e);
/* Receive pages, and put them. 0 or -errno; -EBADMSG: they can not be, and the connection is of no use any more. */
int paging_take(struct paging_target *t, struct channel *c, struct error *e);
/* All is here, durably so. 0 or -errno: it may not have been heard. */
int paging_full(struct channel *c, struct error *e);

#endif
