#include "vm/arrive.h"
#include "host/host.h"
#include "migrate/handover.h"
#include "migrate/lazy.h"
#include "migrate/mirror.h"
#include "migrate/stream.h"
#include "vm/control.h"
#include "vm/launch.h"
#include "vm/meta.h"
#include "vm/pager.h"
#include "vm/paths.h"
#include "vm/resolve.h"
#include "vm/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_LOCK    "reservations.lock"
#define REASONS_MAX  16
#define FRAMES_TIMES 16      /* that a source may send frames after its machine */
#define CONFIG_BEGUN "begun" /* when the source began this attempt, by its clock: ns */

struct arrival {
    struct channel *channel;
    const struct arrive_options *o;
    struct registry *registry;
    enum handover_target state;
    struct machine_row row; /* .id "": none yet */
    struct vm_config config;
    bool rm; /* the source was run with --rm */
    char id[HANDOVER_ID + 1], host[HANDOVER_ID + 1];
    int control, ram_fd;
    u8 *ram;
    u8 *frames; /* that came with it, and wait until it runs */
    size_t frames_len;
    struct stream_in in;
    bool paused;         /* it stood still at the source by somebody's wish, and does so here */
    bool paged;          /* what it lacked has come, or never will */
    bool postcopy;       /* pages may be named instead of sent: */
    int table_fd, event; /* their table (migrate/lazy.h), and what wakes who brings them */
    void *table;
    struct lazy lazy;
    json_t *disks; /* what was said of those that come along; NULL: they are shared, or there are none */
    struct mirror_in mirror;
};

__attribute__((format(printf, 2, 3))) static void say(const struct arrival *a, const char *fmt, ...)
{
    char line[700];
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(line, sizeof(line), fmt, ap);
    va_end(ap);
    a->o->say(a->o->ctx, line);
}

/* --- stages 0 and 1 --- */

static u64 available(void)
{
    unsigned long long kb = 0;
    char line[128];
    FILE *f = fopen("/proc/meminfo", "re");
    while (f && fgets(line, sizeof(line), f) && sscanf(line, "MemAvailable: %llu", &kb) != 1)
        ;
    if (f)
        fclose(f);
    return kb * 1024;
}

/* What a machine that is on its way may still take. */
static u64 to_come(const struct machine_row *row, bool all)
{
    struct error e = {0};
    struct stat st;
    u64 size = 0;
    json_t *j = NULL;
    const char *state;
    int fd = control_connect(row->socket, &e), ram;
    if (fd < 0)
        return 0;
    if (snapshot_ask(fd, "status", &j, &e) == 0 && (state = json_string_value(json_object_get(j, "state"))) &&
        (!strcmp(state, "incoming") || !strcmp(state, "prepared")) && (ram = control_memory(fd, &size, &e)) >= 0) {
        if (!all && fstat(ram, &st) == 0)
            size -= MIN(size, (u64)st.st_blocks * 512);
        close(ram);
    }
    json_decref(j);
    close(fd);
    return size;
}

static void check_memory(const struct arrival *a, json_t *reasons)
{
    struct machine_row *rows;
    size_t n;
    struct error e = {0};
    char text[200];
    u64 room = a->o->memory ? a->o->memory : available(), taken = 0;
    if (registry_list(a->registry, &rows, &n, &e) < 0)
        return;
    for (size_t i = 0; i < n; i++)
        if (rows[i].kind == KIND_MACHINE && rows[i].state == MACHINE_RUNNING)
            taken += to_come(&rows[i], a->o->memory);
    registry_rows_free(rows, n);
    if (a->config.memory <= room - MIN(room, taken))
        return;
    snprintf(text, sizeof(text), "memory: %llu MiB are wanted, %llu are there, %llu of them promised to others",
             (unsigned long long)(a->config.memory >> 20), (unsigned long long)(room >> 20),
             (unsigned long long)(taken >> 20));
    json_array_append_new(reasons, json_string(text));
}

