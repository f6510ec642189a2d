/*
 * 32-bit and PAE paging, as programs meet them: all rights of two levels for each kind of access, large pages, what INVLPG and
 * CR3 forget, global pages, the registers that hold PAE's highest level, going from one kind of paging to another while
 * paging is on, addresses that wrap. Source: SDM vol. 3, chapter 4.
 */
#include "runtime32.h"

enum { P = 1, RW = 2, US = 4, A = 0x20, D = 0x40, PS = 0x80, G = 0x100 };
#define XD       (1ull << 63)
#define VA       0x10000000u /* the page under test */
#define CR0_WP   0x10000u
#define CR0_PG   0x80000000u
#define CR4_PSE  0x10u
#define CR4_PAE  0x20u
#define CR4_PGE  0x80u
#define CR4_SMEP 0x100000u
#define CR4_SMAP 0x200000u
#define MSR_EFER 0xc0000080

static u32 pd[1024] __attribute__((aligned(4096))), pt[1024] __attribute__((aligned(4096)));
static u64 pdpt[4] __attribute__((aligned(32)));
static u64 pae_pd[512] __attribute__((aligned(4096))), pae_pt[512] __attribute__((aligned(4096)));
static u8 page[2][4096] __attribute__((aligned(4096)));
static bool pae, smep_there, smap_there, nx_there;

static void flush_va(u32 va)
{
    asm volatile("invlpg (%0)" ::"r"(va) : "memory");
}

static void cpuid(u32 leaf, u32 r[4])
{
    asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(0));
}

/* The first 8 MiB one to one, large; VA through a table. */
static void make_tables(void)
{
    memset(pd, 0, sizeof(pd));
    memset(pae_pd, 0, sizeof(pae_pd));
    for (u32 i = 0; i < 2; i++)
        pd[i] = i << 22 | PS | US | RW | P;
    for (u32 i = 0; i < 4; i++)
        pae_pd[i] = i << 21 | PS | US | RW | P;
    pd[VA >> 22] = (u32)pt | US | RW | P;
    pae_pd[VA >> 21 & 511] = (u32)pae_pt | US | RW | P;
    pdpt[0] = (u32)pae_pd | P;
}

static void paging_on(bool with_pae)
{
    pae = with_pae;
    make_tables();
    set_cr4(pae ? CR4_PAE : CR4_PSE);
    set_cr3(pae ? (u32)pdpt : (u32)pd);
    set_cr0(get_cr0() | CR0_PG);
}
static void paging_off(void)
{
    set_cr0(get_cr0() & ~CR0_PG);
    set_cr4(0);
}

/* Entries of VA in both levels; `high` is bit 63. */
static void set_entries(u32 upper, u32 lower)
{
    if (pae) {
        pae_pd[VA >> 21 & 511] = (u64)(upper >> 8 & 1) << 63 | (u32)pae_pt | (upper & 7);
        pae_pt[0] = (u64)(lower >> 8 & 1) << 63 | (u32)page[0] | (lower & 7);
    } else {
        pd[VA >> 22] = (u32)pt | (upper & 7);
        pt[0] = (u32)page[0] | (lower & 7);
    }
    flush_va(VA);
}

/* --- rights --- */

CODE(read_page, "mov (%ebx), %al\n" END);
CODE(write_page, "movb $1, 8(%ebx)\n" END);
CODE(jump_page, "jmp *%ebx\n");

static u32 rights_outcome(u32 upper, u32 lower, unsigned kind, bool user, bool wp, u32 cr4, bool nx)
{
    bool p = upper & lower & P, w = upper & lower & RW, u = upper & lower & US;
    bool x = !((upper | lower) & 0x100), fetch_bit = (nx && pae) || (cr4 & CR4_SMEP);
    u32 error = (p ? 1 : 0) | (kind == 1 ? 2 : 0) | (user ? 4 : 0) | (kind == 2 && fetch_bit ? 16 : 0);

    if (!p) {
        /* a reserved bit counts where the entry that is read is present */
        bool bad = pae && !nx && (((upper & P) && (upper & 0x100)) || (upper & lower & P && (lower & 0x100)));
        return PF << 16 | (bad ? error | 9 : error);
    }
    if (pae && !nx && !x)
        return PF << 16 | error | 8;
    if (user && !u)
        return PF << 16 | error;
    if (kind == 1 && !w && (user || wp))
        return PF << 16 | error;
    if (kind == 2 && pae && !x)
        return PF << 16 | error;
    if (kind == 2 && !user && u && (cr4 & CR4_SMEP))
        return PF << 16 | error;
    if (kind != 2 && !user && u && (cr4 & CR4_SMAP))
        return PF << 16 | error;
    return END_VECTOR << 16;
}

