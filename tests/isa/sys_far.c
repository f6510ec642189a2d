/*
 * Far and near control transfers: every code descriptor and call gate against rules written once more from the manual
 * (SDM vol. 3A, 5.8), frames, returns to outer rings, IRET.
 */
#include "sys_harness.h"

static const char kinds[] = "ddDDddDDxxRRccCC";

static bool is_code(unsigned access)
{
    return (access & 0x18) == 0x18;
}
static bool is_conforming(unsigned access)
{
    return strchr("cC", kinds[access & 15]);
}

/* Far JMP and CALL through the pointer at DATA, with the widest operand. */
static const char *far_hex(const struct harness *h, bool call)
{
    if (h->lm)
        return call ? "48 ff1c25 00000900" : "48 ff2c25 00000900";
    return call ? "ff1d 00000900" : "ff2d 00000900";
}

static void put_pointer(struct harness *h, u16 sel, u64 off)
{
    mem_put(h, DATA, 8, off);
    mem_put(h, DATA + (h->lm ? 8 : 4), 2, sel);
}

static int oracle_direct(unsigned access, unsigned cpl, unsigned rpl, bool bad_width)
{
    unsigned dpl = access >> 5 & 3;
    if (!is_code(access))
        return VEC_GP;
    if (is_conforming(access) ? dpl > cpl : (rpl > cpl || dpl != cpl))
        return VEC_GP;
    if (bad_width)
        return VEC_GP;
    return access & 0x80 ? 0 : VEC_NP;
}

static void check_direct(struct harness *h, unsigned i, bool call)
{
    struct cpu *c = &h->cpu;
    unsigned access = i & 255, cpl = i >> 8 & 3, rpl = i >> 10 & 3, ld = i >> 12 & 3;
    u16 sel = (u16)(S_TEST | rpl);
    /* system types other than gates and TSSs: those have their own test */
    if (!(access & 0x10) && strchr("\1\3\4\5\11\13\14", access & 15) && (access & 15))
        return;
    put_desc(h, GDT + S_TEST, 0, 0xfffff, (u8)access, (u8)(F_G | (ld & 1 ? F_L : 0) | (ld & 2 ? F_D : 0)));
    harness_ring(h, cpl);
    put_pointer(h, sel, 0x81000);
    int want = oracle_direct(access, cpl, rpl, h->lm && ld == 3);
    int r = run(h, far_hex(h, call));
    if (want) {
        assert_int_equal(r, CPU_FAULT);
        assert_fault(h, want, S_TEST);
        assert_int_equal(c->rip, CODE);
        return;
    }
    assert_int_equal(r, CPU_OK);
    assert_int_equal(c->rip, 0x81000);
    assert_int_equal(c->cpl, cpl);
    assert_int_equal(c->seg[SEG_CS].selector, S_TEST | cpl);
    assert_int_equal(c->seg[SEG_CS].attr, (access | 1) | (F_G | (ld & 1 ? F_L : 0) | (ld & 2 ? F_D : 0)) << 12);
    assert_int_equal(h->n_mode, 1);
    if (call) {
        unsigned w = h->lm ? 8 : 4;
        assert_int_equal(c->gpr[RSP], STACK(cpl) - 0x100 - 2 * w);
        assert_int_equal(mem_get(h, c->gpr[RSP], w), CODE + (h->lm ? 8 : 6));
        assert_int_equal(mem_get(h, c->gpr[RSP] + w, w), S_CODE(cpl) | cpl);
    }
}

static void direct_transfers(void **state)
{
    for (int lm = 0; lm < 2; lm++) {
        struct harness h;
        harness_init(&h, lm, false);
        for (unsigned i = 0; i < 256 * 4 * 4 * 4; i++) {
            check_direct(&h, i, false);
            check_direct(&h, i, true);
        }
        harness_free(&h);
    }
}

