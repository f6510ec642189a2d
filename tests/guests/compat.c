/*
 * Programs of 32 bits in ring 3 (and a little of ring 0) under a 64-bit system, each hot enough to be translated: loops,
 * calls, addresses and stacks that wrap around at 4 GiB, segments with bases and limits, code that changes itself, and
 * the way between 64-bit and 32-bit code of one address space. Source: SDM vol. 1, 3.3.7, 3.4 and 6.2; vol. 3, 5.3.
 */
#include "guest.h"

#define GIB4      0x100000000ull
#define AREA      0x2000000ull /* 32 MiB up: frames for what is mapped elsewhere */
#define LAST      0xfffff000u  /* the last page of 32-bit addresses */
#define TIMES     200

#define C32(text) ".code32\n" text "\n.code64\n" END

static u8 *const last_frame = (u8 *)AREA, *const beyond_frame = (u8 *)AREA + 0x1000,
                 *const negative_frame = (u8 *)AREA + 0x2000, *const code_frame = (u8 *)AREA + 0x3000;

/* What 32-bit code names by absolute addresses. */
u32 word32, table32[64];

static struct state go(struct state s)
{
    run(&s);
    return s;
}

static u32 eax_of(const char *name, struct state s)
{
    s = go(s);
    return s.vector == END_VECTOR ? (u32)s.rax : (check(name, s.vector, END_VECTOR), ~0u);
}

static void gives(const char *name, const void *code, u32 want)
{
    check(name, eax_of(name, compat(3, code)), want);
}

/* --- what has other bytes in 64-bit code --- */

CODE(one_byte, C32("mov $1000, %ecx\n xor %eax, %eax\n xor %edi, %edi\n"
                   "1: inc %eax\n inc %eax\n inc %ebx\n dec %edx\n dec %esi\n inc %ebp\n inc %edi\n dec %ecx\n jnz 1b\n"
                   "add %ebx, %eax\n add %edx, %eax\n add %esi, %eax\n add %ebp, %eax\n add %edi, %eax"));
CODE(keeps_carry, C32("mov $1000, %ecx\n xor %eax, %eax\n"
                      "1: stc\n inc %ebx\n adc $0, %eax\n clc\n dec %ebx\n adc $0, %eax\n loop 1b"));
CODE(half_words, C32("mov $0x1ffff, %ebx\n mov $300, %ecx\n xor %eax, %eax\n"
                     "1: .byte 0x66, 0x43\n .byte 0x66, 0x4b\n .byte 0x66, 0x43\n add %ebx, %eax\n dec %ecx\n jnz 1b"));
CODE(absolute, C32("movl $0, word32\n mov $1000, %ecx\n"
                   "1: mov word32, %eax\n add $3, %eax\n mov %eax, word32\n mov word32+1, %al\n mov %al, word32+3\n"
                   "movb $0, word32+3\n movw word32+2, %ax\n loop 1b\n mov word32, %eax"));
CODE(group_82, C32("mov $1000, %ecx\n xor %eax, %eax\n 1: .byte 0x82, 0xc0, 0x05\n adc $0, %ah\n dec %ecx\n jnz 1b"));
CODE(rare,
     C32("mov $100, %ecx\n xor %esi, %esi\n"
         "1: mov $0x39, %al\n add $0x48, %al\n daa\n movzx %al, %edx\n add %edx, %esi\n pusha\n popa\n"
         "mov $0x0f07, %ax\n aad\n movzx %al, %edx\n add %edx, %esi\n bound %ecx, bounds\n push %ds\n pop %es\n"
         "les pointer, %ebx\n add %ebx, %esi\n into\n mov $2, %ax\n mov $3, %dx\n arpl %dx, %ax\n movzx %ax, %edx\n"
         "add %edx, %esi\n pushf\n popf\n dec %ecx\n jnz 1b\n mov %esi, %eax"));
