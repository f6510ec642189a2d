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
    bool
        spins; /* STOP_BUDGET, before it was used up: it waits in a loop with PAUSE, so another CPU may need the host's */
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
    /* False, or the op is NULL: only tsc() tells it. Else tsc() is RDTSC of this host + *addend + c->tsc_offset, and *addend
       does not change while a CPU is in engine_ops.run. */
    bool (*tsc_addend)(void *ctx, u64 *addend);
    u64 (*cr8_read)(void *ctx, struct cpu *c);
    void (*cr8_write)(void *ctx, struct cpu *c, u64 value);
    int (*irq_ack)(void *ctx, struct cpu *c);                                  /* vector or -1 */
    s64 (*hypercall)(void *ctx, struct cpu *c, u64 number, const u64 args[4]); /* as in isa_ops; may be NULL */
};

struct coherence;

struct engine_config {
    struct guest_mem *mem;
    struct coherence *coherence; /* of the machine's engines (coherence.h); NULL: this is the only one */
    unsigned cpu;                /* whose engine it is */
    const struct machine_ops *ops;
    void *ops_ctx;
    size_t code_cache; /* bytes of decoded or translated code to keep at most; 0: the engine's default */
    u32 test;          /* ENGINE_TEST_*: what tests switch on */
};

/* Switches for tests. */
#define ENGINE_TEST_SINGLE  1u  /* blocks of one instruction */
#define ENGINE_TEST_NO_LINK 2u  /* no direct jumps between blocks, no hash of indirect targets */
#define ENGINE_TEST_EVICT   4u  /* empty parts of the code cache at (deterministically) random times */
#define ENGINE_TEST_EXACT   8u  /* runs that two engines can be compared by: see below */
#define ENGINE_TEST_EAGER   16u /* bt: translate what is executed for the first time already */

/*
 * ENGINE_TEST_EXACT makes of each run a number of steps that two engines agree on. A step is an instruction executed, or
 * an exception delivered instead of one: by what `instructions` and `exceptions` grow in engine_stats.
 *  - interp executes exactly `budget` steps unless the CPU stops. bt goes on to the end of the block in which the budget
 *    is used up (a budget of 1 is one block), and may return earlier, at any boundary, after one step at least; but not
 *    in the middle of a repeated instruction that is no step yet.
 *  - An interrupt or NMI is taken at the start of a run only, and is no step. ATTN_REQUEST is looked at there only, too.
 *  - MOVS, STOS, LODS, SCAS and CMPS with a repeat prefix are one step, whatever they count, unless TF or a breakpoint
 *    makes them stop at each element: then the last element is the step. INS and OUTS are a step an element.
 */

/*
 * Counters that engines keep, cheap enough to be always on. X-macro: name, what it counts. Events unless a unit is named.
 */
#define ENGINE_COUNTERS(X)                                                                  \
    X(instructions, "instructions executed")                                                \
    X(monitor, "of these, by the monitor: system instructions")                             \
    X(native, "of these, by a stub that runs the one instruction on the guest's registers") \
    X(interpreted, "of these, by the interpreter under bt: cold, single or odd code")       \
    X(callouts, "of these, called out for one instruction from translated code")            \
    X(quick, "of these, done for translated code by a short way: strings, bits")            \
    X(blocks_made, "blocks decoded or translated")                                          \
    X(blocks_dropped, "blocks dropped: written over, evicted")                              \
    X(block_bytes, "bytes of guest code in blocks made")                                    \
    X(code_bytes, "bytes of translated code in the cache now")                              \
    X(code_limit, "bytes that the code cache may hold")                                     \
    X(evictions, "times that a part of the code cache was emptied to make room")            \
    X(views_moved, "pages whose translations followed them to another address")             \
    X(links, "jumps between blocks made direct")                                            \
    X(unlinks, "such jumps taken back")                                                     \
    X(entries, "times that translated code was entered from the run loop")                  \
    X(exit_poll, "exits: an event or the end of the budget, at a poll")                     \
    X(exit_link, "exits: a direct jump not yet linked")                                     \
    X(exit_indirect, "exits: an indirect jump whose target was not in the hash")            \
    X(exit_slow, "exits: an instruction that only the slow path can do")                    \
    X(exit_fault, "exits: an instruction that faulted in translated code")                  \
    X(exit_killed, "exits: the running block was written over")                             \
    X(tlb_misses, "slow paths: inline TLB look-ups that missed")                            \
    X(tlb_fills, "TLB entries filled")                                                      \
    X(tlb_flushes, "TLB flushes of more than a page")                                       \
    X(code_writes, "writes to pages with decoded or translated code")                       \
    X(exceptions, "exceptions delivered")                                                   \
    X(interrupts, "interrupts delivered")                                                   \
    X(pio, "port accesses")                                                                 \
    X(mmio, "device memory accesses")

