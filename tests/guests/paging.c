/*
 * Paging: every combination of rights on two levels, control bits, kind of access and ring, against a predicate; accessed
 * and dirty bits; reserved bits; large pages; what must be forgotten by INVLPG, CR3, CR4, PCIDs and INVPCID.
 *
 * The kernel's identity map is for the supervisor here, so that SMEP and SMAP can be had; ring 3 sees the same memory at
 * ALIAS. The page under test is PHYSICAL, seen at TEST through tables of its own:
 *
 *     boot_pml4[1] -> t_pdpt[0] -> t_pd[16] -> t_pt[0]        any of the last three may be the leaf
 *
 * What a processor may remember it need not: only forgetting is tested. Source: SDM vol. 3, chapter 4.
 */
#include "guest.h"

#define TEST     0x8002000000ull
#define TEST_2   (TEST + 0x1000)
#define ALIAS    0x10000000000ull
#define PHYSICAL 0x2000000ull
#define OFFSET   0x800 /* of data in the page; at its start lies code */
#define PAGE_BIT (1ull << 63)

#define ERR_P    1u
#define ERR_W    2u
#define ERR_U    4u
#define ERR_RSVD 8u
#define ERR_I    16u

static u64 t_pdpt[512] __attribute__((aligned(4096)));
static u64 t_pd[512] __attribute__((aligned(4096)));
static u64 t_pt[512] __attribute__((aligned(4096)));
static u64 other_pml4[512] __attribute__((aligned(4096)));
static u64 other_pdpt[512] __attribute__((aligned(4096)));
static u64 other_pd[512] __attribute__((aligned(4096)));
static u64 other_pt[512] __attribute__((aligned(4096)));
static u64 *const entry[5] = {NULL, &t_pt[0], &t_pd[16], &t_pdpt[0], &boot_pml4[1]};
static u8 *const physical = (u8 *)PHYSICAL;

CODE(read_data, "mov (%rax), %ecx\n" END);
CODE(write_data, "mov %ecx, (%rax)\n" END);
CODE(execute, "jmp *%rax\n");

enum { READ, WRITE, EXECUTE, KINDS };
static const u8 *const code_of[KINDS] = {read_data, write_data, execute};

#define RIGHTS (PTE_P | PTE_RW | PTE_US)

/* Bits 0-2 of `bits` are P, R/W, U/S; bit 3 is NX. */
static u64 rights(unsigned bits)
{
    return (bits & 7) | (bits & 8 ? PTE_NX : 0);
}

/* All levels open; `leaf` says which level maps the page. */
static void open_tables(unsigned leaf)
{
    *entry[4] = (u64)t_pdpt | RIGHTS;
    *entry[3] = leaf == 3 ? RIGHTS | PTE_PS : (u64)t_pd | RIGHTS;
    *entry[2] = leaf == 2 ? PHYSICAL | RIGHTS | PTE_PS : (u64)t_pt | RIGHTS;
    *entry[1] = PHYSICAL | RIGHTS;
    t_pt[1] = (PHYSICAL + 0x1000) | RIGHTS;
}

struct control {
    bool wp, smep, smap, nxe;
};

static void set_control(struct control c)
{
    write_cr0((read_cr0() & ~(u64)CR0_WP) | (c.wp ? CR0_WP : 0));
    write_cr4((read_cr4() & ~(u64)(CR4_SMEP | CR4_SMAP)) | (c.smep ? CR4_SMEP : 0) | (c.smap ? CR4_SMAP : 0));
    wrmsr(MSR_EFER, (rdmsr(MSR_EFER) & ~0x800ull) | (c.nxe ? 0x800 : 0));
}

/* The error code that this access must have, or NO_ERROR if it must succeed. `upper` and `leaf` as for rights(). */
static long predict(struct control c, bool ac, unsigned r, unsigned kind, unsigned upper, unsigned leaf)
{
    unsigned both = upper & leaf;
    bool user = both & 4, writable = both & 2, nx = (upper | leaf) & 8;
    unsigned error =
        (kind == WRITE ? ERR_W : 0) | (r == 3 ? ERR_U : 0) | (kind == EXECUTE && (c.nxe || c.smep) ? ERR_I : 0);

    if (!(upper & 1))
        return error;
    if ((upper & 8) && !c.nxe)
        return error | ERR_P | ERR_RSVD;
    if (!(leaf & 1))
        return error;
    if ((leaf & 8) && !c.nxe)
        return error | ERR_P | ERR_RSVD;
    error |= ERR_P;
    if (r == 3 && !user)
        return error;
    if (r == 0 && user && (kind == EXECUTE ? c.smep : c.smap && !ac))
        return error;
    if (kind == EXECUTE && nx)
        return error;
    if (kind == WRITE && !writable && (r == 3 || c.wp))
        return error;
    return NO_ERROR;
}

