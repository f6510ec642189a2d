/* The guest's kernel at work: system calls, clocks, pipes, signals, page faults, processes, files. */
#include "kit.h"

#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/time.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static u8 *page; /* one page whose protection is played with */

static void page_start(void)
{
    page = mmap(NULL, 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (page == MAP_FAILED)
        abort();
}

static void page_stop(void)
{
    munmap(page, 4096);
}

/* --- system calls and clocks --- */

WORK sys_getppid(void)
{
    u64 ok = 1;
    long parent = syscall(SYS_getppid);
    for (int i = 0; i < 1000; i++)
        if (syscall(SYS_getppid) != parent)
            ok = 0;
    return ok;
}

WORK clock_vdso(void)
{
    double last = 0;
    u64 ok = 1;
    for (int i = 0; i < 1000; i++) {
        double t = kit_now();
        if (t < last)
            ok = 0;
        last = t;
    }
    return ok;
}

WORK clock_sys(void)
{
    struct timespec t;
    for (int i = 0; i < 500; i++)
        syscall(SYS_clock_gettime, CLOCK_MONOTONIC, &t);
    return 1;
}

WORK time_of_day(void)
{
    struct timeval t = {0};
    for (int i = 0; i < 1000; i++)
        gettimeofday(&t, NULL);
    return t.tv_usec < 1000000;
}

WORK sys_stat(void)
{
    struct stat s;
    u64 ok = 1;
    for (int i = 0; i < 100; i++)
        if (stat("/proc/self", &s))
            ok = 0;
    return ok;
}

/* --- pipes and sockets --- */

static int to_child[2], from_child[2], pair[2];
static pid_t echo_child;

static void echo_plus_one(void)
{
    char c;
    while (read(to_child[0], &c, 1) == 1) {
        c++;
        if (write(from_child[1], &c, 1) != 1)
            break;
    }
    _exit(0);
}

static void pipe_start(void)
{
    if (pipe(to_child) || pipe(from_child))
        abort();
    echo_child = fork();
    if (echo_child == 0)
        echo_plus_one();
}

static void pipe_stop(void)
{
    kill(echo_child, SIGKILL);
    waitpid(echo_child, NULL, 0);
    for (int i = 0; i < 2; i++) {
        close(to_child[i]);
        close(from_child[i]);
    }
}

WORK pipe_pingpong(void)
{
    u64 ok = 1;
    for (int i = 0; i < 100; i++) {
        char c = (char)i;
        if (write(to_child[1], &c, 1) != 1 || read(from_child[0], &c, 1) != 1 || c != (char)(i + 1))
            ok = 0;
    }
    return ok;
}

static void pair_start(void)
{
    int size = 65536;
    if (socketpair(AF_UNIX, SOCK_STREAM, 0, pair))
        abort();
    setsockopt(pair[0], SOL_SOCKET, SO_SNDBUF, &size, sizeof(size));
}

static void pair_stop(void)
{
    close(pair[0]);
    close(pair[1]);
}

WORK unix_16k(void)
{
    static char b[16384];
    for (int i = 0; i < 20; i++) {
        if (write(pair[0], b, sizeof(b)) != sizeof(b))
            return 0;
        for (size_t n = 0; n < sizeof(b);) {
            ssize_t r = read(pair[1], b, sizeof(b) - n);
            if (r <= 0)
                return 0;
            n += (size_t)r;
        }
    }
    return 1;
}

/* --- signals and protection --- */

static volatile int signals, faults;

static void on_user(int sig)
{
    (void)sig;
    signals++;
}

WORK send_signal(void)
{
    signal(SIGUSR1, on_user);
    signals = 0;
    for (int i = 0; i < 100; i++)
        kill(getpid(), SIGUSR1);
    return (u64)signals;
}

static void on_fault(int sig, siginfo_t *info, void *context)
{
    (void)sig;
    (void)context;
    if ((u8 *)info->si_addr < page || (u8 *)info->si_addr >= page + 4096)
        _exit(66);
    faults++;
    mprotect(page, 4096, PROT_READ | PROT_WRITE);
}

WORK segv_handler(void)
{
    struct sigaction sa = {.sa_sigaction = on_fault, .sa_flags = SA_SIGINFO}, old;
    sigaction(SIGSEGV, &sa, &old);
    faults = 0;
    for (int i = 0; i < 20; i++) {
        mprotect(page, 4096, PROT_NONE);
        *(volatile u8 *)(page + i * 8) = (u8)i;
    }
    sigaction(SIGSEGV, &old, NULL);
    return (u64)faults;
}

WORK protect(void)
{
    for (int i = 0; i < 50; i++) {
        if (mprotect(page, 4096, PROT_READ))
            return 0;
        (void)*(volatile u8 *)page;
        if (mprotect(page, 4096, PROT_READ | PROT_WRITE))
            return 0;
        page[0]++;
    }
    return 1;
}

/* --- page faults --- */

WORK fault_mmap(void)
{
    enum { PAGES = 256 };
    u64 h = 0;
    for (int r = 0; r < 4; r++) {
        u8 *p = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (p == MAP_FAILED)
            return 0;
        madvise(p, PAGES * 4096, MADV_NOHUGEPAGE);
        for (int i = 0; i < PAGES; i++) {
            if (p[i * 4096])
                return 0;
            p[i * 4096] = (u8)i;
        }
        for (int i = 0; i < PAGES; i++)
            h += p[i * 4096];
        munmap(p, PAGES * 4096);
    }
    return h;
}

/* Pages shared with a child are copied when it writes: COW faults. */
WORK fork_cow2m(void)
{
    enum { PAGES = 512 };
    static u8 *p;
    int status;
    if (!p) {
        p = mmap(NULL, PAGES * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        madvise(p, PAGES * 4096, MADV_NOHUGEPAGE);
        memset(p, 1, PAGES * 4096);
    }
    pid_t child = fork();
    if (child == 0) {
        int sum = 0;
        for (int i = 0; i < PAGES; i++)
            p[i * 4096]++;
        for (int i = 0; i < PAGES; i++)
            sum += p[i * 4096];
        _exit(sum == 2 * PAGES ? 0 : 1);
    }
    waitpid(child, &status, 0);
    return WIFEXITED(status) && WEXITSTATUS(status) == 0 && p[0] == 1;
}

/* --- processes --- */

static bool ended_with(pid_t child, int code)
{
    int status;
    return waitpid(child, &status, 0) == child && WIFEXITED(status) && WEXITSTATUS(status) == code;
}

WORK fork_exit(void)
{
    u64 ok = 1;
    for (int i = 0; i < 5; i++) {
        pid_t child = fork();
        if (child == 0)
            _exit(7);
        if (!ended_with(child, 7))
            ok = 0;
    }
    return ok;
}

WORK fork_exec(void)
{
    volatile u64 ok = 1;
    for (volatile int i = 0; i < 2; i++) {
        pid_t child = vfork();
        if (child == 0) {
            execl("/proc/self/exe", "kit", "--true", (char *)NULL);
            _exit(9);
        }
        if (!ended_with(child, 0))
            ok = 0;
    }
    return ok;
}

/* --- files --- */

WORK file_tmpfs(void)
{
    static char b[4096];
    char name[128];
    u64 ok = 1;
    for (int i = 0; i < 10; i++) {
        snprintf(name, sizeof(name), "%s/kit%d", kit_tmp(), i);
        int fd = open(name, O_CREAT | O_RDWR | O_TRUNC, 0600);
        memset(b, i, 64);
        if (fd < 0 || write(fd, b, 4096) != 4096 || pread(fd, b, 4096, 0) != 4096 || b[5] != i)
            ok = 0;
        close(fd);
        unlink(name);
    }
    return ok;
}

static int read_fd;

static void read_start(void)
{
    static u8 fill[65536];
    char name[128];
    snprintf(name, sizeof(name), "%s/kitread", kit_tmp());
    read_fd = open(name, O_CREAT | O_RDWR | O_TRUNC, 0600);
    unlink(name);
    for (size_t i = 0; i < sizeof(fill); i++)
        fill[i] = (u8)(i * 7);
    for (int i = 0; i < 64; i++)
        if (write(read_fd, fill, sizeof(fill)) != sizeof(fill))
            return; /* the workload will say BAD */
}

static void read_stop(void)
{
    close(read_fd);
}

WORK file_read(void)
{
    static char b[65536];
    u64 h = 0;
    ssize_t n;
    lseek(read_fd, 0, SEEK_SET);
    while ((n = read(read_fd, b, sizeof(b))) > 0)
        h += (u64)n + (u8)b[n / 2];
    return h >= 4 * MIB;
}

static const struct workload rows[] = {
    {"sys_getppid", sys_getppid, 1, 1000, "ns/op", 0, 0, 0},
    {"clock_vdso", clock_vdso, 1, 1000, "ns/op", 0, 0, 0},
    {"clock_sys", clock_sys, 1, 500, "ns/op", 0, 0, 0},
    {"gettimeofday", time_of_day, 1, 1000, "ns/op", 0, 0, 0},
    {"sys_stat", sys_stat, 1, 100, "ns/op", 0, 0, 0},
    {"pipe_pingpong", pipe_pingpong, 1, 100, "ns/op", 0, pipe_start, pipe_stop},
    {"unix_16k", unix_16k, 1, 20 * 16384.0, "MB/s", 0, pair_start, pair_stop},
    {"signal", send_signal, 100, 100, "ns/op", 0, 0, 0},
    {"segv_handler", segv_handler, 20, 20, "ns/op", 0, page_start, page_stop},
    {"mprotect", protect, 1, 100, "ns/op", 0, page_start, page_stop},
    {"fault_mmap", fault_mmap, 4 * 255 * 128, 1024, "ns/op", 0, 0, 0},
    {"fork_exit", fork_exit, 1, 5, "ns/op", 0, 0, 0},
    {"fork_cow2m", fork_cow2m, 1, 1, "ns/op", 0, 0, 0},
    {"fork_exec", fork_exec, 1, 2, "ns/op", 0, 0, 0},
    {"file_tmpfs", file_tmpfs, 1, 10, "ns/op", 0, 0, 0},
    {"file_read", file_read, 1, 4194304.0, "MB/s", 0, read_start, read_stop},
};
WORK_TABLE(work_system, rows);
