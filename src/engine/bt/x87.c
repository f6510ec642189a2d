/*
 * The x87 unit: instructions of it, and of MMX, run on the host's own while translated code does.
 *
 * Which: all that isa/ calls innocuous and copy.c can encode, where CR0.EM and CR0.TS are clear (BK_X87). FNSTENV, FNSAVE,
 * FLDENV, FRSTOR and FNINIT stay with the interpreter: they show or change the pointers to the last instruction.
 *
 * Where the state is. st->x87_missing, as st->vec_missing: 1, in cpu->fpu.fx; 0, in the host's unit. A block with such
 * instructions looks at its head and calls x87_load. Whatever leads to C that may do as it likes saves the state and leaves
 * the unit as C wants it (an empty stack, the preset control word). bt_refill and its like use no x87.
 *
 *   load   no live vectors: FXRSTOR, which spoils XMM registers that hold nothing, and MXCSR, which is set again.
 *          Live ones: XRSTOR of the x87 component alone, from a copy in st->x87 that has an XSAVE header.
 *   save   FXSAVE; XMM goes to the part of the image that is scratch, and MXCSR with its mask is put back: vec_save wrote the right one.
 *
 * None of these waits, so an exception that is pending travels with the state. The host raises it, as the guest's processor
 * would, at the next instruction that does wait: bt_faulted comes, the state is saved, the interpreter executes the
 * instruction again and raises #MF.
 *
 * The pointers to the last instruction, its operand and its opcode hold the host's addresses and the copy's ModRM when an
 * instruction that was copied is the last one. bt_x87_saved makes them the guest's. What it finds unlike what was loaded is
 * the host's: so a guest that loads the address of translated code as its FIP gets that back, and learns nothing.
 *
 * What must stay true
 *  1. C that may free code runs behind bt_x87_saved only: the block that FIP points into is there, alive or not.
 *  2. Where both are missing, x87_load comes before vec_load.
 *
 * Not done: FDP is searched for if the instruction's registers have changed since, or another instruction followed that has
 * no operand: in the TLB, so the address may be another one of the same memory, or 0. (Processors of the last ten years
 * change FDP only for an instruction with an unmasked exception.) FOP of an earlier instruction keeps the copy's
 * addressing form.
 */
#include "engine/bt/bt_internal.h"

#define FX_FOP   6u
#define FX_FIP   8u
#define FX_FDP   16u
#define FX_MXCSR 24u
#define FX_ST    32u
#define FX_END   160u /* of the x87 registers */

/* FOP is the opcode's low three bits and ModRM, of which a copy with a memory operand has these as the host needs them. */
#define FOP_MOD     0xc0u
#define FOP_RM      7u

#define CPU_FX(off) ((s32)(offsetof(struct cpu, fpu) + offsetof(struct cpu_fpu, fx) + (off)))

bool bt_x87_left(const struct isa_insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_FNSTENV:
    case ZYDIS_MNEMONIC_FNSAVE:
    case ZYDIS_MNEMONIC_FLDENV:
    case ZYDIS_MNEMONIC_FRSTOR:
    case ZYDIS_MNEMONIC_FNINIT:
        return true;
    default:
        return false;
    }
}

/* --- code --- */

/* Group 15 of map 0F: FXSAVE64 (0), FXRSTOR64 (1), XRSTOR64 (5) with REX.W, LDMXCSR (2) without. */
static void group15(struct emit *e, bool w, unsigned digit, struct haddr a)
{
    if (w)
        put8e(e, 0x48);
    put8e(e, 0x0f);
    put8e(e, 0xae);
    emit_modrm_mem(e, digit, a, false);
}

static void set_missing(struct emit *e, s32 below, bool missing)
{
    put8e(e, 0xc6); /* mov byte [x87_missing], missing */
    emit_modrm_mem(e, 0, AT(H_RSP, ST(x87_missing) + below), false);
    put8e(e, missing);
}

/* RCX is the CPU: the image's bytes from `from` to `to` into st->x87. */
static void copy_image(struct emit *e, unsigned from, unsigned to)
{
    for (unsigned i = from; i < to; i += 8) {
        emit_load(e, H_R15, AT(H_RCX, CPU_FX(i)));
        emit_store(e, AT(H_RSP, ST(x87) + 8 + (s32)i), H_R15);
    }
}

/* Called with RSP 8 lower, flags and all registers but RCX and R15 the guest's. */
void bt_x87_load(struct bt *bt, struct emit *e)
{
    bt->x87_load = emit_rx(e);
    emit_movzx8_mem(e, H_RCX, AT(H_RSP, ST(vec_missing) + 8));
    u8 *live = emit_jrcxz(e);
    emit_load(e, H_RCX, AT(H_RSP, ST(cpu) + 8));
    copy_image(e, 0, FX_MXCSR); /* what bt_x87_saved compares with */
    group15(e, true, 1, AT(H_RCX, CPU_FX(0)));
    group15(e, false, 2, AT(H_RSP, ST(host_mxcsr) + 8));
    set_missing(e, 8, false);
    put8e(e, 0xc3);
    emit_here8(e, live);
    emit_load(e, H_RCX, AT(H_RSP, ST(cpu) + 8));
    copy_image(e, 0, FX_MXCSR);
    copy_image(e, FX_ST, FX_END);
    emit_mov(e, H_R15, H_RAX);
    emit_mov(e, H_RCX, H_RDX);
    emit_mov_imm(e, H_RAX, XCR0_X87);
    emit_mov_imm(e, H_RDX, 0);
    group15(e, true, 5, AT(H_RSP, ST(x87) + 8));
    emit_mov(e, H_RAX, H_R15);
    emit_mov(e, H_RDX, H_RCX);
    set_missing(e, 8, false);
    put8e(e, 0xc3);
}

