/*
 * The guest's own paging: walks its tables exactly as the processor does, with every permission rule and error code.
 *
 * 32-bit, PAE and four-level paging with all their page sizes (SDM vol. 3A ch. 4). Without CR0.PG linear is physical.
 * Five-level paging is "not implemented" (CPU_UNIMPLEMENTED). Outside long mode a linear address has 32 bits: what is above
 * is ignored.
 */
#ifndef TRAPEZE_MACHINE_MMU_H
#define TRAPEZE_MACHINE_MMU_H

#include "machine/cpu/cpu.h"
#include "machine/mem/mem.h"

enum mmu_access { MMU_READ, MMU_WRITE, MMU_EXEC };

/* What a walk found: the page that holds the address and what the current mode may do with it. */
struct mmu_page {
    gpa_t gpa;         /* of the byte asked for */
    u8 shift;          /* 12, 21, 22 or 30: size of the mapping */
    bool global;       /* in every level that counts */
    bool user;         /* U/S of all levels: a user page */
    bool writable_pte; /* R/W of all levels */
    bool nx;           /* XD of any level (with EFER.NXE) */
    bool dirty;        /* D is set: a write needs no further walk */
};

/*
 * Translate `va` for `access`, `user` saying whether the access counts as user-mode (CPL 3 and not an implicit
 * supervisor access). `implicit` marks implicit supervisor accesses (descriptor tables, TSS: SMAP ignores EFLAGS.AC).
 * Sets accessed and dirty bits with locked operations, as the processor does.
 * CPU_OK with *p filled, CPU_FAULT with cpu->fault (#PF, or #GP(0) for a non-canonical address), CPU_UNIMPLEMENTED.
 */
int mmu_walk(struct cpu *c, struct guest_mem *m, gva_t va, enum mmu_access access, bool user, bool implicit,
             struct mmu_page *p);

/*
 * The same for callers whose vector registers are the guest's: it uses general registers only and calls nothing outside
 * this room. False: a fault (cpu->fault is lost), or something that only mmu_walk can do, such as setting a bit in a traced
 * table. What was done then is some accessed bits, which mmu_walk would set again.
 */
bool mmu_walk_bare(struct cpu *c, struct guest_mem *m, gva_t va, enum mmu_access access, bool user, struct mmu_page *p);

/*
 * The same look without a trace of it: for tools, not for the guest's own accesses. Sets no accessed or dirty bits; `c` is
 * a copy of the CPU that may be scribbled on (cpu->fault, stop_reason).
 */
int mmu_peek(struct cpu *c, struct guest_mem *m, gva_t va, enum mmu_access access, bool user, struct mmu_page *p);

/* The rights that `p` gives under the current CR0.WP, SMEP, SMAP, AC: true if `access` is allowed. */
bool mmu_allows(const struct cpu *c, const struct mmu_page *p, enum mmu_access access, bool user, bool implicit);

/* Whether an address is canonical for 48-bit linear addresses. */
static inline bool gva_canonical(gva_t va)
{
    return (u64)((s64)(va.v << 16) >> 16) == va.v;
}

#endif
