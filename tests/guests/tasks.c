/*
 * Hardware task switches: by JMP, CALL, INT n, exceptions and IRET, straight and through task gates, between TSSs of 32 and 16
 * bits; busy bits, links, NT, TS, the T bit; everything that is refused, and in which task; and the gates of 16 bits.
 * Source: SDM vol. 3, chapter 7 and 5.8, 6.12; the order of checks: table 7-1.
 */
#include "runtime32.h"

#define S_B      (S_FREE + 0x00)
#define S_C      (S_FREE + 0x08)
#define S_GATE   (S_FREE + 0x10)
#define S_LDT    (S_FREE + 0x18)
#define S_X      (S_FREE + 0x20)
#define S_MAIN16 (S_FREE + 0x28)
#define LDT_CODE 0x07
#define LDT_DATA 0x0f

struct tss16 {
    u16 link, sp0, ss0, sp1, ss1, sp2, ss2, ip, flags, ax, cx, dx, bx, sp, bp, si, di, es, cs, ss, ds, ldt;
};
_Static_assert(sizeof(struct tss16) == 44, "SDM vol. 3, figure 7-10");

static struct tss32 b __attribute__((aligned(128)));
static struct tss16 c __attribute__((aligned(64))), main16 __attribute__((aligned(64)));
static u64 ldt[4];
static u8 b_stack[4096] __attribute__((aligned(4096))), b_stack0[4096] __attribute__((aligned(4096)));

static struct {
    u32 offset;
    u16 selector;
} __attribute__((packed)) pointer;

CODE(call_far, "lcall *(%eax)\n" END);
CODE(jump_far, "ljmp *(%eax)\n" END);
CODE(int_42, "int $0x42\n" END);
CODE(ud2_, "ud2\n" END);
CODE(store_null, "mov %eax, %fs:0\n" END);
CODE(target, END);
CODE(go_back, "iretl\n" END);
CODE(go_back_error, "add $4, %esp\n iretl\n");
CODE16(target16, END);
CODE16(go_back16, "iretw\n" END);

/* Where the INT 80h begins that ends a piece of code. */
#define END_OF(end) ((const u8 *)((u32)(end)-2))

static unsigned type_of(unsigned selector)
{
    return gdt[selector / 8] >> 40 & 15;
}

static u32 task_register(void)
{
    u32 v = 0;

    asm volatile("str %w0" : "+r"(v));
    return v;
}

/* The main task is this one again; the others are fresh. */
static void reset(void)
{
    gdt[S_TSS / 8] = descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0);
    gdt[S_MAIN16 / 8] = descriptor((u32)&main16, sizeof(main16) - 1, 0x81, 0);
    gdt[S_B / 8] = descriptor((u32)&b, sizeof(b) - 1, 0xe9, 0);
    gdt[S_C / 8] = descriptor((u32)&c, sizeof(c) - 1, 0xe1, 0);
    gdt[S_GATE / 8] = gate(0, S_B, 0xe5, 0);
    gdt[S_LDT / 8] = descriptor((u32)ldt, sizeof(ldt) - 1, 0x82, 0);
    ldt[0] = descriptor(0, 0xfffff, 0xfb, 0xc);
    ldt[1] = descriptor(0, 0xfffff, 0xf3, 0xc);
    asm volatile("ltr %w0" ::"r"(S_TSS));
    asm volatile("lldt %w0" ::"r"(0));
    asm volatile("clts");
    tss.esp0 = TOP(event_stacks[0]);
    b = (struct tss32){.link = 0xdead,
                       .esp0 = TOP(b_stack0),
                       .ss0 = S_DATA0,
                       .eip = (u32)target,
                       .eflags = 2 | FL_CF,
                       .eax = 0xb0,
                       .ecx = 0xb1,
                       .edx = 0xb2,
                       .ebx = 0xb3,
                       .esp = TOP(b_stack) - 64,
                       .ebp = 0xb5,
                       .esi = 0xb6,
                       .edi = 0xb7,
                       .es = S_DATA3,
                       .cs = S_CODE3,
                       .ss = S_DATA3,
                       .ds = S_DATA3,
                       .fs = S_DATA3,
                       .gs = 0,
                       .io_map = sizeof(b)};
    c = (struct tss16){.sp0 = 0xff0,
                       .ss0 = S_X,
                       .ip = 0,
                       .flags = 2,
                       .ax = 0xc0,
                       .cx = 0xc1,
                       .dx = 0xc2,
                       .bx = 0xc3,
                       .sp = 0xfc0,
                       .bp = 0xc5,
                       .si = 0xc6,
                       .di = 0xc7,
                       .es = S_DATA0,
                       .cs = S_X + 8,
                       .ss = S_X,
                       .ds = S_DATA0};
    gdt[S_X / 8] = descriptor((u32)b_stack0, 0xfff, 0x93, 0);
    default_gate(0x42);
    default_gate(UD);
    default_gate(GP);
    default_gate(DF);
}

