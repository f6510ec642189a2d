/*
 * Virtual-8086 mode: the way in and out, addresses and their limits, what IOPL, CR4.VME and the redirection map make of
 * sensitive instructions, I/O permissions, what does not exist there; CR4.PVI in ring 3. Source: SDM vol. 3, chapter 20.
 */
#include "low.h"
#include "runtime32.h"

#define DATA    ((u8 *)low(DATA_SEG * 16))
#define STACK   ((u8 *)low(STACK_SEG * 16))
#define SP      0x1000
#define CR4_VME 1u
#define CR4_PVI 2u
#define IO_MAP  (sizeof(tss) + 32)

/* The TSS with a redirection map and an I/O map. */
static struct {
    struct tss32 t;
    u8 redirect[32], io[64 + 1];
} big __attribute__((aligned(256)));
static bool vme_there;

static struct state32 v86(const u8 *code, const u8 *end, unsigned iopl)
{
    struct state32 s = {.cs = CODE_SEG,
                        .ds = DATA_SEG,
                        .es = DATA_SEG + 0x10,
                        .fs = DATA_SEG + 0x20,
                        .gs = DATA_SEG + 0x30,
                        .ss = STACK_SEG,
                        .esp = SP,
                        .eflags = 2 | FL_VM | iopl << 12};

    memset(low(CODE_SEG * 16), 0xcc, 0x10000);
    memcpy(low(CODE_SEG * 16), code, (u32)(end - code));
    return s;
}
#define V86(name, iopl)                v86(name, name##_end, iopl)
#define AT(ip)                         ((const void *)(u32)(ip))
#define LENGTH(name)                   ((u32)(name##_end - name))
#define EXPECT(text, s, vector, error) expect(text, s, vector, error, AT(0))
/* Code ends with INT3, which needs no IOPL. */
#define STOP                       "int3\n"
#define EXPECT_STOP(text, s, name) expect(text, s, BP, NO_ERROR, AT(LENGTH(name)))

static void load_big_tss(void)
{
    memset(&big, 0, sizeof(big));
    memset(big.io, 0xff, sizeof(big.io));
    big.t.esp0 = TOP(event_stacks[0]);
    big.t.ss0 = S_DATA0;
    big.t.io_map = IO_MAP;
    gdt[S_FREE / 8] = descriptor((u32)&big, sizeof(big) - 1, 0x89, 0);
    asm volatile("ltr %w0" ::"r"(S_FREE));
}

/* --- in, out, addresses --- */

CODE16(nothing, STOP);
CODE16(addresses_,
       "mov (%bx), %ax\n mov %es:(%bx), %cx\n mov %fs:(%bx), %dx\n mov %gs:(%bx), %si\n mov (%bp), %di\n" STOP);
CODE16(load_bx, "mov (%bx), %ax\n" STOP);
CODE16(load_bp, "mov (%bp), %ax\n" STOP);
CODE16(load_ebx, "mov (%ebx), %eax\n" STOP);
CODE16(store_cs, "movw $0x2468, %cs:0x100\n mov %cs:0x100, %ax\n" STOP);
CODE16(load_ds, "mov %ax, %ds\n mov (%bx), %cx\n" STOP);
CODE16(far_call, "lcall $0x2010, $0x20\n" STOP);
CODE16(far_code, "mov %cs, %ax\n lret\n");
CODE16(ud2_, "ud2\n" STOP);

