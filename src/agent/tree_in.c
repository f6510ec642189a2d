/*
 * Receiving a tree from somebody who may mean harm.
 *
 * Theory. The caller says where it goes; all else is the sender's word. A name must be components between single slashes,
 * none of them "." or "..", none empty. The way to a file is opened component by component, from a descriptor of the root,
 * never through a link (O_NOFOLLOW at each step): so whatever links a tree brings along, or somebody puts there meanwhile,
 * nothing is written outside. (openat2 with RESOLVE_BENEATH and RESOLVE_NO_SYMLINKS says the same; this works on kernels
 * without it.) Files are made with O_EXCL: what stood there is unlinked first, if it is a file or a link, so an open file of
 * somebody else, or what a link names, is never written to.
 *
 * Modes are masked by the receiver (a host keeps no set-user-id bits), owners are who receives. A directory gets its mode and
 * time when all that is in it has come, until then it can be written to.
 *
 * Where the root goes is as with cp(1):
 *
 *   dest is a directory        dest/name, or with AGENT_TREE_CONTENTS what is in the root into dest
 *   dest is not there          dest; its parent must be there; "dest/" wants a directory
 *   dest is something else     a file or link is replaced, by a file or link
 */
#include "agent/agent.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define DIR_OPEN (O_PATH | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)

void agent_tree_begin(struct agent_tree *t, const char *dest, const char *name, u32 flags, u32 mask)
{
    *t = (struct agent_tree){
        .dest = dest, .name = name, .flags = flags, .mask = mask, .parent = -1, .top = -1, .file = -1};
}

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void agent_tree_end(struct agent_tree *t)
{
    close_one(&t->parent);
    close_one(&t->top);
    close_one(&t->file);
}

void agent_tree_name(const char *path, char *out, size_t size, u32 *flags)
{
    size_t len = strlen(path);
    while (len > 1 && path[len - 1] == '/')
        len--;
    size_t from = len;
    while (from && path[from - 1] != '/')
        from--;
    snprintf(out, size, "%.*s", (int)(len - from), path + from);
    if (!*out || !strcmp(out, ".") || !strcmp(out, ".."))
        *flags |= AGENT_TREE_CONTENTS;
}

/* --- names --- */

static bool component_good(const char *s, size_t len)
{
    return len && len < 256 && !(len == 1 && s[0] == '.') && !(len == 2 && s[0] == '.' && s[1] == '.');
}

/* Whether each component of a name may be one. "" is the root. */
static bool name_good(const char *s)
{
    while (*s) {
        size_t len = strcspn(s, "/");
        if (!component_good(s, len) || (s[len] && !s[len + 1]))
            return false;
        s += len + (s[len] != 0);
    }
    return true;
}

/* The directory that `name` lies in, below the root; *last: its last component. A new descriptor or -errno. */
static int open_parent(const struct agent_tree *t, const char *name, const char **last)
{
    char part[256];
    int fd = fcntl(t->top, F_DUPFD_CLOEXEC, 3);
    for (const char *slash; fd >= 0 && (slash = strchr(name, '/')); name = slash + 1) {
        memcpy(part, name, (size_t)(slash - name));
        part[slash - name] = 0;
        int next = openat(fd, part, DIR_OPEN), why = errno;
        if (next < 0 && why == ENOENT && mkdirat(fd, part, 0755) == 0)
            next = openat(fd, part, DIR_OPEN);
        else
            errno = why;
        close_one(&fd);
        fd = next;
    }
    *last = name;
    return fd < 0 ? -errno : fd;
}

/* --- the root --- */