static struct state go(unsigned r, unsigned kind, u64 address, bool ac)
{
    struct state s = ring(r, code_of[kind]);

    s.rax = address;
    s.rflags |= ac ? FL_AC : 0;
    if (r) {
        s.rip += ALIAS;
        s.rsp += ALIAS;
    }
    run(&s);
    return s;
}

/* vector, error code, low bits of where: all that one access can end in, as one number. */
static u64 outcome(const struct state *s)
{
    return s->vector << 32 | s->has_error << 31 | s->error << 16 | (s->vector == PF ? s->cr2 & 0xffff : 0);
}

static u64 expected(long error, u64 address)
{
    if (error == NO_ERROR)
        return (u64)END_VECTOR << 32;
    return (u64)PF << 32 | 1ull << 31 | (u64)error << 16 | (address & 0xffff);
}

static void one_access(struct control c, unsigned r, unsigned kind, bool ac, unsigned leaf_level, unsigned upper_level,
                       unsigned bits)
{
    const unsigned upper = bits & 15, leaf = bits >> 4;
    const u64 address = TEST + (kind == EXECUTE ? 0 : OFFSET);
    const u64 id = (u64)leaf_level << 36 | (u64)upper_level << 32 | (u64)kind << 28 | (u64)r << 24 | (u64)ac << 20 |
                   (u64)c.wp << 19 | (u64)c.smep << 18 | (u64)c.smap << 17 | (u64)c.nxe << 16 | bits;
    u64 *l = entry[leaf_level], *u = entry[upper_level];
    long error = predict(c, ac, r, kind, upper, leaf);

    open_tables(leaf_level);
    *l = (*l & ~RIGHTS) | rights(leaf);
    *u = (*u & ~RIGHTS) | rights(upper);
    invlpg((void *)address);
    struct state s = go(r, kind, address, ac);
    tally("access", id, outcome(&s), expected(error, address));
    if (error == NO_ERROR) {
        tally("A of the upper entry", id, *u & (PTE_A | PTE_D), PTE_A);
        tally("A and D of the leaf", id, *l & (PTE_A | PTE_D), PTE_A | (kind == WRITE ? PTE_D : 0));
    } else {
        tally("no D after a fault", id, *l & PTE_D, 0);
    }
}

static void combinations(unsigned leaf_level, unsigned upper_level)
{
    for (unsigned i = 0; i < 16; i++) {
        struct control c = {i & 1, i & 2, i & 4, i & 8};

        set_control(c);
        for (unsigned bits = 0; bits < 256; bits++)
            for (unsigned k = 0; k < 2 * 2 * KINDS; k++)
                one_access(c, k & 1 ? 3 : 0, k >> 2, k & 2, leaf_level, upper_level, bits);
    }
    set_control((struct control){.nxe = true});
    open_tables(1);
    flush_tlb();
}

static unsigned physical_bits(void)
{
    u32 r[4];

    cpuid(0x80000008, 0, r);
    return r[0] & 0xff;
}

/* Is this bit of a present entry reserved? Address bits that are not are left out by the caller. */
static bool reserved(unsigned level, bool leaf, unsigned bit)
{
    if (bit == 7)
        return level == 4;
    if (level == 2 && leaf)
        return bit >= 13 && bit <= 20;
    if (level == 3 && leaf)
        return bit >= 13 && bit <= 29;
    return false;
}

