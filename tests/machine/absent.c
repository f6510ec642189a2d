/* Absent pages: brought once, whoever comes first; nothing that was written is lost; nobody sees half of one. */
#include "machine/mem/absent.h"

#include <pthread.h>
#include <sched.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PAGES 512u
#define SIZE  ((u64)PAGES * PAGE_SIZE)

struct world {
    struct guest_mem m;
    struct mem_absent a;
    u64 absent[PAGES / 64], claimed[PAGES / 64], left;
    unsigned fetched; /* atomic */
};

static u64 content(u64 page, u64 word)
{
    return page << 32 | word << 1 | 1;
}

static void fetch(void *ctx, u64 page, u8 *to)
{
    struct world *w = ctx;
    __atomic_fetch_add(&w->fetched, 1, __ATOMIC_RELAXED);
    for (u64 i = 0; i < PAGE_SIZE / 8; i++)
        ((u64 *)(void *)to)[i] = content(page, i);
    sched_yield(); /* somebody else may be faster */
}

static void yield(void *ctx)
{
    sched_yield();
}

static int setup(void **state)
{
    struct world *w = calloc(1, sizeof(*w));
    void *ram = aligned_alloc(PAGE_SIZE, SIZE);
    memset(ram, 0, SIZE);
    assert_int_equal(mem_init(&w->m, ram, SIZE, -1, NULL), 0);
    memset(w->absent, 0xff, sizeof(w->absent));
    w->left = PAGES;
    w->a = (struct mem_absent){w->absent, w->claimed, &w->left, fetch, yield, w};
    w->m.absent = &w->a;
    *state = w;
    return 0;
}

static int teardown(void **state)
{
    struct world *w = *state;
    void *ram = w->m.ram;
    mem_destroy(&w->m);
    free(ram);
    free(w);
    return 0;
}

static u64 word(const struct world *w, u64 page, u64 i)
{
    return ((const u64 *)(void *)(w->m.ram + page * PAGE_SIZE))[i];
}

/* The doorway brings what it hands out, and no more; asking whether there is RAM brings nothing. */
static void doorway(void **state)
{
    struct world *w = *state;
    assert_true(mem_is_ram(&w->m, GPA(0), SIZE));
    assert_false(mem_is_ram(&w->m, GPA(0), SIZE + 1));
    assert_int_equal(w->left, PAGES);
    const u64 *p = mem_at(&w->m, GPA(3 * PAGE_SIZE + 8), 8);
    assert_int_equal(*p, content(3, 1));
    assert_int_equal(w->left, PAGES - 1);
    u64 across[2];
    assert_int_equal(mem_read(&w->m, GPA(5 * PAGE_SIZE - 8), across, 16), 0);
    assert_int_equal(across[0], content(4, 511));
    assert_int_equal(across[1], content(5, 0));
    assert_int_equal(w->left, PAGES - 3);
    assert_true(mem_is_absent(&w->m, 6 * PAGE_SIZE) && !mem_is_absent(&w->m, 5 * PAGE_SIZE));
    assert_null(mem_at(&w->m, GPA(SIZE - 8), 16));
    assert_int_equal(w->left, PAGES - 3);
    mem_at(&w->m, GPA(3 * PAGE_SIZE), PAGE_SIZE);
    assert_int_equal(w->fetched, 3);
}

/* What was written stays, though the page's content comes once more. */
static void late_content(void **state)
{
    struct world *w = *state;
    u64 mine = 42;
    u8 old[PAGE_SIZE];
    fetch(w, 7, old);
    assert_int_equal(mem_write(&w->m, GPA(7 * PAGE_SIZE), &mine, 8), 0);
    mem_put_page(&w->m, &w->a, 7, old);
    assert_int_equal(word(w, 7, 0), 42);
    assert_int_equal(word(w, 7, 1), content(7, 1));
    assert_int_equal(w->left, PAGES - 1);
}

