/*
 * Where each guest begins, and the way into and out of the pieces of code that it tests.
 *
 * start32   PVH's entry (Xen docs/misc/pvh.pandoc): 32-bit, paging off, EBX = start info. Builds an identity map, goes to
 *           long mode, calls main().
 * run       loads a struct state into the processor with IRETQ; whatever event comes next (interrupt, exception, INT n)
 *           ends up in `event`, which writes the interrupted state back and returns from run().
 * stub_table[256]  entries of the IDT. Whether an error code was pushed is seen from the stack's alignment (SDM vol. 3,
 *           6.14.2), not assumed.
 */
#include "state.h"

    .section .note.pvh, "a", @note
    .long 4, 4, 18
    .asciz "Xen"
    .long start32

    .section .text.start, "ax", @progbits
    .code32
    .globl start32
start32:
    cld
    lgdt gdt_pointer
    mov $SEL_DATA0, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    mov $main_stack_top, %esp

    mov $boot_pml4, %edi
    movl $boot_pdpt + 7, (%edi)
    movl $boot_pd + 7, boot_pdpt
    movl $0xc0000000 + 0x9f, boot_pdpt + 24 /* the local APIC: 1 GiB, uncached */
    xor %ecx, %ecx
1:  mov %ecx, %eax
    shl $21, %eax
    or $0x87, %eax
    mov %eax, boot_pd(, %ecx, 8)
    inc %ecx
    cmp $512, %ecx
    jne 1b

    mov %edi, %cr3
    mov $0x620, %eax            /* PAE, OSFXSR, OSXMMEXCPT */
    mov %eax, %cr4
    mov $0xc0000080, %ecx
    mov $0x901, %eax            /* SCE, LME, NXE */
    xor %edx, %edx
    wrmsr
    mov $0x80000033, %eax       /* PG, NE, ET, MP, PE */
    mov %eax, %cr0
    ljmp $SEL_CODE0, $1f
    .code64
1:  mov $main_stack_top, %rsp
    xor %ebp, %ebp
    mov %ebp, %fs
    mov %ebp, %gs
    call runtime_start
    call main
    call finish
2:  jmp 2b

    .text
    .globl run, run_iret
/* void run(struct state *s) */
run:
    push %rbx
    push %rbp
    push %r12
    push %r13
    push %r14
    push %r15
    pushfq
    mov %rdi, current
    mov %rsp, run_stack
    mov ST_DS(%rdi), %eax
    mov %eax, %ds
    mov ST_ES(%rdi), %eax
    mov %eax, %es
    cmpq $-1, ST_FS(%rdi)
    je 1f
    mov ST_FS(%rdi), %eax
    mov %eax, %fs
1:  cmpq $-1, ST_GS(%rdi)
    je 1f
    mov ST_GS(%rdi), %eax
    mov %eax, %gs
1:  pushq ST_SS(%rdi)
    pushq ST_RSP(%rdi)
    pushq ST_RFLAGS(%rdi)
    pushq ST_CS(%rdi)
    pushq ST_RIP(%rdi)
    mov ST_RAX(%rdi), %rax
    mov ST_RBX(%rdi), %rbx
    mov ST_RCX(%rdi), %rcx
    mov ST_RDX(%rdi), %rdx
    mov ST_RSI(%rdi), %rsi
    mov ST_RBP(%rdi), %rbp
    mov ST_R8(%rdi), %r8
    mov ST_R9(%rdi), %r9
    mov ST_R10(%rdi), %r10
    mov ST_R11(%rdi), %r11
    mov ST_R12(%rdi), %r12
    mov ST_R13(%rdi), %r13
    mov ST_R14(%rdi), %r14
    mov ST_R15(%rdi), %r15
    mov ST_RDI(%rdi), %rdi
run_iret:
    iretq

    .globl event
