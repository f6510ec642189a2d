/*
 * ACPI fixed hardware: PM1 event and control blocks, the power-management timer and a general-purpose event block.
 * Source: ACPI 6.4, 4.8.
 *
 *   600h PM1a_STS  | WAK 15 |...| RTC 10 | SLPBTN 9 | PWRBTN 8 |...| GBL 5 | BM 4 |...| TMR 0 |  write 1 to clear
 *   602h PM1a_EN                | RTC 10 | SLPBTN 9 | PWRBTN 8 |...| GBL 5 |...       | TMR 0 |
 *   604h PM1a_CNT  | SLP_EN 13 | SLP_TYP 12-10 |...| GBL_RLS 2 | BM_RLD 1 | SCI_EN 0 |
 *   608h PM_TMR    32 bits at 3.579545 MHz (TMR_VAL_EXT)
 *   620h GPE0_STS, 622h GPE0_EN
 *
 * SCI (GSI 9) is a level: the OR of all status bits that are enabled. The machine is in ACPI mode from the start: SCI_EN
 * reads 1, there is no SMI command port. The timer is derived from the clock; TMR_STS is set each time bit 31 toggles (every
 * 600 s), noticed when somebody looks and, while it is enabled, by a timer.
 *
 * Not done: sleep states other than S5 (a write of SLP_EN with another type is ignored), the RTC wake bit, sources of
 * general-purpose events.
 */
#include "device/legacy/legacy.h"
#include "machine/platform.h"

#include <errno.h>
#include <stdlib.h>

#define STS_TMR     BIT(0)
#define STS_GBL     BIT(5)
#define STS_PWRBTN  BIT(8)
#define STS_ALL     0x8731u
#define EN_ALL      0x0721u
#define CNT_SCI_EN  BIT(0)
#define CNT_KEPT    0x1c02u /* SLP_TYP and BM_RLD */
#define CNT_SLP_EN  BIT(13)
#define CNT_SLP(v)  ((v) >> 10 & 7)
#define HALF_PERIOD 31 /* bit whose toggling sets TMR_STS */

struct acpi_pm {
    u16 status, enable, control;
    u16 gpe_status, gpe_enable;
    u64 toggles; /* half periods of the timer accounted for in TMR_STS */
    struct irq_line sci;
    struct vtimer timer;
    const struct device_env *env;
};

/* Ticks since guest time 0, more than 32 bits of them. */
static u64 ticks(const struct acpi_pm *p)
{
    return (u64)((unsigned __int128)vclock_ns(p->env->clock) * PM_TIMER_HZ / 1000000000u);
}

static void update(struct acpi_pm *p)
{
    u64 now = ticks(p) >> HALF_PERIOD;
    if (now != p->toggles)
        p->status |= STS_TMR;
    p->toggles = now;
    irq_line_set(&p->sci, (p->status & p->enable) || (p->gpe_status & p->gpe_enable));
    if (p->enable & STS_TMR) {
        unsigned __int128 next = (unsigned __int128)(now + 1) << HALF_PERIOD;
        vtimer_set(p->env->clock, &p->timer, (u64)(next * 1000000000u / PM_TIMER_HZ) + 1);
    } else {
        vtimer_stop(p->env->clock, &p->timer);
    }
}

static void fire(void *ctx)
{
    update(ctx);
}

void acpi_pm_power_button(void *dev)
{
    struct acpi_pm *p = dev;
    p->status |= STS_PWRBTN;
    update(p);
}

void acpi_pm_event(void *dev, unsigned n)
{
    struct acpi_pm *p = dev;
    p->gpe_status |= (u16)BIT(n);
    update(p);
}

/* The 16-bit register at an even offset of a status/enable pair, as bytes are accessed. */
static u64 pair_read(const u16 *sts, const u16 *en, u64 offset, unsigned size)
{
    u32 both = *sts | (u32)*en << 16;
    return both >> offset * 8;
}

static void pair_write(u16 *sts, u16 *en, u16 en_mask, u64 offset, unsigned size, u64 value)
{
    u32 mask = (u32)((BIT(size * 8) - 1) << offset * 8), v = (u32)(value << offset * 8) & mask;
    *sts &= (u16)~v;
    *en = (u16)((*en & ~(mask >> 16)) | v >> 16) & en_mask;
}

static u64 event_read(void *dev, u64 offset, unsigned size)
{
    struct acpi_pm *p = dev;
    update(p);
    return pair_read(&p->status, &p->enable, offset, size);
}

static void event_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct acpi_pm *p = dev;
    update(p);
    pair_write(&p->status, &p->enable, EN_ALL, offset, size, value);
    update(p);
}

static u64 gpe_read(void *dev, u64 offset, unsigned size)
{
    const struct acpi_pm *p = dev;
    return pair_read(&p->gpe_status, &p->gpe_enable, offset, size);
}

