/*
 * Running a board's CPUs, in one of two ways.
 *
 *  - board_run, one thread: each CPU that has something to do gets a slice in turn. So runs a machine with one CPU, and
 *    so do tests that want the same course of events each time.
 *  - board_start_threads: a thread a CPU. A thread runs its CPU a slice at a time; between slices it looks whether anything came
 *    from outside, or is due, and takes the board's lock only for that: where there are more CPUs than processors, one that lost its
 *    processor while it held the lock would keep all others waiting. One that has nothing to do sleeps on a word of its own.
 *
 * Theory: time and waking. Timers are run by whoever comes by between two slices. So only the last CPU that falls asleep has to
 * set itself an alarm for the next one. Whatever happens to a CPU (interrupt, INIT) happens under the lock, and who
 * releases it wakes the sleepers that have something to do now.
 *
 * A host with fewer processors than the machine has CPUs: a CPU that waits for another in a loop with PAUSE would use up the
 * processor that the other needs, up to the host's time slice, for each step that they take in turn. So the engine ends the slice
 * of one that spins, and its thread lets others run first (KVM's pause-loop exits are for the same). Its CPU is out meanwhile:
 * nobody waits for an answer of a thread that does not run.
 *
 * What must stay true
 *  1. While a thread waits for the board's lock its CPU is out (coherence.h): it neither uses its TLB nor its code. So the lock may
 *     be held while other engines drop code for a device that writes memory.
 *  2. A CPU's own state is touched by its thread alone while it is `running`; by others under the lock when it is not.
 *  3. BOARD_WAIT is returned only if every CPU is halted, no event is deliverable and no timer is due.
 *
 * Not done: what another thread does to a running CPU is seen when its slice ends, not before.
 */
#include "vm/board_internal.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define SLICE         65536u    /* instructions between two looks at the clock: some 150 us of interp, 50 of bt */
#define SLICE_SHARED  16384u    /* ... where other CPUs may wait for this one */
#define THROTTLE_STEP 200000u   /* ns that a CPU runs before it stands back */
#define THROTTLE_NS   20000000u /* ns that it stands back at once, at most: so late it sees that it need not any more */
#define THROTTLE_MAX  2000000000ull /* ns that one slice can cost */
#define WAIT_NS       1000000u

/* --- events --- */

void board_post_event(struct board *b, enum board_event event, const char *text)
{
    if (b->event != BOARD_RUN)
        return; /* the first one counts */
    b->event = event;
    snprintf(b->event_text, sizeof(b->event_text), "%s", text);
    for (unsigned i = 0; i < b->n_cpus; i++)
        cpu_attention_set(b->cpus[i], ATTN_REQUEST);
    if (b->notify)
        b->notify(b->notify_ctx);
}

void board_clear_event(struct board *b)
{
    b->event = BOARD_RUN;
    b->event_text[0] = 0;
    for (unsigned i = 0; i < b->n_cpus; i++)
        cpu_attention_clear(b->cpus[i], ATTN_REQUEST);
}

void board_init_cpu(void *ctx, unsigned id)
{
    struct board *b = ctx;
    if (id == 0) {
        board_post_event(b, BOARD_UNIMPLEMENTED, "not implemented: INIT of the first processor");
        return;
    }
    b->cpu[id].init = true;
    b->cpu[id].startup = -1;
    cpu_attention_set(b->cpus[id], ATTN_REQUEST);
}

void board_start_cpu(void *ctx, unsigned id, u8 vector)
{
    struct board *b = ctx;
    struct board_cpu *c = &b->cpu[id];
    if (!c->init && !c->cpu.waits_startup)
        return; /* ignored (SDM vol. 3A, 8.4.2) */
    if (c->startup < 0)
        c->startup = vector;
    cpu_attention_set(&c->cpu, ATTN_REQUEST);
}

/* --- one CPU --- */

static bool deliverable(const struct cpu *c)
{
    u32 attention = __atomic_load_n(&c->attention, __ATOMIC_RELAXED);
    return attention & ATTN_NMI || (attention & ATTN_INTR && c->sysflags & FL_IF);
}

/* Of a CPU that does not run: is there something to do for it, after all? */
static bool wanted(const struct board_cpu *c)
{
    return c->init || c->startup >= 0 ||
           (!c->cpu.waits_startup && (!c->cpu.halted || c->cpu.unhalt || deliverable(&c->cpu)));
}

