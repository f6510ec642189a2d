/*
 * Event delivery: every gate and every handler descriptor, stacks and frames, combination of faults.
 */
#include "sys_harness.h"

#define HANDLER 0x81234u
#define V       0x40u

/* Gates for all vectors: the handler of v is at HANDLER + v * 16. */
static void make_idt(struct harness *h, u16 sel, u8 access, u8 ist)
{
    for (unsigned v = 0; v < 256; v++)
        put_gate(h, (u8)v, sel, HANDLER + v * 16, access, ist);
}

static int deliver(struct harness *h, u8 kind, bool has_error)
{
    struct isa_event ev = {.kind = kind, .vector = V, .has_error = has_error, .error = 0xabcd, .rip = h->cpu.rip + 2};
    return isa_deliver_once(&h->isa, &ev);
}

static void check_gate(struct harness *h, unsigned access, unsigned cpl, bool soft)
{
    unsigned type = access & 0x1f, dpl = access >> 5 & 3;
    bool known = type == 0xe || type == 0xf || (!h->lm && (type == 5 || type == 6 || type == 7));
    int error = (int)(V * 8 + 2 + !soft);
    harness_ring(h, cpl);
    put_gate(h, V, S_CODE(0), HANDLER, (u8)access, 0);
    int r = deliver(h, soft ? ISA_EVENT_SOFT_INT : ISA_EVENT_EXTERNAL, false);
    if (!known || (soft && dpl < cpl)) {
        assert_int_equal(r, CPU_FAULT);
        assert_fault(h, VEC_GP, error);
    } else if (!(access & 0x80)) {
        assert_int_equal(r, CPU_FAULT);
        assert_fault(h, VEC_NP, error);
    } else if (type == 5) {
        assert_int_equal(r, CPU_FAULT); /* what the gate names is no TSS */
        assert_fault(h, VEC_GP, S_CODE(0) + !soft);
    } else {
        assert_int_equal(r, CPU_OK);
        assert_int_equal(h->cpu.cpl, 0);
        assert_int_equal(h->cpu.rip, type & 8 ? HANDLER : HANDLER & 0xffff);
    }
}

static void every_gate(void **state)
{
    for (int lm = 0; lm < 2; lm++) {
        struct harness h;
        harness_init(&h, lm, false);
        for (unsigned access = 0; access < 256; access++)
            for (unsigned cpl = 0; cpl < 4; cpl++)
                for (int soft = 0; soft < 2; soft++)
                    check_gate(&h, access, cpl, soft);
        harness_free(&h);
    }
}

static void handlers(bool lm)
{
    static const char kinds[] = "ddDDddDDxxRRccCC";
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, lm, false);
    put_gate(&h, V, S_TEST | 3, HANDLER, 0xee, 0);
    for (unsigned i = 0; i < 256 * 4 * 4; i++) {
        unsigned access = i & 255, cpl = i >> 8 & 3, ld = i >> 10, dpl = access >> 5 & 3;
        char k = access & 0x10 ? kinds[access & 15] : 's';
        bool width_ok = !lm || ld == 1; /* L without D */
        put_desc(&h, GDT + S_TEST, 0, 0xfffff, (u8)access, (u8)(F_G | (ld & 1 ? F_L : 0) | (ld & 2 ? F_D : 0)));
        harness_ring(&h, cpl);
        int r = deliver(&h, ISA_EVENT_NMI, false);
        if (!strchr("xRcC", k) || dpl > cpl || !width_ok) {
            assert_int_equal(r, CPU_FAULT);
            assert_fault(&h, VEC_GP, S_TEST + 1);
        } else if (!(access & 0x80)) {
            assert_int_equal(r, CPU_FAULT);
            assert_fault(&h, VEC_NP, S_TEST + 1);
        } else {
            unsigned want = k == 'c' || k == 'C' ? cpl : dpl;
            assert_int_equal(r, CPU_OK);
            assert_int_equal(c->cpl, want);
            assert_int_equal(c->seg[SEG_CS].selector, S_TEST | want);
            assert_int_equal(c->seg[SEG_CS].attr & SEG_ACCESSED, 1);
            assert_int_equal(mem_get(&h, GDT + S_TEST + 5, 1), access | 1);
        }
    }
    harness_free(&h);
}

static void every_handler(void **state)
{
    handlers(false);
    handlers(true);
}

