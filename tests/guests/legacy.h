/*
 * What 32-bit guests share that go to other modes: tables of the C side of start32.S and low.S.
 */
#ifndef GUESTS_LEGACY_H
#define GUESTS_LEGACY_H

#include <stddef.h>
#include "low.h"
#include "output.h"
#include "segments.h"

struct state16 {
    u32 eax, ebx, ecx, edx, esi, edi, ebp, esp, ss, eip, cs, eflags, ds, es, fs, gs;
    u32 before[5]; /* ds, es, ss, fs, gs in protected mode */
    struct {
        u16 limit;
        u32 base;
        u16 unused;
    } __attribute__((packed)) idtr;
    u32 vector, h_flags;
};
_Static_assert(offsetof(struct state16, gs) == S16_GS, "low.h");
_Static_assert(offsetof(struct state16, idtr) == S16_IDTR, "low.h");
_Static_assert(offsetof(struct state16, h_flags) == S16_HFLAGS, "low.h");
_Static_assert(sizeof(struct state16) == S16_SIZE, "low.h");

extern u64 gdt[S_SLOTS];
extern u8 low_begin[], low_end[], low_stubs[];
void run16(struct state16 *s);

/* A piece of 16-bit code; it ends with INT 80h. */
#define CODE16(name, text)                                                                                 \
    asm(".pushsection .guest, \"ax\", @progbits\n.balign 16\n.code16\n.globl " #name "\n" #name ":\n" text \
        "\n.globl " #name "_end\n" #name "_end:\n.code32\n.popsection");                                   \
    extern u8 name[], name##_end[]
#define END        "int $0x80\n"
#define END_VECTOR 0x80

enum { DE = 0, DB = 1, BP = 3, OF = 4, BR = 5, UD = 6, DF = 8, TS = 10, NP = 11, SS = 12, GP = 13, PF = 14 };

#define FL_CF 1u
#define FL_ZF 0x40u
#define FL_TF 0x100u
#define FL_IF 0x200u
#define FL_DF 0x400u
#define FL_NT 0x4000u
#define FL_AC 0x40000u

static inline u64 descriptor(u32 base, u32 limit, unsigned access, unsigned flags)
{
    return (u64)(base >> 24) << 56 | (u64)flags << 52 | (u64)(limit >> 16 & 15) << 48 | (u64)access << 40 |
           (u64)(base & 0xffffff) << 16 | (limit & 0xffff);
}

static inline u64 gate(u32 offset, unsigned selector, unsigned access, unsigned count)
{
    return (u64)(offset >> 16) << 48 | (u64)access << 40 | (u64)count << 32 | (u64)selector << 16 | (offset & 0xffff);
}

/* Memory below 64 KiB: through a pointer that the compiler does not take for null. */
static inline void *low(u32 address)
{
    void *p;

    asm("" : "=r"(p) : "0"(address));
    return p;
}

#endif
