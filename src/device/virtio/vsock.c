/*
 * The socket device, register and ring side. Source: virtio 1.2, 5.10.
 *
 *   queue 0, rx      packets for the guest: | header 44 | data .. | into buffers that the driver offers
 *   queue 1, tx      packets of the guest, the same form
 *   queue 2, event   the device tells that all connections are gone
 *
 * The device knows no connection. It takes a packet apart, sees that it is one, and passes it on as a record
 * (base/vsock.h); the state of connections, and their credit, is the keeper's (backend/vsock). Data is copied: a
 * packet is in guest memory, then in the ring, and nobody looks at the first again.
 *
 * Down, the device pulls: it asks for the next packet when it has buffers for it, so the ring is where packets wait. A
 * packet that is longer than a buffer is cut into several (it is a stream). Each piece gets a header of its own.
 *
 * What must stay true
 *  1. A packet of the guest is taken only when there is room for all of its pieces on the way up.
 *  2. After a reset of the device, or a load, the keeper is told (VSOCK_GONE) before anything else goes up; a driver that was
 *     there when a machine was saved is told by the event TRANSPORT_RESET.
 *  3. Without a driver what comes down is dropped; a request for a connection is answered with VSOCK_NOBODY.
 *
 * Not done: SEQPACKET.
 */
#include "base/bytes.h"
#include "device/virtio/devices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEADER        44u
#define GUEST_LEN_MAX (64u << 10) /* Linux's own limit for a packet */
#define F_STREAM      BIT(0)
#define EVENT_RESET   0u
#define EVENT_LEN     4u

enum { Q_RX, Q_TX, Q_EVENT, QUEUES };

struct vsock {
    struct virtio v;
    struct virtio_vsock_config cfg;
    u64 cid;                /* as it is in the record */
    u8 gone;                /* the keeper is to be told */
    u8 event;               /* the driver is to be told */
    bool stalled;           /* packets of the guest wait for room */
    struct vsock_packet in; /* a packet on its way down, from in_at on; kind VSOCK_NONE: none */
    u32 in_at;
    struct virtq_chain chain;
    u8 down[VSOCK_DATA_MAX], up[VSOCK_DATA_MAX];
};

/* --- the form of a header (5.10.6) --- */

static void get_header(struct vsock_packet *p, const u8 *h)
{
    *p = (struct vsock_packet){.kind = VSOCK_PACKET,
                               .src_cid = get_le64(h),
                               .dst_cid = get_le64(h + 8),
                               .src_port = get_le32(h + 16),
                               .dst_port = get_le32(h + 20),
                               .len = get_le32(h + 24),
                               .type = get_le16(h + 28),
                               .op = get_le16(h + 30),
                               .flags = get_le32(h + 32),
                               .buf_alloc = get_le32(h + 36),
                               .fwd_cnt = get_le32(h + 40)};
}

static void put_header(u8 *h, const struct vsock_packet *p, u32 len)
{
    put_le64(h, p->src_cid);
    put_le64(h + 8, p->dst_cid);
    put_le32(h + 16, p->src_port);
    put_le32(h + 20, p->dst_port);
    put_le32(h + 24, len);
    put_le16(h + 28, p->type);
    put_le16(h + 30, p->op);
    put_le32(h + 32, p->flags);
    put_le32(h + 36, p->buf_alloc);
    put_le32(h + 40, p->fwd_cnt);
}

/* --- up --- */

/* Room for `pieces` packets? */
static bool ready(struct vsock *s, unsigned pieces)
{
    return s->cfg.ready(s->cfg.ctx, pieces * VSOCK_RECORDS);
}

static bool tell_gone(struct vsock *s)
{
    const struct vsock_packet p = {.kind = VSOCK_GONE};
    if (s->gone && ready(s, 1)) {
        s->cfg.submit(s->cfg.ctx, &p, NULL);
        s->gone = 0;
    }
    return !s->gone;
}

/* The data behind the header, in pieces. */
static void send_data(struct vsock *s, struct vsock_packet *p)
{
    u32 len = p->len, at = 0;
    while (at < len) {
        p->len = MIN(len - at, VSOCK_DATA_MAX);
        virtq_read(&s->v.queue[Q_TX], &s->chain, HEADER + at, s->up, p->len);
        s->cfg.submit(s->cfg.ctx, p, s->up);
        at += p->len;
    }
}

/* The packet in s->chain; whether it was one. */
static bool take(struct vsock *s)
{
    u8 h[HEADER];
    struct vsock_packet p;
    if (s->chain.n_in || virtq_read(&s->v.queue[Q_TX], &s->chain, 0, h, HEADER) != HEADER)
        return false;
    get_header(&p, h);
    if (p.len > GUEST_LEN_MAX || p.len > s->chain.out_len - HEADER)
        return false;
    if (p.src_cid != s->cid)
        return true; /* from nobody: dropped */
    if (p.op == VSOCK_OP_RW) {
        send_data(s, &p);
        return true;
    }
    p.len = 0;
    s->cfg.submit(s->cfg.ctx, &p, NULL);
    return true;
}

static void serve_tx(struct vsock *s)
{
    bool any = false;
    while (!(s->stalled = !tell_gone(s) || !ready(s, GUEST_LEN_MAX / VSOCK_DATA_MAX)) &&
           virtio_pop(&s->v, Q_TX, &s->chain)) {
        if (!take(s)) {
            virtio_needs_reset(&s->v);
            return;
        }
        virtq_push(&s->v.queue[Q_TX], s->chain.id, s->chain.descs, 0);
        any = true;
    }
    if (any)
        virtio_interrupt(&s->v, Q_TX);
}

