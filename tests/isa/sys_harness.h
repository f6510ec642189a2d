/*
 * A bare machine for tests of isa/: two megabytes of memory without paging, and struct isa_ops that remember what was
 * asked of them.
 *
 *   1000 GDT   2000 LDT   3000 IDT   5000 TSS   10000-5ffff stacks   80000 code   90000 data
 *
 * The n-th access can be made to fault (`fail_at`), so that a test can walk through every fault that an instruction can
 * meet and compare the CPU before and after.
 */
#ifndef TRAPEZE_TESTS_ISA_SYS_HARNESS_H
#define TRAPEZE_TESTS_ISA_SYS_HARNESS_H

#include "isa/isa.h"
#include "isa/isa_internal.h"
#include "machine/cpu/cpuid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdio.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define MEM_SIZE 0x200000u
#define GDT      0x1000u
#define LDT      0x2000u
#define IDT      0x3000u
#define TSS      0x5000u
#define CODE     0x80000u
#define DATA     0x90000u
#define STACK(n) (0x20000u + 0x10000u * (n)) /* top of ring n's stack */
#define IST(n)   (0x60000u + 0x1000u * (n))  /* top of interrupt stack n */

/* Selectors of the tables that harness_init makes; add the RPL. */
#define S_CODE(ring)   (0x08 + 0x40 * (ring)) /* code of the machine's width: 64-bit in long mode */
#define S_DATA(ring)   (0x10 + 0x40 * (ring))
#define S_CODE32(ring) (0x18 + 0x40 * (ring)) /* 32-bit code */
#define S_CONF(ring)   (0x20 + 0x40 * (ring)) /* conforming code of the machine's width */
#define S_RDONLY(ring) (0x28 + 0x40 * (ring))
#define S_DOWN(ring)   (0x30 + 0x40 * (ring)) /* expand-down data above 0fff */
#define S_CODE16(ring) (0x38 + 0x40 * (ring))
#define S_TEST         0x108 /* where tests put a descriptor of their own (16 bytes) */
#define S_TEST2        0x118
#define S_TSS          0x128
#define S_LDT          0x138
#define GDT_LIMIT      0x147

/* Access byte and flags of descriptors */
#define A_CODE(dpl) (0x9b | (dpl) << 5)
#define A_DATA(dpl) (0x93 | (dpl) << 5)
#define F_L         0x2
#define F_D         0x4
#define F_G         0x8

struct harness {
    struct isa isa;
    struct cpu cpu;
    struct cpu_model model;
    u8 *mem;
    bool lm; /* long mode, else 32-bit protected mode */

    unsigned accesses; /* memory operations so far */
    int fail_at;       /* the access with this number faults; -1: none */
    bool fail_pf;      /* ... with a page fault, else #GP(0) */
    u64 absent;        /* the page at this address is not there; ~0: all are */
    u8 acc_of_write;   /* enum isa_access of the last write */

    u16 io_port; /* of the last port access */
    u8 io_size, io_write;
    u32 io_value; /* last written, or to be read */
    unsigned io_count;
    u32 msr_index;
    u64 msr_value;
    u64 tsc, cr8;
    unsigned n_flush, n_mode;
    enum isa_flush flush_kind;
    u64 flush_va;
    u16 flush_pcid;
};

void harness_init(struct harness *h, bool lm, bool amd);
void harness_free(struct harness *h);

/* Put the CPU into ring `cpl`, with code, data and stack of that ring. */
void harness_ring(struct harness *h, unsigned cpl);
/* 32-bit (compatibility) code of ring `cpl`, on a 32-bit stack. */
void harness_ring32(struct harness *h, unsigned cpl);

/* Descriptors, gates */
void put_desc(struct harness *h, u32 at, u32 base, u32 limit, u8 access, u8 flags);
void put_system(struct harness *h, u32 at, u64 base, u32 limit, u8 access);
void put_call_gate(struct harness *h, u32 at, u16 sel, u64 off, u8 access, u8 params);
/* A gate of the IDT in the machine's width; access holds P, DPL, type. */
void put_gate(struct harness *h, u8 vector, u16 sel, u64 off, u8 access, u8 ist);

u64 mem_get(struct harness *h, u64 at, unsigned size);
void mem_put(struct harness *h, u64 at, unsigned size, u64 v);

/* Write the bytes (hexadecimal, blanks allowed) at CS:RIP and execute them once; `len` of them as an instruction. */
int run(struct harness *h, const char *hex);

/* Check the fault that the last CPU_FAULT left; error -1: without one. */
#define assert_fault(h, v, err)                                 \
    do {                                                        \
        assert_int_equal((h)->cpu.fault.vector, (v));           \
        assert_int_equal((h)->cpu.fault.has_error, (err) >= 0); \
        if ((err) >= 0)                                         \
            assert_int_equal((h)->cpu.fault.error, (err));      \
    } while (0)
#define assert_run_fault(h, hex, v, err)          \
    do {                                          \
        assert_int_equal(run(h, hex), CPU_FAULT); \
        assert_fault(h, v, err);                  \
    } while (0)
#define assert_run_ok(h, hex) assert_int_equal(run(h, hex), CPU_OK)

/*
 * Run `hex` again and again from the same state, each time with another access failing, until none is left: every failure
 * must leave the CPU as it was. Then the CPU is as after the successful run. Returns the number of accesses.
 */
unsigned run_with_every_fault(struct harness *h, const char *hex);

#endif
