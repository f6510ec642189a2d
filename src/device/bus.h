/*
 * The bus: which device answers a port or a device address.
 *
 * A device registers ranges; the board's tables of operations route to it. What nobody answers reads as all ones and
 * swallows writes, as on a PC.
 */
#ifndef TRAPEZE_DEVICE_BUS_H
#define TRAPEZE_DEVICE_BUS_H

#include "base/error.h"
#include "base/types.h"

struct bus_ops {
    /* `offset` is from the range's base; `size` 1, 2, 4 (MMIO also 8). An access never leaves the range. */
    u64 (*read)(void *dev, u64 offset, unsigned size);
    void (*write)(void *dev, u64 offset, unsigned size, u64 value);
    unsigned width; /* widest access in bytes that the device takes, 0 for any; the bus splits wider ones into bytes */
};

struct bus_range {
    u64 base, len;
    const struct bus_ops *ops;
    void *dev;
    const char *name;
};

#define BUS_MAX_RANGES 128
#define BUS_MAX_DWORDS 4

/* Ranges are sorted by base and do not overlap. */
struct bus {
    struct bus_range pio[BUS_MAX_RANGES], mmio[BUS_MAX_RANGES];
    struct bus_range dword[BUS_MAX_DWORDS]; /* see bus_add_pio_dword */
    unsigned n_pio, n_mmio, n_dword;
};

/* Register a range; -EEXIST if it overlaps another, -ENOSPC if the table is full. */
int bus_add_pio(struct bus *b, u16 base, u16 len, const struct bus_ops *ops, void *dev, const char *name,
                struct error *e);
int bus_add_mmio(struct bus *b, u64 base, u64 len, const struct bus_ops *ops, void *dev, const char *name,
                 struct error *e);

/*
 * A port that takes 32-bit accesses at `port` itself and nothing else; narrower ones go to whatever the ranges have there.
 * This is how a PC has the PCI address register at CF8h and the reset control register, a byte, at CF9h.
 */
int bus_add_pio_dword(struct bus *b, u16 port, const struct bus_ops *ops, void *dev, const char *name, struct error *e);

/*
 * Take the range of `dev` at `base` off the bus; nothing happens if there is none. A device may do so in the middle of
 * an access to itself: the bus does not look at the range again after it has called.
 */
void bus_remove_mmio(struct bus *b, u64 base, const void *dev);

/* An access by the guest. Port accesses that span devices are split into bytes, as a PC's bus does. */
u32 bus_pio_read(struct bus *b, u16 port, unsigned size);
void bus_pio_write(struct bus *b, u16 port, unsigned size, u32 value);
u64 bus_mmio_read(struct bus *b, u64 gpa, unsigned size);
void bus_mmio_write(struct bus *b, u64 gpa, unsigned size, u64 value);

/* An output line of a device: where its interrupt goes. */
struct irq_line {
    void (*set)(void *ctx, unsigned gsi, int level);
    void *ctx;
    unsigned gsi;
};

static inline void irq_line_set(const struct irq_line *l, int level)
{
    if (l->set)
        l->set(l->ctx, l->gsi, level);
}

#endif
