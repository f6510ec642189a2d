/*
 * Theory of operation
 *
 * A walk reads up to four tables of 512 eight-byte entries, from CR3 down. Bit 7 (PS) ends it early at levels 3 and 2
 * with a 1 GiB or 2 MiB page. Rights combine over all levels: a page is writable, or user, only if every entry says so;
 * it is no-execute if any entry says so. The fault's error code tells P (an entry was present at every level, so rights
 * or a reserved bit are to blame), W, U, RSVD and I. (SDM vol. 3A, 4.5 to 4.7.)
 *
 *   63  62..52  51........12        11..9  8  7   6  5  4   3   2   1   0
 *   XD  avail   address (MAXPHYADDR)  avail  G  PS  D  A  PCD PWT U/S R/W P
 *
 * Accessed bits of the tables are set even if the leaf's rights then refuse the access; a dirty bit only by a write that
 * is allowed. Both with a compare-and-exchange on guest memory, so that another writer of the entry is never lost: if
 * the entry changed, the walk starts again.
 *
 * What must stay true
 *  1. An entry is read once and judged from that copy.
 *  2. The entries' page goes through mem_traced_write before it is changed: tables are memory like any other.
 */
#include "machine/mmu/mmu.h"
#include "machine/cpu/cpuid.h"

#define PTE_P     BIT(0)
#define PTE_RW    BIT(1)
#define PTE_US    BIT(2)
#define PTE_A     BIT(5)
#define PTE_D     BIT(6)
#define PTE_PS    BIT(7)
#define PTE_G     BIT(8)
#define PTE_XD    BIT(63)

#define PTE_RETRY 100 /* not a CPU_* result: the entry changed under the walk */

struct walk {
    struct cpu *c;
    struct guest_mem *m;
    gva_t va;
    enum mmu_access access;
    bool user, peek, bare;
    u64 addr_mask; /* bits 12..MAXPHYADDR-1 */
};

static int fault(const struct walk *w, u32 bits)
{
    u32 code = bits;
    if (w->access == MMU_WRITE)
        code |= PF_W;
    if (w->user)
        code |= PF_U;
    /* The I bit exists only where fetches can fault on their own: NX or SMEP. */
    if (w->access == MMU_EXEC && ((w->c->efer & EFER_NXE) || (w->c->cr4 & CR4_SMEP)))
        code |= PF_I;
    return cpu_raise_pf(w->c, w->va, code);
}

/* Bits that must be zero in an entry at `shift`. */
static u64 reserved_bits(const struct walk *w, u64 pte, unsigned shift)
{
    u64 rsvd = ~(w->addr_mask | 0xfff) & 0x000ffffffffff000ull;
    if (!(w->c->efer & EFER_NXE))
        rsvd |= PTE_XD;
    if (shift == 39)
        rsvd |= PTE_PS;
    else if (shift > 12 && (pte & PTE_PS)) /* address bits below the page size; bit 12 is PAT */
        rsvd |= ((1ull << shift) - 1) & ~0x1fffull;
    return rsvd;
}

