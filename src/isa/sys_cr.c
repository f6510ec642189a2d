/*
 * Control and debug registers, XCR0, and what makes translations stale.
 *
 * Each write is checked whole before anything changes; a change of a bit that paging depends on flushes everything, of any
 * other bit just tells the engine.
 *
 * Not done: five-level paging, which no model offers.
 *
 * Source: SDM vol. 2, MOV CR and MOV DR; vol. 3A, 2.5, 4.1, 4.10.4, 9.8.5, 17.2.
 */
#include "isa/isa_internal.h"
#include "machine/cpu/cpu_features.h"

#include <string.h>

/* Bits of the lower half that exist; ET is always 1, the others are ignored when written. */
#define CR0_BITS    (CR0_PE | CR0_MP | CR0_EM | CR0_TS | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_NW | CR0_CD | CR0_PG)
#define CR0_FLUSH   (CR0_PE | CR0_WP | CR0_PG)
#define CR0_PDPTE   (CR0_CD | CR0_NW | CR0_PG) /* changing one of these reads the PDPTEs again */
#define CR4_PDPTE   (CR4_PAE | CR4_PGE | CR4_PSE | CR4_SMEP)
#define CR4_FLUSH   (CR4_PSE | CR4_PAE | CR4_PGE | CR4_LA57 | CR4_PCIDE | CR4_SMEP | CR4_SMAP | CR4_PKE)

#define CR3_PCID    0xfffull
#define CR3_NOFLUSH BIT(63)

static u16 pcid_of(const struct cpu *c)
{
    return c->cr4 & CR4_PCIDE ? (u16)(c->cr3 & CR3_PCID) : 0;
}

static void flush_all(struct isa *m)
{
    m->ops->flush(m->ctx, ISA_FLUSH_ALL, GVA(0), 0);
}

/*
 * The four entries that PAE paging keeps in registers, from the table at `cr3`: #GP(0) if they can not be (SDM vol. 3A,
 * 4.4.1).
 */
static int load_pdptes(struct isa *m, u64 cr3)
{
    u64 pdpte[4];
    m->ops->read_phys(m->ctx, GPA(cr3 & 0xffffffe0), pdpte, sizeof(pdpte));
    if (!cpu_pdptes_valid(m->cpu, pdpte))
        return isa_gp0(m);
    memcpy(m->cpu->pdpte, pdpte, sizeof(pdpte));
    return CPU_OK;
}

/* Switching paging on activates long mode if EFER.LME asks for it (SDM vol. 3A, 9.8.5). */
static int enable_paging(struct isa *m, u64 *efer)
{
    struct cpu *c = m->cpu;
    if (!(c->efer & EFER_LME))
        return CPU_OK;
    if (!(c->cr4 & CR4_PAE) || (c->seg[SEG_CS].attr & SEG_L))
        return isa_gp0(m);
    /* A 16-bit TSS has no place in long mode. */
    if (!(c->seg[SEG_TR].attr & SEG_UNUSABLE) && (c->seg[SEG_TR].attr & SEG_P) && (c->seg[SEG_TR].attr & SEG_TYPE) < 8)
        return isa_gp0(m);
    *efer |= EFER_LMA;
    return CPU_OK;
}

static int disable_paging(struct isa *m, u64 *efer)
{
    struct cpu *c = m->cpu;
    if (cpu_code64(c) || (c->cr4 & CR4_PCIDE))
        return isa_gp0(m);
    *efer &= ~EFER_LMA;
    return CPU_OK;
}

static int write_cr0(struct isa *m, u64 v)
{
    struct cpu *c = m->cpu;
    u64 efer = c->efer;
    if (v >> 32)
        return isa_gp0(m);
    v = (v & CR0_BITS) | CR0_ET;
    if (((v & CR0_PG) && !(v & CR0_PE)) || ((v & CR0_NW) && !(v & CR0_CD)))
        return isa_gp0(m);
    if ((v & CR0_PG) && !(c->cr0 & CR0_PG))
        ISA_TRY(enable_paging(m, &efer));
    else if (!(v & CR0_PG) && (c->cr0 & CR0_PG))
        ISA_TRY(disable_paging(m, &efer));
    u64 changed = v ^ c->cr0;
    bool pae = (v & CR0_PG) && (c->cr4 & CR4_PAE) && !(efer & EFER_LMA);
    if (pae && (changed & CR0_PDPTE))
        ISA_TRY(load_pdptes(m, c->cr3));
    c->cr0 = v;
    c->efer = efer;
    if (changed & CR0_FLUSH)
        flush_all(m);
    isa_mode_changed(m);
    return CPU_OK;
}

