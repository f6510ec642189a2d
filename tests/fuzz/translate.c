/*
 * Code of the input's making on two engines: bt against interp (or, where there is no bt, interp by blocks against interp by
 * single instructions). After each slice the CPUs must be equal, at the end memory, too.
 *
 *   input: mode, seed of registers, seed of slices and interrupts, then code
 *
 *   guest-virtual        guest-physical
 *   0x10000000  CODE     0x10000  2 pages: writable and executable, so that code may change itself
 *   0x11000000  ALIAS    0x10000  the same, not executable
 *   0x20000000  DATA     0x20000  4 pages; then 1 read-only
 *   0xfffff000           0x38000  2 pages, the second of which is beyond 32 bits
 *   0                    0x3a000  a page
 *   KERNEL               0x30000  GDT, IDT, TSS, handlers, stack: supervisor
 *
 * A handler lets the program go on one byte behind the instruction that faulted, so that an input is used up whatever it
 * holds.
 */
#include "../engines.h"
#include "../same_cpu.h"
#include "fuzz.h"
#include "isa/decode.h"
#include "machine/cpu/cpuid.h"
#include "machine/cpu/msr.h"
#include "machine/time/clock.h"

#define RAM_SIZE     MEM_MIN_SIZE
#define TABLES_GPA   0x1000u
#define CODE         0x10000000ull
#define CODE_GPA     0x10000u
#define CODE_PAGES   2u
#define ALIAS        0x11000000ull
#define DATA         0x20000000ull
#define DATA_GPA     0x20000u
#define DATA_PAGES   5u
#define ENDS_GPA     0x38000u
#define GIB4         0x100000000ull
#define KERNEL       0xffffffff80000000ull
#define KERNEL_GPA   0x30000u
#define KERNEL_PAGES 5u
#define K_GDT        0x0000u
#define K_IDT        0x1000u
#define K_TSS        0x2000u
#define K_HANDLERS   0x3000u
#define K_STACK_TOP  0x5000u
#define KERNEL_CS    0x08
#define KERNEL_SS    0x10
#define KERNEL_CS32  0x18
#define USER_CS32    0x23
#define USER_SS      0x2b
#define USER_CS      0x33
#define TSS_SEL      0x40
#define SLICES       48u
#define FX_FDP       16u /* in an FXSAVE image */

struct side {
    struct cpu cpu;
    struct guest_mem mem;
    const struct engine_ops *ops;
    struct engine *engine;
    struct vclock clock;
    u64 now, answers; /* time and devices: functions of how often they were asked */
    u32 tables;
};

/* --- the machine --- */

static u64 fake_ns(void *ctx)
{
    struct side *s = ctx;
    return s->now += 100;
}
static u64 answer(void *ctx)
{
    struct side *s = ctx;
    return ++s->answers * 0x9e3779b97f4a7c15ull;
}
static u32 pio_read(void *ctx, u16 port, unsigned size)
{
    return (u32)(answer(ctx) >> 32);
}
static void pio_write(void *ctx, u16 port, unsigned size, u32 value)
{
}
static u64 mmio_read(void *ctx, struct cpu *c, gpa_t a, unsigned size)
{
    return answer(ctx);
}
static void mmio_write(void *ctx, struct cpu *c, gpa_t a, unsigned size, u64 value)
{
}
static int msr_read(void *ctx, struct cpu *c, u32 index, u64 *value)
{
    struct side *s = ctx;
    struct cpu_msr_env env = {.clock = &s->clock, .mem = &s->mem};
    return cpu_msr_read(c, index, value, &env);
}
static int msr_write(void *ctx, struct cpu *c, u32 index, u64 value)
{
    struct side *s = ctx;
    struct cpu_msr_env env = {.clock = &s->clock, .mem = &s->mem};
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
    cpu_attention_clear(c, ATTN_INTR);
    return 32;
}
static const struct machine_ops machine = {.pio_read = pio_read,
                                           .pio_write = pio_write,
                                           .mmio_read = mmio_read,
                                           .mmio_write = mmio_write,
                                           .msr_read = msr_read,
                                           .msr_write = msr_write,
                                           .tsc = tsc,
                                           .cr8_read = cr8_read,
                                           .cr8_write = cr8_write,
                                           .irq_ack = irq_ack};