asm(".data\n bounds: .long 0, 100\n pointer: .long 7\n .word 0x2b\n .text");

static void other_bytes(void)
{
    gives("INC and DEC of every register", one_byte, 2000 + 1000 - 1000 - 1000 + 1000 + 1000);
    gives("INC and DEC leave CF", keeps_carry, 1000);
    gives("INC and DEC of 16 bits", half_words, 0x10000 * 300 + 300 * 301 / 2 - 300);
    gives("moves to and from absolute addresses", absolute, 3000);
    gives("the opcode 82", group_82, 5000 & 0xffff);
    gives("what the host has no instruction for", rare, 100 * (0x87 + 157 + 7 + 3));
}

/* --- calls, stack, loops --- */

CODE(fibonacci, C32("push $15\n call fib32\n add $4, %esp"));
CODE(fib32,
     ".code32\n push %ebp\n mov %esp, %ebp\n push %ebx\n sub $16, %esp\n mov 8(%ebp), %ebx\n mov %ebx, -8(%ebp)\n"
     "mov $1, %eax\n cmp $2, %ebx\n jb 1f\n dec %ebx\n push %ebx\n call fib32\n pop %ecx\n mov %eax, -12(%ebp)\n"
     "dec %ebx\n mov %ebx, (%esp)\n pushl (%esp)\n mov $fib32, %eax\n call *%eax\n add $4, %esp\n"
     "add -12(%ebp), %eax\n 1: add $16, %esp\n pop %ebx\n leave\n ret\n .code64\n");
CODE(through_memory, C32("movl $callee32, word32\n movl $1f, table32\n mov $500, %ecx\n xor %eax, %eax\n"
                         "3: push $5\n push $2\n call *word32\n jmp *table32\n 2: ud2\n 1: dec %ecx\n jnz 3b"));
CODE(callee32, ".code32\n add 4(%esp), %eax\n add 8(%esp), %eax\n ret $8\n .code64\n");
CODE(frames, C32("mov %esp, %esi\n mov $500, %ecx\n xor %eax, %eax\n"
                 "1: enter $16, $0\n mov %ecx, -4(%ebp)\n push %esp\n pop %edx\n cmp %edx, %esp\n jne 2f\n"
                 "add -4(%ebp), %eax\n pushw $7\n popw %dx\n add %dx, %ax\n leave\n loop 1b\n cmp %esi, %esp\n je 3f\n"
                 "2: ud2\n 3:"));
CODE(loops,
     C32("xor %eax, %eax\n mov $300, %ecx\n 1: push %ecx\n mov $4, %ecx\n 2: inc %eax\n loop 2b\n jecxz 3f\n ud2\n"
         "3: pop %ecx\n cmp $150, %ecx\n loopne 1b\n add %ecx, %eax\n mov $0x10003, %ecx\n"
         "4: inc %eax\n .byte 0x67\n loop 4b\n shr $16, %ecx\n add %ecx, %eax"));
CODE(popped_sp,
     C32("mov $300, %ecx\n mov %esp, %ebx\n 1: push %ebx\n pop %esp\n push %esp\n mov %esp, %edx\n pop %eax\n"
         "cmp %eax, %ebx\n jne 2f\n sub %edx, %eax\n dec %ecx\n jnz 1b\n jmp 3f\n 2: ud2\n 3:"));

static void calls(void)
{
    u32 want = 0;

    for (u32 i = 500; i; i--) {
        want += i;
        want = (want & 0xffff0000) | ((want + 7) & 0xffff);
    }
    gives("a recursive function", fibonacci, 987);
    gives("calls and jumps through memory, RET with a number", through_memory, 3500);
    gives("frames, and operands of 16 bits on the stack", frames, want);
    gives("LOOP, LOOPNE, JECXZ, a counter of 16 bits", loops, 151 * 4 + 149 + 3 + 1);
    gives("POP and PUSH of ESP", popped_sp, 4);
}

