#include "oci/oci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static const struct oci_option *find_long(const struct oci_option *o, const char *name, size_t n)
{
    for (; o->name; o++)
        if (strlen(o->name) == n && !strncmp(o->name, name, n))
            return o;
    return NULL;
}

static const struct oci_option *find_letter(const struct oci_option *o, char letter)
{
    for (; o->name; o++)
        if (o->letter == letter)
            return o;
    return NULL;
}

static bool is_flag(const struct oci_option *o)
{
    return o->kind == OCI_FLAG || o->kind == OCI_NOTHING_FLAG;
}

static int number(const struct oci_option *o, const char *value, u32 *out, struct error *e)
{
    char *end;
    errno = 0;
    unsigned long v = strtoul(value, &end, 10);
    if (!*value || *end || errno || v > UINT32_MAX || value[0] == '-')
        return error_set(e, EINVAL, "--%s %.40s: is no number", o->name, value);
    *out = (u32)v;
    return 0;
}

static int put(struct oci_args *a, const struct oci_option *o, const char *value, struct error *e)
{
    void *at = (char *)a + o->at;
    size_t i = 0;
    switch (o->kind) {
    case OCI_FLAG:
        if (value && strcmp(value, "true") && strcmp(value, "false"))
            return error_set(e, EINVAL, "--%s=%.20s: is true or false", o->name, value);
        *(bool *)at = !value || !strcmp(value, "true");
        return 0;
    case OCI_TEXT:
        *(const char **)at = value;
        return 0;
    case OCI_NUMBER:
        return number(o, value, at, e);
    case OCI_LIST_TEXT:
        while (((const char **)at)[i])
            i++;
        if (i >= OCI_LIST - 1)
            return error_set(e, E2BIG, "--%s: more than %d", o->name, OCI_LIST - 1);
        ((const char **)at)[i] = value;
        return 0;
    case OCI_LIST_NUMBER:
        if (a->exec.n_groups >= OCI_LIST)
            return error_set(e, E2BIG, "--%s: more than %d", o->name, OCI_LIST);
        return number(o, value, &((u32 *)at)[a->exec.n_groups++], e);
    }
    return 0;
}

/* One word that begins with a dash, and its value, which may be the next word. Words used or -EINVAL. */
static int parse_one(struct oci_args *a, const struct oci_option *options, int argc, char **argv, struct error *e)
{
    const char *w = argv[0], *value = NULL;
    const struct oci_option *o;
    bool longer = w[1] == '-' || !w[2] || w[2] == '=';
    if (w[1] == '-' || (longer && !find_letter(options, w[1]))) {
        const char *name = w + 1 + (w[1] == '-'), *equals = strchr(name, '=');
        o = find_long(options, name, equals ? (size_t)(equals - name) : strlen(name));
        value = equals ? equals + 1 : NULL;
    } else {
        o = find_long(options, w + 1, strlen(w + 1)); /* -all: one dash will do, as with the other runtimes */
        if (!o) {
            o = find_letter(options, w[1]);
            value = w[2] == '=' ? w + 3 : w[2] ? w + 2 : NULL;
            if (o && is_flag(o) && value && w[2] != '=') {
                /* -it: letters together */
                char rest[64] = "-";
                strncat(rest, value, sizeof(rest) - 2);
                char *again[] = {rest, NULL};
                int r = put(a, o, NULL, e);
                return r < 0 ? r : parse_one(a, options, 1, again, e) < 0 ? -EINVAL : 1;
            }
        }
    }
    if (!o)
        return error_set(e, EINVAL, "%.60s: unknown option", w);
    if (is_flag(o)) {
        int r = put(a, o, value, e);
        return r < 0 ? r : 1;
    }
    if (!value && argc < 2)
        return error_set(e, EINVAL, "%.60s: needs a value", w);
    int r = put(a, o, value ? value : argv[1], e);
    return r < 0 ? r : value ? 1 : 2;
}

int oci_parse(struct oci_args *a, const struct oci_option *options, int argc, char **argv, bool stop, struct error *e)
{
    int i = 0;
    a->operands = argv;
    a->n_operands = 0;
    while (i < argc) {
        if (!strcmp(argv[i], "--")) {
            i++;
            break;
        }
        if (argv[i][0] != '-' || !argv[i][1]) {
            if (stop)
                break;
            argv[a->n_operands++] = argv[i++]; /* operands move to the front */
            continue;
        }
        int n = parse_one(a, options, argc - i, argv + i, e);
        if (n < 0)
            return n;
        i += n;
    }
    int used = i;
    for (; !stop && i < argc; i++)
        argv[a->n_operands++] = argv[i];
    if (stop) {
        a->operands = argv + i;
        a->n_operands = argc - i;
    }
    return used;
}

static void list_options(FILE *out, const struct oci_option *o)
{
    for (; o->name; o++)
        if (o->help)
            fprintf(out, "    %s%c%s--%-20s %s\n", o->letter ? "-" : "", o->letter ? o->letter : ' ',
                    o->letter ? ", " : "   ", o->name, o->help);
}

void oci_help(FILE *out, const struct oci_verb *v)
{
    if (v) {
        fprintf(out, "trapeze-oci [options] %s [options] %s\n\n%s.\n\n", v->name, v->operands, v->summary);
        list_options(out, v->options);
        return;
    }
    fprintf(out, "trapeze-oci [options] VERB ..: an OCI runtime\n\n");
    for (v = oci_verbs; v->name; v++)
        fprintf(out, "    %-12s %s\n", v->name, v->summary);
    fprintf(out, "\nOptions before the verb (those of a verb: trapeze-oci VERB --help):\n");
    list_options(out, oci_globals);
}