static void reserved_bits(unsigned leaf_level)
{
    const unsigned width = physical_bits();

    for (unsigned level = leaf_level; level <= 4; level++)
        for (unsigned bit = 3; bit < 63; bit++) {
            bool beyond = bit >= width && bit < 52, mine = reserved(level, level == leaf_level, bit);
            u64 id = leaf_level << 12 | level << 8 | bit;

            if (bit >= 12 && bit < 52 && !beyond && !mine && !(bit == 12 && level == leaf_level && level > 1))
                continue; /* a part of the address */
            if (bit == 7 && (level == 2 || level == 3))
                continue; /* another shape */
            open_tables(leaf_level);
            *entry[level] |= 1ull << bit;
            invlpg((void *)TEST);
            struct state s = go(3, READ, TEST + OFFSET, false);
            bool fault = beyond || mine;
            tally("reserved bit", id, outcome(&s),
                  expected(fault ? (long)(ERR_P | ERR_U | ERR_RSVD) : NO_ERROR, TEST + OFFSET));
            *entry[level] &= ~PTE_P;
            invlpg((void *)TEST);
            s = go(3, WRITE, TEST + OFFSET, false);
            tally("reserved bit, not present", id, outcome(&s), expected(ERR_U | ERR_W, TEST + OFFSET));
        }
    open_tables(1);
    flush_tlb();
}

/* What must be seen at once, and what after an invalidation. */
static void invalidation(void)
{
    struct state s;

    open_tables(1);
    *(u32 *)(PHYSICAL + OFFSET) = 1;
    *(u32 *)(PHYSICAL + 0x1000 + OFFSET) = 2;
    *entry[1] = 0;
    invlpg((void *)TEST);
    s = go(3, READ, TEST + OFFSET, false);
    expect("not present", &s, PF, ERR_U, read_data + ALIAS);
    *entry[1] = PHYSICAL | RIGHTS;
    s = go(3, READ, TEST + OFFSET, false);
    check("present, without invalidation", outcome(&s), expected(NO_ERROR, 0));
    check("what it reads", s.rcx, 1);
    check("D is clear after a read", *entry[1] & PTE_D, 0);
    go(3, WRITE, TEST + OFFSET, false);
    check("D is set by a write after it", *entry[1] & PTE_D, PTE_D);
    *entry[1] &= ~(PTE_A | PTE_D);
    invlpg((void *)TEST);
    go(3, READ, TEST + OFFSET, false);
    check("A is set again after INVLPG", *entry[1] & (PTE_A | PTE_D), PTE_A);
    go(3, WRITE, TEST + OFFSET, false);
    check("D is set again after INVLPG", *entry[1] & (PTE_A | PTE_D), PTE_A | PTE_D);

    *entry[1] = PHYSICAL | (RIGHTS & ~PTE_RW);
    invlpg((void *)TEST);
    s = go(3, WRITE, TEST + OFFSET, false);
    check("read-only after INVLPG", outcome(&s), expected(ERR_P | ERR_U | ERR_W, TEST + OFFSET));
    *entry[1] |= PTE_RW;
    s = go(3, WRITE, TEST + OFFSET, false);
    if (s.vector == PF) /* allowed once (SDM 4.10.4.3) */
        s = go(3, WRITE, TEST + OFFSET, false);
    check("writable again, after one fault at most", outcome(&s), expected(NO_ERROR, 0));

    *(u32 *)(PHYSICAL + OFFSET) = 1;
    *entry[1] = (PHYSICAL + 0x1000) | RIGHTS;
    flush_tlb();
    s = go(3, READ, TEST + OFFSET, false);
    check("another frame after MOV CR3", s.rcx, 2);
    *entry[2] = 0;
    invlpg((void *)TEST);
    s = go(3, READ, TEST + OFFSET, false);
    check("INVLPG forgets upper levels", outcome(&s), expected(ERR_U, TEST + OFFSET));
    *entry[2] = PHYSICAL | RIGHTS | PTE_PS;
    s = go(3, READ, TEST + OFFSET + 0x1000, false);
    check("2 MiB page in its place", s.rcx, 2);
    *entry[2] = (u64)t_pt | RIGHTS;
    t_pt[1] = PHYSICAL | RIGHTS;
    invlpg((void *)TEST); /* another 4 KiB of the large page: all of it is forgotten */
    s = go(3, READ, TEST + OFFSET + 0x1000, false);
    check("INVLPG forgets all of a large page", s.rcx, 1);
    open_tables(1);
    flush_tlb();
}

static void set_frame(u64 frame, u64 more)
{
    *entry[1] = frame | RIGHTS | more;
}

static u32 seen(void)
{
    return (u32)go(3, READ, TEST + OFFSET, false).rcx;
}

static void invpcid(u64 type, u64 pcid, u64 address)
{
    u64 what[2] = {pcid, address};

    asm volatile("invpcid %0, %1" ::"m"(what), "r"(type) : "memory");
}

