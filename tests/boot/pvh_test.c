/* PVH: entry state, start info, both ELF classes, and files that lie. */
#include "boot_test.h"

#include <errno.h>

static void check_entry(struct fixture *f)
{
    const struct cpu *c = &f->cpu;
    assert_string_equal(f->res.protocol, "PVH");
    assert_int_equal(c->rip, TEST_LOAD + 0x10);
    assert_int_equal(c->cr0, CR0_PE | CR0_ET);
    assert_int_equal(c->cr3 | c->cr4 | c->efer, 0);
    assert_int_equal(cpu_rflags(c), FL_ONE);
    assert_int_equal(c->seg[SEG_CS].attr, 0xc09b);
    assert_int_equal(c->seg[SEG_CS].limit, 0xffffffff);
    for (int i = SEG_ES; i <= SEG_GS; i++)
        assert_int_equal(c->seg[i].base, 0);
    assert_int_equal(c->seg[SEG_DS].attr, 0xc093);
    assert_int_equal(c->seg[SEG_TR].attr & (SEG_P | SEG_TYPE), SEG_P | 0xb);
    assert_int_equal(c->seg[SEG_TR].limit, 0x67);
    assert_false(cpu_long_mode(c));
}

static void check_start_info(struct fixture *f, const u8 *initrd, size_t initrd_len)
{
    u64 si = f->cpu.gpr[RBX];
    assert_int_equal(fixture_get32(f, si), 0x336ec578);
    assert_int_equal(fixture_get32(f, si + 4), 1);
    assert_int_equal(fixture_get32(f, si + 12), initrd ? 1 : 0);
    assert_int_equal(fixture_get64(f, si + 32), f->res.rsdp);
    assert_string_equal(mem_at(&f->mem, GPA(fixture_get64(f, si + 24)), 14), "console=ttyS0");
    u64 map = fixture_get64(f, si + 40);
    assert_int_equal(fixture_get32(f, si + 48), 3);
    assert_int_equal(fixture_get64(f, map + 2 * 24), MIB);
    assert_int_equal(fixture_get64(f, map + 2 * 24 + 8), 15 * MIB);
    assert_int_equal(fixture_get32(f, map + 2 * 24 + 16), 1);
    assert_int_equal(fixture_get32(f, map + 1 * 24 + 16), 2);
    if (initrd) {
        u64 mod = fixture_get64(f, si + 16), at = fixture_get64(f, mod);
        assert_int_equal(fixture_get64(f, mod + 8), initrd_len);
        assert_int_equal(fixture_get64(f, mod + 16), 0);
        assert_memory_equal(mem_at(&f->mem, GPA(at), initrd_len), initrd, initrd_len);
    }
}

static void loads(void (*make)(u8 *))
{
    struct fixture f;
    u8 k[PVH_LEN], cpio[1000];
    make(k);
    size_t len = make_cpio(cpio, 100);
    fixture_make(&f, 16 * MIB);
    memset(f.ram, 0xee, 16 * MIB); /* a reset leaves memory as it was: the rest of a segment must be zeroed */
    assert_int_equal(fixture_load(&f, k, PVH_LEN, cpio, len, ""), 0);
    check_entry(&f);
    check_start_info(&f, cpio, len);
    const u8 *at = mem_at(&f.mem, GPA(TEST_LOAD), 0x1800);
    assert_memory_equal(at, k + 0x200, 0x100);
    for (unsigned i = 0x100; i < 0x1800; i++)
        assert_int_equal(at[i], 0);
    assert_int_equal(at[0x1800], 0xee);
    assert_memory_equal(mem_at(&f.mem, GPA(TEST_LOAD + MIB), 0x100), k + 0x300, 0x100);
    assert_int_equal(fixture_load(&f, k, PVH_LEN, NULL, 0, ""), 0);
    check_start_info(&f, NULL, 0);
    fixture_free(&f);
}

static void loads64(void **unused)
{
    loads(make_pvh64);
}

static void loads32(void **unused)
{
    loads(make_pvh32);
}

#define PHDR(k, i)  ((k) + sizeof(Elf64_Ehdr) + (i) * sizeof(Elf64_Phdr))
#define PADDR(k, i) (PHDR(k, i) + offsetof(Elf64_Phdr, p_paddr))
#define MEMSZ(k, i) (PHDR(k, i) + offsetof(Elf64_Phdr, p_memsz))
#define NOTE        0x198u /* of the PVH note */

