/*
 * The registers of the local APIC: the xAPIC page and the x2APIC MSRs over one state, APIC_BASE, and the record. Source:
 * Intel SDM vol. 3A, 11.4 (xAPIC), 11.12 (x2APIC; table 11-6 says what each MSR accepts).
 *
 * Registers that behave alike through both faces are read_common and write_common; each face adds what is its own. The
 * page ignores reserved bits and logs accesses to registers that do not exist, the MSRs raise #GP for both.
 */
#include "machine/irq/lapic_internal.h"

#include <errno.h>
#include <string.h>

/* 14h: P6-style register set; six LVT entries; EOI broadcast suppression (11.4.8) */
#define VERSION (0x14u | (LVT_COUNT - 1) << 16 | 1u << 24)

/* Register numbers: xAPIC offset / 10h, x2APIC MSR - 800h */
enum reg {
    R_ID = 0x02,
    R_VERSION = 0x03,
    R_TPR = 0x08,
    R_APR = 0x09,
    R_PPR = 0x0a,
    R_EOI = 0x0b,
    R_RRD = 0x0c,
    R_LDR = 0x0d,
    R_DFR = 0x0e,
    R_SVR = 0x0f,
    R_ISR = 0x10,
    R_TMR = 0x18,
    R_IRR = 0x20,
    R_ESR = 0x28,
    R_ICR = 0x30,
    R_ICR_HIGH = 0x31,
    R_LVT = 0x32,
    R_INIT_COUNT = 0x38,
    R_COUNT = 0x39,
    R_DIVIDE = 0x3e,
    R_SELF_IPI = 0x3f,
    R_END = 0x40,
};

/* Writable bits of each LVT entry, figure 11-8 */
static const u32 lvt_writable[LVT_COUNT] = {
    [LVT_TIMER] = 0x000700ff, [LVT_THERMAL] = 0x000107ff, [LVT_PERF] = 0x000107ff,
    [LVT_LINT0] = 0x0001a7ff, [LVT_LINT1] = 0x0001a7ff,   [LVT_ERROR] = 0x000100ff,
};
/* Read-only status bits that a write may carry: delivery status, remote IRR */
#define LVT_STATUS 0x5000u

/* --- registers --- */

static u32 ldr_x2apic(u32 id)
{
    return (id >> 4) << 16 | 1u << (id & 15);
}

void lapic_reset(struct lapic *l)
{
    l->apic_base = LAPIC_BASE | BASE_EN | (l->index == 0 ? BASE_BSP : 0);
    l->id = l->index << 24;
    l->lint0 = 0;
    lapic_init(l);
}

/* 11.4.7.1 and 11.4.7.3: everything but the mode and the id; in x2APIC mode LDR follows from the id. */
void lapic_init(struct lapic *l)
{
    l->tpr = l->esr = l->esr_pending = l->icr_low = l->icr_high = 0;
    l->ldr = x2apic(l) ? ldr_x2apic(l->index) : 0;
    l->dfr = UINT32_MAX;
    l->svr = 0xff;
    for (unsigned i = 0; i < LVT_COUNT; i++)
        l->lvt[i] = LVT_MASK;
    memset(l->isr, 0, sizeof(l->isr));
    memset(l->irr, 0, sizeof(l->irr));
    memset(l->tmr, 0, sizeof(l->tmr));
    l->init_count = l->divide = 0;
    l->timer_next = UINT64_MAX;
    l->tsc_deadline = 0;
    l->pv_pending = 0;
    lapic_timer_arm(l);
    lapic_update(l);
}

static void write_svr(struct lapic *l, u32 value)
{
    bool was = l->svr & SVR_ENABLE;
    l->svr = value & SVR_WRITABLE;
    bool is = l->svr & SVR_ENABLE;
    if (was && !is)
        for (unsigned i = 0; i < LVT_COUNT; i++)
            l->lvt[i] |= LVT_MASK; /* 11.4.7.2 */
    lapic_update(l);
    if (!was && is)
        ioapic_retry(l->chip);
}

static void write_lvt(struct lapic *l, unsigned n, u32 value)
{
    u32 v = (value & lvt_writable[n]) | (l->lvt[n] & LVT_RIRR);
    if (!(l->svr & SVR_ENABLE))
        v |= LVT_MASK;
    if (!(v & LVT_LEVEL))
        v &= ~(u32)LVT_RIRR;
    if (n == LVT_TIMER)
        lapic_timer_mode(l, v);
    else
        l->lvt[n] = v;
    if (n == LVT_LINT0 && v & LVT_LEVEL && l->lint0) {
        l->lint0 = 0; /* a level that was masked shows now */
        lapic_set_lint0(l, true);
    }
    lapic_update(l);
}

