#include "box/box.h"
#include "cli/machine.h"

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    int rc = machine_call(row, 10, json_pack("{s:s}", "do", "pause"), NULL, e);
    if (rc == 0)
        registry_note(r, row, "pause", NULL);
    return rc;
}

static int container(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    int rc = box_pause(row, true, e);
    if (rc == 0)
        registry_note(r, row, "pause", NULL);
    return rc;
}

int verb_pause(const struct args *a, struct error *e)
{
    static const struct machine_acts acts = {act, container};
    return machine_each(a, &acts, e);
}
