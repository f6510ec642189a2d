/*
 * Images: this room's face. A store of blobs by digest, the layers unpacked from them, and the names that point to them.
 *
 *     DATA/trapeze/images/                     DATA: $XDG_DATA_HOME or ~/.local/share
 *         oci-layout, index.json               an OCI image layout (image-spec 1.1), for other tools as well: a row of the
 *         blobs/ALGORITHM/HEX                  index is a manifest with its full name as org.opencontainers.image.ref.name
 *         tmp/                                 blobs that are being written; NAME.part: a download to go on with
 *         layers/d/N/                          an unpacked layer in overlayfs's own form (layer.h)
 *         layers/c/HEX -> ../d/N               which one it is: by chain id. The link is what makes it exist
        layers/c/HEX.one                     the same without owners (layer.h)
 *         build/HEX                            what a step of a build has made, by what went into it (build_cache.h)
 *         lock                                 shared while something is added or used, exclusive to collect garbage
 *         index.lock                           exclusive around a change of index.json
 *
 * What must stay true
 *  1. A blob has its name only after its digest was checked and its bytes are on the disk: write to tmp, fsync, rename.
 *  2. A layer's link is made after all of the layer is on the disk. What no link names is garbage.
 *  3. A row of the index is written after all blobs that it needs are there.
 *  4. Nothing is removed but under the exclusive lock, and nothing that a row or a container needs (gc.c).
 * So who is killed anywhere leaves garbage, and never half of something.
 */
#ifndef TRAPEZE_IMAGE_IMAGE_H
#define TRAPEZE_IMAGE_IMAGE_H

#include "image/digest.h"
#include "image/reference.h"

#include <jansson.h>
#include <limits.h>

/* Bounds on what somebody's image may ask of the host. */
#define IMAGE_JSON_MAX    (4u << 20)    /* manifest, index, configuration */
#define IMAGE_LAYERS_MAX  127           /* overlayfs mounts that many at most in one page of options */
#define IMAGE_NESTING_MAX 4             /* indexes in indexes */
#define IMAGE_ENTRIES_MAX 4000000u      /* files in a layer */
#define IMAGE_BYTES_MAX   (64ull << 30) /* of a layer, unpacked */
#define IMAGE_BLOB_MAX    (64ull << 30) /* of a blob, and of all blobs of an archive */

struct image_store {
    char path[PATH_MAX];
    int dir;
    int lock;
    u64 layer_bytes_max;
    u32 layer_entries_max;
};

/* The user's data directory of Trapeze into out. */
int image_data_dir(char *out, size_t size, struct error *e);

/* `path` NULL: the user's. Made if missing. Holds the lock until closed. */
int image_store_open(struct image_store *s, const char *path, bool exclusive, struct error *e);
void image_store_close(struct image_store *s);

/* --- blobs (blob.c) --- */

struct image_descriptor {
    char type[128];
    char digest[DIGEST_TEXT];
    u64 size;
};

/* A blob in the making. */
struct ingest {
    const struct image_store *store;
    int fd;
    char name[64];              /* below tmp */
    char expected[DIGEST_TEXT]; /* "": whatever it is */
    u64 size, limit;
    struct digester digest;
};

bool image_has_blob(const struct image_store *s, const char *digest);
/* A descriptor for reading, -ENOENT. */
int image_open_blob(const struct image_store *s, const char *digest, struct error *e);
/* Is a blob there, and of its size? -ENOENT, -EBADMSG. */
int image_check_size(const struct image_store *s, const struct image_descriptor *d, struct error *e);
/* A whole small blob, NUL-terminated, its digest checked again; free it. `size` ~0: not known beforehand. */
int image_read_blob(const struct image_store *s, const char *digest, u64 size, char **text, size_t *length,
                    struct error *e);
/* Digest and size of a blob that is there, read whole: -EBADMSG when it is damaged. */
int image_check_blob(const struct image_store *s, const char *digest, struct error *e);

/* `expected` may be NULL. With `resume` what an earlier try has left is kept: in->size says how much. */
int ingest_begin(struct ingest *in, const struct image_store *s, const char *expected, u64 limit, bool resume,
                 struct error *e);
int ingest_add(struct ingest *in, const void *data, size_t size, struct error *e);
/* Forget what came: from the beginning again. */
int ingest_restart(struct ingest *in, struct error *e);
/* Check, and give it its name. `size` ~0: any. *digest may be NULL. */
int ingest_commit(struct ingest *in, u64 size, char digest[DIGEST_TEXT], struct error *e);
/* `keep`: for a later try. */
void ingest_abort(struct ingest *in, bool keep);
int image_put_blob(const struct image_store *s, const void *data, size_t size, char digest[DIGEST_TEXT],
                   struct error *e);

/* --- manifests (manifest.c) --- */

