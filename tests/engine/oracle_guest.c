/*
 * Running cases on an engine: a bare struct cpu in long mode at CPL 3, with the address space of oracle.h.
 *
 * Page tables map code, data and one kernel area; the IDT's 32 gates lead to 32 HLTs, so that the engine stops with the
 * exception's number in RIP, its frame on the kernel stack and the address in CR2.
 *
 *   guest-physical   what                       guest-virtual
 *   0x01000          page tables                -
 *   0x10000          code                       ORACLE_CODE     user, read-only
 *   0x20000          data                       ORACLE_DATA     user, not executable; the third page read-only
 *   0x30000          GDT, IDT, TSS, HLTs, stack KERNEL          supervisor
 */
#include "oracle.h"
#include "engine/engine.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_SIZE     (1u << 20)
#define TABLES_GPA   0x1000u
#define CODE_GPA     0x10000u
#define DATA_GPA     0x20000u
#define KERNEL_GPA   0x30000u
#define KERNEL_PAGES 5u
#define KERNEL       0xffffffff80000000ull

/* Inside the kernel area */
#define K_GDT       0x0000u
#define K_IDT       0x1000u
#define K_TSS       0x2000u
#define K_HALTS     0x3000u
#define K_STACK_TOP 0x5000u
#define HALT_STEP   16u

/* Selectors */
#define KERNEL_CS 0x08
#define KERNEL_SS 0x10
#define USER_CS32 0x23
#define USER_SS   0x2b
#define USER_CS   0x33
#define TSS_SEL   0x40

#define PTE_P     BIT(0)
#define PTE_W     BIT(1)
#define PTE_U     BIT(2)
#define PTE_A     BIT(5)
#define PTE_D     BIT(6)
#define PTE_NX    BIT(63)

#define BUDGET    100000 /* instructions: REP counts are small */

struct oracle_guest {
    struct cpu cpu;
    struct guest_mem mem;
    u8 *ram;
    const struct engine_ops *ops;
    struct engine *engine;
    u32 tables; /* the next free one */
    u8 pristine[ORACLE_PATTERNS][ORACLE_DATA_SIZE];
    unsigned stops_shown;
};

/* ---- a machine without devices ---- */

static u32 no_pio_read(void *ctx, u16 port, unsigned size)
{
    return ~0u;
}
static void no_pio_write(void *ctx, u16 port, unsigned size, u32 value)
{
}
static u64 no_mmio_read(void *ctx, struct cpu *c, gpa_t a, unsigned size)
{
    return ~0ull;
}
static void no_mmio_write(void *ctx, struct cpu *c, gpa_t a, unsigned size, u64 value)
{
}
static int no_msr_read(void *ctx, struct cpu *c, u32 index, u64 *value)
{
    return cpu_raise_error(c, VEC_GP, 0);
}
static int no_msr_write(void *ctx, struct cpu *c, u32 index, u64 value)
{
    return cpu_raise_error(c, VEC_GP, 0);
}
static u64 no_tsc(void *ctx, struct cpu *c)
{
    return 0;
}
static u64 no_cr8_read(void *ctx, struct cpu *c)
{
    return 0;
}
static void no_cr8_write(void *ctx, struct cpu *c, u64 value)
{
}
static int no_irq_ack(void *ctx, struct cpu *c)
{
    return -1;
}

static const struct machine_ops no_machine = {
    .pio_read = no_pio_read,
    .pio_write = no_pio_write,
    .mmio_read = no_mmio_read,
    .mmio_write = no_mmio_write,
    .msr_read = no_msr_read,
    .msr_write = no_msr_write,
    .tsc = no_tsc,
    .cr8_read = no_cr8_read,
    .cr8_write = no_cr8_write,
    .irq_ack = no_irq_ack,
};

/* ---- its memory ---- */

static u64 *table_at(struct oracle_guest *g, u64 gpa)
{
    return (u64 *)(void *)(g->ram + gpa);
}

