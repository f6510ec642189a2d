/*
 * The dirty log while threads write: each round they write pages at random and stop, and somebody copies what the log names
 * meanwhile, as fast as it can. What it has in the end must be the memory. (The orders that mem.h asks for: a page that has
 * neither its trace nor its bit is lost for good, so that one such moment in a run is enough.)
 */
#include "machine/mem/mem.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define WRITERS 3
#define PAGES   256u
#define ROUNDS  400u
#define WRITES  200

struct shared {
    struct guest_mem mem;
    u32 round; /* writers work on it */
    u32 done;  /* writers that have finished it, in all */
};

struct writer {
    struct shared *s;
    u64 random;
};

static u64 next(u64 *x)
{
    *x ^= *x << 13;
    *x ^= *x >> 7;
    *x ^= *x << 17;
    return *x >> 11;
}

/* As a device does: it stores, then looks. */
static void *write_pages(void *arg)
{
    struct writer *w = arg;
    for (u32 round = 1; round <= ROUNDS; round++) {
        while (__atomic_load_n(&w->s->round, __ATOMIC_SEQ_CST) < round)
            sched_yield();
        for (int i = 0; i < WRITES; i++) {
            u64 value = next(&w->random), page = value % 8; /* few, so that they meet */
            if (value >> 20 & 1)
                page = value >> 8 & (PAGES - 1);
            mem_write(&w->s->mem, GPA(page * PAGE_SIZE + (value >> 30 & 0x1ff) * 8), &value, 8);
        }
        __atomic_fetch_add(&w->s->done, 1, __ATOMIC_SEQ_CST);
    }
    return NULL;
}

static void take(struct shared *s, u8 *copy)
{
    u64 log[PAGES / 64];
    mem_log_take(&s->mem, 0, PAGES, log);
    for (u64 page = 0; page < PAGES; page++)
        if (log[page / 64] >> page % 64 & 1)
            memcpy(copy + page * PAGE_SIZE, s->mem.ram + page * PAGE_SIZE, PAGE_SIZE);
}

static void nothing_is_lost(void **state)
{
    struct shared s = {.round = 0};
    struct writer w[WRITERS];
    pthread_t thread[WRITERS];
    u8 *ram = aligned_alloc(PAGE_SIZE, PAGES * PAGE_SIZE), *copy = malloc(PAGES * PAGE_SIZE);
    assert_true(ram && copy);
    memset(ram, 0, PAGES * PAGE_SIZE);
    memset(copy, 0, PAGES * PAGE_SIZE);
    assert_int_equal(mem_init(&s.mem, ram, PAGES * PAGE_SIZE, -1, NULL), 0);
    assert_int_equal(mem_log_start(&s.mem), 0);
    for (u64 i = 0; i < WRITERS; i++) {
        w[i] = (struct writer){&s, 88172645463325252ull + i};
        assert_int_equal(pthread_create(&thread[i], NULL, write_pages, &w[i]), 0);
    }
    for (u32 round = 1; round <= ROUNDS; round++) {
        __atomic_store_n(&s.round, round, __ATOMIC_SEQ_CST);
        while (__atomic_load_n(&s.done, __ATOMIC_SEQ_CST) < round * WRITERS)
            take(&s, copy);
        take(&s, copy);
        if (memcmp(copy, ram, PAGES * PAGE_SIZE) != 0)
            fail_msg("round %u: a page was lost", round);
    }
    for (u64 i = 0; i < WRITERS; i++)
        pthread_join(thread[i], NULL);
    mem_log_stop(&s.mem);
    for (u64 page = 0; page < PAGES; page++)
        assert_int_equal(s.mem.trace[page], 0);
    mem_destroy(&s.mem);
    free(ram);
    free(copy);
}

/* Ranges, a last word that is not full, all of it, and off. */
static void words(void **state)
{
    struct guest_mem m;
    u64 pages = PAGES + 5, log[PAGES / 64 + 1];
    u8 *ram = aligned_alloc(PAGE_SIZE, pages * PAGE_SIZE);
    assert_non_null(ram);
    assert_int_equal(mem_init(&m, ram, pages * PAGE_SIZE, -1, NULL), 0);
    assert_int_equal(mem_log_words(&m), 5);
    mem_log_all(&m); /* no log: nothing */
    assert_int_equal(mem_log_start(&m), 0);
    assert_false(mem_log_take(&m, 0, 320, log));
    mem_touch(&m, 70 * PAGE_SIZE - 1, 2);
    mem_touch(&m, 260 * PAGE_SIZE, 1);
    assert_false(mem_log_take(&m, 128, 128, log));
    assert_true(mem_log_take(&m, 256, 64, log));
    assert_int_equal(log[0], BIT(4));
    assert_true(mem_log_take(&m, 0, 320, log));
    assert_int_equal(log[1], BIT(5) | BIT(6));
    assert_int_equal(log[0] | log[2] | log[3] | log[4], 0);
    mem_log_all(&m);
    assert_true(mem_log_take(&m, 0, 320, log));
    assert_int_equal(log[0] & log[1] & log[2] & log[3], UINT64_MAX);
    assert_int_equal(log[4], 31);
    assert_false(mem_log_take(&m, 0, 320, log));
    m.trace[3] |= MEM_TRACE_CODE; /* another client's: stays, and has no say here */
    mem_touch(&m, 3 * PAGE_SIZE, 1);
    assert_int_equal(m.trace[3], MEM_TRACE_CODE);
    assert_true(mem_log_take(&m, 0, 64, log));
    assert_int_equal(log[0], BIT(3));
    mem_log_stop(&m);
    for (u64 page = 0; page < pages; page++)
        assert_int_equal(m.trace[page], page == 3 ? MEM_TRACE_CODE : 0);
    mem_touch(&m, 0, 1);
    mem_destroy(&m);
    free(ram);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(words), cmocka_unit_test(nothing_is_lost)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
