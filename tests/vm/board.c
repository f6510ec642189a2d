/*
 * The board with an engine of our own: a script stands for the guest, so that routing, events, time and records are tested
 * without an instruction being executed.
 */
#include "../machine/fake_machine.h"
#include "machine/cpu/msr.h"
#include "machine/platform.h"
#include "vm/board.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define RAM (2ull << 20)

struct rig;
struct engine;
typedef void guest_fn(struct rig *g, struct engine *en, struct cpu *c, struct stop *s);

struct rig {
    struct fake_time time;
    struct board *board;
    void *ram;
    guest_fn *guest; /* what the engine's run does */
    bool mmio;       /* virtio in windows */
    unsigned runs, vectors[256];
    u8 out[64];
    size_t out_len, out_room;
};

struct engine {
    struct engine_config cfg;
    unsigned changed;
    struct rig *rig;
};

/* The engine finds its rig through the console context of the board it was made for: one static slot while creating. */
static struct rig *creating;

static int fake_create(struct engine **out, const struct engine_config *cfg, struct error *e)
{
    struct engine *en = calloc(1, sizeof(*en));
    en->cfg = *cfg;
    en->rig = creating;
    *out = en;
    return 0;
}

static void fake_destroy(struct engine *en)
{
    free(en);
}

/* Take what is deliverable as an engine would, then let the script run. */
static void fake_run(struct engine *en, struct cpu *c, u64 budget, struct stop *s)
{
    en->rig->runs++;
    if (c->attention & ATTN_REQUEST) {
        cpu_attention_clear(c, ATTN_REQUEST);
        s->kind = STOP_REQUEST;
        return;
    }
    if (c->attention & ATTN_INTR && c->sysflags & FL_IF) {
        int v = en->cfg.ops->irq_ack(en->cfg.ops_ctx, c);
        if (v >= 0) {
            en->rig->vectors[v]++;
            c->halted = 0;
        }
    }
    if (c->halted)
        s->kind = STOP_HALT;
    else if (en->rig->guest)
        en->rig->guest(en->rig, en, c, s);
}

static void fake_changed(struct engine *en, struct cpu *c)
{
    en->changed++;
}

/* There is code from 1000h on. */
static int fake_explain(struct engine *en, struct cpu *c, u64 va, struct engine_explain *out)
{
    out->start = va & ~7ull;
    return va >= 0x2000 ? -EOPNOTSUPP : va >= 0x1000 ? 0 : -ENOENT;
}

static void fake_stats(const struct engine *en, struct engine_stats *out)
{
    out->instructions = en->rig->runs;
}

static const struct engine_ops fake_engine = {.name = "fake",
                                              .create = fake_create,
                                              .destroy = fake_destroy,
                                              .run = fake_run,
                                              .state_changed = fake_changed,
                                              .stats = fake_stats,
                                              .explain = fake_explain};

static size_t console(void *ctx, const u8 *data, size_t len)
{
    struct rig *g = ctx;
    size_t n = MIN(MIN(len, g->out_room), sizeof(g->out) - g->out_len);
    memcpy(g->out + g->out_len, data, n);
    g->out_len += n;
    g->out_room -= n;
    return n;
}

enum { MMIO = 1, VIRTIO_CONSOLE = 2 };

/* `with`: a set of the bits above. */
static struct rig *open_rig_with(unsigned with)
{
    struct rig *g = calloc(1, sizeof(*g));
    struct error e = {0};
    g->ram = aligned_alloc(PAGE_SIZE, RAM);
    memset(g->ram, 0, RAM);
    g->out_room = SIZE_MAX;
    g->mmio = with & MMIO;
    struct board_config cfg = {
        .ram = g->ram,
        .ram_size = RAM,
        .ram_fd = -1,
        .cpu_model = "host",
        .engine = &fake_engine,
        .virtio_mmio = with & MMIO,
        .tsc_hz = FAKE_TSC_HZ,
        .host_ns = fake_ns,
        .host_tsc = fake_tsc,
        .clock_ctx = &g->time,
        .wall_ns = FAKE_WALL_NS,
        .console_out = console,
        .console_ctx = g,
        .virtio_console = with & VIRTIO_CONSOLE,
    };
    creating = g;
    if (board_create(&g->board, &cfg, &e) < 0)
        fail_msg("%s", e.msg);
    return g;
}

static struct rig *open_rig(void)
{
    return open_rig_with(0);
}

static void close_rig(struct rig *g)
{
    board_destroy(g->board);
    free(g->ram);
    free(g);
}

static int setup(void **state)
{
    *state = open_rig();
    return 0;
}

static int teardown(void **state)
{
    close_rig(*state);
    return 0;
}

/* --- shorthands: what the guest of a script does --- */

static struct engine *engine_of;

static void capture(struct rig *g, struct engine *en, struct cpu *c, struct stop *s)
{
    engine_of = en;
    s->kind = STOP_HALT;
    c->halted = 1;
}

/* The operations that the board gave its engine. */
static struct engine *grab(struct rig *g)
{
    struct cpu *c = board_cpu(g->board, 0);
    guest_fn *old = g->guest;
    u8 halted = c->halted;
    u64 sysflags = c->sysflags;
    c->halted = 0;
    c->sysflags &= ~FL_IF;
    g->guest = capture;
    board_run(g->board, 1, NULL, 0);
    g->guest = old;
    c->halted = halted;
    c->sysflags = sysflags;
    return engine_of;
}

