/*
 * A guest and a back end that do what they like with a network card between them: the guest with registers and rings, the
 * back end with the words and bytes of the wire. Input: a byte chooses a deed, what follows are its numbers.
 *
 * Must hold: a frame that an honest back end finds has a header that says what the frame has; nothing but RAM and the wire is
 * touched; the card has nothing on its way, so it can be saved at any time, and what is saved loads again.
 */
#include "base/wire.h"
#include "device/virtio/devices.h"
#include "device/virtio/virtio_pci.h"
#include "fuzz.h"

#define RAM   (1u << 20)
#define RINGS 0x1000u /* the first queue's; the other one's lie 1000h further */
#define BAR   0xc0000000u
#define SLOT  1u

struct world {
    struct bus bus;
    struct guest_mem mem;
    struct device_env env;
    struct pci_bus *pci;
    struct virtio_pci *fn;
    struct virtio *card;
    void *wire;
    struct wire cell, back;
    bool lied; /* the back end wrote what it may not */
};

static void no_irq(void *ctx, unsigned gsi, int level)
{
    FUZZ_CHECK(gsi < 24);
}

static void no_msi(void *ctx, u64 address, u32 data)
{
}

static void no_signal(void *ctx, unsigned number)
{
}

static void make(struct world *w, u8 *ram)
{
    struct error e = {0};
    memset(w, 0, sizeof(*w));
    FUZZ_CHECK(mem_init(&w->mem, ram, RAM, -1, &e) == 0);
    w->env = (struct device_env){.bus = &w->bus, .irq_set = no_irq, .msi = no_msi, .mem = &w->mem, .ram_low = RAM};
    FUZZ_CHECK((w->wire = aligned_alloc(4096, wire_size())) != NULL);
    memset(w->wire, 0, 4096);
    wire_attach(&w->cell, w->wire, true);
    wire_attach(&w->back, w->wire, false);
    const struct virtio_net_config c = {
        .info = {.mac = {2}, .mtu = 1500, .takes = NET_TAKES_ALL, .gives = NET_TAKES_ALL},
        .wire = &w->cell,
        .signal = no_signal};
    FUZZ_CHECK(pci_create(&w->pci, &w->env, &e) == 0);
    FUZZ_CHECK(virtio_net_create(&w->card, &w->env, &c, &e) == 0 &&
               virtio_pci_create(&w->fn, w->pci, w->card, &e) == 0);
}

/* Both queues, of 8, whole: so that not each input has to find out how. */
static void bring_up(struct world *w, u64 features)
{
    pci_config_write(w->pci, SLOT, PCI_BAR0, 4, BAR);
    pci_config_write(w->pci, SLOT, PCI_BAR0 + 4, 4, 0);
    pci_config_write(w->pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    const u64 steps[][3] = {
        {20, 1, 0}, {20, 1, 3}, {8, 4, 0}, {12, 4, (u32)features}, {8, 4, 1}, {12, 4, 1 | (features >> 32 & 4)},
        {20, 1, 11}};
    const u64 queue[][3] = {{24, 2, 8}, {32, 8, RINGS}, {40, 8, RINGS + 128}, {48, 8, RINGS + 256}, {28, 2, 1}};
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++)
        bus_mmio_write(&w->bus, BAR + steps[i][0], (unsigned)steps[i][1], steps[i][2]);
    for (unsigned q = 0; q < 2; q++) {
        bus_mmio_write(&w->bus, BAR + 22, 2, q);
        for (unsigned i = 0; i < ARRAY_LEN(queue); i++)
            bus_mmio_write(&w->bus, BAR + queue[i][0], (unsigned)queue[i][1],
                           queue[i][2] + (queue[i][1] == 8 ? 0x1000 * q : 0));
    }
    bus_mmio_write(&w->bus, BAR + 20, 1, 15);
}

/* An honest back end looks at what came. */
static void take_frames(struct world *w)
{
    struct wire_frame f;
    wire_look(&w->back);
    while (wire_peek(&w->back, &f)) {
        FUZZ_CHECK(w->lied || net_header_check(&f.h, f.len, NET_TAKES_ALL));
        wire_release(&w->back, &f);
    }
    FUZZ_CHECK(w->lied || !w->back.in.broken);
    wire_news(&w->back);
}

static void give_frame(struct world *w, struct fuzz_input *in)
{
    struct net_header h;
    u32 len = NET_FRAME_MIN + (u32)fuzz_number(in, 2);
    u8 *place = wire_reserve(&w->back, len);
    fuzz_take(in, (u8 *)&h, sizeof(h));
    if (place)
        wire_commit(&w->back, &h, len);
    virtio_net_settle(w->card);
}

