/*
 * The 16550A UART. Source: National Semiconductor PC16550D datasheet.
 *
 *      DLAB=0 read   DLAB=0 write    DLAB=1
 *   0  RBR           THR             DLL        4  MCR  | 0 0 0 LOOP OUT2 OUT1 RTS DTR |
 *   1  IER           IER             DLM        5  LSR  | FERR TEMT THRE BI FE PE OE DR |
 *   2  IIR           FCR                        6  MSR  | DCD RI DSR CTS dDCD TERI dDSR dCTS |
 *   3  LCR                                      7  SCR
 *
 * Transmission takes no time: a byte written to THR is offered to the console at once. What the console does not take
 * stays in `tx`, with THRE and TEMT low, until uart16550_flush: back pressure, no byte of a guest that waits for THRE is
 * lost. Bytes in `tx` count as being on the wire, so resetting the transmit FIFO does not recall them.
 *
 * Reception: input is taken while the receiver has room (16 bytes, 1 with FIFOs off), so overruns happen in loopback only.
 * Who offers
 * input does so between slices of the guest. That is soon enough for a guest that takes interrupts; for one that polls LSR it
 * would be a FIFO, or a byte, a slice: such a guest that finds nothing makes the UART ask env->console_in at once. With the
 * receiver's interrupt on it does not ask: an interrupt handler would find new bytes as long as there are any, and never
 * return. The character timeout (bytes below the trigger level that nobody fetched for four character times) is a timer.
 *
 * Interrupts, in the order of priority: line status, received data / character timeout, transmitter empty, modem
 * status. The line goes through OUT2 as on a PC, so it is off in loopback. It drops for a moment when the transmitter
 * interrupt is taken back and raised again, because the controllers see edges.
 *
 * What must stay true
 *  1. rx_len <= 16, tx_len <= 16; the indices are taken modulo the size.
 *
 * Not done: DMA modes (RXRDY/TXRDY pins lead nowhere on a PC), the baud rate's effect on transmission, parity and framing
 * errors (nothing makes them).
 */
#include "device/legacy/legacy.h"
#include "machine/platform.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FIFO_SIZE    16u

#define IER_RDA      0x01
#define IER_THRE     0x02
#define IER_RLS      0x04
#define IER_MS       0x08

#define IIR_NONE     0x01
#define IIR_RLS      0x06
#define IIR_RDA      0x04
#define IIR_CTI      0x0c
#define IIR_THRE     0x02
#define IIR_MS       0x00
#define IIR_FIFO     0xc0

#define FCR_ENABLE   0x01
#define FCR_RESET_RX 0x02
#define FCR_KEPT     0xc9

#define LCR_BREAK    0x40
#define LCR_DLAB     0x80

#define MCR_DTR      0x01
#define MCR_RTS      0x02
#define MCR_OUT1     0x04
#define MCR_OUT2     0x08
#define MCR_LOOP     0x10

#define LSR_DR       0x01
#define LSR_OE       0x02
#define LSR_ERRORS   0x1e
#define LSR_BI       0x10
#define LSR_THRE     0x20
#define LSR_TEMT     0x40
#define LSR_FERR     0x80

#define MSR_CTS      0x10
#define MSR_DSR      0x20
#define MSR_RI       0x40
#define MSR_DCD      0x80
#define MSR_TERI     0x04
#define MSR_STATE    0xf0

#define BASE_BAUD    115200u /* 1.8432 MHz / 16 */

struct uart16550 {
    u8 ier, fcr, lcr, mcr, msr, scr, dll, dlm;
    u8 errors; /* OE and BI as LSR shows them; reading LSR clears */
    u8 thre_pending;
    u8 timed_out;
    u8 rx_head, rx_len, tx_head, tx_len;
    u8 rx[FIFO_SIZE], rx_errors[FIFO_SIZE], tx[FIFO_SIZE];
    struct irq_line irq;
    struct vtimer timer;
    const struct device_env *env;
};

/* --- interrupts --- */

static unsigned trigger_level(const struct uart16550 *u)
{
    static const u8 level[4] = {1, 4, 8, 14};
    return u->fcr & FCR_ENABLE ? level[u->fcr >> 6] : 1;
}

static u8 line_status(const struct uart16550 *u)
{
    u8 v = u->errors;
    if (u->rx_len)
        v |= LSR_DR;
    if (!u->tx_len)
        v |= LSR_THRE | LSR_TEMT;
    for (unsigned i = 0; u->fcr & FCR_ENABLE && i < u->rx_len; i++)
        if (u->rx_errors[(u->rx_head + i) % FIFO_SIZE])
            v |= LSR_FERR;
    return v;
}

