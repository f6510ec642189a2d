/*
 * Several CPUs: how they are started and interrupt each other, and what they see of each other's stores, code and page
 * tables. The first CPU gives the others functions to run ("jobs", parallel()); one without a job sleeps in HLT.
 *
 * SMP_ROUNDS multiplies how often things are tried. What must never happen is what the SDM says can not (vol. 3A, 8.1 to
 * 8.4, 4.10, 10.6); no test needs two CPUs to run at the same moment.
 */
#include "guest.h"

void *memset(void *p, int c, size_t n);
void *memcpy(void *to, const void *from, size_t n);

#ifndef SMP_ROUNDS
#define SMP_ROUNDS 1
#endif

#define MAX_CPUS   16
#define TRAMPOLINE 0x8000u
#define ALIAS      0x40000000ull /* of all low memory */
#define WINDOW     0x80000000ull /* 2 MiB whose page table is window_table */
#define AREA       0x2000000ull  /* pages to write code into */
#define PATIENCE   20000000000ull

enum { V_WAKE = 0x41, V_COUNT = 0x52, V_TIMER = 0x63, V_SHOOT = 0x74 };

typedef void job_fn(unsigned id);

struct percpu {
    u64 id; /* at GS:0 */
    job_fn *volatile job;
    volatile u32 started, cs, ipis, nmis, ticks, acks, faults, stage, bad;
    u64 pad[8];
} __attribute__((aligned(128)));

static struct percpu cpu[MAX_CPUS];
u8 ap_stacks[MAX_CPUS][AP_STACK] __attribute__((aligned(4096)));
extern u8 ap_begin[], ap_end[];
static unsigned n_cpus;
static bool x2apic;
static volatile u32 arrived, stop;
static u64 window_table[512] __attribute__((aligned(4096))), window_pd[512] __attribute__((aligned(4096)));

static inline void pause(void)
{
    asm volatile("pause" ::: "memory");
}

static inline u64 rdtsc(void)
{
    u32 lo, hi;
    asm volatile("lfence; rdtsc" : "=a"(lo), "=d"(hi)::"memory");
    return (u64)hi << 32 | lo;
}

static inline u32 xadd(volatile u32 *p, u32 v)
{
    asm volatile("lock xaddl %0, %1" : "+r"(v), "+m"(*p)::"memory");
    return v;
}

static inline void serialise(void)
{
    u32 r[4];

    cpuid(0, 0, r);
}

static void hangs(const char *what, u64 line)
{
    print("line 0x");
    print_hex(line);
    print(": ");
    check_bad("waits for ever: ", what, 0, 1);
    finish_early();
}

#define WAIT(condition)                    \
    do {                                   \
        u64 limit = rdtsc() + PATIENCE;    \
        while (!(condition)) {             \
            pause();                       \
            if (rdtsc() > limit)           \
                hangs(__func__, __LINE__); \
        }                                  \
    } while (0)

static void delay(u64 cycles)
{
    for (u64 end = rdtsc() + cycles; rdtsc() < end;)
        pause();
}

#define A_WHILE 6000000u /* cycles: what would happen has happened; nothing fails if not */

/* All of the `n` CPUs with ids below n wait for each other. */
static void barrier(unsigned n)
{
    u32 target = (xadd(&arrived, 1) / n + 1) * n;

    WAIT((int)(arrived - target) >= 0);
}

/* --- the local APIC, in either mode --- */

enum {
    R_ID = 2,
    R_TPR = 8,
    R_EOI = 0xb,
    R_LDR = 0xd,
    R_DFR = 0xe,
    R_SVR = 0xf,
    R_ICR = 0x30,
    R_ICR_HIGH = 0x31,
    R_LVT_TIMER = 0x32,
    R_INIT_COUNT = 0x38,
    R_COUNT = 0x39,
    R_DIVIDE = 0x3e
};

static u32 apic_read(unsigned r)
{
    return x2apic ? (u32)rdmsr(0x800 + r) : *(volatile u32 *)(0xfee00000ull + 16 * r);
}

static void apic_write(unsigned r, u32 v)
{
    if (x2apic)
        wrmsr(0x800 + r, v);
    else
        *(volatile u32 *)(0xfee00000ull + 16 * r) = v;
}

#define ICR_NMI     0x400u
#define ICR_INIT    0x4500u /* assert */
#define ICR_STARTUP 0x4600u
#define ICR_LOGICAL 0x800u
#define ICR_ASSERT  0x4000u
#define ICR_SELF    0x40000u
#define ICR_ALL     0x80000u
#define ICR_OTHERS  0xc0000u

static void ipi(u32 dest, u32 command)
{
    asm volatile("mfence" ::: "memory");
    if (x2apic) {
        wrmsr(0x830, (u64)dest << 32 | command);
        return;
    }
    apic_write(R_ICR_HIGH, dest << 24);
    apic_write(R_ICR, command);
    WAIT(!(apic_read(R_ICR) & 0x1000));
}

static void apic_enable(unsigned id)
{
    apic_write(R_SVR, 0x1ff);
    apic_write(R_TPR, 0);
    if (!x2apic) {
        apic_write(R_DFR, ~0u);
        apic_write(R_LDR, 1u << (24 + id));
    }
}

/* --- handlers --- */

struct interrupt_frame;

static inline struct percpu *me(void)
{
    u64 id;

    asm volatile("mov %%gs:0, %0" : "=r"(id));
    return &cpu[id];
}

#define HANDLER(name) __attribute__((interrupt)) static void name(struct interrupt_frame *f __attribute__((unused)))

HANDLER(on_wake)
{
    apic_write(R_EOI, 0);
}

HANDLER(on_count)
{
    me()->ipis++;
    apic_write(R_EOI, 0);
}

HANDLER(on_timer)
{
    me()->ticks++;
    apic_write(R_EOI, 0);
}

HANDLER(on_shoot)
{
    invlpg((void *)WINDOW);
    me()->acks++;
    apic_write(R_EOI, 0);
}

HANDLER(on_nmi)
{
    me()->nmis++;
}

static void set_handlers(void)
{
    set_gate(V_WAKE, (u64)on_wake, SEL_CODE0, 0x8e, 0);
    set_gate(V_COUNT, (u64)on_count, SEL_CODE0, 0x8e, 0);
    set_gate(V_TIMER, (u64)on_timer, SEL_CODE0, 0x8e, 0);
    set_gate(V_SHOOT, (u64)on_shoot, SEL_CODE0, 0x8e, 0);
    set_gate(NMI, (u64)on_nmi, SEL_CODE0, 0x8e, 0);
}

