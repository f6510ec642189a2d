#include "container/protect.h"
#include "container/exe.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/sendfile.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <sys/wait.h>
#include <unistd.h>

#define PROTECT_AGAIN "TRAPEZE_OCI_PROTECTED"
#define PROTECT_SEALS (F_SEAL_SEAL | F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_WRITE)

extern char **environ;

/* A sealed file in memory, or one on a read-only mount. (Any file of a tmpfs has some seal.) */
static bool is_protected(int exe)
{
    struct statvfs fs;
    int seals = fcntl(exe, F_GET_SEALS);
    if (seals >= 0 && (seals & PROTECT_SEALS) == PROTECT_SEALS)
        return true;
    return fstatvfs(exe, &fs) == 0 && fs.f_flag & ST_RDONLY;
}

/* Cheap: no byte is copied. Takes CAP_SYS_ADMIN. */
static int readonly_mount(int exe)
{
    struct mount_attr attr = {.attr_set = MOUNT_ATTR_RDONLY, .propagation = MS_PRIVATE};
    CLEANUP_FD int tree = open_tree(exe, "", OPEN_TREE_CLONE | OPEN_TREE_CLOEXEC | AT_EMPTY_PATH);
    if (tree < 0 || mount_setattr(tree, "", AT_EMPTY_PATH, &attr, sizeof(attr)) < 0)
        return -1;
    return sys_take(&tree);
}

/* In a new user and mount namespace: it has to be found there by its path, and to be the same file. */
_Noreturn static void mount_elsewhere(int exe, int socket)
{
    char path[PATH_MAX];
    struct stat st, found;
    ssize_t n = readlink("/proc/self/exe", path, sizeof(path) - 1);
    path[MAX(n, 0)] = 0;
    CLEANUP_FD int here = n > 0 ? open(path, O_PATH | O_CLOEXEC) : -1;
    if (here >= 0 && fstat(here, &found) == 0 && fstat(exe, &st) == 0 && st.st_dev == found.st_dev &&
        st.st_ino == found.st_ino) {
        int tree = readonly_mount(here);
        if (tree >= 0)
            sys_send_fds(socket, "t", 1, &tree, 1);
    }
    _exit(0);
}

/* The same for who is not root: the mount of a namespace that is gone when we have it. */
static int borrowed_mount(int exe)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    char byte;
    int pair[2], tree = -1;
    struct iovec part = {&byte, 1};
    struct msghdr h = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    if (geteuid() == 0 || socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return -1;
    pid_t child = sys_clone(CLONE_NEWUSER | CLONE_NEWNS, NULL, -1);
    if (child == 0) {
        close(pair[0]);
        mount_elsewhere(exe, pair[1]);
    }
    close(pair[1]);
    const struct cmsghdr *c = child > 0 && recvmsg(pair[0], &h, MSG_CMSG_CLOEXEC) == 1 ? CMSG_FIRSTHDR(&h) : NULL;
    if (c && c->cmsg_type == SCM_RIGHTS && c->cmsg_len == CMSG_LEN(sizeof(int)))
        memcpy(&tree, CMSG_DATA(c), sizeof(int));
    close(pair[0]);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    return tree;
}

static int sealed_copy(int exe)
{
    struct stat st;
    CLEANUP_FD int from = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    CLEANUP_FD int fd = memfd_create("trapeze-oci", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    if (from < 0 || fd < 0 || fstat(from, &st) < 0)
        return -1;
    for (off_t left = st.st_size; left > 0;) {
        ssize_t n = sendfile(fd, from, NULL, (size_t)left);
        if (n <= 0)
            return -1;
        left -= n;
    }
    if (fchmod(fd, 0500) < 0 || fcntl(fd, F_ADD_SEALS, PROTECT_SEALS) < 0)
        return -1;
    return sys_take(&fd);
}

/* Without executing anything: see exe.c. True when it is done, and seen to be done. */
static bool move_here(int mount)
{
    char path[SYS_FD_PATH];
    CLEANUP_FD int file = open(sys_fd_path(mount, path), O_RDONLY | O_CLOEXEC);
    if (file < 0 || !is_protected(file) || exe_move(file) < 0)
        return false;
    CLEANUP_FD int now = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    return now >= 0 && is_protected(now);
}

void protect_process(void)
{
    if (geteuid() == 0)
        prctl(PR_SET_DUMPABLE, 0);
}

int protect_binary(char **argv, struct error *e)
{
    CLEANUP_FD int exe = open("/proc/self/exe", O_PATH | O_CLOEXEC);
    bool again = getenv(PROTECT_AGAIN) != NULL;
    unsetenv(PROTECT_AGAIN);
    if (exe < 0)
        return sys_error(e, "/proc/self/exe");
    CLEANUP_FD int readable = open("/proc/self/exe", O_RDONLY | O_CLOEXEC);
    if (is_protected(readable))
        return 0;
    if (again)
        return error_set(e, EPERM, "the program could not be protected against being written to");
    CLEANUP_FD int copy = readonly_mount(exe);
    if (copy >= 0 && move_here(copy))
        return 0;
    if (copy < 0)
        copy = borrowed_mount(exe);
    if (copy < 0)
        copy = sealed_copy(exe);
    if (copy < 0)
        return sys_error(e, "protecting the program: a copy in memory");
    if (setenv(PROTECT_AGAIN, "1", 1) < 0)
        return sys_error(e, "protecting the program");
    execveat(copy, "", argv, environ, AT_EMPTY_PATH);
    return sys_error(e, "protecting the program: executing the copy");
}
