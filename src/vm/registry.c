/*
 * The registry in sqlite: every call is one statement or one immediate transaction, so verbs that run at the same time
 * see whole rows; a busy database is waited for, ten seconds at most.
 *
 * Schema versions live in PRAGMA user_version. A newer version than ours is refused; older ones are brought up by the
 * steps of `migrations`, one transaction each.
 */
#include "vm/registry.h"
#include "vm/launch.h"
#include "vm/paths.h"
#include "vm/resolve.h"

#include <errno.h>
#include <sqlite3.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <time.h>
#include <unistd.h>

#define BUSY_MS 10000

struct registry {
    sqlite3 *db;
    char path[PATH_MAX];
};

/* Milliseconds since 1970. */
#define NOW "CAST((julianday('now') - 2440587.5) * 86400000 AS INTEGER)"

/* Step i brings the schema from version i to i + 1. Once released, a step never changes. */
static const char *const migrations[] = {
    "CREATE TABLE machines ("
    " id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, state TEXT NOT NULL,"
    " keeper_pid INTEGER NOT NULL, keeper_start INTEGER NOT NULL,"
    " created INTEGER NOT NULL, ended INTEGER NOT NULL DEFAULT 0,"
    " exit_code INTEGER NOT NULL DEFAULT 0, reason TEXT NOT NULL DEFAULT '',"
    " auto_remove INTEGER NOT NULL DEFAULT 0, config TEXT NOT NULL,"
    " dir TEXT NOT NULL, log TEXT NOT NULL, socket TEXT NOT NULL)",
    "ALTER TABLE machines ADD COLUMN kind TEXT NOT NULL DEFAULT 'machine'",
    /* What happens to rows is written down in the transaction in which it happens; the last 4096 at least are kept. */
    "CREATE TABLE events ("
    " seq INTEGER PRIMARY KEY AUTOINCREMENT, time INTEGER NOT NULL, kind TEXT NOT NULL, id TEXT NOT NULL,"
    " name TEXT NOT NULL, what TEXT NOT NULL, exit_code INTEGER, reason TEXT NOT NULL DEFAULT '');"
    "CREATE TRIGGER created AFTER INSERT ON machines BEGIN"
    " INSERT INTO events (time, kind, id, name, what) VALUES (" NOW ", NEW.kind, NEW.id, NEW.name, 'create');"
    " INSERT INTO events (time, kind, id, name, what) SELECT " NOW ", NEW.kind, NEW.id, NEW.name, 'start'"
    "  WHERE NEW.state = 'running'; END;"
    "CREATE TRIGGER changed AFTER UPDATE OF state ON machines WHEN OLD.state <> NEW.state BEGIN"
    " INSERT INTO events (time, kind, id, name, what) SELECT " NOW ", NEW.kind, NEW.id, NEW.name, 'start'"
    "  WHERE NEW.state = 'running';"
    " INSERT INTO events (time, kind, id, name, what, exit_code, reason) SELECT " NOW
    ", NEW.kind, NEW.id, NEW.name, 'end',"
    "  NEW.exit_code, NEW.reason WHERE NEW.state IN ('exited', 'dead') AND OLD.state IN ('starting', 'running'); END;"
    "CREATE TRIGGER removed AFTER DELETE ON machines BEGIN"
    " INSERT INTO events (time, kind, id, name, what) SELECT " NOW ", OLD.kind, OLD.id, OLD.name, 'end'"
    "  WHERE OLD.state IN ('starting', 'running');"
    " INSERT INTO events (time, kind, id, name, what) VALUES (" NOW ", OLD.kind, OLD.id, OLD.name, 'remove'); END;"
    "CREATE TRIGGER forgotten AFTER INSERT ON events WHEN NEW.seq % 256 = 0 BEGIN"
    " DELETE FROM events WHERE seq <= NEW.seq - 4096; END",
};

#define COLUMNS                                                                                                     \
    "id, name, state, keeper_pid, keeper_start, created, ended, exit_code, reason, auto_remove, config, dir, log, " \
    "socket, kind"

static const char *const kind_names[] = {
#define X(kind, name) [kind] = name,
    MACHINE_KINDS(X)
#undef X
};

const char *registry_kind_name(enum machine_kind kind)
{
    return (unsigned)kind < ARRAY_LEN(kind_names) ? kind_names[kind] : "unknown";
}

