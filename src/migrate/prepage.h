/*
 * Pre-paging: in which order the pages of a machine go over that runs at the target already (post-copy; Hines and Gopalan,
 * "Post-copy based live virtual machine migration using adaptive pre-paging and dynamic self-ballooning", VEE 2009, section 3.2).
 *
 * A page that somebody waits for goes first. Where it lies is the pivot, from which the rest goes in both directions by turns, up
 * and down, like a bubble: what lies next to a fault is likely to be the next one.
 *
 *        down <── sent ──── pivot ──── sent ──> up
 *
 * Knows neither machine nor wire. Page numbers come from a peer.
 *
 * What must stay true
 *  1. Each page that is left is handed out once, whatever is wished for; and it is handed out: what is left lies below `down` or not
 *     below `up`, or is put there again by a wish.
 *  2. Wishes take a fixed room, however many a peer has. One too many is still heard (the pivot moves), it only has no place of
 *     its own in the queue.
 */
#ifndef TRAPEZE_MIGRATE_PREPAGE_H
#define TRAPEZE_MIGRATE_PREPAGE_H

#include "base/error.h"
#include "base/types.h"

#define PREPAGE_WISHES 256u

struct prepage {
    u64 *left;                /* a bit a page, whole words: still to go; the caller's memory */
    u64 pages;                /* of the machine */
    u64 n;                    /* bits of `left` */
    u64 up, down;             /* the next to look at, upwards; one above the next, downwards */
    bool turn;                /* it is down's */
    u64 wish[PREPAGE_WISHES]; /* a ring of pages that somebody waits for */
    unsigned first, wishes;   /* the oldest; how many */
};

/* Begin, or begin anew after the reader has said what it has not got (a broken link): bits beyond `pages` are cleared. */
void prepage_init(struct prepage *p, u64 *left, u64 pages);
/* Somebody waits for that page; one that has gone already is no error. -ERANGE with `e`: there is none of that number. */
int prepage_want(struct prepage *p, u64 page, struct error *e);
/*
 * The next to go: pages [*first, *first + n), n of them, which are no longer left. A page that is waited for comes alone, others in
 * runs of `most` at most. 0: nothing is left.
 */
u32 prepage_next(struct prepage *p, u64 *first, u32 most);

#endif