static void basics(void)
{
    struct state32 s = V86(nothing, 0), was = s;

    was.eflags |= FL_CF | FL_NT | FL_IF;
    was.eax = 1, was.ebx = 2, was.ecx = 3, was.edx = 4, was.esi = 5, was.edi = 6, was.ebp = 7;
    s = was;
    run(&s);
    EXPECT_STOP("in and out", &s, nothing);
    check("flags", s.eflags, was.eflags);
    check("registers", s.eax | s.ebx << 4 | s.ecx << 8 | s.edx << 12 | s.esi << 16 | s.edi << 20 | s.ebp << 24,
          0x7654321);
    check("segments", s.ds ^ s.es << 4 ^ s.fs << 8 ^ s.gs << 12, was.ds ^ was.es << 4 ^ was.fs << 8 ^ was.gs << 12);
    check("stack", s.ss << 16 | s.esp, STACK_SEG << 16 | SP);
    check("the handler's data segments are null", s.h_null, 0);
    check("the handler's ring", s.h_cs << 16 | s.h_ss, S_CODE0 << 16 | S_DATA0);
    s = V86(addresses_, 0);
    for (unsigned i = 0; i < 4; i++)
        *(u16 *)(DATA + 0x100 * i + 8) = (u16)(0x1111 * (i + 1));
    *(u16 *)(STACK + 0x20) = 0x5555;
    s.ebx = 8;
    s.ebp = 0x20;
    run(&s);
    EXPECT_STOP("loads", &s, addresses_);
    check("DS, ES", s.eax << 16 | s.ecx, 0x11112222);
    check("FS, GS", s.edx << 16 | s.esi, 0x33334444);
    check("SS", s.edi, 0x5555);
    s = V86(load_bx, 3);
    s.ebx = 0xffff;
    run(&s);
    EXPECT("beyond the limit", &s, GP, 0);
    s = V86(load_bp, 3);
    s.ebp = 0xffff;
    run(&s);
    EXPECT("beyond the limit of the stack", &s, SS, 0);
    s = V86(load_ebx, 3);
    s.ebx = 0x10000;
    run(&s);
    EXPECT("a 32-bit address", &s, GP, 0);
    s = V86(store_cs, 0);
    run(&s);
    check("CS can be written", s.eax & 0xffff, 0x2468);
    s = V86(load_ds, 0);
    s.eax = DATA_SEG + 0x20;
    s.ebx = 8;
    run(&s);
    check("MOV DS", s.ds << 16 | s.ecx, (DATA_SEG + 0x20) << 16 | 0x3333);
    s = V86(far_call, 0);
    memcpy(low(CODE_SEG * 16 + 0x120), far_code, LENGTH(far_code));
    run(&s);
    EXPECT_STOP("far calls", &s, far_call);
    check("their CS", s.eax & 0xffff, 0x2010);
    s = V86(ud2_, 0);
    run(&s);
    EXPECT("#UD", &s, UD, NO_ERROR);
    check("RF is set in its frame", s.eflags, 2 | FL_VM | FL_RF);
}

/* --- what is sensitive --- */

CODE16(cli_, "cli\n" STOP);
CODE16(sti_, "sti\n" STOP);
CODE16(pushf_, "pushf\n pop %ax\n" STOP);
CODE16(pushfd_, "pushfl\n popl %eax\n" STOP);
CODE16(popf_, "push %ax\n popf\n" STOP);
CODE16(popfd_, "pushl %eax\n popfl\n" STOP);
CODE16(iret_, "push %ax\n push %cs\n push $0x40\n iret\n");
CODE16(iretd_, "pushl %eax\n pushl %ecx\n pushl $0x40\n iretl\n");
CODE16(int_42, "int $0x42\n" STOP);
CODE16(hlt_, "hlt\n" STOP);

enum { IRET_AT = 4, IRETD_AT = 7 };

