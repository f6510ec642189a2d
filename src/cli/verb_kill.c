#include "cli/machine.h"

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    int rc = machine_call(row, 10, json_pack("{s:s}", "do", "kill"), NULL, e);
    return rc < 0 ? rc : machine_await_end(row, 5, e);
}

int verb_kill(const struct args *a, struct error *e)
{
    return machine_each(a, act, e);
}
