#include "container/sys.h"

#include <sys/mount.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/openat2.h>
#include <linux/sched.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/un.h>
#include <unistd.h>

void sys_close(int *fd)
{
    int keep = errno;
    if (*fd >= 0)
        close(*fd);
    errno = keep;
}

void sys_free(void *pointer_to_pointer)
{
    free(*(void **)pointer_to_pointer);
}

int sys_error(struct error *e, const char *fmt, ...)
{
    int code = errno ? errno : EIO;
    char what[300];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    return error_set(e, code, "%s: %s", what, strerror(code));
}

int sys_openat2(int dir, const char *path, u64 flags, u64 mode, u64 resolve)
{
    struct open_how how = {.flags = flags | O_CLOEXEC, .mode = mode, .resolve = resolve};
    long r;
    /* EAGAIN: something was renamed while ".." was walked. Bounded, so that who renames for ever gains nothing. */
    int tries = 128;
    do
        r = syscall(SYS_openat2, dir, path, &how, sizeof(how));
    while (r < 0 && (errno == EINTR || errno == EAGAIN) && --tries);
    return (int)r;
}

pid_t sys_clone(u64 flags, int *pidfd, int cgroup)
{
    struct clone_args args = {.flags = flags, .exit_signal = flags & CLONE_PARENT ? 0 : SIGCHLD};
    int fd = -1;
    if (pidfd) {
        args.flags |= CLONE_PIDFD;
        args.pidfd = (u64)(uintptr_t)&fd;
    }
    if (cgroup >= 0) {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = (u64)cgroup;
    }
    pid_t pid = (pid_t)syscall(SYS_clone3, &args, sizeof(args));
    if (pid > 0 && pidfd)
        *pidfd = fd;
    return pid;
}

int sys_pidfd_open(pid_t pid)
{
    return (int)syscall(SYS_pidfd_open, pid, 0);
}

int sys_pidfd_signal(int pidfd, int signal)
{
    return (int)syscall(SYS_pidfd_send_signal, pidfd, signal, NULL, 0);
}

int sys_write_all(int fd, const void *data, size_t size)
{
    const char *p = data;
    while (size) {
        ssize_t n = write(fd, p, size);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        p += n;
        size -= (size_t)n;
    }
    return 0;
}

int sys_write_at(int dir, const char *path, const char *text, size_t size)
{
    CLEANUP_FD int fd = openat(dir, path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n;
    do
        n = write(fd, text, size);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

static ssize_t read_some(int fd, char *out, size_t size)
{
    ssize_t n;
    do
        n = read(fd, out, size);
    while (n < 0 && errno == EINTR);
    return n;
}

int sys_read_at(int dir, const char *path, size_t max, char **text, size_t *size)
{
    struct stat st;
    *text = NULL;
    CLEANUP_FD int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        return -errno;
    /* Files of proc and pipes say 0: then it grows. */
    size_t room = S_ISREG(st.st_mode) && st.st_size > 0 ? (size_t)st.st_size + 1 : 16384, used = 0;
    CLEANUP_FREE char *buffer = NULL;
    for (;;) {
        if (room > max + 1)
            return -EFBIG;
        char *more = realloc(buffer, room + 1);
        if (!more)
            return -ENOMEM;
        buffer = more;
        ssize_t n = read_some(fd, buffer + used, room - used);
        if (n < 0)
            return -errno;
        used += (size_t)n;
        if (n == 0)
            break;
        if (used == room)
            room *= 2;
    }
    buffer[used] = 0;
    *text = buffer;
    *size = used;
    buffer = NULL;
    return 0;
}

ssize_t sys_read_small(int dir, const char *path, char *out, size_t size)
{
    CLEANUP_FD int fd = openat(dir, path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return -errno;
    ssize_t n = read_some(fd, out, size - 1);
    if (n < 0)
        return -errno;
    while (n && out[n - 1] == '\n')
        n--;
    out[n] = 0;
    return n;
}

ssize_t sys_send_fds(int socket, const void *data, size_t size, const int *fds, size_t n)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(8 * sizeof(int))];
    } control;
    struct iovec part = {.iov_base = (void *)data, .iov_len = size};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1};
    memset(&control, 0, sizeof(control));
    if (n) {
        m.msg_control = &control;
        m.msg_controllen = CMSG_SPACE(n * sizeof(int));
        struct cmsghdr *c = CMSG_FIRSTHDR(&m);
        c->cmsg_level = SOL_SOCKET;
        c->cmsg_type = SCM_RIGHTS;
        c->cmsg_len = CMSG_LEN(n * sizeof(int));
        memcpy(CMSG_DATA(c), fds, n * sizeof(int));
    }
    ssize_t r;
    do
        r = sendmsg(socket, &m, MSG_NOSIGNAL);
    while (r < 0 && errno == EINTR);
    return r;
}

