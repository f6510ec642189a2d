/*
 * Theory of operation.
 *
 * A mount is made as a detached tree first: open_tree(OPEN_TREE_CLONE) for a bind, fsopen .. fsmount for a new file system.
 * Attributes (read-only, nosuid, id map, propagation) are set on the tree while nobody can see it. Then its target is looked
 * up inside the root (inroot.h), and the tree is attached to exactly the file or directory that was found: move_mount by
 * descriptor, no path is walked twice. So there is no moment at which somebody who swaps a directory for a symbolic link,
 * from another container that shares a volume, could make us mount elsewhere, and no moment at which a read-only mount is
 * writable.
 *
 * The root itself is cloned and attached on top of "/" of the new mount namespace (what "/" means for the process does not
 * change by that), worked on through its descriptor, and becomes "/" by pivot_root(".", ".") at the end.
 *
 * What must stay true:
 *  1. No function here takes a path inside the container but through inroot.h.
 *  2. /proc and /sys are mounted on real directories of the root only, never through a symbolic link; what is masked or made
 *     read-only below them is found without following any.
 *  3. Nothing is mounted on a file of procfs, but for the few that show usage of resources (lxcfs).
 *  4. A tree is attached only after all its attributes are set. tmpfs that are to be read-only are the exception: what goes
 *     into them has to be made first, and no process of the container runs yet.
 */
#include "container/rootfs.h"
#include "container/idmap.h"
#include "container/inroot.h"
#include "container/mount_option.h"
#include "container/procfs.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/sysmacros.h>
#include <sys/vfs.h>
#include <unistd.h>

#define STRING_MAX_OF_FSCONFIG 255

int rootfs_set(int tree, u64 set, u64 clear, u64 propagation, bool recursive)
{
    struct mount_attr attr = {.attr_set = set, .attr_clr = clear, .propagation = propagation};
    if (!set && !clear && !propagation)
        return 0;
    return mount_setattr(tree, "", AT_EMPTY_PATH | (recursive ? AT_RECURSIVE : 0), &attr, sizeof(attr)) < 0 ? -errno
                                                                                                            : 0;
}

int rootfs_attach(int tree, int target, const char *name, struct error *e)
{
    if (move_mount(tree, "", target, "", MOVE_MOUNT_F_EMPTY_PATH | MOVE_MOUNT_T_EMPTY_PATH) < 0)
        return sys_error(e, "mount %s: attaching it", name);
    return 0;
}

/* --- new file systems --- */

/* What the kernel has to say about a failure: "e tmpfs: Bad value for 'size'". */
static int new_failed(int fs, const char *type, const char *what, struct error *e)
{
    char log[160];
    int code = errno;
    ssize_t n = read(fs, log, sizeof(log) - 1);
    log[n > 0 ? n : 0] = 0;
    return error_set(e, code, "file system %s: %.60s: %s%s%.120s", type, what, strerror(code), n > 2 ? ": " : "",
                     n > 2 ? log + 2 : "");
}

static int set_option(int fs, const char *option)
{
    const char *equals = strchr(option, '=');
    char key[64];
    if (!equals)
        return fsconfig(fs, FSCONFIG_SET_FLAG, option, NULL, 0);
    if (snprintf(key, sizeof(key), "%.*s", (int)(equals - option), option) >= (int)sizeof(key)) {
        errno = EINVAL;
        return -1;
    }
    return fsconfig(fs, FSCONFIG_SET_STRING, key, equals + 1, 0);
}

