/*
 * MSI-X: a table of messages in a BAR, a mask a vector, pending bits. Source: PCI Local Bus 3.0, 6.8.2.
 *
 *   capability   | id 11h | next | control: enable 15, mask all 14, size-1 10-0 |   table: offset, BAR | PBA: offset, BAR
 *   BAR          000h table, 16 bytes a vector: address (8), data (4), control: mask 0     800h pending bits
 *
 * A vector is sent at once, or marked as pending while it or the function is masked, or the function may not master the bus;
 * what is pending is sent as soon as nothing holds it back. Address and data are the guest's own: whatever they hold goes
 * to the interrupt controllers as a message, never to memory.
 */
#include "base/bytes.h"
#include "device/pci/pci_internal.h"

#include <string.h>

#define PBA_AT      0x800u
#define CONTROL     2u /* offset in the capability */
#define ENABLE      0x8000u
#define MASK_ALL    0x4000u
#define VECTOR_CTRL 12u
#define VECTOR_MASK 1u

_Static_assert(PCI_MSIX_MAX * 16 <= PBA_AT && PBA_AT + 8 <= PCI_MSIX_BAR, "table and pending bits fit");

static u16 control(const struct pci_function *f)
{
    return f->msix_n ? get_le16(f->config + f->msix_cap + CONTROL) : 0;
}

bool pci_msix_enabled(const struct pci_function *f)
{
    return control(f) & ENABLE;
}

static bool held_back(const struct pci_function *f, unsigned v)
{
    return control(f) & MASK_ALL || f->msix_table[v * 16 + VECTOR_CTRL] & VECTOR_MASK || !pci_is_master(f);
}

void pci_msix_send(struct pci_function *f, unsigned v)
{
    const struct device_env *env = f->bus->env;
    if (v >= f->msix_n || !pci_msix_enabled(f))
        return;
    if (held_back(f, v)) {
        f->msix_pending |= BIT(v);
        return;
    }
    const u8 *t = f->msix_table + v * 16;
    f->msix_pending &= ~BIT(v);
    if (env->msi)
        env->msi(env->irq_ctx, get_le64(t), get_le32(t + 8));
}

void pci_msix_changed(struct pci_function *f)
{
    for (unsigned v = 0; v < f->msix_n && f->msix_pending; v++)
        if (f->msix_pending >> v & 1)
            pci_msix_send(f, v);
}

static u64 msix_read(void *dev, u64 offset, unsigned size)
{
    const struct pci_function *f = dev;
    u64 v = 0;
    if (offset + size <= f->msix_n * 16)
        memcpy(&v, f->msix_table + offset, size);
    else if (offset >= PBA_AT && offset + size <= PBA_AT + 8)
        memcpy(&v, (const u8 *)&f->msix_pending + (offset - PBA_AT), size);
    return v;
}

static void msix_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct pci_function *f = dev;
    if (offset + size > f->msix_n * 16)
        return;
    memcpy(f->msix_table + offset, &value, size);
    for (u64 v = offset / 16; v <= (offset + size - 1) / 16; v++)
        put_le32(f->msix_table + v * 16 + VECTOR_CTRL, f->msix_table[v * 16 + VECTOR_CTRL] & VECTOR_MASK);
    pci_msix_changed(f);
}

static const struct bus_ops msix_ops = {msix_read, msix_write, 0};

void pci_set_msix(struct pci_function *f, unsigned n, unsigned bar)
{
    f->msix_n = n;
    f->msix_cap = pci_capability(f, PCI_CAP_MSIX, 12);
    u8 *cap = f->config + f->msix_cap;
    put_le16(cap + CONTROL, (u16)(n - 1));
    put_le16(f->writable + f->msix_cap + CONTROL, ENABLE | MASK_ALL);
    put_le32(cap + 4, bar);
    put_le32(cap + 8, PBA_AT | bar);
    pci_set_bar(f, bar, PCI_MSIX_BAR, false, &msix_ops, f);
}

bool pci_msix_valid(const struct pci_function *f)
{
    if (f->msix_n < 64 && f->msix_pending >> f->msix_n)
        return false;
    for (unsigned v = 0; v < PCI_MSIX_MAX; v++)
        if (get_le32(f->msix_table + v * 16 + VECTOR_CTRL) & ~VECTOR_MASK)
            return false;
    return true;
}
