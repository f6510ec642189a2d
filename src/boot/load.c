/*
 * Dispatch by what the kernel file is, and the steps that all loaders share.
 *
 * The files come from a person or from inside an image: each is checked before a byte of guest memory depends on it, and
 * a refusal names the file, the cause and what to do. After a failure guest memory is undefined; the CPU is unchanged.
 */
#include "boot/boot_internal.h"

#include "base/bytes.h"
#include "machine/platform.h"

#include <errno.h>

#define MIB 0x100000ull

static const struct {
    const char *name;
    u8 len;
    u8 magic[6];
} compressions[] = {
    {"gzip", 2, {0x1f, 0x8b}},
    {"xz", 6, {0xfd, '7', 'z', 'X', 'Z', 0}},
    {"zstd", 4, {0x28, 0xb5, 0x2f, 0xfd}},
    {"lz4", 4, {0x02, 0x21, 0x4c, 0x18}},
    {"lz4", 4, {0x04, 0x22, 0x4d, 0x18}},
    {"bzip2", 3, {'B', 'Z', 'h'}},
    {"lzma", 3, {0x5d, 0, 0}},
    {"lzop", 4, {0x89, 'L', 'Z', 'O'}},
};

const char *boot_compression(const u8 *file, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(compressions); i++)
        if (len >= compressions[i].len && !memcmp(file, compressions[i].magic, compressions[i].len))
            return compressions[i].name;
    return NULL;
}

/* Where boot structures and firmware tables stand; sorted. */
static const struct boot_range occupied[] = {
    {BOOT_LOW_START, BOOT_LOW_END - BOOT_LOW_START, BOOT_RAM},
    {BOOT_LOW_RAM_END, BOOT_HIGH_START - BOOT_LOW_RAM_END, BOOT_RESERVED},
};

bool boot_range_free(u64 start, u64 len)
{
    for (size_t i = 0; i < ARRAY_LEN(occupied); i++)
        if (start < occupied[i].start + occupied[i].len && start + len > occupied[i].start)
            return false;
    return true;
}

unsigned boot_memory_map(const struct guest_mem *m, struct boot_range map[BOOT_MAP_MAX])
{
    unsigned n = 0;
    map[n++] = (struct boot_range){0, BOOT_LOW_RAM_END, BOOT_RAM};
    map[n++] = (struct boot_range){BOOT_LOW_RAM_END, BOOT_HIGH_START - BOOT_LOW_RAM_END, BOOT_RESERVED};
    if (m->low_size > BOOT_HIGH_START)
        map[n++] = (struct boot_range){BOOT_HIGH_START, m->low_size - BOOT_HIGH_START, BOOT_RAM};
    if (m->size > m->low_size)
        map[n++] = (struct boot_range){MEM_HIGH_BASE, m->size - m->low_size, BOOT_RAM};
    return n;
}

int boot_write(struct boot *b, u64 at, const void *data, u64 len, const char *what)
{
    if (mem_write(b->mem, GPA(at), data, len))
        return error_set(b->e, ENOMEM, "%s: %s at 0x%llx is outside the machine's memory: use --memory",
                         b->cfg->kernel_name, what, (unsigned long long)at);
    return 0;
}

int boot_zero(struct boot *b, u64 at, u64 len, const char *what)
{
    static const u8 zeros[PAGE_SIZE];
    while (len) {
        u64 n = MIN(len, (u64)PAGE_SIZE);
        int rc = boot_write(b, at, zeros, n, what);
        if (rc)
            return rc;
        at += n;
        len -= n;
    }
    return 0;
}

int boot_too_small(struct boot *b, const char *what, u64 end)
{
    if (end > MEM_LOW_MAX)
        return error_set(b->e, EINVAL, "%s: wants to be loaded up to 0x%llx, beyond the RAM below 4 GiB: not bootable",
                         what, (unsigned long long)end);
    return error_set(b->e, ENOMEM, "%s: needs %llu MiB of memory, the machine has %llu MiB: use --memory", what,
                     (unsigned long long)((end + MIB - 1) / MIB), (unsigned long long)(b->mem->size / MIB));
}

int boot_put_cmdline(struct boot *b, u64 max)
{
    const char *line = b->cfg->cmdline ? b->cfg->cmdline : "";
    size_t len = strlen(line);
    max = MIN(max, (u64)BOOT_CMDLINE_ROOM - 1);
    if (len > max)
        return error_set(b->e, EINVAL, "%s: the command line has %zu bytes, this kernel takes %llu: shorten --append",
                         b->cfg->kernel_name, len, (unsigned long long)max);
    return boot_write(b, BOOT_CMDLINE, line, len + 1, "its command line");
}