static void global_pages(void)
{
    const u64 a = PHYSICAL, b = PHYSICAL + 0x1000;

    write_cr4(read_cr4() | CR4_PGE);
    set_frame(a, PTE_G);
    invlpg((void *)TEST);
    check("global page", seen(), 1);
    set_frame(b, PTE_G);
    invlpg((void *)TEST);
    check("INVLPG forgets a global page", seen(), 2);
    set_frame(a, PTE_G);
    write_cr4(read_cr4() & ~(u64)CR4_PGE);
    check("clearing CR4.PGE forgets global pages", seen(), 1);
    write_cr4(read_cr4() | CR4_PGE);
    check("again", seen(), 1);
    set_frame(b, PTE_G);
    write_cr4(read_cr4() & ~(u64)CR4_PGE);
    write_cr4(read_cr4() | CR4_PGE);
    check("toggling CR4.PGE forgets global pages", seen(), 2);
    set_frame(a, PTE_G);
    invpcid(2, 0, 0);
    check("INVPCID 2 forgets global pages", seen(), 1);
    set_frame(b, 0);
    invpcid(3, 0, 0);
    invlpg((void *)TEST);
    check("not global", seen(), 2);
    set_frame(a, 0);
    flush_tlb();
    check("MOV CR3 forgets the others", seen(), 1);
    write_cr4(read_cr4() & ~(u64)CR4_PGE);
}

/* Another address space that maps TEST elsewhere, and the kernel as here. */
static void make_other(void)
{
    for (unsigned i = 0; i < 512; i++)
        other_pml4[i] = boot_pml4[i];
    other_pml4[1] = (u64)other_pdpt | RIGHTS;
    other_pdpt[0] = (u64)other_pd | RIGHTS;
    other_pd[16] = (u64)other_pt | RIGHTS;
    other_pt[0] = (PHYSICAL + 0x1000) | RIGHTS;
}

static void pcids(void)
{
    const u64 a = PHYSICAL, b = PHYSICAL + 0x1000, cr3 = (u64)boot_pml4, other = (u64)other_pml4;

    make_other();
    set_frame(a, 0);
    write_cr4(read_cr4() | CR4_PCIDE);
    write_cr3(cr3 | 1);
    check("PCID 1", seen(), 1);
    write_cr3(other | 2);
    check("PCID 2", seen(), 2);
    write_cr3(cr3 | 1 | PAGE_BIT);
    check("back to PCID 1 without flush", seen(), 1);
    write_cr3(other | 2 | PAGE_BIT);
    check("back to PCID 2 without flush", seen(), 2);
    set_frame(b, 0);
    write_cr3(cr3 | 1);
    check("MOV CR3 forgets what its PCID has", seen(), 2);
    write_cr3(other | 2);
    set_frame(a, 0);
    invpcid(0, 1, TEST);
    write_cr3(cr3 | 1 | PAGE_BIT);
    check("INVPCID 0 forgets an address of another PCID", seen(), 1);
    write_cr3(other | 2 | PAGE_BIT);
    set_frame(b, 0);
    invpcid(1, 1, 0);
    write_cr3(cr3 | 1 | PAGE_BIT);
    check("INVPCID 1 forgets another PCID", seen(), 2);
    write_cr3(other | 2 | PAGE_BIT);
    set_frame(a, 0);
    invpcid(3, 0, 0);
    write_cr3(cr3 | 1 | PAGE_BIT);
    check("INVPCID 3 forgets all PCIDs", seen(), 1);
    set_frame(b, 0);
    invlpg((void *)TEST);
    check("INVLPG under a PCID", seen(), 2);
    write_cr3(other | 2 | PAGE_BIT);
    other_pt[0] = a | RIGHTS;
    write_cr3(cr3);
    write_cr4(read_cr4() & ~(u64)CR4_PCIDE);
    write_cr4(read_cr4() | CR4_PCIDE);
    write_cr3(other | 2 | PAGE_BIT);
    check("clearing CR4.PCIDE forgets all", seen(), 1);
    check("CR3 has no bit 63", read_cr3(), other | 2);
    write_cr3(cr3);
    write_cr4(read_cr4() & ~(u64)CR4_PCIDE);
    set_frame(a, 0);
    flush_tlb();
}