static void bad_pointers(void **state)
{
    for (int lm = 0; lm < 2; lm++) {
        struct harness h;
        harness_init(&h, lm, false);
        for (int call = 0; call < 2; call++) {
            put_pointer(&h, 3, 0);
            assert_run_fault(&h, far_hex(&h, call), VEC_GP, 0);
            put_pointer(&h, 0xfff8, 0);
            assert_run_fault(&h, far_hex(&h, call), VEC_GP, 0xfff8);
            put_desc(&h, GDT + S_TEST, 0, 0xfff, A_CODE(0), lm ? F_L : F_D);
            put_pointer(&h, S_TEST, lm ? 0x800000000000 : 0x1000);
            assert_run_fault(&h, far_hex(&h, call), VEC_GP, 0);
            put_pointer(&h, S_TEST, 0xfff);
            put_desc(&h, GDT + S_TEST, 0, 0xfff, A_CODE(0) & ~1, lm ? F_L : F_D);
            harness_ring(&h, 0);
            assert_int_equal(run_with_every_fault(&h, far_hex(&h, call)), call ? 4 : 3);
            harness_ring(&h, 0);
        }
        harness_free(&h);
    }
}

static void direct_pointer_in_the_instruction(void **state)
{
    struct harness h;
    harness_init(&h, false, false);
    assert_run_ok(&h, "ea 78563412 0800");
    assert_int_equal(h.cpu.rip, 0x12345678);
    harness_ring(&h, 0);
    assert_run_ok(&h, "66 9a 7856 3800"); /* 16-bit */
    assert_int_equal(h.cpu.rip, 0x5678);
    assert_int_equal(h.cpu.gpr[RSP], STACK(0) - 0x104);
    assert_int_equal(mem_get(&h, h.cpu.gpr[RSP], 4), S_CODE(0) << 16 | (CODE & 0xffff) | 6);
    harness_free(&h);
    /* AMD's take m16:32 whatever REX.W says */
    harness_init(&h, true, true);
    mem_put(&h, DATA, 4, 0x81000);
    mem_put(&h, DATA + 4, 2, S_CODE(0));
    assert_run_ok(&h, "48 ff2c25 00000900");
    assert_int_equal(h.cpu.rip, 0x81000);
    harness_free(&h);
}

/* Which system types are call gates, which are tasks (sys_task.c). */
static void gate_types(void **state)
{
    for (int lm = 0; lm < 2; lm++) {
        struct harness h;
        harness_init(&h, lm, false);
        for (unsigned i = 0; i < 16 * 2 * 4 * 4 * 4; i++) {
            unsigned type = i & 15, p = i >> 4 & 1, dpl = i >> 5 & 3, cpl = i >> 7 & 3, rpl = i >> 9 & 3;
            bool gate = type == 12 || (!lm && type == 4), task = !lm && (type == 1 || type == 5 || type == 9);
            put_call_gate(&h, GDT + S_TEST, S_CODE(cpl), task ? 10 : 0x81000, (u8)(type | dpl << 5 | p << 7), 0);
            harness_ring(&h, cpl);
            put_pointer(&h, (u16)(S_TEST | rpl), 0xdead);
            for (int call = 0; call < 2; call++) {
                int r = run(&h, far_hex(&h, call));
                if ((!gate && !task) || dpl < cpl || dpl < rpl) {
                    assert_int_equal(r, CPU_FAULT);
                    assert_fault(&h, VEC_GP, S_TEST);
                } else if (!p) {
                    assert_int_equal(r, CPU_FAULT);
                    assert_fault(&h, VEC_NP, S_TEST);
                } else if (task) {
                    /* a gate that names code, a TSS that is too small */
                    assert_int_equal(r, CPU_FAULT);
                    assert_fault(&h, type == 5 ? VEC_GP : VEC_TS, type == 5 ? (int)S_CODE(cpl) : S_TEST);
                } else {
                    assert_int_equal(r, CPU_OK);
                    assert_int_equal(h.cpu.rip, type == 4 ? 0x1000 : 0x81000);
                    harness_ring(&h, cpl);
                }
            }
        }
        harness_free(&h);
    }
}

