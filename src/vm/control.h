/*
 * The control socket: how a verb speaks with the keeper of a machine.
 *
 * A Unix stream socket, mode 0600, peers of the same user (or root) only. Requests and replies are JSON objects, one a
 * line, at most CONTROL_LINE_MAX bytes. A request names what to do; a reply has "ok": true and its members, or "ok": false,
 * "error": a line for people, "errno": a number.
 *
 *   {"do":"status"}   -> name state pid cell uptime memory cpus engine instructions [code reason]
 *   {"do":"inspect"}  -> config (vm_config_to_json), boot {protocol entry}, and what status has
 *   {"do":"stats"}    -> the engine's counters by name (ENGINE_COUNTERS of engine/engine.h)
 *   {"do":"explain","address":"0x.."}  -> what the engine made of the code there (vm/explain.h); at RIP without an address
 *   {"do":"pause"}  {"do":"resume"}  {"do":"reset"}
 *   {"do":"power"}    press the power button
 *   {"do":"stop","time":10}  power button, killed after that many seconds; the reply comes at the end, as that of wait
 *   {"do":"kill"}     -> the reply comes at the end, as that of wait
 *   {"do":"wait"}     -> at the end: code, reason, text (the CPU's state if there is something to show)
 *   {"do":"console","input":true,"replay":N}  -> "input": whether this connection may type; then frames, see below
 *   {"do":"vsock","port":N}  -> when the guest has accepted; from then on the connection carries the bytes of its socket
 *   {"do":"save"}     -> "bytes": N, then N bytes: the records of everything but memory (the machine is paused meanwhile)
 *   {"do":"load","bytes":N}, then N bytes: such records, into a paused machine
 *
 * state: booting (not yet ready), running, paused, resetting, stopped.
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

#include "base/error.h"
#include "base/types.h"

#include <jansson.h>

#define CONTROL_LINE_MAX  65536
#define CONTROL_FRAME_MAX 4096
#define CONTROL_SAVE_MAX  (16u << 20)

enum control_frame_kind {
    CONTROL_OUTPUT = 'o',  /* keeper to client: bytes of the console */
    CONTROL_INPUT = 'i',   /* client to keeper: bytes typed; ignored unless this connection holds the input */
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

/* control_send and control_receive. `reply` may be NULL. */
int control_call(int fd, const json_t *request, json_t **reply, struct error *e);

/* Connect, call, close. `request` is used up (json_pack may stand as the argument; NULL is -ENOMEM). */
int control_once(const char *path, json_t *request, json_t **reply, struct error *e);

/* Blocking exchange of frames. Receive: 1 with a frame, 0 at the end of the stream, -errno (-EPROTO: no frame). */
int control_frame_send(int fd, u8 kind, const void *data, size_t len);
int control_frame_receive(int fd, struct control_frame *f);

#endif
