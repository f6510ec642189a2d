/*
 * The life of a virtio device.
 *
 *   status 0 ──> ACKNOWLEDGE ──> DRIVER ──> features ──> FEATURES_OK ──> queues ──> DRIVER_OK: live
 *      ^                                                                               |
 *      └───────────── 0 written (waits for requests on their way) <── NEEDS_RESET <────┘ a ring makes no sense
 *
 * FEATURES_OK stays only when the driver accepted what was offered and VIRTIO_F_VERSION_1. A device serves queues while
 * DRIVER_OK is set, NEEDS_RESET is not, and its function may master the bus. A reset first stops that, then waits: the driver
 * reads 0 when no request can write to its memory any more.
 */
#include "device/virtio/virtio.h"
#include "base/bytes.h"

#include <errno.h>
#include <string.h>

#define LIBRARY_FEATURES (VIRTIO_F_INDIRECT | VIRTIO_F_EVENT_INDEX | VIRTIO_F_VERSION_1 | VIRTIO_F_PACKED)
#define STATUS_ALL \
    (VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_DRIVER_OK | VIRTIO_FEATURES_OK | VIRTIO_NEEDS_RESET | VIRTIO_FAILED)

static void clear(struct virtio *v)
{
    if (v->type->reset)
        v->type->reset(v->self);
    v->features = 0;
    v->status = 0;
    v->resetting = 0;
    v->stopping = 0;
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++) {
        v->vector[i] = VIRTIO_NO_VECTOR;
        virtq_reset(&v->queue[i]);
        v->queue[i].size = i < v->type->queues ? VIRTQ_SIZE_MAX : 0;
    }
}

void virtio_init(struct virtio *v, const struct virtio_type *type, void *self, struct guest_mem *mem, u64 features)
{
    *v = (struct virtio){.type = type, .self = self, .mem = mem, .offered = features | LIBRARY_FEATURES};
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        v->queue[i].mem = mem;
    clear(v);
}

void virtio_reset(struct virtio *v)
{
    clear(v);
}

static bool busy(const struct virtio *v)
{
    return v->type->busy && v->type->busy(v->self);
}

/* What the driver has set of a queue stays, how far it had come is forgotten. */
static void queue_off(struct virtq *q)
{
    const struct virtq was = *q;
    virtq_reset(q);
    q->size = was.size;
    q->desc = was.desc;
    q->driver = was.driver;
    q->device = was.device;
    q->packed = was.packed;
    q->event_index = was.event_index;
    q->indirect = was.indirect;
}

void virtio_idle(struct virtio *v)
{
    if (v->resetting && !busy(v))
        clear(v);
    for (unsigned i = 0; v->stopping && i < v->type->queues; i++)
        if (v->stopping & BIT(i) && (!v->queue[i].out || !busy(v))) {
            queue_off(&v->queue[i]);
            v->stopping &= (u8)~BIT(i);
        }
}

u8 virtio_status(struct virtio *v)
{
    virtio_idle(v);
    return v->status;
}

static bool stopping(const struct virtio *v, unsigned n)
{
    return v->stopping & BIT(n);
}

/* The driver says that it is done choosing: fix the features in the queues, or refuse. */
static bool settle_features(struct virtio *v)
{
    if (v->features & ~v->offered || !(v->features & VIRTIO_F_VERSION_1))
        return false;
    for (unsigned i = 0; i < v->type->queues; i++) {
        struct virtq *q = &v->queue[i];
        q->packed = !!(v->features & VIRTIO_F_PACKED);
        q->event_index = !!(v->features & VIRTIO_F_EVENT_INDEX);
        q->indirect = !!(v->features & VIRTIO_F_INDIRECT);
    }
    return true;
}

void virtio_set_status(struct virtio *v, u8 status)
{
    if (v->resetting)
        return;
    if (!status) {
        v->resetting = 1;
        virtio_idle(v);
        return;
    }
    u8 added = status & STATUS_ALL & ~VIRTIO_NEEDS_RESET & ~v->status;
    if (added & VIRTIO_FEATURES_OK && !settle_features(v))
        added &= (u8)~VIRTIO_FEATURES_OK;
    if (!((v->status | added) & VIRTIO_FEATURES_OK))
        added &= (u8)~VIRTIO_DRIVER_OK;
    v->status |= added; /* bits are never taken back but by a reset (2.1.1) */
    if (added & VIRTIO_DRIVER_OK)
        virtio_kick_all(v);
}

bool virtio_accepts(const struct virtio *v)
{
    return (v->status & (VIRTIO_DRIVER_OK | VIRTIO_NEEDS_RESET)) == VIRTIO_DRIVER_OK && !v->resetting;
}

