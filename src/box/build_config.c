/*
 * Instructions that change an image's configuration and none of its files: a table of one function each. `build` and `commit
 * --change` use it.
 */
#include "box/build_parts.h"
#include "container/sys.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

/* What a handler gets. */
struct change {
    struct build *b; /* NULL: commit */
    struct stage *st;
    const struct docker_line *l;
    struct docker_scope scope;
    struct error *e;
};

/* --- variables --- */

const char *stage_env(const struct stage *st, const char *name)
{
    size_t i, n = strlen(name);
    json_t *v;
    json_array_foreach(json_object_get(st->run, "Env"), i, v)
    {
        const char *text = json_string_value(v);
        if (!strncmp(text, name, n) && text[n] == '=')
            return text + n + 1;
    }
    return NULL;
}

static const char *lookup(void *arg, const char *name)
{
    const struct stage *st = arg;
    const char *value = stage_env(st, name);
    return value ? value : json_string_value(json_object_get(st->args, name));
}

struct docker_scope stage_scope(const struct stage *st, char escape)
{
    return (struct docker_scope){.get = lookup, .arg = (void *)st, .escape = escape};
}

/* What a build knows without being told. */
static const char *platform_value(const char *name)
{
    static const char *const values[][2] = {
        {"TARGETPLATFORM", "linux/amd64"}, {"TARGETOS", "linux"}, {"TARGETARCH", "amd64"}, {"TARGETVARIANT", ""},
        {"BUILDPLATFORM", "linux/amd64"},  {"BUILDOS", "linux"},  {"BUILDARCH", "amd64"},  {"BUILDVARIANT", ""},
    };
    for (size_t i = 0; i < ARRAY_LEN(values); i++)
        if (!strcmp(values[i][0], name))
            return values[i][1];
    return NULL;
}

/* The value of one variable that is declared: what was given, its own preset, the global one. */
static json_t *arg_value(struct build *b, const char *name, const char *preset, bool global)
{
    json_t *given = json_object_get(b->given, name);
    if (given) {
        json_object_set_new(b->used, name, json_true());
        return json_incref(given);
    }
    if (preset)
        return json_string(preset);
    json_t *outer = global ? NULL : json_object_get(b->globals, name);
    const char *known = platform_value(name);
    return outer ? json_incref(outer) : known ? json_string(known) : json_null();
}

static bool is_name(const char *text, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!isalnum((u8)text[i]) && text[i] != '_' && text[i] != '-' && text[i] != '.')
            return false;
    return n > 0;
}

int build_arg(struct build *b, json_t *args, const struct docker_scope *s, const char *rest, bool global,
              struct error *e)
{
    struct docker_words words;
    int r = docker_split(rest, s->escape, &words, e);
    for (size_t i = 0; r == 0 && i < words.n; i++) {
        char *text = NULL; /* one after the other: a later one sees the earlier */
        r = docker_expand(s, words.v[i], &text, e);
        char *equals = r == 0 ? strchr(text, '=') : NULL;
        if (equals)
            *equals = 0;
        if (r == 0 && !is_name(text, strlen(text)))
            r = error_set(e, EINVAL, "ARG: \"%.60s\" is no name of a variable", text);
        if (r == 0 && json_object_set_new(args, text, arg_value(b, text, equals ? equals + 1 : NULL, global)) < 0)
            r = error_set(e, EINVAL, "ARG %.60s: its value is no UTF-8", text);
        free(text);
    }
    docker_words_free(&words);
    return r;
}

/* --- pieces --- */

static int set_string(struct change *c, json_t *object, const char *name, const char *value)
{
    return json_object_set_new(object, name, json_string(value)) < 0
               ? error_set(c->e, EINVAL, "%s: is no UTF-8", docker_keyword(c->l->kind))
               : 0;
}

static json_t *member(struct stage *st, const char *name, json_t *(*make)(void))
{
    json_t *j = json_object_get(st->run, name);
    if (!j || json_is_null(j)) {
        json_object_set_new(st->run, name, make());
        j = json_object_get(st->run, name);
    }
    return j;
}

static json_t *words_json(const struct docker_words *w)
{
    json_t *list = json_array();
    for (size_t i = 0; i < w->n; i++)
        json_array_append_new(list, json_string(w->v[i]));
    return list;
}

json_t *build_shell(const struct stage *st)
{
    json_t *own = json_object_get(st->run, "Shell");
    return json_array_size(own) ? json_deep_copy(own) : json_pack("[s,s]", "/bin/sh", "-c");
}

/* The exec form as it is, the shell form for the shell. */
static json_t *command(struct change *c)
{
    if (c->l->is_json)
        return words_json(&c->l->json);
    json_t *list = build_shell(c->st);
    json_array_append_new(list, json_string(c->l->rest));
    return list;
}

