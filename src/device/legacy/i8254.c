/*
 * The 8254 programmable interval timer and port 61h. Source: Intel 8254 datasheet (231164); port 61h: IBM PC/AT technical
 * reference.
 *
 * Nothing ticks. Time is an absolute number of input clocks (1.193182 MHz) derived from the machine's clock; a counter
 * remembers the clock `t0` at which its count was loaded, and count and output follow from the clocks elapsed since:
 *
 *   mode 0  OUT low until the count is over, then high            gate is a level: counting stops while low
 *   mode 1  low from trigger until the count is over              gate rising triggers
 *   mode 2  low for the last clock of each period                 gate low stops and forces high, rising reloads
 *   mode 3  high for the first half of each period, counts by 2   as mode 2
 *   mode 4  low for the one clock at which the count is over      gate is a level
 *   mode 5  the same, started by the gate                         gate rising triggers
 *
 * A count written while mode 2 or 3 runs becomes valid at the end of the period (mode 3: half period): it waits in `next`,
 * and settle() takes it over when somebody looks after that clock. In modes 1 and 5 it waits for the trigger.
 *
 * Interrupts: counter 0's rising edges drive GSI 0 through one timer. The line is lowered just before it is raised, because
 * the low phase of modes 2 and 3 need not wake the machine twice; ticks served late are coalesced into one edge.
 *
 * What must stay true
 *  1. 1 <= n <= 65536 (10000 in BCD): nothing divides by 0.
 *  2. settle() ran before count or output is computed.
 *
 * Not done: the speaker.
 */
#include "device/legacy/legacy.h"
#include "machine/platform.h"

#include <errno.h>
#include <stdlib.h>

#define NOT_STARTED    -1
#define MIN_SERVICE_NS 10000u
#define TICK_LIMIT     ((s64)1 << 53) /* 240 years: keeps sums of hostile records small */

#define P61_GATE       0x01
#define P61_SPEAKER    0x02
#define P61_WRITABLE   0x0f
#define P61_REFRESH    0x10
#define P61_OUT        0x20
#define REFRESH_NS     15085u

struct pit_counter {
    s64 t0;   /* clock at which the count was loaded, while counting */
    s64 held; /* clocks counted when the gate stopped it, or NOT_STARTED */
    u32 n, next;
    u8 mode, bcd, rw; /* rw: 1 low byte, 2 high byte, 3 both */
    u8 gate, counting;
    u8 null; /* no count written since the control word */
    u8 write_high, write_low, read_high;
    u8 latched; /* bytes of `latch` still to read */
    u8 status_latched, status;
    u16 latch;
    u16 reserved; /* 0: no padding in the record */
};

struct i8254 {
    struct pit_counter counter[3];
    u8 port61;
    s64 edge; /* clock of counter 0's next rising edge, TICK_LIMIT if none */
    struct irq_line irq;
    struct vtimer timer;
    const struct device_env *env;
};

static s64 now_tick(const struct i8254 *p)
{
    return (s64)((unsigned __int128)vclock_ns(p->env->clock) * PIT_HZ / 1000000000u);
}

/* The first guest ns at which `tick` has been reached. */
static u64 tick_ns(s64 tick)
{
    if (tick > TICK_LIMIT)
        return UINT64_MAX;
    return tick <= 0 ? 0 : (u64)(((unsigned __int128)tick * 1000000000u + PIT_HZ - 1) / PIT_HZ);
}

/* --- what a counter shows --- */

static bool periodic(const struct pit_counter *c)
{
    return c->mode == 2 || c->mode == 3;
}

static u32 high_half(u32 n)
{
    return (n + 1) / 2;
}

/* Clocks since the count was loaded; negative before. */
static s64 elapsed(const struct pit_counter *c, s64 now)
{
    return c->counting ? now - c->t0 : c->held;
}

/* The clock at which a waiting count is taken over. */
static s64 switch_tick(const struct pit_counter *c, s64 d)
{
    s64 period = d - d % c->n, half = high_half(c->n);
    if (c->mode == 3 && d % c->n < half)
        return c->t0 + period + half;
    return c->t0 + period + c->n;
}

/*
 * Take over a waiting count whose time has come. The switch was planned when the count was written (`next`); t0 is moved
 * so that the phase of the output is right: after the first half of mode 3 the second half is counted with the new value.
 */
static void take_next(struct pit_counter *c, s64 at, bool after_high)
{
    c->t0 = after_high ? at - high_half(c->next) : at;
    c->n = c->next;
    c->next = 0;
}

/* `at` is where `switch_tick` said when the count was written: it is kept in `held`, unused while counting. */
static void settle(struct pit_counter *c, s64 now)
{
    if (!c->counting || !c->next || !periodic(c) || now < c->held)
        return;
    s64 d = c->held - c->t0;
    take_next(c, c->held, c->mode == 3 && d % c->n == high_half(c->n));
}

