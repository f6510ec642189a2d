/*
 * What steps of builds have made: a small file for each, build/HEX in the store, HEX the digest of all that went into the step.
 *
 * Only a cache: an entry that can not be read, or whose layer is gone, is none. Its layer's blob is on the disk before the entry is
 * written. Garbage collection keeps what entries name, but for `image prune`, which takes entries away whose layer no image has.
 */
#ifndef TRAPEZE_IMAGE_BUILD_CACHE_H
#define TRAPEZE_IMAGE_BUILD_CACHE_H

#include "image/image.h"

struct build_entry {
    bool has_layer;                /* false: the step changed no file */
    struct image_descriptor layer; /* of which */
    char diff_id[DIGEST_TEXT];
    char chain[DIGEST_TEXT]; /* with it on top */
    char created[32];
};

/* -ENOENT: there is none, or none of use. `key`: a SHA-256. */
int build_cache_find(const struct image_store *s, const char *key, struct build_entry *out);
int build_cache_put(const struct image_store *s, const char *key, const struct build_entry *b, struct error *e);
/* Remove those that `keep` does not want, and what is no entry. The store is open exclusively. */
int build_cache_sweep(const struct image_store *s, bool (*keep)(void *arg, const struct build_entry *b), void *arg,
                      struct error *e);

#endif
