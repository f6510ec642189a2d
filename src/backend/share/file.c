/*
 * Open files, by the number that stands for each (FUSE's fh): serial and index, as node.c's.
 *
 * A file is opened through its O_PATH descriptor (/proc/self/fd), which names the very file that the guest looked up: what
 * happened to its name in between does not matter. Its type is known and does not change: nothing but regular files and directories
 * is opened. A new file is made with O_EXCL; only when that says that there is one already is it looked up like any other.
 */
#include "backend/share/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/falloc.h>
#include <unistd.h>

#define INDEX_BITS 12
#define COPY_MAX   (16u << 20) /* bytes of one copy: the guest asks again for the rest */
#define FLAGS_KEPT (O_ACCMODE | O_APPEND | O_TRUNC | O_DSYNC | O_SYNC)
#define FLAGS_MADE (O_NONBLOCK | O_NOCTTY | O_CLOEXEC)

_Static_assert(SHARE_HANDLES_MAX <= 1u << INDEX_BITS, "an index fits");

/* --- handles --- */

struct share_handle *share_handle_find(struct share_server *s, u64 fh)
{
    u32 i = (u32)(fh & ((1u << INDEX_BITS) - 1));
    return i < s->handles_max && s->handle[i].fd >= 0 && s->handle[i].fh == fh ? &s->handle[i] : NULL;
}

static struct share_handle *find(struct share_server *s, u64 fh, bool dir)
{
    struct share_handle *h = share_handle_find(s, fh);
    return h && h->dir == dir ? h : NULL;
}

/* Take `fd`, which is closed if there is no room. 0 or -ENFILE. */
static int add(struct share_server *s, u64 node, int fd, u32 flags, bool dir, u64 *fh)
{
    for (u32 i = 0; i < s->handles_max; i++) {
        struct share_handle *h = &s->handle[i];
        if (h->fd >= 0)
            continue;
        struct share_node *n = share_node_find(s, node);
        *h = (struct share_handle){
            .fh = s->serial++ << INDEX_BITS | i, .node = node, .fd = fd, .dir = dir, .append = flags & O_APPEND};
        if (n)
            n->opens++;
        s->count->handles++;
        *fh = h->fh;
        return 0;
    }
    close(fd);
    return -ENFILE;
}

static void drop(struct share_server *s, struct share_handle *h)
{
    struct share_node *n = share_node_find(s, h->node);
    if (n && n->opens)
        n->opens--;
    close(h->fd);
    h->fd = -1;
    s->count->handles--;
}

void share_handles_clear(struct share_server *s)
{
    for (u32 i = 0; i < s->handles_max; i++)
        if (s->handle[i].fd >= 0)
            drop(s, &s->handle[i]);
}

/* --- opening --- */

static int open_node(struct share_server *s, const struct share_question *q, u32 flags, bool dir, u64 *fh)
{
    struct statx x;
    int path = share_node_fd(s, q->node), e = path < 0 ? path : share_stat(path, &x);
    if (e < 0)
        return e;
    if ((x.stx_mode & S_IFMT) != (dir ? S_IFDIR : S_IFREG))
        return dir ? -ENOTDIR : S_ISDIR(x.stx_mode) ? -EISDIR : -EACCES;
    if (s->read_only && ((flags & O_ACCMODE) != O_RDONLY || flags & O_TRUNC))
        return -EROFS;
    int fd = open(share_path_of(path).text, (int)(flags & FLAGS_KEPT) | FLAGS_MADE | (dir ? O_DIRECTORY : 0));
    return fd < 0 ? -errno : add(s, q->node, fd, flags, dir, fh);
}

int share_op_open(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_open_in *in = q->arg;
    struct fuse_open_out out = {.open_flags = 0};
    int e = open_node(s, q, in->flags, false, &out.fh);
    if (e < 0)
        return e;
    if (in->open_flags & FUSE_OPEN_KILL_SUIDGID && in->flags & O_TRUNC)
        share_kill_suid(share_handle_find(s, out.fh)->fd);
    share_put(r, &out, sizeof(out));
    return 0;
}

int share_op_opendir(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    struct fuse_open_out out = {.open_flags = 0};
    int e = open_node(s, q, O_RDONLY, true, &out.fh);
    if (e == 0)
        share_put(r, &out, sizeof(out));
    return e;
}

/* A new file, opened: a descriptor or -errno, -EEXIST when there is something of that name. */
static int make_file(struct share_server *s, const struct share_question *q, const struct fuse_create_in *in)
{
    int dir = share_node_fd(s, q->node), e = dir < 0 ? dir : share_as_asker(s, q);
    if (e < 0)
        return e;
    u64 flags = (in->flags & FLAGS_KEPT & ~(u32)O_TRUNC) | FLAGS_MADE | O_CREAT | O_EXCL;
    int fd = host_open_beneath(dir, q->name[0], flags, share_mode(s, in->mode, S_IFREG));
    share_as_self(s);
    return fd;
}