static void offer(struct world *w, u8 *ram, struct fuzz_input *in)
{
    u16 idx;
    unsigned q = (unsigned)fuzz_number(in, 1) & 1, at = RINGS + 0x1000 * q;
    memcpy(&idx, ram + at + 130, 2);
    ram[at + 132 + 2 * (idx % 8)] = (u8)fuzz_number(in, 1);
    ram[at + 133 + 2 * (idx % 8)] = 0;
    idx++;
    memcpy(ram + at + 130, &idx, 2);
    bus_mmio_write(&w->bus, BAR + 0x3000 + 4 * q, 2, q);
}

static void deed(struct world *w, struct fuzz_input *in, u8 *ram)
{
    u8 what = (u8)fuzz_number(in, 1);
    unsigned size = 1u << (what >> 5 & 3), queue = what >> 7;
    switch (what % 16) {
    case 0:
        pci_config_write(w->pci, SLOT, (unsigned)fuzz_number(in, 1), MIN(size, 4u), (u32)fuzz_number(in, 4));
        break;
    case 1: { /* any register */
        u64 at = BAR + fuzz_number(in, 2) % 0x5000;
        bus_mmio_write(&w->bus, at, size, fuzz_number(in, size));
        break;
    }
    case 2:
        bus_mmio_read(&w->bus, BAR + fuzz_number(in, 2) % 0x5000, size);
        break;
    case 3:
        bus_mmio_write(&w->bus, BAR + fuzz_number(in, 1) % 64, size, fuzz_number(in, size));
        break;
    case 4: { /* words of the rings */
        u64 at = RINGS + 0x1000 * queue + fuzz_number(in, 2) % 1024;
        fuzz_take(in, ram + at, size);
        break;
    }
    case 5: { /* a descriptor */
        u8 *d = ram + RINGS + 0x1000 * queue + 16 * (fuzz_number(in, 1) % 24);
        u64 where = RINGS + fuzz_number(in, 2);
        u32 len = (u32)fuzz_number(in, 3);
        memcpy(d, &where, 8);
        memcpy(d + 8, &len, 4);
        fuzz_take(in, d + 12, 4);
        break;
    }
    case 6:
    case 7:
        offer(w, ram, in);
        break;
    case 8:
        bus_mmio_write(&w->bus, BAR + 0x3000 + 4 * queue, 2, queue);
        break;
    case 9:
        bring_up(w, fuzz_number(in, 4) | (queue ? VIRTIO_F_PACKED : 0));
        break;
    case 10:
    case 11:
        give_frame(w, in);
        break;
    case 12:
        take_frames(w);
        break;
    case 13: { /* a word of the wire's first page, where both sides keep their indices, or of the frames to the guest */
        u64 at = queue ? 4096 + WIRE_LANE + fuzz_number(in, 1) % 64 : fuzz_number(in, 2) % 4096;
        fuzz_take(in, (u8 *)w->wire + at, size);
        w->lied = true;
        break;
    }
    case 14:
        virtio_net_settle(w->card);
        break;
    default: /* a header, where descriptors may point */
        fuzz_take(in, ram + RINGS + 512 + fuzz_number(in, 1), 12);
    }
}

static void save(struct world *w, struct rec_buf *b)
{
    FUZZ_CHECK(pci_save(w->pci, b) == 0 && virtio_pci_save(w->fn, b) == 0);
}

static void save_and_load(struct world *w, struct world *other)
{
    struct rec_buf b = {0}, again = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    save(w, &b);
    while (rec_next(b.data, b.len, &pos, &v, &e) == 1) {
        int r = pci_load(other->pci, &v, false, &e);
        if (!r)
            r = virtio_pci_load(other->fn, &v, false, &e);
        if (r != 1)
            fprintf(stderr, "%s\n", e.msg);
        FUZZ_CHECK(r == 1);
    }
    save(other, &again);
    FUZZ_CHECK(b.len == again.len && !memcmp(b.data, again.data, b.len));
    rec_buf_free(&b);
    rec_buf_free(&again);
}

static void discard(struct world *w)
{
    virtio_pci_destroy(w->fn);
    pci_destroy(w->pci);
    mem_destroy(&w->mem);
    free(w->wire);
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
    pci_reset(w->pci);
    virtio_pci_reset(w->fn);
    discard(w);
    discard(other);
    free(w);
    free(other);
    free(ram);
    free(ram2);
    return 0;
}
