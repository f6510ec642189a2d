/*
 * Two engines side by side: the same machine twice, each with memory of its own, booting Debian's kernel in steps that both
 * have to agree on.
 *
 *     A: one slice of some steps ──> n steps were done ──> B: exactly n steps ──> compare, advance the clock, again
 *
 * Both run with ENGINE_TEST_EXACT (engine.h says what a step is). Time is a function of the steps done: it stands still while
 * an engine runs and moves between two slices, for both machines at once. So everything that happens to one of them from
 * outside happens to the other at the same instruction, and whatever differs is an engine's doing. RDRAND and RDSEED are left
 * out of the CPU model.
 *
 * Behind each slice all that a guest can see of the CPU is compared; at intervals, and at the end, memory, the records of
 * all devices and what the console printed. The first difference ends the run: shown are what differs, both states, and the
 * code of the last slices.
 *
 *     test-engine-lockstep --until STEPS               stop there; without it: until the guest has powered off
 *         --engine A [--test LIST]                     the engine to be tested (interp), its switches (eager)
 *         --against B [--against-test LIST]            the one to compare with (interp), its switches (single)
 *         --steps K                                    1 to 2 K - 1 steps a slice, at random (1: block by block)
 *         --memory-every STEPS                         how often to compare memory; to find when it came to differ ..
 *         --memory-from STEPS                          .. begin there, with shorter intervals: runs repeat exactly
 *         --spoil cpu:SLICE, --spoil memory:SLICE      damage B before that slice: it is a failure if nobody notices
 *         --quiet                                      do not print the guest's console
 */
#include "../engines.h"
#include "../same_cpu.h"
#include "boot/boot.h"
#include "isa/decode.h"
#include "vm/board.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <stdarg.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define RAM_SIZE    (128ull << 20)
#define CMDLINE     "console=ttyS0 panic=-1 reboot=t trapeze.selftest"
#define CPU_MODEL   "host,-rdrand,-rdseed"
#define NS_PER_STEP 5
#define TSC_HZ      1000000000ull
#define WALL_NS     1718100000000000000ll /* June 2024 */
#define MAX_STEPS   16000u                /* board_run makes one run of the engine of this */
#define HISTORY     20u
#define CONSOLE     (1u << 20)

struct options {
    const char *engine, *against;
    u32 test, against_test;
    u64 until, steps, memory_every, memory_from;
    u64 spoil_cpu, spoil_memory; /* slices; 0: not */
    bool quiet;
};

struct side {
    const char *name;
    const struct engine_ops *engine;
    struct board *board;
    struct cpu *cpu;
    u8 *ram;
    u64 steps;
    enum board_event event;
    char text[200];
    char *console;
    size_t console_len;
    bool echo;
};

/* A slice as it was about to run. */
struct past {
    u64 rip, steps;
};

struct lockstep {
    struct options opt;
    struct side a, b;
    u64 ns; /* the one clock */
    u64 slices, random;
    u64 next_memory;
    struct past past[HISTORY];
    bool differ;
};

__attribute__((noreturn, format(printf, 1, 2))) static void die(const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    exit(1);
}

static u64 draw(struct lockstep *l, u64 below)
{
    l->random ^= l->random << 13;
    l->random ^= l->random >> 7;
    l->random ^= l->random << 17;
    return (l->random >> 11) % below;
}

/* --- a machine --- */

static u64 fake_ns(void *ctx)
{
    return ((const struct lockstep *)ctx)->ns;
}

static size_t console_out(void *ctx, const u8 *data, size_t len)
{
    struct side *s = ctx;
    size_t n = MIN(len, CONSOLE - 1 - s->console_len);
    memcpy(s->console + s->console_len, data, n);
    s->console_len += n;
    if (s->echo)
        fwrite(data, 1, len, stdout);
    return len;
}