/* --- jobs --- */

void ap_main(unsigned id, unsigned cs);

void ap_main(unsigned id, unsigned cs)
{
    struct percpu *c = &cpu[id];
    struct {
        u16 limit;
        u64 base;
    } __attribute__((packed)) pointer = {sizeof(idt) - 1, (u64)idt};

    asm volatile("lidt %0" ::"m"(pointer));
    c->id = id;
    wrmsr(MSR_GS_BASE, (u64)c);
    apic_enable(id);
    c->cs = cs;
    xadd(&c->started, 1);
    for (;;) {
        asm volatile("cli");
        if (c->job) {
            c->job(id);
            asm volatile("" ::: "memory");
            c->job = NULL;
        } else {
            asm volatile("sti; hlt" ::: "memory");
        }
    }
}

static void give(unsigned id, job_fn *job)
{
    cpu[id].job = job;
    ipi(id, ICR_ASSERT | V_WAKE);
}

/* Let the first `n` CPUs do it, this one too. */
static void parallel(job_fn *job, unsigned n)
{
    arrived = stop = 0;
    for (unsigned i = 0; i < n; i++)
        cpu[i].bad = cpu[i].stage = 0;
    for (unsigned i = 1; i < n; i++)
        give(i, job);
    job(0);
    for (unsigned i = 1; i < n; i++)
        WAIT(!cpu[i].job);
}

static u64 sum_bad(void)
{
    u64 n = 0;

    for (unsigned i = 0; i < n_cpus; i++)
        n += cpu[i].bad;
    return n;
}

/* --- starting --- */

static unsigned cpus_of_cpuid(void)
{
    u32 r[4], n = 0;

    for (unsigned level = 0; level < 4; level++) {
        cpuid(0xb, level, r);
        if (r[2] >> 8 & 0xff && r[1] & 0xffff)
            n = r[1] & 0xffff;
    }
    return n;
}

static u32 started_others(void)
{
    u32 n = 0;

    for (unsigned i = 1; i < n_cpus; i++)
        n += cpu[i].started;
    return n;
}

static volatile u32 ids[MAX_CPUS][3];

static void job_ids(unsigned id)
{
    u32 r[4];

    cpuid(1, 0, r);
    ids[id][0] = r[1] >> 24;
    cpuid(0xb, 0, r);
    ids[id][1] = r[3];
    ids[id][2] = x2apic ? apic_read(R_ID) : apic_read(R_ID) >> 24;
}

static void check_ids(const char *name)
{
    parallel(job_ids, n_cpus);
    for (unsigned i = 0; i < n_cpus; i++)
        for (unsigned k = 0; k < 3; k++)
            tally(name, i << 4 | k, ids[i][k], i);
    tally_end(name);
}

static void bring_up(void)
{
    memcpy((void *)(u64)TRAMPOLINE, ap_begin, (u64)(ap_end - ap_begin));
    memcpy((void *)(u64)(TRAMPOLINE + 0x1000), ap_begin, (u64)(ap_end - ap_begin));
    ipi(0, ICR_OTHERS | ICR_INIT);
    delay(A_WHILE);
    check("after INIT nobody runs", started_others(), 0);
    ipi(0, ICR_OTHERS | ICR_STARTUP | TRAMPOLINE >> 12);
    WAIT(started_others() == n_cpus - 1);
    check("CPUs started", started_others(), n_cpus - 1);
    ipi(0, ICR_OTHERS | ICR_STARTUP | (TRAMPOLINE + 0x1000) >> 12);
    delay(A_WHILE);
    check("the second start-up IPI is ignored", started_others(), n_cpus - 1);
    for (unsigned i = 1; i < n_cpus; i++)
        tally("CS that the vector says", i, cpu[i].cs, TRAMPOLINE >> 4);
    tally_end("CS that the vector says");
}

static void job_stuck(unsigned id)
{
    cpu[id].stage = 1;
    for (;;)
        pause();
}

static void again(void)
{
    for (unsigned i = 1; i < n_cpus; i++) {
        u32 before = cpu[i].started, count = cpu[i].ipis;

        cpu[i].stage = 0;
        give(i, job_stuck);
        WAIT(cpu[i].stage == 1);
        ipi(i, ICR_INIT);
        cpu[i].job = NULL;
        ipi(i, ICR_ASSERT | V_COUNT);
        delay(A_WHILE / 4);
        tally("INIT stops it", i, cpu[i].started + cpu[i].ipis, before + count);
        ipi(i, ICR_STARTUP | (TRAMPOLINE + 0x1000) >> 12);
        WAIT(cpu[i].started != before);
        tally("INIT and start-up of a CPU that runs", i, cpu[i].started, before + 1);
        tally("started at the other page", i, cpu[i].cs, (TRAMPOLINE + 0x1000) >> 4);
    }
    /* many times in a row, halted CPUs */
    for (unsigned k = 0; k < 20 * SMP_ROUNDS; k++) {
        u32 before = cpu[1].started;

        ipi(1, ICR_INIT);
        ipi(1, ICR_STARTUP | TRAMPOLINE >> 12);
        ipi(1, ICR_STARTUP | TRAMPOLINE >> 12);
        WAIT(cpu[1].started != before);
        tally("INIT, start-up, start-up", k, cpu[1].started, before + 1);
    }
    tally_end("INIT and start-up again");
}

/* --- interrupts between CPUs --- */

static u32 expected[MAX_CPUS];

/* Send it, and wait until each of the set has got as many as it should; then nobody has more. */
static void send(const char *name, u32 dest, u32 command, u32 set)
{
    for (unsigned i = 0; i < n_cpus; i++)
        expected[i] = cpu[i].ipis + (set >> i & 1);
    ipi(dest, command | ICR_ASSERT | V_COUNT);
    asm volatile("sti; nop; nop; cli" ::: "memory");
    for (unsigned i = 0; i < n_cpus; i++)
        WAIT(cpu[i].ipis == expected[i] || cpu[i].ipis > expected[i]);
    for (unsigned i = 0; i < n_cpus; i++)
        tally(name, i, cpu[i].ipis, expected[i]);
}

