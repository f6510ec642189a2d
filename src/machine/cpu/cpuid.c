/*
 * CPUID: the table of leaves that a model is made of, and the instruction itself.
 *
 * A leaf of the table is constant. What follows the CPU's state is put in by cpu_cpuid:
 *
 *   1 EBX 31-24       initial APIC id               0Bh EDX      x2APIC id
 *   1 ECX 27          OSXSAVE = CR4.OSXSAVE         0Dh.0 EBX    bytes for the components in XCR0
 *   7 ECX 4           (OSPKE: never)                0Dh.1 EBX    the same, compacted
 *   80000001h EDX 11  SYSCALL, on Intel only in 64-bit code
 *   8000001Eh         APIC id and core id (AMD)
 *
 * Leaves beyond the end: Intel answers with its highest basic leaf, AMD with zeros (SDM vol. 2A, CPUID; APM vol. 3).
 * The hypervisor's range 40000000h-4FFFFFFFh is ours: unknown leaves there are zeros with either vendor, so that a
 * guest looking for other hypervisors' signatures finds none.
 *
 * Numbers that come from the host: identity (model `host` only), caches, address width, feature bits. Named levels have
 * a fixed identity a vendor, so that a guest moved between hosts meets the same processor.
 *
 * Leaf 15h gives the TSC's rate as a fraction of a crystal's, and Linux takes the crystal for the rate of the APIC timer,
 * too. It multiplies crystal kHz by the numerator in 32 bits (native_calibrate_tsc), which bounds the numerator to some
 * 4000; so the crystal gives way, by at most a part in a thousand, and the product is right to a millionth.
 */
#include "machine/cpu/model_internal.h"

#include <stdio.h>
#include <string.h>

#define MAX_BASIC_INTEL 0x16u
#define MAX_BASIC_AMD   0x0du
#define MAX_EXT_INTEL   0x80000008u
#define MAX_EXT_AMD     0x80000021u
#define KVM_BASE        0x40000000u
#define MAX_KVM         0x40000010u

/* --- the XSAVE area --------------------------------------------------------------------------------------------- */

static const struct {
    u8 bit;
    u32 offset, size;
} components[] = {
    {2, XSAVE_AVX_OFFSET, 256},
    {5, XSAVE_OPMASK_OFFSET, 64},
    {6, XSAVE_ZMM_HI256_OFFSET, 512},
    {7, XSAVE_HI16_ZMM_OFFSET, 1024},
};

u32 cpu_xsave_size(u64 xcr0)
{
    u32 size = 576; /* legacy region and header */
    for (size_t i = 0; i < ARRAY_LEN(components); i++)
        if (xcr0 >> components[i].bit & 1)
            size = components[i].offset + components[i].size;
    return size;
}

u32 cpu_xsave_compact_size(u64 xcr0)
{
    u32 size = 576;
    for (size_t i = 0; i < ARRAY_LEN(components); i++)
        if (xcr0 >> components[i].bit & 1)
            size += components[i].size;
    return size;
}

/* --- making the table ------------------------------------------------------------------------------------------- */

static void add(struct cpu_model *m, u32 leaf, u32 subleaf, u32 eax, u32 ebx, u32 ecx, u32 edx)
{
    if (m->n_leaves == CPU_MAX_LEAVES)
        return; /* the leaves below are counted: never so */
    m->leaves[m->n_leaves++] = (struct cpuid_leaf){leaf, subleaf, {eax, ebx, ecx, edx}};
}

