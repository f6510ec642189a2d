/* The C side of start32.S: see runtime32.h. */
#include "runtime32.h"

u8 stacks[4][STACK_SIZE] __attribute__((aligned(4096)));
u8 event_stacks[3][STACK_SIZE] __attribute__((aligned(4096)));
u64 idt[256] __attribute__((aligned(16)));
struct tss32 tss __attribute__((aligned(128)));

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

void unexpected(u32 vector, const u32 *frame)
{
    print("BAD unexpected vector ");
    print_hex(vector);
    for (unsigned i = 0; i < 4; i++) {
        print(" ");
        print_hex(frame[i]);
    }
    print("\n");
    finish_early();
}

u64 descriptor(u32 base, u32 limit, unsigned access, unsigned flags)
{
    return (u64)(base >> 24) << 56 | (u64)flags << 52 | (u64)(limit >> 16 & 15) << 48 | (u64)access << 40 |
           (u64)(base & 0xffffff) << 16 | (limit & 0xffff);
}

u64 gate(u32 offset, unsigned selector, unsigned access, unsigned count)
{
    return (u64)(offset >> 16) << 48 | (u64)access << 40 | (u64)count << 32 | (u64)selector << 16 | (offset & 0xffff);
}

void default_gate(unsigned vector)
{
    idt[vector] =
        gate((u32)stub_table + 16 * vector, S_CODE0, vector >= 32 || vector == 3 || vector == 4 ? 0xee : 0x8e, 0);
}

void load_tables(void)
{
    struct {
        u16 limit;
        u32 base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (u32)idt};

    for (unsigned i = 0; i < 256; i++)
        default_gate(i);
    tss = (struct tss32){.esp0 = TOP(event_stacks[0]),
                         .ss0 = S_DATA0,
                         .esp1 = TOP(event_stacks[1]),
                         .ss1 = S_DATA1,
                         .esp2 = TOP(event_stacks[2]),
                         .ss2 = S_DATA2,
                         .io_map = sizeof(tss)};
    gdt[S_TSS / 8] = descriptor((u32)&tss, sizeof(tss) - 1, 0x89, 0);
    asm volatile("lidt %0" ::"m"(pointer));
    asm volatile("ltr %w0" ::"r"(S_TSS));
}

struct state32 ring(unsigned r, const void *code)
{
    static const u16 selectors[4][2] = {{S_CODE0, S_DATA0}, {S_CODE1, S_DATA1}, {S_CODE2, S_DATA2}, {S_CODE3, S_DATA3}};
    struct state32 s = {.eip = (u32)code, .eflags = 2, .esp = TOP(stacks[r]) - 256, .cs = selectors[r][0]};

    s.ss = s.ds = s.es = selectors[r][1];
    return s;
}

void expect(const char *name, const struct state32 *s, u32 vector, long error, const void *eip)
{
    if (s->vector != vector)
        check_bad(name, " (vector)", s->vector, vector);
    else if (error != NO_ERROR && s->error != (u32)error)
        check_bad(name, " (error code)", s->error, (u32)error);
    else if (s->eip != (u32)eip)
        check_bad(name, " (eip)", s->eip, (u32)eip);
    else
        check_good(name);
}

u32 outcome(const struct state32 *s)
{
    return s->vector << 16 | s->error;
}
