/*
 * The platform: everything that Trapeze asks of what is under it. One header, one implementation a platform
 * (host/linux/), chosen by the build.
 */
#ifndef TRAPEZE_HOST_H
#define TRAPEZE_HOST_H

#include "base/error.h"
#include "base/types.h"

/* --- time (linux/clock.c) --- */

u64 host_ns(void *unused);  /* CLOCK_MONOTONIC, nanoseconds */
u64 host_thread_ns(void);   /* for how long the calling thread had a processor */
s64 host_wall_ns(void);     /* CLOCK_REALTIME, nanoseconds */
u64 host_tsc(void *unused); /* RDTSC */
/* Frequency of the TSC in Hz: from CPUID 15h/40000010h where they tell, else measured against the clock (20 ms). */
u64 host_tsc_hz(void);
/* What CPUID tells of it, without measuring; 0: nothing. And whether it can be `hz`, give or take 0.1 % (0.5 ms). */
u64 host_tsc_told(void);
bool host_tsc_is(u64 hz);
/* Whether the TSC is invariant (CPUID 80000007h EDX bit 8): guests are told so only if it is. */
bool host_tsc_invariant(void);

/* --- random bytes (linux/random.c) --- */

/* Fill `data` with `len` bytes of the kernel's generator; works in a sealed cell. */
void host_random(void *data, size_t len);

/* --- memory (linux/memory.c) --- */

/* A sealed-size memfd of `size` bytes, close-on-exec; returns the descriptor or a negative errno. */
int host_memfd(const char *name, u64 size, struct error *e);
/* Map all of it shared, readable and writable; NULL with `e` on failure. */
void *host_map_shared(int fd, u64 size, struct error *e);
void *host_map_anonymous(u64 size, struct error *e);
void host_unmap(void *p, u64 size);
/*
 * Give whole pages [offset, offset + len) back to the system: of the memfd `fd`, of which `p` is the whole mapping, or (-1) of
 * anonymous memory. In all mappings they read as zeros until somebody writes them. Works in a sealed cell, for its `ram`. Whether
 * that was done.
 */
bool host_give_back(int fd, u8 *p, u64 offset, u64 len);
/* Private memory with two pages on either side that nothing may touch (`size` is rounded up to pages); NULL on failure. */
u8 *host_map_guarded(u64 size, struct error *e);
void host_unmap_guarded(u8 *p, u64 size);

/*
 * Code memory: one memfd under two mappings, one writable, one executable; never both through one.
 * The distance between the two is constant: rx = rw + (rx_base - rw_base).
 */
struct host_code {
    u8 *rw;
    const u8 *rx;
    size_t size;
};
int host_code_create(struct host_code *c, size_t size, struct error *e);
void host_code_destroy(struct host_code *c);

/* --- faults raised by code that we run for a guest (linux/fault.c) --- */

enum host_fault_kind {
    HOST_FAULT_NONE,
    HOST_FAULT_ILL,
    HOST_FAULT_FPE,
    HOST_FAULT_SEGV,
    HOST_FAULT_BUS,
    HOST_FAULT_TRAP
};

struct host_fault {
    int kind;    /* enum host_fault_kind */
    int si_code; /* as the kernel gave it */
    u64 address;
    u64 rip;
    u8 trap;   /* the processor's vector number */
    u16 fsw;   /* x87 status word at the fault */
    u32 mxcsr; /* MXCSR at the fault */
};

/*
 * Once a thread, before any code below runs in it: install the process's handlers for SIGILL, SIGFPE, SIGSEGV, SIGBUS and
 * SIGTRAP (again, if somebody replaced them) and a signal stack for this thread. 0 or a negative errno.
 */
int host_fault_init(struct error *e);

/*
 * Call fn(arg), code inside [start, end) of executable memory, so that a synchronous fault inside that range returns
 * from here with its kind (also in *f) instead of ending the process; 0 if there was none. The caller's MXCSR and x87
 * control word are back in force then. Faults outside the range keep their usual effect.
 */
int host_fault_call(void (*fn)(void *), void *arg, const u8 *start, const u8 *end, struct host_fault *f);

/*
 * The same for code that is entered so often that a call must cost nothing: from now on a fault at an address in
 * [start, end), in any thread, continues at `recover` with every register as at the fault but
 *
 *   RAX = offset of the faulting instruction from start (bits 63:32), the processor's error code (31:16),
 *         HOST_FAULT_TAKEN, its vector number (7:0)
 *   RDX = the faulting address
 *
 * and with `keep` what RAX and RDX held in the 8 bytes below RSP and the 8 below these.
 *
 * At most 4 GiB long. 0, or -ENOSPC when there are 256 already. Remove it before its memory goes away.
 */
