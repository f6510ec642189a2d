/*
 * Questions of a guest, taken apart and answered. Source: linux/fuse.h, protocol 7.31 and later.
 *
 *   question   | header 40 | arguments, of fixed size for each operation | names, ended by 0 | data |
 *
 * One table says what each operation has: so all lengths and names are checked in one place, before any operation runs. What is not
 * in the table is ENOSYS.
 *
 * Theory: trust. The question lies in memory that a hostile cell can write at any time. Header, arguments and names are copied, once,
 * and only the copy is looked at; data of a write goes to the kernel from where it lies. Numbers of files and open files are looked up
 * (node.c, file.c), and never used as anything else.
 *
 * Theory: whose files. Without root on the host there is one owner, the caller: he is 0 in the guest, in uid and gid, whatever the
 * guest's user is; others' files are shown as nobody's (65534), and giving a file to somebody is EPERM. A guest can not
 * make programs on the host that run as the caller for others: set-user-id and set-group-id bits of files are left out. With root
 * (and its capabilities over files) ids are the same inside and out, and bits are kept: such a guest is root in that directory.
 *
 * The guest's kernel checks permissions (it mounts with default_permissions); what the host refuses is refused as well.
 *
 * What must stay true
 *  1. A read-only share answers EROFS to each operation that the table marks, and opens nothing for writing.
 *  2. Nothing but regular files and directories is ever opened, so nothing blocks and no device is reached (file.c).
 *  3. An answer is written only as far as there is room, which is checked before the operation does anything.
 *
 * Not done: locks and leases that the host sees (a guest's are its own), POSIX ACLs, submounts told apart, several requests at a time,
 * telling the guest of changes on the host before its second is over.
 */
#include "backend/share/internal.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MINOR_MIN 27u
#define MINOR     33u
#define WANTED                                                                                              \
    (FUSE_ASYNC_READ | FUSE_BIG_WRITES | FUSE_ATOMIC_O_TRUNC | FUSE_AUTO_INVAL_DATA | FUSE_DO_READDIRPLUS | \
     FUSE_READDIRPLUS_AUTO | FUSE_ASYNC_DIO | FUSE_PARALLEL_DIROPS | FUSE_MAX_PAGES | FUSE_HANDLE_KILLPRIV_V2)

void share_put(struct share_reply *r, const void *data, size_t len)
{
    if (len > r->room - r->len)
        return;
    memcpy(r->out + r->len, data, len);
    r->len += (u32)len;
}

/* --- whose files --- */

int share_as_asker(struct share_server *s, const struct share_question *q)
{
    if (!s->pass)
        return 0;
    return q->uid == UINT32_MAX || q->gid == UINT32_MAX ? -EINVAL : host_files_as(q->uid, q->gid);
}

void share_as_self(struct share_server *s)
{
    if (s->pass)
        host_files_as_self();
}

u32 share_mode(const struct share_server *s, u32 mode, u32 type)
{
    mode &= 07777;
    return s->pass || type == S_IFDIR ? mode : mode & ~(u32)(S_ISUID | S_ISGID);
}

static u32 show(const struct share_server *s, u32 id, u32 own)
{
    return s->pass ? id : id == own ? 0 : SHARE_ID_NOBODY;
}

static void attr_of(const struct share_server *s, const struct statx *x, struct fuse_attr *a)
{
    *a = (struct fuse_attr){.ino = x->stx_ino,
                            .size = x->stx_size,
                            .blocks = x->stx_blocks,
                            .atime = (u64)x->stx_atime.tv_sec,
                            .mtime = (u64)x->stx_mtime.tv_sec,
                            .ctime = (u64)x->stx_ctime.tv_sec,
                            .atimensec = x->stx_atime.tv_nsec,
                            .mtimensec = x->stx_mtime.tv_nsec,
                            .ctimensec = x->stx_ctime.tv_nsec,
                            .mode = x->stx_mode,
                            .nlink = x->stx_nlink,
                            .uid = show(s, x->stx_uid, s->uid),
                            .gid = show(s, x->stx_gid, s->gid),
                            .rdev = (x->stx_rdev_minor & 0xff) | x->stx_rdev_major << 8 |
                                    (x->stx_rdev_minor & ~0xffu) << 12,
                            .blksize = x->stx_blksize};
}

void share_entry(const struct share_server *s, struct fuse_entry_out *e, const struct share_node *n,
                 const struct statx *x)
{
    *e = (struct fuse_entry_out){.nodeid = n->id, .entry_valid = SHARE_TIMEOUT_S, .attr_valid = SHARE_TIMEOUT_S};
    attr_of(s, x, &e->attr);
}