/* The interrupt of highest priority, as IIR shows it. */
static u8 pending(const struct uart16550 *u)
{
    if (u->ier & IER_RLS && u->errors)
        return IIR_RLS;
    if (u->ier & IER_RDA && u->rx_len >= trigger_level(u))
        return IIR_RDA;
    if (u->ier & IER_RDA && u->timed_out)
        return IIR_CTI;
    if (u->ier & IER_THRE && u->thre_pending)
        return IIR_THRE;
    if (u->ier & IER_MS && u->msr & 0x0f)
        return IIR_MS;
    return IIR_NONE;
}

static void update(struct uart16550 *u)
{
    bool out = (u->mcr & (MCR_OUT2 | MCR_LOOP)) == MCR_OUT2;
    irq_line_set(&u->irq, out && pending(u) != IIR_NONE);
}

/* --- receiver --- */

/* Nanoseconds of four characters: start bit, 5-8 data bits, parity, stop bits at the programmed rate. */
static u64 timeout_ns(const struct uart16550 *u)
{
    u64 divisor = u->dll | u->dlm << 8;
    u64 bits = 1 + 5 + (u->lcr & 3) + (u->lcr >> 3 & 1) + 1 + (u->lcr >> 2 & 1);
    return 4 * bits * (divisor ? divisor : 65536) * 1000000000u / BASE_BAUD;
}

/* A byte came or was fetched: the time to the character timeout starts again. */
static void restart_timeout(struct uart16550 *u)
{
    u->timed_out = 0;
    if (u->fcr & FCR_ENABLE && u->rx_len)
        vtimer_set(u->env->clock, &u->timer, vclock_ns(u->env->clock) + timeout_ns(u));
    else
        vtimer_stop(u->env->clock, &u->timer);
}

static void fire(void *ctx)
{
    struct uart16550 *u = ctx;
    u->timed_out = u->rx_len && u->fcr & FCR_ENABLE;
    update(u);
}

static unsigned rx_room(const struct uart16550 *u)
{
    return (u->fcr & FCR_ENABLE ? FIFO_SIZE : 1) - u->rx_len;
}

/* Errors show in LSR when their byte gets to the top of the FIFO. */
static void show_errors(struct uart16550 *u)
{
    if (!u->rx_len)
        return;
    u->errors |= u->rx_errors[u->rx_head];
    u->rx_errors[u->rx_head] = 0;
}

static void receive(struct uart16550 *u, u8 byte, u8 errors)
{
    if (!rx_room(u)) {
        u->errors |= LSR_OE;
        if (u->fcr & FCR_ENABLE)
            return; /* the FIFO stays, the new byte is lost; without FIFO it replaces the old one */
        u->rx_len = 0;
    }
    unsigned i = (u->rx_head + u->rx_len) % FIFO_SIZE;
    u->rx[i] = byte;
    u->rx_errors[i] = errors;
    u->rx_len++;
    if (u->rx_len == 1)
        show_errors(u);
    restart_timeout(u);
}

static u8 fetch(struct uart16550 *u)
{
    u8 v = u->rx[u->rx_head];
    if (!u->rx_len)
        return v;
    u->rx_head = (u->rx_head + 1) % FIFO_SIZE;
    u->rx_len--;
    show_errors(u);
    restart_timeout(u);
    return v;
}

static void clear_rx(struct uart16550 *u)
{
    u->rx_len = 0;
    memset(u->rx_errors, 0, sizeof(u->rx_errors));
    restart_timeout(u);
}

size_t uart16550_input(void *dev, const u8 *data, size_t len)
{
    struct uart16550 *u = dev;
    size_t n = 0;
    if (u->mcr & MCR_LOOP)
        return 0;
    while (n < len && rx_room(u))
        receive(u, data[n++], 0);
    update(u);
    return n;
}

/* A guest that polls finds the receiver empty: ask for more. */
static void poll_input(struct uart16550 *u)
{
    u8 data[FIFO_SIZE];
    if (u->rx_len || u->ier & IER_RDA || u->mcr & MCR_LOOP || !u->env->console_in)
        return;
    size_t room = rx_room(u), n = u->env->console_in(u->env->ctx, data, room);
    n = MIN(n, room);
    for (size_t i = 0; i < n; i++)
        receive(u, data[i], 0);
}

void uart16550_break(void *dev)
{
    struct uart16550 *u = dev;
    if (!(u->mcr & MCR_LOOP))
        receive(u, 0, LSR_BI);
    update(u);
}

/* --- transmitter --- */

/* Take the transmitter interrupt back, with the line: the next one is an edge. */
static void thre_clear(struct uart16550 *u)
{
    u->thre_pending = 0;
    update(u);
}

