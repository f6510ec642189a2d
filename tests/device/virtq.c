/* Virtqueues: rings as drivers make them, and every way in which one can be wrong. */
#include "device/virtio/virtq_internal.h"
#include "dma_rig.h"

#include <errno.h>

#define BASE 0x10000u
#define DATA 0x20000u
#define N    8u

struct fixture {
    struct dma_rig g;
    struct ring_driver d;
    struct virtq q;
    struct virtq_chain c;
};

static void begin(struct fixture *f, bool packed)
{
    dma_rig_init(&f->g);
    f->d = ring_driver_make(&f->g, BASE, N);
    f->q = (struct virtq){.mem = &f->g.mem};
    virtq_reset(&f->q);
    f->q.size = N;
    f->q.desc = f->d.desc;
    f->q.driver = f->d.avail;
    f->q.device = f->d.used;
    f->q.packed = packed;
    f->q.indirect = 1;
    f->q.enabled = 1;
    assert_true(virtq_enable(&f->q));
}

static void end(struct fixture *f)
{
    dma_rig_free(&f->g);
}

static void expect_fault(struct fixture *f)
{
    assert_int_equal(virtq_pop(&f->q, &f->c), -EPROTO);
    assert_non_null(f->q.fault);
    assert_int_equal(virtq_pop(&f->q, &f->c), -EPROTO); /* for good */
    u16 used = ring_used(&f->d, NULL, NULL);
    virtq_push(&f->q, 0, 1, 0);
    assert_int_equal(ring_used(&f->d, NULL, NULL), used); /* and nothing is written */
    assert_false(virtq_wants_interrupt(&f->q));
}

/* 70,000 chains: the 16-bit indices wrap. */
static void split_round_trips(void **state)
{
    struct fixture f;
    u32 id, len;
    begin(&f, false);
    for (u32 i = 0; i < 70000; i++) {
        u16 head = (u16)(i * 3 % N);
        ring_desc(&f.d, head, DATA, 16, DESC_NEXT, (u16)((head + 1) % N));
        ring_desc(&f.d, (head + 1) % N, DATA + 256, 32, DESC_NEXT | DESC_WRITE, (u16)((head + 2) % N));
        ring_desc(&f.d, (head + 2) % N, DATA + 512, 1, DESC_WRITE, 0);
        assert_int_equal(virtq_pop(&f.q, &f.c), 0);
        ring_offer(&f.d, head);
        assert_int_equal(virtq_pop(&f.q, &f.c), 1);
        assert_true(f.c.id == head && f.c.n_out == 1 && f.c.n_in == 2 && f.c.out_len == 16 && f.c.in_len == 33);
        u8 in[40], out[40];
        memset(in, (int)i, sizeof(in));
        assert_int_equal(virtq_write(&f.q, &f.c, 1, in, sizeof(in)), 32);
        assert_int_equal(virtq_read(&f.q, &f.c, 8, out, sizeof(out)), 8);
        assert_int_equal(f.g.ram[DATA + 512], (u8)i);
        virtq_push(&f.q, f.c.id, f.c.descs, 33);
        assert_int_equal(ring_used(&f.d, &id, &len), (u16)(i + 1));
        assert_true(id == head && len == 33);
        assert_true(virtq_wants_interrupt(&f.q));
    }
    put_le16(f.g.ram + f.d.avail, 1); /* no interrupts, please */
    assert_false(virtq_wants_interrupt(&f.q));
    end(&f);
}

static void split_event_index(void **state)
{
    struct fixture f;
    begin(&f, false);
    f.q.event_index = 1;
    ring_desc(&f.d, 0, DATA, 16, 0, 0);
    unsigned told = 0;
    for (u32 i = 0; i < 70000; i++) {
        put_le16(f.g.ram + f.d.avail + 4 + 2 * N, (u16)(i / 4 * 4 + 3)); /* tell me of each fourth */
        assert_false(virtq_rearm(&f.q));
        assert_int_equal(get_le16(f.g.ram + f.d.used + 4 + 8 * N), (u16)i);
        ring_offer(&f.d, 0);
        assert_true(virtq_rearm(&f.q)); /* it came between the look and the sleep */
        assert_int_equal(virtq_pop(&f.q, &f.c), 1);
        virtq_push(&f.q, 0, 1, 0);
        bool tell = virtq_wants_interrupt(&f.q);
        if (i)
            assert_int_equal(tell, i % 4 == 3);
        told += tell;
    }
    assert_int_equal(told, 70000 / 4 + 1);
    end(&f);
}

