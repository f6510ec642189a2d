/*
 * The cell: the process that is the guest's own trust domain.
 *
 * It is this program, run again with CELL_ARG, an empty environment and four descriptors (enum link_fd). It maps guest
 * memory and the link, makes the board (the engine puts its native stubs into executable memory now), gives up what it
 * could do to the host, and tells the keeper that it is ready. From then on it counts as the guest's: it can compute, use
 * private memory, sleep on one event and signal another. The keeper kills it when the machine ends; there is no way to
 * ask it to.
 *
 * One loop, and with one CPU one thread:
 *
 *     take messages -> move data and console bytes -> run the guest for a slice -> tell the keeper what is new
 *          ^                                                                                  |
 *          +---- sleep until an event or the next timer, when the guest halts or is paused <--+
 *
 * A slice is a few milliseconds, which bounds how long a message waits. The keeper is told of console output between
 * slices, not for each byte. Before sleeping the door is closed and every ring looked at once more (base/ring.h).
 *
 * With several CPUs each has a thread (board_run.c), and this loop does what is left. Console bytes then move in the threads of CPUs,
 * too, always under the board's lock; a CPU's thread tells the keeper behind its slice. Whoever changes the machine as a whole
 * halts the CPUs first.
 *
 * What must stay true
 *  1. Nothing is opened, and no thread started, after the seal; allocation works (private memory).
 *  2. The loop sleeps when there is nothing to do: an idle guest costs a wake-up a timer.
 */
#include "base/record.h"
#include "host/host.h"
#include "vm/cell_disk.h"
#include "vm/cell_lazy.h"
#include "vm/cell_log.h"
#include "vm/cell_net.h"
#include "vm/cell_share.h"
#include "vm/cell_vsock.h"
#include "vm/explain.h"
#include "vm/launch.h"
#include "vm/link.h"
#include "base/vigil.h"

#include <errno.h>
#include <malloc.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define SLICE_INSTRUCTIONS 200000u
#define SLICE_SHORT        4096u /* while keys wait for the UART: it may take but one at a time; while it is throttled */
#define RETRY_NS           5000000u /* between looks at a message ring that is full */
#define TYPING_NS          1000000u /* ... while CPUs have threads of their own */
#define INPUT_MAX          256u

enum cell_state {
    CELL_EMPTY, /* nothing to run: waits for DOWN_BOOT */
    CELL_RUN,
    CELL_PAUSED,
};

struct cell {
    struct link link;
    struct link_config cfg;
    struct board *board;
    struct cell_nets nets;
    struct cell_shares shares;
    struct cell_lazy lazy;
    struct host_cell_seal seal;
    struct vigil vigil; /* while a disk works */
    enum cell_state state;
    bool threads;      /* each CPU has one */
    bool news;         /* something was put into a ring since the keeper was last told; atomic */
    bool console_full; /* the guest has output that did not fit */
    u8 input[INPUT_MAX];
    u32 input_len;
    struct rec_buf out; /* data on its way up, from out_at on */
    size_t out_at;
    struct link_msg taking; /* a message whose data is being collected */
    u8 *in;                 /* that data: few[], if it fits there */
    u8 few[64];             /* so that what is asked of a running machine needs no memory */
    u32 in_got;
};

/* The keeper has broken the protocol, or ended: there is nobody to tell. */
__attribute__((noreturn)) static void cell_abandon(void)
{
    _exit(VM_EXIT_HOST);
}

static u32 must(s64 n)
{
    if (n < 0)
        cell_abandon();
    return (u32)n;
}

/* --- the CPUs --- */

static void cpus_halt(struct cell *c)
{
    if (c->threads)
        board_halt(c->board);
}

static void cpus_go(struct cell *c)
{
    if (c->threads && c->state == CELL_RUN)
        board_go(c->board);
}

static void tell(struct cell *c)
{
    if (__atomic_exchange_n(&c->news, false, __ATOMIC_RELAXED))
        link_knock(&c->link);
}

/* In the thread of a CPU. */
static void cpu_ran(void *ctx)
{
    tell(ctx);
}

static void cpu_event(void *ctx)
{
    const struct cell *c = ctx;
    host_event_signal(c->link.wake_self);
}

/* No request is on its way when this returns; the guest does not run meanwhile. */
static void drain(struct cell *c)
{
    if (cell_disk_drain(&c->link, c->board) < 0)
        cell_abandon();
    cell_share_drain(&c->shares, c->board, &c->link);
}

/* --- to the keeper --- */

