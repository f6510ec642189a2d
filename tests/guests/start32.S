/*
 * The 32-bit counterpart of start.S: protected mode, no paging, as PVH starts a guest. run() goes into a struct state32 by
 * IRET (onto the ring's own stack first where the ring is 0), `event32` comes back out of it. A handler can not tell from
 * its frame whether an error code was pushed: vectors that have one are listed.
 */
#include "segments.h"

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
    ljmp $S_CODE0, $1f
1:  mov $S_DATA0, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $main_stack_top, %esp
    call main
    call finish

    .text
    .globl run, run_iret
/* void run(struct state32 *s) */
run:
    push %ebx
    push %ebp
    push %esi
    push %edi
    pushfl
    mov 24(%esp), %ebx
    mov %ebx, current
    mov %esp, run_stack
    testl $0x20000, S32_EFLAGS(%ebx)
    jz 3f
    pushl S32_GS(%ebx)          /* to virtual-8086 mode */
    pushl S32_FS(%ebx)
    pushl S32_DS(%ebx)
    pushl S32_ES(%ebx)
    pushl S32_SS(%ebx)
    pushl S32_ESP(%ebx)
    pushl S32_EFLAGS(%ebx)
    pushl S32_CS(%ebx)
    pushl S32_EIP(%ebx)
    pushl $0
    pushl $0
    jmp 4f
3:  testl $3, S32_CS(%ebx)
    jz 1f
    pushl S32_SS(%ebx)
    pushl S32_ESP(%ebx)
    jmp 2f
1:  mov S32_ESP(%ebx), %esp
2:  pushl S32_EFLAGS(%ebx)
    pushl S32_CS(%ebx)
    pushl S32_EIP(%ebx)
    pushl S32_DS(%ebx)
    pushl S32_ES(%ebx)
4:  pushl S32_FS(%ebx)
    pushl S32_GS(%ebx)
    testl $0x20000, S32_EFLAGS(%ebx)
    jz 5f
    movl $0, (%esp)             /* null until the IRET */
    movl $0, 4(%esp)
5:  mov S32_EAX(%ebx), %eax
    mov S32_ECX(%ebx), %ecx
    mov S32_EDX(%ebx), %edx
    mov S32_ESI(%ebx), %esi
    mov S32_EDI(%ebx), %edi
    mov S32_EBP(%ebx), %ebp
    mov S32_EBX(%ebx), %ebx
    pop %gs
    pop %fs
    pop %es
    pop %ds
run_iret:
    iretl

event32:
    push %eax
    push %ds
    mov %ss:8(%esp), %eax
    push %ecx
    mov $S_DATA0, %ecx
    mov %ecx, %ds
    mov current, %ecx
    test %ecx, %ecx
    jz surprise
    mov %eax, S32_VECTOR(%ecx)
    popl S32_ECX(%ecx)
    popl S32_DS(%ecx)
    andl $0xffff, S32_DS(%ecx)  /* a push may write two bytes of four */
    popl S32_EAX(%ecx)
    mov %ebx, S32_EBX(%ecx)
    mov %edx, S32_EDX(%ecx)
    mov %esi, S32_ESI(%ecx)
    mov %edi, S32_EDI(%ecx)
    mov %ebp, S32_EBP(%ecx)
    add $4, %esp
    xor %edx, %edx
    mov %edx, S32_ERROR(%ecx)
    mov %edx, S32_HAS_ERROR(%ecx)
    cmp $32, %eax
    jae 1f
    mov $0x00027d00, %edx       /* 8, 10-14, 17 */
    bt %eax, %edx
    jnc 1f
    incl S32_HAS_ERROR(%ecx)
    popl S32_ERROR(%ecx)
1:  mov %esp, S32_FRAME(%ecx)
    popl S32_EIP(%ecx)
    popl S32_CS(%ecx)
    popl S32_EFLAGS(%ecx)
    testl $0x20000, S32_EFLAGS(%ecx)
    jnz 2f
    testl $3, S32_CS(%ecx)
    jnz 2f
    mov %esp, S32_ESP(%ecx)
    mov %ss, %eax
    mov %eax, S32_SS(%ecx)
    jmp 3f
2:  popl S32_ESP(%ecx)
    popl S32_SS(%ecx)
3:  mov %cs, %eax
    mov %eax, S32_H_CS(%ecx)
    mov %ss, %eax
    mov %eax, S32_H_SS(%ecx)
    mov %es, %eax
    mov %eax, S32_ES(%ecx)
    mov %fs, %eax
    mov %eax, S32_FS(%ecx)
    mov %gs, %eax
    mov %eax, S32_GS(%ecx)
    testl $0x20000, S32_EFLAGS(%ecx)
    jz 4f
    mov %es, %eax               /* what the handler was given: nulls */
    mov %fs, %edx
    or %edx, %eax
    mov %gs, %edx
    or %edx, %eax
    or S32_DS(%ecx), %eax
    mov %eax, S32_H_NULL(%ecx)
    popl S32_ES(%ecx)
    popl S32_DS(%ecx)
    popl S32_FS(%ecx)
    popl S32_GS(%ecx)
4:  mov $S_DATA0, %eax
    mov %eax, %ss
    mov run_stack, %esp
    mov %eax, %es
    movl $0, current
    popfl
    pop %edi
    pop %esi
    pop %ebp
    pop %ebx
    ret

surprise:
    lea 16(%esp), %ecx
    mov $S_DATA0, %edx
    mov %edx, %es
    push %ecx
    push %eax
    call unexpected

    .balign 16
    .globl stub_table
stub_table:
    .set vector, 0
    .rept 256
    .balign 16
    pushl $vector
    jmp event32
    .set vector, vector + 1
    .endr

    .data
    .globl gdt
    .balign 16
current:
    .long 0
run_stack:
    .long 0
gdt:
    .quad 0
    .quad 0x00cf9b000000ffff    /* 08 code, ring 0 */
    .quad 0x00cf93000000ffff    /* 10 data, ring 0 */
    .quad 0x00cfbb000000ffff    /* 18 code, ring 1 */
    .quad 0x00cfb3000000ffff    /* 20 data, ring 1 */
    .quad 0x00cfdb000000ffff    /* 28 code, ring 2 */
    .quad 0x00cfd3000000ffff    /* 30 data, ring 2 */
    .quad 0x00cffb000000ffff    /* 38 code, ring 3 */
    .quad 0x00cff3000000ffff    /* 40 data, ring 3 */
    .fill S_SLOTS - 9, 8, 0
    .balign 4
gdt_pointer:
    .word S_SLOTS * 8 - 1
    .long gdt

    .bss
    .balign 4096
    .skip 16384
main_stack_top:

    .section .note.GNU-stack, "", @progbits
