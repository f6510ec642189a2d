#include "cli/cli.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

const struct verb *cli_find_verb(const char *name)
{
    for (size_t i = 0; i < cli_n_verbs; i++)
        if (!strcmp(cli_verbs[i].name, name))
            return &cli_verbs[i];
    return NULL;
}

/* Verbs and options that are to come, by the part of Trapeze that they wait for: nobody has to guess whether they exist. */
static const struct {
    const char *words, *part;
} later[] = {
    {"checkpoint", "migration and snapshots"}, {"enter|volume", "parts of containers"}, {"disk", "disk tools"},
    {"screenshot|sendkey", "displays"},        {"lab|rename|--mitigations", "this"},
};

/* Whether `word` is one of them: fills `e`. */
static bool comes_later(const char *word, struct error *e)
{
    for (size_t i = 0; i < ARRAY_LEN(later); i++)
        if (cli_choice(later[i].words, word) >= 0)
            return error_set(e, EINVAL, "%s: %s %s not there yet; `trapeze --help` lists what is", word, later[i].part,
                             strcmp(later[i].part, "this") ? "are" : "is") < 0;
    return false;
}

int cli_unknown_verb(const char *name, struct error *e)
{
    const char *best = NULL;
    unsigned distance = 0;
    if (comes_later(name, e))
        return -EINVAL;
    for (size_t i = 0; i < cli_n_verbs; i++)
        if (!cli_verbs[i].hidden)
            cli_suggest(name, cli_verbs[i].name, &best, &distance);
    if (best)
        return error_set(e, EINVAL, "%.60s: unknown verb; did you mean `trapeze %s`?", name, best);
    return error_set(e, EINVAL, "%.60s: unknown verb; `trapeze --help` lists them", name);
}

int cli_status_of(const struct error *e)
{
    static const int host[] = {ENOMEM, EIO, EBUSY, EMFILE, ENFILE, ENOSPC, ENOSYS, EAGAIN, EPROTO, EPIPE, ETIMEDOUT};
    for (size_t i = 0; i < ARRAY_LEN(host); i++)
        if (e->code == host[i])
            return CLI_HOST;
    return CLI_USAGE;
}

/* --- one option --- */

/* Options of this verb by long name (`len` bytes of it) or letter; OPT_NONE if it has none such. */
static enum option_id find_long(const struct verb *v, const char *name, size_t len)
{
    for (int i = 0; v->options[i]; i++) {
        const struct option_def *o = &cli_options[v->options[i]];
        if ((strlen(o->name) == len && !memcmp(o->name, name, len)) ||
            (o->alias && strlen(o->alias) == len && !memcmp(o->alias, name, len)))
            return v->options[i];
    }
    return len == 4 && !memcmp(name, "help", 4) ? OPT_HELP : OPT_NONE;
}

static enum option_id find_letter(const struct verb *v, char c)
{
    for (int i = 0; v->options[i]; i++)
        if (cli_options[v->options[i]].letter == c)
            return v->options[i];
    return c == 'h' ? OPT_HELP : OPT_NONE;
}

static int unknown_option(const struct verb *v, const char *name, size_t len, struct error *e)
{
    char typed[64];
    const char *best = NULL;
    unsigned distance = 0;
    snprintf(typed, sizeof(typed), "--%.*s", (int)len, name);
    if (!strcmp(v->name, "run") && comes_later(typed, e))
        return -EINVAL;
    for (int i = 0; v->options[i]; i++)
        cli_suggest(typed + 2, cli_options[v->options[i]].name, &best, &distance);
    if (best)
        return error_set(e, EINVAL, "%s: unknown option of `trapeze %s`; did you mean --%s?", typed, v->name, best);
    return error_set(e, EINVAL, "%s: unknown option; `trapeze %s --help` lists them", typed, v->name);
}

static int check_bounds(struct args *a, enum option_id id, const char *s, struct error *e)
{
    const struct option_def *o = &cli_options[id];
    u64 v = a->number[id];
    char low[24], high[24];
    if (v >= o->min && (!o->max || v <= o->max))
        return 0;
    if (o->kind == OPTION_SIZE)
        return error_set(e, EINVAL, "--%s %s: out of range; %s to %s are possible", o->name, s,
                         cli_size_name(o->min, low), cli_size_name(o->max, high));
    return error_set(e, EINVAL, "--%s %s: out of range; %llu to %llu are possible", o->name, s,
                     (unsigned long long)o->min, (unsigned long long)o->max);
}

static int bad_value(const struct option_def *o, const char *s, const char *want, struct error *e)
{
    return error_set(e, EINVAL, "--%s %.60s: %s", o->name, *s ? s : "\"\"", want);
}

