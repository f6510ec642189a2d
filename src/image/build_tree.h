/*
 * Files from somebody's tree into a root, and their digest: COPY and ADD.
 *
 * Both trees may be hostile, and their links lead anywhere: every name is looked up by the kernel below its root
 * (container/inroot.h), what is opened is what was looked at, and what is made is made as one name below a directory found so.
 *
 * One walk does both jobs, so the digest is that of exactly the bytes that were copied: first without a root, to ask the cache,
 * then with one. It covers names, kinds, modes, link targets and bytes (and owners where these are kept), not times.
 */
#ifndef TRAPEZE_IMAGE_BUILD_TREE_H
#define TRAPEZE_IMAGE_BUILD_TREE_H

#include "image/build_pattern.h"
#include "image/image.h"

#include <sys/types.h>

/* Where it is copied from. */
struct build_source {
    int root;                          /* a directory */
    const struct build_ignore *ignore; /* NULL: everything is there */
    dev_t without_dev;                 /* a directory that is passed over: where the store works */
    ino_t without_ino;
    bool owners; /* an image's: owners, devices and attributes are kept; else all belongs to root */
};

struct build_copy {
    struct build_source from;
    int to;       /* a root, -1: only the digest */
    bool extract; /* archives are unpacked (ADD) */
    bool chown;   /* to uid and gid */
    u32 uid, gid;
    s32 mode; /* --chmod; -1: as it is */
    u64 bytes_max;
    u32 entries_max;
    struct digester digest; /* begun by the caller */
    u64 bytes;              /* in and out: so far */
    u32 entries;
};

/*
 * Copy what `sources` name (patterns too) to `target`, a path of the root; with a "/" at its end, or with several sources, it is a
 * directory. -ENOENT: a name or pattern stands for nothing.
 */
int build_copy(struct build_copy *c, char *const *sources, size_t n, const char *target, struct error *e);

/* One file with this text, of a here-document. */
int build_copy_text(struct build_copy *c, const char *name, const char *text, const char *target, bool directory,
                    struct error *e);

/* Is it a tar, plain or packed as ADD unpacks it? Its position does not change. */
bool build_is_archive(int fd);

#endif
