/*
 * The console device, register and ring side. Source: virtio 1.2, 5.3.
 *
 *   queue 0, rx    bytes typed, into buffers that the driver offers; a buffer comes back with what there was
 *   queue 1, tx    bytes printed
 *   configuration  | cols u16 | rows u16 | max_nr_ports u32 | emerg_wr u32: a byte to be printed, written by the driver |
 *
 * Output is offered to the machine's console. What it does not take stays in the guest: the chain goes back into the queue
 * (virtq_unpop), `tx_at` says how much of it is out, and settling goes on there once there is room. So the device holds no chain, a
 * guest that prints what nobody reads waits for it as long as it takes, and a turn ends at the latest when the console's ring is full. The
 * emergency write has no way to say "wait": a few bytes are kept, more are lost.
 *
 * Input is pushed as far as buffers go when it comes (virtio_console_input), and pulled when the driver offers more of
 * them. What is not taken waits where it came from.
 *
 * Theory: when the driver learns that output is out. Linux waits for it in a loop, with interrupts off: an interrupt of its own for
 * each chain would come when there is nothing left to do, and after a hundred thousand such in a row Linux turns it off
 * ("nobody cared"). So it is sent TOLD_LATER_NS after the chain has come back, if the driver still wants it then, which with the event
 * index it does only if it has not seen the chain yet.
 *
 * Theory: when the driver learns the size. A change is told by a configuration interrupt. But the size is mostly known before there is
 * a driver, and Linux (drivers/char/virtio_console.c) reads it after such an interrupt alone; one that comes before it has
 * its work item made up is dangerous, one before its port is in its list is lost; and neither can be seen from here. So
 * nothing is told before the driver's first chain; with its and later notifications the size is told again, at distances that
 * double from TELL_FIRST_NS on: some twenty times in a day, each of which costs the driver two reads.
 *
 * What must stay true
 *  1. tx_at belongs to the chain that is next in queue 1; a driver that puts another one there loses or repeats its own bytes.
 *  2. The size is the host's: it is not in the record, and a driver that was saved is told the present one.
 *
 * Not done: MULTIPORT. (There is one stream to carry; and the order of rows and columns in its resize message is one in the
 * specification and another in Linux, so the size would be right in some guests only.)
 */
#include "base/bytes.h"
#include "device/virtio/devices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define CHUNK         4096u
#define PULL          256u
#define URGENT_MAX    64u
#define TOLD_LATER_NS 200000u
#define TELL_FIRST_NS 4000000u
#define F_SIZE        BIT(0)
#define F_EMERG_WRITE BIT(2)
#define AT_EMERG      8u

enum { Q_RX, Q_TX, QUEUES };

struct console {
    struct virtio v;
    struct virtio_console_config cfg;
    struct vclock *clock;
    u16 cols, rows; /* 0: not known */
    u8 generation;  /* changes with them */
    u8 begun;       /* the driver has put something into a queue */
    u64 tell_at;    /* guest ns, from which on the size may be told again; and how long to wait then */
    u64 tell_gap;
    bool stalled;       /* output waits for room */
    struct vtimer told; /* runs while the driver is to be told that output is out ... */
    u8 told_due;        /* ... which this says for the record */
    u64 tx_at;          /* bytes of the next chain of queue 1 that are out */
    u8 n_urgent;        /* emergency writes that wait for room */
    u8 urgent[URGENT_MAX];
    struct virtq_chain chain; /* too large for the stack */
};

/* --- output --- */

static size_t offer(struct console *c, const u8 *data, size_t len)
{
    size_t n = c->cfg.out ? c->cfg.out(c->cfg.ctx, data, len) : len;
    return MIN(n, len);
}

/* Whether none is left. */
static bool send_urgent(struct console *c)
{
    size_t n = c->n_urgent ? offer(c, c->urgent, c->n_urgent) : 0;
    c->n_urgent -= (u8)n;
    memmove(c->urgent, c->urgent + n, c->n_urgent);
    return !c->n_urgent;
}

/* The chain taken, from tx_at on; whether all of it is out. */
static bool send_chain(struct console *c)
{
    u8 buf[CHUNK];
    while (c->tx_at < c->chain.out_len) {
        size_t len = virtq_read(&c->v.queue[Q_TX], &c->chain, c->tx_at, buf, sizeof(buf)), n = offer(c, buf, len);
        c->tx_at += n;
        if (n < len)
            return false;
        if (!len)
            break;
    }
    c->tx_at = 0;
    return true;
}

static void tell_out(void *ctx)
{
    struct console *c = ctx;
    c->told_due = 0;
    if (virtio_accepts(&c->v))
        virtio_interrupt(&c->v, Q_TX);
}

static void tell_out_later(struct console *c)
{
    if (!c->told_due)
        vtimer_set(c->clock, &c->told, vclock_ns(c->clock) + TOLD_LATER_NS);
    c->told_due = 1;
}

static void serve_tx(struct console *c)
{
    bool any = false;
    while (!(c->stalled = !send_urgent(c)) && virtio_pop(&c->v, Q_TX, &c->chain)) {
        c->begun = 1;
        if (c->chain.n_in) {
            virtio_needs_reset(&c->v);
            return;
        }
        if (!send_chain(c)) {
            virtq_unpop(&c->v.queue[Q_TX], c->chain.descs);
            c->stalled = true;
            break;
        }
        virtq_push(&c->v.queue[Q_TX], c->chain.id, c->chain.descs, 0);
        any = true;
    }
    if (any)
        tell_out_later(c);
}

/* --- input --- */

/* A chain to receive into. */
static bool take_buffer(struct console *c)
{
    if (!virtio_pop(&c->v, Q_RX, &c->chain))
        return false;
    c->begun = 1;
    if (c->chain.in_len)
        return true;
    virtio_needs_reset(&c->v); /* a buffer that takes nothing */
    return false;
}

