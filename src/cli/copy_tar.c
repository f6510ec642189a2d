/*
 * A tar stream wants each file's size before its data; the agent says a size, and sends what it finds. What is missing is
 * filled with zeros, what is too much left out with a word, as tar(1) does with files that change.
 *
 * Not done: owners (as everywhere in cp), hard links (each becomes a file of its own out, an error in), devices, sparse files.
 */
#include "cli/copy_tar.h"
#include "image/tarlib.h"

#include <errno.h>
#include <limits.h>
#include <locale.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NAME_LEN (AGENT_PATH_MAX + 300)

struct copy_tar_out {
    struct archive_library lib;
    struct archive *a;
    char root[256];
    u64 left; /* of the present file */
    bool in_file, longer;
};

static int failed(const struct archive_library *lib, struct archive *a, const char *what, struct error *e)
{
    const char *why = lib->archive_error_string(a);
    return error_set(e, EIO, "%s: %s", what, why ? why : "failed");
}

/* The library takes names for text of the locale; names are bytes, nearly always UTF-8. */
static void set_locale(void)
{
    setlocale(LC_CTYPE, "C.UTF-8");
}

int copy_tar_create(struct copy_tar_out **out, int fd, const char *root, struct error *e)
{
    struct copy_tar_out *t = calloc(1, sizeof(*t));
    const struct archive_library *lib = t ? &t->lib : NULL;
    int r = t ? archive_library(&t->lib, e) : 0;
    if (r < 0) {
        free(t);
        return r;
    }
    if (!t || !(t->a = lib->archive_write_new())) {
        free(t);
        return error_set(e, ENOMEM, "memory: the host has none left");
    }
    snprintf(t->root, sizeof(t->root), "%s", root);
    set_locale();
    lib->archive_write_set_format_pax(t->a);
    lib->archive_write_set_bytes_in_last_block(t->a, 1);
    *out = t;
    if (lib->archive_write_open_fd(t->a, fd) == ARCHIVE_OK)
        return 0;
    r = failed(lib, t->a, "standard output", e);
    copy_tar_finish(t, NULL);
    return r;
}

int copy_tar_finish(struct copy_tar_out *t, struct error *e)
{
    const struct archive_library *lib = &t->lib;
    int r = lib->archive_write_close(t->a) == ARCHIVE_OK ? 0 : failed(lib, t->a, "standard output", e);
    lib->archive_write_free(t->a);
    free(t);
    return r;
}

static unsigned type_of(const struct agent_file *f)
{
    return f->type == AGENT_TYPE_DIR ? AE_IFDIR : f->type == AGENT_TYPE_LINK ? AE_IFLNK : AE_IFREG;
}

static int put_entry(struct copy_tar_out *t, const struct agent_file *f, struct error *e)
{
    const struct archive_library *lib = &t->lib;
    char name[NAME_LEN];
    snprintf(name, sizeof(name), "%s%s%s", t->root, *t->root && *f->name ? "/" : "", f->name);
    if (f->type == AGENT_TYPE_DIR_END || !*name)
        return 0;
    struct archive_entry *x = lib->archive_entry_new();
    if (!x)
        return error_set(e, ENOMEM, "memory: the host has none left");
    lib->archive_entry_set_pathname(x, name);
    lib->archive_entry_set_filetype(x, type_of(f));
    lib->archive_entry_set_perm(x, (mode_t)f->mode);
    lib->archive_entry_set_mtime(x, (time_t)f->mtime, (long)f->mtime_ns);
    lib->archive_entry_set_size(x, f->type == AGENT_TYPE_FILE ? (s64)MIN(f->size, (u64)INT64_MAX) : 0);
    if (f->type == AGENT_TYPE_LINK)
        lib->archive_entry_set_symlink(x, f->target);
    /* A warning: the name is no UTF-8, and goes in as bytes. */
    int r = lib->archive_write_header(t->a, x) >= ARCHIVE_WARN ? 0 : failed(lib, t->a, name, e);
    lib->archive_entry_free(x);
    t->in_file = f->type == AGENT_TYPE_FILE;
    t->left = f->size;
    t->longer = false;
    return r;
}

