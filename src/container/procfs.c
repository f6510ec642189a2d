#include "container/procfs.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/magic.h>
#include <linux/openat2.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/vfs.h>
#include <unistd.h>

bool procfs_is(int fd)
{
    struct statfs fs;
    return fstatfs(fd, &fs) == 0 && fs.f_type == PROC_SUPER_MAGIC;
}

int procfs_open(struct error *e)
{
    CLEANUP_FD int fs = fsopen("proc", FSOPEN_CLOEXEC);
    if (fs >= 0 && fsconfig(fs, FSCONFIG_CMD_CREATE, NULL, NULL, 0) == 0) {
        int fd = fsmount(fs, FSMOUNT_CLOEXEC, MOUNT_ATTR_NOSUID | MOUNT_ATTR_NODEV | MOUNT_ATTR_NOEXEC);
        if (fd >= 0)
            return fd;
    }
    /* Not privileged enough for a new one: the host's, without what may be mounted over parts of it if that can be had. */
    int fd = open_tree(AT_FDCWD, "/proc", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC);
    if (fd < 0)
        fd = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return sys_error(e, "/proc");
    if (!procfs_is(fd)) {
        close(fd);
        return error_set(e, EINVAL, "/proc: is no procfs; mount one");
    }
    return fd;
}

int procfs_write(int proc, const char *path, const char *text, struct error *e)
{
    /* "self" and "thread-self" are symbolic links of procfs itself: the first part of the way may be one. */
    CLEANUP_FD int self = -1;
    const char *rest = path;
    int at = proc;
    if (!strncmp(path, "self/", 5)) {
        at = self = openat(proc, "self", O_PATH | O_DIRECTORY | O_CLOEXEC);
        rest += 5;
    }
    CLEANUP_FD int fd =
        at < 0 ? -1 : sys_openat2(at, rest, O_WRONLY, 0, RESOLVE_BENEATH | RESOLVE_NO_SYMLINKS | RESOLVE_NO_XDEV);
    if (fd < 0)
        return sys_error(e, "/proc/%s", path);
    if (!procfs_is(fd))
        return error_set(e, EXDEV, "/proc/%s: is not of procfs", path);
    ssize_t n = write(fd, text, strlen(text));
    return n < 0 ? sys_error(e, "/proc/%s: writing \"%.60s\"", path, text) : 0;
}
