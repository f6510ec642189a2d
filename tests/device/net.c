/* The network card: its registers, frames both ways, every way in which driver and back end can be wrong; and its wire. */
#define ring_used wire_ring_used /* the rig has another one */
#include "base/wire.h"
#undef ring_used
#include "dma_rig.h"

#include <errno.h>

#define RX_RING      0x10000u
#define TX_RING      0x20000u
#define DATA         0x40000u
#define BUFFERS      0x100000u
#define N            16u
#define BAR          0xc0000000ull
#define DEV          (BAR + 0x2000)
#define KICK         (BAR + 0x3000)
#define STRIDE       4u
#define HEADER       12u

#define F_CSUM       BIT(0)
#define F_GUEST_CSUM BIT(1)
#define F_GUEST_TSO4 BIT(7)
#define F_HOST_TSO4  BIT(11)
#define F_MRG_RXBUF  BIT(15)

enum { STATUS = 20, QSEL = 22, QSIZE = 24, QENABLE = 28, QDESC = 32, QDRIVER = 40, QDEVICE = 48 };

struct fixture {
    struct dma_rig g;
    struct ring_driver rx, tx;
    struct virtio *v;
    struct virtio_pci *p;
    void *memory;
    struct wire cell, back;
    unsigned signals;
};

static void signal_back_end(void *ctx, unsigned number)
{
    struct fixture *f = ctx;
    assert_int_equal(number, 3);
    f->signals++;
}

static u64 reg(struct fixture *f, unsigned at, unsigned size)
{
    return bus_mmio_read(&f->g.bus, BAR + at, size);
}

static void set(struct fixture *f, unsigned at, unsigned size, u64 v)
{
    bus_mmio_write(&f->g.bus, BAR + at, size, v);
}

static void begin(struct fixture *f)
{
    struct error e = {0};
    memset(f, 0, sizeof(*f));
    dma_rig_init(&f->g);
    f->memory = aligned_alloc(4096, wire_size());
    memset(f->memory, 0, wire_size());
    wire_attach(&f->cell, f->memory, true);
    wire_attach(&f->back, f->memory, false);
    const struct virtio_net_config c = {
        .info = {.mac = {0x52, 0x54, 0, 1, 2, 3}, .mtu = 9000, .takes = NET_TAKES_ALL, .gives = NET_TAKES_ALL},
        .wire = &f->cell,
        .signal = signal_back_end,
        .ctx = f,
        .number = 3};
    assert_int_equal(virtio_net_create(&f->v, &f->g.env, &c, &e), 0);
    f->v->slot = 9;
    assert_int_equal(virtio_pci_create(&f->p, f->g.pci, f->v, &e), 0);
}

static void end(struct fixture *f)
{
    virtio_pci_destroy(f->p);
    dma_rig_free(&f->g);
    free(f->memory);
}

static struct ring_driver queue(struct fixture *f, unsigned n, u64 base)
{
    struct ring_driver d = ring_driver_make(&f->g, base, N);
    set(f, QSEL, 2, n);
    set(f, QSIZE, 2, N);
    set(f, QDESC, 8, d.desc);
    set(f, QDRIVER, 8, d.avail);
    set(f, QDEVICE, 8, d.used);
    set(f, QENABLE, 2, 1);
    return d;
}

