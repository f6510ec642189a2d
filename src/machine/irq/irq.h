/*
 * Interrupt controllers of a PC: a local APIC a CPU, one I/O APIC, the two 8259s. One `struct irqchip` holds them all.
 *
 * Inputs are global system interrupts 0-23 (ISA IRQ n is GSI n, except that IRQ 0 arrives at I/O APIC pin 2, as the MADT
 * says). irq_set drives a line; every controller listens to it. Outputs are attention bits of the CPUs.
 */
#ifndef TRAPEZE_MACHINE_IRQ_H
#define TRAPEZE_MACHINE_IRQ_H

#include "base/record.h"
#include "machine/cpu/cpu.h"
#include "machine/time/clock.h"

#define IRQ_MAX_CPUS 64
#define IOAPIC_PINS  24

#define LAPIC_BASE   0xfee00000ull
#define IOAPIC_BASE  0xfec00000ull

struct irqchip;

struct irqchip_config {
    unsigned n_cpus;
    struct cpu **cpus; /* whose attention words are set */
    struct vclock *clock;
    /* Optional: CPU `id` gets an INIT or a start-up IPI. The local APIC has done its own part of the INIT. */
    void (*init_cpu)(void *ctx, unsigned id);
    void (*start_cpu)(void *ctx, unsigned id, u8 vector);
    void *ctx;
};

/* Create the controllers in their reset state; NULL when memory is short. */
struct irqchip *irqchip_create(const struct irqchip_config *cfg);
void irqchip_destroy(struct irqchip *ic);

/* Drive input `gsi` (0-23) to `level`. Edge-triggered pins act on 0 -> 1. */
void irq_set(struct irqchip *ic, unsigned gsi, int level);

/* Deliver a message-signalled interrupt (MSI address and data, SDM vol. 3A, 11.11). */
void irq_msi(struct irqchip *ic, u64 address, u32 data);

/*
 * Interprocessor interrupts to CPUs by a bit each: bit i of `low` is APIC id `first` + i, bit i of `high` that plus 64. `icr` has
 * vector and delivery mode as the register's lower half has them, nothing else. How many local APICs took one; -1 when `icr`
 * asks for what can't be sent so.
 */
int irq_send_ipis(struct irqchip *ic, u64 low, u64 high, u32 first, u32 icr);

/* Drive the NMI input (LINT1 of every CPU): an edge to 1. */
void irq_nmi(struct irqchip *ic);

/* Is there an interrupt that CPU `id` would take with IF=1? (APIC priorities applied.) Cheap. */
bool irq_pending(struct irqchip *ic, unsigned id);
/* Acknowledge: the vector to deliver, or -1 if it went away. Clears ATTN_INTR when nothing else waits. */
int irq_ack(struct irqchip *ic, unsigned id);

/* Register files. MMIO offsets are from the page's base; sizes 1, 2, 4, 8 (others than 4 act as on silicon). */
u32 lapic_mmio_read(struct irqchip *ic, unsigned id, u32 offset);
void lapic_mmio_write(struct irqchip *ic, unsigned id, u32 offset, u32 value);
u32 ioapic_mmio_read(struct irqchip *ic, u32 offset);
void ioapic_mmio_write(struct irqchip *ic, u32 offset, u32 value);
/* 8259 ports 20 21 a0 a1 and edge/level registers 4d0 4d1 */
u8 pic_io_read(struct irqchip *ic, u16 port);
void pic_io_write(struct irqchip *ic, u16 port, u8 value);

/*
 * The APIC's MSRs: 1Bh (APIC_BASE), 6E0h (TSC deadline), 800h-8FFh (x2APIC). CPU_OK, or CPU_FAULT (#GP) as the manual
 * says. Return -1 when the index is none of these.
 */
int lapic_msr_read(struct irqchip *ic, unsigned id, u32 index, u64 *value);
int lapic_msr_write(struct irqchip *ic, unsigned id, u32 index, u64 value);
/* Physical base the local APIC answers at, or UINT64_MAX while disabled or in x2APIC mode. */
u64 lapic_mmio_base(const struct irqchip *ic, unsigned id);

/* CR8 is the upper half of the task-priority register. */
u64 lapic_get_tpr(const struct irqchip *ic, unsigned id); /* TPR >> 4 */
void lapic_set_tpr(struct irqchip *ic, unsigned id, u64 cr8);

/* The CPU's TSC was set to another value (WRMSR to TSC or TSC_ADJUST): a deadline is converted anew. */
void lapic_tsc_changed(struct irqchip *ic, unsigned id);

/*
 * PV EOI (KVM's MSR 4B564D04h): the board supplies how to set and to test-and-clear the guest's flag bit. `set` returns
 * false if it could not. NULL while off.
 */
struct irq_pv_eoi_ops {
    bool (*set)(void *ctx, unsigned cpu);
    bool (*test_clear)(void *ctx, unsigned cpu); /* true if the guest had cleared it: that was its EOI */
    void *ctx;
};
void irqchip_set_pv_eoi(struct irqchip *ic, unsigned cpu, const struct irq_pv_eoi_ops *ops);

/* All controllers as after power-up (machine reset). Input lines keep their levels: they belong to the devices. */
void irqchip_reset(struct irqchip *ic);

/* Records: one LAPC a CPU, one IOAP, one PIC for both 8259s. Load checks all before it changes any. */
int irqchip_save(const struct irqchip *ic, struct rec_buf *out);
/* Offer a record: 1 if it is one of ours and was loaded (or, with check_only, would load), 0 if of another kind, <0. */
int irqchip_load(struct irqchip *ic, const struct rec_view *v, bool check_only, struct error *e);
/* Recompute what the records do not hold (attention bits, timers): after the last record, the clock's and CPUs' too. */
void irqchip_loaded(struct irqchip *ic);

#endif
