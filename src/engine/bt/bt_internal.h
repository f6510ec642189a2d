/*
 * Inside binary translation: its state, blocks and code cache.
 *
 * Theory of operation
 *
 * Guest code is translated, a block at a time, into host code of the same ISA: what isa/ calls innocuous is copied; memory
 * operands go through an inline look-up in a software TLB; control transfers, and what is sensitive, are rewritten. The
 * interpreter is embedded: it holds the TLB and the slow paths, and executes what is cold, odd or single-stepped.
 *
 *   guest registers     host registers                   what for
 *   RAX RDX RBX RBP     the same
 *   RSI RDI R8 R9       the same
 *   R12 R13 R14         the same
 *   RSP                 R10
 *   RCX                 R11
 *   R10 R11 R15         slots of struct bt_state         the least used ones
 *   -                   RSP = state + 12                 base of the state, and of a host stack below it
 *   -                   RCX, R15                         scratch: nothing lives there between two guest instructions
 *
 * RSP is the state's base with its low six bits equal to 12, so that SHRX by RSP shifts by the page size without touching
 * flags; and since what lies below it is a host stack, CALL and PUSH work. Signals have a stack of their own.
 *
 * Guest arithmetic flags are in EFLAGS at every block's start and end. Inside a block they may be in memory (st->arith) for a
 * while, so that look-ups may use shorter code that clobbers EFLAGS: see flags.c.
 *
 * Instructions are counted (st->left), all of a block at once, at one place in it (bt_block.counted). Who leaves before has counted
 * nothing so far, who leaves behind it gives back what does not run.
 *
 * 32-bit code with flat segments goes the same way, decoded as what it is, with the upper halves of registers zero: compat.c.
 *
 * What must stay true
 *  1. A guest instruction changes nothing that the guest can see before its last possible fault or miss is behind it. So it
 *     can be started again from its first byte, here or in the interpreter: there are no fix-ups.
 *  2. Translated code is entered only with cpu->cpl, mode and so on equal to its block's key, and exec rights on its page.
 *     Direct jumps join blocks of one page and one key. All others go through the hash of the context in force, whose
 *     entries are of the key in force, and live no longer than the TLB entry of the page they were made under; the target
 *     compares the address.
 *  3. A page with blocks is traced (MEM_TRACE_CODE), so no TLB entry allows writing it. See cache.c for what a write does.
 *  4. A vCPU has a code cache of its own. Only its own thread changes or frees code, and only while it is not in it.
 *  5. DF, AC, TF, IF of the host are never the guest's.
 */
#ifndef TRAPEZE_BT_INTERNAL_H
#define TRAPEZE_BT_INTERNAL_H

#include "engine/bt/emit.h"
#include "engine/interp/interp.h"
#include "host/host.h"

/* --- key of a block: what its code takes for granted --- */
#define BK_CONTEXT     3u /* enum tlb_context */
#define BK_SSE         4u /* CR0, CR4, XCR0 allow these */
#define BK_AVX         8u
#define BK_AVX512      16u
#define BK_X87         32u
#define BK_COMPAT      64u  /* 32-bit flat code: see compat.c */
#define BK_PLAIN       128u /* without groups: see group.c */

#define BT_CONTEXTS    3u /* TLB_NEVER has no translated code */
#define BT_HASH_BITS   15
#define BT_HASH_SIZE   (1u << BT_HASH_BITS)
#define BT_HASH_GROUP  (PAGE_SIZE / 4) /* slots that a page's addresses have */
#define BT_BLOCK_INSNS 40
#define BT_BLOCK_BYTES (1024u - ISA_MAX_LEN) /* its last instruction begins before: see struct bt_map */

/* Which host register holds a guest one; NO_HOST: a slot. */
extern const u8 bt_host_of[CPU_GPRS];
#define SCRATCH_A H_RCX
#define SCRATCH_B H_R15
#define HOST_SP   H_R10 /* guest RSP */
#define HOST_CX   H_R11 /* guest RCX */

struct bt;

#define BT_GROUPS 4u
#define BT_RELOCS 64u
#define BT_SIDES  6u /* conditional exits in the middle of a block */
#define NOT_HELD  (-1)
#define BT_TWINS  8u /* groups that a block looks up */
#define BT_EXITS  (2 + BT_SIDES + BT_TWINS)

