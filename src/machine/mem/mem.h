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

struct guest_mem {
    u8 *ram;      /* host mapping of the whole memfd; its first low_size bytes are gpa 0.. */
    u64 size;     /* bytes of RAM in all */
    u64 low_size; /* bytes below the device hole */
    int fd;       /* the memfd, or -1 when the mapping is anonymous (tests) */
    u8 *trace;    /* a byte of MEM_TRACE_* bits a RAM page, indexed by RAM page number */
    /* Called for a write to a page with MEM_TRACE_CODE; clears what engines derived from it. */
    void (*code_written)(void *ctx, u64 ram_page);
    void *code_ctx;
    u64 *dirty; /* dirty log: a bit a RAM page, NULL while off */
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

/*
 * The doorway: a host pointer to `len` bytes at `a`, or NULL when any of them is not RAM (or wraps). Reading through it
 * is free; after writing through it see 3 above.
 */
static inline void *mem_at(const struct guest_mem *m, gpa_t a, u64 len)
{
    u64 off = mem_offset(m, a);
    if (off == UINT64_MAX)
        return NULL;
    u64 end = off < m->low_size ? m->low_size : m->size;
    if (len > end - off)
        return NULL;
    return m->ram + off;
}

/* Copy out of or into RAM. 0, or -EFAULT when any byte is not RAM (then nothing is copied). Writes are traced. */
int mem_read(const struct guest_mem *m, gpa_t a, void *buf, u64 len);
int mem_write(struct guest_mem *m, gpa_t a, const void *buf, u64 len);

/* Note a write to a page with MEM_TRACE_LOG in the dirty log; the other traces of the page stay. */
void mem_log_write(struct guest_mem *m, u64 ram_page);

/* Tell the clients of the traces of RAM page `ram_page` that it has been written. */
void mem_traced_write(struct guest_mem *m, u64 ram_page);

/* Dirty log: start (all pages clean), take (copies a bit a RAM page to `out`, which may be NULL, and restarts), stop. */
int mem_log_start(struct guest_mem *m);
void mem_log_take(struct guest_mem *m, u64 *out);
void mem_log_stop(struct guest_mem *m);

#endif
