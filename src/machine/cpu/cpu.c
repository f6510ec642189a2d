/*
 * The state of a CPU as a value: reset, description, record.
 *
 * The record is a list of fields in a fixed order; each register has its own line, so that a later version can append
 * without moving anything. Not in the record:
 *  - id and model: they belong to the machine that loads, the record's instance number says which CPU is meant;
 *  - attention: its bits repeat what other parts hold (nmi_pending here, the controllers' outputs in machine/irq);
 *  - fault and stop_reason: they are valid only inside a function call.
 *
 * The check stands between a peer's bytes and engines that trust a struct cpu, so it refuses (1) what would make the host
 * fault when the state is loaded into real registers (MXCSR, XCR0 components), (2) what no sequence of instructions
 * can produce and some engine might rely on (PG without PE, LMA out of step, scaled limits that don't fit their G bit),
 * and (3) what this machine's model doesn't offer (CR4, EFER, XCR0 bits, MSRs).
 */
#include "machine/cpu/cpu.h"
#include "machine/cpu/cpuid.h"
#include "machine/cpu/msr.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>

#define CR0_VALID (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
/* What any model may offer: used only where a CPU has no model (bare unit tests). */
#define CR4_ALL ((CR4_UMIP * 2 - 1) | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP)
/* What a fresh x87 and SSE unit holds (SDM vol. 1, 8.1.5 and 11.6.4; FNINIT). */
#define FCW_RESET   0x037fu
#define MXCSR_RESET 0x1f80u
#define DR6_RESET   0xffff0ff0u
#define DR7_RESET   0x400u
/* Revisions as hypervisors show them: guests don't load microcode when they know that they are guests. */
#define MICROCODE_INTEL (1ull << 32)
#define MICROCODE_AMD   0x01000065ull

int cpu_unimplemented(struct cpu *c, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(c->stop_reason, sizeof(c->stop_reason), fmt, ap);
    va_end(ap);
    return CPU_UNIMPLEMENTED;
}

/* EDX after reset is the signature that CPUID leaf 1 gives in EAX. */
static u32 signature(const struct cpu_model *m)
{
    for (u32 i = 0; m && i < m->n_leaves; i++)
        if (m->leaves[i].leaf == 1)
            return m->leaves[i].r.eax;
    return 0x600;
}

/* Segments of real mode, with the code segment that the reset vector is in. */
static void reset_segments(struct cpu *c)
{
    const struct cpu_segment data = {.limit = 0xffff, .attr = SEG_P | SEG_S | SEG_RW | SEG_ACCESSED};
    for (int i = 0; i < CPU_SEGS; i++)
        c->seg[i] = data;
    c->seg[SEG_CS].selector = 0xf000;
    c->seg[SEG_CS].base = 0xffff0000;
    c->seg[SEG_CS].attr = SEG_P | SEG_S | SEG_CODE | SEG_RW | SEG_ACCESSED;
    c->seg[SEG_LDTR].attr = SEG_P | 2;
    c->seg[SEG_TR].attr = SEG_P | 11;
    c->gdtr = (struct cpu_table){.limit = 0xffff};
    c->idtr = (struct cpu_table){.limit = 0xffff};
}

void cpu_reset(struct cpu *c)
{
    const struct cpu_model *model = c->model;
    u32 request = __atomic_load_n(&c->attention, __ATOMIC_SEQ_CST) & ATTN_REQUEST;
    u8 id = c->id;

    *c = (struct cpu){
        .rip = 0xfff0,
        .id = id,
        .model = model,
        .attention = request,
        .cr0 = CR0_CD | CR0_NW | CR0_ET,
        .xcr0 = XCR0_X87,
        .dr = {[6] = DR6_RESET, [7] = DR7_RESET},
        .msr.pat = 0x0007040600070406ull,
        .msr.misc_enable = BIT(0) | BIT(11) | BIT(12), /* fast strings; no BTS, no PEBS */
        .msr.kvm_poll_control = 1,
        .msr.microcode_rev = model && model->amd ? MICROCODE_AMD : MICROCODE_INTEL,
    };
    reset_segments(c);
    c->gpr[RDX] = signature(model);
    cpu_set_rflags(c, FL_ONE);
    c->fpu.fx[0] = FCW_RESET & 0xff;
    c->fpu.fx[1] = FCW_RESET >> 8;
    *cpu_mxcsr(&c->fpu) = MXCSR_RESET;
}

