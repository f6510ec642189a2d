/*
 * Segment registers and descriptors: every access byte with every CPL and RPL, against rules written down once more from
 * the manual's tables (SDM vol. 3A, table 3-1 and 5.7; vol. 2, MOV, LAR, LSL, VERR).
 */
#include "sys_harness.h"

/* What a code or data type is: d D data (D writable), x R code (R readable), c C conforming code. */
static const char kinds[] = "ddDDddDDxxRRccCC";

static char kind_of(unsigned access)
{
    return access & 0x10 ? kinds[access & 15] : 's';
}

/* The exception of a load into DS, ES, FS, GS; 0 for none. */
static int oracle_data(unsigned access, unsigned cpl, unsigned rpl)
{
    unsigned dpl = access >> 5 & 3;
    char k = kind_of(access);
    if (k == 's' || k == 'x' || k == 'c')
        return VEC_GP;
    if (k != 'C' && MAX(cpl, rpl) > dpl)
        return VEC_GP;
    return access & 0x80 ? 0 : VEC_NP;
}

static int oracle_ss(unsigned access, unsigned cpl, unsigned rpl)
{
    if (kind_of(access) != 'D' || rpl != cpl || (access >> 5 & 3) != cpl)
        return VEC_GP;
    return access & 0x80 ? 0 : VEC_SS;
}

static const struct {
    enum cpu_seg seg;
    const char *mov; /* mov seg, eax */
} movs[] = {{SEG_ES, "8ec0"}, {SEG_SS, "8ed0"}, {SEG_DS, "8ed8"}, {SEG_FS, "8ee0"}, {SEG_GS, "8ee8"}};

static void check_load(struct harness *h, unsigned i, unsigned access, unsigned cpl, unsigned rpl, u32 table, u16 ti)
{
    struct cpu *c = &h->cpu;
    u16 sel = (u16)(S_TEST | ti | rpl);
    put_desc(h, table + (sel & 0xfff8), 0x12345678, 0xabcde, (u8)access, F_D);
    harness_ring(h, cpl);
    c->shadow = 0;
    c->gpr[RAX] = 0xffff0000 | sel;
    struct cpu_segment old = c->seg[movs[i].seg];
    int want = movs[i].seg == SEG_SS ? oracle_ss(access, cpl, rpl) : oracle_data(access, cpl, rpl);
    int r = run(h, movs[i].mov);
    if (want) {
        assert_int_equal(r, CPU_FAULT);
        assert_fault(h, want, sel & 0xfffc);
        assert_memory_equal(&c->seg[movs[i].seg], &old, sizeof(old));
        assert_int_equal(c->rip, CODE);
        assert_int_equal(mem_get(h, table + (sel & 0xfff8) + 5, 1), access);
        return;
    }
    assert_int_equal(r, CPU_OK);
    assert_int_equal(c->rip, CODE + 2);
    assert_int_equal(c->seg[movs[i].seg].selector, sel);
    assert_int_equal(c->seg[movs[i].seg].base, 0x12345678);
    assert_int_equal(c->seg[movs[i].seg].limit, 0xabcde);
    assert_int_equal(c->seg[movs[i].seg].attr, (access | 1) | F_D << 12);
    assert_int_equal(c->shadow, movs[i].seg == SEG_SS ? SHADOW_MOVSS : 0);
    assert_int_equal(mem_get(h, table + (sel & 0xfff8) + 5, 1), access | 1);
}

static void every_load(struct harness *h, u32 table, u16 ti)
{
    for (unsigned access = 0; access < 256; access++)
        for (unsigned cpl = 0; cpl < 4; cpl++)
            for (unsigned rpl = 0; rpl < 4; rpl++)
                for (unsigned i = 0; i < ARRAY_LEN(movs); i++)
                    check_load(h, i, access, cpl, rpl, table, ti);
}

static void loads_follow_the_tables(void **state)
{
    for (int lm = 0; lm < 2; lm++) {
        struct harness h;
        harness_init(&h, lm, false);
        every_load(&h, GDT, 0);
        h.cpu.seg[SEG_LDTR] =
            (struct cpu_segment){.base = LDT, .limit = S_TEST + 7, .attr = SEG_P | DESC_LDT, .selector = S_LDT};
        every_load(&h, LDT, 4);
        harness_free(&h);
    }
}