static void split_indirect(void **state)
{
    struct fixture f;
    begin(&f, false);
    struct ring_driver table = {.g = &f.g, .desc = DATA + 4096};
    for (unsigned i = 0; i < VIRTQ_SEGS_MAX; i++)
        ring_desc(&table, i, DATA + 16 * i, 16, (i < 200 ? 0 : DESC_WRITE) | (i + 1 < VIRTQ_SEGS_MAX ? DESC_NEXT : 0),
                  (u16)(i + 1));
    ring_desc(&f.d, 3, table.desc, 16 * VIRTQ_SEGS_MAX, DESC_INDIRECT, 0);
    ring_offer(&f.d, 3);
    assert_int_equal(virtq_pop(&f.q, &f.c), 1);
    assert_true(f.c.n_out == 200 && f.c.n_in == VIRTQ_SEGS_MAX - 200 && f.c.id == 3);
    end(&f);
}

/* What the descriptors of queue and table are in a case, and whether it is a fault. */
static void split_malformed(void **state)
{
    enum { TABLE = DATA + 0x8000 };
    static const struct {
        const char *what;
        struct {
            u64 addr;
            u32 len;
            u16 flags, next;
        } d[3], t[3];
        bool no_indirect;
    } cases[] = {
        {.what = "loop of one", .d = {{DATA, 1, DESC_NEXT, 0}}},
        {.what = "loop of two", .d = {{DATA, 1, DESC_NEXT, 1}, {DATA, 1, DESC_NEXT, 0}}},
        {.what = "next out of the table", .d = {{DATA, 1, DESC_NEXT, N}}},
        {.what = "next far out of the table", .d = {{DATA, 1, DESC_NEXT, 0xffff}}},
        {.what = "buffer outside memory", .d = {{RIG_RAM, 1, 0, 0}}},
        {.what = "buffer partly outside memory", .d = {{RIG_RAM - 1, 2, 0, 0}}},
        {.what = "buffer that wraps", .d = {{0xffffffffffffff00ull, 0x200, 0, 0}}},
        {.what = "buffer of 4 GiB", .d = {{DATA, 0xffffffff, 0, 0}}},
        {.what = "device memory", .d = {{0xe0000000, 16, DESC_WRITE, 0}}},
        {.what = "readable behind writable", .d = {{DATA, 1, DESC_NEXT | DESC_WRITE, 1}, {DATA, 1, 0, 0}}},
        {.what = "indirect and next", .d = {{TABLE, 16, DESC_INDIRECT | DESC_NEXT, 1}}, .t = {{DATA, 1, 0, 0}}},
        {.what = "indirect without the feature",
         .d = {{TABLE, 16, DESC_INDIRECT, 0}},
         .t = {{DATA, 1, 0, 0}},
         .no_indirect = true},
        {.what = "indirect in indirect", .d = {{TABLE, 32, DESC_INDIRECT, 0}}, .t = {{TABLE, 16, DESC_INDIRECT, 0}}},
        {.what = "empty table", .d = {{TABLE, 0, DESC_INDIRECT, 0}}},
        {.what = "table of odd size", .d = {{TABLE, 24, DESC_INDIRECT, 0}}, .t = {{DATA, 1, 0, 0}}},
        {.what = "table outside memory", .d = {{RIG_RAM, 16, DESC_INDIRECT, 0}}},
        {.what = "table that wraps", .d = {{0xfffffffffffffff0ull, 32, DESC_INDIRECT, 0}}},
        {.what = "table too large",
         .d = {{TABLE, 16 * (VIRTQ_SEGS_MAX + 1), DESC_INDIRECT, 0}},
         .t = {{DATA, 1, 0, 0}}},
        {.what = "loop in a table",
         .d = {{TABLE, 48, DESC_INDIRECT, 0}},
         .t = {{DATA, 1, DESC_NEXT, 1}, {DATA, 1, DESC_NEXT, 0}}},
        {.what = "next out of a table", .d = {{TABLE, 32, DESC_INDIRECT, 0}}, .t = {{DATA, 1, DESC_NEXT, 2}}},
    };
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct fixture f;
        print_message("%s\n", cases[i].what);
        begin(&f, false);
        f.q.indirect = !cases[i].no_indirect;
        struct ring_driver table = {.g = &f.g, .desc = TABLE};
        for (unsigned j = 0; j < 3; j++) {
            ring_desc(&f.d, j, cases[i].d[j].addr, cases[i].d[j].len, cases[i].d[j].flags, cases[i].d[j].next);
            ring_desc(&table, j, cases[i].t[j].addr, cases[i].t[j].len, cases[i].t[j].flags, cases[i].t[j].next);
        }
        ring_offer(&f.d, 0);
        expect_fault(&f);
        end(&f);
    }
}

