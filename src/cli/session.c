/*
 * Theory of operation
 *
 * One loop around poll() over four descriptors: standard input, standard output, the connection to the keeper and a
 * signalfd. Nothing in it blocks for long: input is read only when the connection has room for it, frames are read only
 * when their bytes can be written, and both sides are asked by poll() first. So a slow reader of our output, a guest that
 * does not read its input and a keeper that hangs leave the signals working.
 *
 * The keeper's frames (vm/control.h) arrive in pieces; `in` collects bytes until a frame is whole. The payload of output
 * frames moves to `out`, which is emptied before the next frame is looked at.
 *
 * A signal under `run` stops the machine over a second connection, as `trapeze stop` would, while this loop goes on
 * showing what the guest prints until the keeper reports the end. A second signal kills; but a terminal that goes is
 * told in several ways at once (SIGHUP by the kernel and by the shell, end of input), and timeout(1) signals twice: a
 * hang-up never counts as the second, nor does the same signal within SAME_ACT_NS.
 */
#include "cli/session.h"
#include "base/bytes.h"
#include "cli/machine.h"
#include "cli/terminal.h"
#include "host/host.h"
#include "vm/control.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <unistd.h>

#define FRAME_HEADER 4
#define INPUT_CHUNK  512
#define SAME_ACT_NS  500000000ull

enum { POLL_KEEPER, POLL_SIGNAL, POLL_INPUT, POLL_OUTPUT, POLL_COUNT };

struct session {
    const struct session_config *cfg;
    struct session_result *result;
    int keeper, signals, stopper; /* descriptors; stopper: the connection that a stop was sent on, or -1 */
    bool interactive;             /* a person at a terminal in raw mode */
    bool input;                   /* standard input is still read */
    bool full;                    /* the connection takes no more input at the moment */
    bool sizes;                   /* the guest wants to know how large the terminal is */
    bool size_due;                /* ... and has not been told yet */
    bool output;                  /* standard output still takes bytes */
    bool done;
    u8 in[FRAME_HEADER + CONTROL_FRAME_MAX];
    size_t in_len;
    u8 out[CONTROL_FRAME_MAX + sizeof(((struct terminal_filter *)0)->held)];
    struct terminal_filter filter;
    u64 signalled; /* when the first signal came, by host_ns */
    u64 replayed;  /* bytes of the first cfg->replay ones that have come */
    size_t out_at, out_len;
    u64 dropped;
};

static void session_signals(sigset_t *set)
{
    static const int handled[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGCONT, SIGWINCH};
    sigemptyset(set);
    for (size_t i = 0; i < ARRAY_LEN(handled); i++)
        sigaddset(set, handled[i]);
}

void session_block_signals(void)
{
    sigset_t set;
    session_signals(&set);
    sigprocmask(SIG_BLOCK, &set, NULL);
}

static void finish(struct session *s, enum session_outcome outcome)
{
    s->result->outcome = outcome;
    s->done = true;
}

/* --- stopping the machine --- */

/* Send a request whose answer we learn of by the end of the console. The connection stays open: the keeper may mind. */
static void send_request(struct session *s, json_t *request)
{
    if (s->stopper >= 0)
        close(s->stopper);
    s->stopper = machine_connect(s->cfg->row, 5, NULL);
    if (s->stopper < 0 || !request || control_send(s->stopper, request, NULL) < 0)
        kill(s->cfg->row->keeper_pid, SIGTERM);
    json_decref(request);
}

static bool same_act(const struct session *s, int sig)
{
    return sig == SIGHUP || (sig == s->result->signal && host_ns(NULL) - s->signalled < SAME_ACT_NS);
}

static void stop_machine(struct session *s, int sig)
{
    s->input = false;
    if (s->result->signal) {
        if (!same_act(s, sig))
            send_request(s, json_pack("{s:s}", "do", "kill"));
        return;
    }
    s->result->signal = sig;
    s->signalled = host_ns(NULL);
    const char *new_line = s->interactive ? "\r\n" : isatty(STDERR_FILENO) ? "\n" : "";
    if (sig != SIGHUP && sig != SIGPIPE)
        fprintf(stderr, "%smachine %s: asked to power off, is killed after %u s; a second signal kills it now%s\n",
                new_line, s->cfg->row->name, s->cfg->stop_seconds, s->interactive ? "\r" : "");
    send_request(s, json_pack("{s:s, s:i}", "do", "stop", "time", (int)s->cfg->stop_seconds));
}

static void on_signal(struct session *s, int sig)
{
    struct error e;
    if (sig == SIGCONT || sig == SIGWINCH)
        s->size_due = s->sizes;
    if (sig == SIGWINCH)
        return;
    if (sig == SIGCONT) {
        /* The shell may have put its own settings back while we were stopped. */
        if (s->interactive) {
            terminal_restore();
            terminal_raw(&e);
        }
        return;
    }
    if (s->cfg->stop_on_signal) {
        stop_machine(s, sig);
    } else {
        s->result->signal = sig;
        finish(s, SESSION_SIGNAL);
    }
}

