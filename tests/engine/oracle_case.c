/*
 * Making cases.
 *
 * First all opcode maps are walked once: legacy maps with each mandatory prefix and REX.W, VEX and EVEX maps with each
 * prefix, length and W, all ModRM bytes that can matter. What decodes, is innocuous or a near transfer of control, and is
 * offered by the model becomes a form. A case takes its form by its seed, so that N cases cover all forms evenly; everything
 * else about it (other prefixes, registers, displacements, immediates, state) is random.
 *
 * Memory operands are aimed: an address is chosen (inside a data page, across pages, at the end of the mapped ones,
 * read-only, unmapped, not canonical) and a register or the displacement is set so that the operand falls there.
 *
 * In a sequence no instruction reads a flag that an earlier one left undefined, and only the last one may branch; but a
 * conditional jump to its successor may stand anywhere. Addresses are mostly taken from registers that no earlier
 * instruction has written, so that most sequences come to their end.
 */
#include "oracle.h"
#include "isa/class.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define MAX_BEFORE 6 /* instructions before the one that a case is about */

struct form {
    u16 mnemonic;
    u8 mode;     /* enum isa_mode */
    u8 encoding; /* enum isa_encoding */
    u8 map, opcode, pp, w, length;
    u8 mem;   /* has a memory operand by ModRM */
    u8 modrm; /* one that makes this form */
};

struct oracle_forms {
    struct form *form; /* those of 64-bit mode, then those of compatibility mode */
    size_t count, room;
    size_t split;     /* where the latter start; of 16-bit code they are the only ones */
    size_t *everyday; /* general-purpose ones of each mode, by number */
    size_t n_everyday[2];
};

/* ---- random numbers (splitmix64) ---- */

u64 oracle_random(struct oracle_rng *r)
{
    u64 z = r->s += 0x9e3779b97f4a7c15ull;
    z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9ull;
    z = (z ^ z >> 27) * 0x94d049bb133111ebull;
    return z ^ z >> 31;
}

u32 oracle_below(struct oracle_rng *r, u32 n)
{
    return (u32)((oracle_random(r) >> 32) * n >> 32);
}

#define PICK(r, table) (table)[oracle_below(r, ARRAY_LEN(table))]

/* A number as programs have them: corner cases are frequent. */
static u64 random_value(struct oracle_rng *r)
{
    static const u64 corners[] = {
        0,      1,      2,          ~0ull,      ~1ull,      0x7f,           0x80,      0xff,          0x7fff,
        0x8000, 0xffff, 0x7fffffff, 0x80000000, 0xffffffff, 0x100000000ull, INT64_MAX, (u64)INT64_MIN};
    u64 v = oracle_random(r);
    switch (oracle_below(r, 6)) {
    case 0:
        return PICK(r, corners);
    case 1:
        return BIT(v & 63);
    case 2:
        return v >> (oracle_random(r) & 63);
    case 3:
        return (u64)((s64)v >> (oracle_random(r) & 63));
    default:
        return v;
    }
}

/* ---- forms ---- */

static const u8 legacy_prefix[] = {0, 0x66, 0xf3, 0xf2};

static unsigned put_escape(u8 *b, unsigned map)
{
    unsigned n = 0;
    if (map)
        b[n++] = 0x0f;
    if (map >= 2)
        b[n++] = map == 2 ? 0x38 : 0x3a;
    return n;
}

/* Bits that a form leaves open: register extensions and so on; 0 for the plainest encoding. */
static unsigned put_opcode(const struct form *f, u64 open, u8 *b)
{
    unsigned n = 0;
    if (f->mode != ISA_MODE_64)
        open &= f->encoding == ISA_ENC_LEGACY ? 0 : f->encoding == ISA_ENC_VEX ? 0x38 : 0x3b70; /* eight registers */
    switch (f->encoding) {
    case ISA_ENC_LEGACY:
        if (legacy_prefix[f->pp])
            b[n++] = legacy_prefix[f->pp];
        if (f->mode == ISA_MODE_64 && (f->w || (open & 0x17) > 0x10)) /* a REX prefix in some cases */
            b[n++] = (u8)(0x40 | f->w << 3 | (open & 7));
        n += put_escape(b + n, f->map);
        break;
    case ISA_ENC_VEX:
        b[n++] = 0xc4;
        b[n++] = (u8)((~open & 7) << 5 | f->map);
        b[n++] = (u8)(f->w << 7 | (~(open >> 3) & 15) << 3 | f->length << 2 | f->pp);
        break;
    default:
        b[n++] = 0x62;
        b[n++] = (u8)((~open & 15) << 4 | f->map);
        b[n++] = (u8)(f->w << 7 | (~(open >> 4) & 15) << 3 | 4 | f->pp);
        b[n++] = (u8)((open >> 8 & 1) << 7 | f->length << 5 | (open >> 9 & 1) << 4 | (~(open >> 10) & 1) << 3 |
                      (open >> 11 & 7));
    }
    b[n++] = f->opcode;
    return n;
}

static bool offered(const struct cpu_model *model, const struct isa_insn *x)
{
    u32 a = isa_feature(x), b = isa_feature_also(x);
    return (a == ISA_FEAT_NONE || cpu_has(model, a)) && (b == ISA_FEAT_NONE || cpu_has(model, b));
}

/* AMD reads 66 on near branches, Intel does not: no oracle for that. */
static bool vendors_differ(const struct isa_insn *x)
{
    return x->mode == ISA_MODE_64 && x->cls == ISA_CONTROL && (x->prefixes & ISA_PFX_66);
}

static bool testable(const struct isa_insn *x)
{
    return (x->cls == ISA_INNOCUOUS || x->cls == ISA_CONTROL) && !isa_nondeterministic(x) && !vendors_differ(x);
}

/* Prefixes in the place of an opcode make other instructions: they have forms of their own. */
static bool is_of_form(const struct form *f, const struct isa_insn *x)
{
    return x->encoding == f->encoding && x->map == f->map && x->opcode == f->opcode;
}

