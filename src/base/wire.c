#include "base/wire.h"

#include <string.h>

#define SKIP UINT32_MAX

struct wire_shared {
    struct ring_door door[2];
    struct ring_shared lane[2];
    u32 takes __attribute__((aligned(64)));
    u32 link __attribute__((aligned(64)));
};
_Static_assert(sizeof(struct wire_shared) <= PAGE_SIZE, "it has its page");
_Static_assert(NET_FRAME_MAX + 2 * WIRE_HEAD < WIRE_LANE / 4, "several frames fit");

u64 wire_size(void)
{
    return PAGE_SIZE + 2ull * WIRE_LANE;
}

void wire_attach(struct wire *w, void *base, bool in_cell)
{
    struct wire_shared *s = base;
    u8 *data = (u8 *)base + PAGE_SIZE;
    const struct wire_lane up = {.shared = &s->lane[0], .data = data};
    const struct wire_lane down = {.shared = &s->lane[1], .data = data + WIRE_LANE};
    *w = (struct wire){.shared = s,
                       .own = &s->door[in_cell],
                       .peer = &s->door[!in_cell],
                       .in = in_cell ? down : up,
                       .out = in_cell ? up : down};
}

static u32 space_of(u32 len)
{
    return WIRE_HEAD + ((len + 15u) & ~15u);
}

/* --- producer --- */

static u32 room(struct wire_lane *l)
{
    u32 used = l->mine - __atomic_load_n(&l->shared->tail, __ATOMIC_ACQUIRE);
    if (used > WIRE_LANE || used % 16)
        l->broken = true;
    return l->broken ? 0 : WIRE_LANE - used;
}

/* Whether `need` bytes in one piece are free; notes how many are left unused before them. */
static bool fits(struct wire_lane *l, u32 need)
{
    u32 rest = WIRE_LANE - (l->mine & (WIRE_LANE - 1));
    l->pad = rest < need ? rest : 0;
    return room(l) >= l->pad + need;
}

u8 *wire_reserve(struct wire *w, u32 len)
{
    struct wire_lane *l = &w->out;
    u32 need = space_of(MIN(len, NET_FRAME_MAX));
    if (!fits(l, need)) {
        __atomic_store_n(&l->shared->starved, 1, __ATOMIC_SEQ_CST);
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        if (!fits(l, need))
            return NULL;
    }
    return l->data + ((l->mine + l->pad) & (WIRE_LANE - 1)) + WIRE_HEAD;
}

void wire_commit(struct wire *w, const struct net_header *h, u32 len)
{
    struct wire_lane *l = &w->out;
    const u32 skip = SKIP;
    if (l->pad)
        memcpy(l->data + (l->mine & (WIRE_LANE - 1)), &skip, sizeof(skip));
    l->mine += l->pad;
    l->pad = 0;
    u8 *p = l->data + (l->mine & (WIRE_LANE - 1));
    memcpy(p, &len, sizeof(len));
    memcpy(p + sizeof(len), h, sizeof(*h));
    l->mine += space_of(len);
    l->moved = true;
    __atomic_store_n(&l->shared->head, l->mine, __ATOMIC_RELEASE);
}

/* --- consumer --- */

void wire_look(struct wire *w)
{
    struct wire_lane *l = &w->in;
    u32 head = __atomic_load_n(&l->shared->head, __ATOMIC_ACQUIRE), used = head - l->mine;
    if (used > WIRE_LANE || used % 16)
        l->broken = true;
    l->seen = l->broken ? l->mine : head;
}

static void move_tail(struct wire_lane *l, u32 by)
{
    l->mine += by;
    l->moved = true;
    __atomic_store_n(&l->shared->tail, l->mine, __ATOMIC_RELEASE);
}

bool wire_peek(struct wire *w, struct wire_frame *f)
{
    struct wire_lane *l = &w->in;
    for (unsigned i = 0; i < 2 && !l->broken; i++) {
        u32 used = l->seen - l->mine, at = l->mine & (WIRE_LANE - 1), rest = MIN(used, WIRE_LANE - at);
        if (!used)
            return false;
        memcpy(&f->len, l->data + at, sizeof(f->len));
        if (f->len != SKIP) {
            memcpy(&f->h, l->data + at + sizeof(f->len), sizeof(f->h));
            f->data = l->data + at + WIRE_HEAD;
            if (f->len >= NET_FRAME_MIN && f->len <= NET_FRAME_MAX && space_of(f->len) <= rest)
                return true;
            break;
        }
        if (rest != WIRE_LANE - at)
            break;
        move_tail(l, rest);
    }
    l->broken |= l->seen != l->mine;
    return false;
}

void wire_release(struct wire *w, const struct wire_frame *f)
{
    move_tail(&w->in, space_of(f->len));
}

/* --- waking --- */

bool wire_news(struct wire *w)
{
    bool put = w->out.moved, took = w->in.moved;
    w->out.moved = w->in.moved = false;
    if (took) {
        __atomic_thread_fence(__ATOMIC_SEQ_CST);
        took = __atomic_load_n(&w->in.shared->starved, __ATOMIC_RELAXED) &&
               __atomic_exchange_n(&w->in.shared->starved, 0, __ATOMIC_SEQ_CST);
    }
    return (put || took) && ring_door_knock(w->peer);
}

bool wire_pending(struct wire *w)
{
    return !w->in.broken && __atomic_load_n(&w->in.shared->head, __ATOMIC_ACQUIRE) != w->in.mine;
}

/* --- words --- */

void wire_set_takes(struct wire *w, u32 takes)
{
    __atomic_store_n(&w->shared->takes, takes, __ATOMIC_RELEASE);
}

u32 wire_takes(const struct wire *w)
{
    return __atomic_load_n(&w->shared->takes, __ATOMIC_ACQUIRE) & NET_TAKES_ALL;
}

void wire_set_link(struct wire *w, bool up)
{
    __atomic_store_n(&w->shared->link, up, __ATOMIC_RELEASE);
}

bool wire_link(const struct wire *w)
{
    return __atomic_load_n(&w->shared->link, __ATOMIC_ACQUIRE) == 1;
}
