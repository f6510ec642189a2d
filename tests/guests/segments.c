/*
 * Segmentation in 32-bit protected mode, without paging: limits upwards and expand-down, rights, stacks of 16 and 32 bits,
 * code limits, call gates with parameters, stacks from a 32-bit TSS, returns, conforming code, the instructions that only
 * this mode has. Source: SDM vol. 3, chapter 5 and 6.12; vol. 2.
 */
#include "runtime32.h"

static u8 data[512] __attribute__((aligned(256)));

/* --- limits and rights of data --- */

CODE(load1, "mov %es:(%ebx), %al\n" END);
CODE(load2, "mov %es:(%ebx), %ax\n" END);
CODE(load4, "mov %es:(%ebx), %eax\n" END);
CODE(load8, "fldl %es:(%ebx)\n" END);
CODE(store1, "mov %al, %es:(%ebx)\n" END);
CODE(store2, "mov %ax, %es:(%ebx)\n" END);
CODE(store4, "mov %eax, %es:(%ebx)\n" END);
CODE(store8, "fsts %es:(%ebx)\n fstpl %es:(%ebx)\n" END);
CODE(add4, "addl %eax, %es:(%ebx)\n" END);
CODE(string, "movsb\n" END);
CODE(rep_string, "rep stosb\n" END);
CODE(load_ds, "mov %eax, %ds\n" END);
CODE(load_es, "mov %eax, %es\n" END);
CODE(load_ss, "mov %eax, %ss\n" END);
CODE(address16, "addr16 mov %es:-1(%bx), %al\n" END);

struct segment {
    u32 base, limit; /* in bytes, as the processor counts them */
    bool down, big, writable;
};

static bool inside(const struct segment *g, u32 offset, u32 size)
{
    u64 last = (u64)offset + size - 1;

    if (!g->down)
        return last <= g->limit;
    return offset > g->limit && last <= (g->big ? 0xffffffffull : 0xffffull);
}

static void put_segment(unsigned selector, const struct segment *g, bool pages)
{
    u32 limit = pages ? g->limit >> 12 : g->limit;

    gdt[selector / 8] = descriptor(g->base, limit, 0xf1 | (g->writable ? 2 : 0) | (g->down ? 4 : 0),
                                   (pages ? 8 : 0) | (g->big ? 4 : 0));
}

static void try_access(const struct segment *g, u32 offset, u32 id)
{
    static const struct {
        const u8 *code;
        u8 size;
        bool write;
    } t[] = {{load1, 1, false}, {load2, 2, false}, {load4, 4, false}, {store1, 1, true},
             {store2, 2, true}, {store4, 4, true}, {add4, 4, true}};

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct state32 s = ring(3, t[i].code);
        bool good = inside(g, offset, t[i].size) && (g->writable || !t[i].write);

        /* Only what lies in the test's own bytes may be touched. */
        if (good && g->base + offset - (u32)data > sizeof(data) - 4)
            continue;
        s.es = S_FREE | 3;
        s.ebx = offset;
        s.eax = 0x11223344;
        run(&s);
        tally("limit", (u64)id << 36 | (u64)i << 32 | offset, outcome(&s), good ? END_VECTOR << 16 : GP << 16);
    }
}

