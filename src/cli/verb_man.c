#include "cli/cli.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* One page as a file DIR/trapeze[-VERB].1 */
static int write_page(const char *dir, const struct verb *v, struct error *e)
{
    char path[PATH_MAX];
    if (snprintf(path, sizeof(path), "%s/trapeze%s%s.1", dir, v ? "-" : "", v ? v->name : "") >= (int)sizeof(path))
        return error_set(e, ENAMETOOLONG, "%s: path too long", dir);
    FILE *f = fopen(path, "we");
    if (!f)
        return error_set(e, errno, "%s: cannot be written: %s", path, strerror(errno));
    cli_man(f, v);
    int bad = ferror(f);
    if (fclose(f) != 0 || bad)
        return error_set(e, EIO, "%s: cannot be written; is the disk full?", path);
    return 0;
}

static int write_all(const char *dir, struct error *e)
{
    int r = write_page(dir, NULL, e);
    for (size_t i = 0; r == 0 && i < cli_n_verbs; i++)
        if (!cli_verbs[i].hidden)
            r = write_page(dir, &cli_verbs[i], e);
    return r;
}

int verb_man(const struct args *a, struct error *e)
{
    if (a->given[OPT_OUTPUT])
        return write_all(a->text[OPT_OUTPUT], e) < 0 ? cli_status_of(e) : CLI_OK;
    const struct verb *v = a->n_operands ? cli_find_verb(a->operands[0]) : NULL;
    if (a->n_operands && !v) {
        cli_unknown_verb(a->operands[0], e);
        return CLI_USAGE;
    }
    cli_man(stdout, v);
    return CLI_OK;
}