static void check_gate_target(struct harness *h, unsigned i, bool call)
{
    unsigned access = i & 255, cpl = i >> 8 & 3, ld = i >> 10 & 3, dpl = access >> 5 & 3;
    u8 flags = (u8)(F_G | (ld & 1 ? F_L : 0) | (ld & 2 ? F_D : 0));
    bool level = is_conforming(access) || call ? dpl <= cpl : dpl == cpl;
    put_desc(h, GDT + S_TEST2, 0, 0xfffff, (u8)access, flags);
    put_call_gate(h, GDT + S_TEST, S_TEST2 | 3, 0x81000, 0xec, 0);
    harness_ring(h, cpl);
    put_pointer(h, S_TEST, 0);
    int r = run(h, far_hex(h, call));
    if (!is_code(access) || !level || (h->lm && ld != 1)) {
        assert_int_equal(r, CPU_FAULT);
        assert_fault(h, VEC_GP, S_TEST2);
    } else if (!(access & 0x80)) {
        assert_int_equal(r, CPU_FAULT);
        assert_fault(h, VEC_NP, S_TEST2);
    } else {
        assert_int_equal(r, CPU_OK);
        assert_int_equal(h->cpu.cpl, is_conforming(access) ? cpl : dpl);
        assert_int_equal(h->cpu.seg[SEG_CS].selector, S_TEST2 | h->cpu.cpl);
        assert_int_equal(mem_get(h, GDT + S_TEST2 + 5, 1), access | 1);
    }
}

static void gate_targets(void **state)
{
    for (int lm = 0; lm < 2; lm++) {
        struct harness h;
        harness_init(&h, lm, false);
        for (unsigned i = 0; i < 256 * 4 * 4; i++) {
            check_gate_target(&h, i, false);
            check_gate_target(&h, i, true);
        }
        put_call_gate(&h, GDT + S_TEST, 1, 0x81000, 0xec, 0);
        harness_ring(&h, 0);
        assert_run_fault(&h, far_hex(&h, true), VEC_GP, 0);
        harness_free(&h);
    }
}

static void call_gate_with_parameters(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, false, false);
    for (unsigned params = 0; params < 32; params++)
        for (unsigned w = 2; w <= 4; w += 2) {
            put_call_gate(&h, GDT + S_TEST, S_CODE(1), 0x81234, w == 4 ? 0xec : 0xe4, (u8)params);
            harness_ring(&h, 3);
            for (unsigned i = 0; i < params; i++)
                mem_put(&h, c->gpr[RSP] + i * w, w, 0x1000 + i);
            put_pointer(&h, S_TEST, 0);
            u64 old = c->gpr[RSP];
            assert_run_ok(&h, far_hex(&h, true));
            u64 sp = STACK(1) - (params + 4) * w;
            assert_int_equal(c->gpr[RSP], sp);
            assert_int_equal(c->seg[SEG_SS].selector, S_DATA(1) | 1);
            assert_int_equal(mem_get(&h, sp, w), (CODE + 6) & isa_mask(w));
            assert_int_equal(mem_get(&h, sp + w, w), S_CODE(3) | 3);
            for (unsigned i = 0; i < params; i++)
                assert_int_equal(mem_get(&h, sp + (2 + i) * w, w), 0x1000 + i);
            assert_int_equal(mem_get(&h, STACK(1) - 2 * w, w), old & isa_mask(w));
            assert_int_equal(mem_get(&h, STACK(1) - w, w), S_DATA(3) | 3);
            assert_int_equal(h.acc_of_write, ISA_ACC_SUPERVISOR);
        }
    /* no room on the inner stack: #SS names its segment */
    put_desc(&h, GDT + S_TEST2, 0, 0xfff, (u8)A_DATA(1), F_D);
    mem_put(&h, TSS + 16, 2, S_TEST2 | 1);
    harness_ring(&h, 3);
    assert_run_fault(&h, far_hex(&h, true), VEC_SS, S_TEST2);
    mem_put(&h, TSS + 16, 2, S_DATA(1) | 1);
    /* pointer, gate (twice: type first), code, TSS, stack segment, parameters, frame */
    put_call_gate(&h, GDT + S_TEST, S_CODE(1), 0x81234, 0xec, 2);
    harness_ring(&h, 3);
    assert_int_equal(run_with_every_fault(&h, far_hex(&h, true)), 8);
    harness_free(&h);
}