/* --- memory --- */

#define PTE_P  BIT(0)
#define PTE_W  BIT(1)
#define PTE_U  BIT(2)
#define PTE_A  BIT(5)
#define PTE_D  BIT(6)
#define PTE_NX BIT(63)

static void map_pages(struct side *s, u64 va, u64 gpa, unsigned n, u64 flags)
{
    for (unsigned i = 0; i < n; i++, va += PAGE_SIZE, gpa += PAGE_SIZE) {
        u64 table = TABLES_GPA;
        for (unsigned shift = 39; shift > 12; shift -= 9) {
            u64 *e = (u64 *)(void *)(s->mem.ram + table) + (va >> shift & 511);
            if (!*e)
                *e = (TABLES_GPA + PAGE_SIZE * ++s->tables) | PTE_P | PTE_W | PTE_U;
            table = *e & 0xffffff000;
        }
        ((u64 *)(void *)(s->mem.ram + table))[va >> 12 & 511] = gpa | flags | PTE_P;
    }
}

/* Add one to the return address and return. */
static void write_handler(u8 *p, unsigned vector)
{
    static const u8 skip_error[] = {0x48, 0x83, 0xc4, 0x08}, go_on[] = {0x48, 0x83, 0x04, 0x24, 0x01, 0x48, 0xcf};
    bool error = vector == VEC_DF || (vector >= VEC_TS && vector <= VEC_PF) || vector == VEC_AC;
    if (error)
        memcpy(p, skip_error, sizeof(skip_error));
    memcpy(p + (error ? sizeof(skip_error) : 0), go_on, sizeof(go_on));
}

static void fill_kernel(u8 *k)
{
    u64 *gdt = (u64 *)(void *)(k + K_GDT), tss = KERNEL + K_TSS, rsp0 = KERNEL + K_STACK_TOP;
    gdt[KERNEL_CS / 8] = 0x00af9b000000ffff;
    gdt[KERNEL_SS / 8] = 0x00cf93000000ffff;
    gdt[KERNEL_CS32 / 8] = 0x00cf9b000000ffff;
    gdt[USER_SS / 8] = 0x00cff3000000ffff;
    gdt[USER_CS32 / 8] = 0x00cffb000000ffff;
    gdt[USER_CS / 8] = 0x00affb000000ffff;
    gdt[TSS_SEL / 8] = 0x67 | (tss & 0xffffff) << 16 | 0x8bull << 40 | (tss >> 24 & 0xff) << 56;
    gdt[TSS_SEL / 8 + 1] = tss >> 32;
    memcpy(k + K_TSS + 4, &rsp0, 8);
    for (unsigned v = 0; v < 64; v++) {
        u64 handler = KERNEL + K_HANDLERS + v * 16;
        u64 *gate = (u64 *)(void *)(k + K_IDT + 16 * v);
        gate[0] = (handler & 0xffff) | KERNEL_CS << 16 | 0xeeull << 40 | (handler >> 16 & 0xffff) << 48;
        gate[1] = handler >> 32;
        write_handler(k + K_HANDLERS + v * 16, v);
    }
}

