/*
 * The engine: its run loop, and what translated code calls.
 *
 * The run loop is the interpreter's (interp_ready): events, faults, mode. Where the mode in force has translated code, the
 * block at RIP is entered; else the interpreter runs a block. Translated code comes back here (bt_service) for everything
 * that it can not do by itself, and mostly goes on from here without leaving: a target to link, a miss, one instruction
 * for the interpreter. It leaves for the run loop when there is an event, a fault to deliver, or a mode without code.
 */
#include "engine/bt/bt_internal.h"
#include "machine/cpu/cpuid.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define STACK_SIZE (256u << 10)
#define LEFT_MAX   (1ll << 30) /* the upper half of st->left is 0 while there is budget */

struct engine {
    struct bt bt;
};

/*
 * C that translated code calls runs on a stack that a sanitizer does not know as one. A long jump there would leave it with wrong
 * ideas, and a complaint that a sealed process may not utter: so it is told, when such C begins and before it ends.
 */
#if defined(__SANITIZE_ADDRESS__)
#include <sanitizer/common_interface_defs.h>
static void stack_begins(struct bt *bt)
{
    void *fake = NULL;
    __sanitizer_start_switch_fiber(&fake, bt->memory, STACK_SIZE);
    __sanitizer_finish_switch_fiber(fake, &bt->outer_stack, &bt->outer_size);
}

static void stack_ends(struct bt *bt)
{
    void *fake = NULL;
    __sanitizer_start_switch_fiber(&fake, bt->outer_stack, bt->outer_size);
    __sanitizer_finish_switch_fiber(fake, NULL, NULL);
}
#else
static void stack_begins(struct bt *bt)
{
    (void)bt;
}

static void stack_ends(struct bt *bt)
{
    (void)bt;
}
#endif

/* --- mode --- */

static u8 vector_key(const struct cpu *c)
{
    u64 avx = XCR0_SSE | XCR0_AVX, all = avx | XCR0_AVX512;
    bool xsave = c->cr4 & CR4_OSXSAVE;
    if (c->cr0 & (CR0_EM | CR0_TS))
        return 0;
    return (u8)((c->cr4 & CR4_OSFXSR ? BK_SSE : 0) | (xsave && (c->xcr0 & avx) == avx ? BK_AVX : 0) |
                (xsave && (c->xcr0 & all) == all ? BK_AVX512 : 0) | BK_X87);
}

/* What is in a hash was made under one key: a jump through it does not look. */
static void use_hash(struct bt *bt, u8 key)
{
    unsigned context = key & BK_CONTEXT;
    if (likely(bt->hash_key[context] == key))
        return;
    bt_hash_clear(bt, context);
    bt->hash_key[context] = key;
}

static void set_key(struct bt *bt, u8 key)
{
    bt->st->key = key;
    use_hash(bt, key);
    if ((key & BK_CONTEXT) != TLB_USER) /* STAC and CLAC go from one to the other */
        use_hash(bt, key ^ TLB_SUPERVISOR ^ TLB_SUPERVISOR_AC);
}

/* Is there translated code for the mode that the interpreter has derived? Sets st->key. */
bool bt_mode(struct bt *bt)
{
    const struct interp *ip = &bt->ip;
    bool compat = ip->key == (ISA_MODE_32 | KEY_FLAT | KEY_SS32);
    if ((ip->key != ISA_MODE_64 && !compat) || ip->context == TLB_NEVER || ip->cpu->cpl == 1 || ip->cpu->cpl == 2)
        return false;
    if (compat && !bt_compat_mode(bt))
        return false;
    set_key(bt, (u8)(ip->context | vector_key(ip->cpu) | (compat ? BK_COMPAT : 0)));
    bt->st->tsc_barred = (ip->cpu->cr4 & CR4_TSD) != 0;
    return true;
}

/* --- vectors --- */

/* After C has changed the guest's vectors: are there upper halves that are not zero? */
static void note_upper(struct bt *bt)
{
    const struct cpu_fpu *f = &bt->ip.cpu->fpu;
    u64 any = 0;
    bt->vectors_changed = false;
    for (unsigned n = 0; n < 16; n++)
        for (unsigned i = 16; i < bt->vec_width; i += 8) {
            u64 part;
            memcpy(&part, f->zmm[n].b + i, 8);
            any |= part;
        }
    bt->st->upper = any != 0;
}

