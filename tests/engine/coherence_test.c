/*
 * Coherence between the engines of several CPUs, with engines that are as simple as can be: "code" of a page is the page's
 * number as it was when it was read, and an entry for writing is a flag.
 *
 * Threads make code of pages, run it, and write pages, by such an entry or by the slow path; one that is no CPU writes as a device does.
 * Code that is run must be what stands in the page: nobody may have written it without the code being dropped first.
 */
#include "engine/coherence.h"

#include <errno.h>
#include <pthread.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PAGES  8u
#define CPUS   4u
#define ROUNDS 40000u

struct toy {
    struct coherence_seat *seat;
    u64 code[PAGES];   /* 0: none */
    bool entry[PAGES]; /* for writing */
    u64 ran, stale, made;
    u32 random;
};

struct fix {
    struct guest_mem mem;
    struct coherence co;
    struct toy toy[CPUS];
    bool over;
};

static u64 *word(struct fix *f, u64 page)
{
    return (u64 *)(void *)(f->mem.ram + page * PAGE_SIZE);
}

static void toy_protect(void *engine, u64 page)
{
    ((struct toy *)engine)->entry[page] = false;
}

static void toy_kill(void *engine, u64 page, unsigned from, unsigned to)
{
    struct toy *t = engine;
    t->code[page] = 0;
    coherence_untrace(t->seat, page);
}

static const struct coherence_ops toy_ops = {toy_protect, toy_kill};

static void start(struct fix *f, unsigned cpus)
{
    memset(f, 0, sizeof(*f));
    u8 *ram = aligned_alloc(PAGE_SIZE, MEM_MIN_SIZE);
    memset(ram, 0, MEM_MIN_SIZE);
    assert_int_equal(mem_init(&f->mem, ram, MEM_MIN_SIZE, -1, NULL), 0);
    assert_int_equal(coherence_init(&f->co, &f->mem, cpus, NULL), 0);
    for (unsigned i = 0; i < cpus; i++) {
        f->toy[i].seat = coherence_join(&f->co, i, &toy_ops, &f->toy[i]);
        f->toy[i].random = i + 1;
    }
    for (u64 p = 0; p < PAGES; p++)
        *word(f, p) = 1;
}

static void end(struct fix *f)
{
    u8 *ram = f->mem.ram;
    coherence_fini(&f->co);
    mem_destroy(&f->mem);
    free(ram);
}

static u32 random_of(u32 *state, u32 below)
{
    *state = *state * 1664525 + 1013904223;
    return (*state >> 8) % below;
}

static void make(struct fix *f, struct toy *t, u64 page)
{
    coherence_trace(t->seat, page);
    t->code[page] = __atomic_load_n(word(f, page), __ATOMIC_RELAXED);
    t->made++;
}

static void run(struct fix *f, struct toy *t, u64 page)
{
    if (!t->code[page])
        return;
    t->ran++;
    t->stale += t->code[page] != __atomic_load_n(word(f, page), __ATOMIC_RELAXED);
}

/* As tlb_fill and ram_written do. */
static void store(struct fix *f, struct toy *t, u64 page, bool keep)
{
    if (!t->entry[page]) {
        coherence_writer(t->seat, page);
        if (__atomic_load_n(&f->mem.trace[page], __ATOMIC_SEQ_CST) & MEM_TRACE_CODE)
            coherence_written(t->seat, page, 0, 8);
        else
            t->entry[page] = keep;
    }
    __atomic_fetch_add(word(f, page), 1, __ATOMIC_RELAXED);
}

struct arg {
    struct fix *f;
    struct toy *t;
};

static void *cpu(void *arg)
{
    struct fix *f = ((struct arg *)arg)->f;
    struct toy *t = ((struct arg *)arg)->t;
    coherence_enter(t->seat);
    for (unsigned n = 0; n < ROUNDS; n++) {
        u64 page = random_of(&t->random, PAGES);
        switch (random_of(&t->random, 12)) {
        case 0:
        case 1:
            make(f, t, page);
            break;
        case 2:
        case 3:
            store(f, t, page, true);
            break;
        case 4:
            store(f, t, page, false);
            break;
        case 5: /* a device access, or sleep */
            coherence_leave(t->seat);
            coherence_enter(t->seat);
            break;
        case 6:
            if (t->code[page])
                toy_kill(t, page, 0, PAGE_SIZE); /* evicted */
            break;
        default:
            run(f, t, page);
        }
        coherence_serve(t->seat);
    }
    coherence_leave(t->seat);
    return NULL;
}

