/*
 * What the interpreter makes of the code at an address, for people (`trapeze explain`).
 *
 * The bytes are read through a walk that sets no bits (mmu_peek) on a copy of the CPU, decoded like a block's, and each
 * instruction is given to translate() with a small arena of its own: what the answer says is what a block would hold, and
 * neither the guest nor the cache of blocks sees a difference.
 *
 * Not done: blocks of one instruction (single steps, breakpoints, shadows) are shown as the longer ones that run otherwise;
 * a segment limit of CS ends no block.
 */
#include "engine/interp/interp.h"

#include <errno.h>
#include <string.h>

struct look {
    struct interp *ip;
    struct cpu c; /* a copy to scribble on */
    u64 va;       /* of the next instruction */
    u64 base;     /* of CS */
};

/* Copy the code from look->va on, up to a page end or beyond it. Returns how many bytes there are, 0 to ISA_MAX_LEN. */
static unsigned fetch(struct look *l, u8 *bytes)
{
    unsigned n = 0;
    while (n < ISA_MAX_LEN) {
        struct mmu_page page;
        u64 va = l->va + n;
        unsigned part = MIN(ISA_MAX_LEN - n, (unsigned)(PAGE_SIZE - (va & (PAGE_SIZE - 1))));
        const u8 *p = NULL;
        if (mmu_peek(&l->c, l->ip->mem, GVA(va), MMU_EXEC, l->c.cpl == 3, &page) == CPU_OK)
            p = mem_at(l->ip->mem, page.gpa, part);
        if (!p)
            break;
        memcpy(bytes + n, p, part);
        n += part;
    }
    return n;
}

/* What translate() does with the instruction; *ends: the block ends behind it. */
static enum engine_how how_of(struct interp *ip, struct cpu *c, u8 mode, const struct isa_insn *insn, bool *ends)
{
    u8 room[sizeof(struct payload) + 16] __attribute__((aligned(16)));
    struct cpu *cpu = ip->cpu;
    u8 *arena = ip->arena, key = ip->key;
    size_t size = ip->arena_size, used = ip->arena_used;
    struct op op = {.len = insn->len};
    ip->cpu = c;
    ip->key = mode;
    ip->arena = room;
    ip->arena_size = sizeof(room);
    ip->arena_used = 0;
    *ends = translate(ip, insn, &op);
    bool whole = ip->arena_used != 0; /* the op works from the whole instruction */
    ip->cpu = cpu;
    ip->key = key;
    ip->arena = arena;
    ip->arena_size = size;
    ip->arena_used = used;
    return op.fn == op_native ? HOW_NATIVE : whole && *ends ? HOW_MONITOR : HOW_DECODED;
}

/* One instruction more; false when the block ends with it, or before it. */
static bool explain_next(struct look *l, u8 mode, struct engine_explain *out)
{
    u8 bytes[ISA_MAX_LEN];
    struct isa_insn insn;
    unsigned avail = fetch(l, bytes), room = PAGE_SIZE - (unsigned)(l->va & (PAGE_SIZE - 1));
    if (!avail || isa_decode((enum isa_mode)mode, bytes, avail, &insn) != ISA_DECODE_OK)
        return false;
    if (insn.len > room && out->n) /* over the page end: a block by itself */
        return false;
    bool ends;
    struct engine_explain_insn *x = &out->insn[out->n++];
    *x = (struct engine_explain_insn){.rip = l->va - l->base, .len = insn.len, .mode = mode};
    if (mode != ISA_MODE_64)
        x->rip = (u32)x->rip;
    memcpy(x->bytes, bytes, insn.len);
    x->how = (u8)how_of(l->ip, &l->c, mode, &insn, &ends);
    l->va += insn.len;
    return !ends && insn.len < room && out->n < BLOCK_MAX_OPS;
}

int interp_explain(struct interp *ip, const struct cpu *c, u64 va, struct engine_explain *out)
{
    struct look l = {.ip = ip, .c = *c, .va = va};
    u8 bytes[ISA_MAX_LEN], mode = ISA_MODE_64;
    if (!cpu_code64(c)) {
        mode = c->seg[SEG_CS].attr & SEG_DB ? ISA_MODE_32 : ISA_MODE_16;
        l.base = c->seg[SEG_CS].base;
    }
    *out = (struct engine_explain){.start = va, .cpl = c->cpl};
    if (!fetch(&l, bytes))
        return -ENOENT;
    while (explain_next(&l, mode, out))
        ;
    return 0;
}

_Static_assert(BLOCK_MAX_OPS <= EXPLAIN_INSNS, "a block fits into its explanation");
