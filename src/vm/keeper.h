/*
 * The keeper's inside: shared by keeper.c (life and loop), keeper_boot.c (kernel files into guest memory),
 * keeper_cell.c (the link to the cell), keeper_balloon.c, keeper_lazy.c, keeper_paging.c (its memory), keeper_disk.c, keeper_net.c, keeper_share.c, keeper_vsock.c (its disks, networks, shared
 * directories and sockets) and
 * keeper_control.c (requests). Nobody else includes it but launch.c.
 */
#ifndef TRAPEZE_VM_KEEPER_H
#define TRAPEZE_VM_KEEPER_H

#include "backend/disk/disk.h"
#include "backend/vsock/vsock.h"
#include "base/blockmap.h"
#include "base/record.h"
#include "boot/boot.h"
#include "host/host.h"
#include "machine/cpu/cpuid.h"
#include "migrate/channel.h"
#include "migrate/lazy.h"
#include "vm/client.h"
#include "vm/config.h"
#include "vm/console_log.h"
#include "vm/handover_file.h"
#include "vm/launch.h"
#include "vm/link.h"

#include <poll.h>
#include <sys/stat.h>

#define KEEPER_CLIENTS 64u
#define KEEPER_OP_NS   5000000000ull /* that the guest's process has to answer most questions */
#define KEEPER_STREAMS 48u           /* of them may be connections to the guest: others always find a place */
#define KEEPER_OPS     64u
#define KEEPER_TYPED   4096u

/* client.op of who waits for something that is no op of the cell's: an answer of the guest; all of memory */
#define KEEPER_OP_OPENING UINT64_MAX
#define KEEPER_OP_MEMORY  (UINT64_MAX - 1)

/* client.body_kind of what is no message for the cell: a map of pages (keeper_paging.c) */
#define KEEPER_BODY_NAMED DOWN_COUNT

/* X-macro: state, name */
#define KEEPER_STATES(X)                                                                          \
    X(KEEPER_BOOTING, "booting")     /* the cell is not ready yet */                              \
    X(KEEPER_RESTORING, "restoring") /* it takes over another's state */                          \
    X(KEEPER_RUNNING, "running")                                                                  \
    X(KEEPER_PAUSED, "paused")                                                                    \
    X(KEEPER_RESETTING, "resetting") /* the cell stops, to be booted again */                     \
    X(KEEPER_INCOMING, "incoming")   /* another host sends it */                                  \
    X(KEEPER_PREPARED, "prepared")   /* it is here whole, and waits for that host's word */       \
    X(KEEPER_COMMITTED, "committed") /* it has been handed over: the other host decides */        \
    X(KEEPER_SERVING, "serving")     /* likewise; it runs there, and lacks pages that are here */ \
    X(KEEPER_STOPPED, "stopped")     /* it has ended; the last words go out */

enum keeper_state {
#define X(state, name) state,
    KEEPER_STATES(X)
#undef X
};

/* A kernel or initrd: kept open, so that a reset loads the same file though its name may mean another by then. */
struct keeper_file {
    const char *path; /* in the configuration */
    int fd;           /* -1: none */
    struct stat st;   /* at launch: a file that has changed is refused */
    u8 *data;         /* only while loading */
};

/* A request that the cell works on. */
struct keeper_op {
    u64 id; /* 0: free */
    enum link_down kind;
    bool for_status;    /* statistics asked for by a status request */
    bool hasty;         /* its deadline is that of a guest that stands still for want of a page */
    u32 bytes;          /* DOWN_LOG_TAKE: of the answer */
    const char *engine; /* DOWN_SWING: its name, for good */
    int client;         /* index, or -1: nobody waits any more */
    u64 deadline;       /* host ns, after which the client is told that the cell is silent */
};

/* What a disk has done, for `inspect`. */
struct keeper_disk_count {
    u64 read, written; /* bytes asked for */
    u64 flushes, errors;
    int last_error; /* errno */
};

struct keeper_disks;
struct keeper_nets;
struct keeper_shares;
struct keeper_vsock;

struct keeper {
    struct vm_config cfg;
    enum keeper_state state;
    int dir, lock, listener, end_fd, term_fd; /* descriptors, -1: none */
    int report;                               /* pipe to vm_launch's caller, until ready */
    const struct vm_incoming *incoming;       /* what it goes on from, or NULL; while it starts */
    bool restored;                            /* the cell has taken that over */
    u64 incoming_lifetime;                    /* seconds that a prepared machine waits */
    bool incoming_runs;                       /* it goes on when it is activated */
    int handover_fd;
    char handover_id[HANDOVER_ID + 1]; /* of the handover at hand; "" */
    struct handover_record handed;     /* what was written, while committed */
    struct handover_record before;     /* what was there before: how it came here, if it did */
    u64 announce_at;                   /* host ns at which the networks are told that it is here; UINT64_MAX: never */
    unsigned announced;                /* times */
    u64 expire_at;                     /* host ns at which a machine that comes in gives up; UINT64_MAX: never */
    struct console_log log;