void cpu_init_reset(struct cpu *c)
{
    memset(c->gpr, 0, sizeof(c->gpr));
    c->gpr[RDX] = signature(c->model);
    c->rip = 0xfff0;
    cpu_set_rflags(c, FL_ONE);
    c->cpl = c->shadow = c->halted = c->unhalt = c->nmi_blocked = c->nmi_pending = 0;
    cpu_attention_clear(c, ATTN_NMI);
    reset_segments(c);
    c->cr0 = (c->cr0 & (CR0_CD | CR0_NW)) | CR0_ET;
    c->cr2 = c->cr3 = c->cr4 = c->cr8 = 0;
    c->efer = 0;
    memset(c->pdpte, 0, sizeof(c->pdpte));
    memset(c->dr, 0, sizeof(c->dr));
    c->dr[6] = DR6_RESET;
    c->dr[7] = DR7_RESET;
    c->msr.debugctl = 0;
    c->msr.kvm_system_time = c->msr.kvm_wall_clock = c->msr.kvm_pv_eoi = 0;
    c->msr.kvm_async_pf = c->msr.kvm_steal_time = 0;
    c->msr.kvm_poll_control = 1;
}

void cpu_startup(struct cpu *c, u8 vector)
{
    c->seg[SEG_CS].selector = (u16)(vector << 8);
    c->seg[SEG_CS].base = (u64)vector << 12;
    c->rip = 0;
    c->halted = 0;
}

bool cpu_pdptes_valid(const struct cpu *c, const u64 pdpte[4])
{
    unsigned bits = c->model && c->model->phys_bits ? c->model->phys_bits : 52;
    u64 reserved = ~(BIT(bits) - 1) | 0x1e6; /* 1, 2, 5-8 and above MAXPHYADDR */
    for (int i = 0; i < 4; i++)
        if ((pdpte[i] & 1) && (pdpte[i] & reserved))
            return false;
    return true;
}

/* --- description ------------------------------------------------------------------------------------------------ */

/* A bounded text under construction: what doesn't fit is dropped, the text stays terminated. */
struct text {
    char *p;
    size_t left;
};

