/*
 * The network card, register and ring side. Source: virtio 1.2, 5.1.
 *
 *   queue 0, to the guest      | header 12, frame ..      |      writable; with MRG_RXBUF a frame may take several chains
 *   queue 1, from the guest    | header 12, frame ..      |      readable
 *
 * Frames go to and come from a wire (base/wire.h), on whose other end is the back end. Both ways they are copied once here,
 * between the guest's buffers and the wire. So nothing of the guest's is ever in the hands of another process: a frame that
 * was sent is complete at once, a reset or a save has nothing to wait for, and the back end does not see guest memory.
 *
 * When the wire has no room the driver's chains stay in its queue, and the back end signals when there is; when the guest has
 * no buffers the frames stay on the wire, and the driver notifies when there are. Each call takes what was there when it began.
 *
 * Theory: buffers of a large frame. A frame is put into one chain after the other as they come; only when all of it is there
 * are they given back, all in one step, with their number in the first one's header. When the ring runs out first, they are put
 * back untaken (virtq_unpop), and the frame waits.
 *
 * What must stay true
 *  1. A header is copied, checked against what the receiver takes (net_header_check), and the copy is passed on: the guest
 *     gets no header that it did not agree to, the back end none that says more than the frame has.
 *  2. The frame's length is that of the chain when it was taken; descriptors are never read again.
 *
 * Not done: several queue pairs, a control queue (filters, announcements, offloads changed while it runs), USO, RSS.
 */
#include "base/bytes.h"
#include "base/wire.h"
#include "device/virtio/devices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { RX, TX, QUEUES };

#define HEADER       ((u32)sizeof(struct net_header))
#define STATUS_UP    1u
#define ANNOUNCE_LEN 60u /* the shortest frame, without its checksum */

#define F_CSUM       BIT(0)
#define F_GUEST_CSUM BIT(1)
#define F_MTU        BIT(3)
#define F_MAC        BIT(5)
#define F_GUEST_TSO4 BIT(7)
#define F_GUEST_TSO6 BIT(8)
#define F_GUEST_ECN  BIT(9)
#define F_HOST_TSO4  BIT(11)
#define F_HOST_TSO6  BIT(12)
#define F_HOST_ECN   BIT(13)
#define F_MRG_RXBUF  BIT(15)
#define F_STATUS     BIT(16)

struct net {
    struct virtio v;
    struct virtio_net_config cfg;
    u8 mac[6]; /* as it is in the record */
    u16 mtu;
    bool link;                 /* as the driver was told */
    bool starved;              /* the guest has frames that found no room */
    u32 takes;                 /* as the back end was told */
    struct virtq_chain chain;  /* too large for the stack */
    struct virtq_chain begins; /* the chain that a frame begins in */
    struct virtq_done done[VIRTQ_SIZE_MAX];
};

/* What features the bits of `takes` are: of the host's, and of the guest's. */
static const struct {
    u32 takes;
    u64 host, guest;
} offloads[] = {
    {NET_TAKES_CSUM, F_CSUM, F_GUEST_CSUM},
    {NET_TAKES_TSO4, F_HOST_TSO4, F_GUEST_TSO4},
    {NET_TAKES_TSO6, F_HOST_TSO6, F_GUEST_TSO6},
};

static u32 guest_takes(const struct net *n)
{
    u32 takes = 0;
    for (unsigned i = 0; i < ARRAY_LEN(offloads) && virtio_live(&n->v); i++)
        takes |= n->v.features & offloads[i].guest ? offloads[i].takes : 0;
    return takes;
}

static u32 host_takes(const struct net *n)
{
    u32 takes = 0;
    for (unsigned i = 0; i < ARRAY_LEN(offloads); i++)
        takes |= n->v.features & offloads[i].host ? offloads[i].takes : 0;
    return takes;
}

/* --- from the guest --- */

/* Put the frame of n->chain at `place`; false if it is none. */
static bool send(struct net *n, u8 *place)
{
    const struct virtq_chain *c = &n->chain;
    const struct virtq *q = &n->v.queue[TX];
    struct net_header h;
    u64 len = c->out_len - HEADER;
    if (virtq_read(q, c, 0, &h, HEADER) != HEADER || len > NET_FRAME_MAX)
        return false;
    h.flags &= (u8)~NET_DATA_VALID; /* the driver has to send 0; older ones may not (5.1.6.2) */
    h.num_buffers = 0;
    if (!net_header_check(&h, (u32)len, host_takes(n)) || virtq_read(q, c, HEADER, place, len) != len)
        return false;
    wire_commit(n->cfg.wire, &h, (u32)len);
    return true;
}