int isa_write_cr3(struct isa *m, u64 v)
{
    struct cpu *c = m->cpu;
    bool keep = false;
    u32 phys = c->model ? c->model->phys_bits : 52;
    if (c->cr4 & CR4_PCIDE) {
        keep = v & CR3_NOFLUSH;
        v &= ~CR3_NOFLUSH;
    }
    if (cpu_long_mode(c) && phys < 64 && v >> phys)
        return isa_gp0(m);
    if (cpu_pae_paging(c))
        ISA_TRY(load_pdptes(m, v));
    c->cr3 = v;
    m->ops->flush(m->ctx, keep ? ISA_FLUSH_SWITCH : ISA_FLUSH_NONGLOBAL, GVA(0), pcid_of(c));
    return CPU_OK;
}

static int write_cr4(struct isa *m, u64 v)
{
    struct cpu *c = m->cpu;
    u64 allowed = c->model ? c->model->cr4_mask : 0;
    u64 changed = v ^ c->cr4;
    if (v & ~allowed)
        return isa_gp0(m);
    if (cpu_long_mode(c) && ((changed & CR4_LA57) || !(v & CR4_PAE)))
        return isa_gp0(m);
    if ((changed & v & CR4_PCIDE) && (!cpu_long_mode(c) || (c->cr3 & CR3_PCID)))
        return isa_gp0(m);
    bool pae = (c->cr0 & CR0_PG) && (v & CR4_PAE) && !cpu_long_mode(c);
    if (pae && (changed & CR4_PDPTE))
        ISA_TRY(load_pdptes(m, c->cr3));
    c->cr4 = v;
    if (changed & CR4_FLUSH)
        flush_all(m);
    isa_mode_changed(m);
    return CPU_OK;
}

static int write_cr8(struct isa *m, u64 v)
{
    if (v >> 4)
        return isa_gp0(m);
    m->ops->cr8_write(m->ctx, v);
    return CPU_OK;
}

static bool cr_exists(const struct isa_insn *insn, unsigned n)
{
    return n == 0 || n == 2 || n == 3 || n == 4 || (n == 8 && insn->mode == ISA_MODE_64);
}

int sys_mov_to_cr(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    unsigned n = insn->op[0].reg;
    u64 v = isa_gpr_get(c, insn->op[1].reg, insn->mode == ISA_MODE_64 ? 8 : 4);
    if (!cr_exists(insn, n))
        return isa_ud(m);
    ISA_NEED_CPL0(m);
    switch (n) {
    case 0:
        return write_cr0(m, v);
    case 2:
        c->cr2 = v;
        return CPU_OK;
    case 3:
        return isa_write_cr3(m, v);
    case 4:
        return write_cr4(m, v);
    default:
        return write_cr8(m, v);
    }
}

int sys_mov_from_cr(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    unsigned n = insn->op[1].reg;
    u64 v = 0;
    if (!cr_exists(insn, n))
        return isa_ud(m);
    ISA_NEED_CPL0(m);
    switch (n) {
    case 0:
        v = c->cr0;
        break;
    case 2:
        v = c->cr2;
        break;
    case 3:
        v = c->cr3;
        break;
    case 4:
        v = c->cr4;
        break;
    case 8:
        v = m->ops->cr8_read(m->ctx);
        break;
    }
    isa_gpr_put(c, insn->op[0].reg, insn->mode == ISA_MODE_64 ? 8 : 4, v);
    return CPU_OK;
}

int sys_clts(struct isa *m, const struct isa_insn *insn)
{
    ISA_NEED_CPL0(m);
    m->cpu->cr0 &= ~CR0_TS;
    isa_mode_changed(m);
    return CPU_OK;
}

/* LMSW: the four low bits of CR0; PE can be set by it, not cleared. */
int sys_lmsw(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    const u64 low = CR0_MP | CR0_EM | CR0_TS;
    u64 v;
    ISA_NEED_CPL0(m);
    ISA_TRY(isa_op_read(m, insn, 0, 2, &v));
    c->cr0 = (c->cr0 & ~low) | (v & (low | CR0_PE));
    isa_mode_changed(m);
    return CPU_OK;
}

int sys_smsw(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    if ((c->cr4 & CR4_UMIP) && c->cpl != 0)
        return isa_gp0(m);
    return isa_op_write(m, insn, 0, insn->op[0].kind == ISA_OP_MEM ? 2 : isa_opsize(insn), c->cr0);
}

#define DR6_FIXED 0xffff0ff0ull /* read as 1, RTM included */
#define DR6_BITS  0xe00full
#define DR7_FIXED 0x400ull
#define DR7_BITS  0xffff23ffull
#define DR7_GD    BIT(13)

