/*
 * The page walk against the rules of the manual (SDM vol. 3A, 4.6 and 4.7), written here a second time as a plain
 * predicate over the bits: all combinations of P, R/W, U/S and XD in all levels of each kind of paging, of CR0.WP, CR4.SMEP,
 * CR4.SMAP, EFLAGS.AC, EFER.NXE, kind of access and privilege.
 */
#include "machine/cpu/cpuid.h"
#include "machine/mmu/mmu.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define RAM_SIZE (2u << 20)
#define VA       0x00007f1234567abcull

#define P        1ull
#define RW       2ull
#define US       4ull
#define A        0x20ull
#define D        0x40ull
#define PS       0x80ull
#define G        0x100ull
#define XD       (1ull << 63)

struct fix {
    struct guest_mem m;
    struct cpu *c;
    struct cpu_model model;
    u64 *slot[4]; /* entry that VA uses at each level, PML4 first */
};

static int setup(void **state)
{
    struct fix *f = calloc(1, sizeof(*f));
    u8 *ram = aligned_alloc(PAGE_SIZE, RAM_SIZE);
    memset(ram, 0, RAM_SIZE);
    assert_int_equal(mem_init(&f->m, ram, RAM_SIZE, -1, NULL), 0);
    f->c = aligned_alloc(64, (sizeof(struct cpu) + 63) & ~63ul);
    memset(f->c, 0, sizeof(*f->c));
    f->model.phys_bits = 40;
    f->c->model = &f->model;
    f->c->cr0 = CR0_PE | CR0_PG;
    f->c->cr4 = CR4_PAE | CR4_PGE;
    f->c->efer = EFER_LME | EFER_LMA;
    f->c->cr3 = 0x1000;
    for (int i = 0; i < 4; i++)
        f->slot[i] = (u64 *)(void *)(ram + 0x1000 * (i + 1)) + (VA >> (39 - 9 * i) & 511);
    *state = f;
    return 0;
}

static int teardown(void **state)
{
    struct fix *f = *state;
    free(f->m.ram);
    mem_destroy(&f->m);
    free(f->c);
    free(f);
    return 0;
}

static void map(struct fix *f, const u64 bits[4])
{
    for (u64 i = 0; i < 4; i++)
        *f->slot[i] = (i < 3 ? 0x1000 * (i + 2) : 0x10000) | bits[i];
}

struct how {
    enum mmu_access access;
    bool user, wp, smep, smap, ac, nxe;
};

static void set_mode(struct fix *f, const struct how *h)
{
    f->c->cr0 = CR0_PE | CR0_PG | (h->wp ? CR0_WP : 0);
    f->c->cr4 = CR4_PAE | CR4_PGE | (h->smep ? CR4_SMEP : 0) | (h->smap ? CR4_SMAP : 0);
    f->c->efer = EFER_LME | EFER_LMA | (h->nxe ? EFER_NXE : 0);
    f->c->sysflags = h->ac ? FL_AC : 0;
    f->c->cpl = h->user ? 3 : 0;
}

/* The manual's rules, a level and a right at a time. Returns -1 for success, else the error code. */
static int expected(const u64 bits[4], const struct how *h)
{
    bool w = true, u = true, x = true;
    int code = (h->access == MMU_WRITE ? 2 : 0) | (h->user ? 4 : 0);
    if (h->access == MMU_EXEC && (h->nxe || h->smep))
        code |= 16;
    for (int i = 0; i < 4; i++) {
        if (!(bits[i] & P))
            return code;
        if ((bits[i] & XD) && !h->nxe)
            return code | 8 | 1;
        if (!(bits[i] & RW))
            w = false;
        if (!(bits[i] & US))
            u = false;
        if (bits[i] & XD)
            x = false;
    }
    bool ok = true;
    if (h->user && !u)
        ok = false;
    if (h->access == MMU_EXEC && !x)
        ok = false;
    if (h->access == MMU_EXEC && !h->user && u && h->smep)
        ok = false;
    if (h->access != MMU_EXEC && !h->user && u && h->smap && !h->ac)
        ok = false;
    if (h->access == MMU_WRITE && !w && (h->user || h->wp))
        ok = false;
    return ok ? -1 : code | 1;
}

