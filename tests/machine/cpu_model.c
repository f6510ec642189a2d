/*
 * CPU models and CPUID: on the host in front of us, and on hosts invented here (an AMD one, and ones that lack things).
 */
#include "machine/cpu/cpu_features.h"
#include "machine/cpu/msr.h"

#include <cpuid.h>
#include <setjmp.h>
#include <stdarg.h>
#include <string.h>
#include <cmocka.h>

#define TSC_HZ 2345678901ull

static struct cpu_model model;
static struct cpu cpu;

static void make(const char *spec, unsigned cpus)
{
    struct error e = {0};
    if (cpu_model_make(&model, spec, TSC_HZ, cpus, &e) < 0)
        fail_msg("%s", e.msg);
    cpu.model = &model;
    cpu.id = 0;
    cpu_reset(&cpu);
}

/* --- invented hosts ---------------------------------------------------------------------------------------------- */

/* A host as a list of leaves; what is not there is zero. */
struct fake {
    struct cpuid_leaf leaf[24];
    unsigned n;
};

static struct cpuid_regs fake_cpuid(void *ctx, u32 leaf, u32 subleaf)
{
    const struct fake *f = ctx;
    for (unsigned i = 0; i < f->n; i++)
        if (f->leaf[i].leaf == leaf && f->leaf[i].subleaf == subleaf)
            return f->leaf[i].r;
    return (struct cpuid_regs){0};
}

/* A processor with every feature bit set: whatever is hidden is hidden by the model. */
static const struct fake amd = {
    .leaf = {{0, 0, {0x10, 0x68747541, 0x444d4163, 0x69746e65}},
             {1, 0, {0x00a20f10, 0x00200800, 0xffffffff, 0xffffffff}},
             {7, 0, {2, 0xffffffff, 0xffffffff, 0xffffffff}},
             {7, 1, {0xffffffff, 0, 0, 0}},
             {7, 2, {0, 0, 0, 0xffffffff}},
             {0xd, 1, {0xffffffff, 0, 0, 0}},
             {0x80000000, 0, {0x80000023, 0x68747541, 0x444d4163, 0x69746e65}},
             {0x80000001, 0, {0x00a20f10, 0, 0xffffffff, 0xffffffff}},
             {0x80000002, 0, {0x20444d41, 0x656b6146, 0, 0}},
             {0x80000007, 0, {0, 0, 0, 0xffffffff}},
             {0x80000008, 0, {0x3030, 0xffffffff, 0, 0}},
             {0x8000001d, 0, {0x4000121, 0x1c0003f, 0x3f, 0}},
             {0x8000001d, 1, {0x4000122, 0x1c0003f, 0x3f, 0}},
             {0x8000001d, 2, {0x4000143, 0x1c0003f, 0x3ff, 2}},
             {0x8000001d, 3, {0x403c163, 0x3c0003f, 0x7fff, 1}},
             {0x80000021, 0, {0xffffffff, 0, 0, 0}}},
    .n = 16,
};

static struct cpu_host host_of(const struct fake *f, u64 xcr0)
{
    return (struct cpu_host){.cpuid = fake_cpuid, .ctx = (void *)(uintptr_t)f, .xcr0 = xcr0, .mxcsr_mask = 0x2ffff};
}

static int make_on(const struct fake *f, u64 xcr0, const char *spec, unsigned cpus, struct error *e)
{
    struct cpu_host h = host_of(f, xcr0);
    *e = (struct error){0};
    int r = cpu_model_make_for(&model, &h, spec, TSC_HZ, cpus, e);
    cpu.model = &model;
    cpu.id = 0;
    if (r == 0)
        cpu_reset(&cpu);
    return r;
}

/* --- invariants -------------------------------------------------------------------------------------------------- */

