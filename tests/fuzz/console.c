/*
 * A guest that does what it likes with its console: rings and registers of the device, while the host takes its output, types, changes
 * the terminal's size, and lets time go by. Input: a byte chooses a deed, what follows are its numbers.
 *
 * Must hold: a turn ends; nothing is printed that nobody offered room for, nothing is taken that was not typed; what a driver of good
 * manners prints comes out whole and in order, however much of it the console takes at once; what is saved loads again.
 */
#include "device/virtio/devices.h"
#include "device/virtio/virtio_pci.h"
#include "fuzz.h"

#define RAM   (1u << 20)
#define RINGS 0x1000u
#define BAR   0xc0000000ull
#define SLOT  28u
#define TEXT  0x8000u

struct world {
    struct bus bus;
    struct guest_mem mem;
    struct vclock clock;
    struct device_env env;
    struct pci_bus *pci;
    struct virtio_pci *fn;
    struct virtio *v;
    u64 now;
    size_t room, typed; /* bytes that may be printed; that wait to be pulled */
    u64 sum;            /* of what was printed, in its order */
    u64 printed;
};

static u64 fake_time(void *ctx)
{
    return ((struct world *)ctx)->now;
}

static void no_irq(void *ctx, unsigned gsi, int level)
{
}

static void no_msi(void *ctx, u64 address, u32 data)
{
}

static u64 digest(u64 sum, const u8 *data, size_t len)
{
    for (size_t i = 0; i < len; i++)
        sum = sum * 31 + data[i];
    return sum;
}

static size_t out(void *ctx, const u8 *data, size_t len)
{
    struct world *w = ctx;
    size_t n = MIN(len, w->room);
    w->room -= n;
    w->sum = digest(w->sum, data, n);
    w->printed += n;
    return n;
}

static size_t in(void *ctx, u8 *data, size_t len)
{
    struct world *w = ctx;
    size_t n = MIN(len, w->typed);
    FUZZ_CHECK(len);
    memset(data, 'k', n);
    w->typed -= n;
    return n;
}

static void make(struct world *w, u8 *ram)
{
    struct error e = {0};
    memset(w, 0, sizeof(*w));
    FUZZ_CHECK(mem_init(&w->mem, ram, RAM, -1, &e) == 0);
    vclock_init(&w->clock, fake_time, fake_time, w, 1000000000, 0);
    w->env = (struct device_env){
        .bus = &w->bus, .clock = &w->clock, .irq_set = no_irq, .msi = no_msi, .mem = &w->mem, .ram_low = RAM};
    const struct virtio_console_config c = {out, in, w};
    FUZZ_CHECK(pci_create(&w->pci, &w->env, &e) == 0);
    FUZZ_CHECK(virtio_console_create(&w->v, &w->env, &c, &e) == 0);
    w->v->slot = SLOT;
    FUZZ_CHECK(virtio_pci_create(&w->fn, w->pci, w->v, &e) == 0);
}

static void discard(struct world *w)
{
    virtio_pci_destroy(w->fn);
    pci_destroy(w->pci);
    mem_destroy(&w->mem);
    FUZZ_CHECK(!w->clock.timers);
}