/* --- addresses --- */

CODE(negative_index, C32("mov $table32+256, %ebx\n xor %eax, %eax\n mov $100, %ecx\n 1: mov $-64, %edx\n"
                         "2: add (%ebx,%edx,4), %eax\n addb $1, (%ebx,%edx,4)\n inc %edx\n jnz 2b\n loop 1b"));
CODE(index_below, C32("mov $TABLE, %ecx\n xor %eax, %eax\n mov $-4, %ebx\n .set TABLE, 300\n"
                      "1: add table32+4(%ebx), %eax\n add table32+4+4(,%ebx,2), %eax\n dec %ecx\n jnz 1b"));
CODE(far_base,
     C32("mov $300, %ecx\n xor %eax, %eax\n mov $table32, %ebx\n sub $0x80000000, %ebx\n mov $table32, %edx\n"
         "sub $0xfe000000, %edx\n 1: add 0x80000000(%ebx), %eax\n add 0xfe000000(%edx), %eax\n dec %ecx\n jnz 1b"));
CODE(lea_wraps,
     C32("mov $300, %ecx\n xor %esi, %esi\n 1: mov $0xfffffff0, %ebx\n lea 0x20(%ebx), %eax\n add %eax, %esi\n"
         "lea (%ebx,%ebx), %eax\n add %eax, %esi\n lea 8(,%ebx,8), %eax\n add %eax, %esi\n"
         ".byte 0x67, 0x8d, 0x47, 0x20\n add %eax, %esi\n dec %ecx\n jnz 1b\n mov %esi, %eax"));
/* [EBX + disp] beyond 4 GiB and below zero, by each kind of look-up: EBP = times. ESI + EDI lie in page 0. */
CODE(around,
     C32("xor %eax, %eax\n 1: add 0x20(%ebx), %eax\n add -0x40(%esi), %eax\n add (%ebx,%edi), %eax\n"
         "addl $1, 0x20(%ebx)\n subl $1, 0x20(%ebx)\n mov 0x24(%ebx), %edx\n add 0x28(%ebx), %edx\n add %edx, %eax\n"
         "dec %ebp\n jnz 1b"));
/* Its 64-bit counterpart: fills the TLB with pages that those sums name if nobody cuts them. */
CODE(around_64,
     "mov $50, %ecx\n 1: mov 0x20(%rbx), %eax\n mov (%rsi), %edx\n incl 0x40(%rbx)\n incl (%rsi)\n loop 1b\n" END);
/* A stack whose end is the end of 32-bit addresses: what is pushed at 0, what is popped at 4 GiB - 4. */
CODE(stack_end,
     C32("xor %eax, %eax\n 1: mov $0, %esp\n push %ebp\n mov %esp, %edx\n mov (%esp), %ecx\n pop %ebx\n"
         "add -4(%esp), %eax\n add %ebx, %eax\n add %ecx, %eax\n lea 4(%edx), %edx\n add %edx, %eax\n"
         "add %esp, %eax\n sub $8, %esp\n mov 4(%esp), %ecx\n add $4, %esp\n sub (%esp), %ecx\n add %ecx, %eax\n"
         "dec %ebp\n jnz 1b"));

/* The same where the look-up is shared, and the stack pointer goes round behind it. */
CODE(stack_round,
     C32("xor %eax, %eax\n mov $0xfffffff0, %esp\n 1: mov %ebp, (%esp)\n movl $1, 4(%esp)\n add (%esp), %eax\n"
         "pop %ebx\n pop %ecx\n pop %edx\n pop %edx\n add -16(%esp), %eax\n add -12(%esp), %eax\n"
         "add %ecx, %eax\n add %esp, %eax\n sub $16, %esp\n dec %ebp\n jnz 1b"));