int copy_tar_put(struct copy_tar_out *t, const struct agent_frame *f, struct error *e)
{
    const struct archive_library *lib = &t->lib;
    struct agent_file x;
    size_t n = (size_t)MIN((u64)f->len, t->left);
    switch (f->kind) {
    case AGENT_FILE:
        if (t->in_file || agent_file_unpack(&x, f) < 0)
            break;
        return put_entry(t, &x, e);
    case AGENT_DATA:
        if (!t->in_file)
            break;
        t->left -= n;
        if (n < f->len && !t->longer)
            fprintf(stderr, "trapeze: a file has grown while it was copied; its new end is left out\n");
        t->longer |= n < f->len;
        return !n || lib->archive_write_data(t->a, f->data, n) == (ssize_t)n ? 0
                                                                             : failed(lib, t->a, "standard output", e);
    case AGENT_FILE_END:
        if (!t->in_file)
            break;
        t->in_file = false;
        return lib->archive_write_finish_entry(t->a) == ARCHIVE_OK ? 0 : failed(lib, t->a, "standard output", e);
    case AGENT_DONE:
        return t->in_file ? error_set(e, EPROTO, "the agent ends in the middle of a file") : 1;
    }
    return error_set(e, EPROTO, "the agent sends what can not be");
}

/* --- in --- */

/* Directories whose modes and times are sent at the end, when all that is in them is there. */
struct dirs {
    struct agent_file *file;
    char **name;
    size_t n, cap;
};

static int keep_dir(struct dirs *d, const struct agent_file *f)
{
    if (d->n == d->cap) {
        size_t cap = d->cap ? 2 * d->cap : 64;
        struct agent_file *file = realloc(d->file, cap * sizeof(*file));
        if (file)
            d->file = file;
        char **name = realloc(d->name, cap * sizeof(*name));
        if (name)
            d->name = name;
        if (!file || !name)
            return -ENOMEM;
        d->cap = cap;
    }
    d->file[d->n] = *f;
    d->file[d->n].type = AGENT_TYPE_DIR_END;
    d->file[d->n].target = "";
    if (!(d->name[d->n] = strdup(f->name)))
        return -ENOMEM;
    d->n++;
    return 0;
}

static int send_entry(int agent, const struct agent_file *f, struct error *e)
{
    u8 *b = malloc(AGENT_FRAME_MAX);
    s64 n = b ? agent_file_pack(f, b) : -ENOMEM;
    int r = n < 0 ? (int)n : agent_send(agent, AGENT_FILE, b, (size_t)n);
    free(b);
    return r < 0 ? error_set(e, -r, "%.100s: %s", f->name, strerror(-r)) : 0;
}

static int send_dirs(struct dirs *d, int agent, struct error *e)
{
    int r = 0;
    while (d->n) {
        d->n--;
        d->file[d->n].name = d->name[d->n];
        if (r == 0)
            r = send_entry(agent, &d->file[d->n], e);
        free(d->name[d->n]);
    }
    free(d->file);
    free(d->name);
    return r;
}

/* "./a//b/" is "a/b"; -1: a name that leads out, or is too long. Into `out`. */
static int clean_name(const char *s, char *out, size_t size)
{
    size_t at = 0;
    while (*s == '/')
        s++;
    while (*s) {
        size_t len = strcspn(s, "/");
        bool dot = len == 1 && *s == '.';
        if ((len == 2 && s[0] == '.' && s[1] == '.') || at + len + 2 > size)
            return -1;
        if (len && !dot) {
            if (at)
                out[at++] = '/';
            memcpy(out + at, s, len);
            at += len;
        }
        s += len + (s[len] == '/');
    }
    out[at] = 0;
    return 0;
}

