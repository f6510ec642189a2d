/*
 * Boot: puts a kernel, its initrd, its command line and the firmware tables into guest memory and sets the CPU at the
 * entry point. Runs in the keeper before the guest exists; every byte of the files is distrusted.
 */
#ifndef TRAPEZE_BOOT_H
#define TRAPEZE_BOOT_H

#include "base/error.h"
#include "machine/cpu/cpu.h"
#include "machine/mem/mem.h"

struct boot_config {
    /* Whole files in memory (mapped or read by the caller), with the names used in messages. */
    const u8 *kernel;
    size_t kernel_len;
    const char *kernel_name;
    const u8 *initrd; /* NULL without one */
    size_t initrd_len;
    const char *initrd_name;
    const char *cmdline; /* "" for none */
    unsigned n_cpus;
    bool virtio_mmio; /* the machine has windows of virtio devices (machine/platform.h) */
};

/* What the loader did, for `inspect` and the status line. */
struct boot_result {
    const char *protocol; /* "bzImage 64-bit entry", "PVH" */
    u64 entry;
    u64 initrd_at, initrd_len;
    u64 rsdp;
};

/*
 * Load everything and set `cpu` (already reset) to the entry state of the protocol found: bzImage enters in 64-bit mode
 * with an identity map (Documentation/x86/boot.rst, "64-bit boot protocol"), PVH in 32-bit protected mode with paging off
 * (xen/include/public/arch-x86/hvm/start_info.h). Reports nothing implemented as done: an ELF without PVH note, a
 * bzImage without a 64-bit entry, a compressed or truncated file are errors that name the file, the cause and what to do.
 * 0, -EINVAL (the file), -ENOMEM (does not fit into guest memory).
 */
int boot_load(struct guest_mem *m, const struct boot_config *cfg, struct cpu *cpu, struct boot_result *res,
              struct error *e);

/*
 * ACPI tables for this machine (RSDP, XSDT, FADT, MADT, DSDT with S5 and the power button, FACS): written at `at` and
 * above, all inside `room` bytes; the guest-physical address of the RSDP in *rsdp. `virtio_mmio`: as in struct boot_config.
 */
int acpi_build(struct guest_mem *m, gpa_t at, u64 room, unsigned n_cpus, bool virtio_mmio, u64 *rsdp, struct error *e);

#endif
