/* Attributes of files: what they are, who owns them, and what users keep beside them (xattrs, user.* alone). */
#include "backend/share/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/vfs.h>
#include <sys/xattr.h>
#include <unistd.h>

#define XATTR_SIZE 65536u

/* The file meant: the open one where `fh` counts, else the one of that number. A descriptor or -errno. */
static int fd_of(struct share_server *s, const struct share_question *q, bool open, u64 fh)
{
    if (!open)
        return share_node_fd(s, q->node);
    const struct share_handle *h = share_handle_find(s, fh);
    return h ? h->fd : -ESTALE;
}

int share_op_getattr(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_getattr_in *in = q->arg;
    struct statx x;
    int fd = fd_of(s, q, in->getattr_flags & FUSE_GETATTR_FH, in->fh), e = fd < 0 ? fd : share_stat(fd, &x);
    if (e >= 0)
        share_put_attr(s, r, &x);
    return MIN(e, 0);
}

/* --- changes, each of the file behind `fd` --- */

static int change_mode(struct share_server *s, int fd, const struct fuse_setattr_in *in, const struct statx *x)
{
    u32 type = x->stx_mode & S_IFMT;
    if (type == S_IFLNK)
        return -EOPNOTSUPP;
    return fchmodat(AT_FDCWD, share_path_of(fd).text, share_mode(s, in->mode, type), 0) < 0 ? -errno : 0;
}

/* What an id of the guest is on the host; false: nobody that this user could give a file to. */
static bool translate(const struct share_server *s, u32 id, u32 own, u32 *out)
{
    *out = s->pass ? id : own;
    return s->pass ? id != UINT32_MAX : !id;
}