static u8 *read_guest_file(const char *name, size_t *len)
{
    char path[4096];
    struct stat st;
    snprintf(path, sizeof(path), "%s/%s", getenv("TRAPEZE_GUEST"), name);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &st) < 0)
        die("%s: %s", path, strerror(errno));
    u8 *data = malloc((size_t)st.st_size);
    if (!data || read(fd, data, (size_t)st.st_size) != st.st_size)
        die("%s: %s", path, strerror(errno));
    close(fd);
    *len = (size_t)st.st_size;
    return data;
}

static void boot(struct side *s)
{
    struct error e = {0};
    struct boot_result res;
    struct boot_config cfg = {.kernel_name = "vmlinuz", .initrd_name = "initrd.cpio", .cmdline = CMDLINE, .n_cpus = 1};
    u8 *kernel = read_guest_file("vmlinuz", &cfg.kernel_len), *initrd = read_guest_file("initrd.cpio", &cfg.initrd_len);
    struct rec_buf rec = {0};
    cfg.kernel = kernel;
    cfg.initrd = initrd;
    if (boot_load(board_mem(s->board), &cfg, s->cpu, &res, &e) < 0 || rec_save(&rec, &cpu_record, 0, s->cpu) < 0 ||
        board_boot(s->board, rec.data, rec.len, &e) < 0)
        die("%s: boot: %s", s->name, e.msg);
    rec_buf_free(&rec);
    free(kernel);
    free(initrd);
}

static void make_side(struct lockstep *l, struct side *s, const char *engine, u32 test)
{
    struct error e = {0};
    s->name = s == &l->a ? "A" : "B";
    s->engine = test_engine(engine);
    s->ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    s->console = calloc(1, CONSOLE);
    struct board_config cfg = {
        .ram = s->ram,
        .ram_size = RAM_SIZE,
        .ram_fd = -1,
        .cpu_model = CPU_MODEL,
        .engine = s->engine,
        .engine_test = test | ENGINE_TEST_EXACT,
        .tsc_hz = TSC_HZ,
        .host_ns = fake_ns,
        .host_tsc = fake_ns,
        .clock_ctx = l,
        .wall_ns = WALL_NS,
        .console_out = console_out,
        .console_ctx = s,
    };
    if (s->ram == MAP_FAILED || !s->console || board_create(&s->board, &cfg, &e) < 0)
        die("%s: %s", s->name, e.msg);
    s->cpu = board_cpu(s->board, 0);
    boot(s);
}

static void free_side(struct side *s)
{
    board_destroy(s->board);
    munmap(s->ram, RAM_SIZE);
    free(s->console);
}

static u64 steps_of(const struct side *s)
{
    struct engine_stats st;
    board_stats(s->board, &st);
    return st.instructions + st.exceptions;
}

/* One slice of a machine: how many steps it did. */
static u64 run(struct side *s, u64 budget)
{
    u64 before = s->steps;
    s->event = board_run(s->board, budget, s->text, sizeof(s->text));
    s->steps = steps_of(s);
    return s->steps - before;
}

/* --- showing --- */

/* Host address of a linear one, by page tables that are only read: what mapped the code may be gone by now. */
static const u8 *code_at(const struct side *s, u64 va)
{
    const struct cpu *c = s->cpu;
    u64 table = c->cr3 & 0xffffffffff000;
    if (!(c->cr0 & CR0_PG) || !cpu_long_mode(c))
        return va < RAM_SIZE ? s->ram + va : NULL;
    for (int shift = 39;; shift -= 9) {
        u64 e;
        if (table > RAM_SIZE - PAGE_SIZE)
            return NULL;
        memcpy(&e, s->ram + table + (va >> shift & 511) * 8, 8);
        u64 to = e & 0xffffffffff000;
        if (!(e & 1))
            return NULL;
        if (shift == 12 || (shift < 39 && e & 0x80)) {
            u64 pa = (to & ~(BIT(shift) - 1)) + (va & (BIT(shift) - 1));
            return pa < RAM_SIZE ? s->ram + pa : NULL;
        }
        table = to;
    }
}