int rootfs_new(const char *type, const char *source, const struct strings *data, const struct strings *superblock,
               u64 attributes, const char *label, struct error *e)
{
    CLEANUP_FD int fs = fsopen(type, FSOPEN_CLOEXEC);
    if (fs < 0)
        return sys_error(e, "file system %s", type);
    if (source && *source && fsconfig(fs, FSCONFIG_SET_STRING, "source", source, 0) < 0)
        return new_failed(fs, type, source, e);
    for (size_t i = 0; data && i < data->n; i++)
        if (set_option(fs, data->v[i]) < 0)
            return new_failed(fs, type, data->v[i], e);
    for (size_t i = 0; superblock && i < superblock->n; i++)
        if (fsconfig(fs, FSCONFIG_SET_FLAG, superblock->v[i], NULL, 0) < 0)
            return new_failed(fs, type, superblock->v[i], e);
    /* A device that is to be read-only is so as a whole: its file system must not replay a journal. */
    if (source && source[0] == '/' && attributes & MOUNT_ATTR_RDONLY)
        fsconfig(fs, FSCONFIG_SET_FLAG, "ro", NULL, 0);
    if (label && *label && fsconfig(fs, FSCONFIG_SET_STRING, "context", label, 0) < 0)
        return new_failed(fs, type, "context", e);
    if (fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) < 0)
        return new_failed(fs, type, "creating it", e);
    int fd = fsmount(fs, FSMOUNT_CLOEXEC, (unsigned)attributes);
    return fd < 0 ? new_failed(fs, type, "mounting it", e) : fd;
}

static bool needs_old_mount(const struct mount_options *o)
{
    for (size_t i = 0; i < o->data.n; i++)
        if (strlen(o->data.v[i]) > STRING_MAX_OF_FSCONFIG)
            return true;
    return false;
}

/* Options longer than fsconfig takes (overlay with many layers): mount(2) on the directory's descriptor. */
static int old_mount(struct rootfs *r, const struct spec_mount *m, const struct mount_options *o, int target,
                     struct error *e)
{
    char at[SYS_FD_PATH], *data = arena_format(r->arena, "%s", o->data.n ? o->data.v[0] : "");
    for (size_t i = 1; i < o->data.n && data; i++)
        data = arena_format(r->arena, "%s,%s", data, o->data.v[i]);
    if (!data)
        return error_set(e, ENOMEM, "mount %s: out of memory", m->destination);
    if (mount(m->source, sys_fd_path(target, at), m->type, 0, data) < 0)
        return sys_error(e, "mount %s", m->destination);
    CLEANUP_FD int fd = inroot_open(r->root, m->destination, 0);
    if (fd < 0 || rootfs_set(fd, o->set, o->clear, 0, false) < 0)
        return sys_error(e, "mount %s: its options", m->destination);
    return 0;
}

/* --- binds --- */

static int clone_tree(int dir, const char *path, bool recursive)
{
    unsigned flags = OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH;
    int fd = open_tree(dir, path, flags | (recursive ? AT_RECURSIVE : 0));
    /* Where mounts of a more privileged namespace lie below, they can not be left out. */
    if (fd < 0 && errno == EINVAL && !recursive)
        fd = open_tree(dir, path, flags | AT_RECURSIVE);
    return fd;
}

static const char *source_path(const struct rootfs *r, const struct spec_mount *m)
{
    /* Relative sources are relative to the bundle, which is the working directory. */
    return m->source && *m->source ? m->source : r->path;
}

static int bind_tree(struct rootfs *r, size_t i, const struct mount_options *o, struct error *e)
{
    const struct spec_mount *m = &r->spec->mounts[i];
    if (r->trees[i] >= 0)
        return sys_take(&r->trees[i]);
    int fd = clone_tree(AT_FDCWD, source_path(r, m), o->recursive);
    return fd < 0 ? sys_error(e, "mount %s: its source %s", m->destination, source_path(r, m)) : fd;
}

/* --- targets --- */

static bool starts(const char *path, const char *dir)
{
    size_t n = strlen(dir);
    return !strncmp(path, dir, n) && (path[n] == '/' || !path[n]);
}

