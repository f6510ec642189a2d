/* The console device: bytes between a driver's queues and the machine's console, the size of the terminal, what a driver may get wrong. */
#include "dma_rig.h"

#define RING 0x10000u
#define DATA 0x20000u
#define N    16u
#define BAR  0xc0000000ull
#define SLOT 28u
#define MS   1000000ull

enum { RX, TX, QUEUES };
enum { GENERATION = 21, STATUS = 20, QSEL = 22, QSIZE = 24, QENABLE = 28, QDESC = 32, QDRIVER = 40, QDEVICE = 48 };
enum { AT_COLS = 0x2000, AT_ROWS = 0x2002, AT_PORTS = 0x2004, AT_EMERG = 0x2008 };

struct fixture {
    struct dma_rig g;
    struct vclock clock;
    u64 now;
    struct ring_driver q[QUEUES];
    struct virtio *v;
    struct virtio_pci *p;
    size_t out_room; /* bytes that the console takes */
    u8 out[1 << 17];
    size_t n_out;
    const char *in; /* what waits to be pulled */
    size_t pulled;
};

static u64 fake_ns(void *ctx)
{
    return ((struct fixture *)ctx)->now;
}

static size_t out(void *ctx, const u8 *data, size_t len)
{
    struct fixture *f = ctx;
    size_t n = MIN(MIN(len, f->out_room), sizeof(f->out) - f->n_out);
    memcpy(f->out + f->n_out, data, n);
    f->n_out += n;
    f->out_room -= n;
    return n;
}

static size_t in(void *ctx, u8 *data, size_t len)
{
    struct fixture *f = ctx;
    size_t n = f->in ? MIN(len, strlen(f->in)) : 0;
    memcpy(data, f->in ? f->in : "", n);
    f->in = f->in ? f->in + n : NULL;
    f->pulled += n;
    return n;
}

static u64 reg(struct fixture *f, unsigned at, unsigned size)
{
    return bus_mmio_read(&f->g.bus, BAR + at, size);
}

static void set(struct fixture *f, unsigned at, unsigned size, u64 v)
{
    bus_mmio_write(&f->g.bus, BAR + at, size, v);
}

static struct fixture *make(void)
{
    struct error e = {0};
    struct fixture *f = calloc(1, sizeof(*f));
    assert_non_null(f);
    const struct virtio_console_config c = {out, in, f};
    f->out_room = SIZE_MAX;
    dma_rig_init(&f->g);
    vclock_init(&f->clock, fake_ns, fake_ns, f, 1000000000, 0);
    f->g.env.clock = &f->clock;
    assert_int_equal(virtio_console_create(&f->v, &f->g.env, &c, &e), 0);
    f->v->slot = SLOT;
    assert_int_equal(virtio_pci_create(&f->p, f->g.pci, f->v, &e), 0);
    assert_int_equal(pci_config_read(f->g.pci, SLOT, 0, 4), 0x10431af4);
    assert_int_equal(pci_config_read(f->g.pci, SLOT, 8, 4) >> 16, 0x0780);
    pci_config_write(f->g.pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    return f;
}

/* `features`: of the low word. */
static void bring_up(struct fixture *f, u32 features)
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
}

static void kick(struct fixture *f, unsigned n)
{
    set(f, 0x3000 + n * 4, 2, n);
}

static void end(struct fixture *f)
{
    virtio_pci_destroy(f->p);
    assert_null(f->clock.timers);
    dma_rig_free(&f->g);
    free(f);
}

/* One chain on tx of `len` bytes that count up from `first`, in two pieces. */
static void print(struct fixture *f, unsigned desc, u32 len, u8 first)
{
    u64 at = DATA + desc * 0x10000;
    for (u32 i = 0; i < len; i++)
        f->g.ram[at + i] = (u8)(first + i);
    ring_desc(&f->q[TX], desc, at, len / 2, 1, (u16)(desc + 1));
    ring_desc(&f->q[TX], desc + 1, at + len / 2, len - len / 2, 0, 0);
    ring_offer(&f->q[TX], (u16)desc);
}

static void assert_printed(const struct fixture *f, size_t from, size_t len, u8 first)
{
    assert_true(f->n_out >= from + len);
    for (size_t i = 0; i < len; i++)
        assert_int_equal(f->out[from + i], (u8)(first + i));
}