static void pump_out(struct cell *c)
{
    if (c->out_at == c->out.len)
        return;
    u32 n = must(ring_write(&c->link.ring[LINK_DATA_UP], c->out.data + c->out_at, c->out.len - c->out_at));
    c->out_at += n;
    if (n)
        __atomic_store_n(&c->news, true, __ATOMIC_RELAXED);
    if (c->out_at == c->out.len) {
        rec_buf_free(&c->out);
        c->out_at = 0;
    }
}

/* Put `len` bytes behind what is already on its way. 0 or -ENOMEM. */
static int queue_out(struct cell *c, const void *data, u32 len)
{
    size_t left = c->out.len - c->out_at;
    u8 *p = malloc(left + len);
    if (!p)
        return -ENOMEM;
    if (left)
        memcpy(p, c->out.data + c->out_at, left);
    memcpy(p + left, data, len);
    rec_buf_free(&c->out);
    c->out = (struct rec_buf){.data = p, .len = left + len, .cap = left + len};
    c->out_at = 0;
    return 0;
}

/* For want of memory the data is left out: an answer is a failure then, and the guest lives on. */
static void cell_send(struct cell *c, struct link_msg m, const void *data, u32 len)
{
    bool whole = !len || queue_out(c, data, len) == 0;
    m.len = whole ? len : 0;
    if (!whole && m.kind == UP_DONE)
        m.result = ENOMEM;
    while (!must(ring_write(&c->link.ring[LINK_MSG_UP], &m, sizeof(m)))) {
        host_event_signal(c->link.wake_peer);
        host_event_wait(c->link.wake_self, host_ns(NULL) + RETRY_NS);
    }
    __atomic_store_n(&c->news, true, __ATOMIC_RELAXED);
    pump_out(c);
}

static void cell_done(struct cell *c, u64 id, const struct error *e)
{
    u32 len = e->code ? (u32)strlen(e->msg) : 0;
    cell_send(c, (struct link_msg){.kind = UP_DONE, .id = id, .result = (u32)e->code}, e->msg, len);
}

static void cell_stopped(struct cell *c, enum board_event event, const char *line)
{
    char text[LINK_TEXT_MAX];
    drain(c);
    cell_lazy_drop(&c->lazy);
    size_t len = strnlen(line, 1024);
    memcpy(text, line, len);
    text[len] = 0;
    if (event == BOARD_SHUTDOWN || event == BOARD_UNIMPLEMENTED || event == BOARD_FAILURE) {
        text[len++] = '\n';
        cpu_describe(board_cpu(c->board, 0), text + len, sizeof(text) - len);
        len += strnlen(text + len, sizeof(text) - len - 1);
    }
    c->state = CELL_EMPTY;
    cell_send(c, (struct link_msg){.kind = UP_STOPPED, .event = (u32)event, .value = board_exit_value(c->board)}, text,
              (u32)len);
}

/* What the guest sends to COM1 and to the virtio console. */
static size_t console_out(void *ctx, const u8 *data, size_t len)
{
    struct cell *c = ctx;
    u32 n = must(ring_write(&c->link.ring[LINK_CONSOLE_UP], data, len));
    c->console_full = n < len;
    if (n)
        __atomic_store_n(&c->news, true, __ATOMIC_RELAXED);
    return n;
}

/* Add what was typed to `input`, as far as it goes. */
static void take_input(struct cell *c)
{
    c->input_len += must(link_read(&c->link, LINK_CONSOLE_DOWN, c->input + c->input_len, INPUT_MAX - c->input_len));
}

static void input_given(struct cell *c, size_t n)
{
    c->input_len -= (u32)n;
    memmove(c->input, c->input + n, c->input_len);
}

/* A guest that polls COM1, or has buffers for its virtio console again, asks for more in the middle of a slice. */
static size_t console_in(void *ctx, u8 *data, size_t len)
{
    struct cell *c = ctx;
    if (!c->input_len)
        take_input(c);
    size_t n = MIN(len, (size_t)c->input_len);
    memcpy(data, c->input, n);
    input_given(c, n);
    return n;
}

/* --- from the keeper --- */

static void do_boot(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    cpus_halt(c);
    if (c->state == CELL_PAUSED)
        board_resume(c->board);
    c->state = CELL_RUN;
    board_log_all(c->board); /* the keeper has put a kernel there */
    board_new_generation(c->board, false);
    if (board_boot(c->board, c->in, m->len, &e) < 0)
        cell_stopped(c, BOARD_FAILURE, e.msg);
    cpus_go(c);
}

