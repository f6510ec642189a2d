/*
 * Absent pages: RAM whose content is still elsewhere when the machine runs already. Where that is the owner knows (`fetch`: a file,
 * a peer); here is who brings a page when, so that no write is lost and nobody sees half of one.
 *
 *   bring, by whoever wants the page:   B1 fetch its content into a buffer of one's own   (several may do that)
 *                                       B2 set its bit in `claimed`; who finds it set waits until the page is present
 *                                       B3 copy the buffer to RAM;   B4 clear its bit in `absent`
 *   drop, by who knows that the content is worth nothing any more:   B2, B4
 *
 * Somebody who claims in another process may die between B2 and B4: who follows him takes the claim back (migrate/lazy.h), or nobody
 * ever has that page.
 *
 * The maps may be shared with other processes, which believe them at their own risk: a map that lies harms the memory of the
 * machine whose it is.
 *
 * What must stay true
 *  1. Nobody reads or writes a page of RAM, nor has a TLB entry for it, before he saw its bit in `absent` clear. The bit is cleared
 *     behind the content (release), and looked at before it (acquire).
 *  2. A page's content is copied once, by who claimed it: what was written later is never overwritten.
 *  3. Between B2 and B4 nothing is waited for: no file, no lock.
 *  4. A page that can not be had is never present: `fetch` does not return then. Its caller may hold any lock; the machine is over.
 */
#ifndef TRAPEZE_MACHINE_ABSENT_H
#define TRAPEZE_MACHINE_ABSENT_H

#include "machine/mem/mem.h"

struct mem_absent {
    u64 *absent;  /* a bit a RAM page, whole words: its content is not there yet */
    u64 *claimed; /* likewise: somebody is about to put it there, or has */
    u64 *left;    /* how many bits `absent` has */
    /* The content of a page, which may be present by now; one that has waited until it is leaves `to` as it was. */
    void (*fetch)(void *ctx, u64 ram_page, u8 *to);
    void (*yield)(void *ctx); /* let others run */
    void *ctx;
};

/* Put content that was fetched where it belongs, unless somebody else has done so (B2 to B4). */
void mem_put_page(const struct guest_mem *m, struct mem_absent *a, u64 ram_page, const u8 *content);
/* The same by who must not wait for others: what somebody else has claimed is his to make present. */
void mem_offer_page(const struct guest_mem *m, struct mem_absent *a, u64 ram_page, const u8 *content);
/* The content of bytes [offset, offset + len), whole pages, is worth nothing: they are present, as they are in RAM. */
void mem_drop_absent(const struct guest_mem *m, u64 offset, u64 len);

#endif
