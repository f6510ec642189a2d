/*
 * Control registers, descriptor table registers, XCR0, UMIP, TSD, and the instructions that look at descriptors (LAR, LSL,
 * VERR, VERW). Source: SDM vol. 2; vol. 3, 2.5, 2.6, 13.3.
 */
#include "guest.h"

#define HOLE 0x800000000000ull

CODE(do_sgdt, "sgdt (%rax)\n" END);
CODE(do_sidt, "sidt (%rax)\n" END);
CODE(do_sldt, "sldt %ebx\n" END);
CODE(do_str, "str %ebx\n" END);
CODE(do_smsw, "smsw %ebx\n" END);
CODE(smsw_memory, "smsw (%rax)\n" END);
CODE(do_rdtsc, "rdtsc\n" END);
CODE(do_rdtscp, "rdtscp\n" END);
CODE(do_rdpmc, "rdpmc\n" END);
CODE(do_clts, "clts\n" END);
CODE(do_lmsw, "lmsw %ax\n" END);
CODE(do_wbinvd, "wbinvd\n" END);
CODE(do_invd, "invd\n" END);
CODE(do_lgdt, "lgdt (%rax)\n" END);
CODE(do_lidt, "lidt (%rax)\n" END);
CODE(do_lldt, "lldt %ax\n" END);
CODE(do_ltr, "ltr %ax\n" END);
CODE(get_cr0, "mov %cr0, %rbx\n" END);
CODE(get_cr8, "mov %cr8, %rbx\n" END);
CODE(set_cr0, "mov %rax, %cr0\n" END);
CODE(set_cr2, "mov %rax, %cr2\n" END);
CODE(set_cr3, "mov %rax, %cr3\n" END);
CODE(set_cr4, "mov %rax, %cr4\n" END);
CODE(set_cr8, "mov %rax, %cr8\n" END);
CODE(get_cr5, ".byte 0x0f, 0x20, 0xeb\n" END);
CODE(get_cr7, ".byte 0x0f, 0x20, 0xfb\n" END);
CODE(get_cr9, ".byte 0x44, 0x0f, 0x20, 0xcb\n" END);
CODE(do_xsetbv, "xsetbv\n" END);
CODE(do_xgetbv, "xgetbv\n" END);
CODE(do_lar, "lar %eax, %ebx\n" END);
CODE(do_lsl, "lsl %eax, %ebx\n" END);
CODE(do_verr, "verr %ax\n" END);
CODE(do_verw, "verw %ax\n" END);
CODE(do_wrmsr, "wrmsr\n" END);

/*
 * Often enough that it is translated. RAX: the counter was no less before. Then R8: 0, or what was wrong: bits 32-63 of RAX or
 * RDX set, flags that are not those of the ADD, the counter went back. R9: its last value. RCX: what RDTSCP put there.
 */
CODE(do_stamps, "   mov $300, %edi\n"
                "   xor %r8d, %r8d\n"
                "   mov %rax, %r9\n"
                "   mov $-1, %rcx\n"
                "2: mov $-1, %rax\n"
                "   mov $-1, %rdx\n"
                "   mov $0x7f, %r10b\n"
                "   test $1, %edi\n"
                "   jz 3f\n"
                "   add $1, %r10b\n" /* overflow, no carry */
                "   rdtsc\n"
                "   jmp 4f\n"
                "3: add $1, %r10b\n"
                "   rdtscp\n"
                "4: seto %r11b\n"
                "   setnc %r12b\n"
                "   sets %r13b\n"
                "   and %r12b, %r11b\n"
                "   and %r13b, %r11b\n"
                "   xor $1, %r11b\n"
                "   or %r11b, %r8b\n"
                "   mov %rax, %r14\n"
                "   or %rdx, %r14\n"
                "   shr $32, %r14\n"
                "   or %r14, %r8\n"
                "   shl $32, %rdx\n"
                "   or %rdx, %rax\n"
                "   cmp %r9, %rax\n"
                "   jae 5f\n"
                "   or $2, %r8\n"
                "5: mov %rax, %r9\n"
                "   dec %edi\n"
                "   jnz 2b\n" END);

static u8 buffer[16];

static struct state go(unsigned r, const u8 *code, u64 rax)
{
    struct state s = ring(r, code);

    s.rax = rax;
    run(&s);
    return s;
}

static void faults(const char *name, unsigned r, const u8 *code, u64 rax, u64 vector, long error)
{
    struct state s = go(r, code, rax);

    expect(name, &s, vector, error, code);
}