/* Rule 3. */
static bool allowed_on_procfs(const char *destination)
{
    static const char *const files[] = {
        "/proc/cpuinfo",
        "/proc/diskstats",
        "/proc/meminfo",
        "/proc/stat",
        "/proc/swaps",
        "/proc/uptime",
        "/proc/loadavg",
        "/proc/slabinfo",
        "/proc/net/dev",
        "/proc/sys/kernel/ns_last_pid",
        "/proc/sys/crypto/fips_enabled",
    };
    for (size_t i = 0; i < ARRAY_LEN(files); i++)
        if (!strcmp(files[i], destination))
            return true;
    return false;
}

static bool is_root_of_procfs(int fd)
{
    struct stat st;
    return procfs_is(fd) && fstat(fd, &st) == 0 && st.st_ino == 1; /* PROC_ROOT_INO */
}

/* Rule 2: the way to `path` without any symbolic link, as an O_PATH descriptor or -1. */
static int open_plain(const struct rootfs *r, const char *path)
{
    while (*path == '/')
        path++;
    return sys_openat2(r->root, path, O_PATH, 0, RESOLVE_IN_ROOT | RESOLVE_NO_SYMLINKS);
}

/* Where the mount goes: an O_PATH descriptor of what is there, made if missing. */
static int open_target(struct rootfs *r, const struct spec_mount *m, bool directory, bool kernel_fs, struct error *e)
{
    CLEANUP_FD int fd = inroot_make(r->root, m->destination, directory, e);
    if (fd < 0) {
        error_prefix(e, "mount %s", m->destination);
        return fd;
    }
    if (kernel_fs || starts(m->destination, "/proc") || !strcmp(m->destination, "/sys")) {
        CLEANUP_FD int plain = open_plain(r, m->destination);
        if (plain < 0 && (errno == ELOOP || kernel_fs))
            return error_set(e, ELOOP, "mount %s: is reached through a symbolic link in the image: refused",
                             m->destination);
    }
    if (procfs_is(fd) && !is_root_of_procfs(fd) && !allowed_on_procfs(m->destination))
        return error_set(e, EPERM, "mount %s: would hide a file of /proc: refused", m->destination);
    return sys_take(&fd);
}

static bool is_directory(int fd)
{
    struct stat st;
    return fstat(fd, &st) == 0 && S_ISDIR(st.st_mode);
}

/* Set what the options say on the detached tree. */
static int set_options(int tree, const struct spec_mount *m, const struct mount_options *o, bool fresh, struct error *e)
{
    u64 propagation = o->propagation;
    int r = fresh ? 0 : rootfs_set(tree, o->set, o->clear, 0, false);
    if (r == 0)
        r = rootfs_set(tree, o->recursive_set, o->recursive_clear, 0, true);
    if (r == 0)
        r = rootfs_set(tree, 0, 0, propagation, o->propagation_recursive);
    return r < 0 ? error_set(e, -r, "mount %s: setting its options: %s", m->destination, strerror(-r)) : 0;
}

static bool is_proc(const char *path)
{
    path += strspn(path, "/");
    return !strncmp(path, "proc", 4) && !path[4 + strspn(path + 4, "/")];
}

/* --- one mount --- */

static int mount_bind(struct rootfs *r, size_t i, const struct mount_options *o, struct error *e)
{
    const struct spec_mount *m = &r->spec->mounts[i];
    CLEANUP_FD int tree = bind_tree(r, i, o, e);
    if (tree < 0)
        return tree;
    CLEANUP_FD int target = -1;
    if (o->copy_symlink) {
        struct stat st;
        if (fstat(tree, &st) == 0 && S_ISLNK(st.st_mode))
            return error_set(e, ENOTSUP, "mount %s: not implemented: copy-symlink of a link", m->destination);
    }
    bool proc_source = is_root_of_procfs(tree);
    target = open_target(r, m, is_directory(tree), proc_source, e);
    if (target < 0)
        return target;
    if ((is_root_of_procfs(target) || is_proc(m->destination)) && !proc_source)
        return error_set(e, EPERM, "mount %s: is to be a procfs, and its source is none: refused", m->destination);
    int bad = set_options(tree, m, o, false, e);
    if (bad == 0)
        bad = rootfs_attach(tree, target, m->destination, e);
    return bad;
}

