/*
 * Processor state in memory: FXSAVE, FXRSTOR and the XSAVE family.
 *
 * State is made of components, numbered as the bits of XCR0. One table says for each where it stands in struct cpu_fpu
 * and in the standard format; in the compacted format the components from 2 upward follow each other in the order of
 * their bits, as far as XCOMP_BV names them.
 *
 *      0  x87 (0)      FCW FSW FTW - FOP FIP FDP at 0-23, ST0-ST7 at 32-159
 *     24  MXCSR and MXCSR_MASK: belong to 1 and 2 together
 *    160  SSE (1)      XMM0-XMM15
 *    512  header       XSTATE_BV, XCOMP_BV, 48 bytes of zeros
 *    576  AVX (2)      bits 128-255 of YMM0-YMM15
 *   1088  opmask (5)   K0-K7
 *   1152  ZMM_Hi256(6) bits 256-511 of ZMM0-ZMM15
 *   1664  Hi16_ZMM (7) ZMM16-ZMM31
 *
 * A save builds the image in a buffer together with the list of the spans that the instruction writes, asks whether all of
 * them can be written, and only then writes: half an image never appears. A restore reads and checks everything
 * before it changes the CPU. Spans are what hardware touches and no more: what lies between belongs to the guest (the
 * software bytes 464-511, components outside RFBM).
 *
 * XINUSE. A component counts as in use exactly if its content differs from its initial value. The manual lets hardware
 * track this more coarsely (SDM vol. 1, 13.6); the finest answer is one that every guest has to accept. The modified
 * optimisation of XSAVEOPT (leaving out what has not changed since XRSTOR) is likewise allowed and not made use of.
 *
 * The x87 part of struct cpu_fpu is the 64-bit form, 64 bits each of FIP and FDP and no selectors: FCS and FDS read as
 * zero in the 32-bit form, as CPUID.7.EBX[13] announces.
 *
 * Not done: XSAVES, XRSTORS and supervisor state (no model offers them; #UD); AMD's fast FXSAVE (EFER.FFXSR).
 *
 * Sources: SDM vol. 1, ch. 13 and 10.5; vol. 2, the instructions' pages.
 */
#include "isa/isa_internal.h"
#include "machine/cpu/cpu_features.h"
#include "machine/cpu/cpuid.h"

#include <string.h>

#define FCW_INIT      0x037fu
#define MXCSR_INIT    0x1f80u
#define OFF_MXCSR     24u
#define OFF_ST        32u
#define OFF_XMM       160u
#define OFF_HEADER    512u
#define HEADER_SIZE   64u
#define OFF_EXTENDED  (OFF_HEADER + HEADER_SIZE)
#define XCOMP_COMPACT BIT(63)
#define FXSAVE_ALIGN  16u
#define XSAVE_ALIGN   64u

/* --- components ------------------------------------------------------------------------------------------------- */

/* Component 1 and up: `count` pieces of `len` bytes, `stride` apart in struct cpu_fpu from `at`; packed in memory. */
struct component {
    u8 bit;
    u16 offset; /* standard format */
    u16 at, stride, len;
    u8 count;
    u8 count32; /* of them outside 64-bit mode */
};

#define ZMM(n) (offsetof(struct cpu_fpu, zmm) + (n) * sizeof(struct cpu_vec))

static const struct component components[] = {
    {.bit = 1, .offset = OFF_XMM, .at = ZMM(0), .stride = 64, .len = 16, .count = 16, .count32 = 8},
    {.bit = 2, .offset = XSAVE_AVX_OFFSET, .at = ZMM(0) + 16, .stride = 64, .len = 16, .count = 16, .count32 = 8},
    {.bit = 5,
     .offset = XSAVE_OPMASK_OFFSET,
     .at = offsetof(struct cpu_fpu, k),
     .stride = 8,
     .len = 8,
     .count = 8,
     .count32 = 8},
    {.bit = 6, .offset = XSAVE_ZMM_HI256_OFFSET, .at = ZMM(0) + 32, .stride = 64, .len = 32, .count = 16, .count32 = 8},
    {.bit = 7, .offset = XSAVE_HI16_ZMM_OFFSET, .at = ZMM(16), .stride = 64, .len = 64, .count = 16, .count32 = 0},
};