int boot_put_initrd(struct boot *b, u64 addr_max, u64 kernel_end, bool linux_only)
{
    const struct boot_config *cfg = b->cfg;
    if (!cfg->initrd)
        return 0;
    if (!cfg->initrd_len)
        return error_set(b->e, EINVAL, "%s: is empty, not an initrd: name a cpio archive with --initrd",
                         cfg->initrd_name);
    int rc = linux_only ? initrd_check(cfg->initrd, cfg->initrd_len, cfg->initrd_name, b->e) : 0;
    if (rc)
        return rc;
    u64 top = MIN(b->mem->low_size, addr_max == UINT64_MAX ? addr_max : addr_max + 1) & PAGE_MASK;
    u64 len = cfg->initrd_len, floor = (kernel_end + PAGE_SIZE - 1) & PAGE_MASK;
    if (floor < kernel_end || floor > top || len > top - floor) {
        u64 want = floor + ((len + PAGE_SIZE - 1) & PAGE_MASK);
        if (len < MEM_MAX_SIZE && floor <= MEM_LOW_MAX && want <= addr_max)
            return boot_too_small(b, cfg->initrd_name, want);
        return error_set(b->e, ENOMEM,
                         "%s: its %llu MiB do not fit below the address this kernel allows: make it smaller",
                         cfg->initrd_name, (unsigned long long)(len / MIB));
    }
    b->res->initrd_at = (top - len) & PAGE_MASK;
    b->res->initrd_len = len;
    if (mem_write(b->mem, GPA(b->res->initrd_at), cfg->initrd, len))
        return error_set(b->e, EFAULT, "%s: can not be put at 0x%llx: no memory there", cfg->initrd_name,
                         (unsigned long long)b->res->initrd_at);
    return 0;
}

/* The hidden part that loading `desc` from the GDT leaves. */
static struct cpu_segment segment_of(u16 selector, u64 desc)
{
    u32 limit = (u32)(desc & 0xffff) | (u32)(desc >> 32 & 0xf0000);
    u32 attr = (u32)(desc >> 40) & 0xf0ff;
    return (struct cpu_segment){
        .base = (desc >> 16 & 0xffffff) | (desc >> 32 & 0xff000000),
        .limit = attr & SEG_G ? limit << PAGE_SHIFT | 0xfff : limit,
        .attr = attr,
        .selector = selector,
    };
}

int boot_put_segments(struct boot *b, u64 code)
{
    /* A busy TSS of 104 bytes, for 32 bits or, with the empty upper half that follows it, for 64 bits */
    const u64 tss = 0x00008b0000000067ull | (u64)BOOT_TSS << 16;
    const u64 gdt[] = {0, 0, code, BOOT_DATA, tss, 0};
    int rc = boot_write(b, BOOT_GDT, gdt, sizeof(gdt), "its descriptor table");
    if (!rc)
        rc = boot_zero(b, BOOT_TSS, 104, "its task state");
    if (rc)
        return rc;
    struct cpu *c = b->cpu;
    c->gdtr = (struct cpu_table){.base = BOOT_GDT, .limit = sizeof(gdt) - 1};
    c->idtr = (struct cpu_table){0};
    for (int i = SEG_ES; i <= SEG_GS; i++)
        c->seg[i] = segment_of(BOOT_DS, BOOT_DATA);
    c->seg[SEG_CS] = segment_of(BOOT_CS, code);
    c->seg[SEG_TR] = segment_of(BOOT_TR, tss);
    c->seg[SEG_LDTR] = (struct cpu_segment){.attr = SEG_UNUSABLE};
    c->cpl = 0;
    return 0;
}

static int refuse_format(const struct boot_config *cfg, struct error *e)
{
    const char *packed = boot_compression(cfg->kernel, cfg->kernel_len);
    if (packed)
        return error_set(e, EINVAL, "%s: is %s-compressed, not a kernel image: unpack it first, or give a bzImage",
                         cfg->kernel_name, packed);
    if (cfg->kernel_len >= 2 && !memcmp(cfg->kernel, "MZ", 2))
        return error_set(e, EINVAL,
                         "%s: is an EFI program without a Linux setup header: give an x86 bzImage or PVH ELF",
                         cfg->kernel_name);
    return error_set(e, EINVAL, "%s: is neither a bzImage nor an ELF file: give an x86 kernel", cfg->kernel_name);
}

int boot_load(struct guest_mem *m, const struct boot_config *cfg, struct cpu *cpu, struct boot_result *res,
              struct error *e)
{
    *res = (struct boot_result){0};
    if (!cfg->kernel || !cfg->kernel_len)
        return error_set(e, EINVAL, "%s: is empty, not a kernel: name a bzImage or PVH ELF with --kernel",
                         cfg->kernel_name);
    int rc = acpi_build(m, GPA(BOOT_ACPI_BASE), BOOT_ACPI_SIZE, cfg->n_cpus, cfg->virtio_mmio, &res->rsdp, e);
    if (rc)
        return rc;
    struct boot b = {m, cfg, cpu, res, e};
    if (bzimage_probe(cfg->kernel, cfg->kernel_len))
        return bzimage_load(&b);
    if (pvh_probe(cfg->kernel, cfg->kernel_len))
        return pvh_load(&b);
    return refuse_format(cfg, e);
}
