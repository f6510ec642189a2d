/*
 * System instructions on random descriptor tables and registers, in every mode, faults delivered: whatever a hostile guest puts
 * there, each step ends with one of the four results and a CPU that its record accepts.
 *
 * ISA_TEST_SEED in the environment chooses another sequence; the seed is printed when a step fails.
 */
#include "sys_harness.h"

#define MACHINES 4000u
#define STEPS    400u

static u64 rng;

static u64 next_random(void)
{
    rng ^= rng << 13;
    rng ^= rng >> 7;
    rng ^= rng << 17;
    return rng * 0x2545f4914f6cdd1dull;
}
static unsigned below(unsigned n)
{
    return (unsigned)((next_random() >> 33) % n);
}

/* Modes they are valid in: 1 in 64-bit code, 2 in 32-bit and 16-bit code, 3 both; 4 in 32-bit code alone. */
static const struct {
    const char *hex;
    unsigned modes;
} forms[] = {
    {"8ec0", 3},       {"8ed0", 3},     {"8ed8", 3},   {"8ee0", 3},        {"8ee8", 3},   {"0fa1", 3},
    {"0fa9", 3},       {"07", 2},       {"17", 2},     {"1f", 2},          {"0fa0", 3},   {"1e", 2},
    {"0f00d0", 3},     {"0f00d8", 3},   {"0f02d8", 3}, {"0f03d8", 3},      {"0f00e0", 3}, {"63d8", 2},
    {"0fb200", 3},     {"0fb400", 3},   {"c500", 2},   {"cb", 3},          {"48cb", 1},   {"66cb", 3},
    {"ca0800", 3},     {"cf", 3},       {"48cf", 1},   {"66cf", 3},        {"ff18", 3},   {"ff28", 3},
    {"48ff18", 1},     {"48ff28", 1},   {"cd40", 3},   {"cc", 3},          {"f1", 3},     {"ce", 2},
    {"9c", 3},         {"9d", 3},       {"669d", 3},   {"fa", 3},          {"fb", 3},     {"0f01cb", 3},
    {"ec", 3},         {"ef", 3},       {"6c", 3},     {"f36e", 3},        {"0f22c0", 3}, {"0f22d8", 3},
    {"0f22e0", 3},     {"440f22c0", 1}, {"0f23c0", 3}, {"0f23f0", 3},      {"0f23f8", 3}, {"0f21f8", 3},
    {"0f06", 3},       {"0f01f0", 3},   {"0f0138", 3}, {"66 0f388208", 3}, {"0f01d1", 3}, {"0f01f8", 1},
    {"f3480faed0", 1}, {"f30faed8", 1}, {"0f05", 3},   {"0f07", 3},        {"480f07", 1}, {"0f34", 3},
    {"0f35", 3},       {"480f35", 1},   {"0f0110", 3}, {"0f0118", 3},      {"0f0100", 3}, {"e800000000", 5},
    {"c3", 3},         {"c20800", 3},   {"ffd0", 3},   {"ffe0", 3},        {"f4", 3},
};

static u64 random_value(void)
{
    static const u64 odd[] = {0,          ~0ull,      0x800000000000, 0x7fffffffffff, 0xffff800000000000,
                              0xffffffff, 0x80000000, 0xfffffffc,     MEM_SIZE - 3,   0x10000};
    switch (below(5)) {
    case 0:
        return odd[below(ARRAY_LEN(odd))];
    case 1:
        return next_random();
    case 2:
        return 8 * below(GDT_LIMIT / 8 + 2) + below(8);
    case 3:
        return below(MEM_SIZE);
    default:
        return below(64) ? DATA + 8 * below(64) : below(16);
    }
}

static u16 random_selector(void)
{
    return (u16)(8 * below(GDT_LIMIT / 8 + 3) + below(8));
}

/* Some descriptors and gates of chance, some of the good ones left. */
static void scramble(struct harness *h)
{
    for (unsigned at = GDT; at < GDT + GDT_LIMIT; at += 8)
        if (below(4) == 0)
            mem_put(h, at, 8, next_random());
    for (unsigned at = LDT; at < LDT + 0x100; at += 8)
        mem_put(h, at, 8, next_random());
    for (unsigned v = 0; v < 256; v++) {
        static const u8 types[] = {0x8e, 0xee, 0x8f, 0xef, 0x86, 0x85, 0x0e};
        put_gate(h, (u8)v, below(4) ? (u16)S_CODE(0) : random_selector(), random_value(), types[below(7)],
                 (u8)below(8));
    }
    for (unsigned i = 0; i < 64; i++)
        mem_put(h, DATA + 8 * i, 8, below(2) ? random_value() : random_selector() * 0x100000001ull);
    for (unsigned i = 0; i < 8; i++)
        if (below(4) == 0)
            mem_put(h, TSS + 4 + 8 * i, 8, random_value());
    put_call_gate(h, GDT + S_TEST, below(2) ? (u16)S_CODE(below(4)) : random_selector(), random_value(), 0xec,
                  (u8)below(32));
}

