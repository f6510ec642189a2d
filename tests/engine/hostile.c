/*
 * Guests that mean harm: random bytes as code, page tables, descriptor tables and task state, at every privilege level, in long
 * mode, protected mode with each kind of paging, virtual-8086 and real mode. Whatever they do, the engine comes back, and leaves
 * a CPU whose record passes its own check.
 *
 *   test-engine-hostile [--count N] [--seed S] [--engine NAME] [--test LIST]
 *
 * Switches: single, nolink, evict (../engines.h). Each guest is made from one seed, printed when something is wrong.
 */
#include "../engines.h"
#include "machine/cpu/cpuid.h"
#include "machine/cpu/msr.h"
#include "machine/time/clock.h"

#define RAM_SIZE (4u << 20)

struct rng {
    u64 s;
};
static u64 next(struct rng *r)
{
    r->s ^= r->s << 13;
    r->s ^= r->s >> 7;
    r->s ^= r->s << 17;
    return r->s * 0x2545f4914f6cdd1dull;
}
static u64 below(struct rng *r, u64 n)
{
    return next(r) % n;
}

struct guest {
    struct guest_mem mem;
    struct cpu *cpu;
    struct cpu_model model;
    const struct engine_ops *ops;
    struct engine *engine;
    struct vclock clock;
    struct rng rng;
    u64 now;
};

/* --- the machine around the CPU: answers at random, interrupts at random --- */

static u64 fake_ns(void *ctx)
{
    struct guest *g = ctx;
    return g->now += 100;
}
static u32 pio_read(void *ctx, u16 port, unsigned size)
{
    return (u32)next(&((struct guest *)ctx)->rng);
}
static void pio_write(void *ctx, u16 port, unsigned size, u32 value)
{
}
static u64 mmio_read(void *ctx, struct cpu *c, gpa_t a, unsigned size)
{
    return next(&((struct guest *)ctx)->rng);
}
static void mmio_write(void *ctx, struct cpu *c, gpa_t a, unsigned size, u64 value)
{
}
static struct cpu_msr_env msr_env(struct guest *g)
{
    return (struct cpu_msr_env){.clock = &g->clock, .mem = &g->mem};
}
static int msr_read(void *ctx, struct cpu *c, u32 index, u64 *value)
{
    struct cpu_msr_env env = msr_env(ctx);
    return cpu_msr_read(c, index, value, &env);
}
static int msr_write(void *ctx, struct cpu *c, u32 index, u64 value)
{
    struct cpu_msr_env env = msr_env(ctx);
    return cpu_msr_write(c, index, value, &env);
}
static u64 tsc(void *ctx, struct cpu *c)
{
    return fake_ns(ctx);
}
static u64 cr8_read(void *ctx, struct cpu *c)
{
    return c->cr8;
}
static void cr8_write(void *ctx, struct cpu *c, u64 value)
{
    c->cr8 = value & 15;
}
static int irq_ack(void *ctx, struct cpu *c)
{
    struct guest *g = ctx;
    cpu_attention_clear(c, ATTN_INTR);
    return (int)(16 + below(&g->rng, 240));
}
static const struct machine_ops ops = {.pio_read = pio_read,
                                       .pio_write = pio_write,
                                       .mmio_read = mmio_read,
                                       .mmio_write = mmio_write,
                                       .msr_read = msr_read,
                                       .msr_write = msr_write,
                                       .tsc = tsc,
                                       .cr8_read = cr8_read,
                                       .cr8_write = cr8_write,
                                       .irq_ack = irq_ack};

/* --- making a guest --- */

/* First bytes of instructions that matter, so that random code does more than fault at once. */
static const u8 openings[][4] = {
    {0x0f, 0x01},
    {0x0f, 0x00},
    {0x0f, 0x20},
    {0x0f, 0x22},
    {0x0f, 0x30},
    {0x0f, 0x32},
    {0x0f, 0x05},
    {0x0f, 0x07},
    {0x48, 0x0f, 0x07},
    {0xcf},
    {0x48, 0xcf},
    {0xcb},
    {0xff},
    {0xea},
    {0x8e},
    {0x0f, 0xa1},
    {0xcd},
    {0xcc},
    {0xf4},
    {0xfa},
    {0xfb},
    {0x9d},
    {0x9c},
    {0x0f, 0xae},
    {0x0f, 0xc7},
    {0xf3, 0xa4},
    {0xf3, 0xaa},
    {0x6c},
    {0x6e},
    {0xec},
    {0xee},
    {0x0f, 0x01, 0xf8},
    {0x66, 0x0f},
    {0xc5},
    {0x62},
    {0xd9},
    {0xdd},
    {0x0f, 0x38},
    {0xf0, 0x0f},
    {0x0f, 0x23},
    {0x9a},
    {0x66, 0xcf},
    {0x66, 0x9d},
    {0x67, 0xa4},
    {0x0f, 0x22, 0xd8},
    {0x0f, 0x22, 0xc0},
    {0x0f, 0x22, 0xe0},
    {0x1f},
    {0x17},
    {0xc4},
};

