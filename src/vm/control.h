/*
 * The control socket: how a verb speaks with the keeper of a machine.
 *
 * A Unix stream socket, mode 0600, peers of the same user (or root) only. Requests and replies are JSON objects, one a
 * line, at most CONTROL_LINE_MAX bytes. A request names what to do; a reply has "ok": true and its members, or "ok": false,
 * "error": a line for people, "errno": a number.
 *
 *   {"do":"status"}   -> name state held pid cell uptime memory cpus engine instructions memory_target memory_actual [code reason]
 *   {"do":"inspect"}  -> config (vm_config_to_json), boot {protocol entry}, and what status has
 *   {"do":"stats"}    -> the engine's counters by name (ENGINE_COUNTERS of engine/engine.h), "balloon": as below
 *   {"do":"balloon","memory":BYTES,"refresh":true}  -> memory memory_target memory_actual, driver: whether the guest has one;
 *                     host: bytes of memory that the host has given; inflated reported kept (base/balloon.h); guest: its own
 *                     statistics, by name (BALLOON_STATS), answers: how often it has told them. "memory" says what the guest is to
 *                     have, "refresh" asks it for statistics, which come later. Both can be left out.
 *   {"do":"explain","address":"0x.."}  -> what the engine made of the code there (vm/explain.h); at RIP without an address
 *   {"do":"pause"}  {"do":"resume"}  {"do":"reset"}
 *   {"do":"power"}    press the power button
 *   {"do":"stop","time":10}  power button, killed after that many seconds; the reply comes at the end, as that of wait
 *   {"do":"kill"}     -> the reply comes at the end, as that of wait
 *   {"do":"wait"}     -> at the end: code, reason, text (the CPU's state if there is something to show)
 *   {"do":"console","input":true,"replay":N}  -> "input": whether this connection may type; "size": whether it may say how
 *                     large its terminal is; then frames, see below
 *   {"do":"vsock","port":N}  -> when the guest has accepted; from then on the connection carries the bytes of its socket
 *   {"do":"save"}     -> "bytes": N, then N bytes: the records of everything but memory (the machine is paused meanwhile)
 *   {"do":"load","bytes":N}, then N bytes: such records, into a paused machine; of one that comes in: "paused": true: it does
 *                     not go on by itself when it is activated
 *   {"do":"hold"}     -> paused, and nobody else makes it go on, until this connection says so or is closed: see below.
 *                     "paused": true: it was already, by somebody's wish
 *   {"do":"memory"}   -> "bytes": N, then one byte with the descriptor of guest memory (SCM_RIGHTS)
 *   {"do":"sync"}     -> what the guest wrote to its disks is on stable storage; held only
 *   {"do":"release"}  -> it goes on, if it ran before the hold
 *   {"do":"handover","action":..}   the keeper's part of a handover (vm/keeper_handover.c); "id": which one
 *        "prepare"      make room for the record
 *        "commit"       held only; "host", "to", "tls", "insecure": recorded, and committed from now on
 *        "back"         of a committed one: it goes on here
 *        "left"         of a committed one: it runs there, and ends here. The reply comes at the end, as that of wait
 *        "activate"     of a prepared one: recorded, and it runs
 *   {"do":"paging","action":..}     the keeper's part of post-copy (vm/keeper_paging.c)
 *        "begin"        of one that runs here and lacks pages; "id", "from": this connection brings them, until it is closed
 *        "part"         its; "which": memory, table or event -> "bytes", then one byte with the descriptor
 *        "full"         its: nothing is lacking, which is recorded
 *        "perished"     "id": what is lacking is lost. It ends; the reply comes at the end, as that of wait
 *        "name","bytes":N, then N bytes: held only; a bit a page: these will not be sent before the commit
 *        "named"        of a committed one -> "bytes": N, then N bytes: the same
 *        "serve"        of a committed one; "id": it runs there, and pages are sent
 *   {"do":"frames","action":"take"}  -> "bytes": N, then N bytes: frames that came for the guest since it was handed over (base/net.h)
 *   {"do":"frames","action":"give","bytes":N}, then N bytes: such frames, for the guest that has come
 *   {"do":"leave"}    -> it ends, as "suspended"; held only. The reply comes at the end, as that of wait
 *   {"do":"log","action":"start"}  from now on the dirty log notes which pages of memory are written: see below
 *   {"do":"log","action":"take","first":PAGE,"pages":N}  -> "bytes": B, then B bytes: a bit for each of these pages, in
 *                     little-endian 64-bit words. Both are multiples of 64, N is at most CONTROL_LOG_PAGES, and the last page
 *                     lies in the machine's last such word at most; bits of pages that are not there are 0
 *   {"do":"log","action":"throttle","percent":P}  P 0 to 99.99; the CPUs stand still for so much of the time, until the log stops
 *   {"do":"log","action":"stop"}
 *   {"do":"mirror","action":"start"}  from now on it is remembered which blocks (base/blockmap.h) of its disks the guest writes; until
 *                     this connection closes or says "stop". Others get EBUSY
 *   {"do":"mirror","action":"open","disk":I}  -> "bytes", "direct": whether guests' requests go past the page cache; then one byte
 *                     with the descriptor of the disk's file, which has the lock of the one that runs: to open it anew
 *   {"do":"mirror","action":"take","disk":I,"first":BLOCK,"blocks":N}  -> "bytes": B, then B bytes: a bit for each of these
 *                     blocks, as of the dirty log; those that were set are clear then
 *   {"do":"mirror","action":"stop"}
 *
 * A hold is how memory and state are read as of one moment. It ends, and the machine goes on, when the connection that has it
 * closes, however that comes; a person who stops or kills the machine breaks it. Who had it learns that by `release` and `leave`,
 * which fail with ESTALE then: what was read is worth nothing.
 *
 * A machine that comes in from another host is held by who sends it, and ends with that connection until it is prepared; `load`
 * then takes its state.
 *
 * The dirty log. Pages are numbered by their place in the machine's memory (as {"do":"memory"} hands it out), not by their
 * guest-physical address. After `start` all of them are clean. `take` tells which ones of its range have been written since they
 * were clean last, and makes these clean again, while the machine runs. A write that was in memory before a take is in that one
 * or in one before it; one that comes later is in the next. So whoever copies a page behind the take that named it loses nothing, and
 * while the machine is held or paused a take has all that is left. When the guest is reset all pages count as written.
 * The log belongs to the connection that started it (starting again begins anew); it stops when that is closed. Others get EBUSY,
 * and EINVAL if there is no log. After an error of a take its bits may be gone: then the log has stopped (ETIMEDOUT), or
 * was not touched (all others).
 *
 * A machine that has come before all its pages did (post-copy) has in its status "absent": bytes, "absent_at": where these are, "connected":
 * whether somebody brings them, "waits": whether its guest stands still for want of one. Then `pause` and `resume` may be answered with
 * "later": true; memory, hold and the like are refused with EBUSY.
 *
 * state: booting (not yet ready), running, paused, resetting, incoming, prepared, committed, serving, stopped.
 *
 * After a successful console request the connection carries frames both ways:
 *
 *   offset size
 *        0    1  kind    enum control_frame_kind
 *        1    1  0
 *        2    2  length  little-endian, at most CONTROL_FRAME_MAX
 *        4    n  payload
 */
