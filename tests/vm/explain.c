/*
 * Explanations of guest code: what is believed of them, their way through JSON, and the interpreter's own, which must leave
 * guest and engine as they were.
 */
#include "isa/decode.h"
#include "machine/cpu/cpuid.h"
#include "vm/explain.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define SEED 20240611u

static u64 next_random(u64 *s)
{
    *s ^= *s << 13;
    *s ^= *s >> 7;
    *s ^= *s << 17;
    return *s * 0x2545f4914f6cdd1dull;
}

/* As full as one can be. */
static void make_full(struct engine_explain *x)
{
    u64 seed = SEED;
    *x = (struct engine_explain){.address = 0xffffffff81000004ull,
                                 .start = 0xffffffff81000000ull,
                                 .code_address = 0x7fffffff0000ull,
                                 .n = EXPLAIN_INSNS,
                                 .code_bytes = EXPLAIN_CODE,
                                 .cpl = 3,
                                 .links = 255,
                                 .exits = 255};
    for (u32 i = 0; i < x->code_bytes; i++)
        x->code[i] = (u8)next_random(&seed);
    for (u32 i = 0; i < x->n; i++) {
        struct engine_explain_insn *n = &x->insn[i];
        *n = (struct engine_explain_insn){.rip = x->start + 15ull * i,
                                          .len = (u8)(1 + i % 15),
                                          .mode = (u8)(i % 3),
                                          .how = (u8)(i % HOW_COUNT),
                                          .code_off = 8 + 120 * i,
                                          .code_len = i % 3 ? 100 : 0};
        for (unsigned k = 0; k < n->len; k++)
            n->bytes[k] = (u8)next_random(&seed);
    }
}

static void names(void **state)
{
    char name[EXPLAIN_HOW_NAME], other[EXPLAIN_HOW_NAME];
    for (int i = 0; i < HOW_COUNT; i++) {
        explain_how_name((enum engine_how)i, name);
        assert_true(strlen(name) > 2);
        assert_non_null(explain_how_text((enum engine_how)i));
        for (int k = 0; k < i; k++)
            assert_string_not_equal(name, explain_how_name((enum engine_how)k, other));
    }
    assert_string_equal(explain_how_name(HOW_COPIED, name), "copied");
}

