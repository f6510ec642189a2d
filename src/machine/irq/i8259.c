/*
 * The pair of 8259A interrupt controllers of a PC. Source: Intel 8259A datasheet (231468); the edge/level registers are
 * from the EISA/82371 datasheets.
 *
 *            +--------+  INT                +--------+
 *   IRQ 0 -> |        | ------> CPU  IRQ 8 ->|        |
 *   IRQ 1 -> | master |          ...         | slave  | INT --+
 *   IRQ 2 <- |        | <--------------------------------------+
 *   IRQ 7 -> +--------+          IRQ 15 ---->+--------+
 *
 * Each chip has three 8-bit registers: IRR (requests), ISR (in service) and IMR (mask). An edge-triggered request is the
 * latched edge and the input still being high: an input that falls before the acknowledge takes its request with it. If
 * the request is gone when the processor acknowledges, the chip answers with its input 7 without setting ISR (spurious
 * interrupt). Priorities rotate: `lowest` names the input of lowest priority, the one after it has the highest.
 *
 * What must stay true
 *  1. The master's input 2 is the slave's output, recomputed after every change of the slave (cascade_update).
 *  2. A request is offered only if it has a higher priority than everything in service, except that in special mask mode
 *     masked inputs in service do not count, and in special fully nested mode the master does not count input 2.
 *
 * Not done: buffered mode and 8080 call mode (no PC has them); the bits are accepted and have no effect.
 */
#include "machine/irq/irq_internal.h"

#include <errno.h>
#include <string.h>

#define ICW1_ICW4   0x01
#define ICW1_SINGLE 0x02
#define ICW1_LEVEL  0x08
#define ICW4_AEOI   0x02
#define ICW4_SFNM   0x10
#define CASCADE     2
#define NONE        8

/* Inputs whose trigger mode is fixed to edge: 0 1 2 of the master, 8 and 13 of the slave */
static const u8 elcr_writable[2] = {0xf8, 0xde};

static bool level_triggered(const struct i8259 *c, unsigned n)
{
    return c->icw1 & ICW1_LEVEL || c->elcr >> n & 1;
}

/* The set bit of highest priority in `bits`: its distance from the highest-priority input, NONE if there is none. */
static unsigned rank(const struct i8259 *c, u8 bits)
{
    for (unsigned i = 0; i < 8; i++)
        if (bits >> ((c->lowest + 1 + i) & 7) & 1)
            return i;
    return NONE;
}

static unsigned input_of_rank(const struct i8259 *c, unsigned r)
{
    return (c->lowest + 1 + r) & 7;
}

/* The input that is offered to the processor now, or NONE. */
static unsigned offered(const struct i8259 *c, bool master)
{
    unsigned want = rank(c, c->irr & (u8)~c->imr);
    if (want == NONE)
        return NONE;
    u8 serving = c->isr;
    if (c->special_mask)
        serving &= (u8)~c->imr;
    if (master && c->icw4 & ICW4_SFNM)
        serving &= (u8) ~(1u << CASCADE);
    return want < rank(c, serving) ? input_of_rank(c, want) : NONE;
}

static void set_input(struct i8259 *c, unsigned n, bool level)
{
    u8 bit = (u8)(1u << n);
    bool rose = level && !(c->lines & bit);
    c->lines = level ? c->lines | bit : c->lines & (u8)~bit;
    if (!level)
        c->irr &= (u8)~bit;
    else if (rose || level_triggered(c, n))
        c->irr |= bit;
}

static void cascade_update(struct i8259_pair *p)
{
    set_input(&p->chip[0], CASCADE, offered(&p->chip[1], false) != NONE);
}

/* An acknowledge drops the slave's INT for a moment: a second request is a new edge for the master. */
static void cascade_pulse(struct i8259_pair *p)
{
    set_input(&p->chip[0], CASCADE, false);
    cascade_update(p);
}

void i8259_reset(struct i8259_pair *p)
{
    for (unsigned i = 0; i < 2; i++) {
        u8 lines = p->chip[i].lines;
        p->chip[i] = (struct i8259){.lines = lines, .lowest = 7};
    }
    p->chip[0].lines &= (u8) ~(1u << CASCADE);
}

void i8259_set(struct i8259_pair *p, unsigned irq, bool level)
{
    set_input(&p->chip[irq >> 3 & 1], irq & 7, level);
    cascade_update(p);
}

bool i8259_output(const struct i8259_pair *p)
{
    return offered(&p->chip[0], true) != NONE;
}

/* First INTA: put input `n` in service. */
static void serve(struct i8259 *c, unsigned n)
{
    u8 bit = (u8)(1u << n);
    if (c->icw4 & ICW4_AEOI) {
        if (c->rotate_aeoi)
            c->lowest = (u8)n;
    } else {
        c->isr |= bit;
    }
    if (!level_triggered(c, n))
        c->irr &= (u8)~bit;
}

u8 i8259_ack(struct i8259_pair *p)
{
    struct i8259 *m = &p->chip[0], *s = &p->chip[1];
    unsigned n = offered(m, true);
    if (n == NONE)
        return m->base | 7;
    serve(m, n);
    if (n != CASCADE)
        return (u8)(m->base | n);
    unsigned k = offered(s, false);
    if (k != NONE)
        serve(s, k);
    cascade_pulse(p);
    return (u8)(s->base | (k == NONE ? 7 : k));
}

