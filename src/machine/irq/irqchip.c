/*
 * All interrupt controllers of a machine as one value, and the bus between them.
 *
 *   devices --irq_set--> +--------+ INT   +---------+   LINT0     +-------------+
 *                   |    | 8259 x2| ----> | pin 0   | ----------> | local APICs | --> ATTN_INTR, ATTN_NMI
 *                   |    +--------+   \-- | I/O APIC| == bus ===> |             |
 *                   +-------------------> | pin n   |             +-------------+
 *
 * Every change of an input runs to its end at once: source, message, IRR, attention bit. There is no queue. All of it runs
 * on the machine's thread; a later lock belongs around the functions of irq.h and nowhere else, because calls inside the
 * room do not go back through them.
 *
 * What must stay true
 *  1. ATTN_INTR of a CPU is set if and only if irq_pending is true for it.
 *  2. GSI 0 is pin 2 (MADT override), GSI 2 does not exist (the cascade); the others are the pin of their number.
 */
#include "machine/irq/irq_internal.h"

#include <errno.h>
#include <stdlib.h>

struct irqchip *irqchip_create(const struct irqchip_config *cfg)
{
    if (cfg->n_cpus < 1 || cfg->n_cpus > IRQ_MAX_CPUS)
        return NULL;
    struct irqchip *ic = calloc(1, sizeof(*ic) + cfg->n_cpus * sizeof(ic->lapic[0]));
    if (!ic)
        return NULL;
    ic->n_cpus = cfg->n_cpus;
    ic->clock = cfg->clock;
    ic->init_cpu = cfg->init_cpu;
    ic->start_cpu = cfg->start_cpu;
    ic->ctx = cfg->ctx;
    for (unsigned i = 0; i < ic->n_cpus; i++) {
        struct lapic *l = &ic->lapic[i];
        l->index = i;
        l->cpu = cfg->cpus[i];
        l->chip = ic;
        vtimer_init(ic->clock, &l->timer, lapic_fire, l);
    }
    irqchip_reset(ic);
    return ic;
}

void irqchip_destroy(struct irqchip *ic)
{
    if (!ic)
        return;
    for (unsigned i = 0; i < ic->n_cpus; i++)
        vtimer_remove(ic->clock, &ic->lapic[i].timer);
    free(ic);
}

void irqchip_reset(struct irqchip *ic)
{
    i8259_reset(&ic->pic);
    ioapic_reset(&ic->ioapic);
    for (unsigned i = 0; i < ic->n_cpus; i++)
        lapic_reset(&ic->lapic[i]);
    irq_pic_changed(ic);
}

void irq_pic_changed(struct irqchip *ic)
{
    bool level = i8259_output(&ic->pic);
    for (unsigned i = 0; i < ic->n_cpus; i++)
        lapic_set_lint0(&ic->lapic[i], level);
}

void irq_set(struct irqchip *ic, unsigned gsi, int level)
{
    if (gsi >= IOAPIC_PINS || gsi == 2)
        return;
    if (gsi < 16) {
        i8259_set(&ic->pic, gsi, level);
        irq_pic_changed(ic);
    }
    ioapic_set(ic, gsi == 0 ? 2 : gsi, level);
}

void irq_nmi(struct irqchip *ic)
{
    for (unsigned i = 0; i < ic->n_cpus; i++)
        lapic_lint1_edge(&ic->lapic[i]);
}

void irq_eoi_broadcast(struct irqchip *ic, u8 vector)
{
    ioapic_eoi(ic, vector);
}

/* One message to one local APIC; false if it was not taken. */
static bool deliver_to(struct irqchip *ic, struct lapic *l, const struct irq_message *m)
{
    switch (m->mode) {
    case IRQ_FIXED:
    case IRQ_LOWEST:
        return lapic_accept(l, m->vector, m->level);
    case IRQ_NMI:
        lapic_nmi(l);
        return true;
    case IRQ_INIT:
        lapic_init(l);
        if (ic->init_cpu)
            ic->init_cpu(ic->ctx, l->index);
        return true;
    case IRQ_STARTUP:
        if (ic->start_cpu)
            ic->start_cpu(ic->ctx, l->index, m->vector);
        return true;
    }
    return false;
}