static const char *const state_names[] = {
#define X(state, name) [state] = name,
    MACHINE_STATES(X)
#undef X
};

const char *registry_state_name(enum machine_state s)
{
    return (unsigned)s < MACHINE_STATE_COUNT ? state_names[s] : "unknown";
}

static enum machine_state state_from_name(const char *name)
{
    for (int s = 0; s < MACHINE_STATE_COUNT; s++)
        if (!strcmp(state_names[s], name))
            return s;
    return MACHINE_DEAD;
}

/* --- statements --- */

static int db_error(struct registry *r, struct error *e)
{
    int rc = sqlite3_errcode(r->db);
    if (rc == SQLITE_BUSY || rc == SQLITE_LOCKED)
        return error_set(e, EBUSY, "%s: busy for %d s; another trapeze holds it, try again", r->path, BUSY_MS / 1000);
    if (rc == SQLITE_CANTOPEN || rc == SQLITE_READONLY || rc == SQLITE_PERM)
        return error_set(e, EIO, "%s: %s; make it writable, or set XDG_STATE_HOME to another directory", r->path,
                         sqlite3_errmsg(r->db));
    return error_set(e, EIO, "%s: %s; if it is damaged, move it away: the next verb makes a new one", r->path,
                     sqlite3_errmsg(r->db));
}

static int run_sql(struct registry *r, const char *sql, struct error *e)
{
    return sqlite3_exec(r->db, sql, NULL, NULL, NULL) == SQLITE_OK ? 0 : db_error(r, e);
}

static int prepare(struct registry *r, sqlite3_stmt **st, const char *sql, struct error *e)
{
    return sqlite3_prepare_v2(r->db, sql, -1, st, NULL) == SQLITE_OK ? 0 : db_error(r, e);
}

/* Run a statement that returns no rows, and finish it. 0, or the number of changed rows in *changed. */
static int finish(struct registry *r, sqlite3_stmt *st, int *changed, struct error *e)
{
    int rc = sqlite3_step(st);
    if (rc == SQLITE_DONE && changed)
        *changed = sqlite3_changes(r->db);
    int result = rc == SQLITE_DONE ? 0 : rc == SQLITE_CONSTRAINT ? -EEXIST : db_error(r, e);
    sqlite3_finalize(st);
    return result;
}

static void bind_text(sqlite3_stmt *st, int i, const char *s)
{
    sqlite3_bind_text(st, i, s, -1, SQLITE_TRANSIENT);
}

/* --- opening --- */

static int user_version(struct registry *r, int *version, struct error *e)
{
    sqlite3_stmt *st;
    int rc = prepare(r, &st, "PRAGMA user_version", e);
    if (rc < 0)
        return rc;
    *version = -1;
    if (sqlite3_step(st) == SQLITE_ROW)
        *version = sqlite3_column_int(st, 0);
    sqlite3_finalize(st);
    return *version < 0 ? db_error(r, e) : 0;
}

/* Inside an immediate transaction, so that two first verbs do not both migrate. */
static int migrate(struct registry *r, struct error *e)
{
    int version, rc = user_version(r, &version, e);
    if (rc < 0)
        return rc;
    if (version > (int)ARRAY_LEN(migrations))
        return error_set(e, EPROTO, "%s: made by a newer trapeze (schema %d, known here: %zu); use that one", r->path,
                         version, ARRAY_LEN(migrations));
    for (; rc == 0 && version < (int)ARRAY_LEN(migrations); version++) {
        char pragma[40];
        snprintf(pragma, sizeof(pragma), "PRAGMA user_version = %d", version + 1);
        rc = run_sql(r, migrations[version], e);
        if (rc == 0)
            rc = run_sql(r, pragma, e);
    }
    return rc;
}

