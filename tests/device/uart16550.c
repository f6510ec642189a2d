/* The 16550A: FIFOs and triggers, interrupt priorities, loopback, back pressure. */
#include "rig.h"
#include "machine/platform.h"

enum { RBR = PORT_COM1, IER, IIR, LCR, MCR, LSR, MSR, SCR, THR = RBR, DLL = RBR, DLM = IER, FCR = IIR };

static int setup(void **state)
{
    struct rig *g = rig_one(&uart16550_device);
    out(g, MCR, 0x08); /* OUT2 opens the way of the interrupt */
    *state = g;
    return 0;
}

static size_t feed(struct rig *g, const char *s)
{
    return uart16550_input(g->only, (const u8 *)s, strlen(s));
}

static bool irq(struct rig *g)
{
    return g->level[GSI_COM1];
}

static void registers(void **state)
{
    struct rig *g = *state;
    assert_int_equal(in(g, IIR), 0x01);
    assert_int_equal(in(g, LSR), 0x60);
    assert_int_equal(in(g, MSR), 0xb0);
    out(g, IER, 0xff);
    assert_int_equal(in(g, IER), 0x0f);
    out(g, MCR, 0xff);
    assert_int_equal(in(g, MCR), 0x1f);
    out(g, SCR, 0x5a);
    assert_int_equal(in(g, SCR), 0x5a);
    out(g, LCR, 0x83);
    out(g, DLL, 0x34);
    out(g, DLM, 0x12);
    assert_int_equal(in(g, DLL), 0x34);
    assert_int_equal(in(g, DLM), 0x12);
    out(g, LCR, 0x03);
    assert_int_equal(in(g, IER), 0x0f);
    out(g, FCR, 0xc0); /* without the enable bit the rest does nothing */
    assert_int_equal(in(g, IIR) & 0xc0, 0);
    out(g, FCR, 0x01);
    assert_int_equal(in(g, IIR) & 0xc0, 0xc0);
}

static void transmits(void **state)
{
    struct rig *g = *state;
    for (const char *p = "hello, world"; *p; p++)
        out(g, THR, (u8)*p);
    assert_memory_equal(g->out, "hello, world", 12);
    assert_int_equal(g->out_len, 12);
    assert_int_equal(in(g, LSR), 0x60);
}

static void transmitter_interrupt(void **state)
{
    struct rig *g = *state;
    assert_false(irq(g));
    out(g, IER, 2); /* enabling it while THR is empty interrupts */
    assert_true(irq(g));
    assert_int_equal(in(g, IIR), 0x02); /* which takes it back */
    assert_false(irq(g));
    assert_int_equal(in(g, IIR), 0x01);
    unsigned edges = g->edges[GSI_COM1];
    out(g, THR, 'a');
    assert_true(irq(g));
    out(g, THR, 'b');
    assert_int_equal(g->edges[GSI_COM1], edges + 2); /* each time the transmitter becomes empty is an edge */
    out(g, MCR, 0);
    assert_false(irq(g)); /* OUT2 */
    out(g, MCR, 8);
    assert_true(irq(g));
    out(g, IER, 0);
    assert_false(irq(g));
}

static void back_pressure(void **state)
{
    struct rig *g = *state;
    g->out_room = 3;
    out(g, FCR, 1);
    out(g, IER, 2);
    in(g, IIR);
    for (unsigned i = 0; i < 10; i++)
        out(g, THR, (u8)('0' + i));
    assert_int_equal(g->out_len, 3);
    assert_int_equal(in(g, LSR) & 0x60, 0); /* THRE withheld */
    assert_false(irq(g));
    out(g, FCR, 7); /* what was accepted is on the wire: a FIFO reset does not lose it */
    g->out_room = 2;
    uart16550_flush(g->only);
    assert_int_equal(g->out_len, 5);
    assert_int_equal(in(g, LSR) & 0x60, 0);
    g->out_room = SIZE_MAX;
    uart16550_flush(g->only);
    assert_memory_equal(g->out, "0123456789", 10);
    assert_int_equal(in(g, LSR) & 0x60, 0x60);
    assert_true(irq(g));
    assert_int_equal(in(g, IIR), 0xc2);
    uart16550_flush(g->only);
    assert_false(irq(g)); /* nothing waited: no new interrupt */
}

/* A guest that polls gets byte after byte; one that takes interrupts is left to what arrives. */
static void polled_input(void **state)
{
    struct rig *g = *state;
    g->typed = "abcdefghijklmnopqrstuvwxyz";
    for (u8 c = 'a'; c < 'e'; c++) {
        assert_int_equal(in(g, LSR), 0x61);
        assert_int_equal(in(g, LSR), 0x61);
        assert_int_equal(in(g, RBR), c);
    }
    assert_int_equal(strlen(g->typed), 22); /* a byte at a time, none ahead of its place */
    out(g, MCR, 0x18);
    assert_int_equal(in(g, LSR) & 1, 0); /* loopback */
    out(g, MCR, 0x08);
    out(g, IER, 1);
    assert_int_equal(in(g, LSR) & 1, 0);
    assert_int_equal(strlen(g->typed), 22);
    out(g, IER, 0);
    out(g, FCR, 1);
    assert_int_equal(in(g, LSR) & 1, 1);
    assert_int_equal(strlen(g->typed), 6); /* as much as the FIFO holds */
    for (u8 c = 'e'; c <= 'z'; c++) {
        assert_int_equal(in(g, LSR) & 1, 1);
        assert_int_equal(in(g, RBR), c);
    }
    assert_int_equal(in(g, LSR) & 1, 0);
}

