/*
 * The source's side of a live migration: `trapeze migrate`, which runs in the verb's own process. docs/migration.md has stages,
 * messages and rules; migrate/handover.h who may run the machine; migrate/precopy.h the rounds.
 *
 *   verb ──control── keeper, cell        memory: mapped by its descriptor; what was written: the dirty log
 *     └────channel── receive ──control── keeper, cell at the target
 *
 * Until the keeper has its record (commit), the end of this process lets the machine go on. From then on a process that is left
 * behind for this (the watcher) goes on asking the target if this one dies.
 */
#ifndef TRAPEZE_VM_MOVE_H
#define TRAPEZE_VM_MOVE_H

#include "migrate/precopy.h"
#include "vm/handover_wire.h"
#include "vm/registry.h"

struct move_status {
    const char *stage; /* "reservation", "pre-copy", "stop-and-copy", "commitment", "activation", "post-copy" */
    struct precopy_status copy;
    u64 disk_sent, disk_left; /* bytes of disks that go along */
    u64 ns;                   /* since it began */
};

struct move_options {
    const char *to; /* as channel_address_parse takes it */
    struct channel_security security;
    u64 downtime;     /* ns that the machine may stand still */
    u64 bandwidth;    /* bytes a second; 0: as many as go */
    u64 max_ns;       /* of pre-copy; 0: no end */
    bool stop_anyway; /* a machine that does not converge is stopped all the same */
    bool throttle;    /* ... is slowed down until it does */
    bool postcopy;    /* ... goes on there before the rest of its memory is; not with with_disks */
    bool plain;       /* pages are never packed */
    bool dry_run;     /* ask the target, and look how the guest writes; nothing moves */
    bool with_disks;  /* its disks go along, into new files there */
    bool verify;      /* sum all of memory once more while it stands still */
    int cancel;       /* descriptor that becomes readable to cancel it; -1: none */
    void (*tell)(void *ctx, const struct move_status *s);
    void *ctx;
};

struct move_result {
    bool moved;
    u64 ns, downtime; /* all of it; from the order to stop to the word that it runs there */
    u64 bytes, pages; /* sent */
    u64 disk_bytes;   /* sent of disks; dry run: that they have */
    u64 resident;     /* bytes of pages that are not zero, at the end */
    unsigned rounds,
        throttle; /* throttle: hundredths of a percent of the time that it stood still for this, at the end */
    u64 dirty_rate, bandwidth; /* bytes a second, in the last round */
    u64 expected;              /* ns of downtime that was expected when it was stopped, or (dry run) would be */
    bool postcopy;             /* pages were named and sent when it ran there already: */
    u64 named_bytes;           /* as much; then pages that were sent, of them those that its guest waited for */
    u64 paged, wished;
    u64 stage_ns[6]; /* when each stage of the paper began, since the start; 0: it did not */
};

/*
 * Move the machine of `row`. 0: it runs there, and is no more here (or dry run: it could). -errno with `e`: it goes on here, as it
 * was; but -EINPROGRESS: it was committed and the target's word is missing: it stands still, and is asked about; or (post-copy) it
 * runs there and lacks what is here.
 * Must be called by a process with one thread: it forks.
 */
int move_run(const struct machine_row *row, const struct move_options *o, struct move_result *result, struct error *e);

#endif