static void do_halt(struct cell *c, const struct link_msg *m)
{
    if (c->state == CELL_EMPTY)
        return; /* it stopped by itself a moment ago and said so */
    cpus_halt(c);
    if (c->state == CELL_PAUSED)
        board_resume(c->board);
    cell_stopped(c, BOARD_RESET, "");
}

static void do_pause(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    cpus_halt(c);
    if (c->state == CELL_RUN)
        board_pause(c->board);
    drain(c);
    if (c->state == CELL_EMPTY)
        error_set(&e, EINVAL, "the machine does not run");
    else
        c->state = CELL_PAUSED;
    cell_done(c, m->id, &e);
}

static void do_resume(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    if (c->state == CELL_PAUSED)
        board_resume(c->board);
    if (c->state == CELL_EMPTY)
        error_set(&e, EINVAL, "the machine does not run");
    else
        c->state = CELL_RUN;
    cpus_go(c);
    cell_done(c, m->id, &e);
}

static void do_power(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    board_lock_devices(c->board);
    if (c->state != CELL_EMPTY)
        board_power_button(c->board);
    board_unlock_devices(c->board);
    cell_done(c, m->id, &e);
}

static void do_size(struct cell *c, const struct link_msg *m)
{
    board_lock_devices(c->board);
    board_console_size(c->board, LINK_SIZE_COLS(m->value), LINK_SIZE_ROWS(m->value));
    board_unlock_devices(c->board);
}

static void do_announce(struct cell *c, const struct link_msg *m)
{
    board_lock_devices(c->board);
    board_net_announce(c->board);
    board_unlock_devices(c->board);
}

static void do_stats(struct cell *c, const struct link_msg *m)
{
    struct link_stats s = {0};
    board_stats(c->board, &s.engine);
    board_lock_devices(c->board);
    board_balloon_info(c->board, &s.balloon);
    board_unlock_devices(c->board);
    cell_send(c, (struct link_msg){.kind = UP_DONE, .id = m->id}, &s, sizeof(s));
}

static void do_balloon(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    struct balloon_ask ask;
    struct balloon_info info;
    if (m->len != sizeof(ask))
        cell_abandon();
    memcpy(&ask, c->in, sizeof(ask));
    board_lock_devices(c->board);
    if (ask.set)
        board_balloon_set(c->board, ask.target, &e);
    if (ask.refresh && c->state == CELL_RUN) /* else the guest's memory stays as it is */
        board_balloon_ask(c->board);
    board_balloon_info(c->board, &info);
    board_unlock_devices(c->board);
    if (e.code)
        cell_done(c, m->id, &e);
    else
        cell_send(c, (struct link_msg){.kind = UP_DONE, .id = m->id}, &info, sizeof(info));
}

static void do_explain(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    struct explain_ask ask;
    struct engine_explain x;
    if (m->len != sizeof(ask))
        cell_abandon();
    memcpy(&ask, c->in, sizeof(ask));
    cpus_halt(c);
    if (c->state == CELL_EMPTY)
        error_set(&e, EINVAL, "the machine does not run");
    else
        board_explain(c->board, ask.address, ask.at_rip, &x, &e);
    cpus_go(c);
    if (e.code)
        cell_done(c, m->id, &e);
    else
        cell_send(c, (struct link_msg){.kind = UP_DONE, .id = m->id}, &x, sizeof(x));
}

static void do_log_start(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    cell_log_start(c->board, &e);
    cell_done(c, m->id, &e);
}

/* The CPUs run on. */
static void do_log_take(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    struct log_ask ask;
    u64 *words = NULL;
    if (m->len != sizeof(ask))
        cell_abandon();
    memcpy(&ask, c->in, sizeof(ask));
    s64 n = cell_log_take(c->board, &ask, &words, &e);
    if (n < 0)
        cell_done(c, m->id, &e);
    else
        cell_send(c, (struct link_msg){.kind = UP_DONE, .id = m->id}, words, (u32)n);
    free(words);
}

static void do_throttle(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    u32 share;
    if (m->len != sizeof(share))
        cell_abandon();
    memcpy(&share, c->in, sizeof(share));
    board_throttle(c->board, share);
    cell_done(c, m->id, &e);
}

static void do_log_stop(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    board_throttle(c->board, 0);
    board_log_stop(c->board);
    if (m->id) /* else nobody asked: who had it is gone */
        cell_done(c, m->id, &e);
}

