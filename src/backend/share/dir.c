/*
 * Directories, read. The guest says where to go on: an offset that the host's file system gave with the entry before; whatever
 * else it says is taken by the host's file system as well, from any user's program, and gives an error or other entries.
 */
#include "backend/share/internal.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

struct reading {
    u64 dir; /* node */
    bool root, plus;
};

static u32 padded(size_t n)
{
    return ((u32)n + 7u) & ~7u;
}

/* The entry into the answer; false when there is no room. */
static bool put_entry(struct share_server *s, const struct reading *d, const struct dirent64 *e, struct share_reply *r)
{
    static const u8 zeros[8];
    size_t len = strlen(e->d_name);
    bool dots = !strcmp(e->d_name, ".") || !strcmp(e->d_name, "..");
    u32 head = d->plus ? (u32)FUSE_NAME_OFFSET_DIRENTPLUS : (u32)FUSE_NAME_OFFSET, size = padded(head + len);
    struct fuse_direntplus p = {
        .dirent = {.ino = e->d_ino, .off = (u64)e->d_off, .namelen = (u32)len, .type = e->d_type}};
    if (len >= NAME_BYTES || size > r->room - r->len)
        return len >= NAME_BYTES; /* a name that a guest could not have anyway */
    if (d->root && !strcmp(e->d_name, ".."))
        p.dirent.ino = 1; /* what is above is not the guest's business */
    if (d->plus && !dots) {
        struct share_node *n;
        struct statx x;
        if (share_node_lookup(s, d->dir, e->d_name, -1, &n, &x) == 0)
            share_entry(s, &p.entry_out, n, &x);
    }
    if (d->plus)
        share_put(r, &p, FUSE_NAME_OFFSET_DIRENTPLUS);
    else
        share_put(r, &p.dirent, FUSE_NAME_OFFSET);
    share_put(r, e->d_name, len);
    share_put(r, zeros, size - head - len);
    return true;
}

/* `n` bytes of entries in scratch: false when the answer is full. */
static bool put_entries(struct share_server *s, const struct reading *d, size_t n, struct share_reply *r)
{
    const struct dirent64 *e;
    for (size_t at = 0; at < n; at += e->d_reclen) {
        e = (const void *)(s->scratch + at);
        if (!put_entry(s, d, e, r))
            return false;
    }
    return true;
}

static int read_dir(struct share_server *s, const struct share_question *q, struct share_reply *r, bool plus)
{
    const struct fuse_read_in *in = q->arg;
    const struct share_handle *h = share_handle_find(s, in->fh);
    if (!h || !h->dir)
        return h ? -ENOTDIR : -ESTALE;
    const struct reading d = {.dir = h->node, .root = h->node == FUSE_ROOT_ID, .plus = plus};
    r->room = MIN(r->room, in->size);
    if (in->offset > INT64_MAX || lseek(h->fd, (off_t)in->offset, SEEK_SET) < 0)
        return -EINVAL;
    for (;;) {
        ssize_t n = getdents64(h->fd, s->scratch, plus ? 4096 : MIN(SHARE_SCRATCH, MAX(r->room, 1024u)));
        if (n < 0)
            return r->len ? 0 : -errno;
        if (!n || !put_entries(s, &d, (size_t)n, r))
            return 0;
    }
}

int share_op_readdir(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    return read_dir(s, q, r, false);
}

int share_op_readdirplus(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    return read_dir(s, q, r, true);
}