CODE(do_invpcid, "invpcid (%rax), %rcx\n" END);
CODE(do_invlpg, "invlpg (%rax)\n" END);
CODE(set_cr3, "mov %rax, %cr3\n" END);
CODE(set_cr4, "mov %rax, %cr4\n" END);
CODE(set_cr0, "mov %rax, %cr0\n" END);

static void invpcid_case(const char *name, unsigned r, u64 type, u64 pcid, u64 address, bool fault)
{
    static u64 what[2] __attribute__((aligned(16)));
    struct state s = ring(r, do_invpcid);
    u64 alias = r ? ALIAS : 0;

    what[0] = pcid;
    what[1] = address;
    s.rip += alias;
    s.rsp += alias;
    s.rax = (u64)what + alias;
    s.rcx = type;
    run(&s);
    expect(name, &s, fault ? GP : END_VECTOR, fault ? 0 : NO_ERROR, (fault ? do_invpcid : do_invpcid_end) + alias);
}

static void control_fault(const char *name, const u8 *code, u64 value)
{
    struct state s = ring(0, code);

    s.rax = value;
    run(&s);
    expect(name, &s, GP, 0, code);
}

static void control_faults(void)
{
    const u64 hole = 0x800000000000, cr3 = (u64)boot_pml4;

    invpcid_case("INVPCID in ring 3", 3, 2, 0, 0, true);
    invpcid_case("INVPCID 4", 0, 4, 0, 0, true);
    invpcid_case("INVPCID, 64-bit type", 0, 1ull << 32, 0, 0, true);
    invpcid_case("INVPCID, reserved bits", 0, 2, 0x1000, 0, true);
    invpcid_case("INVPCID 0, not canonical", 0, 0, 0, hole, true);
    invpcid_case("INVPCID 1, not canonical is ignored", 0, 1, 0, hole, false);
    invpcid_case("INVPCID 0, PCID 1 without PCIDE", 0, 0, 1, 0, true);
    invpcid_case("INVPCID 1, PCID 1 without PCIDE", 0, 1, 1, 0, true);
    invpcid_case("INVPCID 0, PCID 0 without PCIDE", 0, 0, 0, 0, false);

    control_fault("CR3, bit 63 without PCIDE", set_cr3, cr3 | PAGE_BIT);
    control_fault("CR3, beyond the physical width", set_cr3, cr3 | 1ull << 51);
    write_cr3(cr3 | 8);
    control_fault("CR4.PCIDE with a CR3 that has low bits", set_cr4, read_cr4() | CR4_PCIDE);
    write_cr3(cr3);
    write_cr4(read_cr4() | CR4_PCIDE);
    control_fault("CR0.PG cleared under PCIDE", set_cr0, read_cr0() & ~0x80000000ull);
    invpcid_case("INVPCID 0, PCID 1 under PCIDE", 0, 0, 1, 0, false);
    write_cr4(read_cr4() & ~(u64)CR4_PCIDE);
    control_fault("CR0.PG cleared in 64-bit mode", set_cr0, read_cr0() & ~0x80000000ull);
    control_fault("CR4.PAE cleared in long mode", set_cr4, read_cr4() & ~0x20ull);

    struct state s = ring(0, do_invlpg);
    s.rax = hole;
    run(&s);
    expect("INVLPG, not canonical, is nothing", &s, END_VECTOR, NO_ERROR, do_invlpg_end);
    s = ring(3, do_invlpg);
    s.rip += ALIAS;
    run(&s);
    expect("INVLPG in ring 3", &s, GP, 0, do_invlpg + ALIAS);
}

CODE(cross_read, "mov -4(%rax), %rcx\n" END);
CODE(cross_write, "mov %rcx, -4(%rax)\n" END);
CODE(add_memory, "add %ecx, (%rax)\n" END);
CODE(xchg_memory, "xchg %ecx, (%rax)\n" END);
CODE(cmpxchg_memory, "cmpxchg %edx, (%rsi)\n" END);
CODE(xadd_memory, "lock xadd %ecx, (%rax)\n" END);
CODE(test_memory, "test %ecx, (%rax)\n" END);
CODE(bts_memory, "bts %ecx, (%rax)\n" END);
CODE(bt_memory, "bt %ecx, (%rax)\n" END);
CODE(cmpxchg16_memory, "cmpxchg16b (%rsi)\n" END);
CODE(push_memory, "push (%rax)\n" END);
CODE(pop_memory, "pop (%rax)\n" END);
CODE(movs_to, "movsb\n" END);
CODE(stos_to, "rep stosb\n" END);
CODE(sse_store, "movups %xmm0, (%rax)\n" END);
CODE(sse_load, "movups (%rax), %xmm0\n" END);
CODE(fpu_store, "fnstcw (%rax)\n" END);
CODE(shift_by_none, "xor %ecx, %ecx\n shift_at: shll %cl, (%rax)\n" END);
CODE(set_byte, "sete (%rax)\n" END);

