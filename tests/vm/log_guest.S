/*
 * A guest for log.c: writes to memory from 2 MiB to 14 MiB for ever, page by page at random, in each of the ways that an engine has, with
 * a short random rest behind each. A second CPU does the same. Loaded as those of guests.S.
 *
 *   80000h, 80040h   steps done by the first, the second CPU
 *   E10000h, E30000h 16 pages each where the first, the second CPU also writes code and calls it
 */
    .section .rodata
    .code32

#define AT(label)    (label - guest_scribble_begin + 0x100000)
#define LOW          0x8000 /* where the second CPU starts: real mode */
#define LOW_AT(label) (label - scribble_low + LOW)

    .globl guest_scribble_begin; .globl guest_scribble_end; .balign 16
guest_scribble_begin:
    mov $0x90000, %esp
    cld
    mov $AT(scribble_low), %esi
    mov $LOW, %edi
    mov $(scribble_low_end - scribble_low), %ecx
    rep movsb
    movl $0x1ff, 0xfee000f0
    movl $0x1000000, 0xfee00310 /* to CPU 1, if there is one: INIT, then start at LOW */
    movl $0x4500, 0xfee00300
    movl $0x1000000, 0xfee00310
    movl $(0x4600 + LOW / 4096), 0xfee00300
    mov $12345, %ebx
    mov $0xe10000, %esi
    mov $0x80000, %ebp

/* ebx: random; esi: pages for code; ebp: count of steps */
scribble_step:
    lock incl (%ebp)
    imul $1664525, %ebx, %ebx
    add $1013904223, %ebx
    mov %ebx, %eax
    shr $8, %eax
    xor %edx, %edx
    mov $3072, %ecx
    div %ecx
    shl $12, %edx
    lea 0x200000(%edx), %edi
    mov %ebx, %eax
    shr $29, %eax
    mov AT(scribble_ways)(,%eax,4), %eax
    jmp *%eax
scribble_page:
    mov $1024, %ecx
    mov %ebx, %eax
    rep stosl
    jmp scribble_rest
scribble_byte:
    mov %bl, 77(%edi)
    jmp scribble_rest
scribble_locked:
    lock incl 4092(%edi)
    jmp scribble_rest
scribble_crossing:
    mov %ebx, 4094(%edi)
    jmp scribble_rest
scribble_stack:
    mov %esp, %eax
    lea 0x800(%edi), %esp
    push %ebx
    mov %eax, %esp
    jmp scribble_rest
scribble_copy:
    push %esi
    lea 0x1000(%edi), %esi
    mov $100, %ecx
    rep movsl
    pop %esi
    jmp scribble_rest
scribble_code: /* a RET into a page of its own, and there */
    mov %ebx, %eax
    shr $4, %eax
    and $0xf7ff, %eax /* lower half of the page */
    movb $0xc3, (%esi, %eax)
    add %esi, %eax
    call *%eax
    jmp scribble_rest
scribble_beside: /* into a page that the other CPU has code in */
    mov %ebx, %eax
    shr $4, %eax
    and $0xffff, %eax
    or $0x800, %eax
    mov %esi, %edx
    xor $0x20000, %edx
    mov %bl, (%edx, %eax)
scribble_rest:
    mov %ebx, %ecx
    shr $11, %ecx
    and $0xfff, %ecx
1:  dec %ecx
    jns 1b
    jmp scribble_step
    .balign 4
scribble_ways:
    .long AT(scribble_page), AT(scribble_byte), AT(scribble_locked), AT(scribble_crossing)
    .long AT(scribble_stack), AT(scribble_copy), AT(scribble_code), AT(scribble_beside)

    .code16
scribble_low:
    cli
    xor %ax, %ax
    mov %ax, %ds
    lgdtl LOW_AT(scribble_gdtr)
    mov %cr0, %eax
    or $1, %al
    mov %eax, %cr0
    ljmpl $8, $LOW_AT(scribble_second)
    .code32
scribble_second:
    mov $16, %ax
    mov %ax, %ds
    mov %ax, %es
    mov %ax, %ss
    mov $0x8f000, %esp
    cld
    mov $98765, %ebx
    mov $0xe30000, %esi
    mov $0x80040, %ebp
    mov $AT(scribble_step), %eax
    jmp *%eax
    .balign 8
scribble_gdt:
    .quad 0, 0x00cf9a000000ffff, 0x00cf92000000ffff
scribble_gdtr:
    .word 23
    .long LOW_AT(scribble_gdt)
scribble_low_end:
guest_scribble_end:

    .section .note.GNU-stack, "", @progbits