static void port_out(struct engine *en, u16 port, unsigned size, u32 v)
{
    en->cfg.ops->pio_write(en->cfg.ops_ctx, port, size, v);
}

static u32 port_in(struct engine *en, u16 port, unsigned size)
{
    return en->cfg.ops->pio_read(en->cfg.ops_ctx, port, size);
}

static void poke(struct rig *g, struct engine *en, u64 a, unsigned size, u64 v)
{
    en->cfg.ops->mmio_write(en->cfg.ops_ctx, board_cpu(g->board, 0), GPA(a), size, v);
}

static u64 peek(struct rig *g, struct engine *en, u64 a, unsigned size)
{
    return en->cfg.ops->mmio_read(en->cfg.ops_ctx, board_cpu(g->board, 0), GPA(a), size);
}

static int wrmsr(struct rig *g, struct engine *en, u32 index, u64 v)
{
    return en->cfg.ops->msr_write(en->cfg.ops_ctx, board_cpu(g->board, 0), index, v);
}

static u64 rdmsr(struct rig *g, struct engine *en, u32 index)
{
    u64 v = 0;
    assert_int_equal(en->cfg.ops->msr_read(en->cfg.ops_ctx, board_cpu(g->board, 0), index, &v), CPU_OK);
    return v;
}

static enum board_event run(struct rig *g)
{
    return board_run(g->board, 1000000, NULL, 0);
}

static void halt_with_interrupts(struct rig *g)
{
    struct cpu *c = board_cpu(g->board, 0);
    c->halted = 1;
    c->sysflags |= FL_IF;
    g->guest = capture;
}

/* --- routing --- */

static void unassigned_space_reads_ones(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    assert_int_equal(port_in(en, 0x1234, 4), 0xffffffff);
    assert_int_equal(port_in(en, 0x80, 1), 0xff);
    port_out(en, 0x80, 1, 0x55);
    assert_true(peek(g, en, 0xd0000000, 8) == UINT64_MAX);
    assert_int_equal(peek(g, en, 0xd0000000, 2), 0xffff);
    poke(g, en, UINT64_MAX - 3, 8, 0);
    assert_true(peek(g, en, UINT64_MAX - 3, 8) == UINT64_MAX);
}

static void controllers_answer(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    assert_int_equal(peek(g, en, 0xfee00030, 4), 0x01050014);
    assert_int_equal(peek(g, en, 0xfee00030, 1), 0x14);
    assert_int_equal(peek(g, en, 0xfee00032, 2), 0x0105);
    assert_int_equal(peek(g, en, 0xfee00030, 8), 0x01050014);
    assert_int_equal(peek(g, en, 0xfee00ffe, 8), 0);
    poke(g, en, 0xfee00080, 1, 0x55); /* not a whole register: ignored */
    assert_int_equal(peek(g, en, 0xfee00080, 4), 0);
    poke(g, en, 0xfee00080, 4, 0x55);
    assert_int_equal(en->cfg.ops->cr8_read(en->cfg.ops_ctx, board_cpu(g->board, 0)), 5);
    en->cfg.ops->cr8_write(en->cfg.ops_ctx, board_cpu(g->board, 0), 3);
    assert_int_equal(peek(g, en, 0xfee00080, 4), 0x30);
    poke(g, en, 0xfec00000, 1, 1);
    assert_int_equal(peek(g, en, 0xfec00010, 4), 0x00170020);
    port_out(en, 0x21, 1, 0xfb);
    assert_int_equal(port_in(en, 0x21, 1), 0xfb);
    port_out(en, 0x4d0, 2, 0xffff);
    assert_int_equal(port_in(en, 0x4d0, 2), 0xdef8);
}

static void msrs_are_routed(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    u64 v;
    assert_int_equal(rdmsr(g, en, 0x1b), 0xfee00900);
    assert_int_equal(wrmsr(g, en, 0x1b, 0xfee00d00), CPU_OK);
    assert_int_equal(rdmsr(g, en, 0x803), 0x01050014);
    assert_true(peek(g, en, 0xfee00030, 4) == 0xffffffff); /* no page in x2APIC mode */
    assert_int_equal(en->cfg.ops->msr_read(en->cfg.ops_ctx, board_cpu(g->board, 0), 0x12345678, &v), CPU_FAULT);
    assert_int_equal(wrmsr(g, en, MSR_LSTAR, 0xffffffff81000000ull), CPU_OK);
    assert_true(rdmsr(g, en, MSR_LSTAR) == 0xffffffff81000000ull);
    assert_int_equal(wrmsr(g, en, MSR_LSTAR, 1ull << 60), CPU_FAULT);
    g->time.ns += 1000;
    assert_int_equal(rdmsr(g, en, MSR_TSC), 2500);
    assert_int_equal(wrmsr(g, en, MSR_TSC, 1000000), CPU_OK);
    assert_int_equal(en->cfg.ops->tsc(en->cfg.ops_ctx, board_cpu(g->board, 0)), 1000000);
}

