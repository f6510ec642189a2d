/*
 * Threads that read and write, where there is no io_uring. They are started before the seal, drop their capabilities
 * themselves and are sealed with the process.
 *
 *     todo ──> a thread: one try, waiting in the kernel ──> done, event
 *
 * Two lists under one lock; threads sleep on a word that counts submissions.
 */
#include "backend/disk/disk_internal.h"
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define THREADS 4u

struct list {
    struct disk_io *first, **end;
};

struct threads {
    struct disk_engine engine;
    struct host_lock lock;
    struct list todo, done;
    u32 submitted; /* changes with each submission; what idle threads sleep on */
    u32 alive;
    bool stop;
};

static void put(struct list *l, struct disk_io *io)
{
    io->next = NULL;
    *l->end = io;
    l->end = &io->next;
}

static struct disk_io *take(struct list *l)
{
    struct disk_io *io = l->first;
    if (io && !(l->first = io->next))
        l->end = &l->first;
    return io;
}

static s64 call(struct disk_io *io)
{
    struct disk_try t;
    s64 r = 0;
    disk_try(io, &t);
    switch (t.call) {
    case CALL_READ:
        r = preadv(t.fd, t.iov, (int)t.n_iov, (off_t)t.offset);
        break;
    case CALL_WRITE:
        r = pwritev(t.fd, t.iov, (int)t.n_iov, (off_t)t.offset);
        break;
    case CALL_SYNC:
        r = fdatasync(t.fd);
        break;
    case CALL_ALLOCATE:
        r = fallocate(t.fd, t.mode, (off_t)t.offset, (off_t)t.len);
        break;
    }
    return r < 0 ? -errno : r;
}

static void *worker(void *arg)
{
    struct threads *t = arg;
    struct error e = {0};
    bool confined = host_confine_thread(&e) == 0;
    for (;;) {
        u32 seen = __atomic_load_n(&t->submitted, __ATOMIC_ACQUIRE);
        host_lock_take(&t->lock);
        struct disk_io *io = take(&t->todo);
        bool stop = t->stop;
        host_lock_release(&t->lock);
        if (!io && stop)
            break;
        if (!io) {
            host_word_wait(&t->submitted, seen, UINT64_MAX);
            continue;
        }
        io->done_result = confined ? call(io) : -EPERM;
        host_lock_take(&t->lock);
        put(&t->done, io);
        host_lock_release(&t->lock);
        host_event_signal(t->engine.fd);
    }
    __atomic_sub_fetch(&t->alive, 1, __ATOMIC_RELEASE);
    host_word_wake(&t->alive);
    return NULL;
}

static void submit(struct disk_engine *g, struct disk_io *io)
{
    struct threads *t = (struct threads *)g;
    host_lock_take(&t->lock);
    put(&t->todo, io);
    host_lock_release(&t->lock);
}

static void flush(struct disk_engine *g)
{
    struct threads *t = (struct threads *)g;
    __atomic_add_fetch(&t->submitted, 1, __ATOMIC_RELEASE);
    host_word_wake(&t->submitted);
}

static struct disk_io *reap(struct disk_engine *g, s64 *result)
{
    struct threads *t = (struct threads *)g;
    host_lock_take(&t->lock);
    struct disk_io *io = take(&t->done);
    host_lock_release(&t->lock);
    if (io)
        *result = io->done_result;
    return io;
}

static void destroy(struct disk_engine *g)
{
    struct threads *t = (struct threads *)g;
    host_lock_take(&t->lock);
    t->stop = true;
    host_lock_release(&t->lock);
    flush(g);
    for (u32 n; (n = __atomic_load_n(&t->alive, __ATOMIC_ACQUIRE));)
        host_word_wait(&t->alive, n, UINT64_MAX);
    close(g->fd);
    free(t);
}

static const struct disk_engine_ops ops = {"threads", submit, flush, reap, destroy};

int disk_threads_create(struct disk_engine **out, unsigned depth, struct error *e)
{
    struct threads *t = calloc(1, sizeof(*t));
    if (!t)
        return error_set(e, ENOMEM, "disks: out of memory");
    t->engine = (struct disk_engine){.ops = &ops, .fd = host_event_create(e), .ring_fd = -1};
    t->todo.end = &t->todo.first;
    t->done.end = &t->done.first;
    int r = t->engine.fd < 0 ? t->engine.fd : 0;
    for (unsigned i = 0; i < THREADS && r >= 0; i++) {
        __atomic_add_fetch(&t->alive, 1, __ATOMIC_RELAXED);
        if ((r = host_thread_start(worker, t, e)) < 0)
            __atomic_sub_fetch(&t->alive, 1, __ATOMIC_RELAXED);
    }
    if (r < 0 && t->engine.fd < 0)
        free(t);
    else if (r < 0)
        destroy(&t->engine);
    else
        *out = &t->engine;
    return r;
}
