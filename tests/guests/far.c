/*
 * Far transfers in long mode: direct CALL and JMP, call gates, RETF and IRETQ to every ring, all checks against predicates
 * that follow the manual's pseudocode (SDM vol. 2, CALL, JMP, RET, IRET; vol. 3, 5.8).
 */
#include "guest.h"

CODE(call_far, "lcall *(%rax)\n");
CODE(call_far_64, ".byte 0x48, 0xff, 0x18\n");
CODE(jump_far, "ljmp *(%rax)\n");
CODE(return_far, "lretq\n");
CODE(return_far_n, "lretq $24\n");
CODE(return_iret, "iretq\n");
CODE(return_iretd, "iretl\n");
CODE(target, END); /* the same in 64-bit and compatibility mode */
CODE(call_compat, ".code32\n lcall *(%eax)\n .code64\n");

static struct {
    u64 offset;
    u16 selector;
} __attribute__((packed)) pointer64;

static struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) pointer32;

/* --- segments to go to: a table that GDT and predicates share --- */

enum kind { CODE64, CONFORMING, CODE32, CODE_L_AND_D, CODE_ABSENT, DATA, DATA_READ_ONLY, DATA_ABSENT, N_KINDS };

#define FIRST (SEL_FREE / 8)

static unsigned selector_of(enum kind kind, unsigned dpl)
{
    return (FIRST + kind * 4 + dpl) * 8;
}

static void make_segments(void)
{
    static const struct {
        u8 access, flags;
    } t[N_KINDS] = {[CODE64] = {0x9b, 0xa},         [CONFORMING] = {0x9f, 0xa},  [CODE32] = {0x9b, 0xc},
                    [CODE_L_AND_D] = {0x9b, 0xe},   [CODE_ABSENT] = {0x1b, 0xa}, [DATA] = {0x93, 0xc},
                    [DATA_READ_ONLY] = {0x91, 0xc}, [DATA_ABSENT] = {0x13, 0xc}};

    for (unsigned kind = 0; kind < N_KINDS; kind++)
        for (unsigned dpl = 0; dpl < 4; dpl++)
            gdt[FIRST + kind * 4 + dpl] = descriptor(0, 0xfffff, t[kind].access | dpl << 5, t[kind].flags);
}

static bool is_code(enum kind kind)
{
    return kind <= CODE_ABSENT;
}

/* What a transfer must end in: END_VECTOR at the target, or a fault. */
struct outcome {
    u64 vector;
    unsigned error;
};

static u64 packed(u64 vector, bool has_error, u64 error)
{
    return vector << 32 | (u64)has_error << 16 | error;
}

static bool ends_as(const char *name, u64 id, const struct state *s, struct outcome want)
{
    return tally(name, id, packed(s->vector, s->has_error, s->error),
                 packed(want.vector, want.vector != END_VECTOR, want.error)) &&
           want.vector == END_VECTOR;
}

static struct outcome fault(u64 vector, unsigned selector)
{
    return (struct outcome){vector, selector & 0xfffc};
}

static const struct outcome passes = {END_VECTOR, 0};

/* --- direct --- */

static struct outcome direct(unsigned cpl, enum kind kind, unsigned dpl, unsigned rpl)
{
    unsigned selector = selector_of(kind, dpl);

    if (!is_code(kind) || kind == CODE_L_AND_D)
        return fault(GP, selector);
    if (kind == CONFORMING ? dpl > cpl : rpl > cpl || dpl != cpl)
        return fault(GP, selector);
    if (kind == CODE_ABSENT)
        return fault(NP, selector);
    return passes;
}

