/* Between the files of the channel: raw bytes (channel.c), sockets (channel_open.c), TLS (channel_tls.c). */
#ifndef TRAPEZE_MIGRATE_CHANNEL_INTERNAL_H
#define TRAPEZE_MIGRATE_CHANNEL_INTERNAL_H

#include "migrate/channel.h"

#define CHANNEL_READ_AHEAD (64u << 10) /* bytes */
#define NS_PER_MS          1000000ull

u64 channel_now(void);
/* A channel of a socket, which it takes, even if this fails. */
int channel_new(int fd, bool tcp, struct channel **c, struct error *e);

/*
 * Send to the socket, counting in *done what went, also before an error. Receive at least one byte and at most `most`.
 * Errors name the peer; c->failed is set where the kernel says that it is over.
 */
int channel_raw_send(struct channel *c, const u8 *p, size_t len, size_t *done, struct error *e);
int channel_raw_receive(struct channel *c, u8 *p, size_t most, size_t *got, struct error *e);
/* Read ahead, when all of that has been used. */
int channel_raw_fill(struct channel *c, struct error *e);

/* Bytes that may be on their way over a link of that rate (bytes a second) and round trip. Plain arithmetic. */
u32 channel_queue_bytes(u64 rate, u32 rtt_us);
/* Now and then, while it sends: keep the queue of the slowest link short. */
void channel_queue_bound(struct channel *c, u64 now);

/* The same through TLS. */
int channel_tls_send(struct channel *c, const u8 *p, size_t len, size_t *done, struct error *e);
int channel_tls_receive(struct channel *c, u8 *p, size_t most, size_t *got, struct error *e);
bool channel_tls_pending(const struct channel *c);
/* Load and look at the files of a directory, and no more. */
int channel_tls_check(const char *dir, struct error *e);
/* Begin TLS. `host`: whom the certificate must name; NULL on the side that accepted. */
int channel_tls_begin(struct channel *c, const char *dir, const char *host, struct error *e);
void channel_tls_end(struct channel *c);

#endif
