#include "engine/coherence.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SPINS   2000u   /* some 50 us */
#define WAIT_NS 200000u /* between looks, once asleep */

/* The seat whose CPU this thread executes guest code for. */
static __thread struct coherence_seat *coherence_mine __attribute__((tls_model("initial-exec")));

enum kind { KIND_PROTECT, KIND_KILL };

static struct coherence_box *box_of(struct coherence_seat *s, enum kind kind)
{
    return kind == KIND_KILL ? &s->kill : &s->protect;
}

static void perform(struct coherence_seat *s, enum kind kind, const struct coherence_request *r)
{
    if (kind == KIND_KILL) {
        s->ops->kill(s->engine, r->page, r->from, r->to);
        return;
    }
    s->ops->protect(s->engine, r->page);
    if (r->page == COHERENCE_TRACED)
        return;
    __atomic_fetch_and(&s->all->writers[r->page], ~(1ull << s->id), __ATOMIC_SEQ_CST);
}

/* --- serving --- */

static void serve_box(struct coherence_seat *s, enum kind kind)
{
    struct coherence_request taken[2 * COHERENCE_MAX];
    struct coherence_box *b = box_of(s, kind);
    host_lock_take(&s->lock);
    u32 n = b->n, posted = b->posted;
    memcpy(taken, b->of, n * sizeof(taken[0]));
    b->n = 0;
    __atomic_store_n(&s->waiting, s->protect.n || s->kill.n, __ATOMIC_RELAXED);
    host_lock_release(&s->lock);
    for (u32 i = 0; i < n; i++)
        perform(s, kind, &taken[i]);
    __atomic_store_n(&b->done, posted, __ATOMIC_SEQ_CST);
    if (n)
        host_word_wake(&b->done);
}

void coherence_serve_slow(struct coherence_seat *s)
{
    serve_box(s, KIND_KILL);
    serve_box(s, KIND_PROTECT);
}

void coherence_enter(struct coherence_seat *s)
{
    if (!s->all->writers)
        return;
    host_lock_take(&s->lock);
    s->inside = true;
    host_lock_release(&s->lock);
    coherence_mine = s;
}

void coherence_leave(struct coherence_seat *s)
{
    if (!s->all->writers)
        return;
    coherence_mine = NULL;
    while (true) {
        coherence_serve_slow(s);
        host_lock_take(&s->lock);
        s->inside = s->protect.n || s->kill.n;
        host_lock_release(&s->lock);
        if (!s->inside)
            return;
    }
}

/* --- asking --- */

/* True if it has been done; else *ticket is what to wait for. */
static bool ask(struct coherence_seat *s, enum kind kind, const struct coherence_request *r, u32 *ticket)
{
    struct coherence_box *b = box_of(s, kind);
    host_lock_take(&s->lock);
    while (s->inside && b->n == ARRAY_LEN(b->of)) { /* more threads than CPUs ask */
        host_lock_release(&s->lock);
        __builtin_ia32_pause();
        host_lock_take(&s->lock);
    }
    bool now = !s->inside;
    if (now) {
        perform(s, kind, r);
    } else {
        b->of[b->n++] = *r;
        *ticket = ++b->posted;
        __atomic_store_n(&s->waiting, 1, __ATOMIC_RELEASE);
    }
    host_lock_release(&s->lock);
    return now;
}

/* Meanwhile `self` (may be NULL) serves what it may: everything, or only requests to drop code. */
static void wait_for(struct coherence_seat *s, enum kind kind, u32 ticket, struct coherence_seat *self)
{
    struct coherence_box *b = box_of(s, kind);
    for (unsigned spins = 0;; spins++) {
        u32 done = __atomic_load_n(&b->done, __ATOMIC_SEQ_CST);
        if ((s32)(done - ticket) >= 0)
            return;
        if (self && __atomic_load_n(&self->waiting, __ATOMIC_RELAXED)) {
            serve_box(self, KIND_KILL);
            if (kind == KIND_PROTECT)
                serve_box(self, KIND_PROTECT);
        }
        if (spins < SPINS)
            __builtin_ia32_pause();
        else
            host_word_wait(&b->done, done, host_ns(NULL) + WAIT_NS);
    }
}

/* Of all engines in `set` but `self`; done when it returns. */
static void ask_all(struct coherence *co, u64 set, enum kind kind, const struct coherence_request *r,
                    struct coherence_seat *self)
{
    u32 ticket[COHERENCE_MAX];
    u64 waiting = 0;
    for (unsigned i = 0; i < co->n; i++)
        if (set >> i & 1 && &co->seat[i] != self && !ask(&co->seat[i], kind, r, &ticket[i]))
            waiting |= 1ull << i;
    for (unsigned i = 0; waiting >> i && i < co->n; i++)
        if (waiting >> i & 1)
            wait_for(&co->seat[i], kind, ticket[i], self);
}

/* --- pages --- */

