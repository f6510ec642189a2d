/*
 * The table of instruction classes: known encodings, and that no row is dead.
 */
#include "isa/class.h"
#include "machine/cpu/cpuid.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define M16 ISA_MODE_16
#define M32 ISA_MODE_32
#define M64 ISA_MODE_64

static const struct {
    const char *hex;
    enum isa_mode mode;
    enum isa_class cls;
    u32 feature, also;
} known[] = {
    {"4801d8", M64, ISA_INNOCUOUS, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"e800000000", M64, ISA_CONTROL, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"ffd0", M64, ISA_CONTROL, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"ff18", M64, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},   /* call far [rax] */
    {"48ff28", M64, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE}, /* jmp far [rax] */
    {"ff20", M64, ISA_CONTROL, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"9a000000000000", M32, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"cb", M64, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"c3", M64, ISA_CONTROL, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"8ed8", M64, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},     /* mov ds, eax */
    {"8cd8", M64, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},     /* mov eax, ds */
    {"65488b00", M64, ISA_INNOCUOUS, ISA_FEAT_NONE, ISA_FEAT_NONE}, /* an override is no matter of class */
    {"0f20c0", M64, ISA_PRIVILEGED, ISA_FEAT_NONE, ISA_FEAT_NONE},  /* mov rax, cr0 */
    {"0f23f8", M64, ISA_PRIVILEGED, ISA_FEAT_NONE, ISA_FEAT_NONE},  /* mov dr7, rax */
    {"50", M64, ISA_INNOCUOUS, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"0fa0", M64, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE}, /* push fs */
    {"1f", M32, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},   /* pop ds */
    {"a5", M64, ISA_INNOCUOUS, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"6d", M64, ISA_IOPL_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"9c", M64, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"9d", M64, ISA_IOPL_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"fa", M64, ISA_IOPL_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"f4", M64, ISA_PRIVILEGED, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"0f31", M64, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"0f01f9", M64, ISA_SENSITIVE, FEAT(FW_80000001_EDX, 27), ISA_FEAT_NONE}, /* rdtscp */
    {"0fa2", M64, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"0f05", M64, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"0f07", M64, ISA_PRIVILEGED, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"0f01c1", M64, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},         /* vmcall */
    {"0f01d9", M64, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},         /* vmmcall */
    {"0fae00", M64, ISA_SENSITIVE, FEAT(FW_1_EDX, 24), ISA_FEAT_NONE},    /* fxsave */
    {"0fae10", M64, ISA_INNOCUOUS, FEAT(FW_1_EDX, 25), ISA_FEAT_NONE},    /* ldmxcsr */
    {"480fae20", M64, ISA_SENSITIVE, FEAT(FW_1_ECX, 26), ISA_FEAT_NONE},  /* xsave64 */
    {"f3480faec0", M64, ISA_SENSITIVE, FEAT(FW_7_EBX, 0), ISA_FEAT_NONE}, /* rdfsbase */
    {"f30f1efa", M64, ISA_INNOCUOUS, ISA_FEAT_NONE, ISA_FEAT_NONE},       /* endbr64 */
    {"f3480f1ec8", M64, ISA_INNOCUOUS, ISA_FEAT_NONE, ISA_FEAT_NONE},     /* rdsspq: a NOP here */
    {"0f01ee", M64, ISA_UNSUPPORTED, ISA_FEAT_NONE, ISA_FEAT_NONE},       /* rdpkru */
    {"0f0b", M64, ISA_UNSUPPORTED, ISA_FEAT_NONE, ISA_FEAT_NONE},         /* ud2 */
    {"0f01c8", M64, ISA_UNSUPPORTED, ISA_FEAT_NONE, ISA_FEAT_NONE},       /* monitor */
    {"c7f800000000", M64, ISA_UNSUPPORTED, ISA_FEAT_NONE, ISA_FEAT_NONE}, /* xbegin */
    {"0f0fc18e", M64, ISA_UNSUPPORTED, ISA_FEAT_NONE, ISA_FEAT_NONE},     /* 3DNow! */
    {"c4e27849c0", M64, ISA_UNSUPPORTED, ISA_FEAT_NONE, ISA_FEAT_NONE},   /* tilerelease */
    {"f30fbcc1", M64, ISA_INNOCUOUS, ISA_FEAT_NONE, ISA_FEAT_NONE},       /* tzcnt */
    {"c4e278f3c8", M64, ISA_INNOCUOUS, FEAT(FW_7_EBX, 3), ISA_FEAT_NONE}, /* blsr */
    {"62f17c4858c1", M64, ISA_INNOCUOUS, FEAT(FW_7_EBX, 16), ISA_FEAT_NONE},
    {"62f17c0858c1", M64, ISA_INNOCUOUS, FEAT(FW_7_EBX, 16), FEAT(FW_7_EBX, 31)},
    {"62f17d48fcc1", M64, ISA_INNOCUOUS, FEAT(FW_7_EBX, 30), FEAT(FW_7_EBX, 16)}, /* vpaddb zmm */
    {"c4e279dcc1", M64, ISA_INNOCUOUS, FEAT(FW_1_ECX, 25), FEAT(FW_1_ECX, 28)},   /* vaesenc xmm */
    {"37", M32, ISA_INNOCUOUS, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"cd80", M32, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},
    {"c507", M32, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE}, /* lds */
    {"cc", M16, ISA_SENSITIVE, ISA_FEAT_NONE, ISA_FEAT_NONE},
};