static void check_one(struct fix *f, const u64 bits[4], const struct how *h)
{
    struct mmu_page p;
    map(f, bits);
    int want = expected(bits, h);
    int r = mmu_walk(f->c, &f->m, GVA(VA), h->access, h->user, false, &p);
    if (want < 0) {
        assert_int_equal(r, CPU_OK);
        assert_int_equal(p.gpa.v, 0x10000 | (VA & 0xfff));
        /* Accessed everywhere, dirty in the leaf by a write only. */
        for (int i = 0; i < 4; i++)
            assert_true(*f->slot[i] & A);
        assert_int_equal(!!(*f->slot[3] & D), h->access == MMU_WRITE);
        assert_false(*f->slot[0] & D);
    } else {
        assert_int_equal(r, CPU_FAULT);
        assert_int_equal(f->c->fault.vector, VEC_PF);
        assert_int_equal(f->c->fault.error, want);
        assert_int_equal(f->c->fault.address, VA);
        assert_false(*f->slot[3] & (A | D));
    }
}

static void test_all_rights(void **state)
{
    struct fix *f = *state;
    static const u64 right[16] = {0,       P,           RW,           P | RW,          US,      P | US,
                                  US | RW, P | RW | US, 0 | XD,       P | XD,          RW | XD, P | RW | XD,
                                  US | XD, P | US | XD, US | RW | XD, P | RW | US | XD};
    for (unsigned n = 0; n < 1u << 16; n++) {
        u64 bits[4];
        for (int i = 0; i < 4; i++)
            bits[i] = right[n >> (4 * i) & 15];
        /* Combinations whose first level is absent differ in nothing else: a few of them are enough. */
        if (!(bits[0] & P) && n >> 4)
            continue;
        for (unsigned k = 0; k < 3 * 64; k++) {
            struct how h = {
                (enum mmu_access)(k % 3), k / 3 & 1, k / 6 & 1, k / 12 & 1, k / 24 & 1, k / 48 & 1, k / 96 & 1};
            set_mode(f, &h);
            check_one(f, bits, &h);
        }
    }
}

static void test_large_pages(void **state)
{
    struct fix *f = *state;
    struct mmu_page p;
    u64 all[4] = {P | RW | US, P | RW | US, P | RW | US, P | RW | US};
    map(f, all);
    *f->slot[2] = 0x200000 | P | RW | US | PS | G;
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA), MMU_WRITE, true, false, &p), CPU_OK);
    assert_int_equal(p.gpa.v, 0x200000 | (VA & 0x1fffff));
    assert_int_equal(p.shift, 21);
    assert_true(p.global && p.dirty);
    assert_true(*f->slot[2] & D);
    *f->slot[1] = 0x40000000 | P | RW | US | PS;
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA), MMU_READ, true, false, &p), CPU_OK);
    assert_int_equal(p.gpa.v, 0x40000000 | (VA & 0x3fffffff));
    assert_int_equal(p.shift, 30);
    assert_false(p.global || p.dirty);
    /* PAT bit of a large page is bit 12 and not reserved */
    *f->slot[1] = 0x40000000 | P | RW | US | PS | 0x1000;
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA), MMU_READ, true, false, &p), CPU_OK);
    assert_int_equal(p.gpa.v, 0x40000000 | (VA & 0x3fffffff));
}

/* A look from outside finds the same and sets no bit. */
static void test_peek(void **state)
{
    struct fix *f = *state;
    struct mmu_page walked, peeked;
    u64 all[4] = {P | RW | US, P | RW | US, P | RW | US, P | RW | US};
    for (enum mmu_access access = MMU_READ; access <= MMU_EXEC; access++) {
        map(f, all);
        assert_int_equal(mmu_peek(f->c, &f->m, GVA(VA), access, true, &peeked), CPU_OK);
        for (int i = 0; i < 4; i++)
            assert_false(*f->slot[i] & (A | D));
        assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA), access, true, false, &walked), CPU_OK);
        assert_int_equal(peeked.gpa.v, walked.gpa.v);
        assert_int_equal(peeked.shift, walked.shift);
    }
    *f->slot[1] = 0;
    assert_int_equal(mmu_peek(f->c, &f->m, GVA(VA), MMU_EXEC, true, &peeked), CPU_FAULT);
}

static void reserved(struct fix *f, int level, u64 extra)
{
    struct mmu_page p;
    u64 all[4] = {P | RW | US, P | RW | US, P | RW | US, P | RW | US};
    map(f, all);
    *f->slot[level] |= extra;
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA), MMU_READ, true, false, &p), CPU_FAULT);
    assert_int_equal(f->c->fault.error, PF_P | PF_U | PF_RSVD);
}