static int set_up(struct registry *r, struct error *e)
{
    int version;
    sqlite3_busy_timeout(r->db, BUSY_MS);
    int rc = user_version(r, &version, e);
    if (rc < 0 || version == (int)ARRAY_LEN(migrations))
        return rc;
    rc = run_sql(r, "BEGIN IMMEDIATE", e);
    if (rc < 0)
        return rc;
    rc = migrate(r, e);
    if (rc == 0)
        return run_sql(r, "COMMIT", e);
    sqlite3_exec(r->db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

int registry_open(struct registry **out, struct error *e)
{
    char dir[PATH_MAX];
    struct registry *r = calloc(1, sizeof(*r));
    if (!r)
        return error_set(e, ENOMEM, "registry: out of memory");
    int rc = paths_state_dir(dir, sizeof(dir), e);
    if (rc == 0)
        rc = paths_join(r->path, sizeof(r->path), dir, "machines.db", e);
    if (rc == 0 && sqlite3_open_v2(r->path, &r->db, SQLITE_OPEN_READWRITE | SQLITE_OPEN_CREATE, NULL) != SQLITE_OK)
        rc = db_error(r, e);
    if (rc == 0)
        rc = set_up(r, e);
    if (rc == 0)
        *out = r;
    else
        registry_close(r);
    return rc;
}

void registry_close(struct registry *r)
{
    if (!r)
        return;
    sqlite3_close(r->db);
    free(r);
}

/* --- rows --- */

void registry_row_free(struct machine_row *row)
{
    free(row->config);
    row->config = NULL;
}

void registry_rows_free(struct machine_row *rows, size_t n)
{
    for (size_t i = 0; i < n; i++)
        registry_row_free(&rows[i]);
    free(rows);
}

static void column(sqlite3_stmt *st, int i, char *out, size_t size)
{
    const unsigned char *s = sqlite3_column_text(st, i);
    snprintf(out, size, "%s", s ? (const char *)s : "");
}

/* The columns in the order of COLUMNS. */
static int read_row(sqlite3_stmt *st, struct machine_row *row, struct error *e)
{
    char state[16];
    memset(row, 0, sizeof(*row));
    column(st, 0, row->id, sizeof(row->id));
    column(st, 1, row->name, sizeof(row->name));
    column(st, 2, state, sizeof(state));
    row->state = state_from_name(state);
    row->keeper_pid = sqlite3_column_int(st, 3);
    row->keeper_start = (u64)sqlite3_column_int64(st, 4);
    row->created = sqlite3_column_int64(st, 5);
    row->ended = sqlite3_column_int64(st, 6);
    row->exit_code = sqlite3_column_int(st, 7);
    column(st, 8, row->reason, sizeof(row->reason));
    row->auto_remove = sqlite3_column_int(st, 9) != 0;
    const unsigned char *config = sqlite3_column_text(st, 10);
    row->config = strdup(config ? (const char *)config : "{}");
    column(st, 11, row->dir, sizeof(row->dir));
    column(st, 12, row->log, sizeof(row->log));
    column(st, 13, row->socket, sizeof(row->socket));
    const char *kind = (const char *)sqlite3_column_text(st, 14);
    row->kind = kind && !strcmp(kind, kind_names[KIND_CONTAINER]) ? KIND_CONTAINER : KIND_MACHINE;
    return row->config ? 0 : error_set(e, ENOMEM, "registry: out of memory");
}

int registry_list(struct registry *r, struct machine_row **rows, size_t *n, struct error *e)
{
    sqlite3_stmt *st;
    *rows = NULL;
    *n = 0;
    int rc = prepare(r, &st, "SELECT " COLUMNS " FROM machines ORDER BY created, rowid", e);
    if (rc < 0)
        return rc;
    int step;
    while (rc == 0 && (step = sqlite3_step(st)) == SQLITE_ROW) {
        struct machine_row *p = realloc(*rows, (*n + 1) * sizeof(*p));
        if (!p) {
            rc = error_set(e, ENOMEM, "registry: out of memory");
            break;
        }
        *rows = p;
        rc = read_row(st, &p[*n], e);
        *n += rc == 0;
    }
    if (rc == 0 && step != SQLITE_DONE)
        rc = db_error(r, e);
    sqlite3_finalize(st);
    if (rc < 0) {
        registry_rows_free(*rows, *n);
        *rows = NULL;
        *n = 0;
    }
    return rc;
}

int registry_find(struct registry *r, const char *name, struct machine_row *row, struct error *e)
{
    struct machine_row *rows;
    size_t n, hits = 0, hit = 0;
    int rc = registry_list(r, &rows, &n, e);
    if (rc < 0)
        return rc;
    for (size_t i = 0; i < n; i++) {
        if (!strcmp(rows[i].name, name) || !strcmp(rows[i].id, name)) {
            hits = 1;
            hit = i;
            break;
        }
        if (*name && !strncmp(rows[i].id, name, strlen(name))) {
            hits++;
            hit = i;
        }
    }
    if (hits == 1) {
        *row = rows[hit];
        rows[hit].config = NULL;
    } else if (hits > 1) {
        rc = error_set(e, EINVAL, "machine %s: %zu ids begin with it; give more of the id, or the name", name, hits);
    } else {
        rc = error_set(e, ENOENT, "machine %s: no such machine or container; `trapeze ps -a` lists them", name);
    }
    registry_rows_free(rows, n);
    return rc;
}

/* --- a machine's life --- */

int registry_check_name(const char *name, struct error *e)
{
    static const char first[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789";
    static const char rest[] = "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";
    size_t n = strlen(name);
    if (n == 0 || n > MACHINE_NAME_MAX || !strchr(first, name[0]) || strspn(name, rest) != n)
        return error_set(e, EINVAL,
                         "machine name \"%.80s\": not possible; use 1 to %d letters, digits, `.`, `_`, `-`, beginning "
                         "with a letter or digit",
                         name, MACHINE_NAME_MAX);
    return 0;
}

int registry_make_id(char out[MACHINE_ID_LEN + 1], struct error *e)
{
    do {
        u8 bytes[MACHINE_ID_LEN / 2];
        if (getrandom(bytes, sizeof(bytes), 0) != (ssize_t)sizeof(bytes))
            return error_set(e, EIO, "machine id: the kernel gives no random bytes (getrandom); try again");
        for (size_t i = 0; i < sizeof(bytes); i++)
            snprintf(out + 2 * i, 3, "%02x", bytes[i]);
    } while (!out[strspn(out, "0123456789")]);
    return 0;
}

/* Two words, from the bits of the id: what the machine is like, and what flies. */
static void make_name(char *out, size_t size, const char *id, unsigned attempt)
{
    static const char *const how[] = {"agile",  "bold",  "brisk",  "calm",   "daring", "deft",  "eager",  "fleet",
                                      "gentle", "hardy", "jolly",  "keen",   "light",  "lithe", "lively", "lucid",
                                      "merry",  "nifty", "nimble", "poised", "proud",  "quick", "quiet",  "rapid",
                                      "sleek",  "spry",  "steady", "supple", "swift",  "tidy",  "vivid",  "witty"};
    static const char *const who[] = {"albatross", "bat",      "bee",     "buzzard", "crane",  "cuckoo",  "dove",
                                      "eagle",     "falcon",   "finch",   "gannet",  "gibbon", "goshawk", "gull",
                                      "heron",     "hobby",    "hornet",  "ibis",    "jay",    "kestrel", "kite",
                                      "lark",      "lemur",    "martin",  "merlin",  "osprey", "petrel",  "robin",
                                      "sparrow",   "starling", "swallow", "tern"};
    unsigned long bits = strtoul(id + MACHINE_ID_LEN - 7, NULL, 16);
    const char *a = how[bits % ARRAY_LEN(how)], *b = who[bits / ARRAY_LEN(how) % ARRAY_LEN(who)];
    if (attempt == 0)
        snprintf(out, size, "%s-%s", a, b);
    else
        snprintf(out, size, "%s-%s-%lu", a, b, bits / ARRAY_LEN(how) / ARRAY_LEN(who) % 1000);
}

static int insert(struct registry *r, const struct machine_row *row, struct error *e)
{
    sqlite3_stmt *st;
    int rc = prepare(r, &st, "INSERT INTO machines (" COLUMNS ") VALUES (?,?,?,?,?,?,0,0,'',?,?,?,?,?,?)", e);
    if (rc < 0)
        return rc;
    bind_text(st, 1, row->id);
    bind_text(st, 2, row->name);
    bind_text(st, 3, registry_state_name(row->state));
    sqlite3_bind_int(st, 4, row->keeper_pid);
    sqlite3_bind_int64(st, 5, (sqlite3_int64)row->keeper_start);
    sqlite3_bind_int64(st, 6, row->created);
    sqlite3_bind_int(st, 7, row->auto_remove);
    bind_text(st, 8, row->config);
    bind_text(st, 9, row->dir);
    bind_text(st, 10, row->log);
    bind_text(st, 11, row->socket);
    bind_text(st, 12, registry_kind_name(row->kind));
    return finish(r, st, NULL, e);
}

static int fill_row(struct machine_row *row, const char *config, bool auto_remove, struct error *e)
{
    memset(row, 0, sizeof(*row));
    row->state = MACHINE_STARTING;
    row->keeper_pid = getpid();
    row->keeper_start = paths_process_start(getpid());
    row->created = time(NULL);
    row->auto_remove = auto_remove;
    int rc = registry_make_id(row->id, e);
    if (rc == 0)
        rc = paths_machine_dir(row->dir, sizeof(row->dir), row->id, true, e);
    if (rc == 0)
        rc = paths_join(row->log, sizeof(row->log), row->dir, VM_FILE_LOG, e);
    if (rc == 0)
        rc = paths_join(row->socket, sizeof(row->socket), row->dir, VM_FILE_CONTROL, e);
    if (rc < 0)
        return rc;
    row->config = strdup(config);
    return row->config ? 0 : error_set(e, ENOMEM, "registry: out of memory");
}

static int insert_named(struct registry *r, const char *name, struct machine_row *row, struct error *e)
{
    if (name) {
        snprintf(row->name, sizeof(row->name), "%s", name);
        int rc = insert(r, row, e);
        return rc != -EEXIST ? rc
                             : error_set(e, EEXIST,
                                         "machine %s: name taken; remove it with `trapeze rm %s` or choose another "
                                         "with --name",
                                         name, name);
    }
    int rc = -EEXIST;
    for (unsigned attempt = 0; rc == -EEXIST && attempt < 2; attempt++) {
        make_name(row->name, sizeof(row->name), row->id, attempt);
        rc = insert(r, row, e);
    }
    return rc != -EEXIST ? rc : error_set(e, EEXIST, "machine %s: name taken; give one with --name", row->name);
}

int registry_create(struct registry *r, const char *name, const char *config, bool auto_remove, struct machine_row *row,
                    struct error *e)
{
    return registry_create_kind(r, KIND_MACHINE, name, config, auto_remove, row, e);
}

int registry_create_kind(struct registry *r, enum machine_kind kind, const char *name, const char *config,
                         bool auto_remove, struct machine_row *row, struct error *e)
{
    int rc = name ? registry_check_name(name, e) : 0;
    if (rc < 0)
        return rc;
    rc = fill_row(row, config, auto_remove, e);
    row->kind = kind;
    if (kind == KIND_CONTAINER) /* made by its keeper: that is up */
        row->state = MACHINE_RUNNING;
    if (rc == 0)
        rc = insert_named(r, name, row, e);
    if (rc < 0) {
        if (row->dir[0])
            paths_remove_dir(row->dir, NULL);
        registry_row_free(row);
    }
    return rc;
}

int registry_started(struct registry *r, const char *id, pid_t keeper, struct error *e)
{
    sqlite3_stmt *st;
    int rc = prepare(r, &st,
                     "UPDATE machines SET state = 'running', keeper_pid = ?, keeper_start = ? WHERE id = ? AND state = "
                     "'starting'",
                     e);
    if (rc < 0)
        return rc;
    sqlite3_bind_int(st, 1, keeper);
    sqlite3_bind_int64(st, 2, (sqlite3_int64)paths_process_start(keeper));
    bind_text(st, 3, id);
    return finish(r, st, NULL, e);
}

int registry_restart(struct registry *r, struct machine_row *row, struct error *e)
{
    sqlite3_stmt *st;
    int changed = 0;
    int rc =
        prepare(r, &st,
                "UPDATE machines SET state = 'starting', keeper_pid = ?, keeper_start = ?, ended = 0, exit_code = 0, "
                "reason = '' WHERE id = ? AND state IN ('exited', 'dead')",
                e);
    if (rc < 0)
        return rc;
    sqlite3_bind_int(st, 1, getpid());
    sqlite3_bind_int64(st, 2, (sqlite3_int64)paths_process_start(getpid()));
    bind_text(st, 3, row->id);
    if ((rc = finish(r, st, &changed, e)) < 0)
        return rc;
    if (!changed)
        return error_set(e, EEXIST, "machine %s: runs already", row->name);
    row->state = MACHINE_STARTING;
    return vm_end_forget(row->dir, e);
}

/* Of the life that process `keeper` has led, which began at `start`; 0: of whichever it is. */
static int record_end(struct registry *r, const char *id, pid_t keeper, u64 start, int exit_code, const char *reason,
                      int *changed, struct error *e)
{
    sqlite3_stmt *st;
    int rc = prepare(r, &st,
                     "UPDATE machines SET state = 'exited', exit_code = ?, reason = ?, ended = ? WHERE id = ? AND "
                     "state <> 'exited' AND (?5 = 0 OR (?5 = keeper_pid AND ?6 = keeper_start))",
                     e);
    if (rc < 0)
        return rc;
    sqlite3_bind_int(st, 1, exit_code);
    bind_text(st, 2, reason);
    sqlite3_bind_int64(st, 3, time(NULL));
    bind_text(st, 4, id);
    sqlite3_bind_int(st, 5, keeper);
    sqlite3_bind_int64(st, 6, (sqlite3_int64)start);
    return finish(r, st, changed, e);
}

int registry_ended(struct registry *r, const char *id, int exit_code, const char *reason, struct error *e)
{
    return record_end(r, id, 0, 0, exit_code, reason, NULL, e);
}

int registry_configure(struct registry *r, const char *id, const char *config, struct error *e)
{
    sqlite3_stmt *st;
    int rc = prepare(r, &st, "UPDATE machines SET config = ? WHERE id = ?", e);
    if (rc < 0)
        return rc;
    bind_text(st, 1, config);
    bind_text(st, 2, id);
    return finish(r, st, NULL, e);
}

/* What was promised about a machine that moved goes beyond its directory. */
static int keep_word(const struct machine_row *row, struct error *e)
{
    struct handover_record h;
    int rc = row->kind == KIND_MACHINE ? handover_read_at(row->dir, &h, e) : 0;
    if (row->kind != KIND_MACHINE || rc < 0)
        return rc;
    if (h.role == HANDOVER_COMMITTED)
        return error_set(e, EBUSY,
                         "machine %s: has been handed over to %s, which has not said what became of it; "
                         "`trapeze system recover` asks again",
                         row->name, h.to);
    return h.role == HANDOVER_RUNS ? resolve_remember(h.id, e) : 0;
}

int registry_remove(struct registry *r, const struct machine_row *row, struct error *e)
{
    sqlite3_stmt *st;
    int rc = keep_word(row, e);
    if (rc == 0)
        rc = paths_remove_dir(row->dir, e);
    if (rc == 0)
        rc = prepare(r, &st, "DELETE FROM machines WHERE id = ?", e);
    if (rc < 0)
        return rc;
    bind_text(st, 1, row->id);
    return finish(r, st, NULL, e);
}

/* One transaction, so that the disk is waited for once. */
int registry_remove_ended(struct registry *r, const struct machine_row *row, int exit_code, const char *reason,
                          struct error *e)
{
    int rc = run_sql(r, "BEGIN IMMEDIATE", e);
    if (rc < 0)
        return rc;
    rc = registry_ended(r, row->id, exit_code, reason, e);
    if (rc == 0)
        rc = registry_remove(r, row, e);
    if (rc == 0)
        return run_sql(r, "COMMIT", e);
    sqlite3_exec(r->db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

/* --- events --- */

int registry_note(struct registry *r, const struct machine_row *row, const char *what, struct error *e)
{
    sqlite3_stmt *st;
    int rc = prepare(r, &st, "INSERT INTO events (time, kind, id, name, what) VALUES (" NOW ", ?, ?, ?, ?)", e);
    if (rc < 0)
        return rc;
    bind_text(st, 1, registry_kind_name(row->kind));
    bind_text(st, 2, row->id);
    bind_text(st, 3, row->name);
    bind_text(st, 4, what);
    return finish(r, st, NULL, e);
}

static void read_event(sqlite3_stmt *st, struct machine_event *v)
{
    char kind[16];
    memset(v, 0, sizeof(*v));
    v->seq = sqlite3_column_int64(st, 0);
    v->time_ms = sqlite3_column_int64(st, 1);
    column(st, 2, kind, sizeof(kind));
    v->kind = strcmp(kind, kind_names[KIND_CONTAINER]) ? KIND_MACHINE : KIND_CONTAINER;
    column(st, 3, v->id, sizeof(v->id));
    column(st, 4, v->name, sizeof(v->name));
    column(st, 5, v->what, sizeof(v->what));
    v->has_code = sqlite3_column_type(st, 6) != SQLITE_NULL;
    v->exit_code = sqlite3_column_int(st, 6);
    column(st, 7, v->reason, sizeof(v->reason));
}

int registry_events(struct registry *r, s64 after, int (*take)(void *arg, const struct machine_event *v), void *arg,
                    struct error *e)
{
    sqlite3_stmt *st;
    int step,
        rc = prepare(r, &st,
                     "SELECT seq, time, kind, id, name, what, exit_code, reason FROM events WHERE seq > ? ORDER BY "
                     "seq",
                     e);
    if (rc < 0)
        return rc;
    sqlite3_bind_int64(st, 1, after);
    while (rc == 0 && (step = sqlite3_step(st)) != SQLITE_DONE) {
        struct machine_event v;
        if (step != SQLITE_ROW) {
            rc = db_error(r, e);
            break;
        }
        read_event(st, &v);
        rc = take(arg, &v);
    }
    sqlite3_finalize(st);
    return rc;
}

/* That its keeper is gone: its last word, or that it left none. *changed 0: the row is of another life meanwhile. */
static int record_gone(struct registry *r, const struct machine_row *row, int *changed, struct error *e)
{
    sqlite3_stmt *st;
    char reason[sizeof(row->reason)];
    int code;
    if (vm_end_read(row->dir, &code, reason, sizeof(reason), NULL) == 0)
        return record_end(r, row->id, row->keeper_pid, row->keeper_start, code, reason, changed, e);
    int rc = prepare(r, &st,
                     "UPDATE machines SET state = 'dead', ended = ?, exit_code = 3, reason = ? WHERE id = ? AND "
                     "keeper_pid = ? AND keeper_start = ? AND state IN ('starting', 'running')",
                     e);
    if (rc < 0)
        return rc;
    sqlite3_bind_int64(st, 1, time(NULL));
    bind_text(st, 2, "its keeper process vanished");
    bind_text(st, 3, row->id);
    sqlite3_bind_int(st, 4, row->keeper_pid);
    sqlite3_bind_int64(st, 5, (sqlite3_int64)row->keeper_start);
    return finish(r, st, changed, e);
}

/*
 * Record the end of one machine whose keeper is gone. 1: done; 0: the row, read before, is of a life that is over for others,
 * too, and the machine may live again. Its last word is read and its socket goes inside the transaction: the next life begins
 * with one (registry_restart), so none has begun.
 */
static int bury(struct registry *r, const struct machine_row *row, struct error *e)
{
    int changed = 0, rc = run_sql(r, "BEGIN IMMEDIATE", e);
    if (rc < 0)
        return rc;
    rc = record_gone(r, row, &changed, e);
    if (rc == 0 && changed)
        unlink(row->socket);
    if (rc == 0 && (rc = run_sql(r, "COMMIT", e)) == 0)
        return changed > 0;
    sqlite3_exec(r->db, "ROLLBACK", NULL, NULL, NULL);
    return rc;
}

int registry_sweep_row(struct registry *r, const struct machine_row *row, struct error *e)
{
    bool lives = row->state == MACHINE_STARTING || row->state == MACHINE_RUNNING;
    if (lives && paths_process_alive(row->keeper_pid, row->keeper_start))
        return 0;
    int rc = lives ? bury(r, row, e) : 1;
    if (rc <= 0 || !row->auto_remove)
        return MIN(rc, 0);
    rc = registry_remove(r, row, e);
    return rc == -EBUSY ? 0 : rc; /* it has been handed over: when that is resolved */
}

int registry_sweep(struct registry *r, struct error *e)
{
    struct machine_row *rows;
    size_t n;
    int rc = registry_list(r, &rows, &n, e);
    for (size_t i = 0; rc == 0 && i < n; i++)
        if (rows[i].kind == KIND_MACHINE)
            rc = registry_sweep_row(r, &rows[i], e);
    registry_rows_free(rows, n);
    return rc;
}
