/*
 * Innocuous instructions, copied: the guest's own instruction is executed by the host, on other registers where the
 * guest's are taken, and on the host address of its memory operand.
 *
 * Nothing is copied that the decoder has not accounted for: every general register operand says where in the encoding
 * it stands, or it is implied and must be one that has its own host register (or CL, which is moved to RCX for the while).
 * A guest register that lives in a slot is staged in a scratch register, or, where it is the r/m operand of a plain
 * integer instruction, used as memory where it is. What does not fit is left to the interpreter.
 *
 * What must stay true
 *  1. The instruction itself is the last thing that can fault, and staged registers are written back behind it.
 *  2. No byte of the guest's encoding that concerns addressing, repetition or segments is copied.
 */
#include "engine/bt/bt_internal.h"
#include "isa/class.h"
#include "machine/cpu/cpuid.h"

/* What becomes of the registers of one instruction. */
struct plan {
    u8 host[CPU_GPRS]; /* of each general register operand */
    u16 load, store;   /* staged guest registers: to load before, to store behind */
    int in_place;      /* index of the operand that is used as memory in its slot, or -1 */
    bool stage_cx;     /* guest RCX in the host's RCX */
};

static bool is_gpr(const struct isa_operand *o)
{
    return o->kind == ISA_OP_REG && o->reg_class >= ISA_REG_GPR8 && o->reg_class <= ISA_REG_GPR64;
}

static const struct isa_operand *memory_operand(const struct isa_insn *insn)
{
    for (unsigned i = 0; i < insn->n_ops; i++)
        if (insn->op[i].kind == ISA_OP_MEM)
            return &insn->op[i];
    return NULL;
}

/* --- can it be copied at all? --- */

static bool registers_known(const struct isa_insn *insn)
{
    for (unsigned i = 0; i < insn->n_ops; i++) {
        const struct isa_operand *o = &insn->op[i];
        if (o->kind == ISA_OP_FAR)
            return false;
        if (o->kind != ISA_OP_REG)
            continue;
        if (o->reg_class == ISA_REG_SEG || o->reg_class == ISA_REG_CR || o->reg_class == ISA_REG_DR)
            return false;
        if (o->reg_class == ISA_REG_OTHER && !o->hidden)
            return false;
    }
    return true;
}

static bool memory_known(const struct isa_insn *insn)
{
    unsigned n = 0;
    for (unsigned i = 0; i < insn->n_ops; i++) {
        const struct isa_operand *o = &insn->op[i];
        if (o->kind != ISA_OP_MEM)
            continue;
        if (n++ || o->hidden || !insn->off_modrm || insn->modrm >= 0xc0 || !o->size || o->size > 64)
            return false;
    }
    return !insn->mem.vsib || n == 0;
}

/* BT and its kin with a register operand address memory beyond their operand. */
static bool bit_string(const struct isa_insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_BT:
    case ZYDIS_MNEMONIC_BTS:
    case ZYDIS_MNEMONIC_BTR:
    case ZYDIS_MNEMONIC_BTC:
        return insn->op[0].kind == ISA_OP_MEM && insn->op[1].kind == ISA_OP_REG;
    default:
        return false;
    }
}

static bool cache_line(const struct isa_insn *insn)
{
    return insn->mnemonic == ZYDIS_MNEMONIC_CLFLUSH || insn->mnemonic == ZYDIS_MNEMONIC_CLFLUSHOPT ||
           insn->mnemonic == ZYDIS_MNEMONIC_CLWB;
}

/* From memory to MMX: by MXCSR, although no vector register is named. */
static bool converts_to_mmx(u16 mnemonic)
{
    return mnemonic == ZYDIS_MNEMONIC_CVTPS2PI || mnemonic == ZYDIS_MNEMONIC_CVTTPS2PI ||
           mnemonic == ZYDIS_MNEMONIC_CVTPD2PI || mnemonic == ZYDIS_MNEMONIC_CVTTPD2PI;
}

bool bt_uses_vectors(const struct isa_insn *insn)
{
    return converts_to_mmx(insn->mnemonic) || insn->vec_used || insn->vec_written || insn->mask_used ||
           insn->mask_written || insn->uses_mxcsr || insn->mnemonic == ZYDIS_MNEMONIC_VZEROUPPER ||
           insn->mnemonic == ZYDIS_MNEMONIC_VZEROALL || insn->mnemonic == ZYDIS_MNEMONIC_LDMXCSR ||
           insn->mnemonic == ZYDIS_MNEMONIC_STMXCSR || insn->mnemonic == ZYDIS_MNEMONIC_VLDMXCSR ||
           insn->mnemonic == ZYDIS_MNEMONIC_VSTMXCSR;
}