/* What translated code reaches relative to RSP. Hot fields first: they have one-byte displacements. */
struct bt_state {
    u8 below[16];
    u64 slot[3];   /* guest R10, R11, R15 */
    s64 left;      /* budget: instructions; each block counts its own. Negative: leave at the next poll. */
    u64 page_mask; /* of PEXT: the bits of an address that are the index in the TLB */
    u64 fs_base, gs_base;
    u64 addend[BT_GROUPS]; /* of groups of accesses */
    u64 target;            /* of an indirect jump on its way */
    u64 source;            /* site of the last indirect jump */
    u64 spill;
    u8 vec_missing; /* 1: vector registers, opmasks and MXCSR of the guest are in cpu->fpu, 0: in the host's registers */
    u8 x87_missing; /* the same for the x87 unit */
    u8 want_units;  /* BT_UNIT_*: what the code that bt_service returns needs in the host's registers */
    u8 upper;       /* not 0: struct cpu may hold vectors with upper halves that are not zero */
    u16 arith;      /* flags as cpu->arith, valid where the translator says so */
    u8 key;         /* of the code that runs: STAC and CLAC change it in place */
    u8 tsc_barred;  /* CR4.TSD: RDTSC is not for user code */
    u32 hash_mask;  /* of PEXT */
    u64 nothing;    /* 0 */
    u64 keep_but_if, keep_but_ac, keep_arith; /* masks of flags */
    u64 no_segment
        [2];        /* FS, GS in 32-bit code: what keeps look-ups from hitting if the segment must be checked, or 0 */
    u64 tsc_addend; /* as machine_ops.tsc_addend, if bt->tsc_direct */
    /* Cold */
    struct cpu *cpu;
    struct bt *bt;
    u64 host_rsp;
    u64 site; /* that called */
    u32 host_mxcsr;
    u8 x87[576] __attribute__((aligned(64)));  /* XSAVE area: the x87 state as it was loaded */
    const u8 *hash[BT_CONTEXTS][BT_HASH_SIZE]; /* code that begins by comparing RCX with its address */
    struct tlb_tables tlb[TLB_CONTEXTS];
};

#define ST(field)    ((s32)offsetof(struct bt_state, field) - 12)
#define AT_ST(field) AT(H_RSP, ST(field))

/* --- blocks --- */

/* Why a piece of cold code calls the monitor. */
enum bt_site_kind {
    SITE_MISS,     /* memory access missed the TLB */
    SITE_CALLOUT,  /* the interpreter executes this one instruction, then on with the next one's code */
    SITE_MONITOR,  /* the same, and the block ends: whatever is derived from mode and mappings is derived anew */
    SITE_LINK,     /* direct jump, arg: exit number */
    SITE_INDIRECT, /* target in st->target is not in the hash; arg: bytes to take from RSP if it is not canonical */
    SITE_CROSS,    /* the page that the block's instruction runs into is another one now, or not in the TLB */
    SITE_POLL,     /* at the block's head: an event, or the budget is used up */
    SITE_RESTART,  /* entered with an address that is not the block's: st->target */
};

/* Kinds of cold code. */
enum bt_cold_kind {
    COLD_SITE, /* it calls the monitor */
    COLD_SIDE, /* a conditional exit in the middle of a block */
    COLD_TWIN, /* the look-up of a group failed: on in the block's twin without groups, from this instruction on */
};

#define BT_NO_SITE 0xffffffffu /* a target that is not in the hash */

struct bt_site {
    u8 kind;
    u8 insn; /* index of the guest instruction */
    u16 arg;
    /* SITE_MISS, SITE_CALLOUT of a bit string: the access, from the guest's registers */
    u8 base, index;                                        /* guest registers or ISA_NO_REG */
    u8 shift : 2, addr32 : 1, write : 1, seg : 3, rip : 1; /* rip: relative to the next instruction */
    u8 size;
    s32 disp;
};

/* Where a guest instruction and its code start, from the block's start. */
struct bt_map {
    u16 guest : 10;
    u16 how : 6;             /* enum engine_how */
    u16 host : 14;           /* at most CODE_MAX */
    u16 flags_in_memory : 1; /* st->arith has the flags at this instruction's accesses */
    u16 grouped : 1;         /* groups live before this instruction: only the one before may lead here */
};