static void take_signal(struct session *s)
{
    struct signalfd_siginfo info;
    if (read(s->signals, &info, sizeof(info)) == (ssize_t)sizeof(info))
        on_signal(s, (int)info.ssi_signo);
}

/* --- from the keeper --- */

static void take_end(struct session *s, const u8 *data, size_t len)
{
    const char *reason = "", *text = NULL;
    json_t *o = json_loadb((const char *)data, len, 0, NULL);
    s->result->code = CLI_HOST;
    if (o)
        json_unpack(o, "{s:i, s?s, s?s}", "code", &s->result->code, "reason", &reason, "text", &text);
    snprintf(s->result->reason, sizeof(s->result->reason), "%s", reason);
    s->result->text = text && *text ? strdup(text) : NULL;
    json_decref(o);
    finish(s, SESSION_ENDED);
}

/* How much of the first output is old is not told; at most cfg->replay bytes of it are. */
static void take_output(struct session *s, const u8 *data, size_t len)
{
    s->out_at = 0;
    if (s->cfg->old_replay && isatty(STDOUT_FILENO) && s->replayed < s->cfg->replay) {
        s->replayed += len;
        s->out_len = terminal_drop_questions(&s->filter, data, len, s->out);
    } else {
        memcpy(s->out, s->filter.held, s->filter.n);
        memcpy(s->out + s->filter.n, data, len);
        s->out_len = s->filter.n + len;
        s->filter.n = 0;
    }
}

static void take_frame(struct session *s, u8 kind, const u8 *data, size_t len)
{
    switch (kind) {
    case CONTROL_OUTPUT:
        take_output(s, data, len);
        break;
    case CONTROL_DROPPED:
        s->dropped += len == 8 ? get_le64(data) : 0;
        break;
    case CONTROL_END:
        take_end(s, data, len);
        break;
    default: /* CONTROL_STATE, and what later keepers may say */
        break;
    }
}

/* Take frames out of `in` until one brought output or no whole one is left. */
static void take_frames(struct session *s)
{
    while (!s->done && s->out_len == 0 && s->in_len >= FRAME_HEADER) {
        size_t len = get_le16(s->in + 2);
        if (len > CONTROL_FRAME_MAX) {
            finish(s, SESSION_LOST);
            return;
        }
        if (s->in_len < FRAME_HEADER + len)
            return;
        take_frame(s, s->in[0], s->in + FRAME_HEADER, len);
        s->in_len -= FRAME_HEADER + len;
        memmove(s->in, s->in + FRAME_HEADER + len, s->in_len);
    }
}

static void read_keeper(struct session *s)
{
    ssize_t n = recv(s->keeper, s->in + s->in_len, sizeof(s->in) - s->in_len, MSG_DONTWAIT);
    if (n > 0)
        s->in_len += (size_t)n;
    else if (n == 0 || (errno != EAGAIN && errno != EINTR))
        finish(s, SESSION_LOST);
}

/* --- to the person --- */

static void write_output(struct session *s)
{
    terminal_status("");
    ssize_t n = s->output ? write(STDOUT_FILENO, s->out + s->out_at, s->out_len) : (ssize_t)s->out_len;
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n < 0) {
        /* Nobody reads any more: as SIGPIPE, or SIGHUP for a terminal that has gone. */
        int sig = errno == EPIPE ? SIGPIPE : SIGHUP;
        s->output = false;
        if (!s->result->signal)
            on_signal(s, sig);
        n = (ssize_t)s->out_len;
    }
    s->out_at += (size_t)n;
    s->out_len -= (size_t)n;
}

/* --- from the person --- */

static void read_input(struct session *s)
{
    u8 buf[INPUT_CHUNK];
    ssize_t n = read(STDIN_FILENO, buf, sizeof(buf));
    if (n < 0 && (errno == EAGAIN || errno == EINTR))
        return;
    if (n <= 0) {
        s->input = false;
        if (s->interactive)
            on_signal(s, SIGHUP);
        return;
    }
    u8 *leave = s->interactive && s->cfg->escape ? memchr(buf, s->cfg->escape, (size_t)n) : NULL;
    size_t len = leave ? (size_t)(leave - buf) : (size_t)n;
    if (len && !s->result->read_only && control_frame_send(s->keeper, CONTROL_INPUT, buf, len) < 0)
        finish(s, SESSION_LOST);
    if (leave && !s->done)
        finish(s, SESSION_LEFT);
}

