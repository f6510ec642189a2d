/*
 * kit                       checks, then every workload
 * kit --check               checks only
 * kit --only NAME,NAME      these workloads
 * kit --quick               a quarter of the time (0.05 s a workload), or --time SECONDS
 * kit --list                names
 * kit --now                 the clock that everything is timed by
 * kit --golden              what each workload returns, for the tables
 * kit --simple SECONDS      rate of simple instructions
 * kit --dirty MIB_PER_S MIB SECONDS | --block DEVICE SECONDS [ROW] | --records DEVICE | --generate BYTES | --time-command NAME COMMAND..
 *
 * A line a workload: name, best value, unit; in the comment the mean, the number of units, the time of the first one.
 */
#include "kit.h"

#include <cpuid.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

static const struct workload_table *const tables[] = {&work_integer, &work_memory, &work_float,  &work_simd,
                                                      &work_code,    &work_system, &work_threads};

struct options {
    double seconds; /* a workload */
    const char *only;
    bool check, golden;
};

double kit_now(void)
{
    struct timespec t;
    clock_gettime(CLOCK_MONOTONIC, &t);
    return (double)t.tv_sec + (double)t.tv_nsec * 1e-9;
}

u64 kit_random(u64 *state)
{
    *state = *state * 6364136223846793005ull + 1442695040888963407ull;
    return *state >> 17;
}

const char *kit_tmp(void)
{
    const char *dir = getenv("KIT_TMP");
    return dir ? dir : "/tmp";
}

u8 *kit_code_pages(void)
{
    static u8 *pages;
    if (!pages)
        pages = mmap(NULL, 32768, PROT_READ | PROT_WRITE | PROT_EXEC, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    if (pages == MAP_FAILED)
        abort();
    return pages;
}

/* XCR0 with SSE and AVX state: the kernel saves YMM registers. */
static bool avx_enabled(u32 leaf1_ecx)
{
    u32 low, high;
    if (!(leaf1_ecx >> 27 & 1) || !(leaf1_ecx >> 28 & 1))
        return false;
    __asm__ volatile("xgetbv" : "=a"(low), "=d"(high) : "c"(0));
    return (low & 6) == 6;
}

bool kit_has(enum need need)
{
    static bool has[NEED_COUNT], known;
    u32 a, b, c, d;
    if (!known) {
        known = has[NEED_NOTHING] = true;
        bool avx = false;
        if (__get_cpuid(1, &a, &b, &c, &d)) {
            has[NEED_SSE42] = c >> 20 & 1;
            has[NEED_AES] = c >> 25 & 1;
            avx = avx_enabled(c);
        }
        if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
            has[NEED_SHA] = b >> 29 & 1;
            has[NEED_AVX2] = avx && b >> 5 & 1;
        }
        if (__get_cpuid(0x80000001, &a, &b, &c, &d))
            has[NEED_RDTSCP] = d >> 27 & 1;
    }
    return has[need];
}

/* What repeated runs of one workload came to. */
struct sample {
    double first, best, mean; /* seconds a unit */
    u64 units, wrong;         /* wrong: the last wrong check value, when `bad` */
    bool bad;
};

static void measure(const struct workload *w, double seconds, struct sample *s)
{
    double begin = kit_now(), last;
    u64 v = w->run();
    *s = (struct sample){.best = 1e99, .bad = v != w->want, .wrong = v};
    s->first = kit_now() - begin;
    begin = last = kit_now();
    double spent;
    do {
        v = w->run();
        double t = kit_now();
        s->units++;
        s->best = t - last < s->best ? t - last : s->best;
        last = t;
        spent = t - begin;
        if (v != w->want) {
            s->bad = true;
            s->wrong = v;
        }
    } while (spent < seconds || (s->units < 3 && spent < 20 * seconds));
    s->mean = spent / (double)s->units;
}

static void print_sample(const struct workload *w, const struct sample *s)
{
    if (!strcmp(w->unit, "MB/s"))
        printf("%-14s %.1f MB/s  # mean=%.1f", w->name, w->ops / s->best / 1e6, w->ops / s->mean / 1e6);
    else
        printf("%-14s %.3f %s  # mean=%.3f", w->name, s->best / w->ops * 1e9, w->unit, s->mean / w->ops * 1e9);
    printf(" n=%llu first=%.3g s\n", (unsigned long long)s->units, s->first);
}

