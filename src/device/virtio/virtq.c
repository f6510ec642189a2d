/*
 * Virtqueues.
 *
 * The driver owns the memory of a ring and may write any word of it at any time, from another processor as well. So:
 *
 *  1. A word is read once, into a local variable, then checked, then used. Descriptors are copied whole.
 *  2. An address is worth nothing before mem_at has found all its bytes in RAM: those of the rings at each access, those of
 *     buffers when the chain is taken (RAM does not move, so they stay good).
 *  3. A chain has at most as many descriptors as the queue has places, an indirect table as many as VIRTQ_SEGS_MAX; a loop ends
 *     there. What the driver offers at once is at most the queue's size.
 *  4. A queue that broke a rule is faulty for good: its device asks for a reset (DEVICE_NEEDS_RESET) and touches no memory
 *     of this queue before it got one.
 *
 *   split ring, queue of n        desc     n descriptors of 16 bytes
 *                                 driver   | flags | idx | ring[n] of u16 | used_event |
 *                                 device   | flags | idx | ring[n] of {id u32, len u32} | avail_event |
 *
 * Everything written goes through the traces: a ring may lie in a page that holds code, or that migration watches.
 *
 * Memory order: the driver's index is loaded with acquire before what it announces; ours is stored with release after
 * what it announces. Between publishing our index and reading the driver's wish for interrupts (and between telling that we
 * want to hear of more and looking once more) stands a full fence, as the driver has one on its side.
 *
 * Not done: VIRTIO_F_IN_ORDER, NOTIFICATION_DATA, RING_RESET; descriptors of length 0 are skipped.
 */
#include "base/bytes.h"
#include "device/virtio/virtq_internal.h"

#include <errno.h>
#include <string.h>

#define AVAIL_NO_INTERRUPT 1u

int virtq_fault(struct virtq *q, const char *why)
{
    if (!q->fault)
        q->fault = why;
    return -EPROTO;
}

void virtq_reset(struct virtq *q)
{
    *q = (struct virtq){.mem = q->mem};
}

void virtq_touch(struct guest_mem *m, gpa_t at, u64 len)
{
    u64 off = mem_offset(m, at);
    if (off != UINT64_MAX && len <= m->size - off)
        mem_touch(m, off, len);
}

bool virtq_load16(const struct virtq *q, u64 at, u16 *v)
{
    const u16 *p = mem_at(q->mem, GPA(at), 2);
    if (!p)
        return false;
    *v = __atomic_load_n(p, __ATOMIC_ACQUIRE);
    return true;
}

bool virtq_store16(const struct virtq *q, u64 at, u16 v)
{
    u16 *p = mem_at(q->mem, GPA(at), 2);
    if (!p)
        return false;
    __atomic_store_n(p, v, __ATOMIC_RELEASE);
    virtq_touch(q->mem, GPA(at), 2);
    return true;
}

bool virtq_enable(struct virtq *q)
{
    u64 n = q->size, driver = q->packed ? 4 : 6 + 2 * n, device = q->packed ? 4 : 6 + 8 * n;
    if (!n || n > VIRTQ_SIZE_MAX || n & (n - 1))
        virtq_fault(q, "its size is no power of two, or too large");
    else if (q->desc % 16 || q->driver % (q->packed ? 4 : 2) || q->device % 4)
        virtq_fault(q, "its areas are not aligned");
    else if (!mem_at(q->mem, GPA(q->desc), n * DESC_SIZE) || !mem_at(q->mem, GPA(q->driver), driver) ||
             !mem_at(q->mem, GPA(q->device), device))
        virtq_fault(q, "its areas are not in memory");
    if (q->packed)
        q->next_wrap = q->used_wrap = 1;
    return !q->fault;
}

/* --- chains --- */

int virtq_add(struct virtq *q, struct virtq_chain *c, const struct virtq_desc *d, u16 flags)
{
    if (!d->len)
        return 0;
    if (d->len > VIRTQ_SEG_LEN || !mem_at(q->mem, GPA(d->addr), d->len))
        return virtq_fault(q, "a buffer is not in memory");
    if (c->n_out + c->n_in == VIRTQ_SEGS_MAX)
        return virtq_fault(q, "a chain has too many buffers");
    if (!(flags & DESC_WRITE) && c->n_in)
        return virtq_fault(q, "a chain has a readable buffer behind a writable one");
    c->seg[c->n_out + c->n_in] = (struct virtq_seg){GPA(d->addr), d->len};
    *(flags & DESC_WRITE ? &c->n_in : &c->n_out) += 1;
    *(flags & DESC_WRITE ? &c->in_len : &c->out_len) += d->len;
    return 0;
}

/* Follow a chain from `head` through the table of `n` descriptors at `table`. */
static int walk(struct virtq *q, struct virtq_chain *c, u64 table, u32 n, u32 head, bool nested)
{
    struct virtq_desc d;
    for (u32 i = head, left = n; left; left--) {
        if (mem_read(q->mem, GPA(table + (u64)i * DESC_SIZE), &d, sizeof(d)))
            return virtq_fault(q, "its descriptors are not in memory");
        u16 flags = d.a;
        if (flags & DESC_INDIRECT) {
            if (nested || !q->indirect || flags & DESC_NEXT)
                return virtq_fault(q, "an indirect descriptor where none may be");
            if (!d.len || d.len % DESC_SIZE || d.len / DESC_SIZE > VIRTQ_SEGS_MAX ||
                !mem_at(q->mem, GPA(d.addr), d.len))
                return virtq_fault(q, "an indirect table of impossible size or place");
            return walk(q, c, d.addr, d.len / DESC_SIZE, 0, true);
        }
        if (virtq_add(q, c, &d, flags) < 0)
            return -EPROTO;
        if (!(flags & DESC_NEXT))
            return 0;
        if (d.b >= n)
            return virtq_fault(q, "a chain leads out of its table");
        i = d.b;
    }
    return virtq_fault(q, "a chain has no end");
}

