/*
 * Interrupt and trap gates of 64-bit mode: from every ring to every ring, with and without IST; every check with its error
 * code. Source: SDM vol. 3, 6.12 - 6.14; vol. 2, INT n.
 */
#include "guest.h"

#define V       0x42u
#define V_ERROR (V * 8 + 2)

CODE(int_v, "int $0x42\n");
CODE(int_f0, "int $0xf0\n");
CODE(int3, "int3\n");
CODE(icebp, ".byte 0xf1\n");
CODE(ud2, "ud2\n");
CODE(divide, "div %cl\n");
CODE(handler, END); /* in the ring of the gate's segment; the frame is where RSP points */

static struct tss small_tss __attribute__((aligned(4096)));

/* Code segments for handlers: plain of each ring, then conforming of each DPL. */
static unsigned handler_selector(unsigned dpl, bool conforming)
{
    static const u8 plain[4] = {SEL_CODE0, SEL_CODE1, SEL_CODE2, SEL_CODE3};

    return conforming ? SEL_FREE + 8 * dpl : plain[dpl] & ~3u;
}

struct gate {
    unsigned dpl, type, ist, segment_dpl;
    bool conforming, present;
};

/* A gate reached by INT from `cpl`, with RSP `skew` bytes off its alignment. */
static void one_gate(unsigned cpl, const struct gate *g, unsigned skew, u64 flags)
{
    const u64 id = cpl << 28 | g->dpl << 24 | g->type << 20 | g->ist << 16 | g->segment_dpl << 12 | g->conforming << 8 |
                   g->present << 4 | skew;
    const unsigned selector = handler_selector(g->segment_dpl, g->conforming);
    const unsigned ring_of_handler = g->conforming ? cpl : g->segment_dpl;
    struct state s = ring(cpl, int_v), before;
    long error = NO_ERROR;
    u64 vector = END_VECTOR, stack;

    set_gate(V, (u64)handler, selector, (g->present ? 0x80 : 0) | g->dpl << 5 | g->type, g->ist);
    s.rsp -= skew;
    s.rflags |= flags;
    before = s;
    run(&s);
    if (g->dpl < cpl)
        vector = GP, error = V_ERROR;
    else if (!g->present)
        vector = NP, error = V_ERROR;
    else if (g->segment_dpl > cpl)
        vector = GP, error = (long)selector;
    tally("vector and error", id, s.vector << 32 | s.has_error << 16 | s.error,
          vector << 32 | (u64)(error != NO_ERROR) << 16 | (error == NO_ERROR ? 0 : (u64)error));
    if (error != NO_ERROR || s.vector != END_VECTOR) {
        tally("saved RIP of a fault", id, s.rip, (u64)int_v);
        tally("saved flags of a fault", id, s.rflags, before.rflags | FL_RF);
        return;
    }
    stack = g->ist ? tss.ist[g->ist - 1] : ring_of_handler < cpl ? tss.rsp[ring_of_handler] : before.rsp;
    stack = (stack & ~15ull) - 40;
    tally("stack", id, s.rsp, stack);
    tally("CS", id, s.cs, (selector & ~3u) | ring_of_handler);
    tally("SS", id, s.ss, ring_of_handler < cpl ? ring_of_handler : before.ss);
    tally("RIP", id, s.rip, (u64)handler_end);
    tally("flags", id, s.rflags, (flags & ~(u64)(FL_NT | FL_RF | FL_TF | (g->type == 14 ? FL_IF : 0))) | FL_ONE);
    const u64 *frame = (const u64 *)stack;
    tally("saved RIP", id, frame[0], (u64)int_v_end);
    tally("saved CS", id, frame[1], before.cs);
    tally("saved flags", id, frame[2], before.rflags);
    tally("saved RSP", id, frame[3], before.rsp);
    tally("saved SS", id, frame[4], before.ss);
}

