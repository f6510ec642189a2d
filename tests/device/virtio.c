/*
 * The transports and the devices behind them: a driver of our own goes through what virtio 1.2, 3.1 says, and against it.
 * What holds for both transports is tested on both: a test's state is the way that it takes.
 */
#include "dma_rig.h"
#include "device/virtio/virtio_mmio.h"

#include <errno.h>

#define RING    0x10000u
#define DATA    0x20000u
#define N       16u
#define BAR     0xc0000000ull
#define LINE    (GSI_PCI + 1) /* of slot 1, and of window 1 */
#define SECTORS 2048u

/* Registers that both ways have. X-macro: register, offset and bytes over PCI, offset over MMIO (4 bytes) */
#define REGISTERS(X)                                                               \
    X(DEVICE_SELECT, 0, 4, 0x14)                                                   \
    X(DEVICE_FEATURE, 4, 4, 0x10)                                                  \
    X(DRIVER_SELECT, 8, 4, 0x24)                                                   \
    X(DRIVER_FEATURE, 12, 4, 0x20)                                                 \
    X(STATUS, 20, 1, 0x70)                                                         \
    X(QSEL, 22, 2, 0x30)                                                           \
    X(QSIZE, 24, 2, 0x38)                                                          \
    X(QENABLE, 28, 2, 0x44)                                                        \
    X(QDESC, 32, 4, 0x80) /* and its upper half behind it, as with the next two */ \
    X(QDRIVER, 40, 4, 0x90)                                                        \
    X(QDEVICE, 48, 4, 0xa0)                                                        \
    X(ISR, 0x1000, 1, 0x60)

enum {
#define X(reg, at, len, mmio) reg,
    REGISTERS(X)
#undef X
};

struct way {
    const char *name;
    bool mmio;
    u64 base, config;
    struct {
        u16 at;
        u8 len;
    } reg[ISR + 1];
};

static const struct way over_pci = {"pci",
                                    false,
                                    BAR,
                                    BAR + 0x2000,
                                    {
#define X(reg, at, len, mmio) [reg] = {at, len},
                                        REGISTERS(X)
#undef X
                                    }};

static const struct way over_mmio = {"mmio",
                                     true,
                                     VIRTIO_MMIO_BASE + VIRTIO_MMIO_STRIDE,
                                     VIRTIO_MMIO_BASE + VIRTIO_MMIO_STRIDE + 0x100,
                                     {
#define X(reg, at, len, mmio) [reg] = {mmio, 4},
                                         REGISTERS(X)
#undef X
                                     }};

/* A back end that remembers; replies come when the test says so. */
struct fixture {
    struct dma_rig g;
    struct ring_driver d;
    const struct way *way;
    struct virtio *v;
    struct virtio_pci *p; /* one of these two */
    struct virtio_mmio *m;
    bool full;
    unsigned n;
    struct disk_request r[DISK_TAGS];
    struct disk_seg segs[DISK_TAGS][DISK_SEGS_MAX];
};

static bool ready(void *ctx)
{
    return !((struct fixture *)ctx)->full;
}

static void submit(void *ctx, const struct disk_request *r, const struct disk_seg *segs)
{
    struct fixture *f = ctx;
    assert_true(f->n < DISK_TAGS);
    memcpy(f->segs[f->n], segs, r->n_segs * sizeof(*segs));
    f->r[f->n++] = *r;
}

/* Any address behind the way's base: for what only one of them has. */
static u64 raw(struct fixture *f, unsigned at, unsigned size)
{
    return bus_mmio_read(&f->g.bus, f->way->base + at, size);
}

static void set_raw(struct fixture *f, unsigned at, unsigned size, u64 v)
{
    bus_mmio_write(&f->g.bus, f->way->base + at, size, v);
}

static u64 reg(struct fixture *f, unsigned r)
{
    return raw(f, f->way->reg[r].at, f->way->reg[r].len);
}

static void set(struct fixture *f, unsigned r, u64 v)
{
    set_raw(f, f->way->reg[r].at, f->way->reg[r].len, v);
}

static void set64(struct fixture *f, unsigned r, u64 v)
{
    set_raw(f, f->way->reg[r].at, 4, (u32)v);
    set_raw(f, f->way->reg[r].at + 4u, 4, v >> 32);
}

static void kick(struct fixture *f, unsigned n)
{
    if (f->way->mmio)
        set_raw(f, 0x50, 4, n);
    else
        set_raw(f, 0x3000 + 4 * n, 2, n);
}

/* Why there was an interrupt, as a driver's handler finds out: which takes it back. */
static u64 take_isr(struct fixture *f)
{
    u64 isr = reg(f, ISR);
    if (f->way->mmio)
        set_raw(f, 0x64, 4, isr);
    return isr;
}

static u64 config(struct fixture *f, unsigned at, unsigned size)
{
    return bus_mmio_read(&f->g.bus, f->way->config + at, size);
}

static void attach(struct fixture *f)
{
    struct error e = {0};
    if (!f->way->mmio) {
        assert_int_equal(virtio_pci_create(&f->p, f->g.pci, f->v, &e), 0);
        return;
    }
    assert_int_equal(virtio_mmio_create(&f->m, &f->g.env, &e), 0);
    assert_int_equal(virtio_mmio_add(f->m, f->v, &e), 0);
}

static void make_disk(struct fixture *f, void **state, u32 flags)
{
    struct error e = {0};
    struct virtio_blk_config c = {
        .info = {.sectors = SECTORS, .flags = flags, .serial = "serial"}, .ready = ready, .submit = submit, .ctx = f};
    memset(f, 0, sizeof(*f));
    f->way = *state;
    dma_rig_init(&f->g);
    assert_int_equal(virtio_blk_create(&f->v, &f->g.env, &c, &e), 0);
    attach(f);
}

