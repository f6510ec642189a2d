/*
 * What all guests share besides start.S: descriptor tables, states, the check of an event.
 */
#include "guest.h"

u64 idt[512] __attribute__((aligned(16)));
struct tss tss __attribute__((aligned(4096)));
u8 stacks[4][STACK_SIZE] __attribute__((aligned(4096)));
u8 event_stacks[10][STACK_SIZE] __attribute__((aligned(4096)));
bool cpu_amd, under_qemu;

bool expect(const char *name, const struct state *s, u64 vector, long error, const void *rip)
{
    u64 has_error = error != NO_ERROR, code = has_error ? (u64)error : 0;

    if (s->vector != vector)
        check_bad(name, " (vector)", s->vector, vector);
    else if (s->has_error != has_error)
        check_bad(name, " (error code pushed)", s->has_error, has_error);
    else if (s->error != code)
        check_bad(name, " (error code)", s->error, code);
    else if (s->rip != (u64)rip)
        check_bad(name, " (rip)", s->rip, (u64)rip);
    else
        return check_good(name), true;
    return false;
}

void unexpected(u64 vector, const u64 *frame)
{
    bool error = !((u64)frame & 8);

    print("BAD unexpected vector ");
    print_hex(vector);
    print(" rip=");
    print_hex(frame[error]);
    print(" rsp=");
    print_hex(frame[error + 3]);
    if (error) {
        print(" error=");
        print_hex(frame[0]);
    }
    print(" cr2=");
    print_hex(read_cr2());
    print("\n");
    finish_early();
}

u64 descriptor(u32 base, u32 limit, unsigned access, unsigned flags)
{
    return (u64)(base >> 24) << 56 | (u64)flags << 52 | (u64)(limit >> 16 & 15) << 48 | (u64)access << 40 |
           (u64)(base & 0xffffff) << 16 | (limit & 0xffff);
}

void set_gate(unsigned vector, u64 handler, unsigned selector, unsigned type_dpl_p, unsigned ist)
{
    idt[2 * vector] = (handler >> 16 & 0xffff) << 48 | (u64)type_dpl_p << 40 | (u64)ist << 32 | (u64)selector << 16 |
                      (handler & 0xffff);
    idt[2 * vector + 1] = handler >> 32;
}

void default_gate(unsigned vector)
{
    bool user = vector == BP || vector == OF || vector >= 32;

    set_gate(vector, (u64)stub_table + 16 * vector, SEL_CODE0, user ? 0xee : 0x8e, vector == DF ? 1 : 0);
}

static void load_tables(void)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (u64)idt};

    for (unsigned i = 0; i < 256; i++)
        default_gate(i);
    for (unsigned i = 0; i < 3; i++)
        tss.rsp[i] = STACK_TOP(event_stacks[i]);
    for (unsigned i = 0; i < 7; i++)
        tss.ist[i] = STACK_TOP(event_stacks[3 + i]);
    tss.iomap = sizeof(tss);
    gdt[SEL_TSS / 8] = descriptor((u32)(u64)&tss, sizeof(tss) - 1, 0x89, 0);
    gdt[SEL_TSS / 8 + 1] = 0;
    asm volatile("lidt %0" ::"m"(pointer));
    asm volatile("ltr %w0" ::"r"(SEL_TSS));
}

void runtime_start(void)
{
    u32 r[4];

    cpuid(0, 0, r);
    cpu_amd = r[1] == 0x68747541 || r[1] == 0x6f677948; /* AuthenticAMD, HygonGenuine */
    cpuid(0x40000000, 0, r);
    under_qemu = r[1] == 0x54474354; /* TCGT */
    out8(0x21, 0xff);                /* a firmware may have left the 8259 open */
    out8(0xa1, 0xff);
    load_tables();
}

static struct state start_state(unsigned r, const void *code)
{
    struct state s = {0};

    s.rip = (u64)code;
    s.rflags = FL_ONE;
    s.rsp = STACK_TOP(stacks[r]) - 256;
    s.fs = s.gs = KEEP;
    return s;
}

struct state ring(unsigned r, const void *code)
{
    static const u16 selector[4][2] = {
        {SEL_CODE0, SEL_DATA0}, {SEL_CODE1, SEL_DATA1}, {SEL_CODE2, SEL_DATA2}, {SEL_CODE3, SEL_DATA3}};
    struct state s = start_state(r, code);

    s.cs = selector[r][0];
    s.ss = s.ds = s.es = selector[r][1];
    return s;
}

struct state compat(unsigned r, const void *code)
{
    struct state s = ring(r, code);

    s.cs = r ? SEL_CODE3_32 : SEL_CODE0_32;
    return s;
}

void invlpg(const void *p)
{
    asm volatile("invlpg (%0)" ::"r"(p) : "memory");
}

void flush_tlb(void)
{
    write_cr3(read_cr3());
}

/* gcc may call these. */
void *memset(void *p, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);

void *memset(void *p, int c, size_t n)
{
    void *to = p;

    asm volatile("rep stosb" : "+D"(to), "+c"(n) : "a"(c) : "memory");
    return p;
}

void *memcpy(void *to, const void *from, size_t n)
{
    void *d = to;

    asm volatile("rep movsb" : "+D"(d), "+S"(from), "+c"(n)::"memory");
    return to;
}