static u8 *piece(const struct cpu_fpu *f, const struct component *k, unsigned i)
{
    return (u8 *)(uintptr_t)f + k->at + i * k->stride;
}
static unsigned pieces(const struct cpu *c, const struct component *k)
{
    return cpu_code64(c) ? k->count : k->count32;
}

static bool all_zero(const u8 *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (p[i])
            return false;
    return true;
}

static bool component_init(const struct cpu_fpu *f, const struct component *k)
{
    for (unsigned i = 0; i < k->count; i++)
        if (!all_zero(piece(f, k, i), k->len))
            return false;
    return true;
}

static bool x87_init(const struct cpu_fpu *f)
{
    static const u8 env[OFF_MXCSR] = {FCW_INIT & 0xff, FCW_INIT >> 8};
    return !memcmp(f->fx, env, sizeof(env)) && all_zero(f->fx + OFF_ST, OFF_XMM - OFF_ST);
}

u64 isa_xinuse(const struct cpu *c)
{
    u64 used = x87_init(&c->fpu) ? 0 : XCR0_X87;
    for (size_t i = 0; i < ARRAY_LEN(components); i++)
        if (!component_init(&c->fpu, &components[i]))
            used |= BIT(components[i].bit);
    return used;
}

/* Where a component of 2 and up stands in the compacted format of `xcomp`. */
static u32 compact_offset(u64 xcomp, const struct component *k)
{
    u32 off = OFF_EXTENDED;
    for (const struct component *p = components + 1; p < k; p++)
        if (xcomp >> p->bit & 1)
            off += (u32)p->len * p->count;
    return off;
}

/* The same in whichever format `xcomp` says. */
static u32 offset_in(u64 xcomp, const struct component *k)
{
    return k->bit < 2 || !(xcomp & XCOMP_COMPACT) ? k->offset : compact_offset(xcomp, k);
}

/* --- the area in memory ----------------------------------------------------------------------------------------- */

/* An image under construction or as read, and the spans of it that count, in ascending order. */
struct image {
    u8 b[XSAVE_MAX_SIZE];
    struct {
        u32 off, len;
    } span[12];
    unsigned n;
    gva_t at;
};

static void add_span(struct image *im, u32 off, u32 len)
{
    if (!len)
        return;
    if (im->n && im->span[im->n - 1].off + im->span[im->n - 1].len == off) {
        im->span[im->n - 1].len += len;
        return;
    }
    im->span[im->n].off = off;
    im->span[im->n++].len = len;
}

static u32 extent(const struct image *im)
{
    return im->n ? im->span[im->n - 1].off + im->span[im->n - 1].len : 0;
}

static gva_t address(const struct isa *m, const struct image *im, u32 off)
{
    u64 va = im->at.v + off;
    return GVA(cpu_code64(m->cpu) ? va : (u32)va);
}

/* Find the area: segment checks for `size` bytes, alignment. */
static int locate(struct isa *m, const struct isa_insn *insn, u32 size, u32 align, bool write, struct image *im)
{
    ISA_TRY(isa_linear(m->cpu, insn->mem.seg, isa_ea(m->cpu, insn), size, write, &im->at));
    return im->at.v % align ? isa_gp0(m) : CPU_OK;
}

static int probe(struct isa *m, const struct image *im)
{
    for (unsigned i = 0; i < im->n; i++)
        ISA_TRY(m->ops->probe_write(m->ctx, address(m, im, im->span[i].off), im->span[i].len, ISA_ACC_DATA));
    return CPU_OK;
}

static int write_spans(struct isa *m, const struct image *im)
{
    for (unsigned i = 0; i < im->n; i++) {
        u32 off = im->span[i].off;
        ISA_TRY(m->ops->write(m->ctx, address(m, im, off), im->b + off, im->span[i].len, ISA_ACC_DATA));
    }
    return CPU_OK;
}

