/* trapeze-oci: finds the verb, parses, runs it, reports. */
#include "container/protect.h"
#include "container/spec.h"
#include "oci/oci.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

/* The verbs that make a process in a container: their program must be protected from it. */
static bool makes_processes(const struct oci_verb *v)
{
    return !strcmp(v->name, "create") || !strcmp(v->name, "run") || !strcmp(v->name, "exec");
}

static int check_words(const struct oci_args *a, const struct oci_verb *v, struct error *e)
{
    if (a->n_operands < v->min_operands || (v->max_operands >= 0 && a->n_operands > v->max_operands))
        return error_set(e, EINVAL, "usage: trapeze-oci [options] %s [options] %s", v->name, v->operands);
    if (a->log_format && strcmp(a->log_format, "json") && strcmp(a->log_format, "text"))
        return error_set(e, EINVAL, "--log-format %.20s: is text or json", a->log_format);
    return 0;
}

/* --cgroup-manager is another runtime's name for --systemd-cgroup. */
static int take_manager(struct oci_args *a, struct error *e)
{
    if (a->format && !strcmp(a->format, "systemd"))
        a->host.systemd_cgroup = true;
    else if (a->format && strcmp(a->format, "cgroupfs") && strcmp(a->format, "disabled"))
        return error_set(e, EINVAL, "--cgroup-manager %.20s: is cgroupfs, systemd or disabled", a->format);
    a->format = NULL;
    return 0;
}

static int run_verb(struct oci_args *a, const struct oci_verb *v, char **argv, int *status, struct error *e)
{
    int r = check_words(a, v, e);
    if (r == 0 && makes_processes(v)) {
        protect_process();
        r = protect_binary(argv, e);
    }
    return r < 0 ? r : v->run(a, status, e);
}

static int run(struct oci_args *a, int argc, char **argv, char **original, int *status, struct error *e)
{
    int n = oci_parse(a, oci_globals, argc - 1, argv + 1, true, e);
    if (n < 0)
        return n;
    if (a->version) {
        printf("trapeze-oci version %s\nspec: %s\n", TRAPEZE_VERSION, SPEC_VERSION_MAX);
        return 0;
    }
    const struct oci_verb *v = a->n_operands ? oci_find(a->operands[0]) : NULL;
    if (a->help || !a->n_operands) {
        oci_help(a->help ? stdout : stderr, NULL);
        *status = !a->help;
        return 0;
    }
    if (!v)
        return error_set(e, EINVAL, "%.60s: unknown verb; trapeze-oci --help lists them", a->operands[0]);
    int r = take_manager(a, e);
    if (r == 0)
        r = oci_parse(a, v->options, a->n_operands - 1, a->operands + 1, v->max_operands < 0, e);
    if (r >= 0 && a->help) {
        oci_help(stdout, v);
        return 0;
    }
    return r < 0 ? r : run_verb(a, v, original, status, e);
}

int main(int argc, char **argv)
{
    static struct oci_args a; /* large, and zero */
    struct error e = {0};
    int status = 0;
    /* Parsing moves words about, and a second execution wants them as they were. */
    char **original = argc > 0 ? malloc((size_t)(argc + 1) * sizeof(char *)) : NULL;
    if (!original)
        return 1;
    memcpy(original, argv, (size_t)(argc + 1) * sizeof(char *));
    int r = run(&a, argc, argv, original, &status, &e);
    if (e.code)
        oci_log(&a, &e);
    free(original);
    return r < 0 || e.code ? 1 : status;
}
