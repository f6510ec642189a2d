#include "cli/machine.h"

/* The keeper watches the time; the margin is for a keeper that has vanished into a busy host. */
static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    u64 time = a->number[OPT_TIME];
    int rc = machine_call(row, (unsigned)time + 20, json_pack("{s:s, s:I}", "do", "stop", "time", (json_int_t)time),
                          NULL, e);
    return rc < 0 ? rc : machine_await_end(row, 5, e);
}

int verb_stop(const struct args *a, struct error *e)
{
    return machine_each(a, act, e);
}
