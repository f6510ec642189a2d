/*
 * Task switches: that a fault in the old task changes nothing of the CPU, wherever it comes; busy bits, links, NT and TS for
 * each way to switch and each kind of TSS; faults of the new task. What each check raises is a guest's business
 * (tests/guests/tasks.c).
 */
#include "sys_harness.h"

#define NEW     0x6000u /* the other TSS */
#define NEW_EIP 0x81000u

enum how { JMP, CALL, IRET, INT };

/* Offsets in a TSS of either kind. */
static void put_task(struct harness *h, bool wide)
{
    memset(h->mem + NEW, 0, 104);
    if (!wide) {
        u16 image[22] = {0xdead, 0,    0,    0,    0,      0,    0,    0x1000, FL_ONE | FL_CF,
                         0xc0,   0xc1, 0xc2, 0xc3, 0x4000, 0xc5, 0xc6, 0xc7};
        image[17] = S_DATA(3) | 3, image[18] = S_CODE(3) | 3, image[19] = S_DATA(3) | 3, image[20] = S_DATA(3) | 3;
        memcpy(h->mem + NEW, image, sizeof(image));
        return;
    }
    mem_put(h, NEW, 2, 0xdead);
    mem_put(h, NEW + 32, 4, NEW_EIP);
    mem_put(h, NEW + 36, 4, FL_ONE | FL_CF | FL_RF);
    for (unsigned i = 0; i < 8; i++)
        mem_put(h, NEW + 40 + 4 * i, 4, i == RSP ? 0x45000 : 0xc0 + i);
    for (unsigned i = 0; i < 6; i++)
        mem_put(h, NEW + 72 + 4 * i, 2, (i == SEG_CS ? S_CODE(3) : S_DATA(3)) | 3);
}

static void prepare(struct harness *h, enum how how, bool from_wide, bool to_wide)
{
    struct cpu *c = &h->cpu;
    unsigned busy = how == IRET ? 2 : 0;
    harness_ring(h, 0);
    cpu_set_rflags(c, FL_ZF | (how == IRET ? FL_NT : 0));
    c->cr0 &= ~CR0_TS;
    c->dr[7] = 0x7ff;
    memset(h->mem + TSS, 0, 104);
    put_system(h, GDT + S_TSS, TSS, 0x1fff, from_wide ? 0x8b : 0x83);
    put_system(h, GDT + S_TEST, NEW, 103, (u8)((to_wide ? 0x89 : 0x81) | busy));
    c->seg[SEG_TR] =
        (struct cpu_segment){.base = TSS, .limit = 0x1fff, .attr = SEG_P | (from_wide ? 11u : 3u), .selector = S_TSS};
    put_task(h, to_wide);
    mem_put(h, DATA, 4, 0);
    mem_put(h, DATA + 4, 2, S_TEST);
    put_gate(h, 0x40, S_TEST, 0, 0x85, 0);
    if (how == IRET)
        mem_put(h, TSS, 2, S_TEST);
}

static const char *const code[] = {[JMP] = "ff2d 00000900", [CALL] = "ff1d 00000900", [IRET] = "cf", [INT] = "cd40"};

static void check_switched(struct harness *h, enum how how, bool from_wide, bool to_wide)
{
    struct cpu *c = &h->cpu;
    bool nested = how == CALL || how == INT;
    unsigned len = how == IRET ? 1 : how == INT ? 2 : 6;
    assert_int_equal(c->seg[SEG_TR].selector, S_TEST);
    assert_int_equal(c->seg[SEG_TR].attr & SEG_TYPE, to_wide ? 11 : 3);
    assert_int_equal(c->rip, to_wide ? NEW_EIP : 0x1000);
    assert_int_equal(cpu_rflags(c) & ~FL_RF, FL_ONE | FL_CF | (nested ? FL_NT : 0));
    assert_int_equal(c->sysflags & FL_RF, to_wide ? FL_RF : 0);
    assert_int_equal(c->gpr[RBX], 0xc3);
    assert_int_equal(c->cpl, 3);
    assert_int_equal(c->seg[SEG_FS].selector, to_wide ? S_DATA(3) | 3 : 0);
    assert_true(c->cr0 & CR0_TS);
    assert_int_equal(c->dr[7], 0x7ff & ~0x155);
    assert_int_equal(mem_get(h, GDT + S_TSS + 5, 1), (from_wide ? 0x89 : 0x81) | (nested ? 2 : 0));
    assert_int_equal(mem_get(h, GDT + S_TEST + 5, 1), to_wide ? 0x8b : 0x83);
    assert_int_equal(mem_get(h, NEW, 2), nested ? S_TSS : 0xdead);
    assert_int_equal(mem_get(h, TSS + (from_wide ? 32 : 14), from_wide ? 4 : 2),
                     (CODE + len) & (from_wide ? ~0u : 0xffff));
    assert_int_equal(mem_get(h, TSS + (from_wide ? 36 : 16), 2), FL_ONE | FL_ZF);
    assert_int_equal(mem_get(h, TSS + (from_wide ? 76 : 36), 2), S_CODE(0));
    struct error e = {0};
    if (cpu_record.check(c, &e) < 0)
        fail_msg("%s", e.msg);
}

