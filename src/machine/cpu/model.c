/*
 * CPU models: from "host,-avx512f" to the features a guest gets, and to the masks that follow from them.
 *
 * One table (cpu_features.h) says for each feature on what terms it is offered. A model starts as all the host has ("host")
 * or as what a level of the x86-64 psABI lists ("x86-64-v3"), always with what the machine provides itself; then
 * ",+F,-F" are applied in order; then features whose parent is missing fall. What is asked for and can't be had is an
 * error that names it: nothing is left out silently.
 *
 * Instructions run natively on this very CPU, so their undefined results, FPU quirks and rounding of reciprocals are
 * the host's in every model. Hence a named level keeps the host's vendor string: it promises which instructions exist.
 *
 * A feature of the AVX and AVX-512 groups counts as the host's only if the host's system has enabled its registers in XCR0.
 */
#include "machine/cpu/model_internal.h"

#include <cpuid.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

#define MAX_PHYS_BITS 46u /* what the machine's page walk and memory map are tested with; ample */
#define MAX_LEVEL     4u

static const struct cpu_feature_row rows[] = {
#define X(ident, text, word, bit, group, lowest, maker, needs) \
    {.name = text,                                             \
     .feature = FEAT_##ident,                                  \
     .parent = FEAT_##needs,                                   \
     .kind = CPU_FEATURE_##group,                              \
     .level = lowest,                                          \
     .vendor = CPU_FEATURE_##maker},
    CPU_FEATURES(X)
#undef X
};

const struct cpu_feature_row *cpu_feature_rows(size_t *n)
{
    *n = ARRAY_LEN(rows);
    return rows;
}

const struct cpu_feature_place cpu_feature_places[CPU_FEATURE_WORDS] = {
    [FW_1_ECX] = {1, 0, 2},
    [FW_1_EDX] = {1, 0, 3},
    [FW_7_EBX] = {7, 0, 1},
    [FW_7_ECX] = {7, 0, 2},
    [FW_7_EDX] = {7, 0, 3},
    [FW_7_1_EAX] = {7, 1, 0},
    [FW_7_2_EDX] = {7, 2, 3},
    [FW_D_1_EAX] = {0xd, 1, 0},
    [FW_80000001_ECX] = {0x80000001, 0, 2},
    [FW_80000001_EDX] = {0x80000001, 0, 3},
    [FW_80000007_EDX] = {0x80000007, 0, 3},
    [FW_80000008_EBX] = {0x80000008, 0, 1},
    [FW_80000021_EAX] = {0x80000021, 0, 0},
    [FW_KVM_EAX] = {0x40000001, 0, 0},
};

/* --- the host --------------------------------------------------------------------------------------------------- */

static struct cpuid_regs real_cpuid(void *ctx, u32 leaf, u32 subleaf)
{
    struct cpuid_regs r;
    __cpuid_count(leaf, subleaf, r.eax, r.ebx, r.ecx, r.edx);
    return r;
}

static u64 real_xcr0(void)
{
    u32 lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (u64)hi << 32 | lo;
}

/* MXCSR_MASK of the FXSAVE image; 0 there means the original set of bits (SDM vol. 1, 11.6.6). */
static u32 real_mxcsr_mask(void)
{
    u8 image[512] __attribute__((aligned(16))) = {0};
    u32 mask;
    __asm__ volatile("fxsave %0" : "=m"(image));
    memcpy(&mask, image + 28, 4);
    return mask ? mask : 0xffbf;
}

void cpu_host_probe(struct cpu_host *h)
{
    *h = (struct cpu_host){.cpuid = real_cpuid, .mxcsr_mask = real_mxcsr_mask()};
    if (real_cpuid(NULL, 1, 0).ecx & BIT(27)) /* OSXSAVE */
        h->xcr0 = real_xcr0();
}

struct cpuid_regs cpu_host_leaf(const struct cpu_host *h, u32 leaf, u32 subleaf)
{
    u32 max = host_cpuid(h, leaf & 0xffff0000u, 0).eax;
    if (max < leaf || (max ^ leaf) >> 16)
        return (struct cpuid_regs){0};
    return host_cpuid(h, leaf, subleaf);
}

static u32 host_word(const struct cpu_host *h, unsigned word)
{
    const struct cpu_feature_place *p = &cpu_feature_places[word];
    if (p->leaf == 7 && p->subleaf > cpu_host_leaf(h, 7, 0).eax)
        return 0;
    struct cpuid_regs r = cpu_host_leaf(h, p->leaf, p->subleaf);
    const u32 regs[4] = {r.eax, r.ebx, r.ecx, r.edx};
    return regs[p->reg];
}

/* --- sets of features ------------------------------------------------------------------------------------------- */

static void set_feature(u32 *words, u32 feature, bool on)
{
    u32 bit = 1u << feature % 32;
    words[feature / 32] = on ? words[feature / 32] | bit : words[feature / 32] & ~bit;
}
static bool has_feature(const u32 *words, u32 feature)
{
    return feature == FEAT_NONE || words[feature / 32] >> feature % 32 & 1;
}

/* Take away what lost its parent, until nothing changes. */
static void drop_orphans(u32 *words)
{
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
            if (!has_feature(words, rows[i].feature) || has_feature(words, rows[i].parent))
                continue;
            set_feature(words, rows[i].feature, false);
            changed = true;
        }
    }
}

