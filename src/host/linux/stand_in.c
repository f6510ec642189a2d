/*
 * A stand-in for a file, in a process that may open none.
 *
 * A library may insist on reading a configuration file by its name long after the seal (libslirp: /etc/resolv.conf, for each
 * name that a guest looks up). The file is copied to a memfd before; the seal lets openat and newfstatat raise SIGSYS, and
 * the handler here answers for the one name: the status of then, another descriptor of the copy. Everything else gets EACCES.
 *
 *   library ──openat──> kernel ──SIGSYS──> handler: name? ──> dup of the copy in RAX
 *
 * The handler makes system calls that the seal allows, and touches nothing else. The name is compared in the caller's memory,
 * which is its own: this is help for an honest library, while the seal keeps its promise without it.
 *
 * Not done: following later changes of the file.
 */
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <ucontext.h>
#include <unistd.h>

#define FILE_MAX (64u << 10)

/* Written once before the seal: a signal handler has no other place to know it from. */
static struct {
    char path[PATH_MAX];
    struct stat st;
    int fd; /* -1: there is no such file */
} stand_in = {.fd = -1};

static s64 answer(const siginfo_t *info, const greg_t *r)
{
    const char *name = (const char *)r[REG_RSI];
    if (!name || strcmp(name, stand_in.path))
        return -EACCES;
    if (stand_in.fd < 0)
        return -ENOENT;
    if (info->si_syscall == SYS_newfstatat) {
        memcpy((void *)r[REG_RDX], &stand_in.st, sizeof(stand_in.st));
        return 0;
    }
    if (r[REG_RDX] & (O_ACCMODE | O_CREAT | O_TRUNC))
        return -EACCES;
    lseek(stand_in.fd, 0, SEEK_SET);
    int fd = dup(stand_in.fd);
    return fd < 0 ? -errno : fd;
}

static void on_sigsys(int sig, siginfo_t *info, void *context)
{
    ucontext_t *u = context;
    int keep = errno;
    u->uc_mcontext.gregs[REG_RAX] = answer(info, u->uc_mcontext.gregs);
    errno = keep;
}

static int copy(int from, int to)
{
    char buf[4096];
    size_t done = 0;
    ssize_t n;
    while (done < FILE_MAX && (n = read(from, buf, sizeof(buf))) > 0) {
        if (write(to, buf, (size_t)n) != n)
            return -1;
        done += (size_t)n;
    }
    return 0;
}

int host_stand_in(const char *path, struct error *e)
{
    struct sigaction a = {.sa_sigaction = on_sigsys, .sa_flags = SA_SIGINFO};
    int from = open(path, O_RDONLY | O_CLOEXEC);
    if (strlen(path) >= sizeof(stand_in.path))
        return error_set(e, ENAMETOOLONG, "%s: too long a name", path);
    strcpy(stand_in.path, path);
    if (from >= 0) {
        int to = memfd_create("stand-in", MFD_CLOEXEC);
        bool ok = to >= 0 && fstat(from, &stand_in.st) == 0 && copy(from, to) == 0;
        close(from);
        if (!ok)
            return error_set(e, EIO, "%s: can not be copied", path);
        stand_in.fd = to;
    }
    return sigaction(SIGSYS, &a, NULL) < 0 ? error_set(e, errno, "sigaction: %s", strerror(errno)) : 0;
}