static void add_form(struct oracle_forms *fs, const struct form *f)
{
    if (fs->count == fs->room) {
        fs->room = fs->room ? fs->room * 2 : 4096;
        fs->form = realloc(fs->form, fs->room * sizeof(*f));
    }
    fs->form[fs->count++] = *f;
}

/* Add what one opcode makes with the ModRM bytes given; one form for each mnemonic, with and without memory. */
static void walk_opcode(struct oracle_forms *fs, const struct cpu_model *model, struct form f, const u8 *modrms,
                        size_t n)
{
    size_t start = fs->count;
    for (size_t i = 0; i < n; i++) {
        u8 b[32] = {0};
        struct isa_insn x;
        /* a write mask that is not k0 is right for everything that takes one, and gathers insist */
        unsigned at = put_opcode(&f, f.encoding == ISA_ENC_EVEX ? 1u << 11 : 0, b);
        b[at] = modrms[i];
        b[at + 1] = 0x08; /* SIB: [rax + rcx] */
        if (isa_decode(f.mode, b, sizeof(b), &x) || !is_of_form(&f, &x) || !testable(&x) || !offered(model, &x))
            continue;
        f.mnemonic = x.mnemonic;
        f.mem = x.off_modrm && x.modrm < 0xc0;
        f.modrm = modrms[i];
        bool known = false;
        for (size_t k = start; k < fs->count && !known; k++)
            known = fs->form[k].mnemonic == f.mnemonic && fs->form[k].mem == f.mem;
        if (!known)
            add_form(fs, &f);
    }
}

static void walk_map(struct oracle_forms *fs, const struct cpu_model *model, struct form f)
{
    u8 modrms[72];
    size_t n = 0;
    for (unsigned reg = 0; reg < 8; reg++)
        modrms[n++] = (u8)(reg << 3 | 4);
    for (unsigned m = 0; m < 64; m++)
        modrms[n++] = (u8)(0xc0 | m);
    if (f.encoding != ISA_ENC_LEGACY) { /* groups are by reg alone */
        n = 8;
        for (unsigned reg = 0; reg < 8; reg++)
            modrms[n++] = (u8)(0xc2 | reg << 3);
    }
    for (unsigned opcode = 0; opcode < 256; opcode++) {
        f.opcode = (u8)opcode;
        walk_opcode(fs, model, f, modrms, n);
    }
}

static void walk_mode(struct oracle_forms *fs, const struct cpu_model *model, enum isa_mode mode)
{
    static const struct {
        u8 encoding, maps, lengths; /* bit set of maps; number of vector lengths */
    } kinds[] = {{ISA_ENC_LEGACY, 0x0f, 1}, {ISA_ENC_VEX, 0x0e, 2}, {ISA_ENC_EVEX, 0x6e, 3}};

    for (size_t k = 0; k < ARRAY_LEN(kinds); k++)
        for (unsigned i = 0; i < 8u * 4 * 2 * kinds[k].lengths; i++) {
            struct form f = {.mode = mode, .encoding = kinds[k].encoding, .map = i & 7, .pp = i >> 3 & 3};
            f.w = i >> 5 & 1;
            f.length = (u8)(i >> 6);
            bool no_rex = mode != ISA_MODE_64 && f.encoding == ISA_ENC_LEGACY;
            if ((kinds[k].maps >> f.map & 1) && !(no_rex && f.w))
                walk_map(fs, model, f);
        }
}

/* Legacy encodings of the one-byte and 0F maps without vectors, x87 and branches: what compilers make most of their code of. */
static bool everyday(const struct form *f)
{
    struct isa_insn x;
    u8 b[32] = {0};
    unsigned at = put_opcode(f, 0, b);
    b[at] = f->modrm;
    b[at + 1] = 0x08;
    return f->encoding == ISA_ENC_LEGACY && f->map <= 1 && !isa_decode(f->mode, b, sizeof(b), &x) &&
           x.cls == ISA_INNOCUOUS && !x.vec_used && !x.vec_written && !x.uses_x87 && !x.uses_mxcsr &&
           !isa_is_string(&x);
}

static void find_everyday(struct oracle_forms *fs)
{
    size_t n = 0;
    fs->everyday = calloc(fs->count, sizeof(*fs->everyday));
    for (size_t i = 0; i < fs->count; i++)
        if (everyday(&fs->form[i])) {
            fs->everyday[n++] = i;
            fs->n_everyday[i >= fs->split]++;
        }
}

struct oracle_forms *oracle_forms_make(const struct cpu_model *model, bool narrow)
{
    struct oracle_forms *fs = calloc(1, sizeof(*fs));
    if (!narrow)
        walk_mode(fs, model, ISA_MODE_64);
    fs->split = fs->count;
    walk_mode(fs, model, narrow ? ISA_MODE_16 : ISA_MODE_32);
    find_everyday(fs);
    return fs;
}

void oracle_forms_free(struct oracle_forms *f)
{
    free(f->everyday);
    free(f->form);
    free(f);
}

size_t oracle_forms_count(const struct oracle_forms *f)
{
    return f->count;
}

/* ---- memory contents and vector values ---- */

