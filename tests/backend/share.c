/*
 * The server of a shared directory, asked directly: each operation, what hostile guests say, a host that changes the
 * directory meanwhile, and limits. Runs as whoever runs the tests; as root once more as a user without root (as_nobody).
 */
#include "backend/share/share.h"

#include <setjmp.h>
#include <stdarg.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/fuse.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <sys/xattr.h>
#include <unistd.h>
#include <cmocka.h>

#define ROOM (SHARE_DATA_MAX + 4096u)

struct fixture {
    char base[64], dir[80], outside[80]; /* base/share is given away, base/secret not */
    int root;
    struct share_server *s;
    struct share_count count;
    u8 ask[SHARE_ASK_MAX + 64], answer[ROOM];
    u32 answered; /* bytes */
};

static void path(const struct fixture *f, const char *name, char out[256])
{
    snprintf(out, 256, "%s/%s", f->dir, name);
}

static void write_host(const char *file, const char *text)
{
    int fd = open(file, O_WRONLY | O_CREAT | O_TRUNC, 0644);
    assert_true(fd >= 0);
    assert_int_equal(write(fd, text, strlen(text)), strlen(text));
    close(fd);
}

static void put_host(const struct fixture *f, const char *name, const char *text)
{
    char p[256];
    path(f, name, p);
    write_host(p, text);
}

static void start(struct fixture *f, const struct share_options *o)
{
    struct share_options with = *o;
    struct error e = {0};
    with.root = f->root;
    if (share_server_create(&f->s, &with, &f->count, &e) < 0)
        fail_msg("%s", e.msg);
}

