/*
 * Bytes of a channel.
 *
 *   channel_send ──copy──> out (256 KiB) ──[tls]──> raw_send ── bucket ── send(2)
 *   channel_receive <── [tls] <── in (64 KiB) <── raw_receive ── recv(2)         (large plain reads pass `in` by)
 *
 * Theory: waiting. The socket is read and written without blocking; all waiting is in wait_for, which looks at the socket and the cancel
 * descriptor together, for no longer than the peer may be silent and the caller's time lasts. A peer that sends a byte now and
 * then is not silent: whoever wants a bound on a whole step sets channel_until.
 *
 * Theory: a dead link. A peer whose host has vanished is told from one that has nothing to say by the kernel: what was sent and not
 * acknowledged ends the connection after TCP_USER_TIMEOUT; keepalive probes make sure that there is something to
 * acknowledge. A peer that is stopped, or does not read, acknowledges but takes nothing; the kernel ends that, too, by the same
 * clock, when there is something to be sent.
 *
 * Theory: how much is under way. The kernel would take megabytes before it lets us wait; what is said last then waits behind
 * them, which a migration pays for in downtime. TCP_NOTSENT_LOWAT bounds what is not even sent.
 *
 * What is on its way is bounded, too (channel_queue.c).
 *
 * Theory: rate and bandwidth are those of the socket, so TLS is counted in; headers of TCP and IP are not.
 */
#include "migrate/channel_internal.h"

#include <errno.h>
#include <netinet/in.h>
#include <netinet/tcp.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <time.h>
#include <unistd.h>

#define NOT_SENT_MAX (128u << 10) /* bytes in the kernel that are not on their way */
#define TLS_ALERT    0x15
#define TLS_HELLO    0x16

u64 channel_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (u64)t.tv_sec * 1000000000u + (u64)t.tv_nsec;
}

/* --- waiting --- */

static struct timespec span(u64 ns)
{
    return (struct timespec){.tv_sec = (time_t)(ns / 1000000000u), .tv_nsec = (long)(ns % 1000000000u)};
}

static int cancelled(const struct channel *c, struct error *e)
{
    return error_set(e, ECANCELED, "%s: cancelled", c->peer);
}

static int too_late(const struct channel *c, struct error *e)
{
    return error_set(e, ETIMEDOUT, "%s: did not do its part in the time that it had", c->peer);
}

/*
 * Sleep until one of `events` is there, `ns` are over, or it is cancelled. `events` 0: only the latter two. 1: they are there, 0:
 * time is over, -ECANCELED.
 */
static int sleep_for(const struct channel *c, short events, u64 ns)
{
    u64 end = channel_now() + ns;
    for (;;) {
        struct pollfd fds[] = {{.fd = c->cancel, .events = POLLIN}, {.fd = events ? c->fd : -1, .events = events}};
        u64 now = channel_now();
        struct timespec left = span(end > now ? end - now : 0);
        int n = ppoll(fds, 2, &left, NULL);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        if (fds[0].revents)
            return -ECANCELED;
        if (n || end <= now)
            return n ? 1 : 0;
    }
}

/* Wait for the socket. 0, or -ETIMEDOUT or -ECANCELED. */
static int wait_for(const struct channel *c, short events, struct error *e)
{
    u64 now = channel_now();
    u64 silence = c->silence_ms > 0 ? (u64)c->silence_ms * NS_PER_MS : UINT64_MAX / 4;
    u64 left = !c->until ? UINT64_MAX / 4 : c->until > now ? c->until - now : 0;
    int r = sleep_for(c, events, MIN(silence, left));
    if (r > 0)
        return 0;
    if (r == -ECANCELED)
        return cancelled(c, e);
    if (r < 0)
        return error_set(e, -r, "%s: poll: %s", c->peer, strerror(-r));
    if (left < silence)
        return too_late(c, e);
    return error_set(e, ETIMEDOUT, "%s: %s for %d.%d s: given up", c->peer,
                     events == POLLOUT ? "has taken nothing" : "has been silent", c->silence_ms / 1000,
                     c->silence_ms / 100 % 10);
}

/* What holds before each look at the socket, for one that is always ready would else never be left. */
static int may_go_on(const struct channel *c, struct error *e)
{
    struct pollfd p = {.fd = c->cancel, .events = POLLIN};
    if (c->cancel >= 0 && poll(&p, 1, 0) > 0)
        return cancelled(c, e);
    return c->until && channel_now() >= c->until ? too_late(c, e) : 0;
}

/* --- the socket --- */

/* The kernel says that there is no connection any more: for good, whatever was asked. */
static int lost(struct channel *c, int code, struct error *e)
{
    c->failed = code;
    switch (code) {
    case EPIPE:
        return error_set(e, EPIPE, "%s: has ended the connection", c->peer);
    case ECONNRESET:
        return error_set(e, ECONNRESET, "%s: the connection was reset: it was killed, or something between cut it",
                         c->peer);
    case ETIMEDOUT:
        return error_set(e, ETIMEDOUT, "%s: the link is dead: what was sent is not acknowledged", c->peer);
    default:
        return error_set(e, code, "%s: %s", c->peer, strerror(code));
    }
}