/* Queues of 8, whole. */
static void bring_up(struct world *w, u64 features)
{
    pci_config_write(w->pci, SLOT, PCI_BAR0, 4, (u32)BAR);
    pci_config_write(w->pci, SLOT, PCI_BAR0 + 4, 4, 0);
    pci_config_write(w->pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    memset(w->mem.ram + RINGS, 0, 1024);
    const u64 begin[][3] = {
        {20, 1, 0}, {20, 1, 3}, {8, 4, 0}, {12, 4, (u32)features}, {8, 4, 1}, {12, 4, 1 | features >> 32}, {20, 1, 11}};
    for (unsigned i = 0; i < ARRAY_LEN(begin); i++)
        bus_mmio_write(&w->bus, BAR + begin[i][0], (unsigned)begin[i][1], begin[i][2]);
    for (u64 q = 0; q < 2; q++) {
        const u64 at = RINGS + q * 512,
                  steps[][3] = {{22, 2, q}, {24, 2, 8}, {32, 8, at}, {40, 8, at + 128}, {48, 8, at + 256}, {28, 2, 1}};
        for (unsigned i = 0; i < ARRAY_LEN(steps); i++)
            bus_mmio_write(&w->bus, BAR + steps[i][0], (unsigned)steps[i][1], steps[i][2]);
    }
    bus_mmio_write(&w->bus, BAR + 20, 1, 15);
}

static void put_desc(struct world *w, u64 q, u8 i, u64 at, u32 len, u16 flags, u16 next)
{
    u8 *d = w->mem.ram + RINGS + q * 512 + 16 * (i % 8);
    memcpy(d, &at, 8);
    memcpy(d + 8, &len, 4);
    memcpy(d + 12, &flags, 2);
    memcpy(d + 14, &next, 2);
}

/* One more chain of queue `q` is offered, as drivers do. */
static void offer(struct world *w, u64 q, u8 head)
{
    u8 *avail = w->mem.ram + RINGS + q * 512 + 128;
    u16 idx;
    memcpy(&idx, avail + 2, 2);
    avail[4 + 2 * (idx % 8)] = head;
    avail[5 + 2 * (idx % 8)] = 0;
    idx++;
    memcpy(avail + 2, &idx, 2);
    bus_mmio_write(&w->bus, BAR + 0x3000 + 4 * q, 2, q);
}

static u16 given_back(const struct world *w, u64 q)
{
    u16 idx;
    memcpy(&idx, w->mem.ram + RINGS + q * 512 + 256 + 2, 2);
    return idx;
}

static void types(struct world *w, size_t len)
{
    u8 keys[4096];
    memset(keys, 'k', sizeof(keys));
    len = MIN(len, sizeof(keys));
    FUZZ_CHECK(virtio_console_input(w->v, keys, len) <= len);
}

/* A driver of good manners prints a text in two pieces, and the console takes it in parts. */
static void print_well(struct world *w, struct fuzz_input *in)
{
    u8 *text = w->mem.ram + TEXT;
    u32 len = 1 + (u32)fuzz_number(in, 2) % 9000, cut = (u32)fuzz_number(in, 2) % len,
        step = 7 + (u32)fuzz_number(in, 1) * 40;
    w->room = SIZE_MAX; /* what waited from before goes first */
    bring_up(w, 0);
    virtio_console_settle(w->v);
    for (u32 i = 0; i < len; i++)
        text[i] = (u8)(i * 7 + i / 251);
    u64 wanted = digest(w->sum, text, len), before = w->printed;
    w->room = step;
    put_desc(w, 1, 0, TEXT, cut, 1, 1);
    put_desc(w, 1, 1, TEXT + cut, len - cut, 0, 0);
    offer(w, 1, 0);
    while (w->printed - before < len) {
        FUZZ_CHECK(!w->room);
        w->room = step;
        virtio_console_settle(w->v);
    }
    FUZZ_CHECK(w->sum == wanted && w->printed - before == len && given_back(w, 1) == 1);
}

static void deed(struct world *w, struct fuzz_input *in)
{
    u8 what = (u8)fuzz_number(in, 1);
    unsigned size = 1u << (what >> 6);
    switch (what % 13) {
    case 0:
        pci_config_write(w->pci, SLOT, (unsigned)fuzz_number(in, 1), MIN(size, 4u), (u32)fuzz_number(in, 4));
        break;
    case 1: { /* a register */
        u64 at = BAR + fuzz_number(in, 2) % 0x5000;
        bus_mmio_write(&w->bus, at, size, fuzz_number(in, size));
        bus_mmio_read(&w->bus, at, size);
        break;
    }
    case 2:
        bring_up(w, fuzz_number(in, 1) << 28 | fuzz_number(in, 1) % 8);
        break;
    case 3: /* words of the rings */
        fuzz_take(in, w->mem.ram + RINGS + fuzz_number(in, 2) % 1024, size);
        break;
    case 4: /* a buffer to receive into */
        put_desc(w, 0, what >> 4, 0x20000 + fuzz_number(in, 2), (u32)fuzz_number(in, 2), 2, 0);
        offer(w, 0, what >> 4 & 7);
        break;
    case 5: /* something to print, of any length and place */
        put_desc(w, 1, what >> 4, fuzz_number(in, 3), (u32)fuzz_number(in, 3), (u16)fuzz_number(in, 1) % 8, what >> 5);
        offer(w, 1, what >> 4 & 7);
        break;
    case 6:
        offer(w, fuzz_number(in, 1) % 2, (u8)fuzz_number(in, 1));
        break;
    case 7: /* the host reads */
        w->room = fuzz_number(in, 2);
        virtio_console_settle(w->v);
        break;
    case 8:
        types(w, fuzz_number(in, 2));
        break;
    case 9:
        w->typed = fuzz_number(in, 2);
        break;
    case 10:
        virtio_console_size(w->v, (u16)fuzz_number(in, 2), (u16)fuzz_number(in, 1));
        break;
    case 11:
        w->now += fuzz_number(in, 4);
        vclock_run_timers(&w->clock);
        break;
    default:
        print_well(w, in);
    }
    FUZZ_CHECK(w->bus.n_mmio <= 5);
}

static void save_and_load(struct world *w, struct world *other)
{
    struct rec_buf b = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    FUZZ_CHECK(pci_save(w->pci, &b) == 0 && virtio_pci_save(w->fn, &b) == 0);
    while (rec_next(b.data, b.len, &pos, &v, &e) == 1) {
        int r = pci_load(other->pci, &v, false, &e);
        FUZZ_CHECK(r == 1 || (r == 0 && virtio_pci_load(other->fn, &v, false, &e) == 1));
    }
    other->room = SIZE_MAX;
    virtio_console_settle(other->v);
    types(other, 100);
    rec_buf_free(&b);
}

int LLVMFuzzerTestOneInput(const u8 *bytes, size_t len)
{
    struct fuzz_input input = {bytes, len};
    u8 *ram = aligned_alloc(4096, RAM), *ram2 = aligned_alloc(4096, RAM);
    struct world *w = malloc(sizeof(*w)), *other = malloc(sizeof(*w));
    FUZZ_CHECK(ram && ram2 && w && other);
    memset(ram, 0, RAM);
    make(w, ram);
    while (input.len)
        deed(w, &input);
    memcpy(ram2, ram, RAM);
    make(other, ram2);
    save_and_load(w, other);
    pci_reset(w->pci);
    virtio_pci_reset(w->fn);
    print_well(w, &input); /* whatever was before: a new driver finds a good device */
    discard(w);
    discard(other);
    free(w);
    free(other);
    free(ram);
    free(ram2);
    return 0;
}