/* --- down --- */

/* What came down while there was no driver. */
static void drop(struct vsock *s)
{
    struct vsock_packet p = s->in;
    s->in.kind = VSOCK_NONE;
    if (p.kind == VSOCK_PACKET && p.op == VSOCK_OP_REQUEST) {
        p.kind = VSOCK_NOBODY;
        s->cfg.submit(s->cfg.ctx, &p, NULL);
    }
}

/* As much of s->in as the next buffer takes; false when there is none. */
static bool give_piece(struct vsock *s)
{
    u8 h[HEADER];
    struct virtq *q = &s->v.queue[Q_RX];
    u32 left = s->in.len - s->in_at;
    if (!virtio_pop(&s->v, Q_RX, &s->chain))
        return false;
    if (s->chain.in_len < HEADER + (left != 0)) {
        virtio_needs_reset(&s->v); /* a buffer that takes nothing: this would not end */
        return false;
    }
    u32 len = (u32)MIN((u64)left, s->chain.in_len - HEADER);
    put_header(h, &s->in, len);
    virtq_write(q, &s->chain, 0, h, HEADER);
    virtq_write(q, &s->chain, HEADER, s->down + s->in_at, len);
    virtq_push(q, s->chain.id, s->chain.descs, HEADER + len);
    s->in_at += len;
    if (s->in_at == s->in.len)
        s->in.kind = VSOCK_NONE;
    return true;
}

static bool pull(struct vsock *s)
{
    if (s->in.kind == VSOCK_NONE && s->cfg.next(s->cfg.ctx, &s->in, s->down))
        s->in_at = 0;
    return s->in.kind != VSOCK_NONE;
}

static void serve_rx(struct vsock *s)
{
    bool any = false;
    /* Without a driver each packet may need room for an answer. */
    while (virtio_accepts(&s->v) ? pull(s) : tell_gone(s) && ready(s, 1) && pull(s)) {
        if (!virtio_accepts(&s->v)) {
            drop(s);
            continue;
        }
        if (!give_piece(s))
            break;
        any = true;
    }
    if (any && virtio_accepts(&s->v))
        virtio_interrupt(&s->v, Q_RX);
}

static void serve_event(struct vsock *s)
{
    u8 id[EVENT_LEN] = {EVENT_RESET};
    if (!s->event || !virtio_pop(&s->v, Q_EVENT, &s->chain))
        return;
    size_t n = virtq_write(&s->v.queue[Q_EVENT], &s->chain, 0, id, sizeof(id));
    virtq_push(&s->v.queue[Q_EVENT], s->chain.id, s->chain.descs, (u32)n);
    s->event = 0;
    virtio_interrupt(&s->v, Q_EVENT);
}

void virtio_vsock_settle(struct virtio *v)
{
    struct vsock *s = v->self;
    tell_gone(s);
    serve_event(s);
    if (s->stalled)
        serve_tx(s);
    serve_rx(s);
}

static void kick(void *self, unsigned n)
{
    static void (*const serve[QUEUES])(struct vsock *) = {
        [Q_RX] = serve_rx, [Q_TX] = serve_tx, [Q_EVENT] = serve_event};
    serve[n](self);
}

/* The driver of before is gone, and with it half a packet. */
static void reset(void *self)
{
    struct vsock *s = self;
    s->gone = 1;
    s->event = 0;
    s->in.kind = VSOCK_NONE;
}

/* --- what it is --- */

static void get_config(const void *self, u8 *c)
{
    put_le64(c, ((const struct vsock *)self)->cid);
}

static int check(const void *candidate, struct error *e)
{
    const struct vsock *s = candidate;
    if (s->cid == s->cfg.cid && s->event <= 1)
        return 0;
    return error_set(e, EINVAL, "virtio-vsock: context %llu there, %llu here", (unsigned long long)s->cid,
                     (unsigned long long)s->cfg.cid);
}

/* The keeper's connections were another machine's, or of another time. */
static void loaded(void *object)
{
    struct vsock *s = object;
    reset(s);
    s->event = 1;
    s->stalled = true; /* packets may wait that nobody will tell us of again */
}

static const struct rec_field fields[] = {REC_FIELD(struct vsock, cid), REC_FIELD(struct vsock, event)};

static const struct rec_desc record = {
    .name = "virtio-vsock",
    .type = REC_TYPE('V', 'S', 'C', 'K'),
    .version = 1,
    .object_size = sizeof(struct vsock),
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .check = check,
    .loaded = loaded,
};

static const struct virtio_type type = {
    .name = "virtio-vsock",
    .id = 19,
    .class_code = 0x078000,
    .queues = QUEUES,
    .config = 8,
    .record = &record,
    .kick = kick,
    .reset = reset,
    .get_config = get_config,
    .destroy = free,
};

int virtio_vsock_create(struct virtio **out, const struct device_env *env, const struct virtio_vsock_config *cfg,
                        struct error *e)
{
    struct vsock *s = calloc(1, sizeof(*s));
    if (!s)
        return error_set(e, ENOMEM, "virtio-vsock: out of memory");
    s->cfg = *cfg;
    s->cid = cfg->cid;
    virtio_init(&s->v, &type, s, env->mem, F_STREAM);
    s->gone = 0;
    *out = &s->v;
    return 0;
}
