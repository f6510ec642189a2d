/*
 * Model-specific registers, all but the local APIC's (1Bh, 6E0h, 800h-8FFh: machine/irq/irq.h, asked before these).
 *
 * A caller of cpu_msr_write looks at cpu_msr_effects(index) afterwards and passes on what others keyed on the old value.
 */
#ifndef TRAPEZE_MACHINE_MSR_H
#define TRAPEZE_MACHINE_MSR_H

#include "base/error.h"
#include "machine/cpu/cpu.h"
#include "machine/mem/mem.h"
#include "machine/time/clock.h"

/* Indexes that other files name; the rest stands in msr.c's table only. */
#define MSR_TSC               0x10u
#define MSR_TSC_ADJUST        0x3bu
#define MSR_SPEC_CTRL         0x48u
#define MSR_PRED_CMD          0x49u
#define MSR_MTRR_DEF_TYPE     0x2ffu
#define MSR_PAT               0x277u
#define MSR_EFER              0xc0000080u
#define MSR_STAR              0xc0000081u
#define MSR_LSTAR             0xc0000082u
#define MSR_CSTAR             0xc0000083u
#define MSR_SFMASK            0xc0000084u
#define MSR_FS_BASE           0xc0000100u
#define MSR_GS_BASE           0xc0000101u
#define MSR_KERNEL_GS_BASE    0xc0000102u
#define MSR_TSC_AUX           0xc0000103u
#define MSR_KVM_WALL_CLOCK    0x11u
#define MSR_KVM_SYSTEM_TIME   0x12u
#define MSR_KVM_WALL_CLOCK_2  0x4b564d00u
#define MSR_KVM_SYSTEM_TIME_2 0x4b564d01u
#define MSR_KVM_STEAL_TIME    0x4b564d03u
#define MSR_KVM_PV_EOI        0x4b564d04u

#define KVM_MSR_ENABLED       1u /* bit 0 of KVM's registers that hold an address */
#define KVM_STEAL_RESERVED    0x3eu

/* What MSRs reach beyond struct cpu. Both are needed. */
struct cpu_msr_env {
    struct vclock *clock;
    struct guest_mem *mem;
};

/* RDMSR and WRMSR after the privilege check. CPU_OK, or CPU_FAULT with #GP(0) and nothing changed. */
int cpu_msr_read(struct cpu *c, u32 index, u64 *v, const struct cpu_msr_env *env);
int cpu_msr_write(struct cpu *c, u32 index, u64 v, const struct cpu_msr_env *env);

/* Who has to hear of a successful write. */
#define MSR_CHANGES_MODE    1u /* EFER: flush translations and call mode_changed */
#define MSR_CHANGES_SEGMENT 2u /* FS or GS base: an engine that keeps bases elsewhere reloads them (mode_changed) */
#define MSR_CHANGES_TSC     4u /* cpu->tsc_offset moved: an armed TSC deadline has to be set again */
#define MSR_CHANGES_PV_EOI  8u /* PV EOI went on or off: irqchip_set_pv_eoi */
u32 cpu_msr_effects(u32 index);

/* Name of an MSR for people, or NULL when there's none of this index. */
const char *cpu_msr_name(u32 index);

/* Leave the memory-type registers as firmware does: on, write-back for RAM, uncached for the device hole. */
void cpu_msr_firmware(struct cpu *c);

/* For the record: refuse stored values that no WRMSR would have accepted. 0 or -EINVAL. */
int cpu_msrs_check(const struct cpu *c, struct error *e);

#endif
