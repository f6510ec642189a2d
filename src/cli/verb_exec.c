#include "cli/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static int collect_env(const struct args *a, struct inside_program *p, struct error *e)
{
    p->env = calloc((size_t)a->n_many + 1, sizeof(*p->env));
    if (!p->env)
        return error_set(e, ENOMEM, "memory: the host has none left");
    for (int i = 0; i < a->n_many; i++) {
        if (a->many[i].id != OPT_ENV)
            continue;
        if (!strchr(a->many[i].text, '=') || a->many[i].text[0] == '=')
            return error_set(e, EINVAL, "--env %.60s: write NAME=VALUE", a->many[i].text);
        p->env[p->n_env++] = a->many[i].text;
    }
    return 0;
}

int verb_exec(const struct args *a, struct error *e)
{
    struct inside t;
    struct inside_program p = {.argv = a->operands + 1,
                               .argc = a->n_operands - 1,
                               .cwd = a->text[OPT_WORKDIR],
                               .user = a->text[OPT_USER],
                               .tty = a->given[OPT_TTY],
                               .input = a->given[OPT_INTERACTIVE]};
    int status = INSIDE_FAILED;
    if (collect_env(a, &p, e) == 0 && inside_find(a->operands[0], &t, e) == 0) {
        status = t.ops->exec(&t, &p, e);
        inside_free(&t);
    }
    free(p.env);
    return status;
}
