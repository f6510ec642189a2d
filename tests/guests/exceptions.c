/*
 * Every exception, from ring 3 and ring 0: vector, error code, saved RIP (SDM vol. 3, 6.15).
 */
#include "guest.h"

CODE(divide, "div %cl\n" END);
CODE(divide_big, "mov $0xffff, %eax\n divide_big_at: div %cl\n" END);
CODE(idivide, "idiv %rcx\n" END);
CODE(int3, "int3\n int3_next:" END);
CODE(icebp, ".byte 0xf1\n icebp_next:" END);
CODE(ud2, "ud2\n" END);
CODE(ud1, "ud1 (%rax), %eax\n" END);
CODE(ud_lock, ".byte 0xf0, 0x90\n" END);                /* LOCK NOP */
CODE(ud_lock_load, ".byte 0xf0, 0x8b, 0x00\n" END);     /* LOCK MOV EAX, [RAX] */
CODE(ud_lock_register, ".byte 0xf0, 0xff, 0xc0\n" END); /* LOCK INC EAX */
CODE(ud_into, ".byte 0xce\n" END);
CODE(ud_push_es, ".byte 0x06\n" END);
CODE(ud_daa, ".byte 0x27\n" END);
CODE(ud_far_immediate, ".byte 0xea, 0, 0, 0, 0, 8, 0\n" END);
CODE(ud_mov_cs, ".byte 0x8e, 0xc8\n" END); /* MOV CS, EAX */
CODE(ud_segment_6, ".byte 0x8e, 0xf0\n" END);
CODE(ud_lea_register, ".byte 0x8d, 0xc0\n" END);
CODE(ud_cr1, ".byte 0x0f, 0x20, 0xc8\n" END); /* MOV EAX, CR1 */
CODE(ud_sysenter_rex, ".byte 0xd6\n" END);    /* SALC */
CODE(long_insn, ".fill 15, 1, 0x66\n .byte 0x90\n" END);
CODE(long_insn_ok, ".fill 14, 1, 0x66\n .byte 0x90\n" END);
CODE(fp, "fld1\n" END);
CODE(fwait, "fwait\n" END);
CODE(sse, "movaps %xmm0, %xmm1\n" END);
CODE(sse_unaligned, "movaps (%rax), %xmm1\n" END);
CODE(hlt, "hlt\n" END);
CODE(load_fs, "mov %eax, %fs\n" END);
CODE(load_ss, "mov %eax, %ss\n" END);
CODE(load_ds, "mov %eax, %ds\n" END);
CODE(load, "mov (%rax), %ecx\n" END);
CODE(load_rbp, "mov (%rbp), %ecx\n" END);
CODE(load_rsp, "pop %rcx\n" END);
CODE(push_rsp, "push %rcx\n" END);
CODE(call_rsp, "call load\n" END);
CODE(store, "mov %ecx, (%rax)\n" END);
CODE(jump, "jmp *%rax\n" END);
CODE(return_far_away, "push %rax\n return_far_away_at: ret\n" END);
CODE(align2, "mov 1(%rax), %cx\n" END);
CODE(align4, "mov 2(%rax), %ecx\n" END);
CODE(align8, "mov 4(%rax), %rcx\n" END);
CODE(align_push, "push %rcx\n" END);
CODE(align_sse, "movups 4(%rax), %xmm0\n" END);
CODE(align_byte, "mov 1(%rax), %cl\n" END);
CODE(divide_by_zero_fp, "fldz\n fld1\n divide_by_zero_fp_at: fdivp\n divide_by_zero_fp_wait: fwait\n" END);
CODE(divide_by_zero_sse, "divss %xmm1, %xmm0\n" END);
CODE(fninit, "fninit\n" END);
CODE(fldcw, "fldcw (%rax)\n" END);
CODE(ldmxcsr, "ldmxcsr (%rax)\n" END);
CODE(zero_sse, "xorps %xmm1, %xmm1\n mov $0x3f800000, %ecx\n movd %ecx, %xmm0\n" END);
CODE(into, ".code32\n into\n .code64\n into_next:" END);
CODE(into_set, ".code32\n mov $0x7fffffff, %eax\n inc %eax\n into\n into_set_next: .code64\n" END);
CODE(bound, ".code32\n bound %ecx, (%eax)\n .code64\n" END);
CODE(int_n, "int $0x42\n int_n_next:" END);
CODE(int_13, "int $13\n" END);
CODE(nop, "nop\n" END);

