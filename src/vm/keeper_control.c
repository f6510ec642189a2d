/*
 * What clients may ask of a machine: one table of requests, each a function. Answers that need the cell come later, by
 * keeper_answer; a client's next request is not looked at before that.
 *
 * Clients are this user's processes, but a keeper must survive their mistakes: a line that is no request gets an error,
 * one that never ends gets the connection closed, and nobody can make the guest or another client wait.
 */
#include "base/bytes.h"
#include "vm/explain.h"
#include "vm/keeper.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define REPLIES_MAX      65536u /* unread replies beyond which requests wait */
#define REQUESTS_AT_ONCE 64
#define STOP_DEFAULT     10
#define STOP_MAX         86400

int keeper_listen(struct keeper *k, struct error *e)
{
    struct sockaddr_un a = {.sun_family = AF_UNIX};
    int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0)
        return error_set(e, errno, "socket: %s", strerror(errno));
    k->listener = fd;
    /* The lock is ours, so a socket that is there belongs to nobody. */
    unlinkat(k->dir, VM_FILE_CONTROL, 0);
    snprintf(a.sun_path, sizeof(a.sun_path), "/proc/self/fd/%d/%s", k->dir, VM_FILE_CONTROL);
    mode_t old = umask(0177);
    int r = bind(fd, (struct sockaddr *)&a, sizeof(a));
    umask(old);
    if (r < 0 || listen(fd, 16) < 0)
        return error_set(e, errno, "control socket of %s: %s", k->cfg.name, strerror(errno));
    return 0;
}

/* The hold ends; `go_on`: the machine goes on if it ran before. */
static void end_hold(struct keeper *k, bool go_on)
{
    if (k->holder >= 0 && go_on && k->held_runs && !k->ended)
        keeper_ask(k, DOWN_RESUME, -1, false, NULL, 0);
    k->holder = -1;
}

void keeper_drop_client(struct keeper *k, struct client *c)
{
    for (unsigned i = 0; i < KEEPER_OPS; i++)
        if (k->ops[i].id && k->ops[i].client == c - k->clients)
            k->ops[i].client = -1;
    if (k->holder == c - k->clients) {
        end_hold(k, true);
        if (k->state == KEEPER_INCOMING)
            keeper_abandon_incoming(k, "the host that sent it has gone away");
    }
    keeper_log_drop(k, c);
    keeper_paging_drop(k, c);
    keeper_mirror_drop(k, c);
    keeper_drop_stream(k, c);
    client_close(c);
}

void keeper_accept(struct keeper *k)
{
    for (unsigned i = 0; i < KEEPER_CLIENTS; i++)
        if (k->clients[i].fd < 0) {
            client_accept(&k->clients[i], k->listener);
            return;
        }
    /* All places are taken: a newcomer is told by the end of its connection. */
    struct client none = {.fd = -1, .pass = -1};
    if (client_accept(&none, k->listener) == 1)
        client_close(&none);
}

/* --- replies --- */

void keeper_reply(struct client *c, json_t *j)
{
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    json_decref(j);
    if (!text || client_put(c, text, strlen(text)) < 0 || client_put(c, "\n", 1) < 0)
        c->closing = true;
    free(text);
}

void keeper_refuse(struct client *c, int code, const char *fmt, ...)
{
    char text[600];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(text, sizeof(text), fmt, ap);
    va_end(ap);
    link_clean_text(text, strlen(text)); /* it may quote the request: JSON has to be UTF-8 */
    keeper_reply(c, json_pack("{s:b,s:s,s:i}", "ok", 0, "error", text, "errno", code));
}

void keeper_accept_request(struct client *c)
{
    keeper_reply(c, json_pack("{s:b}", "ok", 1));
}

/* `most`: characters of the text that there is room for. */
static json_t *end_json(const struct keeper *k, size_t most)
{
    return json_pack("{s:b,s:i,s:s,s:s%}", "ok", 1, "code", k->code, "reason", k->reason, "text", k->text,
                     strnlen(k->text, most));
}