/* What the host has and its system has enabled. */
static void host_features(const struct cpu_host *h, u32 *words)
{
    const u64 avx = XCR0_X87 | XCR0_SSE | XCR0_AVX, avx512 = avx | XCR0_AVX512;

    for (unsigned w = 0; w < CPU_FEATURE_WORDS; w++)
        words[w] = host_word(h, w);
    set_feature(words, FEAT_XSAVE, true); /* ours in any case: AVX asks XCR0 below */
    if ((h->xcr0 & avx) != avx)
        set_feature(words, FEAT_AVX, false);
    if ((h->xcr0 & avx512) != avx512)
        set_feature(words, FEAT_AVX512F, false);
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].kind == CPU_FEATURE_OWN)
            set_feature(words, rows[i].feature, true);
    drop_orphans(words);
}

static bool vendor_fits(const struct cpu_feature_row *r, const struct cpu_model *m)
{
    bool intel = strcmp(m->vendor, "GenuineIntel") == 0;
    return r->vendor == CPU_FEATURE_ANY || (r->vendor == CPU_FEATURE_AMD ? m->amd : intel);
}

/* Does a model of `level` (0: host) start with this feature? `host` is what the host has. */
static bool offered(const struct cpu_feature_row *r, const u32 *host, unsigned level, unsigned cpus)
{
    switch (r->kind) {
    case CPU_FEATURE_BASE:
    case CPU_FEATURE_OWN:
        return true;
    case CPU_FEATURE_HOST:
        return has_feature(host, r->feature) && (!level || (r->level && r->level <= level));
    case CPU_FEATURE_SAME:
        return has_feature(host, r->feature);
    case CPU_FEATURE_TOPO:
        return cpus > 1;
    default:
        return false;
    }
}

static void append(char *list, size_t len, const char *name)
{
    size_t used = strlen(list);
    snprintf(list + used, len - used, "%s%s", used ? " " : "", name);
}

static int start(struct cpu_model *m, const u32 *host, unsigned level, unsigned cpus, struct error *e)
{
    char missing[256] = "";
    for (size_t i = 0; i < ARRAY_LEN(rows); i++) {
        const struct cpu_feature_row *r = &rows[i];
        if (!vendor_fits(r, m))
            continue;
        set_feature(m->feature, r->feature, offered(r, host, level, cpus));
        if (level && r->kind == CPU_FEATURE_HOST && r->level && r->level <= level && !has_feature(host, r->feature))
            append(missing, sizeof(missing), r->name);
    }
    if (missing[0])
        return error_set(e, EINVAL, "CPU model %s: this host lacks %s; choose a lower level or --cpu host", m->name,
                         missing);
    return 0;
}

/* --- ",+F" and ",-F" -------------------------------------------------------------------------------------------- */

/* Other names under which people know a feature. */
static const struct {
    const char *alias, *name;
} aliases[] = {{"sse3", "pni"},
               {"lzcnt", "abm"},
               {"cmpxchg16b", "cx16"},
               {"clmul", "pclmulqdq"},
               {"sha", "sha_ni"},
               {"avx512vnni", "avx512_vnni"},
               {"1gb_pages", "pdpe1gb"},
               {"xd", "nx"},
               {"tsc_deadline", "tsc_deadline_timer"},
               {"kvm_clock", "kvmclock"},
               {"avx512vbmi2", "avx512_vbmi2"}};

