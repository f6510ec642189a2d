/*
 * Images: opening, locking, sizes.
 *
 * An image used with cache=none is open twice: past the page cache, and through it for the few requests that O_DIRECT can
 * not take (buffers that are not aligned) and for what has no alignment (flush, discard). Both see the same file: the kernel
 * writes cached pages out before a direct read and drops them after a direct write.
 *
 * Locks are those of open file descriptions (fcntl(2)) on the whole file: they are ours until the last descriptor goes,
 * whoever else opens and closes the file in this process.
 */
#include "backend/disk/disk_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/fs.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define LOCK_WAIT_NS 1000000000
#define LOCK_TRIES   100

static const char *const cache_names[] = {
#define X(mode, name) [mode] = name,
    DISK_CACHES(X)
#undef X
};

static const struct {
    const char *name, *suffixes;
} formats[] = {
#define X(format, name, suffixes) [format] = {name, suffixes},
    DISK_FORMATS(X)
#undef X
};

const char *disk_cache_name(enum disk_cache c)
{
    return cache_names[c];
}

int disk_cache_find(const char *name)
{
    for (int i = 0; i < DISK_CACHE_COUNT; i++)
        if (!strcmp(name, cache_names[i]))
            return i;
    return -1;
}

/* Whether `suffix` is in "a|b|c". */
static bool listed(const char *suffix, const char *list)
{
    size_t len = strlen(suffix);
    for (const char *p = list; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
        if (strcspn(p, "|") == len && !memcmp(p, suffix, len))
            return true;
    return false;
}

int disk_format_find(const char *name, const char *path, struct error *e)
{
    const char *base = strrchr(path, '/'), *dot = strrchr(base ? base : path, '.');
    struct stat st;
    for (int i = 0; i < DISK_FORMAT_COUNT; i++)
        if (name[0] ? !strcmp(name, formats[i].name) : dot && listed(dot, formats[i].suffixes))
            return i;
    if (!strcmp(name, "qcow2") || (!name[0] && dot && !strcmp(dot, ".qcow2")))
        return error_set(e, ENOSYS, "disk %s: qcow2 images are not there yet; convert it to a raw one", path);
    if (name[0])
        return error_set(e, EINVAL, "disk %s: format=%s: no such format; raw is one", path, name);
    if (stat(path, &st) == 0 && S_ISBLK(st.st_mode))
        return DISK_RAW;
    return error_set(e, EINVAL, "disk %s: its suffix tells no format (.raw and .img do); add ,format=raw", path);
}

/* --- opening --- */

static int refuse(const struct disk *d, int code, const char *what, struct error *e)
{
    return error_set(e, code, "disk %s: %s", d->path, what);
}

/*
 * Between two tries: false when there have been enough. A user that has just ended may hold an image for a moment, because the
 * kernel takes io_uring apart behind its process.
 */
static bool once_more(int *tries)
{
    const struct timespec moment = {.tv_nsec = LOCK_WAIT_NS / LOCK_TRIES};
    if (++*tries == LOCK_TRIES)
        return false;
    nanosleep(&moment, NULL);
    return true;
}

static int set_lock(const struct disk *d, short type)
{
    struct flock l = {.l_type = type, .l_whence = SEEK_SET};
    return fcntl(d->fd, F_OFD_SETLK, &l);
}

static int lock(const struct disk *d, bool patient, struct error *e)
{
    int r, tries = 0;
    do
        r = set_lock(d, d->read_only ? F_RDLCK : F_WRLCK);
    while (r < 0 && (errno == EAGAIN || errno == EACCES) && patient && once_more(&tries));
    if (r == 0)
        return 0;
    if (errno == EAGAIN || errno == EACCES)
        return refuse(d, EBUSY,
                      "another machine or program uses it; stop that one, or give it to all of them with ,readonly", e);
    return error_set(e, errno, "disk %s: it can not be locked: %s", d->path, strerror(errno));
}

static int measure(struct disk *d, struct error *e)
{
    struct stat st;
    if (fstat(d->fd, &st) < 0)
        return error_set(e, errno, "disk %s: %s", d->path, strerror(errno));
    d->device = S_ISBLK(st.st_mode);
    if (!d->device && !S_ISREG(st.st_mode))
        return refuse(d, EINVAL, "is neither a file nor a block device", e);
    u64 bytes = (u64)st.st_size;
    if (d->device && ioctl(d->fd, BLKGETSIZE64, &bytes) < 0)
        return error_set(e, errno, "disk %s: its size is not known: %s", d->path, strerror(errno));
    if (!bytes || bytes % DISK_SECTOR)
        return error_set(e, EINVAL, "disk %s: has %llu bytes; a disk is one or more sectors of 512: use truncate -s",
                         d->path, (unsigned long long)bytes);
    d->size = bytes;
    return 0;
}

/* Whether the file can be read past the page cache, which not every file system that lets us open it so can. */
static bool direct_works(int fd)
{
    void *p = aligned_alloc(4096, 4096);
    bool good = p && pread(fd, p, 4096, 0) >= 0;
    free(p);
    return good;
}

static int open_direct(struct disk *d, struct error *e)
{
    char name[32];
    if (d->cache != DISK_CACHE_AUTO && d->cache != DISK_CACHE_NONE)
        return 0;
    snprintf(name, sizeof(name), "/proc/self/fd/%d", d->fd); /* the same file, whatever its name means now */
    d->direct_fd = open(name, (d->read_only ? O_RDONLY : O_RDWR) | O_DIRECT | O_CLOEXEC);
    if (d->direct_fd >= 0 && !direct_works(d->direct_fd)) {
        close(d->direct_fd);
        d->direct_fd = -1;
    }
    if (d->direct_fd < 0 && d->cache == DISK_CACHE_NONE)
        return refuse(d, ENOTSUP, "cache=none: its file system has no O_DIRECT; leave cache= out, or use writeback", e);
    d->cache = d->direct_fd >= 0 ? DISK_CACHE_NONE : DISK_CACHE_WRITEBACK;
    return 0;
}

static int open_image(struct disk *d, bool unlocked, struct error *e)
{
    /* O_EXCL: a block device that the host has mounted, or that another writer holds under another name, is refused. */
    int flags = (d->read_only ? O_RDONLY : O_RDWR | O_EXCL) | O_CLOEXEC | O_NONBLOCK | O_NOCTTY;
    int tries = 0;
    do
        d->fd = open(d->path, flags | (d->cache == DISK_CACHE_WRITETHROUGH ? O_DSYNC : 0));
    while (d->fd < 0 && errno == EBUSY && once_more(&tries));
    if (d->fd < 0 && !d->read_only && (errno == EACCES || errno == EROFS || errno == EPERM))
        return error_set(e, errno, "disk %s: %s; add ,readonly, or make it writable", d->path, strerror(errno));
    if (d->fd < 0 && errno == EBUSY)
        return refuse(d, EBUSY,
                      "this device is mounted, or another machine or program uses it; unmount or stop that one", e);
    if (d->fd < 0)
        return error_set(e, errno, "disk %s: %s; check what --disk names", d->path, strerror(errno));
    int r = measure(d, e);
    if (r == 0)
        r = unlocked ? 0 : lock(d, true, e);
    return r < 0 ? r : open_direct(d, e);
}

int disk_open(struct disk **out, const struct disk_options *o, struct error *e)
{
    struct disk *d = calloc(1, sizeof(*d));
    char *path = strdup(o->path);
    if (!d || !path) {
        free(d);
        free(path);
        return error_set(e, ENOMEM, "disk %s: out of memory", o->path);
    }
    *d = (struct disk){.path = path, .fd = -1, .direct_fd = -1, .read_only = o->read_only, .cache = o->cache};
    int r = open_image(d, o->unlocked, e);
    if (r < 0)
        disk_close(d);
    else
        *out = d;
    return r;
}

int disk_lock(const struct disk *d, struct error *e)
{
    return lock(d, false, e);
}

void disk_unlock(const struct disk *d)
{
    set_lock(d, F_UNLCK);
}

void disk_close(struct disk *d)
{
    if (!d)
        return;
    if (d->direct_fd >= 0)
        close(d->direct_fd);
    if (d->fd >= 0)
        close(d->fd);
    free(d->path);
    free(d);
}

void disk_describe(const struct disk *d, struct disk_info *info)
{
    info->sectors = d->size / DISK_SECTOR;
    info->flags = DISK_CAN_DISCARD;
    info->flags |= d->read_only ? DISK_READ_ONLY : 0;
    info->flags |= d->cache != DISK_CACHE_WRITETHROUGH && !d->read_only ? DISK_WRITE_CACHE : 0;
}

int disk_sync(const struct disk *d)
{
    return fdatasync(d->fd) < 0 ? -errno : 0;
}

int disk_descriptor(const struct disk *d)
{
    return d->fd;
}

enum disk_cache disk_cache_mode(const struct disk *d)
{
    return d->cache;
}