static enum isa_mode code_mode(const struct cpu *c)
{
    return cpu_code64(c) ? ISA_MODE_64 : c->seg[SEG_CS].attr & SEG_DB ? ISA_MODE_32 : ISA_MODE_16;
}

static void show_code(const struct side *s, u64 rip, u64 n)
{
    u64 va = rip + (cpu_code64(s->cpu) ? 0 : s->cpu->seg[SEG_CS].base);
    for (u64 i = 0; i < n; i++) {
        struct isa_insn x;
        char text[120];
        const u8 *p = code_at(s, va);
        if (!p || isa_decode(code_mode(s->cpu), p, MIN(15u, PAGE_SIZE - (va & 0xfff)), &x)) {
            printf("#     %016llx  (no code to be seen)\n", (unsigned long long)va);
            return;
        }
        isa_format(&x, va, text, sizeof(text));
        printf("#     %016llx  ", (unsigned long long)va);
        for (unsigned k = 0; k < 12; k++)
            k < x.len ? printf("%02x", p[k]) : printf("  ");
        printf("  %s\n", text);
        va += x.len;
    }
}

static void show_side(const struct side *s)
{
    char text[4096];
    cpu_describe(s->cpu, text, sizeof(text));
    printf("# %s: engine %s, %llu steps, event %d %s\n", s->name, s->engine->name, (unsigned long long)s->steps,
           s->event, s->text);
    for (char *line = strtok(text, "\n"); line; line = strtok(NULL, "\n"))
        printf("#   %s\n", line);
}

/* Everything about the first difference, but for what differs in memory. */
static void show_difference(struct lockstep *l, const char *what)
{
    l->differ = true;
    printf("\n# DIFFERENCE: %s, in slice %llu, at %llu steps\n", what, (unsigned long long)l->slices,
           (unsigned long long)l->a.steps);
    cpu_show_difference(l->a.cpu, l->b.cpu);
    show_side(&l->a);
    show_side(&l->b);
    for (unsigned i = 0; i < HISTORY; i++) {
        const struct past *p = &l->past[(l->slices + 1 + i) % HISTORY];
        if (!p->steps)
            continue;
        printf("# %u slices ago: %llu steps from\n", HISTORY - 1 - i, (unsigned long long)p->steps);
        show_code(&l->a, p->rip, MIN(p->steps, i == HISTORY - 1 ? 48u : 8u));
    }
}

/* --- comparing the rest --- */

static void compare_memory(struct lockstep *l)
{
    if (!memcmp(l->a.ram, l->b.ram, RAM_SIZE))
        return;
    show_difference(l, "memory");
    unsigned shown = 0;
    for (u64 i = 0; i < RAM_SIZE && shown < 16; i += 8)
        if (memcmp(l->a.ram + i, l->b.ram + i, 8)) {
            u64 a, b;
            memcpy(&a, l->a.ram + i, 8);
            memcpy(&b, l->b.ram + i, 8);
            printf("# [%llx]: A %016llx  B %016llx\n", (unsigned long long)i, (unsigned long long)a,
                   (unsigned long long)b);
            shown++;
        }
}

static void compare_records(struct lockstep *l)
{
    struct rec_buf a = {0}, b = {0};
    struct rec_view va, vb;
    size_t at_a = 0, at_b = 0;
    struct error e;
    if (board_save(l->a.board, &a) < 0 || board_save(l->b.board, &b) < 0)
        die("records can not be saved");
    while (!l->differ && rec_next(a.data, a.len, &at_a, &va, &e) == 1) {
        char what[40];
        snprintf(what, sizeof(what), "record %.4s", (const char *)&va.type);
        if (rec_next(b.data, b.len, &at_b, &vb, &e) != 1 || va.type != vb.type || va.len != vb.len ||
            memcmp(va.payload, vb.payload, va.len))
            show_difference(l, what);
    }
    rec_buf_free(&a);
    rec_buf_free(&b);
}

