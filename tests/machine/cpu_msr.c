/*
 * The table of MSRs: each reserved bit faults, each accepted bit is kept; who has which register; and what lives in guest
 * memory (kvmclock, wall clock, PV EOI).
 */
#include "machine/cpu/cpu_features.h"
#include "machine/cpu/kvmpv.h"
#include "machine/cpu/msr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define TSC_HZ 2500000000ull
#define RAM    (16ull << 20)

struct machine {
    struct cpu cpu;
    struct cpu_model model;
    struct vclock clock;
    struct guest_mem mem;
    struct cpu_msr_env env;
    u64 ns, tsc; /* the host's clocks */
    u8 *ram;
};

static u64 host_ns(void *ctx)
{
    return ((struct machine *)ctx)->ns;
}
static u64 host_tsc(void *ctx)
{
    return ((struct machine *)ctx)->tsc;
}

/* A host that has everything, of either vendor. */
static struct cpuid_regs every_bit(void *ctx, u32 leaf, u32 subleaf)
{
    static const struct cpuid_regs intel = {0x1f, 0x756e6547, 0x6c65746e, 0x49656e69},
                                   amd = {0x10, 0x68747541, 0x444d4163, 0x69746e65};
    if (leaf == 0)
        return ctx ? amd : intel;
    if (leaf == 0x80000000)
        return (struct cpuid_regs){0x80000021, 0, 0, 0};
    if (leaf == 0x80000008)
        return (struct cpuid_regs){0x3028, 0, 0, 0}; /* 40 bits physical */
    return (struct cpuid_regs){subleaf == 0 && leaf == 7 ? 1 : ~0u, ~0u, ~0u, ~0u};
}

static void make(struct machine *m, const char *spec, bool amd)
{
    struct cpu_host h = {.cpuid = every_bit, .ctx = amd ? m : NULL, .xcr0 = 0xe7, .mxcsr_mask = 0xffff};
    struct error e = {0};
    if (cpu_model_make_for(&m->model, &h, spec, TSC_HZ, 1, &e) < 0)
        fail_msg("%s", e.msg);
    memset(&m->cpu, 0, sizeof(m->cpu));
    m->cpu.model = &m->model;
    cpu_reset(&m->cpu);
    m->ns = 5000000000;
    m->tsc = 777777;
    vclock_init(&m->clock, host_ns, host_tsc, m, TSC_HZ, 1700000000ll * 1000000000);
    memset(m->ram, 0, RAM);
    m->env = (struct cpu_msr_env){&m->clock, &m->mem};
}

static int setup(void **state)
{
    struct machine *m = aligned_alloc(64, (sizeof(*m) + 63) & ~63ul);
    struct error e = {0};
    if (!m)
        return -1;
    memset(m, 0, sizeof(*m));
    m->ram = aligned_alloc(4096, RAM);
    if (!m->ram || mem_init(&m->mem, m->ram, RAM, -1, &e) < 0)
        return -1;
    *state = m;
    return 0;
}
static int teardown(void **state)
{
    struct machine *m = *state;
    mem_destroy(&m->mem);
    free(m->ram);
    free(m);
    return 0;
}

static int rd(struct machine *m, u32 index, u64 *v)
{
    return cpu_msr_read(&m->cpu, index, v, &m->env);
}
static int wr(struct machine *m, u32 index, u64 v)
{
    return cpu_msr_write(&m->cpu, index, v, &m->env);
}

/* A refused access: #GP(0), and nothing of the CPU changed. */
static void refused(struct machine *m, u32 index, u64 v)
{
    static struct cpu before;
    memcpy(&before, &m->cpu, sizeof(before));
    int r = wr(m, index, v);
    if (r != CPU_FAULT)
        fail_msg("MSR %x: %llx was accepted", index, (unsigned long long)v);
    assert_int_equal(m->cpu.fault.vector, VEC_GP);
    assert_true(m->cpu.fault.has_error && m->cpu.fault.error == 0);
    m->cpu.fault = before.fault;
    assert_memory_equal(&before, &m->cpu, sizeof(before));
}
static void accepted(struct machine *m, u32 index, u64 v, u64 reads)
{
    u64 got = ~v;
    if (wr(m, index, v) != CPU_OK)
        fail_msg("MSR %x: %llx was refused", index, (unsigned long long)v);
    if (rd(m, index, &got) != CPU_OK || got != reads)
        fail_msg("MSR %x: wrote %llx, read %llx", index, (unsigned long long)v, (unsigned long long)got);
}