static struct isa_insn decode(enum isa_mode mode, const char *hex)
{
    u8 bytes[ISA_MAX_LEN];
    struct isa_insn x;
    size_t n = 0;
    for (const char *p = hex; *p; p += 2) {
        char two[3] = {p[0], p[1], 0};
        bytes[n++] = (u8)strtoul(two, NULL, 16);
    }
    if (isa_decode(mode, bytes, n, &x))
        fail_msg("%s does not decode", hex);
    return x;
}

static void test_known(void **state)
{
    for (size_t i = 0; i < ARRAY_LEN(known); i++) {
        struct isa_insn x = decode(known[i].mode, known[i].hex);
        const char *reason;
        assert_int_equal(isa_classify(&x, &reason), x.cls);
        if (x.cls != known[i].cls || isa_feature(&x) != known[i].feature || isa_feature_also(&x) != known[i].also)
            fail_msg("%s (%s): %s, feature %x, %x", known[i].hex, isa_mnemonic_name(x.mnemonic), isa_class_name(x.cls),
                     isa_feature(&x), isa_feature_also(&x));
        assert_int_equal(x.cls == ISA_INNOCUOUS, reason[0] == 0);
    }
}

static void test_nondeterministic(void **state)
{
    struct isa_insn x = decode(M64, "0fc7f0");
    assert_true(isa_nondeterministic(&x));
    assert_int_equal(x.cls, ISA_INNOCUOUS);
    x = decode(M64, "90");
    assert_false(isa_nondeterministic(&x));
}

static void test_unknown_set(void **state)
{
    struct isa_insn x = decode(M64, "90");
    x.isa_set = 0xffff;
    const char *reason;
    assert_int_equal(isa_classify(&x, &reason), ISA_UNSUPPORTED);
    assert_int_equal(isa_feature(&x), ISA_FEAT_NONE);
    assert_true(reason[0]);
}

/* ---- every row is reachable ---- */

#define MAX_ROWS 512

struct coverage {
    const struct isa_class_row *rows;
    size_t n;
    bool hit[MAX_ROWS];
};

static void cover(struct coverage *c, enum isa_mode mode, const u8 *bytes)
{
    struct isa_insn x;
    const char *reason;
    if (isa_decode(mode, bytes, ISA_MAX_LEN, &x) || x.cls == ISA_INNOCUOUS)
        return;
    isa_classify(&x, &reason);
    for (size_t i = 0; i < c->n; i++)
        if (c->rows[i].mnemonic == x.mnemonic && c->rows[i].reason == reason)
            c->hit[i] = true;
}

/* All ModRM bytes behind all opcodes of one map, with the given bytes in front. */
static void cover_map(struct coverage *c, enum isa_mode mode, const char *front)
{
    size_t n = strlen(front) / 2;
    for (unsigned op = 0; op < 0x10000; op++) {
        u8 b[ISA_MAX_LEN] = {0};
        for (size_t i = 0; i < n; i++) {
            char two[3] = {front[2 * i], front[2 * i + 1], 0};
            b[i] = (u8)strtoul(two, NULL, 16);
        }
        b[n] = (u8)(op >> 8);
        b[n + 1] = (u8)op;
        cover(c, mode, b);
    }
}

static void test_rows(void **state)
{
    static const char *const fronts[] = {"",     "66",   "f2",     "f3",   "48",     "0f",     "660f",   "f20f",
                                         "f30f", "480f", "f3480f", "0f38", "660f38", "f20f38", "f30f38", "480f38"};
    static struct coverage c;
    c.rows = isa_class_rows(&c.n);
    assert_in_range(c.n, 1, MAX_ROWS);
    for (int mode = M16; mode <= M64; mode++)
        for (size_t i = 0; i < ARRAY_LEN(fronts); i++)
            if (mode == M64 || !strstr(fronts[i], "48"))
                cover_map(&c, (enum isa_mode)mode, fronts[i]);
    for (size_t i = 0; i < c.n; i++) {
        assert_true(c.rows[i].reason[0]);
        if (!c.hit[i])
            fail_msg("row %zu (%s, %s) is never reached", i, isa_mnemonic_name(c.rows[i].mnemonic), c.rows[i].reason);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_known),
        cmocka_unit_test(test_nondeterministic),
        cmocka_unit_test(test_unknown_set),
        cmocka_unit_test(test_rows),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