static struct state32 main_task(const void *code, unsigned r, unsigned selector)
{
    struct state32 s = ring(r, code);

    pointer.selector = (u16)selector;
    pointer.offset = 0x12345678; /* nobody looks at it */
    s.eax = (u32)&pointer;
    s.ebx = 0xa3;
    s.ecx = 0xa1;
    s.edx = 0xa2;
    s.esi = 0xa6;
    s.edi = 0xa7;
    s.ebp = 0xa5;
    s.eflags |= FL_ZF;
    return s;
}

/* --- switches that go well --- */

static void check_saved(const struct state32 *was, const void *eip, u32 flags)
{
    check("saved EIP", tss.eip, (u32)eip);
    check("saved EFLAGS", tss.eflags, flags);
    check("saved registers", tss.eax ^ tss.ebx << 8 ^ tss.ecx << 16 ^ tss.edx << 24,
          was->eax ^ was->ebx << 8 ^ was->ecx << 16 ^ was->edx << 24);
    check("saved ESP", tss.esp, was->esp);
    check("saved EBP, ESI, EDI", tss.ebp << 16 ^ tss.esi << 8 ^ tss.edi, was->ebp << 16 ^ was->esi << 8 ^ was->edi);
    check("saved CS and SS", tss.cs << 16 | tss.ss, was->cs << 16 | was->ss);
    check("saved ES and DS", tss.es << 16 | tss.ds, was->es << 16 | was->ds);
}

static void check_new(const struct state32 *s, const void *eip, u32 flags)
{
    expect("the new task", s, END_VECTOR, NO_ERROR, eip);
    check("its EFLAGS", s->eflags, flags);
    check("its EAX to EBX", s->eax ^ s->ebx << 8 ^ s->ecx << 16 ^ s->edx << 24, 0xb0 ^ 0xb300 ^ 0xb10000 ^ 0xb2000000);
    check("its EBP, ESI, EDI", s->ebp << 16 ^ s->esi << 8 ^ s->edi, 0xb50000 ^ 0xb600 ^ 0xb7);
    check("its ESP", s->esp, TOP(b_stack) - 64);
    check("its segments", s->cs << 16 | s->ss, S_CODE3 << 16 | S_DATA3);
    check("its data segments", s->ds ^ s->es << 8 ^ s->fs << 16 ^ s->gs << 24, S_DATA3 ^ S_DATA3 << 8 ^ S_DATA3 << 16);
    check("TR", task_register(), S_B);
    check("CR0.TS", get_cr0() & 8, 8);
}