static void random_registers(struct harness *h)
{
    struct cpu *c = &h->cpu;
    for (unsigned i = 0; i < CPU_GPRS; i++)
        c->gpr[i] = i == RSP && below(4) ? DATA + 8 * below(60) : random_value();
    if (below(4) == 0)
        cpu_set_rflags(c, (next_random() & 0x3f7fd5 & ~FL_VM) | (c->sysflags & FL_VM));
    if (below(16) == 0)
        c->seg[SEG_TR].limit = below(0x200);
    c->msr.sysenter_cs = random_selector();
    c->msr.star = next_random();
    c->rip = CODE;
}

static void check_record(struct harness *h, const char *hex, u64 seed)
{
    struct error e = {0};
    if (cpu_record.check(&h->cpu, &e) < 0)
        fail_msg("seed %llx: after %s: %s", (unsigned long long)seed, hex, e.msg);
}

/* false: this machine is at its end */
static bool step(struct harness *h, u64 seed)
{
    bool c64 = cpu_code64(&h->cpu);
    unsigned i;
    unsigned mode = c64 ? 1 : h->cpu.seg[SEG_CS].attr & SEG_DB ? 2 | 4 : 2;
    do
        i = below(ARRAY_LEN(forms));
    while (!(forms[i].modes & mode) || (!c64 && strncmp(forms[i].hex, "44", 2) == 0));
    random_registers(h);
    int r = run(h, forms[i].hex);
    check_record(h, forms[i].hex, seed);
    if (r == CPU_FAULT) {
        r = isa_deliver_fault(&h->isa);
        check_record(h, forms[i].hex, seed);
        assert_true(r != CPU_FAULT);
    }
    return r == CPU_OK;
}

/* Real mode, or virtual-8086 mode, with segments of chance. */
static void enter_paragraphs(struct harness *h, bool v86)
{
    struct cpu *c = &h->cpu;
    if (!v86)
        c->cr0 &= ~CR0_PE;
    c->cpl = v86 ? 3 : 0;
    c->sysflags = (c->sysflags & ~FL_VM) | (v86 ? FL_VM : 0);
    for (unsigned i = 0; i <= SEG_GS; i++) {
        isa_segment_paragraph(c, (u16)(next_random() & 0x1fff), &c->seg[i]);
        c->seg[i].limit = v86 || below(4) ? 0xffff : 0xfffff;
        c->seg[i].attr &= ~SEG_G;
    }
    c->idtr = (struct cpu_table){.base = IDT, .limit = 0x7ff};
}

/* Into a ring, or out of protected mode. */
static void random_mode(struct harness *h)
{
    harness_ring(h, below(4));
    if (!cpu_long_mode(&h->cpu) && below(3) == 0)
        enter_paragraphs(h, below(2));
}

static void random_machines(void **state)
{
    const char *env = getenv("ISA_TEST_SEED");
    u64 seed = env ? strtoull(env, NULL, 16) : 0x5eed;
    for (unsigned i = 0; i < MACHINES; i++) {
        struct harness h;
        rng = (seed + i) * 0x9e3779b97f4a7c15ull + 1;
        harness_init(&h, i & 1, i >> 1 & 1);
        check_record(&h, "start", seed);
        scramble(&h);
        h.cpu.cr4 |= below(2) ? CR4_OSXSAVE | CR4_FSGSBASE : 0;
        h.model.cr4_mask |= CR4_VME | CR4_PVI;
        h.cpu.cr4 |= below(2) ? CR4_VME | CR4_PVI : 0;
        h.cpu.seg[SEG_LDTR] =
            (struct cpu_segment){.base = LDT, .limit = 0xff, .attr = SEG_P | DESC_LDT, .selector = S_LDT};
        random_mode(&h);
        for (unsigned n = 0; n < STEPS && step(&h, seed); n++)
            if (below(16) == 0)
                random_mode(&h);
        harness_free(&h);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(random_machines)};
    return cmocka_run_group_tests_name("isa-sys-random", tests, NULL, NULL);
}