static u64 saved_pdpt3, last_pd[512] __attribute__((aligned(4096))), last_pt[512] __attribute__((aligned(4096)));
static u64 beyond_pd[512] __attribute__((aligned(4096))), beyond_pt[512] __attribute__((aligned(4096)));
static u64 top_pdpt[512] __attribute__((aligned(4096))), top_pd[512] __attribute__((aligned(4096)));
static u64 top_pt[512] __attribute__((aligned(4096)));

/* Frames for the last page of 32-bit addresses, the first one beyond, and the last one of all. */
static void map_ends(void)
{
    saved_pdpt3 = boot_pdpt[3];
    for (u64 i = 0; i < 512; i++)
        last_pd[i] = (0xc0000000 + (i << 21)) | PTE_PS | PTE_PWT | PTE_P | PTE_RW;
    last_pd[511] = (u64)last_pt | 7;
    last_pt[511] = (u64)last_frame | 7;
    boot_pdpt[3] = (u64)last_pd | 7;
    boot_pdpt[4] = (u64)beyond_pd | 7;
    beyond_pd[0] = (u64)beyond_pt | 7;
    beyond_pt[0] = (u64)beyond_frame | 7;
    boot_pml4[511] = (u64)top_pdpt | 7;
    top_pdpt[511] = (u64)top_pd | 7;
    top_pd[511] = (u64)top_pt | 7;
    top_pt[511] = (u64)negative_frame | 7;
    flush_tlb();
}

static void unmap_ends(void)
{
    boot_pdpt[3] = saved_pdpt3;
    boot_pdpt[4] = boot_pml4[511] = 0;
    flush_tlb();
}

/* The words that sums beyond the ends lead to: right ones in page 0 and the last page, wrong ones in the others. */
static void fill_ends(u32 *zero)
{
    for (unsigned i = 0; i < 1024; i++) {
        ((u32 *)last_frame)[i] = 1000;
        ((u32 *)beyond_frame)[i] = 1000000;
        ((u32 *)negative_frame)[i] = 1000000;
    }
    for (unsigned i = 0; i < 16; i++)
        zero[i] = 10 + i;
}

static struct state around_state(void)
{
    struct state s = compat(3, around);
    s.rbx = 0xfffffff0; /* + 20h: 10h; + 24h: 14h; + 28h: 18h */
    s.rsi = 0x20;       /* - 40h: ffffffe0 */
    s.rdi = 0x30;       /* + EBX: 20h */
    s.rbp = TIMES;
    return s;
}

static void around_the_ends(void)
{
    u32 *volatile zero = 0;
    u32 saved[16], want = TIMES * (14 + 1000 + 18 + 15 + 16);

    for (unsigned i = 0; i < 16; i++)
        saved[i] = zero[i];
    map_ends();
    fill_ends(zero);
    check("sums of 33 bits, nothing else there", eax_of("around", around_state()), want);
    for (unsigned i = 0; i < 40; i++) { /* in turns with 64-bit code that has those pages */
        struct state s = ring(3, around_64);
        s.rbx = GIB4 - 16;
        s.rsi = -(u64)32;
        tally("the 64-bit pages", i, go(s).vector, END_VECTOR);
        tally("sums of 33 bits beside 64-bit pages", i, eax_of("around", around_state()), want);
    }
    tally_end("sums of 33 bits in turns with 64-bit pages");
    check("they wrote where they were told", ((u32 *)beyond_frame)[12], 1000000 + 40 * 50);
    struct state s = compat(3, stack_end);
    s.rbp = TIMES;
    check("a stack that ends at 4 GiB", eax_of("stack_end", s), 3 * TIMES * (TIMES + 1) / 2);
    check("ESP has 32 bits", go(s).rsp >> 32, 0);
    s = compat(3, stack_round);
    s.rbp = TIMES;
    check("a stack pointer that goes round and back", eax_of("stack_round", s), TIMES * (TIMES + 1) + 2 * TIMES);
    for (unsigned i = 0; i < 16; i++)
        zero[i] = saved[i];
    unmap_ends();
}