static void call_gate_in_long_mode(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    put_call_gate(&h, GDT + S_TEST, S_CODE(1), 0xffff800000001234, 0xec, 31); /* no parameters here */
    put_pointer(&h, S_TEST, 0);
    for (int compat = 0; compat < 2; compat++) {
        harness_ring(&h, 3);
        if (compat) {
            harness_ring32(&h, 3);
            mem_put(&h, DATA + 4, 2, S_TEST);
        }
        u64 old = c->gpr[RSP];
        u16 cs = c->seg[SEG_CS].selector;
        assert_run_ok(&h, compat ? "ff1d 00000900" : far_hex(&h, true));
        assert_int_equal(c->rip, 0xffff800000001234);
        assert_int_equal(c->cpl, 1);
        assert_int_equal(c->seg[SEG_SS].selector, 1);
        assert_int_equal(c->gpr[RSP], STACK(1) - 32);
        assert_int_equal(mem_get(&h, STACK(1) - 8, 8), S_DATA(3) | 3);
        assert_int_equal(mem_get(&h, STACK(1) - 16, 8), old);
        assert_int_equal(mem_get(&h, STACK(1) - 24, 8), cs);
    }
    mem_put(&h, GDT + S_TEST + 13, 1, 1);
    harness_ring(&h, 3);
    put_pointer(&h, S_TEST, 0);
    assert_run_fault(&h, far_hex(&h, true), VEC_GP, S_TEST);
    mem_put(&h, GDT + S_TEST + 13, 1, 0);
    mem_put(&h, TSS + 12, 8, 0x800000000000);
    assert_run_fault(&h, far_hex(&h, true), VEC_SS, 0);
    c->seg[SEG_TR].limit = 18;
    assert_run_fault(&h, far_hex(&h, true), VEC_TS, S_TSS);
    c->gdtr.limit = S_TEST + 14;
    assert_run_fault(&h, far_hex(&h, true), VEC_GP, S_TEST);
    harness_free(&h);
}

/* RETF with the widest operand: the frame is CS:RIP [parameters] [SS:RSP]. */
static void check_return(struct harness *h, unsigned i)
{
    struct cpu *c = &h->cpu;
    unsigned access = i & 255, cpl = i >> 8 & 3, rpl = i >> 10 & 3, dpl = access >> 5 & 3, w = h->lm ? 8 : 4;
    put_desc(h, GDT + S_TEST, 0, 0xfffff, (u8)access, F_G | (h->lm ? F_L : F_D));
    harness_ring(h, cpl);
    u64 sp = c->gpr[RSP];
    mem_put(h, sp, w, 0x81000);
    mem_put(h, sp + w, w, S_TEST | rpl);
    mem_put(h, sp + 2 * w + 8, w, 0x55000);
    mem_put(h, sp + 3 * w + 8, w, S_DATA(rpl) | rpl);
    int r = run(h, h->lm ? "48 ca0800" : "ca0800");
    if (!is_code(access) || rpl < cpl || (is_conforming(access) ? dpl > rpl : dpl != rpl)) {
        assert_int_equal(r, CPU_FAULT);
        assert_fault(h, VEC_GP, S_TEST);
    } else if (!(access & 0x80)) {
        assert_int_equal(r, CPU_FAULT);
        assert_fault(h, VEC_NP, S_TEST);
    } else {
        assert_int_equal(r, CPU_OK);
        assert_int_equal(c->rip, 0x81000);
        assert_int_equal(c->cpl, rpl);
        assert_int_equal(c->seg[SEG_CS].selector, S_TEST | rpl);
        assert_int_equal(c->gpr[RSP], rpl == cpl ? sp + 2 * w + 8 : 0x55008);
        if (rpl != cpl)
            assert_int_equal(c->seg[SEG_SS].selector, S_DATA(rpl) | rpl);
        /* the caller's data segments have its DPL: gone in an outer ring */
        assert_int_equal(c->seg[SEG_DS].attr & SEG_UNUSABLE, rpl == cpl ? 0 : SEG_UNUSABLE);
        assert_int_equal(c->seg[SEG_FS].selector, rpl == cpl ? S_DATA(cpl) | cpl : 0);
    }
}

