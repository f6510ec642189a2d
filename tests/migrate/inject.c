/*
 * inject: what one host can not show, put between the program and its C library (LD_PRELOAD): calls that fail, and clocks of another host.
 *
 * INJECT names a file of one page, which tests map and write (tests/cli/inject.py):
 *
 *     armed    1: the `nth` call from now on of what `call` names fails (`for_good`: and all behind it) with errno `code`, in processes named `comm` (empty: in all);
 *              with `name`, only calls that open a file of that last component, or are about one opened so. Each is counted in `fired`.
 *     wall     nanoseconds that CLOCK_REALTIME is ahead; in all processes
 *     rate     so many millionths of its speed has CLOCK_MONOTONIC beside the TSC: a host whose TSC has another frequency
 *
 * The cell is started without an environment, so execve gives it this one. It is sealed: nothing here may make a system call of its own.
 */
#include <dlfcn.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/types.h>
#include <time.h>
#include <unistd.h>

#define FDS 1024

struct page {
    uint32_t armed, for_good;
    int32_t nth, code;
    uint32_t fired, pad;
    int64_t wall, rate;
    char call[32], name[64], comm[16];
};

static struct page *page;
static char comm[16], preload[4096], path[4096], names[FDS][32];

static void name_process(const char *name)
{
    snprintf(comm, sizeof(comm), "%s", name);
}

__attribute__((constructor)) static void start(void)
{
    const char *file = getenv("INJECT"), *self = getenv("LD_PRELOAD");
    int fd = file ? open(file, O_RDWR | O_CLOEXEC) : -1;
    void *p = fd < 0 ? MAP_FAILED : mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
    if (fd >= 0)
        close(fd);
    if (p == MAP_FAILED || !self)
        return;
    snprintf(preload, sizeof(preload), "LD_PRELOAD=%s", self);
    snprintf(path, sizeof(path), "INJECT=%s", file);
    prctl(PR_GET_NAME, comm);
    page = p;
}

/* Whether this call is the one. */
static bool fails(const char *call, const char *name)
{
    if (!page || !__atomic_load_n(&page->armed, __ATOMIC_ACQUIRE) || strcmp(page->call, call) ||
        (page->comm[0] && strcmp(page->comm, comm)) || (page->name[0] && (!name || strcmp(page->name, name))) ||
        __atomic_sub_fetch(&page->nth, 1, __ATOMIC_ACQ_REL) > 0)
        return false;
    if (!page->for_good && __atomic_exchange_n(&page->armed, 0, __ATOMIC_ACQ_REL) == 0)
        return false;
    __atomic_add_fetch(&page->fired, 1, __ATOMIC_ACQ_REL);
    errno = page->code;
    return true;
}

#define REAL(name)                 \
    static __typeof__(&name) real; \
    if (!real)                     \
    *(void **)&real = dlsym(RTLD_NEXT, #name)

static const char *name_of(int fd)
{
    return fd >= 0 && fd < FDS && names[fd][0] ? names[fd] : NULL;
}

static const char *last(const char *p)
{
    const char *slash = strrchr(p, '/');
    return slash ? slash + 1 : p;
}

static int opened(int fd, const char *p)
{
    if (fd >= 0 && fd < FDS)
        snprintf(names[fd], sizeof(names[fd]), "%s", last(p));
    return fd;
}

#define MODE(mode, flags)                    \
    mode_t mode = 0;                         \
    if ((flags) & (O_CREAT | __O_TMPFILE)) { \
        va_list ap;                          \
        va_start(ap, flags);                 \
        mode = va_arg(ap, mode_t);           \
        va_end(ap);                          \
    }

int open(const char *p, int flags, ...)
{
    REAL(open);
    MODE(mode, flags)
    return fails("open", last(p)) ? -1 : opened(real(p, flags, mode), p);
}

int openat(int dir, const char *p, int flags, ...)
{
    REAL(openat);
    MODE(mode, flags)
    return fails("open", last(p)) ? -1 : opened(real(dir, p, flags, mode), p);
}

ssize_t pwrite(int fd, const void *data, size_t len, off_t at)
{
    REAL(pwrite);
    return fails("write", name_of(fd)) ? -1 : real(fd, data, len, at);
}

ssize_t write(int fd, const void *data, size_t len)
{
    REAL(write);
    return fails("write", name_of(fd)) ? -1 : real(fd, data, len);
}

int fsync(int fd)
{
    REAL(fsync);
    return fails("sync", name_of(fd)) ? -1 : real(fd);
}

int fdatasync(int fd)
{
    REAL(fdatasync);
    return fails("sync", name_of(fd)) ? -1 : real(fd);
}

void *mmap(void *at, size_t len, int prot, int flags, int fd, off_t offset)
{
    REAL(mmap);
    return fails("mmap", NULL) ? MAP_FAILED : real(at, len, prot, flags, fd, offset);
}

int memfd_create(const char *name, unsigned flags)
{
    REAL(memfd_create);
    return fails("memfd_create", name) ? -1 : real(name, flags);
}

int ftruncate(int fd, off_t len)
{
    REAL(ftruncate);
    return fails("ftruncate", name_of(fd)) ? -1 : real(fd, len);
}

pid_t fork(void)
{
    REAL(fork);
    return fails("fork", NULL) ? -1 : real();
}

int pipe2(int p[2], int flags)
{
    REAL(pipe2);
    return fails("pipe", NULL) ? -1 : real(p, flags);
}

int socket(int domain, int type, int protocol)
{
    REAL(socket);
    return fails("socket", NULL) ? -1 : real(domain, type, protocol);
}

void *malloc(size_t n)
{
    static void *(*real)(size_t);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "malloc");
    return fails("malloc", NULL) ? NULL : real(n);
}

void *realloc(void *old, size_t n)
{
    static void *(*real)(void *, size_t);
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "realloc");
    return fails("realloc", NULL) ? NULL : real(old, n);
}

/* A name of a process of ours: what was counted of its parent is not its own. */
int prctl(int what, ...)
{
    static int (*real)(int, unsigned long, unsigned long, unsigned long, unsigned long);
    unsigned long a[4];
    va_list ap;
    if (!real)
        *(void **)&real = dlsym(RTLD_NEXT, "prctl");
    va_start(ap, what);
    for (int i = 0; i < 4; i++)
        a[i] = va_arg(ap, unsigned long);
    va_end(ap);
    if (what == PR_SET_NAME)
        name_process((const char *)a[0]);
    return real(what, a[0], a[1], a[2], a[3]);
}

int execve(const char *file, char *const argv[], char *const envp[])
{
    REAL(execve);
    char *const ours[] = {preload, path, NULL};
    return real(file, argv, page && envp && !envp[0] ? ours : envp);
}

/* --- clocks --- */

#define NS_PER_S 1000000000ll

int clock_gettime(clockid_t id, struct timespec *t)
{
    REAL(clock_gettime);
    int r = real(id, t);
    if (r < 0 || !page)
        return r;
    int64_t ns = t->tv_sec * NS_PER_S + t->tv_nsec;
    if (id == CLOCK_REALTIME)
        ns += page->wall;
    else if (id == CLOCK_MONOTONIC && page->rate)
        ns = (int64_t)((__int128)ns * page->rate / 1000000);
    *t = (struct timespec){.tv_sec = ns / NS_PER_S, .tv_nsec = ns % NS_PER_S};
    return r;
}
