/*
 * Virtio devices in windows of memory.
 *
 *   VIRTIO_MMIO_BASE + n * VIRTIO_MMIO_STRIDE     000h registers of 32 bits     100h configuration of device n
 *
 * Each device has a page of its own, so that a guest can give it to a program of its own. A window without a device shows
 * the device number 0, which tells drivers to look elsewhere (4.2.2): so the ACPI tables name all windows and need not know which
 * devices there are.
 *
 * Registers take aligned accesses of 32 bits; whatever else comes is read as 0 and not written. In the configuration any
 * width and place is good. What the registers of a queue hold follows the same rules as over PCI (virtio.c); here a driver
 * can take a queue back as well: QueueReady reads 1 until nothing of that queue is on its way any more. So does Status after a
 * reset: a driver that wants its memory back has to look.
 *
 * Interrupts are levels: high while InterruptStatus is not 0, which is until all of its bits are acknowledged. There are more
 * windows than inputs of the I/O APIC, so windows n and n + 8 share one: it is high while any of them wants it. What is acknowledged
 * after it has come again is not lost: drivers acknowledge before they look into the queues.
 *
 * Not done: version 1 of the registers (legacy); QueueReset (VIRTIO_F_RING_RESET is not offered), NOTIFICATION_DATA, shared
 * memory regions, wake-up of sleeping machines.
 */
#include "device/virtio/virtio_mmio.h"
#include "machine/platform.h"

#include <errno.h>
#include <stdlib.h>

#define MAGIC      0x74726976u /* "virt" */
#define VERSION    2u
#define VENDOR     0x1af4u
#define CONFIG     0x100u
#define ISR_QUEUE  1u
#define ISR_CONFIG 2u

/* 4.2.2, table 4.1 */
enum {
    REG_MAGIC = 0x000,
    REG_VERSION = 0x004,
    REG_DEVICE_ID = 0x008,
    REG_VENDOR_ID = 0x00c,
    REG_DEVICE_FEATURES = 0x010,
    REG_DEVICE_FEATURES_SEL = 0x014,
    REG_DRIVER_FEATURES = 0x020,
    REG_DRIVER_FEATURES_SEL = 0x024,
    REG_QUEUE_SEL = 0x030,
    REG_QUEUE_NUM_MAX = 0x034,
    REG_QUEUE_NUM = 0x038,
    REG_QUEUE_READY = 0x044,
    REG_QUEUE_NOTIFY = 0x050,
    REG_INTERRUPT_STATUS = 0x060,
    REG_INTERRUPT_ACK = 0x064,
    REG_STATUS = 0x070,
    REG_QUEUE_DESC = 0x080, /* and the upper half behind it, as with the next two */
    REG_QUEUE_DRIVER = 0x090,
    REG_QUEUE_DEVICE = 0x0a0,
    REG_SHM_LEN = 0x0b0,
    REG_SHM_BASE = 0x0b8,
    REG_CONFIG_GENERATION = 0x0fc,
};

struct window {
    struct virtio_mmio *all;
    unsigned n;
    struct virtio *v; /* NULL: empty */
    u32 device_select, driver_select, queue_select;
    u8 isr;
};

struct virtio_mmio {
    const struct device_env *env;
    struct window window[VIRTIO_MMIO_WINDOWS];
};

/* --- interrupts --- */

static void update_line(const struct window *w)
{
    const struct virtio_mmio *m = w->all;
    unsigned gsi = GSI_VIRTIO_MMIO(w->n);
    bool level = false;
    for (unsigned i = 0; i < VIRTIO_MMIO_WINDOWS; i++)
        level |= GSI_VIRTIO_MMIO(i) == gsi && m->window[i].isr;
    m->env->irq_set(m->env->irq_ctx, gsi, level);
}

static void set_isr(struct window *w, u8 isr)
{
    if (w->isr == isr)
        return;
    w->isr = isr;
    update_line(w);
}

static void queue_interrupt(void *ctx, unsigned vector)
{
    struct window *w = ctx;
    set_isr(w, w->isr | ISR_QUEUE);
}

static void config_interrupt(void *ctx)
{
    struct window *w = ctx;
    set_isr(w, w->isr | ISR_CONFIG);
}

/* --- registers --- */

