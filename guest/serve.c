/*
 * The service. A process for each connection: what one does wrong, or to itself, is nothing to the others. Only the host
 * may connect: not other programs of the guest, which could become root by it.
 */
#include "guest.h"

#include <errno.h>
#include <linux/vm_sockets.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CHILDREN_MAX 64u

static int listen_on(u32 port, struct error *e)
{
    const struct sockaddr_vm a = {.svm_family = AF_VSOCK, .svm_port = port, .svm_cid = VMADDR_CID_ANY};
    int fd = socket(AF_VSOCK, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(e, errno, "vsock: %s; is the module vmw_vsock_virtio_transport there?", strerror(errno));
    if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) == 0 && listen(fd, 16) == 0)
        return fd;
    int why = errno;
    close(fd);
    return error_set(e, why, "vsock port %u: %s", port, strerror(why));
}

/* In a process of its own. */
static void take(int listener, int fd)
{
    close(listener);
    signal(SIGCHLD, SIG_DFL);
    serve_connection(fd);
    _exit(0);
}

/* One connection of the host, if there is one; whether a child was started. */
static bool take_one(int listener, bool room)
{
    struct sockaddr_vm peer = {0};
    socklen_t len = sizeof(peer);
    int fd = accept4(listener, (struct sockaddr *)&peer, &len, SOCK_CLOEXEC);
    if (fd < 0)
        return false;
    pid_t child = room && peer.svm_cid == VMADDR_CID_HOST ? fork() : -1;
    if (child == 0)
        take(listener, fd);
    close(fd);
    return child > 0;
}

static void on_child(int sig)
{
}

int serve(u32 port, struct error *e)
{
    unsigned children = 0;
    int listener = listen_on(port, e);
    const struct sigaction child = {.sa_handler = on_child}; /* it interrupts poll */
    if (listener < 0)
        return listener;
    sigset_t set, none;
    sigemptyset(&none);
    sigemptyset(&set);
    sigaddset(&set, SIGCHLD);
    sigprocmask(SIG_BLOCK, &set, NULL); /* but in ppoll */
    sigaction(SIGCHLD, &child, NULL);
    signal(SIGPIPE, SIG_IGN);
    for (;;) {
        struct pollfd p = {.fd = listener, .events = POLLIN};
        if (ppoll(&p, 1, NULL, &none) > 0)
            children += take_one(listener, children < CHILDREN_MAX);
        while (children && waitpid(-1, NULL, WNOHANG) > 0)
            children--;
    }
}