/* Registers that are a set of bits: each bit alone is either kept or refused. */
static void test_bits(void **state)
{
    struct machine *m = *state;
    static const struct {
        u32 index;
        bool amd;
        u64 bits; /* accepted */
        u64 set;  /* reads as 1 in any case */
    } rows[] = {
        {MSR_EFER, false, EFER_SCE | EFER_LME | EFER_NXE, 0},
        {MSR_EFER, true, EFER_SCE | EFER_LME | EFER_NXE | EFER_AUTOIBRS, 0},
        {MSR_STAR, false, ~0ull, 0},
        {MSR_SFMASK, false, 0xffffffff, 0},
        {MSR_TSC_AUX, false, 0xffffffff, 0},
        {MSR_SPEC_CTRL, false, 3 | BIT(10), 0},
        {MSR_SPEC_CTRL, true, 3, 0},
        {MSR_MTRR_DEF_TYPE, false, BIT(10) | BIT(11) | 1 | 4, 0},
        {0x200, false, 0xfffffff000ull | 1 | 4, 0}, /* 40 bits of address */
        {0x20f, false, 0xfffffff800ull, 0},
        {0x17a, false, 7, 0},
        {0x1a0, false, 1, BIT(11) | BIT(12)},
        {0x1d9, false, 3, 0},
        {MSR_KVM_SYSTEM_TIME_2, false, ~0ull, 0},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        for (int bit = 0; bit < 64; bit++) {
            make(m, "host", rows[i].amd);
            if (rows[i].index == MSR_EFER && BIT(bit) == EFER_LMA)
                accepted(m, MSR_EFER, EFER_LMA, 0); /* read-only */
            else if (rows[i].bits & BIT(bit) || rows[i].set & BIT(bit))
                accepted(m, rows[i].index, BIT(bit), BIT(bit) | rows[i].set);
            else
                refused(m, rows[i].index, BIT(bit));
        }
}

static void test_canonical(void **state)
{
    struct machine *m = *state;
    static const u32 indexes[] = {MSR_LSTAR, MSR_CSTAR, MSR_FS_BASE, MSR_GS_BASE, MSR_KERNEL_GS_BASE, 0x175, 0x176};
    make(m, "host", false);
    for (size_t i = 0; i < ARRAY_LEN(indexes); i++) {
        accepted(m, indexes[i], 0x7fffffffffff, 0x7fffffffffff);
        accepted(m, indexes[i], 0xffff800000000000, 0xffff800000000000);
        refused(m, indexes[i], 0x800000000000);
        refused(m, indexes[i], 0xffff7fffffffffff);
        refused(m, indexes[i], BIT(63));
    }
    assert_int_equal(m->cpu.seg[SEG_GS].base, 0xffff800000000000);
    make(m, "host", true); /* AMD keeps 32 bits of SYSENTER's */
    accepted(m, 0x175, 0x8000123456789abc, 0x56789abc);
    accepted(m, MSR_TSC_AUX, 0x100000007, 7);
    accepted(m, 0x174, 0x1000000ff, 0xff);
}

static void test_efer(void **state)
{
    struct machine *m = *state;
    make(m, "host", false);
    accepted(m, MSR_EFER, EFER_LME | EFER_SCE, EFER_LME | EFER_SCE);
    m->cpu.cr0 |= CR0_PG | CR0_PE;
    m->cpu.efer |= EFER_LMA;
    refused(m, MSR_EFER, EFER_SCE);
    accepted(m, MSR_EFER, EFER_LME, EFER_LME | EFER_LMA);
    accepted(m, MSR_EFER, EFER_LME | EFER_NXE | EFER_LMA, EFER_LME | EFER_NXE | EFER_LMA);
    m->cpu.efer = 0;
    refused(m, MSR_EFER, EFER_LME);
    assert_int_equal(cpu_msr_effects(MSR_EFER), MSR_CHANGES_MODE);
    assert_int_equal(cpu_msr_effects(MSR_FS_BASE), MSR_CHANGES_SEGMENT);
    assert_int_equal(cpu_msr_effects(MSR_TSC), MSR_CHANGES_TSC);
    assert_int_equal(cpu_msr_effects(MSR_STAR), 0);
    assert_int_equal(cpu_msr_effects(0x12345678), 0);
}

/* Eight types of memory: 0, 1, 4, 5, 6 everywhere, 7 in PAT only. */
static void test_memory_types(void **state)
{
    struct machine *m = *state;
    static const u32 fixed[] = {0x250, 0x258, 0x259, 0x268, 0x269, 0x26a, 0x26b, 0x26c, 0x26d, 0x26e, 0x26f};
    make(m, "host", false);
    for (u32 type = 0; type < 256; type++) {
        bool mtrr = type == 0 || type == 1 || (type >= 4 && type <= 6);
        for (int i = 0; i < 64; i += 8) {
            u64 v = (u64)type << i;
            if (mtrr || type == 7)
                accepted(m, MSR_PAT, v, v);
            else
                refused(m, MSR_PAT, v);
            for (size_t k = 0; k < ARRAY_LEN(fixed); k++) {
                if (mtrr)
                    accepted(m, fixed[k], v, v);
                else
                    refused(m, fixed[k], v);
            }
        }
        for (u32 k = 0x200; k < 0x210; k += 2) {
            if (mtrr)
                accepted(m, k, type, type);
            else
                refused(m, k, type);
        }
    }
    for (size_t k = 0; k < ARRAY_LEN(fixed); k++) {
        accepted(m, fixed[k], 0x0101010101010100ull | (k % 2), 0x0101010101010100ull | (k % 2));
        assert_int_equal(m->cpu.msr.mtrr_fixed[k], 0x0101010101010100ull | (k % 2));
    }
    u64 v;
    assert_int_equal(rd(m, 0xfe, &v), CPU_OK);
    assert_int_equal(v, 0x508);
    refused(m, 0xfe, 0x508);
    for (u32 k = 0x210; k < 0x220; k++)
        assert_int_equal(rd(m, k, &v), CPU_FAULT);
}

/* Who has which register. */
static void test_presence(void **state)
{
    struct machine *m = *state;
    static const u32 intel_only[] = {0x17, 0x2a, 0x34, 0x3a, 0xce, 0x10a, 0x1a0},
                     amd_only[] = {0xc0010010, 0xc0010015, 0xc001001a, 0xc0010055, 0xc0010112, 0xc0010114, 0xc0011029},
                     nobody[] = {0x2,        0x1b,       0xc1,       0xe7,       0xe8,       0x122,      0x140,
                                 0x186,      0x198,      0x19c,      0x1a2,      0x1b0,      0x38f,      0x400,
                                 0x480,      0x606,      0x611,      0x6e0,      0x800,      0xda0,      0xc0000104,
                                 0xc0010000, 0xc0010004, 0xc0010062, 0xc0010117, 0xc0010140, 0xc0011020, 0x4b564d02,
                                 0x4b564d05, 0xffffffff, 0x40000000};
    u64 v;
    for (int amd = 0; amd < 2; amd++) {
        make(m, "host", amd);
        for (size_t i = 0; i < ARRAY_LEN(intel_only); i++)
            assert_int_equal(rd(m, intel_only[i], &v), amd ? CPU_FAULT : CPU_OK);
        for (size_t i = 0; i < ARRAY_LEN(amd_only); i++)
            assert_int_equal(rd(m, amd_only[i], &v), amd ? CPU_OK : CPU_FAULT);
        for (size_t i = 0; i < ARRAY_LEN(nobody); i++) {
            assert_int_equal(rd(m, nobody[i], &v), CPU_FAULT);
            refused(m, nobody[i], 0);
        }
        assert_int_equal(rd(m, MSR_PRED_CMD, &v), CPU_FAULT); /* write-only */
        assert_int_equal(wr(m, MSR_PRED_CMD, 1), CPU_OK);
        refused(m, MSR_PRED_CMD, 2);
        assert_int_equal(rd(m, 0x8b, &v), CPU_OK);
        assert_true(v != 0);
        assert_non_null(cpu_msr_name(0x277));
        assert_null(cpu_msr_name(0x800));
    }
}

/* A feature taken away takes its registers. */
static void test_features(void **state)
{
    struct machine *m = *state;
    static const struct {
        const char *spec;
        bool amd;
        u32 index;
    } rows[] = {
        {"host,-tsc_adjust", false, MSR_TSC_ADJUST},
        {"host,-spec_ctrl", false, MSR_SPEC_CTRL},
        {"host,-ibrs", true, MSR_SPEC_CTRL},
        {"host,-arch_capabilities", false, 0x10a},
        {"host,-kvmclock", false, MSR_KVM_SYSTEM_TIME_2},
        {"host,-kvmclock_old", false, MSR_KVM_SYSTEM_TIME},
        {"host,-hypervisor", false, MSR_KVM_WALL_CLOCK_2},
        {"host,-kvm_pv_eoi", false, MSR_KVM_PV_EOI},
        {"host,-kvm_steal_time", false, MSR_KVM_STEAL_TIME},
        {"host,-rdtscp", false, MSR_TSC_AUX},
    };
    u64 v;
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        make(m, "host", rows[i].amd);
        assert_int_equal(rd(m, rows[i].index, &v), CPU_OK);
        make(m, rows[i].spec, rows[i].amd);
        assert_int_equal(rd(m, rows[i].index, &v), CPU_FAULT);
        refused(m, rows[i].index, 0);
    }
    make(m, "host,-intel_stibp", false);
    refused(m, MSR_SPEC_CTRL, 2);
    accepted(m, MSR_SPEC_CTRL, 1, 1);
}