static void firmware_left_virtual_wire_mode(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    static const u8 icw[2][4] = {{0x11, 0x20, 4, 1}, {0x11, 0x28, 2, 1}};
    for (unsigned i = 0; i < 2; i++)
        for (unsigned k = 0; k < 4; k++)
            port_out(en, (u16)((i ? 0xa0 : 0x20) + (k > 0)), 1, icw[i][k]);
    port_out(en, 0x43, 1, 0x34); /* 8254, mode 2, 1 kHz */
    port_out(en, 0x40, 1, 1193 & 0xff);
    port_out(en, 0x40, 1, 1193 >> 8);
    halt_with_interrupts(g);
    run(g); /* the rise at programming */
    memset(g->vectors, 0, sizeof(g->vectors));
    for (unsigned i = 0; i < 10; i++) {
        port_out(en, 0x20, 1, 0x20);
        assert_int_equal(run(g), BOARD_WAIT);
        u64 due = board_next_deadline(g->board);
        assert_in_range(due, g->time.ns, g->time.ns + 1000700); /* a period and the clock that loads it */
        g->time.ns = due;
        board_cpu(g->board, 0)->sysflags |= FL_IF;
        assert_int_equal(run(g), BOARD_WAIT);
    }
    assert_int_equal(g->vectors[0x20], 10);
}

/* --- events --- */

static void events_stay_until_reset(void **state)
{
    static const struct {
        u16 port;
        u32 size, value;
        enum board_event event;
    } cases[] = {
        {0x604, 2, 0x2000 | SLP_TYP_S5 << 10, BOARD_POWEROFF},
        {0xcf9, 1, 6, BOARD_RESET},
        {0x64, 1, 0xfe, BOARD_RESET},
        {0x92, 1, 1, BOARD_RESET},
        {0xf4, 4, 0x1234, BOARD_DEBUG_EXIT},
    };
    struct rig *g = *state;
    for (unsigned i = 0; i < ARRAY_LEN(cases); i++) {
        struct engine *en = grab(g);
        unsigned changed = en->changed;
        port_out(en, cases[i].port, cases[i].size, cases[i].value);
        assert_true(board_cpu(g->board, 0)->attention & ATTN_REQUEST);
        if (i != 0)
            port_out(en, 0x604, 2, 0x2000 | SLP_TYP_S5 << 10); /* the first event counts */
        assert_int_equal(run(g), cases[i].event);
        assert_int_equal(run(g), cases[i].event);
        assert_int_equal(board_exit_value(g->board), cases[i].event == BOARD_DEBUG_EXIT ? 0x1234 : 0);
        board_reset(g->board);
        assert_int_equal(en->changed, changed + 1);
        assert_int_equal(board_cpu(g->board, 0)->attention & ATTN_REQUEST, 0);
        g->guest = capture;
        assert_int_equal(run(g), BOARD_WAIT);
    }
}

static void triple_fault(struct rig *g, struct engine *en, struct cpu *c, struct stop *s)
{
    s->kind = STOP_SHUTDOWN;
    snprintf(s->text, sizeof(s->text), "triple fault at rip 0x42");
}

static void not_there(struct rig *g, struct engine *en, struct cpu *c, struct stop *s)
{
    s->kind = STOP_UNIMPLEMENTED;
    snprintf(s->text, sizeof(s->text), "not implemented: task switch");
}

static void broken(struct rig *g, struct engine *en, struct cpu *c, struct stop *s)
{
    s->kind = STOP_FAILURE;
}

static void engine_stops(void **state)
{
    struct rig *g = *state;
    char text[64];
    g->guest = triple_fault;
    assert_int_equal(board_run(g->board, 100, text, sizeof(text)), BOARD_SHUTDOWN);
    assert_string_equal(text, "triple fault at rip 0x42");
    g->guest = NULL;
    assert_int_equal(board_run(g->board, 100, text, 5), BOARD_SHUTDOWN);
    assert_string_equal(text, "trip");
    board_reset(g->board);
    assert_int_equal(board_run(g->board, 100, text, sizeof(text)), BOARD_RUN);
    assert_string_equal(text, "");
    g->guest = not_there;
    assert_int_equal(board_run(g->board, 100, text, sizeof(text)), BOARD_UNIMPLEMENTED);
    assert_string_equal(text, "not implemented: task switch");
    board_reset(g->board);
    g->guest = broken;
    assert_int_equal(run(g), BOARD_FAILURE);
}

static void init_of_the_only_cpu(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    char text[80];
    poke(g, en, 0xfee00300, 4, 0x84500); /* INIT to all */
    assert_int_equal(board_run(g->board, 10, text, sizeof(text)), BOARD_UNIMPLEMENTED);
    assert_non_null(strstr(text, "INIT"));
}

static void kick_and_budget(void **state)
{
    struct rig *g = *state;
    g->runs = 0;
    assert_int_equal(board_run(g->board, 100000, NULL, 0), BOARD_RUN);
    assert_in_range(g->runs, 2, 100000);
    board_kick(g->board);
    g->runs = 0;
    assert_int_equal(board_run(g->board, UINT64_MAX, NULL, 0), BOARD_RUN);
    assert_int_equal(g->runs, 1);
}