static void restart(struct board *b, struct board_cpu *c)
{
    if (c->init) {
        cpu_init_reset(&c->cpu);
        c->cpu.waits_startup = 1;
        c->init = false;
    }
    if (c->startup >= 0 && c->cpu.waits_startup) {
        cpu_startup(&c->cpu, (u8)c->startup);
        c->cpu.waits_startup = 0;
    }
    c->startup = -1;
    b->engine_ops->state_changed(c->engine, &c->cpu);
}

void board_settle(struct board *b)
{
    for (unsigned i = 0; i < b->n_cpus; i++)
        if (b->cpu[i].init || b->cpu[i].startup >= 0)
            restart(b, &b->cpu[i]);
}

/* With the lock held, before a slice: what came from outside; whether it can run. */
static bool prepare(struct board *b, struct board_cpu *c)
{
    if (c->init || c->startup >= 0)
        restart(b, c);
    if (c->cpu.halted && c->cpu.unhalt)
        c->cpu.halted = c->cpu.unhalt = 0;
    return wanted(c);
}

/* Translate why the engine stopped into an event that stays. */
static void engine_stopped(struct board *b, const struct cpu *c, const struct stop *s)
{
    switch (s->kind) {
    case STOP_SHUTDOWN:
        board_post_event(b, BOARD_SHUTDOWN, s->text);
        break;
    case STOP_UNIMPLEMENTED:
        board_post_event(b, BOARD_UNIMPLEMENTED, s->text[0] ? s->text : c->stop_reason);
        break;
    case STOP_BUDGET:
    case STOP_HALT:
    case STOP_REQUEST:
        break;
    default:
        board_post_event(b, BOARD_FAILURE, s->text);
    }
}

/* A slice, without the lock; true if somebody asked it to return. */
static bool run_slice(struct board *b, struct board_cpu *c, u64 slice)
{
    struct stop s = {.kind = STOP_BUDGET};
    c->running = true;
    board_pv_in(b, c);
    board_unlock(b);
    b->engine_ops->run(c->engine, &c->cpu, slice, &s);
    board_lock(b);
    c->running = false;
    engine_stopped(b, &c->cpu, &s);
    return s.kind == STOP_REQUEST;
}

/* --- one thread for all --- */

/* A slice for each that can run; false: none can. */
static bool turn(struct board *b, u64 *budget, bool *asked)
{
    bool any = false;
    for (unsigned i = 0; i < b->n_cpus && b->event == BOARD_RUN; i++) {
        if (!prepare(b, &b->cpu[i]))
            continue;
        any = true;
        if (!*budget || *asked)
            break;
        u64 slice = MIN(*budget, b->n_cpus > 1 ? SLICE_SHARED : SLICE);
        *budget -= slice;
        *asked = run_slice(b, &b->cpu[i], slice) && b->n_cpus == 1;
    }
    return any;
}

enum board_event board_run(struct board *b, u64 budget, char *text, size_t text_len)
{
    enum board_event result = BOARD_RUN;
    bool asked = false;
    board_lock(b);
    while (b->event == BOARD_RUN) {
        result = BOARD_WAIT;
        if (b->clock.paused)
            break;
        vclock_run_timers(&b->clock);
        if (b->event != BOARD_RUN || !turn(b, &budget, &asked))
            break;
        result = BOARD_RUN;
        if (!budget || asked)
            break;
    }
    if (b->event != BOARD_RUN)
        result = b->event;
    if (text && text_len)
        snprintf(text, text_len, "%s", b->event_text);
    board_unlock(b);
    return result;
}

/* --- a thread a CPU --- */

void board_unlock(struct board *b)
{
    u64 wake = 0;
    for (unsigned i = 0; i < b->n_cpus; i++)
        if (b->cpu[i].asleep && !b->stopped && wanted(&b->cpu[i])) {
            __atomic_store_n(&b->cpu[i].asleep, 0, __ATOMIC_RELAXED);
            wake |= 1ull << i;
        }
    host_lock_release(&b->lock);
    for (unsigned i = 0; wake >> i && i < b->n_cpus; i++)
        if (wake >> i & 1)
            host_word_wake(&b->cpu[i].asleep);
}

/* Does some other CPU come by and look at the timers? */
static bool others_awake(const struct board *b, const struct board_cpu *me)
{
    for (unsigned i = 0; i < b->n_cpus; i++)
        if (&b->cpu[i] != me && !b->cpu[i].asleep)
            return true;
    return false;
}