/* DR4 and DR5 are DR6 and DR7 unless CR4.DE makes them undefined; DR7.GD guards all of them. */
static int check_dr(struct isa *m, unsigned *n)
{
    struct cpu *c = m->cpu;
    if (*n > 7 || ((*n == 4 || *n == 5) && (c->cr4 & CR4_DE)))
        return isa_ud(m);
    ISA_NEED_CPL0(m);
    if (*n == 4 || *n == 5)
        *n += 2;
    if (c->dr[7] & DR7_GD) {
        c->fault = (struct cpu_fault){.vector = VEC_DB, .address = ISA_DR6_BD};
        return CPU_FAULT;
    }
    return CPU_OK;
}

int sys_mov_to_dr(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    unsigned n = insn->op[0].reg;
    u64 v = isa_gpr_get(c, insn->op[1].reg, insn->mode == ISA_MODE_64 ? 8 : 4);
    ISA_TRY(check_dr(m, &n));
    if (n >= 6 && v >> 32)
        return isa_gp0(m);
    if (n == 6)
        v = (v & DR6_BITS) | DR6_FIXED;
    else if (n == 7)
        v = (v & DR7_BITS) | DR7_FIXED;
    c->dr[n] = v;
    isa_mode_changed(m);
    return CPU_OK;
}

int sys_mov_from_dr(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    unsigned n = insn->op[1].reg;
    ISA_TRY(check_dr(m, &n));
    isa_gpr_put(c, insn->op[0].reg, insn->mode == ISA_MODE_64 ? 8 : 4, c->dr[n]);
    return CPU_OK;
}

/* No translation is needed, and a non-canonical address names no entry: nothing to do. */
int sys_invlpg(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    u64 va = isa_ea(c, insn);
    enum cpu_seg seg = insn->mem.seg;
    ISA_NEED_CPL0(m);
    if (!cpu_code64(c))
        va = (u32)(va + c->seg[seg].base);
    else if (seg == SEG_FS || seg == SEG_GS)
        va += c->seg[seg].base;
    if (isa_canonical(va))
        m->ops->flush(m->ctx, ISA_FLUSH_PAGE, GVA(va), pcid_of(c));
    return CPU_OK;
}

int sys_invpcid(struct isa *m, const struct isa_insn *insn)
{
    static const u8 kinds[] = {ISA_FLUSH_PCID_PAGE, ISA_FLUSH_PCID, ISA_FLUSH_ALL, ISA_FLUSH_ALL_NONGLOBAL};
    struct cpu *c = m->cpu;
    u64 desc[2];
    ISA_NEED_CPL0(m);
    u64 type = isa_gpr_get(c, insn->op[0].reg, insn->mode == ISA_MODE_64 ? 8 : 4);
    ISA_TRY(isa_mem_read(m, insn, desc, 16));
    u16 pcid = (u16)(desc[0] & CR3_PCID);
    if (type >= ARRAY_LEN(kinds) || desc[0] & ~CR3_PCID)
        return isa_gp0(m);
    if (type < 2 && pcid && !(c->cr4 & CR4_PCIDE))
        return isa_gp0(m);
    if (type == 0 && !isa_canonical(desc[1]))
        return isa_gp0(m);
    m->ops->flush(m->ctx, kinds[type], GVA(desc[1]), pcid);
    return CPU_OK;
}

int sys_xgetbv(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    u32 index = (u32)c->gpr[RCX];
    bool has_xinuse = c->model && cpu_has(c->model, FEAT_XGETBV1);
    if (!(c->cr4 & CR4_OSXSAVE))
        return isa_ud(m);
    if (index > 1 || (index == 1 && !has_xinuse))
        return isa_gp0(m);
    u64 v = index ? c->xcr0 & isa_xinuse(c) : c->xcr0;
    isa_gpr_put(c, RAX, 4, v);
    isa_gpr_put(c, RDX, 4, v >> 32);
    return CPU_OK;
}

int sys_xsetbv(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    u64 v = isa_gpr_get(c, RDX, 4) << 32 | isa_gpr_get(c, RAX, 4);
    if (!(c->cr4 & CR4_OSXSAVE))
        return isa_ud(m);
    ISA_NEED_CPL0(m);
    if ((u32)c->gpr[RCX] != 0 || !cpu_xcr0_valid(v, c->model ? c->model->xcr0_mask : XCR0_X87))
        return isa_gp0(m);
    c->xcr0 = v;
    isa_mode_changed(m);
    return CPU_OK;
}
