/* The other end: this process's streams, and the container's. */
#include "base/bytes.h"
#include "box/parts.h"
#include "container/protect.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/prctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <termios.h>
#include <unistd.h>

struct screen {
    const struct session *s;
    int fd, signals;
    bool input_open, raw;
    int asked;
    struct termios before;
};

static void send_window(const struct screen *c)
{
    struct winsize w;
    u8 size[4];
    if (!c->s->tty || ioctl(STDOUT_FILENO, TIOCGWINSZ, &w) < 0)
        return;
    put_le16(size, w.ws_row);
    put_le16(size + 2, w.ws_col);
    box_wire_send(c->fd, WIRE_WINDOW, size, sizeof(size));
}

static void set_raw(struct screen *c)
{
    struct termios t;
    if (!c->s->tty || !c->s->input || tcgetattr(STDIN_FILENO, &c->before) < 0)
        return;
    t = c->before;
    cfmakeraw(&t);
    c->raw = tcsetattr(STDIN_FILENO, TCSADRAIN, &t) == 0;
}

/* True: the key that leaves was pressed. */
static bool send_input(struct screen *c)
{
    u8 text[8192];
    ssize_t n = read(STDIN_FILENO, text, sizeof(text));
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return false;
    if (n <= 0) {
        box_wire_send(c->fd, WIRE_INPUT_END, NULL, 0);
        c->input_open = false;
        return false;
    }
    const u8 *leave = c->raw && c->s->escape ? memchr(text, c->s->escape, (size_t)n) : NULL;
    size_t size = leave ? (size_t)(leave - text) : (size_t)n;
    if (size)
        box_wire_send(c->fd, WIRE_INPUT_DATA, text, size);
    return leave != NULL;
}

#define PATIENCE 3 /* so many times asked to end, it is made to */

static void pass_signal(struct screen *c)
{
    struct signalfd_siginfo info;
    if (read(c->signals, &info, sizeof(info)) != sizeof(info))
        return;
    u8 number = (u8)info.ssi_signo;
    if (c->s->signal && number != SIGWINCH && number != SIGUSR1 && number != SIGUSR2) {
        *c->s->signal = number;
        number = SIGKILL;
    }
    if ((number == SIGINT || number == SIGTERM) && ++c->asked >= PATIENCE)
        number = SIGKILL; /* a first process that has no handler is never ended by others */
    if (number == SIGWINCH)
        send_window(c);
    else
        box_wire_send(c->fd, WIRE_SIGNAL, &number, 1);
}

/* 1 at its end, 0, or -errno. */
static int take(const struct screen *c, int *status, struct error *e)
{
    struct packet p;
    ssize_t n = box_wire_receive(c->fd, &p);
    if (n < 0)
        return error_set(e, EPIPE, "the container's keeper vanished; the next `trapeze ps` takes its rest away");
    if (p.kind == WIRE_EXITED && n == 4) {
        *status = (int)get_le32(p.data);
        return 1;
    }
    int out = c->s->output ? c->s->output : STDOUT_FILENO, err = c->s->output ? c->s->output : STDERR_FILENO;
    int to = p.kind == WIRE_STDOUT ? out : p.kind == WIRE_STDERR ? err : -1;
    /* Our reader is gone: the container hears of it as it would of a pipe. */
    if (to >= 0 && sys_write_all(to, p.data, (size_t)n) < 0)
        box_wire_send(c->fd, WIRE_CLOSED, &p.kind, 1);
    return 0;
}

static int relay(struct screen *c, int *status, bool *left, struct error *e)
{
    for (;;) {
        struct pollfd p[] = {{.fd = c->fd, .events = POLLIN},
                             {.fd = c->signals, .events = POLLIN},
                             {.fd = c->input_open ? STDIN_FILENO : -1, .events = POLLIN}};
        if (poll(p, ARRAY_LEN(p), -1) < 0 && errno != EINTR)
            return sys_error(e, "poll");
        if (p[1].revents)
            pass_signal(c);
        if (p[2].revents && (*left = send_input(c)))
            return 0;
        int r = p[0].revents ? take(c, status, e) : 0;
        if (r)
            return MIN(r, 0);
    }
}

static void block_signals(sigset_t *set)
{
    static const int passed[] = {SIGINT, SIGTERM, SIGHUP, SIGQUIT, SIGUSR1, SIGUSR2, SIGWINCH};
    sigemptyset(set);
    for (size_t i = 0; i < ARRAY_LEN(passed); i++)
        sigaddset(set, passed[i]);
    sigprocmask(SIG_BLOCK, set, NULL);
}

int box_session(int fd, const struct session *s, int *status, bool *left, struct error *e)
{
    struct screen c = {.s = s, .fd = fd, .input_open = s->input};
    sigset_t set;
    block_signals(&set);
    CLEANUP_FD int signals = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
    if (signals < 0)
        return sys_error(e, "signalfd");
    c.signals = signals;
    *left = false;
    set_raw(&c);
    send_window(&c);
    int r = relay(&c, status, left, e);
    if (c.raw)
        tcsetattr(STDIN_FILENO, TCSADRAIN, &c.before);
    return r;
}

/* --- starting --- */

int box_protect(struct error *e)
{
    CLEANUP_FREE char *text = NULL;
    size_t size, n = 0;
    char *argv[4096];
    int r = sys_read_at(AT_FDCWD, "/proc/self/cmdline", 4 << 20, &text, &size);
    if (r < 0)
        return error_set(e, -r, "/proc/self/cmdline: %s", strerror(-r));
    for (char *p = text; p < text + size && n + 1 < ARRAY_LEN(argv); p += strlen(p) + 1)
        argv[n++] = p;
    argv[n] = NULL;
    if (n + 1 == ARRAY_LEN(argv))
        return error_set(e, E2BIG, "more than %zu arguments", ARRAY_LEN(argv) - 2);
    protect_process();
    r = protect_binary(argv, e);
    if (r == 0)
        prctl(PR_SET_NAME, "trapeze"); /* a copy is named by its descriptor */
    return r;
}

