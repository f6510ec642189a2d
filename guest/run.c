/*
 * A program and its streams.
 *
 *   connection ──'i'──> input, AGENT_INPUT_WINDOW bytes at most ──> its standard input        (or the terminal)
 *              <─'o','e'── output, BACKLOG bytes at most <── its standard output and error
 *
 * One loop over all descriptors; nothing in it waits for one of them. The connection is read always, so a signal gets through
 * to a program that takes no input: what the host may send ahead is bounded by what the program has taken (AGENT_TAKEN).
 * The program's output is read only while there is room to send it on, so a slow reader on the host slows the program.
 *
 * It is over when the program has ended: what it has written by then is sent, but processes that it left behind
 * and that hold its output open are not waited for. When the connection ends first, the program gets SIGHUP, as if its
 * terminal had gone.
 */
#include "guest.h"

#include "base/bytes.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/stat.h>
#include <sys/signalfd.h>
#include <sys/wait.h>
#include <unistd.h>

#define BACKLOG 262144u
#define CHUNK   32768u

enum { IN, OUT, ERR, STREAMS };

struct run {
    struct agent_channel c;
    struct agent_frame f;
    const struct agent_exec *x;
    struct user user;
    pid_t child;
    int to, from[STREAMS]; /* our ends; with a terminal to and from[OUT] are it. -1: closed */
    int child_end[STREAMS];
    int signals; /* signalfd for SIGCHLD */
    u8 input[AGENT_INPUT_WINDOW];
    u32 input_len;
    bool input_end, ended, gone;
    int status;
};

