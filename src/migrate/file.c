#include "migrate/file.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

static int write_all(void *ctx, const void *data, size_t len, struct error *e)
{
    const struct stream_file *f = ctx;
    const u8 *p = data;
    while (len) {
        ssize_t n = write(f->fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(e, errno, "%s: cannot be written: %s", f->name, strerror(errno));
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

static int read_all(void *ctx, void *buf, size_t len, struct error *e)
{
    const struct stream_file *f = ctx;
    u8 *p = buf;
    while (len) {
        ssize_t n = read(f->fd, p, len);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return error_set(e, errno, "cannot be read: %s", strerror(errno));
        if (n == 0)
            return error_set(e, EBADMSG, "it is cut short");
        p += n;
        len -= (size_t)n;
    }
    return 0;
}

/* Whether the file that was locked is still the one of that name: whoever had it may have renamed or removed it. */
static bool is_named(const struct stream_file *f)
{
    struct stat ours, named;
    return fstat(f->fd, &ours) == 0 && fstatat(f->dir, f->part, &named, AT_SYMLINK_NOFOLLOW) == 0 &&
           ours.st_ino == named.st_ino && ours.st_dev == named.st_dev;
}

/* Open and lock the file under its other name. */
static int open_part(struct stream_file *f, struct error *e)
{
    for (int tries = 0; tries < 100; tries++) {
        f->fd = openat(f->dir, f->part, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
        if (f->fd < 0)
            return error_set(e, errno, "%s: cannot be made: %s", f->part, strerror(errno));
        if (flock(f->fd, LOCK_EX | LOCK_NB) < 0) {
            int why = errno;
            close(f->fd);
            f->fd = -1;
            return error_set(e, why == EWOULDBLOCK ? EBUSY : why, "%s: %s", f->name,
                             why == EWOULDBLOCK ? "is being written by somebody else; wait until that is done"
                                                : strerror(why));
        }
        if (is_named(f))
            return 0;
        close(f->fd);
        f->fd = -1;
    }
    return error_set(e, EBUSY, "%s: comes and goes; try again", f->part);
}

int stream_file_create(struct stream_file *f, int dir, const char *name, struct stream_out *o, struct error *e)
{
    *f = (struct stream_file){.dir = dir, .fd = -1};
    if (snprintf(f->name, sizeof(f->name), "%s", name) >= (int)sizeof(f->name) ||
        snprintf(f->part, sizeof(f->part), "%.*s.part", NAME_MAX, name) >= (int)sizeof(f->part))
        return error_set(e, ENAMETOOLONG, "%.60s..: too long a name", name);
    int r = open_part(f, e);
    if (r < 0)
        return r;
    if (ftruncate(f->fd, 0) < 0) {
        r = error_set(e, errno, "%s: %s", f->part, strerror(errno));
        stream_file_abandon(f);
        return r;
    }
    o->put = write_all;
    o->ctx = f;
    o->aligned = o->indexed = true;
    return 0;
}

int stream_file_commit(struct stream_file *f, struct error *e)
{
    int r = 0;
    if (fsync(f->fd) < 0 || renameat(f->dir, f->part, f->dir, f->name) < 0)
        r = error_set(e, errno, "%s: cannot be made durable: %s", f->name, strerror(errno));
    else if (fsync(f->dir) < 0)
        r = error_set(e, errno, "%s: its directory: %s", f->name, strerror(errno));
    if (r < 0) {
        stream_file_abandon(f);
        return r;
    }
    stream_file_close(f);
    return 0;
}

void stream_file_abandon(struct stream_file *f)
{
    if (f->fd < 0)
        return;
    unlinkat(f->dir, f->part, 0);
    stream_file_close(f);
}

int stream_file_open(struct stream_file *f, int dir, const char *name, struct stream_in *s, struct error *e)
{
    struct stat st;
    *f = (struct stream_file){.dir = dir, .fd = -1};
    if (snprintf(f->name, sizeof(f->name), "%s", name) >= (int)sizeof(f->name))
        return error_set(e, ENAMETOOLONG, "%.60s..: too long a name", name);
    f->fd = openat(dir, name, O_RDONLY | O_CLOEXEC | O_NOFOLLOW | O_NONBLOCK);
    if (f->fd < 0 || fstat(f->fd, &st) < 0)
        return error_set(e, errno, "%s: %s", name, strerror(errno));
    if (!S_ISREG(st.st_mode)) {
        stream_file_close(f);
        return error_set(e, EINVAL, "%s: is no regular file", name);
    }
    s->get = read_all;
    s->ctx = f;
    return 0;
}

void stream_file_close(struct stream_file *f)
{
    if (f->fd >= 0)
        close(f->fd);
    f->fd = -1;
}

int stream_file_at_end(struct stream_file *f, struct error *e)
{
    u8 more;
    ssize_t n = read(f->fd, &more, 1);
    return n == 0
               ? 0
               : error_set(e, n < 0 ? errno : EBADMSG, n < 0 ? "cannot be read" : "there is something behind its end");
}
