/* The balloon: which pages go, what the traces hear, statistics that come and go, what a driver may get wrong. */
#include "dma_rig.h"

#include <errno.h>

#define RING     0x10000u
#define DATA     0x30000u
#define N        16u
#define BAR      0xc0000000ull
#define ISR      0x1000u
#define DEV      0x2000u
#define KICK     0x3000u
#define PAGES    (RIG_RAM / PAGE_SIZE)
#define CALLS    64u

#define F_STATS  BIT(1)
#define F_POISON BIT(4)
#define F_REPORT BIT(5)
#define F_ALL    (F_STATS | BIT(2) | F_POISON | F_REPORT)

enum { INFLATE, DEFLATE, STATS, REPORT, QUEUES };
enum { STATUS = 20, QSEL = 22, QSIZE = 24, QENABLE = 28, QDESC = 32, QDRIVER = 40, QDEVICE = 48 };

struct fixture {
    struct dma_rig g;
    struct ring_driver q[QUEUES];
    struct virtio *v;
    struct virtio_pci *p;
    bool refuse; /* to take pages */
    struct {
        u64 first, n; /* pages */
    } call[CALLS];
    unsigned calls;
};

static bool give_back(void *ctx, u64 offset, u64 len)
{
    struct fixture *f = ctx;
    assert_true(len && offset % PAGE_SIZE == 0 && len % PAGE_SIZE == 0 && offset + len <= RIG_RAM);
    assert_true(f->calls < CALLS);
    f->call[f->calls].first = offset / PAGE_SIZE;
    f->call[f->calls++].n = len / PAGE_SIZE;
    if (!f->refuse)
        memset(f->g.ram + offset, 0, len);
    return !f->refuse;
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
    memset(f, 0, sizeof(*f));
    dma_rig_init(&f->g);
    f->g.env.give_back = give_back;
    f->g.env.ctx = f;
    assert_int_equal(virtio_balloon_create(&f->v, &f->g.env, &e), 0);
    f->v->slot = 29;
    assert_int_equal(virtio_pci_create(&f->p, f->g.pci, f->v, &e), 0);
    pci_config_write(f->g.pci, 29, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
}

static void bring_up(struct fixture *f, u64 features)
{
    set(f, STATUS, 1, 0);
    set(f, STATUS, 1, 3);
    set(f, 8, 4, 0);
    set(f, 12, 4, features);
    set(f, 8, 4, 1);
    set(f, 12, 4, 1); /* version 1 */
    set(f, STATUS, 1, 11);
    for (unsigned i = 0; i < QUEUES; i++) {
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
    f->calls = 0;
}

static void end(struct fixture *f)
{
    virtio_pci_destroy(f->p);
    dma_rig_free(&f->g);
}

static struct balloon_info info(const struct fixture *f)
{
    struct balloon_info i;
    virtio_balloon_info(f->v, &i);
    return i;
}

/* Offer `n` numbers of pages on a queue. */
static void name_pages(struct fixture *f, unsigned queue, const u32 *pfn, unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        put_le32(f->g.ram + DATA + 4 * i, pfn[i]);
    ring_desc(&f->q[queue], 0, DATA, 4 * n, 0, 0);
    ring_offer(&f->q[queue], 0);
    set(f, KICK + 4 * queue, 2, queue);
}

/* Offer memory itself: `n` pieces, writable. */
static void report(struct fixture *f, const u64 (*piece)[2], unsigned n)
{
    for (unsigned i = 0; i < n; i++)
        ring_desc(&f->q[REPORT], i, piece[i][0], (u32)piece[i][1], (u16)(2 | (i + 1 < n)), (u16)(i + 1));
    ring_offer(&f->q[REPORT], 0);
    set(f, KICK + 4 * REPORT, 2, REPORT);
}

static void target(void **state)
{
    struct fixture f;
    struct error e = {0};
    make(&f);
    assert_int_equal(reg(&f, DEV, 4), 0);
    assert_int_equal(virtio_balloon_set(f.v, 1 << 20, &e), -ENODEV);
    assert_non_null(strstr(e.msg, "no balloon driver"));
    assert_int_equal(info(&f).driver, 0);
    bring_up(&f, F_ALL);
    assert_int_equal(info(&f).driver, 1);
    reg(&f, ISR, 1);
    assert_int_equal(virtio_balloon_set(f.v, RIG_RAM + PAGE_SIZE, NULL), -ERANGE);
    assert_int_equal(virtio_balloon_set(f.v, UINT64_MAX, NULL), -ERANGE);
    assert_int_equal(reg(&f, ISR, 1), 0);
    assert_int_equal(virtio_balloon_set(f.v, (1 << 20) + 5, NULL), 0);
    assert_int_equal(reg(&f, ISR, 1), 2); /* the configuration has changed */
    assert_int_equal(reg(&f, DEV, 4), 256);
    set(&f, DEV, 4, 77); /* not the driver's to say */
    assert_int_equal(reg(&f, DEV, 4), 256);
    set(&f, DEV + 4, 4, 200);
    assert_int_equal(reg(&f, DEV, 8), 200ull << 32 | 256);
    assert_true(info(&f).target == 1 << 20 && info(&f).actual == 200 * PAGE_SIZE);
    set(&f, DEV + 5, 1, 0xff); /* by bytes, and more than there is */
    assert_int_equal(info(&f).actual, RIG_RAM);
    set(&f, DEV + 8, 8, 0x1122334455667788); /* the number of a hint is ours, the poison is not */
    assert_int_equal(reg(&f, DEV + 8, 8), 0x1122334400000000);
    set(&f, DEV + 14, 4, 0xffffffff); /* leads out of it */
    set(&f, DEV + 16, 4, 0xffffffff);
    assert_int_equal(reg(&f, DEV + 12, 4), 0xffff3344);
    assert_int_equal(reg(&f, DEV + 16, 4), 0);
    set(&f, STATUS, 1, 0); /* the next driver finds what is wanted, and nothing of the last one */
    assert_int_equal(reg(&f, DEV, 8), 256);
    assert_int_equal(reg(&f, DEV + 12, 4), 0);
    end(&f);
}

static void inflates(void **state)
{
    /* Not in order, twice, beside each other, not RAM, at the end of what can be said. */
    static const u32 some[] = {300, 102, 100, 101,     300,     PAGES - 1, 50,  PAGES, 103, 52,
                               51,  ~0u, 0,   0x80000, 0xfffff, 1u << 20,  301, 0x400, 300};
    struct fixture f;
    make(&f);
    bring_up(&f, F_ALL);
    memset(f.g.ram + 100 * PAGE_SIZE, 0xaa, 5 * PAGE_SIZE);
    f.g.mem.trace[101] = f.g.mem.trace[301] = f.g.mem.trace[104] = MEM_TRACE_CODE;
    name_pages(&f, INFLATE, some, ARRAY_LEN(some));
    static const u64 want[][2] = {{0, 1}, {50, 3}, {100, 4}, {300, 2}, {PAGES - 1, 1}};
    assert_int_equal(f.calls, ARRAY_LEN(want));
    for (unsigned i = 0; i < ARRAY_LEN(want); i++)
        assert_true(f.call[i].first == want[i][0] && f.call[i].n == want[i][1]);
    assert_int_equal(f.g.ram[104 * PAGE_SIZE - 1], 0);
    assert_int_equal(f.g.ram[104 * PAGE_SIZE], 0xaa);
    assert_int_equal(f.g.code_written, 2);
    assert_int_equal(f.g.mem.trace[104], MEM_TRACE_CODE);
    assert_int_equal(info(&f).inflated, 11 * PAGE_SIZE);
    assert_int_equal(ring_used(&f.q[INFLATE], NULL, NULL), 1);
    assert_int_equal(reg(&f, ISR, 1), 1);
    name_pages(&f, DEFLATE, some, ARRAY_LEN(some)); /* they come back by being used */
    assert_int_equal(f.calls, ARRAY_LEN(want));
    assert_int_equal(ring_used(&f.q[DEFLATE], NULL, NULL), 1);
    f.refuse = true; /* a host that does not take them */
    f.g.mem.trace[101] = MEM_TRACE_CODE;
    name_pages(&f, INFLATE, some + 3, 1);
    assert_int_equal(f.calls, ARRAY_LEN(want) + 1);
    assert_int_equal(info(&f).inflated, 11 * PAGE_SIZE);
    assert_int_equal(f.g.code_written, 2);
    assert_int_equal(ring_used(&f.q[INFLATE], NULL, NULL), 2);
    end(&f);
}

/* A page that is given back is dirty: whoever keeps a copy has to know. */
static void dirty(void **state)
{
    static const u32 some[] = {700, 702};
    struct fixture f;
    u64 log[PAGES / 64];
    make(&f);
    bring_up(&f, F_ALL);
    assert_int_equal(mem_log_start(&f.g.mem), 0);
    name_pages(&f, INFLATE, some, 2);
    report(&f, (const u64[][2]){{800 * PAGE_SIZE, 3 * PAGE_SIZE}}, 1);
    mem_log_take(&f.g.mem, 0, PAGES, log);
    for (u64 page = 600; page < PAGES; page++) {
        bool want = page == 700 || page == 702 || (page >= 800 && page < 803);
        assert_int_equal(log[page / 64] >> page % 64 & 1, want);
    }
    mem_log_stop(&f.g.mem);
    end(&f);
}

/* More numbers than fit a batch, in the worst order; more than there are pages. */
static void many(void **state)
{
    struct fixture f;
    u32 all[PAGES];
    make(&f);
    bring_up(&f, F_ALL);
    for (unsigned i = 0; i < 600; i++)
        all[i] = 1000 - i;
    name_pages(&f, INFLATE, all, 600);
    assert_int_equal(f.calls, 3); /* a batch each */
    assert_true(f.call[0].first == 1000 - 255 && f.call[0].n == 256 && f.call[2].n == 88);
    assert_int_equal(info(&f).inflated, 600 * PAGE_SIZE);
    ring_desc(&f.q[INFLATE], 0, DATA, 3, 0, 0); /* not one number */
    ring_offer(&f.q[INFLATE], 0);
    set(&f, KICK, 2, 0);
    assert_int_equal(ring_used(&f.q[INFLATE], NULL, NULL), 2);
    assert_int_equal(f.calls, 3);
    ring_desc(&f.q[INFLATE], 0, 0x100000, 4 * PAGES + 4, 0, 0);
    ring_offer(&f.q[INFLATE], 0);
    set(&f, KICK, 2, 0);
    assert_true(reg(&f, STATUS, 1) & VIRTIO_NEEDS_RESET);
    assert_int_equal(f.calls, 3);
    end(&f);
}

static void reports(void **state)
{
    /* Parts of pages stay; neighbours go together; what is named twice goes once. */
    static const u64 some[][2] = {{600 * PAGE_SIZE + 1, 4 * PAGE_SIZE - 1}, {500 * PAGE_SIZE, 16 * PAGE_SIZE},
                                  {516 * PAGE_SIZE, 4 * PAGE_SIZE},         {510 * PAGE_SIZE, 2 * PAGE_SIZE},
                                  {700 * PAGE_SIZE + 8, PAGE_SIZE},         {RIG_RAM - PAGE_SIZE - 5, PAGE_SIZE + 5}};
    static const u64 want[][2] = {{500, 20}, {601, 3}, {PAGES - 1, 1}};
    struct fixture f;
    make(&f);
    bring_up(&f, F_ALL);
    report(&f, some, ARRAY_LEN(some));
    assert_int_equal(f.calls, ARRAY_LEN(want));
    for (unsigned i = 0; i < ARRAY_LEN(want); i++)
        assert_true(f.call[i].first == want[i][0] && f.call[i].n == want[i][1]);
    assert_int_equal(info(&f).reported, 24 * PAGE_SIZE);
    assert_int_equal(ring_used(&f.q[REPORT], NULL, NULL), 1);
    ring_desc(&f.q[REPORT], 0, 400 * PAGE_SIZE, PAGE_SIZE, 0, 0); /* to read: says nothing */
    ring_offer(&f.q[REPORT], 0);
    set(&f, KICK + 4 * REPORT, 2, REPORT);
    assert_int_equal(f.calls, ARRAY_LEN(want));
    report(&f, (const u64[][2]){{RIG_RAM - PAGE_SIZE, 2 * PAGE_SIZE}}, 1); /* out of RAM */
    assert_true(reg(&f, STATUS, 1) & VIRTIO_NEEDS_RESET);
    assert_int_equal(f.calls, ARRAY_LEN(want));
    end(&f);
}

static void poison(void **state)
{
    static const u64 some[][2] = {{600 * PAGE_SIZE, PAGE_SIZE}};
    static const struct {
        u64 features;
        u32 value;
        bool goes;
    } cases[] = {{F_ALL, 0, true}, {F_ALL, 0xaaaaaaaa, false}, {F_ALL & ~F_POISON, 0xaaaaaaaa, true}};
    struct fixture f;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        make(&f);
        bring_up(&f, cases[i].features);
        memset(f.g.ram + 600 * PAGE_SIZE, 0xaa, PAGE_SIZE);
        set(&f, DEV + 12, 4, cases[i].value);
        report(&f, some, 1);
        assert_int_equal(f.calls, cases[i].goes);
        assert_int_equal(f.g.ram[600 * PAGE_SIZE], cases[i].goes ? 0 : 0xaa);
        assert_true(info(&f).kept == (cases[i].goes ? 0 : PAGE_SIZE) && info(&f).reported + info(&f).kept == PAGE_SIZE);
        assert_int_equal(ring_used(&f.q[REPORT], NULL, NULL), 1);
        end(&f);
    }
}

/* A driver that gives away the rings themselves: they are empty, or make no sense. Nothing worse. */
static void own_rings(void **state)
{
    u32 all[PAGES];
    struct fixture f;
    for (unsigned i = 0; i < PAGES; i++)
        all[i] = i;
    for (unsigned queue = 0; queue < 2; queue++) {
        make(&f);
        bring_up(&f, F_ALL);
        if (queue)
            report(&f, (const u64[][2]){{0, RIG_RAM}}, 1);
        else
            name_pages(&f, INFLATE, all, PAGES);
        for (unsigned n = 0; n < 3; n++)
            for (unsigned i = 0; i < QUEUES; i++)
                set(&f, KICK + 4 * i, 2, i);
        virtio_balloon_ask(f.v);
        assert_true(info(&f).inflated + info(&f).reported >= PAGE_SIZE);
        set(&f, STATUS, 1, 0);
        assert_int_equal(reg(&f, STATUS, 1), 0);
        bring_up(&f, F_ALL);
        end(&f);
    }
}

static void put_stat(struct fixture *f, unsigned i, u16 tag, u64 value)
{
    put_le16(f->g.ram + DATA + 10 * i, tag);
    put_le64(f->g.ram + DATA + 10 * i + 2, value);
}

static void offer_stats(struct fixture *f, unsigned n)
{
    ring_desc(&f->q[STATS], 0, DATA, 10 * n, 0, 0);
    ring_offer(&f->q[STATS], 0);
    set(f, KICK + 4 * STATS, 2, STATS);
}

static void statistics(void **state)
{
    struct fixture f;
    make(&f);
    bring_up(&f, F_ALL);
    assert_false(virtio_balloon_ask(f.v)); /* nothing to give back */
    put_stat(&f, 0, BALLOON_STAT_total, 1 << 20);
    put_stat(&f, 1, BALLOON_STAT_free, UINT64_MAX);
    put_stat(&f, 2, BALLOON_STAT_COUNT, 5); /* of a later version */
    put_stat(&f, 3, 0xffff, 6);
    offer_stats(&f, 4);
    assert_int_equal(info(&f).answers, 1);
    assert_int_equal(info(&f).have, BIT(BALLOON_STAT_total) | BIT(BALLOON_STAT_free));
    assert_int_equal(info(&f).stat[BALLOON_STAT_total], 1 << 20);
    assert_true(info(&f).stat[BALLOON_STAT_free] == UINT64_MAX);
    assert_int_equal(ring_used(&f.q[STATS], NULL, NULL), 0); /* kept until somebody asks */
    set(&f, KICK + 4 * STATS, 2, STATS);
    assert_int_equal(info(&f).answers, 2);
    reg(&f, ISR, 1);
    assert_true(virtio_balloon_ask(f.v));
    assert_int_equal(reg(&f, ISR, 1), 1);
    assert_int_equal(ring_used(&f.q[STATS], NULL, NULL), 1);
    assert_int_equal(info(&f).answers, 2);
    assert_false(virtio_balloon_ask(f.v)); /* asked already */
    put_stat(&f, 0, BALLOON_STAT_caches, 3);
    offer_stats(&f, 1);
    assert_int_equal(info(&f).answers, 3);
    assert_int_equal(info(&f).have, BIT(BALLOON_STAT_caches));
    for (unsigned i = 0; i < 3 * N; i++) { /* round the ring */
        assert_true(virtio_balloon_ask(f.v));
        offer_stats(&f, 1);
    }
    assert_int_equal(info(&f).answers, 3 + 3 * N);
    assert_int_equal(ring_used(&f.q[STATS], NULL, NULL), 1 + 3 * N);
    set(&f, STATUS, 1, 0);
    assert_int_equal(info(&f).have, 0);
    bring_up(&f, F_ALL & ~F_STATS);
    offer_stats(&f, 1);
    assert_false(virtio_balloon_ask(f.v));
    end(&f);
}

static void records(void **state)
{
    struct fixture f, g;
    struct rec_buf b = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos;
    make(&f);
    bring_up(&f, F_ALL);
    assert_int_equal(virtio_balloon_set(f.v, 100 * PAGE_SIZE, NULL), 0);
    set(&f, DEV + 4, 4, 90);
    set(&f, DEV + 12, 4, 0x55555555);
    put_stat(&f, 0, BALLOON_STAT_free, 9);
    offer_stats(&f, 1);
    assert_int_equal(pci_save(f.g.pci, &b), 0);
    assert_int_equal(virtio_pci_save(f.p, &b), 0); /* though the buffer of the statistics is ours */
    make(&g);
    memcpy(g.g.ram, f.g.ram, RIG_RAM);
    for (int check = 1; check >= 0; check--)
        for (pos = 0; rec_next(b.data, b.len, &pos, &v, &e) == 1;)
            assert_true(pci_load(g.g.pci, &v, check, &e) == 1 || virtio_pci_load(g.p, &v, check, &e) == 1);
    memcpy(g.q, f.q, sizeof(g.q));
    for (unsigned i = 0; i < QUEUES; i++)
        g.q[i].g = &g.g;
    assert_int_equal(reg(&g, DEV, 8), 90ull << 32 | 100);
    assert_int_equal(reg(&g, DEV + 12, 4), 0x55555555);
    assert_int_equal(info(&g).have, 0);
    report(&g, (const u64[][2]){{600 * PAGE_SIZE, PAGE_SIZE}}, 1); /* it still wants its poison */
    assert_int_equal(g.calls, 0);
    assert_true(virtio_balloon_ask(g.v)); /* the buffer is there as before */
    assert_int_equal(ring_used(&g.q[STATS], NULL, NULL), 1);
    offer_stats(&g, 1);
    assert_int_equal(info(&g).stat[BALLOON_STAT_free], 9);
    rec_buf_free(&b);

    u8 payload[12] = {0}; /* more than there is */
    put_le32(payload, PAGES + 1);
    assert_int_equal(rec_save_raw(&b, REC_TYPE('B', 'A', 'L', 'N'), 1, 29, payload, sizeof(payload)), 0);
    pos = 0;
    assert_int_equal(rec_next(b.data, b.len, &pos, &v, &e), 1);
    assert_true(virtio_pci_load(g.p, &v, true, &e) < 0);
    assert_non_null(strstr(e.msg, "pages wanted"));
    rec_buf_free(&b);
    end(&f);
    end(&g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(target),    cmocka_unit_test(inflates),   cmocka_unit_test(dirty),
        cmocka_unit_test(many),      cmocka_unit_test(reports),    cmocka_unit_test(poison),
        cmocka_unit_test(own_rings), cmocka_unit_test(statistics), cmocka_unit_test(records)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