/* Each access may fault: before TR changes nothing has changed; behind it the fault is the new task's. */
static unsigned every_fault(struct harness *h, enum how how, bool from_wide, bool to_wide)
{
    struct cpu *c = &h->cpu;
    unsigned n = 0, before = 0;
    for (;; n++) {
        prepare(h, how, from_wide, to_wide);
        struct cpu was = *c;
        h->fail_at = (int)n;
        h->fail_pf = true;
        int r = run(h, code[how]);
        h->fail_at = -1;
        if (r == CPU_OK)
            break;
        assert_int_equal(r, CPU_FAULT);
        assert_int_equal(c->fault.vector, VEC_PF);
        if (c->seg[SEG_TR].selector == S_TEST) {
            assert_int_equal(c->rip, to_wide ? NEW_EIP : 0x1000);
            continue;
        }
        before++;
        c->fault = was.fault;
        was.nmi_blocked = c->nmi_blocked;
        assert_memory_equal(c, &was, sizeof(was));
    }
    assert_true(before >= 5 && n > before);
    check_switched(h, how, from_wide, to_wide);
    return n;
}

static void switches(void **state)
{
    struct harness h;
    harness_init(&h, false, false);
    for (unsigned i = 0; i < 16; i++)
        every_fault(&h, (enum how)(i & 3), i & 4, i & 8);
    harness_free(&h);
}

/* Behind the switch: what is wrong is delivered in the new task, on its own ring 0 stack if need be. */
static void faults_of_the_new_task(void **state)
{
    struct harness h;
    struct cpu *c = &h.cpu;
    harness_init(&h, false, false);
    put_gate(&h, VEC_TS, S_CODE(0), 0x82000, 0x8e, 0);
    prepare(&h, CALL, true, true);
    mem_put(&h, NEW + 4, 4, 0x70000);
    mem_put(&h, NEW + 8, 2, S_DATA(0));
    mem_put(&h, NEW + 84, 2, S_DATA(0)); /* DS of ring 0 for a task of ring 3 */
    assert_run_fault(&h, code[CALL], VEC_TS, S_DATA(0));
    assert_int_equal(c->rip, NEW_EIP);
    assert_int_equal(isa_deliver_fault(&h.isa), CPU_OK);
    assert_int_equal(c->rip, 0x82000);
    assert_int_equal(c->gpr[RSP], 0x70000 - 24);
    assert_int_equal(mem_get(&h, c->gpr[RSP], 4), S_DATA(0));
    assert_int_equal(mem_get(&h, c->gpr[RSP] + 4, 4), NEW_EIP);
    assert_int_equal(mem_get(&h, c->gpr[RSP] + 8, 2), S_CODE(3) | 3);
    /* without a stack nothing can be delivered at all */
    prepare(&h, CALL, true, true);
    mem_put(&h, NEW + 76, 2, S_CODE(0));
    mem_put(&h, NEW + 80, 2, 0);
    assert_run_fault(&h, code[CALL], VEC_TS, 0);
    assert_int_equal(isa_deliver_fault(&h.isa), CPU_SHUTDOWN);
    struct error e = {0};
    assert_int_equal(cpu_record.check(c, &e), 0);
    harness_free(&h);
}

/* Debug traps of tasks whose handlers are tasks with T bits, in a ring: it comes to an end. */
static void traps_in_a_ring(void **state)
{
    struct harness h;
    harness_init(&h, false, false);
    prepare(&h, CALL, true, true);
    mem_put(&h, NEW + 100, 1, 1);
    put_gate(&h, VEC_DB, S_TEST2, 0, 0x85, 0);
    put_system(&h, GDT + S_TEST2, 0x7000, 103, 0x89);
    memcpy(h.mem + 0x7000, h.mem + NEW, 104);
    assert_run_fault(&h, code[CALL], VEC_DB, -1);
    assert_int_equal(h.cpu.fault.address, ISA_DR6_BT);
    assert_int_equal(isa_deliver_fault(&h.isa), CPU_SHUTDOWN); /* the second #DB finds its task busy */
    harness_free(&h);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(switches),
        cmocka_unit_test(faults_of_the_new_task),
        cmocka_unit_test(traps_in_a_ring),
    };
    return cmocka_run_group_tests_name("isa-sys-task", tests, NULL, NULL);
}
