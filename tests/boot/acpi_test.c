/* ACPI: found as a guest finds them; checksums, links, the numbers of machine/platform.h; and iasl's opinion of the AML. */
#include "boot_test.h"

#include "boot/aml.h"
#include "machine/platform.h"

#include <errno.h>
#include <unistd.h>

static u8 sum(const u8 *p, size_t len)
{
    u8 s = 0;
    while (len--)
        s = (u8)(s + *p++);
    return s;
}

/* The table at `at`: signature and checksum right, inside the area. */
static const u8 *table(struct fixture *f, u64 at, const char *signature)
{
    assert_true(at >= BOOT_ACPI_BASE && at % 16 == 0);
    const u8 *h = mem_at(&f->mem, GPA(at), 36);
    assert_non_null(h);
    assert_memory_equal(h, signature, 4);
    u32 len = get_le32(h + 4);
    assert_true(at + len <= BOOT_ACPI_BASE + BOOT_ACPI_SIZE);
    assert_int_equal(sum(h, len), 0);
    return h;
}

struct tables {
    const u8 *fadt, *madt, *dsdt, *facs;
};

static struct tables build_with(struct fixture *f, unsigned n_cpus, bool mmio)
{
    u64 rsdp = 0;
    fixture_make(f, 16 * MIB);
    assert_int_equal(acpi_build(&f->mem, GPA(BOOT_ACPI_BASE), BOOT_ACPI_SIZE, n_cpus, mmio, &rsdp, &f->err), 0);
    const u8 *r = mem_at(&f->mem, GPA(rsdp), 36);
    assert_int_equal(rsdp % 16, 0);
    assert_memory_equal(r, "RSD PTR ", 8);
    assert_int_equal(r[15], 2);
    assert_int_equal(sum(r, 20), 0);
    assert_int_equal(sum(r, get_le32(r + 20)), 0);
    const u8 *xsdt = table(f, get_le64(r + 24), "XSDT");
    assert_int_equal(get_le32(xsdt + 4), 36 + 3 * 8);
    struct tables t = {.fadt = table(f, get_le64(xsdt + 36), "FACP"), .madt = table(f, get_le64(xsdt + 44), "APIC")};
    t.dsdt = table(f, get_le32(t.fadt + 40), "DSDT");
    assert_int_equal(get_le64(t.fadt + 140), get_le32(t.fadt + 40));
    t.facs = mem_at(&f->mem, GPA(get_le32(t.fadt + 36)), 64);
    assert_int_equal(get_le32(t.fadt + 36) % 64, 0);
    assert_memory_equal(t.facs, "FACS", 4);
    return t;
}

static struct tables build(struct fixture *f, unsigned n_cpus)
{
    return build_with(f, n_cpus, false);
}

static void fixed_hardware(void **unused)
{
    struct fixture f;
    const u8 *t = build(&f, 1).fadt;
    assert_int_equal(get_le32(t + 4), 276);
    assert_int_equal(t[8], 6);
    assert_int_equal(get_le16(t + 46), GSI_SCI);
    assert_int_equal(get_le32(t + 48), 0); /* no SMI command port */
    assert_int_equal(get_le32(t + 56), PORT_PM_EVENT);
    assert_int_equal(get_le32(t + 64), PORT_PM_CONTROL);
    assert_int_equal(get_le32(t + 76), PORT_PM_TIMER);
    assert_int_equal(get_le32(t + 80), PORT_PM_GPE);
    assert_int_equal(get_le64(t + 152), PORT_PM_EVENT);
    assert_int_equal(get_le64(t + 120), PORT_ACPI_RESET);
    assert_int_equal(t[128], 6);
    u32 flags = get_le32(t + 112);
    assert_true(flags & BIT(0));                /* WBINVD */
    assert_false(flags & BIT(4));               /* the power button is fixed hardware */
    assert_true(flags & BIT(8));                /* TMR_VAL_EXT */
    assert_true(flags & BIT(10));               /* RESET_REG_SUP */
    assert_false(flags & BIT(20));              /* HW_REDUCED_ACPI */
    assert_int_equal(get_le16(t + 109) & 6, 4); /* no 8042, no VGA */
    fixture_free(&f);
}