#define TYPE_OCI_MANIFEST    "application/vnd.oci.image.manifest.v1+json"
#define TYPE_OCI_INDEX       "application/vnd.oci.image.index.v1+json"
#define TYPE_OCI_CONFIG      "application/vnd.oci.image.config.v1+json"
#define TYPE_OCI_LAYER       "application/vnd.oci.image.layer.v1.tar"
#define TYPE_DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"
#define TYPE_DOCKER_INDEX    "application/vnd.docker.distribution.manifest.list.v2+json"
#define TYPE_DOCKER_CONFIG   "application/vnd.docker.container.image.v1+json"

/* What a manifest says, checked. */
struct manifest {
    struct image_descriptor config;
    struct image_descriptor layers[IMAGE_LAYERS_MAX];
    size_t n_layers;
};

/* A configuration, checked. Strings belong to `json`. */
struct image_config {
    json_t *json;
    const char *diff_ids[IMAGE_LAYERS_MAX];
    size_t n_layers;
    const char *os, *architecture, *created;
    json_t *run; /* its "config" object (image-spec, config.md), always an object */
};

bool image_type_is_index(const char *type);
bool image_type_is_manifest(const char *type);
/* How a layer of this type is packed: "", "gzip", "zstd"; NULL: no type that we know. */
const char *image_layer_packing(const char *type);

int manifest_parse(struct manifest *m, const char *text, size_t size, struct error *e);
/* Which manifest of an index is for this host. `type` is that of the text, "" if not known. */
int manifest_choose(const char *text, size_t size, struct image_descriptor *out, struct error *e);
/* What a document is by its own words: a type, or NULL. */
const char *manifest_type(json_t *j);
int image_config_parse(struct image_config *c, const char *text, size_t size, struct error *e);
void image_config_free(struct image_config *c);
/* A descriptor of JSON; `what` names where. */
int image_descriptor_parse(struct image_descriptor *d, json_t *j, const char *what, struct error *e);
json_t *image_descriptor_json(const struct image_descriptor *d);

/* Parse hostile text: bounded, no duplicate keys; an object. */
json_t *image_json(const char *text, size_t size, const char *what, struct error *e);

/* --- images (index.c) --- */

/* An image of the store: manifest and configuration, read and checked. */
struct image {
    char name[REFERENCE_TEXT];   /* full, or "" */
    struct image_descriptor top; /* manifest */
    struct manifest manifest;
    struct image_config config;
};

/*
 * Find by name, id (digest of the configuration, or a beginning of it that only one image has), or manifest digest. -ENOENT
 * with advice. Free with image_free.
 */
int image_find(const struct image_store *s, const char *name, struct image *out, struct error *e);
void image_free(struct image *i);
/* Read the image of a manifest. */
int image_read(const struct image_store *s, const struct image_descriptor *top, struct image *out, struct error *e);

/* Give a name to a manifest (NULL name: only keep it). A name that was another image's leaves that one without. */
int image_tag(const struct image_store *s, const char *name, const struct image_descriptor *top, struct error *e);
/* Take a full name away; the image goes with garbage collection. */
int image_untag(const struct image_store *s, const char *name, struct error *e);
/* Take all names of a manifest away. */
int image_forget(const struct image_store *s, const char *digest, struct error *e);
/* Rows of the index: [{name, digest, size, ..}], with what the configurations say. A new reference. */
json_t *image_list(const struct image_store *s, struct error *e);
/* The index as it is. A new reference. */
json_t *image_index(const struct image_store *s, struct error *e);

/* Make manifest and configuration of layers that are there, and name it. `config` is borrowed. */
int image_make(const struct image_store *s, const char *name, json_t *config, const struct image_descriptor *layers,
               size_t n, struct image_descriptor *top, struct error *e);

/* --- garbage (gc.c) --- */

struct image_gc {
    u64 blobs, layers, bytes; /* removed */
};
/*
 * Remove what nothing needs. The store is open exclusively. `chains`: chain ids that containers use, beside those of images.
 * `partial`: unfinished downloads, and the cache of builds, as well.
 */
int image_collect(const struct image_store *s, const char *const *chains, size_t n, bool partial, struct image_gc *out,
                  struct error *e);
/* Every blob of every row there, with the digest that it says. */
int image_verify(const struct image_store *s, struct error *e);

/* --- archives (load.c, save.c) --- */

/* A docker-archive or oci-archive, by what is in it, plain or packed. `emit` gets the full names of what was loaded. */
int image_load(const struct image_store *s, int fd, void (*emit)(void *arg, const char *name), void *arg,
               struct error *e);
/* `docker`: as docker save does, else an OCI layout. Written as a tar to fd. */
int image_save(const struct image_store *s, const struct image *const *images, size_t n, bool docker, int fd,
               struct error *e);
/* A plain root file system as an image of one layer. `changes` may be NULL: members of "config". */
int image_import(const struct image_store *s, int fd, const char *name, json_t *changes, struct image_descriptor *top,
                 struct error *e);

#endif
