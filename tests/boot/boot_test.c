#include "boot_test.h"

void fixture_make(struct fixture *f, u64 ram_size)
{
    memset(f, 0, sizeof(*f));
    f->ram = calloc(1, ram_size);
    assert_non_null(f->ram);
    assert_int_equal(mem_init(&f->mem, f->ram, ram_size, -1, &f->err), 0);
    f->cfg = (struct boot_config){
        .kernel_name = "dir/kernel", .initrd_name = "dir/initrd", .cmdline = "console=ttyS0", .n_cpus = 1};
}

void fixture_free(struct fixture *f)
{
    mem_destroy(&f->mem);
    free(f->ram);
}

static u8 *exact_copy(const u8 *data, size_t len)
{
    u8 *p = malloc(len ? len : 1);
    assert_non_null(p);
    memcpy(p, data, len);
    return p;
}

int fixture_load(struct fixture *f, const u8 *kernel, size_t len, const u8 *initrd, size_t initrd_len,
                 const char *culprit)
{
    u8 *k = exact_copy(kernel, len), *i = initrd ? exact_copy(initrd, initrd_len) : NULL;
    f->cfg.kernel = k;
    f->cfg.kernel_len = len;
    f->cfg.initrd = i;
    f->cfg.initrd_len = initrd_len;
    f->err = (struct error){0};
    memset(&f->cpu, 0xcc, sizeof(f->cpu));
    int rc = boot_load(&f->mem, &f->cfg, &f->cpu, &f->res, &f->err);
    free(k);
    free(i);
    if (rc) {
        assert_true(rc < 0);
        assert_int_equal(f->err.code, -rc);
        if (strncmp(f->err.msg, culprit, strlen(culprit)) || f->err.msg[strlen(culprit)] != ':')
            fail_msg("message does not begin with %s: %s", culprit, f->err.msg);
        assert_null(strchr(f->err.msg, '\n'));
    }
    return rc;
}

u16 fixture_get16(struct fixture *f, u64 at)
{
    u16 v = 0;
    assert_int_equal(mem_read(&f->mem, GPA(at), &v, 2), 0);
    return v;
}

u32 fixture_get32(struct fixture *f, u64 at)
{
    u32 v = 0;
    assert_int_equal(mem_read(&f->mem, GPA(at), &v, 4), 0);
    return v;
}

u64 fixture_get64(struct fixture *f, u64 at)
{
    u64 v = 0;
    assert_int_equal(mem_read(&f->mem, GPA(at), &v, 8), 0);
    return v;
}

void make_bzimage(u8 out[BZ_LEN])
{
    memset(out, 0, BZ_LEN);
    memcpy(out, "MZ", 2);
    out[0x1f1] = 2;                    /* setup_sects */
    put_le32(out + 0x1f4, 0xe00 / 16); /* syssize */
    put_le16(out + 0x1fe, 0xaa55);     /* boot_flag */
    out[0x200] = 0xeb;                 /* jump */
    out[0x201] = 0x6c - 2 + 2;         /* header ends at 0x26e */
    memcpy(out + 0x202, "HdrS", 4);
    put_le16(out + 0x206, 0x20f);      /* version */
    out[0x211] = 1;                    /* LOADED_HIGH */
    put_le32(out + 0x22c, 0x7fffffff); /* initrd_addr_max */
    put_le32(out + 0x230, 0x200000);   /* kernel_alignment */
    out[0x234] = 1;                    /* relocatable */
    put_le16(out + 0x236, 1);          /* XLF_KERNEL_64 */
    put_le32(out + 0x238, 255);        /* cmdline_size */
    put_le64(out + 0x258, TEST_LOAD);  /* pref_address */
    put_le32(out + 0x260, TEST_INIT_SIZE);
    for (unsigned i = 0x600; i < BZ_LEN; i++)
        out[i] = (u8)(i * 7);
}

static void make_note(u8 *at, u32 entry)
{
    put_le32(at, 4);
    put_le32(at + 4, 4);
    put_le32(at + 8, 18);
    memcpy(at + 12, "Xen", 4);
    put_le32(at + 16, entry);
}

/* Another note first, as real files have; then ours. Returns the bytes written. */
static u32 make_notes(u8 *at, u32 entry)
{
    put_le32(at, 6);
    put_le32(at + 4, 1);
    put_le32(at + 8, 257);
    memcpy(at + 12, "Linux", 6);
    make_note(at + 24, entry);
    return 24 + 20;
}

