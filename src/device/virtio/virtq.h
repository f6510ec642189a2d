/*
 * A virtqueue, seen from the device: split and packed rings, indirect descriptors, event index.
 * Source: virtio 1.2, 2.6 - 2.8. The theory of operation and what is believed of a ring is on top of virtq.c.
 */
#ifndef TRAPEZE_DEVICE_VIRTQ_H
#define TRAPEZE_DEVICE_VIRTQ_H

#include "base/types.h"
#include "machine/mem/mem.h"

#define VIRTQ_SIZE_MAX 256u
#define VIRTQ_SEGS_MAX 256u /* pieces of memory in one chain */
#define VIRTQ_SEG_LEN  (1u << 30)

/* One piece of guest memory: RAM from its first byte to its last, as checked when it was taken. */
struct virtq_seg {
    gpa_t at;
    u32 len;
};

/* What the driver asks for in one go: `n_out` pieces to read, then `n_in` pieces to write. */
struct virtq_chain {
    u16 id;    /* names it in the used ring */
    u16 descs; /* slots of the ring that it takes (packed) */
    u16 n_out, n_in;
    u64 out_len, in_len; /* bytes */
    struct virtq_seg seg[VIRTQ_SEGS_MAX];
};

struct virtq {
    struct guest_mem *mem;
    const char *fault; /* why it is of no use any more; NULL: it is fine */

    /* What the transport was told. Addresses are the driver's word: each use is checked. */
    u16 size;                 /* power of two, VIRTQ_SIZE_MAX at most */
    u64 desc, driver, device; /* guest-physical addresses of the three areas */
    u8 enabled;
    u8 packed, event_index, indirect; /* features */

    /* Where we are. Split: free-running 16-bit indices; packed: slots, with wrap counters. */
    u16 next; /* the next to take */
    u16 used; /* the next to give back */
    u8 next_wrap, used_wrap;
    u16 told;      /* `used` when the driver was last interrupted */
    u8 told_valid; /* it was */
    u16 out;       /* chains taken and not given back */
};

/* As after a reset of the device: not enabled, nothing taken. `mem` stays. */
void virtq_reset(struct virtq *q);

/* Whether size and areas make sense; sets `fault` if not. Called once when the driver enables it. */
bool virtq_enable(struct virtq *q);

/*
 * Take the next chain: 1, 0 when there is none, -EPROTO (and q->fault) when the ring makes no sense; from then on nothing is
 * taken or given back any more.
 */
int virtq_pop(struct virtq *q, struct virtq_chain *c);

/* Give a chain back with `len` bytes written, counted from its first writable one. */
void virtq_push(struct virtq *q, u16 id, u16 descs, u32 len);

/* A chain that is given back. */
struct virtq_done {
    u16 id, descs;
    u32 len;
};
/* Give several back, which the driver sees all at once. */
void virtq_push_all(struct virtq *q, const struct virtq_done *d, unsigned n);

/* Put the chain that was taken last back into the ring, as if it had not been: the next one that virtq_pop takes. */
void virtq_unpop(struct virtq *q, u16 descs);

/* After pushes: whether the driver wants to be interrupted. */
bool virtq_wants_interrupt(struct virtq *q);

/*
 * Ask to be told of the next chain; whether one has come in the meantime (take it then: nobody will tell). Call when
 * virtq_pop gave 0.
 */
bool virtq_rearm(struct virtq *q);

/* Tell the traces that `len` bytes of RAM at `at` were written, by us or by the other process. */
void virtq_touch(struct guest_mem *m, gpa_t at, u64 len);

/*
 * Copy bytes `skip` .. `skip + len` of the chain's readable part out, or into its writable part. Returns how many were there.
 */
size_t virtq_read(const struct virtq *q, const struct virtq_chain *c, u64 skip, void *out, size_t len);
size_t virtq_write(const struct virtq *q, const struct virtq_chain *c, u64 skip, const void *data, size_t len);

/* Whether what a record holds can be. */
bool virtq_valid(const struct virtq *q);

#endif