/*
 * Without the lock: may the next slice begin without it, too? Whoever has something for this CPU alone sets its attention; the
 * rest is looked at here. What is missed by a hair is seen after the next slice.
 */
static bool undisturbed(const struct board *b, const struct board_cpu *c, const struct stop *s)
{
    return s->kind == STOP_BUDGET && !s->spins && !__atomic_load_n(&b->stopped, __ATOMIC_RELAXED) &&
           __atomic_load_n(&b->event, __ATOMIC_RELAXED) == BOARD_RUN &&
           !(__atomic_load_n(&c->cpu.attention, __ATOMIC_RELAXED) & ATTN_REQUEST) &&
           vclock_ns(&b->clock) < __atomic_load_n(&b->clock.earliest, __ATOMIC_RELAXED);
}

/* Let others run first. With the lock held; it is released meanwhile. */
static void stand_back(struct board *b, struct board_cpu *c)
{
    board_pv_out(b, c);
    board_unlock(b);
    host_yield();
    board_lock(b);
}

void board_throttle(struct board *b, u32 share)
{
    __atomic_store_n(&b->throttle, MIN(share, BOARD_THROTTLE_MAX), __ATOMIC_RELAXED);
}

u64 board_throttle_ns(const struct board *b, u64 ran)
{
    u64 share = __atomic_load_n(&b->throttle, __ATOMIC_RELAXED);
    return MIN(ran * share / (BOARD_THROTTLE_ALL - share), THROTTLE_MAX);
}

/* What is left of `ran` once a CPU has stood back for `ns`. */
static u64 paid(const struct board *b, u64 ran, u64 ns)
{
    u64 share = __atomic_load_n(&b->throttle, __ATOMIC_RELAXED);
    return share ? ran - MIN(ran, (ns * (BOARD_THROTTLE_ALL - share) + share - 1) / share) : 0;
}

/*
 * With the lock held; it is released meanwhile. Nobody wakes a CPU that stands back: it does not run, so who halts the machine has
 * nothing to wait for. A slice may be long where each write is a fault that is logged: what it owes beyond THROTTLE_NS stays owed
 * (run_cpu comes here again before the next slice), else a guest that writes much is slowed down less than it was to be.
 */
static void stand_still(struct board *b, struct board_cpu *c)
{
    u32 word = 0;
    u64 ns = MIN(board_throttle_ns(b, c->held_ns), THROTTLE_NS);
    c->held_ns = paid(b, c->held_ns, ns);
    board_pv_out(b, c);
    board_unlock(b);
    host_word_wait(&word, 0, host_ns(NULL) + ns);
    board_lock(b);
}

/* Has it run so long that it has to stand back? */
static bool is_due(const struct board *b, const struct board_cpu *c)
{
    return __atomic_load_n(&b->throttle, __ATOMIC_RELAXED) && c->held_ns >= THROTTLE_STEP;
}

/* Slices until there is something to do under the lock. */
static void run_slices(struct board *b, struct board_cpu *c)
{
    struct stop s;
    u64 start;
    c->running = true;
    board_pv_in(b, c);
    board_unlock(b);
    board_pv_began(c);
    do {
        s = (struct stop){.kind = STOP_BUDGET};
        start = __atomic_load_n(&b->throttle, __ATOMIC_RELAXED) ? host_thread_ns() : 0;
        b->engine_ops->run(c->engine, &c->cpu, SLICE_SHARED, &s);
        c->held_ns += start ? host_thread_ns() - start : 0;
        if (b->ran)
            b->ran(b->notify_ctx);
    } while (undisturbed(b, c, &s) && !is_due(b, c));
    board_lock(b);
    board_pv_ended(b, c);
    c->running = false;
    engine_stopped(b, &c->cpu, &s);
    if (is_due(b, c))
        stand_still(b, c);
    else if (s.spins)
        stand_back(b, c);
}

/* With the lock held; it is released meanwhile. */
static void doze(struct board *b, struct board_cpu *c)
{
    bool halt = b->stopped || b->clock.paused || b->event != BOARD_RUN;
    u64 deadline = halt || others_awake(b, c) ? UINT64_MAX : board_next_deadline(b);
    board_pv_out(b, c);
    __atomic_store_n(&c->asleep, 1, __ATOMIC_RELAXED);
    board_unlock(b);
    host_word_wait(&c->asleep, 1, deadline);
    board_lock(b);
    __atomic_store_n(&c->asleep, 0, __ATOMIC_RELAXED);
}

