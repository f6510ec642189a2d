/* The run loop: between blocks it polls, takes events, derives the mode, finds the next block. */
#include "engine/interp/interp.h"
#include "host/host.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct engine {
    struct interp ip;
};

/*
 * A block's instructions are counted when it is entered; those from `op` on did not run. `op` may be a copy, so it is
 * known by its place in the guest's code.
 */
static void give_back(struct interp *ip, const struct op *op)
{
    const struct block *b = ip->current;
    unsigned done = 0;
    while (done < b->n && b->ops[done].off < op->off)
        done++;
    ip->budget += b->n - done;
}

void fault_exit(struct interp *ip, const struct op *op, int code)
{
    op_rip(ip, op);
    /* SCAS and CMPS under a repeat prefix: registers stay advanced, flags do not (seen on silicon). */
    if (ip->undo)
        ip->cpu->arith = ip->undo_arith;
    ip->undo = false;
    give_back(ip, op);
    longjmp(ip->exit, code);
}

void op_leave(struct interp *ip, const struct op *op)
{
    give_back(ip, op);
    ip->cpu->rip += op->off;
}

u64 ea_slow(struct interp *ip, const struct op *op, unsigned size, bool write)
{
    struct cpu *c = ip->cpu;
    u64 off = ea_offset(c, op);
    if (op->addr_size == 4)
        off &= 0xffffffff;
    else if (op->addr_size == 2)
        off &= 0xffff;
    if ((ip->key & KEY_MODE) == ISA_MODE_64)
        return off + *(const u64 *)(const void *)((const u8 *)c + op->seg);
    /* Code is never writable, so a store through CS is not for the short way. */
    if ((ip->key & KEY_FLAT) && op->segno < SEG_FS && !(write && op->segno == SEG_CS))
        return off;
    gva_t va;
    int r = isa_linear(c, op->segno, off, size, write, &va);
    if (r != CPU_OK)
        fault_exit(ip, op, r);
    return va.v;
}

/* --- mode --- */

static bool flat(const struct cpu_segment *s, u32 type_bits)
{
    return !s->base && s->limit == 0xffffffff && !(s->attr & SEG_UNUSABLE) && (s->attr & SEG_P) &&
           (s->attr & type_bits) == type_bits && ((s->attr & SEG_CODE) || !(s->attr & SEG_CE));
}

static u8 mode_key(const struct cpu *c)
{
    const struct cpu_segment *cs = &c->seg[SEG_CS];
    if (cpu_code64(c))
        return ISA_MODE_64;
    u8 key = cs->attr & SEG_DB ? ISA_MODE_32 : ISA_MODE_16;
    if (c->seg[SEG_SS].attr & SEG_DB)
        key |= KEY_SS32;
    /* Readable code for CS-relative data, writable data for the others. */
    if (flat(cs, SEG_RW | SEG_CODE) && flat(&c->seg[SEG_SS], SEG_RW) && flat(&c->seg[SEG_DS], SEG_RW) &&
        flat(&c->seg[SEG_ES], SEG_RW) && !(c->seg[SEG_DS].attr & SEG_CODE) && !(c->seg[SEG_ES].attr & SEG_CODE))
        key |= KEY_FLAT;
    if (cs->base || cs->limit != 0xffffffff)
        key |= KEY_BASED;
    if (cpu_paragraphs(c))
        key |= KEY_NO_VEX;
    return key;
}

static bool alignment_checked(const struct cpu *c)
{
    return c->cpl == 3 && (c->cr0 & CR0_AM) && (c->sysflags & FL_AC);
}

static u8 vector_rights(const struct cpu *c)
{
    u64 avx = XCR0_SSE | XCR0_AVX;
    if (c->cr0 & (CR0_EM | CR0_TS))
        return 0;
    return (u8)((c->cr4 & CR4_OSFXSR ? VECTOR_SSE : 0) |
                ((c->cr4 & CR4_OSXSAVE) && (c->xcr0 & avx) == avx ? VECTOR_AVX : 0));
}

