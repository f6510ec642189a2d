/*
 * A directory becomes a tar: what `commit` and `build` make layers of, and `export` and `cp` write.
 *
 * The bytes go through two writers of libarchive only in name: the tar is made by the one, gzip is its filter; the diff id is
 * the digest of the plain tar, so for a layer the tar is made twice, once to digest it and once packed. (A filter of our own
 * between the two is not possible in libarchive.) Both are the same when nobody changes the directory meanwhile: `commit`
 * pauses the container.
 */
#include "image/tarlib.h"
#include "image/layer.h"
#include "container/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <search.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>
#include <sys/xattr.h>
#include <unistd.h>

#define CHUNK     (256u << 10)
#define DEPTH_MAX 1024

/* A file with several names: the first of them. */
struct seen {
    dev_t dev;
    ino_t ino;
    char *path;
};

struct pack {
    struct archive_library lib;
    struct archive *out;
    struct archive_entry *entry;
    bool changes;
    const char *const *without;
    u8 *buffer;
    void *seen; /* tsearch(3) */
    int (*sink)(void *arg, const void *data, size_t size, struct error *e);
    void *arg;
    struct error *e;
};

static int compare_seen(const void *a, const void *b)
{
    const struct seen *x = a, *y = b;
    return x->dev != y->dev ? (x->dev < y->dev ? -1 : 1) : x->ino != y->ino ? (x->ino < y->ino ? -1 : 1) : 0;
}

static void free_seen(void *node)
{
    struct seen *s = node;
    free(s->path);
    free(s);
}

static ssize_t write_out(struct archive *a, void *arg, const void *data, size_t size)
{
    struct pack *p = arg;
    if (p->sink(p->arg, data, size, p->e) == 0)
        return (ssize_t)size;
    p->lib.archive_set_error(a, EIO, "writing failed");
    return -1;
}

static int archive_failed(struct pack *p, const char *path)
{
    return error_set(p->e, EIO, "archive: %.200s: %s", path, p->lib.archive_error_string(p->out));
}

/* Attributes that a layer carries: those that unpacking takes. */
static void add_attributes(struct pack *p, int fd)
{
    char names[4096], value[4096];
    ssize_t n = flistxattr(fd, names, sizeof(names));
    for (char *name = names; n > 0 && name < names + n; name += strlen(name) + 1) {
        bool user = !strncmp(name, "user.", 5) && strncmp(name, "user.overlay.", 13);
        ssize_t size = user || !strcmp(name, "security.capability") ? fgetxattr(fd, name, value, sizeof(value)) : -1;
        if (size >= 0)
            p->lib.archive_entry_xattr_add_entry(p->entry, name, value, (size_t)size);
    }
}

/* An empty file of a name: whiteouts. */
static int add_mark(struct pack *p, const char *path)
{
    p->lib.archive_entry_clear(p->entry);
    p->lib.archive_entry_set_pathname(p->entry, path);
    p->lib.archive_entry_set_filetype(p->entry, AE_IFREG);
    p->lib.archive_entry_set_perm(p->entry, 0600);
    p->lib.archive_entry_set_size(p->entry, 0);
    return p->lib.archive_write_header(p->out, p->entry) == ARCHIVE_OK ? 0 : archive_failed(p, path);
}

/* The path that the file had before, or NULL: then it is remembered. */
static const char *earlier_name(struct pack *p, const struct stat *st, const char *path)
{
    struct seen key = {.dev = st->st_dev, .ino = st->st_ino};
    if (S_ISDIR(st->st_mode) || st->st_nlink < 2)
        return NULL;
    struct seen **hit = tfind(&key, &p->seen, compare_seen);
    if (hit)
        return (*hit)->path;
    struct seen *s = malloc(sizeof(*s));
    if (!s)
        return NULL;
    *s = key;
    s->path = strdup(path);
    if (s->path)
        tsearch(s, &p->seen, compare_seen);
    else
        free(s);
    return NULL;
}

static int add_content(struct pack *p, int fd, const char *path, u64 left)
{
    while (left) {
        ssize_t n = read(fd, p->buffer, MIN(left, CHUNK));
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0) /* cut while we read: zeros, so that the archive stays in step */
            memset(p->buffer, 0, (size_t)(n = (ssize_t)MIN(left, CHUNK)));
        if (p->lib.archive_write_data(p->out, p->buffer, (size_t)n) != n)
            return archive_failed(p, path);
        left -= (u64)n;
    }
    return 0;
}

