/*
 * Rings: queues between two processes that share memory and don't trust each other.
 *
 * One side produces, the other consumes; bytes (unit 1) or records of fixed size (unit 64). Each side writes one index and
 * reads the other's. Indices run freely modulo 2^32; the position in the data is index & (size - 1).
 *
 *        tail (the consumer's)      head (the producer's)
 *          v                          v
 *   |......[xxxxxxxx taken next xxxxx]..........|       used = head - tail, 0 <= used <= size
 *
 * Theory: trust. A side never reads back the index that it owns: it keeps it in its private `struct ring`, and what stands
 * in shared memory is a copy for the peer. The only words it believes are the peer's index, which it loads once and checks
 * (used <= size, whole units), and the data, which it copies to private memory before anybody looks at it. A peer that
 * writes nonsense yields -EPROTO from then on (the ring is `broken`); it can't make this side touch a byte outside, loop,
 * or see a value change between check and use. A peer that moves its index backwards by less than what is used merely
 * hands out other bytes of its own.
 *
 * Theory: memory order. The producer stores data, then head with release; the consumer loads head with acquire, then the
 * data: so it never sees bytes older than the head that announced them. The consumer copies the data out, then stores tail
 * with release; the producer loads tail with acquire before it overwrites the place.
 *
 * Theory: waking. Store and load of different words may pass each other even on x86 (store, then load), so going to sleep
 * and publishing use a full fence each (Dekker's pattern):
 *
 *     sleeper                                publisher
 *     door.asleep = 1                        data, head = ...
 *     fence                                  fence
 *     look at all rings: nothing?            door.asleep was 1? then 0, and write the eventfd
 *     wait for the eventfd
 *
 * At least one of the two sees the other's store: no wake-up is lost, and a busy peer costs no system call. The words are
 * hints: a peer that lies about its own door is woken too often or never, which is its own loss. A producer that found no
 * room leaves `starved` set, so that the consumer knocks at its door when there is room again.
 *
 * What must stay true
 *  1. Every word that the peer can write is loaded once per call, by an atomic load, into a local variable.
 *  2. Nothing outside ring.c dereferences shared memory of a ring.
 */
#ifndef TRAPEZE_BASE_RING_H
#define TRAPEZE_BASE_RING_H

#include "base/types.h"

#define RING_RECORD   64u
#define RING_SIZE_MAX (1u << 30)

/* What lies in shared memory before the data; each word on a cache line of its own. */
struct ring_shared {
    u32 head __attribute__((aligned(64)));
    u32 tail __attribute__((aligned(64)));
    u32 starved __attribute__((aligned(64)));
};

/* One side of a ring. Private memory. */
struct ring {
    struct ring_shared *shared;
    u8 *data;
    u32 size;    /* bytes, a power of two */
    u32 unit;    /* 1 or RING_RECORD */
    u32 mine;    /* the index that this side owns */
    bool broken; /* the peer lied */
};

/* Whether a process is asleep: one a side, in shared memory. */
struct ring_door {
    u32 asleep __attribute__((aligned(64)));
};

/*
 * Take the side of a ring whose header and data lie in shared memory, both zeroed before either side attached. `size` is
 * a power of two, a multiple of `unit`. 0 or -EINVAL.
 */
int ring_attach(struct ring *r, struct ring_shared *shared, u8 *data, u32 size, u32 unit);

/*
 * Producer: append as many whole units of `data` as there is room for. Returns the bytes taken, or -EPROTO. When fewer
 * than `len` are taken the ring is marked starved.
 */
s64 ring_write(struct ring *r, const void *data, size_t len);

/* Consumer: copy out at most `len` bytes, whole units. Returns the bytes, 0 when empty, or -EPROTO. */
s64 ring_read(struct ring *r, void *out, size_t len);

/* Consumer: bytes that are there. Producer: bytes that there is room for. Or -EPROTO. */
s64 ring_used(struct ring *r);
s64 ring_room(struct ring *r);

/* Producer: ask to be woken when there is room, though nothing was refused. Look at ring_room again after it. */
void ring_mark_starved(struct ring *r);

/* Consumer, after reading: whether the producer waits for room (it is then told only once). */
bool ring_take_starved(struct ring *r);

/* Sleeper: call before the last look at the rings; and after waking. */
void ring_door_close(struct ring_door *d);
void ring_door_open(struct ring_door *d);

/* Publisher, after the stores: whether the other side sleeps and its eventfd is to be written. */
bool ring_door_knock(struct ring_door *d);

#endif
