/*
 * The table of model-specific registers.
 *
 * A row is one register or a run of them: where its value is kept in struct cpu (or which constant it reads as), who may
 * have it (vendor, feature), which values a write accepts, and whom a write concerns. Everything that is not in the table,
 * and rows whose vendor or feature the model hasn't, raise #GP(0) on both RDMSR and WRMSR. Counters of power, thermal
 * state and performance are left out on purpose: guests probe for them and do without.
 *
 * What must stay true
 *  1. A row with `kept` accepts by `accepts` alone: the same function checks WRMSR and the value in a record.
 *  2. A write that is refused has changed nothing.
 *  3. Values that speak of addresses are checked when they are written, and go through mem.h when they are used.
 *
 * Speculation control is storage: it works on predictors of a processor that no engine exposes as such. What is
 * promised in ARCH_CAPABILITIES ("not affected") lets a Linux guest leave out page-table isolation, retpolines and buffer
 * clearing; BHI_DIS_S (SPEC_CTRL bit 10) spares it the loop on each system call that newer ones run in spite of BHI_NO. Attacks of guest user on guest kernel through speculation are out of scope unless --mitigations keeps
 * the guest's own.
 *
 * Not done: DEBUGCTL keeps LBR and BTF without branch records or stepping by branches; machine-check banks (MCG_CAP says
 * there are none); the memory types that MTRRs and PAT hold have no effect.
 *
 * Sources: Intel SDM vol. 4; vol. 3A, 9.8.1, 12.11 (MTRR), 12.12 (PAT); vol. 3B, 16.3 (MCA), 18.17 (TSC); AMD APM vol. 2,
 * appendix A; Linux Documentation/virt/kvm/x86/msr.rst.
 */
#include "machine/cpu/msr.h"
#include "machine/cpu/cpu_features.h"
#include "machine/cpu/kvmpv.h"

#include <errno.h>
#include <string.h>

/* IA32_ARCH_CAPABILITIES: not affected by anything that can be said (SDM vol. 4, table 2-2) */
#define ARCH_CAPS                                                                                              \
    (BIT(0) /* RDCL_NO */ | BIT(1) /* IBRS_ALL */ | BIT(3) /* SKIP_L1DFL_VMENTRY */ | BIT(4) /* SSB_NO */ |    \
     BIT(5) /* MDS_NO */ | BIT(6) /* IF_PSCHANGE_MC_NO */ | BIT(8) /* TAA_NO */ | BIT(13) /* SBDR_SSDP_NO */ | \
     BIT(14) /* FBSDP_NO */ | BIT(15) /* PSDP_NO */ | BIT(20) /* BHI_NO */ | BIT(24) /* PBRSB_NO */ |          \
     BIT(26) /* GDS_NO */ | BIT(27) /* RFDS_NO */ | BIT(62) /* ITS_NO */)

#define MTRR_CAP         (8u | BIT(8) /* fixed ranges */ | BIT(10) /* write combining */)
#define MTRR_DEF_ENABLE  BIT(11)
#define MTRR_DEF_FIXED   BIT(10)
#define MTRR_MASK_VALID  BIT(11)
#define MTRR_WB          6u
#define MTRR_WP          5u
#define MISC_ENABLE_FAST 1u
#define MISC_ENABLE_RO   (BIT(11) | BIT(12)) /* no branch trace store, no PEBS */
#define HWCR_VALUE       BIT(24)             /* TSC counts at P0 frequency */
#define DE_CFG_VALUE     BIT(1)              /* LFENCE is serialising */
#define VM_CR_VALUE      (BIT(3) | BIT(4))   /* SVM locked and disabled */

struct msr_row {
    u32 first, last;
    const char *name;
    u16 kept;   /* offset of the first one's u64 in struct cpu, or 0 */
    u8 stride;  /* distance of the run's indexes, 0 for 1 */
    u8 vendor;  /* enum cpu_feature_vendor */
    u16 needs;  /* FEAT_*, or 0 for none */
    u8 effects; /* MSR_CHANGES_* */
    bool write_ignored, write_only;
    u64 value; /* what a row without `kept` reads as */
    bool (*accepts)(const struct cpu *c, u64 v);
    /* Instead of plain storage; both may assume the row applies. */
    int (*read)(struct cpu *c, u64 *v, const struct cpu_msr_env *env);
    int (*write)(struct cpu *c, u32 index, u64 v, const struct cpu_msr_env *env);
};

