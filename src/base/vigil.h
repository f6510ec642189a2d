/*
 * Vigils: looking on for a while before going to sleep.
 *
 * To wake somebody whose processor has gone idle takes some 50 us where the host is itself a guest, as most are; a disk's
 * request is handed on four times, and a good disk needs 80 us for it. So who waits for what is likely to come soon looks for
 * it first, VIGIL_NS at most. Whether that is likely is learnt from how long the last waits were, as KVM learns it for idle CPUs
 * (halt_poll_ns): a wait that a vigil covers, or would have, speaks for it; one that took longer halves what speaks for it, so
 * a slow disk has none. Between two looks others may run: a busy host loses the turns of those who wait, not more.
 */
#ifndef TRAPEZE_BASE_VIGIL_H
#define TRAPEZE_BASE_VIGIL_H

#include "base/types.h"

#define VIGIL_NS          500000u
#define VIGIL_CREDIT_MOST 8u

/* Zeroed: none is kept at first. */
struct vigil {
    u64 since;  /* host ns: when the wait began */
    u32 credit; /* what speaks for the next one */
};

static inline void vigil_begin(struct vigil *v, u64 now)
{
    v->since = now;
}

/* When the vigil ends; in the past: there is none. */
static inline u64 vigil_limit(const struct vigil *v)
{
    return v->credit ? v->since + VIGIL_NS : 0;
}

/* What was waited for has come. */
static inline void vigil_end(struct vigil *v, u64 now)
{
    v->credit = now - v->since <= VIGIL_NS ? MIN(v->credit + 1, VIGIL_CREDIT_MOST) : v->credit / 2;
}

#endif