static u32 device_reg_read(struct window *w, u32 reg)
{
    struct virtio *v = w->v;
    switch (reg) {
    case REG_DEVICE_ID:
        return v->type->id;
    case REG_VENDOR_ID:
        return VENDOR;
    case REG_DEVICE_FEATURES:
        return virtio_offered(v, w->device_select);
    case REG_QUEUE_NUM_MAX:
        return w->queue_select < v->type->queues ? VIRTQ_SIZE_MAX : 0;
    case REG_QUEUE_READY:
        return virtio_queue_ready(v, w->queue_select);
    case REG_INTERRUPT_STATUS:
        return w->isr;
    case REG_STATUS:
        return virtio_status(v);
    case REG_SHM_LEN: /* no region has a length or a place: all ones (4.2.2.1) */
    case REG_SHM_LEN + 4:
    case REG_SHM_BASE:
    case REG_SHM_BASE + 4:
        return UINT32_MAX;
    case REG_CONFIG_GENERATION:
        return virtio_generation(v);
    default: /* those that are only written, and those that are not there */
        return 0;
    }
}

static u32 reg_read(struct window *w, u32 reg)
{
    if (reg == REG_MAGIC)
        return MAGIC;
    if (reg == REG_VERSION)
        return VERSION;
    return w->v ? device_reg_read(w, reg) : 0;
}

/* Bits beyond a byte mean nothing; only a 0 as a whole is a reset. */
static void set_status(struct window *w, u32 value)
{
    if (!value) {
        w->device_select = w->driver_select = w->queue_select = 0;
        set_isr(w, 0);
    }
    if (!value || (u8)value)
        virtio_set_status(w->v, (u8)value);
}

/* One half of the address of a part of the selected queue. */
static void set_area(struct window *w, u32 reg, u32 value)
{
    enum virtio_area area = reg < REG_QUEUE_DRIVER   ? VIRTIO_AREA_DESC
                            : reg < REG_QUEUE_DEVICE ? VIRTIO_AREA_DRIVER
                                                     : VIRTIO_AREA_DEVICE;
    unsigned shift = reg & 4 ? 32 : 0;
    u64 other = virtio_queue_area(w->v, w->queue_select, area) & ~(0xffffffffull << shift);
    virtio_set_queue_area(w->v, w->queue_select, area, other | (u64)value << shift);
}

static void set_ready(struct window *w, u32 value)
{
    if (w->queue_select >= w->v->type->queues)
        return;
    if (value == 1)
        virtio_enable_queue(w->v, w->queue_select);
    else if (!value)
        virtio_disable_queue(w->v, w->queue_select);
}

static void reg_write(struct window *w, u32 reg, u32 value)
{
    switch (reg) {
    case REG_DEVICE_FEATURES_SEL:
        w->device_select = value;
        break;
    case REG_DRIVER_FEATURES_SEL:
        w->driver_select = value;
        break;
    case REG_DRIVER_FEATURES:
        virtio_accept(w->v, w->driver_select, value);
        break;
    case REG_QUEUE_SEL:
        w->queue_select = value;
        break;
    case REG_QUEUE_NUM:
        virtio_set_queue_size(w->v, w->queue_select, value);
        break;
    case REG_QUEUE_READY:
        set_ready(w, value);
        break;
    case REG_QUEUE_NOTIFY:
        virtio_kick(w->v, value);
        break;
    case REG_INTERRUPT_ACK:
        set_isr(w, w->isr & (u8)~value);
        break;
    case REG_STATUS:
        set_status(w, value);
        break;
    case REG_QUEUE_DESC:
    case REG_QUEUE_DESC + 4:
    case REG_QUEUE_DRIVER:
    case REG_QUEUE_DRIVER + 4:
    case REG_QUEUE_DEVICE:
    case REG_QUEUE_DEVICE + 4:
        set_area(w, reg, value);
        break;
    default: /* those that are only read; which shared memory is selected: all are the same */
        break;
    }
}

/* Of an access as the bus gives it; `at` is in the window. */
static bool is_register(u64 at, unsigned size)
{
    return at < CONFIG && size == 4 && !(at % 4);
}

static u64 window_read(void *dev, u64 offset, unsigned size)
{
    struct virtio_mmio *m = dev;
    struct window *w = &m->window[offset / VIRTIO_MMIO_STRIDE];
    u64 at = offset % VIRTIO_MMIO_STRIDE;
    if (is_register(at, size))
        return reg_read(w, (u32)at);
    return at >= CONFIG && w->v ? virtio_config_read(w->v, at - CONFIG, size) : 0;
}

