/*
 * Linux's own format, entered by its 64-bit boot protocol, or its 32-bit one where there is no 64-bit entry.
 *
 * A bzImage is a real-mode part of (setup_sects + 1) * 512 bytes that nobody runs any more, whose first kilobyte holds the
 * setup header, and a protected-mode part of syssize * 16 bytes, the decompressor with the packed kernel:
 *
 *   0        0x1f1          0x202+[0x201]   (setup_sects+1)*512                 +syssize*16
 *   | MZ stub | setup header | real mode ... | decompressor: +0 32-bit, +0x200 64-bit entry | signature |
 *
 * We copy the setup header into an otherwise empty boot_params page, fill in what a loader has to, put the protected-mode
 * part at pref_address and enter at its byte 0x200 with a 4 GiB identity map, or at its byte 0 without paging. The
 * decompressor works in place: it needs
 * init_size bytes from there on, so nothing else may stand in them.
 *
 * Source: Documentation/x86/boot.rst, "The Real-Mode Kernel Header", "32-bit Boot Protocol" and "64-bit Boot Protocol";
 * Documentation/x86/zero-page.rst.
 *
 * Not done: protocols before 2.12, loading above 4 GiB, setup_data, EFI hand-over.
 * A relocatable kernel is not moved away from pref_address: Linux decompresses itself to that address anyway.
 */
#include "boot/boot_internal.h"

#include "base/bytes.h"

#include <errno.h>

/* Offsets in the file's first sectors and, the same, in boot_params */
#define HDR_SETUP_SECTS     0x1f1u
#define HDR_SYSSIZE         0x1f4u
#define HDR_BOOT_FLAG       0x1feu
#define HDR_JUMP            0x201u /* displacement of the jump over the header: where it ends */
#define HDR_MAGIC           0x202u
#define HDR_VERSION         0x206u
#define HDR_TYPE_OF_LOADER  0x210u
#define HDR_RAMDISK_IMAGE   0x218u
#define HDR_RAMDISK_SIZE    0x21cu
#define HDR_CMD_LINE_PTR    0x228u
#define HDR_INITRD_ADDR_MAX 0x22cu
#define HDR_XLOADFLAGS      0x236u
#define HDR_CMDLINE_SIZE    0x238u
#define HDR_SETUP_DATA      0x250u
#define HDR_PREF_ADDRESS    0x258u
#define HDR_INIT_SIZE       0x260u
#define HDR_MIN_END         0x268u /* first byte after what protocol 2.12 defines */
#define HDR_MAX_END         0x290u /* boot_params has something else from here on */

#define XLF_KERNEL_64       1u
#define LOADER_UNREGISTERED 0xffu

/* boot_params beside the setup header */
#define BP_ACPI_RSDP     0x070u
#define BP_E820_ENTRIES  0x1e8u
#define BP_E820_TABLE    0x2d0u
#define E820_ENTRY_BYTES 20u

#define ENTRY64          0x200u

struct bzimage {
    const u8 *file;
    u64 setup_bytes, kernel_bytes;
    bool wide;     /* it has a 64-bit entry */
    u64 load, end; /* where the protected-mode part goes, and the end of what it needs there */
};

bool bzimage_probe(const u8 *file, size_t len)
{
    if (len >= HDR_MAGIC + 4)
        return get_le16(file + HDR_BOOT_FLAG) == 0xaa55 && !memcmp(file + HDR_MAGIC, "HdrS", 4);
    return len >= 2 && !memcmp(file, "MZ", 2); /* so that what is cut that short is called truncated */
}

static int bzimage_truncated(struct boot *b, u64 want)
{
    return error_set(b->e, EINVAL, "%s: truncated: its setup header says %llu bytes, the file has %zu: fetch it again",
                     b->cfg->kernel_name, (unsigned long long)want, b->cfg->kernel_len);
}

/* Everything that must hold of the setup header before it is used. */
static int bzimage_parse(struct boot *b, struct bzimage *z)
{
    const char *name = b->cfg->kernel_name;
    const u8 *f = z->file = b->cfg->kernel;
    if (b->cfg->kernel_len < HDR_MIN_END)
        return bzimage_truncated(b, HDR_MIN_END);
    unsigned version = get_le16(f + HDR_VERSION);
    if (version < 0x20c)
        return error_set(b->e, EINVAL, "%s: boot protocol %u.%02u, 2.12 is needed: give Linux 3.8 or later", name,
                         version >> 8, version & 0xff);
    z->wide = get_le16(f + HDR_XLOADFLAGS) & XLF_KERNEL_64;
    z->setup_bytes = (f[HDR_SETUP_SECTS] ? f[HDR_SETUP_SECTS] + 1u : 5u) * 512ull;
    z->kernel_bytes = get_le32(f + HDR_SYSSIZE) * 16ull;
    /* syssize is rounded up: of the last 16 bytes some may be missing (memtest86+) */
    if (z->setup_bytes + z->kernel_bytes > b->cfg->kernel_len + 15ull)
        return bzimage_truncated(b, z->setup_bytes + z->kernel_bytes);
    if (z->setup_bytes < b->cfg->kernel_len)
        z->kernel_bytes = MIN(z->kernel_bytes, b->cfg->kernel_len - z->setup_bytes);
    if (z->kernel_bytes <= ENTRY64)
        return error_set(b->e, EINVAL, "%s: damaged: its protected-mode part has %llu bytes: fetch it again", name,
                         (unsigned long long)z->kernel_bytes);
    z->load = get_le64(f + HDR_PREF_ADDRESS);
    u64 need = MAX(z->kernel_bytes, (u64)get_le32(f + HDR_INIT_SIZE));
    if (z->load < BOOT_HIGH_START || z->load % PAGE_SIZE || z->load > MEM_LOW_MAX)
        return error_set(b->e, EINVAL, "%s: wants to be loaded at 0x%llx, where it can not be: not bootable", name,
                         (unsigned long long)z->load);
    z->end = z->load + need;
    return z->end > b->mem->low_size ? boot_too_small(b, name, z->end) : 0;
}

