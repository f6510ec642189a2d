/*
 * What engines tell of the code at an address: each instruction's place, bytes and treatment, under both engines; that an
 * address inside a block finds it; that asking executes and changes nothing.
 */
#include "engine/engine.h"
#include "machine/cpu/cpuid.h"
#include "machine/mem/mem.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define RAM_SIZE (4u << 20)
#define CODE     0x10000u
#define OTHER    0x12000u
#define PML4     0x100000u
#define PRESENT  3u /* and writable */
#define LARGE    0x80u

struct fix {
    const struct engine_ops *ops;
    struct engine *engine;
    struct cpu *c;
    struct cpu_model model;
    struct guest_mem mem;
};

static const struct {
    u8 len, bytes[4];
    u8 how; /* under bt */
} code[] = {
    {3, {0x48, 0x8b, 0x03}, HOW_MEMORY},       /* mov (%rbx), %rax */
    {1, {0x50}, HOW_STACK},                    /* push %rax */
    {3, {0x48, 0x01, 0xd8}, HOW_COPIED},       /* add %rbx, %rax */
    {3, {0x48, 0x01, 0xd1}, HOW_RENAMED},      /* add %rdx, %rcx */
    {2, {0x74, 0x02}, HOW_JUMP},               /* jz */
    {1, {0xfa}, HOW_SYSTEM},                   /* cli */
    {1, {0x90}, HOW_NOTHING},                  /* nop */
    {2, {0xf3, 0xa4}, HOW_CALLOUT},            /* rep movsb */
    {2, {0x0f, 0xa2}, HOW_CALLOUT},            /* cpuid */
    {4, {0x0f, 0xba, 0x23, 0x05}, HOW_MEMORY}, /* btl $5, (%rbx) */
    {2, {0xff, 0xe0}, HOW_INDIRECT},           /* jmp *%rax */
};
#define N ARRAY_LEN(code)

static void put64(struct fix *f, u64 at, u64 value)
{
    memcpy(f->mem.ram + at, &value, sizeof(value));
}

/* 64-bit mode, ring 0, the lowest 2 MiB mapped one to one. */
static void start_cpu(struct fix *f)
{
    put64(f, PML4, (PML4 + 0x1000) | PRESENT);
    put64(f, PML4 + 0x1000, (PML4 + 0x2000) | PRESENT);
    put64(f, PML4 + 0x2000, PRESENT | LARGE);
    f->c = aligned_alloc(64, (sizeof(struct cpu) + 63) & ~63ul);
    memset(f->c, 0, sizeof(*f->c));
    f->c->model = &f->model;
    cpu_reset(f->c);
    f->c->cr0 = CR0_PE | CR0_PG | CR0_WP;
    f->c->cr4 = CR4_PAE;
    f->c->efer = EFER_LME | EFER_LMA;
    f->c->cr3 = PML4;
    f->c->cpl = 0;
    f->c->seg[SEG_CS].attr = SEG_L | SEG_CODE | SEG_P;
    f->c->rip = CODE;
    f->c->gpr[RBX] = 0x20000;
    f->c->gpr[RSP] = 0x30000;
}

static int setup(void **state, const char *engine)
{
    static const struct machine_ops ops;
    struct error e = {0};
    struct fix *f = calloc(1, sizeof(*f));
    u8 *ram = aligned_alloc(PAGE_SIZE, RAM_SIZE), *p = ram + CODE;
    memset(ram, 0, RAM_SIZE);
    for (unsigned i = 0; i < N; p += code[i++].len)
        memcpy(p, code[i].bytes, code[i].len);
    assert_int_equal(mem_init(&f->mem, ram, RAM_SIZE, -1, NULL), 0);
    assert_int_equal(cpu_model_make(&f->model, "host", 1000000000, 1, &e), 0);
    start_cpu(f);
    f->ops = engine_find(engine);
    assert_non_null(f->ops);
    if (f->ops->usable && !f->ops->usable(NULL))
        f->ops = engine_find("interp");
    struct engine_config cfg = {.mem = &f->mem, .ops = &ops};
    assert_int_equal(f->ops->create(&f->engine, &cfg, &e), 0);
    *state = f;
    return 0;
}

static int setup_bt(void **state)
{
    return setup(state, "bt");
}

static int setup_interp(void **state)
{
    return setup(state, "interp");
}

static int teardown(void **state)
{
    struct fix *f = *state;
    f->ops->destroy(f->engine);
    free(f->mem.ram);
    mem_destroy(&f->mem);
    free(f->c);
    free(f);
    return 0;
}

static void check_instructions(const struct engine_explain *x, bool translated)
{
    u64 rip = CODE;
    u32 from = 0;
    for (unsigned i = 0; i < x->n; i++) {
        const struct engine_explain_insn *insn = &x->insn[i];
        assert_int_equal(insn->rip, rip);
        assert_int_equal(insn->len, code[i].len);
        assert_memory_equal(insn->bytes, code[i].bytes, code[i].len);
        assert_true(insn->code_off >= from && insn->code_off + insn->code_len <= x->code_bytes);
        if (translated) {
            assert_int_equal(insn->how, code[i].how);
            assert_int_equal(insn->code_len != 0, code[i].how != HOW_NOTHING);
        }
        from = insn->code_off + insn->code_len;
        rip += insn->len;
    }
}