static void data_limits(void)
{
    const u32 base = (u32)data;

    for (unsigned kind = 0; kind < 16; kind++) {
        struct segment g = {.down = kind & 1, .big = kind & 2, .writable = kind & 4};
        bool pages = kind & 8;

        for (u32 limit = 0; limit < 3; limit++) {
            /* data lies where the edge of the segment is */
            g.limit = pages ? limit << 12 | 0xfff : 64 + limit * 5;
            g.base = base + 128 - g.limit;
            put_segment(S_FREE, &g, pages);
            for (u32 offset = g.limit - 8; offset != g.limit + 8; offset++)
                try_access(&g, offset, kind << 4 | limit);
            for (u32 offset = 0xfff8; offset < 0x10002; offset++)
                try_access(&g, offset, kind << 4 | limit);
            for (u32 offset = 0xfffffff8; offset != 3; offset++)
                try_access(&g, offset, kind << 4 | limit);
        }
    }
    tally_end("limits, upwards and expand-down");
    /* the whole of an expand-down segment above its limit, the base wrapping */
    struct segment g = {.base = base - 0xfffffff0, .limit = 0xfffff, .down = true, .big = true, .writable = true};
    put_segment(S_FREE, &g, true);
    data[0] = 0x5a;
    struct state32 s = ring(3, load1);
    s.es = S_FREE | 3;
    s.ebx = 0xfffffff0;
    run(&s);
    check("base and offset wrap", s.eax & 0xff, 0x5a);
    g = (struct segment){.base = base, .limit = 15, .writable = true, .big = true};
    put_segment(S_FREE, &g, false);
    s = ring(3, rep_string);
    s.es = S_FREE | 3;
    s.edi = 10;
    s.ecx = 20;
    run(&s);
    expect("REP STOS runs into the limit", &s, GP, 0, rep_string);
    check("its ECX", s.ecx, 14);
    check("its EDI", s.edi, 16);
    s = ring(3, address16);
    s.es = S_FREE | 3;
    s.ebx = 0xabcd0003;
    data[2] = 0x77;
    run(&s);
    check("a 16-bit address", s.eax & 0xff, 0x77);
    s = ring(3, load1);
    s.es = 0;
    run(&s);
    expect("a null segment", &s, GP, 0, load1);
}

/* Which segments each register takes, and what may then be done. */
static void rights(void)
{
    for (unsigned type = 0; type < 32; type++)
        for (unsigned i = 0; i < 128; i++) {
            unsigned dpl = i & 3, rpl = i >> 2 & 3, cpl = i >> 4 & 3, present = i >> 6;
            bool segment = type & 16, code = segment && type & 8, conforming = code && type & 4, rw = type & 2;
            u32 id = type << 16 | i, start = segment && !code && type & 4 ? 0x1000 : 0; /* expand-down */
            struct state32 s = ring(cpl, load_es);
            u32 want = END_VECTOR << 16;

            gdt[S_FREE / 8] = descriptor((u32)data - start, 0xfff, present << 7 | dpl << 5 | type, 4);
            s.eax = S_FREE | rpl;
            run(&s);
            if (!segment || (code && !rw) || (!conforming && (dpl < cpl || dpl < rpl)))
                want = GP << 16 | S_FREE;
            else if (!present)
                want = NP << 16 | S_FREE;
            tally("MOV to ES", id, outcome(&s), want);
            if (want == END_VECTOR << 16) {
                s = ring(cpl, store1);
                s.es = S_FREE | rpl;
                s.ebx = start;
                if (conforming && cpl && dpl < cpl)
                    continue; /* IRET would clear it on the way */
                run(&s);
                tally("store", id, outcome(&s), !code && rw ? END_VECTOR << 16 : GP << 16);
                s = ring(cpl, load1);
                s.es = S_FREE | rpl;
                s.ebx = start;
                run(&s);
                tally("load", id, outcome(&s), END_VECTOR << 16);
            }
            s = ring(cpl, load_ss);
            s.eax = S_FREE | rpl;
            if (cpl == 0 && present && type >= 16 && !code && rw && dpl == 0 && rpl == 0)
                continue; /* the event would be pushed on it */
            run(&s);
            want = !segment || code || !rw || dpl != cpl || rpl != cpl ? GP << 16 | S_FREE
                   : !present                                          ? SS << 16 | S_FREE
                                                                       : END_VECTOR << 16;
            tally("MOV to SS", id, outcome(&s), want);
        }
    tally_end("rights of all segment types");
    struct state32 s = ring(3, load_ss);
    run(&s);
    expect("MOV to SS, null", &s, GP, 0, load_ss);
    s = ring(0, load_ss);
    run(&s);
    expect("MOV to SS, null, ring 0", &s, GP, 0, load_ss);
    gdt[S_FREE / 8] = descriptor(0, 0xfffff, 0xf2, 0xc);
    s = ring(3, load_ds);
    s.eax = S_FREE | 3;
    run(&s);
    check("a load sets the accessed bit", gdt[S_FREE / 8] >> 40 & 1, 1);
}

