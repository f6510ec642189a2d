/*
 * SYSCALL, SYSRET, SYSENTER, SYSEXIT, SWAPGS, the FSGSBASE instructions, FS and GS: what they load and where they fault.
 * Source: SDM vol. 2; AMD's manual vol. 3 for what differs there (`cpu_amd`).
 */
#include "guest.h"

#define HOLE 0x800000000000ull

CODE(do_syscall, "syscall\n syscall_next:" END);
CODE(do_syscall_32, ".code32\n syscall\n .code64\n");
CODE(entry, END);
CODE(entry_compat, END);
CODE(do_sysretq, "sysretq\n");
CODE(do_sysretl, "sysretl\n");
CODE(do_sysret_32, ".code32\n sysretl\n .code64\n");
CODE(do_sysenter, "sysenter\n" END);
CODE(do_sysexitl, "sysexitl\n");
CODE(do_sysexitq, "sysexitq\n");
CODE(user, END);
CODE(do_swapgs, "swapgs\n" END);
CODE(do_rdfsbase, "rdfsbase %rax\n rdfsbase_32: rdfsbase %ebx\n" END);
CODE(do_rdgsbase, "rdgsbase %rax\n" END);
CODE(do_wrfsbase, "wrfsbase %rax\n" END);
CODE(do_wrgsbase, "wrgsbase %rax\n" END);
CODE(do_wrfsbase_32, "wrfsbase %eax\n" END);
CODE(rdfsbase_compat, ".code32\n .byte 0xf3, 0x0f, 0xae, 0xc0\n .code64\n" END);
CODE(swapgs_compat, ".code32\n .byte 0x0f, 0x01, 0xf8\n .code64\n" END);
CODE(load_fs, "mov %eax, %fs\n" END);
CODE(load_gs, "mov %eax, %gs\n" END);
CODE(read_fs, "mov %fs:8, %rax\n" END);
CODE(read_gs, "mov %gs:8, %rax\n" END);
CODE(read_gs_32, "addr32 mov %gs:-8(%ecx), %rax\n" END);
CODE(lea_fs, ".byte 0x64\n lea 8, %rax\n" END);
CODE(do_wrmsr, "wrmsr\n" END);
CODE(do_rdmsr, "rdmsr\n" END);

extern u8 syscall_next[];

static void set_up(void)
{
    wrmsr(MSR_STAR, (u64)0x23 << 48 | (u64)SEL_CODE0 << 32);
    wrmsr(MSR_LSTAR, (u64)entry);
    wrmsr(MSR_CSTAR, (u64)entry_compat);
    wrmsr(MSR_FMASK, 0);
}

static void syscalls(void)
{
    static const u64 masks[] = {0, FL_IF | FL_DF, FL_CF | FL_NT | FL_IOPL, 0xffffffff, FL_AC, FL_TF};
    static const u64 flags[] = {0, FL_IF | FL_CF, FL_DF | FL_NT | FL_AC, FL_IOPL | FL_ID | FL_OF};

    for (unsigned i = 0; i < sizeof(masks) / sizeof(masks[0]); i++)
        for (unsigned j = 0; j < sizeof(flags) / sizeof(flags[0]); j++)
            for (unsigned r = 0; r < 4; r++) {
                struct state s = ring(r, do_syscall);
                u64 id = i << 8 | j << 4 | r, rsp = s.rsp;

                wrmsr(MSR_FMASK, masks[i]);
                s.rflags |= flags[j];
                run(&s);
                tally("SYSCALL: vector", id, s.vector, END_VECTOR);
                tally("SYSCALL: RIP", id, s.rip, (u64)entry_end);
                tally("SYSCALL: CS", id, s.cs, SEL_CODE0);
                tally("SYSCALL: SS", id, s.ss, SEL_DATA0);
                tally("SYSCALL: RCX", id, s.rcx, (u64)syscall_next);
                tally("SYSCALL: R11", id, s.r11, flags[j] | FL_ONE);
                tally("SYSCALL: flags", id, s.rflags, (flags[j] & ~masks[i]) | FL_ONE);
                tally("SYSCALL: RSP", id, s.rsp, rsp);
            }
    tally_end("SYSCALL");
    wrmsr(MSR_FMASK, 0);
    struct state s = compat(3, do_syscall_32);
    run(&s);
    if (cpu_amd)
        expect("SYSCALL in compatibility mode goes to CSTAR", &s, END_VECTOR, NO_ERROR, entry_compat_end);
    else
        expect("SYSCALL in compatibility mode", &s, UD, NO_ERROR, do_syscall_32);
    wrmsr(MSR_STAR, (u64)0x23 << 48 | (u64)(SEL_CODE0 | 3) << 32);
    s = ring(3, do_syscall);
    run(&s);
    check("SYSCALL ignores the RPL in STAR: CS", s.cs, SEL_CODE0);
    check("SYSCALL ignores the RPL in STAR: SS", s.ss & ~3ull, SEL_DATA0);
    set_up();
}