/* --- finding code --- */

/* Has the code at `start` been executed often enough to be worth a translation? */
static bool hot(struct bt *bt, u64 va, u64 start)
{
    u64 hash = (start ^ va << 13) * 0x9e3779b97f4a7c15ull;
    struct bt_heat *two = bt->heat[hash >> (64 - BT_HEAT_BITS)];
    struct bt_heat *heat = two[0].tag == (u32)hash ? &two[0] : &two[1];
    if (heat->tag != (u32)hash) {
        heat = &two[two[0].runs > two[1].runs]; /* the colder one makes room */
        *heat = (struct bt_heat){.tag = (u32)hash};
    }
    if (++heat->runs > bt->hot_runs || (bt->ip.cfg.test & ENGINE_TEST_EAGER))
        return true;
    return false;
}

/*
 * What the interpreter has decoded there. While that has not run often (block.runs), it is all there is to know: most of what
 * is cold stays cold, and the tables of what is hot are large.
 */
static struct block *decoded(const struct bt *bt, u64 va, u64 start)
{
    const struct jump_entry *j = jump_at(&bt->ip, va);
    bool same = j->rip == va && j->block && j->block->start == start && j->block->key == bt->ip.key;
    return same && !bt->ip.cfg.test ? j->block : NULL;
}

/*
 * The block at RIP, translated if need be. NULL: *result says why not, CPU_OK to let the interpreter run it. `count`:
 * it is executed now, in any case. `busy`: this block is not to be moved.
 */
static struct bt_block *block_at_rip(struct bt *bt, int *result, bool count, const struct bt_block *busy)
{
    u64 rip = bt->ip.cpu->rip;
    *result = CPU_OK;
    const u8 *host = tlb_fetch(&bt->ip, rip, result);
    if (!host)
        return NULL;
    u64 start = (u64)(host - bt->ip.mem->ram);
    struct block *cold = decoded(bt, rip, start);
    if (cold && cold->runs < bt->hot_runs) {
        cold->runs += count;
        return NULL;
    }
    struct bt_block *b = bt_find(bt, rip, start, bt->st->key);
    if (!b && bt_move_here(bt, rip, start, busy))
        b = bt_find(bt, rip, start, bt->st->key);
    if (!b && count && (cold || hot(bt, rip, start)))
        b = bt_translate(bt, rip, start, bt->st->key);
    return b && b->n ? b : NULL;
}

static const u8 *leave(struct bt *bt, int result)
{
    bt->result = result;
    return bt->leave;
}

/* Go on at cpu->rip, if that can be done here. */
static const u8 *go_on(struct bt *bt, struct bt_exit *link, bool hash)
{
    int r;
    if (bt->st->left < 0 || bt_attention(bt) || (bt->ip.cfg.test & (ENGINE_TEST_EXACT | ENGINE_TEST_EVICT)))
        return leave(bt, CPU_OK);
    struct bt_block *b = block_at_rip(bt, &r, false, link ? bt_at(bt, link->owner) : NULL);
    if (!b)
        return leave(bt, r);
    if (!(bt->ip.cfg.test & ENGINE_TEST_NO_LINK)) {
        if (link)
            bt_link(bt, link, b);
        if (hash)
            bt_hash_put(bt, b);
    }
    return bt_body(bt, b);
}

/* --- one instruction by the interpreter --- */

/* The block is left behind instruction `i`: what is counted is what has run. */
static void give_back(struct bt *bt, const struct bt_block *b, unsigned i)
{
    bt->st->left += bt_counted(b, i) - 1 - (s64)i;
}

/* Take the flags from where they are. */
static void settle_flags(struct bt *bt, const struct bt_block *b, unsigned i)
{
    if (bt_maps(b)[i].flags_in_memory)
        bt->ip.cpu->arith = bt->st->arith;
}

/*
 * Execute instruction `i` of `b` by the interpreter, in struct cpu. STEP_DONE, or a result to leave with; then, and when
 * it is not followed by its neighbour, the rest of the block's budget was given back.
 */