static void transmit(struct net *n)
{
    bool any = false;
    u8 *place = NULL;
    while (virtio_live(&n->v) && (place = wire_reserve(n->cfg.wire, NET_FRAME_MAX)) &&
           virtio_pop(&n->v, TX, &n->chain)) {
        if (n->chain.n_in || n->chain.out_len < HEADER) {
            virtio_needs_reset(&n->v); /* no room for a header, or for an answer */
            break;
        }
        send(n, place); /* a frame that is wrong is lost, as on any other network */
        virtq_push(&n->v.queue[TX], n->chain.id, n->chain.descs, 0);
        any = true;
    }
    n->starved = virtio_live(&n->v) && !place;
    if (any)
        virtio_interrupt(&n->v, TX);
}

/* --- to the guest --- */

static void put_back(struct net *n, unsigned chains)
{
    while (chains--)
        virtq_unpop(&n->v.queue[RX], n->done[chains].descs);
}

/*
 * Fill chains with header and frame: how many it took, 0 when there are not enough yet, -1 when the driver has none that are
 * large enough.
 */
static int fill(struct net *n, struct net_header *h, const struct wire_frame *f)
{
    struct virtq *q = &n->v.queue[RX];
    bool merge = n->v.features & F_MRG_RXBUF;
    unsigned chains = 0;
    u32 done = 0;
    while (done < f->len) {
        struct virtq_chain *c = chains ? &n->chain : &n->begins;
        u32 head = chains ? 0 : HEADER;
        if (chains == VIRTQ_SIZE_MAX || !virtio_pop(&n->v, RX, c)) {
            put_back(n, chains);
            return chains == VIRTQ_SIZE_MAX ? -1 : 0;
        }
        n->done[chains++] = (struct virtq_done){.id = c->id, .descs = c->descs};
        if (c->n_out || c->in_len <= head) {
            virtio_needs_reset(&n->v);
            return 0;
        }
        u32 part = (u32)MIN((u64)(f->len - done), c->in_len - head);
        if (!merge && part < f->len) {
            put_back(n, chains);
            return -1;
        }
        virtq_write(q, c, head, f->data + done, part);
        n->done[chains - 1].len = part + head;
        done += part;
    }
    h->num_buffers = (u16)chains;
    virtq_write(q, &n->begins, 0, h, HEADER);
    return (int)chains;
}

/* One frame: whether it is dealt with. */
static bool deliver(struct net *n, const struct wire_frame *f, bool *any)
{
    struct net_header h = f->h;
    if (!virtio_live(&n->v) || !n->v.queue[RX].enabled)
        return true; /* nobody is there */
    if (!(n->takes & NET_TAKES_CSUM))
        h.flags &= (u8)~NET_DATA_VALID;
    if (!net_header_check(&h, f->len, n->takes))
        return true; /* what it took until a moment ago, or a lie */
    int chains = fill(n, &h, f);
    if (chains > 0) {
        virtq_push_all(&n->v.queue[RX], n->done, (unsigned)chains);
        *any = true;
    }
    return chains;
}

static void receive(struct net *n)
{
    struct wire_frame f;
    bool any = false;
    wire_look(n->cfg.wire);
    while (wire_peek(n->cfg.wire, &f) && deliver(n, &f, &any))
        wire_release(n->cfg.wire, &f);
    if (any)
        virtio_interrupt(&n->v, RX);
}

/* --- both --- */

static void tell_takes(struct net *n)
{
    u32 takes = guest_takes(n);
    if (takes == n->takes)
        return;
    n->takes = takes;
    wire_set_takes(n->cfg.wire, takes);
    n->cfg.signal(n->cfg.ctx, n->cfg.number);
}

/* Whether a frame moved. */
static bool serve(struct net *n, bool send_too)
{
    tell_takes(n);
    if (send_too)
        transmit(n);
    receive(n);
    bool moved = n->cfg.wire->in.moved || n->cfg.wire->out.moved;
    if (wire_news(n->cfg.wire))
        n->cfg.signal(n->cfg.ctx, n->cfg.number);
    return moved;
}

static void kick(void *self, unsigned queue)
{
    serve(self, queue == TX);
}

bool virtio_net_settle(struct virtio *v)
{
    struct net *n = v->self;
    bool link = wire_link(n->cfg.wire), moved = serve(n, n->starved);
    if (link != n->link && virtio_accepts(v) && v->transport.config)
        v->transport.config(v->transport.ctx);
    n->link = link;
    return moved;
}

/*
 * Tell switches where this address is now: a RARP request for it (RFC 903), which every port floods and nobody answers, as other
 * monitors do after a migration. A wire without room has enough of the card's own frames to tell the same.
 */
