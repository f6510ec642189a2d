/*
 * The first process of the default guest: mounts what every system has, loads the modules that /lib/modules names (in that
 * order; those that are not there are built into the kernel), starts the agent and /etc/rc, and buries the dead.
 *
 * The end: /etc/rc has ended, or SIGUSR2 (power off) or SIGUSR1 (start again) has come; all processes get SIGTERM, then SIGKILL,
 * file systems are synced and made read-only. An agent that ends is started again.
 */
#include "guest.h"

#include "base/vsock.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/reboot.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MODULES "/lib/modules"
#define RC      "/etc/rc"

static const struct {
    const char *type, *where, *data;
} mounts[] = {{"proc", "/proc", NULL},
              {"sysfs", "/sys", NULL},
              {"devtmpfs", "/dev", NULL},
              {"devpts", "/dev/pts", "mode=620,gid=5,ptmxmode=666"},
              {"tmpfs", "/tmp", "mode=1777"}};

static void mount_all(void)
{
    for (size_t i = 0; i < ARRAY_LEN(mounts); i++) {
        mkdir(mounts[i].where, 0755);
        if (mount(mounts[i].type, mounts[i].where, mounts[i].type, 0, mounts[i].data) < 0 && errno != EBUSY)
            fprintf(stderr, "init: %s: %s\n", mounts[i].where, strerror(errno));
    }
}

/* What programs expect beside what the kernel makes. */
static void link_streams(void)
{
    static const char *const links[][2] = {{"/proc/self/fd", "/dev/fd"},
                                           {"/proc/self/fd/0", "/dev/stdin"},
                                           {"/proc/self/fd/1", "/dev/stdout"},
                                           {"/proc/self/fd/2", "/dev/stderr"}};
    for (size_t i = 0; i < ARRAY_LEN(links); i++)
        if (symlink(links[i][0], links[i][1]) < 0 && errno != EEXIST)
            fprintf(stderr, "init: %s: %s\n", links[i][1], strerror(errno));
}

static void load_module(const char *name)
{
    char path[300];
    snprintf(path, sizeof(path), "/lib/%s.ko", name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (syscall(SYS_finit_module, fd, "", 0) < 0 && errno != EEXIST)
        fprintf(stderr, "init: %s: %s\n", path, strerror(errno));
    close(fd);
}

static void load_modules(void)
{
    char line[200];
    FILE *f = fopen(MODULES, "re");
    while (f && fgets(line, sizeof(line), f)) {
        line[strcspn(line, " \n")] = 0;
        if (*line)
            load_module(line);
    }
    if (f)
        fclose(f);
}

static bool is_open(int fd)
{
    return fcntl(fd, F_GETFD) >= 0;
}

/*
 * The kernel gives the first process the console as its streams, but for a console whose driver is a module: that is there only
 * now.
 */
static void open_console(void)
{
    if (is_open(STDIN_FILENO) && is_open(STDOUT_FILENO) && is_open(STDERR_FILENO))
        return;
    int fd = open("/dev/console", O_RDWR);
    if (fd < 0)
        fd = open("/dev/null", O_RDWR);
    for (int i = 0; fd >= 0 && i <= STDERR_FILENO; i++)
        if (i != fd)
            dup2(fd, i);
    if (fd > STDERR_FILENO)
        close(fd);
}

static void free_signals(void)
{
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
}

static pid_t start_agent(void)
{
    struct error e = {0};
    pid_t child = fork();
    if (child != 0)
        return child;
    free_signals();
    setsid();
    serve(VSOCK_AGENT_PORT, &e);
    if (e.code != EAFNOSUPPORT) /* a kernel without sockets of this kind is no news */
        fprintf(stderr, "trapeze-agent: %s\n", e.msg);
    _exit(1);
}

static pid_t start_rc(void)
{
    pid_t child = fork();
    if (child != 0)
        return child;
    free_signals();
    execl(RC, RC, (char *)NULL);
    fprintf(stderr, "init: " RC ": %s\n", strerror(errno));
    _exit(127);
}

static void write_file(const char *path, const char *text)
{
    int fd = open(path, O_WRONLY | O_CLOEXEC);
    if (fd < 0)
        return;
    if (write(fd, text, strlen(text)) < 0)
        fprintf(stderr, "init: %s: %s\n", path, strerror(errno));
    close(fd);
}

/* Until no process is left, or for two seconds. */
static void bury_all(void)
{
    const struct timespec tick = {.tv_nsec = 20 * 1000 * 1000};
    for (int i = 0; i < 100; i++) {
        pid_t p;
        while ((p = waitpid(-1, NULL, WNOHANG)) > 0)
            ;
        if (p < 0)
            return; /* ECHILD */
        nanosleep(&tick, NULL);
    }
}

__attribute__((noreturn)) static void end(int how)
{
    kill(-1, SIGTERM);
    kill(-1, SIGHUP); /* which a shell at a terminal does not ignore */
    kill(-1, SIGCONT);
    bury_all();
    kill(-1, SIGKILL);
    sync();
    write_file("/proc/sysrq-trigger", "u"); /* all file systems read-only */
    sync();
    for (;;) {
        reboot(how);
        pause();
    }
}

__attribute__((noreturn)) void init_main(void)
{
    sigset_t set;
    const struct timespec second = {.tv_sec = 1};
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigaddset(&set, SIGUSR1);
    sigaddset(&set, SIGUSR2);
    sigprocmask(SIG_BLOCK, &set, NULL);
    setenv("PATH", "/bin:/sbin:/usr/bin:/usr/sbin", 1);
    setenv("HOME", "/root", 1);
    mount_all();
    link_streams();
    load_modules();
    open_console();
    pid_t agent = start_agent(), rc = start_rc();
    for (;;) {
        int sig = agent < 0 ? sigtimedwait(&set, NULL, &second) : sigwaitinfo(&set, NULL);
        pid_t dead;
        if (sig == SIGUSR1 || sig == SIGUSR2)
            end(sig == SIGUSR1 ? RB_AUTOBOOT : RB_POWER_OFF);
        while ((dead = waitpid(-1, NULL, WNOHANG)) > 0) {
            if (dead == rc)
                end(RB_POWER_OFF);
            if (dead == agent)
                agent = -1;
        }
        if (agent < 0 && sig < 0) /* after a second */
            agent = start_agent();
    }
}