static int mount_again(struct rootfs *r, const struct spec_mount *m, const struct mount_options *o, struct error *e)
{
    CLEANUP_FD int fd = inroot_open(r->root, m->destination, 0);
    if (fd < 0)
        return sys_error(e, "mount %s: nothing to remount", m->destination);
    return set_options(fd, m, o, false, e);
}

/* Retry without the group of terminals, which has no name in a small user namespace. */
static int new_devpts(const struct spec_mount *m, const struct mount_options *o, const char *label, struct error *e)
{
    struct error first = {0};
    int fd = rootfs_new("devpts", m->source, &o->data, &o->superblock, o->set, label, &first);
    if (fd >= 0 || first.code != EINVAL)
        return fd >= 0 ? fd : error_set(e, first.code, "%s", first.msg);
    char *kept[16];
    struct strings data = {kept, 0};
    for (size_t i = 0; i < o->data.n && data.n < ARRAY_LEN(kept); i++)
        if (strncmp(o->data.v[i], "gid=", 4))
            data.v[data.n++] = o->data.v[i];
    return rootfs_new("devpts", m->source, &data, &o->superblock, o->set, label, e);
}

/*
 * proc and sysfs without the namespaces that would make them the container's: the kernel refuses a new one to a user
 * namespace, and the host's view is what such a container has anyway.
 */
static int new_or_hosts(const struct spec_mount *m, const struct mount_options *o, const char *host, struct error *e)
{
    struct error first = {0};
    int fd = rootfs_new(m->type, m->source, &o->data, &o->superblock, o->set, NULL, &first);
    if (fd >= 0 || first.code != EPERM)
        return fd >= 0 ? fd : error_set(e, first.code, "%s", first.msg);
    fd = clone_tree(AT_FDCWD, host, true);
    if (fd < 0 || rootfs_set(fd, o->set, 0, 0, true) < 0) {
        if (fd >= 0)
            close(fd);
        return error_set(e, first.code, "%s", first.msg);
    }
    return fd;
}

/*
 * Of a process namespace of its own. The host's in its place would show the host's processes by their numbers there, so it is an
 * error when the kernel refuses it: to a user namespace, where something hides a part of /proc.
 */
static int new_proc(const struct spec_mount *m, const struct mount_options *o, struct error *e)
{
    struct error first = {0};
    int fd = rootfs_new(m->type, m->source, &o->data, &o->superblock, o->set, NULL, &first);
    if (fd < 0 && first.code == EPERM)
        return error_set(
            e, EPERM,
            "the kernel makes no new procfs here: something is mounted on a part of this host's /proc (as in "
            "other engines' containers), and a user namespace may not undo that");
    return fd < 0 ? error_set(e, first.code, "%s", first.msg) : fd;
}

static int new_tree(struct rootfs *r, const struct spec_mount *m, const struct mount_options *o, struct error *e)
{
    const char *label = r->spec->mount_label;
    if (!strcmp(m->type, "devpts"))
        return new_devpts(m, o, label, e);
    if (!strcmp(m->type, "sysfs"))
        return new_or_hosts(m, o, "/sys", e);
    if (!strcmp(m->type, "proc"))
        return spec_namespace(r->spec, CLONE_NEWPID) ? new_proc(m, o, e) : new_or_hosts(m, o, "/proc", e);
    u64 attributes = o->set & ~(!strcmp(m->type, "tmpfs") ? (u64)MOUNT_ATTR_RDONLY : 0);
    bool labelled = !strcmp(m->type, "tmpfs") || !strcmp(m->type, "mqueue");
    return rootfs_new(m->type, m->source, &o->data, &o->superblock, attributes, labelled ? label : NULL, e);
}