static bool in_leaf(const struct cpu_feature_row *r)
{
    static const struct {
        u32 leaf, subleaf, reg;
    } place[CPU_FEATURE_WORDS] = {{1, 0, 2},          {1, 0, 3},          {7, 0, 1},          {7, 0, 2},
                                  {7, 0, 3},          {7, 1, 0},          {7, 2, 3},          {0xd, 1, 0},
                                  {0x80000001, 0, 2}, {0x80000001, 0, 3}, {0x80000007, 0, 3}, {0x80000008, 0, 1},
                                  {0x80000021, 0, 0}, {0x40000001, 0, 0}};
    unsigned w = r->feature / 32;
    struct cpuid_regs v = cpu_cpuid(&cpu, place[w].leaf, place[w].subleaf);
    const u32 regs[4] = {v.eax, v.ebx, v.ecx, v.edx};
    return regs[place[w].reg] >> r->feature % 32 & 1;
}

/* What the table promises about every bit of the model in `model`, `host` being CPUID of its host. */
static void check_features(struct cpuid_regs (*host)(void *, u32, u32), void *ctx)
{
    size_t n;
    u32 known[CPU_FEATURE_WORDS] = {0};
    const struct cpu_feature_row *rows = cpu_feature_rows(&n);
    cpu.seg[SEG_CS].attr |= SEG_L; /* 64-bit code: SYSCALL is shown */
    cpu.efer |= EFER_LMA;
    for (size_t i = 0; i < n; i++) {
        const struct cpu_feature_row *r = &rows[i];
        known[r->feature / 32] |= 1u << r->feature % 32;
        bool has = cpu_has(&model, r->feature);
        if (has && r->parent != FEAT_NONE && !cpu_has(&model, r->parent))
            fail_msg("%s without its parent", r->name);
        if (r->kind == CPU_FEATURE_NEVER && has)
            fail_msg("%s is offered", r->name);
        if (r->kind == CPU_FEATURE_BASE && !has)
            fail_msg("%s is missing", r->name);
        if (r->vendor == CPU_FEATURE_AMD && !model.amd && has)
            fail_msg("%s on another vendor's processor", r->name);
        if (r->vendor != CPU_FEATURE_AMD && has != in_leaf(r) && r->feature / 32 != FW_80000021_EAX)
            fail_msg("%s: CPUID and the model disagree", r->name);
    }
    for (unsigned w = 0; w < CPU_FEATURE_WORDS; w++)
        if (model.feature[w] & ~known[w])
            fail_msg("feature word %u: bits %x are in no row", w, model.feature[w] & ~known[w]);
}

static struct cpuid_regs real(void *ctx, u32 leaf, u32 subleaf)
{
    struct cpuid_regs r;
    __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    return r;
}

/* A feature that runs natively is one that this host has. */
static void check_native_features(void)
{
    size_t n;
    const struct cpu_feature_row *rows = cpu_feature_rows(&n);
    for (size_t i = 0; i < n; i++) {
        u32 f = rows[i].feature, leaf = 0, sub = 0;
        if ((rows[i].kind != CPU_FEATURE_HOST && rows[i].kind != CPU_FEATURE_BASE) || !cpu_has(&model, f))
            continue;
        switch (f / 32) {
        case FW_1_ECX:
        case FW_1_EDX:
            leaf = 1;
            break;
        case FW_7_1_EAX:
            sub = 1; /* fall through */
        case FW_7_EBX:
        case FW_7_ECX:
        case FW_7_EDX:
            leaf = 7;
            break;
        case FW_80000001_ECX:
        case FW_80000001_EDX:
            leaf = 0x80000001;
            break;
        default:
            continue;
        }
        /* a few bits of BASE belong to system code that a hypervisor below us may hide */
        if (rows[i].kind == CPU_FEATURE_BASE && f != FEAT_SSE2 && f != FEAT_CX8 && f != FEAT_CMOV && f != FEAT_MMX)
            continue;
        struct cpuid_regs r = real(NULL, leaf, sub);
        u32 v = f / 32 == FW_7_EBX                                                      ? r.ebx
                : f / 32 == FW_1_ECX || f / 32 == FW_7_ECX || f / 32 == FW_80000001_ECX ? r.ecx
                : f / 32 == FW_7_1_EAX                                                  ? r.eax
                                                                                        : r.edx;
        if (!(v >> f % 32 & 1))
            fail_msg("%s is offered, but this host does not have it", rows[i].name);
    }
}

