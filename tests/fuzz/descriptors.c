/*
 * Descriptor tables, gates and stacks of the input's making: segment loads, delivery of events, and whatever system
 * instruction the input spells. 64 KiB of linear memory hold all tables; what lies beyond faults.
 */
#include "fuzz.h"
#include "isa/isa.h"
#include "machine/cpu/cpuid.h"

#define MEM 0x10000u

struct small_machine {
    struct cpu cpu;
    u8 *mem;
};

static int at(struct small_machine *s, gva_t va, unsigned len, bool write, u8 **p)
{
    if (va.v >= MEM || len > MEM - va.v)
        return cpu_raise_pf(&s->cpu, va, write ? PF_W : 0);
    *p = s->mem + va.v;
    return CPU_OK;
}

static int op_read(void *ctx, gva_t va, void *buf, unsigned len, enum isa_access acc)
{
    u8 *p;
    int rc = at(ctx, va, len, false, &p);
    if (!rc)
        memcpy(buf, p, len);
    return rc;
}

static int op_write(void *ctx, gva_t va, const void *buf, unsigned len, enum isa_access acc)
{
    u8 *p;
    int rc = at(ctx, va, len, true, &p);
    if (!rc)
        memcpy(p, buf, len);
    return rc;
}

static int op_probe_write(void *ctx, gva_t va, unsigned len, enum isa_access acc)
{
    u8 *p;
    return at(ctx, va, len, true, &p);
}

static int op_or32(void *ctx, gva_t va, u32 bits, enum isa_access acc)
{
    u8 *p;
    int rc = at(ctx, va, 4, true, &p);
    for (unsigned i = 0; !rc && i < 4; i++)
        p[i] |= (u8)(bits >> 8 * i);
    return rc;
}

static void op_read_phys(void *ctx, gpa_t phys, void *buf, unsigned len)
{
    u8 *p;
    if (at(ctx, GVA(phys.v), len, false, &p))
        memset(buf, 0xff, len);
    else
        memcpy(buf, p, len);
}

static int op_io_read(void *ctx, u16 port, unsigned size, u32 *value)
{
    *value = 0xffffffff;
    return CPU_OK;
}
static int op_io_write(void *ctx, u16 port, unsigned size, u32 value)
{
    return CPU_OK;
}
static int op_msr_read(void *ctx, u32 index, u64 *value)
{
    *value = 0;
    return CPU_OK;
}
static int op_msr_write(void *ctx, u32 index, u64 value)
{
    return CPU_OK;
}
static u64 op_number(void *ctx)
{
    return 0;
}
static void op_cr8_write(void *ctx, u64 value)
{
}
static void op_flush(void *ctx, enum isa_flush kind, gva_t va, u16 pcid)
{
}
static void op_mode_changed(void *ctx)
{
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
    .tsc = op_number,
    .cr8_read = op_number,
    .cr8_write = op_cr8_write,
    .flush = op_flush,
    .mode_changed = op_mode_changed,
};

