/*
 * Mounts of type cgroup: the container's part of the hierarchies of the host. With a cgroup namespace the kernel shows that
 * part by itself; without one the directory of the container is bound, so that it sees nothing above it.
 */
#include "container/inroot.h"
#include "container/rootfs.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

/* Names of the directory: "cpu,cpuacct", "systemd" for "name=systemd", "unified" for version 2 beside version 1. */
static const char *directory_name(const struct cgroup_hierarchy *h)
{
    if (h->v2)
        return "unified";
    return strncmp(h->controllers, "name=", 5) ? h->controllers : h->controllers + 5;
}

static int bind_own(const struct cgroup_hierarchy *h, struct error *e)
{
    char path[sizeof(h->mount) + sizeof(h->path)];
    snprintf(path, sizeof(path), "%s%s", h->mount, h->used ? h->path : h->own);
    int fd = open_tree(AT_FDCWD, path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    return fd < 0 ? sys_error(e, "mount of cgroup: %s", path) : fd;
}

static int hierarchy_tree(const struct rootfs *r, const struct cgroup_hierarchy *h, u64 attributes, struct error *e)
{
    /* "cpu,cpuacct" is two options. */
    char options[sizeof(h->controllers)], *data[8], *rest = options;
    struct strings list = {data, 0};
    int fd = -1;
    if (spec_namespace(r->spec, CLONE_NEWCGROUP)) {
        snprintf(options, sizeof(options), "%s", h->controllers);
        for (char *one; !h->v2 && list.n < ARRAY_LEN(data) && (one = strsep(&rest, ","));)
            data[list.n++] = one;
        fd = rootfs_new(h->v2 ? "cgroup2" : "cgroup", "cgroup", &list, NULL, attributes, NULL, NULL);
    }
    if (fd < 0) {
        fd = bind_own(h, e);
        if (fd >= 0 && rootfs_set(fd, attributes, 0, 0, true) < 0) {
            close(fd);
            return error_set(e, EINVAL, "mount of cgroup: options are refused");
        }
    }
    return fd;
}

static int attach_at(struct rootfs *r, const char *path, int tree, struct error *e)
{
    CLEANUP_FD int target = inroot_make(r->root, path, true, e);
    return target < 0 ? target : rootfs_attach(tree, target, path, e);
}

/* Below the tmpfs, which is new: nobody has put a link there. */
static int attach_below(int top, const char *name, int tree, struct error *e)
{
    if (mkdirat(top, name, 0755) < 0)
        return sys_error(e, "mount of cgroup: %s", name);
    CLEANUP_FD int target = openat(top, name, O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return target < 0 ? sys_error(e, "mount of cgroup: %s", name) : rootfs_attach(tree, target, name, e);
}

/* A link for each controller of a joint hierarchy: cpu -> cpu,cpuacct. */
static int link_names(int dir, const char *joint, struct error *e)
{
    char names[80], *rest = names;
    if (!strchr(joint, ','))
        return 0;
    snprintf(names, sizeof(names), "%s", joint);
    for (char *one; (one = strsep(&rest, ","));)
        if (symlinkat(joint, dir, one) < 0 && errno != EEXIST)
            return sys_error(e, "mount of cgroup: link %s", one);
    return 0;
}

static int mount_unified(struct rootfs *r, const struct spec_mount *m, u64 attributes, struct error *e)
{
    CLEANUP_FD int tree = hierarchy_tree(r, &r->cgroup->h[0], attributes, e);
    return tree < 0 ? tree : attach_at(r, m->destination, tree, e);
}

int rootfs_cgroup(struct rootfs *r, const struct spec_mount *m, u64 attributes, struct error *e)
{
    char *mode[] = {"mode=755", NULL};
    struct strings data = {mode, 1};
    const struct cgroup *g = r->cgroup;
    /* Who shares the host's cgroup namespace and has no privilege there sees what he may not change: read-only. */
    if (g->rootless && !spec_namespace(r->spec, CLONE_NEWCGROUP))
        attributes |= MOUNT_ATTR_RDONLY;
    if (g->unified)
        return mount_unified(r, m, attributes, e);
    CLEANUP_FD int top =
        rootfs_new("tmpfs", "cgroup", &data, NULL, attributes & ~(u64)MOUNT_ATTR_RDONLY, r->spec->mount_label, e);
    if (top < 0)
        return top;
    int bad = attach_at(r, m->destination, top, e);
    for (size_t i = 0; i < g->n && bad == 0; i++) {
        const char *name = directory_name(&g->h[i]);
        CLEANUP_FD int tree = hierarchy_tree(r, &g->h[i], attributes, e);
        bad = tree < 0 ? tree : attach_below(top, name, tree, e);
        if (bad == 0 && !g->h[i].v2)
            bad = link_names(top, name, e);
    }
    if (bad == 0 && attributes & MOUNT_ATTR_RDONLY)
        r->late_readonly[r->n_late++] = sys_take(&top);
    return bad;
}
