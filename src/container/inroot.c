#include "container/inroot.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define INROOT_LINKS 16 /* dangling symbolic links followed for one path */

int inroot_open(int root, const char *path, u64 flags)
{
    while (*path == '/')
        path++;
    return sys_openat2(root, *path ? path : ".", flags | (flags & O_ACCMODE ? 0 : O_PATH), 0,
                       RESOLVE_IN_ROOT | RESOLVE_NO_MAGICLINKS);
}

/* Make `name` in `parent`. 0, also when it is there already, or -errno. */
static int make_one(int parent, const char *name, bool directory)
{
    if (directory)
        return mkdirat(parent, name, 0755) < 0 && errno != EEXIST ? -errno : 0;
    CLEANUP_FD int fd = openat(parent, name, O_CREAT | O_EXCL | O_NOFOLLOW | O_WRONLY | O_CLOEXEC, 0644);
    return fd < 0 && errno != EEXIST ? -errno : 0;
}

/* path[0..end) is a symbolic link to nowhere, `name` in `parent`: put what it says in its place. */
static int follow(int parent, char path[PATH_MAX], size_t begin, size_t end)
{
    char target[PATH_MAX], whole[PATH_MAX], name[NAME_MAX + 1];
    if (end - begin > NAME_MAX)
        return -ENAMETOOLONG;
    memcpy(name, path + begin, end - begin);
    name[end - begin] = 0;
    ssize_t n = readlinkat(parent, name, target, sizeof(target) - 1);
    if (n <= 0)
        return n ? -errno : -ENOENT;
    target[n] = 0;
    int len = snprintf(whole, sizeof(whole), "%.*s%s%s", target[0] == '/' ? 0 : (int)begin, path, target, path + end);
    if (len < 0 || len >= PATH_MAX)
        return -ENAMETOOLONG;
    memcpy(path, whole, (size_t)len + 1);
    return 0;
}

/*
 * Walk the prefixes of `path`, make what is missing. 0 when the whole is there, 1 when `path` was changed because of a
 * dangling link and is to be walked again, -errno.
 */
static int make_prefixes(int root, char path[PATH_MAX], bool directory)
{
    size_t begin = 0, len = strlen(path);
    CLEANUP_FD int parent = inroot_open(root, ".", O_DIRECTORY);
    while (begin < len && parent >= 0) {
        size_t end = begin + strcspn(path + begin, "/"), next = end + strspn(path + end, "/");
        bool last = next >= len;
        char c = path[end];
        path[end] = 0;
        int fd = inroot_open(root, path, last ? 0 : O_DIRECTORY), r = 0;
        if (fd < 0 && errno == ENOENT) {
            r = make_one(parent, path + begin, !last || directory);
            fd = r < 0 ? -1 : inroot_open(root, path, last ? 0 : O_DIRECTORY);
        }
        int failed = errno;
        path[end] = c;
        if (r < 0)
            return r;
        if (fd < 0)
            return failed != ENOENT ? -failed : (r = follow(parent, path, begin, end)) < 0 ? r : 1;
        close(parent);
        parent = fd;
        begin = next;
    }
    return parent < 0 ? -errno : 0;
}

int inroot_make(int root, const char *path, bool directory, struct error *e)
{
    char work[PATH_MAX];
    int fd = inroot_open(root, path, 0), r = 1;
    if (fd >= 0)
        return fd;
    if (errno != ENOENT)
        return sys_error(e, "%s in the container's root", path);
    while (*path == '/')
        path++;
    if (snprintf(work, sizeof(work), "%s", path) >= (int)sizeof(work))
        return error_set(e, ENAMETOOLONG, "%.100s..: path too long", path);
    for (int links = 0; r == 1 && links < INROOT_LINKS; links++) {
        char *start = work + strspn(work, "/");
        memmove(work, start, strlen(start) + 1);
        r = make_prefixes(root, work, directory);
    }
    if (r != 0)
        return error_set(e, r < 0 ? -r : ELOOP, "/%s: making it in the container's root: %s", path,
                         strerror(r < 0 ? -r : ELOOP));
    fd = inroot_open(root, work, 0);
    return fd < 0 ? sys_error(e, "/%s in the container's root", path) : fd;
}

int inroot_parent(int root, const char *path, const char **name, struct error *e)
{
    const char *slash = strrchr(path, '/');
    *name = slash ? slash + 1 : path;
    if (!**name || !strcmp(*name, ".") || !strcmp(*name, ".."))
        return error_set(e, EINVAL, "%s: names no file", path);
    CLEANUP_FREE char *dir = strndup(path, slash ? (size_t)(slash - path) : 0);
    if (!dir)
        return error_set(e, ENOMEM, "%s: out of memory", path);
    int fd = inroot_make(root, *dir ? dir : "/", true, e);
    struct stat st;
    if (fd >= 0 && (fstat(fd, &st) < 0 || !S_ISDIR(st.st_mode))) {
        close(fd);
        return error_set(e, ENOTDIR, "%s in the container's root: Not a directory", *dir ? dir : "/");
    }
    return fd;
}