/* Derive key and TLB context from the CPU's state: after every system instruction, delivery or change from outside. */
void interp_derive(struct interp *ip)
{
    struct cpu *c = ip->cpu;
    ip->stale = false;
    ip->key = mode_key(c);
    if (c->shadow || (c->sysflags & (FL_TF | FL_RF)) || isa_debug_armed(c))
        ip->key |= KEY_SINGLE;
    ip->user = c->cpl == 3;
    ip->vector_ok = vector_rights(c);
    if (alignment_checked(c) || isa_debug_armed(c))
        ip->context = TLB_NEVER;
    else
        ip->context = ip->user ? TLB_USER : c->sysflags & FL_AC ? TLB_SUPERVISOR_AC : TLB_SUPERVISOR;
    ip->tlb = &ip->tlbs[ip->context];
}

/* --- events --- */

static bool events_waiting(const struct interp *ip)
{
    return __atomic_load_n(&ip->cpu->attention, __ATOMIC_RELAXED) != 0;
}

/*
 * A delivery uses budget like an instruction: a handler that faults at once would otherwise be delivered for ever without
 * the caller coming to see to its timers.
 */
static void spend(struct interp *ip)
{
    ip->budget--;
    ip->deliveries++;
}

/* ENGINE_TEST_EXACT counts what the program does, not what comes to it from outside. */
static void spend_interrupt(struct interp *ip)
{
    ip->stats.interrupts++;
    if (!(ip->cfg.test & ENGINE_TEST_EXACT))
        spend(ip);
}

/* An interrupt or trap between two elements of a repeated instruction saves RF set (SDM vol. 3B, 17.3.1.1). */
static void mark_resume(struct interp *ip)
{
    if (ip->in_repeat)
        ip->cpu->sysflags |= FL_RF;
}

/* Take an NMI or interrupt if one is deliverable at this boundary. CPU_OK (taken or not) or a reason to stop. */
static int take_events(struct interp *ip)
{
    struct cpu *c = ip->cpu;
    u32 attention = __atomic_load_n(&c->attention, __ATOMIC_ACQUIRE);
    if ((attention & ATTN_NMI) && isa_interruptible(c, ISA_EVENT_NMI)) {
        cpu_attention_clear(c, ATTN_NMI);
        mark_resume(ip);
        spend_interrupt(ip);
        return isa_take_interrupt(&ip->isa, ISA_EVENT_NMI, VEC_NMI);
    }
    if ((attention & ATTN_INTR) && isa_interruptible(c, ISA_EVENT_EXTERNAL)) {
        coherence_leave(ip->seat);
        int vector = ip->cfg.ops->irq_ack(ip->cfg.ops_ctx, c);
        coherence_enter(ip->seat);
        if (vector < 0)
            return CPU_OK;
        mark_resume(ip);
        spend_interrupt(ip);
        return isa_take_interrupt(&ip->isa, ISA_EVENT_EXTERNAL, (u8)vector);
    }
    return CPU_OK;
}

/* --- stopping --- */

static void stop_for(struct interp *ip, int code, struct stop *s)
{
    switch (code) {
    case CPU_SHUTDOWN:
        s->kind = STOP_SHUTDOWN;
        snprintf(s->text, sizeof(s->text), "triple fault at rip %#llx", (unsigned long long)ip->cpu->rip);
        break;
    case CPU_UNIMPLEMENTED:
        s->kind = STOP_UNIMPLEMENTED;
        snprintf(s->text, sizeof(s->text), "not implemented: %s", ip->cpu->stop_reason);
        break;
    default:
        s->kind = STOP_FAILURE;
        snprintf(s->text, sizeof(s->text), "interpreter: unexpected result %d", code);
    }
}

