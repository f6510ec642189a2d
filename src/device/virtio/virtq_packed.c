/*
 * Packed virtqueues: one ring of descriptors that both sides write. Source: virtio 1.2, 2.8.
 *
 *   desc     n descriptors. One is the device's when AVAIL equals the ring's wrap counter and USED does not; it is given back
 *            by writing id, length, and both bits equal to the wrap counter.
 *   driver   | off 14-0, wrap 15 | flags |   what the driver wants to hear: 0 everything, 1 nothing, 2 from that place on
 *   device   the same for us; we leave it as the driver cleared it: 0, everything
 *
 *   wrap counter 1, size 4            next
 *       | used  | used  | avail |  ...  |
 *
 * A chain takes consecutive places and is given back as one descriptor; the place of the next one is as many further as it
 * took. The buffer's id stands in its last descriptor.
 */
#include "base/bytes.h"
#include "device/virtio/virtq_internal.h"

#include <errno.h>
#include <string.h>

#define EVENT_DISABLE 1u
#define EVENT_DESC    2u
#define WRAP          0x8000u
#define FLAGS_AT      14u

static bool available(const struct virtq *q, u16 flags)
{
    return !!(flags & DESC_AVAIL) == q->next_wrap && !!(flags & DESC_USED) != q->next_wrap;
}

static void step(const struct virtq *q, u16 *slot, u8 *wrap, u16 n)
{
    *slot = (u16)(*slot + n);
    if (*slot >= q->size) {
        *slot = (u16)(*slot - q->size);
        *wrap ^= 1;
    }
}

/* The table of an indirect descriptor: all its entries, one after the other. */
static int indirect(struct virtq *q, struct virtq_chain *c, u64 table, u32 len)
{
    struct virtq_desc d;
    if (!len || len % DESC_SIZE || len / DESC_SIZE > VIRTQ_SEGS_MAX || !mem_at(q->mem, GPA(table), len))
        return virtq_fault(q, "an indirect table of impossible size or place");
    for (u32 i = 0; i < len / DESC_SIZE; i++) {
        if (mem_read(q->mem, GPA(table + (u64)i * DESC_SIZE), &d, sizeof(d)))
            return virtq_fault(q, "an indirect table of impossible size or place");
        if (d.b & DESC_INDIRECT)
            return virtq_fault(q, "an indirect descriptor where none may be");
        if (virtq_add(q, c, &d, d.b) < 0)
            return -EPROTO;
    }
    return 0;
}

int virtq_packed_pop(struct virtq *q, struct virtq_chain *c)
{
    struct virtq_desc d;
    u16 flags, slot = q->next;
    u8 wrap = q->next_wrap;
    if (!virtq_load16(q, q->desc + (u64)slot * DESC_SIZE + FLAGS_AT, &flags))
        return virtq_fault(q, "its descriptors are not in memory");
    if (!available(q, flags))
        return 0;
    for (c->descs = 0; c->descs < q->size;) {
        if (mem_read(q->mem, GPA(q->desc + (u64)slot * DESC_SIZE), &d, sizeof(d)))
            return virtq_fault(q, "its descriptors are not in memory");
        c->descs++;
        step(q, &slot, &wrap, 1);
        c->id = d.a;
        if (d.b & DESC_INDIRECT && (!q->indirect || d.b & DESC_NEXT || c->descs > 1))
            return virtq_fault(q, "an indirect descriptor where none may be");
        if (d.b & DESC_INDIRECT ? indirect(q, c, d.addr, d.len) < 0 : virtq_add(q, c, &d, d.b) < 0)
            return -EPROTO;
        if (d.b & DESC_NEXT)
            continue;
        if (q->out >= q->size)
            return virtq_fault(q, "more chains are offered than it has places");
        q->next = slot;
        q->next_wrap = wrap;
        return 1;
    }
    return virtq_fault(q, "a chain has no end");
}

/* Fill the descriptor at `slot`; false: it is not in memory. */
static bool give(struct virtq *q, u16 slot, u8 wrap, const struct virtq_done *d)
{
    u64 at = q->desc + (u64)slot * DESC_SIZE;
    u16 flags = (u16)((wrap ? DESC_AVAIL | DESC_USED : 0) | (d->len ? DESC_WRITE : 0));
    return mem_write(q->mem, GPA(at + 8), &d->len, 4) == 0 && mem_write(q->mem, GPA(at + 12), &d->id, 2) == 0 &&
           virtq_store16(q, at + FLAGS_AT, flags);
}

/* The first one last: a driver that sees it sees them all. */
void virtq_packed_push(struct virtq *q, const struct virtq_done *d, unsigned n)
{
    u16 first = q->used;
    u8 wrap = q->used_wrap;
    bool ok = true;
    for (unsigned i = 0; i < n; i++) {
        ok &= i == 0 || give(q, q->used, q->used_wrap, &d[i]);
        step(q, &q->used, &q->used_wrap, d[i].descs);
    }
    if (!ok || !give(q, first, wrap, d))
        virtq_fault(q, "its descriptors are not in memory");
}

bool virtq_packed_wants_interrupt(struct virtq *q)
{
    u16 where, flags, told = q->told;
    if (!virtq_load16(q, q->driver + 2, &flags) || !virtq_load16(q, q->driver, &where))
        return false;
    bool first = !q->told_valid;
    q->told = q->used;
    q->told_valid = 1;
    if (flags != EVENT_DESC || !q->event_index)
        return flags != EVENT_DISABLE;
    /* Places as if the ring went on without end: what was before the last wrap is `size` less. */
    u16 now = q->used, event = where & (WRAP - 1);
    if (!!(where & WRAP) != q->used_wrap)
        event = (u16)(event - q->size);
    if (told > now) /* we wrapped since */
        told = (u16)(told - q->size);
    return first || virtq_need_event(event, now, told);
}