static void one_switch(const char *name, const u8 *code, const u8 *end, unsigned selector, bool nested)
{
    struct state32 s, was;

    print(name);
    print(":\n");
    reset();
    s = was = main_task(code, 0, selector);
    run(&s);
    check_saved(&was, end, was.eflags);
    check_new(&s, target_end, 2 | FL_CF | (nested ? FL_NT : 0));
    check("busy bits", type_of(S_TSS) << 4 | type_of(S_B), nested ? 0xbb : 0x9b);
    check("link", b.link & 0xffff, nested ? S_TSS : 0xdead);
    /* the same from ring 3, and back */
    reset();
    b.eip = (u32)go_back;
    b.cs = S_CODE0, b.ss = S_DATA0;
    s = was = main_task(code, 3, selector);
    run(&s);
    if (!nested) {
        /* IRET without NT: an ordinary one, from a stack of zeros */
        expect("IRET without NT", &s, GP, 0, go_back);
        return;
    }
    /* INT 80h stands behind the code that switched */
    expect("IRET with NT goes back", &s, END_VECTOR, NO_ERROR, end + (code == ud2_ ? 0 : 2));
    check("its registers", s.ebx ^ s.ecx << 8 ^ s.edx << 16 ^ s.esi << 24, 0xa3 ^ 0xa100 ^ 0xa20000 ^ 0xa6000000);
    check("its ESP", s.esp, was.esp);
    check("its flags", s.eflags, was.eflags);
    check("its ring", s.cs, S_CODE3);
    check("TR", task_register(), S_TSS);
    check("busy bits", type_of(S_TSS) << 4 | type_of(S_B), 0xb9);
    check("saved EIP of what was left", b.eip, (u32)END_OF(go_back_end));
    check("its saved flags: NT is clear", b.eflags, 2 | FL_CF);
}

static void switches(void)
{
    one_switch("JMP", jump_far, END_OF(jump_far_end), S_B, false);
    one_switch("CALL", call_far, END_OF(call_far_end), S_B, true);
    one_switch("JMP by gate", jump_far, END_OF(jump_far_end), S_GATE, false);
    one_switch("CALL by gate", call_far, END_OF(call_far_end), S_GATE, true);
}

static void interrupts(void)
{
    struct state32 s, was;

    reset();
    idt[0x42] = gate(0, S_B, 0xe5, 0);
    s = was = main_task(int_42, 0, 0);
    run(&s);
    check_saved(&was, END_OF(int_42_end), was.eflags);
    check_new(&s, target_end, 2 | FL_CF | FL_NT);
    check("INT n: busy bits", type_of(S_TSS) << 4 | type_of(S_B), 0xbb);
    reset();
    idt[0x42] = gate(0, S_B, 0xe5, 0);
    b.eip = (u32)go_back, b.cs = S_CODE0, b.ss = S_DATA0;
    s = was = main_task(int_42, 3, 0);
    run(&s);
    expect("INT n and back", &s, END_VECTOR, NO_ERROR, int_42_end);
    /* an exception without an error code, a fault: RF is set in what is saved */
    reset();
    idt[UD] = gate(0, S_B, 0x85, 0);
    s = was = main_task(ud2_, 3, 0);
    run(&s);
    check_saved(&was, ud2_, was.eflags | FL_RF);
    check_new(&s, target_end, 2 | FL_CF | FL_NT);
    /* one with an error code, onto the new task's stack */
    reset();
    idt[GP] = gate(0, S_B, 0x85, 0);
    s = was = main_task(store_null, 3, 0);
    run(&s);
    expect("an exception with an error code", &s, END_VECTOR, NO_ERROR, target_end);
    check("its ESP", s.esp, TOP(b_stack) - 68);
    check("its error code", *(u32 *)s.esp, 0);
    reset();
    idt[GP] = gate(0, S_C, 0x85, 0);
    gdt[S_X / 8 + 1] = descriptor((u32)target16, 0xfff, 0x9b, 0);
    c.flags = 2;
    s = was = main_task(store_null, 3, 0);
    run(&s);
    check("a 16-bit task gets a word", s.vector << 16 | (s.esp & 0xffff), END_VECTOR << 16 | 0xfbe);
    /* a handler in a task of its own: what it changed is in the saved state */
    reset();
    idt[GP] = gate(0, S_B, 0x85, 0);
    b.eip = (u32)go_back_error, b.cs = S_CODE0, b.ss = S_DATA0;
    s = main_task(store_null, 3, 0);
    s.fs = 0;
    run(&s); /* comes back to the instruction: the task runs on behind its IRET, at INT 80h's bytes or not at all */
    check("the same task again", s.vector != END_VECTOR || s.eip != (u32)store_null_end, 1);
}