/* A fault or worse came out of a block or an instruction. Returns CPU_OK to go on. */
static int after_fault(struct interp *ip, int code)
{
    if (code != CPU_FAULT)
        return code;
    ip->stats.exceptions++;
    ip->cpu->shadow = 0;
    spend(ip);
    return isa_deliver_fault(&ip->isa);
}

/* Do `len` bytes at EIP lie in the code segment? (Code segments know no expand-down.) */
static bool in_code(const struct interp *ip, unsigned len)
{
    const struct cpu *c = ip->cpu;
    return !(ip->key & KEY_BASED) || c->rip + len - 1 <= c->seg[SEG_CS].limit;
}

/*
 * One instruction alone: before it the limit of CS, and breakpoints but for the shadow of MOV SS (SDM vol. 3B, 17.3.1.1);
 * shadow, RF and traps behind it. The shadow in force ends with it unless it starts a new one; so does RF, once it is
 * complete, unless IRET sets it.
 */
static int run_single(struct interp *ip, const struct block *b)
{
    struct cpu *c = ip->cpu;
    if (!in_code(ip, b->bytes)) {
        ip->budget += b->n;
        return cpu_raise_error(c, VEC_GP, 0);
    }
    u64 exec = isa_debug_armed(c) && !(c->shadow & SHADOW_MOVSS) ? isa_debug_exec(c, GVA(code_va(ip))) : 0;
    if (exec) {
        ip->budget += b->n;
        c->fault = (struct cpu_fault){.vector = VEC_DB, .address = exec};
        return CPU_FAULT;
    }
    ip->stale = true;
    bool tf = c->sysflags & FL_TF;
    u16 mnemonic = b->mnemonic; /* the block may be gone behind the instruction */
    c->shadow = 0;
    ip->debug_hits = 0;
    b->ops[0].fn(ip, b->ops);
    if (mnemonic != ZYDIS_MNEMONIC_IRET && mnemonic != ZYDIS_MNEMONIC_IRETD && mnemonic != ZYDIS_MNEMONIC_IRETQ &&
        !ip->in_repeat)
        c->sysflags &= ~FL_RF;
    u64 dr6 = ip->debug_hits | (isa_debug_step(c, mnemonic, tf) ? ISA_DR6_BS : 0);
    if (!dr6 || (c->shadow & SHADOW_MOVSS))
        return CPU_OK;
    mark_resume(ip);
    return isa_debug_trap(&ip->isa, dr6);
}

/* Switches for tests (engine.h), before each block: to empty the cache, to make the next block a single instruction. */
static void switches(struct interp *ip)
{
    u32 test = ip->cfg.test;
    if ((test & ENGINE_TEST_EVICT) && ip->evict_in-- == 0) {
        ip->evict_random = ip->evict_random * 1664525 + 1013904223;
        ip->evict_in = ip->evict_random >> 20; /* 0 to 4095 */
        blocks_flush(ip);
    }
    if (test & ENGINE_TEST_SINGLE)
        ip->key |= KEY_SINGLE;
}

/*
 * ENGINE_TEST_EXACT: the block would go beyond the budget, so its first instruction alone. Without TF, RF, shadows and
 * breakpoints the checks of run_single find nothing to do. Also for blocks that go beyond the limit of CS.
 */
static struct block *shorten(struct interp *ip, int *r)
{
    ip->key |= KEY_SINGLE;
    ip->stale = true; /* the next block may be a whole one */
    return block_lookup(ip, r);
}

int interp_step(struct interp *ip)
{
    int r = CPU_OK;
    u8 key = ip->key;
    ip->in_repeat = false;
    ip->key |= KEY_SINGLE;
    struct block *b = block_lookup(ip, &r);
    ip->key = key;
    if (unlikely(!b)) {
        if (ip->flush_wanted)
            blocks_flush(ip);
        ip->budget++;
        return r;
    }
    ip->current = b;
    b->ops[0].fn(ip, b->ops);
    return STEP_DONE;
}

/*
 * A block that is not run just so: a single instruction, or one of a code segment with limits, which is run whole if it lies
 * within them, else instruction by instruction up to the one that does not.
 */
