/*
 * A connection to the control socket, seen by the keeper: lines and frames in, bounded backlog out. Knows no machine.
 *
 * A peer may send anything at any speed and may stop reading: what it can cost is bounded by the sizes below. Input
 * beyond CONTROL_LINE_MAX without a newline ends the connection; console output beyond CLIENT_BACKLOG is left out and
 * counted; requests are not looked at while replies wait.
 */
#ifndef TRAPEZE_VM_CLIENT_H
#define TRAPEZE_VM_CLIENT_H

#include "base/error.h"
#include "vm/control.h"

#define CLIENT_BACKLOG  (256u << 10) /* console bytes on their way to a slow reader */
#define CLIENT_IN_FIRST 4096u

struct vsock_connection;

enum client_mode {
    CLIENT_REQUESTS,
    CLIENT_CONSOLE,
    CLIENT_BODY,   /* bytes of a load request are coming in */
    CLIENT_STREAM, /* a connection to a socket of the guest, or on its way to be one */
};

struct client {
    int fd; /* -1: free */
    enum client_mode mode;
    bool eof;     /* the peer will send no more */
    bool closing; /* close when the output is out */
    bool waiting; /* is told when the machine ends */
    bool input;   /* holds the console's keyboard */
    u64 op;       /* id of the request that the cell works on, 0: none */
    u8 *in;
    size_t in_len, in_cap;
    u8 *out;
    size_t out_len, out_at, out_cap;
    u64 dropped; /* console bytes left out since the last frame that got through */
    u8 *body;
    size_t body_len, body_want;
    int body_kind;                   /* enum link_down, or the keeper's own: what it is for */
    struct vsock_connection *stream; /* its other end, while there is one */
    u64 streamed;                    /* bytes of the guest that went into the output */
    bool last;                       /* the guest sends no more: the peer is told behind the output */
    int pass;                        /* a descriptor to be sent with a byte of the output, not ours; -1: none */
    size_t pass_behind;              /* bytes of the output before that byte */
    u64 hung_up; /* since when (host ns) the peer is gone, and its last bytes wait for credit; 0: not */
};

/* Take the next connection of `listener` if its peer is this user or root. 1, 0 when there is none, -errno (refused). */
int client_accept(struct client *c, int listener);
void client_close(struct client *c);

/* Append bytes to the output. 0, or -ENOMEM (the connection is marked closing). */
int client_put(struct client *c, const void *data, size_t len);
/* Append one byte that carries a descriptor, which stays the caller's and open. 0, -EBUSY while another is on its way, -ENOMEM. */
int client_put_fd(struct client *c, int fd);
size_t client_backlog(const struct client *c);

/* Append a frame; console output beyond the backlog is dropped and told later. */
void client_frame(struct client *c, u8 kind, const void *data, size_t len);

/* Send what the socket takes. 0, or -errno when the connection is dead. */
int client_flush(struct client *c);
/* Read what there is, within bounds. 0, or -errno when the connection is dead. */
int client_fill(struct client *c);
/* `len` bytes follow, for `kind` (enum link_down): into c->body, until body_len is body_want. 0 or -ENOMEM. */
int client_begin_body(struct client *c, size_t len, int kind);
/* Whether client_fill could make use of more input now. */
bool client_wants_input(const struct client *c);

/* A whole line in the input? Its length without the newline, or -1. */
s64 client_line(const struct client *c);
/* Drop the first `len` bytes of the input. */
void client_consume(struct client *c, size_t len);

/*
 * The next whole frame in the input: 1 with its kind and payload (inside `in`, until client_consume of 4 + *len), 0 if none,
 * -EPROTO.
 */
int client_next_frame(const struct client *c, u8 *kind, const u8 **data, size_t *len);

#endif