/* Set bits in the entry at host address `p` if it still reads `old`. */
static bool set_bits(const struct walk *w, u64 *p, u64 old, u64 bits)
{
    if ((old & bits) == bits || w->peek)
        return true;
    u64 page = (u64)((u8 *)p - w->m->ram) >> PAGE_SHIFT;
    if (w->m->trace[page] && w->bare)
        return false;
    if (w->m->trace[page])
        mem_traced_write(w->m, page);
    return __atomic_compare_exchange_n(p, &old, old | bits, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

bool mmu_allows(const struct cpu *c, const struct mmu_page *p, enum mmu_access access, bool user, bool implicit)
{
    if (access == MMU_EXEC) {
        if (p->nx || (user && !p->user))
            return false;
        return user || !p->user || !(c->cr4 & CR4_SMEP);
    }
    if (user)
        return p->user && (access == MMU_READ || p->writable_pte);
    if (p->user && (c->cr4 & CR4_SMAP) && (implicit || !(c->sysflags & FL_AC)))
        return false;
    return access == MMU_READ || p->writable_pte || !(c->cr0 & CR0_WP);
}

/* The leaf was found: judge it, set A and D, describe the page. */
static int finish(const struct walk *w, u64 *slot, u64 pte, unsigned shift, bool implicit, struct mmu_page *p)
{
    u64 offset = w->va.v & ((1ull << shift) - 1);
    u64 base = pte & w->addr_mask & ~((1ull << shift) - 1);
    p->gpa = GPA(base | offset);
    p->shift = (u8)shift;
    p->global = (pte & PTE_G) && (w->c->cr4 & CR4_PGE);
    if (!mmu_allows(w->c, p, w->access, w->user, implicit))
        return fault(w, PF_P);
    u64 bits = PTE_A | (w->access == MMU_WRITE ? PTE_D : 0);
    if (!set_bits(w, slot, pte, bits))
        return PTE_RETRY;
    p->dirty = (pte | bits) & PTE_D;
    return CPU_OK;
}

static int walk4(const struct walk *w, bool implicit, struct mmu_page *p)
{
    u64 table = w->c->cr3 & w->addr_mask;
    u64 rights = PTE_RW | PTE_US;
    u64 nx = 0;
    for (unsigned shift = 39;; shift -= 9) {
        u64 *slot = mem_at(w->m, GPA(table + (w->va.v >> shift & 511) * 8), 8);
        /* A table outside RAM reads as all ones from the bus: present with reserved bits set. */
        u64 pte = slot ? __atomic_load_n(slot, __ATOMIC_RELAXED) : ~0ull;
        if (!(pte & PTE_P))
            return fault(w, 0);
        if (pte & reserved_bits(w, pte, shift))
            return fault(w, PF_P | PF_RSVD);
        if (!slot)
            return fault(w, PF_P | PF_RSVD);
        rights &= pte;
        nx |= pte & PTE_XD;
        p->user = rights & PTE_US;
        p->writable_pte = rights & PTE_RW;
        p->nx = nx;
        if (shift == 12 || (shift <= 30 && (pte & PTE_PS)))
            return finish(w, slot, pte, shift, implicit, p);
        if (!set_bits(w, slot, pte, PTE_A))
            return PTE_RETRY;
        table = pte & w->addr_mask;
    }
}

static int translate(struct walk *w, bool implicit, struct mmu_page *p)
{
    struct cpu *c = w->c;
    gva_t va = w->va;
    if (!(c->cr0 & CR0_PG)) {
        *p = (struct mmu_page){
            .gpa = GPA(va.v & 0xffffffff), .shift = 12, .user = true, .writable_pte = true, .dirty = true};
        return CPU_OK;
    }
    if (!cpu_long_mode(c))
        return cpu_unimplemented(c, c->cr4 & CR4_PAE ? "PAE paging" : "32-bit paging");
    if (c->cr4 & CR4_LA57)
        return cpu_unimplemented(c, "five-level paging");
    if (!gva_canonical(va))
        return cpu_raise_error(c, VEC_GP, 0);
    unsigned bits = c->model && c->model->phys_bits ? c->model->phys_bits : 46;
    w->addr_mask = (BIT(bits) - 1) & PAGE_MASK;
    int r;
    do
        r = walk4(w, implicit, p);
    while (r == PTE_RETRY && !w->bare);
    return r;
}

int mmu_walk(struct cpu *c, struct guest_mem *m, gva_t va, enum mmu_access access, bool user, bool implicit,
             struct mmu_page *p)
{
    struct walk w = {.c = c, .m = m, .va = va, .access = access, .user = user};
    return translate(&w, implicit, p);
}

int mmu_peek(struct cpu *c, struct guest_mem *m, gva_t va, enum mmu_access access, bool user, struct mmu_page *p)
{
    struct walk w = {.c = c, .m = m, .va = va, .access = access, .user = user, .peek = true};
    return translate(&w, false, p);
}

bool mmu_walk_bare(struct cpu *c, struct guest_mem *m, gva_t va, enum mmu_access access, bool user, struct mmu_page *p)
{
    if ((c->cr0 & CR0_PG) && (!cpu_long_mode(c) || (c->cr4 & CR4_LA57)))
        return false;
    struct walk w = {.c = c, .m = m, .va = va, .access = access, .user = user, .bare = true};
    return translate(&w, false, p) == CPU_OK;
}
