/*
 * The host bridge and its bus: configuration space by ports and by memory, interrupt lines, reset, records.
 *
 *   CF8h  | enable 31 | bus 23-16 | device 15-11 | function 10-8 | register 7-2 | 0 |    32-bit accesses only
 *   CFCh  four ports: the bytes of that register
 *   ECAM  bus 27-20 | device 19-15 | function 14-12 | register 11-0: one MiB, bus 0; MCFG tells where
 *
 * A function is 256 bytes and a mask of the bits that a guest may change. Registers 100h and up (PCI Express) are there for
 * ECAM and read as zero: no extended capability. What is not there reads as ones.
 *
 * Interrupt pins go to I/O APIC inputs GSI_PCI + slot % GSI_PCI_COUNT (the DSDT's _PRT says the same); functions on one input
 * are or-ed.
 *
 * What must stay true
 *  1. Only bits of `writable` ever differ from what reset gives; a record that says otherwise is refused.
 *  2. Derived state (decoded BARs, interrupt lines) follows from configuration space and is made anew after a load.
 *
 * Not done: more than one function a slot, bridges, hot-plug, power management, MSI without X.
 */
#include "base/bytes.h"
#include "device/pci/pci_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define STATUS_INTERRUPT 0x08u
#define STATUS_CAPS      0x10u
#define CAPS_FIRST       0x40u
#define ADDRESS_ENABLE   0x80000000u
#define ADDRESS_BITS     0x80fffffcu

/* --- making a function --- */

void pci_init(struct pci_function *f, const char *name, const struct pci_ids *ids)
{
    memset(f, 0, sizeof(*f));
    f->name = name;
    f->caps_end = CAPS_FIRST;
    put_le16(f->config, ids->vendor);
    put_le16(f->config + 2, ids->device);
    f->config[8] = ids->revision;
    f->config[9] = (u8)ids->class_code;
    f->config[10] = (u8)(ids->class_code >> 8);
    f->config[11] = (u8)(ids->class_code >> 16);
    put_le16(f->config + 0x2c, ids->subvendor);
    put_le16(f->config + 0x2e, ids->subdevice);
    f->writable[0x0c] = 0xff; /* cache line size */
    f->writable[PCI_IRQ_LINE] = 0xff;
    put_le16(f->writable + PCI_COMMAND, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER | PCI_COMMAND_NO_INTX);
}

u8 pci_capability(struct pci_function *f, u8 id, u8 len)
{
    u8 at = f->caps_end;
    f->caps_end = (u8)((at + len + 3) & ~3);
    f->config[at] = id;
    f->config[at + 1] = f->config[PCI_CAPS];
    f->config[PCI_CAPS] = at;
    f->config[PCI_STATUS] |= STATUS_CAPS;
    return at;
}

int pci_add(struct pci_bus *p, struct pci_function *f, struct error *e)
{
    unsigned i = f->slot;
    while (!f->slot && i < PCI_SLOTS && p->slot[i])
        i++;
    if (i >= PCI_SLOTS || p->slot[i])
        return error_set(e, ENOSPC, "pci: no slot left for %s: all %u are taken", f->name, PCI_SLOTS);
    int r = pci_assign_bars(p, f, e);
    if (r < 0)
        return r;
    f->bus = p;
    f->slot = i;
    if (i) {
        f->config[PCI_COMMAND] = PCI_COMMAND_MEMORY;
        f->config[PCI_IRQ_PIN] = 1; /* INTA */
        f->config[PCI_IRQ_LINE] = (u8)(GSI_PCI + i % GSI_PCI_COUNT);
    }
    for (unsigned v = 0; v < f->msix_n; v++)
        f->msix_table[v * 16 + 12] = 1; /* masked */
    memcpy(f->reset, f->config, sizeof(f->reset));
    p->slot[i] = f;
    pci_map_bars(p);
    return 0;
}

/* --- what it asks of the bus --- */

bool pci_is_master(const struct pci_function *f)
{
    return f->config[PCI_COMMAND] & PCI_COMMAND_MASTER;
}

static bool drives_line(const struct pci_function *f)
{
    return f->intx && !pci_msix_enabled(f) && !(get_le16(f->config + PCI_COMMAND) & PCI_COMMAND_NO_INTX);
}

void pci_update_intx(struct pci_function *f)
{
    const struct pci_bus *p = f->bus;
    unsigned line = f->slot % GSI_PCI_COUNT;
    bool level = false;
    if (!f->slot)
        return; /* the host bridge has no pin: the input may be somebody else's */
    for (unsigned i = line; i < PCI_SLOTS; i += GSI_PCI_COUNT)
        level |= p->slot[i] && drives_line(p->slot[i]);
    p->env->irq_set(p->env->irq_ctx, GSI_PCI + line, level);
}

