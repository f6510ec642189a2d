/*
 * Back ends of shared directories: what answers a guest's file-system questions (FUSE) out of a directory of the host. Each is a
 * process of its own, this program run again with SHARE_ARG, that holds that directory, one end of a line (base/share.h), and
 * nothing of the machine.
 *
 *   keeper ──job, directory──> back end: confined, sealed, serves      cell: device/virtio/fs.c
 *          <─────ready───────     |                                      |
 *          ──────(closed)───> ends└──────────────── line ────────────────┘
 *
 * The server is a value that knows neither process nor line: tests and fuzzers call it directly.
 */
#ifndef TRAPEZE_BACKEND_SHARE_H
#define TRAPEZE_BACKEND_SHARE_H

#include "base/error.h"
#include "base/share.h"
#include "host/host.h"

/* First argument of such a process; cli/main.c hands over to share_main. */
#define SHARE_ARG         "--trapeze-share"

#define SHARE_NODES_MAX   (1u << 19) /* files that a guest may know at a time */
#define SHARE_HANDLES_MAX 4096u      /* and have open */
#define SHARE_TIMEOUT_S   1u         /* how long a guest may believe names and attributes */
#define SHARE_ID_NOBODY   65534u
#define SHARE_DESCRIPTORS 16384u /* at most, when RLIMIT_NOFILE allows them */

/* --- the server (server.c) --- */

struct share_server;

struct share_options {
    int root; /* O_PATH descriptor of the directory; stays the caller's */
    bool read_only;
    /* 0: as many as there may be */
    u32 nodes, handles;
    u32 descriptors; /* that may be open for files the guest knows; a few more are open during a request */
};

/* What it has done, for `inspect`. One page that it shares with the keeper. */
struct share_count {
    u64 requests, errors;
    u64 read, written;  /* bytes */
    u64 nodes, handles; /* now */
};

/* `count` outlives the server. 0, or a negative errno with `e`: -ENOSYS when the kernel has no openat2, -ENOENT without /proc. */
int share_server_create(struct share_server **out, const struct share_options *o, struct share_count *count,
                        struct error *e);
void share_server_destroy(struct share_server *s);

/*
 * Answer the question of `len` bytes: the length of the answer, `room` at most, or 0 when there is none. Both may be memory that
 * somebody else changes meanwhile.
 */
u32 share_server_ask(struct share_server *s, const u8 *question, u32 len, u8 *answer, u32 room);

/* --- for the keeper, before its seal (share.c) --- */

/* Descriptors of such a process. */
enum share_fd {
    SHARE_FD_CONTROL = HOST_FIRST_FD,
    SHARE_FD_DIR,
    SHARE_FD_LINE,
    SHARE_FD_WAKE,
    SHARE_FD_WAKE_CELL,
    SHARE_FD_COUNT,
    SHARE_FD_END
};

struct share_backend {
    struct host_child child; /* pid -1: none */
    int control;             /* socket; closing it ends the back end */
    int line_fd, wake_fd, wake_cell_fd;
    void *memory; /* the line's mapping */
    struct share_count *count;
};

/* Open the directory that is to be shared: a descriptor, or -errno with an `e` that names it. */
int share_open(const char *dir, struct error *e);
/*
 * Start the back end of the directory `dir`, which stays the caller's: everything is open, and the process sealed, when this returns.
 * `wake_cell` is the event that it signals. 0, or a negative errno; then nothing is left.
 */
int share_backend_start(struct share_backend *b, int dir, bool read_only, int wake_cell, struct error *e);
void share_backend_stop(struct share_backend *b);

/* The life of a back end: called by main() when argv[1] is SHARE_ARG. Returns the process's exit status. */
int share_main(int argc, char **argv);

#endif