/* --- halt and time --- */

static void halt_waits_for_what_can_be_delivered(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    halt_with_interrupts(g);
    assert_int_equal(run(g), BOARD_WAIT);
    assert_true(board_next_deadline(g->board) == UINT64_MAX);
    poke(g, en, 0xfee00320, 4, 0x40);
    poke(g, en, 0xfee003e0, 4, 0xb);
    poke(g, en, 0xfee00380, 4, 50000);
    assert_int_equal(board_next_deadline(g->board), g->time.ns + 50000);
    assert_int_equal(run(g), BOARD_WAIT);
    g->time.ns += 50000;
    assert_int_equal(run(g), BOARD_WAIT);
    assert_int_equal(g->vectors[0x40], 1);
    poke(g, en, 0xfee000b0, 4, 0);

    board_cpu(g->board, 0)->sysflags &= ~FL_IF; /* with IF=0 only an NMI would end it */
    poke(g, en, 0xfee00380, 4, 50000);
    g->time.ns += 50000;
    g->runs = 0;
    assert_int_equal(run(g), BOARD_WAIT);
    assert_int_equal(g->runs, 0);
    cpu_attention_set(board_cpu(g->board, 0), ATTN_NMI);
    board_run(g->board, 1, NULL, 0);
    assert_int_equal(g->runs, 1);
}

static void pause_stops_time(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    halt_with_interrupts(g);
    poke(g, en, 0xfee00320, 4, 0x40);
    poke(g, en, 0xfee003e0, 4, 0xb);
    poke(g, en, 0xfee00380, 4, 50000);
    g->time.ns += 10000;
    board_pause(g->board);
    u64 tsc = rdmsr(g, en, MSR_TSC);
    g->time.ns += 1000000;
    assert_int_equal(run(g), BOARD_WAIT);
    assert_int_equal(g->vectors[0x40], 0);
    assert_true(board_next_deadline(g->board) == UINT64_MAX);
    assert_int_equal(rdmsr(g, en, MSR_TSC), tsc);
    board_resume(g->board);
    board_resume(g->board);
    assert_int_equal(board_next_deadline(g->board), g->time.ns + 40000);
    g->time.ns += 40000;
    run(g);
    assert_int_equal(g->vectors[0x40], 1);
}

static void tsc_write_moves_the_deadline(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    halt_with_interrupts(g);
    poke(g, en, 0xfee00320, 4, 0x40041);
    assert_int_equal(wrmsr(g, en, 0x6e0, 2500000), CPU_OK); /* 1 ms */
    assert_in_range(board_next_deadline(g->board) - g->time.ns, 999999, 1000002);
    assert_int_equal(wrmsr(g, en, MSR_TSC, 2400000), CPU_OK);
    assert_in_range(board_next_deadline(g->board) - g->time.ns, 39999, 40002);
}

static void kvmclock_follows(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    u32 version[2];
    u64 ns;
    g->time.ns += 5000;
    assert_int_equal(wrmsr(g, en, MSR_KVM_SYSTEM_TIME_2, 0x10001), CPU_OK);
    memcpy(&ns, (u8 *)g->ram + 0x10010, 8);
    assert_int_equal(ns, 5000);
    memcpy(&version[0], (u8 *)g->ram + 0x10000, 4);
    halt_with_interrupts(g);
    g->time.ns = board_next_deadline(g->board);
    run(g);
    memcpy(&version[1], (u8 *)g->ram + 0x10000, 4);
    assert_true(version[1] > version[0] && !(version[1] & 1));
    wrmsr(g, en, MSR_KVM_SYSTEM_TIME_2, 0);
    assert_true(board_next_deadline(g->board) == UINT64_MAX);
}

static void pv_eoi_in_guest_memory(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    struct cpu *c = board_cpu(g->board, 0);
    u8 *flag = (u8 *)g->ram + 0x2000;
    assert_int_equal(wrmsr(g, en, MSR_KVM_PV_EOI, 0x2001), CPU_OK);
    poke(g, en, 0xfee00300, 4, 0x40050);
    assert_int_equal(en->cfg.ops->irq_ack(en->cfg.ops_ctx, c), 0x50);
    assert_int_equal(*flag, 1);
    *flag = 0;
    assert_int_equal(peek(g, en, 0xfee000a0, 4), 0); /* PPR: that was the EOI */
    poke(g, en, 0xfee00300, 4, 0x40050);
    assert_int_equal(en->cfg.ops->irq_ack(en->cfg.ops_ctx, c), 0x50);
    assert_int_equal(wrmsr(g, en, MSR_KVM_PV_EOI, 0), CPU_OK); /* switched off with the flag out: taken back */
    assert_int_equal(*flag, 0);
    assert_int_equal(peek(g, en, 0xfee000a0, 4), 0x50);
    poke(g, en, 0xfee000b0, 4, 0);
    assert_int_equal(peek(g, en, 0xfee000a0, 4), 0);
}

/* --- outside --- */

