/*
 * Real mode: addresses and their limits, "big real mode" (what protected mode left in a segment stays in force), the vector
 * table, far transfers, string instructions, what does not exist there; and the way from there to 64-bit mode and back as
 * an operating system's trampoline for further processors goes it. Source: SDM vol. 3, chapter 20 and 9.9; vol. 2.
 */
#include "real.h"

#define DATA  ((u8 *)low(DATA_SEG * 16))
#define STACK ((u8 *)low(STACK_SEG * 16))
#define SP    0x1000

static void load_vectors(void)
{
    u16 *ivt = low(0);

    memcpy(low(LOW), low_begin, (u32)(low_end - low_begin));
    for (unsigned i = 0; i < 256; i++) {
        ivt[2 * i] = (u16)(low_stubs - low_begin + 8 * i);
        ivt[2 * i + 1] = LOW_SEG;
    }
    gdt[S_LOW_CODE / 8] = descriptor(LOW, 0xffff, 0x9b, 0);
    gdt[S_LOW_DATA / 8] = descriptor(0, 0xffff, 0x93, 0);
    gdt[S_LOW_OTHER / 8] = descriptor(0, 0xfffff, 0x93, 8);
}

/* The piece of code at CODE_SEG:0, with segments and a stack of its own. */
static struct state16 real(const u8 *code, const u8 *end)
{
    struct state16 s = {.cs = CODE_SEG,
                        .ds = DATA_SEG,
                        .es = DATA_SEG,
                        .fs = DATA_SEG,
                        .gs = DATA_SEG,
                        .ss = STACK_SEG,
                        .esp = SP,
                        .eflags = 2,
                        .idtr = {.limit = 0x3ff}};

    for (unsigned i = 0; i < 5; i++)
        s.before[i] = S_LOW_DATA;
    memset(low(CODE_SEG * 16), 0xcc, 0x10000);
    memcpy(low(CODE_SEG * 16), code, (u32)(end - code));
    return s;
}
#define REAL(name) real(name, name##_end)

/* Vector, and IP as a distance from the code's beginning. */
static void expect16(const char *name, const struct state16 *s, u32 vector, u32 ip)
{
    if ((u16)s->vector != vector)
        check_bad(name, " (vector)", (u16)s->vector, vector);
    else if (s->eip != ip)
        check_bad(name, " (ip)", s->eip, ip);
    else
        check_good(name);
}
#define LENGTH(name)              ((u32)(name##_end - name))
#define EXPECT_END(text, s, name) expect16(text, s, END_VECTOR, LENGTH(name))

static u16 get16(const u8 *p)
{
    return (u16)(p[0] | p[1] << 8);
}
static u32 get32(const u8 *p)
{
    return get16(p) | (u32)get16(p + 2) << 16;
}

/* --- addresses --- */

CODE16(load_bx, "mov (%bx), %ax\n" END);
CODE16(load_ebx, "mov (%ebx), %eax\n" END);
CODE16(load_es_ebx, "mov %es:(%ebx), %al\n" END);
CODE16(load_bp, "mov (%bp), %ax\n" END);
CODE16(store_bx, "mov %eax, (%bx)\n" END);
CODE16(sum, "mov -2(%bx,%si), %al\n mov %fs:(%di), %ah\n" END);
CODE16(override, "mov %cs:1f - override, %ax\n mov %ss:(%bx), %cx\n mov (%bp), %dx\n" END "1: .word 0x1357\n");
CODE16(store_cs, "movw $0x2468, %cs:1f - store_cs\n mov %cs:1f - store_cs, %ax\n" END "1: .word 0\n");
CODE16(load_segments, "mov %ax, %es\n mov %es:(%bx), %dl\n mov %es, %cx\n" END);