static void all_gates(void)
{
    static const u64 flags[] = {0, FL_IF | FL_NT | FL_CF, FL_IOPL | FL_AC | FL_OF, FL_IF | FL_DF | FL_ID};

    for (unsigned i = 0; i < 4; i++) {
        gdt[SEL_FREE / 8 + i] = descriptor(0, 0xfffff, 0x9f | i << 5, 0xa); /* conforming, 64-bit */
        tss.rsp[i < 3 ? i : 0] = STACK_TOP(event_stacks[i < 3 ? i : 0]);
    }
    for (unsigned cpl = 0; cpl < 4; cpl++)
        for (unsigned bits = 0; bits < 0x400; bits++) {
            struct gate g = {.dpl = bits & 3,
                             .type = 14 + (bits >> 2 & 1),
                             .ist = (bits >> 3 & 3) * 2,
                             .segment_dpl = bits >> 5 & 3,
                             .conforming = bits >> 7 & 1,
                             .present = bits >> 8};

            one_gate(cpl, &g, bits * 7 & 15, flags[bits & 3]);
        }
    tally_end("INT n through every gate");
    for (unsigned ist = 0; ist < 8; ist++) {
        struct gate g = {.dpl = 3, .type = 14, .ist = ist, .present = true};

        for (unsigned skew = 0; skew < 16; skew++) {
            tss.ist[ist ? ist - 1 : 0] -= skew;
            tss.rsp[0] -= skew;
            one_gate(3, &g, skew, 0);
            one_gate(0, &g, skew, 0);
            tss.ist[ist ? ist - 1 : 0] += skew;
            tss.rsp[0] += skew;
        }
    }
    tally_end("every IST, every alignment");
}

static void expect_run(const char *name, unsigned r, const u8 *code, u64 vector, long error, const u8 *rip)
{
    struct state s = ring(r, code);

    run(&s);
    expect(name, &s, vector, error, rip);
}

/* A gate for INT 42h and one for #UD with the same flaw: the codes differ in EXT. */
static void flawed(const char *name, u64 offset, unsigned selector, unsigned access, u64 vector, unsigned int_error,
                   unsigned ud_error)
{
    for (unsigned r = 0; r < 4; r += 3) {
        set_gate(V, offset, selector, access, 0);
        expect_run(name, r, int_v, vector, (long)int_error, int_v);
        set_gate(UD, offset, selector, access, 0);
        expect_run(name, r, ud2, vector, (long)ud_error, ud2);
        default_gate(UD);
    }
}

static void bad_gates(void)
{
    const unsigned free = SEL_FREE / 8 + 4, absent = SEL_FREE + 32;

    gdt[free] = descriptor(0, 0xfffff, 0x1b, 0xa);     /* code 64, not present */
    gdt[free + 1] = descriptor(0, 0xfffff, 0x9b, 0xe); /* L and D both */
    flawed("handler in no segment", (u64)handler, 0, 0xee, GP, 0, 1);
    flawed("handler in null segment 3", (u64)handler, 3, 0xee, GP, 0, 1);
    flawed("handler beyond the GDT", (u64)handler, GDT_SLOTS * 8, 0xee, GP, GDT_SLOTS * 8, GDT_SLOTS * 8 + 1);
    flawed("handler in an LDT that is not there", (u64)handler, 0xc, 0xee, GP, 0xc, 0xd);
    flawed("handler in a data segment", (u64)handler, SEL_DATA0, 0xee, GP, SEL_DATA0, SEL_DATA0 + 1);
    flawed("handler in a 32-bit segment", (u64)handler, SEL_CODE0_32, 0xee, GP, SEL_CODE0_32, SEL_CODE0_32 + 1);
    flawed("handler in a segment of L and D", (u64)handler, absent + 8, 0xee, GP, absent + 8, absent + 9);
    flawed("handler in a TSS", (u64)handler, SEL_TSS, 0xee, GP, SEL_TSS, SEL_TSS + 1);
    flawed("handler in an absent segment", (u64)handler, absent, 0xee, NP, absent, absent + 1);
    flawed("handler not canonical", 0x800000000000, SEL_CODE0, 0xee, GP, 0, 1);
    flawed("gate not present", (u64)handler, SEL_CODE0, 0x6e, NP, V_ERROR, UD * 8 + 3);
    for (unsigned type = 0; type < 32; type++) {
        if (type == 14 || type == 15)
            continue;
        for (unsigned p = 0; p < 2; p++) {
            struct state s = ring(3, int_v);
            set_gate(V, (u64)handler, SEL_CODE0, p << 7 | 0x60 | type, 0);
            run(&s);
            tally("gate type", type << 4 | p, s.vector << 32 | s.error, (u64)GP << 32 | V_ERROR);
        }
    }
    tally_end("gate types");
}

static void limits_of_idt(void)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) pointer = {0xf0 * 16 + 15, (u64)idt};

    asm volatile("lidt %0" ::"m"(pointer));
    expect_run("the last gate inside the limit", 3, int_f0, 0xf0, NO_ERROR, int_f0_end);
    pointer.limit--;
    asm volatile("lidt %0" ::"m"(pointer));
    expect_run("a gate cut by the limit", 3, int_f0, GP, 0xf0 * 8 + 2, int_f0);
    pointer.limit = 4095;
    asm volatile("lidt %0" ::"m"(pointer));
    expect_run("the limit restored", 3, int_f0, 0xf0, NO_ERROR, int_f0_end);
}

