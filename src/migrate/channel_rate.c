#include "migrate/channel_rate.h"

#define NS_PER_S  1000000000ull
#define BURST_MIN 4096u

/* Nanoseconds that so many bytes take, rounded up. */
static u64 cost(u64 rate, u64 bytes)
{
    return (u64)(((unsigned __int128)bytes * NS_PER_S + rate - 1) / rate);
}

u64 bucket_allows(struct channel_bucket *b, u64 now, u64 want, u64 *wait)
{
    *wait = 0;
    if (!b->rate)
        return want;
    u64 depth = MAX(CHANNEL_BURST_NS, cost(b->rate, BURST_MIN));
    u64 ahead = b->paid > now ? b->paid - now : 0;
    u64 room = ahead < depth ? (u64)((unsigned __int128)(depth - ahead) * b->rate / NS_PER_S) : 0;
    /* a quarter of the burst at a time, else a full bucket would be emptied a byte at a time */
    u64 least = MIN(want, MAX((u64)((unsigned __int128)depth * b->rate / NS_PER_S / 4), 1u));
    if (room >= least)
        return MIN(want, room);
    *wait = ahead + cost(b->rate, least) - depth + 1;
    return 0;
}

void bucket_spend(struct channel_bucket *b, u64 now, u64 bytes)
{
    if (!b->rate)
        return;
    if (b->paid < now)
        b->paid = now;
    b->paid += cost(b->rate, bytes);
}

bool meter_due(const struct channel_meter *m, u64 now)
{
    return !m->n || now - m->slot[(m->n - 1) % METER_SLOTS].at >= METER_STEP_NS;
}

void meter_note(struct channel_meter *m, u64 now, u64 bytes)
{
    m->slot[m->n % METER_SLOTS].at = now;
    m->slot[m->n % METER_SLOTS].bytes = bytes;
    m->n++;
}

u64 meter_rate(const struct channel_meter *m, u64 now, u64 bytes)
{
    u32 kept = MIN(m->n, METER_SLOTS);
    u64 from = now, was = bytes;
    /* back to the first entry that is as old as the window, or the oldest there is */
    for (u32 i = 1; i <= kept && now - from < METER_WINDOW_NS; i++) {
        from = m->slot[(m->n - i) % METER_SLOTS].at;
        was = m->slot[(m->n - i) % METER_SLOTS].bytes;
    }
    u64 ns = now - from;
    if (ns < METER_STEP_NS || bytes < was)
        return 0;
    return (u64)((unsigned __int128)(bytes - was) * NS_PER_S / ns);
}