static void console_both_ways(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    g->out_room = 2;
    port_out(en, 0x3fa, 1, 1);
    for (const char *p = "abcd"; *p; p++)
        port_out(en, 0x3f8, 1, (u8)*p);
    assert_int_equal(g->out_len, 2);
    assert_int_equal(port_in(en, 0x3fd, 1) & 0x20, 0);
    g->out_room = 10;
    board_console_flush(g->board, true);
    assert_memory_equal(g->out, "abcd", 4);
    assert_int_equal(board_console_input(g->board, (const u8 *)"0123456789abcdefgh", 18), 16);
    for (unsigned i = 0; i < 10; i++)
        assert_int_equal(port_in(en, 0x3f8, 1), '0' + i);
    assert_int_equal(board_console_input(g->board, (const u8 *)"ghijklmnopqrs", 13), 10);
}

/* With a virtio console the serial port still prints, and what is typed goes to the other. */
static void two_consoles(void **state)
{
    struct rig *g = open_rig_with(VIRTIO_CONSOLE), *plain = *state;
    struct rec_buf b = {0};
    struct error e = {0};
    struct engine *en = grab(g);
    port_out(en, 0x3f8, 1, 'a');
    assert_memory_equal(g->out, "a", 1);
    assert_int_equal(board_console_input(g->board, (const u8 *)"0", 1), 0); /* it has no driver yet */
    assert_int_equal(port_in(en, 0x3fd, 1) & 1, 0);
    board_console_size(g->board, 80, 25);
    board_console_size(plain->board, 80, 25);
    port_out(en, 0xcf8, 4, 0x8000e000); /* slot 28 */
    assert_int_equal(port_in(en, 0xcfc, 4), 0x10431af4);
    assert_int_equal(board_save(g->board, &b), 0); /* its record finds a place in its like only */
    assert_int_equal(board_load(g->board, b.data, b.len, &e), 0);
    assert_int_equal(board_load(plain->board, b.data, b.len, &e), -EINVAL);
    rec_buf_free(&b);
    close_rig(g);
}

static void power_button_interrupts(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    halt_with_interrupts(g);
    port_out(en, 0x602, 2, 0x100);
    poke(g, en, 0xfec00000, 4, 0x10 + 2 * GSI_SCI);
    poke(g, en, 0xfec00010, 4, 0x8049);
    board_power_button(g->board);
    assert_int_equal(run(g), BOARD_WAIT);
    assert_int_equal(g->vectors[0x49], 1);
    assert_int_equal(port_in(en, 0x600, 2), 0x100);
}

/* The identifier changes, and the guest hears of that by an event, if it wants to. */
static void generations(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    u8 id[3][16];
    for (unsigned i = 0; i < 3; i++) {
        board_new_generation(g->board, i > 0);
        assert_int_equal(mem_read(board_mem(g->board), GPA(VM_GENERATION_ADDRESS), id[i], 16), 0);
        assert_int_equal(port_in(en, PORT_PM_GPE, 2), i > 0);
        port_out(en, PORT_PM_GPE, 2, 1);
    }
    assert_memory_not_equal(id[0], id[1], 16);
    assert_memory_not_equal(id[1], id[2], 16);
    halt_with_interrupts(g);
    port_out(en, PORT_PM_GPE + 2, 2, 1);
    poke(g, en, 0xfec00000, 4, 0x10 + 2 * GSI_SCI);
    poke(g, en, 0xfec00010, 4, 0x8049);
    board_new_generation(g->board, true);
    assert_int_equal(run(g), BOARD_WAIT);
    assert_int_equal(g->vectors[0x49], 1);
}

static void statistics_pass_through(void **state)
{
    struct rig *g = *state;
    struct engine_stats s;
    grab(g);
    board_stats(g->board, &s);
    assert_int_equal(s.instructions, g->runs);
    assert_ptr_equal(board_mem(g->board)->ram, g->ram);
    assert_null(board_cpu(g->board, 1));
}

/* --- records --- */

/* Random things a guest could do, through machine_ops only. */
static u64 random_access(struct rig *g, struct engine *en, u64 *seed)
{
    static const u16 port[] = {0x20,  0x21,  0xa0,  0xa1,  0x40,  0x42,  0x43,  0x61,  0x70,  0x71, 0x3f8, 0x3f9,
                               0x3fa, 0x3fb, 0x3fc, 0x3fd, 0x600, 0x602, 0x608, 0x620, 0x4d0, 0x64, 0x92};
    static const u32 msr[] = {0x1b,     0x6e0,  0x10,  0x3b,  0x802, 0x808, 0x80b,          0x80f,
                              0x830,    0x832,  0x835, 0x838, 0x839, 0x83f, MSR_KVM_PV_EOI, MSR_KVM_SYSTEM_TIME_2,
                              MSR_STAR, MSR_PAT};
    struct cpu *c = board_cpu(g->board, 0);
    u64 v = rnd(seed), a = 0;
    unsigned size = 1u << rnd_below(seed, 3);
    switch (rnd_below(seed, 10)) {
    case 0:
    case 1:
        port_out(en, port[rnd_below(seed, ARRAY_LEN(port))], size, (u32)v);
        return 0;
    case 2:
        return port_in(en, port[rnd_below(seed, ARRAY_LEN(port))], size);
    case 3:
        poke(g, en, 0xfee00000 + (rnd_below(seed, 0x40) << 4), 4, v & 0x207ff);
        return 0;
    case 4:
        a = VIRTIO_MMIO_BASE + VIRTIO_MMIO_STRIDE + rnd_below(seed, 0x110);
        if (g->mmio && rnd_below(seed, 2))
            poke(g, en, a & ~3ull, 4, v & 0x1f);
        return g->mmio ? peek(g, en, a, size) : peek(g, en, 0xfee00000 + (rnd_below(seed, 0x40) << 4), 4);
    case 5:
        poke(g, en, 0xfec00000 + (rnd_below(seed, 5) << 4), size, v & 0x1ffff);
        return peek(g, en, 0xfec00010, 4);
    case 6:
        a = msr[rnd_below(seed, ARRAY_LEN(msr))];
        return (u64)wrmsr(g, en, (u32)a, rnd_below(seed, 2) ? v & 0xff1ff : v);
    case 7:
        a = (u64)en->cfg.ops->msr_read(en->cfg.ops_ctx, c, msr[rnd_below(seed, ARRAY_LEN(msr))], &a) << 60 ^ a;
        return a;
    case 8:
        g->time.ns += v % 3000000;
        c->halted = 1;
        c->sysflags &= ~FL_IF;
        return board_run(g->board, 10, NULL, 0);
    default:
        return (u64)en->cfg.ops->irq_ack(en->cfg.ops_ctx, c);
    }
}

