/*
 * kit --contend: what threads on several processors do to each other inside the kernel, where processors interrupt each other,
 * wait for locks, and wake each other. How many operations all of them get done in a second.
 */
#include "kit.h"

#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define CONTEND_MAX 64
#define PAGE        4096

struct contender {
    pthread_t thread;
    long (*work)(struct contender *c); /* operations done, or -1 */
    double until;
    long done;
    int pipe[2][2]; /* pairs: the even one of a pair writes to [0], reads from [1] */
    struct contender *peer;
};

/* A page is mapped, written and unmapped: the other threads' processors must forget it, too. */
static long work_unmap(struct contender *c)
{
    char *p = mmap(NULL, 4 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED)
        return -1;
    for (int i = 0; i < 4; i++)
        p[i * PAGE] = 1;
    return munmap(p, 4 * PAGE) ? -1 : 1;
}

/* The table of open files of a process has one spin lock. */
static long work_lock(struct contender *c)
{
    for (int i = 0; i < 16; i++) {
        int fd = dup(STDOUT_FILENO);
        if (fd < 0 || close(fd))
            return -1;
    }
    return 16;
}

/* Two threads wake each other in turn. */
static long work_wake(struct contender *c)
{
    char b = 'x';
    bool first = c < c->peer;
    struct contender *own = first ? c : c->peer;
    int out = own->pipe[first ? 0 : 1][1], in = own->pipe[first ? 1 : 0][0];
    if (first && (write(out, &b, 1) != 1 || read(in, &b, 1) != 1))
        return -1;
    if (!first && (read(in, &b, 1) != 1 || write(out, &b, 1) != 1))
        return -1;
    return 1;
}

static void *contend_thread(void *arg)
{
    struct contender *c = arg;
    bool waits = c->work == work_wake && c > c->peer;
    while (waits || kit_now() < c->until) {
        long n = c->work(c);
        if (n < 0)
            break;
        c->done += n;
    }
    if (c->work == work_wake && !waits) /* the peer reads the end of the file */
        close(c->pipe[0][1]);
    return NULL;
}

static const struct {
    const char *name;
    long (*work)(struct contender *c);
} works[] = {{"unmap", work_unmap}, {"lock", work_lock}, {"wake", work_wake}};

static bool start(struct contender *c, struct contender *all)
{
    c->peer = &all[(c - all) ^ 1];
    bool first = c < c->peer;
    if (c->work == work_wake && first && (pipe(c->pipe[0]) || pipe(c->pipe[1])))
        return false;
    return pthread_create(&c->thread, NULL, contend_thread, c) == 0;
}

/* Operations a second, 0 when something failed. */
static double contend(long (*work)(struct contender *c), long threads, double seconds)
{
    struct contender all[CONTEND_MAX] = {0};
    double begin = kit_now();
    long done = 0;
    for (long i = 0; i < threads; i++) {
        all[i].work = work;
        all[i].until = begin + seconds;
        if (!start(&all[i], all))
            return 0;
    }
    for (long i = 0; i < threads; i++) {
        pthread_join(all[i].thread, NULL);
        done += all[i].done;
    }
    return (double)done / (kit_now() - begin);
}

int kit_contend(long threads, double seconds)
{
    if (threads < 2 || threads > CONTEND_MAX || threads % 2)
        return fprintf(stderr, "kit: --contend %ld: give an even number of threads from 2 to %d\n", threads,
                       CONTEND_MAX);
    for (size_t i = 0; i < ARRAY_LEN(works); i++)
        printf("contend %s %.0f /s\n", works[i].name, contend(works[i].work, threads, seconds));
    return 0;
}