/* Eight bytes of one kind: integers and the numbers where floating point is interesting. */
static u64 random_lanes(struct oracle_rng *r, unsigned kind)
{
    static const u32 f32[] = {0,          0x80000000, 0x3f800000, 0xbf800000, 0x7f800000, 0xff800000,
                              0x7fc00000, 0x7f800001, 0x00000001, 0x807fffff, 0x00800000, 0x7f7fffff,
                              0x4b000000, 0x4effffff, 0x4f000000, 0x3f000000, 0x5f000000, 0x33800000};
    static const u64 f64[] = {0,
                              1ull << 63,
                              0x3ff0000000000000,
                              0xbff0000000000000,
                              0x7ff0000000000000,
                              0xfff0000000000000,
                              0x7ff8000000000000,
                              0x7ff0000000000001,
                              1,
                              0x800fffffffffffff,
                              0x0010000000000000,
                              0x7fefffffffffffff,
                              0x41dfffffffc00000,
                              0x43e0000000000000,
                              0x3fe0000000000000,
                              0x36a0000000000000};
    static const u16 f16[] = {0, 0x8000, 0x3c00, 0xbc00, 0x7c00, 0xfc00, 0x7e00, 0x7c01, 1, 0x83ff, 0x0400, 0x7bff};
    u64 v = oracle_random(r);

    switch (kind) {
    case 0:
        return v;
    case 1:
        return (u64)PICK(r, f32) << 32 | PICK(r, f32);
    case 2:
        return PICK(r, f64);
    case 3: /* ordinary floats, near enough to each other to cancel */
        return (v & 0x80ffffff80ffffffull) | (0x3e000000ull + (v >> 3 & 3) * 0x800000) * 0x100000001ull;
    case 4:
        return (v & 0x800fffffffffffffull) | (0x3fdull + (v >> 52 & 7)) << 52;
    case 5:
        return (u64)PICK(r, f16) << 48 | (u64)PICK(r, f16) << 32 | (u64)PICK(r, f16) << 16 | PICK(r, f16);
    case 6: /* small integers in every lane */
        return v & 0x0000001f0000003full;
    default:
        return random_value(r);
    }
}

static void random_bytes(struct oracle_rng *r, u8 *out, size_t n)
{
    unsigned kind = oracle_below(r, 8);
    for (size_t i = 0; i + 8 <= n; i += 8) {
        u64 v = random_lanes(r, oracle_chance(r, 10) ? oracle_below(r, 8) : kind);
        memcpy(out + i, &v, 8);
    }
}

void oracle_pattern(u32 pattern, u8 data[ORACLE_DATA_SIZE])
{
    struct oracle_rng r = {pattern * 7919ull + 1};
    for (size_t i = 0; i < ORACLE_DATA_SIZE; i += 64) {
        /* the read-only page is the same in all: it is written once */
        if (i == ORACLE_DATA_RW)
            r.s = 12345;
        random_bytes(&r, data + i, 64);
    }
}

__attribute__((no_sanitize("address"))) u64 oracle_hash(const u8 *data, const u8 *pristine)
{
    u64 h[4] = {1, 2, 3, 4}, diff = 0;
    for (size_t i = 0; i < ORACLE_DATA_SIZE; i += 32)
        for (unsigned k = 0; k < 4; k++) {
            u64 a, b;
            __builtin_memcpy(&a, data + i + 8 * k, 8);
            __builtin_memcpy(&b, pristine + i + 8 * k, 8);
            diff |= a ^ b;
            h[k] = (h[k] ^ a) * 0x9e3779b97f4a7c15ull;
            h[k] ^= h[k] >> 29;
        }
    return diff ? (h[0] ^ h[1] << 1 ^ h[2] << 2 ^ h[3] << 3) | 1 : 0;
}

/* ---- state ---- */

static void random_x87(struct oracle_rng *r, u8 *fx)
{
    static const u8 exponents[][2] = {{0, 0},       {0xff, 0x3f}, {0xff, 0x7f}, {0xfe, 0x7f},
                                      {0x3e, 0x40}, {0, 0x40},    {1, 0}};
    u16 fcw = 0x37f, fsw = 0;
    if (oracle_chance(r, 40))
        fcw = (u16)(0x40 | (oracle_random(r) & 0xf00) | (oracle_chance(r, 70) ? 0x3f : (oracle_random(r) & 0x3f)));
    if (oracle_chance(r, 60))
        fsw = (u16)(oracle_random(r) & 0x7f7f);
    if (fsw & ~fcw & 0x3f) /* ES and B follow from what is pending and not masked */
        fsw |= 0x8080;
    memcpy(fx, &fcw, 2);
    memcpy(fx + 2, &fsw, 2);
    fx[4] = (u8)(oracle_chance(r, 50) ? 0xff : oracle_random(r));
    for (unsigned i = 0; i < 8; i++) {
        u64 mantissa = oracle_chance(r, 70) ? random_lanes(r, 0) | 1ull << 63 : random_value(r);
        memcpy(fx + 32 + 16 * i, &mantissa, 8);
        u64 e = oracle_random(r);
        memcpy(fx + 40 + 16 * i, oracle_chance(r, 60) ? PICK(r, exponents) : (const u8 *)&e, 2);
        if (oracle_chance(r, 50))
            fx[41 + 16 * i] ^= 0x80;
    }
}

static void random_mxcsr(struct oracle_rng *r, u8 *fx)
{
    u32 mxcsr = 0x1f80;
    if (oracle_chance(r, 40)) /* rounding, FTZ, DAZ, sticky flags; exceptions seldom unmasked */
        mxcsr = (u32)(oracle_random(r) & 0xe07f) | (oracle_chance(r, 60) ? 0x1f80 : (u32)(oracle_random(r) & 0x1f80));
    memcpy(fx + 24, &mxcsr, 4);
}

static void random_state(struct oracle_rng *r, struct oracle_state *s)
{
    memset(s, 0, sizeof(*s));
    for (unsigned i = 0; i < CPU_GPRS; i++)
        s->gpr[i] = random_value(r);
    for (unsigned i = 0; i < 32; i++)
        random_bytes(r, s->zmm[i].b, sizeof(s->zmm[i].b));
    for (unsigned i = 0; i < 8; i++)
        s->k[i] = oracle_chance(r, 30) ? random_value(r) : oracle_random(r);
    random_x87(r, s->fx);
    random_mxcsr(r, s->fx);
    s->rflags = FL_ONE | FL_IF | (oracle_random(r) & FL_ARITH);
    if (oracle_chance(r, 15))
        s->rflags |= FL_DF;
    if (oracle_chance(r, 2))
        s->rflags |= FL_AC;
    s->gpr[RSP] = ORACLE_DATA + 0xc00 + 8 * oracle_below(r, 128);
}