static void stopped(struct board *b)
{
    __atomic_fetch_add(&b->stops, 1, __ATOMIC_SEQ_CST);
    host_word_wake(&b->stops);
}

__attribute__((noreturn)) static void run_cpu(struct board *b, struct board_cpu *c)
{
    board_lock(b);
    for (;;) {
        if (b->stopped || b->clock.paused || b->event != BOARD_RUN) {
            doze(b, c);
            continue;
        }
        vclock_run_timers(&b->clock);
        if (is_due(b, c)) {
            stand_still(b, c);
        } else if (b->event == BOARD_RUN && prepare(b, c)) {
            run_slices(b, c);
        } else if (b->event == BOARD_RUN) {
            doze(b, c);
        }
        if (b->stopped)
            stopped(b);
    }
}

struct start {
    struct board *b;
    unsigned id;
    u32 *ready; /* 1: it runs; 2: it could not get its signal stack, or drop what it may do */
};

static void *thread_main(void *arg)
{
    struct start s = *(struct start *)arg;
    struct error e = {0};
    int r = host_fault_init(&e);
    if (r == 0)
        r = host_confine_thread(&e);
    __atomic_store_n(s.ready, r < 0 ? 2 : 1, __ATOMIC_RELEASE);
    host_word_wake(s.ready);
    if (r == 0)
        run_cpu(s.b, &s.b->cpu[s.id]);
    return NULL;
}

int board_start_threads(struct board *b, void (*notify)(void *ctx), void (*ran)(void *ctx), void *ctx, struct error *e)
{
    b->stopped = true;
    b->notify = notify;
    b->ran = ran;
    b->notify_ctx = ctx;
    for (unsigned i = 0; i < b->n_cpus; i++) {
        u32 ready = 0;
        struct start s = {b, i, &ready};
        int r = host_thread_start(thread_main, &s, e);
        if (r < 0)
            return r;
        while (!__atomic_load_n(&ready, __ATOMIC_ACQUIRE))
            host_word_wait(&ready, 0, UINT64_MAX);
        if (ready == 2)
            return error_set(e, ENOMEM, "machine: CPU %u: no signal stack for its thread, or no way to drop its rights",
                             i);
    }
    return 0;
}

/* All wake: those who fell asleep while the board was halted have set no alarm, and a timer may be all that any of them waits for. */
void board_go(struct board *b)
{
    board_lock(b);
    b->stopped = false;
    for (unsigned i = 0; i < b->n_cpus; i++)
        __atomic_store_n(&b->cpu[i].asleep, 0, __ATOMIC_RELAXED);
    board_unlock(b);
    for (unsigned i = 0; i < b->n_cpus; i++)
        host_word_wake(&b->cpu[i].asleep);
}

static bool any_running(const struct board *b)
{
    for (unsigned i = 0; i < b->n_cpus; i++)
        if (b->cpu[i].running)
            return true;
    return false;
}

void board_halt(struct board *b)
{
    board_lock(b);
    b->stopped = true;
    for (unsigned i = 0; i < b->n_cpus; i++)
        cpu_attention_set(b->cpus[i], ATTN_REQUEST);
    while (any_running(b)) {
        u32 seen = __atomic_load_n(&b->stops, __ATOMIC_SEQ_CST);
        board_unlock(b);
        host_word_wait(&b->stops, seen, host_ns(NULL) + WAIT_NS);
        board_lock(b);
    }
    if (b->event == BOARD_RUN)
        for (unsigned i = 0; i < b->n_cpus; i++)
            cpu_attention_clear(b->cpus[i], ATTN_REQUEST);
    board_unlock(b);
}

enum board_event board_event(struct board *b, char *text, size_t len)
{
    board_lock(b);
    enum board_event event = b->event;
    snprintf(text, len, "%s", b->event_text);
    board_unlock(b);
    return event;
}

/* --- outside --- */

u64 board_next_deadline(const struct board *b)
{
    if (b->clock.paused || b->clock.earliest == UINT64_MAX)
        return UINT64_MAX;
    return b->clock.earliest - (u64)b->clock.offset;
}

void board_kick(struct board *b)
{
    for (unsigned i = 0; i < b->n_cpus; i++)
        cpu_attention_set(b->cpus[i], ATTN_REQUEST);
}
