/* Processes: the keeper that outlives its caller, the cell that dies with its keeper, and what both give up. */
#include "host/host.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/signalfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

#define MAX_FDS 32

static int null_standard_fds(void)
{
    int fd = open("/dev/null", O_RDWR);
    if (fd < 0)
        return -errno;
    for (int i = 0; i < HOST_FIRST_FD; i++)
        if (fd != i && dup2(fd, i) < 0)
            return -errno;
    if (fd >= HOST_FIRST_FD)
        close(fd);
    return 0;
}

/* Close [first, last]; kernels before 5.9 have no close_range. */
static void close_between(unsigned first, unsigned last)
{
    if (first > last || syscall(SYS_close_range, first, last, 0) == 0)
        return;
    struct rlimit r;
    unsigned end = getrlimit(RLIMIT_NOFILE, &r) == 0 && r.rlim_cur < 65536 ? (unsigned)r.rlim_cur : 65536;
    for (unsigned fd = first; fd <= last && fd < end; fd++)
        close((int)fd);
}

static void close_others(const int *keep, unsigned n)
{
    unsigned first = HOST_FIRST_FD;
    for (;;) {
        unsigned next = ~0u;
        for (unsigned i = 0; i < n; i++)
            if ((unsigned)keep[i] >= first && (unsigned)keep[i] < next)
                next = (unsigned)keep[i];
        close_between(first, next == ~0u ? next : next - 1);
        if (next == ~0u)
            return;
        first = next + 1;
    }
}

/* Handlers of the caller (a terminal's clean-up, say) must not run in a process that only inherited its memory. */
static void reset_signals(void)
{
    for (int sig = 1; sig < NSIG; sig++)
        signal(sig, SIG_DFL);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

int host_fork_detached(const int *keep, unsigned n_keep, struct error *e)
{
    pid_t pid = fork();
    if (pid < 0)
        return error_set(e, errno, "cannot start a process: %s", strerror(errno));
    if (pid > 0) {
        while (waitpid(pid, NULL, 0) < 0 && errno == EINTR)
            ;
        return 0;
    }
    /* The caller learns of failures here by the silence of the process it waited for. */
    if (setsid() < 0 || (pid = fork()) < 0)
        _exit(1);
    if (pid > 0)
        _exit(0);
    reset_signals();
    signal(SIGPIPE, SIG_IGN);
    signal(SIGHUP, SIG_IGN);
    signal(SIGXFSZ, SIG_IGN); /* a limit on file sizes is an error of the call that meets it */
    if (null_standard_fds() < 0)
        _exit(1);
    close_others(keep, n_keep);
    return 1;
}

/* --- a child that is this program again --- */

/* Put fds[] at their places: first out of the way of each other, then down. */
static int place_fds(const int *fds, unsigned n)
{
    int high[MAX_FDS];
    for (unsigned i = 0; i < n; i++)
        if ((high[i] = fcntl(fds[i], F_DUPFD, HOST_FIRST_FD + 2 * MAX_FDS)) < 0)
            return -errno;
    for (unsigned i = 0; i < n; i++)
        if (dup2(high[i], HOST_FIRST_FD + (int)i) < 0)
            return -errno;
    return 0;
}

__attribute__((noreturn)) static void child(pid_t parent, char *const argv[], const int *fds, unsigned n, int report)
{
    char *const empty[] = {NULL};
    int r = 0;
    reset_signals();
    if (prctl(PR_SET_PDEATHSIG, SIGKILL) < 0)
        r = errno;
    if (getppid() != parent) /* it ended before the line above */
        _exit(1);
    int high = fcntl(report, F_DUPFD_CLOEXEC, HOST_FIRST_FD + 4 * MAX_FDS);
    if (!r)
        r = high < 0 ? errno : -place_fds(fds, n);
    if (!r)
        r = -null_standard_fds();
    if (!r) {
        int keep[MAX_FDS + 1];
        for (unsigned i = 0; i < n; i++)
            keep[i] = HOST_FIRST_FD + (int)i;
        keep[n] = high;
        close_others(keep, n + 1);
        execve("/proc/self/exe", argv, empty);
        r = errno;
    }
    if (write(high, &r, sizeof(r)) < 0)
        _exit(1);
    _exit(1);
}

int host_spawn_self(struct host_child *c, char *const argv[], const int *fds, unsigned n_fds, struct error *e)
{
    int report[2], failure = 0;
    *c = (struct host_child){.pid = -1, .pidfd = -1};
    if (n_fds > MAX_FDS || pipe2(report, O_CLOEXEC) < 0)
        return error_set(e, n_fds > MAX_FDS ? EINVAL : errno, "cannot start a process: no descriptors left");
    pid_t parent = getpid(), pid = fork();
    if (pid == 0)
        child(parent, argv, fds, n_fds, report[1]);
    close(report[1]);
    if (pid < 0) {
        close(report[0]);
        return error_set(e, errno, "cannot start a process: %s", strerror(errno));
    }
    ssize_t n;
    while ((n = read(report[0], &failure, sizeof(failure))) < 0 && errno == EINTR)
        ;
    close(report[0]);
    c->pid = pid;
    if (n != 0 || (c->pidfd = (int)syscall(SYS_pidfd_open, pid, 0)) < 0) {
        int why = n != 0 ? failure : errno;
        kill(pid, SIGKILL);
        waitpid(pid, NULL, 0);
        c->pid = -1;
        return error_set(e, why ? why : EIO, "cannot run this program again through /proc/self/exe: %s",
                         strerror(why ? why : EIO));
    }
    fcntl(c->pidfd, F_SETFD, FD_CLOEXEC);
    return 0;
}

int host_child_reap(struct host_child *c, bool block, int *code, int *sig)
{
    siginfo_t info = {0};
    *code = *sig = 0;
    if (c->pid < 0)
        return -ECHILD;
    while (waitid(P_PID, (id_t)c->pid, &info, WEXITED | (block ? 0 : WNOHANG)) < 0)
        if (errno != EINTR)
            return -errno;
    if (!info.si_pid)
        return 0;
    *(info.si_code == CLD_EXITED ? code : sig) = info.si_status;
    c->pid = -1;
    return 1;
}

void host_child_kill(const struct host_child *c)
{
    if (c->pid > 0)
        syscall(SYS_pidfd_send_signal, c->pidfd, SIGKILL, NULL, 0);
}

/* --- what a process gives up --- */

static void limit(int what, rlim_t value)
{
    struct rlimit r = {value, value};
    setrlimit(what, &r); /* lowering never fails */
}

/* `more` bytes beyond what is mapped now: calls that would take more fail with ENOMEM. */
static int limit_memory(u64 more, struct error *e)
{
    char text[32] = "";
    int fd = open("/proc/self/statm", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, text, sizeof(text) - 1) : -1;
    if (fd >= 0)
        close(fd);
    u64 pages = n > 0 ? strtoull(text, NULL, 10) : 0;
    if (!pages)
        return error_set(e, EIO, "/proc/self/statm: does not tell how much memory is mapped; mount /proc");
    struct rlimit r;
    u64 most = pages * PAGE_SIZE + more;
    if (getrlimit(RLIMIT_AS, &r) == 0 && r.rlim_max > most)
        limit(RLIMIT_AS, most);
    return 0;
}

int host_confine_thread(struct error *e)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct none[2] = {{0}, {0}};
    if (syscall(SYS_capset, &head, none) < 0)
        return error_set(e, errno, "cannot drop capabilities: %s", strerror(errno));
    return 0;
}

