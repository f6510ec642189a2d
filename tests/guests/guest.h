/*
 * The runtime of the small guests: freestanding programs, one topic each, that test the processor they run on.
 *
 * A test is a piece of code, a state to start it in, and what must happen next:
 *
 *     CODE(divide, "div %cl\n" END);
 *     struct state s = ring(3, divide);       // ring 3, RCX = 0
 *     run(&s);                                // until the next event, whatever it is
 *     expect("#DE, ring 3", &s, 0, NO_ERROR, divide);
 *
 * run() returns with the interrupted state in s, and with what the handler saw: vector, error code, frame, its own
 * registers. END is INT 80h: it ends code that nothing else has ended. All of low memory is mapped one to one, writable
 * and open to user mode, until a guest changes that. The guest prints "ok NAME" or "BAD NAME got=.. want=.." for each
 * check and "done N ok M bad"; then it powers off, or leaves by the debug exit port when something was bad.
 *
 * What must happen is what the Intel SDM says, or AMD's manual where `cpu_amd` says so.
 */
#ifndef GUESTS_GUEST_H
#define GUESTS_GUEST_H

#include <stddef.h>
#include "output.h"
#include "state.h"

struct state {
    u64 rax, rbx, rcx, rdx, rsi, rdi, rbp, r8, r9, r10, r11, r12, r13, r14, r15;
    u64 rip, cs, rflags, rsp, ss;
    u64 ds, es, fs, gs; /* fs, gs: KEEP leaves the register alone */

    /* the event */
    u64 vector, has_error, error;
    u64 frame;                /* address of the saved RIP */
    u64 h_rflags, h_cs, h_ss; /* as the handler began */
    u64 cr2, dr6;
};

#define KEEP     (~(u64)0)
#define NO_ERROR (-1L)

_Static_assert(offsetof(struct state, r15) == ST_R15, "state.h");
_Static_assert(offsetof(struct state, ss) == ST_SS, "state.h");
_Static_assert(offsetof(struct state, gs) == ST_GS, "state.h");
_Static_assert(offsetof(struct state, dr6) == ST_DR6, "state.h");