static void test_fixed_values(void **state)
{
    struct machine *m = *state;
    u64 v;
    make(m, "host", false);
    assert_int_equal(rd(m, 0x10a, &v), CPU_OK);
    const u64 needed =
        BIT(0) | BIT(1) | BIT(3) | BIT(4) | BIT(5) | BIT(6) | BIT(8) | BIT(13) | BIT(14) | BIT(15) | BIT(24);
    assert_int_equal(v & needed, needed);
    assert_int_equal(v & (BIT(2) | BIT(7) | BIT(19)), 0); /* no RSBA, no TSX control, no RRSBA */
    refused(m, 0x10a, v);
    assert_int_equal(rd(m, 0x3a, &v), CPU_OK);
    assert_int_equal(v, 1);
    refused(m, 0x3a, 5);
    assert_int_equal(rd(m, 0xce, &v), CPU_OK);
    assert_int_equal(v, 25 << 8);
    assert_int_equal(rd(m, 0x179, &v), CPU_OK);
    assert_int_equal(v & 0xff, 0);
    accepted(m, 0x17b, ~0ull, ~0ull);
    accepted(m, 0x17b, 0, 0);
    refused(m, 0x17b, 1);
    make(m, "host", true);
    accepted(m, 0xc0011029, 2, 2);
    refused(m, 0xc0011029, 0);
    accepted(m, 0xc0010015, BIT(24) | BIT(6), BIT(24));
    refused(m, 0xc0010015, BIT(0));
    accepted(m, 0xc0010010, 0, 0);
    accepted(m, 0xc001001f, BIT(46), 0);
    refused(m, 0xc001001f, 1);
    refused(m, 0xc0010114, 0);
}

