/*
 * Filling and flushing the software TLB.
 *
 * This file, and the walk, are compiled to use general registers only: translated code calls tlb_refill while the guest's
 * vectors are in the host's registers. On that path nothing else is called: no hook, no client of a trace, no libc.
 */
#include "engine/interp/interp.h"

static void entry_clear(struct interp *ip, unsigned ctx, unsigned i, bool exec)
{
    struct tlb_tables *t = &ip->tlbs[ctx];
    if (exec)
        t->exec[i] = t->code[i] = 0;
    else
        t->read[i] = t->write[i] = tlb_empty(i), t->addend[i] = 0;
}

void tlb_init(struct interp *ip)
{
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++)
        for (unsigned i = 0; tlb_empty(i); i++)
            entry_clear(ip, ctx, i, false);
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
    struct tlb_used *u = &j->used[k], *last = &j->used[--j->n];
    bool exec = u->kind & TLB_EXEC;
    entry_clear(ip, ctx, u->index, exec);
    j->slot[exec][u->index] = 0;
    j->n_code -= exec;
    if (u == last)
        return;
    u->page = last->page, u->index = last->index, u->kind = last->kind;
    j->slot[!!(u->kind & TLB_EXEC)][u->index] = (u16)(k + 1);
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
    memset(ip->large, 0, sizeof(ip->large));
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

/* Drop entry number k; the owner hears of it if it was one for code. */
static void forget(struct interp *ip, unsigned ctx, unsigned k)
{
    struct tlb_used u = ip->journal[ctx].used[k];
    drop(ip, ctx, k);
    if (u.kind & TLB_EXEC)
        tell(ip, TLB_FLUSH_PAGE, u.page);
}

/*
 * Of each size a set of bits, by a hash of the page's number (4 MiB: what is a part of a 2 MiB page is a part of that), tells
 * whether there may be such entries. So an INVLPG of small pages does not look through all entries.
 */
static const u8 large_shift[2] = {22, 30};

static unsigned large_bit(unsigned size, u64 va)
{
    return (u32)((va >> large_shift[size]) * 0x9e3779b97f4a7c15ull >> 52) % TLB_LARGE;
}

static void note_large(struct interp *ip, unsigned size, u64 va)
{
    unsigned bit = large_bit(size, va);
    ip->large[size][bit / 64] |= BIT(bit % 64);
}

static bool may_be_large(const struct interp *ip, unsigned size, u64 va)
{
    unsigned bit = large_bit(size, va);
    return ip->large[size][bit / 64] >> bit % 64 & 1;
}

static void flush_large(struct interp *ip, unsigned size, u64 va)
{
    /* 32-bit paging has 4 MiB where the others have 2 MiB. (A change of CR4.PAE flushes all.) */
    unsigned shift = size ? 30 : ip->cpu->cr4 & CR4_PAE ? 21 : 22;
    memset(ip->large[size], 0, sizeof(ip->large[size]));
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++)
        for (unsigned k = ip->journal[ctx].n; k-- > 0;) {
            const struct tlb_used *u = &ip->journal[ctx].used[k];
            if (!(u->kind & TLB_2M << size))
                continue;
            if ((u->page ^ va) >> shift)
                note_large(ip, size, u->page);
            else
                forget(ip, ctx, k);
        }
}

/*
 * Forget the translation of `va`: if it came from a large page, all of that page, as it was when it was entered (SDM
 * vol. 3A, 4.10.4.1; the tables may have changed since).
 */
void tlb_flush_page(struct interp *ip, u64 va)
{
    unsigned i = tlb_index(va);
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++)
        for (unsigned exec = 0; exec < 2; exec++)
            if (ip->journal[ctx].slot[exec][i])
                forget(ip, ctx, ip->journal[ctx].slot[exec][i] - 1u);
    for (unsigned size = 0; size < 2; size++)
        if (may_be_large(ip, size, va))
            flush_large(ip, size, va);
}

void tlb_drop_high(struct interp *ip)
{
    unsigned ctx = ip->context;
    const struct tlb_journal *j = &ip->journal[ctx];
    if (likely(!ip->high[ctx]))
        return;
    ip->high[ctx] = false;
    for (unsigned k = j->n; k-- > 0;)
        if (j->used[k].page >> 32 && !(j->used[k].kind & TLB_EXEC))
            drop(ip, ctx, k);
}

void tlb_protect_page(struct interp *ip, u64 ram_page)
{
    u64 host = (u64)ip->mem->ram + (ram_page << PAGE_SHIFT);
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++) {
        struct tlb_tables *t = &ip->tlbs[ctx];
        const struct tlb_journal *j = &ip->journal[ctx];
        for (unsigned k = 0; k < j->n; k++) {
            unsigned i = j->used[k].index;
            if (!(j->used[k].kind & TLB_EXEC) && t->addend[i] + j->used[k].page == host)
                t->write[i] = tlb_empty(i);
        }
    }
}

