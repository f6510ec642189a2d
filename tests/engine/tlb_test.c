/*
 * The software TLB: what its tables say, as the interpreter's look-up reads them and as translated code does, against the
 * rules in interp/tlb.h.
 */
#include "engine/interp/interp.h"
#include "machine/cpu/cpuid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define RAM_SIZE (64u << 20)
#define TABLES   0x100000u /* page tables from here on */
#define P        1ull
#define RW       2ull
#define US       4ull
#define A        0x20ull
#define D        0x40ull
#define PS       0x80ull
#define G        0x100ull

struct fix {
    struct interp *ip;
    struct cpu *c;
    struct cpu_model model;
    struct guest_mem mem;
    u64 next_table;
    /* hooks */
    unsigned told[3], killed;
    u64 told_va;
    bool has_code;
};

static void hear_flush(void *owner, enum tlb_flush what, u64 va)
{
    struct fix *f = owner;
    f->told[what]++;
    f->told_va = va;
}

static void hear_code(void *owner, u64 ram_page, unsigned from, unsigned to)
{
    ((struct fix *)owner)->killed++;
}

static bool hear_has_code(void *owner, u64 ram_page)
{
    return ((struct fix *)owner)->has_code;
}

static int setup(void **state)
{
    static const struct machine_ops ops;
    struct fix *f = calloc(1, sizeof(*f));
    u8 *ram = aligned_alloc(PAGE_SIZE, RAM_SIZE);
    memset(ram, 0, RAM_SIZE);
    assert_int_equal(mem_init(&f->mem, ram, RAM_SIZE, -1, NULL), 0);
    f->c = aligned_alloc(64, (sizeof(struct cpu) + 63) & ~63ul);
    memset(f->c, 0, sizeof(*f->c));
    f->model.phys_bits = 40;
    f->c->model = &f->model;
    f->c->cr0 = CR0_PE | CR0_PG | CR0_WP;
    f->c->cr4 = CR4_PAE | CR4_PGE | CR4_SMAP;
    f->c->efer = EFER_LME | EFER_LMA | EFER_NXE;
    f->c->cr3 = TABLES;
    f->c->seg[SEG_CS].attr = SEG_L | SEG_CODE | SEG_P;
    f->next_table = TABLES + PAGE_SIZE;
    f->ip = calloc(1, sizeof(*f->ip));
    f->ip->owner = f;
    f->ip->flushed = hear_flush;
    f->ip->code_killed = hear_code;
    f->ip->has_code = hear_has_code;
    struct engine_config cfg = {.mem = &f->mem, .ops = &ops};
    assert_int_equal(interp_init(f->ip, &cfg, NULL), 0);
    f->ip->cpu = f->c;
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;
    interp_fini(f->ip);
    free(f->ip);
    free(f->mem.ram);
    mem_destroy(&f->mem);
    free(f->c);
    free(f);
    return 0;
}

static void context(struct fix *f, enum tlb_context ctx)
{
    f->ip->context = (u8)ctx;
    f->ip->tlb = &f->ip->tlbs[ctx];
    f->ip->user = ctx == TLB_USER;
    f->c->cpl = ctx == TLB_USER ? 3 : 0;
    f->c->sysflags = ctx == TLB_SUPERVISOR_AC ? FL_AC : 0;
}

static u64 *entry_at(struct fix *f, u64 gpa)
{
    return (u64 *)(void *)(f->mem.ram + gpa);
}

/* Map the page of 1 << shift bytes at `va`; returns its entry. */
static u64 *map(struct fix *f, u64 va, u64 gpa, unsigned shift, u64 bits)
{
    u64 table = TABLES;
    for (unsigned s = 39;; s -= 9) {
        u64 *e = entry_at(f, table + (va >> s & 511) * 8);
        if (s == shift) {
            *e = gpa | bits | P | (shift > 12 ? PS : 0);
            return e;
        }
        if (!*e) {
            *e = f->next_table | P | RW | US | A;
            f->next_table += PAGE_SIZE;
        }
        table = *e & 0x000ffffffffff000ull;
    }
}

/* --- the look-up, as it is done inline --- */

/* With the index of the first byte: what interp does, and translated code where it may change flags. */
static bool hit_first(const struct tlb_tables *t, u64 va, unsigned n, bool write)
{
    unsigned i = tlb_index(va);
    return va + (write ? t->write : t->read)[i] <= PAGE_SIZE - n;
}

