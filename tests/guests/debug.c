/*
 * Debug exceptions: single steps, breakpoints on code, data and ports, RF, DR7.GD, the debug registers themselves.
 * Source: SDM vol. 3, 17.2 and 17.3.
 */
#include "guest.h"

#define DR6_FIXED 0xffff0ff0u
#define DR6_BD    0x2000u
#define DR6_BS    0x4000u
#define DR7_FIXED 0x400u
#define DR7_GD    0x2000u

enum { EXECUTE, WRITE, PORT, ACCESS };

CODE(nops, "nop\n nops_b: nop\n nops_c: nop\n" END);
CODE(mov_ss, "mov %edx, %ss\n mov_ss_b: nop\n mov_ss_c: nop\n" END);
CODE(mov_ds, "mov %edx, %ds\n mov_ds_b: nop\n" END);
CODE(popf, "popfq\n popf_b: nop\n popf_c: nop\n" END);
CODE(pushf, "pushfq\n pop %rbx\n" END);
CODE(jump, "jmp 1f\n nop\n 1: jump_b: nop\n" END);
CODE(jz_not, "or $1, %eax\n jz_not_at: jz 1f\n jz_not_b: nop\n 1: nop\n" END);
CODE(call, "call 1f\n nop\n 1: call_b: nop\n" END);
CODE(int_n, "int $0x42\n int_n_b: nop\n" END);
CODE(ud2, "ud2\n");
CODE(rep_stos, "rep stosb\n rep_stos_b: nop\n" END);
CODE(rep_outs, "rep outsb\n rep_outs_b: nop\n" END);
CODE(string_none, "rep movsb\n string_none_b: nop\n" END);
CODE(do_cpuid, "cpuid\n do_cpuid_b: nop\n" END);
CODE(rdmsr_, "rdmsr\n rdmsr_b: nop\n" END);
CODE(in_port, "in %dx, %al\n in_port_b: nop\n" END);
CODE(out_port, "out %al, %dx\n out_port_b: nop\n" END);
CODE(in_wide, "in %dx, %eax\n in_wide_b: nop\n" END);
CODE(sse, "movaps %xmm0, %xmm1\n sse_b: nop\n" END);
CODE(do_syscall, "syscall\n nop\n" END);
CODE(do_sysenter, "sysenter\n nop\n" END);
CODE(entry, "nop\n entry_b: nop\n" END);
CODE(load1, "mov (%rax), %cl\n" END);
CODE(load2, "mov (%rax), %cx\n" END);
CODE(load4, "mov (%rax), %ecx\n" END);
CODE(load8, "mov (%rax), %rcx\n" END);
CODE(load16, "movups (%rax), %xmm0\n" END);
CODE(store1, "mov %cl, (%rax)\n" END);
CODE(store2, "mov %cx, (%rax)\n" END);
CODE(store4, "mov %ecx, (%rax)\n" END);
CODE(store8, "mov %rcx, (%rax)\n" END);
CODE(store16, "movups %xmm0, (%rax)\n" END);
CODE(add_memory, "add %ecx, (%rax)\n" END);
CODE(push_, "push %rcx\n push__next:" END);
CODE(pop_, "pop %rcx\n pop__next:" END);
CODE(movs, "movsb\n movs_next:" END);
CODE(get_dr0, "mov %dr0, %rbx\n" END);
CODE(get_dr4, "mov %dr4, %rbx\n" END);
CODE(get_dr6, "mov %dr6, %rbx\n" END);
CODE(set_dr0, "mov %rax, %dr0\n" END);
CODE(set_dr5, "mov %rax, %dr5\n" END);
CODE(set_dr6, "mov %rax, %dr6\n" END);
CODE(set_dr7, "mov %rax, %dr7\n" END);
CODE(pop_ss_32, ".code32\n pop %ss\n pop_ss_b: nop\n pop_ss_c: nop\n .code64\n" END);

extern u8 rep_outs_b[], push__next[], pop__next[], movs_next[], nops_b[], nops_c[], mov_ss_b[], mov_ss_c[], mov_ds_b[],
    popf_b[], popf_c[], jump_b[], jz_not_at[], jz_not_b[], call_b[], int_n_b[], rep_stos_b[], string_none_b[],
    do_cpuid_b[], rdmsr_b[], in_port_b[], out_port_b[], in_wide_b[], sse_b[], entry_b[], pop_ss_b[], pop_ss_c[];

static u8 data[64] __attribute__((aligned(64)));

