/*
 * A request as a sequence of tries. The kernel may do a part of what it was asked, or refuse the first way; here stands,
 * for every engine, what follows:
 *
 *   part of a read or write      the rest is tried
 *   nothing of a read            the image ends before its size: it was cut while in use: EIO
 *   EINVAL past the page cache   the buffers are not aligned: once more through the cache
 *   EINTR, EAGAIN                once more
 *   zeros that the file system can not make (EOPNOTSUPP)    zeros are written
 *   a discard that it can not do                            EOPNOTSUPP: the guest is told that there is none
 *
 * A write to a file that has become shorter than the disk is an error as well: it would grow the file again, with zeros
 * where data was.
 */
#include "backend/disk/disk_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define ALIGN      512u
#define ZERO_BLOCK 65536u

static const u8 zero_block[ZERO_BLOCK] __attribute__((aligned(4096)));

static bool aligned(const struct disk_io *io)
{
    for (unsigned i = 0; i < io->n_iov; i++)
        if (((uintptr_t)io->iov[i].iov_base | io->iov[i].iov_len) % ALIGN)
            return false;
    return true;
}

int disk_begin(struct disk_io *io)
{
    const struct disk *d = io->disk;
    struct stat st;
    io->done = 0;
    io->zeros = false;
    io->buffered = d->direct_fd < 0 || !aligned(io);
    if (io->op != DISK_READ && io->op != DISK_FLUSH && d->read_only)
        return -EROFS;
    if (io->offset > d->size || io->len > d->size - io->offset)
        return -EINVAL;
    bool changes = io->op == DISK_WRITE || io->op == DISK_ZERO || io->op == DISK_DISCARD;
    if (changes && !d->device && (fstat(d->fd, &st) < 0 || (u64)st.st_size < d->size))
        return -EIO;
    return 0;
}

/* Zeros from where we are on: as many as fit into one try. */
static void zeros(struct disk_io *io, struct disk_try *t)
{
    u64 left = io->len - io->done;
    t->call = CALL_WRITE;
    t->iov = io->part;
    for (t->n_iov = 0; t->n_iov < ARRAY_LEN(io->part) && left; t->n_iov++) {
        size_t n = MIN(left, (u64)ZERO_BLOCK);
        io->part[t->n_iov] = (struct iovec){(void *)(uintptr_t)zero_block, n};
        left -= n;
    }
}

void disk_try(struct disk_io *io, struct disk_try *t)
{
    const struct disk *d = io->disk;
    bool direct = !io->buffered && d->direct_fd >= 0 && (io->op == DISK_READ || io->op == DISK_WRITE || io->zeros);
    *t = (struct disk_try){.fd = direct ? d->direct_fd : d->fd,
                           .index = 2 * d->index + direct,
                           .offset = io->offset + io->done,
                           .len = io->len - io->done,
                           .iov = io->iov,
                           .n_iov = io->n_iov};
    if (io->zeros) {
        zeros(io, t);
    } else if (io->op == DISK_READ) {
        t->call = CALL_READ;
    } else if (io->op == DISK_WRITE) {
        t->call = CALL_WRITE;
    } else if (io->op == DISK_FLUSH) {
        t->call = CALL_SYNC;
    } else {
        t->call = CALL_ALLOCATE;
        t->mode = FALLOC_FL_KEEP_SIZE |
                  (io->op == DISK_DISCARD || io->may_unmap ? FALLOC_FL_PUNCH_HOLE : FALLOC_FL_ZERO_RANGE);
    }
}

/* Leave the first `n` bytes of the pieces behind. */
static void advance(struct disk_io *io, u64 n)
{
    while (n && io->n_iov) {
        size_t part = MIN(n, (u64)io->iov->iov_len);
        io->iov->iov_base = (u8 *)io->iov->iov_base + part;
        io->iov->iov_len -= part;
        n -= part;
        if (!io->iov->iov_len) {
            io->iov++;
            io->n_iov--;
        }
    }
}

static bool finish(struct disk_io *io, int result)
{
    io->result = result;
    return true;
}

static bool failed(struct disk_io *io, int error)
{
    if (error == -EINTR || error == -EAGAIN)
        return false;
    if (error == -EINVAL && !io->buffered && (io->op == DISK_READ || io->op == DISK_WRITE || io->zeros)) {
        io->buffered = true;
        return false;
    }
    if (error == -EOPNOTSUPP && io->op == DISK_ZERO && !io->zeros) {
        io->zeros = true;
        return false;
    }
    return finish(io, error);
}

bool disk_tried(struct disk_io *io, s64 result)
{
    bool moves = io->op == DISK_READ || io->op == DISK_WRITE || io->zeros;
    if (result < 0)
        return failed(io, (int)result);
    if (!moves)
        return finish(io, 0);
    if (!result)
        return finish(io, -EIO);
    io->done += (u64)result;
    if (!io->zeros)
        advance(io, (u64)result);
    if (io->done >= io->len)
        return finish(io, 0);
    io->buffered |= io->done % ALIGN != 0;
    return false;
}

/* --- engines --- */

int disk_engine_create(struct disk_engine **out, enum disk_engine_kind kind, struct disk *const *disks, unsigned n,
                       unsigned depth, struct error *e)
{
    struct error why = {0};
    for (unsigned i = 0; i < n; i++)
        disks[i]->index = i;
    int r = kind == DISK_ENGINE_THREADS ? -ENOSYS : disk_uring_create(out, disks, n, depth, &why);
    if (r < 0 && kind == DISK_ENGINE_URING)
        return error_set(e, -r, "%s", why.msg);
    return r < 0 ? disk_threads_create(out, depth, e) : r;
}

const char *disk_engine_name(const struct disk_engine *g)
{
    return g->ops->name;
}

int disk_engine_fd(const struct disk_engine *g)
{
    return g->fd;
}

int disk_engine_ring(const struct disk_engine *g)
{
    return g->ring_fd;
}

void disk_engine_submit(struct disk_engine *g, struct disk_io *io)
{
    int r = disk_begin(io);
    if (r == 0) {
        g->ops->submit(g, io);
        return;
    }
    io->result = r;
    io->next = g->finished;
    g->finished = io;
}

void disk_engine_flush(struct disk_engine *g)
{
    g->ops->flush(g);
}

struct disk_io *disk_engine_reap(struct disk_engine *g)
{
    struct disk_io *io = g->finished;
    s64 result;
    if (io) {
        g->finished = io->next;
        return io;
    }
    while ((io = g->ops->reap(g, &result))) {
        if (disk_tried(io, result))
            return io;
        g->ops->submit(g, io);
        g->ops->flush(g);
    }
    return NULL;
}

void disk_engine_destroy(struct disk_engine *g)
{
    if (g)
        g->ops->destroy(g);
}