static void addresses(void)
{
    for (unsigned i = 0; i < 64; i++)
        table32[i] = 1;
    gives("an index below zero", negative_index, 64 * 100 * 101 / 2);
    table32[0] = 5, table32[1] = 7, table32[2] = 9;
    table32[63] = 11;
    gives("an index of -4", index_below, 3000);
    gives("a displacement that is the address", far_base, 300 * 2 * table32[0]);
    gives("LEA cuts to 32 and 16 bits", lea_wraps, 300 * (0x10 + 0xffffffe0u + 0xffffff88u + 0x10));
    around_the_ends();
}

/* --- segments --- */

#define SLOT_SEG (SEL_FREE / 8)

CODE(by_gs,
     C32("xor %eax, %eax\n 1: add %gs:0xfffffffc, %eax\n add %gs:4(%ebx), %eax\n incl %gs:4(%ebx)\n add %gs:8, %eax\n"
         "add %gs:(%esi,%edi,4), %eax\n dec %ebp\n jnz 1b"));
CODE(by_fs, C32("xor %eax, %eax\n 1: by_fs_load: add %fs:(%ebx), %eax\n add $4, %ebx\n dec %ebp\n jnz 1b"));
CODE(by_fs_write, C32("xor %eax, %eax\n 1: inc %eax\n cmp $150, %eax\n jb 2f\n mov by_fs_sel, %fs\n"
                      "2: by_fs_store: mov %eax, %fs:(%ebx)\n dec %ebp\n jnz 1b"));
CODE(by_cs, C32("xor %eax, %eax\n 1: inc %eax\n add %cs:(%ebx), %ecx\n add %ss:(%ebx), %ecx\n add %es:(%ebx), %ecx\n"
                "cmp $150, %eax\n jb 2f\n by_cs_store: mov %eax, %cs:(%ebx)\n 2: dec %ebp\n jnz 1b"));
extern u8 by_fs_load[], by_fs_store[], by_cs_store[];
u32 by_fs_sel;

static struct state segment_state(const void *code)
{
    struct state s = compat(3, code);
    s.rbp = TIMES;
    return s;
}

static void segments(void)
{
    static u32 place[512] __attribute__((aligned(4096)));
    struct state s;

    for (unsigned i = 0; i < 512; i++)
        place[i] = 1;
    gdt[SLOT_SEG] = descriptor((u32)(u64)&place[8], 0xfffff, 0xf3, 0xc);
    s = segment_state(by_gs);
    s.gs = SEL_FREE | 3;
    s.rbx = (u32)-8; /* + 4: below the base */
    s.rsi = 16, s.rdi = (u32)-8;
    check("GS: a base, offsets around it", eax_of("by_gs", s), TIMES * 4 + TIMES * (TIMES - 1));
    check("where they are", place[7], 1 + TIMES);
    place[7] = 1;
    gdt[SLOT_SEG] = descriptor((u32)(u64)&place[8], 4 * 150 - 1, 0xf3, 0x4);
    s = segment_state(by_fs);
    s.fs = SEL_FREE | 3;
    s = go(s);
    expect("FS: a limit", &s, GP, 0, by_fs_load);
    check("how far it came", s.rax, 150);
    gdt[SLOT_SEG] = descriptor((u32)(u64)&place[8] - 0x1000, 0x1000 - 1, 0xf7, 0x4); /* expands down */
    s = segment_state(by_fs);
    s.rbx = 0x1000;
    s.fs = SEL_FREE | 3;
    check("FS: a segment that expands down", eax_of("by_fs", s), TIMES);
    s.rbx = 0xffc;
    s = go(s);
    expect("FS: below its limit", &s, GP, 0, by_fs_load);
    s = segment_state(by_fs);
    s.fs = 0;
    s.rbx = (u64)&place;
    s = go(s);
    expect("FS: null", &s, GP, 0, by_fs_load);
    gdt[SLOT_SEG] = descriptor(0, 0xfffff, 0xf3, 0xc);
    gdt[SLOT_SEG + 1] = descriptor(0, 0xfffff, 0xf1, 0xc);
    by_fs_sel = (SEL_FREE + 8) | 3;
    s = segment_state(by_fs_write);
    s.fs = SEL_FREE | 3;
    s.rbx = (u64)&place;
    s = go(s);
    expect("FS: read-only from now on", &s, GP, 0, by_fs_store);
    check("how often it wrote", place[0], 149);
    s = segment_state(by_cs);
    s.rbx = (u64)&place;
    s = go(s);
    expect("a store through CS", &s, GP, 0, by_cs_store);
}