static int step(struct bt *bt, struct bt_block *b, unsigned i)
{
    struct interp *ip = &bt->ip;
    ip->cpu->rip = b->va + bt_maps(b)[i].guest;
    settle_flags(bt, b, i);
    ip->budget = bt->st->left + bt->kept;
    int r = setjmp(ip->exit);
    if (r == 0)
        r = interp_step(ip);
    bt->st->left = ip->budget - bt->kept;
    bt->vectors_changed |= b->units || bt_maps(b)[i].how == HOW_MONITOR;
    if (bt->vectors_changed)
        note_upper(bt);
    if (r != STEP_DONE)
        give_back(bt, b, i);
    else if (bt_maps(b)[i].how != HOW_MONITOR)
        bt->stats.callouts++;
    return r;
}

/* Behind a step: the code of the next instruction, or of where RIP is now. */
static const u8 *after_step(struct bt *bt, struct bt_block *b, unsigned i)
{
    const struct cpu *c = bt->ip.cpu;
    bool next = c->rip == b->va + bt_maps(b)[i + 1].guest && !bt->ip.in_repeat;
    if (next && i + 1 < b->n && !b->dead && !bt->ip.stale && !bt_maps(b)[i + 1].grouped) {
        bt_attention(bt);
        bt->st->want_units = b->units;
        return bt_continue(bt, b, i + 1);
    }
    give_back(bt, b, i);
    if (b->dead)
        bt->stats.exit_killed++;
    if (bt->ip.stale || bt->ip.in_repeat || b->dead)
        return leave(bt, CPU_OK);
    return go_on(bt, NULL, false);
}

static const u8 *callout(struct bt *bt, struct bt_block *b, unsigned i)
{
    int r = step(bt, b, i);
    bt->ip.stale = false; /* of system instructions, only those that change no mode come here */
    return r == STEP_DONE ? after_step(bt, b, i) : leave(bt, r);
}

/* A system instruction: mode and mappings may be others now. */
static const u8 *monitor(struct bt *bt, struct bt_block *b, unsigned i)
{
    int r = step(bt, b, i);
    if (r != STEP_DONE)
        return leave(bt, r);
    give_back(bt, b, i);
    if (bt->ip.in_repeat || bt->ip.cpu->halted)
        return leave(bt, CPU_OK);
    if (bt->ip.stale)
        interp_derive(&bt->ip);
    if (!bt_mode(bt))
        return leave(bt, CPU_OK);
    return go_on(bt, NULL, false);
}

/* --- the service --- */

static struct bt_block *block_of(struct bt *bt, u32 site)
{
    return bt_numbered(bt, site >> 8);
}

/* The jump's target is not an address: the fault is the jump's. */
static const u8 *bad_target(struct bt *bt, struct bt_block *b, const struct bt_site *s)
{
    struct cpu *c = bt->ip.cpu;
    c->rip = b->va + bt_maps(b)[s->insn].guest;
    c->gpr[RSP] = s->arg == UNDO_CALL ? c->gpr[RSP] + 8 : c->gpr[RSP] - s->arg;
    bt->st->left++; /* it was counted and has not been executed */
    give_back(bt, b, s->insn);
    return leave(bt, cpu_raise_error(c, VEC_GP, 0));
}

/* A target that is not in the hash. Only an indirect jump can have one that is no address: then st->source is its. */
static const u8 *hash_miss(struct bt *bt)
{
    bt->stats.exit_indirect++;
    if (unlikely(!gva_canonical(GVA(bt->st->target)))) {
        struct bt_block *b = block_of(bt, (u32)bt->st->source);
        return bad_target(bt, b, &bt_sites(b)[bt->st->source & 0xff]);
    }
    bt->ip.cpu->rip = bt->st->target;
    return go_on(bt, NULL, true);
}

/*
 * The look-up of a group failed: the accesses one by one, by the block's twin, or by the interpreter if there is none. Whatever
 * is pending waits: if this left, it would be back at once, and nothing done.
 */
static const u8 *to_twin(struct bt *bt, struct bt_block *b, const struct bt_site *s)
{
    struct bt_exit *x = &bt_exits(b)[s->arg];
    unsigned i = s->insn;
    u64 target = bt_exit_target(b, x);
    bt->ip.cpu->rip = target;
    u64 start = b->start + bt_maps(b)[i].guest;
    u32 index = b->index;
    struct bt_block *twin = bt_find(bt, target, start, b->key | BK_PLAIN);
    if (!twin)
        twin = bt_translate(bt, target, start, b->key | BK_PLAIN);
    if (bt_numbered(bt, index) != b) /* dropped, to make room */
        return twin && twin->n ? bt_body(bt, twin) : leave(bt, CPU_OK);
    if (!twin || !twin->n) {
        bt->st->left -= bt_counted(b, i) - (s64)i; /* as if it had not left the block */
        return callout(bt, b, i);
    }
    if (!(bt->ip.cfg.test & ENGINE_TEST_NO_LINK))
        bt_link(bt, x, twin);
    return bt_body(bt, twin);
}