static void fill_memory(struct side *s, const u8 *code, size_t len)
{
    u64 v = 1;
    memset(s->mem.ram, 0, RAM_SIZE);
    s->tables = 0;
    map_pages(s, CODE, CODE_GPA, CODE_PAGES, PTE_U | PTE_W);
    map_pages(s, ALIAS, CODE_GPA, CODE_PAGES, PTE_U | PTE_W | PTE_NX);
    map_pages(s, DATA, DATA_GPA, DATA_PAGES - 1, PTE_U | PTE_W | PTE_NX);
    map_pages(s, DATA + (DATA_PAGES - 1) * PAGE_SIZE, DATA_GPA + (DATA_PAGES - 1) * PAGE_SIZE, 1, PTE_U | PTE_NX);
    map_pages(s, GIB4 - PAGE_SIZE, ENDS_GPA, 2, PTE_U | PTE_W | PTE_NX);
    map_pages(s, 0, ENDS_GPA + 2 * PAGE_SIZE, 1, PTE_U | PTE_W | PTE_NX);
    map_pages(s, KERNEL, KERNEL_GPA, KERNEL_PAGES, PTE_W);
    fill_kernel(s->mem.ram + KERNEL_GPA);
    for (u64 i = 0; i < DATA_PAGES * PAGE_SIZE; i += 8, v = v * 6364136223846793005ull + 1)
        memcpy(s->mem.ram + DATA_GPA + i, &v, 8);
    for (u64 i = 0; i < 3 * PAGE_SIZE; i += 8, v = v * 6364136223846793005ull + 1)
        memcpy(s->mem.ram + ENDS_GPA + i, &v, 8);
    memset(s->mem.ram + CODE_GPA, 0xcc, CODE_PAGES * PAGE_SIZE);
    memcpy(s->mem.ram + CODE_GPA, code, MIN(len, CODE_PAGES * PAGE_SIZE));
}

/* --- the processor --- */

static struct cpu_segment segment(u16 selector, u32 attr)
{
    return (struct cpu_segment){.limit = 0xffffffff, .attr = attr, .selector = selector};
}

/* Pointers to where something is, small numbers, anything. */
static u64 register_value(u64 *seed)
{
    static const u64 bases[] = {DATA, DATA + 0xfe0, DATA + 0x3fc0, ALIAS, CODE, KERNEL + 0x4000, 0, 0x10};
    u64 r = *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    return (r >> 60) == 15 ? r : bases[r >> 57 & 7] + (r >> 40 & (r >> 56 & 1 ? 0x7f8 : 0x3f));
}

/* What 32-bit code finds in a register: now and then with something in the half that it does not see. */
static u64 narrow_value(u64 *seed)
{
    static const u64 bases[] = {DATA, DATA + 0xfe0, DATA + 0x3fc0, ALIAS, CODE, GIB4 - 0x20, 0, GIB4 - 0x400};
    u64 r = *seed = *seed * 6364136223846793005ull + 1442695040888963407ull;
    if ((r >> 57) == 127)
        return r;
    return (r >> 60) == 15 ? r >> 32 : bases[r >> 57 & 7] + (r >> 40 & (r >> 56 & 1 ? 0x3f8 : 0x1f));
}

/* mode: 1 supervisor, 2 compatibility mode, 4 AC, 8 DF, 16 TF, 32 NT, 64 IF */
static void fill_cpu(struct side *s, u8 mode, u64 seed)
{
    struct cpu *c = &s->cpu;
    bool user = !(mode & 1), narrow = mode & 2;
    u32 ring = user ? SEG_DPL : 0, data = SEG_ACCESSED | SEG_RW | SEG_S | SEG_P | SEG_DB | SEG_G | ring;
    cpu_reset(c);
    c->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_MP | CR0_ET | CR0_AM;
    c->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    c->cr3 = TABLES_GPA;
    c->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
    c->xcr0 = c->model->xcr0_mask | XCR0_X87;
    c->cpl = user ? 3 : 0;
    c->gdtr = (struct cpu_table){.base = KERNEL + K_GDT, .limit = TSS_SEL + 15};
    c->idtr = (struct cpu_table){.base = KERNEL + K_IDT, .limit = 64 * 16 - 1};
    c->seg[SEG_TR] = segment(TSS_SEL, 0xb | SEG_P);
    c->seg[SEG_TR].base = KERNEL + K_TSS;
    c->seg[SEG_TR].limit = 0x67;
    for (unsigned i = SEG_ES; i <= SEG_GS; i++)
        c->seg[i] = segment(user ? USER_SS : KERNEL_SS, data);
    c->seg[SEG_CS] =
        segment(user     ? narrow ? USER_CS32 : USER_CS
                : narrow ? KERNEL_CS32
                         : KERNEL_CS,
                SEG_ACCESSED | SEG_RW | SEG_CODE | SEG_S | SEG_P | SEG_G | ring | (narrow ? SEG_DB : SEG_L));
    for (unsigned i = 0; i < CPU_GPRS; i++)
        c->gpr[i] = !narrow ? register_value(&seed) : i < 8 ? narrow_value(&seed) : 0;
    c->gpr[RSP] = user || narrow ? DATA + 0x2000 : KERNEL + 0x4800;
    if (narrow && (seed >> 30 & 3) == 0)
        c->gpr[RSP] = seed >> 32 & 1 ? GIB4 - 8 : 8;
    c->gpr[RCX] &= 0xff;
    for (unsigned i = 0; i < 32; i++)
        for (unsigned k = 0; k < 64; k += 8) {
            u64 v = register_value(&seed);
            memcpy(c->fpu.zmm[i].b + k, &v, 8);
        }
    cpu_set_rflags(c, FL_ONE | (seed >> 20 & FL_ARITH) | (mode & 4 ? FL_AC : 0) | (mode & 8 ? FL_DF : 0) |
                          (mode & 16 ? FL_TF : 0) | (mode & 32 ? FL_NT : 0) | (mode & 64 ? FL_IF : 0));
    c->rip = CODE;
}