static void split_impossible_index(void **state)
{
    struct fixture f;
    begin(&f, false);
    put_le16(f.g.ram + f.d.avail + 2, N + 1); /* more than there are places */
    expect_fault(&f);
    end(&f);
    begin(&f, false);
    ring_offer(&f.d, N); /* a head outside */
    expect_fault(&f);
    end(&f);
    begin(&f, false);
    ring_desc(&f.d, 0, DATA, 1, 0, 0);
    for (unsigned i = 0; i < N; i++) { /* the same one again and again, never given back */
        ring_offer(&f.d, 0);
        assert_int_equal(virtq_pop(&f.q, &f.c), 1);
    }
    ring_offer(&f.d, 0);
    expect_fault(&f);
    end(&f);
}

static void bad_areas(void **state)
{
    static const struct {
        u16 size;
        u64 desc, driver, device;
    } cases[] = {
        {0, BASE, BASE, BASE},         {3, BASE, BASE, BASE},
        {512, BASE, BASE, BASE},       {8, BASE + 8, BASE, BASE},
        {8, BASE, BASE + 1, BASE},     {8, BASE, BASE, BASE + 2},
        {8, RIG_RAM - 64, BASE, BASE}, {8, BASE, RIG_RAM - 8, BASE},
        {8, BASE, BASE, RIG_RAM},      {8, 0xfffffffffffffff0ull, BASE, BASE},
    };
    for (unsigned packed = 0; packed < 2; packed++)
        for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
            struct fixture f;
            begin(&f, packed);
            f.q.size = cases[i].size;
            f.q.desc = cases[i].desc;
            f.q.driver = cases[i].driver;
            f.q.device = cases[i].device;
            if (packed && cases[i].driver == RIG_RAM - 8)
                f.q.driver = RIG_RAM - 2;
            assert_false(virtq_enable(&f.q));
            assert_int_equal(virtq_pop(&f.q, &f.c), -EPROTO);
            end(&f);
        }
}

/* Addresses that change after the queue was enabled (as a record may say) are checked at each use. */
static void areas_that_move(void **state)
{
    for (unsigned packed = 0; packed < 2; packed++)
        for (unsigned i = 0; i < 3; i++) {
            struct fixture f;
            begin(&f, packed);
            *(i == 0 ? &f.q.desc : i == 1 ? &f.q.driver : &f.q.device) = 0xffffffffffff0000ull;
            ring_desc(&f.d, 0, DATA, 16, packed ? 0 : DESC_WRITE, packed ? DESC_AVAIL | DESC_WRITE : 0);
            ring_offer(&f.d, 0);
            virtq_pop(&f.q, &f.c);
            virtq_push(&f.q, 0, 1, 1);
            virtq_wants_interrupt(&f.q);
            virtq_rearm(&f.q);
            end(&f);
        }
}

static void writes_are_traced(void **state)
{
    struct fixture f;
    begin(&f, false);
    ring_desc(&f.d, 0, DATA, 16, DESC_WRITE, 0);
    ring_offer(&f.d, 0);
    assert_int_equal(virtq_pop(&f.q, &f.c), 1);
    f.g.mem.trace[DATA >> 12] = f.g.mem.trace[f.d.used >> 12] = MEM_TRACE_CODE;
    virtq_write(&f.q, &f.c, 0, "x", 1);
    assert_int_equal(f.g.code_written, 1);
    virtq_push(&f.q, 0, 1, 1);
    assert_int_equal(f.g.code_written, 2);
    f.g.mem.trace[5] = f.g.mem.trace[6] = MEM_TRACE_CODE;
    virtq_touch(&f.g.mem, GPA(5 * 4096 + 4095), 2);
    assert_int_equal(f.g.code_written, 4);
    virtq_touch(&f.g.mem, GPA(RIG_RAM - 1), 2); /* not RAM: nothing */
    virtq_touch(&f.g.mem, GPA(~0ull), 1);
    end(&f);
}

/* --- packed --- */

/* Put a descriptor at the driver's place; `head` writes its flags last, as drivers do. */
static void packed_desc(struct fixture *f, u16 slot, bool wrap, u64 addr, u32 len, u16 id, u16 flags)
{
    ring_desc(&f->d, slot, addr, len, id, (u16)(flags | (wrap ? DESC_AVAIL : DESC_USED)));
}