/* Which accesses count as writes: the page is there and read-only. */
static void kinds_of_access(void)
{
    static const struct {
        const char *name;
        const u8 *code;
        u8 skip; /* to the instruction that faults */
        bool write;
    } t[] = {{"ADD", add_memory, 0, true},
             {"XCHG", xchg_memory, 0, true},
             {"CMPXCHG, unequal", cmpxchg_memory, 0, true},
             {"LOCK XADD", xadd_memory, 0, true},
             {"TEST", test_memory, 0, false},
             {"BTS", bts_memory, 0, true},
             {"BT", bt_memory, 0, false},
             {"CMPXCHG16B, unequal", cmpxchg16_memory, 0, true},
             {"PUSH", push_memory, 0, false},
             {"POP", pop_memory, 0, true},
             {"MOVS", movs_to, 0, true},
             {"REP STOS", stos_to, 0, true},
             {"MOVUPS store", sse_store, 0, true},
             {"MOVUPS load", sse_load, 0, false},
             {"FNSTCW", fpu_store, 0, true},
             {"SHL by 0", shift_by_none, 2, true},
             {"SETE", set_byte, 0, true}};

    for (unsigned absent = 0; absent < 2; absent++)
        for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
            struct state s = ring(3, t[i].code);
            long error = (absent ? 0 : ERR_P) | ERR_U | (t[i].write ? ERR_W : 0);
            bool fault = absent || t[i].write;

            *entry[1] = absent ? 0 : PHYSICAL | PTE_P | PTE_US;
            invlpg((void *)TEST);
            *(u64 *)(PHYSICAL + OFFSET) = 0x1234;
            s.rip += ALIAS;
            s.rsp += ALIAS;
            s.rax = s.rdi = TEST + OFFSET;
            s.rsi = t[i].code == movs_to ? ALIAS + PHYSICAL : TEST + OFFSET;
            s.rcx = 3;
            run(&s);
            tally(t[i].name, absent, outcome(&s), expected(fault ? error : NO_ERROR, TEST + OFFSET));
            if (fault)
                tally("saved RIP", i, s.rip, (u64)t[i].code + ALIAS + t[i].skip);
            if (fault && t[i].code != shift_by_none)
                tally("RCX after a fault", i, s.rcx, 3);
            tally("memory after a fault", i, *(u64 *)(PHYSICAL + OFFSET), 0x1234);
        }
    tally_end("accesses that count as writes");
    open_tables(1);
    flush_tlb();
}

static void across_pages(void)
{
    struct state s;

    for (unsigned second = 0; second < 2; second++) {
        u64 edge = TEST + 0x1000;

        open_tables(1);
        t_pt[second] = 0;
        flush_tlb();
        *(u64 *)(PHYSICAL + 0x1000 - 4) = 0x1111111122222222;
        for (unsigned w = 0; w < 2; w++) {
            const u8 *code = w ? cross_write : cross_read;

            s = ring(3, code);
            s.rip += ALIAS;
            s.rax = edge;
            run(&s);
            expect(w ? "a write across pages" : "a read across pages", &s, PF, ERR_U | (w ? ERR_W : 0), code + ALIAS);
            check("CR2: the first byte that can't be had", s.cr2, second ? edge : edge - 4);
        }
        check("nothing was written", *(u64 *)(PHYSICAL + 0x1000 - 4), 0x1111111122222222);
    }
    /* an instruction across pages */
    open_tables(1);
    physical[0xfff] = 0xcd;
    physical[0x1000] = END_VECTOR;
    t_pt[1] = 0;
    flush_tlb();
    s = go(3, EXECUTE, TEST + 0xfff, false);
    expect("an instruction across pages, the second absent", &s, PF, ERR_U | ERR_I, (void *)(TEST + 0xfff));
    check("CR2: the second page", s.cr2, TEST + 0x1000);
    t_pt[1] = (PHYSICAL + 0x1000) | RIGHTS | PTE_NX;
    s = go(3, EXECUTE, TEST + 0xfff, false);
    expect("an instruction across pages, the second NX", &s, PF, ERR_P | ERR_U | ERR_I, (void *)(TEST + 0xfff));
    t_pt[1] = (PHYSICAL + 0x1000) | RIGHTS;
    invlpg((void *)TEST_2);
    s = go(3, EXECUTE, TEST + 0xfff, false);
    expect("an instruction across pages", &s, END_VECTOR, NO_ERROR, (void *)(TEST + 0x1001));
}

