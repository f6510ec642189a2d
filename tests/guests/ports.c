/*
 * I/O privilege: CLI, STI, IN, OUT, INS, OUTS, PUSHF, POPF, IRET at every ring and IOPL; the I/O permission bitmap.
 * Source: SDM vol. 1, 19.5; vol. 2, POPF and IRET.
 */
#include "guest.h"

#define PORT 0x80 /* of diagnostic codes: writing to it does nothing */

CODE(do_cli, "cli\n" END);
CODE(do_sti, "sti\n nop\n" END);
CODE(in_al_dx, "in %dx, %al\n" END);
CODE(in_ax_dx, "in %dx, %ax\n" END);
CODE(in_eax_dx, "in %dx, %eax\n" END);
CODE(in_al_imm, "in $0x80, %al\n" END);
CODE(out_dx_al, "out %al, %dx\n" END);
CODE(out_dx_ax, "out %ax, %dx\n" END);
CODE(out_dx_eax, "out %eax, %dx\n" END);
CODE(out_imm_al, "out %al, $0x80\n" END);
CODE(do_insb, "insb\n" END);
CODE(do_insw, "insw\n" END);
CODE(do_insl, "insl\n" END);
CODE(do_rep_insb, "rep insb\n" END);
CODE(do_outsb, "outsb\n" END);
CODE(do_outsw, "outsw\n" END);
CODE(do_outsl, "outsl\n" END);
CODE(do_rep_outsb, "rep outsb\n" END);
CODE(do_popf, "popfq\n" END);
CODE(do_popfw, "popfw\n" END);
CODE(do_pushf, "pushfq\n pop %rax\n" END);
CODE(do_iret, "iretq\n");
CODE(after, END);

static u8 buffer[64];

static struct state go(unsigned r, unsigned iopl, const u8 *code, u16 port)
{
    struct state s = ring(r, code);

    s.rflags |= iopl << 12;
    s.rdx = port;
    s.rcx = 3;
    s.rdi = s.rsi = (u64)buffer;
    run(&s);
    return s;
}

static u64 outcome(const struct state *s)
{
    return s->vector << 32 | s->has_error << 16 | s->error;
}
#define PASSES ((u64)END_VECTOR << 32)
#define FAULTS ((u64)GP << 32 | 1 << 16)

static const u8 *const io[] = {in_al_dx,   in_ax_dx,   in_eax_dx,   in_al_imm,   out_dx_al, out_dx_ax,
                               out_dx_eax, out_imm_al, do_insb,     do_insw,     do_insl,   do_outsb,
                               do_outsw,   do_outsl,   do_rep_insb, do_rep_outsb};

static void rings_and_levels(void)
{
    for (unsigned r = 0; r < 4; r++)
        for (unsigned iopl = 0; iopl < 4; iopl++) {
            u64 id = r << 4 | iopl;
            bool may = r <= iopl;
            struct state s;

            for (unsigned i = 0; i < sizeof(io) / sizeof(io[0]); i++) {
                s = go(r, iopl, io[i], PORT);
                tally("I/O, no bitmap", id | i << 8, outcome(&s), may ? PASSES : FAULTS);
                if (!may) {
                    tally("RIP of the fault", id | i << 8, s.rip, (u64)io[i]);
                    tally("RCX of the fault", id | i << 8, s.rcx, 3);
                    tally("RDI of the fault", id | i << 8, s.rdi, (u64)buffer);
                }
            }
            s = go(r, iopl, do_cli, 0);
            tally("CLI", id, outcome(&s), may ? PASSES : FAULTS);
            s = ring(r, do_cli);
            s.rflags |= FL_IF | iopl << 12;
            run(&s);
            tally("CLI, IF", id, s.rflags & FL_IF, may ? 0 : FL_IF);
            s = go(r, iopl, do_sti, 0);
            tally("STI", id, outcome(&s), may ? PASSES : FAULTS);
            tally("STI, IF", id, s.rflags & FL_IF, may ? FL_IF : 0);
        }
    tally_end("every ring and IOPL");
}