static void write_tpr(struct lapic *l, u32 value)
{
    l->tpr = value & 0xff;
    lapic_update(l);
}

static void write_eoi(struct lapic *l)
{
    lapic_pv_sync(l);
    lapic_eoi(l);
}

static void write_esr(struct lapic *l)
{
    l->esr = l->esr_pending;
    l->esr_pending = 0;
}

/* Registers that read the same through both faces; false where there is none. */
static bool read_common(struct lapic *l, unsigned r, u32 *value)
{
    if (r >= R_ISR && r < R_ESR) {
        lapic_pv_sync(l);
        const u32 *bits = r < R_TMR ? l->isr : r < R_IRR ? l->tmr : l->irr;
        *value = bits[r & 7];
        return true;
    }
    if (r >= R_LVT && r < R_LVT + LVT_COUNT) {
        *value = l->lvt[r - R_LVT];
        return true;
    }
    switch (r) {
    case R_ID:
        *value = l->id;
        return true;
    case R_VERSION:
        *value = VERSION;
        return true;
    case R_TPR:
        *value = l->tpr;
        return true;
    case R_PPR:
        lapic_pv_sync(l);
        *value = lapic_ppr(l);
        return true;
    case R_LDR:
        *value = l->ldr;
        return true;
    case R_SVR:
        *value = l->svr;
        return true;
    case R_ESR:
        *value = l->esr;
        return true;
    case R_INIT_COUNT:
        *value = l->init_count;
        return true;
    case R_COUNT:
        *value = lapic_timer_count(l);
        return true;
    case R_DIVIDE:
        *value = l->divide;
        return true;
    }
    return false;
}

/* Registers that are written the same way through both faces; false where there is none. */
static bool write_common(struct lapic *l, unsigned r, u32 value)
{
    if (r >= R_LVT && r < R_LVT + LVT_COUNT) {
        write_lvt(l, r - R_LVT, value);
        return true;
    }
    switch (r) {
    case R_TPR:
        write_tpr(l, value);
        return true;
    case R_EOI:
        write_eoi(l);
        return true;
    case R_SVR:
        write_svr(l, value);
        return true;
    case R_ESR:
        write_esr(l);
        return true;
    case R_INIT_COUNT:
        lapic_timer_start(l, value);
        return true;
    case R_DIVIDE:
        lapic_timer_divide(l, value);
        return true;
    }
    return false;
}

/* --- xAPIC page --- */

u32 lapic_mmio_read(struct irqchip *ic, unsigned id, u32 offset)
{
    struct lapic *l = &ic->lapic[id];
    unsigned r = offset >> 4;
    u32 value = 0;
    if (lapic_mmio_base(ic, id) == UINT64_MAX)
        return UINT32_MAX;
    if (offset >= PAGE_SIZE || offset & 0xf || read_common(l, r, &value))
        return value;
    switch (r) {
    case R_DFR:
        return l->dfr;
    case R_ICR:
        return l->icr_low;
    case R_ICR_HIGH:
        return l->icr_high;
    case R_APR:
    case R_RRD:
    case R_EOI:
        return 0;
    }
    lapic_error(l, ESR_REGISTER);
    return 0;
}

void lapic_mmio_write(struct irqchip *ic, unsigned id, u32 offset, u32 value)
{
    struct lapic *l = &ic->lapic[id];
    unsigned r = offset >> 4;
    if (lapic_mmio_base(ic, id) == UINT64_MAX)
        return;
    if (offset >= PAGE_SIZE || offset & 0xf || write_common(l, r, value) || (r >= R_ISR && r < R_ESR))
        return;
    switch (r) {
    case R_VERSION:
    case R_APR:
    case R_PPR:
    case R_RRD:
    case R_COUNT:
        break; /* read-only */
    case R_ID:
        l->id = value & 0xff000000;
        break;
    case R_LDR:
        l->ldr = value & 0xff000000;
        break;
    case R_DFR:
        l->dfr = value | 0x0fffffff;
        break;
    case R_ICR:
        l->icr_low = value & ICR_WRITABLE;
        lapic_send_ipi(l);
        break;
    case R_ICR_HIGH:
        l->icr_high = value & 0xff000000;
        break;
    default:
        lapic_error(l, ESR_REGISTER);
    }
    irq_pic_changed(ic);
}

/* --- MSRs --- */

static int fault(struct lapic *l)
{
    return cpu_raise_error(l->cpu, VEC_GP, 0);
}