/* Lowest-priority mode: of the addressed, the one that does the least urgent work (11.6.2.4). */
static struct lapic *least_busy(struct irqchip *ic, const struct irq_message *m)
{
    struct lapic *best = NULL;
    for (unsigned i = 0; i < ic->n_cpus; i++) {
        struct lapic *l = &ic->lapic[i];
        if (!lapic_matches(l, m) || !(l->svr & BIT(8)))
            continue;
        if (!best || lapic_ppr(l) < lapic_ppr(best))
            best = l;
    }
    return best;
}

bool irq_deliver(struct irqchip *ic, const struct irq_message *m)
{
    if (m->mode == IRQ_LOWEST) {
        struct lapic *l = least_busy(ic, m);
        return l && deliver_to(ic, l, m);
    }
    bool taken = false;
    for (unsigned i = 0; i < ic->n_cpus; i++)
        if (lapic_matches(&ic->lapic[i], m))
            taken |= deliver_to(ic, &ic->lapic[i], m);
    return taken;
}

/*
 * MSI address: 0FEEh, destination in 19-12, redirection hint in 3, logical in 2.
 * MSI data: vector in 7-0, mode in 10-8, assert in 14, level in 15.
 */
void irq_msi(struct irqchip *ic, u64 address, u32 data)
{
    if (address >> 20 != 0xfee)
        return;
    struct irq_message m = {
        .dest = address >> 12 & 0xff,
        .logical = address & BIT(2),
        .mode = data >> 8 & 7,
        .vector = (u8)data,
        .level = data & BIT(15),
    };
    if (m.level && !(data & BIT(14)))
        return; /* de-assert */
    if (address & BIT(3) && m.mode == IRQ_FIXED)
        m.mode = IRQ_LOWEST;
    if (m.mode != IRQ_STARTUP)
        irq_deliver(ic, &m);
}

bool irq_pending(struct irqchip *ic, unsigned id)
{
    return lapic_pending(&ic->lapic[id]);
}

int irq_ack(struct irqchip *ic, unsigned id)
{
    return lapic_ack(&ic->lapic[id]);
}

u8 pic_io_read(struct irqchip *ic, u16 port)
{
    u8 v = i8259_read(&ic->pic, port);
    irq_pic_changed(ic);
    return v;
}

void pic_io_write(struct irqchip *ic, u16 port, u8 value)
{
    i8259_write(&ic->pic, port, value);
    irq_pic_changed(ic);
}

int irqchip_save(const struct irqchip *ic, struct rec_buf *out)
{
    int r = rec_save(out, &i8259_record, 0, &ic->pic);
    if (!r)
        r = rec_save(out, &ioapic_record, 0, &ic->ioapic);
    for (unsigned i = 0; i < ic->n_cpus && !r; i++)
        r = rec_save(out, &lapic_record, (u16)i, &ic->lapic[i]);
    return r;
}

int irqchip_load(struct irqchip *ic, const struct rec_view *v, bool check_only, struct error *e)
{
    const struct rec_desc *d;
    void *object;
    unsigned instances = 1;
    if (v->type == lapic_record.type) {
        d = &lapic_record;
        instances = ic->n_cpus;
        object = v->instance < instances ? &ic->lapic[v->instance] : NULL;
    } else if (v->type == ioapic_record.type) {
        d = &ioapic_record;
        object = &ic->ioapic;
    } else if (v->type == i8259_record.type) {
        d = &i8259_record;
        object = &ic->pic;
    } else {
        return 0;
    }
    if (v->instance >= instances)
        return error_set(e, EINVAL, "record %s: instance %u, but this machine has %u", d->name, v->instance, instances);
    int r = check_only ? rec_check(v, d, object, e) : rec_load(v, d, object, e);
    return r < 0 ? r : 1;
}

void irqchip_loaded(struct irqchip *ic)
{
    for (unsigned i = 0; i < ic->n_cpus; i++)
        lapic_loaded(&ic->lapic[i]);
}