int share_op_create(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_create_in *in = q->arg;
    struct fuse_open_out out = {.open_flags = 0};
    struct share_node *n;
    struct statx x;
    int fd = make_file(s, q, in), path = -1;
    if (fd == -EEXIST && !(in->flags & O_EXCL))
        fd = -1;
    else if (fd < 0)
        return fd;
    if (fd >= 0 && (path = open(share_path_of(fd).text, O_PATH | O_CLOEXEC)) < 0) {
        close(fd);
        return -errno;
    }
    int e = share_node_lookup(s, q->node, q->name[0], path, &n, &x);
    if (e < 0) {
        if (fd >= 0)
            close(fd);
        return e;
    }
    const struct share_question opened = {.op = q->op, .node = n->id};
    e = fd >= 0 ? add(s, n->id, fd, in->flags, false, &out.fh) : open_node(s, &opened, in->flags, false, &out.fh);
    if (e == 0 && fd < 0) /* it may have been cut */
        e = share_stat(share_handle_find(s, out.fh)->fd, &x);
    if (e < 0) {
        share_node_forget(s, n->id, 1);
        return e;
    }
    share_put_entry(s, r, n, &x);
    share_put(r, &out, sizeof(out));
    return 0;
}

int share_op_release(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_release_in *in = q->arg;
    struct share_handle *h = share_handle_find(s, in->fh);
    if (!h)
        return -ESTALE;
    drop(s, h);
    return 0;
}

/* --- contents --- */

int share_op_read(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_read_in *in = q->arg;
    const struct share_handle *h = find(s, in->fh, false);
    if (!h || in->offset > INT64_MAX)
        return h ? -EINVAL : -ESTALE;
    ssize_t n = pread(h->fd, r->out, MIN(MIN(in->size, r->room), SHARE_DATA_MAX), (off_t)in->offset);
    if (n < 0)
        return -errno;
    r->len = (u32)n;
    s->count->read += (u64)n;
    return 0;
}

/* What comes out of the guest's cache (mmap) has its place in the file, though the file was opened to append. */
static ssize_t write_in_place(const struct share_handle *h, const struct share_question *q)
{
    const struct fuse_write_in *in = q->arg;
    fcntl(h->fd, F_SETFL, O_NONBLOCK);
    ssize_t n = pwrite(h->fd, q->data, in->size, (off_t)in->offset);
    int e = errno;
    fcntl(h->fd, F_SETFL, O_NONBLOCK | O_APPEND);
    errno = e;
    return n;
}

int share_op_write(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_write_in *in = q->arg;
    const struct share_handle *h = find(s, in->fh, false);
    if (!h)
        return -ESTALE;
    if (in->size != q->rest_len || in->size > SHARE_DATA_MAX || in->offset > INT64_MAX)
        return -EINVAL;
    if (in->write_flags & FUSE_WRITE_KILL_SUIDGID)
        share_kill_suid(h->fd);
    bool cached = h->append && in->write_flags & FUSE_WRITE_CACHE;
    ssize_t n = cached ? write_in_place(h, q) : pwrite(h->fd, q->data, in->size, (off_t)in->offset);
    if (n < 0)
        return -errno;
    const struct fuse_write_out out = {.size = (u32)n};
    share_put(r, &out, sizeof(out));
    s->count->written += (u64)n;
    return 0;
}

int share_op_fsync(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_fsync_in *in = q->arg;
    const struct share_handle *h = share_handle_find(s, in->fh);
    if (!h)
        return -ESTALE;
    return (in->fsync_flags & FUSE_FSYNC_FDATASYNC ? fdatasync(h->fd) : fsync(h->fd)) < 0 ? -errno : 0;
}

int share_op_syncfs(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    int fd = open(share_path_of(s->root).text, O_RDONLY | O_DIRECTORY | O_CLOEXEC), e = 0;
    if (fd < 0)
        return -errno;
    if (syncfs(fd) < 0)
        e = -errno;
    close(fd);
    return e;
}

int share_op_fallocate(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_fallocate_in *in = q->arg;
    const struct share_handle *h = find(s, in->fh, false);
    if (!h)
        return -ESTALE;
    if (in->mode & ~(u32)(FALLOC_FL_KEEP_SIZE | FALLOC_FL_PUNCH_HOLE | FALLOC_FL_ZERO_RANGE))
        return -EOPNOTSUPP;
    if (in->offset > INT64_MAX || in->length > INT64_MAX)
        return -EFBIG;
    return fallocate(h->fd, (int)in->mode, (off_t)in->offset, (off_t)in->length) < 0 ? -errno : 0;
}

int share_op_lseek(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_lseek_in *in = q->arg;
    const struct share_handle *h = find(s, in->fh, false);
    if (!h || (in->whence != SEEK_DATA && in->whence != SEEK_HOLE)) /* the guest's kernel does the others */
        return h ? -EINVAL : -ESTALE;
    off_t at = lseek(h->fd, (off_t)in->offset, (int)in->whence);
    if (at < 0)
        return -errno;
    const struct fuse_lseek_out out = {.offset = (u64)at};
    share_put(r, &out, sizeof(out));
    return 0;
}

int share_op_copy(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_copy_file_range_in *in = q->arg;
    const struct share_handle *from = find(s, in->fh_in, false), *to = find(s, in->fh_out, false);
    off_t in_at = (off_t)in->off_in, out_at = (off_t)in->off_out;
    if (!from || !to)
        return -ESTALE;
    if (in->flags || in_at < 0 || out_at < 0)
        return -EINVAL;
    ssize_t n = copy_file_range(from->fd, &in_at, to->fd, &out_at, (size_t)MIN(in->len, (u64)COPY_MAX), 0);
    if (n < 0)
        return -errno;
    const struct fuse_write_out out = {.size = (u32)n};
    share_put(r, &out, sizeof(out));
    return 0;
}