static void sensitive(bool vme)
{
    static const struct {
        const char *name;
        const u8 *code, *end;
        u32 at;     /* of the sensitive instruction */
        bool wide;  /* 32-bit operands: never with VIF */
        bool takes; /* flags from EAX */
    } t[] = {{"CLI", cli_, cli__end, 0, false, false},         {"STI", sti_, sti__end, 0, false, false},
             {"PUSHF", pushf_, pushf__end, 0, false, false},   {"PUSHFD", pushfd_, pushfd__end, 0, true, false},
             {"POPF", popf_, popf__end, 1, false, true},       {"POPFD", popfd_, popfd__end, 2, true, true},
             {"IRET", iret_, iret__end, IRET_AT, false, true}, {"IRETD", iretd_, iretd__end, IRETD_AT, true, true}};

    set_cr4(vme ? CR4_VME : 0);
    for (unsigned i = 0; i < 8; i++)
        for (unsigned k = 0; k < 4 * 16; k++) {
            unsigned iopl = k & 3;
            bool vif = k & 4, vip = k & 8, image_if = k & 16, intf = k & 32;
            struct state32 s = v86(t[i].code, t[i].end, iopl);
            bool virtual = vme && iopl < 3;
            u32 id = vme << 16 | k, flags = s.eflags;

            *(u8 *)low(CODE_SEG * 16 + 0x40) = 0xcc;
            s.eflags = flags |= (vif && vme ? FL_VIF : 0) | (vip && vme ? FL_VIP : 0) | (intf ? FL_IF : 0);
            s.eax = 2 | FL_ZF | FL_NT | (image_if ? FL_IF : 0) | (t[i].wide ? 1u << 21 : 0);
            s.ecx = CODE_SEG;
            run(&s);
            bool refused = iopl < 3 && (!vme || t[i].wide);
            if (virtual && (flags & FL_VIP) && (i == 1 || (t[i].takes && image_if)))
                refused = true;
            if (refused) {
                tally(t[i].name, id, outcome(&s), GP << 16);
                tally("its IP", id, s.eip, t[i].at);
                tally("flags are kept", id, s.eflags & ~FL_RF, flags);
                continue;
            }
            tally(t[i].name, id, s.vector, BP);
            u32 want = flags;
            if (i == 0)
                want &= ~(virtual ? FL_VIF : FL_IF);
            else if (i == 1)
                want |= virtual ? FL_VIF : FL_IF;
            else if (t[i].takes) {
                want = (flags & ~(virtual ? FL_VIF : FL_IF)) | FL_ZF | FL_NT | (t[i].wide ? 1u << 21 : 0);
                want |= image_if ? virtual ? FL_VIF : FL_IF : 0;
            }
            tally("flags", id, s.eflags, want);
            if (i == 2)
                tally("what PUSHF shows", id, s.eax & 0xffff,
                      virtual ? 2 | FL_IOPL | (flags & FL_VIF ? FL_IF : 0) : flags & 0xffff);
            if (i == 3)
                tally("what PUSHFD shows", id, s.eax, flags & ~FL_VM);
        }
    tally_end(vme ? "sensitive instructions, VME" : "sensitive instructions");
    set_cr4(0);
    struct state32 s = V86(hlt_, 3);
    run(&s);
    EXPECT("HLT", &s, GP, 0);
}

static void software_interrupts(void)
{
    u32 *ivt = low(0);

    for (unsigned k = 0; k < 64; k++) {
        unsigned iopl = k & 3;
        bool vme = (k & 4) && vme_there, bit = k & 8, vif = (k & 16) && vme, intf = k & 32, virtual = vme && iopl < 3;
        struct state32 s = V86(int_42, iopl);

        if ((k & 4) && !vme)
            continue;
        set_cr4(vme ? CR4_VME : 0);
        memset(big.redirect, bit ? 0 : 0xff, 32);
        big.redirect[8] ^= 4; /* only vector 42h is otherwise */
        ivt[0x42] = CODE_SEG << 16 | 0x200;
        *(u8 *)low(CODE_SEG * 16 + 0x200) = 0xcc;
        s.eflags |= (vif ? FL_VIF : 0) | (intf ? FL_IF : 0) | FL_NT;
        u32 flags = s.eflags;
        run(&s);
        if (vme && !bit) {
            const u16 *frame = (const u16 *)(STACK + SP - 6);
            u32 shown = virtual ? (flags & ~FL_IF) | FL_IOPL | (vif ? FL_IF : 0) : flags;

            tally("through the task's vectors", k, s.vector << 16 | s.eip, BP << 16 | 0x201);
            tally("its frame", k, frame[0] << 16 | frame[1], 2u << 16 | CODE_SEG);
            tally("flags in it", k, frame[2], shown & 0xffff);
            tally("flags then", k, s.eflags, flags & ~(virtual ? FL_VIF : FL_IF));
        } else if (iopl < 3) {
            tally("refused", k, outcome(&s), GP << 16);
            tally("its IP", k, s.eip, 0);
        } else {
            tally("through the IDT", k, outcome(&s), 0x42u << 16);
            tally("its IP", k, s.eip, 2);
        }
    }
    tally_end("INT n");
    set_cr4(0);
}

/* --- I/O, and what does not exist --- */