static void ipis(const char *name)
{
    u32 all = (1u << n_cpus) - 1;

    for (unsigned k = 0; k < 200 * SMP_ROUNDS; k++)
        send("to one", 1 + k % (n_cpus - 1), 0, 2u << k % (n_cpus - 1));
    for (unsigned k = 0; k < 50 * SMP_ROUNDS; k++) {
        send("to all but self", 0, ICR_OTHERS, all & ~1u);
        send("to self", 0, ICR_SELF, 1);
        send("to all", 0, ICR_ALL, all);
        send("broadcast id", x2apic ? ~0u : 0xff, 0, all);
        for (u32 set = 1; set <= all; set <<= 1)
            send("logical, one", set, ICR_LOGICAL, set);
        send("logical, all", all, ICR_LOGICAL, all);
        send("logical, all but self", all & ~1u, ICR_LOGICAL, all & ~1u);
    }
    for (unsigned k = 0; k < 200 * SMP_ROUNDS; k++) {
        unsigned to = 1 + k % (n_cpus - 1);
        u32 want = cpu[to].nmis + 1;

        ipi(to, ICR_NMI | ICR_ASSERT);
        WAIT(cpu[to].nmis == want);
        tally("NMI to one", k, cpu[to].nmis, want);
    }
    tally_end(name);
}

static void job_spin(unsigned id)
{
    cpu[id].stage = 1;
    asm volatile("sti");
    while (!stop)
        pause();
    asm volatile("cli");
}

static void ipis_running(const char *name)
{
    stop = 0;
    for (unsigned i = 1; i < n_cpus; i++)
        give(i, job_spin);
    ipis(name);
    stop = 1;
    for (unsigned i = 1; i < n_cpus; i++)
        WAIT(!cpu[i].job);
}

static void job_halt(unsigned id)
{
    u32 nmis = cpu[id].nmis;

    cpu[id].stage = 1;
    while (cpu[id].nmis == nmis)
        asm volatile("hlt" ::: "memory");
    cpu[id].stage = 2;
    WAIT(stop);
    asm volatile("sti; nop; nop; cli" ::: "memory");
}

static void halted(void)
{
    for (unsigned k = 0; k < 20 * SMP_ROUNDS; k++) {
        unsigned to = 1 + k % (n_cpus - 1);
        u32 before = cpu[to].ipis;

        stop = cpu[to].stage = 0;
        give(to, job_halt);
        WAIT(cpu[to].stage == 1);
        delay(A_WHILE / 20);
        ipi(to, ICR_ASSERT | V_COUNT);
        delay(A_WHILE / 20);
        tally("HLT with IF=0 is not woken by an interrupt", k, cpu[to].stage, 1);
        while (cpu[to].stage != 2) { /* the first may come before the HLT */
            ipi(to, ICR_NMI | ICR_ASSERT);
            delay(A_WHILE / 20);
        }
        tally("the interrupt still waits", k, cpu[to].ipis, before);
        stop = 1;
        WAIT(!cpu[to].job);
        tally("the interrupt comes with IF=1", k, cpu[to].ipis, before + 1);
    }
    tally_end("HLT with IF=0, NMI");
}

/* Two CPUs send each other interrupts and sleep. */
static void job_ping_pong(unsigned id)
{
    for (unsigned k = 1; k <= 2000 * SMP_ROUNDS; k++) {
        if (id == k % 2)
            ipi(!id, ICR_ASSERT | V_COUNT);
        else
            while (cpu[id].stage == (u32)cpu[id].ipis)
                asm volatile("sti; hlt; cli" ::: "memory");
        cpu[id].stage = cpu[id].ipis;
    }
}

static void ping_pong(void)
{
    u32 before = cpu[0].ipis + cpu[1].ipis;

    stop = 0;
    for (unsigned i = 0; i < 2; i++)
        cpu[i].stage = cpu[i].ipis;
    give(1, job_ping_pong);
    job_ping_pong(0);
    WAIT(!cpu[1].job);
    check("two CPUs wake each other from HLT", cpu[0].ipis + cpu[1].ipis - before, 2000 * SMP_ROUNDS);
}

static void job_x2apic(unsigned id)
{
    (void)id;
    wrmsr(MSR_APIC_BASE, rdmsr(MSR_APIC_BASE) | 0xc00);
}

static void to_x2apic(void)
{
    for (unsigned i = 1; i < n_cpus; i++) {
        give(i, job_x2apic);
        WAIT(!cpu[i].job);
    }
    job_x2apic(0);
    /* between these an AP may have ended a V_WAKE in the other mode's way: none is in service, it was before the job */
    x2apic = true;
}

/* --- locked instructions --- */

#define LOCKED 100000u * SMP_ROUNDS
static u8 locked_area[4096] __attribute__((aligned(4096)));
static volatile u64 *word; /* what is tried on */
static u32 locked_n;

#define EACH(n) for (u32 i_ = 0; i_ < (n); i_++)

static void job_add(unsigned id)
{
    (void)id;
    EACH(locked_n)
    asm volatile("lock incl %0" : "+m"(*word)::"cc");
    EACH(locked_n)
    asm volatile("lock addq $3, %0" : "+m"(*word)::"cc");
    EACH(locked_n / 2)
    asm volatile("lock decq %0" : "+m"(*word)::"cc");
    EACH(locked_n / 2)
    asm volatile("lock subl $1, %0" : "+m"(*word)::"cc");
    EACH(locked_n)
    {
        u64 five = 5;
        asm volatile("lock xaddq %1, %0" : "+m"(*word), "+r"(five)::"cc");
    }
}

static void job_cmpxchg(unsigned id)
{
    (void)id;
    EACH(locked_n / 2)
    {
        u64 old = *word;
        bool good;
        do
            asm volatile("lock cmpxchgq %3, %0" : "+m"(*word), "+a"(old), "=@ccz"(good) : "r"(old + 1) : "memory");
        while (!good);
    }
    EACH(locked_n / 2)
    {
        u32 lo = 0, hi = 0;
        bool good;
        do {
            u64 next = ((u64)hi << 32 | lo) + 1;
            asm volatile("lock cmpxchg8b %0"
                         : "+m"(*word), "+a"(lo), "+d"(hi), "=@ccz"(good)
                         : "b"((u32)next), "c"((u32)(next >> 32))
                         : "memory");
        } while (!good);
    }
}

static void job_cmpxchg16(unsigned id)
{
    EACH(locked_n / 2)
    {
        u64 lo = 0, hi = 0;
        bool good;
        do {
            if (hi != 3 * lo)
                cpu[id].bad++;
            asm volatile("lock cmpxchg16b %0"
                         : "+m"(*(volatile unsigned __int128 *)word), "+a"(lo), "+d"(hi), "=@ccz"(good)
                         : "b"(lo + 1), "c"(hi + 3)
                         : "memory");
        } while (!good);
    }
}

