/*
 * The host's side of a guest's sockets: connections, their credit, their end. It knows neither rings nor descriptors: packets
 * come in by vsock_receive and leave by ops->send, bytes come and go by the calls below.
 * Source: virtio 1.2, 5.10.6. The theory of operation is on top of vsock.c.
 */
#ifndef TRAPEZE_BACKEND_VSOCK_H
#define TRAPEZE_BACKEND_VSOCK_H

#include "base/vsock.h"

#define VSOCK_CONNECTIONS 64u
#define VSOCK_BUFFER      (256u << 10) /* bytes that a guest may send before they are taken: what we announce */
#define VSOCK_IN_FLIGHT   (1u << 20)   /* bytes that we send ahead at most, whatever a guest announces */

struct vsock_connection;

/* Who owns a connection, and the way down. `owner` is what vsock_open was given. */
struct vsock_ops {
    /* Put a packet on its way, all or nothing; false: no room, vsock_pump tries again. */
    bool (*send)(void *ctx, const struct vsock_packet *p, const u8 *data);
    /* The guest has accepted. */
    void (*opened)(void *ctx, void *owner);
    /* It has not: ECONNREFUSED, ENODEV (no driver), ETIMEDOUT. The connection is gone. */
    void (*refused)(void *ctx, void *owner, int why);
    /* Bytes of the guest, never more than VSOCK_BUFFER beyond what vsock_forwarded was told. */
    void (*data)(void *ctx, void *owner, const u8 *data, u32 len);
    /* The guest will send, or receive, no more: VSOCK_SHUTDOWN_* of its point of view, all so far. */
    void (*shut)(void *ctx, void *owner, u32 flags);
    /* The connection is gone. */
    void (*closed)(void *ctx, void *owner);
};

struct vsock_host;

/* NULL when out of memory. `ops` outlives it. */
struct vsock_host *vsock_create(const struct vsock_ops *ops, void *ctx);
void vsock_destroy(struct vsock_host *h);

/* Ask for a connection to a port of the guest; NULL when there are too many. `now` in nanoseconds. */
struct vsock_connection *vsock_open(struct vsock_host *h, void *owner, u32 port, u64 now);

/* A record that came up, checked by vsock_packet_check; its data. */
void vsock_receive(struct vsock_host *h, const struct vsock_packet *p, const u8 *data);

/* Bytes that may be sent on a connection now (by the guest's credit). */
u32 vsock_room(const struct vsock_connection *c);
/* Send up to VSOCK_DATA_MAX bytes, no more than vsock_room said. False: no room on the way, nothing was sent. */
bool vsock_send(struct vsock_connection *c, const u8 *data, u32 len);
/* The owner has passed on `total` bytes since the beginning. */
void vsock_forwarded(struct vsock_connection *c, u64 total);
/* The owner will send no more. */
void vsock_finish(struct vsock_connection *c);
/* The owner goes: what was sent is delivered, then the connection ends. Nothing is called for it any more. */
void vsock_leave(struct vsock_connection *c, u64 now);

/* Send what is owed, end what has waited too long. */
void vsock_pump(struct vsock_host *h, u64 now);
/* Whether something is owed for which there was no room. */
bool vsock_owes(const struct vsock_host *h);
/* When vsock_pump is wanted at the latest; UINT64_MAX: never. */
u64 vsock_deadline(const struct vsock_host *h);
/* Connections that there are. */
unsigned vsock_count(const struct vsock_host *h);

#endif