extern u8 divide_big_at[], int3_next[], icebp_next[], return_far_away_at[], divide_by_zero_fp_at[],
    divide_by_zero_fp_wait[], into_set_next[], int_n_next[];

static u8 data[64] __attribute__((aligned(64)));
static const char *where;

/* Names of checks say which ring they ran in. */
static const char *named(const char *name)
{
    static char text[100];
    char *p = text;

    for (const char *s = where; *s; s++)
        *p++ = *s;
    for (const char *s = name; *s; s++)
        *p++ = *s;
    *p = 0;
    return text;
}

static struct state go(unsigned r, const void *code, u64 rax)
{
    struct state s = ring(r, code);

    s.rax = rax;
    run(&s);
    return s;
}

static void ends(const char *name, unsigned r, const void *code, u64 rax, u64 vector, long error, const void *rip)
{
    struct state s = go(r, code, rax);

    expect(named(name), &s, vector, error, rip);
}

static void faults(const char *name, unsigned r, const void *code, u64 rax, u64 vector, long error)
{
    ends(name, r, code, rax, vector, error, code);
}

static void undefined(unsigned r)
{
    static const struct {
        const char *name;
        const void *code;
    } t[] = {{"UD2", ud2},
             {"UD1", ud1},
             {"LOCK NOP", ud_lock},
             {"LOCK load", ud_lock_load},
             {"LOCK of a register", ud_lock_register},
             {"INTO", ud_into},
             {"PUSH ES", ud_push_es},
             {"DAA", ud_daa},
             {"JMP far immediate", ud_far_immediate},
             {"MOV to CS", ud_mov_cs},
             {"MOV to segment 6", ud_segment_6},
             {"LEA of a register", ud_lea_register},
             {"SALC", ud_sysenter_rex}};

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
        faults(t[i].name, r, t[i].code, (u64)data, UD, NO_ERROR);
    /* MOV from CR1: #UD in ring 0; outside it #GP may come first */
    if (r == 0)
        faults("MOV from CR1", r, ud_cr1, 0, UD, NO_ERROR);
}

static void simple(unsigned r)
{
    faults("#DE by DIV", r, divide, 0, DE, NO_ERROR);
    faults("#DE by IDIV", r, idivide, 0, DE, NO_ERROR);
    struct state s = ring(r, divide_big);
    s.rcx = 1;
    run(&s);
    expect(named("#DE, quotient too large"), &s, DE, NO_ERROR, divide_big_at);
    check(named("#DE leaves RAX"), s.rax, 0xffff);
    ends("INT3", r, int3, 0, BP, NO_ERROR, int3_next);
    ends("INT1", r, icebp, 0, DB, NO_ERROR, icebp + 1);
    ends("INT n", r, int_n, 0, 0x42, NO_ERROR, int_n_next);
    undefined(r);
    faults("16 bytes", r, long_insn, 0, GP, 0);
    ends("15 bytes", r, long_insn_ok, 0, END_VECTOR, NO_ERROR, long_insn_ok_end);
    if (r)
        faults("HLT", r, hlt, 0, GP, 0);
    if (r)
        faults("INT 13", r, int_13, 0, GP, 13 * 8 + 2);
    else
        ends("INT 13: no error code", r, int_13, 0, GP, NO_ERROR, int_13 + 2);
}

