/*
 * Stubs with a memory operand.
 *
 * The operand is copied into a bounce buffer, at the same offset within 64 bytes as in the guest, so that alignment
 * faults are what they would be; the stub works on the copy, and what it wrote is copied back.
 *
 * Which elements of a masked operand are accessed, whether an instruction suppresses the faults of masked-off elements at all,
 * and whether a misaligned operand in a missing page gives #GP or #PF: no table here knows it. When the operand is not
 * accessible, the instruction is executed with its operand across the border of an accessible and an inaccessible page,
 * just as it stands in the guest:
 *
 *      missing, missing     present|missing          missing|present       |  page borders
 *   [ guard ][ guard ][ bounce page ][ guard ][ guard ]
 *
 * and the processor decides: if the stub faults, the guest does.
 *
 * Which bytes a masked store writes is found in the same spirit: it is executed twice, on a background of zeros and on
 * one of ones; the bytes that come out equal were written. (These stores change nothing but memory and MXCSR flags, so that
 * executing them twice does no harm.)
 *
 * Not done: a masked load is tried whole first, so elements that are masked off are read if their pages allow it; a
 * device would notice. CLFLUSH reads a byte.
 */
#include "engine/interp/native_internal.h"

#include <string.h>

#define OPERAND_ALIGN 64u
/* Ordinary operands stand here in the bounce page. */
#define OPERAND_AT 256u

/* A memory operand on its way. */
struct operand {
    u64 ea;
    gva_t va;
    unsigned size;
    u8 *host;
};

static int operand_address(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s,
                           struct operand *o)
{
    const struct cpu *c = m->cpu;
    o->size = s->plan.mem_size;
    o->ea = isa_ea(c, insn);
    /* for its low bits, should there be no linear address */
    o->va = GVA(o->ea + (!cpu_code64(c) || insn->mem.seg >= SEG_FS ? c->seg[insn->mem.seg].base : 0));
    int rc = isa_linear(m->cpu, insn->mem.seg, o->ea, o->size, s->plan.flags & PLAN_WRITE, &o->va);
    o->host = n->bounce + OPERAND_AT + (o->va.v & (OPERAND_ALIGN - 1));
    return rc;
}

/* --- x87 environments: the pointers in them are the guest's, not the stub's --- */

/* Offsets of FIP, FOP (0: none) and FDP in an environment of 28 or 14 bytes, and their width. */
struct env_layout {
    u8 fip, fop, fdp, width;
};

static struct env_layout env_layout(unsigned size)
{
    if (size == 28 || size == 108)
        return (struct env_layout){.fip = 12, .fop = 18, .fdp = 20, .width = 4};
    return (struct env_layout){.fip = 6, .fop = 0, .fdp = 10, .width = 2};
}

#define FX_POINTERS      6u /* FOP, FIP, FDP in the FXSAVE image */
#define FX_POINTERS_SIZE 18u
#define FX_FOP           6u
#define FX_FIP           8u
#define FX_FDP           16u

/* FNSTENV, FNSAVE: `before` are the pointers as they were before the instruction. */
static void env_stored(struct cpu *c, u8 env, const u8 *before, u8 *image, unsigned size)
{
    struct env_layout l = env_layout(size);
    memcpy(image + l.fip, before + FX_FIP - FX_POINTERS, l.width);
    memcpy(image + l.fdp, before + FX_FDP - FX_POINTERS, l.width);
    if (l.fop) {
        image[l.fop] = before[0];
        image[l.fop + 1] = (u8)((image[l.fop + 1] & 0xf8) | (before[1] & 7));
    }
    if (env == ENV_SAVE)
        memset(c->fpu.fx + FX_POINTERS, 0, FX_POINTERS_SIZE);
    else
        memcpy(c->fpu.fx + FX_POINTERS, before, FX_POINTERS_SIZE);
    cpu_fpu_settle_pointers(&c->fpu);
}