static int run_odd(struct interp *ip, struct block *b)
{
    int r = CPU_OK;
    if (ip->key & KEY_SINGLE)
        return run_single(ip, b);
    if (likely(in_code(ip, b->bytes))) {
        b->ops[0].fn(ip, b->ops);
        return CPU_OK;
    }
    ip->budget += b->n;
    b = shorten(ip, &r);
    if (!b)
        return r;
    ip->current = b;
    ip->budget -= b->n;
    return run_single(ip, b);
}

int interp_block(struct interp *ip)
{
    int r = CPU_OK;
    if (unlikely(ip->flush_wanted))
        blocks_flush(ip);
    if (unlikely(ip->cfg.test))
        switches(ip);
    ip->in_repeat = false;
    struct block *b = block_lookup(ip, &r);
    if (b && unlikely(b->n > ip->budget) && (ip->cfg.test & ENGINE_TEST_EXACT) && b->n > 1)
        b = shorten(ip, &r);
    if (unlikely(!b)) {
        if (ip->flush_wanted)
            blocks_flush(ip);
        return r == CPU_OK || in_code(ip, 1) ? r : cpu_raise_error(ip->cpu, VEC_GP, 0);
    }
    ip->current = b;
    ip->budget -= b->n;
    if (unlikely(ip->key & (KEY_SINGLE | KEY_BASED)))
        return run_odd(ip, b);
    b->ops[0].fn(ip, b->ops);
    return CPU_OK;
}

/* Interrupts and requests at this boundary. False: stop. */
static bool serve_events(struct interp *ip, int *code, struct stop *s)
{
    if (likely(!events_waiting(ip)) || (ip->begun && (ip->cfg.test & ENGINE_TEST_EXACT)))
        return true;
    if (ip->cpu->attention & ATTN_REQUEST) {
        cpu_attention_clear(ip->cpu, ATTN_REQUEST);
        s->kind = STOP_REQUEST;
        return false;
    }
    ip->stale = true;
    *code = take_events(ip);
    return true;
}

/* Does the CPU seem to wait for another? Then its run ends, so that the other gets a processor. */
static bool interp_spins(const struct interp *ip)
{
    return ip->pauses >= INTERP_PATIENCE && coherence_shared(ip->seat) && !(ip->cfg.test & ENGINE_TEST_EXACT);
}

bool interp_ready(struct interp *ip, int code, struct stop *s)
{
    coherence_serve(ip->seat);
    do {
        if (unlikely(code == CPU_FAULT)) {
            ip->stale = true;
            code = after_fault(ip, code);
        } else if (unlikely(code != CPU_OK)) {
            stop_for(ip, code, s);
            return false;
        } else if (!serve_events(ip, &code, s)) {
            return false;
        } else if (code == CPU_OK) {
            ip->begun = true;
            break;
        }
    } while (true);
    s->spins = interp_spins(ip);
    bool paid = (ip->budget > 0 && !s->spins) || ip->uncounted;
    ip->uncounted = false;
    if (unlikely(ip->cpu->rip >> 32) && !cpu_code64(ip->cpu))
        ip->cpu->rip = (u32)ip->cpu->rip; /* a block ran to the end of the address space */
    if (unlikely(ip->cpu->halted))
        s->kind = STOP_HALT;
    else if (unlikely(!paid))
        s->kind = STOP_BUDGET;
    else if (unlikely(ip->stale))
        interp_derive(ip);
    return !ip->cpu->halted && paid;
}

/* Until the budget is used up or something stops the CPU. */
static void run_loop(struct interp *ip, struct stop *s)
{
    /* Faults and system instructions that do not complete come back here, any number of times. */
    int code = setjmp(ip->exit);
    ip->stale = true;
    while (interp_ready(ip, code, s))
        code = interp_block(ip);
}

