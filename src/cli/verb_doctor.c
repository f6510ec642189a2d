#include "cli/cli.h"
#include "cli/doctor.h"
#include "cli/json.h"
#include "cli/terminal.h"

#include <errno.h>
#include <string.h>

static const char *result_name(enum doctor_result r)
{
    static const char *const names[] = {
#define X(result, name, mark, colour) [result] = name,
        DOCTOR_RESULTS(X)
#undef X
    };
    return names[r];
}

static void print_finding(const struct doctor_check *c, const struct doctor_finding *f, bool colours)
{
    static const char *const marks[] = {
#define X(result, name, mark, colour) [result] = mark,
        DOCTOR_RESULTS(X)
#undef X
    };
    static const char *const tints[] = {
#define X(result, name, mark, colour) [result] = colour,
        DOCTOR_RESULTS(X)
#undef X
    };
    const char *on = colours ? tints[f->result] : "", *off = *on ? "\033[0m" : "";
    printf("  %s%-8s%s %-16s %s\n", on, marks[f->result], off, c->name, f->found);
    if (*f->advice)
        printf("           %-16s -> %s\n", "", f->advice);
}

static json_t *json_finding(const struct doctor_check *c, const struct doctor_finding *f)
{
    return json_pack("{s:s, s:s, s:s, s:s, s:s}", "group", c->group, "name", c->name, "result", result_name(f->result),
                     "found", f->found, "advice", f->advice);
}

int verb_doctor(const struct args *a, struct error *e)
{
    bool colours = terminal_colours();
    unsigned missing = 0;
    json_t *list = a->number[OPT_FORMAT] ? json_array() : NULL;
    const char *group = "";
    for (size_t i = 0; i < doctor_n_checks; i++) {
        const struct doctor_check *c = &doctor_checks[i];
        struct doctor_finding f = {0};
        fflush(stdout); /* checks fork: nothing buffered may be printed twice */
        c->look(&f);
        missing += f.result == DOCTOR_MISSING;
        if (list) {
            json_array_append_new(list, json_finding(c, &f));
            continue;
        }
        if (strcmp(group, c->group))
            printf("%s%s\n", *group ? "\n" : "", c->group);
        group = c->group;
        print_finding(c, &f, colours);
    }
    int status = list ? cli_json_print(json_pack("{s:b, s:o}", "ready", missing == 0, "checks", list), e) : CLI_OK;
    if (!list)
        printf("\n%s\n", missing ? "Not ready: see MISSING above." : "Ready: machines can be run.");
    return missing ? CLI_HOST : status;
}