/* The row's configuration: NULL, or the caller's. `made`: the disks in it are files of ours, which go if the machine does not come. */
static char *describe(const struct arrival *a, const json_t *body, bool made)
{
    json_t *j = vm_config_to_json(&a->config);
    if (j) {
        json_object_set_new(j, "incoming", json_string(a->id));
        json_object_set(j, "uid", json_object_get(body, "uid"));
        json_object_set(j, CONFIG_BEGUN, json_object_get(body, CONFIG_BEGUN));
        if (made)
            json_object_set_new(j, CONFIG_DISKS_MADE, json_true());
    }
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return text;
}

/* --- disks that come along --- */

/* What is said of them: one for each disk, of a size that can be. */
static int take_disks(struct arrival *a, json_t *disks, json_t *reasons, struct error *e)
{
    size_t i;
    const json_t *one;
    char text[120];
    if (!disks)
        return 0;
    if (!json_is_array(disks) || json_array_size(disks) != a->config.n_disks)
        return error_set(e, EPROTO, "an impossible HELO: other disks come along than it has");
    a->disks = json_incref(disks);
    json_array_foreach(disks, i, one)
    {
        json_int_t bytes = json_integer_value(json_object_get(one, "bytes"));
        if (bytes > 0 && mirror_size_good((u64)bytes))
            continue;
        snprintf(text, sizeof(text), "disk %zu: has %lld bytes; at most %llu are taken, in sectors of %u", i,
                 (long long)bytes, MIRROR_BYTES_MAX, DISK_SECTOR);
        json_array_append_new(reasons, json_string(text));
    }
    return 0;
}

/* Whether there is room for what they have now. They may take more later: then writing them fails, and with it the attempt. */
static void check_space(const struct arrival *a, json_t *reasons)
{
    char dir[PATH_MAX], text[PATH_MAX + 160];
    struct error e = {0};
    u64 want = 0, room = 0;
    size_t i;
    const json_t *one;
    if (!a->disks || (!a->o->disk_dir && paths_state_dir(dir, sizeof(dir), &e) < 0))
        return;
    const char *where = a->o->disk_dir ? a->o->disk_dir : dir;
    json_array_foreach(a->disks, i, one)
    {
        json_int_t data = json_integer_value(json_object_get(one, "data")),
                   bytes = json_integer_value(json_object_get(one, "bytes"));
        want += (u64)MAX(MIN(data, bytes), (json_int_t)0);
    }
    int r = host_room(where, &room);
    if (r < 0)
        snprintf(text, sizeof(text), "disks: %s: %s", where, strerror(-r));
    else if (want > room)
        snprintf(text, sizeof(text), "disks: %llu MiB are wanted, %llu are there, in %s",
                 (unsigned long long)((want + (1 << 20) - 1) >> 20), (unsigned long long)(room >> 20), where);
    else
        return;
    json_array_append_new(reasons, json_string(text));
}

/* Where disk `i` will lie. */
static int name_disk(const struct arrival *a, unsigned i, char *out, struct error *e)
{
    char name[MACHINE_NAME_MAX + MACHINE_ID_LEN + 24];
    if (a->o->disk_dir)
        snprintf(name, sizeof(name), "%s-%s-%u.raw", a->row.name, a->row.id, i);
    else
        snprintf(name, sizeof(name), "disk-%u.raw", i);
    return paths_join(out, PATH_MAX, a->o->disk_dir ? a->o->disk_dir : a->row.dir, name, e);
}