static void direct_transfers(void)
{
    for (unsigned cpl = 0; cpl < 4; cpl++)
        for (unsigned i = 0; i < N_KINDS * 16 * 3; i++) {
            enum kind kind = i / 48;
            unsigned dpl = i >> 2 & 3, rpl = i & 3, how = i / 16 % 3;
            struct state s = ring(cpl, how == 0 ? call_far : how == 1 ? call_far_64 : jump_far);
            u64 id = cpl << 16 | how << 12 | kind << 8 | dpl << 4 | rpl, rsp = s.rsp, cs = s.cs, from = s.rip;
            bool wide = how == 1;

            pointer32.offset = (u32)(u64)target;
            pointer64.offset = (u64)target;
            pointer32.selector = pointer64.selector = (u16)(selector_of(kind, dpl) | rpl);
            s.rax = wide && !cpu_amd ? (u64)&pointer64 : (u64)&pointer32; /* AMD knows no 64-bit offset */
            run(&s);
            if (!ends_as("direct", id, &s, direct(cpl, kind, dpl, rpl))) {
                tally("direct: RIP of the fault", id, s.rip, from);
                tally("direct: RSP of the fault", id, s.rsp, rsp);
                continue;
            }
            tally("direct: RIP", id, s.rip, (u64)target_end);
            tally("direct: CS", id, s.cs, selector_of(kind, dpl) | cpl);
            if (how == 2) {
                tally("direct: RSP", id, s.rsp, rsp);
                continue;
            }
            tally("direct: RSP", id, s.rsp, rsp - (wide && !cpu_amd ? 16 : 8));
            if (wide && !cpu_amd) {
                tally("direct: return address", id, ((u64 *)s.rsp)[0], (u64)call_far_64_end);
                tally("direct: return CS", id, ((u64 *)s.rsp)[1], cs);
            } else if (!wide) {
                tally("direct: return address", id, ((u32 *)s.rsp)[0], (u64)call_far_end);
                tally("direct: return CS", id, ((u32 *)s.rsp)[1] & 0xffff, cs);
            }
        }
    tally_end("direct far transfers");
}

/* --- call gates --- */

#define GATE_SLOT 56 /* of the GDT, 16 bytes */
#define GATE      (GATE_SLOT * 8)

static void make_gate(u64 offset, unsigned selector, unsigned access)
{
    gdt[GATE_SLOT] = (offset >> 16 & 0xffff) << 48 | (u64)access << 40 | (u64)selector << 16 | (offset & 0xffff);
    gdt[GATE_SLOT + 1] = offset >> 32;
}

static struct outcome gated(unsigned cpl, unsigned rpl, unsigned gate_dpl, bool present, enum kind kind, unsigned dpl,
                            bool jump)
{
    unsigned selector = selector_of(kind, dpl);

    if (gate_dpl < cpl || gate_dpl < rpl)
        return fault(GP, GATE);
    if (!present)
        return fault(NP, GATE);
    if (!is_code(kind) || dpl > cpl || (jump && kind != CONFORMING && dpl != cpl))
        return fault(GP, selector);
    if (kind == CODE32 || kind == CODE_L_AND_D)
        return fault(GP, selector);
    if (kind == CODE_ABSENT)
        return fault(NP, selector);
    return passes;
}

static void one_gate(unsigned cpl, unsigned bits, enum kind kind)
{
    const unsigned rpl = bits & 3, gate_dpl = bits >> 2 & 3, dpl = bits >> 4 & 3;
    const bool present = bits >> 6 & 1, jump = bits >> 7 & 1, from_compat = bits >> 8 & 1 && (cpl == 0 || cpl == 3);
    const u64 id = cpl << 16 | kind << 12 | bits;
    const unsigned new_cpl = kind == CONFORMING ? cpl : dpl;
    const u8 *code = jump ? jump_far : from_compat ? call_compat : call_far;
    struct state s = from_compat ? compat(cpl, code) : ring(cpl, code), before;

    make_gate((u64)target, selector_of(kind, dpl), (present ? 0x80 : 0) | gate_dpl << 5 | 0xc);
    pointer32.offset = 0xdeadbeef; /* not looked at */
    pointer32.selector = (u16)(GATE | rpl);
    s.rax = (u64)&pointer32;
    s.rflags |= FL_CF | FL_DF | FL_NT;
    before = s;
    run(&s);
    if (!ends_as("gate", id, &s, gated(cpl, rpl, gate_dpl, present, kind, dpl, jump))) {
        tally("gate: RIP of the fault", id, s.rip, before.rip);
        tally("gate: RSP of the fault", id, s.rsp, before.rsp);
        return;
    }
    bool inner = new_cpl < cpl;
    u64 stack = inner ? tss.rsp[new_cpl] - 32 : before.rsp - (jump ? 0 : 16);
    const u64 *frame = (const u64 *)stack;
    tally("gate: RIP", id, s.rip, (u64)target_end);
    tally("gate: CS", id, s.cs, selector_of(kind, dpl) | new_cpl);
    tally("gate: RSP", id, s.rsp, stack);
    tally("gate: SS", id, s.ss, inner ? new_cpl : before.ss);
    tally("gate: flags", id, s.rflags, before.rflags);
    if (jump)
        return;
    tally("gate: return address", id, frame[0], (u64)(from_compat ? call_compat_end : call_far_end));
    tally("gate: return CS", id, frame[1], before.cs);
    if (inner) {
        tally("gate: saved RSP", id, frame[2], before.rsp);
        tally("gate: saved SS", id, frame[3], before.ss);
    }
}

