/*
 * A guest that does what it likes with a memory balloon: configuration, all four queues, split or packed, the pages of the rings
 * among those that it gives away; the host wants sizes and statistics in between. Input: a byte chooses a deed, what follows
 * are its numbers.
 *
 * Must hold: what is given back is whole pages of RAM, and counts as written; the guest's poison keeps its pages; whatever state
 * it is in can be saved, and loads again.
 */
#include "device/virtio/devices.h"
#include "device/virtio/virtio_pci.h"
#include "fuzz.h"

#define RAM    (1u << 20)
#define RINGS  0x4000u /* a page a queue */
#define DATA   0x8000u
#define BAR    0xc0000000ull
#define SLOT   29u
#define QUEUES 4u
#define POISON BIT(4)

struct world {
    struct bus bus;
    struct guest_mem mem;
    struct device_env env;
    struct pci_bus *pci;
    struct virtio_pci *fn;
    struct virtio *v;
    u64 given; /* pages */
};

static void no_irq(void *ctx, unsigned gsi, int level)
{
    FUZZ_CHECK(gsi < 24);
}

static void no_msi(void *ctx, u64 address, u32 data)
{
}

static bool give_back(void *ctx, u64 offset, u64 len)
{
    struct world *w = ctx;
    FUZZ_CHECK(len && !(offset % PAGE_SIZE) && !(len % PAGE_SIZE) && offset < RAM && len <= RAM - offset);
    memset(w->mem.ram + offset, 0, len);
    for (u64 page = offset / PAGE_SIZE; page < (offset + len) / PAGE_SIZE; page++)
        w->mem.trace[page] = MEM_TRACE_CODE;
    w->given += len / PAGE_SIZE;
    return true;
}

static void code_written(void *ctx, u64 page)
{
    struct world *w = ctx;
    FUZZ_CHECK(page < RAM / PAGE_SIZE);
    w->mem.trace[page] = 0;
}

static void make(struct world *w, u8 *ram)
{
    struct error e = {0};
    memset(w, 0, sizeof(*w));
    FUZZ_CHECK(mem_init(&w->mem, ram, RAM, -1, &e) == 0);
    w->mem.code_written = code_written;
    w->mem.code_ctx = w;
    w->env = (struct device_env){.bus = &w->bus,
                                 .irq_set = no_irq,
                                 .msi = no_msi,
                                 .mem = &w->mem,
                                 .give_back = give_back,
                                 .ram_low = RAM,
                                 .ctx = w};
    FUZZ_CHECK(pci_create(&w->pci, &w->env, &e) == 0);
    FUZZ_CHECK(virtio_balloon_create(&w->v, &w->env, &e) == 0);
    w->v->slot = SLOT;
    FUZZ_CHECK(virtio_pci_create(&w->fn, w->pci, w->v, &e) == 0);
}

static void set(struct world *w, unsigned at, unsigned size, u64 value)
{
    bus_mmio_write(&w->bus, BAR + at, size, value);
}