static void gpe_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct acpi_pm *p = dev;
    pair_write(&p->gpe_status, &p->gpe_enable, 0xffff, offset, size, value);
    update(p);
}

static u64 control_read(void *dev, u64 offset, unsigned size)
{
    const struct acpi_pm *p = dev;
    return (u64)p->control >> offset * 8;
}

static void control_write(void *dev, u64 offset, unsigned size, u64 value)
{
    struct acpi_pm *p = dev;
    u32 mask = (u32)((BIT(size * 8) - 1) << offset * 8);
    u32 v = (p->control & ~mask) | ((u32)(value << offset * 8) & mask);
    p->control = (v & CNT_KEPT) | CNT_SCI_EN;
    if (v & CNT_SLP_EN && CNT_SLP(v) == SLP_TYP_S5)
        p->env->request(p->env->ctx, DEVICE_POWEROFF, 0);
}

static u64 timer_read(void *dev, u64 offset, unsigned size)
{
    const struct acpi_pm *p = dev;
    return (ticks(p) & 0xffffffff) >> offset * 8;
}

static void timer_write(void *dev, u64 offset, unsigned size, u64 value)
{
    /* read-only */
}

static const struct bus_ops event_ops = {event_read, event_write, 4};
static const struct bus_ops control_ops = {control_read, control_write, 2};
static const struct bus_ops timer_ops = {timer_read, timer_write, 4};
static const struct bus_ops gpe_ops = {gpe_read, gpe_write, 4};

static void acpi_pm_reset(void *dev)
{
    struct acpi_pm *p = dev;
    p->status = p->enable = p->gpe_status = p->gpe_enable = 0;
    p->control = CNT_SCI_EN;
    p->toggles = ticks(p) >> HALF_PERIOD;
    update(p);
}

static void acpi_pm_destroy(void *dev)
{
    struct acpi_pm *p = dev;
    vtimer_remove(p->env->clock, &p->timer);
    free(p);
}

static int acpi_pm_create(void **dev, const struct device_env *env, struct error *e)
{
    struct acpi_pm *p = calloc(1, sizeof(*p));
    if (!p)
        return error_set(e, ENOMEM, "ACPI PM block: out of memory");
    p->env = env;
    p->sci = device_irq(env, GSI_SCI);
    vtimer_init(env->clock, &p->timer, fire, p);
    acpi_pm_reset(p);
    int r = bus_add_pio(env->bus, PORT_PM_EVENT, 4, &event_ops, p, "acpi-pm1-event", e);
    if (!r)
        r = bus_add_pio(env->bus, PORT_PM_CONTROL, 2, &control_ops, p, "acpi-pm1-control", e);
    if (!r)
        r = bus_add_pio(env->bus, PORT_PM_TIMER, 4, &timer_ops, p, "acpi-pm-timer", e);
    if (!r)
        r = bus_add_pio(env->bus, PORT_PM_GPE, 4, &gpe_ops, p, "acpi-gpe0", e);
    if (r < 0)
        acpi_pm_destroy(p);
    else
        *dev = p;
    return r;
}

static int acpi_pm_check(const void *candidate, struct error *e)
{
    const struct acpi_pm *p = candidate;
    if (p->status & ~STS_ALL || p->enable & ~EN_ALL || p->control & ~(CNT_KEPT | CNT_SCI_EN) ||
        !(p->control & CNT_SCI_EN))
        return error_set(e, EINVAL, "PM1 status %04x, enable %04x, control %04x can not be", p->status, p->enable,
                         p->control);
    return 0;
}

static void acpi_pm_loaded(void *object)
{
    update(object);
}

static const struct rec_field acpi_pm_fields[] = {
    REC_FIELD(struct acpi_pm, status),     REC_FIELD(struct acpi_pm, enable),     REC_FIELD(struct acpi_pm, control),
    REC_FIELD(struct acpi_pm, gpe_status), REC_FIELD(struct acpi_pm, gpe_enable), REC_FIELD(struct acpi_pm, toggles),
};

static const struct rec_desc acpi_pm_record = {
    .name = "acpi-pm",
    .type = REC_TYPE('A', 'C', 'P', 'M'),
    .version = 1,
    .object_size = sizeof(struct acpi_pm),
    .fields = acpi_pm_fields,
    .n_fields = ARRAY_LEN(acpi_pm_fields),
    .check = acpi_pm_check,
    .loaded = acpi_pm_loaded,
};

const struct device_type acpi_pm_device = {
    .name = "acpi-pm",
    .record = &acpi_pm_record,
    .create = acpi_pm_create,
    .destroy = acpi_pm_destroy,
    .reset = acpi_pm_reset,
};
