/* bzImage: the entry state, what stands in memory, and every way in which a file or a machine can be too small. */
#include "boot_test.h"

#include <errno.h>

static void check_segment(const struct cpu_segment *s, u16 selector, u32 attr)
{
    assert_int_equal(s->selector, selector);
    assert_int_equal(s->base, 0);
    assert_int_equal(s->limit, 0xffffffff);
    assert_int_equal(s->attr, attr);
}

static void entry_state(void **unused)
{
    struct fixture f;
    u8 k[BZ_LEN];
    make_bzimage(k);
    fixture_make(&f, 16 * MIB);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, NULL, 0, ""), 0);
    const struct cpu *c = &f.cpu;
    assert_int_equal(c->rip, TEST_LOAD + 0x200);
    assert_int_equal(f.res.entry, c->rip);
    assert_int_equal(c->cr0 & (CR0_PE | CR0_PG | CR0_NE | CR0_TS | CR0_EM | CR0_CD), CR0_PE | CR0_PG | CR0_NE);
    assert_int_equal(c->cr4, CR4_PAE);
    assert_int_equal(c->efer, EFER_LME | EFER_LMA);
    assert_int_equal(cpu_rflags(c), FL_ONE);
    assert_int_equal(c->cpl, 0);
    check_segment(&c->seg[SEG_CS], 0x10, 0xa09b);
    check_segment(&c->seg[SEG_DS], 0x18, 0xc093);
    check_segment(&c->seg[SEG_ES], 0x18, 0xc093);
    check_segment(&c->seg[SEG_SS], 0x18, 0xc093);
    assert_true(cpu_code64(c));
    assert_int_equal(c->seg[SEG_TR].attr & (SEG_P | SEG_TYPE), SEG_P | 0xb);
    assert_true(c->seg[SEG_LDTR].attr & SEG_UNUSABLE);
    /* the hidden parts are what the GDT in memory says */
    assert_int_equal(fixture_get64(&f, c->gdtr.base + 0x10), 0x00af9b000000ffffull);
    assert_int_equal(fixture_get64(&f, c->gdtr.base + 0x18), 0x00cf93000000ffffull);
    assert_true(c->gdtr.limit >= 0x1f);
    fixture_free(&f);
}

/* Walk the tables as the processor would, for each 2 MiB below 4 GiB. */
static void identity_map(void **unused)
{
    struct fixture f;
    u8 k[BZ_LEN];
    make_bzimage(k);
    fixture_make(&f, 16 * MIB);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, NULL, 0, ""), 0);
    for (u64 va = 0; va < 4ull << 30; va += 2 * MIB) {
        u64 e = fixture_get64(&f, f.cpu.cr3 + 8 * (va >> 39));
        assert_int_equal(e & 0xfff, 3);
        e = fixture_get64(&f, (e & PAGE_MASK) + 8 * (va >> 30 & 511));
        assert_int_equal(e & 0xfff, 3);
        e = fixture_get64(&f, (e & PAGE_MASK) + 8 * (va >> 21 & 511));
        assert_int_equal(e, va | 0x83);
    }
    for (unsigned i = 1; i < 512; i++)
        assert_int_equal(fixture_get64(&f, f.cpu.cr3 + 8 * i), 0);
    fixture_free(&f);
}

/* Without a 64-bit entry: protected mode, flat, no paging. */
static void entry32(void **unused)
{
    struct fixture f;
    u8 k[BZ_LEN];
    make_bzimage(k);
    put_le16(k + 0x236, 0xfffe);
    fixture_make(&f, 16 * MIB);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, NULL, 0, ""), 0);
    const struct cpu *c = &f.cpu;
    assert_int_equal(c->rip, TEST_LOAD);
    assert_int_equal(c->cr0, CR0_PE | CR0_ET | CR0_NE);
    assert_int_equal(c->efer | c->cr3 | c->cr4, 0);
    assert_int_equal(c->gpr[RBP] | c->gpr[RDI] | c->gpr[RBX], 0);
    assert_true((c->seg[SEG_CS].attr & SEG_DB) && c->seg[SEG_CS].limit == 0xffffffff);
    assert_int_equal(c->seg[SEG_CS].selector << 16 | c->seg[SEG_DS].selector, 0x100018);
    assert_memory_equal(mem_at(&f.mem, GPA(c->gpr[RSI] + 0x202), 4), "HdrS", 4);
    fixture_free(&f);
}