bool bt_uses_x87(const struct isa_insn *insn)
{
    bool x87 = insn->encoding == ISA_ENC_LEGACY && insn->map == 0 && insn->opcode >= 0xd8 && insn->opcode <= 0xdf;
    return x87 || insn->uses_x87 || insn->mnemonic == ZYDIS_MNEMONIC_FWAIT;
}

/* Do CR0, CR4 and XCR0 let the unit work? */
static bool unit_allowed(const struct bt_gen *g, const struct isa_insn *insn)
{
    u8 key = g->b->key;
    if (bt_uses_x87(insn) && (!(key & BK_X87) || bt_x87_left(insn)))
        return false;
    if (!bt_uses_vectors(insn))
        return true;
    if (insn->encoding == ISA_ENC_EVEX || insn->mask_used || insn->mask_written)
        return key & BK_AVX512;
    return key & (insn->encoding == ISA_ENC_VEX ? BK_AVX : BK_SSE);
}

static bool lacks(const struct cpu *c, u32 feature)
{
    return feature != ISA_FEAT_NONE && !cpu_has(c->model, feature);
}

bool bt_missing(const struct bt_gen *g, const struct isa_insn *insn)
{
    const struct cpu *c = g->bt->ip.cpu;
    return insn->cls == ISA_UNSUPPORTED || lacks(c, isa_feature(insn)) || lacks(c, isa_feature_also(insn));
}

static bool copyable(const struct bt_gen *g, const struct isa_insn *insn)
{
    if (insn->cls != ISA_INNOCUOUS || insn->encoding == ISA_ENC_OTHER || insn->n_ops == ISA_MAX_OPS)
        return false;
    if ((insn->flags_read | insn->flags_written) & ~(FL_ARITH | FL_ONE))
        return false;
    if (insn->mnemonic == ZYDIS_MNEMONIC_LEA || bit_string(insn) || cache_line(insn) || isa_is_string(insn))
        return false;
    return unit_allowed(g, insn) && registers_known(insn) && memory_known(insn);
}

/* --- registers --- */

/*
 * Plain integer instructions that do to memory what they do to a register. Not shifts and rotates: what they leave in flags that
 * the manual calls undefined differs between the two.
 */
static bool memory_form(const struct isa_insn *insn)
{
    u8 op = insn->opcode;
    if (insn->encoding != ISA_ENC_LEGACY || !insn->off_modrm)
        return false;
    if (insn->map == 1)
        return (op >= 0x40 && op <= 0x4f) || (op >= 0x90 && op <= 0x9f) || op == 0xaf || op == 0xb6 || op == 0xb7 ||
               op == 0xbe || op == 0xbf;
    if (insn->map != 0)
        return false;
    return op < 0x40 || op == 0x63 || op == 0x69 || op == 0x6b || op == 0x80 || op == 0x81 || op == 0x83 ||
           op == 0x84 || op == 0x85 || (op >= 0x88 && op <= 0x8b) || op == 0xc6 || op == 0xc7 || op == 0xf6 ||
           op == 0xf7 || op == 0xfe || op == 0xff;
}

/* The operand in a slot that can be used there: writing 32 bits would have to clear the upper half. */
static int in_place_operand(const struct isa_insn *insn)
{
    if (!memory_form(insn) || memory_operand(insn))
        return -1;
    for (unsigned i = 0; i < insn->n_ops; i++) {
        const struct isa_operand *o = &insn->op[i];
        if (is_gpr(o) && o->enc == ISA_AT_RM && bt_host_of[o->reg] == NO_HOST && !(o->written && o->size == 4))
            return (int)i;
    }
    return -1;
}

static void stage(struct plan *p, const struct isa_operand *o, unsigned guest, unsigned host)
{
    p->host[guest] = (u8)host;
    p->load |= (u16)BIT(guest); /* what is only written may be written in part, or not at all */
    if (o->written)
        p->store |= (u16)BIT(guest);
}

/*
 * Choose host registers. `free_a`, `free_b`: scratch registers that a memory operand leaves. False: it does not fit.
 */