/* Read the value `s` of an option into a->text and a->number. */
static int set_value(struct args *a, enum option_id id, const char *s, struct error *e)
{
    const struct option_def *o = &cli_options[id];
    u8 key = 0;
    char want[160];
    a->text[id] = s;
    switch (o->kind) {
    case OPTION_FLAG:
    case OPTION_STRING:
        return 0;
    case OPTION_TEXT:
    case OPTION_LIST:
        return *s ? 0 : bad_value(o, s, "needs a value that is not empty", e);
    case OPTION_SIZE:
        if (cli_size(s, &a->number[id]) < 0)
            return bad_value(o, s, "not a size; write a whole number and K, M, G or T, as in 512M", e);
        return check_bounds(a, id, s, e);
    case OPTION_NUMBER:
        if (cli_number(s, &a->number[id]) < 0)
            return bad_value(o, s, "not a whole number", e);
        return check_bounds(a, id, s, e);
    case OPTION_TIME:
        if (cli_time(s, &a->number[id]) < 0)
            return bad_value(o, s, "not a time; write a whole number and ms, s, m or h, as in 50ms", e);
        return check_bounds(a, id, s, e);
    case OPTION_RATE:
        if (cli_rate(s, &a->number[id]) < 0)
            return bad_value(o, s, "no bits a second; write a whole number and K, M, G or T, as in 1G", e);
        return check_bounds(a, id, s, e);
    case OPTION_CHOICE:
        a->number[id] = (u64)cli_choice(o->choices, s);
        if ((s64)a->number[id] >= 0)
            return 0;
        snprintf(want, sizeof(want), "not one of %s", o->choices);
        return bad_value(o, s, want, e);
    default: /* OPTION_KEY */
        if (cli_key(s, &key) < 0)
            return bad_value(o, s, "not a key; write ^] or another control character, or none", e);
        a->number[id] = key;
        return 0;
    }
}

static int take_option(struct args *a, enum option_id id, const char *s, struct error *e)
{
    u8 kind = cli_options[id].kind;
    if (kind == OPTION_LIST) {
        a->many[a->n_many].id = id;
        a->many[a->n_many++].text = s;
    } else if (a->given[id] && kind != OPTION_FLAG)
        return error_set(e, EINVAL, "--%s: given twice; give it once", cli_options[id].name);
    a->given[id] = true;
    return set_value(a, id, s, e);
}

static int missing_value(const struct option_def *o, struct error *e)
{
    return error_set(e, EINVAL, "--%s: needs a value: --%s %s", o->name, o->name, o->value);
}

/* --name, --name=VALUE, --name VALUE at argv[*i]; *i ends on the last word used. */
static int long_option(struct args *a, int argc, const char **argv, int *i, struct error *e)
{
    const char *name = argv[*i] + 2;
    size_t len = strcspn(name, "=");
    enum option_id id = find_long(a->verb, name, len);
    if (id == OPT_NONE)
        return unknown_option(a->verb, name, len, e);
    const struct option_def *o = &cli_options[id];
    if (o->kind == OPTION_FLAG)
        return name[len] ? error_set(e, EINVAL, "--%s: takes no value", o->name) : take_option(a, id, "", e);
    if (name[len])
        return take_option(a, id, name + len + 1, e);
    if (*i + 1 >= argc)
        return missing_value(o, e);
    return take_option(a, id, argv[++*i], e);
}

/* -d, -af, -t10, -t 10 */
static int short_options(struct args *a, int argc, const char **argv, int *i, struct error *e)
{
    for (const char *p = argv[*i] + 1; *p; p++) {
        enum option_id id = find_letter(a->verb, *p);
        if (id == OPT_NONE)
            return error_set(e, EINVAL, "-%c: unknown option; `trapeze %s --help` lists them", *p, a->verb->name);
        if (cli_options[id].kind == OPTION_FLAG) {
            int r = take_option(a, id, "", e);
            if (r < 0)
                return r;
            continue;
        }
        if (p[1])
            return take_option(a, id, p + 1, e);
        if (*i + 1 >= argc)
            return missing_value(&cli_options[id], e);
        return take_option(a, id, argv[++*i], e);
    }
    return 0;
}

/* --- the whole line --- */

static int set_presets(struct args *a, struct error *e)
{
    for (int i = 0; a->verb->options[i]; i++) {
        enum option_id id = a->verb->options[i];
        int r = cli_options[id].preset ? set_value(a, id, cli_options[id].preset, e) : 0;
        if (r < 0)
            return r;
    }
    return 0;
}

static int check_operands(const struct args *a, struct error *e)
{
    const struct verb *v = a->verb;
    if (a->given[OPT_HELP])
        return 0;
    if (a->n_operands < v->min_operands)
        return error_set(e, EINVAL, "%s: %.*s is missing; `trapeze %s --help` shows how it is used", v->name,
                         (int)strcspn(v->operands, " "), v->operands, v->name);
    if (v->max_operands >= 0 && a->n_operands > v->max_operands)
        return error_set(e, EINVAL, "%.60s: one argument too many for `trapeze %s`; see `trapeze %s --help`",
                         a->operands[(int)v->max_operands], v->name, v->name);
    return 0;
}

int cli_parse(struct args *a, const struct verb *verb, int argc, const char **argv, struct error *e)
{
    bool options = true;
    memset(a, 0, sizeof(*a));
    a->verb = verb;
    a->operands = calloc((size_t)argc + 1, sizeof(*a->operands));
    a->many = calloc((size_t)argc + 1, sizeof(*a->many));
    if (!a->operands || !a->many)
        return error_set(e, ENOMEM, "memory: the host has none left");
    int r = set_presets(a, e);
    for (int i = 0; r == 0 && i < argc; i++) {
        const char *s = argv[i];
        if (options && !strcmp(s, "--")) {
            options = false;
        } else if (options && s[0] == '-' && s[1] == '-') {
            r = long_option(a, argc, argv, &i, e);
        } else if (options && s[0] == '-' && s[1]) {
            r = short_options(a, argc, argv, &i, e);
        } else {
            a->operands[a->n_operands++] = s;
            if (verb->operands_end)
                options = false;
        }
    }
    return r < 0 ? r : check_operands(a, e);
}

void cli_args_free(struct args *a)
{
    free(a->operands);
    free(a->many);
    a->many = NULL;
    a->operands = NULL;
    a->n_operands = 0;
}