/* Protected or long mode in some ring, tables where the input says. */
static void set_up(struct fuzz_input *in, struct cpu *c, const struct cpu_model *model)
{
    u32 flags = (u32)fuzz_number(in, 4);
    bool wide = flags & 1;
    cpu_reset(c);
    c->model = model;
    c->cr0 = CR0_PE | CR0_ET | CR0_NE | (wide ? CR0_PG : 0);
    c->cr4 = CR4_PAE | CR4_OSFXSR | (flags & 2 ? CR4_UMIP : 0) | (flags & 4 ? CR4_FSGSBASE : 0);
    c->efer = (wide ? EFER_LME | EFER_LMA | EFER_NXE : 0) | (flags & 8 ? EFER_SCE : 0);
    c->cpl = flags >> 4 & 3;
    u32 dpl = (u32)c->cpl << SEG_DPL_SHIFT;
    for (int i = SEG_ES; i <= SEG_GS; i++)
        c->seg[i] = (struct cpu_segment){.limit = 0xffffffff, .attr = 0xc093 | dpl, .selector = 0x10 | c->cpl};
    c->seg[SEG_CS] = (struct cpu_segment){
        .limit = 0xffffffff, .attr = (wide && !(flags & 64) ? 0xa09b : 0xc09b) | dpl, .selector = 8 | c->cpl};
    c->seg[SEG_TR] = (struct cpu_segment){
        .base = fuzz_number(in, 2), .limit = (u32)fuzz_number(in, 2), .attr = 0x8b, .selector = 0x28};
    c->seg[SEG_LDTR] = (struct cpu_segment){
        .base = fuzz_number(in, 2), .limit = (u32)fuzz_number(in, 2), .attr = flags & 128 ? 0x82 : SEG_UNUSABLE};
    c->gdtr = (struct cpu_table){.base = fuzz_number(in, 2), .limit = (u16)fuzz_number(in, 2)};
    c->idtr = (struct cpu_table){.base = fuzz_number(in, 2), .limit = (u16)fuzz_number(in, 2)};
    cpu_set_rflags(c, (fuzz_number(in, 3) & ~FL_VM) | FL_ONE);
    for (int i = 0; i < CPU_GPRS; i++)
        c->gpr[i] = fuzz_number(in, 2);
    c->rip = fuzz_number(in, 2);
}

static void check_cpu(const struct cpu *c)
{
    FUZZ_CHECK(c->cpl <= 3);
    for (int i = 0; i < CPU_SEGS; i++)
        FUZZ_CHECK((c->seg[i].attr & ~(0xf0ffu | SEG_UNUSABLE)) == 0);
    FUZZ_CHECK(!cpu_long_mode(c) || (c->cr0 & CR0_PG));
}

static int execute(struct isa *m, struct fuzz_input *in)
{
    u8 bytes[ISA_MAX_LEN];
    struct isa_insn insn = {0};
    size_t n = MIN(in->len, sizeof(bytes));
    fuzz_take(in, bytes, n);
    enum isa_mode mode = cpu_code64(m->cpu) ? ISA_MODE_64 : ISA_MODE_32;
    if (!n || isa_decode(mode, bytes, n, &insn) || insn.cls == ISA_INNOCUOUS || insn.cls == ISA_UNSUPPORTED)
        return CPU_OK;
    return isa_execute(m, &insn);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    static struct cpu_model model;
    static u8 mem[MEM];
    static struct small_machine s;
    struct error e = {0};
    if (!model.n_leaves)
        FUZZ_CHECK(!cpu_model_make(&model, "x86-64-v2", 1000000000, 1, &e));
    struct fuzz_input in = {data, len};
    s.mem = mem;
    set_up(&in, &s.cpu, &model);
    struct isa m = {.cpu = &s.cpu, .ops = &ops, .ctx = &s};
    u8 steps[8];
    fuzz_take(&in, steps, sizeof(steps));
    u8 code[4 * ISA_MAX_LEN];
    fuzz_take(&in, code, sizeof(code));
    struct fuzz_input insns = {code, sizeof(code)};
    /* the rest is memory, from the start on and again */
    memset(mem, 0, MEM);
    size_t n = MIN(in.len, (size_t)MEM);
    fuzz_take(&in, mem, n);
    for (; n && n < MEM; n *= 2)
        memcpy(mem + n, mem, MIN(n, MEM - n));

    int rc = CPU_OK;
    for (unsigned i = 0; i < sizeof(steps) && (rc == CPU_OK || rc == CPU_FAULT); i++) {
        if (rc == CPU_FAULT)
            rc = isa_deliver_fault(&m);
        else if (steps[i] & 0x80)
            rc = isa_load_segment(&m, (enum cpu_seg)(steps[i] % SEG_LDTR), (u16)s.cpu.gpr[steps[i] >> 3 & 15]);
        else if (steps[i] & 0x40)
            rc = isa_deliver(&m, ISA_EVENT_EXTERNAL, s.cpu.gpr[RAX] & 0xff);
        else
            rc = execute(&m, &insns);
        FUZZ_CHECK(rc >= CPU_OK && rc <= CPU_SHUTDOWN);
        check_cpu(&s.cpu);
    }
    return 0;
}
