/* The messages of a handover (docs/migration.md) on a channel: JSON in records. Nothing that a peer says is believed. */
#ifndef TRAPEZE_VM_HANDOVER_WIRE_H
#define TRAPEZE_VM_HANDOVER_WIRE_H

#include "migrate/channel.h"
#include "vm/handover_file.h"

#include <jansson.h>

#define WIRE_VERSION 1
#define WIRE_DISKS   "with_disks" /* of HELO: the disks that go along; of OKAY: how many of them are taken */
#define WIRE_PAGING  "postcopy"   /* of HELO: pages may be named instead of sent; of OKAY: that is understood */
#define WIRE_LACKS   "lacks"      /* of RUNS: it has not got all its pages yet */

/* X-macro: message, its type on the wire */
#define WIRE_MESSAGES(X)   \
    X(WIRE_HELLO, "HELO")  \
    X(WIRE_ACCEPT, "OKAY") \
    X(WIRE_REFUSE, "NOPE") \
    X(WIRE_ROUND, "ROUN")  \
    X(WIRE_READY, "REDY")  \
    X(WIRE_COMMIT, "COMT") \
    X(WIRE_ABORT, "ABRT")  \
    X(WIRE_RUNS, "RUNS")   \
    X(WIRE_NEVER, "NEVR")  \
    X(WIRE_DONE, "DONE")   \
    X(WIRE_SERVES, "SERV") \
    X(WIRE_GONE, "GONE")   \
    X(WIRE_FRAMES, "FRAM") /* bytes, not JSON */

enum wire_message {
#define X(id, type) id,
    WIRE_MESSAGES(X)
#undef X
        WIRE_COUNT
};

#define WIRE(m) (1u << (m))

/* Send one, at once. Takes the reference of `body`; NULL is -ENOMEM. 0 or -errno. */
int wire_send(struct channel *c, enum wire_message m, json_t *body, struct error *e);
/* Receive one of the set `which`: which, with its body (the caller's), or -errno; -EPROTO for any other. */
int wire_receive(struct channel *c, unsigned which, json_t **body, struct error *e);
/* The same, of which WIRE_FRAMES may be one: *data, its bytes, are the caller's then. */
int wire_receive_bytes(struct channel *c, unsigned which, json_t **body, u8 **data, size_t *len, struct error *e);
/* Send frames (base/net.h), at once. 0 or -errno. */
int wire_send_frames(struct channel *c, const u8 *data, size_t len, struct error *e);
/* {"id": .., "host": ..}; `host` may be NULL. */
json_t *wire_id(const char *id, const char *host);
/* Whether a body, of RUNS, says that pages are lacking. */
bool wire_lacks(const json_t *body);
/* Whether a body has that id. */
bool wire_is_of(const json_t *body, const char *id);

#endif