#ifndef TRAPEZE_VM_CONTROL_H
#define TRAPEZE_VM_CONTROL_H

#include "base/blockmap.h"
#include "base/error.h"
#include "base/types.h"

#include <jansson.h>

#define CONTROL_LINE_MAX      65536
#define CONTROL_FRAME_MAX     4096
#define CONTROL_SAVE_MAX      (16u << 20)
#define CONTROL_FRAMES_MAX    (1u << 20)
#define CONTROL_NAMED_MAX     (32u << 20) /* bytes of a map of pages: of 1 TiB, more than CONTROL_SAVE_MAX */
#define CONTROL_LOG_PAGES     524288u     /* in one `take`: 2 GiB */
#define CONTROL_MIRROR_BLOCKS 65536u      /* in one `take` of a mirror: 4 GiB */

enum control_frame_kind {
    CONTROL_OUTPUT = 'o', /* keeper to client: bytes of the console */
    CONTROL_INPUT = 'i',  /* client to keeper: bytes typed; ignored unless this connection holds the input */
    CONTROL_SIZE = 'w', /* client to keeper: columns and rows of its terminal, 2 bytes each, little-endian; likewise */
    CONTROL_DROPPED = 'd', /* keeper to client: 8 bytes, how many bytes were left out because the client was slow */
    CONTROL_STATE = 's',   /* keeper to client: the new state's name */
    CONTROL_END = 'e',     /* keeper to client: JSON as the reply of wait; the keeper closes after it */
};