/* --- code that changes itself --- */

CODE(next32, C32("mov $300, %ecx\n xor %eax, %eax\n"
                 "1: incl next32_patch+1\n next32_patch: mov $0, %edx\n add %edx, %eax\n dec %ecx\n jnz 1b"));
CODE(inc_dec,
     C32("mov $300, %ecx\n xor %eax, %eax\n 1: xorb $8, inc_dec_patch\n inc_dec_patch: inc %eax\n add $5, %eax\n"
         "dec %ecx\n jnz 1b"));

static void changes_itself(void)
{
    u32 sum = 300 * 301 / 2, good = 0;

    gives("an immediate of the next instruction", next32, sum);
    gives("INC becomes DEC in turns", inc_dec, 1500);
    for (unsigned i = 0; i < 100; i++) { /* inc eax; mov $i, ecx across a page; add ecx, eax; int */
        u8 *at = code_frame + 0x1000 - 3;
        static const u8 text[] = {0x40, 0xb9, 0, 0, 0, 0, 0x01, 0xc8, 0xcd, END_VECTOR};
        for (unsigned k = 0; k < sizeof(text); k++)
            at[k] = text[k];
        at[3] = (u8)i;
        struct state s = compat(3, at);
        good += eax_of("across pages", s) == i * 256 + 1;
    }
    check("an instruction across pages, written", good, 100);
}

/* --- between 64-bit and 32-bit code --- */

/* The same bytes: INC EAX and INC ECX, twice each, in 32-bit code; INC EAX and INC R9D in 64-bit code. */
CODE(both, ".byte 0x40, 0xff, 0xc0, 0x41, 0xff, 0xc1\n ret\n");
CODE(in_turns, "mov $both, %ebx\n mov $300, %ebp\n xor %eax, %eax\n xor %ecx, %ecx\n xor %r9d, %r9d\n"
               "1: call *%rbx\n ljmpl *to_32(%rip)\n"
               ".code32\n in_turns_32: call *%ebx\n push %eax\n add $1, (%esp)\n pop %eax\n ljmpl $0x33, $in_turns_64\n"
               ".code64\n in_turns_64: dec %ebp\n jnz 1b\n shl $16, %ecx\n add %ecx, %eax\n" END
               ".balign 8\n to_32: .long in_turns_32\n .word 0x23\n");
/* Registers with something in their upper halves come from 64-bit code. */
CODE(upper_halves, "mov $300, %ebp\n xor %eax, %eax\n"
                   "1: mov $0x123456780000abcd, %rdx\n mov $0xfedcba9800000000, %rbx\n lea table32(%rbx), %rbx\n"
                   "mov $0x1111111100000007, %rsi\n mov $0x2222222200000000, %rcx\n mov $upper_there, %edi\n"
                   "bts $40, %rdi\n ljmpl *to_upper(%rip)\n"
                   ".code32\n upper_32: jecxz 3f\n inc %eax\n 3: jmp *%edi\n ud2\n upper_there: mov $40, %ecx\n"
                   "2: movl $3, (%ebx)\n add (%ebx), %eax\n add %esi, %eax\n"
                   "push %edx\n pop %edi\n sub $0xabcd, %edi\n add %edi, %eax\n loop 2b\n mov $0, %edx\n mov $0, %esi\n"
                   "ljmpl $0x33, $upper_64\n .code64\n upper_64: dec %ebp\n jnz 1b\n" END
                   ".balign 8\n to_upper: .long upper_32\n .word 0x23\n");