static void granularity_scales_the_limit(void **state)
{
    struct harness h;
    harness_init(&h, false, false);
    put_desc(&h, GDT + S_TEST, 0, 0x12345000, 0x93, F_G);
    assert_int_equal(isa_load_segment(&h.isa, SEG_ES, S_TEST), CPU_OK);
    assert_int_equal(h.cpu.seg[SEG_ES].limit, 0x12345fff);
    assert_int_equal(h.cpu.seg[SEG_ES].attr, SEG_P | SEG_S | 3 | SEG_G);
    harness_free(&h);
}

static void table_limits(void **state)
{
    struct harness h;
    harness_init(&h, true, false);
    put_desc(&h, GDT + S_TEST, 0, 0xffff, 0x93, 0);
    h.cpu.gdtr.limit = S_TEST + 7;
    assert_int_equal(isa_load_segment(&h.isa, SEG_ES, S_TEST), CPU_OK);
    h.cpu.gdtr.limit = S_TEST + 6;
    assert_int_equal(isa_load_segment(&h.isa, SEG_ES, S_TEST | 3), CPU_FAULT);
    assert_fault(&h, VEC_GP, S_TEST);
    assert_int_equal(isa_load_segment(&h.isa, SEG_CS, S_CODE(0)), CPU_FAULT);
    assert_fault(&h, VEC_UD, -1);
    /* no LDT at all */
    assert_int_equal(isa_load_segment(&h.isa, SEG_ES, 0xc), CPU_FAULT);
    assert_fault(&h, VEC_GP, 0xc);
    /* the table itself is absent */
    h.absent = GDT;
    assert_int_equal(isa_load_segment(&h.isa, SEG_ES, S_DATA(0)), CPU_FAULT);
    assert_int_equal(h.cpu.fault.vector, VEC_PF);
    harness_free(&h);
}

static void null_selectors(void **state)
{
    for (int amd = 0; amd < 2; amd++) {
        struct harness h;
        harness_init(&h, true, amd);
        for (u16 sel = 0; sel < 4; sel++) {
            h.cpu.seg[SEG_FS].base = 0x1234;
            assert_int_equal(isa_load_segment(&h.isa, SEG_FS, sel), CPU_OK);
            assert_int_equal(h.cpu.seg[SEG_FS].selector, sel);
            assert_int_equal(h.cpu.seg[SEG_FS].attr, SEG_UNUSABLE);
            assert_int_equal(h.cpu.seg[SEG_FS].base, amd ? 0x1234 : 0);
        }
        for (unsigned cpl = 0; cpl < 4; cpl++)
            for (u16 sel = 0; sel < 4; sel++) {
                bool ok = cpl < 3 && (amd || sel == cpl);
                harness_ring(&h, cpl);
                assert_int_equal(isa_load_segment(&h.isa, SEG_SS, sel), ok ? CPU_OK : CPU_FAULT);
                if (!ok)
                    assert_fault(&h, VEC_GP, 0);
                harness_ring32(&h, cpl);
                assert_int_equal(isa_load_segment(&h.isa, SEG_SS, sel), CPU_FAULT);
                assert_fault(&h, VEC_GP, 0);
            }
        harness_free(&h);
    }
}

static void push_and_pop(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    u64 sp = c->gpr[RSP];
    memset(h.mem + sp - 32, 0xee, 32);
    assert_run_ok(&h, "0fa0"); /* push fs */
    assert_int_equal(c->gpr[RSP], sp - 8);
    assert_int_equal(mem_get(&h, sp - 8, 8), S_DATA(0));
    assert_run_ok(&h, "66 0fa8"); /* push gs, 16 bits */
    assert_int_equal(c->gpr[RSP], sp - 10);
    assert_run_ok(&h, "66 0fa9");
    assert_run_ok(&h, "0fa1");
    assert_int_equal(c->gpr[RSP], sp);
    mem_put(&h, sp, 8, S_TSS);
    assert_run_fault(&h, "0fa1", VEC_GP, S_TSS);
    assert_int_equal(c->gpr[RSP], sp);
    assert_int_equal(run_with_every_fault(&h, "0fa0"), 1);

    harness_ring32(&h, 0);
    memset(h.mem + sp - 32, 0xee, 32);
    assert_run_ok(&h, "1e"); /* push ds: Intel's write two bytes of four */
    assert_int_equal(c->gpr[RSP], sp - 4);
    assert_int_equal(mem_get(&h, sp - 4, 4), 0xeeee0000 | S_DATA(0));
    h.model.amd = true;
    assert_run_ok(&h, "1e");
    assert_int_equal(mem_get(&h, sp - 8, 4), S_DATA(0));
    u64 top = c->gpr[RSP];
    assert_run_ok(&h, "1f"); /* pop ds */
    assert_int_equal(c->shadow, 0);
    c->gpr[RSP] = top;
    assert_run_ok(&h, "17"); /* pop ss */
    assert_int_equal(c->shadow, SHADOW_MOVSS);
    harness_free(&h);
}