/* --- which values are accepted ---------------------------------------------------------------------------------- */

static bool intel(const struct cpu *c)
{
    return !c->model || !c->model->amd;
}
static bool has(const struct cpu *c, u32 feature)
{
    return !c->model || cpu_has(c->model, feature);
}

static bool any(const struct cpu *c, u64 v)
{
    return true;
}
static bool canonical(const struct cpu *c, u64 v)
{
    return (u64)((s64)(v << 16) >> 16) == v;
}
static bool low32(const struct cpu *c, u64 v)
{
    return !(v >> 32);
}
/* AMD's SYSENTER registers hold 32 bits, Intel's a canonical address. */
static bool sysenter_address(const struct cpu *c, u64 v)
{
    return intel(c) ? canonical(c, v) : low32(c, v);
}
static bool spec_ctrl(const struct cpu *c, u64 v)
{
    bool stibp = intel(c) ? has(c, FEAT_INTEL_STIBP) : has(c, FEAT_AMD_STIBP);
    bool bhi = intel(c) && has(c, FEAT_BHI_CTRL);
    return !(v & ~(1 | (stibp ? BIT(1) : 0) | (bhi ? BIT(10) : 0)));
}
static bool pred_cmd(const struct cpu *c, u64 v)
{
    return !(v & ~1ull);
}
static bool zero(const struct cpu *c, u64 v)
{
    return v == 0;
}
/* Bits 11 and 12 read as set and are ignored; of the rest only fast strings exists here. */
static bool misc_enable(const struct cpu *c, u64 v)
{
    return !(v & ~(MISC_ENABLE_FAST | MISC_ENABLE_RO));
}
static bool debugctl(const struct cpu *c, u64 v)
{
    return !(v & ~3ull);
}
static bool mcg_status(const struct cpu *c, u64 v)
{
    return !(v & ~7ull);
}
static bool mcg_ctl(const struct cpu *c, u64 v)
{
    return v == 0 || v == ~0ull;
}
static bool memory_type(u8 t, bool pat)
{
    return t == 0 || t == 1 || (t >= 4 && t <= 6) || (pat && t == 7);
}
static bool eight_types(u64 v, bool pat)
{
    for (int i = 0; i < 64; i += 8)
        if (!memory_type((u8)(v >> i), pat))
            return false;
    return true;
}
static bool pat(const struct cpu *c, u64 v)
{
    return eight_types(v, true);
}
static bool mtrr_fixed(const struct cpu *c, u64 v)
{
    return eight_types(v, false);
}
static u64 beyond_phys(const struct cpu *c)
{
    return ~0ull << (c->model ? c->model->phys_bits : 52);
}
static bool mtrr_base(const struct cpu *c, u64 v)
{
    return !(v & (beyond_phys(c) | 0xf00)) && memory_type((u8)v, false);
}
static bool mtrr_mask(const struct cpu *c, u64 v)
{
    return !(v & (beyond_phys(c) | 0x7ff));
}
static bool mtrr_def_type(const struct cpu *c, u64 v)
{
    return !(v & ~(MTRR_DEF_ENABLE | MTRR_DEF_FIXED | 0xff)) && memory_type((u8)v, false);
}
static bool hwcr(const struct cpu *c, u64 v)
{
    /* SLOWFENCE, FFDIS, TLBCACHEDIS, IGNNE and the bit that is always set: what systems write, without effect */
    return !(v & ~(BIT(3) | BIT(4) | BIT(6) | BIT(8) | HWCR_VALUE));
}
/* Linux switches extended configuration cycles on without asking; there are none to extend. */
static bool nb_cfg(const struct cpu *c, u64 v)
{
    return !(v & ~BIT(46));
}
static bool de_cfg(const struct cpu *c, u64 v)
{
    return v == DE_CFG_VALUE;
}
static bool steal_time(const struct cpu *c, u64 v)
{
    return !(v & KVM_STEAL_RESERVED);
}
static bool pv_eoi(const struct cpu *c, u64 v)
{
    return !(v & KVM_MSR_ENABLED) || !(v & 2);
}

/* --- registers that are more than storage ----------------------------------------------------------------------- */