static size_t fill(struct console *c, const u8 *data, size_t len)
{
    size_t n = virtq_write(&c->v.queue[Q_RX], &c->chain, 0, data, len);
    virtq_push(&c->v.queue[Q_RX], c->chain.id, c->chain.descs, (u32)n);
    return n;
}

size_t virtio_console_input(struct virtio *v, const u8 *data, size_t len)
{
    struct console *c = v->self;
    size_t done = 0;
    while (done < len && take_buffer(c))
        done += fill(c, data + done, len - done);
    if (done)
        virtio_interrupt(v, Q_RX);
    return done;
}

static void serve_rx(struct console *c)
{
    u8 buf[PULL];
    bool any = false;
    while (take_buffer(c)) {
        size_t room = (size_t)MIN((u64)PULL, c->chain.in_len), n = c->cfg.in ? c->cfg.in(c->cfg.ctx, buf, room) : 0;
        if (!n) {
            virtq_unpop(&c->v.queue[Q_RX], c->chain.descs);
            break;
        }
        fill(c, buf, MIN(n, room));
        any = true;
    }
    if (any)
        virtio_interrupt(&c->v, Q_RX);
}

/* --- size --- */

static void tell_size(struct console *c)
{
    u64 now = vclock_ns(c->clock);
    if (!c->begun || !c->cols || !(c->v.features & F_SIZE) || now < c->tell_at)
        return;
    c->tell_at = now + c->tell_gap;
    c->tell_gap *= 2;
    virtio_config_changed(&c->v);
}

void virtio_console_size(struct virtio *v, u16 cols, u16 rows)
{
    struct console *c = v->self;
    if (cols == c->cols && rows == c->rows)
        return;
    c->cols = cols;
    c->rows = rows;
    c->generation++;
    c->tell_at = 0;
    tell_size(c);
}

/* --- both --- */

static void kick(void *self, unsigned n)
{
    struct console *c = self;
    if (n == Q_TX)
        serve_tx(c);
    else
        serve_rx(c);
    tell_size(c);
}

void virtio_console_settle(struct virtio *v)
{
    struct console *c = v->self;
    if (c->stalled)
        serve_tx(c);
    tell_size(c);
}

static void reset(void *self)
{
    struct console *c = self;
    c->tx_at = 0;
    c->told_due = 0;
    vtimer_stop(c->clock, &c->told);
    c->begun = 0;
    c->tell_at = 0;
    c->tell_gap = TELL_FIRST_NS;
}

/* --- what it is --- */

static void get_config(const void *self, u8 *out)
{
    const struct console *c = self;
    put_le16(out, c->cols);
    put_le16(out + 2, c->rows);
    put_le32(out + 4, 1); /* ports */
    put_le32(out + AT_EMERG, 0);
}

/* The low byte of emerg_wr counts (5.3.4). It may come at any time, before there is a driver, too. */
static void set_config(void *self, unsigned at, unsigned len, const u8 *data)
{
    struct console *c = self;
    if (at > AT_EMERG || at + len <= AT_EMERG)
        return;
    if (c->n_urgent < URGENT_MAX)
        c->urgent[c->n_urgent++] = data[AT_EMERG - at];
    c->stalled |= !send_urgent(c);
}

static u8 generation(const void *self)
{
    return ((const struct console *)self)->generation;
}

static void destroy(void *self)
{
    struct console *c = self;
    vtimer_remove(c->clock, &c->told);
    free(c);
}

static int check(const void *candidate, struct error *e)
{
    const struct console *c = candidate;
    if (c->n_urgent <= URGENT_MAX && c->told_due <= 1 && c->begun <= 1)
        return 0;
    return error_set(e, EINVAL, "virtio-console: %u bytes wait, %u can, or no flags: %u, %u", c->n_urgent, URGENT_MAX,
                     c->told_due, c->begun);
}

static void loaded(void *object)
{
    struct console *c = object;
    c->tell_at = 0;
    c->tell_gap = TELL_FIRST_NS;
    c->stalled = true; /* look: what waited there waits here */
    vtimer_stop(c->clock, &c->told);
    if (c->told_due)
        vtimer_set(c->clock, &c->told, vclock_ns(c->clock) + TOLD_LATER_NS);
}

static const struct rec_field fields[] = {
    REC_FIELD(struct console, tx_at),    REC_FIELD(struct console, told_due), REC_FIELD(struct console, begun),
    REC_FIELD(struct console, n_urgent), REC_FIELD(struct console, urgent),
};

static const struct rec_desc record = {
    .name = "virtio-console",
    .type = REC_TYPE('V', 'C', 'O', 'N'),
    .version = 1,
    .object_size = sizeof(struct console),
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .check = check,
    .loaded = loaded,
};

static const struct virtio_type type = {
    .name = "virtio-console",
    .id = 3,
    .class_code = 0x078000,
    .queues = QUEUES,
    .config = 12,
    .record = &record,
    .kick = kick,
    .reset = reset,
    .get_config = get_config,
    .set_config = set_config,
    .generation = generation,
    .destroy = destroy,
};

int virtio_console_create(struct virtio **out, const struct device_env *env, const struct virtio_console_config *cfg,
                          struct error *e)
{
    struct console *c = calloc(1, sizeof(*c));
    if (!c)
        return error_set(e, ENOMEM, "virtio-console: out of memory");
    c->cfg = *cfg;
    c->clock = env->clock;
    vtimer_init(c->clock, &c->told, tell_out, c);
    virtio_init(&c->v, &type, c, env->mem, F_SIZE | F_EMERG_WRITE);
    *out = &c->v;
    return 0;
}