static void put(struct text *t, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
static void put(struct text *t, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(t->p, t->left, fmt, ap);
    va_end(ap);
    size_t used = n < 0 ? 0 : MIN((size_t)n, t->left ? t->left - 1 : 0);
    t->p += used;
    t->left -= used;
}

static void describe_gprs(const struct cpu *c, struct text *t)
{
    static const char *const names[CPU_GPRS] = {"RAX", "RCX", "RDX", "RBX", "RSP", "RBP", "RSI", "RDI",
                                                "R8 ", "R9 ", "R10", "R11", "R12", "R13", "R14", "R15"};
    for (int i = 0; i < CPU_GPRS; i++)
        put(t, "%s=%016llx%s", names[i], (unsigned long long)c->gpr[i], i % 4 == 3 ? "\n" : " ");
}

static void describe_flags(u64 fl, struct text *t)
{
    static const struct {
        u64 bit;
        const char *name;
    } names[] = {{FL_CF, "CF"}, {FL_PF, "PF"},   {FL_AF, "AF"},   {FL_ZF, "ZF"}, {FL_SF, "SF"}, {FL_TF, "TF"},
                 {FL_IF, "IF"}, {FL_DF, "DF"},   {FL_OF, "OF"},   {FL_NT, "NT"}, {FL_RF, "RF"}, {FL_VM, "VM"},
                 {FL_AC, "AC"}, {FL_VIF, "VIF"}, {FL_VIP, "VIP"}, {FL_ID, "ID"}};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (fl & names[i].bit)
            put(t, " %s", names[i].name);
}

static void describe_segments(const struct cpu *c, struct text *t)
{
    static const char *const names[CPU_SEGS] = {"ES", "CS", "SS", "DS", "FS", "GS", "LDTR", "TR"};
    for (int i = 0; i < CPU_SEGS; i++) {
        const struct cpu_segment *s = &c->seg[i];
        put(t, "%-4s=%04x base=%016llx limit=%08x attr=%05x", names[i], s->selector, (unsigned long long)s->base,
            s->limit, s->attr);
        if (s->attr & SEG_UNUSABLE)
            put(t, " unusable");
        else if (i == SEG_CS)
            put(t, " %s-bit", s->attr & SEG_L ? "64" : s->attr & SEG_DB ? "32" : "16");
        put(t, "\n");
    }
}

void cpu_describe(const struct cpu *c, char *out, size_t len)
{
    struct text t = {out, len};
    if (len)
        out[0] = 0;
    put(&t, "CPU %u: CPL %u%s%s%s%s\n", c->id, c->cpl, c->halted ? ", halted" : "",
        c->nmi_blocked ? ", NMI blocked" : "", c->shadow & SHADOW_STI ? ", STI shadow" : "",
        c->shadow & SHADOW_MOVSS ? ", MOV SS shadow" : "");
    describe_gprs(c, &t);
    put(&t, "RIP=%016llx RFLAGS=%08llx IOPL=%u", (unsigned long long)c->rip, (unsigned long long)cpu_rflags(c),
        (unsigned)((c->sysflags & FL_IOPL) >> FL_IOPL_SHIFT));
    describe_flags(cpu_rflags(c), &t);
    put(&t, "\n");
    describe_segments(c, &t);
    put(&t, "GDTR base=%016llx limit=%04x  IDTR base=%016llx limit=%04x\n", (unsigned long long)c->gdtr.base,
        c->gdtr.limit, (unsigned long long)c->idtr.base, c->idtr.limit);
    put(&t, "CR0=%08llx CR2=%016llx CR3=%016llx CR4=%08llx CR8=%llx\n", (unsigned long long)c->cr0,
        (unsigned long long)c->cr2, (unsigned long long)c->cr3, (unsigned long long)c->cr4, (unsigned long long)c->cr8);
    put(&t, "EFER=%04llx XCR0=%llx DR6=%08llx DR7=%08llx\n", (unsigned long long)c->efer, (unsigned long long)c->xcr0,
        (unsigned long long)c->dr[6], (unsigned long long)c->dr[7]);
}

/* --- record ----------------------------------------------------------------------------------------------------- */

static int refuse(struct error *e, const char *what, u64 value)
{
    return error_set(e, EINVAL, "%s = %llx: no CPU of this machine can have this value", what,
                     (unsigned long long)value);
}

static bool canonical(u64 a)
{
    return (u64)((s64)(a << 16) >> 16) == a;
}

static int check_scalars(const struct cpu *c, struct error *e)
{
    if (c->sysflags & ~FL_SYS)
        return refuse(e, "RFLAGS", c->sysflags);
    if (c->arith != cpu_flags_to_arith(cpu_arith_to_flags(c->arith)))
        return refuse(e, "arithmetic flags", c->arith);
    if (c->cpl > 3)
        return refuse(e, "CPL", c->cpl);
    if (c->shadow & ~(SHADOW_STI | SHADOW_MOVSS))
        return refuse(e, "shadow", c->shadow);
    if ((c->halted | c->nmi_blocked | c->nmi_pending | c->waits_startup | c->unhalt) > 1)
        return error_set(e, EINVAL, "halted, nmi_blocked, nmi_pending, waits_startup or unhalt is neither 0 nor 1");
    if (!cpu_code64(c) && c->rip >> 32)
        return refuse(e, "RIP", c->rip);
    if (c->dr[4] || c->dr[5])
        return error_set(e, EINVAL, "DR4 or DR5 holds something");
    if (c->dr[6] >> 32 || c->dr[7] >> 32)
        return refuse(e, "DR6 or DR7", c->dr[6] | c->dr[7]);
    return 0;
}

/* CR0, CR3, CR4, CR8, EFER and what they say about each other (SDM vol. 3A, 2.5, 4.1.1, 9.8.5; vol. 3C, 26.3.1.1). */
static int check_control(const struct cpu *c, struct error *e)
{
    const struct cpu_model *m = c->model;
    u64 cr4_mask = m ? m->cr4_mask : CR4_ALL;
    u64 efer_mask = m ? m->efer_mask : EFER_SCE | EFER_LME | EFER_NXE;
    u64 phys = m ? m->phys_bits : 52;
    bool pg = c->cr0 & CR0_PG, lma = c->efer & EFER_LMA;

    if (c->cr0 & ~CR0_VALID || !(c->cr0 & CR0_ET) || (pg && !(c->cr0 & CR0_PE)) ||
        (c->cr0 & CR0_NW && !(c->cr0 & CR0_CD)))
        return refuse(e, "CR0", c->cr0);
    if (c->cr4 & ~cr4_mask || (c->cr4 & CR4_PCIDE && !lma))
        return refuse(e, "CR4", c->cr4);
    if (c->efer & ~(efer_mask | EFER_LMA) || lma != (pg && c->efer & EFER_LME) || (lma && !(c->cr4 & CR4_PAE)))
        return refuse(e, "EFER", c->efer);
    if (c->cr3 >> phys)
        return refuse(e, "CR3", c->cr3);
    if (cpu_pae_paging(c) && !cpu_pdptes_valid(c, c->pdpte))
        return error_set(e, EINVAL, "a page-directory-pointer entry has reserved bits set");
    if (c->cr8 > 15)
        return refuse(e, "CR8", c->cr8);
    if (c->cpl && !(c->cr0 & CR0_PE))
        return refuse(e, "CPL in real mode", c->cpl);
    if (c->sysflags & FL_VM && (lma || !(c->cr0 & CR0_PE) || c->cpl != 3))
        return refuse(e, "RFLAGS", cpu_rflags(c));
    return 0;
}

/* One segment's hidden part. A limit is scaled: with G set it ends in fff, without it fits 20 bits. */
static bool segment_ok(const struct cpu *c, int i)
{
    const struct cpu_segment *s = &c->seg[i];
    const u32 kept = SEG_TYPE | SEG_S | SEG_DPL | SEG_P | SEG_AVL | SEG_L | SEG_DB | SEG_G | SEG_UNUSABLE;
    bool wide_base = i >= SEG_FS;

    if (s->attr & ~kept || s->reserved[0] || s->reserved[1] || s->reserved[2])
        return false;
    if (wide_base ? !canonical(s->base) : s->base >> 32)
        return false;
    if (s->attr & SEG_UNUSABLE)
        return i != SEG_CS;
    if (s->attr & SEG_G ? (s->limit & 0xfff) != 0xfff : s->limit > 0xfffff)
        return false;
    return s->attr & SEG_P;
}

static int check_segments(const struct cpu *c, struct error *e)
{
    for (int i = 0; i < CPU_SEGS; i++)
        if (!segment_ok(c, i))
            return error_set(e, EINVAL, "segment register %d: base, limit and attributes do not fit together", i);
    u32 cs = c->seg[SEG_CS].attr, ldt = c->seg[SEG_LDTR].attr, tr = c->seg[SEG_TR].attr;
    if (!(cs & SEG_S) || (!(cs & SEG_CODE) && !cpu_v86(c)))
        return refuse(e, "CS attributes", cs);
    if (cpu_long_mode(c) && cs & SEG_L && cs & SEG_DB)
        return refuse(e, "CS attributes", cs);
    if (!(ldt & SEG_UNUSABLE) && (ldt & (SEG_S | SEG_TYPE)) != 2)
        return refuse(e, "LDTR attributes", ldt);
    if (!(tr & SEG_UNUSABLE) && (tr & (SEG_S | SEG_TYPE)) != 11 && (tr & (SEG_S | SEG_TYPE)) != 3)
        return refuse(e, "TR attributes", tr);
    if (!canonical(c->gdtr.base))
        return refuse(e, "GDTR base", c->gdtr.base);
    if (!canonical(c->idtr.base))
        return refuse(e, "IDTR base", c->idtr.base);
    return 0;
}

static bool all_zero(const void *p, size_t n)
{
    const u8 *b = p;
    for (size_t i = 0; i < n; i++)
        if (b[i])
            return false;
    return true;
}

/* A component that this machine doesn't carry must hold nothing: it would be lost without a word. */
static bool fpu_beyond(const struct cpu_fpu *f, u64 carried)
{
    bool beyond = false;
    for (int i = 0; i < 32 && !beyond; i++) {
        u32 from = carried & XCR0_AVX512 ? 64 : carried & XCR0_AVX ? 32 : 16;
        if (i >= 16 && !(carried & XCR0_AVX512))
            from = 0;
        beyond = !all_zero(f->zmm[i].b + from, 64 - from);
    }
    return beyond || (!(carried & XCR0_AVX512) && !all_zero(f->k, sizeof(f->k)));
}

static int check_fpu(const struct cpu *c, struct error *e)
{
    const u64 all = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;
    u64 carried = c->model ? c->model->xcr0_mask : all;
    u64 x = c->xcr0;
    u32 mxcsr;

    memcpy(&mxcsr, c->fpu.fx + 24, 4);
    if (mxcsr & ~(c->model ? c->model->mxcsr_mask : 0xffffu))
        return refuse(e, "MXCSR", mxcsr);
    if (!cpu_xcr0_valid(x, carried))
        return refuse(e, "XCR0", x);
    if (fpu_beyond(&c->fpu, carried))
        return error_set(e, EINVAL,
                         "vector registers hold state that this machine does not have; choose the CPU model "
                         "it was saved with");
    return 0;
}

static int check(const void *candidate, struct error *e)
{
    const struct cpu *c = candidate;
    static int (*const checks[])(const struct cpu *, struct error *) = {check_scalars, check_control, check_segments,
                                                                        check_fpu, cpu_msrs_check};
    for (size_t i = 0; i < ARRAY_LEN(checks); i++) {
        int r = checks[i](c, e);
        if (r < 0)
            return r;
    }
    return 0;
}

static void loaded(void *object)
{
    struct cpu *c = object;
    if (c->nmi_pending)
        cpu_attention_set(c, ATTN_NMI);
    else
        cpu_attention_clear(c, ATTN_NMI);
}

#define F(member)   REC_FIELD(struct cpu, member)
#define MSR(member) REC_FIELD(struct cpu, msr.member)

static const struct rec_field fields[] = {
    F(gpr),
    F(rip),
    F(sysflags),
    F(arith),
    F(cpl),
    F(shadow),
    F(halted),
    F(nmi_blocked),
    F(nmi_pending),
    F(seg),
    F(gdtr),
    F(idtr),
    F(cr0),
    F(cr2),
    F(cr3),
    F(cr4),
    F(cr8),
    F(efer),
    F(xcr0),
    F(dr),
    MSR(star),
    MSR(lstar),
    MSR(cstar),
    MSR(sfmask),
    MSR(kernel_gs_base),
    MSR(sysenter_cs),
    MSR(sysenter_esp),
    MSR(sysenter_eip),
    MSR(tsc_aux),
    MSR(tsc_adjust),
    MSR(pat),
    MSR(misc_enable),
    MSR(mtrr_def_type),
    MSR(mtrr_fixed),
    MSR(mtrr_base),
    MSR(mtrr_mask),
    MSR(mcg_status),
    MSR(mcg_ctl),
    MSR(debugctl),
    MSR(spec_ctrl),
    MSR(microcode_rev),
    MSR(kvm_system_time),
    MSR(kvm_wall_clock),
    MSR(kvm_pv_eoi),
    MSR(kvm_async_pf),
    MSR(kvm_steal_time),
    MSR(kvm_poll_control),
    F(tsc_offset),
    F(fpu.zmm),
    {.name = "fpu.fx", .offset = offsetof(struct cpu, fpu.fx), .size = 160, .since = 1},
    F(fpu.k),
    REC_FIELD_SINCE(struct cpu, pdpte, 2),
    REC_FIELD_SINCE(struct cpu, waits_startup, 2),
    REC_FIELD_SINCE(struct cpu, unhalt, 3),
};

const struct rec_desc cpu_record = {
    .name = "cpu",
    .type = REC_TYPE('V', 'C', 'P', 'U'),
    .version = 3,
    .object_size = sizeof(struct cpu),
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .check = check,
    .loaded = loaded,
};