/* Leaf 0Dh: sizes follow XCR0, components do not overlap, the largest is what ECX says. */
static void check_xsave_leaf(void)
{
    struct cpuid_regs all = cpu_cpuid(&cpu, 0xd, 0);
    u64 mask = all.eax | (u64)all.edx << 32;
    assert_int_equal(mask, model.xcr0_mask);
    if (!cpu_has(&model, FEAT_XSAVE))
        return;
    u32 end = 576;
    for (u32 i = 2; i < 63; i++) {
        struct cpuid_regs r = cpu_cpuid(&cpu, 0xd, i);
        assert_int_equal(!!r.eax, mask >> i & 1);
        if (r.eax) {
            assert_true(r.ebx >= end);
            end = r.ebx + r.eax;
        }
    }
    assert_int_equal(all.ecx, end);
    for (u64 x = 0; x < 256; x++) {
        if (!cpu_xcr0_valid(x, mask))
            continue;
        cpu.xcr0 = x;
        u32 std = 576, compact = 576;
        for (u32 i = 2; i < 8; i++) {
            struct cpuid_regs r = cpu_cpuid(&cpu, 0xd, i);
            if (x >> i & 1) {
                std = r.ebx + r.eax;
                compact += r.eax;
            }
        }
        assert_int_equal(cpu_cpuid(&cpu, 0xd, 0).ebx, std);
        assert_int_equal(cpu_xsave_size(x), std);
        assert_int_equal(cpu_cpuid(&cpu, 0xd, 1).ebx, cpu_has(&model, FEAT_XSAVEC) ? compact : 0);
        assert_int_equal(cpu_xsave_compact_size(x), compact);
    }
    cpu.xcr0 = 1;
}

static void test_host(void **state)
{
    make("host", 1);
    check_features(real, NULL);
    check_native_features();
    check_xsave_leaf();
    assert_int_equal(cpu_cpuid(&cpu, 1, 0).eax, real(NULL, 1, 0).eax & 0x0fff3fff);
    struct cpuid_regs v = cpu_cpuid(&cpu, 0, 0), h = real(NULL, 0, 0);
    assert_true(v.ebx == h.ebx && v.ecx == h.ecx && v.edx == h.edx);
    assert_in_range(model.phys_bits, 36, 46);
    assert_int_equal(cpu_cpuid(&cpu, 0x80000008, 0).eax & 0xffff, 48u << 8 | model.phys_bits);
    assert_true(model.cr4_mask & CR4_SMEP && model.cr4_mask & CR4_SMAP && model.cr4_mask & CR4_PCIDE);
    assert_false(model.cr4_mask & (CR4_LA57 | CR4_PKE | BIT(13) | BIT(23)));
    assert_int_equal(model.efer_mask & ~EFER_AUTOIBRS, EFER_SCE | EFER_LME | EFER_NXE);
}

/* The offsets that our guests' XSAVE areas have are the ones that this host's CPUID gives, too. */
static void test_host_offsets(void **state)
{
    make("host", 1);
    for (u32 i = 2; i < 8; i++) {
        struct cpuid_regs v = cpu_cpuid(&cpu, 0xd, i), h = real(NULL, 0xd, i);
        if (v.eax && (v.eax != h.eax || v.ebx != h.ebx))
            print_message("component %u: host has %u bytes at %u, guests %u at %u\n", i, h.eax, h.ebx, v.eax, v.ebx);
        if (v.eax)
            assert_int_equal(v.eax, h.eax);
    }
}

