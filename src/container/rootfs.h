/* A container's file system: what it sees at "/", from a directory and a list of mounts. */
#ifndef TRAPEZE_CONTAINER_ROOTFS_H
#define TRAPEZE_CONTAINER_ROOTFS_H

#include "container/cgroup.h"
#include "container/spec.h"

struct rootfs {
    const struct spec *spec;
    const struct cgroup *cgroup;
    struct arena *arena;
    const char *path;    /* of the root, absolute */
    bool user_namespace; /* the container is in one that is not the host's: no mknod */
    int root_tree;       /* the root as a detached tree made by the parent, or -1 */
    int *trees;          /* the same for each mount, -1: made inside */
    int root;            /* inside: the root's mount */
    int devpts;          /* inside: the root of its devpts, or -1 */
    int null;            /* inside: the host's /dev/null */
    int *late_readonly;  /* inside: mounts to become read-only at the end */
    size_t n_late;
};

/*
 * In the parent, with the host's privileges: what the process inside will not be able to make itself (sources below
 * directories closed to it, id-mapped mounts). `maps_pid`: unused when 0. 0 or -errno with `e`.
 */
int rootfs_prepare(struct rootfs *r, struct error *e);
void rootfs_close(struct rootfs *r);

/* Inside, in the new mount namespace: mount everything below the root, which is not yet "/". */
int rootfs_build(struct rootfs *r, struct error *e);
/* Inside, after that: masked and read-only paths, then make it "/" and let the host's tree go. */
int rootfs_enter(struct rootfs *r, bool pivot, struct error *e);
/* Bind the terminal `slave` to /dev/console. Before rootfs_enter. */
int rootfs_console(struct rootfs *r, int slave, struct error *e);

/* --- parts, for rootfs_*.c --- */

/* device.c: nodes and links in /dev. */
int rootfs_devices(struct rootfs *r, struct error *e);
/* rootfs_cgroup.c: a mount of type cgroup at `target` (a path inside). */
int rootfs_cgroup(struct rootfs *r, const struct spec_mount *m, u64 attributes, struct error *e);
/* rootfs_copy.c: copy what is below the directory `from` to the directory `to`. */
int rootfs_copy_up(int from, int to, int depth, struct error *e);
/* Attach a detached tree to the file or directory `target`. */
int rootfs_attach(int tree, int target, const char *name, struct error *e);
/* A new file system, detached. */
int rootfs_new(const char *type, const char *source, const struct strings *data, const struct strings *superblock,
               u64 attributes, const char *label, struct error *e);
int rootfs_set(int tree, u64 set, u64 clear, u64 propagation, bool recursive);

#endif
