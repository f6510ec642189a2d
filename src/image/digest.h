/* Digests as images write them, "sha256:HEX" or "sha512:HEX" (image-spec 1.1, descriptor.md). By nettle. */
#ifndef TRAPEZE_IMAGE_DIGEST_H
#define TRAPEZE_IMAGE_DIGEST_H

#include "base/error.h"
#include "base/types.h"

#include <nettle/sha2.h>

#define DIGEST_TEXT 136 /* "sha512:", 128 digits, 0 */

struct digester {
    bool wide; /* SHA-512 */
    union {
        struct sha256_ctx narrow;
        struct sha512_ctx wide;
    } ctx;
};

/* Whether `text` is a digest that we can check: algorithm, length, lower case. Safe as a file name afterwards. */
bool digest_valid(const char *text);
/* -EINVAL with `e` when it is not. `what` names where it stood. */
int digest_check(const char *text, const char *what, struct error *e);
/* "sha256/HEX": the path of a blob. `text` is valid. */
const char *digest_path(const char *text, char out[DIGEST_TEXT]);

/* `like`: a digest whose algorithm is to be used, NULL: SHA-256. */
void digester_begin(struct digester *d, const char *like);
void digester_add(struct digester *d, const void *data, size_t size);
void digester_end(struct digester *d, char out[DIGEST_TEXT]);

/* All at once, SHA-256. */
void digest_of(const void *data, size_t size, char out[DIGEST_TEXT]);

#endif
