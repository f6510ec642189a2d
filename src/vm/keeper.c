/*
 * The keeper: the process that holds everything of a machine that is not the guest's. It is forked off by vm_launch into
 * a session of its own, opens all files while it still can, starts the cell, seals itself, reports to its caller, and then
 * serves the link and the control socket from one loop until the machine ends.
 *
 *      vm_launch ──fork──> keeper: lock, files, guest memory, kernel loaded, socket bound
 *          |                  |──fork, exec──> cell: board, engine, seal
 *          |                  |<──UP_READY─────|
 *          |                  | seal
 *          |<──"ready"────────|
 *          v                  |──DOWN_BOOT────>| first guest instruction
 *
 * Its seal is by job: it may read, write and close what is open, accept on one socket, map guest memory, kill one process,
 * delete files of one directory. It can't open, execute, connect, trace or fork.
 *
 * The end, in this order: the first reason stands (keeper_end); the cell is killed and reaped; its last console bytes go
 * to the log; end.json is written; socket and lock file go; who waits is told, for at most LINGER_NS. If the keeper itself
 * is killed, the kernel kills the cell (PR_SET_PDEATHSIG) and frees the lock; the socket file stays and refuses.
 *
 * Not done: the log's file is not synced to disk; a machine's files are lost with the host's power like any others.
 */
#include "vm/keeper.h"
#include "vm/tsc.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S      1000000000ull
#define READY_NS      60000000000ull
#define DISKS_TURN_NS 200000u
#define LINGER_NS     2000000000ull
#define TERM_STOP     10 /* seconds that a guest has after SIGTERM to the keeper */

static const char *const state_names[] = {
#define X(state, name) [state] = name,
    KEEPER_STATES(X)
#undef X
};

const char *keeper_state_name(enum keeper_state s)
{
    return state_names[s];
}

void keeper_set_state(struct keeper *k, enum keeper_state s)
{
    if (k->state == s)
        return;
    k->state = s;
    const char *name = keeper_state_name(s);
    for (unsigned i = 0; i < KEEPER_CLIENTS; i++)
        if (k->clients[i].fd >= 0 && k->clients[i].mode == CLIENT_CONSOLE)
            client_frame(&k->clients[i], CONTROL_STATE, name, strlen(name));
}

void keeper_end(struct keeper *k, int code, const char *text, const char *fmt, ...)
{
    va_list ap;
    if (k->ended)
        return;
    k->ended = true;
    k->code = code;
    va_start(ap, fmt);
    vsnprintf(k->reason, sizeof(k->reason), fmt, ap);
    va_end(ap);
    link_clean_text(k->reason, strlen(k->reason));
    for (char *p = k->reason; (p = strpbrk(p, "\n\t"));)
        *p = ' '; /* one line */
    snprintf(k->text, sizeof(k->text), "%s", text ? text : "");
    keeper_set_state(k, KEEPER_STOPPED);
    host_child_kill(&k->cell);
}

/* --- start --- */

