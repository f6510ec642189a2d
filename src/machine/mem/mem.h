/*
 * Guest-physical memory: one memfd, mapped once, and the only doorway from a guest-physical address to host memory.
 *
 * The map of a machine with N bytes of RAM:
 *
 *   0 ............. min(N, 3 GiB)            RAM
 *   3 GiB ......... 4 GiB                    devices (I/O APIC fec00000, local APIC fee00000, PCI later)
 *   4 GiB ......... 4 GiB + (N - 3 GiB)      the rest of RAM
 *
 * Every page has a byte of trace bits. A write through the doorway or through an engine's TLB to a page that has one set
 * goes through mem_traced_write, which tells the client of that trace. (Memory traces: Bugnion et al., TOCS 2012.)
 *
 * The dirty log, while CPUs and devices write and another thread takes:
 *
 *   mark, by a writer that finds LOG:  M1 clear the page's LOG;              M2 set its bit in `dirty`.
 *   take:                              T1 exchange a word of `dirty` for 0;  T2 set LOG of the pages that had a bit in it;
 *                                      T3 each engine drops its TLB entries for writing traced pages, between two blocks
 *                                         (engine/coherence.h). Only then are the bits handed out.
 *
 * What is promised: a store that is not yet in memory when the take returns has its bit in a later one. At any time a page has LOG,
 * or its bit, or a writer between M1 and M2, or a taker between T1 and T2: that is what the two orders are for. (M2 first: a
 * T1 T2 in the middle leaves the page with neither. T2 first: an M1 M2 in the middle does.)
 *  - A device stores, fences, then looks (rule 3). If it finds LOG it marks, and the bit is taken now or later. If not, then the
 *    page has its bit, and whoever takes that does so behind the store; or a marker has yet to set it; or a taker is before T2,
 *    which hands out the bit behind the store.
 *  - An engine looks first, at its TLB or by the slow path, marks, and stores by what it found. What it found before T2 may be
 *    worth nothing behind it: so T3 waits until it has come to the end of a block. All such stores are in memory then, and the
 *    entries are gone. What it finds behind T2 is LOG, and its M2 is behind T1: that bit is for a later take.
 * So a bit may be set for nothing, or for one store in two takes. No store goes without. When all are halted nobody is in the
 * middle of anything, and a take has everything.
 *
 * Absent pages (absent.h): memory whose content is still elsewhere, in a file or at a peer. mem_at brings it before it hands out a
 * pointer; an engine asks before it fills a TLB entry, so the fast path knows nothing of this.
 *
 * What must stay true
 *  1. No code outside this room computes a host address from a guest-physical one.
 *  2. A length is checked against the end of its RAM range before the pointer is handed out, wrap-around included.
 *  3. A writer that does not use mem_write, nor an engine's TLB, looks at the page's trace bits behind the store and a full
 *     fence, and calls mem_traced_write if there are any: what another CPU made of the page meanwhile goes as well.
 */
#ifndef TRAPEZE_MACHINE_MEM_H
#define TRAPEZE_MACHINE_MEM_H

#include "base/error.h"
#include "base/types.h"

#define MEM_LOW_MAX   (3ull << 30)
#define MEM_HIGH_BASE (4ull << 30)
#define MEM_MIN_SIZE  (1ull << 20)
#define MEM_MAX_SIZE  (1ull << 40)

/* Trace bits of a page */
#define MEM_TRACE_CODE 1u /* an engine holds decoded or translated code from this page */
#define MEM_TRACE_LOG  2u /* the dirty log is on and the page is clean since the last round */

struct mem_absent;

struct guest_mem {
    u8 *ram;      /* host mapping of the whole memfd; its first low_size bytes are gpa 0.. */
    u64 size;     /* bytes of RAM in all */
    u64 low_size; /* bytes below the device hole */
    int fd;       /* the memfd, or -1 when the mapping is anonymous (tests) */
    u8 *trace;    /* a byte of MEM_TRACE_* bits a RAM page, indexed by RAM page number */
    /* Called for a write to a page with MEM_TRACE_CODE; clears what engines derived from it. */
    void (*code_written)(void *ctx, u64 ram_page);
    void *code_ctx;
    u64 *dirty;   /* dirty log: a bit a RAM page; once made it stays, for a late writer */
    bool logging; /* it is on */
    struct mem_absent
        *absent; /* pages whose content is still elsewhere; NULL: none. Atomic, it becomes NULL while CPUs run */
};