void coherence_trace(struct coherence_seat *s, u64 ram_page)
{
    struct coherence *co = s->all;
    u8 *trace = &co->mem->trace[ram_page];
    if (!co->writers) {
        if (!(*trace & MEM_TRACE_CODE)) {
            *trace |= MEM_TRACE_CODE;
            s->ops->protect(s->engine, ram_page);
        }
        return;
    }
    u64 me = 1ull << s->id;
    /* Again if, while it waited, it had to drop what code it had of the page, and the trace with it. */
    while (!(__atomic_load_n(&co->holders[ram_page], __ATOMIC_RELAXED) & me)) {
        host_lock_take(&co->pages);
        co->holders[ram_page] |= me;
        __atomic_fetch_or(trace, MEM_TRACE_CODE, __ATOMIC_SEQ_CST);
        host_lock_release(&co->pages);
        s->ops->protect(s->engine, ram_page);
        u64 writers = __atomic_fetch_and(&co->writers[ram_page], ~me, __ATOMIC_SEQ_CST) & ~me;
        ask_all(co, writers, KIND_PROTECT, &(struct coherence_request){.page = ram_page}, s);
    }
}

void coherence_untrace(struct coherence_seat *s, u64 ram_page)
{
    struct coherence *co = s->all;
    u8 *trace = &co->mem->trace[ram_page];
    if (!co->writers) {
        *trace &= (u8)~MEM_TRACE_CODE;
        return;
    }
    u64 me = 1ull << s->id;
    host_lock_take(&co->pages);
    if (co->holders[ram_page] & me && !(co->holders[ram_page] &= ~me))
        __atomic_fetch_and(trace, (u8)~MEM_TRACE_CODE, __ATOMIC_SEQ_CST);
    host_lock_release(&co->pages);
}

static u64 holders(const struct coherence *co, u64 ram_page)
{
    return co->writers ? __atomic_load_n(&co->holders[ram_page], __ATOMIC_SEQ_CST) : 1;
}

void coherence_written(struct coherence_seat *s, u64 ram_page, unsigned from, unsigned to)
{
    struct coherence *co = s->all;
    struct coherence_request r = {.page = ram_page, .from = (u16)from, .to = (u16)to};
    coherence_writer(s, ram_page);
    s->ops->kill(s->engine, ram_page, from, to);
    if (co->writers)
        ask_all(co, holders(co, ram_page), KIND_KILL, &r, s);
}

void coherence_retrace(struct coherence *co)
{
    const struct coherence_request r = {.page = COHERENCE_TRACED};
    u64 joined = 0;
    for (unsigned i = 0; i < co->n; i++)
        joined |= (u64)(co->seat[i].engine != NULL) << i;
    if (co->writers)
        ask_all(co, joined, KIND_PROTECT, &r, NULL);
    else if (joined)
        co->seat[0].ops->protect(co->seat[0].engine, r.page);
}

/* mem->code_written: a device, or a walk that sets a bit of a table. */
static void code_written(void *ctx, u64 ram_page)
{
    struct coherence *co = ctx;
    struct coherence_seat *self = coherence_mine;
    struct coherence_request r = {.page = ram_page, .to = PAGE_SIZE};
    if (self && self->all == co)
        coherence_written(self, ram_page, 0, PAGE_SIZE);
    else if (co->writers)
        ask_all(co, holders(co, ram_page), KIND_KILL, &r, NULL);
    else if (co->seat[0].engine)
        co->seat[0].ops->kill(co->seat[0].engine, ram_page, 0, PAGE_SIZE);
}

/* --- life --- */

int coherence_init(struct coherence *co, struct guest_mem *m, unsigned n, struct error *e)
{
    memset(co, 0, sizeof(*co));
    co->mem = m;
    co->n = n;
    co->seat = calloc(n, sizeof(*co->seat));
    if (!co->seat)
        return error_set(e, ENOMEM, "machine: no memory for its engines");
    if (n > 1) {
        u64 pages = m->size >> PAGE_SHIFT;
        co->holders = calloc(pages, sizeof(u64));
        co->writers = calloc(pages, sizeof(u64));
        if (!co->holders || !co->writers) {
            coherence_fini(co);
            return error_set(e, ENOMEM, "machine: no memory for the tables of pages that its CPUs share");
        }
    }
    m->code_written = code_written;
    m->code_ctx = co;
    return 0;
}

void coherence_fini(struct coherence *co)
{
    if (co->mem)
        co->mem->code_written = NULL;
    free(co->holders);
    free(co->writers);
    free(co->seat);
    *co = (struct coherence){0};
}

struct coherence_seat *coherence_join(struct coherence *co, unsigned id, const struct coherence_ops *ops, void *engine)
{
    struct coherence_seat *s = &co->seat[id];
    s->all = co;
    s->id = id;
    s->ops = ops;
    s->engine = engine;
    return s;
}

void coherence_sit(struct coherence_seat *s, const struct coherence_ops *ops, void *engine)
{
    host_lock_take(&s->lock);
    s->ops = ops;
    s->engine = engine;
    host_lock_release(&s->lock);
}
