#include "base/bytes.h"
#include "box/box.h"
#include "cli/agent_call.h"
#include "host/host.h"

#define TIME_SECONDS 2

/* The guest's clock stood still: where an agent is, it is set. A guest without one finds out by itself, or does not. */
static void set_clock(const struct machine_row *row)
{
    u8 now[8];
    put_le64(now, (u64)host_wall_ns());
    agent_call(row, AGENT_TIME, now, sizeof(now), TIME_SECONDS, NULL);
}

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    int rc = machine_call(row, 10, json_pack("{s:s}", "do", "resume"), NULL, e);
    if (rc == 0)
        set_clock(row);
    return rc;
}

static int container(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    return box_pause(row, false, e);
}

int verb_resume(const struct args *a, struct error *e)
{
    static const struct machine_acts acts = {act, container};
    return machine_each(a, &acts, e);
}
