/* Slow paths to memory, behind the software TLB; and the operations that isa/ works with. */
#include "engine/interp/interp.h"
#include "machine/cpu/cpuid.h"

#include <string.h>

/* Walk for an access and remember the result if it is one that the context in force makes. The page is there then. */
static int walk(struct interp *ip, u64 va, enum mmu_access access, bool user, bool implicit, struct mmu_page *p)
{
    int r = mmu_walk(ip->cpu, ip->mem, GVA(va), access, user, implicit, p);
    if (r == CPU_OK && unlikely(ip->mem->absent))
        mem_at(ip->mem, p->gpa, 1);
    if (r == CPU_OK && !implicit && user == ip->user)
        tlb_fill(ip, ip->context, va, p, access);
    return r;
}

/* --- accesses of a physical page. What answers them may wait for a lock: the CPU leaves meanwhile (coherence.h). --- */

static void mmio_read(struct interp *ip, u64 gpa, u8 *buf, unsigned len)
{
    while (len) {
        unsigned n = len >= 8 && !(gpa & 7) ? 8 : len >= 4 && !(gpa & 3) ? 4 : len >= 2 && !(gpa & 1) ? 2 : 1;
        coherence_leave(ip->seat);
        u64 v = ip->cfg.ops->mmio_read(ip->cfg.ops_ctx, ip->cpu, GPA(gpa), n);
        coherence_enter(ip->seat);
        memcpy(buf, &v, n);
        ip->stats.mmio++;
        gpa += n, buf += n, len -= n;
    }
}

static void mmio_write(struct interp *ip, u64 gpa, const u8 *buf, unsigned len)
{
    while (len) {
        unsigned n = len >= 8 && !(gpa & 7) ? 8 : len >= 4 && !(gpa & 3) ? 4 : len >= 2 && !(gpa & 1) ? 2 : 1;
        u64 v = 0;
        memcpy(&v, buf, n);
        coherence_leave(ip->seat);
        ip->cfg.ops->mmio_write(ip->cfg.ops_ctx, ip->cpu, GPA(gpa), n, v);
        coherence_enter(ip->seat);
        ip->stats.mmio++;
        gpa += n, buf += n, len -= n;
    }
}

/* Copies of 1, 2, 4 and 8 bytes are single accesses, so that a guest's other CPUs never see half of one. */
static void copy(void *to, const void *from, unsigned len)
{
    switch (len) {
    case 1:
        *(u8 *)to = *(const u8 *)from;
        break;
    case 2:
        *(u16_any *)to = *(const u16_any *)from;
        break;
    case 4:
        *(u32_any *)to = *(const u32_any *)from;
        break;
    case 8:
        *(u64_any *)to = *(const u64_any *)from;
        break;
    default:
        memcpy(to, from, len);
    }
}

static void phys_read(struct interp *ip, gpa_t gpa, void *buf, unsigned len)
{
    const void *p = mem_at(ip->mem, gpa, len);
    if (p)
        copy(buf, p, len);
    else
        mmio_read(ip, gpa.v, buf, len);
}

void ram_written(struct interp *ip, u64 ram, unsigned len)
{
    coherence_writer(ip->seat, ram >> PAGE_SHIFT);
    u8 t = __atomic_load_n(&ip->mem->trace[ram >> PAGE_SHIFT], __ATOMIC_SEQ_CST);
    if (t & MEM_TRACE_LOG)
        mem_log_write(ip->mem, ram >> PAGE_SHIFT);
    if (t & MEM_TRACE_CODE)
        code_changed(ip, ram >> PAGE_SHIFT, ram & 0xfff, (ram & 0xfff) + len);
}

static void phys_write(struct interp *ip, gpa_t gpa, const void *buf, unsigned len)
{
    u8 *p = mem_at(ip->mem, gpa, len);
    if (!p) {
        mmio_write(ip, gpa.v, buf, len);
        return;
    }
    ram_written(ip, (u64)(p - ip->mem->ram), len);
    copy(p, buf, len);
}

/* --- linear accesses --- */

/* Bytes of an access of `len` at `va` that lie in its first page. */
static unsigned head(u64 va, unsigned len)
{
    unsigned room = PAGE_SIZE - (unsigned)(va & 0xfff);
    return MIN(len, room);
}