/* The names in a directory are on stable storage, and its own. */
static int sync_names(const char *path, struct error *e)
{
    int dir = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int parent = dir < 0 ? -1 : openat(dir, "..", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = 0;
    if (dir < 0 || fsync(dir) < 0 || (parent >= 0 && fsync(parent) < 0))
        r = error_set(e, errno, "%s: can not be put on stable storage: %s", path, strerror(errno));
    if (dir >= 0)
        close(dir);
    if (parent >= 0)
        close(parent);
    return r;
}

/* Their names are on record before there are files of them. */
static int make_disks(struct arrival *a, const json_t *body, struct error *e)
{
    int r = 0;
    if (!a->disks)
        return 0;
    for (unsigned i = 0; i < a->config.n_disks && r == 0; i++) {
        struct vm_disk *d = &a->config.disks[i];
        r = name_disk(a, i, d->file, e);
        snprintf(d->format, sizeof(d->format), "raw");
    }
    char *text = r == 0 ? describe(a, body, true) : NULL;
    if (r == 0)
        r = text ? registry_configure(a->registry, a->row.id, text, e) : error_set(e, ENOMEM, "machine: out of memory");
    free(text);
    for (unsigned i = 0; i < a->config.n_disks && r == 0; i++)
        r = mirror_create(&a->mirror, a->config.disks[i].file,
                          (u64)json_integer_value(json_object_get(json_array_get(a->disks, i), "bytes")), e);
    return r < 0 ? r : sync_names(a->o->disk_dir ? a->o->disk_dir : a->row.dir, e);
}

static int take_disk_record(void *ctx, u32 type, const u8 *payload, u32 len, struct error *e)
{
    struct arrival *a = ctx;
    return mirror_take(&a->mirror, type, payload, len, e);
}

/* All of them are here, and outlive a crash of this host. */
static int keep_disks(struct arrival *a, struct error *e)
{
    int r = mirror_complete(&a->mirror, e);
    mirror_in_free(&a->mirror);
    return r;
}

/* --- reservation --- */

/* Whether somebody is sending it. */
static bool is_held(const struct machine_row *row)
{
    json_t *j = NULL;
    struct error e = {0};
    control_once(row->socket, json_pack("{s:s}", "do", "status"), &j, &e);
    bool held = json_is_true(json_object_get(j, "held"));
    json_decref(j);
    return held;
}

/*
 * A name that is taken by an earlier try of the same machine, which never ran and whose sender is gone, is free. By an earlier
 * one only: a HELO that comes late must not end what may have been committed since.
 */
static void check_name(struct arrival *a, const json_t *body, json_t *reasons)
{
    const char *uid = json_string_value(json_object_get(body, "uid"));
    struct machine_row row;
    struct error e = {0};
    char text[200];
    if (registry_find(a->registry, a->config.name, &row, NULL) < 0)
        return;
    json_t *j = row.config ? json_loads(row.config, 0, NULL) : NULL;
    const char *of = json_string_value(json_object_get(j, "uid")),
               *id = json_string_value(json_object_get(j, "incoming"));
    bool free_now = false, later = json_integer_value(json_object_get(body, CONFIG_BEGUN)) >
                                   json_integer_value(json_object_get(j, CONFIG_BEGUN));
    if (of && id && uid && !strcmp(of, uid) && later)
        free_now = !is_held(&row) && resolve_abort(id, &e) == WIRE_NEVER;
    if (!free_now) {
        snprintf(text, sizeof(text), "name %.70s: is taken here", a->config.name);
        json_array_append_new(reasons, json_string(text));
    }
    json_decref(j);
    registry_row_free(&row);
}

static int take_hello(struct arrival *a, const json_t *body, json_t *reasons, struct error *e)
{
    const char *id = json_string_value(json_object_get(body, "id"));
    const char *uid = json_string_value(json_object_get(body, "uid"));
    const char *name = json_string_value(json_object_get(body, "name"));
    if (json_integer_value(json_object_get(body, "version")) != WIRE_VERSION)
        return error_set(e, EPROTO, "its trapeze speaks another version of the protocol; this one speaks %d",
                         WIRE_VERSION);
    if (!handover_id_good(id) || !name || registry_check_name(name, NULL) < 0 || !uid)
        return error_set(e, EPROTO, "an impossible HELO");
    memcpy(a->id, id, sizeof(a->id));
    a->rm = json_is_true(json_object_get(body, "rm"));
    a->postcopy = json_is_true(json_object_get(body, WIRE_PAGING));
    json_t *disks = json_object_get(body, WIRE_DISKS);
    int r = vm_meta_check(json_object_get(body, "machine"), &a->config, disks != NULL, reasons, e);
    if (r < 0 || (r = take_disks(a, disks, reasons, e)) < 0)
        return r;
    snprintf(a->config.name, sizeof(a->config.name), "%s", name);
    check_name(a, body, reasons);
    check_memory(a, reasons);
    check_space(a, reasons);
    return 0;
}

static int make_row(struct arrival *a, const json_t *body, struct error *e)
{
    char *text = describe(a, body, false);
    int r = text ? registry_create(a->registry, a->config.name, text, false, &a->row, e)
                 : error_set(e, ENOMEM, "machine: out of memory");
    free(text);
    return r;
}

/* Where pages are noted that come later. The guest's process looks there from its start. */
static int make_table(struct arrival *a, struct error *e)
{
    u64 pages = a->config.memory / PAGE_SIZE, size = lazy_size(pages);
    if (!a->postcopy)
        return 0;
    a->event = host_event_create(e);
    a->table_fd = a->event < 0 ? -1 : host_memfd("trapeze-lazy", size, e);
    a->table = a->table_fd < 0 ? NULL : host_map_shared(a->table_fd, size, e);
    if (!a->table)
        return -ENOMEM;
    lazy_begin(&a->lazy, a->table, pages);
    return 0;
}

static int launch(struct arrival *a, struct error *e)
{
    pid_t keeper;
    a->ram_fd = host_memfd("trapeze-ram", a->config.memory, e);
    if (a->ram_fd < 0 || !(a->ram = host_map_shared(a->ram_fd, a->config.memory, e)) || make_table(a, e) < 0)
        return -ENOMEM;
    const struct vm_incoming in = {.ram_fd = a->ram_fd,
                                   .id = a->id,
                                   .lifetime = a->o->lifetime,
                                   .lazy = a->postcopy,
                                   .peer = a->postcopy,
                                   .table = a->table_fd,
                                   .file = a->event};
    int r = vm_launch_incoming(&a->config, &in, a->row.dir, &keeper, e);
    if (r < 0)
        return r;
    a->row.keeper_pid = keeper;
    a->row.keeper_start = paths_process_start(keeper);
    a->row.state = MACHINE_RUNNING;
    if ((r = registry_started(a->registry, a->row.id, keeper, e)) < 0)
        return r;
    a->control = control_connect(a->row.socket, e);
    return a->control < 0 ? a->control : snapshot_ask(a->control, "hold", NULL, e);
}

/* Reservations are made one after the other: each sees those before it. */
static int lock_reservations(struct error *e)
{
    char dir[PATH_MAX], path[PATH_MAX];
    int r = paths_state_dir(dir, sizeof(dir), e);
    if (r < 0 || (r = paths_join(path, sizeof(path), dir, FILE_LOCK, e)) < 0)
        return r;
    int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0 || flock(fd, LOCK_EX) < 0) {
        r = error_set(e, errno, "%s: %s", path, strerror(errno));
        if (fd >= 0)
            close(fd);
        return r;
    }
    return fd;
}