static void addresses(void **state)
{
    static const struct {
        const char *text;
        int result;
        u64 value;
    } rows[] = {
        {"0", 0, 0},
        {"0x0", 0, 0},
        {"ffffffff81000000", 0, 0xffffffff81000000ull},
        {"0xFFFFffff81000000", 0, 0xffffffff81000000ull},
        {"0X10", 0, 16},
        {"0xffffffffffffffff", 0, UINT64_MAX},
        {"0x10000000000000000", -EINVAL, 0},
        {"00000000000000001", -EINVAL, 0},
        {"", -EINVAL, 0},
        {"0x", -EINVAL, 0},
        {"-1", -EINVAL, 0},
        {"+1", -EINVAL, 0},
        {" 1", -EINVAL, 0},
        {"1 ", -EINVAL, 0},
        {"0x0x1", -EINVAL, 0},
        {"g", -EINVAL, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        u64 v = 0;
        print_message("address \"%s\"\n", rows[i].text);
        assert_int_equal(explain_address(rows[i].text, &v), rows[i].result);
        assert_int_equal(v, rows[i].value);
    }
}

static void through_json(void **state)
{
    struct engine_explain *x = malloc(sizeof(*x)), *y = malloc(sizeof(*y));
    struct error e = {0};
    make_full(x);
    assert_int_equal(explain_check(x, &e), 0);
    for (int round = 0; round < 2; round++) {
        json_t *j = explain_to_json(x);
        char *text = json_dumps(j, JSON_COMPACT);
        assert_non_null(text);
        assert_in_range(strlen(text), 1, 60000); /* a line of the control socket has 65536 */
        memset(y, 0xa5, sizeof(*y));
        assert_int_equal(explain_from_json(y, j, &e), 0);
        assert_memory_equal(x, y, sizeof(*x));
        free(text);
        json_decref(j);
        *x = (struct engine_explain){.address = 1, .start = 1}; /* and an empty one */
    }
    free(x);
    free(y);
}

/* One wrong thing at a time, each by itself. */
#define BAD(statement)                                    \
    do {                                                  \
        struct error e = {0};                             \
        make_full(x);                                     \
        statement;                                        \
        if (explain_check(x, &e) != -EPROTO || !e.msg[0]) \
            fail_msg("believed: %s", #statement);         \
    } while (0)

static void lies_are_refused(void **state)
{
    struct engine_explain *x = malloc(sizeof(*x));
    BAD(x->n = EXPLAIN_INSNS + 1);
    BAD(x->n = UINT32_MAX);
    BAD(x->code_bytes = EXPLAIN_CODE + 1);
    BAD(x->code_bytes = UINT32_MAX);
    BAD(x->code_bytes = 200);
    BAD(x->cpl = 4);
    BAD(x->exits = 254);
    BAD(x->insn[0].len = 0);
    BAD(x->insn[63].len = 16);
    BAD(x->insn[1].mode = ISA_MODE_64 + 1);
    BAD(x->insn[1].how = HOW_COUNT);
    BAD(x->insn[1].how = 255);
    BAD(x->insn[1].code_off = EXPLAIN_CODE + 1);
    BAD(x->insn[1].code_off = UINT32_MAX);
    BAD(x->insn[1].code_len = UINT32_MAX);
    BAD(x->insn[1].code_len = 0 - x->insn[1].code_off);
    BAD(x->insn[62].code_len = EXPLAIN_CODE);
    BAD(x->insn[2].code_off = x->insn[1].code_off); /* twice the same code */
    BAD(x->insn[2].code_off = 0);
    free(x);
}

/* Whatever bytes: it is refused, or it is the same behind JSON. */
static void noise(void **state)
{
    struct engine_explain *x = malloc(sizeof(*x)), *y = malloc(sizeof(*y));
    u64 seed = SEED;
    unsigned good = 0;
    for (unsigned i = 0; i < 3000; i++) {
        make_full(x);
        for (unsigned k = next_random(&seed) % 3; k < 3; k++)
            ((u8 *)x)[next_random(&seed) % offsetof(struct engine_explain, code)] ^=
                (u8)(1u << (next_random(&seed) >> 61));
        if (explain_check(x, NULL) < 0)
            continue;
        json_t *j = explain_to_json(x);
        assert_int_equal(explain_from_json(y, j, NULL), 0);
        json_decref(j);
        assert_int_equal(y->n, x->n);
        assert_memory_equal(x->code, y->code, x->code_bytes);
        good++;
    }
    assert_in_range(good, 1, 2999);
    free(x);
    free(y);
}

static void wrong_json(void **state)
{
    static const char *const texts[] = {
        "{}",
        "[]",
        "{\"address\":\"0x1\"}",
        "{\"address\":1,\"start\":\"1\",\"code_address\":\"0\",\"cpl\":0,\"links\":0,\"exits\":0,\"code\":\"\","
        "\"instructions\":[]}",
        "{\"address\":\"1\",\"start\":\"1\",\"code_address\":\"0\",\"cpl\":256,\"links\":0,\"exits\":0,\"code\":\"\","
        "\"instructions\":[]}",
        "{\"address\":\"1\",\"start\":\"1\",\"code_address\":\"0\",\"cpl\":0,\"links\":1,\"exits\":0,\"code\":\"\","
        "\"instructions\":[]}",
        "{\"address\":\"1\",\"start\":\"1\",\"code_address\":\"0\",\"cpl\":0,\"links\":0,\"exits\":0,\"code\":\"0\","
        "\"instructions\":[]}",
        "{\"address\":\"1\",\"start\":\"1\",\"code_address\":\"0\",\"cpl\":0,\"links\":0,\"exits\":0,\"code\":\"0x\","
        "\"instructions\":[]}",
        "{\"address\":\"1\",\"start\":\"1\",\"code_address\":\"0\",\"cpl\":0,\"links\":0,\"exits\":0,\"code\":\"\","
        "\"instructions\":[1]}",
        "{\"address\":\"1\",\"start\":\"1\",\"code_address\":\"0\",\"cpl\":0,\"links\":0,\"exits\":0,\"code\":\"\","
        "\"instructions\":[{\"rip\":\"1\",\"bits\":64,\"bytes\":\"90\",\"how\":\"magic\",\"code_offset\":0,"
        "\"code_length\":0}]}",
        "{\"address\":\"1\",\"start\":\"1\",\"code_address\":\"0\",\"cpl\":0,\"links\":0,\"exits\":0,\"code\":\"\","
        "\"instructions\":[{\"rip\":\"1\",\"bits\":64,\"bytes\":\"90\",\"how\":\"copied\",\"code_offset\":-1,"
        "\"code_length\":0}]}",
    };
    struct engine_explain *x = malloc(sizeof(*x));
    for (size_t i = 0; i < ARRAY_LEN(texts); i++) {
        struct error e = {0};
        json_t *j = json_loads(texts[i], 0, NULL);
        assert_non_null(j);
        if (explain_from_json(x, j, &e) != -EPROTO)
            fail_msg("believed: %s", texts[i]);
        assert_true(e.msg[0]);
        json_decref(j);
    }
    free(x);
}

/* --- the interpreter's --- */

#define RAM   (2u << 20)
#define TABLE 0x1000u
#define CODE  0x10000u
#define VA    0x7f0000400000ull

static const struct machine_ops no_board; /* nothing runs */

struct rig {
    struct guest_mem mem;
    struct cpu *cpu;
    struct cpu_model model;
    struct engine *engine;
    struct engine_explain x;
};

/* 64-bit code at CPL 3; three pages at VA, of which the third is not there; no accessed bit is set yet. */
static int setup(void **state)
{
    struct rig *g = calloc(1, sizeof(*g));
    struct engine_config cfg = {.mem = &g->mem, .ops = &no_board};
    u8 *ram = aligned_alloc(PAGE_SIZE, RAM);
    struct error e = {0};
    memset(ram, 0, RAM);
    g->cpu = aligned_alloc(64, (sizeof(struct cpu) + 63) & ~63ul);
    memset(g->cpu, 0, sizeof(*g->cpu));
    if (mem_init(&g->mem, ram, RAM, -1, &e) || cpu_model_make(&g->model, "host", 1000000000, 1, &e) ||
        engine_interp.create(&g->engine, &cfg, &e))
        fail_msg("%s", e.msg);
    struct cpu *c = g->cpu;
    c->model = &g->model;
    cpu_reset(c);
    c->cr0 = CR0_PE | CR0_PG | CR0_ET | CR0_NE;
    c->cr4 = CR4_PAE;
    c->efer = EFER_LME | EFER_LMA;
    c->cr3 = TABLE;
    c->seg[SEG_CS].attr = 0xa0fb;
    c->cpl = 3;
    for (u64 i = 0; i < 3; i++) {
        u64 next = (TABLE + 0x1000 * (i + 1)) | 7;
        memcpy(ram + TABLE + 0x1000 * i + 8 * (VA >> (39 - 9 * i) & 511), &next, 8);
    }
    for (u64 i = 0; i < 2; i++) {
        u64 page = (CODE + 0x1000 * i) | 7;
        memcpy(ram + TABLE + 0x3000 + 8 * ((VA >> 12 & 511) + i), &page, 8);
    }
    *state = g;
    return 0;
}

static int teardown(void **state)
{
    struct rig *g = *state;
    engine_interp.destroy(g->engine);
    free(g->mem.ram);
    mem_destroy(&g->mem);
    free(g->cpu);
    free(g);
    return 0;
}

static void put(struct rig *g, u32 at, const char *bytes, size_t n)
{
    memcpy(g->mem.ram + CODE + at, bytes, n);
}
#define PUT(g, at, bytes) put(g, at, bytes, sizeof(bytes) - 1)

static int explain(struct rig *g, u64 va)
{
    int r = engine_interp.explain(g->engine, g->cpu, va, &g->x);
    if (r == 0)
        assert_int_equal(explain_check(&g->x, NULL), 0);
    return r;
}

static void kinds_of_instructions(void **state)
{
    struct rig *g = *state;
    static const struct {
        u8 len, how;
    } want[] = {{3, HOW_DECODED}, {3, HOW_NATIVE}, {1, HOW_DECODED}, {1, HOW_MONITOR}};
    PUT(g, 0, "\x48\x89\xe5\x0f\x58\xc1\x90\x9d\x48\x89\xe5"); /* mov; addps; nop; popf; mov */
    assert_int_equal(explain(g, VA), 0);
    assert_int_equal(g->x.n, ARRAY_LEN(want));
    assert_int_equal(g->x.start, VA);
    assert_int_equal(g->x.cpl, 3);
    assert_int_equal(g->x.code_bytes, 0);
    u64 rip = VA;
    for (size_t i = 0; i < ARRAY_LEN(want); i++) {
        assert_int_equal(g->x.insn[i].rip, rip);
        assert_int_equal(g->x.insn[i].len, want[i].len);
        assert_int_equal(g->x.insn[i].how, want[i].how);
        assert_int_equal(g->x.insn[i].mode, ISA_MODE_64);
        assert_memory_equal(g->x.insn[i].bytes, g->mem.ram + CODE + (rip - VA), want[i].len);
        rip += want[i].len;
    }
    PUT(g, 0x100, "\xeb\xfe");
    assert_int_equal(explain(g, VA + 0x100), 0);
    assert_int_equal(g->x.n, 1);
    assert_int_equal(g->x.insn[0].how, HOW_DECODED);
}

static void ends_of_blocks(void **state)
{
    struct rig *g = *state;
    memset(g->mem.ram + CODE, 0x90, 0x2000);
    assert_int_equal(explain(g, VA), 0); /* as long as a block gets */
    assert_in_range(g->x.n, 2, EXPLAIN_INSNS);
    assert_int_equal(explain(g, VA + 0xffd), 0); /* to the end of page */
    assert_int_equal(g->x.n, 3);
    PUT(g, 0xffe, "\x48\xb8\x01\x02\x03\x04\x05\x06\x07\x08"); /* mov rax, imm64 over the page end: a block by itself */
    assert_int_equal(explain(g, VA + 0xffd), 0);
    assert_int_equal(g->x.n, 1);
    assert_int_equal(explain(g, VA + 0xffe), 0);
    assert_int_equal(g->x.n, 1);
    assert_int_equal(g->x.insn[0].len, 10);
    PUT(g, 0x1ffe, "\x48\xb8"); /* into the page that is not there */
    assert_int_equal(explain(g, VA + 0x1ffe), 0);
    assert_int_equal(g->x.n, 0);
    PUT(g, 0x100, "\x90\x06"); /* no such instruction in 64-bit mode */
    assert_int_equal(explain(g, VA + 0x100), 0);
    assert_int_equal(g->x.n, 1);
    assert_int_equal(explain(g, VA + 0x101), 0);
    assert_int_equal(g->x.n, 0);
}

static void what_is_not_there(void **state)
{
    struct rig *g = *state;
    assert_int_equal(explain(g, VA + 0x2000), -ENOENT);
    assert_int_equal(explain(g, 0), -ENOENT);
    assert_int_equal(explain(g, UINT64_MAX), -ENOENT);
    assert_int_equal(explain(g, BIT(63)), -ENOENT);
    g->cpu->cr0 &= ~CR0_PG; /* beyond memory */
    g->cpu->efer = 0;
    assert_int_equal(explain(g, 0xfee00000), -ENOENT);
}

static void mode_of_the_code(void **state)
{
    struct rig *g = *state;
    PUT(g, 0, "\x40\x90\xeb\xfe"); /* inc eax; nop; jmp */
    g->cpu->cr0 &= ~CR0_PG;
    g->cpu->efer = 0;
    g->cpu->cpl = 0;
    g->cpu->seg[SEG_CS] = (struct cpu_segment){.base = 0x8000, .limit = 0xffffffff, .attr = 0xc09b};
    assert_int_equal(explain(g, CODE), 0);
    assert_int_equal(g->x.n, 3);
    assert_int_equal(g->x.insn[0].mode, ISA_MODE_32);
    assert_int_equal(g->x.insn[0].rip, CODE - 0x8000);
    assert_int_equal(g->x.insn[0].len, 1);
}

static void nothing_changes(void **state)
{
    struct rig *g = *state;
    struct engine_stats before, after;
    struct cpu *c = aligned_alloc(64, (sizeof(*c) + 63) & ~63ul);
    u8 *ram = malloc(RAM);
    PUT(g, 0, "\x48\x89\xe5\x0f\x58\xc1\x9d");
    memcpy(c, g->cpu, sizeof(*c));
    memcpy(ram, g->mem.ram, RAM);
    engine_interp.stats(g->engine, &before);
    assert_int_equal(explain(g, VA), 0);
    assert_int_equal(explain(g, VA + 0x2000), -ENOENT);
    engine_interp.stats(g->engine, &after);
    assert_memory_equal(&before, &after, sizeof(before));
    assert_memory_equal(c, g->cpu, sizeof(*c));
    assert_memory_equal(ram, g->mem.ram, RAM);
    assert_int_equal(g->mem.trace[CODE >> PAGE_SHIFT], 0);
    free(ram);
    free(c);
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(names),
        cmocka_unit_test(addresses),
        cmocka_unit_test(through_json),
        cmocka_unit_test(lies_are_refused),
        cmocka_unit_test(noise),
        cmocka_unit_test(wrong_json),
        T(kinds_of_instructions),
        T(ends_of_blocks),
        T(what_is_not_there),
        T(mode_of_the_code),
        T(nothing_changes),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
