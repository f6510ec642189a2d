#include "cli/inside.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* "NAME:PATH": the length of NAME, or 0 for what is a file here. "./a:b" and "/a:b" are. */
static size_t name_length(const char *s)
{
    size_t len = strcspn(s, ":/");
    return s[len] == ':' && *s != '.' ? len : 0;
}

int verb_cp(const struct args *a, struct error *e)
{
    const char *from = a->operands[0], *to = a->operands[1];
    size_t in = name_length(to), out = name_length(from);
    struct inside t;
    if (!in == !out) {
        error_set(e, EINVAL, "cp: %s of %.60s and %.60s names a machine; write NAME:PATH for one of them",
                  in ? "each" : "none", from, to);
        return CLI_USAGE;
    }
    char *name = strndup(in ? to : from, in ? in : out);
    int rc = name ? inside_find(name, &t, e) : error_set(e, ENOMEM, "memory: the host has none left");
    if (rc == 0) {
        const char *inner = (in ? to + in : from + out) + 1;
        inner = *inner ? inner : "/";
        rc = in ? t.ops->copy_in(&t, from, inner, e) : t.ops->copy_out(&t, inner, to, e);
        error_prefix(e, "cp");
        inside_free(&t);
    }
    free(name);
    return rc < 0 ? MAX(cli_status_of(e), (int)CLI_USAGE) : CLI_OK;
}
