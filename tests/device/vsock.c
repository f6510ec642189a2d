/* The socket device: packets between a driver's queues and the rings, cut and put together; what a driver may get wrong. */
#include "dma_rig.h"

#define RING 0x10000u
#define DATA 0x20000u
#define N    16u
#define BAR  0xc0000000ull
#define CID  3u
#define KEPT 64u
#define HEAD 44u

enum { RX, TX, EVENT };
enum { STATUS = 20, QSEL = 22, QSIZE = 24, QENABLE = 28, QDESC = 32, QDRIVER = 40, QDEVICE = 48 };

struct fixture {
    struct dma_rig g;
    struct ring_driver q[3];
    struct virtio *v;
    struct virtio_pci *p;
    bool full;
    struct vsock_packet up[KEPT];
    u8 first[KEPT]; /* first byte of its data */
    unsigned n_up;
    u64 bytes_up;
    struct vsock_packet down[KEPT];
    unsigned n_down, taken;
};

static bool ready(void *ctx, unsigned records)
{
    assert_true(records <= 4 * VSOCK_RECORDS);
    return !((struct fixture *)ctx)->full;
}

static void submit(void *ctx, const struct vsock_packet *p, const u8 *data)
{
    struct fixture *f = ctx;
    assert_false(f->full);
    assert_true(vsock_packet_check(p));
    assert_true(f->n_up < KEPT);
    f->first[f->n_up] = p->len ? data[0] : 0;
    f->bytes_up += p->len;
    f->up[f->n_up++] = *p;
}

static bool next(void *ctx, struct vsock_packet *p, u8 *data)
{
    struct fixture *f = ctx;
    if (f->taken == f->n_down)
        return false;
    *p = f->down[f->taken++];
    for (u32 i = 0; i < p->len; i++)
        data[i] = (u8)(i * 3 + 1);
    return true;
}

static u64 reg(struct fixture *f, unsigned at, unsigned size)
{
    return bus_mmio_read(&f->g.bus, BAR + at, size);
}

static void set(struct fixture *f, unsigned at, unsigned size, u64 v)
{
    bus_mmio_write(&f->g.bus, BAR + at, size, v);
}