/*
 * What describes blocks lies in one room, and is found by its distance from bt->meta. Half of what a block takes is this, so
 * it is kept small: what fits decides how often code is translated again.
 */
typedef u32 bt_ref_t; /* 0: nothing */

struct bt_exit {
    s32 target;     /* from the block's address */
    bt_ref_t to;    /* block that it is linked to */
    bt_ref_t next;  /* other exit that is linked to the same block */
    bt_ref_t from;  /* word that refers to this exit: of the block or the exit before */
    bt_ref_t owner; /* block */
    u32 check; /* offset in code memory of the comparison of the target's page (bt_set_check); 0: it is the block's own */
    u32 field;  /* offset in code memory of the 4-byte field that is patched */
    u32 stub;   /* ... of the code that asks for a link */
    bool polls; /* always goes to the entry that polls */
    bool twin;  /* to the block without groups */
};

/* A block in the list of a view: a RAM page, as it is executed under one linear page. See move.c. */
struct bt_ref {
    bt_ref_t block, next, previous; /* of refs; previous 0: it is the first */
    u32 view;                       /* number in bt->view_memory */
};

/* Of a block whose one instruction runs into another page. */
struct bt_second {
    u64 ram; /* RAM offset of that page */
    struct bt_ref ref;
};

struct bt_view {
    u64 va, ram; /* address of the linear page; number of the RAM page */
    u64 used;    /* bt->clock when it last was */
    struct bt_view *next;
    bt_ref_t refs;
};

/* A place in a block's code that holds an address of the guest. */
struct bt_reloc {
    u32 at;    /* offset in code memory */
    u16 index; /* of a table's entry */
    u8 kind;
};

/* Parts of the guest's state that come into the host's registers when they are needed. */
#define BT_UNIT_VECTORS 1u
#define BT_UNIT_X87     2u

/* Behind it its maps, n + 1 of them (the last one is the end) or more; at `rest` its sites, then relocs, then exits. */
struct bt_block {
    u64 va;
    u64 start;          /* RAM offset */
    struct bt_ref ref;  /* in the list of its RAM page */
    bt_ref_t second;    /* struct bt_second, or 0 */
    bt_ref_t hash_next; /* block */
    bt_ref_t in;        /* exit that is linked to this block */
    u32 index;          /* in bt->blocks */
    u32 code;           /* offset in code memory: compares RCX with va first */
    u16 code_len;
    u16 at_poll, at_body; /* entries, from `code`: with a poll; without */
    u16 rest;             /* distance from the block */
    u16 bytes;            /* of guest code */
    u8 n;                 /* instructions; 0: this address is for the interpreter */
    u8 n_sites, n_exits, n_relocs;
    u8 key;
    u8 region;
    u8 units;   /* BT_UNIT_*: what some instruction uses, and is loaded at the head */
    u8 counted; /* the instruction before which all n are counted: see flags.c */
    bool dead;
    bool fixed; /* can not be moved to another address */
};

static inline struct bt_map *bt_maps(const struct bt_block *b)
{
    return (struct bt_map *)(uintptr_t)(b + 1);
}

static inline struct bt_site *bt_sites(const struct bt_block *b)
{
    return (struct bt_site *)((uintptr_t)b + b->rest);
}

static inline struct bt_reloc *bt_relocs(const struct bt_block *b)
{
    return (struct bt_reloc *)(uintptr_t)(bt_sites(b) + b->n_sites);
}

static inline struct bt_exit *bt_exits(const struct bt_block *b)
{
    return (struct bt_exit *)(uintptr_t)(bt_relocs(b) + b->n_relocs);
}

/* Where a jump of an exit leads. */
static inline u64 bt_exit_target(const struct bt_block *b, const struct bt_exit *x)
{
    return b->va + (u64)(s64)x->target;
}