const char *sys_fd_path(int fd, char out[SYS_FD_PATH])
{
    snprintf(out, SYS_FD_PATH, "/proc/self/fd/%d", fd);
    return out;
}

int sys_connect(const char *path, int type, struct error *e)
{
    struct sockaddr_un address = {.sun_family = AF_UNIX};
    CLEANUP_FD int at = -1;
    if (strlen(path) < sizeof(address.sun_path)) {
        memcpy(address.sun_path, path, strlen(path));
    } else {
        /* Too long for an address: by its directory. */
        const char *name = strrchr(path, '/');
        CLEANUP_FREE char *dir = strndup(path, name ? (size_t)(name - path) + 1 : 0);
        at = dir ? open(*dir ? dir : ".", O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
        if (at < 0)
            return sys_error(e, "%s", path);
        int n = snprintf(address.sun_path, sizeof(address.sun_path), "/proc/self/fd/%d/%s", at, name ? name + 1 : path);
        if (n >= (int)sizeof(address.sun_path))
            return error_set(e, ENAMETOOLONG, "%s: name of the socket too long", path);
    }
    CLEANUP_FD int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&address, sizeof(address)) < 0)
        return sys_error(e, "%s", path);
    return sys_take(&fd);
}

u64 sys_start_time(pid_t pid)
{
    char name[64], text[1024];
    snprintf(name, sizeof(name), "/proc/%d/stat", (int)pid);
    if (pid <= 0 || sys_read_small(AT_FDCWD, name, text, sizeof(text)) <= 0)
        return 0;
    /* The second field is the command in parentheses and may hold anything: count fields from the last one. */
    const char *p = strrchr(text, ')');
    if (!p || p[1] != ' ' || p[2] == 'Z' || p[2] == 'X')
        return 0;
    for (int field = 2; field < 22; field++)
        if (!(p = strchr(p + 1, ' ')))
            return 0;
    return strtoull(p + 1, NULL, 10);
}

int sys_slave_mounts(struct error *e)
{
    if (mount(NULL, "/", NULL, MS_SLAVE | MS_REC, NULL) == 0)
        return 0;
    return errno == EINVAL ? error_set(e, EINVAL,
                                       "the root directory of this process is no mount point: in a chroot no "
                                       "container can be given a root of its own; bind mount the chroot first")
                           : sys_error(e, "making the mounts of the new namespace slaves");
}

/*
 * The root of a chroot is a directory of a mount that can't be named, nor set private. A copy of all that is mounted below it
 * can, but has to be put where nobody else sees it: on /proc, a mount that does have a name. It becomes the root.
 */
static int leave_chroot(struct error *e)
{
    struct mount_attr private = {.propagation = MS_PRIVATE};
    char cwd[PATH_MAX];
    CLEANUP_FD int tree = open_tree(AT_FDCWD, "/", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_RECURSIVE);
    if (!getcwd(cwd, sizeof(cwd)))
        return sys_error(e, "the working directory");
    if (mount(NULL, "/proc", NULL, MS_PRIVATE, NULL) < 0)
        return sys_error(e, "in a chroot, where the root is no mount point, and neither is /proc: making it private");
    if (tree < 0 || mount_setattr(tree, "", AT_EMPTY_PATH | AT_RECURSIVE, &private, sizeof(private)) < 0)
        return sys_error(e, "in a chroot: a private copy of what is mounted");
    if (move_mount(tree, "", AT_FDCWD, "/proc", MOVE_MOUNT_F_EMPTY_PATH) < 0 || fchdir(tree) < 0 || chroot(".") < 0 ||
        chdir(cwd) < 0)
        return sys_error(e, "in a chroot: making the copy of what is mounted the root");
    return 0;
}

int sys_private_mounts(struct error *e)
{
    if (mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0)
        return 0;
    return errno == EINVAL ? leave_chroot(e) : sys_error(e, "making the mounts of the new namespace private");
}