struct control_frame {
    u8 kind;
    u16 len;
    u8 data[CONTROL_FRAME_MAX + 1]; /* a zero byte follows the payload */
};

/*
 * Connect to the keeper whose socket is the file `path` (of any length). Returns the descriptor (close-on-exec, blocking)
 * or -errno: -ENOENT and -ECONNREFUSED say that no keeper is there.
 */
int control_connect(const char *path, struct error *e);

/* Send one request. 0 or -errno. */
int control_send(int fd, const json_t *request, struct error *e);

/*
 * Read one reply line; *reply is the caller's reference. 0 when "ok" is true; the error that the keeper reports as
 * -errno and text in `e` (then *reply is NULL); -EPROTO for what is no reply; -EPIPE when the keeper is gone.
 */
int control_receive(int fd, json_t **reply, struct error *e);

/* Read the `len` bytes that a reply has announced. 0 or -errno. */
int control_bytes(int fd, void *out, size_t len, struct error *e);

/* Ask for guest memory: its descriptor, and its bytes in *size. -errno. */
int control_memory(int fd, u64 *size, struct error *e);
/* The same of what another request is answered with. `request` is used up; NULL is -ENOMEM. */
int control_descriptor(int fd, json_t *request, u64 *size, struct error *e);

/*
 * The dirty log of a machine, for the connection `fd`: start (all pages are clean), take, stop. A take is of `pages` pages from
 * page `first` on, both multiples of 64 (as many requests as that needs): one bit a page to `out`, which has pages / 64 words.
 * 0 or -errno; after a failed take what it would have said may be lost.
 */
int control_log_start(int fd, struct error *e);
int control_log_take(int fd, u64 first, u64 pages, u64 *out, struct error *e);
int control_log_stop(int fd, struct error *e);
int control_log_throttle(int fd, unsigned share, struct error *e);

/*
 * Disks that are mirrored, for the connection `fd`: start; the descriptor of disk `i`, its bytes, and whether to read past the page
 * cache; what was written of it since the last take: bits that are added to those of `out`, a map of that disk. 0 or -errno; after a
 * failed take what it would have said may be lost.
 */
int control_mirror_start(int fd, struct error *e);
int control_mirror_open(int fd, unsigned i, u64 *bytes, bool *direct, struct error *e);
int control_mirror_take(int fd, unsigned i, struct blockmap *out, struct error *e);

/* A request that bytes follow, and its reply. `request` is used up; NULL is -ENOMEM. 0 or -errno. */
int control_put(int fd, json_t *request, const void *data, size_t len, struct error *e);
/* Frames that wait for a machine that was handed over: *data is the caller's, *len may be 0. 0 or -errno. */
int control_frames_take(int fd, u8 **data, size_t *len, struct error *e);
/* And for one that has come. 0 or -errno. Or without waiting for the answer, when nothing else is asked on this connection later. */
int control_frames_give(int fd, const u8 *data, size_t len, struct error *e);
int control_frames_leave(int fd, const u8 *data, size_t len, struct error *e);

/* control_send and control_receive. `reply` may be NULL. */
int control_call(int fd, const json_t *request, json_t **reply, struct error *e);

/* Connect, call, close. `request` is used up (json_pack may stand as the argument; NULL is -ENOMEM). */
int control_once(const char *path, json_t *request, json_t **reply, struct error *e);

/* Blocking exchange of frames. Receive: 1 with a frame, 0 at the end of the stream, -errno (-EPROTO: no frame). */
int control_frame_send(int fd, u8 kind, const void *data, size_t len);
int control_frame_receive(int fd, struct control_frame *f);

#endif
