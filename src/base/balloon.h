/*
 * What a machine's memory balloon tells of itself, on its way from the device in the cell through the keeper to a person.
 * Sizes are in bytes. Nothing of it is to be believed by the keeper: it is the guest's word, or that of its cell.
 */
#ifndef TRAPEZE_BASE_BALLOON_H
#define TRAPEZE_BASE_BALLOON_H

#include "base/types.h"

/* X-macro: name, whether in bytes, what it is; in the order of the tags of virtio 1.2, 5.5.6.4 */
#define BALLOON_STATS(X)                                             \
    X(swapped_in, true, "read from swap space")                      \
    X(swapped_out, true, "written to swap space")                    \
    X(major_faults, false, "page faults that needed a disk")         \
    X(minor_faults, false, "page faults that did not")               \
    X(free, true, "used by nothing")                                 \
    X(total, true, "known to the system")                            \
    X(available, true, "to be had without swapping")                 \
    X(caches, true, "cached files, to be had at once")               \
    X(huge_pages, false, "huge pages that were asked for and given") \
    X(huge_pages_missing, false, "huge pages that were asked for when there were none")

enum balloon_stat {
#define X(name, bytes, text) BALLOON_STAT_##name,
    BALLOON_STATS(X)
#undef X
        BALLOON_STAT_COUNT
};

struct balloon_info {
    u64 target;   /* what the balloon is to hold */
    u64 actual;   /* what it holds, as the guest's driver says */
    u64 inflated; /* given back to the host through the balloon, since the machine began */
    u64 reported; /* given back because the guest reported it to be free */
    u64 kept;     /* reported, but kept: the guest wants to find its poison there */
    u64 answers;  /* how often the guest has told its statistics */
    u32 driver;   /* 1: the guest has a driver */
    u32 have;     /* of the statistics below: a bit each */
    u64 stat[BALLOON_STAT_COUNT];
};

#endif