/* Walk the MADT's entries; each kind adds up. */
static void interrupt_controllers(void **unused)
{
    static const unsigned counts[] = {1, 2, 255, 256, 300};
    for (size_t i = 0; i < ARRAY_LEN(counts); i++) {
        struct fixture f;
        const u8 *t = build(&f, counts[i]).madt;
        unsigned cpus = 0, ioapics = 0, overrides = 0, nmis = 0;
        u32 len = get_le32(t + 4), at = 44;
        assert_int_equal(get_le32(t + 36), 0xfee00000);
        while (at < len) {
            const u8 *e = t + at;
            assert_true(e[1] >= 6 && at + e[1] <= len);
            u32 id = e[0] == 0 ? e[3] : get_le32(e + 4);
            if (e[0] == 0 || e[0] == 9)
                assert_int_equal(id, cpus++);
            if (e[0] == 1) {
                ioapics++;
                assert_int_equal(get_le32(e + 4), 0xfec00000);
                assert_int_equal(get_le32(e + 8), 0);
            }
            if (e[0] == 2) {
                overrides++;
                assert_int_equal(get_le32(e + 4), e[3] == GSI_PIT ? 2 : GSI_SCI);
                assert_int_equal(get_le16(e + 8), e[3] == GSI_PIT ? 0 : 0xd);
            }
            nmis += e[0] == 4 && e[2] == 0xff && e[5] == 1;
            at += e[1];
        }
        assert_int_equal(at, len);
        assert_int_equal(cpus, counts[i]);
        assert_int_equal(ioapics, 1);
        assert_int_equal(overrides, 2);
        assert_int_equal(nmis, 1);
        fixture_free(&f);
    }
}

static void limits(void **unused)
{
    struct fixture f;
    u64 rsdp;
    fixture_make(&f, 16 * MIB);
    assert_int_equal(acpi_build(&f.mem, GPA(BOOT_ACPI_BASE), BOOT_ACPI_SIZE, 0, false, &rsdp, NULL), -EINVAL);
    assert_int_equal(acpi_build(&f.mem, GPA(16 * MIB - 4096), 8192, 1, false, &rsdp, NULL), -EINVAL);
    assert_int_equal(acpi_build(&f.mem, GPA(UINT64_MAX - 63), 4096, 1, false, &rsdp, NULL), -EINVAL);
    assert_int_equal(acpi_build(&f.mem, GPA(BOOT_ACPI_BASE), 8192, 4096, false, &rsdp, &f.err), -ENOMEM);
    assert_non_null(strstr(f.err.msg, "4096 CPUs"));

    /* every room that is too small is refused and nothing is written outside of it */
    u64 room = 64;
    for (; acpi_build(&f.mem, GPA(BOOT_ACPI_BASE), room, 3, false, &rsdp, NULL); room++) {
        assert_true(room < 4096);
        assert_int_equal(fixture_get64(&f, BOOT_ACPI_BASE), 0);
    }
    assert_true(room > 512);
    assert_int_equal(fixture_get64(&f, BOOT_ACPI_BASE + room), 0);
    fixture_free(&f);
}

/* PkgLength in each of its forms: what is stored is the length that follows, its own bytes included. */
static void package_lengths(void **unused)
{
    static u8 out[5 << 20], body[4 << 20];
    static const size_t sizes[] = {0, 1, 58, 59, 60, 4000, 4088, 4089, 4090, 4091, 1048566, 1048567, 1048568, 1048569};
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++) {
        struct aml a = {.data = out, .cap = sizeof(out)};
        size_t mark = aml_begin_scope(&a, "ABCD");
        aml_bytes(&a, body, sizes[i]);
        aml_end(&a, mark);
        assert_false(a.full);
        unsigned extra = out[1] >> 6;
        size_t len = extra ? out[1] & 0xf : out[1] & 0x3f;
        for (unsigned n = 0; n < extra; n++)
            len |= (size_t)out[2 + n] << (4 + 8 * n);
        assert_int_equal(len, a.len - 1);
        assert_memory_equal(out + 2 + extra, "ABCD", 4);
        if (extra) /* the shorter form would not have done */
            assert_true(len - 1 >= (extra == 1 ? 64u : 1u << (4 + 8 * (extra - 1))));
    }
}

