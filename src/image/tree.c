#include "image/tree.h"
#include "container/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define DEPTH_MAX 200 /* of directories that are open at once */

void tree_random(char *out, size_t size, const char *prefix)
{
    u64 bits = 0;
    if (getrandom(&bits, sizeof(bits), 0) != (ssize_t)sizeof(bits))
        bits = (u64)getpid() << 32 ^ (u64)(uintptr_t)&bits;
    snprintf(out, size, "%s%016llx", prefix, (unsigned long long)bits);
}

int tree_make(const char *path, struct error *e)
{
    char part[PATH_MAX];
    if (snprintf(part, sizeof(part), "%s", path) >= (int)sizeof(part))
        return error_set(e, ENAMETOOLONG, "%.80s..: too long", path);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0)
        return fd;
    for (char *p = part + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = 0;
        if (mkdir(part, 0755) < 0 && errno != EEXIST)
            return sys_error(e, "%s", part);
    }
    if (mkdir(part, 0700) < 0 && errno != EEXIST)
        return sys_error(e, "%s", part);
    fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? sys_error(e, "%s", path) : fd;
}

int tree_make_at(int dir, const char *name, u32 mode, struct error *e)
{
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 && errno == ENOENT && (mkdirat(dir, name, mode) == 0 || errno == EEXIST))
        fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? sys_error(e, "%s", name) : fd;
}

int tree_write(int dir, const char *name, const void *data, size_t size, bool durable, struct error *e)
{
    char temporary[NAME_MAX];
    tree_random(temporary, sizeof(temporary), ".new-");
    CLEANUP_FD int fd = openat(dir, temporary, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0600);
    if (fd < 0)
        return sys_error(e, "%s", name);
    if (sys_write_all(fd, data, size) < 0 || (durable && fsync(fd) < 0) || renameat(dir, temporary, dir, name) < 0) {
        int r = sys_error(e, "%s", name);
        unlinkat(dir, temporary, 0);
        return r;
    }
    if (durable)
        fsync(dir);
    return 0;
}

/*
 * Trees are as deep as somebody made them, descriptors are few: what lies deeper than DEPTH_MAX is moved to the top, and the
 * top is gone through again until nothing is left or nothing goes.
 */
struct removal {
    int top;
    dev_t device;
    u64 removed;
    int worst;
};

static void remove_below(struct removal *m, int fd, int depth);

static void remove_name(struct removal *m, int dir, const char *name, int depth)
{
    struct stat st;
    char moved[32];
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT) {
        m->removed++;
        return;
    }
    m->worst = -errno;
    int sub = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (sub < 0)
        return;
    if (fstat(sub, &st) < 0 || st.st_dev != m->device) {
        m->worst = -EBUSY;
        close(sub);
        return;
    }
    if (depth >= DEPTH_MAX) {
        tree_random(moved, sizeof(moved), ".deep-");
        m->removed += renameat(dir, name, m->top, moved) == 0;
        close(sub);
        return;
    }
    remove_below(m, sub, depth + 1);
    if (unlinkat(dir, name, AT_REMOVEDIR) == 0)
        m->removed++;
}

static void remove_below(struct removal *m, int fd, int depth)
{
    DIR *d = fdopendir(fd);
    const struct dirent *entry;
    if (!d) {
        close(fd);
        return;
    }
    while ((entry = readdir(d)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            remove_name(m, dirfd(d), entry->d_name, depth);
    closedir(d);
}

int tree_remove(int dir, const char *name, struct error *e)
{
    struct stat st;
    struct removal m = {0};
    if (unlinkat(dir, name, 0) == 0 || errno == ENOENT)
        return 0;
    CLEANUP_FD int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return sys_error(e, "%s: cannot be removed", name);
    m.device = st.st_dev;
    m.top = fd;
    while (unlinkat(dir, name, AT_REMOVEDIR) < 0) {
        if (errno == ENOENT)
            return 0;
        m.worst = -errno;
        m.removed = 0;
        remove_below(&m, openat(fd, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), 0);
        if (!m.removed)
            return error_set(e, -m.worst, "%s: cannot be removed: %s", name, strerror(-m.worst));
    }
    return 0;
}

int tree_empty(int dir, struct error *e)
{
    struct stat st;
    struct removal m = {.top = dir, .removed = 1};
    if (fstat(dir, &st) < 0)
        return sys_error(e, "directory");
    m.device = st.st_dev;
    while (m.removed) {
        m.removed = 0;
        m.worst = 0;
        remove_below(&m, openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), 0);
    }
    return m.worst < 0 ? error_set(e, -m.worst, "directory: cannot be emptied: %s", strerror(-m.worst)) : 0;
}

static u64 usage_below(int fd, int depth)
{
    DIR *d = fdopendir(fd);
    const struct dirent *entry;
    u64 sum = 0;
    if (!d) {
        close(fd);
        return 0;
    }
    while ((entry = readdir(d))) {
        struct stat st;
        if (!strcmp(entry->d_name, ".") || !strcmp(entry->d_name, "..") ||
            fstatat(dirfd(d), entry->d_name, &st, AT_SYMLINK_NOFOLLOW) < 0)
            continue;
        sum += (u64)st.st_blocks * 512 / MAX(1, S_ISDIR(st.st_mode) ? 1 : st.st_nlink);
        int sub = S_ISDIR(st.st_mode) && depth < DEPTH_MAX
                      ? openat(dirfd(d), entry->d_name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC)
                      : -1;
        if (sub >= 0)
            sum += usage_below(sub, depth + 1);
    }
    closedir(d);
    return sum;
}

u64 tree_usage(int dir, const char *name)
{
    int fd = openat(dir, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? 0 : usage_below(fd, 0);
}

int tree_lock(int dir, const char *name, bool exclusive, bool wait, struct error *e)
{
    CLEANUP_FD int fd = openat(dir, name, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return sys_error(e, "%s", name);
    while (flock(fd, (exclusive ? LOCK_EX : LOCK_SH) | (wait ? 0 : LOCK_NB)) < 0)
        if (errno != EINTR)
            return errno == EWOULDBLOCK ? -EAGAIN : sys_error(e, "%s: lock", name);
    return sys_take(&fd);
}
