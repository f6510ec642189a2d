#include "vm/resolve.h"
#include "host/host.h"
#include "vm/control.h"
#include "vm/launch.h"
#include "vm/paths.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define FILE_HOST    "host"
#define DIR_RAN      "handovers"
#define FILE_LOCK    "handover.lock"
#define END_TRIES    1000  /* of 5 ms, until a killed keeper is gone */
#define ANSWER_S     10    /* of a keeper */
#define ANSWER_MS    3000  /* after which a question is asked once more, by another connection */
#define WAIT_MOST_MS 5000u /* between two questions */
#define WATCH_NS     3600000000000ull
#define CONFIG_ID    "incoming" /* member of a row's configuration: the handover that it comes by */

/* --- names --- */

void resolve_new_id(char id[HANDOVER_ID + 1])
{
    u8 bytes[HANDOVER_ID / 2];
    host_random(bytes, sizeof(bytes));
    for (unsigned i = 0; i < sizeof(bytes); i++)
        snprintf(id + i * 2, 3, "%02x", bytes[i]);
}

static int open_state(struct error *e)
{
    char dir[PATH_MAX];
    int r = paths_state_dir(dir, sizeof(dir), e);
    if (r < 0)
        return r;
    int fd = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? error_set(e, errno, "%s: %s", dir, strerror(errno)) : fd;
}