static void output(void **state)
{
    struct fixture *f = make();
    bring_up(f, 0);
    print(f, 0, 5, 'a');
    kick(f, TX);
    assert_int_equal(f->n_out, 5);
    assert_memory_equal(f->out, "abcde", 5);
    assert_int_equal(ring_used(&f->q[TX], NULL, NULL), 1);
    print(f, 2, 50001, 7); /* more than is copied at once */
    print(f, 4, 3, 'x');
    kick(f, TX);
    assert_int_equal(ring_used(&f->q[TX], NULL, NULL), 3);
    assert_printed(f, 5, 50001, 7);
    assert_memory_equal(f->out + 50006, "xyz", 3);
    end(f);
}

/* What the console does not take waits in the guest's memory, and goes on where it was. */
static void nobody_reads(void **state)
{
    struct fixture *f = make();
    bring_up(f, 0);
    f->out_room = 1000;
    print(f, 0, 20000, 1);
    print(f, 2, 10, 'A');
    kick(f, TX);
    assert_int_equal(f->n_out, 1000);
    assert_int_equal(ring_used(&f->q[TX], NULL, NULL), 0);
    virtio_console_settle(f->v); /* still no room */
    kick(f, TX);
    assert_int_equal(f->n_out, 1000);
    for (unsigned i = 0; i < 18; i++) {
        f->out_room = 1001;
        virtio_console_settle(f->v);
        assert_int_equal(ring_used(&f->q[TX], NULL, NULL), 0);
    }
    f->out_room = SIZE_MAX;
    virtio_console_settle(f->v);
    assert_int_equal(ring_used(&f->q[TX], NULL, NULL), 2);
    assert_int_equal(f->n_out, 20010);
    assert_printed(f, 0, 20000, 1);
    assert_memory_equal(f->out + 20000, "ABCDEFGHIJ", 10);
    f->out_room = 3; /* a reset in the middle: the next chain begins at its beginning */
    print(f, 4, 10, 'A');
    kick(f, TX);
    assert_int_equal(f->n_out, 20013);
    bring_up(f, 0);
    f->out_room = SIZE_MAX;
    print(f, 0, 10, 'K');
    virtio_console_settle(f->v);
    kick(f, TX);
    assert_memory_equal(f->out + 20010, "ABCKLMNOPQRST", 13);
    assert_int_equal(f->n_out, 20023);
    end(f);
}

static u8 isr(struct fixture *f)
{
    return (u8)reg(f, 0x1000, 1);
}

/* An interrupt for output comes late, once, and not for a driver that is gone. */
static void told_late(void **state)
{
    struct fixture *f = make();
    bring_up(f, 0);
    print(f, 0, 5, 'a');
    kick(f, TX);
    print(f, 2, 5, 'a');
    kick(f, TX);
    assert_int_equal(ring_used(&f->q[TX], NULL, NULL), 2);
    assert_int_equal(isr(f), 0);
    f->now += MS;
    vclock_run_timers(&f->clock);
    assert_int_equal(isr(f), 1);
    f->now += MS;
    vclock_run_timers(&f->clock);
    assert_int_equal(isr(f), 0);
    print(f, 4, 5, 'a');
    kick(f, TX);
    set(f, STATUS, 1, 0);
    f->now += MS;
    vclock_run_timers(&f->clock);
    assert_int_equal(isr(f), 0);
    /* With the event index a driver that has seen the chain is left alone. */
    bring_up(f, (u32)VIRTIO_F_EVENT_INDEX);
    for (unsigned seen = 0; seen < 2; seen++) {
        print(f, 0, 5, 'a');
        kick(f, TX);
        put_le16(f->g.ram + f->q[TX].avail + 4 + 2 * N, (u16)(seen ? 2 : 0)); /* used_event */
        f->now += MS;
        vclock_run_timers(&f->clock);
        assert_int_equal(isr(f), !seen);
    }
    end(f);
}

static void offer_buffers(struct fixture *f, unsigned n, u32 size)
{
    for (unsigned i = 0; i < n; i++) {
        ring_desc(&f->q[RX], i, DATA + i * 0x1000, size, 2, 0);
        ring_offer(&f->q[RX], (u16)i);
    }
    kick(f, RX);
}

static size_t type(struct fixture *f, const char *text)
{
    return virtio_console_input(f->v, (const u8 *)text, strlen(text));
}