/* Alignment that EFLAGS.AC asks of an operand of `len` bytes (SDM vol. 3A, table 6-7): x87 images by their parts. */
static unsigned alignment(unsigned len)
{
    switch (len) {
    case 2:
    case 14:
    case 94:
        return 2;
    case 4:
    case 28:
    case 108:
        return 4;
    case 8:
    case 10:
        return 8;
    default:
        return 1;
    }
}

/*
 * What makes every access take the slow path while TLB_NEVER is in force (run.c): alignment checks (#AC, SDM vol. 3A,
 * 6.15) and data breakpoints, which are noted here and reported behind the instruction.
 */
static int check_special(struct interp *ip, u64 va, unsigned len, bool write, bool user, bool implicit)
{
    struct cpu *c = ip->cpu;
    bool ac = user && c->cpl == 3 && (c->cr0 & CR0_AM) && (c->sysflags & FL_AC);
    if (ac && gva_canonical(GVA(va)) && (va & (alignment(len) - 1)))
        return cpu_raise_error(c, VEC_AC, 0);
    if (!implicit && isa_debug_armed(c))
        ip->debug_hits |= isa_debug_data(c, GVA(va), len, write);
    return CPU_OK;
}

int mem_read_slow(struct interp *ip, u64 va, void *buf, unsigned len, bool user, bool implicit)
{
    struct mmu_page p1, p2;
    unsigned n = head(va, len);
    int r = CPU_OK;
    if (ip->context == TLB_NEVER && (r = check_special(ip, va, len, false, user, implicit)))
        return r;
    r = walk(ip, va, MMU_READ, user, implicit, &p1);
    if (r == CPU_OK && n < len)
        r = walk(ip, va + n, MMU_READ, user, implicit, &p2);
    if (r != CPU_OK)
        return r;
    phys_read(ip, p1.gpa, buf, n);
    if (n < len)
        phys_read(ip, p2.gpa, (u8 *)buf + n, len - n);
    return CPU_OK;
}

int mem_write_slow(struct interp *ip, u64 va, const void *buf, unsigned len, bool user, bool implicit)
{
    struct mmu_page p1, p2;
    unsigned n = head(va, len);
    int r = CPU_OK;
    if (ip->context == TLB_NEVER && (r = check_special(ip, va, len, true, user, implicit)))
        return r;
    r = walk(ip, va, MMU_WRITE, user, implicit, &p1);
    if (r == CPU_OK && n < len)
        r = walk(ip, va + n, MMU_WRITE, user, implicit, &p2);
    if (r != CPU_OK)
        return r;
    phys_write(ip, p1.gpa, buf, n);
    if (n < len)
        phys_write(ip, p2.gpa, (const u8 *)buf + n, len - n);
    return CPU_OK;
}

int mem_probe_write(struct interp *ip, u64 va, unsigned len, bool user, bool implicit)
{
    struct mmu_page p;
    unsigned n = head(va, len);
    int r = CPU_OK;
    if (ip->context == TLB_NEVER && (r = check_special(ip, va, len, true, user, implicit)))
        return r;
    r = walk(ip, va, MMU_WRITE, user, implicit, &p);
    if (r == CPU_OK && n < len)
        r = walk(ip, va + n, MMU_WRITE, user, implicit, &p);
    return r;
}

/* A page fault on the stack segment's operand is a page fault; a non-canonical address there is #SS(0), not #GP(0). */
static int stack_rule(struct interp *ip, unsigned seg, int r)
{
    if (r == CPU_FAULT && ip->cpu->fault.vector == VEC_GP && seg == SEG_SS)
        ip->cpu->fault.vector = VEC_SS;
    return r;
}

u64 load_slow(struct interp *ip, const struct op *op, u64 va, unsigned size)
{
    u64 v = 0;
    int r = mem_read_slow(ip, va, &v, size, ip->user, false);
    if (r != CPU_OK)
        fault_exit(ip, op, stack_rule(ip, op->segno, r));
    return v;
}

void store_slow(struct interp *ip, const struct op *op, u64 va, u64 value, unsigned size)
{
    int r = mem_write_slow(ip, va, &value, size, ip->user, false);
    if (r != CPU_OK)
        fault_exit(ip, op, stack_rule(ip, op->segno, r));
}

/* Stack accesses: a non-canonical address is #SS(0) whatever segment the other operand is in. */
u64 pop_slow(struct interp *ip, const struct op *op, u64 va, unsigned size)
{
    u64 v = 0;
    int r = mem_read_slow(ip, va, &v, size, ip->user, false);
    if (r != CPU_OK)
        fault_exit(ip, op, stack_rule(ip, SEG_SS, r));
    return v;
}