bool virtio_live(const struct virtio *v)
{
    return virtio_accepts(v) && (!v->transport.may_dma || v->transport.may_dma(v->transport.ctx));
}

u8 virtio_generation(const struct virtio *v)
{
    return v->type->generation ? v->type->generation(v->self) : 0;
}

void virtio_config_changed(struct virtio *v)
{
    if (virtio_accepts(v) && v->transport.config)
        v->transport.config(v->transport.ctx);
}

void virtio_needs_reset(struct virtio *v)
{
    if (v->status & VIRTIO_NEEDS_RESET)
        return;
    v->status |= VIRTIO_NEEDS_RESET;
    if (v->status & VIRTIO_DRIVER_OK && !v->resetting && v->transport.config)
        v->transport.config(v->transport.ctx);
}

/* --- registers that all transports have --- */

u32 virtio_offered(const struct virtio *v, u32 word)
{
    return word < 2 ? (u32)(v->offered >> 32 * word) : 0;
}

u32 virtio_accepted(const struct virtio *v, u32 word)
{
    return word < 2 ? (u32)(v->features >> 32 * word) : 0;
}

void virtio_accept(struct virtio *v, u32 word, u32 bits)
{
    if (word < 2 && !(v->status & VIRTIO_FEATURES_OK))
        v->features = (v->features & ~(0xffffffffull << 32 * word)) | (u64)bits << 32 * word;
}

void virtio_set_queue_size(struct virtio *v, unsigned n, u64 size)
{
    if (n < v->type->queues && !v->queue[n].enabled && size && size <= VIRTQ_SIZE_MAX && !(size & (size - 1)))
        v->queue[n].size = (u16)size;
}

u64 virtio_queue_area(const struct virtio *v, unsigned n, enum virtio_area area)
{
    if (n >= v->type->queues)
        return 0;
    const struct virtq *q = &v->queue[n];
    return area == VIRTIO_AREA_DESC ? q->desc : area == VIRTIO_AREA_DRIVER ? q->driver : q->device;
}

void virtio_set_queue_area(struct virtio *v, unsigned n, enum virtio_area area, u64 at)
{
    if (n >= v->type->queues || v->queue[n].enabled)
        return;
    struct virtq *q = &v->queue[n];
    if (area == VIRTIO_AREA_DESC)
        q->desc = at & ~15ull;
    else if (area == VIRTIO_AREA_DRIVER)
        q->driver = at & ~1ull;
    else
        q->device = at & ~3ull;
}

u64 virtio_config_read(const struct virtio *v, u64 offset, unsigned size)
{
    u8 all[VIRTIO_CONFIG_MAX + sizeof(u64)] = {0};
    u64 value = 0;
    if (!v->type->get_config || offset >= v->type->config)
        return 0;
    v->type->get_config(v->self, all);
    memcpy(&value, all + offset, size);
    return value;
}

void virtio_config_write(struct virtio *v, u64 offset, unsigned size, u64 value)
{
    const struct virtio_type *t = v->type;
    u8 bytes[8];
    put_le64(bytes, value);
    if (t->set_config && offset < t->config)
        t->set_config(v->self, (unsigned)offset, (unsigned)MIN((u64)size, t->config - offset), bytes);
}

void virtio_enable_queue(struct virtio *v, unsigned n)
{
    struct virtq *q = &v->queue[n];
    if (q->enabled || !(v->status & VIRTIO_FEATURES_OK))
        return;
    q->enabled = 1;
    if (!virtq_enable(q))
        virtio_needs_reset(v);
}

void virtio_disable_queue(struct virtio *v, unsigned n)
{
    if (n >= v->type->queues || !v->queue[n].enabled)
        return;
    v->stopping |= (u8)BIT(n);
    virtio_idle(v);
}

bool virtio_queue_ready(struct virtio *v, unsigned n)
{
    virtio_idle(v);
    return n < v->type->queues && v->queue[n].enabled;
}

void virtio_kick(struct virtio *v, unsigned n)
{
    if (n < v->type->queues && virtio_live(v) && v->queue[n].enabled && !stopping(v, n))
        v->type->kick(v->self, n);
}

void virtio_kick_all(struct virtio *v)
{
    for (unsigned i = 0; i < v->type->queues; i++)
        virtio_kick(v, i);
}

int virtio_pop(struct virtio *v, unsigned n, struct virtq_chain *c)
{
    struct virtq *q = &v->queue[n];
    if (!virtio_live(v) || stopping(v, n))
        return 0;
    int r = virtq_pop(q, c);
    if (r == 0 && virtq_rearm(q))
        r = virtq_pop(q, c);
    if (q->fault)
        virtio_needs_reset(v);
    return r == 1;
}