/* NAME=VALUE.., or NAME VALUE: `set` for each. */
static int pairs(struct change *c, int (*set)(struct change *c, const char *name, const char *value))
{
    struct docker_words words;
    char *name = NULL, *value = NULL;
    int r = docker_split(c->l->rest, c->scope.escape, &words, c->e);
    bool old = r == 0 && words.n && !strchr(words.v[0], '=');
    if (old && words.n < 2)
        r = error_set(c->e, EINVAL, "%s: is written %s NAME=VALUE", docker_keyword(c->l->kind),
                      docker_keyword(c->l->kind));
    if (r == 0 && old) {
        const char *rest = c->l->rest + strcspn(c->l->rest, " \t");
        r = docker_expand(&c->scope, words.v[0], &name, c->e);
        if (r == 0)
            r = docker_expand(&c->scope, rest + strspn(rest, " \t"), &value, c->e);
        if (r == 0)
            r = set(c, name, value);
    }
    json_t *made = json_array(); /* all see what was before the instruction */
    for (size_t i = 0; r == 0 && !old && i < words.n; i++) {
        char *text = NULL;
        r = docker_expand(&c->scope, words.v[i], &text, c->e);
        if (r == 0)
            json_array_append_new(made, json_string(text));
        free(text);
    }
    for (size_t i = 0; r == 0 && i < json_array_size(made); i++) {
        free(name);
        const char *text = json_string_value(json_array_get(made, i)), *equals = text ? strchr(text, '=') : NULL;
        name = equals ? strndup(text, (size_t)(equals - text)) : NULL;
        r = !equals || equals == text ? error_set(c->e, EINVAL, "%s: \"%.60s\" is not NAME=VALUE",
                                                  docker_keyword(c->l->kind), text ? text : "?")
                                      : set(c, name, equals + 1);
    }
    json_decref(made);
    free(name);
    free(value);
    docker_words_free(&words);
    return r;
}

/* --- one function an instruction --- */

static int set_env(struct change *c, const char *name, const char *value)
{
    size_t i, n = strlen(name);
    CLEANUP_FREE char *text = NULL;
    json_t *v, *env = member(c->st, "Env", json_array);
    if (asprintf(&text, "%s=%s", name, value) < 0)
        return text = NULL, error_set(c->e, ENOMEM, "out of memory");
    json_t *made = json_string(text);
    if (!made)
        return error_set(c->e, EINVAL, "ENV %.60s: is no UTF-8", name);
    json_array_foreach(env, i, v)
    {
        const char *old = json_string_value(v);
        if (!strncmp(old, name, n) && (old[n] == '=' || !old[n]))
            return json_array_set_new(env, i, made);
    }
    return json_array_append_new(env, made);
}

static int do_env(struct change *c)
{
    return pairs(c, set_env);
}

static int set_label(struct change *c, const char *name, const char *value)
{
    return set_string(c, member(c->st, "Labels", json_object), name, value);
}

static int do_label(struct change *c)
{
    return pairs(c, set_label);
}

static int do_arg(struct change *c)
{
    return c->b ? build_arg(c->b, c->st->args, &c->scope, c->l->rest, false, c->e) : -ENOSYS;
}

static int do_cmd(struct change *c)
{
    c->st->has_cmd = true;
    return json_object_set_new(c->st->run, "Cmd", command(c));
}

/* A command that the image below had was meant for another entry point. */
static int do_entrypoint(struct change *c)
{
    if (!c->st->has_cmd)
        json_object_del(c->st->run, "Cmd");
    return json_object_set_new(c->st->run, "Entrypoint", command(c));
}

static int do_shell(struct change *c)
{
    if (!c->l->is_json || !c->l->json.n)
        return error_set(c->e, EINVAL, "SHELL: is written SHELL [\"program\", \"argument\"]");
    return json_object_set_new(c->st->run, "Shell", words_json(&c->l->json));
}

static int do_maintainer(struct change *c)
{
    return set_string(c, c->st->config, "author", c->l->rest);
}

static int do_user(struct change *c)
{
    CLEANUP_FREE char *text = NULL;
    int r = docker_expand(&c->scope, c->l->rest, &text, c->e);
    if (r == 0 && !*text)
        return error_set(c->e, EINVAL, "USER: names nobody");
    return r == 0 ? set_string(c, c->st->run, "User", text) : r;
}

static int do_stop_signal(struct change *c)
{
    CLEANUP_FREE char *text = NULL;
    int r = docker_expand(&c->scope, c->l->rest, &text, c->e);
    if (r == 0 && container_signal(text) <= 0)
        return error_set(c->e, EINVAL, "STOPSIGNAL: \"%.40s\" is no signal", text);
    return r == 0 ? set_string(c, c->st->run, "StopSignal", text) : r;
}

