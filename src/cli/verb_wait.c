#include "box/box.h"
#include "cli/machine.h"

#include <errno.h>
#include <time.h>

/* The row is asked anew: who ended it has written how. */
static int await(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    const struct timespec tick = {.tv_nsec = 20 * 1000 * 1000};
    struct machine_row now;
    while (machine_lives(row))
        nanosleep(&tick, NULL);
    int rc = box_sweep(r, e);
    if (rc == 0)
        rc = registry_sweep(r, e);
    if (rc == 0 && registry_find(r, row->id, &now, NULL) < 0)
        return error_set(e, ESRCH, "%s %s: has ended and was removed, its status with it",
                         registry_kind_name(row->kind), row->name);
    if (rc < 0)
        return rc;
    printf("%d\n", now.exit_code);
    registry_row_free(&now);
    return 0;
}

int verb_wait(const struct args *a, struct error *e)
{
    static const struct machine_acts acts = {await, await};
    return machine_each(a, &acts, e);
}