/* What came of the machine that did not come: row, directory and keeper go. */
static void discard(struct arrival *a)
{
    struct error ignored = {0};
    if (a->control >= 0)
        close(a->control);
    a->control = -1;
    mirror_in_free(&a->mirror);
    if (a->row.id[0] && a->row.state == MACHINE_STARTING) /* there is no keeper to be waited for */
        registry_ended(a->registry, a->row.id, VM_EXIT_HOST, "it did not come", &ignored);
    if (a->row.id[0])
        resolve_abort(a->id, &ignored);
}

/* 0: it has a place here; 1: it has not, `reasons` say why. */
static int reserve_locked(struct arrival *a, const json_t *body, json_t *reasons, struct error *e)
{
    struct error one = {0};
    int r = take_hello(a, body, reasons, e);
    if (r < 0 || json_array_size(reasons) || json_is_true(json_object_get(body, "dry")))
        return r < 0 ? r : json_array_size(reasons) > 0;
    if (make_row(a, body, &one) == 0 && make_disks(a, body, &one) == 0 && launch(a, &one) == 0)
        return 0;
    json_array_append_new(reasons, json_string(one.msg));
    discard(a);
    return 1;
}

static int reserve(struct arrival *a, const json_t *body, struct error *e)
{
    json_t *reasons = json_array();
    int lock = lock_reservations(e);
    int r = lock < 0 ? lock : reasons ? reserve_locked(a, body, reasons, e) : -ENOMEM;
    if (lock >= 0)
        close(lock);
    if (r < 0 && reasons) {
        json_array_append_new(reasons, json_string(e->msg));
        *e = (struct error){0};
        r = 1;
    }
    if (r == 0) {
        handover_target_step(&a->state, EVENT_HELLO);
        r = wire_send(a->channel, WIRE_ACCEPT,
                      json_pack("{s:s,s:s,s:I,s:i,s:b}", "id", a->id, "host", a->host, "lifetime",
                                (json_int_t)a->o->lifetime, WIRE_DISKS, (int)json_array_size(a->disks), WIRE_PAGING,
                                a->postcopy),
                      e);
    } else if (r > 0) {
        const char *first = json_string_value(json_array_get(reasons, 0));
        error_set(e, EHOSTUNREACH, "%s: refused: %s", a->config.name[0] ? a->config.name : "a machine",
                  first ? first : "?");
        wire_send(a->channel, WIRE_REFUSE, json_pack("{s:O}", "reasons", reasons), &(struct error){0});
        r = -EHOSTUNREACH;
    }
    json_decref(reasons);
    return r;
}

