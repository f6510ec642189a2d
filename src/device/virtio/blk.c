/*
 * The block device, register and ring side. Source: virtio 1.2, 5.2.
 *
 *   chain   | type 4, reserved 4, sector 8 |  data ...  | status 1 |      readable, readable or writable, writable
 *
 * How the driver cuts a chain into pieces is its own business (2.7.4): the first 16 readable bytes are the header, the last
 * writable byte is the status, what is left is data. A request that is wrong in itself (beyond the end, no whole sectors,
 * unknown) is answered here; one that can be asked goes to the back end (base/disk.h) as a tag and the places of its
 * data, and comes back as a tag and a status. No data passes through this process.
 *
 * When an answer to a read comes, the other process has written to guest memory: the traces are told of these ranges
 * before the driver hears of it.
 *
 * What must stay true
 *  1. A tag is given out once until its answer has come; an answer to no question is refused.
 *  2. After a reset nothing is given back: slots of the time before are merely freed (virtio_accepts).
 *  3. A request is taken from the queue only when there is a slot and room for it on the way.
 *
 * Not done: several queues, VIRTIO_BLK_F_CONFIG_WCE, SECURE_ERASE, ZONED, LIFETIME; more than one range in a discard.
 */
#include "base/bytes.h"
#include "device/virtio/devices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEADER         16u
#define RANGE          16u /* of a discard: sector 8, sectors 4, flags 4 */
#define SEG_MAX        126u
#define SIZE_MAX_      (512u << 10) /* bytes of a segment, as told to the driver */
#define RANGE_MAX      0x400000u    /* sectors of a discard: 2 GiB */
#define ID_LEN         20u

#define F_SIZE_MAX     BIT(1)
#define F_SEG_MAX      BIT(2)
#define F_RO           BIT(5)
#define F_BLK_SIZE     BIT(6)
#define F_FLUSH        BIT(9)
#define F_DISCARD      BIT(13)
#define F_WRITE_ZEROES BIT(14)

enum { T_IN = 0, T_OUT = 1, T_FLUSH = 4, T_GET_ID = 8, T_DISCARD = 11, T_WRITE_ZEROES = 13 };
enum { S_OK, S_IOERR, S_UNSUPP };

/* A request on its way. */
struct blk_slot {
    bool busy;
    u16 id, descs; /* of its chain */
    gpa_t status_at;
    u32 written; /* bytes that the driver is told of */
    u16 n_in;    /* places that the back end writes */
    struct disk_seg in[DISK_SEGS_MAX];
};

struct blk {
    struct virtio v;
    struct virtio_blk_config cfg;
    u64 sectors; /* the size, as it is in the record */
    bool pushed; /* the driver has not been told of the last ones */
    unsigned on_way;
    struct blk_slot slot[DISK_TAGS];
    struct virtq_chain chain;
    struct disk_seg segs[DISK_SEGS_MAX];
};

/* --- giving back --- */

static void give_back(struct blk *b, u16 id, u16 descs, gpa_t status_at, u8 status, u32 written)
{
    mem_write(b->v.mem, status_at, &status, 1); /* it was in memory when the chain was taken */
    virtq_push(&b->v.queue[0], id, descs, written);
    b->pushed = true;
}

static gpa_t status_place(const struct virtq_chain *c)
{
    const struct virtq_seg *last = &c->seg[c->n_out + c->n_in - 1];
    return GPA(last->at.v + last->len - 1);
}

/* Answer the chain in b->chain at once; `written` bytes of data stand in it. */
static void answer(struct blk *b, u8 status, u32 written)
{
    give_back(b, b->chain.id, b->chain.descs, status_place(&b->chain), status, written + 1);
}

int virtio_blk_done(struct virtio *v, u32 tag, enum disk_status status)
{
    static const u8 code[] = {[DISK_OK] = S_OK, [DISK_FAILED] = S_IOERR, [DISK_UNSUPPORTED] = S_UNSUPP};
    struct blk *b = v->self;
    if (tag >= DISK_TAGS || !b->slot[tag].busy)
        return -EPROTO;
    struct blk_slot *s = &b->slot[tag];
    s->busy = false;
    b->on_way--;
    for (unsigned i = 0; i < s->n_in; i++)
        virtq_touch(v->mem, GPA(s->in[i].at), s->in[i].len);
    if (virtio_accepts(v))
        give_back(b, s->id, s->descs, s->status_at, status < ARRAY_LEN(code) ? code[status] : S_IOERR, s->written);
    return 0;
}