static void make_side(struct side *s, const struct cpu_model *model, const struct engine_ops *ops, u32 test)
{
    u8 *ram = aligned_alloc(PAGE_SIZE, RAM_SIZE);
    struct engine_config cfg = {
        .mem = &s->mem, .ops = &machine, .ops_ctx = s, .code_cache = 1u << 20, .test = test | ENGINE_TEST_EXACT};
    s->ops = ops;
    FUZZ_CHECK(ram && !mem_init(&s->mem, ram, RAM_SIZE, -1, NULL) && !ops->create(&s->engine, &cfg, NULL));
    s->cpu.model = model;
}

static void begin(struct side *s, const u8 *head, const u8 *code, size_t len)
{
    u64 seed;
    memcpy(&seed, head + 1, 8);
    s->now = s->answers = 0;
    vclock_init(&s->clock, fake_ns, fake_ns, s, 1000000000, 0);
    fill_memory(s, code, len);
    fill_cpu(s, head[0], seed);
    s->ops->state_changed(s->engine, &s->cpu);
}

/* One run: how many steps. */
static u64 run(struct side *s, u64 budget, struct stop *stop)
{
    struct engine_stats before = {0}, after = {0};
    s->ops->stats(s->engine, &before);
    s->ops->run(s->engine, &s->cpu, budget, stop);
    s->ops->stats(s->engine, &after);
    return after.instructions + after.exceptions - before.instructions - before.exceptions;
}

/* Instructions from `rip` on, if they are in CODE, as they stand there now. */
static void show_code(const struct side *s, u64 rip, u64 n)
{
    u64 size = CODE_PAGES * PAGE_SIZE;
    enum isa_mode mode = cpu_code64(&s->cpu) ? ISA_MODE_64 : ISA_MODE_32;
    for (struct isa_insn x; n && rip - CODE < size - ISA_MAX_LEN; n--, rip += x.len) {
        char text[120];
        const u8 *p = s->mem.ram + CODE_GPA + (rip - CODE);
        if (isa_decode(mode, p, ISA_MAX_LEN, &x))
            return;
        isa_format(&x, rip, text, sizeof(text));
        printf("# %llx  ", (unsigned long long)rip);
        for (unsigned i = 0; i < ISA_MAX_LEN; i++)
            i < x.len ? printf("%02x", p[i]) : printf("  ");
        printf("  %s\n", text);
    }
}

static void show_memory(const struct side *a, const struct side *b)
{
    unsigned shown = 0;
    for (u64 at = 0; at < RAM_SIZE && shown < 8; at += 8) {
        u64 x, y;
        memcpy(&x, a->mem.ram + at, 8);
        memcpy(&y, b->mem.ram + at, 8);
        if (x != y && ++shown)
            printf("# [%llx]: A %016llx  B %016llx\n", (unsigned long long)at, (unsigned long long)x,
                   (unsigned long long)y);
    }
}