static int change_owner(struct share_server *s, int fd, const struct fuse_setattr_in *in)
{
    u32 uid = UINT32_MAX, gid = UINT32_MAX;
    if ((in->valid & FATTR_UID && !translate(s, in->uid, s->uid, &uid)) ||
        (in->valid & FATTR_GID && !translate(s, in->gid, s->gid, &gid)))
        return -EPERM;
    return fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

static int change_size(struct share_server *s, const struct share_question *q, int fd, const struct fuse_setattr_in *in,
                       const struct statx *x)
{
    if (in->size > INT64_MAX)
        return -EFBIG;
    if ((x->stx_mode & S_IFMT) != S_IFREG)
        return -EINVAL;
    if (in->valid & FATTR_FH)
        return ftruncate(fd, (off_t)in->size) < 0 ? -errno : 0;
    int e = 0, file = open(share_path_of(fd).text, O_WRONLY | O_NONBLOCK | O_NOCTTY | O_CLOEXEC);
    if (file < 0)
        return -errno;
    if (ftruncate(file, (off_t)in->size) < 0)
        e = -errno;
    close(file);
    return e;
}

static struct timespec time_of(const struct fuse_setattr_in *in, u32 set, u32 now, u64 s, u32 ns)
{
    struct timespec t = {.tv_nsec = in->valid & now   ? UTIME_NOW
                                    : in->valid & set ? (long)MIN(ns, 999999999u)
                                                      : UTIME_OMIT};
    if (t.tv_nsec != UTIME_NOW && t.tv_nsec != UTIME_OMIT)
        t.tv_sec = (time_t)s;
    return t;
}

static int change_times(int fd, const struct fuse_setattr_in *in)
{
    const struct timespec t[2] = {time_of(in, FATTR_ATIME, FATTR_ATIME_NOW, in->atime, in->atimensec),
                                  time_of(in, FATTR_MTIME, FATTR_MTIME_NOW, in->mtime, in->mtimensec)};
    return utimensat(fd, "", t, AT_EMPTY_PATH) < 0 ? -errno : 0;
}

int share_kill_suid(int fd)
{
    struct statx x;
    int e = share_stat(fd, &x);
    if (e < 0)
        return e;
    u32 mode = x.stx_mode & 07777, dies = mode & S_ISUID;
    if (mode & S_ISGID && mode & S_IXGRP)
        dies |= S_ISGID;
    if ((x.stx_mode & S_IFMT) != S_IFREG || !dies)
        return 0;
    return fchmodat(AT_FDCWD, share_path_of(fd).text, mode & ~dies, 0) < 0 ? -errno : 0;
}

static int change(struct share_server *s, const struct share_question *q, int fd, const struct statx *x)
{
    const struct fuse_setattr_in *in = q->arg;
    int e = 0;
    if (in->valid & FATTR_MODE)
        e = change_mode(s, fd, in, x);
    if (e == 0 && in->valid & FATTR_KILL_SUIDGID)
        e = share_kill_suid(fd);
    if (e == 0 && in->valid & (FATTR_UID | FATTR_GID))
        e = change_owner(s, fd, in);
    if (e == 0 && in->valid & FATTR_SIZE)
        e = change_size(s, q, fd, in, x);
    if (e == 0 && in->valid & (FATTR_ATIME | FATTR_MTIME | FATTR_ATIME_NOW | FATTR_MTIME_NOW))
        e = change_times(fd, in);
    return e;
}

int share_op_setattr(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_setattr_in *in = q->arg;
    struct statx x;
    int fd = fd_of(s, q, in->valid & FATTR_FH, in->fh), e = fd < 0 ? fd : share_stat(fd, &x);
    if (e < 0 || (e = change(s, q, fd, &x)) < 0 || (e = share_stat(fd, &x)) < 0)
        return e;
    share_put_attr(s, r, &x);
    return 0;
}

int share_op_statfs(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    struct statfs f;
    int fd = share_node_fd(s, q->node);
    if (fd < 0 || fstatfs(fd, &f) < 0)
        return fd < 0 ? fd : -errno;
    const struct fuse_statfs_out out = {.st = {.blocks = f.f_blocks,
                                               .bfree = f.f_bfree,
                                               .bavail = f.f_bavail,
                                               .files = f.f_files,
                                               .ffree = f.f_ffree,
                                               .bsize = (u32)f.f_bsize,
                                               .namelen = (u32)f.f_namelen,
                                               .frsize = (u32)f.f_frsize}};
    share_put(r, &out, sizeof(out));
    return 0;
}

/* --- xattrs --- */

/* The name at the front of what follows: 0, -EOPNOTSUPP for one that is not the users' own. Moves behind it. */
static int xattr_name(const struct share_question *q, const char **name, u32 *behind)
{
    static const char users[] = "user.";
    size_t len = strnlen((const char *)q->rest, q->rest_len);
    if (len == q->rest_len)
        return -EINVAL;
    *name = (const char *)q->rest;
    *behind = (u32)len + 1;
    if (len >= NAME_BYTES)
        return -ERANGE;
    return strncmp(*name, users, sizeof(users) - 1) || len == sizeof(users) - 1 ? -EOPNOTSUPP : 0;
}

/* Only files and directories have them: the kernel would refuse others, and the path leads to nothing else. */
static int xattr_fd(struct share_server *s, const struct share_question *q)
{
    struct statx x;
    int fd = share_node_fd(s, q->node), e = fd < 0 ? fd : share_stat(fd, &x);
    if (e < 0)
        return e;
    return S_ISREG(x.stx_mode) || S_ISDIR(x.stx_mode) ? fd : -EOPNOTSUPP;
}

int share_op_setxattr(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_setxattr_in *in = q->arg; /* its first two members, without FUSE_SETXATTR_EXT */
    const char *name;
    u32 behind;
    int e = xattr_name(q, &name, &behind), fd = e < 0 ? e : xattr_fd(s, q);
    if (fd < 0)
        return fd;
    if (in->size > XATTR_SIZE || in->size != q->rest_len - behind || in->flags & ~(u32)(XATTR_CREATE | XATTR_REPLACE))
        return in->size > XATTR_SIZE ? -E2BIG : -EINVAL;
    return setxattr(share_path_of(fd).text, name, q->rest + behind, in->size, (int)in->flags) < 0 ? -errno : 0;
}

/* `n` bytes of scratch, or their number when the guest asked for that. */
static int xattr_answer(struct share_server *s, struct share_reply *r, u32 size, ssize_t n)
{
    const struct fuse_getxattr_out out = {.size = (u32)n};
    if (n < 0)
        return -errno;
    if (!size)
        share_put(r, &out, sizeof(out));
    else if (n > size || n > r->room)
        return -ERANGE;
    else
        share_put(r, s->scratch, (size_t)n);
    return 0;
}

int share_op_getxattr(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_getxattr_in *in = q->arg;
    const char *name;
    u32 behind;
    int e = xattr_name(q, &name, &behind), fd = e < 0 ? e : xattr_fd(s, q);
    return fd < 0 ? fd
                  : xattr_answer(s, r, in->size, getxattr(share_path_of(fd).text, name, s->scratch, SHARE_SCRATCH));
}

int share_op_listxattr(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_getxattr_in *in = q->arg;
    int fd = xattr_fd(s, q);
    if (fd < 0)
        return fd == -EOPNOTSUPP ? xattr_answer(s, r, in->size, 0) : fd;
    char *list = (char *)s->scratch;
    ssize_t n = listxattr(share_path_of(fd).text, list, SHARE_SCRATCH), kept = 0, len;
    if (n < 0)
        return -errno;
    for (ssize_t at = 0; at < n; at += len) {
        len = (ssize_t)strnlen(list + at, (size_t)(n - at - 1)) + 1;
        if (strncmp(list + at, "user.", 5))
            continue;
        memmove(list + kept, list + at, (size_t)len);
        kept += len;
    }
    return xattr_answer(s, r, in->size, kept);
}

int share_op_removexattr(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const char *name;
    u32 behind;
    int e = xattr_name(q, &name, &behind), fd = e < 0 ? e : xattr_fd(s, q);
    if (fd < 0)
        return fd;
    return removexattr(share_path_of(fd).text, name) < 0 ? -errno : 0;
}