static void map_page(struct oracle_guest *g, u64 va, u64 gpa, u64 flags)
{
    u64 table = TABLES_GPA;
    for (unsigned shift = 39; shift > 12; shift -= 9) {
        u64 *e = &table_at(g, table)[va >> shift & 511];
        if (!*e)
            *e = (TABLES_GPA + PAGE_SIZE * ++g->tables) | PTE_P | PTE_W | PTE_U | PTE_A;
        table = *e & 0xffffff000;
    }
    table_at(g, table)[va >> 12 & 511] = gpa | flags | PTE_P | PTE_A | PTE_D;
}

static void map_all(struct oracle_guest *g)
{
    for (u64 i = 0; i < ORACLE_CODE_SIZE; i += PAGE_SIZE)
        map_page(g, ORACLE_CODE + i, CODE_GPA + i, PTE_U);
    for (u64 i = 0; i < ORACLE_DATA_SIZE; i += PAGE_SIZE)
        map_page(g, ORACLE_DATA + i, DATA_GPA + i, PTE_U | PTE_NX | (i < ORACLE_DATA_RW ? PTE_W : 0));
    for (u64 i = 0; i < KERNEL_PAGES * PAGE_SIZE; i += PAGE_SIZE)
        map_page(g, KERNEL + i, KERNEL_GPA + i, PTE_W);
}

static void fill_kernel(struct oracle_guest *g)
{
    u8 *k = g->ram + KERNEL_GPA;
    u64 *gdt = (u64 *)(void *)(k + K_GDT), tss = KERNEL + K_TSS, rsp0 = KERNEL + K_STACK_TOP;
    gdt[KERNEL_CS / 8] = 0x00af9b000000ffff;
    gdt[KERNEL_SS / 8] = 0x00cf93000000ffff;
    gdt[USER_SS / 8] = 0x00cff3000000ffff;
    gdt[USER_CS32 / 8] = 0x00cffb000000ffff;
    gdt[USER_CS / 8] = 0x00affb000000ffff;
    gdt[TSS_SEL / 8] = 0x67 | (tss & 0xffffff) << 16 | 0x8bull << 40 | (tss >> 24 & 0xff) << 56;
    gdt[TSS_SEL / 8 + 1] = tss >> 32;
    memcpy(k + K_TSS + 4, &rsp0, 8);
    for (unsigned v = 0; v < 32; v++) {
        u64 handler = KERNEL + K_HALTS + v * HALT_STEP;
        u64 *gate = (u64 *)(void *)(k + K_IDT + 16 * v);
        gate[0] = (handler & 0xffff) | KERNEL_CS << 16 | (v == VEC_BP ? 0xeeull : 0x8eull) << 40 |
                  (handler >> 16 & 0xffff) << 48;
        gate[1] = handler >> 32;
        k[K_HALTS + v * HALT_STEP] = 0xf4;
    }
    memset(g->ram + CODE_GPA, 0xcc, ORACLE_CODE_SIZE);
    memcpy(g->ram + DATA_GPA, g->pristine[0], ORACLE_DATA_SIZE);
}

/* ---- its processor ---- */

static struct cpu_segment segment(u16 selector, u32 attr, u64 base)
{
    return (struct cpu_segment){.base = base, .limit = 0xffffffff, .attr = attr, .selector = selector};
}

/* Segments of 16-bit code: no G, no B. */
static void make_narrow(struct cpu_segment *s, u64 base)
{
    s->base = base;
    s->limit = ORACLE_LIMIT16;
    s->attr &= (u32) ~(SEG_G | SEG_DB);
}

