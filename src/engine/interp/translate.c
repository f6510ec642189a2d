/* From a decoded instruction to an op: operands in ready form, and the function that executes it. */
#include "engine/interp/interp.h"
#include "isa/class.h"
#include "machine/cpu/cpuid.h"

/* --- the general functions --- */

/* INS and OUTS, which stay where they are while they repeat. */
static bool string_io(const struct isa_insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_INSB:
    case ZYDIS_MNEMONIC_INSW:
    case ZYDIS_MNEMONIC_INSD:
    case ZYDIS_MNEMONIC_OUTSB:
    case ZYDIS_MNEMONIC_OUTSW:
    case ZYDIS_MNEMONIC_OUTSD:
        return true;
    default:
        return false;
    }
}

static void op_isa(struct interp *ip, const struct op *op)
{
    const struct payload *p = (const struct payload *)op->imm;
    op_rip(ip, op);
    u64 rip = ip->cpu->rip;
    ip->stats.monitor++;
    ip->stale = true;
    int r = isa_execute(&ip->isa, &p->insn);
    __atomic_thread_fence(
        __ATOMIC_SEQ_CST); /* most of them serialise (SDM vol. 3A, 8.3): their stores are seen first */
    if (r != CPU_OK) {
        ip->budget++; /* not executed: paid for when its block was entered */
        longjmp(ip->exit, r);
    }
    ip->in_repeat = ip->cpu->rip == rip && string_io(&p->insn);
}

static void op_ud(struct interp *ip, const struct op *op)
{
    fault_exit(ip, op, cpu_raise(ip->cpu, VEC_UD));
}

static void op_missing(struct interp *ip, const struct op *op)
{
    const struct payload *p = (const struct payload *)op->imm;
    const char *why = NULL;
    native_prepare(ip->native, &p->insn, &why);
    fault_exit(ip, op,
               cpu_unimplemented(ip->cpu, "instruction %s (%s)", isa_mnemonic_name(p->insn.mnemonic),
                                 why ? why : "no reason given"));
}

void op_native(struct interp *ip, const struct op *op)
{
    struct payload *p = (struct payload *)op->imm;
    struct cpu *c = ip->cpu;
    if (unlikely(p->stub_generation != native_generation(ip->native))) {
        const char *why;
        p->stub = native_prepare(ip->native, &p->insn, &why);
        p->stub_generation = native_generation(ip->native);
    }
    if (unlikely(!p->stub)) {
        op_missing(ip, op);
        return;
    }
    u64 block_rip = c->rip;
    c->rip += op->off;
    int r = native_run(ip->native, &ip->isa, &p->insn, p->stub);
    c->rip = block_rip;
    if (unlikely(r != CPU_OK))
        fault_exit(ip, op, r);
    ip->stats.native++;
    NEXT;
}

static void op_nop(struct interp *ip, const struct op *op)
{
    NEXT;
}

static void op_pause(struct interp *ip, const struct op *op)
{
    ip->pauses++;
    NEXT;
}

static void op_fence(struct interp *ip, const struct op *op)
{
    __atomic_thread_fence(__ATOMIC_SEQ_CST);
    NEXT;
}

/* --- operands --- */

static const struct isa_operand *memory_operand(const struct isa_insn *insn)
{
    for (unsigned i = 0; i < insn->n_ops; i++)
        if (insn->op[i].kind == ISA_OP_MEM)
            return &insn->op[i];
    return NULL;
}

static void set_memory(const struct isa_insn *insn, struct op *op, u8 key)
{
    const struct isa_mem *m = &insn->mem;
    op->base = m->base == ISA_NO_REG ? OFF_ZERO : m->base == ISA_RIP_REG ? OFF_RIP : OFF_GPR(m->base);
    op->index = m->index == ISA_NO_REG || m->vsib ? OFF_ZERO : OFF_GPR(m->index);
    op->shift = (u8)__builtin_ctz(m->scale ? m->scale : 1);
    op->disp = m->disp;
    op->segno = m->seg;
    op->addr_size = insn->addr_size;
    bool mode64 = (key & KEY_MODE) == ISA_MODE_64;
    op->seg = mode64 && m->seg != SEG_FS && m->seg != SEG_GS ? OFF_ZERO : OFF_SEG(m->seg);
    if (insn->addr_size != 8)
        op->flags |= OPF_EA_SLOW;
    /* While a block runs, RIP stands at its start: what is relative to the next instruction moves by the difference. */
    if (m->base == ISA_RIP_REG)
        op->disp += op->off + op->len;
}