static void fill_code(struct guest *g, u8 *p, size_t len)
{
    for (size_t i = 0; i < len;) {
        if (below(&g->rng, 3)) {
            const u8 *o = openings[below(&g->rng, ARRAY_LEN(openings))];
            for (unsigned k = 0; k < 4 && o[k] && i < len; k++)
                p[i++] = o[k];
        }
        for (unsigned k = 0, n = (unsigned)below(&g->rng, 5); k < n && i < len; k++)
            p[i++] = (u8)next(&g->rng);
    }
}

/* Four levels that map most of RAM onto itself, with bits spoiled here and there. */
static void fill_tables(struct guest *g)
{
    u64 *t[4];
    for (int i = 0; i < 4; i++) {
        t[i] = (u64 *)(void *)(g->mem.ram + 0x1000 * (i + 1));
        for (unsigned k = 0; k < 512; k++)
            t[i][k] = i < 3 ? (u64)(0x1000 * (i + 2)) | 7 : (u64)k << 12 | 7;
    }
    for (unsigned n = (unsigned)below(&g->rng, below(&g->rng, 4) ? 12 : 200); n; n--) {
        u64 *e = &t[below(&g->rng, 4)][below(&g->rng, 512)];
        *e = below(&g->rng, 2) ? *e ^ 1ull << below(&g->rng, 64) : next(&g->rng);
    }
}

/* Attributes, limit and base that a descriptor can give: with G the limit ends in ones, without it has 20 bits. */
static void random_segment(struct guest *g, struct cpu_segment *s, u32 attr)
{
    bool big = below(&g->rng, 3);
    s->selector = (u16)next(&g->rng);
    s->attr = attr | (big ? (u32)SEG_G : 0);
    s->limit = big ? (u32)next(&g->rng) | 0xfff : (u32)below(&g->rng, 0x100000);
    s->base = below(&g->rng, 3) ? 0 : below(&g->rng, RAM_SIZE);
    if (big && below(&g->rng, 3))
        s->limit = 0xffffffff;
}

static void fill_cpu(struct guest *g)
{
    struct cpu *c = g->cpu;
    struct rng *r = &g->rng;
    cpu_reset(c);
    c->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE | (below(r, 2) ? CR0_WP : 0) | (below(r, 2) ? CR0_AM : 0);
    c->cr4 = (CR4_PAE | CR4_OSFXSR | CR4_OSXSAVE | CR4_PGE |
              (next(r) & (CR4_SMEP | CR4_SMAP | CR4_UMIP | CR4_DE | CR4_FSGSBASE))) &
             (g->model.cr4_mask | CR4_PAE);
    c->xcr0 = g->model.xcr0_mask | XCR0_X87;
    c->efer = EFER_LME | EFER_LMA | (below(r, 4) ? EFER_SCE | EFER_NXE : 0);
    c->cr3 = 0x1000;
    c->cpl = (u8)(below(r, 2) ? 0 : below(r, 4));
    static const u32 kinds[CPU_SEGS] = {0x4093, 0, 0x4093, 0x4093, 0x4093, 0x4093, 0x82, 0x8b};
    for (unsigned i = 0; i < CPU_SEGS; i++)
        random_segment(g, &c->seg[i], kinds[i]);
    random_segment(g, &c->seg[SEG_CS], 0x9b | (u32)c->cpl << SEG_DPL_SHIFT | (below(r, 4) ? 0x2000u : 0x4000u));
    c->seg[SEG_SS].attr |= (u32)c->cpl << SEG_DPL_SHIFT;
    c->seg[SEG_CS].selector = (u16)(8 | c->cpl);
    c->seg[SEG_SS].selector = (u16)(16 | c->cpl);
    c->gdtr.base = 0x10000 + (below(r, 8) ? 48 * below(r, 50) : below(r, 0x1000));
    c->gdtr.limit = below(r, 8) ? 0xfff : (u16)next(r);
    c->idtr.base = 0x20000 + (below(r, 8) ? 0 : below(r, 0x100));
    c->idtr.limit = below(r, 8) ? 0xfff : (u16)next(r);
    if (below(r, 8)) {
        c->seg[SEG_TR].base = 0x30000;
        c->seg[SEG_TR].limit = 0x2fff;
        c->seg[SEG_TR].attr = 0x8b;
    }
    for (unsigned i = 0; i < CPU_GPRS; i++)
        c->gpr[i] = below(r, 4) ? below(r, RAM_SIZE) : next(r);
    cpu_set_rflags(c, (next(r) & (FL_ARITH | FL_DF | FL_IF | FL_AC | FL_NT | FL_IOPL)) | (below(r, 16) ? 0 : FL_TF));
    c->rip = 0x40000 + below(r, 0x10000);
    if (!below(r, 8)) {
        c->dr[7] = 0x400 | (next(r) & 0xffff00ff);
        for (int i = 0; i < 4; i++)
            c->dr[i] = below(r, RAM_SIZE);
    }
}