static void test_reserved_bits(void **state)
{
    struct fix *f = *state;
    for (int level = 0; level < 4; level++)
        for (int bit = 40; bit < 52; bit++)
            reserved(f, level, 1ull << bit);
    reserved(f, 0, PS);
    for (int bit = 13; bit < 30; bit++)
        reserved(f, 1, PS | 1ull << bit);
    for (int bit = 13; bit < 21; bit++)
        reserved(f, 2, PS | 1ull << bit);
    /* Bits 52-62 are the guest's own. */
    struct mmu_page p;
    u64 all[4] = {P | RW | US, P | RW | US, P | RW | US, P | RW | US | 0x7ffull << 52};
    map(f, all);
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA), MMU_READ, true, false, &p), CPU_OK);
}

static void test_addresses(void **state)
{
    struct fix *f = *state;
    struct mmu_page p;
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(0x800000000000), MMU_READ, false, false, &p), CPU_FAULT);
    assert_int_equal(f->c->fault.vector, VEC_GP);
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(0xffff7fffffffffff), MMU_READ, false, false, &p), CPU_FAULT);
    assert_int_equal(f->c->fault.vector, VEC_GP);
    /* A table outside RAM reads as ones: a reserved-bit fault, never an access outside. */
    f->c->cr3 = 0xfffffff000;
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA), MMU_READ, false, false, &p), CPU_FAULT);
    assert_int_equal(f->c->fault.vector, VEC_PF);
    f->c->cr3 = 0x1000;
    u64 all[4] = {P | RW | US, P | RW | US, P | RW | US, P | RW | US};
    map(f, all);
    *f->slot[1] = 0x7ffffff000 | P | RW | US;
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA), MMU_READ, false, false, &p), CPU_FAULT);
    /* Implicit supervisor accesses fault under SMAP whatever AC says. */
    map(f, all);
    f->c->cr4 |= CR4_SMAP;
    f->c->sysflags = FL_AC;
    f->c->cpl = 3;
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA), MMU_READ, false, false, &p), CPU_OK);
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA), MMU_READ, false, true, &p), CPU_FAULT);
    assert_int_equal(f->c->fault.error, PF_P);
}

/* --- PAE and 32-bit paging --- */

#define VA32 0x7c567abcull /* entries 1 of 4, 482 of 512, 359 of 512; 497 and 359 of 1024 */

static void set_mode32(struct fix *f, const struct how *h, bool pae, bool pse)
{
    set_mode(f, h);
    f->c->cr4 = (f->c->cr4 & ~CR4_PAE) | (pae ? CR4_PAE : 0) | (pse ? CR4_PSE : 0);
    f->c->efer = h->nxe ? EFER_NXE : 0;
    f->c->pdpte[0] = f->c->pdpte[2] = f->c->pdpte[3] = 0;
    f->c->pdpte[1] = 0x2000 | P;
}

/* One entry of `size` bytes in the table at `table`. */
static void put_entry(struct fix *f, u64 table, unsigned index, unsigned size, u64 value)
{
    memcpy(f->m.ram + table + index * size, &value, size);
}
static u64 get_entry(struct fix *f, u64 table, unsigned index, unsigned size)
{
    u64 v = 0;
    memcpy(&v, f->m.ram + table + index * size, size);
    return v;
}

/* The rules for two levels; without PAE there is no XD bit, and bit I of the error code needs SMEP. */
static int expected2(const u64 bits[2], const struct how *h, bool pae)
{
    u64 b[4] = {P | RW | US, P | RW | US, bits[0], bits[1]};
    struct how how = *h;
    if (!pae) {
        b[2] &= ~XD;
        b[3] &= ~XD;
        how.nxe = false;
    }
    return expected(b, &how);
}

static void check_two(struct fix *f, const u64 bits[2], const struct how *h, bool pae)
{
    unsigned size = pae ? 8 : 4, i0 = pae ? VA32 >> 21 & 511 : VA32 >> 22, i1 = VA32 >> 12 & (pae ? 511 : 1023);
    struct mmu_page p;
    put_entry(f, 0x2000, i0, size, 0x3000 | bits[0]);
    put_entry(f, 0x3000, i1, size, 0x10000 | bits[1]);
    f->c->cr3 = 0x2000;
    int want = expected2(bits, h, pae);
    int r = mmu_walk(f->c, &f->m, GVA(VA32 | 0xabcd00000000), h->access, h->user, false, &p);
    if (want < 0) {
        assert_int_equal(r, CPU_OK);
        assert_int_equal(p.gpa.v, 0x10000 | (VA32 & 0xfff));
        assert_int_equal(p.shift, 12);
        assert_true(get_entry(f, 0x2000, i0, size) & A);
        assert_int_equal(get_entry(f, 0x3000, i1, size) & (A | D), h->access == MMU_WRITE ? A | D : A);
        assert_false(get_entry(f, 0x2000, i0, size) & D);
    } else {
        assert_int_equal(r, CPU_FAULT);
        assert_int_equal(f->c->fault.vector, VEC_PF);
        assert_int_equal(f->c->fault.error, want);
        assert_int_equal(f->c->fault.address, VA32);
        assert_false(get_entry(f, 0x3000, i1, size) & (A | D));
    }
}