/* --- stacks --- */

CODE(push4, "push %eax\n" END);
CODE(push2, "pushw %ax\n" END);
CODE(pop4, "pop %eax\n" END);
CODE(pusha_, "pusha\n" END);
CODE(popa_, "popa\n" END);
CODE(call_, "call 1f\n 1:" END);
CODE(enter_, "enter $8, $0\n" END);
CODE(leave_, "leave\n" END);
CODE(load_ebp, "mov (%ebp), %eax\n" END);
CODE(load_esp, "mov (%esp), %eax\n" END);

static void stack_limits(void)
{
    static const struct {
        const u8 *code;
        u8 below, at; /* bytes used below ESP, at ESP */
    } t[] = {{push4, 4, 0},  {push2, 2, 0}, {pop4, 0, 4},    {pusha_, 32, 0},
             {popa_, 0, 32}, {call_, 4, 0}, {load_esp, 0, 4}};
    struct segment g = {.base = (u32)data, .limit = 255, .big = true, .writable = true};

    for (unsigned down = 0; down < 2; down++) {
        g = (struct segment){
            .base = down ? (u32)data - 256 : (u32)data, .limit = 255, .big = true, .writable = true, .down = down};
        put_segment(S_FREE, &g, false);
        for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
            for (u32 esp = 200; esp < 312; esp++) {
                struct state32 s = ring(3, t[i].code);
                bool good = inside(&g, esp - t[i].below, t[i].below + t[i].at);

                s.ss = S_FREE | 3;
                s.esp = esp;
                run(&s);
                tally("stack limit", down << 16 | i << 12 | esp, outcome(&s), good ? END_VECTOR << 16 : SS << 16);
                if (!good)
                    tally("ESP of the fault", down << 16 | i << 12 | esp, s.esp, esp);
            }
    }
    tally_end("limits of stacks");
    /* 16-bit stack: SP wraps, the upper half of ESP stays */
    g = (struct segment){.base = (u32)data - 0xff00, .limit = 0xffff, .writable = true};
    put_segment(S_FREE, &g, false);
    struct state32 s = ring(3, push4);
    s.ss = S_FREE | 3;
    s.esp = 0x1234ff80;
    s.eax = 0xcafe;
    run(&s);
    expect("PUSH on a 16-bit stack", &s, END_VECTOR, NO_ERROR, push4_end);
    check("SP moves, the upper half stays", s.esp & 0xffff, 0xff7c);
    check("what it pushed", *(u32 *)(data + 0x7c), 0xcafe);
    s = ring(3, load_ebp);
    s.ss = S_FREE | 3;
    s.ebp = 0x10000;
    run(&s);
    expect("[EBP] beyond the limit", &s, SS, 0, load_ebp);
    s = ring(3, enter_);
    s.ss = S_FREE | 3;
    s.esp = 0xff80;
    s.ebp = 0x55667788;
    run(&s);
    check("ENTER, SP", s.esp & 0xffff, 0xff74);
    check("ENTER, EBP", s.ebp & 0xffff, 0xff7c);
}

/* --- code limits --- */

CODE(jump_short, "jmp .+0x20\n" END);
CODE(jump_eax, "jmp *%eax\n" END);
CODE(nops, ".fill 12, 1, 0x90\n" END);

static void code_limits(void)
{
    for (u32 limit = 4; limit < 20; limit++) {
        struct state32 s = ring(3, 0);
        bool reaches_end = limit >= 13;

        gdt[S_FREE / 8] = descriptor((u32)nops, limit, 0xfb, 4);
        s.cs = S_FREE | 3;
        run(&s);
        tally("code limit", limit, outcome(&s), reaches_end ? END_VECTOR << 16 : GP << 16);
        tally("code limit, EIP", limit, s.eip, reaches_end ? 14 : limit == 12 ? 12 : limit + 1);
    }
    tally_end("limits of code");
    gdt[S_FREE / 8] = descriptor((u32)jump_eax, 0xff, 0xfb, 4);
    struct state32 s = ring(3, 0);
    s.cs = S_FREE | 3;
    s.eax = 0x100;
    run(&s);
    expect("JMP beyond the limit faults at the JMP", &s, GP, 0, 0);
    s = ring(3, (void *)0x100);
    s.cs = S_FREE | 3;
    run(&s);
    expect("IRET beyond the limit faults at IRET", &s, GP, 0, run_iret);
    gdt[S_FREE / 8] = descriptor((u32)jump_short, 0x10, 0xfb, 4);
    s = ring(3, 0);
    s.cs = S_FREE | 3;
    run(&s);
    expect("a short JMP beyond the limit", &s, GP, 0, 0);
}

