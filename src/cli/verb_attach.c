#include "box/box.h"
#include "cli/machine.h"

#include <errno.h>

static int attach(const struct args *a, const struct machine_row *row, struct error *e)
{
    bool left;
    int status;
    if (!machine_lives(row)) {
        error_set(e, ESRCH, "container %s: does not run; `trapeze logs %s` has its output", row->name, row->name);
        return BOX_FAILED;
    }
    if (box_attach(row, true, (u8)a->number[OPT_ESCAPE], &status, &left, e) < 0)
        return BOX_FAILED;
    if (left)
        fprintf(stderr, "\ncontainer %s: goes on; `trapeze attach %s` comes back\n", row->name, row->name);
    return left ? CLI_OK : status;
}

int verb_attach(const struct args *a, struct error *e)
{
    struct machine_row row;
    if (machine_find(a->operands[0], &row, e) < 0)
        return BOX_FAILED;
    int status = row.kind == KIND_CONTAINER ? attach(a, &row, e) : verb_console(a, e);
    registry_row_free(&row);
    return status;
}
