/* Shared by the files of backend/disk/. */
#ifndef TRAPEZE_BACKEND_DISK_INTERNAL_H
#define TRAPEZE_BACKEND_DISK_INTERNAL_H

#include "backend/disk/disk.h"

struct disk {
    char *path;
    int fd;        /* through the page cache */
    int direct_fd; /* past it, or -1 */
    bool read_only;
    bool device; /* a block device: no file that may shrink */
    enum disk_cache cache;
    u64 size;       /* bytes, when it was opened */
    unsigned index; /* place in the engine's table of files: 2 * index, and + 1 for direct_fd */
};

struct disk_engine_ops {
    const char *name;
    void (*submit)(struct disk_engine *g, struct disk_io *io);
    void (*flush)(struct disk_engine *g);
    /* Completions of the kernel: the next one and its result, or NULL. */
    struct disk_io *(*reap)(struct disk_engine *g, s64 *result);
    void (*destroy)(struct disk_engine *g);
};

struct disk_engine {
    const struct disk_engine_ops *ops;
    int fd; /* event */
    int ring_fd;
    struct disk_io *finished; /* that never went to the kernel, or came back while others were begun */
};

int disk_uring_create(struct disk_engine **out, struct disk *const *disks, unsigned n, unsigned depth, struct error *e);
int disk_threads_create(struct disk_engine **out, unsigned depth, struct error *e);

/* --- io.c: what one try is, for every engine --- */

enum disk_call { CALL_READ, CALL_WRITE, CALL_SYNC, CALL_ALLOCATE };

struct disk_try {
    enum disk_call call;
    int fd;
    unsigned index; /* of that descriptor in the table of registered files */
    u64 offset, len;
    int mode; /* of fallocate */
    const struct iovec *iov;
    unsigned n_iov;
};

/* What is to be done next for `io`. */
void disk_try(struct disk_io *io, struct disk_try *t);
/* Take the result of a try: whether the request is complete (io->result); else it is to be tried again. */
bool disk_tried(struct disk_io *io, s64 result);
/* Before the first try: 0, or the request ends with this error at once. */
int disk_begin(struct disk_io *io);

#endif