static int read_at(struct isa *m, struct image *im, u32 off, u32 len)
{
    return m->ops->read(m->ctx, address(m, im, off), im->b + off, len, ISA_ACC_DATA);
}

static u64 load64(const u8 *p)
{
    u64 v;
    memcpy(&v, p, sizeof(v));
    return v;
}
static u32 load32(const u8 *p)
{
    u32 v;
    memcpy(&v, p, sizeof(v));
    return v;
}

/* --- x87 and MXCSR ---------------------------------------------------------------------------------------------- */

static bool wide(const struct isa_insn *insn)
{
    return insn->mode == ISA_MODE_64 && insn->prefixes & ISA_PFX_REX_W;
}

/* The x87 part of an image; the 32-bit form has 32 bits of FIP and FDP, and selectors that read as zero. */
static void put_x87(const struct cpu_fpu *f, bool w, struct image *im)
{
    memcpy(im->b, f->fx, OFF_MXCSR);
    if (!w) {
        memset(im->b + 12, 0, 4);
        memset(im->b + 20, 0, 4);
    }
    memcpy(im->b + OFF_ST, f->fx + OFF_ST, OFF_XMM - OFF_ST);
}

/*
 * Take the x87 part of an image. Loading normalises as hardware does: reserved bits of FCW and FOP drop, ES and B of FSW
 * follow from the exceptions that FCW leaves unmasked, the padding of the registers is nothing, and FIP and FDP are as
 * wide as a linear address, 48 bits (hosts with five-level paging keep 57), with the last bit copied upward.
 */
static void take_x87(struct cpu_fpu *f, bool w, const struct image *im)
{
    u16 fcw, fsw, fop;
    memcpy(f->fx, im->b, OFF_MXCSR);
    memcpy(&fcw, im->b, 2);
    memcpy(&fsw, im->b + 2, 2);
    memcpy(&fop, im->b + 6, 2);
    fcw = (fcw & 0x1f3f) | 0x40;
    fsw &= 0x7f7f;
    if (fsw & ~fcw & 0x3f)
        fsw |= 0x8080;
    fop &= 0x7ff;
    memcpy(f->fx, &fcw, 2);
    memcpy(f->fx + 2, &fsw, 2);
    f->fx[5] = 0;
    memcpy(f->fx + 6, &fop, 2);
    memset(f->fx + 14, w && im->b[13] & 0x80 ? 0xff : 0, 2);
    memset(f->fx + 22, w && im->b[21] & 0x80 ? 0xff : 0, 2);
    if (!w) {
        memset(f->fx + 12, 0, 2);
        memset(f->fx + 20, 0, 2);
    }
    for (unsigned i = 0; i < 8; i++) {
        memcpy(f->fx + OFF_ST + 16 * i, im->b + OFF_ST + 16 * i, 10);
        memset(f->fx + OFF_ST + 16 * i + 10, 0, 6);
    }
    cpu_fpu_settle_pointers(f);
}

static void init_x87(struct cpu_fpu *f)
{
    memset(f->fx, 0, OFF_MXCSR);
    memset(f->fx + OFF_ST, 0, OFF_XMM - OFF_ST);
    f->fx[0] = FCW_INIT & 0xff;
    f->fx[1] = FCW_INIT >> 8;
}

static u32 mxcsr_mask(const struct cpu *c)
{
    return c->model ? c->model->mxcsr_mask : 0xffff;
}

static void put_mxcsr(struct cpu *c, struct image *im)
{
    u32 mask = mxcsr_mask(c);
    memcpy(im->b + OFF_MXCSR, cpu_mxcsr(&c->fpu), 4);
    memcpy(im->b + OFF_MXCSR + 4, &mask, 4);
}

