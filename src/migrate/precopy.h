/*
 * Iterative pre-copy: memory goes over in rounds while the machine runs, each round the pages that were written during the one
 * before, until what is left is little enough to stop for (Clark et al., NSDI 2005, section 3.2).
 *
 * With r = rate of dirtying / bandwidth, round n has r^n of the memory: it shrinks if r < 1, by pages that are written again
 * and again (the writable working set) not to zero. A page that has been written again when its turn comes is left out: it would
 * have to be sent once more anyway.
 *
 * Knows neither machine nor wire: what they do is in `ops`.
 */
#ifndef TRAPEZE_MIGRATE_PRECOPY_H
#define TRAPEZE_MIGRATE_PRECOPY_H

#include "migrate/stream.h"

struct precopy_status {
    unsigned round;    /* from 1 */
    u64 pages;         /* that this round began with; what goes beside memory counts as pages, too, but in `sent` */
    u64 left;          /* of them, not yet sent; at its end: written meanwhile */
    u64 sent;          /* pages, in all rounds */
    u64 skipped;       /* turns of pages that had been written again */
    u64 bandwidth;     /* bytes of pages a second, in the last round; 0: not known */
    u64 dirty_rate;    /* bytes a second */
    u64 limit;         /* bytes a second that this round may take; 0: all */
    u64 expected;      /* ns of downtime, if it stopped now; 0: not known */
    unsigned throttle; /* hundredths of a percent of the time that the guest stands still for this */
    bool converges;    /* less will be left than now */
};

struct precopy_ops {
    /* Set in bits[] (a bit a page) what was written since the last call. */
    int (*take)(void *ctx, u64 *bits, struct error *e);
    /* A round is over, the reader has it all. */
    int (*round)(void *ctx, const struct precopy_status *s, struct error *e);
    u64 (*now)(void *ctx);    /* ns */
    u64 (*waited)(void *ctx); /* ns for which the link has kept us waiting, so far */
    /* Bytes a second from now on; 0: as many as go. */
    void (*limit)(void *ctx, u64 rate);
    void (*tell)(void *ctx, const struct precopy_status *s);
    /* Have the machine stand still for so many hundredths of a percent of the time: it writes less then. NULL: that is not wanted. */
    int (*throttle)(void *ctx, unsigned share, struct error *e);
    /* What goes along with memory (disks): bytes that are to be sent, as of the last take; send them. NULL: nothing does. */
    u64 (*beside)(void *ctx);
    int (*send_beside)(void *ctx, struct error *e);
};

struct precopy {
    /* set by the caller */
    const struct precopy_ops *ops;
    void *ctx;
    struct stream_out *out;
    const u8 *ram;
    u64 pages;
    int fd;           /* memory's, whose holes are passed over; -1: none */
    u64 downtime;     /* ns that the machine may stand still */
    u64 overhead;     /* ns of it that go into everything but pages */
    u64 cap;          /* bytes a second, at most; 0: as many as go */
    u64 max_ns;       /* of all rounds; 0: no end */
    bool may_pack;    /* pages are packed while the link is what takes the time */
    bool stop_anyway; /* a machine that does not converge is stopped all the same */
    bool
        may_name; /* ... and what is left is named instead of sent (post-copy), as soon as a round leaves no less than it began with */
    bool names; /* result: precopy_name is to follow, not precopy_last */
    /* its own */
    u64 *bits, *next;
    u64 started, taken; /* taken: when the log was looked at last */
    u64 looked, waited; /* when packing was last thought about, and ops.waited then */
    unsigned stuck;     /* rounds in a row that left no less */
    struct precopy_status status;
};

/*
 * The rounds. 0: stop the machine now, `precopy_last` has the rest (precopy_name, if `names` says so); -ETIMEDOUT with `e`: it does not converge; -errno. End with
 * precopy_free in any case.
 */
int precopy_run(struct precopy *p, struct error *e);
/* For those who send beside memory: think about packing, now and then. */
void precopy_choose_packing(struct precopy *p);
/* The machine stands still: send all that is left. */
int precopy_last(struct precopy *p, struct error *e);
/*
 * The machine stands still, and goes on elsewhere before all is there (post-copy): name what is left, but for what is zero.
 * status.left is how many pages that are; *named has a bit for each, until precopy_free.
 */
int precopy_name(struct precopy *p, const u64 **named, struct error *e);
void precopy_free(struct precopy *p);

#endif