static int mount_new(struct rootfs *r, const struct spec_mount *m, const struct mount_options *o, struct error *e)
{
    bool kernel_fs = !strcmp(m->type, "proc") || !strcmp(m->type, "sysfs"), tmpfs = !strcmp(m->type, "tmpfs");
    if (is_proc(m->destination) && strcmp(m->type, "proc"))
        return error_set(e, EPERM, "mount %s: is to be a procfs, not %s: refused", m->destination, m->type);
    CLEANUP_FD int target = open_target(r, m, true, kernel_fs, e);
    if (target < 0)
        return target;
    if (needs_old_mount(o))
        return old_mount(r, m, o, target, e);
    CLEANUP_FD int tree = new_tree(r, m, o, e);
    if (tree < 0) {
        error_prefix(e, "mount %s", m->destination);
        return tree;
    }
    int bad = tmpfs && o->copy_up ? rootfs_copy_up(target, tree, 0, e) : 0;
    if (bad == 0)
        bad = set_options(tree, m, o, true, e);
    if (bad == 0)
        bad = rootfs_attach(tree, target, m->destination, e);
    if (bad == 0 && !strcmp(m->type, "devpts") && r->devpts < 0)
        r->devpts = dup(tree);
    if (bad == 0 && tmpfs && o->set & MOUNT_ATTR_RDONLY)
        r->late_readonly[r->n_late++] = sys_take(&tree);
    return bad;
}

static int mount_one(struct rootfs *r, size_t i, struct error *e)
{
    const struct spec_mount *m = &r->spec->mounts[i];
    struct mount_options o;
    int bad = mount_options_sort(&o, m, r->arena, e);
    if (bad < 0)
        return bad;
    if (o.remount)
        return mount_again(r, m, &o, e);
    if (o.bind)
        return mount_bind(r, i, &o, e);
    if (!m->type || !*m->type)
        return error_set(e, EINVAL, "mount %s: has no type and is no bind", m->destination);
    if (!strcmp(m->type, "cgroup") || !strcmp(m->type, "cgroup2"))
        return rootfs_cgroup(r, m, o.set, e);
    return mount_new(r, m, &o, e);
}

/* --- the parent's part --- */

static int prepare_mount(struct rootfs *r, size_t i, bool cloned, struct error *e)
{
    const struct spec_mount *m = &r->spec->mounts[i];
    struct mount_options o;
    int bad = mount_options_sort(&o, m, r->arena, e);
    if (bad < 0 || !o.bind || o.remount || (!cloned && !o.idmap))
        return bad;
    CLEANUP_FD int tree = clone_tree(AT_FDCWD, source_path(r, m), o.recursive);
    if (tree < 0 && !o.idmap && errno == EPERM)
        return 0; /* no privilege here either: the process inside tries */
    if (tree < 0)
        return sys_error(e, "mount %s: its source %s", m->destination, source_path(r, m));
    bad = rootfs_set(tree, 0, 0, MS_SLAVE, true);
    if (bad < 0)
        return error_set(e, -bad, "mount %s: %s", m->destination, strerror(-bad));
    if (o.idmap) {
        bool own = m->uid_maps.n;
        const struct spec_id_maps *uid = own ? &m->uid_maps : &r->spec->uid_maps,
                                  *gid = own ? &m->gid_maps : &r->spec->gid_maps;
        if (!uid->n)
            return error_set(e, EINVAL, "mount %s: idmap: there are no mappings, of the mount or of the container",
                             m->destination);
        bad = idmap_mount(tree, uid, gid, o.idmap_recursive, e);
        if (bad < 0) {
            error_prefix(e, "mount %s", m->destination);
            return bad;
        }
    }
    r->trees[i] = sys_take(&tree);
    return 0;
}

