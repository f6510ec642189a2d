/*
 * A virtio device as a PCI function.
 *
 *   BAR 0  (64-bit, 16 KiB)   0000h common configuration    1000h ISR    2000h device configuration    3000h notify,
 *                             4 bytes a queue
 *   BAR 2  (32-bit, 4 KiB)    MSI-X: a vector a queue, and one for changes of the configuration
 *
 * Vendor capabilities tell where each region lies; one more is a window through which configuration space reaches BAR 0. A
 * register may be read or written in parts: a write of a part is merged with the register's other bytes.
 *
 * Interrupts go by MSI-X while the guest has it on, else by ISR and INTx. The driver writes the registers of a queue
 * only while the queue is off (4.1.5.1.3); such writes to a queue that is on are ignored.
 *
 * Not done: the legacy and transitional interface, VIRTIO_F_NOTIFICATION_DATA, shared memory regions.
 */
#include "device/virtio/virtio_pci.h"
#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define VENDOR        0x1af4u
#define DEVICE_FIRST  0x1040u
#define BAR_SIZE      0x4000u
#define REGION        0x1000u
#define NOTIFY_STRIDE 4u
#define CAP_LEN       16u
#define ISR_QUEUE     1u
#define ISR_CONFIG    2u

enum { CFG_COMMON = 1, CFG_NOTIFY, CFG_ISR, CFG_DEVICE, CFG_WINDOW };
enum { AT_COMMON, AT_ISR = REGION, AT_DEVICE = 2 * REGION, AT_NOTIFY = 3 * REGION };

struct virtio_pci {
    struct pci_function fn;
    struct virtio *v;
    u32 device_select, driver_select;
    u16 queue_select;
    u16 config_vector;
    u8 isr;
};

/* --- common configuration (4.1.4.3) --- */

/* X-macro: register, offset, bytes */
#define COMMON_REGISTERS(X)      \
    X(REG_DEVICE_SELECT, 0, 4)   \
    X(REG_DEVICE_FEATURE, 4, 4)  \
    X(REG_DRIVER_SELECT, 8, 4)   \
    X(REG_DRIVER_FEATURE, 12, 4) \
    X(REG_CONFIG_VECTOR, 16, 2)  \
    X(REG_QUEUES, 18, 2)         \
    X(REG_STATUS, 20, 1)         \
    X(REG_GENERATION, 21, 1)     \
    X(REG_QUEUE_SELECT, 22, 2)   \
    X(REG_QUEUE_SIZE, 24, 2)     \
    X(REG_QUEUE_VECTOR, 26, 2)   \
    X(REG_QUEUE_ENABLE, 28, 2)   \
    X(REG_QUEUE_NOTIFY, 30, 2)   \
    X(REG_QUEUE_DESC, 32, 8)     \
    X(REG_QUEUE_DRIVER, 40, 8)   \
    X(REG_QUEUE_DEVICE, 48, 8)

enum common_register {
#define X(reg, at, len) reg,
    COMMON_REGISTERS(X)
#undef X
        REG_COUNT
};

static const struct {
    u8 at, len;
} registers[REG_COUNT] = {
#define X(reg, at, len) [reg] = {at, len},
    COMMON_REGISTERS(X)
#undef X
};

/* The selected queue, or NULL. */
static struct virtq *selected(struct virtio_pci *p)
{
    return p->queue_select < p->v->type->queues ? &p->v->queue[p->queue_select] : NULL;
}

static enum virtio_area area_of(enum common_register reg)
{
    return reg == REG_QUEUE_DESC ? VIRTIO_AREA_DESC : reg == REG_QUEUE_DRIVER ? VIRTIO_AREA_DRIVER : VIRTIO_AREA_DEVICE;
}

static u64 queue_get(struct virtio_pci *p, enum common_register reg)
{
    const struct virtq *q = selected(p);
    if (!q)
        return reg == REG_QUEUE_VECTOR ? VIRTIO_NO_VECTOR : 0;
    switch (reg) {
    case REG_QUEUE_SIZE:
        return q->size;
    case REG_QUEUE_VECTOR:
        return p->v->vector[p->queue_select];
    case REG_QUEUE_ENABLE:
        return q->enabled;
    case REG_QUEUE_NOTIFY:
        return p->queue_select;
    case REG_QUEUE_DESC:
    case REG_QUEUE_DRIVER:
    case REG_QUEUE_DEVICE:
        return virtio_queue_area(p->v, p->queue_select, area_of(reg));
    default:
        return 0;
    }
}