/* 16-bit tasks, and from them. */
static void tasks16(void)
{
    struct state32 s, was;

    reset();
    gdt[S_X / 8 + 1] = descriptor((u32)target16, 0xfff, 0x9b, 0);
    s = was = main_task(call_far, 0, S_C);
    run(&s);
    check_saved(&was, END_OF(call_far_end), was.eflags);
    check("a 16-bit task", s.vector << 16 | s.eip, END_VECTOR << 16 | 2);
    check("its flags", s.eflags & 0xffff, 2 | FL_NT);
    check("its AX to BX", (u16)s.eax ^ (u16)s.ebx << 8 ^ (u16)s.ecx << 16 ^ s.edx << 24,
          0xc0 ^ 0xc300 ^ 0xc10000 ^ 0xc2000000);
    check("its SP", s.esp & 0xffff, 0xfc0);
    check("its CS and SS", s.cs << 16 | s.ss, (S_X + 8) << 16 | S_X);
    check("FS and GS are null", s.fs | s.gs, 0);
    check("busy bits", type_of(S_TSS) << 4 | type_of(S_C), 0xb3);
    check("link", c.link, S_TSS);
    reset();
    gdt[S_X / 8 + 1] = descriptor((u32)go_back16, 0xfff, 0x9b, 0);
    s = was = main_task(call_far, 3, S_C);
    run(&s);
    expect("and back", &s, END_VECTOR, NO_ERROR, call_far_end);
    check("its saved IP", c.ip, 1);
    check("busy bits", type_of(S_TSS) << 4 | type_of(S_C), 0xb1);
    /* this task as a 16-bit one: 32-bit code whose EIP fits, through a code segment based at it */
    reset();
    asm volatile("ltr %w0" ::"r"(S_MAIN16));
    gdt[S_X / 8 + 2] = descriptor((u32)call_far, 0xffff, 0x9b, 4);
    s = was = main_task(0, 0, S_B);
    s.cs = S_X + 16;
    run(&s);
    check_new(&s, target_end, 2 | FL_CF | FL_NT);
    check("saved IP", main16.ip, (u32)(call_far_end - call_far) - 2);
    check("saved FLAGS", main16.flags, was.eflags);
    check("saved AX", main16.ax, was.eax & 0xffff);
    check("saved BX, CX", main16.bx << 16 | main16.cx, 0xa300a1);
    check("saved SP", main16.sp, was.esp & 0xffff);
    check("saved segments", main16.cs << 16 | main16.ss, (S_X + 16) << 16 | S_DATA0);
    check("link", b.link & 0xffff, S_MAIN16);
    check("busy bits", type_of(S_MAIN16) << 4 | type_of(S_B), 0x3b);
}

/* --- what is refused in the old task --- */