    struct keeper_file kernel, initrd;
    struct keeper_disks *disks;   /* NULL: none */
    struct keeper_nets *nets;     /* NULL: none */
    struct keeper_shares *shares; /* NULL: none */
    struct keeper_vsock *vsock;
    struct lazy lazy;           /* of memory that is still elsewhere; head NULL: none */
    int page_table, page_event; /* of one that may come before all its pages do: what its pager gets; -1: it is none */
    bool lacks;                 /* it runs here and lacks pages: its record says so */
    int pager;                  /* index of the client that brings them, or -1 */
    char paged_by[CHANNEL_PEER_MAX]; /* the host that has them, for people */
    u8 *named; /* of a machine that is handed over but for some pages: which, a bit a page; NULL */
    struct cpu_model model;
    struct boot_result boot;
    u64 tsc_hz;
    int ram_fd;

    int link_fd;
    void *link_base;
    struct link link;
    struct host_child cell;
    bool ready;             /* the cell has said so */
    bool reset_asked;       /* by a person: no_reboot does not apply */
    struct link_msg taking; /* a message of the cell whose data is being collected; kind 0: none */
    u8 *in;
    u32 in_got;
    struct rec_buf down; /* data on its way to the cell, from down_at on */
    size_t down_at;
    struct keeper_op ops[KEEPER_OPS];
    u64 last_id;

    struct client clients[KEEPER_CLIENTS];
    int holder;     /* index of the client that holds the machine, or -1 */
    bool held_runs; /* it goes on when the hold ends */
    int mirror;     /* index of the client that mirrors the disks, or -1 */
    struct blockmap
        written[DISK_COUNT_MAX]; /* of each disk since that client looked; without bits: nobody wants to know */
    int logger;                  /* index of the client that has the dirty log, or -1 */
    bool log_stop_due;           /* nobody has it any more; the cell has not been told */
    u8 typed[KEEPER_TYPED];      /* bytes that the console's ring had no room for */
    u32 typed_len;
    u32 size; /* LINK_SIZE of the terminal that types */
    bool size_due;

    u64 started; /* host ns */
    u64 stop_at; /* host ns at which a machine that was asked to stop is killed; UINT64_MAX: never */
    unsigned stop_seconds;

    bool ended;
    int code;
    char reason[200];
    char text[LINK_TEXT_MAX + 1];
};

/* What the keeper writes into the pipe, once: ready (e.code 0), or why not. */
struct launch_report {
    pid_t pid;
    struct error e;
};

/* Life: start everything, tell the caller by k->report, serve, end. Never returns. */
__attribute__((noreturn)) void keeper_main(const struct vm_config *c, const struct vm_incoming *in, int dir,
                                           int report);

/* The machine ends: remember how (the first word stands), kill the cell. `text` may be NULL. */
void keeper_end(struct keeper *k, int code, const char *text, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));
void keeper_set_state(struct keeper *k, enum keeper_state s);
const char *keeper_state_name(enum keeper_state s);

/* --- keeper_boot.c --- */
int keeper_open_files(struct keeper *k, struct error *e);
/* Put the kernel into guest memory and append the record of the CPU that starts it to `rec`. */
int keeper_load(struct keeper *k, struct rec_buf *rec, struct error *e);

/* --- keeper_cell.c --- */
int keeper_start_cell(struct keeper *k, struct error *e);
/* Read what the cell has for us, a bounded amount; whether more may be there. */
bool keeper_serve_cell(struct keeper *k);
/* Whether a ring has something to read: the last look before sleeping. */
bool keeper_cell_pending(struct keeper *k);
/* Take console output until the ring is empty, once the cell is dead or stopped. */
void keeper_drain_console(struct keeper *k);
/* Send a message without an answer; `data` may be NULL. 0, or -EBUSY when the cell does not take messages. */
int keeper_tell(struct keeper *k, enum link_down kind, const void *data, size_t len);
/* Send one with an answer to `client` (or -1). 0, or -EBUSY. */
int keeper_ask(struct keeper *k, enum link_down kind, int client, bool for_status, const void *data, size_t len);
/* Load the kernel (again) and start the guest. */
int keeper_boot(struct keeper *k, struct error *e);
/* Queue typed bytes for the guest; returns how many were taken. */
size_t keeper_type(struct keeper *k, const u8 *data, size_t len);
/* Tell the guest how large the terminal is, as soon as its process takes messages. */
void keeper_size(struct keeper *k, u16 cols, u16 rows);

