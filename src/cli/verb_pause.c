#include "box/box.h"
#include "cli/machine.h"

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    json_t *reply = NULL;
    int rc = machine_call(row, 10, json_pack("{s:s}", "do", "pause"), &reply, e);
    if (rc == 0)
        registry_note(r, row, "pause", NULL);
    if (json_is_true(json_object_get(reply, "later")))
        fprintf(stderr,
                "trapeze: machine %s: stands still for want of memory that another host has, and is paused when that "
                "comes\n",
                row->name);
    json_decref(reply);
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