/* --- other modes --- */

enum kind { LONG, PROTECTED, V86, REAL, KINDS };

/* 8-byte gates: interrupt and trap gates of both sizes, and task gates. */
static void fill_legacy_gates(struct guest *g)
{
    static const u8 types[] = {0x8e, 0x8e, 0x8f, 0xee, 0x86, 0x87, 0x85, 0xe5};
    u8 *idt = g->mem.ram + 0x20000;
    for (unsigned v = 0; v < 256; v++) {
        u64 at = 0x40000 + below(&g->rng, 0x10000), sel = 8 * below(&g->rng, 12);
        u64 gate = (at & 0xffff) | sel << 16 | (u64)types[below(&g->rng, ARRAY_LEN(types))] << 40 | (at >> 16) << 48;
        if (below(&g->rng, 32))
            memcpy(idt + 8 * v, &gate, 8);
    }
}

/* A table of flat and small segments, TSSs of both sizes, call gates and task gates. */
static void fill_legacy_gdt(struct guest *g)
{
    for (unsigned i = 1; i < 256; i++) {
        static const u64 fixed[] = {0x00cf9b000000ffff, 0x00cf93000000ffff, 0x00cffb000000ffff, 0x00cff3000000ffff,
                                    0x00009b000000ffff, 0x000093000000ffff, 0x00008b0300000067, 0x000089030100ffff,
                                    0x000081030200002b, 0x0004ec0000080000, 0x0000e50000400000, 0x0000820100000fff};
        u64 d = fixed[(i - 1) % ARRAY_LEN(fixed)];
        if (!below(&g->rng, 12))
            d ^= 1ull << below(&g->rng, 64);
        if (below(&g->rng, 32))
            memcpy(g->mem.ram + 0x10000 + 8 * i, &d, 8);
    }
}

/* Tasks that mostly could be switched to. */
static void fill_tss(struct guest *g, u32 at)
{
    u32 t[26];
    memcpy(t, g->mem.ram + at, sizeof(t));
    for (unsigned i = 1; i < 7; i += 2) {
        t[i] = 0x80000 + (u32)below(&g->rng, 0x100000);
        t[i + 1] = 0x10;
    }
    t[0] = (u32)below(&g->rng, 32) * 8;
    t[7] = 0x1000;
    t[8] = 0x40000 + (u32)below(&g->rng, 0x10000);
    t[9] = (u32)next(&g->rng) & (FL_ARITH | FL_IF | FL_NT | FL_IOPL | FL_AC | (below(&g->rng, 4) ? 0 : FL_VM));
    t[14] = 0x80000 + (u32)below(&g->rng, 0x100000);
    for (unsigned i = 18; i < 25; i++)
        t[i] = below(&g->rng, 4) ? 0x10 : (u32)below(&g->rng, 32) * 8;
    t[19] = below(&g->rng, 4) ? 8 : 0x1b;
    t[24] = 0;
    t[25] = (below(&g->rng, 8) ? 0u : 1u) | 0x68u << 16;
    memcpy(g->mem.ram + at, t, sizeof(t));
}

