/*
 * The cache of stubs, and running one.
 *
 * A stub is found by its plan (native_plan.c): a hash table of chains over an array of stubs; code goes to code memory
 * from its start to its end. When either is full everything is dropped and the generation changes. Code is written
 * through one mapping and executed through the other; a stub's bytes are complete before it is called for the first
 * time, and x86 snoops instruction caches by physical address, so nothing has to be flushed.
 *
 * native_run is a ladder: is the unit enabled (one test on CR0, CR4 and XCR0), then the function of the stub's kind; the
 * floor of it is one call of the stub. A fault comes back as the stub's return value (host/linux/fault.c) with the x87
 * state and MXCSR of the moment of the fault still in the processor: they become the guest's, everything else stays.
 *
 * What must stay true
 *  1. native_run makes no system call.
 *  2. Whatever the guest's MXCSR and x87 control word are, the caller's are in force when native_run returns.
 *  3. A fault anywhere in a stub but at the guest's instruction is not the guest's (a FXSAVE image that the processor
 *     refuses): it stops the guest and says so.
 *
 * Not done
 *  - LOCK on instructions that come here is not atomic against other CPUs (one CPU for now)
 *  - x87 errors with CR0.NE=0 raise #MF, not FERR#
 *  - host processors without LAHF in 64-bit mode (2004)
 */
#include "engine/interp/native_internal.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* Code memory and stubs are reserved in this proportion: bytes of code a stub. */
#define BYTES_PER_STUB 112
#define MIN_CACHE      (64u << 10)
#define MAX_CACHE      (1u << 30)

/* --- which control bits allow a unit --- */

struct gate {
    u64 cr0_mask, cr0_want, cr4, xcr0;
};

#define XCR0_VECTORS (XCR0_SSE | XCR0_AVX)
#define GATE_VEX     .cr0_mask = CR0_TS | CR0_PE, .cr0_want = CR0_PE, .cr4 = CR4_OSXSAVE

static const struct gate gates[NATIVE_UNITS] = {
    [UNIT_INTEGER_VEX] = {.cr0_mask = CR0_PE, .cr0_want = CR0_PE},
    [UNIT_X87] = {.cr0_mask = CR0_EM | CR0_TS},
    [UNIT_FWAIT] = {.cr0_mask = CR0_TS},
    [UNIT_MMX] = {.cr0_mask = CR0_EM | CR0_TS},
    [UNIT_SSE] = {.cr0_mask = CR0_EM | CR0_TS, .cr4 = CR4_OSFXSR},
    [UNIT_AVX] = {GATE_VEX, .xcr0 = XCR0_VECTORS},
    [UNIT_AVX512] = {GATE_VEX, .xcr0 = XCR0_VECTORS | XCR0_AVX512},
};

static inline bool gate_shut(const struct cpu *c, const struct gate *g)
{
    return ((c->cr0 ^ g->cr0_want) & g->cr0_mask) | (g->cr4 & ~c->cr4) | (g->xcr0 & ~c->xcr0);
}

/* Which exception a shut gate means (SDM vol. 3A, table 2-2 and 2.5; vol. 2A, 2.4). CPU_OK: none after all. */
static int __attribute__((cold)) refuse(struct cpu *c, u8 unit)
{
    const struct gate *g = &gates[unit];
    bool no_pe = (g->cr0_want & CR0_PE) && !(c->cr0 & CR0_PE);
    if (no_pe || (g->cr4 & ~c->cr4) || (g->xcr0 & ~c->xcr0))
        return cpu_raise(c, VEC_UD);
    if (unit == UNIT_FWAIT && !(c->cr0 & CR0_MP))
        return CPU_OK;
    if ((g->cr0_mask & CR0_EM) && (c->cr0 & CR0_EM))
        return cpu_raise(c, unit == UNIT_X87 ? VEC_NM : VEC_UD);
    return cpu_raise(c, VEC_NM);
}

/* --- running a stub --- */

static void host_fp_state(const struct native *n)
{
    __asm__ volatile("fninit\n\tfldcw %0\n\tldmxcsr %1" ::"m"(n->host.fcw), "m"(n->host.mxcsr));
}

/* The processor still holds the guest's x87 state and MXCSR: take what the instruction uses of them. */
static void take_fp_state(struct cpu *c, const struct native_plan *p)
{
    if (p->flags & PLAN_X87)
        __asm__ volatile("fxsave64 %0" : "=m"(c->fpu.fx));
    else if (p->flags & PLAN_MXCSR)
        __asm__ volatile("stmxcsr %0" : "=m"(*cpu_mxcsr(&c->fpu)));
}

/* The guest's exception for a processor's vector. */
static int raise_trap(struct cpu *c, unsigned trap, u64 address)
{
    switch (trap) {
    case VEC_GP:
    case VEC_AC:
        return cpu_raise_error(c, (u8)trap, 0);
    case VEC_PF:
        return cpu_raise_pf(c, GVA(address), 0);
    case VEC_XM:
        return cpu_raise(c, c->cr4 & CR4_OSXMMEXCPT ? VEC_XM : VEC_UD);
    case VEC_DE:
    case VEC_UD:
    case VEC_MF:
        return cpu_raise(c, (u8)trap);
    default:
        return cpu_unimplemented(c, "exception %u of an instruction run natively", trap);
    }
}