/* --- taking --- */

/* Put bytes [skip, skip + len) of `n` pieces into b->segs; how many it took, or -1 when they are too many. */
static int cut(struct blk *b, const struct virtq_seg *s, unsigned n, u64 skip, u64 len)
{
    int used = 0;
    for (unsigned i = 0; i < n && len; i++) {
        if (skip >= s[i].len) {
            skip -= s[i].len;
            continue;
        }
        u32 part = (u32)MIN(len, s[i].len - skip);
        if (used == DISK_SEGS_MAX)
            return -1;
        b->segs[used++] = (struct disk_seg){.at = s[i].at.v + skip, .len = part};
        len -= part;
        skip = 0;
    }
    return used;
}

static struct blk_slot *free_slot(struct blk *b)
{
    for (unsigned i = 0; i < DISK_TAGS; i++)
        if (!b->slot[i].busy)
            return &b->slot[i];
    return NULL;
}

/* Send a request for the chain in b->chain; r->n_segs of its data are in b->segs. */
static void send(struct blk *b, struct disk_request *r, u32 written)
{
    struct blk_slot *s = free_slot(b);
    r->disk = b->cfg.number;
    r->tag = (u32)(s - b->slot);
    s->busy = true;
    s->id = b->chain.id;
    s->descs = b->chain.descs;
    s->status_at = status_place(&b->chain);
    s->written = written + 1;
    s->n_in = r->op == DISK_READ ? (u16)r->n_segs : 0;
    memcpy(s->in, b->segs, s->n_in * sizeof(s->in[0]));
    b->on_way++;
    b->cfg.submit(b->cfg.ctx, r, b->segs);
}

static void transfer(struct blk *b, enum disk_op op, u64 sector)
{
    const struct virtq_chain *c = &b->chain;
    bool in = op == DISK_READ;
    u64 len = in ? c->in_len - 1 : c->out_len - HEADER;
    struct disk_request r = {.op = op, .sector = sector, .sectors = len / DISK_SECTOR};
    int n = len <= DISK_BYTES_MAX
                ? cut(b, in ? c->seg + c->n_out : c->seg, in ? c->n_in : c->n_out, in ? 0 : HEADER, len)
                : -1;
    r.n_segs = n < 0 ? 0 : (u32)n;
    if (n < 0 || len % DISK_SECTOR || disk_request_check(&r, &b->cfg.info) < 0)
        answer(b, S_IOERR, 0);
    else
        send(b, &r, in ? (u32)len : 0);
}

static void flush(struct blk *b)
{
    struct disk_request r = {.op = DISK_FLUSH};
    if (b->cfg.info.flags & DISK_WRITE_CACHE)
        send(b, &r, 0);
    else
        answer(b, S_OK, 0);
}

static void range(struct blk *b, enum disk_op op)
{
    u8 d[RANGE];
    u32 known = op == DISK_ZERO ? DISK_MAY_UNMAP : 0;
    bool offered = b->cfg.info.flags & DISK_CAN_DISCARD && !(b->cfg.info.flags & DISK_READ_ONLY);
    if (!offered || b->chain.out_len != HEADER + RANGE ||
        virtq_read(&b->v.queue[0], &b->chain, HEADER, d, sizeof(d)) != sizeof(d)) {
        answer(b, offered ? S_IOERR : S_UNSUPP, 0);
        return;
    }
    struct disk_request r = {.op = op, .sector = get_le64(d), .sectors = get_le32(d + 8), .flags = get_le32(d + 12)};
    if (r.flags & ~known)
        answer(b, S_UNSUPP, 0);
    else if (r.sectors > RANGE_MAX || disk_request_check(&r, &b->cfg.info) < 0)
        answer(b, S_IOERR, 0);
    else
        send(b, &r, 0);
}

static void get_id(struct blk *b)
{
    size_t len = MIN(b->chain.in_len - 1, ID_LEN);
    len = virtq_write(&b->v.queue[0], &b->chain, 0, b->cfg.info.serial, len);
    answer(b, S_OK, (u32)len);
}

