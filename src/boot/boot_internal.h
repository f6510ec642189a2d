/*
 * What the loaders share: the layout of low memory at the entry of a kernel, the memory map, the CPU's segments.
 *
 *   0x01000  GDT, and an empty TSS behind it
 *   0x02000  boot_params ("zero page") or hvm_start_info with its lists
 *   0x03000  command line
 *   0x06000  identity page tables of the first 4 GiB: PML4, PDPT, four page directories of 2 MiB pages
 *   0x0c000  free
 *   0x9fc00  end of the RAM that the guest is told of below 1 MiB
 *   0xe0000  ACPI tables (machine/platform.h)
 *   1 MiB    kernel; the initrd ends where usable low RAM ends
 */
#ifndef TRAPEZE_BOOT_INTERNAL_H
#define TRAPEZE_BOOT_INTERNAL_H

#include "boot/boot.h"

#define BOOT_GDT          0x1000u
#define BOOT_TSS          0x1080u
#define BOOT_PARAMS       0x2000u
#define BOOT_CMDLINE      0x3000u
#define BOOT_CMDLINE_ROOM 0x3000u /* the terminating zero included */
#define BOOT_PAGE_TABLES  0x6000u
#define BOOT_LOW_START    0x1000u
#define BOOT_LOW_END      0xc000u
#define BOOT_LOW_RAM_END  0x9fc00u
#define BOOT_HIGH_START   0x100000u

/* Selectors that Documentation/x86/boot.rst wants (__BOOT_CS, __BOOT_DS), and one for the TSS */
#define BOOT_CS 0x10u
#define BOOT_DS 0x18u
#define BOOT_TR 0x20u

/* Types of the memory map, the same numbers in e820 and in hvm_memmap_table_entry */
#define BOOT_RAM      1u
#define BOOT_RESERVED 2u

#define BOOT_MAP_MAX  4u

struct boot_range {
    u64 start, len;
    u32 type;
};

/* One load in progress. */
struct boot {
    struct guest_mem *mem;
    const struct boot_config *cfg;
    struct cpu *cpu;
    struct boot_result *res;
    struct error *e;
};

/* True when [start, start+len) is nothing the loaders or the firmware tables occupy. No wrap: checked by the caller. */
bool boot_range_free(u64 start, u64 len);

/* The memory map that the guest is told; returns the number of ranges. */
unsigned boot_memory_map(const struct guest_mem *m, struct boot_range map[BOOT_MAP_MAX]);

/* mem_write with an error that names the kernel. */
int boot_write(struct boot *b, u64 at, const void *data, u64 len, const char *what);

/* Zero guest memory. 0 or -EFAULT. */
int boot_zero(struct boot *b, u64 at, u64 len, const char *what);

/* -ENOMEM: "KERNEL: needs N MiB of memory, the machine has M MiB: use --memory". `end` is the first byte not needed. */
int boot_too_small(struct boot *b, const char *what, u64 end);

/* Put the command line at BOOT_CMDLINE; `max` is the most the kernel takes, its terminating zero not counted. */
int boot_put_cmdline(struct boot *b, u64 max);

/*
 * Put the initrd as high as low RAM and `addr_max` (the last address it may occupy) allow, page aligned, above
 * `kernel_end`. Fills res->initrd_*; does nothing when there is none. `linux_only`: refuse what no Linux kernel takes.
 */
int boot_put_initrd(struct boot *b, u64 addr_max, u64 kernel_end, bool linux_only);

/* Write the GDT with a code segment of `code` (a descriptor), and load CS, data segments and TR from it. */
int boot_put_segments(struct boot *b, u64 code);
#define BOOT_CODE64 0x00af9b000000ffffull
#define BOOT_CODE32 0x00cf9b000000ffffull
#define BOOT_DATA   0x00cf93000000ffffull

/* Does this look like a bzImage, an ELF file? And load it (load.c has already put the ACPI tables). */
bool bzimage_probe(const u8 *file, size_t len);
int bzimage_load(struct boot *b);
bool pvh_probe(const u8 *file, size_t len);
int pvh_load(struct boot *b);

/* "gzip", ... when the file starts with the magic of a compression format, else NULL. */
const char *boot_compression(const u8 *file, size_t len);

/*
 * Refuse what no Linux kernel unpacks as an initrd: neither cpio archive nor compressed nor file system, or an
 * uncompressed cpio archive that is cut short. 0 or -EINVAL.
 */
int initrd_check(const u8 *file, size_t len, const char *name, struct error *e);

#endif
