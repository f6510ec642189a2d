/* A bus, memory, and what devices send: for PCI functions and virtio devices without a machine. */
#ifndef TRAPEZE_TESTS_DEVICE_DMA_RIG_H
#define TRAPEZE_TESTS_DEVICE_DMA_RIG_H

#include "base/bytes.h"
#include "device/virtio/devices.h"
#include "device/virtio/virtio_pci.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define RIG_RAM (4u << 20)

struct dma_rig {
    struct bus bus;
    struct guest_mem mem;
    struct device_env env;
    struct pci_bus *pci;
    u8 *ram;
    u8 level[24];
    unsigned msis;
    u64 msi_address;
    u32 msi_data;
    unsigned code_written; /* traced pages that were written */
};

static void dma_rig_irq(void *ctx, unsigned gsi, int level)
{
    ((struct dma_rig *)ctx)->level[gsi] = (u8)level;
}

static void dma_rig_msi(void *ctx, u64 address, u32 data)
{
    struct dma_rig *g = ctx;
    g->msis++;
    g->msi_address = address;
    g->msi_data = data;
}

static void dma_rig_random(void *ctx, u8 *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        data[i] = (u8)(i * 7 + 1);
}

static void dma_rig_code(void *ctx, u64 page)
{
    struct dma_rig *g = ctx;
    g->code_written++;
    g->mem.trace[page] = 0;
}

static inline void dma_rig_init(struct dma_rig *g)
{
    struct error e = {0};
    memset(g, 0, sizeof(*g));
    g->ram = aligned_alloc(4096, RIG_RAM);
    assert_non_null(g->ram);
    memset(g->ram, 0, RIG_RAM);
    assert_int_equal(mem_init(&g->mem, g->ram, RIG_RAM, -1, &e), 0);
    g->mem.code_written = dma_rig_code;
    g->mem.code_ctx = g;
    g->env = (struct device_env){.bus = &g->bus,
                                 .irq_set = dma_rig_irq,
                                 .irq_ctx = g,
                                 .msi = dma_rig_msi,
                                 .mem = &g->mem,
                                 .random = dma_rig_random,
                                 .ram_low = RIG_RAM,
                                 .ctx = g};
    assert_int_equal(pci_create(&g->pci, &g->env, &e), 0);
}

static inline void dma_rig_free(struct dma_rig *g)
{
    pci_destroy(g->pci);
    mem_destroy(&g->mem);
    free(g->ram);
}

/* --- a driver's side of a queue: a split one of `n`, its areas a page each from `base` on --- */

struct ring_driver {
    struct dma_rig *g;
    u64 desc, avail, used;
    u16 n, next, seen;
    bool event_index;
};

static inline struct ring_driver ring_driver_make(struct dma_rig *g, u64 base, u16 n)
{
    memset(g->ram + base, 0, 3 * 4096);
    return (struct ring_driver){.g = g, .desc = base, .avail = base + 4096, .used = base + 8192, .n = n};
}

static inline void ring_desc(struct ring_driver *d, unsigned i, u64 addr, u32 len, u16 flags, u16 next)
{
    u8 *p = d->g->ram + d->desc + 16 * i;
    put_le64(p, addr);
    put_le32(p + 8, len);
    put_le16(p + 12, flags);
    put_le16(p + 14, next);
}

static inline void ring_offer(struct ring_driver *d, u16 head)
{
    put_le16(d->g->ram + d->avail + 4 + 2 * (d->next % d->n), head);
    put_le16(d->g->ram + d->avail + 2, ++d->next);
}

/* Chains given back so far; the element before the last index. */
static inline u16 ring_used(const struct ring_driver *d, u32 *id, u32 *len)
{
    u16 idx = get_le16(d->g->ram + d->used + 2);
    const u8 *p = d->g->ram + d->used + 4 + 8 * ((u16)(idx - 1) % d->n);
    if (id)
        *id = get_le32(p);
    if (len)
        *len = get_le32(p + 4);
    return idx;
}

#endif