/* Offer what waits; the transmitter becoming empty is an interrupt. */
static void drain(struct uart16550 *u)
{
    while (u->tx_len) {
        size_t run = MIN(u->tx_len, FIFO_SIZE - u->tx_head);
        size_t n = u->env->console_out(u->env->ctx, u->tx + u->tx_head, run);
        n = MIN(n, run);
        u->tx_head = (u8)((u->tx_head + n) % FIFO_SIZE);
        u->tx_len -= (u8)n;
        if (n < run)
            break;
    }
    if (!u->tx_len)
        u->thre_pending = 1;
}

void uart16550_flush(void *dev)
{
    struct uart16550 *u = dev;
    if (u->tx_len)
        drain(u);
    update(u);
}

static void transmit(struct uart16550 *u, u8 byte)
{
    thre_clear(u);
    if (u->mcr & MCR_LOOP) {
        static const u8 data_mask[4] = {0x1f, 0x3f, 0x7f, 0xff};
        receive(u, byte & data_mask[u->lcr & 3], 0);
        u->thre_pending = !u->tx_len;
    } else {
        if (u->tx_len < FIFO_SIZE) /* else the guest did not wait for THRE: overrun, as on the chip */
            u->tx[(u->tx_head + u->tx_len++) % FIFO_SIZE] = byte;
        drain(u);
    }
    update(u);
}

/* --- modem lines --- */

/* The inputs: in loopback the own outputs, else a terminal that is always there. */
static u8 modem_inputs(const struct uart16550 *u)
{
    if (!(u->mcr & MCR_LOOP))
        return MSR_CTS | MSR_DSR | MSR_DCD;
    return (u8)((u->mcr & MCR_RTS ? MSR_CTS : 0) | (u->mcr & MCR_DTR ? MSR_DSR : 0) | (u->mcr & MCR_OUT1 ? MSR_RI : 0) |
                (u->mcr & MCR_OUT2 ? MSR_DCD : 0));
}

static void modem_update(struct uart16550 *u)
{
    u8 old = u->msr & MSR_STATE, now = modem_inputs(u), changed = old ^ now;
    u8 delta = changed >> 4 & 0x0b; /* RI tells of its falling edge only */
    if (changed & old & MSR_RI)
        delta |= MSR_TERI;
    u->msr = now | (u->msr & 0x0f) | delta;
}

/* --- registers --- */

static void write_ier(struct uart16550 *u, u8 v)
{
    bool enabled = v & IER_THRE && !(u->ier & IER_THRE);
    u->ier = v & 0x0f;
    if (enabled && !u->tx_len)
        u->thre_pending = 1;
    update(u);
}

static void write_fcr(struct uart16550 *u, u8 v)
{
    bool toggled = (v ^ u->fcr) & FCR_ENABLE;
    if (toggled || v & FCR_RESET_RX)
        clear_rx(u);
    u->fcr = v & FCR_ENABLE ? v & FCR_KEPT : 0;
    restart_timeout(u);
    update(u);
}

static void write_lcr(struct uart16550 *u, u8 v)
{
    bool broke = v & LCR_BREAK && !(u->lcr & LCR_BREAK);
    u->lcr = v;
    if (broke && u->mcr & MCR_LOOP)
        receive(u, 0, LSR_BI);
    update(u);
}

static void write_mcr(struct uart16550 *u, u8 v)
{
    u->mcr = v & 0x1f;
    modem_update(u);
    update(u);
}

static u8 read_iir(struct uart16550 *u)
{
    u8 v = pending(u);
    if (v == IIR_THRE)
        thre_clear(u); /* reading it as the source takes it back */
    return v | (u->fcr & FCR_ENABLE ? IIR_FIFO : 0);
}

static u8 read_lsr(struct uart16550 *u)
{
    poll_input(u);
    u8 v = line_status(u);
    u->errors = 0;
    update(u);
    return v;
}

static u8 read_msr(struct uart16550 *u)
{
    u8 v = u->msr;
    u->msr &= MSR_STATE;
    update(u);
    return v;
}

static u8 read_rbr(struct uart16550 *u)
{
    u8 v = fetch(u);
    update(u);
    return v;
}

static u64 uart_read(void *dev, u64 offset, unsigned size)
{
    struct uart16550 *u = dev;
    bool dlab = u->lcr & LCR_DLAB;
    switch (offset) {
    case 0:
        return dlab ? u->dll : read_rbr(u);
    case 1:
        return dlab ? u->dlm : u->ier;
    case 2:
        return read_iir(u);
    case 3:
        return u->lcr;
    case 4:
        return u->mcr;
    case 5:
        return read_lsr(u);
    case 6:
        return read_msr(u);
    }
    return u->scr;
}