void make_pvh64(u8 out[PVH_LEN])
{
    memset(out, 0, PVH_LEN);
    Elf64_Ehdr eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS64, ELFDATA2LSB, EV_CURRENT},
                     .e_type = ET_EXEC,
                     .e_machine = EM_X86_64,
                     .e_version = EV_CURRENT,
                     .e_phoff = sizeof(Elf64_Ehdr),
                     .e_ehsize = sizeof(Elf64_Ehdr),
                     .e_phentsize = sizeof(Elf64_Phdr),
                     .e_phnum = 3};
    u32 notes = make_notes(out + 0x180, TEST_LOAD + 0x10);
    Elf64_Phdr ph[3] = {
        {.p_type = PT_LOAD,
         .p_offset = 0x200,
         .p_paddr = TEST_LOAD,
         .p_filesz = 0x100,
         .p_memsz = 0x1800,
         .p_align = 4096},
        {.p_type = PT_LOAD, .p_offset = 0x300, .p_paddr = TEST_LOAD + MIB, .p_filesz = 0x100, .p_memsz = 0x100},
        {.p_type = PT_NOTE, .p_offset = 0x180, .p_filesz = notes, .p_memsz = notes, .p_align = 4},
    };
    memcpy(out, &eh, sizeof(eh));
    memcpy(out + sizeof(eh), ph, sizeof(ph));
    for (unsigned i = 0x200; i < PVH_LEN; i++)
        out[i] = (u8)(i * 5 + 1);
}

void make_pvh32(u8 out[PVH_LEN])
{
    memset(out, 0, PVH_LEN);
    Elf32_Ehdr eh = {.e_ident = {0x7f, 'E', 'L', 'F', ELFCLASS32, ELFDATA2LSB, EV_CURRENT},
                     .e_type = ET_EXEC,
                     .e_machine = EM_386,
                     .e_version = EV_CURRENT,
                     .e_phoff = sizeof(Elf32_Ehdr),
                     .e_ehsize = sizeof(Elf32_Ehdr),
                     .e_phentsize = sizeof(Elf32_Phdr),
                     .e_phnum = 3};
    u32 notes = make_notes(out + 0x180, TEST_LOAD + 0x10);
    Elf32_Phdr ph[3] = {
        {.p_type = PT_NOTE, .p_offset = 0x180, .p_filesz = notes, .p_memsz = notes, .p_align = 4},
        {.p_type = PT_LOAD,
         .p_offset = 0x200,
         .p_paddr = TEST_LOAD,
         .p_filesz = 0x100,
         .p_memsz = 0x1800,
         .p_align = 4096},
        {.p_type = PT_LOAD, .p_offset = 0x300, .p_paddr = TEST_LOAD + MIB, .p_filesz = 0x100, .p_memsz = 0x100},
    };
    memcpy(out, &eh, sizeof(eh));
    memcpy(out + sizeof(eh), ph, sizeof(ph));
    for (unsigned i = 0x200; i < PVH_LEN; i++)
        out[i] = (u8)(i * 5 + 1);
}

static size_t cpio_entry(u8 *out, const char *name, unsigned size)
{
    char head[111];
    unsigned namesz = (unsigned)strlen(name) + 1;
    snprintf(head, sizeof(head), "070701%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x%08x", 1, 0100755, 0, 0, 1, 0,
             size, 0, 0, 0, 0, namesz, 0);
    memcpy(out, head, 110);
    memcpy(out + 110, name, namesz);
    size_t at = (110 + namesz + 3) & ~3u;
    for (unsigned i = 0; i < size; i++)
        out[at + i] = (u8)('a' + i % 26);
    return (at + size + 3) & ~(size_t)3;
}

size_t make_cpio(u8 *out, unsigned size)
{
    memset(out, 0, size + 512);
    size_t at = cpio_entry(out, "init", size);
    return at + cpio_entry(out + at, "TRAILER!!!", 0);
}

u64 test_random(u64 *state)
{
    *state ^= *state >> 12;
    *state ^= *state << 25;
    *state ^= *state >> 27;
    return *state * 0x2545f4914f6cdd1dull;
}
