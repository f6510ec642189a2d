/*
 * Where the other CPUs of smp.c begin: after a start-up IPI in real mode, below 1 MiB, at a page that the vector names.
 * The code between ap_begin and ap_end is copied there; it finds its data through CS and goes to long mode, to a
 * stack of the CPU's own, and calls ap_main(APIC id, CS it began with).
 */
#include "state.h"

    .text
    .globl ap_begin, ap_end
    .code16
ap_begin:
    cli
    cld
    mov %cs, %ax
    mov %ax, %ds
    movzwl %ax, %ebp
    lgdtl ap_gdt_pointer - ap_begin
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $SEL_CODE0_32, $ap32
    .balign 4
ap_gdt_pointer:
    .word GDT_SLOTS * 8 - 1
    .long gdt
ap_end:

    .code32
ap32:
    mov $SEL_DATA0, %eax
    mov %eax, %ss
    mov %eax, %ds
    mov %eax, %es
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    mov $boot_pml4, %eax
    mov %eax, %cr3
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
1:  mov $1, %eax
    cpuid
    shr $24, %ebx               /* initial APIC id */
    mov %ebx, %edi
    mov %ebp, %esi
    mov $AP_STACK, %ecx
    lea 1(%rbx), %eax
    imul %ecx, %eax
    lea ap_stacks(%rax), %rsp
    xor %ebp, %ebp
    call ap_main
2:  hlt
    jmp 2b

    .section .note.GNU-stack, "", @progbits