/* --- keeper_disk.c --- */

/* Open and lock the disks of the configuration. */
int keeper_open_disks(struct keeper *k, struct error *e);
/* Map guest memory and start the engine; before the seal. */
int keeper_start_disks(struct keeper *k, struct error *e);
/* Tell the cell what disks there are. */
void keeper_describe_disks(const struct keeper *k, struct link_config *c);
/* What to poll for completions, and the io_uring that may be entered: descriptors, or -1. */
int keeper_disk_event(const struct keeper *k);
int keeper_disk_ring(const struct keeper *k);
/* Take requests and give replies, a bounded amount; whether more may be there. */
bool keeper_serve_disks(struct keeper *k);
/* Whether there is something to do: the last look before sleeping. */
bool keeper_disks_pending(struct keeper *k);
/* Until when (host ns) it is worth looking for news of them without sleeping. */
u64 keeper_disks_vigil(const struct keeper *k);
/* Who may run the machine has its disks locked. */
int keeper_lock_disks(struct keeper *k, struct error *e);
void keeper_unlock_disks(struct keeper *k);
/* Put what was written on stable storage. 0 or -errno with `e`. */
int keeper_sync_disks(struct keeper *k, struct error *e);
/* For `inspect`. */
json_t *keeper_disks_json(const struct keeper *k);

/* --- keeper_mirror.c --- */

/* A client's request about mirroring the disks; a client goes. */
void keeper_mirror_request(struct keeper *k, struct client *c, const json_t *j);
void keeper_mirror_drop(struct keeper *k, const struct client *c);
/* What it needs of disk `i`: its descriptor, stays the disk's; its bytes; whether guests' requests go past the page cache. -1: none */
int keeper_disk_file(const struct keeper *k, unsigned i, u64 *bytes, bool *direct);

/* --- keeper_net.c --- */

/* Start the back ends of the cards, which signal the cell by `wake_cell`: everything is open and bound when it returns. */
int keeper_start_nets(struct keeper *k, int wake_cell, struct error *e);
/* Tell the cell what cards there are, and add the descriptors that it needs to `fds`; how many there are then. */
unsigned keeper_describe_nets(const struct keeper *k, struct link_config *c, int *fds, unsigned n);
/* The process of card `i`'s back end: a pidfd, or -1. */
int keeper_net_process(const struct keeper *k, unsigned i);
/* What to poll for the end of a back end of card `i`: a descriptor, or -1. And what to do then. */
int keeper_net_gone(const struct keeper *k, unsigned i);
void keeper_net_ended(struct keeper *k, unsigned i);
/* All of them end. */
void keeper_stop_nets(struct keeper *k);
/* For `inspect`. */
json_t *keeper_nets_json(const struct keeper *k);

/* --- keeper_share.c --- */

/* Open the directories of the configuration; then start their back ends: sealed, each with its directory, when it returns. */
int keeper_open_shares(struct keeper *k, struct error *e);
int keeper_start_shares(struct keeper *k, int wake_cell, struct error *e);
/* The others as for network cards. */
unsigned keeper_describe_shares(const struct keeper *k, struct link_config *c, int *fds, unsigned n);
int keeper_share_process(const struct keeper *k, unsigned i);
int keeper_share_gone(const struct keeper *k, unsigned i);
void keeper_share_ended(struct keeper *k, unsigned i);
void keeper_stop_shares(struct keeper *k);
json_t *keeper_shares_json(const struct keeper *k);

/* --- keeper_vsock.c --- */
int keeper_open_vsock(struct keeper *k, struct error *e);
/* Connect a client to a port of the guest: it is answered when that has been decided, and then carries the bytes. */
void keeper_connect_stream(struct keeper *k, struct client *c, u32 port);
/* Its part of the loop: what to poll for, what to do then, that it is gone. */
struct pollfd keeper_stream_poll(struct keeper *k, const struct client *c);
void keeper_serve_stream(struct keeper *k, struct client *c, short revents);
void keeper_drop_stream(struct keeper *k, struct client *c);
/* Take packets and send what is owed, a bounded amount; whether more may be there. */
bool keeper_serve_vsock(struct keeper *k);
/* Whether there is something to do: the last look before sleeping. */
bool keeper_vsock_pending(struct keeper *k);
u64 keeper_vsock_deadline(const struct keeper *k);

/* --- keeper_handover.c --- */