static int write_efer(struct cpu *c, u32 index, u64 v, const struct cpu_msr_env *env)
{
    u64 mask = c->model ? c->model->efer_mask : EFER_SCE | EFER_LME | EFER_NXE;
    if (v & ~(mask | EFER_LMA) || (c->cr0 & CR0_PG && (v ^ c->efer) & EFER_LME))
        return cpu_raise_error(c, VEC_GP, 0);
    c->efer = (v & ~EFER_LMA) | (c->efer & EFER_LMA);
    return CPU_OK;
}

static int read_tsc(struct cpu *c, u64 *v, const struct cpu_msr_env *env)
{
    *v = vclock_tsc(env->clock) + c->tsc_offset;
    return CPU_OK;
}

/* TSC and TSC_ADJUST move together, whichever is written (SDM vol. 3B, 18.17.3). */
static void move_tsc(struct cpu *c, u64 by, const struct cpu_msr_env *env)
{
    c->tsc_offset += by;
    c->msr.tsc_adjust += by;
    kvmpv_clock_refresh(c, env->mem, env->clock, false);
}
static int write_tsc(struct cpu *c, u32 index, u64 v, const struct cpu_msr_env *env)
{
    move_tsc(c, v - (vclock_tsc(env->clock) + c->tsc_offset), env);
    return CPU_OK;
}
static int write_tsc_adjust(struct cpu *c, u32 index, u64 v, const struct cpu_msr_env *env)
{
    move_tsc(c, v - c->msr.tsc_adjust, env);
    return CPU_OK;
}

static int write_tsc_aux(struct cpu *c, u32 index, u64 v, const struct cpu_msr_env *env)
{
    if (intel(c) && v >> 32)
        return cpu_raise_error(c, VEC_GP, 0);
    c->msr.tsc_aux = (u32)v; /* AMD ignores the upper half */
    return CPU_OK;
}

static int write_sysenter_cs(struct cpu *c, u32 index, u64 v, const struct cpu_msr_env *env)
{
    c->msr.sysenter_cs = (u32)v;
    return CPU_OK;
}

static int write_sysenter_address(struct cpu *c, u32 index, u64 v, const struct cpu_msr_env *env)
{
    if (!intel(c))
        v = (u32)v;
    else if (!canonical(c, v))
        return cpu_raise_error(c, VEC_GP, 0);
    *(index == 0x175 ? &c->msr.sysenter_esp : &c->msr.sysenter_eip) = v;
    return CPU_OK;
}

static int write_misc_enable(struct cpu *c, u32 index, u64 v, const struct cpu_msr_env *env)
{
    if (!misc_enable(c, v))
        return cpu_raise_error(c, VEC_GP, 0);
    c->msr.misc_enable = v | MISC_ENABLE_RO;
    return CPU_OK;
}

static int read_platform_info(struct cpu *c, u64 *v, const struct cpu_msr_env *env)
{
    u64 ratio = c->model ? (c->model->tsc_hz + 50000000) / 100000000 : 0;
    *v = (ratio & 0xff) << 8; /* maximum non-turbo ratio; nothing programmable, no CPUID faulting */
    return CPU_OK;
}

static int write_system_time(struct cpu *c, u32 index, u64 v, const struct cpu_msr_env *env)
{
    c->msr.kvm_system_time = v;
    kvmpv_clock_refresh(c, env->mem, env->clock, false);
    return CPU_OK;
}
static int write_wall_clock(struct cpu *c, u32 index, u64 v, const struct cpu_msr_env *env)
{
    c->msr.kvm_wall_clock = v;
    kvmpv_wall_clock_write(c, env->mem, env->clock);
    return CPU_OK;
}

/* --- the table -------------------------------------------------------------------------------------------------- */

#define KEPT(member) .kept = offsetof(struct cpu, member)
#define ONE(index)   .first = (index), .last = (index)
#define INTEL        .vendor = CPU_FEATURE_INTEL
#define AMD          .vendor = CPU_FEATURE_AMD

