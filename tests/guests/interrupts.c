/*
 * When interrupts arrive: shadows of STI and MOV SS, POPF, IRET, CR8, priorities, HLT, NMIs and their blocking, the local
 * APIC's timer and the 8259 with the 8254. Source: SDM vol. 3, 6.8, 6.7.1, 10.8; vol. 2, STI and MOV.
 */
#include "guest.h"

#define V       0x60u
#define V_LOW   0x51u
#define APIC    0xfee00000ull
#define NMI_IPI 0x4400u /* delivery mode NMI, level assert */

enum {
    APIC_ID = 0x20,
    APIC_EOI = 0xb0,
    APIC_SVR = 0xf0,
    APIC_ISR = 0x100,
    APIC_IRR = 0x200,
    APIC_ICR = 0x300,
    APIC_ICR_HIGH = 0x310,
    APIC_LVT_TIMER = 0x320,
    APIC_LINT0 = 0x350,
    APIC_TIMER = 0x380,
    APIC_DIVIDE = 0x3e0
};

static u32 apic_read(unsigned reg)
{
    return *(volatile u32 *)(APIC + reg);
}

static void apic_write(unsigned reg, u32 v)
{
    *(volatile u32 *)(APIC + reg) = v;
}

static void self_ipi(u32 vector)
{
    apic_write(APIC_ICR, 0x44000 | vector);
}

static void self_nmi(void)
{
    apic_write(APIC_ICR_HIGH, apic_read(APIC_ID));
    apic_write(APIC_ICR, NMI_IPI);
}

CODE(sti, "sti\n sti_a: nop\n sti_b: nop\n" END);
CODE(sti_sti, "sti\n sti\n sti_sti_b: nop\n nop\n" END);
CODE(sti_cli, "sti\n cli\n nop\n" END);
CODE(sti_ss, "sti\n mov %edx, %ss\n nop\n sti_ss_b: nop\n" END);
CODE(sti_jump, "sti\n jmp 1f\n nop\n 1: sti_jump_b: nop\n" END);
CODE(sti_call, "sti\n call 1f\n nop\n 1: sti_call_b: nop\n" END);
CODE(sti_page, ".balign 4096\n .fill 4095, 1, 0x90\n sti_page_at: sti\n nop\n sti_page_b: nop\n" END);
CODE(sti_hlt, "sti\n hlt\n sti_hlt_b: nop\n" END);
CODE(hlt, "hlt\n hlt_b: jmp hlt\n");
CODE(popf, "popfq\n popf_b: nop\n nop\n" END);
CODE(nops, "nop\n nops_b: nop\n nop\n" END);
CODE(lower_cr8, "mov %rax, %cr8\n lower_cr8_b: nop\n nop\n" END);
/* The store needs not have its effect at once. */
CODE(send, "mov %ecx, (%rax)\n send_b: jmp send_b\n");
CODE(send_ss, "mov %edx, %ss\n mov %ecx, (%rax)\n send_ss_b: jmp send_ss_b\n");
CODE(spin, "1: jmp 1b\n");
CODE(rep_long, "rep stosb\n" END);
CODE(sti_fault, "sti\n sti_fault_b: ud2\n" END);

extern u8 sti_b[], sti_sti_b[], sti_ss_b[], sti_jump_b[], sti_call_b[], sti_page_at[], sti_page_b[], sti_hlt_b[],
    hlt_b[], popf_b[], lower_cr8_b[], send_b[], send_ss_b[], sti_fault_b[];

static struct state at(unsigned r, const u8 *code, u64 flags)
{
    struct state s = ring(r, code);

    s.rflags |= flags;
    s.rax = APIC + APIC_ICR;
    s.rdx = s.ss;
    return s;
}

/* With an interrupt pending: it must arrive at `rip`, or not at all (NULL). */
static void pending(const char *name, unsigned r, const u8 *code, u64 flags, const u8 *rip, const u8 *end)
{
    struct state s = at(r, code, flags);

    self_ipi(V);
    if (code == popf)
        *(u64 *)s.rsp = FL_IF | FL_ONE;
    run(&s);
    if (rip) {
        expect(name, &s, V, NO_ERROR, rip);
        check("the saved IF", s.rflags & FL_IF, FL_IF);
        check("it is in service", apic_read(APIC_ISR + V / 32 * 16) >> V % 32 & 1, 1);
        apic_write(APIC_EOI, 0);
        return;
    }
    expect(name, &s, END_VECTOR, NO_ERROR, end);
    s = at(0, nops, FL_IF);
    run(&s);
    expect("it arrives later", &s, V, NO_ERROR, nops);
    apic_write(APIC_EOI, 0);
}

