/*
 * System instructions that are done in place, in the kernel: what Linux executes most.
 *
 * CLI, STI, STAC, CLAC change a bit of cpu->sysflags, PUSHF shows them, SWAPGS exchanges two bases: a few moves, and no flags
 * touched (PEXT and PDEP do for AND). The rules, privilege first, are isa/'s; a block's key says that the code runs in
 * ring 0, and everything else that is not plain here goes to isa/.
 *
 * STI keeps interrupts away until the instruction behind it is done, so that one is translated with it, and the block
 * ends there with exits that poll. STAC and CLAC change the context of look-ups: the block ends, and the next one is found
 * in the other context's hash.
 *
 * RDTSC and RDTSCP show the host's counter and what the guest's is ahead of it, where that is all there is to it. User code may
 * be barred from them (CR4.TSD), which no key says: it looks.
 *
 * A second kind is left to isa/ as well, but does not end its block: what changes neither mode nor mappings (CPUID, reading
 * control registers and bases).
 */
#include "engine/bt/bt_internal.h"

#define CPU_AT(field) AT(SCRATCH_A, (s32)offsetof(struct cpu, field))

static bool kernel(const struct bt_gen *g)
{
    return (g->b->key & BK_CONTEXT) != TLB_USER;
}

static bool reads_only(u16 mnemonic)
{
    switch (mnemonic) {
    case ZYDIS_MNEMONIC_RDTSC:
    case ZYDIS_MNEMONIC_RDTSCP:
    case ZYDIS_MNEMONIC_CPUID:
    case ZYDIS_MNEMONIC_RDPID:
    case ZYDIS_MNEMONIC_RDFSBASE:
    case ZYDIS_MNEMONIC_RDGSBASE:
    case ZYDIS_MNEMONIC_WRFSBASE:
    case ZYDIS_MNEMONIC_WRGSBASE:
    case ZYDIS_MNEMONIC_XGETBV:
    case ZYDIS_MNEMONIC_SGDT:
    case ZYDIS_MNEMONIC_SIDT:
    case ZYDIS_MNEMONIC_STR:
    case ZYDIS_MNEMONIC_SLDT:
    case ZYDIS_MNEMONIC_LSL:
    case ZYDIS_MNEMONIC_LAR:
    case ZYDIS_MNEMONIC_VERW:
        return true;
    default:
        return false;
    }
}

/* Is it safe behind an STI: neither system code nor at the end of what was decoded? */
static bool may_follow_sti(const struct bt_gen *g, unsigned i)
{
    return i < g->n && (g->insn[i].cls == ISA_INNOCUOUS || g->insn[i].cls == ISA_CONTROL) &&
           !bt_missing(g, &g->insn[i]);
}

bool bt_system_goes_on(const struct bt_gen *g, const struct isa_insn *insn)
{
    switch (insn->mnemonic) {
    case ZYDIS_MNEMONIC_CLI:
    case ZYDIS_MNEMONIC_STI:
    case ZYDIS_MNEMONIC_SWAPGS:
        return kernel(g);
    case ZYDIS_MNEMONIC_PUSHFQ:
        return true;
    default:
        return reads_only(insn->mnemonic);
    }
}

/* Replace bits of sysflags: those of `mask` stay, `set` is added. */
static void change_sysflags(struct bt_gen *g, struct haddr mask, u32 set)
{
    struct emit *e = &g->e;
    emit_load(e, SCRATCH_A, AT_ST(cpu));
    emit_load(e, SCRATCH_B, CPU_AT(sysflags));
    emit_keep_bits(e, SCRATCH_B, mask);
    if (set)
        emit_lea(e, SCRATCH_B, AT(SCRATCH_B, (s32)set));
    emit_store(e, CPU_AT(sysflags), SCRATCH_B);
}

static bool cli(struct bt_gen *g)
{
    change_sysflags(g, AT_ST(keep_but_if), 0);
    return true;
}

static bool sti(struct bt_gen *g)
{
    if (!may_follow_sti(g, g->i + 1))
        return false;
    change_sysflags(g, AT_ST(keep_but_if), FL_IF);
    g->shadow = g->i + 1;
    return true;
}

/* Set or clear AC: the next instruction is in another context. */
static bool set_ac(struct bt_gen *g, const struct isa_insn *insn, bool set)
{
    u64 next = g->rip + insn->len;
    if (!gva_canonical(GVA(next)))
        return false;
    u8 key = (u8)((g->b->key & ~(BK_CONTEXT | BK_PLAIN)) | (set ? TLB_SUPERVISOR_AC : TLB_SUPERVISOR));
    change_sysflags(g, AT_ST(keep_but_ac), set ? FL_AC : 0);
    emit_mem(&g->e, false, 0xc6, 0, AT_ST(key)); /* mov byte [key], key */
    put8e(&g->e, key);
    bt_exit_other(g, key, next);
    g->ends = true;
    return true;
}