/* What compatibility mode can not see is zero. */
static void narrow_state(struct oracle_rng *r, struct oracle_state *s, u8 mode)
{
    for (unsigned i = 0; i < CPU_GPRS; i++)
        s->gpr[i] = i < 8 ? (u32)s->gpr[i] : 0;
    s->gpr[RSP] -= oracle_data_base(mode);
    if (mode == ISA_MODE_16 && oracle_chance(r, 40)) /* a 16-bit stack leaves the upper half alone */
        s->gpr[RSP] |= (oracle_random(r) & 0xffff) << 16;
}

/* ---- aiming ---- */

struct aimer {
    struct oracle_case *c;
    struct oracle_rng *r;
    u16 pinned;  /* general registers that an earlier instruction of the case counts on */
    u16 written; /* those that an earlier one has written: to what, nobody knows */
};

/* Where an access of `size` bytes shall fall. */
static u64 random_target(struct oracle_rng *r, unsigned size)
{
    u64 inside = ORACLE_DATA + oracle_below(r, ORACLE_DATA_RW - 0x200);
    u32 slip = size > 1 ? oracle_below(r, size) : 0;
    size = size ? size : 1;
    switch (oracle_below(r, 40)) {
    case 0 ... 19:
        return inside & ~63ull;
    case 20 ... 23:
        return inside & ~7ull;
    case 24 ... 28:
        return inside;
    case 29: /* across the two writable pages */
    case 30:
        return ORACLE_DATA + PAGE_SIZE - slip;
    case 31: /* its last byte is the last one of a page */
        return ORACLE_DATA + ORACLE_DATA_RW - size;
    case 32: /* partly read-only */
        return ORACLE_DATA + ORACLE_DATA_RW - slip;
    case 33: /* partly or just not there */
        return ORACLE_DATA + ORACLE_DATA_SIZE - slip;
    case 34:
        return ORACLE_DATA - slip;
    case 35: /* read-only */
        return ORACLE_DATA + ORACLE_DATA_RW + (oracle_below(r, PAGE_SIZE - 64) & ~15u);
    case 36: /* unmapped */
        return ORACLE_DATA + 0x8000 + oracle_below(r, 0x10000);
    case 37: /* code: readable, not writable */
        return ORACLE_CODE + oracle_below(r, ORACLE_CODE_SIZE - 64);
    case 38: /* not canonical, when a register can reach it */
        return 0x800000000000ull + (oracle_random(r) >> 20);
    default:
        return oracle_below(r, 64);
    }
}

/* The same as the code of the case sees it; with segments of 64 KiB also about their end. */
static u64 random_place(const struct aimer *a, unsigned size)
{
    u64 linear = random_target(a->r, size);
    if (a->c->mode == ISA_MODE_16 && oracle_chance(a->r, 6))
        return ORACLE_LIMIT16 + 1 - oracle_below(a->r, size + 1);
    return linear - oracle_data_base(a->c->mode);
}

static u64 segment_base(u8 seg)
{
    return seg == SEG_FS ? ORACLE_FS_BASE : seg == SEG_GS ? ORACLE_GS_BASE : 0;
}

static bool set_gpr(struct aimer *a, u8 n, u64 value)
{
    if (a->pinned >> n & 1)
        return false;
    a->pinned |= (u16)BIT(n);
    a->c->in.gpr[n] = a->c->mode == ISA_MODE_64 ? value : (u32)value;
    return true;
}

/* A shift or bit offset or count register: small numbers are the interesting ones. */
static void small_gpr(struct aimer *a, u8 n, u32 limit)
{
    if (!(a->pinned >> n & 1) && oracle_chance(a->r, 90))
        a->c->in.gpr[n] = oracle_below(a->r, limit);
}

/* Indices of a gather or scatter: mostly in reach, now and then far away. */
static void aim_vector(struct aimer *a, const struct isa_insn *x)
{
    bool quad = x->opcode & 1; /* 91, 93, A1, A3: 64-bit indices */
    struct cpu_vec *v = &a->c->in.zmm[x->mem.index];
    bool wild = oracle_chance(a->r, 15);
    for (unsigned i = 0; i < 64; i += quad ? 8 : 4) {
        s64 index = (s64)oracle_below(a->r, 128) - 64;
        if (wild && oracle_chance(a->r, 20))
            index = (s64)oracle_below(a->r, 0x4000) * 16;
        memcpy(v->b + i, &index, quad ? 8 : 4);
    }
}

/* Overwrite the displacement so that the operand falls on `target`; false if it can not reach. */
static bool patch_disp(struct isa_insn *x, u8 *code, s64 disp)
{
    if (x->disp_len == 4 && (disp == (s32)disp || x->mode != ISA_MODE_64)) {
        s32 d = (s32)disp;
        memcpy(code + x->off_disp, &d, 4);
        return true;
    }
    if (x->disp_len == 2) {
        memcpy(code + x->off_disp, &disp, 2);
        return true;
    }
    if (x->disp_len == 8) {
        memcpy(code + x->off_disp, &disp, 8);
        return true;
    }
    return false;
}

/* Set registers, or the displacement in `code`, so that the memory operand is at `target`. */
static void aim_at(struct aimer *a, struct isa_insn *x, u8 *code, u64 ip, u64 target)
{
    const struct isa_mem *m = &x->mem;
    u64 want = target - segment_base(m->seg);
    u64 *gpr = a->c->in.gpr;

    if (m->vsib) {
        aim_vector(a, x);
        want = ORACLE_DATA + 0x1000 - segment_base(m->seg);
    }
    if (m->base == ISA_RIP_REG) {
        patch_disp(x, code, (s64)(want - ip - x->len));
        return;
    }
    bool indexed = m->index != ISA_NO_REG && !m->vsib;
    if (m->base == ISA_NO_REG && !indexed) {
        patch_disp(x, code, (s64)want);
        return;
    }
    if (indexed && m->index != m->base && !(a->pinned >> m->index & 1))
        set_gpr(a, m->index,
                m->base == ISA_NO_REG ? (want - (u64)m->disp) / m->scale : oracle_below(a->r, 256) - 128ull);
    u64 index = indexed ? gpr[m->index] * m->scale : 0;
    if (m->base == ISA_NO_REG) {
        patch_disp(x, code, (s64)(want - index));
    } else if (m->base == m->index && !m->vsib) {
        if (!set_gpr(a, m->base, (want - (u64)m->disp) / (m->scale + 1u)))
            patch_disp(x, code, (s64)(want - gpr[m->base] - index));
    } else if (!set_gpr(a, m->base, want - (u64)m->disp - index)) {
        patch_disp(x, code, (s64)(want - gpr[m->base] - index));
    }
    /* With 16-bit and 32-bit addresses what is above does not count. */
    if (x->addr_size == 2 && m->base < CPU_GPRS && m->base != RSP && oracle_chance(a->r, 50))
        gpr[m->base] ^= (oracle_random(a->r) & 0xffff) << 16;
    if (x->mode == ISA_MODE_64 && x->addr_size == 4 && m->base < CPU_GPRS && m->base != RSP && oracle_chance(a->r, 50))
        gpr[m->base] ^= (oracle_random(a->r) | 1) << 32;
}

