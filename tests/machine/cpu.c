/* The state of a CPU: reset, flags, description, and what its record keeps and refuses. */
#include "machine/cpu/cpu_features.h"
#include "machine/cpu/msr.h"

#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

static struct cpu_model model;

static int setup(void **state)
{
    struct error e = {0};
    struct cpu *c = aligned_alloc(64, sizeof(*c));
    if (!c || cpu_model_make(&model, "host", 2000000000, 1, &e) < 0) {
        print_error("%s\n", e.msg);
        return -1;
    }
    memset(c, 0, sizeof(*c));
    c->model = &model;
    *state = c;
    return 0;
}
static int teardown(void **state)
{
    free(*state);
    return 0;
}

/* A CPU in 64-bit mode with something in every register. */
static void busy(struct cpu *c)
{
    cpu_reset(c);
    for (int i = 0; i < CPU_GPRS; i++)
        c->gpr[i] = 0x0101010101010101ull * (u64)(i + 1);
    c->rip = 0xffffffff81000000ull;
    cpu_set_rflags(c, FL_CF | FL_ZF | FL_IF | FL_OF | FL_ID);
    c->cr0 = CR0_PE | CR0_MP | CR0_ET | CR0_NE | CR0_WP | CR0_AM | CR0_PG;
    c->cr2 = 0xdeadbeefull;
    c->cr3 = 0x1234000;
    c->cr4 = model.cr4_mask;
    c->cr8 = 9;
    c->efer = EFER_SCE | EFER_LME | EFER_LMA | EFER_NXE;
    c->xcr0 = model.xcr0_mask;
    c->seg[SEG_CS].attr |= SEG_L | SEG_G;
    c->seg[SEG_CS].base = 0;
    c->seg[SEG_CS].limit = 0xffffffff;
    c->seg[SEG_GS].base = 0xffff888000000000ull;
    c->seg[SEG_DS].attr |= SEG_UNUSABLE;
    c->gdtr.base = 0xfffffe0000001000ull;
    c->nmi_blocked = 1;
    c->shadow = SHADOW_STI;
    c->msr.lstar = 0xffffffff81800000ull;
    c->msr.star = 0x0023001000000000ull;
    c->msr.kvm_system_time = 0x7001;
    cpu_msr_firmware(c);
    memset(c->fpu.zmm[3].b, 0x5a, 16);
    c->fpu.fx[32] = 7;
    c->tsc_offset = 42;
}

static void test_reset(void **state)
{
    struct cpu *c = *state;
    busy(c);
    c->id = 5;
    cpu_attention_set(c, ATTN_REQUEST | ATTN_INTR);
    cpu_reset(c);
    assert_int_equal(c->rip, 0xfff0);
    assert_int_equal(cpu_rflags(c), 2);
    assert_int_equal(c->cr0, 0x60000010);
    assert_int_equal(c->seg[SEG_CS].selector, 0xf000);
    assert_int_equal(c->seg[SEG_CS].base, 0xffff0000);
    assert_int_equal(c->seg[SEG_CS].limit, 0xffff);
    assert_int_equal(c->cr2 | c->cr3 | c->cr4 | c->efer, 0);
    assert_int_equal(c->xcr0, 1);
    assert_int_equal(c->dr[6], 0xffff0ff0);
    assert_int_equal(c->dr[7], 0x400);
    assert_int_equal(c->msr.pat, 0x0007040600070406ull);
    assert_int_equal(*cpu_mxcsr(&c->fpu), 0x1f80);
    assert_int_equal(c->fpu.fx[0] | c->fpu.fx[1] << 8, 0x37f);
    assert_int_equal(c->gpr[RDX], cpu_cpuid(c, 1, 0).eax);
    assert_int_equal(c->gpr[RAX] | c->gpr[RSP], 0);
    assert_int_equal(c->id, 5);
    assert_ptr_equal(c->model, &model);
    assert_int_equal(c->attention, ATTN_REQUEST);
    c->id = 0;
    c->attention = 0;
}

