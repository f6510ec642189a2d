/*
 * Inside the interpreter: its state, its operations and the fast path to guest memory.
 *
 * Theory of operation
 *
 * Guest code is decoded once into blocks: runs of instructions that lie in one physical page and end with a control
 * transfer, a system instruction or the page. A block is an array of `struct op`; each op holds the function that
 * executes it and its operands in ready-to-use form. A function ends with NEXT, a tail call of the next op's function, so
 * a block runs without a dispatch loop. The last op returns to the run loop (run.c), which polls for events, finds
 * the next block and goes on.
 *
 * Arithmetic flags are those of the host: the operation is executed by the same instruction on the host, whose flags are
 * taken with LAHF and SETO into cpu->arith. So even undefined flags are what this processor would give.
 *
 * Memory goes through a software TLB: three contexts (supervisor with AC=0, supervisor with AC=1, user), direct mapped.
 * A tag says that an access of that kind is allowed with nothing left to do (accessed and dirty bits set, no trace on the
 * page), and `addend` turns the linear address into a host pointer. Everything else is the slow path in mem.c.
 *
 * What must stay true
 *  1. While a block runs, cpu->rip is the address of the block's first instruction; op->off is an instruction's distance
 *     from it. Before anything that reads RIP, an op stores its own address there (op_rip).
 *  2. An op changes nothing until its last possible fault is behind it. A fault leaves by fault_exit, a long jump.
 *  3. A page that holds decoded code has MEM_TRACE_CODE set and no write tag in any context: writes to it come to mem.c,
 *     which kills the blocks that the write touches by making each of their ops return to the run loop.
 *  4. Killed blocks stay allocated until the run loop is back (the running op may be inside one).
 */
#ifndef TRAPEZE_INTERP_INTERP_H
#define TRAPEZE_INTERP_INTERP_H

#include "engine/coherence.h"
#include "engine/engine.h"
#include "engine/interp/native.h"
#include "engine/interp/tlb.h"
#include "isa/isa.h"
#include "machine/mmu/mmu.h"

#include <setjmp.h>

struct interp;
struct op;
typedef void (*op_fn)(struct interp *ip, const struct op *op);

/* op->flags */
#define OPF_LOCK    1u /* LOCK prefix, or XCHG with memory */
#define OPF_EA_SLOW 2u /* address size below 64 bits, or a segment that needs checking: use ea_slow */
#define OPF_REP     4u /* REP or REPE */
#define OPF_REPNE   8u

struct op {
    op_fn fn;
    s64 imm;              /* immediate, branch displacement, or pointer to a payload */
    s64 disp;             /* of the memory operand */
    u16 base, index, seg; /* offsets into struct cpu of what is added: GPR, rip, segment base, or zero */
    u16 off;              /* of the instruction from the start of its block */
    u8 dst, src;          /* byte offsets into cpu->gpr, or small numbers as the function likes */
    u8 shift;             /* log2 of the scale */
    u8 flags;             /* OPF_* */
    u8 len;               /* of the instruction */
    u8 segno;             /* enum cpu_seg of the memory operand */
    u8 addr_size;         /* 2, 4, 8 */
    u8 size;              /* operand size in bytes, for functions that serve several */
};

/* What ops that need the whole instruction point to with `imm`. */
struct payload {
    struct isa_insn insn;
    const struct native_stub *stub;
    u32 stub_generation;
};

/* Key of a block beside its address: what its ops depend on. */
#define KEY_MODE   3u  /* enum isa_mode */
#define KEY_FLAT   4u  /* 32-bit code with CS, SS, DS, ES flat: no limit checks needed for them */
#define KEY_SINGLE 8u  /* blocks of one instruction: TF, breakpoints, interrupt shadows */
#define KEY_SS32   16u /* SS.B: ESP is the stack pointer outside 64-bit mode */
#define KEY_BASED  32u /* CS has a base or a limit that counts: blocks are checked before they run */
#define KEY_NO_VEX 64u /* real and virtual-8086 mode: instructions with VEX and EVEX are #UD */

#define KEY_DEAD   0xffu /* killed: matches no mode */

#define NO_PAGE    UINT64_MAX