static bool is_nop(const struct isa_insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_NOP:
    case ZYDIS_MNEMONIC_ENDBR64:
    case ZYDIS_MNEMONIC_ENDBR32:
    case ZYDIS_MNEMONIC_PREFETCH:
    case ZYDIS_MNEMONIC_PREFETCHW:
    case ZYDIS_MNEMONIC_PREFETCHWT1:
    case ZYDIS_MNEMONIC_PREFETCHNTA:
    case ZYDIS_MNEMONIC_PREFETCHT0:
    case ZYDIS_MNEMONIC_PREFETCHT1:
    case ZYDIS_MNEMONIC_PREFETCHT2:
    case ZYDIS_MNEMONIC_CLDEMOTE:
        return true;
    default:
        return false;
    }
}

static bool is_fence(const struct isa_insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_MFENCE || insn->mnemonic == ZYDIS_MNEMONIC_LFENCE ||
           insn->mnemonic == ZYDIS_MNEMONIC_SFENCE;
}

static struct payload *attach(struct interp *ip, const struct isa_insn *insn, struct op *op)
{
    struct payload *p = arena_alloc(ip, sizeof(*p));
    if (p) {
        *p = (struct payload){.insn = *insn, .stub_generation = native_generation(ip->native) - 1};
        op->imm = (s64)p;
    }
    return p;
}

/* Innocuous, yet written in isa/ and not known to the 64-bit host: they end their block like all that goes there. */
static bool by_isa(const struct isa_insn *insn)
{
    return insn->cls != ISA_INNOCUOUS || insn->mnemonic == ZYDIS_MNEMONIC_BOUND ||
           insn->mnemonic == ZYDIS_MNEMONIC_ARPL;
}

/* The functions for what the interpreter knows itself; NULL sends it to native execution. */
static op_fn choose(const struct isa_insn *insn, struct op *op, u8 key, bool *ends)
{
    op_fn fn;
    if (is_nop(insn))
        return op_nop;
    if (insn->mnemonic == ZYDIS_MNEMONIC_PAUSE)
        return op_pause;
    if (is_fence(insn))
        return op_fence;
    if ((fn = flow_choose(insn, op, key, ends)) || (fn = alu_choose(insn, op)) || (fn = data_choose(insn, op)) ||
        (fn = string_choose(insn, op)))
        return fn;
    return legacy_choose(insn, op);
}

static bool lacks(const struct cpu *c, u32 feature)
{
    return feature != ISA_FEAT_NONE && !cpu_has(c->model, feature);
}

bool translate(struct interp *ip, const struct isa_insn *insn, struct op *op)
{
    bool ends = false;
    if (memory_operand(insn))
        set_memory(insn, op, ip->key);
    if (insn->prefixes & ISA_PFX_LOCK)
        op->flags |= OPF_LOCK;
    bool no_such = (ip->key & KEY_NO_VEX) && insn->encoding != ISA_ENC_LEGACY;
    if (insn->cls == ISA_UNSUPPORTED || no_such || lacks(ip->cpu, isa_feature(insn)) ||
        lacks(ip->cpu, isa_feature_also(insn))) {
        op->fn = op_ud;
        return true;
    }
    if (insn->cls == ISA_INNOCUOUS || insn->cls == ISA_CONTROL)
        op->fn = choose(insn, op, ip->key, &ends);
    if (op->fn)
        return ends;
    if (!attach(ip, insn, op))
        return false;
    op->fn = vector_choose(insn, op);
    if (op->fn)
        return false;
    ends = by_isa(insn);
    op->fn = ends ? op_isa : op_native;
    return ends;
}