#define CODE(name, text)                                                                                            \
    asm(".pushsection .guest, \"ax\", @progbits\n.balign 16\n.globl " #name "\n" #name ":\n" text "\n.globl " #name \
        "_end\n" #name "_end:\n.popsection");                                                                       \
    extern u8 name[], name##_end[]
#define END "int $0x80\n"

/* Exceptions. */
enum {
    DE = 0,
    DB = 1,
    NMI = 2,
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
    MF = 16,
    AC = 17,
    XM = 19,
};

#define FL_CF              0x1u
#define FL_ONE             0x2u
#define FL_ZF              0x40u
#define FL_TF              0x100u
#define FL_IF              0x200u
#define FL_DF              0x400u
#define FL_OF              0x800u
#define FL_IOPL            0x3000u
#define FL_NT              0x4000u
#define FL_RF              0x10000u
#define FL_AC              0x40000u
#define FL_VM              0x20000u
#define FL_VIF             0x80000u
#define FL_VIP             0x100000u
#define FL_ID              0x200000u

#define CR0_MP             0x2u
#define CR0_EM             0x4u
#define CR0_TS             0x8u
#define CR0_NE             0x20u
#define CR0_WP             0x10000u
#define CR0_AM             0x40000u

#define CR4_TSD            0x4u
#define CR4_DE             0x8u
#define CR4_PGE            0x80u
#define CR4_UMIP           0x800u
#define CR4_FSGSBASE       0x10000u
#define CR4_PCIDE          0x20000u
#define CR4_OSXSAVE        0x40000u
#define CR4_SMEP           0x100000u
#define CR4_SMAP           0x200000u

#define MSR_TSC            0x10u
#define MSR_APIC_BASE      0x1bu
#define MSR_SYSENTER_CS    0x174u
#define MSR_SYSENTER_ESP   0x175u
#define MSR_SYSENTER_EIP   0x176u
#define MSR_EFER           0xc0000080u
#define MSR_STAR           0xc0000081u
#define MSR_LSTAR          0xc0000082u
#define MSR_CSTAR          0xc0000083u
#define MSR_FMASK          0xc0000084u
#define MSR_FS_BASE        0xc0000100u
#define MSR_GS_BASE        0xc0000101u
#define MSR_KERNEL_GS_BASE 0xc0000102u
#define MSR_TSC_AUX        0xc0000103u

#define PTE_P              0x1ull
#define PTE_RW             0x2ull
#define PTE_US             0x4ull
#define PTE_PWT            0x8ull
#define PTE_A              0x20ull
#define PTE_D              0x40ull
#define PTE_PS             0x80ull
#define PTE_G              0x100ull
#define PTE_NX             (1ull << 63)

struct tss {
    u32 reserved0;
    u64 rsp[3], reserved1, ist[7], reserved2;
    u16 reserved3, iomap;
    u8 bitmap[8192 + 1];
} __attribute__((packed));

extern u64 gdt[GDT_SLOTS], boot_pml4[512], boot_pdpt[512], boot_pd[512];
extern u64 idt[512];
extern struct tss tss;
extern u8 stub_table[], run_iret[];
extern bool cpu_amd, under_qemu; /* the vendor; whether QEMU runs this guest, as a second opinion */

#define STACK_SIZE 8192
extern u8 stacks[4][STACK_SIZE];        /* of code under test, a ring each */
extern u8 event_stacks[10][STACK_SIZE]; /* TSS: RSP0-2 are [0-2], IST1-7 [3-9] */

#define STACK_TOP(stack) ((u64)(stack) + STACK_SIZE)

int main(void);
void runtime_start(void);
_Noreturn void unexpected(u64 vector, const u64 *frame);

/* A state at `code` in 64-bit mode, stack and data segments of that ring, registers zero. */
struct state ring(unsigned r, const void *code);
/* The same in compatibility mode, ring 0 or 3. */
struct state compat(unsigned r, const void *code);
void run(struct state *s);

/* The event must have this vector, error code (NO_ERROR: none pushed) and saved RIP. */
bool expect(const char *name, const struct state *s, u64 vector, long error, const void *rip);
void set_gate(unsigned vector, u64 handler, unsigned selector, unsigned type_dpl_p, unsigned ist);
void default_gate(unsigned vector);
/* A code or data descriptor: access byte (P, DPL, S, type), flags nibble (G, D, L, AVL). */
u64 descriptor(u32 base, u32 limit, unsigned access, unsigned flags);
void invlpg(const void *p);
void flush_tlb(void);

static inline u64 rdmsr(u32 n)
{
    u32 lo, hi;
    asm volatile("rdmsr" : "=a"(lo), "=d"(hi) : "c"(n) : "memory");
    return (u64)hi << 32 | lo;
}

static inline void wrmsr(u32 n, u64 v)
{
    asm volatile("wrmsr" ::"c"(n), "a"((u32)v), "d"((u32)(v >> 32)) : "memory");
}

#define REGISTER_ACCESS(name)                                    \
    static inline u64 read_##name(void)                          \
    {                                                            \
        u64 v;                                                   \
        asm volatile("mov %%" #name ", %0" : "=r"(v)::"memory"); \
        return v;                                                \
    }                                                            \
    static inline void write_##name(u64 v)                       \
    {                                                            \
        asm volatile("mov %0, %%" #name ::"r"(v) : "memory");    \
    }
REGISTER_ACCESS(cr0)
REGISTER_ACCESS(cr2)
REGISTER_ACCESS(cr3)
REGISTER_ACCESS(cr4)
REGISTER_ACCESS(cr8)
REGISTER_ACCESS(dr0)
REGISTER_ACCESS(dr1)
REGISTER_ACCESS(dr2)
REGISTER_ACCESS(dr3)
REGISTER_ACCESS(dr6)
REGISTER_ACCESS(dr7)
#undef REGISTER_ACCESS

static inline void cpuid(u32 leaf, u32 sub, u32 r[4])
{
    asm volatile("cpuid" : "=a"(r[0]), "=b"(r[1]), "=c"(r[2]), "=d"(r[3]) : "a"(leaf), "c"(sub));
}

#endif
