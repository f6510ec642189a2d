/* What the kit does beside its workloads, each a mode of its own. */
#include "kit.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

/* --- rate of simple instructions --- */

/*
 * `n` turns of sixteen simple instructions: register arithmetic, loads and stores of a word in the first-level cache, one
 * taken branch. What Issue and README call "simple instructions" is this mix.
 */
static __attribute__((noinline)) u64 simple_turns(u64 n)
{
    u64 word[2] = {1, 2}, a = 3, b = 5;
    __asm__ volatile("1:\n\t"
                     "add %[b], %[a]\n\t"
                     "mov (%[w]), %%rax\n\t"
                     "xor %[a], %%rax\n\t"
                     "mov %%rax, %%rdx\n\t"
                     "shr $7, %%rdx\n\t"
                     "add %%rdx, %[b]\n\t"
                     "mov %%rax, 8(%[w])\n\t"
                     "lea 3(%[a], %[b], 2), %%rcx\n\t"
                     "and $0xffff, %%ecx\n\t"
                     "sub %%rcx, %[a]\n\t"
                     "mov 8(%[w]), %%rdx\n\t"
                     "or %%rdx, %[b]\n\t"
                     "inc %%rax\n\t"
                     "mov %%rax, (%[w])\n\t"
                     "dec %[n]\n\t"
                     "jnz 1b\n\t"
                     : [n] "+r"(n), [a] "+r"(a), [b] "+r"(b)
                     : [w] "r"(word)
                     : "rax", "rcx", "rdx", "cc", "memory");
    return a ^ b ^ word[0] ^ word[1];
}

int kit_simple(double seconds)
{
    enum { TURN = 16 };
    u64 n = 1000, done = 0, sum = 0;
    double t = kit_now(), spent = 0, best = 0;
    while (spent < seconds) {
        double begin = kit_now();
        sum ^= simple_turns(n);
        double took = kit_now() - begin;
        if (took > 0.05 && (double)n * TURN / took > best)
            best = (double)n * TURN / took;
        if (took < 0.1)
            n *= 2;
        done += n;
        spent = kit_now() - t;
    }
    printf("simple %.1f M/s  # sum=%llx turns=%llu\n", best / 1e6, (unsigned long long)sum, (unsigned long long)done);
    return best > 0 ? 0 : 1;
}

/* --- dirty pages --- */

static void report(double t, u64 pages, double *gap)
{
    printf("DIRTY t=%.0f pages=%llu maxgap_ms=%.1f\n", t, (unsigned long long)pages, *gap * 1e3);
    fflush(stdout);
    *gap = 0;
}

int kit_dirty(double rate, long mib, double seconds)
{
    const struct timespec tick = {0, 1000000};
    u64 pages = (u64)mib * 256, done = 0, at = 0;
    u8 *p = mmap(NULL, pages * 4096, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (p == MAP_FAILED) {
        perror("mmap");
        return 1;
    }
    memset(p, 1, pages * 4096);
    double begin = kit_now(), last = begin, gap = 0, second = 0;
    printf("DIRTY start %.0f MiB/s wss %ld MiB\n", rate, mib);
    while (seconds <= 0 || kit_now() - begin < seconds) {
        u64 due = (u64)((kit_now() - begin) * rate * 256);
        if (due > done + 4096)
            done = due - 4096; /* do not catch up after a stop */
        for (; done < due; done++, at = (at + 1) % pages)
            for (int k = 0; k < 16; k++)
                *(volatile u64 *)(p + at * 4096 + 8 * k) += 1;
        nanosleep(&tick, NULL);
        double t = kit_now();
        gap = t - last > gap ? t - last : gap;
        last = t;
        if (t - begin >= second + 1)
            report(++second, done, &gap);
    }
    return 0;
}

/* --- data and commands --- */

/* Half text, half random bytes: compresses about as files do. */
int kit_generate(long bytes)
{
    static char b[65536];
    u64 seed = 42;
    while (bytes > 0) {
        for (size_t i = 0; i < sizeof(b); i += 8) {
            char digits[17];
            u64 r = kit_random(&seed);
            snprintf(digits, sizeof(digits), "%08llx", (unsigned long long)(r >> 8 & 0xffff));
            memcpy(b + i, r & 3 ? digits : (char *)&r, 8);
        }
        size_t n = bytes < (long)sizeof(b) ? (size_t)bytes : sizeof(b);
        if (write(STDOUT_FILENO, b, n) != (ssize_t)n)
            return 1;
        bytes -= (long)n;
    }
    return 0;
}

int kit_time_command(char **argv)
{
    char out[256];
    int status;
    snprintf(out, sizeof(out), "%s/kit.out", kit_tmp());
    double t = kit_now();
    pid_t child = fork();
    if (child == 0) {
        int fd = open(out, O_CREAT | O_TRUNC | O_WRONLY, 0600);
        dup2(fd, STDOUT_FILENO);
        close(fd);
        execvp(argv[1], argv + 1);
        _exit(127);
    }
    waitpid(child, &status, 0);
    if (!WIFEXITED(status) || WEXITSTATUS(status)) {
        printf("%-14s BAD exit=%d\n", argv[0], WIFEXITED(status) ? WEXITSTATUS(status) : -1);
        return 1;
    }
    printf("%-14s %.0f us\n", argv[0], (kit_now() - t) * 1e6);
    return 0;
}
