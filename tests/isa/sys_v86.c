/*
 * Virtual-8086 mode against the tables of the manual (SDM vol. 3A, 20.2 and 20.3; table 20-2), written down once more: what
 * IOPL, CR4.VME, VIF, VIP and the redirection map make of each sensitive instruction; the way in and out.
 */
#include "sys_harness.h"

#define CS_SEL 0x8000u
#define IO_MAP 0x100u

static void enter(struct harness *h, unsigned iopl, u64 flags)
{
    static const u16 sel[] = {0x9000, CS_SEL, 0x2000, 0x9000, 0x9100, 0x9200};
    struct cpu *c = &h->cpu;
    harness_ring(h, 0);
    cpu_set_rflags(c, flags | FL_VM | (u64)iopl << 12);
    c->cpl = 3;
    for (unsigned i = 0; i < ARRAY_LEN(sel); i++)
        isa_segment_paragraph(c, sel[i], &c->seg[i]);
    c->gpr[RSP] = 0xabcd0800;
    c->rip = 0x10;
    struct error e = {0};
    if (cpu_record.check(c, &e) < 0)
        fail_msg("%s", e.msg);
}

static void init(struct harness *h)
{
    harness_init(h, false, false);
    h->model.cr4_mask |= CR4_VME | CR4_PVI;
    h->cpu.cr4 = 0;
    mem_put(h, TSS + 0x66, 2, IO_MAP);
    memset(h->mem + TSS + IO_MAP - 32, 0, 32);
    put_gate(h, 0x40, S_CODE(0), 0x82000, 0xee, 0);
    mem_put(h, 4 * 0x40, 4, 0x80050007);
}

static u64 stack16(struct harness *h, unsigned i)
{
    return mem_get(h, 0x20000 + (u16)h->cpu.gpr[RSP] + 2 * i, 2);
}

/* All of IOPL, VME, VIF, VIP, and an image of flags with IF and TF in turn. */
struct how {
    unsigned iopl;
    bool vme, vif, vip, wide, image_if, image_tf;
};

static struct how how_of(unsigned i)
{
    return (struct how){i & 3, i >> 2 & 1, i >> 3 & 1, i >> 4 & 1, i >> 5 & 1, i >> 6 & 1, i >> 7 & 1};
}
#define HOWS 256

static void start(struct harness *h, const struct how *w)
{
    h->cpu.cr4 = w->vme ? CR4_VME : 0;
    enter(h, w->iopl, FL_CF | (w->vif ? FL_VIF : 0) | (w->vip ? FL_VIP : 0));
}

static void popf_and_iret(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    init(&h);
    for (unsigned i = 0; i < HOWS * 2; i++) {
        struct how w = how_of(i);
        bool iret = i >= HOWS, virtual = w.vme && w.iopl < 3;
        unsigned size = w.wide ? 4 : 2;
        start(&h, &w);
        u64 image = FL_ONE | FL_ZF | FL_IOPL | FL_NT | (w.image_if ? FL_IF : 0) | (w.image_tf ? FL_TF : 0);
        if (w.wide)
            image |= FL_VIF | FL_VIP | FL_ID;
        u64 at = 0x20800, was = c->sysflags;
        if (iret) {
            mem_put(&h, at, size, 0x77);
            mem_put(&h, at + size, size, 0x8123);
            at += 2 * size;
        }
        mem_put(&h, at, size, image);
        int r = run(&h, iret ? (w.wide ? "66cf" : "cf") : w.wide ? "669d" : "9d");
        bool refused = w.iopl < 3 && (!w.vme || w.wide || w.image_tf || (w.image_if && w.vip));
        if (refused) {
            assert_int_equal(r, CPU_FAULT);
            assert_fault(&h, VEC_GP, 0);
            assert_int_equal(c->sysflags, was);
            assert_int_equal(c->gpr[RSP], 0xabcd0800);
            continue;
        }
        assert_int_equal(r, CPU_OK);
        u64 want = FL_ONE | FL_ZF | FL_NT | FL_VM | (u64)w.iopl << 12 | (w.vip ? FL_VIP : 0) | (w.wide ? FL_ID : 0) |
                   (w.image_tf ? FL_TF : 0);
        if (virtual)
            want |= w.image_if ? FL_VIF : 0;
        else
            want |= (w.image_if ? FL_IF : 0) | (w.vif ? FL_VIF : 0);
        assert_int_equal(cpu_rflags(c), want);
        assert_int_equal(c->gpr[RSP], 0xabcd0800 + (iret ? 3 : 1) * size);
        assert_int_equal(c->rip, iret ? 0x77 : w.wide ? 0x12 : 0x11);
        assert_int_equal(c->seg[SEG_CS].selector, iret ? 0x8123 : CS_SEL);
    }
    harness_free(&h);
}

