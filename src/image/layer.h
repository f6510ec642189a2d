/*
 * Layers: a tar of changes (image-spec, layer.md) as a directory that overlayfs can mount, and back.
 *
 * A layer is known by its chain id: the digest of all diff ids up to it (config.md). The same changes above another layer are
 * another directory, because directories that the tar does not name take their attributes from below.
 */
#ifndef TRAPEZE_IMAGE_LAYER_H
#define TRAPEZE_IMAGE_LAYER_H

#include "image/image.h"

/* The chain id of `diff_id` above `chain` ("": none), into `chain`. */
void layer_chain(char chain[DIGEST_TEXT], const char *diff_id);

/* Behind the chain id of a layer that was unpacked by somebody with one user number only: all in it is his. */
#define LAYER_ONE_OWNER ".one"

/* Number N of the directory layers/d/N of a chain, -ENOENT. */
int layer_find(const struct image_store *s, const char *chain);

/*
 * Unpack all layers of an image that are not there yet. `out` gets the directories' numbers, lowest first; `chains` the ids.
 * Either may be NULL. Checks digests of what is packed and what is unpacked. -EOPNOTSUPP: the
 * store's file system can not hold layers for overlayfs.
 */
int layer_unpack_all(const struct image_store *s, const struct image *i, u32 out[IMAGE_LAYERS_MAX],
                     char (*chains)[DIGEST_TEXT], struct error *e);

/*
 * Unpack one tar (packed or not) from `fd` into an empty directory (`merge`: or onto the layers below it). `lower`: directories below it, topmost first. diff_id
 * gets the digest of the tar, by the algorithm of the digest that it holds before ("": SHA-256).
 */
struct layer_input {
    int fd;
    const int *lower;
    size_t n_lower;
    u64 bytes_max;
    u32 entries_max;
    bool merge; /* onto what is in the directory already: whiteouts remove */
    bool plain; /* a root file system: whiteouts are names like others */
};
int layer_unpack(int root, const struct layer_input *in, char diff_id[DIGEST_TEXT], struct error *e);

/* What overlayfs calls its mark of an opaque directory: it differs in user namespaces. */
const char *layer_opaque_name(void);

/*
 * Write a directory as a tar, gzipped if `packed`, into a blob. `changes`: it is an overlayfs upper directory, its marks
 * become whiteouts. `without`: paths that are left out when they are empty, NULL at the end; may be NULL. Returns descriptor and
 * diff id.
 */
int layer_pack(const struct image_store *s, int dir, bool changes, const char *const *without,
               struct image_descriptor *out, char diff_id[DIGEST_TEXT], struct error *e);
/* The same as a plain tar to a descriptor: `export`, `cp`. `name`: only that below it. */
int layer_export(int dir, const char *name, int fd, struct error *e);

#endif
