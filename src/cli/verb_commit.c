#include "box/build.h"
#include "cli/json.h"
#include "cli/machine.h"

#include <errno.h>
#include <stdlib.h>

static int commit(const struct args *a, const char **changes, const struct machine_row *row, struct error *e)
{
    char id[DIGEST_TEXT];
    struct commit_options o = {.name = a->n_operands > 1 ? a->operands[1] : NULL,
                               .author = a->text[OPT_AUTHOR],
                               .message = a->text[OPT_MESSAGE],
                               .changes = {.v = changes}};
    for (int i = 0; i < a->n_many; i++)
        if (a->many[i].id == OPT_CHANGE)
            changes[o.changes.n++] = a->many[i].text;
    if (box_commit(row, &o, id, e) < 0)
        return cli_status_of(e);
    if (a->number[OPT_FORMAT])
        return cli_json_print(json_pack("{s:s,s:s*}", "id", id, "name", o.name), e);
    puts(id);
    return CLI_OK;
}

int verb_commit(const struct args *a, struct error *e)
{
    struct machine_row row;
    const char **changes = calloc((size_t)a->n_many + 1, sizeof(*changes));
    if (!changes)
        return error_set(e, ENOMEM, "memory: the host has none left"), CLI_HOST;
    int status = CLI_USAGE;
    if (machine_find(a->operands[0], &row, e) == 0) {
        if (row.kind == KIND_CONTAINER)
            status = commit(a, changes, &row, e);
        else
            error_set(e, ENOTSUP, "machine %s: is no container; `trapeze snapshot` keeps machines", row.name);
        registry_row_free(&row);
    }
    free(changes);
    return status;
}