static void block(void **state)
{
    struct fix *f = *state;
    static struct engine_explain x;
    bool bt = strcmp(f->ops->name, "bt") == 0;
    assert_int_equal(f->ops->explain(f->engine, f->c, CODE, &x), 0);
    assert_int_equal(x.start, CODE);
    assert_true(bt ? x.n == N : x.n >= 5); /* the interpreter's blocks end at jumps */
    check_instructions(&x, bt);
}

static void inside(void **state)
{
    struct fix *f = *state;
    static struct engine_explain x;
    assert_int_equal(f->ops->explain(f->engine, f->c, CODE, &x), 0);
    u64 third = x.insn[2].rip;
    assert_int_equal(f->ops->explain(f->engine, f->c, third, &x), 0);
    bool found = false;
    for (unsigned i = 0; i < x.n; i++)
        found |= x.insn[i].rip == third;
    assert_true(found);
}

/* A forward jump that is always taken leads on within its block; so does one without a condition. */
static void follows_jumps(void **state)
{
    static const u8 loop[] = {
        0x85, 0xc0,       /* test %eax, %eax */
        0x74, 0x03,       /* jz   +3: EAX is 0 */
        0x48, 0xff, 0xc3, /* inc  %rbx */
        0xeb, 0x02,       /* jmp  +2: the target of jz */
        0x0f, 0x0b,       /* ud2 */
        0x48, 0xff, 0xc2, /* inc  %rdx */
        0xff, 0xc9,       /* dec  %ecx */
        0x75, 0xee,       /* jnz  to the start */
        0xf4,             /* hlt */
    };
    static const u8 offsets[] = {0, 2, 7, 11, 14, 16}, lengths[] = {2, 2, 2, 3, 2, 2};
    struct fix *f = *state;
    static struct engine_explain x;
    struct stop stop;
    memcpy(f->mem.ram + OTHER, loop, sizeof(loop));
    f->c->rip = OTHER;
    f->c->gpr[RAX] = f->c->gpr[RBX] = f->c->gpr[RDX] = 0;
    f->c->gpr[RCX] = 1000;
    f->ops->run(f->engine, f->c, 100000, &stop);
    assert_int_equal(f->c->rip, OTHER + sizeof(loop));
    assert_int_equal(f->c->gpr[RBX], 0);
    assert_int_equal(f->c->gpr[RDX], 1000);
    assert_int_equal(f->ops->explain(f->engine, f->c, OTHER, &x), 0);
    assert_int_equal(x.start, OTHER);
    assert_int_equal(x.n, ARRAY_LEN(offsets));
    for (unsigned i = 0; i < x.n; i++) {
        assert_int_equal(x.insn[i].rip, OTHER + offsets[i]);
        assert_int_equal(x.insn[i].len, lengths[i]);
        assert_memory_equal(x.insn[i].bytes, loop + offsets[i], lengths[i]);
    }
}

static void nowhere(void **state)
{
    struct fix *f = *state;
    static struct engine_explain x;
    assert_int_equal(f->ops->explain(f->engine, f->c, 0x40000000, &x), -ENOENT); /* not mapped */
    assert_int_equal(f->ops->explain(f->engine, f->c, 1ull << 63, &x), -ENOENT); /* not canonical */
}

static void changes_nothing(void **state)
{
    struct fix *f = *state;
    static struct engine_explain x;
    struct engine_stats before, after;
    struct cpu *copy = aligned_alloc(64, (sizeof(struct cpu) + 63) & ~63ul);
    u8 *ram = malloc(RAM_SIZE);
    memcpy(copy, f->c, sizeof(*copy));
    memcpy(ram, f->mem.ram, RAM_SIZE);
    f->ops->stats(f->engine, &before);
    assert_int_equal(f->ops->explain(f->engine, f->c, CODE, &x), 0);
    f->ops->stats(f->engine, &after);
    assert_memory_equal(copy, f->c, sizeof(*copy));
    assert_memory_equal(ram, f->mem.ram, RAM_SIZE);
    assert_int_equal(before.instructions, after.instructions);
    assert_int_equal(before.monitor, after.monitor);
    assert_int_equal(before.exceptions, after.exceptions);
    free(ram);
    free(copy);
}

#define TEST(name, setup_)                               \
    {                                                    \
#name ": " #setup_, name, setup_, teardown, NULL \
    }

int main(void)
{
    const struct CMUnitTest tests[] = {
        TEST(block, setup_bt),      TEST(inside, setup_bt),          TEST(follows_jumps, setup_bt),
        TEST(nowhere, setup_bt),    TEST(changes_nothing, setup_bt), TEST(block, setup_interp),
        TEST(inside, setup_interp), TEST(nowhere, setup_interp),     TEST(changes_nothing, setup_interp),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