/* --- gates --- */

CODE(call_gate, "lcall *(%eax)\n");
CODE(far_return, "lret\n");
CODE(far_return_n, "lret $8\n");
CODE(iret_, "iretl\n");
CODE(int_42, "int $0x42\n");
CODE(target, END);

static struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) pointer;

static struct state32 through_gate(unsigned cpl, unsigned selector)
{
    struct state32 s = ring(cpl, call_gate);

    pointer.selector = (u16)selector;
    s.eax = (u32)&pointer;
    for (unsigned i = 0; i < 32; i++)
        ((u32 *)s.esp)[i] = 0x1000 + i;
    run(&s);
    return s;
}

static void call_gates(void)
{
    static const u16 code[4] = {S_CODE0, S_CODE1 & ~3, S_CODE2 & ~3, S_CODE3 & ~3};
    const u32 inner_esp[3] = {tss.esp0, tss.esp1, tss.esp2}, inner_ss[3] = {tss.ss0, tss.ss1, tss.ss2};

    for (unsigned cpl = 0; cpl < 4; cpl++)
        for (unsigned to = 0; to < 4; to++)
            for (unsigned count = 0; count < 32; count++) {
                u32 id = cpl << 12 | to << 8 | count, old = ring(cpl, 0).esp;
                bool inner = to < cpl;

                gdt[S_FREE / 8] = gate((u32)target, code[to], 0xec, count);
                struct state32 s = through_gate(cpl, S_FREE | cpl);
                if (to > cpl) {
                    tally("call gate outwards", id, outcome(&s), GP << 16 | code[to]);
                    continue;
                }
                tally("call gate", id, outcome(&s), END_VECTOR << 16);
                tally("call gate, CS", id, s.cs, code[to] | to);
                u32 esp = inner ? inner_esp[to] - 16 - 4 * count : old - 8;
                tally("call gate, ESP", id, s.esp, esp);
                tally("call gate, SS", id, s.ss, inner ? inner_ss[to] : ring(cpl, 0).ss);
                const u32 *frame = (const u32 *)esp;
                tally("call gate, return address", id, frame[0], (u32)call_gate_end);
                tally("call gate, return CS", id, frame[1] & 0xffff, ring(cpl, 0).cs);
                for (unsigned i = 0; inner && i < count; i++)
                    tally("call gate, parameter", id, frame[2 + i], 0x1000 + i);
                if (inner) {
                    tally("call gate, saved ESP", id, frame[2 + count], old);
                    tally("call gate, saved SS", id, frame[3 + count] & 0xffff, ring(cpl, 0).ss);
                }
            }
    tally_end("call gates with parameters");
}

