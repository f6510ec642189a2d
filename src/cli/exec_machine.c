/*
 * A program in a guest with this process's streams, by the guest's agent (docs/agent.md).
 *
 * One loop over standard input, the connection, signals, and the one of standard output and error that bytes wait for. The
 * next frame is taken when the bytes of the last one are out, so a slow reader here slows the program there. Input is read
 * while the agent has room for it (AGENT_INPUT_WINDOW).
 *
 * The agent is the guest's, and not believed: lengths are checked in agent/, and what it says that is not the program's output is
 * cleaned before a person sees it. The program's output goes to the terminal as it is, as that of any program would.
 */
#include "base/bytes.h"
#include "cli/agent_call.h"
#include "cli/inside.h"
#include "cli/terminal.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define CHUNK       4096u /* what a pipe that polls writable takes without waiting */
#define BACKLOG_MAX 65536u

enum { POLL_AGENT, POLL_SIGNAL, POLL_INPUT, POLL_OUTPUT, POLL_COUNT };

struct remote {
    struct agent_channel c;
    struct agent_frame f;
    const struct inside_program *p;
    const char *name;
    struct agent_exec x;
    u8 packed[AGENT_FRAME_MAX];
    char term[80]; /* "TERM=..": a program with a terminal wants to know which */
    int signals;
    bool started, input, done;
    u32 on_way; /* bytes of input that the program has not taken */
    int out;    /* where the bytes of f go that are not written yet, or -1 */
    u32 out_at;
    int status;
    struct error *e;
};

static void finish(struct remote *r, int status)
{
    r->status = status;
    r->done = true;
}

static void lost(struct remote *r, const char *why)
{
    error_set(r->e, EPIPE, "the connection to the guest's agent: %s", why);
    finish(r, INSIDE_FAILED);
}

/* --- to the agent --- */

static void window_size(u16 *rows, u16 *columns)
{
    struct winsize w = {.ws_row = 24, .ws_col = 80};
    if (ioctl(STDIN_FILENO, TIOCGWINSZ, &w) < 0)
        ioctl(STDOUT_FILENO, TIOCGWINSZ, &w);
    *rows = w.ws_row;
    *columns = w.ws_col;
}

static void take_signal(struct remote *r)
{
    struct signalfd_siginfo s;
    u8 b[4];
    if (read(r->signals, &s, sizeof(s)) != sizeof(s))
        return;
    if (s.ssi_signo == SIGWINCH) {
        u16 rows, columns;
        window_size(&rows, &columns);
        put_le16(b, rows);
        put_le16(b + 2, columns);
        if (r->p->tty)
            agent_channel_put(&r->c, AGENT_WINDOW, b, sizeof(b));
        return;
    }
    put_le32(b, s.ssi_signo);
    agent_channel_put(&r->c, AGENT_SIGNAL, b, sizeof(b));
}

static void read_input(struct remote *r)
{
    u8 buf[CHUNK];
    ssize_t n = read(STDIN_FILENO, buf, MIN(sizeof(buf), AGENT_INPUT_WINDOW - r->on_way));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0)
        r->input = false;
    agent_channel_put(&r->c, AGENT_INPUT, buf, (size_t)MAX(n, 0));
    r->on_way += (u32)MAX(n, 0);
}

/* --- from the agent --- */

static int status_of_failure(int code)
{
    if (code == -ENOENT)
        return INSIDE_NOT_FOUND;
    return code == -EACCES || code == -ENOEXEC || code == -EPERM || code == -EISDIR || code == -ENOTDIR
               ? INSIDE_NOT_EXECUTABLE
               : INSIDE_FAILED;
}

static void take_frame(struct remote *r)
{
    const struct agent_frame *f = &r->f;
    u32 n = f->len >= 4 ? get_le32(f->data) : 0;
    if ((f->kind == AGENT_OUTPUT || f->kind == AGENT_ERRORS) && f->len) {
        r->out = f->kind == AGENT_OUTPUT ? STDOUT_FILENO : STDERR_FILENO;
        r->out_at = 0;
    } else if (f->kind == AGENT_STARTED && f->len == 4) {
        r->started = true;
    } else if (f->kind == AGENT_TAKEN && f->len == 4 && n <= r->on_way) {
        r->on_way -= n;
    } else if (f->kind == AGENT_EXITED && f->len == 4) {
        finish(r, (int)(n & 0xff));
    } else if (f->kind == AGENT_FAILED) {
        int code = agent_failure(f, r->e);
        error_prefix(r->e, "%s", r->name);
        finish(r, r->started ? INSIDE_FAILED : status_of_failure(code));
    } else {
        lost(r, "it sends what can not be");
    }
}

static void take_frames(struct remote *r)
{
    int got = 0;
    while (!r->done && r->out < 0 && (got = agent_channel_next(&r->c, &r->f)) == 1)
        take_frame(r);
    if (got < 0)
        lost(r, "it sends what is no frame");
    else if (!r->done && r->out < 0 && got == 0 && r->c.eof)
        lost(r, "it ended before the program did");
}