/* Bits that must be 0 in a WRMSR to each x2APIC register (table 11-6); all ones for those that can not be written. */
static u64 x2apic_reserved(unsigned r)
{
    if (r >= R_LVT && r < R_LVT + LVT_COUNT)
        return ~(u64)(lvt_writable[r - R_LVT] | LVT_STATUS);
    switch (r) {
    case R_TPR:
    case R_SELF_IPI:
        return ~0xffull;
    case R_SVR:
        return ~(u64)SVR_WRITABLE;
    case R_ICR:
        return 0xfffff000u & ~(u64)(ICR_WRITABLE | BIT(12));
    case R_INIT_COUNT:
        return ~0xffffffffull;
    case R_DIVIDE:
        return ~0xbull;
    }
    return UINT64_MAX;
}

static int x2apic_write(struct lapic *l, unsigned r, u64 value)
{
    bool zero_only = r == R_EOI || r == R_ESR;
    u64 reserved = x2apic_reserved(r);
    if ((zero_only || reserved == UINT64_MAX) && !(zero_only && value == 0))
        return fault(l);
    if (!zero_only && value & reserved)
        return fault(l);
    if (r == R_ICR) {
        l->icr_low = (u32)value & ICR_WRITABLE;
        l->icr_high = (u32)(value >> 32);
        lapic_send_ipi(l);
    } else if (r == R_SELF_IPI) {
        lapic_accept(l, (u8)value, false);
    } else {
        write_common(l, r, (u32)value);
    }
    irq_pic_changed(l->chip);
    return CPU_OK;
}

static int x2apic_read(struct lapic *l, unsigned r, u64 *value)
{
    u32 v;
    if (r == R_ICR) {
        *value = (u64)l->icr_high << 32 | l->icr_low;
        return CPU_OK;
    }
    if (!read_common(l, r, &v))
        return fault(l);
    *value = v;
    return CPU_OK;
}

/* APIC_BASE: the transitions of figure 11-27, everything else is #GP. */
static int write_base(struct lapic *l, u64 value)
{
    unsigned bits = l->cpu->model ? l->cpu->model->phys_bits : 52;
    u64 valid = BASE_BSP | BASE_EN | ((BIT(bits) - 1) & PAGE_MASK);
    if (has_feature(l, FEAT(FW_1_ECX, 21)))
        valid |= BASE_EXTD;
    bool en = value & BASE_EN, ext = value & BASE_EXTD;
    if (value & ~valid || (ext && !en))
        return fault(l);
    if ((x2apic(l) && en && !ext) || (!hw_enabled(l) && ext))
        return fault(l);
    u64 old = l->apic_base;
    l->apic_base = value;
    if (!en && old & BASE_EN) {
        l->id = l->index << 24;
        lapic_init(l);
    } else if (ext && !(old & BASE_EXTD)) {
        l->id = l->index;
        l->ldr = ldr_x2apic(l->index);
        l->icr_high = 0;
    }
    irq_pic_changed(l->chip);
    return CPU_OK;
}

#define MSR_APIC_BASE    0x1bu
#define MSR_TSC_DEADLINE 0x6e0u

int lapic_msr_read(struct irqchip *ic, unsigned id, u32 index, u64 *value)
{
    struct lapic *l = &ic->lapic[id];
    if (index == MSR_APIC_BASE) {
        *value = l->apic_base;
        return CPU_OK;
    }
    if (index == MSR_TSC_DEADLINE) {
        if (!has_feature(l, FEAT(FW_1_ECX, 24)))
            return fault(l);
        *value = l->tsc_deadline;
        return CPU_OK;
    }
    if (index < 0x800 || index > 0x8ff)
        return -1;
    return x2apic(l) ? x2apic_read(l, index - 0x800, value) : fault(l);
}

int lapic_msr_write(struct irqchip *ic, unsigned id, u32 index, u64 value)
{
    struct lapic *l = &ic->lapic[id];
    if (index == MSR_APIC_BASE)
        return write_base(l, value);
    if (index == MSR_TSC_DEADLINE) {
        if (!has_feature(l, FEAT(FW_1_ECX, 24)))
            return fault(l);
        lapic_timer_deadline(l, value);
        return CPU_OK;
    }
    if (index < 0x800 || index > 0x8ff)
        return -1;
    return x2apic(l) ? x2apic_write(l, index - 0x800, value) : fault(l);
}

u64 lapic_mmio_base(const struct irqchip *ic, unsigned id)
{
    const struct lapic *l = &ic->lapic[id];
    return hw_enabled(l) && !x2apic(l) ? l->apic_base & PAGE_MASK & (BIT(52) - 1) : UINT64_MAX;
}

u64 lapic_get_tpr(const struct irqchip *ic, unsigned id)
{
    return ic->lapic[id].tpr >> 4;
}

void lapic_set_tpr(struct irqchip *ic, unsigned id, u64 cr8)
{
    write_tpr(&ic->lapic[id], (u32)(cr8 & 0xf) << 4);
}

void lapic_tsc_changed(struct irqchip *ic, unsigned id)
{
    lapic_timer_arm(&ic->lapic[id]);
}