static unsigned access_size(const struct isa_insn *x)
{
    for (unsigned i = 0; i < x->n_ops; i++)
        if (x->op[i].kind == ISA_OP_MEM && !x->op[i].hidden)
            return x->op[i].size;
    return x->op_size;
}

static void aim_string(struct aimer *a, const struct isa_insn *x)
{
    u64 seg = segment_base(x->mem.seg);
    set_gpr(a, RSI, random_place(a, x->op_size) - (x->mem.base == RSI ? seg : 0));
    set_gpr(a, RDI, random_place(a, x->op_size));
    if (oracle_chance(a->r, 25)) /* overlapping copies, equal strings */
        a->c->in.gpr[RDI] = a->c->in.gpr[RSI] + oracle_below(a->r, 20) - 10;
    u64 count = oracle_chance(a->r, 85) ? oracle_below(a->r, 40) : oracle_below(a->r, 0x1000);
    if (x->mode == ISA_MODE_64 && x->addr_size == 4 && oracle_chance(a->r, 50))
        count |= oracle_random(a->r) << 32;
    set_gpr(a, RCX, count);
}

/* A bit string in memory: the register operand moves the address. */
static bool is_bit_string(const struct isa_insn *x)
{
    return x->map == 1 && (x->opcode == 0xa3 || x->opcode == 0xab || x->opcode == 0xb3 || x->opcode == 0xbb);
}

static void aim_memory(struct aimer *a, struct isa_insn *x, u8 *code, u64 ip)
{
    bool by_modrm = x->off_modrm && x->modrm < 0xc0;
    if (isa_is_string(x)) {
        aim_string(a, x);
        return;
    }
    if (is_bit_string(x) && by_modrm)
        small_gpr(a, x->op[1].reg, 0x400);
    if (by_modrm || (x->encoding == ISA_ENC_LEGACY && x->map == 0 && (x->opcode & 0xfc) == 0xa0))
        aim_at(a, x, code, ip, random_place(a, access_size(x)));
    else if (x->mem.base != RSP && x->mem.base < CPU_GPRS) /* XLAT, MASKMOV, LEAVE */
        aim_at(a, x, code, ip, random_place(a, 8));
    if (x->mnemonic == ZYDIS_MNEMONIC_ENTER)
        set_gpr(a, RBP, random_place(a, 8));
    if (oracle_chance(a->r, 8))
        set_gpr(a, RSP, random_place(a, 8));
}

/* ---- immediates and branches ---- */

static void random_imm(struct oracle_rng *r, const struct isa_insn *x, u8 *code)
{
    if (x->imm_len && x->imm_len <= 8 && !(x->encoding == ISA_ENC_VEX && x->map == 3 && (x->opcode & 0xf0) == 0x40)) {
        u64 v = random_value(r);
        memcpy(code + x->off_imm, &v, x->imm_len);
    }
}

static u64 random_branch_target(struct oracle_rng *r)
{
    switch (oracle_below(r, 10)) {
    case 0: /* unmapped */
        return ORACLE_CODE + 0x10000 + oracle_below(r, 0x1000);
    case 1: /* not executable */
        return ORACLE_DATA + oracle_below(r, ORACLE_DATA_SIZE);
    default:
        return ORACLE_TARGET + oracle_below(r, ORACLE_TARGET_LEN);
    }
}

/* Near transfers of control: where they go holds INT3, nothing, or no code; `free_before` tells that INT3s are before. */
static void aim_branch(struct aimer *a, struct isa_insn *x, u8 *code, u64 ip, bool free_before)
{
    u64 target =
        oracle_chance(a->r, 4) ? 0x800000000000ull + oracle_random(a->r) % BIT(46) : random_branch_target(a->r);
    target -= oracle_code_base(a->c->mode);
    if (x->imm_len == 1) {
        s8 d = (s8)oracle_below(a->r, 100);
        if (free_before && oracle_chance(a->r, 30))
            d = (s8)(-20 - (int)oracle_below(a->r, 100));
        code[x->off_imm] = (u8)d;
        if (x->mnemonic >= ZYDIS_MNEMONIC_LOOP && x->mnemonic <= ZYDIS_MNEMONIC_LOOPNE)
            small_gpr(a, RCX, 4);
        if (x->mnemonic == ZYDIS_MNEMONIC_JECXZ || x->mnemonic == ZYDIS_MNEMONIC_JRCXZ)
            small_gpr(a, RCX, 2);
        return;
    }
    if (x->imm_len == 4) {
        s32 d = (s32)((target < BIT(32) ? target : ORACLE_TARGET) - ip - x->len);
        memcpy(code + x->off_imm, &d, 4);
        return;
    }
    if (x->op[0].kind == ISA_OP_IMM &&
        x->mnemonic != ZYDIS_MNEMONIC_RET) { /* rel16: out of 32-bit code wherever it goes */
        s16 d = (s16)((target > ORACLE_LIMIT16 ? ORACLE_TARGET : target) - ip - x->len);
        if (x->mode == ISA_MODE_16)
            memcpy(code + x->off_imm, &d, 2);
        return;
    }
    u64 at = 0;
    if (x->mnemonic == ZYDIS_MNEMONIC_RET)
        at = a->c->in.gpr[RSP];
    else if (x->op[0].kind == ISA_OP_REG)
        set_gpr(a, x->op[0].reg, target);
    else /* the caller has aimed the operand: a writable place, so that the pointer can be planted */
        at = random_place(a, 8), aim_at(a, x, code, ip, at);
    u64 linear = at + oracle_data_base(a->c->mode);
    if (linear >= ORACLE_DATA && linear <= ORACLE_DATA + ORACLE_DATA_RW - 8) {
        a->c->plant_addr = at;
        a->c->plant_value = target;
    }
}