static void addresses(void)
{
    struct state16 s = REAL(load_bx);

    for (unsigned i = 0; i < 16; i++)
        DATA[0x100 + i] = (u8)(0x10 + i);
    s.ebx = 0xabcd0100;
    s.eax = 0x99999999;
    run16(&s);
    EXPECT_END("a load", &s, load_bx);
    check("its value", s.eax, 0x99991110);
    check("its flags", s.eflags & 0xfff, 2);
    s = REAL(load_bx);
    s.ebx = 0xfffe;
    run16(&s);
    EXPECT_END("the last word", &s, load_bx);
    s.ebx = 0xffff;
    s.eip = 0, s.cs = CODE_SEG;
    run16(&s);
    expect16("a word beyond the limit", &s, GP, 0);
    s = REAL(load_bp);
    s.ebp = 0xffff;
    run16(&s);
    expect16("a word beyond the limit of the stack", &s, SS, 0);
    s = REAL(load_ebx);
    s.ebx = 0x10000;
    run16(&s);
    expect16("a 32-bit address beyond the limit", &s, GP, 0);
    s = REAL(load_ebx);
    s.ebx = 0x108;
    run16(&s);
    check("a 32-bit address", s.eax, 0x1b1a1918);
    s = REAL(store_bx);
    s.ebx = 0x120;
    s.eax = 0xdeadbeef;
    run16(&s);
    check("a store of 32 bits", get32(DATA + 0x120), 0xdeadbeef);
    s = REAL(sum);
    s.ebx = 0xff00;
    s.esi = 0x205;
    s.edi = 0x10c;
    run16(&s);
    check("BX + SI wraps", s.eax & 0xffff, 0x1c13);
    s = REAL(override);
    s.ebx = SP + 2;
    s.ebp = SP + 4;
    memset(STACK + SP, 0x31, 4);
    memset(STACK + SP + 4, 0x32, 4);
    run16(&s);
    check("CS:", s.eax & 0xffff, 0x1357);
    check("SS:", s.ecx & 0xffff, 0x3131);
    check("BP is in SS", s.edx & 0xffff, 0x3232);
    s = REAL(store_cs);
    run16(&s);
    check("CS can be written", s.eax & 0xffff, 0x2468);
    s = REAL(load_segments);
    s.eax = 0xffff;
    s.ebx = 0x10;
    run16(&s);
    check("FFFF:0010 is at 1 MiB", s.edx & 0xff, *(u8 *)0x100000);
    check("a selector as it was loaded", s.ecx & 0xffff, 0xffff);
}

/* Limits that protected mode left. */
static void big_real(void)
{
    struct state16 s;

    gdt[S_LOW_OTHER / 8] = descriptor(0x1000, 0xfffff, 0x93, 8);
    s = REAL(load_es_ebx);
    s.before[1] = S_LOW_OTHER;
    s.es = 0x10;
    s.ebx = 0x300000 - 0x100;
    *(u8 *)0x300000 = 0x77;
    run16(&s);
    EXPECT_END("big real mode", &s, load_es_ebx);
    check("what it reads", s.eax & 0xff, 0x77);
    gdt[S_LOW_OTHER / 8] = descriptor(0, 0x7f, 0x93, 0);
    for (unsigned i = 0x7f; i <= 0x80; i++) {
        s = REAL(load_es_ebx);
        s.before[1] = S_LOW_OTHER;
        s.ebx = i;
        run16(&s);
        expect16(i == 0x7f ? "within a small limit" : "beyond a small limit", &s, i == 0x7f ? END_VECTOR : GP,
                 i == 0x7f ? LENGTH(load_es_ebx) : 0);
    }
    gdt[S_LOW_OTHER / 8] = descriptor(0, 0xfff, 0x97, 0); /* expand-down */
    s = REAL(load_es_ebx);
    s.before[1] = S_LOW_OTHER;
    s.ebx = 0xfff;
    run16(&s);
    expect16("below an expand-down segment", &s, GP, 0);
    s = REAL(load_es_ebx);
    s.before[1] = S_LOW_OTHER;
    s.ebx = 0x1000;
    run16(&s);
    EXPECT_END("within an expand-down segment", &s, load_es_ebx);
    s = REAL(load_es_ebx);
    s.before[1] = 0;
    s.ebx = 5;
    s.es = DATA_SEG;
    DATA[5] = 0x5a;
    run16(&s);
    check("behind a null selector", s.eax & 0xff, 0x5a);
}

