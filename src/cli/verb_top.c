#include "box/box.h"
#include "cli/json.h"
#include "cli/machine.h"
#include "cli/top_all.h"

#include <errno.h>

static void print_rows(json_t *list)
{
    size_t i;
    json_t *p;
    char size[24];
    printf("%8s %8s %8s %10s %12s  %s\n", "PID", "PPID", "UID", "CPU", "MEMORY", "COMMAND");
    json_array_foreach(list, i, p) printf(
        "%8lld %8lld %8lld %8.2f s %12s  %s\n", (long long)json_integer_value(json_object_get(p, "pid")),
        (long long)json_integer_value(json_object_get(p, "ppid")),
        (long long)json_integer_value(json_object_get(p, "uid")), json_number_value(json_object_get(p, "seconds")),
        cli_size_name((u64)json_integer_value(json_object_get(p, "memory")), size),
        json_string_value(json_object_get(p, "command")));
}

int verb_top(const struct args *a, struct error *e)
{
    struct machine_row row;
    json_t *list = NULL;
    if (a->given[OPT_LINES] && !a->given[OPT_INTERVAL]) {
        error_set(e, EINVAL, "--count: counts the rounds of --interval SECONDS; give both");
        return CLI_USAGE;
    }
    if (!a->n_operands)
        return top_all(a, e);
    if (a->given[OPT_INTERVAL]) {
        error_set(e, EINVAL, "--interval: is for all of them; `trapeze stats -i SECONDS %s` watches one",
                  a->operands[0]);
        return CLI_USAGE;
    }
    if (machine_find(a->operands[0], &row, e) < 0)
        return CLI_USAGE;
    if (row.kind == KIND_CONTAINER)
        list = box_processes(&row, e);
    else
        error_set(e, ENOTSUP, "machine %s: top is for containers yet; `trapeze stats %s` shows what its engine counts",
                  row.name, row.name);
    registry_row_free(&row);
    if (!list)
        return cli_status_of(e);
    if (a->number[OPT_FORMAT])
        return cli_json_print(list, e);
    print_rows(list);
    json_decref(list);
    return CLI_OK;
}
