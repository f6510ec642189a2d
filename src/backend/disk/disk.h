/*
 * Disk images and block devices of the host, and what does the reading and writing.
 *
 * An image is opened, locked and measured once, while its process may still open files. Then an engine is made for all
 * of a machine's images: io_uring where the kernel has it, else threads. Both take requests without waiting and report
 * completions through one descriptor, so their owner stays a single loop; both work in a sealed process.
 */
#ifndef TRAPEZE_BACKEND_DISK_H
#define TRAPEZE_BACKEND_DISK_H

#include "base/disk.h"

#include <sys/uio.h>

/* X-macro: mode, name */
#define DISK_CACHES(X)                                                                    \
    X(DISK_CACHE_AUTO, "auto") /* none where the file system can do it, else writeback */ \
    X(DISK_CACHE_NONE, "none") /* past the host's page cache (O_DIRECT) */                \
    X(DISK_CACHE_WRITEBACK, "writeback")                                                  \
    X(DISK_CACHE_WRITETHROUGH, "writethrough") /* each write is on stable storage when it ends */

enum disk_cache {
#define X(mode, name) mode,
    DISK_CACHES(X)
#undef X
        DISK_CACHE_COUNT
};

const char *disk_cache_name(enum disk_cache c);
/* The mode of that name, or -1. */
int disk_cache_find(const char *name);

/* X-macro: format, name, suffixes */
#define DISK_FORMATS(X) X(DISK_RAW, "raw", ".raw|.img")

enum disk_format {
#define X(format, name, suffixes) format,
    DISK_FORMATS(X)
#undef X
        DISK_FORMAT_COUNT
};

/*
 * The format by its name (`name` not empty), or by the suffix of `path`; never by looking into the file, whose contents
 * are the guest's. -EINVAL or -ENOSYS with `e` filled.
 */
int disk_format_find(const char *name, const char *path, struct error *e);

struct disk_options {
    const char *path;
    bool read_only;
    enum disk_cache cache;
    bool unlocked; /* by disk_lock later: somebody else has it until then */
};

struct disk;

/*
 * Open an image or block device and lock it: a writer alone, readers together (open file description locks, which other
 * programs see as well). A file whose size is no multiple of 512 is refused. 0, or a negative errno with an `e` that names
 * the file, the cause and what to do.
 */
int disk_open(struct disk **out, const struct disk_options *o, struct error *e);
void disk_close(struct disk *d);
/* Lock an image that is open, or give the lock up. 0, -EBUSY, -errno; at once. */
int disk_lock(const struct disk *d, struct error *e);
void disk_unlock(const struct disk *d);

/* Sectors, and flags but those the owner decides; the serial is left alone. */
void disk_describe(const struct disk *d, struct disk_info *info);
/* Put all that was written on stable storage, and wait for it. 0 or -errno. */
int disk_sync(const struct disk *d);
/* Through the page cache; stays the disk's. */
int disk_descriptor(const struct disk *d);
/* The mode in use: never DISK_CACHE_AUTO. */
enum disk_cache disk_cache_mode(const struct disk *d);

/* A request that an engine works on: memory of the caller until it comes back. */
struct disk_io {
    /* set by the caller */
    struct disk *disk;
    enum disk_op op;
    u64 offset, len; /* bytes; zero for a flush */
    bool may_unmap;
    struct iovec *iov; /* of a read or write: changed while it is worked on */
    unsigned n_iov;
    void *owner;
    /* set when it comes back */
    int result; /* 0 or a negative errno */
    /* the engine's */
    u64 done;
    bool buffered; /* this try goes through the page cache */
    bool zeros;    /* zeros are written, because the file system can not make them */
    struct iovec part[16];
    s64 done_result; /* of a try, on its way from a thread */
    struct disk_io *next;
};

struct disk_engine;

/* X-macro: how it works, name */
enum disk_engine_kind { DISK_ENGINE_AUTO, DISK_ENGINE_URING, DISK_ENGINE_THREADS };

/*
 * Make an engine for these images with at most `depth` requests at once. Before a seal. AUTO takes threads when io_uring is
 * refused. 0 or a negative errno.
 */
int disk_engine_create(struct disk_engine **out, enum disk_engine_kind kind, struct disk *const *disks, unsigned n,
                       unsigned depth, struct error *e);
/* Waits for what is on its way. Not in a sealed process. */
void disk_engine_destroy(struct disk_engine *g);
const char *disk_engine_name(const struct disk_engine *g);
/* Readable when something may have completed. */
int disk_engine_fd(const struct disk_engine *g);
/* A descriptor that the engine makes system calls of its own with (io_uring_enter), or -1. */
int disk_engine_ring(const struct disk_engine *g);

/* Begin. It comes back from disk_engine_reap, never from here. */
void disk_engine_submit(struct disk_engine *g, struct disk_io *io);
/* Hand everything submitted to the kernel: once after a batch. */
void disk_engine_flush(struct disk_engine *g);
/* The next request that is complete, or NULL. */
struct disk_io *disk_engine_reap(struct disk_engine *g);

#endif