/* --- events --- */

CODE16(int_42, "int $0x42\n" END);
CODE16(int3_, "int3\n" END);
CODE16(into_, "into\n" END);
CODE16(int1_, ".byte 0xf1\n" END);
CODE16(divide, "div %cl\n" END);
CODE16(bound_, "bound %cx, (%bx)\n" END);
CODE16(ud2_, "ud2\n" END);
CODE16(arpl_, "arpl %ax, %bx\n" END);
CODE16(lar_, "lar %ax, %bx\n" END);
CODE16(lsl_, "lsl %ax, %bx\n" END);
CODE16(verr_, "verr %ax\n" END);
CODE16(verw_, "verw %ax\n" END);
CODE16(sldt_, "sldt %ax\n" END);
CODE16(str_, "str %ax\n" END);
CODE16(lldt_, "lldt %ax\n" END);
CODE16(ltr_, "ltr %ax\n" END);
CODE16(sysexit_, "sysexit\n" END);
CODE16(sysenter_, "sysenter\n" END);
CODE16(handler, "pushf\n mov %sp, %bp\n mov 6(%bp), %ax\n pop %bx\n orb $1, 6(%bp)\n iret\n");
CODE16(chained, "int $0x43\n" END);
CODE16(step, "pushf\n pop %ax\n or $1, %ah\n push %ax\n popf\n nop\n nop\n" END);
CODE16(movss_step,
       "pushf\n pop %ax\n or $1, %ah\n push %ax\n push %ss\n popw %dx\n popf\n mov %dx, %ss\n nop\n nop\n" END);

static void events(void)
{
    struct state16 s = REAL(int_42);
    u16 *ivt = low(0);

    s.eflags = 2 | FL_IF | FL_DF | FL_CF | FL_NT | FL_AC;
    run16(&s);
    expect16("INT n", &s, 0x42, 2);
    check("CS in its frame", s.cs, CODE_SEG);
    check("flags in its frame", s.eflags, 2 | FL_IF | FL_DF | FL_CF | FL_NT);
    check("its stack", s.esp, SP);
    check("flags in the handler", s.h_flags & ~FL_CF, 2 | FL_DF | FL_NT);
    s = REAL(int3_);
    run16(&s);
    expect16("INT3", &s, BP, 1);
    s = REAL(into_);
    s.eflags |= 0x800;
    run16(&s);
    expect16("INTO", &s, OF, 1);
    s = REAL(int1_);
    run16(&s);
    expect16("INT1", &s, DB, 1);
    s = REAL(divide);
    run16(&s);
    expect16("#DE", &s, DE, 0);
    s = REAL(bound_);
    memset(DATA, 0, 4);
    s.ecx = 1;
    run16(&s);
    expect16("BOUND", &s, BR, 0);
    static const struct {
        const char *name;
        const u8 *code, *end;
        u32 vector;
    } none[] = {{"UD2", ud2_, ud2__end, UD},
                {"ARPL", arpl_, arpl__end, UD},
                {"LAR", lar_, lar__end, UD},
                {"LSL", lsl_, lsl__end, UD},
                {"VERR", verr_, verr__end, UD},
                {"VERW", verw_, verw__end, UD},
                {"SLDT", sldt_, sldt__end, UD},
                {"STR", str_, str__end, UD},
                {"LLDT", lldt_, lldt__end, UD},
                {"LTR", ltr_, ltr__end, UD},
                {"SYSEXIT", sysexit_, sysexit__end, GP},
                {"SYSENTER", sysenter_, sysenter__end, GP}};
    for (unsigned i = 0; i < sizeof(none) / sizeof(none[0]); i++) {
        s = real(none[i].code, none[i].end);
        run16(&s);
        expect16(none[i].name, &s, none[i].vector, 0);
    }
    s = REAL(int_42);
    s.idtr.limit = 0x42 * 4 + 2;
    run16(&s);
    expect16("a vector beyond the limit of IDTR", &s, GP, 0);
    memcpy(low(0x6000), low(0), 0x400);
    ((u16 *)low(0x6000))[0x42 * 2] = ivt[0x44 * 2];
    s = REAL(int_42);
    s.idtr.base = 0x6000;
    run16(&s);
    expect16("a vector table elsewhere", &s, 0x44, 2);
    u32 saved = ((u32 *)ivt)[0x43];
    memcpy(low(CODE_SEG * 16 + 0x1000), handler, LENGTH(handler));
    s = REAL(chained);
    memcpy(low(CODE_SEG * 16 + 0x100), handler, LENGTH(handler));
    ((u32 *)ivt)[0x43] = CODE_SEG << 16 | 0x100;
    s.eflags |= FL_IF;
    run16(&s);
    EXPECT_END("a handler returns", &s, chained);
    check("IRET takes its frame's flags", s.eflags & (FL_IF | FL_CF), FL_IF | FL_CF);
    check("the handler saw IP's flags", s.eax & FL_IF, FL_IF);
    check("the handler's own flags", s.ebx & FL_IF, 0);
    ((u32 *)ivt)[0x43] = saved;
    s = REAL(step);
    run16(&s);
    expect16("a single step", &s, DB, LENGTH(step) - 3);
    check("TF in its frame", s.eflags & FL_TF, FL_TF);
    s = REAL(movss_step);
    run16(&s);
    expect16("MOV SS holds a step back", &s, DB, LENGTH(movss_step) - 3);
}