static void bad_handler_selectors(void **state)
{
    struct harness h;
    harness_init(&h, true, false);
    put_gate(&h, V, 3, HANDLER, 0xee, 0);
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_FAULT);
    assert_fault(&h, VEC_GP, 1);
    assert_int_equal(deliver(&h, ISA_EVENT_SOFT_INT, false), CPU_FAULT);
    assert_fault(&h, VEC_GP, 0);
    put_gate(&h, V, 0xfff8, HANDLER, 0xee, 0);
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_FAULT);
    assert_fault(&h, VEC_GP, 0xfff9);
    put_gate(&h, V, S_CODE(0), 0x800000000000, 0xee, 0);
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_FAULT);
    assert_fault(&h, VEC_GP, 1);
    h.cpu.idtr.limit = V * 16 + 14;
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_FAULT);
    assert_fault(&h, VEC_GP, V * 8 + 3);
    harness_free(&h);

    harness_init(&h, false, false);
    put_desc(&h, GDT + S_TEST, 0, 0xfff, A_CODE(0), F_D);
    put_gate(&h, V, S_TEST, 0x1000, 0xee, 0);
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_FAULT);
    assert_fault(&h, VEC_GP, 1);
    put_gate(&h, V, S_TEST, 0xfff, 0xee, 0);
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_OK);
    harness_free(&h);
}

static void long_mode_frame(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    for (unsigned i = 0; i < 4 * 2 * 2 * 2; i++) {
        unsigned cpl = i & 3, ist = i >> 2 & 1 ? 5 : 0, trap = i >> 3 & 1, error = i >> 4 & 1;
        harness_ring(&h, cpl);
        c->gpr[RSP] |= 7; /* misaligned */
        cpu_set_rflags(c, FL_CF | FL_TF | FL_IF | FL_NT | FL_AC | FL_DF);
        u64 old_sp = c->gpr[RSP], flags = cpu_rflags(c);
        u16 old_ss = c->seg[SEG_SS].selector, old_cs = c->seg[SEG_CS].selector;
        put_gate(&h, V, S_CODE(0), 0x81234, (u8)(0x8e + trap), (u8)ist);
        c->shadow = SHADOW_STI;
        h.n_mode = 0;
        assert_int_equal(deliver(&h, ISA_EVENT_EXCEPTION, error), CPU_OK);

        u64 top = (ist ? IST(5) : cpl ? STACK(0) : old_sp) & ~0xfull, sp = top - 40;
        assert_int_equal(mem_get(&h, top - 8, 8), old_ss);
        assert_int_equal(mem_get(&h, top - 16, 8), old_sp);
        assert_int_equal(mem_get(&h, top - 24, 8), flags);
        assert_int_equal(mem_get(&h, top - 32, 8), old_cs);
        assert_int_equal(mem_get(&h, top - 40, 8), CODE + 2);
        if (error)
            assert_int_equal(mem_get(&h, sp -= 8, 8), 0xabcd);
        assert_int_equal(c->gpr[RSP], sp);
        assert_int_equal(cpu_rflags(c), (flags & ~(FL_TF | FL_NT)) & ~(trap ? 0 : FL_IF));
        assert_int_equal(c->seg[SEG_SS].selector, cpl ? 0 : old_ss);
        assert_int_equal(c->seg[SEG_SS].attr & SEG_UNUSABLE, cpl ? SEG_UNUSABLE : 0);
        assert_int_equal(h.acc_of_write, ISA_ACC_SUPERVISOR);
        assert_int_equal(c->shadow, 0);
        assert_int_equal(h.n_mode, 1);
    }
    harness_free(&h);
}

static void long_mode_inner_ring_null_ss(void **state)
{
    struct harness h;
    harness_init(&h, true, false);
    harness_ring(&h, 3);
    put_gate(&h, V, S_CODE(1), HANDLER, 0x8e, 0);
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_OK);
    assert_int_equal(h.cpu.cpl, 1);
    assert_int_equal(h.cpu.seg[SEG_SS].selector, 1);
    assert_int_equal(h.cpu.gpr[RSP], STACK(1) - 40);
    harness_free(&h);
}

