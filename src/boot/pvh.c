/*
 * PVH: an ELF file with a note that names its 32-bit entry point. Linux's vmlinux, Xen, the BSDs and small guests have it.
 *
 * Program headers say what is loaded, by physical address; a PT_NOTE segment holds the note ("Xen", type 18, the entry).
 * The kernel gets EBX = hvm_start_info in protected mode with flat segments and without paging:
 *
 *   BOOT_PARAMS  +0x000  hvm_start_info, version 1
 *                +0x100  hvm_modlist_entry, one if there is an initrd
 *                +0x200  hvm_memmap_table_entry[]
 *
 * Every number of the file is 64-bit here, also for ELF32, and compared by subtraction, so that no sum can wrap.
 *
 * Source: Xen, docs/misc/pvh.pandoc; xen/include/public/arch-x86/hvm/start_info.h; xen/include/public/elfnote.h;
 * System V ABI (ELF).
 *
 * Not done: p_filesz of compressed sections, relocatable PVH kernels (note 19), e_phnum above 65534.
 */
#include "boot/boot_internal.h"

#include "base/bytes.h"

#include <elf.h>
#include <errno.h>

#define XEN_ELFNOTE_PHYS32_ENTRY 18u
#define START_INFO_MAGIC         0x336ec578u
#define START_INFO_MODLIST       0x100u
#define START_INFO_MEMMAP        0x200u

struct pvh {
    const u8 *file;
    u64 len;
    bool wide; /* ELF64 */
    u64 phoff;
    unsigned phnum;
    u64 entry;
    u64 end; /* of what is loaded in RAM below 4 GiB */
};

/* A program header of either class. */
struct pvh_segment {
    u32 type;
    u64 offset, paddr, filesz, memsz, align;
};

bool pvh_probe(const u8 *file, size_t len)
{
    return len >= SELFMAG && !memcmp(file, ELFMAG, SELFMAG);
}

static bool pvh_in_file(const struct pvh *v, u64 offset, u64 len)
{
    return offset <= v->len && len <= v->len - offset;
}

static int pvh_truncated(struct boot *b, const char *what)
{
    return error_set(b->e, EINVAL, "%s: truncated: %s lies beyond the end of the file (%zu bytes): fetch it again",
                     b->cfg->kernel_name, what, b->cfg->kernel_len);
}

static int pvh_parse_header(struct boot *b, struct pvh *v)
{
    const u8 *f = v->file = b->cfg->kernel;
    v->len = b->cfg->kernel_len;
    if (v->len < sizeof(Elf32_Ehdr))
        return pvh_truncated(b, "its ELF header");
    v->wide = f[EI_CLASS] == ELFCLASS64;
    unsigned machine = get_le16(f + offsetof(Elf64_Ehdr, e_machine));
    if ((!v->wide && f[EI_CLASS] != ELFCLASS32) || f[EI_DATA] != ELFDATA2LSB ||
        (machine != EM_386 && machine != EM_X86_64))
        return error_set(b->e, EINVAL, "%s: is an ELF file, but not for x86: give an x86 kernel", b->cfg->kernel_name);
    if (v->wide && v->len < sizeof(Elf64_Ehdr))
        return pvh_truncated(b, "its ELF header");
    unsigned size;
    if (v->wide) {
        v->phoff = get_le64(f + offsetof(Elf64_Ehdr, e_phoff));
        v->phnum = get_le16(f + offsetof(Elf64_Ehdr, e_phnum));
        size = get_le16(f + offsetof(Elf64_Ehdr, e_phentsize));
    } else {
        v->phoff = get_le32(f + offsetof(Elf32_Ehdr, e_phoff));
        v->phnum = get_le16(f + offsetof(Elf32_Ehdr, e_phnum));
        size = get_le16(f + offsetof(Elf32_Ehdr, e_phentsize));
    }
    unsigned expected = v->wide ? sizeof(Elf64_Phdr) : sizeof(Elf32_Phdr);
    if (!v->phnum || v->phnum == PN_XNUM || size != expected)
        return error_set(b->e, EINVAL, "%s: is an ELF file without program headers: give a linked kernel",
                         b->cfg->kernel_name);
    if (!pvh_in_file(v, v->phoff, (u64)v->phnum * size))
        return pvh_truncated(b, "its table of program headers");
    return 0;
}