void share_put_entry(struct share_server *s, struct share_reply *r, const struct share_node *n, const struct statx *x)
{
    struct fuse_entry_out e;
    share_entry(s, &e, n, x);
    share_put(r, &e, sizeof(e));
}

void share_put_attr(struct share_server *s, struct share_reply *r, const struct statx *x)
{
    struct fuse_attr_out a = {.attr_valid = SHARE_TIMEOUT_S};
    attr_of(s, x, &a.attr);
    share_put(r, &a, sizeof(a));
}

/* --- the session --- */

static void forget_all(struct share_server *s)
{
    share_handles_clear(s);
    share_nodes_clear(s);
}

/* A driver begins: whatever was before is gone. */
static int op_init(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct fuse_init_in *in = q->arg;
    struct fuse_init_out out = {.major = FUSE_KERNEL_VERSION, .minor = MIN(in->minor, MINOR)};
    if (in->major < FUSE_KERNEL_VERSION || (in->major == FUSE_KERNEL_VERSION && in->minor < MINOR_MIN))
        return -EPROTO;
    forget_all(s);
    if (in->major == FUSE_KERNEL_VERSION) { /* else it asks again with ours */
        out.max_readahead = in->max_readahead;
        out.flags = in->flags & WANTED;
        out.max_background = 16;
        out.congestion_threshold = 12;
        out.max_write = SHARE_DATA_MAX;
        out.time_gran = 1;
        out.max_pages = SHARE_DATA_MAX / PAGE_SIZE;
    }
    share_put(r, &out, sizeof(out));
    return 0;
}

static int op_destroy(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    forget_all(s);
    return 0;
}

static int op_interrupt(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    return SHARE_SILENT; /* each question is answered before the next is looked at */
}

static int op_nothing(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    return 0;
}

/* --- the table --- */

