#include "migrate/digest.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define XXH_INLINE_ALL
#include <xxhash.h>

u64 page_sum(const void *page)
{
    return XXH3_64bits(page, PAGE_SIZE);
}

u64 block_sum(const void *block)
{
    return XXH3_64bits(block, BLOCKMAP_BLOCK);
}

static int init(struct page_sums *s, u64 n, u64 zero, const char *what, struct error *e)
{
    s->n = n;
    s->zero = zero;
    s->sum = malloc(n * sizeof(*s->sum));
    if (!s->sum)
        return error_set(e, ENOMEM, "sums of %llu %s: out of memory", (unsigned long long)n, what);
    sums_note(s, 0, n, NULL);
    return 0;
}

int sums_init(struct page_sums *s, u64 n, struct error *e)
{
    static const u8 zeros[PAGE_SIZE];
    return init(s, n, page_sum(zeros), "pages", e);
}

int sums_init_blocks(struct page_sums *s, u64 n, struct error *e)
{
    static const u8 zeros[BLOCKMAP_BLOCK];
    return init(s, n, block_sum(zeros), "blocks", e);
}

void sums_free(struct page_sums *s)
{
    free(s->sum);
    *s = (struct page_sums){0};
}

void sums_note(struct page_sums *s, u64 first, u64 n, const void *pages)
{
    for (u64 i = 0; i < n; i++)
        s->sum[first + i] = pages ? page_sum((const u8 *)pages + i * PAGE_SIZE) : s->zero;
}

void sums_digest(const struct page_sums *s, u8 out[DIGEST_LEN])
{
    XXH128_canonical_t c;
    XXH128_canonicalFromHash(&c, XXH3_128bits(s->sum, s->n * sizeof(*s->sum)));
    memcpy(out, c.digest, DIGEST_LEN);
}

bool page_is_zero(const void *page)
{
    const u64 *p = page;
    for (unsigned i = 0; i < PAGE_SIZE / 8; i += 8)
        if (p[i] | p[i + 1] | p[i + 2] | p[i + 3] | p[i + 4] | p[i + 5] | p[i + 6] | p[i + 7])
            return false;
    return true;
}

int digest_fd(int fd, u64 *sum, struct error *e)
{
    u8 buf[32768];
    ssize_t n;
    XXH3_state_t *s = XXH3_createState();
    if (!s)
        return error_set(e, ENOMEM, "digest: out of memory");
    XXH3_64bits_reset(s);
    while ((n = read(fd, buf, sizeof(buf))) > 0)
        XXH3_64bits_update(s, buf, (size_t)n);
    *sum = XXH3_64bits_digest(s);
    XXH3_freeState(s);
    return n < 0 ? error_set(e, errno, "file: cannot be read: %s", strerror(errno)) : 0;
}
