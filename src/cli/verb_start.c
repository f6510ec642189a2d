/* `trapeze start`: another life for machines and containers that have ended, with the configuration of their row. */
#include "box/box.h"
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

/* Whether any of the names is a container's: then this program is protected before anything is done. */
static int look(const struct args *a, bool *containers, struct error *e)
{
    struct machine_row row;
    int rc = 0;
    *containers = false;
    for (int i = 0; i < a->n_operands && rc == 0; i++) {
        if (machine_find(a->operands[i], &row, NULL) < 0)
            continue; /* the loop below says it */
        *containers |= row.kind == KIND_CONTAINER;
        registry_row_free(&row);
    }
    return *containers ? box_protect(e) : 0;
}

/* One by one, so that no registry is open when a container's keeper is made of this process. 1: it was a container. */
static int container(const char *name, int *status, struct error *e)
{
    struct machine_row row;
    struct box_started started;
    int rc = machine_find(name, &row, e);
    if (rc < 0)
        return rc;
    if (row.kind == KIND_CONTAINER) {
        rc = box_start(&row, &started, status, e) < 0 ? -EIO : 1;
        if (rc == 1)
            puts(row.name);
    }
    registry_row_free(&row);
    return rc;
}

static int nothing(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    return error_set(e, EAGAIN, "container %s: was a machine a moment ago; try again", row->name);
}

int verb_start(const struct args *a, struct error *e)
{
    static const struct machine_acts acts = {act, nothing};
    bool containers;
    int worst = look(a, &containers, e) < 0 ? cli_status_of(e) : CLI_OK;
    if (worst || !containers)
        return worst ? worst : machine_each(a, &acts, e);
    for (int i = 0; i < a->n_operands; i++) {
        struct args one = *a;
        struct error why = {0};
        int status = CLI_OK, rc = container(a->operands[i], &status, &why);
        one.operands = a->operands + i;
        one.n_operands = 1;
        if (rc == 0)
            status = machine_each(&one, &acts, e);
        else if (rc < 0)
            fprintf(stderr, "trapeze: %s\n", why.msg), status = status ? status : cli_status_of(&why);
        worst = MAX(worst, status);
    }
    return worst;
}