static void put_component(const struct cpu *c, const struct component *k, u32 off, struct image *im)
{
    unsigned n = pieces(c, k);
    for (unsigned i = 0; i < n; i++)
        memcpy(im->b + off + i * k->len, piece(&c->fpu, k, i), k->len);
    add_span(im, off, n * k->len);
}

static void take_component(struct cpu *c, const struct component *k, u32 off, const struct image *im)
{
    unsigned n = pieces(c, k);
    for (unsigned i = 0; i < n; i++)
        memcpy(piece(&c->fpu, k, i), im->b + off + i * k->len, k->len);
}

static void init_component(struct cpu *c, const struct component *k)
{
    unsigned n = pieces(c, k);
    for (unsigned i = 0; i < n; i++)
        memset(piece(&c->fpu, k, i), 0, k->len);
}

/* --- FXSAVE and FXRSTOR ----------------------------------------------------------------------------------------- */

static int check_fx(struct isa *m)
{
    return m->cpu->cr0 & (CR0_EM | CR0_TS) ? cpu_raise(m->cpu, VEC_NM) : CPU_OK;
}

/* Without CR4.OSFXSR the XMM registers are left out; MXCSR is not. */
static bool fx_has_xmm(const struct cpu *c)
{
    return c->cr4 & CR4_OSFXSR;
}

static int fxsave(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct image im = {.n = 0};
    ISA_TRY(check_fx(m));
    ISA_TRY(locate(m, insn, 512, FXSAVE_ALIGN, true, &im));
    put_x87(&c->fpu, wide(insn), &im);
    put_mxcsr(c, &im);
    add_span(&im, 0, OFF_XMM);
    if (fx_has_xmm(c))
        put_component(c, &components[0], OFF_XMM, &im);
    ISA_TRY(probe(m, &im));
    return write_spans(m, &im);
}

static int fxrstor(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct image im = {.n = 0};
    ISA_TRY(check_fx(m));
    ISA_TRY(locate(m, insn, 512, FXSAVE_ALIGN, false, &im));
    ISA_TRY(read_at(m, &im, 0, fx_has_xmm(c) ? OFF_XMM + 16 * pieces(c, &components[0]) : OFF_XMM));
    u32 mxcsr = load32(im.b + OFF_MXCSR);
    if (mxcsr & ~mxcsr_mask(c))
        return isa_gp0(m);
    take_x87(&c->fpu, wide(insn), &im);
    *cpu_mxcsr(&c->fpu) = mxcsr;
    if (fx_has_xmm(c))
        take_component(c, &components[0], OFF_XMM, &im);
    return CPU_OK;
}

/* --- XSAVE, XSAVEOPT, XSAVEC ------------------------------------------------------------------------------------ */

static int check_x(struct isa *m)
{
    if (!(m->cpu->cr4 & CR4_OSXSAVE))
        return isa_ud(m);
    return m->cpu->cr0 & CR0_TS ? cpu_raise(m->cpu, VEC_NM) : CPU_OK;
}

static u64 requested(const struct cpu *c)
{
    return c->xcr0 & (isa_gpr_get(c, RDX, 4) << 32 | isa_gpr_get(c, RAX, 4));
}

/* The legacy region: `saved` are the components to be stored, `mxcsr` whether bytes 24-31 are. */
static void put_legacy(struct cpu *c, u64 saved, bool mxcsr, bool w, struct image *im)
{
    if (saved & XCR0_X87) {
        put_x87(&c->fpu, w, im);
        add_span(im, 0, OFF_MXCSR);
    }
    if (mxcsr) {
        put_mxcsr(c, im);
        add_span(im, OFF_MXCSR, 8);
    }
    if (saved & XCR0_X87)
        add_span(im, OFF_ST, OFF_XMM - OFF_ST);
    if (saved & XCR0_SSE)
        put_component(c, &components[0], OFF_XMM, im);
}

static void put_extended(struct cpu *c, u64 saved, u64 xcomp, struct image *im)
{
    for (size_t i = 1; i < ARRAY_LEN(components); i++)
        if (saved >> components[i].bit & 1)
            put_component(c, &components[i], offset_in(xcomp, &components[i]), im);
}

