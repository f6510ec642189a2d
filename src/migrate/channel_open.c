/* How a channel begins: listening, accepting, connecting, and the rule of who may without TLS. */
#include "migrate/channel_internal.h"

#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define BACKLOG  64
#define RETRY_MS 10 /* between two attempts at a unix socket whose queue is full */

/* --- the rule --- */

/* Whether a socket's address is of this host alone. */
static bool is_loopback(const struct sockaddr *a)
{
    if (a->sa_family == AF_UNIX)
        return true;
    if (a->sa_family == AF_INET)
        return ntohl(((const struct sockaddr_in *)a)->sin_addr.s_addr) >> 24 == 127;
    const struct in6_addr *v6 = &((const struct sockaddr_in6 *)a)->sin6_addr;
    return IN6_IS_ADDR_LOOPBACK(v6) || (IN6_IS_ADDR_V4MAPPED(v6) && v6->s6_addr[12] == 127);
}

static int check_rule(const struct channel_security *s, const struct channel_address *a, bool here, struct error *e)
{
    char text[CHANNEL_TEXT_MAX];
    channel_address_text(a, text, sizeof(text));
    if (s->tls_dir && s->insecure)
        return error_set(e, EINVAL, "--tls and --insecure: one of them");
    if (s->tls_dir && a->local)
        return error_set(e, EINVAL, "%.200s: a unix socket stays on this host: no --tls", text);
    if (!here && !s->tls_dir && !s->insecure)
        return error_set(
            e, EPERM,
            "%.200s: is not this host, and a machine's memory goes nowhere unencrypted: give both sides --tls "
            "DIR with certificates, or, on a network that you trust like a cable, both --insecure",
            text);
    return 0;
}

int channel_listener_check(const struct channel_listener *l, const struct channel_security *s, struct error *e)
{
    int r = check_rule(s, &l->address, l->here, e);
    return r == 0 && s->tls_dir ? channel_tls_check(s->tls_dir, e) : r;
}

/* --- unix sockets --- */

/*
 * A socket's address has room for 107 characters, a path for 4095: go through a descriptor of its directory. Returns the
 * descriptor, to be closed after the address was used.
 */