static void far_returns(void **state)
{
    for (int lm = 0; lm < 2; lm++) {
        struct harness h;
        harness_init(&h, lm, false);
        for (unsigned i = 0; i < 256 * 4 * 4; i++)
            check_return(&h, i);
        harness_ring(&h, 0);
        mem_put(&h, h.cpu.gpr[RSP], 8, 0);
        mem_put(&h, h.cpu.gpr[RSP] + (lm ? 8 : 4), 8, 3);
        assert_run_fault(&h, lm ? "48 cb" : "cb", VEC_GP, 0);
        mem_put(&h, h.cpu.gpr[RSP] + (lm ? 8 : 4), 8, 0xfff8);
        assert_run_fault(&h, lm ? "48 cb" : "cb", VEC_GP, 0xfff8);
        harness_free(&h);
    }
}

static void outer_returns_keep_what_the_ring_may_use(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, false, false);
    isa_load_segment(&h.isa, SEG_DS, S_DATA(3) | 3);
    isa_load_segment(&h.isa, SEG_ES, S_CONF(0));
    isa_load_segment(&h.isa, SEG_FS, S_DATA(2));
    isa_segment_null(c, 2, &c->seg[SEG_GS]);
    u64 sp = c->gpr[RSP];
    mem_put(&h, sp, 4, 0x81000);
    mem_put(&h, sp + 4, 4, S_CODE(3) | 3);
    mem_put(&h, sp + 8, 4, 0x4fff0);
    mem_put(&h, sp + 12, 4, S_DATA(3) | 3);
    assert_run_ok(&h, "cb");
    assert_int_equal(c->seg[SEG_DS].selector, S_DATA(3) | 3);
    assert_int_equal(c->seg[SEG_ES].selector, S_CONF(0));
    assert_int_equal(c->seg[SEG_FS].selector, 0);
    assert_int_equal(c->seg[SEG_GS].selector, 2);
    harness_free(&h);
}

static void put_iret(struct harness *h, unsigned w, u64 rip, u16 cs, u64 flags, u64 sp, u16 ss)
{
    u64 at = h->cpu.gpr[RSP];
    const u64 v[] = {rip, cs, flags, sp, ss};
    for (unsigned i = 0; i < 5; i++)
        mem_put(h, at + i * w, w, v[i]);
}