static const u8 *direct(struct bt *bt, struct bt_block *b, const struct bt_site *s)
{
    bt->stats.exit_link++;
    if (bt_exits(b)[s->arg].twin)
        return to_twin(bt, b, s);
    bt->ip.cpu->rip = bt_exit_target(b, &bt_exits(b)[s->arg]);
    return go_on(bt, &bt_exits(b)[s->arg], false);
}

/* The second page of the block's instruction: again the same, another one, or none. */
static const u8 *crossing(struct bt *bt, struct bt_block *b)
{
    u64 va = b->va + b->bytes;
    int r;
    bt->ip.cpu->rip = b->va;
    const u8 *host = tlb_fetch(&bt->ip, va, &r);
    if (!host) {
        bt->st->left--; /* as the block would have counted it */
        return callout(bt, b, 0);
    }
    if ((u64)(host - bt->ip.mem->ram) == bt_second(bt, b)->ram)
        return bt_body(bt, b);
    bt_kill(bt, b);
    return go_on(bt, NULL, false);
}

static const u8 *service(struct bt *bt, u32 number)
{
    if (number == BT_NO_SITE)
        return hash_miss(bt);
    struct bt_block *b = block_of(bt, number);
    const struct bt_site *s = &bt_sites(b)[number & 0xff];
    switch (s->kind) {
    case SITE_MISS:
        bt->stats.exit_slow++;
        return callout(bt, b, s->insn);
    case SITE_CALLOUT:
        return callout(bt, b, s->insn);
    case SITE_MONITOR:
        return monitor(bt, b, s->insn);
    case SITE_LINK:
        return direct(bt, b, s);
    case SITE_CROSS:
        return crossing(bt, b);
    default:
        bt->stats.exit_poll++;
        bt->ip.cpu->rip = b->va;
        return leave(bt, CPU_OK);
    }
}

const u8 *bt_service(struct bt_state *st, u32 number)
{
    st->want_units = 0;
    stack_begins(st->bt);
    const u8 *code = service(st->bt, number);
    stack_ends(st->bt);
    return code;
}

/* An instruction of the guest's faulted on the host: the interpreter finds out what that means. */
const u8 *bt_faulted(struct bt_state *st, u64 where)
{
    struct bt *bt = st->bt;
    u32 offset = bt->regions[0].code + (u32)(where >> 32);
    struct bt_block *b = bt_at_code(bt, offset);
    st->want_units = 0;
    bt_sync(bt);
    bt->stats.exit_fault++;
    if (!b || offset - b->code < bt_maps(b)[0].host) {
        fprintf(stderr, "trapeze: binary translation: fault at offset %#x of code memory, which is no block's\n",
                offset);
        abort();
    }
    stack_begins(bt);
    const u8 *code = callout(bt, b, bt_insn_at(b, offset));
    stack_ends(bt);
    return code;
}

/* --- the run loop --- */

/* From struct cpu into translated code and back. A result for interp_ready. */
static int enter(struct bt *bt, struct bt_block *b)
{
    struct bt_state *st = bt->st;
    struct interp *ip = &bt->ip;
    void (*go)(struct bt_state *, const u8 *) = (void (*)(struct bt_state *, const u8 *))(uintptr_t)bt->enter;
    st->cpu = ip->cpu;
    st->left = MIN(ip->budget, LEFT_MAX);
    bt->kept = ip->budget - st->left;
    bt_attention(bt);
    bt->result = CPU_OK;
    if (bt->vectors_changed)
        note_upper(bt);
    bt->stats.entries++;
    go(st, bt_body(bt, b));
    ip->budget = st->left + bt->kept;
    return bt->result;
}

/* A block by the interpreter. */
static int cold_block(struct bt *bt)
{
    s64 before = bt->ip.budget;
    bt->vectors_changed = true;
    int r = interp_block(&bt->ip);
    bt->stats.interpreted += (u64)(before - bt->ip.budget);
    return r;
}

