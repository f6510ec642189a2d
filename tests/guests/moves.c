/*
 * The same code at many linear addresses, as each process maps a library elsewhere: data and code relative to RIP, return
 * addresses, calls to another page, jumps to computed addresses, in turns and in between; code written at one address and run
 * at all others; and a page that comes back at an address where another one was.
 */
#include "guest.h"

#define PLACES 7u
#define TURNS  100u

CODE(moving, ".balign 4096\n moving_start: xor %eax, %eax\n mov $100, %ecx\n 1: add moving_data(%rip), %eax\n"
             " lea moving_data(%rip), %rdx\n call moving_near\n call moving_far\n incl moving_data+8(%rip)\n dec %ecx\n"
             " jnz 1b\n" END "moving_near: moving_patch: add $1, %eax\n mov (%rsp), %rsi\n ret\n"
             " .balign 4096\n moving_far: add moving_data(%rip), %eax\n lea 2f(%rip), %rdi\n jmp *%rdi\n 2: ret\n"
             " .balign 4096\n moving_data: .long 7, 0, 0, 0\n");
extern u8 moving_start[], moving_near[], moving_patch[], moving_far[], moving_data[];

/* Tables of the places: each maps the lowest 2 MiB, a few pages higher than the one before. */
static u64 pdpts[PLACES][512] __attribute__((aligned(4096))), pds[PLACES][512] __attribute__((aligned(4096)));
static u64 tables[PLACES][1024] __attribute__((aligned(4096)));

static u64 place(unsigned i)
{
    return ((u64)(i + 1) << 39) + (u64)i * 0x603000;
}

static u64 *entry(unsigned i, const void *code)
{
    return &tables[i][((u64)code >> 12) + i * 3];
}

static void make_place(unsigned i)
{
    for (u64 page = 0; page < 512; page++)
        tables[i][page + i * 3] = page << 12 | 7;
    pds[i][i * 3] = (u64)tables[i] | 7;
    pds[i][i * 3 + 1] = (u64)(tables[i] + 512) | 7;
    pdpts[i][0] = (u64)pds[i] | 7;
    boot_pml4[i + 1] = (u64)pdpts[i] | 7;
}

/* Run at place `i`; everything that shows where it ran must be of that place. */
static bool right(unsigned i, u32 step)
{
    u64 at = place(i);
    struct state s = ring(3, moving_start + at);

    run(&s);
    return s.vector == END_VECTOR && s.rax == TURNS * (7 + step + 7) && s.rdx == at + (u64)moving_data &&
           s.rsi > at + (u64)moving_start && s.rsi < at + (u64)moving_near && s.rdi > at + (u64)moving_far &&
           s.rdi < at + (u64)moving_data;
}

static void in_turns(void)
{
    unsigned good = 0;

    for (unsigned n = 0; n < 10 * PLACES; n++)
        good += right(n % PLACES, 1);
    check("the same code at seven places in turns", good, 10 * PLACES);
    good = 0;
    for (unsigned n = 0; n < 100; n++)
        good += right((n & 1) ? n * n % PLACES : 0, 1);
    check("one place between all others", good, 100);
}

static void written(void)
{
    unsigned good = 0;

    for (unsigned n = 1; n < 50; n++) {
        (moving_patch + place(n * 3 % PLACES))[2] = (u8)n;
        good += right(n % PLACES, n) + right((n + 1) % PLACES, n);
    }
    check("code written at one place and run at others", good, 98);
    moving_patch[2] = 1;
    check("written by its lowest address", right(3, 1), 1);
}

/* The far page is another frame at one of the places. */
static void replaced(void)
{
    static u8 copy[4096] __attribute__((aligned(4096)));
    unsigned good = 0;

    for (unsigned i = 0; i < 4096; i++)
        copy[i] = moving_far[i];
    copy[0] = 0x83, copy[1] = 0xc0, copy[2] = 9, copy[3] = copy[4] = copy[5] = 0x90; /* add $9, %eax */
    for (unsigned n = 0; n < 20; n++) {
        struct state s = ring(3, moving_start + place(2));

        *entry(2, moving_far) = (n & 1 ? (u64)copy : (u64)moving_far) | 7;
        flush_tlb();
        run(&s);
        good += s.rax == TURNS * (7 + 1 + (n & 1 ? 9 : 7));
        good += right(n % 2, 1);
    }
    check("the page of a call replaced at one place", good, 40);
}

int main(void)
{
    for (unsigned i = 0; i < PLACES; i++)
        make_place(i);
    flush_tlb();
    in_turns();
    written();
    replaced();
    return 0;
}