static void refused(void)
{
    static const struct {
        const char *name;
        u16 access; /* of B's descriptor */
        u32 limit;
        u16 selector;
        u8 cpl;
        u32 vector;
        u32 error;
    } t[] = {{"not present", 0x69, 103, S_B, 3, NP, S_B},
             {"busy", 0xeb, 103, S_B, 3, GP, S_B},
             {"DPL 2 from ring 3", 0xc9, 103, S_B, 3, GP, S_B},
             {"DPL 2 with RPL 3", 0xc9, 103, S_B | 3, 0, GP, S_B},
             {"DPL 2 from ring 2", 0xc9, 103, S_B, 2, END_VECTOR, 0},
             {"limit 66h", 0xe9, 102, S_B, 3, TS, S_B},
             {"limit 67h", 0xe9, 103, S_B, 3, END_VECTOR, 0},
             {"16-bit, limit 2Ah", 0xe1, 42, S_B, 3, TS, S_B},
             {"busy, 16-bit", 0xe3, 103, S_B, 3, GP, S_B},
             {"busy and not present", 0x6b, 103, S_B, 3, GP, S_B},
             {"beyond the GDT", 0xe9, 103, 0xfff8, 3, GP, 0xfff8}};

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
        for (unsigned how = 0; how < 2; how++) {
            reset();
            gdt[S_B / 8] = descriptor((u32)&b, t[i].limit, t[i].access, 0);
            struct state32 s = main_task(how ? call_far : jump_far, t[i].cpl, t[i].selector);
            run(&s);
            if (t[i].vector == END_VECTOR) {
                check(t[i].name, outcome(&s), END_VECTOR << 16);
                continue;
            }
            expect(t[i].name, &s, t[i].vector, (long)t[i].error, how ? call_far : jump_far);
            check("TR is kept", task_register(), S_TSS);
        }
    /* through gates: of the gate, then of the TSS, whose DPL does not count */
    static const struct {
        const char *name;
        u16 gate_access, tss, access, limit;
        u32 vector, error;
    } g[] = {{"gate not present", 0x65, S_B, 0x89, 103, NP, S_GATE},
             {"gate of DPL 2", 0xc5, S_B, 0x89, 103, GP, S_GATE},
             {"a TSS of DPL 0", 0xe5, S_B, 0x89, 103, END_VECTOR, 0},
             {"a TSS in the LDT", 0xe5, S_B | 4, 0x89, 103, GP, S_B | 4},
             {"a TSS beyond the GDT", 0xe5, 0xffe8, 0x89, 103, GP, 0xffe8},
             {"a busy TSS", 0xe5, S_B, 0x8b, 103, GP, S_B},
             {"an absent TSS", 0xe5, S_B, 0x09, 103, NP, S_B},
             {"no TSS", 0xe5, S_B, 0x93, 103, GP, S_B},
             {"null", 0xe5, 0, 0x89, 103, GP, 0},
             {"a small TSS", 0xe5, S_B, 0x89, 50, TS, S_B}};
    for (unsigned i = 0; i < sizeof(g) / sizeof(g[0]); i++)
        for (unsigned how = 0; how < 4; how++) {
            const u8 *code[] = {jump_far, call_far, int_42, ud2_};
            u32 error = g[i].error;

            reset();
            gdt[S_B / 8] = descriptor((u32)&b, g[i].limit, g[i].access, 0);
            gdt[S_GATE / 8] = gate(0, g[i].tss, g[i].gate_access, 0);
            idt[0x42] = idt[UD] = gdt[S_GATE / 8];
            if (how == 3 && i == 1)
                continue; /* exceptions do not ask for DPL */
            if (how >= 2 && error == S_GATE)
                error = (how == 2 ? 0x42 : UD) * 8 + 2;
            if (how == 3 && g[i].vector != END_VECTOR)
                error |= 1;
            struct state32 s = main_task(code[how], 3, S_GATE);
            run(&s);
            if (g[i].vector == END_VECTOR)
                check(g[i].name, outcome(&s), END_VECTOR << 16);
            else
                expect(g[i].name, &s, g[i].vector, (long)error, code[how]);
        }
    /* IRET with NT */
    static const struct {
        const char *name;
        u16 link, access, limit;
        u32 vector, error;
    } r[] = {{"back to an available TSS", S_B, 0x89, 103, TS, S_B},
             {"back to an absent TSS", S_B, 0x0b, 103, NP, S_B},
             {"back to no TSS", S_B, 0x93, 103, TS, S_B},
             {"back to the LDT", S_B | 4, 0x8b, 103, TS, S_B | 4},
             {"back beyond the GDT", 0xffe0, 0x8b, 103, TS, 0xffe0},
             {"back to a small TSS", S_B, 0x8b, 102, TS, S_B},
             {"back to a busy TSS", S_B, 0x8b, 103, END_VECTOR, 0}};
    for (unsigned i = 0; i < sizeof(r) / sizeof(r[0]); i++) {
        reset();
        gdt[S_B / 8] = descriptor((u32)&b, r[i].limit, r[i].access, 0);
        tss.link = r[i].link;
        struct state32 s = main_task(go_back, 3, 0);
        s.eflags |= FL_NT;
        run(&s);
        if (r[i].vector == END_VECTOR) {
            check(r[i].name, outcome(&s), END_VECTOR << 16);
            check("its flags", s.eflags, 2 | FL_CF);
            check("busy bits", type_of(S_TSS) << 4 | type_of(S_B), 0x9b);
            check("saved NT", tss.eflags & FL_NT, 0);
        } else {
            expect(r[i].name, &s, r[i].vector, (long)r[i].error, go_back);
        }
    }
}