/* --- transfers --- */

CODE16(far_call, "lcall *(%bx)\n" END);
CODE16(far_call32, "lcalll *(%bx)\n" END);
CODE16(far_jump, "ljmp *(%bx)\n");
CODE16(far_jump32, "ljmpl *(%bx)\n");
CODE16(there, "mov %cs, %dx\n lret $4\n");
CODE16(there32, "mov %cs, %dx\n mov %sp, %bp\n mov (%bp), %esi\n mov 4(%bp), %di\n lretl\n");
CODE16(stop_here, END);
CODE16(iret32, "iretl\n");
CODE16(near_wrap, "jmp near_wrap - 0x20\n");
CODE16(jump32, "jmpl *%eax\n");
CODE16(count_cx, "mov $0x10003, %ecx\n 1: inc %ax\n loop 1b\n jcxz 2f\n inc %dx\n 2:" END);
CODE16(count_ecx, "mov $0x3, %ecx\n 1: inc %ax\n addr32 loop 1b\n jecxz 2f\n inc %dx\n 2:" END);
CODE16(call_near, "call 1f\n 1: pop %ax\n calll 2f\n 2: popl %ebx\n" END);

static void far_transfers(void)
{
    struct state16 s = REAL(far_call);
    u16 *p = (u16 *)DATA;

    p[0] = 0x10, p[1] = CODE_SEG + 0x10;
    memcpy(low(CODE_SEG * 16 + 0x110), there, LENGTH(there));
    run16(&s);
    EXPECT_END("CALL far, RET far 4", &s, far_call);
    check("its CS", s.edx & 0xffff, CODE_SEG + 0x10);
    check("its stack", s.esp, SP + 4);
    s = REAL(far_call32);
    p[0] = 0x10, p[1] = 0, p[2] = CODE_SEG + 0x11;
    memcpy(low(CODE_SEG * 16 + 0x120), there32, LENGTH(there32));
    run16(&s);
    EXPECT_END("CALL far of 32 bits", &s, far_call32);
    check("its CS", s.edx & 0xffff, CODE_SEG + 0x11);
    check("its return address", s.esi, LENGTH(far_call32) - 2);
    check("its return CS", s.edi, CODE_SEG);
    s = REAL(far_jump);
    p[0] = 0x23, p[1] = 0xffff;
    memcpy((u8 *)0xffff0 + 0x23, stop_here, LENGTH(stop_here));
    run16(&s);
    expect16("JMP far to FFFF:0023", &s, END_VECTOR, 0x25);
    check("its CS", s.cs, 0xffff);
    s = REAL(far_jump32);
    p[0] = 0, p[1] = 1, p[2] = CODE_SEG;
    run16(&s);
    expect16("JMP far beyond the limit", &s, GP, 0);
    s = REAL(jump32);
    s.eax = 0x10000;
    run16(&s);
    expect16("JMP near beyond the limit", &s, GP, 0);
    s = REAL(near_wrap);
    memcpy(low(CODE_SEG * 16 + 0xffe0), stop_here, LENGTH(stop_here));
    run16(&s);
    expect16("JMP near wraps", &s, END_VECTOR, 0xffe2);
    s = REAL(iret32);
    u32 *frame = (u32 *)(STACK + SP);
    frame[0] = 0x200, frame[1] = 0xdead0000 | (CODE_SEG + 1), frame[2] = 0x3f4dd7 & ~(FL_TF | FL_DF);
    memcpy(low(CODE_SEG * 16 + 0x210), stop_here, LENGTH(stop_here));
    run16(&s);
    expect16("IRET of 32 bits", &s, END_VECTOR, 0x202);
    check("its CS", s.cs, CODE_SEG + 1);
    check("its flags", s.eflags, 0x4dd7 & ~(FL_TF | FL_DF));
    check("not VM, VIF, VIP; RF is spent", s.h_flags & 0x3b0000, 0x200000);
    check("its stack", s.esp, SP + 12);
    s = REAL(count_cx);
    run16(&s);
    check("LOOP counts CX", s.eax, 3);
    check("ECX keeps its upper half", s.ecx, 0x10000);
    check("JCXZ", s.edx, 0);
    s = REAL(count_ecx);
    run16(&s);
    check("LOOP counts ECX", s.eax << 16 | s.edx << 8 | s.ecx, 0x30000);
    s = REAL(call_near);
    run16(&s);
    check("CALL near", s.eax, 3);
    check("CALL near of 32 bits", s.ebx, 10);
    check("the stack behind it", s.esp, SP);
    /* the end of the segment: the next instruction is beyond the limit */
    s = REAL(stop_here);
    *(u8 *)low(CODE_SEG * 16 + 0xffff) = 0x90;
    s.eip = 0xffff;
    run16(&s);
    check("the last byte of the segment, then #GP", (u16)s.vector, GP);
}

