/*
 * Coherence: what the engines of one machine's CPUs must tell each other about pages with code.
 *
 * Theory of operation
 *
 * Each CPU has an engine of its own, with decoded or translated code and a software TLB of its own; guest memory is shared.
 * A page from which some engine holds code is traced: nobody may have a TLB entry for writing it, so whoever writes comes by
 * the slow path and says so, and the code is dropped before the store. Two things can go wrong between CPUs: one
 * makes code from a page while another can still write it unseen; one writes a page while another holds code of it.
 *
 *   holders[page]   the engines with code of the page: bit 0 is CPU 0. Not 0 <=> MEM_TRACE_CODE
 *   writers[page]   the engines that may have a TLB entry for writing it, or are about to store to it by the slow path
 *
 * coherence_trace, before the first byte of a page is decoded: set holders and trace, then look at writers, and have each of
 * them give its entries up. An engine that wants an entry: set writers, then look at the trace. Each sets before it looks,
 * with a full fence, so at least one of the two sees the other. coherence_written, before a store to a traced page: set writers,
 * then look at holders, and have each of them drop its code.
 *
 * To have another engine do something: if its CPU does not execute guest code now, do it in its place, under its seat's lock;
 * else leave a request and wait until it has been served. It serves requests between blocks (its budget is some
 * microseconds), and while it waits itself. One that waits for code to be dropped serves only requests to drop
 * code: an answer to "give up writing" would be a lie while its store is still to come. So of those that wait for each other
 * one can always go on: who waits as a writer waits only for requests that every waiter serves.
 *
 * What must stay true
 *  1. A page is traced before it is read for code, and a writer is set before the trace is looked at.
 *  2. No pointer got from the TLB is in use where requests to give up writing are served.
 *  3. A CPU that waits for a lock, or sleeps, has left (coherence_leave).
 *  4. Locks are taken in the order: seat, pages. None is held while waiting.
 *
 * The dirty log makes many pages clean at once: coherence_retrace has every engine give up its entries for writing pages that are
 * traced. It is a request to give up writing like any other: so when it has been served, whatever an engine found of a page's
 * traces before is not in use any more (mem.h, T3). `writers` stays as it is: it says who may have an entry.
 *
 * A device that writes memory (mem_write) tells the holders in the same way, by mem->code_written.
 */
#ifndef TRAPEZE_ENGINE_COHERENCE_H
#define TRAPEZE_ENGINE_COHERENCE_H

#include "host/host.h"
#include "machine/mem/mem.h"

#define COHERENCE_MAX    64u

#define COHERENCE_TRACED UINT64_MAX /* instead of a page: all that are traced now */

/* What an engine does about a RAM page. Called by its own thread, or by another while it is out. */
struct coherence_ops {
    void (*protect)(void *engine,
                    u64 ram_page); /* no TLB entry for writing it, or for writing any of COHERENCE_TRACED */
    void (*kill)(void *engine, u64 ram_page, unsigned from,
                 unsigned to); /* drop code made of these bytes of the page */
};

struct coherence;

/* What is asked of an engine. */
struct coherence_request {
    u64 page;
    u16 from, to;
};

/* Requests of one kind, in order. Each of the others has at most one here, and so does each device's thread. */
struct coherence_box {
    struct coherence_request of[2 * COHERENCE_MAX];
    u32 n;
    u32 posted, done; /* counts; done is waited on */
};

/* An engine's place. */
struct coherence_seat {
    struct coherence *all;
    unsigned id;
    const struct coherence_ops *ops;
    void *engine;
    u32 waiting; /* requests wait: polled between blocks */
    struct host_lock lock;
    bool inside; /* executes guest code; under the lock */
    struct coherence_box protect, kill;
};

struct coherence {
    struct guest_mem *mem;
    unsigned n;
    u64 *holders, *writers;      /* a word a RAM page; NULL with one CPU */
    struct host_lock pages;      /* holders, and the trace bits that follow them */
    struct coherence_seat *seat; /* n */
};

/* For `n` CPUs of a machine with that memory, whose client of code traces it becomes. 0 or -ENOMEM. */
int coherence_init(struct coherence *co, struct guest_mem *m, unsigned n, struct error *e);
void coherence_fini(struct coherence *co);
/* The seat of CPU `id`, for an engine that is made now. */
struct coherence_seat *coherence_join(struct coherence *co, unsigned id, const struct coherence_ops *ops, void *engine);

/* Another engine takes the seat: it has given up all its code and entries, and no CPU runs. */
void coherence_sit(struct coherence_seat *s, const struct coherence_ops *ops, void *engine);

/* Are there other CPUs? */
static inline bool coherence_shared(const struct coherence_seat *s)
{
    return s->all->writers != NULL;
}

/* The CPU begins, and ends, to execute guest code; also around whatever may wait for a lock. */
void coherence_enter(struct coherence_seat *s);
void coherence_leave(struct coherence_seat *s);

/* Serve requests, between blocks. */
void coherence_serve_slow(struct coherence_seat *s);
static inline void coherence_serve(struct coherence_seat *s)
{
    if (__builtin_expect(__atomic_load_n(&s->waiting, __ATOMIC_RELAXED) != 0, 0))
        coherence_serve_slow(s);
}

/* Bytes of the page will be read for code: from here on nobody writes it unseen. */
void coherence_trace(struct coherence_seat *s, u64 ram_page);
/* Is it still so? Waiting serves requests to drop code, and with the last of a page its trace goes. */
static inline bool coherence_holds(const struct coherence_seat *s, u64 ram_page)
{
    const struct coherence *co = s->all;
    if (!co->writers)
        return co->mem->trace[ram_page] & MEM_TRACE_CODE;
    return __atomic_load_n(&co->holders[ram_page], __ATOMIC_RELAXED) >> s->id & 1;
}
/* The engine holds no more code of the page. */
void coherence_untrace(struct coherence_seat *s, u64 ram_page);
/* Bytes of a traced page are about to be stored to, by this CPU: no engine has code made of them when it returns. */
void coherence_written(struct coherence_seat *s, u64 ram_page, unsigned from, unsigned to);

/*
 * Pages were traced by a thread that is no CPU's (mem_log_start, mem_log_take): when it returns no engine has an entry for writing one
 * of them, or a store under way that it took for untraced. Without locks; waits for the ends of blocks.
 */
void coherence_retrace(struct coherence *co);

/* An entry for writing is wanted, or a store by the slow path: to be called before the trace bits are looked at. */
static inline void coherence_writer(struct coherence_seat *s, u64 ram_page)
{
    u64 *w = s->all->writers;
    if (w && !(__atomic_load_n(&w[ram_page], __ATOMIC_RELAXED) >> s->id & 1))
        __atomic_fetch_or(&w[ram_page], 1ull << s->id, __ATOMIC_SEQ_CST);
}

#endif
