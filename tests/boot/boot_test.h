/*
 * A small machine to load kernels into, and builders of the smallest files that the loaders take.
 */
#ifndef TRAPEZE_TESTS_BOOT_TEST_H
#define TRAPEZE_TESTS_BOOT_TEST_H

#include "base/bytes.h"
#include "boot/boot.h"

#include <elf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <cmocka.h>

#define MIB            0x100000ull
#define TEST_LOAD      (2 * MIB) /* where the synthetic kernels go */
#define TEST_INIT_SIZE (1 * MIB)

struct fixture {
    struct guest_mem mem;
    void *ram;
    struct cpu cpu;
    struct boot_config cfg;
    struct boot_result res;
    struct error err;
};

void fixture_make(struct fixture *f, u64 ram_size);
void fixture_free(struct fixture *f);

/*
 * Load with the kernel (and initrd, unless NULL) copied to blocks of exactly their length, so that a sanitizer sees each
 * byte read beyond them. On failure checks that the message is one line and names `culprit` first.
 */
int fixture_load(struct fixture *f, const u8 *kernel, size_t len, const u8 *initrd, size_t initrd_len,
                 const char *culprit);

u16 fixture_get16(struct fixture *f, u64 at);
u32 fixture_get32(struct fixture *f, u64 at);
u64 fixture_get64(struct fixture *f, u64 at);

#define BZ_LEN 0x1400u /* two sectors of setup after the boot sector, then 0xe00 bytes that count up */
void make_bzimage(u8 out[BZ_LEN]);

#define PVH_LEN 0x400u /* header, three program headers, a note at 0x180, code at 0x200 */
void make_pvh64(u8 out[PVH_LEN]);
void make_pvh32(u8 out[PVH_LEN]);

/* A newc archive of one file "init" with `size` bytes, and its trailer; returns its length. */
size_t make_cpio(u8 *out, unsigned size);

/* xorshift64*: the same numbers everywhere. */
u64 test_random(u64 *state);

#endif
