/*
 * The eBPF program that cgroup version 2 runs for device rules, against the rules read plainly. It runs here in an
 * interpreter of the few instructions that it is made of, so that a host without cgroup version 2 can test it.
 */
#include "container/cgroup.h"

#include <linux/bpf.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

/* The plain reading: the last rule that matches decides. */
static bool allowed(const struct spec_device_rule *rules, size_t n, char type, u32 access, u32 major, u32 minor)
{
    while (n--) {
        u32 bits = 0;
        for (const char *p = rules[n].access; *p; p++)
            bits |= *p == 'r' ? 2 : *p == 'w' ? 4 : 1;
        bool fits = (rules[n].type == 'a' || rules[n].type == type) &&
                    (rules[n].major < 0 || rules[n].major == major) && (rules[n].minor < 0 || rules[n].minor == minor);
        if (fits && (rules[n].allow ? !(access & ~bits) : access & bits))
            return rules[n].allow;
    }
    return false;
}

static u64 run(const struct bpf_insn *code, size_t n, const u32 ctx[3])
{
    u64 reg[11] = {0};
    for (size_t pc = 0; pc < n; pc++) {
        const struct bpf_insn *i = &code[pc];
        u64 operand = BPF_SRC(i->code) == BPF_X ? reg[i->src_reg] : (u64)(s64)i->imm;
        switch (BPF_CLASS(i->code)) {
        case BPF_LDX:
            reg[i->dst_reg] = ctx[i->off / 4];
            break;
        case BPF_ALU:
        case BPF_ALU64: {
            u64 v = BPF_OP(i->code) == BPF_MOV   ? operand
                    : BPF_OP(i->code) == BPF_AND ? reg[i->dst_reg] & operand
                                                 : (u32)reg[i->dst_reg] >> operand;
            reg[i->dst_reg] = BPF_CLASS(i->code) == BPF_ALU ? (u32)v : v;
            break;
        }
        case BPF_JMP:
            if (BPF_OP(i->code) == BPF_EXIT)
                return reg[0];
            if ((BPF_OP(i->code) == BPF_JNE) == (reg[i->dst_reg] != operand))
                pc += (size_t)i->off;
            break;
        default:
            fail_msg("instruction %zu: class %d", pc, BPF_CLASS(i->code));
        }
    }
    fail_msg("the program has no end");
    return 0;
}

static void check(const struct spec_device_rule *rules, size_t n)
{
    static const u32 numbers[] = {0, 1, 3, 5, 136, 1u << 20};
    size_t length;
    struct bpf_insn *code = cgroup_device_code(rules, n, &length);
    assert_non_null(code);
    for (int type = 0; type < 2; type++)
        for (u32 access = 1; access < 8; access++)
            for (size_t a = 0; a < ARRAY_LEN(numbers); a++)
                for (size_t b = 0; b < ARRAY_LEN(numbers); b++) {
                    u32 ctx[3] = {access << 16 | (type ? BPF_DEVCG_DEV_CHAR : BPF_DEVCG_DEV_BLOCK), numbers[a],
                                  numbers[b]};
                    bool wanted = allowed(rules, n, type ? 'c' : 'b', access, numbers[a], numbers[b]);
                    assert_int_equal(run(code, length, ctx), wanted);
                }
    free(code);
}

static void test_plain(void **state)
{
    static const struct spec_device_rule rules[] = {{false, 'a', -1, -1, "rwm"},
                                                    {true, 'c', 1, 3, "rwm"},
                                                    {true, 'c', 5, -1, "r"},
                                                    {true, 'b', -1, -1, "m"},
                                                    {false, 'c', 5, 1, "w"}};
    for (size_t n = 0; n <= ARRAY_LEN(rules); n++)
        check(rules, n);
}

static void test_everything_allowed(void **state)
{
    static const struct spec_device_rule rules[] = {
        {false, 'c', 1, 3, "rwm"}, {true, 'a', -1, -1, "rwm"}, {false, 'b', 3, -1, "w"}};
    check(rules, ARRAY_LEN(rules));
}

static void test_random(void **state)
{
    static const char *const access[] = {"r", "w", "m", "rw", "rm", "wm", "rwm"};
    u64 x = 88172645463325252ull; /* fixed: the same every time */
    for (int round = 0; round < 200; round++) {
        struct spec_device_rule rules[12];
        size_t n = (size_t)round % ARRAY_LEN(rules);
        for (size_t i = 0; i < n; i++) {
            x ^= x << 13, x ^= x >> 7, x ^= x << 17;
            rules[i] = (struct spec_device_rule){x & 1, "abc"[(x >> 8) % 3], (x >> 16) & 1 ? -1 : (s64)((x >> 20) & 3),
                                                 (x >> 24) & 1 ? -1 : (s64)((x >> 28) & 3),
                                                 access[(x >> 32) % ARRAY_LEN(access)]};
        }
        check(rules, n);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_plain), cmocka_unit_test(test_everything_allowed),
                                       cmocka_unit_test(test_random)};
    return cmocka_run_group_tests_name("container-device-program", tests, NULL, NULL);
}
