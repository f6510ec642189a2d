/*
 * Wires: what a network card is plugged into. Frames in both directions between two processes that share memory and don't
 * trust each other: the cell, and the back end of the card.
 *
 *   page 0       doors (who sleeps), indices of both lanes, two words: what the guest takes, whether the link is up
 *   4096         lane up: from the cell
 *   + LANE       lane down: to the cell
 *
 * A lane is a ring of bytes like those of base/ring.h, but frames stand in it whole, so that a kernel or a device can read
 * and write them in place:
 *
 *   | len 4 | header 12 | frame .. padded to 16 | len | header | frame .. | len = SKIP, unused to the end |
 *
 * Theory: trust. As in base/ring.h, each side keeps its own index privately and checks the peer's (a multiple of 16, at most
 * the size away). Length and header of a frame are copied once, and the length is checked against what is there; the frame
 * itself is the peer's to change at any time, so it is copied, or given to the kernel, but never looked at in place. A peer
 * that writes nonsense makes its lane `broken`: nothing more comes out of it.
 *
 * Theory: waking. Both sides work in batches: wire_look, then frames, then wire_news, which says whether the peer is to be
 * signalled: it sleeps, and something was put, or room was made for which it waits (`starved`).
 */
#ifndef TRAPEZE_BASE_WIRE_H
#define TRAPEZE_BASE_WIRE_H

#include "base/net.h"
#include "base/ring.h"

#define WIRE_LANE (512u << 10) /* bytes, a power of two */
#define WIRE_HEAD 16u

struct wire_lane {
    struct ring_shared *shared;
    u8 *data;
    u32 mine; /* the index that this side owns */
    u32 seen; /* consumer: the producer's index at wire_look */
    u32 pad;  /* producer: bytes before the reserved place that are left unused */
    bool broken;
    bool moved; /* since wire_news */
};

struct wire_shared;

/* One side of a wire. Private memory. */
struct wire {
    struct wire_shared *shared;
    struct ring_door *own, *peer;
    struct wire_lane in, out;
};

struct wire_frame {
    struct net_header h;
    u32 len;
    const u8 *data; /* shared memory: copy it */
};

u64 wire_size(void);
/* Attach to a mapping of wire_size() bytes, zeroed before either side did. */
void wire_attach(struct wire *w, void *base, bool in_cell);

/*
 * Producer: a place for a frame of at most `len` bytes, NET_FRAME_MAX at most, or NULL: the peer will signal when there is
 * room. The place is shared memory.
 */
u8 *wire_reserve(struct wire *w, u32 len);
/* Send what was put there, `len` bytes, no more than were reserved. */
void wire_commit(struct wire *w, const struct net_header *h, u32 len);

/* Consumer: see what is there now. */
void wire_look(struct wire *w);
/* The next frame of those; false when there is none. It stays until wire_release. */
bool wire_peek(struct wire *w, struct wire_frame *f);
void wire_release(struct wire *w, const struct wire_frame *f);

/* After a batch: whether to signal the peer. */
bool wire_news(struct wire *w);
/* Whether frames are there that were not taken: the last look before sleeping. */
bool wire_pending(struct wire *w);

/* What the guest takes (NET_TAKES_*): written by the cell, a hint for the back end. */
void wire_set_takes(struct wire *w, u32 takes);
u32 wire_takes(const struct wire *w);
/* Whether the link is up: written by the back end. */
void wire_set_link(struct wire *w, bool up);
bool wire_link(const struct wire *w);

#endif
