/*
 * A tar from anybody becomes a directory for overlayfs.
 *
 * Two readers of libarchive stand in a row: the first takes off gzip or zstd and knows nothing of tar, the second knows tar
 * and nothing else. Between them the bytes are counted and digested: that is the diff id, and where a bomb is stopped.
 *
 * What must stay true
 *  1. Every lookup is the kernel's, inside the layer's directory (openat2, RESOLVE_IN_ROOT, no magic links); what is made is
 *     made as one name below a directory found so, and never through a link: what stands there goes first.
 *  2. ".." in a name, a hard link's target too, is refused: no honest archive has it.
 *  3. Whiteouts become overlayfs's own marks (a character device 0:0; the attribute `opaque`). An archive that brings such a
 *     device or any attribute of overlayfs itself is refused or loses it: it could otherwise show files of other layers.
 *  4. Owner, then mode, then attributes: a change of owner takes set-id bits and capabilities away.
 *  5. Device nodes are made only by who may (root of the host); in a container's user namespace the kernel refuses them, and
 *     they are left out, as other engines do.
 *
 * A parent that the tar does not name is made with the attributes that it has in the layers below; a hard link to a file of a
 * layer below becomes a copy of it.
 *
 * A parent that is a symbolic link in a layer below becomes the same link here, and where it leads the directory is made, with
 * its attributes of below: seen together it is as if the tar had named that one. ".." of such a link is taken by its letters.
 *
 * Not done: when layers are merged, an opaque mark that comes behind files of its directory takes these, too; ACLs of SCHILY.acl.*; sparse files are written in full.
 */
#include "image/tarlib.h"
#include "image/layer.h"
#include "image/tree.h"
#include "container/inroot.h"
#include "container/sys.h"
#include "container/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define CHUNK     (256u << 10)
#define LINKS_MAX 8
#define PATHS_MAX (256ull << 20) /* bytes of names of directories */

struct directory_time {
    char *path;
    struct timespec time;
};

struct unpack {
    struct archive_library lib;
    struct archive *packed, *tar;
    int root;
    const struct layer_input *in;
    struct digester digest;
    u64 bytes;   /* of the tar */
    u64 written; /* into files: sparse ones are longer than their part of the tar */
    u64 paths;   /* of remembered directories */
    u32 links;   /* of layers below that are being followed, one behind the other */
    u32 entries; /* and parents that no entry names */
    u8 *buffer;
    bool too_large;
    bool single;                  /* there is one user number: all belongs to it */
    struct directory_time *times; /* set at the end, when nothing is put into the directories any more */
    size_t n_times;
    struct error *e;
};

const char *layer_opaque_name(void)
{
    char map[64] = "";
    sys_read_small(AT_FDCWD, "/proc/self/uid_map", map, sizeof(map));
    unsigned inside, outside, size;
    bool initial = sscanf(map, "%u %u %u", &inside, &outside, &size) == 3 && !inside && !outside && size == ~0u;
    return initial ? "trusted.overlay.opaque" : "user.overlay.opaque";
}

/* --- names --- */

/*
 * A path of an archive without "/" and "." in front and at its end: "" is the root itself. -EINVAL for "..", and for what the
 * kernel would not take either.
 */
static int clean_path(const char *raw, char out[PATH_MAX], struct error *e)
{
    size_t n = 0;
    for (const char *p = raw; *p;) {
        size_t len = strcspn(p, "/");
        if (len == 2 && p[0] == '.' && p[1] == '.')
            return error_set(e, EINVAL, "archive: \"%.200s\" leads out of its root: refused", raw);
        if (len > NAME_MAX || n + len + 2 > PATH_MAX)
            return error_set(e, ENAMETOOLONG, "archive: \"%.80s..\" is too long a name", raw);
        if (len && !(len == 1 && p[0] == '.')) {
            if (n)
                out[n++] = '/';
            memcpy(out + n, p, len);
            n += len;
        }
        p += len + (p[len] == '/');
    }
    out[n] = 0;
    return 0;
}