static u64 common_get(struct virtio_pci *p, enum common_register reg)
{
    struct virtio *v = p->v;
    switch (reg) {
    case REG_DEVICE_SELECT:
        return p->device_select;
    case REG_DEVICE_FEATURE:
        return virtio_offered(v, p->device_select);
    case REG_DRIVER_SELECT:
        return p->driver_select;
    case REG_DRIVER_FEATURE:
        return virtio_accepted(v, p->driver_select);
    case REG_CONFIG_VECTOR:
        return p->config_vector;
    case REG_QUEUES:
        return v->type->queues;
    case REG_STATUS:
        return virtio_status(v);
    case REG_GENERATION:
        return virtio_generation(v);
    case REG_QUEUE_SELECT:
        return p->queue_select;
    default:
        return queue_get(p, reg);
    }
}

/* A vector that does not exist reads back as none: so a driver learns of it. */
static u16 vector(const struct virtio_pci *p, u64 value)
{
    return value < p->fn.msix_n ? (u16)value : VIRTIO_NO_VECTOR;
}

static void queue_set(struct virtio_pci *p, enum common_register reg, u64 value)
{
    if (!selected(p))
        return;
    switch (reg) {
    case REG_QUEUE_VECTOR:
        p->v->vector[p->queue_select] = vector(p, value);
        break;
    case REG_QUEUE_SIZE:
        virtio_set_queue_size(p->v, p->queue_select, value);
        break;
    case REG_QUEUE_ENABLE:
        if (value == 1)
            virtio_enable_queue(p->v, p->queue_select);
        break;
    case REG_QUEUE_DESC:
    case REG_QUEUE_DRIVER:
    case REG_QUEUE_DEVICE:
        virtio_set_queue_area(p->v, p->queue_select, area_of(reg), value);
        break;
    default:
        break;
    }
}

static void update_intx(struct virtio_pci *p)
{
    pci_set_intx(&p->fn, p->isr != 0);
}

/* What the transport holds of its own, when the device has been reset. */
static void registers_reset(struct virtio_pci *p)
{
    p->device_select = p->driver_select = 0;
    p->queue_select = 0;
    p->config_vector = VIRTIO_NO_VECTOR;
    p->isr = 0;
    update_intx(p);
}

static void common_set(struct virtio_pci *p, enum common_register reg, u64 value)
{
    switch (reg) {
    case REG_DEVICE_SELECT:
        p->device_select = (u32)value;
        break;
    case REG_DRIVER_SELECT:
        p->driver_select = (u32)value;
        break;
    case REG_DRIVER_FEATURE:
        virtio_accept(p->v, p->driver_select, (u32)value);
        break;
    case REG_CONFIG_VECTOR:
        p->config_vector = vector(p, value);
        break;
    case REG_STATUS:
        if (!value)
            registers_reset(p);
        virtio_set_status(p->v, (u8)value);
        break;
    case REG_QUEUE_SELECT:
        p->queue_select = (u16)value;
        break;
    default:
        queue_set(p, reg, value);
    }
}

/* Byte `i` of a register and so on: accesses may be parts of one, or of several. */
static u64 common_read(struct virtio_pci *p, u64 offset, unsigned size)
{
    u64 v = 0;
    for (unsigned r = 0; r < REG_COUNT; r++) {
        u64 at = registers[r].at, end = at + registers[r].len;
        if (offset >= end || offset + size <= at)
            continue;
        u8 bytes[8];
        put_le64(bytes, common_get(p, r));
        for (u64 i = MAX(offset, at); i < MIN(offset + size, end); i++)
            v |= (u64)bytes[i - at] << 8 * (i - offset);
    }
    return v;
}

