#include "base/blockmap.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

int blockmap_init(struct blockmap *m, u64 bytes)
{
    u64 blocks = bytes / BLOCKMAP_BLOCK + (bytes % BLOCKMAP_BLOCK != 0);
    if (bytes > BLOCKMAP_BYTES_MAX) {
        *m = (struct blockmap){0};
        return -EFBIG;
    }
    *m = (struct blockmap){.bits = calloc((blocks + 63) / 64 + !blocks, sizeof(u64)), .bytes = bytes, .blocks = blocks};
    if (m->bits)
        return 0;
    *m = (struct blockmap){0};
    return -ENOMEM;
}

void blockmap_free(struct blockmap *m)
{
    free(m->bits);
    *m = (struct blockmap){0};
}

/* The bits of one word that are of blocks [first, end). */
static u64 mask(u64 word, u64 first, u64 end)
{
    u64 low = first > word * 64 ? first - word * 64 : 0;
    u64 high = MIN(end - word * 64, (u64)64);
    return (high == 64 ? UINT64_MAX : (1ull << high) - 1) & ~((1ull << low) - 1);
}

void blockmap_mark(struct blockmap *m, u64 offset, u64 len)
{
    if (!m->bits || !len || offset >= m->bytes)
        return;
    u64 end = MIN(len, m->bytes - offset) + offset;
    u64 first = offset / BLOCKMAP_BLOCK, last = (end - 1) / BLOCKMAP_BLOCK;
    for (u64 w = first / 64; w <= last / 64; w++)
        m->bits[w] |= mask(w, first, last + 1);
}

void blockmap_clear(struct blockmap *m, u64 first, u64 blocks)
{
    if (!m->bits || first >= m->blocks || !blocks)
        return;
    u64 end = first + MIN(blocks, m->blocks - first);
    for (u64 w = first / 64; w <= (end - 1) / 64; w++)
        m->bits[w] &= ~mask(w, first, end);
}

bool blockmap_fits(const struct blockmap *m, u64 first, u64 blocks)
{
    u64 all = blockmap_words(m) * 64;
    return m->bits && blocks && first % 64 == 0 && blocks % 64 == 0 && first < all && blocks <= all - first;
}

void blockmap_take(struct blockmap *m, u64 first, u64 blocks, u64 *out)
{
    memcpy(out, m->bits + first / 64, blocks / 8);
    memset(m->bits + first / 64, 0, blocks / 8);
}

static bool is_set(const struct blockmap *m, u64 i)
{
    return m->bits[i / 64] >> (i % 64) & 1;
}

u64 blockmap_run(const struct blockmap *m, u64 from, u64 most, u64 *first)
{
    u64 at = m->bits ? from : m->blocks, n = 0;
    while (at < m->blocks && !is_set(m, at))
        at = at % 64 == 0 && !m->bits[at / 64] ? at + 64 : at + 1;
    while (at + n < m->blocks && n < most && is_set(m, at + n))
        n++;
    *first = at;
    return n;
}

u64 blockmap_count(const struct blockmap *m)
{
    u64 n = 0;
    for (u64 i = 0; m->bits && i < blockmap_words(m); i++)
        n += (u64)__builtin_popcountll(m->bits[i]);
    return n;
}

u32 blockmap_length(const struct blockmap *m, u64 i)
{
    return i >= m->blocks ? 0 : (u32)MIN((u64)BLOCKMAP_BLOCK, m->bytes - i * BLOCKMAP_BLOCK);
}