/* Read program header i; the table lies inside the file. */
static struct pvh_segment pvh_segment(const struct pvh *v, unsigned i)
{
    if (v->wide) {
        const u8 *p = v->file + v->phoff + i * sizeof(Elf64_Phdr);
        return (struct pvh_segment){
            .type = get_le32(p + offsetof(Elf64_Phdr, p_type)),
            .offset = get_le64(p + offsetof(Elf64_Phdr, p_offset)),
            .paddr = get_le64(p + offsetof(Elf64_Phdr, p_paddr)),
            .filesz = get_le64(p + offsetof(Elf64_Phdr, p_filesz)),
            .memsz = get_le64(p + offsetof(Elf64_Phdr, p_memsz)),
            .align = get_le64(p + offsetof(Elf64_Phdr, p_align)),
        };
    }
    const u8 *p = v->file + v->phoff + i * sizeof(Elf32_Phdr);
    return (struct pvh_segment){
        .type = get_le32(p + offsetof(Elf32_Phdr, p_type)),
        .offset = get_le32(p + offsetof(Elf32_Phdr, p_offset)),
        .paddr = get_le32(p + offsetof(Elf32_Phdr, p_paddr)),
        .filesz = get_le32(p + offsetof(Elf32_Phdr, p_filesz)),
        .memsz = get_le32(p + offsetof(Elf32_Phdr, p_memsz)),
        .align = get_le32(p + offsetof(Elf32_Phdr, p_align)),
    };
}

/* Look for the entry note among the notes at data[0..len). 1 found, 0 not, -1 damaged. */
static int pvh_scan_notes(const u8 *data, u64 len, u64 align, u64 *entry)
{
    while (len >= sizeof(Elf64_Nhdr)) {
        u64 namesz = get_le32(data), descsz = get_le32(data + 4);
        u32 type = get_le32(data + 8);
        u64 desc_at = (sizeof(Elf64_Nhdr) + namesz + align - 1) & ~(align - 1);
        if (desc_at > len || descsz > len - desc_at)
            return -1;
        if (type == XEN_ELFNOTE_PHYS32_ENTRY && namesz == 4 && !memcmp(data + 12, "Xen", 4)) {
            if (descsz != 4 && descsz != 8)
                return -1;
            *entry = descsz == 8 ? get_le64(data + desc_at) : get_le32(data + desc_at);
            return 1;
        }
        u64 next = desc_at + ((descsz + align - 1) & ~(align - 1));
        if (next >= len)
            break;
        data += next;
        len -= next;
    }
    return 0;
}

static int pvh_find_entry(struct boot *b, struct pvh *v)
{
    u64 left = v->len; /* segments that overlap, 65534 times, would be hours of looking */
    for (unsigned i = 0; i < v->phnum; i++) {
        struct pvh_segment s = pvh_segment(v, i);
        if (s.type != PT_NOTE)
            continue;
        if (!pvh_in_file(v, s.offset, s.filesz))
            return pvh_truncated(b, "a segment of notes");
        if (s.filesz > left)
            return error_set(b->e, EINVAL, "%s: damaged: its segments of notes overlap: fetch it again",
                             b->cfg->kernel_name);
        left -= s.filesz;
        int found = pvh_scan_notes(v->file + s.offset, s.filesz, s.align == 8 ? 8 : 4, &v->entry);
        if (found < 0)
            return error_set(b->e, EINVAL, "%s: damaged: an ELF note is larger than its segment: fetch it again",
                             b->cfg->kernel_name);
        if (found)
            return 0;
    }
    return error_set(b->e, EINVAL, "%s: is an ELF without a PVH note: give a kernel with CONFIG_PVH=y, or a bzImage",
                     b->cfg->kernel_name);
}

/* Check segment `s` against file, memory and boot structures. */
static int pvh_check_segment(struct boot *b, const struct pvh *v, const struct pvh_segment *s, unsigned i)
{
    const char *name = b->cfg->kernel_name;
    if (s->filesz > s->memsz)
        return error_set(b->e, EINVAL, "%s: damaged: segment %u is larger in the file than in memory", name, i);
    if (!pvh_in_file(v, s->offset, s->filesz))
        return error_set(b->e, EINVAL, "%s: truncated: segment %u ends at byte %llu, the file has %llu: fetch it again",
                         name, i, (unsigned long long)(s->offset + s->filesz), (unsigned long long)v->len);
    if (s->paddr + s->memsz < s->paddr)
        return error_set(b->e, EINVAL, "%s: damaged: segment %u wraps around the end of memory", name, i);
    if (!boot_range_free(s->paddr, s->memsz))
        return error_set(b->e, EINVAL,
                         "%s: segment %u at 0x%llx covers memory of the boot structures or the firmware: link it above "
                         "1 MiB",
                         name, i, (unsigned long long)s->paddr);
    if (!mem_at(b->mem, GPA(s->paddr), s->memsz))
        return boot_too_small(b, name, s->paddr + s->memsz);
    return 0;
}