void virtio_interrupt(struct virtio *v, unsigned n)
{
    struct virtq *q = &v->queue[n];
    if (virtq_wants_interrupt(q) && v->transport.queue)
        v->transport.queue(v->transport.ctx, v->vector[n]);
    if (q->fault)
        virtio_needs_reset(v);
}

/* --- records --- */

static int check(const void *candidate, struct error *e)
{
    const struct virtio *v = candidate;
    if (v->status & ~STATUS_ALL || v->resetting > 1)
        return error_set(e, EINVAL, "%s: status %02x can not be", v->type->name, v->status);
    if (v->status & VIRTIO_FEATURES_OK && v->features & ~v->offered)
        return error_set(e, EINVAL, "%s: features %llx, of which this machine does not have %llx", v->type->name,
                         (unsigned long long)v->features, (unsigned long long)(v->features & ~v->offered));
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        if (!virtq_valid(&v->queue[i]) || (i >= v->type->queues && v->queue[i].enabled) ||
            (v->queue[i].out && virtio_accepts(v)))
            return error_set(e, EINVAL, "%s: queue %u can not be like this", v->type->name, i);
    return 0;
}

static void loaded(void *object)
{
    struct virtio *v = object;
    v->stopping = 0; /* virtio_save has seen to that */
    for (unsigned i = 0; i < VIRTIO_QUEUES_MAX; i++)
        v->queue[i].fault = NULL; /* a queue that had one belongs to a device that needs a reset */
}

/* clang-format off */
#define QUEUE(n)                                                                                             \
    REC_FIELD(struct virtio, queue[n].size), REC_FIELD(struct virtio, queue[n].desc),                        \
    REC_FIELD(struct virtio, queue[n].driver), REC_FIELD(struct virtio, queue[n].device),                    \
    REC_FIELD(struct virtio, queue[n].enabled), REC_FIELD(struct virtio, queue[n].packed),                   \
    REC_FIELD(struct virtio, queue[n].event_index), REC_FIELD(struct virtio, queue[n].indirect),             \
    REC_FIELD(struct virtio, queue[n].next), REC_FIELD(struct virtio, queue[n].used),                        \
    REC_FIELD(struct virtio, queue[n].next_wrap), REC_FIELD(struct virtio, queue[n].used_wrap),              \
    REC_FIELD(struct virtio, queue[n].told), REC_FIELD(struct virtio, queue[n].told_valid),                  \
    REC_FIELD(struct virtio, queue[n].out)
/* clang-format on */

static const struct rec_field fields[] = {
    REC_FIELD(struct virtio, features),
    REC_FIELD(struct virtio, status),
    REC_FIELD(struct virtio, resetting),
    REC_FIELD(struct virtio, vector),
    QUEUE(0),
    QUEUE(1),
    QUEUE(2),
    QUEUE(3),
};

_Static_assert(VIRTIO_QUEUES_MAX == 4, "the record has all queues");

static const struct rec_desc record = {
    .name = "virtio",
    .type = REC_TYPE('V', 'I', 'R', 'T'),
    .version = 1,
    .object_size = sizeof(struct virtio),
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .check = check,
    .loaded = loaded,
};

int virtio_save(struct virtio *v, u16 instance, const struct rec_desc *own, const void *transport, struct rec_buf *out)
{
    if (busy(v))
        return -EBUSY;
    virtio_idle(v);
    int r = rec_save(out, own, instance, transport);
    if (!r)
        r = rec_save(out, &record, instance, v);
    if (!r && v->type->record)
        r = rec_save(out, v->type->record, instance, v->self);
    return r;
}

int virtio_load(struct virtio *v, const struct rec_desc *own, void *transport, const struct rec_view *view,
                bool check_only, struct error *e)
{
    const struct {
        const struct rec_desc *desc;
        void *object;
    } parts[] = {{own, transport}, {&record, v}, {v->type->record, v->self}};
    for (unsigned i = 0; i < ARRAY_LEN(parts); i++) {
        if (!parts[i].desc || parts[i].desc->type != view->type)
            continue;
        if (!check_only && busy(v))
            return error_set(e, EBUSY, "%s: requests are on their way", v->type->name);
        int r = check_only ? rec_check(view, parts[i].desc, parts[i].object, e)
                           : rec_load(view, parts[i].desc, parts[i].object, e);
        return r < 0 ? r : 1;
    }
    return 0;
}