void pci_set_intx(struct pci_function *f, bool level)
{
    if (f->intx == level)
        return;
    f->intx = level;
    pci_update_intx(f);
}

/* --- configuration space --- */

static bool overlaps(unsigned offset, unsigned size, unsigned at, unsigned len)
{
    return offset < at + len && at < offset + size;
}

static u32 all_ones(unsigned size)
{
    return size >= 4 ? UINT32_MAX : (1u << size * 8) - 1;
}

u32 pci_config_read(struct pci_bus *p, unsigned slot, unsigned offset, unsigned size)
{
    struct pci_function *f = slot < PCI_SLOTS ? p->slot[slot] : NULL;
    u8 data[4] = {0};
    if (!f)
        return all_ones(size);
    if (offset + size > PCI_CONFIG_SIZE)
        return 0;
    memcpy(data, f->config + offset, size);
    if (offset <= PCI_STATUS && PCI_STATUS < offset + size && f->intx)
        data[PCI_STATUS - offset] |= STATUS_INTERRUPT;
    if (f->window && offset >= f->window && offset + size <= f->window + 4u)
        f->window_read(f, data, offset - f->window, size);
    return get_le32(data);
}

static void config_changed(struct pci_function *f, unsigned offset, unsigned size)
{
    bool command = overlaps(offset, size, PCI_COMMAND, 2);
    if (command || overlaps(offset, size, PCI_BAR0, 4 * PCI_BARS))
        pci_map_bars(f->bus);
    if (command || (f->msix_n && overlaps(offset, size, f->msix_cap, 4))) {
        pci_msix_changed(f);
        pci_update_intx(f);
    }
    if (command && f->command_changed)
        f->command_changed(f);
}

void pci_config_write(struct pci_bus *p, unsigned slot, unsigned offset, unsigned size, u32 value)
{
    struct pci_function *f = slot < PCI_SLOTS ? p->slot[slot] : NULL;
    u8 data[4];
    if (!f || offset + size > PCI_CONFIG_SIZE)
        return;
    put_le32(data, value);
    for (unsigned i = 0; i < size; i++) {
        u8 mask = f->writable[offset + i];
        f->config[offset + i] = (u8)((f->config[offset + i] & ~mask) | (data[i] & mask));
    }
    if (f->window && offset >= f->window && offset + size <= f->window + 4u)
        f->window_write(f, data, offset - f->window, size);
    config_changed(f, offset, size);
}

/* --- the two ways to it --- */

static u64 address_read(void *dev, u64 offset, unsigned size)
{
    const struct pci_bus *p = dev;
    return p->address;
}

static void address_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct pci_bus *p = dev;
    p->address = (u32)value & ADDRESS_BITS;
}

/* The slot that CF8h names, or PCI_SLOTS. */
static unsigned port_slot(const struct pci_bus *p)
{
    bool here = p->address & ADDRESS_ENABLE && !(p->address >> 16 & 0xff) && !(p->address >> 8 & 7);
    return here ? p->address >> 11 & 31 : PCI_SLOTS;
}

static u64 data_read(void *dev, u64 offset, unsigned size)
{
    struct pci_bus *p = dev;
    return pci_config_read(p, port_slot(p), (p->address & 0xfc) + (unsigned)offset, size);
}

static void data_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct pci_bus *p = dev;
    pci_config_write(p, port_slot(p), (p->address & 0xfc) + (unsigned)offset, size, (u32)value);
}

static unsigned ecam_slot(u64 offset)
{
    return offset >> 12 & 7 ? PCI_SLOTS : (unsigned)(offset >> 15 & 31);
}

static u64 ecam_read(void *dev, u64 offset, unsigned size)
{
    return pci_config_read(dev, ecam_slot(offset), offset & 0xfff, size);
}

static void ecam_write(void *dev, u64 offset, unsigned size, u64 value)
{
    pci_config_write(dev, ecam_slot(offset), offset & 0xfff, size, (u32)value);
}

static const struct bus_ops address_ops = {address_read, address_write, 4};
static const struct bus_ops data_ops = {data_read, data_write, 4};
/* An access across a register's end is split by the bus: no wider than 4, and ECAM's offsets are checked above. */
static const struct bus_ops ecam_ops = {ecam_read, ecam_write, 4};

/* --- life --- */