static void iretq_stack_segments(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    for (unsigned i = 0; i < 256 * 4 * 2; i++) {
        unsigned access = i & 255, ring = i >> 8 & 3, dpl = access >> 5 & 3;
        unsigned rpl = i >> 10 ? ring : ring ^ 1;
        bool good = (access & 0x10) && kinds[access & 15] == 'D' && rpl == ring && dpl == ring;
        put_desc(&h, GDT + S_TEST, 0, 0xfffff, (u8)access, F_D | F_G);
        harness_ring(&h, 0);
        put_iret(&h, 8, 0x81000, (u16)(S_CODE(ring) | ring), FL_ONE, 0x123456789abcd, (u16)(S_TEST | rpl));
        int r = run(&h, "48cf");
        assert_int_equal(r, good && access & 0x80 ? CPU_OK : CPU_FAULT);
        if (r) {
            assert_fault(&h, good ? VEC_SS : VEC_GP, S_TEST);
        } else {
            assert_int_equal(c->gpr[RSP], 0x123456789abcd);
            assert_int_equal(c->cpl, ring);
        }
    }
    /* null: for 64-bit code below ring 3 */
    for (unsigned i = 0; i < 4 * 4 * 2; i++) {
        unsigned ring = i & 3, rpl = i >> 2 & 3, compat = i >> 4;
        bool ok = !compat && ring != 3 && rpl != 3;
        harness_ring(&h, 0);
        put_iret(&h, 8, 0x81000, (u16)((compat ? S_CODE32(ring) : S_CODE(ring)) | ring), FL_ONE, 0x5000, (u16)rpl);
        int r = run(&h, "48cf");
        assert_int_equal(r, ok ? CPU_OK : CPU_FAULT);
        if (!ok)
            assert_fault(&h, VEC_GP, 0);
    }
    harness_ring(&h, 0);
    put_iret(&h, 8, 0x81000, S_CODE(3) | 3, FL_ONE, 0x5000, S_DATA(3) | 3);
    /* three slots, code, two slots, stack segment */
    assert_int_equal(run_with_every_fault(&h, "48cf"), 4);
    harness_free(&h);
}

static void iret_flags(void **state)
{
    const u64 image = 0x3f7fd5 & ~FL_VM, arith = FL_ARITH;
    for (unsigned i = 0; i < 4 * 4 * 3; i++) {
        unsigned cpl = i & 3, iopl = i >> 2 & 3, w = 2u << (i >> 4);
        struct harness h;
        struct cpu *c = &h.cpu;
        harness_init(&h, true, false);
        harness_ring(&h, cpl);
        cpu_set_rflags(c, (u64)(iopl ^ 3) << 12);
        c->sysflags = (u64)iopl << 12;
        put_desc(&h, GDT + S_TEST, 0, 0xfffff, (u8)A_CODE(cpl), F_L | F_G);
        put_iret(&h, w, 0x1000, (u16)(S_TEST | cpl), image, 0x5000, (u16)(S_DATA(cpl) | cpl));
        assert_run_ok(&h, w == 8 ? "48cf" : w == 4 ? "cf" : "66cf");
        u64 want = arith | FL_TF | FL_DF | FL_NT;
        if (w > 2)
            want |= FL_RF | FL_AC | FL_ID;
        if (cpl <= iopl)
            want |= FL_IF;
        want |= cpl == 0 ? FL_IOPL : (u64)iopl << 12;
        if (cpl == 0 && w > 2)
            want |= FL_VIF | FL_VIP;
        assert_int_equal(cpu_rflags(c), want | FL_ONE);
        harness_free(&h);
    }
}

static void iret_in_protected_mode(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, false, false);
    u64 sp = c->gpr[RSP];
    put_iret(&h, 4, 0x81000, S_CODE(0), FL_ONE | FL_IF, 0x5000, 0xffff);
    assert_run_ok(&h, "cf"); /* same ring: no stack in the frame */
    assert_int_equal(c->gpr[RSP], sp + 12);
    assert_int_equal(cpu_rflags(c), FL_ONE | FL_IF);
    harness_ring(&h, 0);
    put_iret(&h, 4, 0x81000, S_CODE(3) | 3, FL_ONE | FL_IF, 0x45000, S_DATA(3) | 3);
    assert_run_ok(&h, "cf");
    assert_int_equal(c->gpr[RSP], 0x45000);
    assert_int_equal(c->cpl, 3);
    /* a 16-bit stack segment takes SP alone */
    harness_ring(&h, 0);
    put_desc(&h, GDT + S_TEST, 0, 0xffff, A_DATA(3), 0);
    put_iret(&h, 4, 0x81000, S_CODE(3) | 3, FL_ONE, 0x12345678, S_TEST | 3);
    assert_run_ok(&h, "cf");
    assert_int_equal(c->gpr[RSP], ((STACK(0) - 0x100) & 0xffff0000) | 0x5678);
    harness_ring(&h, 0);
    harness_free(&h);
}