static void segments(unsigned r)
{
    const unsigned free = SEL_FREE / 8, rpl = r;

    gdt[free] = descriptor(0, 0xfffff, 0x73, 0xc);                /* data, not present, DPL 3 */
    gdt[free + 1] = descriptor(0, 0xfffff, 0x93, 0xc);            /* data, DPL 0 */
    gdt[free + 2] = descriptor(0, 0xfffff, 0xf9, 0xc);            /* code, execute only, DPL 3 */
    gdt[free + 3] = descriptor(0, 0xfffff, (0x13 | r << 5), 0xc); /* data, not present, this ring's */
    gdt[free + 4] = descriptor(0, 0xfffff, 0xf1, 0xc);            /* data, read only, DPL 3 */
    faults("FS not present", r, load_fs, SEL_FREE | rpl, NP, SEL_FREE);
    faults("DS not present", r, load_ds, SEL_FREE | rpl, NP, SEL_FREE);
    faults("SS not present", r, load_ss, (SEL_FREE + 24) | rpl, SS, SEL_FREE + 24);
    if (r)
        faults("DS of ring 0", r, load_ds, SEL_FREE + 8, GP, SEL_FREE + 8);
    else
        ends("DS of ring 0", r, load_ds, SEL_FREE + 8, END_VECTOR, NO_ERROR, load_ds_end);
    faults("DS execute only", r, load_ds, (SEL_FREE + 16) | rpl, GP, SEL_FREE + 16);
    faults("SS code", r, load_ss, (SEL_FREE + 16) | rpl, GP, SEL_FREE + 16);
    faults("SS read only", r, load_ss, (SEL_FREE + 32) | rpl, GP, SEL_FREE + 32);
    faults("DS beyond the limit", r, load_ds, GDT_SLOTS * 8 | rpl, GP, GDT_SLOTS * 8);
    faults("DS from an empty LDT", r, load_ds, 0xc, GP, 0xc);
    faults("DS a TSS", r, load_ds, SEL_TSS | rpl, GP, SEL_TSS);
    faults("SS of another RPL", r, load_ss, SEL_DATA3 ^ 1, GP, SEL_DATA3 & ~3);
    if (r == 3) {
        faults("SS null", r, load_ss, 0, GP, 0);
        faults("SS null, RPL 3", r, load_ss, 3, GP, 0);
    } else {
        ends("SS null", r, load_ss, r, END_VECTOR, NO_ERROR, load_ss_end);
    }
    ends("DS null", r, load_ds, 0, END_VECTOR, NO_ERROR, load_ds_end);
}

static void not_canonical(unsigned r)
{
    const u64 hole = 0x800000000000;
    struct state s;

    faults("#GP, load", r, load, hole, GP, 0);
    faults("#GP, store", r, store, hole, GP, 0);
    faults("#GP, load that runs in", r, load, hole - 1, PF, r == 3 ? 4 : 0); /* the page before is not there */
    s = ring(r, load_rbp);
    s.rbp = hole;
    run(&s);
    expect(named("#SS, load by RBP"), &s, SS, 0, load_rbp);
    s = ring(r, load_rsp);
    s.rsp = hole;
    if (r) { /* in ring 0 the frame would go there too */
        run(&s);
        expect(named("#SS, POP"), &s, SS, 0, load_rsp);
        s = ring(r, push_rsp);
        s.rsp = hole + 64;
        run(&s);
        expect(named("#SS, PUSH"), &s, SS, 0, push_rsp);
        s = ring(r, call_rsp);
        s.rsp = hole + 64;
        run(&s);
        expect(named("#SS, CALL"), &s, SS, 0, call_rsp);
    }
    faults("#GP, JMP", r, jump, hole, GP, 0);
    ends("#GP, RET", r, return_far_away, hole, GP, 0, return_far_away_at);
}