struct block {
    struct block *hash_next; /* same bucket */
    struct block *page_next; /* same physical page */
    u64 start;               /* RAM offset of the first byte; NO_PAGE for one instruction over a page end */
    u16 bytes;               /* of guest code */
    u16 n;                   /* instructions */
    u16 mnemonic;            /* of the first instruction */
    u16 runs;                /* counted by an owner that translates what runs often */
    u8 key;
    u8 copy[ISA_MAX_LEN]; /* NO_PAGE: the bytes that must still stand there */
    struct op ops[];      /* n, and one more that leaves the block */
};

/*
 * Linear address -> block, direct mapped; always verified against the exec tag and the block itself. Under KEY_BASED the
 * linear address is not RIP: bit 63 then keeps block_lookup's comparison from being true.
 */
#define JUMP_BITS  12
#define JUMP_BASED BIT(63)
struct jump_entry {
    u64 rip;
    struct block *block;
};

/* vector_ok */
#define VECTOR_SSE    1u
#define VECTOR_AVX    2u

#define BLOCK_MAX_OPS 48

/* PAUSEs in a run after which it waits for another CPU, which may be without a processor: some 3 us. */
#define INTERP_PATIENCE 64u
#define HASH_BITS       15

struct interp {
    struct tlb_tables *tlb; /* context in force: one of tlbs[] */
    struct cpu *cpu;        /* while running */
    s64 budget;
    u64 deliveries; /* events delivered in this run: part of the budget used, no instructions */
    u8 key;
    u8 context;     /* enum tlb_context */
    bool user;      /* CPL 3 */
    bool stale;     /* key, context and vector_ok must be derived again before the next block */
    bool in_repeat; /* RIP is on a repeated string instruction that has done some of its elements */
    bool uncounted; /* ENGINE_TEST_EXACT: a repeated instruction has done elements, but is no step yet */
    u32 pauses;     /* PAUSEs executed in this run, counted where other CPUs might be waited for */
    bool begun;     /* the run has come to its first boundary, where ENGINE_TEST_EXACT takes events */
    bool undo;      /* a fault gives the flags back that stood before the instruction: undo_arith */
    u16 undo_arith;
    u8 vector_ok;          /* VECTOR_*: what may be used without a fault */
    struct block *current; /* block being executed */
    u64 debug_hits;        /* data and I/O breakpoints that the instruction running alone has met: bits of DR6 */
    jmp_buf exit;          /* where fault_exit goes */

    struct isa isa;
    struct native *native;
    struct engine_config cfg;
    struct guest_mem *mem;
    struct coherence_seat *seat;
    struct coherence alone; /* where no other was given */

    struct tlb_tables *tlbs;          /* TLB_CONTEXTS of them */
    struct tlb_tables *tables_memory; /* zeroed, for tlbs; set before interp_init: the owner's, who frees it */
    struct tlb_journal journal[TLB_CONTEXTS];
    u64 large[2][TLB_LARGE / 64]; /* 2 or 4 MiB, 1 GiB: where there may be entries that are parts of such pages */
    bool high[TLB_CONTEXTS];      /* there may be entries for data at 4 GiB and above: see tlb_drop_high */

    /* An engine that embeds this one hears of flushes, and has code of its own in pages (block.c); all may be NULL. */
    void *owner;
    void (*flushed)(void *owner, enum tlb_flush what, u64 va);
    void (*code_killed)(void *owner, u64 ram_page, unsigned from, unsigned to); /* these bytes are written */
    bool (*has_code)(void *owner, u64 ram_page);

    struct jump_entry jumps[1u << JUMP_BITS];

    /* Block cache */
    struct block *hash[1u << HASH_BITS];
    struct block **page_blocks; /* a list head a RAM page */
    u8 *arena;
    size_t arena_size, arena_used;
    bool flush_wanted; /* the arena is full: drop all blocks at the next run-loop turn */
    u32 evict_in;      /* ENGINE_TEST_EVICT: blocks until the next flush */
    u32 evict_random;

    struct engine_stats stats;
};

#define OFF_GPR(n) ((u16)(offsetof(struct cpu, gpr) + 8 * (n)))
#define OFF_ZERO   ((u16)offsetof(struct cpu, zero))
#define OFF_RIP    ((u16)offsetof(struct cpu, rip))
#define OFF_SEG(n) \
    ((u16)(offsetof(struct cpu, seg) + (n) * sizeof(struct cpu_segment) + offsetof(struct cpu_segment, base)))

#define NEXT return op[1].fn(ip, op + 1)

/* --- registers --- */

