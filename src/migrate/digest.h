/*
 * What makes two memories the same: a sum of each page, and one digest over all sums.
 *
 *   sum of a page  = XXH3_64bits of its 4096 bytes
 *   digest         = XXH3_128bits of the sums, 8 bytes each, little-endian, in the order of the pages; in canonical form
 *
 * Sums follow the pages as they are sent or received, so the digest of a memory costs what its table of sums does, and no second
 * look at the pages. It tells errors, not attackers: who could change a page on its way is kept out by TLS.
 * (XXH3: https://github.com/Cyan4973/xxHash, doc/xxhash_spec.md)
 */
#ifndef TRAPEZE_MIGRATE_DIGEST_H
#define TRAPEZE_MIGRATE_DIGEST_H

#include "base/blockmap.h"
#include "base/error.h"
#include "base/types.h"

#define DIGEST_LEN 16u

struct page_sums {
    u64 *sum; /* of each page */
    u64 n;
    u64 zero; /* that of a page of zeros, which all pages begin as */
};

/* The sums of `n` pages of zeros. 0 or -ENOMEM; free with sums_free. */
int sums_init(struct page_sums *s, u64 n, struct error *e);
void sums_free(struct page_sums *s);
/* The same of a disk's blocks (base/blockmap.h), the last one filled up with zeros; what `sum` has is set by the caller. */
int sums_init_blocks(struct page_sums *s, u64 n, struct error *e);
u64 block_sum(const void *block);
/* Pages [first, first + n) are now what `pages` is; NULL: zeros. They must be in range. */
void sums_note(struct page_sums *s, u64 first, u64 n, const void *pages);
void sums_digest(const struct page_sums *s, u8 out[DIGEST_LEN]);

/* The sum of one page. */
u64 page_sum(const void *page);

/* XXH3_64bits of what can be read from `fd`, to its end. 0 or -errno. */
int digest_fd(int fd, u64 *sum, struct error *e);

/* Whether a page is all zeros. */
bool page_is_zero(const void *page);

#endif