/* With the index of the last byte, and no more than a test for a page offset: translated code that keeps flags. */
static bool hit_last(const struct tlb_tables *t, u64 va, unsigned n, bool write)
{
    unsigned i = tlb_index(va + n - 1);
    return (va + (write ? t->write : t->read)[i]) >> PAGE_SHIFT == 0;
}

static bool refill(struct fix *f, u64 va, unsigned n, bool write)
{
    int r = tlb_refill(f->ip, va, n, write);
    assert_int_equal(r, hit_first(f->ip->tlb, va, n, write));
    if (r)
        assert_true(hit_last(f->ip->tlb, va, n, write));
    return r;
}

static bool reads(struct fix *f, u64 va)
{
    return hit_first(f->ip->tlb, va, 1, false);
}

static bool writes(struct fix *f, u64 va)
{
    return hit_first(f->ip->tlb, va, 1, true);
}

/* --- tests --- */

/* Pages with indices around the special ones 0 and 1, in several places of the address space. */
static const u64 bases[] = {0, 1ull << 28, 2ull << 28, 0x7fffull << 32, 0xffff8000ull << 32, 0xfffffffff0000000ull};
static const u64 pages[] = {0, 1, 2, 3, 4, 0xfffe, 0xffff};

static u64 some_page(u64 r)
{
    return bases[r % ARRAY_LEN(bases)] + (pages[(r >> 8) % ARRAY_LEN(pages)] << PAGE_SHIFT);
}

static u64 random64(u64 *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x2545f4914f6cdd1dull >> 8;
}

/* A hit of either form says: both ends in one page that was entered for this, and the addend is that page's. */
static void check_access(struct fix *f, const u64 held[2][TLB_SIZE], u64 va, unsigned n, bool write)
{
    const struct tlb_tables *t = f->ip->tlb;
    u64 page = va & PAGE_MASK, last = (va + n - 1) & PAGE_MASK;
    bool good = page == last && held[write][tlb_index(va)] == (page | 1);
    assert_int_equal(hit_first(t, va, n, write), good);
    assert_int_equal(hit_last(t, va, n, write), good);
    assert_int_equal((write ? tlb_write_ptr(f->ip, va, n) : tlb_read_ptr(f->ip, va, n)) != NULL, good);
    if (good)
        assert_in_range(va + t->addend[tlb_index(va)] - (u64)f->mem.ram, 0, RAM_SIZE - n);
}

static void test_random_look_ups(void **state)
{
    struct fix *f = *state;
    u64 s = 0x1234567;
    static u64 held[2][TLB_SIZE]; /* page address | 1 */
    memset(held, 0, sizeof(held));
    context(f, TLB_USER);
    for (unsigned n = 0; n < 200000; n++) {
        u64 va = some_page(random64(&s)), r = random64(&s);
        struct mmu_page p = {.gpa = GPA((r & 1023) << PAGE_SHIFT), .shift = 12, .user = true, .dirty = r >> 10 & 1};
        p.writable_pte = r >> 11 & 1;
        if (n % 4 == 1) {
            tlb_fill(f->ip, TLB_USER, va, &p, MMU_READ);
            held[0][tlb_index(va)] = va | 1;
            held[1][tlb_index(va)] = p.dirty && p.writable_pte ? va | 1 : 0;
        } else if (n % 64 == 2) {
            tlb_flush_page(f->ip, va);
            held[0][tlb_index(va)] = held[1][tlb_index(va)] = 0;
        }
        unsigned size = 1u << (r >> 12) % 7;
        u64 at = some_page(random64(&s)) + ((r >> 16 & 1) ? PAGE_SIZE - (r >> 20 & 127) : (r >> 20 & 4095));
        check_access(f, held, at, size, r >> 40 & 1);
    }
}

/* Before anything is entered, no address hits: not with an index that another page's byte gives either. */
static void test_empty(void **state)
{
    struct fix *f = *state;
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++) {
        context(f, (enum tlb_context)ctx);
        for (unsigned b = 0; b < ARRAY_LEN(bases); b++)
            for (unsigned p = 0; p < ARRAY_LEN(pages); p++)
                for (u64 off = 0; off < PAGE_SIZE; off++)
                    for (unsigned n = 1; n <= 64; n *= 4) {
                        u64 va = bases[b] + (pages[p] << PAGE_SHIFT) + off;
                        assert_false(hit_first(f->ip->tlb, va, n, off & 1));
                        assert_false(hit_last(f->ip->tlb, va, n, off & 1));
                    }
    }
}