/* Queues of 8, whole: so that not each input has to find out how. */
static void bring_up(struct world *w, u32 low, u32 high)
{
    pci_config_write(w->pci, SLOT, PCI_BAR0, 4, (u32)BAR);
    pci_config_write(w->pci, SLOT, PCI_BAR0 + 4, 4, 0);
    pci_config_write(w->pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    set(w, 20, 1, 0);
    set(w, 20, 1, 3);
    set(w, 8, 4, 0);
    set(w, 12, 4, low);
    set(w, 8, 4, 1);
    set(w, 12, 4, 1 | high);
    set(w, 20, 1, 11);
    for (unsigned i = 0; i < QUEUES; i++) {
        set(w, 22, 2, i);
        set(w, 24, 2, 8);
        set(w, 32, 8, RINGS + i * PAGE_SIZE);
        set(w, 40, 8, RINGS + i * PAGE_SIZE + 128);
        set(w, 48, 8, RINGS + i * PAGE_SIZE + 256);
        set(w, 28, 2, 1);
    }
    set(w, 20, 1, 15);
}

static void kick(struct world *w, unsigned queue)
{
    set(w, 0x3000 + 4 * queue, 2, queue);
}

/* One more chain is offered on a split ring, as drivers do. */
static void offer(struct world *w, u8 *ram, unsigned queue, u8 head)
{
    u8 *avail = ram + RINGS + queue * PAGE_SIZE + 128;
    u16 idx;
    memcpy(&idx, avail + 2, 2);
    avail[4 + 2 * (idx % 8)] = head;
    avail[5 + 2 * (idx % 8)] = 0;
    idx++;
    memcpy(avail + 2, &idx, 2);
    kick(w, queue);
}

static void descriptor(struct fuzz_input *in, u8 *ram, unsigned queue)
{
    u8 *d = ram + RINGS + queue * PAGE_SIZE + 16 * (fuzz_number(in, 1) % 8);
    u64 where = fuzz_number(in, 3);
    u32 len = (u32)fuzz_number(in, 3);
    memcpy(d, &where, 8);
    memcpy(d + 8, &len, 4);
    fuzz_take(in, d + 12, 4);
}

static void deed(struct world *w, struct fuzz_input *in, u8 *ram)
{
    struct balloon_info info;
    u8 what = (u8)fuzz_number(in, 1);
    unsigned queue = what >> 6, size = 1u << (what >> 4 & 3);
    switch (what % 16) {
    case 0:
        bring_up(w, (u32)fuzz_number(in, 1) | (u32)fuzz_number(in, 1) << 28, (u32)fuzz_number(in, 1));
        break;
    case 1: /* any register */
        set(w, (unsigned)fuzz_number(in, 2) % 0x4000, size, fuzz_number(in, size));
        break;
    case 2: /* the configuration */
        set(w, 0x2000 + (unsigned)fuzz_number(in, 1) % 32, size, fuzz_number(in, size));
        break;
    case 3:
        bus_mmio_read(&w->bus, BAR + fuzz_number(in, 2) % 0x4000, size);
        break;
    case 4:
    case 5:
        descriptor(in, ram, queue);
        break;
    case 6:
    case 7:
        offer(w, ram, queue, (u8)fuzz_number(in, 1));
        break;
    case 8:
        kick(w, queue);
        break;
    case 9: /* numbers of pages, or statistics */
        fuzz_take(in, ram + DATA + fuzz_number(in, 1) * 4, 4);
        break;
    case 10: /* words of the rings */
        fuzz_take(in, ram + RINGS + queue * PAGE_SIZE + fuzz_number(in, 2) % 512, size);
        break;
    case 11:
        virtio_balloon_set(w->v, fuzz_number(in, 4), NULL);
        break;
    case 12:
        virtio_balloon_ask(w->v);
        break;
    case 13:
        pci_config_write(w->pci, SLOT, (unsigned)fuzz_number(in, 1), MIN(size, 4u), (u32)fuzz_number(in, 4));
        break;
    default:
        ram[DATA + fuzz_number(in, 2) % 4096] = (u8)fuzz_number(in, 1);
    }
    virtio_balloon_info(w->v, &info);
    FUZZ_CHECK(info.target <= RAM && info.actual <= RAM && (info.inflated + info.reported) / PAGE_SIZE == w->given);
    for (u64 page = 0; page < RAM / PAGE_SIZE; page++)
        FUZZ_CHECK(!w->mem.trace[page]); /* what went was told */
}

/* With poison in force nothing more is reported. */
static void poisoned(struct world *w, u8 *ram)
{
    struct balloon_info before, after;
    const u64 piece = DATA;
    const u32 len = PAGE_SIZE, flags = 2;
    memset(ram + RINGS, 0, QUEUES * PAGE_SIZE);
    bring_up(w, POISON | BIT(5), 0);
    set(w, 0x2000 + 12, 4, 0xaa);
    virtio_balloon_info(w->v, &before);
    memcpy(ram + RINGS + 3 * PAGE_SIZE, &piece, 8);
    memcpy(ram + RINGS + 3 * PAGE_SIZE + 8, &len, 4);
    memcpy(ram + RINGS + 3 * PAGE_SIZE + 12, &flags, 4);
    offer(w, ram, 3, 0);
    virtio_balloon_info(w->v, &after);
    FUZZ_CHECK(after.reported == before.reported && after.kept == before.kept + PAGE_SIZE);
}

static void save_and_load(struct world *w, struct world *other)
{
    struct rec_buf b = {0}, again = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    FUZZ_CHECK(pci_save(w->pci, &b) == 0 && virtio_pci_save(w->fn, &b) == 0);
    while (rec_next(b.data, b.len, &pos, &v, &e) == 1) {
        int r = pci_load(other->pci, &v, false, &e);
        if (!r)
            r = virtio_pci_load(other->fn, &v, false, &e);
        if (r != 1)
            fprintf(stderr, "%s\n", e.msg);
        FUZZ_CHECK(r == 1);
    }
    FUZZ_CHECK(pci_save(other->pci, &again) == 0 && virtio_pci_save(other->fn, &again) == 0);
    FUZZ_CHECK(b.len == again.len && !memcmp(b.data, again.data, b.len));
    rec_buf_free(&b);
    rec_buf_free(&again);
}

static void discard(struct world *w)
{
    virtio_pci_destroy(w->fn);
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
    save_and_load(w, other);
    poisoned(w, ram);
    discard(w);
    discard(other);
    free(w);
    free(other);
    free(ram);
    free(ram2);
    return 0;
}