/* Hidden things: performance counters, MWAIT, ranges that are not there. */
static void test_hidden_leaves(void **state)
{
    make("host", 1);
    for (u32 leaf = 0; leaf < 0x17; leaf++) {
        struct cpuid_regs r = cpu_cpuid(&cpu, leaf, 0);
        if (leaf == 5 || leaf == 9 || leaf == 0xa || leaf == 0xf || leaf == 0x10 || leaf == 0x12 || leaf == 0x14)
            assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
    }
    assert_int_equal(cpu_cpuid(&cpu, 6, 0).eax, BIT(2));
    assert_int_equal(cpu_cpuid(&cpu, 0x8000000a, 0).edx, 0);
}

static void test_dynamic_bits(void **state)
{
    make("host", 8);
    cpu.id = 5;
    assert_int_equal(cpu_cpuid(&cpu, 1, 0).ebx >> 24, 5);
    assert_int_equal(cpu_cpuid(&cpu, 1, 0).ebx >> 16 & 0xff, 8);
    assert_int_equal(cpu_cpuid(&cpu, 0xb, 0).edx, 5);
    assert_int_equal(cpu_cpuid(&cpu, 0xb, 0).ecx, 0x100);
    assert_int_equal(cpu_cpuid(&cpu, 0xb, 1).ebx, 8);
    assert_int_equal(cpu_cpuid(&cpu, 0xb, 1).eax, 3);
    assert_int_equal(cpu_cpuid(&cpu, 0xb, 2).ecx, 2);
    assert_int_equal(cpu_cpuid(&cpu, 0xb, 2).edx, 5);
    assert_true(cpu_cpuid(&cpu, 1, 0).edx & BIT(28));
    assert_false(cpu_cpuid(&cpu, 1, 0).ecx & BIT(27));
    cpu.cr4 |= CR4_OSXSAVE;
    assert_true(cpu_cpuid(&cpu, 1, 0).ecx & BIT(27));
    cpu.id = 0;
}

/* 15h: crystal * EBX / EAX, computed as Linux does (32 bits), is the TSC's rate; the crystal is near the APIC's. */
static void check_rate(u64 hz)
{
    static const char *const spec = "host";
    struct error e = {0};
    assert_int_equal(cpu_model_make(&model, spec, hz, 1, &e), 0);
    cpu.model = &model;
    struct cpuid_regs r = cpu_cpuid(&cpu, 0x40000010, 0);
    assert_int_equal(r.eax, hz / 1000);
    assert_int_equal(r.ebx, CPU_APIC_HZ / 1000);
    if (strcmp(model.vendor, "GenuineIntel"))
        return;
    r = cpu_cpuid(&cpu, 0x15, 0);
    assert_in_range(r.ecx, CPU_APIC_HZ - CPU_APIC_HZ / 1000, CPU_APIC_HZ + CPU_APIC_HZ / 1000);
    u64 product = (u64)(r.ecx / 1000) * r.ebx;
    assert_true(r.eax && product <= UINT32_MAX);
    u64 khz = product / r.eax, want = hz / 1000;
    assert_in_range(khz, want - want / 1000000 - 1, want + want / 1000000 + 1);
}
static void test_rates(void **state)
{
    static const u64 some[] = {1000000000, 1999999999, 2000000000, 2300000000, 2345678901,
                               2899886000, 3000000000, 3700017000, 4200000000, 999999999,
                               1500300007, 2100000001, 3000100000, 799999000,  3999000000};
    for (size_t i = 0; i < ARRAY_LEN(some); i++)
        check_rate(some[i]);
}

