/* `trapeze system ACTION`: what concerns all machines of this user. */
#include "cli/machine.h"
#include "vm/resolve.h"

#include <errno.h>
#include <string.h>

#define RECOVER_MS 10000

/* What verbs do for a moment, with more patience, and told. */
static int recover(struct error *e)
{
    struct machine_row *rows;
    size_t n;
    int open = 0;
    struct registry *r = machine_registry(e);
    if (!r)
        return CLI_HOST;
    resolve_sweep(r, RECOVER_MS);
    int rc = registry_list(r, &rows, &n, e);
    for (size_t i = 0; rc == 0 && i < n; i++) {
        struct handover_record h;
        struct error one = {0};
        if (rows[i].kind != KIND_MACHINE || handover_read_at(rows[i].dir, &h, &one) < 0 || h.role != HANDOVER_COMMITTED)
            continue;
        fprintf(stderr, "trapeze: machine %s: has been handed over to %s, which %s\n", rows[i].name, h.to,
                h.postcopy ? "has not got all its memory yet; a process that is left behind for that sends it"
                           : "does not say what became of it");
        open++;
    }
    if (rc == 0)
        registry_rows_free(rows, n);
    registry_close(r);
    return rc < 0 || open ? CLI_HOST : CLI_OK;
}

int verb_system(const struct args *a, struct error *e)
{
    if (!strcmp(a->operands[0], "recover"))
        return recover(e);
    error_set(e, EINVAL, "system %.60s: no such action; there is recover", a->operands[0]);
    return CLI_USAGE;
}