void tlb_protect_traced(struct interp *ip)
{
    const struct guest_mem *m = ip->mem;
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++) {
        struct tlb_tables *t = &ip->tlbs[ctx];
        const struct tlb_journal *j = &ip->journal[ctx];
        for (unsigned k = 0; k < j->n; k++) {
            unsigned i = j->used[k].index;
            u64 ram = t->addend[i] + j->used[k].page - (u64)m->ram;
            if (!(j->used[k].kind & TLB_EXEC) && t->write[i] != tlb_empty(i) && m->trace[ram >> PAGE_SHIFT])
                t->write[i] = tlb_empty(i);
        }
    }
}

/* The journal's entry for index i, which is used from now on, for `page`. */
static struct tlb_used *use(struct interp *ip, unsigned ctx, unsigned i, u64 page, bool exec)
{
    struct tlb_journal *j = &ip->journal[ctx];
    if (!j->slot[exec][i]) {
        if (exec && j->n_code == TLB_CODE) {
            drop_all(ip, ctx, 0);
            tell(ip, TLB_FLUSH_ALL, 0);
        } else if (j->n == TLB_JOURNAL) {
            drop_all(ip, ctx, TLB_EXEC);
        }
        j->used[j->n].index = (u16)i;
        j->slot[exec][i] = (u16)++j->n;
        j->n_code += exec;
    } else if (exec && j->used[j->slot[exec][i] - 1].page != page) {
        tell(ip, TLB_FLUSH_PAGE, j->used[j->slot[exec][i] - 1].page);
    }
    j->used[j->slot[exec][i] - 1].page = page;
    return &j->used[j->slot[exec][i] - 1];
}

/*
 * May the RAM page have an entry for writing? One that only the dirty log watches may once the log knows: told here, so that the
 * first write of a round costs no more than a fill.
 */
static bool untraced(struct interp *ip, u64 ram_page, bool write)
{
    coherence_writer(ip->seat, ram_page);
    const u8 *trace = &ip->mem->trace[ram_page];
    u8 t = __atomic_load_n(trace, __ATOMIC_SEQ_CST);
    if (unlikely(t == MEM_TRACE_LOG) && write) {
        mem_log_write(ip->mem, ram_page);
        t = __atomic_load_n(trace, __ATOMIC_SEQ_CST);
    }
    return !t;
}

/* The page is present. */
void tlb_fill(struct interp *ip, unsigned ctx, u64 va, const struct mmu_page *p, enum mmu_access access)
{
    u64 ram = mem_offset(ip->mem, GPA(p->gpa.v & PAGE_MASK)), page = va & PAGE_MASK;
    struct cpu *c = ip->cpu;
    bool high = page >> 32 && access != MMU_EXEC;
    if (ram == UINT64_MAX || ctx == TLB_NEVER || (high && !cpu_code64(c)))
        return;
    ip->high[ctx] |= high;
    struct tlb_tables *t = &ip->tlbs[ctx];
    unsigned i = tlb_index(va);
    bool user = ctx == TLB_USER, paging = c->cr0 & CR0_PG, exec = access == MMU_EXEC;
    u64 none = tlb_empty(i), addend = (u64)ip->mem->ram + ram - page;
    struct tlb_used *u = use(ip, ctx, i, page, exec);
    bool mid = p->shift == 21 || p->shift == 22;
    u->kind =
        (u8)((p->global ? TLB_GLOBAL : 0) | (mid ? TLB_2M : 0) | (p->shift == 30 ? TLB_1G : 0) | (exec ? TLB_EXEC : 0));
    if (mid)
        note_large(ip, 0, page);
    if (p->shift == 30)
        note_large(ip, 1, page);
    ip->stats.tlb_fills++;
    if (exec) {
        t->exec[i] = tlb_exec_key(va, ram);
        t->code[i] = addend;
        return;
    }
    bool w = p->dirty && (!paging || mmu_allows(c, p, MMU_WRITE, user, false));
    if (w)
        w = untraced(ip, ram >> PAGE_SHIFT, access == MMU_WRITE);
    t->read[i] = !paging || mmu_allows(c, p, MMU_READ, user, false) ? 0 - page : none;
    t->write[i] = w ? 0 - page : none;
    t->addend[i] = addend;
}

/* Its content has to be brought first, which is not done here. */
static bool absent(const struct interp *ip, const struct mmu_page *p)
{
    u64 ram = mem_offset(ip->mem, p->gpa);
    return ram != UINT64_MAX && mem_is_absent(ip->mem, ram);
}

int tlb_refill(struct interp *ip, u64 va, unsigned size, bool write)
{
    struct mmu_page p;
    if (ip->context == TLB_NEVER || (va & (PAGE_SIZE - 1)) + size > PAGE_SIZE)
        return 0;
    if (!mmu_walk_bare(ip->cpu, ip->mem, GVA(va), write ? MMU_WRITE : MMU_READ, ip->user, &p) || absent(ip, &p))
        return 0;
    tlb_fill(ip, ip->context, va, &p, write ? MMU_WRITE : MMU_READ);
    return write ? tlb_write_ptr(ip, va, size) != NULL : tlb_read_ptr(ip, va, size) != NULL;
}