static void saved_boards_go_on_alike(void **state)
{
    for (u64 round = 1; round <= 60; round++) {
        struct rig *a = open_rig_with(round % 3 == 0 ? VIRTIO_CONSOLE : 0),
                   *b = open_rig_with(round % 3 == 0 ? VIRTIO_CONSOLE : 0);
        struct engine *ea = grab(a), *eb = grab(b);
        struct rec_buf saved = {0}, again = {0};
        struct error e = {0};
        u64 seed = round * 0x9e3779b97f4a7c15ull, s2;
        for (u64 i = rnd_below(&seed, 400); i; i--)
            random_access(a, ea, &seed);
        if (run(a) > BOARD_WAIT)
            board_reset(a->board);
        assert_int_equal(board_save(a->board, &saved), 0);
        b->time = a->time;
        memcpy(b->ram, a->ram, RAM);
        if (board_load(b->board, saved.data, saved.len, &e))
            fail_msg("round %d: %s", (int)round, e.msg);
        memcpy(b->ram, a->ram, RAM); /* kvmclock tells the loaded guest that it was stopped */
        assert_true(eb->changed == 1);
        assert_int_equal(board_save(b->board, &again), 0);
        assert_int_equal(saved.len, again.len);
        s2 = seed;
        for (unsigned i = 0; i < 300; i++) {
            u64 ra = random_access(a, ea, &seed), rb = random_access(b, eb, &s2);
            if (ra != rb || board_cpu(a->board, 0)->attention != board_cpu(b->board, 0)->attention)
                fail_msg("round %d, step %u: %llx and %llx", (int)round, i, (unsigned long long)ra,
                         (unsigned long long)rb);
        }
        rec_buf_free(&saved);
        rec_buf_free(&again);
        close_rig(a);
        close_rig(b);
    }
}

/* Find record number `n` in a buffer: its offset and length. */
static size_t record_at(const struct rec_buf *b, unsigned n, size_t *len)
{
    struct rec_view v;
    size_t pos = 0, start = 0;
    do {
        start = pos;
        if (rec_next(b->data, b->len, &pos, &v, NULL) != 1)
            return SIZE_MAX;
    } while (n--);
    *len = pos - start;
    return start;
}

static void refused(struct rig *g, const u8 *data, size_t len, const char *why)
{
    struct rec_buf before = {0}, after = {0};
    struct error e = {0};
    assert_int_equal(board_save(g->board, &before), 0);
    assert_true(board_load(g->board, data, len, &e) < 0);
    if (!strstr(e.msg, why))
        fail_msg("\"%s\" does not say \"%s\"", e.msg, why);
    assert_int_equal(board_save(g->board, &after), 0);
    assert_int_equal(before.len, after.len);
    assert_memory_equal(before.data, after.data, before.len);
    rec_buf_free(&before);
    rec_buf_free(&after);
}