/* The terminal's size, when the connection has room for it. */
static void send_size(struct session *s)
{
    u16 cols, rows;
    u8 size[4];
    struct pollfd room = {s->keeper, POLLOUT, 0};
    s->full = poll(&room, 1, 0) == 0;
    if (s->full)
        return;
    s->size_due = false;
    if (!terminal_size(&cols, &rows))
        return;
    put_le16(size, cols);
    put_le16(size + 2, rows);
    if (control_frame_send(s->keeper, CONTROL_SIZE, size, sizeof(size)) < 0)
        finish(s, SESSION_LOST);
}

/* --- the loop --- */

/* Input is read only when the connection has room for it, so that sending never blocks. */
static void turn_input(struct session *s)
{
    struct pollfd room = {s->keeper, POLLOUT, 0};
    s->full = poll(&room, 1, 0) == 0;
    if (!s->full)
        read_input(s);
}

static void turn(struct session *s)
{
    struct pollfd p[POLL_COUNT] = {
        [POLL_KEEPER] = {s->out_len ? -1 : s->keeper, (short)(s->full ? POLLIN | POLLOUT : POLLIN), 0},
        [POLL_SIGNAL] = {s->signals, POLLIN, 0},
        [POLL_INPUT] = {s->input && !s->full ? STDIN_FILENO : -1, POLLIN, 0},
        [POLL_OUTPUT] = {s->out_len ? STDOUT_FILENO : -1, POLLOUT, 0},
    };
    if (poll(p, POLL_COUNT, -1) < 0)
        return;
    if (p[POLL_KEEPER].revents & POLLOUT)
        s->full = false;
    if (p[POLL_SIGNAL].revents)
        take_signal(s);
    if (!s->done && p[POLL_OUTPUT].revents)
        write_output(s);
    if (!s->done && s->size_due && !s->full)
        send_size(s);
    if (!s->done && p[POLL_INPUT].revents)
        turn_input(s);
    if (!s->done && p[POLL_KEEPER].revents & ~POLLOUT)
        read_keeper(s);
    if (!s->done)
        take_frames(s);
}

/* Ask for the console; the reply says whether this connection may type. */
static int attach(struct session *s, struct error *e)
{
    json_t *reply = NULL;
    int input = 0, sizes = 0;
    s->keeper = machine_connect(s->cfg->row, 10, e);
    if (s->keeper < 0)
        return s->keeper;
    json_t *request = json_pack("{s:s, s:b, s:I}", "do", "console", "input", (int)s->cfg->input, "replay",
                                (json_int_t)s->cfg->replay);
    int rc =
        request ? control_call(s->keeper, request, &reply, e) : error_set(e, ENOMEM, "memory: the host has none left");
    json_decref(request);
    if (rc < 0) {
        error_prefix(e, "machine %s: console", s->cfg->row->name);
        return rc;
    }
    json_unpack(reply, "{s?b, s?b}", "input", &input, "size", &sizes); /* older keepers know no sizes */
    s->sizes = sizes;
    json_decref(reply);
    s->result->read_only = s->cfg->input && !input;
    if (s->result->read_only)
        fprintf(stderr, "machine %s: another console has the keyboard; this one only shows the output\n",
                s->cfg->row->name);
    return 0;
}

/* A job in the background must not read the terminal: SIGTTIN would stop it. */
static bool may_read_input(void)
{
    return !isatty(STDIN_FILENO) || tcgetpgrp(STDIN_FILENO) == getpgrp();
}

static int begin(struct session *s, struct error *e)
{
    sigset_t set;
    session_block_signals();
    session_signals(&set);
    s->signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (s->signals < 0)
        return error_set(e, errno, "signalfd: %s", strerror(errno));
    int rc = attach(s, e);
    s->input = s->cfg->input && may_read_input();
    s->interactive = rc == 0 && s->input && terminal_interactive();
    s->sizes &= s->interactive;
    if (s->sizes)
        send_size(s);
    return s->interactive ? terminal_raw(e) : rc;
}

static void end(struct session *s)
{
    terminal_restore();
    terminal_status("");
    const int fds[] = {s->keeper, s->signals, s->stopper};
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    if (s->dropped)
        fprintf(stderr,
                "trapeze: machine %s: %llu bytes of output left out here, the reader was slow; `trapeze logs %s`\n",
                s->cfg->row->name, (unsigned long long)s->dropped, s->cfg->row->name);
}

int session_run(const struct session_config *cfg, struct session_result *result, struct error *e)
{
    memset(result, 0, sizeof(*result));
    struct session *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(e, ENOMEM, "memory: the host has none left");
    *s = (struct session){.cfg = cfg, .result = result, .keeper = -1, .signals = -1, .stopper = -1, .output = true};
    int rc = begin(s, e);
    while (rc == 0 && !s->done)
        turn(s);
    end(s);
    free(s);
    return rc;
}