event:
    push %rax
    pushfq
    mov current, %rax
    test %rax, %rax
    jz surprise
    popq ST_H_RFLAGS(%rax)
    popq ST_RAX(%rax)
    popq ST_VECTOR(%rax)
    mov %rbx, ST_RBX(%rax)
    mov %rcx, ST_RCX(%rax)
    mov %rdx, ST_RDX(%rax)
    mov %rsi, ST_RSI(%rax)
    mov %rdi, ST_RDI(%rax)
    mov %rbp, ST_RBP(%rax)
    mov %r8, ST_R8(%rax)
    mov %r9, ST_R9(%rax)
    mov %r10, ST_R10(%rax)
    mov %r11, ST_R11(%rax)
    mov %r12, ST_R12(%rax)
    mov %r13, ST_R13(%rax)
    mov %r14, ST_R14(%rax)
    mov %r15, ST_R15(%rax)
    xor %ecx, %ecx
    mov %rcx, ST_ERROR(%rax)
    mov %rcx, ST_HAS_ERROR(%rax)
    test $8, %spl
    jnz 1f
    movq $1, ST_HAS_ERROR(%rax)
    popq ST_ERROR(%rax)
1:  mov %rsp, ST_FRAME(%rax)
    popq ST_RIP(%rax)
    popq ST_CS(%rax)
    popq ST_RFLAGS(%rax)
    popq ST_RSP(%rax)
    popq ST_SS(%rax)
    mov %cs, %ecx
    mov %rcx, ST_H_CS(%rax)
    mov %ss, %ecx
    mov %rcx, ST_H_SS(%rax)
    mov %ds, %ecx
    mov %rcx, ST_DS(%rax)
    mov %es, %ecx
    mov %rcx, ST_ES(%rax)
    mov %fs, %ecx
    mov %rcx, ST_FS(%rax)
    mov %gs, %ecx
    mov %rcx, ST_GS(%rax)
    mov %cr2, %rcx
    mov %rcx, ST_CR2(%rax)
    mov %dr6, %rcx
    mov %rcx, ST_DR6(%rax)
    mov $SEL_DATA0, %ecx
    mov %ecx, %ss
    mov %ecx, %ds
    mov %ecx, %es
    movq $0, current
    mov run_stack, %rsp
    popfq
    pop %r15
    pop %r14
    pop %r13
    pop %r12
    pop %rbp
    pop %rbx
    ret

/* An event that no test waits for: tell and stop. Stack: flags, rax, vector, [error,] rip ... */
surprise:
    mov 16(%rsp), %rdi
    lea 24(%rsp), %rsi
    lea 24(%rsp), %rax
    and $-16, %rsp
    mov $SEL_DATA0, %ecx
    mov %ecx, %ds
    mov %ecx, %es
    call unexpected

    .balign 16
    .globl stub_table
stub_table:
    .set vector, 0
    .rept 256
    .balign 16
    pushq $vector
    jmp event
    .set vector, vector + 1
    .endr

    .data
    .globl current, run_stack, gdt
    .balign 8
current:
    .quad 0
run_stack:
    .quad 0
    .balign 16
gdt:
    .quad 0
    .quad 0x00af9b000000ffff    /* 08 code 64, ring 0 */
    .quad 0x00cf93000000ffff    /* 10 data, ring 0 */
    .quad 0x00cf9b000000ffff    /* 18 code 32, ring 0 */
    .quad 0x00cffb000000ffff    /* 20 code 32, ring 3 */
    .quad 0x00cff3000000ffff    /* 28 data, ring 3 */
    .quad 0x00affb000000ffff    /* 30 code 64, ring 3 */
    .quad 0x00afbb000000ffff    /* 38 code 64, ring 1 */
    .quad 0x00cfb3000000ffff    /* 40 data, ring 1 */
    .quad 0x00afdb000000ffff    /* 48 code 64, ring 2 */
    .quad 0x00cfd3000000ffff    /* 50 data, ring 2 */
    .fill GDT_SLOTS - 11, 8, 0
    .globl gdt_pointer
    .balign 4
gdt_pointer:
    .word GDT_SLOTS * 8 - 1
    .quad gdt

    .bss
    .globl boot_pml4, boot_pdpt, boot_pd
    .balign 4096
boot_pml4:
    .skip 4096
boot_pdpt:
    .skip 4096
boot_pd:
    .skip 4096
    .skip 16384
main_stack_top:

    .section .note.GNU-stack, "", @progbits