static void make(struct fixture *f)
{
    struct error e = {0};
    const struct virtio_vsock_config c = {.cid = CID, .ready = ready, .submit = submit, .next = next, .ctx = f};
    memset(f, 0, sizeof(*f));
    dma_rig_init(&f->g);
    assert_int_equal(virtio_vsock_create(&f->v, &f->g.env, &c, &e), 0);
    f->v->slot = 30;
    assert_int_equal(virtio_pci_create(&f->p, f->g.pci, f->v, &e), 0);
    assert_int_equal(virtio_pci_slot(f->p), 30);
    pci_config_write(f->g.pci, 30, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static void bring_up(struct fixture *f)
{
    set(f, STATUS, 1, 0);
    set(f, STATUS, 1, 3);
    set(f, 8, 4, 1);
    set(f, 12, 4, 1); /* version 1 */
    set(f, STATUS, 1, 11);
    for (unsigned i = 0; i < 3; i++) {
        f->q[i] = ring_driver_make(&f->g, RING + i * 0x4000, N);
        set(f, QSEL, 2, i);
        set(f, QSIZE, 2, N);
        set(f, QDESC, 8, f->q[i].desc);
        set(f, QDRIVER, 8, f->q[i].avail);
        set(f, QDEVICE, 8, f->q[i].used);
        set(f, QENABLE, 2, 1);
    }
    set(f, STATUS, 1, 15);
    assert_int_equal(reg(f, STATUS, 1), 15);
}

static void kick(struct fixture *f, unsigned n)
{
    set(f, 0x3000 + n * 4, 2, n);
}

static void end(struct fixture *f)
{
    virtio_pci_destroy(f->p);
    dma_rig_free(&f->g);
}

static void put_packet(struct fixture *f, u64 at, u16 op, u64 src, u32 len)
{
    u8 *h = f->g.ram + at;
    memset(h, 0, HEAD);
    put_le64(h, src);
    put_le64(h + 8, VSOCK_HOST_CID);
    put_le32(h + 16, 1024);
    put_le32(h + 20, 99);
    put_le32(h + 24, len);
    put_le16(h + 28, VSOCK_TYPE_STREAM);
    put_le16(h + 30, op);
    put_le32(h + 36, 4096);
    put_le32(h + 40, 77);
}

/* Offer one chain on tx: the header and `room` bytes behind it. */
static void transmit(struct fixture *f, u16 op, u64 src, u32 len, u32 room)
{
    put_packet(f, DATA, op, src, len);
    memset(f->g.ram + DATA + HEAD, 0xab, room);
    ring_desc(&f->q[TX], 0, DATA, HEAD, room ? 1 : 0, 1);
    ring_desc(&f->q[TX], 1, DATA + HEAD, room, 0, 0);
    ring_offer(&f->q[TX], 0);
    kick(f, TX);
}

static void up(void **state)
{
    struct fixture f;
    make(&f);
    bring_up(&f);
    assert_int_equal(f.n_up, 1); /* a driver begins: whatever was before is gone */
    transmit(&f, VSOCK_OP_RST, CID, 0, 0);
    assert_int_equal(f.n_up, 2);
    assert_int_equal(f.up[0].kind, VSOCK_GONE);
    assert_int_equal(f.up[1].op, VSOCK_OP_RST);
    assert_int_equal(f.up[1].src_port, 1024);
    assert_int_equal(f.up[1].dst_port, 99);
    assert_int_equal(f.up[1].buf_alloc, 4096);
    assert_int_equal(f.up[1].fwd_cnt, 77);
    assert_int_equal(ring_used(&f.q[TX], NULL, NULL), 1);
    transmit(&f, VSOCK_OP_RW, CID, 40000, 40000); /* cut into pieces that fit the ring */
    assert_int_equal(f.n_up, 5);
    assert_true(f.up[2].len == VSOCK_DATA_MAX && f.up[3].len == VSOCK_DATA_MAX &&
                f.up[4].len == 40000 - 2 * VSOCK_DATA_MAX);
    assert_true(f.first[2] == 0xab && f.first[4] == 0xab);
    transmit(&f, VSOCK_OP_CREDIT_UPDATE, CID, 500, 500); /* data where none belongs: left out */
    assert_int_equal(f.up[5].len, 0);
    transmit(&f, VSOCK_OP_REQUEST, 4, 0, 0); /* in another's name */
    assert_int_equal(f.n_up, 6);
    assert_int_equal(ring_used(&f.q[TX], NULL, NULL), 4);
    f.full = true; /* waits, and goes on when there is room */
    transmit(&f, VSOCK_OP_RST, CID, 0, 0);
    assert_int_equal(ring_used(&f.q[TX], NULL, NULL), 4);
    f.full = false;
    virtio_vsock_settle(f.v);
    assert_int_equal(ring_used(&f.q[TX], NULL, NULL), 5);
    assert_int_equal(f.n_up, 7);
    end(&f);
}

static void no_packets(void **state)
{
    static const struct {
        u32 len, room;
    } bad[] = {{1, 0}, {501, 500}, {65537, 70000}, {~0u, 500}};
    struct fixture f;
    for (unsigned i = 0; i <= ARRAY_LEN(bad); i++) {
        make(&f);
        bring_up(&f);
        if (i < ARRAY_LEN(bad)) {
            transmit(&f, VSOCK_OP_RW, CID, bad[i].len, bad[i].room);
        } else { /* half a header */
            ring_desc(&f.q[TX], 0, DATA, HEAD - 1, 0, 0);
            ring_offer(&f.q[TX], 0);
            kick(&f, TX);
        }
        assert_true(reg(&f, STATUS, 1) & VIRTIO_NEEDS_RESET);
        assert_int_equal(f.bytes_up, 0);
        end(&f);
    }
}

static void offer_buffers(struct fixture *f, unsigned n, u32 size)
{
    for (unsigned i = 0; i < n; i++) {
        ring_desc(&f->q[RX], i, DATA + i * 0x2000, size, 2, 0);
        ring_offer(&f->q[RX], (u16)i);
    }
    kick(f, RX);
}

static void give(struct fixture *f, u16 op, u32 len)
{
    f->down[f->n_down++] = (struct vsock_packet){.kind = VSOCK_PACKET,
                                                 .len = len,
                                                 .src_cid = VSOCK_HOST_CID,
                                                 .dst_cid = CID,
                                                 .src_port = 5,
                                                 .dst_port = 1024,
                                                 .type = VSOCK_TYPE_STREAM,
                                                 .op = op,
                                                 .buf_alloc = 1234,
                                                 .fwd_cnt = 56};
    virtio_vsock_settle(f->v);
}

static void down(void **state)
{
    struct fixture f;
    u32 len;
    make(&f);
    bring_up(&f);
    give(&f, VSOCK_OP_RW, 1000);
    assert_true(f.taken <= 1); /* no buffers: it waits, and what comes after it waits on the ring */
    give(&f, VSOCK_OP_RST, 0);
    assert_true(f.taken <= 1);
    offer_buffers(&f, 2, HEAD + 400);
    assert_int_equal(ring_used(&f.q[RX], NULL, &len), 2);
    assert_int_equal(len, HEAD + 400);
    assert_int_equal(get_le32(f.g.ram + DATA + 24), 400);
    assert_int_equal(get_le32(f.g.ram + DATA + 40), 56);
    assert_int_equal(f.g.ram[DATA + HEAD + 399], (u8)(399 * 3 + 1));
    assert_int_equal(f.g.ram[DATA + 0x2000 + HEAD], (u8)(400 * 3 + 1));
    assert_int_equal(f.taken, 1);
    offer_buffers(&f, 3, HEAD + 400);
    assert_int_equal(ring_used(&f.q[RX], NULL, &len), 4);
    assert_int_equal(len, HEAD); /* the RST */
    assert_int_equal(get_le32(f.g.ram + DATA + 24), 200);
    assert_int_equal(get_le16(f.g.ram + DATA + 0x2000 + 30), VSOCK_OP_RST);
    end(&f);
    make(&f); /* a buffer that nothing fits into */
    bring_up(&f);
    give(&f, VSOCK_OP_RW, 10);
    offer_buffers(&f, 1, HEAD);
    assert_true(reg(&f, STATUS, 1) & VIRTIO_NEEDS_RESET);
    end(&f);
}

static void nobody(void **state)
{
    struct fixture f;
    make(&f);
    give(&f, VSOCK_OP_RW, 5);
    give(&f, VSOCK_OP_REQUEST, 0);
    assert_int_equal(f.taken, 2);
    assert_int_equal(f.n_up, 1);
    assert_int_equal(f.up[0].kind, VSOCK_NOBODY);
    assert_int_equal(f.up[0].src_port, 5);
    f.full = true;
    give(&f, VSOCK_OP_REQUEST, 0);
    assert_int_equal(f.taken, 2); /* no room for the answer */
    f.full = false;
    virtio_vsock_settle(f.v);
    assert_int_equal(f.n_up, 2);
    end(&f);
}

/* A driver that is reset, or a machine that was loaded: nothing of before is given to anybody. */
static void resets(void **state)
{
    struct fixture f, g;
    struct rec_buf b = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    u32 len;
    make(&f);
    bring_up(&f);
    transmit(&f, VSOCK_OP_RST, CID, 0, 0);
    give(&f, VSOCK_OP_RW, 1000);
    offer_buffers(&f, 1, HEAD + 400); /* half of it is out */
    f.n_up = 0;
    set(&f, STATUS, 1, 0);
    virtio_vsock_settle(f.v);
    assert_int_equal(f.n_up, 1);
    assert_int_equal(f.up[0].kind, VSOCK_GONE);
    bring_up(&f);
    virtio_vsock_settle(f.v);
    f.n_up = 0;
    offer_buffers(&f, 2, HEAD + 400);
    assert_int_equal(ring_used(&f.q[RX], NULL, NULL), 0);

    assert_int_equal(virtio_pci_save(f.p, &b), 0);
    assert_int_equal(pci_save(f.g.pci, &b), 0);
    make(&g);
    memcpy(g.g.ram, f.g.ram, RIG_RAM);
    for (int check = 1; check >= 0; check--)
        for (pos = 0; rec_next(b.data, b.len, &pos, &v, &e) == 1;)
            assert_true(pci_load(g.g.pci, &v, check, &e) == 1 || virtio_pci_load(g.p, &v, check, &e) == 1);
    memcpy(g.q, f.q, sizeof(g.q));
    for (unsigned i = 0; i < 3; i++)
        g.q[i].g = &g.g;
    virtio_vsock_settle(g.v);
    assert_int_equal(g.up[0].kind, VSOCK_GONE);
    assert_int_equal(ring_used(&g.q[EVENT], NULL, NULL), 0);
    ring_desc(&g.q[EVENT], 0, DATA + 0x8000, 8, 2, 0); /* the event finds a buffer when there is one */
    memset(g.g.ram + DATA + 0x8000, 0xff, 8);
    ring_offer(&g.q[EVENT], 0);
    kick(&g, EVENT);
    assert_int_equal(ring_used(&g.q[EVENT], NULL, &len), 1);
    assert_int_equal(len, 4);
    assert_int_equal(get_le32(g.g.ram + DATA + 0x8000), 0); /* TRANSPORT_RESET */
    kick(&g, EVENT);
    assert_int_equal(ring_used(&g.q[EVENT], NULL, NULL), 1); /* once */
    assert_int_equal(reg(&g, 0x2000, 8), CID);
    rec_buf_free(&b);
    end(&f);
    end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(up), cmocka_unit_test(no_packets), cmocka_unit_test(down),
                                       cmocka_unit_test(nobody), cmocka_unit_test(resets)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