static void test_two_levels(void **state)
{
    struct fix *f = *state;
    for (unsigned n = 0; n < 256; n++) {
        u64 bits[2];
        for (int i = 0; i < 2; i++) {
            unsigned r = n >> (4 * i) & 15;
            bits[i] = (r & 1 ? P : 0) | (r & 2 ? RW : 0) | (r & 4 ? US : 0) | (r & 8 ? XD : 0);
        }
        for (unsigned k = 0; k < 3 * 64; k++) {
            struct how h = {
                (enum mmu_access)(k % 3), k / 3 & 1, k / 6 & 1, k / 12 & 1, k / 24 & 1, k / 48 & 1, k / 96 & 1};
            for (unsigned pae = 0; pae < 2; pae++) {
                set_mode32(f, &h, pae, k & 1);
                check_two(f, bits, &h, pae);
            }
        }
    }
}

/* 2 MiB and 4 MiB, rights and dirty bits of their one entry, what is reserved in it. */
static void large32(struct fix *f, bool pae, u64 extra, int want, u64 gpa)
{
    unsigned size = pae ? 8 : 4, index = pae ? VA32 >> 21 & 511 : VA32 >> 22;
    struct mmu_page p;
    put_entry(f, 0x2000, index, size, P | RW | US | PS | extra);
    f->c->cr3 = 0x2000;
    int r = mmu_walk(f->c, &f->m, GVA(VA32), MMU_WRITE, true, false, &p);
    if (want < 0) {
        assert_int_equal(r, CPU_OK);
        assert_int_equal(p.gpa.v, gpa);
        assert_int_equal(p.shift, pae ? 21 : 22);
        assert_true(p.dirty && p.user && p.writable_pte);
        assert_true(get_entry(f, 0x2000, index, size) & D);
    } else {
        assert_int_equal(r, CPU_FAULT);
        assert_int_equal(f->c->fault.error, want);
    }
}

static void test_large32(void **state)
{
    struct fix *f = *state;
    const struct how h = {MMU_WRITE, true, true, false, false, false, true};
    const int rsvd = PF_P | PF_W | PF_U | PF_RSVD;
    set_mode32(f, &h, true, false);
    large32(f, true, 0x200000 | G, -1, 0x200000 | (VA32 & 0x1fffff));
    large32(f, true, 0x12345600000ull & ~0x1fffffull & 0xffffffffffull, -1,
            (0x12345600000ull & ~0x1fffffull & 0xffffffffffull) | (VA32 & 0x1fffff));
    for (unsigned bit = 13; bit < 63; bit++)
        if (bit < 21 || bit >= 40)
            large32(f, true, 1ull << bit, rsvd, 0);
    large32(f, true, 0x1000, -1, VA32 & 0x1fffff); /* PAT */
    set_mode32(f, &h, false, true);
    large32(f, false, 0x400000 | G, -1, 0x400000 | (VA32 & 0x3fffff));
    large32(f, false, 0xa5u << 13 | 0x1000, -1, 0xa500000000ull | (VA32 & 0x3fffff));
    large32(f, false, BIT(21), rsvd, 0);
    f->model.phys_bits = 36;
    for (unsigned bit = 13; bit < 22; bit++)
        large32(f, false, BIT(bit), bit < 17 ? -1 : rsvd, (u64)BIT(bit - 13) << 32 | (VA32 & 0x3fffff));
    f->model.phys_bits = 40;
    /* without CR4.PSE the bit means nothing: the entry points to a table */
    set_mode32(f, &h, false, false);
    struct mmu_page p;
    put_entry(f, 0x2000, VA32 >> 22, 4, P | RW | US | PS | 0x3000);
    put_entry(f, 0x3000, VA32 >> 12 & 1023, 4, P | RW | US | 0x11000);
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA32), MMU_READ, true, false, &p), CPU_OK);
    assert_int_equal(p.gpa.v, 0x11000 | (VA32 & 0xfff));
}