static void compare_rest(struct lockstep *l)
{
    compare_memory(l);
    if (!l->differ)
        compare_records(l);
    if (!l->differ && (l->a.console_len != l->b.console_len || memcmp(l->a.console, l->b.console, l->a.console_len)))
        show_difference(l, "console");
}

/* --- running --- */

static void spoil(struct lockstep *l)
{
    if (l->slices == l->opt.spoil_cpu)
        l->b.cpu->gpr[RBX] ^= BIT(draw(l, 64));
    if (l->slices == l->opt.spoil_memory)
        l->b.ram[RAM_SIZE / 2 + draw(l, RAM_SIZE / 2)] ^= (u8)BIT(draw(l, 8));
}

/* Let time go by, up to the next timer if the processors sleep. */
static void advance(struct lockstep *l, u64 steps)
{
    l->ns += MAX(steps, 1u) * NS_PER_STEP;
    if (l->a.event != BOARD_WAIT)
        return;
    u64 deadline = board_next_deadline(l->a.board);
    if (deadline != board_next_deadline(l->b.board))
        show_difference(l, "the next timer");
    else if (deadline == UINT64_MAX)
        die("the guest halts and no timer would wake it");
    else
        l->ns = MAX(l->ns, deadline);
}

static void slice(struct lockstep *l)
{
    l->slices++;
    spoil(l);
    struct past *p = &l->past[l->slices % HISTORY];
    *p = (struct past){.rip = l->a.cpu->rip};
    u64 n = run(&l->a, 1 + draw(l, 2 * l->opt.steps - 1));
    p->steps = n;
    u64 m = run(&l->b, MAX(n, 1u));
    if (n != m)
        show_difference(l, "number of steps");
    else if (l->a.event != l->b.event)
        show_difference(l, "event");
    else if (!cpu_same(l->a.cpu, l->b.cpu))
        show_difference(l, "CPU");
    else
        advance(l, n);
    if (!l->differ && l->a.steps >= l->next_memory) {
        compare_rest(l);
        l->next_memory = l->a.steps + l->opt.memory_every;
    }
}

static bool selftest_is_good(const char *console)
{
    const char *verdict = strstr(console, "selftest: ");
    unsigned ok = 0, bad = 1;
    return verdict && sscanf(verdict, "selftest: %u ok, %u bad", &ok, &bad) == 2 && ok > 0 && bad == 0;
}

static void run_all(struct lockstep *l)
{
    do
        slice(l);
    while (!l->differ && l->a.steps < l->opt.until && (l->a.event == BOARD_RUN || l->a.event == BOARD_WAIT));
    if (!l->differ)
        compare_rest(l);
}

/* Everything but the engines being of one mind: what is wrong, or NULL. */
static const char *judge(const struct lockstep *l)
{
    struct engine_stats s;
    board_stats(l->a.board, &s);
    if (l->a.event != BOARD_POWEROFF && l->a.steps < l->opt.until)
        return "the guest did not power off";
    if (l->a.event == BOARD_POWEROFF && !selftest_is_good(l->a.console))
        return "the selftest was not good";
    if (strcmp(l->a.engine->name, "interp") && s.interpreted > s.instructions / 2)
        return "most of it was interpreted";
    return NULL;
}