struct engine_stats {
#define X(name, text) u64 name;
    ENGINE_COUNTERS(X)
#undef X
};

/* How an instruction was translated. X-macro: name, text for people. */
#define ENGINE_HOWS(X)                                                                    \
    X(HOW_NOTHING, "no code: it has no effect")                                           \
    X(HOW_COPIED, "copied: innocuous")                                                    \
    X(HOW_RENAMED, "copied with other registers: innocuous, but its registers are taken") \
    X(HOW_MEMORY, "memory operand through the software TLB")                              \
    X(HOW_STACK, "stack access through the software TLB")                                 \
    X(HOW_JUMP, "direct jump, linked to its target")                                      \
    X(HOW_INDIRECT, "indirect jump through the verified hash")                            \
    X(HOW_SYSTEM, "system instruction done in place on the virtual CPU")                  \
    X(HOW_MONITOR, "call of the monitor: privileged or sensitive")                        \
    X(HOW_CALLOUT, "call of the interpreter for this one instruction")                    \
    X(HOW_NATIVE, "a stub runs this one instruction on the guest's registers")            \
    X(HOW_DECODED, "not translated: executed by the interpreter")

enum engine_how {
#define X(name, text) name,
    ENGINE_HOWS(X)
#undef X
        HOW_COUNT
};

/* One guest instruction of an explained block. */
struct engine_explain_insn {
    u64 rip;
    u8 len;
    u8 mode; /* enum isa_mode */
    u8 how;  /* enum engine_how */
    u8 bytes[15];
    u32 code_off, code_len; /* its part of engine_explain.code */
};

#define EXPLAIN_INSNS 64
#define EXPLAIN_CODE  8192

/* What an engine holds for the code at an address: a flat value, it travels from the cell to the verb. */
struct engine_explain {
    u64 address;      /* linear address that was asked for: the board's to fill */
    u64 start;        /* linear address of the block's first instruction */
    u64 code_address; /* where code[] executes */
    u32 n;            /* instructions in insn[]; 0: the bytes at the address are no instruction */
    u32 code_bytes; /* in code[]; what precedes the first instruction's code is the block's head, behind the last its exits */
    u8 cpl;
    u8 links; /* exits that are linked now */
    u8 exits;
    u8 reserved[5];
    struct engine_explain_insn insn[EXPLAIN_INSNS];
    u8 code[EXPLAIN_CODE];
};

struct engine;

struct engine_ops {
    const char *name;
    /* Whether this host can run it; if not, *why (may be NULL) is the reason in one clause. NULL: every host can. */
    bool (*usable)(const char **why);
    int (*create)(struct engine **out, const struct engine_config *cfg, struct error *e);
    void (*destroy)(struct engine *en);
    /* Run `c` for about `budget` instructions. A CPU belongs to one engine at a time, one run at a time. */
    void (*run)(struct engine *en, struct cpu *c, u64 budget, struct stop *stop);
    /* The CPU's state was changed from outside (load, reset): drop what was derived from it. */
    void (*state_changed)(struct engine *en, struct cpu *c);
    /*
     * It is to run its CPU from now on, in place of another engine, which has been told of a change of state and so holds nothing.
     * Before that it has seen nothing of what was done to memory.
     */
    void (*sit)(struct engine *en);
    /* Forget all translations of addresses, as MOV CR3 and INVLPG do for some. Between two runs. */
    void (*flush_tlb)(struct engine *en);
    void (*stats)(const struct engine *en, struct engine_stats *out);
    /*
     * What the engine made of the code at linear address `va` of the CPU's present address space and mode: the block that
     * holds it, translated now if there is none. 0, -ENOENT when `va` is not mapped code, -EOPNOTSUPP. May be NULL.
     */
    int (*explain)(struct engine *en, struct cpu *c, u64 va, struct engine_explain *out);
};

extern const struct engine_ops engine_interp, engine_bt;

/* Engines that this program has, the best first: NULL behind the last. */
const struct engine_ops *engine_at(size_t i);
/* The engine of that name, or NULL when there is none or this host can not run it. */
const struct engine_ops *engine_find(const char *name);
/* The best one that this host can run. */
const struct engine_ops *engine_auto(void);

#endif