static void receives_without_fifo(void **state)
{
    struct rig *g = *state;
    out(g, IER, 1);
    assert_int_equal(feed(g, "xyz"), 1);
    assert_true(irq(g));
    assert_int_equal(in(g, IIR), 0x04);
    assert_int_equal(in(g, LSR), 0x61);
    assert_int_equal(in(g, RBR), 'x');
    assert_false(irq(g));
    assert_int_equal(in(g, LSR), 0x60);
    assert_int_equal(feed(g, "yz"), 1);
    assert_int_equal(in(g, RBR), 'y');
}

static void fifo_triggers(void **state)
{
    struct rig *g = *state;
    static const unsigned level[4] = {1, 4, 8, 14};
    out(g, IER, 1);
    for (unsigned t = 0; t < 4; t++) {
        out(g, FCR, (u8)(0x07 | t << 6));
        for (unsigned n = 1; n <= 16; n++) {
            assert_int_equal(feed(g, "c"), 1);
            assert_int_equal(irq(g), n >= level[t]);
        }
        assert_int_equal(feed(g, "c"), 0); /* full: no overrun, the rest is offered again */
        assert_int_equal(in(g, IIR), 0xc4);
        for (unsigned n = 16; n >= level[t]; n--)
            assert_int_equal(in(g, RBR), 'c');
        assert_false(irq(g));
        while (in(g, LSR) & 1)
            in(g, RBR);
    }
}

/* Four characters of ten bits at 9600 baud: 4.17 ms. */
static void character_timeout(void **state)
{
    struct rig *g = *state;
    out(g, LCR, 0x83);
    out(g, DLL, 12);
    out(g, LCR, 0x03);
    out(g, FCR, 0xc1);
    out(g, IER, 1);
    feed(g, "ab");
    pass(g, 4000000);
    assert_false(irq(g));
    feed(g, "c"); /* starts the time again */
    pass(g, 4000000);
    assert_false(irq(g));
    pass(g, 200000);
    assert_true(irq(g));
    assert_int_equal(in(g, IIR), 0xcc);
    assert_int_equal(in(g, RBR), 'a');
    assert_false(irq(g));
    pass(g, 4200000);
    assert_true(irq(g));
    in(g, RBR);
    in(g, RBR);
    pass(g, 10000000);
    assert_false(irq(g)); /* nothing there */
}

static void priorities(void **state)
{
    struct rig *g = *state;
    out(g, FCR, 1);
    out(g, IER, 0xf);
    uart16550_break(g->only);
    out(g, MCR, 0x18);
    out(g, MCR, 0x08); /* the inputs change twice: modem status */
    assert_true(irq(g));
    assert_int_equal(in(g, IIR), 0xc6);         /* line status */
    assert_int_equal(in(g, LSR), 0xf1 & ~0x80); /* BI, THRE, TEMT, DR */
    assert_int_equal(in(g, IIR), 0xc4);         /* data */
    assert_int_equal(in(g, RBR), 0);
    assert_int_equal(in(g, IIR), 0xc2); /* transmitter */
    assert_int_equal(in(g, IIR), 0xc0); /* modem */
    assert_int_not_equal(in(g, MSR) & 0x0f, 0);
    assert_int_equal(in(g, IIR), 0xc1);
    assert_false(irq(g));
}

/* An error belongs to its byte: LSR shows it when that one is on top. */
static void errors_in_the_fifo(void **state)
{
    struct rig *g = *state;
    out(g, FCR, 1);
    feed(g, "a");
    uart16550_break(g->only);
    assert_int_equal(in(g, LSR), 0x80 | 0x61);
    assert_int_equal(in(g, RBR), 'a');
    assert_int_equal(in(g, LSR), 0x10 | 0x61);
    assert_int_equal(in(g, LSR), 0x61);
    assert_int_equal(in(g, RBR), 0);
    assert_int_equal(in(g, LSR), 0x60);
}

static void loopback(void **state)
{
    struct rig *g = *state;
    out(g, LCR, 0x03);
    out(g, MCR, 0x10);
    in(g, MSR);
    static const u8 mcr[4] = {0x02, 0x01, 0x04, 0x08}, msr[4] = {0x10, 0x20, 0x40, 0x80};
    for (unsigned i = 0; i < 4; i++) {
        out(g, MCR, 0x10 | mcr[i]);
        assert_int_equal(in(g, MSR) & 0xf0, msr[i]);
    }
    out(g, MCR, 0x14);
    in(g, MSR);
    out(g, MCR, 0x10);
    assert_int_equal(in(g, MSR), 0x04); /* trailing edge of RI */
    assert_int_equal(feed(g, "outside"), 0);
    out(g, THR, 0xc3);
    assert_int_equal(g->out_len, 0);
    assert_int_equal(in(g, LSR), 0x61);
    out(g, THR, 0xc4);
    assert_int_equal(in(g, LSR), 0x63); /* overrun */
    assert_int_equal(in(g, RBR), 0xc4); /* without FIFO the new byte replaces the old one */
    out(g, LCR, 0x00);
    out(g, THR, 0xff);
    assert_int_equal(in(g, RBR), 0x1f); /* five data bits */
    out(g, FCR, 1);
    for (unsigned i = 0; i < 17; i++)
        out(g, THR, (u8)i);
    assert_int_equal(in(g, LSR) & 2, 2);
    assert_int_equal(in(g, RBR), 0); /* with FIFO the old ones stay */
    out(g, FCR, 3);
    out(g, LCR, 0x40);
    assert_int_equal(in(g, LSR) & 0x11, 0x11); /* break */
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, rig_close)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(registers),          T(transmits),         T(transmitter_interrupt),
        T(back_pressure),      T(polled_input),      T(receives_without_fifo),
        T(fifo_triggers),      T(character_timeout), T(priorities),
        T(errors_in_the_fifo), T(loopback),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