/*
 * Take an existing mapping of `size` bytes (a multiple of the page size, MEM_MIN_SIZE to MEM_MAX_SIZE) as RAM. The
 * mapping stays the caller's and must outlive `m`. 0, -EINVAL or -ENOMEM.
 */
int mem_init(struct guest_mem *m, void *ram, u64 size, int fd, struct error *e);

/* Free what mem_init allocated; the mapping itself is the caller's. */
void mem_destroy(struct guest_mem *m);

/* RAM offset of a guest-physical address, or UINT64_MAX when no RAM is there. */
static inline u64 mem_offset(const struct guest_mem *m, gpa_t a)
{
    if (a.v < m->low_size)
        return a.v;
    if (a.v >= MEM_HIGH_BASE && a.v - MEM_HIGH_BASE < m->size - m->low_size)
        return a.v - MEM_HIGH_BASE + m->low_size;
    return UINT64_MAX;
}

/* Bring what is absent of bytes [offset, offset + len) of RAM, which are there (absent.h). */
void mem_bring(const struct guest_mem *m, u64 offset, u64 len);
/* Whether the page of RAM at `offset` has to be brought first. */
bool mem_is_absent(const struct guest_mem *m, u64 offset);

/* Are `len` bytes at `a` RAM? For who does not look at them. */
static inline bool mem_is_ram(const struct guest_mem *m, gpa_t a, u64 len)
{
    u64 off = mem_offset(m, a);
    return off != UINT64_MAX && len <= (off < m->low_size ? m->low_size : m->size) - off;
}

/*
 * The doorway: a host pointer to `len` bytes at `a`, or NULL when any of them is not RAM (or wraps). Reading through it
 * is free; after writing through it see 3 above.
 */
static inline void *mem_at(const struct guest_mem *m, gpa_t a, u64 len)
{
    if (!mem_is_ram(m, a, len))
        return NULL;
    u64 off = mem_offset(m, a);
    if (unlikely(__atomic_load_n(&m->absent, __ATOMIC_RELAXED)))
        mem_bring(m, off, len);
    return m->ram + off;
}

/* Copy out of or into RAM. 0, or -EFAULT when any byte is not RAM (then nothing is copied). Writes are traced. */
int mem_read(const struct guest_mem *m, gpa_t a, void *buf, u64 len);
int mem_write(struct guest_mem *m, gpa_t a, const void *buf, u64 len);

/* Note a write to a page with MEM_TRACE_LOG in the dirty log; the other traces of the page stay. By any thread. */
void mem_log_write(struct guest_mem *m, u64 ram_page);

/* Tell the clients of the traces of RAM page `ram_page` that it has been written. */
void mem_traced_write(struct guest_mem *m, u64 ram_page);

/* What a writer by another way owes (3 above): bytes [offset, offset + len) of RAM, which are there, have been written. */
void mem_touch(struct guest_mem *m, u64 offset, u64 len);

/*
 * The dirty log. By one thread at a time; others may write meanwhile. After start and take the engines that may have TLB entries
 * have to give up those for writing traced pages, before anybody relies on what was said: T3 above (coherence_retrace).
 */

/* All pages are clean. 0 or -ENOMEM. */
int mem_log_start(struct guest_mem *m);
/* Words of a log of all RAM. */
static inline u64 mem_log_words(const struct guest_mem *m)
{
    return (m->size / PAGE_SIZE + 63) / 64;
}
/*
 * Of `pages` pages from `first` on (multiples of 64, inside mem_log_words): a bit for each that was written, and these are clean
 * again. Whether there were any. Only while the log is on.
 */
bool mem_log_take(struct guest_mem *m, u64 first, u64 pages, u64 *out);
/* Somebody has written who can tell nobody: all pages count as written. Does nothing while the log is off. */
void mem_log_all(struct guest_mem *m);
void mem_log_stop(struct guest_mem *m);

#endif
