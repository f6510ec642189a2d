/*
 * What the two sides of a shared directory say to each other: the device in the cell, which the guest sees, and the back end, a
 * process of its own, which holds the directory. They share memory and don't trust each other.
 *
 *   page 0    doors (who sleeps), indices of both rings, one word: whether the back end is there
 *   4096      ring up: a question's record; ring down: an answer's record (base/ring.h)
 *   8192      SHARE_SLOTS slots: | question SHARE_ASK_MAX | answer SHARE_ANSWER_MAX |
 *
 * Questions and answers are messages of FUSE (linux/fuse.h). The device puts a question into a free slot and names the slot in a
 * record; the back end puts the answer into the same slot and names it in another. Who receives copies what it looks at,
 * once, and looks at the copy; what nobody interprets (data of a file) goes to or from the slot in place.
 */
#ifndef TRAPEZE_BASE_SHARE_H
#define TRAPEZE_BASE_SHARE_H

#include "base/ring.h"

#define SHARE_COUNT_MAX  6u
#define SHARE_TAG_MAX    36u
#define SHARE_SLOTS      8u
#define SHARE_DATA_MAX   (256u << 10) /* of one read or write */
#define SHARE_ASK_MAX    (SHARE_DATA_MAX + 4096u)
#define SHARE_ANSWER_MAX (SHARE_DATA_MAX + 4096u)

/* Headers of FUSE: | len 4, opcode 4, unique 8, nodeid 8, uid 4, gid 4, pid 4, 4 |, and | len 4, error 4, unique 8 | */
#define SHARE_ASK_HEAD    40u
#define SHARE_ANSWER_HEAD 16u

/* A question is in its slot. */
struct share_ask {
    u32 slot;
    u32 len;  /* of the question */
    u32 room; /* for the answer; 0: none is wanted */
    u32 zero[13];
};

/* It has been answered. */
struct share_answer {
    u32 slot;
    u32 len; /* 0: no answer */
    u32 zero[14];
};

/* What a share is, for both sides. */
struct share_info {
    char tag[SHARE_TAG_MAX]; /* not ended by a zero when it is full */
    u32 read_only;
};

struct share_shared;

/* One side. Private memory. */
struct share_line {
    struct share_shared *shared;
    struct ring_door *own, *peer;
    struct ring in, out;
    u8 *slots;
    bool moved; /* since share_news */
};

u64 share_size(void);
/* Attach to a mapping of share_size() bytes, zeroed before either side did. */
void share_attach(struct share_line *l, void *base, bool in_cell);

/* The two halves of a slot. Shared memory. */
u8 *share_question_place(const struct share_line *l, u32 slot);
u8 *share_answer_place(const struct share_line *l, u32 slot);

/* Send a record of 64 bytes; false when there is no room, which there always is between honest sides. */
bool share_send(struct share_line *l, const void *record);
/* The next record: 1, 0 when there is none, -EPROTO when the peer has written nonsense. */
int share_receive(struct share_line *l, void *record);
/* After a batch: whether to signal the peer. */
bool share_news(struct share_line *l);
/* Whether records are there that were not taken: the last look before sleeping. */
bool share_pending(struct share_line *l);

/* Whether the back end is there: written by it, and by the keeper when it has ended. */
void share_set_up(struct share_line *l, bool up);
bool share_up(const struct share_line *l);

#endif