static struct fixture *begin_with(const struct share_options *o)
{
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    strcpy(f->base, "/tmp/trapeze-share-XXXXXX");
    assert_non_null(mkdtemp(f->base));
    snprintf(f->dir, sizeof(f->dir), "%s/share", f->base);
    snprintf(f->outside, sizeof(f->outside), "%s/secret", f->base);
    assert_int_equal(mkdir(f->dir, 0755), 0);
    write_host(f->outside, "secret");
    f->root = open(f->dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    umask(0);
    start(f, o);
    return f;
}

static struct fixture *begin(void)
{
    return begin_with(&(struct share_options){0});
}

static void end(struct fixture *f)
{
    char command[256];
    share_server_destroy(f->s);
    close(f->root);
    snprintf(command, sizeof(command), "chmod -R u+rwx %.60s; rm -rf %.60s", f->base, f->base);
    assert_int_equal(system(command), 0);
    free(f);
}

/* Ask: arguments, then `len` bytes behind them. The error, or 0. */
static int ask_as(struct fixture *f, u32 uid, u32 op, u64 node, const void *arg, size_t arg_len, const void *rest,
                  size_t len)
{
    struct fuse_in_header h = {
        .len = (u32)(sizeof(h) + arg_len + len), .opcode = op, .unique = 7, .nodeid = node, .uid = uid, .gid = uid};
    memcpy(f->ask, &h, sizeof(h));
    if (arg_len)
        memcpy(f->ask + sizeof(h), arg, arg_len);
    if (len)
        memcpy(f->ask + sizeof(h) + arg_len, rest, len);
    f->answered = share_server_ask(f->s, f->ask, h.len, f->answer, ROOM);
    struct fuse_out_header out;
    memcpy(&out, f->answer, sizeof(out));
    if (!f->answered)
        return 0;
    assert_true(out.len == f->answered && out.unique == 7 && out.error <= 0);
    return out.error;
}

static int ask(struct fixture *f, u32 op, u64 node, const void *arg, size_t arg_len, const void *rest, size_t len)
{
    return ask_as(f, 0, op, node, arg, arg_len, rest, len);
}

#define RESULT(f, type) (*(const struct type *)((f)->answer + sizeof(struct fuse_out_header)))

static int lookup(struct fixture *f, u64 dir, const char *name)
{
    return ask(f, FUSE_LOOKUP, dir, NULL, 0, name, strlen(name) + 1);
}

static u64 node_of(struct fixture *f, u64 dir, const char *name)
{
    int e = lookup(f, dir, name);
    if (e)
        fail_msg("%s: %s", name, strerror(-e));
    return RESULT(f, fuse_entry_out).nodeid;
}

static int forget(struct fixture *f, u64 node, u64 n)
{
    const struct fuse_forget_in in = {n};
    int e = ask(f, FUSE_FORGET, node, &in, sizeof(in), NULL, 0);
    assert_int_equal(f->answered, 0);
    return e;
}

static int open_node(struct fixture *f, u64 node, u32 flags, u64 *fh)
{
    const struct fuse_open_in in = {.flags = flags};
    int e = ask(f, FUSE_OPEN, node, &in, sizeof(in), NULL, 0);
    *fh = e ? 0 : RESULT(f, fuse_open_out).fh;
    return e;
}

static int create_as(struct fixture *f, u32 uid, u64 dir, const char *name, u32 flags, u32 mode, u64 *fh)
{
    const struct fuse_create_in in = {.flags = flags, .mode = S_IFREG | mode};
    int e = ask_as(f, uid, FUSE_CREATE, dir, &in, sizeof(in), name, strlen(name) + 1);
    *fh = 0;
    if (e == 0)
        memcpy(fh, f->answer + sizeof(struct fuse_out_header) + sizeof(struct fuse_entry_out), 8);
    return e;
}

static int create(struct fixture *f, u64 dir, const char *name, u32 flags, u32 mode, u64 *fh)
{
    return create_as(f, 0, dir, name, flags, mode, fh);
}

static int release(struct fixture *f, u64 node, u64 fh)
{
    const struct fuse_release_in in = {.fh = fh};
    return ask(f, FUSE_RELEASE, node, &in, sizeof(in), NULL, 0);
}

static int read_at(struct fixture *f, u64 fh, u64 at, u32 size)
{
    const struct fuse_read_in in = {.fh = fh, .offset = at, .size = size};
    return ask(f, FUSE_READ, 0, &in, sizeof(in), NULL, 0);
}

static int write_at(struct fixture *f, u64 fh, u64 at, const void *data, u32 size)
{
    const struct fuse_write_in in = {.fh = fh, .offset = at, .size = size};
    return ask(f, FUSE_WRITE, 0, &in, sizeof(in), data, size);
}

static int getattr(struct fixture *f, u64 node)
{
    const struct fuse_getattr_in in = {0};
    return ask(f, FUSE_GETATTR, node, &in, sizeof(in), NULL, 0);
}

static int setattr(struct fixture *f, u64 node, struct fuse_setattr_in in)
{
    return ask(f, FUSE_SETATTR, node, &in, sizeof(in), NULL, 0);
}

static int make_dir(struct fixture *f, u64 dir, const char *name)
{
    const struct fuse_mkdir_in in = {.mode = 0755};
    return ask(f, FUSE_MKDIR, dir, &in, sizeof(in), name, strlen(name) + 1);
}

static int rename_to(struct fixture *f, u64 from, const char *a, u64 to, const char *b, u32 flags)
{
    const struct fuse_rename2_in in = {.newdir = to, .flags = flags};
    char names[600];
    size_t n = strlen(a) + 1, m = strlen(b) + 1;
    memcpy(names, a, n);
    memcpy(names + n, b, m);
    return ask(f, FUSE_RENAME2, from, &in, sizeof(in), names, n + m);
}

static int two_names(struct fixture *f, u32 op, u64 dir, const char *a, const char *b)
{
    char names[5000];
    snprintf(names, sizeof(names), "%s%c%s", a, 0, b);
    return ask(f, op, dir, NULL, 0, names, strlen(a) + strlen(b) + 2);
}

/* --- what a guest does --- */

static void session(void **state)
{
    struct fixture *f = begin();
    const struct fuse_init_in in = {.major = 7, .minor = 38, .max_readahead = 131072, .flags = UINT32_MAX};
    assert_int_equal(ask(f, FUSE_INIT, 0, &in, sizeof(in), NULL, 0), 0);
    const struct fuse_init_out *out = &RESULT(f, fuse_init_out);
    assert_int_equal(out->major, 7);
    assert_true(out->minor >= 31 && out->max_write == SHARE_DATA_MAX && out->flags & FUSE_AUTO_INVAL_DATA);
    assert_false(out->flags & (FUSE_WRITEBACK_CACHE | FUSE_POSIX_LOCKS | FUSE_MAP_ALIGNMENT));
    put_host(f, "a", "1");
    u64 a = node_of(f, 1, "a");
    assert_int_equal(getattr(f, a), 0);
    assert_int_equal(ask(f, FUSE_INIT, 0, &in, 16, NULL, 0), 0); /* a new driver, with an older question */
    assert_int_equal(getattr(f, a), -ESTALE);
    const struct fuse_init_in old = {.major = 7, .minor = 12};
    assert_int_equal(ask(f, FUSE_INIT, 0, &old, sizeof(old), NULL, 0), -EPROTO);
    const struct fuse_init_in newer = {.major = 8};
    assert_int_equal(ask(f, FUSE_INIT, 0, &newer, sizeof(newer), NULL, 0), 0);
    assert_int_equal(RESULT(f, fuse_init_out).major, 7);
    assert_int_equal(ask(f, FUSE_GETLK, 1, &in, sizeof(in), NULL, 0), -ENOSYS);
    assert_int_equal(ask(f, FUSE_IOCTL, 1, &in, sizeof(in), NULL, 0), -ENOSYS);
    assert_int_equal(ask(f, 0, 1, &in, sizeof(in), NULL, 0), -ENOSYS);
    assert_int_equal(ask(f, UINT32_MAX, 1, &in, sizeof(in), NULL, 0), -ENOSYS);
    assert_int_equal(ask(f, FUSE_STATFS, 1, NULL, 0, NULL, 0), 0);
    assert_true(RESULT(f, fuse_statfs_out).st.blocks > 0);
    assert_int_equal(ask(f, FUSE_SYNCFS, 1, &(u64){0}, 8, NULL, 0), 0);
    end(f);
}

static void files(void **state)
{
    struct fixture *f = begin();
    char p[256], text[32] = "";
    u64 fh, again;
    assert_int_equal(create(f, 1, "new", O_RDWR, 0640, &fh), 0);
    u64 node = RESULT(f, fuse_entry_out).nodeid;
    assert_int_equal(RESULT(f, fuse_entry_out).attr.mode, S_IFREG | 0640);
    assert_int_equal(create(f, 1, "new", O_RDWR | O_EXCL, 0640, &again), -EEXIST);
    assert_int_equal(write_at(f, fh, 0, "hello", 5), 0);
    assert_int_equal(RESULT(f, fuse_write_out).size, 5);
    assert_int_equal(write_at(f, fh, 10, "there", 5), 0);
    assert_int_equal(read_at(f, fh, 0, 100), 0);
    assert_int_equal(f->answered, 16 + 15);
    assert_memory_equal(f->answer + 16, "hello\0\0\0\0\0there", 15);
    const struct fuse_fsync_in sync = {.fh = fh, .fsync_flags = 1};
    assert_int_equal(ask(f, FUSE_FSYNC, node, &sync, sizeof(sync), NULL, 0), 0);
    path(f, "new", p);
    int fd = open(p, O_RDONLY);
    assert_int_equal(read(fd, text, 32), 15);
    close(fd);
    assert_int_equal(setattr(f, node, (struct fuse_setattr_in){.valid = FATTR_SIZE, .size = 3}), 0);
    assert_int_equal(RESULT(f, fuse_attr_out).attr.size, 3);
    assert_int_equal(setattr(f, node, (struct fuse_setattr_in){.valid = FATTR_SIZE | FATTR_FH, .fh = fh, .size = 7}),
                     0);
    assert_int_equal(setattr(f, node, (struct fuse_setattr_in){.valid = FATTR_MTIME, .mtime = 1000, .mtimensec = 5}),
                     0);
    assert_int_equal(RESULT(f, fuse_attr_out).attr.mtime, 1000);
    assert_int_equal(RESULT(f, fuse_attr_out).attr.mtimensec, 5);
    const struct fuse_fallocate_in room = {.fh = fh, .length = 5000};
    assert_int_equal(ask(f, FUSE_FALLOCATE, node, &room, sizeof(room), NULL, 0), 0);
    const struct fuse_lseek_in seek = {.fh = fh, .whence = SEEK_HOLE};
    assert_int_equal(ask(f, FUSE_LSEEK, node, &seek, sizeof(seek), NULL, 0), 0);
    assert_int_equal(create(f, 1, "copy", O_RDWR, 0600, &again), 0);
    const struct fuse_copy_file_range_in copy = {.fh_in = fh, .fh_out = again, .len = 3};
    assert_int_equal(ask(f, FUSE_COPY_FILE_RANGE, node, &copy, sizeof(copy), NULL, 0), 0);
    assert_int_equal(RESULT(f, fuse_write_out).size, 3);
    assert_int_equal(read_at(f, again, 0, 100), 0);
    assert_memory_equal(f->answer + 16, "hel", 3);
    assert_int_equal(release(f, node, fh), 0);
    assert_int_equal(release(f, node, fh), -ESTALE);
    assert_int_equal(read_at(f, fh, 0, 1), -ESTALE);
    assert_int_equal(open_node(f, node, O_RDWR | O_TRUNC, &fh), 0);
    assert_int_equal(getattr(f, node), 0);
    assert_int_equal(RESULT(f, fuse_attr_out).attr.size, 0);
    assert_int_equal(f->count.handles, 2);
    end(f);
}

/* What is appended goes to the end as it is on the host; what the guest's cache gives back goes to its place. */
static void appended(void **state)
{
    struct fixture *f = begin();
    u64 fh;
    put_host(f, "log", "one ");
    assert_int_equal(open_node(f, node_of(f, 1, "log"), O_RDWR | O_APPEND, &fh), 0);
    put_host(f, "log", "one two ");
    assert_int_equal(write_at(f, fh, 4, "three", 5), 0);
    const struct fuse_write_in cached = {.fh = fh, .offset = 0, .size = 3, .write_flags = FUSE_WRITE_CACHE};
    assert_int_equal(ask(f, FUSE_WRITE, 1, &cached, sizeof(cached), "ONE", 3), 0);
    assert_int_equal(write_at(f, fh, 0, "!", 1), 0);
    assert_int_equal(read_at(f, fh, 0, 100), 0);
    assert_int_equal(f->answered, 16 + 14);
    assert_memory_equal(f->answer + 16, "ONE two three!", 14);
    end(f);
}

/* A file without a name goes on while it is open. */
static void names(void **state)
{
    struct fixture *f = begin();
    u64 fh, dir, sub, file;
    char p[256];
    assert_int_equal(make_dir(f, 1, "d"), 0);
    dir = RESULT(f, fuse_entry_out).nodeid;
    assert_int_equal(make_dir(f, 1, "d"), -EEXIST);
    assert_int_equal(make_dir(f, dir, "sub"), 0);
    sub = RESULT(f, fuse_entry_out).nodeid;
    assert_int_equal(create(f, sub, "x", O_RDWR, 0644, &fh), 0);
    file = RESULT(f, fuse_entry_out).nodeid;
    const struct fuse_link_in link = {.oldnodeid = file};
    assert_int_equal(ask(f, FUSE_LINK, 1, &link, sizeof(link), "y", 2), 0);
    assert_int_equal(RESULT(f, fuse_entry_out).nodeid, file); /* one file, one number */
    assert_int_equal(RESULT(f, fuse_entry_out).attr.nlink, 2);
    assert_int_equal(rename_to(f, sub, "x", 1, "z", RENAME_NOREPLACE), 0);
    assert_int_equal(rename_to(f, 1, "y", 1, "z", RENAME_NOREPLACE), -EEXIST);
    assert_int_equal(rename_to(f, 1, "y", 1, "d", RENAME_EXCHANGE), 0);
    assert_int_equal(lookup(f, 1, "y"), 0);
    assert_true(S_ISDIR(RESULT(f, fuse_entry_out).attr.mode));
    assert_int_equal(rename_to(f, 1, "y", 1, "d", RENAME_WHITEOUT), -EINVAL);
    const struct fuse_rename_in old = {.newdir = sub};
    assert_int_equal(ask(f, FUSE_RENAME, 1, &old, sizeof(old), "z\0back", 7), 0);
    path(f, "y/sub/back", p);
    assert_int_equal(access(p, F_OK), 0);
    assert_int_equal(ask(f, FUSE_RMDIR, 1, NULL, 0, "y", 2), -ENOTEMPTY);
    assert_int_equal(ask(f, FUSE_UNLINK, sub, NULL, 0, "back", 5), 0);
    assert_int_equal(ask(f, FUSE_UNLINK, 1, NULL, 0, "d", 2), 0);
    assert_int_equal(write_at(f, fh, 0, "still", 5), 0);
    assert_int_equal(getattr(f, file), 0);
    assert_int_equal(RESULT(f, fuse_attr_out).attr.nlink, 0);
    assert_int_equal(release(f, file, fh), 0);
    forget(f, file, 100);
    assert_int_equal(getattr(f, file), -ESTALE);
    assert_int_equal(ask(f, FUSE_RMDIR, dir, NULL, 0, "sub", 4), 0);
    assert_int_equal(ask(f, FUSE_RMDIR, 1, NULL, 0, "y", 2), 0);
    end(f);
}

static void special_files(void **state)
{
    static const struct {
        u32 mode;
        int error;
    } kinds[] = {{S_IFIFO, 0},      {S_IFSOCK, 0},     {S_IFREG, 0},     {S_IFCHR, -EPERM},
                 {S_IFBLK, -EPERM}, {S_IFLNK, -EPERM}, {S_IFDIR, -EPERM}};
    struct fixture *f = begin();
    for (unsigned i = 0; i < ARRAY_LEN(kinds); i++) {
        const struct fuse_mknod_in in = {.mode = kinds[i].mode | 0600, .rdev = 0x103};
        char name[8];
        u64 fh;
        snprintf(name, sizeof(name), "s%u", i);
        assert_int_equal(ask(f, FUSE_MKNOD, 1, &in, sizeof(in), name, 3), kinds[i].error);
        if (kinds[i].error)
            continue;
        u64 node = RESULT(f, fuse_entry_out).nodeid;
        assert_int_equal(RESULT(f, fuse_entry_out).attr.mode, kinds[i].mode | 0600);
        assert_int_equal(open_node(f, node, O_RDONLY, &fh),
                         kinds[i].mode == S_IFREG ? 0 : -EACCES); /* and no FIFO blocks */
        assert_int_equal(create(f, 1, name, O_WRONLY, 0600, &fh), kinds[i].mode == S_IFREG ? 0 : -EACCES);
    }
    end(f);
}

static void xattrs(void **state)
{
    struct fixture *f = begin();
    const struct fuse_getxattr_in some = {.size = 100}, size = {0};
    u8 set[8] = {3};
    put_host(f, "a", "");
    u64 a = node_of(f, 1, "a");
    int e = ask(f, FUSE_SETXATTR, a, set, 8, "user.k\0abc", 10);
    if (e == -EOPNOTSUPP) { /* /tmp has none */
        end(f);
        skip();
    }
    assert_int_equal(e, 0);
    assert_int_equal(ask(f, FUSE_GETXATTR, a, &some, sizeof(some), "user.k", 7), 0);
    assert_int_equal(f->answered, 16 + 3);
    assert_memory_equal(f->answer + 16, "abc", 3);
    assert_int_equal(ask(f, FUSE_GETXATTR, a, &size, sizeof(size), "user.k", 7), 0);
    assert_int_equal(RESULT(f, fuse_getxattr_out).size, 3);
    assert_int_equal(ask(f, FUSE_LISTXATTR, a, &some, sizeof(some), NULL, 0), 0);
    assert_memory_equal(f->answer + 16, "user.k", 7);
    assert_int_equal(f->answered, 16 + 7); /* security.*, trusted.* of the host are not shown */
    static const char *const others[] = {
        "security.capability", "trusted.x", "system.posix_acl_access", "user.", "user", ""};
    for (unsigned i = 0; i < ARRAY_LEN(others); i++) {
        char text[40];
        size_t n = strlen(others[i]) + 1;
        memcpy(text, others[i], n);
        memcpy(text + n, "abc", 3);
        assert_int_equal(ask(f, FUSE_SETXATTR, a, set, 8, text, n + 3), -EOPNOTSUPP);
        assert_int_equal(ask(f, FUSE_GETXATTR, a, &some, sizeof(some), text, n), -EOPNOTSUPP);
        assert_int_equal(ask(f, FUSE_REMOVEXATTR, a, NULL, 0, text, n), -EOPNOTSUPP);
    }
    set[0] = 4; /* longer than what is there */
    assert_int_equal(ask(f, FUSE_SETXATTR, a, set, 8, "user.k\0abc", 10), -EINVAL);
    set[2] = 0xff;
    assert_int_equal(ask(f, FUSE_SETXATTR, a, set, 8, "user.k\0abc", 10), -E2BIG);
    assert_int_equal(ask(f, FUSE_REMOVEXATTR, a, NULL, 0, "user.k", 7), 0);
    assert_int_equal(ask(f, FUSE_REMOVEXATTR, a, NULL, 0, "user.k", 6), -EINVAL); /* no end */
    end(f);
}

/* --- reading directories --- */

static u64 open_dir(struct fixture *f, u64 node)
{
    const struct fuse_open_in in = {0};
    assert_int_equal(ask(f, FUSE_OPENDIR, node, &in, sizeof(in), NULL, 0), 0);
    return RESULT(f, fuse_open_out).fh;
}

/* Read all of it, `size` bytes at a time: how many entries, names checked to be f0.. or dots. */
static unsigned list(struct fixture *f, u64 node, u32 op, u32 size)
{
    u64 fh = open_dir(f, node), at = 0;
    unsigned n = 0;
    for (;;) {
        const struct fuse_read_in in = {.fh = fh, .offset = at, .size = size};
        assert_int_equal(ask(f, op, node, &in, sizeof(in), NULL, 0), 0);
        assert_true(f->answered <= 16 + size);
        if (f->answered == 16)
            break;
        for (u32 i = 16; i < f->answered;) {
            u32 head = op == FUSE_READDIRPLUS ? sizeof(struct fuse_entry_out) : 0;
            const struct fuse_dirent *d = (const void *)(f->answer + i + head);
            const struct fuse_entry_out *e = (const void *)(f->answer + i);
            assert_true(d->name[0] == 'f' || d->name[0] == '.');
            if (head && d->name[0] == 'f')
                assert_true(e->nodeid > 1 && S_ISREG(e->attr.mode));
            else if (head)
                assert_int_equal(e->nodeid, 0);
            at = d->off;
            i += head + (u32)FUSE_DIRENT_ALIGN(FUSE_NAME_OFFSET + d->namelen);
            n++;
        }
    }
    release(f, node, fh);
    return n;
}

static void directories(void **state)
{
    struct fixture *f = begin();
    char name[16];
    for (unsigned i = 0; i < 500; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        put_host(f, name, "");
    }
    assert_int_equal(list(f, 1, FUSE_READDIR, 4096), 502);
    assert_int_equal(list(f, 1, FUSE_READDIR, 100), 502);
    assert_int_equal(list(f, 1, FUSE_READDIRPLUS, 4096), 502);
    assert_int_equal(f->count.nodes, 500);
    assert_int_equal(list(f, 1, FUSE_READDIRPLUS, 300), 502);
    assert_int_equal(f->count.nodes, 500);
    /* wild offsets, sizes, handles: an error or entries, no more than asked */
    u64 fh = open_dir(f, 1), wild[] = {1, 12345, INT64_MAX, UINT64_MAX, 1ull << 63, 0x123456789abcdef0, 3};
    for (unsigned i = 0; i < ARRAY_LEN(wild); i++)
        for (u32 size = 0; size < 4096; size += 511) {
            const struct fuse_read_in in = {.fh = fh, .offset = wild[i], .size = size};
            ask(f, i & 1 ? FUSE_READDIR : FUSE_READDIRPLUS, 1, &in, sizeof(in), NULL, 0);
            assert_true(f->answered >= 16 && f->answered <= 16 + size);
        }
    const struct fuse_read_in in = {.fh = fh + 1, .size = 4096}, file = {.fh = fh, .size = 10};
    assert_int_equal(ask(f, FUSE_READDIR, 1, &in, sizeof(in), NULL, 0), -ESTALE);
    assert_int_equal(ask(f, FUSE_READ, 1, &file, sizeof(file), NULL, 0), -ESTALE); /* no file */
    end(f);
}

/* --- hostile --- */

static void hostile_names(void **state)
{
    static const char *const bad[] = {"", ".", "..", "/", "/etc/passwd", "../secret", "a/b", "a/../../secret", "x/"};
    static const u32 ops[] = {FUSE_LOOKUP, FUSE_UNLINK, FUSE_RMDIR};
    struct fixture *f = begin();
    char longer[300];
    u64 fh;
    assert_int_equal(make_dir(f, 1, "a"), 0);
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        for (unsigned k = 0; k < ARRAY_LEN(ops); k++)
            assert_int_equal(ask(f, ops[k], 1, NULL, 0, bad[i], strlen(bad[i]) + 1), -EINVAL);
        assert_int_equal(make_dir(f, 1, bad[i]), -EINVAL);
        assert_int_equal(create(f, 1, bad[i], O_RDWR, 0600, &fh), -EINVAL);
        assert_int_equal(rename_to(f, 1, "a", 1, bad[i], 0), -EINVAL);
        assert_int_equal(rename_to(f, 1, bad[i], 1, "b", 0), -EINVAL);
        assert_int_equal(two_names(f, FUSE_SYMLINK, 1, bad[i], "target"), -EINVAL);
    }
    memset(longer, 'n', sizeof(longer));
    assert_int_equal(ask(f, FUSE_LOOKUP, 1, NULL, 0, longer, 255), -EINVAL); /* does not end */
    assert_int_equal(ask(f, FUSE_LOOKUP, 1, NULL, 0, NULL, 0), -EINVAL);
    longer[256] = 0;
    assert_int_equal(ask(f, FUSE_LOOKUP, 1, NULL, 0, longer, 257), -ENAMETOOLONG);
    assert_int_equal(two_names(f, FUSE_SYMLINK, 1, "l", ""), -EINVAL);
    struct stat st;
    assert_int_equal(stat(f->outside, &st), 0);
    end(f);
}