static void mov_from_segment(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    c->gpr[RAX] = c->gpr[RBX] = ~0ull;
    assert_run_ok(&h, "8cd8");
    assert_int_equal(c->gpr[RAX], S_DATA(0));
    assert_run_ok(&h, "66 8cdb");
    assert_int_equal(c->gpr[RBX], 0xffffffffffff0000 | S_DATA(0));
    mem_put(&h, DATA, 8, ~0ull);
    assert_run_ok(&h, "48 8c1c25 00000900"); /* to memory: 16 bits always */
    assert_int_equal(mem_get(&h, DATA, 8), 0xffffffffffff0000 | S_DATA(0));
    harness_free(&h);
}

static void far_pointers(void **state)
{
    static const struct {
        const char *hex;
        enum cpu_seg seg;
    } forms[] = {{"0fb205 00000900", SEG_SS},
                 {"0fb405 00000900", SEG_FS},
                 {"0fb505 00000900", SEG_GS},
                 {"c405 00000900", SEG_ES},
                 {"c505 00000900", SEG_DS}};
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, false, false);
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++) {
        mem_put(&h, DATA, 4, 0x89abcdef);
        mem_put(&h, DATA + 4, 2, S_DATA(0));
        c->seg[forms[i].seg].selector = 0;
        assert_int_equal(run_with_every_fault(&h, forms[i].hex), 2);
        assert_int_equal(c->gpr[RAX], 0x89abcdef);
        assert_int_equal(c->seg[forms[i].seg].selector, S_DATA(0));
        assert_int_equal(c->shadow, 0);
    }
    harness_free(&h);

    for (int amd = 0; amd < 2; amd++) {
        harness_init(&h, true, amd);
        mem_put(&h, DATA, 8, S_DATA(0) * 0x100000000ull | 0x55667788);
        mem_put(&h, DATA + 8, 2, S_DATA(0));
        assert_run_ok(&h, "48 0fb40425 00000900");
        assert_int_equal(c->gpr[RAX], amd ? 0x55667788 : S_DATA(0) * 0x100000000ull | 0x55667788);
        harness_free(&h);
    }
}

static void ldt_and_tr(void **state)
{
    for (int lm = 0; lm < 2; lm++) {
        struct harness h;
        struct cpu *c = &h.cpu;
        harness_init(&h, lm, false);
        for (unsigned access = 0; access < 256; access++) {
            unsigned type = access & 0x1f;
            bool ldt = type == 2, tss = type == 9 || (!lm && type == 1);
            put_system(&h, GDT + S_TEST, 0x4000, 0x1ff, (u8)access);
            c->gpr[RAX] = S_TEST;
            int r = run(&h, "0f00d0"); /* lldt ax */
            assert_int_equal(r, ldt && access & 0x80 ? CPU_OK : CPU_FAULT);
            if (r)
                assert_fault(&h, ldt ? VEC_NP : VEC_GP, S_TEST);
            r = run(&h, "0f00d8"); /* ltr ax */
            assert_int_equal(r, tss && access & 0x80 ? CPU_OK : CPU_FAULT);
            if (r)
                assert_fault(&h, tss ? VEC_NP : VEC_GP, S_TEST);
            else {
                assert_int_equal(mem_get(&h, GDT + S_TEST + 5, 1), access | 2);
                assert_int_equal(c->seg[SEG_TR].attr, access | 2);
            }
        }
        assert_int_equal(c->seg[SEG_LDTR].base, 0x4000);
        assert_int_equal(c->seg[SEG_LDTR].limit, 0x1ff);

        c->gpr[RAX] = S_LDT | 4;
        assert_run_fault(&h, "0f00d0", VEC_GP, S_LDT | 4);
        assert_run_fault(&h, "0f00d8", VEC_GP, S_LDT | 4);
        c->gpr[RAX] = 2;
        assert_run_fault(&h, "0f00d8", VEC_GP, 0);
        assert_run_ok(&h, "0f00d0");
        assert_int_equal(c->seg[SEG_LDTR].attr, SEG_UNUSABLE);
        harness_ring(&h, 1);
        assert_run_fault(&h, "0f00d0", VEC_GP, 0);
        assert_run_fault(&h, "0f00d8", VEC_GP, 0);
        harness_free(&h);
    }
}