/* An access from page 0 into a page that may only be read, whose addend leads anywhere. */
static void test_page_one_read_only(void **state)
{
    struct fix *f = *state;
    context(f, TLB_USER);
    map(f, 1ull << 28 | PAGE_SIZE, 0x400000, 12, US | A);
    assert_true(refill(f, 1ull << 28 | PAGE_SIZE, 8, false));
    assert_false(hit_last(f->ip->tlb, PAGE_SIZE - 1, 2, true));
    assert_false(hit_last(f->ip->tlb, PAGE_SIZE - 7, 8, true));
}

static void test_exec_key(void **state)
{
    u64 s = 99;
    for (unsigned n = 0; n < 100000; n++) {
        u64 va = (u64)((s64)(random64(&s) << 20) >> 16) & PAGE_MASK,
            ram = random64(&s) & (MEM_MAX_SIZE - 1) & PAGE_MASK;
        u64 key = tlb_exec_key(va, ram), other = BIT(random64(&s) % 36 + PAGE_SHIFT);
        assert_int_not_equal(key, 0);
        assert_true(key == tlb_exec_key(va + (n & 4095), ram + (n & 4095)));
        assert_int_not_equal(tlb_exec_key(va ^ other, ram), key);
        assert_int_not_equal(tlb_exec_key(va, ram ^ (other & (MEM_MAX_SIZE - 1))), other >= MEM_MAX_SIZE ? 0 : key);
        /* The same linear address but for its upper bits, and so the same distance from RAM. */
        u64 beyond = (random64(&s) | 1) << 48;
        assert_int_not_equal(tlb_exec_key(va + beyond, ram + beyond), key);
    }
}

/* Code below the canonical border does not run on into what has the same low 48 bits. */
static void test_fetch_not_canonical(void **state)
{
    struct fix *f = *state;
    int r = CPU_OK;
    context(f, TLB_SUPERVISOR);
    f->c->cr4 &= ~CR4_SMAP;
    for (unsigned n = 0; n < 3; n++) {
        u64 va = 0xffff800000000000ull + (n << 20);
        map(f, va, 0x400000, 12, RW | A | D);
        assert_ptr_equal(tlb_fetch(f->ip, va + 5, &r), f->mem.ram + 0x400005);
        assert_ptr_equal(tlb_fetch(f->ip, va + 5, &r), f->mem.ram + 0x400005);
        assert_null(tlb_fetch(f->ip, (va & 0xffffffffffffull) + 5, &r));
        assert_int_equal(r, CPU_FAULT);
        assert_int_equal(f->c->fault.vector, VEC_GP);
        r = CPU_OK;
    }
}

static void test_journal_overflow(void **state)
{
    struct fix *f = *state;
    struct mmu_page p = {.shift = 12, .user = true, .writable_pte = true, .dirty = true};
    context(f, TLB_USER);
    u64 base = 0x40000000;
    for (u64 n = 0; n < 3 * TLB_JOURNAL; n++) {
        p.gpa = GPA(n % 1024 << PAGE_SHIFT);
        p.global = n & 1;
        tlb_fill(f->ip, TLB_USER, base + (n << PAGE_SHIFT), &p, MMU_READ);
        assert_true(writes(f, base + (n << PAGE_SHIFT)));
    }
    unsigned alive = 0;
    for (u64 n = 0; n < 3 * TLB_JOURNAL; n++)
        alive += reads(f, base + (n << PAGE_SHIFT));
    assert_in_range(alive, 1, TLB_JOURNAL);
    assert_int_equal(f->told[TLB_FLUSH_ALL], 0); /* room was needed: nobody's business */
    tlb_flush_all(f->ip);
    for (u64 n = 0; n < 3 * TLB_JOURNAL; n++)
        assert_false(reads(f, base + (n << PAGE_SHIFT)));
    assert_int_equal(f->told[TLB_FLUSH_ALL], 1);
}

static bool executes(struct fix *f, u64 va)
{
    return f->ip->tlb->exec[tlb_index(va)] == tlb_exec_key(va, va + f->ip->tlb->code[tlb_index(va)] - (u64)f->mem.ram);
}