static void describe(struct pack *p, const struct stat *st, const char *path)
{
    struct archive_library *l = &p->lib;
    l->archive_entry_clear(p->entry);
    l->archive_entry_set_pathname(p->entry, path);
    l->archive_entry_set_filetype(p->entry, st->st_mode & S_IFMT);
    l->archive_entry_set_perm(p->entry, st->st_mode & 07777);
    l->archive_entry_set_uid(p->entry, st->st_uid);
    l->archive_entry_set_gid(p->entry, st->st_gid);
    l->archive_entry_set_mtime(p->entry, st->st_mtim.tv_sec, 0);
    l->archive_entry_set_size(p->entry, S_ISREG(st->st_mode) ? st->st_size : 0);
    if (S_ISCHR(st->st_mode) || S_ISBLK(st->st_mode)) {
        l->archive_entry_set_rdevmajor(p->entry, major(st->st_rdev));
        l->archive_entry_set_rdevminor(p->entry, minor(st->st_rdev));
    }
}

static int add_entry(struct pack *p, int dir, const char *name, const struct stat *st, const char *path)
{
    char target[PATH_MAX];
    bool readable = S_ISREG(st->st_mode) || S_ISDIR(st->st_mode);
    CLEANUP_FD int fd = readable ? openat(dir, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK) : -1;
    if (readable && fd < 0)
        return sys_error(p->e, "%.200s", path);
    describe(p, st, path);
    const char *first = earlier_name(p, st, path);
    if (first) {
        p->lib.archive_entry_set_hardlink(p->entry, first);
        p->lib.archive_entry_set_size(p->entry, 0);
    } else if (S_ISLNK(st->st_mode)) {
        ssize_t n = readlinkat(dir, name, target, sizeof(target) - 1);
        if (n < 0)
            return sys_error(p->e, "%.200s", path);
        target[n] = 0;
        p->lib.archive_entry_set_symlink(p->entry, target);
    } else if (fd >= 0)
        add_attributes(p, fd);
    if (p->lib.archive_write_header(p->out, p->entry) < ARCHIVE_WARN)
        return archive_failed(p, path);
    return !first && S_ISREG(st->st_mode) ? add_content(p, fd, path, (u64)st->st_size) : 0;
}