static void wide_system_descriptors(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    c->gpr[RAX] = S_TEST;
    put_system(&h, GDT + S_TEST, 0xffff812345678000, 0xfff, 0x89);
    assert_int_equal(run_with_every_fault(&h, "0f00d8"), 2);
    assert_int_equal(c->seg[SEG_TR].base, 0xffff812345678000);
    put_system(&h, GDT + S_TEST, 0x1234567812345678, 0xfff, 0x89);
    assert_run_fault(&h, "0f00d8", VEC_GP, S_TEST);
    put_system(&h, GDT + S_TEST, 0x1000, 0xfff, 0x82);
    mem_put(&h, GDT + S_TEST + 13, 1, 4);
    assert_run_fault(&h, "0f00d0", VEC_GP, S_TEST);
    mem_put(&h, GDT + S_TEST + 13, 1, 0);
    c->gdtr.limit = S_TEST + 14;
    assert_run_fault(&h, "0f00d0", VEC_GP, S_TEST);
    c->gdtr.limit = S_TEST + 15;
    assert_run_ok(&h, "0f00d0");
    harness_free(&h);
}

static bool oracle_seen(unsigned access, unsigned cpl, unsigned rpl, const char *system)
{
    unsigned dpl = access >> 5 & 3;
    char k = kind_of(access);
    if (k == 's' && system[access & 15] != 'y')
        return false;
    return k == 'c' || k == 'C' || MAX(cpl, rpl) <= dpl;
}

static bool zf(const struct harness *h)
{
    return cpu_arith_to_flags(h->cpu.arith) & FL_ZF;
}

static void looking_at_descriptors(void **state)
{
    /* system types 0 to 15 that LAR and LSL accept, legacy and long mode */
    static const char *lar[2] = {"nyyyyynnnynyynnn", "nnynnnnnnynyynnn"};
    static const char *lsl[2] = {"nyyynnnnnynynnnn", "nnynnnnnnynynnnn"};
    static const char none[] = "nnnnnnnnnnnnnnnn";
    for (int lm = 0; lm < 2; lm++) {
        struct harness h;
        struct cpu *c = &h.cpu;
        harness_init(&h, lm, false);
        for (unsigned i = 0; i < 256 * 16; i++) {
            unsigned access = i & 255, cpl = i >> 8 & 3, rpl = i >> 10;
            char k = kind_of(access);
            put_desc(&h, GDT + S_TEST, 0x12345678, 0x6789a, (u8)access, F_D);
            mem_put(&h, GDT + S_TEST + 8, 8, 0);
            harness_ring(&h, cpl);
            c->gpr[RAX] = S_TEST | rpl;
            c->gpr[RBX] = 0x1111;
            bool seen = oracle_seen(access, cpl, rpl, lar[lm]);
            assert_run_ok(&h, "0f02d8");
            assert_int_equal(zf(&h), seen);
            assert_int_equal(c->gpr[RBX], seen ? 0x00460000 | access << 8 : 0x1111);
            c->gpr[RBX] = 0x1111;
            seen = oracle_seen(access, cpl, rpl, lsl[lm]);
            assert_run_ok(&h, "0f03d8");
            assert_int_equal(zf(&h), seen);
            assert_int_equal(c->gpr[RBX], seen ? 0x6789a : 0x1111);
            seen = oracle_seen(access, cpl, rpl, none);
            assert_run_ok(&h, "0f00e0"); /* verr ax */
            assert_int_equal(zf(&h), seen && k != 'x' && k != 'c');
            assert_run_ok(&h, "0f00e8"); /* verw ax */
            assert_int_equal(zf(&h), seen && k == 'D');
        }
        c->gpr[RAX] = 0;
        assert_run_ok(&h, "0f02d8");
        assert_false(zf(&h));
        c->gpr[RAX] = 0xfff8;
        assert_run_ok(&h, "0f00e0");
        assert_false(zf(&h));
        harness_free(&h);
    }
}

static void arpl(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, false, false);
    for (unsigned i = 0; i < 16; i++) {
        unsigned to = i & 3, from = i >> 2;
        c->gpr[RAX] = 0xabcd0040 | to;
        c->gpr[RBX] = 0x80 | from;
        assert_run_ok(&h, "63d8"); /* arpl ax, bx */
        assert_int_equal(c->gpr[RAX], 0xabcd0040 | MAX(to, from));
        assert_int_equal(zf(&h), to < from);
    }
    harness_free(&h);
}

