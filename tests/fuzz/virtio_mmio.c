/*
 * A guest that does what it likes with virtio devices in windows of memory. See virtio_world.h.
 *
 * Must hold besides: an input of the I/O APIC is high exactly while a device on it has something in InterruptStatus.
 */
#include "device/virtio/virtio_mmio.h"
#include "machine/platform.h"
#include "virtio_world.h"

struct way {
    struct virtio_mmio *all;
};

static u64 window_of(unsigned device)
{
    return VIRTIO_MMIO_BASE + device * VIRTIO_MMIO_STRIDE;
}

static void way_make(struct world *w, struct virtio *rng)
{
    struct error e = {0};
    struct way *p = calloc(1, sizeof(*p));
    FUZZ_CHECK(p && virtio_mmio_create(&p->all, &w->env, &e) == 0);
    FUZZ_CHECK(virtio_mmio_add(p->all, rng, &e) == 0 && virtio_mmio_add(p->all, w->blk, &e) == 0);
    w->way = p;
}

static void way_destroy(struct world *w)
{
    virtio_mmio_destroy(w->way->all);
    free(w->way);
}

static void way_reset(struct world *w)
{
    virtio_mmio_reset(w->way->all);
}

static int way_save(struct world *w, struct rec_buf *out)
{
    return virtio_mmio_save(w->way->all, out);
}

static int way_load(struct world *w, const struct rec_view *v, struct error *e)
{
    return virtio_mmio_load(w->way->all, v, false, e);
}

static void way_bring_up(struct world *w, unsigned device, u64 features)
{
    const u32 steps[][2] = {{0x70, 0},  {0x70, 3},
                            {0x24, 0},  {0x20, (u32)features},
                            {0x24, 1},  {0x20, 1 | (u32)(features >> 32)},
                            {0x70, 11}, {0x30, 0},
                            {0x38, 8},  {0x80, RINGS},
                            {0x84, 0},  {0x90, RINGS + 128},
                            {0x94, 0},  {0xa0, RINGS + 256},
                            {0xa4, 0},  {0x44, 1},
                            {0x70, 15}};
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++)
        bus_mmio_write(&w->bus, window_of(device) + steps[i][0], 4, steps[i][1]);
}

static void way_kick(struct world *w, unsigned device)
{
    bus_mmio_write(&w->bus, window_of(device) + 0x50, 4, 0);
}

static void way_deed(struct world *w, struct fuzz_input *in, unsigned what, unsigned device, unsigned size)
{
    u64 window = window_of(device);
    switch (what) {
    case 0: { /* the device's configuration, its end */
        u64 at = window + 0x100 + fuzz_number(in, 1);
        bus_mmio_write(&w->bus, at, size, fuzz_number(in, size));
        bus_mmio_read(&w->bus, at, size);
        break;
    }
    case 1:
        bus_mmio_read(&w->bus, window + 4 * (fuzz_number(in, 1) % 64), 4);
        break;
    case 2: { /* any width at any place of any window, and a bit outside */
        u64 at = VIRTIO_MMIO_BASE - 8 + fuzz_number(in, 3) % ((VIRTIO_MMIO_WINDOWS + 1) * VIRTIO_MMIO_STRIDE);
        bus_mmio_write(&w->bus, at, size, fuzz_number(in, size));
        bus_mmio_read(&w->bus, at, size);
        break;
    }
    case 3: /* take the queue back, as it may be busy; is it ready? */
        bus_mmio_write(&w->bus, window + 0x30, 4, 0);
        bus_mmio_write(&w->bus, window + 0x44, 4, 0);
        bus_mmio_read(&w->bus, window + 0x44, 4);
        break;
    case 4: { /* registers with numbers that mean something */
        u64 at = window + 4 * (fuzz_number(in, 1) % 64);
        bus_mmio_write(&w->bus, at, 4, fuzz_number(in, 1));
        break;
    }
    default: {
        u64 at = window + 4 * (fuzz_number(in, 1) % 64);
        bus_mmio_write(&w->bus, at, 4, fuzz_number(in, 4));
        break;
    }
    }
}

static void way_check(struct world *w)
{
    for (unsigned i = 1; i <= 2; i++)
        FUZZ_CHECK(w->level[GSI_VIRTIO_MMIO(i)] == (bus_mmio_read(&w->bus, window_of(i) + 0x60, 4) != 0));
    for (unsigned i = 3; i < 8; i++)
        FUZZ_CHECK(!w->level[GSI_VIRTIO_MMIO(i)]);
    FUZZ_CHECK(w->bus.n_mmio == 1);
}