/* Links are data: read by the guest, followed by nobody here. */
static void links_that_lead_out(void **state)
{
    static const char *const targets[] = {"/etc", "../secret", "/", "..", "/proc/1/root", "."};
    struct fixture *f = begin();
    char p[256], name[8];
    u64 fh;
    for (unsigned i = 0; i < ARRAY_LEN(targets); i++) {
        snprintf(name, sizeof(name), "l%u", i);
        path(f, name, p);
        if (i & 1)
            assert_int_equal(symlink(targets[i], p), 0);
        else
            assert_int_equal(two_names(f, FUSE_SYMLINK, 1, name, targets[i]), 0);
        u64 l = node_of(f, 1, name);
        assert_true(S_ISLNK(RESULT(f, fuse_entry_out).attr.mode));
        assert_int_equal(ask(f, FUSE_READLINK, l, NULL, 0, NULL, 0), 0);
        assert_int_equal(f->answered, 16 + strlen(targets[i]));
        assert_memory_equal(f->answer + 16, targets[i], strlen(targets[i]));
        assert_int_equal(lookup(f, l, "passwd"), -ENOTDIR);
        assert_int_equal(create(f, l, "made", O_RDWR, 0600, &fh), -ENOTDIR);
        assert_int_equal(create(f, 1, name, O_RDWR, 0600, &fh), -EACCES);
        assert_int_equal(open_node(f, l, O_RDONLY, &fh), -EACCES);
        assert_int_equal(setattr(f, l, (struct fuse_setattr_in){.valid = FATTR_SIZE}), -EINVAL);
        assert_int_equal(setattr(f, l, (struct fuse_setattr_in){.valid = FATTR_MODE, .mode = 0777}), -EOPNOTSUPP);
        const struct fuse_open_in in = {0};
        assert_int_equal(ask(f, FUSE_OPENDIR, l, &in, sizeof(in), NULL, 0), -ENOTDIR);
        const struct fuse_link_in link = {.oldnodeid = l};
        snprintf(name, sizeof(name), "h%u", i);
        assert_int_equal(ask(f, FUSE_LINK, 1, &link, sizeof(link), name, 3), 0);
        assert_true(S_ISLNK(RESULT(f, fuse_entry_out).attr.mode)); /* the link itself, not what it says */
        assert_int_equal(setattr(f, l, (struct fuse_setattr_in){.valid = FATTR_MTIME, .mtime = 5}), 0);
    }
    u64 l = node_of(f, 1, "h0");
    assert_int_equal(ask(f, FUSE_SETXATTR, l, "\1\0\0\0\0\0\0", 8, "user.k\0a", 8), -EOPNOTSUPP);
    struct stat st;
    assert_int_equal(stat(f->outside, &st), 0);
    assert_true(st.st_mtime != 5);
    end(f);
}