CODE(load_ds, "mov %eax, %ds\n" END);

/* SMAP knows no AC for accesses that the processor makes by itself (SDM 4.6: implicit supervisor-mode accesses). */
static void implicit_accesses(void)
{
    struct state s;

    open_tables(1);
    *(u64 *)(PHYSICAL + OFFSET) = descriptor(0, 0xfffff, 0xf3, 0xc);
    gdt[SEL_FREE / 8] = descriptor((u32)(TEST + OFFSET), 0xff, 0x82, 0) | (TEST >> 24 & 0xff) << 56;
    gdt[SEL_FREE / 8 + 1] = TEST >> 32;
    asm volatile("lldt %w0" ::"r"(SEL_FREE));
    set_control((struct control){.nxe = true});
    for (unsigned smap = 0; smap < 2; smap++) {
        set_control((struct control){.nxe = true, .smap = smap});
        for (unsigned r = 0; r < 4; r += 3) {
            u64 alias = r ? ALIAS : 0;

            s = ring(r, load_ds);
            s.rip += alias;
            s.rsp += alias;
            s.rax = 7;
            s.rflags |= FL_AC;
            run(&s);
            expect(smap ? "LDT in a user page under SMAP, AC set" : "LDT in a user page", &s, smap ? PF : END_VECTOR,
                   smap ? (long)ERR_P : NO_ERROR, (smap ? load_ds : load_ds_end) + alias);
        }
    }
    set_control((struct control){.nxe = true});
    *entry[1] &= ~PTE_US;
    invlpg((void *)TEST);
    s = ring(3, load_ds);
    s.rip += ALIAS;
    s.rsp += ALIAS;
    s.rax = 7;
    run(&s);
    expect("LDT in a supervisor page, used in ring 3", &s, END_VECTOR, NO_ERROR, load_ds_end + ALIAS);
    *(u8 *)(PHYSICAL + OFFSET + 5) &= (u8)~1u;
    *entry[1] &= ~(PTE_RW | PTE_D);
    write_cr0(read_cr0() | CR0_WP);
    invlpg((void *)TEST);
    run(&s); /* RIP is at END now */
    s.rip = (u64)load_ds + ALIAS;
    s.rax = 7;
    run(&s);
    expect("accessed bit of a descriptor in a read-only page", &s, PF, ERR_P | ERR_W, load_ds + ALIAS);
    write_cr0(read_cr0() & ~(u64)CR0_WP);
    asm volatile("lldt %w0" ::"r"(0));
    open_tables(1);
    flush_tlb();
}

int main(void)
{
    static const u8 shapes[][2] = {{1, 2}, {1, 3}, {1, 4}, {2, 3}, {2, 4}, {3, 4}};
    static const char *const names[] = {"4 KiB page, PDE",   "4 KiB page, PDPTE", "4 KiB page, PML4E",
                                        "2 MiB page, PDPTE", "2 MiB page, PML4E", "1 GiB page, PML4E"};

    boot_pml4[2] = (u64)boot_pdpt | RIGHTS;
    boot_pml4[0] &= ~PTE_US;
    physical[0] = 0xcd; /* INT END_VECTOR */
    physical[1] = END_VECTOR;
    open_tables(1);
    flush_tlb();
    for (unsigned i = 0; i < 6; i++) {
        combinations(shapes[i][0], shapes[i][1]);
        tally_end(names[i]);
    }
    for (unsigned leaf = 1; leaf <= 3; leaf++)
        reserved_bits(leaf);
    tally_end("reserved bits");
    invalidation();
    global_pages();
    pcids();
    control_faults();
    kinds_of_access();
    across_pages();
    implicit_accesses();
    return 0;
}