/* --- stack, strings, the rest --- */

CODE16(pushes, "push %ds\n pushl %fs\n pushw $-2\n pushl $-2\n pusha\n pushal\n");
CODE16(enter_, "enter $6, $2\n" END);
CODE16(leave_, "leave\n" END);
CODE16(pop_segments, "pop %es\n popl %fs\n lgs (%bx), %si\n lds (%bx), %di\n" END);
CODE16(lss_, "lss (%bx), %sp\n pushw $0x4321\n" END);
CODE16(pop16, "pop %ax\n" END);
CODE16(movs, "rep movsb\n" END);
CODE16(movs32, "addr32 rep movsl\n" END);
CODE16(scas, "repne scasb\n" END);
CODE16(msw, "smsw %ax\n mov %cr0, %ebx\n" END);
CODE16(tables, "sidt (%bx)\n sgdt 8(%bx)\n" END);
CODE16(modify, "movb $0x42, %cs:1f - modify + 1\n 1: mov $0, %al\n" END);
CODE16(flags, "pushl %eax\n popfl\n pushfl\n popl %ebx\n pushf\n pop %cx\n pushl $2\n popfl\n" END);
CODE16(xlat_, "xlat\n" END);

static void stack_and_strings(void)
{
    struct state16 s = REAL(pop16);

    s.esp = 0xffff;
    s.idtr.base = 0x6000;
    s = REAL(enter_);
    s.ebp = 0x12340000 | (SP + 0x40);
    *(u16 *)(STACK + SP + 0x3e) = 0xbeef;
    run16(&s);
    check("ENTER, BP", s.ebp, 0x12340000 | (SP - 2));
    check("ENTER, SP", s.esp, SP - 12);
    check("ENTER copies a frame", get16(STACK + SP - 4), 0xbeef);
    check("ENTER, its own", get16(STACK + SP - 6), SP - 2);
    s = REAL(leave_);
    s.ebp = SP - 8;
    *(u16 *)(STACK + SP - 8) = 0x1234;
    run16(&s);
    check("LEAVE", s.ebp << 16 | s.esp, 0x12340000 | (SP - 6));
    s = REAL(pop_segments);
    *(u16 *)(STACK + SP) = 0x1111;
    *(u32 *)(STACK + SP + 2) = 0xaaaa2222;
    *(u32 *)DATA = 0x33334444;
    run16(&s);
    EXPECT_END("segments from memory", &s, pop_segments);
    check("POP ES, POP FS", s.es << 16 | s.fs, 0x11112222);
    check("LGS, LDS", s.gs << 16 | s.ds, 0x33333333);
    check("their offsets", (s.esi & 0xffff) << 16 | (s.edi & 0xffff), 0x44444444);
    check("their stack", s.esp, SP + 6);
    s = REAL(lss_);
    *(u32 *)DATA = (u32)(STACK_SEG + 0x10) << 16 | 0x200;
    run16(&s);
    check("LSS", s.ss << 16 | s.esp, (u32)(STACK_SEG + 0x10) << 16 | 0x1fe);
    check("what it pushed", get16(STACK + 0x2fe), 0x4321);
    s = REAL(movs);
    for (unsigned i = 0; i < 16; i++)
        DATA[(0xfff8 + i) & 0xffff] = (u8)(0x60 + i);
    s.esi = 0x5555fff8;
    s.edi = 0x77770200;
    s.ecx = 0x88880010;
    run16(&s);
    EXPECT_END("REP MOVS goes round", &s, movs);
    check("its SI", s.esi, 0x55550008);
    check("its DI", s.edi, 0x77770210);
    check("its CX", s.ecx, 0x88880000);
    check("its last byte", DATA[0x20f], 0x6f);
    check("its first byte", DATA[0x200], 0x60);
    s = REAL(movs);
    s.eflags |= FL_DF;
    s.esi = 0x20f;
    s.edi = 3;
    s.ecx = 8;
    run16(&s);
    check("downwards", s.edi << 16 | s.esi, 0xfffb0207);
    check("its bytes", DATA[0xfffc] << 8 | DATA[3], 0x686f);
    s = REAL(movs32);
    s.esi = 0x200;
    s.edi = 0xfff4;
    s.ecx = 5;
    run16(&s);
    expect16("a string runs into the limit", &s, GP, 0);
    check("its EDI", s.edi, 0x10000);
    check("its ECX", s.ecx, 2);
    s = REAL(scas);
    memset(DATA + 0x300, 7, 16);
    DATA[0x309] = 9;
    s.edi = 0x300;
    s.eax = 9;
    s.ecx = 16;
    run16(&s);
    check("REPNE SCAS", s.edi << 16 | s.ecx, 0x30a0006);
    s = REAL(msw);
    run16(&s);
    check("SMSW", (u16)s.eax, (u16)s.ebx);
    check("PE is clear", s.ebx & 1, 0);
    s = REAL(tables);
    s.ebx = 0x400;
    run16(&s);
    check("SIDT", get16(DATA + 0x400), 0x3ff);
    check("SGDT", get32(DATA + 0x40a), (u32)gdt);
    s = REAL(modify);
    run16(&s);
    check("code that changes itself", s.eax & 0xff, 0x42);
    s = REAL(flags);
    s.eax = 0x3f7dd7 & ~(FL_TF | 0x30000);
    run16(&s);
    check("POPF and PUSHF of 32 bits", s.ebx, 0x247cd7);
    check("PUSHF of 16 bits", s.ecx & 0xffff, 0x7cd7);
    s = REAL(xlat_);
    s.ebx = 0xfff0;
    s.eax = 0x12;
    DATA[2] = 0x5c;
    run16(&s);
    check("XLAT goes round", s.eax & 0xff, 0x5c);
}