static bool plan_registers(const struct isa_insn *insn, struct plan *p, bool memory)
{
    bool high = false, a_taken = false, b_taken = false;
    *p = (struct plan){.in_place = in_place_operand(insn)};
    memcpy(p->host, bt_host_of, sizeof(p->host));
    for (unsigned i = 0; i < insn->n_ops; i++)
        high |= is_gpr(&insn->op[i]) && insn->op[i].reg_class == ISA_REG_GPR8H;
    for (unsigned i = 0; i < insn->n_ops; i++) {
        const struct isa_operand *o = &insn->op[i];
        if (!is_gpr(o))
            continue;
        bool implied = o->enc == ISA_AT_NONE, cx = o->reg == RCX && (implied || high);
        if (o->enc > ISA_AT_OPCODE || (implied && o->reg > RDI) || (implied && o->reg == RSP) ||
            (high && o->reg == RSP))
            return false;
        if (cx)
            p->stage_cx = a_taken = true;
    }
    for (unsigned i = 0; i < insn->n_ops && p->stage_cx; i++)
        if (is_gpr(&insn->op[i]) && insn->op[i].reg == RCX)
            stage(p, &insn->op[i], RCX, SCRATCH_A);
    for (unsigned i = 0; i < insn->n_ops; i++) {
        const struct isa_operand *o = &insn->op[i];
        if (!is_gpr(o) || bt_host_of[o->reg] != NO_HOST || (int)i == p->in_place)
            continue;
        if (p->host[o->reg] == NO_HOST) {
            /* With a memory operand its address is in one of the two. */
            if (memory && (a_taken || b_taken))
                return false;
            if (!b_taken)
                b_taken = true, p->host[o->reg] = SCRATCH_B;
            else if (!a_taken)
                a_taken = true, p->host[o->reg] = SCRATCH_A;
            else
                return false;
        }
        stage(p, o, o->reg, p->host[o->reg]);
    }
    return !(memory && high && p->stage_cx);
}

/* --- encoding --- */

struct fields {
    bool w;
    u8 reg, rm, vvvv, low; /* register numbers with all their bits; low: opcode's register */
    bool reg_gpr, rm_gpr, vvvv_gpr;
    bool high, byte_rex; /* an AH..BH operand; a byte operand that needs REX to be what it is */
};

static void set_fields(const struct isa_insn *insn, const struct plan *p, struct fields *f)
{
    for (unsigned i = 0; i < insn->n_ops; i++) {
        const struct isa_operand *o = &insn->op[i];
        if (!is_gpr(o) || (int)i == p->in_place)
            continue;
        if (o->reg_class == ISA_REG_GPR8H) {
            f->high = true;
            continue; /* its number stays */
        }
        u8 host = p->host[o->reg];
        if (o->reg_class == ISA_REG_GPR8 && host >= 4 && host < 8 && o->enc != ISA_AT_NONE)
            f->byte_rex = true;
        switch (o->enc) {
        case ISA_AT_REG:
            f->reg = host, f->reg_gpr = true;
            break;
        case ISA_AT_RM:
            f->rm = host, f->rm_gpr = true;
            break;
        case ISA_AT_VVVV:
            f->vvvv = host, f->vvvv_gpr = true;
            break;
        case ISA_AT_OPCODE:
            f->low = host;
            break;
        default:
            break;
        }
    }
}

static unsigned address_bits(struct haddr a)
{
    return (a.index != NO_HOST && (a.index & 8) ? 2u : 0) | (a.base & 8 && a.base != NO_HOST ? 1u : 0);
}

static void put_tail(struct emit *e, const struct isa_insn *insn, const struct fields *f, const struct haddr *mem,
                     bool wide_disp)
{
    if (insn->off_modrm) {
        if (mem)
            emit_modrm_mem(e, f->reg, *mem, wide_disp);
        else
            put8e(e, 0xc0 | (f->reg & 7u) << 3 | (f->rm & 7u));
    }
    put_bytes(e, insn->bytes + insn->len - insn->imm_len, insn->imm_len);
}

