/*
 * What the two sides of a machine's virtio socket say to each other: the device in the cell, which the guest sees, and the
 * connections in the keeper. A packet is a record of 64 bytes on one of two rings (base/ring.h) and, behind it, its data in
 * as many records as that takes, all put at once.
 *
 *   up     from the guest's driver, as it came; checked again by who receives it (vsock_packet_check)
 *   down   for the guest's driver
 *
 * Beside packets there is a word up: VSOCK_GONE. Source: virtio 1.2, 5.10.
 */
#ifndef TRAPEZE_BASE_VSOCK_H
#define TRAPEZE_BASE_VSOCK_H

#include "base/types.h"

#define VSOCK_HOST_CID   2u
#define VSOCK_GUEST_CID  3u /* each machine is alone with its keeper, so all have the same */
#define VSOCK_AGENT_PORT 1024u
#define VSOCK_DATA_MAX   16384u /* bytes of one packet on the rings; a longer one of the guest becomes several */
#define VSOCK_RECORD     64u
#define VSOCK_RECORDS    (1u + VSOCK_DATA_MAX / VSOCK_RECORD) /* that a packet takes at most */

enum vsock_kind {
    VSOCK_NONE,
    VSOCK_PACKET,
    VSOCK_GONE,   /* up: the driver has been reset, or the machine loaded: no connection of before is there any more */
    VSOCK_NOBODY, /* up: the guest has no driver for a request that came down; source and destination are the request's */
    VSOCK_KINDS
};

/* Operations and types of virtio 1.2, 5.10.6 */
enum vsock_op {
    VSOCK_OP_INVALID,
    VSOCK_OP_REQUEST,
    VSOCK_OP_RESPONSE,
    VSOCK_OP_RST,
    VSOCK_OP_SHUTDOWN,
    VSOCK_OP_RW,
    VSOCK_OP_CREDIT_UPDATE,
    VSOCK_OP_CREDIT_REQUEST,
};

#define VSOCK_TYPE_STREAM      1u
#define VSOCK_SHUTDOWN_RECEIVE 1u /* who sends it will receive no more */
#define VSOCK_SHUTDOWN_SEND    2u /* .. send no more */

struct vsock_packet {
    u32 kind; /* enum vsock_kind */
    u32 len;  /* bytes of data that follow; only VSOCK_OP_RW has any */
    u64 src_cid, dst_cid;
    u32 src_port, dst_port;
    u16 type, op;
    u32 flags;
    u32 buf_alloc, fwd_cnt;
    u32 zero[4];
};
_Static_assert(sizeof(struct vsock_packet) == VSOCK_RECORD, "a record of the rings");

/* Bytes of records that the data of a packet takes. */
static inline u32 vsock_padded(u32 len)
{
    return (len + VSOCK_RECORD - 1) & ~(VSOCK_RECORD - 1);
}

/* Whether a record can be a packet's, or a word's, at all: kind, length. */
static inline bool vsock_packet_check(const struct vsock_packet *p)
{
    return p->kind != VSOCK_NONE && p->kind < VSOCK_KINDS && p->len <= VSOCK_DATA_MAX &&
           (!p->len || (p->kind == VSOCK_PACKET && p->op == VSOCK_OP_RW));
}

#endif