static int __attribute__((cold))
stub_fault(struct native *n, struct cpu *c, const struct native_stub *s, struct native_result r)
{
    bool ours = r.status >> 32 != s->insn_off;
    if (!ours)
        take_fp_state(c, &s->plan);
    host_fp_state(n);
    if (ours)
        return cpu_unimplemented(c, "floating-point state that this processor refuses (MXCSR %08x)",
                                 *cpu_mxcsr(&c->fpu));
    return raise_trap(c, r.status & 0xff, r.address);
}

int native_call(struct native *n, struct cpu *c, const struct native_stub *s, u8 *operand)
{
    struct native_result r = s->code(c, operand);
    return likely(!r.status) ? CPU_OK : stub_fault(n, c, s, r);
}

/*
 * After an x87 instruction the image may hold the stub's address as FIP, its operand as FDP, its opcode as FOP.
 * Processors differ in when they update each; what they did not update is the guest's already. FIP and FDP tell
 * by their values; FOP is 11 bits, so it is asked when this host updates it: with every instruction, or only with one that
 * raises an unmasked exception (SDM vol. 1, 8.1.9.1).
 */
void native_x87_pointers(const struct native *n, struct cpu *c, const struct native_stub *s,
                         const struct isa_insn *insn, const u8 *operand, u64 ea)
{
    u64 fip, fdp;
    cpu_fpu_settle_pointers(&c->fpu);
    memcpy(&fip, c->fpu.fx + 8, sizeof(fip));
    memcpy(&fdp, c->fpu.fx + 16, sizeof(fdp));
    if (fip != s->rip)
        return;
    memcpy(c->fpu.fx + 8, &c->rip, sizeof(c->rip));
    if (operand && fdp == (u64)(uintptr_t)operand)
        memcpy(c->fpu.fx + 16, &ea, sizeof(ea));
    if (n->host.fop_always || native_x87_pending(c)) {
        u16 fop = (u16)((insn->opcode & 7) << 8 | insn->modrm);
        memcpy(c->fpu.fx + 6, &fop, sizeof(fop));
    }
}

static int run_x87(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s)
{
    struct cpu *c = m->cpu;
    if ((s->plan.flags & PLAN_WAITS) && native_x87_pending(c))
        return cpu_raise(c, VEC_MF);
    int rc = native_call(n, c, s, NULL);
    native_x87_pointers(n, c, s, insn, NULL, 0);
    if (s->plan.env == ENV_CLEAR)
        memset(c->fpu.fx + 6, 0, 18); /* FOP, FIP, FDP: AMD's FXSAVE leaves them as they were in memory */
    return rc;
}

/* VZEROUPPER and VZEROALL: 16 registers in 64-bit mode, else 8. */
static int run_vzero(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s)
{
    unsigned from = insn->mnemonic == ZYDIS_MNEMONIC_VZEROALL ? 0 : 16;
    for (unsigned i = 0; i < (insn->mode == ISA_MODE_64 ? 16 : 8); i++)
        memset(m->cpu->fpu.zmm[i].b + from, 0, sizeof(struct cpu_vec) - from);
    return CPU_OK;
}

int native_run(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s)
{
    struct cpu *c = m->cpu;
    if (unlikely(gate_shut(c, &gates[s->plan.unit])) && refuse(c, s->plan.unit))
        return CPU_FAULT;
    switch (s->plan.kind) {
    case NATIVE_REGISTER:
        return native_call(n, c, s, NULL);
    case NATIVE_X87:
        return run_x87(n, m, insn, s);
    case NATIVE_MEMORY:
        return native_run_memory(n, m, insn, s);
    case NATIVE_MASKED_STORE:
        return native_run_masked_store(n, m, insn, s);
    case NATIVE_TOUCH:
        return native_run_touch(n, m, insn, s);
    case NATIVE_VZERO:
        return run_vzero(n, m, insn, s);
    case NATIVE_GATHER:
        return native_run_gather(n, m, insn, s);
    case NATIVE_SCATTER:
        return native_run_scatter(n, m, insn, s);
    default:
        return CPU_OK; /* NATIVE_NOTHING */
    }
}

/* --- the cache --- */

static u32 plan_hash(const struct native_plan *p)
{
    const u8 *b = (const u8 *)p;
    u64 h = 0, word;
    for (size_t i = 0; i + sizeof(word) <= sizeof(*p); i += sizeof(word)) {
        memcpy(&word, b + i, sizeof(word));
        h = (h ^ word) * 0x9e3779b97f4a7c15ull;
        h ^= h >> 29;
    }
    return (u32)(h >> 32);
}
_Static_assert(sizeof(struct native_plan) % sizeof(u64) == 0, "plans are hashed by words");

static void drop_all(struct native *n)
{
    memset(n->buckets, 0, n->n_buckets * sizeof(*n->buckets));
    n->n_stubs = 0;
    n->used = CODE_FLOOR;
    n->generation++;
}

