#include "container/hook.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* What a hook has said on standard error is kept for the message, and passed on. */
#define HOOK_WORDS 200

static void run_child(const struct spec_hook *h, int in, int err, const char *directory)
{
    static char *const nothing[] = {NULL};
    char *const only_name[] = {(char *)h->path, NULL};
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (dup2(in, 0) < 0 || dup2(err, 2) < 0 || (directory && chdir(directory) < 0))
        _exit(126);
    execve(h->path, h->args.n ? h->args.v : only_name, h->has_env ? h->env.v : nothing);
    fprintf(stderr, "%s", strerror(errno));
    _exit(127);
}

static s64 now_ms(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (s64)t.tv_sec * 1000 + t.tv_nsec / 1000000;
}

/* Read what it says until it ends. False: it took too long. */
static bool watch(int pidfd, int err, u32 timeout, char words[HOOK_WORDS + 1])
{
    s64 deadline = now_ms() + 1000ll * timeout;
    size_t used = 0;
    struct pollfd p[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = err, .events = POLLIN}};
    for (;;) {
        s64 left = timeout ? deadline - now_ms() : -1;
        if (timeout && left <= 0)
            return false;
        if (poll(p, 2, (int)MIN(left, (s64)INT32_MAX)) < 0 && errno != EINTR)
            return true;
        if (p[1].revents) {
            char piece[256];
            ssize_t n = read(err, piece, sizeof(piece));
            if (n > 0) {
                sys_write_all(2, piece, (size_t)n);
                size_t keep = MIN((size_t)n, HOOK_WORDS - used);
                memcpy(words + used, piece, keep);
                used += keep;
                words[used] = 0;
                continue;
            }
            p[1].fd = -1;
        }
        if (p[0].revents)
            return true;
    }
}

/* A file in memory: a hook that does not read its input does not stop us. */
static int input_of(const char *state, struct error *e)
{
    CLEANUP_FD int fd = memfd_create("state", MFD_CLOEXEC);
    if (fd < 0 || sys_write_all(fd, state, strlen(state)) < 0 || lseek(fd, 0, SEEK_SET) < 0)
        return sys_error(e, "hook: its input");
    return sys_take(&fd);
}

static int run_one(const struct spec_hook *h, const char *kind, const char *state, const char *directory,
                   struct error *e)
{
    char words[HOOK_WORDS + 1] = "";
    int err[2], status = 0, pidfd = -1;
    CLEANUP_FD int in = input_of(state, e);
    if (in < 0)
        return in;
    if (pipe2(err, O_CLOEXEC) < 0)
        return sys_error(e, "hook: pipe");
    pid_t pid = sys_clone(0, &pidfd, -1);
    if (pid == 0)
        run_child(h, in, err[1], directory);
    close(err[1]);
    if (pid < 0) {
        close(err[0]);
        return sys_error(e, "hook %s", h->path);
    }
    bool in_time = watch(pidfd, err[0], h->timeout, words);
    if (!in_time)
        sys_pidfd_signal(pidfd, SIGKILL);
    close(err[0]);
    while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
        ;
    close(pidfd);
    words[strcspn(words, "\n")] = 0;
    if (!in_time)
        return error_set(e, ETIMEDOUT, "hook %s %s: not done after %u s", kind, h->path, h->timeout);
    if (WIFSIGNALED(status))
        return error_set(e, EIO, "hook %s %s: ended by signal %d: %s", kind, h->path, WTERMSIG(status), words);
    if (WEXITSTATUS(status))
        return error_set(e, EIO, "hook %s %s: exit status %d: %s", kind, h->path, WEXITSTATUS(status), words);
    return 0;
}

int hook_run(const struct spec_hooks *hooks, const char *kind, const char *state, const char *directory,
             struct error *e)
{
    int r = 0;
    for (size_t i = 0; i < hooks->n && r == 0; i++)
        r = run_one(&hooks->v[i], kind, state, directory, e);
    return r;
}