void push_slow(struct interp *ip, const struct op *op, u64 va, u64 value, unsigned size)
{
    int r = mem_write_slow(ip, va, &value, size, ip->user, false);
    if (r != CPU_OK)
        fault_exit(ip, op, stack_rule(ip, SEG_SS, r));
}

/* A page of RAM without an entry, because it is traced, is written like any other once its traces know. */
u8 *rmw_slow(struct interp *ip, const struct op *op, u64 va, unsigned size)
{
    struct mmu_page p;
    int r = mem_probe_write(ip, va, size, ip->user, false);
    if (r != CPU_OK)
        fault_exit(ip, op, stack_rule(ip, op->segno, r));
    u8 *host = tlb_write_ptr(ip, va, size);
    if (host || head(va, size) < size)
        return host;
    if (walk(ip, va, MMU_WRITE, ip->user, false, &p) != CPU_OK || !(host = mem_at(ip->mem, p.gpa, size)))
        return NULL;
    ram_written(ip, (u64)(host - ip->mem->ram), size);
    return host;
}

const u8 *tlb_fetch(struct interp *ip, u64 va, int *result)
{
    unsigned i = tlb_index(va);
    u64 there = va + ip->tlb->code[i];
    if (likely(ip->tlb->exec[i] && ip->tlb->exec[i] == tlb_exec_key(va, there - (u64)ip->mem->ram)))
        return (const u8 *)there;
    struct mmu_page p;
    *result = walk(ip, va, MMU_EXEC, ip->user, false, &p);
    if (*result != CPU_OK)
        return NULL;
    const u8 *host = mem_at(ip->mem, p.gpa, 1);
    /* Code outside RAM: the bus answers with ones, and FF FF is no instruction. */
    if (!host)
        *result = cpu_raise(ip->cpu, VEC_UD);
    return host;
}

/* --- the operations that isa/ works with --- */

static bool access_user(const struct interp *ip, enum isa_access acc)
{
    return acc == ISA_ACC_USER || (acc == ISA_ACC_DATA && ip->cpu->cpl == 3);
}

/* Whether the context in force speaks for this access (an instruction may have changed CPL half-way). */
static bool fast(const struct interp *ip, unsigned len, enum isa_access acc)
{
    return acc == ISA_ACC_DATA && len <= PAGE_SIZE && ip->user == (ip->cpu->cpl == 3);
}

static int op_read(void *ctx, gva_t va, void *buf, unsigned len, enum isa_access acc)
{
    struct interp *ip = ctx;
    if (fast(ip, len, acc)) {
        const u8 *p = tlb_read_ptr(ip, va.v, len);
        if (p) {
            copy(buf, p, len);
            return CPU_OK;
        }
    }
    return mem_read_slow(ip, va.v, buf, len, access_user(ip, acc), acc == ISA_ACC_SYSTEM);
}

static int op_write(void *ctx, gva_t va, const void *buf, unsigned len, enum isa_access acc)
{
    struct interp *ip = ctx;
    if (fast(ip, len, acc)) {
        u8 *p = tlb_write_ptr(ip, va.v, len);
        if (p) {
            copy(p, buf, len);
            return CPU_OK;
        }
    }
    return mem_write_slow(ip, va.v, buf, len, access_user(ip, acc), acc == ISA_ACC_SYSTEM);
}

static int op_probe_write(void *ctx, gva_t va, unsigned len, enum isa_access acc)
{
    struct interp *ip = ctx;
    if (fast(ip, len, acc) && tlb_write_ptr(ip, va.v, len))
        return CPU_OK;
    return mem_probe_write(ip, va.v, len, access_user(ip, acc), acc == ISA_ACC_SYSTEM);
}

static int op_or32(void *ctx, gva_t va, u32 bits, enum isa_access acc)
{
    struct interp *ip = ctx;
    struct mmu_page p;
    u32 v;
    int r = walk(ip, va.v, MMU_WRITE, access_user(ip, acc), acc == ISA_ACC_SYSTEM, &p);
    if (r != CPU_OK)
        return r;
    u8 *host = head(va.v, 4) == 4 ? mem_at(ip->mem, p.gpa, 4) : NULL;
    if (host) {
        ram_written(ip, (u64)(host - ip->mem->ram), 4);
        __atomic_fetch_or((u32 *)(void *)host, bits, __ATOMIC_SEQ_CST);
        return CPU_OK;
    }
    r = op_read(ctx, va, &v, 4, acc);
    v |= bits;
    return r == CPU_OK ? op_write(ctx, va, &v, 4, acc) : r;
}