/* --- an interrupt from outside --- */

CODE16(wait_irq, "sti\n 1: inc %ax\n jmp 1b\n");
CODE16(halt_irq, "sti\n hlt\n" END);

static void timer(bool on)
{
    static const u8 pic[] = {0x11, 0x20, 4, 1};

    out8(0x20, pic[0]);
    for (unsigned i = 1; i < 4; i++)
        out8(0x21, pic[i]);
    out8(0xa1, 0xff);
    out8(0x21, on ? 0xfe : 0xff);
    out8(0x43, 0x30); /* counter 0, once */
    out8(0x40, 0);
    out8(0x40, 8);
}

static void interrupts(void)
{
    struct state16 s = REAL(wait_irq);

    timer(true);
    run16(&s);
    check("the timer's interrupt", (u16)s.vector, 0x20);
    check("IF in its frame", s.eflags & FL_IF, FL_IF);
    check("IF in the handler", s.h_flags & FL_IF, 0);
    timer(true);
    s = REAL(halt_irq);
    run16(&s);
    expect16("an interrupt ends HLT", &s, 0x20, 2);
    timer(false);
}

/* --- the trampoline --- */

/*
 * As Linux's real-mode trampoline goes (arch/x86/realmode/rm/trampoline_64.S), from a page-aligned place below 1 MiB: CS is
 * that place, IP is 0. Then back down, to the protected mode it came from.
 */