/* EIP goes round 4 GiB: ESI counts, from the last page to low memory and back. */
CODE(eip_wraps, C32("mov $LAST_PAGE, %edi\n .set LAST_PAGE, 0xfffffff8\n mov $300, %esi\n xor %eax, %eax\n jmp *%edi\n"
                    ".globl eip_back\n eip_back: dec %esi\n jz 1f\n jmp *%ebx\n 1:"));
extern u8 eip_back[];

static void put32(u8 *at, u32 v)
{
    for (unsigned i = 0; i < 4; i++)
        at[i] = (u8)(v >> 8 * i);
}

/* inc eax; jmp rel32 at the very end of 4 GiB; another jmp rel32 from low memory to there. */
static void eip(void)
{
    u8 *end = last_frame + 0xff8, *low = code_frame + 0x800;
    struct state s = compat(3, eip_wraps);

    map_ends();
    end[0] = end[1] = 0x90;
    end[2] = 0x40;
    end[3] = 0xe9;
    put32(end + 4, (u32)(u64)eip_back); /* from 0 */
    low[0] = 0x40;
    low[1] = 0xe9;
    put32(low + 2, 0xfffffff8u - ((u32)(u64)low + 6));
    s.rbx = (u64)low;
    check("jumps around 4 GiB", eax_of("eip", s), 300 + 299);
    unmap_ends();
}

static void both_modes(void)
{
    struct state s = ring(3, in_turns);

    s = go(s);
    check("the same bytes in both modes: vector", s.vector, END_VECTOR);
    check("the same bytes in both modes", s.rax, (300 * (1 + 2 + 1)) + ((u64)(300 * (0 + 2)) << 16));
    s = go(ring(3, upper_halves));
    check("upper halves from 64-bit code", s.vector == END_VECTOR ? (u32)s.rax : ~0u, 300 * 40 * (3 + 7));
    eip();
}

/* --- ring 0, and the units --- */

CODE(kernel_loop, C32("mov $300, %ecx\n xor %eax, %eax\n 1: cli\n push %ecx\n addl (%esp), %eax\n pop %edx\n pushf\n"
                      "pop %edx\n and $0x200, %edx\n add %edx, %eax\n mov %cr0, %edx\n dec %ecx\n jnz 1b"));
CODE(numbers,
     C32("mov $300, %ecx\n movl $0, word32\n xorps %xmm0, %xmm0\n fninit\n fldz\n movl $3, table32\n"
         "1: cvtsi2sd table32, %xmm1\n addsd %xmm1, %xmm0\n fiaddl table32\n movd %ecx, %xmm2\n movd %xmm2, %edx\n"
         "add %edx, word32\n dec %ecx\n jnz 1b\n cvttsd2si %xmm0, %eax\n fistpl table32\n add table32, %eax\n"
         "add word32, %eax"));
CODE(copies, C32("mov $100, %ebp\n xor %eax, %eax\n 1: mov $table32, %esi\n mov $table32+128, %edi\n mov $32, %ecx\n"
                 "rep movsl\n add table32+252, %eax\n incl table32+124\n dec %ebp\n jnz 1b"));

static void rest(void)
{
    check("ring 0", eax_of("kernel_loop", compat(0, kernel_loop)), 300 * 301 / 2);
    gives("SSE2 and x87", numbers, 1800 + 300 * 301 / 2);
    table32[31] = 0;
    gives("REP MOVS", copies, 99 * 100 / 2);
}

int main(void)
{
    other_bytes();
    calls();
    addresses();
    segments();
    changes_itself();
    both_modes();
    rest();
    return 0;
}