static void expect_call(const char *name, unsigned cpl, unsigned selector, u64 vector, unsigned error)
{
    struct state s = ring(cpl, call_far);

    pointer32.selector = (u16)selector;
    s.rax = (u64)&pointer32;
    run(&s);
    expect(name, &s, vector, (long)error, call_far);
}

static void call_gates(void)
{
    for (unsigned cpl = 0; cpl < 4; cpl++)
        for (unsigned kind = 0; kind < N_KINDS; kind++)
            for (unsigned bits = 0; bits < 512; bits++)
                one_gate(cpl, bits, kind);
    tally_end("call gates");
    make_gate((u64)target, SEL_CODE0, 0xec);
    gdt[GATE_SLOT + 1] |= 0x0100ull << 32;
    expect_call("a gate whose second half has a type", 3, GATE | 3, GP, GATE);
    make_gate((u64)target, 0, 0xec);
    expect_call("a gate to null", 3, GATE | 3, GP, 0);
    make_gate((u64)target, 0xfff8, 0xec);
    expect_call("a gate beyond the GDT", 3, GATE | 3, GP, 0xfff8);
    make_gate(0x800000000000, SEL_CODE0, 0xec);
    expect_call("a gate to a place not canonical", 3, GATE | 3, GP, 0);
    expect_call("null", 3, 3, GP, 0);
    expect_call("beyond the GDT", 3, GDT_SLOTS * 8, GP, GDT_SLOTS * 8);
    expect_call("a TSS", 0, SEL_TSS, GP, SEL_TSS);
    for (unsigned type = 0; type < 16; type++) {
        if (type == 12)
            continue;
        make_gate((u64)target, SEL_CODE0, 0xe0 | type);
        expect_call("another system type", 3, GATE | 3, GP, GATE);
    }
    make_gate((u64)target, SEL_CODE2 & ~3u, 0xec);
    u64 saved = tss.rsp[2];
    tss.rsp[2] = 0x800000000000;
    expect_call("a gate whose stack is not canonical", 3, GATE | 3, SS, 0);
    tss.rsp[2] = 0x7f0000000000;
    expect_call("a gate whose stack is not mapped", 3, GATE | 3, PF, 2);
    tss.rsp[2] = saved;
}

/* --- returns --- */

/* The checks of CS that RETF and IRET share. */
static struct outcome return_cs(unsigned cpl, enum kind kind, unsigned dpl, unsigned rpl)
{
    unsigned selector = selector_of(kind, dpl);

    if (!is_code(kind) || rpl < cpl || kind == CODE_L_AND_D)
        return fault(GP, selector);
    if (kind == CONFORMING ? dpl > rpl : dpl != rpl)
        return fault(GP, selector);
    if (kind == CODE_ABSENT)
        return fault(NP, selector);
    return passes;
}

/* Of SS; kind N_KINDS: null. `rpl` is that of CS. */
static struct outcome return_ss(enum kind kind, unsigned dpl, unsigned ss_rpl, unsigned rpl, bool to_64)
{
    unsigned selector = selector_of(kind, dpl);

    if (kind == N_KINDS)
        return to_64 && rpl != 3 ? passes : fault(GP, 0);
    if (ss_rpl != rpl || is_code(kind) || kind == DATA_READ_ONLY || dpl != rpl)
        return fault(GP, selector);
    if (kind == DATA_ABSENT)
        return fault(SS, selector);
    return passes;
}

enum { RETF, RETF_N, IRETQ, IRETD, HOWS };