static const struct op {
    share_op *run;
    u16 arg;    /* bytes of fixed size */
    u16 answer; /* bytes that the answer has room for at least */
    u8 names;   /* of files, that follow */
    bool changes;
    bool silent;
} ops[] = {
#define ENTRY sizeof(struct fuse_entry_out)
#define ATTR  sizeof(struct fuse_attr_out)
#define OPEN  sizeof(struct fuse_open_out)
    [FUSE_INIT] = {op_init, 16, sizeof(struct fuse_init_out), 0, false, false},
    [FUSE_DESTROY] = {op_destroy, 0, 0, 0, false, false},
    [FUSE_INTERRUPT] = {op_interrupt, 0, 0, 0, false, true},
    [FUSE_LOOKUP] = {share_op_lookup, 0, ENTRY, 1, false, false},
    [FUSE_FORGET] = {share_op_forget, sizeof(struct fuse_forget_in), 0, 0, false, true},
    [FUSE_BATCH_FORGET] = {share_op_batch_forget, sizeof(struct fuse_batch_forget_in), 0, 0, false, true},
    [FUSE_GETATTR] = {share_op_getattr, sizeof(struct fuse_getattr_in), ATTR, 0, false, false},
    [FUSE_SETATTR] = {share_op_setattr, sizeof(struct fuse_setattr_in), ATTR, 0, true, false},
    [FUSE_READLINK] = {share_op_readlink, 0, 0, 0, false, false},
    [FUSE_SYMLINK] = {share_op_symlink, 0, ENTRY, 1, true, false},
    [FUSE_MKNOD] = {share_op_mknod, sizeof(struct fuse_mknod_in), ENTRY, 1, true, false},
    [FUSE_MKDIR] = {share_op_mkdir, sizeof(struct fuse_mkdir_in), ENTRY, 1, true, false},
    [FUSE_UNLINK] = {share_op_unlink, 0, 0, 1, true, false},
    [FUSE_RMDIR] = {share_op_rmdir, 0, 0, 1, true, false},
    [FUSE_RENAME] = {share_op_rename, sizeof(struct fuse_rename_in), 0, 2, true, false},
    [FUSE_RENAME2] = {share_op_rename2, sizeof(struct fuse_rename2_in), 0, 2, true, false},
    [FUSE_LINK] = {share_op_link, sizeof(struct fuse_link_in), ENTRY, 1, true, false},
    [FUSE_OPEN] = {share_op_open, sizeof(struct fuse_open_in), OPEN, 0, false, false},
    [FUSE_CREATE] = {share_op_create, sizeof(struct fuse_create_in), ENTRY + OPEN, 1, true, false},
    [FUSE_READ] = {share_op_read, sizeof(struct fuse_read_in), 0, 0, false, false},
    [FUSE_WRITE] = {share_op_write, sizeof(struct fuse_write_in), sizeof(struct fuse_write_out), 0, true, false},
    [FUSE_STATFS] = {share_op_statfs, 0, sizeof(struct fuse_statfs_out), 0, false, false},
    [FUSE_RELEASE] = {share_op_release, sizeof(struct fuse_release_in), 0, 0, false, false},
    [FUSE_RELEASEDIR] = {share_op_release, sizeof(struct fuse_release_in), 0, 0, false, false},
    [FUSE_FLUSH] = {op_nothing, sizeof(struct fuse_flush_in), 0, 0, false, false},
    [FUSE_FSYNC] = {share_op_fsync, sizeof(struct fuse_fsync_in), 0, 0, false, false},
    [FUSE_FSYNCDIR] = {share_op_fsync, sizeof(struct fuse_fsync_in), 0, 0, false, false},
    [FUSE_SYNCFS] = {share_op_syncfs, 0, 0, 0, false, false},
    [FUSE_OPENDIR] = {share_op_opendir, sizeof(struct fuse_open_in), OPEN, 0, false, false},
    [FUSE_READDIR] = {share_op_readdir, sizeof(struct fuse_read_in), 0, 0, false, false},
    [FUSE_READDIRPLUS] = {share_op_readdirplus, sizeof(struct fuse_read_in), 0, 0, false, false},
    [FUSE_SETXATTR] = {share_op_setxattr, FUSE_COMPAT_SETXATTR_IN_SIZE, 0, 0, true, false},
    [FUSE_GETXATTR] = {share_op_getxattr, sizeof(struct fuse_getxattr_in), sizeof(struct fuse_getxattr_out), 0, false,
                       false},
    [FUSE_LISTXATTR] = {share_op_listxattr, sizeof(struct fuse_getxattr_in), sizeof(struct fuse_getxattr_out), 0, false,
                        false},
    [FUSE_REMOVEXATTR] = {share_op_removexattr, 0, 0, 0, true, false},
    [FUSE_FALLOCATE] = {share_op_fallocate, sizeof(struct fuse_fallocate_in), 0, 0, true, false},
    [FUSE_LSEEK] = {share_op_lseek, sizeof(struct fuse_lseek_in), sizeof(struct fuse_lseek_out), 0, false, false},
    [FUSE_COPY_FILE_RANGE] = {share_op_copy, sizeof(struct fuse_copy_file_range_in), sizeof(struct fuse_write_out), 0,
                              true, false},
#undef ENTRY
#undef ATTR
#undef OPEN
};

/* One component of a path: what may be asked of the host. */
static bool plain(const char *name, size_t len)
{
    return len && len < NAME_BYTES && !memchr(name, '/', len) && strcmp(name, ".") && strcmp(name, "..");
}

static int take_names(struct share_question *q, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        size_t len = strnlen((const char *)q->rest, q->rest_len);
        if (len == q->rest_len)
            return -EINVAL;
        q->name[i] = (const char *)q->rest;
        if (!plain(q->name[i], len))
            return len >= NAME_BYTES ? -ENAMETOOLONG : -EINVAL;
        q->rest += len + 1;
        q->rest_len -= (u32)len + 1;
    }
    return 0;
}

/* Between a copy out of shared memory and whoever looks at it: it is not to be fetched again. */
static void copy_once(void *to, const void *from, size_t len)
{
    memcpy(to, from, len);
    __asm__ volatile("" ::: "memory");
}

/* The question behind its header, which is in `h`. */
static int take(struct share_server *s, struct share_question *q, const struct fuse_in_header *h, const u8 *question,
                u32 len)
{
    const struct op *op = h->opcode < ARRAY_LEN(ops) ? &ops[h->opcode] : NULL;
    if (!op || !op->run)
        return -ENOSYS;
    u32 body = len - SHARE_ASK_HEAD, copied = h->opcode == FUSE_WRITE ? MIN(body, op->arg) : body;
    if (h->len != len || body < op->arg)
        return -EINVAL;
    copy_once(s->question, question + SHARE_ASK_HEAD, copied);
    *q = (struct share_question){.op = h->opcode,
                                 .node = h->nodeid,
                                 .uid = h->uid,
                                 .gid = h->gid,
                                 .arg = s->question,
                                 .rest = s->question + op->arg,
                                 .rest_len = body - op->arg,
                                 .data = question + SHARE_ASK_HEAD + op->arg};
    if (h->opcode == FUSE_INIT) /* grows with the protocol: what is missing is 0 */
        memset(s->question + copied, 0, sizeof(struct fuse_init_in));
    return take_names(q, op->names);
}