static int split_pop(struct virtq *q, struct virtq_chain *c)
{
    u16 idx, head;
    if (!virtq_load16(q, q->driver + 2, &idx))
        return virtq_fault(q, "its areas are not in memory");
    u16 ready = (u16)(idx - q->next);
    if (!ready)
        return 0;
    if (ready > q->size || q->out >= q->size)
        return virtq_fault(q, "more chains are offered than it has places");
    if (!virtq_load16(q, q->driver + 4 + 2 * (q->next & (q->size - 1u)), &head))
        return virtq_fault(q, "its areas are not in memory");
    if (head >= q->size)
        return virtq_fault(q, "a chain begins outside its table");
    c->id = head;
    c->descs = 1;
    if (walk(q, c, q->desc, q->size, head, false) < 0)
        return -EPROTO;
    q->next++;
    return 1;
}

int virtq_pop(struct virtq *q, struct virtq_chain *c)
{
    if (q->fault)
        return -EPROTO;
    if (!q->enabled)
        return 0;
    c->n_out = c->n_in = 0;
    c->out_len = c->in_len = 0;
    int r = q->packed ? virtq_packed_pop(q, c) : split_pop(q, c);
    if (r == 1)
        q->out++;
    return r;
}

static void split_push(struct virtq *q, const struct virtq_done *d, unsigned n)
{
    for (unsigned i = 0; i < n; i++) {
        const u32 elem[2] = {d[i].id, d[i].len};
        u64 at = q->device + 4 + 8 * (q->used & (q->size - 1u));
        if (mem_write(q->mem, GPA(at), elem, sizeof(elem)))
            virtq_fault(q, "its areas are not in memory");
        q->used++;
    }
    if (!virtq_store16(q, q->device + 2, q->used))
        virtq_fault(q, "its areas are not in memory");
}

void virtq_push_all(struct virtq *q, const struct virtq_done *d, unsigned n)
{
    if (q->fault || !q->enabled || !n)
        return;
    q->out = (u16)(q->out - MIN(q->out, n));
    (q->packed ? virtq_packed_push : split_push)(q, d, n);
}

void virtq_push(struct virtq *q, u16 id, u16 descs, u32 len)
{
    const struct virtq_done d = {id, descs, len};
    virtq_push_all(q, &d, 1);
}

void virtq_unpop(struct virtq *q, u16 descs)
{
    if (q->fault || !q->enabled || !q->out)
        return;
    q->out--;
    if (!q->packed)
        q->next--;
    else if (q->next >= descs)
        q->next = (u16)(q->next - descs);
    else {
        q->next = (u16)(q->next + q->size - descs);
        q->next_wrap ^= 1;
    }
}

bool virtq_wants_interrupt(struct virtq *q)
{
    u16 event, flags;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    if (q->fault || !q->enabled)
        return false;
    if (q->packed)
        return virtq_packed_wants_interrupt(q);
    if (!q->event_index)
        return virtq_load16(q, q->driver, &flags) && !(flags & AVAIL_NO_INTERRUPT);
    if (!virtq_load16(q, q->driver + 4 + 2u * q->size, &event))
        return false;
    bool first = !q->told_valid;
    u16 told = q->told;
    q->told = q->used;
    q->told_valid = 1;
    return first || virtq_need_event(event, q->used, told);
}

bool virtq_rearm(struct virtq *q)
{
    u16 idx;
    /* Packed: the event structure stays as the driver cleared it, which means: always tell. */
    if (q->fault || !q->enabled || q->packed)
        return false;
    if (q->event_index && !virtq_store16(q, q->device + 4 + 8u * q->size, q->next))
        return false;
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    return virtq_load16(q, q->driver + 2, &idx) && idx != q->next;
}

/* --- their bytes --- */

/* Copy between `buf` and the segments [from, from + n): `write` into guest memory, else out of it. */
static size_t copy(const struct virtq *q, const struct virtq_seg *s, unsigned n, u64 skip, u8 *buf, size_t len,
                   bool write)
{
    size_t done = 0;
    for (unsigned i = 0; i < n && done < len; i++) {
        if (skip >= s[i].len) {
            skip -= s[i].len;
            continue;
        }
        size_t part = MIN(len - done, (size_t)(s[i].len - skip));
        gpa_t at = GPA(s[i].at.v + skip);
        if (write ? mem_write(q->mem, at, buf + done, part) : mem_read(q->mem, at, buf + done, part))
            break;
        skip = 0;
        done += part;
    }
    return done;
}

size_t virtq_read(const struct virtq *q, const struct virtq_chain *c, u64 skip, void *out, size_t len)
{
    return copy(q, c->seg, c->n_out, skip, out, len, false);
}

size_t virtq_write(const struct virtq *q, const struct virtq_chain *c, u64 skip, const void *data, size_t len)
{
    return copy(q, c->seg + c->n_out, c->n_in, skip, (u8 *)(uintptr_t)data, len, true);
}

bool virtq_valid(const struct virtq *q)
{
    bool slots = !q->packed || (q->next < MAX(q->size, 1) && q->used < MAX(q->size, 1));
    return q->size <= VIRTQ_SIZE_MAX && !(q->size & (q->size - 1)) && (q->size || !q->enabled) && q->enabled <= 1 &&
           q->packed <= 1 && q->event_index <= 1 && q->indirect <= 1 && q->next_wrap <= 1 && q->used_wrap <= 1 &&
           q->told_valid <= 1 && slots && !(q->driver % 2) && !(q->device % 4);
}
