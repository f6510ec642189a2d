/* The file-system device: its registers, questions and answers, every way in which driver and back end can be wrong. */
#define ring_used line_ring_used /* the rig has another one */
#include "base/share.h"
#undef ring_used
#include "dma_rig.h"

#include <errno.h>

#define HI_RING    0x10000u
#define RQ_RING    0x20000u
#define ASK(i)     (0x40000u + (i)*0x1000u)
#define ANSWER(i)  (0x80000u + (i)*0x1000u)
#define N          16u
#define SLOT       16u
#define BAR        0xc0000000ull
#define DEV        (BAR + 0x2000)
#define KICK       (BAR + 0x3000)
#define STRIDE     4u

#define OP_LOOKUP  1u
#define OP_FORGET  2u
#define OP_GETATTR 3u

enum { STATUS = 20, QSEL = 22, QSIZE = 24, QENABLE = 28, QDESC = 32, QDRIVER = 40, QDEVICE = 48 };
enum { HI, RQ };

struct fixture {
    struct dma_rig g;
    struct ring_driver q[2];
    struct virtio *v;
    struct virtio_pci *p;
    void *memory;
    struct share_line cell, back;
    struct share_info info;
    unsigned signals;
};

static void signal_back_end(void *ctx, unsigned number)
{
    struct fixture *f = ctx;
    assert_int_equal(number, 2);
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

static void begin_as(struct fixture *f, const char *tag, bool read_only)
{
    struct error e = {0};
    memset(f, 0, sizeof(*f));
    dma_rig_init(&f->g);
    u64 size = (share_size() + 4095) & ~4095ull;
    f->memory = aligned_alloc(4096, size);
    memset(f->memory, 0, size);
    share_attach(&f->cell, f->memory, true);
    share_attach(&f->back, f->memory, false);
    share_set_up(&f->back, true);
    f->info.read_only = read_only;
    memcpy(f->info.tag, tag, strlen(tag));
    const struct virtio_fs_config c = {
        .info = &f->info, .line = &f->cell, .signal = signal_back_end, .ctx = f, .number = 2};
    assert_int_equal(virtio_fs_create(&f->v, &f->g.env, &c, &e), 0);
    f->v->slot = SLOT;
    assert_int_equal(virtio_pci_create(&f->p, f->g.pci, f->v, &e), 0);
}

static void begin(struct fixture *f)
{
    begin_as(f, "work", false);
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

static void bring_up(struct fixture *f)
{
    u64 wanted = VIRTIO_F_VERSION_1;
    pci_config_write(f->g.pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    set(f, STATUS, 1, 0);
    set(f, STATUS, 1, 3);
    for (unsigned i = 0; i < 2; i++) {
        set(f, 8, 4, i);
        set(f, 12, 4, (u32)(wanted >> 32 * i));
    }
    set(f, STATUS, 1, 11);
    assert_true(reg(f, STATUS, 1) & VIRTIO_FEATURES_OK);
    f->q[HI] = queue(f, HI, HI_RING);
    f->q[RQ] = queue(f, RQ, RQ_RING);
    set(f, STATUS, 1, 15);
}

static void kick(struct fixture *f, unsigned n)
{
    bus_mmio_write(&f->g.bus, KICK + STRIDE * n, 2, n);
}

/* A question of `len` bytes in two pieces, cut at `cut`, with `room` bytes for the answer: chain i. */
static void ask(struct fixture *f, unsigned n, u16 i, u32 op, u32 len, u32 cut, u32 room)
{
    u8 *p = f->g.ram + ASK(i);
    struct ring_driver *q = &f->q[n];
    u16 d = (u16)(3 * i);
    for (u32 k = 0; k < len; k++)
        p[k] = (u8)(k + i);
    put_le32(p, len);
    put_le32(p + 4, op);
    put_le64(p + 8, 1000 + i);
    memset(f->g.ram + ANSWER(i), 0xee, 0x1000);
    ring_desc(q, d, ASK(i), cut, 1, (u16)(d + 1));
    ring_desc(q, d + 1u, ASK(i) + cut, len - cut, room ? 1 : 0, (u16)(d + 2));
    ring_desc(q, d + 2u, ANSWER(i), room, 2, 0);
    ring_offer(q, d);
    kick(f, n);
}

/* The next question on the back end's end. */
static struct share_ask expect(struct fixture *f, u16 i, u32 op, u32 len)
{
    struct share_ask a;
    assert_int_equal(share_receive(&f->back, &a), 1);
    assert_int_equal(a.len, len);
    const u8 *p = share_question_place(&f->back, a.slot);
    assert_int_equal(get_le32(p + 4), op);
    assert_int_equal(get_le64(p + 8), 1000 + i);
    for (u32 k = 16; k < len; k++)
        assert_int_equal(p[k], (u8)(k + i));
    return a;
}

static void reply(struct fixture *f, u32 slot, u32 len, s32 error)
{
    const struct share_answer a = {.slot = slot, .len = len};
    u8 *p = share_answer_place(&f->back, slot);
    memset(p, 0x5a, 4096);
    put_le32(p, 77777); /* neither length nor number is taken from here */
    put_le32(p + 4, (u32)error);
    assert_true(share_send(&f->back, &a));
}

static void expect_answer(struct fixture *f, u16 i, u32 len, s32 error)
{
    const u8 *p = f->g.ram + ANSWER(i);
    assert_int_equal(get_le32(p), len);
    assert_int_equal((s32)get_le32(p + 4), error);
    assert_int_equal(get_le64(p + 8), 1000 + i);
    for (u32 k = 16; k < len; k++)
        assert_int_equal(p[k], 0x5a);
    assert_int_equal(p[len], 0xee);
}

static bool needs_reset(struct fixture *f)
{
    return reg(f, STATUS, 1) & VIRTIO_NEEDS_RESET;
}

static void configuration(void **state)
{
    static const char full[SHARE_TAG_MAX + 1] = "0123456789abcdefghijklmnopqrstuvwxyz";
    struct fixture f;
    begin_as(&f, full, false);
    assert_int_equal(pci_config_read(f.g.pci, SLOT, 0, 4), 0x105a1af4);
    assert_int_equal(reg(&f, 18, 2), 2); /* queues */
    for (unsigned i = 0; i < SHARE_TAG_MAX; i++)
        assert_int_equal(bus_mmio_read(&f.g.bus, DEV + i, 1), full[i]);
    assert_int_equal(bus_mmio_read(&f.g.bus, DEV + SHARE_TAG_MAX, 4), 1); /* request queues */
    end(&f);
}

static void questions_and_answers(void **state)
{
    struct fixture f;
    u32 id, len;
    begin(&f);
    bring_up(&f);
    ring_door_close(f.back.own);
    ask(&f, RQ, 0, OP_LOOKUP, 60, 40, 200);
    assert_int_equal(f.signals, 1);
    ask(&f, RQ, 1, OP_GETATTR, 56, 3, 16);
    assert_int_equal(f.signals, 1); /* it is awake now */
    struct share_ask a = expect(&f, 0, OP_LOOKUP, 60), b = expect(&f, 1, OP_GETATTR, 56);
    assert_true(a.slot != b.slot && a.room == 200 && b.room == 16);
    assert_int_equal(ring_used(&f.q[RQ], NULL, NULL), 0);
    reply(&f, b.slot, 16, -ENOENT); /* in any order */
    assert_true(virtio_fs_settle(f.v));
    assert_int_equal(ring_used(&f.q[RQ], &id, &len), 1);
    assert_true(id == 3 && len == 16);
    expect_answer(&f, 1, 16, -ENOENT);
    reply(&f, a.slot, 150, 0);
    virtio_fs_settle(f.v);
    assert_int_equal(ring_used(&f.q[RQ], &id, &len), 2);
    assert_true(id == 0 && len == 150);
    expect_answer(&f, 0, 150, 0);
    assert_int_equal(f.g.level[GSI_PCI + SLOT % 8], 1);
    /* a FORGET has no answer */
    ask(&f, HI, 2, OP_FORGET, 48, 40, 0);
    a = expect(&f, 2, OP_FORGET, 48);
    assert_int_equal(a.room, 0);
    reply(&f, a.slot, 0, 0);
    virtio_fs_settle(f.v);
    assert_int_equal(ring_used(&f.q[HI], &id, &len), 1);
    assert_true(id == 6 && len == 0);
    /* an error that is none, or one with results, is the back end's fault, not the guest's */
    ask(&f, RQ, 3, OP_LOOKUP, 60, 40, 200);
    reply(&f, expect(&f, 3, OP_LOOKUP, 60).slot, 100, 5);
    virtio_fs_settle(f.v);
    expect_answer(&f, 3, 16, -EIO);
    end(&f);
}

static void full_slots_wait(void **state)
{
    struct fixture f;
    struct share_ask a[SHARE_SLOTS];
    begin(&f);
    bring_up(&f);
    set(&f, QSEL, 2, RQ);
    for (u16 i = 0; i < 5; i++) /* 16 descriptors hold five chains of three */
        ask(&f, RQ, i, OP_LOOKUP, 60, 40, 100);
    for (u16 i = 0; i < 5; i++)
        ask(&f, HI, i, OP_FORGET, 48, 40, 0);
    for (u16 i = 0; i < SHARE_SLOTS; i++)
        a[i] = expect(&f, i % 5, i < 5 ? OP_LOOKUP : OP_FORGET, i < 5 ? 60 : 48);
    struct share_ask none;
    assert_int_equal(share_receive(&f.back, &none), 0);
    reply(&f, a[0].slot, 16, 0);
    virtio_fs_settle(f.v);
    assert_int_equal(ring_used(&f.q[RQ], NULL, NULL), 1);
    expect(&f, 3, OP_FORGET, 48); /* which took the free slot */
    assert_int_equal(share_receive(&f.back, &none), 0);
    end(&f);
}

static void malformed_chains(void **state)
{
    struct fixture f;
    struct share_ask a;
    begin(&f);
    bring_up(&f);
    ask(&f, RQ, 0, OP_LOOKUP, 39, 20, 100); /* no header */
    assert_true(needs_reset(&f));
    bring_up(&f);
    ask(&f, RQ, 0, OP_LOOKUP, 60, 40, 15); /* no room for an answer */
    assert_true(needs_reset(&f));
    bring_up(&f);
    ask(&f, RQ, 0, OP_LOOKUP, 60, 40, 0);
    assert_true(needs_reset(&f));
    bring_up(&f);
    ring_desc(&f.q[RQ], 0, ASK(0), 4096, 1, 1); /* part of it outside of memory */
    ring_desc(&f.q[RQ], 1, RIG_RAM - 8, 16, 2, 0);
    ring_offer(&f.q[RQ], 0);
    kick(&f, RQ);
    assert_true(needs_reset(&f));
    bring_up(&f); /* longer than any question: answered here */
    ring_desc(&f.q[RQ], 0, ASK(0), SHARE_ASK_MAX + 1, 1, 1);
    ring_desc(&f.q[RQ], 1, RIG_RAM - 4096, 16, 2, 0);
    ring_offer(&f.q[RQ], 0);
    kick(&f, RQ);
    assert_false(needs_reset(&f));
    assert_int_equal(ring_used(&f.q[RQ], NULL, NULL), 1);
    assert_int_equal((s32)get_le32(f.g.ram + RIG_RAM - 4096 + 4), -E2BIG);
    assert_int_equal(share_receive(&f.back, &a), 0);
    end(&f);
}

/* A reset waits for questions on their way, whose answers are not given to the new driver. */
static void reset_waits(void **state)
{
    struct fixture f;
    begin(&f);
    bring_up(&f);
    ask(&f, RQ, 0, OP_LOOKUP, 60, 40, 100);
    struct share_ask a = expect(&f, 0, OP_LOOKUP, 60);
    set(&f, STATUS, 1, 0);
    assert_int_not_equal(reg(&f, STATUS, 1), 0);
    reply(&f, a.slot, 50, 0);
    virtio_fs_settle(f.v);
    assert_int_equal(reg(&f, STATUS, 1), 0);
    assert_int_equal(f.g.ram[ANSWER(0)], 0xee);
    end(&f);
}

/* The back end has ended: whoever waits is told, and whoever comes. */
static void the_back_end_ends(void **state)
{
    struct fixture f;
    begin(&f);
    bring_up(&f);
    ask(&f, RQ, 0, OP_LOOKUP, 60, 40, 100);
    ask(&f, HI, 0, OP_FORGET, 48, 40, 0);
    share_set_up(&f.back, false);
    assert_true(virtio_fs_settle(f.v));
    expect_answer(&f, 0, 16, -ENOTCONN);
    assert_int_equal(ring_used(&f.q[HI], NULL, NULL), 1);
    ask(&f, RQ, 1, OP_LOOKUP, 60, 40, 100);
    expect_answer(&f, 1, 16, -ENOTCONN);
    assert_int_equal(ring_used(&f.q[RQ], NULL, NULL), 2);
    end(&f);
}

/* Answers that can not be: the line is dead, and nothing beyond the answer's place was touched. */
static void a_back_end_that_lies(void **state)
{
    static const struct share_answer lies[] = {
        {.slot = SHARE_SLOTS, .len = 16}, {.slot = UINT32_MAX, .len = 16}, {.slot = 3, .len = 16},
        {.slot = 0, .len = 15},           {.slot = 0, .len = 0},           {.slot = 0, .len = 101},
        {.slot = 0, .len = UINT32_MAX},
    };
    for (unsigned i = 0; i <= ARRAY_LEN(lies); i++) {
        struct fixture f;
        begin(&f);
        bring_up(&f);
        ask(&f, RQ, 0, OP_LOOKUP, 60, 40, 100);
        assert_int_equal(expect(&f, 0, OP_LOOKUP, 60).slot, 0);
        if (i < ARRAY_LEN(lies))
            share_send(&f.back, &lies[i]);
        else
            __atomic_store_n(&f.back.out.shared->head, 12345, __ATOMIC_RELEASE);
        virtio_fs_settle(f.v);
        assert_int_equal(ring_used(&f.q[RQ], NULL, NULL), 1);
        expect_answer(&f, 0, 16, -ENOTCONN);
        ask(&f, RQ, 1, OP_LOOKUP, 60, 40, 100);
        expect_answer(&f, 1, 16, -ENOTCONN);
        end(&f);
    }
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
    bring_up(&f);
    ask(&f, RQ, 0, OP_LOOKUP, 60, 40, 100);
    struct share_ask a = expect(&f, 0, OP_LOOKUP, 60);
    assert_true(f.v->type->busy(f.v->self)); /* the machine waits before it is saved */
    reply(&f, a.slot, 60, 0);
    virtio_fs_settle(f.v);
    assert_false(f.v->type->busy(f.v->self));
    assert_int_equal(virtio_pci_save(f.p, &b), 0);
    begin(&g);
    memcpy(g.g.ram, f.g.ram, RIG_RAM);
    pci_config_write(g.g.pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_int_equal(load(g.p, &b, &e), 0);
    for (unsigned i = 0; i < 2; i++) {
        g.q[i] = f.q[i];
        g.q[i].g = &g.g;
    }
    ask(&g, RQ, 1, OP_LOOKUP, 60, 40, 100);
    reply(&g, expect(&g, 1, OP_LOOKUP, 60).slot, 60, 0);
    virtio_fs_settle(g.v);
    assert_int_equal(ring_used(&g.q[RQ], NULL, NULL), 2);
    expect_answer(&g, 1, 60, 0);
    end(&g);
    begin_as(&g, "other", false); /* another share */
    assert_true(load(g.p, &b, &e) < 0);
    assert_non_null(strstr(e.msg, "tag"));
    end(&g);
    begin_as(&g, "work", true);
    e = (struct error){0};
    assert_true(load(g.p, &b, &e) < 0);
    assert_non_null(strstr(e.msg, "read-only"));
    end(&g);
    rec_buf_free(&b);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(configuration),        cmocka_unit_test(questions_and_answers),
        cmocka_unit_test(full_slots_wait),      cmocka_unit_test(malformed_chains),
        cmocka_unit_test(reset_waits),          cmocka_unit_test(the_back_end_ends),
        cmocka_unit_test(a_back_end_that_lies), cmocka_unit_test(records),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
