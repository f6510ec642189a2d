#include "agent/agent.h"
#include "base/bytes.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define TEXT_MAX 400u

static void put_head(u8 *h, u8 kind, size_t len)
{
    put_le32(h, kind);
    put_le32(h + 4, (u32)len);
}

/* Whether the eight bytes can begin a frame. */
static bool head_good(const u8 *h)
{
    return !h[1] && !h[2] && !h[3] && get_le32(h + 4) <= AGENT_FRAME_MAX;
}

static int wait_for(int fd, short events)
{
    struct pollfd p = {.fd = fd, .events = events};
    return poll(&p, 1, -1) < 0 && errno != EINTR ? -errno : 0;
}

static int send_all(int fd, const u8 *p, size_t len)
{
    while (len) {
        ssize_t n = send(fd, p, len, MSG_NOSIGNAL);
        int r = n < 0 ? -errno : 0;
        if (r == -EAGAIN)
            r = wait_for(fd, POLLOUT);
        if (r < 0 && r != -EINTR)
            return r;
        p += MAX(n, 0);
        len -= (size_t)MAX(n, 0);
    }
    return 0;
}

int agent_send(int fd, u8 kind, const void *data, size_t len)
{
    u8 h[AGENT_FRAME_HEAD];
    put_head(h, kind, len);
    int r = len <= AGENT_FRAME_MAX ? send_all(fd, h, sizeof(h)) : -EMSGSIZE;
    return r < 0 ? r : send_all(fd, data, len);
}

int agent_send_error(int fd, const struct error *e)
{
    u8 b[4 + sizeof(e->msg)];
    size_t len = strnlen(e->msg, sizeof(e->msg));
    put_le32(b, (u32)e->code);
    memcpy(b + 4, e->msg, len);
    return agent_send(fd, AGENT_FAILED, b, 4 + len);
}

/* 1, 0 at the end before the first byte, -errno. */
static int receive_all(int fd, u8 *p, size_t len)
{
    size_t got = 0;
    while (got < len) {
        ssize_t n = recv(fd, p + got, len - got, 0);
        if (n == 0)
            return got ? -EPROTO : 0;
        int r = n < 0 ? -errno : 0;
        if (r == -EAGAIN)
            r = wait_for(fd, POLLIN);
        if (r < 0 && r != -EINTR)
            return r;
        got += (size_t)MAX(n, 0);
    }
    return 1;
}

int agent_receive(int fd, struct agent_frame *f)
{
    u8 h[AGENT_FRAME_HEAD];
    int r = receive_all(fd, h, sizeof(h));
    if (r <= 0)
        return r;
    if (!head_good(h))
        return -EPROTO;
    f->kind = h[0];
    f->len = get_le32(h + 4);
    r = f->len ? receive_all(fd, f->data, f->len) : 1;
    f->data[f->len] = 0;
    return r == 0 ? -EPROTO : r;
}

void agent_clean_text(char *s)
{
    for (; *s; s++)
        if (*s < ' ' || *s > '~')
            *s = '?';
}

int agent_failure(const struct agent_frame *f, struct error *e)
{
    char text[TEXT_MAX];
    u32 code = f->len >= 4 ? get_le32(f->data) : 0;
    size_t len = f->len >= 4 ? MIN(f->len - 4, TEXT_MAX - 1) : 0;
    memcpy(text, f->data + 4, len);
    text[len] = 0;
    agent_clean_text(text);
    return error_set(e, code && code < 4096 ? (int)code : EPROTO, "%s", len ? text : "the agent failed without a word");
}

/* --- channels --- */

int agent_channel_fill(struct agent_channel *c)
{
    if (c->eof || c->in_len == sizeof(c->in))
        return 0;
    ssize_t n = recv(c->fd, c->in + c->in_len, sizeof(c->in) - c->in_len, MSG_DONTWAIT);
    if (n < 0)
        return errno == EAGAIN || errno == EINTR ? 0 : -errno;
    c->eof = n == 0;
    c->in_len += (size_t)n;
    return 0;
}

int agent_channel_next(struct agent_channel *c, struct agent_frame *f)
{
    if (c->in_len < AGENT_FRAME_HEAD)
        return 0;
    if (!head_good(c->in))
        return -EPROTO;
    u32 len = get_le32(c->in + 4);
    if (c->in_len < AGENT_FRAME_HEAD + len)
        return 0;
    f->kind = c->in[0];
    f->len = len;
    memcpy(f->data, c->in + AGENT_FRAME_HEAD, len);
    f->data[len] = 0;
    c->in_len -= AGENT_FRAME_HEAD + len;
    memmove(c->in, c->in + AGENT_FRAME_HEAD + len, c->in_len);
    return 1;
}

size_t agent_channel_backlog(const struct agent_channel *c)
{
    return c->out_len - c->out_at;
}

int agent_channel_put(struct agent_channel *c, u8 kind, const void *data, size_t len)
{
    size_t want = agent_channel_backlog(c) + AGENT_FRAME_HEAD + len;
    if (c->out_at) {
        memmove(c->out, c->out + c->out_at, agent_channel_backlog(c));
        c->out_len -= c->out_at;
        c->out_at = 0;
    }
    if (want > c->out_cap) {
        u8 *p = realloc(c->out, 2 * want);
        if (!p)
            return -ENOMEM;
        c->out = p;
        c->out_cap = 2 * want;
    }
    put_head(c->out + c->out_len, kind, len);
    if (len)
        memcpy(c->out + c->out_len + AGENT_FRAME_HEAD, data, len);
    c->out_len += AGENT_FRAME_HEAD + len;
    return 0;
}

int agent_channel_flush(struct agent_channel *c)
{
    while (agent_channel_backlog(c)) {
        ssize_t n = send(c->fd, c->out + c->out_at, agent_channel_backlog(c), MSG_NOSIGNAL | MSG_DONTWAIT);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return errno == EAGAIN ? 0 : -errno;
        c->out_at += (size_t)n;
    }
    c->out_at = c->out_len = 0;
    return 0;
}

void agent_channel_free(struct agent_channel *c)
{
    free(c->out);
    c->out = NULL;
    c->out_len = c->out_at = c->out_cap = 0;
}
