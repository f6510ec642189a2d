/* `trapeze network ACTION`: a table of actions on networks of containers. */
#include "box/box.h"
#include "cli/cli.h"
#include "cli/json.h"
#include "network/network.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

/* --format json: an array of what was shown or done; else lines. */
struct answer {
    const char *state;
    json_t *list;
};

static void say(struct answer *answer, const char *name)
{
    if (answer->list)
        json_array_append_new(answer->list, json_string(name));
    else
        puts(name);
}

static int create(const struct args *a, struct answer *answer, struct error *e)
{
    int r = network_create(answer->state, a->operands[1], a->given[OPT_SUBNET] ? a->text[OPT_SUBNET] : NULL, e);
    if (r == 0)
        say(answer, a->operands[1]);
    return r;
}

static const char *field(const json_t *j, const char *name)
{
    return json_string_value(json_object_get(j, name));
}

static int list(const struct args *a, struct answer *answer, struct error *e)
{
    size_t i;
    json_t *one, *all = network_list(answer->state, e);
    if (!all)
        return -EIO;
    if (answer->list)
        return json_array_extend(answer->list, all), json_decref(all), 0;
    printf("%-24s %-20s %-12s %s\n", "NAME", "SUBNET", "BRIDGE", "CONTAINERS");
    json_array_foreach(all, i, one) printf("%-24s %-20s %-12s %zu\n", field(one, "name"), field(one, "subnet"),
                                           field(one, "bridge"), json_array_size(json_object_get(one, "containers")));
    json_decref(all);
    return 0;
}

static void print_network(const json_t *j)
{
    size_t i, k;
    json_t *c, *port;
    printf("%s: subnet %s, gateway %s, bridge %s%s\n", field(j, "name"), field(j, "subnet"), field(j, "gateway"),
           field(j, "bridge"), json_is_true(json_object_get(j, "up")) ? "" : " (made when it is used)");
    json_array_foreach(json_object_get(j, "containers"), i, c)
    {
        printf("  %-15s %s", field(c, "address"), field(c, "name"));
        json_array_foreach(json_object_get(c, "ports"), k, port) printf(" %s", json_string_value(port));
        putchar('\n');
    }
}

static int inspect(const struct args *a, struct answer *answer, struct error *e)
{
    for (int i = 1; i < a->n_operands; i++) {
        json_t *j = network_inspect(answer->state, a->operands[i], e);
        if (!j)
            return -ENOENT;
        if (answer->list)
            json_array_append(answer->list, j);
        else
            print_network(j);
        json_decref(j);
    }
    return 0;
}

static int rm(const struct args *a, struct answer *answer, struct error *e)
{
    int r = 0;
    for (int i = 1; r == 0 && i < a->n_operands; i++)
        if ((r = network_remove(answer->state, a->operands[i], e)) == 0)
            say(answer, a->operands[i]);
    return r;
}

static int prune(const struct args *a, struct answer *answer, struct error *e)
{
    size_t i;
    json_t *name, *removed = json_array();
    int r = network_prune(answer->state, removed, e);
    json_array_foreach(removed, i, name) say(answer, json_string_value(name));
    json_decref(removed);
    return r;
}

static const struct action {
    const char *name, *operands;
    int min, max;
    int (*run)(const struct args *a, struct answer *answer, struct error *e);
} actions[] = {
    {"create", "NAME [--subnet NETWORK]", 1, 1, create},
    {"list", "", 0, 0, list},
    {"inspect", "NAME...", 1, 100, inspect},
    {"rm", "NAME...", 1, 100, rm},
    {"prune", "", 0, 0, prune},
};

static const struct action *find_action(const struct args *a, struct error *e)
{
    const char *name = a->operands[0];
    for (size_t i = 0; i < ARRAY_LEN(actions); i++) {
        if (strcmp(actions[i].name, name))
            continue;
        if (a->given[OPT_SUBNET] && actions[i].run != create) {
            error_set(e, EINVAL, "--subnet: is for `trapeze network create NAME`");
            return NULL;
        }
        if (a->n_operands - 1 >= actions[i].min && a->n_operands - 1 <= actions[i].max)
            return &actions[i];
        error_set(e, EINVAL, "network %s: is written `trapeze network %s%s%s`", name, name,
                  *actions[i].operands ? " " : "", actions[i].operands);
        return NULL;
    }
    error_set(e, EINVAL, "network %.60s: no such action; `trapeze network --help` lists them", name);
    return NULL;
}

int verb_network(const struct args *a, struct error *e)
{
    char state[PATH_MAX];
    const struct action *action = find_action(a, e);
    int r = action ? box_networks(state, sizeof(state), e) : -EINVAL;
    struct answer answer = {.state = state, .list = a->number[OPT_FORMAT] ? json_array() : NULL};
    if (r == 0)
        r = action->run(a, &answer, e);
    if (r == 0 && answer.list)
        return cli_json_print(answer.list, e);
    json_decref(answer.list);
    return r < 0 ? cli_status_of(e) : CLI_OK;
}