static void add_regs(struct cpu_model *m, u32 leaf, u32 subleaf, struct cpuid_regs r)
{
    add(m, leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
}

static bool is_intel(const struct cpu_model *m)
{
    return !strcmp(m->vendor, "GenuineIntel");
}

static void vendor_regs(const struct cpu_model *m, struct cpuid_regs *r)
{
    memcpy(&r->ebx, m->vendor, 4);
    memcpy(&r->edx, m->vendor + 4, 4);
    memcpy(&r->ecx, m->vendor + 8, 4);
}

/* Bits needed for numbers below n. */
static u32 bits_for(u32 n)
{
    u32 b = 0;
    while (b < 31 && (1u << b) < n)
        b++;
    return b;
}

/* Family, model and stepping: the host's own, or for a named level a late one of the vendor with all levels. */
static u32 signature(const struct cpu_model *m, const struct cpu_host *h, unsigned level)
{
    if (!level)
        return host_cpuid(h, 1, 0).eax & 0x0fff3fff;
    if (is_intel(m))
        return 0x00050657;                   /* 6, 55h, 7: Cascade Lake */
    return m->amd ? 0x00a10f11 : 0x00000600; /* 19h, 11h, 1: Genoa */
}

static void add_identity(struct cpu_model *m, const struct cpu_host *h, unsigned level, unsigned cpus)
{
    struct cpuid_regs r = {.eax = is_intel(m) ? MAX_BASIC_INTEL : MAX_BASIC_AMD};
    vendor_regs(m, &r);
    add_regs(m, 0, 0, r);
    add(m, 1, 0, signature(m, h, level), 8u << 8 | MIN(1u << bits_for(cpus), 255u) << 16, m->feature[FW_1_ECX],
        m->feature[FW_1_EDX]);
    if (is_intel(m))
        add(m, 2, 0, 0x00feff01, 0xf0, 0, 0); /* "see leaves 4 and 18h", 64-byte prefetch */
}

/*
 * Deterministic cache parameters, leaf 4 and AMD's 8000001Dh in the same format. The host's caches, shared as this
 * machine's CPUs share them: first two levels by one CPU, the last by all.
 */
static void add_caches(struct cpu_model *m, const struct cpu_host *h, unsigned cpus)
{
    static const struct cpuid_regs fallback[] = {
        {0x121, 7u << 22 | 63, 63, 0},     /* 32 KiB data */
        {0x122, 7u << 22 | 63, 63, 0},     /* 32 KiB code */
        {0x143, 15u << 22 | 63, 1023, 0},  /* 1 MiB */
        {0x163, 15u << 22 | 63, 16383, 4}, /* 16 MiB */
    };
    u32 leaf = m->amd ? 0x8000001d : 4;
    bool known = cpu_host_leaf(h, leaf, 0).eax & 0x1f;
    u32 cores = m->amd ? 0 : ((1u << bits_for(cpus)) - 1) << 26;

    for (u32 i = 0; i < 8; i++) {
        struct cpuid_regs r = known                     ? cpu_host_leaf(h, leaf, i)
                              : i < ARRAY_LEN(fallback) ? fallback[i]
                                                        : (struct cpuid_regs){0};
        if (!(r.eax & 0x1f))
            break;
        u32 shared = (r.eax >> 5 & 7) >= 3 ? (1u << bits_for(cpus)) - 1 : 0;
        r.eax = (r.eax & 0x3fff) | shared << 14 | cores;
        add_regs(m, leaf, i, r);
    }
}

static void add_features(struct cpu_model *m)
{
    const u32 *f = m->feature;
    u32 last = f[FW_7_2_EDX] ? 2 : f[FW_7_1_EAX] ? 1 : 0; /* highest subleaf of 7 */
    add(m, 7, 0, last, f[FW_7_EBX], f[FW_7_ECX], f[FW_7_EDX]);
    add(m, 7, 1, f[FW_7_1_EAX], 0, 0, 0);
    add(m, 7, 2, 0, 0, 0, f[FW_7_2_EDX]);
    add(m, 6, 0, BIT(2), 0, 0, 0); /* ARAT: the APIC timer runs in every sleep state */
    if (!cpu_has(m, FEAT_XSAVE))
        return;
    add(m, 0xd, 0, (u32)m->xcr0_mask, 0, cpu_xsave_size(m->xcr0_mask), (u32)(m->xcr0_mask >> 32));
    add(m, 0xd, 1, f[FW_D_1_EAX], 0, 0, 0);
    for (size_t i = 0; i < ARRAY_LEN(components); i++)
        if (m->xcr0_mask >> components[i].bit & 1)
            add(m, 0xd, components[i].bit, components[i].size, components[i].offset, 0, 0);
}

/* Levels of topology: a thread a core, all cores in one package. */
static void add_topology(struct cpu_model *m, unsigned cpus)
{
    add(m, 0xb, 0, 0, 1, 1u << 8, 0);
    add(m, 0xb, 1, bits_for(cpus), cpus, 2u << 8 | 1, 0);
}

/*
 * Leaf 15h: find den, num and a crystal near CPU_APIC_HZ whose product is nearest to the TSC's rate; among equals the one
 * with the crystal nearest to the truth.
 */
static void crystal_ratio(u64 tsc_hz, struct cpuid_regs *r)
{
    const u64 apic_khz = CPU_APIC_HZ / 1000, tsc_khz = tsc_hz / 1000;
    u64 best_err = UINT64_MAX, best_dev = UINT64_MAX;
    for (u64 den = 1; den <= UINT32_MAX / apic_khz; den++) {
        u64 num = (tsc_khz * den + apic_khz / 2) / apic_khz;
        if (num * apic_khz > UINT32_MAX)
            break;
        u64 khz = num ? (tsc_khz * den + num - 1) / num : 0, got = khz * num / den;
        if (!num || khz * num > UINT32_MAX)
            continue;
        u64 err = got > tsc_khz ? got - tsc_khz : tsc_khz - got;
        u64 dev = khz > apic_khz ? khz - apic_khz : apic_khz - khz;
        if (err > best_err || (err == best_err && dev >= best_dev))
            continue;
        best_err = err;
        best_dev = dev;
        *r = (struct cpuid_regs){(u32)den, (u32)num, (u32)khz * 1000, 0};
    }
}

static void add_frequencies(struct cpu_model *m)
{
    struct cpuid_regs r = {0};
    u32 mhz = (u32)MIN((m->tsc_hz + 500000) / 1000000, 0xffffu);
    if (!is_intel(m))
        return;
    crystal_ratio(m->tsc_hz, &r);
    if (r.eax)
        add_regs(m, 0x15, 0, r);
    add(m, 0x16, 0, mhz, mhz, 100, 0);
}

static void add_hypervisor(struct cpu_model *m)
{
    struct cpuid_regs sig = {.eax = MAX_KVM};
    if (!cpu_has(m, FEAT_HYPERVISOR))
        return;
    memcpy(&sig.ebx, "KVMK", 4);
    memcpy(&sig.ecx, "VMKV", 4);
    memcpy(&sig.edx, "M\0\0\0", 4);
    add_regs(m, KVM_BASE, 0, sig);
    add(m, KVM_BASE + 1, 0, m->feature[FW_KVM_EAX], 0, 0, 0);
    /* Rates of TSC and APIC timer in kHz, as VMware began and others follow. */
    add(m, MAX_KVM, 0, (u32)MIN(m->tsc_hz / 1000, UINT32_MAX), CPU_APIC_HZ / 1000, 0, 0);
}

static void add_brand(struct cpu_model *m, const struct cpu_host *h, unsigned level)
{
    char brand[48] = "";
    if (level) {
        snprintf(brand, sizeof(brand), "Trapeze virtual CPU (%.20s)", m->name);
    } else {
        for (u32 i = 0; i < 3; i++) {
            struct cpuid_regs r = cpu_host_leaf(h, 0x80000002 + i, 0);
            memcpy(brand + 16 * i, &r, 16);
        }
    }
    for (u32 i = 0; i < 3; i++) {
        struct cpuid_regs r;
        memcpy(&r, brand + 16 * i, 16);
        add_regs(m, 0x80000002 + i, 0, r);
    }
}

/* What AMD's 80000001h repeats from leaf 1. */
#define AMD_REPEATED_EDX 0x0183f3ffu

static void add_extended(struct cpu_model *m, const struct cpu_host *h, unsigned level, unsigned cpus)
{
    const u32 *f = m->feature;
    struct cpuid_regs r = {.eax = m->amd ? MAX_EXT_AMD : MAX_EXT_INTEL};
    if (m->amd)
        vendor_regs(m, &r);
    add_regs(m, 0x80000000, 0, r);
    u32 edx = f[FW_80000001_EDX] | (m->amd ? f[FW_1_EDX] & AMD_REPEATED_EDX : 0);
    add(m, 0x80000001, 0, m->amd ? signature(m, h, level) : 0, 0, f[FW_80000001_ECX], edx);
    add_brand(m, h, level);
    if (m->amd)
        add_regs(m, 0x80000005, 0, cpu_host_leaf(h, 0x80000005, 0));
    r = cpu_host_leaf(h, 0x80000006, 0);
    add(m, 0x80000006, 0, m->amd ? r.eax : 0, m->amd ? r.ebx : 0, r.ecx, m->amd ? r.edx : 0);
    add(m, 0x80000007, 0, 0, 0, 0, f[FW_80000007_EDX]);
    u32 ecx = m->amd ? bits_for(cpus) << 12 | (cpus - 1) : 0;
    add(m, 0x80000008, 0, 48u << 8 | m->phys_bits, f[FW_80000008_EBX], ecx, 0);
}

static void add_amd(struct cpu_model *m, const struct cpu_host *h)
{
    if (!m->amd)
        return;
    add(m, 0x8000001a, 0, cpu_host_leaf(h, 0x8000001a, 0).eax & 7, 0, 0, 0); /* widths of the FPU's data paths */
    if (cpu_has(m, FEAT_TOPOEXT))
        add(m, 0x8000001e, 0, 0, 0, 0, 0);
    /* ECX: not affected by transient scheduler attacks (TSA_SQ_NO, TSA_L1_NO) */
    add(m, 0x80000021, 0, m->feature[FW_80000021_EAX], 0, BIT(1) | BIT(2), 0);
}

void cpu_leaves_make(struct cpu_model *m, const struct cpu_host *h, unsigned level, unsigned cpus)
{
    m->n_leaves = 0;
    add_identity(m, h, level, cpus);
    if (!m->amd || cpu_has(m, FEAT_TOPOEXT))
        add_caches(m, h, cpus);
    add_features(m);
    add_topology(m, cpus);
    add_frequencies(m);
    add_hypervisor(m);
    add_extended(m, h, level, cpus);
    add_amd(m, h);
}

/* --- the instruction -------------------------------------------------------------------------------------------- */

/* Leaves whose answer depends on ECX. */
static bool has_subleaves(u32 leaf)
{
    return leaf == 4 || leaf == 7 || leaf == 0xb || leaf == 0xd || leaf == 0x8000001d;
}

static struct cpuid_regs look_up(const struct cpu_model *m, u32 leaf, u32 subleaf)
{
    if (!has_subleaves(leaf))
        subleaf = 0;
    for (u32 i = 0; i < m->n_leaves; i++)
        if (m->leaves[i].leaf == leaf && m->leaves[i].subleaf == subleaf)
            return m->leaves[i].r;
    return (struct cpuid_regs){0};
}

/* The leaf that answers when `leaf` is asked for: itself, or what the vendor puts in the place of one beyond the end. */
static u32 effective_leaf(const struct cpu_model *m, u32 leaf)
{
    u32 basic = m->amd ? MAX_BASIC_AMD : MAX_BASIC_INTEL, max;
    if (!is_intel(m))
        return leaf; /* not in the table: zeros */
    if (leaf >> 28 == KVM_BASE >> 28)
        return leaf;
    if (leaf & BIT(31))
        max = leaf >> 16 == 0x8000 ? MAX_EXT_INTEL : 0;
    else
        max = basic;
    return leaf > max ? basic : leaf;
}

/* Put in what follows the CPU's state. */
static void adjust(const struct cpu *c, u32 leaf, u32 subleaf, struct cpuid_regs *r)
{
    const struct cpu_model *m = c->model;
    switch (leaf) {
    case 1:
        r->ebx |= (u32)c->id << 24;
        if (c->cr4 & CR4_OSXSAVE)
            r->ecx |= BIT(27);
        break;
    case 0xb:
        r->edx = c->id;
        if (subleaf > 1)
            r->ecx = subleaf & 0xff;
        break;
    case 0xd:
        if (subleaf == 0 && r->ecx)
            r->ebx = cpu_xsave_size(c->xcr0);
        else if (subleaf == 1 && cpu_has(m, FEAT_XSAVEC))
            r->ebx = cpu_xsave_compact_size(c->xcr0);
        break;
    case 0x80000001:
        if (is_intel(m) && !cpu_code64(c))
            r->edx &= ~(u32)BIT(FEAT_SYSCALL % 32);
        break;
    case 0x8000001e:
        if (cpu_has(m, FEAT_TOPOEXT)) {
            r->eax = c->id;
            r->ebx = c->id; /* core id, one thread a core */
        }
        break;
    }
}

struct cpuid_regs cpu_cpuid(const struct cpu *c, u32 leaf, u32 subleaf)
{
    u32 effective = effective_leaf(c->model, leaf);
    struct cpuid_regs r = look_up(c->model, effective, subleaf);
    adjust(c, effective, subleaf, &r);
    return r;
}