/* --- stages 2 and 3 --- */

static int get(void *ctx, void *buf, size_t len, struct error *e)
{
    const struct arrival *a = ctx;
    return channel_receive(a->channel, buf, len, e);
}

static int answer_round(void *ctx, const char *text, struct error *e)
{
    struct arrival *a = ctx;
    json_t *j = json_loads(text, JSON_REJECT_DUPLICATES, NULL);
    int r = mirror_sync(&a->mirror, e);
    a->paused = a->paused || json_is_true(json_object_get(j, "paused"));
    if (r < 0) {
        json_decref(j);
        return r;
    }
    return json_is_object(j) ? wire_send(a->channel, WIRE_ROUND, j, e)
                             : (json_decref(j), error_set(e, EPROTO, "%s: a round that can not be", a->channel->peer));
}

static int read_stream(struct arrival *a, struct rec_buf *state, struct error *e)
{
    char *text = NULL;
    a->in = (struct stream_in){.get = get, .ctx = a, .round = answer_round, .disk = a->disks ? take_disk_record : NULL};
    int r = stream_open(&a->in, e);
    if (r == 0 && a->in.head.ram_size != a->config.memory)
        r = error_set(e, EPROTO, "%s: another size of memory than was promised", a->channel->peer);
    if (r == 0 && (r = stream_get_config(&a->in, &text, e)) == 0) {
        a->in.absent = a->postcopy ? a->lazy.absent : NULL;
        r = stream_get_machine(&a->in, a->ram, state, e);
    }
    free(text);
    return r;
}

/* What is still to come, for who will bring it, before the guest's process is given its state. */
static void note_absent(struct arrival *a)
{
    if (!a->postcopy)
        return;
    memcpy(a->lazy.sum, a->in.sums.sum, a->in.sums.n * sizeof(*a->lazy.sum));
    __atomic_store_n(&a->lazy.head->left, a->in.n_absent, __ATOMIC_RELEASE);
}

static int load_state(struct arrival *a, const struct rec_buf *state, struct error *e)
{
    return control_put(
        a->control, json_pack("{s:s,s:I,s:b}", "do", "load", "bytes", (json_int_t)state->len, "paused", (int)a->paused),
        state->data, state->len, e);
}

static int fill(struct arrival *a, struct error *e)
{
    struct rec_buf state = {0};
    int r = read_stream(a, &state, e);
    if (r == 0)
        r = keep_disks(a, e);
    if (r == 0)
        note_absent(a);
    if (r == 0)
        r = load_state(a, &state, e);
    rec_buf_free(&state);
    stream_in_free(&a->in);
    if (r < 0)
        return r;
    handover_target_step(&a->state, a->in.n_absent ? EVENT_NAMED : EVENT_COMPLETE);
    return wire_send(a->channel, WIRE_READY, wire_id(a->id, NULL), e);
}

