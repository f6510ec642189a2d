/*
 * The walk of COPY and ADD. See build_tree.h for what must stay true.
 *
 * What becomes of a name that is there already: a directory stays and is filled (a link to one, too, as long as that stays in the
 * root); a file, or a link to anything else, is replaced by a file or link; a file where a directory is to be, and a directory
 * where a file is to be, are errors.
 *
 * Not done: hard links between the files of a tree become files of their own; sparse files are written in full.
 */
#include "image/build_tree.h"
#include "image/layer.h"
#include "image/tarlib.h"
#include "container/inroot.h"
#include "container/sys.h"

#include <dirent.h>
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

#define CHUNK       65536
#define DEPTH_MAX   200   /* directories open at once */
#define MATCHES_MAX 10000 /* what a pattern may stand for */

struct list {
    char **v;
    size_t n;
};

static void list_free(struct list *l)
{
    for (size_t i = 0; i < l->n; i++)
        free(l->v[i]);
    free(l->v);
}

static int list_add(struct list *l, const char *text, struct error *e)
{
    char **more = l->n >= MATCHES_MAX ? NULL : realloc(l->v, (l->n + 1) * sizeof(*more));
    if (!more)
        return error_set(e, E2BIG, "more than %d names", MATCHES_MAX);
    l->v = more;
    l->v[l->n] = strdup(text);
    return l->v[l->n] ? (l->n++, 0) : error_set(e, ENOMEM, "out of memory");
}

/* --- what a word names --- */

static int name_order(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static bool is_dots(const char *name)
{
    return !strcmp(name, ".") || !strcmp(name, "..");
}

static int find_matches(const struct build_source *s, const char *above, const char *pattern, struct list *out,
                        struct error *e);

/* A name that fits the first part of a pattern: the rest goes on below it. */
static int take_match(const struct build_source *s, const char *above, const char *name, const char *rest,
                      struct list *out, struct error *e)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s%s%s", above, *above ? "/" : "", name) >= (int)sizeof(path))
        return 0;
    if (*rest)
        return find_matches(s, path, rest, out, e);
    CLEANUP_FD int fd = inroot_open(s->root, path, O_NOFOLLOW);
    return fd < 0 || build_ignored(s->ignore, path) ? 0 : list_add(out, path, e);
}