static void make_rng(struct fixture *f, void **state)
{
    struct error e = {0};
    memset(f, 0, sizeof(*f));
    f->way = *state;
    dma_rig_init(&f->g);
    assert_int_equal(virtio_rng_create(&f->v, &f->g.env, &e), 0);
    attach(f);
}

static void end(struct fixture *f)
{
    virtio_pci_destroy(f->p);
    virtio_mmio_destroy(f->m);
    dma_rig_free(&f->g);
}

static void set_features(struct fixture *f, u64 features)
{
    set(f, DRIVER_SELECT, 0);
    set(f, DRIVER_FEATURE, (u32)features);
    set(f, DRIVER_SELECT, 1);
    set(f, DRIVER_FEATURE, features >> 32);
}

static u64 features(struct fixture *f)
{
    set(f, DEVICE_SELECT, 1);
    u64 high = reg(f, DEVICE_FEATURE);
    set(f, DEVICE_SELECT, 0);
    return high << 32 | reg(f, DEVICE_FEATURE);
}

static void set_queue(struct fixture *f)
{
    f->d = ring_driver_make(&f->g, RING, N);
    set(f, QSEL, 0);
    set(f, QSIZE, N);
    set64(f, QDESC, f->d.desc);
    set64(f, QDRIVER, f->d.avail);
    set64(f, QDEVICE, f->d.used);
    set(f, QENABLE, 1);
}