static const struct msr_row table[] = {
    /* system calls, segment bases, modes */
    {ONE(MSR_EFER), "EFER", KEPT(efer), .write = write_efer, .effects = MSR_CHANGES_MODE},
    {ONE(MSR_STAR), "STAR", KEPT(msr.star), .accepts = any},
    {ONE(MSR_LSTAR), "LSTAR", KEPT(msr.lstar), .accepts = canonical},
    {ONE(MSR_CSTAR), "CSTAR", KEPT(msr.cstar), .accepts = canonical},
    {ONE(MSR_SFMASK), "SFMASK", KEPT(msr.sfmask), .accepts = low32},
    {ONE(MSR_FS_BASE), "FS_BASE", KEPT(seg[SEG_FS].base), .accepts = canonical, .effects = MSR_CHANGES_SEGMENT},
    {ONE(MSR_GS_BASE), "GS_BASE", KEPT(seg[SEG_GS].base), .accepts = canonical, .effects = MSR_CHANGES_SEGMENT},
    {ONE(MSR_KERNEL_GS_BASE), "KERNEL_GS_BASE", KEPT(msr.kernel_gs_base), .accepts = canonical},
    {ONE(MSR_TSC_AUX), "TSC_AUX", KEPT(msr.tsc_aux), .accepts = low32, .write = write_tsc_aux, .needs = FEAT_RDTSCP},
    {ONE(0x174), "SYSENTER_CS", KEPT(msr.sysenter_cs), .accepts = low32, .write = write_sysenter_cs},
    {ONE(0x175), "SYSENTER_ESP", KEPT(msr.sysenter_esp), .accepts = sysenter_address, .write = write_sysenter_address},
    {ONE(0x176), "SYSENTER_EIP", KEPT(msr.sysenter_eip), .accepts = sysenter_address, .write = write_sysenter_address},

    /* time */
    {ONE(MSR_TSC), "TSC", .read = read_tsc, .write = write_tsc, .effects = MSR_CHANGES_TSC},
    {ONE(MSR_TSC_ADJUST), "TSC_ADJUST", KEPT(msr.tsc_adjust), .write = write_tsc_adjust, .needs = FEAT_TSC_ADJUST,
     .effects = MSR_CHANGES_TSC},

    /* memory types */
    {ONE(0xfe), "MTRRCAP", .value = MTRR_CAP},
    {0x200, 0x20e, "MTRR_PHYSBASE", KEPT(msr.mtrr_base), .stride = 2, .accepts = mtrr_base},
    {0x201, 0x20f, "MTRR_PHYSMASK", KEPT(msr.mtrr_mask), .stride = 2, .accepts = mtrr_mask},
    {ONE(0x250), "MTRR_FIX64K", KEPT(msr.mtrr_fixed[0]), .accepts = mtrr_fixed},
    {0x258, 0x259, "MTRR_FIX16K", KEPT(msr.mtrr_fixed[1]), .accepts = mtrr_fixed},
    {0x268, 0x26f, "MTRR_FIX4K", KEPT(msr.mtrr_fixed[3]), .accepts = mtrr_fixed},
    {ONE(MSR_PAT), "PAT", KEPT(msr.pat), .accepts = pat},
    {ONE(MSR_MTRR_DEF_TYPE), "MTRR_DEF_TYPE", KEPT(msr.mtrr_def_type), .accepts = mtrr_def_type},

    /* machine check: MCG_CTL exists, no banks */
    {0x0, 0x1, "P5_MC", .write_ignored = true, .accepts = any},
    {ONE(0x179), "MCG_CAP", .value = BIT(8)},
    {ONE(0x17a), "MCG_STATUS", KEPT(msr.mcg_status), .accepts = mcg_status},
    {ONE(0x17b), "MCG_CTL", KEPT(msr.mcg_ctl), .accepts = mcg_ctl},

    /* speculation */
    {ONE(MSR_SPEC_CTRL), "SPEC_CTRL", KEPT(msr.spec_ctrl), .accepts = spec_ctrl, .needs = FEAT_SPEC_CTRL, INTEL},
    {ONE(MSR_SPEC_CTRL), "SPEC_CTRL", KEPT(msr.spec_ctrl), .accepts = spec_ctrl, .needs = FEAT_AMD_IBRS, AMD},
    {ONE(MSR_PRED_CMD), "PRED_CMD", .write_only = true, .write_ignored = true, .accepts = pred_cmd,
     .needs = FEAT_SPEC_CTRL, INTEL},
    {ONE(MSR_PRED_CMD), "PRED_CMD", .write_only = true, .write_ignored = true, .accepts = pred_cmd,
     .needs = FEAT_AMD_IBPB, AMD},
    {ONE(0x10a), "ARCH_CAPABILITIES", .value = ARCH_CAPS, .needs = FEAT_ARCH_CAPABILITIES, INTEL},
    {ONE(0x10b), "FLUSH_CMD", .write_only = true, .write_ignored = true, .accepts = pred_cmd, .needs = FEAT_FLUSH_L1D,
     INTEL},

    /* debugging */
    {ONE(0x1d9), "DEBUGCTL", KEPT(msr.debugctl), .accepts = debugctl},
    {0x1db, 0x1de, "LAST_BRANCH", .value = 0},

    /* Intel's identity and switches */
    {ONE(0x17), "PLATFORM_ID", INTEL},
    {ONE(0x2a), "EBL_CR_POWERON", .write_ignored = true, .accepts = zero, INTEL},
    {ONE(0x34), "SMI_COUNT", INTEL},
    {ONE(0x3a), "FEATURE_CONTROL", .value = 1 /* locked: no VMX, no SGX */, INTEL},
    {ONE(0x79), "BIOS_UPDT_TRIG", .write_only = true, .write_ignored = true, .accepts = any, INTEL},
    {ONE(0x8b), "BIOS_SIGN_ID", KEPT(msr.microcode_rev), .write_ignored = true, .accepts = any},
    {ONE(0xce), "PLATFORM_INFO", .read = read_platform_info, INTEL},
    {ONE(0x1a0), "MISC_ENABLE", KEPT(msr.misc_enable), .accepts = misc_enable, .write = write_misc_enable, INTEL},

    /* AMD's */
    {ONE(0xc0010010), "SYSCFG", .write_ignored = true, .accepts = zero, AMD},
    {ONE(0xc0010015), "HWCR", .value = HWCR_VALUE, .write_ignored = true, .accepts = hwcr, AMD},
    {0xc0010016, 0xc001001a, "IORR_TOP_MEM", .write_ignored = true, .accepts = zero, AMD},
    {ONE(0xc001001d), "TOP_MEM2", .write_ignored = true, .accepts = zero, AMD},
    {ONE(0xc001001f), "NB_CFG", .write_ignored = true, .accepts = nb_cfg, AMD},
    {ONE(0xc0010020), "PATCH_LOADER", .write_only = true, .write_ignored = true, .accepts = any, AMD},
    {ONE(0xc0010055), "INT_PENDING", .write_ignored = true, .accepts = zero, AMD},
    {ONE(0xc0010058), "MMIO_CONF_BASE", .write_ignored = true, .accepts = zero, AMD},
    {0xc0010112, 0xc0010113, "SMM_ADDR_MASK", .write_ignored = true, .accepts = zero, AMD},
    {ONE(0xc0010114), "VM_CR", .value = VM_CR_VALUE, AMD},
    {ONE(0xc0011029), "DE_CFG", .value = DE_CFG_VALUE, .write_ignored = true, .accepts = de_cfg, AMD},

    /* KVM's */
    {ONE(MSR_KVM_WALL_CLOCK), "KVM_WALL_CLOCK", KEPT(msr.kvm_wall_clock), .accepts = any, .write = write_wall_clock,
     .needs = FEAT_KVM_CLOCKSOURCE},
    {ONE(MSR_KVM_WALL_CLOCK_2), "KVM_WALL_CLOCK_NEW", KEPT(msr.kvm_wall_clock), .accepts = any,
     .write = write_wall_clock, .needs = FEAT_KVM_CLOCKSOURCE2},
    {ONE(MSR_KVM_SYSTEM_TIME), "KVM_SYSTEM_TIME", KEPT(msr.kvm_system_time), .accepts = any, .write = write_system_time,
     .needs = FEAT_KVM_CLOCKSOURCE},
    {ONE(MSR_KVM_SYSTEM_TIME_2), "KVM_SYSTEM_TIME_NEW", KEPT(msr.kvm_system_time), .accepts = any,
     .write = write_system_time, .needs = FEAT_KVM_CLOCKSOURCE2},
    {ONE(MSR_KVM_STEAL_TIME), "KVM_STEAL_TIME", KEPT(msr.kvm_steal_time), .accepts = steal_time,
     .needs = FEAT_KVM_STEAL_TIME},
    {ONE(MSR_KVM_PV_EOI), "KVM_PV_EOI", KEPT(msr.kvm_pv_eoi), .accepts = pv_eoi, .needs = FEAT_KVM_PV_EOI,
     .effects = MSR_CHANGES_PV_EOI},
};