/* --- the source's word --- */

/* They came for the guest while it was on its way. It does without if need be: networks lose frames. */
static void give_frames(struct arrival *a)
{
    struct error ignored = {0};
    if ((a->state != TARGET_RUNNING && a->state != TARGET_PAGING) || a->control < 0)
        return; /* they wait */
    if (a->frames_len && a->state == TARGET_RUNNING)
        control_frames_give(a->control, a->frames, a->frames_len, &ignored);
    else if (a->frames_len) /* the guest may be waiting for what this process is to bring */
        control_frames_leave(a->control, a->frames, a->frames_len, &ignored);
    free(a->frames);
    a->frames = NULL;
    a->frames_len = 0;
}

static bool lacks(const char *id)
{
    struct machine_row row;
    if (resolve_lacking(id, &row, &(struct error){0}) < 0)
        return false;
    registry_row_free(&row);
    return true;
}

/* The source has the pages that the machine lacks (SERV), or has lost them (GONE). WIRE_RUNS: it lacks none any more; -errno. */
static int page(struct arrival *a, int message, const json_t *body, struct error *e)
{
    const char *id = json_string_value(json_object_get(body, "id"));
    struct machine_row row;
    if (!handover_id_good(id))
        return error_set(e, EPROTO, "%s: no id of a handover", a->channel->peer);
    int r = resolve_lacking(id, &row, e);
    bool is_ours = a->row.id[0] && !strcmp(id, a->id);
    bool there = r == 0; /* else it has ended meanwhile: there is nothing to be sent to */
    if (r == -ENOENT && message == WIRE_GONE)
        r = 0;
    else if (there && message == WIRE_GONE)
        r = pager_perished(&row, id, e);
    else if (there && (r = pager_run(&row, id, a->channel, e)) == 0)
        a->o->activated(a->o->ctx, &row);
    if (r == 0 && message == WIRE_GONE)
        r = wire_send(a->channel, WIRE_RUNS, wire_id(id, a->host), e);
    if (r == 0 && is_ours) {
        handover_target_step(&a->state, message == WIRE_GONE ? EVENT_PERISHED : EVENT_FULL);
        say(a, "%s: %s", a->config.name, message == WIRE_GONE ? "has ended: what it lacked is lost" : "runs here");
        a->paged = true;
    }
    if (there)
        registry_row_free(&row);
    return r < 0 ? r : WIRE_RUNS;
}

/* Of COMMIT, ABORT or DONE, on whichever connection they come. WIRE_RUNS, WIRE_NEVER, 0 (done), -errno. */
static int obey(struct arrival *a, int message, const json_t *body, struct error *e)
{
    const char *id = json_string_value(json_object_get(body, "id"));
    if (!handover_id_good(id))
        return error_set(e, EPROTO, "%s: no id of a handover", a->channel->peer);
    if (message == WIRE_DONE) {
        resolve_done(id);
        return 0;
    }
    int word = message == WIRE_COMMIT ? resolve_commit(id, e) : resolve_abort(id, e);
    if (word < 0)
        return word;
    if (word == WIRE_RUNS && message == WIRE_COMMIT && a->row.id[0] && !strcmp(id, a->id))
        handover_target_step(&a->state, EVENT_COMMIT);
    json_t *answer = wire_id(id, a->host);
    if (answer && word == WIRE_RUNS && lacks(id))
        json_object_set_new(answer, WIRE_LACKS, json_true());
    int r = wire_send(a->channel, (enum wire_message)word, answer, e);
    give_frames(a); /* waits for the guest's slice: the source does not */
    return r < 0 ? r : word;
}