static struct state sysret(unsigned r, const u8 *code, u64 rip, u64 flags)
{
    struct state s = ring(r, code);

    s.rcx = rip;
    s.r11 = flags;
    run(&s);
    return s;
}

static void sysrets(void)
{
    static const u64 flags[] = {0, FL_ONE | FL_CF, FL_IF | FL_IOPL, FL_RF | FL_VM | FL_NT | FL_AC, ~(u64)(FL_TF)};

    for (unsigned i = 0; i < sizeof(flags) / sizeof(flags[0]); i++)
        for (unsigned wide = 0; wide < 2; wide++) {
            u64 high = wide ? 0 : 0xabcd00000000; /* SYSRET to compatibility mode takes ECX */
            struct state s = sysret(0, wide ? do_sysretq : do_sysretl, (u64)user | high, flags[i]);

            tally("SYSRET: vector", i << 4 | wide, s.vector, END_VECTOR);
            tally("SYSRET: RIP", i << 4 | wide, s.rip, (u64)user_end);
            tally("SYSRET: CS", i << 4 | wide, s.cs, wide ? SEL_CODE3 : SEL_CODE3_32);
            tally("SYSRET: SS", i << 4 | wide, s.ss, SEL_DATA3);
            tally("SYSRET: flags", i << 4 | wide, s.rflags, (flags[i] & 0x3c7fd7) | FL_ONE);
        }
    tally_end("SYSRET");
    for (unsigned r = 1; r < 4; r++) {
        struct state s = sysret(r, do_sysretq, (u64)user, 0);
        expect("SYSRET outside ring 0", &s, GP, 0, do_sysretq);
    }
    struct state s = sysret(0, do_sysretq, HOLE, 0);
    if (cpu_amd) {
        expect("SYSRET, not canonical: #GP at the target", &s, GP, 0, (void *)HOLE);
    } else {
        expect("SYSRET, not canonical: #GP before", &s, GP, 0, do_sysretq);
        check("it is still in ring 0", s.cs, SEL_CODE0);
    }
    s = compat(0, do_sysret_32);
    s.rcx = (u64)user;
    run(&s);
    if (cpu_amd)
        expect("SYSRET in compatibility mode", &s, END_VECTOR, NO_ERROR, user_end);
    else
        expect("SYSRET in compatibility mode", &s, UD, NO_ERROR, do_sysret_32);
    wrmsr(MSR_STAR, (u64)0x20 << 48 | (u64)SEL_CODE0 << 32);
    s = sysret(0, do_sysretq, (u64)user, 0);
    check("SYSRET puts RPL 3 into CS", s.cs, SEL_CODE3);
    if (!cpu_amd)
        check("SYSRET puts RPL 3 into SS", s.ss, SEL_DATA3);
    set_up();
    u64 efer = rdmsr(MSR_EFER);
    wrmsr(MSR_EFER, efer & ~1ull);
    s = ring(3, do_syscall);
    run(&s);
    expect("SYSCALL without EFER.SCE", &s, UD, NO_ERROR, do_syscall);
    s = sysret(0, do_sysretq, (u64)user, 0);
    expect("SYSRET without EFER.SCE", &s, UD, NO_ERROR, do_sysretq);
    wrmsr(MSR_EFER, efer);
}