/* A part of the code cache: filled from its start, emptied as a whole. */
struct bt_region {
    u32 code, code_end; /* offsets in code memory */
    u32 code_used;      /* hot code from the start up */
    u32 cold;           /* cold code from the end down */
    u8 *meta;           /* blocks, maps, sites */
    size_t meta_size, meta_used;
    u32 first_index, n_blocks; /* of bt->blocks: consecutive, modulo the table's size */
};

/* Accesses of a block that share a look-up: bytes [lo, hi) from `base`, RSP counted from the block's start. */
struct bt_group {
    bool live, write;
    bool fresh; /* its look-up is being written */
    u8 base;
    s64 lo, hi;
    s64 made; /* stack_shift when its look-up was written */
};

/* One block being written. */
struct bt_gen {
    struct bt *bt;
    struct emit e; /* hot part */
    struct bt_block *b;
    u64 second;  /* RAM offset of the page that its one instruction runs into, or BT_NO_PAGE */
    u32 cold_at; /* where its cold code begins; 0: it has none */
    struct isa_insn insn[BT_BLOCK_INSNS];
    u16 off[BT_BLOCK_INSNS];    /* of each from the block's start: they rise, by more than its length behind a jump */
    bool taken[BT_BLOCK_INSNS]; /* a jump whose target is the next of the list */
    u8 needs_flags[BT_BLOCK_INSNS + 1]; /* EFLAGS are read at or after this instruction before all are overwritten */
    u8 lookups[BT_BLOCK_INSNS];         /* estimate of the look-ups of an instruction */
    u64 rip;                            /* of the instruction at hand */
    unsigned i;                         /* its index */
    unsigned n;
    bool flags_ok;   /* EFLAGS hold the guest's flags */
    bool saved_ok;   /* st->arith does */
    bool ends;       /* the instruction at hand ended the block */
    unsigned shadow; /* number of the instruction behind an STI: the block ends with it, by exits that poll; 0: none */
    /* Cold code, written behind the hot part: a jump there, and what it does */
    struct {
        u8 *mark; /* of emit_jcc32 or emit_jmp32; NULL: none */
        enum bt_cold_kind kind;
        u32 site;   /* COLD_SITE */
        u64 target; /* COLD_SIDE */
        u8 insn;
        bool flags_in_memory; /* COLD_TWIN */
    } cold[4 * BT_BLOCK_INSNS];
    unsigned n_cold;
    struct bt_group groups[BT_GROUPS];
    unsigned next_group;
    unsigned twins;  /* groups looked up */
    s32 held;        /* offset in st->addend of the group whose addend SCRATCH_B holds, too; NOT_HELD */
    s64 stack_shift; /* RSP less what it was at the block's start */
    struct bt_site sites[4 * BT_BLOCK_INSNS];
    unsigned n_sites;
    bool overflow;
    struct {
        u64 target;
        u8 *field; /* of a linkable exit: the patched field's end; NULL: not linkable */
        u32 stub;
        bool twin;
        u8 *check; /* behind the displacement of the comparison of the target's page; NULL: it is the block's own */
    } exit[BT_EXITS];
    unsigned n_exits;
    u32 off_poll, off_body;
    struct bt_reloc relocs[BT_RELOCS];
    unsigned n_relocs;
    bool fixed; /* not all of its addresses could be listed */
};

#define BT_NO_PAGE    UINT64_MAX
#define BT_HEAT_BITS  16
#define BT_REGIONS    16u
#define BT_TABLE_BITS 18
#define BT_CHAIN_BITS 17
#define BT_VIEWS      65536u
#define BT_RECENT     4096u

/* How often code without translation was executed: by a hash of its addresses, two places for each. */
struct bt_heat {
    u32 tag, runs;
};