static void pushf_cli_sti(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    init(&h);
    for (unsigned i = 0; i < HOWS / 4; i++) {
        struct how w = how_of(i);
        bool refused = w.iopl < 3 && (!w.vme || w.wide), virtual = w.vme && w.iopl < 3;
        start(&h, &w);
        int r = run(&h, w.wide ? "669c" : "9c");
        assert_int_equal(r, refused ? CPU_FAULT : CPU_OK);
        if (!refused) {
            u64 shown = FL_ONE | FL_CF | (virtual ? FL_IOPL | (w.vif ? FL_IF : 0) : (u64)w.iopl << 12);
            assert_int_equal(stack16(&h, 0), shown);
            if (w.wide)
                assert_int_equal(stack16(&h, 1) << 16, (w.vif ? FL_VIF : 0) | (w.vip ? FL_VIP : 0));
        }
        for (unsigned sti = 0; sti < 2; sti++) {
            start(&h, &w);
            c->sysflags |= w.iopl == 3 && !sti ? FL_IF : 0;
            r = run(&h, sti ? "fb" : "fa");
            if (w.iopl < 3 && (!w.vme || (sti && w.vip))) {
                assert_int_equal(r, CPU_FAULT);
                assert_fault(&h, VEC_GP, 0);
                continue;
            }
            assert_int_equal(r, CPU_OK);
            assert_int_equal(!!(c->sysflags & FL_IF), w.iopl == 3 && sti);
            assert_int_equal(!!(c->sysflags & FL_VIF), virtual ? sti : w.vif);
            c->shadow = 0;
        }
    }
    harness_free(&h);
}

/* Table 20-2: the six methods. */
static void software_interrupts(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    init(&h);
    for (unsigned i = 0; i < 64; i++) {
        unsigned iopl = i & 3;
        bool vme = i & 4, bit = i & 8, vif = i & 16, intf = i & 32, virtual = vme && iopl < 3;
        h.cpu.cr4 = vme ? CR4_VME : 0;
        mem_put(&h, TSS + IO_MAP - 32 + 0x40 / 8, 1, bit ? 1 : 0xfe);
        enter(&h, iopl, FL_NT | FL_TF | (vif ? FL_VIF : 0) | (intf ? FL_IF : 0));
        int r = run(&h, "cd40");
        if (vme && !bit) {
            assert_int_equal(r, CPU_OK);
            assert_int_equal(c->seg[SEG_CS].selector, 0x8005);
            assert_int_equal(c->rip, 7);
            assert_true(cpu_v86(c));
            assert_int_equal(stack16(&h, 0) | stack16(&h, 1) << 16, 0x12 | CS_SEL << 16);
            u64 shown = FL_ONE | FL_NT | FL_TF;
            shown |= virtual ? FL_IOPL | (vif ? FL_IF : 0) : (u64)iopl << 12 | (intf ? FL_IF : 0);
            assert_int_equal(stack16(&h, 2), shown);
            u64 want = FL_ONE | FL_NT | FL_VM | (u64)iopl << 12;
            want |= virtual ? (intf ? FL_IF : 0) : (vif ? FL_VIF : 0);
            assert_int_equal(cpu_rflags(c), want);
        } else if (iopl < 3) {
            assert_int_equal(r, CPU_FAULT);
            assert_fault(&h, VEC_GP, 0);
        } else {
            assert_int_equal(r, CPU_OK);
            assert_int_equal(c->rip, 0x82000);
            assert_false(cpu_v86(c));
        }
    }
    /* the map must be there: from 32 bytes before the I/O map on, within the TSS */
    c->cr4 = CR4_VME;
    enter(&h, 0, 0);
    mem_put(&h, TSS + 0x66, 2, 31);
    assert_run_fault(&h, "cd40", VEC_GP, 0);
    mem_put(&h, TSS + 0x66, 2, IO_MAP);
    c->seg[SEG_TR].limit = IO_MAP - 32 + 7;
    assert_run_fault(&h, "cd40", VEC_GP, 0);
    c->seg[SEG_TR].attr = SEG_P | DESC_TSS16_BUSY;
    c->seg[SEG_TR].limit = 0x1fff;
    assert_run_fault(&h, "cd40", VEC_GP, 0);
    harness_free(&h);
}