/* Stacks of the TSS that can't be used: an interrupt and a call gate to ring 1. */
static void bad_stacks(void)
{
    static const struct {
        const char *name;
        u32 selector;
        u16 access;
        u32 vector, error;
    } t[] = {{"null", 0, 0, TS, 0},
             {"null with RPL 1", 1, 0, TS, 0},
             {"beyond the GDT", 0xfff9, 0, TS, 0xfff8},
             {"another RPL", S_FREE + 8, 0xb3, TS, S_FREE + 8},
             {"another DPL", (S_FREE + 8) | 1, 0xd3, TS, S_FREE + 8},
             {"read-only", (S_FREE + 8) | 1, 0xb1, TS, S_FREE + 8},
             {"code", (S_FREE + 8) | 1, 0xbb, TS, S_FREE + 8},
             {"a system segment", (S_FREE + 8) | 1, 0xa2, TS, S_FREE + 8},
             {"not present", (S_FREE + 8) | 1, 0x33, SS, S_FREE + 8}};

    idt[0x42] = gate((u32)target, S_CODE1 & ~3, 0xee, 0);
    gdt[S_FREE / 8] = gate((u32)target, S_CODE1 & ~3, 0xec, 0);
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct state32 s = ring(3, int_42);

        gdt[S_FREE / 8 + 1] = descriptor(0, 0xfffff, t[i].access, 0xc);
        tss.ss1 = t[i].selector;
        run(&s);
        expect(t[i].name, &s, t[i].vector, (long)t[i].error, int_42);
        s = through_gate(3, S_FREE | 3);
        expect(t[i].name, &s, t[i].vector, (long)t[i].error, call_gate);
    }
    /* a stack too small for the frame: #SS names the new SS */
    gdt[S_FREE / 8 + 1] = descriptor((u32)data, 18, 0xb3, 4);
    tss.ss1 = (S_FREE + 8) | 1;
    tss.esp1 = 19;
    struct state32 s = ring(3, int_42);
    run(&s);
    expect("a stack too small for a frame", &s, SS, S_FREE + 8, int_42);
    tss.esp1 = 12;
    s = through_gate(3, S_FREE | 3);
    expect("a stack too small for a call", &s, SS, S_FREE + 8, call_gate);
    tss.ss1 = S_DATA1;
    tss.esp1 = TOP(event_stacks[1]);
    s = ring(3, int_42);
    s.eflags |= 0x4001;
    u32 esp = s.esp;
    run(&s);
    expect("an interrupt to ring 1", &s, END_VECTOR, NO_ERROR, target_end);
    const u32 *frame = (const u32 *)s.esp;
    check("its stack", s.esp, tss.esp1 - 20);
    check("its saved EIP", frame[0], (u32)int_42_end);
    check("its saved CS", frame[1] & 0xffff, S_CODE3);
    check("its saved flags", frame[2], 0x4003);
    check("its saved ESP", frame[3], esp);
    check("its saved SS", frame[4] & 0xffff, S_DATA3);
    default_gate(0x42);
}

/* --- returns, conforming code --- */

static void returns(void)
{
    struct state32 s;
    u32 *p;

    for (unsigned how = 0; how < 3; how++)
        for (unsigned cpl = 0; cpl < 4; cpl++)
            for (unsigned rpl = 0; rpl < 4; rpl++)
                for (unsigned ss_rpl = 0; ss_rpl < 4; ss_rpl++) {
                    u32 cs = ring(rpl, 0).cs, ss = ring(ss_rpl, 0).ss, id = how << 12 | cpl << 8 | rpl << 4 | ss_rpl;
                    u32 esp = TOP(stacks[rpl]) - 512, skip = how == 1 ? 2 : 0;
                    bool outer = rpl > cpl;
                    u32 want = rpl < cpl                ? GP << 16 | (cs & ~3)
                               : outer && ss_rpl != rpl ? GP << 16 | (ss & ~3)
                                                        : END_VECTOR << 16;

                    s = ring(cpl, how == 0 ? far_return : how == 1 ? far_return_n : iret_);
                    p = (u32 *)s.esp;
                    p[0] = (u32)target, p[1] = cs;
                    if (how == 2)
                        p[2] = 3, p[3] = esp, p[4] = ss;
                    else
                        p[2 + skip] = esp, p[3 + skip] = ss;
                    u32 old = s.esp;
                    s.es = S_DATA3;
                    run(&s);
                    tally("return", id, outcome(&s), want);
                    if (want != END_VECTOR << 16)
                        continue;
                    tally("return, CS", id, s.cs, cs);
                    tally("return, ESP", id, s.esp, outer ? esp + 4 * skip : old + (how == 2 ? 12 : 8 + 4 * skip));
                    tally("return, SS", id, s.ss, ring(rpl, 0).ss);
                    tally("return, DS", id, s.ds, outer ? 0 : ring(cpl, 0).ds);
                    tally("return, ES", id, s.es, S_DATA3);
                }
    tally_end("returns");
    s = ring(0, far_return);
    p = (u32 *)s.esp;
    p[0] = (u32)target, p[1] = S_CODE3, p[2] = 0x1000, p[3] = 0;
    run(&s);
    expect("a return to a null stack", &s, GP, 0, far_return);
    for (unsigned cpl = 0; cpl < 4; cpl++)
        for (unsigned dpl = 0; dpl < 4; dpl++) {
            gdt[S_FREE / 8] = descriptor(0, 0xfffff, 0x9f | dpl << 5, 0xc);
            pointer.offset = (u32)target;
            s = through_gate(cpl, S_FREE | 3); /* RPL does not count */
            tally("conforming code", cpl << 4 | dpl, outcome(&s), dpl <= cpl ? END_VECTOR << 16 : GP << 16 | S_FREE);
            if (dpl <= cpl)
                tally("conforming code, CS", cpl << 4 | dpl, s.cs, S_FREE | cpl);
        }
    tally_end("conforming code");
}

