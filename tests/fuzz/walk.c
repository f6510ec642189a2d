/*
 * Page tables of the input's making, for all kinds of paging: sixteen pages of entries at random places, so that tables point to each other, to
 * themselves, into the device hole and beyond the end of memory.
 */
#include "fuzz.h"
#include "machine/mmu/mmu.h"

#define PAGES 16u
#define RAM   (1u << 20)

static void set_entries(struct fuzz_input *in, u64 *ram)
{
    for (unsigned n = (u8)fuzz_number(in, 1); n && in->len; n--) {
        u16 place = (u16)fuzz_number(in, 2);
        u64 entry = fuzz_number(in, 8);
        if (place & 0x8000) /* a well-formed one: a pointer to one of our pages */
            entry = (entry & 0x80000000000001ff) | (entry >> 12 & (PAGES - 1)) << 12;
        ram[place % (PAGES * 512)] = entry;
    }
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    static u64 ram[RAM / 8] __attribute__((aligned(4096)));
    struct fuzz_input in = {data, len};
    struct guest_mem m;
    struct cpu c = {0};
    memset(ram, 0, PAGES * 4096);
    FUZZ_CHECK(!mem_init(&m, ram, RAM, -1, NULL));
    u16 flags = (u16)fuzz_number(&in, 2);
    c.cr0 = CR0_PE | CR0_PG | (flags & 1 ? CR0_WP : 0);
    c.cr4 = CR4_PAE | (flags & 2 ? CR4_SMEP : 0) | (flags & 4 ? CR4_SMAP : 0) | (flags & 8 ? CR4_PGE : 0);
    c.efer = EFER_LME | EFER_LMA | (flags & 16 ? EFER_NXE : 0);
    c.sysflags = flags & 32 ? FL_AC : 0;
    if (flags & 0x800)
        c.efer &= ~(EFER_LME | EFER_LMA);
    if (flags & 0x1000)
        c.cr4 = (c.cr4 & ~CR4_PAE) | (flags & 0x2000 ? CR4_PSE : 0);
    if (flags & 0x1000)
        c.efer &= ~(EFER_LME | EFER_LMA);
    c.cr3 = (u64)(flags >> 6 & 15) << 12;
    if (flags >> 10 & 1)
        c.cr3 = fuzz_number(&in, 8);
    set_entries(&in, ram);
    for (unsigned i = 0; i < 4; i++)
        c.pdpte[i] = ram[512 * (flags >> 6 & 15) + i];
    bool wide = cpu_long_mode(&c);
    while (in.len) {
        u8 how = (u8)fuzz_number(&in, 1);
        enum mmu_access access = (enum mmu_access)(how % 3);
        bool user = how & 4, implicit = !user && (how & 8);
        gva_t va = GVA(fuzz_number(&in, 8));
        struct mmu_page p = {.gpa = GPA(0)};
        int rc = mmu_walk(&c, &m, va, access, user, implicit, &p);
        if (rc == CPU_OK) {
            FUZZ_CHECK(p.shift == 12 || p.shift == (c.cr4 & CR4_PAE ? 21 : 22) || (p.shift == 30 && wide));
            FUZZ_CHECK(gva_canonical(va) || !wide);
            FUZZ_CHECK(((p.gpa.v ^ va.v) & ((1ull << p.shift) - 1)) == 0);
            FUZZ_CHECK(mmu_allows(&c, &p, access, user, implicit));
            FUZZ_CHECK(access != MMU_WRITE || p.dirty);
        } else {
            FUZZ_CHECK(rc == CPU_FAULT || rc == CPU_UNIMPLEMENTED);
            bool pf = gva_canonical(va) || !wide;
            FUZZ_CHECK(rc != CPU_FAULT || pf == (c.fault.vector == VEC_PF));
            FUZZ_CHECK(!pf || c.fault.address == (wide ? va.v : (u32)va.v));
        }
    }
    mem_destroy(&m);
    return 0;
}