#define TRAMPOLINE 0x10000
extern u8 trampoline[], trampoline_result[], trampoline_end[];
extern u32 boot_cr3;
extern u8 back_from_64[];
asm(".pushsection .guest, \"ax\", @progbits\n.balign 16\n.globl trampoline, trampoline_result, trampoline_end\n"
    ".set T, 0x10000\n.code16\n"
    "trampoline: cli\n wbinvd\n ljmp $0x1000, $1f - trampoline\n"
    "1: mov %cs, %ax\n mov %ax, %ds\n mov %ax, %es\n mov %ax, %ss\n"
    "2: lock btsl $0, tr_lock - trampoline\n jnc 3f\n pause\n jmp 2b\n"
    "3: movl tr_stack - trampoline, %esp\n"
    " call tr_verify\n"
    " lidtl tr_idt - trampoline\n lgdtl tr_gdt - trampoline\n"
    " mov $0x18, %dx\n mov $1, %eax\n mov %eax, %cr0\n"
    " ljmpl $0x08, $tr_32 - trampoline + T\n"
    /* can AC and ID be changed, is there long mode? */
    "tr_verify: pushfl\n popl %eax\n movl %eax, %ebx\n xorl $0x240000, %eax\n pushl %eax\n popfl\n pushfl\n popl %eax\n"
    " cmpl %eax, %ebx\n je 9f\n pushl %ebx\n popfl\n"
    " movl $0x80000001, %eax\n cpuid\n btl $29, %edx\n jnc 9f\n ret\n 9: hlt\n jmp 9b\n"
    ".code32\n"
    "tr_32: movl %edx, %ss\n addl $T, %esp\n movl %edx, %ds\n movl %edx, %es\n movl %edx, %fs\n movl %edx, %gs\n"
    " movl $0x6b0, %eax\n movl %eax, %cr4\n movl boot_cr3, %eax\n movl %eax, %cr3\n"
    " movl $0xc0000080, %ecx\n rdmsr\n orl $0x901, %eax\n wrmsr\n"
    " movl $0x80050033, %eax\n movl %eax, %cr0\n"
    " pushl $0x10\n pushl $tr_64 - trampoline + T\n lretl\n"
    ".code64\n"
    "tr_64: lgdt tr_gdt64(%rip)\n movabs $0x123456789abcdef0, %rax\n mov %rax, trampoline_result(%rip)\n"
    " mov %cs, %eax\n mov %eax, trampoline_result + 8(%rip)\n"
    " ljmp *tr_down(%rip)\n"
    ".code32\n"
    "tr_compat: mov %cr0, %eax\n andl $0x7fffffff, %eax\n mov %eax, %cr0\n"
    " movl $0xc0000080, %ecx\n rdmsr\n mov %eax, trampoline_result - trampoline + T + 12\n andl $~0x100, %eax\n wrmsr\n"
    " xor %eax, %eax\n mov %eax, %cr4\n lgdt gdt_back\n"
    " ljmp $8, $back_from_64\n"
    ".balign 8\n trampoline_result: .long 0, 0, 0, 0\n tr_lock: .long 0\n tr_stack: .long 0xf00\n"
    " tr_idt: .word 0\n .long 0\n"
    " tr_gdt: .word tr_gdt_end - tr_gdt_table - 1\n .long tr_gdt_table - trampoline + T\n"
    " tr_gdt64: .word tr_gdt_end - tr_gdt_table - 1\n .quad tr_gdt_table - trampoline + T\n"
    " tr_down: .long tr_compat - trampoline + T\n .word 0x08\n"
    ".balign 8\n tr_gdt_table: .quad 0, 0x00cf9b000000ffff, 0x00af9b000000ffff, 0x00cf93000000ffff\n tr_gdt_end:\n"
    "trampoline_end:\n.popsection");