/* --- what is refused in the new task --- */

enum part { CS_, SS_, DS_, ES_, FS_, GS_, LDT_, EIP_ };

static void set_part(enum part part, u16 selector)
{
    switch (part) {
    case CS_:
        b.cs = selector;
        break;
    case SS_:
        b.ss = selector;
        break;
    case DS_:
        b.ds = selector;
        break;
    case ES_:
        b.es = selector;
        break;
    case FS_:
        b.fs = selector;
        break;
    case GS_:
        b.gs = selector;
        break;
    case LDT_:
        b.ldt = selector;
        break;
    default:
        break;
    }
}

static void refused_later(void)
{
    static const struct {
        const char *name;
        enum part part;
        u16 selector, access;
        u32 vector, error;
    } t[] = {
        {"CS: null", CS_, 3, 0, TS, 0},
        {"CS: beyond the GDT", CS_, 0xfffb, 0, TS, 0xfff8},
        {"CS: data", CS_, S_X | 3, 0xf3, TS, S_X},
        {"CS: another DPL", CS_, S_X | 3, 0xdb, TS, S_X},
        {"CS: conforming, DPL too high", CS_, S_X | 2, 0xff, TS, S_X},
        {"CS: a system segment", CS_, S_X | 3, 0xe2, TS, S_X},
        {"CS: absent", CS_, S_X | 3, 0x7b, NP, S_X},
        {"SS: null", SS_, 0, 0, TS, 0},
        {"SS: beyond the GDT", SS_, 0xfffb, 0, TS, 0xfff8},
        {"SS: another RPL", SS_, S_X | 2, 0xf3, TS, S_X},
        {"SS: another DPL", SS_, S_X | 3, 0xd3, TS, S_X},
        {"SS: read-only", SS_, S_X | 3, 0xf1, TS, S_X},
        {"SS: code", SS_, S_X | 3, 0xfb, TS, S_X},
        {"SS: absent", SS_, S_X | 3, 0x73, SS, S_X},
        {"DS: beyond the GDT", DS_, 0xfffb, 0, TS, 0xfff8},
        {"DS: of ring 2", DS_, S_X | 3, 0xd3, TS, S_X},
        {"DS: code that can not be read", DS_, S_X | 3, 0xf9, TS, S_X},
        {"DS: a system segment", DS_, S_X | 3, 0xe2, TS, S_X},
        {"DS: absent", DS_, S_X | 3, 0x73, NP, S_X},
        {"ES: of ring 2", ES_, S_X | 3, 0xd3, TS, S_X},
        {"FS: absent", FS_, S_X | 3, 0x73, NP, S_X},
        {"GS: of ring 0", GS_, S_DATA0 | 3, 0, TS, S_DATA0},
        {"LDT: in the LDT", LDT_, S_LDT | 4, 0, TS, S_LDT | 4},
        {"LDT: beyond the GDT", LDT_, 0xfff8, 0, TS, 0xfff8},
        {"LDT: data", LDT_, S_X, 0xf3, TS, S_X},
        {"LDT: absent", LDT_, S_X, 0x02, TS, S_X},
        {"EIP beyond the limit", CS_, S_X | 3, 0xfb, GP, 0},
    };

    for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++)
        for (unsigned how = 0; how < 3; how++) {
            const u8 *code[] = {jump_far, call_far, ud2_};
            bool limit = t[i].error == 0 && t[i].vector == GP;

            reset();
            gdt[S_X / 8] = descriptor(0, limit ? 0 : 0xfffff, t[i].access, 0xc);
            idt[UD] = gdt[S_GATE / 8];
            set_part(t[i].part, t[i].selector);
            struct state32 s = main_task(code[how], 3, S_B);
            run(&s);
            expect(t[i].name, &s, t[i].vector, (long)(t[i].error | (how == 2)), target);
            check("TR is the new one", task_register(), S_B);
        }
}