/* PAE's directories at 2000h, with the pointers at 1000h; or 32-bit paging's directory at 1000h. One to one, and spoiled. */
static void fill_legacy_tables(struct guest *g, bool pae)
{
    u8 *ram = g->mem.ram;
    for (u64 i = 0; i < 1024; i++) {
        u64 wide = (i << 21) | 0x87;
        u32 narrow = (u32)(i << 22) | 0x87;
        if (pae && i < 512)
            memcpy(ram + 0x2000 + 8 * i, &wide, 8);
        if (!pae)
            memcpy(ram + 0x1000 + 4 * i, &narrow, 4);
    }
    for (u64 i = 0; pae && i < 4; i++) {
        g->cpu->pdpte[i] = 0x2001;
        memcpy(ram + 0x1000 + 8 * i, &g->cpu->pdpte[i], 8);
    }
    for (unsigned n = (unsigned)below(&g->rng, 30); n; n--)
        ram[0x2000 + below(&g->rng, 0x2000)] ^= (u8)BIT(below(&g->rng, 8));
}

static void paragraphs(struct guest *g, bool v86)
{
    struct cpu *c = g->cpu;
    for (unsigned i = 0; i <= SEG_GS; i++) {
        u16 sel = (u16)(i == SEG_CS ? 0x4000 : below(&g->rng, 0xffff));
        bool big = !v86 && !below(&g->rng, 4);
        c->seg[i] = (struct cpu_segment){
            .selector = sel, .base = (u64)sel << 4, .limit = big ? 0xffffffff : 0xffff, .attr = v86 ? 0xf3 : 0x93};
        if (big)
            c->seg[i].attr |= SEG_G | (below(&g->rng, 2) ? SEG_DB : 0);
    }
    if (!v86)
        c->seg[SEG_CS].attr |= SEG_CODE;
    c->rip = below(&g->rng, 0x10000);
}

static void flat_segments(struct guest *g)
{
    struct cpu *c = g->cpu;
    u32 dpl = (u32)c->cpl << SEG_DPL_SHIFT, width = below(&g->rng, 4) ? 0xc000 : 0x8000;
    for (unsigned i = 0; i <= SEG_GS; i++)
        if (below(&g->rng, 8)) {
            c->seg[i].base = 0;
            c->seg[i].limit = 0xffffffff;
            c->seg[i].attr = (i == SEG_CS ? 0x9bu : 0x93u) | dpl | width;
        }
    c->seg[SEG_CS].attr = 0x9b | dpl | width | (c->seg[SEG_CS].attr & SEG_G);
    c->seg[SEG_CS].limit |= c->seg[SEG_CS].attr & SEG_G ? 0xfff : 0;
}

static void fill_legacy(struct guest *g, enum kind kind)
{
    struct cpu *c = g->cpu;
    unsigned paging = kind == REAL ? 0 : (unsigned)below(&g->rng, 3);
    fill_legacy_gates(g);
    fill_legacy_gdt(g);
    for (u32 at = 0x30000; at < 0x30400; at += 0x100)
        fill_tss(g, at);
    c->efer &= EFER_NXE;
    c->cr0 = (c->cr0 & ~(CR0_PG | CR0_PE)) | (kind == REAL ? 0 : CR0_PE) | (paging ? CR0_PG : 0);
    c->cr4 = (c->cr4 & ~CR4_PAE) | (paging == 2 ? CR4_PAE : 0) | (paging == 1 ? CR4_PSE : 0) |
             (next(&g->rng) & (CR4_VME | CR4_PVI));
    fill_legacy_tables(g, paging == 2);
    c->gdtr = (struct cpu_table){.base = 0x10000, .limit = 0x7ff};
    c->idtr = (struct cpu_table){.base = kind == REAL ? 0 : 0x20000, .limit = 0x7ff};
    c->seg[SEG_TR].base = 0x30000;
    c->seg[SEG_TR].selector = 0x38;
    c->seg[SEG_TR].limit = 0x2fff;
    c->seg[SEG_TR].attr = 0x8b;
    for (unsigned i = 0; i < CPU_GPRS; i++)
        c->gpr[i] = (u32)c->gpr[i];
    if (kind == REAL)
        c->cpl = 0;
    if (kind == V86) {
        c->cpl = 3;
        c->sysflags |= FL_VM | (next(&g->rng) & (FL_VIF | FL_VIP));
    }
    if (kind == PROTECTED)
        flat_segments(g);
    else
        paragraphs(g, kind == V86);
}

