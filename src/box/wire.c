#include "box/parts.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <sys/un.h>
#include <unistd.h>

ssize_t box_wire_receive(int fd, struct packet *p)
{
    ssize_t n;
    do
        n = recv(fd, p, sizeof(*p), 0);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : n == 0 ? -EPIPE : n - 1;
}

int box_wire_send(int fd, u8 kind, const void *data, size_t size)
{
    struct iovec parts[] = {{&kind, 1}, {(void *)data, size}};
    const struct msghdr m = {.msg_iov = parts, .msg_iovlen = 2};
    ssize_t n;
    do
        n = sendmsg(fd, &m, MSG_NOSIGNAL);
    while (n < 0 && errno == EINTR);
    return n < 0 ? -errno : 0;
}

/* By its directory's descriptor: an address holds 107 bytes, a path more. */
static int address_of(const char *path, struct sockaddr_un *a, struct error *e)
{
    char dir[PATH_MAX];
    const char *slash = strrchr(path, '/');
    if (!slash || slash == path)
        return error_set(e, EINVAL, "%s: is no absolute path", path);
    snprintf(dir, sizeof(dir), "%.*s", (int)(slash - path), path);
    int fd = open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (fd < 0)
        return sys_error(e, "%s", dir);
    memset(a, 0, sizeof(*a));
    a->sun_family = AF_UNIX;
    snprintf(a->sun_path, sizeof(a->sun_path), "/proc/self/fd/%d/%.60s", fd, slash + 1);
    return fd;
}

int box_wire_listen(const char *path, struct error *e)
{
    struct sockaddr_un a;
    CLEANUP_FD int dir = address_of(path, &a, e);
    CLEANUP_FD int fd = dir < 0 ? dir : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (dir < 0)
        return dir;
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, 8) < 0)
        return sys_error(e, "%s", path);
    return sys_take(&fd);
}

int box_wire_connect(const char *path, struct error *e)
{
    struct sockaddr_un a;
    CLEANUP_FD int dir = address_of(path, &a, e);
    CLEANUP_FD int fd = dir < 0 ? dir : socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
    if (dir < 0)
        return dir;
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        return sys_error(e, "%s", path);
    return sys_take(&fd);
}