static int find_matches(const struct build_source *s, const char *above, const char *pattern, struct list *out,
                        struct error *e)
{
    char part[PATTERN_MAX + 1];
    struct dirent **names;
    size_t len = strcspn(pattern, "/");
    int r = 0;
    snprintf(part, sizeof(part), "%.*s", (int)len, pattern);
    const char *rest = pattern + len + (pattern[len] == '/');
    CLEANUP_FD int dir =
        sys_openat2(s->root, *above ? above : ".", O_RDONLY | O_DIRECTORY, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    int n = dir < 0 ? -1 : scandirat(dir, ".", &names, NULL, name_order);
    for (int i = 0; i < n; i++) {
        if (r == 0 && !is_dots(names[i]->d_name) && pattern_match(part, names[i]->d_name, false))
            r = take_match(s, above, names[i]->d_name, rest, out, e);
        free(names[i]);
    }
    if (n >= 0)
        free(names);
    return r; /* what can not be listed has nothing that fits */
}

static int find_sources(const struct build_copy *c, const char *word, struct list *out, struct error *e)
{
    char path[PATTERN_MAX + 1];
    bool leaves;
    size_t before = out->n;
    if (build_clean(word, path, sizeof(path), &leaves) < 0)
        return error_set(e, ENAMETOOLONG, "\"%.60s..\": too long", word);
    if (leaves)
        return error_set(e, EINVAL, "\"%.200s\": leads out of what is copied from", word);
    if (!pattern_is(path))
        return list_add(out, path, e);
    int r = pattern_check(path, e);
    if (r == 0)
        r = find_matches(&c->from, "", path, out, e);
    return r == 0 && out->n == before ? error_set(e, ENOENT, "\"%.200s\": no file fits", word) : r;
}

/* Does a link lead from a name that is not left out to one that is? */
static bool leads_to_ignored(const struct build_source *s, int fd)
{
    char top[PATH_MAX], real[PATH_MAX], name[SYS_FD_PATH];
    ssize_t n = readlink(sys_fd_path(s->root, name), top, sizeof(top) - 1);
    ssize_t m = readlink(sys_fd_path(fd, name), real, sizeof(real) - 1);
    if (n < 0 || m < 0)
        return true;
    top[n] = real[m] = 0;
    if (n == 1) /* "/" */
        n = 0;
    return strncmp(top, real, (size_t)n) || (real[n] && real[n] != '/') ||
           build_ignored(s->ignore, real[n] ? real + n + 1 : "");
}

static int open_source(const struct build_source *s, const char *path, struct stat *st, struct error *e)
{
    CLEANUP_FD int fd = inroot_open(s->root, path, 0);
    if (fd < 0)
        return errno == ENOENT || errno == ENOTDIR ? error_set(e, ENOENT, "\"%.200s\": is not there", path)
                                                   : sys_error(e, "\"%.200s\"", path);
    if (fstat(fd, st) < 0)
        return sys_error(e, "\"%.200s\"", path);
    bool whole = S_ISDIR(st->st_mode) && s->ignore && s->ignore->keeps;
    if (!whole && s->ignore && (build_ignored(s->ignore, path) || leads_to_ignored(s, fd)))
        return error_set(e, ENOENT, "\"%.200s\": is left out by .dockerignore", path);
    return sys_take(&fd);
}

/* --- digest --- */

static void feed(struct build_copy *c, const char *kind, const char *name, const struct stat *st, u64 size)
{
    char head[160];
    u32 mode = c->mode >= 0 && !S_ISLNK(st->st_mode) ? (u32)c->mode : st->st_mode & 07777;
    int n = snprintf(head, sizeof(head), "%s %o %u:%u %llu %zu:", kind, mode, c->from.owners ? st->st_uid : 0,
                     c->from.owners ? st->st_gid : 0, (unsigned long long)size, strlen(name));
    digester_add(&c->digest, head, (size_t)n);
    digester_add(&c->digest, name, strlen(name));
}

static int count(struct build_copy *c, u64 bytes, struct error *e)
{
    if (++c->entries > c->entries_max)
        return error_set(e, EFBIG, "more than %u files: refused", c->entries_max);
    if (bytes > c->bytes_max - c->bytes)
        return error_set(e, EFBIG, "more than %llu bytes: refused", (unsigned long long)c->bytes_max);
    c->bytes += bytes;
    return 0;
}

/* --- attributes --- */

/* Owner, then mode: a change of owner takes set-id bits away. `fd` may be O_PATH. */
static int set_owner_and_mode(const struct build_copy *c, int fd, const struct stat *st, const char *path,
                              struct error *e)
{
    char name[SYS_FD_PATH];
    uid_t uid = c->chown ? c->uid : c->from.owners ? st->st_uid : 0;
    gid_t gid = c->chown ? c->gid : c->from.owners ? st->st_gid : 0;
    mode_t mode = c->mode >= 0 ? (mode_t)c->mode : st->st_mode & 07777;
    if (fchownat(fd, "", uid, gid, AT_EMPTY_PATH) < 0 ||
        (!S_ISLNK(st->st_mode) && chmod(sys_fd_path(fd, name), mode) < 0))
        return sys_error(e, "%.200s", path);
    return 0;
}

/* What a file of an image has beside: as layers carry it. */
static void copy_attributes(const struct build_copy *c, int from, int to)
{
    char names[4096], value[4096];
    ssize_t n = c->from.owners ? flistxattr(from, names, sizeof(names)) : 0;
    for (char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
        bool user = !strncmp(name, "user.", 5) && strncmp(name, "user.overlay.", 13);
        ssize_t size = user || !strcmp(name, "security.capability") ? fgetxattr(from, name, value, sizeof(value)) : -1;
        if (size >= 0)
            fsetxattr(to, name, value, (size_t)size, 0);
    }
}

static void set_time(int dir, const char *name, const struct stat *st)
{
    const struct timespec t[2] = {st->st_mtim, st->st_mtim};
    utimensat(dir, name, t, AT_SYMLINK_NOFOLLOW);
}

/* --- kinds of files --- */

/* Make place for what is no directory. */
static int clear_name(int dir, const char *name, const char *path, struct error *e)
{
    struct stat st;
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : sys_error(e, "%.200s", path);
    if (S_ISDIR(st.st_mode))
        return error_set(e, EISDIR, "%.200s: is a directory, and would become a file", path);
    return unlinkat(dir, name, 0) < 0 ? sys_error(e, "%.200s", path) : 0;
}

static int copy_bytes(struct build_copy *c, int in, int out, u64 size, const char *path, struct error *e)
{
    u8 buffer[CHUNK];
    while (size) {
        ssize_t n = read(in, buffer, MIN(size, sizeof(buffer)));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return n < 0 ? sys_error(e, "%.200s", path)
                         : error_set(e, EIO, "%.200s: became shorter while it was read; try again", path);
        digester_add(&c->digest, buffer, (size_t)n);
        if (out >= 0 && sys_write_all(out, buffer, (size_t)n) < 0)
            return sys_error(e, "%.200s", path);
        size -= (u64)n;
    }
    return 0;
}

/* `fd`: the file, O_PATH. `dir` -1: only its digest, in which it is called `label`. */
static int copy_file(struct build_copy *c, int fd, const struct stat *st, int dir, const char *name, const char *label,
                     const char *path, struct error *e)
{
    char self[SYS_FD_PATH];
    CLEANUP_FD int in = open(sys_fd_path(fd, self), O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    if (in < 0)
        return sys_error(e, "%.200s", path);
    feed(c, "F", label, st, (u64)st->st_size);
    int r = count(c, (u64)st->st_size, e);
    if (r == 0 && dir >= 0)
        r = clear_name(dir, name, path, e);
    if (r < 0)
        return r;
    CLEANUP_FD int out = dir < 0 ? -1 : openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (dir >= 0 && out < 0)
        return sys_error(e, "%.200s", path);
    r = copy_bytes(c, in, out, (u64)st->st_size, path, e);
    if (r < 0 || dir < 0)
        return r;
    r = set_owner_and_mode(c, out, st, path, e);
    copy_attributes(c, in, out);
    set_time(dir, name, st);
    return r;
}

static int copy_link(struct build_copy *c, int fd, const struct stat *st, int dir, const char *name, const char *path,
                     struct error *e)
{
    char target[PATH_MAX];
    ssize_t n = readlinkat(fd, "", target, sizeof(target) - 1);
    if (n < 0)
        return sys_error(e, "%.200s", path);
    target[n] = 0;
    feed(c, "L", name, st, (u64)n);
    digester_add(&c->digest, target, (size_t)n);
    int r = count(c, 0, e);
    if (r == 0 && dir >= 0)
        r = clear_name(dir, name, path, e);
    if (r < 0 || dir < 0)
        return r;
    if (symlinkat(target, dir, name) < 0)
        return sys_error(e, "%.200s", path);
    CLEANUP_FD int made = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    r = made < 0 ? sys_error(e, "%.200s", path) : set_owner_and_mode(c, made, st, path, e);
    set_time(dir, name, st);
    return r;
}

/* Devices and pipes: an image may have them, a context has none that anybody meant. */
static int copy_special(struct build_copy *c, const struct stat *st, int dir, const char *name, const char *path,
                        struct error *e)
{
    if (S_ISSOCK(st->st_mode))
        return 0; /* no archive has these */
    if (!c->from.owners)
        return error_set(e, EINVAL, "%.200s: is a device or a pipe: is not copied", path);
    feed(c, "S", name, st, st->st_rdev);
    int r = count(c, 0, e);
    if (r == 0 && dir >= 0)
        r = clear_name(dir, name, path, e);
    if (r < 0 || dir < 0)
        return r;
    if (mknodat(dir, name, (st->st_mode & S_IFMT) | 0600, st->st_rdev) < 0)
        return sys_error(e, "%.200s", path);
    CLEANUP_FD int made = openat(dir, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    return made < 0 ? sys_error(e, "%.200s", path) : set_owner_and_mode(c, made, st, path, e);
}

/* --- directories --- */

/* `to` is a path of the root. Makes what is missing; *made: the last part was. An O_PATH descriptor or -errno. */
static int make_path(const struct build_copy *c, const char *to, bool *made, struct error *e)
{
    char part[PATH_MAX];
    int fd = inroot_open(c->to, ".", O_DIRECTORY);
    *made = false;
    if (snprintf(part, sizeof(part), "%s", to) >= (int)sizeof(part))
        return sys_close(&fd), error_set(e, ENAMETOOLONG, "%.60s..: too long", to);
    for (char *p = part; fd >= 0 && *p;) {
        const struct stat fresh = {.st_mode = S_IFDIR | 0755};
        struct stat st;
        p += strcspn(p, "/");
        char c0 = *p;
        *p = 0;
        sys_close(&fd);
        fd = inroot_open(c->to, part, 0);
        *made = fd < 0 && errno == ENOENT;
        if (*made)
            fd = inroot_make(c->to, part, true, e);
        else if (fd < 0)
            sys_error(e, "/%.200s", part);
        if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISDIR(st.st_mode)))
            return sys_close(&fd), error_set(e, ENOTDIR, "/%.200s: is no directory", part);
        struct build_copy plain = *c;
        plain.mode = -1;
        plain.from.owners = false;
        if (fd >= 0 && *made && set_owner_and_mode(&plain, fd, &fresh, part, e) < 0)
            return sys_close(&fd), -EIO;
        *p = c0;
        p += c0 == '/';
    }
    return fd >= 0 ? fd : e && e->code ? -e->code : -EIO;
}

static int copy_below(struct build_copy *c, int fd, const char *from, const char *to, u32 depth, struct error *e);

/* A directory inside of what is copied: takes the attributes of the source. */
static int copy_directory(struct build_copy *c, int fd, const struct stat *st, int dir, const char *name,
                          const char *from, const char *to, u32 depth, struct error *e)
{
    feed(c, "D", name, st, 0);
    int r = count(c, 0, e);
    if (r < 0)
        return r;
    if (depth >= DEPTH_MAX)
        return error_set(e, ELOOP, "%.200s: directories are nested more than %d deep", from, DEPTH_MAX);
    if (dir < 0)
        return copy_below(c, fd, from, to, depth + 1, e);
    if (mkdirat(dir, name, 0700) < 0 && errno != EEXIST)
        return sys_error(e, "/%.200s", to);
    CLEANUP_FD int made = inroot_open(c->to, to, O_DIRECTORY); /* a link to a directory is one, inside the root */
    if (made < 0)
        return errno == ENOTDIR ? error_set(e, ENOTDIR, "/%.200s: is a file, and would become a directory", to)
                                : sys_error(e, "/%.200s", to);
    r = copy_below(c, fd, from, to, depth + 1, e);
    if (r == 0)
        r = set_owner_and_mode(c, made, st, to, e);
    set_time(made, ".", st);
    return r;
}

static int copy_name(struct build_copy *c, int parent, int dir, const char *name, const char *from, const char *to,
                     u32 depth, struct error *e)
{
    struct stat st;
    CLEANUP_FD int fd = openat(parent, name, O_PATH | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return sys_error(e, "%.200s", from);
    if (st.st_ino == c->from.without_ino && st.st_dev == c->from.without_dev && S_ISDIR(st.st_mode))
        return 0;
    bool ignored = build_ignored(c->from.ignore, from);
    if (ignored && !(S_ISDIR(st.st_mode) && c->from.ignore->keeps))
        return 0;
    if (S_ISDIR(st.st_mode) && ignored) /* only for what may be in again below it */
        return copy_below(c, fd, from, to, depth + 1, e);
    if (S_ISDIR(st.st_mode))
        return copy_directory(c, fd, &st, dir, name, from, to, depth, e);
    if (S_ISREG(st.st_mode))
        return copy_file(c, fd, &st, dir, name, name, from, e);
    if (S_ISLNK(st.st_mode))
        return copy_link(c, fd, &st, dir, name, from, e);
    return copy_special(c, &st, dir, name, from, e);
}

/* What is in a directory, in the order of names. `to` is there, or made when the first name comes (an ignored one's). */
static int copy_below(struct build_copy *c, int fd, const char *from, const char *to, u32 depth, struct error *e)
{
    struct dirent **names;
    int r = 0;
    if (depth >= DEPTH_MAX)
        return error_set(e, ELOOP, "%.200s: directories are nested more than %d deep", from, DEPTH_MAX);
    CLEANUP_FD int list = openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int n = list < 0 ? -1 : scandirat(list, ".", &names, NULL, name_order);
    if (n < 0)
        return sys_error(e, "%.200s", from);
    CLEANUP_FD int dir = -1;
    for (int i = 0; i < n; i++) {
        const char *name = names[i]->d_name;
        char a[PATH_MAX], b[PATH_MAX];
        bool made;
        if (r == 0 && !is_dots(name)) {
            int na = snprintf(a, sizeof(a), "%s%s%s", from, *from ? "/" : "", name);
            int nb = snprintf(b, sizeof(b), "%s%s%s", to, *to ? "/" : "", name);
            if (na >= (int)sizeof(a) || nb >= (int)sizeof(b))
                r = error_set(e, ENAMETOOLONG, "%.60s..: too long", from);
            if (r == 0 && c->to >= 0 && dir < 0 && !build_ignored(c->from.ignore, a))
                r = MIN(dir = make_path(c, to, &made, e), 0);
            if (r == 0)
                r = copy_name(c, list, dir, name, a, b, depth, e);
        }
        free(names[i]);
    }
    free(names);
    return r;
}

/* --- archives --- */

/* The sum of a tar's first block stands in it (POSIX ustar). */
static bool is_tar_block(const u8 block[512])
{
    u64 sum = 0, said = 0;
    for (int i = 0; i < 512; i++)
        sum += i >= 148 && i < 156 ? ' ' : block[i];
    const u8 *p = block + 148;
    while (p < block + 156 && *p == ' ')
        p++;
    for (; p < block + 156 && *p >= '0' && *p <= '7'; p++)
        said = said * 8 + *p - '0';
    return block[0] && sum == said;
}

bool build_is_archive(int fd)
{
    struct archive_library lib;
    struct archive_entry *entry;
    u8 block[512];
    size_t got = 0;
    off_t at = lseek(fd, 0, SEEK_CUR);
    struct archive *a = archive_library(&lib, NULL) == 0 ? lib.archive_read_new() : NULL;
    if (!a)
        return false;
    lib.archive_read_support_filter_gzip(a);
    lib.archive_read_support_filter_zstd(a);
    lib.archive_read_support_filter_xz(a);
    lib.archive_read_support_filter_bzip2(a);
    lib.archive_read_support_format_raw(a);
    ssize_t n = 1;
    if (lib.archive_read_open_fd(a, fd, CHUNK) == ARCHIVE_OK && lib.archive_read_next_header(a, &entry) == ARCHIVE_OK)
        while (got < sizeof(block) && (n = lib.archive_read_data(a, block + got, sizeof(block) - got)) > 0)
            got += (size_t)n;
    lib.archive_read_free(a);
    lseek(fd, at, SEEK_SET);
    return got == sizeof(block) && is_tar_block(block);
}

static int extract(struct build_copy *c, int fd, const struct stat *st, const char *from, const char *to,
                   struct error *e)
{
    char is[DIGEST_TEXT] = "";
    bool made;
    feed(c, "A", "", st, (u64)st->st_size);
    int r = count(c, (u64)st->st_size, e);
    if (r == 0)
        r = copy_bytes(c, fd, -1, (u64)st->st_size, from, e);
    if (r < 0 || c->to < 0)
        return r;
    if (c->chown || c->mode >= 0)
        return error_set(e, ENOTSUP, "%.200s: is an archive: --chown and --chmod are not there yet for what is in it",
                         from);
    CLEANUP_FD int path = make_path(c, to, &made, e);
    CLEANUP_FD int dir = path < 0 ? -1 : openat(path, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return path < 0 ? path : sys_error(e, "/%.200s", to);
    const struct layer_input in = {.fd = fd,
                                   .bytes_max = c->bytes_max - c->bytes,
                                   .entries_max = c->entries_max - c->entries,
                                   .merge = true,
                                   .plain = true};
    return layer_unpack(dir, &in, is, e);
}

/* --- all of it --- */

/* A target: "a/b" and whether it has to be a directory. */
struct target {
    char path[PATH_MAX];
    bool directory;
};

static int parse_target(struct target *t, const char *text, struct error *e)
{
    bool leaves;
    size_t n = strlen(text);
    if (build_clean(text, t->path, sizeof(t->path), &leaves) < 0)
        return error_set(e, ENAMETOOLONG, "\"%.60s..\": too long", text);
    t->directory = !n || text[n - 1] == '/' || !t->path[0];
    return 0;
}

static bool is_directory(int root, const char *path)
{
    CLEANUP_FD int fd = inroot_open(root, path, O_DIRECTORY);
    return fd >= 0;
}

/* The directory that a single file goes into, and its name there. */
static int place(struct build_copy *c, const struct target *t, const char *base, const char **name, char *room,
                 struct error *e)
{
    bool made;
    char dir[PATH_MAX];
    snprintf(dir, sizeof(dir), "%s", t->path);
    if (t->directory || is_directory(c->to, t->path)) {
        *name = base;
        return make_path(c, dir, &made, e);
    }
    char *slash = strrchr(dir, '/');
    snprintf(room, NAME_MAX + 1, "%.255s", slash ? slash + 1 : dir);
    *name = room;
    (slash ? slash : dir)[0] = 0;
    return make_path(c, dir, &made, e);
}

static int copy_single(struct build_copy *c, int fd, const struct stat *st, const char *from, const struct target *t,
                       struct error *e)
{
    char self[SYS_FD_PATH], room[NAME_MAX + 1];
    const char *base = strrchr(from, '/') ? strrchr(from, '/') + 1 : from, *name = base;
    if (!S_ISREG(st->st_mode))
        return error_set(e, EINVAL, "\"%.200s\": is neither a file nor a directory", from);
    CLEANUP_FD int in = c->extract ? open(sys_fd_path(fd, self), O_RDONLY | O_CLOEXEC | O_NONBLOCK) : -1;
    if (in >= 0 && build_is_archive(in))
        return extract(c, in, st, from, t->path, e);
    /* What the file will be called is part of the instruction; its own name is not, but where it decides. */
    feed(c, "N", base, st, 0);
    CLEANUP_FD int dir = c->to < 0 ? -1 : place(c, t, base, &name, room, e);
    if (c->to >= 0 && dir < 0)
        return dir;
    return copy_file(c, fd, st, dir, name, "", from, e);
}

static int copy_tree(struct build_copy *c, int fd, const struct stat *st, const char *from, const struct target *t,
                     struct error *e)
{
    bool made = false;
    feed(c, "T", "", st, 0);
    CLEANUP_FD int dir = c->to < 0 ? -1 : make_path(c, t->path, &made, e);
    if (c->to >= 0 && dir < 0)
        return dir;
    int r = copy_below(c, fd, from, t->path, 0, e);
    if (r == 0 && made) {
        r = set_owner_and_mode(c, dir, st, t->path, e);
        set_time(dir, ".", st);
    }
    return r;
}

int build_copy(struct build_copy *c, char *const *sources, size_t n, const char *target, struct error *e)
{
    struct list found = {0};
    struct target t;
    int r = parse_target(&t, target, e);
    for (size_t i = 0; r == 0 && i < n; i++)
        r = find_sources(c, sources[i], &found, e);
    if (r == 0 && found.n > 1 && !t.directory)
        r = error_set(e, EINVAL, "%zu sources: then the target is a directory, and ends in /: %.100s/", found.n,
                      target);
    for (size_t i = 0; r == 0 && i < found.n; i++) {
        struct stat st;
        CLEANUP_FD int fd = open_source(&c->from, found.v[i], &st, e);
        if (fd < 0)
            r = fd;
        else
            r = S_ISDIR(st.st_mode) ? copy_tree(c, fd, &st, found.v[i], &t, e)
                                    : copy_single(c, fd, &st, found.v[i], &t, e);
    }
    list_free(&found);
    return r;
}

int build_copy_text(struct build_copy *c, const char *name, const char *text, const char *target, bool directory,
                    struct error *e)
{
    const struct stat st = {.st_mode = S_IFREG | 0644};
    char room[NAME_MAX + 1];
    struct target t;
    size_t size = strlen(text);
    int r = parse_target(&t, target, e);
    feed(c, "H", name, &st, size);
    digester_add(&c->digest, text, size);
    if (r == 0 && (strchr(name, '/') || is_dots(name)))
        r = error_set(e, EINVAL, "here-document \"%.60s\": is no name of a file", name);
    if (r == 0)
        r = count(c, size, e);
    if (r < 0 || c->to < 0)
        return r;
    t.directory |= directory;
    CLEANUP_FD int dir = place(c, &t, name, &name, room, e);
    r = dir < 0 ? dir : clear_name(dir, name, target, e);
    if (r < 0)
        return r;
    CLEANUP_FD int fd = openat(dir, name, O_WRONLY | O_CREAT | O_EXCL | O_NOFOLLOW | O_CLOEXEC, 0600);
    if (fd < 0 || sys_write_all(fd, text, size) < 0)
        return sys_error(e, "%.200s", target);
    return set_owner_and_mode(c, fd, &st, target, e);
}