static int report(const struct lockstep *l)
{
    bool spoilt = l->opt.spoil_cpu || l->opt.spoil_memory;
    struct engine_stats s;
    board_stats(l->a.board, &s);
    printf("\n# A: %llu instructions, %llu interpreted, %llu exceptions, %llu interrupts, %llu blocks made, %llu "
           "evictions\n",
           (unsigned long long)s.instructions, (unsigned long long)s.interpreted, (unsigned long long)s.exceptions,
           (unsigned long long)s.interrupts, (unsigned long long)s.blocks_made, (unsigned long long)s.evictions);
    printf("# %s against %s: %llu slices, %llu steps, %s\n", l->a.engine->name, l->b.engine->name,
           (unsigned long long)l->slices, (unsigned long long)l->a.steps, l->differ ? "then they differ" : "all equal");
    if (spoilt) {
        printf("# B was damaged: %s\n", l->differ ? "noticed" : "NOT NOTICED");
        return !l->differ;
    }
    const char *wrong = l->differ ? "they differ" : judge(l);
    if (wrong)
        printf("# failed: %s; event %d %s; the console's end:\n%s\n", wrong, l->a.event, l->a.text,
               l->a.console + (l->a.console_len > 2000 ? l->a.console_len - 2000 : 0));
    return wrong != NULL;
}

/* --- options --- */

static void spoil_option(struct options *o, const char *arg)
{
    if (!strncmp(arg, "cpu:", 4))
        o->spoil_cpu = strtoull(arg + 4, NULL, 0);
    else if (!strncmp(arg, "memory:", 7))
        o->spoil_memory = strtoull(arg + 7, NULL, 0);
    else
        die("--spoil: cpu:SLICE or memory:SLICE");
}

static void set_option(struct options *o, int c, const char *arg)
{
    switch (c) {
    case 'e':
        o->engine = arg;
        break;
    case 'a':
        o->against = arg;
        break;
    case 't':
        o->test = test_switches(arg);
        break;
    case 'T':
        o->against_test = test_switches(arg);
        break;
    case 'u':
        o->until = strtoull(arg, NULL, 0);
        break;
    case 'k':
        o->steps = strtoull(arg, NULL, 0);
        break;
    case 'm':
        o->memory_every = strtoull(arg, NULL, 0);
        break;
    case 'f':
        o->memory_from = strtoull(arg, NULL, 0);
        break;
    case 's':
        spoil_option(o, arg);
        break;
    case 'q':
        o->quiet = true;
        break;
    default:
        exit(1);
    }
}

static void parse_options(int argc, char **argv, struct options *o)
{
    static const struct option longs[] = {
        {"engine", required_argument, NULL, 'e'},
        {"against", required_argument, NULL, 'a'},
        {"test", required_argument, NULL, 't'},
        {"against-test", required_argument, NULL, 'T'},
        {"until", required_argument, NULL, 'u'},
        {"steps", required_argument, NULL, 'k'},
        {"memory-every", required_argument, NULL, 'm'},
        {"memory-from", required_argument, NULL, 'f'},
        {"spoil", required_argument, NULL, 's'},
        {"quiet", no_argument, NULL, 'q'},
        {0},
    };
    *o = (struct options){.engine = "interp",
                          .against = "interp",
                          .test = ENGINE_TEST_EAGER,
                          .against_test = ENGINE_TEST_SINGLE,
                          .until = UINT64_MAX,
                          .steps = 1,
                          .memory_every = 25000000};
    for (int c; (c = getopt_long(argc, argv, "", longs, NULL)) != -1;)
        set_option(o, c, optarg);
    if (o->steps < 1 || o->steps > MAX_STEPS / 2 || optind != argc)
        die("--steps: 1 to %u", MAX_STEPS / 2);
}

int main(int argc, char **argv)
{
    static struct lockstep l = {.random = 0x9e3779b97f4a7c15};
    parse_options(argc, argv, &l.opt);
    if (!getenv("TRAPEZE_GUEST")) {
        puts("skipped: TRAPEZE_GUEST is not set");
        return TEST_SKIPPED;
    }
    l.next_memory = MAX(l.opt.memory_from, l.opt.memory_every);
    make_side(&l, &l.a, l.opt.engine, l.opt.test);
    make_side(&l, &l.b, l.opt.against, l.opt.against_test);
    l.a.echo = !l.opt.quiet;
    run_all(&l);
    int status = report(&l);
    free_side(&l.a);
    free_side(&l.b);
    return status;
}
