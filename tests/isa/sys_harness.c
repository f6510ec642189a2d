#include "sys_harness.h"

static bool fails(struct harness *h, gva_t va, unsigned len, bool write, int *r)
{
    bool outside = va.v >= MEM_SIZE || len > MEM_SIZE - va.v;
    bool absent = h->absent != ~0ull && (va.v >> 12) <= (h->absent >> 12) && (va.v + len - 1) >> 12 >= h->absent >> 12;
    bool chosen = (int)h->accesses++ == h->fail_at;
    if (chosen && !h->fail_pf) {
        *r = cpu_raise_error(&h->cpu, VEC_GP, 0);
        return true;
    }
    if (outside || absent || chosen) {
        *r = cpu_raise_pf(&h->cpu, va, write ? PF_W : 0);
        return true;
    }
    return false;
}

static int op_read(void *ctx, gva_t va, void *buf, unsigned len, enum isa_access acc)
{
    struct harness *h = ctx;
    int r;
    if (fails(h, va, len, false, &r))
        return r;
    memcpy(buf, h->mem + va.v, len);
    return CPU_OK;
}

static int op_probe_write(void *ctx, gva_t va, unsigned len, enum isa_access acc)
{
    struct harness *h = ctx;
    int r;
    return fails(h, va, len, true, &r) ? r : CPU_OK;
}

static int op_write(void *ctx, gva_t va, const void *buf, unsigned len, enum isa_access acc)
{
    struct harness *h = ctx;
    int r;
    if (fails(h, va, len, true, &r))
        return r;
    memcpy(h->mem + va.v, buf, len);
    h->acc_of_write = (u8)acc;
    return CPU_OK;
}

static int op_or32(void *ctx, gva_t va, u32 bits, enum isa_access acc)
{
    struct harness *h = ctx;
    int r;
    assert_int_equal(acc, ISA_ACC_SYSTEM);
    if (fails(h, va, 4, true, &r))
        return r;
    mem_put(h, va.v, 4, mem_get(h, va.v, 4) | bits);
    return CPU_OK;
}

static void op_read_phys(void *ctx, gpa_t at, void *buf, unsigned len)
{
    struct harness *h = ctx;
    if (at.v < MEM_SIZE && len <= MEM_SIZE - at.v)
        memcpy(buf, h->mem + at.v, len);
    else
        memset(buf, 0xff, len);
}

static int op_io_read(void *ctx, u16 port, unsigned size, u32 *value)
{
    struct harness *h = ctx;
    h->io_port = port;
    h->io_size = (u8)size;
    h->io_write = 0;
    h->io_count++;
    *value = h->io_value;
    return CPU_OK;
}

static int op_io_write(void *ctx, u16 port, unsigned size, u32 value)
{
    struct harness *h = ctx;
    h->io_port = port;
    h->io_size = (u8)size;
    h->io_write = 1;
    h->io_count++;
    h->io_value = value;
    return CPU_OK;
}

/* MSR 0x666 does not exist; EFER is there for the flush that it brings. */
static int op_msr_read(void *ctx, u32 index, u64 *value)
{
    struct harness *h = ctx;
    h->msr_index = index;
    *value = h->msr_value;
    return index == 0x666 ? cpu_raise_error(&h->cpu, VEC_GP, 0) : CPU_OK;
}

static int op_msr_write(void *ctx, u32 index, u64 value)
{
    struct harness *h = ctx;
    if (index == 0x666)
        return cpu_raise_error(&h->cpu, VEC_GP, 0);
    if (index == 0xc0000080)
        h->cpu.efer = value;
    h->msr_index = index;
    h->msr_value = value;
    return CPU_OK;
}

static u64 op_tsc(void *ctx)
{
    return ((struct harness *)ctx)->tsc;
}
static u64 op_cr8_read(void *ctx)
{
    return ((struct harness *)ctx)->cr8;
}
static void op_cr8_write(void *ctx, u64 value)
{
    ((struct harness *)ctx)->cr8 = value;
}

static void op_flush(void *ctx, enum isa_flush kind, gva_t va, u16 pcid)
{
    struct harness *h = ctx;
    h->n_flush++;
    h->flush_kind = kind;
    h->flush_va = va.v;
    h->flush_pcid = pcid;
}

static void op_mode_changed(void *ctx)
{
    ((struct harness *)ctx)->n_mode++;
}