/* Entries for data never drive out those for code; what code drives out is told. */
static void test_journal_code(void **state)
{
    struct fix *f = *state;
    struct mmu_page p = {.shift = 12, .user = true, .gpa = GPA(0x400000)};
    context(f, TLB_USER);
    u64 base = 0x40000000;
    for (u64 n = 0; n < TLB_CODE; n++)
        tlb_fill(f->ip, TLB_USER, base + (n << PAGE_SHIFT), &p, MMU_EXEC);
    for (u64 n = 0; n < 2 * TLB_JOURNAL; n++) {
        tlb_fill(f->ip, TLB_USER, base + (n << PAGE_SHIFT), &p, MMU_READ);
        assert_true(reads(f, base + (n << PAGE_SHIFT)));
    }
    for (u64 n = 0; n < TLB_CODE; n++)
        assert_true(executes(f, base + (n << PAGE_SHIFT)));
    assert_int_equal(f->told[TLB_FLUSH_ALL] + f->told[TLB_FLUSH_PAGE], 0);
    tlb_fill(f->ip, TLB_USER, base + (1ull << 28), &p, MMU_EXEC); /* the same index as the first one */
    assert_int_equal(f->told[TLB_FLUSH_PAGE], 1);
    assert_int_equal(f->told_va, base);
    tlb_fill(f->ip, TLB_USER, base + (TLB_CODE << PAGE_SHIFT), &p, MMU_EXEC);
    assert_int_equal(f->told[TLB_FLUSH_ALL], 1);
    assert_true(executes(f, base + (TLB_CODE << PAGE_SHIFT)));
    assert_false(executes(f, base + PAGE_SIZE));
    tlb_flush_page(f->ip, base + (TLB_CODE << PAGE_SHIFT));
    assert_false(executes(f, base + (TLB_CODE << PAGE_SHIFT)));
}

/* The same index again and again is one entry, whatever its kind. */
static void test_journal_same_index(void **state)
{
    struct fix *f = *state;
    struct mmu_page p = {.shift = 12, .user = true, .gpa = GPA(0x400000)};
    context(f, TLB_USER);
    tlb_fill(f->ip, TLB_USER, 0x5000, &p, MMU_READ);
    for (u64 n = 0; n < 3 * TLB_JOURNAL; n++) {
        p.global = n & 1;
        tlb_fill(f->ip, TLB_USER, 0x7000 + (n << 28), &p, MMU_READ);
    }
    assert_true(reads(f, 0x5000));
}

static void test_global(void **state)
{
    struct fix *f = *state;
    context(f, TLB_USER);
    map(f, 0x10000, 0x400000, 12, US | RW | A | D | G);
    map(f, 0x11000, 0x401000, 12, US | RW | A | D);
    assert_true(refill(f, 0x10000, 8, true) && refill(f, 0x11000, 8, true));
    tlb_flush_nonglobal(f->ip);
    assert_true(writes(f, 0x10000));
    assert_false(reads(f, 0x11000) || writes(f, 0x11000));
    assert_int_equal(f->told[TLB_FLUSH_NONGLOBAL], 1);
    /* An index that was global and is not any more goes, and the other way round stays. */
    map(f, 0x10000, 0x400000, 12, US | RW | A | D);
    map(f, 0x11000, 0x401000, 12, US | RW | A | D | G);
    assert_true(refill(f, 0x11000, 8, true));
    tlb_flush_page(f->ip, 0x10000);
    assert_int_equal(f->told[TLB_FLUSH_PAGE], 0); /* only those with code are told */
    assert_false(reads(f, 0x10000));
    struct mmu_page p = {.shift = 12, .user = true, .gpa = GPA(0x402000)};
    tlb_fill(f->ip, TLB_USER, 0x12000, &p, MMU_EXEC);
    tlb_flush_page(f->ip, 0x12000);
    assert_int_equal(f->told[TLB_FLUSH_PAGE], 1);
    assert_int_equal(f->told_va, 0x12000);
    assert_true(refill(f, 0x10000, 8, true));
    tlb_flush_nonglobal(f->ip);
    assert_false(reads(f, 0x10000));
    assert_true(reads(f, 0x11000));
    tlb_flush_all(f->ip);
    assert_false(reads(f, 0x11000));
}

