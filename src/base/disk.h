/*
 * What the two sides of a disk say to each other: the device in the cell, which the guest sees, and the back end in the
 * keeper, which holds the file. Records of 64 bytes on two rings (base/ring.h).
 *
 *   up     a request, then its segments, DISK_SEGS_PER_RECORD a record, all put at once
 *   down   a reply a request, in any order
 *
 * Data is not copied: the back end reads and writes guest memory where the segments say. It believes nothing of a request
 * before disk_request_check has seen it.
 */
#ifndef TRAPEZE_BASE_DISK_H
#define TRAPEZE_BASE_DISK_H

#include "base/error.h"
#include "base/types.h"

#define DISK_SECTOR          512u
#define DISK_COUNT_MAX       16u
#define DISK_TAGS            128u /* requests of one disk that may be on their way */
#define DISK_SEGS_MAX        128u
#define DISK_SEGS_PER_RECORD 4u
#define DISK_BYTES_MAX       (64u << 20) /* of one request's data */
#define DISK_RECORDS_MAX     (1 + DISK_SEGS_MAX / DISK_SEGS_PER_RECORD)

enum disk_op { DISK_NONE, DISK_READ, DISK_WRITE, DISK_FLUSH, DISK_DISCARD, DISK_ZERO, DISK_OP_COUNT };

enum disk_status { DISK_OK, DISK_FAILED, DISK_UNSUPPORTED };

#define DISK_MAY_UNMAP 1u /* of DISK_ZERO: the space may be given back */

struct disk_request {
    u32 disk;
    u32 tag; /* below DISK_TAGS, of no other request of this disk that is on its way */
    u32 op;
    u32 flags;
    u64 sector, sectors; /* of 512 bytes; a flush has none */
    u32 n_segs;          /* of a read or write: they add up to `sectors` */
    u32 zero[7];
};

struct disk_seg {
    u64 at; /* guest-physical */
    u32 len;
    u32 zero;
};

struct disk_segs {
    struct disk_seg seg[DISK_SEGS_PER_RECORD];
};

struct disk_reply {
    u32 disk, tag;
    u32 status; /* enum disk_status */
    u32 zero[13];
};

/* What a disk is, for both sides. */
#define DISK_READ_ONLY   1u
#define DISK_WRITE_CACHE 2u /* what is written may be lost until a flush */
#define DISK_CAN_DISCARD 4u

struct disk_info {
    u64 sectors;
    u32 flags;
    char serial[20]; /* not ended by a zero when it is full */
};

/* Records that the segments of a request take. */
static inline u32 disk_seg_records(u32 n_segs)
{
    return (n_segs + DISK_SEGS_PER_RECORD - 1) / DISK_SEGS_PER_RECORD;
}

/*
 * Whether a request is one that a disk like this can be asked: op, sectors, number of segments, read-only. What the
 * segments hold is for those who know the memory. 0 or -EINVAL.
 */
int disk_request_check(const struct disk_request *r, const struct disk_info *d);

#endif
