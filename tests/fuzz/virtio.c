/* A guest that does what it likes with virtio devices on a PCI bus: configuration space, BARs, registers. See virtio_world.h. */
#include "device/virtio/virtio_pci.h"
#include "virtio_world.h"

struct way {
    struct pci_bus *pci;
    struct virtio_pci *rng, *disk;
};

static u64 bar_of(unsigned device)
{
    return device == 1 ? 0xc0000000 : 0xc0008000;
}

static void way_make(struct world *w, struct virtio *rng)
{
    struct error e = {0};
    struct way *p = calloc(1, sizeof(*p));
    FUZZ_CHECK(p && pci_create(&p->pci, &w->env, &e) == 0);
    FUZZ_CHECK(virtio_pci_create(&p->rng, p->pci, rng, &e) == 0 &&
               virtio_pci_create(&p->disk, p->pci, w->blk, &e) == 0);
    w->way = p;
}

static void way_destroy(struct world *w)
{
    virtio_pci_destroy(w->way->rng);
    virtio_pci_destroy(w->way->disk);
    pci_destroy(w->way->pci);
    free(w->way);
}

static void way_reset(struct world *w)
{
    pci_reset(w->way->pci);
    virtio_pci_reset(w->way->rng);
    virtio_pci_reset(w->way->disk);
    FUZZ_CHECK(w->bus.n_mmio == 5);
}

static int way_save(struct world *w, struct rec_buf *out)
{
    const struct way *p = w->way;
    return pci_save(p->pci, out) || virtio_pci_save(p->rng, out) || virtio_pci_save(p->disk, out);
}

static int way_load(struct world *w, const struct rec_view *v, struct error *e)
{
    int r = pci_load(w->way->pci, v, false, e);
    return r ? r : virtio_pci_load(v->instance == 1 ? w->way->rng : w->way->disk, v, false, e);
}

static void way_bring_up(struct world *w, unsigned device, u64 features)
{
    u64 bar = bar_of(device);
    pci_config_write(w->way->pci, device, PCI_BAR0, 4, (u32)bar);
    pci_config_write(w->way->pci, device, PCI_BAR0 + 4, 4, 0);
    pci_config_write(w->way->pci, device, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    const u64 steps[][3] = {{20, 1, 0},
                            {20, 1, 3},
                            {8, 4, 0},
                            {12, 4, (u32)features},
                            {8, 4, 1},
                            {12, 4, 1 | (features >> 32)},
                            {20, 1, 11},
                            {22, 2, 0},
                            {24, 2, 8},
                            {32, 8, RINGS},
                            {40, 8, RINGS + 128},
                            {48, 8, RINGS + 256},
                            {28, 2, 1},
                            {20, 1, 15}};
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++)
        bus_mmio_write(&w->bus, bar + steps[i][0], (unsigned)steps[i][1], steps[i][2]);
}

static void way_kick(struct world *w, unsigned device)
{
    bus_mmio_write(&w->bus, bar_of(device) + 0x3000, 2, 0);
}

static void way_deed(struct world *w, struct fuzz_input *in, unsigned what, unsigned device, unsigned size)
{
    struct pci_bus *pci = w->way->pci;
    u64 bar = bar_of(device);
    switch (what) {
    case 0:
        pci_config_write(pci, device, (unsigned)fuzz_number(in, 1), MIN(size, 4u), (u32)fuzz_number(in, 4));
        break;
    case 1:
        pci_config_read(pci, device, (unsigned)fuzz_number(in, 1), MIN(size, 4u));
        break;
    case 2: { /* any register; common ones first */
        u64 at = bar + fuzz_number(in, 2) % 0x5000;
        bus_mmio_write(&w->bus, at, size, fuzz_number(in, size));
        break;
    }
    case 3:
        bus_mmio_read(&w->bus, bar + fuzz_number(in, 2) % 0x5000, size);
        break;
    case 4:
        bus_mmio_write(&w->bus, bar + fuzz_number(in, 1) % 64, size, fuzz_number(in, size));
        break;
    default:
        bus_pio_write(&w->bus, 0xcf8, 4, (u32)fuzz_number(in, 4));
        bus_pio_write(&w->bus, 0xcfc, MIN(size, 4u), (u32)fuzz_number(in, 4));
    }
}

static void way_check(struct world *w)
{
    FUZZ_CHECK(w->bus.n_mmio <= 5);
}