static void env_loaded(struct cpu *c, const u8 *image, unsigned size)
{
    struct env_layout l = env_layout(size);
    u8 *fx = c->fpu.fx;
    memset(fx + FX_FIP, 0, 16);
    memcpy(fx + FX_FIP, image + l.fip, l.width);
    memcpy(fx + FX_FDP, image + l.fdp, l.width);
    if (l.fop) {
        fx[FX_FOP] = image[l.fop];
        fx[FX_FOP + 1] = image[l.fop + 1] & 7;
    }
    cpu_fpu_settle_pointers(&c->fpu);
}

#define UNWRITTEN 0xa5

/* An x87 store that raises an unmasked exception leaves memory alone: is the operand what it was filled with? */
static bool x87_unwritten(const struct cpu *c, const struct operand *o)
{
    if (!native_x87_pending(c))
        return false;
    for (unsigned i = 0; i < o->size; i++)
        if (o->host[i] != UNWRITTEN)
            return false;
    return true;
}

/* Execute the stub of an x87 or MMX instruction on its operand. */
static int call_x87(struct native *n, struct cpu *c, const struct isa_insn *insn, const struct native_stub *s,
                    const struct operand *o)
{
    u8 before[FX_POINTERS_SIZE];
    memcpy(before, c->fpu.fx + FX_POINTERS, sizeof(before));
    int rc = native_call(n, c, s, o->host);
    if (s->plan.env == ENV_NONE)
        native_x87_pointers(n, c, s, insn, o->host, o->ea);
    else if (!rc && s->plan.env == ENV_LOAD)
        env_loaded(c, o->host, o->size);
    else if (!rc)
        env_stored(c, s->plan.env, before, o->host, o->size);
    return rc;
}

static int call(struct native *n, struct cpu *c, const struct isa_insn *insn, const struct native_stub *s,
                const struct operand *o)
{
    return s->plan.flags & PLAN_X87 ? call_x87(n, c, insn, s, o) : native_call(n, c, s, o->host);
}

/* --- operands that are not accessible: the processor decides --- */

/* One side of a page border: is it accessible, and if not, how does it fault? */
static int part_access(struct isa *m, u16 flags, gva_t va, u8 *buf, unsigned len, struct cpu_fault *f)
{
    if (!len)
        return CPU_OK;
    /* The operand is aligned or not as a whole, which was judged before: a part of it is not checked again (#AC). */
    u64 ac = m->cpu->cpl == 3 ? m->cpu->sysflags & FL_AC : 0;
    m->cpu->sysflags &= ~ac;
    int rc = flags & PLAN_WRITE ? m->ops->probe_write(m->ctx, va, len, ISA_ACC_DATA) : CPU_OK;
    if (!rc && flags & PLAN_READ)
        rc = m->ops->read(m->ctx, va, buf, len, ISA_ACC_DATA);
    m->cpu->sysflags |= ac;
    *f = m->cpu->fault;
    return rc;
}

/* Put the operand where the host's pages are as accessible as the guest's; all of it inaccessible if `none`. */
static int place(struct native *n, struct isa *m, const struct native_stub *s, struct operand *o, bool none,
                 struct cpu_fault fault[2])
{
    unsigned off = o->va.v & (PAGE_SIZE - 1), first = MIN(o->size, PAGE_SIZE - off), second = o->size - first;
    int rc0 = CPU_FAULT, rc1 = CPU_FAULT;
    u8 *border;

    fault[0] = fault[1] = m->cpu->fault;
    if (!none) {
        border = n->bounce + PAGE_SIZE;
        rc0 = part_access(m, s->plan.flags, o->va, border - first, first, &fault[0]);
        border = rc0 ? n->bounce : border; /* a second part goes to the page's start if the first is missing */
        rc1 = part_access(m, s->plan.flags, GVA(o->va.v + first), n->bounce, second, &fault[1]);
        if (rc0 == CPU_UNIMPLEMENTED || rc1 == CPU_UNIMPLEMENTED)
            return CPU_UNIMPLEMENTED;
    }
    if (rc0 && (rc1 || !second))
        border = n->bounce + 2 * PAGE_SIZE;
    else if (rc0)
        border = n->bounce;
    else
        border = n->bounce + PAGE_SIZE;
    o->host = border - first;
    if (rc0 && !second)
        o->host = n->bounce + PAGE_SIZE + off;
    return CPU_OK;
}

