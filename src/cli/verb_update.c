/* Change what a running machine may use. */
#include "box/box.h"
#include "cli/machine.h"

#include <errno.h>

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    if (a->given[OPT_CPUS_UPDATE])
        return error_set(e, ENOTSUP, "machine %s: a machine's CPUs can not be changed while it runs", row->name);
    return machine_call(
        row, 10, json_pack("{s:s, s:I}", "do", "balloon", "memory", (json_int_t)a->number[OPT_MEMORY_UPDATE]), NULL, e);
}

static int container(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    return box_update(r, row, a->given[OPT_MEMORY_UPDATE] ? a->number[OPT_MEMORY_UPDATE] : 0,
                      a->given[OPT_CPUS_UPDATE] ? a->number[OPT_CPUS_UPDATE] : 0, e);
}

int verb_update(const struct args *a, struct error *e)
{
    static const struct machine_acts acts = {act, container};
    if (!a->given[OPT_MEMORY_UPDATE] && !a->given[OPT_CPUS_UPDATE]) {
        error_set(e, EINVAL, "update: nothing to change; give --memory SIZE, or for containers --cpus N");
        return CLI_USAGE;
    }
    return machine_each(a, &acts, e);
}