struct bt {
    struct interp ip;
    struct bt_state *st;
    void *memory; /* host stack and state */
    size_t memory_size;
    struct host_code code;
    struct bt_region regions[BT_REGIONS];
    unsigned n_regions;
    u32 hot_runs;    /* times that code is interpreted before it is translated */
    unsigned region; /* being filled */
    u8 *meta;        /* what refs count from */
    size_t meta_size;
    bt_ref_t *blocks; /* by index */
    u32 next_index;
    bt_ref_t *chains;                   /* by hash of start, va and key */
    struct bt_block *recent[BT_RECENT]; /* by va: found lately */
    struct bt_view **views;             /* by RAM page */
    struct bt_view *view_memory, *free_views;
    u64 clock;
    u8 hash_key[BT_CONTEXTS]; /* what the entries of st->hash were made under */
    bool evicting_off;        /* a block is being written: nothing may be evicted */
    u64 random;               /* of ENGINE_TEST_EVICT */
    u8 vec_width;             /* bytes of a vector register of this host */
    int result;               /* why translated code was left: CPU_*, or BT_* below */
    /* Thunks: entry from C, and what cold code jumps to */
    const u8 *enter, *slow, *leave, *resume, *vec_load, *x87_load, *fault, *hash_miss;
    u64 hash_used[BT_CONTEXTS][BT_HASH_SIZE / 64]; /* a bit for each slot that may be in use */
    u32 hash_groups[BT_CONTEXTS];                  /* a bit for each BT_HASH_GROUP of slots with such bits */
    bool hash_local[BT_CONTEXTS];                  /* local: there may be code of pages that are not global */
    s64 kept;                                      /* of the budget: what did not fit into st->left */
    struct bt_heat heat[1u << BT_HEAT_BITS][2];
    struct bt_gen gen;
    bool fast_pext;
    bool tsc_direct, has_rdtscp; /* the guest's TSC is the host's and an addend; the host has RDTSCP */
    const void *outer_stack;     /* the run loop's, where a sanitizer has to be told */
    size_t outer_size;
    bool knows_in_use;    /* the host tells what vector state is in use (XGETBV with ECX = 1) */
    bool vectors_changed; /* C may have changed the guest's vectors since st->upper was right */
    struct engine_stats stats;
};

static inline void *bt_at(const struct bt *bt, bt_ref_t ref)
{
    return bt->meta + ref;
}

static inline bt_ref_t bt_ref_of(const struct bt *bt, const void *p)
{
    return (bt_ref_t)((const u8 *)p - bt->meta);
}

/* The block with that number, modulo the table's size; NULL: none. */
static inline struct bt_block *bt_numbered(const struct bt *bt, u32 index)
{
    bt_ref_t ref = bt->blocks[index & ((1u << BT_TABLE_BITS) - 1)];
    return ref ? bt_at(bt, ref) : NULL;
}

static inline const u8 *bt_body(const struct bt *bt, const struct bt_block *b)
{
    return bt->code.rx + b->code + b->at_body;
}

/* How many instructions of the block have been counted when number `i` is executed. */
static inline s64 bt_counted(const struct bt_block *b, unsigned i)
{
    return i >= b->counted ? b->n : 0;
}

/* The page that the block's instruction runs into. */
static inline struct bt_second *bt_second(const struct bt *bt, const struct bt_block *b)
{
    return b->second ? bt_at(bt, b->second) : NULL;
}

static inline struct bt_view *bt_view_of(const struct bt *bt, const struct bt_block *b)
{
    return &bt->view_memory[b->ref.view];
}

/* arg of SITE_INDIRECT: bytes to take from RSP again if the target is not canonical, or this */
#define UNDO_CALL 0xffffu

/* --- translation (translate.c and its helpers) --- */

/* What bt_group says of an access. */
struct bt_shared {
    bool member; /* it needs no look-up: the addend is in its slot */
    bool write;  /* else: look up for writing */
    s32 disp;    /* else the range to look up, from the base register as it is now */
    unsigned size;
    s32 slot;   /* offset in st->addend */
    bool moved; /* the stack pointer has since the look-up */
};
/* Does the access belong to a group, or begin one? (group.c) */
bool bt_group(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, unsigned size, bool write,
              struct bt_shared *s);
/* An instruction is written: groups whose base it changed end. */
void bt_groups_after(struct bt_gen *g, const struct isa_insn *insn);
/* Base register of an instruction's access that could be one of a group; ISA_NO_REG: none. */
unsigned bt_group_base(const struct isa_insn *insn);
/* All groups end: C may have run. */
void bt_groups_end(struct bt_gen *g);
bool bt_grouped(const struct bt_gen *g);