static bool same_name(const char *s, size_t len, const char *name)
{
    if (strlen(name) != len)
        return false;
    for (size_t i = 0; i < len; i++) {
        char c = s[i] == '-' || s[i] == '.' ? '_' : s[i];
        if (c != name[i])
            return false;
    }
    return true;
}

static const struct cpu_feature_row *find_feature(const char *s, size_t len)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (same_name(s, len, rows[i].name))
            return &rows[i];
    for (size_t i = 0; i < ARRAY_LEN(aliases); i++)
        if (same_name(s, len, aliases[i].alias))
            return find_feature(aliases[i].name, strlen(aliases[i].name));
    return NULL;
}

static int remove_feature(struct cpu_model *m, const struct cpu_feature_row *r, struct error *e)
{
    if (r->kind == CPU_FEATURE_BASE)
        return error_set(e, EINVAL, "CPU model %s: %s can not be taken away, every 64-bit processor has it", m->name,
                         r->name);
    if (r->kind == CPU_FEATURE_SAME || r->kind == CPU_FEATURE_TOPO)
        return error_set(e, EINVAL, "CPU model %s: %s is not a choice, it follows from the host or from --cpus",
                         m->name, r->name);
    set_feature(m->feature, r->feature, false);
    return 0;
}

static int add_feature(struct cpu_model *m, const struct cpu_feature_row *r, const u32 *host, struct error *e)
{
    if (r->kind == CPU_FEATURE_NEVER)
        return error_set(e, EINVAL, "CPU model %s: %s can not be offered to a guest; leave it out", m->name, r->name);
    if (!vendor_fits(r, m))
        return error_set(e, EINVAL, "CPU model %s: %s does not exist on processors of %s; leave it out", m->name,
                         r->name, m->vendor);
    if ((r->kind == CPU_FEATURE_HOST || r->kind == CPU_FEATURE_SAME) && !has_feature(host, r->feature))
        return error_set(e, EINVAL, "CPU model %s: this host has no %s; leave it out", m->name, r->name);
    if (r->kind == CPU_FEATURE_TOPO)
        return error_set(e, EINVAL, "CPU model %s: %s is not a choice, it follows from --cpus", m->name, r->name);
    set_feature(m->feature, r->feature, true);
    return 0;
}

/* Every feature asked for must have survived: else say whose absence took it away. */
static int check_added(const struct cpu_model *m, const char *changes, struct error *e)
{
    for (const char *p = changes; *p;) {
        size_t len = strcspn(p + 1, ",");
        const struct cpu_feature_row *r = p[1] == '+' ? find_feature(p + 2, len - 1) : NULL;
        if (r && !has_feature(m->feature, r->feature) && !has_feature(m->feature, r->parent)) {
            for (size_t i = 0; i < ARRAY_LEN(rows); i++)
                if (rows[i].feature == r->parent)
                    return error_set(e, EINVAL, "CPU model %s: %s needs %s; add +%s too", m->name, r->name,
                                     rows[i].name, rows[i].name);
        }
        p += 1 + len;
    }
    return 0;
}

/* `changes` is empty or ",+F,-G...". */
static int apply_changes(struct cpu_model *m, const char *changes, const u32 *host, struct error *e)
{
    for (const char *p = changes; *p;) {
        size_t len = strcspn(p + 1, ",");
        char sign = p[1];
        if (sign != '+' && sign != '-')
            return error_set(e, EINVAL, "CPU model %s: \"%.*s\" is neither +FEATURE nor -FEATURE", m->name,
                             (int)MIN(len, 64u), p + 1);
        const struct cpu_feature_row *r = find_feature(p + 2, len - 1);
        if (!r)
            return error_set(e, EINVAL, "CPU model %s: there is no feature \"%.*s\"; names are those of /proc/cpuinfo",
                             m->name, (int)MIN(len - 1, 64u), p + 2);
        int err = sign == '+' ? add_feature(m, r, host, e) : remove_feature(m, r, e);
        if (err < 0)
            return err;
        p += 1 + len;
    }
    drop_orphans(m->feature);
    return check_added(m, changes, e);
}

/* --- what follows from the features ----------------------------------------------------------------------------- */

