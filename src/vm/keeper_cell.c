/*
 * The keeper's end of the link: what the cell says, distrusted.
 *
 * The rings (base/ring.h) guarantee that nothing outside is touched whatever the cell writes. Here is the second line:
 * what a message may mean, and when.
 *
 *  1. Kind and length must be in the table (link_check_up).
 *  2. UP_READY and UP_FAILED come once, before anything else; all others only after UP_READY.
 *  3. UP_DONE must carry the id of an op that is outstanding, and answers it for good; its length must fit what was asked,
 *     and what an engine explains must be possible (vm/explain.h).
 *  4. UP_STOPPED must name an event that stops machines, while a guest has been started.
 *
 * Whoever breaks one is no longer a cell of ours: the machine ends with status 3. Console bytes and text are data, never
 * interpreted; text is cleaned before a person sees it. Each call takes a bounded amount, so a cell that floods us delays
 * clients by microseconds. A cell that falls silent costs nothing: ops have deadlines, and `kill` needs no answer.
 */
#include "vm/explain.h"
#include "vm/keeper.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define MESSAGES_AT_ONCE 16
#define CONSOLE_AT_ONCE  16384u
#define DOWN_MAX         (LINK_SAVE_MAX + (1u << 20))
#define SAVE_NS          60000000000ull
#define LACKS_NS         1000000000ull /* of a guest that may stand still for want of a page: nobody waits longer */

/* The cell lied: what it said wrongly is in `e`. */
static void hostile(struct keeper *k, const struct error *e)
{
    keeper_end(k, VM_EXIT_HOST, NULL, "the guest's process broke the protocol: %s", e->msg);
}

static bool ring_failed(struct keeper *k, s64 n)
{
    struct error e = {0};
    if (n >= 0)
        return false;
    error_set(&e, EPROTO, "impossible ring index");
    hostile(k, &e);
    return true;
}

int keeper_start_cell(struct keeper *k, struct error *e)
{
    char *const argv[] = {(char[]){"trapeze"}, (char[]){CELL_ARG}, k->cfg.name, NULL};
    struct link_config c = {.magic = LINK_MAGIC,
                            .version = LINK_VERSION,
                            .ram_size = k->cfg.memory,
                            .tsc_hz = k->tsc_hz,
                            .code_cache = k->cfg.code_cache,
                            .cpus = k->cfg.cpus,
                            .virtio_console = vm_config_virtio_console(&k->cfg),
                            .virtio_mmio = vm_config_virtio_mmio(&k->cfg)};
    int wake_cell = host_event_create(e), wake_keeper = host_event_create(e);
    if (wake_cell < 0 || wake_keeper < 0)
        return -EMFILE;
    if ((k->link_fd = host_memfd("trapeze-link", link_size(), e)) < 0)
        return k->link_fd;
    if (!(k->link_base = host_map_shared(k->link_fd, link_size(), e)))
        return -ENOMEM;
    memcpy(c.name, k->cfg.name, sizeof(c.name));
    memcpy(c.cpu_model, k->cfg.cpu_model, sizeof(c.cpu_model));
    strncpy(c.engine, vm_config_engine(&k->cfg), sizeof(c.engine) - 1);
    keeper_describe_disks(k, &c);
    int r = keeper_start_nets(k, wake_cell, e);
    if (r < 0 || (r = keeper_start_shares(k, wake_cell, e)) < 0)
        return r;
    int fds[4 + 2 * NET_COUNT_MAX + 2 * SHARE_COUNT_MAX + 2] = {k->ram_fd, k->link_fd, wake_cell, wake_keeper};
    unsigned n_fds = keeper_describe_nets(k, &c, fds, 4);
    n_fds = keeper_describe_shares(k, &c, fds, n_fds);
    n_fds = keeper_describe_lazy(k, &c, fds, n_fds);
    link_attach(&k->link, k->link_base, false, wake_keeper, wake_cell);
    link_put_config(&k->link, &c);
    return host_spawn_self(&k->cell, argv, fds, n_fds, e);
}

/* --- to the cell --- */

static void pump_down(struct keeper *k)
{
    if (k->down_at == k->down.len)
        return;
    s64 n = ring_write(&k->link.ring[LINK_DATA_DOWN], k->down.data + k->down_at, k->down.len - k->down_at);
    if (ring_failed(k, n))
        return;
    k->down_at += (size_t)n;
    if (k->down_at == k->down.len) {
        rec_buf_free(&k->down);
        k->down_at = 0;
    }
    if (n)
        link_knock(&k->link);
}