static void from_compatibility_mode(void **state)
{
    struct harness h;
    harness_init(&h, true, false);
    harness_ring32(&h, 3);
    make_idt(&h, S_CODE(0), 0xee, 0);
    assert_run_ok(&h, "cd80");
    assert_int_equal(h.cpu.gpr[RSP], STACK(0) - 40);
    assert_int_equal(mem_get(&h, STACK(0) - 32, 8), S_CODE32(3) | 3);
    assert_int_equal(mem_get(&h, STACK(0) - 40, 8), CODE + 2);
    assert_true(cpu_code64(&h.cpu));
    harness_free(&h);
}

static void bad_long_mode_stacks(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    put_gate(&h, V, S_CODE(0), HANDLER, 0xee, 7);
    c->seg[SEG_TR].limit = 28 + 7 * 8 + 6;
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_FAULT);
    assert_fault(&h, VEC_TS, S_TSS | 1);
    c->seg[SEG_TR].limit++;
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_OK);
    mem_put(&h, TSS + 28 + 7 * 8, 8, 0x800000000000);
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_FAULT);
    assert_fault(&h, VEC_SS, 1);
    put_gate(&h, V, S_CODE(0), HANDLER, 0xee, 0);
    harness_ring(&h, 0);
    c->gpr[RSP] = 0xffff700000000000;
    assert_int_equal(deliver(&h, ISA_EVENT_SOFT_INT, false), CPU_FAULT);
    assert_fault(&h, VEC_SS, 0);
    harness_ring(&h, 3);
    mem_put(&h, TSS + 4, 8, MEM_SIZE + 0x1000); /* not there */
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_FAULT);
    assert_int_equal(h.cpu.fault.vector, VEC_PF);
    assert_int_equal(h.cpu.fault.address, MEM_SIZE + 0x1000 - 8); /* the first push */
    harness_free(&h);
}

static void protected_mode_frame(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, false, false);
    for (unsigned i = 0; i < 4 * 2 * 2 * 2; i++) {
        unsigned cpl = i & 3, trap = i >> 2 & 1, wide = i >> 3 & 1, error = i >> 4 & 1, w = wide ? 4 : 2;
        harness_ring(&h, cpl);
        cpu_set_rflags(c, FL_CF | FL_TF | FL_IF | FL_NT | FL_AC);
        u64 old_sp = c->gpr[RSP], flags = cpu_rflags(c), mask = isa_mask(w);
        u16 old_ss = c->seg[SEG_SS].selector, old_cs = c->seg[SEG_CS].selector;
        put_gate(&h, V, S_CODE(0), 0x81234, (u8)((wide ? 0x8e : 0x86) + trap), 0);
        assert_int_equal(deliver(&h, ISA_EVENT_EXCEPTION, error), CPU_OK);

        u64 sp = cpl ? STACK(0) : old_sp;
        if (cpl) {
            assert_int_equal(mem_get(&h, sp -= w, w), old_ss);
            assert_int_equal(mem_get(&h, sp -= w, w), old_sp & mask);
            assert_int_equal(c->seg[SEG_SS].selector, S_DATA(0));
        }
        assert_int_equal(mem_get(&h, sp -= w, w), flags & mask);
        assert_int_equal(mem_get(&h, sp -= w, w), old_cs);
        assert_int_equal(mem_get(&h, sp -= w, w), (CODE + 2) & mask);
        if (error)
            assert_int_equal(mem_get(&h, sp -= w, w), 0xabcd);
        assert_int_equal(c->gpr[RSP], sp);
        assert_int_equal(c->rip, 0x81234 & mask);
        assert_int_equal(cpu_rflags(c), (flags & ~(FL_TF | FL_NT)) & ~(trap ? 0 : FL_IF));
    }
    harness_free(&h);
}

static void put_tss_ss(struct harness *h, u16 sel)
{
    mem_put(h, TSS + 8, 2, sel);
}

