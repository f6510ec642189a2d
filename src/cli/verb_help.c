#include "cli/cli.h"

int verb_help(const struct args *a, struct error *e)
{
    const struct verb *v = a->n_operands ? cli_find_verb(a->operands[0]) : NULL;
    if (a->n_operands && !v) {
        cli_unknown_verb(a->operands[0], e);
        return CLI_USAGE;
    }
    if (v)
        cli_help_verb(stdout, v);
    else
        cli_help_overview(stdout);
    return CLI_OK;
}
