/*
 * SeaBIOS through its power-on self-test: some twenty million instructions that go from real mode to protected mode and back,
 * with "big real mode", the vector table, the timer's interrupts in 16-bit code and BIOS calls from one mode to the other.
 *
 *     test-engine-bios FILE [--engine NAME]        FILE: Debian's /usr/share/seabios/bios.bin; skipped if it is not there
 *
 * The machine has no disk, so it ends in real mode, halted, waiting for a time to try again. What the BIOS has put into low
 * memory until then is looked at. Time moves with what was executed: the same in each run.
 */
#include "../engines.h"
#include "vm/board.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_SIZE (64u << 20)
#define ROM_MAX  (128u << 10)
#define SLICE    20000u
#define SLICES   20000u

#define NS_SLICE 10000000ull /* so much time passes in a slice */
/* The BIOS data area (IBM's technical reference) */
#define BDA_EBDA   0x40eu
#define BDA_MEMORY 0x413u
#define BDA_TICKS  0x46cu

struct bios {
    struct board *board;
    u8 *ram;
    u64 ns, halts;
};

static u64 clock_ns(void *ctx)
{
    return ((const struct bios *)ctx)->ns;
}

static size_t no_console(void *ctx, const u8 *data, size_t len)
{
    return len;
}

static u16 word(const struct bios *b, u32 at)
{
    u16 v;
    memcpy(&v, b->ram + at, 2);
    return v;
}

/* The ROM's copy below 1 MiB, where the reset vector leads as well here. */
static bool load(struct bios *b, const char *file)
{
    u8 rom[ROM_MAX];
    int fd = open(file, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, rom, sizeof(rom));
    if (fd >= 0)
        close(fd);
    if (n != ROM_MAX)
        return false;
    memcpy(b->ram + 0x100000 - ROM_MAX, rom, ROM_MAX);
    return true;
}

static void start(struct bios *b)
{
    struct error e = {0};
    struct rec_buf rec = {0};
    struct cpu *c = board_cpu(b->board, 0);
    cpu_reset(c);
    if (rec_save(&rec, &cpu_record, 0, c) < 0 || board_boot(b->board, rec.data, rec.len, &e) < 0) {
        fprintf(stderr, "%s\n", e.msg);
        exit(1);
    }
    rec_buf_free(&rec);
    c->seg[SEG_CS].base = 0xf0000;
}

/* Until it has halted for long in one place. */
static bool run(struct bios *b)
{
    char text[200] = "";
    for (unsigned i = 0; i < SLICES && b->halts < 200; i++) {
        enum board_event ev = board_run(b->board, SLICE, text, sizeof(text));
        b->ns += NS_SLICE;
        if (ev == BOARD_WAIT) {
            u64 due = board_next_deadline(b->board);
            b->ns = due != UINT64_MAX && due > b->ns ? due : b->ns;
            b->halts++;
        } else if (ev != BOARD_RUN) {
            printf("# it ended: event %d, %s\n", ev, text);
            return false;
        } else {
            b->halts = 0;
        }
    }
    return true;
}

static bool check(const char *what, bool good)
{
    printf("# %s: %s\n", what, good ? "yes" : "no");
    return good;
}

static bool look(const struct bios *b)
{
    const struct cpu *c = board_cpu(b->board, 0);
    bool good = check("it waits in real mode", cpu_real_mode(c) && b->halts >= 200);
    good &= check("in its own segment", c->seg[SEG_CS].selector == 0xf000);
    good &= check("with interrupts on", c->sysflags & FL_IF);
    good &= check("639 KiB of memory", word(b, BDA_MEMORY) == 639);
    good &= check("an extended data area", word(b, BDA_EBDA) == 0x9fc0);
    good &= check("the timer has ticked", word(b, BDA_TICKS) != 0);
    for (unsigned vector = 0x10; vector < 0x1b; vector++)
        good &= word(b, 4 * vector + 2) == 0xf000;
    return check("BIOS calls lead into it", good);
}

int main(int argc, char **argv)
{
    struct error e = {0};
    struct bios b = {.ram = mmap(NULL, RAM_SIZE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0)};
    struct board_config cfg = {
        .ram = b.ram,
        .ram_size = RAM_SIZE,
        .ram_fd = -1,
        .cpu_model = "x86-64-v2",
        .engine = test_engine(argc > 3 ? argv[3] : "interp"),
        .tsc_hz = 1000000000,
        .host_ns = clock_ns,
        .host_tsc = clock_ns,
        .clock_ctx = &b,
        .wall_ns = 1700000000000000000ull,
        .console_out = no_console,
    };
    if (b.ram == MAP_FAILED || argc < 2)
        return 1;
    if (!load(&b, argv[1])) {
        printf("skipped: %s is not there\n", argv[1]);
        return TEST_SKIPPED;
    }
    if (board_create(&b.board, &cfg, &e) < 0) {
        fprintf(stderr, "%s\n", e.msg);
        return 1;
    }
    start(&b);
    bool good = run(&b) && look(&b);
    char text[4096];
    cpu_describe(board_cpu(b.board, 0), text, sizeof(text));
    if (!good)
        fputs(text, stdout);
    printf("1..1\n%s 1 - SeaBIOS's self-test\n", good ? "ok" : "not ok");
    board_destroy(b.board);
    return good ? 0 : 1;
}