static void bad_protected_mode_stacks(void **state)
{
    static const char kinds[] = "ddDDddDDxxRRccCC";
    struct harness h;
    harness_init(&h, false, false);
    make_idt(&h, S_CODE(0), 0xee, 0);
    for (unsigned i = 0; i < 256 * 4; i++) {
        unsigned access = i & 255, rpl = i >> 8;
        bool good = (access & 0x10) && kinds[access & 15] == 'D' && rpl == 0 && (access >> 5 & 3) == 0;
        bool down = access & 4;
        put_desc(&h, GDT + S_TEST, 0, 0xfffff, (u8)access, F_G | F_D);
        put_tss_ss(&h, (u16)(S_TEST | rpl));
        harness_ring(&h, 3);
        int r = deliver(&h, ISA_EVENT_EXTERNAL, false);
        if (!good || !(access & 0x80)) {
            assert_int_equal(r, CPU_FAULT);
            assert_fault(&h, good ? VEC_SS : VEC_TS, S_TEST | 1);
        } else if (down) { /* nothing is above this limit's 4 GiB but the stack's top is below it */
            assert_int_equal(r, CPU_FAULT);
            assert_fault(&h, VEC_SS, S_TEST | 1);
        } else {
            assert_int_equal(r, CPU_OK);
        }
    }
    harness_ring(&h, 3);
    put_tss_ss(&h, 0);
    assert_int_equal(deliver(&h, ISA_EVENT_SOFT_INT, false), CPU_FAULT);
    assert_fault(&h, VEC_TS, 0);
    put_tss_ss(&h, 0xfff8);
    assert_int_equal(deliver(&h, ISA_EVENT_SOFT_INT, false), CPU_FAULT);
    assert_fault(&h, VEC_TS, 0xfff8);
    put_tss_ss(&h, S_DATA(0));
    h.cpu.seg[SEG_TR].limit = 8;
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_FAULT);
    assert_fault(&h, VEC_TS, S_TSS | 1);
    h.cpu.seg[SEG_TR].limit = 9;
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_OK);
    harness_free(&h);
}

static void sixteen_bit_tss(void **state)
{
    struct harness h;
    harness_init(&h, false, false);
    make_idt(&h, S_CODE(0), 0xee, 0);
    h.cpu.seg[SEG_TR].attr = SEG_P | DESC_TSS16_BUSY;
    mem_put(&h, TSS + 2, 2, 0x9000);
    mem_put(&h, TSS + 4, 2, S_DATA(0));
    harness_ring(&h, 3);
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_OK);
    assert_int_equal(h.cpu.gpr[RSP], 0x9000 - 20);
    mem_put(&h, TSS + 6, 2, 0xa000);
    mem_put(&h, TSS + 8, 2, S_DATA(1) | 1);
    make_idt(&h, S_CODE(1), 0xee, 0);
    harness_ring(&h, 3);
    h.cpu.seg[SEG_TR].limit = 9;
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_OK);
    assert_int_equal(h.cpu.gpr[RSP], 0xa000 - 20);
    harness_ring(&h, 3);
    h.cpu.seg[SEG_TR].limit = 8;
    assert_int_equal(deliver(&h, ISA_EVENT_EXTERNAL, false), CPU_FAULT);
    assert_fault(&h, VEC_TS, S_TSS | 1);
    harness_free(&h);
}

static void software_interrupts(void **state)
{
    for (int lm = 0; lm < 2; lm++) {
        struct harness h;
        struct cpu *c = &h.cpu;
        harness_init(&h, lm, false);
        make_idt(&h, S_CODE(0), 0xee, 0);
        harness_ring(&h, 3);
        put_desc(&h, GDT + S_CODE(0), 0, 0xffffffff, A_CODE(0) & ~1, lm ? F_L | F_G : F_D | F_G);
        /* gate, code segment, its accessed bit, stack pointer [, stack segment], frame */
        assert_int_equal(run_with_every_fault(&h, "cd40"), lm ? 5 : 6);
        assert_int_equal(c->rip, HANDLER + 0x40 * 16);
        harness_ring(&h, 3);
        assert_run_ok(&h, "cc");
        assert_int_equal(c->rip, HANDLER + 3 * 16);
        assert_int_equal(mem_get(&h, c->gpr[RSP], 4), CODE + 1);
        harness_ring(&h, 3);
        assert_run_ok(&h, "f1");
        assert_int_equal(c->rip, HANDLER + 1 * 16);

        make_idt(&h, S_CODE(0), 0x8e, 0);
        harness_ring(&h, 3);
        assert_run_fault(&h, "cd40", VEC_GP, 0x40 * 8 + 2);
        assert_run_fault(&h, "cc", VEC_GP, 3 * 8 + 2);
        assert_int_equal(c->rip, CODE);
        assert_run_ok(&h, "f1"); /* INT1 asks for no DPL */
        put_gate(&h, 1, S_CODE(0), HANDLER, 0x0e, 0);
        harness_ring(&h, 3);
        assert_run_fault(&h, "f1", VEC_NP, 1 * 8 + 3);
        harness_free(&h);
    }
}