/* What iasl makes of the DSDT at `t`, into `text`; the disassembly must compile again. */
static void disassemble(const u8 *t, char *text, size_t size)
{
    char dir[] = "/tmp/trapeze-acpi-XXXXXX", path[64], command[256];
    assert_non_null(mkdtemp(dir));
    snprintf(path, sizeof(path), "%s/dsdt.aml", dir);
    FILE *out = fopen(path, "w");
    assert_non_null(out);
    assert_int_equal(fwrite(t, 1, get_le32(t + 4), out), get_le32(t + 4));
    fclose(out);
    snprintf(command, sizeof(command), "cd %s && iasl -d dsdt.aml >log 2>&1 && iasl -p again dsdt.dsl >log2 2>&1", dir);
    int rc = system(command);
    snprintf(path, sizeof(path), "%s/dsdt.dsl", dir);
    FILE *in = fopen(path, "r");
    size_t n = in ? fread(text, 1, size - 1, in) : 0;
    text[n] = 0;
    if (in)
        fclose(in);
    snprintf(command, sizeof(command), "rm -r %s", dir);
    assert_int_equal(system(command), 0);
    assert_int_equal(rc, 0);
}

static bool have_iasl(void)
{
    return !system("command -v iasl >/dev/null 2>&1");
}

/* Look for what must be in the DSDT, where iasl is installed. */
static void aml_disassembles(void **unused)
{
    if (!have_iasl()) {
        print_message("iasl (acpica-tools) is not installed\n");
        skip();
    }
    static const char *const wanted[] = {"Name (_S5, Package", "0x05",          "Device (COM1)",
                                         "\"PNP0501\"",        "0x03F8",        "Device (C000)",
                                         "Device (C002)",      "\"ACPI0007\"",  "\"PNP0B00\"",
                                         "IRQNoFlags",         "Device (VGEN)", "\"VM_Gen_Counter\"",
                                         "0x000FF000",         "Method (_E00",  "Notify (\\_SB.VGEN, 0x80)"};
    struct fixture f;
    static char text[1 << 16];
    disassemble(build(&f, 3).dsdt, text, sizeof(text));
    for (size_t i = 0; i < ARRAY_LEN(wanted); i++)
        if (!strstr(text, wanted[i]))
            fail_msg("\"%s\" is not in the disassembly", wanted[i]);
    assert_null(strstr(text, "LNRO0005"));
    fixture_free(&f);
}

/* Each window stands there with its place and its interrupt. */
static void virtio_windows(void **unused)
{
    if (!have_iasl()) {
        print_message("iasl (acpica-tools) is not installed\n");
        skip();
    }
    struct fixture f;
    static char text[1 << 18];
    disassemble(build_with(&f, 64, true).dsdt, text, sizeof(text));
    const char *at = text;
    for (unsigned i = 1; i < VIRTIO_MMIO_WINDOWS; i++) {
        char name[24], place[16], gsi[16];
        snprintf(name, sizeof(name), "Device (VM%02X)", i & 0xff);
        snprintf(place, sizeof(place), "0x%08llX", (unsigned long long)(VIRTIO_MMIO_BASE + i * VIRTIO_MMIO_STRIDE));
        snprintf(gsi, sizeof(gsi), "0x%08X", GSI_VIRTIO_MMIO(i));
        const char *const lines[] = {
            name,  "\"LNRO0005\"", "_UID",        "Memory32Fixed (ReadWrite",
            place, "0x00001000",   "Interrupt (", "ResourceConsumer, Level, ActiveHigh, Shared",
            gsi};
        for (size_t k = 0; k < ARRAY_LEN(lines); k++)
            if (!(at = strstr(at, lines[k])))
                fail_msg("window %u: \"%s\" is not in the disassembly", i, lines[k]);
    }
    assert_null(strstr(at, "LNRO0005"));
    fixture_free(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(fixed_hardware),  cmocka_unit_test(interrupt_controllers), cmocka_unit_test(limits),
        cmocka_unit_test(package_lengths), cmocka_unit_test(aml_disassembles),      cmocka_unit_test(virtio_windows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