static void packed_round_trips(void **state)
{
    struct fixture f;
    u16 slot = 0;
    bool wrap = true;
    begin(&f, true);
    for (u32 i = 0; i < 20000; i++) {
        unsigned n = 1 + i % 3;
        u16 first = slot;
        bool first_wrap = wrap;
        assert_int_equal(virtq_pop(&f.q, &f.c), 0);
        for (unsigned j = 0; j < n; j++) {
            packed_desc(&f, slot, wrap, DATA + 64 * j, 8, (u16)(i + 7),
                        (j + 1 < n ? DESC_NEXT : 0) | (j ? DESC_WRITE : 0));
            if (++slot == N) {
                slot = 0;
                wrap = !wrap;
            }
        }
        assert_int_equal(virtq_pop(&f.q, &f.c), 1);
        assert_true(f.c.id == (u16)(i + 7) && f.c.descs == n && f.c.n_out == 1 && f.c.n_in == n - 1);
        virtq_push(&f.q, f.c.id, f.c.descs, 8 * (n - 1));
        const u8 *p = f.g.ram + f.d.desc + 16 * first;
        assert_int_equal(get_le16(p + 12), (u16)(i + 7));
        assert_int_equal(get_le32(p + 8), 8 * (n - 1));
        assert_int_equal(get_le16(p + 14) & (DESC_AVAIL | DESC_USED), first_wrap ? DESC_AVAIL | DESC_USED : 0);
        assert_true(virtq_wants_interrupt(&f.q));
    }
    put_le16(f.g.ram + f.d.avail + 2, 1);
    assert_false(virtq_wants_interrupt(&f.q));
    end(&f);
}

static void packed_event_index(void **state)
{
    struct fixture f;
    begin(&f, true);
    f.q.event_index = 1;
    put_le16(f.g.ram + f.d.avail + 2, 2);
    for (u32 i = 0; i < 10000; i++) {
        u16 slot = (u16)(i % N), want = (u16)((i / 5 * 5 + 4) % N);
        bool wrap = !(i / N % 2), want_wrap = !((i / 5 * 5 + 4) / N % 2);
        put_le16(f.g.ram + f.d.avail, (u16)(want | (want_wrap ? 0x8000 : 0)));
        packed_desc(&f, slot, wrap, DATA, 8, slot, 0);
        assert_int_equal(virtq_pop(&f.q, &f.c), 1);
        virtq_push(&f.q, slot, 1, 0);
        bool tell = virtq_wants_interrupt(&f.q);
        if (i)
            assert_int_equal(tell, i % 5 == 4);
    }
    end(&f);
}

static void packed_malformed(void **state)
{
    enum { TABLE = DATA + 0x8000 };
    for (unsigned i = 0; i < 7; i++) {
        struct fixture f;
        begin(&f, true);
        struct ring_driver table = {.g = &f.g, .desc = TABLE};
        ring_desc(&table, 0, DATA, 8, 0, 0);
        switch (i) {
        case 0: /* a chain all around */
            for (u16 j = 0; j < N; j++)
                packed_desc(&f, j, true, DATA, 8, 0, DESC_NEXT);
            break;
        case 1:
            packed_desc(&f, 0, true, RIG_RAM, 8, 0, 0);
            break;
        case 2:
            packed_desc(&f, 0, true, TABLE, 20, 0, DESC_INDIRECT);
            break;
        case 3:
            ring_desc(&table, 0, DATA, 8, 0, DESC_INDIRECT);
            packed_desc(&f, 0, true, TABLE, 16, 0, DESC_INDIRECT);
            break;
        case 4:
            packed_desc(&f, 0, true, TABLE, 16, 0, DESC_INDIRECT | DESC_NEXT);
            break;
        case 5:
            packed_desc(&f, 0, true, DATA, 8, 0, DESC_NEXT | DESC_WRITE);
            packed_desc(&f, 1, true, DATA, 8, 0, 0);
            break;
        default:
            packed_desc(&f, 0, true, TABLE, 16 * (VIRTQ_SEGS_MAX + 1), 0, DESC_INDIRECT);
        }
        assert_int_equal(virtq_pop(&f.q, &f.c), -EPROTO);
        assert_non_null(f.q.fault);
        end(&f);
    }
    struct fixture f;
    begin(&f, true); /* a good table */
    struct ring_driver table = {.g = &f.g, .desc = TABLE};
    ring_desc(&table, 0, DATA, 8, 0, 0);
    ring_desc(&table, 1, DATA, 8, 0, DESC_WRITE);
    packed_desc(&f, 0, true, TABLE, 32, 9, DESC_INDIRECT);
    assert_int_equal(virtq_pop(&f.q, &f.c), 1);
    assert_true(f.c.id == 9 && f.c.descs == 1 && f.c.n_out == 1 && f.c.n_in == 1);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(split_round_trips),      cmocka_unit_test(split_event_index),
        cmocka_unit_test(split_indirect),         cmocka_unit_test(split_malformed),
        cmocka_unit_test(split_impossible_index), cmocka_unit_test(bad_areas),
        cmocka_unit_test(areas_that_move),        cmocka_unit_test(writes_are_traced),
        cmocka_unit_test(packed_round_trips),     cmocka_unit_test(packed_event_index),
        cmocka_unit_test(packed_malformed),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
