/*
 * The file-system device, register and ring side. Source: virtio 1.2, 5.11; the messages are FUSE's (linux/fuse.h).
 *
 *   queue 0, hiprio     questions that must not wait behind others (FORGET)
 *   queue 1, requests   | header 40, arguments .. |  readable;  | header 16, results .. |  writable
 *
 * The device knows a question's length, opcode and number, and nothing else of it: it copies the question into a slot
 * of the line (base/share.h), and the answer back into guest memory. What it means is the back end's, which has no guest memory.
 * So a guest that changes a question after it was sent changes nothing.
 *
 * When all slots are taken the driver's chains stay in their queue.
 *
 * What must stay true
 *  1. A slot is given out once until its answer has come; an answer to no question ends the line.
 *  2. The answer's header is made here, from the question's number and the length that was checked: the guest gets the error
 *     and the bytes of the back end, no more of them than the chain has room for.
 *  3. After a reset nothing is given back: slots of the time before are merely freed (virtio_accepts).
 *  4. When the back end has ended, or lies, each question is answered by an error: no guest waits for ever.
 *
 * Not done: several request queues, the notification queue, DAX.
 */
#include "base/bytes.h"
#include "base/share.h"
#include "device/virtio/devices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

enum { HIPRIO, REQUESTS, QUEUES };

/* Opcodes without an answer. */
enum { OP_FORGET = 2, OP_INTERRUPT = 36, OP_BATCH_FORGET = 42 };

struct fs_slot {
    bool busy;
    u8 queue;
    u8 unique[8]; /* of the question */
    u32 room;
    struct virtq_chain chain;
};

struct fs {
    struct virtio v;
    struct virtio_fs_config cfg;
    u8 tag[SHARE_TAG_MAX]; /* as it is in the record */
    u8 read_only;
    bool lost;           /* the back end has lied: nothing of it is taken any more */
    bool pushed[QUEUES]; /* the driver has not been told of the last ones */
    unsigned on_way;
    struct fs_slot slot[SHARE_SLOTS];
};

static bool reachable(const struct fs *f)
{
    return !f->lost && share_up(f->cfg.line);
}

/* --- giving back --- */

static void give_back(struct fs *f, struct fs_slot *s, u32 len)
{
    virtq_push(&f->v.queue[s->queue], s->chain.id, s->chain.descs, len);
    f->pushed[s->queue] = true;
}

/* `len` bytes of answer, header included, whose results are in the slot; error < 0: there are none. */
static void answer(struct fs *f, struct fs_slot *s, const u8 *results, u32 len, s32 error)
{
    const struct virtq *q = &f->v.queue[s->queue];
    u8 head[SHARE_ANSWER_HEAD];
    if (!s->room) {
        give_back(f, s, 0);
        return;
    }
    put_le32(head, len);
    put_le32(head + 4, (u32)error);
    memcpy(head + 8, s->unique, 8);
    virtq_write(q, &s->chain, 0, head, sizeof(head));
    virtq_write(q, &s->chain, sizeof(head), results, len - SHARE_ANSWER_HEAD);
    give_back(f, s, len);
}

static void fail(struct fs *f, struct fs_slot *s, s32 error)
{
    answer(f, s, NULL, SHARE_ANSWER_HEAD, error);
}

/* An answer has come; false when it can not be one. */
static bool done(struct fs *f, const struct share_answer *a)
{
    if (a->slot >= SHARE_SLOTS || !f->slot[a->slot].busy)
        return false;
    struct fs_slot *s = &f->slot[a->slot];
    bool none = !s->room && !a->len;
    if (!none && (a->len < SHARE_ANSWER_HEAD || a->len > s->room))
        return false;
    s->busy = false;
    f->on_way--;
    if (!virtio_accepts(&f->v))
        return true;
    const u8 *place = share_answer_place(f->cfg.line, a->slot);
    u8 head[SHARE_ANSWER_HEAD];
    memcpy(head, place, sizeof(head));
    s32 error = (s32)get_le32(head + 4);
    if (error)
        fail(f, s, error > 0 || error <= -4096 ? -EIO : error);
    else
        answer(f, s, place + SHARE_ANSWER_HEAD, a->len, 0);
    return true;
}

static bool take_answers(struct fs *f)
{
    struct share_answer a;
    bool any = false;
    int r = 0;
    while (!f->lost && (r = share_receive(f->cfg.line, &a)) > 0) {
        f->lost = !done(f, &a);
        any = true;
    }
    f->lost |= r < 0;
    if (reachable(f))
        return any;
    for (unsigned i = 0; i < SHARE_SLOTS; i++) {
        struct fs_slot *s = &f->slot[i];
        if (!s->busy)
            continue;
        s->busy = false;
        f->on_way--;
        any = true;
        if (virtio_accepts(&f->v))
            fail(f, s, -ENOTCONN);
    }
    return any;
}

/* --- taking --- */

static struct fs_slot *free_slot(struct fs *f)
{
    for (unsigned i = 0; i < SHARE_SLOTS; i++)
        if (!f->slot[i].busy)
            return &f->slot[i];
    return NULL;
}