/* Until the source has nothing more to say. */
static int listen_to(struct arrival *a, struct error *e)
{
    for (unsigned frames = 0;;) {
        json_t *body = NULL;
        u8 *data = NULL;
        size_t len = 0;
        int m = wire_receive_bytes(a->channel,
                                   WIRE(WIRE_COMMIT) | WIRE(WIRE_ABORT) | WIRE(WIRE_DONE) | WIRE(WIRE_SERVES) |
                                       WIRE(WIRE_GONE) | WIRE(WIRE_FRAMES),
                                   &body, &data, &len, e);
        if (m == WIRE_FRAMES) {
            free(a->frames);
            a->frames = data;
            a->frames_len = len;
            give_frames(a);
            if (++frames > FRAMES_TIMES)
                return error_set(e, EPROTO, "%s: sends frames without end", a->channel->peer);
            continue;
        }
        int r = m < 0 ? m : m == WIRE_SERVES || m == WIRE_GONE ? page(a, m, body, e) : obey(a, m, body, e);
        json_decref(body);
        if (r <= 0 || r == WIRE_NEVER)
            return r == WIRE_NEVER ? 0 : r;
    }
}

/* A machine that did not come whole, or whose source has lost its tongue. */
static void lost(struct arrival *a, const struct error *why)
{
    if (handover_target_step(&a->state, EVENT_LOST) & ACT(ACT_DISCARD)) {
        wire_send(a->channel, WIRE_NEVER,
                  json_pack("{s:s,s:s,s:[s]}", "id", a->id, "host", a->host, "reasons", why->msg), &(struct error){0});
        discard(a);
        say(a, "%s: did not come: %s", a->config.name, why->msg);
    } else if (a->state == TARGET_PREPARED) {
        say(a, "%s: is here whole, and waits %llu s for the word of the host that sent it: %s", a->config.name,
            (unsigned long long)a->o->lifetime, why->msg);
    } else if (a->state == TARGET_PAGING) {
        say(a, "%s: runs here, and lacks a part of its memory, which the host that sent it has: %s", a->config.name,
            why->msg);
    }
}

static int serve_machine(struct arrival *a, const json_t *hello, struct error *e)
{
    int r = reserve(a, hello, e);
    if (r < 0 || !a->row.id[0])
        return r;
    say(a, "%s: is coming from %s", a->config.name, a->channel->peer);
    r = fill(a, e);
    if (r == 0)
        r = listen_to(a, e);
    if (a->paged)
        return 0;
    if (a->state == TARGET_RUNNING) {
        say(a, "%s: runs here", a->config.name);
        a->o->activated(a->o->ctx,
                        &a->row); /* takes its time, so not before the source has said all that it had to say */
        return 0;
    }
    lost(a, e);
    return r;
}

int arrive_serve(struct channel *c, const struct arrive_options *o, struct error *e)
{
    struct arrival a = {.channel = c, .o = o, .control = -1, .ram_fd = -1, .table_fd = -1, .event = -1};
    json_t *body = NULL;
    int r = resolve_host(a.host, e);
    if (r < 0 || (r = registry_open(&a.registry, e)) < 0)
        return r;
    int m = wire_receive(c, WIRE(WIRE_HELLO) | WIRE(WIRE_COMMIT) | WIRE(WIRE_ABORT) | WIRE(WIRE_DONE), &body, e);
    if (m == WIRE_HELLO)
        r = serve_machine(&a, body, e);
    else if (m >= 0)
        r = obey(&a, m, body, e);
    if (m >= 0 && m != WIRE_HELLO && r > 0)
        r = listen_to(&a, e);
    json_decref(body);
    if (a.control >= 0)
        close(a.control);
    host_unmap(a.ram, a.ram ? a.config.memory : 0);
    host_unmap(a.table, a.table ? lazy_size(a.config.memory / PAGE_SIZE) : 0);
    const int fds[] = {a.ram_fd, a.table_fd, a.event};
    for (size_t i = 0; i < ARRAY_LEN(fds); i++)
        if (fds[i] >= 0)
            close(fds[i]);
    free(a.frames);
    mirror_in_free(&a.mirror);
    json_decref(a.disks);
    registry_row_free(&a.row);
    registry_close(a.registry);
    return m < 0 ? m : MIN(r, 0);
}