/* --- the rest --- */

static void rest(void)
{
    struct state32 s;
    u32 dr6;

    reset();
    b.trap = 1;
    s = main_task(call_far, 3, S_B);
    asm volatile("mov %0, %%dr6" ::"r"(0));
    run(&s);
    expect("the T bit", &s, DB, NO_ERROR, target);
    asm volatile("mov %%dr6, %0" : "=r"(dr6));
    check("DR6.BT", dr6 & 0xf00f, 0x8000);
    /* local breakpoints belong to a task */
    reset();
    asm volatile("mov %0, %%dr0" ::"r"(target));
    asm volatile("mov %0, %%dr7" ::"r"(0x401));
    s = main_task(jump_far, 3, S_B);
    run(&s);
    expect("a local breakpoint is gone", &s, END_VECTOR, NO_ERROR, target_end);
    asm volatile("mov %%dr7, %0" : "=r"(dr6));
    check("DR7.L0", dr6 & 3, 0);
    asm volatile("mov %0, %%dr7" ::"r"(0x402));
    reset();
    s = main_task(jump_far, 3, S_B);
    run(&s);
    expect("a global one is not", &s, DB, NO_ERROR, target);
    asm volatile("mov %0, %%dr7" ::"r"(0x400));
    /* a task with an LDT */
    reset();
    b.ldt = S_LDT;
    b.cs = LDT_CODE;
    b.ss = b.ds = b.es = b.fs = LDT_DATA;
    s = main_task(call_far, 3, S_B);
    run(&s);
    expect("a task with an LDT", &s, END_VECTOR, NO_ERROR, target_end);
    check("its CS and DS", s.cs << 16 | s.ds, LDT_CODE << 16 | LDT_DATA);
    /* a task in virtual-8086 mode */
    reset();
    memcpy(low(0x20000), target16, (u32)(target16_end - target16));
    b.eflags = 2 | FL_VM | FL_IOPL;
    b.eip = 0;
    b.cs = 0x2000, b.ss = 0x3000, b.ds = 0x1234, b.es = 0x2345, b.fs = 0x3456, b.gs = 0x4567;
    b.esp = 0x100;
    s = main_task(call_far, 3, S_B);
    run(&s);
    check("a task in virtual-8086 mode", s.vector << 16 | s.eip, END_VECTOR << 16 | 2);
    check("its flags", s.eflags, 2 | FL_VM | FL_IOPL | FL_NT);
    check("its segments", s.ds << 16 | s.gs, 0x12344567);
    check("the handler's segments are null", s.h_null, 0);
    /* a double fault, by way of a stack that is gone, has a task of its own */
    reset();
    idt[DF] = gate(0, S_B, 0x85, 0);
    idt[GP] = 0;
    s = main_task(store_null, 3, 0);
    run(&s);
    expect("a double fault in a task", &s, END_VECTOR, NO_ERROR, target_end);
    check("its error code", *(u32 *)s.esp, 0);
    check("its link", b.link & 0xffff, S_TSS);
    check("where it happened", tss.eip, (u32)store_null);
    reset();
}