static int unix_address(const char *path, struct sockaddr_un *out)
{
    const char *slash = strrchr(path, '/'), *name = slash ? slash + 1 : path;
    char *dir = slash ? strndup(path, (size_t)(slash - path) + 1) : strdup(".");
    int d = dir ? open(dir, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1, why = dir ? errno : ENOMEM;
    free(dir);
    if (d < 0)
        return -why;
    *out = (struct sockaddr_un){.sun_family = AF_UNIX};
    if (snprintf(out->sun_path, sizeof(out->sun_path), "/proc/self/fd/%d/%s", d, name) < (int)sizeof(out->sun_path))
        return d;
    close(d);
    return -ENAMETOOLONG;
}

static int unix_socket(void)
{
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    return fd < 0 ? -errno : fd;
}

/* Take away a socket that nobody listens at any more: its owner was killed. 0, or -errno: what is there stays. */
static int remove_dead(const struct sockaddr_un *a)
{
    struct stat st;
    int fd = unix_socket();
    if (fd < 0)
        return fd;
    int r = connect(fd, (const struct sockaddr *)a, sizeof(*a)) == 0 ? -EADDRINUSE : -errno;
    close(fd);
    if (r != -ECONNREFUSED)
        return r == -EAGAIN ? -EADDRINUSE : r;
    if (lstat(a->sun_path, &st) < 0 || !S_ISSOCK(st.st_mode))
        return -EADDRINUSE;
    return unlink(a->sun_path) < 0 ? -errno : 0;
}

static int bind_unix(int fd, const struct sockaddr_un *a)
{
    const struct sockaddr *sa = (const struct sockaddr *)a;
    fchmod(fd, 0600); /* what the file will have, less the umask */
    if (bind(fd, sa, sizeof(*a)) == 0)
        return 0;
    if (errno != EADDRINUSE)
        return -errno;
    int r = remove_dead(a);
    return r < 0 ? r : bind(fd, sa, sizeof(*a)) < 0 ? -errno : 0;
}

static int listen_unix(struct channel_listener *l, struct error *e)
{
    struct sockaddr_un a;
    struct stat st;
    const char *path = l->address.name;
    int d = unix_address(path, &a);
    if (d < 0)
        return error_set(e, -d, "unix:%.200s: %s", path, strerror(-d));
    int fd = unix_socket(), r = fd < 0 ? fd : bind_unix(fd, &a);
    if (r == 0 && (listen(fd, BACKLOG) < 0 || lstat(a.sun_path, &st) < 0))
        r = -errno;
    if (r < 0) {
        if (fd >= 0)
            close(fd);
        close(d);
        return error_set(e, -r, "unix:%.200s: %s", path,
                         r == -EADDRINUSE ? "somebody else listens there, or it is no socket" : strerror(-r));
    }
    l->fd = fd;
    l->dir = d;
    l->ino = st.st_ino;
    l->dev = st.st_dev;
    l->here = true;
    return 0;
}

/* --- TCP --- */

static int look_up(const struct channel_address *a, bool passive, struct addrinfo **found, struct error *e)
{
    char port[8];
    struct addrinfo hints = {.ai_socktype = SOCK_STREAM,
                             .ai_flags = passive ? AI_PASSIVE | AI_NUMERICSERV : AI_NUMERICSERV};
    snprintf(port, sizeof(port), "%u", a->port);
    int r = getaddrinfo(a->name, port, &hints, found);
    if (r == 0)
        return 0;
    int code = r == EAI_SYSTEM ? errno : r == EAI_MEMORY ? ENOMEM : EHOSTUNREACH;
    return error_set(e, code, "%s: no such host: %s", a->name, r == EAI_SYSTEM ? strerror(errno) : gai_strerror(r));
}

/* The port that the kernel chose. */
static u16 port_of(int fd)
{
    union {
        struct sockaddr sa;
        struct sockaddr_in v4;
        struct sockaddr_in6 v6;
    } a;
    socklen_t len = sizeof(a);
    if (getsockname(fd, &a.sa, &len) < 0)
        return 0;
    return ntohs(a.sa.sa_family == AF_INET ? a.v4.sin_port : a.v6.sin6_port);
}

static int listen_at(const struct addrinfo *ai)
{
    int one = 1, fd = socket(ai->ai_family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return -errno;
    setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, ai->ai_addr, ai->ai_addrlen) == 0 && listen(fd, BACKLOG) == 0)
        return fd;
    int why = errno;
    close(fd);
    return -why;
}

static int listen_tcp(struct channel_listener *l, struct error *e)
{
    struct addrinfo *found = NULL;
    char text[CHANNEL_TEXT_MAX];
    int r = look_up(&l->address, true, &found, e);
    if (r < 0)
        return r;
    for (const struct addrinfo *ai = found; ai; ai = ai->ai_next) {
        r = listen_at(ai);
        l->here = is_loopback(ai->ai_addr);
        if (r >= 0)
            break;
    }
    freeaddrinfo(found);
    if (r < 0)
        return error_set(e, -r, "%.200s: %s", channel_address_text(&l->address, text, sizeof(text)),
                         r == -EADDRNOTAVAIL ? "is no address of this host" : strerror(-r));
    l->fd = r;
    l->address.port = port_of(r);
    return 0;
}

/* --- the listener --- */

int channel_listen(const struct channel_address *a, struct channel_listener *l, struct error *e)
{
    *l = (struct channel_listener){.fd = -1, .dir = -1, .address = *a};
    return a->local ? listen_unix(l, e) : listen_tcp(l, e);
}

void channel_listener_drop(struct channel_listener *l)
{
    if (l->fd >= 0)
        close(l->fd);
    if (l->dir >= 0)
        close(l->dir);
    l->fd = l->dir = -1;
}

void channel_listener_close(struct channel_listener *l)
{
    struct stat st;
    const char *slash = strrchr(l->address.name, '/'), *name = slash ? slash + 1 : l->address.name;
    /* unless somebody has put another one there */
    if (l->dir >= 0 && fstatat(l->dir, name, &st, AT_SYMLINK_NOFOLLOW) == 0 && st.st_ino == l->ino &&
        st.st_dev == l->dev)
        unlinkat(l->dir, name, 0);
    channel_listener_drop(l);
}