/* What it says when it has started it, or not. */
static int await_start(int fd, struct box_started *started, int *status, struct error *e)
{
    struct packet p;
    struct wire_failure f;
    ssize_t n = box_wire_receive(fd, &p);
    *status = BOX_FAILED;
    if (n == sizeof(*started) && p.kind == WIRE_STARTED) {
        memcpy(started, p.data, sizeof(*started));
        started->note[sizeof(started->note) - 1] = 0;
        return 0;
    }
    if (n != sizeof(f) || p.kind != WIRE_FAILED)
        return error_set(e, EPIPE, "the container's keeper vanished; the next `trapeze ps` takes its rest away");
    memcpy(&f, p.data, sizeof(f));
    *status = (int)f.status;
    return error_set(e, f.e.code, "%s", f.e.msg);
}

int box_run(const struct box_options *o, struct box_started *started, int *status, bool *left, struct error *e)
{
    const struct session s = {.input = o->interactive, .tty = o->tty, .escape = o->escape};
    sigset_t set;
    int pair[2];
    *left = false;
    *status = BOX_FAILED;
    int r = box_config_check(o, e);
    if (r < 0)
        return r;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return sys_error(e, "socketpair");
    if (!o->detach)
        block_signals(&set); /* what comes from here on is the container's */
    pid_t pid = fork();
    if (pid == 0) {
        close(pair[0]);
        box_keeper(o, pair[1]);
    }
    close(pair[1]);
    r = pid < 0 ? sys_error(e, "fork") : await_start(pair[0], started, status, e);
    if (r < 0 && pid > 0)
        waitpid(pid, NULL, 0);
    if (r == 0 && started->note[0])
        fprintf(stderr, "trapeze: %s\n", started->note);
    if (r == 0) {
        *status = 0;
        r = o->detach ? 0 : box_session(pair[0], &s, status, left, e);
    }
    if (r == 0 && !o->detach && !*left)
        waitpid(pid, NULL, 0); /* all of it is gone when we are */
    if (r < 0 && *status == 0)
        *status = BOX_FAILED;
    close(pair[0]);
    return r;
}

int box_start(const struct machine_row *row, struct box_started *started, int *status, struct error *e)
{
    const struct box_options o = {.image = "", .again = row->id, .detach = true};
    int pair[2];
    *status = BOX_FAILED;
    if (row->keeper_start && sys_start_time(row->keeper_pid) == row->keeper_start)
        return error_set(e, EEXIST, "container %s: runs already", row->name);
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return sys_error(e, "socketpair");
    pid_t pid = fork();
    if (pid == 0) {
        close(pair[0]);
        box_keeper(&o, pair[1]);
    }
    close(pair[1]);
    int r = pid < 0 ? sys_error(e, "fork") : await_start(pair[0], started, status, e);
    close(pair[0]);
    if (r < 0 && pid > 0)
        waitpid(pid, NULL, 0);
    if (r == 0 && started->note[0])
        fprintf(stderr, "trapeze: %s\n", started->note);
    if (r == 0)
        *status = 0;
    return r;
}

/* The keeper lives in this process's image, without its descriptors: what the build has locked is not the keeper's. */
static _Noreturn void step_keeper(const struct box_options *o, int fd)
{
    if (fd != 3)
        dup3(fd, 3, O_CLOEXEC);
    close_range(4, ~0u, 0);
    box_keeper(o, 3);
}

int box_step_run(struct box_step *step, const struct box_options *o, int output, int *status, int *signal,
                 struct error *e)
{
    const struct session s = {.output = output, .signal = signal};
    sigset_t set, before;
    bool left;
    int pair[2];
    *status = BOX_FAILED;
    *step = (struct box_step){.fd = -1};
    int r = box_config_check(o, e);
    if (r < 0)
        return r;
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return sys_error(e, "socketpair");
    sigprocmask(SIG_SETMASK, NULL, &before);
    block_signals(&set);
    step->keeper = fork();
    if (step->keeper == 0)
        step_keeper(o, pair[1]);
    close(pair[1]);
    step->fd = pair[0];
    r = step->keeper < 0 ? sys_error(e, "fork") : await_start(step->fd, &step->started, status, e);
    if (r == 0 && step->started.note[0])
        fprintf(stderr, "trapeze: %s\n", step->started.note);
    if (r == 0)
        r = box_session(step->fd, &s, status, &left, e);
    sigprocmask(SIG_SETMASK, &before, NULL);
    if (r < 0)
        box_step_end(step);
    return r;
}

void box_step_end(struct box_step *step)
{
    sys_close(&step->fd);
    step->fd = -1;
    if (step->keeper > 0)
        waitpid(step->keeper, NULL, 0);
    step->keeper = 0;
}

int box_attach(const struct machine_row *row, bool input, u8 escape, int *status, bool *left, struct error *e)
{
    json_t *config = json_loads(row->config, 0, NULL);
    const struct session s = {.input = input && json_is_true(json_object_get(config, "interactive")),
                              .tty = json_is_true(json_object_get(config, "tty")),
                              .escape = escape};
    const u8 flags = WIRE_OUTPUT | (s.input ? WIRE_INPUT : 0);
    json_decref(config);
    CLEANUP_FD int fd = box_wire_connect(row->socket, e);
    if (fd < 0) {
        error_prefix(e, "container %s: does not run", row->name);
        return fd;
    }
    box_wire_send(fd, WIRE_ATTACH, &flags, 1);
    return box_session(fd, &s, status, left, e);
}
