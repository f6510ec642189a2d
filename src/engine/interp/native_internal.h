/*
 * Inside native execution: the plan of a stub, the stub, and the cache that holds them.
 *
 *   native_plan.c    isa_insn -> struct native_plan: which bytes to execute, which registers to load and store
 *   native_emit.c    struct native_plan -> machine code
 *   native.c         the cache, the checks, running a stub
 *   native_memory.c  stubs with a memory operand: bounce buffer, masked accesses, x87 environments
 *   native_gather.c  gathers and scatters, done here element by element
 */
#ifndef TRAPEZE_NATIVE_INTERNAL_H
#define TRAPEZE_NATIVE_INTERNAL_H

#include "engine/interp/native.h"
#include "host/host.h"

/* How an instruction is run. */
enum native_kind {
    NATIVE_REGISTER,     /* no memory operand */
    NATIVE_X87,          /* no memory operand, x87 or MMX */
    NATIVE_MEMORY,       /* memory operand through the bounce buffer */
    NATIVE_MASKED_STORE, /* only some bytes of the operand are written */
    NATIVE_NOTHING,      /* prefetches, NOPs with an operand */
    NATIVE_TOUCH,        /* cache line flushes: fault like a load of one byte */
    NATIVE_VZERO,        /* VZEROUPPER, VZEROALL */
    NATIVE_GATHER,
    NATIVE_SCATTER,
    NATIVE_KINDS
};

/* What decides whether CR0, CR4 and XCR0 let an instruction run. */
enum native_unit {
    UNIT_INTEGER,
    UNIT_INTEGER_VEX,
    UNIT_X87,
    UNIT_FWAIT,
    UNIT_MMX,
    UNIT_SSE,
    UNIT_AVX,
    UNIT_AVX512,
    NATIVE_UNITS
};

/* Instructions that carry the x87 instruction pointers to or from memory. */
enum native_env { ENV_NONE, ENV_STORE, ENV_SAVE, ENV_LOAD, ENV_CLEAR };

#define PLAN_READ    1u   /* the memory operand is read */
#define PLAN_WRITE   2u   /* ... is written */
#define PLAN_PURE    4u   /* nothing but the memory operand is written: a fault of the write undoes nothing */
#define PLAN_FLAGS   8u   /* arithmetic flags are loaded and stored */
#define PLAN_MXCSR   16u  /* MXCSR is loaded and stored */
#define PLAN_X87     32u  /* the whole FXSAVE image is */
#define PLAN_WAITS   64u  /* a pending x87 exception is raised first */
#define PLAN_MASKED  128u /* faults of masked-off elements do not count */
#define PLAN_ALIGNED 256u /* may insist on alignment: which fault comes first is the processor's affair */

#define NO_HOST_REG  0xff

/*
 * All that decides what a stub does; instructions with equal plans share one. Filled over zeroes, so that plans compare
 * with memcmp.
 */
struct native_plan {
    u8 bytes[16]; /* the instruction as executed */
    u8 len;
    u8 kind; /* enum native_kind */
    u8 unit; /* enum native_unit */
    u8 env;  /* enum native_env */
    u8 ctx;  /* host register that holds struct cpu */
    u8 base; /* host register that holds the operand's address, or NO_HOST_REG */
    u16 flags;
    u16 mem_size;
    u16 gpr_load, gpr_store; /* guest registers */
    u8 k_load, k_store;
    u8 load_width, store_width; /* of vector registers, in bytes */
    u32 vec_load, vec_store;
    u64 rename; /* the host register of each guest register, 4 bits each */
};

/* What a stub returns: 0, or how it faulted (host_fault_region_add). */
struct native_result {
    u64 status, address;
};
typedef struct native_result (*native_fn)(struct cpu *c, u8 *operand);

struct native_stub {
    native_fn code;
    u64 rip;      /* host address of the instruction itself */
    u32 insn_off; /* the same from the start of code memory */
    u32 next;     /* in its hash chain: index + 1 */
    struct native_plan plan;
};

/* What the host can do; and the constants that stubs restore, copied into code memory. */
struct native_host {
    u8 vec_width;    /* bytes of a whole vector register */
    bool wide_masks; /* opmasks of 64 bits */
    bool fop_always; /* every x87 instruction sets FOP */
    u32 mxcsr;
    u16 fcw;
};

struct native {
    struct host_code code;
    size_t used, floor; /* bytes of code; where the first stub starts */
    struct native_host host;
    u8 *bounce; /* one page, two inaccessible ones on either side */

    struct native_stub *stubs;
    u32 n_stubs, max_stubs;
    u32 *buckets; /* index + 1 into stubs */
    u32 n_buckets;
    u32 generation;
};

/* Where the constants and the recovery code stand in code memory. */
#define CODE_MXCSR   0
#define CODE_FCW     4
#define CODE_RECOVER 16
#define CODE_FLOOR   64

/* At most this long is a stub. */
#define STUB_MAX 1024

static inline u8 native_host_reg(const struct native_plan *p, unsigned guest)
{
    return p->rename >> (4 * guest) & 15;
}

/* Fill `p` (zeroed). False with the reason in *why if the instruction can not be run natively. */
bool native_plan(const struct native_host *h, const struct isa_insn *insn, struct native_plan *p, const char **why);

/*
 * Write the code of a plan to `out` (STUB_MAX bytes), which will execute at `rx`, inside code memory that starts at
 * `rx_base`. Returns its length; *insn_off is where the instruction stands in it. 0 if it does not fit.
 */
size_t native_emit(const struct native_host *h, const struct native_plan *p, u8 *out, const u8 *rx, const u8 *rx_base,
                   unsigned *insn_off);
/* Write the constants and the recovery code. */
void native_emit_head(const struct native_host *h, u8 *out);

/*
 * Execute a stub. CPU_OK, or CPU_FAULT with cpu->fault set; a page fault means that the operand stood in an inaccessible
 * page: cpu->fault.vector is VEC_PF and its address the host's.
 */
int native_call(struct native *n, struct cpu *c, const struct native_stub *s, u8 *operand);

/* A pending unmasked x87 exception: raised by the next waiting instruction, before it touches memory. */
static inline bool native_x87_pending(const struct cpu *c)
{
    return c->fpu.fx[2] & 0x80;
}
/* Make the x87 pointers of the FXSAVE image the guest's, after an instruction without memory operand or with one at ea. */
void native_x87_pointers(const struct native *n, struct cpu *c, const struct native_stub *s,
                         const struct isa_insn *insn, const u8 *operand, u64 ea);

int native_run_memory(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s);
int native_run_masked_store(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s);
int native_run_touch(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s);
int native_run_gather(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s);
int native_run_scatter(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s);

/* Whether native_gather.c knows this mnemonic; *scatter tells which way it goes. */
bool native_is_gather(u16 mnemonic, bool *scatter);

#endif