static bool encode_legacy(struct emit *e, const struct isa_insn *insn, const struct plan *p, const struct haddr *mem)
{
    static const u8 escapes[4][2] = {{0, 0}, {0x0f, 0}, {0x0f, 0x38}, {0x0f, 0x3a}};
    static const u8 n_escapes[] = {0, 1, 2, 2};
    if (insn->map > 3)
        return false;
    unsigned rex = insn->has_rex ? insn->bytes[insn->off_rex] & 15u : 0;
    struct fields f = {.reg = (u8)((insn->modrm >> 3 & 7) | (rex & 4) << 1),
                       .rm = (u8)((insn->modrm & 7) | (rex & 1) << 3),
                       .low = (u8)((insn->opcode & 7) | (rex & 1) << 3)};
    bool by_opcode = false;
    for (unsigned i = 0; i < insn->n_ops; i++)
        by_opcode |= insn->op[i].enc == ISA_AT_OPCODE;
    set_fields(insn, p, &f);
    unsigned start = insn->has_rex ? insn->off_rex : insn->off_opcode - n_escapes[insn->map];
    bool repeats = (insn->map != 0 || insn->opcode == 0x90) && !(insn->prefixes & ISA_PFX_LOCK);
    for (unsigned i = 0; i < start; i++) {
        u8 b = insn->bytes[i];
        if (b == 0x66 || (repeats && (b == 0xf2 || b == 0xf3)) || (b == 0xf0 && (insn->prefixes & ISA_PFX_LOCK)))
            put8e(e, b);
    }
    unsigned out = (rex & 8) | (insn->off_modrm && (f.reg & 8) ? 4u : 0);
    if (mem)
        out |= address_bits(*mem);
    else if (insn->off_modrm ? f.rm & 8 : by_opcode && (f.low & 8))
        out |= 1;
    if (f.high && (out || f.byte_rex))
        return false;
    if (out || f.byte_rex)
        put8e(e, 0x40 | out);
    put_bytes(e, escapes[insn->map], n_escapes[insn->map]);
    put8e(e, by_opcode ? (insn->opcode & 0xf8u) | (f.low & 7u) : insn->opcode);
    put_tail(e, insn, &f, mem, false);
    return true;
}

/* Always the three-byte form. */
static bool encode_vex(struct emit *e, const struct isa_insn *insn, const struct plan *p, const struct haddr *mem)
{
    const u8 *b = insn->bytes + insn->off_rex;
    bool two = b[0] == 0xc5;
    u8 last = two ? b[1] & 0x7f : b[2];
    u8 rxb = two ? (u8)((b[1] & 0x80) | 0x60) : b[1] & 0xe0; /* inverted */
    u8 map = two ? 1 : b[1] & 31;
    struct fields f = {.reg = (u8)((insn->modrm >> 3 & 7) | (rxb & 0x80 ? 0 : 8)),
                       .rm = (u8)((insn->modrm & 7) | (rxb & 0x20 ? 0 : 8)),
                       .vvvv = ~(last >> 3) & 15};
    set_fields(insn, p, &f);
    unsigned bits = mem ? address_bits(*mem) : f.rm & 8 ? 1 : 0;
    put8e(e, 0xc4);
    put8e(e, (f.reg & 8 ? 0 : 0x80u) | (bits & 2 ? 0 : 0x40u) | (bits & 1 ? 0 : 0x20u) | map);
    put8e(e, (last & 0x87u) | (~f.vvvv & 15u) << 3);
    put8e(e, insn->opcode);
    put_tail(e, insn, &f, mem, false);
    return true;
}

static bool encode_evex(struct emit *e, const struct isa_insn *insn, const struct plan *p, const struct haddr *mem)
{
    const u8 *b = insn->bytes + insn->off_rex;
    u8 p0 = b[1], p1 = b[2], p2 = b[3];
    struct fields f = {.reg = (u8)((insn->modrm >> 3 & 7) | (p0 & 0x80 ? 0 : 8)),
                       .rm = (u8)((insn->modrm & 7) | (p0 & 0x20 ? 0 : 8)),
                       .vvvv = ~(p1 >> 3) & 15};
    set_fields(insn, p, &f);
    p0 = (u8)((p0 & 0x5f) | (f.reg & 8 ? 0 : 0x80) | (f.rm & 8 ? 0 : 0x20));
    if (f.rm_gpr)
        p0 |= 0x40;
    if (mem) {
        unsigned bits = address_bits(*mem);
        p0 = (u8)((p0 & 0x9f) | (bits & 2 ? 0 : 0x40) | (bits & 1 ? 0 : 0x20));
    }
    p1 = (u8)((p1 & 0x87) | (~f.vvvv & 15) << 3);
    put8e(e, 0x62);
    put8e(e, p0);
    put8e(e, p1);
    put8e(e, p2);
    put8e(e, insn->opcode);
    put_tail(e, insn, &f, mem, true);
    return true;
}

static bool encode(struct emit *e, const struct isa_insn *insn, const struct plan *p, const struct haddr *mem)
{
    switch (insn->encoding) {
    case ISA_ENC_LEGACY:
        return encode_legacy(e, insn, p, mem);
    case ISA_ENC_VEX:
        return encode_vex(e, insn, p, mem);
    default:
        return encode_evex(e, insn, p, mem);
    }
}

/* --- staging --- */

static void load_staged(struct bt_gen *g, const struct plan *p)
{
    for (unsigned r = 0; r < CPU_GPRS; r++) {
        if (!(p->load >> r & 1))
            continue;
        if (r == RCX)
            emit_mov(&g->e, SCRATCH_A, HOST_CX);
        else
            emit_load(&g->e, p->host[r], bt_slot(r));
    }
}

