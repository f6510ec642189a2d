/*
 * The keeper's end of the socket rings, and what is at the other end of the guest's connections: clients of the control
 * socket that asked for {"do":"vsock"}.
 *
 *   client <──bytes──> struct client <──> backend/vsock: connection, credit <──LINK_VSOCK_DOWN, _UP──> device in the cell
 *
 * Each record is copied out of the ring once, and checked: a record that can not be comes from a cell that is no longer
 * ours. What a packet means is the guest's word, and backend/vsock believes none of it.
 *
 * Nothing is queued without bound. To the client: what the guest may send is bounded by its credit, which grows as the
 * client's socket takes the bytes. From the client: its socket is read only when there are both credit and room on the
 * ring. So each end's speed is the other's.
 */
#include "vm/keeper.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>

#define PACKETS_AT_ONCE 64
#define READS_AT_ONCE   8
#define HUNG_NS         5000000000ull /* how long bytes of a peer that is gone may wait */

struct keeper_vsock {
    struct vsock_host *host;
    struct vsock_packet taking; /* a packet whose data is being collected; kind VSOCK_NONE: none */
    u8 data[VSOCK_DATA_MAX];
    u32 got;       /* bytes of it, with the padding */
    bool starving; /* something waits for room on the ring */
};

/* --- the way down --- */

/* Room for a packet with data. Notes that somebody wants it if there is none. */
static bool has_room(struct keeper *k)
{
    struct ring *r = &k->link.ring[LINK_VSOCK_DOWN];
    if (ring_room(r) >= (s64)(VSOCK_RECORDS * RING_RECORD))
        return true;
    k->vsock->starving = true;
    return false;
}

/* ops.send */
static bool put(void *ctx, const struct vsock_packet *p, const u8 *data)
{
    struct keeper *k = ctx;
    u8 buf[VSOCK_RECORDS * RING_RECORD];
    u32 len = RING_RECORD + vsock_padded(p->len);
    if (k->ended || !has_room(k))
        return false;
    memset(buf + len - RING_RECORD, 0, RING_RECORD);
    memcpy(buf, p, sizeof(*p));
    if (p->len)
        memcpy(buf + RING_RECORD, data, p->len);
    ring_write(&k->link.ring[LINK_VSOCK_DOWN], buf, len);
    link_knock(&k->link);
    return true;
}

/* --- what becomes of connections: ops --- */

static void opened(void *ctx, void *owner)
{
    struct client *c = owner;
    c->op = 0;
    keeper_accept_request(c);
}

static void refused(void *ctx, void *owner, int why)
{
    struct keeper *k = ctx;
    struct client *c = owner;
    const char *what = why == ENODEV         ? "it has no driver for it, or has not loaded it yet"
                       : why == ECONNREFUSED ? "nothing listens on this port there"
                       : why == ETIMEDOUT    ? "no answer within 5 s"
                                             : "its driver broke the rules";
    c->op = 0;
    c->stream = NULL;
    c->closing = true;
    keeper_refuse(c, why, "the guest %s does not answer on vsock: %s", k->cfg.name, what);
}

static void data(void *ctx, void *owner, const u8 *bytes, u32 len)
{
    struct client *c = owner;
    if (client_put(c, bytes, len) == 0)
        c->streamed += len;
}

static void shut(void *ctx, void *owner, u32 flags)
{
    struct client *c = owner;
    c->last |= (flags & VSOCK_SHUTDOWN_SEND) != 0;
    c->eof |= (flags & VSOCK_SHUTDOWN_RECEIVE) != 0;
}

static void closed(void *ctx, void *owner)
{
    struct client *c = owner;
    c->stream = NULL;
    c->closing = true;
}

static const struct vsock_ops ops = {
    .send = put, .opened = opened, .refused = refused, .data = data, .shut = shut, .closed = closed};

int keeper_open_vsock(struct keeper *k, struct error *e)
{
    k->vsock = calloc(1, sizeof(*k->vsock));
    if (!k->vsock || !(k->vsock->host = vsock_create(&ops, k)))
        return error_set(e, ENOMEM, "vsock: out of memory");
    return 0;
}

/* --- clients --- */

void keeper_connect_stream(struct keeper *k, struct client *c, u32 port)
{
    c->mode = CLIENT_STREAM;
    c->op = KEEPER_OP_OPENING;
    if (c->in_len)
        keeper_refuse(c, EINVAL, "vsock: bytes came before the answer");
    else if (vsock_count(k->vsock->host) >= KEEPER_STREAMS ||
             !(c->stream = vsock_open(k->vsock->host, c, port, host_ns(NULL))))
        keeper_refuse(c, EBUSY, "%s: too many connections to the guest; close one", k->cfg.name);
    else
        return;
    c->op = 0;
    c->closing = true;
}

void keeper_drop_stream(struct keeper *k, struct client *c)
{
    if (c->stream)
        vsock_leave(c->stream, host_ns(NULL));
    c->stream = NULL;
}

/* Whether bytes of the client can be sent on now. */
static bool may_read(struct keeper *k, const struct client *c)
{
    return c->stream && !c->op && !c->eof && !c->closing && vsock_room(c->stream) && has_room(k);
}