/* A step from `code` must end at `rip`. */
static void step(const char *name, unsigned r, const u8 *code, const u8 *rip)
{
    struct state s = ring(r, code);

    s.rflags |= FL_TF | (r && (code == in_port || code == out_port) ? FL_IOPL : 0);
    s.rdx = code == in_port || code == out_port ? 0x80 : s.ss;
    s.rdi = (u64)data;
    s.rcx = code == rdmsr_ ? MSR_STAR : code == string_none ? 0 : 3;
    write_dr6(0);
    run(&s);
    expect(name, &s, DB, NO_ERROR, rip);
    check("DR6", s.dr6, DR6_FIXED | DR6_BS);
    check("TF is saved", s.rflags & FL_TF, FL_TF);
    check("the handler has no TF", s.h_rflags & FL_TF, 0);
}

static void steps(void)
{
    struct state s;

    for (unsigned r = 0; r < 4; r += 3) {
        step("step: NOP", r, nops, nops_b);
        step("step: MOV SS holds it back", r, mov_ss, mov_ss_c);
        step("step: MOV DS does not", r, mov_ds, mov_ds_b);
        step("step: JMP", r, jump, jump_b);
        step("step: CALL", r, call, call_b);
        step("step: JZ not taken", r, jz_not_at, jz_not_b);
        step("step: REP STOS stops at each element", r, rep_stos, rep_stos);
        step("step: CPUID", r, do_cpuid, do_cpuid_b);
        step("step: IN", r, in_port, in_port_b);
        step("step: OUT", r, out_port, out_port_b);
        step("step: REP MOVS of nothing", r, string_none, string_none_b);
        step("step: MOVAPS", r, sse, sse_b);
        if (r == 0)
            step("step: RDMSR", r, rdmsr_, rdmsr_b);

        s = ring(r, popf);
        *(u64 *)s.rsp = FL_TF | FL_ONE;
        run(&s);
        expect("POPF sets TF: after the next instruction", &s, DB, NO_ERROR, popf_c);
        s = ring(r, popf);
        *(u64 *)s.rsp = FL_ONE;
        s.rflags |= FL_TF;
        run(&s);
        expect("POPF clears TF: the step of POPF itself", &s, DB, NO_ERROR, popf_b);
        check("TF is clear", s.rflags & FL_TF, 0);
        s = ring(r, int_n);
        s.rflags |= FL_TF;
        run(&s);
        expect("INT n under TF", &s, 0x42, NO_ERROR, int_n_b);
        check("TF is in its frame", s.rflags & FL_TF, FL_TF);
        s = ring(r, ud2);
        s.rflags |= FL_TF;
        run(&s);
        expect("a fault under TF", &s, UD, NO_ERROR, ud2);
        s = ring(r, pushf);
        s.rflags |= FL_TF;
        *(u64 *)(s.rsp - 8) = 0;
        run(&s);
        check("PUSHF shows TF", *(u64 *)(s.rsp) & FL_TF, FL_TF);
    }
    s = ring(0, rep_stos);
    s.rdi = (u64)data;
    s.rcx = 2;
    s.rflags |= FL_TF;
    run(&s);
    check("REP STOS, one element", s.rcx, 1);
    check("RF is saved inside", s.rflags & FL_RF, FL_RF);
    s.rip = (u64)rep_stos;
    run(&s);
    expect("REP STOS, the last element", &s, DB, NO_ERROR, rep_stos_b);
    check("RF is not saved behind it", s.rflags & FL_RF, 0);
    s = ring(0, rep_outs);
    s.rsi = (u64)data;
    s.rcx = 2;
    s.rdx = 0x80;
    s.rflags |= FL_TF;
    run(&s);
    expect("REP OUTS, one element", &s, DB, NO_ERROR, rep_outs);
    check("its RCX", s.rcx, 1);
    check("RF is saved inside REP OUTS", s.rflags & FL_RF, FL_RF);
    run(&s);
    expect("REP OUTS, the last element", &s, DB, NO_ERROR, rep_outs_b);
    s = compat(3, pop_ss_32);
    s.rsp = STACK_TOP(stacks[3]) - 64;
    *(u32 *)s.rsp = SEL_DATA3;
    s.rflags |= FL_TF;
    run(&s);
    expect("step: POP SS holds it back", &s, DB, NO_ERROR, pop_ss_c);
    write_dr6(0xe00f);
    s = ring(3, nops);
    s.rflags |= FL_TF;
    run(&s);
    check("a step leaves BD and BT of DR6 as they are", s.dr6 & ~0xfull, DR6_FIXED | 0xe000);
}

