/* What a machine printed: its log file, or with --follow what its keeper still has and then what comes. */
#include "box/box.h"
#include "cli/machine.h"
#include "cli/session.h"

#include <errno.h>
#include <stdlib.h>

static int follow(const struct machine_row *row, struct error *e)
{
    struct session_result res;
    const struct session_config s = {.row = row, .replay = 2u << 20, .old_replay = true};
    int rc = session_run(&s, &res, e);
    if (rc < 0)
        return cli_status_of(e);
    free(res.text);
    if (res.outcome == SESSION_ENDED)
        machine_await_end(row, 5, NULL); /* so that `trapeze rm` works at once */
    if (res.outcome == SESSION_LOST)
        error_set(e, EPIPE, "machine %s: its keeper process vanished", row->name);
    return res.outcome == SESSION_SIGNAL ? 128 + res.signal : res.outcome == SESSION_LOST ? CLI_HOST : CLI_OK;
}

int verb_logs(const struct args *a, struct error *e)
{
    struct machine_row row;
    struct registry *r = machine_registry(e);
    if (!r)
        return CLI_HOST;
    int rc = registry_find(r, a->operands[0], &row, e);
    registry_close(r);
    if (rc < 0)
        return cli_status_of(e);
    int status;
    if (row.kind == KIND_CONTAINER)
        status = box_logs(&row, a->given[OPT_FOLLOW], e) < 0 ? cli_status_of(e) : CLI_OK;
    else if (a->given[OPT_FOLLOW] && machine_lives(&row))
        status = follow(&row, e);
    else
        status = machine_print_log(&row, e) < 0 ? cli_status_of(e) : CLI_OK;
    registry_row_free(&row);
    return status;
}