static int queue_down(struct keeper *k, const void *data, size_t len)
{
    if (k->down.len + len > DOWN_MAX)
        return -EBUSY; /* a cell that takes messages but not their data */
    if (k->down.cap - k->down.len < len) {
        u8 *p = realloc(k->down.data, k->down.len + len);
        if (!p)
            return -ENOMEM;
        k->down.data = p;
        k->down.cap = k->down.len + len;
    }
    memcpy(k->down.data + k->down.len, data, len);
    k->down.len += len;
    return 0;
}

static int send_down(struct keeper *k, enum link_down kind, u64 id, const void *data, size_t len)
{
    struct link_msg m = {.kind = kind, .id = id, .len = (u32)len};
    struct ring *r = &k->link.ring[LINK_MSG_DOWN];
    s64 room = ring_room(r);
    if (k->ended || ring_failed(k, room) || room < (s64)sizeof(m))
        return -EBUSY;
    int queued = len ? queue_down(k, data, len) : 0;
    if (queued < 0)
        return queued;
    ring_write(r, &m, sizeof(m)); /* there is room, or its answer comes with the next call */
    link_knock(&k->link);
    pump_down(k);
    return 0;
}

int keeper_tell(struct keeper *k, enum link_down kind, const void *data, size_t len)
{
    return send_down(k, kind, 0, data, len);
}

int keeper_ask(struct keeper *k, enum link_down kind, int client, bool for_status, const void *data, size_t len)
{
    for (unsigned i = 0; i < KEEPER_OPS; i++) {
        struct keeper_op *op = &k->ops[i];
        if (op->id)
            continue;
        u64 id = k->last_id + 1, limit = kind == DOWN_SAVE || kind == DOWN_LOAD ? SAVE_NS
                                         : k->lacks                             ? LACKS_NS
                                                                                : KEEPER_OP_NS;
        int r = send_down(k, kind, id, data, len);
        if (r < 0)
            return r;
        k->last_id = id;
        *op = (struct keeper_op){.id = id,
                                 .kind = kind,
                                 .for_status = for_status,
                                 .client = client,
                                 .deadline = host_ns(NULL) + limit,
                                 .hasty = limit == LACKS_NS};
        if (kind == DOWN_SWING)
            op->engine = data;
        if (kind == DOWN_LOG_TAKE)
            op->bytes = (u32)(((const struct log_ask *)data)->pages / 8);
        if (client >= 0)
            k->clients[client].op = id;
        return 0;
    }
    return -EBUSY;
}

int keeper_boot(struct keeper *k, struct error *e)
{
    struct rec_buf rec = {0};
    int r = keeper_load(k, &rec, e);
    if (r == 0 && (r = keeper_tell(k, DOWN_BOOT, rec.data, rec.len)) < 0)
        error_set(e, -r, "the guest's process takes no messages");
    rec_buf_free(&rec);
    if (r == 0)
        keeper_set_state(k, KEEPER_RUNNING);
    return r;
}

/* Move queued keys into the ring. */
static void pump_typed(struct keeper *k)
{
    if (!k->typed_len || k->ended)
        return;
    s64 n = ring_write(&k->link.ring[LINK_CONSOLE_DOWN], k->typed, k->typed_len);
    if (ring_failed(k, n) || !n)
        return;
    k->typed_len -= (u32)n;
    memmove(k->typed, k->typed + n, k->typed_len);
    link_knock(&k->link);
}

size_t keeper_type(struct keeper *k, const u8 *data, size_t len)
{
    size_t n = MIN(len, (size_t)(KEEPER_TYPED - k->typed_len));
    memcpy(k->typed + k->typed_len, data, n);
    k->typed_len += (u32)n;
    pump_typed(k);
    return n;
}

/* Sizes may come at any rate, and only the last counts: they leave half of the ring to messages that are refused where there is no room. */
static bool room_for_size(struct ring *r)
{
    return ring_room(r) >= r->size / 2;
}

static void pump_size(struct keeper *k)
{
    const struct link_msg m = {.kind = DOWN_SIZE, .value = k->size};
    struct ring *r = &k->link.ring[LINK_MSG_DOWN];
    if (!k->size_due || k->ended || !room_for_size(r))
        return;
    s64 n = ring_write(r, &m, sizeof(m));
    if (ring_failed(k, n) || !n)
        return;
    k->size_due = false;
    link_knock(&k->link);
}

void keeper_size(struct keeper *k, u16 cols, u16 rows)
{
    k->size = LINK_SIZE(cols, rows);
    k->size_due = true;
    pump_size(k);
}

/* --- from the cell --- */