CODE16(in_, "in %dx, %al\n" STOP);
CODE16(inw_, "in %dx, %ax\n" STOP);
CODE16(lar_, "lar %ax, %bx\n" STOP);
CODE16(sldt_, "sldt %ax\n" STOP);
CODE16(arpl_, "arpl %ax, %bx\n" STOP);
CODE16(ltr_, "ltr %ax\n" STOP);
CODE16(cr_, "mov %cr0, %eax\n" STOP);
CODE16(dr_, "mov %dr7, %eax\n" STOP);
CODE16(lgdt_, "lgdt (%bx)\n" STOP);
CODE16(clts_, "clts\n" STOP);
CODE16(lmsw_, "lmsw %ax\n" STOP);
CODE16(rdmsr_, "rdmsr\n" STOP);
CODE16(smsw_, "smsw %ax\n" STOP);
CODE16(sgdt_, "sgdt (%bx)\n" STOP);
CODE16(andn_, ".byte 0xc4, 0xe2, 0x78, 0xf2, 0xc1\n" STOP);

static void input_output(void)
{
    static const struct {
        const char *name;
        const u8 *code, *end;
        u32 vector;
    } t[] = {{"LAR", lar_, lar__end, UD},       {"SLDT", sldt_, sldt__end, UD}, {"ARPL", arpl_, arpl__end, UD},
             {"LTR", ltr_, ltr__end, UD},       {"MOV CR", cr_, cr__end, GP},   {"MOV DR", dr_, dr__end, GP},
             {"LGDT", lgdt_, lgdt__end, GP},    {"CLTS", clts_, clts__end, GP}, {"LMSW", lmsw_, lmsw__end, GP},
             {"RDMSR", rdmsr_, rdmsr__end, GP}, {"SMSW", smsw_, smsw__end, BP}, {"SGDT", sgdt_, sgdt__end, BP},
             {"VEX", andn_, andn__end, UD}};
    struct state32 s;

    for (unsigned iopl = 0; iopl < 4; iopl += 3) {
        memset(big.io, 0xff, sizeof(big.io));
        big.io[0x80 / 8] = 0xfe;
        s = V86(in_, iopl);
        s.edx = 0x80;
        run(&s);
        EXPECT_STOP("a port that is open", &s, in_);
        s = V86(in_, iopl);
        s.edx = 0x81;
        run(&s);
        EXPECT("a port that is not", &s, GP, 0);
        s = V86(inw_, iopl);
        s.edx = 0x80;
        run(&s);
        EXPECT("two of them", &s, GP, 0);
        for (unsigned i = 0; i < sizeof(t) / sizeof(t[0]); i++) {
            s = v86(t[i].code, t[i].end, iopl);
            run(&s);
            check(t[i].name, s.vector, t[i].vector);
        }
    }
}

/* --- traps, interrupts, paging --- */

CODE16(step, "nop\n nop\n" STOP);
CODE16(loop_, "1: inc %ax\n jmp 1b\n");