static void window_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct virtio_mmio *m = dev;
    struct window *w = &m->window[offset / VIRTIO_MMIO_STRIDE];
    u64 at = offset % VIRTIO_MMIO_STRIDE;
    if (!w->v)
        return;
    if (is_register(at, size))
        reg_write(w, (u32)at, (u32)value);
    else if (at >= CONFIG)
        virtio_config_write(w->v, at - CONFIG, size, value);
}

static const struct bus_ops ops = {window_read, window_write, 4};

/* --- life --- */

int virtio_mmio_create(struct virtio_mmio **out, const struct device_env *env, struct error *e)
{
    struct virtio_mmio *m = calloc(1, sizeof(*m));
    if (!m)
        return error_set(e, ENOMEM, "virtio-mmio: out of memory");
    m->env = env;
    for (unsigned i = 0; i < VIRTIO_MMIO_WINDOWS; i++)
        m->window[i] = (struct window){.all = m, .n = i};
    int r =
        bus_add_mmio(env->bus, VIRTIO_MMIO_BASE, VIRTIO_MMIO_WINDOWS * VIRTIO_MMIO_STRIDE, &ops, m, "virtio-mmio", e);
    if (r < 0)
        free(m);
    else
        *out = m;
    return r;
}

void virtio_mmio_destroy(struct virtio_mmio *m)
{
    for (unsigned i = 0; m && i < VIRTIO_MMIO_WINDOWS; i++)
        if (m->window[i].v)
            m->window[i].v->type->destroy(m->window[i].v->self);
    free(m);
}

int virtio_mmio_add(struct virtio_mmio *m, struct virtio *v, struct error *e)
{
    unsigned n = v->slot ? v->slot : 1;
    while (!v->slot && n < VIRTIO_MMIO_WINDOWS && m->window[n].v)
        n++;
    if (n >= VIRTIO_MMIO_WINDOWS || m->window[n].v) {
        error_set(e, ENOSPC, "virtio-mmio: no window left for %s: %u devices are possible", v->type->name,
                  VIRTIO_MMIO_WINDOWS - 1);
        v->type->destroy(v->self);
        return -ENOSPC;
    }
    struct window *w = &m->window[n];
    w->v = v;
    v->slot = n;
    v->transport = (struct virtio_transport){queue_interrupt, config_interrupt, NULL, w};
    return 0;
}

void virtio_mmio_reset(struct virtio_mmio *m)
{
    for (unsigned i = 0; i < VIRTIO_MMIO_WINDOWS; i++) {
        struct window *w = &m->window[i];
        if (!w->v)
            continue;
        virtio_reset(w->v);
        w->device_select = w->driver_select = w->queue_select = 0;
        set_isr(w, 0);
    }
}

/* --- records --- */

static int check(const void *candidate, struct error *e)
{
    const struct window *w = candidate;
    if (w->isr & ~(ISR_QUEUE | ISR_CONFIG))
        return error_set(e, EINVAL, "interrupt status %02x can not be", w->isr);
    return 0;
}

/* Windows are loaded in their order: the last one on an input knows its level, those before it see what others were. */
static void loaded(void *object)
{
    const struct window *w = object;
    for (unsigned i = w->n + 1; i < VIRTIO_MMIO_WINDOWS; i++)
        if (GSI_VIRTIO_MMIO(i) == GSI_VIRTIO_MMIO(w->n) && w->all->window[i].v)
            return;
    update_line(w);
}

static const struct rec_field fields[] = {
    REC_FIELD(struct window, device_select),
    REC_FIELD(struct window, driver_select),
    REC_FIELD(struct window, queue_select),
    REC_FIELD(struct window, isr),
};

static const struct rec_desc record = {
    .name = "virtio-mmio",
    .type = REC_TYPE('V', 'M', 'M', 'I'),
    .version = 1,
    .object_size = sizeof(struct window),
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .check = check,
    .loaded = loaded,
};

int virtio_mmio_save(struct virtio_mmio *m, struct rec_buf *out)
{
    int r = 0;
    for (unsigned i = 0; i < VIRTIO_MMIO_WINDOWS && !r; i++)
        if (m->window[i].v)
            r = virtio_save(m->window[i].v, (u16)i, &record, &m->window[i], out);
    return r;
}

int virtio_mmio_load(struct virtio_mmio *m, const struct rec_view *view, bool check_only, struct error *e)
{
    struct window *w = view->instance < VIRTIO_MMIO_WINDOWS ? &m->window[view->instance] : NULL;
    return w && w->v ? virtio_load(w->v, &record, w, view, check_only, e) : 0;
}