static void test_flags(void **state)
{
    struct cpu *c = *state;
    const u64 all = FL_ARITH | FL_SYS | FL_ONE;
    for (int bit = 0; bit < 64; bit++) {
        cpu_set_rflags(c, BIT(bit));
        assert_int_equal(cpu_rflags(c), (BIT(bit) & all) | FL_ONE);
    }
    cpu_set_rflags(c, ~0ull);
    assert_int_equal(cpu_rflags(c), all);
    cpu_reset(c);
}

/* What an INIT takes and what it leaves; where a start-up IPI begins. */
static void test_init_and_startup(void **state)
{
    struct cpu *c = *state, was = {0};
    busy(c);
    c->msr.kvm_steal_time = 0x1001;
    was = *c;
    cpu_init_reset(c);
    assert_int_equal(c->rip, 0xfff0);
    assert_int_equal(c->seg[SEG_CS].base, 0xffff0000);
    assert_int_equal(c->cr0, CR0_ET | (was.cr0 & (CR0_CD | CR0_NW)));
    assert_int_equal(c->cr3 | c->cr4 | c->efer | c->cpl | c->nmi_blocked | c->shadow, 0);
    assert_int_equal(cpu_rflags(c), FL_ONE);
    assert_int_equal(c->gpr[R15] | c->gpr[RAX], 0);
    assert_int_not_equal(c->gpr[RDX], 0);
    assert_int_equal(c->xcr0, was.xcr0);
    assert_memory_equal(&c->fpu, &was.fpu, sizeof(was.fpu));
    assert_int_equal(c->msr.lstar, was.msr.lstar);
    assert_int_equal(c->tsc_offset, was.tsc_offset);
    assert_int_equal(c->msr.kvm_steal_time, 0);
    cpu_startup(c, 0x9a);
    assert_int_equal(c->seg[SEG_CS].selector, 0x9a00);
    assert_int_equal(c->seg[SEG_CS].base, 0x9a000);
    assert_int_equal(c->seg[SEG_CS].limit, 0xffff);
    assert_int_equal(c->rip, 0);
    struct error e = {0};
    assert_int_equal(cpu_record.check(c, &e), 0);
    busy(c);
}

static void test_unimplemented(void **state)
{
    struct cpu *c = *state;
    assert_int_equal(cpu_unimplemented(c, "mode %d", 7), CPU_UNIMPLEMENTED);
    assert_string_equal(c->stop_reason, "mode 7");
    assert_int_equal(cpu_unimplemented(c, "%0300d", 1), CPU_UNIMPLEMENTED);
    assert_int_equal(strlen(c->stop_reason), sizeof(c->stop_reason) - 1);
}

static void test_describe(void **state)
{
    struct cpu *c = *state;
    char text[4096], small[100];
    busy(c);
    cpu_describe(c, text, sizeof(text));
    assert_non_null(strstr(text, "RIP=ffffffff81000000"));
    assert_non_null(strstr(text, "R15=1010101010101010"));
    assert_non_null(strstr(text, " IF"));
    assert_non_null(strstr(text, "64-bit"));
    assert_non_null(strstr(text, "STI shadow"));
    assert_null(strstr(text, "\n\n"));
    /* any length is safe, and yields the beginning of the whole */
    for (size_t len = 0; len <= sizeof(small); len++) {
        memset(small, 'x', sizeof(small));
        cpu_describe(c, small, len);
        assert_true(!len || (strlen(small) == len - 1 && !memcmp(small, text, len - 1)));
        if (len < sizeof(small))
            assert_int_equal(small[len], 'x');
    }
}

static struct rec_view view_of(const struct rec_buf *b)
{
    struct rec_view v;
    size_t pos = 0;
    struct error e = {0};
    assert_int_equal(rec_next(b->data, b->len, &pos, &v, &e), 1);
    return v;
}