/* --- access ----------------------------------------------------------------------------------------------------- */

static bool covers(const struct msr_row *r, u32 index)
{
    return index >= r->first && index <= r->last && (index - r->first) % (r->stride ? r->stride : 1) == 0;
}

static bool applies(const struct msr_row *r, const struct cpu *c)
{
    const struct cpu_model *m = c->model;
    if (!m)
        return r->vendor != CPU_FEATURE_AMD;
    if (r->vendor == CPU_FEATURE_AMD ? !m->amd : r->vendor == CPU_FEATURE_INTEL && m->amd)
        return false;
    return !r->needs || cpu_has(m, r->needs);
}

static const struct msr_row *find(const struct cpu *c, u32 index)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (covers(&table[i], index) && applies(&table[i], c))
            return &table[i];
    return NULL;
}

static u64 *kept(const struct msr_row *r, struct cpu *c, u32 index)
{
    u32 n = (index - r->first) / (r->stride ? r->stride : 1);
    return (u64 *)(void *)((u8 *)c + r->kept) + n;
}

int cpu_msr_read(struct cpu *c, u32 index, u64 *v, const struct cpu_msr_env *env)
{
    const struct msr_row *r = find(c, index);
    if (!r || r->write_only)
        return cpu_raise_error(c, VEC_GP, 0);
    if (r->read)
        return r->read(c, v, env);
    *v = r->kept ? *kept(r, c, index) : r->value;
    return CPU_OK;
}