static void do_save(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    struct rec_buf b = {0};
    int r = c->state == CELL_PAUSED ? board_save(c->board, &b) : -EBUSY;
    if (r < 0)
        error_set(&e, -r, "save: %s", r == -EBUSY ? "pause the machine first" : strerror(-r));
    else if (b.len > LINK_SAVE_MAX)
        error_set(&e, EFBIG, "save: %zu bytes of records, %u are allowed", b.len, LINK_SAVE_MAX);
    if (e.code)
        cell_done(c, m->id, &e);
    else
        cell_send(c, (struct link_msg){.kind = UP_DONE, .id = m->id}, b.data, (u32)b.len);
    rec_buf_free(&b);
}

/* Into a machine that is paused, or has not run yet: then it is paused afterwards. */
static void do_load(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    bool fresh = c->state == CELL_EMPTY;
    if (c->state == CELL_RUN)
        error_set(&e, EBUSY, "load: pause the machine first");
    if (fresh)
        board_pause(c->board);
    if (!e.code && board_load(c->board, c->in, m->len, &e) == 0)
        c->state = CELL_PAUSED;
    else if (fresh)
        board_resume(c->board);
    if (fresh && !e.code && c->cfg.lazy == LINK_LAZY_FILE)
        cell_lazy_go(&c->lazy, false);
    c->console_full = true; /* what waited for room there waits here, with nobody to say that there is some */
    cell_done(c, m->id, &e);
}

/* Also while it is paused, or has not been started yet. */
static void do_swing(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    char name[sizeof(c->cfg.engine)];
    if (!m->len || m->len >= sizeof(name))
        cell_abandon();
    memcpy(name, c->in, m->len);
    name[m->len] = 0;
    cpus_halt(c);
    board_swing(c->board, name, &e);
    cpus_go(c);
    cell_done(c, m->id, &e);
}

/* The machine goes on elsewhere: what has come for it since it was stopped goes after it. */
static void do_frames_take(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    u8 *data = malloc(LINK_FRAMES_MAX);
    size_t n = 0;
    if (!data || c->state != CELL_PAUSED)
        error_set(&e, data ? EBUSY : ENOMEM, "frames: the machine has to stand still");
    else
        n = board_net_take(c->board, data, LINK_FRAMES_MAX);
    if (e.code)
        cell_done(c, m->id, &e);
    else
        cell_send(c, (struct link_msg){.kind = UP_DONE, .id = m->id}, data, (u32)n);
    free(data);
}

static void do_frames_give(struct cell *c, const struct link_msg *m)
{
    struct error e = {0};
    board_lock_devices(c->board);
    if (c->state != CELL_RUN)
        error_set(&e, EBUSY, "frames: the machine does not run");
    else if (board_net_give(c->board, c->in, m->len) < 0)
        error_set(&e, EINVAL, "frames: one of them can not be");
    board_unlock_devices(c->board);
    cell_done(c, m->id, &e);
}

/* Before it goes on. */
static void do_fresh(struct cell *c, const struct link_msg *m)
{
    board_lock_devices(c->board);
    board_new_generation(c->board, true);
    board_unlock_devices(c->board);
}

static void do_fill(struct cell *c, const struct link_msg *m)
{
    cell_lazy_go(&c->lazy, true);
}

static void (*const actions[DOWN_COUNT])(struct cell *, const struct link_msg *) = {
    [DOWN_BOOT] = do_boot,
    [DOWN_HALT] = do_halt,
    [DOWN_PAUSE] = do_pause,
    [DOWN_RESUME] = do_resume,
    [DOWN_POWER] = do_power,
    [DOWN_STATS] = do_stats,
    [DOWN_SAVE] = do_save,
    [DOWN_LOAD] = do_load,
    [DOWN_EXPLAIN] = do_explain,
    [DOWN_BALLOON] = do_balloon,
    [DOWN_SIZE] = do_size,
    [DOWN_LOG_START] = do_log_start,
    [DOWN_LOG_TAKE] = do_log_take,
    [DOWN_LOG_STOP] = do_log_stop,
    [DOWN_ANNOUNCE] = do_announce,
    [DOWN_SWING] = do_swing,
    [DOWN_THROTTLE] = do_throttle,
    [DOWN_FRAMES_TAKE] = do_frames_take,
    [DOWN_FRAMES_GIVE] = do_frames_give,
    [DOWN_FRESH] = do_fresh,
    [DOWN_FILL] = do_fill,
};