u8 *bt_x87_save(struct emit *e)
{
    emit_movzx8_mem(e, H_RCX, AT_ST(x87_missing));
    put_bytes(e, "\x85\xc9", 2); /* test ecx, ecx */
    u8 *skip = emit_jcc32(e, 5);
    emit_load(e, H_RCX, AT_ST(cpu));
    emit_load(e, H_RAX, AT(H_RCX, CPU_FX(FX_MXCSR)));
    group15(e, true, 0, AT(H_RCX, CPU_FX(0)));
    emit_store(e, AT(H_RCX, CPU_FX(FX_MXCSR)), H_RAX);
    put_bytes(e, "\xdb\xe3", 2); /* fninit */
    set_missing(e, 0, true);
    return skip;
}

/* --- pointers --- */

static u64 get64(const u8 *p)
{
    u64 v;
    memcpy(&v, p, sizeof(v));
    return v;
}

/* The guest's instruction number `i` of a block, as it stands in memory. */
static bool decode(const struct bt *bt, const struct bt_block *b, unsigned i, struct isa_insn *insn)
{
    u8 bytes[ISA_MAX_LEN];
    u64 at = b->start + bt_maps(b)[i].guest;
    unsigned n = MIN((unsigned)ISA_MAX_LEN, PAGE_SIZE - (unsigned)(at & (PAGE_SIZE - 1)));
    if (b->dead)
        return false;
    memcpy(bytes, bt->ip.mem->ram + at, n);
    if (b->second) {
        memcpy(bytes + n, bt->ip.mem->ram + bt_second(bt, b)->ram, ISA_MAX_LEN - n);
        n = ISA_MAX_LEN;
    }
    return isa_decode(b->key & BK_COMPAT ? ISA_MODE_32 : ISA_MODE_64, bytes, n, insn) == ISA_DECODE_OK;
}

/* Does the guest reach the byte at `host` by that address? */
static bool is_at(struct interp *ip, u64 va, u64 host)
{
    struct mmu_page p;
    if (mmu_peek(ip->cpu, ip->mem, GVA(va), MMU_READ, ip->user, &p) != CPU_OK)
        return false;
    return (u64)(uintptr_t)mem_at(ip->mem, p.gpa, 1) == host;
}

/* An address that leads to `host` by the TLB's entries; 0 if none does. */
static u64 search(const struct interp *ip, u64 host)
{
    const struct tlb_journal *j = &ip->journal[ip->context];
    for (unsigned i = 0; i < j->n; i++) {
        u64 va = j->used[i].page | (host & (PAGE_SIZE - 1));
        if (!(j->used[i].kind & TLB_EXEC) && va + ip->tlb->addend[j->used[i].index] == host)
            return va;
    }
    return 0;
}

static bool has_memory(const struct isa_insn *insn)
{
    return insn->off_modrm && insn->modrm < 0xc0;
}

/*
 * The guest's address of an operand that was at `host`: that of the instruction at `rip`, if it is known and its registers
 * have not changed.
 */
static u64 operand(struct interp *ip, const struct isa_insn *insn, u64 rip, u64 host)
{
    struct cpu *c = ip->cpu;
    if (insn && has_memory(insn)) {
        bool based = insn->mem.seg == SEG_FS || insn->mem.seg == SEG_GS;
        u64 now = c->rip;
        c->rip = rip;
        u64 ea = isa_ea(c, insn);
        c->rip = now;
        u64 va = ea + (based ? c->seg[insn->mem.seg].base : 0);
        if (is_at(ip, insn->mode == ISA_MODE_64 ? va : (u32)va, host))
            return ea;
    }
    return search(ip, host);
}

void bt_x87_saved(struct bt_state *st)
{
    struct bt *bt = st->bt;
    u8 *fx = st->cpu->fpu.fx;
    const struct guest_mem *mem = bt->ip.mem;
    cpu_fpu_settle_pointers(&st->cpu->fpu);
    u64 fip = get64(fx + FX_FIP), fdp = get64(fx + FX_FDP), code = (u64)(uintptr_t)bt->code.rx;
    struct isa_insn insn;
    bool known = false;
    if (fip != get64(st->x87 + FX_FIP) && fip - code < bt->code.size) {
        u32 offset = (u32)(fip - code);
        const struct bt_block *b = bt_at_code(bt, offset);
        unsigned i = b ? bt_insn_at(b, offset) : 0;
        known = b && decode(bt, b, i, &insn);
        fip = b ? b->va + bt_maps(b)[i].guest : 0;
        memcpy(fx + FX_FIP, &fip, sizeof(fip));
    }
    if (fdp != get64(st->x87 + FX_FDP) && fdp - (u64)(uintptr_t)mem->ram < mem->size) {
        bt_sync(bt);
        fdp = operand(&bt->ip, known ? &insn : NULL, fip, fdp);
        memcpy(fx + FX_FDP, &fdp, sizeof(fdp));
    }
    if (known && has_memory(&insn) && memcmp(fx + FX_FOP, st->x87 + FX_FOP, 2)) {
        u16 fop, own = (u16)((insn.opcode & 7) << 8 | insn.modrm);
        memcpy(&fop, fx + FX_FOP, sizeof(fop));
        if ((fop & FOP_MOD) != FOP_MOD && !((fop ^ own) & ~(FOP_MOD | FOP_RM)))
            memcpy(fx + FX_FOP, &own, sizeof(own));
    }
}