static void write_output(struct remote *r)
{
    ssize_t n = write(r->out, r->f.data + r->out_at, MIN(r->f.len - r->out_at, CHUNK));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) { /* nobody reads any more: as a program of our own would be told */
        finish(r, 128 + SIGPIPE);
        return;
    }
    r->out_at += (u32)n;
    if (r->out_at == r->f.len)
        r->out = -1;
}

/* --- the loop --- */

static void turn(struct remote *r)
{
    size_t backlog = agent_channel_backlog(&r->c);
    bool hungry = r->started && r->input && r->on_way < AGENT_INPUT_WINDOW && backlog < BACKLOG_MAX;
    bool full = r->c.in_len == sizeof(r->c.in) || r->out >= 0 || r->c.eof;
    struct pollfd p[POLL_COUNT] = {
        [POLL_AGENT] = {full && !backlog ? -1 : r->c.fd, (short)((full ? 0 : POLLIN) | (backlog ? POLLOUT : 0)), 0},
        [POLL_SIGNAL] = {r->signals, POLLIN, 0},
        [POLL_INPUT] = {hungry ? STDIN_FILENO : -1, POLLIN, 0},
        [POLL_OUTPUT] = {r->out, POLLOUT, 0},
    };
    if (poll(p, POLL_COUNT, -1) < 0)
        return;
    if (p[POLL_SIGNAL].revents)
        take_signal(r);
    if (p[POLL_OUTPUT].revents)
        write_output(r);
    if (p[POLL_INPUT].revents && !r->done)
        read_input(r);
    if (!r->done && !full && p[POLL_AGENT].revents & ~POLLOUT && agent_channel_fill(&r->c) < 0)
        lost(r, strerror(errno));
    if (!r->done)
        take_frames(r);
    if (!r->done && agent_channel_flush(&r->c) < 0 && r->out < 0 && !r->c.in_len)
        lost(r, strerror(errno));
}

static int open_signals(struct error *e)
{
    static const int handled[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};
    sigset_t set;
    sigemptyset(&set);
    for (size_t i = 0; i < ARRAY_LEN(handled); i++)
        sigaddset(&set, handled[i]);
    sigprocmask(SIG_BLOCK, &set, NULL);
    int fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    return fd < 0 ? error_set(e, errno, "signalfd: %s", strerror(errno)) : fd;
}

static int ask(struct remote *r)
{
    const struct inside_program *p = r->p;
    struct agent_exec *x = &r->x;
    x->flags = (p->tty ? AGENT_EXEC_TTY : 0) | (p->input ? AGENT_EXEC_INPUT : 0);
    x->cwd = p->cwd ? p->cwd : "";
    x->user = p->user ? p->user : "";
    window_size(&x->rows, &x->columns);
    if (p->argc > (int)AGENT_ARGS_MAX || p->n_env > (int)AGENT_ARGS_MAX)
        return error_set(r->e, E2BIG, "exec: more than %u arguments or variables", AGENT_ARGS_MAX);
    x->argc = (u32)p->argc;
    x->envc = (u32)p->n_env;
    memcpy(x->argv, p->argv, (size_t)p->argc * sizeof(x->argv[0]));
    if (p->tty && getenv("TERM") && p->n_env < (int)AGENT_ARGS_MAX) {
        snprintf(r->term, sizeof(r->term), "TERM=%s", getenv("TERM"));
        x->env[0] = r->term; /* what the caller gives comes later, and wins */
        x->envc++;
    }
    if (p->n_env)
        memcpy(x->env + (x->envc - (u32)p->n_env), p->env, (size_t)p->n_env * sizeof(x->env[0]));
    s64 len = agent_exec_pack(x, r->packed);
    if (len < 0)
        return error_set(r->e, E2BIG, "exec: command and environment are longer than %u bytes", AGENT_FRAME_MAX);
    return agent_channel_put(&r->c, AGENT_EXEC, r->packed, (size_t)len);
}

int inside_agent_exec(int fd, const char *name, const struct inside_program *p, struct error *e)
{
    struct remote *r = calloc(1, sizeof(*r));
    int status = INSIDE_FAILED;
    if (!r) {
        error_set(e, ENOMEM, "memory: the host has none left");
    } else {
        *r = (struct remote){.c.fd = fd, .p = p, .name = name, .signals = -1, .out = -1, .input = p->input, .e = e};
        bool raw = p->tty && p->input && isatty(STDIN_FILENO);
        bool good = (r->signals = open_signals(e)) >= 0 && ask(r) == 0 && (!raw || terminal_raw(e) == 0);
        while (good && !r->done)
            turn(r);
        terminal_restore();
        status = good ? r->status : INSIDE_FAILED;
        agent_channel_free(&r->c);
        if (r->signals >= 0)
            close(r->signals);
    }
    free(r);
    return status;
}

int inside_machine_exec(struct inside *t, const struct inside_program *p, struct error *e)
{
    int fd = agent_connect(&t->row, true, e);
    int status = fd < 0 ? INSIDE_FAILED : inside_agent_exec(fd, t->row.name, p, e);
    if (fd >= 0)
        close(fd);
    return status;
}