static void rights_under(bool wp, u32 cr4, bool nx)
{
    static const u8 *const code[] = {read_page, write_page, jump_page};
    unsigned n = pae ? 16 : 8;

    set_cr0((get_cr0() & ~CR0_WP) | (wp ? CR0_WP : 0));
    for (unsigned i = 0; i < n * n * 6; i++) {
        unsigned upper = i % n, lower = i / n % n, kind = i / (n * n) % 3;
        bool user = i / (n * n * 3);
        u32 e1 = (upper & 7) | (upper & 8 ? 0x100 : 0), e0 = (lower & 7) | (lower & 8 ? 0x100 : 0);
        struct state32 s = ring(user ? 3 : 0, code[kind]);
        u32 id =
            (wp ? 1u << 28 : 0) | (cr4 ? 1u << 29 : 0) | (nx ? 1u << 30 : 0) | user << 24 | kind << 20 | e1 << 10 | e0;

        set_entries(e1, e0);
        s.ebx = VA;
        run(&s);
        u32 want = rights_outcome(e1, e0, kind, user, wp, cr4, nx);
        if (!tally(pae ? "PAE rights" : "32-bit rights", id, outcome(&s), want))
            continue;
        if (want >> 16 == PF)
            tally("CR2", id, get_cr2(), VA + (kind == 1 ? 8 : 0));
        u32 leaf = pae ? (u32)pae_pt[0] : pt[0], node = pae ? (u32)pae_pd[VA >> 21 & 511] : pd[VA >> 22];
        bool good = want >> 16 != PF;
        tally("accessed and dirty", id, leaf & (A | D), good ? A | (kind == 1 ? D : 0) : 0);
        if (good)
            tally("accessed", id, node & (A | D), A);
    }
}

static void rights(void)
{
    const char *name = pae ? "PAE, rights of two levels" : "32-bit paging, rights of two levels";

    page[0][0] = 0xcd; /* INT 80h for what jumps there */
    page[0][1] = 0x80;
    for (unsigned wp = 0; wp < 2; wp++) {
        for (unsigned nx = 0; nx < (nx_there ? 2 : 1); nx++) {
            set_msr(MSR_EFER, nx ? 0x800 : 0);
            rights_under(wp, 0, nx);
        }
        set_msr(MSR_EFER, 0);
    }
    tally_end(name);
    if (!smep_there)
        return;
    /* the guest's own code becomes the supervisor's */
    for (u32 i = 0; i < 4; i++) {
        pd[i & 1] &= ~US;
        pae_pd[i] &= ~(u64)US;
    }
    set_cr4(get_cr4() | CR4_SMEP);
    struct state32 s = ring(0, jump_page);
    s.ebx = VA;
    set_entries(US | RW | P, US | RW | P);
    run(&s);
    check("SMEP", outcome(&s), PF << 16 | 17);
    set_entries(US | RW | P, RW | P);
    s = ring(0, jump_page);
    s.ebx = VA;
    run(&s);
    check("SMEP, the supervisor's page", outcome(&s), END_VECTOR << 16);
    if (smap_there) {
        set_cr4(get_cr4() | CR4_SMAP);
        set_entries(US | RW | P, US | RW | P);
        s = ring(0, read_page);
        s.ebx = VA;
        run(&s);
        check("SMAP", outcome(&s), PF << 16 | 1);
        s = ring(0, read_page);
        s.ebx = VA;
        s.eflags |= FL_AC;
        run(&s);
        check("SMAP and AC", outcome(&s), END_VECTOR << 16);
    }
    set_cr4(get_cr4() & ~(CR4_SMEP | CR4_SMAP));
    for (u32 i = 0; i < 4; i++) {
        pd[i & 1] |= US;
        pae_pd[i] |= US;
    }
    set_cr3(get_cr3());
}

/* --- what is remembered --- */

static u8 peek(u32 va)
{
    u8 v;

    asm volatile("movb (%1), %0" : "=q"(v) : "r"(va) : "memory");
    return v;
}

static void set_large(u32 target, u32 extra)
{
    if (pae)
        pae_pd[VA >> 21 & 511] = target | extra | PS | RW | P;
    else
        pd[VA >> 22] = target | extra | PS | RW | P;
}