/* The chain in `s`: ask the back end, or answer at once. */
static void request(struct fs *f, struct fs_slot *s)
{
    const struct virtq *q = &f->v.queue[s->queue];
    u32 n = (u32)(s - f->slot), len = (u32)MIN(s->chain.out_len, (u64)SHARE_ASK_MAX + 1);
    u8 *place = share_question_place(f->cfg.line, n), head[SHARE_ASK_HEAD];
    if (virtq_read(q, &s->chain, 0, head, sizeof(head)) != sizeof(head)) {
        virtio_needs_reset(&f->v); /* no question */
        return;
    }
    u32 op = get_le32(head + 4);
    bool silent = op == OP_FORGET || op == OP_BATCH_FORGET || op == OP_INTERRUPT;
    s->room = silent ? 0 : (u32)MIN(s->chain.in_len, (u64)SHARE_ANSWER_MAX);
    if (!silent && s->room < SHARE_ANSWER_HEAD) {
        virtio_needs_reset(&f->v); /* nowhere to put an answer */
        return;
    }
    memcpy(s->unique, head + 8, 8);
    if (len > SHARE_ASK_MAX || !reachable(f)) {
        fail(f, s, reachable(f) ? -E2BIG : -ENOTCONN);
        return;
    }
    const struct share_ask a = {.slot = n, .len = len, .room = s->room};
    memcpy(place, head, sizeof(head));
    virtq_read(q, &s->chain, sizeof(head), place + sizeof(head), len - sizeof(head));
    s->busy = true;
    f->on_way++;
    if (!share_send(f->cfg.line, &a))
        f->lost = true;
}

static bool serve_queue(struct fs *f, unsigned n)
{
    struct fs_slot *s;
    bool any = false;
    while ((s = free_slot(f)) && f->v.queue[n].enabled && virtio_pop(&f->v, n, &s->chain)) {
        s->queue = (u8)n;
        request(f, s);
        any = true;
    }
    return any;
}

static bool serve(struct fs *f)
{
    bool any = take_answers(f);
    any |= serve_queue(f, HIPRIO);
    any |= serve_queue(f, REQUESTS);
    any |= f->lost && take_answers(f);
    for (unsigned i = 0; i < QUEUES; i++) {
        if (f->pushed[i] && virtio_accepts(&f->v))
            virtio_interrupt(&f->v, i);
        f->pushed[i] = false;
    }
    if (share_news(f->cfg.line))
        f->cfg.signal(f->cfg.ctx, f->cfg.number);
    return any;
}

static void kick(void *self, unsigned queue)
{
    serve(self);
}

bool virtio_fs_settle(struct virtio *v)
{
    bool any = serve(v->self);
    virtio_idle(v);
    return any;
}

static bool busy(const void *self)
{
    const struct fs *f = self;
    return f->on_way;
}

/* --- what it is --- */

static void get_config(const void *self, u8 *c)
{
    const struct fs *f = self;
    memcpy(c, f->tag, sizeof(f->tag));
    put_le32(c + sizeof(f->tag), QUEUES - REQUESTS);
}

static int check(const void *candidate, struct error *e)
{
    const struct fs *f = candidate;
    const struct share_info *i = f->cfg.info;
    if (memcmp(f->tag, i->tag, sizeof(f->tag)))
        return error_set(e, EINVAL, "share %u has another tag there than here, where it is %.*s", f->cfg.number,
                         (int)sizeof(i->tag), i->tag);
    return f->read_only == i->read_only
               ? 0
               : error_set(e, EINVAL, "share %.*s is %s there and %s here", (int)sizeof(i->tag), i->tag,
                           f->read_only ? "read-only" : "writable", i->read_only ? "read-only" : "writable");
}

static const struct rec_field fields[] = {REC_FIELD(struct fs, tag), REC_FIELD(struct fs, read_only)};

static const struct rec_desc record = {
    .name = "virtio-fs",
    .type = REC_TYPE('V', 'F', 'S', 'D'),
    .version = 1,
    .object_size = sizeof(struct fs),
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .check = check,
};

static const struct virtio_type type = {
    .name = "virtio-fs",
    .id = 26,
    .class_code = 0x018000,
    .queues = QUEUES,
    .config = SHARE_TAG_MAX + 4,
    .record = &record,
    .kick = kick,
    .busy = busy,
    .get_config = get_config,
    .destroy = free,
};

int virtio_fs_create(struct virtio **out, const struct device_env *env, const struct virtio_fs_config *cfg,
                     struct error *e)
{
    struct fs *f = calloc(1, sizeof(*f));
    if (!f)
        return error_set(e, ENOMEM, "virtio-fs: out of memory");
    f->cfg = *cfg;
    f->read_only = !!cfg->info->read_only;
    memcpy(f->tag, cfg->info->tag, sizeof(f->tag));
    virtio_init(&f->v, &type, f, env->mem, 0);
    *out = &f->v;
    return 0;
}
