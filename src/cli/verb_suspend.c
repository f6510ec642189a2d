/* `trapeze suspend`: a machine's memory and state into a file, and its end. `trapeze resume` is the way back. */
#include "cli/bar.h"
#include "cli/machine.h"
#include "cli/terminal.h"
#include "vm/snapshot.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <unistd.h>

#define PATIENCE 120 /* seconds for one answer of the keeper: it may have to put much on its disks */

static int write_out(const struct machine_row *row, int control, struct error *e)
{
    struct bar bar;
    const struct snapshot_progress p = {bar_begin_pages(&bar, row->name), &bar};
    int dir = open(row->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return error_set(e, errno, "%s: %s", row->dir, strerror(errno));
    int rc = snapshot_suspend(control, dir, &p, e);
    terminal_status("");
    close(dir);
    return rc;
}

static int act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    if (machine_suspended(row))
        return 0;
    if (row->auto_remove)
        return error_set(e, EINVAL,
                         "machine %s: it was run with --rm, so nothing may be left of it; `trapeze pause %s`",
                         row->name, row->name);
    int control = machine_connect(row, PATIENCE, e);
    if (control < 0)
        return control;
    int rc = write_out(row, control, e);
    error_prefix(e, "machine %s", row->name);
    close(control); /* if it failed, this lets the machine go on */
    return rc < 0 ? rc : machine_await_end(row, 5, e);
}

static int container(const struct args *a, struct registry *r, struct machine_row *row, struct error *e)
{
    return error_set(e, ENOTSUP, "container %s: only machines can be suspended; `trapeze pause %s` freezes it",
                     row->name, row->name);
}

int verb_suspend(const struct args *a, struct error *e)
{
    static const struct machine_acts acts = {act, container};
    return machine_each(a, &acts, e);
}