static void interp_run(struct engine *en, struct cpu *c, u64 budget, struct stop *stop)
{
    if (!interp_begin(&en->ip, c, budget, stop))
        return;
    s64 start = en->ip.budget;
    run_loop(&en->ip, stop);
    interp_end(&en->ip);
    en->ip.stats.instructions += (u64)(start - en->ip.budget) - en->ip.deliveries;
}

bool interp_begin(struct interp *ip, struct cpu *c, u64 budget, struct stop *stop)
{
    ip->cpu = c;
    ip->isa.cpu = c;
    ip->budget = (s64)MIN(budget, (u64)INT64_MAX / 2);
    ip->deliveries = 0;
    ip->begun = false;
    ip->pauses = 0;
    *stop = (struct stop){.kind = STOP_BUDGET};
    if (c->model) {
        coherence_enter(ip->seat);
        return true;
    }
    stop->kind = STOP_FAILURE;
    snprintf(stop->text, sizeof(stop->text), "the CPU has no model");
    return false;
}

void interp_end(struct interp *ip)
{
    coherence_leave(ip->seat);
}

/* --- the engine --- */

void interp_fini(struct interp *ip)
{
    if (ip->alone.mem)
        coherence_fini(&ip->alone);
    blocks_destroy(ip);
    native_destroy(ip->native);
    if (!ip->tables_memory)
        host_unmap(ip->tlbs, TLB_CONTEXTS * sizeof(*ip->tlbs));
}

int interp_init(struct interp *ip, const struct engine_config *cfg, struct error *e)
{
    ip->cfg = *cfg;
    ip->mem = cfg->mem;
    ip->isa = (struct isa){.ops = &interp_isa_ops, .ctx = ip};
    if (!cfg->coherence && coherence_init(&ip->alone, ip->mem, 1, e) < 0)
        return -ENOMEM;
    ip->seat = coherence_join(cfg->coherence ? cfg->coherence : &ip->alone, cfg->cpu, &interp_coherence_ops, ip);
    ip->tlbs = ip->tables_memory;
    if (!ip->tlbs)
        ip->tlbs = host_map_anonymous(TLB_CONTEXTS * sizeof(*ip->tlbs), e);
    if (!ip->tlbs)
        return -ENOMEM;
    tlb_init(ip);
    int r = blocks_init(ip, e);
    if (r == 0)
        r = native_create(&ip->native, 2u << 20, e);
    if (r < 0)
        return r;
    return 0;
}

static void interp_destroy(struct engine *en)
{
    if (!en)
        return;
    interp_fini(&en->ip);
    free(en);
}

static int interp_create(struct engine **out, const struct engine_config *cfg, struct error *e)
{
    struct engine *en = calloc(1, sizeof(*en));
    if (!en)
        return error_set(e, ENOMEM, "interpreter: out of memory");
    int r = interp_init(&en->ip, cfg, e);
    if (r < 0) {
        interp_destroy(en);
        return r;
    }
    *out = en;
    return 0;
}

static void interp_state_changed(struct engine *en, struct cpu *c)
{
    tlb_flush_all(&en->ip);
    blocks_flush(&en->ip);
}

static void interp_sit(struct engine *en)
{
    coherence_sit(en->ip.seat, &interp_coherence_ops, &en->ip);
}

static void interp_flush_tlb(struct engine *en)
{
    tlb_flush_all(&en->ip);
}

static void interp_stats(const struct engine *en, struct engine_stats *out)
{
    *out = en->ip.stats;
}

static int explain(struct engine *en, struct cpu *c, u64 va, struct engine_explain *out)
{
    return interp_explain(&en->ip, c, va, out);
}

const struct engine_ops engine_interp = {
    .name = "interp",
    .create = interp_create,
    .destroy = interp_destroy,
    .run = interp_run,
    .state_changed = interp_state_changed,
    .sit = interp_sit,
    .flush_tlb = interp_flush_tlb,
    .stats = interp_stats,
    .explain = explain,
};