int pci_create(struct pci_bus **out, const struct device_env *env, struct error *e)
{
    static const struct pci_ids bridge = {.vendor = 0x1b36, .device = 0x0008, .class_code = 0x060000};
    struct pci_bus *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(e, ENOMEM, "pci: out of memory");
    p->env = env;
    p->next = PCI_WINDOW_BASE;
    pci_init(&p->bridge, "pci-bridge", &bridge);
    int r = pci_add(p, &p->bridge, e);
    if (!r)
        r = bus_add_pio_dword(env->bus, PORT_PCI_ADDRESS, &address_ops, p, "pci-address", e);
    if (!r)
        r = bus_add_pio(env->bus, PORT_PCI_DATA, 4, &data_ops, p, "pci-data", e);
    if (!r)
        r = bus_add_mmio(env->bus, PCI_ECAM_BASE, PCI_ECAM_SIZE, &ecam_ops, p, "pci-ecam", e);
    if (r < 0)
        free(p);
    else
        *out = p;
    return r;
}

void pci_destroy(struct pci_bus *p)
{
    free(p);
}

void pci_reset(struct pci_bus *p)
{
    p->address = 0;
    for (unsigned i = 0; i < PCI_SLOTS; i++) {
        struct pci_function *f = p->slot[i];
        if (!f)
            continue;
        memcpy(f->config, f->reset, sizeof(f->config));
        memset(f->msix_table, 0, sizeof(f->msix_table));
        for (unsigned v = 0; v < f->msix_n; v++)
            f->msix_table[v * 16 + 12] = 1;
        f->msix_pending = 0;
        f->intx = false;
        pci_update_intx(f);
    }
    pci_map_bars(p);
}

/* --- records --- */

static int bus_check(const void *candidate, struct error *e)
{
    const struct pci_bus *p = candidate;
    return p->address & ~ADDRESS_BITS ? error_set(e, EINVAL, "address register %08x can not be", p->address) : 0;
}

static const struct rec_field bus_fields[] = {REC_FIELD(struct pci_bus, address)};

static const struct rec_desc bus_record = {
    .name = "pci",
    .type = REC_TYPE('P', 'C', 'I', 'H'),
    .version = 1,
    .object_size = sizeof(struct pci_bus),
    .fields = bus_fields,
    .n_fields = ARRAY_LEN(bus_fields),
    .check = bus_check,
};

static int function_check(const void *candidate, struct error *e)
{
    const struct pci_function *f = candidate;
    for (unsigned i = 0; i < PCI_CONFIG_SIZE; i++)
        if ((f->config[i] ^ f->reset[i]) & ~f->writable[i])
            return error_set(e, EINVAL, "%s in slot %u: register %02x holds %02x, which it can not; another device?",
                             f->name, f->slot, i, f->config[i]);
    return pci_msix_valid(f) ? 0 : error_set(e, EINVAL, "%s: impossible MSI-X table", f->name);
}

static void function_loaded(void *object)
{
    struct pci_function *f = object;
    pci_map_bars(f->bus);
    pci_update_intx(f);
}

static const struct rec_field function_fields[] = {
    REC_FIELD(struct pci_function, config),
    REC_FIELD(struct pci_function, msix_table),
    REC_FIELD(struct pci_function, msix_pending),
};

static const struct rec_desc function_record = {
    .name = "pci-function",
    .type = REC_TYPE('P', 'C', 'I', 'F'),
    .version = 1,
    .object_size = sizeof(struct pci_function),
    .fields = function_fields,
    .n_fields = ARRAY_LEN(function_fields),
    .check = function_check,
    .loaded = function_loaded,
};

int pci_save(const struct pci_bus *p, struct rec_buf *out)
{
    int r = rec_save(out, &bus_record, 0, p);
    for (u16 i = 0; i < PCI_SLOTS && !r; i++)
        if (p->slot[i])
            r = rec_save(out, &function_record, i, p->slot[i]);
    return r;
}

int pci_load(struct pci_bus *p, const struct rec_view *v, bool check_only, struct error *e)
{
    const struct rec_desc *d = v->type == bus_record.type ? &bus_record : &function_record;
    void *object = d == &bus_record ? (void *)p : v->instance < PCI_SLOTS ? p->slot[v->instance] : NULL;
    if (v->type != d->type)
        return 0;
    if (!object || (d == &bus_record && v->instance))
        return error_set(e, EINVAL, "record %s: this machine has nothing in slot %u", d->name, v->instance);
    int r = check_only ? rec_check(v, d, object, e) : rec_load(v, d, object, e);
    return r < 0 ? r : 1;
}