static void got_ready(struct keeper *k, const struct link_msg *m, struct error *e)
{
    if (k->ready)
        error_set(e, EPROTO, "ready twice");
    k->ready = true;
}

static void got_failed(struct keeper *k, const struct link_msg *m, struct error *e)
{
    if (k->ready)
        error_set(e, EPROTO, "failed to start after it had");
    else
        keeper_end(k, VM_EXIT_HOST, NULL, "%.*s", (int)m->len, (const char *)k->in);
}

/* Whether an answer to `op` may have this length. */
static bool fits(const struct keeper_op *op, const struct link_msg *m)
{
    enum link_down kind = op->kind;
    if (m->result)
        return m->result < 4096 && m->len < sizeof(((struct error *)0)->msg);
    if (kind == DOWN_STATS)
        return m->len == sizeof(struct link_stats);
    if (kind == DOWN_BALLOON)
        return m->len == sizeof(struct balloon_info);
    if (kind == DOWN_EXPLAIN)
        return m->len == sizeof(struct engine_explain);
    if (kind == DOWN_LOG_TAKE)
        return m->len == op->bytes;
    if (kind == DOWN_FRAMES_TAKE)
        return m->len <= LINK_FRAMES_MAX;
    return kind == DOWN_SAVE ? m->len > 0 : m->len == 0;
}

static void got_done(struct keeper *k, const struct link_msg *m, struct error *e)
{
    struct keeper_op *op = NULL;
    for (unsigned i = 0; i < KEEPER_OPS && m->id; i++)
        if (k->ops[i].id == m->id)
            op = &k->ops[i];
    if (!op || !fits(op, m)) {
        error_set(e, EPROTO, op ? "an answer of impossible size" : "an answer to no question");
        return;
    }
    struct keeper_op done = *op;
    op->id = 0;
    /* A copy for the check: a struct wants its alignment. */
    struct engine_explain x;
    if (done.kind == DOWN_EXPLAIN && !m->result && (memcpy(&x, k->in, sizeof(x)), explain_check(&x, e) < 0))
        return;
    if (m->result)
        link_clean_text((char *)k->in, m->len);
    bool steady = k->state == KEEPER_RUNNING || k->state == KEEPER_PAUSED;
    if (!m->result && steady && (done.kind == DOWN_PAUSE || done.kind == DOWN_RESUME))
        keeper_set_state(k, done.kind == DOWN_PAUSE ? KEEPER_PAUSED : KEEPER_RUNNING);
    if (done.kind == DOWN_SWING && !m->result)
        snprintf(k->cfg.engine, sizeof(k->cfg.engine), "%s", done.engine);
    if (k->state == KEEPER_RESTORING && m->result)
        keeper_end(k, VM_EXIT_HOST, NULL, "its state can not be taken over: %.*s", (int)m->len,
                   m->len ? (const char *)k->in : "");
    else if (k->state == KEEPER_RESTORING)
        k->restored = true;
    else if (k->state == KEEPER_INCOMING && done.kind == DOWN_LOAD && !m->result)
        keeper_prepared(k);
    keeper_answer(k, &done, m->result, k->in, m->len);
}

static void got_reset(struct keeper *k)
{
    struct error e = {0};
    bool asked = k->reset_asked;
    k->reset_asked = false;
    if (k->cfg.no_reboot && !asked) {
        keeper_end(k, VM_EXIT_POWEROFF, NULL, "reset (--no-reboot)");
        return;
    }
    keeper_set_state(k, KEEPER_RESETTING);
    if (keeper_boot(k, &e) < 0)
        keeper_end(k, VM_EXIT_HOST, NULL, "cannot be started again: %s", e.msg);
}

static void got_stopped(struct keeper *k, const struct link_msg *m, struct error *e)
{
    char *text = k->in ? (char *)k->in : (char[]){""};
    link_clean_text(text, m->len);
    char *line_end = memchr(text, '\n', m->len);
    int line = (int)(line_end ? line_end - text : m->len);
    keeper_drain_console(k); /* what it printed before comes before how it ended */
    switch (m->event) {
    case BOARD_POWEROFF:
        keeper_end(k, VM_EXIT_POWEROFF, text, "power off");
        break;
    case BOARD_RESET:
        got_reset(k);
        break;
    case BOARD_DEBUG_EXIT:
        keeper_end(k, (int)((m->value << 1 | 1) & 0xff), text, "debug exit, value %u", m->value);
        break;
    case BOARD_SHUTDOWN:
        keeper_end(k, VM_EXIT_TRIPLE, text, "triple fault");
        break;
    case BOARD_UNIMPLEMENTED:
        keeper_end(k, VM_EXIT_HOST, text, "%.*s", MIN(line, 160), line ? text : "not implemented");
        break;
    case BOARD_FAILURE:
        keeper_end(k, VM_EXIT_HOST, text, "host failure: %.*s", MIN(line, 160), text);
        break;
    default:
        error_set(e, EPROTO, "stopped by an unknown event %u", m->event);
    }
}

