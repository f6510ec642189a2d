#include "base/share.h"

#define RECORDS (4 * SHARE_SLOTS)
#define BYTES   (RECORDS * RING_RECORD)
#define SLOT    ((u64)SHARE_ASK_MAX + SHARE_ANSWER_MAX)
#define SLOTS   (2 * PAGE_SIZE)

struct share_shared {
    struct ring_door door[2];
    struct ring_shared ring[2];
    u32 up __attribute__((aligned(64)));
};
_Static_assert(sizeof(struct share_shared) <= PAGE_SIZE && 2 * BYTES <= PAGE_SIZE, "they have their pages");
_Static_assert(sizeof(struct share_ask) == RING_RECORD && sizeof(struct share_answer) == RING_RECORD, "records");

u64 share_size(void)
{
    return SLOTS + SHARE_SLOTS * SLOT;
}

void share_attach(struct share_line *l, void *base, bool in_cell)
{
    struct share_shared *s = base;
    u8 *data = (u8 *)base + PAGE_SIZE;
    *l = (struct share_line){
        .shared = s, .own = &s->door[in_cell], .peer = &s->door[!in_cell], .slots = (u8 *)base + SLOTS};
    ring_attach(in_cell ? &l->out : &l->in, &s->ring[0], data, BYTES, RING_RECORD);
    ring_attach(in_cell ? &l->in : &l->out, &s->ring[1], data + BYTES, BYTES, RING_RECORD);
}

u8 *share_question_place(const struct share_line *l, u32 slot)
{
    return l->slots + slot % SHARE_SLOTS * SLOT;
}

u8 *share_answer_place(const struct share_line *l, u32 slot)
{
    return share_question_place(l, slot) + SHARE_ASK_MAX;
}

bool share_send(struct share_line *l, const void *record)
{
    l->moved = true;
    return ring_write(&l->out, record, RING_RECORD) == RING_RECORD;
}

int share_receive(struct share_line *l, void *record)
{
    s64 n = ring_read(&l->in, record, RING_RECORD);
    return n < 0 ? (int)n : n > 0;
}

bool share_news(struct share_line *l)
{
    bool put = l->moved;
    l->moved = false;
    return put && ring_door_knock(l->peer);
}

bool share_pending(struct share_line *l)
{
    return ring_used(&l->in) > 0;
}

void share_set_up(struct share_line *l, bool up)
{
    __atomic_store_n(&l->shared->up, up, __ATOMIC_RELEASE);
}

bool share_up(const struct share_line *l)
{
    return __atomic_load_n(&l->shared->up, __ATOMIC_ACQUIRE) == 1;
}
