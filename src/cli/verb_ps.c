/* The list of machines: rows of the registry, and what the keepers of living ones say. */
#include "box/box.h"
#include "cli/json.h"
#include "cli/machine.h"
#include "cli/memory.h"
#include "vm/config.h"
#include "vm/launch.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define PATIENCE 2 /* seconds that a keeper may take to answer */
#define GOING    1 /* seconds that one may take to end after it has closed its socket */
#define LOOKS    4 /* at a row whose keeper goes whenever it is asked; an ended one isn't asked */

/* What a line shows. */
struct line {
    const struct machine_row *row;
    struct vm_config config;
    json_int_t target, actual; /* of its memory, while it says so: else what it was started with */
    char state[32];
    char engine[16];
    char end[256];
    char from[PATH_MAX]; /* the image, or a machine's kernel */
    json_int_t absent;   /* bytes of its memory that are still at another host (post-copy) */
    char lacks[200];     /* the same for people; "" */
    json_t *ports;       /* of a container, as they were given; or NULL */
};

/* It runs here before all of its memory is. */
static void take_absent(struct line *l, const json_t *reply)
{
    char size[24];
    const char *at = json_string_value(json_object_get(reply, "absent_at"));
    l->absent = json_integer_value(json_object_get(reply, "absent"));
    if (!json_object_get(reply, "absent"))
        return;
    snprintf(l->lacks, sizeof(l->lacks), " (%s %s, which %s has%s)",
             json_is_true(json_object_get(reply, "waits")) ? "stands still: it lacks" : "lacks",
             cli_size_name((u64)MAX(0, l->absent), size), at && *at ? at : "the host that it came from",
             json_is_true(json_object_get(reply, "connected")) ? "" : ", to which there is no connection");
}

/* 0, or -ESRCH: its keeper has gone since the row was read. */
static int ask_state(struct line *l)
{
    json_t *reply = NULL;
    const char *state, *engine = vm_config_engine(&l->config);
    struct error e = {0};
    snprintf(l->engine, sizeof(l->engine), "%s", engine);
    snprintf(l->state, sizeof(l->state), "%s", registry_state_name(l->row->state));
    if (machine_suspended(l->row))
        snprintf(l->state, sizeof(l->state), VM_REASON_SUSPENDED);
    l->target = l->actual = (json_int_t)l->config.memory;
    if (l->row->state != MACHINE_STARTING && l->row->state != MACHINE_RUNNING)
        return 0;
    if (!machine_lives(l->row))
        return -ESRCH;
    if (l->row->state == MACHINE_STARTING)
        return 0;
    if (machine_call(l->row, PATIENCE, json_pack("{s:s}", "do", "status"), &reply, &e) < 0) {
        snprintf(l->state, sizeof(l->state), "no answer");
        return e.code != EAGAIN && machine_await_end(l->row, GOING, NULL) == 0 ? -ESRCH : 0;
    }
    if (json_unpack(reply, "{s:s, s?s, s?I, s?I}", "state", &state, "engine", &engine, "memory_target", &l->target,
                    "memory_actual", &l->actual) == 0) {
        snprintf(l->state, sizeof(l->state), "%s", state);
        snprintf(l->engine, sizeof(l->engine), "%s", engine);
        take_absent(l, reply);
    }
    json_decref(reply);
    return 0;
}

/* Memory 0 is no limit. */
static void fill_container(struct line *l, json_t *config)
{
    snprintf(l->engine, sizeof(l->engine), "container");
    snprintf(l->state, sizeof(l->state), "%s",
             machine_lives(l->row) ? box_state(l->row) : registry_state_name(l->row->state));
    l->ports = json_incref(json_object_get(config, "ports"));
    l->target = l->actual = json_integer_value(json_object_get(config, "memory"));
    l->config.memory = (u64)l->actual;
}

static int fill_line(struct line *l, const struct machine_row *row)
{
    memset(l, 0, sizeof(*l));
    l->row = row;
    json_t *config = json_loads(row->config, 0, NULL);
    const char *image = json_string_value(json_object_get(config, "image"));
    snprintf(l->from, sizeof(l->from), "%s", image ? image : "");
    if (row->ended)
        machine_end_text(row, l->end, sizeof(l->end));
    if (row->kind == KIND_CONTAINER) {
        fill_container(l, config);
        json_decref(config);
        return 0;
    }
    vm_config_init(&l->config);
    vm_config_from_json(&l->config, config, NULL);
    if (!image)
        memcpy(l->from, l->config.kernel, sizeof(l->from));
    json_decref(config);
    return ask_state(l);
}