static void out_and_in(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    init(&h);
    for (unsigned kind = 0; kind < 3; kind++) {
        u64 flags = FL_IF | FL_CF | FL_RF;
        enter(&h, 1, flags);
        c->seg[SEG_TR].limit = 0x1fff;
        const int r = isa_deliver(&h.isa, kind == 0 ? ISA_EVENT_EXTERNAL : ISA_EVENT_EXCEPTION, 0x40);
        assert_int_equal(r, CPU_OK);
        u64 sp = STACK(0) - 36;
        assert_int_equal(c->gpr[RSP], sp);
        assert_int_equal(c->cpl, 0);
        assert_false(cpu_v86(c));
        static const u32 frame[] = {0x10, CS_SEL, 0, 0xabcd0800, 0x2000, 0x9000, 0x9000, 0x9100, 0x9200};
        for (unsigned i = 0; i < ARRAY_LEN(frame); i++)
            if (i != 2)
                assert_int_equal(mem_get(&h, sp + 4 * i, 4), frame[i]);
        assert_int_equal(mem_get(&h, sp + 8, 4) & ~FL_RF, FL_ONE | FL_VM | FL_IF | FL_CF | 1 << 12);
        for (unsigned s = 0; s <= SEG_GS; s++)
            if (s != SEG_CS && s != SEG_SS)
                assert_true((c->seg[s].attr & SEG_UNUSABLE) && c->seg[s].selector == 0);
        assert_int_equal(run_with_every_fault(&h, "cf"), 2);
        assert_true(cpu_v86(c));
        assert_int_equal(c->cpl, 3);
        assert_int_equal(c->rip, 0x10);
        assert_int_equal(c->gpr[RSP], 0xabcd0800);
        assert_int_equal(c->seg[SEG_GS].selector, 0x9200);
        assert_int_equal(c->seg[SEG_GS].base, 0x92000);
        assert_int_equal(c->seg[SEG_DS].limit, 0xffff);
        assert_int_equal(c->seg[SEG_DS].attr, 0xf3);
    }
    /* only ring 0 takes such events */
    enter(&h, 3, 0);
    put_gate(&h, 0x40, S_CODE(1), 0x82000, 0xee, 0);
    assert_run_fault(&h, "cd40", VEC_GP, (int)S_CODE(1));
    put_gate(&h, 0x40, S_CONF(0), 0x82000, 0xee, 0);
    assert_run_fault(&h, "cd40", VEC_GP, (int)S_CONF(0));
    /* EIP beyond FFFF */
    harness_ring(&h, 0);
    u64 sp = c->gpr[RSP];
    mem_put(&h, sp, 4, 0x10000);
    mem_put(&h, sp + 8, 4, FL_VM);
    assert_run_fault(&h, "cf", VEC_GP, 0);
    /* elsewhere VM can not be set */
    harness_ring(&h, 3);
    mem_put(&h, c->gpr[RSP], 4, 0x81000);
    mem_put(&h, c->gpr[RSP] + 4, 4, S_CODE(3) | 3);
    mem_put(&h, c->gpr[RSP] + 8, 4, FL_VM);
    assert_run_ok(&h, "cf");
    assert_false(cpu_v86(c));
    harness_free(&h);
}

/* The I/O map counts whatever IOPL is; privileged instructions are refused; those on descriptors do not exist. */
static void other_instructions(void **state)
{
    static const char *const refused[] = {"f4",   "0f22c0", "0f20c0", "0f06", "0f0117", "0f01f0",
                                          "0f30", "0f32",   "0f08",   "0f09", "0f013f", "0f23c0"};
    static const char *const unknown[] = {"0f02c0", "0f03c0", "0f00e0", "0f00e8", "0f00c0",
                                          "0f00c8", "0f00d0", "0f00d8", "63c0"};
    struct harness h;
    init(&h);
    for (unsigned iopl = 0; iopl < 4; iopl++) {
        enter(&h, iopl, 0);
        for (unsigned i = 0; i < ARRAY_LEN(refused); i++)
            assert_run_fault(&h, refused[i], VEC_GP, 0);
        for (unsigned i = 0; i < ARRAY_LEN(unknown); i++)
            assert_run_fault(&h, unknown[i], VEC_UD, -1);
        mem_put(&h, TSS + IO_MAP + 0x80 / 8, 2, 0xfffe);
        assert_run_ok(&h, "e480");
        assert_run_fault(&h, "e580", VEC_GP, 0);
        assert_run_fault(&h, "e481", VEC_GP, 0);
        /* the short forms do not ask for IOPL */
        put_gate(&h, VEC_BP, S_CODE(0), 0x82000, 0xee, 0);
        assert_run_ok(&h, "cc");
        assert_int_equal(h.cpu.rip, 0x82000);
    }
    harness_free(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(popf_and_iret), cmocka_unit_test(pushf_cli_sti),      cmocka_unit_test(software_interrupts),
        cmocka_unit_test(out_and_in),    cmocka_unit_test(other_instructions),
    };
    return cmocka_run_group_tests_name("isa-sys-v86", tests, NULL, NULL);
}