static void remembered(void)
{
    u32 size = pae ? 0x200000 : 0x400000;
    u8 *a = low(size), *b = low(0);

    page[0][8] = 0x11;
    page[1][8] = 0x22;
    set_entries(RW | P, RW | P);
    check("a page", peek(VA + 8), 0x11);
    if (pae)
        pae_pt[0] = (u32)page[1] | RW | P;
    else
        pt[0] = (u32)page[1] | RW | P;
    flush_va(VA + 0x123);
    check("INVLPG", peek(VA + 8), 0x22);
    if (pae)
        pae_pt[0] = (u32)page[0] | RW | P;
    else
        pt[0] = (u32)page[0] | RW | P;
    set_cr3(get_cr3());
    check("CR3", peek(VA + 8), 0x11);

    /* a large page: 0x7f000 of it is RAM that nobody uses */
    b[0x7f010] = 0x33;
    a[0x7f010] = 0x44;
    set_large(size, 0);
    flush_va(VA);
    check("a large page", peek(VA + 0x7f010), 0x44);
    peek(VA + size - 1);
    set_large(0, 0);
    flush_va(VA + size - 0x1000); /* far from what was read */
    check("INVLPG of another part of it", peek(VA + 0x7f010), 0x33);
    *(volatile u8 *)(VA + 0x7f010) = 0x55;
    check("a write through it", b[0x7f010], 0x55);
    check("its dirty bit", (pae ? (u32)pae_pd[VA >> 21 & 511] : pd[VA >> 22]) & (A | D), A | D);

    /* global pages */
    set_cr4(get_cr4() | CR4_PGE);
    set_large(size, G);
    flush_va(VA);
    check("a global page", peek(VA + 0x7f010), 0x44);
    set_large(0, G);
    flush_va(VA);
    check("INVLPG of a global page", peek(VA + 0x7f010), 0x55);
    set_large(size, G);
    set_cr4(get_cr4() & ~CR4_PGE);
    check("CR4.PGE forgets it", peek(VA + 0x7f010), 0x44);
    if (!pae) {
        /* without CR4.PSE bit 7 means nothing: the entry names a table. Code goes on through entries of both meanings. */
        static u32 small[1024] __attribute__((aligned(4096))), other[1024] __attribute__((aligned(4096)));

        for (u32 i = 0; i < 1024; i++)
            small[i] = i << 12 | US | RW | P;
        memset(other, 0, sizeof(other));
        other[0] = (u32)small | US | RW | P;
        other[VA >> 22] = (u32)pt | PS | RW | P;
        pt[0] = (u32)page[1] | RW | P;
        set_cr3((u32)other);
        set_cr4(get_cr4() & ~CR4_PSE);
        check("without CR4.PSE", peek(VA + 8), 0x22);
        set_cr4(get_cr4() | CR4_PSE);
        set_cr3((u32)pd);
    }
}

/* --- the highest level of PAE --- */

CODE(load_cr3, "mov %eax, %cr3\n" END);
CODE(load_cr4, "mov %eax, %cr4\n" END);

static void pointers(void)
{
    static u64 bad[4] __attribute__((aligned(32)));
    static const u8 bits[] = {1, 2, 5, 6, 7, 8, 52, 62, 63};
    struct state32 s;

    for (unsigned i = 0; i < sizeof(bits); i++) {
        memcpy(bad, pdpt, sizeof(bad));
        bad[3] = 1ull << bits[i] | P;
        s = ring(0, load_cr3);
        s.eax = (u32)bad;
        run(&s);
        tally("a reserved bit", bits[i], outcome(&s), GP << 16);
        tally("CR3 is kept", bits[i], get_cr3(), (u32)pdpt);
        bad[3] &= ~1ull;
        s = ring(0, load_cr3);
        s.eax = (u32)bad;
        run(&s);
        tally("an absent entry", bits[i], outcome(&s), END_VECTOR << 16);
        set_cr3((u32)pdpt);
    }
    tally_end("entries that CR3 is refused for");
    pdpt[3] = (u32)pae_pd | P;
    set_cr3((u32)pdpt);
    set_large(0, 0);
    check("the fourth GiB", peek(0xc0000000 | VA) == peek(VA), 1);
    check("is read from its registers", (u32)(pdpt[3] = 0), 0);
    flush_va(0xc0000000 | VA);
    check("not from memory", peek((0xc0000000 | VA) + 0x7f010), 0x55);
    s = ring(0, read_page);
    set_cr3((u32)pdpt);
    s.ebx = 0xc0000000 | VA;
    run(&s);
    expect("until CR3 is loaded", &s, PF, 0, read_page);
    check("its CR2", get_cr2(), 0xc0000000 | VA);
}

/* --- from one to the other --- */

