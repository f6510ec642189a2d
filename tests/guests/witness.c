/*
 * A witness of what happens to a machine that moves, for tests/cli/migrate_table.py. Each CPU writes whole pages, again and again:
 * address, writer, sequence number, their hash, and 508 words that follow from it; before it writes one it looks whether the page is
 * still the one that it wrote there the last time. So a page that was lost, came late, went elsewhere or was changed is told.
 *
 * Between the batches all sleep until their timer wakes them. In each batch a CPU also looks
 *   - at the time stamp counter, and at what the CPU before it has read of it: it never goes back,
 *   - at the interrupt that it has sent to the next one: it comes, once.
 *
 * It prints "START", then a line for each batch of the first CPU: "T", the number of the line, of batches of all the others, and the
 * seconds of the real-time clock. Those numbers are the running-token: nobody but one machine can go on from each.
 * What is wrong is told in lines that begin with BAD, once for each kind.
 *
 * Keys: "r" asks for a reset, "p" powers off, "t" ends in a triple fault, "f" writes without any rest, and many more pages.
 */
#include "guest.h"

#define MAX_CPUS     4
#define TRAMPOLINE   0x8000u
#define AREA         0x400000ull /* the first CPU's pages, then the next one's */
#define PAGES        256u        /* of each CPU */
#define FAST_PAGES   640u
#define BATCH        24u
#define WORDS        512u
#define TICKS        4000000u        /* of the APIC's timer between two batches */
#define IPI_PATIENCE 200000000000ull /* cycles */

enum { V_TIMER = 0x41, V_IPI = 0x52 };
enum {
    R_ID = 2,
    R_TPR = 8,
    R_EOI = 0xb,
    R_SVR = 0xf,
    R_ICR = 0x30,
    R_ICR_HIGH = 0x31,
    R_LVT_TIMER = 0x32,
    R_INIT_COUNT = 0x38,
    R_DIVIDE = 0x3e
};

#define ICR_OTHERS_INIT    0xc4500u
#define ICR_OTHERS_STARTUP 0xc4600u
#define ICR_FIXED          0x4000u

struct percpu {
    volatile u64 batches, seq, tsc, sent, sent_at;
    volatile u32 got, started, rested;
    u32 told; /* kinds of complaints, a bit each */
} __attribute__((aligned(128)));

static struct percpu cpu[MAX_CPUS];
u8 ap_stacks[MAX_CPUS][AP_STACK] __attribute__((aligned(4096)));
extern u8 ap_begin[], ap_end[];
void ap_main(unsigned id, unsigned cs);
void *memcpy(void *to, const void *from, size_t n);
void *memset(void *p, int c, size_t n);
static volatile u32 n_cpus, printing, fast;
static volatile u64 tokens;

static u32 apic_read(unsigned r)
{
    return *(volatile u32 *)(0xfee00000ull + 16 * r);
}

static void apic_write(unsigned r, u32 v)
{
    *(volatile u32 *)(0xfee00000ull + 16 * r) = v;
}

static void ipi(unsigned to, u32 command)
{
    apic_write(R_ICR_HIGH, to << 24);
    apic_write(R_ICR, command);
}

static u64 rdtsc(void)
{
    u32 lo, hi;
    asm volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (u64)hi << 32 | lo;
}

struct interrupt_frame;

__attribute__((interrupt)) static void on_timer(struct interrupt_frame *f __attribute__((unused)))
{
    cpu[apic_read(R_ID) >> 24].rested = 1;
    apic_write(R_EOI, 0);
}

__attribute__((interrupt)) static void on_ipi(struct interrupt_frame *f __attribute__((unused)))
{
    cpu[apic_read(R_ID) >> 24].got++;
    apic_write(R_EOI, 0);
}

static void print_begin(void)
{
    while (__atomic_exchange_n(&printing, 1, __ATOMIC_ACQUIRE))
        asm volatile("pause");
}

static void print_end(void)
{
    print("\n");
    __atomic_store_n(&printing, 0, __ATOMIC_RELEASE);
}

enum { WRONG_PAGE, WRONG_TIME, WRONG_IPI };

static void complain(unsigned id, unsigned kind, const char *what, u64 where, u64 got, u64 want)
{
    if (cpu[id].told >> kind & 1)
        return;
    cpu[id].told |= 1u << kind;
    print_begin();
    print("BAD cpu ");
    print_hex(id);
    print(" ");
    print(what);
    print(" at ");
    print_hex(where);
    print(" got=");
    print_hex(got);
    print(" want=");
    print_hex(want);
    print_end();
}

/* --- pages --- */

static u64 mix(u64 x)
{
    x = (x ^ x >> 30) * 0xbf58476d1ce4e5b9ull;
    x = (x ^ x >> 27) * 0x94d049bb133111ebull;
    return x ^ x >> 31;
}

static u64 word(u64 hash, unsigned i)
{
    return hash * (2 * i + 1) + i;
}

static void write_page(volatile u64 *p, unsigned id, u64 seq)
{
    u64 hash = mix(mix(mix((u64)p) + id) + seq);
    p[0] = (u64)p;
    p[1] = id;
    p[2] = seq;
    p[3] = hash;
    for (unsigned i = 4; i < WORDS; i++)
        p[i] = word(hash, i);
}

static void look_at_page(const volatile u64 *p, unsigned id, u64 seq)
{
    u64 hash = mix(mix(mix((u64)p) + id) + seq), want[4] = {(u64)p, id, seq, hash};
    static const char *const names[4] = {"page's address", "page's writer", "page's sequence", "page's hash"};
    for (unsigned i = 0; i < 4; i++)
        if (p[i] != want[i])
            complain(id, WRONG_PAGE, names[i], (u64)p, p[i], want[i]);
    for (unsigned i = 4; i < WORDS; i++)
        if (p[i] != word(hash, i))
            complain(id, WRONG_PAGE, "page's word", (u64)(p + i), p[i], word(hash, i));
}

