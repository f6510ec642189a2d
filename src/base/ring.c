#include "base/ring.h"

#include <errno.h>
#include <string.h>

int ring_attach(struct ring *r, struct ring_shared *shared, u8 *data, u32 size, u32 unit)
{
    if (!size || size > RING_SIZE_MAX || (size & (size - 1)) || (unit != 1 && unit != RING_RECORD) || size % unit)
        return -EINVAL;
    *r = (struct ring){.shared = shared, .data = data, .size = size, .unit = unit};
    return 0;
}

/* Check what the peer's index implies; `used` was computed from the one load of it. */
static s64 checked(struct ring *r, u32 used)
{
    if (r->broken || used > r->size || used % r->unit) {
        r->broken = true;
        return -EPROTO;
    }
    return used;
}

s64 ring_used(struct ring *r)
{
    return checked(r, __atomic_load_n(&r->shared->head, __ATOMIC_ACQUIRE) - r->mine);
}

s64 ring_room(struct ring *r)
{
    s64 used = checked(r, r->mine - __atomic_load_n(&r->shared->tail, __ATOMIC_ACQUIRE));
    return used < 0 ? used : r->size - used;
}

/*
 * Between copying and whoever looks at the copy: the compiler must not fetch from shared memory again what it can see
 * was copied from there.
 */
static void copy_once(void *to, const void *from, size_t len)
{
    memcpy(to, from, len);
    __asm__ volatile("" ::: "memory");
}

s64 ring_read(struct ring *r, void *out, size_t len)
{
    s64 used = ring_used(r);
    if (used < 0)
        return used;
    u32 n = (u32)MIN((u64)used, (u64)len);
    n -= n % r->unit;
    u32 at = r->mine & (r->size - 1), first = MIN(n, r->size - at);
    copy_once(out, r->data + at, first);
    copy_once((u8 *)out + first, r->data, n - first);
    r->mine += n;
    __atomic_store_n(&r->shared->tail, r->mine, __ATOMIC_RELEASE);
    return n;
}

/* Room for more than `have` bytes; looks again after saying that this side waits, so that no wake-up is lost. */
static s64 room_or_starve(struct ring *r, size_t want)
{
    s64 room = ring_room(r);
    if (room < 0 || (u64)room >= want)
        return room;
    ring_mark_starved(r);
    return ring_room(r);
}

s64 ring_write(struct ring *r, const void *data, size_t len)
{
    s64 room = room_or_starve(r, len);
    if (room < 0)
        return room;
    u32 n = (u32)MIN((u64)room, (u64)len);
    n -= n % r->unit;
    u32 at = r->mine & (r->size - 1), first = MIN(n, r->size - at);
    memcpy(r->data + at, data, first);
    memcpy(r->data, (const u8 *)data + first, n - first);
    r->mine += n;
    __atomic_store_n(&r->shared->head, r->mine, __ATOMIC_RELEASE);
    return n;
}

void ring_mark_starved(struct ring *r)
{
    __atomic_store_n(&r->shared->starved, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

bool ring_take_starved(struct ring *r)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&r->shared->starved, __ATOMIC_RELAXED))
        return false;
    return __atomic_exchange_n(&r->shared->starved, 0, __ATOMIC_SEQ_CST) != 0;
}

void ring_door_close(struct ring_door *d)
{
    __atomic_store_n(&d->asleep, 1, __ATOMIC_SEQ_CST);
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
}

void ring_door_open(struct ring_door *d)
{
    __atomic_store_n(&d->asleep, 0, __ATOMIC_RELAXED);
}

bool ring_door_knock(struct ring_door *d)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (!__atomic_load_n(&d->asleep, __ATOMIC_RELAXED))
        return false;
    return __atomic_exchange_n(&d->asleep, 0, __ATOMIC_SEQ_CST) != 0;
}