/*
 * Standard format: XSAVE stores all of RFBM, XSAVEOPT only what is in use. The header's XSTATE_BV keeps its bits outside
 * RFBM; the rest of the header is not touched.
 */
static int save_standard(struct isa *m, const struct isa_insn *insn, bool optimise)
{
    struct cpu *c = m->cpu;
    struct image im = {.n = 0};
    u64 rfbm, used;
    ISA_TRY(check_x(m));
    rfbm = requested(c);
    used = isa_xinuse(c) & rfbm;
    put_legacy(c, optimise ? used : rfbm, rfbm & (XCR0_SSE | XCR0_AVX), wide(insn), &im);
    add_span(&im, OFF_HEADER, 8);
    put_extended(c, optimise ? used : rfbm, 0, &im);
    ISA_TRY(locate(m, insn, MAX(extent(&im), OFF_EXTENDED), XSAVE_ALIGN, true, &im));
    ISA_TRY(probe(m, &im));
    ISA_TRY(read_at(m, &im, OFF_HEADER, 8));
    u64 bv = (load64(im.b + OFF_HEADER) & ~rfbm) | used;
    memcpy(im.b + OFF_HEADER, &bv, 8);
    return write_spans(m, &im);
}

/* Compacted format: places for all of RFBM, stored only what is in use; SSE also for the sake of MXCSR. */
static int save_compact(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct image im = {.n = 0};
    u64 rfbm, saved, xcomp;
    ISA_TRY(check_x(m));
    rfbm = requested(c);
    saved = isa_xinuse(c) & rfbm;
    if (*cpu_mxcsr(&c->fpu) != MXCSR_INIT)
        saved |= rfbm & XCR0_SSE;
    xcomp = rfbm | XCOMP_COMPACT;
    put_legacy(c, saved, saved & XCR0_SSE, wide(insn), &im);
    memcpy(im.b + OFF_HEADER, &saved, 8);
    memcpy(im.b + OFF_HEADER + 8, &xcomp, 8);
    add_span(&im, OFF_HEADER, 16);
    put_extended(c, saved, xcomp, &im);
    ISA_TRY(locate(m, insn, MAX(extent(&im), OFF_EXTENDED), XSAVE_ALIGN, true, &im));
    ISA_TRY(probe(m, &im));
    return write_spans(m, &im);
}

static int xsave(struct isa *m, const struct isa_insn *insn)
{
    return save_standard(m, insn, false);
}
static int xsaveopt(struct isa *m, const struct isa_insn *insn)
{
    return save_standard(m, insn, true);
}

/* --- XRSTOR ----------------------------------------------------------------------------------------------------- */

/* The checks on a header (SDM vol. 1, 13.8.1 and 13.8.2). */
static bool header_ok(const struct cpu *c, const u8 *h)
{
    u64 bv = load64(h), xcomp = load64(h + 8);
    if (!(xcomp & XCOMP_COMPACT))
        return !(bv & ~c->xcr0) && all_zero(h + 8, 16);
    bool compact = !c->model || cpu_has(c->model, FEAT_XSAVEC);
    return compact && !(xcomp & ~(c->xcr0 | XCOMP_COMPACT)) && !(bv & ~(xcomp & ~XCOMP_COMPACT)) &&
           all_zero(h + 16, 48);
}

/* Read the parts of the image that `loaded` names, and MXCSR if it is to be loaded. */
static int read_parts(struct isa *m, struct image *im, u64 loaded, bool mxcsr, u64 xcomp)
{
    if (loaded & XCR0_X87) {
        ISA_TRY(read_at(m, im, 0, OFF_MXCSR));
        ISA_TRY(read_at(m, im, OFF_ST, OFF_XMM - OFF_ST));
    }
    if (mxcsr)
        ISA_TRY(read_at(m, im, OFF_MXCSR, 4));
    for (size_t i = 0; i < ARRAY_LEN(components); i++) {
        const struct component *k = &components[i];
        u32 len = k->len * pieces(m->cpu, k);
        if (loaded >> k->bit & 1 && len)
            ISA_TRY(read_at(m, im, offset_in(xcomp, k), len));
    }
    return CPU_OK;
}