static void sysenters(void)
{
    u8 *stack = (u8 *)STACK_TOP(event_stacks[5]) - 64;
    struct state s;

    wrmsr(MSR_SYSENTER_CS, SEL_CODE0);
    wrmsr(MSR_SYSENTER_EIP, (u64)entry);
    wrmsr(MSR_SYSENTER_ESP, (u64)stack);
    for (unsigned i = 0; i < 5; i++) {
        s = i < 4 ? ring(i, do_sysenter) : compat(3, do_sysenter);
        s.rflags |= FL_IF | FL_DF | FL_NT | FL_CF;
        run(&s);
        if (cpu_amd) {
            expect("SYSENTER in long mode", &s, UD, NO_ERROR, do_sysenter);
            continue;
        }
        expect("SYSENTER", &s, END_VECTOR, NO_ERROR, entry_end);
        check("SYSENTER: CS", s.cs, SEL_CODE0);
        check("SYSENTER: SS", s.ss, SEL_DATA0);
        check("SYSENTER: RSP", s.rsp, (u64)stack);
        check("SYSENTER: flags", s.rflags, FL_ONE | FL_DF | FL_NT | FL_CF);
    }
    if (cpu_amd)
        return;
    for (unsigned wide = 0; wide < 2; wide++) {
        s = ring(0, wide ? do_sysexitq : do_sysexitl);
        s.rdx = (u64)user | (wide ? 0 : 0x100000000);
        s.rcx = STACK_TOP(stacks[3]) | (wide ? 0 : 0x100000000);
        s.rflags |= FL_IF;
        run(&s);
        expect("SYSEXIT", &s, END_VECTOR, NO_ERROR, user_end);
        check("SYSEXIT: CS", s.cs, SEL_CODE0 + (wide ? 32 : 16) + 3);
        check("SYSEXIT: SS", s.ss, SEL_CODE0 + (wide ? 40 : 24) + 3);
        check("SYSEXIT: RSP", s.rsp, STACK_TOP(stacks[3]));
        check("SYSEXIT: flags", s.rflags, FL_ONE | FL_IF);
    }
    s = ring(3, do_sysexitq);
    s.rdx = (u64)user;
    run(&s);
    expect("SYSEXIT in ring 3", &s, GP, 0, do_sysexitq);
    s = ring(0, do_sysexitq);
    s.rdx = HOLE;
    run(&s);
    expect("SYSEXIT, RIP not canonical", &s, GP, 0, do_sysexitq);
    s = ring(0, do_sysexitq);
    s.rdx = (u64)user;
    s.rcx = HOLE;
    run(&s);
    expect("SYSEXIT, RSP not canonical", &s, GP, 0, do_sysexitq);
    wrmsr(MSR_SYSENTER_CS, 3);
    s = ring(3, do_sysenter);
    run(&s);
    expect("SYSENTER, null CS", &s, GP, 0, do_sysenter);
    s = ring(0, do_sysexitq);
    s.rdx = (u64)user;
    run(&s);
    expect("SYSEXIT, null CS", &s, GP, 0, do_sysexitq);
}

static struct state with_rax(unsigned r, const u8 *code, u64 rax)
{
    struct state s = ring(r, code);

    s.rax = rax;
    run(&s);
    return s;
}