static void memory_contents(void **unused)
{
    struct fixture f;
    u8 k[BZ_LEN], cpio[5000];
    make_bzimage(k);
    size_t cpio_len = make_cpio(cpio, 4000);
    fixture_make(&f, 16 * MIB);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, cpio, cpio_len, ""), 0);
    assert_memory_equal(mem_at(&f.mem, GPA(TEST_LOAD), 0xe00), k + 0x600, 0xe00);

    u64 bp = f.cpu.gpr[RSI];
    assert_memory_equal(mem_at(&f.mem, GPA(bp + 0x202), 4), "HdrS", 4);
    assert_int_equal(fixture_get32(&f, bp + 0x260), TEST_INIT_SIZE);
    assert_int_equal(fixture_get16(&f, bp + 0x210) & 0xff, 0xff);
    assert_int_equal(fixture_get64(&f, bp + 0x250), 0);
    assert_int_equal(fixture_get32(&f, bp + 0x1ec) >> 24, 0); /* sentinel */
    assert_int_equal(fixture_get64(&f, bp + 0x70), f.res.rsdp);
    assert_string_equal(mem_at(&f.mem, GPA(fixture_get32(&f, bp + 0x228)), 14), "console=ttyS0");

    u64 at = fixture_get32(&f, bp + 0x218);
    assert_int_equal(fixture_get32(&f, bp + 0x21c), cpio_len);
    assert_int_equal(at, f.res.initrd_at);
    assert_int_equal(at, (16 * MIB - cpio_len) & PAGE_MASK);
    assert_memory_equal(mem_at(&f.mem, GPA(at), cpio_len), cpio, cpio_len);
    fixture_free(&f);
}

static void check_e820(struct fixture *f, unsigned i, u64 start, u64 len, u32 type)
{
    u64 at = f->cpu.gpr[RSI] + 0x2d0 + 20 * i;
    assert_int_equal(fixture_get64(f, at), start);
    assert_int_equal(fixture_get64(f, at + 8), len);
    assert_int_equal(fixture_get32(f, at + 16), type);
}

static void memory_map(void **unused)
{
    struct fixture f;
    u8 k[BZ_LEN], cpio[5000];
    make_bzimage(k);
    size_t cpio_len = make_cpio(cpio, 4000);
    fixture_make(&f, 4096 * MIB); /* calloc: pages that are not touched cost nothing */
    put_le32(k + 0x22c, 0x37ffffff);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, cpio, cpio_len, ""), 0);
    assert_int_equal(f.res.initrd_at, (0x38000000 - cpio_len) & PAGE_MASK);
    assert_int_equal(fixture_get16(&f, f.cpu.gpr[RSI] + 0x1e8) & 0xff, 4);
    check_e820(&f, 0, 0, 0x9fc00, 1);
    check_e820(&f, 1, 0x9fc00, 0x60400, 2);
    check_e820(&f, 2, MIB, (3072 - 1) * MIB, 1);
    check_e820(&f, 3, 4096 * MIB, 1024 * MIB, 1);
    fixture_free(&f);

    fixture_make(&f, 16 * MIB);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, NULL, 0, ""), 0);
    assert_int_equal(fixture_get16(&f, f.cpu.gpr[RSI] + 0x1e8) & 0xff, 3);
    check_e820(&f, 2, MIB, 15 * MIB, 1);
    fixture_free(&f);
}

/* Load a bzImage whose header was changed, and expect a refusal that contains `text`. */
static void refuse(u64 ram, void (*change)(u8 *k), int code, const char *text)
{
    struct fixture f;
    u8 k[BZ_LEN];
    make_bzimage(k);
    change(k);
    fixture_make(&f, ram);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, NULL, 0, "dir/kernel"), -code);
    if (!strstr(f.err.msg, text))
        fail_msg("\"%s\" does not say \"%s\"", f.err.msg, text);
    fixture_free(&f);
}

