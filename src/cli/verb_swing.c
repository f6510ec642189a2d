/* Another engine runs the guest from now on. */
#include "cli/machine.h"
#include "vm/config.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>

#define SWING_SECONDS 10

/* The next start takes the same one. */
static int remember(struct registry *r, const struct machine_row *row, const char *engine, struct error *e)
{
    json_t *j = row->config ? json_loads(row->config, 0, NULL) : NULL;
    char *text = NULL;
    if (j && json_object_set_new(j, "engine", json_string(engine)) == 0)
        text = json_dumps(j, JSON_COMPACT);
    json_decref(j);
    int rc =
        text ? registry_configure(r, row->id, text, e) : error_set(e, ENOMEM, "machine %s: out of memory", row->name);
    free(text);
    return rc;
}

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    struct vm_config c;
    vm_config_init(&c);
    snprintf(c.engine, sizeof(c.engine), "%s", a->text[OPT_ENGINE]);
    int rc = vm_config_check_engine(&c, e);
    if (rc == 0)
        rc = machine_call(row, SWING_SECONDS, json_pack("{s:s,s:s}", "do", "swing", "engine", c.engine), NULL, e);
    return rc < 0 ? rc : remember(r, row, c.engine, e);
}

int verb_swing(const struct args *a, struct error *e)
{
    static const struct machine_acts acts = {act, NULL};
    if (!a->given[OPT_ENGINE]) {
        error_set(e, EINVAL, "swing: to which engine? give --engine auto, bt or interp");
        return CLI_USAGE;
    }
    return machine_each(a, &acts, e);
}