/* Through the whole initialisation. */
static void bring_up(struct fixture *f, u64 wanted)
{
    if (!f->way->mmio)
        pci_config_write(f->g.pci, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    set(f, STATUS, 0);
    assert_int_equal(reg(f, STATUS), 0);
    set(f, STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    set_features(f, wanted | VIRTIO_F_VERSION_1);
    set(f, STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
    assert_true(reg(f, STATUS) & VIRTIO_FEATURES_OK);
    set_queue(f);
    set(f, STATUS, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
}

static void initialisation(void **state)
{
    struct fixture f;
    make_rng(&f, state);
    assert_int_equal(features(&f) & (VIRTIO_F_VERSION_1 | VIRTIO_F_PACKED), VIRTIO_F_VERSION_1 | VIRTIO_F_PACKED);
    /* the driver must take what was offered, and version 1 */
    set(&f, STATUS, 3);
    set_features(&f, VIRTIO_F_VERSION_1 | BIT(63));
    set(&f, STATUS, 11);
    assert_int_equal(reg(&f, STATUS), 3);
    set_features(&f, 0);
    set(&f, STATUS, 11);
    assert_int_equal(reg(&f, STATUS), 3);
    set(&f, STATUS, 15); /* DRIVER_OK without FEATURES_OK */
    assert_int_equal(reg(&f, STATUS), 3);
    bring_up(&f, 0);
    set_features(&f, ~0ull); /* too late */
    assert_int_equal(f.v->features, VIRTIO_F_VERSION_1);
    set(&f, STATUS, 1); /* bits do not go away by themselves */
    assert_int_equal(reg(&f, STATUS), 15);
    /* registers of a queue that is on stay */
    assert_int_equal(reg(&f, QENABLE), 1);
    set(&f, QSIZE, 4);
    set64(&f, QDESC, 0);
    assert_int_equal(f.v->queue[0].size, N);
    assert_int_equal(f.v->queue[0].desc, RING);
    /* a queue that is not there */
    set(&f, QSEL, 9);
    set(&f, QENABLE, 1);
    assert_int_equal(reg(&f, QENABLE), 0);
    end(&f);
}

/* Sizes that can not be leave the old one; rings outside of memory are found when the queue is enabled. */
static void impossible_queues(void **state)
{
    static const u32 sizes[] = {0, 3, 15, 257, 512, 0x8000};
    static const u64 places[][3] = {{RIG_RAM, RING, RING}, {RING, RIG_RAM - 16, RING},    {RING, RING, RIG_RAM - 16},
                                    {~15ull, RING, RING},  {RING, ~3ull, RING},           {RING, RING, ~3ull},
                                    {RING, BIT(63), RING}, {RING, RING, VIRTIO_MMIO_BASE}};
    struct fixture f;
    make_rng(&f, state);
    for (unsigned i = 0; i < ARRAY_LEN(places); i++) {
        bring_up(&f, 0);
        set(&f, STATUS, 0);
        set(&f, STATUS, 3);
        set_features(&f, VIRTIO_F_VERSION_1);
        set(&f, QENABLE, 1); /* before FEATURES_OK */
        assert_int_equal(reg(&f, QENABLE), 0);
        set(&f, STATUS, 11);
        set(&f, QSIZE, N);
        for (unsigned k = 0; k < ARRAY_LEN(sizes); k++) {
            set(&f, QSIZE, sizes[k]);
            assert_int_equal(f.v->queue[0].size, N);
        }
        set64(&f, QDESC, places[i][0]);
        set64(&f, QDRIVER, places[i][1]);
        set64(&f, QDEVICE, places[i][2]);
        set(&f, QENABLE, 1);
        assert_true(reg(&f, STATUS) & VIRTIO_NEEDS_RESET);
        set(&f, STATUS, 15);
        kick(&f, 0);
        assert_true(reg(&f, STATUS) & VIRTIO_NEEDS_RESET);
    }
    end(&f);
}

/* What only registers of PCI have: a number of queues, vectors, and accesses to parts of them or to several. */
static void parts_of_registers(void **state)
{
    struct fixture f;
    make_rng(&f, state);
    bring_up(&f, 0);
    assert_int_equal(raw(&f, 18, 2), 1); /* queues */
    assert_int_equal(raw(&f, 32, 8), RING);
    assert_int_equal(raw(&f, 33, 1), RING >> 8 & 0xff);
    assert_int_equal(raw(&f, 24, 4), N | VIRTIO_NO_VECTOR << 16);
    set_raw(&f, 26, 2, 2); /* there are two vectors, 0 and 1 */
    assert_int_equal(raw(&f, 26, 2), VIRTIO_NO_VECTOR);
    set(&f, QSEL, 9);
    assert_int_equal(raw(&f, 24, 2), 0);
    end(&f);
}

static void random_bytes(void **state)
{
    struct fixture f;
    u32 len;
    make_rng(&f, state);
    bring_up(&f, 0);
    ring_desc(&f.d, 0, DATA, 100, 2, 0);
    ring_offer(&f.d, 0);
    kick(&f, 0);
    assert_int_equal(ring_used(&f.d, NULL, &len), 1);
    assert_int_equal(len, 100);
    assert_true(f.g.ram[DATA] == 1 && f.g.ram[DATA + 99] == (u8)(99 * 7 + 1) && f.g.ram[DATA + 100] == 0);
    assert_int_equal(f.g.level[LINE], 1); /* over PCI: without MSI-X */
    assert_int_equal(take_isr(&f), 1);
    assert_int_equal(f.g.level[LINE], 0);
    kick(&f, 1); /* no such queue */
    kick(&f, 0x3ff);
    end(&f);
}

static void no_master_no_memory(void **state)
{
    struct fixture f;
    make_rng(&f, state);
    bring_up(&f, 0);
    ring_desc(&f.d, 0, DATA, 100, 2, 0);
    ring_offer(&f.d, 0);
    pci_config_write(f.g.pci, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY);
    kick(&f, 0);
    assert_int_equal(ring_used(&f.d, NULL, NULL), 0);
    pci_config_write(f.g.pci, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER); /* and now it looks */
    assert_int_equal(ring_used(&f.d, NULL, NULL), 1);
    end(&f);
}

/* Configuration space has a window into the BAR, for those who can not map it. */
static void window(void **state)
{
    struct fixture f;
    make_rng(&f, state);
    unsigned at = pci_config_read(f.g.pci, 1, PCI_CAPS, 1);
    while (pci_config_read(f.g.pci, 1, at, 1) != PCI_CAP_VENDOR || pci_config_read(f.g.pci, 1, at + 3, 1) != 5)
        at = pci_config_read(f.g.pci, 1, at + 1, 1);
    pci_config_write(f.g.pci, 1, at + 8, 4, over_pci.reg[STATUS].at);
    pci_config_write(f.g.pci, 1, at + 12, 4, 1);
    pci_config_write(f.g.pci, 1, at + 16, 4, 3);
    assert_int_equal(reg(&f, STATUS), 3);
    assert_int_equal(pci_config_read(f.g.pci, 1, at + 16, 1), 3);
    static const u32 odd[][2] = {{0xffffffff, 4}, {0x3fff, 2}, {0x3ffe, 4}, {0, 0}, {0, 8}, {0, 0xffffffff}};
    for (unsigned i = 0; i < ARRAY_LEN(odd); i++) {
        pci_config_write(f.g.pci, 1, at + 8, 4, odd[i][0]);
        pci_config_write(f.g.pci, 1, at + 12, 4, odd[i][1]);
        assert_int_equal(pci_config_read(f.g.pci, 1, at + 16, 4), 0);
        pci_config_write(f.g.pci, 1, at + 16, 4, 0xffffffff);
    }
    end(&f);
}

static void broken_ring_needs_reset(void **state)
{
    struct fixture f;
    make_rng(&f, state);
    bring_up(&f, 0);
    ring_desc(&f.d, 0, RIG_RAM, 100, 2, 0);
    ring_offer(&f.d, 0);
    kick(&f, 0);
    assert_true(reg(&f, STATUS) & VIRTIO_NEEDS_RESET);
    assert_int_equal(take_isr(&f), 2); /* configuration change */
    kick(&f, 0);
    assert_int_equal(ring_used(&f.d, NULL, NULL), 0);
    bring_up(&f, 0); /* and then it works again */
    ring_desc(&f.d, 0, DATA, 100, 2, 0);
    ring_offer(&f.d, 0);
    kick(&f, 0);
    assert_int_equal(ring_used(&f.d, NULL, NULL), 1);
    end(&f);
}

/* --- the disk --- */

/* Offer a request with `len` bytes of data in one piece; its status byte is at DATA + 0x100 + head. */
static void ask(struct fixture *f, u16 head, u32 type, u64 sector, u32 len)
{
    u8 *h = f->g.ram + DATA + 16 * head;
    put_le32(h, type);
    put_le64(h + 8, sector);
    f->g.ram[DATA + 0x100 + head] = 0xee;
    bool in = type == 0 || type == 8;
    ring_desc(&f->d, head, DATA + 16 * head, 16, 1, (u16)(head + 1));
    if (len)
        ring_desc(&f->d, head + 1, DATA + 0x1000, len, 1 | (in ? 2 : 0), (u16)(head + 2));
    ring_desc(&f->d, head + (len ? 2 : 1), DATA + 0x100 + head, 1, 2, 0);
    ring_offer(&f->d, head);
    kick(f, 0);
}

static u8 status(const struct fixture *f, u16 head)
{
    return f->g.ram[DATA + 0x100 + head];
}

static void disk_configuration(void **state)
{
    struct fixture f;
    make_disk(&f, state, DISK_WRITE_CACHE | DISK_CAN_DISCARD);
    assert_int_equal(features(&f) & 0xffffff, BIT(1) | BIT(2) | BIT(6) | BIT(9) | BIT(13) | BIT(14));
    assert_int_equal(config(&f, 0, 8), SECTORS);
    assert_int_equal(config(&f, 20, 4), 512);
    assert_int_equal(config(&f, 56, 1), 1);
    assert_int_equal(config(&f, 60, 4), 0);
    end(&f);
    make_disk(&f, state, DISK_READ_ONLY | DISK_CAN_DISCARD);
    assert_int_equal(features(&f) & 0xffffff, BIT(1) | BIT(2) | BIT(5) | BIT(6));
    end(&f);
}

static void disk_requests(void **state)
{
    struct fixture f;
    u32 len;
    make_disk(&f, state, DISK_WRITE_CACHE | DISK_CAN_DISCARD);
    bring_up(&f, BIT(9));
    ask(&f, 0, 0, 5, 1024);
    ask(&f, 4, 1, SECTORS - 2, 1024);
    ask(&f, 8, 4, 0, 0);
    assert_int_equal(f.n, 3);
    assert_true(f.r[0].op == DISK_READ && f.r[0].sector == 5 && f.r[0].sectors == 2 && f.r[0].n_segs == 1);
    assert_true(f.segs[0][0].at == DATA + 0x1000 && f.segs[0][0].len == 1024);
    assert_true(f.r[1].op == DISK_WRITE && f.r[1].sector == SECTORS - 2 && f.r[2].op == DISK_FLUSH);
    /* answers in another order; the traces hear of what was read before the driver does */
    f.g.mem.trace[(DATA + 0x1000) >> 12] = MEM_TRACE_CODE;
    assert_int_equal(virtio_blk_done(f.v, f.r[2].tag, DISK_OK), 0);
    assert_int_equal(virtio_blk_done(f.v, f.r[1].tag, DISK_FAILED), 0);
    assert_int_equal(f.g.code_written, 0);
    assert_int_equal(virtio_blk_done(f.v, f.r[0].tag, DISK_OK), 0);
    assert_int_equal(f.g.code_written, 1);
    assert_int_equal(ring_used(&f.d, NULL, &len), 3);
    assert_int_equal(len, 1025);
    assert_true(status(&f, 0) == 0 && status(&f, 4) == 1 && status(&f, 8) == 0);
    assert_int_equal(f.g.level[LINE], 0); /* told once, after the batch */
    virtio_blk_settle(f.v);
    assert_int_equal(f.g.level[LINE], 1);
    assert_int_equal(virtio_blk_done(f.v, f.r[0].tag, DISK_OK), -EPROTO);
    assert_int_equal(virtio_blk_done(f.v, DISK_TAGS, DISK_OK), -EPROTO);
    assert_int_equal(virtio_blk_done(f.v, ~0u, DISK_OK), -EPROTO);
    end(&f);
}

/* What is wrong in itself is answered without the back end. */
static void disk_refuses(void **state)
{
    static const struct {
        u32 type;
        u64 sector;
        u32 len;
        u8 status;
    } cases[] = {
        {0, SECTORS, 512, 1},
        {0, SECTORS - 1, 1024, 1},
        {1, ~0ull, 512, 1},
        {1, ~0ull - 1, 1024, 1},
        {0, 0, 100, 1},
        {0, 0, 0, 1},
        {99, 0, 512, 2},
        {13, 0, 512, 1},
        {11, 0, 16, 1} /* nothing */,
        {4, 0, 0, 0} /* no cache: done */,
    };
    struct fixture f;
    make_disk(&f, state, DISK_CAN_DISCARD);
    bring_up(&f, 0);
    for (u16 i = 0; i < ARRAY_LEN(cases); i++) {
        ask(&f, 0, cases[i].type, cases[i].sector, cases[i].len);
        if (cases[i].status != status(&f, 0))
            fail_msg("case %u: status %u", i, status(&f, 0));
        assert_int_equal(ring_used(&f.d, NULL, NULL), i + 1);
    }
    assert_int_equal(f.n, 0);
    end(&f);
    make_disk(&f, state, DISK_READ_ONLY | DISK_CAN_DISCARD);
    bring_up(&f, 0);
    ask(&f, 0, 1, 0, 512);
    assert_int_equal(status(&f, 0), 1);
    ask(&f, 0, 11, 0, 16);
    assert_int_equal(status(&f, 0), 2);
    ask(&f, 0, 8, 0, 20);
    assert_string_equal((char *)f.g.ram + DATA + 0x1000, "serial");
    assert_int_equal(f.n, 0);
    /* no place for the status, no whole header */
    ring_desc(&f.d, 0, DATA, 16, 0, 0);
    ring_offer(&f.d, 0);
    kick(&f, 0);
    assert_true(reg(&f, STATUS) & VIRTIO_NEEDS_RESET);
    bring_up(&f, 0);
    ring_desc(&f.d, 0, DATA, 15, 1, 1);
    ring_desc(&f.d, 1, DATA, 1, 2, 0);
    ring_offer(&f.d, 0);
    kick(&f, 0);
    assert_true(reg(&f, STATUS) & VIRTIO_NEEDS_RESET);
    end(&f);
}

static void disk_ranges(void **state)
{
    struct fixture f;
    make_disk(&f, state, DISK_WRITE_CACHE | DISK_CAN_DISCARD);
    bring_up(&f, 0);
    u8 *r = f.g.ram + DATA + 0x1000;
    put_le64(r, 8);
    put_le32(r + 8, 16);
    ask(&f, 0, 11, 0, 16);
    put_le32(r + 12, 1);
    ask(&f, 0, 13, 0, 16);
    assert_int_equal(f.n, 2);
    assert_true(f.r[0].op == DISK_DISCARD && f.r[0].sector == 8 && f.r[0].sectors == 16 && !f.r[0].n_segs);
    assert_true(f.r[1].op == DISK_ZERO && f.r[1].flags == DISK_MAY_UNMAP);
    ask(&f, 0, 11, 0, 16); /* a discard has no flags */
    assert_int_equal(status(&f, 0), 2);
    put_le32(r + 12, 0);
    put_le64(r, SECTORS - 15);
    ask(&f, 0, 11, 0, 16);
    assert_int_equal(status(&f, 0), 1);
    ask(&f, 0, 11, 0, 32); /* two ranges */
    assert_int_equal(status(&f, 0), 1);
    end(&f);
}

/* Header and status may be cut into any pieces. */
static void disk_any_layout(void **state)
{
    struct fixture f;
    make_disk(&f, state, DISK_WRITE_CACHE);
    bring_up(&f, VIRTIO_F_INDIRECT);
    u8 *h = f.g.ram + DATA;
    put_le32(h, 1);
    put_le64(h + 8, 3);
    struct ring_driver t = {.g = &f.g, .desc = DATA + 0x4000};
    for (unsigned i = 0; i < 16; i++)
        ring_desc(&t, i, DATA + i, 1, 1, (u16)(i + 1));
    ring_desc(&t, 16, DATA + 0x1000, 500, 1, 17);
    ring_desc(&t, 17, DATA + 0x2000, 524, 1, 18);
    ring_desc(&t, 18, DATA + 0x3000, 7, 2, 0); /* the last byte is the status */
    ring_desc(&f.d, 0, t.desc, 19 * 16, 4, 0);
    ring_offer(&f.d, 0);
    kick(&f, 0);
    assert_true(f.n == 1 && f.r[0].sector == 3 && f.r[0].sectors == 2 && f.r[0].n_segs == 2);
    assert_true(f.segs[0][1].at == DATA + 0x2000 && f.segs[0][1].len == 524);
    f.g.ram[DATA + 0x3006] = 9;
    assert_int_equal(virtio_blk_done(f.v, f.r[0].tag, DISK_OK), 0);
    assert_int_equal(f.g.ram[DATA + 0x3006], 0);
    end(&f);
}

static void disk_waits_for_room(void **state)
{
    struct fixture f;
    make_disk(&f, state, DISK_WRITE_CACHE);
    bring_up(&f, 0);
    f.full = true;
    ask(&f, 0, 4, 0, 0);
    assert_int_equal(f.n, 0);
    f.full = false;
    virtio_blk_settle(f.v);
    assert_int_equal(f.n, 1);
    end(&f);
}

static int save(struct fixture *f, struct rec_buf *out)
{
    return f->way->mmio ? virtio_mmio_save(f->m, out) : pci_save(f->g.pci, out) | virtio_pci_save(f->p, out);
}

/* A reset lets the driver go on only when nothing can be written to its memory any more. */
static void disk_reset_waits(void **state)
{
    struct fixture f;
    struct rec_buf out = {0};
    make_disk(&f, state, DISK_WRITE_CACHE);
    bring_up(&f, 0);
    ask(&f, 0, 0, 0, 512);
    assert_int_equal(save(&f, &out), -EBUSY);
    set(&f, STATUS, 0);
    assert_int_not_equal(reg(&f, STATUS), 0);
    set(&f, STATUS, 15); /* not yet */
    ask(&f, 4, 0, 0, 512);
    assert_int_equal(f.n, 1);
    assert_int_equal(virtio_blk_done(f.v, f.r[0].tag, DISK_OK), 0);
    virtio_blk_settle(f.v);
    assert_int_equal(reg(&f, STATUS), 0);
    assert_int_equal(status(&f, 0), 0xee); /* nothing was given back */
    assert_int_equal(ring_used(&f.d, NULL, NULL), 0);
    assert_int_equal(reg(&f, QENABLE), 0);
    bring_up(&f, 0);
    ask(&f, 0, 0, 0, 512);
    assert_int_equal(f.n, 2);
    assert_int_equal(virtio_blk_done(f.v, f.r[1].tag, DISK_OK), 0);
    assert_int_equal(status(&f, 0), 0);
    end(&f);
    rec_buf_free(&out);
}

/* Load everything that was saved of `f`'s function into `to`; the last result. */
static int load_all(struct fixture *to, const struct rec_buf *b, bool check_only, struct error *e)
{
    struct rec_view v;
    size_t pos = 0;
    int r = 1;
    while (r == 1 && rec_next(b->data, b->len, &pos, &v, e) == 1)
        if (to->way->mmio)
            r = virtio_mmio_load(to->m, &v, check_only, e);
        else if ((r = pci_load(to->g.pci, &v, check_only, e)) == 0)
            r = virtio_pci_load(to->p, &v, check_only, e);
    return r;
}

static void records(void **state)
{
    struct fixture f, g;
    struct rec_buf out = {0}, again = {0};
    struct error e = {0};
    make_disk(&f, state, DISK_WRITE_CACHE);
    make_disk(&g, state, DISK_WRITE_CACHE);
    bring_up(&f, VIRTIO_F_EVENT_INDEX | BIT(9));
    ask(&f, 0, 4, 0, 0);
    assert_int_equal(virtio_blk_done(f.v, f.r[0].tag, DISK_OK), 0);
    virtio_blk_settle(f.v);
    assert_int_equal(save(&f, &out), 0);
    assert_int_equal(load_all(&g, &out, true, &e), 1);
    assert_int_equal(load_all(&g, &out, false, &e), 1);
    assert_int_equal(save(&g, &again), 0);
    assert_int_equal(out.len, again.len);
    assert_memory_equal(out.data, again.data, out.len);
    assert_int_equal(g.g.level[LINE], 1);
    /* and it goes on where it was */
    memcpy(g.g.ram, f.g.ram, RIG_RAM);
    g.d = f.d;
    g.d.g = &g.g;
    ask(&g, 4, 0, 1, 512);
    assert_int_equal(g.n, 1);
    assert_int_equal(virtio_blk_done(g.v, g.r[0].tag, DISK_OK), 0);
    assert_int_equal(ring_used(&g.d, NULL, NULL), 2);
    end(&g);
    make_disk(&g, state, 0); /* a disk without the features that the driver accepted */
    assert_int_equal(load_all(&g, &out, true, &e), -EINVAL);
    end(&g);
    end(&f);
    rec_buf_free(&out);
    rec_buf_free(&again);
}

/* --- what only the registers of MMIO have --- */

#define WINDOW(n) (VIRTIO_MMIO_BASE + (n)*VIRTIO_MMIO_STRIDE)

static void mmio_identity(void **state)
{
    static const u32 only_written[] = {0x14, 0x20, 0x24, 0x30, 0x38, 0x50, 0x64, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4};
    static const u32 not_there[] = {0x18, 0x28, 0x3c, 0x40, 0x48, 0xac, 0xc0, 0xf8, 0xfc};
    struct fixture f;
    make_rng(&f, state);
    bring_up(&f, 0);
    for (unsigned i = 0; i < 2; i++) { /* and writes change none of it */
        assert_int_equal(raw(&f, 0, 4), 0x74726976);
        assert_int_equal(raw(&f, 4, 4), 2);
        assert_int_equal(raw(&f, 8, 4), 4);
        assert_int_equal(raw(&f, 12, 4), 0x1af4);
        assert_int_equal(raw(&f, 0x34, 4), VIRTQ_SIZE_MAX);
        for (unsigned at = 0xb0; at < 0xc0; at += 4)
            assert_int_equal(raw(&f, at, 4), UINT32_MAX);
        for (unsigned k = 0; k < ARRAY_LEN(only_written); k++)
            assert_int_equal(raw(&f, only_written[k], 4), 0);
        for (unsigned k = 0; k < ARRAY_LEN(not_there); k++)
            assert_int_equal(raw(&f, not_there[k], 4), 0);
        static const u8 only_read[] = {0, 4, 8, 12, 0x10, 0x34, 0x60, 0xb0, 0xb4, 0xb8, 0xbc, 0xc0, 0xfc};
        for (unsigned k = 0; k < ARRAY_LEN(only_read); k++)
            set_raw(&f, only_read[k], 4, 0x5a5a5a5a);
    }
    set(&f, QSEL, 1); /* there is one, 0 */
    assert_int_equal(raw(&f, 0x34, 4), 0);
    set(&f, QSEL, ~0u);
    assert_int_equal(raw(&f, 0x34, 4), 0);
    set(&f, DEVICE_SELECT, 2);
    assert_int_equal(reg(&f, DEVICE_FEATURE), 0);
    set(&f, STATUS, 0xffffff00); /* no reset: that is 0 as a whole */
    assert_int_equal(reg(&f, STATUS), 15);
    end(&f);
}

/* Registers know aligned accesses of four bytes alone; the configuration any. */
static void mmio_widths(void **state)
{
    struct fixture f;
    make_disk(&f, state, DISK_WRITE_CACHE);
    bring_up(&f, 0);
    for (unsigned at = 0; at < 0x100; at++) {
        for (unsigned size = 1; size <= 8; size *= 2) {
            if (size == 4 && at % 4 == 0)
                continue;
            assert_int_equal(raw(&f, at, size) & (at > 0xf8 ? 0xff : ~0ull), 0);
            set_raw(&f, at, size, 0);
        }
    }
    assert_int_equal(reg(&f, STATUS), 15);
    assert_int_equal(reg(&f, QENABLE), 1);
    u8 all[VIRTIO_CONFIG_MAX] = {0};
    f.v->type->get_config(f.v->self, all);
    for (unsigned at = 0; at < f.v->type->config; at++) {
        assert_int_equal(config(&f, at, 1), all[at]);
        if (at + 4 <= f.v->type->config)
            assert_int_equal(config(&f, at, 4), get_le32(all + at));
        if (at + 8 <= f.v->type->config)
            assert_int_equal(config(&f, at, 8), get_le64(all + at));
    }
    for (unsigned at = f.v->type->config; at < VIRTIO_MMIO_STRIDE - 0x100; at++)
        assert_int_equal(config(&f, at, 1), 0);
    end(&f);
}

static void mmio_windows(void **state)
{
    struct fixture f;
    struct error e = {0};
    struct virtio *v;
    make_rng(&f, state);
    for (unsigned n = 0; n < VIRTIO_MMIO_WINDOWS; n++) {
        assert_int_equal(bus_mmio_read(&f.g.bus, WINDOW(n), 4), 0x74726976);
        assert_int_equal(bus_mmio_read(&f.g.bus, WINDOW(n) + 4, 4), 2);
        assert_int_equal(bus_mmio_read(&f.g.bus, WINDOW(n) + 8, 4), n == 1 ? 4 : 0); /* 0: look elsewhere */
        for (unsigned at = 0; n != 1 && at < VIRTIO_MMIO_STRIDE; at += 4) {
            bus_mmio_write(&f.g.bus, WINDOW(n) + at, 4, ~0u);
            if (at > 4)
                assert_int_equal(bus_mmio_read(&f.g.bus, WINDOW(n) + at, 4), 0);
        }
    }
    assert_int_equal(bus_mmio_read(&f.g.bus, WINDOW(0) - 4, 4), UINT32_MAX);
    assert_int_equal(bus_mmio_read(&f.g.bus, WINDOW(VIRTIO_MMIO_WINDOWS), 4), UINT32_MAX);
    bus_mmio_read(&f.g.bus, WINDOW(VIRTIO_MMIO_WINDOWS) - 2, 4); /* half of it is outside */
    bus_mmio_write(&f.g.bus, WINDOW(2) - 2, 4, ~0u);
    for (unsigned n = 2; n <= VIRTIO_MMIO_WINDOWS; n++) { /* 31 of them fit */
        assert_int_equal(virtio_rng_create(&v, &f.g.env, &e), 0);
        assert_int_equal(virtio_mmio_add(f.m, v, &e), n < VIRTIO_MMIO_WINDOWS ? 0 : -ENOSPC);
        if (n < VIRTIO_MMIO_WINDOWS)
            assert_int_equal(bus_mmio_read(&f.g.bus, WINDOW(n) + 8, 4), 4);
    }
    assert_non_null(strstr(e.msg, "31 devices"));
    assert_int_equal(virtio_rng_create(&v, &f.g.env, &e), 0);
    v->slot = 5; /* taken */
    assert_int_equal(virtio_mmio_add(f.m, v, &e), -ENOSPC);
    assert_int_equal(virtio_rng_create(&v, &f.g.env, &e), 0);
    v->slot = VIRTIO_MMIO_WINDOWS;
    assert_int_equal(virtio_mmio_add(f.m, v, &e), -ENOSPC);
    end(&f);
}

static void ask_rng(struct fixture *f)
{
    ring_desc(&f->d, 0, DATA, 100, 2, 0);
    ring_offer(&f->d, 0);
    kick(f, 0);
}

/* The line is high until each bit of each device on it is acknowledged, and again as soon as one is set again. */
static void mmio_levels(void **state)
{
    static const struct way ninth = {.mmio = true, .base = WINDOW(9), .reg = {[STATUS] = {0x70, 4}, [ISR] = {0x60, 4}}};
    struct fixture f, other;
    struct error e = {0};
    make_rng(&f, state);
    assert_int_equal(virtio_rng_create(&other.v, &f.g.env, &e), 0);
    other.v->slot = 9;
    assert_int_equal(virtio_mmio_add(f.m, other.v, &e), 0);
    assert_int_equal(GSI_VIRTIO_MMIO(9), LINE);
    bring_up(&f, 0);
    ask_rng(&f);
    assert_int_equal(f.g.level[LINE], 1);
    set_raw(&f, 0x64, 4, 2); /* another bit */
    assert_int_equal(f.g.level[LINE], 1);
    /* while the handler has read the status and not yet acknowledged it, there is more: drivers look after that */
    assert_int_equal(reg(&f, ISR), 1);
    ask_rng(&f);
    set_raw(&f, 0x64, 4, 1);
    assert_int_equal(f.g.level[LINE], 0);
    assert_int_equal(ring_used(&f.d, NULL, NULL), 2);
    ask_rng(&f);
    assert_int_equal(f.g.level[LINE], 1);
    other.v->status = 15; /* the other device has something to say as well */
    virtio_needs_reset(other.v);
    take_isr(&f);
    assert_int_equal(f.g.level[LINE], 1);
    other.way = &ninth;
    other.g.bus = f.g.bus;
    assert_int_equal(reg(&other, ISR), 2);
    bus_mmio_write(&f.g.bus, WINDOW(9) + 0x64, 4, 2);
    assert_int_equal(f.g.level[LINE], 0);
    /* a reset takes the interrupt back, too */
    ask_rng(&f);
    assert_int_equal(f.g.level[LINE], 1);
    set(&f, STATUS, 0);
    assert_int_equal(f.g.level[LINE], 0);
    assert_int_equal(reg(&f, ISR), 0);
    /* and so does one of the machine; what others do with the host bridge does not */
    bring_up(&f, 0);
    ask_rng(&f);
    pci_config_write(f.g.pci, 0, PCI_COMMAND, 2, 7);
    assert_int_equal(f.g.level[LINE], 1);
    virtio_mmio_reset(f.m);
    assert_int_equal(f.g.level[LINE], 0);
    assert_int_equal(reg(&f, STATUS) | reg(&f, QENABLE), 0);
    end(&f);
}

/* The inputs of slot 0 and window 24 are the same: PCI must not take down what is not its own. */
static void mmio_beside_the_bridge(void **state)
{
    struct fixture f;
    struct error e = {0};
    struct virtio *v;
    make_rng(&f, state);
    assert_int_equal(virtio_rng_create(&v, &f.g.env, &e), 0);
    v->slot = 24;
    assert_int_equal(virtio_mmio_add(f.m, v, &e), 0);
    v->status = 15;
    virtio_needs_reset(v);
    assert_int_equal(f.g.level[GSI_PCI], 1);
    pci_config_write(f.g.pci, 0, PCI_COMMAND, 2, 7);
    assert_int_equal(f.g.level[GSI_PCI], 1);
    end(&f);
}

/* A driver takes a queue back: it is off when its requests have come back, and can be another one then. */
static void mmio_queue_taken_back(void **state)
{
    struct fixture f;
    struct rec_buf out = {0};
    make_disk(&f, state, DISK_WRITE_CACHE);
    bring_up(&f, 0);
    set(&f, QENABLE, 0); /* nothing is on its way */
    assert_int_equal(reg(&f, QENABLE), 0);
    ask(&f, 0, 4, 0, 0);
    assert_int_equal(f.n, 0);
    set_queue(&f);
    ask(&f, 0, 4, 0, 0);
    assert_int_equal(f.n, 1);
    set(&f, QENABLE, 0);
    assert_int_equal(reg(&f, QENABLE), 1);
    set(&f, QENABLE, 1); /* too early to change one's mind */
    ask(&f, 4, 4, 0, 0);
    assert_int_equal(f.n, 1);
    assert_int_equal(save(&f, &out), -EBUSY);
    assert_int_equal(virtio_blk_done(f.v, f.r[0].tag, DISK_OK), 0);
    virtio_blk_settle(f.v);
    assert_int_equal(status(&f, 0), 0); /* it was given back */
    assert_int_equal(ring_used(&f.d, NULL, NULL), 1);
    assert_int_equal(status(&f, 4), 0xee);
    assert_int_equal(reg(&f, QENABLE), 0);
    assert_int_equal(f.n, 1);
    set_queue(&f);
    assert_int_equal(reg(&f, QENABLE), 1);
    ask(&f, 0, 4, 0, 0);
    assert_int_equal(f.n, 2);
    /* a reset of the device overtakes it */
    set(&f, QENABLE, 0);
    set(&f, STATUS, 0);
    assert_int_not_equal(reg(&f, STATUS), 0);
    assert_int_equal(virtio_blk_done(f.v, f.r[1].tag, DISK_OK), 0);
    virtio_blk_settle(f.v);
    assert_int_equal(reg(&f, STATUS), 0);
    bring_up(&f, 0);
    ask(&f, 0, 4, 0, 0);
    assert_int_equal(f.n, 3);
    assert_int_equal(virtio_blk_done(f.v, f.r[2].tag, DISK_OK), 0);
    end(&f);
    rec_buf_free(&out);
}

/* Everything written everywhere, in every width: the device may be in any state, but a reset brings it back. */
static void mmio_sweep(void **state)
{
    static const u64 values[] = {0, 1, 2, 3, 15, 128, 255, ~0ull, 0x8000000080000000ull, RIG_RAM - 1, VIRTIO_MMIO_BASE};
    struct fixture f;
    make_disk(&f, state, DISK_WRITE_CACHE);
    for (unsigned i = 0; i < ARRAY_LEN(values) * 4; i++) {
        for (unsigned at = 0; at < 0x200; at++) {
            set_raw(&f, at, 1u << i % 4, values[i / 4]);
            raw(&f, at, 1u << i % 4);
        }
        bring_up(&f, 0);
    }
    ask(&f, 0, 4, 0, 0);
    assert_int_equal(f.n, 1);
    assert_int_equal(virtio_blk_done(f.v, f.r[0].tag, DISK_OK), 0);
    end(&f);
}

/* What was high before a load and is low in the records does not rise for a moment. */
static void mmio_load_over_a_busy_one(void **state)
{
    struct fixture f;
    struct rec_buf calm = {0};
    struct rec_view v;
    struct error e = {0};
    struct virtio *other;
    size_t pos = 0;
    make_rng(&f, state);
    assert_int_equal(virtio_rng_create(&other, &f.g.env, &e), 0);
    other->slot = 9;
    assert_int_equal(virtio_mmio_add(f.m, other, &e), 0);
    assert_int_equal(save(&f, &calm), 0);
    other->status = 15;
    virtio_needs_reset(other);
    assert_int_equal(f.g.level[LINE], 1);
    f.g.level[LINE] = 0; /* the controllers are loaded first */
    while (rec_next(calm.data, calm.len, &pos, &v, &e) == 1) {
        assert_int_equal(virtio_mmio_load(f.m, &v, false, &e), 1);
        assert_int_equal(f.g.level[LINE], 0);
    }
    end(&f);
    rec_buf_free(&calm);
}

/* What goes wrong while a reset waits says nothing to a driver that is gone. */
static void mmio_silent_while_resetting(void **state)
{
    struct fixture f;
    make_disk(&f, state, DISK_WRITE_CACHE);
    bring_up(&f, 0);
    ask(&f, 0, 4, 0, 0);
    set(&f, STATUS, 0);
    virtio_needs_reset(f.v);
    assert_int_equal(reg(&f, ISR), 0);
    assert_int_equal(f.g.level[LINE], 0);
    assert_int_equal(virtio_blk_done(f.v, f.r[0].tag, DISK_OK), 0);
    virtio_blk_settle(f.v);
    assert_int_equal(reg(&f, STATUS) | reg(&f, ISR) | f.g.level[LINE], 0);
    end(&f);
}

static void mmio_bad_records(void **state)
{
    struct fixture f;
    struct rec_buf out = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    make_rng(&f, state);
    bring_up(&f, 0);
    ask_rng(&f);
    assert_int_equal(save(&f, &out), 0);
    assert_int_equal(rec_next(out.data, out.len, &pos, &v, &e), 1);
    assert_memory_equal(&v.type, "VMMI", 4);
    assert_int_equal(virtio_mmio_load(f.m, &v, true, &e), 1);
    v.instance = 2; /* an empty window, none at all */
    assert_int_equal(virtio_mmio_load(f.m, &v, true, &e), 0);
    v.instance = 0xffff;
    assert_int_equal(virtio_mmio_load(f.m, &v, true, &e), 0);
    v.instance = 1;
    u8 isr[3] = {4, 0x80, 0xff};
    for (unsigned i = 0; i < sizeof(isr); i++) {
        struct rec_buf bad = {0};
        u8 payload[64];
        assert_true(v.len <= sizeof(payload));
        memcpy(payload, v.payload, v.len);
        payload[v.len - 1] = isr[i];
        assert_int_equal(rec_save_raw(&bad, v.type, v.version, 1, payload, v.len), 0);
        struct rec_view w;
        size_t at = 0;
        assert_int_equal(rec_next(bad.data, bad.len, &at, &w, &e), 1);
        assert_int_equal(virtio_mmio_load(f.m, &w, true, &e), -EINVAL);
        rec_buf_free(&bad);
    }
    end(&f);
    rec_buf_free(&out);
}

#define ON(way, test)                                                                            \
    {                                                                                            \
        .name = #test " (" #way ")", .test_func = test, .initial_state = (void *)(uintptr_t)&way \
    }
#define ON_BOTH(test) ON(over_pci, test), ON(over_mmio, test)

int main(void)
{
    const struct CMUnitTest tests[] = {
        ON_BOTH(initialisation),
        ON_BOTH(impossible_queues),
        ON_BOTH(random_bytes),
        ON_BOTH(broken_ring_needs_reset),
        ON_BOTH(disk_configuration),
        ON_BOTH(disk_requests),
        ON_BOTH(disk_refuses),
        ON_BOTH(disk_ranges),
        ON_BOTH(disk_any_layout),
        ON_BOTH(disk_waits_for_room),
        ON_BOTH(disk_reset_waits),
        ON_BOTH(records),
        ON(over_pci, parts_of_registers),
        ON(over_pci, no_master_no_memory),
        ON(over_pci, window),
        ON(over_mmio, mmio_identity),
        ON(over_mmio, mmio_widths),
        ON(over_mmio, mmio_windows),
        ON(over_mmio, mmio_levels),
        ON(over_mmio, mmio_beside_the_bridge),
        ON(over_mmio, mmio_queue_taken_back),
        ON(over_mmio, mmio_sweep),
        ON(over_mmio, mmio_load_over_a_busy_one),
        ON(over_mmio, mmio_silent_while_resetting),
        ON(over_mmio, mmio_bad_records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
