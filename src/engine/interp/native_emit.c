/*
 * From a plan to machine code.
 *
 * A stub is a leaf function of the System V ABI: RDI = struct cpu, RSI = the memory operand. The order of its parts
 * matters, because each may use only what the parts before it left free:
 *
 *   mov [rsp-8], rbx                the one callee-saved register that guest registers may occupy
 *   fxrstor64 [rdi + fx]            x87 and MMX only; clobbers XMM, sets MXCSR
 *   mov CTX, rdi                    CTX, BASE: registers that the instruction does not use
 *   movzx eax, [CTX+arith]; add al, 7fh; sahf       AL = OF, AH the rest: the addition overflows exactly if AL was 1
 *   mov BASE, rsi
 *   ldmxcsr, vectors, masks, general registers      none of them changes flags
 *   THE INSTRUCTION
 *   general registers, vectors, masks back
 *   lahf; seto al; mov [CTX+arith], ax
 *   stmxcsr, fxsave64; the ABI's state: MXCSR, x87 control word, empty x87 stack, clean upper halves
 *   mov rbx, [rsp-8]; xor eax, eax; ret
 *
 * RSP never changes, so one recovery routine serves a fault anywhere in any stub: it reloads RBX and returns.
 */
#include "engine/interp/native_internal.h"

#include <string.h>

struct emit {
    u8 *out;
    const u8 *rx, *rx_base;
    unsigned n;
    u8 ctx;
    bool full;
};

static void put(struct emit *e, const void *bytes, unsigned len)
{
    if (e->full || len > STUB_MAX - e->n) {
        e->full = true;
        return;
    }
    memcpy(e->out + e->n, bytes, len);
    e->n += len;
}

static void put8(struct emit *e, u8 b)
{
    put(e, &b, 1);
}

static void put32(struct emit *e, u32 v)
{
    put(e, &v, 4);
}

#define PUT(e, ...)                               \
    do {                                          \
        static const u8 bytes_[] = {__VA_ARGS__}; \
        put(e, bytes_, sizeof(bytes_));           \
    } while (0)

/* ModRM and displacement of [base + off]; RSP and R12 are never a base here, so no SIB. */
static void put_address(struct emit *e, u8 reg, u8 base, size_t off)
{
    put8(e, (u8)(0x80 | (reg & 7) << 3 | (base & 7)));
    put32(e, (u32)off);
}

/* Legacy-encoded instruction `reg, [ctx + off]`: prefix (0: none), REX.W or not, 0F escape or not. */
struct legacy {
    u8 prefix, w, escape, opcode;
};

static void put_legacy(struct emit *e, struct legacy op, u8 reg, u8 base, size_t off)
{
    if (op.prefix)
        put8(e, op.prefix);
    put8(e, (u8)(0x40 | op.w << 3 | (reg >> 3) << 2 | base >> 3));
    if (op.escape)
        put8(e, 0x0f);
    put8(e, op.opcode);
    put_address(e, reg, base, off);
}

static const struct legacy op_load64 = {.w = 1, .opcode = 0x8b};
static const struct legacy op_store64 = {.w = 1, .opcode = 0x89};
static const struct legacy op_store16 = {.prefix = 0x66, .opcode = 0x89};
static const struct legacy op_movzx16 = {.escape = 1, .opcode = 0xb7};
static const struct legacy op_movups_load = {.escape = 1, .opcode = 0x10};
static const struct legacy op_movups_store = {.escape = 1, .opcode = 0x11};
static const struct legacy op_group15 = {.escape = 1, .opcode = 0xae};
static const struct legacy op_group15w = {.w = 1, .escape = 1, .opcode = 0xae};
enum { G15_FXSAVE, G15_FXRSTOR, G15_LDMXCSR, G15_STMXCSR };