static inline u64 *reg64(struct cpu *c, unsigned byte_off)
{
    return (u64 *)(void *)((u8 *)c->gpr + byte_off);
}
#define REG(T, c, byte_off) (*(T *)(void *)((u8 *)(c)->gpr + (byte_off)))

/* Writing a 32-bit register clears its upper half. */
static inline void put8(struct cpu *c, unsigned off, u8 v)
{
    REG(u8, c, off) = v;
}
static inline void put16(struct cpu *c, unsigned off, u16 v)
{
    REG(u16, c, off) = v;
}
static inline void put32(struct cpu *c, unsigned off, u32 v)
{
    REG(u64, c, off) = v;
}
static inline void put64(struct cpu *c, unsigned off, u64 v)
{
    REG(u64, c, off) = v;
}

/* --- leaving --- */

/* Leave the running block with `code` (CPU_FAULT, ...) raised by the instruction of `op`. */
void fault_exit(struct interp *ip, const struct op *op, int code) __attribute__((noreturn, cold));
/* RIP := address of `op`'s instruction. */
static inline void op_rip(struct interp *ip, const struct op *op)
{
    ip->cpu->rip += op->off;
}
/* The address of `op`'s instruction and of the one behind it. */
static inline u64 op_next_ip(struct interp *ip, const struct op *op)
{
    return ip->cpu->rip + op->off + op->len;
}
/* Function of every op of a killed block, and of the op behind a block's last: back to the run loop. */
void op_leave(struct interp *ip, const struct op *op);

/* --- memory --- */

u64 ea_slow(struct interp *ip, const struct op *op, unsigned size, bool write);

static inline u64 ea_offset(const struct cpu *c, const struct op *op)
{
    return *(const u64 *)(const void *)((const u8 *)c + op->base) +
           (*(const u64 *)(const void *)((const u8 *)c + op->index) << op->shift) + (u64)op->disp;
}
/* Linear address of the memory operand. */
static inline u64 ea(struct interp *ip, const struct op *op, unsigned size, bool write)
{
    if (unlikely(op->flags & OPF_EA_SLOW))
        return ea_slow(ip, op, size, write);
    return ea_offset(ip->cpu, op) + *(const u64 *)(const void *)((const u8 *)ip->cpu + op->seg);
}

/* Host pointer for an access of `size` bytes inside one page whose tag allows it, else NULL. */
static inline u8 *tlb_read_ptr(struct interp *ip, u64 va, unsigned size)
{
    unsigned i = tlb_index(va);
    return likely(va + ip->tlb->read[i] <= PAGE_SIZE - size) ? (u8 *)(va + ip->tlb->addend[i]) : NULL;
}
static inline u8 *tlb_write_ptr(struct interp *ip, u64 va, unsigned size)
{
    unsigned i = tlb_index(va);
    return likely(va + ip->tlb->write[i] <= PAGE_SIZE - size) ? (u8 *)(va + ip->tlb->addend[i]) : NULL;
}

/* Slow paths: any length up to a page, page crossing, MMIO, traces. CPU_OK, CPU_FAULT or CPU_UNIMPLEMENTED. */
int mem_read_slow(struct interp *ip, u64 va, void *buf, unsigned len, bool user, bool implicit);
int mem_write_slow(struct interp *ip, u64 va, const void *buf, unsigned len, bool user, bool implicit);
int mem_probe_write(struct interp *ip, u64 va, unsigned len, bool user, bool implicit);
/* The same for an op's own operand: faults leave the block. */
u64 load_slow(struct interp *ip, const struct op *op, u64 va, unsigned size) __attribute__((cold));
void store_slow(struct interp *ip, const struct op *op, u64 va, u64 value, unsigned size) __attribute__((cold));
u64 pop_slow(struct interp *ip, const struct op *op, u64 va, unsigned size) __attribute__((cold));
void push_slow(struct interp *ip, const struct op *op, u64 va, u64 value, unsigned size) __attribute__((cold));
/* For read-modify-write: fault as a write, fill the TLB, give the pointer; NULL if the page has no direct access. */
u8 *rmw_slow(struct interp *ip, const struct op *op, u64 va, unsigned size) __attribute__((cold));
static inline u8 *rmw_ptr(struct interp *ip, const struct op *op, u64 va, unsigned size)
{
    u8 *p = tlb_write_ptr(ip, va, size);
    return likely(p) ? p : rmw_slow(ip, op, va, size);
}