void virtio_net_announce(struct virtio *v)
{
    struct net *n = v->self;
    static const u8 fixed[] = {0x80, 0x35 /* RARP */, 0, 1 /* Ethernet */, 8, 0 /* IPv4 */, 6, 4, 0, 3 /* request */};
    const struct net_header h = {0};
    u8 *frame = wire_reserve(n->cfg.wire, ANNOUNCE_LEN);
    if (!frame)
        return;
    memset(frame, 0, ANNOUNCE_LEN);
    memset(frame, 0xff, sizeof(n->mac));
    memcpy(frame + 6, n->mac, sizeof(n->mac));
    memcpy(frame + 12, fixed, sizeof(fixed));
    memcpy(frame + 22, n->mac, sizeof(n->mac)); /* of the sender, then its IP address: none */
    memcpy(frame + 32, n->mac, sizeof(n->mac)); /* of whom it asks about */
    wire_commit(n->cfg.wire, &h, ANNOUNCE_LEN);
    if (wire_news(n->cfg.wire))
        n->cfg.signal(n->cfg.ctx, n->cfg.number);
}

/* --- frames that come with the machine --- */

size_t virtio_net_take(struct virtio *v, u8 card, u8 *out, size_t room)
{
    struct net *n = v->self;
    struct wire_frame f;
    size_t at = 0;
    wire_look(n->cfg.wire);
    for (; wire_peek(n->cfg.wire, &f); wire_release(n->cfg.wire, &f)) {
        if (room - at < NET_PACKED_HEAD + f.len)
            continue;
        memset(out + at, 0, 4);
        out[at] = card;
        put_le32(out + at + 4, f.len);
        memcpy(out + at + 8, &f.h, HEADER);
        memcpy(out + at + NET_PACKED_HEAD, f.data, f.len);
        at += NET_PACKED_HEAD + f.len;
    }
    return at;
}

void virtio_net_give(struct virtio *v, const u8 *packed, u32 len)
{
    struct net *n = v->self;
    bool any = false;
    struct wire_frame f = {.len = len, .data = packed + NET_PACKED_HEAD};
    memcpy(&f.h, packed + 8, HEADER);
    tell_takes(n);
    deliver(n, &f, &any);
    if (any)
        virtio_interrupt(&n->v, RX);
}

/* --- what it is --- */

static void get_config(const void *self, u8 *c)
{
    const struct net *n = self;
    memcpy(c, n->mac, sizeof(n->mac));
    put_le16(c + 6, wire_link(n->cfg.wire) ? STATUS_UP : 0);
    put_le16(c + 8, 1); /* pairs of queues */
    put_le16(c + 10, n->mtu);
}

static int check(const void *candidate, struct error *e)
{
    const struct net *n = candidate;
    if (memcmp(n->mac, n->cfg.info.mac, sizeof(n->mac)))
        return error_set(e, EINVAL, "network card %u has another address (mac) there than here", n->cfg.number);
    return n->mtu == n->cfg.info.mtu ? 0
                                     : error_set(e, EINVAL, "network card %u has an MTU of %u there and %u here",
                                                 n->cfg.number, n->mtu, n->cfg.info.mtu);
}

static void loaded(void *object)
{
    ((struct net *)object)->starved = true; /* look into the queue: the driver may have notified long ago */
}

static const struct rec_field fields[] = {REC_FIELD(struct net, mac), REC_FIELD(struct net, mtu)};

static const struct rec_desc record = {
    .name = "virtio-net",
    .type = REC_TYPE('V', 'N', 'E', 'T'),
    .version = 1,
    .object_size = sizeof(struct net),
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .check = check,
    .loaded = loaded,
};

static const struct virtio_type type = {
    .name = "virtio-net",
    .id = 1,
    .class_code = 0x020000,
    .queues = QUEUES,
    .config = 12,
    .record = &record,
    .kick = kick,
    .get_config = get_config,
    .destroy = free,
};

static u64 features_of(const struct net_info *i)
{
    u64 f = F_MAC | F_STATUS | F_MRG_RXBUF | (i->mtu ? F_MTU : 0);
    for (unsigned k = 0; k < ARRAY_LEN(offloads); k++)
        f |= (i->takes & offloads[k].takes ? offloads[k].host : 0) |
             (i->gives & offloads[k].takes ? offloads[k].guest : 0);
    f |= f & (F_HOST_TSO4 | F_HOST_TSO6) ? F_HOST_ECN : 0;
    f |= f & (F_GUEST_TSO4 | F_GUEST_TSO6) ? F_GUEST_ECN : 0;
    return f;
}

int virtio_net_create(struct virtio **out, const struct device_env *env, const struct virtio_net_config *cfg,
                      struct error *e)
{
    struct net *n = calloc(1, sizeof(*n));
    if (!n)
        return error_set(e, ENOMEM, "virtio-net: out of memory");
    n->cfg = *cfg;
    n->mtu = cfg->info.mtu;
    memcpy(n->mac, cfg->info.mac, sizeof(n->mac));
    virtio_init(&n->v, &type, n, env->mem, features_of(&cfg->info));
    *out = &n->v;
    return 0;
}