static void test_record_round_trip(void **state)
{
    struct cpu *c = *state, *d = aligned_alloc(64, sizeof(*d));
    struct rec_buf b = {0};
    struct error e = {0};
    busy(c);
    c->nmi_pending = 1;
    assert_int_equal(rec_save(&b, &cpu_record, 0, c), 0);
    memset(d, 0, sizeof(*d));
    d->model = &model;
    d->id = 3;
    cpu_reset(d);
    struct rec_view v = view_of(&b);
    if (rec_load(&v, &cpu_record, d, &e) < 0)
        fail_msg("%s", e.msg);
    assert_int_equal(d->id, 3);
    assert_int_equal(d->attention, ATTN_NMI);
    d->id = c->id;
    d->attention = c->attention;
    memcpy(&d->fault, &c->fault, sizeof(c->fault));
    memcpy(d->stop_reason, c->stop_reason, sizeof(c->stop_reason));
    assert_memory_equal(c, d, sizeof(*c));
    rec_buf_free(&b);
    free(d);
    c->nmi_pending = 0;
}

/* Each state that no CPU can have: one change to a good one, and the record is refused. */
struct bad {
    const char *what;
    void (*spoil)(struct cpu *c);
};
#define BAD(name, statement)              \
    static void bad_##name(struct cpu *c) \
    {                                     \
        statement;                        \
    }
BAD(rflags, c->sysflags |= BIT(40))
BAD(arith, c->arith |= 0x2000)
BAD(arith_one, c->arith &= ~0x200)
BAD(cpl, c->cpl = 4)
BAD(shadow, c->shadow = 4)
BAD(halted, c->halted = 2)
BAD(rip, c->seg[SEG_CS].attr &= ~(u32)SEG_L)
BAD(dr4, c->dr[4] = 1)
BAD(dr7, c->dr[7] |= BIT(32))
BAD(cr0_pg, c->cr0 &= ~CR0_PE)
BAD(cr0_nw, c->cr0 |= CR0_NW)
BAD(cr0_et, c->cr0 &= ~CR0_ET)
BAD(cr0_reserved, c->cr0 |= BIT(7))
BAD(cr0_high, c->cr0 |= BIT(32))
BAD(cr3, c->cr3 |= BIT(60))
BAD(cr4_la57, c->cr4 |= CR4_LA57)
BAD(cr4_pke, c->cr4 |= CR4_PKE)
BAD(cr4_vmx, c->cr4 |= BIT(13))
BAD(cr4_pae, c->cr4 &= ~CR4_PAE)
BAD(cr8, c->cr8 = 16)
BAD(efer_lma, c->efer &= ~EFER_LMA)
BAD(efer_lme, c->efer &= ~EFER_LME)
BAD(efer_svme, c->efer |= BIT(12))
BAD(vm, c->sysflags |= FL_VM)
BAD(cs_data, c->seg[SEG_CS].attr &= ~SEG_CODE)
BAD(cs_unusable, c->seg[SEG_CS].attr |= SEG_UNUSABLE)
BAD(cs_l_and_d, c->seg[SEG_CS].attr |= SEG_DB)
BAD(seg_attr, c->seg[SEG_ES].attr |= BIT(9))
BAD(seg_base, c->seg[SEG_SS].base = BIT(32))
BAD(gs_base, c->seg[SEG_GS].base = 0x800000000000)
BAD(limit_g, c->seg[SEG_CS].limit = 0xfffff0ff)
BAD(limit_bytes, c->seg[SEG_ES].limit = 0x100000)
BAD(seg_reserved, c->seg[SEG_ES].reserved[1] = 1)
BAD(tr, c->seg[SEG_TR].attr = SEG_P | 9)
BAD(ldtr, c->seg[SEG_LDTR].attr = SEG_P | SEG_S | 2)
BAD(gdtr, c->gdtr.base = BIT(50))
BAD(idtr, c->idtr.base = BIT(63))
BAD(mxcsr, *cpu_mxcsr(&c->fpu) |= BIT(31))
BAD(xcr0_x87, c->xcr0 &= ~1ull)
BAD(xcr0_avx_alone, c->xcr0 = XCR0_X87 | XCR0_AVX)
BAD(xcr0_pkru, c->xcr0 |= BIT(9))
BAD(xcr0_part, c->xcr0 = XCR0_X87 | XCR0_SSE | XCR0_AVX | XCR0_OPMASK)
BAD(lstar, c->msr.lstar = BIT(47))
BAD(sfmask, c->msr.sfmask = BIT(32))
BAD(pat, c->msr.pat = 2)
BAD(mtrr, c->msr.mtrr_base[7] = 3)
BAD(mtrr_mask, c->msr.mtrr_mask[0] = 1)
BAD(mtrr_fixed, c->msr.mtrr_fixed[10] = BIT(63))
BAD(misc_enable, c->msr.misc_enable |= BIT(34))
BAD(pv_eoi, c->msr.kvm_pv_eoi = 3)
BAD(unhalt, c->unhalt = 2)
BAD(tsc_aux, c->msr.tsc_aux = BIT(32))