/* A host that swaps a directory and a link out all the time: whatever is found, it is inside. */
static void races(void **state)
{
    struct fixture *f = begin_with(&(struct share_options){.descriptors = 8}); /* so that all is reopened by name */
    char a[256], b[256], c[256];
    path(f, "d", a);
    path(f, "link", b);
    assert_int_equal(mkdir(a, 0755), 0);
    assert_int_equal(symlink("..", b), 0);
    path(f, "d/secret", c);
    write_host(c, "inside");
    for (unsigned i = 0; i < 20; i++) {
        char name[16];
        snprintf(name, sizeof(name), "o%u", i);
        put_host(f, name, "");
    }
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        for (;;)
            renameat2(AT_FDCWD, a, AT_FDCWD, b, RENAME_EXCHANGE);
    }
    unsigned found = 0, stale = 0;
    for (unsigned i = 0; i < 3000 && !(found > 20 && stale > 20); i++) {
        char name[16];
        u64 fh;
        if (lookup(f, 1, "d") < 0)
            continue;
        u64 d = RESULT(f, fuse_entry_out).nodeid;
        for (unsigned k = 0; k < 10; k++) { /* push it out of the descriptors */
            snprintf(name, sizeof(name), "o%u", (i + k) % 20);
            lookup(f, 1, name);
        }
        int e = lookup(f, d, "secret");
        if (e < 0) {
            assert_true(e == -ENOTDIR || e == -ESTALE || e == -ENOENT || e == -ELOOP);
            stale++;
            continue;
        }
        found++;
        u64 s = RESULT(f, fuse_entry_out).nodeid;
        if (open_node(f, s, O_RDWR, &fh) < 0)
            continue;
        assert_int_equal(read_at(f, fh, 0, 10), 0);
        assert_memory_equal(f->answer + 16, "inside", 6);
        release(f, s, fh);
    }
    kill(pid, SIGKILL);
    waitpid(pid, NULL, 0);
    assert_true(found > 0);
    end(f);
}

