/*
 * The contract of an engine: something that runs a struct cpu.
 *
 * Port and device accesses are answered through `struct machine_ops`, supplied by the board, in the middle of run. Run
 * returns for the reasons of enum stop_kind and leaves the CPU between two instructions.
 */
#ifndef TRAPEZE_ENGINE_ENGINE_H
#define TRAPEZE_ENGINE_ENGINE_H

#include "base/error.h"
#include "machine/cpu/cpu.h"
#include "machine/mem/mem.h"

/* X-macro: kind, name for people */
#define STOP_KINDS(X)                                                                             \
    X(STOP_BUDGET, "budget")                 /* the budget of instructions is used up */          \
    X(STOP_HALT, "halt")                     /* HLT with nothing to deliver: wait for an event */ \
    X(STOP_REQUEST, "request")               /* ATTN_REQUEST was set */                           \
    X(STOP_SHUTDOWN, "triple fault")         /* shutdown state */                                 \
    X(STOP_UNIMPLEMENTED, "not implemented") /* cpu->stop_reason says what */                     \
    X(STOP_FAILURE, "host failure")          /* the engine itself can not go on */

enum stop_kind {
#define X(kind, name) kind,
    STOP_KINDS(X)
#undef X
        STOP_KIND_COUNT
};

struct stop {
    enum stop_kind kind;
    char text[200];
};

/* What a running CPU needs of its machine. */
struct machine_ops {
    u32 (*pio_read)(void *ctx, u16 port, unsigned size);
    void (*pio_write)(void *ctx, u16 port, unsigned size, u32 value);
    u64 (*mmio_read)(void *ctx, struct cpu *c, gpa_t a, unsigned size);
    void (*mmio_write)(void *ctx, struct cpu *c, gpa_t a, unsigned size, u64 value);
    int (*msr_read)(void *ctx, struct cpu *c, u32 index, u64 *value); /* CPU_OK or CPU_FAULT */
    int (*msr_write)(void *ctx, struct cpu *c, u32 index, u64 value);
    u64 (*tsc)(void *ctx, struct cpu *c);
    u64 (*cr8_read)(void *ctx, struct cpu *c);
    void (*cr8_write)(void *ctx, struct cpu *c, u64 value);
    int (*irq_ack)(void *ctx, struct cpu *c); /* vector or -1 */
};

struct engine_config {
    struct guest_mem *mem;
    const struct machine_ops *ops;
    void *ops_ctx;
    size_t code_cache; /* bytes of decoded or translated code to keep at most; 0: the engine's default */
};

/* Counters that every engine keeps, cheap enough to be always on. */
struct engine_stats {
    u64 instructions; /* executed in all */
    u64 monitor;      /* of these, through isa_execute */
    u64 native;       /* of these, by running the instruction itself on the guest's registers */
    u64 blocks_made, blocks_dropped;
    u64 tlb_fills, tlb_flushes;
    u64 exceptions, interrupts;
    u64 pio, mmio;
};

struct engine;

struct engine_ops {
    const char *name;
    int (*create)(struct engine **out, const struct engine_config *cfg, struct error *e);
    void (*destroy)(struct engine *en);
    /* Run `c` for about `budget` instructions. A CPU belongs to one engine at a time, one run at a time. */
    void (*run)(struct engine *en, struct cpu *c, u64 budget, struct stop *stop);
    /* The CPU's state was changed from outside (load, reset): drop what was derived from it. */
    void (*state_changed)(struct engine *en, struct cpu *c);
    void (*stats)(const struct engine *en, struct engine_stats *out);
};

extern const struct engine_ops engine_interp;

#endif
