/* Options of a mount, sorted by who takes them: the mount, its propagation, the superblock, the file system. */
#ifndef TRAPEZE_CONTAINER_MOUNT_OPTION_H
#define TRAPEZE_CONTAINER_MOUNT_OPTION_H

#include "container/spec.h"

struct mount_options {
    u64 set, clear;                     /* MOUNT_ATTR_* of the mount itself */
    u64 recursive_set, recursive_clear; /* .. of it and all below */
    u64 propagation;                    /* MS_SHARED, .. or 0 */
    bool propagation_recursive;
    bool bind, recursive; /* bind; rbind */
    bool remount;
    bool idmap, idmap_recursive;
    bool copy_up;
    bool copy_symlink;
    struct strings superblock; /* flags of the superblock: "sync", "lazytime", .. */
    struct strings data;       /* for the file system: "size=64k", "newinstance", .. */
};

/* Sort m's options. 0, or -errno with `e` naming the mount. Arrays come from `arena`. */
int mount_options_sort(struct mount_options *o, const struct spec_mount *m, struct arena *arena, struct error *e);

/* The words there are, for `features`; NULL after the last. */
const char *mount_option_name(size_t i);

#endif