/* Numbers that were never given, to every operation. */
static void numbers_never_given(void **state)
{
    static const u64 wild[] = {0, 2, 1u << 20, UINT64_MAX, 1ull << 63, 0x1234567890abcdef};
    struct fixture *f = begin();
    u8 arg[128];
    put_host(f, "a", "text");
    u64 a = node_of(f, 1, "a");
    for (unsigned i = 0; i < ARRAY_LEN(wild); i++)
        for (u32 op = 0; op < 64; op++) {
            if (op == FUSE_INIT || op == FUSE_DESTROY || op == FUSE_STATFS)
                continue;
            memset(arg, 0, sizeof(arg));
            memcpy(arg, &wild[i], 8); /* fh, oldnodeid, newdir .. */
            int e = ask(f, op, wild[i], arg, sizeof(arg), "user.n\0n2", 10);
            assert_true(!f->answered || e < 0 || op == FUSE_FLUSH || op == FUSE_SYNCFS);
        }
    assert_int_equal(getattr(f, a), 0);
    assert_int_equal(getattr(f, a + (1u << 20)), -ESTALE);
    assert_int_equal(getattr(f, a - (1u << 20)), -ESTALE);
    end(f);
}

/* Lengths that lie, for every operation: cut at each byte, header and truth apart. */
static void lengths_that_lie(void **state)
{
    struct fixture *f = begin();
    struct fuse_in_header h = {.unique = 1, .nodeid = 1};
    u8 *exact;
    for (u32 op = 0; op < 64; op++)
        for (u32 len = 0; len < 140; len++) {
            exact = malloc(len ? len : 1); /* so that a sanitizer sees a byte too far */
            memset(exact, 'x', len);
            h.opcode = op;
            h.len = len;
            memcpy(exact, &h, MIN(len, (u32)sizeof(h)));
            u32 n = share_server_ask(f->s, exact, len, f->answer, 16 + len % 50);
            assert_true(n <= 16 + len % 50 && (len >= 40 || !n));
            h.len = len * 2 + 1;
            memcpy(exact, &h, MIN(len, (u32)sizeof(h)));
            n = share_server_ask(f->s, exact, len, f->answer, 200);
            struct fuse_out_header out;
            memcpy(&out, f->answer, sizeof(out));
            assert_true(!n || out.error == -EINVAL || out.error == -ENOSYS);
            assert_int_equal(share_server_ask(f->s, exact, len, f->answer, 15), 0);
            free(exact);
        }
    u64 fh;
    assert_int_equal(create(f, 1, "a", O_RDWR, 0644, &fh), 0);
    const struct fuse_write_in w = {.fh = fh, .size = 1000};
    assert_int_equal(ask(f, FUSE_WRITE, 1, &w, sizeof(w), "abc", 3), -EINVAL);
    const struct fuse_batch_forget_in many = {.count = UINT32_MAX};
    assert_int_equal(ask(f, FUSE_BATCH_FORGET, 0, &many, sizeof(many), "0123456789abcdef", 16), 0);
    assert_int_equal(read_at(f, fh, UINT64_MAX, 10), -EINVAL);
    assert_int_equal(read_at(f, fh, 0, UINT32_MAX), 0);
    const struct fuse_fallocate_in much = {.fh = fh, .offset = INT64_MAX, .length = INT64_MAX};
    assert_true(ask(f, FUSE_FALLOCATE, 1, &much, sizeof(much), NULL, 0) < 0);
    end(f);
}

