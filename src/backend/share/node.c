/*
 * The files that a guest knows, by the number that stands for each (FUSE's nodeid).
 *
 * A number is  serial 44 | index 20 : the index finds the entry, the serial makes the number one that was never given before, by
 * this server or, as it begins at random, by another. So a number that a guest kept from before its machine was loaded elsewhere is
 * answered by ESTALE, and can not mean another file. The root is 1 in every server.
 *
 * Theory: which file. Two names of one file are one node: device, inode, time of birth and type make the key of a hash.
 *
 * Theory: descriptors. A node is held by an O_PATH descriptor, which pins the file whatever its names become. There
 * are fewer descriptors than nodes: the one unused for longest is closed. To have it again the server goes down from the
 * nearest directory that still has one, name by name, and takes each only when its key is the same: what is not there any
 * more is ESTALE. Nodes with open handles keep theirs.
 *
 * What must stay true
 *  1. Nothing outside the directory is reached: each step takes one name, which has no slash and is not "..", by openat2 with
 *     RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS, from a descriptor that was reached the same way.
 *  2. A symbolic link is opened as what it is (O_PATH, O_NOFOLLOW), and never followed.
 */
#include "backend/share/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define INDEX_BITS 20
#define DEPTH_MAX  1024u /* of a path on the way back to a file whose descriptor was closed */

_Static_assert(SHARE_NODES_MAX <= 1u << INDEX_BITS, "an index fits");

int share_stat(int fd, struct statx *x)
{
    return statx(fd, "", AT_EMPTY_PATH | AT_STATX_SYNC_AS_STAT, STATX_BASIC_STATS | STATX_BTIME, x) < 0 ? -errno : 0;
}

struct share_path share_path_of(int fd)
{
    struct share_path p;
    snprintf(p.text, sizeof(p.text), "/proc/self/fd/%d", fd);
    return p;
}

static struct share_key key_of(const struct statx *x)
{
    struct share_key k = {
        .device = (u64)x->stx_dev_major << 32 | x->stx_dev_minor, .inode = x->stx_ino, .type = x->stx_mode & S_IFMT};
    if (x->stx_mask & STATX_BTIME) {
        k.born = x->stx_btime.tv_sec;
        k.born_ns = x->stx_btime.tv_nsec;
    }
    return k;
}

static bool same(const struct share_key *a, const struct share_key *b)
{
    return a->device == b->device && a->inode == b->inode && a->born == b->born && a->born_ns == b->born_ns &&
           a->type == b->type;
}

static u32 *bucket(struct share_server *s, const struct share_key *k)
{
    u64 h = (k->inode ^ k->device << 20) * 0x9e3779b97f4a7c15ull;
    return &s->hash[h >> 48];
}

static u32 index_of(const struct share_server *s, const struct share_node *n)
{
    return (u32)(n - s->node);
}

/* --- descriptors --- */

static void unlink_age(struct share_server *s, struct share_node *n)
{
    *(n->newer == SHARE_NONE ? &s->newest : &s->node[n->newer].older) = n->older;
    *(n->older == SHARE_NONE ? &s->oldest : &s->node[n->older].newer) = n->newer;
}

static void link_newest(struct share_server *s, struct share_node *n)
{
    n->newer = SHARE_NONE;
    n->older = s->newest;
    *(s->newest == SHARE_NONE ? &s->oldest : &s->node[s->newest].newer) = index_of(s, n);
    s->newest = index_of(s, n);
}

static void drop_fd(struct share_server *s, struct share_node *n)
{
    if (n->fd < 0)
        return;
    unlink_age(s, n);
    close(n->fd);
    n->fd = -1;
    s->fds--;
}

/* Take `fd` for a node that has none; others lose theirs when there are too many. */
static void give_fd(struct share_server *s, struct share_node *n, int fd)
{
    for (u32 i = s->oldest; s->fds >= s->fds_max && i != SHARE_NONE;) {
        struct share_node *old = &s->node[i];
        i = old->newer;
        if (!old->opens)
            drop_fd(s, old);
    }
    n->fd = fd;
    s->fds++;
    link_newest(s, n);
}

/* The file of node `n` at its last name in the directory `dir`: a new descriptor, or -errno. */
static int step(int dir, const struct share_node *n)
{
    struct statx x;
    int fd = host_open_beneath(dir, n->name, O_PATH, 0);
    if (fd < 0)
        return fd == -ENOENT || fd == -ENOTDIR ? -ESTALE : fd;
    int r = share_stat(fd, &x);
    const struct share_key k = key_of(&x);
    if (r == 0 && !same(&k, &n->key))
        r = -ESTALE;
    if (r < 0)
        close(fd);
    return r < 0 ? r : fd;
}

static int reopen(struct share_server *s, struct share_node *n)
{
    u32 way[DEPTH_MAX], depth = 0;
    const struct share_node *at = n;
    for (; at && at->fd < 0; at = share_node_find(s, at->parent)) {
        if (depth == DEPTH_MAX)
            return -ESTALE;
        way[depth++] = index_of(s, at);
    }
    if (!at)
        return -ESTALE;
    int dir = at->fd, fd = dir;
    while (depth) {
        fd = step(dir, &s->node[way[--depth]]);
        if (dir != at->fd)
            close(dir);
        if (fd < 0)
            return fd;
        dir = fd;
    }
    give_fd(s, n, fd);
    return fd;
}

