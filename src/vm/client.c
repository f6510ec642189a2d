#include "vm/client.h"
#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define FRAME_HEAD 4u
#define IN_MAX     (CONTROL_LINE_MAX + 1u) /* a line and its newline */
#define OUT_MAX    (CONTROL_NAMED_MAX + (1u << 20))

int client_accept(struct client *c, int listener)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    int fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
    if (fd < 0)
        return errno == EAGAIN || errno == EINTR || errno == ECONNABORTED ? 0 : -errno;
    if (getsockopt(fd, SOL_SOCKET, SO_PEERCRED, &peer, &len) < 0 || (peer.uid != geteuid() && peer.uid != 0)) {
        close(fd);
        return -EPERM;
    }
    *c = (struct client){.fd = fd, .pass = -1};
    return 1;
}

void client_close(struct client *c)
{
    if (c->fd >= 0)
        close(c->fd);
    free(c->in);
    free(c->out);
    free(c->body);
    *c = (struct client){.fd = -1, .pass = -1};
}

size_t client_backlog(const struct client *c)
{
    return c->out_len - c->out_at;
}

int client_put(struct client *c, const void *data, size_t len)
{
    if (c->out_at == c->out_len)
        c->out_at = c->out_len = 0;
    if (c->out_at && c->out_cap - c->out_len < len) {
        memmove(c->out, c->out + c->out_at, c->out_len - c->out_at);
        c->out_len -= c->out_at;
        c->out_at = 0;
    }
    if (c->out_cap - c->out_len < len) {
        size_t cap = MAX(2 * c->out_cap, c->out_len + len);
        u8 *p = cap <= OUT_MAX ? realloc(c->out, cap) : NULL;
        if (!p) {
            c->closing = true;
            return -ENOMEM;
        }
        c->out = p;
        c->out_cap = cap;
    }
    if (len)
        memcpy(c->out + c->out_len, data, len);
    c->out_len += len;
    return 0;
}

static void put_frame(struct client *c, u8 kind, const void *data, size_t len)
{
    u8 frame[FRAME_HEAD + CONTROL_FRAME_MAX] = {kind, 0};
    put_le16(frame + 2, (u16)len);
    memcpy(frame + FRAME_HEAD, data, len);
    client_put(c, frame, FRAME_HEAD + len);
}

void client_frame(struct client *c, u8 kind, const void *data, size_t len)
{
    const u8 *p = data;
    if (kind == CONTROL_OUTPUT && (client_backlog(c) > CLIENT_BACKLOG || (c->dropped && client_backlog(c)))) {
        c->dropped += len; /* go on once all of the backlog is out: few gaps instead of many */
        return;
    }
    if (c->dropped) {
        u8 lost[8];
        put_le64(lost, c->dropped);
        put_frame(c, CONTROL_DROPPED, lost, sizeof(lost));
        c->dropped = 0;
    }
    do {
        size_t n = MIN(len, (size_t)CONTROL_FRAME_MAX);
        put_frame(c, kind, p, n);
        p += n;
        len -= n;
    } while (len);
}

int client_put_fd(struct client *c, int fd)
{
    if (c->pass >= 0)
        return -EBUSY;
    size_t before = client_backlog(c);
    int r = client_put(c, "", 1);
    if (r == 0) {
        c->pass = fd;
        c->pass_behind = before;
    }
    return r;
}

/* The next byte, with the descriptor. */
static ssize_t send_fd(struct client *c)
{
    struct iovec iov = {c->out + c->out_at, 1};
    union {
        struct cmsghdr head;
        u8 room[CMSG_SPACE(sizeof(int))];
    } control = {0};
    struct msghdr m = {.msg_iov = &iov, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    struct cmsghdr *h = CMSG_FIRSTHDR(&m);
    h->cmsg_level = SOL_SOCKET;
    h->cmsg_type = SCM_RIGHTS;
    h->cmsg_len = CMSG_LEN(sizeof(c->pass));
    memcpy(CMSG_DATA(h), &c->pass, sizeof(c->pass));
    ssize_t n = sendmsg(c->fd, &m, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n == 1)
        c->pass = -1;
    return n;
}

/* Some of the output, up to the byte with the descriptor or that byte. */
static ssize_t send_some(struct client *c)
{
    if (c->pass >= 0 && !c->pass_behind)
        return send_fd(c);
    size_t most = c->pass >= 0 ? c->pass_behind : client_backlog(c);
    ssize_t n = send(c->fd, c->out + c->out_at, most, MSG_NOSIGNAL | MSG_DONTWAIT);
    if (n > 0 && c->pass >= 0)
        c->pass_behind -= (size_t)n;
    return n;
}

int client_flush(struct client *c)
{
    while (client_backlog(c)) {
        ssize_t n = send_some(c);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        c->out_at += (size_t)n;
    }
    free(c->out); /* most connections never need it again */
    c->out = NULL;
    c->out_len = c->out_at = c->out_cap = 0;
    return 0;
}

bool client_wants_input(const struct client *c)
{
    return !c->eof && !c->closing && (c->in_len < IN_MAX || c->body_len < c->body_want);
}

/* Room for more of the input; doubles up to IN_MAX. */
static int grow(struct client *c)
{
    if (c->in_len < c->in_cap)
        return 0;
    size_t cap = c->in_cap ? MIN(2 * c->in_cap, (size_t)IN_MAX) : CLIENT_IN_FIRST;
    u8 *p = cap > c->in_cap ? realloc(c->in, cap) : NULL;
    if (!p)
        return -ENOMEM;
    c->in = p;
    c->in_cap = cap;
    return 0;
}

/* What came with the request line already belongs to the body. */
static void move_to_body(struct client *c)
{
    size_t n = MIN(c->in_len, c->body_want - c->body_len);
    memcpy(c->body + c->body_len, c->in, n);
    c->body_len += n;
    client_consume(c, n);
}

int client_begin_body(struct client *c, size_t len, int kind)
{
    c->body = malloc(len);
    if (!c->body)
        return -ENOMEM;
    c->body_want = len;
    c->body_len = 0;
    c->body_kind = kind;
    c->mode = CLIENT_BODY;
    move_to_body(c); /* all of it may be here: then nothing comes that would wake anybody */
    return 0;
}

int client_fill(struct client *c)
{
    bool body = c->body_len < c->body_want;
    if (!client_wants_input(c))
        return 0;
    if (!body && grow(c) < 0)
        return -ENOMEM;
    ssize_t n = body ? recv(c->fd, c->body + c->body_len, c->body_want - c->body_len, MSG_DONTWAIT)
                     : recv(c->fd, c->in + c->in_len, c->in_cap - c->in_len, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    c->eof = n == 0;
    *(body ? &c->body_len : &c->in_len) += (size_t)n;
    return 0;
}

s64 client_line(const struct client *c)
{
    const u8 *end = c->in_len ? memchr(c->in, '\n', c->in_len) : NULL;
    return end ? end - c->in : -1;
}

void client_consume(struct client *c, size_t len)
{
    c->in_len -= len;
    memmove(c->in, c->in + len, c->in_len);
}

int client_next_frame(const struct client *c, u8 *kind, const u8 **data, size_t *len)
{
    if (c->in_len < FRAME_HEAD)
        return 0;
    u16 n = get_le16(c->in + 2);
    if (c->in[1] || n > CONTROL_FRAME_MAX)
        return -EPROTO;
    if (c->in_len < FRAME_HEAD + n)
        return 0;
    *kind = c->in[0];
    *data = c->in + FRAME_HEAD;
    *len = n;
    return 1;
}