static void large(struct fix *f, u64 va, unsigned shift, u64 bits)
{
    u64 size = 1ull << shift, other = va + size;
    map(f, va, 0, shift, US | RW | A | D | bits);
    map(f, other, 0, shift, US | RW | A | D | bits);
    const u64 at[] = {0, 0x5000, 0x1ff000};
    for (unsigned i = 0; i < ARRAY_LEN(at); i++)
        assert_true(refill(f, va + at[i], 8, true) && refill(f, other + at[i], 8, true));
    *map(f, va, 0, shift, 0) = 0; /* not there any more: entries do not depend on it */
    struct mmu_page p = {.shift = (u8)shift, .user = true, .global = bits};
    tlb_fill(f->ip, TLB_USER, va + 0x7000, &p, MMU_EXEC);
    unsigned before = f->told[TLB_FLUSH_PAGE];
    tlb_flush_page(f->ip, va + 0x3000);
    assert_false(executes(f, va + 0x7000));
    assert_int_equal(f->told[TLB_FLUSH_PAGE], before + 1); /* the page with code */
    assert_int_equal(f->told_va, va + 0x7000);
    for (unsigned i = 0; i < ARRAY_LEN(at); i++) {
        assert_false(reads(f, va + at[i]) || writes(f, va + at[i]));
        assert_true(writes(f, other + at[i]));
    }
}

static void test_large(void **state)
{
    struct fix *f = *state;
    context(f, TLB_USER);
    large(f, 0x40000000, 21, 0);
    large(f, 0x50000000, 21, G);
    large(f, 0x8000000000, 30, 0);
    large(f, 0x8080000000, 30, G);
}

static void test_protect(void **state)
{
    struct fix *f = *state;
    u64 page = 0x400;
    context(f, TLB_SUPERVISOR);
    map(f, 0x10000, page << PAGE_SHIFT, 12, RW | A | D);
    map(f, 0xffff888000000000, page << PAGE_SHIFT, 12, RW | A | D | G);
    map(f, 0x11000, (page + 1) << PAGE_SHIFT, 12, RW | A | D);
    map(f, 0x20000, page << PAGE_SHIFT, 12, US | RW | A | D);
    assert_true(refill(f, 0x10000, 8, true) && refill(f, 0xffff888000000000, 8, true) && refill(f, 0x11000, 8, true));
    context(f, TLB_USER);
    assert_true(refill(f, 0x20000, 8, true));
    blocks_trace_page(f->ip, page);
    assert_false(writes(f, 0x20000));
    assert_false(refill(f, 0x20000, 8, true));
    assert_true(reads(f, 0x20000));
    context(f, TLB_SUPERVISOR);
    assert_false(writes(f, 0x10000) || writes(f, 0xffff888000000000));
    assert_true(reads(f, 0x10000) && reads(f, 0xffff888000000000) && writes(f, 0x11000));
    assert_false(refill(f, 0x10000, 8, true));
    /* Traced as long as the owner says so. */
    f->has_code = true;
    blocks_untrace_page(f->ip, page);
    assert_false(refill(f, 0x10000, 8, true));
    u64 v = 1;
    assert_int_equal(mem_write_slow(f->ip, 0x10008, &v, 8, false, false), CPU_OK);
    assert_int_equal(f->killed, 1);
    assert_int_equal(f->ip->stats.code_writes, 1);
    assert_true(f->mem.trace[page] & MEM_TRACE_CODE);
    f->has_code = false;
    assert_int_equal(mem_write_slow(f->ip, 0x10010, &v, 8, false, false), CPU_OK);
    assert_int_equal(f->killed, 2);
    assert_false(f->mem.trace[page] & MEM_TRACE_CODE);
    assert_true(refill(f, 0x10000, 8, true));
}

static void test_refill_contexts(void **state)
{
    struct fix *f = *state;
    map(f, 0x10000, 0x400000, 12, US | RW);
    map(f, 0x11000, 0x401000, 12, RW);
    /* context, page: may it be refilled? */
    static const bool rule[TLB_CONTEXTS][2] = {
        [TLB_SUPERVISOR] = {false, true}, /* SMAP */
        [TLB_SUPERVISOR_AC] = {true, true},
        [TLB_USER] = {true, false},
        [TLB_NEVER] = {false, false},
    };
    for (unsigned ctx = 0; ctx < TLB_CONTEXTS; ctx++)
        for (unsigned page = 0; page < 2; page++) {
            context(f, (enum tlb_context)ctx);
            assert_int_equal(refill(f, 0x10000 + page * PAGE_SIZE + 4, 4, true), rule[ctx][page]);
            assert_int_equal(refill(f, 0x10000 + page * PAGE_SIZE + 4, 4, false), rule[ctx][page]);
        }
}