static void table_registers(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    mem_put(&h, DATA, 2, 0x1234);
    mem_put(&h, DATA + 2, 8, 0xffff800012345678);
    assert_int_equal(run_with_every_fault(&h, "0f011c25 00000900"), 1); /* lidt */
    assert_int_equal(c->idtr.base, 0xffff800012345678);
    assert_int_equal(c->idtr.limit, 0x1234);
    memset(h.mem + DATA, 0, 16);
    assert_run_ok(&h, "0f010c25 00000900"); /* sidt */
    assert_int_equal(mem_get(&h, DATA, 2), 0x1234);
    assert_int_equal(mem_get(&h, DATA + 2, 8), 0xffff800012345678);
    mem_put(&h, DATA + 2, 8, 0x8000123456789abc);
    assert_run_fault(&h, "0f011425 00000900", VEC_GP, 0); /* lgdt */
    assert_int_equal(c->gdtr.base, GDT);
    harness_ring(&h, 2);
    assert_run_fault(&h, "0f011425 00000900", VEC_GP, 0);
    harness_free(&h);

    harness_init(&h, false, false);
    mem_put(&h, DATA, 8, 0x12345678aabbull);
    assert_run_ok(&h, "66 0f0115 00000900"); /* 16-bit: 24 bits of base */
    assert_int_equal(c->gdtr.base, 0x345678);
    assert_int_equal(c->gdtr.limit, 0xaabb);
    assert_run_ok(&h, "0f0115 00000900");
    assert_int_equal(c->gdtr.base, 0x12345678);
    memset(h.mem + DATA, 0xee, 16);
    assert_run_ok(&h, "66 0f0105 00000900"); /* sgdt stores all of it */
    assert_int_equal(mem_get(&h, DATA, 8), 0xeeee12345678aabb);
    harness_free(&h);
}

static void umip(void **state)
{
    static const char *forms[] = {"0f00c0", "0f00c8", "0f010425 00000900", "0f010c25 00000900", "0f01e0"};
    struct harness h;
    harness_init(&h, true, false);
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++)
        for (unsigned on = 0; on < 2; on++)
            for (unsigned cpl = 0; cpl < 4; cpl++) {
                h.cpu.cr4 = CR4_PAE | (on ? CR4_UMIP : 0);
                harness_ring(&h, cpl);
                if (on && cpl)
                    assert_run_fault(&h, forms[i], VEC_GP, 0);
                else
                    assert_run_ok(&h, forms[i]);
            }
    harness_free(&h);
}

static void stored_selectors(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, true, false);
    c->seg[SEG_LDTR].selector = 0x4321;
    c->gpr[RAX] = c->gpr[RBX] = ~0ull;
    assert_run_ok(&h, "48 0f00c0");
    assert_int_equal(c->gpr[RAX], 0x4321);
    assert_run_ok(&h, "66 0f00cb");
    assert_int_equal(c->gpr[RBX], 0xffffffffffff0000 | S_TSS);
    mem_put(&h, DATA, 8, 0);
    c->cr0 |= CR0_PG;
    assert_run_ok(&h, "0f012425 00000900"); /* smsw to memory: 16 bits */
    assert_int_equal(mem_get(&h, DATA, 8), c->cr0 & 0xffff);
    assert_run_ok(&h, "48 0f01e0");
    assert_int_equal(c->gpr[RAX], c->cr0);
    harness_free(&h);
}