static int name_order(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int add_below(struct pack *p, int dir, const char *path, int depth);

static bool is_empty(int dir, const char *name, const struct stat *st)
{
    if (!S_ISDIR(st->st_mode))
        return S_ISREG(st->st_mode) && !st->st_size;
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    bool empty = d != NULL;
    while (empty && (entry = readdir(d)))
        empty = !strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..");
    if (d)
        closedir(d);
    return empty;
}

static bool left_out(const struct pack *p, int dir, const char *name, const struct stat *st, const char *path)
{
    for (const char *const *w = p->without; w && *w; w++)
        if (!strcmp(*w, path))
            return is_empty(dir, name, st);
    return false;
}

static int add_name(struct pack *p, int dir, const char *name, const char *path, int depth)
{
    struct stat st;
    char mark[PATH_MAX], opaque[4];
    if (fstatat(dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return errno == ENOENT ? 0 : sys_error(p->e, "%.200s", path);
    if (p->changes && S_ISCHR(st.st_mode) && st.st_rdev == 0) {
        snprintf(mark, sizeof(mark), "%.*s.wh.%s", (int)(strlen(path) - strlen(name)), path, name);
        return add_mark(p, mark);
    }
    if (S_ISSOCK(st.st_mode) || left_out(p, dir, name, &st, path)) /* no archive has sockets */
        return 0;
    int r = add_entry(p, dir, name, &st, path);
    if (r < 0 || !S_ISDIR(st.st_mode))
        return r;
    if (depth >= DEPTH_MAX)
        return error_set(p->e, ELOOP, "%.200s: directories are nested more than %d deep", path, DEPTH_MAX);
    CLEANUP_FD int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return sys_error(p->e, "%.200s", path);
    if (p->changes && fgetxattr(fd, layer_opaque_name(), opaque, sizeof(opaque)) == 1 && opaque[0] == 'y') {
        snprintf(mark, sizeof(mark), "%s/.wh..wh..opq", path);
        r = add_mark(p, mark);
    }
    return r < 0 ? r : add_below(p, fd, path, depth + 1);
}

/* In the order of names: the same tree is the same archive. */
static int add_below(struct pack *p, int dir, const char *path, int depth)
{
    struct dirent **list;
    int r = 0, n = scandirat(dir, ".", &list, NULL, name_order);
    if (n < 0)
        return sys_error(p->e, "%.200s", path);
    for (int i = 0; i < n; i++) {
        const char *name = list[i]->d_name;
        char full[PATH_MAX];
        if (r == 0 && strcmp(name, ".") && strcmp(name, "..")) {
            if (snprintf(full, sizeof(full), "%s%s%s", path, *path ? "/" : "", name) >= (int)sizeof(full))
                r = error_set(p->e, ENAMETOOLONG, "%.80s..: too long", full);
            else
                r = add_name(p, dir, name, full, depth);
        }
        free(list[i]);
    }
    free(list);
    return r;
}

static int pack(struct pack *p, int dir, const char *name, bool packed)
{
    p->out = p->lib.archive_write_new();
    p->entry = p->lib.archive_entry_new();
    p->buffer = malloc(CHUNK);
    p->seen = NULL;
    int r = p->out && p->entry && p->buffer ? 0 : error_set(p->e, ENOMEM, "out of memory");
    if (r == 0) {
        p->lib.archive_write_set_format_pax_restricted(p->out);
        p->lib.archive_write_set_options(p->out, "hdrcharset=BINARY");
        if (packed) {
            p->lib.archive_write_add_filter_gzip(p->out);
            p->lib.archive_write_set_filter_option(p->out, "gzip", "timestamp", NULL);
        }
        p->lib.archive_write_set_bytes_in_last_block(p->out, 1);
        if (p->lib.archive_write_open(p->out, p, NULL, write_out, NULL) != ARCHIVE_OK)
            r = archive_failed(p, "open");
    }
    if (r == 0)
        r = name ? add_name(p, dir, name, name, 0) : add_below(p, dir, "", 0);
    if (r == 0 && p->lib.archive_write_close(p->out) != ARCHIVE_OK)
        r = archive_failed(p, "end");
    if (p->out)
        p->lib.archive_write_free(p->out);
    if (p->entry)
        p->lib.archive_entry_free(p->entry);
    tdestroy(p->seen, free_seen);
    free(p->buffer);
    return r;
}

static int sink_digest(void *arg, const void *data, size_t size, struct error *e)
{
    digester_add(arg, data, size);
    return 0;
}

static int sink_blob(void *arg, const void *data, size_t size, struct error *e)
{
    return ingest_add(arg, data, size, e);
}

static int sink_file(void *arg, const void *data, size_t size, struct error *e)
{
    return sys_write_all(*(int *)arg, data, size) < 0 ? sys_error(e, "writing the archive") : 0;
}

int layer_pack(const struct image_store *s, int dir, bool changes, const char *const *without,
               struct image_descriptor *out, char diff_id[DIGEST_TEXT], struct error *e)
{
    struct pack p = {.changes = changes, .without = without, .e = e};
    struct digester d;
    struct ingest in;
    int r = archive_library(&p.lib, e);
    if (r < 0)
        return r;
    digester_begin(&d, NULL);
    p.sink = sink_digest;
    p.arg = &d;
    r = pack(&p, dir, NULL, false);
    digester_end(&d, diff_id);
    if (r < 0 || (r = ingest_begin(&in, s, NULL, IMAGE_BLOB_MAX, false, e)) < 0)
        return r;
    p.sink = sink_blob;
    p.arg = &in;
    r = pack(&p, dir, NULL, true);
    if (r < 0) {
        ingest_abort(&in, false);
        return r;
    }
    snprintf(out->type, sizeof(out->type), "%s", TYPE_OCI_LAYER "+gzip");
    out->size = in.size;
    return ingest_commit(&in, ~0ull, out->digest, e);
}

int layer_export(int dir, const char *name, int fd, struct error *e)
{
    struct pack p = {.e = e, .sink = sink_file, .arg = &fd};
    int r = archive_library(&p.lib, e);
    return r < 0 ? r : pack(&p, dir, name, false);
}