static int speaks_tls(const struct channel *c, struct error *e)
{
    return error_set(e, EPROTO, "%s: speaks TLS, and this side was not started with --tls DIR", c->peer);
}

static bool is_tls(u8 first)
{
    return first == TLS_ALERT || first == TLS_HELLO;
}

/* Sending failed: the peer may have said why before it closed. */
static int send_lost(struct channel *c, int code, struct error *e)
{
    u8 first;
    if (!c->tls && !c->received && recv(c->fd, &first, 1, MSG_PEEK | MSG_DONTWAIT) == 1 && is_tls(first))
        return speaks_tls(c, e);
    return lost(c, code, e);
}

/* Bytes that reached the peer, as far as the kernel tells. */
static u64 arrived(const struct channel *c)
{
    u64 held = channel_backlog(c);
    return c->sent > held ? c->sent - held : 0;
}

static void account(struct channel *c, u64 now, size_t n)
{
    bucket_spend(&c->bucket, now, n);
    c->sent += n;
    if (meter_due(&c->meter, now))
        meter_note(&c->meter, now, arrived(c));
}

int channel_raw_send(struct channel *c, const u8 *p, size_t len, size_t *done, struct error *e)
{
    *done = 0;
    while (*done < len) {
        u64 wait, now = channel_now(), left = c->until > now ? c->until - now : 0;
        int r = may_go_on(c, e);
        if (r < 0)
            return r;
        size_t n = (size_t)bucket_allows(&c->bucket, now, len - *done, &wait);
        if (!n) {
            if (sleep_for(c, 0, c->until ? MIN(wait, left) : wait) < 0)
                return cancelled(c, e);
            continue;
        }
        ssize_t sent = send(c->fd, p + *done, n, MSG_NOSIGNAL | MSG_DONTWAIT);
        if (sent > 0) {
            *done += (size_t)sent;
            account(c, now, (size_t)sent);
            channel_queue_bound(c, now);
        } else if (errno == EAGAIN || errno == EWOULDBLOCK) {
            if ((r = wait_for(c, POLLOUT, e)) < 0)
                return r;
        } else if (errno != EINTR) {
            return send_lost(c, errno, e);
        }
    }
    return 0;
}

int channel_raw_receive(struct channel *c, u8 *p, size_t most, size_t *got, struct error *e)
{
    *got = 0;
    int r = may_go_on(c, e);
    while (r == 0) {
        ssize_t n = recv(c->fd, p, most, MSG_DONTWAIT);
        if (n > 0) {
            c->received += (u64)n;
            *got = (size_t)n;
            return 0;
        }
        if (n == 0)
            return lost(c, EPIPE, e);
        if (errno == EAGAIN || errno == EWOULDBLOCK)
            r = wait_for(c, POLLIN, e);
        else if (errno != EINTR)
            return lost(c, errno, e);
    }
    return r;
}

int channel_raw_fill(struct channel *c, struct error *e)
{
    size_t got;
    int r = channel_raw_receive(c, c->in, CHANNEL_READ_AHEAD, &got, e);
    c->in_at = 0;
    c->in_len = got;
    return r;
}

/* --- bytes --- */

/* What has failed for good is not tried again. */
static int broken(const struct channel *c, struct error *e)
{
    if (c->tls_dir)
        return error_set(e, ENOTCONN, "%s: used before its TLS handshake", c->peer);
    if (!c->failed)
        return 0;
    return error_set(e, c->failed, "%s: the connection was given up: %s", c->peer, strerror(c->failed));
}

/* An error after which nobody knows what was moved; or one that may be got over. */
static int fail(struct channel *c, int r, bool between)
{
    if (r < 0 && !(between && (r == -ECANCELED || r == -ETIMEDOUT)))
        c->failed = -r;
    return r;
}

static int drain(struct channel *c, struct error *e)
{
    size_t done;
    int r = c->tls ? channel_tls_send(c, c->out + c->out_at, c->out_len - c->out_at, &done, e)
                   : channel_raw_send(c, c->out + c->out_at, c->out_len - c->out_at, &done, e);
    c->out_at += done;
    if (r == 0)
        c->out_at = c->out_len = 0;
    return r;
}

int channel_flush(struct channel *c, struct error *e)
{
    int r = broken(c, e);
    return r < 0 ? r : fail(c, drain(c, e), true);
}

int channel_send(struct channel *c, const void *data, size_t len, struct error *e)
{
    const u8 *p = data;
    int r = broken(c, e);
    while (r == 0 && len) {
        size_t n = MIN(len, CHANNEL_BUFFER - c->out_len);
        memcpy(c->out + c->out_len, p, n);
        c->out_len += n;
        p += n;
        len -= n;
        if (c->out_len == CHANNEL_BUFFER)
            r = fail(c, drain(c, e), false);
    }
    return r;
}

