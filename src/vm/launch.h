/*
 * Start a machine: the one call between the verb `run` and a machine that lives on its own.
 */
#ifndef TRAPEZE_VM_LAUNCH_H
#define TRAPEZE_VM_LAUNCH_H

#include "vm/config.h"

#include <sys/types.h>

/* First argument of a process that is to become a cell; cli/main.c hands over to cell_main before anything else. */
#define CELL_ARG "--trapeze-cell"

/* Files in the directory of a machine */
#define VM_FILE_CONTROL "control"     /* the control socket, there while the keeper lives */
#define VM_FILE_LOG     "console.log" /* what the guest printed: the last 1 MiB at least, 2 MiB at most */
#define VM_FILE_END     "end.json"    /* how it ended: {"code":N,"reason":"...","text":"...","ended":SECONDS} */
#define VM_FILE_LOCK    "lock"        /* held by the keeper as long as it lives (flock) */

/* Exit statuses of a machine (docs/errors.md) */
#define VM_EXIT_POWEROFF 0
#define VM_EXIT_CONFIG   1
#define VM_EXIT_TRIPLE   2 /* triple fault */
#define VM_EXIT_HOST     3 /* the host side failed, or the guest used what is not implemented */
#define VM_EXIT_SIGNAL   128

/* Why a machine ended whose memory and state were kept: it can go on (vm/snapshot.h) */
#define VM_REASON_SUSPENDED "suspended"

/*
 * Start the machine `c` whose files lie in the directory `dir` (which exists; made by the registry). Returns when the cell
 * is sealed and the keeper serves the control socket, with the keeper's process in *keeper; the keeper is in a session of
 * its own and outlives the caller. The first guest instruction may not have been executed yet.
 *
 * -errno with one line in `e` when anything fails; then no process is left and the files made in `dir` are gone.
 * Must be called by a process with one thread: it forks without exec.
 */
int vm_launch(const struct vm_config *c, const char *dir, pid_t *keeper, struct error *e);

/* A machine that goes on: what it is made of instead of a kernel. */
struct vm_incoming {
    int ram_fd; /* its memory: sealed against changes of size, of the configuration's size; stays the caller's */
    const void *records; /* of everything else (board_save); NULL: they come by a request, with the memory's contents */
    size_t len;
    bool lazy;       /* its memory is still elsewhere (migrate/lazy.h): */
    int table, file; /* the table, and the file that it is in; stay the caller's */
    bool
        peer; /* with `lazy`: it may be at the host that sends it (vm/pager.h); `file`: the event that wakes the pager */
    const char
        *consumed;  /* a file of the machine's directory that is removed the moment the guest goes on; NULL: none */
    bool paused;    /* it does not go on by itself */
    bool fresh;     /* a life of its own: it gets another generation identifier, and is told so */
    bool shared;    /* with `lazy`: memory stays in the file, which others have, too, until somebody wants it */
    const char *id; /* without records: of the handover (migrate/handover.h) */
    u64 lifetime;   /* seconds that it then waits for the word to run */
};

/* vm_launch of one: when this returns it has been taken over whole, and goes on. */
int vm_launch_incoming(const struct vm_config *c, const struct vm_incoming *in, const char *dir, pid_t *keeper,
                       struct error *e);

/*
 * Read how a machine ended from `dir`. 0, -ENOENT when its keeper left no word (it was killed, or lives), -EINVAL for a
 * damaged file. `reason` may be NULL.
 */
int vm_end_read(const char *dir, int *code, char *reason, size_t len, s64 *ended);

/* Take away what it says there, before the machine lives again. 0 or -errno. */
int vm_end_forget(const char *dir, struct error *e);

/*
 * The whole life of a cell: called by main() when argv[1] is CELL_ARG. Returns the process's exit status; a sealed cell
 * never returns.
 */
int cell_main(int argc, char **argv);

#endif