static void works(const char *name, unsigned r, const u8 *code, const u8 *end, u64 rax)
{
    struct state s = go(r, code, rax);

    expect(name, &s, END_VECTOR, NO_ERROR, end);
}

static void by_ring(void)
{
    static const struct {
        const char *name;
        const u8 *code, *end;
    } shown[] = {{"SGDT", do_sgdt, do_sgdt_end}, {"SIDT", do_sidt, do_sidt_end},
                 {"SLDT", do_sldt, do_sldt_end}, {"STR", do_str, do_str_end},
                 {"SMSW", do_smsw, do_smsw_end}, {"SMSW to memory", smsw_memory, smsw_memory_end}},
      privileged[] = {{"CLTS", do_clts, do_clts_end},         {"LMSW", do_lmsw, do_lmsw_end},
                      {"WBINVD", do_wbinvd, do_wbinvd_end},   {"INVD", do_invd, do_invd_end},
                      {"LGDT", do_lgdt, do_lgdt_end},         {"LIDT", do_lidt, do_lidt_end},
                      {"LLDT", do_lldt, do_lldt_end},         {"LTR", do_ltr, do_ltr_end},
                      {"MOV from CR0", get_cr0, get_cr0_end}, {"MOV from CR8", get_cr8, get_cr8_end},
                      {"MOV to CR0", set_cr0, set_cr0_end},   {"MOV to CR3", set_cr3, set_cr3_end},
                      {"MOV to CR8", set_cr8, set_cr8_end}};
    const u64 cr4 = read_cr4();

    for (unsigned r = 0; r < 4; r++) {
        for (unsigned umip = 0; umip < 2; umip++) {
            write_cr4(umip ? cr4 | CR4_UMIP : cr4);
            for (unsigned i = 0; i < sizeof(shown) / sizeof(shown[0]); i++)
                if (umip && r)
                    faults(shown[i].name, r, shown[i].code, (u64)buffer, GP, 0);
                else
                    works(shown[i].name, r, shown[i].code, shown[i].end, (u64)buffer);
        }
        write_cr4(cr4);
        for (unsigned i = 0; r && i < sizeof(privileged) / sizeof(privileged[0]); i++)
            faults(privileged[i].name, r, privileged[i].code, (u64)buffer, GP, 0);
        for (unsigned tsd = 0; tsd < 2; tsd++) {
            write_cr4(tsd ? cr4 | CR4_TSD : cr4);
            if (tsd && r) {
                faults("RDTSC under TSD", r, do_rdtsc, 0, GP, 0);
                faults("RDTSCP under TSD", r, do_rdtscp, 0, GP, 0);
            } else {
                works("RDTSC", r, do_rdtsc, do_rdtsc_end, 0);
                works("RDTSCP", r, do_rdtscp, do_rdtscp_end, 0);
            }
        }
        write_cr4(cr4);
        if (r)
            faults("RDPMC without PCE", r, do_rdpmc, 0, GP, 0);
    }
    struct state s = go(3, do_str, 0);
    check("STR", s.rbx, SEL_TSS);
    s = go(3, do_smsw, 0);
    check("SMSW, 32 bits", s.rbx, (u32)read_cr0());
    go(3, do_sgdt, (u64)buffer);
    check("SGDT, limit", *(u16 *)buffer, GDT_SLOTS * 8 - 1);
    check("SGDT, base", *(u64 *)(buffer + 2), (u64)gdt);
}

static void cr0_and_cr8(void)
{
    const u64 cr0 = read_cr0();

    faults("CR0, upper half", 0, set_cr0, cr0 | 1ull << 32, GP, 0);
    faults("CR0, NW without CD", 0, set_cr0, cr0 | 1u << 29, GP, 0);
    if (!under_qemu) /* it would do it */
        faults("CR0, PG without PE", 0, set_cr0, cr0 & ~1ull, GP, 0);
    works("CR0, bits that are not there", 0, set_cr0, set_cr0_end, cr0 | 0x1ff80);
    check("they are not kept", read_cr0() & 0xff80, 0);
    write_cr0(cr0 & ~0x10ull);
    check("CR0.ET is fixed", read_cr0(), cr0);
    write_cr0(cr0 | CR0_TS);
    works("CLTS", 0, do_clts, do_clts_end, 0);
    check("it clears TS", read_cr0(), cr0);
    works("LMSW", 0, do_lmsw, do_lmsw_end, 0xfff8);
    check("LMSW sets EM, MP, TS and no more, clears no PE", read_cr0(), (cr0 & ~(u64)CR0_MP) | CR0_TS);
    write_cr0(cr0);
    works("CR2, any value", 0, set_cr2, set_cr2_end, HOLE);
    check("CR2", read_cr2(), HOLE);
    works("CR8, 15", 0, set_cr8, set_cr8_end, 15);
    check("CR8", read_cr8(), 15);
    faults("CR8, 16", 0, set_cr8, 16, GP, 0);
    faults("CR8, the highest bit", 0, set_cr8, 1ull << 63, GP, 0);
    write_cr8(0);
    faults("CR5", 0, get_cr5, 0, UD, NO_ERROR);
    faults("CR7", 0, get_cr7, 0, UD, NO_ERROR);
    faults("CR9", 0, get_cr9, 0, UD, NO_ERROR);
}

