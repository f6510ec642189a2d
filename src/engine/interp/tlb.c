/*
 * Filling and flushing the software TLB.
 *
 * This file, and the walk, are compiled to use general registers only: translated code calls
 * them while the guest's vectors are in the host's registers.
 */
#include "engine/interp/interp_internal.h"

static void entry_clear(struct interp *ip, unsigned ctx, unsigned i)
{
    struct tlb_tables *t = &ip->tlbs[ctx];
    t->read[i] = t->write[i] = tlb_empty(i);
    t->exec[i] = t->addend[i] = 0;
}

void tlb_init(struct interp *ip)
{
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++)
        entry_clear(ip, ctx, 0);
}

static void tell(struct interp *ip, enum tlb_flush what, u64 va)
{
    if (ip->flushed)
        ip->flushed(ip->owner, what, va);
}

/* Drop entry number k: the last one takes its place. */
static void drop(struct interp *ip, unsigned ctx, unsigned k)
{
    struct tlb_journal *j = &ip->journal[ctx];
    unsigned i = j->used[k].index;
    entry_clear(ip, ctx, i);
    j->slot[i] = 0;
    j->n--;
    if (k == j->n)
        return;
    j->used[k].page = j->used[j->n].page;
    j->used[k].index = j->used[j->n].index;
    j->used[k].kind = j->used[j->n].kind;
    j->slot[j->used[k].index] = (u16)(k + 1);
}

/* Drop the entries that are not of `keep`. */
static void drop_all(struct interp *ip, unsigned ctx, u8 keep)
{
    for (unsigned k = ip->journal[ctx].n; k-- > 0;)
        if (!(ip->journal[ctx].used[k].kind & keep))
            drop(ip, ctx, k);
}

void tlb_flush_all(struct interp *ip)
{
    ip->stats.tlb_flushes++;
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++)
        drop_all(ip, ctx, 0);
    ip->large[0] = ip->large[1] = false;
    tell(ip, TLB_FLUSH_ALL, 0);
}

void tlb_flush_nonglobal(struct interp *ip)
{
    ip->stats.tlb_flushes++;
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++)
        drop_all(ip, ctx, TLB_GLOBAL);
    tell(ip, TLB_FLUSH_NONGLOBAL, 0);
}

/* --- large pages: they enter as the 4 KiB around an address, but INVLPG of any part forgets all of them --- */

static const u8 large_shift[2] = {21, 30};

static void flush_large(struct interp *ip, unsigned size, u64 va)
{
    bool any = false;
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++)
        for (unsigned k = ip->journal[ctx].n; k-- > 0;) {
            const struct tlb_used *u = &ip->journal[ctx].used[k];
            if (!(u->kind & TLB_2M << size))
                continue;
            if ((u->page ^ va) >> large_shift[size]) {
                any = true;
                continue;
            }
            tell(ip, TLB_FLUSH_PAGE, u->page);
            drop(ip, ctx, k);
        }
    ip->large[size] = any;
}

/*
 * Forget the translation of `va`: if it came from a large page, all of that page, as it was when it was entered (SDM
 * vol. 3A, 4.10.4.1; the tables may have changed since).
 */
void tlb_flush_page(struct interp *ip, u64 va)
{
    unsigned i = tlb_index(va);
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++)
        if (ip->journal[ctx].slot[i])
            drop(ip, ctx, ip->journal[ctx].slot[i] - 1u);
    for (unsigned size = 0; size < 2; size++)
        if (ip->large[size])
            flush_large(ip, size, va);
    tell(ip, TLB_FLUSH_PAGE, va);
}

void tlb_protect_page(struct interp *ip, u64 ram_page)
{
    u64 host = (u64)ip->mem->ram + (ram_page << PAGE_SHIFT);
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++) {
        struct tlb_tables *t = &ip->tlbs[ctx];
        const struct tlb_journal *j = &ip->journal[ctx];
        for (unsigned k = 0; k < j->n; k++) {
            unsigned i = j->used[k].index;
            if (t->addend[i] + j->used[k].page == host)
                t->write[i] = tlb_empty(i);
        }
    }
}

/* Entry number for index i, which is used from now on. */
static struct tlb_used *use(struct interp *ip, unsigned ctx, unsigned i)
{
    struct tlb_journal *j = &ip->journal[ctx];
    if (!j->slot[i]) {
        if (j->n == TLB_JOURNAL) {
            drop_all(ip, ctx, 0);
            tell(ip, TLB_FLUSH_ALL, 0);
        }
        j->used[j->n].index = (u16)i;
        j->slot[i] = (u16)++j->n;
    }
    return &j->used[j->slot[i] - 1];
}

void tlb_fill(struct interp *ip, unsigned ctx, u64 va, const struct mmu_page *p)
{
    u64 ram = mem_offset(ip->mem, GPA(p->gpa.v & PAGE_MASK));
    if (ram == UINT64_MAX || ctx == TLB_NEVER)
        return;
    struct cpu *c = ip->cpu;
    unsigned i = tlb_index(va);
    u64 page = va & PAGE_MASK, none = tlb_empty(i);
    bool user = ctx == TLB_USER, paging = c->cr0 & CR0_PG;
    bool w = p->dirty && !ip->mem->trace[ram >> PAGE_SHIFT] && (!paging || mmu_allows(c, p, MMU_WRITE, user, false));
    struct tlb_tables *t = &ip->tlbs[ctx];
    struct tlb_used *u = use(ip, ctx, i);
    bool other = t->exec[i] && u->page != page;
    u64 was = u->page;
    t->read[i] = !paging || mmu_allows(c, p, MMU_READ, user, false) ? 0 - page : none;
    t->write[i] = w ? 0 - page : none;
    t->exec[i] = !paging || mmu_allows(c, p, MMU_EXEC, user, false) ? tlb_exec_key(va, ram) : 0;
    t->addend[i] = (u64)ip->mem->ram + ram - page;
    u->page = page;
    u->kind = (u8)((p->global ? TLB_GLOBAL : 0) | (p->shift == 21 ? TLB_2M : 0) | (p->shift == 30 ? TLB_1G : 0));
    ip->large[0] |= p->shift == 21;
    ip->large[1] |= p->shift == 30;
    ip->stats.tlb_fills++;
    if (other)
        tell(ip, TLB_FLUSH_PAGE, was);
}

int tlb_refill(struct interp *ip, u64 va, unsigned size, bool write)
{
    struct mmu_page p;
    if (ip->context == TLB_NEVER || (va & (PAGE_SIZE - 1)) + size > PAGE_SIZE)
        return 0;
    if (mmu_walk(ip->cpu, ip->mem, GVA(va), write ? MMU_WRITE : MMU_READ, ip->user, false, &p) != CPU_OK)
        return 0;
    tlb_fill(ip, ip->context, va, &p);
    return write ? tlb_write_ptr(ip, va, size) != NULL : tlb_read_ptr(ip, va, size) != NULL;
}
