/* All that is known of a machine: its row, its configuration, and what its keeper says while it lives. */
#include "box/box.h"
#include "cli/json.h"
#include "cli/machine.h"

#include <string.h>

static json_t *row_json(const struct machine_row *row)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:i, s:o, s:o, s:o, s:s, s:{s:s, s:s, s:s}}", "kind",
                     registry_kind_name(row->kind), "name", row->name, "id", row->id, "state",
                     registry_state_name(row->state), "keeper", machine_lives(row) ? (int)row->keeper_pid : 0,
                     "created", cli_json_time(row->created), "ended", cli_json_time(row->ended), "exit_code",
                     row->ended ? json_integer(row->exit_code) : json_null(), "reason", row->reason, "files",
                     "directory", row->dir, "log", row->log, "socket", row->socket);
}

/* What the keeper says: its members stand beside the row's and win over them, but not over who it is. */
static int merge_live(json_t *o, const struct machine_row *row, struct error *e)
{
    json_t *live = NULL, *stats = NULL;
    int rc = machine_call(row, 5, json_pack("{s:s}", "do", "inspect"), &live, e);
    if (rc < 0)
        return rc;
    json_object_del(live, "ok");
    json_object_del(live, "name");
    json_object_del(live, "pid"); /* "keeper" */
    json_object_update(o, live);
    json_decref(live);
    rc = machine_call(row, 5, json_pack("{s:s}", "do", "stats"), &stats, e);
    if (rc < 0)
        return rc;
    json_object_del(stats, "ok");
    json_object_set(o, "balloon", json_object_get(stats, "balloon"));
    json_object_del(stats, "balloon");
    return json_object_set_new(o, "stats", stats);
}

static void print_text(json_t *o, int depth)
{
    const char *key;
    json_t *value;
    json_object_foreach(o, key, value)
    {
        if (json_is_object(value)) {
            printf("%*s%s\n", 2 * depth, "", key);
            print_text(value, depth + 1);
            continue;
        }
        char *text = json_is_string(value) ? NULL : json_dumps(value, JSON_ENCODE_ANY | JSON_COMPACT);
        printf("%*s%-*s %s\n", 2 * depth, "", 20 - 2 * depth, key, text ? text : json_string_value(value));
        free(text);
    }
}

static json_t *gather(const struct machine_row *row, struct error *e)
{
    json_t *o = row_json(row);
    json_t *config = json_loads(row->config, 0, NULL);
    if (config)
        json_object_set_new(config, "name", json_string(row->name));
    if (!o || !config || json_object_set_new(o, "config", config) < 0)
        return o;
    if (row->kind == KIND_CONTAINER) {
        json_t *more = box_inspect(row);
        json_object_update(o, more);
        json_decref(more);
        if (machine_lives(row))
            json_object_set_new(o, "state", json_string(box_state(row)));
    } else if (machine_lives(row) && merge_live(o, row, e) < 0 && !machine_lives(row))
        *e = (struct error){0}; /* it ended meanwhile: what the row says is all there is */
    return o;
}

int verb_inspect(const struct args *a, struct error *e)
{
    struct machine_row row;
    struct registry *r = machine_registry(e);
    if (!r)
        return CLI_HOST;
    int rc = registry_find(r, a->operands[0], &row, e);
    registry_close(r);
    if (rc < 0)
        return cli_status_of(e);
    json_t *o = gather(&row, e);
    registry_row_free(&row);
    bool text = o && cli_choice(cli_options[OPT_FORMAT_JSON].choices, "text") == (int)a->number[OPT_FORMAT_JSON];
    if (!text)
        return cli_json_print(o, e);
    print_text(o, 0);
    json_decref(o);
    return CLI_OK;
}
