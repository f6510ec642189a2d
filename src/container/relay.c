#include "container/relay.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/signalfd.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

int relay_open(struct relay *r, struct error *e)
{
    int pair[2];
    r->socket = r->child_socket = r->master = -1;
    r->raw = false;
    if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair) < 0)
        return sys_error(e, "socketpair");
    r->socket = pair[0];
    r->child_socket = pair[1];
    return 0;
}

void relay_close(struct relay *r)
{
    if (r->raw)
        tcsetattr(0, TCSANOW, &r->before);
    sys_close(&r->socket);
    sys_close(&r->child_socket);
    sys_close(&r->master);
}

static int receive_master(struct relay *r, struct error *e)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(sizeof(int))];
    } control;
    char name[64];
    struct iovec part = {name, sizeof(name)};
    struct msghdr m = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(r->socket, &m, MSG_CMSG_CLOEXEC);
    const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(sizeof(int)))
        return error_set(e, EPROTO, "terminal: it did not come");
    memcpy(&r->master, CMSG_DATA(c), sizeof(int));
    return 0;
}

static void set_terminal(struct relay *r)
{
    struct winsize size;
    struct termios t;
    if (ioctl(0, TIOCGWINSZ, &size) == 0)
        ioctl(r->master, TIOCSWINSZ, &size);
    if (tcgetattr(0, &r->before) < 0)
        return;
    t = r->before;
    cfmakeraw(&t);
    r->raw = tcsetattr(0, TCSANOW, &t) == 0;
}

/* What is there, from one to the other. False at the end of `from`. */
static bool pump(int from, int to)
{
    char piece[8192];
    ssize_t n = read(from, piece, sizeof(piece));
    if (n < 0 && (errno == EINTR || errno == EAGAIN))
        return true;
    if (n <= 0)
        return false;
    sys_write_all(to, piece, (size_t)n);
    return true;
}

/* Its end is a waited-for process and a terminal read empty. */
static bool ended(pid_t pid, int *status)
{
    int raw;
    if (waitpid(pid, &raw, WNOHANG) != pid)
        return false;
    *status = WIFSIGNALED(raw) ? 128 + WTERMSIG(raw) : WEXITSTATUS(raw);
    return true;
}

static void drain(int master)
{
    fcntl(master, F_SETFL, O_NONBLOCK);
    char piece[8192];
    ssize_t n;
    while ((n = read(master, piece, sizeof(piece))) > 0)
        sys_write_all(1, piece, (size_t)n);
}

static void pass_signal(const struct relay *r, int signals, int pidfd)
{
    struct signalfd_siginfo info;
    struct winsize size;
    if (read(signals, &info, sizeof(info)) != sizeof(info) || info.ssi_signo == SIGCHLD)
        return;
    if (info.ssi_signo == SIGWINCH) {
        if (ioctl(0, TIOCGWINSZ, &size) == 0)
            ioctl(r->master, TIOCSWINSZ, &size);
        return;
    }
    sys_pidfd_signal(pidfd, (int)info.ssi_signo);
}

int relay_run(struct relay *r, pid_t pid, int pidfd, int *status, struct error *e)
{
    sigset_t all;
    sigfillset(&all);
    int bad = receive_master(r, e);
    CLEANUP_FD int signals = signalfd(-1, &all, SFD_CLOEXEC);
    if (bad < 0 || signals < 0)
        return bad < 0 ? bad : sys_error(e, "signalfd");
    set_terminal(r);
    struct pollfd p[3] = {
        {.fd = 0, .events = POLLIN}, {.fd = r->master, .events = POLLIN}, {.fd = signals, .events = POLLIN}};
    while (!ended(pid, status)) {
        if (poll(p, 3, 1000) < 0 && errno != EINTR)
            return sys_error(e, "poll");
        if (p[0].revents && !pump(0, r->master)) {
            p[0].fd = -1; /* our input has ended: its reader hears of it as of Ctrl-D */
            char end = 4;
            sys_write_all(r->master, &end, 1);
        }
        if (p[1].revents && !pump(r->master, 1))
            p[1].fd = -1; /* nobody has it open any more */
        if (p[2].revents)
            pass_signal(r, signals, pidfd);
    }
    drain(r->master);
    return 0;
}