static bool swapgs(struct bt_gen *g)
{
    struct emit *e = &g->e;
    struct haddr base = AT(SCRATCH_A, (s32)OFF_SEG(SEG_GS)), other = CPU_AT(msr.kernel_gs_base);
    emit_load(e, SCRATCH_A, AT_ST(cpu));
    emit_load(e, SCRATCH_B, other);
    emit_store(e, AT_ST(spill), SCRATCH_B);
    emit_load(e, SCRATCH_B, base);
    emit_store(e, other, SCRATCH_B);
    emit_load(e, SCRATCH_B, AT_ST(spill));
    emit_store(e, base, SCRATCH_B);
    emit_store(e, AT_ST(gs_base), SCRATCH_B);
    return true;
}

/* The arithmetic flags are the host's, the others sysflags; RF and VM are clear in translated code. */
static bool pushf(struct bt_gen *g)
{
    static const struct isa_mem below = {.base = RSP, .index = ISA_NO_REG, .seg = SEG_SS, .scale = 1, .disp = -8};
    struct emit *e = &g->e;
    struct haddr at = bt_lookup_b(g, &below, 8, 8, true);
    emit_store(e, AT_ST(spill), SCRATCH_B);
    put8e(e, 0x9c); /* pushfq; pop rcx */
    put8e(e, 0x59);
    emit_keep_bits(e, SCRATCH_A, AT_ST(keep_arith));
    emit_load(e, SCRATCH_B, AT_ST(cpu));
    emit_load(e, SCRATCH_B, AT(SCRATCH_B, (s32)offsetof(struct cpu, sysflags)));
    emit_lea(e, SCRATCH_A, (struct haddr){SCRATCH_A, SCRATCH_B, 0, FL_ONE});
    emit_load(e, SCRATCH_B, AT_ST(spill));
    emit_store(e, at, SCRATCH_A);
    emit_lea(e, HOST_SP, AT(HOST_SP, -8));
    return true;
}

/* The interpreter executes it if user code may not. */
static void unless_barred(struct bt_gen *g)
{
    emit_movzx8_mem(&g->e, SCRATCH_A, AT_ST(tsc_barred));
    u8 *ok = emit_jrcxz(&g->e);
    u8 *mark = emit_jmp32(&g->e);
    emit_here8(&g->e, ok);
    bt_cold(g, mark, bt_site(g, SITE_CALLOUT, 0));
    bt_groups_end(g);
}

/* rax += value */
static void add_to_rax(struct emit *e, struct haddr value)
{
    emit_load(e, SCRATCH_B, value);
    emit_lea(e, H_RAX, (struct haddr){H_RAX, SCRATCH_B, 0, 0});
}

/* RAX and RDX are the guest's, RCX is not (RDTSCP writes it); no flags are touched. */
static bool rdtsc(struct bt_gen *g, bool with_aux)
{
    struct emit *e = &g->e;
    if (!g->bt->tsc_direct || (with_aux && !g->bt->has_rdtscp))
        return false;
    if (!kernel(g))
        unless_barred(g);
    put8e(e, 0x0f);
    put8e(e, with_aux ? 0x01 : 0x31);
    if (with_aux)
        put8e(e, 0xf9);
    emit_rorx(e, H_RDX, H_RDX, 32);
    emit_lea(e, H_RAX, (struct haddr){H_RAX, H_RDX, 0, 0});
    add_to_rax(e, AT_ST(tsc_addend));
    emit_load(e, SCRATCH_A, AT_ST(cpu));
    add_to_rax(e, CPU_AT(tsc_offset));
    emit_rorx(e, H_RDX, H_RAX, 32);
    emit_reg(e, false, 0x8b, H_RDX, H_RDX); /* the upper halves */
    emit_reg(e, false, 0x8b, H_RAX, H_RAX);
    if (with_aux)
        emit_load32(e, HOST_CX, CPU_AT(msr.tsc_aux));
    return true;
}

bool bt_system(struct bt_gen *g, const struct isa_insn *insn)
{
    bool done = false;
    if (insn->cls == ISA_INNOCUOUS || insn->cls == ISA_CONTROL || (insn->prefixes & (ISA_PFX_66 | ISA_PFX_LOCK)))
        return false;
    if (insn->mnemonic == ZYDIS_MNEMONIC_PUSHFQ) {
        done = pushf(g);
    } else if (insn->mnemonic == ZYDIS_MNEMONIC_RDTSC || insn->mnemonic == ZYDIS_MNEMONIC_RDTSCP) {
        done = rdtsc(g, insn->mnemonic == ZYDIS_MNEMONIC_RDTSCP);
    } else if (kernel(g)) {
        switch (insn->mnemonic) {
        case ZYDIS_MNEMONIC_CLI:
            done = cli(g);
            break;
        case ZYDIS_MNEMONIC_STI:
            done = sti(g);
            break;
        case ZYDIS_MNEMONIC_STAC:
        case ZYDIS_MNEMONIC_CLAC:
            done = set_ac(g, insn, insn->mnemonic == ZYDIS_MNEMONIC_STAC);
            break;
        case ZYDIS_MNEMONIC_SWAPGS:
            done = swapgs(g);
            break;
        default:
            break;
        }
    }
    if (done)
        bt_how(g, HOW_SYSTEM);
    g->held = NOT_HELD;
    return done;
}

bool bt_system_reads(const struct isa_insn *insn)
{
    return reads_only(insn->mnemonic);
}