#define HOST_FAULT_TAKEN BIT(8)
int host_fault_region_add(const u8 *start, const u8 *end, const u8 *recover, bool keep);
void host_fault_region_remove(const u8 *start);

/* --- processes (linux/process.c) --- */

struct host_child {
    int pid;
    int pidfd; /* readable when the process has ended; -1: none */
};

/*
 * Fork a process that outlives this one: in a session of its own, its parent is init, standard input, output and error are
 * /dev/null, every other descriptor but keep[0..n_keep) is closed, SIGPIPE, SIGHUP and SIGXFSZ are ignored. Returns 1 in
 * the new process, 0 in the caller, -errno. The caller must have one thread.
 */
int host_fork_detached(const int *keep, unsigned n_keep, struct error *e);

#define HOST_FIRST_FD 3 /* of a process that host_spawn_self starts */

/*
 * Run this very program again with `argv` (NULL-terminated), an empty environment, /dev/null as standard descriptors and
 * fds[i] as descriptor HOST_FIRST_FD + i; nothing else is open. The child is killed when the calling thread ends.
 */
int host_spawn_self(struct host_child *c, char *const argv[], const int *fds, unsigned n_fds, struct error *e);

/*
 * Take the status of a child that has ended: 1 and its exit code or the signal (the other is 0), 0 while it runs, -errno.
 * `block` waits for it.
 */
int host_child_reap(struct host_child *c, bool block, int *code, int *sig);
void host_child_kill(const struct host_child *c);

/*
 * Before a seal: no core dumps, no tracing or inspection by others of this user, no capabilities, no privileges by exec,
 * no processes.
 * A cell moreover: no file growth, no further descriptors, HOST_CELL_MEMORY bytes at most beyond what it has mapped.
 */
#define HOST_CELL_MEMORY (256ull << 20) /* records on their way up and down, 16 MiB at most, and their copies */
int host_confine(bool cell, struct error *e);
/*
 * The same for a process with an io_uring: the kernel does in workers what would wait (a flush, a read that has to look where
 * its data lies). They count as processes of the user, and where it may start none it cancels the request; root's are free.
 */
int host_confine_ring(struct error *e);
/* The same for a process that works with files of others: it keeps those capabilities for that which it has. */
int host_confine_files(struct error *e);
/* Each thread that was started before: its own capabilities, which host_confine can not drop. */
int host_confine_thread(struct error *e);

/* The name that ps and top show for this process, 15 characters. */
void host_process_name(const char *name);

/* A descriptor that is readable once for each SIGTERM or SIGINT sent to this process, which are blocked from now on. */
int host_term_signals(struct error *e);
/* Take the signals that have come. */
void host_term_taken(int fd);

/* --- events: a descriptor that one process signals and another sleeps on (linux/event.c) --- */

int host_event_create(struct error *e);
/* Never blocks; signals that nobody took yet are one. */
void host_event_signal(int fd);
void host_event_clear(int fd);
/* Sleep until the event is signalled (then clear it) or until host_ns() reaches `deadline` (UINT64_MAX: no limit). */
void host_event_wait(int fd, u64 deadline);
/*
 * The same without sleeping: look again and again, others may run in between. Whether the event was signalled; false at once
 * when the deadline has passed.
 */
bool host_event_watch(int fd, u64 deadline);

/* A descriptor that is readable when files in the directory `path` were made, written to or deleted; or -errno with `e`. */
int host_changes_open(const char *path, struct error *e);
/* Take what has come: it is readable again only after the next change. */
void host_changes_take(int fd);

/* --- threads (linux/thread.c) --- */

/* A thread that runs fn(arg), never to be waited for. Before a seal. 0 or a negative errno. */
int host_thread_start(void *(*fn)(void *), void *arg, struct error *e);

/* The calling thread gives way to others: by `nice`, 0 to 19. */
void host_thread_background(int nice);