static void overflow_and_bounds(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, false, false);
    make_idt(&h, S_CODE(0), 0xee, 0);
    assert_run_ok(&h, "ce");
    assert_int_equal(c->rip, CODE + 1);
    harness_ring(&h, 0);
    cpu_set_rflags(c, FL_OF);
    assert_run_ok(&h, "ce");
    assert_int_equal(c->rip, HANDLER + 4 * 16);
    static const struct {
        u32 v;
        bool in;
    } probes[] = {{0xfffffff0, true}, {0xffffffef, false}, {0x100, true}, {0x101, false}, {0, true}};
    mem_put(&h, DATA, 4, 0xfffffff0);
    mem_put(&h, DATA + 4, 4, 0x100);
    for (unsigned i = 0; i < ARRAY_LEN(probes); i++) {
        harness_ring(&h, 0);
        c->gpr[RAX] = probes[i].v;
        if (probes[i].in)
            assert_run_ok(&h, "6205 00000900");
        else
            assert_run_fault(&h, "6205 00000900", VEC_BR, -1);
    }
    harness_free(&h);
}

/* Table 6-5 of the manual, by vectors. */
static unsigned combined(unsigned first, unsigned second)
{
    bool c1 = first == 0 || (first >= 10 && first <= 13), c2 = second == 0 || (second >= 10 && second <= 13);
    if (first == 8)
        return 256; /* shutdown */
    if ((c1 && c2) || (first == 14 && (c2 || second == 14)))
        return 8;
    return second;
}

static void faults_combine(void **state)
{
    static const u8 firsts[] = {0, 1, 3, 5, 6, 7, 8, 10, 11, 12, 13, 14, 16, 17, 19};
    for (unsigned i = 0; i < ARRAY_LEN(firsts) * 2 * 2; i++) {
        struct harness h;
        struct cpu *c = &h.cpu;
        unsigned first = firsts[i / 4], second = i & 1 ? VEC_PF : VEC_GP;
        harness_init(&h, i >> 1 & 1, false);
        make_idt(&h, S_CODE(0), 0x8e, 0);
        harness_ring(&h, 3);
        h.fail_at = 0;
        h.fail_pf = i & 1;
        c->cr2 = 0x1234;
        unsigned want = combined(first, second);
        int r = isa_deliver(&h.isa, ISA_EVENT_EXCEPTION, (u8)first);
        if (want == 256) {
            assert_int_equal(r, CPU_SHUTDOWN);
        } else {
            assert_int_equal(r, CPU_OK);
            assert_int_equal(c->rip, HANDLER + want * 16);
            assert_int_equal(mem_get(&h, c->gpr[RSP], 4), 0); /* each of 8, 13, 14 has an error code */
            assert_int_equal(mem_get(&h, c->gpr[RSP] + (h.lm ? 8 : 4), 4), CODE);
            assert_int_equal(c->cr2, i & 1 ? IDT + first * (h.lm ? 16 : 8) : 0x1234);
        }
        harness_free(&h);
    }
}

static void interrupts_and_faults(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    make_idt(&h, S_CODE(0), 0x8e, 0);
    put_gate(&h, V, S_CODE(0), HANDLER, 0x0e, 0);
    /* an interrupt whose gate is not present: #NP with EXT, RF in the image */
    assert_int_equal(isa_deliver(&h.isa, ISA_EVENT_EXTERNAL, V), CPU_OK);
    assert_int_equal(c->rip, HANDLER + 11 * 16);
    assert_int_equal(mem_get(&h, c->gpr[RSP], 8), V * 8 + 3);
    assert_int_equal(mem_get(&h, c->gpr[RSP] + 24, 8), FL_ONE | FL_RF);
    /* nor is that of #NP: double fault */
    put_gate(&h, VEC_NP, S_CODE(0), HANDLER, 0x0e, 0);
    harness_ring(&h, 0);
    assert_int_equal(isa_deliver(&h.isa, ISA_EVENT_EXTERNAL, V), CPU_OK);
    assert_int_equal(c->rip, HANDLER + 8 * 16);
    /* nor that of #DF: shutdown, and the CPU stands where it stood */
    put_gate(&h, VEC_DF, S_CODE(0), HANDLER, 0x0e, 0);
    harness_ring(&h, 0);
    assert_int_equal(isa_deliver(&h.isa, ISA_EVENT_EXTERNAL, V), CPU_SHUTDOWN);
    assert_int_equal(c->rip, CODE);
    assert_int_equal(c->gpr[RSP], STACK(0) - 0x100);
    /* no IDT at all */
    c->idtr.limit = 0;
    assert_int_equal(isa_deliver(&h.isa, ISA_EVENT_NMI, VEC_NMI), CPU_SHUTDOWN);
    harness_free(&h);
}

