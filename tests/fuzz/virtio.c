/*
 * A guest that does what it likes with a PCI bus of virtio devices: configuration space, registers, rings in its memory, all
 * at once, while a back end answers in any order. Input: a byte chooses a deed, what follows are its numbers.
 *
 * Must hold: requests to the back end can be asked and lie in memory; no more of them than tags; after a reset that
 * was waited for none is on its way; what is saved when nothing is on its way loads again.
 */
#include "device/virtio/devices.h"
#include "device/virtio/virtio_pci.h"
#include "fuzz.h"

#define RAM     (1u << 20)
#define RINGS   0x1000u /* where the deeds put them: close together, so that they overlap */
#define SECTORS 64u

struct world {
    struct bus bus;
    struct guest_mem mem;
    struct device_env env;
    struct pci_bus *pci;
    struct virtio_pci *rng, *disk;
    struct virtio *blk;
    struct disk_info info;
    u8 busy[DISK_TAGS];
    unsigned on_way;
    bool full;
};

static void no_irq(void *ctx, unsigned gsi, int level)
{
    FUZZ_CHECK(gsi < 24);
}

static void no_msi(void *ctx, u64 address, u32 data)
{
}

static void zeros(void *ctx, u8 *data, size_t len)
{
    memset(data, 0, len);
}

static bool ready(void *ctx)
{
    return !((struct world *)ctx)->full;
}

static void submit(void *ctx, const struct disk_request *r, const struct disk_seg *segs)
{
    struct world *w = ctx;
    u64 bytes = 0;
    FUZZ_CHECK(disk_request_check(r, &w->info) == 0 && r->disk == 0 && !w->busy[r->tag]);
    for (u32 i = 0; i < r->n_segs; i++) {
        FUZZ_CHECK(segs[i].len && mem_at(&w->mem, GPA(segs[i].at), segs[i].len));
        bytes += segs[i].len;
    }
    FUZZ_CHECK(!r->n_segs || bytes == r->sectors * DISK_SECTOR);
    w->busy[r->tag] = 1;
    w->on_way++;
}

static void answer(struct world *w, unsigned tag, unsigned status)
{
    bool asked = tag < DISK_TAGS && w->busy[tag];
    FUZZ_CHECK((virtio_blk_done(w->blk, tag, (enum disk_status)status) == 0) == asked);
    if (asked) {
        w->busy[tag] = 0;
        w->on_way--;
    }
}

static void answer_all(struct world *w)
{
    w->full = true; /* or they would never end */
    for (unsigned i = 0; i < DISK_TAGS; i++)
        answer(w, i, 0);
    virtio_blk_settle(w->blk);
    FUZZ_CHECK(!w->on_way);
    w->full = false;
}

static void make(struct world *w, u8 *ram)
{
    struct error e = {0};
    struct virtio *rng;
    memset(w, 0, sizeof(*w));
    FUZZ_CHECK(mem_init(&w->mem, ram, RAM, -1, &e) == 0);
    w->env = (struct device_env){
        .bus = &w->bus, .irq_set = no_irq, .msi = no_msi, .mem = &w->mem, .random = zeros, .ram_low = RAM};
    w->info = (struct disk_info){.sectors = SECTORS, .flags = DISK_WRITE_CACHE | DISK_CAN_DISCARD};
    struct virtio_blk_config c = {.info = w->info, .ready = ready, .submit = submit, .ctx = w};
    FUZZ_CHECK(pci_create(&w->pci, &w->env, &e) == 0);
    FUZZ_CHECK(virtio_rng_create(&rng, &w->env, &e) == 0 && virtio_pci_create(&w->rng, w->pci, rng, &e) == 0);
    FUZZ_CHECK(virtio_blk_create(&w->blk, &w->env, &c, &e) == 0 &&
               virtio_pci_create(&w->disk, w->pci, w->blk, &e) == 0);
}