int cpu_msr_write(struct cpu *c, u32 index, u64 v, const struct cpu_msr_env *env)
{
    const struct msr_row *r = find(c, index);
    if (r && r->write)
        return r->write(c, index, v, env);
    /* Without `accepts` a register is read-only. */
    if (!r || !r->accepts || !r->accepts(c, v))
        return cpu_raise_error(c, VEC_GP, 0);
    if (!r->write_ignored)
        *kept(r, c, index) = v;
    return CPU_OK;
}

u32 cpu_msr_effects(u32 index)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (covers(&table[i], index))
            return table[i].effects;
    return 0;
}

const char *cpu_msr_name(u32 index)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++)
        if (covers(&table[i], index))
            return table[i].name;
    return NULL;
}

/*
 * As firmware hands the machine over: everything write-back, but a0000-bffff and 3 to 4 GiB uncached and the BIOS area
 * write-protected. Linux disables PAT when it finds the MTRRs off.
 */
void cpu_msr_firmware(struct cpu *c)
{
    const u64 wb = 0x0606060606060606ull, wp = 0x0505050505050505ull;
    struct cpu_msrs *m = &c->msr;
    m->mtrr_fixed[0] = wb; /* 00000-7ffff */
    m->mtrr_fixed[1] = wb; /* 80000-9ffff */
    m->mtrr_fixed[2] = 0;  /* a0000-bffff */
    for (int i = 3; i < 11; i++)
        m->mtrr_fixed[i] = wp; /* c0000-fffff */
    m->mtrr_base[0] = MEM_LOW_MAX;
    m->mtrr_mask[0] = (~beyond_phys(c) & ~(MEM_HIGH_BASE - MEM_LOW_MAX - 1)) | MTRR_MASK_VALID;
    m->mtrr_def_type = MTRR_DEF_ENABLE | MTRR_DEF_FIXED | MTRR_WB;
}

int cpu_msrs_check(const struct cpu *c, struct error *e)
{
    for (size_t i = 0; i < ARRAY_LEN(table); i++) {
        const struct msr_row *r = &table[i];
        if (!r->kept || !r->accepts || !applies(r, c))
            continue;
        for (u32 index = r->first; index <= r->last; index += r->stride ? r->stride : 1) {
            u64 v = *kept(r, (struct cpu *)(uintptr_t)c, index);
            if (!r->accepts(c, v))
                return error_set(e, EINVAL, "MSR %xh (%s) = %llx: WRMSR would not accept this value", index, r->name,
                                 (unsigned long long)v);
        }
    }
    return 0;
}