/*
 * One table that both kinds can use: as a page directory its first entry is a table of small pages; as PAE's four entries its
 * first is a directory, which is the same memory. All is read-only, so WP is off. What 32-bit paging sets in an entry that it
 * uses, accessed, is reserved in PAE's: so code at 32 MiB, through another entry, clears that and goes on there.
 */
#define ALIAS 0x2000000
u32 both[1024] __attribute__((aligned(4096)));
u32 change_to_pae(void);
asm(".pushsection .text\n.globl change_to_pae\n"
    "change_to_pae: push %ebx\n mov $2f + 0x2000000, %edx\n mov $both + 0x2000000, %ecx\n mov $0x20, %eax\n jmp *%edx\n"
    "2: andl $~0x60, (%ecx)\n mov %eax, %cr4\n mov %cr4, %eax\n mov $3f, %edx\n jmp *%edx\n"
    "3: pop %ebx\n ret\n.popsection");

static void change_under_way(void)
{
    static u32 small[1024] __attribute__((aligned(4096))), second[1024] __attribute__((aligned(4096)));
    struct state32 s;

    for (u32 i = 0; i < 1024; i++)
        second[i] = small[i] = i << 12 | RW | P;
    second[0] = PS | RW | P; /* PAE: 2 MiB pages at 0 and at ALIAS */
    second[1] = 0;
    second[ALIAS >> 20] = PS | RW | P;
    second[(ALIAS >> 20) + 1] = 0;
    memset(both, 0, sizeof(both));
    both[0] = (u32)second | P;
    both[ALIAS >> 22] = (u32)small | RW | P;
    set_cr0(get_cr0() & ~CR0_WP);
    set_cr4(0);
    set_cr3((u32)both);
    set_cr0(get_cr0() | CR0_PG);
    check("32-bit paging", get_cr4(), 0);
    s = ring(0, load_cr4);
    s.eax = CR4_PAE;
    run(&s);
    expect("PAE with bad entries", &s, GP, 0, load_cr4);
    check("CR4 is kept", get_cr4(), 0);
    check("PAE while paging is on", change_to_pae(), CR4_PAE);
    s = ring(0, read_page);
    s.ebx = 0x400000;
    run(&s);
    check("it reads eight bytes", outcome(&s), PF << 16 | 9); /* 4003h and 5003h as one are no entry */
    set_cr4(0);
    check("and back", get_cr4(), 0);
    s = ring(0, read_page);
    s.ebx = 0x3ff000;
    run(&s);
    check("it reads four bytes", outcome(&s), END_VECTOR << 16);
    paging_off();
}

/* --- addresses that wrap --- */

CODE(load_fs, "mov %fs:(%ebx), %eax\n" END);
CODE(store_fs, "mov %eax, %fs:(%ebx)\n" END);

static void wrapping(void)
{
    struct state32 s;

    gdt[S_FREE / 8] = descriptor(0xfffff000, 0xfffff, 0xf3, 0xc);
    if (pae) {
        pdpt[3] = (u32)pae_pd | P;
        pae_pd[511] = (u32)pae_pt | US | RW | P;
        pae_pt[511] = (u32)page[1] | US | RW | P;
        set_cr3((u32)pdpt);
    } else {
        pd[1023] = (u32)pt | US | RW | P;
        pt[1023] = (u32)page[1] | US | RW | P;
        set_cr3(get_cr3());
    }
    page[1][4094] = 0xaa;
    page[1][4095] = 0xbb;
    *(u8 *)low(0) = 0xcc;
    *(u8 *)low(1) = 0xdd;
    s = ring(3, load_fs);
    s.fs = S_FREE | 3;
    s.ebx = 0xffe;
    run(&s);
    check("a load over the end of the address space", s.eax, 0xddccbbaa);
    s = ring(3, store_fs);
    s.fs = S_FREE | 3;
    s.ebx = 0xfff;
    s.eax = 0x12345678;
    run(&s);
    check("a store over it", page[1][4095] << 16 | *(u16 *)low(0), 0x783456);
}

int main(void)
{
    u32 r[4];

    load_tables();
    cpuid(7, r);
    smep_there = r[1] >> 7 & 1;
    smap_there = r[1] >> 20 & 1;
    cpuid(0x80000001, r);
    nx_there = r[3] >> 20 & 1;
    for (unsigned with_pae = 0; with_pae < 2; with_pae++) {
        paging_on(with_pae);
        rights();
        remembered();
        if (with_pae)
            pointers();
        wrapping();
        paging_off();
    }
    change_under_way();
    return 0;
}
