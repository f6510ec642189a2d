/*
 * io_uring: requests without waiting and without threads of ours.
 *
 * The ring is made disabled, restricted to the four operations that disks need and to the files registered with it, and only
 * then enabled: a process that holds it can do with it what it could do by pread and pwrite, nothing else
 * (IORING_REGISTER_RESTRICTIONS, Linux 5.10). Completions signal an event.
 */
#include "backend/disk/disk_internal.h"
#include "host/host.h"

#include <errno.h>
#include <liburing.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

struct uring {
    struct disk_engine engine;
    struct io_uring ring;
    unsigned depth;
};

/* Put one try into the submission queue; it has room for `depth`, which is all there are. */
static void submit(struct disk_engine *g, struct disk_io *io)
{
    struct uring *u = (struct uring *)g;
    struct io_uring_sqe *s = io_uring_get_sqe(&u->ring);
    struct disk_try t;
    if (!s) { /* not flushed for long: make room */
        io_uring_submit(&u->ring);
        s = io_uring_get_sqe(&u->ring);
    }
    disk_try(io, &t);
    switch (t.call) {
    case CALL_READ:
        io_uring_prep_readv(s, (int)t.index, t.iov, t.n_iov, t.offset);
        break;
    case CALL_WRITE:
        io_uring_prep_writev(s, (int)t.index, t.iov, t.n_iov, t.offset);
        break;
    case CALL_SYNC:
        io_uring_prep_fsync(s, (int)t.index, IORING_FSYNC_DATASYNC);
        break;
    case CALL_ALLOCATE:
        io_uring_prep_fallocate(s, (int)t.index, t.mode, (off_t)t.offset, (off_t)t.len);
        break;
    }
    io_uring_sqe_set_flags(s, IOSQE_FIXED_FILE);
    io_uring_sqe_set_data(s, io);
}

static void flush(struct disk_engine *g)
{
    struct uring *u = (struct uring *)g;
    while (io_uring_sq_ready(&u->ring) && io_uring_submit(&u->ring) == -EINTR)
        ;
}

static struct disk_io *reap(struct disk_engine *g, s64 *result)
{
    struct uring *u = (struct uring *)g;
    struct io_uring_cqe *c;
    if (io_uring_peek_cqe(&u->ring, &c) < 0 || !c)
        return NULL;
    struct disk_io *io = io_uring_cqe_get_data(c);
    *result = c->res;
    io_uring_cqe_seen(&u->ring, c);
    return io;
}

static void destroy(struct disk_engine *g)
{
    struct uring *u = (struct uring *)g;
    io_uring_queue_exit(&u->ring); /* waits for what the kernel has begun */
    close(g->fd);
    free(u);
}

static const struct disk_engine_ops ops = {"io_uring", submit, flush, reap, destroy};

/* Debian 12's liburing declares functions for these two registrations but does not export them. */
static int register_raw(struct io_uring *ring, unsigned what, const void *arg, unsigned n)
{
    return syscall(SYS_io_uring_register, ring->ring_fd, what, arg, n) < 0 ? -errno : 0;
}

static int restrict_ring(struct io_uring *ring)
{
    static const u8 allowed[] = {IORING_OP_READV, IORING_OP_WRITEV, IORING_OP_FSYNC, IORING_OP_FALLOCATE};
    struct io_uring_restriction r[ARRAY_LEN(allowed) + 2];
    memset(r, 0, sizeof(r));
    for (unsigned i = 0; i < ARRAY_LEN(allowed); i++) {
        r[i].opcode = IORING_RESTRICTION_SQE_OP;
        r[i].sqe_op = allowed[i];
    }
    r[ARRAY_LEN(allowed)].opcode = IORING_RESTRICTION_SQE_FLAGS_REQUIRED;
    r[ARRAY_LEN(allowed)].sqe_flags = IOSQE_FIXED_FILE;
    r[ARRAY_LEN(allowed) + 1].opcode = IORING_RESTRICTION_REGISTER_OP;
    r[ARRAY_LEN(allowed) + 1].register_op = IORING_REGISTER_ENABLE_RINGS;
    return register_raw(ring, IORING_REGISTER_RESTRICTIONS, r, ARRAY_LEN(r));
}

/* Files, event, restrictions; then it may be used. */
static int prepare(struct uring *u, struct disk *const *disks, unsigned n)
{
    int files[2 * DISK_COUNT_MAX];
    for (unsigned i = 0; i < n; i++) {
        files[2 * i] = disks[i]->fd;
        files[2 * i + 1] = disks[i]->direct_fd; /* -1: a place left empty */
    }
    int r = io_uring_register_files(&u->ring, files, 2 * n);
    if (r >= 0)
        r = io_uring_register_eventfd(&u->ring, u->engine.fd);
    if (r >= 0)
        r = restrict_ring(&u->ring);
    return r < 0 ? r : register_raw(&u->ring, IORING_REGISTER_ENABLE_RINGS, NULL, 0);
}

int disk_uring_create(struct disk_engine **out, struct disk *const *disks, unsigned n, unsigned depth, struct error *e)
{
    struct uring *u = calloc(1, sizeof(*u));
    if (!u)
        return error_set(e, ENOMEM, "disks: out of memory");
    u->engine.ops = &ops;
    u->depth = depth;
    int r = u->engine.fd = host_event_create(e);
    if (r < 0) {
        free(u);
        return r;
    }
    r = n > DISK_COUNT_MAX ? -E2BIG : io_uring_queue_init(depth, &u->ring, IORING_SETUP_R_DISABLED);
    if (r < 0) {
        close(u->engine.fd);
        free(u);
        return error_set(e, -r, "disks: io_uring is refused: %s", strerror(-r));
    }
    if ((r = prepare(u, disks, n)) < 0) {
        destroy(&u->engine);
        return error_set(e, -r, "disks: io_uring can not be restricted to these files: %s", strerror(-r));
    }
    u->engine.ring_fd = u->ring.ring_fd;
    *out = &u->engine;
    return 0;
}
