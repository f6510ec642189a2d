#include "box/box.h"
#include "cli/machine.h"

#include <errno.h>
#include <signal.h>

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    if (a->given[OPT_SIGNAL])
        return error_set(e, EINVAL, "machine %s: --signal is for containers", row->name);
    int rc = machine_call(row, 10, json_pack("{s:s}", "do", "kill"), NULL, e);
    return rc < 0 ? rc : machine_await_end(row, 5, e);
}

static int container(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    const char *name = a->text[OPT_SIGNAL];
    int signal = name ? container_signal(name) : SIGKILL;
    if (signal < 0)
        return error_set(e, EINVAL, "--signal %.40s: is no signal", name);
    int rc = box_signal(row, signal, e);
    return rc < 0 || signal != SIGKILL ? rc : machine_await_end(row, 10, e);
}

int verb_kill(const struct args *a, struct error *e)
{
    static const struct machine_acts acts = {act, container};
    return machine_each(a, &acts, e);
}
