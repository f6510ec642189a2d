/*
 * What the two sides of a network card say to each other: the device in the cell, which the guest sees, and the back end, a
 * process of its own. Frames travel over a wire (base/wire.h), each behind a header in the form of virtio 1.2, 5.1.6, which is
 * also that of the kernel's taps.
 */
#ifndef TRAPEZE_BASE_NET_H
#define TRAPEZE_BASE_NET_H

#include "base/types.h"

#define NET_COUNT_MAX 4u            /* cards of one machine */
#define NET_FRAME_MIN 14u           /* an Ethernet header */
#define NET_FRAME_MAX (65536u + 32) /* a large segment with its headers and a tag */
#define NET_MTU_MAX   65520u

struct net_header {
    u8 flags;    /* NET_NEEDS_CSUM, NET_DATA_VALID */
    u8 gso_type; /* NET_GSO_* */
    u16 hdr_len; /* a hint */
    u16 gso_size;
    u16 csum_start, csum_offset;
    u16 num_buffers; /* for the guest only */
};
_Static_assert(sizeof(struct net_header) == 12, "as virtio and the kernel have it");

/*
 * A frame on its way to another host's card: number of the card (1 byte, 3 of zeros), length (4, little-endian), header (12), frame.
 */
#define NET_PACKED_HEAD 20u

#define NET_NEEDS_CSUM  1u /* the checksum at csum_start + csum_offset covers the pseudo-header only */
#define NET_DATA_VALID  2u /* checksums were found right, or the data never left the host */
#define NET_GSO_NONE    0u
#define NET_GSO_TCP4    1u
#define NET_GSO_TCP6    4u
#define NET_GSO_ECN     0x80u

/* What a side takes beside plain frames. */
#define NET_TAKES_CSUM BIT(0)
#define NET_TAKES_TSO4 BIT(1)
#define NET_TAKES_TSO6 BIT(2)
#define NET_TAKES_ALL  (NET_TAKES_CSUM | NET_TAKES_TSO4 | NET_TAKES_TSO6)

/* What a card is, for both sides. */
struct net_info {
    u8 mac[6];
    u16 mtu;   /* told to the guest; 0: nothing is, it uses 1500 */
    u32 takes; /* NET_TAKES_*: what the back end takes of the guest */
    u32 gives; /* what it may give a guest that takes it */
};

/* Counters of a back end: one page that it shares with the keeper. From the guest's point of view. */
struct net_count {
    u64 sent, sent_bytes;
    u64 received, received_bytes;
    u64 dropped; /* for want of room, or because they were wrong */
};

/*
 * Whether a header says what it may of a frame of `len` bytes, whose receiver takes `takes`: no unknown flag, checksum and
 * sizes inside the frame.
 */
bool net_header_check(const struct net_header *h, u32 len, u32 takes);

#endif