#define DEFINE_LOAD_STORE(T, bits)                                                                 \
    static inline T load##bits(struct interp *ip, const struct op *op, u64 va)                     \
    {                                                                                              \
        const u8 *p = tlb_read_ptr(ip, va, bits / 8);                                              \
        return likely(p) ? *(const T##_any *)(const void *)p : (T)load_slow(ip, op, va, bits / 8); \
    }                                                                                              \
    static inline void store##bits(struct interp *ip, const struct op *op, u64 va, T v)            \
    {                                                                                              \
        u8 *p = tlb_write_ptr(ip, va, bits / 8);                                                   \
        if (likely(p))                                                                             \
            *(T##_any *)(void *)p = v;                                                             \
        else                                                                                       \
            store_slow(ip, op, va, v, bits / 8);                                                   \
    }
DEFINE_LOAD_STORE(u8, 8)
DEFINE_LOAD_STORE(u16, 16)
DEFINE_LOAD_STORE(u32, 32)
DEFINE_LOAD_STORE(u64, 64)

extern const struct isa_ops interp_isa_ops;
extern const struct coherence_ops interp_coherence_ops;

/* --- life (run.c); `ip` starts as zeroes --- */
int interp_init(struct interp *ip, const struct engine_config *cfg, struct error *e);
void interp_fini(struct interp *ip);
/* Start a run of `c`; false with *stop filled if it can not run. */
bool interp_begin(struct interp *ip, struct cpu *c, u64 budget, struct stop *stop);
/* The run is over. */
void interp_end(struct interp *ip);
/*
 * Between blocks: what came out of the last one (`code`: CPU_OK, CPU_FAULT to deliver, ...), events, and the mode derived
 * anew. False: the run is over and *s says why.
 */
bool interp_ready(struct interp *ip, int code, struct stop *s);
/* Derive key, context and rights from the CPU's state. */
void interp_derive(struct interp *ip);
/* The block at RIP, in the mode derived. CPU_OK, or a code for interp_ready; faults of its instructions go to ip->exit. */
int interp_block(struct interp *ip);
/*
 * The one instruction at RIP, which the caller has counted in ip->budget, without the checks that belong to single steps
 * and shadows. STEP_DONE; CPU_OK when the cache was full (nothing ran: try again) or CPU_FAULT when the fetch faulted;
 * faults of the instruction go to ip->exit.
 */
#define STEP_DONE 50
int interp_step(struct interp *ip);

/* --- TLB (tlb.c) --- */
void tlb_init(struct interp *ip);
void tlb_flush_all(struct interp *ip);
void tlb_flush_nonglobal(struct interp *ip);
void tlb_flush_page(struct interp *ip, u64 va);
/* Leave no entries for data at 4 GiB and above in the context in force: code that is not 64-bit makes no new ones. */
void tlb_drop_high(struct interp *ip);
/* Put what a walk for `access` found into the TLB of context `ctx`: an entry for code, or one for data. */
void tlb_fill(struct interp *ip, unsigned ctx, u64 va, const struct mmu_page *p, enum mmu_access access);
/*
 * Fill the TLB for a data access in the context in force. Whether it now hits; if not, the slow path has to do it: it crosses
 * pages, faults, is no RAM, or is watched. cpu->fault may be overwritten.
 */
int tlb_refill(struct interp *ip, u64 va, unsigned size, bool write);
/* Take write tags away from a RAM page that now holds decoded code. */
void tlb_protect_page(struct interp *ip, u64 ram_page);
/* The same for all pages that are traced now. */
void tlb_protect_traced(struct interp *ip);
/* Host pointer of the code byte at `va`, or NULL with *result the reason (CPU_FAULT ...). */
const u8 *tlb_fetch(struct interp *ip, u64 va, int *result);

/* --- block cache (block.c) --- */
int blocks_init(struct interp *ip, struct error *e);
void blocks_destroy(struct interp *ip);
void blocks_flush(struct interp *ip);
/* Linear address of the code at cpu->rip. */
static inline u64 code_va(const struct interp *ip)
{
    const struct cpu *c = ip->cpu;
    return unlikely(ip->key & KEY_BASED) ? (u32)(c->rip + c->seg[SEG_CS].base) : c->rip;
}
/* Block at cpu->rip, made if need be; NULL with *result set when the fetch faults (CPU_OK: the cache is full). */
struct block *block_find(struct interp *ip, int *result);
/* How often the decoded block at that RAM offset was counted (block.runs), for the mode in force; 0 if there is none. */
unsigned blocks_runs(const struct interp *ip, u64 start);
static inline struct jump_entry *jump_at(const struct interp *ip, u64 rip)
{
    return (struct jump_entry *)&ip->jumps[(rip ^ rip >> JUMP_BITS) & ((1u << JUMP_BITS) - 1)];
}
/* The same, nearly always found at once: the address was seen before, and still is that place in memory. */
static inline struct block *block_lookup(struct interp *ip, int *result)
{
    u64 rip = ip->cpu->rip;
    unsigned i = tlb_index(rip);
    u64 start = rip + ip->tlb->code[i] - (u64)ip->mem->ram;
    const struct jump_entry *j = jump_at(ip, rip);
    const struct block *b = j->block;
    if (likely(j->rip == rip && b && b->start == start && b->key == ip->key &&
               ip->tlb->exec[i] == tlb_exec_key(rip, start)))
        return j->block;
    return block_find(ip, result);
}
/* Kill the blocks of a RAM page that overlap [from, to) of the page. */
void blocks_kill(struct interp *ip, u64 ram_page, unsigned from, unsigned to);
/* Bytes of a page with code are written: kill what any engine has made of them; no code left, no trace. */
void code_changed(struct interp *ip, u64 ram_page, unsigned from, unsigned to);
/* A store is about to be made to `len` bytes inside a page of RAM, not by way of the TLB: traces first. */
void ram_written(struct interp *ip, u64 ram, unsigned len);
/* Trace a page that holds code from now on; end that if it holds none any more. */
void blocks_trace_page(struct interp *ip, u64 ram_page);
void blocks_untrace_page(struct interp *ip, u64 ram_page);
static inline bool blocks_traced(const struct interp *ip, u64 ram_page)
{
    return coherence_holds(ip->seat, ram_page);
}
void *arena_alloc(struct interp *ip, size_t size);

/* --- translation of one instruction into an op (translate.c) --- */
/* Fill `op`; returns true if the instruction ends its block. Needs room in the arena for a payload: false with op->fn NULL. */
bool translate(struct interp *ip, const struct isa_insn *insn, struct op *op);

/* --- explain.c --- */
/* As engine_ops.explain. Between runs only. */
int interp_explain(struct interp *ip, const struct cpu *c, u64 va, struct engine_explain *out);

/* --- choice of functions: each file of functions offers one chooser; NULL if it has none for this instruction --- */
op_fn alu_choose(const struct isa_insn *insn, struct op *op);
op_fn data_choose(const struct isa_insn *insn, struct op *op);
op_fn flow_choose(const struct isa_insn *insn, struct op *op, u8 key, bool *ends);
op_fn string_choose(const struct isa_insn *insn, struct op *op);
/* Executes the payload's instruction natively (translate.c). */
void op_native(struct interp *ip, const struct op *op);
op_fn legacy_choose(const struct isa_insn *insn, struct op *op);
op_fn vector_choose(const struct isa_insn *insn, struct op *op);

/* Which of the four integer sizes: 0..3 for 1, 2, 4, 8 bytes. */
static inline unsigned size_index(unsigned bytes)
{
    return bytes == 1 ? 0 : bytes == 2 ? 1 : bytes == 4 ? 2 : 3;
}
/* Byte offset of a GPR operand inside cpu->gpr. */
static inline u8 operand_gpr(const struct isa_operand *o)
{
    return (u8)(o->reg_class == ISA_REG_GPR8H ? 8 * o->reg + 1 : 8 * o->reg);
}
static inline bool operand_is_gpr(const struct isa_operand *o)
{
    return o->kind == ISA_OP_REG && o->reg_class >= ISA_REG_GPR8 && o->reg_class <= ISA_REG_GPR64;
}

/* Conditions on cpu->arith, by the low four bits of the opcode. */
static inline bool cond(u16 a, unsigned cc)
{
    bool r;
    switch (cc >> 1) {
    case 0:
        r = a & 1;
        break;
    case 1:
        r = a & 0x100;
        break;
    case 2:
        r = a & 0x4000;
        break;
    case 3:
        r = a & 0x4100;
        break;
    case 4:
        r = a & 0x8000;
        break;
    case 5:
        r = a & 0x400;
        break;
    case 6:
        r = (a >> 15 ^ a) & 1;
        break;
    default:
        r = ((a >> 15 ^ a) & 1) || (a & 0x4000);
        break;
    }
    return r ^ (cc & 1);
}

#endif
