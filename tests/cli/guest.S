/*
 * One guest for the tests of the command line: an ELF file with a PVH note, 32-bit, no paging. The first letter of its
 * command line says what it does after it has printed ">":
 *
 *   e  sends back what is typed; "q" powers off      p  powers off at once
 *   b  waits for the power button, then powers off   r  asks for a reset
 *   i  halts for ever, interrupts off                t  shuts down: an exception without descriptor table
 *   s  computes for ever                             f  prints "0123456789abcdef\n" 4096 times, then powers off
 */
#define COM1         0x3f8
#define PM_EVENT     0x600
#define PM_CONTROL   0x604
#define POWER_OFF    0x3400 /* SLP_EN, SLP_TYP 5 */
#define POWER_BUTTON 0x100
#define RESET        0xcf9

    .section .note.pvh, "a", @note
    .long 4, 4, 18
    .asciz "Xen"
    .long _start

    .text
    .code32
    .globl _start
_start:
    mov $0x90000, %esp
    mov $COM1 + 2, %dx          /* FIFO control: on */
    mov $1, %al
    out %al, %dx
    mov 24(%ebx), %esi          /* hvm_start_info.cmdline_paddr */
    mov (%esi), %bl
    mov $'>', %al
    call put
    mov $table, %esi
1:  lodsl
    cmp %bl, %al
    lodsl
    je 2f
    test %eax, %eax
    jnz 1b
    mov $power_off, %eax
2:  jmp *%eax

table:
    .long 'e', echo, 'b', button, 'i', idle, 's', spin, 'p', power_off, 'r', reset, 't', triple, 'f', flood, 0, 0

echo:
    mov $COM1 + 5, %dx
    in %dx, %al
    test $1, %al
    jz echo
    mov $COM1, %dx
    in %dx, %al
    cmp $'q', %al
    je power_off
    call put
    jmp echo

button:
    mov $PM_EVENT, %dx
    in %dx, %ax
    test $POWER_BUTTON, %ax
    jz button

power_off:
    mov $PM_CONTROL, %dx
    mov $POWER_OFF, %ax
    out %ax, %dx
    jmp .

idle:
    cli
    hlt
    jmp idle

spin:
    inc %eax
    jmp spin

reset:
    mov $RESET, %dx
    mov $6, %al
    out %al, %dx
    jmp .

triple:
    lidt no_table
    ud2
no_table:
    .word 0
    .long 0

flood:
    mov $4096, %ebp
1:  mov $line, %esi
2:  lodsb
    test %al, %al
    jz 3f
    call put
    jmp 2b
3:  dec %ebp
    jnz 1b
    jmp power_off
line:
    .asciz "0123456789abcdef\n"

/* AL to COM1 once it takes it; uses AH, DX. */
put:
    mov %al, %ah
    mov $COM1 + 5, %dx
1:  in %dx, %al
    test $0x20, %al
    jz 1b
    mov $COM1, %dx
    mov %ah, %al
    out %al, %dx
    ret

    .section .note.GNU-stack, "", @progbits
