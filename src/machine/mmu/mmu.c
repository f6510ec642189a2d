/*
 * Theory of operation
 *
 * A walk goes from CR3 down. Rights combine over all levels: a page is writable, or user, only if every entry says so; it
 * is no-execute if any entry says so. The fault's error code tells P (an entry was present at every level, so rights or a
 * reserved bit are to blame), W, U, RSVD and I. (SDM vol. 3A, 4.3 to 4.7.)
 *
 *   paging     entries   levels by index bits           larger pages (PS)
 *   32-bit     4 bytes   31..22, 21..12                 4 MiB with CR4.PSE, 40 bits of address (PSE-36)
 *   PAE        8 bytes   31..30 (from registers),       2 MiB
 *                        29..21, 20..12
 *   4-level    8 bytes   47..39, 38..30, 29..21, 20..12  1 GiB, 2 MiB
 *
 *   63  62..52  51........12        11..9  8  7   6  5  4   3   2   1   0
 *   XD  avail   address (MAXPHYADDR)  avail  G  PS  D  A  PCD PWT U/S R/W P
 *
 * Four-byte entries are the lower half of that; with PAE bits 62..52 must be zero. The four entries of PAE's highest level
 * are read and checked when CR3 is loaded (isa/), have no rights and no accessed bits.
 *
 * Accessed bits of the tables are set even if the leaf's rights then refuse the access; a dirty bit only by a write that
 * is allowed. Both with a compare-and-exchange on guest memory, so that another writer of the entry is never lost: if
 * the entry changed, the walk starts again.
 *
 * What must stay true
 *  1. An entry is read once and judged from that copy.
 *  2. The entries' page goes through mem_traced_write when it is changed: tables are memory like any other.
 *
 * Not done: five-level paging, which no model offers.
 */
#include "machine/mmu/mmu.h"
#include "machine/cpu/cpuid.h"

#define PTE_P        BIT(0)
#define PTE_RW       BIT(1)
#define PTE_US       BIT(2)
#define PTE_A        BIT(5)
#define PTE_D        BIT(6)
#define PTE_PS       BIT(7)
#define PTE_G        BIT(8)
#define PTE_XD       BIT(63)

#define PAE_RESERVED (0x7ffull << 52)

#define PTE_RETRY    100 /* not a CPU_* result: the entry changed under the walk, or a bare walk can not get at it */

struct walk {
    struct cpu *c;
    struct guest_mem *m;
    gva_t va;
    enum mmu_access access;
    bool user, peek, bare, implicit;
    u64 addr_mask; /* bits 12..MAXPHYADDR-1 */
    u64 reserved;  /* must be zero in every entry */
};

static int fault(const struct walk *w, u32 bits)
{
    const struct cpu *c = w->c;
    u32 code = bits;
    if (w->access == MMU_WRITE)
        code |= PF_W;
    if (w->user)
        code |= PF_U;
    /* The I bit exists only where fetches can fault on their own: NX or SMEP. */
    bool nx = (c->efer & EFER_NXE) && (c->cr4 & CR4_PAE);
    if (w->access == MMU_EXEC && (nx || (c->cr4 & CR4_SMEP)))
        code |= PF_I;
    return cpu_raise_pf(w->c, w->va, code);
}

/* Bits that must be zero in an 8-byte entry at `shift`. */
static u64 reserved_bits(const struct walk *w, u64 pte, unsigned shift)
{
    u64 rsvd = w->reserved;
    if (shift == 39)
        rsvd |= PTE_PS;
    else if (shift > 12 && (pte & PTE_PS)) /* address bits below the page size; bit 12 is PAT */
        rsvd |= ((1ull << shift) - 1) & ~0x1fffull;
    return rsvd;
}