struct pollfd keeper_stream_poll(struct keeper *k, const struct client *c)
{
    struct pollfd p = {.fd = c->fd};
    if (client_backlog(c))
        p.events |= POLLOUT;
    if (may_read(k, c))
        p.events |= POLLIN;
    if (c->hung_up && !p.events)
        p.fd = -1; /* it would be reported again and again */
    return p;
}

/* Send on what the client has sent. 0, or -errno when its connection is dead. */
static int pass_on(struct keeper *k, struct client *c)
{
    u8 buf[VSOCK_DATA_MAX];
    for (int i = 0; i < READS_AT_ONCE && may_read(k, c); i++) {
        ssize_t n = recv(c->fd, buf, MIN((u32)sizeof(buf), vsock_room(c->stream)), MSG_DONTWAIT);
        if (n < 0)
            return errno == EAGAIN || errno == EINTR ? 0 : -errno;
        if (n == 0) {
            c->eof = true;
            vsock_finish(c->stream);
        } else {
            vsock_send(c->stream, buf, (u32)n); /* there is room */
        }
    }
    return 0;
}

/* Bytes to the client, and how far they have come to the guest. */
static int flush(struct client *c)
{
    int r = client_flush(c);
    size_t left = client_backlog(c);
    if (r == 0 && c->stream)
        vsock_forwarded(c->stream, c->streamed - MIN((u64)left, c->streamed));
    if (r == 0 && c->last && !left) {
        c->last = false;
        shutdown(c->fd, SHUT_WR);
    }
    return r;
}

void keeper_serve_stream(struct keeper *k, struct client *c, short revents)
{
    u64 now = host_ns(NULL);
    if (!c->hung_up && revents & (POLLHUP | POLLERR | POLLNVAL))
        c->hung_up = now;
    int r = pass_on(k, c);
    if (r == 0)
        r = flush(c);
    /* A peer that is gone reads nothing more; what it has sent goes on to the guest first. */
    bool done =
        c->closing ? !client_backlog(c) || c->hung_up : c->hung_up && (c->eof || c->op || now - c->hung_up >= HUNG_NS);
    if (r < 0 || done)
        keeper_drop_client(k, c);
}

/* --- packets --- */

static void hostile(struct keeper *k, const char *what)
{
    keeper_end(k, VM_EXIT_HOST, NULL, "the guest's process broke the protocol: a packet %s", what);
}

static s64 take(struct keeper *k, void *out, size_t len)
{
    s64 n = link_read(&k->link, LINK_VSOCK_UP, out, len);
    if (n < 0)
        hostile(k, "ring has an impossible index");
    return MAX(n, (s64)0);
}

/* The data of the packet in `taking`: whether it is all there. */
static bool collect(struct keeper *k)
{
    struct keeper_vsock *v = k->vsock;
    u32 padded = vsock_padded(v->taking.len); /* fits: VSOCK_DATA_MAX is whole records */
    v->got += (u32)take(k, v->data + v->got, padded - v->got);
    return v->got == padded && !k->ended;
}

/* One packet, or a part of it; whether to look for more. */
static bool take_packet(struct keeper *k)
{
    struct keeper_vsock *v = k->vsock;
    if (v->taking.kind == VSOCK_NONE) {
        struct vsock_packet p;
        if (take(k, &p, sizeof(p)) != sizeof(p))
            return false;
        if (!vsock_packet_check(&p)) {
            hostile(k, "that can not be");
            return false;
        }
        v->taking = p;
        v->got = 0;
    }
    if (!collect(k))
        return false;
    vsock_receive(v->host, &v->taking, v->data);
    v->taking.kind = VSOCK_NONE;
    return true;
}

bool keeper_serve_vsock(struct keeper *k)
{
    int n = 0;
    if (!k->ready || k->ended)
        return false;
    k->vsock->starving = false;
    while (n < PACKETS_AT_ONCE && take_packet(k))
        n++;
    vsock_pump(k->vsock->host, host_ns(NULL));
    for (unsigned i = 0; i < KEEPER_CLIENTS; i++) {
        struct client *c = &k->clients[i];
        if (c->fd >= 0 && c->mode == CLIENT_STREAM && (client_backlog(c) || c->closing || c->hung_up || c->last))
            keeper_serve_stream(k, c, 0);
    }
    return !k->ended && n == PACKETS_AT_ONCE;
}

bool keeper_vsock_pending(struct keeper *k)
{
    struct ring *down = &k->link.ring[LINK_VSOCK_DOWN];
    if (k->ended || !k->ready)
        return false;
    if (k->vsock->starving) {
        ring_mark_starved(down);
        if (ring_room(down) >= (s64)(VSOCK_RECORDS * RING_RECORD))
            return true;
    }
    return ring_used(&k->link.ring[LINK_VSOCK_UP]) != 0;
}

u64 keeper_vsock_deadline(const struct keeper *k)
{
    u64 at = k->vsock ? vsock_deadline(k->vsock->host) : UINT64_MAX;
    for (unsigned i = 0; i < KEEPER_CLIENTS; i++)
        if (k->clients[i].fd >= 0 && k->clients[i].hung_up)
            at = MIN(at, k->clients[i].hung_up + HUNG_NS);
    return at;
}