static bool output(const struct pit_counter *c, s64 now)
{
    s64 d = elapsed(c, now);
    bool idle = d < 0 || c->null;
    switch (c->mode) {
    case 0:
        return !idle && d >= c->n;
    case 1:
        return idle || d >= c->n;
    case 2:
        return idle || !c->counting || d % c->n != c->n - 1;
    case 3:
        return idle || !c->counting || d % c->n < high_half(c->n);
    }
    return idle || d != c->n;
}

static u16 to_bcd(u32 v)
{
    return (u16)(v % 10 | v / 10 % 10 << 4 | v / 100 % 10 << 8 | v / 1000 % 10 << 12);
}

static u16 count(const struct pit_counter *c, s64 now)
{
    s64 d = elapsed(c, now), modulus = c->bcd ? 10000 : 65536;
    s64 v = c->n;
    if (d < 0)
        ;
    else if (c->mode == 2)
        v = c->n - d % c->n;
    else if (c->mode == 3)
        v = (c->n & ~1u) - 2 * (d % c->n % high_half(c->n));
    else
        v = ((c->n - d) % modulus + modulus) % modulus;
    v %= modulus;
    return c->bcd ? to_bcd((u32)v) : (u16)v;
}

static u8 status(const struct pit_counter *c, s64 now)
{
    bool null = c->null || c->next || (c->counting && now < c->t0);
    return (u8)(output(c, now) << 7 | null << 6 | c->rw << 4 | c->mode << 1 | c->bcd);
}

/* --- the interrupt of counter 0 --- */

/* Clock of the first rising edge after `now`, TICK_LIMIT if there is none. */
static s64 next_edge(const struct pit_counter *c, s64 now)
{
    if (!c->counting || c->null)
        return TICK_LIMIT;
    s64 first = c->t0 + c->n + (c->mode == 4);
    if (!periodic(c))
        return (c->mode == 0 || c->mode == 4) && first > now ? first : TICK_LIMIT;
    if (now < first)
        return first;
    return c->t0 + ((now - c->t0) / c->n + 1) * c->n;
}

static void arm(struct i8254 *p, s64 now)
{
    struct pit_counter *c = &p->counter[0];
    struct vclock *k = p->env->clock;
    p->edge = next_edge(c, now);
    s64 wake = p->edge;
    if (c->counting && c->next && periodic(c) && c->held < wake)
        wake = c->held;
    if (wake >= TICK_LIMIT) {
        vtimer_stop(k, &p->timer);
        return;
    }
    /* A period of a clock or two must not keep the host busy: ticks are coalesced. */
    u64 soonest = periodic(c) ? vclock_ns(k) + MIN_SERVICE_NS : 0;
    vtimer_set(k, &p->timer, MAX(tick_ns(wake), soonest));
}

static void fire(void *ctx)
{
    struct i8254 *p = ctx;
    s64 now = now_tick(p);
    bool rose = now >= p->edge;
    settle(&p->counter[0], now);
    arm(p, now);
    if (rose) {
        irq_line_set(&p->irq, 0);
        irq_line_set(&p->irq, 1);
    }
}

/* Serve an edge that is due before a register write changes what comes next. */
static void catch_up(struct i8254 *p, unsigned i, s64 now)
{
    if (i == 0 && now >= p->edge)
        fire(p);
    settle(&p->counter[i], now);
}

/* A register of counter 0 changed: the line follows the output, the timer the next edge. */
static void counter_changed(struct i8254 *p, unsigned i, s64 now)
{
    if (i != 0)
        return;
    struct pit_counter *c = &p->counter[0];
    bool low_phase = c->counting && periodic(c); /* the line stays up during it, see above */
    irq_line_set(&p->irq, low_phase || output(c, now));
    arm(p, now);
}

/* --- gate --- */

static void start(struct pit_counter *c, s64 now)
{
    if (c->next) {
        c->n = c->next;
        c->next = 0;
    }
    c->t0 = now + 1;
    c->counting = 1;
    c->held = NOT_STARTED;
}

static void gate_rises(struct pit_counter *c, s64 now)
{
    if (c->null)
        return;
    if (c->mode == 0 || c->mode == 4) {
        if (c->counting)
            return;
        c->t0 = c->held < 0 ? now + 1 : now - c->held;
        c->counting = 1;
        c->held = NOT_STARTED;
    } else {
        start(c, now);
    }
}

static void gate_falls(struct pit_counter *c, s64 now)
{
    if (c->mode == 1 || c->mode == 5 || !c->counting)
        return;
    s64 d = elapsed(c, now);
    c->held = d < 0 ? NOT_STARTED : d;
    c->counting = 0;
}

