#include "box/box.h"
#include "cli/agent_call.h"

#include "base/bytes.h"

#include <errno.h>

/*
 * A guest with an agent is asked to shut down by it, and has most of its time for that; after it, or without an agent, the
 * power button is pressed. The keeper watches the time; the margin is for a keeper that has vanished into a busy host.
 */
static bool ask_agent(const struct machine_row *row, u64 time)
{
    u8 how[4];
    put_le32(how, AGENT_DOWN_POWEROFF);
    if (time < 2 || agent_call(row, AGENT_DOWN, how, sizeof(how), (unsigned)MIN(time / 2, 3), NULL) < 0)
        return false;
    machine_call(row, (unsigned)(time - time / 4), json_pack("{s:s}", "do", "wait"), NULL, NULL);
    return true;
}

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    u64 time = a->number[OPT_TIME];
    if (ask_agent(row, time)) {
        if (machine_await_end(row, 1, NULL) == 0)
            return 0;
        time = time / 4;
    }
    int rc = machine_call(row, (unsigned)time + 20, json_pack("{s:s, s:I}", "do", "stop", "time", (json_int_t)time),
                          NULL, e);
    return rc < 0 ? rc : machine_await_end(row, 5, e);
}

static int container(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    return box_stop(row, (unsigned)a->number[OPT_TIME], e);
}

int verb_stop(const struct args *a, struct error *e)
{
    static const struct machine_acts acts = {act, container};
    return machine_each(a, &acts, e);
}