static void test_reserved_pae(void **state)
{
    struct fix *f = *state;
    const struct how h = {MMU_READ, true, true, false, false, false, true};
    const u64 good = P | RW | US;
    struct mmu_page p;
    set_mode32(f, &h, true, false);
    for (int level = 0; level < 2; level++)
        for (unsigned bit = 40; bit < 63; bit++) {
            put_entry(f, 0x2000, VA32 >> 21 & 511, 8, good | 0x3000 | (level == 0 ? 1ull << bit : 0));
            put_entry(f, 0x3000, VA32 >> 12 & 511, 8, good | 0x10000 | (level == 1 ? 1ull << bit : 0));
            assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA32), MMU_READ, true, false, &p), CPU_FAULT);
            assert_int_equal(f->c->fault.error, PF_P | PF_U | PF_RSVD);
        }
    f->c->pdpte[1] = 0x2000; /* what the registers say counts, not the table */
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA32), MMU_READ, true, false, &p), CPU_FAULT);
    assert_int_equal(f->c->fault.error, PF_U);
    /* which registers may be loaded */
    for (unsigned bit = 1; bit < 64; bit++) {
        u64 pdpte[4] = {0, 0, P | 1ull << bit, 0};
        bool reserved = bit == 1 || bit == 2 || (bit >= 5 && bit <= 8) || bit >= 40;
        assert_int_equal(cpu_pdptes_valid(f->c, pdpte), !reserved);
        pdpte[2] &= ~P;
        assert_true(cpu_pdptes_valid(f->c, pdpte));
    }
}

/* Tables beyond the end of memory. */
static void test_tables_outside(void **state)
{
    struct fix *f = *state;
    const struct how h = {MMU_WRITE, false, true, false, false, false, true};
    struct mmu_page p;
    set_mode32(f, &h, true, false);
    f->c->pdpte[1] = 0x7000000000 | P;
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA32), MMU_WRITE, false, false, &p), CPU_FAULT);
    assert_true(f->c->fault.error & PF_RSVD);
    set_mode32(f, &h, false, true);
    f->c->cr3 = 0x80000000;
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA32), MMU_WRITE, false, false, &p), CPU_FAULT);
    assert_true(f->c->fault.error & PF_RSVD);
    set_mode32(f, &h, false, false); /* ones are a good entry here, for the last page below 4 GiB */
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA32), MMU_WRITE, false, false, &p), CPU_OK);
    assert_int_equal(p.gpa.v, 0xfffff000 | (VA32 & 0xfff));
}

static void test_doorway(void **state)
{
    struct fix *f = *state;
    u8 b[16];
    assert_non_null(mem_at(&f->m, GPA(RAM_SIZE - 1), 1));
    assert_null(mem_at(&f->m, GPA(RAM_SIZE - 1), 2));
    assert_null(mem_at(&f->m, GPA(RAM_SIZE), 0x10));
    assert_null(mem_at(&f->m, GPA(~0ull), 1));
    assert_null(mem_at(&f->m, GPA(16), ~0ull));
    assert_null(mem_at(&f->m, GPA(16), ~0ull - 15));
    assert_int_not_equal(mem_read(&f->m, GPA(RAM_SIZE - 8), b, 16), 0);
    assert_int_not_equal(mem_write(&f->m, GPA(RAM_SIZE - 8), b, 16), 0);
    /* The dirty log sees table updates of the walk as it sees any other write. */
    u64 all[4] = {P | RW | US, P | RW | US, P | RW | US, P | RW | US}, log[RAM_SIZE / PAGE_SIZE / 64];
    struct mmu_page p;
    map(f, all);
    assert_int_equal(mem_log_start(&f->m), 0);
    assert_int_equal(mmu_walk(f->c, &f->m, GVA(VA), MMU_READ, true, false, &p), CPU_OK);
    mem_write(&f->m, GPA(0x20ffe), b, 4);
    mem_log_take(&f->m, 0, RAM_SIZE / PAGE_SIZE, log);
    assert_int_equal(log[0], 0x1eull | 3ull << 0x20);
    mem_log_take(&f->m, 0, RAM_SIZE / PAGE_SIZE, log);
    assert_int_equal(log[0], 0);
    mem_log_stop(&f->m);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(test_all_rights, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large_pages, setup, teardown),
        cmocka_unit_test_setup_teardown(test_peek, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reserved_bits, setup, teardown),
        cmocka_unit_test_setup_teardown(test_addresses, setup, teardown),
        cmocka_unit_test_setup_teardown(test_two_levels, setup, teardown),
        cmocka_unit_test_setup_teardown(test_large32, setup, teardown),
        cmocka_unit_test_setup_teardown(test_reserved_pae, setup, teardown),
        cmocka_unit_test_setup_teardown(test_tables_outside, setup, teardown),
        cmocka_unit_test_setup_teardown(test_doorway, setup, teardown),
    };
    return cmocka_run_group_tests_name("machine-mmu", tests, NULL, NULL);
}
