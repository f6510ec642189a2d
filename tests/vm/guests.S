/*
 * Small guests: 32-bit protected mode, paging off, as PVH starts them, loaded at 100000h. Each lies between NAME_begin and
 * NAME_end and refers to itself through AT(label).
 */
    .section .rodata
    .code32

#define AT(name, label) (label - name##_begin + 0x100000)
#define GUEST(name) .globl name##_begin; .globl name##_end; .balign 16; name##_begin: mov $0x90000, %esp
#define END(name) name##_end:

/* AL to COM1, once it takes it; uses AH, DX. */
#define PUT_FUNCTION(label) \
label: mov %al, %ah; mov $0x3fd, %dx; \
9: in %dx, %al; test $0x20, %al; jz 9b; \
   mov %ah, %al; mov $0x3f8, %dx; out %al, %dx; ret

/* Says hello and leaves by the debug exit port with value 5. */
GUEST(guest_hello)
    mov $AT(guest_hello, hello_text), %esi
1:  lodsb
    test %al, %al
    jz 2f
    call hello_put
    jmp 1b
2:  mov $5, %al
    out %al, $0xf4
3:  jmp 3b
PUT_FUNCTION(hello_put)
hello_text:
    .asciz "hello from the guest\n"
END(guest_hello)

/* Shuts down: an exception without a descriptor table. */
GUEST(guest_triple)
    lidt AT(guest_triple, triple_idt)
    ud2
triple_idt:
    .word 0
    .long 0
END(guest_triple)

/* Sleeps for ever. */
GUEST(guest_idle)
    mov $'I', %al
    call idle_put
1:  cli
    hlt
    jmp 1b
PUT_FUNCTION(idle_put)
END(guest_idle)

/* Computes for ever. */
GUEST(guest_spin)
    mov $'S', %al
    call spin_put
1:  inc %eax
    jmp 1b
PUT_FUNCTION(spin_put)
END(guest_spin)

/* Counts its resets in memory, prints the count, powers off at the third start. */
GUEST(guest_reset)
    incl 0x80000
    mov 0x80000, %al
    add $'0', %al
    call reset_put
    cmpl $3, 0x80000
    je 2f
    mov $6, %al
    mov $0xcf9, %dx
    out %al, %dx
1:  jmp 1b
2:  mov $0x3400, %ax
    mov $0x604, %dx
    out %ax, %dx
3:  jmp 3b
PUT_FUNCTION(reset_put)
END(guest_reset)

/* Sends back what is typed; q powers off. */
GUEST(guest_echo)
    mov $'>', %al
    call echo_put
1:  mov $0x3fd, %dx
    in %dx, %al
    test $1, %al
    jz 1b
    mov $0x3f8, %dx
    in %dx, %al
    cmp $'q', %al
    je 2f
    call echo_put
    jmp 1b
2:  mov $0x3400, %ax
    mov $0x604, %dx
    out %ax, %dx
3:  jmp 3b
PUT_FUNCTION(echo_put)
END(guest_echo)

/* Prints for ever. */
GUEST(guest_flood)
1:  mov $'F', %al
    call flood_put
    jmp 1b
PUT_FUNCTION(flood_put)
END(guest_flood)

/* Powers off when the ACPI power button is pressed: enables nothing, polls PM1a status bit 8. */
GUEST(guest_button)
    mov $'B', %al
    call button_put
1:  mov $0x600, %dx
    in %dx, %ax
    test $0x100, %ax
    jz 1b
    mov $0x3400, %ax
    mov $0x604, %dx
    out %ax, %dx
3:  jmp 3b
PUT_FUNCTION(button_put)
END(guest_button)

    .section .note.GNU-stack, "", @progbits
