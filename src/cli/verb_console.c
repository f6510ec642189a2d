#include "cli/machine.h"
#include "cli/session.h"
#include "cli/terminal.h"

#include <errno.h>
#include <stdlib.h>

static void say_how_to_leave(const struct args *a, const struct machine_row *row)
{
    char key[16];
    if (terminal_interactive())
        fprintf(stderr, "machine %s: %s leaves its console\n", row->name,
                a->number[OPT_ESCAPE] ? cli_key_name((u8)a->number[OPT_ESCAPE], key) : "no key");
}

static int conclude(const struct machine_row *row, const struct session_result *res, struct error *e)
{
    switch (res->outcome) {
    case SESSION_LEFT:
        fprintf(stderr, "\nmachine %s: goes on; `trapeze console %s` comes back\n", row->name, row->name);
        return CLI_OK;
    case SESSION_ENDED:
        machine_await_end(row, 5, NULL); /* so that `trapeze rm` works at once */
        fprintf(stderr, "machine %s: ended: %s\n", row->name, res->reason);
        return CLI_OK;
    case SESSION_SIGNAL:
        return 128 + res->signal;
    default:
        error_set(e, EPIPE, "machine %s: its keeper process vanished; `trapeze ps -a` shows what is known", row->name);
        return CLI_HOST;
    }
}

int verb_console(const struct args *a, struct error *e)
{
    struct machine_row row;
    struct session_result res;
    struct registry *r = machine_registry(e);
    if (!r)
        return CLI_HOST;
    int rc = registry_find(r, a->operands[0], &row, e);
    registry_close(r);
    if (rc < 0)
        return cli_status_of(e);
    if (row.kind != KIND_MACHINE) {
        error_set(e, ENOTSUP, "container %s: has no console; `trapeze attach %s` shows its streams", row.name,
                  row.name);
        registry_row_free(&row);
        return CLI_USAGE;
    }
    const struct session_config s = {
        .row = &row, .input = true, .escape = (u8)a->number[OPT_ESCAPE], .replay = 4096, .old_replay = true};
    if (machine_lives(&row))
        say_how_to_leave(a, &row);
    rc = session_run(&s, &res, e);
    int status = rc < 0 ? cli_status_of(e) : conclude(&row, &res, e);
    if (rc == 0)
        free(res.text);
    registry_row_free(&row);
    return status;
}