static void page_faults(unsigned r)
{
    const u64 away = 0x7f0012345678, u = r == 3 ? 4 : 0;
    struct state s = go(r, load, away);

    expect(named("#PF, load"), &s, PF, (long)u, load);
    check(named("#PF, CR2"), s.cr2, away);
    s = go(r, store, away);
    expect(named("#PF, store"), &s, PF, (long)(u | 2), store);
    s = go(r, jump, away);
    expect(named("#PF, fetch"), &s, PF, (long)(u | 16), (void *)away);
    check(named("#PF, CR2 of a fetch"), s.cr2, away);
    s = go(r, load, (u64)-8);
    expect(named("#PF, load at the top"), &s, PF, (long)u, load);
    check(named("#PF, CR2 at the top"), s.cr2, (u64)-8);
}

static void fpu(unsigned r)
{
    const u64 cr0 = read_cr0(), cr4 = read_cr4();
    u16 *cw = (u16 *)data;
    u32 *mxcsr = (u32 *)data;
    struct state s;

    write_cr0(cr0 | CR0_TS);
    faults("#NM, x87, TS", r, fp, 0, NM, NO_ERROR);
    faults("#NM, SSE, TS", r, sse, 0, NM, NO_ERROR);
    faults("#NM, FWAIT, TS and MP", r, fwait, 0, NM, NO_ERROR);
    write_cr0((cr0 | CR0_TS) & ~(u64)CR0_MP);
    ends("FWAIT, TS without MP", r, fwait, 0, END_VECTOR, NO_ERROR, fwait_end);
    write_cr0((cr0 | CR0_EM));
    faults("#NM, x87, EM", r, fp, 0, NM, NO_ERROR);
    faults("#UD, SSE, EM", r, sse, 0, UD, NO_ERROR);
    write_cr0(cr0);
    write_cr4(cr4 & ~0x200ull);
    faults("#UD, SSE without OSFXSR", r, sse, 0, UD, NO_ERROR);
    write_cr4(cr4);
    faults("#GP, MOVAPS unaligned", r, sse_unaligned, (u64)data + 8, GP, 0);

    *cw = 0x37f & ~4;
    go(r, fninit, 0);
    go(r, fldcw, (u64)data);
    ends("#MF, at the next instruction", r, divide_by_zero_fp, 0, MF, NO_ERROR, divide_by_zero_fp_wait);
    go(r, fninit, 0);
    *mxcsr = 0x1f80 & ~0x200u;
    go(r, ldmxcsr, (u64)data);
    go(r, zero_sse, 0);
    faults("#XM", r, divide_by_zero_sse, 0, XM, NO_ERROR);
    go(r, zero_sse, 0);
    write_cr4(cr4 & ~0x400ull);
    faults("#UD for #XM without OSXMMEXCPT", r, divide_by_zero_sse, 0, UD, NO_ERROR);
    write_cr4(cr4);
    *mxcsr = 0x11f80;
    faults("#GP, reserved bit of MXCSR", r, ldmxcsr, (u64)data, GP, 0);
    *mxcsr = 0x1f80;
    s = go(r, ldmxcsr, (u64)data);
    expect(named("LDMXCSR"), &s, END_VECTOR, NO_ERROR, ldmxcsr_end);
}

/* #AC needs CR0.AM, EFLAGS.AC and ring 3. */
static void alignment(unsigned r, bool am, bool ac)
{
    static const struct {
        const char *name;
        u8 *code, *end;
        bool aligned;
    } t[] = {{"16 bits", align2, align2_end, false},
             {"32 bits", align4, align4_end, false},
             {"64 bits", align8, align8_end, false},
             {"PUSH", align_push, align_push_end, false},
             {"a byte", align_byte, align_byte_end, true}};
    const u64 cr0 = read_cr0();

    write_cr0(am ? cr0 | CR0_AM : cr0);
    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
        struct state s = ring(r, t[i].code);
        bool fault = am && ac && r == 3 && !t[i].aligned;

        s.rax = (u64)data;
        s.rsp -= 4;
        s.rflags |= ac ? FL_AC : 0;
        run(&s);
        expect(named(t[i].name), &s, fault ? AC : END_VECTOR, fault ? 0 : NO_ERROR, fault ? t[i].code : t[i].end);
    }
    write_cr0(cr0);
}

