/*
 * A program that has the ids of a whole system and mounts of its own, without root.
 *
 * Root starts it in a new mount and a new process namespace. Anybody else in a new user namespace as well, in which he is
 * root: his own number is 0 there, and 1 and up are the range that /etc/subuid and /etc/subgid give him (newuidmap and
 * newgidmap write the mappings). So files in his own directories, which only he may enter, can belong to all users of a
 * system.
 *
 * It is process 1 of its process namespace: when it ends, all that it started ends. It is killed when its parent dies.
 */
#include "image/vmimage_internal.h"
#include "container/idmap.h"
#include "container/sys.h"
#include "container/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <limits.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

bool space_find(const char *program, char *out, size_t size)
{
    static const char more[] = ":/usr/local/sbin:/usr/sbin:/sbin";
    const char *path = getenv("PATH");
    char dirs[4096];
    snprintf(dirs, sizeof(dirs), "%.4000s%s", path ? path : "/usr/bin:/bin", more);
    for (char *dir = dirs, *next; dir; dir = next) {
        next = strchr(dir, ':');
        if (next)
            *next++ = 0;
        if (dir[0] == '/' && snprintf(out, size, "%s/%s", dir, program) < (int)size && access(out, X_OK) == 0)
            return true;
    }
    return false;
}

static int map_ids(pid_t pid, struct error *e)
{
    struct userns_ids ids;
    if (geteuid() == 0)
        return 0;
    userns_ids(&ids, USERNS_RANGE);
    if (ids.n < 2)
        return error_set(
            e, EPERM,
            "%s; as root run `usermod --add-subuids 100000-165535 --add-subgids 100000-165535 USER` for this "
            "user, or build as root",
            ids.why);
    return idmap_process(pid, &(struct spec_id_maps){ids.uid, 2}, &(struct spec_id_maps){ids.gid, 2}, e);
}

/* Why it can't go on, for the parent. */
__attribute__((noreturn)) static void give_up(int said, const char *why)
{
    (void)!write(said, why, strlen(why));
    _exit(125);
}

__attribute__((noreturn)) static void give_up_errno(int said, const char *what)
{
    char why[200];
    snprintf(why, sizeof(why), "%s: %s", what, strerror(errno));
    give_up(said, why);
}

/* The new process: waits for its numbers, becomes root, has its mounts to itself. Never returns. */
__attribute__((noreturn)) static void be_inside(int go, int said, char *const argv[], char *const env[], int output)
{
    char byte;
    struct pollfd parent = {.fd = go, .events = POLLIN};
    struct error e = {0};
    sigset_t none;
    int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    if (read(go, &byte, 1) != 1)
        _exit(125);
    if (geteuid() != 0 && (setgroups(0, NULL) < 0 || setresgid(0, 0, 0) < 0 || setresuid(0, 0, 0) < 0))
        give_up_errno(said, "becoming root in the new user namespace");
    /* After the change of users, which would undo it; the pipe tells of a parent that was faster. */
    prctl(PR_SET_PDEATHSIG, SIGKILL);
    if (poll(&parent, 1, 0) != 0)
        _exit(125);
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setsid();
    if (sys_private_mounts(&e) < 0)
        give_up(said, e.msg);
    if (dup2(null, 0) < 0 || dup2(output, 1) < 0 || dup2(output, 2) < 0)
        give_up_errno(said, "/dev/null and the output");
    execve(argv[0], argv, env);
    give_up_errno(said, argv[0]);
}

/* Nothing, if the program runs: its end of the pipe is closed by execve. */
static int hear(int said, struct error *e)
{
    char why[sizeof(e->msg)];
    size_t n = 0;
    for (ssize_t got; n < sizeof(why) - 1; n += (size_t)got)
        if ((got = read(said, why + n, sizeof(why) - 1 - n)) <= 0)
            break;
    why[n] = 0;
    return n == 0 ? 0 : error_set(e, EPERM, "a program in namespaces of its own: %s", why);
}

static int refused(struct error *e)
{
    int code = errno;
    if (geteuid() == 0)
        return error_set(e, code, "namespaces cannot be made here: %s; in a container it takes CAP_SYS_ADMIN",
                         strerror(code));
    return error_set(e, code,
                     "user namespaces cannot be made here: %s; as root see the sysctls user.max_user_namespaces and "
                     "kernel.unprivileged_userns_clone, or build as root",
                     strerror(code));
}

int space_start(struct space *s, char *const argv[], char *const env[], int output, struct error *e)
{
    int go[2], said[2];
    *s = (struct space){.pid = -1, .pidfd = -1, .alive = -1};
    if (pipe2(go, O_CLOEXEC) < 0)
        return sys_error(e, "a pipe");
    if (pipe2(said, O_CLOEXEC) < 0) {
        sys_error(e, "a pipe");
        close(go[0]);
        close(go[1]);
        return -e->code;
    }
    u64 flags = CLONE_NEWNS | CLONE_NEWPID | (geteuid() == 0 ? 0 : CLONE_NEWUSER);
    s->pid = sys_clone(flags, &s->pidfd, -1);
    if (s->pid == 0) {
        close(go[1]);
        close(said[0]);
        be_inside(go[0], said[1], argv, env, output);
    }
    int r = s->pid < 0 ? refused(e) : 0;
    close(go[0]);
    close(said[1]);
    s->alive = go[1];
    if (r == 0)
        r = map_ids(s->pid, e);
    if (r == 0 && write(s->alive, "g", 1) != 1)
        r = sys_error(e, "a pipe");
    if (r == 0)
        r = hear(said[0], e);
    close(said[0]);
    if (r < 0) {
        space_kill(s);
        space_wait(s);
    }
    return r;
}

void space_kill(struct space *s)
{
    if (s->pidfd >= 0)
        sys_pidfd_signal(s->pidfd, SIGKILL);
}

int space_wait(struct space *s)
{
    int status = -1;
    while (s->pid > 0 && waitpid(s->pid, &status, 0) < 0 && errno == EINTR)
        ;
    sys_close(&s->pidfd);
    sys_close(&s->alive);
    s->pid = s->pidfd = s->alive = -1;
    return status;
}

/* Run to the end, without output. */
static int run_quiet(char *const argv[], struct error *e)
{
    char *const env[] = {(char *)"PATH=/usr/bin:/bin", NULL};
    struct space s;
    CLEANUP_FD int null = open("/dev/null", O_RDWR | O_CLOEXEC);
    int r = space_start(&s, argv, env, null, e);
    if (r < 0)
        return r;
    int status = space_wait(&s);
    return status == 0 ? 0
                       : error_set(e, EPERM, "%s: failed in namespaces of its own (%s %d)", argv[0],
                                   WIFSIGNALED(status) ? "signal" : "status",
                                   WIFSIGNALED(status) ? WTERMSIG(status) : WEXITSTATUS(status));
}

int space_check(struct error *e)
{
    char path[PATH_MAX];
    if (geteuid() != 0 && !space_find("newuidmap", path, sizeof(path)))
        return error_set(e, ENOENT, "newuidmap is not there; install uidmap, or build as root");
    char *const argv[] = {(char *)"/bin/true", NULL};
    return run_quiet(argv, e);
}

int space_remove(const char *path, struct error *e)
{
    char *const argv[] = {(char *)"/bin/rm", (char *)"-rf", (char *)"--", (char *)(uintptr_t)path, NULL};
    return run_quiet(argv, e);
}