static void store_staged(struct bt_gen *g, const struct plan *p)
{
    for (unsigned r = 0; r < CPU_GPRS; r++) {
        if (!(p->store >> r & 1))
            continue;
        if (r == RCX)
            emit_mov(&g->e, HOST_CX, SCRATCH_A);
        else
            emit_store(&g->e, bt_slot(r), p->host[r]);
    }
}

/* Does any register have another number now? */
static bool renamed(const struct isa_insn *insn, const struct plan *p)
{
    for (unsigned i = 0; i < insn->n_ops; i++)
        if (is_gpr(&insn->op[i]) && p->host[insn->op[i].reg] != insn->op[i].reg)
            return true;
    return p->in_place >= 0;
}

static struct haddr operand_address(struct bt_gen *g, const struct isa_insn *insn, const struct plan *p,
                                    const struct isa_operand *o)
{
    bool slots = false, high = false;
    for (unsigned r = 0; r < CPU_GPRS; r++)
        slots |= p->host[r] == SCRATCH_B;
    for (unsigned i = 0; i < insn->n_ops; i++)
        high |= is_gpr(&insn->op[i]) && insn->op[i].reg_class == ISA_REG_GPR8H;
    if (p->stage_cx)
        return bt_lookup_b(g, &insn->mem, insn->addr_size, o->size, o->written);
    if (slots || high)
        return bt_lookup_a(g, &insn->mem, insn->addr_size, o->size, o->written);
    return bt_lookup(g, &insn->mem, insn->addr_size, o->size, o->written);
}

/* --- LEA --- */

static bool copy_lea(struct bt_gen *g, const struct isa_insn *insn)
{
    const struct isa_operand *d = &insn->op[0];
    struct emit *e = &g->e;
    struct isa_mem m = insn->mem;
    u8 host = bt_host_of[d->reg];
    if (d->size < 4)
        return false;
    m.seg = SEG_DS;
    bool plain =
        m.base != ISA_RIP_REG && m.base != ISA_NO_REG && bt_host_of[m.base] != NO_HOST && host != NO_HOST &&
        (m.index == ISA_NO_REG || bt_host_of[m.index] != NO_HOST) &&
        (insn->addr_size == 8 || d->size == 4); /* of a sum's low half, the addends' upper halves are no part */
    if (plain) {
        struct haddr a = {bt_host_of[m.base], m.index == ISA_NO_REG ? NO_HOST : bt_host_of[m.index],
                          (u8)__builtin_ctz(m.scale ? m.scale : 1), (s32)m.disp};
        emit_mem(e, d->size == 8, 0x8d, host, a);
        bt_how(g, HOW_RENAMED);
        return true;
    }
    bt_address(g, &m, insn->addr_size, 0);
    g->held = NOT_HELD;
    if (d->size == 4)
        emit_reg(e, false, 0x89, SCRATCH_A, SCRATCH_A); /* clears the upper half */
    if (host == NO_HOST)
        emit_store(e, bt_slot(d->reg), SCRATCH_A);
    else
        emit_mov(e, host, SCRATCH_A);
    bt_how(g, HOW_RENAMED);
    return true;
}

/* --- nothing --- */

static bool no_effect(const struct isa_insn *insn)
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

bool bt_copy(struct bt_gen *g, const struct isa_insn *insn)
{
    struct plan p;
    bool counted = insn->mnemonic == ZYDIS_MNEMONIC_PAUSE && coherence_shared(g->bt->ip.seat);
    if (insn->cls != ISA_INNOCUOUS || insn->encoding == ISA_ENC_OTHER || counted)
        return false;
    if (no_effect(insn)) {
        bt_how(g, HOW_NOTHING);
        return true;
    }
    if (insn->mnemonic == ZYDIS_MNEMONIC_LEA)
        return copy_lea(g, insn);
    const struct isa_operand *mem = memory_operand(insn);
    if (!copyable(g, insn) || !plan_registers(insn, &p, mem != NULL))
        return false;
    bt_how(g, mem ? HOW_MEMORY : renamed(insn, &p) ? HOW_RENAMED : HOW_COPIED);
    struct haddr a;
    if (mem)
        a = operand_address(g, insn, &p, mem);
    else if (p.in_place >= 0)
        a = bt_slot(insn->op[p.in_place].reg);
    load_staged(g, &p);
    if (!encode(&g->e, insn, &p, mem || p.in_place >= 0 ? &a : NULL))
        return false;
    store_staged(g, &p);
    if (p.load)
        g->held = NOT_HELD;
    return true;
}
