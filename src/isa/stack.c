/*
 * Stacks as control transfers use them: several slots at once, on the current stack or on one that is being switched to.
 */
#include "isa/isa_internal.h"

#include <string.h>

void isa_stack_make(const struct cpu_segment *ss, u64 sp, unsigned width, unsigned cpl, bool flat, u32 error,
                    struct isa_stack *st)
{
    st->base = flat ? 0 : ss->base;
    st->mask = flat ? ~0ull : ss->attr & SEG_DB ? 0xffffffffu : 0xffffu;
    st->sp = sp & st->mask;
    st->limit = ss->limit;
    st->attr = ss->attr;
    st->error = error;
    st->flat = flat;
    st->acc = cpl == 3 ? ISA_ACC_USER : ISA_ACC_SUPERVISOR;
    st->width = (u8)width;
    st->n = 0;
}

void isa_stack_current(const struct cpu *c, unsigned width, struct isa_stack *st)
{
    isa_stack_make(&c->seg[SEG_SS], c->gpr[RSP], width, c->cpl, cpu_code64(c), 0, st);
    st->acc = ISA_ACC_DATA;
}

static bool room(const struct isa_stack *st, u64 off, unsigned len)
{
    u64 last = off + len - 1;
    if (st->flat)
        return isa_canonical(off) && isa_canonical(last);
    if (st->attr & SEG_UNUSABLE)
        return false;
    if ((st->attr & (SEG_CODE | SEG_CE)) == SEG_CE)
        return off > st->limit && last <= (st->attr & SEG_DB ? 0xffffffffu : 0xffffu);
    return last <= st->limit;
}

static gva_t stack_va(const struct isa_stack *st, u64 off)
{
    return st->flat ? GVA(off) : GVA((u32)(st->base + off));
}

/* Does [off, off+len) lie in the stack without wrapping? (In 64-bit mode wrapping is never canonical at both ends.) */
static bool contiguous(const struct isa_stack *st, u64 off, unsigned len)
{
    return off + len - 1 <= st->mask && off + len - 1 >= off;
}

static int access_range(struct isa *m, const struct isa_stack *st, u64 off, u8 *buf, unsigned len, bool write)
{
    if (!room(st, off, len))
        return cpu_raise_error(m->cpu, VEC_SS, st->error);
    gva_t va = stack_va(st, off);
    if (write)
        return m->ops->write(m->ctx, va, buf, len, st->acc);
    return m->ops->read(m->ctx, va, buf, len, st->acc);
}

/* The whole range at once, or slot by slot where the stack pointer wraps inside it. */
static int access_slots(struct isa *m, const struct isa_stack *st, u64 off, u8 *buf, unsigned n, bool write)
{
    unsigned len = n * st->width;
    if (contiguous(st, off, len))
        return access_range(m, st, off, buf, len, write);
    for (unsigned i = 0; i < n; i++)
        ISA_TRY(access_range(m, st, (off + i * st->width) & st->mask, buf + i * st->width, st->width, write));
    return CPU_OK;
}

/*
 * A frame that can not be written faults at the first of its slots, from the top, as pushes do: this decides about CR2
 * (SDM vol. 2, INT n, "Push(SS)" ..). What is written on the way lies below the stack pointer, where it does no harm.
 */
static void fault_at_first_slot(struct isa *m, const struct isa_stack *st)
{
    struct cpu_fault seen = m->cpu->fault;
    int r = CPU_OK;
    for (unsigned i = 0; i < st->n && r == CPU_OK; i++) {
        u8 buf[8];
        memcpy(buf, &st->slot[i], st->width);
        r = access_range(m, st, (st->sp - (i + 1) * st->width) & st->mask, buf, st->width, true);
    }
    if (r != CPU_FAULT)
        m->cpu->fault = seen;
}

int isa_stack_write(struct isa *m, struct isa_stack *st)
{
    u8 buf[ISA_STACK_SLOTS * 8];
    for (unsigned i = 0; i < st->n; i++)
        memcpy(buf + i * st->width, &st->slot[st->n - 1 - i], st->width);
    u64 sp = (st->sp - st->n * st->width) & st->mask;
    int r = access_slots(m, st, sp, buf, st->n, true);
    if (r == CPU_FAULT && st->n > 1)
        fault_at_first_slot(m, st);
    ISA_TRY(r);
    st->sp = sp;
    return CPU_OK;
}

int isa_stack_pop(struct isa *m, struct isa_stack *st, unsigned n, u64 *v)
{
    u8 buf[ISA_STACK_SLOTS * 8];
    ISA_TRY(access_slots(m, st, st->sp, buf, n, false));
    for (unsigned i = 0; i < n; i++) {
        v[i] = 0;
        memcpy(&v[i], buf + i * st->width, st->width);
    }
    st->sp = (st->sp + n * st->width) & st->mask;
    return CPU_OK;
}

u64 isa_stack_rsp(const struct cpu *c, u64 mask, u64 sp)
{
    if (mask == 0xffff)
        return (c->gpr[RSP] & ~0xffffull) | (sp & 0xffff);
    return sp & mask;
}