static const struct isa_ops ops = {
    .read = op_read,
    .write = op_write,
    .probe_write = op_probe_write,
    .or32 = op_or32,
    .read_phys = op_read_phys,
    .io_read = op_io_read,
    .io_write = op_io_write,
    .msr_read = op_msr_read,
    .msr_write = op_msr_write,
    .tsc = op_tsc,
    .cr8_read = op_cr8_read,
    .cr8_write = op_cr8_write,
    .flush = op_flush,
    .mode_changed = op_mode_changed,
};

u64 mem_get(struct harness *h, u64 at, unsigned size)
{
    u64 v = 0;
    assert_true(at + size <= MEM_SIZE);
    memcpy(&v, h->mem + at, size);
    return v;
}

void mem_put(struct harness *h, u64 at, unsigned size, u64 v)
{
    assert_true(at + size <= MEM_SIZE);
    memcpy(h->mem + at, &v, size);
}

void put_desc(struct harness *h, u32 at, u32 base, u32 limit, u8 access, u8 flags)
{
    u32 lim = flags & F_G ? limit >> 12 : limit;
    mem_put(h, at, 2, lim);
    mem_put(h, at + 2, 2, base);
    mem_put(h, at + 4, 1, base >> 16);
    mem_put(h, at + 5, 1, access);
    mem_put(h, at + 6, 1, (lim >> 16 & 0xf) | (u8)(flags << 4));
    mem_put(h, at + 7, 1, base >> 24);
}

void put_system(struct harness *h, u32 at, u64 base, u32 limit, u8 access)
{
    put_desc(h, at, (u32)base, limit, access, 0);
    if (h->lm)
        mem_put(h, at + 8, 8, base >> 32);
}

static void put_offset_gate(struct harness *h, u32 at, u16 sel, u64 off, u8 access, u8 byte4)
{
    mem_put(h, at, 2, off);
    mem_put(h, at + 2, 2, sel);
    mem_put(h, at + 4, 1, byte4);
    mem_put(h, at + 5, 1, access);
    mem_put(h, at + 6, 2, off >> 16);
    if (h->lm)
        mem_put(h, at + 8, 8, off >> 32);
}

void put_call_gate(struct harness *h, u32 at, u16 sel, u64 off, u8 access, u8 params)
{
    put_offset_gate(h, at, sel, off, access, params);
}

void put_gate(struct harness *h, u8 vector, u16 sel, u64 off, u8 access, u8 ist)
{
    put_offset_gate(h, IDT + vector * (h->lm ? 16u : 8u), sel, off, access, ist);
}

static void make_tables(struct harness *h)
{
    u8 wide = h->lm ? F_L | F_G : F_D | F_G;
    for (unsigned r = 0; r < 4; r++) {
        put_desc(h, GDT + S_CODE(r), 0, 0xffffffff, (u8)A_CODE(r), wide);
        put_desc(h, GDT + S_DATA(r), 0, 0xffffffff, (u8)A_DATA(r), F_D | F_G);
        put_desc(h, GDT + S_CODE32(r), 0, 0xffffffff, (u8)A_CODE(r), F_D | F_G);
        put_desc(h, GDT + S_CONF(r), 0, 0xffffffff, (u8)(A_CODE(r) | 4), wide);
        put_desc(h, GDT + S_RDONLY(r), 0, 0xffffffff, (u8)(A_DATA(r) & ~2), F_D | F_G);
        put_desc(h, GDT + S_DOWN(r), 0, 0xfff, (u8)(A_DATA(r) | 4), F_D);
        put_desc(h, GDT + S_CODE16(r), 0, 0xffff, (u8)A_CODE(r), 0);
        if (h->lm) {
            mem_put(h, TSS + 4 + 8 * r, 8, STACK(r));
        } else {
            mem_put(h, TSS + 4 + 8 * r, 4, STACK(r));
            mem_put(h, TSS + 8 + 8 * r, 2, S_DATA(r) | r);
        }
    }
    put_system(h, GDT + S_TSS, TSS, 0x1fff, 0x89);
    put_system(h, GDT + S_LDT, LDT, 0xff, 0x82);
    for (unsigned i = 1; i < 8 && h->lm; i++)
        mem_put(h, TSS + 28 + 8 * i, 8, IST(i));
    mem_put(h, TSS + 0x66, 2, 0x68);
    memset(h->mem + TSS + 0x68, 0xff, 0x1f98);
}

static void load_ring(struct harness *h, u16 code, unsigned cpl, bool c64)
{
    struct cpu *c = &h->cpu;
    c->cpl = (u8)cpl;
    isa_segment_flat_code((u16)(code | cpl), cpl, c64, &c->seg[SEG_CS]);
    for (unsigned i = 0; i <= SEG_GS; i++)
        if (i != SEG_CS)
            isa_segment_flat_data((u16)(S_DATA(cpl) | cpl), cpl, &c->seg[i]);
    c->gpr[RSP] = STACK(cpl) - 0x100;
    c->rip = CODE;
}