/* Its writes are seen by the CPUs when they are done, not before: code may be stale in between. So it has pages of its own. */
static void *device(void *arg)
{
    struct fix *f = arg;
    u64 v = 1;
    while (!__atomic_load_n(&f->over, __ATOMIC_RELAXED)) {
        v++;
        mem_write(&f->mem, GPA(PAGES * PAGE_SIZE), &v, sizeof(v));
    }
    return NULL;
}

static void hammer(void **state)
{
    struct fix f;
    pthread_t t[CPUS], d;
    struct arg a[CPUS];
    start(&f, CPUS);
    for (unsigned i = 0; i < CPUS; i++) {
        a[i] = (struct arg){&f, &f.toy[i]};
        assert_int_equal(pthread_create(&t[i], NULL, cpu, &a[i]), 0);
    }
    assert_int_equal(pthread_create(&d, NULL, device, &f), 0);
    for (unsigned i = 0; i < CPUS; i++)
        pthread_join(t[i], NULL);
    __atomic_store_n(&f.over, true, __ATOMIC_RELAXED);
    pthread_join(d, NULL);
    for (unsigned i = 0; i < CPUS; i++) {
        assert_true(f.toy[i].made && f.toy[i].ran);
        assert_int_equal(f.toy[i].stale, 0);
    }
    /* Holders and traces agree in the end. */
    for (u64 p = 0; p < PAGES; p++) {
        u64 holders = 0;
        for (unsigned i = 0; i < CPUS; i++)
            holders |= (u64)(f.toy[i].code[p] != 0) << i;
        assert_int_equal(f.co.holders[p], holders);
        assert_int_equal(!!(f.mem.trace[p] & MEM_TRACE_CODE), holders != 0);
    }
    end(&f);
}

/* What happens to a CPU that is out is done in its place, at once. */
static void in_its_place(void **state)
{
    struct fix f;
    start(&f, 2);
    struct toy *a = &f.toy[0], *b = &f.toy[1];
    coherence_enter(b->seat);
    store(&f, b, 3, true);
    assert_true(b->entry[3]);
    coherence_leave(b->seat);
    coherence_enter(a->seat);
    make(&f, a, 3);
    assert_false(b->entry[3]);
    assert_int_equal(f.mem.trace[3], MEM_TRACE_CODE);
    coherence_leave(a->seat);
    coherence_enter(b->seat);
    store(&f, b, 3, true);
    assert_int_equal(a->code[3], 0);
    assert_int_equal(f.mem.trace[3], 0);
    coherence_leave(b->seat);
    end(&f);
}

/* A device's write drops what everybody holds. */
static void by_device(void **state)
{
    struct fix f;
    u64 v = 7;
    start(&f, 3);
    for (unsigned i = 0; i < 3; i++) {
        coherence_enter(f.toy[i].seat);
        make(&f, &f.toy[i], 2);
        coherence_leave(f.toy[i].seat);
    }
    assert_int_equal(f.co.holders[2], 7);
    assert_int_equal(mem_write(&f.mem, GPA(2 * PAGE_SIZE), &v, sizeof(v)), 0);
    for (unsigned i = 0; i < 3; i++)
        assert_int_equal(f.toy[i].code[2], 0);
    assert_int_equal(f.mem.trace[2], 0);
    end(&f);
}

/* One CPU: no tables, and nobody to ask. */
static void alone(void **state)
{
    struct fix f;
    u64 v = 7;
    start(&f, 1);
    assert_null(f.co.writers);
    coherence_enter(f.toy[0].seat);
    store(&f, &f.toy[0], 1, true);
    make(&f, &f.toy[0], 1);
    assert_false(f.toy[0].entry[1]);
    assert_int_equal(f.mem.trace[1], MEM_TRACE_CODE);
    assert_true(coherence_holds(f.toy[0].seat, 1));
    store(&f, &f.toy[0], 1, true);
    assert_int_equal(f.toy[0].code[1], 0);
    make(&f, &f.toy[0], 1);
    mem_write(&f.mem, GPA(PAGE_SIZE), &v, sizeof(v));
    assert_int_equal(f.toy[0].code[1], 0);
    coherence_leave(f.toy[0].seat);
    end(&f);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(alone),
        cmocka_unit_test(in_its_place),
        cmocka_unit_test(by_device),
        cmocka_unit_test(hammer),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
