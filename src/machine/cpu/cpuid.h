/*
 * CPU models: what CPUID says, and what follows from it.
 *
 * A model is made once when the machine is made and is constant after that. It is what `--cpu` chose, cut down to what
 * the host has and the machine can carry.
 */
#ifndef TRAPEZE_MACHINE_CPUID_H
#define TRAPEZE_MACHINE_CPUID_H

#include "base/error.h"
#include "machine/cpu/cpu.h"

struct cpuid_regs {
    u32 eax, ebx, ecx, edx;
};

struct cpuid_leaf {
    u32 leaf, subleaf;
    struct cpuid_regs r;
};

/*
 * Features as one bitmap, a word a CPUID register. The order of words is fixed; FEAT(word, bit) names a feature, the
 * named ones are in cpu_features.h (one X-macro table: name, word, bit, what it needs).
 */
enum cpu_feature_word {
    FW_1_ECX,
    FW_1_EDX,
    FW_7_EBX,
    FW_7_ECX,
    FW_7_EDX,
    FW_7_1_EAX,
    FW_7_2_EDX,
    FW_D_1_EAX,
    FW_80000001_ECX,
    FW_80000001_EDX,
    FW_80000007_EDX,
    FW_80000008_EBX,
    FW_80000021_EAX,
    FW_KVM_EAX,
    CPU_FEATURE_WORDS
};
#define FEAT(word, bit) ((word)*32u + (bit))

#define CPU_MAX_LEAVES  96

/* Rate of the local APIC's timer before its divider: what leaves 15h (crystal) and 40000010h tell the guest. */
#define CPU_APIC_HZ 1000000000u

struct cpu_model {
    char name[32];   /* as given: host, x86-64-v3, ... */
    char vendor[13]; /* GenuineIntel, AuthenticAMD, ...: always the host's, as undefined results are */
    bool amd;        /* AMD-compatible rules where the vendors differ (also Hygon) */
    u32 feature[CPU_FEATURE_WORDS];
    u64 xcr0_mask;  /* components a guest may set in XCR0 */
    u64 cr4_mask;   /* bits a guest may set in CR4 */
    u64 efer_mask;  /* bits a guest may set in EFER */
    u32 phys_bits;  /* MAXPHYADDR */
    u32 mxcsr_mask; /* bits a guest may set in MXCSR: what the host's FXSAVE says */
    u64 tsc_hz;
    u32 n_leaves;
    struct cpuid_leaf leaves[CPU_MAX_LEAVES];
};

static inline bool cpu_has(const struct cpu_model *m, u32 feat)
{
    return m->feature[feat / 32] >> (feat % 32) & 1;
}

/*
 * Build the model named `spec` ("host", "x86-64-v2", "x86-64-v3", "x86-64-v4", each followed by any of ",+FEATURE" and
 * ",-FEATURE" with the names of cpu_features.h). `tsc_hz` is the frequency of the guest's TSC. -EINVAL with a message
 * for an unknown name, and for a level that this host can not run (the message names the missing features).
 */
int cpu_model_make(struct cpu_model *m, const char *spec, u64 tsc_hz, unsigned cpus, struct error *e);

/* A host as the makers of models see it; tests invent their own. */
struct cpu_host {
    struct cpuid_regs (*cpuid)(void *ctx, u32 leaf, u32 subleaf);
    void *ctx;
    u64 xcr0;       /* what the host's system has enabled; 0 without OSXSAVE */
    u32 mxcsr_mask; /* as FXSAVE gives it */
};

/* Look at the CPU that this runs on. */
void cpu_host_probe(struct cpu_host *h);

/* cpu_model_make for a given host. */
int cpu_model_make_for(struct cpu_model *m, const struct cpu_host *h, const char *spec, u64 tsc_hz, unsigned cpus,
                       struct error *e);

/*
 * Execute CPUID for `c` as it is now (OSXSAVE, leaf 0Dh sizes and the APIC id follow the state): the result is what
 * EAX..EDX get. Leaves out of range follow the vendor's rule.
 */
struct cpuid_regs cpu_cpuid(const struct cpu *c, u32 leaf, u32 subleaf);

/* Would XSETBV accept this value, `carried` being the components on offer (SDM vol. 1, 13.3)? */
static inline bool cpu_xcr0_valid(u64 x, u64 carried)
{
    u64 avx512 = x & XCR0_AVX512;
    if (x & ~carried || !(x & XCR0_X87) || (x & XCR0_AVX && !(x & XCR0_SSE)))
        return false;
    return !avx512 || (avx512 == XCR0_AVX512 && x & XCR0_AVX);
}

/* Bytes of the XSAVE area, standard format, for the components of `xcr0`. */
u32 cpu_xsave_size(u64 xcr0);
/* The same in the compacted format. */
u32 cpu_xsave_compact_size(u64 xcr0);

/* Hypercalls that KVM's leaf promises (Linux Documentation/virt/kvm/x86/hypercalls.rst), and their errors. */
#define KVM_HC_KICK_CPU 5u
#define KVM_HC_SEND_IPI 10u
#define KVM_EPERM       1
#define KVM_EINVAL      22
#define KVM_ENOSYS      1000

#endif