static void no_note(u8 *k)
{
    put_le32(k + NOTE + 8, 17);
}
static void other_owner(u8 *k)
{
    k[NOTE + 12] = 'Y';
}
static void huge_note(u8 *k)
{
    put_le32(k + NOTE + 4, 0xffffffff);
}
static void huge_name(u8 *k)
{
    put_le32(k + 0x180, 0xffffffff);
}
static void odd_note(u8 *k)
{
    put_le32(k + NOTE + 4, 2);
}
static void entry_outside(u8 *k)
{
    put_le32(k + NOTE + 16, TEST_LOAD + 0x1800);
}
static void wraps(u8 *k)
{
    put_le64(PADDR(k, 0), UINT64_MAX - 0xfff);
    put_le64(MEMSZ(k, 0), 0x2000);
}
static void on_boot_structures(u8 *k)
{
    put_le64(PADDR(k, 1), 0xbfff);
}
static void on_acpi(u8 *k)
{
    put_le64(PADDR(k, 1), 0xe0000 - 0x80);
}
static void over_low_memory(u8 *k)
{
    put_le64(PADDR(k, 1), 0x800);
    put_le64(MEMSZ(k, 1), 2 * MIB);
}
static void in_device_hole(u8 *k)
{
    put_le64(PADDR(k, 1), 0xfec00000);
}
static void beyond_ram(u8 *k)
{
    put_le64(PADDR(k, 1), 20 * MIB);
}
static void file_above_memory(u8 *k)
{
    put_le64(MEMSZ(k, 0), 0xff);
}
static void big_endian(u8 *k)
{
    k[EI_DATA] = ELFDATA2MSB;
}
static void not_x86(u8 *k)
{
    put_le16(k + offsetof(Elf64_Ehdr, e_machine), EM_AARCH64);
}
/* One more segment than fits: both of nearly all memory above the kernel. */
static void segments_overlap(u8 *k)
{
    for (int i = 0; i < 2; i++) {
        put_le64(PADDR(k, i), MIB);
        put_le64(MEMSZ(k, i), 15 * MIB);
    }
}
static void notes_overlap(u8 *k)
{
    for (int i = 0; i < 3; i++) {
        put_le32(PHDR(k, i), PT_NOTE);
        put_le64(PHDR(k, i) + offsetof(Elf64_Phdr, p_offset), 0x200);
        put_le64(PHDR(k, i) + offsetof(Elf64_Phdr, p_filesz), PVH_LEN - 0x200);
    }
    memset(k + 0x200, 0, PVH_LEN - 0x200);
}
static void no_phdrs(u8 *k)
{
    put_le16(k + offsetof(Elf64_Ehdr, e_phnum), 0);
}

static void refusals(void **unused)
{
    static const struct {
        void (*change)(u8 *k);
        int code;
        const char *text;
    } cases[] = {
        {no_note, EINVAL, "is an ELF without a PVH note"},
        {other_owner, EINVAL, "is an ELF without a PVH note"},
        {huge_note, EINVAL, "an ELF note is larger than its segment"},
        {huge_name, EINVAL, "an ELF note is larger than its segment"},
        {odd_note, EINVAL, "an ELF note is larger than its segment"},
        {entry_outside, EINVAL, "is in no loaded segment"},
        {wraps, EINVAL, "segment 0 wraps around"},
        {on_boot_structures, EINVAL, "covers memory of the boot structures"},
        {on_acpi, EINVAL, "covers memory of the boot structures"},
        {over_low_memory, EINVAL, "covers memory of the boot structures"},
        {in_device_hole, EINVAL, "beyond the RAM below 4 GiB"},
        {beyond_ram, ENOMEM, "needs 21 MiB of memory, the machine has 16 MiB: use --memory"},
        {file_above_memory, EINVAL, "larger in the file than in memory"},
        {big_endian, EINVAL, "not for x86"},
        {not_x86, EINVAL, "not for x86"},
        {no_phdrs, EINVAL, "without program headers"},
        {segments_overlap, EINVAL, "its segments overlap"},
        {notes_overlap, EINVAL, "its segments of notes overlap"},
    };
    struct fixture f;
    fixture_make(&f, 16 * MIB);
    for (size_t i = 0; i < ARRAY_LEN(cases); i++) {
        u8 k[PVH_LEN];
        make_pvh64(k);
        cases[i].change(k);
        assert_int_equal(fixture_load(&f, k, PVH_LEN, NULL, 0, "dir/kernel"), -cases[i].code);
        if (!strstr(f.err.msg, cases[i].text))
            fail_msg("case %zu: \"%s\" does not say \"%s\"", i, f.err.msg, cases[i].text);
    }
    fixture_free(&f);
}

/* A segment above 4 GiB is fine where RAM is; an entry there is not. */
static void high_segment(void **unused)
{
    struct fixture f;
    u8 k[PVH_LEN];
    make_pvh64(k);
    put_le64(PADDR(k, 1), (4ull << 30) + MIB);
    fixture_make(&f, 3080 * MIB);
    assert_int_equal(fixture_load(&f, k, PVH_LEN, NULL, 0, ""), 0);
    assert_memory_equal(mem_at(&f.mem, GPA((4ull << 30) + MIB), 0x100), k + 0x300, 0x100);
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads64),
        cmocka_unit_test(loads32),
        cmocka_unit_test(refusals),
        cmocka_unit_test(high_segment),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