static void limits(void **state)
{
    struct fixture *f = begin_with(&(struct share_options){.nodes = 40, .handles = 5, .descriptors = 10});
    char name[16];
    u64 node[30], fh[5], none;
    for (unsigned i = 0; i < 50; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        put_host(f, name, name);
    }
    for (unsigned i = 0; i < 30; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        node[i] = node_of(f, 1, name);
    }
    for (unsigned i = 0; i < 30; i++) { /* most have lost their descriptor */
        assert_int_equal(getattr(f, node[i]), 0);
        assert_int_equal(RESULT(f, fuse_attr_out).attr.size, i < 10 ? 2 : 3);
    }
    for (unsigned i = 0; i < 5; i++)
        assert_int_equal(open_node(f, node[i], O_RDONLY, &fh[i]), 0);
    assert_int_equal(open_node(f, node[5], O_RDONLY, &none), -ENFILE);
    assert_int_equal(release(f, node[0], fh[0]), 0);
    assert_int_equal(open_node(f, node[5], O_RDONLY, &none), 0);
    int e = 0;
    unsigned i = 30;
    for (; i < 50 && e == 0; i++) {
        snprintf(name, sizeof(name), "f%u", i);
        e = lookup(f, 1, name);
    }
    assert_int_equal(e, -ENFILE);
    assert_int_equal(i, 40); /* the root is one of them */
    forget(f, node[29], 1);
    assert_int_equal(lookup(f, 1, name), 0);
    assert_int_equal(f->count.nodes, 39);
    /* deeper than the way back is remembered; then a directory moves, with what is in it */
    u64 at = 1, top = 0;
    for (i = 6; i < 29; i++)
        forget(f, node[i], 1);
    for (i = 0; i < 20; i++) {
        assert_int_equal(make_dir(f, at, "deep"), 0);
        at = RESULT(f, fuse_entry_out).nodeid;
        top = top ? top : at;
    }
    assert_int_equal(rename_to(f, 1, "deep", 1, "moved", 0), 0);
    assert_int_equal(getattr(f, top), 0);
    assert_int_equal(make_dir(f, at, "more"), 0);
    unsigned fds = 0;
    for (int fd = 3; fd < 1024; fd++)
        fds += fcntl(fd, F_GETFD) >= 0;
    assert_true(fds < 40);
    end(f);
}