static void name_peer(struct channel *c, const struct channel_listener *l, const struct sockaddr *a, socklen_t len)
{
    char host[NI_MAXHOST], port[NI_MAXSERV];
    struct ucred who;
    socklen_t size = sizeof(who);
    if (l->address.local && getsockopt(c->fd, SOL_SOCKET, SO_PEERCRED, &who, &size) == 0)
        snprintf(c->peer, sizeof(c->peer), "process %d at unix:%.100s", (int)who.pid, l->address.name);
    else if (!l->address.local &&
             getnameinfo(a, len, host, sizeof(host), port, sizeof(port), NI_NUMERICHOST | NI_NUMERICSERV) == 0)
        snprintf(c->peer, sizeof(c->peer), strchr(host, ':') ? "[%.100s]:%s" : "%.100s:%s", host, port);
    else
        snprintf(c->peer, sizeof(c->peer), "the other side");
}

/* A connection that waits in the queue, or comes in time. */
static int accept_within(int listener, int deadline_ms, struct sockaddr_storage *a, socklen_t *len)
{
    u64 end = channel_now() + (u64)MAX(deadline_ms, 0) * NS_PER_MS;
    for (;;) {
        *len = sizeof(*a);
        int fd = accept4(listener, (struct sockaddr *)a, len, SOCK_CLOEXEC | SOCK_NONBLOCK);
        if (fd >= 0)
            return fd;
        if (errno == EINTR || errno == ECONNABORTED)
            continue;
        u64 now = channel_now();
        if (errno != EAGAIN || now >= end)
            return -errno;
        struct pollfd p = {.fd = listener, .events = POLLIN};
        poll(&p, 1, (int)((end - now) / NS_PER_MS) + 1);
    }
}

int channel_accept(struct channel_listener *l, const struct channel_security *s, int deadline_ms, struct channel **out,
                   struct error *e)
{
    struct sockaddr_storage a;
    socklen_t len;
    char text[CHANNEL_TEXT_MAX];
    struct channel *c;
    int r = check_rule(s, &l->address, l->here, e);
    if (r < 0)
        return r;
    int fd = accept_within(l->fd, deadline_ms, &a, &len);
    if (fd < 0)
        return error_set(e, -fd, "%.200s: %s", channel_address_text(&l->address, text, sizeof(text)),
                         fd == -EAGAIN ? "nobody has connected" : strerror(-fd));
    if ((r = channel_new(fd, !l->address.local, &c, e)) < 0)
        return r;
    name_peer(c, l, (struct sockaddr *)&a, len);
    if (s->tls_dir && !(c->tls_dir = strdup(s->tls_dir))) {
        channel_close(c);
        return error_set(e, ENOMEM, "connection: out of memory");
    }
    *out = c;
    return 0;
}

/* TLS within that time. */
static int secure(struct channel *c, const char *dir, const char *host, int deadline_ms, struct error *e)
{
    channel_until(c, MAX(deadline_ms, 1));
    int r = channel_tls_begin(c, dir, host, e);
    channel_until(c, 0);
    c->failed = r < 0 ? -r : 0;
    c->encrypted = r == 0;
    return r;
}

int channel_handshake(struct channel *c, int deadline_ms, struct error *e)
{
    char *dir = c->tls_dir;
    if (!dir)
        return 0;
    c->tls_dir = NULL;
    int r = secure(c, dir, NULL, deadline_ms, e);
    free(dir);
    return r;
}

/* --- connecting --- */

/* Until `end`, or cancelled. 0 or -errno. */
static int finish_connect(int fd, u64 end, int cancel)
{
    for (;;) {
        struct pollfd fds[] = {{.fd = fd, .events = POLLOUT}, {.fd = cancel, .events = POLLIN}};
        u64 now = channel_now();
        int why = 0, n = poll(fds, 2, now < end ? (int)((end - now) / NS_PER_MS) + 1 : 0);
        socklen_t len = sizeof(why);
        if (n > 0 && fds[1].revents)
            return -ECANCELED;
        if (n > 0)
            return getsockopt(fd, SOL_SOCKET, SO_ERROR, &why, &len) < 0 ? -errno : -why;
        if (n == 0 && now >= end)
            return -ETIMEDOUT;
    }
}

