/* Names: finding, making, moving and removing files. Each name was checked by the table of server.c. */
#include "backend/share/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Answer with what is at `name` of the directory asked about, now known to the guest. */
static int answer_entry(struct share_server *s, const struct share_question *q, struct share_reply *r, const char *name)
{
    struct share_node *n;
    struct statx x;
    int e = share_node_lookup(s, q->node, name, -1, &n, &x);
    if (e == 0)
        share_put_entry(s, r, n, &x);
    return e;
}

int share_op_lookup(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    return answer_entry(s, q, r, q->name[0]);
}

int share_op_forget(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_forget_in *in = q->arg;
    share_node_forget(s, q->node, in->nlookup);
    return SHARE_SILENT;
}

int share_op_batch_forget(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_batch_forget_in *in = q->arg;
    struct fuse_forget_one one;
    for (u32 i = 0; i < in->count && i < q->rest_len / sizeof(one); i++) {
        memcpy(&one, q->rest + i * sizeof(one), sizeof(one));
        share_node_forget(s, one.nodeid, one.nlookup);
    }
    return SHARE_SILENT;
}

int share_op_readlink(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    char target[PATH_MAX];
    int fd = share_node_fd(s, q->node);
    if (fd < 0)
        return fd;
    ssize_t n = readlinkat(fd, "", target, sizeof(target));
    if (n < 0)
        return errno == ENOENT ? -EINVAL : -errno; /* no link */
    if (n > r->room)
        return -EINVAL;
    share_put(r, target, (size_t)n);
    return 0;
}

/* --- making --- */

struct making {
    const struct share_question *q;
    int dir;
    u32 mode;
    const char *target;
};

static int make_link(const struct making *m)
{
    return symlinkat(m->target, m->dir, m->q->name[0]);
}

static int make_node(const struct making *m)
{
    return mknodat(m->dir, m->q->name[0], m->mode, 0);
}

static int make_dir(const struct making *m)
{
    return mkdirat(m->dir, m->q->name[0], m->mode & 07777);
}

static int make(struct share_server *s, struct making *m, struct share_reply *r, int (*how)(const struct making *))
{
    int e;
    m->dir = share_node_fd(s, m->q->node);
    if (m->dir < 0 || (e = share_as_asker(s, m->q)) < 0)
        return m->dir < 0 ? m->dir : e;
    e = how(m) < 0 ? -errno : 0;
    share_as_self(s);
    return e < 0 ? e : answer_entry(s, m->q, r, m->q->name[0]);
}

int share_op_symlink(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    struct making m = {.q = q, .target = (const char *)q->rest};
    size_t len = strnlen(m.target, q->rest_len);
    if (!len || len == q->rest_len)
        return -EINVAL;
    return len >= PATH_MAX ? -ENAMETOOLONG : make(s, &m, r, make_link);
}

int share_op_mknod(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_mknod_in *in = q->arg;
    u32 type = in->mode & S_IFMT ? in->mode & S_IFMT : S_IFREG;
    struct making m = {.q = q, .mode = share_mode(s, in->mode, type) | type};
    return type == S_IFREG || type == S_IFIFO || type == S_IFSOCK ? make(s, &m, r, make_node) : -EPERM;
}

int share_op_mkdir(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_mkdir_in *in = q->arg;
    struct making m = {.q = q, .mode = share_mode(s, in->mode, S_IFDIR)};
    return make(s, &m, r, make_dir);
}

int share_op_link(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_link_in *in = q->arg;
    int dir = share_node_fd(s, q->node), old = dir < 0 ? dir : share_node_fd(s, in->oldnodeid);
    if (old < 0)
        return old;
    /* Follows what /proc has, which is the file itself, be it a symbolic link. */
    if (linkat(AT_FDCWD, share_path_of(old).text, dir, q->name[0], AT_SYMLINK_FOLLOW) < 0)
        return -errno;
    return answer_entry(s, q, r, q->name[0]);
}

/* --- removing and moving --- */

static int take_away(struct share_server *s, const struct share_question *q, int flags)
{
    int dir = share_node_fd(s, q->node);
    if (dir < 0)
        return dir;
    return unlinkat(dir, q->name[0], flags) < 0 ? -errno : 0;
}

int share_op_unlink(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    return take_away(s, q, 0);
}

int share_op_rmdir(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    return take_away(s, q, AT_REMOVEDIR);
}

static int move(struct share_server *s, const struct share_question *q, u64 to, u32 flags)
{
    int from_dir = share_node_fd(s, q->node), to_dir = from_dir < 0 ? from_dir : share_node_fd(s, to);
    if (to_dir < 0)
        return to_dir;
    int e = host_rename(from_dir, q->name[0], to_dir, q->name[1], flags);
    if (e < 0)
        return e;
    share_node_moved(s, to, q->name[1]);
    if (flags & RENAME_EXCHANGE)
        share_node_moved(s, q->node, q->name[0]);
    return 0;
}

int share_op_rename(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_rename_in *in = q->arg;
    return move(s, q, in->newdir, 0);
}

int share_op_rename2(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_rename2_in *in = q->arg;
    /* RENAME_WHITEOUT would make a device. */
    return in->flags & ~(u32)(RENAME_NOREPLACE | RENAME_EXCHANGE) ? -EINVAL : move(s, q, in->newdir, in->flags);
}