void irqchip_set_pv_eoi(struct irqchip *ic, unsigned cpu, const struct irq_pv_eoi_ops *ops)
{
    lapic_pv_sync(&ic->lapic[cpu]);
    ic->lapic[cpu].pv = ops;
}

/* --- record --- */

static int check_vectors(const struct lapic *l, struct error *e)
{
    if ((l->isr[0] | l->irr[0] | l->tmr[0]) & 0xffff)
        return error_set(e, EINVAL, "a vector below 16 is requested or in service");
    if (!l->pv_pending)
        return 0;
    int v = highest(l->isr);
    if (l->pv_pending > 1 || v < 0 || highest(l->irr) >= 0 || vec_test(l->tmr, (unsigned)v))
        return error_set(e, EINVAL, "PV EOI is pending without one edge-triggered interrupt in service");
    return 0;
}

static int check_timer(const struct lapic *l, struct error *e)
{
    if (l->divide & ~0xbu)
        return error_set(e, EINVAL, "divide configuration %08x has reserved bits set", l->divide);
    if (l->timer_next != UINT64_MAX && (!l->init_count || deadline_mode(l) || l->timer_next > INT64_MAX))
        return error_set(e, EINVAL, "the timer runs without a count");
    if (l->tsc_deadline && !deadline_mode(l))
        return error_set(e, EINVAL, "a TSC deadline is set in another timer mode");
    return 0;
}

static int check_registers(const struct lapic *l, struct error *e)
{
    bool en = l->apic_base & BASE_EN, ext = l->apic_base & BASE_EXTD;
    if (l->apic_base & (0x2ff | ~(BIT(52) - 1)) || (ext && !en))
        return error_set(e, EINVAL, "APIC_BASE can not be %016llx", (unsigned long long)l->apic_base);
    if (l->tpr > 0xff || l->svr & ~SVR_WRITABLE || l->icr_low & ~ICR_WRITABLE || l->lint0 > 1)
        return error_set(e, EINVAL, "TPR, SVR, ICR or LINT0 has a value that it can not have");
    if (ext ? l->id != l->index || l->ldr != ldr_x2apic(l->index) : (l->id | l->ldr) & 0xffffff)
        return error_set(e, EINVAL, "ids %08x, %08x do not fit the mode", l->id, l->ldr);
    if ((l->esr | l->esr_pending) & ~(u32)(ESR_SEND_VECTOR | ESR_RECV_VECTOR | ESR_REGISTER))
        return error_set(e, EINVAL, "ESR has bits that are never set");
    for (unsigned i = 0; i < LVT_COUNT; i++)
        if (l->lvt[i] & ~(lvt_writable[i] | (i == LVT_LINT0 ? (u32)LVT_RIRR : 0)))
            return error_set(e, EINVAL, "LVT entry %u can not be %08x", i, l->lvt[i]);
    return 0;
}

static int lapic_check(const void *candidate, struct error *e)
{
    const struct lapic *l = candidate;
    if (check_registers(l, e) || check_vectors(l, e) || check_timer(l, e))
        return -EINVAL;
    return 0;
}

void lapic_loaded(struct lapic *l)
{
    lapic_timer_arm(l);
    lapic_update(l);
    if (l->cpu->nmi_pending)
        cpu_attention_set(l->cpu, ATTN_NMI);
    else
        cpu_attention_clear(l->cpu, ATTN_NMI);
}

static const struct rec_field lapic_fields[] = {
    REC_FIELD(struct lapic, apic_base), REC_FIELD(struct lapic, id),          REC_FIELD(struct lapic, tpr),
    REC_FIELD(struct lapic, ldr),       REC_FIELD(struct lapic, dfr),         REC_FIELD(struct lapic, svr),
    REC_FIELD(struct lapic, esr),       REC_FIELD(struct lapic, esr_pending), REC_FIELD(struct lapic, icr_low),
    REC_FIELD(struct lapic, icr_high),  REC_FIELD(struct lapic, lvt),         REC_FIELD(struct lapic, isr),
    REC_FIELD(struct lapic, irr),       REC_FIELD(struct lapic, tmr),         REC_FIELD(struct lapic, init_count),
    REC_FIELD(struct lapic, divide),    REC_FIELD(struct lapic, timer_next),  REC_FIELD(struct lapic, tsc_deadline),
    REC_FIELD(struct lapic, lint0),     REC_FIELD(struct lapic, pv_pending),
};

const struct rec_desc lapic_record = {
    .name = "lapic",
    .type = REC_TYPE('L', 'A', 'P', 'C'),
    .version = 1,
    .object_size = sizeof(struct lapic),
    .fields = lapic_fields,
    .n_fields = ARRAY_LEN(lapic_fields),
    .check = lapic_check,
};
