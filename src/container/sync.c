#include "container/sync.h"
#include "container/sys.h"

#include <errno.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

int sync_pair(int pair[2], struct error *e)
{
    return socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0 ? sys_error(e, "socketpair") : 0;
}

int sync_send(int fd, enum sync_kind kind, s32 value, const struct error *e)
{
    struct sync_message m = {.kind = kind, .value = value};
    if (e)
        m.e = *e;
    /* Without an error only the head travels. */
    size_t size = e ? sizeof(m) : offsetof(struct sync_message, e);
    ssize_t n;
    do
        n = send(fd, &m, size, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

int sync_receive(int fd, struct sync_message *m, struct error *e)
{
    ssize_t n;
    int resets = 0;
    memset(m, 0, sizeof(*m));
    /* Who ends without having read what we sent resets the connection: what he said before is still there, after that. */
    do
        n = recv(fd, m, sizeof(*m), 0);
    while (n < 0 && (errno == EINTR || (errno == ECONNRESET && !resets++)));
    if (n < 0)
        return sys_error(e, "waiting for the container's process");
    if (n == 0)
        return 1;
    m->e.msg[sizeof(m->e.msg) - 1] = 0;
    if (m->kind == SYNC_ERROR)
        return error_set(e, m->e.code > 0 ? m->e.code : EIO, "%s", m->e.msg);
    return 0;
}

int sync_expect(int fd, enum sync_kind kind, struct error *e)
{
    struct sync_message m;
    int r = sync_receive(fd, &m, e);
    if (r == 1)
        return error_set(e, EPIPE, "the container's process ended before it was ready");
    if (r == 0 && m.kind != kind)
        return error_set(e, EPROTO, "the container's process is out of step");
    return r;
}