/* Fill needs_flags of all instructions (flags.c). */
void bt_flags_scan(struct bt_gen *g);
/* May the look-up that comes clobber EFLAGS? Saves them first if that is worth it; uses SCRATCH_A. */
bool bt_flags_free(struct bt_gen *g);
/* The instruction before which the block is best counted; and with what: may EFLAGS be clobbered there? */
unsigned bt_flags_count_at(const struct bt_gen *g);
bool bt_flags_count_cheap(const struct bt_gen *g);
/* The instruction's own code is written: where are the flags now? */
void bt_flags_after(struct bt_gen *g, const struct isa_insn *insn);

/* The software TLB look-up for `size` bytes at the operand of the instruction at hand. See lookup.c. */
struct haddr bt_lookup(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, unsigned size, bool write);
/* The address in SCRATCH_A, so that SCRATCH_B is free. */
struct haddr bt_lookup_a(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, unsigned size, bool write);
/* The address in SCRATCH_B, so that SCRATCH_A is free. */
struct haddr bt_lookup_b(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, unsigned size, bool write);
/* The guest's effective address (with segment base) into SCRATCH_A, `extra` added. */
void bt_address(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, s32 extra);
/* Number of a new site of the instruction at hand, as cold code pushes it. */
u32 bt_site(struct bt_gen *g, enum bt_site_kind kind, unsigned arg);
/* ... of an access to memory. */
u32 bt_access_site(struct bt_gen *g, const struct isa_mem *m, unsigned addr_size, unsigned size, bool write);
/* Let the jump at `mark` go to cold code for `site`. */
void bt_cold(struct bt_gen *g, u8 *mark, u32 site);
/* ... that leaves the block for `target`, or for its twin, where `flags_in_memory` tells where the flags are. */
void bt_cold_side(struct bt_gen *g, u8 *mark, u64 target);
void bt_cold_twin(struct bt_gen *g, u8 *mark, bool flags_in_memory);
/* Value of a guest register in a host register: its own, or `scratch` loaded from its slot. */
unsigned bt_value(struct bt_gen *g, unsigned guest, unsigned scratch);
static inline struct haddr bt_slot(unsigned guest)
{
    unsigned i = guest == R10 ? 0 : guest == R11 ? 1 : 2;
    return AT(H_RSP, ST(slot) + 8 * (s32)i);
}

/* Translate the instruction at hand: each returns false if it is not one of theirs. */
bool bt_flow(struct bt_gen *g, const struct isa_insn *insn); /* flow.c: jumps, calls, returns */
/*
 * Does the block go on after this jump, at offset `off` from its start? *sides: its conditional exits so far. *taken: it goes on
 * at the jump's target, not behind it.
 */
bool bt_flow_goes_on(const struct bt_gen *g, const struct isa_insn *insn, unsigned off, unsigned *sides, bool *taken);
bool bt_stack(struct bt_gen *g, const struct isa_insn *insn);  /* stack.c: push, pop, leave */
bool bt_system(struct bt_gen *g, const struct isa_insn *insn); /* system.c */
/* Is it left to isa/, and changes neither mode nor mappings? */
bool bt_system_reads(const struct isa_insn *insn);
/* Is it a system instruction after which the block goes on? */
bool bt_system_goes_on(const struct bt_gen *g, const struct isa_insn *insn);
bool bt_copy(struct bt_gen *g, const struct isa_insn *insn); /* copy.c: innocuous ones */
void bt_callout(struct bt_gen *g, enum bt_site_kind kind);
/* Does it need the guest's vectors or MXCSR, the x87 unit; is it one that the guest's processor does not have? (copy.c) */
bool bt_uses_vectors(const struct isa_insn *insn);
bool bt_uses_x87(const struct isa_insn *insn);
bool bt_missing(const struct bt_gen *g, const struct isa_insn *insn);

/* Exits: the block goes on at `target`. */
void bt_exit_to(struct bt_gen *g, u64 target);
/* ... in the twin of the block */
void bt_exit_to_twin(struct bt_gen *g, u64 target);
/* ... in the context of another key */
void bt_exit_other(struct bt_gen *g, u8 key, u64 target);
/* ... at the address in SCRATCH_A. `undo`: bytes that a return took from the stack. */
void bt_exit_indirect(struct bt_gen *g, unsigned undo);
/* A conditional exit: jcc to `target` */
void bt_exit_cond(struct bt_gen *g, unsigned cc, u64 target);
/* Let the comparison before a jump to another page fit x->to, or hold always. `disp_end`: in code memory. */
void bt_set_check(u8 *disp_end, const struct bt_block *to);
/* The same in the middle of the block. */
void bt_exit_side(struct bt_gen *g, unsigned cc, u64 target);