static const struct native_stub *find(const struct native *n, const struct native_plan *p, u32 bucket)
{
    for (u32 i = n->buckets[bucket]; i; i = n->stubs[i - 1].next)
        if (memcmp(&n->stubs[i - 1].plan, p, sizeof(*p)) == 0)
            return &n->stubs[i - 1];
    return NULL;
}

/* Write the stub's code at the end of what is used; there is room for STUB_MAX bytes. */
static bool emit(struct native *n, struct native_stub *s, const char **why)
{
    unsigned insn_off;
    const u8 *rx = n->code.rx + n->used;
    size_t len = native_emit(&n->host, &s->plan, n->code.rw + n->used, rx, n->code.rx, &insn_off);
    if (!len) {
        *why = "needs too long a stub";
        return false;
    }
    s->code = (native_fn)(uintptr_t)rx;
    s->insn_off = (u32)(n->used + insn_off);
    s->rip = (u64)(uintptr_t)(rx + insn_off);
    n->used += (len + 15) & ~(size_t)15;
    return true;
}

static const struct native_stub *add(struct native *n, const struct native_plan *p, u32 bucket, const char **why)
{
    if (n->n_stubs == n->max_stubs || n->code.size - n->used < STUB_MAX)
        drop_all(n);
    struct native_stub *s = &n->stubs[n->n_stubs];
    *s = (struct native_stub){.next = n->buckets[bucket]};
    memcpy(&s->plan, p, sizeof(*p));
    if (p->len && !emit(n, s, why))
        return NULL;
    n->buckets[bucket] = ++n->n_stubs;
    return s;
}

const struct native_stub *native_prepare(struct native *n, const struct isa_insn *insn, const char **why)
{
    struct native_plan p;
    memset(&p, 0, sizeof(p));
    if (!native_plan(&n->host, insn, &p, why))
        return NULL;
    u32 bucket = plan_hash(&p) & (n->n_buckets - 1);
    const struct native_stub *s = find(n, &p, bucket);
    return s ? s : add(n, &p, bucket, why);
}

u32 native_generation(const struct native *n)
{
    return n->generation;
}

/* --- life --- */

/* Does an instruction without exceptions leave its opcode in FOP? */
static bool probe_fop(void)
{
    u8 image[512] __attribute__((aligned(16)));
    __asm__ volatile("fninit\n\tfldz\n\tfxsave64 %0\n\tfstp %%st(0)" : "=m"(image));
    return image[6] || image[7];
}

static void probe_host(struct native_host *h)
{
    __builtin_cpu_init();
    h->vec_width = __builtin_cpu_supports("avx512f") ? 64 : __builtin_cpu_supports("avx") ? 32 : 16;
    h->wide_masks = __builtin_cpu_supports("avx512bw");
    __asm__ volatile("stmxcsr %0\n\tfnstcw %1" : "=m"(h->mxcsr), "=m"(h->fcw));
    h->mxcsr &= ~0x3fu; /* the flags are nobody's */
    h->fop_always = probe_fop();
    __asm__ volatile("fldcw %0" ::"m"(h->fcw));
}

static int allocate(struct native *n, size_t cache_bytes, struct error *e)
{
    int rc = host_code_create(&n->code, cache_bytes, e);
    if (rc)
        return rc;
    n->bounce = host_map_guarded(PAGE_SIZE, e);
    if (!n->bounce)
        return -ENOMEM;
    n->max_stubs = (u32)(cache_bytes / BYTES_PER_STUB);
    for (n->n_buckets = 256; n->n_buckets < n->max_stubs; n->n_buckets *= 2)
        ;
    n->stubs = calloc(n->max_stubs, sizeof(*n->stubs));
    n->buckets = calloc(n->n_buckets, sizeof(*n->buckets));
    if (!n->stubs || !n->buckets)
        return error_set(e, ENOMEM, "native execution: no memory for %u stubs", n->max_stubs);
    return 0;
}

int native_create(struct native **out, size_t cache_bytes, struct error *e)
{
    struct native *n = calloc(1, sizeof(*n));
    if (!n)
        return error_set(e, ENOMEM, "native execution: out of memory");
    cache_bytes = MIN(MAX(cache_bytes, (size_t)MIN_CACHE), (size_t)MAX_CACHE);
    probe_host(&n->host);
    int rc = host_fault_init(e);
    if (!rc)
        rc = allocate(n, cache_bytes, e);
    if (!rc) {
        native_emit_head(&n->host, n->code.rw);
        rc = host_fault_region_add(n->code.rx, n->code.rx + n->code.size, n->code.rx + CODE_RECOVER, false);
        if (rc)
            error_set(e, -rc, "native execution: too many code regions in this process");
    }
    if (rc) {
        native_destroy(n);
        return rc;
    }
    drop_all(n);
    *out = n;
    return 0;
}

void native_destroy(struct native *n)
{
    if (!n)
        return;
    if (n->code.rx)
        host_fault_region_remove(n->code.rx);
    host_code_destroy(&n->code);
    host_unmap_guarded(n->bounce, PAGE_SIZE);
    free(n->stubs);
    free(n->buckets);
    free(n);
}
