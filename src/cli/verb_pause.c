#include "cli/machine.h"

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    return machine_call(row, 10, json_pack("{s:s}", "do", "pause"), NULL, e);
}

int verb_pause(const struct args *a, struct error *e)
{
    return machine_each(a, act, e);
}