/* Missing, doubled, damaged, unknown records: refused, and nothing has changed. */
static void load_checks_everything_first(void **state)
{
    struct rig *g = *state, *other = open_rig();
    struct engine *en = grab(other);
    struct rec_buf b = {0};
    struct error e = {0};
    size_t at, len;
    port_out(en, 0x3ff, 1, 0x77); /* differs from g in the first and in the last record */
    wrmsr(other, en, MSR_STAR, 0x1234);
    port_out(en, 0xcf9, 1, 2);
    other->time.ns += 12345;
    assert_int_equal(board_save(other->board, &b), 0);
    u8 *copy = malloc(2 * b.len);
    for (unsigned n = 0; (at = record_at(&b, n, &len)) != SIZE_MAX; n++) {
        memcpy(copy, b.data, at);
        memcpy(copy + at, b.data + at + len, b.len - at - len);
        refused(g, copy, b.len - len, "missing");
        memcpy(copy, b.data, b.len);
        memcpy(copy + b.len, b.data + at, len);
        refused(g, copy, b.len + len, "more than once");
        memcpy(copy, b.data, b.len);
        copy[at + 6] ^= 1; /* instance */
        refused(g, copy, b.len, "record");
        memcpy(copy, b.data, b.len);
        copy[at + 4] = 9; /* version */
        refused(g, copy, b.len, "version 9");
        memcpy(copy, b.data, b.len);
        copy[at + len - 1] ^= 0x40;
        refused(g, copy, b.len, "checksum");
        refused(g, b.data, at + len - 1, "damaged");
    }
    memcpy(copy, b.data, b.len);
    memcpy(copy + b.len, "WHAT\1\0\0\0\0\0\0\0\0\0\0\0", 16);
    refused(g, copy, b.len + 16, "no such part");
    refused(g, copy, 0, "missing");
    if (board_load(g->board, b.data, b.len, &e))
        fail_msg("%s", e.msg);
    assert_int_equal(port_in(grab(g), 0x3ff, 1), 0x77);
    free(copy);
    rec_buf_free(&b);
    close_rig(other);
}

/* What was saved of a machine with one transport has no place in one with the other. */
static void transports_do_not_mix(void **state)
{
    struct rig *pci = *state, *mmio = open_rig_with(MMIO), *again = open_rig_with(MMIO);
    struct rec_buf a = {0}, b = {0};
    struct error e = {0};
    assert_int_equal(board_save(pci->board, &a), 0);
    assert_int_equal(board_save(mmio->board, &b), 0);
    refused(mmio, a.data, a.len, "nothing in slot 1");
    refused(pci, b.data, b.len, "no such part");
    assert_int_equal(board_load(again->board, b.data, b.len, &e), 0);
    close_rig(mmio);
    close_rig(again);
    rec_buf_free(&a);
    rec_buf_free(&b);
}

/* A request of the entropy device in window 1, its ring on the page behind 10000h. */
static void ask_for_bytes(struct rig *g, struct engine *en, u16 n)
{
    u8 *ram = (u8 *)g->ram + 0x10000;
    const u64 at = 0x20000;
    const u32 len = 16;
    const u16 write = 2;
    memcpy(ram, &at, 8);
    memcpy(ram + 8, &len, 4);
    memcpy(ram + 12, &write, 2);
    memcpy(ram + 0x1002, &n, 2);
    poke(g, en, VIRTIO_MMIO_BASE + VIRTIO_MMIO_STRIDE + 0x50, 4, 0);
}

/* A level: it comes again after each EOI until the driver has acknowledged it, and not after that. */
static void windows_interrupt_by_level(void **state)
{
    static const u32 steps[][2] = {{0x70, 0},       {0x70, 3},       {0x24, 1},       {0x20, 1},
                                   {0x70, 11},      {0x38, 8},       {0x80, 0x10000}, {0x84, 0},
                                   {0x90, 0x11000}, {0xa0, 0x12000}, {0x44, 1},       {0x70, 15}};
    const u64 window = VIRTIO_MMIO_BASE + VIRTIO_MMIO_STRIDE;
    struct rig *g = open_rig_with(MMIO);
    struct engine *en = grab(g);
    assert_int_equal(peek(g, en, window + 8, 4), 4);
    assert_int_equal(peek(g, en, window - VIRTIO_MMIO_STRIDE + 8, 4), 0);
    poke(g, en, 0xfee000f0, 4, 0x1ff);
    poke(g, en, 0xfec00000, 4, 0x10 + 2 * GSI_VIRTIO_MMIO(1));
    poke(g, en, 0xfec00010, 4, 0x51 | 1 << 15);
    for (unsigned i = 0; i < ARRAY_LEN(steps); i++)
        poke(g, en, window + steps[i][0], 4, steps[i][1]);
    assert_int_equal(peek(g, en, window + 0x70, 4), 15);
    halt_with_interrupts(g);
    run(g);
    assert_int_equal(g->vectors[0x51], 0);
    for (u16 n = 1; n <= 3; n++) {
        ask_for_bytes(g, en, n);
        for (unsigned i = 1; i <= 3; i++) {
            halt_with_interrupts(g);
            run(g);
            assert_int_equal(g->vectors[0x51], 4 * (n - 1) + i);
            halt_with_interrupts(g);
            run(g); /* in service */
            assert_int_equal(g->vectors[0x51], 4 * (n - 1) + i);
            poke(g, en, 0xfee000b0, 4, 0);
        }
        halt_with_interrupts(g);
        run(g);
        assert_int_equal(peek(g, en, window + 0x60, 4), 1);
        poke(g, en, window + 0x64, 4, 1);
        poke(g, en, 0xfee000b0, 4, 0);
        halt_with_interrupts(g);
        run(g);
        assert_int_equal(g->vectors[0x51], 4 * n);
    }
    close_rig(g);
}

