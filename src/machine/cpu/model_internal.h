/* What model.c and cpuid.c share. */
#ifndef TRAPEZE_MACHINE_CPU_MODEL_INTERNAL_H
#define TRAPEZE_MACHINE_CPU_MODEL_INTERNAL_H

#include "machine/cpu/cpu_features.h"
#include "machine/cpu/cpuid.h"

/* Where a feature word stands in CPUID; model.c's and cpuid.c's common table. */
struct cpu_feature_place {
    u32 leaf, subleaf;
    u32 reg; /* index into EAX, EBX, ECX, EDX */
};
extern const struct cpu_feature_place cpu_feature_places[CPU_FEATURE_WORDS];

static inline struct cpuid_regs host_cpuid(const struct cpu_host *h, u32 leaf, u32 subleaf)
{
    return h->cpuid(h->ctx, leaf, subleaf);
}
/* A leaf of the host, or zeros when it's beyond the end of its range. */
struct cpuid_regs cpu_host_leaf(const struct cpu_host *h, u32 leaf, u32 subleaf);

/* Fill m->leaves from the features and numbers that are already in `m`. `level` is 0 for the host's own identity. */
void cpu_leaves_make(struct cpu_model *m, const struct cpu_host *h, unsigned level, unsigned cpus);

#endif