static void common_write(struct virtio_pci *p, u64 offset, unsigned size, u64 value)
{
    for (unsigned r = 0; r < REG_COUNT; r++) {
        u64 at = registers[r].at, end = at + registers[r].len;
        if (offset >= end || offset + size <= at)
            continue;
        u8 bytes[8];
        put_le64(bytes, common_get(p, r));
        for (u64 i = MAX(offset, at); i < MIN(offset + size, end); i++)
            bytes[i - at] = (u8)(value >> 8 * (i - offset));
        common_set(p, r, get_le64(bytes) & (registers[r].len == 8 ? UINT64_MAX : BIT(registers[r].len * 8) - 1));
    }
}

/* --- the other regions --- */

/* Reading tells what the interrupt was for and takes it back. */
static u64 isr_read(struct virtio_pci *p)
{
    u8 isr = p->isr;
    p->isr = 0;
    update_intx(p);
    return isr;
}

static u64 bar_read(void *dev, u64 offset, unsigned size)
{
    struct virtio_pci *p = dev;
    u64 at = offset % REGION;
    switch (offset - at) {
    case AT_COMMON:
        return common_read(p, at, size);
    case AT_ISR:
        return at ? 0 : isr_read(p);
    case AT_DEVICE:
        return virtio_config_read(p->v, at, size);
    default:
        return 0;
    }
}

static void bar_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct virtio_pci *p = dev;
    u64 at = offset % REGION;
    if (offset - at == AT_COMMON)
        common_write(p, at, size, value);
    else if (offset - at == AT_DEVICE)
        virtio_config_write(p->v, at, size, value);
    else if (offset - at == AT_NOTIFY)
        virtio_kick(p->v, (unsigned)(at / NOTIFY_STRIDE));
}

static const struct bus_ops bar_ops = {bar_read, bar_write, 0};

/* --- the window in configuration space (4.1.4.9) --- */

/* Where it looks: an offset in BAR 0, or false when there is nothing of that width. */
static bool window_at(const struct pci_function *f, u32 *offset, u32 *len)
{
    const u8 *cap = f->config + f->window - CAP_LEN;
    *offset = get_le32(cap + 8);
    *len = get_le32(cap + 12);
    return cap[4] == 0 && (*len == 1 || *len == 2 || *len == 4) && !(*offset % *len) && *offset <= BAR_SIZE - *len;
}

static void window_read(struct pci_function *f, u8 *data, unsigned offset, unsigned size)
{
    u32 at, len;
    u8 all[8] = {0};
    if (offset || !window_at(f, &at, &len))
        return;
    put_le64(all, bar_read((struct virtio_pci *)f, at, len));
    memcpy(data, all, size);
}

static void window_write(struct pci_function *f, const u8 *data, unsigned offset, unsigned size)
{
    u32 at, len;
    if (!offset && window_at(f, &at, &len) && len <= size)
        bar_write((struct virtio_pci *)f, at, len, get_le32(data) & (len == 4 ? ~0u : (1u << len * 8) - 1));
}

/* --- interrupts --- */

static void interrupt(struct virtio_pci *p, unsigned which, u8 why)
{
    if (pci_msix_enabled(&p->fn)) {
        pci_msix_send(&p->fn, which);
        return;
    }
    p->isr |= why;
    update_intx(p);
}

static void queue_interrupt(void *ctx, unsigned which)
{
    interrupt(ctx, which, ISR_QUEUE);
}

static void config_interrupt(void *ctx)
{
    struct virtio_pci *p = ctx;
    interrupt(p, p->config_vector, ISR_CONFIG);
}

static bool may_dma(void *ctx)
{
    const struct virtio_pci *p = ctx;
    return pci_is_master(&p->fn);
}

/* What waits in the queues was not looked at while the function was no master. */
static void command_changed(struct pci_function *f)
{
    virtio_kick_all(((struct virtio_pci *)f)->v);
}

/* --- life --- */

static u8 region(struct virtio_pci *p, u8 type, u32 at, u32 len, u8 extra)
{
    u8 cap = pci_capability(&p->fn, PCI_CAP_VENDOR, (u8)(CAP_LEN + extra));
    u8 *c = p->fn.config + cap;
    c[2] = (u8)(CAP_LEN + extra);
    c[3] = type;
    put_le32(c + 8, at);
    put_le32(c + 12, len);
    return cap;
}

