/*
 * The software TLB: four contexts of arrays, so laid out that translated code can look an address up by itself.
 *
 *   index   = bits 12-27 of the address
 *   read    = minus the page's address, if reading is allowed: so that address + read is the offset in the page
 *   write     the same for writing, with nothing left to do: dirty bit set, nobody watching the page
 *   addend    host address - linear address
 *   exec      which RAM page the code of this linear page is in; 0: none
 *   code      host address - linear address, for exec
 *
 * Code and data have entries of their own: a hot page of each may have the same index.
 *
 * An access of n bytes at `va` hits if va + read[index] <= PAGE_SIZE - n, unsigned. The index may be that of its first byte;
 * or that of its last, and then va + read[index] < PAGE_SIZE says the same: if it crosses a page the sum is negative.
 *
 * Zeroed memory is an empty table but for two indices: 0 is what page 0 itself has at index 0, and an access that crosses
 * from page 0 into page 1 comes with index 1. The empty value of these two is that of a page which no access that comes with
 * them starts in.
 *
 * Translated 32-bit code does not cut its sums to 32 bits. So code that is not 64-bit makes no entries for data at 4 GiB and
 * above, and an owner that translates has those of 64-bit code dropped before it begins (tlb_drop_high).
 *
 * Which indices are in use stands in a journal, so that a flush costs what was filled. Code has at most half of it. So there
 * is always room for an entry for data without one for code being dropped, which the owner of code would have to hear of.
 */
#ifndef TRAPEZE_INTERP_TLB_H
#define TRAPEZE_INTERP_TLB_H

#include "base/types.h"

#define TLB_BITS    16
#define TLB_SIZE    (1u << TLB_BITS)
#define TLB_JOURNAL 16384u /* entries in use at most, a context; then all those for data are dropped */
#define TLB_LARGE   4096u  /* bits of a set of large pages */
#define TLB_CODE    4096u  /* of these, for code; then all of the context is dropped */

struct tlb_tables {
    u64 read[TLB_SIZE], write[TLB_SIZE], addend[TLB_SIZE], exec[TLB_SIZE], code[TLB_SIZE];
};

/* Entries in use, in no order: the linear page, and what its 4 KiB are a part of. */
struct tlb_used {
    u64 page;
    u16 index;
    u8 kind; /* TLB_GLOBAL, TLB_2M, TLB_1G, TLB_EXEC */
};

struct tlb_journal {
    unsigned n, n_code; /* in use; of these, for code */
    struct tlb_used used[TLB_JOURNAL];
    u16 slot[2][TLB_SIZE]; /* data, code: of an index in used[], plus 1; 0: not in use */
};

#define TLB_GLOBAL 1u
#define TLB_2M     2u /* or 4 MiB, in 32-bit paging */
#define TLB_1G     4u
#define TLB_EXEC   8u /* an entry for code */

enum tlb_context { TLB_SUPERVISOR, TLB_SUPERVISOR_AC, TLB_USER, TLB_NEVER, TLB_CONTEXTS };

/* What a flush took away; PAGE: the entry for code of one page. */
enum tlb_flush { TLB_FLUSH_PAGE, TLB_FLUSH_NONGLOBAL, TLB_FLUSH_ALL };

static inline unsigned tlb_index(u64 va)
{
    return va >> PAGE_SHIFT & (TLB_SIZE - 1);
}

static inline u64 tlb_empty(unsigned index)
{
    return index < 2 ? (u64)-3 << PAGE_SHIFT : 0;
}

/*
 * One number for linear page and RAM page: 36 and 28 bits, inverted so that 0 is none. (It would be 0 for the last linear page
 * on the last page of 1 TiB of RAM, which therefore never hits.) XOR, because bits beyond these come from an address that
 * differs from the entry's in its upper 16 bits only, and must not be lost: it is not canonical.
 */
static inline u64 tlb_exec_key(u64 va, u64 ram)
{
    return ~((va >> PAGE_SHIFT) << 28 ^ ram >> PAGE_SHIFT);
}

#endif