static void one_return(unsigned how, unsigned cpl, unsigned cs_bits, unsigned ss_bits)
{
    static const u8 *const code[HOWS] = {return_far, return_far_n, return_iret, return_iretd};
    const enum kind kind = cs_bits >> 4, ss_kind = ss_bits >> 4;
    const unsigned dpl = cs_bits >> 2 & 3, rpl = cs_bits & 3, ss_dpl = ss_bits >> 2 & 3, ss_rpl = ss_bits & 3;
    const u64 id = how << 24 | cpl << 20 | cs_bits << 8 | ss_bits;
    const u64 cs = selector_of(kind, dpl) | rpl,
              ss = ss_kind == N_KINDS ? ss_rpl : selector_of(ss_kind, ss_dpl) | ss_rpl;
    const u64 rsp = STACK_TOP(stacks[rpl]) - 128, flags = FL_ONE | FL_CF;
    struct state s = ring(cpl, code[how]), before;
    u64 *q = (u64 *)s.rsp;
    u32 *d = (u32 *)s.rsp;
    const bool pops_ss = how >= IRETQ || rpl > cpl; /* IRET in 64-bit mode always does */

    if (how == IRETD) {
        d[0] = (u32)(u64)target, d[1] = (u32)cs, d[2] = (u32)flags, d[3] = (u32)rsp, d[4] = (u32)ss;
    } else if (how == IRETQ) {
        q[0] = (u64)target, q[1] = cs, q[2] = flags, q[3] = rsp, q[4] = ss;
    } else {
        unsigned skip = how == RETF_N ? 3 : 0;
        q[0] = (u64)target, q[1] = cs, q[2 + skip] = rsp, q[3 + skip] = ss;
    }
    s.ds = selector_of(DATA, 0) * (cpl == 0);
    s.es = selector_of(DATA, 3) | 3;
    s.fs = selector_of(CONFORMING, 0);
    s.gs = cpl <= 2 ? selector_of(CODE64, 2) | 2 : 0;
    s.rflags = flags;
    before = s;
    run(&s);
    struct outcome want = return_cs(cpl, kind, dpl, rpl);
    if (want.vector == END_VECTOR && pops_ss)
        want = return_ss(ss_kind, ss_dpl, ss_rpl, rpl, kind != CODE32);
    if (!ends_as("return", id, &s, want)) {
        tally("return: RIP of the fault", id, s.rip, before.rip);
        tally("return: RSP of the fault", id, s.rsp, before.rsp);
        tally("return: CS of the fault", id, s.cs, before.cs);
        return;
    }
    tally("return: RIP", id, s.rip, (u64)target_end);
    tally("return: CS", id, s.cs, cs);
    tally("return: SS", id, s.ss, pops_ss ? ss : before.ss);
    tally("return: RSP", id, s.rsp,
          pops_ss ? rsp + (how == RETF_N ? 24 : 0) : before.rsp + 16 + (how == RETF_N ? 24 : 0));
    tally("return: flags", id, s.rflags, flags);
    bool outer = rpl > cpl;
    tally("return: DS", id, s.ds, outer ? 0 : before.ds);
    tally("return: ES", id, s.es, before.es);
    tally("return: FS, conforming", id, s.fs, before.fs);
    tally("return: GS, ring 2", id, s.gs, outer && rpl == 3 ? 0 : before.gs);
}

static void returns(void)
{
    for (unsigned how = 0; how < HOWS; how++) {
        for (unsigned cpl = 0; cpl < 4; cpl++)
            for (unsigned cs = 0; cs < N_KINDS * 16; cs++)
                for (unsigned ss = 0; ss < (N_KINDS + 1) * 16; ss++) {
                    unsigned rpl = cs & 3;
                    bool good_cs = return_cs(cpl, cs >> 4, cs >> 2 & 3, rpl).vector == END_VECTOR;

                    if (ss >> 4 == N_KINDS && (ss & 3) != rpl)
                        continue; /* null with another RPL: the manual does not say */
                    if (good_cs || ss == (unsigned)(DATA * 16 + rpl * 5)) /* a bad CS goes before any SS */
                        one_return(how, cpl, cs, ss);
                }
        tally_end(how == RETF ? "RETF" : how == RETF_N ? "RETF n" : how == IRETQ ? "IRETQ" : "IRETD");
    }
}

static void expect_return(const char *name, const u8 *code, u64 rip, u64 cs, u64 flags, u64 vector, unsigned error)
{
    struct state s = ring(0, code);
    u64 *q = (u64 *)s.rsp;

    q[0] = rip;
    q[1] = cs;
    q[2] = code == return_iret ? FL_ONE : s.rsp;
    q[3] = s.rsp;
    q[4] = SEL_DATA0;
    s.rflags |= flags;
    run(&s);
    expect(name, &s, vector, (long)error, code);
}

static void other_returns(void)
{
    const u64 hole = 0x800000000000;

    expect_return("RETF to null", return_far, (u64)target, 0, 0, GP, 0);
    expect_return("IRETQ to null", return_iret, (u64)target, 3, 0, GP, 0);
    expect_return("RETF beyond the GDT", return_far, (u64)target, 0xfff8, 0, GP, 0xfff8);
    expect_return("IRETQ under NT", return_iret, (u64)target, SEL_CODE0, FL_NT, GP, 0);
    expect_return("RETF to a place not canonical", return_far, hole, SEL_CODE0, 0, GP, 0);
    expect_return("IRETQ to a place not canonical", return_iret, hole, SEL_CODE0, 0, GP, 0);
    expect_return("RETF to a TSS", return_far, (u64)target, SEL_TSS, 0, GP, SEL_TSS);
}

int main(void)
{
    make_segments();
    direct_transfers();
    call_gates();
    returns();
    other_returns();
    return 0;
}