/* ---- undefined flags: SDM vol. 2, "Flags Affected" of each instruction ---- */

static u16 undefined_shift(const struct isa_insn *x)
{
    u8 mask = x->op_size == 8 ? 63 : 31;
    bool by_one = x->map == 0 && (x->opcode & 0xfe) == 0xd0;
    unsigned count = x->imm_len ? (unsigned)x->imm & mask : by_one ? 1 : 99;
    u16 u = FL_AF;
    if (count == 0)
        return 0;
    if (count != 1)
        u |= FL_OF;
    if (count >= x->op_size * 8u)
        u |= FL_CF;
    return u;
}

static u16 undefined_double_shift(const struct isa_insn *x)
{
    u8 mask = x->op_size == 8 ? 63 : 31;
    unsigned count = x->imm_len ? (unsigned)x->imm & mask : 99;
    if (count == 0)
        return 0;
    if (count > x->op_size * 8u)
        return FL_ARITH;
    return (u16)(FL_AF | (count != 1 ? FL_OF : 0));
}

static u16 undefined_rotate(const struct isa_insn *x)
{
    u8 mask = x->op_size == 8 ? 63 : 31;
    bool by_one = x->map == 0 && (x->opcode & 0xfe) == 0xd0;
    return by_one || (x->imm_len && ((unsigned)x->imm & mask) <= 1) ? 0 : (u16)FL_OF;
}

static const struct {
    u16 mnemonic, flags;
    u16 (*by_count)(const struct isa_insn *x);
} undefined[] = {
    {ZYDIS_MNEMONIC_AND, FL_AF, NULL},
    {ZYDIS_MNEMONIC_OR, FL_AF, NULL},
    {ZYDIS_MNEMONIC_XOR, FL_AF, NULL},
    {ZYDIS_MNEMONIC_TEST, FL_AF, NULL},
    {ZYDIS_MNEMONIC_AAA, FL_OF | FL_SF | FL_ZF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_AAS, FL_OF | FL_SF | FL_ZF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_AAD, FL_OF | FL_AF | FL_CF, NULL},
    {ZYDIS_MNEMONIC_AAM, FL_OF | FL_AF | FL_CF, NULL},
    {ZYDIS_MNEMONIC_DAA, FL_OF, NULL},
    {ZYDIS_MNEMONIC_DAS, FL_OF, NULL},
    {ZYDIS_MNEMONIC_ANDN, FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_BLSI, FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_BLSR, FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_BLSMSK, FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_BZHI, FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_BEXTR, FL_AF | FL_PF | FL_SF, NULL},
    {ZYDIS_MNEMONIC_MUL, FL_SF | FL_ZF | FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_IMUL, FL_SF | FL_ZF | FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_DIV, FL_ARITH, NULL},
    {ZYDIS_MNEMONIC_IDIV, FL_ARITH, NULL},
    {ZYDIS_MNEMONIC_BSF, FL_ARITH & ~FL_ZF, NULL},
    {ZYDIS_MNEMONIC_BSR, FL_ARITH & ~FL_ZF, NULL},
    {ZYDIS_MNEMONIC_TZCNT, FL_OF | FL_SF | FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_LZCNT, FL_OF | FL_SF | FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_BT, FL_OF | FL_SF | FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_BTS, FL_OF | FL_SF | FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_BTR, FL_OF | FL_SF | FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_BTC, FL_OF | FL_SF | FL_AF | FL_PF, NULL},
    {ZYDIS_MNEMONIC_SHL, 0, undefined_shift},
    {ZYDIS_MNEMONIC_SHR, 0, undefined_shift},
    {ZYDIS_MNEMONIC_SAR, 0, undefined_shift},
    {ZYDIS_MNEMONIC_SHLD, 0, undefined_double_shift},
    {ZYDIS_MNEMONIC_SHRD, 0, undefined_double_shift},
    {ZYDIS_MNEMONIC_ROL, 0, undefined_rotate},
    {ZYDIS_MNEMONIC_ROR, 0, undefined_rotate},
    {ZYDIS_MNEMONIC_RCL, 0, undefined_rotate},
    {ZYDIS_MNEMONIC_RCR, 0, undefined_rotate},
};

static u16 undefined_flags(const struct isa_insn *x)
{
    for (size_t i = 0; i < ARRAY_LEN(undefined); i++)
        if (undefined[i].mnemonic == x->mnemonic)
            return undefined[i].by_count ? undefined[i].by_count(x) : undefined[i].flags;
    return 0;
}

/* Flags may stay as they were: shifts and rotates by CL, strings of length 0. */
static bool may_keep_flags(const struct isa_insn *x)
{
    for (size_t i = 0; i < ARRAY_LEN(undefined); i++)
        if (undefined[i].mnemonic == x->mnemonic && undefined[i].by_count)
            return !x->imm_len;
    return isa_is_string(x);
}

/* Note instruction `x`, which has been put at the end of the case's code. */
static void note_insn(struct oracle_case *c, const struct isa_insn *x)
{
    u16 kept = may_keep_flags(x) ? 0 : x->flags_written;
    c->undefined_flags = (u16)((c->undefined_flags & ~kept) | undefined_flags(x));
    c->code_len += x->len;
    c->insn_end[c->n_insns] = (u8)c->code_len;
    c->undefined[c->n_insns++] = c->undefined_flags;
    c->mnemonic = x->mnemonic;
}