static void steps_of_system_calls(void)
{
    struct state s = ring(3, do_syscall);

    wrmsr(MSR_STAR, (u64)0x23 << 48 | (u64)SEL_CODE0 << 32);
    wrmsr(MSR_LSTAR, (u64)entry);
    wrmsr(MSR_FMASK, FL_TF);
    s.rflags |= FL_TF;
    run(&s);
    expect("SYSCALL, TF masked", &s, END_VECTOR, NO_ERROR, entry_end);
    check("R11 has it", s.r11 & FL_TF, FL_TF);
    wrmsr(MSR_FMASK, 0);
    s = ring(3, do_syscall);
    s.rflags |= FL_TF;
    run(&s);
    expect("SYSCALL, TF not masked", &s, DB, NO_ERROR, entry);
    if (cpu_amd)
        return;
    wrmsr(MSR_SYSENTER_CS, SEL_CODE0);
    wrmsr(MSR_SYSENTER_EIP, (u64)entry);
    wrmsr(MSR_SYSENTER_ESP, STACK_TOP(event_stacks[5]) - 64);
    s = ring(3, do_sysenter);
    s.rflags |= FL_TF;
    run(&s);
    expect("SYSENTER keeps TF: a step at its target", &s, DB, NO_ERROR, entry);
}

/* Breakpoint n, local, of a kind, 1, 2, 4 or 8 bytes. */
static u64 dr7(unsigned n, unsigned kind, unsigned length)
{
    unsigned len = length == 8 ? 2 : length - 1;

    return DR7_FIXED | 1ull << 2 * n | (u64)(kind | len << 2) << (16 + 4 * n);
}

static void set_dr(unsigned n, u64 v)
{
    switch (n) {
    case 0:
        write_dr0(v);
        break;
    case 1:
        write_dr1(v);
        break;
    case 2:
        write_dr2(v);
        break;
    default:
        write_dr3(v);
    }
}

static void code_breakpoints(void)
{
    for (unsigned n = 0; n < 4; n++)
        for (unsigned r = 0; r < 4; r++) {
            struct state s = ring(r, nops);

            set_dr(n, (u64)nops_b);
            write_dr6(0);
            write_dr7(dr7(n, EXECUTE, 1));
            run(&s);
            expect("code breakpoint: before the instruction", &s, DB, NO_ERROR, nops_b);
            check("DR6", s.dr6, DR6_FIXED | 1u << n);
            check("RF is not saved", s.rflags & FL_RF, 0);
            s = ring(r, nops_b);
            s.rflags |= FL_RF;
            run(&s);
            expect("RF passes it", &s, END_VECTOR, NO_ERROR, nops_end);
            check("RF is cleared", s.rflags & FL_RF, 0);
            s = ring(r, nops);
            s.rflags |= FL_RF;
            run(&s);
            expect("RF lasts one instruction", &s, DB, NO_ERROR, nops_b);
            write_dr7(DR7_FIXED | 2ull << 2 * n);
            s = ring(r, nops);
            run(&s);
            expect("code breakpoint, global", &s, DB, NO_ERROR, nops_b);
            write_dr7(DR7_FIXED);
            s = ring(r, nops);
            run(&s);
            expect("not enabled", &s, END_VECTOR, NO_ERROR, nops_end);
            set_dr(n, 0);
        }
    struct state s = ring(0, ud2);
    write_dr0((u64)ud2);
    write_dr7(dr7(0, EXECUTE, 1));
    run(&s);
    expect("code breakpoint goes before #UD", &s, DB, NO_ERROR, ud2);
    s = ring(0, ud2);
    s.rflags |= FL_RF;
    run(&s);
    expect("then #UD", &s, UD, NO_ERROR, ud2);
    s = ring(0, rep_stos);
    s.rdi = (u64)data;
    s.rcx = 5;
    s.rflags |= FL_RF;
    write_dr0((u64)rep_stos);
    run(&s);
    expect("RF lasts through a repeated instruction", &s, END_VECTOR, NO_ERROR, rep_stos_end);
    write_dr0((u64)mov_ss_b);
    s = ring(0, mov_ss);
    s.rdx = SEL_DATA0;
    run(&s);
    expect("MOV SS hides a code breakpoint", &s, END_VECTOR, NO_ERROR, mov_ss_end);
    write_dr0((u64)nops_b);
    write_dr1((u64)nops_b);
    write_dr7(dr7(0, EXECUTE, 1) | dr7(1, EXECUTE, 1));
    write_dr6(0);
    s = ring(0, nops);
    run(&s);
    check("two at once", s.dr6 & 15, 3);
    s = ring(0, nops);
    s.rflags |= FL_TF;
    write_dr6(0);
    run(&s);
    expect("a step onto a breakpoint", &s, DB, NO_ERROR, nops_b);
    write_dr7(DR7_FIXED);
    /* the code was translated or cached before */
    for (unsigned i = 0; i < 3; i++) {
        s = ring(3, nops);
        run(&s);
    }
    write_dr0((u64)nops_c);
    write_dr7(dr7(0, EXECUTE, 1));
    s = ring(3, nops);
    run(&s);
    expect("a breakpoint in code that has run before", &s, DB, NO_ERROR, nops_c);
    write_dr7(DR7_FIXED);
}

