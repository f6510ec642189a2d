/*
 * Port I/O: IN, OUT, INS, OUTS and the permission bitmap of the TSS, which virtual-8086 mode asks whatever IOPL is.
 *
 *   TSS   66h: u16, offset of the bitmap from the TSS's base; bit n of it is port n, 1 refuses
 *
 * The processor always reads two bytes of the bitmap, and both must be within the TSS's limit (SDM vol. 1, 19.5.2).
 * INS and OUTS with REP do one element a call: memory is checked before the port is touched, so that a fault never loses
 * or doubles an element.
 */
#include "isa/isa_internal.h"

#define TSS_IO_BASE 0x66

static int check_port(struct isa *m, u16 port, unsigned size)
{
    struct cpu *c = m->cpu;
    const struct cpu_segment *tr = &c->seg[SEG_TR];
    u64 wrap = cpu_long_mode(c) ? ~0ull : 0xffffffff;
    u16 base, bits;
    if (c->cpl <= isa_iopl(c) && !cpu_v86(c))
        return CPU_OK;
    if ((tr->attr & SEG_UNUSABLE) || (tr->attr & SEG_TYPE) < DESC_TSS || tr->limit < TSS_IO_BASE + 1)
        return isa_gp0(m);
    ISA_TRY(m->ops->read(m->ctx, GVA((tr->base + TSS_IO_BASE) & wrap), &base, 2, ISA_ACC_SYSTEM));
    u32 off = base + port / 8u;
    if (off + 1 > tr->limit)
        return isa_gp0(m);
    ISA_TRY(m->ops->read(m->ctx, GVA((tr->base + off) & wrap), &bits, 2, ISA_ACC_SYSTEM));
    return bits >> (port & 7) & ((1u << size) - 1) ? isa_gp0(m) : CPU_OK;
}

/* Even opcodes of the I/O instructions move bytes. */
static unsigned io_size(const struct isa_insn *insn)
{
    if (!(insn->opcode & 1))
        return 1;
    return isa_opsize(insn) == 2 ? 2 : 4;
}

/* E4-E7 carry the port, EC-EF take it from DX. */
static u16 io_port(const struct cpu *c, const struct isa_insn *insn)
{
    return insn->opcode & 8 ? (u16)c->gpr[RDX] : (u8)insn->imm;
}

int sys_in(struct isa *m, const struct isa_insn *insn)
{
    u16 port = io_port(m->cpu, insn);
    unsigned size = io_size(insn);
    u32 v = 0;
    ISA_TRY(check_port(m, port, size));
    ISA_TRY(m->ops->io_read(m->ctx, port, size, &v));
    isa_gpr_put(m->cpu, RAX, size, v);
    return CPU_OK;
}

int sys_out(struct isa *m, const struct isa_insn *insn)
{
    u16 port = io_port(m->cpu, insn);
    unsigned size = io_size(insn);
    ISA_TRY(check_port(m, port, size));
    return m->ops->io_write(m->ctx, port, size, (u32)isa_gpr_get(m->cpu, RAX, size));
}

/* After one element: move the index, count down, and leave when the count is done. */
static void advance(struct cpu *c, const struct isa_insn *insn, unsigned index, unsigned size)
{
    unsigned as = insn->addr_size;
    u64 step = c->sysflags & FL_DF ? (u64) - (s64)size : size;
    isa_gpr_put(c, index, as, isa_gpr_get(c, index, as) + step);
    if (insn->prefixes & (ISA_PFX_REP | ISA_PFX_REPNE)) {
        u64 count = isa_gpr_get(c, RCX, as) - 1;
        isa_gpr_put(c, RCX, as, count);
        if (count & isa_mask(as))
            return;
    }
    c->rip = isa_next_rip(c, insn);
}

static bool nothing_to_do(struct cpu *c, const struct isa_insn *insn)
{
    if (!(insn->prefixes & (ISA_PFX_REP | ISA_PFX_REPNE)) || isa_gpr_get(c, RCX, insn->addr_size) != 0)
        return false;
    c->rip = isa_next_rip(c, insn);
    return true;
}

int sys_ins(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    unsigned size = io_size(insn);
    u16 port = (u16)c->gpr[RDX];
    u32 v = 0;
    gva_t va;
    ISA_TRY(check_port(m, port, size));
    if (nothing_to_do(c, insn))
        return CPU_OK;
    ISA_TRY(isa_linear(c, SEG_ES, isa_gpr_get(c, RDI, insn->addr_size), size, true, &va));
    ISA_TRY(m->ops->probe_write(m->ctx, va, size, ISA_ACC_DATA));
    ISA_TRY(m->ops->io_read(m->ctx, port, size, &v));
    ISA_TRY(m->ops->write(m->ctx, va, &v, size, ISA_ACC_DATA));
    advance(c, insn, RDI, size);
    return CPU_OK;
}

int sys_outs(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    unsigned size = io_size(insn);
    u16 port = (u16)c->gpr[RDX];
    u32 v = 0;
    gva_t va;
    ISA_TRY(check_port(m, port, size));
    if (nothing_to_do(c, insn))
        return CPU_OK;
    ISA_TRY(isa_linear(c, insn->mem.seg, isa_gpr_get(c, RSI, insn->addr_size), size, false, &va));
    ISA_TRY(m->ops->read(m->ctx, va, &v, size, ISA_ACC_DATA));
    ISA_TRY(m->ops->io_write(m->ctx, port, size, v));
    advance(c, insn, RSI, size);
    return CPU_OK;
}