/*
 * Execute the stub with its operand in such pages. CPU_OK: it did not touch what is missing, and is done but for a store's
 * way back to memory. CPU_FAULT: the guest's fault is set.
 */
static int run_guarded(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s,
                       struct operand *o, bool none)
{
    struct cpu *c = m->cpu;
    struct cpu_fault fault[2];
    unsigned first = MIN(o->size, PAGE_SIZE - (unsigned)(o->va.v & (PAGE_SIZE - 1)));
    int rc = place(n, m, s, o, none, fault);
    if (!rc)
        rc = call(n, c, insn, s, o);
    if (rc != CPU_FAULT || c->fault.vector != VEC_PF)
        return rc;
    u64 at = c->fault.address - (u64)(uintptr_t)o->host;
    c->fault = fault[at >= first];
    if (c->fault.vector == VEC_PF && at < o->size)
        c->fault.address = o->va.v + at;
    return CPU_FAULT;
}

/*
 * Is it for the processor to say what happens with an operand that is not accessible? Masks; alignment; and x87, MMX and
 * converting stores, which may have changed tags or MXCSR, or touch a long image in an order of their own.
 */
static bool undecided(const struct native_stub *s, const struct operand *o)
{
    u16 f = s->plan.flags;
    if (f & (PLAN_MASKED | PLAN_X87) || (f & PLAN_MXCSR && f & PLAN_WRITE))
        return true;
    return (f & PLAN_ALIGNED) && (o->va.v & (o->size - 1));
}

/*
 * After a fault that leaves it to the processor. An alignment check (#AC) precedes paging and is final, unless all
 * elements are masked off: then nothing is accessed, which shows with the whole operand out of reach.
 */
static int run_undecided(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s,
                         struct operand *o)
{
    bool alignment = m->cpu->fault.vector == VEC_AC;
    if (alignment && !(s->plan.flags & PLAN_MASKED))
        return CPU_FAULT;
    return run_guarded(n, m, insn, s, o, alignment);
}

/* --- ordinary operands --- */

/* Fetch what is read, and make sure that what will be written can be. */
static int fetch(struct isa *m, u16 flags, const struct operand *o)
{
    int rc = CPU_OK;
    if ((flags & (PLAN_WRITE | PLAN_PURE)) == PLAN_WRITE)
        rc = m->ops->probe_write(m->ctx, o->va, o->size, ISA_ACC_DATA);
    if (!rc && flags & PLAN_READ)
        rc = m->ops->read(m->ctx, o->va, o->host, o->size, ISA_ACC_DATA);
    return rc;
}

int native_run_memory(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s)
{
    struct cpu *c = m->cpu;
    u16 flags = s->plan.flags;
    struct operand o;

    if ((flags & PLAN_WAITS) && native_x87_pending(c))
        return cpu_raise(c, VEC_MF);
    int rc = operand_address(n, m, insn, s, &o);
    if (unlikely(rc))
        return undecided(s, &o) ? run_guarded(n, m, insn, s, &o, true) : rc;
    rc = fetch(m, flags, &o);
    if (unlikely(rc))
        return rc == CPU_FAULT && undecided(s, &o) ? run_undecided(n, m, insn, s, &o) : rc;
    if ((flags & (PLAN_X87 | PLAN_WRITE)) == (PLAN_X87 | PLAN_WRITE))
        memset(o.host, UNWRITTEN, o.size);
    rc = call(n, c, insn, s, &o);
    if (unlikely(rc) || !(flags & PLAN_WRITE))
        return rc;
    if ((flags & PLAN_X87) && x87_unwritten(c, &o))
        return CPU_OK;
    return m->ops->write(m->ctx, o.va, o.host, o.size, ISA_ACC_DATA);
}

int native_run_touch(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s)
{
    gva_t va;
    u8 byte;
    int rc = isa_linear(m->cpu, insn->mem.seg, isa_ea(m->cpu, insn), 1, false, &va);
    return rc ? rc : m->ops->read(m->ctx, va, &byte, 1, ISA_ACC_DATA);
}

