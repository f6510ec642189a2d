/*
 * The C side of low.S: real mode from a guest in protected mode.
 */
#ifndef GUESTS_REAL_H
#define GUESTS_REAL_H

#include "low.h"
#include "runtime32.h"

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

extern u8 low_begin[], low_end[], low_stubs[];
void run16(struct state16 *s);

#endif