/* isa_linear outside 64-bit mode: every type, around the limit. */
static void limits_and_types(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    gva_t va;
    harness_init(&h, false, false);
    for (unsigned type = 0; type < 16; type++)
        for (unsigned db = 0; db < 2; db++)
            for (unsigned write = 0; write < 2; write++) {
                bool down = strchr("dD", kinds[type]) && (type & 4);
                bool allowed = write ? kinds[type] == 'D' : kinds[type] != 'x' && kinds[type] != 'c';
                c->seg[SEG_DS] = (struct cpu_segment){
                    .base = 0xfffff000, .limit = 0x2fff, .attr = SEG_P | SEG_S | type | (db ? SEG_DB : 0)};
                u64 inside = down ? 0x3000 : 0x2ffc, beyond = down ? 0x2fff : 0x2ffd;
                assert_int_equal(isa_linear(c, SEG_DS, inside, 4, write, &va), allowed ? CPU_OK : CPU_FAULT);
                if (allowed)
                    assert_int_equal(va.v, (u32)(0xfffff000 + inside));
                assert_int_equal(isa_linear(c, SEG_DS, beyond, 4, write, &va), CPU_FAULT);
                assert_fault(&h, VEC_GP, 0);
                if (down && allowed) {
                    u64 top = db ? 0xffffffff : 0xffff;
                    assert_int_equal(isa_linear(c, SEG_DS, top - 3, 4, write, &va), CPU_OK);
                    assert_int_equal(isa_linear(c, SEG_DS, top - 2, 4, write, &va), CPU_FAULT);
                }
            }
    c->seg[SEG_SS].limit = 0xfff;
    assert_int_equal(isa_linear(c, SEG_SS, 0xffd, 4, false, &va), CPU_FAULT);
    assert_fault(&h, VEC_SS, 0);
    c->seg[SEG_DS].attr = SEG_UNUSABLE;
    assert_int_equal(isa_linear(c, SEG_DS, 0, 1, false, &va), CPU_FAULT);
    harness_free(&h);
}

static void canonical_addresses(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    gva_t va;
    harness_init(&h, true, false);
    c->seg[SEG_DS].base = 0x1000; /* ignored */
    c->seg[SEG_FS].base = 0x10;
    c->seg[SEG_FS].limit = 0;
    assert_int_equal(isa_linear(c, SEG_DS, 0x7ffffffffff8, 8, true, &va), CPU_OK);
    assert_int_equal(va.v, 0x7ffffffffff8);
    assert_int_equal(isa_linear(c, SEG_DS, 0x7ffffffffff9, 8, true, &va), CPU_FAULT);
    assert_fault(&h, VEC_GP, 0);
    assert_int_equal(isa_linear(c, SEG_SS, 0x800000000000, 8, true, &va), CPU_FAULT);
    assert_fault(&h, VEC_SS, 0);
    assert_int_equal(isa_linear(c, SEG_FS, 0xfffffffffffffff8, 8, true, &va), CPU_OK);
    assert_int_equal(va.v, 8);
    harness_free(&h);
}

static void effective_addresses(void **state)
{
    static const struct {
        const char *hex;
        u64 ea;
    } forms[] = {
        {"488d4c9010", 0x1000 + 4 * 0x20 + 0x10},          /* lea rcx, [rax+rdx*4+10h] */
        {"488d0d f8ffffff", CODE + 7 - 8},                 /* [rip-8] */
        {"67488d4b fe", (u32)(0xffffffff00000001ull - 2)}, /* [ebx-2] */
        {"488d0c25 000000f0", 0xfffffffff0000000},         /* [disp32] sign-extended */
    };
    struct harness h;
    struct isa_insn insn;
    harness_init(&h, true, false);
    h.cpu.gpr[RAX] = 0x1000;
    h.cpu.gpr[RDX] = 0x20;
    h.cpu.gpr[RBX] = 0xffffffff00000001;
    for (unsigned i = 0; i < ARRAY_LEN(forms); i++) {
        u8 b[16] = {0};
        unsigned n = 0, v, used;
        for (const char *p = forms[i].hex; sscanf(p, " %2x%n", &v, (int *)&used) == 1; p += used)
            b[n++] = (u8)v;
        assert_int_equal(isa_decode(ISA_MODE_64, b, n, &insn), ISA_DECODE_OK);
        assert_int_equal(isa_ea(&h.cpu, &insn), forms[i].ea);
    }
    harness_free(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(loads_follow_the_tables),
        cmocka_unit_test(granularity_scales_the_limit),
        cmocka_unit_test(table_limits),
        cmocka_unit_test(null_selectors),
        cmocka_unit_test(push_and_pop),
        cmocka_unit_test(mov_from_segment),
        cmocka_unit_test(far_pointers),
        cmocka_unit_test(ldt_and_tr),
        cmocka_unit_test(wide_system_descriptors),
        cmocka_unit_test(looking_at_descriptors),
        cmocka_unit_test(arpl),
        cmocka_unit_test(table_registers),
        cmocka_unit_test(umip),
        cmocka_unit_test(stored_selectors),
        cmocka_unit_test(limits_and_types),
        cmocka_unit_test(canonical_addresses),
        cmocka_unit_test(effective_addresses),
    };
    return cmocka_run_group_tests_name("isa-sys-segment", tests, NULL, NULL);
}