/* Some bytes, without TLS. */
static int plain_receive(struct channel *c, u8 *p, size_t most, size_t *got, struct error *e)
{
    bool first = !c->received;
    int r = 0;
    if (c->in_at == c->in_len && most >= CHANNEL_READ_AHEAD && !first)
        return channel_raw_receive(c, p, most, got, e);
    if (c->in_at == c->in_len)
        r = channel_raw_fill(c, e);
    *got = r == 0 ? MIN(most, c->in_len - c->in_at) : 0;
    if (r == 0 && first && is_tls(c->in[0])) {
        *got = 0;
        return speaks_tls(c, e);
    }
    memcpy(p, c->in + c->in_at, *got);
    c->in_at += *got;
    return r;
}

int channel_receive(struct channel *c, void *data, size_t len, struct error *e)
{
    u8 *p = data;
    bool begun = false;
    int r = broken(c, e);
    if (r == 0 && len)
        r = fail(c, drain(c, e), true);
    while (r == 0 && len) {
        size_t got = 0;
        r = fail(c, (c->tls ? channel_tls_receive : plain_receive)(c, p, len, &got, e), !begun);
        begun |= got > 0;
        p += got;
        len -= got;
    }
    return r;
}

int channel_readable(struct channel *c, int timeout_ms)
{
    int r = broken(c, NULL);
    if (r == 0)
        r = fail(c, drain(c, NULL), true);
    if (r < 0)
        return r;
    if (c->in_at < c->in_len || (c->tls && channel_tls_pending(c)))
        return 1;
    return sleep_for(c, POLLIN, (u64)MAX(timeout_ms, 0) * NS_PER_MS);
}

/* --- making, setting, closing --- */

void channel_until(struct channel *c, int ms)
{
    c->until = ms > 0 ? channel_now() + (u64)ms * NS_PER_MS : 0;
}

void channel_link_timeout(struct channel *c, int ms)
{
    unsigned user = (unsigned)MAX(ms, 1);
    int idle = MAX(ms / 3000, 1), probes = MAX(ms / 1000 - idle, 1), one = 1;
    if (!c->tcp)
        return;
    /* each is a matter of how soon, not of whether: one that the kernel refuses is done without */
    setsockopt(c->fd, IPPROTO_TCP, TCP_USER_TIMEOUT, &user, sizeof(user));
    setsockopt(c->fd, SOL_SOCKET, SO_KEEPALIVE, &one, sizeof(one));
    setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPIDLE, &idle, sizeof(idle));
    setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPINTVL, &one, sizeof(one));
    setsockopt(c->fd, IPPROTO_TCP, TCP_KEEPCNT, &probes, sizeof(probes));
}

void channel_limit(struct channel *c, u64 bytes_per_second)
{
    c->bucket = (struct channel_bucket){.rate = bytes_per_second};
}

u64 channel_backlog(const struct channel *c)
{
    int held = 0;
    return c->tcp && ioctl(c->fd, TIOCOUTQ, &held) == 0 && held > 0 ? (u64)held : 0;
}

u64 channel_bandwidth(const struct channel *c)
{
    return meter_rate(&c->meter, channel_now(), arrived(c));
}

int channel_new(int fd, bool tcp, struct channel **out, struct error *e)
{
    struct channel *c = calloc(1, sizeof(*c));
    int one = 1, lowat = NOT_SENT_MAX;
    if (c) {
        *c = (struct channel){.silence_ms = CHANNEL_SILENCE_MS, .cancel = -1, .fd = fd, .tcp = tcp};
        c->out = malloc(CHANNEL_BUFFER);
        c->in = malloc(CHANNEL_READ_AHEAD);
    }
    if (!c || !c->out || !c->in) {
        if (c)
            channel_close(c);
        else
            close(fd);
        return error_set(e, ENOMEM, "connection: out of memory");
    }
    if (tcp) {
        setsockopt(fd, IPPROTO_TCP, TCP_NODELAY, &one, sizeof(one));
        setsockopt(fd, IPPROTO_TCP, TCP_NOTSENT_LOWAT, &lowat, sizeof(lowat));
        channel_link_timeout(c, CHANNEL_LINK_MS);
    }
    *out = c;
    return 0;
}

int channel_adopt(int fd, const char *peer, struct channel **c, struct error *e)
{
    int domain = 0;
    socklen_t len = sizeof(domain);
    if (getsockopt(fd, SOL_SOCKET, SO_DOMAIN, &domain, &len) < 0) {
        close(fd);
        return error_set(e, ENOTSOCK, "%s: is no socket", peer);
    }
    int r = channel_new(fd, domain == AF_INET || domain == AF_INET6, c, e);
    if (r == 0)
        snprintf((*c)->peer, sizeof((*c)->peer), "%s", peer);
    return r;
}

void channel_close(struct channel *c)
{
    if (!c)
        return;
    channel_tls_end(c);
    close(c->fd);
    free(c->tls_dir);
    free(c->out);
    free(c->in);
    free(c);
}

void channel_close_after(struct channel *c, int deadline_ms)
{
    size_t got;
    if (!c)
        return;
    channel_until(c, MAX(deadline_ms, 1));
    if (channel_flush(c, NULL) == 0 && shutdown(c->fd, SHUT_WR) == 0)
        while (channel_raw_receive(c, c->in, CHANNEL_READ_AHEAD, &got, NULL) == 0)
            ;
    channel_close(c);
}
