/* tmpcopyup: a tmpfs that begins with what the image has in its place. */
#include "container/rootfs.h"
#include "container/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/sendfile.h>
#include <sys/stat.h>
#include <unistd.h>

#define COPY_DEPTH 64

static int copy_file(int from, int to, const char *name, const struct stat *st, struct error *e)
{
    CLEANUP_FD int in = openat(from, name, O_RDONLY | O_NOFOLLOW | O_CLOEXEC | O_NONBLOCK);
    CLEANUP_FD int out = in < 0 ? -1 : openat(to, name, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, st->st_mode & 07777);
    if (out < 0)
        return sys_error(e, "tmpcopyup: %s", name);
    ssize_t n;
    while ((n = sendfile(out, in, NULL, 1 << 30)) > 0)
        ;
    if (n < 0)
        return sys_error(e, "tmpcopyup: %s", name);
    return fchown(out, st->st_uid, st->st_gid) < 0 || fchmod(out, st->st_mode & 07777) < 0
               ? sys_error(e, "tmpcopyup: %s", name)
               : 0;
}

static int copy_link(int from, int to, const char *name, struct error *e)
{
    char target[PATH_MAX];
    ssize_t n = readlinkat(from, name, target, sizeof(target) - 1);
    if (n < 0)
        return sys_error(e, "tmpcopyup: %s", name);
    target[n] = 0;
    return symlinkat(target, to, name) < 0 ? sys_error(e, "tmpcopyup: %s", name) : 0;
}

static int copy_entry(int from, int to, const char *name, int depth, struct error *e)
{
    struct stat st;
    if (fstatat(from, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return sys_error(e, "tmpcopyup: %s", name);
    if (S_ISREG(st.st_mode))
        return copy_file(from, to, name, &st, e);
    if (S_ISLNK(st.st_mode))
        return copy_link(from, to, name, e);
    if (!S_ISDIR(st.st_mode))
        return 0; /* sockets, pipes, devices are not copied */
    CLEANUP_FD int in = openat(from, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (in < 0 || mkdirat(to, name, 0700) < 0)
        return sys_error(e, "tmpcopyup: %s", name);
    CLEANUP_FD int out = openat(to, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (out < 0)
        return sys_error(e, "tmpcopyup: %s", name);
    int r = rootfs_copy_up(in, out, depth + 1, e);
    if (r == 0 && (fchown(out, st.st_uid, st.st_gid) < 0 || fchmod(out, st.st_mode & 07777) < 0))
        r = sys_error(e, "tmpcopyup: %s", name);
    return r;
}

int rootfs_copy_up(int from, int to, int depth, struct error *e)
{
    if (depth > COPY_DEPTH)
        return error_set(e, ELOOP, "tmpcopyup: more than %d directories deep", COPY_DEPTH);
    int fd = openat(from, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC), r = 0;
    DIR *dir = fd < 0 ? NULL : fdopendir(fd);
    if (!dir) {
        r = sys_error(e, "tmpcopyup");
        if (fd >= 0)
            close(fd);
        return r;
    }
    const struct dirent *d;
    while (r == 0 && (d = readdir(dir)))
        if (strcmp(d->d_name, ".") && strcmp(d->d_name, ".."))
            r = copy_entry(dirfd(dir), to, d->d_name, depth, e);
    closedir(dir);
    return r;
}
