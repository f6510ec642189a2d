#include "device/bus.h"

#include <errno.h>
#include <string.h>

/* Index of the first range that ends above `a`: the one that holds it, or the place to insert. */
static unsigned find(const struct bus_range *r, unsigned n, u64 a)
{
    unsigned lo = 0, hi = n;
    while (lo < hi) {
        unsigned mid = (lo + hi) / 2;
        if (r[mid].base + (r[mid].len - 1) < a)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo;
}

static const struct bus_range *at(const struct bus_range *r, unsigned n, u64 a)
{
    unsigned i = find(r, n, a);
    return i < n && a >= r[i].base ? &r[i] : NULL;
}

static int add(struct bus_range *r, unsigned *n, struct bus_range what, struct error *e)
{
    unsigned long long first = what.base, last = what.base + (what.len - 1);
    if (!what.len || last < first)
        return error_set(e, EINVAL, "bus: the range of %s at %#llx is empty or wraps", what.name, first);
    if (*n == BUS_MAX_RANGES)
        return error_set(e, ENOSPC, "bus: no room for %s: all %d ranges are in use", what.name, BUS_MAX_RANGES);
    unsigned i = find(r, *n, what.base);
    if (i < *n && r[i].base <= last)
        return error_set(e, EEXIST, "bus: %s at %#llx overlaps %s", what.name, first, r[i].name);
    memmove(&r[i + 1], &r[i], (*n - i) * sizeof(*r));
    r[i] = what;
    ++*n;
    return 0;
}

int bus_add_pio(struct bus *b, u16 base, u16 len, const struct bus_ops *ops, void *dev, const char *name,
                struct error *e)
{
    if (base + len > 0x10000)
        return error_set(e, EINVAL, "bus: the ports of %s at %#x go beyond ffffh", name, base);
    return add(b->pio, &b->n_pio, (struct bus_range){base, len, ops, dev, name}, e);
}

int bus_add_mmio(struct bus *b, u64 base, u64 len, const struct bus_ops *ops, void *dev, const char *name,
                 struct error *e)
{
    return add(b->mmio, &b->n_mmio, (struct bus_range){base, len, ops, dev, name}, e);
}

int bus_add_pio_dword(struct bus *b, u16 port, const struct bus_ops *ops, void *dev, const char *name, struct error *e)
{
    if (b->n_dword == BUS_MAX_DWORDS)
        return error_set(e, ENOSPC, "bus: no room for %s: all %d places of 32-bit ports are in use", name,
                         BUS_MAX_DWORDS);
    b->dword[b->n_dword++] = (struct bus_range){port, 4, ops, dev, name};
    return 0;
}

void bus_remove_mmio(struct bus *b, u64 base, const void *dev)
{
    unsigned i = find(b->mmio, b->n_mmio, base);
    if (i == b->n_mmio || b->mmio[i].base != base || b->mmio[i].dev != dev)
        return;
    memmove(&b->mmio[i], &b->mmio[i + 1], (b->n_mmio - i - 1) * sizeof(b->mmio[0]));
    b->n_mmio--;
}

static const struct bus_range *dword_at(const struct bus *b, u16 port, unsigned size)
{
    for (unsigned i = 0; size == 4 && i < b->n_dword; i++)
        if (b->dword[i].base == port)
            return &b->dword[i];
    return NULL;
}

/* Does the whole access go to `r` in one piece? */
static bool takes(const struct bus_range *r, u64 a, unsigned size)
{
    return size <= r->len - (a - r->base) && (!r->ops->width || size <= r->ops->width);
}

static u64 mask_of(unsigned size)
{
    return size >= 8 ? UINT64_MAX : BIT(size * 8) - 1;
}

static u64 bus_read(const struct bus_range *table, unsigned n, u64 a, unsigned size)
{
    const struct bus_range *r = at(table, n, a);
    if (r && takes(r, a, size))
        return r->ops->read(r->dev, a - r->base, size) & mask_of(size);
    if (size == 1)
        return 0xff;
    u64 v = 0;
    for (unsigned i = 0; i < size; i++)
        v |= bus_read(table, n, a + i, 1) << i * 8;
    return v;
}

static void bus_write(const struct bus_range *table, unsigned n, u64 a, unsigned size, u64 value)
{
    const struct bus_range *r = at(table, n, a);
    if (r && takes(r, a, size)) {
        r->ops->write(r->dev, a - r->base, size, value & mask_of(size));
        return;
    }
    for (unsigned i = 0; size > 1 && i < size; i++)
        bus_write(table, n, a + i, 1, value >> i * 8);
}

u32 bus_pio_read(struct bus *b, u16 port, unsigned size)
{
    const struct bus_range *d = dword_at(b, port, size);
    return (u32)(d ? d->ops->read(d->dev, 0, 4) : bus_read(b->pio, b->n_pio, port, size));
}

void bus_pio_write(struct bus *b, u16 port, unsigned size, u32 value)
{
    const struct bus_range *d = dword_at(b, port, size);
    if (d)
        d->ops->write(d->dev, 0, 4, value);
    else
        bus_write(b->pio, b->n_pio, port, size, value);
}

u64 bus_mmio_read(struct bus *b, u64 gpa, unsigned size)
{
    return bus_read(b->mmio, b->n_mmio, gpa, size);
}

void bus_mmio_write(struct bus *b, u64 gpa, unsigned size, u64 value)
{
    bus_write(b->mmio, b->n_mmio, gpa, size, value);
}
