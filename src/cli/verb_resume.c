#include "box/box.h"
#include "cli/machine.h"
#include "vm/snapshot.h"

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    if (machine_suspended(row)) {
        int done = machine_restore(r, row, SNAPSHOT_SUSPENDED, true, e);
        if (done == 0)
            machine_set_clock(row);
        return done;
    }
    int rc = machine_call(row, 10, json_pack("{s:s}", "do", "resume"), NULL, e);
    if (rc == 0) {
        machine_set_clock(row);
        registry_note(r, row, "resume", NULL);
    }
    return rc;
}

static int container(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    int rc = box_pause(row, false, e);
    if (rc == 0)
        registry_note(r, row, "resume", NULL);
    return rc;
}

int verb_resume(const struct args *a, struct error *e)
{
    static const struct machine_acts acts = {act, container};
    return machine_each(a, &acts, e);
}
