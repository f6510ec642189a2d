/*
 * Messages: what both sides of a migration say to each other, over a channel. Each is a record (base/record.h): type, version,
 * length, checksum, and a payload that is JSON (an object) or bytes.
 *
 * What must stay true
 *  1. The reader believes nothing: type, version, length and checksum are looked at, and JSON is parsed, before the caller sees
 *     anything; no more than the longest message that is expected is ever read or allocated.
 *  2. A type that is not expected at this point is refused by its name.
 */
#ifndef TRAPEZE_MIGRATE_MESSAGE_H
#define TRAPEZE_MIGRATE_MESSAGE_H

#include "base/record.h"
#include "migrate/channel.h"

#include <jansson.h>

#define MESSAGE_JSON_MAX  (1u << 20)  /* bytes of a message in JSON */
#define MESSAGE_BYTES_MAX (64u << 20) /* bytes of any */

/* A kind of message that may come now: a row of a table that the protocol has for each of its states. */
struct message_kind {
    char type[5]; /* four letters */
    bool json;    /* its payload is an object; else bytes */
    u32 most;     /* bytes of payload; for JSON 0 means MESSAGE_JSON_MAX */
};

struct message {
    u32 kind; /* which row it was */
    json_t *json;
    u8 *data; /* its bytes; for JSON its text */
    u32 len;
    /* the message's */
    size_t cap;
};

/* Zero-initialise; it may be used for one message after the other and keeps its room. */
void message_free(struct message *m);

/* A part of a payload. */
struct message_part {
    const void *data;
    size_t len;
};

/* Each returns 0 or -errno with `e`, as channel_send; -EMSGSIZE: the payload is too long. They may wait in the channel's buffer. */
int message_send_json(struct channel *c, const char *type, const json_t *object, struct error *e);
int message_send(struct channel *c, const char *type, const void *payload, size_t len, struct error *e);
/* One message from several places. */
int message_send_parts(struct channel *c, const char *type, const struct message_part *parts, unsigned n,
                       struct error *e);

/*
 * The next message, which must be one of kinds[0..n). 0, or what channel_receive returned, or -EBADMSG (damaged, or it can not be),
 * -EPROTO (another type), -EPROTONOSUPPORT (a later version): the connection is of no use any more then.
 */
int message_receive(struct channel *c, const struct message_kind *kinds, unsigned n, struct message *m,
                    struct error *e);

#endif
