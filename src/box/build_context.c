/*
 * Where a build reads from: a directory, or what stands on standard input. Somebody else may have made either.
 *
 * The Dockerfile of the context and .dockerignore are looked up inside the context; a file that the user names with --file may lie
 * anywhere, as whoever typed it can read it anyway.
 */
#include "box/build_parts.h"
#include "container/sys.h"
#include "image/layer.h"
#include "image/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define IGNORE_MAX (1u << 20)

/* Up to `max` bytes, NUL-terminated. */
static int read_text(int fd, size_t max, char **text, size_t *size, const char *what, struct error *e)
{
    size_t room = 0, n = 0;
    char *out = NULL;
    for (;;) {
        if (n + 1 >= room) {
            room = room ? 2 * room : 8192;
            char *more = n > max ? NULL : realloc(out, room);
            if (!more) {
                free(out);
                return n > max ? error_set(e, EFBIG, "%.200s: more than %zu bytes", what, max)
                               : error_set(e, ENOMEM, "out of memory");
            }
            out = more;
        }
        ssize_t got = read(fd, out + n, room - n - 1);
        if (got < 0 && errno == EINTR)
            continue;
        if (got <= 0) {
            out[n] = 0;
            *text = out;
            *size = n;
            if (got < 0) {
                free(out);
                *text = NULL;
                return sys_error(e, "%.200s", what);
            }
            return 0;
        }
        n += (size_t)got;
    }
}

/* A plain file, looked up below `dir`. */
static int open_inside(int dir, const char *name)
{
    struct stat st;
    CLEANUP_FD int fd = sys_openat2(dir, name, O_RDONLY | O_NONBLOCK, 0, RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISREG(st.st_mode))) {
        errno = EINVAL;
        return -1;
    }
    return sys_take(&fd);
}

static int read_inside(int dir, const char *name, size_t max, char **text, size_t *size, struct error *e)
{
    CLEANUP_FD int fd = open_inside(dir, name);
    if (fd < 0)
        return errno == ENOENT ? -ENOENT : sys_error(e, "%.200s of the context", name);
    return read_text(fd, max, text, size, name, e);
}

/* --- standard input --- */