static void bases(void)
{
    const u64 kernel = 0xffff800000001234, other = 0x00007fff00005678, cr4 = read_cr4();
    static u64 data[4] = {11, 22, 33, 44};
    struct state s;

    wrmsr(MSR_GS_BASE, kernel);
    wrmsr(MSR_KERNEL_GS_BASE, other);
    s = with_rax(0, do_swapgs, 0);
    expect("SWAPGS", &s, END_VECTOR, NO_ERROR, do_swapgs_end);
    check("SWAPGS: GS", rdmsr(MSR_GS_BASE), other);
    check("SWAPGS: the other", rdmsr(MSR_KERNEL_GS_BASE), kernel);
    s = with_rax(3, do_swapgs, 0);
    expect("SWAPGS in ring 3", &s, GP, 0, do_swapgs);
    s = compat(0, swapgs_compat);
    run(&s);
    expect("SWAPGS in compatibility mode", &s, UD, NO_ERROR, swapgs_compat);

    for (unsigned r = 0; r < 4; r++) {
        write_cr4(cr4 & ~(u64)CR4_FSGSBASE);
        s = with_rax(r, do_rdfsbase, 0);
        expect("RDFSBASE without CR4.FSGSBASE", &s, UD, NO_ERROR, do_rdfsbase);
        s = with_rax(r, do_wrgsbase, 0);
        expect("WRGSBASE without CR4.FSGSBASE", &s, UD, NO_ERROR, do_wrgsbase);
        write_cr4(cr4 | CR4_FSGSBASE);
        s = with_rax(r, do_wrfsbase, kernel);
        check("WRFSBASE", rdmsr(MSR_FS_BASE), kernel);
        s = with_rax(r, do_rdfsbase, 0);
        check("RDFSBASE", s.rax, kernel);
        check("RDFSBASE, 32 bits", s.rbx, (u32)kernel);
        s = with_rax(r, do_wrgsbase, other);
        check("WRGSBASE", rdmsr(MSR_GS_BASE), other);
        s = with_rax(r, do_rdgsbase, 0);
        check("RDGSBASE", s.rax, other);
        s = with_rax(r, do_wrfsbase_32, kernel);
        check("WRFSBASE, 32 bits", rdmsr(MSR_FS_BASE), (u32)kernel);
        s = with_rax(r, do_wrfsbase, HOLE);
        expect("WRFSBASE, not canonical", &s, GP, 0, do_wrfsbase);
        s = with_rax(r, do_wrgsbase, HOLE);
        expect("WRGSBASE, not canonical", &s, GP, 0, do_wrgsbase);
    }
    s = compat(3, rdfsbase_compat);
    run(&s);
    expect("RDFSBASE in compatibility mode", &s, UD, NO_ERROR, rdfsbase_compat);
    write_cr4(cr4);

    wrmsr(MSR_FS_BASE, (u64)&data[0]);
    wrmsr(MSR_GS_BASE, (u64)&data[1]);
    for (unsigned r = 0; r < 4; r++) {
        s = with_rax(r, read_fs, 0);
        check("a load through FS", s.rax, 22);
        s = with_rax(r, read_gs, 0);
        check("a load through GS", s.rax, 33);
        s = with_rax(r, lea_fs, 0);
        check("LEA knows no base", s.rax, 8);
    }
    wrmsr(MSR_GS_BASE, (u64)&data[1] - 0x100000000);
    s = ring(3, read_gs_32);
    s.rcx = 8;
    run(&s);
    expect("a 32-bit offset, the base not cut", &s, PF, 4, read_gs_32);
    s = ring(3, read_gs_32); /* -8 in 32 bits is fffffff8 */
    wrmsr(MSR_GS_BASE, (u64)&data[3] - 0xfffffff8);
    run(&s);
    check("a 32-bit offset wraps before the base is added", s.rax, 44);
    wrmsr(MSR_FS_BASE, HOLE - 8);
    s = with_rax(3, read_fs, 0);
    expect("a base that makes an address not canonical", &s, GP, 0, read_fs);

    gdt[SEL_FREE / 8] = descriptor(0x12345678, 0xfffff, 0xf3, 0xc);
    wrmsr(MSR_FS_BASE, kernel);
    wrmsr(MSR_GS_BASE, kernel);
    s = with_rax(3, load_fs, SEL_FREE | 3);
    check("MOV to FS loads the descriptor's base", rdmsr(MSR_FS_BASE), 0x12345678);
    with_rax(3, load_gs, SEL_FREE | 3);
    check("MOV to GS loads the descriptor's base", rdmsr(MSR_GS_BASE), 0x12345678);
    with_rax(3, load_gs, 0);
    check("a null selector", rdmsr(MSR_GS_BASE), cpu_amd ? 0x12345678 : 0);
    with_rax(3, load_fs, 0);
}