static void test_refill_refuses(void **state)
{
    struct fix *f = *state;
    context(f, TLB_USER);
    u64 *rw = map(f, 0x10000, 0x400000, 12, US | RW), *ro = map(f, 0x11000, 0x401000, 12, US);
    map(f, 0x12000, 0xfee00000, 12, US | RW);
    assert_false(refill(f, 0x10fff, 2, false));
    assert_false(*rw & A); /* crossing: not even looked at */
    assert_false(refill(f, 0x11000, 8, true));
    assert_false(*ro & (A | D));
    assert_true(refill(f, 0x11000, 8, false));
    assert_false(refill(f, 0x12000, 4, false)); /* a device */
    assert_false(refill(f, 0x13000, 4, false)); /* nothing */
    assert_false(refill(f, 0x800000000000, 4, false));
    /* A clean page: read first, no write tag; then dirty. */
    assert_true(refill(f, 0x10000, 8, false));
    assert_false(writes(f, 0x10000) || (*rw & D));
    assert_true(refill(f, 0x10000, 8, true));
    assert_true(*rw & D);
    /* Modes that are not there. */
    f->c->cr4 |= CR4_LA57;
    map(f, 0x14000, 0x402000, 12, US | RW);
    assert_false(refill(f, 0x14000, 8, false));
    f->c->cr4 &= ~CR4_LA57;
    f->c->efer = 0;
    assert_false(refill(f, 0x14000, 8, false));
}

/* A table that holds code: setting a bit in it is for the slow path, which can drop the code. */
static void test_refill_traced_table(void **state)
{
    struct fix *f = *state;
    context(f, TLB_USER);
    u64 *e = map(f, 0x10000, 0x400000, 12, US | RW);
    u64 page = (u64)((u8 *)e - f->mem.ram) >> PAGE_SHIFT;
    f->has_code = true;
    blocks_trace_page(f->ip, page);
    assert_false(refill(f, 0x10000, 8, false));
    assert_false(*e & A);
    assert_int_equal(f->killed, 0);
    u64 v;
    assert_int_equal(mem_read_slow(f->ip, 0x10000, &v, 8, true, false), CPU_OK);
    assert_true(*e & A);
    assert_int_equal(f->killed, 1);
    assert_true(reads(f, 0x10000));
}

/* --- no vector register changes, whatever a refill does --- */

struct vector_call {
    int (*fn)(struct interp *ip, u64 va, unsigned size, bool write);
    u64 a[4];
    u64 result;
    u8 v[16][16];
};
void call_with_vectors(struct vector_call *c);
__asm__(".text\n.type call_with_vectors, @function\ncall_with_vectors:\n"
        "push %rbx\nmov %rdi, %rbx\n"
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\nmovdqu 48+16*\\n(%rbx), %xmm\\n\n.endr\n"
        "mov 8(%rbx), %rdi\nmov 16(%rbx), %rsi\nmov 24(%rbx), %rdx\nmov 32(%rbx), %rcx\n"
        "call *(%rbx)\nmov %rax, 40(%rbx)\n"
        ".irp n, 0,1,2,3,4,5,6,7,8,9,10,11,12,13,14,15\nmovdqu %xmm\\n, 48+16*\\n(%rbx)\n.endr\n"
        "pop %rbx\nret\n.size call_with_vectors, . - call_with_vectors\n");