/* Its bytes in a file without a name: archives are read twice. */
static int spool(const struct build_context *c, struct error *e)
{
    u8 buffer[65536];
    u64 total = 0;
    ssize_t n;
    CLEANUP_FD int fd = openat(c->work, "input", O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return sys_error(e, "%.200s/input", c->path);
    unlinkat(c->work, "input", 0);
    while ((n = read(STDIN_FILENO, buffer, sizeof(buffer))) > 0 || (n < 0 && errno == EINTR)) {
        if (n > 0 && (total += (u64)n) > IMAGE_BLOB_MAX)
            return error_set(e, EFBIG, "standard input: more than %llu bytes", (unsigned long long)IMAGE_BLOB_MAX);
        if (n > 0 && sys_write_all(fd, buffer, (size_t)n) < 0)
            return sys_error(e, "%.200s/input", c->path);
    }
    if (n < 0)
        return sys_error(e, "standard input");
    lseek(fd, 0, SEEK_SET);
    return sys_take(&fd);
}

static int from_input(struct build_context *c, const struct image_store *s, struct error *e)
{
    char is[DIGEST_TEXT] = "";
    CLEANUP_FD int fd = spool(c, e);
    if (fd < 0)
        return fd;
    if (!build_is_archive(fd))
        return read_text(fd, DOCKERFILE_MAX, &c->text, &c->size, "standard input", e);
    const struct layer_input in = {
        .fd = fd, .bytes_max = s->layer_bytes_max, .entries_max = s->layer_entries_max, .merge = true, .plain = true};
    int r = layer_unpack(c->dir, &in, is, e);
    if (r < 0)
        error_prefix(e, "context on standard input");
    return r;
}

/* --- the Dockerfile --- */

static int named_file(struct build_context *c, const char *file, struct error *e)
{
    struct stat st;
    CLEANUP_FD int fd = open(file, O_RDONLY | O_CLOEXEC);
    int why = errno;
    if (fd < 0 && why == ENOENT && file[0] != '/' && (fd = open_inside(c->dir, file)) < 0)
        return error_set(e, why, "%.200s: is neither here nor in the context", file);
    if (fd < 0)
        return error_set(e, why, "%.200s: %s", file, strerror(why));
    if (fstat(fd, &st) == 0 && S_ISDIR(st.st_mode))
        return error_set(e, EISDIR, "%.200s: is a directory", file);
    return read_text(fd, DOCKERFILE_MAX, &c->text, &c->size, file, e);
}

static int find_dockerfile(struct build_context *c, const struct build_options *o, struct error *e)
{
    if (c->text) /* it was standard input itself */
        return o->file ? error_set(e, EINVAL, "--file: standard input is a Dockerfile itself, and no archive") : 0;
    if (o->file && !strcmp(o->file, "-"))
        return read_text(STDIN_FILENO, DOCKERFILE_MAX, &c->text, &c->size, "standard input", e);
    if (o->file && strcmp(o->context, "-"))
        return named_file(c, o->file, e);
    const char *name = o->file ? o->file : "Dockerfile";
    int r = read_inside(c->dir, name, DOCKERFILE_MAX, &c->text, &c->size, e);
    if (r == -ENOENT && !o->file)
        r = read_inside(c->dir, c->file = "Containerfile", DOCKERFILE_MAX, &c->text, &c->size, e);
    if (r == -ENOENT)
        return error_set(e, ENOENT, "%.200s: the context has no %s; name one with --file", o->context,
                         o->file ? o->file : "Dockerfile");
    return r;
}

static int find_ignore(struct build_context *c, struct error *e)
{
    char own[300];
    CLEANUP_FREE char *text = NULL;
    size_t size;
    const char *slash = strrchr(c->file, '/');
    snprintf(own, sizeof(own), "%.200s.dockerignore", slash ? slash + 1 : c->file);
    int r = read_inside(c->dir, own, IGNORE_MAX, &text, &size, e);
    if (r == -ENOENT)
        r = read_inside(c->dir, ".dockerignore", IGNORE_MAX, &text, &size, e);
    return r == -ENOENT ? 0 : r < 0 ? r : build_ignore_parse(&c->ignore, text, size, e);
}

int build_context_open(struct build_context *c, const struct build_options *o, const struct image_store *s,
                       struct error *e)
{
    char name[40], path[48];
    bool input = !strcmp(o->context, "-");
    memset(c, 0, sizeof(*c));
    c->dir = c->work = -1;
    tree_random(name, sizeof(name), "build-");
    snprintf(path, sizeof(path), "tmp/%s", name);
    if (input && o->file && !strcmp(o->file, "-"))
        return error_set(e, EINVAL, "--file -: standard input is the context already");
    if (snprintf(c->path, sizeof(c->path), "%s/%s", s->path, path) >= (int)sizeof(c->path))
        return error_set(e, ENAMETOOLONG, "%.80s..: too long", s->path);
    c->work = tree_make_at(s->dir, path, 0700, e);
    if (c->work < 0)
        return c->work;
    c->file = o->file && strcmp(o->file, "-") ? o->file : "Dockerfile";
    c->dir = input ? tree_make_at(c->work, "context", 0755, e) : open(o->context, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (c->dir < 0)
        return input ? c->dir
                     : error_set(e, errno, "%.200s: %s; build takes a directory, - for standard input, or vm:debian",
                                 o->context, strerror(errno));
    int r = input ? from_input(c, s, e) : 0;
    if (r == 0)
        r = find_dockerfile(c, o, e);
    return r == 0 ? find_ignore(c, e) : r;
}

void build_context_close(struct build_context *c, const struct image_store *s)
{
    sys_close(&c->dir);
    sys_close(&c->work);
    build_ignore_free(&c->ignore);
    free(c->text);
    CLEANUP_FD int tmp = openat(s->dir, "tmp", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (tmp >= 0 && c->path[0])
        tree_remove(tmp, strrchr(c->path, '/') + 1, NULL);
}
