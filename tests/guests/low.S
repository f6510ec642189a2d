/*
 * From 32-bit protected mode into real mode and back, for guests that begin with start32.S.
 *
 * run16() copies a struct state16 to low memory, leaves protected mode by way of 16-bit code (SDM vol. 3, 9.9.2) and loads
 * it; whatever event comes next goes through the vector table at 0 to `event16`, which writes the state back and returns to
 * protected mode. The 16-bit part reaches its data through CS alone, so a test may do to the other segments as it likes.
 */
#include "low.h"
#include "segments.h"

#define L(label) (label - low_begin)
#define ST(field) %cs:(LOW_STATE + (field))

    .text
    .code32
    .globl run16
/* void run16(struct state16 *s) */
run16:
    pushal
    pushfl
    mov 40(%esp), %esi
    mov %esi, current16
    mov %esp, stack16
    mov $LOW + LOW_STATE, %edi
    mov $S16_SIZE, %ecx
    rep movsb
    sidt saved_idt
    lidt LOW + LOW_STATE + S16_IDTR
    ljmp $S_LOW_CODE, $L(leave_protected)

back32:
    mov $S_DATA0, %eax
    mov %eax, %ds
    mov %eax, %es
    mov %eax, %ss
    mov stack16, %esp
    xor %eax, %eax
    mov %eax, %fs
    mov %eax, %gs
    lidt saved_idt
    mov $LOW + LOW_STATE, %esi
    mov current16, %edi
    mov $S16_SIZE, %ecx
    rep movsb
    popfl
    popal
    ret

    .globl low_begin, low_end, low_stubs
    .code16
low_begin:
leave_protected:
    mov ST(S16_BEFORE + 4), %es
    mov ST(S16_BEFORE + 8), %ss
    mov ST(S16_BEFORE + 12), %fs
    mov ST(S16_BEFORE + 16), %gs
    mov ST(S16_BEFORE), %ds
    mov %cr0, %eax
    and $~1, %eax
    mov %eax, %cr0
    ljmp $LOW_SEG, $L(1f)
1:  mov $LOW_SEG, %ax
    mov %ax, %ss
    mov $LOW_STACK, %sp
    pushl ST(S16_EFLAGS)
    popfl
    mov ST(S16_DS), %ds
    mov ST(S16_ES), %es
    mov ST(S16_FS), %fs
    mov ST(S16_GS), %gs
    mov ST(S16_EAX), %eax
    mov ST(S16_EBX), %ebx
    mov ST(S16_ECX), %ecx
    mov ST(S16_EDX), %edx
    mov ST(S16_ESI), %esi
    mov ST(S16_EDI), %edi
    mov ST(S16_EBP), %ebp
    lssl ST(S16_ESP), %esp
    ljmpl *ST(S16_EIP)

event16:
    mov %eax, ST(S16_EAX)
    mov %ebx, ST(S16_EBX)
    mov %ecx, ST(S16_ECX)
    mov %edx, ST(S16_EDX)
    mov %esi, ST(S16_ESI)
    mov %edi, ST(S16_EDI)
    mov %ebp, ST(S16_EBP)
    mov %ds, ST(S16_DS)
    mov %es, ST(S16_ES)
    mov %fs, ST(S16_FS)
    mov %gs, ST(S16_GS)
    popw ST(S16_VECTOR)
    popw ST(S16_EIP)
    movw $0, ST(S16_EIP + 2)
    popw ST(S16_CS)
    popw ST(S16_EFLAGS)
    movw $0, ST(S16_EFLAGS + 2)
    mov %esp, ST(S16_ESP)
    mov %ss, ST(S16_SS)
    mov $LOW_SEG, %ax
    mov %ax, %ss
    mov $LOW_STACK, %sp
    pushfl
    popl ST(S16_HFLAGS)
    cld
    mov %cr0, %eax
    or $1, %eax
    mov %eax, %cr0
    ljmpl $S_CODE0, $back32

    .balign 16
low_stubs:
    .set vector, 0
    .rept 256
    .balign 8
    pushw $vector
    jmp event16
    .set vector, vector + 1
    .endr
low_end:
    .code32

    .data
    .balign 4
current16:
    .long 0
stack16:
    .long 0
saved_idt:
    .skip 8

    .section .note.GNU-stack, "", @progbits
