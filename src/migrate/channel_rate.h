/* How fast a channel may send, and how fast it is. Plain arithmetic: time is an argument, in nanoseconds of any clock. */
#ifndef TRAPEZE_MIGRATE_CHANNEL_RATE_H
#define TRAPEZE_MIGRATE_CHANNEL_RATE_H

#include "base/types.h"

/*
 * A bucket: `rate` bytes a second, and never more ahead of that than CHANNEL_BURST_NS, or 4096 bytes where that is more. It is kept as
 * the time up to which the bytes sent so far have paid (the virtual scheduling form of ITU-T I.371, Annex A).
 */
#define CHANNEL_BURST_NS 5000000ull

struct channel_bucket {
    u64 rate; /* bytes a second; 0: no limit */
    u64 paid; /* ns */
};

/* How many of `want` bytes may go now. 0: none before *wait nanoseconds have passed. What goes is to be told to bucket_spend. */
u64 bucket_allows(struct channel_bucket *b, u64 now, u64 want, u64 *wait);
void bucket_spend(struct channel_bucket *b, u64 now, u64 bytes);

#define METER_SLOTS     32u
#define METER_STEP_NS   10000000ull  /* between two entries */
#define METER_WINDOW_NS 200000000ull /* that is looked at */

/* A counter's past: what it was at which time. Zero-initialise. */
struct channel_meter {
    struct {
        u64 at, bytes;
    } slot[METER_SLOTS];
    u32 n; /* ever written */
};

/* Whether it is time for another entry. */
bool meter_due(const struct channel_meter *m, u64 now);
void meter_note(struct channel_meter *m, u64 now, u64 bytes);
/* Bytes a second over the window that ends now, the counter being `bytes`; 0 while nothing can be said. */
u64 meter_rate(const struct channel_meter *m, u64 now, u64 bytes);

#endif