static void request(struct blk *b)
{
    u8 head[HEADER];
    if (b->chain.in_len < 1 || virtq_read(&b->v.queue[0], &b->chain, 0, head, HEADER) != HEADER) {
        virtio_needs_reset(&b->v); /* nowhere to put an answer, or no question */
        return;
    }
    u64 sector = get_le64(head + 8);
    switch (get_le32(head)) {
    case T_IN:
        transfer(b, DISK_READ, sector);
        break;
    case T_OUT:
        transfer(b, DISK_WRITE, sector);
        break;
    case T_FLUSH:
        flush(b);
        break;
    case T_GET_ID:
        get_id(b);
        break;
    case T_DISCARD:
        range(b, DISK_DISCARD);
        break;
    case T_WRITE_ZEROES:
        range(b, DISK_ZERO);
        break;
    default:
        answer(b, S_UNSUPP, 0);
    }
}

static void serve(struct blk *b)
{
    while (b->on_way < DISK_TAGS && b->cfg.ready(b->cfg.ctx) && virtio_pop(&b->v, 0, &b->chain))
        request(b);
    if (b->pushed && virtio_accepts(&b->v))
        virtio_interrupt(&b->v, 0);
    b->pushed = false;
}

static void kick(void *self, unsigned n)
{
    serve(self);
}

void virtio_blk_settle(struct virtio *v)
{
    serve(v->self);
    virtio_idle(v);
}

static bool busy(const void *self)
{
    const struct blk *b = self;
    return b->on_way;
}

/* --- what it is --- */

static void get_config(const void *self, u8 *c)
{
    const struct blk *b = self;
    put_le64(c, b->sectors);
    put_le32(c + 8, SIZE_MAX_);
    put_le32(c + 12, SEG_MAX);
    put_le32(c + 20, DISK_SECTOR);
    put_le16(c + 34, 1); /* queues */
    put_le32(c + 36, RANGE_MAX);
    put_le32(c + 40, 1); /* ranges in a discard */
    put_le32(c + 44, 8); /* their alignment: 4 KiB is what file systems can give back */
    put_le32(c + 48, RANGE_MAX);
    put_le32(c + 52, 1);
    c[56] = 1; /* zeroes may unmap */
}

static int check(const void *candidate, struct error *e)
{
    const struct blk *b = candidate;
    return b->sectors == b->cfg.info.sectors
               ? 0
               : error_set(e, EINVAL, "disk %u has %llu sectors there and %llu here", b->cfg.number,
                           (unsigned long long)b->sectors, (unsigned long long)b->cfg.info.sectors);
}

static const struct rec_field fields[] = {REC_FIELD(struct blk, sectors)};

static const struct rec_desc record = {
    .name = "virtio-blk",
    .type = REC_TYPE('V', 'B', 'L', 'K'),
    .version = 1,
    .object_size = sizeof(struct blk),
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .check = check,
};

static const struct virtio_type type = {
    .name = "virtio-blk",
    .id = 2,
    .class_code = 0x018000,
    .queues = 1,
    .config = 60,
    .record = &record,
    .kick = kick,
    .busy = busy,
    .get_config = get_config,
    .destroy = free,
};

int virtio_blk_create(struct virtio **out, const struct device_env *env, const struct virtio_blk_config *cfg,
                      struct error *e)
{
    struct blk *b = calloc(1, sizeof(*b));
    u64 features = F_SIZE_MAX | F_SEG_MAX | F_BLK_SIZE;
    if (!b)
        return error_set(e, ENOMEM, "virtio-blk: out of memory");
    b->cfg = *cfg;
    b->sectors = cfg->info.sectors;
    features |= cfg->info.flags & DISK_READ_ONLY ? F_RO : 0;
    features |= cfg->info.flags & DISK_WRITE_CACHE ? F_FLUSH : 0;
    if (cfg->info.flags & DISK_CAN_DISCARD && !(cfg->info.flags & DISK_READ_ONLY))
        features |= F_DISCARD | F_WRITE_ZEROES;
    virtio_init(&b->v, &type, b, env->mem, features);
    *out = &b->v;
    return 0;
}