int rootfs_prepare(struct rootfs *r, struct error *e)
{
    const struct spec *s = r->spec;
    r->root_tree = r->root = r->devpts = r->null = -1;
    r->trees = arena_array(r->arena, s->n_mounts, sizeof(int));
    r->late_readonly = arena_array(r->arena, s->n_mounts, sizeof(int));
    if (!r->trees || !r->late_readonly)
        return error_set(e, ENOMEM, "mounts: out of memory");
    for (size_t i = 0; i < s->n_mounts; i++)
        r->trees[i] = -1;
    const struct spec_namespace *user = spec_namespace(s, CLONE_NEWUSER);
    if (user) {
        r->root_tree = clone_tree(AT_FDCWD, r->path, true);
        if (r->root_tree >= 0)
            rootfs_set(r->root_tree, 0, 0, MS_SLAVE, true);
        else if (errno != EPERM)
            return sys_error(e, "root %s", r->path);
    }
    for (size_t i = 0; i < s->n_mounts; i++) {
        int bad = prepare_mount(r, i, user != NULL, e);
        if (bad < 0)
            return bad;
    }
    return 0;
}

void rootfs_close(struct rootfs *r)
{
    sys_close(&r->root_tree);
    for (size_t i = 0; r->trees && i < r->spec->n_mounts; i++)
        sys_close(&r->trees[i]);
    r->root_tree = -1;
}

/* --- inside --- */