#define ROW(name)         \
    {                     \
#name, bad_##name \
    }
static const struct bad bads[] = {
    ROW(rflags),      ROW(arith),       ROW(arith_one),  ROW(cpl),          ROW(shadow),
    ROW(halted),      ROW(rip),         ROW(dr4),        ROW(dr7),          ROW(cr0_pg),
    ROW(cr0_nw),      ROW(cr0_et),      ROW(cr0_high),   ROW(cr0_reserved), ROW(cr3),
    ROW(cr4_la57),    ROW(cr4_pke),     ROW(cr4_vmx),    ROW(cr4_pae),      ROW(cr8),
    ROW(efer_lma),    ROW(efer_lme),    ROW(efer_svme),  ROW(vm),           ROW(cs_data),
    ROW(cs_unusable), ROW(seg_attr),    ROW(cs_l_and_d), ROW(seg_base),     ROW(gs_base),
    ROW(limit_g),     ROW(limit_bytes), ROW(tr),         ROW(seg_reserved), ROW(ldtr),
    ROW(gdtr),        ROW(idtr),        ROW(mxcsr),      ROW(xcr0_x87),     ROW(xcr0_avx_alone),
    ROW(xcr0_pkru),   ROW(xcr0_part),   ROW(lstar),      ROW(sfmask),       ROW(pat),
    ROW(mtrr),        ROW(mtrr_mask),   ROW(mtrr_fixed), ROW(misc_enable),  ROW(pv_eoi),
    ROW(tsc_aux),     ROW(unhalt),
};

static void test_record_refusals(void **state)
{
    struct cpu *c = *state, *d = aligned_alloc(64, sizeof(*d)), *before = aligned_alloc(64, sizeof(*d));
    memset(d, 0, sizeof(*d));
    d->model = &model;
    busy(d);
    for (size_t i = 0; i < ARRAY_LEN(bads); i++) {
        struct rec_buf b = {0};
        struct error e = {0};
        if (bads[i].spoil == bad_misc_enable && model.amd)
            continue; /* no such register there */
        busy(c);
        bads[i].spoil(c);
        assert_int_equal(rec_save(&b, &cpu_record, 0, c), 0);
        struct rec_view v = view_of(&b);
        memcpy(before, d, sizeof(*d));
        int r = rec_load(&v, &cpu_record, d, &e);
        if (r == 0)
            fail_msg("%s: loaded", bads[i].what);
        assert_true(r < 0 && e.msg[0]);
        assert_memory_equal(before, d, sizeof(*d));
        rec_buf_free(&b);
    }
    free(before);
    free(d);
    busy(c);
}

/* PAE paging's registers, and waiting for a start-up IPI, are the second version's: checked where they count, and absent from what the first one wrote;
   a kick that waits for its HLT is the third's. */
