/*
 * Disks that go along with a machine: their blocks as records of the stream (docs/migration-stream.md), written at the source while
 * the guest writes to them, read into new files at the target.
 *
 *      file ──SEEK_DATA──> todo ──read──> DBLK, DZER ──────────> file of the target
 *      keeper's marks ───────┘               └─ sum of each block, digest over all: DSUM ─┘
 *
 * A disk is cut into blocks of BLOCKMAP_BLOCK bytes; the last may be shorter, and counts as filled up with zeros. Which ones are to be
 * sent is a map of bits, which the caller adds marks to. A block that is zero goes as a word, and leaves a hole.
 *
 * What must stay true
 *  1. A block's bit is cleared before it is read: a mark that comes later stands for what may have been missed.
 *  2. The reader believes nothing: disk, block, lengths are looked at before a byte is used, no byte is written outside of a disk of
 *     the size that was agreed on, and none after its digest was compared.
 *  3. A disk is complete when its digest is that of the blocks that came, and its file is on stable storage.
 */
#ifndef TRAPEZE_MIGRATE_MIRROR_H
#define TRAPEZE_MIGRATE_MIRROR_H

#include "base/blockmap.h"
#include "base/disk.h"
#include "migrate/stream.h"

#define MIRROR_BYTES_MAX (4ull << 40) /* of one disk: the table of its sums takes 512 MiB */
#define MIRROR_NAME      200u

/* --- source --- */

struct mirror_source {
    int fd;                /* its own: for reading */
    struct blockmap todo;  /* blocks that are to be sent */
    struct page_sums sums; /* of the blocks as the target has them */
    u64 data;              /* bytes that the file had when it was opened, holes not counted */
};

struct mirror_out {
    unsigned n;
    struct mirror_source disk[DISK_COUNT_MAX];
    u64 sent; /* bytes of blocks that were not zero, before they were packed */
    u8 *chunk, *record;
};

/*
 * Add the disk that `file` is a descriptor of, which stays the caller's: it is opened anew. `direct`: past the page cache, if that
 * goes. All of its blocks that are no holes are to be sent. 0 or -errno with `e`; end with mirror_out_free in any case.
 */
int mirror_add(struct mirror_out *m, int file, u64 bytes, bool direct, struct error *e);
/* Bytes that are to be sent. */
u64 mirror_left(const struct mirror_out *m);
/* Send them. `look`, which may be NULL, is called now and then; what it returns but 0 ends it. */
int mirror_send(struct mirror_out *m, struct stream_out *o, int (*look)(void *ctx, struct error *e), void *ctx,
                struct error *e);
/* The guest stands still, all has been sent: one digest for each disk. */
int mirror_put_digests(const struct mirror_out *m, struct stream_out *o, struct error *e);
/* Read all disks and compare them with what was sent: finds a write that was missed. 0 or -EILSEQ. */
int mirror_verify(struct mirror_out *m, struct error *e);
void mirror_out_free(struct mirror_out *m);

/* --- target --- */

struct mirror_target {
    char name[MIRROR_NAME]; /* for errors: the end of its path */
    int fd;
    struct blockmap size; /* no bits: bytes and blocks */
    struct page_sums sums;
    bool summed; /* its digest has come, and is right */
};

struct mirror_in {
    unsigned n;
    struct mirror_target disk[DISK_COUNT_MAX];
    u64 received, synced; /* bytes of blocks; of them, on stable storage for sure */
    u8 *block;
};

/* Whether a disk of that many bytes can be mirrored. */
bool mirror_size_good(u64 bytes);
/*
 * Make the file of the next disk: `path` must be none that is there. It is given the size, and holes. 0 or -errno with an `e` that
 * names the file. mirror_in_free closes the files and leaves them there.
 */
int mirror_create(struct mirror_in *m, const char *path, u64 bytes, struct error *e);
/* A record of the stream (stream_in.disk). */
int mirror_take(struct mirror_in *m, u32 type, const u8 *payload, u32 len, struct error *e);
/* Put what has come on stable storage: at the end of a round, so that little is left to do at the last one. */
int mirror_sync(struct mirror_in *m, struct error *e);
/* The stream has ended: whether all of them are complete; they are on stable storage then. */
int mirror_complete(struct mirror_in *m, struct error *e);
void mirror_in_free(struct mirror_in *m);

#endif