static void user_mode(struct cpu *c, enum isa_mode mode)
{
    u32 data = SEG_ACCESSED | SEG_RW | SEG_S | SEG_DPL | SEG_P | SEG_DB | SEG_G;
    u32 code = SEG_ACCESSED | SEG_RW | SEG_CODE | SEG_S | SEG_DPL | SEG_P | SEG_G;
    bool wide = mode == ISA_MODE_64;
    c->cpl = 3;
    c->seg[SEG_CS] = segment(wide ? USER_CS : USER_CS32, code | (wide ? SEG_L : SEG_DB), 0);
    c->seg[SEG_SS] = segment(USER_SS, data, 0);
    c->seg[SEG_DS] = segment(USER_SS, data, 0);
    c->seg[SEG_ES] = segment(USER_SS, data, 0);
    c->seg[SEG_FS] = segment(USER_SS, data, ORACLE_FS_BASE);
    c->seg[SEG_GS] = segment(USER_SS, data, ORACLE_GS_BASE);
    if (mode != ISA_MODE_16)
        return;
    make_narrow(&c->seg[SEG_CS], ORACLE_CODE);
    make_narrow(&c->seg[SEG_SS], ORACLE_DATA);
    make_narrow(&c->seg[SEG_DS], ORACLE_DATA);
    make_narrow(&c->seg[SEG_ES], ORACLE_DATA);
}

static void set_up_cpu(struct oracle_guest *g, const struct cpu_model *model, u64 xcr0)
{
    struct cpu *c = &g->cpu;
    c->model = model;
    cpu_reset(c);
    c->cr0 = CR0_PE | CR0_PG | CR0_WP | CR0_NE | CR0_MP | CR0_ET | CR0_AM;
    c->cr4 = CR4_PAE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT | CR4_OSXSAVE;
    c->cr3 = TABLES_GPA;
    c->efer = EFER_LME | EFER_LMA | EFER_NXE | EFER_SCE;
    c->xcr0 = xcr0;
    c->gdtr = (struct cpu_table){.base = KERNEL + K_GDT, .limit = TSS_SEL + 15};
    c->idtr = (struct cpu_table){.base = KERNEL + K_IDT, .limit = 32 * 16 - 1};
    c->seg[SEG_TR] = segment(TSS_SEL, 0xb | SEG_P, KERNEL + K_TSS);
    c->seg[SEG_TR].limit = 0x67;
    user_mode(c, ISA_MODE_64);
}

static void load_state(struct cpu *c, const struct oracle_state *s)
{
    memcpy(c->gpr, s->gpr, sizeof(c->gpr));
    c->rip = s->rip;
    cpu_set_rflags(c, s->rflags);
    memcpy(c->fpu.fx, s->fx, sizeof(s->fx));
    memcpy(c->fpu.k, s->k, sizeof(s->k));
    memcpy(c->fpu.zmm, s->zmm, sizeof(s->zmm));
    c->halted = c->shadow = 0;
    c->cr2 = 0;
}

/* What is behind the exception: the HLT that was reached tells its vector, the stack holds the rest. */
static void store_state(const struct oracle_guest *g, struct oracle_result *r)
{
    const struct cpu *c = &g->cpu;
    u64 frame[6];
    u64 sp = c->gpr[RSP] - KERNEL;

    memcpy(r->out.gpr, c->gpr, sizeof(r->out.gpr));
    memcpy(r->out.fx, c->fpu.fx, sizeof(r->out.fx));
    memcpy(r->out.k, c->fpu.k, sizeof(r->out.k));
    memcpy(r->out.zmm, c->fpu.zmm, sizeof(r->out.zmm));
    r->vector = (u8)((c->rip - 1 - KERNEL - K_HALTS) / HALT_STEP);
    if (sp > K_STACK_TOP - 40 || sp < K_STACK_TOP - 48) {
        r->hung = 1;
        return;
    }
    memcpy(frame, g->ram + KERNEL_GPA + sp, K_STACK_TOP - sp);
    const u64 *f = frame;
    if (sp == K_STACK_TOP - 48)
        r->error = (u32)*f++;
    r->out.rip = f[0];
    r->out.rflags = f[2];
    r->out.gpr[RSP] = f[3];
    r->cr2 = r->vector == VEC_PF ? c->cr2 : 0;
}