/* Bits of CR4 by the feature that brings them: leaf 1 ECX, leaf 7 EBX, ECX; those without are reserved. */
static void cr4_bits(void)
{
    const u64 cr4 = read_cr4();
    u32 one[4], seven[4];
    u64 known = 0x7ff | CR4_PGE;

    cpuid(1, 0, one);
    cpuid(7, 0, seven);
    known |= (seven[2] >> 2 & 1) << 11 | (seven[2] >> 16 & 1) << 12 | (one[2] >> 5 & 1) << 13 | (one[2] >> 6 & 1) << 14;
    known |= (seven[1] & 1) << 16 | (one[2] >> 17 & 1) << 17 | (one[2] >> 26 & 1) << 18 | (seven[1] >> 7 & 1) << 20;
    known |=
        (seven[1] >> 20 & 1) << 21 | (seven[2] >> 3 & 1) << 22 | (seven[2] >> 7 & 1) << 23 | (seven[2] >> 31) << 24;
    check("UMIP, FSGSBASE, PCID, XSAVE, SMEP, SMAP are offered", known & 0x370800, 0x370800);
    for (unsigned bit = 0; bit < 64; bit++) {
        if (bit <= 11 || bit == 12 || (bit >= 16 && bit <= 18) || (bit >= 20 && bit <= 25 && known >> bit & 1))
            continue;
        struct state s = go(0, set_cr4, cr4 | 1ull << bit);
        bool there = bit < 32 && known >> bit & 1;

        tally("CR4", bit, s.vector, there ? END_VECTOR : GP);
        write_cr4(cr4);
    }
    tally_end("reserved bits of CR4");
}

static void tables(void)
{
    static u8 p[10];
    const unsigned free = SEL_FREE / 8;

    *(u16 *)p = GDT_SLOTS * 8 - 1;
    *(u64 *)(p + 2) = HOLE;
    faults("LGDT, not canonical", 0, do_lgdt, (u64)p, GP, 0);
    faults("LIDT, not canonical", 0, do_lidt, (u64)p, GP, 0);
    faults("LGDT from nowhere", 0, do_lgdt, 0x7f0000000000, PF, 0);
    gdt[free] = descriptor(0x1000, 0xff, 0x82, 0);
    gdt[free + 1] = 0;
    gdt[free + 2] = descriptor(0x1000, 0xff, 0x02, 0);
    gdt[free + 3] = 0;
    works("LLDT null", 0, do_lldt, do_lldt_end, 3);
    works("LLDT", 0, do_lldt, do_lldt_end, SEL_FREE);
    check("SLDT", go(3, do_sldt, 0).rbx, SEL_FREE);
    faults("LLDT, not present", 0, do_lldt, SEL_FREE + 16, NP, SEL_FREE + 16);
    faults("LLDT, a code segment", 0, do_lldt, SEL_CODE0, GP, SEL_CODE0);
    faults("LLDT, a TSS", 0, do_lldt, SEL_TSS, GP, SEL_TSS);
    faults("LLDT, of the LDT", 0, do_lldt, 4, GP, 4);
    faults("LLDT beyond the GDT", 0, do_lldt, GDT_SLOTS * 8, GP, GDT_SLOTS * 8);
    faults("LLDT, second half beyond the GDT", 0, do_lldt, GDT_SLOTS * 8 - 8, GP, GDT_SLOTS * 8 - 8);
    gdt[free + 1] = HOLE >> 32;
    faults("LLDT, base not canonical", 0, do_lldt, SEL_FREE, GP, SEL_FREE);
    check("the LDT is still the old one", go(3, do_sldt, 0).rbx, SEL_FREE);
    gdt[free + 1] = 0;
    works("LLDT null again", 0, do_lldt, do_lldt_end, 0);
    faults("LTR null", 0, do_ltr, 0, GP, 0);
    faults("LTR, busy", 0, do_ltr, SEL_TSS, GP, SEL_TSS);
    faults("LTR, an LDT", 0, do_ltr, SEL_FREE, GP, SEL_FREE);
    faults("LTR, of the LDT", 0, do_ltr, SEL_TSS | 4, GP, SEL_TSS | 4);
    gdt[free] = descriptor(0x1000, 0xff, 0x09, 0);
    faults("LTR, not present", 0, do_ltr, SEL_FREE, NP, SEL_FREE);
    gdt[SEL_TSS / 8] &= ~(2ull << 40);
    works("LTR, available", 0, do_ltr, do_ltr_end, SEL_TSS);
    check("LTR marks it busy", gdt[SEL_TSS / 8] >> 40 & 0x1f, 0xb);
}

