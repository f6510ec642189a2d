/* `trapeze start`: another life for machines that have ended, with the configuration of their row. */
#include "cli/machine.h"
#include "vm/config.h"
#include "vm/launch.h"
#include "vm/paths.h"
#include "vm/snapshot.h"

#include <errno.h>
#include <stdio.h>
#include <unistd.h>

static int config_of(const struct machine_row *row, struct vm_config *c, struct error *e)
{
    json_error_t why;
    json_t *o = json_loads(row->config, 0, &why);
    if (!o)
        return error_set(e, EINVAL, "machine %s: its configuration can't be read: %s; `trapeze rm %s`, and run it anew",
                         row->name, why.text, row->name);
    if (json_object_get(o, "unfinished")) {
        json_decref(o);
        return error_set(e, EINVAL, "machine %s: its files were not all copied; `trapeze rm %s`, and run it anew",
                         row->name, row->name);
    }
    json_object_set_new(o, "name", json_string(row->name)); /* the row has it */
    vm_config_init(c);
    int rc = vm_config_from_json(c, o, e);
    json_decref(o);
    return rc < 0 ? rc : vm_config_check(c, e);
}

/* Before anything writes to its disks: its old memory would not fit them any more. */
static void forget_suspended(const struct machine_row *row)
{
    char path[PATH_MAX];
    if (paths_join(path, sizeof(path), row->dir, SNAPSHOT_SUSPENDED, NULL) == 0)
        unlink(path);
}

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    struct vm_config c;
    if (machine_suspended(row) && !a->given[OPT_FORCE])
        return error_set(e, EEXIST,
                         "machine %s: is suspended; `trapeze resume %s` lets it go on, `trapeze start -f %s` boots it "
                         "anew and forgets what it had in memory",
                         row->name, row->name, row->name);
    int rc = config_of(row, &c, e);
    if (rc < 0 || (rc = registry_restart(r, row, e)) < 0)
        return rc;
    forget_suspended(row);
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