/* Does an access of `size` at `at` touch a breakpoint of `length` at `bp`? */
static bool touches(u64 bp, unsigned length, u64 at, unsigned size)
{
    bp &= ~(u64)(length - 1);
    return at < bp + length && bp < at + size;
}

static void data_breakpoints(void)
{
    static const struct {
        const u8 *code, *end;
        unsigned size;
        bool write;
    } t[] = {{load1, load1_end, 1, false},     {load2, load2_end, 2, false},         {load4, load4_end, 4, false},
             {load8, load8_end, 8, false},     {load16, load16_end, 16, false},      {store1, store1_end, 1, true},
             {store2, store2_end, 2, true},    {store4, store4_end, 4, true},        {store8, store8_end, 8, true},
             {store16, store16_end, 16, true}, {add_memory, add_memory_end, 4, true}};

    for (unsigned n = 0; n < 4; n++)
        for (unsigned kind = WRITE; kind <= ACCESS; kind += 2)
            for (unsigned length = 1; length <= 8; length *= 2) {
                u64 bp = (u64)data + 24;

                set_dr(n, bp + (n & (length - 1)));
                write_dr7(dr7(n, kind, length));
                for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
                    for (u64 at = bp - 17; at < bp + 10; at++) {
                        struct state s = ring(n == 3 ? 3 : 0, t[i].code);
                        bool hit = touches(bp, length, at, t[i].size) && (t[i].write || kind == ACCESS);
                        u64 id = n << 24 | kind << 20 | length << 16 | i << 8 | (at - bp + 17);

                        s.rax = at;
                        write_dr6(0);
                        run(&s);
                        tally("data breakpoint: vector", id, s.vector, hit ? DB : END_VECTOR);
                        tally("data breakpoint: DR6", id, s.dr6, DR6_FIXED | (hit ? 1u << n : 0));
                        tally("data breakpoint: RIP", id, s.rip, (u64)t[i].end - (hit ? 2 : 0));
                    }
                set_dr(n, 0);
            }
    tally_end("data breakpoints");
    struct state s = ring(3, push_);
    write_dr0(s.rsp - 8);
    write_dr7(dr7(0, WRITE, 8));
    run(&s);
    expect("data breakpoint: PUSH", &s, DB, NO_ERROR, push__next);
    s = ring(3, pop_);
    write_dr0(s.rsp);
    write_dr7(dr7(0, ACCESS, 8));
    run(&s);
    expect("data breakpoint: POP", &s, DB, NO_ERROR, pop__next);
    s = ring(3, movs);
    s.rsi = (u64)data;
    s.rdi = (u64)data + 32;
    write_dr0((u64)data + 32);
    write_dr7(dr7(0, WRITE, 1));
    run(&s);
    expect("data breakpoint: MOVS, target", &s, DB, NO_ERROR, movs_next);
    s = ring(3, movs);
    s.rsi = (u64)data + 32;
    s.rdi = (u64)data;
    run(&s);
    expect("a write breakpoint does not see reads", &s, END_VECTOR, NO_ERROR, movs_end);
    write_dr0((u64)nops);
    write_dr7(dr7(0, ACCESS, 8));
    s = ring(3, nops);
    run(&s);
    expect("a data breakpoint does not see fetches", &s, END_VECTOR, NO_ERROR, nops_end);
    s = ring(3, rep_stos);
    s.rdi = (u64)data;
    s.rcx = 40;
    write_dr0((u64)data + 5);
    write_dr7(dr7(0, WRITE, 1));
    write_dr6(0);
    run(&s);
    check("REP STOS: a data breakpoint inside", s.vector << 8 | (s.dr6 & 15), DB << 8 | 1);
    s = ring(0, load4);
    s.rax = 0x7f0000000000;
    write_dr0(s.rax);
    write_dr7(dr7(0, ACCESS, 4));
    write_dr6(0);
    run(&s);
    expect("an access that faults meets no breakpoint", &s, PF, 0, load4);
    check("DR6 after it", s.dr6, DR6_FIXED);
    write_dr7(DR7_FIXED);
}