static void uart_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct uart16550 *u = dev;
    u8 v = (u8)value;
    bool dlab = u->lcr & LCR_DLAB;
    if (dlab && offset < 2)
        *(offset ? &u->dlm : &u->dll) = v;
    else if (offset == 0)
        transmit(u, v);
    else if (offset == 1)
        write_ier(u, v);
    else if (offset == 2)
        write_fcr(u, v);
    else if (offset == 3)
        write_lcr(u, v);
    else if (offset == 4)
        write_mcr(u, v);
    else if (offset == 7)
        u->scr = v;
}

static const struct bus_ops uart_ops = {uart_read, uart_write, 1};

/* Master reset (datasheet, table I). Bytes on the wire are sent all the same. */
static void uart16550_reset(void *dev)
{
    struct uart16550 *u = dev;
    u->ier = u->fcr = u->lcr = u->mcr = u->scr = u->errors = u->thre_pending = 0;
    u->dll = 1; /* undefined on the chip; 115200 keeps the timeouts sane */
    u->dlm = 0;
    u->msr = modem_inputs(u);
    clear_rx(u);
    update(u);
}

static void uart16550_destroy(void *dev)
{
    struct uart16550 *u = dev;
    vtimer_remove(u->env->clock, &u->timer);
    free(u);
}

static int uart16550_create(void **dev, const struct device_env *env, struct error *e)
{
    struct uart16550 *u = calloc(1, sizeof(*u));
    if (!u)
        return error_set(e, ENOMEM, "uart16550: out of memory");
    u->env = env;
    u->irq = device_irq(env, GSI_COM1);
    vtimer_init(env->clock, &u->timer, fire, u);
    uart16550_reset(u);
    int r = bus_add_pio(env->bus, PORT_COM1, 8, &uart_ops, u, "uart16550", e);
    if (r < 0)
        uart16550_destroy(u);
    else
        *dev = u;
    return r;
}

static int uart16550_check(const void *candidate, struct error *e)
{
    const struct uart16550 *u = candidate;
    unsigned room = u->fcr & FCR_ENABLE ? FIFO_SIZE : 1;
    if (u->rx_head >= FIFO_SIZE || u->tx_head >= FIFO_SIZE || u->rx_len > room || u->tx_len > FIFO_SIZE)
        return error_set(e, EINVAL, "a FIFO holds more than it can");
    if (u->ier & 0xf0 || u->mcr & 0xe0 || u->fcr & (u8)~FCR_KEPT || (u->fcr && !(u->fcr & FCR_ENABLE)) ||
        u->errors & (u8)~LSR_ERRORS || u->thre_pending > 1 || u->timed_out > 1)
        return error_set(e, EINVAL, "a register has a value that it can not have");
    if (u->timed_out && !(u->rx_len && u->fcr & FCR_ENABLE))
        return error_set(e, EINVAL, "a character timeout without a character");
    for (unsigned i = 0; i < FIFO_SIZE; i++)
        if (u->rx_errors[i] & (u8)~LSR_ERRORS)
            return error_set(e, EINVAL, "byte %u of the receive FIFO has an unknown error", i);
    return 0;
}

static void uart16550_loaded(void *object)
{
    struct uart16550 *u = object;
    u8 timed_out = u->timed_out;
    restart_timeout(u);
    u->timed_out = timed_out;
    if (timed_out)
        vtimer_stop(u->env->clock, &u->timer);
    update(u);
}

static const struct rec_field uart16550_fields[] = {
    REC_FIELD(struct uart16550, ier),       REC_FIELD(struct uart16550, fcr),
    REC_FIELD(struct uart16550, lcr),       REC_FIELD(struct uart16550, mcr),
    REC_FIELD(struct uart16550, msr),       REC_FIELD(struct uart16550, scr),
    REC_FIELD(struct uart16550, dll),       REC_FIELD(struct uart16550, dlm),
    REC_FIELD(struct uart16550, errors),    REC_FIELD(struct uart16550, thre_pending),
    REC_FIELD(struct uart16550, timed_out), REC_FIELD(struct uart16550, rx_head),
    REC_FIELD(struct uart16550, rx_len),    REC_FIELD(struct uart16550, tx_head),
    REC_FIELD(struct uart16550, tx_len),    REC_FIELD(struct uart16550, rx),
    REC_FIELD(struct uart16550, rx_errors), REC_FIELD(struct uart16550, tx),
};

static const struct rec_desc uart16550_record = {
    .name = "uart16550",
    .type = REC_TYPE('U', 'A', 'R', 'T'),
    .version = 1,
    .object_size = sizeof(struct uart16550),
    .fields = uart16550_fields,
    .n_fields = ARRAY_LEN(uart16550_fields),
    .check = uart16550_check,
    .loaded = uart16550_loaded,
};

const struct device_type uart16550_device = {
    .name = "uart16550",
    .record = &uart16550_record,
    .create = uart16550_create,
    .destroy = uart16550_destroy,
    .reset = uart16550_reset,
};