/* A result that is undefined, not only flags: a double shift of 16 bits by more than 16. */
static bool undefined_result(const struct isa_insn *x)
{
    bool dshift = x->mnemonic == ZYDIS_MNEMONIC_SHLD || x->mnemonic == ZYDIS_MNEMONIC_SHRD;
    return (dshift && x->op_size == 2) || (x->mnemonic == ZYDIS_MNEMONIC_BSWAP && x->op_size == 2);
}

/* ---- putting a case together ---- */

/* Bytes of one instruction of form `f`; whether they decode is another question. */
static void random_encoding(const struct form *f, struct oracle_rng *r, u8 *b)
{
    static const u8 extra[] = {0x67, 0x64, 0x65, 0x2e, 0x36, 0x3e, 0x26, 0x66};
    unsigned n = 0;
    u64 fill[2] = {oracle_random(r), oracle_random(r)};

    if (f->mode == ISA_MODE_16 && oracle_chance(r, 20))
        b[n++] = 0x67;
    if (oracle_chance(r, 8)) {
        b[n] = PICK(r, extra);
        /* FS and GS hold null selectors: only 64-bit mode can use them */
        n += f->mode == ISA_MODE_64 || (b[n] != 0x64 && b[n] != 0x65);
    }
    if (f->encoding == ISA_ENC_LEGACY && f->mem && oracle_chance(r, 6))
        b[n++] = 0xf0;
    /* in an EVEX prefix all bits are open; broadcast and zeroing seldom */
    u64 open = oracle_random(r) & 0xffff;
    if (f->encoding == ISA_ENC_EVEX && oracle_chance(r, 50))
        open &= ~0x300ull;
    if (oracle_chance(r, 30))
        open = 0;
    n += put_opcode(f, open, b + n);
    memcpy(b + n, fill, 14);
    if (oracle_chance(r, 30))
        b[n] = f->modrm;
    if (f->mem)
        b[n] = (u8)((b[n] & 0x3f) | oracle_below(r, 3) << 6);
    else
        b[n] |= 0xc0;
}

/* An instruction of form `f` in b[]: false after too many tries. */
static bool random_insn(const struct form *f, struct oracle_rng *r, u8 *b, struct isa_insn *x)
{
    for (unsigned i = 0; i < 60; i++) {
        random_encoding(f, r, b);
        if (isa_decode(f->mode, b, ISA_MAX_LEN, x) || x->mnemonic != f->mnemonic || !testable(x) || !is_of_form(f, x))
            continue;
        if (undefined_result(x))
            continue;
        return true;
    }
    return false;
}

/* Would it go through a register with an unknown value? Mostly a fault: seldom wanted. PUSH and POP only move RSP by a bit. */
static bool address_unknown(struct aimer *a, const struct isa_insn *x)
{
    bool memory = false;
    for (unsigned i = 0; i < x->n_ops; i++)
        memory |= x->op[i].kind == ISA_OP_MEM;
    u16 regs = 0;
    if (x->mem.base < CPU_GPRS)
        regs |= (u16)BIT(x->mem.base);
    if (x->mem.index < CPU_GPRS && !x->mem.vsib)
        regs |= (u16)BIT(x->mem.index);
    if (isa_is_string(x))
        regs |= BIT(RSI) | BIT(RDI) | BIT(RCX);
    bool stack = x->mnemonic == ZYDIS_MNEMONIC_PUSH || x->mnemonic == ZYDIS_MNEMONIC_POP;
    if (stack && x->mem.base == RSP)
        regs &= (u16)~BIT(RSP);
    return memory && (regs & a->written) && oracle_chance(a->r, 90);
}

/* A conditional jump to the next instruction: blocks end here, and flags are read, whichever way it goes. */
static bool append_jump(struct aimer *a)
{
    struct oracle_case *c = a->c;
    u8 b[2] = {(u8)(0x70 | oracle_below(a->r, 16)), 0};
    struct isa_insn x;
    if (isa_decode(c->mode, b, sizeof(b), &x) || (x.flags_read & c->undefined_flags))
        return false;
    memcpy(c->code + c->code_len, b, sizeof(b));
    note_insn(c, &x);
    return true;
}

/* Append one instruction at c->code + c->code_len; false (and nothing changed) if it does not fit in there. */
static bool append(struct aimer *a, const struct form *f, bool last)
{
    struct oracle_case *c = a->c;
    u8 b[32];
    struct isa_insn x;
    u64 ip = c->in.rip + c->code_len;

    if (!random_insn(f, a->r, b, &x) || (x.cls == ISA_CONTROL && !last))
        return false;
    if (x.cls == ISA_CONTROL) {
        aim_branch(a, &x, b, ip, c->n_insns == 0 && c->code_off >= 0x200);
    } else {
        random_imm(a->r, &x, b);
        if (isa_decode(f->mode, b, x.len, &x))
            return false;
        for (unsigned i = 0; i < x.n_ops; i++)
            if (x.op[i].kind == ISA_OP_MEM) {
                aim_memory(a, &x, b, ip);
                break;
            }
    }
    if (isa_decode(f->mode, b, x.len, &x) || undefined_result(&x) || (x.flags_read & c->undefined_flags))
        return false;
    if (!last && address_unknown(a, &x))
        return false;
    if (x.mem.vsib) /* whether gathers and scatters are alignment-checked differs by processor */
        c->in.rflags &= ~FL_AC;
    memcpy(c->code + c->code_len, b, x.len);
    note_insn(c, &x);
    a->written |= x.gpr_written;
    return true;
}

/* Mostly somewhere in the first page; seldom across a page end, or running out of the mapped code. */
static void place_code(struct oracle_case *c, struct oracle_rng *r)
{
    u32 where = oracle_below(r, 100);
    c->code_off = 0x200 + oracle_below(r, 0xc00);
    if (where < 3)
        c->code_off = PAGE_SIZE - 1 - oracle_below(r, 8);
    else if (where < 6)
        c->code_off = ORACLE_CODE_SIZE - 1 - oracle_below(r, 8);
    c->in.rip = ORACLE_CODE + c->code_off - oracle_code_base(c->mode);
}