static void close_one(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

/* --- streams --- */

static int open_terminal(struct run *r, struct error *e)
{
    char name[64];
    int m = open("/dev/ptmx", O_RDWR | O_NOCTTY | O_CLOEXEC | O_NONBLOCK);
    if (m < 0 || grantpt(m) < 0 || unlockpt(m) < 0 || ptsname_r(m, name, sizeof(name)))
        return error_set(e, errno, "terminal: %s; is /dev/pts mounted?", strerror(errno));
    int s = open(name, O_RDWR | O_NOCTTY | O_CLOEXEC);
    if (s < 0)
        return error_set(e, errno, "%s: %s", name, strerror(errno));
    const struct winsize w = {.ws_row = r->x->rows, .ws_col = r->x->columns};
    ioctl(m, TIOCSWINSZ, &w);
    r->to = m;
    r->from[OUT] = dup(m);
    r->child_end[IN] = s;
    r->child_end[OUT] = fcntl(s, F_DUPFD_CLOEXEC, 3);
    r->child_end[ERR] = fcntl(s, F_DUPFD_CLOEXEC, 3);
    return fchown(s, r->user.uid, (gid_t)-1) < 0 && errno != EROFS
               ? error_set(e, errno, "%s: %s", name, strerror(errno))
               : 0;
}

static int open_pipes(struct run *r, struct error *e)
{
    int p[2];
    if (!(r->x->flags & AGENT_EXEC_INPUT)) {
        r->child_end[IN] = open("/dev/null", O_RDONLY | O_CLOEXEC);
    } else if (pipe2(p, O_CLOEXEC) == 0) {
        r->child_end[IN] = p[0];
        r->to = p[1];
        fcntl(r->to, F_SETFL, O_NONBLOCK);
    }
    for (int i = OUT; i <= ERR; i++)
        if (pipe2(p, O_CLOEXEC) == 0) {
            r->from[i] = p[0];
            r->child_end[i] = p[1];
            fcntl(p[0], F_SETFL, O_NONBLOCK);
        }
    bool good = r->child_end[IN] >= 0 && r->child_end[OUT] >= 0 && r->child_end[ERR] >= 0;
    return good ? 0 : error_set(e, EMFILE, "no descriptors are left in the guest");
}

/* --- the program --- */

static void set_environment(const struct run *r)
{
    static const char path[] = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    clearenv();
    setenv("PATH", path, 1);
    setenv("HOME", r->user.home, 1);
    setenv("USER", r->user.name, 1);
    setenv("LOGNAME", r->user.name, 1);
    setenv("SHELL", r->user.shell, 1);
    if (r->x->flags & AGENT_EXEC_TTY)
        setenv("TERM", "linux", 1);
    for (u32 i = 0; i < r->x->envc; i++)
        putenv((char *)(uintptr_t)r->x->env[i]);
}

/* In the child: becomes the program, or says by `report` why not. */
static void become(struct run *r, int report)
{
    sigset_t none;
    const char *cwd = *r->x->cwd ? r->x->cwd : r->user.home;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    signal(SIGPIPE, SIG_DFL);
    setsid();
    if (r->x->flags & AGENT_EXEC_TTY)
        ioctl(r->child_end[IN], TIOCSCTTY, 0);
    for (int i = IN; i <= ERR; i++)
        dup2(r->child_end[i], i);
    umask(022);
    bool in_place = chdir(cwd) == 0 || (!*r->x->cwd && chdir("/") == 0);
    int why = in_place ? 0 : -errno;
    if (in_place &&
        (setgroups(r->user.n_groups, r->user.groups) < 0 || setgid(r->user.gid) < 0 || setuid(r->user.uid) < 0))
        why = -errno;
    if (!why) {
        set_environment(r);
        execvp(r->x->argv[0], (char *const *)(uintptr_t)r->x->argv);
        why = errno;
    }
    if (write(report, &why, sizeof(why)) != sizeof(why))
        _exit(126);
    _exit(127);
}

/* `why`: errno of exec, or minus that of what comes before it. */
static int not_started(const struct run *r, int why, struct error *e)
{
    if (why > 0)
        return error_set(e, why, "%.200s: %s", r->x->argv[0], strerror(why));
    /* ENOTSUP: not a matter of the program, whatever its errno */
    return error_set(e, ENOTSUP, "%.200s, as user %.60s: %s", *r->x->cwd ? r->x->cwd : "/", r->user.name,
                     strerror(-why));
}

static int start(struct run *r, struct error *e)
{
    int report[2], why = 0;
    if (pipe2(report, O_CLOEXEC) < 0)
        return error_set(e, errno, "pipe: %s", strerror(errno));
    r->child = fork();
    if (r->child == 0)
        become(r, report[1]);
    close(report[1]);
    for (int i = IN; i <= ERR; i++)
        close_one(&r->child_end[i]);
    if (r->child < 0) {
        close(report[0]);
        return error_set(e, errno, "fork: %s", strerror(errno));
    }
    ssize_t n = read(report[0], &why, sizeof(why));
    close(report[0]);
    if (n != sizeof(why))
        return 0;
    waitpid(r->child, NULL, 0);
    return not_started(r, why, e);
}

/* --- the loop --- */

static void take_frame(struct run *r)
{
    const struct agent_frame *f = &r->f;
    if (f->kind == AGENT_INPUT && f->len && !r->input_end) {
        if (f->len > AGENT_INPUT_WINDOW - r->input_len) {
            r->gone = true; /* more than was allowed */
            return;
        }
        memcpy(r->input + r->input_len, f->data, f->len);
        r->input_len += f->len;
    } else if (f->kind == AGENT_INPUT) {
        r->input_end = true;
    } else if (f->kind == AGENT_WINDOW && f->len == 4 && r->to >= 0) {
        const struct winsize w = {.ws_row = get_le16(f->data), .ws_col = get_le16(f->data + 2)};
        ioctl(r->to, TIOCSWINSZ, &w);
    } else if (f->kind == AGENT_SIGNAL && f->len == 4 && get_le32(f->data) < 65) {
        kill(-r->child, (int)get_le32(f->data));
    }
}

static void serve_connection_in(struct run *r)
{
    int got;
    if (agent_channel_fill(&r->c) < 0 || r->c.eof)
        r->gone = true;
    while (!r->gone && (got = agent_channel_next(&r->c, &r->f)) != 0)
        if (got < 0)
            r->gone = true;
        else
            take_frame(r);
}

static void feed(struct run *r)
{
    u8 taken[4];
    bool tty = r->x->flags & AGENT_EXEC_TTY;
    ssize_t n = r->input_len ? write(r->to, r->input, r->input_len) : 0;
    if (n < 0 && errno == EAGAIN)
        return;
    if (n < 0) { /* it does not read: the rest goes nowhere, and the host need not wait for it */
        n = (ssize_t)r->input_len;
        if (!tty)
            close_one(&r->to);
    }
    if (n) {
        r->input_len -= (u32)n;
        memmove(r->input, r->input + n, r->input_len);
        put_le32(taken, (u32)n);
        agent_channel_put(&r->c, AGENT_TAKEN, taken, sizeof(taken));
    }
    if (r->input_end && !r->input_len && !tty)
        close_one(&r->to); /* a terminal has no such end: who types ^D has sent one */
}

/* Send on what one stream has; false when there is no more now. */
static bool drink(struct run *r, int which)
{
    u8 buf[CHUNK];
    ssize_t n = read(r->from[which], buf, sizeof(buf));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return false;
    if (n <= 0) { /* EIO of a terminal: nobody has it open any more */
        close_one(&r->from[which]);
        return false;
    }
    agent_channel_put(&r->c, which == OUT ? AGENT_OUTPUT : AGENT_ERRORS, buf, (size_t)n);
    return true;
}

static void reap(struct run *r)
{
    struct signalfd_siginfo s;
    while (read(r->signals, &s, sizeof(s)) == sizeof(s))
        ;
    if (!r->ended && waitpid(r->child, &r->status, WNOHANG) == r->child)
        r->ended = true;
}

enum { P_CONNECTION, P_CHILD, P_INPUT, P_OUT, P_ERR, P_COUNT };

static void turn(struct run *r)
{
    size_t backlog = agent_channel_backlog(&r->c);
    bool room = backlog < BACKLOG, dry = r->to >= 0 && r->input_end && !r->input_len && !(r->x->flags & AGENT_EXEC_TTY);
    struct pollfd p[P_COUNT] = {
        [P_CONNECTION] = {r->c.fd, (short)(POLLIN | (backlog ? POLLOUT : 0)), 0},
        [P_CHILD] = {r->signals, POLLIN, 0},
        [P_INPUT] = {r->to >= 0 && r->input_len ? r->to : -1, POLLOUT, 0},
        [P_OUT] = {room ? r->from[OUT] : -1, POLLIN, 0},
        [P_ERR] = {room ? r->from[ERR] : -1, POLLIN, 0},
    };
    if (poll(p, P_COUNT, dry ? 0 : -1) < 0)
        return;
    if (p[P_CONNECTION].revents & ~POLLOUT)
        serve_connection_in(r);
    if (r->to >= 0 && (p[P_INPUT].revents || dry))
        feed(r);
    else if (r->to < 0 && r->input_len && r->x->flags & AGENT_EXEC_INPUT)
        r->input_len = 0;
    if (p[P_OUT].revents && r->from[OUT] >= 0)
        drink(r, OUT);
    if (p[P_ERR].revents && r->from[ERR] >= 0)
        drink(r, ERR);
    reap(r);
    if (agent_channel_flush(&r->c) < 0)
        r->gone = true;
}

/* What was written before the end. */
static void drink_rest(struct run *r)
{
    for (int i = OUT; i <= ERR; i++)
        while (r->from[i] >= 0 && agent_channel_backlog(&r->c) < 64 * BACKLOG && drink(r, i))
            ;
}

static int send_all(struct run *r)
{
    while (agent_channel_backlog(&r->c)) {
        struct pollfd p = {.fd = r->c.fd, .events = POLLOUT};
        if (poll(&p, 1, -1) < 0 && errno != EINTR)
            return -errno;
        if (p.revents & (POLLERR | POLLHUP) || agent_channel_flush(&r->c) < 0)
            return -EPIPE;
    }
    return 0;
}

static int finish(struct run *r)
{
    u8 code[4];
    if (!r->ended) {
        kill(-r->child, SIGHUP);
        return 0;
    }
    drink_rest(r);
    put_le32(code, (u32)(WIFSIGNALED(r->status) ? 128 + WTERMSIG(r->status) : WEXITSTATUS(r->status)));
    agent_channel_put(&r->c, AGENT_EXITED, code, sizeof(code));
    return send_all(r);
}

static int prepare(struct run *r, struct error *e)
{
    sigset_t child;
    sigemptyset(&child);
    sigaddset(&child, SIGCHLD);
    sigprocmask(SIG_BLOCK, &child, NULL);
    int rc = user_find(&r->user, r->x->user, e);
    if (rc < 0)
        return rc;
    r->signals = signalfd(-1, &child, SFD_CLOEXEC | SFD_NONBLOCK);
    if (r->signals < 0)
        return error_set(e, errno, "signalfd: %s", strerror(errno));
    rc = r->x->flags & AGENT_EXEC_TTY ? open_terminal(r, e) : open_pipes(r, e);
    return rc < 0 ? rc : start(r, e);
}

int run_program(int fd, const struct agent_exec *x, struct error *e)
{
    u8 pid[4];
    struct run *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(e, ENOMEM, "out of memory");
    *r = (struct run){.c.fd = fd, .x = x, .to = -1, .from = {-1, -1, -1}, .child_end = {-1, -1, -1}, .signals = -1};
    int rc = prepare(r, e);
    if (rc == 0) {
        put_le32(pid, (u32)r->child);
        agent_channel_put(&r->c, AGENT_STARTED, pid, sizeof(pid));
        while (!r->ended && !r->gone)
            turn(r);
        rc = finish(r);
    }
    agent_channel_free(&r->c);
    free(r);
    return rc;
}