static int run_once(struct bt *bt)
{
    struct interp *ip = &bt->ip;
    int r;
    ip->in_repeat = false;
    if (ip->cfg.test & ENGINE_TEST_EVICT) {
        bt->random = bt->random * 6364136223846793005ull + 1442695040888963407ull;
        if (bt->random >> 56 == 0)
            bt_evict(bt, (unsigned)(bt->random >> 40) % bt->n_regions);
    }
    if (!bt_mode(bt))
        return cold_block(bt);
    struct bt_block *b = block_at_rip(bt, &r, true, NULL);
    if (b)
        return enter(bt, b);
    return r == CPU_OK ? cold_block(bt) : r;
}

static void run_loop(struct bt *bt, struct stop *s)
{
    struct interp *ip = &bt->ip;
    int code = CPU_OK;
    ip->stale = true;
    while (interp_ready(ip, code, s)) {
        /* Each time: step() has used the buffer for itself. */
        code = setjmp(ip->exit);
        if (code == CPU_OK)
            code = run_once(bt);
    }
}

static void bt_run(struct engine *en, struct cpu *c, u64 budget, struct stop *stop)
{
    struct bt *bt = &en->bt;
    if (!interp_begin(&bt->ip, c, budget, stop))
        return;
    const struct engine_config *cfg = &bt->ip.cfg;
    s64 start = bt->ip.budget;
    bt->tsc_direct = cfg->ops->tsc_addend && cfg->ops->tsc_addend(cfg->ops_ctx, &bt->st->tsc_addend);
    bt->vectors_changed = true; /* from outside, since the last run */
    run_loop(bt, stop);
    interp_end(&bt->ip);
    bt->stats.instructions += (u64)(start - bt->ip.budget) - bt->ip.deliveries;
}

/* --- hooks of the interpreter's TLB --- */

/* Entries of the TLB went: what was entered under them may not be reached through the hash any more. */
static void flushed(void *owner, enum tlb_flush what, u64 va)
{
    struct bt *bt = owner;
    for (unsigned context = 0; context < BT_CONTEXTS; context++) {
        if (what == TLB_FLUSH_PAGE)
            bt_hash_drop_page(bt, context, va);
        else if (what == TLB_FLUSH_ALL || bt->hash_local[context])
            bt_hash_clear(bt, context);
    }
}

/* --- life --- */

static bool bt_usable(const char **why)
{
    if (__builtin_cpu_supports("bmi2"))
        return true;
    if (why)
        *why = "this processor has no BMI2 instructions";
    return false;
}

static void bt_destroy(struct engine *en)
{
    if (!en)
        return;
    struct bt *bt = &en->bt;
    if (bt->code.rx)
        host_fault_region_remove(bt->code.rx);
    bt_cache_fini(bt);
    interp_fini(&bt->ip);
    host_unmap(bt->memory, bt->memory_size);
    free(en);
}

/* AMD's processors before family 19h take hundreds of cycles for a PEXT. */
static bool fast_pext(void)
{
    u32 a, b, c, d;
    if (!__builtin_cpu_is("amd") || !__get_cpuid(1, &a, &b, &c, &d))
        return true;
    return (a >> 8 & 15) + (a >> 20 & 255) >= 0x19;
}

static bool has_rdtscp(void)
{
    u32 a, b, c, d;
    return __get_cpuid(0x80000001, &a, &b, &c, &d) && (d & BIT(27));
}

/* A host stack, and the state above it. */
static int create_state(struct bt *bt, struct error *e)
{
    bt->memory_size = STACK_SIZE + ((sizeof(struct bt_state) + PAGE_SIZE - 1) & PAGE_MASK);
    bt->memory = host_map_anonymous(bt->memory_size, e);
    if (!bt->memory)
        return -ENOMEM;
    bt->st = (struct bt_state *)(void *)((u8 *)bt->memory + STACK_SIZE);
    bt->st->bt = bt;
    bt->st->vec_missing = bt->st->x87_missing = 1;
    bt->st->x87[512] = XCR0_X87; /* XSTATE_BV: the area has that component */
    bt->st->hash_mask = (BT_HASH_SIZE - 1) << 2;
    bt->st->page_mask = (TLB_SIZE - 1) << PAGE_SHIFT;
    bt->fast_pext = fast_pext();
    bt->has_rdtscp = has_rdtscp();
    bt->st->keep_but_if = ~FL_IF;
    bt->st->keep_but_ac = ~FL_AC;
    bt->st->keep_arith = FL_ARITH;
    __asm__ volatile("stmxcsr %0" : "=m"(bt->st->host_mxcsr));
    bt->ip.tables_memory = bt->st->tlb;
    bt->ip.owner = bt;
    bt->ip.flushed = flushed;
    bt->ip.code_killed = bt_code_killed;
    bt->ip.has_code = bt_has_code;
    return 0;
}