static void set_gate(struct i8254 *p, unsigned i, bool level)
{
    struct pit_counter *c = &p->counter[i];
    s64 now = now_tick(p);
    if (c->gate == level)
        return;
    settle(c, now);
    c->gate = level;
    if (level)
        gate_rises(c, now);
    else
        gate_falls(c, now);
    counter_changed(p, i, now);
}

/* --- registers --- */

/* A whole count arrived. */
static void load(struct pit_counter *c, u16 raw, s64 now)
{
    u32 v = raw;
    if (c->bcd)
        v = (raw & 15) + (raw >> 4 & 15) * 10 + (raw >> 8 & 15) * 100 + (raw >> 12) * 1000;
    u32 modulus = c->bcd ? 10000 : 65536;
    v = v % modulus ? v % modulus : modulus;
    bool first = c->null;
    c->null = 0;
    if (periodic(c) && !first && c->counting && now >= c->t0) {
        c->next = v;
        c->held = switch_tick(c, now - c->t0);
        return;
    }
    c->next = 0;
    bool triggered_by_gate = c->mode == 1 || c->mode == 5;
    if (triggered_by_gate && !first) {
        c->next = v;
        return;
    }
    c->n = v;
    c->counting = 0;
    c->held = NOT_STARTED;
    if (c->gate && !triggered_by_gate)
        start(c, now);
}

static void write_counter(struct i8254 *p, unsigned i, u8 v)
{
    struct pit_counter *c = &p->counter[i];
    s64 now = now_tick(p);
    catch_up(p, i, now);
    if (c->rw == 3 && !c->write_high) {
        c->write_low = v;
        c->write_high = 1;
        if (c->mode == 0) { /* the first byte stops the counting, OUT goes low at once */
            c->counting = 0;
            c->held = NOT_STARTED;
            c->null = 1;
        }
    } else {
        c->write_high = 0;
        load(c, c->rw == 1 ? v : c->rw == 2 ? (u16)(v << 8) : (u16)(v << 8 | c->write_low), now);
    }
    counter_changed(p, i, now);
}

static u8 read_counter(struct i8254 *p, unsigned i)
{
    struct pit_counter *c = &p->counter[i];
    s64 now = now_tick(p);
    settle(c, now);
    if (c->status_latched) {
        c->status_latched = 0;
        return c->status;
    }
    u16 v = c->latched ? c->latch : count(c, now);
    bool high = c->rw == 2 || (c->rw == 3 && c->read_high);
    if (c->rw == 3)
        c->read_high ^= 1;
    if (c->latched)
        c->latched--;
    return (u8)(high ? v >> 8 : v);
}

static void latch_count(struct pit_counter *c, s64 now)
{
    if (c->latched)
        return; /* an unread latch stays (datasheet, "counter latch command") */
    c->latch = count(c, now);
    c->latched = c->rw == 3 ? 2 : 1;
    c->read_high = 0;
}

static void latch_status(struct pit_counter *c, s64 now)
{
    if (c->status_latched)
        return;
    c->status = status(c, now);
    c->status_latched = 1;
}

/* 11 !count !status c2 c1 c0 0 */
static void read_back(struct i8254 *p, u8 v)
{
    s64 now = now_tick(p);
    for (unsigned i = 0; i < 3; i++) {
        if (!(v >> (i + 1) & 1))
            continue;
        settle(&p->counter[i], now);
        if (!(v & 0x20))
            latch_count(&p->counter[i], now);
        if (!(v & 0x10))
            latch_status(&p->counter[i], now);
    }
}

static void write_control(struct i8254 *p, u8 v)
{
    unsigned i = v >> 6;
    if (i == 3) {
        read_back(p, v);
        return;
    }
    struct pit_counter *c = &p->counter[i];
    s64 now = now_tick(p);
    catch_up(p, i, now);
    if (!(v & 0x30)) {
        latch_count(c, now);
        return;
    }
    u8 mode = v >> 1 & 7;
    *c = (struct pit_counter){
        .n = c->n,
        .mode = mode > 5 ? mode - 4 : mode,
        .bcd = v & 1,
        .rw = v >> 4 & 3,
        .gate = c->gate,
        .null = 1,
        .held = NOT_STARTED,
    };
    if (c->bcd && c->n > 10000)
        c->n = 10000;
    counter_changed(p, i, now);
}

static u64 pit_read(void *dev, u64 offset, unsigned size)
{
    return offset == 3 ? 0xff : read_counter(dev, (unsigned)offset);
}

static void pit_write(void *dev, u64 offset, unsigned size, u64 value)
{
    if (offset == 3)
        write_control(dev, (u8)value);
    else
        write_counter(dev, (unsigned)offset, (u8)value);
}

