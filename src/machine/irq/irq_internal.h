/* What the files of irq/ share: the state of each controller and how they call each other. */
#ifndef TRAPEZE_MACHINE_IRQ_INTERNAL_H
#define TRAPEZE_MACHINE_IRQ_INTERNAL_H

#include "machine/irq/irq.h"

/* Delivery modes of LVT, ICR, redirection entries and MSI data (SDM vol. 3A, 11.6.1) */
enum irq_mode {
    IRQ_FIXED = 0,
    IRQ_LOWEST = 1,
    IRQ_SMI = 2,
    IRQ_NMI = 4,
    IRQ_INIT = 5,
    IRQ_STARTUP = 6, /* ICR only */
    IRQ_EXTINT = 7,  /* LVT, I/O APIC and MSI only */
};

/* A message on the interrupt bus. */
struct irq_message {
    u32 dest;
    bool logical;
    bool wide; /* 32-bit x2APIC destination; else the 8-bit one of I/O APIC, MSI and xAPIC */
    u8 mode;
    u8 vector;
    bool level;
};

/* Local vector table, in the order of the registers 320h-370h */
enum lapic_lvt { LVT_TIMER, LVT_THERMAL, LVT_PERF, LVT_LINT0, LVT_LINT1, LVT_ERROR, LVT_COUNT };

struct lapic {
    /* saved */
    u64 apic_base;
    u32 id; /* as in the register: bits 31-24 in xAPIC mode */
    u32 tpr, ldr, dfr, svr;
    u32 esr, esr_pending;
    u32 icr_low, icr_high;
    u32 lvt[LVT_COUNT];
    u32 isr[8], irr[8], tmr[8];
    u32 init_count, divide;
    u64 timer_next;   /* guest ns at which the count gets to 0; UINT64_MAX while stopped */
    u64 tsc_deadline; /* 0 while off */
    u8 lint0;         /* level of LINT0 */
    u8 pv_pending;    /* the guest may end the interrupt in service through its PV EOI flag */
    /* not saved */
    unsigned index;
    struct cpu *cpu;
    struct irqchip *chip;
    struct vtimer timer;
    const struct irq_pv_eoi_ops *pv;
};

struct ioapic {
    u8 select;
    u32 id;
    u64 entry[IOAPIC_PINS];
    u32 lines; /* input levels, a bit a pin */
};

/* One 8259A. */
struct i8259 {
    u8 lines; /* input levels */
    u8 irr, isr, imr;
    u8 elcr;   /* level-triggered inputs (1) */
    u8 lowest; /* input of lowest priority, 7 at start: the next one is the highest */
    u8 base;   /* vector of input 0 */
    u8 icw1, icw3, icw4;
    u8 init_step; /* ICW expected next: 0 none, 2, 3, 4 */
    u8 read_isr, poll, special_mask, rotate_aeoi;
};

struct i8259_pair {
    struct i8259 chip[2]; /* master, slave */
};

struct irqchip {
    unsigned n_cpus;
    struct vclock *clock;
    void (*init_cpu)(void *ctx, unsigned id);
    void (*start_cpu)(void *ctx, unsigned id, u8 vector);
    void *ctx;
    struct ioapic ioapic;
    struct i8259_pair pic;
    struct lapic lapic[];
};

/* --- lapic.c --- */
void lapic_reset(struct lapic *l);  /* power-up */
void lapic_init(struct lapic *l);   /* INIT: mode and id stay */
void lapic_fire(void *ctx);         /* the timer is due */
void lapic_update(struct lapic *l); /* set or clear ATTN_INTR */
bool lapic_pending(const struct lapic *l);
int lapic_ack(struct lapic *l);
/* Offer a fixed interrupt: false when the local APIC is disabled (it is lost or waits at its source). */
bool lapic_accept(struct lapic *l, u8 vector, bool level);
void lapic_nmi(struct lapic *l);
void lapic_set_lint0(struct lapic *l, bool level);
void lapic_lint1_edge(struct lapic *l);
/* Is this CPU the one that takes the interrupts of the 8259 pair, through its LINT0 or its bare INTR pin? */
bool lapic_takes_pic(const struct lapic *l);
bool lapic_matches(const struct lapic *l, const struct irq_message *m);
/* Vector in service or priority class that an interrupt must beat. */
u32 lapic_ppr(const struct lapic *l);
/* Recompute attention and timer from the state. */
void lapic_loaded(struct lapic *l);
extern const struct rec_desc lapic_record;

/* --- ioapic.c --- */
void ioapic_reset(struct ioapic *io);
void ioapic_set(struct irqchip *ic, unsigned pin, bool level);
void ioapic_eoi(struct irqchip *ic, u8 vector);
/* Offer again what nobody took (a local APIC was switched on). */
void ioapic_retry(struct irqchip *ic);
bool ioapic_extint(const struct irqchip *ic, const struct lapic *l); /* pin 0 routes the 8259s to this CPU */
extern const struct rec_desc ioapic_record;

/* --- i8259.c --- */
void i8259_reset(struct i8259_pair *p);
void i8259_set(struct i8259_pair *p, unsigned irq, bool level);
bool i8259_output(const struct i8259_pair *p); /* INT of the master */
u8 i8259_ack(struct i8259_pair *p);            /* the two INTA cycles: the vector, spurious ones included */
u8 i8259_read(struct i8259_pair *p, u16 port);
void i8259_write(struct i8259_pair *p, u16 port, u8 value);
extern const struct rec_desc i8259_record;

/* --- irqchip.c --- */
/* Deliver a message to whom it addresses; false if no local APIC took it. */
bool irq_deliver(struct irqchip *ic, const struct irq_message *m);
/* The local APIC of `l` ended a level-triggered interrupt. */
void irq_eoi_broadcast(struct irqchip *ic, u8 vector);
/* The output of the 8259 pair or who takes it may have changed. */
void irq_pic_changed(struct irqchip *ic);

#endif
