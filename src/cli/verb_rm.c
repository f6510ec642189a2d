#include "box/box.h"
#include "cli/machine.h"

#include <errno.h>
#include <signal.h>

/* Ask the keeper to end; one that does not answer gets SIGKILL (its cell goes with it). Waits until it is gone. */
static int end_machine(const struct machine_row *row, struct error *e)
{
    if (machine_call(row, 5, json_pack("{s:s}", "do", "kill"), NULL, NULL) < 0 && machine_lives(row))
        kill(row->keeper_pid, SIGKILL);
    return machine_await_end(row, 5, e);
}

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    int rc = 0;
    if (machine_lives(row)) {
        if (!a->given[OPT_FORCE])
            return error_set(e, EINVAL, "machine %s: it runs; `trapeze stop %s` first, or `trapeze rm -f %s`",
                             row->name, row->name, row->name);
        rc = end_machine(row, e);
    }
    if (rc == 0 && machine_suspended(row) && !a->given[OPT_FORCE])
        return error_set(e, EINVAL,
                         "machine %s: is suspended; `trapeze resume %s` lets it go on, `trapeze rm -f %s` forgets it",
                         row->name, row->name, row->name);
    return rc < 0 ? rc : registry_remove(r, row, e);
}

static int container(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    return box_remove(r, row, a->given[OPT_FORCE], e);
}

int verb_rm(const struct args *a, struct error *e)
{
    static const struct machine_acts acts = {act, container};
    return machine_each(a, &acts, e);
}