static void test_kvm_leaves(void **state)
{
    make("host", 1);
    struct cpuid_regs r = cpu_cpuid(&cpu, 0x40000000, 0);
    assert_memory_equal(&r.ebx, "KVMK", 4);
    assert_memory_equal(&r.ecx, "VMKV", 4);
    assert_memory_equal(&r.edx, "M\0\0\0", 4);
    assert_int_equal(cpu_cpuid(&cpu, 0x40000001, 0).eax,
                     BIT(0) | BIT(1) | BIT(3) | BIT(5) | BIT(6) | BIT(7) | BIT(9) | BIT(11) | BIT(24));
    assert_int_equal(cpu_cpuid(&cpu, 0x40000100, 0).eax | cpu_cpuid(&cpu, 0x4000ffff, 0).ebx, 0);
    make("host,-hypervisor", 1);
    assert_int_equal(cpu_cpuid(&cpu, 0x40000000, 0).eax, 0);
    assert_false(cpu_has(&model, FEAT_KVM_CLOCKSOURCE2));
}

/* --- levels ------------------------------------------------------------------------------------------------------ */

static void test_levels(void **state)
{
    static const struct {
        const char *name;
        u64 xcr0;
        u32 has, lacks;
    } levels[] = {
        {"x86-64-v2", 0x03, FEAT_SSE4_2, FEAT_AVX},
        {"x86-64-v3", 0x07, FEAT_AVX2, FEAT_AVX512F},
        {"x86-64-v4", 0xe7, FEAT_AVX512VL, FEAT_AVX512VBMI},
    };
    struct error e;
    for (size_t i = 0; i < ARRAY_LEN(levels); i++) {
        if (make_on(&amd, 0xe7, levels[i].name, 2, &e) < 0)
            fail_msg("%s", e.msg);
        assert_int_equal(model.xcr0_mask, levels[i].xcr0);
        assert_true(cpu_has(&model, levels[i].has));
        assert_false(cpu_has(&model, levels[i].lacks));
        assert_false(cpu_has(&model, FEAT_RDRAND) || cpu_has(&model, FEAT_INVTSC));
        assert_string_equal(model.vendor, "AuthenticAMD");
        assert_int_equal(cpu_cpuid(&cpu, 1, 0).eax, 0x00a10f11);
        check_features(fake_cpuid, (void *)(uintptr_t)&amd);
        check_xsave_leaf();
        char brand[49] = "";
        for (u32 k = 0; k < 3; k++) {
            struct cpuid_regs r = cpu_cpuid(&cpu, 0x80000002 + k, 0);
            memcpy(brand + 16 * k, &r, 16);
        }
        assert_non_null(strstr(brand, levels[i].name));
    }
}

/* On this very host: a level either can be made, or the message names what is missing. */
static void test_levels_here(void **state)
{
    static const char *const names[] = {"x86-64-v2", "x86-64-v3", "x86-64-v4"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        struct error e = {0};
        if (cpu_model_make(&model, names[i], TSC_HZ, 1, &e) < 0) {
            assert_non_null(strstr(e.msg, "this host lacks "));
            continue;
        }
        cpu.model = &model;
        cpu_reset(&cpu);
        check_features(real, NULL);
        check_native_features();
        check_xsave_leaf();
    }
}

/* A host whose system has not enabled a register group doesn't have its instructions. */
static void test_host_without_registers(void **state)
{
    struct error e;
    assert_int_equal(make_on(&amd, 0x7, "host", 1, &e), 0);
    assert_true(cpu_has(&model, FEAT_AVX2));
    assert_false(cpu_has(&model, FEAT_AVX512F) || cpu_has(&model, FEAT_AVX512_FP16));
    assert_true(make_on(&amd, 0x7, "x86-64-v4", 1, &e) < 0);
    assert_non_null(strstr(e.msg, "avx512f avx512dq avx512cd avx512bw avx512vl"));
    assert_int_equal(make_on(&amd, 0, "host", 1, &e), 0);
    assert_int_equal(model.xcr0_mask, 3);
    assert_false(cpu_has(&model, FEAT_FMA) || cpu_has(&model, FEAT_VAES) || cpu_has(&model, FEAT_F16C));
    assert_true(cpu_has(&model, FEAT_GFNI));
    assert_true(make_on(&amd, 0x3, "x86-64-v3", 1, &e) < 0);
    assert_non_null(strstr(e.msg, "avx"));
}