static void shadows(void)
{
    pending("IF clear", 0, nops, 0, NULL, nops_end);
    pending("IRET sets IF: at once", 0, nops, FL_IF, nops, NULL);
    pending("IRET sets IF, ring 3", 3, nops, FL_IF, nops, NULL);
    pending("STI: one instruction later", 0, sti, 0, sti_b, NULL);
    pending("STI in ring 3", 3, sti, FL_IOPL, sti_b, NULL);
    pending("STI, STI: the second has no shadow", 0, sti_sti, 0, sti_sti_b, NULL);
    pending("STI, CLI: not at all", 0, sti_cli, 0, NULL, sti_cli_end);
    pending("STI, MOV SS: two instructions later", 0, sti_ss, 0, sti_ss_b, NULL);
    pending("STI, JMP: at the target", 0, sti_jump, 0, sti_jump_b, NULL);
    pending("STI, CALL: at the target", 0, sti_call, 0, sti_call_b, NULL);
    pending("STI at the end of a page", 0, sti_page_at, 0, sti_page_b, NULL);
    pending("STI, HLT: behind HLT", 0, sti_hlt, 0, sti_hlt_b, NULL);
    pending("POPF: at once", 0, popf, 0, popf_b, NULL);

    struct state s = at(0, sti_fault, 0);
    self_ipi(V);
    run(&s);
    expect("STI, then a fault: the fault", &s, UD, NO_ERROR, sti_fault_b);
    s = at(0, nops, FL_IF);
    run(&s);
    expect("the interrupt after it", &s, V, NO_ERROR, nops);
    apic_write(APIC_EOI, 0);

    s = at(0, send, FL_IF);
    s.rcx = 0x44000 | V;
    run(&s);
    expect("a self-IPI arrives behind the store that sends it", &s, V, NO_ERROR, send_b);
    apic_write(APIC_EOI, 0);
    s = at(0, send_ss, FL_IF);
    s.rcx = 0x44000 | V;
    run(&s);
    expect("sent in the shadow of MOV SS: behind the store", &s, V, NO_ERROR, send_ss_b);
    apic_write(APIC_EOI, 0);
}

static void priorities(void)
{
    struct state s;

    write_cr8(6);
    self_ipi(V);
    s = at(0, nops, FL_IF);
    run(&s);
    expect("CR8 holds its class back", &s, END_VECTOR, NO_ERROR, nops_end);
    s = at(0, lower_cr8, FL_IF);
    s.rax = 5;
    run(&s);
    expect("lowering CR8 lets it through", &s, V, NO_ERROR, lower_cr8_b);
    check("CR8 keeps its value", read_cr8(), 5);
    write_cr8(0);
    self_ipi(V_LOW);
    s = at(0, nops, FL_IF);
    run(&s);
    expect("a lower class waits while one is in service", &s, END_VECTOR, NO_ERROR, nops_end);
    apic_write(APIC_EOI, 0);
    s = at(0, nops, FL_IF);
    run(&s);
    expect("EOI lets it through", &s, V_LOW, NO_ERROR, nops);
    apic_write(APIC_EOI, 0);
    self_ipi(V_LOW);
    self_ipi(V);
    s = at(0, nops, FL_IF);
    run(&s);
    expect("the higher of two comes first", &s, V, NO_ERROR, nops);
    apic_write(APIC_EOI, 0);
    s = at(0, nops, FL_IF);
    run(&s);
    expect("then the lower", &s, V_LOW, NO_ERROR, nops);
    self_ipi(V);
    s = at(0, nops, FL_IF);
    run(&s);
    expect("a higher class interrupts one in service", &s, V, NO_ERROR, nops);
    apic_write(APIC_EOI, 0);
    apic_write(APIC_EOI, 0);
    self_ipi(V);
    self_ipi(V);
    s = at(0, nops, FL_IF);
    run(&s);
    apic_write(APIC_EOI, 0);
    s = at(0, nops, FL_IF);
    run(&s);
    expect("sent twice, delivered once", &s, END_VECTOR, NO_ERROR, nops_end);
}

