/*
 * Vigils: looking on for a while before going to sleep.
 *
 * To wake somebody whose processor has gone idle takes some 50 us where the host is itself a guest, as most are; a disk's
 * request is handed on four times, and a good disk needs 80 us for it. So who waits for what is likely to come soon looks for
 * it first. How long is learnt, as KVM learns it for idle CPUs (halt_poll_ns): a wait that the longest vigil would have
 * covered doubles the next one, one that took longer halves it. Between two looks others may run, so a busy host loses little:
 * a turn of those who wait.
 */
#ifndef TRAPEZE_VM_VIGIL_H
#define TRAPEZE_VM_VIGIL_H

#include "base/types.h"

#define VIGIL_FIRST_NS 20000u
#define VIGIL_MOST_NS  200000u

/* Zeroed: none is kept at first. */
struct vigil {
    u32 ns; /* of the next one */
};

/* A wait has ended that took `ns` in all, vigil and sleep. */
static inline void vigil_learn(struct vigil *v, u64 ns)
{
    if (ns > VIGIL_MOST_NS)
        v->ns = v->ns / 2 < VIGIL_FIRST_NS ? 0 : v->ns / 2;
    else if (ns > v->ns)
        v->ns = MIN(MAX(2 * v->ns, VIGIL_FIRST_NS), VIGIL_MOST_NS);
}

#endif