static bool replace(void *p, unsigned size, u64 old, u64 new)
{
    if (size == 8)
        return __atomic_compare_exchange_n((u64 *)p, &old, new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
    u32 old32 = (u32)old;
    return __atomic_compare_exchange_n((u32 *)p, &old32, (u32) new, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST);
}

/*
 * Set bits in the entry of `size` bytes at host address `p` if it still reads `old`. A bare walk may tell nobody: it gives up if
 * the page is traced.
 */
static bool set_bits(const struct walk *w, void *p, unsigned size, u64 old, u64 bits)
{
    if ((old & bits) == bits || w->peek)
        return true;
    u64 page = (u64)((u8 *)p - w->m->ram) >> PAGE_SHIFT;
    if ((w->bare && w->m->trace[page]) || !replace(p, size, old, old | bits))
        return false;
    if (!w->bare && w->m->trace[page])
        mem_traced_write(w->m, page);
    return true;
}

/* A table that has to be brought first: a bare walk does not. */
static bool out_of_reach(const struct walk *w, gpa_t table)
{
    u64 offset = mem_offset(w->m, table);
    return w->bare && offset != UINT64_MAX && mem_is_absent(w->m, offset);
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

/* The leaf was found, a page of 1 << shift bytes at `base`: judge it, set A and D, describe the page. */
static int finish(const struct walk *w, void *slot, unsigned size, u64 pte, u64 base, unsigned shift,
                  struct mmu_page *p)
{
    p->gpa = GPA(base | (w->va.v & ((1ull << shift) - 1)));
    p->shift = (u8)shift;
    p->global = (pte & PTE_G) && (w->c->cr4 & CR4_PGE);
    if (!mmu_allows(w->c, p, w->access, w->user, w->implicit))
        return fault(w, PF_P);
    u64 bits = PTE_A | (w->access == MMU_WRITE ? PTE_D : 0);
    if (!set_bits(w, slot, size, pte, bits))
        return PTE_RETRY;
    p->dirty = (pte | bits) & PTE_D;
    return CPU_OK;
}

/* Tables of 8-byte entries, from the one at `table` that bits `shift` and up of the address index. */
static int walk_wide(const struct walk *w, u64 table, unsigned shift, struct mmu_page *p)
{
    u64 rights = PTE_RW | PTE_US;
    u64 nx = 0;
    for (;; shift -= 9) {
        gpa_t at = GPA(table + (w->va.v >> shift & 511) * 8);
        if (out_of_reach(w, at))
            return PTE_RETRY;
        u64 *slot = mem_at(w->m, at, 8);
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
            return finish(w, slot, 8, pte, pte & w->addr_mask & ~((1ull << shift) - 1), shift, p);
        if (!set_bits(w, slot, 8, pte, PTE_A))
            return PTE_RETRY;
        table = pte & w->addr_mask;
    }
}

static int walk_pae(const struct walk *w, struct mmu_page *p)
{
    u64 pdpte = w->c->pdpte[w->va.v >> 30];
    return pdpte & PTE_P ? walk_wide(w, pdpte & w->addr_mask, 21, p) : fault(w, 0);
}

/* Bits 20..13 of a 4 MiB page's entry are bits 39..32 of its address, as far as the processor has them; bit 21 is none. */
static u32 reserved_4m(const struct walk *w)
{
    u64 high = w->addr_mask >> 32 & 0xff;
    return BIT(21) | (~(u32)high & 0xff) << 13;
}

/* An entry of a table outside RAM is all ones: its accessed and dirty bits are set, so nobody wants to write there. */
static int walk32(const struct walk *w, struct mmu_page *p)
{
    gpa_t at = GPA((w->c->cr3 & 0xfffff000) + (w->va.v >> 22) * 4);
    if (out_of_reach(w, at))
        return PTE_RETRY;
    u32 *slot = mem_at(w->m, at, 4);
    u32 pde = slot ? __atomic_load_n(slot, __ATOMIC_RELAXED) : ~0u;
    if (!(pde & PTE_P))
        return fault(w, 0);
    p->user = pde & PTE_US;
    p->writable_pte = pde & PTE_RW;
    p->nx = false;
    if ((pde & PTE_PS) && (w->c->cr4 & CR4_PSE)) {
        if (pde & reserved_4m(w))
            return fault(w, PF_P | PF_RSVD);
        return finish(w, slot, 4, pde, (pde & 0xffc00000) | (u64)(pde >> 13 & 0xff) << 32, 22, p);
    }
    if (!set_bits(w, slot, 4, pde, PTE_A))
        return PTE_RETRY;
    at = GPA((pde & 0xfffff000) + (w->va.v >> 12 & 1023) * 4);
    if (out_of_reach(w, at))
        return PTE_RETRY;
    slot = mem_at(w->m, at, 4);
    u32 pte = slot ? __atomic_load_n(slot, __ATOMIC_RELAXED) : ~0u;
    if (!(pte & PTE_P))
        return fault(w, 0);
    p->user &= !!(pte & PTE_US);
    p->writable_pte &= !!(pte & PTE_RW);
    return finish(w, slot, 4, pte, pte & 0xfffff000, 12, p);
}

static int walk_once(const struct walk *w, struct mmu_page *p)
{
    const struct cpu *c = w->c;
    if (likely(cpu_long_mode(c)))
        return walk_wide(w, c->cr3 & w->addr_mask, 39, p);
    return c->cr4 & CR4_PAE ? walk_pae(w, p) : walk32(w, p);
}

static int translate(struct walk *w, struct mmu_page *p)
{
    struct cpu *c = w->c;
    if (!(c->cr0 & CR0_PG)) {
        *p = (struct mmu_page){
            .gpa = GPA(w->va.v & 0xffffffff), .shift = 12, .user = true, .writable_pte = true, .dirty = true};
        return CPU_OK;
    }
    if (c->cr4 & CR4_LA57 && cpu_long_mode(c))
        return cpu_unimplemented(c, "five-level paging");
    unsigned bits = c->model && c->model->phys_bits ? c->model->phys_bits : 46;
    w->addr_mask = (BIT(bits) - 1) & PAGE_MASK;
    w->reserved = (~(w->addr_mask | 0xfff) & 0x000ffffffffff000ull) | (c->efer & EFER_NXE ? 0 : PTE_XD);
    if (!cpu_long_mode(c)) {
        w->va = GVA((u32)w->va.v);
        w->reserved |= PAE_RESERVED;
    } else if (!gva_canonical(w->va)) {
        return cpu_raise_error(c, VEC_GP, 0);
    }
    int r;
    do
        r = walk_once(w, p);
    while (r == PTE_RETRY && !w->bare);
    return r;
}

int mmu_walk(struct cpu *c, struct guest_mem *m, gva_t va, enum mmu_access access, bool user, bool implicit,
             struct mmu_page *p)
{
    struct walk w = {.c = c, .m = m, .va = va, .access = access, .user = user, .implicit = implicit};
    return translate(&w, p);
}

int mmu_peek(struct cpu *c, struct guest_mem *m, gva_t va, enum mmu_access access, bool user, struct mmu_page *p)
{
    struct walk w = {.c = c, .m = m, .va = va, .access = access, .user = user, .peek = true};
    return translate(&w, p);
}

bool mmu_walk_bare(struct cpu *c, struct guest_mem *m, gva_t va, enum mmu_access access, bool user, struct mmu_page *p)
{
    if ((c->cr0 & CR0_PG) && (c->cr4 & CR4_LA57))
        return false;
    struct walk w = {.c = c, .m = m, .va = va, .access = access, .user = user, .bare = true};
    return translate(&w, p) == CPU_OK;
}