/* Outside RAM the bus answers with ones. */
static void op_read_phys(void *ctx, gpa_t at, void *buf, unsigned len)
{
    struct interp *ip = ctx;
    if (mem_read(ip->mem, at, buf, len))
        memset(buf, 0xff, len);
}

static int op_io_read(void *ctx, u16 port, unsigned size, u32 *value)
{
    struct interp *ip = ctx;
    ip->stats.pio++;
    if (unlikely(isa_debug_armed(ip->cpu)))
        ip->debug_hits |= isa_debug_io(ip->cpu, port, size);
    coherence_leave(ip->seat);
    *value = ip->cfg.ops->pio_read(ip->cfg.ops_ctx, port, size);
    coherence_enter(ip->seat);
    return CPU_OK;
}

static int op_io_write(void *ctx, u16 port, unsigned size, u32 value)
{
    struct interp *ip = ctx;
    ip->stats.pio++;
    if (unlikely(isa_debug_armed(ip->cpu)))
        ip->debug_hits |= isa_debug_io(ip->cpu, port, size);
    coherence_leave(ip->seat);
    ip->cfg.ops->pio_write(ip->cfg.ops_ctx, port, size, value);
    coherence_enter(ip->seat);
    return CPU_OK;
}

static int op_msr_read(void *ctx, u32 index, u64 *value)
{
    struct interp *ip = ctx;
    coherence_leave(ip->seat);
    int r = ip->cfg.ops->msr_read(ip->cfg.ops_ctx, ip->cpu, index, value);
    coherence_enter(ip->seat);
    return r;
}

static int op_msr_write(void *ctx, u32 index, u64 value)
{
    struct interp *ip = ctx;
    u64 efer = ip->cpu->efer;
    coherence_leave(ip->seat);
    int r = ip->cfg.ops->msr_write(ip->cfg.ops_ctx, ip->cpu, index, value);
    coherence_enter(ip->seat);
    if (ip->cpu->efer != efer)
        tlb_flush_all(ip);
    return r;
}

static u64 op_tsc(void *ctx)
{
    struct interp *ip = ctx;
    return ip->cfg.ops->tsc(ip->cfg.ops_ctx, ip->cpu);
}

static u64 op_cr8_read(void *ctx)
{
    struct interp *ip = ctx;
    coherence_leave(ip->seat);
    u64 v = ip->cfg.ops->cr8_read(ip->cfg.ops_ctx, ip->cpu);
    coherence_enter(ip->seat);
    return v;
}

static void op_cr8_write(void *ctx, u64 value)
{
    struct interp *ip = ctx;
    coherence_leave(ip->seat);
    ip->cfg.ops->cr8_write(ip->cfg.ops_ctx, ip->cpu, value);
    coherence_enter(ip->seat);
}

static s64 op_hypercall(void *ctx, u64 number, const u64 args[4])
{
    struct interp *ip = ctx;
    if (!ip->cfg.ops->hypercall)
        return -KVM_ENOSYS;
    coherence_leave(ip->seat);
    s64 result = ip->cfg.ops->hypercall(ip->cfg.ops_ctx, ip->cpu, number, args);
    coherence_enter(ip->seat);
    return result;
}

/*
 * Entries carry no PCID: whatever CR3 is loaded drops all that is not global, and what INVPCID says of another PCID is
 * therefore true already.
 */
static void op_flush(void *ctx, enum isa_flush kind, gva_t va, u16 pcid)
{
    struct interp *ip = ctx;
    switch (kind) {
    case ISA_FLUSH_PAGE:
    case ISA_FLUSH_PCID_PAGE:
        tlb_flush_page(ip, va.v);
        break;
    case ISA_FLUSH_NONGLOBAL:
    case ISA_FLUSH_SWITCH:
    case ISA_FLUSH_PCID:
    case ISA_FLUSH_ALL_NONGLOBAL:
        tlb_flush_nonglobal(ip);
        break;
    case ISA_FLUSH_ALL:
        tlb_flush_all(ip);
        break;
    }
}

/* The run loop derives key and context anew after every system instruction. */
static void op_mode_changed(void *ctx)
{
}

const struct isa_ops interp_isa_ops = {
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
    .hypercall = op_hypercall,
    .flush = op_flush,
    .mode_changed = op_mode_changed,
};
