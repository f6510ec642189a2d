/*
 * What translation makes of the code at an address, for people (`trapeze explain`): the block that holds it, or a new one.
 *
 * Only hot code is shown: cold code lies elsewhere and is the same for all, push site; jmp slow.
 */
#include "engine/bt/bt_internal.h"

#include <errno.h>

/* Does an instruction of the block begin at `va`? */
static bool begins_at(const struct bt_block *b, u64 va)
{
    for (unsigned i = 0; i < b->n; i++)
        if (b->va + bt_maps(b)[i].guest == va)
            return true;
    return false;
}

/* The block that begins there, else one that holds the instruction. */
static struct bt_block *block_with(struct bt *bt, u64 va, u64 ram)
{
    struct bt_block *b = bt_find(bt, va, ram, bt->st->key);
    if (b)
        return b;
    for (const struct bt_view *v = bt->views[ram >> PAGE_SHIFT]; v; v = v->next)
        for (bt_ref_t at = v->refs; at;) {
            const struct bt_ref *r = bt_at(bt, at);
            b = bt_at(bt, r->block);
            if (b->key == bt->st->key && begins_at(b, va))
                return b;
            at = r->next;
        }
    return NULL;
}

/* Behind a jump the block may go on elsewhere, so the length of such a one is decoded. */
static u8 length(struct bt *bt, const struct bt_block *b, unsigned i)
{
    struct isa_insn insn;
    unsigned at = bt_maps(b)[i].guest;
    if (b->second)
        return (u8)bt_maps(b)[1].guest;
    bt_decode(b->key, bt->ip.mem->ram + b->start + at, MIN(b->bytes - at, (unsigned)ISA_MAX_LEN), &insn);
    return insn.len;
}

/* The guest's bytes, which are still those that were translated: a write would have killed the block. */
static void copy_bytes(struct bt *bt, const struct bt_block *b, unsigned i, struct engine_explain_insn *x)
{
    const u8 *ram = bt->ip.mem->ram;
    unsigned from = bt_maps(b)[i].guest, head = MIN((unsigned)x->len, (unsigned)b->bytes - from);
    memcpy(x->bytes, ram + b->start + from, head);
    if (head < x->len && b->second)
        memcpy(x->bytes + head, ram + bt_second(bt, b)->ram, x->len - head);
}

static void describe(struct bt *bt, const struct bt_block *b, struct engine_explain *out)
{
    *out = (struct engine_explain){.start = b->va, .cpl = bt->ip.cpu->cpl, .n = b->n, .exits = b->n_exits};
    out->code_address = (u64)(uintptr_t)(bt->code.rx + b->code);
    out->code_bytes = MIN((u32)b->code_len, (u32)EXPLAIN_CODE);
    memcpy(out->code, bt->code.rw + b->code, out->code_bytes);
    u8 mode = b->key & BK_COMPAT ? ISA_MODE_32 : ISA_MODE_64;
    for (unsigned i = 0; i < b->n; i++) {
        const struct bt_map *m = &bt_maps(b)[i];
        struct engine_explain_insn *x = &out->insn[i];
        *x = (struct engine_explain_insn){.rip = b->va + m->guest, .mode = mode, .how = m->how};
        x->len = length(bt, b, i);
        x->code_off = MIN((u32)m->host, out->code_bytes);
        x->code_len = MIN((u32)m[1].host, out->code_bytes) - x->code_off;
        copy_bytes(bt, b, i, x);
    }
    for (unsigned i = 0; i < b->n_exits; i++)
        out->links += bt_exits(b)[i].to != 0;
}

int bt_explain(struct bt *bt, struct cpu *c, u64 va, struct engine_explain *out)
{
    struct mmu_page page;
    struct cpu scratch = *c;
    bt->ip.cpu = bt->ip.isa.cpu = c;
    interp_derive(&bt->ip);
    bt->ip.stale = true;
    if (!bt_mode(bt))
        return interp_explain(&bt->ip, c, va, out);
    if (mmu_peek(&scratch, bt->ip.mem, GVA(va), MMU_EXEC, c->cpl == 3, &page) != CPU_OK)
        return -ENOENT;
    u64 ram = mem_offset(bt->ip.mem, page.gpa);
    if (ram == UINT64_MAX || !mem_at(bt->ip.mem, page.gpa, 1)) /* which brings it if it is absent */
        return -ENOENT;
    struct bt_block *b = block_with(bt, va, ram);
    if (!b)
        b = bt_translate(bt, va, ram, bt->st->key);
    if (!b || !b->n)
        return interp_explain(&bt->ip, c, va, out);
    describe(bt, b, out);
    return 0;
}

_Static_assert(BT_BLOCK_INSNS <= EXPLAIN_INSNS, "a block fits into its explanation");