/* CR3 of the new task. */
static void address_spaces(void)
{
    static u32 pd[2][1024] __attribute__((aligned(4096)));
    struct state32 s;

    for (unsigned i = 0; i < 2; i++) {
        pd[i][0] = 0x87, pd[i][1] = 0x400087;
        pd[i][16] = i << 22 | 0x87;
    }
    *(u8 *)low(0x7f123) = 1;
    *(u8 *)low(0x47f123) = 2;
    reset();
    set_cr4(0x10);
    set_cr3((u32)pd[0]);
    set_cr0(get_cr0() | 0x80000000);
    check("an address in the old task", *(volatile u8 *)0x407f123, 1);
    b.cr3 = (u32)pd[1];
    s = main_task(call_far, 3, S_B);
    run(&s);
    expect("a switch with paging", &s, END_VECTOR, NO_ERROR, target_end);
    check("CR3", get_cr3(), (u32)pd[1]);
    check("the address in the new task", *(volatile u8 *)0x407f123, 2);
    set_cr3((u32)pd[0]);
    /* a TSS that is not mapped: the fault is the old task's */
    reset();
    gdt[S_B / 8] = descriptor(0x8000000 - 50, 103, 0xe9, 0);
    s = main_task(call_far, 3, S_B);
    run(&s);
    expect("a TSS that is not mapped", &s, PF, 0, call_far);
    check("TR is kept", task_register(), S_TSS);
    set_cr0(get_cr0() & ~0x80000000);
    set_cr4(0);
}

/* --- gates of 16 bits --- */

CODE16(end16, END);

static void gates16(void)
{
    struct state32 s;
    const u16 *frame;

    reset();
    asm volatile("ltr %w0" ::"r"(S_MAIN16));
    gdt[S_X / 8] = descriptor((u32)b_stack0, 0xfff, 0x93, 0);
    gdt[S_X / 8 + 1] = descriptor((u32)end16, 0xfff, 0x9b, 0);
    main16.sp0 = 0xf00;
    main16.ss0 = S_X;
    for (unsigned trap = 0; trap < 2; trap++) {
        idt[0x42] = gate(0xabcd0000, S_X + 8, 0xe6 + trap, 0);
        s = ring(3, int_42);
        s.eflags |= 1 | FL_IF;
        s.esp = 0x6f00; /* its upper half stays */
        u32 esp = s.esp;
        run(&s);
        check("a gate of 16 bits", s.vector << 16 | s.eip, END_VECTOR << 16 | 2);
        check("IF", s.eflags & FL_IF, trap ? FL_IF : 0);
        check("its SP", s.esp & 0xffff, 0xf00 - 10);
        frame = (const u16 *)(b_stack0 + 0xf00 - 10);
        check("IP and CS", frame[0] << 16 | frame[1], (u32)(u16)(u32)END_OF(int_42_end) << 16 | S_CODE3);
        check("FLAGS", frame[2], 3 | FL_IF);
        check("SP and SS", frame[3] << 16 | frame[4], (u32)(u16)esp << 16 | S_DATA3);
    }
    /* an error code of 16 bits */
    idt[GP] = gate(0, S_X + 8, 0x86, 0);
    s = ring(3, store_null);
    s.esp = 0x6f00;
    run(&s);
    check("with an error code", s.vector << 16 | (s.esp & 0xffff), END_VECTOR << 16 | (0xf00 - 12));
    default_gate(GP);
    /* call gates */
    for (unsigned count = 0; count < 32; count++) {
        gdt[S_GATE / 8] = gate(0x77770000, S_X + 8, 0xe4, count);
        s = main_task(call_far, 3, S_GATE);
        s.esp = 0x6f00;
        for (unsigned i = 0; i < 32; i++)
            ((u16 *)low(s.esp))[i] = (u16)(0x100 + i);
        run(&s);
        tally("call gate of 16 bits", count, s.vector << 16 | s.eip, END_VECTOR << 16 | 2);
        tally("its SP", count, s.esp & 0xffff, 0xf00 - 8 - 2 * count);
        frame = (const u16 *)(b_stack0 + 0xf00 - 8 - 2 * count);
        tally("its IP and CS", count, frame[0] << 16 | frame[1], (u32)(u16)(u32)END_OF(call_far_end) << 16 | S_CODE3);
        for (unsigned i = 0; i < count; i++)
            tally("its parameters", count << 8 | i, frame[2 + i], 0x100 + i);
        tally("its SS", count, frame[3 + count], S_DATA3);
    }
    tally_end("call gates of 16 bits");
    reset();
}

int main(void)
{
    load_tables();
    switches();
    interrupts();
    tasks16();
    refused();
    refused_later();
    rest();
    address_spaces();
    gates16();
    return 0;
}