static int pvh_put_segments(struct boot *b, struct pvh *v)
{
    bool entry_loaded = false;
    u64 left = b->mem->size;
    for (unsigned i = 0; i < v->phnum; i++) {
        struct pvh_segment s = pvh_segment(v, i);
        if (s.type != PT_LOAD || !s.memsz)
            continue;
        int rc = pvh_check_segment(b, v, &s, i);
        if (!rc && s.memsz > left)
            rc = error_set(b->e, EINVAL, "%s: damaged: its segments overlap: fetch it again", b->cfg->kernel_name);
        left -= rc ? 0 : s.memsz;
        if (!rc)
            rc = boot_write(b, s.paddr, v->file + s.offset, s.filesz, "a segment");
        if (!rc)
            rc = boot_zero(b, s.paddr + s.filesz, s.memsz - s.filesz, "a segment");
        if (rc)
            return rc;
        if (s.paddr < MEM_LOW_MAX)
            v->end = MAX(v->end, s.paddr + s.memsz);
        entry_loaded |= v->entry >= s.paddr && v->entry - s.paddr < s.memsz;
    }
    if (!entry_loaded || v->entry >= MEM_LOW_MAX)
        return error_set(b->e, EINVAL, "%s: damaged: its PVH entry 0x%llx is in no loaded segment", b->cfg->kernel_name,
                         (unsigned long long)v->entry);
    return 0;
}

static int pvh_put_start_info(struct boot *b)
{
    u8 page[PAGE_SIZE] = {0};
    struct boot_range map[BOOT_MAP_MAX];
    unsigned n = boot_memory_map(b->mem, map);
    bool module = b->res->initrd_len;

    put_le32(page, START_INFO_MAGIC);
    put_le32(page + 4, 1); /* version */
    put_le32(page + 12, module);
    put_le64(page + 16, module ? BOOT_PARAMS + START_INFO_MODLIST : 0);
    put_le64(page + 24, BOOT_CMDLINE);
    put_le64(page + 32, b->res->rsdp);
    put_le64(page + 40, BOOT_PARAMS + START_INFO_MEMMAP);
    put_le32(page + 48, n);
    put_le64(page + START_INFO_MODLIST, b->res->initrd_at);
    put_le64(page + START_INFO_MODLIST + 8, b->res->initrd_len);
    for (unsigned i = 0; i < n; i++) {
        u8 *entry = page + START_INFO_MEMMAP + i * 24;
        put_le64(entry, map[i].start);
        put_le64(entry + 8, map[i].len);
        put_le32(entry + 16, map[i].type);
    }
    return boot_write(b, BOOT_PARAMS, page, sizeof(page), "its start info");
}

int pvh_load(struct boot *b)
{
    struct pvh v = {0};
    int rc = pvh_parse_header(b, &v);
    if (!rc)
        rc = pvh_find_entry(b, &v);
    if (!rc)
        rc = pvh_put_segments(b, &v);
    if (!rc)
        rc = boot_put_initrd(b, UINT32_MAX, MAX(v.end, (u64)BOOT_HIGH_START), false);
    if (!rc)
        rc = boot_put_cmdline(b, BOOT_CMDLINE_ROOM - 1);
    if (!rc)
        rc = pvh_put_start_info(b);
    if (!rc)
        rc = boot_put_segments(b, BOOT_CODE32);
    if (rc)
        return rc;

    struct cpu *c = b->cpu;
    c->cr0 = CR0_PE | CR0_ET;
    c->cr3 = 0;
    c->cr4 = 0;
    c->efer = 0;
    cpu_set_rflags(c, FL_ONE);
    c->rip = v.entry;
    c->gpr[RBX] = BOOT_PARAMS;
    b->res->protocol = "PVH";
    b->res->entry = v.entry;
    return 0;
}
