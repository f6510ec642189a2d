/*
 * Gathers and scatters, element by element.
 *
 * Each element has an address of its own, so there is no operand to marshal: the loop of the manual's pseudocode runs
 * here. Elements complete from the least significant one upward; a completed element's mask bit (EVEX) or mask element
 * (VEX) is cleared at once, so that a fault leaves a state from which the instruction restarts.
 *
 * Source: SDM vol. 2, VGATHERDPS/VGATHERDPD, VPGATHERDD.., VPSCATTERDD.., VSCATTERDPS...
 */
#include "engine/interp/native_internal.h"

#include <string.h>

/* Bytes of an index and of a data element. */
static const struct gather_row {
    u16 mnemonic;
    u8 index, data, scatter;
} rows[] = {
    {ZYDIS_MNEMONIC_VGATHERDPS, 4, 4, 0},  {ZYDIS_MNEMONIC_VGATHERDPD, 4, 8, 0},  {ZYDIS_MNEMONIC_VGATHERQPS, 8, 4, 0},
    {ZYDIS_MNEMONIC_VGATHERQPD, 8, 8, 0},  {ZYDIS_MNEMONIC_VPGATHERDD, 4, 4, 0},  {ZYDIS_MNEMONIC_VPGATHERDQ, 4, 8, 0},
    {ZYDIS_MNEMONIC_VPGATHERQD, 8, 4, 0},  {ZYDIS_MNEMONIC_VPGATHERQQ, 8, 8, 0},  {ZYDIS_MNEMONIC_VSCATTERDPS, 4, 4, 1},
    {ZYDIS_MNEMONIC_VSCATTERDPD, 4, 8, 1}, {ZYDIS_MNEMONIC_VSCATTERQPS, 8, 4, 1}, {ZYDIS_MNEMONIC_VSCATTERQPD, 8, 8, 1},
    {ZYDIS_MNEMONIC_VPSCATTERDD, 4, 4, 1}, {ZYDIS_MNEMONIC_VPSCATTERDQ, 4, 8, 1}, {ZYDIS_MNEMONIC_VPSCATTERQD, 8, 4, 1},
    {ZYDIS_MNEMONIC_VPSCATTERQQ, 8, 8, 1},
};

static const struct gather_row *row_of(u16 mnemonic)
{
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (rows[i].mnemonic == mnemonic)
            return &rows[i];
    return NULL;
}

bool native_is_gather(u16 mnemonic, bool *scatter)
{
    const struct gather_row *r = row_of(mnemonic);
    *scatter = r && r->scatter;
    return r != NULL;
}

/* What the loop needs to know of one instruction. */
struct gather {
    const struct gather_row *row;
    unsigned length;   /* of the vectors in force, in bytes */
    unsigned elements; /* gathered or scattered */
    bool evex;
    u8 data; /* vector register of the data */
    u8 mask; /* opmask (EVEX) or vector register (VEX) */
};

static unsigned vector_length(const struct isa_insn *insn)
{
    const u8 *b = insn->bytes + insn->off_rex;
    if (insn->encoding == ISA_ENC_EVEX)
        return 16u << MIN(b[3] >> 5 & 3, 2);
    return b[0] == 0xc4 && (b[2] & 4) ? 32 : 16;
}

static bool is_vector(const struct isa_operand *o)
{
    return o->kind == ISA_OP_REG && o->reg_class >= ISA_REG_XMM && o->reg_class <= ISA_REG_ZMM;
}

static struct gather gather_parse(const struct isa_insn *insn)
{
    struct gather g = {.row = row_of(insn->mnemonic), .evex = insn->encoding == ISA_ENC_EVEX};
    g.length = vector_length(insn);
    g.elements = g.length / MAX(g.row->index, g.row->data);
    bool first = true;
    for (unsigned i = 0; i < insn->n_ops; i++) {
        const struct isa_operand *o = &insn->op[i];
        if (is_vector(o) && first)
            g.data = o->reg & 31, first = false;
        else if (is_vector(o) && !g.evex)
            g.mask = o->reg & 31;
    }
    if (g.evex)
        g.mask = insn->bytes[insn->off_rex + 3] & 7;
    return g;
}