static int send_data(const struct archive_library *lib, struct archive *a, int agent, struct error *e)
{
    u8 *b = malloc(AGENT_FRAME_MAX);
    la_ssize_t n = 0;
    int r = b ? 0 : -ENOMEM;
    while (r == 0 && (n = lib->archive_read_data(a, b, AGENT_FRAME_MAX)) > 0)
        r = agent_send(agent, AGENT_DATA, b, (size_t)n);
    free(b);
    if (r == 0 && n < 0)
        return failed(lib, a, "standard input", e);
    return r < 0 ? error_set(e, -r, "connection: %s", strerror(-r)) : agent_send(agent, AGENT_FILE_END, NULL, 0);
}

static int send_one(const struct archive_library *lib, struct archive *a, struct archive_entry *x, struct dirs *d,
                    int agent, struct error *e)
{
    char name[AGENT_PATH_MAX];
    struct agent_file f = {.mode = lib->archive_entry_perm(x) & 07777,
                           .mtime = lib->archive_entry_mtime(x),
                           .mtime_ns = (u32)lib->archive_entry_mtime_nsec(x),
                           .size = (u64)lib->archive_entry_size(x),
                           .name = name,
                           .target = ""};
    unsigned type = lib->archive_entry_filetype(x);
    const char *path = lib->archive_entry_pathname(x);
    if (!path || clean_name(path, name, sizeof(name)) < 0)
        return error_set(e, EINVAL, "standard input: %.100s: a name that leads out, or is no text", path ? path : "?");
    if (!*name)
        return 0;
    if (lib->archive_entry_hardlink(x) || (type != AE_IFREG && type != AE_IFDIR && type != AE_IFLNK))
        return error_set(e, ENOTSUP, "standard input: %.100s: only files, directories and symbolic links can be copied",
                         name);
    f.type = type == AE_IFDIR ? AGENT_TYPE_DIR : type == AE_IFLNK ? AGENT_TYPE_LINK : AGENT_TYPE_FILE;
    if (type == AE_IFLNK && !(f.target = lib->archive_entry_symlink(x)))
        return error_set(e, EINVAL, "standard input: %.100s: its target is no text", name);
    int r = send_entry(agent, &f, e);
    if (r == 0 && type == AE_IFDIR && keep_dir(d, &f) < 0)
        r = error_set(e, ENOMEM, "memory: the host has none left");
    return r < 0 || type != AE_IFREG ? r : send_data(lib, a, agent, e);
}

static int send_all(const struct archive_library *lib, struct archive *a, struct dirs *d, int agent, struct error *e)
{
    const struct agent_file root = {.type = AGENT_TYPE_DIR, .mode = 0755, .name = "", .target = ""};
    struct archive_entry *x;
    int r = send_entry(agent, &root, e), got = ARCHIVE_OK;
    while (r == 0 && (got = lib->archive_read_next_header(a, &x)) >= ARCHIVE_WARN && got != ARCHIVE_EOF)
        r = send_one(lib, a, x, d, agent, e);
    return r == 0 && got != ARCHIVE_EOF ? failed(lib, a, "standard input", e) : r;
}

int copy_tar_send(int fd, int agent, struct error *e)
{
    struct dirs d = {0};
    struct archive_library loaded;
    const struct archive_library *lib = &loaded;
    int r = archive_library(&loaded, e);
    if (r < 0)
        return r;
    struct archive *a = lib->archive_read_new();
    if (!a)
        return error_set(e, ENOMEM, "memory: the host has none left");
    set_locale();
    lib->archive_read_support_format_tar(a);
    lib->archive_read_support_filter_all(a);
    r = lib->archive_read_open_fd(a, fd, 65536) == ARCHIVE_OK ? 0 : failed(lib, a, "standard input", e);
    if (r == 0)
        r = send_all(lib, a, &d, agent, e);
    lib->archive_read_free(a);
    int sent = send_dirs(&d, agent, r < 0 ? NULL : e);
    if (r == 0 && (r = sent) == 0)
        r = agent_send(agent, AGENT_DONE, NULL, 0);
    return r;
}