static inline void bt_how(struct bt_gen *g, enum engine_how how)
{
    bt_maps(g->b)[g->i].how = how;
}

/* --- 32-bit code (compat.c) --- */
/* Is the state one that translations of 32-bit code can take for granted? Prepares for running them. */
bool bt_compat_mode(struct bt *bt);
/* As isa_decode, of code of that key: 32-bit code in a form that the other files know how to translate. */
int bt_decode(u8 key, const u8 *bytes, size_t avail, struct isa_insn *insn);
/* As bt_flow and bt_stack. */
bool bt_compat_flow(struct bt_gen *g, const struct isa_insn *insn);
bool bt_compat_stack(struct bt_gen *g, const struct isa_insn *insn);
/* Must the interpreter do an access that missed, at linear address `va` by segment `seg`? */
static inline bool bt_compat_odd(const struct bt_state *st, u8 key, u64 va, unsigned seg)
{
    if (!(key & BK_COMPAT))
        return false;
    return va >> 32 || ((seg == SEG_FS || seg == SEG_GS) && st->no_segment[seg - SEG_FS]);
}
/* Code from here on is not translated: EIP may wrap. */
#define BT_COMPAT_END 0xfffff000u

/* A jump's target: EIP has 32 bits. */
static inline u64 bt_target(const struct bt_gen *g, const struct isa_insn *insn)
{
    u64 target = g->rip + insn->len + (u64)insn->imm;
    return g->b->key & BK_COMPAT ? (u32)target : target;
}

/* Bytes of a stack slot. */
static inline unsigned bt_slot_size(const struct isa_insn *insn)
{
    return insn->mode == ISA_MODE_32 ? 4 : 8;
}

/* The block at `va`, whose first byte is at `start` of RAM. NULL: no memory, or *result is a fault to raise. */
struct bt_block *bt_translate(struct bt *bt, u64 va, u64 start, u8 key);

/* --- thunks (thunk.c) --- */
void bt_thunks(struct bt *bt, struct emit *e);
/* Called by them. Returns the code to go on with. */
const u8 *bt_service(struct bt_state *st, u32 site);
const u8 *bt_faulted(struct bt_state *st, u64 where);
const u8 *bt_refill(struct bt_state *st, u32 site);
/* Linear address of a site's access. */
u64 bt_site_address(const struct cpu *c, const struct bt_block *b, const struct bt_site *s);

/* --- what needs little (quick.c) --- */
/* arg of the SITE_CALLOUT of an instruction; 0: it is the interpreter's. */
unsigned bt_quick_arg(const struct bt_gen *g, const struct isa_insn *insn);
/* Do it: the code behind it, or NULL and nothing is changed but the TLB. */
const u8 *bt_quick(struct bt *bt, const struct bt_block *b, const struct bt_site *s);

/* --- the x87 unit (x87.c) --- */
/* Is it an instruction of the unit that is the interpreter's? */
bool bt_x87_left(const struct isa_insn *insn);
/* Thunk: the guest's x87 state into the host's unit. */
void bt_x87_load(struct bt *bt, struct emit *e);
/* Code: back, if it is there; RAX and RCX only. bt_x87_saved is to be called then; the jump returned goes round that. */
u8 *bt_x87_save(struct emit *e);
void bt_x87_saved(struct bt_state *st);

/* Let the interpreter's idea of the context follow what STAC and CLAC did in translated code. */
static inline void bt_sync(struct bt *bt)
{
    bt->ip.context = bt->st->key & BK_CONTEXT;
    bt->ip.tlb = &bt->ip.tlbs[bt->ip.context];
}

/* Translated code is to come back at its next poll. */
static inline void bt_come_back(struct bt *bt)
{
    bt->kept += bt->st->left + 1;
    bt->st->left = -1;
}