/* Each has bits of its own, which nobody else may change. */
static void job_bits(unsigned id)
{
    u64 mine = 3ull << (32 + 2 * id), seen;
    bool was;

    EACH(locked_n / 2)
    {
        asm volatile("lock btsl %2, %0" : "+m"(*word), "=@ccc"(was) : "r"(id) : "memory");
        cpu[id].bad += was;
        asm volatile("lock orq %1, %0" : "+m"(*word) : "r"(mine) : "cc");
        seen = *word;
        cpu[id].bad += (seen & mine) != mine || !(seen >> id & 1);
        asm volatile("lock btrl %2, %0" : "+m"(*word), "=@ccc"(was) : "r"(id) : "memory");
        cpu[id].bad += !was;
        asm volatile("lock andq %1, %0" : "+m"(*word) : "r"(~mine) : "cc");
        asm volatile("lock btcl %2, %0" : "+m"(*word), "=@ccc"(was) : "r"(id) : "memory");
        cpu[id].bad += was;
        asm volatile("lock xorq %1, %0" : "+m"(*word) : "r"(1ull << id) : "cc");
        cpu[id].bad += (*word & mine) || *word >> id & 1;
    }
}

static volatile u64 put_in[MAX_CPUS], got_out[MAX_CPUS];

static void job_xchg(unsigned id)
{
    u64 in = 0, out = 0;

    EACH(locked_n)
    {
        u64 v = (u64)i_ * 0x100010001ull + id;
        in += v;
        asm volatile("xchgq %0, %1" : "+r"(v), "+m"(*word)::"memory");
        out += v;
    }
    put_in[id] = in;
    got_out[id] = out;
}

/* Bytes beside each other, without LOCK: a store writes no byte but its own. */
static void job_bytes(unsigned id)
{
    volatile u8 *mine = (volatile u8 *)word + id;

    EACH(locked_n)
    {
        *mine = (u8)i_;
        cpu[id].bad += *mine != (u8)i_;
    }
}

static volatile u32 spinlock, guarded;

static void job_spinlock(unsigned id)
{
    (void)id;
    EACH(locked_n / 4)
    {
        u32 v = 1;
        for (;;) {
            asm volatile("xchgl %0, %1" : "+r"(v), "+m"(spinlock)::"memory");
            if (!v)
                break;
            while (spinlock)
                pause();
            v = 1;
        }
        guarded = guarded + 1;
        asm volatile("" ::: "memory");
        spinlock = 0;
    }
}

static void locked_at(u64 offset, u32 n, const char *name)
{
    word = (volatile u64 *)(locked_area + offset);
    locked_n = n;
    *word = 0;
    parallel(job_add, n_cpus);
    tally("INC, ADD, DEC, SUB, XADD", offset, *word, (u64)n_cpus * n * (1 + 3 - 1 + 5));
    *word = 0;
    parallel(job_cmpxchg, n_cpus);
    tally("CMPXCHG, CMPXCHG8B", offset, *word, (u64)n_cpus * n);
    *word = 0;
    parallel(job_bits, n_cpus);
    tally("BTS, OR, BTR, AND, BTC, XOR", offset, sum_bad() + *word, 0);
    *word = 0;
    parallel(job_xchg, n_cpus);
    u64 in = 0, out = *word;
    for (unsigned i = 0; i < n_cpus; i++) {
        in += put_in[i];
        out += got_out[i];
    }
    tally("XCHG", offset, out, in);
    tally_end(name);
}

static void locked(void)
{
    locked_at(64, LOCKED, "locked instructions, aligned");
    locked_at(124, LOCKED / 100, "locked instructions, across cache lines");
    word = (volatile u64 *)(locked_area + 256);
    word[0] = word[1] = 0;
    locked_n = LOCKED;
    parallel(job_cmpxchg16, n_cpus);
    check("CMPXCHG16B", word[0] * 4 + sum_bad(), (u64)n_cpus * (LOCKED / 2) * 4);
    check("CMPXCHG16B, upper half", word[1], (u64)n_cpus * (LOCKED / 2) * 3);
    parallel(job_bytes, n_cpus);
    check("bytes beside each other", sum_bad(), 0);
    locked_n = LOCKED;
    guarded = spinlock = 0;
    parallel(job_spinlock, n_cpus);
    check("a spinlock by XCHG", guarded, (u64)n_cpus * (LOCKED / 4));
}

/* --- memory ordering ---
 *
 * Each round has a cell of its own with x and y in two cache lines; both CPUs go through a thousand cells from the same moment
 * on. What TSO forbids must not be seen (SDM vol. 3A, 8.2.3); what it allows is told, no more.
 */
#define CELLS 1000u

static struct cell {
    volatile u32 x, pad_x[15], y, pad_y[15], z, pad_z[15];
    volatile u32 r[4], pad_r[12];
} cells[CELLS] __attribute__((aligned(4096)));

static inline void mfence(void)
{
    asm volatile("mfence" ::: "memory");
}

static inline void locked_fence(void)
{
    u32 dummy = 0;
    asm volatile("lock orl $0, %0" : "+m"(dummy)::"memory", "cc");
}

static inline void xchg(volatile u32 *p, u32 v)
{
    asm volatile("xchgl %0, %1" : "+r"(v), "+m"(*p)::"memory");
}

#define LITMUS_SIDE(name, text)                              \
    static void name(void)                                   \
    {                                                        \
        for (struct cell *c = cells; c < cells + CELLS; c++) \
            text                                             \
    }