/* Numbers and handles of another server, as after a load in another process: stale, never another file. */
static void another_server(void **state)
{
    struct fixture *f = begin();
    u64 fh, other;
    put_host(f, "a", "1");
    put_host(f, "b", "2");
    u64 a = node_of(f, 1, "a");
    assert_int_equal(open_node(f, a, O_RDWR, &fh), 0);
    share_server_destroy(f->s);
    assert_int_equal(f->count.nodes, 0);
    start(f, &(struct share_options){0});
    node_of(f, 1, "b");
    assert_int_equal(open_node(f, RESULT(f, fuse_entry_out).nodeid, O_RDWR, &other), 0);
    assert_int_equal(getattr(f, a), -ESTALE);
    assert_int_equal(read_at(f, fh, 0, 1), -ESTALE);
    assert_int_equal(write_at(f, fh, 0, "x", 1), -ESTALE);
    assert_int_equal(getattr(f, 1), 0); /* the root is the root: names work again */
    assert_int_equal(lookup(f, 1, "a"), 0);
    end(f);
}

static void read_only(void **state)
{
    static const u32 changing[] = {FUSE_SETATTR, FUSE_SYMLINK,  FUSE_MKNOD,       FUSE_MKDIR,     FUSE_UNLINK,
                                   FUSE_RMDIR,   FUSE_RENAME,   FUSE_RENAME2,     FUSE_LINK,      FUSE_CREATE,
                                   FUSE_WRITE,   FUSE_SETXATTR, FUSE_REMOVEXATTR, FUSE_FALLOCATE, FUSE_COPY_FILE_RANGE};
    struct fixture *f = begin_with(&(struct share_options){.read_only = true});
    u8 arg[128];
    u64 fh;
    put_host(f, "a", "text");
    u64 a = node_of(f, 1, "a");
    for (unsigned i = 0; i < ARRAY_LEN(changing); i++) {
        memset(arg, 0, sizeof(arg));
        const struct fuse_write_in w = {.size = 0};
        u32 len = changing[i] == FUSE_WRITE ? sizeof(w) : sizeof(arg);
        memset(arg + 64, 'n', 30);
        int e = ask(f, changing[i], a, arg, len, "n\0n", 4);
        if (e != -EROFS && e != -EINVAL) /* a name that is none is found first */
            fail_msg("operation %u: %d", changing[i], e);
    }
    assert_int_equal(ask(f, FUSE_UNLINK, 1, NULL, 0, "a", 2), -EROFS);
    assert_int_equal(make_dir(f, 1, "d"), -EROFS);
    assert_int_equal(create(f, 1, "a", O_RDONLY, 0600, &fh), -EROFS);
    assert_int_equal(open_node(f, a, O_WRONLY, &fh), -EROFS);
    assert_int_equal(open_node(f, a, O_RDWR, &fh), -EROFS);
    assert_int_equal(open_node(f, a, O_RDONLY | O_TRUNC, &fh), -EROFS);
    assert_int_equal(open_node(f, a, O_RDONLY, &fh), 0);
    assert_int_equal(read_at(f, fh, 0, 10), 0);
    assert_memory_equal(f->answer + 16, "text", 4);
    end(f);
}

/* --- ids --- */

static struct stat host_stat(struct fixture *f, const char *name)
{
    struct stat st = {0};
    char p[256];
    path(f, name, p);
    assert_int_equal(lstat(p, &st), 0);
    return st;
}