/* Whether all data of the message in `taking` is there. */
static bool collect(struct cell *c)
{
    const struct link_msg *m = &c->taking;
    if (!c->in && !(c->in = m->len <= sizeof(c->few) ? c->few : malloc(m->len)))
        cell_abandon();
    c->in_got += must(link_read(&c->link, LINK_DATA_DOWN, c->in + c->in_got, m->len - c->in_got));
    return c->in_got == m->len;
}

/* One message or a part of its data; whether anything happened. */
static bool take_message(struct cell *c)
{
    struct link_msg *m = &c->taking;
    if (!m->kind) {
        if (!must(link_read(&c->link, LINK_MSG_DOWN, m, sizeof(*m))))
            return false;
        if (m->kind == DOWN_NONE || m->kind >= DOWN_COUNT || m->len > LINK_SAVE_MAX)
            cell_abandon();
    }
    u32 before = c->in_got;
    if (m->len && !collect(c))
        return c->in_got != before;
    struct link_msg whole = *m;
    m->kind = DOWN_NONE;
    actions[whole.kind](c, &whole);
    if (c->in != c->few)
        free(c->in);
    c->in = NULL;
    c->in_got = 0;
    return true;
}

/* Move typed bytes to the guest; whether any moved. */
static bool give_input(struct cell *c)
{
    size_t n = 0;
    if (c->state != CELL_RUN)
        return false;
    board_lock_devices(c->board);
    take_input(c);
    if (c->input_len)
        n = board_console_input(c->board, c->input, c->input_len);
    input_given(c, n);
    board_unlock_devices(c->board);
    return n > 0;
}

/* Offer refused output again once there is room; whether there was. */
static bool flush_console(struct cell *c)
{
    bool room = false;
    if (c->state == CELL_PAUSED || !c->board)
        return false;
    board_lock_devices(c->board);
    if (c->console_full) {
        ring_mark_starved(&c->link.ring[LINK_CONSOLE_UP]); /* the mark may have been taken before the ring was full */
        room = must(ring_room(&c->link.ring[LINK_CONSOLE_UP]));
    }
    if (room) {
        c->console_full = false;
        board_console_flush(c->board, c->state == CELL_RUN);
    }
    board_unlock_devices(c->board);
    return room;
}

/* --- the loop --- */

/* Everything but the guest itself; whether anything happened. */
static bool serve(struct cell *c)
{
    bool busy = false;
    while (take_message(c))
        busy = true;
    busy |= give_input(c);
    if (c->board)
        busy |= must(cell_disk_serve(&c->link, c->board)) > 0;
    if (c->state == CELL_RUN) { /* else the guest's memory stays as it is */
        busy |= cell_net_serve(c->board);
        busy |= cell_share_serve(c->board);
    }
    if (c->board)
        busy |= must(cell_vsock_serve(&c->link, c->board)) > 0;
    busy |= flush_console(c);
    pump_out(c);
    tell(c);
    return busy;
}

static void sleep_until(struct cell *c, u64 deadline)
{
    bool soon = board_disk_busy(c->board);
    if (soon)
        vigil_begin(&c->vigil, host_ns(NULL));
    if (!soon || !host_event_watch(c->link.wake_self, MIN(deadline, vigil_limit(&c->vigil))))
        host_event_wait(c->link.wake_self, deadline);
    if (soon)
        vigil_end(&c->vigil, host_ns(NULL));
}

static void rest(struct cell *c, u64 deadline)
{
    ring_door_close(c->link.own);
    cell_net_doors(&c->nets, true);
    cell_share_doors(&c->shares, true);
    if (!serve(c))
        sleep_until(c, deadline);
    cell_net_doors(&c->nets, false);
    cell_share_doors(&c->shares, false);
    ring_door_open(c->link.own);
}

/* Whether the UART has to be looked at again soon. (A virtio console asks by itself when it has room.) */
static bool keys_wait(const struct cell *c)
{
    return c->input_len && !c->cfg.virtio_console;
}

/* With threads: they run the guest; here is only what the keeper wants, and events. */
static void watch_cpus(struct cell *c)
{
    char text[1024];
    enum board_event event = board_event(c->board, text, sizeof(text));
    if (event != BOARD_RUN) {
        cpus_halt(c);
        cell_stopped(c, event, text);
        return;
    }
    rest(c, keys_wait(c) ? host_ns(NULL) + TYPING_NS : UINT64_MAX);
}