static int keep_file_capabilities(struct error *e)
{
    struct __user_cap_header_struct head = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct cap[2] = {{0}, {0}};
    int r = (int)syscall(SYS_capget, &head, cap);
    cap[0].permitted &= (u32)HOST_FILE_CAPABILITIES;
    cap[0].effective = cap[0].permitted;
    cap[0].inheritable = 0;
    cap[1] = (struct __user_cap_data_struct){0};
    if (r < 0 || syscall(SYS_capset, &head, cap) < 0)
        return error_set(e, errno, "cannot drop capabilities: %s", strerror(errno));
    return 0;
}

static int confine(struct error *e)
{
    if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        return error_set(e, errno, "no_new_privs: %s", strerror(errno));
    if (prctl(PR_SET_DUMPABLE, 0, 0, 0, 0) < 0)
        return error_set(e, errno, "cannot forbid tracing: %s", strerror(errno));
    limit(RLIMIT_CORE, 0);
    return 0;
}

int host_confine_files(struct error *e)
{
    int r = confine(e);
    limit(RLIMIT_NPROC, 0);
    return r < 0 ? r : keep_file_capabilities(e);
}

int host_confine_ring(struct error *e)
{
    int r = confine(e);
    return r < 0 ? r : host_confine_thread(e);
}

int host_confine(bool cell, struct error *e)
{
    int r = cell ? limit_memory(HOST_CELL_MEMORY, e) : 0;
    if (r < 0 || (r = host_confine_ring(e)) < 0)
        return r;
    limit(RLIMIT_NPROC, 0);
    if (cell) {
        limit(RLIMIT_FSIZE, 0);
        limit(RLIMIT_NOFILE, 1); /* those that are open stay usable; ppoll takes as many as the limit says */
    }
    return 0;
}

void host_process_name(const char *name)
{
    prctl(PR_SET_NAME, name, 0, 0, 0);
}

int host_term_signals(struct error *e)
{
    sigset_t set;
    sigemptyset(&set);
    sigaddset(&set, SIGTERM);
    sigaddset(&set, SIGINT);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd >= 0 ? fd : error_set(e, errno, "signalfd: %s", strerror(errno));
}

void host_term_taken(int fd)
{
    struct signalfd_siginfo info;
    while (read(fd, &info, sizeof(info)) == sizeof(info))
        ;
}