static void iret_nt_and_nmi(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    c->nmi_blocked = 1;
    c->sysflags = FL_NT;
    assert_run_fault(&h, "48cf", VEC_GP, 0);
    assert_int_equal(c->nmi_blocked, 1);
    c->sysflags = 0;
    put_iret(&h, 8, 0x81000, S_CODE(0), FL_ONE, 0x5000, 0);
    assert_run_ok(&h, "48cf");
    assert_int_equal(c->nmi_blocked, 0);
    /* to compatibility mode and back is a matter of CS */
    put_iret(&h, 8, 0x81000, S_CODE32(3) | 3, FL_ONE, 0x45000, S_DATA(3) | 3);
    assert_run_ok(&h, "48cf");
    assert_false(cpu_code64(c));
    assert_int_equal(c->gpr[RSP], 0x45000);
    /* a return address that is not canonical */
    harness_ring(&h, 0);
    put_iret(&h, 8, 0x800000000000, S_CODE(3) | 3, FL_ONE, 0x45000, S_DATA(3) | 3);
    assert_run_fault(&h, "48cf", VEC_GP, 0);
    harness_free(&h);
}

static void conditions(void **state)
{
    for (unsigned fl = 0; fl < 32; fl++) {
        struct harness h;
        struct cpu *c = &h.cpu;
        bool cf = fl & 1, zf = fl & 2, sf = fl & 4, of = fl & 8, pf = fl & 16;
        const bool want[8] = {of, cf, zf, cf || zf, sf, pf, sf != of, zf || sf != of};
        harness_init(&h, true, false);
        for (unsigned cc = 0; cc < 16; cc++) {
            char hex[16];
            u64 flags = (cf ? FL_CF : 0) | (zf ? FL_ZF : 0) | (sf ? FL_SF : 0) | (of ? FL_OF : 0) | (pf ? FL_PF : 0);
            cpu_set_rflags(c, flags | FL_RF);
            bool taken = want[cc / 2] != (cc & 1);
            harness_ring(&h, 0);
            snprintf(hex, sizeof(hex), "%02x 10", 0x70 + cc);
            assert_run_ok(&h, hex);
            assert_int_equal(c->rip, CODE + 2 + (taken ? 0x10 : 0));
            assert_int_equal(c->sysflags & FL_RF, 0);
            harness_ring(&h, 0);
            snprintf(hex, sizeof(hex), "0f%02x f0ffffff", 0x80 + cc);
            assert_run_ok(&h, hex);
            assert_int_equal(c->rip, CODE + 6 - (taken ? 0x10 : 0));
        }
        harness_free(&h);
    }
}

static void loops(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    for (unsigned i = 0; i < 3 * 2 * 3; i++) {
        static const char *hex[] = {"e2 10", "e1 10", "e0 10"};
        unsigned form = i % 3, zf = i / 3 & 1, count = i / 6;
        bool taken = count != 1 && (form == 0 || (form == 1) == zf);
        harness_ring(&h, 0);
        cpu_set_rflags(c, zf ? FL_ZF : 0);
        c->gpr[RCX] = count;
        assert_run_ok(&h, hex[form]);
        assert_int_equal(c->gpr[RCX], (u64)count - 1);
        assert_int_equal(c->rip, CODE + 2 + (taken ? 0x10 : 0));
    }
    c->gpr[RCX] = 0x100000000;
    harness_ring(&h, 0);
    assert_run_ok(&h, "67e3 10"); /* jecxz */
    assert_int_equal(c->rip, CODE + 0x13);
    harness_ring(&h, 0);
    assert_run_ok(&h, "e3 10");
    assert_int_equal(c->rip, CODE + 2);
    harness_free(&h);
}