/* What POPF and IRET make of the flags: `old` is in force, `new` is popped. */
static u64 popped(unsigned r, u64 old, u64 new, bool iret, bool word)
{
    u64 may = FL_CF | 0x4 | 0x10 | FL_ZF | 0x80 | FL_DF | FL_OF | FL_NT | FL_AC | FL_ID | (iret ? FL_RF : 0);
    unsigned iopl = old >> 12 & 3;

    if (r <= iopl)
        may |= FL_IF;
    if (r == 0)
        may |= FL_IOPL | (iret ? FL_VIF | FL_VIP : 0);
    if (word)
        may &= 0xffff;
    return (old & ~may) | (new &may) | FL_ONE;
}

static void flags_one(unsigned r, u64 old, u64 new, unsigned how)
{
    static const u8 *const code[] = {do_popf, do_popfw, do_iret};
    struct state s = ring(r, code[how]);
    u64 *stack = (u64 *)s.rsp;

    stack[0] = new;
    if (how == 2) {
        stack[0] = (u64)after;
        stack[1] = s.cs;
        stack[2] = new;
        stack[3] = s.rsp + 64;
        stack[4] = s.ss;
    }
    s.rflags = old | FL_ONE;
    run(&s);
    u64 id = (u64)how << 48 | (u64)r << 44 | old << 22 | new;
    tally("flags: event", id, outcome(&s), PASSES);
    u64 want = popped(r, old, new, how == 2, how == 1) & ~(u64)FL_RF; /* INT n clears RF first */
    tally("flags", id, s.rflags, want);
}

static void popped_flags(void)
{
    static const u64 bits[] = {FL_CF, FL_IF, 0x1000, 0x2000, FL_DF,      FL_AC, FL_ID,
                               FL_RF, FL_VM, FL_VIF, FL_VIP, 1ull << 31, 0x8028};
    const unsigned n = sizeof(bits) / sizeof(bits[0]);

    for (unsigned how = 0; how < 3; how++)
        for (unsigned r = 0; r < 4; r++)
            for (unsigned i = 0; i < 16; i++)
                for (unsigned j = 0; j < 1u << n; j += 37) {
                    u64 old = (i & 3) << 12 | (i & 4 ? FL_IF : 0) | (i & 8 ? FL_AC | FL_DF | FL_ID : 0), new = 0;

                    for (unsigned k = 0; k < n; k++)
                        new |= j >> k & 1 ? bits[k] : 0;
                    if (how == 2 && r == 0)
                        new &=
                            ~(u64)FL_VM; /* virtual-8086 mode is not to be entered from long mode; ring 0 would try */
                    if (how != 1 && (new &FL_NT) && how == 2)
                        new &= ~(u64)FL_NT;
                    flags_one(r, old, new, how);
                }
    tally_end("POPFQ, POPFW, IRETQ");
    struct state s = ring(3, do_pushf);
    s.rflags |= FL_RF | FL_CF | FL_AC;
    run(&s);
    check("PUSHF shows no RF", s.rax, FL_ONE | FL_CF | FL_AC);
}

/* --- the bitmap --- */

static void set_tss_limit(u32 limit)
{
    gdt[SEL_TSS / 8] = descriptor((u32)(u64)&tss, limit, 0x89, 0);
    asm volatile("ltr %w0" ::"r"(SEL_TSS));
}

static bool may_read(u32 limit, u16 port, unsigned size)
{
    u32 byte = tss.iomap + port / 8u;

    if (byte + 1 > limit)
        return false;
    const u8 *p = (const u8 *)&tss + byte;
    return !((p[0] | p[1] << 8) >> (port & 7) & ((1u << size) - 1));
}

static void try_ports(u32 limit, u64 id)
{
    static const u16 ports[] = {0,     0x7e,  0x7f,   0x80,   0x81,   0x84,   0x85,   0x86,   0x87,
                                0x88,  0x8c,  0x8d,   0x8e,   0x8f,   0x90,   0x4ff,  0x500,  0x7fd,
                                0x7fe, 0x7ff, 0x1000, 0x7ffe, 0xfff8, 0xfffc, 0xfffd, 0xfffe, 0xffff};
    static const u8 *const in[] = {in_al_dx, in_ax_dx, in_eax_dx};

    for (unsigned i = 0; i < sizeof(ports) / sizeof(ports[0]); i++)
        for (unsigned size = 0; size < 3; size++) {
            struct state s = go(3, 0, in[size], ports[i]);

            tally("bitmap", id << 24 | ports[i] << 4 | size, outcome(&s),
                  may_read(limit, ports[i], 1 << size) ? PASSES : FAULTS);
        }
}