static void test_refill_keeps_vectors(void **state)
{
    struct fix *f = *state;
    u64 s = 5;
    context(f, TLB_USER);
    map(f, 0x40000000, 0, 21, US | RW);
    map(f, 0x40200000, 0, 21, US | RW);
    for (u64 n = 0; n < 40; n++)
        for (u64 p = 0; p < 512; p++)
            map(f, 0x80000000 + (n << 21) + (p << PAGE_SHIFT), p << PAGE_SHIFT, 12, US | RW | (n & 1 ? G : 0));
    for (unsigned n = 0; n < 50000; n++) {
        struct vector_call c = {.fn = tlb_refill};
        u8 v[16][16];
        for (unsigned i = 0; i < sizeof(v); i++)
            v[i / 16][i % 16] = (u8)random64(&s);
        memcpy(c.v, v, sizeof(v));
        u64 r = random64(&s);
        c.a[0] = (u64)f->ip;
        c.a[1] = (n % 8 ? 0x80000000 + (u64)(n % 20480 << PAGE_SHIFT) : 0x40000000 + (r & 0x4fffff)) +
                 (r >> 20 & 0xfff) + (r >> 44 & 15 ? 0 : 1ull << 28);
        c.a[2] = 8;
        c.a[3] = r >> 40 & 1;
        call_with_vectors(&c);
        assert_memory_equal(c.v, v, sizeof(v));
    }
    assert_true(f->ip->stats.tlb_fills > 2 * TLB_JOURNAL); /* the journal was full at times */
}

/* Memory that the embedding engine supplies. */
static void test_own_tables(void **state)
{
    struct fix *f = *state;
    struct tlb_tables *t = calloc(TLB_CONTEXTS, sizeof(*t));
    interp_fini(f->ip);
    memset(f->ip, 0, sizeof(*f->ip));
    static const struct machine_ops ops;
    struct engine_config cfg = {.mem = &f->mem, .ops = &ops};
    f->ip->tables_memory = t;
    assert_int_equal(interp_init(f->ip, &cfg, NULL), 0);
    f->ip->cpu = f->c;
    context(f, TLB_USER);
    map(f, 0, 0x400000, 12, US | RW);
    assert_false(reads(f, 0));
    assert_true(refill(f, 0, 8, true));
    assert_int_equal(t[TLB_USER].addend[0], (u64)f->mem.ram + 0x400000);
    interp_fini(f->ip);
    assert_int_equal(t[TLB_USER].addend[0], (u64)f->mem.ram + 0x400000); /* still ours */
    free(t);
    memset(f->ip, 0, sizeof(*f->ip));
    assert_int_equal(interp_init(f->ip, &cfg, NULL), 0); /* for the teardown */
}

/* Code that is not 64-bit finds no entry for data at 4 GiB and above, and makes none. */
static void test_high(void **state)
{
    struct fix *f = *state;
    static const u64 high[] = {1ull << 32, 0x7fffull << 32, 0xfffffffffffff000ull};
    u64 low = 0xfffff000;
    context(f, TLB_USER);
    map(f, low, 0x400000, 12, US | RW);
    assert_true(refill(f, low, 8, true));
    for (unsigned i = 0; i < ARRAY_LEN(high); i++) {
        map(f, high[i], 0x500000, 12, US | RW);
        f->c->seg[SEG_CS].attr = SEG_L | SEG_CODE | SEG_P;
        assert_true(refill(f, high[i], 8, true));
        struct mmu_page p = {.gpa = GPA(0x600000), .shift = 12, .user = true};
        tlb_fill(f->ip, TLB_USER, high[i] - PAGE_SIZE, &p, MMU_EXEC);
        memset(f->told, 0, sizeof(f->told));
        f->c->seg[SEG_CS].attr = SEG_DB | SEG_CODE | SEG_P;
        assert_true(reads(f, high[i]));
        tlb_drop_high(f->ip);
        assert_false(reads(f, high[i]));
        assert_false(refill(f, high[i], 8, false));
        assert_false(reads(f, high[i]));
        assert_true(f->ip->tlb->exec[tlb_index(high[i] - PAGE_SIZE)]); /* code stays: it is compared whole */
        assert_int_equal(f->told[TLB_FLUSH_ALL] + f->told[TLB_FLUSH_NONGLOBAL] + f->told[TLB_FLUSH_PAGE], 0);
        assert_true(refill(f, low, 8, true));
    }
}

#define T(name) cmocka_unit_test_setup_teardown(name, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(test_empty),
        T(test_random_look_ups),
        T(test_page_one_read_only),
        T(test_exec_key),
        T(test_fetch_not_canonical),
        T(test_journal_overflow),
        T(test_journal_code),
        T(test_journal_same_index),
        T(test_global),
        T(test_large),
        T(test_protect),
        T(test_refill_contexts),
        T(test_refill_refuses),
        T(test_refill_traced_table),
        T(test_refill_keeps_vectors),
        T(test_own_tables),
        T(test_high),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