/* The next page of a CPU, in turn. */
static void one_page(unsigned id, u32 pages)
{
    u64 seq = cpu[id].seq;
    volatile u64 *p = (u64 *)(AREA + (u64)id * FAST_PAGES * 4096 + seq % pages * 4096);
    if (seq >= pages)
        look_at_page(p, id, seq - pages);
    write_page(p, id, seq);
    cpu[id].seq = seq + 1;
}

/* --- time and interrupts --- */

static void look_at_time(unsigned id)
{
    u64 before = cpu[(id + n_cpus - 1) % n_cpus].tsc, mine = cpu[id].tsc;
    u64 now = rdtsc();
    if (now < before || now < mine)
        complain(id, WRONG_TIME, "time stamp counter", id, now, before > mine ? before : mine);
    cpu[id].tsc = now;
}

static void look_at_interrupts(unsigned id)
{
    unsigned to = (id + 1) % n_cpus;
    u64 now = rdtsc();
    if (cpu[to].got > cpu[id].sent) {
        complain(id, WRONG_IPI, "interrupts to the next", to, cpu[to].got, cpu[id].sent);
    } else if (cpu[to].got == cpu[id].sent) {
        cpu[id].sent_at = now;
        cpu[id].sent = cpu[id].sent + 1;
        ipi(to, ICR_FIXED | V_IPI);
    } else if (now - cpu[id].sent_at > IPI_PATIENCE) {
        complain(id, WRONG_IPI, "interrupts to the next", to, cpu[to].got, cpu[id].sent);
    }
}

/* --- the first CPU's --- */

static u8 cmos(u8 r)
{
    out8(0x70, r);
    return in8(0x71);
}

static u64 clock_seconds(void)
{
    u8 h = cmos(4), m = cmos(2), s = cmos(0);
    return ((h >> 4) * 10 + (h & 15)) * 3600u + ((m >> 4) * 10 + (m & 15)) * 60u + (s >> 4) * 10 + (s & 15);
}

static void token(void)
{
    u64 others = 0;
    for (unsigned i = 1; i < n_cpus; i++)
        others += cpu[i].batches;
    print_begin();
    tokens++;
    print("T ");
    print_hex(tokens);
    print(" ");
    print_hex(others);
    print(" ");
    print_hex(clock_seconds());
    print_end();
}

static void key(void)
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) none = {0, 0};
    if (!(in8(0x3fd) & 1))
        return;
    switch (in8(0x3f8)) {
    case 'r':
        out8(0xcf9, 6);
        break;
    case 'p':
        power_off();
    case 't':
        asm volatile("lidt %0; ud2" ::"m"(none));
        break;
    case 'f':
        fast = 1;
        break;
    }
}

/* --- all --- */

/* Until the timer comes, whatever else does. */
static void rest(unsigned id)
{
    cpu[id].rested = 0;
    apic_write(R_INIT_COUNT, TICKS);
    while (!cpu[id].rested)
        asm volatile("sti; hlt; cli" ::: "memory");
}

_Noreturn static void work(unsigned id)
{
    u32 pages = PAGES;
    for (;;) {
        if (fast && pages == PAGES) { /* from here on others: the old ones stay as they are */
            pages = FAST_PAGES;
            cpu[id].seq = 0;
        }
        for (unsigned i = 0; i < BATCH; i++)
            one_page(id, pages);
        look_at_time(id);
        look_at_interrupts(id);
        cpu[id].batches++;
        if (id == 0 && (!fast || cpu[0].batches % 64 == 0))
            token();
        if (id == 0)
            key();
        if (fast)
            asm volatile("sti; nop; cli" ::: "memory");
        else
            rest(id);
    }
}

static void apic_start(void)
{
    apic_write(R_SVR, 0x1ff);
    apic_write(R_TPR, 0);
    apic_write(R_DIVIDE, 0xb);
    apic_write(R_LVT_TIMER, V_TIMER);
}

void ap_main(unsigned id, unsigned cs __attribute__((unused)))
{
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (u64)idt};
    asm volatile("lidt %0" ::"m"(pointer));
    apic_start();
    cpu[id].started = 1;
    while (!n_cpus)
        asm volatile("pause");
    work(id);
}

static u32 cpus_there(void)
{
    u32 r[4], n = 1;
    for (unsigned level = 0; level < 4; level++) {
        cpuid(0xb, level, r);
        if (r[2] >> 8 & 0xff && r[1] & 0xffff)
            n = r[1] & 0xffff;
    }
    return n < MAX_CPUS ? n : MAX_CPUS;
}

int main(void)
{
    u32 n = cpus_there();
    memset(cpu, 0, sizeof(cpu));
    n_cpus = printing = fast = 0;
    tokens = 0;
    set_gate(V_TIMER, (u64)on_timer, SEL_CODE0, 0x8e, 0);
    set_gate(V_IPI, (u64)on_ipi, SEL_CODE0, 0x8e, 0);
    apic_start();
    memcpy((void *)(u64)TRAMPOLINE, ap_begin, (u64)(ap_end - ap_begin));
    if (n > 1) {
        ipi(0, ICR_OTHERS_INIT);
        for (u64 end = rdtsc() + 1000000; rdtsc() < end;)
            asm volatile("pause");
        ipi(0, ICR_OTHERS_STARTUP | TRAMPOLINE >> 12);
    }
    for (unsigned i = 1; i < n; i++)
        while (!cpu[i].started)
            asm volatile("pause");
    print("START\n");
    n_cpus = n;
    work(0);
}