/* A lock; zeroed: free. Not recursive. */
struct host_lock {
    u32 word;
};
void host_lock_contended(struct host_lock *l);
void host_lock_wake(struct host_lock *l);
static inline void host_lock_take(struct host_lock *l)
{
    u32 free = 0;
    if (!__atomic_compare_exchange_n(&l->word, &free, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
        host_lock_contended(l);
}
static inline void host_lock_release(struct host_lock *l)
{
    if (__atomic_exchange_n(&l->word, 0, __ATOMIC_RELEASE) == 2)
        host_lock_wake(l);
}

/* Let other threads run, if any wait for this one's processor. */
void host_yield(void);
/*
 * Sleep until another thread wakes the word, while it is `value`, or until host_ns() reaches `deadline` (UINT64_MAX: no limit).
 * May return early.
 */
void host_word_wait(u32 *word, u32 value, u64 deadline);
/* Wake all that sleep on it; change it first. */
void host_word_wake(u32 *word);
/* The same of a word in memory that several processes map shared. */
void host_word_wait_shared(u32 *word, u32 value, u64 deadline);
void host_word_wake_shared(u32 *word);

#define HOST_NET_MAX   4u /* network cards of a machine, */
#define HOST_SHARE_MAX 6u /* and shared directories */
#define HOST_BACK_MAX  (HOST_NET_MAX + HOST_SHARE_MAX)
#define HOST_WAKE_MAX  (HOST_BACK_MAX + 1) /* whom a cell wakes beside its keeper: those, and who brings its pages */

/* --- files of a directory that is given away (linux/files.c, linux/landlock.c) --- */

/*
 * Open `name`, one component, of the directory `dir`: what is there, be it a link, and nothing that lies elsewhere. `flags` as open's.
 * A descriptor or -errno: -ENOSYS before Linux 5.6.
 */
int host_open_beneath(int dir, const char *name, u64 flags, u32 mode);
/* Rename; flags as of Linux (RENAME_NOREPLACE ..). 0 or -errno. */
int host_rename(int from_dir, const char *from, int to_dir, const char *to, u32 flags);
/* Have as many descriptors as this process may, `most` at most; how many that is, 0 when it can not be told. */
u32 host_descriptors(u32 most);

/* What it takes to create files of others, and to change them: CAP_CHOWN, DAC_OVERRIDE, FOWNER, FSETID, SETGID, SETUID. */
#define HOST_FILE_CAPABILITIES (BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(6) | BIT(7))
/* Whether this process has root and all of them. */
bool host_may_pass_ids(void);
/* If so: what this thread creates belongs to them, until host_files_as_self; permissions are as before. 0 or -errno. */
int host_files_as(u32 uid, u32 gid);
void host_files_as_self(void);

/*
 * From now on this process touches files beneath the directory `dir` (a descriptor) alone; makes no devices there, runs nothing, with
 * `read_only` changes nothing. 1, 0 where the kernel has no Landlock, or a negative errno.
 */
int host_stay_beneath(int dir, bool read_only, struct error *e);

/* Bytes that this user may still write in the file system of the directory `dir`. 0 or a negative errno. */
int host_room(const char *dir, u64 *bytes);

/* --- seals: system calls that a process may use from now on; any other ends it with SIGSYS (linux/seal.c) --- */

/*
 * The cell: computing, sleeping, its events, private memory that is not executable, holes in guest memory, the file that memory is
 * read from. It can open and name nothing.
 */
struct host_cell_seal {
    int wake_self, wake_peer;     /* events: read, written */
    int ram;                      /* guest memory: its pages may be given back */
    int file;                     /* what guest memory is read from, open for reading only; -1: nothing */
    int wake_back[HOST_WAKE_MAX]; /* events of back ends: written, */
    unsigned n_wake_back;         /* so many */
};
int host_seal_cell(const struct host_cell_seal *s, struct error *e);

/* The keeper: serving its sockets and files, which are all open already. */
struct host_keeper_seal {
    int listener;             /* connections are accepted here */
    int dir;                  /* of the machine: its socket and lock are deleted at the end */
    int log, end;             /* files that are rewritten */
    int ram;                  /* guest memory: the one descriptor that may be mapped */
    int cell;                 /* pidfd: what may be killed */
    int backs[HOST_BACK_MAX]; /* the same, of back ends; -1: none */
    bool disks;               /* there are disks: vectors of buffers, flushes, holes */
    int disk_ring;            /* the io_uring that may be entered, -1: none */
};
int host_seal_keeper(const struct host_keeper_seal *s, struct error *e);

/* Back ends of network cards: internet sockets and no file but a stand-in, with a tap of a container, or -1; one tap; wires that come through one socket. */
int host_seal_net_user(int tap, struct error *e);
int host_seal_net_tap(int tap, struct error *e);
int host_seal_net_switch(int listener, int dir, struct error *e);
/* Who answers for the names of containers: internet sockets, connections at `listener`, locks of `file`. */
int host_seal_names(int file, int listener, struct error *e);

/* The back end of a shared directory: everything that files are asked and told, no devices, nothing else. */
int host_seal_share(bool read_only, struct error *e);

/*
 * Before host_seal_net_user: remember what the file `path` holds. In the sealed process opening it, or asking about it, by
 * that name gives what was remembered; any other name is refused. A file that is not there stays missing. One a process.
 */
int host_stand_in(const char *path, struct error *e);

#endif