/* ---- cases ---- */

#define DEADLINE 20 /* seconds for a case: an engine that does not come back shall say with what */

static u64 case_at_work; /* for the handler alone */

static void on_alarm(int sig)
{
    char text[80];
    int len = snprintf(text, sizeof(text), "\n# case %llu: the engine does not come back\n",
                       (unsigned long long)case_at_work);
    ssize_t n = write(1, text, (size_t)len);
    _exit(n > 0 ? 2 : 3);
}

static void write_code(struct oracle_guest *g, const struct oracle_case *c, bool clear)
{
    static const u8 int3s[ORACLE_MAX_CODE] = {[0 ... ORACLE_MAX_CODE - 1] = 0xcc};
    u32 n = MIN(c->code_len, ORACLE_CODE_SIZE - c->code_off);
    mem_write(&g->mem, GPA(CODE_GPA + c->code_off), clear ? int3s : c->code, n);
}

static void run_case(struct oracle_guest *g, const struct oracle_case *c, struct oracle_result *r)
{
    u8 *data = g->ram + DATA_GPA;
    struct stop stop;

    memset(r, 0, sizeof(*r));
    write_code(g, c, false);
    mem_write(&g->mem, GPA(DATA_GPA), g->pristine[c->pattern], ORACLE_DATA_RW);
    if (c->plant_addr)
        memcpy(data + (c->plant_addr + oracle_data_base(c->mode) - ORACLE_DATA), &c->plant_value, 8);
    user_mode(&g->cpu, c->mode);
    load_state(&g->cpu, &c->in);
    g->ops->run(g->engine, &g->cpu, BUDGET, &stop);
    if (stop.kind == STOP_HALT) {
        store_state(g, r);
    } else {
        r->hung = 1;
        if (g->stops_shown++ < 10)
            printf("# case %llu: the engine stopped: kind %d, %s\n", (unsigned long long)c->seed, stop.kind, stop.text);
    }
    r->memory = oracle_hash(data, g->pristine[c->pattern]);
    write_code(g, c, true);
}

void oracle_guest_run(struct oracle_guest *g, const struct oracle_case *cases, u32 count, struct oracle_result *results)
{
    signal(SIGALRM, on_alarm);
    for (u32 i = 0; i < count; i++) {
        case_at_work = cases[i].seed;
        alarm(DEADLINE);
        run_case(g, &cases[i], &results[i]);
    }
    alarm(0);
}

const u8 *oracle_guest_data(const struct oracle_guest *g)
{
    return g->ram + DATA_GPA;
}

struct oracle_guest *oracle_guest_start(const struct cpu_model *model, u64 xcr0, const struct engine_ops *ops, u32 test)
{
    struct error e = {0};
    struct oracle_guest *g = aligned_alloc(64, (sizeof(*g) + 63) & ~63ul);
    memset(g, 0, sizeof(*g));
    g->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    struct engine_config cfg = {.mem = &g->mem, .ops = &no_machine, .test = test};
    if (g->ram == MAP_FAILED || mem_init(&g->mem, g->ram, RAM_SIZE, -1, &e) || ops->create(&g->engine, &cfg, &e)) {
        fprintf(stderr, "oracle: %s\n", e.msg);
        exit(1);
    }
    g->ops = ops;
    for (u32 i = 0; i < ORACLE_PATTERNS; i++)
        oracle_pattern(i, g->pristine[i]);
    map_all(g);
    fill_kernel(g);
    set_up_cpu(g, model, xcr0);
    return g;
}

void oracle_guest_stats(const struct oracle_guest *g, struct engine_stats *out)
{
    *out = (struct engine_stats){0};
    g->ops->stats(g->engine, out);
}

void oracle_guest_stop(struct oracle_guest *g)
{
    g->ops->destroy(g->engine);
    mem_destroy(&g->mem);
    munmap(g->ram, RAM_SIZE);
    free(g);
}