static void near_calls(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    u64 sp = c->gpr[RSP];
    assert_int_equal(run_with_every_fault(&h, "e8 00010000"), 1);
    assert_int_equal(c->rip, CODE + 0x105);
    assert_int_equal(c->gpr[RSP], sp - 8);
    assert_int_equal(mem_get(&h, sp - 8, 8), CODE + 5);
    assert_int_equal(run_with_every_fault(&h, "c2 1000"), 1);
    assert_int_equal(c->rip, CODE + 5);
    assert_int_equal(c->gpr[RSP], sp + 0x10);
    c->gpr[RAX] = 0x800000000000;
    assert_run_fault(&h, "ffd0", VEC_GP, 0);
    assert_run_fault(&h, "ffe0", VEC_GP, 0);
    assert_int_equal(c->gpr[RSP], sp + 0x10);
    mem_put(&h, sp + 0x10, 8, 0x8000000000000000);
    assert_run_fault(&h, "c3", VEC_GP, 0);
    mem_put(&h, DATA, 8, 0xffff800000000000);
    assert_run_ok(&h, "ff2425 00000900");
    assert_int_equal(c->rip, 0xffff800000000000);
    c->gpr[RSP] = 0x800000000000;
    assert_run_fault(&h, "c3", VEC_SS, 0);
    c->gpr[RSP] = 0x7ffffffffffc; /* half of the slot */
    assert_run_fault(&h, "c3", VEC_SS, 0);
    c->gpr[RSP] = 0xffff800000000004;
    assert_run_fault(&h, "e8 00000000", VEC_SS, 0);
    harness_free(&h);

    harness_init(&h, false, false);
    c->seg[SEG_CS].limit = CODE + 0x100;
    assert_run_fault(&h, "e8 fc000000", VEC_GP, 0);
    assert_run_ok(&h, "e8 fb000000");
    assert_int_equal(c->gpr[RSP], sp - 4);
    harness_ring(&h, 0);
    assert_run_ok(&h, "66 e9 0001"); /* 16-bit target */
    assert_int_equal(c->rip, (CODE + 4 + 0x100) & 0xffff);
    c->seg[SEG_SS].limit = 0xfff;
    assert_run_fault(&h, "c3", VEC_SS, 0);
    harness_free(&h);
}

static void sixteen_bit_stacks(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, false, false);
    c->seg[SEG_SS].attr &= ~SEG_DB;
    c->seg[SEG_SS].limit = 0xffff;
    c->seg[SEG_SS].base = 0x40000;
    c->gpr[RSP] = 0xabcd0002;
    assert_run_fault(&h, "e8 00000000", VEC_SS, 0); /* the slot itself would cross the limit */
    assert_int_equal(c->gpr[RSP], 0xabcd0002);
    c->gpr[RSP] = 0xabcd0000;
    assert_run_ok(&h, "e8 00000000");
    assert_int_equal(c->gpr[RSP], 0xabcdfffc);
    assert_int_equal(mem_get(&h, 0x4fffc, 4), CODE + 5);
    /* a frame that wraps goes slot by slot */
    c->gpr[RSP] = 0xabcd0004;
    assert_run_ok(&h, "9a 00100800 0800");
    assert_int_equal(c->gpr[RSP], 0xabcdfffc);
    assert_int_equal(mem_get(&h, 0x40000, 4), S_CODE(0));
    harness_free(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(direct_transfers),
        cmocka_unit_test(bad_pointers),
        cmocka_unit_test(direct_pointer_in_the_instruction),
        cmocka_unit_test(gate_types),
        cmocka_unit_test(gate_targets),
        cmocka_unit_test(call_gate_with_parameters),
        cmocka_unit_test(call_gate_in_long_mode),
        cmocka_unit_test(far_returns),
        cmocka_unit_test(outer_returns_keep_what_the_ring_may_use),
        cmocka_unit_test(iretq_stack_segments),
        cmocka_unit_test(iret_flags),
        cmocka_unit_test(iret_in_protected_mode),
        cmocka_unit_test(iret_nt_and_nmi),
        cmocka_unit_test(conditions),
        cmocka_unit_test(loops),
        cmocka_unit_test(near_calls),
        cmocka_unit_test(sixteen_bit_stacks),
    };
    return cmocka_run_group_tests_name("isa-sys-far", tests, NULL, NULL);
}