/* The guest has to write less: everybody else is served meanwhile. */
static void stand_still(struct cell *c, u64 ns)
{
    u64 end = ns ? host_ns(NULL) + ns : 0;
    while (ns && c->state == CELL_RUN && board_throttle_ns(c->board, ns) && host_ns(NULL) < end)
        rest(c, end);
}

__attribute__((noreturn)) static void cell_loop(struct cell *c)
{
    char text[1024];
    for (;;) {
        serve(c);
        if (c->state != CELL_RUN) {
            rest(c, UINT64_MAX);
            continue;
        }
        if (c->threads) {
            watch_cpus(c);
            continue;
        }
        text[0] = 0;
        u64 slice = keys_wait(c) || board_throttle_ns(c->board, SLICE_INSTRUCTIONS) ? SLICE_SHORT : SLICE_INSTRUCTIONS;
        u64 start = slice == SLICE_SHORT ? host_thread_ns() : 0;
        enum board_event event = board_run(c->board, slice, text, sizeof(text));
        stand_still(c, start ? board_throttle_ns(c->board, host_thread_ns() - start) : 0);
        if (event == BOARD_WAIT)
            rest(c, board_next_deadline(c->board));
        else if (event != BOARD_RUN)
            cell_stopped(c, event, text);
    }
}

/* --- before the seal --- */

static int make_board(struct cell *c, struct error *e)
{
    struct board_config b = {
        .cpus = (unsigned)c->cfg.cpus,
        .ram_size = c->cfg.ram_size,
        .ram_fd = LINK_FD_RAM,
        .cpu_model = c->cfg.cpu_model,
        .engine = engine_find(c->cfg.engine),
        .can_swing = true,
        .code_cache = (size_t)c->cfg.code_cache,
        .virtio_mmio = c->cfg.virtio_mmio,
        .tsc_hz = c->cfg.tsc_hz,
        .wall_ns = host_wall_ns(),
        .console_out = console_out,
        .console_in = console_in,
        .console_ctx = c,
        .virtio_console = c->cfg.virtio_console,
    };
    if (!b.engine)
        return error_set(e, EINVAL, "engine %s: not in this program, or not for this host", c->cfg.engine);
    cell_disk_setup(&b, &c->cfg, &c->link);
    int r = cell_net_setup(&c->nets, &b, &c->cfg, &c->seal, e);
    if (r < 0 || (r = cell_share_setup(&c->shares, &b, &c->cfg, &c->seal, e)) < 0)
        return r;
    cell_vsock_setup(&b, &c->link);
    b.ram = host_map_shared(LINK_FD_RAM, b.ram_size, e);
    if (!b.ram)
        return -ENOMEM;
    return board_create(&c->board, &b, e);
}

static int get_ready(struct cell *c, struct error *e)
{
    c->seal =
        (struct host_cell_seal){.wake_self = LINK_FD_WAKE_CELL, .wake_peer = LINK_FD_WAKE_KEEPER, .ram = LINK_FD_RAM};
    int r = link_take_config(&c->link, &c->cfg, e);
    c->threads = r == 0 && c->cfg.cpus > 1;
    if (c->threads)
        mallopt(M_ARENA_MAX, 1); /* each arena takes 64 MiB of what the process may map */
    if (r < 0 || (r = make_board(c, e)) < 0 ||
        (r = cell_lazy_setup(&c->lazy, &c->cfg, board_mem(c->board), &c->seal, e)) < 0)
        return r;
    if (c->threads && (r = board_start_threads(c->board, cpu_event, cpu_ran, c, e)) < 0)
        return r;
    if ((r = host_confine(true, e)) < 0)
        return r;
    return host_seal_cell(&c->seal, e);
}

int cell_main(int argc, char **argv)
{
    struct error e = {0};
    struct cell *c = calloc(1, sizeof(*c));
    host_process_name("trapeze-cell");
    void *base = c ? host_map_shared(LINK_FD_LINK, link_size(), &e) : NULL;
    if (!base)
        return VM_EXIT_HOST; /* nobody to tell: started by hand */
    link_attach(&c->link, base, true, LINK_FD_WAKE_CELL, LINK_FD_WAKE_KEEPER);
    close(LINK_FD_LINK);
    if (get_ready(c, &e) < 0) {
        cell_send(c, (struct link_msg){.kind = UP_FAILED}, e.msg, (u32)strlen(e.msg));
        serve(c);
        return VM_EXIT_HOST;
    }
    cell_send(c, (struct link_msg){.kind = UP_READY}, NULL, 0);
    cell_loop(c);
}
