/*
 * Threads, locks and waiting on a word, by futex alone: all of it works in a sealed process, and needs no allocation.
 *
 * A lock is a word: 0 free, 1 held, 2 held and somebody may sleep on it (Drepper, "Futexes are tricky", 2011).
 */
#include "host/host.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <pthread.h>
#include <sched.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <time.h>
#include <unistd.h>

#define SPINS 100

static void futex_wait(u32 *word, u32 value, const struct timespec *until)
{
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET_PRIVATE, value, until, NULL, FUTEX_BITSET_MATCH_ANY);
}

void host_lock_contended(struct host_lock *l)
{
    u32 free = 0;
    for (unsigned i = 0; i < SPINS; i++) {
        if (__atomic_compare_exchange_n(&l->word, &free, 1, false, __ATOMIC_ACQUIRE, __ATOMIC_RELAXED))
            return;
        free = 0;
        __builtin_ia32_pause();
    }
    while (__atomic_exchange_n(&l->word, 2, __ATOMIC_ACQUIRE))
        futex_wait(&l->word, 2, NULL);
}

void host_lock_wake(struct host_lock *l)
{
    syscall(SYS_futex, &l->word, FUTEX_WAKE_PRIVATE, 1, NULL, NULL, 0);
}

void host_word_wait(u32 *word, u32 value, u64 deadline)
{
    struct timespec until = {.tv_sec = (time_t)(deadline / 1000000000u), .tv_nsec = (long)(deadline % 1000000000u)};
    futex_wait(word, value, deadline == UINT64_MAX ? NULL : &until);
}

void host_word_wake(u32 *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE_PRIVATE, INT_MAX, NULL, NULL, 0);
}

void host_word_wait_shared(u32 *word, u32 value, u64 deadline)
{
    struct timespec until = {.tv_sec = (time_t)(deadline / 1000000000u), .tv_nsec = (long)(deadline % 1000000000u)};
    syscall(SYS_futex, word, FUTEX_WAIT_BITSET, value, deadline == UINT64_MAX ? NULL : &until, NULL,
            FUTEX_BITSET_MATCH_ANY);
}

void host_word_wake_shared(u32 *word)
{
    syscall(SYS_futex, word, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void host_yield(void)
{
    sched_yield();
}

void host_thread_background(int nice)
{
    setpriority(PRIO_PROCESS, 0, nice); /* of the thread, whatever POSIX says; to be nicer is always allowed */
}

int host_thread_start(void *(*fn)(void *), void *arg, struct error *e)
{
    pthread_t t;
    int r = pthread_create(&t, NULL, fn, arg);
    if (r)
        return error_set(e, r, "thread: pthread_create: %s", strerror(r));
    pthread_detach(t);
    return 0;
}