static int do_volume(struct change *c)
{
    struct docker_words words = {0};
    int r = c->l->is_json ? 0 : docker_expand_words(&c->scope, c->l->rest, &words, c->e);
    const struct docker_words *w = c->l->is_json ? &c->l->json : &words;
    for (size_t i = 0; r == 0 && i < w->n; i++)
        r = !*w->v[i] ? error_set(c->e, EINVAL, "VOLUME: an empty path")
            : json_object_set_new(member(c->st, "Volumes", json_object), w->v[i], json_object()) < 0
                ? error_set(c->e, EINVAL, "VOLUME: is no UTF-8")
                : 0;
    docker_words_free(&words);
    return r;
}

/* PORT[-PORT][/PROTOCOL] */
static int expose(struct change *c, const char *text)
{
    unsigned from, to, end = 0;
    char key[32];
    const char *protocol = strchr(text, '/');
    if (sscanf(text, "%5u-%5u%n", &from, &to, (int *)&end) < 2 || !end) {
        end = 0;
        if (sscanf(text, "%5u%n", &from, (int *)&end) == 1)
            to = from;
    }
    protocol = protocol ? protocol + 1 : "tcp";
    if (!end || (text[end] && text[end] != '/') || !isdigit((u8)text[0]) || from < 1 || to > 65535 || from > to ||
        (strcasecmp(protocol, "tcp") && strcasecmp(protocol, "udp") && strcasecmp(protocol, "sctp")))
        return error_set(c->e, EINVAL, "EXPOSE: \"%.60s\" is not PORT[-PORT][/tcp or /udp]", text);
    for (; from <= to; from++) {
        snprintf(key, sizeof(key), "%u/%c%c%c%s", from, tolower(protocol[0]), tolower(protocol[1]),
                 tolower(protocol[2]), protocol[3] ? "p" : "");
        json_object_set_new(member(c->st, "ExposedPorts", json_object), key, json_object());
    }
    return 0;
}

static int do_expose(struct change *c)
{
    CLEANUP_FREE char *text = NULL;
    struct docker_words words = {0};
    int r = docker_expand(&c->scope, c->l->rest, &text, c->e);
    if (r == 0) /* a variable may hold several */
        r = docker_split(text, c->scope.escape, &words, c->e);
    for (size_t i = 0; r == 0 && i < words.n; i++)
        r = expose(c, words.v[i]);
    docker_words_free(&words);
    return r;
}

/* "1m30s", "500ms": nanoseconds (Go's time.ParseDuration). */
static int duration(const char *text, s64 *out)
{
    static const struct {
        const char *unit;
        double ns;
    } units[] = {{"ns", 1}, {"us", 1e3}, {"ms", 1e6}, {"s", 1e9}, {"m", 60e9}, {"h", 3600e9}};
    double sum = 0;
    if (!*text)
        return -EINVAL;
    while (*text) {
        char *end;
        size_t i;
        if (!isdigit((u8)*text))
            return -EINVAL;
        double v = strtod(text, &end);
        size_t n = strspn(end, "nusmh");
        for (i = 0; i < ARRAY_LEN(units); i++)
            if (strlen(units[i].unit) == n && !strncmp(units[i].unit, end, n))
                break;
        if (i == ARRAY_LEN(units))
            return -EINVAL;
        sum += v * units[i].ns;
        text = end + n;
    }
    if (sum > 1e18)
        return -ERANGE;
    *out = (s64)sum;
    return 0;
}

static int health_times(struct change *c, json_t *j)
{
    static const char *const names[][2] = {{"interval", "Interval"},
                                           {"timeout", "Timeout"},
                                           {"start-period", "StartPeriod"},
                                           {"start-interval", "StartInterval"}};
    s64 ns;
    for (size_t i = 0; i < ARRAY_LEN(names); i++) {
        const char *text = docker_flag(c->l, names[i][0]);
        if (text && (duration(text, &ns) < 0 || (ns && ns < 1000000)))
            return error_set(c->e, EINVAL, "HEALTHCHECK --%s=%.30s: is no time like 30s, of 1ms at least", names[i][0],
                             text);
        if (text)
            json_object_set_new(j, names[i][1], json_integer(ns));
    }
    const char *retries = docker_flag(c->l, "retries");
    if (retries && (!*retries || strspn(retries, "0123456789") != strlen(retries) || strlen(retries) > 6))
        return error_set(c->e, EINVAL, "HEALTHCHECK --retries=%.30s: is no number", retries);
    if (retries)
        json_object_set_new(j, "Retries", json_integer(strtol(retries, NULL, 10)));
    return 0;
}