static void input(void **state)
{
    struct fixture *f = make();
    u32 len;
    assert_int_equal(type(f, "early"), 0); /* there is no driver */
    bring_up(f, 0);
    assert_int_equal(type(f, "early"), 0); /* nor a buffer */
    offer_buffers(f, 2, 4);
    assert_int_equal(ring_used(&f->q[RX], NULL, NULL), 0);
    assert_int_equal(type(f, "ab"), 2); /* a buffer need not be full */
    assert_int_equal(ring_used(&f->q[RX], NULL, &len), 1);
    assert_int_equal(len, 2);
    assert_memory_equal(f->g.ram + DATA, "ab", 2);
    assert_int_equal(isr(f), 1);
    assert_int_equal(type(f, "cdefgh"), 4);
    assert_int_equal(ring_used(&f->q[RX], NULL, &len), 2);
    assert_memory_equal(f->g.ram + DATA + 0x1000, "cdef", 4);
    f->in = "ghijklmno"; /* waits, and is pulled when there are buffers again */
    offer_buffers(f, 4, 4);
    assert_int_equal(f->pulled, 9);
    assert_int_equal(ring_used(&f->q[RX], NULL, &len), 5);
    assert_int_equal(len, 1);
    assert_memory_equal(f->g.ram + DATA, "ghij", 4);
    assert_memory_equal(f->g.ram + DATA + 0x1000, "klmn", 4);
    assert_memory_equal(f->g.ram + DATA + 0x2000, "o", 1);
    assert_int_equal(type(f, "p"), 1); /* the buffer that was taken and put back */
    assert_int_equal(ring_used(&f->q[RX], NULL, &len), 6);
    pci_config_write(f->g.pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY); /* not bus master: nothing is touched */
    offer_buffers(f, 1, 4);
    assert_int_equal(type(f, "q"), 0);
    f->in = "r";
    pci_config_write(f->g.pci, SLOT, PCI_COMMAND, 2, PCI_COMMAND_MEMORY | PCI_COMMAND_MASTER);
    assert_int_equal(ring_used(&f->q[RX], NULL, &len), 7);
    end(f);
}

static void size(void **state)
{
    struct fixture *f = make();
    virtio_console_size(f->v, 100, 40);
    assert_int_equal(reg(f, AT_COLS, 2), 100);
    assert_int_equal(reg(f, AT_ROWS, 2), 40);
    assert_int_equal(reg(f, AT_COLS, 4), 40 << 16 | 100);
    assert_int_equal(reg(f, AT_PORTS, 4), 1);
    assert_int_equal(isr(f), 0);
    bring_up(f, 1);
    virtio_console_size(f->v, 101, 40); /* not before the driver has begun */
    assert_int_equal(isr(f), 0);
    kick(f, RX);
    assert_int_equal(isr(f), 0);
    offer_buffers(f, 1, 4);
    assert_int_equal(isr(f), 2);
    kick(f, TX); /* told just now */
    assert_int_equal(isr(f), 0);
    unsigned told = 0;
    for (unsigned i = 0; i < 10000; i++) { /* again, ever more rarely: the driver may have missed it */
        f->now += MS;
        kick(f, TX);
        told += isr(f) == 2;
    }
    assert_in_range(told, 8, 14);
    u64 generation = reg(f, GENERATION, 1);
    virtio_console_size(f->v, 101, 40); /* no change */
    assert_int_equal(isr(f), 0);
    assert_int_equal(reg(f, GENERATION, 1), generation);
    virtio_console_size(f->v, 80, 24);
    assert_int_equal(isr(f), 2);
    assert_int_not_equal(reg(f, GENERATION, 1), generation);
    set(f, AT_COLS, 4, 0); /* not the driver's to write */
    assert_int_equal(reg(f, AT_COLS, 4), 24 << 16 | 80);
    bring_up(f, 0); /* a driver that does not want to know */
    offer_buffers(f, 1, 4);
    virtio_console_size(f->v, 81, 24);
    assert_int_equal(isr(f), 0);
    end(f);
}

static void emergency(void **state)
{
    struct fixture *f = make();
    set(f, AT_EMERG, 4, 0x12340041); /* no driver, no features */
    set(f, AT_EMERG, 1, 'B');
    set(f, AT_EMERG, 2, 'C');
    set(f, AT_EMERG + 1, 1, 'x');
    set(f, AT_PORTS, 8, (u64)'D' << 32);
    assert_int_equal(f->n_out, 4);
    assert_memory_equal(f->out, "ABCD", 4);
    assert_int_equal(reg(f, AT_EMERG, 4), 0);
    f->out_room = 0;
    for (unsigned i = 0; i < 1000; i++)
        set(f, AT_EMERG, 4, i);
    f->out_room = SIZE_MAX;
    virtio_console_settle(f->v);
    assert_int_equal(f->n_out, 4 + 64);
    assert_printed(f, 4, 64, 0);
    end(f);
}