static bool active(const struct cpu *c, const struct gather *g, unsigned i)
{
    if (g->evex)
        return c->fpu.k[g->mask] >> i & 1;
    return c->fpu.zmm[g->mask].b[(i + 1) * g->row->data - 1] & 0x80;
}

static void complete(struct cpu *c, const struct gather *g, unsigned i)
{
    if (g->evex)
        c->fpu.k[g->mask] &= ~BIT(i);
    else
        memset(c->fpu.zmm[g->mask].b + i * g->row->data, 0, g->row->data);
}

static int element_address(struct cpu *c, const struct isa_insn *insn, const struct gather *g, unsigned i, gva_t *va)
{
    const u8 *index = c->fpu.zmm[insn->mem.index & 31].b + i * g->row->index;
    s64 x = 0;
    if (g->row->index == 4) {
        s32 narrow;
        memcpy(&narrow, index, 4);
        x = narrow;
    } else {
        memcpy(&x, index, 8);
    }
    u64 off = (u64)insn->mem.disp + (u64)x * insn->mem.scale;
    if (insn->mem.base == ISA_RIP_REG)
        off += c->rip + insn->len;
    else if (insn->mem.base != ISA_NO_REG)
        off += c->gpr[insn->mem.base & 15];
    if (insn->addr_size < 8)
        off &= BIT(insn->addr_size * 8) - 1;
    return isa_linear(c, insn->mem.seg, off, g->row->data, g->row->scatter, va);
}

/* All active elements, *done of them before a fault. */
static int run_elements(struct isa *m, const struct isa_insn *insn, const struct gather *g, unsigned *done)
{
    struct cpu *c = m->cpu;
    *done = 0;
    for (unsigned i = 0; i < g->elements; i++) {
        u8 value[8], *at = c->fpu.zmm[g->data].b + i * g->row->data;
        gva_t va;
        if (!active(c, g, i))
            continue;
        int rc = element_address(c, insn, g, i, &va);
        if (rc)
            return rc;
        rc = g->row->scatter ? m->ops->write(m->ctx, va, at, g->row->data, ISA_ACC_DATA)
                             : m->ops->read(m->ctx, va, value, g->row->data, ISA_ACC_DATA);
        if (rc)
            return rc;
        if (!g->row->scatter)
            memcpy(at, value, g->row->data);
        complete(c, g, i);
        ++*done;
    }
    return CPU_OK;
}

static void clear_from(struct cpu_vec *v, unsigned from)
{
    memset(v->b + from, 0, sizeof(v->b) - from);
}

/*
 * Before the first element, the elements of a VEX mask become all ones or zeros over the whole vector length, and what is
 * beyond it is cleared: that is what a fault leaves to be seen.
 */
static void spread_signs(struct cpu *c, const struct gather *g)
{
    struct cpu_vec *mask = &c->fpu.zmm[g->mask];
    for (unsigned i = 0; i < g->length / g->row->data; i++)
        memset(mask->b + i * g->row->data, active(c, g, i) ? 0xff : 0, g->row->data);
    clear_from(mask, g->length);
}

int native_run_gather(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s)
{
    struct gather g = gather_parse(insn);
    unsigned done = 0;
    if (!g.evex)
        spread_signs(m->cpu, &g);
    int rc = run_elements(m, insn, &g, &done);
    if (done)
        clear_from(&m->cpu->fpu.zmm[g.data], g.length);
    if (rc)
        return rc;
    clear_from(&m->cpu->fpu.zmm[g.data], g.elements * g.row->data);
    if (g.evex)
        m->cpu->fpu.k[g.mask] = 0;
    else
        clear_from(&m->cpu->fpu.zmm[g.mask], 0);
    return CPU_OK;
}

int native_run_scatter(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s)
{
    struct gather g = gather_parse(insn);
    unsigned done;
    int rc = run_elements(m, insn, &g, &done);
    if (rc == CPU_OK)
        m->cpu->fpu.k[g.mask] = 0;
    return rc;
}
