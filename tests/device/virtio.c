/* The PCI transport and the devices behind it: a driver of our own goes through what virtio 1.2, 3.1 says, and against it. */
#include "dma_rig.h"

#include <errno.h>

#define RING    0x10000u
#define DATA    0x20000u
#define N       16u
#define BAR     0xc0000000ull
#define DEV     (BAR + 0x2000)
#define KICK    (BAR + 0x3000)
#define SECTORS 2048u

enum { STATUS = 20, QSEL = 22, QSIZE = 24, QVECTOR = 26, QENABLE = 28, QDESC = 32, QDRIVER = 40, QDEVICE = 48 };

/* A back end that remembers; replies come when the test says so. */
struct fixture {
    struct dma_rig g;
    struct ring_driver d;
    struct virtio *v;
    struct virtio_pci *p;
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

static u64 reg(struct fixture *f, unsigned at, unsigned size)
{
    return bus_mmio_read(&f->g.bus, BAR + at, size);
}

static void set(struct fixture *f, unsigned at, unsigned size, u64 v)
{
    bus_mmio_write(&f->g.bus, BAR + at, size, v);
}

static void make_disk(struct fixture *f, u32 flags)
{
    struct error e = {0};
    struct virtio_blk_config c = {
        .info = {.sectors = SECTORS, .flags = flags, .serial = "serial"}, .ready = ready, .submit = submit, .ctx = f};
    memset(f, 0, sizeof(*f));
    dma_rig_init(&f->g);
    assert_int_equal(virtio_blk_create(&f->v, &f->g.env, &c, &e), 0);
    assert_int_equal(virtio_pci_create(&f->p, f->g.pci, f->v, &e), 0);
}

static void make_rng(struct fixture *f)
{
    struct error e = {0};
    memset(f, 0, sizeof(*f));
    dma_rig_init(&f->g);
    assert_int_equal(virtio_rng_create(&f->v, &f->g.env, &e), 0);
    assert_int_equal(virtio_pci_create(&f->p, f->g.pci, f->v, &e), 0);
}

static void end(struct fixture *f)
{
    virtio_pci_destroy(f->p);
    dma_rig_free(&f->g);
}

static void set_features(struct fixture *f, u64 features)
{
    set(f, 8, 4, 0);
    set(f, 12, 4, (u32)features);
    set(f, 8, 4, 1);
    set(f, 12, 4, (u32)(features >> 32));
}

static u64 features(struct fixture *f)
{
    set(f, 0, 4, 1);
    u64 high = reg(f, 4, 4);
    set(f, 0, 4, 0);
    return high << 32 | reg(f, 4, 4);
}

static void set_queue(struct fixture *f)
{
    f->d = ring_driver_make(&f->g, RING, N);
    set(f, QSEL, 2, 0);
    set(f, QSIZE, 2, N);
    set(f, QDESC, 8, f->d.desc);
    set(f, QDRIVER, 4, f->d.avail);
    set(f, QDRIVER + 4, 4, 0);
    set(f, QDEVICE, 8, f->d.used);
    set(f, QENABLE, 2, 1);
}

/* Through the whole initialisation. */
static void bring_up(struct fixture *f, u64 wanted)
{
    pci_config_write(f->g.pci, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    set(f, STATUS, 1, 0);
    assert_int_equal(reg(f, STATUS, 1), 0);
    set(f, STATUS, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER);
    set_features(f, wanted | VIRTIO_F_VERSION_1);
    set(f, STATUS, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK);
    assert_true(reg(f, STATUS, 1) & VIRTIO_FEATURES_OK);
    set_queue(f);
    set(f, STATUS, 1, VIRTIO_ACKNOWLEDGE | VIRTIO_DRIVER | VIRTIO_FEATURES_OK | VIRTIO_DRIVER_OK);
}

static void initialisation(void **state)
{
    struct fixture f;
    make_rng(&f);
    assert_int_equal(reg(&f, 18, 2), 1); /* queues */
    assert_int_equal(features(&f) & (VIRTIO_F_VERSION_1 | VIRTIO_F_PACKED), VIRTIO_F_VERSION_1 | VIRTIO_F_PACKED);
    /* the driver must take what was offered, and version 1 */
    set(&f, STATUS, 1, 3);
    set_features(&f, VIRTIO_F_VERSION_1 | BIT(63));
    set(&f, STATUS, 1, 11);
    assert_int_equal(reg(&f, STATUS, 1), 3);
    set_features(&f, 0);
    set(&f, STATUS, 1, 11);
    assert_int_equal(reg(&f, STATUS, 1), 3);
    set(&f, STATUS, 1, 15); /* DRIVER_OK without FEATURES_OK */
    assert_int_equal(reg(&f, STATUS, 1), 3);
    bring_up(&f, 0);
    set_features(&f, ~0ull); /* too late */
    assert_int_equal(f.v->features, VIRTIO_F_VERSION_1);
    set(&f, STATUS, 1, 1); /* bits do not go away by themselves */
    assert_int_equal(reg(&f, STATUS, 1), 15);
    /* registers of a queue that is on stay */
    set(&f, QSIZE, 2, 4);
    set(&f, QDESC, 8, 0);
    assert_int_equal(reg(&f, QSIZE, 2), N);
    assert_int_equal(reg(&f, QDESC, 8), RING);
    /* a queue that is not there */
    set(&f, QSEL, 2, 9);
    set(&f, QENABLE, 2, 1);
    assert_int_equal(reg(&f, QSIZE, 2), 0);
    /* parts of registers */
    set(&f, QSEL, 2, 0);
    assert_int_equal(reg(&f, QDESC + 1, 1), RING >> 8 & 0xff);
    assert_int_equal(reg(&f, QSIZE, 4), N | VIRTIO_NO_VECTOR << 16);
    set(&f, QVECTOR, 2, 2); /* there are two vectors, 0 and 1 */
    assert_int_equal(reg(&f, QVECTOR, 2), VIRTIO_NO_VECTOR);
    end(&f);
}

static void random_bytes(void **state)
{
    struct fixture f;
    u32 len;
    make_rng(&f);
    bring_up(&f, 0);
    ring_desc(&f.d, 0, DATA, 100, 2, 0);
    ring_offer(&f.d, 0);
    pci_config_write(f.g.pci, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY); /* no master: no access to memory */
    bus_mmio_write(&f.g.bus, KICK, 2, 0);
    assert_int_equal(ring_used(&f.d, NULL, NULL), 0);
    pci_config_write(f.g.pci, 1, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER); /* and now it looks */
    assert_int_equal(ring_used(&f.d, NULL, &len), 1);
    assert_int_equal(len, 100);
    assert_true(f.g.ram[DATA] == 1 && f.g.ram[DATA + 99] == (u8)(99 * 7 + 1) && f.g.ram[DATA + 100] == 0);
    assert_int_equal(f.g.level[GSI_PCI + 1], 1); /* without MSI-X: the line, until ISR is read */
    assert_int_equal(bus_mmio_read(&f.g.bus, BAR + 0x1000, 1), 1);
    assert_int_equal(f.g.level[GSI_PCI + 1], 0);
    bus_mmio_write(&f.g.bus, KICK + 4, 2, 1); /* no such queue */
    bus_mmio_write(&f.g.bus, KICK + 0xffc, 4, ~0u);
    end(&f);
}

/* Configuration space has a window into the BAR, for those who can not map it. */
static void window(void **state)
{
    struct fixture f;
    make_rng(&f);
    unsigned at = pci_config_read(f.g.pci, 1, PCI_CAPS, 1);
    while (pci_config_read(f.g.pci, 1, at, 1) != PCI_CAP_VENDOR || pci_config_read(f.g.pci, 1, at + 3, 1) != 5)
        at = pci_config_read(f.g.pci, 1, at + 1, 1);
    pci_config_write(f.g.pci, 1, at + 8, 4, STATUS);
    pci_config_write(f.g.pci, 1, at + 12, 4, 1);
    pci_config_write(f.g.pci, 1, at + 16, 4, 3);
    assert_int_equal(reg(&f, STATUS, 1), 3);
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
    make_rng(&f);
    bring_up(&f, 0);
    ring_desc(&f.d, 0, RIG_RAM, 100, 2, 0);
    ring_offer(&f.d, 0);
    bus_mmio_write(&f.g.bus, KICK, 2, 0);
    assert_true(reg(&f, STATUS, 1) & VIRTIO_NEEDS_RESET);
    assert_int_equal(bus_mmio_read(&f.g.bus, BAR + 0x1000, 1), 2); /* configuration change */
    bus_mmio_write(&f.g.bus, KICK, 2, 0);
    assert_int_equal(ring_used(&f.d, NULL, NULL), 0);
    bring_up(&f, 0); /* and then it works again */
    ring_desc(&f.d, 0, DATA, 100, 2, 0);
    ring_offer(&f.d, 0);
    bus_mmio_write(&f.g.bus, KICK, 2, 0);
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
    bus_mmio_write(&f->g.bus, KICK, 2, 0);
}

static u8 status(const struct fixture *f, u16 head)
{
    return f->g.ram[DATA + 0x100 + head];
}

static void disk_configuration(void **state)
{
    struct fixture f;
    make_disk(&f, DISK_WRITE_CACHE | DISK_CAN_DISCARD);
    assert_int_equal(features(&f) & 0xffffff, BIT(1) | BIT(2) | BIT(6) | BIT(9) | BIT(13) | BIT(14));
    assert_int_equal(bus_mmio_read(&f.g.bus, DEV, 8), SECTORS);
    assert_int_equal(bus_mmio_read(&f.g.bus, DEV + 20, 4), 512);
    assert_int_equal(bus_mmio_read(&f.g.bus, DEV + 56, 1), 1);
    assert_int_equal(bus_mmio_read(&f.g.bus, DEV + 60, 4), 0);
    end(&f);
    make_disk(&f, DISK_READ_ONLY | DISK_CAN_DISCARD);
    assert_int_equal(features(&f) & 0xffffff, BIT(1) | BIT(2) | BIT(5) | BIT(6));
    end(&f);
}

static void disk_requests(void **state)
{
    struct fixture f;
    u32 len;
    make_disk(&f, DISK_WRITE_CACHE | DISK_CAN_DISCARD);
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
    assert_int_equal(f.g.level[GSI_PCI + 1], 0); /* told once, after the batch */
    virtio_blk_settle(f.v);
    assert_int_equal(f.g.level[GSI_PCI + 1], 1);
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
    make_disk(&f, DISK_CAN_DISCARD);
    bring_up(&f, 0);
    for (u16 i = 0; i < ARRAY_LEN(cases); i++) {
        ask(&f, 0, cases[i].type, cases[i].sector, cases[i].len);
        if (cases[i].status != status(&f, 0))
            fail_msg("case %u: status %u", i, status(&f, 0));
        assert_int_equal(ring_used(&f.d, NULL, NULL), i + 1);
    }
    assert_int_equal(f.n, 0);
    end(&f);
    make_disk(&f, DISK_READ_ONLY | DISK_CAN_DISCARD);
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
    bus_mmio_write(&f.g.bus, KICK, 2, 0);
    assert_true(reg(&f, STATUS, 1) & VIRTIO_NEEDS_RESET);
    bring_up(&f, 0);
    ring_desc(&f.d, 0, DATA, 15, 1, 1);
    ring_desc(&f.d, 1, DATA, 1, 2, 0);
    ring_offer(&f.d, 0);
    bus_mmio_write(&f.g.bus, KICK, 2, 0);
    assert_true(reg(&f, STATUS, 1) & VIRTIO_NEEDS_RESET);
    end(&f);
}

static void disk_ranges(void **state)
{
    struct fixture f;
    make_disk(&f, DISK_WRITE_CACHE | DISK_CAN_DISCARD);
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
    make_disk(&f, DISK_WRITE_CACHE);
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
    bus_mmio_write(&f.g.bus, KICK, 2, 0);
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
    make_disk(&f, DISK_WRITE_CACHE);
    bring_up(&f, 0);
    f.full = true;
    ask(&f, 0, 4, 0, 0);
    assert_int_equal(f.n, 0);
    f.full = false;
    virtio_blk_settle(f.v);
    assert_int_equal(f.n, 1);
    end(&f);
}

/* A reset lets the driver go on only when nothing can be written to its memory any more. */
static void disk_reset_waits(void **state)
{
    struct fixture f;
    struct rec_buf out = {0};
    make_disk(&f, DISK_WRITE_CACHE);
    bring_up(&f, 0);
    ask(&f, 0, 0, 0, 512);
    assert_int_equal(virtio_pci_save(f.p, &out), -EBUSY);
    set(&f, STATUS, 1, 0);
    assert_int_not_equal(reg(&f, STATUS, 1), 0);
    set(&f, STATUS, 1, 15); /* not yet */
    ask(&f, 4, 0, 0, 512);
    assert_int_equal(f.n, 1);
    assert_int_equal(virtio_blk_done(f.v, f.r[0].tag, DISK_OK), 0);
    virtio_blk_settle(f.v);
    assert_int_equal(reg(&f, STATUS, 1), 0);
    assert_int_equal(status(&f, 0), 0xee); /* nothing was given back */
    assert_int_equal(ring_used(&f.d, NULL, NULL), 0);
    assert_int_equal(reg(&f, QENABLE, 2), 0);
    bring_up(&f, 0);
    ask(&f, 0, 0, 0, 512);
    assert_int_equal(f.n, 2);
    assert_int_equal(virtio_blk_done(f.v, f.r[1].tag, DISK_OK), 0);
    assert_int_equal(status(&f, 0), 0);
    end(&f);
}

/* Load everything that was saved of `f`'s function into `to`; the last result. */
static int load_all(struct fixture *to, const struct rec_buf *b, bool check_only, struct error *e)
{
    struct rec_view v;
    size_t pos = 0;
    int r = 1;
    while (r == 1 && rec_next(b->data, b->len, &pos, &v, e) == 1)
        if ((r = pci_load(to->g.pci, &v, check_only, e)) == 0)
            r = virtio_pci_load(to->p, &v, check_only, e);
    return r;
}

static void records(void **state)
{
    struct fixture f, g;
    struct rec_buf out = {0}, again = {0};
    struct error e = {0};
    make_disk(&f, DISK_WRITE_CACHE);
    make_disk(&g, DISK_WRITE_CACHE);
    bring_up(&f, VIRTIO_F_EVENT_INDEX | BIT(9));
    ask(&f, 0, 4, 0, 0);
    assert_int_equal(virtio_blk_done(f.v, f.r[0].tag, DISK_OK), 0);
    virtio_blk_settle(f.v);
    assert_int_equal(pci_save(f.g.pci, &out) | virtio_pci_save(f.p, &out), 0);
    assert_int_equal(load_all(&g, &out, true, &e), 1);
    assert_int_equal(load_all(&g, &out, false, &e), 1);
    assert_int_equal(pci_save(g.g.pci, &again) | virtio_pci_save(g.p, &again), 0);
    assert_int_equal(out.len, again.len);
    assert_memory_equal(out.data, again.data, out.len);
    assert_int_equal(g.g.level[GSI_PCI + 1], 1);
    /* and it goes on where it was */
    memcpy(g.g.ram, f.g.ram, RIG_RAM);
    g.d = f.d;
    g.d.g = &g.g;
    ask(&g, 4, 0, 1, 512);
    assert_int_equal(g.n, 1);
    assert_int_equal(virtio_blk_done(g.v, g.r[0].tag, DISK_OK), 0);
    assert_int_equal(ring_used(&g.d, NULL, NULL), 2);
    end(&g);
    make_disk(&g, 0); /* a disk without the features that the driver accepted */
    assert_int_equal(load_all(&g, &out, true, &e), -EINVAL);
    end(&g);
    end(&f);
    rec_buf_free(&out);
    rec_buf_free(&again);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(initialisation),
        cmocka_unit_test(random_bytes),
        cmocka_unit_test(window),
        cmocka_unit_test(broken_ring_needs_reset),
        cmocka_unit_test(disk_configuration),
        cmocka_unit_test(disk_requests),
        cmocka_unit_test(disk_refuses),
        cmocka_unit_test(disk_ranges),
        cmocka_unit_test(disk_any_layout),
        cmocka_unit_test(disk_waits_for_room),
        cmocka_unit_test(disk_reset_waits),
        cmocka_unit_test(records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
