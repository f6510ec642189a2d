/* Shared by virtq.c (split rings and everything else) and virtq_packed.c. */
#ifndef TRAPEZE_DEVICE_VIRTQ_INTERNAL_H
#define TRAPEZE_DEVICE_VIRTQ_INTERNAL_H

#include "device/virtio/virtq.h"

/*
 * A descriptor, in either ring:
 *
 *   split    | address 64 | length 32 | flags 16 | next 16 |       packed    | address 64 | length 32 | id 16 | flags 16 |
 *
 *   flags    NEXT 0, WRITE 1, INDIRECT 2; packed rings: AVAIL 7, USED 15
 */
struct virtq_desc {
    u64 addr;
    u32 len;
    u16 a, b;
};

#define DESC_SIZE     16u
#define DESC_NEXT     0x1u
#define DESC_WRITE    0x2u
#define DESC_INDIRECT 0x4u
#define DESC_AVAIL    0x80u
#define DESC_USED     0x8000u

/* Note the first fault; -EPROTO. */
int virtq_fault(struct virtq *q, const char *why);

/* Add a descriptor's memory to the chain. 0 or -EPROTO. */
int virtq_add(struct virtq *q, struct virtq_chain *c, const struct virtq_desc *d, u16 flags);

/* A 16-bit word of a ring that the driver may write at any time; it is aligned. false: it is not RAM. */
bool virtq_load16(const struct virtq *q, u64 at, u16 *v);
/* Store a word that the driver polls, after everything stored before it. */
bool virtq_store16(const struct virtq *q, u64 at, u16 v);

/* Whether the driver, who asked to be told of `event`, is to be told when we went from `old` to `now` (2.7.7.2). */
static inline bool virtq_need_event(u16 event, u16 now, u16 old)
{
    return (u16)(now - event - 1) < (u16)(now - old);
}

int virtq_packed_pop(struct virtq *q, struct virtq_chain *c);
void virtq_packed_push(struct virtq *q, const struct virtq_done *d, unsigned n);
bool virtq_packed_wants_interrupt(struct virtq *q);

#endif