/* Returns a connected socket, or -errno. */
static int connect_to(int family, const struct sockaddr *a, socklen_t len, u64 end, int cancel)
{
    int fd = socket(family, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;
    if (fd < 0)
        return -errno;
    while ((r = connect(fd, a, len) == 0 ? 0 : -errno) == -EAGAIN && channel_now() < end) {
        struct pollfd p = {.fd = cancel, .events = POLLIN};
        if (poll(&p, 1, RETRY_MS) > 0) {
            r = -ECANCELED;
            break;
        }
    }
    if (r == -EINPROGRESS || r == -EINTR)
        r = finish_connect(fd, end, cancel);
    if (r == 0)
        return fd;
    close(fd);
    return r == -EAGAIN ? -ETIMEDOUT : r;
}

static int connect_unix(const struct channel_address *a, u64 end, int cancel)
{
    struct sockaddr_un sa;
    int d = unix_address(a->name, &sa);
    if (d < 0)
        return d;
    int fd = connect_to(AF_UNIX, (const struct sockaddr *)&sa, sizeof(sa), end, cancel);
    close(d);
    return fd;
}

/* All addresses of the name in turn, each with its share of the time. */
static int connect_tcp(const struct addrinfo *found, const struct channel_address *a, const struct channel_security *s,
                       u64 end, int cancel, struct error *e)
{
    int fd = -EHOSTUNREACH;
    u64 n = 0;
    for (const struct addrinfo *ai = found; ai; ai = ai->ai_next)
        n++;
    for (const struct addrinfo *ai = found; ai && fd < 0 && fd != -ECANCELED; ai = ai->ai_next, n--) {
        u64 now = channel_now();
        int r = check_rule(s, a, is_loopback(ai->ai_addr), e);
        if (r < 0)
            return r;
        fd = connect_to(ai->ai_family, ai->ai_addr, ai->ai_addrlen, now + (end > now ? end - now : 0) / n, cancel);
    }
    return fd;
}

static int connect_any(const struct channel_address *a, const struct channel_security *s, u64 end, int cancel,
                       struct error *e)
{
    struct addrinfo *found = NULL;
    if (a->local) {
        int r = check_rule(s, a, true, e);
        return r < 0 ? r : connect_unix(a, end, cancel);
    }
    int r =
        a->port ? look_up(a, false, &found, e) : error_set(e, EINVAL, "%s: port 0 can not be connected to", a->name);
    if (r < 0)
        return r;
    r = connect_tcp(found, a, s, end, cancel, e);
    freeaddrinfo(found);
    return r;
}

static int refused(const char *peer, int code, int deadline_ms, struct error *e)
{
    switch (code) {
    case ECONNREFUSED:
    case ENOENT:
        return error_set(e, code, "%s: nobody listens there: start `trapeze receive --listen` on that host first",
                         peer);
    case ETIMEDOUT:
        return error_set(e, code,
                         "%s: no answer within %d ms: the host is down, or a firewall drops what is sent to it", peer,
                         deadline_ms);
    case ECANCELED:
        return error_set(e, code, "%s: cancelled", peer);
    default:
        return error_set(e, code, "%s: can not be connected to: %s", peer, strerror(code));
    }
}

int channel_connect_cancel(const struct channel_address *a, const struct channel_security *s, int deadline_ms,
                           int cancel, struct channel **out, struct error *e)
{
    struct error own = {0}; /* whether there is a message is to be known here */
    char text[CHANNEL_TEXT_MAX], peer[CHANNEL_PEER_MAX], host[NI_MAXHOST];
    struct channel *c;
    u64 end = channel_now() + (u64)MAX(deadline_ms, 1) * NS_PER_MS;
    snprintf(peer, sizeof(peer), "%.150s", channel_address_text(a, text, sizeof(text)));
    int fd = connect_any(a, s, end, cancel, &own);
    if (fd < 0)
        return own.code ? error_set(e, own.code, "%s", own.msg) : refused(peer, -fd, deadline_ms, e);
    int r = channel_new(fd, !a->local, &c, e);
    if (r < 0)
        return r;
    memcpy(c->peer, peer, sizeof(peer));
    c->cancel = cancel;
    u64 now = channel_now();
    snprintf(host, sizeof(host), "%.*s", (int)strcspn(a->name, "%"), a->name); /* no certificate knows our interfaces */
    if (s->tls_dir)
        r = secure(c, s->tls_dir, host, now < end ? (int)((end - now) / NS_PER_MS) : 0, e);
    if (r < 0) {
        channel_close(c);
        return r;
    }
    *out = c;
    return 0;
}

int channel_connect(const struct channel_address *a, const struct channel_security *s, int deadline_ms,
                    struct channel **c, struct error *e)
{
    return channel_connect_cancel(a, s, deadline_ms, -1, c, e);
}