/* Into the real mode that run16 gives, and from there to the trampoline instead of back through an event. */
CODE16(to_trampoline, "ljmp $0x1000, $0\n");
asm(".pushsection .text\n.globl go16, back_from_64\n"
    "go16: pushal\n mov %esp, go_stack\n mov 36(%esp), %eax\n push %eax\n call run16\n"
    "back_from_64: mov $0x10, %eax\n mov %eax, %ds\n mov %eax, %es\n mov %eax, %ss\n mov go_stack, %esp\n"
    " xor %eax, %eax\n mov %eax, %fs\n mov %eax, %gs\n lidt idt_back\n popal\n ret\n"
    ".data\n go_stack: .long 0\n gdt_back: .word 511\n .long gdt\n idt_back: .word 0\n .long 0\n"
    ".globl boot_cr3\n boot_cr3: .long 0\n.popsection");
void go16(struct state16 *s);

static u64 tables64[3][512] __attribute__((aligned(4096)));

static void go_up_and_down(void)
{
    u32 *result = low(TRAMPOLINE + (u32)(trampoline_result - trampoline));

    tables64[0][0] = (u32)tables64[1] | 7;
    tables64[1][0] = (u32)tables64[2] | 7;
    for (unsigned i = 0; i < 512; i++)
        tables64[2][i] = (u64)i << 21 | 0x87;
    boot_cr3 = (u32)tables64[0];
    for (unsigned i = 0; i < 3; i++) {
        struct state16 s = REAL(to_trampoline);
        u32 efer, high, cr4;

        memcpy(low(TRAMPOLINE), trampoline, (u32)(trampoline_end - trampoline));
        go16(&s);
        check("the trampoline came to 64-bit mode", result[0], 0x9abcdef0);
        check("all 64 bits of it", result[1], 0x12345678);
        check("its CS", result[2], 0x10);
        check("LMA goes with PG", result[3], 0x101 | 0x800);
        asm volatile("rdmsr" : "=a"(efer), "=d"(high) : "c"(0xc0000080));
        check("EFER behind it", efer, 0x801);
        asm volatile("mov %%cr4, %0" : "=r"(cr4));
        check("CR4 behind it", cr4, 0);
        asm volatile("wrmsr" ::"c"(0xc0000080), "a"(0), "d"(0));
    }
}

int main(void)
{
    load_vectors();
    addresses();
    big_real();
    events();
    far_transfers();
    stack_and_strings();
    interrupts();
    go_up_and_down();
    return 0;
}