static void bring_up(struct fixture *f, u64 wanted)
{
    wanted |= VIRTIO_F_VERSION_1;
    pci_config_write(f->g.pci, 9, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    set(f, STATUS, 1, 0);
    set(f, STATUS, 1, 3);
    for (unsigned i = 0; i < 2; i++) {
        set(f, 8, 4, i);
        set(f, 12, 4, (u32)(wanted >> 32 * i));
    }
    set(f, STATUS, 1, 11);
    assert_true(reg(f, STATUS, 1) & VIRTIO_FEATURES_OK);
    f->rx = queue(f, 0, RX_RING);
    f->tx = queue(f, 1, TX_RING);
    set(f, STATUS, 1, 15);
}

static void kick(struct fixture *f, unsigned n)
{
    bus_mmio_write(&f->g.bus, KICK + STRIDE * n, 2, n);
}

/* Offer a frame of `len` bytes, whose byte i is i, behind header `h`, in one piece or two. */
static void send(struct fixture *f, u16 head, const struct net_header *h, u32 len, bool two)
{
    u8 *p = f->g.ram + DATA;
    memcpy(p, h, HEADER);
    for (u32 i = 0; i < len; i++)
        p[HEADER + i] = (u8)i;
    u32 first = two ? 7 : HEADER + len;
    ring_desc(&f->tx, head, DATA, first, two ? 1 : 0, (u16)(head + 1));
    if (two)
        ring_desc(&f->tx, head + 1, DATA + first, HEADER + len - first, 0, 0);
    ring_offer(&f->tx, head);
    kick(f, 1);
}

/* The next frame on the back end's end must be this one. */
static void expect_sent(struct fixture *f, const struct net_header *h, u32 len)
{
    struct wire_frame w;
    wire_look(&f->back);
    assert_true(wire_peek(&f->back, &w));
    assert_int_equal(w.len, len);
    assert_memory_equal(&w.h, h, HEADER);
    for (u32 i = 0; i < len; i++)
        assert_int_equal(w.data[i], (u8)i);
    wire_release(&f->back, &w);
}

static void expect_nothing(struct fixture *f)
{
    struct wire_frame w;
    wire_look(&f->back);
    assert_false(wire_peek(&f->back, &w));
    assert_false(f->back.in.broken);
}

/* Put a frame on the wire, as the back end does. */
static void arrive(struct fixture *f, const struct net_header *h, u32 len)
{
    u8 *p = wire_reserve(&f->back, len);
    assert_non_null(p);
    for (u32 i = 0; i < len; i++)
        p[i] = (u8)(i * 3);
    wire_commit(&f->back, h, len);
}

static void offer_buffer(struct fixture *f, u16 i, u32 len)
{
    memset(f->g.ram + BUFFERS + i * 0x2000u, 0xee, len);
    ring_desc(&f->rx, i, BUFFERS + i * 0x2000u, len, 2, 0);
    ring_offer(&f->rx, i);
}

static const struct net_header plain;

static void configuration(void **state)
{
    struct fixture f;
    begin(&f);
    assert_int_equal(pci_config_read(f.g.pci, 9, 0, 4), 0x10411af4); /* in the slot that was asked for */
    assert_int_equal(pci_config_read(f.g.pci, 1, 0, 4), 0xffffffff);
    assert_int_equal(reg(&f, 18, 2), 2); /* queues */
    assert_int_equal(bus_mmio_read(&f.g.bus, DEV, 4), 0x01005452);
    assert_int_equal(bus_mmio_read(&f.g.bus, DEV + 4, 2), 0x0302);
    assert_int_equal(bus_mmio_read(&f.g.bus, DEV + 6, 2), 0); /* the link is down */
    assert_int_equal(bus_mmio_read(&f.g.bus, DEV + 10, 2), 9000);
    bring_up(&f, BIT(16));
    wire_set_link(&f.back, true);
    virtio_net_settle(f.v);
    assert_int_equal(bus_mmio_read(&f.g.bus, DEV + 6, 2), 1);
    assert_int_equal(bus_mmio_read(&f.g.bus, BAR + 0x1000, 1), 2); /* and the driver was told */
    end(&f);
}

static void frames_are_sent(void **state)
{
    struct fixture f;
    u32 id, len;
    const struct net_header csum = {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
    begin(&f);
    ring_door_close(f.back.own);
    bring_up(&f, F_CSUM);
    send(&f, 2, &plain, 60, false);
    assert_int_equal(ring_used(&f.tx, &id, &len), 1);
    assert_true(id == 2 && len == 0);
    assert_int_equal(f.signals, 1);
    expect_sent(&f, &plain, 60);
    send(&f, 4, &csum, 1514, true);
    assert_int_equal(f.signals, 1); /* it is awake now */
    expect_sent(&f, &csum, 1514);
    send(&f, 0, &plain, NET_FRAME_MIN, false);
    expect_sent(&f, &plain, NET_FRAME_MIN);
    end(&f);
}

/* A frame that is wrong is lost; its buffers come back. */
static void wrong_frames_are_lost(void **state)
{
    static const struct {
        struct net_header h;
        u32 len;
    } wrong[] = {
        {{0}, NET_FRAME_MIN - 1},
        {{0}, NET_FRAME_MAX + 1},
        {{.flags = 4}, 60},
        {{.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 25}, 60},
        {{.flags = NET_NEEDS_CSUM, .csum_start = 0xffff, .csum_offset = 0xffff}, 60},
        {{.flags = NET_NEEDS_CSUM, .csum_start = 3, .csum_offset = 16}, 60},
        {{.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16, .gso_type = NET_GSO_TCP4, .gso_size = 1000},
         3000},
        {{.gso_type = 77}, 60},
    };
    struct fixture f;
    begin(&f);
    bring_up(&f, F_CSUM);
    for (u16 i = 0; i < ARRAY_LEN(wrong); i++) {
        send(&f, i, &wrong[i].h, wrong[i].len, false);
        assert_int_equal(ring_used(&f.tx, NULL, NULL), i + 1);
        expect_nothing(&f);
    }
    bring_up(&f, F_CSUM | F_HOST_TSO4);
    struct net_header tso = wrong[6].h;
    send(&f, 0, &tso, 3000, false);
    expect_sent(&f, &tso, 3000);
    tso.gso_size = 0;
    send(&f, 1, &tso, 3000, false);
    tso = wrong[6].h;
    tso.flags = 0;
    send(&f, 2, &tso, 3000, false);
    tso = wrong[6].h;
    tso.hdr_len = 3001;
    send(&f, 3, &tso, 3000, false);
    expect_nothing(&f);
    end(&f);
}

static void malformed_chains_need_reset(void **state)
{
    struct fixture f;
    begin(&f);
    bring_up(&f, 0);
    ring_desc(&f.tx, 0, DATA, HEADER - 1, 0, 0); /* no room for a header */
    ring_offer(&f.tx, 0);
    kick(&f, 1);
    assert_true(reg(&f, STATUS, 1) & VIRTIO_NEEDS_RESET);
    bring_up(&f, 0);
    ring_desc(&f.tx, 0, DATA, 100, 1, 1);
    ring_desc(&f.tx, 1, DATA + 100, 100, 2, 0); /* writable */
    ring_offer(&f.tx, 0);
    kick(&f, 1);
    assert_true(reg(&f, STATUS, 1) & VIRTIO_NEEDS_RESET);
    bring_up(&f, 0);
    ring_desc(&f.rx, 0, DATA, 100, 0, 0); /* readable */
    ring_offer(&f.rx, 0);
    arrive(&f, &plain, 60);
    virtio_net_settle(f.v);
    assert_true(reg(&f, STATUS, 1) & VIRTIO_NEEDS_RESET);
    expect_nothing(&f);
    end(&f);
}

/* A full wire holds the guest's frames in its queue, and lets them go when there is room. */
static void a_full_wire_waits(void **state)
{
    struct fixture f;
    struct wire_frame w;
    unsigned sent = 0, taken = 0;
    begin(&f);
    bring_up(&f, 0);
    ring_door_close(f.cell.own);
    for (; ring_used(&f.tx, NULL, NULL) == sent && sent < 1000; sent++)
        send(&f, (u16)(sent % N), &plain, 60000, false);
    assert_in_range(sent, 4, 9);
    assert_false(virtio_net_settle(f.v));
    wire_look(&f.back);
    while (wire_peek(&f.back, &w)) {
        wire_release(&f.back, &w);
        taken++;
    }
    assert_int_equal(taken, sent - 1);
    assert_true(wire_news(&f.back)); /* the cell waits for it */
    assert_true(virtio_net_settle(f.v));
    assert_int_equal(ring_used(&f.tx, NULL, NULL), sent);
    expect_sent(&f, &plain, 60000);
    end(&f);
}

static void frames_arrive(void **state)
{
    struct fixture f;
    u32 id, len;
    const struct net_header valid = {.flags = NET_DATA_VALID};
    begin(&f);
    assert_int_equal(wire_takes(&f.back), 0);
    bring_up(&f, F_GUEST_CSUM);
    offer_buffer(&f, 5, 2000);
    arrive(&f, &valid, 1000);
    virtio_net_settle(f.v);
    assert_int_equal(wire_takes(&f.back), NET_TAKES_CSUM); /* the back end was told what the guest takes */
    assert_int_equal(ring_used(&f.rx, &id, &len), 1);
    assert_true(id == 5 && len == 1000 + HEADER);
    const u8 *b = f.g.ram + BUFFERS + 5 * 0x2000;
    assert_true(b[0] == NET_DATA_VALID && get_le16(b + 10) == 1);
    for (u32 i = 0; i < 1000; i++)
        assert_int_equal(b[HEADER + i], (u8)(i * 3));
    assert_int_equal(b[HEADER + 1000], 0xee);
    assert_int_equal(f.g.level[GSI_PCI + 9 % 8], 1);
    /* too large for its buffer: lost, the buffer stays for the next one */
    offer_buffer(&f, 6, 500);
    arrive(&f, &plain, 489);
    arrive(&f, &plain, 488);
    virtio_net_settle(f.v);
    assert_int_equal(ring_used(&f.rx, &id, &len), 2);
    assert_true(id == 6 && len == 500);
    /* a guest that did not ask for it is not told that data is valid */
    bring_up(&f, 0);
    offer_buffer(&f, 0, 500);
    arrive(&f, &valid, 60);
    virtio_net_settle(f.v);
    assert_int_equal(f.g.ram[BUFFERS], 0);
    end(&f);
}

static void frames_take_several_buffers(void **state)
{
    struct fixture f;
    u32 id, len;
    begin(&f);
    bring_up(&f, F_MRG_RXBUF);
    for (u16 i = 0; i < 3; i++)
        offer_buffer(&f, i, 1000);
    arrive(&f, &plain, 3500); /* 3512 with its header: four buffers */
    virtio_net_settle(f.v);
    virtio_net_settle(f.v);
    assert_int_equal(ring_used(&f.rx, NULL, NULL), 0); /* all or nothing */
    offer_buffer(&f, 3, 1000);
    kick(&f, 0);
    assert_int_equal(ring_used(&f.rx, &id, &len), 4);
    assert_true(id == 3 && len == 512);
    assert_int_equal(get_le16(f.g.ram + BUFFERS + 10), 4);
    for (u32 i = 0; i < 3500; i++)
        assert_int_equal(f.g.ram[BUFFERS + (i + HEADER) / 1000 * 0x2000 + (i + HEADER) % 1000], (u8)(i * 3));
    end(&f);
}

/* What the guest does not take, and what makes no sense, does not reach it. */
static void wrong_frames_do_not_arrive(void **state)
{
    static const struct net_header wrong[] = {
        {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16},
        {.flags = 0x80},
        {.gso_type = NET_GSO_TCP4, .gso_size = 1000},
    };
    static const struct net_header tso = {
        .flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16, .gso_type = NET_GSO_TCP4, .gso_size = 1000};
    struct fixture f;
    begin(&f);
    bring_up(&f, F_MRG_RXBUF);
    offer_buffer(&f, 0, 2000);
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++)
        arrive(&f, &wrong[i], 100);
    arrive(&f, &tso, 100);
    virtio_net_settle(f.v);
    assert_int_equal(ring_used(&f.rx, NULL, NULL), 0);
    bring_up(&f, F_MRG_RXBUF | F_GUEST_CSUM | F_GUEST_TSO4);
    offer_buffer(&f, 0, 2000);
    arrive(&f, &tso, 100);
    virtio_net_settle(f.v);
    assert_int_equal(ring_used(&f.rx, NULL, NULL), 1);
    set(&f, STATUS, 1, 0); /* reset: nothing is on its way, and what comes now is lost */
    assert_int_equal(reg(&f, STATUS, 1), 0);
    arrive(&f, &plain, 100);
    assert_true(virtio_net_settle(f.v));
    assert_false(virtio_net_settle(f.v));
    assert_int_equal(wire_takes(&f.back), 0);
    end(&f);
}

/* Whatever the other side writes into the wire: nothing is delivered, nothing is touched. */
static void a_wire_that_lies(void **state)
{
    u32 *indices, *lane;
    for (unsigned i = 0; i < 9; i++) {
        struct fixture f;
        begin(&f);
        bring_up(&f, F_MRG_RXBUF);
        offer_buffer(&f, 0, 2000);
        indices = (u32 *)f.back.out.shared; /* of the lane to the cell: head */
        lane = (u32 *)f.back.out.data;
        static const u32 heads[] = {WIRE_LANE + 16, 8, 0xfffffff0, 32, 32, 32, WIRE_LANE, 16, 64};
        static const u32 lens[] = {0, 0, 0, 17, 13, NET_FRAME_MAX + 1, UINT32_MAX, UINT32_MAX, 4000000000u};
        lane[0] = lens[i];
        __atomic_store_n(indices, heads[i], __ATOMIC_RELEASE);
        virtio_net_settle(f.v);
        virtio_net_settle(f.v);
        assert_int_equal(ring_used(&f.rx, NULL, NULL), 0);
        assert_true(f.cell.in.broken || i == 6); /* a skip over all of it is odd, but adds up */
        /* the other direction: a tail that can not be */
        ((u32 *)f.back.in.shared)[16] = 4096;
        send(&f, 0, &plain, 60, false);
        assert_true(f.cell.out.broken);
        assert_int_equal(ring_used(&f.tx, NULL, NULL), 0);
        end(&f);
    }
}

/* Random lengths through a wire, both ends honest: all come, in order and whole. */
static void a_wire_round_and_round(void **state)
{
    struct fixture f;
    struct wire_frame w;
    u32 seed = 12345, put = 0, got = 0;
    static u32 len_of[4096];
    begin(&f);
    while (got < 4000) {
        seed = seed * 1664525 + 1013904223;
        u32 len = NET_FRAME_MIN + (seed >> 8) % (seed & 64 ? 1500 : NET_FRAME_MAX - NET_FRAME_MIN + 1);
        u8 *p = put < 4000 ? wire_reserve(&f.back, len) : NULL;
        if (p) {
            memset(p, (int)put, len);
            wire_commit(&f.back, &(struct net_header){.hdr_len = (u16)put}, len);
            len_of[put++] = len;
        }
        wire_look(&f.cell);
        while ((!p || seed & 128) && wire_peek(&f.cell, &w)) {
            assert_int_equal(w.h.hdr_len, (u16)got);
            assert_int_equal(w.len, len_of[got]);
            assert_true(w.data[0] == (u8)got && w.data[w.len - 1] == (u8)got);
            got++;
            wire_release(&f.cell, &w);
        }
        assert_false(f.cell.in.broken || f.back.out.broken);
    }
    end(&f);
}

static int load(struct virtio_pci *p, const struct rec_buf *b, struct error *e)
{
    struct rec_view v;
    size_t pos = 0;
    int r = 0;
    while (r >= 0 && rec_next(b->data, b->len, &pos, &v, e) == 1)
        r = virtio_pci_load(p, &v, false, e);
    return MIN(r, 0);
}

static void records(void **state)
{
    struct fixture f, g;
    struct rec_buf b = {0};
    struct error e = {0};
    begin(&f);
    bring_up(&f, F_MRG_RXBUF);
    offer_buffer(&f, 0, 2000);
    assert_int_equal(virtio_pci_save(f.p, &b), 0);
    begin(&g);
    memcpy(g.g.ram, f.g.ram, RIG_RAM);
    pci_config_write(g.g.pci, 9, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_int_equal(load(g.p, &b, &e), 0);
    g.rx = f.rx;
    g.rx.g = &g.g;
    arrive(&g, &plain, 100);
    virtio_net_settle(g.v);
    assert_int_equal(ring_used(&g.rx, NULL, NULL), 1);
    end(&g);
    /* a card with another address is another card */
    begin(&g);
    u8 *at = memmem(b.data, b.len, "\x52\x54\x00\x01\x02\x03", 6);
    assert_non_null(at);
    rec_buf_free(&b);
    struct virtio *other;
    const struct virtio_net_config c = {.info = {.mac = {2}, .takes = NET_TAKES_ALL, .gives = NET_TAKES_ALL},
                                        .wire = &g.cell};
    assert_int_equal(virtio_net_create(&other, &g.g.env, &c, &e), 0);
    assert_int_equal(rec_save(&b, f.v->type->record, 0, f.v->self), 0);
    struct rec_view v;
    size_t pos = 0;
    assert_int_equal(rec_next(b.data, b.len, &pos, &v, &e), 1);
    assert_int_equal(rec_check(&v, other->type->record, other->self, &e), -EINVAL);
    assert_non_null(strstr(e.msg, "mac"));
    other->type->destroy(other->self);
    rec_buf_free(&b);
    end(&g);
    end(&f);
}

/* --- packed rings: several given back at once, and put back untaken --- */

#define AVAIL 0x80u
#define USED  0x8000u

static void packed_rings(void **state)
{
    struct dma_rig g;
    struct virtq_chain c;
    dma_rig_init(&g);
    struct virtq q = {
        .mem = &g.mem, .size = 4, .desc = RX_RING, .driver = RX_RING + 4096, .device = RX_RING + 8192, .packed = 1};
    q.enabled = 1;
    assert_true(virtq_enable(&q));
    bool wrap = true;
    u16 slot = 0;
    for (unsigned round = 0; round < 20; round++) {
        struct virtq_done done[3];
        for (unsigned i = 0; i < 3; i++) {
            u8 *p = g.ram + RX_RING + 16 * ((slot + i) % 4);
            bool w = wrap ^ (slot + i >= 4);
            put_le64(p, DATA);
            put_le32(p + 8, 100);
            put_le16(p + 12, (u16)(round * 3 + i));
            put_le16(p + 14, (u16)(2 | (w ? AVAIL : USED)));
        }
        for (unsigned again = 0; again < 2; again++) {
            for (unsigned i = 0; i < 3; i++) {
                assert_int_equal(virtq_pop(&q, &c), 1);
                assert_int_equal(c.id, round * 3 + i);
                done[i] = (struct virtq_done){c.id, c.descs, i + 1};
            }
            assert_int_equal(virtq_pop(&q, &c), 0);
            for (unsigned i = 3; !again && i--;)
                virtq_unpop(&q, done[i].descs);
        }
        virtq_push_all(&q, done, 3);
        for (unsigned i = 0; i < 3; i++) {
            const u8 *p = g.ram + RX_RING + 16 * ((slot + i) % 4);
            bool w = wrap ^ (slot + i >= 4);
            assert_int_equal(get_le32(p + 8), i + 1);
            assert_int_equal(get_le16(p + 12), round * 3 + i);
            assert_int_equal(get_le16(p + 14) & (AVAIL | USED), w ? AVAIL | USED : 0);
        }
        wrap ^= slot + 3 >= 4;
        slot = (slot + 3) % 4;
    }
    assert_int_equal(q.out, 0);
    dma_rig_free(&g);
}

/* What came for a guest that stands still is given to it on another host's card, as it would have been here. */
static void frames_follow(void **state)
{
    struct fixture a, b;
    static u8 packed[4096];
    u32 id, len;
    begin(&a);
    bring_up(&a, 0);
    offer_buffer(&a, 1, 2000); /* not used: nobody serves the card any more */
    arrive(&a, &plain, 60);
    arrive(&a, &plain, 1400);
    assert_int_equal(virtio_net_take(a.v, 2, packed, 100), NET_PACKED_HEAD + 60); /* the other one is lost */
    arrive(&a, &plain, 70);
    arrive(&a, &plain, 1400);
    assert_int_equal(virtio_net_take(a.v, 2, packed, sizeof(packed)), 2 * NET_PACKED_HEAD + 1470);
    assert_int_equal(virtio_net_take(a.v, 2, packed, 0), 0);
    assert_int_equal(ring_used(&a.rx, NULL, NULL), 0);
    end(&a);

    begin(&b);
    virtio_net_give(b.v, packed, 70); /* no driver: lost */
    bring_up(&b, 0);
    virtio_net_give(b.v, packed, 70); /* no buffer: lost */
    offer_buffer(&b, 4, 2000);
    assert_true(packed[0] == 2 && get_le32(packed + 4) == 70);
    virtio_net_give(b.v, packed, 70);
    assert_int_equal(ring_used(&b.rx, &id, &len), 1);
    assert_true(id == 4 && len == 70 + HEADER);
    const u8 *got = b.g.ram + BUFFERS + 4 * 0x2000;
    for (u32 i = 0; i < 70; i++)
        assert_int_equal(got[HEADER + i], (u8)(i * 3));
    /* a header that says what the guest does not take */
    offer_buffer(&b, 5, 2000);
    packed[8] = NET_NEEDS_CSUM;
    virtio_net_give(b.v, packed, 70);
    assert_int_equal(ring_used(&b.rx, NULL, NULL), 1);
    end(&b);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configuration),
        cmocka_unit_test(frames_are_sent),
        cmocka_unit_test(wrong_frames_are_lost),
        cmocka_unit_test(malformed_chains_need_reset),
        cmocka_unit_test(a_full_wire_waits),
        cmocka_unit_test(frames_arrive),
        cmocka_unit_test(frames_follow),
        cmocka_unit_test(frames_take_several_buffers),
        cmocka_unit_test(wrong_frames_do_not_arrive),
        cmocka_unit_test(a_wire_that_lies),
        cmocka_unit_test(a_wire_round_and_round),
        cmocka_unit_test(records),
        cmocka_unit_test(packed_rings),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