static void hostile(void **state)
{
    struct fixture *f;
    for (unsigned i = 0; i < 5; i++) {
        f = make();
        bring_up(f, 0);
        u64 at = i == 0 ? RIG_RAM - 4 : DATA;
        if (i == 3) { /* a buffer for input that takes nothing */
            ring_desc(&f->q[RX], 0, DATA, 8, 0, 0);
            ring_offer(&f->q[RX], 0);
            kick(f, RX);
        } else if (i == 4) {
            ring_desc(&f->q[RX], 0, 0x7fffffffffffull, 8, 2, 0);
            ring_offer(&f->q[RX], 0);
            type(f, "x");
        } else { /* out of memory; writable; a loop */
            ring_desc(&f->q[TX], 0, at, 8, i == 1 ? 2 : i == 2, 0);
            ring_offer(&f->q[TX], 0);
            kick(f, TX);
        }
        assert_true(reg(f, STATUS, 1) & VIRTIO_NEEDS_RESET);
        assert_int_equal(f->n_out, 0);
        f->in = "never";
        kick(f, RX);
        kick(f, TX);
        virtio_console_settle(f->v);
        assert_int_equal(f->n_out + f->pulled + type(f, "more"), 0);
        bring_up(f, 0);
        print(f, 0, 3, 'a');
        kick(f, TX);
        assert_int_equal(f->n_out, 3);
        end(f);
    }
    /* The chain changes while it waits for room: whatever happens stays inside. */
    f = make();
    bring_up(f, 0);
    f->out_room = 5000;
    print(f, 0, 10000, 1);
    kick(f, TX);
    print(f, 0, 10, 'a'); /* shorter than what is out already */
    f->out_room = SIZE_MAX;
    virtio_console_settle(f->v);
    assert_true(f->n_out <= 5010);
    end(f);
}

/* A machine that is saved in the middle of output and loaded elsewhere. */
static void records(void **state)
{
    struct fixture *f = make(), *g;
    struct rec_buf b = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos;
    bring_up(f, 1);
    f->out_room = 6;
    virtio_console_size(f->v, 100, 40);
    print(f, 0, 5, 'a');
    print(f, 2, 10, 'A');
    kick(f, TX);
    set(f, AT_EMERG, 4, '!');
    assert_int_equal(f->n_out, 6);
    assert_int_equal(virtio_pci_save(f->p, &b), 0);
    assert_int_equal(pci_save(f->g.pci, &b), 0);
    g = make();
    virtio_console_size(g->v, 80, 25); /* another terminal */
    memcpy(g->g.ram, f->g.ram, RIG_RAM);
    for (int check = 1; check >= 0; check--)
        for (pos = 0; rec_next(b.data, b.len, &pos, &v, &e) == 1;)
            assert_true(pci_load(g->g.pci, &v, check, &e) == 1 || virtio_pci_load(g->p, &v, check, &e) == 1);
    memcpy(g->q, f->q, sizeof(g->q));
    for (unsigned i = 0; i < QUEUES; i++)
        g->q[i].g = &g->g;
    isr(g);
    virtio_console_settle(g->v);
    assert_int_equal(isr(g), 2); /* the driver is told what is true here */
    assert_int_equal(g->n_out, 10);
    assert_memory_equal(g->out, "!BCDEFGHIJ", 10);
    assert_int_equal(ring_used(&g->q[TX], NULL, NULL), 2);
    g->now += MS;
    vclock_run_timers(&g->clock);
    assert_int_equal(isr(g), 1);

    assert_int_equal(reg(g, AT_COLS, 4), 25 << 16 | 80);
    rec_buf_free(&b);
    end(f);
    end(g);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(output),    cmocka_unit_test(nobody_reads),
                                       cmocka_unit_test(told_late), cmocka_unit_test(input),
                                       cmocka_unit_test(size),      cmocka_unit_test(emergency),
                                       cmocka_unit_test(hostile),   cmocka_unit_test(records)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