static struct state xsetbv(unsigned r, u32 index, u64 value)
{
    struct state s = ring(r, do_xsetbv);

    s.rcx = index;
    s.rax = (u32)value;
    s.rdx = value >> 32;
    run(&s);
    return s;
}

static void xcr0(void)
{
    const u64 cr4 = read_cr4();
    u32 r[4], one[4];
    struct state s;

    write_cr4(cr4 & ~(u64)CR4_OSXSAVE);
    cpuid(1, 0, one);
    check("CPUID shows CR4.OSXSAVE clear", one[2] >> 27 & 1, 0);
    faults("XGETBV without OSXSAVE", 3, do_xgetbv, 0, UD, NO_ERROR);
    faults("XSETBV without OSXSAVE", 0, do_xsetbv, 0, UD, NO_ERROR);
    write_cr4(cr4 | CR4_OSXSAVE);
    cpuid(1, 0, one);
    check("CPUID shows CR4.OSXSAVE set", one[2] >> 27 & 1, 1);
    cpuid(13, 0, r);
    const u64 offered = (u64)r[3] << 32 | r[0];
    for (unsigned i = 1; i < 4; i++) {
        s = xsetbv(i, 0, 1);
        expect("XSETBV outside ring 0", &s, GP, 0, do_xsetbv);
    }
    s = xsetbv(0, 1, 1);
    expect("XSETBV, another register", &s, GP, 0, do_xsetbv);
    for (unsigned v = 0; v < 256; v++) {
        bool avx512 = v & 0xe0, good = (v & 1) && !(v & ~offered) && (!(v & 4) || (v & 2)) && !(v & 0x18);

        if (avx512 && ((v & 0xe0) != 0xe0 || (v & 6) != 6))
            good = false;
        if (v & 0x18 && (offered & 0x18) == 0x18)
            continue; /* MPX is not this machine's */
        s = xsetbv(0, 0, v);
        tally("XSETBV", v, s.vector << 8 | s.error, (good ? END_VECTOR : (u64)GP) << 8);
    }
    for (unsigned bit = 10; bit < 64; bit++) {
        if (offered >> bit & 1)
            continue;
        s = xsetbv(0, 0, 1 | 1ull << bit);
        tally("XSETBV, a reserved bit", bit, s.vector << 8 | s.error, GP << 8);
    }
    tally_end("XSETBV");
    xsetbv(0, 0, 3);
    s = ring(3, do_xgetbv);
    s.rax = s.rdx = ~0ull;
    run(&s);
    check("XGETBV in ring 3", s.rdx << 32 | s.rax, 3);
    s = ring(3, do_xgetbv);
    s.rcx = 5;
    run(&s);
    expect("XGETBV, another register", &s, GP, 0, do_xgetbv);
    xsetbv(0, 0, 1);
    write_cr4(cr4);
}

static struct state write_msr(u32 msr, u64 value)
{
    struct state s = ring(0, do_wrmsr);

    s.rcx = msr;
    s.rax = (u32)value;
    s.rdx = value >> 32;
    run(&s);
    return s;
}

static void msr_bits(u32 msr, u64 value, const char *name)
{
    const struct state s = write_msr(msr, value);

    expect(name, &s, GP, 0, do_wrmsr);
}

/* Others than Intel's ignore it (AMD64 manual vol. 2, TSC_AUX). */
static void tsc_aux(void)
{
    u32 r[4];

    cpuid(0, 0, r);
    const bool intel = r[1] == 0x756e6547; /* "Genu" */
    check("TSC_AUX, upper half", write_msr(0xc0000103, 1ull << 32).vector, intel ? GP : END_VECTOR);
}

