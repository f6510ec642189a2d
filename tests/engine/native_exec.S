/*
 * Execute one instruction on a whole register state, for native_test.c: nothing here is shared with the stubs.
 *
 * exec_enter() loads exec_state, jumps to exec_target and is come back to at exec_ok (the code behind the instruction
 * jumps there) or at exec_back (a fault: RAX and RDX are what the fault handler put there). Both store the state.
 * exec_width is 64, 32 or 16: bytes of a vector register on this host.
 */
    .intel_syntax noprefix

#define GPR(n)  exec_state[rip + 8 * n]
#define FLAGS   exec_state[rip + 128]
#define FX      exec_state[rip + 192]
#define K(n)    exec_state[rip + 704 + 8 * n]
#define V(n)    exec_state[rip + 768 + 64 * n]

    .macro each_vector16 insn, store
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    .if \store
    \insn V(\n), xmm\n
    .else
    \insn xmm\n, V(\n)
    .endif
    .endr
    .endm

    .macro vectors store
    cmp byte ptr exec_width[rip], 32
    ja 3f
    je 2f
    each_vector16 movups, \store
    jmp 4f
2:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15
    .if \store
    vmovdqu V(\n), ymm\n
    .else
    vmovdqu ymm\n, V(\n)
    .endif
    .endr
    jmp 4f
3:
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 18, 19, 20, 21, 22, 23, 24, 25, 26, 27, 28, 29, 30, 31
    .if \store
    vmovdqu64 V(\n), zmm\n
    .else
    vmovdqu64 zmm\n, V(\n)
    .endif
    .endr
    .irp n, 0, 1, 2, 3, 4, 5, 6, 7
    .if \store
    kmovq K(\n), k\n
    .else
    kmovq k\n, K(\n)
    .endif
    .endr
4:
    .endm

    .text
    .globl exec_enter, exec_ok, exec_back
    .hidden exec_enter, exec_ok, exec_back, exec_state, exec_target, exec_width, exec_done
    .type exec_enter, @function
exec_enter:
    push rbx
    push rbp
    push r12
    push r13
    push r14
    push r15
    sub rsp, 8
    mov exec_rsp[rip], rsp
    mov byte ptr exec_done[rip], 0
    fxrstor64 FX
    vectors 0
    push qword ptr FLAGS
    popfq
    mov rax, GPR(0)
    mov rcx, GPR(1)
    mov rdx, GPR(2)
    mov rbx, GPR(3)
    mov rsp, GPR(4)
    mov rbp, GPR(5)
    mov rsi, GPR(6)
    mov rdi, GPR(7)
    mov r8, GPR(8)
    mov r9, GPR(9)
    mov r10, GPR(10)
    mov r11, GPR(11)
    mov r12, GPR(12)
    mov r13, GPR(13)
    mov r14, GPR(14)
    mov r15, GPR(15)
    jmp exec_target[rip]

exec_ok:
    mov byte ptr exec_done[rip], 1
exec_back:
    mov GPR(0), rax
    mov GPR(1), rcx
    mov GPR(2), rdx
    mov GPR(3), rbx
    mov GPR(4), rsp
    mov GPR(5), rbp
    mov GPR(6), rsi
    mov GPR(7), rdi
    mov GPR(8), r8
    mov GPR(9), r9
    mov GPR(10), r10
    mov GPR(11), r11
    mov GPR(12), r12
    mov GPR(13), r13
    mov GPR(14), r14
    mov GPR(15), r15
    mov rsp, exec_rsp[rip]
    pushfq
    pop qword ptr FLAGS
    cld
    vectors 1
    fxsave64 FX
    fninit
    ldmxcsr exec_mxcsr[rip]
    cmp byte ptr exec_width[rip], 32
    jb 5f
    vzeroupper
5:
    add rsp, 8
    pop r15
    pop r14
    pop r13
    pop r12
    pop rbp
    pop rbx
    ret
    .size exec_enter, . - exec_enter

    .section .rodata
exec_mxcsr:
    .long 0x1f80
    .bss
    .balign 8
exec_rsp:
    .quad 0
    .section .note.GNU-stack, "", @progbits