static int bzimage_put_params(struct boot *b, const struct bzimage *z)
{
    u8 bp[PAGE_SIZE] = {0};
    unsigned end = MIN(MAX(HDR_MAGIC + z->file[HDR_JUMP], HDR_MIN_END), HDR_MAX_END);
    memcpy(bp + HDR_SETUP_SECTS, z->file + HDR_SETUP_SECTS, MIN((size_t)end, b->cfg->kernel_len) - HDR_SETUP_SECTS);

    bp[HDR_TYPE_OF_LOADER] = LOADER_UNREGISTERED;
    put_le32(bp + HDR_RAMDISK_IMAGE, (u32)b->res->initrd_at); /* below 4 GiB: it is in low RAM */
    put_le32(bp + HDR_RAMDISK_SIZE, (u32)b->res->initrd_len);
    put_le32(bp + HDR_CMD_LINE_PTR, BOOT_CMDLINE);
    put_le64(bp + HDR_SETUP_DATA, 0);
    put_le64(bp + BP_ACPI_RSDP, b->res->rsdp);

    struct boot_range map[BOOT_MAP_MAX];
    unsigned n = boot_memory_map(b->mem, map);
    bp[BP_E820_ENTRIES] = (u8)n;
    for (unsigned i = 0; i < n; i++) {
        u8 *entry = bp + BP_E820_TABLE + i * E820_ENTRY_BYTES;
        put_le64(entry, map[i].start);
        put_le64(entry + 8, map[i].len);
        put_le32(entry + 16, map[i].type);
    }
    return boot_write(b, BOOT_PARAMS, bp, sizeof(bp), "its boot parameters");
}

/* PML4, PDPT and four directories that map the first 4 GiB onto itself, supervisor, writable, 2 MiB pages. */
static int bzimage_put_page_tables(struct boot *b)
{
    enum { P = 1, RW = 2, PS = 0x80 };
    u64 table[512] = {BOOT_PAGE_TABLES + PAGE_SIZE + P + RW};
    int rc = boot_write(b, BOOT_PAGE_TABLES, table, sizeof(table), "its page tables");
    for (unsigned i = 0; i < 4; i++)
        table[i] = BOOT_PAGE_TABLES + (2 + i) * PAGE_SIZE + P + RW;
    if (!rc)
        rc = boot_write(b, BOOT_PAGE_TABLES + PAGE_SIZE, table, sizeof(table), "its page tables");
    for (unsigned i = 0; !rc && i < 4; i++) {
        for (u64 j = 0; j < 512; j++)
            table[j] = ((u64)i << 30) + (j << 21) + P + RW + PS;
        rc = boot_write(b, BOOT_PAGE_TABLES + (2 + i) * PAGE_SIZE, table, sizeof(table), "its page tables");
    }
    return rc;
}

static void bzimage_enter64(struct boot *b, const struct bzimage *z)
{
    struct cpu *c = b->cpu;
    c->cr0 = CR0_PE | CR0_ET | CR0_NE | CR0_PG;
    c->cr3 = BOOT_PAGE_TABLES;
    c->cr4 = CR4_PAE;
    c->efer = EFER_LME | EFER_LMA;
    c->rip = z->load + ENTRY64;
    b->res->protocol = "bzImage, 64-bit entry";
}

/* Flat segments, no paging; EBP, EDI and EBX are zero. */
static void bzimage_enter32(struct boot *b, const struct bzimage *z)
{
    struct cpu *c = b->cpu;
    c->cr0 = CR0_PE | CR0_ET | CR0_NE;
    c->cr3 = c->cr4 = c->efer = 0;
    c->gpr[RBX] = c->gpr[RBP] = c->gpr[RDI] = 0;
    c->rip = z->load;
    b->res->protocol = "bzImage, 32-bit entry";
}

int bzimage_load(struct boot *b)
{
    struct bzimage z = {0};
    int rc = bzimage_parse(b, &z);
    if (!rc)
        rc = boot_write(b, z.load, z.file + z.setup_bytes, z.kernel_bytes, "its protected-mode part");
    if (!rc)
        rc = boot_put_initrd(b, get_le32(z.file + HDR_INITRD_ADDR_MAX), z.end, true);
    if (!rc)
        rc = boot_put_cmdline(b, get_le32(z.file + HDR_CMDLINE_SIZE));
    if (!rc)
        rc = bzimage_put_params(b, &z);
    if (!rc && z.wide)
        rc = bzimage_put_page_tables(b);
    if (!rc)
        rc = boot_put_segments(b, z.wide ? BOOT_CODE64 : BOOT_CODE32);
    if (rc)
        return rc;

    struct cpu *c = b->cpu;
    (z.wide ? bzimage_enter64 : bzimage_enter32)(b, &z);
    cpu_set_rflags(c, FL_ONE);
    c->gpr[RSI] = BOOT_PARAMS;
    b->res->entry = c->rip;
    return 0;
}