/* Would 64 or 65 matter? They stand in front, if at all. */
static bool has_segment_prefix(const struct form *f, const u8 *b)
{
    for (unsigned i = 0; f->mode != ISA_MODE_64 && i < 4; i++)
        if (b[i] == 0x64 || b[i] == 0x65)
            return true;
    return false;
}

/* VMCALL under a prefix that is not its own is no instruction here, but something to the hypervisor that the test runs on. */
static bool calls_hypervisor(const u8 *b)
{
    for (unsigned i = 0; i < 4; i++)
        if (b[i] == 0x0f && b[i + 1] == 0x01 && (b[i + 2] == 0xc1 || b[i + 2] == 0xd9))
            return true;
    return false;
}

/* Bytes that are no instruction, made by damaging one that is: both sides must raise #UD. False if none was found. */
static bool wild_code(const struct form *f, struct oracle_rng *r, struct oracle_case *c)
{
    static const u8 damage[] = {0xf0, 0x66, 0xf2, 0xf3, 0x48, 0x2e};
    for (unsigned i = 0; i < 40; i++) {
        u8 b[32];
        struct isa_insn x;
        unsigned at = oracle_chance(r, 40) ? 1 : 0;
        b[0] = PICK(r, damage);
        random_encoding(f, r, b + at);
        if (oracle_chance(r, 60))
            b[oracle_below(r, 6)] ^= (u8)BIT(oracle_below(r, 8));
        if (isa_decode(f->mode, b, ISA_MAX_LEN, &x) != ISA_DECODE_UD || has_segment_prefix(f, b) || calls_hypervisor(b))
            continue;
        memcpy(c->code, b, ISA_MAX_LEN);
        c->code_len = c->insn_end[0] = ISA_MAX_LEN;
        c->code_off = 0x200; /* whether #UD or a fetch beyond the page comes first is the processor's choice */
        c->in.rip = ORACLE_CODE + c->code_off - oracle_code_base(c->mode);
        c->n_insns = 1;
        return true;
    }
    return false;
}

/* A form in its turn, or the next one that fits in here. */
static bool append_main(struct aimer *a, const struct form *mine, size_t count, size_t n, bool last)
{
    for (u32 i = 0; i < 20; i++)
        if (append(a, &mine[(n + i) % count], last))
            return true;
    return false;
}

/* Two to `most` instructions: one of the form `n`, about a fifth of any other, the rest everyday ones. */
static void make_sequence(const struct oracle_forms *f, struct aimer *a, const struct form *mine, size_t count,
                          size_t n, u32 most)
{
    bool wide = a->c->mode == ISA_MODE_64;
    u32 want = 2 + oracle_below(a->r, most - 1), at = oracle_below(a->r, want);
    const size_t *everyday = f->everyday + (wide ? 0 : f->n_everyday[0]);
    for (u32 tries = 0; a->c->n_insns < want && tries < 100; tries++) {
        u32 i = a->c->n_insns;
        u32 dice = oracle_below(a->r, 100);
        if (i == at && append_main(a, mine, count, n, i + 1 == want))
            continue;
        if (dice < 12)
            append_jump(a);
        else if (dice < 30)
            append(a, &mine[oracle_below(a->r, (u32)count)], i + 1 == want);
        else
            append(a, &f->form[everyday[oracle_below(a->r, (u32)f->n_everyday[!wide])]], i + 1 == want);
    }
}

void oracle_case_make(const struct oracle_forms *f, u64 seed, u32 sequence, struct oracle_case *c)
{
    struct oracle_rng r = {seed * 0xd1342543de82ef95ull};
    struct aimer a = {.c = c, .r = &r};
    /* all forms in turn, so that a run of consecutive seeds covers them evenly */
    size_t main_form = (size_t)(seed % f->count);
    bool wide = main_form < f->split;
    const struct form *mine = wide ? f->form : f->form + f->split; /* the forms of its mode */
    size_t count = wide ? f->split : f->count - f->split;

    memset(c, 0, sizeof(*c));
    c->seed = seed;
    c->mode = f->form[main_form].mode;
    random_state(&r, &c->in);
    if (!wide)
        narrow_state(&r, &c->in, c->mode);
    c->pattern = oracle_below(&r, ORACLE_PATTERNS);
    place_code(c, &r);
    size_t n = main_form - (wide ? 0 : f->split);
    if (sequence) {
        make_sequence(f, &a, mine, count, n, sequence);
        return;
    }
    if (oracle_chance(&r, 4) && wild_code(&f->form[main_form], &r, c))
        return;
    u32 before = oracle_chance(&r, 25) ? oracle_below(&r, MAX_BEFORE) : 0;
    for (u32 i = 0; i < before; i++)
        append(&a, &mine[oracle_below(&r, (u32)count)], false);
    append_main(&a, mine, count, n, true);
}

bool oracle_case_from_code(u64 seed, enum isa_mode mode, const u8 *code, size_t len, struct oracle_case *c)
{
    struct oracle_rng r = {seed * 0xd1342543de82ef95ull};
    memset(c, 0, sizeof(*c));
    c->seed = seed;
    c->mode = (u8)mode;
    random_state(&r, &c->in);
    if (mode != ISA_MODE_64)
        narrow_state(&r, &c->in, c->mode);
    c->pattern = oracle_below(&r, ORACLE_PATTERNS);
    place_code(c, &r);
    for (size_t at = 0; at < len && c->n_insns < ORACLE_MAX_INSNS;) {
        struct isa_insn x;
        struct aimer a = {.c = c, .r = &r};
        if (isa_decode(mode, code + at, len - at, &x) || !testable(&x))
            return false;
        memcpy(c->code + c->code_len, code + at, x.len);
        for (unsigned i = 0; i < x.n_ops; i++)
            if (x.op[i].kind == ISA_OP_MEM) {
                aim_memory(&a, &x, c->code + c->code_len, c->in.rip + c->code_len);
                break;
            }
        note_insn(c, &x);
        at += x.len;
    }
    return c->n_insns > 0;
}