int share_node_fd(struct share_server *s, u64 id)
{
    struct share_node *n = share_node_find(s, id);
    if (!n)
        return -ESTALE;
    if (n->fd < 0)
        return reopen(s, n);
    if (n != s->node) {
        unlink_age(s, n);
        link_newest(s, n);
    }
    return n->fd;
}

/* --- nodes --- */

void share_nodes_init(struct share_server *s)
{
    memset(s->hash, 0xff, SHARE_BUCKETS * sizeof(s->hash[0]));
    s->nodes_free = s->newest = s->oldest = SHARE_NONE;
    s->nodes_used = 1;
    s->node[0] = (struct share_node){.id = FUSE_ROOT_ID, .lookups = 1, .fd = s->root};
    host_random(&s->serial, sizeof(s->serial));
    s->serial = (s->serial >> INDEX_BITS >> 1) + 1; /* far from its end */
}

struct share_node *share_node_find(struct share_server *s, u64 id)
{
    u32 i = id == FUSE_ROOT_ID ? 0 : (u32)(id & ((1u << INDEX_BITS) - 1));
    return id && i < s->nodes_used && s->node[i].id == id ? &s->node[i] : NULL;
}

static struct share_node *find_key(struct share_server *s, const struct share_key *k)
{
    for (u32 i = *bucket(s, k); i != SHARE_NONE; i = s->node[i].next)
        if (same(&s->node[i].key, k))
            return &s->node[i];
    return NULL;
}

static struct share_node *add(struct share_server *s, const struct share_key *k)
{
    u32 i = s->nodes_free;
    if (i != SHARE_NONE)
        s->nodes_free = s->node[i].next;
    else if (s->nodes_used < s->nodes_max)
        i = s->nodes_used++;
    else
        return NULL;
    u32 *b = bucket(s, k);
    s->node[i] = (struct share_node){.id = s->serial++ << INDEX_BITS | i, .key = *k, .fd = -1, .next = *b};
    *b = i;
    s->count->nodes++;
    return &s->node[i];
}

static void take_out(struct share_server *s, struct share_node *n)
{
    u32 *at = bucket(s, &n->key);
    while (*at != index_of(s, n))
        at = &s->node[*at].next;
    *at = n->next;
    drop_fd(s, n);
    free(n->name);
    *n = (struct share_node){.fd = -1, .next = s->nodes_free};
    s->nodes_free = index_of(s, n);
    s->count->nodes--;
}

void share_nodes_clear(struct share_server *s)
{
    for (u32 i = 1; i < s->nodes_used; i++)
        if (s->node[i].id)
            take_out(s, &s->node[i]);
}

void share_node_forget(struct share_server *s, u64 id, u64 lookups)
{
    struct share_node *n = share_node_find(s, id);
    if (!n || n == s->node)
        return;
    n->lookups -= MIN(lookups, n->lookups);
    if (!n->lookups)
        take_out(s, n);
}

/* Remember where a node was seen. The root is where it is. */
static int settle(struct share_server *s, struct share_node *n, u64 parent, const char *name)
{
    if (n == s->node || (n->name && n->parent == parent && !strcmp(n->name, name)))
        return 0;
    char *copy = strdup(name);
    if (!copy)
        return -ENOMEM;
    free(n->name);
    n->name = copy;
    n->parent = parent;
    return 0;
}

int share_node_lookup(struct share_server *s, u64 parent, const char *name, int fd, struct share_node **out,
                      struct statx *x)
{
    int dir = fd < 0 ? share_node_fd(s, parent) : 0, r;
    if (dir < 0 || (fd < 0 && (fd = host_open_beneath(dir, name, O_PATH, 0)) < 0))
        return dir < 0 ? dir : fd;
    if ((r = share_stat(fd, x)) < 0) {
        close(fd);
        return r;
    }
    const struct share_key k = key_of(x);
    struct share_node *n = find_key(s, &k);
    bool fresh = !n;
    if (fresh && !(n = add(s, &k)))
        r = -ENFILE;
    else if ((r = settle(s, n, parent, name)) < 0 && fresh)
        take_out(s, n);
    if (r < 0 || n->fd >= 0)
        close(fd);
    else
        give_fd(s, n, fd);
    if (r < 0)
        return r;
    n->lookups++;
    *out = n;
    return 0;
}

void share_node_moved(struct share_server *s, u64 parent, const char *name)
{
    struct statx x;
    int dir = share_node_fd(s, parent), fd = dir < 0 ? dir : host_open_beneath(dir, name, O_PATH, 0);
    if (fd < 0)
        return;
    if (share_stat(fd, &x) == 0) {
        const struct share_key k = key_of(&x);
        struct share_node *n = find_key(s, &k);
        if (n)
            settle(s, n, parent, name);
    }
    close(fd);
}