/* --- instructions of this mode --- */

CODE(arpl_, "arpl %ax, %bx\n" END);
CODE(lds_, "lds (%eax), %ebx\n" END);
CODE(lss_, "lss (%eax), %esp\n" END);
CODE(push_es, "push %es\n" END);
CODE(pop_es, "pop %es\n" END);
CODE(bound_, "bound %ecx, (%eax)\n" END);
CODE(syscall_, "syscall\n" END);
CODE(swapgs_, ".byte 0x0f, 0x01, 0xf8\n" END);

static void instructions(void)
{
    struct state32 s;

    for (unsigned a = 0; a < 4; a++)
        for (unsigned b = 0; b < 4; b++) {
            s = ring(3, arpl_);
            s.eax = 0x1230 | a;
            s.ebx = 0xabcd5670 | b;
            run(&s);
            tally("ARPL", a << 4 | b, s.ebx, 0xabcd5670 | (a > b ? a : b));
            tally("ARPL, ZF", a << 4 | b, s.eflags & FL_ZF, a > b ? FL_ZF : 0);
        }
    tally_end("ARPL");
    pointer.offset = 0x12345678;
    pointer.selector = S_DATA3;
    s = ring(3, lds_);
    s.ds = S_DATA3;
    s.eax = (u32)&pointer;
    run(&s);
    check("LDS, offset", s.ebx, 0x12345678);
    pointer.selector = S_DATA0;
    s = ring(3, lds_);
    s.eax = (u32)&pointer;
    s.ebx = 99;
    run(&s);
    expect("LDS of ring 0", &s, GP, S_DATA0, lds_);
    check("EBX is kept", s.ebx, 99);
    s = ring(3, lss_);
    s.eax = (u32)&pointer;
    u32 esp = s.esp;
    run(&s);
    expect("LSS of ring 0", &s, GP, S_DATA0, lss_);
    check("ESP is kept", s.esp, esp);
    s = ring(3, push_es);
    *(u32 *)(s.esp - 4) = 0;
    run(&s);
    check("PUSH ES", *(u32 *)s.esp & 0xffff, S_DATA3);
    s = ring(3, pop_es);
    *(u32 *)s.esp = 0xffff0000 | S_DATA1;
    run(&s);
    expect("POP ES of ring 1", &s, GP, S_DATA1 & ~3, pop_es);
    s = ring(3, bound_);
    s.eax = (u32)data;
    ((int *)data)[0] = -2;
    ((int *)data)[1] = 2;
    s.ecx = 3;
    run(&s);
    expect("BOUND", &s, BR, NO_ERROR, bound_);
    s = ring(0, swapgs_);
    run(&s);
    expect("SWAPGS", &s, UD, NO_ERROR, swapgs_);
}

int main(void)
{
    load_tables();
    data_limits();
    rights();
    stack_limits();
    code_limits();
    call_gates();
    bad_stacks();
    returns();
    instructions();
    return 0;
}