static void test_firmware(void **state)
{
    struct machine *m = *state;
    struct error e = {0};
    u64 v;
    make(m, "host", false);
    cpu_msr_firmware(&m->cpu);
    assert_int_equal(cpu_msrs_check(&m->cpu, &e), 0);
    assert_int_equal(rd(m, MSR_MTRR_DEF_TYPE, &v), CPU_OK);
    assert_int_equal(v, 0xc06);
    assert_int_equal(rd(m, 0x201, &v), CPU_OK);
    assert_int_equal(v, 0xffc0000800); /* 1 GiB of 40 bits */
}

/* TSC and TSC_ADJUST move together. */
static void test_tsc(void **state)
{
    struct machine *m = *state;
    u64 v;
    make(m, "host", false);
    assert_int_equal(rd(m, MSR_TSC, &v), CPU_OK);
    assert_int_equal(v, 0);
    m->tsc += 1000;
    assert_int_equal(rd(m, MSR_TSC, &v), CPU_OK);
    assert_int_equal(v, 1000);
    accepted(m, MSR_TSC, 500, 500);
    assert_int_equal(rd(m, MSR_TSC_ADJUST, &v), CPU_OK);
    assert_int_equal(v, (u64)-500);
    accepted(m, MSR_TSC_ADJUST, 0, 0);
    assert_int_equal(rd(m, MSR_TSC, &v), CPU_OK);
    assert_int_equal(v, 1000);
    accepted(m, MSR_TSC_ADJUST, 7, 7);
    m->tsc += 3;
    assert_int_equal(rd(m, MSR_TSC, &v), CPU_OK);
    assert_int_equal(v, 1010);
    assert_int_equal(m->cpu.tsc_offset, 7);
}

