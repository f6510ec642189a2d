/*
 * /dev: nodes, and the links every container has. Made below a directory that was looked up inside the root; what is there
 * already must be the device itself, or the container is refused: never is a node of the host touched.
 */
#include "container/inroot.h"
#include "container/rootfs.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <unistd.h>

static const struct spec_device default_devices[] = {
    {.type = 'c', .path = "/dev/null", .major = 1, .minor = 3, .mode = 0666},
    {.type = 'c', .path = "/dev/zero", .major = 1, .minor = 5, .mode = 0666},
    {.type = 'c', .path = "/dev/full", .major = 1, .minor = 7, .mode = 0666},
    {.type = 'c', .path = "/dev/random", .major = 1, .minor = 8, .mode = 0666},
    {.type = 'c', .path = "/dev/urandom", .major = 1, .minor = 9, .mode = 0666},
    {.type = 'c', .path = "/dev/tty", .major = 5, .minor = 0, .mode = 0666},
};

static mode_t type_bits(char type)
{
    return type == 'b' ? S_IFBLK : type == 'p' ? S_IFIFO : S_IFCHR;
}

static bool is_device(const struct stat *st, const struct spec_device *d)
{
    return (st->st_mode & S_IFMT) == type_bits(d->type) &&
           (d->type == 'p' || st->st_rdev == makedev(d->major, d->minor));
}

/* In a user namespace nobody makes nodes: the host's is bound into place, if it is the one that was asked for. */
static int bind_device(int parent, const char *name, const struct spec_device *d, struct error *e)
{
    struct stat st;
    CLEANUP_FD int tree = open_tree(AT_FDCWD, d->path, OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_SYMLINK_NOFOLLOW);
    if (tree < 0 || fstat(tree, &st) < 0)
        return sys_error(e, "device %s of the host", d->path);
    if (!is_device(&st, d))
        return error_set(e, ENODEV, "device %s of the host: is not %c %u:%u", d->path, d->type, d->major, d->minor);
    int fd = openat(parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0666);
    if (fd < 0 && errno != EEXIST)
        return sys_error(e, "device %s", d->path);
    if (fd >= 0)
        close(fd);
    CLEANUP_FD int target = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (target < 0 || fstat(target, &st) < 0)
        return sys_error(e, "device %s", d->path);
    if (S_ISLNK(st.st_mode) || S_ISDIR(st.st_mode))
        return error_set(e, EEXIST, "device %s: the image has something else there: refused", d->path);
    return rootfs_attach(tree, target, d->path, e);
}

static int make_device(struct rootfs *r, const struct spec_device *d, struct error *e)
{
    const char *name;
    struct stat st;
    CLEANUP_FD int parent = inroot_parent(r->root, d->path, &name, e);
    if (parent < 0)
        return parent;
    bool there = fstatat(parent, name, &st, AT_SYMLINK_NOFOLLOW) == 0;
    if (there && is_device(&st, d))
        return 0;
    if (r->user_namespace && d->type != 'p')
        return bind_device(parent, name, d, e);
    if (there && S_ISREG(st.st_mode) && d->type != 'p') /* an image made without privileges */
        return bind_device(parent, name, d, e);
    if (there)
        return error_set(e, EEXIST, "device %s: the image has something else there: refused", d->path);
    mode_t mask = umask(0);
    int made = mknodat(parent, name, type_bits(d->type) | d->mode, d->type == 'p' ? 0 : makedev(d->major, d->minor));
    int failed = errno;
    umask(mask);
    if (made < 0 && failed == EPERM && d->type != 'p')
        return bind_device(parent, name, d, e);
    errno = failed;
    if (made < 0)
        return sys_error(e, "device %s", d->path);
    if ((d->uid || d->gid) && fchownat(parent, name, d->uid, d->gid, AT_SYMLINK_NOFOLLOW) < 0)
        return sys_error(e, "device %s: its owner", d->path);
    return 0;
}

/* Whether the configuration itself brings a /dev of the host: then nothing is made in it. */
static bool dev_is_bound(const struct spec *s)
{
    bool bound = false;
    for (size_t i = 0; i < s->n_mounts; i++) {
        const struct spec_mount *m = &s->mounts[i];
        if (strcmp(m->destination, "/dev") && strcmp(m->destination, "/dev/"))
            continue;
        bound = m->type && !strcmp(m->type, "bind");
        for (size_t k = 0; k < m->options.n; k++)
            bound |= !strcmp(m->options.v[k], "bind") || !strcmp(m->options.v[k], "rbind");
    }
    return bound;
}

static int make_links(struct rootfs *r, struct error *e)
{
    static const char *const links[][2] = {
        {"/proc/self/fd", "fd"},       {"/proc/self/fd/0", "stdin"}, {"/proc/self/fd/1", "stdout"},
        {"/proc/self/fd/2", "stderr"}, {"/proc/kcore", "core"},      {"pts/ptmx", "ptmx"},
    };
    CLEANUP_FD int dev = inroot_make(r->root, "/dev", true, e);
    if (dev < 0)
        return dev;
    for (size_t i = 0; i < ARRAY_LEN(links); i++) {
        if (!strcmp(links[i][1], "ptmx") && r->devpts < 0)
            continue;
        if (symlinkat(links[i][0], dev, links[i][1]) < 0 && errno != EEXIST)
            return sys_error(e, "/dev/%s", links[i][1]);
    }
    return 0;
}

int rootfs_devices(struct rootfs *r, struct error *e)
{
    int bad = 0;
    bool bound = dev_is_bound(r->spec);
    for (size_t i = 0; i < ARRAY_LEN(default_devices) && bad == 0 && !bound; i++)
        bad = make_device(r, &default_devices[i], e);
    for (size_t i = 0; i < r->spec->n_devices && bad == 0; i++)
        bad = make_device(r, &r->spec->devices[i], e);
    if (bad == 0 && !bound)
        bad = make_links(r, e);
    return bad;
}