static void ids_pass(void **state)
{
    if (geteuid())
        skip();
    struct fixture *f = begin();
    u64 fh;
    assert_int_equal(create_as(f, 1234, 1, "mine", O_RDWR, 04755, &fh), 0); /* though 1234 may not write there */
    u64 node = RESULT(f, fuse_entry_out).nodeid;
    assert_int_equal(RESULT(f, fuse_entry_out).attr.uid, 1234);
    struct stat st = host_stat(f, "mine");
    assert_true(st.st_uid == 1234 && st.st_gid == 1234 && (st.st_mode & 07777) == 04755);
    const struct fuse_write_in w = {.fh = fh, .size = 1, .write_flags = FUSE_WRITE_KILL_SUIDGID};
    assert_int_equal(ask(f, FUSE_WRITE, node, &w, sizeof(w), "x", 1), 0);
    assert_int_equal(host_stat(f, "mine").st_mode & 07777, 0755);
    assert_int_equal(setattr(f, node, (struct fuse_setattr_in){.valid = FATTR_UID | FATTR_GID, .uid = 5, .gid = 6}), 0);
    st = host_stat(f, "mine");
    assert_true(st.st_uid == 5 && st.st_gid == 6);
    assert_int_equal(create_as(f, 0, 1, "root's", O_RDWR, 0644, &fh), 0);
    assert_int_equal(host_stat(f, "root's").st_uid, 0);
    assert_int_equal(create_as(f, UINT32_MAX, 1, "nobody's", O_RDWR, 0644, &fh), -EINVAL);
    const struct fuse_mkdir_in dir = {.mode = 0700};
    assert_int_equal(ask_as(f, 77, FUSE_MKDIR, 1, &dir, sizeof(dir), "d", 2), 0);
    assert_int_equal(host_stat(f, "d").st_uid, 77);
    assert_int_equal(ask_as(f, 78, FUSE_SYMLINK, 1, NULL, 0, "l\0t", 4), 0);
    assert_int_equal(host_stat(f, "l").st_uid, 78);
    assert_int_equal(host_stat(f, "mine").st_mode & S_IFMT, S_IFREG);
    end(f);
}

/* Without root: the caller is 0, others are nobody, and bits that would be dangerous are not kept. */
static void ids_mapped(void)
{
    struct fixture *f = begin();
    u64 fh;
    char p[256];
    assert_int_equal(create_as(f, 1000, 1, "new", O_RDWR, 06755, &fh), 0);
    u64 node = RESULT(f, fuse_entry_out).nodeid;
    assert_true(RESULT(f, fuse_entry_out).attr.uid == 0 && RESULT(f, fuse_entry_out).attr.gid == 0);
    struct stat st = host_stat(f, "new");
    assert_true(st.st_uid == geteuid() && (st.st_mode & 07777) == 0755);
    assert_int_equal(setattr(f, node, (struct fuse_setattr_in){.valid = FATTR_MODE, .mode = 06711}), 0);
    assert_int_equal(host_stat(f, "new").st_mode & 07777, 0711);
    const struct fuse_mknod_in node_in = {.mode = S_IFREG | 04755};
    assert_int_equal(ask(f, FUSE_MKNOD, 1, &node_in, sizeof(node_in), "n", 2), 0);
    assert_int_equal(host_stat(f, "n").st_mode & 07777, 0755);
    assert_int_equal(setattr(f, node, (struct fuse_setattr_in){.valid = FATTR_UID | FATTR_GID}), 0); /* to 0: him */
    assert_int_equal(setattr(f, node, (struct fuse_setattr_in){.valid = FATTR_UID, .uid = 1000}), -EPERM);
    assert_int_equal(setattr(f, node, (struct fuse_setattr_in){.valid = FATTR_GID, .gid = 65534}), -EPERM);
    path(f, "up", p);
    assert_int_equal(symlink("/", p), 0);
    assert_int_equal(getattr(f, 1), 0);
    assert_int_equal(RESULT(f, fuse_attr_out).attr.uid, 0);
    /* what the host does not let him do */
    path(f, "new", p);
    assert_int_equal(chmod(p, 0), 0);
    assert_int_equal(open_node(f, node, O_RDONLY, &fh), -EACCES);
    end(f);
}

static void as_nobody(void **state)
{
    int status;
    pid_t pid = fork();
    assert_true(pid >= 0);
    if (pid == 0) {
        if (!geteuid() && (setgid(65533) < 0 || setuid(65533) < 0))
            _exit(2);
        ids_mapped();
        _exit(0);
    }
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
}

static void others_are_nobody(void **state)
{
    if (geteuid())
        skip();
    struct fixture *f = begin();
    put_host(f, "root's", "");
    pid_t pid = fork();
    if (pid == 0) {
        if (setgid(65533) < 0 || setuid(65533) < 0)
            _exit(2);
        struct error e = {0};
        struct share_options o = {.root = f->root};
        if (share_server_create(&f->s, &o, &f->count, &e) < 0)
            _exit(3);
        if (lookup(f, 1, "root's") < 0 || RESULT(f, fuse_entry_out).attr.uid != SHARE_ID_NOBODY ||
            RESULT(f, fuse_entry_out).attr.gid != SHARE_ID_NOBODY)
            _exit(4);
        _exit(make_dir(f, 1, "d") == -EACCES ? 0 : 5);
    }
    int status;
    waitpid(pid, &status, 0);
    assert_int_equal(status, 0);
    end(f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(session),
        cmocka_unit_test(files),
        cmocka_unit_test(appended),
        cmocka_unit_test(names),
        cmocka_unit_test(special_files),
        cmocka_unit_test(xattrs),
        cmocka_unit_test(directories),
        cmocka_unit_test(hostile_names),
        cmocka_unit_test(links_that_lead_out),
        cmocka_unit_test(races),
        cmocka_unit_test(numbers_never_given),
        cmocka_unit_test(lengths_that_lie),
        cmocka_unit_test(limits),
        cmocka_unit_test(another_server),
        cmocka_unit_test(read_only),
        cmocka_unit_test(ids_pass),
        cmocka_unit_test(as_nobody),
        cmocka_unit_test(others_are_nobody),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