/* Raised without a fault before it, an exception pushes an error code of 0 where it has one. */
static void error_codes_by_vector(void **state)
{
    static const char with[] = "nnnnnnnnynyyyyynnynnnynnnnnnnnnnn";
    for (unsigned v = 0; v <= 32; v++) {
        struct harness h;
        harness_init(&h, true, false);
        make_idt(&h, S_CODE(0), 0x8e, 0);
        assert_int_equal(isa_deliver(&h.isa, ISA_EVENT_EXCEPTION, (u8)v), CPU_OK);
        assert_int_equal(h.cpu.gpr[RSP], STACK(0) - 0x100 - (with[v] == 'y' ? 48 : 40));
        harness_free(&h);
    }
}

static void faults_set_rf_and_cr2(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    for (unsigned v = 0; v < 20; v++) {
        if (v == 2 || v == 3 || v == 4 || v == 9 || v == 15)
            continue;
        harness_init(&h, true, false);
        make_idt(&h, S_CODE(0), 0x8e, 0);
        bool error = v == 8 || (v >= 10 && v <= 14) || v == 17;
        c->fault = (struct cpu_fault){.vector = (u8)v, .has_error = error, .error = 6, .address = 0x4001};
        c->dr[7] |= BIT(13);
        assert_int_equal(isa_deliver_fault(&h.isa), CPU_OK);
        u64 sp = c->gpr[RSP];
        if (error)
            assert_int_equal(mem_get(&h, sp, 8), 6);
        bool rf = v != 1 && v != 8 && v != 18;
        assert_int_equal(mem_get(&h, sp + 16 + 8 * error, 8), FL_ONE | (rf ? FL_RF : 0));
        assert_int_equal(c->cr2, v == 14 ? 0x4001 : 0);
        assert_int_equal(c->dr[6], v == 1 ? 0xffff4ff1 : 0xffff0ff0);
        assert_int_equal(c->dr[7] >> 13 & 1, v != 1);
        assert_int_equal(c->sysflags, 0);
        harness_free(&h);
    }
}

static void taking_interrupts(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    make_idt(&h, S_CODE(0), 0x8e, 0);
    for (unsigned i = 0; i < 2 * 4 * 2; i++) {
        bool iflag = i & 1;
        unsigned shadow = i >> 1 & 3, blocked = i >> 3;
        cpu_set_rflags(c, iflag ? FL_IF : 0);
        c->shadow = (u8)shadow;
        c->nmi_blocked = (u8)blocked;
        assert_int_equal(isa_interruptible(c, ISA_EVENT_EXTERNAL), iflag && !shadow);
        assert_int_equal(isa_interruptible(c, ISA_EVENT_NMI), !blocked && !(shadow & SHADOW_MOVSS));
    }
    c->shadow = c->nmi_blocked = 0;
    c->halted = c->nmi_pending = 1;
    cpu_attention_set(c, ATTN_NMI | ATTN_INTR);
    assert_int_equal(isa_take_interrupt(&h.isa, ISA_EVENT_NMI, 0), CPU_OK);
    assert_int_equal(c->rip, HANDLER + 2 * 16);
    assert_int_equal(c->nmi_blocked, 1);
    assert_int_equal(c->nmi_pending, 0);
    assert_int_equal(c->halted, 0);
    assert_int_equal(c->attention, ATTN_INTR);
    c->halted = 1;
    assert_int_equal(isa_take_interrupt(&h.isa, ISA_EVENT_EXTERNAL, 0xef), CPU_OK);
    assert_int_equal(c->rip, HANDLER + 0xef * 16);
    assert_int_equal(c->halted, 0);
    assert_int_equal(c->nmi_blocked, 1);
    harness_free(&h);
}