/* A queue of 8 of the function in `slot`, whole: so that not each input has to find out how. */
static void bring_up(struct world *w, unsigned slot, u64 features)
{
    u64 bar = 0xc0000000 + (slot == 2 ? 0x8000 : 0);
    pci_config_write(w->pci, slot, PCI_BAR0, 4, (u32)bar);
    pci_config_write(w->pci, slot, PCI_BAR0 + 4, 4, 0);
    pci_config_write(w->pci, slot, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
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

static void deed(struct world *w, struct fuzz_input *in, u8 *ram)
{
    u8 what = (u8)fuzz_number(in, 1);
    unsigned slot = 1 + (what >> 7), size = 1u << (what >> 5 & 3);
    u64 bar = slot == 1 ? 0xc0000000 : 0xc0008000;
    switch (what % 16) {
    case 0:
        pci_config_write(w->pci, slot, (unsigned)fuzz_number(in, 1), MIN(size, 4u), (u32)fuzz_number(in, 4));
        break;
    case 1:
        pci_config_read(w->pci, slot, (unsigned)fuzz_number(in, 1), MIN(size, 4u));
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
    case 5:
    case 6: { /* words of the rings */
        u64 at = RINGS + fuzz_number(in, 2) % 1024;
        fuzz_take(in, ram + at, size);
        break;
    }
    case 7: { /* a descriptor */
        u8 *d = ram + RINGS + 16 * (fuzz_number(in, 1) % 24);
        u64 where = RINGS + fuzz_number(in, 2);
        u32 len = (u32)fuzz_number(in, 2);
        memcpy(d, &where, 8);
        memcpy(d + 8, &len, 4);
        fuzz_take(in, d + 12, 4);
        break;
    }
    case 8: { /* one more chain is offered, as drivers do */
        u16 idx;
        memcpy(&idx, ram + RINGS + 130, 2);
        ram[RINGS + 132 + 2 * (idx % 8)] = (u8)fuzz_number(in, 1);
        ram[RINGS + 133 + 2 * (idx % 8)] = 0;
        idx++;
        memcpy(ram + RINGS + 130, &idx, 2);
        bus_mmio_write(&w->bus, bar + 0x3000, 2, 0);
        break;
    }
    case 9:
        bus_mmio_write(&w->bus, bar + 0x3000, 2, 0);
        break;
    case 10:
        bring_up(w, slot, fuzz_number(in, 1) << 28);
        break;
    case 11:
        answer(w, (unsigned)fuzz_number(in, 1), (unsigned)fuzz_number(in, 1) % 4);
        virtio_blk_settle(w->blk);
        break;
    case 12:
        w->full = fuzz_number(in, 1) & 1;
        break;
    case 13:
        answer_all(w);
        break;
    case 14: /* a request's header, where descriptors may point */
        fuzz_take(in, ram + RINGS + 512 + fuzz_number(in, 1), 16);
        break;
    default:
        bus_pio_write(&w->bus, 0xcf8, 4, (u32)fuzz_number(in, 4));
        bus_pio_write(&w->bus, 0xcfc, MIN(size, 4u), (u32)fuzz_number(in, 4));
    }
    FUZZ_CHECK(w->on_way <= DISK_TAGS && w->bus.n_mmio <= 5);
}

static void save_and_load(struct world *w, struct world *other)
{
    struct rec_buf b = {0}, again = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    FUZZ_CHECK(pci_save(w->pci, &b) == 0 && virtio_pci_save(w->rng, &b) == 0 && virtio_pci_save(w->disk, &b) == 0);
    while (rec_next(b.data, b.len, &pos, &v, &e) == 1) {
        int r = pci_load(other->pci, &v, false, &e);
        if (!r)
            r = virtio_pci_load(v.instance == 1 ? other->rng : other->disk, &v, false, &e);
        if (r != 1)
            fprintf(stderr, "%s\n", e.msg);
        FUZZ_CHECK(r == 1);
    }
    FUZZ_CHECK(pci_save(other->pci, &again) == 0 && virtio_pci_save(other->rng, &again) == 0 &&
               virtio_pci_save(other->disk, &again) == 0);
    FUZZ_CHECK(b.len == again.len && !memcmp(b.data, again.data, b.len));
    rec_buf_free(&b);
    rec_buf_free(&again);
}

static void discard(struct world *w)
{
    virtio_pci_destroy(w->rng);
    virtio_pci_destroy(w->disk);
    pci_destroy(w->pci);
    mem_destroy(&w->mem);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    struct fuzz_input in = {data, len};
    u8 *ram = aligned_alloc(4096, RAM), *ram2 = aligned_alloc(4096, RAM);
    struct world *w = malloc(sizeof(*w)), *other = malloc(sizeof(*w));
    FUZZ_CHECK(ram && ram2 && w && other);
    memset(ram, 0, RAM);
    memset(ram2, 0, RAM);
    make(w, ram);
    make(other, ram2);
    while (in.len)
        deed(w, &in, ram);
    answer_all(w);
    save_and_load(w, other);
    pci_reset(w->pci);
    virtio_pci_reset(w->rng);
    virtio_pci_reset(w->disk);
    FUZZ_CHECK(w->bus.n_mmio == 5);
    discard(w);
    discard(other);
    free(w);
    free(other);
    free(ram);
    free(ram2);
    return 0;
}