static int do_healthcheck(struct change *c)
{
    const char *rest = c->l->rest;
    int r = docker_check_flags(c->l, "interval|timeout|start-period|start-interval|retries", c->e);
    if (r < 0)
        return r;
    if (!strcasecmp(rest, "NONE"))
        return json_object_set_new(c->st->run, "Healthcheck", json_pack("{s:[s]}", "Test", "NONE"));
    size_t n = strcspn(rest, " \t");
    const char *program = rest + n + strspn(rest + n, " \t");
    if (n != 3 || strncasecmp(rest, "CMD", 3) || !*program)
        return error_set(c->e, EINVAL,
                         "HEALTHCHECK: is written HEALTHCHECK [OPTIONS] CMD COMMAND, or HEALTHCHECK NONE");
    json_t *test = *program == '[' ? json_loads(program, 0, NULL) : NULL;
    if (json_is_array(test))
        json_array_insert_new(test, 0, json_string("CMD"));
    else
        test = (json_decref(test), json_pack("[s,s]", "CMD-SHELL", program));
    json_t *j = json_pack("{s:o}", "Test", test);
    r = j ? health_times(c, j) : error_set(c->e, EINVAL, "HEALTHCHECK: is no UTF-8");
    if (r < 0)
        return json_decref(j), r;
    return json_object_set_new(c->st->run, "Healthcheck", j);
}

/* Kept for whoever builds upon this image; what can never be done is refused now. */
static int do_onbuild(struct change *c)
{
    struct dockerfile inner;
    int r = dockerfile_parse(&inner, "ONBUILD", c->l->rest, strlen(c->l->rest), c->e);
    if (r < 0)
        return r;
    if (inner.n == 1 &&
        (inner.v[0].kind == DOCKER_FROM || inner.v[0].kind == DOCKER_ONBUILD || inner.v[0].kind == DOCKER_MAINTAINER))
        r = error_set(c->e, EINVAL, "ONBUILD %s: is not possible", docker_keyword(inner.v[0].kind));
    dockerfile_free(&inner);
    if (r == 0 && json_array_append_new(member(c->st, "OnBuild", json_array), json_string(c->l->rest)) < 0)
        r = error_set(c->e, EINVAL, "ONBUILD: is no UTF-8");
    return r;
}

/* --- --- */

int build_config_line(struct build *b, struct stage *st, const struct docker_line *l, char escape, struct error *e)
{
    static int (*const handlers[DOCKER_KINDS])(struct change * c) = {
        [DOCKER_ARG] = do_arg,
        [DOCKER_CMD] = do_cmd,
        [DOCKER_ENTRYPOINT] = do_entrypoint,
        [DOCKER_ENV] = do_env,
        [DOCKER_EXPOSE] = do_expose,
        [DOCKER_HEALTHCHECK] = do_healthcheck,
        [DOCKER_LABEL] = do_label,
        [DOCKER_MAINTAINER] = do_maintainer,
        [DOCKER_ONBUILD] = do_onbuild,
        [DOCKER_SHELL] = do_shell,
        [DOCKER_STOPSIGNAL] = do_stop_signal,
        [DOCKER_USER] = do_user,
        [DOCKER_VOLUME] = do_volume,
    };
    struct change c = {.b = b, .st = st, .l = l, .scope = stage_scope(st, escape), .e = e};
    if (!handlers[l->kind])
        return -ENOSYS;
    int r = handlers[l->kind](&c);
    return r == -1 ? error_set(e, EINVAL, "%s: is no UTF-8", docker_keyword(l->kind)) : r;
}

int build_path(const struct stage *st, const char *text, char out[PATH_MAX], struct error *e)
{
    char joined[2 * PATH_MAX], clean[PATH_MAX];
    bool leaves;
    const char *dir = json_string_value(json_object_get(st->run, "WorkingDir"));
    size_t n = strlen(text);
    bool directory = !n || text[n - 1] == '/' || !strcmp(text, ".") || !strcmp(text, "..") ||
                     (n > 1 && !strcmp(text + n - 2, "/.")) || (n > 2 && !strcmp(text + n - 3, "/.."));
    if (text[0] == '/')
        dir = "";
    else if (!dir || dir[0] != '/')
        dir = "/";
    int size = snprintf(joined, sizeof(joined), "%s/%s", dir, text);
    if (size >= (int)sizeof(joined) || build_clean(joined, clean, sizeof(clean) - 2, &leaves) < 0)
        return error_set(e, ENAMETOOLONG, "\"%.60s..\": too long", text);
    snprintf(out, PATH_MAX, "/%.*s%s", PATH_MAX - 3, clean, directory && *clean ? "/" : "");
    return 0;
}