static void port_breakpoints(void)
{
    write_cr4(read_cr4() | CR4_DE);
    for (unsigned length = 1; length <= 4; length *= 2)
        for (u16 port = 0x7b; port < 0x88; port++) {
            for (unsigned i = 0; i < 3; i++) {
                const u8 *code = i == 0 ? in_port : i == 1 ? out_port : in_wide;
                const u8 *next = i == 0 ? in_port_b : i == 1 ? out_port_b : in_wide_b;
                const u8 *end = i == 0 ? in_port_end : i == 1 ? out_port_end : in_wide_end;
                struct state s = ring(0, code);
                bool hit = touches(0x80, length, port, i == 2 ? 4 : 1);

                if (i == 1)
                    port = port < 0x80 ? 0x80 : port; /* what lies below is not for writing */
                hit = touches(0x80, length, port, i == 2 ? 4 : 1);
                s.rdx = port;
                write_dr0(0x80);
                write_dr7(dr7(0, PORT, length));
                write_dr6(0);
                run(&s);
                tally("port breakpoint", length << 16 | i << 12 | port, s.vector << 8 | (s.dr6 & 15),
                      hit ? DB << 8 | 1 : END_VECTOR << 8);
                tally("port breakpoint, RIP", length << 16 | i << 12 | port, s.rip, (u64)(hit ? next : end));
            }
        }
    tally_end("port breakpoints");
    write_dr7(DR7_FIXED);
    write_cr4(read_cr4() & ~(u64)CR4_DE);
}

static struct state with_rax(unsigned r, const u8 *code, u64 rax)
{
    struct state s = ring(r, code);

    s.rax = rax;
    run(&s);
    return s;
}

static void registers(void)
{
    struct state s;

    for (unsigned r = 1; r < 4; r++) {
        s = with_rax(r, get_dr0, 0);
        expect("MOV from DR outside ring 0", &s, GP, 0, get_dr0);
        s = with_rax(r, set_dr7, 0);
        expect("MOV to DR outside ring 0", &s, GP, 0, set_dr7);
    }
    s = with_rax(0, set_dr6, 1ull << 32);
    expect("DR6, upper half", &s, GP, 0, set_dr6);
    s = with_rax(0, set_dr7, 1ull << 32);
    expect("DR7, upper half", &s, GP, 0, set_dr7);
    s = with_rax(0, set_dr0, 0xffff800012345678);
    expect("DR0, 64 bits", &s, END_VECTOR, NO_ERROR, set_dr0_end);
    check("DR0", read_dr0(), 0xffff800012345678);
    write_dr6(0);
    check("DR6, what is fixed", read_dr6() & ~0x10800ull, DR6_FIXED & ~0x10800u);
    write_dr7(0);
    check("DR7, what is fixed", read_dr7(), DR7_FIXED);
    write_dr7(0xffffdbff & ~(u64)DR7_GD & ~0x3ffull);
    check("DR7, what is not kept", read_dr7() & 0xd400, DR7_FIXED);
    write_dr7(DR7_FIXED);
    s = with_rax(0, get_dr4, 0);
    expect("DR4 is DR6 without CR4.DE", &s, END_VECTOR, NO_ERROR, get_dr4_end);
    check("its value", s.rbx, read_dr6());
    write_cr4(read_cr4() | CR4_DE);
    s = with_rax(0, get_dr4, 0);
    expect("DR4 with CR4.DE", &s, UD, NO_ERROR, get_dr4);
    s = with_rax(0, set_dr5, 0);
    expect("DR5 with CR4.DE", &s, UD, NO_ERROR, set_dr5);
    write_cr4(read_cr4() & ~(u64)CR4_DE);
    for (unsigned i = 0; i < 2; i++) {
        const u8 *code = i ? set_dr0 : get_dr6;

        write_dr6(0);
        write_dr7(DR7_FIXED | DR7_GD);
        s = with_rax(0, code, 0);
        expect("DR7.GD", &s, DB, NO_ERROR, code);
        check("DR6.BD", s.dr6, DR6_FIXED | DR6_BD);
        check("GD is clear in the handler", read_dr7(), DR7_FIXED);
    }
    write_dr0(0);
}

int main(void)
{
    steps();
    steps_of_system_calls();
    code_breakpoints();
    data_breakpoints();
    port_breakpoints();
    registers();
    return 0;
}
