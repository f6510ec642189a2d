/*
 * Base address registers.
 *
 * A BAR of 2^n bytes keeps bits n and up of what is written; the lower ones read as zero (and the type). A guest finds
 * the size by writing ones. It may put a BAR anywhere: onto RAM, onto another device, onto another BAR, half out of the address
 * space. So no BAR is believed:
 *
 *  1. What is decoded follows from the present values alone, not from the order in which they were written (a machine that
 *     was saved and loaded must decode the same): each change takes all BARs off the bus and puts them back in the order of
 *     slots.
 *  2. A BAR that touches RAM, or a range which is on the bus already, is not decoded: fixed devices win over BARs, low slots
 *     over high ones. Reads there give all ones until it is moved away.
 *  3. The local APIC needs no check: its page is taken by the processor before the bus is asked.
 *
 * Not done: I/O BARs, expansion ROMs.
 */
#include "base/bytes.h"
#include "device/pci/pci_internal.h"

#include <errno.h>

#define BAR_64 0x4u

static u8 *bar_register(struct pci_function *f, unsigned index)
{
    return f->config + PCI_BAR0 + 4 * index;
}

u64 pci_bar_address(const struct pci_function *f, unsigned index)
{
    const u8 *r = f->config + PCI_BAR0 + 4 * index;
    u64 a = get_le32(r) & ~0xfull;
    return f->bar[index].wide ? a | (u64)get_le32(r + 4) << 32 : a;
}

void pci_set_bar(struct pci_function *f, unsigned index, u64 size, bool wide, const struct bus_ops *ops, void *dev)
{
    u64 mask = ~(size - 1);
    f->bar[index] = (struct pci_bar){.size = size, .wide = wide, .ops = ops, .dev = dev};
    put_le32(bar_register(f, index), wide ? BAR_64 : 0);
    put_le32(f->writable + PCI_BAR0 + 4 * index, (u32)mask & ~0xfu);
    if (wide)
        put_le32(f->writable + PCI_BAR0 + 4 * index + 4, (u32)(mask >> 32));
}

int pci_assign_bars(struct pci_bus *p, struct pci_function *f, struct error *e)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        u64 size = f->bar[i].size, at = size ? (p->next + size - 1) & ~(size - 1) : 0;
        if (!size)
            continue;
        if (at - PCI_WINDOW_BASE > PCI_WINDOW_SIZE || size > PCI_WINDOW_SIZE - (at - PCI_WINDOW_BASE))
            return error_set(e, ENOSPC, "pci: no addresses left for %s, which needs %llu bytes", f->name,
                             (unsigned long long)size);
        put_le32(bar_register(f, i), (u32)at | (f->bar[i].wide ? BAR_64 : 0));
        p->next = at + size;
    }
    return 0;
}

static bool in_ram(const struct device_env *env, u64 at, u64 size)
{
    u64 high_end = MEM_HIGH_BASE + env->ram_high;
    return at < env->ram_low || (env->ram_high && at < high_end && at + (size - 1) >= MEM_HIGH_BASE);
}

static void map_function(struct pci_bus *p, struct pci_function *f)
{
    for (unsigned i = 0; i < PCI_BARS; i++) {
        struct pci_bar *b = &f->bar[i];
        u64 at = b->size ? pci_bar_address(f, i) : 0;
        if (!b->size || !(f->config[PCI_COMMAND] & PCI_COMMAND_MEMORY) || in_ram(p->env, at, b->size))
            continue;
        struct error none = {0};
        b->mapped = bus_add_mmio(p->env->bus, at, b->size, b->ops, b->dev, f->name, &none) == 0;
        b->at = at;
    }
}

static void unmap_function(struct pci_bus *p, struct pci_function *f)
{
    for (unsigned i = 0; i < PCI_BARS; i++)
        if (f->bar[i].mapped) {
            bus_remove_mmio(p->env->bus, f->bar[i].at, f->bar[i].dev);
            f->bar[i].mapped = false;
        }
}

void pci_map_bars(struct pci_bus *p)
{
    for (unsigned i = 0; i < PCI_SLOTS; i++)
        if (p->slot[i])
            unmap_function(p, p->slot[i]);
    for (unsigned i = 0; i < PCI_SLOTS; i++)
        if (p->slot[i])
            map_function(p, p->slot[i]);
}