static void breakpoints(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    assert_false(isa_debug_armed(c));
    c->dr[0] = 0x1000; /* execution, local */
    c->dr[1] = 0x2003; /* 4-byte writes: 2000-2003 */
    c->dr[2] = 0x3000; /* 8-byte accesses, global */
    c->dr[3] = 0x60;   /* 2 ports */
    c->dr[7] = 0x400 | BIT(0) | BIT(2) | BIT(5) | BIT(6) | 0xdull << 20 | 0xbull << 24 | 0x6ull << 28;
    assert_true(isa_debug_armed(c));
    assert_int_equal(isa_debug_exec(c, GVA(0x1000)), 1);
    assert_int_equal(isa_debug_exec(c, GVA(0x1001)), 0);
    assert_int_equal(isa_debug_exec(c, GVA(0x2003)), 0);
    c->sysflags |= FL_RF;
    assert_int_equal(isa_debug_exec(c, GVA(0x1000)), 0);
    assert_int_equal(isa_debug_data(c, GVA(0x1fff), 1, true), 0);
    assert_int_equal(isa_debug_data(c, GVA(0x1fff), 2, true), 2);
    assert_int_equal(isa_debug_data(c, GVA(0x2003), 1, true), 2);
    assert_int_equal(isa_debug_data(c, GVA(0x2003), 1, false), 0);
    assert_int_equal(isa_debug_data(c, GVA(0x2004), 8, true), 0);
    assert_int_equal(isa_debug_data(c, GVA(0x3007), 1, false), 4);
    assert_int_equal(isa_debug_data(c, GVA(0x2ff9), 8, false), 4);
    assert_int_equal(isa_debug_data(c, GVA(0x1000), 4, true), 0);
    assert_int_equal(isa_debug_io(c, 0x60, 1), 0); /* not without CR4.DE */
    c->cr4 |= CR4_DE;
    assert_int_equal(isa_debug_io(c, 0x61, 1), 8);
    assert_int_equal(isa_debug_io(c, 0x62, 4), 0);
    harness_free(&h);
}

static void single_steps(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    make_idt(&h, S_CODE(0), 0x8e, 0);
    assert_true(isa_debug_step(c, ZYDIS_MNEMONIC_NOP, true));
    assert_false(isa_debug_step(c, ZYDIS_MNEMONIC_NOP, false));
    assert_false(isa_debug_step(c, ZYDIS_MNEMONIC_INT, true));
    assert_false(isa_debug_step(c, ZYDIS_MNEMONIC_SYSCALL, true));
    c->shadow = SHADOW_MOVSS;
    assert_false(isa_debug_step(c, ZYDIS_MNEMONIC_MOV, true));
    c->shadow = 0;
    c->sysflags = FL_TF;
    c->dr[6] = 0xffff0fff;
    assert_int_equal(isa_debug_trap(&h.isa, ISA_DR6_BS | 2), CPU_OK);
    assert_int_equal(c->dr[6], 0xffff4ff2);
    assert_int_equal(c->rip, HANDLER + 16);
    assert_int_equal(mem_get(&h, c->gpr[RSP] + 16, 8), FL_ONE | FL_TF);
    assert_int_equal(c->sysflags, 0);
    harness_free(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(every_gate),
        cmocka_unit_test(every_handler),
        cmocka_unit_test(bad_handler_selectors),
        cmocka_unit_test(long_mode_frame),
        cmocka_unit_test(long_mode_inner_ring_null_ss),
        cmocka_unit_test(from_compatibility_mode),
        cmocka_unit_test(bad_long_mode_stacks),
        cmocka_unit_test(protected_mode_frame),
        cmocka_unit_test(bad_protected_mode_stacks),
        cmocka_unit_test(sixteen_bit_tss),
        cmocka_unit_test(software_interrupts),
        cmocka_unit_test(overflow_and_bounds),
        cmocka_unit_test(faults_combine),
        cmocka_unit_test(interrupts_and_faults),
        cmocka_unit_test(error_codes_by_vector),
        cmocka_unit_test(faults_set_rf_and_cr2),
        cmocka_unit_test(taking_interrupts),
        cmocka_unit_test(breakpoints),
        cmocka_unit_test(single_steps),
    };
    return cmocka_run_group_tests_name("isa-sys-deliver", tests, NULL, NULL);
}
