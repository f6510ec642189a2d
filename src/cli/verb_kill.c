#include "cli/machine.h"

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    return machine_call(row, 10, json_pack("{s:s}", "do", "kill"), NULL, e);
}

int verb_kill(const struct args *a, struct error *e)
{
    return machine_each(a, act, e);
}