#define LITMUS(name, p0, p1)  \
    LITMUS_SIDE(name##_0, p0) \
    LITMUS_SIDE(name##_1, p1)

/* Store buffering: each writes one and reads the other. */
LITMUS(
    sb,
    {
        c->x = 1;
        c->r[0] = c->y;
    },
    {
        c->y = 1;
        c->r[1] = c->x;
    })
LITMUS(
    sb_mfence,
    {
        c->x = 1;
        mfence();
        c->r[0] = c->y;
    },
    {
        c->y = 1;
        mfence();
        c->r[1] = c->x;
    })
LITMUS(
    sb_xchg,
    {
        xchg(&c->x, 1);
        c->r[0] = c->y;
    },
    {
        xchg(&c->y, 1);
        c->r[1] = c->x;
    })
LITMUS(
    sb_lock,
    {
        c->x = 1;
        locked_fence();
        c->r[0] = c->y;
    },
    {
        c->y = 1;
        locked_fence();
        c->r[1] = c->x;
    })
LITMUS(
    sb_cpuid,
    {
        c->x = 1;
        serialise();
        c->r[0] = c->y;
    },
    {
        c->y = 1;
        serialise();
        c->r[1] = c->x;
    })
/* Message passing. */
LITMUS(
    mp,
    {
        c->x = 1;
        c->y = 1;
    },
    {
        c->r[0] = c->y;
        c->r[1] = c->x;
    })
/* Load buffering. */
LITMUS(
    lb,
    {
        c->r[0] = c->x;
        c->y = 1;
    },
    {
        c->r[1] = c->y;
        c->x = 1;
    })
LITMUS(
    w22,
    {
        c->x = 1;
        c->y = 2;
    },
    {
        c->y = 1;
        c->x = 2;
    })
LITMUS(
    r,
    {
        c->x = 1;
        c->y = 1;
    },
    {
        c->y = 2;
        mfence();
        c->r[0] = c->x;
    })
LITMUS(
    s,
    {
        c->x = 2;
        c->y = 1;
    },
    {
        c->r[0] = c->y;
        c->x = 1;
    })
/* A CPU sees its own store, then must see what the other wrote before it (SDM 8.2.3.5 allows the order to differ). */
LITMUS(
    own,
    {
        c->x = 1;
        c->r[0] = c->x;
        c->r[1] = c->y;
    },
    {
        c->y = 1;
        c->r[2] = c->y;
        c->r[3] = c->x;
    })
/* One location: two loads never go back. */
LITMUS(
    corr,
    {
        c->x = 1;
        c->x = 2;
    },
    {
        c->r[0] = c->x;
        c->r[1] = c->x;
    })

static u32 bad_none(const struct cell *c)
{
    (void)c;
    return 0;
}
static u32 weak_sb(const struct cell *c)
{
    return !c->r[0] && !c->r[1];
}
static u32 bad_mp(const struct cell *c)
{
    return c->r[0] && !c->r[1];
}
static u32 bad_lb(const struct cell *c)
{
    return c->r[0] && c->r[1];
}
static u32 bad_w22(const struct cell *c)
{
    return c->x == 1 && c->y == 1;
}
static u32 bad_r(const struct cell *c)
{
    return c->y == 2 && !c->r[0];
}
static u32 bad_s(const struct cell *c)
{
    return c->r[0] == 1 && c->x == 2;
}
static u32 bad_own(const struct cell *c)
{
    return !c->r[0] || !c->r[2];
}
static u32 bad_corr(const struct cell *c)
{
    return c->r[1] < c->r[0];
}

static const struct litmus {
    const char *name;
    void (*side[2])(void);
    u32 (*forbidden)(const struct cell *c);
    u32 (*allowed)(const struct cell *c);
} litmus[] = {
    {"litmus SB", {sb_0, sb_1}, bad_none, weak_sb},
    {"litmus SB, MFENCE", {sb_mfence_0, sb_mfence_1}, weak_sb, NULL},
    {"litmus SB, XCHG", {sb_xchg_0, sb_xchg_1}, weak_sb, NULL},
    {"litmus SB, LOCK OR", {sb_lock_0, sb_lock_1}, weak_sb, NULL},
    {"litmus SB, CPUID", {sb_cpuid_0, sb_cpuid_1}, weak_sb, NULL},
    {"litmus MP", {mp_0, mp_1}, bad_mp, NULL},
    {"litmus LB", {lb_0, lb_1}, bad_lb, NULL},
    {"litmus 2+2W", {w22_0, w22_1}, bad_w22, NULL},
    {"litmus R, MFENCE", {r_0, r_1}, bad_r, NULL},
    {"litmus S", {s_0, s_1}, bad_s, NULL},
    {"litmus SB, own store forwarded", {own_0, own_1}, bad_own, NULL},
    {"litmus CoRR", {corr_0, corr_1}, bad_corr, NULL},
};
static const struct litmus *litmus_now;
static u32 litmus_forbidden, litmus_allowed;

static void litmus_judge(void)
{
    for (unsigned i = 0; i < CELLS; i++) {
        litmus_forbidden += litmus_now->forbidden(&cells[i]);
        litmus_allowed += litmus_now->allowed ? litmus_now->allowed(&cells[i]) : 0;
        cells[i] = (struct cell){0};
    }
}

static void job_litmus(unsigned id)
{
    for (unsigned batch = 0; batch < 100 * SMP_ROUNDS; batch++) {
        barrier(2);
        litmus_now->side[id ^ (batch & 1)]();
        barrier(2);
        if (id == 0)
            litmus_judge();
    }
}

static void litmus_tests(void)
{
    memset(cells, 0, sizeof(cells));
    for (unsigned i = 0; i < sizeof(litmus) / sizeof(litmus[0]); i++) {
        litmus_now = &litmus[i];
        litmus_forbidden = litmus_allowed = 0;
        parallel(job_litmus, 2);
        check(litmus_now->name, litmus_forbidden, 0);
        if (litmus_now->allowed) {
            print("note: allowed and seen 0x");
            print_hex(litmus_allowed);
            print(" times\n");
        }
    }
}

/* --- code --- */

typedef u32 code_fn(void);

/* mov $value, %eax; ret: the immediate is aligned. */
static code_fn *put_code(u64 at, u32 value)
{
    volatile u8 *p = (volatile u8 *)at;

    p[3] = 0xb8;
    *(volatile u32 *)(at + 4) = value;
    p[8] = 0xc3;
    return (code_fn *)(at + 3);
}

static volatile u32 version, seen_version;
static code_fn *volatile code;
static u64 code_alias;
static u32 code_n;

/* SDM vol. 3A, 8.1.3: the other waits, then serialises, then executes. CPU 1 executes. */
static void job_modify_in_turn(unsigned id)
{
    for (u32 k = 1; k <= code_n; k++) {
        if (id == 0) {
            *(volatile u32 *)(code_alias + 1) = k;
            version = k;
            WAIT(seen_version == k);
        } else {
            WAIT(version == k);
            serialise();
            cpu[id].bad += code() != k;
            seen_version = k;
        }
    }
}

/* No waiting: what is executed is never older than the flag read before. */
static void job_modify_freely(unsigned id)
{
    if (id == 0) {
        for (u32 k = 1; k <= code_n; k++) {
            *(volatile u32 *)(code_alias + 1) = k;
            version = k;
            if (!(k & 63))
                delay(2000);
        }
        return;
    }
    for (u32 last = 0; last < code_n;) {
        u32 before = version;
        serialise();
        u32 now = code();
        cpu[id].bad += now < before || now > code_n || now < last;
        last = now;
    }
}

/* Whole functions: `n` instructions more each time, written and then announced; the old one is never run again. */
static void job_new_code(unsigned id)
{
    for (u32 k = 1; k <= code_n / 4; k++) {
        if (id == 0) {
            u64 at = code_alias - 3;
            for (u32 i = 0; i < k % 50; i++)
                *(volatile u8 *)(at + 3 + i) = 0x90;
            at += k % 50;
            *(volatile u8 *)(at + 3) = 0xb8;
            for (u32 i = 0; i < 4; i++)
                *(volatile u8 *)(at + 4 + i) = (u8)(k >> 8 * i);
            *(volatile u8 *)(at + 8) = 0xc3;
            version = k;
            WAIT(arrived == k * (n_cpus - 1));
        } else {
            WAIT(version == k);
            serialise();
            cpu[id].bad += code() != k;
            xadd(&arrived, 1);
        }
    }
}

static void modify(const char *name, job_fn *job, unsigned n, u64 at, u64 alias)
{
    version = seen_version = 0;
    code = put_code(at, 0);
    code_alias = (u64)code + alias;
    parallel(job, n);
    check(name, sum_bad(), 0);
}

/* CPU 0 executes code; the others count beside it. */
static void job_beside(unsigned id)
{
    volatile u32 *counter = (volatile u32 *)(((u64)code & ~0xfffull) + 256 * (id + 1));

    if (id == 0) {
        while (arrived < n_cpus - 1)
            cpu[0].bad += code() != 77;
        return;
    }
    for (u32 i = 0; i < code_n; i++)
        *counter = *counter + 1;
    cpu[id].bad += *counter != code_n;
    xadd(&arrived, 1);
}

/* All execute and count in one page; the counter is the same. */
static void job_beside_all(unsigned id)
{
    volatile u32 *counter = (volatile u32 *)(((u64)code & ~0xfffull) + 2048);

    for (u32 i = 0; i < code_n / 4; i++) {
        cpu[id].bad += code() != 78;
        xadd(counter, 1);
    }
}

/* Each executes and writes its own function, in one page; it runs the others' too, which may be any of their versions. */
static void job_each_own(unsigned id)
{
    u64 page = (u64)code & ~0xfffull;
    code_fn *mine = (code_fn *)(page + 128 * id + 3), *other = (code_fn *)(page + 128 * ((id + 1) % n_cpus) + 3);
    u32 last = 0;

    for (u32 k = 1; k <= code_n / 4; k++) {
        *(volatile u32 *)(page + 128 * id + 4) = k;
        cpu[id].bad += mine() != k;
        serialise();
        u32 now = other();
        cpu[id].bad += now < last || now > code_n;
        last = now;
    }
}

static void code_tests(void)
{
    code_n = 4000 * SMP_ROUNDS;
    modify("code modified in turn", job_modify_in_turn, 2, AREA, 0);
    modify("code modified in turn, through an alias", job_modify_in_turn, 2, AREA + 0x1000, ALIAS);
    modify("code modified while it runs", job_modify_freely, 2, AREA + 0x2000, 0);
    modify("code modified while it runs, through an alias", job_modify_freely, 2, AREA + 0x3000, ALIAS);
    modify("code modified while others run it", job_modify_freely, n_cpus, AREA + 0x4000, 0);
    modify("new code, announced", job_new_code, n_cpus, AREA + 0x5000, 0);
    modify("new code across pages, through an alias", job_new_code, n_cpus, AREA + 0x7fd0, ALIAS);
    code = put_code(AREA + 0x9000, 77);
    parallel(job_beside, n_cpus);
    check("counters beside code that another runs", sum_bad(), 0);
    code = put_code(AREA + 0xa000, 78);
    parallel(job_beside_all, n_cpus);
    check("all run code of a page and count in it", sum_bad(), 0);
    check("their counter", *(volatile u32 *)(AREA + 0xa800), (u64)n_cpus * (code_n / 4));
    for (unsigned i = 0; i < n_cpus; i++)
        put_code(AREA + 0xb000 + 128 * i, 0);
    code = (code_fn *)(AREA + 0xb003);
    parallel(job_each_own, n_cpus);
    check("all write code into a page and run it", sum_bad(), 0);
}

/* --- page tables --- */

#define POISON 0xdeadbeefu

static volatile u32 frames[2][1024] __attribute__((aligned(4096)));

static void map_window(void)
{
    boot_pdpt[WINDOW >> 30] = (u64)window_pd | 7;
    window_pd[0] = (u64)window_table | 7;
    flush_tlb();
}

/* CPU 0 changes the frame, the others read and write through the window. */
static void job_shoot_down(unsigned id)
{
    volatile u32 *window = (volatile u32 *)WINDOW;

    if (id) {
        u32 n = 0;
        asm volatile("sti");
        while (!stop) {
            cpu[id].bad += window[0] == POISON;
            window[16 * id] = ++n;
        }
        asm volatile("cli");
        invlpg((void *)WINDOW);
        return;
    }
    for (u32 k = 1; k <= 500 * SMP_ROUNDS; k++) {
        volatile u32 *old = frames[k & 1 ? 0 : 1], *new = frames[k & 1];
        u32 want[MAX_CPUS];

        for (unsigned i = 1; i < n_cpus; i++) {
            cpu[0].bad += new[16 * i] != 0;
            want[i] = cpu[i].acks + 1;
        }
        new[0] = k;
        *(volatile u64 *)&window_table[0] = (u64) new | 7;
        ipi(0, ICR_OTHERS | ICR_ASSERT | V_SHOOT);
        for (unsigned i = 1; i < n_cpus; i++)
            WAIT(cpu[i].acks == want[i]);
        old[0] = POISON;
        for (unsigned i = 1; i < n_cpus; i++)
            old[16 * i] = 0;
        delay(20000);
    }
    stop = 1;
}

/* CPU 0 counts in the available bits of each entry, the others touch the pages. */
static void job_accessed_dirty(unsigned id)
{
    for (unsigned round = 0; round < 100 * SMP_ROUNDS; round++) {
        if (id == 0)
            for (unsigned i = 0; i < 512; i++)
                *(volatile u64 *)&window_table[i] = (u64)frames[0] | 3;
        barrier(n_cpus);
        flush_tlb();
        barrier(n_cpus);
        if (id == 0)
            for (unsigned k = 0; k < 2 * 512; k++) {
                u64 *e = &window_table[k % 512], old = *(volatile u64 *)e;
                bool good;
                do
                    asm volatile("lock cmpxchgq %3, %0"
                                 : "+m"(*e), "+a"(old), "=@ccz"(good)
                                 : "r"(old + 0x200)
                                 : "memory");
                while (!good);
            }
        else
            for (unsigned i = 0; i < 512; i++) {
                volatile u32 *p = (volatile u32 *)(WINDOW + 4096ull * i);
                if (id == 1)
                    p[16] = i;
                else
                    (void)*p;
            }
        barrier(n_cpus);
        if (id == 0)
            for (unsigned i = 0; i < 512; i++)
                cpu[0].bad += window_table[i] != ((u64)frames[0] | 3 | 0x400 | PTE_A | PTE_D);
    }
}

/* An entry that was taken away: nobody sets a bit in it. The other waits in #PF until it is back. */
__attribute__((interrupt)) static void on_page_fault(struct interrupt_frame *f __attribute__((unused)), u64 error)
{
    struct percpu *c = me();

    if (read_cr2() >> 12 != WINDOW >> 12 || error & 8)
        hangs("an unexpected #PF", read_cr2());
    c->faults++;
    while (!stop && !(*(volatile u64 *)&window_table[0] & 1))
        pause();
}

static void job_take_away(unsigned id)
{
    volatile u64 *e = &window_table[0];

    if (id) {
        while (!stop) {
            invlpg((void *)WINDOW);
            *(volatile u32 *)(WINDOW + 64 * id) = 1;
        }
        return;
    }
    for (u32 k = 0; k < 2000 * SMP_ROUNDS; k++) {
        u64 old = 0;
        asm volatile("xchgq %0, %1" : "+r"(old), "+m"(*e)::"memory");
        cpu[0].bad += (old & ~(PTE_A | PTE_D)) != ((u64)frames[0] | 3);
        for (unsigned i = 0; i < 20; i++)
            cpu[0].bad += *e != 0;
        *e = (u64)frames[0] | 3;
        if (k & 1)
            delay(3000);
    }
    stop = 1;
}

static void page_tests(void)
{
    map_window();
    parallel(job_accessed_dirty, n_cpus);
    check("accessed and dirty bits beside LOCK CMPXCHG", sum_bad(), 0);
    memset((void *)frames, 0, sizeof(frames));
    window_table[0] = (u64)frames[0] | 7;
    flush_tlb();
    parallel(job_shoot_down, n_cpus);
    check("TLB shoot-down", sum_bad(), 0);
    set_gate(PF, (u64)on_page_fault, SEL_CODE0, 0x8e, 0);
    window_table[0] = (u64)frames[0] | 3;
    parallel(job_take_away, n_cpus);
    check("no bit is set in an entry that was taken away", sum_bad(), 0);
    default_gate(PF);
}

/* --- time --- */

static volatile u64 last_tsc;

static void job_tsc(unsigned id)
{
    for (u32 i = 0; i < 5000 * SMP_ROUNDS; i++) {
        u32 v = 1;
        for (;;) {
            asm volatile("xchgl %0, %1" : "+r"(v), "+m"(spinlock)::"memory");
            if (!v)
                break;
            pause();
            v = 1;
        }
        u64 now = rdtsc();
        cpu[id].bad += now < last_tsc;
        last_tsc = now;
        asm volatile("lfence" ::: "memory");
        spinlock = 0;
    }
}

static void job_timer(unsigned id)
{
    struct percpu *c = &cpu[id];
    u32 before = c->ticks;

    apic_write(R_DIVIDE, 0xb); /* by 1 */
    apic_write(R_LVT_TIMER, V_TIMER);
    apic_write(R_INIT_COUNT, 200000 + 1000 * id);
    while (c->ticks == before)
        asm volatile("sti; hlt; cli" ::: "memory");
    apic_write(R_INIT_COUNT, 100000);
    asm volatile("sti");
    WAIT(c->ticks == before + 2);
    asm volatile("cli");
    c->bad += apic_read(R_COUNT) != 0;
    apic_write(R_LVT_TIMER, V_TIMER | 0x20000);
    apic_write(R_INIT_COUNT, 100000);
    while (c->ticks < before + 12)
        asm volatile("sti; hlt; cli" ::: "memory");
    apic_write(R_LVT_TIMER, V_TIMER | 0x10000);
    apic_write(R_INIT_COUNT, 0);
    asm volatile("sti; nop; nop; cli" ::: "memory");
}

static void time_tests(void)
{
    last_tsc = 0;
    spinlock = 0;
    parallel(job_tsc, n_cpus);
    check("the TSC never goes back between CPUs", sum_bad(), 0);
    for (unsigned k = 0; k < 5 * SMP_ROUNDS; k++) {
        parallel(job_timer, n_cpus);
        tally("the APIC timer of each CPU", k, sum_bad(), 0);
    }
    tally_end("the APIC timer of each CPU");
}

/* --- what KVM's guests may use (board_pv.c has the monitor's side) --- */

#define PV_STEAL     0x020u
#define PV_UNHALT    0x080u
#define PV_TLB_FLUSH 0x200u
#define PV_IPI       0x800u
#define HC_KICK      5
#define HC_SEND_IPI  10
#define MSR_STEAL    0x4b564d03u

static struct {
    u64 steal;
    volatile u32 version;
    u32 flags;
    volatile u8 preempted;
    u8 pad[47];
} steal[MAX_CPUS] __attribute__((aligned(64)));

static int64_t hypercall(u64 nr, u64 a, u64 b, u64 c, u64 d)
{
    int64_t r;

    asm volatile("vmcall" : "=a"(r) : "a"(nr), "b"(a), "c"(b), "d"(c), "S"(d) : "memory");
    return r;
}

static void pv_ipis(void)
{
    u32 all = (1u << n_cpus) - 1;

    for (unsigned k = 0; k < 20 * SMP_ROUNDS; k++)
        for (u32 set = 2; set <= all; set += 2) {
            unsigned first = k & 1; /* the bit map may begin anywhere */
            for (unsigned i = 0; i < n_cpus; i++)
                expected[i] = cpu[i].ipis + (set >> i & 1);
            int64_t n = k & 2 ? hypercall(HC_SEND_IPI, 0, (u64)set >> first << 40, 0, V_COUNT)
                              : hypercall(HC_SEND_IPI, set >> first, 0, first, V_COUNT);
            u64 members = 0;
            for (unsigned i = 0; i < n_cpus; i++)
                members += set >> i & 1;
            tally("PV IPI: how many took it", set, (u64)n, k & 2 ? 0 : members);
            for (unsigned i = 0; i < n_cpus && !(k & 2); i++)
                WAIT(cpu[i].ipis == expected[i]);
        }
    u32 nmis = cpu[1].nmis;
    check("PV IPI: an NMI", (u64)hypercall(HC_SEND_IPI, 2, 0, 0, ICR_NMI), 1);
    WAIT(cpu[1].nmis == nmis + 1);
    check("PV IPI: INIT is refused", (u64)hypercall(HC_SEND_IPI, 2, 0, 0, ICR_INIT), (u64)-22);
    check("PV IPI: nobody there", (u64)hypercall(HC_SEND_IPI, ~0ull, ~0ull, 0xfffffff0, V_COUNT), 0);
    check("an unknown hypercall", (u64)hypercall(77, 0, 0, 0, 0), (u64)-1000);
}

/* Halts with interrupts off, as one that waits for a lock; odd turns are kicked before they halt. */
static void job_kicked(unsigned id)
{
    for (u32 k = 0; k < 50 * SMP_ROUNDS; k++) {
        cpu[id].stage = 2 * k + 1;
        if (k & 1)
            WAIT(cpu[id].stage == 0);
        asm volatile("hlt" ::: "memory");
        cpu[id].stage = 2 * k + 2;
        WAIT(cpu[id].stage == 0);
    }
}

static void pv_unhalt(void)
{
    give(1, job_kicked);
    for (u32 k = 0; k < 50 * SMP_ROUNDS; k++) {
        WAIT(cpu[1].stage == 2 * k + 1);
        tally("a kick", k, (u64)hypercall(HC_KICK, 0, 1, 0, 0), 0);
        if (k & 1)
            cpu[1].stage = 0;
        WAIT(cpu[1].stage == 2 * k + 2);
        cpu[1].stage = 0;
    }
    WAIT(!cpu[1].job);
    check("kicked out of HLT", 1, 1);
    check("a kick for nobody", (u64)hypercall(HC_KICK, 0, 200, 0, 0), 0);
}

/* Reads through the window, halts, reads again, with no INVLPG of its own. */
static void job_flushed(unsigned id)
{
    volatile u32 *window = (volatile u32 *)WINDOW;

    for (u32 k = 0; k < 50 * SMP_ROUNDS; k++) {
        cpu[id].bad += window[0] != (k & 1);
        cpu[id].stage = 2 * k + 1;
        asm volatile("hlt" ::: "memory");
        cpu[id].bad += steal[id].preempted != 0; /* it runs */
        cpu[id].bad += window[0] != (~k & 1);
        cpu[id].stage = 2 * k + 2;
        WAIT(cpu[id].stage == 0);
    }
}

static void pv_tlb_flush(void)
{
    u32 interrupted = 0;

    arrived = stop = 0;
    cpu[1].bad = cpu[1].stage = 0;
    *(volatile u32 *)frames[0] = 0;
    *(volatile u32 *)frames[1] = 1;
    window_table[0] = (u64)frames[0] | 7;
    give(1, job_flushed);
    for (u32 k = 0; k < 50 * SMP_ROUNDS; k++) {
        u8 out = 1;

        WAIT(cpu[1].stage == 2 * k + 1);
        WAIT(steal[1].preempted & 1);
        *(volatile u64 *)&window_table[0] = (u64)frames[~k & 1] | 7;
        if (!__atomic_compare_exchange_n(&steal[1].preempted, &out, 3, false, __ATOMIC_SEQ_CST, __ATOMIC_SEQ_CST))
            interrupted++;
        hypercall(HC_KICK, 0, 1, 0, 0);
        WAIT(cpu[1].stage == 2 * k + 2);
        cpu[1].stage = 0;
    }
    WAIT(!cpu[1].job);
    check("PV TLB flush", cpu[1].bad, 0);
    check("it stayed out until it was kicked", interrupted, 0);
}

static void job_steal(unsigned id)
{
    wrmsr(MSR_STEAL, (u64)&steal[id] | 1);
}

static void job_steal_off(unsigned id)
{
    wrmsr(MSR_STEAL, 0);
}

static void pv_tests(void)
{
    u32 r[4];

    cpuid(0x40000001, 0, r);
    if (r[0] & PV_IPI)
        pv_ipis();
    if (r[0] & PV_STEAL)
        parallel(job_steal, n_cpus);
    if (r[0] & PV_UNHALT)
        pv_unhalt();
    if (r[0] & PV_TLB_FLUSH && r[0] & PV_UNHALT)
        pv_tlb_flush();
    for (unsigned i = 0; i < n_cpus && r[0] & PV_STEAL; i++)
        tally("steal time is written whole", i, steal[i].version & 1, 0);
    if (r[0] & PV_STEAL)
        parallel(job_steal_off, n_cpus);
    tally_end("KVM's paravirtual interfaces");
}

int main(void)
{
    wrmsr(MSR_GS_BASE, (u64)&cpu[0]);
    set_handlers();
    apic_enable(0);
    boot_pdpt[1] = (u64)boot_pd | 7;
    flush_tlb();
    n_cpus = cpus_of_cpuid();
    if (n_cpus < 2 || n_cpus > MAX_CPUS) {
        check_bad("number of CPUs (CPUID 0Bh)", "", n_cpus, 2);
        finish_early();
    }
    bring_up();
    check_ids("ids");
    again();
    ipis("interrupts to halted CPUs");
    ipis_running("interrupts to CPUs that run");
    halted();
    ping_pong();
    locked();
    litmus_tests();
    code_tests();
    page_tests();
    time_tests();
    pv_tests();
    to_x2apic();
    check_ids("ids, x2APIC");
    ipis("x2APIC: interrupts to halted CPUs");
    ipis_running("x2APIC: interrupts to CPUs that run");
    ping_pong();
    pv_tests();
    again();
    return 0;
}