/* Open the record; refuse to start a machine that is another host's. */
int keeper_open_handover(struct keeper *k, struct error *e);
/* Whether it is on its way here, and has not run. */
bool keeper_comes_in(const struct keeper *k);
/* It will not come: the machine ends, if it has not run. */
void keeper_abandon_incoming(struct keeper *k, const char *why);
/* Tell the networks that it is here, when that is due. */
void keeper_announce(struct keeper *k, u64 now);
/* Its state has been taken over. */
void keeper_prepared(struct keeper *k);
void keeper_do_handover(struct keeper *k, struct client *c, const json_t *j);

/* --- keeper_lazy.c --- */

/* Map the table of the memory that is still in a file, if it is; and what the cell needs of that, behind `n` descriptors. */
int keeper_open_lazy(struct keeper *k, struct error *e);
unsigned keeper_describe_lazy(const struct keeper *k, struct link_config *c, int *fds, unsigned n);
/* Bytes of memory that are still there. */
u64 keeper_absent(const struct keeper *k);
/* The client gets memory's descriptor: when all of it is there. */
void keeper_do_memory(struct keeper *k, struct client *c, const json_t *j);
/* Look at what the cell has come to. */
void keeper_serve_lazy(struct keeper *k);

/* --- keeper_paging.c --- */

/* It has been activated: whether pages are lacking. */
void keeper_runs_here(struct keeper *k);
/* Whether it lacks pages that are at another host: then the client is told that it can not have what it wants. */
bool keeper_lacks_pages(struct keeper *k, struct client *c);
/* Whether the guest stands still for want of one. */
bool keeper_waits_for_pages(const struct keeper *k);
/* Members for `status`. */
void keeper_paging_json(const struct keeper *k, json_t *j);
void keeper_do_paging(struct keeper *k, struct client *c, const json_t *j);
/* The map that KEEPER_BODY_NAMED announced is here; a client goes. */
void keeper_take_named(struct keeper *k, struct client *c);
void keeper_paging_drop(struct keeper *k, const struct client *c);

/* --- keeper_balloon.c --- */

/* What a request about memory asks of the cell: 0, or why that can not be. */
int keeper_balloon_request(const struct keeper *k, const json_t *j, struct balloon_ask *ask, struct error *e);
/* Members for `status` and `inspect`; and all of it. */
void keeper_memory_json(const struct keeper *k, const struct balloon_info *b, json_t *j);
json_t *keeper_balloon_json(const struct keeper *k, const struct balloon_info *b);

/* --- keeper_log.c --- */

/* A client's request about the dirty log. */
void keeper_log_request(struct keeper *k, struct client *c, const json_t *j);
/* The cell has answered an op (of a client that is still there), or does not; a client goes. */
void keeper_log_answered(struct keeper *k, const struct keeper_op *op, u32 result);
void keeper_log_silent(struct keeper *k, const struct keeper_op *op);
void keeper_log_drop(struct keeper *k, const struct client *c);
/* What is due to the cell; and whether it could go now: the last look before sleeping. */
void keeper_log_pump(struct keeper *k);
bool keeper_log_pending(struct keeper *k);

/* --- keeper_control.c --- */
/* Whether this client holds the machine; else it is told. */
bool keeper_has_hold(struct keeper *k, struct client *c);
/* Answer a request: yes, or why not. */
void keeper_accept_request(struct client *c);
/* Answer with bytes: of the cell (records, words of the log), or words of a map. */
void keeper_answer_bytes(struct client *c, const void *data, u32 len);
void keeper_reply(struct client *c, json_t *j); /* takes the reference */
void keeper_refuse(struct client *c, int code, const char *fmt, ...) __attribute__((format(printf, 3, 4)));
int keeper_listen(struct keeper *k, struct error *e);
void keeper_accept(struct keeper *k);
/* Read, obey and write for one client; whether more of its requests could be served at once. */
bool keeper_serve_client(struct keeper *k, struct client *c);
/* Whether nothing of what this client sends can be taken now. */
bool keeper_client_blocked(const struct client *c);
void keeper_drop_client(struct keeper *k, struct client *c);
/* The cell has answered `op`: result 0 or errno, with `len` bytes (text of the error, or the answer's own). */
void keeper_answer(struct keeper *k, const struct keeper_op *op, u32 result, const u8 *data, u32 len);
/* The cell is silent. */
void keeper_op_timeout(struct keeper *k, struct keeper_op *op);
/* Console output to all who watch. */
void keeper_show(struct keeper *k, const u8 *data, size_t len);
/* Tell everybody who waits how it ended. */
void keeper_tell_end(struct keeper *k);
/* Begin the orderly end: power button now, the kill after `seconds`. */
void keeper_stop(struct keeper *k, unsigned seconds);

#endif
