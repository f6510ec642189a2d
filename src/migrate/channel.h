/*
 * The channel: bytes between `trapeze migrate` and `trapeze receive`, over a unix socket, TCP, or TLS. docs/migration-channel.md says
 * who may connect to whom.
 *
 *     migrate   channel_connect ──────────────────────────────┐
 *     receive   channel_listen, channel_accept, [fork], channel_handshake ── channel_send, channel_receive .. channel_close
 *
 * What must stay true
 *  1. Nothing waits for ever: each wait ends when the peer is silent for silence_ms, when the time set by channel_until is over,
 *     or when the cancel descriptor becomes readable.
 *  2. A channel to somewhere else than this host is encrypted and both sides know each other, or both sides were told --insecure.
 *  3. What the peer sends is bytes to whoever calls this; a channel reads no more of them than was asked for, and 64 KiB.
 *  4. An error says which peer and what to do. After an error other than -ECANCELED or -ETIMEDOUT before the first byte, a channel is
 *     only good for channel_close: whatever is asked of it fails again.
 *
 * The side that connects speaks first: the other one could not tell a TLS peer from one that is waiting.
 * A channel belongs to one thread at a time. SIGPIPE is never raised; all descriptors are close-on-exec.
 */
#ifndef TRAPEZE_MIGRATE_CHANNEL_H
#define TRAPEZE_MIGRATE_CHANNEL_H

#include "migrate/address.h"
#include "migrate/channel_rate.h"

#define CHANNEL_SILENCE_MS 10000        /* default of silence_ms */
#define CHANNEL_LINK_MS    5000         /* default of channel_link_timeout */
#define CHANNEL_BUFFER     (256u << 10) /* bytes that wait to be sent, at most */
#define CHANNEL_PEER_MAX   160u

struct channel_security {
    const char *tls_dir; /* with ca.pem, cert.pem and key.pem; NULL: no TLS */
    bool insecure;       /* plain text to another host is allowed */
};

struct channel_tls;

struct channel {
    /* may be set by the caller */
    int silence_ms; /* how long nothing may move in a call; 0: as long as it likes */
    int cancel; /* a descriptor that becomes readable to end all waiting (an eventfd, a pidfd); -1: none; borrowed */
    /* may be read */
    u64 sent, received; /* bytes given to and taken from the kernel, TLS included */
    bool encrypted;
    char peer[CHANNEL_PEER_MAX]; /* who it is, for messages */
    /* the channel's */
    int fd;
    bool tcp;
    int failed; /* the errno that ended it */
    u64 until;  /* ns of the monotonic clock; 0: none */
    struct channel_bucket bucket;
    struct channel_meter meter;
    u64 queue_looked;       /* ns: when the kernel was asked what the link does */
    u32 queue_bound;        /* bytes that may be on their way; 0: as the kernel likes */
    u8 *out, *in;           /* what waits to be sent, what was read ahead */
    size_t out_at, out_len; /* [at, len) */
    size_t in_at, in_len;
    char *tls_dir; /* of an accepted connection, until the handshake */
    struct channel_tls *tls;
};

struct channel_listener {
    int fd;                         /* readable when somebody is there */
    struct channel_address address; /* with the port that was taken */
    bool here;                      /* only this host can connect */
    int dir;                        /* of a unix socket, to remove it: its directory, */
    u64 ino, dev;                   /* and which file it is */
};

/*
 * Whether a listener may serve under `s` at all, and its certificate and key can be used: for a `receive` to say so when it starts.
 * 0; -EPERM: it needs --tls or --insecure; else what is wrong with the files.
 */
int channel_listener_check(const struct channel_listener *l, const struct channel_security *s, struct error *e);
/* Listen. A unix socket is for this user alone (mode 0600), and one that nobody serves any more is replaced. */
int channel_listen(const struct channel_address *a, struct channel_listener *l, struct error *e);
/* Stop; a unix socket is removed. A child that has inherited the listener calls channel_listener_drop, which leaves it alone. */
void channel_listener_close(struct channel_listener *l);
void channel_listener_drop(struct channel_listener *l);

/*
 * Take a connection that comes within `deadline_ms` (0: that is there). -EAGAIN: none. It waits for nothing that the peer does:
 * whoever serves the connection calls channel_handshake first, and it is an error not to. `s` may be gone by then.
 */
int channel_accept(struct channel_listener *l, const struct channel_security *s, int deadline_ms, struct channel **c,
                   struct error *e);
/* TLS, where it was asked for. The peer is who our CA says it is when this returns 0. `deadline_ms` for all of it. */
int channel_handshake(struct channel *c, int deadline_ms, struct error *e);

/*
 * Connect and shake hands within `deadline_ms` (a name server's own time-out comes on top). -EPERM: refused by the rule, before a
 * byte was sent. `cancel` as in struct channel, and kept there.
 */
int channel_connect_cancel(const struct channel_address *a, const struct channel_security *s, int deadline_ms,
                           int cancel, struct channel **c, struct error *e);
int channel_connect(const struct channel_address *a, const struct channel_security *s, int deadline_ms,
                    struct channel **c, struct error *e);

/* Make a plain channel of a connected stream socket, which is the channel's from now on, even if this fails. */
int channel_adopt(int fd, const char *peer, struct channel **c, struct error *e);

/* Close at once: what was not flushed is lost. Does nothing for NULL. */
void channel_close(struct channel *c);
/*
 * Flush, tell the peer that there will be no more, and wait up to `deadline_ms` until it has closed, dropping what it still sends; then
 * close. So that a last word (a refusal) arrives at a peer that is in the middle of sending: a plain close could take it back.
 */
void channel_close_after(struct channel *c, int deadline_ms);

/*
 * Send all of it. It may wait in the buffer: whoever waits for an answer calls channel_flush, or channel_receive, which does.
 * Receive exactly so many bytes. 0, or -ETIMEDOUT, -ECANCELED, -EPIPE (the peer ended it), -ECONNRESET, or another -errno.
 */
int channel_send(struct channel *c, const void *data, size_t len, struct error *e);
int channel_flush(struct channel *c, struct error *e);
int channel_receive(struct channel *c, void *data, size_t len, struct error *e);
/*
 * Whether something is there to be received (the peer's end included), waiting for it up to `timeout_ms` (0: a look). Flushes
 * first. Over TLS a part of a record counts: receiving may still wait for the rest. 1, 0, or -errno without a message: the next call
 * that has one will say it.
 */
int channel_readable(struct channel *c, int timeout_ms);

/* From now on every call fails with -ETIMEDOUT when `ms` are over, whatever moves; 0: no more. */
void channel_until(struct channel *c, int ms);
/* How long what was sent may stay without an acknowledgement before the link counts as dead (TCP alone). */
void channel_link_timeout(struct channel *c, int ms);
/* Send no more than that many bytes a second; 0: no limit. */
void channel_limit(struct channel *c, u64 bytes_per_second);
/* Bytes that the kernel holds because the peer has not acknowledged them (TCP; else 0). */
u64 channel_backlog(const struct channel *c);
/* Bytes a second that reached the peer in the last 200 ms. */
u64 channel_bandwidth(const struct channel *c);

#endif