/* --- masked stores --- */

/* Execute the store on a background of `fill`; what comes out is copied to `image`. */
static int store_on(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s,
                    const struct operand *o, u8 fill, u8 *image)
{
    memset(o->host, fill, o->size);
    int rc = call(n, m->cpu, insn, s, o);
    memcpy(image, o->host, o->size);
    return rc;
}

/* Call `fn` for each run of bytes that are equal in both images, until one fails. */
static int each_run(struct isa *m, const struct operand *o, const u8 *zeros, const u8 *ones,
                    int (*fn)(struct isa *m, gva_t va, const u8 *data, unsigned len))
{
    for (unsigned i = 0; i < o->size;) {
        unsigned from = i;
        while (i < o->size && zeros[i] == ones[i])
            i++;
        int rc = i > from ? fn(m, GVA(o->va.v + from), zeros + from, i - from) : CPU_OK;
        if (rc)
            return rc;
        i += i == from;
    }
    return CPU_OK;
}

static int probe_run(struct isa *m, gva_t va, const u8 *data, unsigned len)
{
    return m->ops->probe_write(m->ctx, va, len, ISA_ACC_DATA);
}

static int write_run(struct isa *m, gva_t va, const u8 *data, unsigned len)
{
    return m->ops->write(m->ctx, va, data, len, ISA_ACC_DATA);
}

/* MASKMOVQ and MASKMOVDQU are checked as whole operands (#AC), other masked stores not at all. */
static bool misaligned(const struct cpu *c, const struct isa_insn *insn, const struct operand *o)
{
    bool checked = insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVQ || insn->mnemonic == ZYDIS_MNEMONIC_MASKMOVDQU ||
                   insn->mnemonic == ZYDIS_MNEMONIC_VMASKMOVDQU;
    return checked && c->cpl == 3 && (c->cr0 & CR0_AM) && (o->va.v & (o->size - 1));
}

static int masked_store(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s,
                        u64 ac)
{
    struct cpu *c = m->cpu;
    u8 header[32], zeros[OPERAND_ALIGN], ones[OPERAND_ALIGN];
    struct operand o;

    if ((s->plan.flags & PLAN_WAITS) && native_x87_pending(c))
        return cpu_raise(c, VEC_MF);
    if (s->plan.mem_size > OPERAND_ALIGN)
        return cpu_unimplemented(c, "masked store of %u bytes", s->plan.mem_size);
    memcpy(header, c->fpu.fx, sizeof(header)); /* x87 tags and MXCSR: a fault of the write leaves them alone */
    int rc = operand_address(n, m, insn, s, &o);
    bool none = rc != CPU_OK;
    if (!none && (ac & FL_AC) && misaligned(c, insn, &o))
        return cpu_raise_error(c, VEC_AC, 0);
    if (!none)
        rc = m->ops->probe_write(m->ctx, o.va, o.size, ISA_ACC_DATA);
    if (rc) {
        struct operand guarded = o;
        rc = rc == CPU_FAULT ? run_guarded(n, m, insn, s, &guarded, none) : rc;
        if (rc || none)
            return rc;
    }
    rc = store_on(n, m, insn, s, &o, 0x00, zeros);
    if (!rc)
        rc = store_on(n, m, insn, s, &o, 0xff, ones);
    if (!rc) {
        rc = each_run(m, &o, zeros, ones, probe_run);
        if (rc)
            memcpy(c->fpu.fx, header, sizeof(header));
    }
    return rc ? rc : each_run(m, &o, zeros, ones, write_run);
}

/* The runs of bytes that are written are no operands of their own: EFLAGS.AC is out of the way meanwhile. */
int native_run_masked_store(struct native *n, struct isa *m, const struct isa_insn *insn, const struct native_stub *s)
{
    u64 ac = m->cpu->cpl == 3 ? m->cpu->sysflags & FL_AC : 0;
    m->cpu->sysflags &= ~ac;
    int rc = masked_store(n, m, insn, s, ac);
    m->cpu->sysflags |= ac;
    return rc;
}