/* Port 61h: gate and speaker, refresh toggle (each 15 us), output of counter 2. */
static u64 port61_read(void *dev, u64 offset, unsigned size)
{
    struct i8254 *p = dev;
    s64 now = now_tick(p);
    settle(&p->counter[2], now);
    u8 v = p->port61;
    if (vclock_ns(p->env->clock) / REFRESH_NS & 1)
        v |= P61_REFRESH;
    if (output(&p->counter[2], now))
        v |= P61_OUT;
    return v;
}

static void port61_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct i8254 *p = dev;
    p->port61 = value & P61_WRITABLE;
    set_gate(p, 2, value & P61_GATE);
}

static const struct bus_ops pit_ops = {pit_read, pit_write, 1};
static const struct bus_ops port61_ops = {port61_read, port61_write, 1};

/* The datasheet leaves modes and counts undefined at power-up; here: mode 3, no count, OUT high on all. */
static void i8254_reset(void *dev)
{
    struct i8254 *p = dev;
    for (unsigned i = 0; i < 3; i++)
        p->counter[i] =
            (struct pit_counter){.n = 65536, .mode = 3, .rw = 3, .gate = i != 2, .null = 1, .held = NOT_STARTED};
    p->port61 = 0;
    p->edge = TICK_LIMIT;
    vtimer_stop(p->env->clock, &p->timer);
    irq_line_set(&p->irq, 0);
}

static void i8254_destroy(void *dev)
{
    struct i8254 *p = dev;
    vtimer_remove(p->env->clock, &p->timer);
    free(p);
}

static int i8254_create(void **dev, const struct device_env *env, struct error *e)
{
    struct i8254 *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(e, ENOMEM, "i8254: out of memory");
    p->env = env;
    p->irq = device_irq(env, GSI_PIT);
    vtimer_init(env->clock, &p->timer, fire, p);
    i8254_reset(p);
    int r = bus_add_pio(env->bus, PORT_PIT, 4, &pit_ops, p, "i8254", e);
    if (!r)
        r = bus_add_pio(env->bus, PORT_PIT_GATE, 1, &port61_ops, p, "port-61h", e);
    if (r < 0)
        i8254_destroy(p);
    else
        *dev = p;
    return r;
}

static int check_counter(const struct pit_counter *c, unsigned i, struct error *e)
{
    u32 max = c->bcd == 1 ? 10000 : 65536;
    if (c->mode > 5 || c->bcd > 1 || c->rw < 1 || c->rw > 3 || c->n < 1 || c->n > max || c->next > max)
        return error_set(e, EINVAL, "counter %u: mode, format or count can not be", i);
    if (c->gate > 1 || c->counting > 1 || c->null > 1 || c->write_high > 1 || c->read_high > 1 || c->latched > 2 ||
        c->status_latched > 1 || (i < 2 && !c->gate))
        return error_set(e, EINVAL, "counter %u: a flag has a value that it can not have", i);
    if (c->t0 < -TICK_LIMIT || c->t0 >= TICK_LIMIT || c->held < NOT_STARTED || c->held >= TICK_LIMIT)
        return error_set(e, EINVAL, "counter %u: its start lies beyond all time", i);
    if (periodic(c) && c->counting && c->next && c->held < c->t0)
        return error_set(e, EINVAL, "counter %u: a count takes over before the one it follows", i);
    return 0;
}

static int i8254_check(const void *candidate, struct error *e)
{
    const struct i8254 *p = candidate;
    for (unsigned i = 0; i < 3; i++)
        if (check_counter(&p->counter[i], i, e))
            return -EINVAL;
    if (p->port61 & ~P61_WRITABLE)
        return error_set(e, EINVAL, "port 61h can not be %02x", p->port61);
    return 0;
}

static void i8254_loaded(void *object)
{
    struct i8254 *p = object;
    s64 edge = p->edge;
    arm(p, now_tick(p));
    if (edge < p->edge) { /* due, but not served when the machine was saved */
        p->edge = edge;
        vtimer_set(p->env->clock, &p->timer, tick_ns(edge));
    }
}

static const struct rec_field i8254_fields[] = {
    REC_FIELD(struct i8254, counter),
    REC_FIELD(struct i8254, port61),
    REC_FIELD(struct i8254, edge),
};

static const struct rec_desc i8254_record = {
    .name = "i8254",
    .type = REC_TYPE('P', 'I', 'T', ' '),
    .version = 1,
    .object_size = sizeof(struct i8254),
    .fields = i8254_fields,
    .n_fields = ARRAY_LEN(i8254_fields),
    .check = i8254_check,
    .loaded = i8254_loaded,
};

const struct device_type i8254_device = {
    .name = "i8254",
    .record = &i8254_record,
    .create = i8254_create,
    .destroy = i8254_destroy,
    .reset = i8254_reset,
};