static void differ(const struct side *a, const struct side *b, const char *what, unsigned slice, u64 rip, u64 n)
{
    char text[4096];
    printf("# %s against %s: %s differ in slice %u, %llu steps from %llx\n", a->ops->name, b->ops->name, what, slice,
           (unsigned long long)n, (unsigned long long)rip);
    cpu_show_difference(&a->cpu, &b->cpu);
    show_memory(a, b);
    show_code(b, rip, n);
    cpu_describe(&b->cpu, text, sizeof(text));
    printf("%s\n", text);
    fflush(stdout);
    abort();
}

/*
 * A translator may mark a page accessed or dirty before an aligned store finds its operand misaligned, or an x87
 * instruction an exception pending; the other way round is wrong.
 */
static void forgive_early(const struct side *a, struct side *b)
{
    const u64 *x = (const u64 *)(const void *)(a->mem.ram + TABLES_GPA);
    u64 *y = (u64 *)(void *)(b->mem.ram + TABLES_GPA);
    for (u64 i = 0; i < (b->tables + 1) * (PAGE_SIZE / 8); i++)
        y[i] |= x[i] & (PTE_A | PTE_D);
}

/* A translator searches for what FDP was, and may find another address of the same memory, or none. */
static void forgive_operand(const struct side *a, struct side *b)
{
    memcpy(b->cpu.fpu.fx + FX_FDP, a->cpu.fpu.fx + FX_FDP, sizeof(u64));
}

static void run_both(struct side *a, struct side *b, u64 seed)
{
    struct stop sa = {0}, sb = {0};
    for (unsigned i = 0; i < SLICES; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        u64 rip = b->cpu.rip;
        u64 n = run(a, 1 + (seed >> 59), &sa), m = run(b, MAX(n, 1u), &sb);
        if (sa.kind == STOP_UNIMPLEMENTED && sb.kind == STOP_BUDGET) /* by the next one, which is no step */
            m += run(b, 1, &sb);
        if (n != m || sa.kind != sb.kind)
            differ(a, b, n != m ? "steps" : "reasons to stop", i, rip, n);
        forgive_operand(a, b);
        if (!cpu_same(&a->cpu, &b->cpu))
            differ(a, b, "CPUs", i, rip, n);
        if (sa.kind != STOP_BUDGET && sa.kind != STOP_REQUEST && sa.kind != STOP_HALT)
            break;
        if ((seed >> 50 & 7) == 0) {
            cpu_attention_set(&a->cpu, ATTN_INTR);
            cpu_attention_set(&b->cpu, ATTN_INTR);
        }
    }
    FUZZ_CHECK(sa.kind != STOP_FAILURE);
    FUZZ_CHECK(cpu_record.check(&a->cpu, NULL) >= 0);
    forgive_early(a, b);
    if (memcmp(a->mem.ram, b->mem.ram, RAM_SIZE))
        differ(a, b, "memories", SLICES, CODE, 0);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    static struct cpu_model model;
    static struct side a, b; /* engines are made once: state_changed makes them forget */
    u8 head[11] = {0};
    if (!a.engine) {
        const struct engine_ops *bt = engine_find("bt");
        FUZZ_CHECK(!cpu_model_make(&model, "host,-rdrand,-rdseed", 1000000000, 1, NULL));
        make_side(&a, &model, bt ? bt : &engine_interp, ENGINE_TEST_EAGER);
        make_side(&b, &model, &engine_interp, ENGINE_TEST_SINGLE);
    }
    memcpy(head, data, MIN(len, sizeof(head)));
    size_t skip = MIN(len, sizeof(head));
    begin(&a, head, data + skip, len - skip);
    begin(&b, head, data + skip, len - skip);
    run_both(&a, &b, (u64)head[9] << 32 | head[10]);
    return 0;
}