static void derive_masks(struct cpu_model *m)
{
    /* CR4 bits and the features that bring them; TSD, PCE and OSXMMEXCPT come with any 64-bit processor. */
    static const struct {
        u64 bit;
        u32 feature;
    } cr4[] = {
        {CR4_TSD, FEAT_TSC},        {CR4_DE, FEAT_DE},     {CR4_PSE, FEAT_PSE},           {CR4_PAE, FEAT_PAE},
        {CR4_MCE, FEAT_MCE},        {CR4_PGE, FEAT_PGE},   {CR4_PCE, FEAT_MMX},           {CR4_OSFXSR, FEAT_FXSR},
        {CR4_OSXMMEXCPT, FEAT_SSE}, {CR4_UMIP, FEAT_UMIP}, {CR4_FSGSBASE, FEAT_FSGSBASE}, {CR4_PCIDE, FEAT_PCID},
        {CR4_OSXSAVE, FEAT_XSAVE},  {CR4_SMEP, FEAT_SMEP}, {CR4_SMAP, FEAT_SMAP},         {CR4_VME, FEAT_VME},
        {CR4_PVI, FEAT_VME},
    };
    for (size_t i = 0; i < ARRAY_LEN(cr4); i++)
        if (cpu_has(m, cr4[i].feature))
            m->cr4_mask |= cr4[i].bit;

    m->efer_mask = EFER_SCE | EFER_LME | EFER_NXE;
    if (cpu_has(m, FEAT_AUTOIBRS))
        m->efer_mask |= EFER_AUTOIBRS;

    m->xcr0_mask = XCR0_X87;
    if (cpu_has(m, FEAT_XSAVE))
        m->xcr0_mask |= XCR0_SSE;
    if (cpu_has(m, FEAT_AVX))
        m->xcr0_mask |= XCR0_AVX;
    if (cpu_has(m, FEAT_AVX512F))
        m->xcr0_mask |= XCR0_AVX512;
}

static void host_identity(struct cpu_model *m, const struct cpu_host *h)
{
    struct cpuid_regs r = host_cpuid(h, 0, 0);
    memcpy(m->vendor, &r.ebx, 4);
    memcpy(m->vendor + 4, &r.edx, 4);
    memcpy(m->vendor + 8, &r.ecx, 4);
    m->amd = !strcmp(m->vendor, "AuthenticAMD") || !strcmp(m->vendor, "HygonGenuine");
    u32 phys = cpu_host_leaf(h, 0x80000008, 0).eax & 0xff;
    m->phys_bits = MIN(phys ? phys : 36u, MAX_PHYS_BITS);
    m->mxcsr_mask = h->mxcsr_mask;
}

/* The level that `name` means: 0 for host, 2-4 for named ones, negative for none. */
static int parse_level(const char *name, size_t len)
{
    if (len == 4 && !memcmp(name, "host", 4))
        return 0;
    if (len == 9 && !memcmp(name, "x86-64-v", 8) && name[8] >= '2' && name[8] <= '0' + (int)MAX_LEVEL)
        return name[8] - '0';
    return -1;
}

int cpu_model_make_for(struct cpu_model *m, const struct cpu_host *h, const char *spec, u64 tsc_hz, unsigned cpus,
                       struct error *e)
{
    u32 host[CPU_FEATURE_WORDS];
    size_t len = strcspn(spec, ",");
    int level = parse_level(spec, len);

    if (level < 0)
        return error_set(e, EINVAL,
                         "CPU model \"%.*s\" is not known; there are host, x86-64-v2, x86-64-v3 and x86-64-v4",
                         (int)MIN(len, 64u), spec);
    if (!tsc_hz)
        return error_set(e, EINVAL, "CPU model %.*s: the rate of the time stamp counter is not known", (int)len, spec);
    *m = (struct cpu_model){.tsc_hz = tsc_hz};
    snprintf(m->name, sizeof(m->name), "%.*s", (int)len, spec);
    host_identity(m, h);
    host_features(h, host);
    int r = start(m, host, (unsigned)level, cpus, e);
    if (r == 0)
        r = apply_changes(m, spec + len, host, e);
    if (r < 0)
        return r;
    derive_masks(m);
    cpu_leaves_make(m, h, (unsigned)level, cpus);
    return 0;
}

int cpu_model_make(struct cpu_model *m, const char *spec, u64 tsc_hz, unsigned cpus, struct error *e)
{
    struct cpu_host h;
    cpu_host_probe(&h);
    return cpu_model_make_for(m, &h, spec, tsc_hz, cpus, e);
}