static void in_compat(unsigned r)
{
    int *bounds = (int *)data;
    struct state s = compat(r, into);

    run(&s);
    expect(named("INTO, OF clear"), &s, END_VECTOR, NO_ERROR, into_end);
    s = compat(r, into_set);
    run(&s);
    expect(named("#OF"), &s, OF, NO_ERROR, into_set_next);
    bounds[0] = -5;
    bounds[1] = 5;
    for (int i = -6; i <= 6; i += 4) {
        bool in = i >= -5 && i <= 5;

        s = compat(r, bound);
        s.rax = (u64)data;
        s.rcx = (u32)i;
        run(&s);
        expect(named("BOUND"), &s, in ? END_VECTOR : BR, NO_ERROR, in ? bound_end : bound);
    }
    s = compat(r, into);
    s.rip |= 0x100000000;
    run(&s);
    expect(named("IRETQ to a RIP beyond the limit"), &s, GP, 0, run_iret);
}

/* #DF: which pairs of exceptions make one (SDM vol. 3, table 6-5). */
static void double_faults(void)
{
    struct state s;

    /* #GP while #GP is delivered: no gate for vector 13 */
    set_gate(GP, 0, 0, 0, 0);
    s = go(3, hlt, 0);
    expect("#DF: #GP, then #GP for its gate", &s, DF, 0, hlt);
    check("#DF: on IST 1", s.frame, STACK_TOP(event_stacks[3]) - 40);
    s = go(3, divide, 0);
    expect("#DE with a good gate", &s, DE, NO_ERROR, divide);
    default_gate(GP);

    /* a handler that can't be fetched is no part of the delivery */
    set_gate(UD, 0x7f0000000000, SEL_CODE0, 0x8e, 0);
    s = go(3, ud2, 0);
    expect("a handler that is not mapped: #PF of its fetch", &s, PF, 0x10, (void *)0x7f0000000000);
    check("it is in ring 0", s.cs, SEL_CODE0);
    default_gate(UD);
}

/* Stack of the handler not mapped. */
static void bad_stacks(void)
{
    struct state s = ring(0, ud2);

    s.rsp = 0x7f0000001000;
    run(&s);
    expect("#UD, then #PF for its stack, then #PF again: #DF", &s, DF, 0, ud2);
    check("#DF: CR2 of the last", s.cr2, 0x7f0000001000 - 8);

    s = ring(0, divide);
    tss.ist[1] = 0x7f0000001000;
    idt[2 * DE] |= 2ull << 32;
    run(&s);
    expect("#DE, then #PF for IST: served as #PF", &s, PF, 2, divide);
    default_gate(DE);

    tss.ist[1] = 0x8000000000000000;
    idt[2 * PF] |= 2ull << 32;
    s = go(3, load, 0x7f0000000000);
    expect("#PF, then #SS for its stack: #DF", &s, DF, 0, load);
    default_gate(PF);
    idt[2 * UD] |= 2ull << 32;
    s = go(3, ud2, 0);
    expect("#UD, then #SS for its stack", &s, SS, 1, ud2);
    s = go(0, ud2, 0);
    expect("#UD, then #SS for its stack, ring 0", &s, SS, 1, ud2);
    default_gate(UD);
    tss.ist[1] = STACK_TOP(event_stacks[4]);
}

int main(void)
{
    static const char *const rings[] = {"ring 0: ", "ring 1: ", "ring 2: ", "ring 3: "};

    for (unsigned r = 0; r < 4; r++) {
        where = rings[r];
        simple(r);
        segments(r);
        not_canonical(r);
        page_faults(r);
        fpu(r);
        for (unsigned i = 0; i < 4; i++)
            alignment(r, i & 1, i >> 1);
    }
    where = "compatibility mode, ring 0: ";
    in_compat(0);
    where = "compatibility mode, ring 3: ";
    in_compat(3);
    where = "";
    double_faults();
    bad_stacks();
    return 0;
}