static int run(struct share_server *s, const struct share_question *q, struct share_reply *r)
{
    const struct op *op = &ops[q->op];
    if (op->changes && s->read_only)
        return -EROFS;
    return r->room < op->answer ? -EINVAL : op->run(s, q, r);
}

u32 share_server_ask(struct share_server *s, const u8 *question, u32 len, u8 *answer, u32 room)
{
    struct fuse_in_header h;
    struct share_question q;
    struct fuse_out_header out = {0};
    struct share_reply r = {.out = answer + sizeof(out), .room = room > sizeof(out) ? room - (u32)sizeof(out) : 0};
    s->count->requests++;
    if (len < SHARE_ASK_HEAD || len > SHARE_ASK_MAX)
        return 0;
    copy_once(&h, question, sizeof(h));
    bool silent = h.opcode < ARRAY_LEN(ops) && ops[h.opcode].silent;
    int e = silent || room >= sizeof(out) ? take(s, &q, &h, question, len) : SHARE_SILENT;
    if (e == 0)
        e = run(s, &q, &r);
    if (silent || e == SHARE_SILENT || room < sizeof(out))
        return 0;
    s->count->errors += e < 0;
    out = (struct fuse_out_header){.len = (u32)sizeof(out) + (e < 0 ? 0 : r.len), .error = e, .unique = h.unique};
    memcpy(answer, &out, sizeof(out));
    return out.len;
}

/* --- life --- */

static int find_limits(struct share_server *s, const struct share_options *o)
{
    u32 all = host_descriptors(SHARE_DESCRIPTORS);
    s->nodes_max = o->nodes ? MIN(o->nodes, SHARE_NODES_MAX) : SHARE_NODES_MAX;
    s->fds_max = o->descriptors ? MIN(o->descriptors, all / 2) : all / 2;
    s->handles_max = o->handles ? MIN(o->handles, all / 4) : MIN(all / 4, SHARE_HANDLES_MAX);
    s->handles_max = MIN(s->handles_max, s->fds_max / 2); /* open files keep their descriptor as well */
    return all < 128 ? -EMFILE : 0;
}

int share_server_create(struct share_server **out, const struct share_options *o, struct share_count *count,
                        struct error *e)
{
    struct share_server *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(e, ENOMEM, "--share: out of memory");
    s->root = o->root;
    s->read_only = o->read_only;
    s->count = count;
    s->uid = geteuid();
    s->gid = getegid();
    s->pass = host_may_pass_ids();
    int r = find_limits(s, o), fd = host_open_beneath(o->root, ".", O_PATH, 0);
    if (r < 0)
        error_set(e, -r, "--share: too few descriptors (ulimit -n); 128 are needed");
    else if (fd < 0)
        r = error_set(e, -fd, "--share: openat2: %s; Linux 5.6 or newer is needed", strerror(-fd));
    else if (access(share_path_of(fd).text, F_OK) < 0)
        r = error_set(e, ENOENT, "--share: /proc/self/fd: %s; mount /proc", strerror(errno));
    if (fd >= 0)
        close(fd);
    s->node = r < 0 ? NULL : host_map_anonymous((u64)s->nodes_max * sizeof(*s->node), e);
    s->hash = malloc(SHARE_BUCKETS * sizeof(*s->hash));
    s->handle = calloc(s->handles_max + 1u, sizeof(*s->handle));
    s->question = malloc(SHARE_ASK_MAX + sizeof(struct fuse_init_in));
    s->scratch = malloc(SHARE_SCRATCH);
    if (r == 0 && (!s->node || !s->hash || !s->handle || !s->question || !s->scratch))
        r = error_set(e, ENOMEM, "--share: out of memory");
    if (r < 0) {
        share_server_destroy(s);
        return r;
    }
    for (u32 i = 0; i < s->handles_max; i++)
        s->handle[i].fd = -1;
    share_nodes_init(s);
    *out = s;
    return 0;
}

void share_server_destroy(struct share_server *s)
{
    if (s->node && s->nodes_used)
        forget_all(s);
    host_unmap(s->node, (u64)s->nodes_max * sizeof(*s->node));
    free(s->hash);
    free(s->handle);
    free(s->question);
    free(s->scratch);
    free(s);
}