/* VEX.128/256 in map 0F. */
static void put_vex(struct emit *e, u8 w, u8 l, u8 pp, u8 opcode, u8 reg, size_t off)
{
    u8 b[] = {0xc4, (u8)((reg & 8 ? 0 : 0x80) | 0x40 | (e->ctx & 8 ? 0 : 0x20) | 1), (u8)(w << 7 | 0x78 | l << 2 | pp),
              opcode};
    put(e, b, sizeof(b));
    put_address(e, reg, e->ctx, off);
}

/* VMOVDQU64 of a whole ZMM register. */
static void put_evex_move(struct emit *e, u8 opcode, u8 reg, size_t off)
{
    u8 b[] = {0x62, (u8)((reg & 8 ? 0 : 0x80) | 0x40 | (e->ctx & 8 ? 0 : 0x20) | (reg & 16 ? 0 : 0x10) | 1), 0xfe, 0x48,
              opcode};
    put(e, b, sizeof(b));
    put_address(e, reg, e->ctx, off);
}

static void put_vector(struct emit *e, bool store, u8 reg, u8 width)
{
    size_t off = offsetof(struct cpu, fpu.zmm) + reg * sizeof(struct cpu_vec);
    if (width == 64 || reg >= 16)
        put_evex_move(e, store ? 0x7f : 0x6f, reg, off);
    else if (width == 32)
        put_vex(e, 0, 1, 2, store ? 0x7f : 0x6f, reg, off);
    else
        put_legacy(e, store ? op_movups_store : op_movups_load, reg, e->ctx, off);
}

static void put_vectors(struct emit *e, bool store, u32 set, u8 width)
{
    for (; set; set &= set - 1)
        put_vector(e, store, (u8)__builtin_ctz(set), width);
}

static void put_masks(struct emit *e, const struct native_host *h, bool store, u8 set)
{
    for (unsigned k = 0; k < 8; k++)
        if (set >> k & 1)
            put_vex(e, h->wide_masks, 0, 0, store ? 0x91 : 0x90, (u8)k, offsetof(struct cpu, fpu.k) + 8 * k);
}

static void put_gprs(struct emit *e, const struct native_plan *p, bool store, u16 set)
{
    for (unsigned r = 0; r < CPU_GPRS; r++)
        if (set >> r & 1)
            put_legacy(e, store ? op_store64 : op_load64, native_host_reg(p, r), e->ctx,
                       offsetof(struct cpu, gpr) + 8 * r);
}

static void put_move(struct emit *e, u8 to, u8 from)
{
    if (to == from)
        return;
    u8 b[] = {(u8)(0x48 | (from >> 3) << 2 | to >> 3), 0x89, (u8)(0xc0 | (from & 7) << 3 | (to & 7))};
    put(e, b, sizeof(b));
}

/* `opcode /ext [rip -> constant at off in code memory]`, one- or two-byte opcode. */
static void put_constant(struct emit *e, bool escape, u8 opcode, u8 ext, unsigned off)
{
    if (escape)
        put8(e, 0x0f);
    put8(e, opcode);
    put8(e, (u8)(ext << 3 | 5));
    put32(e, (u32)(e->rx_base + off - (e->rx + e->n + 4)));
}

#define OFF_FX    offsetof(struct cpu, fpu.fx)
#define OFF_MXCSR (OFF_FX + 24)
#define OFF_ARITH offsetof(struct cpu, arith)

static void emit_entry(struct emit *e, const struct native_host *h, const struct native_plan *p)
{
    PUT(e, 0x48, 0x89, 0x5c, 0x24, 0xf8); /* mov [rsp-8], rbx */
    if (p->flags & PLAN_X87)
        put_legacy(e, op_group15w, G15_FXRSTOR, RDI, OFF_FX);
    put_move(e, p->ctx, RDI);
    if (p->flags & PLAN_FLAGS) {
        put_legacy(e, op_movzx16, RAX, e->ctx, OFF_ARITH);
        PUT(e, 0x04, 0x7f, 0x9e); /* add al, 7fh; sahf */
    }
    if (p->base != NO_HOST_REG)
        put_move(e, p->base, RSI);
    if ((p->flags & (PLAN_MXCSR | PLAN_X87)) == PLAN_MXCSR)
        put_legacy(e, op_group15, G15_LDMXCSR, e->ctx, OFF_MXCSR);
    put_vectors(e, false, p->vec_load, p->load_width);
    put_masks(e, h, false, p->k_load);
    put_gprs(e, p, false, p->gpr_load);
}