void harness_ring(struct harness *h, unsigned cpl)
{
    h->cpu.cr0 |= CR0_PE;
    h->cpu.sysflags &= ~FL_VM;
    load_ring(h, (u16)S_CODE(cpl), cpl, h->lm);
}

void harness_ring32(struct harness *h, unsigned cpl)
{
    load_ring(h, (u16)S_CODE32(cpl), cpl, false);
}

void harness_init(struct harness *h, bool lm, bool amd)
{
    struct cpu *c = &h->cpu;
    memset(h, 0, sizeof(*h));
    h->mem = calloc(1, MEM_SIZE);
    assert_non_null(h->mem);
    h->lm = lm;
    h->fail_at = -1;
    h->absent = ~0ull;
    h->model.amd = amd;
    h->model.phys_bits = 40;
    h->model.mxcsr_mask = 0xffff;
    h->model.efer_mask = EFER_SCE | EFER_LME | EFER_NXE;
    h->model.cr4_mask = CR4_TSD | CR4_DE | CR4_PSE | CR4_PAE | CR4_MCE | CR4_PGE | CR4_OSFXSR | CR4_OSXMMEXCPT |
                        CR4_UMIP | CR4_FSGSBASE | CR4_PCIDE | CR4_OSXSAVE | CR4_SMEP | CR4_SMAP;
    h->model.xcr0_mask = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_AVX512;
    c->model = &h->model;
    cpu_reset(c);
    c->cr0 = CR0_PE | CR0_ET | CR0_NE;
    c->cr4 = CR4_PAE;
    if (lm) {
        c->cr0 |= CR0_PG;
        c->efer = EFER_LME | EFER_LMA | EFER_SCE;
    }
    c->gdtr = (struct cpu_table){.base = GDT, .limit = GDT_LIMIT};
    c->idtr = (struct cpu_table){.base = IDT, .limit = lm ? 0xfff : 0x7ff};
    make_tables(h);
    isa_segment_null(c, 0, &c->seg[SEG_LDTR]);
    c->seg[SEG_TR] =
        (struct cpu_segment){.base = TSS, .limit = 0x1fff, .attr = SEG_P | DESC_TSS_BUSY, .selector = S_TSS};
    cpu_set_rflags(c, 0);
    h->isa = (struct isa){.cpu = c, .ops = &ops, .ctx = h};
    harness_ring(h, 0);
}

void harness_free(struct harness *h)
{
    free(h->mem);
}

static size_t parse(const char *hex, u8 *out)
{
    size_t n = 0;
    while (*hex) {
        unsigned v = 0;
        if (*hex == ' ') {
            hex++;
            continue;
        }
        assert_true(n < 16 && sscanf(hex, "%2x", &v) == 1);
        out[n++] = (u8)v;
        hex += 2;
    }
    return n;
}

int run(struct harness *h, const char *hex)
{
    struct isa_insn insn = {0};
    u8 bytes[16];
    size_t n = parse(hex, bytes);
    const struct cpu *c = &h->cpu;
    enum isa_mode mode = cpu_code64(c) ? ISA_MODE_64 : c->seg[SEG_CS].attr & SEG_DB ? ISA_MODE_32 : ISA_MODE_16;
    assert_int_equal(isa_decode(mode, bytes, n, &insn), ISA_DECODE_OK);
    assert_int_equal(insn.len, n);
    h->accesses = 0;
    h->io_count = 0;
    h->n_flush = h->n_mode = 0;
    return isa_execute(&h->isa, &insn);
}

unsigned run_with_every_fault(struct harness *h, const char *hex)
{
    struct cpu before = h->cpu;
    u8 *mem = malloc(MEM_SIZE);
    unsigned n = 0;
    int r;
    assert_non_null(mem);
    memcpy(mem, h->mem, MEM_SIZE);
    for (;;) {
        h->fail_at = (int)n;
        h->fail_pf = true;
        r = run(h, hex);
        if (r == CPU_OK)
            break;
        assert_int_equal(r, CPU_FAULT);
        assert_int_equal(h->cpu.fault.vector, VEC_PF);
        h->cpu.fault = before.fault;
        before.nmi_blocked = h->cpu.nmi_blocked;
        assert_memory_equal(&h->cpu, &before, sizeof(before));
        memcpy(h->mem, mem, MEM_SIZE);
        n++;
    }
    h->fail_at = -1;
    free(mem);
    return n;
}