/* --- kvmclock ---------------------------------------------------------------------------------------------------- */

struct time_info {
    u32 version, pad0;
    u64 tsc_timestamp, system_time;
    u32 mul;
    s8 shift;
    u8 flags, pad[2];
};

static struct time_info clock_at(struct machine *m, u64 at)
{
    struct time_info t;
    memcpy(&t, m->ram + at, sizeof(t));
    return t;
}

/* What a guest reads (Linux, pvclock.h). */
static u64 guest_ns(const struct time_info *t, u64 tsc)
{
    u64 delta = tsc - t->tsc_timestamp;
    delta = t->shift < 0 ? delta >> -t->shift : delta << t->shift;
    return t->system_time + (u64)((unsigned __int128)delta * t->mul >> 32);
}

static void test_kvmclock(void **state)
{
    struct machine *m = *state;
    static const u64 rates[] = {1000000000, 2500000000, 3999999999, 800000000, 1999999999, 2000000001, 33333333};
    for (size_t i = 0; i < ARRAY_LEN(rates); i++) {
        make(m, "host", false);
        m->clock.tsc_hz = rates[i];
        m->ns += 123456789;
        m->tsc += 55555;
        assert_int_equal(wr(m, MSR_KVM_SYSTEM_TIME_2, 0x3000 | KVM_MSR_ENABLED), CPU_OK);
        struct time_info t = clock_at(m, 0x3000);
        assert_true(t.version && t.version % 2 == 0);
        assert_int_equal(t.flags, 1);
        assert_int_equal(t.tsc_timestamp, 55555);
        assert_int_equal(t.system_time, 123456789);
        /* an hour later the line is within a part in 2^31 of the truth */
        u64 ns = guest_ns(&t, 55555 + 3600 * rates[i]), want = 123456789 + 3600000000000ull;
        assert_in_range(ns, want - 2000, want + 2000);
        kvmpv_clock_refresh(&m->cpu, &m->mem, &m->clock, true);
        struct time_info u = clock_at(m, 0x3000);
        assert_int_equal(u.version, t.version + 2);
        assert_int_equal(u.flags, 3);
    }
}

/* A version that the guest left odd, or at the end of its range, does not lead to an odd one at rest. */
static void test_kvmclock_versions(void **state)
{
    struct machine *m = *state;
    static const u32 before[] = {0, 1, 2, 7, 0xfffffffe, 0xffffffff};
    make(m, "host", false);
    for (size_t i = 0; i < ARRAY_LEN(before); i++) {
        memcpy(m->ram + 0x3000, &before[i], 4);
        assert_int_equal(wr(m, MSR_KVM_SYSTEM_TIME, 0x3001), CPU_OK);
        u32 v = clock_at(m, 0x3000).version;
        assert_int_equal(v % 2, 0);
        assert_int_not_equal(v, before[i]);
    }
}