static int take_lock(struct keeper *k, struct error *e)
{
    k->lock = openat(k->dir, VM_FILE_LOCK, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (k->lock < 0)
        return error_set(e, errno, "%s: its directory cannot be written: %s", k->cfg.name, strerror(errno));
    if (flock(k->lock, LOCK_EX | LOCK_NB) == 0)
        return 0;
    close(k->lock);
    k->lock = -1;
    return error_set(e, EEXIST, "%s: runs already; stop it first or choose another --name", k->cfg.name);
}

/* The memory of the machine that goes on. */
static int take_memory(struct keeper *k, struct error *e)
{
    struct stat st;
    k->ram_fd = k->incoming->ram_fd;
    if (fstat(k->ram_fd, &st) < 0 || (u64)st.st_size != k->cfg.memory)
        return error_set(e, EINVAL, "%s: the memory that came is not of the machine's size", k->cfg.name);
    return keeper_open_lazy(k, e);
}

static int open_all(struct keeper *k, struct error *e)
{
    int r = take_lock(k, e);
    if (r < 0 || (r = keeper_open_files(k, e)) < 0 || (r = keeper_open_handover(k, e)) < 0 ||
        (r = keeper_open_disks(k, e)) < 0 || (r = keeper_open_shares(k, e)) < 0 || (r = keeper_open_vsock(k, e)) < 0 ||
        (r = console_log_open(&k->log, k->dir, VM_FILE_LOG, e)) < 0)
        return r;
    k->end_fd = openat(k->dir, VM_FILE_END, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (k->end_fd < 0)
        return error_set(e, errno, "%s: %s: %s", k->cfg.name, VM_FILE_END, strerror(errno));
    if ((r = k->term_fd = host_term_signals(e)) < 0)
        return r;
    if (chdir("/") < 0) /* no file system is kept busy; the kernel's files are open */
        return error_set(e, errno, "/: %s", strerror(errno));
    if (k->incoming)
        return take_memory(k, e);
    return (r = k->ram_fd = host_memfd("trapeze-ram", k->cfg.memory, e)) < 0 ? r : 0;
}

/* The cell's own words are in k->reason when it ended before it was ready. */
static int await_cell(struct keeper *k, struct error *e)
{
    u64 limit = host_ns(NULL) + READY_NS;
    while (!k->ready && !k->ended) {
        struct pollfd p[] = {{.fd = k->link.wake_self, .events = POLLIN}, {.fd = k->cell.pidfd, .events = POLLIN}};
        if (host_ns(NULL) > limit)
            return error_set(e, ETIMEDOUT, "%s: the guest's process did not get ready", k->cfg.name);
        ring_door_close(k->link.own);
        if (!keeper_cell_pending(k))
            poll(p, 2, 1000);
        ring_door_open(k->link.own);
        host_event_clear(k->link.wake_self);
        bool gone = p[1].revents;
        keeper_serve_cell(k);
        int code, sig;
        if (gone && !k->ready && !k->ended && host_child_reap(&k->cell, true, &code, &sig) == 1)
            return error_set(e, EIO, "%s: the guest's process ended at its start (%s %d)", k->cfg.name,
                             sig ? "signal" : "status", sig ? sig : code);
    }
    return k->ready ? 0 : error_set(e, EINVAL, "%s", k->reason);
}

/* What the cell's loop waits for, a while at most. */
static int await_restored(struct keeper *k, struct error *e)
{
    u64 limit = host_ns(NULL) + READY_NS;
    while (!k->restored && !k->ended) {
        struct pollfd p[] = {{.fd = k->link.wake_self, .events = POLLIN}, {.fd = k->cell.pidfd, .events = POLLIN}};
        if (host_ns(NULL) > limit)
            return error_set(e, ETIMEDOUT, "%s: the guest's process did not take its state over", k->cfg.name);
        ring_door_close(k->link.own);
        if (!keeper_cell_pending(k))
            poll(p, 2, 1000);
        ring_door_open(k->link.own);
        host_event_clear(k->link.wake_self);
        keeper_serve_cell(k);
        if (p[1].revents && !k->restored && !k->ended)
            return error_set(e, EIO, "%s: the guest's process ended while it took its state over", k->cfg.name);
    }
    return k->restored && !k->ended ? 0 : error_set(e, EINVAL, "%s", k->reason);
}

/*
 * Another's state instead of a kernel. The file that it came from goes before the guest goes on: from then on its disks may be
 * others, and what the file says of its memory fits them no more.
 */
static int restore(struct keeper *k, struct error *e)
{
    keeper_set_state(k, KEEPER_RESTORING);
    int r = keeper_ask(k, DOWN_LOAD, -1, false, k->incoming->records, k->incoming->len);
    if (r < 0)
        return error_set(e, -r, "%s: the guest's process takes no messages", k->cfg.name);
    if ((r = await_restored(k, e)) < 0)
        return r;
    if (k->incoming->consumed && unlinkat(k->dir, k->incoming->consumed, 0) < 0)
        return error_set(e, errno, "%s: %s: cannot be removed: %s", k->cfg.name, k->incoming->consumed,
                         strerror(errno));
    keeper_set_state(k, KEEPER_PAUSED);
    if (k->incoming->fresh && keeper_tell(k, DOWN_FRESH, NULL, 0) < 0)
        return error_set(e, EBUSY, "%s: the guest's process takes no messages", k->cfg.name);
    if (!k->incoming->paused && keeper_ask(k, DOWN_RESUME, -1, false, NULL, 0) < 0)
        return error_set(e, EBUSY, "%s: the guest's process takes no messages", k->cfg.name);
    k->incoming = NULL;
    return 0;
}

/* Memory and state come later, by whoever holds the machine. */
static void await_sender(struct keeper *k)
{
    k->incoming_lifetime = k->incoming->lifetime;
    k->incoming_runs = !k->incoming->paused;
    k->incoming = NULL;
    keeper_set_state(k, KEEPER_INCOMING);
}

static int boot(struct keeper *k, const struct rec_buf *rec, struct error *e)
{
    int r = keeper_tell(k, DOWN_BOOT, rec->data, rec->len);
    if (r < 0)
        return error_set(e, -r, "%s: the guest's process takes no messages", k->cfg.name);
    keeper_set_state(k, KEEPER_RUNNING);
    return 0;
}

static int seal(struct keeper *k, struct error *e)
{
    struct host_keeper_seal s = {.listener = k->listener,
                                 .dir = k->dir,
                                 .log = k->log.fd,
                                 .end = k->end_fd,
                                 .ram = k->ram_fd,
                                 .cell = k->cell.pidfd,
                                 .disks = k->disks,
                                 .disk_ring = keeper_disk_ring(k)};
    for (unsigned i = 0; i < HOST_NET_MAX; i++)
        s.backs[i] = keeper_net_process(k, i);
    for (unsigned i = 0; i < HOST_SHARE_MAX; i++)
        s.backs[HOST_NET_MAX + i] = keeper_share_process(k, i);
    json_object_seed(0); /* opens /dev/urandom on old kernels: now or never */
    int r = host_confine_ring(e);
    return r < 0 ? r : host_seal_keeper(&s, e);
}

static int start(struct keeper *k, struct error *e)
{
    struct rec_buf rec = {0};
    int r = open_all(k, e);
    if (r < 0)
        return r;
    k->tsc_hz = tsc_hz();
    r = cpu_model_make(&k->model, k->cfg.cpu_model, k->tsc_hz, k->cfg.cpus, e);
    /* Load first: a kernel that can't be started is found before there is a cell. */
    if (r < 0 || (!k->incoming && (r = keeper_load(k, &rec, e)) < 0) || (r = keeper_start_cell(k, e)) < 0 ||
        (r = keeper_start_disks(k, e)) < 0 || (r = keeper_listen(k, e)) < 0 || (r = await_cell(k, e)) < 0 ||
        (r = seal(k, e)) < 0)
        goto out;
    if (k->lazy.head && k->incoming->peer) {
        k->page_table = k->incoming->table;
        k->page_event = k->incoming->file;
    } else if (k->lazy.head) {
        close(k->incoming->table);
        close(k->incoming->file);
    }
    if (k->incoming && !k->incoming->records)
        await_sender(k);
    else
        r = k->incoming ? restore(k, e) : boot(k, &rec, e);
out:
    rec_buf_free(&rec);
    return r;
}

/* --- end --- */

static void remove_names(struct keeper *k)
{
    struct stat st;
    unlinkat(k->dir, VM_FILE_CONTROL, 0);
    unlinkat(k->dir, VM_FILE_LOCK, 0);
    if (k->handover_fd >= 0 && fstat(k->handover_fd, &st) == 0 && !st.st_size) /* there was none */
        unlinkat(k->dir, VM_FILE_HANDOVER, 0);
}

static void report(struct keeper *k, const struct error *e)
{
    struct launch_report r = {.pid = getpid(), .e = *e};
    if (write(k->report, &r, sizeof(r)) != sizeof(r))
        keeper_end(k, VM_EXIT_HOST, NULL, "whoever launched it has gone");
}

/* Nothing may stay behind: process, socket, files that were made. */
__attribute__((noreturn)) static void give_up(struct keeper *k, const struct error *e)
{
    int code, sig;
    if (k->cell.pid > 0) {
        host_child_kill(&k->cell);
        host_child_reap(&k->cell, true, &code, &sig);
    }
    keeper_stop_nets(k);
    keeper_stop_shares(k);
    if (k->lock >= 0) {
        remove_names(k);
        unlinkat(k->dir, VM_FILE_LOG, 0);
        unlinkat(k->dir, VM_FILE_END, 0);
    }
    report(k, e);
    _exit(VM_EXIT_CONFIG);
}

static void write_end(struct keeper *k)
{
    json_t *j = json_pack("{s:i,s:s,s:s,s:I}", "code", k->code, "reason", k->reason, "text", k->text, "ended",
                          (json_int_t)(host_wall_ns() / 1000000000));
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_ENSURE_ASCII) : NULL;
    /* A full disk leaves an empty file, which says that there is no word; those who wait are told all the same. */
    ssize_t n = text ? pwrite(k->end_fd, text, strlen(text), 0) : 0;
    if (text && n != (ssize_t)strlen(text))
        n = ftruncate(k->end_fd, 0);
    free(text);
    json_decref(j);
}

/* The cell has ended: by our hand, or by itself. */
static void cell_gone(struct keeper *k)
{
    int code, sig;
    if (host_child_reap(&k->cell, true, &code, &sig) != 1)
        return;
    /* Its last words may be in the rings: the rules for them are the same. */
    for (int i = 0; i < 1000 && !k->ended && keeper_cell_pending(k); i++)
        keeper_serve_cell(k);
    keeper_drain_console(k);
    if (!k->ended && sig == SIGSYS)
        keeper_end(k, VM_EXIT_HOST, NULL, "the guest's process used a system call that its seal forbids (SIGSYS)");
    else if (!k->ended && sig == SIGKILL)
        keeper_end(k, VM_EXIT_HOST, NULL,
                   "the guest's process was killed (signal 9), by a person or for want of memory");
    else if (!k->ended)
        keeper_end(k, VM_EXIT_HOST, NULL, "the guest's process ended by itself (%s %d)", sig ? "signal" : "status",
                   sig ? sig : code);
}

/* --- the loop --- */

enum {
    POLL_CELL,
    POLL_GONE,
    POLL_TERM,
    POLL_LISTEN,
    POLL_DISKS,
    POLL_NETS,
    POLL_SHARES = POLL_NETS + NET_COUNT_MAX,
    POLL_CLIENTS = POLL_SHARES + SHARE_COUNT_MAX
};

static u64 next_deadline(const struct keeper *k)
{
    u64 at = MIN(MIN(MIN(k->stop_at, k->expire_at), k->announce_at), keeper_vsock_deadline(k));
    for (unsigned i = 0; i < KEEPER_OPS; i++)
        if (k->ops[i].id)
            at = MIN(at, k->ops[i].deadline);
    return at;
}

static void serve_deadlines(struct keeper *k)
{
    u64 now = host_ns(NULL);
    for (unsigned i = 0; i < KEEPER_OPS; i++)
        if (k->ops[i].id && k->ops[i].deadline <= now)
            keeper_op_timeout(k, &k->ops[i]);
    if (k->announce_at <= now)
        keeper_announce(k, now);
    if (k->expire_at <= now)
        keeper_abandon_incoming(k, "the host that sent it has not said that it may run");
    if (!k->ended && k->stop_at <= now)
        keeper_end(k, VM_EXIT_SIGNAL + 9, NULL, "killed: it had not powered off after %u s", k->stop_seconds);
}

static struct pollfd client_poll(struct keeper *k, const struct client *c)
{
    if (c->fd >= 0 && c->mode == CLIENT_STREAM)
        return keeper_stream_poll(k, c);
    struct pollfd p = {.fd = c->fd};
    if (client_backlog(c))
        p.events |= POLLOUT;
    if (client_wants_input(c) && !keeper_client_blocked(c))
        p.events |= POLLIN;
    return p;
}

static bool nothing_pending(struct keeper *k)
{
    return !keeper_cell_pending(k) && !keeper_disks_pending(k) && !keeper_vsock_pending(k);
}

/*
 * Disks alone, while a vigil for them is kept: the door is open, so nobody makes a system call to wake us. Returns whether it is
 * still kept: others have had no turn for a while, or there is something for them.
 */
static bool attend_disks(struct keeper *k)
{
    u64 now = host_ns(NULL), turn = now + DISKS_TURN_NS;
    while (now < turn && !k->ended && !keeper_cell_pending(k) && !keeper_vsock_pending(k)) {
        if (now >= keeper_disks_vigil(k))
            return false;
        if (!keeper_serve_disks(k))
            host_yield();
        now = host_ns(NULL);
    }
    return true;
}

/* Sleep until something happens, `limit` at the latest; the door is closed meanwhile. */
static void sleep_on(struct keeper *k, struct pollfd *p, unsigned n, u64 limit, bool busy)
{
    struct timespec t = {0}, *timeout = &t;
    u64 now = host_ns(NULL);
    ring_door_close(k->link.own);
    bool idle = !busy && nothing_pending(k);
    if (idle && limit == UINT64_MAX)
        timeout = NULL;
    else if (idle && limit > now)
        t = (struct timespec){(time_t)((limit - now) / NS_PER_S), (long)((limit - now) % NS_PER_S)};
    ppoll(p, n, timeout, NULL);
    ring_door_open(k->link.own);
}

static bool serve_clients(struct keeper *k, const struct pollfd *p)
{
    bool more = false;
    for (unsigned i = 0; i < KEEPER_CLIENTS; i++) {
        struct client *c = &k->clients[i];
        /* What was buffered while the client was blocked has no event of its own. */
        if (c->fd >= 0 && c->fd == p[i].fd && c->mode == CLIENT_STREAM) {
            keeper_serve_stream(k, c, p[i].revents);
            continue;
        }
        /* One that is given up (no memory for its answer) has nothing to say, and has to be told so by the end of its connection. */
        if (c->fd < 0 || c->fd != p[i].fd || (!p[i].revents && !c->in_len && !c->body_want && !c->closing))
            continue;
        more |= keeper_serve_client(k, c);
        bool hung_up = p[i].revents & (POLLHUP | POLLERR | POLLNVAL);
        if (hung_up && c->fd == p[i].fd && (c->eof || !client_wants_input(c)))
            keeper_drop_client(k, c);
    }
    return more;
}

static void loop(struct keeper *k)
{
    bool busy = true;
    while (k->cell.pid > 0) {
        struct pollfd p[POLL_CLIENTS + KEEPER_CLIENTS] = {
            [POLL_CELL] = {.fd = k->link.wake_self, .events = POLLIN},
            [POLL_GONE] = {.fd = k->cell.pidfd, .events = POLLIN},
            [POLL_TERM] = {.fd = k->term_fd, .events = POLLIN},
            [POLL_LISTEN] = {.fd = k->listener, .events = POLLIN},
            [POLL_DISKS] = {.fd = keeper_disk_event(k), .events = POLLIN},
        };
        for (unsigned i = 0; i < NET_COUNT_MAX; i++)
            p[POLL_NETS + i] = (struct pollfd){.fd = keeper_net_gone(k, i), .events = POLLIN};
        for (unsigned i = 0; i < SHARE_COUNT_MAX; i++)
            p[POLL_SHARES + i] = (struct pollfd){.fd = keeper_share_gone(k, i), .events = POLLIN};
        for (unsigned i = 0; i < KEEPER_CLIENTS; i++)
            p[POLL_CLIENTS + i] = client_poll(k, &k->clients[i]);
        sleep_on(k, p, ARRAY_LEN(p), next_deadline(k), busy || attend_disks(k));
        if (p[POLL_CELL].revents)
            host_event_clear(k->link.wake_self);
        if (p[POLL_DISKS].revents)
            host_event_clear(p[POLL_DISKS].fd);
        busy = keeper_serve_cell(k);
        busy |= keeper_serve_disks(k);
        busy |= keeper_serve_vsock(k);
        busy |= serve_clients(k, p + POLL_CLIENTS);
        if (p[POLL_LISTEN].revents)
            keeper_accept(k);
        if (p[POLL_TERM].revents) {
            host_term_taken(k->term_fd);
            keeper_stop(k, TERM_STOP);
        }
        for (unsigned i = 0; i < NET_COUNT_MAX; i++)
            if (p[POLL_NETS + i].revents)
                keeper_net_ended(k, i);
        for (unsigned i = 0; i < SHARE_COUNT_MAX; i++)
            if (p[POLL_SHARES + i].revents)
                keeper_share_ended(k, i);
        serve_deadlines(k);
        if (p[POLL_GONE].revents)
            cell_gone(k);
    }
}

/* Let slow clients read the last words, for a while. */
static void linger(struct keeper *k)
{
    u64 limit = host_ns(NULL) + LINGER_NS, now;
    for (;;) {
        struct pollfd p[KEEPER_CLIENTS];
        unsigned n = 0;
        for (unsigned i = 0; i < KEEPER_CLIENTS; i++)
            if (k->clients[i].fd >= 0)
                p[n++] = (struct pollfd){.fd = k->clients[i].fd, .events = POLLOUT};
        if (!n || (now = host_ns(NULL)) >= limit)
            return;
        poll(p, n, (int)((limit - now) / 1000000) + 1);
        for (unsigned i = 0; i < KEEPER_CLIENTS; i++) {
            struct client *c = &k->clients[i];
            if (c->fd >= 0 && (client_flush(c) < 0 || !client_backlog(c)))
                keeper_drop_client(k, c);
        }
    }
}

void keeper_main(const struct vm_config *c, const struct vm_incoming *in, int dir, int report_fd)
{
    struct error e = {0};
    struct keeper *k = calloc(1, sizeof(*k));
    if (!k)
        _exit(VM_EXIT_HOST);
    k->cfg = *c;
    k->incoming = in;
    k->dir = dir;
    k->report = report_fd;
    k->lock = k->listener = k->end_fd = k->term_fd = k->ram_fd = k->handover_fd = k->link_fd = k->kernel.fd =
        k->initrd.fd = k->log.fd = -1;
    k->cell = (struct host_child){.pid = -1, .pidfd = -1};
    k->stop_at = k->expire_at = k->announce_at = UINT64_MAX;
    k->holder = k->logger = k->mirror = k->pager = k->page_table = k->page_event = -1;
    k->started = host_ns(NULL);
    for (unsigned i = 0; i < KEEPER_CLIENTS; i++)
        k->clients[i].fd = k->clients[i].pass = -1;
    host_process_name("trapeze-keeper");
    if (start(k, &e) < 0)
        give_up(k, &e);
    report(k, &e);
    close(k->report); /* after a failure it stays open until this process is gone: the caller waits for that */
    loop(k);
    keeper_stop_nets(k);
    keeper_stop_shares(k);
    write_end(k);
    remove_names(k);
    keeper_tell_end(k);
    linger(k);
    _exit(0);
}