static int read_host(int state, char id[HANDOVER_ID + 1])
{
    int fd = openat(state, FILE_HOST, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
    ssize_t n = fd < 0 ? -1 : read(fd, id, HANDOVER_ID);
    if (fd >= 0)
        close(fd);
    id[HANDOVER_ID] = 0;
    return n == HANDOVER_ID && handover_id_good(id) ? 0 : -ENOENT;
}

/* Whole and on stable storage before it has its name; the first one stays. */
static int make_host(int state, struct error *e)
{
    char id[HANDOVER_ID + 1], part[64];
    resolve_new_id(id);
    snprintf(part, sizeof(part), "%s.%d", FILE_HOST, (int)getpid());
    int fd = openat(state, part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_set(e, errno, "%s: %s", FILE_HOST, strerror(errno));
    bool good = write(fd, id, HANDOVER_ID) == HANDOVER_ID && fsync(fd) == 0;
    int r = good ? linkat(state, part, state, FILE_HOST, 0) : -1;
    int code = r < 0 ? errno : 0;
    close(fd);
    unlinkat(state, part, 0);
    fsync(state);
    return !code || code == EEXIST ? 0 : error_set(e, code, "%s: cannot be written: %s", FILE_HOST, strerror(code));
}

int resolve_host(char id[HANDOVER_ID + 1], struct error *e)
{
    int state = open_state(e), r = state < 0 ? state : 0;
    if (r == 0 && read_host(state, id) < 0 && (r = make_host(state, e)) == 0)
        r = read_host(state, id) == 0 ? 0 : error_set(e, EIO, "%s: is no name of a store; remove it", FILE_HOST);
    if (state >= 0)
        close(state);
    return r;
}

/* --- what ran here, beyond the machine's directory --- */

static int ran_path(char out[80], const char *id)
{
    snprintf(out, 80, "%s/%s", DIR_RAN, id);
    return 0;
}

static bool ran(const char *id)
{
    char name[80];
    struct error e = {0};
    int state = open_state(&e);
    ran_path(name, id);
    bool there = state >= 0 && faccessat(state, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
    if (state >= 0)
        close(state);
    return there;
}

int resolve_remember(const char *id, struct error *e)
{
    char name[80];
    int state = open_state(e), fd = -1, dir = -1, r = state < 0 ? state : 0;
    if (r < 0)
        return r;
    ran_path(name, id);
    if (mkdirat(state, DIR_RAN, 0700) < 0 && errno != EEXIST)
        r = error_set(e, errno, "%s: %s", DIR_RAN, strerror(errno));
    if (r == 0)
        dir = openat(state, DIR_RAN, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
    if (r == 0)
        fd = openat(state, name, O_WRONLY | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (r == 0 && (fd < 0 || dir < 0 || fsync(fd) < 0 || fsync(dir) < 0 || fsync(state) < 0))
        r = error_set(e, errno, "%s: cannot be kept: %s", name, strerror(errno));
    if (fd >= 0)
        close(fd);
    if (dir >= 0)
        close(dir);
    close(state);
    return r;
}

void resolve_done(const char *id)
{
    char name[80];
    struct error e = {0};
    int state = handover_id_good(id) ? open_state(&e) : -1;
    if (state < 0)
        return;
    ran_path(name, id);
    unlinkat(state, name, 0);
    close(state);
}

/* --- target --- */

static bool lives(const struct machine_row *row)
{
    return (row->state == MACHINE_STARTING || row->state == MACHINE_RUNNING) &&
           paths_process_alive(row->keeper_pid, row->keeper_start);
}

/* Whether the row is of a machine that comes by a handover: of that id, or (NULL) of any. */
static bool comes_by(const struct machine_row *row, const char *id)
{
    json_t *j = row->kind == KIND_MACHINE && row->config ? json_loads(row->config, 0, NULL) : NULL;
    const char *of = json_string_value(json_object_get(j, CONFIG_ID));
    bool is = of && (!id || !strcmp(of, id));
    json_decref(j);
    return is;
}

static bool activated(const struct machine_row *row, const char *id)
{
    struct handover_record h;
    struct error e = {0};
    return handover_read_at(row->dir, &h, &e) == 0 && h.role == HANDOVER_RUNS && (!id || !strcmp(h.id, id));
}

/* The keeper ends, unless it has activated the machine: it does one thing after the other. 0 when it is gone or has. */
static int end_keeper(const struct machine_row *row, const char *id, struct error *e)
{
    const struct timespec tick = {.tv_nsec = 5 * 1000 * 1000};
    struct error ignored = {0};
    if (lives(row) && row->state == MACHINE_RUNNING &&
        control_once(row->socket, json_pack("{s:s,s:s,s:s}", "do", "handover", "action", "abandon", "id", id), NULL,
                     &ignored) == -EBUSY)
        return 0;
    for (unsigned i = 0; i < END_TRIES; i++) {
        if (!lives(row))
            return 0;
        nanosleep(&tick, NULL);
    }
    return error_set(e, EBUSY, "machine %s: its keeper (process %d) does not end", row->name, (int)row->keeper_pid);
}

/* The row of the machine that came by handover `id`: 0 with *row, -ENOENT, -errno. */
static int find_row(struct registry *r, const char *id, struct machine_row *row, struct error *e)
{
    struct machine_row *rows;
    size_t n, found = SIZE_MAX;
    int rc = registry_list(r, &rows, &n, e);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n && found == SIZE_MAX; i++)
        if (comes_by(&rows[i], id) || (rows[i].kind == KIND_MACHINE && activated(&rows[i], id)))
            found = i;
    char known[MACHINE_ID_LEN + 1] = "";
    if (found != SIZE_MAX)
        snprintf(known, sizeof(known), "%s", rows[found].id);
    registry_rows_free(rows, n);
    return *known ? registry_find(r, known, row, e) : -ENOENT;
}

/* The row of a machine that has never run here, with all that was made for it. */
static int remove_unborn(struct registry *r, const struct machine_row *row, struct error *e)
{
    json_t *j = row->config ? json_loads(row->config, 0, NULL) : NULL;
    const json_t *one;
    size_t i;
    int rc = 0;
    if (json_is_true(json_object_get(j, CONFIG_DISKS_MADE)))
        json_array_foreach(json_object_get(j, "disks"), i, one)
        {
            const char *file = json_string_value(json_object_get(one, "file"));
            if (file && unlink(file) < 0 && errno != ENOENT && rc == 0)
                rc = error_set(e, errno, "disk %s: can not be removed: %s", file, strerror(errno));
        }
    json_decref(j);
    return rc < 0 ? rc : registry_remove(r, row, e);
}

/* It will not run here: after this its keeper is gone, unless it has run already. WIRE_RUNS or WIRE_NEVER, -errno. */
static int give_up(struct registry *r, const struct machine_row *row, const char *id, struct error *e)
{
    int rc = activated(row, id) ? 0 : end_keeper(row, id, e);
    if (rc < 0)
        return rc;
    if (activated(row, id) || ran(id)) /* it may have been removed meanwhile */
        return WIRE_RUNS;
    rc = remove_unborn(r, row, e);
    return rc < 0 ? rc : WIRE_NEVER;
}

int resolve_lacking(const char *id, struct machine_row *row, struct error *e)
{
    struct registry *r;
    struct handover_record h;
    int rc = registry_open(&r, e);
    if (rc < 0)
        return rc;
    rc = find_row(r, id, row, e);
    registry_close(r);
    if (rc < 0)
        return rc;
    if (handover_read_at(row->dir, &h, e) == 0 && h.role == HANDOVER_RUNS && h.postcopy && lives(row))
        return 0;
    registry_row_free(row);
    return -ENOENT;
}

static int commit_row(struct registry *r, const struct machine_row *row, const char *id, struct error *e)
{
    struct error why = {0};
    if (activated(row, id))
        return WIRE_RUNS;
    int rc = lives(row) ? control_once(row->socket,
                                       json_pack("{s:s,s:s,s:s}", "do", "handover", "action", "activate", "id", id),
                                       NULL, &why)
                        : -ESRCH;
    if (rc == 0)
        return WIRE_RUNS;
    return give_up(r, row, id, e);
}

static int answer(const char *id,
                  int (*act)(struct registry *, const struct machine_row *, const char *, struct error *),
                  struct error *e)
{
    struct registry *r;
    struct machine_row row;
    if (!handover_id_good(id))
        return error_set(e, EPROTO, "no id of a handover");
    if (ran(id))
        return WIRE_RUNS;
    int rc = registry_open(&r, e);
    if (rc < 0)
        return rc;
    rc = find_row(r, id, &row, e);
    if (rc == 0) {
        rc = act(r, &row, id, e);
        registry_row_free(&row);
    } else if (rc == -ENOENT) {
        rc = ran(id) ? WIRE_RUNS : WIRE_NEVER; /* it may have been removed meanwhile */
    }
    registry_close(r);
    return rc;
}

int resolve_commit(const char *id, struct error *e)
{
    return answer(id, commit_row, e);
}

int resolve_abort(const char *id, struct error *e)
{
    return answer(id, give_up, e);
}

/* --- source --- */

int resolve_lock(const char *dir, struct error *e)
{
    char path[PATH_MAX];
    int r = paths_join(path, sizeof(path), dir, FILE_LOCK, e);
    if (r < 0)
        return r;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return error_set(e, errno, "%s: %s", path, strerror(errno));
    if (flock(fd, LOCK_EX | LOCK_NB) == 0)
        return fd;
    r = errno;
    close(fd);
    return error_set(e, r == EWOULDBLOCK ? EBUSY : r, "%s: another process moves this machine", path);
}

/* What was recorded before COMMITTED: how the machine came here, if it did. */
static void as_it_came(const struct machine_row *row, struct handover_record *h)
{
    json_t *j = row->config ? json_loads(row->config, 0, NULL) : NULL;
    const char *id = json_string_value(json_object_get(j, CONFIG_ID));
    if (handover_id_good(id)) {
        *h = (struct handover_record){.role = HANDOVER_RUNS};
        memcpy(h->id, id, sizeof(h->id));
    }
    json_decref(j);
}

int resolve_settle(const struct machine_row *row, const char *id, bool runs, struct error *e)
{
    struct handover_record h;
    struct error gone = {0};
    int rc = control_once(row->socket,
                          json_pack("{s:s,s:s,s:s}", "do", "handover", "action", runs ? "left" : "back", "id", id),
                          NULL, &gone);
    if (rc == 0 && !runs)
        return 0;
    if (rc < 0 && lives(row) && row->state == MACHINE_RUNNING)
        return error_set(e, -rc, "%s", gone.msg);
    /* Without a keeper, or with one that has ended and may not have been able to write why. */
    if ((rc = handover_read_at(row->dir, &h, e)) < 0 || h.role != HANDOVER_COMMITTED || strcmp(h.id, id))
        return rc;
    h.role = runs ? HANDOVER_MOVED : HANDOVER_NONE;
    if (!runs)
        as_it_came(row, &h);
    return handover_write_at(row->dir, &h, e);
}

/* Whether nobody has the pages any more that the target was to get. */
static bool is_bereft(const struct machine_row *row, const struct handover_record *h, const struct page_store *store)
{
    return h->postcopy && !store && !lives(row);
}

/* The target's machine lacks pages. */
static int serve(const struct machine_row *row, const struct handover_record *h, struct page_store *store,
                 struct channel *c, struct error *e)
{
    struct page_store own;
    if (is_bereft(row, h, store))
        return serve_gone(h->id, c, e);
    control_once(row->socket, json_pack("{s:s,s:s,s:s}", "do", "paging", "action", "serve", "id", h->id), NULL,
                 &(struct error){0});
    if (store)
        return serve_pages(store, h->id, c, e);
    int rc = page_store_open(&own, row, e);
    if (rc < 0)
        return rc;
    rc = serve_pages(&own, h->id, c, e);
    page_store_close(&own);
    return rc;
}

static int ask(const struct machine_row *row, const struct handover_record *h, struct page_store *store,
               struct channel *c, struct error *e)
{
    json_t *body = NULL;
    c->silence_ms = ANSWER_S * 1000;
    int rc = wire_send(c, is_bereft(row, h, store) ? WIRE_ABORT : WIRE_COMMIT, wire_id(h->id, NULL), e);
    if (rc == 0)
        rc = wire_receive(c, WIRE(WIRE_RUNS) | WIRE(WIRE_NEVER), &body, e);
    const char *host = json_string_value(json_object_get(body, "host"));
    if (rc >= 0 && (!wire_is_of(body, h->id) || !host || strcmp(host, h->host)))
        rc = error_set(e, EPROTO, "%s: another host answers there than the one that the machine went to", h->to);
    bool lacks = rc == WIRE_RUNS && wire_lacks(body);
    json_decref(body);
    return lacks ? serve(row, h, store, c, e) : rc;
}

int resolve_ask(const struct machine_row *row, int deadline_ms, struct page_store *store, struct error *e)
{
    struct handover_record h;
    struct channel_address a;
    struct channel *c;
    int rc = handover_read_at(row->dir, &h, e);
    if (rc < 0 || h.role != HANDOVER_COMMITTED)
        return rc;
    const struct channel_security s = {.tls_dir = h.tls[0] ? h.tls : NULL, .insecure = h.insecure};
    if ((rc = channel_address_parse(&a, h.to, e)) < 0 || (rc = channel_connect(&a, &s, deadline_ms, &c, e)) < 0)
        return rc;
    rc = ask(row, &h, store, c, e);
    if (rc >= 0) {
        int settled = resolve_settle(row, h.id, rc == WIRE_RUNS, e);
        if (settled < 0)
            rc = settled;
        else
            wire_send(c, WIRE_DONE, wire_id(h.id, NULL), &(struct error){0});
    }
    channel_close_after(c, 200);
    return rc;
}

int resolve_ask_again(const struct machine_row *row, u64 ns, struct page_store *store, struct error *e)
{
    u64 end = host_ns(NULL) + ns, sent = store ? store->sent : 0;
    int r = -ETIMEDOUT;
    for (unsigned wait = 50; host_ns(NULL) < end; wait = MIN(wait * 2, WAIT_MOST_MS)) {
        *e = (struct error){0};
        r = resolve_ask(row, ANSWER_MS, store, e);
        if (r >= 0)
            return r;
        if (store && store->sent != sent) { /* the link worked for a while */
            sent = store->sent;
            end = host_ns(NULL) + ns;
            wait = 50;
        }
        const struct timespec t = {wait / 1000, (long)(wait % 1000) * 1000000};
        nanosleep(&t, NULL);
    }
    return r;
}

/* Pages may have to be sent, which takes a while: a process of its own does, and has the lock then. */
static void leave_server(const struct machine_row *row, int lock)
{
    struct error e = {0};
    if (host_fork_detached(&lock, 1, &e) != 1)
        return;
    host_process_name("trapeze-watcher");
    resolve_ask_again(row, WATCH_NS, NULL, &e);
    _exit(0);
}

static void sweep_row(struct registry *r, const struct machine_row *row, int deadline_ms)
{
    struct handover_record h;
    struct error e = {0};
    if (handover_read_at(row->dir, &h, &e) < 0)
        return;
    if (h.role == HANDOVER_NONE && !lives(row) && comes_by(row, NULL)) {
        remove_unborn(r, row, &e);
        return;
    }
    int lock = h.role == HANDOVER_COMMITTED ? resolve_lock(row->dir, &e) : -1;
    if (lock < 0)
        return;
    if (h.postcopy && lives(row))
        leave_server(row, lock);
    else
        resolve_ask(row, deadline_ms, NULL, &e);
    close(lock);
}

void resolve_sweep(struct registry *r, int deadline_ms)
{
    struct machine_row *rows;
    size_t n;
    struct error e = {0};
    if (registry_list(r, &rows, &n, &e) < 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (rows[i].kind == KIND_MACHINE)
            sweep_row(r, &rows[i], deadline_ms);
    registry_rows_free(rows, n);
}