/* Run one workload and print its line; 1 if its result was wrong. */
static int run(const struct workload *w, const struct options *o)
{
    struct sample s;
    if (!kit_has(w->need)) {
        printf("%-14s SKIP cpuid\n", w->name);
        return 0;
    }
    if (w->start)
        w->start();
    if (o->golden)
        printf("%s 0x%llx\n", w->name, (unsigned long long)w->run());
    else
        measure(w, o->seconds, &s);
    if (w->stop)
        w->stop();
    if (o->golden)
        return 0;
    if (s.bad)
        printf("%-14s BAD got=%llx want=%llx\n", w->name, (unsigned long long)s.wrong, (unsigned long long)w->want);
    else
        print_sample(w, &s);
    return s.bad;
}

/* Whether `name` is in the list "a,b,c". */
static bool listed(const char *list, const char *name)
{
    size_t n = strlen(name);
    for (; *list; list += strcspn(list, ",") + (list[strcspn(list, ",")] == ','))
        if (strcspn(list, ",") == n && !strncmp(list, name, n))
            return true;
    return false;
}

static int run_all(const struct options *o)
{
    int bad = 0;
    for (size_t t = 0; t < ARRAY_LEN(tables); t++)
        for (size_t i = 0; i < tables[t]->n; i++)
            if (!o->only || listed(o->only, tables[t]->rows[i].name))
                bad += run(&tables[t]->rows[i], o);
    return bad;
}

static int list(void)
{
    for (size_t t = 0; t < ARRAY_LEN(tables); t++)
        for (size_t i = 0; i < tables[t]->n; i++)
            puts(tables[t]->rows[i].name);
    return 0;
}

/* Modes that are no workloads. Their exit status, or -1 when argv asks for none of them. */
static int tool(int argc, char **argv)
{
    const char *mode = argc > 1 ? argv[1] : "";
    if (!strcmp(mode, "--true"))
        _exit(0);
    if (!strcmp(mode, "--list"))
        return list();
    if (!strcmp(mode, "--now"))
        return printf("now %.6f\n", kit_now()) < 0;
    if (!strcmp(mode, "--simple") && argc == 3)
        return kit_simple(atof(argv[2]));
    if (!strcmp(mode, "--dirty") && argc == 5)
        return kit_dirty(atof(argv[2]), atol(argv[3]), atof(argv[4]));
    if (!strcmp(mode, "--block") && (argc == 4 || argc == 5))
        return kit_block(argv[2], atof(argv[3]), argc == 5 ? argv[4] : NULL);
    if (!strcmp(mode, "--records") && argc == 3)
        return kit_records(argv[2]);
    if (!strcmp(mode, "--generate") && argc == 3)
        return kit_generate(atol(argv[2]));
    if (!strcmp(mode, "--parallel") && argc == 3)
        return kit_parallel(atol(argv[2]));
    if (!strcmp(mode, "--contend") && argc == 4)
        return kit_contend(atol(argv[2]), atof(argv[3]));
    if (!strcmp(mode, "--time-command") && argc >= 4)
        return kit_time_command(argv + 2);
    return -1;
}

static int parse(struct options *o, int argc, char **argv)
{
    *o = (struct options){.seconds = 0.2};
    for (int i = 1; i < argc; i++) {
        if (!strcmp(argv[i], "--quick"))
            o->seconds = 0.05;
        else if (!strcmp(argv[i], "--check"))
            o->check = true;
        else if (!strcmp(argv[i], "--golden"))
            o->golden = true;
        else if (!strcmp(argv[i], "--only") && i + 1 < argc)
            o->only = argv[++i];
        else if (!strcmp(argv[i], "--time") && i + 1 < argc)
            o->seconds = atof(argv[++i]);
        else
            return fprintf(stderr, "kit: %s: unknown, or its values are missing; bench/kit/main.c lists the modes\n",
                           argv[i]);
    }
    return 0;
}

int main(int argc, char **argv)
{
    struct options o;
    int bad = 0;
    setvbuf(stdout, NULL, _IOLBF, 0);
    int status = tool(argc, argv);
    if (status >= 0)
        return status;
    if (parse(&o, argc, argv))
        return 2;
    double t = kit_now();
    printf("# kit begin cpus=%ld sse42=%d aes=%d avx2=%d sha=%d\n", sysconf(_SC_NPROCESSORS_ONLN), kit_has(NEED_SSE42),
           kit_has(NEED_AES), kit_has(NEED_AVX2), kit_has(NEED_SHA));
    if (!o.only && !o.golden)
        bad += kit_checks();
    if (!o.check)
        bad += run_all(&o);
    printf("# kit end total_s=%.3f bad=%d\n", kit_now() - t, bad);
    return bad ? 1 : 0;
}
