/*
 * Which blocks of a disk: a bit a block of BLOCKMAP_BLOCK bytes. So a disk that is mirrored remembers what was written since, and
 * who mirrors it what is still to be sent.
 *
 * What must stay true
 *  1. A range marks each block of which it has a byte, whatever it is: one that wraps or reaches beyond the disk is cut there.
 *  2. Bits beyond the last block are never set.
 */
#ifndef TRAPEZE_BASE_BLOCKMAP_H
#define TRAPEZE_BASE_BLOCKMAP_H

#include "base/types.h"

#include <stddef.h>

#define BLOCKMAP_BLOCK     65536u
#define BLOCKMAP_BYTES_MAX (1ull << 44)

struct blockmap {
    u64 *bits; /* 64 blocks a word; NULL: there is no map, and nothing is remembered */
    u64 bytes, blocks;
};

/* A map of a disk of that many bytes, which may be no whole blocks; nothing is marked. 0, -EFBIG, -ENOMEM; then there is none. */
int blockmap_init(struct blockmap *m, u64 bytes);
void blockmap_free(struct blockmap *m);
/* All blocks that [offset, offset + len) has a byte of. */
void blockmap_mark(struct blockmap *m, u64 offset, u64 len);
/* Whether `first` and `blocks` are what blockmap_take can be asked: multiples of 64, inside the map's words. */
bool blockmap_fits(const struct blockmap *m, u64 first, u64 blocks);
/* Move the bits of `blocks` blocks from `first` on, which fit, to out[0 .. blocks / 64): they are clear then. */
void blockmap_take(struct blockmap *m, u64 first, u64 blocks, u64 *out);
/* The next run of marked blocks at or behind `from`: *first and its length, which is 0 when there is none; at most `most`. */
u64 blockmap_run(const struct blockmap *m, u64 from, u64 most, u64 *first);
void blockmap_clear(struct blockmap *m, u64 first, u64 blocks);
u64 blockmap_count(const struct blockmap *m);
/* Bytes of block `i`: less than a whole one for the last, perhaps. */
u32 blockmap_length(const struct blockmap *m, u64 i);

static inline u64 blockmap_words(const struct blockmap *m)
{
    return (m->blocks + 63) / 64;
}

#endif