/* The code of instruction `i`, which is reached by C, not by the code before it. */
static inline const u8 *bt_continue(struct bt *bt, const struct bt_block *b, unsigned i)
{
    if (i == b->counted)
        bt->st->left -= b->n;
    return bt->code.rx + b->code + bt_maps(b)[i].host;
}

/* Is there an event, or does another CPU wait for this one? Then translated code is to come back at its next poll. */
static inline bool bt_attention(struct bt *bt)
{
    if (!__atomic_load_n(&bt->ip.cpu->attention, __ATOMIC_RELAXED) &&
        !__atomic_load_n(&bt->ip.seat->waiting, __ATOMIC_RELAXED))
        return false;
    bt_come_back(bt);
    return true;
}

/* Number of the instruction whose code is at that offset of code memory, in its block. */
static inline unsigned bt_insn_at(const struct bt_block *b, u32 offset)
{
    unsigned i = 0;
    while (i + 1 < b->n && bt_maps(b)[i + 1].host <= offset - b->code)
        i++;
    return i;
}

/* --- views and moving (move.c) --- */
/* A block is begun; `value` (or its negative) into a register; the displacement just written is one of the TLB's entry for
   the page of `va`, or of the hash's slot for `va`. All of them move with the block. */
void bt_moves_begin(struct bt_gen *g);
void bt_moves_value(struct bt_gen *g, unsigned reg, u64 value);
void bt_moves_minus(struct bt_gen *g, unsigned reg, u64 value);
void bt_moves_page(struct bt_gen *g, u64 va);
void bt_moves_hash(struct bt_gen *g, u64 va);
/* The view of a RAM offset under a linear address, made if there is none. NULL: too many. */
struct bt_view *bt_view(struct bt *bt, u64 va, u64 ram);
/* One that has become empty. */
void bt_view_drop(struct bt *bt, struct bt_view *v);
/* Let translations of that RAM page follow to its new address, if it is worth it. `busy`: not those of this block's view. */
bool bt_move_here(struct bt *bt, u64 va, u64 ram, const struct bt_block *busy);

/* --- the engine (run.c, explain.c) --- */
/* Is there translated code for the mode that the interpreter has derived? Sets st->key. */
bool bt_mode(struct bt *bt);
/* As engine_ops.explain. */
int bt_explain(struct bt *bt, struct cpu *c, u64 va, struct engine_explain *out);

/* --- code cache (cache.c) --- */
int bt_cache_init(struct bt *bt, size_t size, struct error *e);
void bt_cache_fini(struct bt *bt);
/* The same by linear address, if its page is in the TLB of the key's context and there is code to run. */
struct bt_block *bt_known(struct bt *bt, u64 va, u8 key);
struct bt_block *bt_find(struct bt *bt, u64 va, u64 start, u8 key);
/* Room for a block of at most that much; evicts if there is none. */
bool bt_room(struct bt *bt, size_t code, size_t meta);
void *bt_meta(struct bt *bt, size_t size);
/* Into the tables. False: too many views. */
bool bt_publish(struct bt *bt, struct bt_block *b);
void bt_chain_add(struct bt *bt, struct bt_block *b);
void bt_chain_remove(struct bt *bt, struct bt_block *b);
/* Join a jump with the block it leads to, whose page is in the TLB now; and take that back. */
void bt_link(struct bt *bt, struct bt_exit *x, struct bt_block *to);
void bt_unlink(struct bt *bt, struct bt_exit *x);
void bt_kill(struct bt *bt, struct bt_block *b);
void bt_flush(struct bt *bt);
/* The block whose code holds this offset of code memory, or NULL. */
struct bt_block *bt_at_code(struct bt *bt, u32 offset);
void bt_evict(struct bt *bt, unsigned region);
void bt_hash_drop(struct bt *bt, const struct bt_block *b);
void bt_hash_drop_page(struct bt *bt, unsigned context, u64 va);
void bt_hash_clear(struct bt *bt, unsigned context);
void bt_hash_put(struct bt *bt, const struct bt_block *b);
static inline u32 bt_hash_set(u64 va)
{
    return va >> 2 & (BT_HASH_SIZE - 1);
}
void bt_code_killed(void *owner, u64 ram_page, unsigned from, unsigned to);
bool bt_has_code(void *owner, u64 ram_page);

#endif