/* ICW1 starts the sequence: clears IMR, edge latches and modes (datasheet, "initialization command words"). */
static void write_icw1(struct i8259 *c, u8 v)
{
    c->icw1 = v & 0x1f;
    c->irr = c->isr = c->imr = 0;
    c->lowest = 7;
    c->read_isr = c->poll = c->special_mask = c->rotate_aeoi = 0;
    c->icw4 = 0;
    c->init_step = 2;
    for (unsigned n = 0; n < 8; n++)
        if (level_triggered(c, n) && c->lines >> n & 1)
            c->irr |= (u8)(1u << n);
}

/* OCW2: R SL EOI in bits 7-5, input in 2-0 */
static void write_ocw2(struct i8259 *c, u8 v)
{
    bool rotate = v & 0x80, specific = v & 0x40, eoi = v & 0x20;
    u8 serving = c->isr;
    if (c->special_mask)
        serving &= (u8)~c->imr;
    unsigned r = rank(c, serving), n = v & 7;
    if (!specific && !eoi) {
        c->rotate_aeoi = rotate;
        return;
    }
    if (!specific) {
        if (r == NONE)
            return;
        n = input_of_rank(c, r);
    }
    if (eoi)
        c->isr &= (u8) ~(1u << n);
    if (rotate)
        c->lowest = (u8)n;
}

/* OCW3: ESMM SMM in bits 6-5, poll in 2, RR RIS in 1-0 */
static void write_ocw3(struct i8259 *c, u8 v)
{
    if (v & 0x40)
        c->special_mask = v >> 5 & 1;
    if (v & 0x04)
        c->poll = 1;
    else if (v & 0x02)
        c->read_isr = v & 1;
}

/* ICW2, ICW3 and ICW4 arrive at the odd port, in this order; what ICW1 says is not coming is skipped. */
static void write_icw(struct i8259 *c, u8 v)
{
    unsigned next = 0;
    if (c->init_step == 2) {
        c->base = v & 0xf8;
        next = c->icw1 & ICW1_SINGLE ? 4 : 3;
    } else if (c->init_step == 3) {
        c->icw3 = v;
        next = 4;
    } else {
        c->icw4 = v & 0x1f;
    }
    if (next == 4 && !(c->icw1 & ICW1_ICW4))
        next = 0;
    c->init_step = (u8)next;
}

static void write_chip(struct i8259 *c, bool odd, u8 v)
{
    if (odd && c->init_step)
        write_icw(c, v);
    else if (odd)
        c->imr = v;
    else if (v & 0x10)
        write_icw1(c, v);
    else if (v & 0x08)
        write_ocw3(c, v);
    else
        write_ocw2(c, v);
}

/* The read after a poll command acts as the acknowledge: bit 7 says whether there was a request. */
static u8 poll_read(struct i8259 *c, bool master)
{
    c->poll = 0;
    unsigned n = offered(c, master);
    if (n == NONE)
        return 0;
    serve(c, n);
    return (u8)(0x80 | n);
}

static u8 read_chip(struct i8259 *c, bool master, bool odd)
{
    if (c->poll)
        return poll_read(c, master);
    if (odd)
        return c->imr;
    return c->read_isr ? c->isr : c->irr;
}

static void write_elcr(struct i8259_pair *p, unsigned i, u8 v)
{
    struct i8259 *c = &p->chip[i];
    c->elcr = v & elcr_writable[i];
    for (unsigned n = 0; n < 8; n++)
        if (level_triggered(c, n) && c->lines >> n & 1)
            c->irr |= (u8)(1u << n);
}

u8 i8259_read(struct i8259_pair *p, u16 port)
{
    if (port == 0x4d0 || port == 0x4d1)
        return p->chip[port & 1].elcr;
    unsigned i = port >> 7 & 1;
    bool polled = p->chip[i].poll;
    u8 v = read_chip(&p->chip[i], i == 0, port & 1);
    if (polled && i == 1)
        cascade_pulse(p);
    return v;
}

void i8259_write(struct i8259_pair *p, u16 port, u8 value)
{
    if (port == 0x4d0 || port == 0x4d1)
        write_elcr(p, port & 1, value);
    else
        write_chip(&p->chip[port >> 7 & 1], port & 1, value);
    cascade_update(p);
}

static int chip_check(const struct i8259 *c, unsigned i, struct error *e)
{
    if (c->lowest > 7 || c->base & 7 || c->elcr & (u8)~elcr_writable[i] || c->icw1 & 0xe0 || c->icw4 & 0xe0)
        return error_set(e, EINVAL, "chip %u: a register has bits that can not be set", i);
    if (c->init_step == 1 || c->init_step > 4)
        return error_set(e, EINVAL, "chip %u: initialisation step %u does not exist", i, c->init_step);
    if (c->read_isr > 1 || c->poll > 1 || c->special_mask > 1 || c->rotate_aeoi > 1)
        return error_set(e, EINVAL, "chip %u: a flag is neither 0 nor 1", i);
    if (c->irr & (u8)~c->lines)
        return error_set(e, EINVAL, "chip %u: a request without its input", i);
    return 0;
}

static int i8259_check(const void *candidate, struct error *e)
{
    const struct i8259_pair *p = candidate;
    for (unsigned i = 0; i < 2; i++)
        if (chip_check(&p->chip[i], i, e))
            return -EINVAL;
    return 0;
}

static const struct rec_field i8259_fields[] = {
    REC_FIELD(struct i8259_pair, chip),
};

const struct rec_desc i8259_record = {
    .name = "i8259",
    .type = REC_TYPE('P', 'I', 'C', ' '),
    .version = 1,
    .object_size = sizeof(struct i8259_pair),
    .fields = i8259_fields,
    .n_fields = ARRAY_LEN(i8259_fields),
    .check = i8259_check,
};