/* What LAR, LSL, VERR, VERW say of a descriptor, present or not: 32 types, all DPLs, all RPLs, all rings. */
static void one_descriptor(unsigned type, unsigned dpl, unsigned rpl, unsigned cpl, bool present)
{
    const u64 id = type << 16 | dpl << 12 | rpl << 8 | cpl << 4 | present;
    const bool segment = type & 16, code = segment && type & 8, conforming = code && type & 4;
    const bool seen = conforming || (dpl >= cpl && dpl >= rpl);
    const bool lar = seen && (segment || type == 2 || type == 9 || type == 11 || type == 12);
    const bool lsl = seen && (segment || type == 2 || type == 9 || type == 11);
    const bool verr = seen && segment && (!code || type & 2), verw = seen && segment && !code && type & 2;
    static const u8 *const code_of[] = {do_lar, do_lsl, do_verr, do_verw};
    const bool want[] = {lar, lsl, verr, verw};

    gdt[SEL_FREE / 8] = descriptor(0x12345678, 0xabcde, (present ? 0x80 : 0) | dpl << 5 | type, 0x9);
    gdt[SEL_FREE / 8 + 1] = 0;
    for (unsigned i = 0; i < 4; i++) {
        struct state s = ring(cpl, code_of[i]);

        s.rax = SEL_FREE | rpl;
        s.rbx = 0x5555555555555555;
        run(&s);
        tally("LAR, LSL, VERR, VERW: vector", id | i << 24, s.vector, END_VECTOR);
        tally("LAR, LSL, VERR, VERW: ZF", id | i << 24, s.rflags & FL_ZF, want[i] ? FL_ZF : 0);
        if (i == 0) /* bits 16-19 are undefined */
            tally("LAR: value", id, want[i] ? s.rbx & 0xfff0ffff : s.rbx,
                  want[i] ? (gdt[SEL_FREE / 8] >> 32 & 0xf0ff00) : 0x5555555555555555);
        if (i == 1)
            tally("LSL: value", id, s.rbx, want[i] ? 0xabcdefff : 0x5555555555555555);
    }
}

static void looking_at_descriptors(void)
{
    for (unsigned type = 0; type < 32; type++)
        for (unsigned i = 0; i < 128; i++)
            one_descriptor(type, i & 3, i >> 2 & 3, i >> 4 & 3, i >> 6);
    tally_end("LAR, LSL, VERR, VERW");
    struct state s = ring(3, do_lar);
    for (unsigned i = 0; i < 3; i++) {
        s = ring(3, do_lar);
        s.rax = i == 0 ? 0 : i == 1 ? GDT_SLOTS * 8 : 0xc;
        s.rflags |= FL_ZF;
        run(&s);
        check("LAR of null, beyond the GDT, of no LDT", s.vector << 8 | (s.rflags & FL_ZF), END_VECTOR << 8);
    }
}

/* RDTSC and RDTSCP beside the counter's MSR, as it runs on and after it was set. */
static void time_stamps(void)
{
    const u64 aux = rdmsr(MSR_TSC_AUX);
    for (unsigned i = 0; i < 8; i++) {
        wrmsr(MSR_TSC_AUX, 0x80000000u + i);
        if (i & 4)
            wrmsr(MSR_TSC, 0x123456789abull << (i & 3));
        u64 before = rdmsr(MSR_TSC);
        struct state s = go(i & 1 ? 3 : 0, do_stamps, before);
        u64 after = rdmsr(MSR_TSC);
        check("RDTSC: no time", s.r9 > before, 1);
        check("RDTSC: beyond the MSR", s.r9 <= after, 1);
        check("RDTSC: registers, flags, going back", s.r8, 0);
        check("RDTSCP: TSC_AUX", s.rcx, 0x80000000u + i);
    }
    wrmsr(MSR_TSC_AUX, aux);
    write_cr4(read_cr4() | CR4_TSD); /* what was translated without it looks */
    check("RDTSC in ring 0 under TSD", go(0, do_stamps, 0).vector, END_VECTOR);
    check("RDTSC in ring 3 under TSD", go(3, do_stamps, 0).vector, GP);
    write_cr4(read_cr4() & ~(u64)CR4_TSD);
    check("RDTSC in ring 3 again", go(3, do_stamps, 0).vector, END_VECTOR);
}

int main(void)
{
    time_stamps();
    by_ring();
    cr0_and_cr8();
    cr4_bits();
    tables();
    xcr0();
    msr_bits(0x277, 0x0007040600070402, "PAT, a type that is none");
    msr_bits(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 1, "APIC base, a reserved bit");
    msr_bits(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 1ull << 60, "APIC base, beyond the physical width");
    tsc_aux();
    looking_at_descriptors();
    return 0;
}