static void events(void)
{
    static u32 pd[1024] __attribute__((aligned(4096))), pt[1024] __attribute__((aligned(4096)));
    struct state32 s = V86(step, 0);

    s.eflags |= FL_TF;
    run(&s);
    expect("a single step", &s, DB, NO_ERROR, AT(1));
    check("TF in its frame", s.eflags, 2 | FL_VM | FL_TF);
    /* the timer, whatever IOPL is */
    out8(0x20, 0x11);
    out8(0x21, 0x20);
    out8(0x21, 4);
    out8(0x21, 1);
    out8(0xa1, 0xff);
    out8(0x21, 0xfe);
    out8(0x43, 0x30);
    out8(0x40, 0);
    out8(0x40, 8);
    s = V86(loop_, 0);
    s.eflags |= FL_IF;
    run(&s);
    check("an interrupt", s.vector, 0x20);
    check("its frame's flags", s.eflags & (FL_VM | FL_IF), FL_VM | FL_IF);
    out8(0x21, 0xff);
    /* page faults are a user's */
    for (unsigned i = 0; i < 1024; i++)
        pt[i] = i << 12 | 7;
    pd[0] = (u32)pt | 7;
    set_cr3((u32)pd);
    set_cr0(get_cr0() | 0x80000000);
    pt[DATA_SEG >> 8] = 0;
    s = V86(load_bx, 0);
    s.ebx = 0x123;
    run(&s);
    EXPECT("a page that is absent", &s, PF, 4);
    check("CR2", get_cr2(), DATA_SEG * 16 + 0x123);
    pt[DATA_SEG >> 8] = (u32)DATA | 3;
    set_cr3((u32)pd);
    s = V86(load_bx, 0);
    s.ebx = 0x123;
    run(&s);
    EXPECT("the supervisor's page", &s, PF, 5);
    set_cr0(get_cr0() & ~0x80000000);
    /* a 16-bit interrupt gate: a frame of nine words */
    idt[UD] = gate((u32)stub_table & 0xffff, S_FREE + 8, 0x86, 0);
    gdt[S_FREE / 8 + 1] = descriptor((u32)nothing, 0xfff, 0x9b, 0);
    idt[BP] = gate((u32)stub_table + 16 * BP, S_CODE0, 0xee, 0);
    idt[UD] = gate(0, S_FREE + 8, 0x86, 0);
    gdt[S_FREE / 8 + 2] = descriptor((u32)event_stacks[0], 0xfff, 0x93, 0);
    big.t.esp0 = 0x800;
    big.t.ss0 = S_FREE + 16;
    s = V86(ud2_, 0);
    run(&s);
    const u16 *frame = (const u16 *)(event_stacks[0] + 0x800 - 18);
    check("a gate of 16 bits", s.vector << 16 | (s.esp & 0xffff), BP << 16 | (0x800 - 18));
    check("IP, CS", frame[0] << 16 | frame[1], CODE_SEG);
    check("SP, SS", frame[3] << 16 | frame[4], SP << 16 | STACK_SEG);
    check("ES, DS", frame[5] << 16 | frame[6], (DATA_SEG + 0x10) << 16 | DATA_SEG);
    check("FS, GS", frame[7] << 16 | frame[8], (DATA_SEG + 0x20) << 16 | (DATA_SEG + 0x30));
    big.t.esp0 = TOP(event_stacks[0]);
    big.t.ss0 = S_DATA0;
    default_gate(UD);
    /* handlers in other rings are refused, at the instruction */
    idt[0x42] = gate((u32)stub_table, S_CODE1 & ~3, 0xee, 0);
    s = V86(int_42, 3);
    run(&s);
    EXPECT("a handler in ring 1", &s, GP, S_CODE1 & ~3);
    idt[0x42] = gate((u32)stub_table, S_CODE0, 0x8e, 0);
    s = V86(int_42, 3);
    run(&s);
    EXPECT("a gate of DPL 0", &s, GP, 0x42 * 8 + 2);
    default_gate(0x42);
}

/* --- CR4.PVI --- */

CODE(cli32, "cli\n" END);
CODE(sti32, "sti\n" END);

static void pvi(void)
{
    for (unsigned k = 0; k < 128; k++) {
        unsigned cpl = k & 3, iopl = k >> 2 & 3;
        bool on = k & 16, vip = k & 32, sti = k & 64, virtual = on && cpl == 3 && iopl < 3;
        struct state32 s = ring(cpl, sti ? sti32 : cli32);
        u32 want = END_VECTOR << 16;

        set_cr4(on ? CR4_PVI : 0);
        if (cpl == 0 && sti)
            continue;
        s.eflags |= iopl << 12 | (vip ? FL_VIP : 0) | (sti ? 0 : FL_VIF);
        u32 flags = s.eflags;
        run(&s);
        if (cpl > iopl && (!virtual || (sti && vip)))
            want = GP << 16;
        tally("PVI", k, outcome(&s), want);
        if (want >> 16 == END_VECTOR)
            tally("its flags", k, s.eflags,
                  sti ? flags | (virtual ? FL_VIF : FL_IF) : flags & ~(virtual ? FL_VIF : FL_IF));
    }
    tally_end("CR4.PVI");
    set_cr4(0);
}

int main(void)
{
    u32 a, b, c, d;

    load_tables();
    load_big_tss();
    out8(0x21, 0xff);
    out8(0xa1, 0xff);
    asm volatile("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(1), "c"(0));
    vme_there = d >> 1 & 1;
    basics();
    sensitive(false);
    if (vme_there)
        sensitive(true);
    else
        skip("VME", "this processor has none");
    software_interrupts();
    input_output();
    events();
    if (vme_there)
        pvi();
    return 0;
}