static void test_kvmclock_follows_tsc(void **state)
{
    struct machine *m = *state;
    make(m, "host", false);
    assert_int_equal(wr(m, MSR_KVM_SYSTEM_TIME_2, 0x3001), CPU_OK);
    m->tsc += 4000;
    m->ns += 1600;
    assert_int_equal(wr(m, MSR_TSC, 1000000), CPU_OK);
    struct time_info t = clock_at(m, 0x3000);
    u64 ns = guest_ns(&t, 1000000); /* the line is the same, its origin has moved */
    assert_in_range(ns, 1599, 1600);
    /* off: nobody writes there */
    assert_int_equal(wr(m, MSR_KVM_SYSTEM_TIME_2, 0x3000), CPU_OK);
    memset(m->ram + 0x3000, 0xcc, 64);
    kvmpv_clock_refresh(&m->cpu, &m->mem, &m->clock, false);
    assert_int_equal(m->ram[0x3000], 0xcc);
}

static void test_wall_clock(void **state)
{
    struct machine *m = *state;
    u32 w[3];
    make(m, "host", false);
    m->ns += 1500000000; /* the clock of the wall at guest time 0 does not depend on when it is asked */
    assert_int_equal(wr(m, MSR_KVM_WALL_CLOCK_2, 0x5004), CPU_OK);
    memcpy(w, m->ram + 0x5004, sizeof(w));
    assert_int_equal(w[0], 2);
    assert_int_equal(w[1], 1700000000);
    assert_int_equal(w[2], 0);
}

/* Addresses that are not RAM, wrap, or end in the middle: nothing happens, nothing breaks. */
static void test_hostile_addresses(void **state)
{
    struct machine *m = *state;
    static const u64 at[] = {RAM - 8,      RAM - 30,      RAM,     RAM + 4, 0xfee00000, 0xffffffff,
                             BIT(32) - 16, ~0ull & ~3ull, BIT(63), BIT(40), ~0ull - 30, 0xc0000000};
    struct cpu *cpus[1] = {&m->cpu};
    struct kvmpv pv = {cpus, 1, &m->mem};
    make(m, "host", false);
    memset(m->ram + RAM - 64, 0xcc, 64);
    for (size_t i = 0; i < ARRAY_LEN(at); i++) {
        assert_int_equal(wr(m, MSR_KVM_SYSTEM_TIME_2, at[i] | 1), CPU_OK);
        assert_int_equal(wr(m, MSR_KVM_SYSTEM_TIME, at[i] | 1), CPU_OK);
        if (i != 1) /* that one has room for the 12 bytes of a wall clock */
            assert_int_equal(wr(m, MSR_KVM_WALL_CLOCK_2, at[i]), CPU_OK);
    }
    for (int i = 0; i < 64; i++)
        assert_int_equal(m->ram[RAM - 64 + i], 0xcc);
    for (size_t i = 2; i < ARRAY_LEN(at); i++) {
        m->cpu.msr.kvm_pv_eoi = at[i] | 1;
        assert_false(kvmpv_eoi_set(&pv, 0));
        assert_true(kvmpv_eoi_test_clear(&pv, 0));
    }
    assert_false(kvmpv_eoi_set(&pv, 1)); /* no such CPU */
}

static void test_pv_eoi(void **state)
{
    struct machine *m = *state;
    struct cpu *cpus[1] = {&m->cpu};
    struct kvmpv pv = {cpus, 1, &m->mem};
    make(m, "host", false);
    assert_false(kvmpv_eoi_set(&pv, 0)); /* off */
    refused(m, MSR_KVM_PV_EOI, 0x6002 | KVM_MSR_ENABLED);
    accepted(m, MSR_KVM_PV_EOI, 0x6004 | KVM_MSR_ENABLED, 0x6005);
    assert_int_equal(cpu_msr_effects(MSR_KVM_PV_EOI), MSR_CHANGES_PV_EOI);
    m->ram[0x6004] = 0x80;
    assert_true(kvmpv_eoi_set(&pv, 0));
    assert_int_equal(m->ram[0x6004], 0x81);
    assert_false(kvmpv_eoi_test_clear(&pv, 0)); /* still there: the guest has not ended it */
    assert_int_equal(m->ram[0x6004], 0x80);
    assert_true(kvmpv_eoi_set(&pv, 0));
    m->ram[0x6004] &= 0xfe; /* the guest's EOI */
    assert_true(kvmpv_eoi_test_clear(&pv, 0));
}