/* Act on a message that is whole: its data (if any) is in k->in, with a zero byte behind it. */
static void obey(struct keeper *k, const struct link_msg *m, struct error *e)
{
    static void (*const actions[UP_COUNT])(struct keeper *, const struct link_msg *, struct error *) = {
        [UP_READY] = got_ready, [UP_FAILED] = got_failed, [UP_DONE] = got_done, [UP_STOPPED] = got_stopped};
    bool first = m->kind == UP_READY || m->kind == UP_FAILED;
    if (!first && (!k->ready || k->state == KEEPER_BOOTING))
        error_set(e, EPROTO, "a message before it was ready");
    else
        actions[m->kind](k, m, e);
}

/* The data of the message in `taking`: whether it is all there. */
static bool collect(struct keeper *k, struct error *e)
{
    u32 len = k->taking.len;
    if (!k->in && !(k->in = calloc(1, (size_t)len + 1))) {
        keeper_end(k, VM_EXIT_HOST, NULL, "out of memory");
        return false;
    }
    s64 n = link_read(&k->link, LINK_DATA_UP, k->in + k->in_got, len - k->in_got);
    if (ring_failed(k, n))
        return false;
    k->in_got += (u32)n;
    return k->in_got == len;
}

/* One message; whether to look for another. */
static bool take_message(struct keeper *k)
{
    struct error e = {0};
    if (!k->taking.kind) {
        struct link_msg m;
        s64 n = link_read(&k->link, LINK_MSG_UP, &m, sizeof(m));
        if (ring_failed(k, n) || !n)
            return false;
        if (link_check_up(&m, &e) < 0) {
            hostile(k, &e);
            return false;
        }
        k->taking = m;
    }
    if (k->taking.len && !collect(k, &e))
        return false;
    struct link_msg m = k->taking;
    k->taking.kind = UP_NONE;
    obey(k, &m, &e);
    free(k->in);
    k->in = NULL;
    k->in_got = 0;
    if (e.code)
        hostile(k, &e);
    return !k->ended && m.kind != UP_STOPPED; /* a reset is work enough for one round */
}

/* Up to `most` bytes of console output; returns how many. */
static size_t take_console(struct keeper *k, size_t most)
{
    u8 buf[4096];
    size_t done = 0;
    while (done < most) {
        s64 n = link_read(&k->link, LINK_CONSOLE_UP, buf, sizeof(buf));
        if (ring_failed(k, n) || !n)
            break;
        console_log_append(&k->log, buf, (size_t)n);
        keeper_show(k, buf, (size_t)n);
        done += (size_t)n;
    }
    return done;
}

void keeper_drain_console(struct keeper *k)
{
    take_console(k, k->link.ring[LINK_CONSOLE_UP].size);
}

bool keeper_serve_cell(struct keeper *k)
{
    int n = 0;
    bool more = take_console(k, CONSOLE_AT_ONCE) >= CONSOLE_AT_ONCE;
    while (!k->ended && n < MESSAGES_AT_ONCE && take_message(k))
        n++;
    if (!k->ended)
        pump_down(k);
    pump_typed(k);
    pump_size(k);
    keeper_log_pump(k);
    keeper_serve_lazy(k);
    return !k->ended && (more || n == MESSAGES_AT_ONCE);
}

static bool size_can_go(struct keeper *k)
{
    struct ring *r = &k->link.ring[LINK_MSG_DOWN];
    if (k->size_due)
        ring_mark_starved(r); /* as below */
    return k->size_due && room_for_size(r);
}

/* The cell knocks for room only while the ring is marked, and its knock is heard only while the door is closed. */
static bool room_came(struct ring *r)
{
    ring_mark_starved(r);
    return ring_room(r) != 0;
}

bool keeper_cell_pending(struct keeper *k)
{
    enum link_ring words = k->taking.kind ? LINK_DATA_UP : LINK_MSG_UP;
    if (k->ended)
        return false;
    return ring_used(&k->link.ring[LINK_CONSOLE_UP]) || ring_used(&k->link.ring[words]) ||
           (k->typed_len && room_came(&k->link.ring[LINK_CONSOLE_DOWN])) || size_can_go(k) || keeper_log_pending(k) ||
           (k->down_at < k->down.len && room_came(&k->link.ring[LINK_DATA_DOWN]));
}
