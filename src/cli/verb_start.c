/* `trapeze start`: another life for machines that have ended, with the configuration of their row. */
#include "cli/machine.h"
#include "vm/config.h"
#include "vm/launch.h"

#include <errno.h>
#include <stdio.h>

static int config_of(const struct machine_row *row, struct vm_config *c, struct error *e)
{
    json_error_t why;
    json_t *o = json_loads(row->config, 0, &why);
    if (!o)
        return error_set(e, EINVAL, "machine %s: its configuration can't be read: %s; `trapeze rm %s`, and run it anew",
                         row->name, why.text, row->name);
    json_object_set_new(o, "name", json_string(row->name)); /* the row has it */
    vm_config_init(c);
    int rc = vm_config_from_json(c, o, e);
    json_decref(o);
    return rc < 0 ? rc : vm_config_check(c, e);
}

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    struct vm_config c;
    int rc = config_of(row, &c, e);
    if (rc < 0 || (rc = registry_restart(r, row, e)) < 0)
        return rc;
    rc = machine_launch(r, &c, row, e);
    if (rc < 0)
        registry_ended(r, row->id, VM_EXIT_CONFIG, e->msg, NULL);
    else
        puts(row->name);
    return rc;
}

static int container(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    return error_set(e, ENOSYS,
                     "container %s: containers that have ended can't be started again yet; `trapeze run` makes "
                     "a new one",
                     row->name);
}

int verb_start(const struct args *a, struct error *e)
{
    static const struct machine_acts acts = {act, container};
    return machine_each(a, &acts, e);
}