static void nothing(u8 *k)
{
}
static void old_protocol(u8 *k)
{
    put_le16(k + 0x206, 0x20b);
}
static void too_long(u8 *k)
{
    put_le32(k + 0x1f4, 0xe00 / 16 + 1);
}
static void empty_kernel(u8 *k)
{
    put_le32(k + 0x1f4, 0);
}
static void low_address(u8 *k)
{
    put_le64(k + 0x258, MIB - PAGE_SIZE);
}
static void high_address(u8 *k)
{
    put_le64(k + 0x258, UINT64_MAX - 0xfff);
}
static void big(u8 *k)
{
    put_le32(k + 0x260, 0xffffffff);
}
static void not_linux(u8 *k)
{
    k[0x202] = 'X';
}

static void refusals(void **unused)
{
    refuse(16 * MIB, old_protocol, EINVAL, "boot protocol 2.11, 2.12 is needed");
    refuse(16 * MIB, too_long, EINVAL, "truncated: its setup header says 5136 bytes, the file has 5120");
    refuse(16 * MIB, empty_kernel, EINVAL, "damaged");
    refuse(16 * MIB, low_address, EINVAL, "where it can not be");
    refuse(16 * MIB, high_address, EINVAL, "where it can not be");
    refuse(16 * MIB, big, EINVAL, "beyond the RAM below 4 GiB");
    refuse(16 * MIB, not_linux, EINVAL, "EFI program without a Linux setup header");
    refuse(2 * MIB, nothing, ENOMEM, "needs 3 MiB of memory, the machine has 2 MiB: use --memory");
}

static void initrd_does_not_fit(void **unused)
{
    struct fixture f;
    u8 k[BZ_LEN];
    static u8 cpio[2 * MIB + 1024];
    make_bzimage(k);
    size_t len = make_cpio(cpio, 2 * MIB);
    fixture_make(&f, 4 * MIB);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, cpio, len, "dir/initrd"), -ENOMEM);
    assert_non_null(strstr(f.err.msg, "needs 6 MiB of memory, the machine has 4 MiB: use --memory"));
    put_le32(k + 0x22c, 3 * MIB);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, cpio, len, "dir/initrd"), -ENOMEM);
    assert_non_null(strstr(f.err.msg, "below the address this kernel allows"));
    put_le32(k + 0x22c, 0);
    assert_int_equal(fixture_load(&f, k, BZ_LEN, cpio, len, "dir/initrd"), -ENOMEM);
    fixture_free(&f);
}

static void command_line_length(void **unused)
{
    struct fixture f;
    u8 k[BZ_LEN];
    char line[257];
    memset(line, 'x', sizeof(line));
    line[256] = 0;
    make_bzimage(k); /* takes 255 */
    fixture_make(&f, 16 * MIB);
    f.cfg.cmdline = line + 1;
    assert_int_equal(fixture_load(&f, k, BZ_LEN, NULL, 0, ""), 0);
    f.cfg.cmdline = line;
    assert_int_equal(fixture_load(&f, k, BZ_LEN, NULL, 0, "dir/kernel"), -EINVAL);
    assert_non_null(strstr(f.err.msg, "256 bytes, this kernel takes 255: shorten --append"));
    f.cfg.cmdline = NULL;
    assert_int_equal(fixture_load(&f, k, BZ_LEN, NULL, 0, ""), 0);
    assert_string_equal(mem_at(&f.mem, GPA(fixture_get32(&f, f.cpu.gpr[RSI] + 0x228)), 1), "");
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(entry_state),         cmocka_unit_test(identity_map),        cmocka_unit_test(entry32),
        cmocka_unit_test(memory_contents),     cmocka_unit_test(memory_map),          cmocka_unit_test(refusals),
        cmocka_unit_test(initrd_does_not_fit), cmocka_unit_test(command_line_length),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