/* Booting resets the machine and takes the CPU's state from a record; the TSC goes on. */
static void boot_sets_the_cpu(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    struct cpu *c = board_cpu(g->board, 0);
    struct rec_buf b = {0};
    struct error e = {0};
    c->rip = 0x123456;
    assert_int_equal(rec_save(&b, &cpu_record, 0, c), 0);
    port_out(en, 0x3ff, 1, 0x77);
    port_out(en, 0xf4, 1, 1);
    assert_int_equal(run(g), BOARD_DEBUG_EXIT);
    g->time.ns += 1000;
    u64 tsc = rdmsr(g, en, MSR_TSC);
    unsigned changed = en->changed;
    assert_int_equal(board_boot(g->board, b.data, b.len, &e), 0);
    assert_int_equal(c->rip, 0x123456);
    assert_int_equal(rdmsr(g, en, MSR_TSC), tsc);
    assert_int_equal(port_in(en, 0x3ff, 1), 0);
    assert_true(en->changed > changed);
    assert_int_equal(run(g), BOARD_RUN);
    assert_true(board_boot(g->board, b.data, b.len - 1, &e) < 0);
    assert_true(board_boot(g->board, NULL, 0, NULL) < 0);
    b.data[20] ^= 1;
    assert_true(board_boot(g->board, b.data, b.len, NULL) < 0);
    rec_buf_free(&b);
}

/* The event of a machine that has ended does not outlive loading another state into it. */
static void load_revives(void **state)
{
    struct rig *g = *state;
    struct rec_buf b = {0};
    struct engine *en = grab(g);
    assert_int_equal(board_save(g->board, &b), 0);
    port_out(en, 0x604, 2, 0x2000 | SLP_TYP_S5 << 10);
    assert_int_equal(run(g), BOARD_POWEROFF);
    assert_int_equal(board_load(g->board, b.data, b.len, NULL), 0);
    g->guest = capture;
    assert_int_equal(run(g), BOARD_WAIT);
    rec_buf_free(&b);
}

static void hostile_accesses(void **state)
{
    struct rig *g = *state;
    struct engine *en = grab(g);
    struct cpu *c = board_cpu(g->board, 0);
    u64 seed = 99, v;
    for (unsigned i = 0; i < 200000; i++) {
        u64 a = 0xfec00000 + rnd_below(&seed, 0x202000);
        unsigned size = 1u << rnd_below(&seed, 4);
        switch (rnd_below(&seed, 6)) {
        case 0:
            poke(g, en, a, size, rnd(&seed));
            break;
        case 1:
            peek(g, en, rnd_below(&seed, 8) ? a : rnd(&seed), size);
            break;
        case 2:
            port_out(en, (u16)rnd(&seed), MIN(size, 4), (u32)rnd(&seed));
            break;
        case 3:
            port_in(en, (u16)rnd(&seed), MIN(size, 4));
            break;
        case 4:
            wrmsr(g, en, rnd_below(&seed, 2) ? 0x800 + (u32)rnd_below(&seed, 0x100) : (u32)rnd_below(&seed, 0x700),
                  rnd(&seed));
            en->cfg.ops->msr_read(en->cfg.ops_ctx, c, (u32)rnd_below(&seed, 0xa00), &v);
            break;
        default:
            random_access(g, en, &seed);
        }
        if (i % 256 == 0 && run(g) > BOARD_WAIT)
            board_reset(g->board);
    }
}

static void explanations_pass_through(void **state)
{
    struct rig *g = *state;
    struct engine_explain x;
    struct error e = {0};
    assert_int_equal(board_explain(g->board, 0x1234, false, &x, &e), 0);
    assert_int_equal(x.address, 0x1234);
    assert_int_equal(x.start, 0x1230);
    assert_int_equal(x.n, 0);
    struct cpu *c = board_cpu(g->board, 0); /* real mode: linear is not RIP */
    c->seg[SEG_CS].base = 0x1000;
    c->rip = 0x42;
    assert_int_equal(board_explain(g->board, 0, true, &x, &e), 0);
    assert_int_equal(x.address, 0x1042);
    assert_int_equal(board_explain(g->board, 0x10, false, &x, &e), -ENOENT);
    assert_string_equal(e.msg, "0x10: no code mapped there in the present address space");
    e = (struct error){0};
    assert_int_equal(board_explain(g->board, 0x2000, false, &x, &e), -EOPNOTSUPP);
    assert_non_null(strstr(e.msg, "fake"));
}

#define T(f) cmocka_unit_test_setup_teardown(f, setup, teardown)

int main(void)
{
    const struct CMUnitTest tests[] = {
        T(unassigned_space_reads_ones),
        T(controllers_answer),
        T(msrs_are_routed),
        T(firmware_left_virtual_wire_mode),
        T(events_stay_until_reset),
        T(engine_stops),
        T(init_of_the_only_cpu),
        T(kick_and_budget),
        T(halt_waits_for_what_can_be_delivered),
        T(pause_stops_time),
        T(tsc_write_moves_the_deadline),
        T(kvmclock_follows),
        T(pv_eoi_in_guest_memory),
        T(console_both_ways),
        T(two_consoles),
        T(power_button_interrupts),
        T(generations),
        T(statistics_pass_through),
        T(explanations_pass_through),
        cmocka_unit_test(saved_boards_go_on_alike),
        T(transports_do_not_mix),
        cmocka_unit_test(windows_interrupt_by_level),
        T(load_checks_everything_first),
        T(boot_sets_the_cpu),
        T(load_revives),
        T(hostile_accesses),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