/* Who must not wait puts what nobody has claimed, and leaves alone what somebody has: also if he never makes it present. */
static void offered(void **state)
{
    struct world *w = *state;
    u8 page[PAGE_SIZE];
    u64 mine = 42;
    fetch(w, 7, page);
    mem_offer_page(&w->m, &w->a, 7, page);
    assert_int_equal(word(w, 7, 0), content(7, 0));
    assert_int_equal(mem_write(&w->m, GPA(7 * PAGE_SIZE), &mine, 8), 0);
    mem_offer_page(&w->m, &w->a, 7, page);
    assert_int_equal(word(w, 7, 0), 42);
    w->claimed[8 / 64] |= BIT(8);
    fetch(w, 8, page);
    mem_offer_page(&w->m, &w->a, 8, page);
    assert_true(mem_is_absent(&w->m, 8 * PAGE_SIZE));
    assert_int_equal(w->m.ram[8 * PAGE_SIZE], 0);
    assert_int_equal(w->left, PAGES - 1);
    w->claimed[8 / 64] &= ~BIT(8); /* taken back */
    mem_offer_page(&w->m, &w->a, 8, page);
    assert_int_equal(word(w, 8, 0), content(8, 0));
    assert_int_equal(w->left, PAGES - 2);
}

static void dropped(void **state)
{
    struct world *w = *state;
    mem_at(&w->m, GPA(10 * PAGE_SIZE), 1);
    mem_drop_absent(&w->m, 9 * PAGE_SIZE, 3 * PAGE_SIZE);
    assert_int_equal(w->left, PAGES - 3);
    assert_int_equal(word(w, 9, 5), 0);
    assert_int_equal(word(w, 10, 5), content(10, 5));
    mem_at(&w->m, GPA(9 * PAGE_SIZE), 3 * PAGE_SIZE);
    assert_int_equal(w->fetched, 1);
    mem_drop_absent(&w->m, 0, SIZE);
    assert_int_equal(w->left, 0);
    assert_int_equal(word(w, 300, 5), 0);
    assert_int_equal(word(w, 10, 5), content(10, 5));
}

/* --- many at once: each adds 1 to a word of its own in every page, while a filler and a dropper are about --- */

#define THREADS 4u

struct job {
    struct world *w;
    u64 id;
};

static void *count(void *arg)
{
    const struct job *j = arg;
    for (u64 n = 0; n < PAGES; n++) {
        u64 page = (n * 37 + j->id) % PAGES, at = page * PAGE_SIZE + j->id * 8;
        u64 *p = mem_at(&j->w->m, GPA(at), 8);
        *p += 2;
    }
    return NULL;
}

static void *bring_all(void *arg)
{
    const struct job *j = arg;
    u8 buf[PAGE_SIZE];
    for (u64 page = 0; page < PAGES; page++) {
        fetch(j->w, page, buf);
        mem_put_page(&j->w->m, &j->w->a, page, buf);
    }
    return NULL;
}

static void at_once(void **state)
{
    struct world *w = *state;
    pthread_t t[THREADS + 1];
    struct job j[THREADS + 1];
    for (u64 i = 0; i <= THREADS; i++) {
        j[i] = (struct job){w, i};
        assert_int_equal(pthread_create(&t[i], NULL, i < THREADS ? count : bring_all, &j[i]), 0);
    }
    for (u64 i = 0; i <= THREADS; i++)
        pthread_join(t[i], NULL);
    assert_int_equal(w->left, 0);
    for (u64 page = 0; page < PAGES; page++)
        for (u64 i = 0; i < PAGE_SIZE / 8; i++)
            if (word(w, page, i) != content(page, i) + (i < THREADS ? 2 : 0))
                fail_msg("page %llu, word %llu: %llx", (unsigned long long)page, (unsigned long long)i,
                         (unsigned long long)word(w, page, i));
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test_setup_teardown(doorway, setup, teardown),
        cmocka_unit_test_setup_teardown(late_content, setup, teardown),
        cmocka_unit_test_setup_teardown(offered, setup, teardown),
        cmocka_unit_test_setup_teardown(dropped, setup, teardown),
        cmocka_unit_test_setup_teardown(at_once, setup, teardown),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