static int open_null(struct rootfs *r, struct error *e)
{
    struct stat st;
    r->null = open("/dev/null", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (r->null < 0 || fstat(r->null, &st) < 0)
        return sys_error(e, "/dev/null of the host");
    if (!S_ISCHR(st.st_mode) || st.st_rdev != makedev(1, 3))
        return error_set(e, ENODEV, "/dev/null of the host: is not the null device");
    return 0;
}

int rootfs_build(struct rootfs *r, struct error *e)
{
    /* What we mount must not reach the host, what the host mounts may reach us, until the container's "/" is set. */
    int bad = sys_slave_mounts(e);
    if (bad < 0 || (bad = open_null(r, e)) < 0)
        return bad;
    r->root = r->root_tree >= 0 ? sys_take(&r->root_tree) : clone_tree(AT_FDCWD, r->path, true);
    if (r->root < 0)
        return sys_error(e, "root %s", r->path);
    if (!is_directory(r->root))
        return error_set(e, ENOTDIR, "root %s: Not a directory", r->path);
    if (move_mount(r->root, "", AT_FDCWD, "/", MOVE_MOUNT_F_EMPTY_PATH) < 0)
        return sys_error(e, "root %s: attaching it", r->path);
    mode_t mask = umask(0022);
    for (size_t i = 0; i < r->spec->n_mounts && bad == 0; i++)
        bad = mount_one(r, i, e);
    if (bad == 0)
        bad = rootfs_devices(r, e);
    umask(mask);
    return bad;
}

int rootfs_console(struct rootfs *r, int slave, struct error *e)
{
    const char *name;
    struct stat st;
    CLEANUP_FD int parent = inroot_parent(r->root, "/dev/console", &name, e);
    if (parent < 0)
        return parent;
    int made = openat(parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0600);
    if (made >= 0)
        close(made);
    /* An image with a symbolic link there wants the terminal mounted on something else (CVE-2025-52565). */
    CLEANUP_FD int target = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (target < 0 || fstat(target, &st) < 0)
        return sys_error(e, "/dev/console");
    if ((!S_ISREG(st.st_mode) && !S_ISCHR(st.st_mode)) || procfs_is(target))
        return error_set(e, EEXIST, "/dev/console: the image has something else there: refused");
    CLEANUP_FD int tree = clone_tree(slave, "", false);
    if (tree < 0)
        return sys_error(e, "/dev/console: cloning the terminal");
    return rootfs_attach(tree, target, "/dev/console", e);
}

/* Hide a directory under an empty read-only one, a file under /dev/null. `empty`: the first empty one, once there is one. */
static int mask_path(struct rootfs *r, const char *path, int *empty, struct error *e)
{
    bool kernel = starts(path, "/proc") || starts(path, "/sys");
    CLEANUP_FD int target = kernel ? open_plain(r, path) : inroot_open(r->root, path, 0);
    if (target < 0)
        return errno == ENOENT || errno == ENOTDIR || errno == EACCES ? 0 : sys_error(e, "masking %s", path);
    CLEANUP_FD int tree = -1;
    if (!is_directory(target))
        tree = clone_tree(r->null, "", false);
    else if (*empty >= 0)
        tree = clone_tree(*empty, "", false);
    else
        tree = rootfs_new("tmpfs", "tmpfs", NULL, NULL, MOUNT_ATTR_RDONLY, r->spec->mount_label, e);
    if (tree < 0)
        return sys_error(e, "masking %s", path);
    int bad = rootfs_attach(tree, target, path, e);
    if (bad == 0 && is_directory(target) && *empty < 0)
        *empty = sys_take(&tree);
    return bad;
}

static int protect_path(struct rootfs *r, const char *path, struct error *e)
{
    bool kernel = starts(path, "/proc") || starts(path, "/sys");
    CLEANUP_FD int target = kernel ? open_plain(r, path) : inroot_open(r->root, path, 0);
    if (target < 0)
        return errno == ENOENT || errno == ENOTDIR || errno == EACCES ? 0 : sys_error(e, "making %s read-only", path);
    CLEANUP_FD int tree = clone_tree(target, "", true);
    if (tree < 0 || rootfs_set(tree, MOUNT_ATTR_RDONLY, 0, 0, true) < 0)
        return sys_error(e, "making %s read-only", path);
    return rootfs_attach(tree, target, path, e);
}

static int protect_paths(struct rootfs *r, struct error *e)
{
    const struct spec *s = r->spec;
    CLEANUP_FD int empty = -1;
    int bad = 0;
    for (size_t i = 0; i < s->readonly_paths.n && bad == 0; i++)
        bad = protect_path(r, s->readonly_paths.v[i], e);
    for (size_t i = 0; i < s->masked_paths.n && bad == 0; i++)
        bad = mask_path(r, s->masked_paths.v[i], &empty, e);
    for (size_t i = 0; i < r->n_late && bad == 0; i++) {
        bad = rootfs_set(r->late_readonly[i], MOUNT_ATTR_RDONLY, 0, 0, false);
        if (bad < 0)
            error_set(e, -bad, "making a tmpfs read-only: %s", strerror(-bad));
        close(r->late_readonly[i]);
    }
    if (bad == 0 && s->root_readonly) {
        bad = rootfs_set(r->root, MOUNT_ATTR_RDONLY, 0, 0, false);
        if (bad < 0)
            error_set(e, -bad, "making the root read-only: %s", strerror(-bad));
    }
    return bad;
}

int rootfs_enter(struct rootfs *r, bool pivot, struct error *e)
{
    int bad = protect_paths(r, e);
    if (bad < 0)
        return bad;
    if (fchdir(r->root) < 0)
        return sys_error(e, "entering the root");
    if (pivot) {
        if (syscall(SYS_pivot_root, ".", ".") < 0)
            return sys_error(e, "pivot_root (a root on the initial ramdisk needs --no-pivot)");
        /* The old root lies on top of the new one now. */
        if (umount2(".", MNT_DETACH) < 0)
            return sys_error(e, "letting the host's mounts go");
    } else if (chroot(".") < 0) {
        return sys_error(e, "chroot");
    }
    if (chdir("/") < 0)
        return sys_error(e, "entering the root");
    u64 propagation = r->spec->rootfs_propagation;
    if (propagation && mount(NULL, "/", NULL, propagation, NULL) < 0)
        return sys_error(e, "rootfsPropagation");
    return 0;
}