static json_t *status_json(const struct keeper *k, const struct link_stats *s)
{
    json_t *j = json_pack("{s:b,s:s,s:s,s:i,s:i,s:f,s:I,s:i,s:s,s:s}", "ok", 1, "name", k->cfg.name, "state",
                          keeper_state_name(k->state), "pid", (int)getpid(), "cell", k->cell.pid, "uptime",
                          (double)(host_ns(NULL) - k->started) / 1e9, "memory", (json_int_t)k->cfg.memory, "cpus",
                          (int)k->cfg.cpus, "cpu", k->cfg.cpu_model, "engine", vm_config_engine(&k->cfg));
    if (j)
        json_object_set_new(j, "held", json_boolean(k->holder >= 0));
    if (j && s) {
        json_object_set_new(j, "instructions", json_integer((json_int_t)MIN(s->engine.instructions, (u64)INT64_MAX)));
        keeper_memory_json(k, &s->balloon, j);
    }
    if (j)
        keeper_paging_json(k, j);
    if (j && k->ended) {
        json_object_set_new(j, "code", json_integer(k->code));
        json_object_set_new(j, "reason", json_string(k->reason));
    }
    return j;
}

static json_t *stats_json(const struct keeper *k, const struct link_stats *all)
{
    const struct engine_stats *s = &all->engine;
    json_t *j = json_pack("{s:b}", "ok", 1);
    /* What the cell counts is not to be believed: JSON has numbers up to INT64_MAX. */
#define X(name, text) \
    if (j)            \
        json_object_set_new(j, #name, json_integer((json_int_t)MIN(s->name, (u64)INT64_MAX)));
    ENGINE_COUNTERS(X)
#undef X
    if (j)
        json_object_set_new(j, "balloon", keeper_balloon_json(k, &all->balloon));
    return j;
}

/* --- answers of the cell --- */

void keeper_answer_bytes(struct client *c, const void *data, u32 len)
{
    keeper_reply(c, json_pack("{s:b,s:I}", "ok", 1, "bytes", (json_int_t)len));
    client_put(c, data, len);
}

static void answer_explain(const struct keeper *k, struct client *c, const u8 *data)
{
    struct engine_explain x;
    memcpy(&x, data, sizeof(x));
    json_t *j = explain_to_json(&x);
    if (j)
        json_object_set_new(j, "engine", json_string(vm_config_engine(&k->cfg)));
    if (j)
        json_object_set_new(j, "ok", json_true());
    keeper_reply(c, j);
}

static void answer_balloon(const struct keeper *k, struct client *c, const u8 *data)
{
    struct balloon_info info;
    memcpy(&info, data, sizeof(info));
    json_t *j = keeper_balloon_json(k, &info);
    if (j)
        json_object_set_new(j, "ok", json_true());
    keeper_reply(c, j);
}

void keeper_answer(struct keeper *k, const struct keeper_op *op, u32 result, const u8 *data, u32 len)
{
    struct link_stats s;
    if (op->client < 0)
        return;
    if (result && op->kind == DOWN_PAUSE && k->holder == op->client)
        k->holder = -1;
    keeper_log_answered(k, op, result);
    struct client *c = &k->clients[op->client];
    c->op = 0;
    if (!result && op->kind == DOWN_STATS) {
        memcpy(&s, data, sizeof(s));
        keeper_reply(c, op->for_status ? status_json(k, &s) : stats_json(k, &s));
    } else if (op->for_status) {
        keeper_reply(c, status_json(k, NULL));
    } else if (result) {
        keeper_refuse(c, (int)result, "%.*s", (int)len, len ? (const char *)data : "");
    } else if (op->kind == DOWN_EXPLAIN) {
        answer_explain(k, c, data);
    } else if (op->kind == DOWN_BALLOON) {
        answer_balloon(k, c, data);
    } else if (op->kind == DOWN_SAVE || op->kind == DOWN_LOG_TAKE || op->kind == DOWN_FRAMES_TAKE) {
        keeper_answer_bytes(c, data, len);
    } else {
        keeper_accept_request(c);
    }
}

void keeper_op_timeout(struct keeper *k, struct keeper_op *op)
{
    if (op->hasty && !keeper_waits_for_pages(k)) { /* it is no page that it waits for */
        op->hasty = false;
        op->deadline += KEEPER_OP_NS;
        return;
    }
    /* The op stays outstanding, because the answer may still come; only nobody waits for it. */
    int client = op->client;
    keeper_log_silent(k, op);
    op->client = -1;
    op->deadline = UINT64_MAX;
    if (client < 0)
        return;
    k->clients[client].op = 0;
    if (op->for_status)
        keeper_reply(&k->clients[client], status_json(k, NULL));
    else if (op->hasty && (op->kind == DOWN_PAUSE || op->kind == DOWN_RESUME))
        keeper_reply(&k->clients[client], json_pack("{s:b,s:b}", "ok", 1, "later", 1));
    else if (op->hasty)
        keeper_refuse(&k->clients[client], ETIMEDOUT,
                      "%s: its guest waits for memory that is still at the host that it came from", k->cfg.name);
    else
        keeper_refuse(&k->clients[client], ETIMEDOUT,
                      "%s: the guest's process does not answer; `trapeze kill %s` ends it", k->cfg.name, k->cfg.name);
}

/* --- requests --- */

static bool steady(struct keeper *k, struct client *c)
{
    if (k->state == KEEPER_RUNNING || k->state == KEEPER_PAUSED)
        return true;
    keeper_refuse(c, EBUSY, "%s: is %s", k->cfg.name, keeper_state_name(k->state));
    return false;
}

static void ask(struct keeper *k, struct client *c, enum link_down kind, const void *data, size_t len)
{
    if (steady(k, c) && keeper_ask(k, kind, (int)(c - k->clients), false, data, len) < 0)
        keeper_refuse(c, EBUSY, "%s: the guest's process takes no messages now", k->cfg.name);
}

static void do_status(struct keeper *k, struct client *c, const json_t *j)
{
    bool asks = (k->state == KEEPER_RUNNING || k->state == KEEPER_PAUSED) && !keeper_waits_for_pages(k);
    if (!asks || keeper_ask(k, DOWN_STATS, (int)(c - k->clients), true, NULL, 0) < 0)
        keeper_reply(c, status_json(k, NULL));
}

static void do_inspect(struct keeper *k, struct client *c, const json_t *j)
{
    json_t *r = status_json(k, NULL);
    json_t *boot = json_pack("{s:s,s:I,s:I,s:I}", "protocol", k->boot.protocol ? k->boot.protocol : "", "entry",
                             (json_int_t)k->boot.entry, "initrd_at", (json_int_t)k->boot.initrd_at, "initrd_bytes",
                             (json_int_t)k->boot.initrd_len);
    if (r) {
        json_object_set_new(r, "config", vm_config_to_json(&k->cfg));
        json_object_set_new(r, "boot", boot);
        json_object_set_new(r, "disks", keeper_disks_json(k));
        json_object_set_new(r, "networks", keeper_nets_json(k));
        json_object_set_new(r, "shares", keeper_shares_json(k));
    }
    keeper_reply(c, r);
}

static void do_stats(struct keeper *k, struct client *c, const json_t *j)
{
    ask(k, c, DOWN_STATS, NULL, 0);
}

/* --- holds --- */

/* Whether nobody holds the machine; else the client is told. */
static bool not_held(struct keeper *k, struct client *c)
{
    if (k->holder >= 0)
        keeper_refuse(c, EBUSY, "%s: is held still while its memory is read; try again when that is done", k->cfg.name);
    return k->holder < 0;
}

bool keeper_has_hold(struct keeper *k, struct client *c)
{
    bool has = k->holder == c - k->clients;
    if (!has)
        keeper_refuse(c, ESTALE, "%s: is not held by who says so: somebody stopped or killed it meanwhile",
                      k->cfg.name);
    return has;
}

static void do_hold(struct keeper *k, struct client *c, const json_t *j)
{
    if ((k->state != KEEPER_INCOMING && !steady(k, c)) || !not_held(k, c) || keeper_lacks_pages(k, c))
        return;
    k->expire_at = UINT64_MAX;
    bool runs = k->state == KEEPER_RUNNING;
    if (runs && keeper_ask(k, DOWN_PAUSE, (int)(c - k->clients), false, NULL, 0) < 0) {
        keeper_refuse(c, EBUSY, "%s: the guest's process takes no messages now", k->cfg.name);
        return;
    }
    k->holder = (int)(c - k->clients);
    k->held_runs = runs;
    if (!runs)
        keeper_reply(c, json_pack("{s:b,s:b}", "ok", 1, "paused", k->state == KEEPER_PAUSED));
}

static void do_release(struct keeper *k, struct client *c, const json_t *j)
{
    if (!keeper_has_hold(k, c))
        return;
    end_hold(k, false);
    if (k->held_runs)
        ask(k, c, DOWN_RESUME, NULL, 0);
    else
        keeper_accept_request(c);
}

static void do_leave(struct keeper *k, struct client *c, const json_t *j)
{
    if (!keeper_has_hold(k, c))
        return;
    end_hold(k, false);
    if (!k->ended)
        keeper_end(k, VM_EXIT_POWEROFF, NULL, VM_REASON_SUSPENDED);
    c->waiting = true; /* told when the cell is gone */
}

static void do_sync(struct keeper *k, struct client *c, const json_t *j)
{
    struct error e = {0};
    if (!keeper_has_hold(k, c))
        return;
    if (keeper_sync_disks(k, &e) < 0)
        keeper_refuse(c, e.code, "%s", e.msg);
    else
        keeper_accept_request(c);
}

static void do_balloon(struct keeper *k, struct client *c, const json_t *j)
{
    struct balloon_ask what;
    struct error e = {0};
    if (keeper_balloon_request(k, j, &what, &e) < 0)
        keeper_refuse(c, e.code, "%s", e.msg);
    else
        ask(k, c, DOWN_BALLOON, &what, sizeof(what));
}

static void do_pause(struct keeper *k, struct client *c, const json_t *j)
{
    if (not_held(k, c))
        ask(k, c, DOWN_PAUSE, NULL, 0);
}

static void do_resume(struct keeper *k, struct client *c, const json_t *j)
{
    if (not_held(k, c))
        ask(k, c, DOWN_RESUME, NULL, 0);
}

static void do_power(struct keeper *k, struct client *c, const json_t *j)
{
    ask(k, c, DOWN_POWER, NULL, 0);
}

static void do_save(struct keeper *k, struct client *c, const json_t *j)
{
    ask(k, c, DOWN_SAVE, NULL, 0);
}

static void do_reset(struct keeper *k, struct client *c, const json_t *j)
{
    if (!steady(k, c) || !not_held(k, c))
        return;
    if (keeper_tell(k, DOWN_HALT, NULL, 0) < 0) {
        keeper_refuse(c, EBUSY, "%s: the guest's process takes no messages now", k->cfg.name);
        return;
    }
    k->reset_asked = true;
    keeper_set_state(k, KEEPER_RESETTING);
    keeper_accept_request(c);
}

/* The request says how many bytes follow it: they will be what the message `kind` has. */
static void await_body(struct client *c, const json_t *j, const char *name, u32 most, enum link_down kind)
{
    json_int_t n = json_integer_value(json_object_get(j, "bytes"));
    if (n < 1 || n > (json_int_t)most) {
        keeper_refuse(c, EINVAL, "%s: \"bytes\" has to be 1 to %u", name, most);
        return;
    }
    if (client_begin_body(c, (size_t)n, kind) < 0)
        c->closing = true;
}

static void do_load(struct keeper *k, struct client *c, const json_t *j)
{
    bool may = k->state == KEEPER_INCOMING ? keeper_has_hold(k, c) : not_held(k, c);
    if (may && k->state == KEEPER_INCOMING && json_is_true(json_object_get(j, "paused")))
        k->incoming_runs = false;
    if (may)
        await_body(c, j, "load", CONTROL_SAVE_MAX, DOWN_LOAD);
}

/* Of a machine that has been handed over: what has come for it since. Of one that has come: what came for it elsewhere. */
static void do_frames(struct keeper *k, struct client *c, const json_t *j)
{
    const char *what = json_string_value(json_object_get(j, "action"));
    if (what && !strcmp(what, "give"))
        await_body(c, j, "frames", LINK_FRAMES_MAX, DOWN_FRAMES_GIVE);
    else if (!what || strcmp(what, "take"))
        keeper_refuse(c, EINVAL, "frames: \"action\" has to be take or give");
    else if (k->state != KEEPER_COMMITTED && k->state != KEEPER_SERVING)
        keeper_refuse(c, EBUSY, "%s: has not been handed over", k->cfg.name);
    else if (keeper_ask(k, DOWN_FRAMES_TAKE, (int)(c - k->clients), false, NULL, 0) < 0)
        keeper_refuse(c, EBUSY, "%s: the guest's process takes no messages now", k->cfg.name);
}

static void do_wait(struct keeper *k, struct client *c, const json_t *j)
{
    if (k->ended)
        keeper_reply(c, end_json(k, LINK_TEXT_MAX));
    else
        c->waiting = true;
}

void keeper_stop(struct keeper *k, unsigned seconds)
{
    if (k->state == KEEPER_COMMITTED || k->state == KEEPER_SERVING)
        return; /* it is the other host's, and its memory may be wanted back */
    if (keeper_comes_in(k)) {
        keeper_abandon_incoming(k, "stopped while it came in");
        return;
    }
    u64 at = host_ns(NULL) + seconds * 1000000000ull;
    end_hold(k, false); /* a person's word counts more */
    if (k->state == KEEPER_PAUSED)
        keeper_ask(k, DOWN_RESUME, -1, false, NULL, 0);
    keeper_ask(k, DOWN_POWER, -1, false, NULL, 0); /* a cell that takes no messages is killed in time */
    if (at < k->stop_at) {
        k->stop_at = at;
        k->stop_seconds = seconds;
    }
}

static void do_stop(struct keeper *k, struct client *c, const json_t *j)
{
    const json_t *time = json_object_get(j, "time");
    json_int_t seconds = time ? json_integer_value(time) : STOP_DEFAULT;
    if ((time && !json_is_integer(time)) || seconds < 0 || seconds > STOP_MAX) {
        keeper_refuse(c, EINVAL, "stop: \"time\" has to be 0 to %d seconds", STOP_MAX);
        return;
    }
    if (k->state == KEEPER_SERVING) {
        keeper_refuse(c, EBUSY,
                      "%s: runs at %s, which has not got all its memory yet; `trapeze kill` ends it here, and so there",
                      k->cfg.name, k->handed.to);
        return;
    }
    if (k->state == KEEPER_COMMITTED) {
        keeper_refuse(c, EBUSY,
                      "%s: has been handed over to %s, which has not answered yet; `trapeze kill` ends it here",
                      k->cfg.name, k->handed.to);
        return;
    }
    if (!k->ended)
        keeper_stop(k, (unsigned)seconds);
    do_wait(k, c, j);
}

static void do_kill(struct keeper *k, struct client *c, const json_t *j)
{
    end_hold(k, false);
    if (!k->ended)
        keeper_end(k, VM_EXIT_SIGNAL + 9, NULL, "killed");
    c->waiting = true; /* told when the cell is gone */
}

static bool somebody_types(const struct keeper *k)
{
    for (unsigned i = 0; i < KEEPER_CLIENTS; i++)
        if (k->clients[i].fd >= 0 && k->clients[i].input)
            return true;
    return false;
}

/* The last `len` bytes of the log as frames. */
static void replay(struct keeper *k, struct client *c, size_t len)
{
    u8 *buf = len ? malloc(len) : NULL;
    size_t n = buf ? console_log_tail(&k->log, buf, len) : 0;
    if (n)
        client_frame(c, CONTROL_OUTPUT, buf, n);
    free(buf);
}

static void do_console(struct keeper *k, struct client *c, const json_t *j)
{
    json_int_t wanted = json_integer_value(json_object_get(j, "replay"));
    c->input = json_is_true(json_object_get(j, "input")) && !somebody_types(k);
    bool size = c->input && vm_config_virtio_console(&k->cfg);
    keeper_reply(c, json_pack("{s:b,s:b,s:b,s:s}", "ok", 1, "input", c->input, "size", size, "state",
                              keeper_state_name(k->state)));
    c->mode = CLIENT_CONSOLE;
    c->waiting = true;
    replay(k, c, (size_t)MAX(0, MIN(wanted, (json_int_t)CONSOLE_LOG_MAX)));
}

static void do_explain(struct keeper *k, struct client *c, const json_t *j)
{
    const json_t *address = json_object_get(j, "address");
    const char *text = json_string_value(address);
    struct explain_ask what = {.at_rip = !address};
    if (address && (!text || explain_address(text, &what.address) < 0))
        keeper_refuse(c, EINVAL, "explain: \"address\" has to be a hexadecimal number, as in \"0xffffffff81000000\"");
    else
        ask(k, c, DOWN_EXPLAIN, &what, sizeof(what));
}

static void do_swing(struct keeper *k, struct client *c, const json_t *j)
{
    const char *name = json_string_value(json_object_get(j, "engine"));
    const struct engine_ops *engine = !name ? NULL : strcmp(name, "auto") ? engine_find(name) : engine_auto();
    if (!engine)
        keeper_refuse(c, EINVAL, "swing: \"engine\" has to be auto, or one that this host can run");
    else
        ask(k, c, DOWN_SWING, engine->name, strlen(engine->name));
}

static void do_vsock(struct keeper *k, struct client *c, const json_t *j)
{
    const json_t *port = json_object_get(j, "port");
    json_int_t n = json_integer_value(port);
    if (!json_is_integer(port) || n < 0 || n >= UINT32_MAX)
        keeper_refuse(c, EINVAL, "vsock: \"port\" has to be a number below 2^32 - 1");
    else if (k->state != KEEPER_RUNNING)
        keeper_refuse(c, EBUSY, "%s: is %s", k->cfg.name, keeper_state_name(k->state));
    else
        keeper_connect_stream(k, c, (u32)n);
}

static const struct {
    const char *name;
    void (*fn)(struct keeper *, struct client *, const json_t *);
} requests[] = {
    {"status", do_status},
    {"inspect", do_inspect},
    {"stats", do_stats},
    {"pause", do_pause},
    {"resume", do_resume},
    {"power", do_power},
    {"reset", do_reset},
    {"stop", do_stop},
    {"kill", do_kill},
    {"wait", do_wait},
    {"console", do_console},
    {"explain", do_explain},
    {"save", do_save},
    {"load", do_load},
    {"vsock", do_vsock},
    {"hold", do_hold},
    {"release", do_release},
    {"leave", do_leave},
    {"sync", do_sync},
    {"memory", keeper_do_memory},
    {"balloon", do_balloon},
    {"handover", keeper_do_handover},
    {"log", keeper_log_request},
    {"swing", do_swing},
    {"frames", do_frames},
    {"mirror", keeper_mirror_request},
    {"paging", keeper_do_paging},
};

static void obey(struct keeper *k, struct client *c, const json_t *j)
{
    const char *what = json_string_value(json_object_get(j, "do"));
    for (size_t i = 0; what && i < ARRAY_LEN(requests); i++)
        if (!strcmp(what, requests[i].name)) {
            requests[i].fn(k, c, j);
            return;
        }
    keeper_refuse(c, EINVAL, what ? "request \"%.40s\": not known to this keeper" : "request: has no member \"do\"",
                  what ? what : "");
}

/* --- one client --- */

/* Take a request line; whether there was one to take. */
static bool take_line(struct keeper *k, struct client *c)
{
    json_error_t why;
    s64 len = client_line(c);
    if (len < 0 && c->in_len > CONTROL_LINE_MAX) {
        keeper_refuse(c, EMSGSIZE, "request: longer than %d bytes", CONTROL_LINE_MAX);
        c->closing = true;
    }
    if (len < 0)
        return false;
    json_t *j = json_loadb((const char *)c->in, (size_t)len, JSON_REJECT_DUPLICATES, &why);
    client_consume(c, (size_t)len + 1);
    if (json_is_object(j))
        obey(k, c, j);
    else
        keeper_refuse(c, EINVAL, "request: no JSON object: %s", j ? "another kind of value" : why.text);
    json_decref(j);
    return true;
}

/* Take a frame; whether to go on. Keys that the guest has no room for stay in the client's input. */
static bool take_frame(struct keeper *k, struct client *c)
{
    u8 kind;
    const u8 *data;
    size_t len;
    int r = client_next_frame(c, &kind, &data, &len);
    if (r < 0 || (r == 1 && kind != CONTROL_INPUT && (kind != CONTROL_SIZE || len != 4)))
        c->closing = true;
    if (r <= 0 || c->closing)
        return false;
    if (c->input && kind == CONTROL_SIZE)
        keeper_size(k, get_le16(data), get_le16(data + 2));
    if (c->input && kind == CONTROL_INPUT) {
        if (KEEPER_TYPED - k->typed_len < len)
            return false;
        keeper_type(k, data, len);
    }
    client_consume(c, 4 + len);
    return true;
}

static bool take_body(struct keeper *k, struct client *c)
{
    if (c->body_len < c->body_want)
        return false;
    enum link_down kind = (enum link_down)c->body_kind;
    if (c->body_kind == KEEPER_BODY_NAMED)
        keeper_take_named(k, c);
    else if (k->state != KEEPER_INCOMING)
        ask(k, c, kind, c->body, c->body_len);
    else if (keeper_ask(k, kind, (int)(c - k->clients), false, c->body, c->body_len) < 0)
        keeper_refuse(c, EBUSY, "%s: the guest's process takes no messages now", k->cfg.name);
    free(c->body);
    c->body = NULL;
    c->body_len = c->body_want = 0;
    c->mode = CLIENT_REQUESTS;
    return true;
}

static bool take(struct keeper *k, struct client *c)
{
    if (c->closing || c->op || c->mode == CLIENT_STREAM || (c->waiting && c->mode != CLIENT_CONSOLE))
        return false;
    if (c->mode == CLIENT_CONSOLE)
        return take_frame(k, c);
    if (client_backlog(c) > REPLIES_MAX)
        return false;
    return c->mode == CLIENT_BODY ? take_body(k, c) : take_line(k, c);
}

bool keeper_client_blocked(const struct client *c)
{
    u8 kind;
    const u8 *data;
    size_t len;
    if (c->op || client_backlog(c) > REPLIES_MAX)
        return true;
    return c->mode == CLIENT_CONSOLE ? client_next_frame(c, &kind, &data, &len) == 1 : c->waiting;
}

bool keeper_serve_client(struct keeper *k, struct client *c)
{
    int dead = client_fill(c), n = 0;
    while (!dead && n < REQUESTS_AT_ONCE && take(k, c))
        n++;
    if (!dead)
        dead = client_flush(c);
    bool idle = !c->op && !c->waiting && client_line(c) < 0 && c->body_len == c->body_want;
    /* A console whose peer shut its sending side down only watches; any other that is silent for good is done. */
    if (dead < 0 || (!client_backlog(c) && (c->closing || (c->eof && (idle || c->mode == CLIENT_BODY)))))
        keeper_drop_client(k, c);
    return n == REQUESTS_AT_ONCE;
}

void keeper_show(struct keeper *k, const u8 *data, size_t len)
{
    for (unsigned i = 0; i < KEEPER_CLIENTS; i++) {
        struct client *c = &k->clients[i];
        if (c->fd < 0 || c->mode != CLIENT_CONSOLE || c->closing)
            continue;
        client_frame(c, CONTROL_OUTPUT, data, len);
        if (client_flush(c) < 0)
            keeper_drop_client(k, c);
    }
}

/* A frame has room for less than a line: leave the end of a long text out. */
static void frame_end(const struct keeper *k, struct client *c)
{
    for (size_t most = LINK_TEXT_MAX; most; most /= 2) {
        json_t *j = end_json(k, most);
        char *text = j ? json_dumps(j, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
        size_t len = text ? strlen(text) : 0;
        if (len && len <= CONTROL_FRAME_MAX) {
            client_frame(c, CONTROL_END, text, len);
            most = 1;
        }
        free(text);
        json_decref(j);
    }
}

static void tell_end(struct keeper *k, struct client *c)
{
    if (c->mode == CLIENT_CONSOLE)
        frame_end(k, c);
    else if (c->waiting)
        keeper_reply(c, end_json(k, LINK_TEXT_MAX));
    else if (c->op)
        keeper_refuse(c, EPIPE, "%s: has ended meanwhile: %s", k->cfg.name, k->reason);
    c->waiting = false;
    c->op = 0;
    c->closing = true;
    if (client_flush(c) < 0 || !client_backlog(c))
        keeper_drop_client(k, c);
}

void keeper_tell_end(struct keeper *k)
{
    for (unsigned i = 0; i < KEEPER_CLIENTS; i++)
        if (k->clients[i].fd >= 0)
            tell_end(k, &k->clients[i]);
}