static void test_amd(void **state)
{
    struct error e;
    assert_int_equal(make_on(&amd, 0xe7, "host", 4, &e), 0);
    check_features(fake_cpuid, (void *)(uintptr_t)&amd);
    assert_true(model.amd);
    assert_int_equal(cpu_cpuid(&cpu, 0x80000000, 0).eax, 0x80000021);
    assert_int_equal(cpu_cpuid(&cpu, 0x80000001, 0).edx & 0x0183f3ff, cpu_cpuid(&cpu, 1, 0).edx & 0x0183f3ff);
    assert_true(cpu_cpuid(&cpu, 0x80000021, 0).eax & BIT(8)); /* automatic IBRS */
    assert_true(model.efer_mask & EFER_AUTOIBRS);
    assert_false(cpu_has(&model, FEAT_ARCH_CAPABILITIES));
    assert_int_equal(cpu_cpuid(&cpu, 0x80000008, 0).ecx, 2u << 12 | 3);
    cpu.id = 3;
    assert_int_equal(cpu_cpuid(&cpu, 0x8000001e, 0).eax, 3);
    assert_int_equal(cpu_cpuid(&cpu, 0x8000001d, 0).eax >> 14 & 0xfff, 0);
    assert_int_equal(cpu_cpuid(&cpu, 0x8000001d, 3).eax >> 14 & 0xfff, 3);
    assert_int_equal(cpu_cpuid(&cpu, 0x8000001d, 4).eax, 0);
    cpu.id = 0;
    /* beyond the end: zeros */
    static const u32 beyond[] = {0xe, 0x15, 0x16, 0x1f, 0x7fffffff, 0x80000022, 0x80000fff, 0xc0000000, 0xffffffff};
    for (size_t i = 0; i < ARRAY_LEN(beyond); i++) {
        struct cpuid_regs r = cpu_cpuid(&cpu, beyond[i], 0);
        assert_int_equal(r.eax | r.ebx | r.ecx | r.edx, 0);
    }
}

/* Intel answers with its highest basic leaf. */
static void test_intel_range(void **state)
{
    struct fake f = amd;
    struct error e;
    f.leaf[0].r = (struct cpuid_regs){0x16, 0x756e6547, 0x6c65746e, 0x49656e69};
    assert_int_equal(make_on(&f, 0xe7, "host", 1, &e), 0);
    assert_false(model.amd);
    check_features(fake_cpuid, &f);
    struct cpuid_regs top = cpu_cpuid(&cpu, 0x16, 0);
    assert_int_equal(top.eax, (TSC_HZ + 500000) / 1000000);
    static const u32 beyond[] = {0x17,       0x1f,       0x3fffffff, 0x50000000, 0x7fffffff,
                                 0x80000009, 0x80000021, 0xc0000000, 0xffffffff};
    for (size_t i = 0; i < ARRAY_LEN(beyond); i++) {
        struct cpuid_regs r = cpu_cpuid(&cpu, beyond[i], 0);
        assert_memory_equal(&r, &top, sizeof(r));
    }
    /* SYSCALL shows in 64-bit code only */
    cpu.efer = 0;
    assert_false(cpu_cpuid(&cpu, 0x80000001, 0).edx & BIT(11));
    cpu.efer = EFER_LMA;
    cpu.seg[SEG_CS].attr |= SEG_L;
    assert_true(cpu_cpuid(&cpu, 0x80000001, 0).edx & BIT(11));
    assert_true(cpu_has(&model, FEAT_ARCH_CAPABILITIES) && cpu_has(&model, FEAT_SPEC_CTRL));
    assert_false(cpu_has(&model, FEAT_AUTOIBRS));
    /* caches when the host tells none: there are some */
    assert_int_equal(cpu_cpuid(&cpu, 4, 3).eax & 0x1f, 3);
    assert_int_equal(cpu_cpuid(&cpu, 4, 4).eax, 0);
}

/* --- specifications ---------------------------------------------------------------------------------------------- */