static void bitmap(void)
{
    const u32 start = offsetof(struct tss, bitmap);
    u32 seed = 12345;

    tss.iomap = (u16)start;
    tss.bitmap[8192] = 0xff;
    set_tss_limit(start + 8192);
    try_ports(start + 8192, 1);
    tally_end("all ports allowed");
    for (unsigned round = 0; round < 20; round++) {
        for (unsigned i = 0; i < 8192; i++) {
            seed = seed * 1103515245 + 12345;
            tss.bitmap[i] = (u8)(seed >> 16 & seed >> 24 & (round & 1 ? 0xff : seed >> 8));
        }
        try_ports(start + 8192, 0x100 + round);
    }
    tally_end("bits of the map");
    for (unsigned i = 0; i < 8192; i++)
        tss.bitmap[i] = 0;
    for (u32 limit = start + 14; limit < start + 20; limit++) {
        set_tss_limit(limit);
        try_ports(limit, 0x200 + limit - start);
    }
    set_tss_limit(start + 8191);
    try_ports(start + 8191, 0x300);
    for (u16 base = (u16)start; base < start + 64; base += 7) { /* the map may begin anywhere */
        tss.iomap = base;
        for (unsigned i = 0; i < 96; i++)
            tss.bitmap[i] = (u8)(i * 0x35);
        set_tss_limit(start + 8192);
        try_ports(start + 8192, 0x400 + base - start);
    }
    tss.iomap = 0xffff;
    set_tss_limit(sizeof(tss) - 1);
    try_ports(sizeof(tss) - 1, 0x500);
    tally_end("limits and bases of the map");
    tss.iomap = (u16)start;
    for (unsigned i = 0; i < 8192; i++)
        tss.bitmap[i] = 0;
    set_tss_limit(start + 8192);
    for (unsigned i = 0; i < sizeof(io) / sizeof(io[0]); i++) {
        tss.bitmap[PORT / 8] = 0;
        struct state s = go(3, 0, io[i], PORT);
        tally("every instruction, allowed", i, outcome(&s), PASSES);
        tss.bitmap[PORT / 8] = 1;
        s = go(3, 0, io[i], PORT);
        tally("every instruction, forbidden", i, outcome(&s), FAULTS);
        s = go(3, 3, io[i], PORT);
        tally("IOPL goes before the map", i, outcome(&s), PASSES);
        s = go(0, 0, io[i], PORT);
        tally("so does ring 0", i, outcome(&s), PASSES);
    }
    tally_end("the map for every instruction");
    tss.iomap = sizeof(tss);
    set_tss_limit(sizeof(tss) - 1);
}

/* What moves: elements, pointers, counts. */
static void strings(void)
{
    struct state s = go(0, 0, do_rep_insb, PORT);

    check("REP INSB, RCX", s.rcx, 0);
    check("REP INSB, RDI", s.rdi, (u64)buffer + 3);
    s = go(0, 0, do_outsl, PORT);
    check("OUTSL, RSI", s.rsi, (u64)buffer + 4);
    s = ring(0, do_rep_outsb);
    s.rflags |= FL_DF;
    s.rcx = 5;
    s.rdx = PORT;
    s.rsi = (u64)buffer + 8;
    run(&s);
    check("REP OUTSB downwards, RSI", s.rsi, (u64)buffer + 3);
    s = ring(0, do_rep_insb);
    s.rcx = 4;
    s.rdx = PORT;
    s.rdi = 0x7f0000000000;
    run(&s);
    expect("INS into nowhere", &s, PF, 2, do_rep_insb);
    check("its RCX", s.rcx, 4);
    s = ring(0, do_insw);
    s.rdx = PORT;
    s.rdi = 0x800000000000;
    run(&s);
    expect("INS, not canonical", &s, GP, 0, do_insw);
}

int main(void)
{
    rings_and_levels();
    popped_flags();
    bitmap();
    strings();
    return 0;
}