/* Gates that lead somewhere, so that deliveries succeed often enough. */
static void fill_gates(struct guest *g)
{
    u8 *idt = g->mem.ram + 0x20000;
    for (unsigned v = 0; v < 256; v++) {
        u64 at = 0x40000 + below(&g->rng, 0x10000);
        u64 lo = (at & 0xffff) | 8ull << 16 | (below(&g->rng, 2) ? 0 : below(&g->rng, 8)) << 32 |
                 (0x8eull | below(&g->rng, 4) << 5) << 40 | (at >> 16 & 0xffff) << 48;
        if (below(&g->rng, 32))
            memcpy(idt + 16 * v, &lo, 8), memset(idt + 16 * v + 8, 0, 8);
    }
    for (unsigned at = 4; at < 0x64; at += 8) { /* stack pointers of the task state */
        u64 sp = 0x80000 + below(&g->rng, 0x100000);
        if (below(&g->rng, 8))
            memcpy(g->mem.ram + 0x30000 + at, &sp, 8);
    }
    static const u64 gdt[] = {
        0, 0x00af9b000000ffff, 0x00cf93000000ffff, 0x00affb000000ffff, 0x00cff3000000ffff, 0x00cf9b000000ffff};
    for (unsigned at = 0; at < 0x1000; at += sizeof(gdt))
        if (below(&g->rng, 16))
            memcpy(g->mem.ram + 0x10000 + at, gdt, sizeof(gdt));
}

static void make_guest(struct guest *g, u64 seed)
{
    g->rng.s = seed * 0x9e3779b97f4a7c15ull + 1;
    for (unsigned i = 0; i < 4; i++)
        next(&g->rng);
    for (size_t i = 0; i < 0x40000; i += 8) {
        u64 v = next(&g->rng);
        memcpy(g->mem.ram + i, &v, 8);
    }
    fill_tables(g);
    fill_gates(g);
    fill_code(g, g->mem.ram + 0x40000, 0x10000);
    fill_cpu(g);
    if (seed % KINDS != LONG)
        fill_legacy(g, (enum kind)(seed % KINDS));
}

static int run_one(struct guest *g, u64 seed, unsigned counts[STOP_KIND_COUNT])
{
    make_guest(g, seed);
    struct error e = {0};
    if (cpu_record.check(g->cpu, &e) < 0) {
        printf("seed %llu: the CPU to begin with can not be: %s\n", (unsigned long long)seed, e.msg);
        return 1;
    }
    g->ops->state_changed(g->engine, g->cpu);
    struct stop s = {0};
    for (unsigned slice = 0; slice < 20; slice++) {
        g->ops->run(g->engine, g->cpu, 200, &s);
        if (s.kind == STOP_SHUTDOWN || s.kind == STOP_UNIMPLEMENTED || s.kind == STOP_FAILURE)
            break;
        if (below(&g->rng, 2))
            cpu_attention_set(g->cpu, ATTN_INTR);
        if (!below(&g->rng, 8)) {
            g->cpu->nmi_pending = 1;
            cpu_attention_set(g->cpu, ATTN_NMI);
        }
    }
    counts[s.kind]++;
    if (s.kind == STOP_FAILURE) {
        printf("seed %llu: the engine failed: %s\n", (unsigned long long)seed, s.text);
        return 1;
    }
    if (cpu_record.check(g->cpu, &e) < 0) {
        printf("seed %llu: the CPU that is left can not be: %s\n", (unsigned long long)seed, e.msg);
        return 1;
    }
    return 0;
}

/*
 * Repeated instructions that would take minutes must come back when the budget is used up, also where they go element by
 * element, and also while an interrupt waits that can't be taken.
 */