static void test_record_of_legacy_modes(void **state)
{
    struct cpu *c = *state;
    struct rec_buf b = {0}, old = {0};
    struct error e = {0};
    cpu_reset(c);
    c->cr0 = CR0_PE | CR0_PG | CR0_ET;
    c->cr4 = CR4_PAE;
    c->pdpte[2] = 0x5001;
    c->waits_startup = 1;
    assert_int_equal(rec_save(&b, &cpu_record, 0, c), 0);
    struct rec_view v = view_of(&b);
    c->pdpte[2] = 0;
    c->waits_startup = 0;
    assert_int_equal(rec_load(&v, &cpu_record, c, &e), 0);
    assert_int_equal(c->pdpte[2], 0x5001);
    assert_int_equal(c->waits_startup, 1);
    assert_int_equal(rec_save_raw(&old, cpu_record.type, 1, 0, v.payload,
                                  v.len - sizeof(c->pdpte) - sizeof(c->waits_startup) - sizeof(c->unhalt)),
                     0);
    v = view_of(&old);
    assert_int_equal(rec_load(&v, &cpu_record, c, &e), 0);
    static const u64 bad[] = {3, 5, 0x21, 0x101, BIT(63) | 1};
    for (unsigned i = 0; i < ARRAY_LEN(bad); i++) {
        c->pdpte[1] = bad[i];
        assert_true(cpu_record.check(c, &e) < 0);
        c->cr4 = 0; /* without PAE they are nothing */
        assert_int_equal(cpu_record.check(c, &e), 0);
        c->cr4 = CR4_PAE;
    }
    c->pdpte[1] = 0;
    /* virtual-8086 mode has a data segment in CS, other modes have not */
    c->seg[SEG_CS].attr = 0xf3;
    assert_true(cpu_record.check(c, &e) < 0);
    c->sysflags |= FL_VM;
    assert_true(cpu_record.check(c, &e) < 0);
    c->cpl = 3;
    assert_int_equal(cpu_record.check(c, &e), 0);
    rec_buf_free(&b);
    rec_buf_free(&old);
    busy(c);
}

/* A machine without AVX-512 must not take state that has some. */
static void test_record_of_a_richer_cpu(void **state)
{
    struct cpu *c = *state;
    static struct cpu_model small;
    struct rec_buf b = {0};
    struct error e = {0};
    assert_int_equal(cpu_model_make(&small, "x86-64-v2", 2000000000, 1, &e), 0);
    busy(c);
    c->cr4 &= small.cr4_mask;
    c->xcr0 = XCR0_X87 | XCR0_SSE;
    assert_int_equal(rec_save(&b, &cpu_record, 0, c), 0);
    struct rec_view v = view_of(&b);
    c->model = &small;
    assert_int_equal(rec_check(&v, &cpu_record, c, &e), 0);
    rec_buf_free(&b);
    for (int i = 0; i < 3; i++) {
        busy(c);
        c->xcr0 = XCR0_X87 | XCR0_SSE;
        c->cr4 &= small.cr4_mask;
        *(i == 0 ? &c->fpu.zmm[2].b[16] : i == 1 ? &c->fpu.zmm[16].b[0] : (u8 *)&c->fpu.k[3]) = 1;
        assert_int_equal(rec_save(&b, &cpu_record, 0, c), 0);
        v = view_of(&b);
        e = (struct error){0};
        assert_true(rec_check(&v, &cpu_record, c, &e) < 0);
        rec_buf_free(&b);
    }
    c->model = &model;
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_reset),
        cmocka_unit_test(test_flags),
        cmocka_unit_test(test_init_and_startup),
        cmocka_unit_test(test_unimplemented),
        cmocka_unit_test(test_describe),
        cmocka_unit_test(test_record_round_trip),
        cmocka_unit_test(test_record_refusals),
        cmocka_unit_test(test_record_of_legacy_modes),
        cmocka_unit_test(test_record_of_a_richer_cpu),
    };
    return cmocka_run_group_tests_name("machine/cpu", tests, setup, teardown);
}