static void capabilities(struct virtio_pci *p)
{
    const struct virtio_type *t = p->v->type;
    region(p, CFG_COMMON, AT_COMMON, 56, 0);
    region(p, CFG_ISR, AT_ISR, 1, 0);
    if (t->config)
        region(p, CFG_DEVICE, AT_DEVICE, t->config, 0);
    put_le32(p->fn.config + region(p, CFG_NOTIFY, AT_NOTIFY, NOTIFY_STRIDE * t->queues, 4) + CAP_LEN, NOTIFY_STRIDE);
    u8 cap = region(p, CFG_WINDOW, 0, 0, 4);
    p->fn.writable[cap + 4] = 0xff;
    memset(p->fn.writable + cap + 8, 0xff, 8);
    p->fn.window = (u8)(cap + CAP_LEN);
    p->fn.window_read = window_read;
    p->fn.window_write = window_write;
}

int virtio_pci_create(struct virtio_pci **out, struct pci_bus *bus, struct virtio *v, struct error *e)
{
    const struct pci_ids ids = {.vendor = VENDOR,
                                .device = (u16)(DEVICE_FIRST + v->type->id),
                                .subvendor = VENDOR,
                                .subdevice = (u16)(DEVICE_FIRST + v->type->id),
                                .class_code = v->type->class_code,
                                .revision = 1};
    struct virtio_pci *p = calloc(1, sizeof(*p));
    int r = p ? 0 : error_set(e, ENOMEM, "%s: out of memory", v->type->name);
    if (p) {
        p->v = v;
        p->config_vector = VIRTIO_NO_VECTOR;
        pci_init(&p->fn, v->type->name, &ids);
        pci_set_bar(&p->fn, 0, BAR_SIZE, true, &bar_ops, p);
        capabilities(p);
        pci_set_msix(&p->fn, v->type->queues + 1, 2);
        p->fn.command_changed = command_changed;
        p->fn.slot = v->slot;
        v->transport = (struct virtio_transport){queue_interrupt, config_interrupt, may_dma, p};
        r = pci_add(bus, &p->fn, e);
    }
    if (r < 0) {
        v->type->destroy(v->self);
        free(p);
    } else {
        *out = p;
    }
    return r;
}

void virtio_pci_destroy(struct virtio_pci *p)
{
    if (!p)
        return;
    p->v->type->destroy(p->v->self);
    free(p);
}

void virtio_pci_reset(struct virtio_pci *p)
{
    virtio_reset(p->v);
    registers_reset(p);
}

unsigned virtio_pci_slot(const struct virtio_pci *p)
{
    return p->fn.slot;
}

struct virtio *virtio_pci_device(struct virtio_pci *p)
{
    return p->v;
}

/* --- records --- */

static int check(const void *candidate, struct error *e)
{
    const struct virtio_pci *p = candidate;
    bool none = p->config_vector == VIRTIO_NO_VECTOR;
    if (p->isr & ~(ISR_QUEUE | ISR_CONFIG) || (!none && p->config_vector >= p->fn.msix_n))
        return error_set(e, EINVAL, "interrupt status %02x, vector %u can not be", p->isr, p->config_vector);
    return 0;
}

static void loaded(void *object)
{
    update_intx(object);
}

static const struct rec_field fields[] = {
    REC_FIELD(struct virtio_pci, device_select), REC_FIELD(struct virtio_pci, driver_select),
    REC_FIELD(struct virtio_pci, queue_select),  REC_FIELD(struct virtio_pci, config_vector),
    REC_FIELD(struct virtio_pci, isr),
};

static const struct rec_desc record = {
    .name = "virtio-pci",
    .type = REC_TYPE('V', 'P', 'C', 'I'),
    .version = 1,
    .object_size = sizeof(struct virtio_pci),
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .check = check,
    .loaded = loaded,
};

int virtio_pci_save(struct virtio_pci *p, struct rec_buf *out)
{
    return virtio_save(p->v, (u16)p->fn.slot, &record, p, out);
}

int virtio_pci_load(struct virtio_pci *p, const struct rec_view *v, bool check_only, struct error *e)
{
    return virtio_load(p->v, &record, p, v, check_only, e);
}