static void msr_case(const char *name, u32 msr, u64 value, bool fault)
{
    u64 old = rdmsr(msr);
    struct state s = ring(0, do_wrmsr);

    s.rcx = msr;
    s.rax = (u32)value;
    s.rdx = value >> 32;
    run(&s);
    expect(name, &s, fault ? GP : END_VECTOR, fault ? 0 : NO_ERROR, fault ? do_wrmsr : do_wrmsr_end);
    if (!fault)
        wrmsr(msr, old);
    check("its value", rdmsr(msr), old);
}

static void msrs(void)
{
    struct state s;

    msr_case("LSTAR not canonical", MSR_LSTAR, HOLE, true);
    msr_case("CSTAR not canonical", MSR_CSTAR, HOLE, true);
    msr_case("FS base not canonical", MSR_FS_BASE, HOLE, true);
    msr_case("GS base not canonical", MSR_GS_BASE, 0xffff7fffffffffff, true);
    msr_case("other GS base not canonical", MSR_KERNEL_GS_BASE, HOLE, true);
    if (!cpu_amd) {
        msr_case("SYSENTER_EIP not canonical", MSR_SYSENTER_EIP, HOLE, true);
        msr_case("SYSENTER_ESP not canonical", MSR_SYSENTER_ESP, HOLE, true);
    }
    msr_case("LSTAR in the upper half", MSR_LSTAR, 0xffff800000000000, false);
    msr_case("STAR, any value", MSR_STAR, 0x123456789abcdef0, false);
    msr_case("FMASK", MSR_FMASK, 0xffffffff, false);
    msr_case("EFER, a reserved bit", MSR_EFER, rdmsr(MSR_EFER) | 2, true);
    msr_case("EFER, the highest bit", MSR_EFER, rdmsr(MSR_EFER) | 1ull << 63, true);
    msr_case("EFER.LME under paging", MSR_EFER, rdmsr(MSR_EFER) & ~0x100ull, true);
    for (unsigned r = 1; r < 4; r++) {
        s = ring(r, do_rdmsr);
        s.rcx = MSR_STAR;
        run(&s);
        expect("RDMSR outside ring 0", &s, GP, 0, do_rdmsr);
        s = ring(r, do_wrmsr);
        s.rcx = MSR_STAR;
        run(&s);
        expect("WRMSR outside ring 0", &s, GP, 0, do_wrmsr);
    }
    s = ring(0, do_rdmsr);
    s.rcx = 0x12345678;
    run(&s);
    if (!under_qemu)
        expect("RDMSR of none", &s, GP, 0, do_rdmsr);
    s = ring(0, do_rdmsr);
    s.rcx = 0xffffffff00000000 | MSR_STAR;
    s.rax = s.rdx = ~0ull;
    run(&s);
    expect("RDMSR takes ECX", &s, END_VECTOR, NO_ERROR, do_rdmsr_end);
    check("RDMSR clears the upper halves", s.rax >> 32 | s.rdx >> 32, 0);
}

int main(void)
{
    set_up();
    syscalls();
    sysrets();
    sysenters();
    bases();
    msrs();
    return 0;
}