static void test_specs(void **state)
{
    static const struct {
        const char *spec, *message; /* NULL: good */
    } specs[] = {
        {"host", NULL},
        {"x86-64-v3,+aes,-pcid", NULL},
        {"x86-64-v2,+AES", "there is no feature \"AES\""},
        {"x86-64-v2,+sse3,+cmpxchg16b", NULL},
        {"x86-64-v4,+avx512-vnni,+avx512-vbmi2,-x2apic", NULL},
        {"x86-64-v2,+sse4.2", NULL},
        {"", "is not known"},
        {"x86-64-v1", "is not known"},
        {"x86-64-v5", "is not known"},
        {"hostess", "is not known"},
        {"host,", "neither +FEATURE nor -FEATURE"},
        {"host,avx", "neither +FEATURE nor -FEATURE"},
        {"host,+", "there is no feature \"\""},
        {"host,+avx,,", "neither"},
        {"host,+la57", "can not be offered"},
        {"host,+vmx", "can not be offered"},
        {"host,-lm", "can not be taken away"},
        {"host,+ht", "follows from --cpus"},
        {"host,-fdp_excptn_only", "is not a choice"},
        {"x86-64-v2,+avx2", "avx2 needs avx; add +avx"},
        {"x86-64-v2,+avx,+avx2", NULL},
        {"host,-avx,+avx512f", "needs avx2"},
        {"host,+arch_capabilities", "does not exist on processors of AuthenticAMD"},
    };
    struct error e;
    for (size_t i = 0; i < ARRAY_LEN(specs); i++) {
        int r = make_on(&amd, 0xe7, specs[i].spec, 1, &e);
        if (!specs[i].message != (r == 0) || (r && !strstr(e.msg, specs[i].message)))
            fail_msg("\"%s\": %d %s", specs[i].spec, r, e.msg);
    }
    struct cpu_host h = host_of(&amd, 7);
    e = (struct error){0};
    assert_true(cpu_model_make_for(&model, &h, "host", 0, 1, &e) < 0);
}

/* Taking a feature away takes what hangs on it, whatever the order. */
static void test_dependants(void **state)
{
    struct error e;
    assert_int_equal(make_on(&amd, 0xe7, "host,-avx", 1, &e), 0);
    assert_false(cpu_has(&model, FEAT_AVX2) || cpu_has(&model, FEAT_AVX512_FP16) || cpu_has(&model, FEAT_AVX_VNNI));
    assert_int_equal(model.xcr0_mask, 3);
    check_xsave_leaf();
    assert_int_equal(make_on(&amd, 0xe7, "host,-xsave", 1, &e), 0);
    assert_int_equal(model.xcr0_mask, 1);
    assert_false(model.cr4_mask & CR4_OSXSAVE || cpu_has(&model, FEAT_AVX) || cpu_has(&model, FEAT_XSAVEOPT));
    assert_int_equal(cpu_cpuid(&cpu, 0xd, 0).eax, 0);
    assert_int_equal(make_on(&amd, 0xe7, "host,-smap,-umip,-pcid", 1, &e), 0);
    assert_false(model.cr4_mask & (CR4_SMAP | CR4_UMIP | CR4_PCIDE) || cpu_has(&model, FEAT_INVPCID));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host),
        cmocka_unit_test(test_host_offsets),
        cmocka_unit_test(test_hidden_leaves),
        cmocka_unit_test(test_dynamic_bits),
        cmocka_unit_test(test_rates),
        cmocka_unit_test(test_kvm_leaves),
        cmocka_unit_test(test_levels),
        cmocka_unit_test(test_levels_here),
        cmocka_unit_test(test_host_without_registers),
        cmocka_unit_test(test_amd),
        cmocka_unit_test(test_intel_range),
        cmocka_unit_test(test_specs),
        cmocka_unit_test(test_dependants),
    };
    return cmocka_run_group_tests_name("machine/cpu_model", tests, NULL, NULL);
}