/* CPUID leaf 0Dh, subleaf 1, EAX bit 2. */
static bool xgetbv_in_use(void)
{
    u32 a, b, c, d;
    return __builtin_cpu_supports("avx") && __get_cpuid_count(13, 1, &a, &b, &c, &d) && (a & 4);
}

static int create_code(struct bt *bt, struct error *e)
{
    struct emit em = {
        .start = bt->code.rw, .p = bt->code.rw, .end = bt->code.rw + bt->regions[0].code, .rx = bt->code.rx};
    bt->vec_width = __builtin_cpu_supports("avx512bw") ? 64 : __builtin_cpu_supports("avx") ? 32 : 16;
    bt->knows_in_use = xgetbv_in_use();
    bt_thunks(bt, &em);
    if (em.full)
        return error_set(e, EINVAL, "binary translation: its own code does not fit");
    for (unsigned context = 0; context < BT_CONTEXTS; context++)
        for (unsigned i = 0; i < BT_HASH_SIZE; i++)
            bt->st->hash[context][i] = bt->hash_miss;
    int r = host_fault_init(e);
    if (r == 0)
        r = host_fault_region_add(bt->code.rx + bt->regions[0].code, bt->code.rx + bt->code.size, bt->fault, true);
    return r < 0 ? error_set(e, -r, "binary translation: too many code caches in one process") : 0;
}

static int bt_create(struct engine **out, const struct engine_config *cfg, struct error *e)
{
    struct engine *en = calloc(1, sizeof(*en));
    if (!en)
        return error_set(e, ENOMEM, "binary translation: out of memory");
    struct bt *bt = &en->bt;
    struct engine_config cold = *cfg;
    cold.code_cache = cfg->code_cache ? cfg->code_cache / 4 : 5u << 20;
    int r = create_state(bt, e);
    if (r == 0)
        r = interp_init(&bt->ip, &cold, e);
    if (r == 0)
        r = bt_cache_init(bt, cfg->code_cache, e);
    if (r == 0)
        r = create_code(bt, e);
    if (r < 0) {
        bt_destroy(en);
        return r;
    }
    *out = en;
    return 0;
}

static void bt_state_changed(struct engine *en, struct cpu *c)
{
    tlb_flush_all(&en->bt.ip);
    blocks_flush(&en->bt.ip);
    bt_flush(&en->bt);
}

static void bt_sit(struct engine *en)
{
    coherence_sit(en->bt.ip.seat, &interp_coherence_ops, &en->bt.ip);
}

static void bt_flush_tlb(struct engine *en)
{
    tlb_flush_all(&en->bt.ip);
}

static void bt_stats(const struct engine *en, struct engine_stats *out)
{
    const struct bt *bt = &en->bt;
    const struct engine_stats *cold = &bt->ip.stats;
    *out = bt->stats;
    out->monitor = cold->monitor;
    out->native = cold->native;
    out->blocks_made += cold->blocks_made;
    out->blocks_dropped += cold->blocks_dropped;
    out->tlb_fills = cold->tlb_fills;
    out->tlb_flushes = cold->tlb_flushes;
    out->code_writes = cold->code_writes;
    out->exceptions = cold->exceptions;
    out->interrupts = cold->interrupts;
    out->pio = cold->pio;
    out->mmio = cold->mmio;
}

static int explain(struct engine *en, struct cpu *c, u64 va, struct engine_explain *out)
{
    return bt_explain(&en->bt, c, va, out);
}

const struct engine_ops engine_bt = {
    .name = "bt",
    .usable = bt_usable,
    .create = bt_create,
    .destroy = bt_destroy,
    .run = bt_run,
    .state_changed = bt_state_changed,
    .sit = bt_sit,
    .flush_tlb = bt_flush_tlb,
    .stats = bt_stats,
    .explain = explain,
};