/* The keeper went between the sweep that this verb began with and now: what the registry says of it then. */
static int read_anew(struct registry *r, struct machine_row *row)
{
    struct machine_row now;
    struct error e = {0};
    if (registry_sweep_row(r, row, &e) < 0 || registry_find(r, row->id, &now, &e) < 0)
        return -ENOENT; /* --rm: it is no more */
    registry_row_free(row);
    *row = now;
    return 0;
}

static const char *age(s64 then, char out[32])
{
    static const struct {
        s64 seconds;
        const char *unit;
    } units[] = {{86400, "d"}, {3600, "h"}, {60, "min"}, {1, "s"}};
    s64 d = MAX(0, time(NULL) - then);
    size_t i = 0;
    while (i + 1 < ARRAY_LEN(units) && d < 2 * units[i].seconds)
        i++;
    snprintf(out, 32, "%lld %s", (long long)(d / units[i].seconds), units[i].unit);
    return out;
}

/* As they were given: what is published while it runs. */
static const char *ports_of(const struct line *l, char out[256])
{
    size_t i, n = 0;
    json_t *port;
    out[0] = 0;
    json_array_foreach(l->row->ended ? NULL : l->ports, i, port)
    {
        if (n < 256)
            n += (size_t)snprintf(out + n, 256 - n, " %s", json_string_value(port));
    }
    return out;
}

static void print_line(const struct line *l)
{
    char size[64], when[32], ports[256];
    printf("%-20s %-10s %-9s %9s  %-8s %s%s%s\n", l->row->name, l->state, l->engine,
           l->config.memory ? memory_size_name((u64)MAX(0, l->actual), (u64)MAX(0, l->target), size) : "-",
           age(l->row->created, when), l->row->ended ? l->end : l->from, l->lacks, ports_of(l, ports));
}

static json_t *json_line(const struct line *l)
{
    const struct machine_row *r = l->row;
    return json_pack("{s:s, s:s, s:s, s:s, s:i, s:s, s:I, s:I, s:I, s:o, s:o, s:o, s:s, s:I, s:o*}", "kind",
                     registry_kind_name(r->kind), "name", r->name, "id", r->id, "state", l->state, "keeper",
                     machine_lives(r) ? (int)r->keeper_pid : 0, "engine", l->engine, "memory",
                     (json_int_t)l->config.memory, "memory_target", l->target, "memory_actual", l->actual, "created",
                     cli_json_time(r->created), "ended", cli_json_time(r->ended), "exit_code",
                     r->ended ? json_integer(r->exit_code) : json_null(), "reason", r->reason, "memory_absent",
                     l->absent, "ports", json_incref(l->ports));
}

/* Fill the line, from the row as it is now. False: it isn't to be shown, or is no more. */
static bool look_at(const struct args *a, struct registry *r, struct machine_row *row, struct line *l)
{
    for (int look = 0; look < LOOKS && (a->given[OPT_ALL_MACHINES] || machine_lives(row)); look++) {
        if (fill_line(l, row) == 0)
            return true;
        json_decref(l->ports);
        if (read_anew(r, row) < 0)
            return false;
    }
    return false;
}

static void show(const struct args *a, struct registry *r, struct machine_row *rows, size_t n, json_t *list)
{
    struct line l;
    for (size_t i = 0; i < n; i++) {
        if (!look_at(a, r, &rows[i], &l))
            continue;
        if (list)
            json_array_append_new(list, json_line(&l));
        else
            print_line(&l);
        json_decref(l.ports);
    }
}

int verb_ps(const struct args *a, struct error *e)
{
    struct machine_row *rows;
    size_t n;
    struct registry *r = machine_registry(e);
    if (!r)
        return CLI_HOST;
    int rc = registry_list(r, &rows, &n, e);
    if (rc < 0) {
        registry_close(r);
        return CLI_HOST;
    }
    json_t *list = a->number[OPT_FORMAT] ? json_array() : NULL;
    if (!list)
        printf("%-20s %-10s %-9s %9s  %-8s %s\n", "NAME", "STATE", "ENGINE", "MEMORY", "AGE",
               a->given[OPT_ALL_MACHINES] ? "KERNEL, IMAGE OR END" : "KERNEL OR IMAGE");
    show(a, r, rows, n, list);
    registry_close(r);
    registry_rows_free(rows, n);
    return list ? cli_json_print(list, e) : CLI_OK;
}