static void nmis(void)
{
    struct state s = at(0, send, 0);

    apic_write(APIC_ICR_HIGH, apic_read(APIC_ID));
    s.rcx = NMI_IPI;
    run(&s);
    expect("NMI with IF clear", &s, NMI, NO_ERROR, send_b);
    self_nmi(); /* blocked: nothing happens here */
    self_nmi();
    s = at(0, nops, 0);
    run(&s);
    expect("IRET ends the blocking", &s, NMI, NO_ERROR, nops);
    s = at(0, nops, 0);
    run(&s);
    expect("one NMI is kept, not two", &s, END_VECTOR, NO_ERROR, nops_end);
    s = at(0, send_ss, 0);
    apic_write(APIC_ICR_HIGH, apic_read(APIC_ID));
    s.rcx = NMI_IPI;
    run(&s);
    expect("NMI behind an instruction in a shadow", &s, NMI, NO_ERROR, send_ss_b);
    self_ipi(V);
    s = at(3, nops, FL_IF);
    run(&s);
    expect("an interrupt after the NMI's IRET", &s, V, NO_ERROR, nops);
    apic_write(APIC_EOI, 0);

    /* IRET ends the blocking even if it faults (SDM vol. 3, 6.7.1) */
    s = at(0, send, 0);
    s.rcx = NMI_IPI;
    run(&s);
    self_nmi();
    s = at(0, nops, 0);
    s.cs = SEL_DATA0;
    run(&s);
    expect("IRET faults: the NMI that waited comes before the handler's first instruction", &s, NMI, NO_ERROR,
           stub_table + 16 * GP);
    s = at(0, nops, 0);
    run(&s);
    expect("no NMI is left", &s, END_VECTOR, NO_ERROR, nops_end);
}

static void timer_start(u32 lvt, u32 count)
{
    apic_write(APIC_DIVIDE, 0xb);
    apic_write(APIC_LVT_TIMER, lvt);
    apic_write(APIC_TIMER, count);
}

static void clocks(void)
{
    struct state s;

    timer_start(V, 10000);
    s = at(0, hlt, FL_IF);
    run(&s);
    check("HLT, woken by the local APIC's timer", s.vector, V);
    check("behind HLT", s.rip == (u64)hlt_b || s.rip == (u64)hlt, 1);
    apic_write(APIC_EOI, 0);
    timer_start(V, 10000);
    s = at(3, spin, FL_IF);
    run(&s);
    expect("a loop in ring 3 is interrupted", &s, V, NO_ERROR, spin);
    apic_write(APIC_EOI, 0);
    timer_start(0x20000 | V, 10000);
    for (unsigned i = 0; i < 3; i++) {
        s = at(0, hlt, FL_IF);
        run(&s);
        check("periodic", s.vector, V);
        apic_write(APIC_EOI, 0);
    }
    timer_start(0x10000, 0);
    s = at(0, nops, FL_IF); /* one may have come meanwhile */
    run(&s);
    if (s.vector == V)
        apic_write(APIC_EOI, 0);

    /* a repeated instruction is interrupted between elements */
    timer_start(V, 1000);
    s = at(0, rep_long, FL_IF);
    s.rdi = 0x2000000;
    s.rcx = 0x1800000;
    run(&s);
    if (s.vector == V) {
        check("REP STOS interrupted: RIP", s.rip, (u64)rep_long);
        check("REP STOS interrupted: RDI and RCX agree", s.rdi + s.rcx, 0x2000000 + 0x1800000);
        apic_write(APIC_EOI, 0);
        s.fs = s.gs = KEEP;
        run(&s);
    }
    expect("REP STOS goes on to its end", &s, END_VECTOR, NO_ERROR, rep_long_end);
    check("all of it", s.rcx, 0);

    /* 8259 through LINT0, 8254 channel 0 */
    apic_write(APIC_LINT0, 0x700);
    out8(0x20, 0x11);
    out8(0x21, 0x70);
    out8(0x21, 4);
    out8(0x21, 1);
    out8(0x43, 0x30);
    out8(0x40, 0);
    out8(0x40, 4);
    out8(0x21, 0xfe);
    s = at(0, hlt, FL_IF);
    run(&s);
    check("8254 through the 8259", s.vector, 0x70);
    out8(0x20, 0x0b);
    check("it is in service there", in8(0x20), 1);
    out8(0x20, 0x20);
    out8(0x21, 0xff);
    apic_write(APIC_LINT0, 0x10700);
}

int main(void)
{
    apic_write(APIC_SVR, 0x1ff);
    shadows();
    priorities();
    nmis();
    clocks();
    return 0;
}