/* Does a directory that `path` lies in hide what is below this layer? */
static bool is_hidden(int layer, const char *path)
{
    char part[PATH_MAX], value[4];
    snprintf(part, sizeof(part), "%s", path);
    for (char *slash; (slash = strrchr(part, '/'));) {
        *slash = 0;
        CLEANUP_FD int fd = sys_openat2(layer, part, O_RDONLY | O_DIRECTORY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
        if (fd < 0 ? errno == ENOTDIR || errno == ELOOP
                   : fgetxattr(fd, layer_opaque_name(), value, sizeof(value)) == 1 && value[0] == 'y')
            return true;
    }
    return false;
}

/* Attributes of `path` in the layers below, the topmost that has it. */
static int find_below(const struct unpack *u, const char *path, struct stat *st)
{
    for (size_t i = 0; i < u->in->n_lower; i++) {
        CLEANUP_FD int fd =
            sys_openat2(u->in->lower[i], path, O_PATH | O_NOFOLLOW, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
        if (fd < 0 && is_hidden(u->in->lower[i], path))
            return -ENOENT;
        if (fd < 0)
            continue;
        if (fstat(fd, st) == 0 && !(S_ISCHR(st->st_mode) && st->st_rdev == 0))
            return (int)i;
        return -ENOENT; /* a whiteout */
    }
    return -ENOENT;
}

static int too_many(struct unpack *u)
{
    return error_set(u->e, EFBIG, "archive: more than %u files: refused", u->in->entries_max);
}

/* Where a link at `path` leads, from the root: letters only, the kernel is asked for each part later. -ELOOP: out of the root. */
static int link_target(const char *path, const char *target, char out[PATH_MAX])
{
    size_t n = 0;
    const char *slash = strrchr(path, '/');
    if (target[0] != '/' && slash) {
        n = (size_t)(slash - path);
        memcpy(out, path, n);
    }
    for (const char *p = target; *p; p += *p == '/') {
        size_t len = strcspn(p, "/");
        if (len == 2 && p[0] == '.' && p[1] == '.') {
            while (n && out[--n] != '/')
                ;
        } else if (len && !(len == 1 && *p == '.')) {
            if (n + len + 2 > PATH_MAX)
                return -ENAMETOOLONG;
            if (n)
                out[n++] = '/';
            memcpy(out + n, p, len);
            n += len;
        }
        p += len;
    }
    out[n] = 0;
    return 0;
}

static int open_parent(struct unpack *u, char *path, char **name);

/* The same link as in the layer below, and the directory that it leads to. */
static int copy_link(struct unpack *u, int at, const char *path, const char *name, const struct stat *st, int below)
{
    char target[PATH_MAX], leads[PATH_MAX + 2], *last;
    CLEANUP_FD int link =
        sys_openat2(u->in->lower[below], path, O_PATH | O_NOFOLLOW, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
    ssize_t n = link < 0 ? -1 : readlinkat(link, "", target, sizeof(target) - 1);
    if (n < 0)
        return sys_error(u->e, "archive: %.200s", path);
    target[n] = 0;
    if (++u->links > LINKS_MAX)
        return error_set(u->e, ELOOP, "archive: \"%.200s\": too many links, one to the next", path);
    int r = link_target(path, target, leads);
    if (r == 0 &&
        (symlinkat(target, at, name) < 0 || fchownat(at, name, st->st_uid, st->st_gid, AT_SYMLINK_NOFOLLOW) < 0))
        return sys_error(u->e, "archive: %.200s", path);
    if (r < 0)
        return error_set(u->e, -r, "archive: %.200s: leads nowhere", path);
    strcat(leads, "/."); /* the last part is not made: one more */
    CLEANUP_FD int made = leads[0] == '/' ? dup(u->root) : open_parent(u, leads, &last);
    u->links--;
    return MIN(made, 0);
}

static int make_parent(struct unpack *u, int at, const char *path, const char *name)
{
    struct stat st;
    int below = find_below(u, path, &st);
    if (++u->entries > u->in->entries_max)
        return too_many(u);
    if (below >= 0 && S_ISLNK(st.st_mode))
        return copy_link(u, at, path, name, &st, below);
    /* What stands there, and leads nowhere in this layer, is a link: its owner and mode would be those of a file of the host. */
    if (mkdirat(at, name, 0755) < 0)
        return errno == EEXIST
                   ? error_set(u->e, EINVAL, "archive: \"%.200s\" is a link to nothing, and a directory: refused", path)
                   : sys_error(u->e, "archive: %.200s", path);
    if (below >= 0 && S_ISDIR(st.st_mode) &&
        (fchownat(at, name, st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
         fchmodat(at, name, st.st_mode & 07777, 0)))
        return sys_error(u->e, "archive: %.200s", path);
    return 0;
}

/* The directory that `path` lies in, made where it is missing. *name is its last part. */
static int open_parent(struct unpack *u, char *path, char **name)
{
    char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    CLEANUP_FD int at = sys_openat2(u->root, ".", O_PATH | O_DIRECTORY, 0, 0);
    for (char *p = path; slash && p < *name && at >= 0;) {
        char *end = strchr(p, '/');
        *end = 0;
        int next = inroot_open(u->root, path, O_PATH | O_DIRECTORY);
        if (next < 0 && errno == ENOENT) {
            int r = make_parent(u, at, path, p);
            next = r < 0 ? r : inroot_open(u->root, path, O_PATH | O_DIRECTORY);
            if (r < 0) {
                *end = '/';
                return r;
            }
        }
        sys_close(&at);
        at = next;
        if (at < 0)
            sys_error(u->e, "archive: %.200s", path);
        *end = '/';
        p = end + 1;
    }
    return at < 0 ? (u->e && u->e->code ? -u->e->code : -EIO) : sys_take(&at);
}

/* --- attributes --- */

/* Of overlayfs, of the host's security, or of trust: not an archive's to give. */
static bool attribute_allowed(const char *name)
{
    if (!strncmp(name, "user.", 5))
        return strncmp(name, "user.overlay.", 13) != 0;
    return !strcmp(name, "security.capability");
}

static int set_attributes(struct unpack *u, struct archive_entry *entry, int at, const char *name, int fd)
{
    const char *key;
    const void *value;
    size_t size;
    char path[SYS_FD_PATH + NAME_MAX + 2];
    snprintf(path, sizeof(path), "/proc/self/fd/%d/%s", at, name);
    u->lib.archive_entry_xattr_reset(entry);
    while (u->lib.archive_entry_xattr_next(entry, &key, &value, &size) == ARCHIVE_OK) {
        if (!attribute_allowed(key))
            continue;
        int r = fd >= 0 ? fsetxattr(fd, key, value, size, 0) : lsetxattr(path, key, value, size, 0);
        if (r < 0 && errno != ENOTSUP && errno != EPERM)
            return sys_error(u->e, "archive: %.200s: attribute %.60s", name, key);
    }
    return 0;
}

static void entry_times(struct unpack *u, struct archive_entry *entry, struct timespec t[2])
{
    t[0] = t[1] = (struct timespec){.tv_sec = u->lib.archive_entry_mtime(entry),
                                    .tv_nsec = u->lib.archive_entry_mtime_nsec(entry)};
}

static int check_owner(struct unpack *u, struct archive_entry *entry, uid_t *uid, gid_t *gid)
{
    s64 user = u->lib.archive_entry_uid(entry), group = u->lib.archive_entry_gid(entry);
    if (user < 0 || group < 0 || user > 0xfffffffell || group > 0xfffffffell)
        return error_set(u->e, EINVAL, "archive: an owner is out of range");
    *uid = u->single ? 0 : (uid_t)user;
    *gid = u->single ? 0 : (gid_t)group;
    return 0;
}

/* Owner, mode, attributes, time of the name just made (`fd` is it, or -1). */
static int finish(struct unpack *u, struct archive_entry *entry, int at, const char *name, int fd)
{
    struct timespec t[2];
    uid_t uid = 0;
    gid_t gid = 0;
    mode_t mode = u->lib.archive_entry_perm(entry) & 07777;
    bool link = u->lib.archive_entry_filetype(entry) == AE_IFLNK;
    int r = check_owner(u, entry, &uid, &gid);
    if (r < 0)
        return r;
    entry_times(u, entry, t);
    if (fchownat(at, name, uid, gid, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == EINVAL ? error_set(u->e, EINVAL,
                                           "archive: %.100s: owner %u:%u is not in this user namespace; "
                                           "give the user a longer range in /etc/subuid and /etc/subgid",
                                           name, uid, gid)
                               : sys_error(u->e, "archive: %.200s: owner", name);
    if (!link && fchmodat(at, name, mode, 0) < 0)
        return sys_error(u->e, "archive: %.200s: mode", name);
    r = set_attributes(u, entry, at, name, fd);
    if (r == 0 && utimensat(at, name, t, AT_SYMLINK_NOFOLLOW) < 0)
        return sys_error(u->e, "archive: %.200s: time", name);
    return r;
}

/* --- kinds of entries --- */

static int make_file(struct unpack *u, struct archive_entry *entry, int at, const char *name)
{
    u64 left = (u64)MAX(0, u->lib.archive_entry_size(entry));
    CLEANUP_FD int fd = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0)
        return sys_error(u->e, "archive: %.200s", name);
    /* A sparse file's length needs no bytes in the archive. */
    if (left > u->in->bytes_max - u->written) {
        u->too_large = true;
        return -EFBIG;
    }
    u->written += left;
    for (;;) {
        ssize_t n = u->lib.archive_read_data(u->tar, u->buffer, CHUNK);
        if (n == 0)
            break;
        if (n < 0)
            return error_set(u->e, EBADMSG, "archive: %.200s: %s", name, u->lib.archive_error_string(u->tar));
        if ((u64)n > left)
            return error_set(u->e, EBADMSG, "archive: %.200s: is longer than it says", name);
        left -= (u64)n;
        if (sys_write_all(fd, u->buffer, (size_t)n) < 0)
            return sys_error(u->e, "archive: %.200s", name);
    }
    return finish(u, entry, at, name, fd);
}

static int remember_time(struct unpack *u, struct archive_entry *entry, const char *path)
{
    struct timespec t[2];
    u->paths += strlen(path) + 1;
    if (u->paths > PATHS_MAX)
        return error_set(u->e, EFBIG, "archive: names of directories of more than %llu bytes: refused", PATHS_MAX);
    if (!(u->n_times & (u->n_times - 1))) {
        struct directory_time *more = realloc(u->times, (u->n_times ? 2 * u->n_times : 1) * sizeof(*more));
        if (!more)
            return error_set(u->e, ENOMEM, "out of memory");
        u->times = more;
    }
    entry_times(u, entry, t);
    u->times[u->n_times].time = t[1];
    u->times[u->n_times].path = strdup(path);
    return u->times[u->n_times].path ? (u->n_times++, 0) : error_set(u->e, ENOMEM, "out of memory");
}

/* A file system that does not take overlayfs's marks: overlayfs itself, for one. -EOPNOTSUPP: layers can not lie on it. */
static int no_mark(struct unpack *u, const char *name)
{
    if (errno != EPERM && errno != EOPNOTSUPP)
        return sys_error(u->e, "archive: %.200s: overlayfs's mark", name);
    return error_set(u->e, EOPNOTSUPP, "archive: %.200s: this file system does not take overlayfs's marks", name);
}

static int make_opaque(struct unpack *u, int at, const char *name)
{
    CLEANUP_FD int fd = openat(at, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fsetxattr(fd, layer_opaque_name(), "y", 1, 0) < 0)
        return no_mark(u, name);
    return 0;
}

/* Is there a whiteout by this name in the layer? */
static bool is_whiteout(int at, const char *name)
{
    struct stat st;
    return fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && S_ISCHR(st.st_mode) && st.st_rdev == 0;
}

static int make_directory(struct unpack *u, struct archive_entry *entry, int at, const char *name, const char *path)
{
    struct stat st;
    bool there = fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0, hidden = there && is_whiteout(at, name);
    if (there && !S_ISDIR(st.st_mode) && unlinkat(at, name, 0) < 0)
        return sys_error(u->e, "archive: %.200s", path);
    if ((!there || !S_ISDIR(st.st_mode)) && mkdirat(at, name, 0700) < 0)
        return sys_error(u->e, "archive: %.200s", path);
    int r = finish(u, entry, at, name, -1);
    if (r == 0 && hidden) /* removed and made anew in one layer: what is below does not show */
        r = make_opaque(u, at, name);
    return r < 0 ? r : remember_time(u, entry, path);
}

/* A hard link's target that only a layer below has: copied up, as overlayfs would. */
static int copy_up(struct unpack *u, const char *target, int at, const char *name)
{
    struct stat st;
    int below = find_below(u, target, &st);
    if (below < 0 || !S_ISREG(st.st_mode))
        return error_set(u->e, ENOENT, "archive: \"%.150s\" is a hard link to \"%.150s\", which is not there", name,
                         target);
    CLEANUP_FD int from =
        sys_openat2(u->in->lower[below], target, O_RDONLY | O_NOFOLLOW, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS);
    CLEANUP_FD int to = openat(at, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (from < 0 || to < 0)
        return sys_error(u->e, "archive: %.200s", name);
    ssize_t n;
    while ((n = read(from, u->buffer, CHUNK)) > 0) {
        if ((u64)n > u->in->bytes_max - u->written) {
            u->too_large = true;
            return -EFBIG;
        }
        u->written += (u64)n;
        if (sys_write_all(to, u->buffer, (size_t)n) < 0)
            return sys_error(u->e, "archive: %.200s", name);
    }
    const struct timespec t[2] = {st.st_atim, st.st_mtim};
    if (n < 0 || fchown(to, st.st_uid, st.st_gid) < 0 || fchmod(to, st.st_mode & 07777) < 0 || futimens(to, t) < 0)
        return sys_error(u->e, "archive: %.200s", name);
    return 0;
}

static int make_hard_link(struct unpack *u, const char *raw, int at, const char *name)
{
    char target[PATH_MAX], *slash;
    int r = clean_path(raw, target, u->e);
    if (r < 0)
        return r;
    if (!(slash = strrchr(target, '/')))
        slash = target - 1;
    const char *last = slash + 1;
    if (slash >= target)
        *slash = 0;
    CLEANUP_FD int dir = slash >= target ? inroot_open(u->root, target, O_PATH | O_DIRECTORY)
                                         : sys_openat2(u->root, ".", O_PATH | O_DIRECTORY, 0, 0);
    /* Without AT_SYMLINK_FOLLOW: a link to a link is one more name of the link. */
    if (dir >= 0 && *last && !is_whiteout(dir, last) && linkat(dir, last, at, name, 0) == 0)
        return 0;
    if (dir >= 0 && errno != ENOENT && !is_whiteout(dir, last))
        return sys_error(u->e, "archive: \"%.150s\", a hard link to \"%.150s\"", name, raw);
    if (slash >= target)
        *slash = '/';
    return copy_up(u, target, at, name);
}

static int make_device(struct unpack *u, struct archive_entry *entry, int at, const char *name)
{
    u32 type = u->lib.archive_entry_filetype(entry);
    dev_t dev =
        makedev((unsigned)u->lib.archive_entry_rdevmajor(entry), (unsigned)u->lib.archive_entry_rdevminor(entry));
    if (type == AE_IFCHR && dev == 0)
        return error_set(u->e, EINVAL,
                         "archive: \"%.200s\" is a device 0:0, overlayfs's mark of a removed file: refused", name);
    mode_t mode = type == AE_IFCHR ? S_IFCHR : type == AE_IFBLK ? S_IFBLK : S_IFIFO;
    if (mknodat(at, name, mode | 0600, dev) < 0)
        return errno == EPERM && mode != S_IFIFO ? 0 : sys_error(u->e, "archive: %.200s", name);
    return finish(u, entry, at, name, -1);
}

static const char *entry_text(struct archive_entry *entry, const char *(*local)(struct archive_entry *),
                              const char *(*utf8)(struct archive_entry *))
{
    const char *s = local(entry);
    return s ? s : utf8(entry);
}

static int make_symlink(struct unpack *u, struct archive_entry *entry, int at, const char *name)
{
    const char *target = entry_text(entry, u->lib.archive_entry_symlink, u->lib.archive_entry_symlink_utf8);
    if (!target || !*target)
        return error_set(u->e, EBADMSG, "archive: %.200s: a symbolic link to nothing", name);
    if (symlinkat(target, at, name) < 0)
        return sys_error(u->e, "archive: %.200s", name);
    return finish(u, entry, at, name, -1);
}

/* Without overlayfs: what is below is here, and goes. */
static int take_whiteout_here(struct unpack *u, int at, const char *mark)
{
    CLEANUP_FD int fd = sys_openat2(at, ".", O_RDONLY | O_DIRECTORY, 0, 0);
    if (fd < 0)
        return sys_error(u->e, "archive: %.100s", mark);
    if (strcmp(mark, ".wh..wh..opq"))
        return tree_remove(fd, mark + 4, u->e);
    return tree_empty(fd, u->e);
}

/* ".wh.NAME" and ".wh..wh..opq"; other names in ".wh..wh." are aufs's own, and nobody's files (layer.md). */
static int take_whiteout(struct unpack *u, int at, const char *mark)
{
    struct stat st;
    const char *name = mark + 4;
    bool possible = *name && strcmp(name, ".") && strcmp(name, "..");
    if (u->in->merge && possible && (!strcmp(mark, ".wh..wh..opq") || strncmp(mark, ".wh..wh.", 8)))
        return take_whiteout_here(u, at, mark);
    if (!strcmp(mark, ".wh..wh..opq")) {
        CLEANUP_FD int fd = sys_openat2(at, ".", O_RDONLY | O_DIRECTORY, 0, 0);
        return fd < 0 || fsetxattr(fd, layer_opaque_name(), "y", 1, 0) < 0 ? no_mark(u, mark) : 0;
    }
    if (!strncmp(mark, ".wh..wh.", 8))
        return 0;
    if (!possible)
        return error_set(u->e, EINVAL, "archive: \"%.100s\" removes nothing that could be: refused", mark);
    /* It is about layers below: what this layer has by that name stays, and a directory of it shows nothing from below. */
    if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0)
        return S_ISDIR(st.st_mode) ? make_opaque(u, at, name) : 0;
    return mknodat(at, name, S_IFCHR, 0) < 0 ? no_mark(u, mark) : 0;
}

/* The root's own attributes. */
static int take_root(struct unpack *u, struct archive_entry *entry)
{
    if (u->lib.archive_entry_filetype(entry) != AE_IFDIR)
        return error_set(u->e, EINVAL, "archive: its root is no directory: refused");
    int r = finish(u, entry, u->root, ".", -1);
    return r < 0 ? r : remember_time(u, entry, ".");
}

static int make_entry(struct unpack *u, struct archive_entry *entry, char *path)
{
    char *name;
    struct stat st;
    CLEANUP_FD int at = open_parent(u, path, &name);
    if (at < 0)
        return at;
    if (!u->in->plain && !strncmp(name, ".wh.", 4))
        return take_whiteout(u, at, name);
    u32 type = u->lib.archive_entry_filetype(entry);
    const char *hard = entry_text(entry, u->lib.archive_entry_hardlink, u->lib.archive_entry_hardlink_utf8);
    if (type == AE_IFDIR && !hard)
        return make_directory(u, entry, at, name, path);
    if (fstatat(at, name, &st, AT_SYMLINK_NOFOLLOW) == 0) {
        CLEANUP_FD int dir = sys_openat2(at, ".", O_RDONLY | O_DIRECTORY, 0, 0);
        int r = dir < 0 ? sys_error(u->e, "archive: %.200s", path) : tree_remove(dir, name, u->e);
        if (r < 0)
            return r;
    }
    if (hard)
        return make_hard_link(u, hard, at, name);
    switch (type) {
    case AE_IFREG:
        return make_file(u, entry, at, name);
    case AE_IFLNK:
        return make_symlink(u, entry, at, name);
    case AE_IFCHR:
    case AE_IFBLK:
    case AE_IFIFO:
        return make_device(u, entry, at, name);
    default:
        return error_set(u->e, EBADMSG, "archive: \"%.200s\" is of a kind that no layer has", path);
    }
}

/* --- the two readers --- */

static ssize_t feed(struct archive *a, void *arg, const void **data)
{
    struct unpack *u = arg;
    ssize_t n = u->lib.archive_read_data(u->packed, u->buffer + CHUNK, CHUNK);
    if (n < 0) {
        u->lib.archive_set_error(a, EBADMSG, "%s", u->lib.archive_error_string(u->packed));
        return -1;
    }
    u->bytes += (u64)n;
    if (u->bytes > u->in->bytes_max) {
        u->too_large = true;
        u->lib.archive_set_error(a, EFBIG, "too large");
        return -1;
    }
    digester_add(&u->digest, u->buffer + CHUNK, (size_t)n);
    *data = u->buffer + CHUNK;
    return n;
}

static int open_readers(struct unpack *u)
{
    struct archive_entry *entry;
    u->packed = u->lib.archive_read_new();
    u->tar = u->lib.archive_read_new();
    u->buffer = malloc(2 * CHUNK);
    if (!u->packed || !u->tar || !u->buffer)
        return error_set(u->e, ENOMEM, "out of memory");
    u->lib.archive_read_support_filter_gzip(u->packed);
    u->lib.archive_read_support_filter_zstd(u->packed);
    if (u->in->plain) { /* no layers, but what ADD unpacks */
        u->lib.archive_read_support_filter_xz(u->packed);
        u->lib.archive_read_support_filter_bzip2(u->packed);
    }
    u->lib.archive_read_support_format_raw(u->packed);
    u->lib.archive_read_support_format_empty(u->packed);
    u->lib.archive_read_support_format_tar(u->tar);
    u->lib.archive_read_support_format_empty(u->tar);
    int r = u->lib.archive_read_open_fd(u->packed, u->in->fd, CHUNK);
    if (r == ARCHIVE_OK)
        r = u->lib.archive_read_next_header(u->packed, &entry);
    if (r != ARCHIVE_OK && r != ARCHIVE_EOF)
        return error_set(u->e, EBADMSG, "archive: %s", u->lib.archive_error_string(u->packed));
    /* What is packed twice is no layer, and the way that small bombs grow. The last filter is none. */
    if (u->lib.archive_filter_count(u->packed) > 2)
        return error_set(u->e, EBADMSG, "archive: is packed more than once: refused");
    if (u->lib.archive_read_open(u->tar, u, NULL, feed, NULL) != ARCHIVE_OK && !u->too_large)
        return error_set(u->e, EBADMSG, "archive: %s", u->lib.archive_error_string(u->tar));
    return 0;
}

static int take_entry(struct unpack *u, struct archive_entry *entry)
{
    char path[PATH_MAX];
    const char *raw = entry_text(entry, u->lib.archive_entry_pathname, u->lib.archive_entry_pathname_utf8);
    if (++u->entries > u->in->entries_max)
        return too_many(u);
    if (!raw)
        return error_set(u->e, EBADMSG, "archive: a name that is no UTF-8");
    int r = clean_path(raw, path, u->e);
    if (r < 0)
        return r;
    return path[0] ? make_entry(u, entry, path) : take_root(u, entry);
}

static int take_all(struct unpack *u)
{
    struct archive_entry *entry;
    for (;;) {
        int r = u->lib.archive_read_next_header(u->tar, &entry);
        if (r == ARCHIVE_EOF)
            break;
        if (r != ARCHIVE_OK && r != ARCHIVE_WARN)
            return u->too_large ? -EFBIG : error_set(u->e, EBADMSG, "archive: %s", u->lib.archive_error_string(u->tar));
        if ((r = take_entry(u, entry)) < 0)
            return r;
    }
    /* What stands behind the archive's end belongs to the digest. */
    const void *rest;
    ssize_t n;
    while ((n = feed(u->tar, u, &rest)) > 0)
        ;
    return n < 0 && !u->too_large ? error_set(u->e, EBADMSG, "archive: %s", u->lib.archive_error_string(u->packed)) : 0;
}

static void set_times(struct unpack *u)
{
    while (u->n_times-- > 0) {
        const struct timespec t[2] = {u->times[u->n_times].time, u->times[u->n_times].time};
        CLEANUP_FD int fd = inroot_open(u->root, u->times[u->n_times].path, O_DIRECTORY);
        if (fd >= 0) /* by a name in it: it is no descriptor that could be written to */
            utimensat(fd, ".", t, 0);
        free(u->times[u->n_times].path);
    }
    free(u->times);
}

int layer_unpack(int root, const struct layer_input *in, char diff_id[DIGEST_TEXT], struct error *e)
{
    struct error mine = {0};
    struct unpack u = {.root = root, .in = in, .single = userns_single(), .e = &mine};
    int r = archive_library(&u.lib, &mine);
    if (r < 0)
        return error_set(e, mine.code, "%s", mine.msg);
    digester_begin(&u.digest, diff_id);
    r = open_readers(&u);
    if (r == 0)
        r = take_all(&u);
    if (u.too_large)
        r = error_set(&mine, EFBIG, "archive: unpacks to more than the %llu bytes that are allowed: refused",
                      (unsigned long long)in->bytes_max);
    set_times(&u);
    digester_end(&u.digest, diff_id);
    if (u.tar)
        u.lib.archive_read_free(u.tar);
    if (u.packed)
        u.lib.archive_read_free(u.packed);
    free(u.buffer);
    return r < 0 ? error_set(e, mine.code ? mine.code : -r, "%s", mine.msg) : 0;
}
