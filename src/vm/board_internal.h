/* The board's inside: shared by board.c (parts, life, records) and board_run.c (running its CPUs). */
#ifndef TRAPEZE_VM_BOARD_INTERNAL_H
#define TRAPEZE_VM_BOARD_INTERNAL_H

#include "device/bus.h"
#include "device/device.h"
#include "engine/coherence.h"
#include "host/host.h"
#include "machine/cpu/cpuid.h"
#include "machine/cpu/kvmpv.h"
#include "machine/cpu/msr.h"
#include "machine/irq/irq.h"
#include "vm/board.h"
#include "vm/board_pci.h"

#define MAX_DEVICES 16u
#define ENGINES_MAX 4u

struct pic_ports {
    struct irqchip *irq;
    u16 base;
};

/* One CPU. What other threads may touch is under the board's lock, but for cpu.attention. */
struct board_cpu {
    struct cpu cpu;
    struct engine *engine;               /* that runs it: one of the next */
    struct engine *engines[ENGINES_MAX]; /* as board.engines */
    bool init;                           /* an INIT has come; the CPU's own thread makes it happen */
    s32 startup;                         /* vector of a start-up IPI behind it, or -1 */
    u32 asleep;                          /* a thread that runs it waits on this word */
    bool running;                        /* its thread is in board_run_cpu, and not stopped */
    bool out;    /* the guest may have been told that it does not run: board_pv_in has to tell it otherwise */
    u64 held_ns; /* how long it has run since it stood back last (throttle) */
    u64 began_ns,
        began_thread_ns; /* steal time: since when it wants to run, 0: it does not; what its thread had then */
};

struct board {
    unsigned n_cpus;
    struct board_cpu *cpu; /* n_cpus */
    struct cpu *cpus[BOARD_CPUS_MAX];
    struct host_lock lock; /* everything but the CPUs' own state: devices, controllers, clock, events */
    struct cpu_model model;
    struct guest_mem mem;
    struct vclock clock;
    struct irqchip *irq;
    struct bus bus;
    struct pic_ports pic[3];
    struct device_env env;
    void *dev[MAX_DEVICES]; /* as device_table */
    struct board_pci pci;
    struct cpu_msr_env msr_env;
    struct kvmpv kvmpv;
    struct irq_pv_eoi_ops pv_eoi;
    struct vtimer refresh;                         /* of kvmclock */
    const struct engine_ops *engine_ops;           /* in use */
    const struct engine_ops *engines[ENGINES_MAX]; /* that were made: NULL behind the last */
    struct coherence coherence;
    u32 throttle;              /* hundredths of a percent of time that CPUs stand back; atomic */
    bool stopped;              /* threads: no CPU is to run */
    u32 stops;                 /* threads: waited on until all have stopped */
    void (*notify)(void *ctx); /* threads: an event was posted; called with the lock held */
    void (*ran)(void *ctx);    /* threads: a slice is over */
    void *notify_ctx;
    size_t (*console_out)(void *ctx, const u8 *data, size_t len);
    size_t (*console_in)(void *ctx, u8 *data, size_t len);
    void *console_ctx;
    enum board_event event; /* BOARD_RUN while there is none */
    char event_text[200];
    u32 exit_value;
};

/* With the lock held. */
void board_post_event(struct board *b, enum board_event event, const char *text);
void board_clear_event(struct board *b);

/* Devices and controllers. Releasing it wakes CPUs that have something to do now. */
static inline void board_lock(struct board *b)
{
    host_lock_take(&b->lock);
}
void board_unlock(struct board *b);

/* No CPU runs: INITs and start-up IPIs that wait for their CPU's thread happen now. */
void board_settle(struct board *b);

/* machine_ops. */
s64 board_hypercall(void *ctx, struct cpu *c, u64 number, const u64 args[4]);

/* With the lock held: the CPU does not run for a while; it is about to run (at any time: it may have been out). */
void board_pv_out(struct board *b, struct board_cpu *c);
void board_pv_in(struct board *b, struct board_cpu *c);
/* Steal time, by the CPU's own thread: between these two it wants to run. The second with the lock held. */
void board_pv_began(struct board_cpu *c);
void board_pv_ended(struct board *b, struct board_cpu *c);

/* irqchip_config: INIT and start-up IPIs. */
void board_init_cpu(void *ctx, unsigned id);
void board_start_cpu(void *ctx, unsigned id, u8 vector);

#endif
