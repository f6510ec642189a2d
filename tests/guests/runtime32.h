/*
 * The runtime of guests that stay in 32-bit protected mode, or come from there: the counterpart of guest.h. A test is a piece
 * of code, a state to start it in, and what must happen next (start32.S).
 */
#ifndef GUESTS_RUNTIME32_H
#define GUESTS_RUNTIME32_H

#include <stddef.h>
#include "output.h"
#include "segments.h"

struct state32 {
    u32 eax, ebx, ecx, edx, esi, edi, ebp, eip, cs, eflags, esp, ss, ds, es, fs, gs;
    u32 vector, has_error, error, frame, h_cs, h_ss;
    u32 h_null; /* out of virtual-8086 mode: the data segments that the handler found, together; they should be null */
};
_Static_assert(offsetof(struct state32, h_null) == S32_H_NULL, "segments.h");
_Static_assert(offsetof(struct state32, gs) == S32_GS, "segments.h");

#define CODE(name, text)                                                                                            \
    asm(".pushsection .guest, \"ax\", @progbits\n.balign 16\n.globl " #name "\n" #name ":\n" text "\n.globl " #name \
        "_end\n" #name "_end:\n.popsection");                                                                       \
    extern u8 name[], name##_end[]
/* The same of 16-bit code. */
#define CODE16(name, text)                                                                                 \
    asm(".pushsection .guest, \"ax\", @progbits\n.balign 16\n.code16\n.globl " #name "\n" #name ":\n" text \
        "\n.globl " #name "_end\n" #name "_end:\n.code32\n.popsection");                                   \
    extern u8 name[], name##_end[]
#define END "int $0x80\n"

enum {
    DE = 0,
    DB = 1,
    BP = 3,
    OF = 4,
    BR = 5,
    UD = 6,
    NM = 7,
    DF = 8,
    TS = 10,
    NP = 11,
    SS = 12,
    GP = 13,
    PF = 14,
    END_VECTOR = 0x80
};
#define NO_ERROR (-1L)

#define FL_CF    1u
#define FL_ZF    0x40u
#define FL_TF    0x100u
#define FL_IF    0x200u
#define FL_DF    0x400u
#define FL_IOPL  0x3000u
#define FL_NT    0x4000u
#define FL_RF    0x10000u
#define FL_VM    0x20000u
#define FL_AC    0x40000u
#define FL_VIF   0x80000u
#define FL_VIP   0x100000u

struct tss32 {
    u32 link, esp0, ss0, esp1, ss1, esp2, ss2, cr3, eip, eflags, eax, ecx, edx, ebx, esp, ebp, esi, edi, es, cs, ss, ds,
        fs, gs, ldt;
    u16 trap, io_map;
};
_Static_assert(sizeof(struct tss32) == 104, "SDM vol. 3, figure 7-2");

extern u64 gdt[S_SLOTS];
extern u8 stub_table[], run_iret[];
void run(struct state32 *s);
_Noreturn void unexpected(u32 vector, const u32 *frame);
void *memset(void *p, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);

#define STACK_SIZE 4096u
extern u8 stacks[4][STACK_SIZE], event_stacks[3][STACK_SIZE];
extern u64 idt[256];
extern struct tss32 tss;
#define TOP(stack) ((u32)(stack) + STACK_SIZE)

u64 descriptor(u32 base, u32 limit, unsigned access, unsigned flags);
u64 gate(u32 offset, unsigned selector, unsigned access, unsigned count);
/* The entry of the IDT that leads back to run(). */
void default_gate(unsigned vector);
/* IDT, TSS, task register. */
void load_tables(void);

/* A state in ring r, with that ring's segments and stack. */
struct state32 ring(unsigned r, const void *code);
/* What came: vector, error code (or NO_ERROR), EIP. */
void expect(const char *name, const struct state32 *s, u32 vector, long error, const void *eip);
/* Vector and error code as one number. */
u32 outcome(const struct state32 *s);

/* Memory below 64 KiB: through a pointer that the compiler does not take for null. */
static inline void *low(u32 address)
{
    void *p;

    asm("" : "=r"(p) : "0"(address));
    return p;
}

#define GET_CR(n)                                            \
    static inline u32 get_cr##n(void)                        \
    {                                                        \
        u32 v;                                               \
        asm volatile("mov %%cr" #n ", %0" : "=r"(v));        \
        return v;                                            \
    }                                                        \
    static inline void set_cr##n(u32 v)                      \
    {                                                        \
        asm volatile("mov %0, %%cr" #n ::"r"(v) : "memory"); \
    }
GET_CR(0)
GET_CR(2)
GET_CR(3)
GET_CR(4)

static inline u64 get_msr(u32 index)
{
    u32 low, high;

    asm volatile("rdmsr" : "=a"(low), "=d"(high) : "c"(index));
    return low | (u64)high << 32;
}
static inline void set_msr(u32 index, u64 v)
{
    asm volatile("wrmsr" ::"c"(index), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

#endif