static void privilege_of_gates(void)
{
    expect_run("INT3, DPL 3", 3, int3, BP, NO_ERROR, int3_end);
    set_gate(BP, (u64)stub_table + 16 * BP, SEL_CODE0, 0x8e, 0);
    expect_run("INT3, DPL 0, ring 3", 3, int3, GP, BP * 8 + 2, int3);
    expect_run("INT3, DPL 0, ring 0", 0, int3, BP, NO_ERROR, int3_end);
    default_gate(BP);
    if (!under_qemu)
        expect_run("INT1 asks for no DPL", 3, icebp, DB, NO_ERROR, icebp_end);
    expect_run("an exception asks for no DPL", 3, divide, DE, NO_ERROR, divide);
    set_gate(DE, (u64)stub_table + 16 * DE, SEL_CODE0, 0x8e, 0);
    struct state s = ring(3, divide);
    s.rflags |= FL_IF | FL_NT;
    run(&s);
    check("a fault saves RF", s.rflags, FL_ONE | FL_IF | FL_NT | FL_RF);
    check("the handler's flags, interrupt gate", s.h_rflags & ~0x8d5ull, FL_ONE);
    check("the handler's SS is null", s.h_ss, 0);
    set_gate(DE, (u64)stub_table + 16 * DE, SEL_CODE0, 0x8f, 0);
    s = ring(3, divide);
    s.rflags |= FL_IF | FL_NT;
    run(&s);
    check("the handler's flags, trap gate", s.h_rflags & ~0x8d5ull, FL_ONE | FL_IF);
    default_gate(DE);
}

/* The frame of an event with error code: one word more, the same alignment. */
static void frames_with_error(void)
{
    for (unsigned skew = 0; skew < 16; skew++) {
        struct state s = ring(0, int_v);

        set_gate(V, (u64)handler, SEL_CODE0, 0x6e, 0);
        s.rsp -= skew;
        u64 rsp = s.rsp;
        run(&s);
        tally("frame with error code", skew, s.frame, (rsp & ~15ull) - 40);
        tally("saved RSP", skew, s.rsp, rsp);
    }
    tally_end("frames with error code");
}

static void load_tss(struct tss *t, u32 limit)
{
    gdt[SEL_TSS / 8] = descriptor((u32)(u64)t, limit, 0x89, 0);
    asm volatile("ltr %w0" ::"r"(SEL_TSS));
}

/* Stacks that the TSS does not give. */
static void bad_stacks(void)
{
    const u64 hole = 0x800000000000;

    small_tss = tss;
    load_tss(&small_tss, 4 + 24 - 1); /* RSP0-2, no IST */
    set_gate(V, (u64)handler, SEL_CODE0, 0xee, 1);
    expect_run("IST beyond the TSS, ring 3", 3, int_v, TS, SEL_TSS, int_v);
    expect_run("IST beyond the TSS, ring 0", 0, int_v, TS, SEL_TSS, int_v);
    set_gate(UD, (u64)handler, SEL_CODE0, 0xee, 1);
    expect_run("IST beyond the TSS, exception", 3, ud2, TS, SEL_TSS + 1, ud2);
    default_gate(UD);
    load_tss(&small_tss, 4 + 16 - 1); /* RSP0-1 */
    set_gate(V, (u64)handler, SEL_CODE2 & ~3u, 0xee, 0);
    expect_run("RSP2 beyond the TSS", 3, int_v, TS, SEL_TSS, int_v);
    load_tss(&small_tss, sizeof(tss) - 1);
    small_tss.rsp[2] = hole + 64;
    expect_run("RSP2 not canonical", 3, int_v, SS, 0, int_v);
    small_tss.rsp[2] = 0x7f0000001000;
    expect_run("RSP2 not mapped: #PF of the inner ring", 3, int_v, PF, 2, int_v);
    small_tss.ist[2] = hole;
    set_gate(V, (u64)handler, SEL_CODE0, 0xee, 3);
    expect_run("IST not canonical", 0, int_v, SS, 0, int_v);
    small_tss.rsp[0] = hole + 64;
    default_gate(V);
    expect_run("no stack for #SS either: #DF", 3, int_v, DF, 0, int_v);
    load_tss(&tss, sizeof(tss) - 1);
}

int main(void)
{
    all_gates();
    bad_gates();
    limits_of_idt();
    privilege_of_gates();
    frames_with_error();
    bad_stacks();
    return 0;
}