static void test_steal_time(void **state)
{
    struct machine *m = *state;
    u64 sum;
    make(m, "host", false);
    kvmpv_out(&m->cpu, &m->mem); /* off: nothing is written */
    assert_false(kvmpv_in(&m->cpu, &m->mem));
    refused(m, MSR_KVM_STEAL_TIME, 0x6020 | KVM_MSR_ENABLED);
    accepted(m, MSR_KVM_STEAL_TIME, 0x6040 | KVM_MSR_ENABLED, 0x6041);
    kvmpv_steal_add(&m->cpu, &m->mem, 1000);
    kvmpv_steal_add(&m->cpu, &m->mem, 234);
    memcpy(&sum, m->ram + 0x6040, 8);
    assert_int_equal(sum, 1234);
    assert_int_equal(m->ram[0x6048], 4); /* two writes, each odd, then even */
    kvmpv_out(&m->cpu, &m->mem);
    assert_int_equal(m->ram[0x6050], 1);
    assert_false(kvmpv_in(&m->cpu, &m->mem));
    assert_int_equal(m->ram[0x6050], 0);
    kvmpv_out(&m->cpu, &m->mem);
    m->ram[0x6050] |= 2; /* somebody asks for a flush */
    assert_true(kvmpv_in(&m->cpu, &m->mem));
    assert_int_equal(m->ram[0x6050], 0);
    make(m, "host,-kvm_pv_tlb_flush", false);
    accepted(m, MSR_KVM_STEAL_TIME, 0x6040 | KVM_MSR_ENABLED, 0x6041);
    m->ram[0x6050] = 3;
    assert_false(kvmpv_in(&m->cpu, &m->mem)); /* nobody was told that this can be asked */
    accepted(m, MSR_KVM_STEAL_TIME, (RAM - 0x40) | KVM_MSR_ENABLED, RAM - 0x3f);
    kvmpv_steal_add(&m->cpu, &m->mem, 1);
    accepted(m, MSR_KVM_STEAL_TIME, RAM | KVM_MSR_ENABLED, RAM | 1);
    kvmpv_steal_add(&m->cpu, &m->mem, 1); /* not RAM: left alone */
    kvmpv_out(&m->cpu, &m->mem);
    assert_false(kvmpv_in(&m->cpu, &m->mem));
}

/* Writes to guest memory are traced as everyone's are: code that was decoded from the page hears of them. */
static void heard(void *ctx, u64 page)
{
    *(u64 *)ctx = page;
}
static void test_traced(void **state)
{
    struct machine *m = *state;
    struct cpu *cpus[1] = {&m->cpu};
    struct kvmpv pv = {cpus, 1, &m->mem};
    u64 page = 0;
    make(m, "host", false);
    m->mem.code_written = heard;
    m->mem.code_ctx = &page;
    m->mem.trace[6] |= MEM_TRACE_CODE;
    assert_int_equal(wr(m, MSR_KVM_PV_EOI, 0x6001), CPU_OK);
    assert_true(kvmpv_eoi_set(&pv, 0));
    assert_int_equal(page, 6);
    page = 0;
    m->mem.trace[7] |= MEM_TRACE_CODE;
    assert_int_equal(wr(m, MSR_KVM_SYSTEM_TIME_2, 0x7001), CPU_OK);
    assert_int_equal(page, 7);
    m->mem.code_written = NULL;
    m->mem.trace[6] = m->mem.trace[7] = 0;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bits),
        cmocka_unit_test(test_canonical),
        cmocka_unit_test(test_efer),
        cmocka_unit_test(test_memory_types),
        cmocka_unit_test(test_presence),
        cmocka_unit_test(test_features),
        cmocka_unit_test(test_fixed_values),
        cmocka_unit_test(test_firmware),
        cmocka_unit_test(test_tsc),
        cmocka_unit_test(test_kvmclock),
        cmocka_unit_test(test_kvmclock_versions),
        cmocka_unit_test(test_kvmclock_follows_tsc),
        cmocka_unit_test(test_wall_clock),
        cmocka_unit_test(test_hostile_addresses),
        cmocka_unit_test(test_pv_eoi),
        cmocka_unit_test(test_steal_time),
        cmocka_unit_test(test_traced),
    };
    return cmocka_run_group_tests_name("machine/cpu_msr", tests, setup, teardown);
}