static int xrstor(struct isa *m, const struct isa_insn *insn)
{
    struct cpu *c = m->cpu;
    struct image im = {.n = 0};
    ISA_TRY(check_x(m));
    ISA_TRY(locate(m, insn, OFF_EXTENDED, XSAVE_ALIGN, false, &im));
    ISA_TRY(read_at(m, &im, OFF_HEADER, HEADER_SIZE));
    if (!header_ok(c, im.b + OFF_HEADER))
        return isa_gp0(m);

    u64 rfbm = requested(c), bv = load64(im.b + OFF_HEADER), xcomp = load64(im.b + OFF_HEADER + 8);
    u64 loaded = rfbm & bv;
    bool compact = xcomp & XCOMP_COMPACT;
    /* The standard form loads MXCSR whatever XSTATE_BV says; the compacted one treats it as a part of SSE. */
    bool mxcsr = compact ? loaded & XCR0_SSE : rfbm & (XCR0_SSE | XCR0_AVX);
    u32 end = OFF_EXTENDED;
    for (size_t i = 1; i < ARRAY_LEN(components); i++)
        if (loaded >> components[i].bit & 1)
            end = offset_in(xcomp, &components[i]) + components[i].len * pieces(c, &components[i]);
    ISA_TRY(locate(m, insn, end, XSAVE_ALIGN, false, &im));
    ISA_TRY(read_parts(m, &im, loaded, mxcsr, xcomp));
    if (mxcsr && load32(im.b + OFF_MXCSR) & ~mxcsr_mask(c))
        return isa_gp0(m);

    /* Nothing can fail from here on. */
    if (loaded & XCR0_X87)
        take_x87(&c->fpu, wide(insn), &im);
    else if (rfbm & XCR0_X87)
        init_x87(&c->fpu);
    if (mxcsr)
        *cpu_mxcsr(&c->fpu) = load32(im.b + OFF_MXCSR);
    else if (compact && rfbm & XCR0_SSE)
        *cpu_mxcsr(&c->fpu) = MXCSR_INIT;
    for (size_t i = 0; i < ARRAY_LEN(components); i++) {
        const struct component *k = &components[i];
        if (loaded >> k->bit & 1)
            take_component(c, k, offset_in(xcomp, k), &im);
        else if (rfbm >> k->bit & 1)
            init_component(c, k);
    }
    return CPU_OK;
}

/* --- dispatch --------------------------------------------------------------------------------------------------- */

int isa_xsave(struct isa *m, const struct isa_insn *insn)
{
    static const struct {
        u16 mnemonic, mnemonic64;
        int (*fn)(struct isa *, const struct isa_insn *);
    } rows[] = {
        {ZYDIS_MNEMONIC_XSAVE, ZYDIS_MNEMONIC_XSAVE64, xsave},
        {ZYDIS_MNEMONIC_XRSTOR, ZYDIS_MNEMONIC_XRSTOR64, xrstor},
        {ZYDIS_MNEMONIC_XSAVEC, ZYDIS_MNEMONIC_XSAVEC64, save_compact},
        {ZYDIS_MNEMONIC_XSAVEOPT, ZYDIS_MNEMONIC_XSAVEOPT64, xsaveopt},
        {ZYDIS_MNEMONIC_FXSAVE, ZYDIS_MNEMONIC_FXSAVE64, fxsave},
        {ZYDIS_MNEMONIC_FXRSTOR, ZYDIS_MNEMONIC_FXRSTOR64, fxrstor},
    };
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (insn->mnemonic == rows[i].mnemonic || insn->mnemonic == rows[i].mnemonic64)
            return rows[i].fn(m, insn);
    return isa_ud(m); /* XSAVES, XRSTORS: no supervisor state is offered */
}
