/*
 * The I/O APIC: 24 inputs, each with a redirection entry that says what message it sends. Source: Intel 82093AA datasheet
 * (290566); version 20h and the EOI register are from the ICH datasheets.
 *
 *    63      56 55      17  16  15   14   13   12   11   10   8 7        0
 *   | dest id  | reserved |mask|lvl|rIRR| pol |pend|log.|  mode | vector  |
 *
 * A level-triggered input sends one message, sets remote IRR and is silent until a local APIC broadcasts the end of that
 * vector (or the guest writes it to the EOI register); then it sends again if the line is still active. An edge on a masked
 * input is ignored. Lines are logical: `irq_set(.., 1)` means active, so the polarity bit is stored and has no effect.
 * Pin 0 is wired to the INT output of the 8259 pair, as on PCs: an ExtINT entry there routes their interrupts.
 *
 * What must stay true
 *  1. Remote IRR is set only in level-triggered entries of fixed or lowest-priority mode.
 *  2. Delivery is immediate; the delivery status bit always reads 0.
 */
#include "machine/irq/irq_internal.h"

#include <errno.h>

#define E_VECTOR    0xffu
#define E_MODE(e)   ((unsigned)((e) >> 8 & 7))
#define E_LOGICAL   BIT(11)
#define E_RIRR      BIT(14)
#define E_LEVEL     BIT(15)
#define E_MASK      BIT(16)
#define E_WRITABLE  0xff0000000001afffull
#define E_READONLY  E_RIRR

#define REG_ID      0
#define REG_VERSION 1
#define REG_ARB     2
#define REG_ENTRY   0x10

#define VERSION     (0x20u | (IOAPIC_PINS - 1) << 16)

void ioapic_reset(struct ioapic *io)
{
    io->select = 0;
    io->id = 0;
    for (unsigned i = 0; i < IOAPIC_PINS; i++)
        io->entry[i] = E_MASK;
}

static struct irq_message message_of(u64 e)
{
    return (struct irq_message){
        .dest = (u32)(e >> 56),
        .logical = e & E_LOGICAL,
        .mode = (u8)E_MODE(e),
        .vector = (u8)(e & E_VECTOR),
        .level = e & E_LEVEL,
    };
}

static bool waits_for_eoi(u64 e)
{
    return e & E_LEVEL && (E_MODE(e) == IRQ_FIXED || E_MODE(e) == IRQ_LOWEST);
}

/* Send the message of `pin` unless it is masked, ExtINT (a wire, not a message) or waits for its EOI. */
static void send(struct irqchip *ic, unsigned pin)
{
    u64 *e = &ic->ioapic.entry[pin];
    if (*e & (E_MASK | E_RIRR) || E_MODE(*e) == IRQ_EXTINT)
        return;
    struct irq_message m = message_of(*e);
    if (irq_deliver(ic, &m) && waits_for_eoi(*e))
        *e |= E_RIRR;
}

static void send_if_active(struct irqchip *ic, unsigned pin)
{
    if (ic->ioapic.lines >> pin & 1 && waits_for_eoi(ic->ioapic.entry[pin]))
        send(ic, pin);
}

void ioapic_set(struct irqchip *ic, unsigned pin, bool level)
{
    struct ioapic *io = &ic->ioapic;
    u32 bit = 1u << pin;
    bool rose = level && !(io->lines & bit);
    io->lines = level ? io->lines | bit : io->lines & ~bit;
    if (rose)
        send(ic, pin);
}

void ioapic_eoi(struct irqchip *ic, u8 vector)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++) {
        u64 *e = &ic->ioapic.entry[pin];
        if (!(*e & E_RIRR) || (*e & E_VECTOR) != vector)
            continue;
        *e &= ~E_RIRR;
        send_if_active(ic, pin);
    }
}

void ioapic_retry(struct irqchip *ic)
{
    for (unsigned pin = 0; pin < IOAPIC_PINS; pin++)
        send_if_active(ic, pin);
}

bool ioapic_extint(const struct irqchip *ic, const struct lapic *l)
{
    u64 e = ic->ioapic.entry[0];
    if (e & E_MASK || E_MODE(e) != IRQ_EXTINT)
        return false;
    struct irq_message m = message_of(e);
    return lapic_matches(l, &m);
}

static void write_entry(struct irqchip *ic, unsigned index, u32 value)
{
    unsigned pin = index >> 1;
    u64 *e = &ic->ioapic.entry[pin], old = *e, v = value;
    u64 now = index & 1 ? (old & 0xffffffff) | v << 32 : (old & 0xffffffff00000000ull) | v;
    *e = (now & E_WRITABLE) | (old & E_READONLY);
    if (!waits_for_eoi(*e))
        *e &= ~E_RIRR;
    send_if_active(ic, pin);
    if (pin == 0)
        irq_pic_changed(ic);
}

static u32 read_register(const struct ioapic *io)
{
    unsigned entry = io->select - REG_ENTRY;
    if (io->select == REG_ID || io->select == REG_ARB)
        return io->id;
    if (io->select == REG_VERSION)
        return VERSION;
    if (io->select < REG_ENTRY || entry >= 2 * IOAPIC_PINS)
        return 0;
    return (u32)(io->entry[entry >> 1] >> (entry & 1 ? 32 : 0));
}

static void write_register(struct irqchip *ic, u32 value)
{
    struct ioapic *io = &ic->ioapic;
    unsigned entry = io->select - REG_ENTRY;
    if (io->select == REG_ID)
        io->id = value & 0x0f000000;
    else if (io->select >= REG_ENTRY && entry < 2 * IOAPIC_PINS)
        write_entry(ic, entry, value);
}

u32 ioapic_mmio_read(struct irqchip *ic, u32 offset)
{
    if (offset == 0x00)
        return ic->ioapic.select;
    if (offset == 0x10)
        return read_register(&ic->ioapic);
    return 0;
}

void ioapic_mmio_write(struct irqchip *ic, u32 offset, u32 value)
{
    if (offset == 0x00)
        ic->ioapic.select = (u8)value;
    else if (offset == 0x10)
        write_register(ic, value);
    else if (offset == 0x40)
        ioapic_eoi(ic, (u8)value);
}

static int ioapic_check(const void *candidate, struct error *e)
{
    const struct ioapic *io = candidate;
    if (io->id & ~0x0f000000u)
        return error_set(e, EINVAL, "id register %08x has reserved bits set", io->id);
    if (io->lines >> IOAPIC_PINS)
        return error_set(e, EINVAL, "input levels %08x name pins beyond %d", io->lines, IOAPIC_PINS - 1);
    for (unsigned i = 0; i < IOAPIC_PINS; i++) {
        u64 v = io->entry[i];
        if (v & ~(E_WRITABLE | E_READONLY) || (v & E_RIRR && !waits_for_eoi(v)))
            return error_set(e, EINVAL, "redirection entry %u can not be %016llx", i, (unsigned long long)v);
    }
    return 0;
}

static const struct rec_field ioapic_fields[] = {
    REC_FIELD(struct ioapic, select),
    REC_FIELD(struct ioapic, id),
    REC_FIELD(struct ioapic, entry),
    REC_FIELD(struct ioapic, lines),
};

const struct rec_desc ioapic_record = {
    .name = "ioapic",
    .type = REC_TYPE('I', 'O', 'A', 'P'),
    .version = 1,
    .object_size = sizeof(struct ioapic),
    .fields = ioapic_fields,
    .n_fields = ARRAY_LEN(ioapic_fields),
    .check = ioapic_check,
};