/* The guest's x87 state goes to its image; the ABI wants an empty stack and the caller's control word. */
static void emit_x87_exit(struct emit *e, const struct native_host *h)
{
    put_legacy(e, op_group15w, G15_FXSAVE, e->ctx, OFF_FX);
    put_legacy(e, (struct legacy){.opcode = 0xf6}, 0, e->ctx, OFF_FX + 2); /* test byte [ctx + fsw], 80h: ES */
    PUT(e, 0x80, 0x74, 2, 0xdb, 0xe2);                                     /* jz +2; fnclex */
    PUT(e, 0x0f, 0x77);                                                    /* emms */
    put_legacy(e, (struct legacy){.prefix = 0x66, .opcode = 0x81}, 7, e->ctx,
               OFF_FX); /* cmp word [ctx + fcw], host's */
    put(e, &h->fcw, 2);
    PUT(e, 0x74, 6); /* je +6 */
    put_constant(e, false, 0xd9, 5, CODE_FCW);
}

static void emit_exit(struct emit *e, const struct native_host *h, const struct native_plan *p)
{
    put_gprs(e, p, true, p->gpr_store);
    put_vectors(e, true, p->vec_store, p->store_width);
    put_masks(e, h, true, p->k_store);
    if (p->flags & PLAN_FLAGS) {
        PUT(e, 0x9f, 0x0f, 0x90, 0xc0); /* lahf; seto al */
        put_legacy(e, op_store16, RAX, e->ctx, OFF_ARITH);
    }
    if (p->flags & PLAN_X87)
        emit_x87_exit(e, h);
    else if (p->flags & PLAN_MXCSR)
        put_legacy(e, op_group15, G15_STMXCSR, e->ctx, OFF_MXCSR);
    if (p->flags & (PLAN_MXCSR | PLAN_X87))
        put_constant(e, true, 0xae, G15_LDMXCSR, CODE_MXCSR);
    if (p->load_width > 16)
        PUT(e, 0xc5, 0xf8, 0x77);         /* vzeroupper */
    PUT(e, 0x48, 0x8b, 0x5c, 0x24, 0xf8); /* mov rbx, [rsp-8] */
    PUT(e, 0x31, 0xc0, 0xc3);             /* xor eax, eax; ret */
}

size_t native_emit(const struct native_host *h, const struct native_plan *p, u8 *out, const u8 *rx, const u8 *rx_base,
                   unsigned *insn_off)
{
    struct emit e = {.out = out, .rx = rx, .rx_base = rx_base, .ctx = p->ctx};
    emit_entry(&e, h, p);
    *insn_off = e.n;
    put(&e, p->bytes, p->len);
    emit_exit(&e, h, p);
    return e.full ? 0 : e.n;
}

void native_emit_head(const struct native_host *h, u8 *out)
{
    static const u8 recover[] = {0x48, 0x8b, 0x5c, 0x24, 0xf8, 0xc3};                       /* mov rbx, [rsp-8]; ret */
    static const u8 recover_avx[] = {0xc5, 0xf8, 0x77, 0x48, 0x8b, 0x5c, 0x24, 0xf8, 0xc3}; /* vzeroupper first */
    memcpy(out + CODE_MXCSR, &h->mxcsr, sizeof(h->mxcsr));
    memcpy(out + CODE_FCW, &h->fcw, sizeof(h->fcw));
    if (h->vec_width > 16)
        memcpy(out + CODE_RECOVER, recover_avx, sizeof(recover_avx));
    else
        memcpy(out + CODE_RECOVER, recover, sizeof(recover));
}