static int repeat_comes_back(struct guest *g, u8 opcode, u64 flags, bool waiting)
{
    struct stop s = {0};
    struct cpu *c = g->cpu;
    make_guest(g, KINDS);
    cpu_reset(c);
    for (unsigned i = 0; i < 4; i++) /* every address is some RAM */
        for (u64 k = 0; k < 512; k++) {
            u64 e = i < 3 ? (0x1000 * (i + 2)) | 7 : k << 12 | 7;
            memcpy(g->mem.ram + 0x1000 * (i + 1) + 8 * k, &e, 8);
        }
    c->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
    c->cr4 = CR4_PAE;
    c->efer = EFER_LME | EFER_LMA;
    c->cr3 = 0x1000;
    c->seg[SEG_CS].attr = 0xa09b;
    c->seg[SEG_CS].selector = 8;
    cpu_set_rflags(c, FL_ONE | flags);
    c->rip = 0x40000;
    memcpy(g->mem.ram + 0x40000, (const u8[]){0xf3, opcode, 0xf4}, 3);
    c->gpr[RSI] = c->gpr[RDI] = 0x7f0000100000; /* compared with itself */
    u64 left = c->gpr[RCX] = 1ull << 25;
    if (waiting)
        cpu_attention_set(c, ATTN_INTR);
    g->ops->state_changed(g->engine, c);
    for (unsigned slice = 0; slice < 3; slice++) {
        g->ops->run(g->engine, c, 1000, &s);
        if (s.kind != STOP_BUDGET || c->gpr[RCX] >= left || left - c->gpr[RCX] > 1u << 20) {
            printf("repeated %02x, flags %llx, %s: stop %d, %llu of %llu left\n", opcode, (unsigned long long)flags,
                   waiting ? "interrupt waiting" : "quiet", s.kind, (unsigned long long)c->gpr[RCX],
                   (unsigned long long)left);
            return 1;
        }
        left = c->gpr[RCX];
    }
    cpu_attention_clear(c, ATTN_INTR);
    return 0;
}

static unsigned repeats_come_back(struct guest *g)
{
    static const u8 opcodes[] = {0xa4, 0xac, 0xa6};
    unsigned bad = 0;
    for (unsigned i = 0; i < 4 * ARRAY_LEN(opcodes); i++)
        bad += (unsigned)repeat_comes_back(g, opcodes[i / 4], i & 1 ? FL_DF : 0, i & 2);
    return bad;
}

static const char *option(int argc, char **argv, const char *name, const char *value)
{
    for (int i = 1; i + 1 < argc; i++)
        if (!strcmp(argv[i], name))
            value = argv[i + 1];
    return value;
}

static u64 number(int argc, char **argv, const char *name, const char *value)
{
    return strtoull(option(argc, argv, name, value), NULL, 0);
}

int main(int argc, char **argv)
{
    u64 count = number(argc, argv, "--count", "2000"), first = number(argc, argv, "--seed", "1");
    u32 test = ENGINE_TEST_EAGER | test_switches(option(argc, argv, "--test", ""));
    static struct guest g;
    struct error e = {0};
    unsigned counts[STOP_KIND_COUNT] = {0}, bad = 0;
    u8 *ram = aligned_alloc(PAGE_SIZE, RAM_SIZE);
    memset(ram, 0, RAM_SIZE);
    vclock_init(&g.clock, fake_ns, fake_ns, &g, 1000000000, 0);
    g.cpu = aligned_alloc(64, (sizeof(struct cpu) + 63) & ~63ul);
    memset(g.cpu, 0, sizeof(*g.cpu));
    struct engine_config cfg = {.mem = &g.mem, .ops = &ops, .ops_ctx = &g, .code_cache = 1u << 20, .test = test};
    g.ops = test_engine(option(argc, argv, "--engine", "interp"));
    if (mem_init(&g.mem, ram, RAM_SIZE, -1, &e) || cpu_model_make(&g.model, "host", 1000000000, 1, &e) ||
        g.ops->create(&g.engine, &cfg, &e)) {
        printf("setup: %s\n", e.msg);
        return 1;
    }
    g.cpu->model = &g.model;
    bad = repeats_come_back(&g);
    for (u64 seed = first; seed < first + count && bad < 10; seed++)
        bad += (unsigned)run_one(&g, seed, counts);
    static const char *const names[] = {
#define X(kind, name) name,
        STOP_KINDS(X)
#undef X
    };
    printf("%llu guests:", (unsigned long long)count);
    for (unsigned i = 0; i < STOP_KIND_COUNT; i++)
        if (counts[i])
            printf(" %u %s,", counts[i], names[i]);
    printf(" %u wrong\n", bad);
    g.ops->destroy(g.engine);
    mem_destroy(&g.mem);
    free(g.cpu);
    free(ram);
    return bad != 0;
}