static int open_dest_parent(struct agent_tree *t, struct error *e)
{
    char dir[AGENT_PATH_MAX];
    size_t len = strlen(t->dest);
    while (len > 1 && t->dest[len - 1] == '/')
        len--;
    size_t from = len;
    while (from && t->dest[from - 1] != '/')
        from--;
    if (len - from >= sizeof(t->root) || from >= sizeof(dir))
        return error_set(e, ENAMETOOLONG, "%.100s..: the name is too long", t->dest);
    snprintf(t->root, sizeof(t->root), "%.*s", (int)(len - from), t->dest + from);
    snprintf(dir, sizeof(dir), "%.*s", (int)from, t->dest);
    t->parent = open(from ? dir : ".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (t->parent < 0)
        return error_set(e, errno, "%s: %s", from ? dir : ".", strerror(errno));
    return component_good(t->root, strlen(t->root)) ? 0 : error_set(e, EINVAL, "%s: names no file", t->dest);
}

/* Find out where the root goes, now that its kind is known: t->parent and t->root, or t->top at once. */
static int place(struct agent_tree *t, bool dir, struct error *e)
{
    struct stat st;
    size_t len = strlen(t->dest);
    bool there = stat(t->dest, &st) == 0;
    if (!there && errno != ENOENT)
        return error_set(e, errno, "%s: %s", t->dest, strerror(errno));
    if (there && S_ISDIR(st.st_mode)) {
        int fd = open(t->dest, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (fd < 0)
            return error_set(e, errno, "%s: %s", t->dest, strerror(errno));
        *(dir && t->flags & AGENT_TREE_CONTENTS ? &t->top : &t->parent) = fd;
        snprintf(t->root, sizeof(t->root), "%s", t->name);
        if (t->parent >= 0 && !component_good(t->root, strlen(t->root)))
            return error_set(e, EINVAL, "%s: no name for what goes there", t->dest);
        return 0;
    }
    if (there && dir)
        return error_set(e, ENOTDIR, "%s: is no directory, and a directory can not go there", t->dest);
    if (!dir && len && t->dest[len - 1] == '/')
        return error_set(e, ENOTDIR, "%s: no such directory", t->dest);
    return open_dest_parent(t, e);
}

/* --- what comes --- */

static int failed(const struct agent_tree *t, const char *name, struct error *e)
{
    int why = errno;
    return error_set(e, why, "%s%s%s: %s", t->dest, *name ? "/" : "", name, strerror(why));
}

/* Take away what stands in the way of a file or link; directories and devices stay, and are errors. */
static int clear_way(int dir, const char *last)
{
    struct stat st;
    if (fstatat(dir, last, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : -1;
    if (!S_ISREG(st.st_mode) && !S_ISLNK(st.st_mode)) {
        errno = S_ISDIR(st.st_mode) ? EISDIR : EEXIST;
        return -1;
    }
    return unlinkat(dir, last, 0);
}

static void times_of(const struct agent_file *f, struct timespec ts[2])
{
    ts[0] = (struct timespec){.tv_nsec = UTIME_NOW};
    ts[1] = (struct timespec){.tv_sec = f->mtime, .tv_nsec = f->mtime_ns};
}

static int make_file(struct agent_tree *t, int dir, const char *last)
{
    if (clear_way(dir, last) < 0)
        return -1;
    t->file = openat(dir, last, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    return t->file < 0 ? -1 : 0;
}

static int make_link(int dir, const char *last, const struct agent_file *f)
{
    struct timespec ts[2];
    times_of(f, ts);
    if (clear_way(dir, last) < 0 || symlinkat(f->target, dir, last) < 0)
        return -1;
    utimensat(dir, last, ts, AT_SYMLINK_NOFOLLOW); /* a file system without times of links is no error */
    return 0;
}

/* A directory; one that is there is used. */
static int make_dir(struct agent_tree *t, int dir, const char *last, bool root)
{
    bool made = mkdirat(dir, last, 0700) == 0;
    if (!made && errno != EEXIST)
        return -1;
    int fd = openat(dir, last, DIR_OPEN);
    if (fd < 0)
        return -1;
    if (root) {
        t->top = fd;
        t->root_made = made;
    } else {
        close(fd);
    }
    return 0;
}

/* Mode and time of a directory: through a descriptor, so that no link is followed. */
static int end_dir(struct agent_tree *t, int dir, const char *last, const struct agent_file *f)
{
    struct timespec ts[2];
    int fd = openat(dir, last, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return -1;
    times_of(f, ts);
    int r = fchmod(fd, f->mode & t->mask) < 0 || futimens(fd, ts) < 0 ? -1 : 0;
    int why = errno;
    close(fd);
    errno = why;
    return r;
}

static int make(struct agent_tree *t, int dir, const char *last, const struct agent_file *f, bool root)
{
    switch (f->type) {
    case AGENT_TYPE_FILE:
        t->meta = *f;
        return make_file(t, dir, last);
    case AGENT_TYPE_LINK:
        return make_link(dir, last, f);
    case AGENT_TYPE_DIR:
        return make_dir(t, dir, last, root);
    case AGENT_TYPE_DIR_END:
        return end_dir(t, dir, last, f);
    }
    errno = EPROTO;
    return -1;
}

static int take_root(struct agent_tree *t, const struct agent_file *f, struct error *e)
{
    bool dir = f->type == AGENT_TYPE_DIR;
    if (f->type == AGENT_TYPE_DIR_END)
        return !t->root_made || t->parent < 0 || end_dir(t, t->parent, t->root, f) == 0 ? 0 : failed(t, "", e);
    if (t->started || (!dir && f->type != AGENT_TYPE_FILE && f->type != AGENT_TYPE_LINK))
        return error_set(e, EPROTO, "the other end sends a tree with two roots");
    t->started = true;
    int r = place(t, dir, e);
    if (r < 0 || t->top >= 0)
        return r;
    return make(t, t->parent, t->root, f, true) < 0 ? failed(t, "", e) : 0;
}

static int take_file(struct agent_tree *t, const struct agent_frame *frame, struct error *e)
{
    struct agent_file f;
    const char *last;
    if (t->file >= 0 || agent_file_unpack(&f, frame) < 0 || !name_good(f.name))
        return error_set(e, EPROTO,
                         "the other end sends a file that can not be: a name that leads out, or none at all");
    if (!*f.name)
        return take_root(t, &f, e);
    if (t->top < 0)
        return error_set(e, EPROTO, "the other end sends a file inside of what is no directory");
    int dir = open_parent(t, f.name, &last);
    if (dir < 0) {
        errno = -dir;
        return failed(t, f.name, e);
    }
    int r = make(t, dir, last, &f, false) < 0 ? failed(t, f.name, e) : 0;
    close(dir);
    return r;
}

static int take_data(struct agent_tree *t, const struct agent_frame *f, struct error *e)
{
    if (t->file < 0)
        return error_set(e, EPROTO, "the other end sends data of no file");
    for (size_t at = 0; at < f->len;) {
        ssize_t n = write(t->file, f->data + at, f->len - at);
        if (n < 0 && errno != EINTR)
            return failed(t, "", e);
        at += (size_t)MAX(n, 0);
    }
    return 0;
}

static int end_file(struct agent_tree *t, struct error *e)
{
    struct timespec ts[2];
    if (t->file < 0)
        return error_set(e, EPROTO, "the other end ends no file");
    times_of(&t->meta, ts);
    int r = fchmod(t->file, t->meta.mode & t->mask) < 0 || futimens(t->file, ts) < 0 ? failed(t, "", e) : 0;
    int closed = close(t->file);
    t->file = -1;
    return r == 0 && closed < 0 ? failed(t, "", e) : r;
}

int agent_tree_take(struct agent_tree *t, const struct agent_frame *f, struct error *e)
{
    switch (f->kind) {
    case AGENT_FILE:
        return take_file(t, f, e);
    case AGENT_DATA:
        return take_data(t, f, e);
    case AGENT_FILE_END:
        return end_file(t, e);
    case AGENT_WARNING:
        return 0;
    case AGENT_FAILED:
        return agent_failure(f, e);
    case AGENT_DONE:
        if (t->file >= 0 || !t->started)
            return error_set(e, EPROTO, "the other end ends in the middle of a file");
        return 1;
    }
    return error_set(e, EPROTO, "the other end sends a frame of unknown kind %u", f->kind);
}
