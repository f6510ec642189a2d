/* The plan of a build and its way through it: stages, FROM, history, the image at the end. See build.h. */
#include "box/build_parts.h"
#include "container/sys.h"
#include "image/layer.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

/* --- stages as images --- */

int stage_image(const struct stage *st, struct image *out, struct error *e)
{
    CLEANUP_FREE char *text = json_dumps(st->config, JSON_COMPACT | JSON_SORT_KEYS);
    memset(out, 0, sizeof(*out));
    if (!text)
        return error_set(e, ENOMEM, "out of memory");
    out->manifest = st->manifest;
    digest_of(text, strlen(text), out->manifest.config.digest);
    return image_config_parse(&out->config, text, strlen(text), e);
}

void stage_free(struct stage *st)
{
    json_decref(st->config);
    json_decref(st->args);
    st->config = st->run = st->args = NULL;
}

static json_t *scratch(void)
{
    return json_pack("{s:s,s:s,s:{},s:{s:s,s:[]},s:[]}", "architecture", "amd64", "os", "linux", "config", "rootfs",
                     "type", "layers", "diff_ids", "history");
}

/* The configuration that a stage begins with; `config` is used up. */
static int adopt(struct stage *st, json_t *config, struct error *e)
{
    st->config = config;
    st->run = json_object_get(config, "config");
    st->args = json_object();
    if (config && !json_is_array(json_object_get(config, "history")))
        json_object_set_new(config, "history", json_array());
    if (!st->run || !st->args)
        return error_set(e, ENOMEM, "out of memory");
    if (!stage_env(st, "PATH")) {
        if (!json_is_array(json_object_get(st->run, "Env")))
            json_object_set_new(st->run, "Env", json_array());
        json_array_insert_new(json_object_get(st->run, "Env"), 0, json_string("PATH=" BUILD_PATH));
    }
    return 0;
}

int stage_from_image(struct stage *st, const struct image *image, struct error *e)
{
    st->manifest = image->manifest;
    for (size_t i = 0; i < image->config.n_layers; i++)
        layer_chain(st->chain, image->config.diff_ids[i]);
    return adopt(st, json_deep_copy(image->config.json), e);
}

static int from_image(struct build *b, struct stage *st, const char *name, struct error *e)
{
    struct image image;
    int r = image_find(&b->store, name, &image, e);
    if (r < 0)
        return r;
    r = stage_from_image(st, &image, e);
    image_free(&image);
    return r;
}

static int from_stage(struct stage *st, const struct stage *base, struct error *e)
{
    st->manifest = base->manifest;
    memcpy(st->chain, base->chain, sizeof(st->chain));
    return adopt(st, json_deep_copy(base->config), e);
}

/* --- FROM --- */

static const char *global(void *arg, const char *name)
{
    const struct build *b = arg;
    const char *value = json_string_value(json_object_get(b->globals, name));
    if (value || json_object_get(b->globals, name))
        return value;
    return !strcmp(name, "TARGETPLATFORM") || !strcmp(name, "BUILDPLATFORM") ? "linux/amd64"
           : !strcmp(name, "TARGETOS") || !strcmp(name, "BUILDOS")           ? "linux"
           : !strcmp(name, "TARGETARCH") || !strcmp(name, "BUILDARCH")       ? "amd64"
                                                                             : NULL;
}

static struct docker_scope global_scope(struct build *b)
{
    return (struct docker_scope){.get = global, .arg = b, .escape = b->file.escape};
}

static int check_platform(struct build *b, const struct docker_line *l, struct error *e)
{
    struct docker_scope scope = global_scope(b);
    CLEANUP_FREE char *text = NULL;
    int r = docker_check_flags(l, "platform", e);
    if (r < 0 || !docker_flag(l, "platform"))
        return r;
    r = docker_expand(&scope, docker_flag(l, "platform"), &text, e);
    if (r == 0 && *text && strcmp(text, "linux/amd64") && strcmp(text, "linux/amd64/v1") && strcmp(text, "linux"))
        return error_set(e, ENOTSUP, "FROM --platform=%.60s: this is linux/amd64", text);
    return r;
}

/* "IMAGE", "IMAGE AS NAME": what it is made from, and its name, both the caller's. */
static int from_words(struct build *b, const struct docker_line *l, char **from, char **name, struct error *e)
{
    struct docker_scope scope = global_scope(b);
    struct docker_words w;
    int r = docker_expand_words(&scope, l->rest, &w, e);
    if (r < 0)
        return r;
    bool named = w.n == 3 && !strcasecmp(w.v[1], "AS");
    if ((w.n != 1 && !named) || !*w.v[0])
        r = error_set(e, EINVAL, "FROM: is written FROM IMAGE [AS NAME]%s",
                      w.n && !*w.v[0] ? "; its name is empty after replacing variables" : "");
    if (r == 0) {
        *from = strdup(w.v[0]);
        *name = named ? strdup(w.v[2]) : NULL;
    }
    docker_words_free(&w);
    return r;
}

static bool is_number(const char *text)
{
    return *text && strlen(text) < 6 && strspn(text, "0123456789") == strlen(text);
}

struct stage *build_find_stage(struct build *b, const char *name, size_t before)
{
    for (size_t i = before; i-- > 0;)
        if (b->stages[i].name && !strcasecmp(b->stages[i].name, name))
            return &b->stages[i];
    size_t number = is_number(name) ? (size_t)strtoul(name, NULL, 10) : before;
    return number < before ? &b->stages[number] : NULL;
}

/* FROM takes names only. */
static struct stage *named_stage(struct build *b, const char *name, size_t before)
{
    return is_number(name) ? NULL : build_find_stage(b, name, before);
}

/* --- the plan --- */

static int at_line(struct build *b, const struct docker_line *l, int r, struct error *why, struct error *e)
{
    return r < 0 ? error_set(e, why->code ? why->code : -r, "%.200s:%u: %s", b->context.file, l->line, why->msg) : 0;
}

static int add_stage(struct build *b, size_t line, struct error *e)
{
    const struct docker_line *l = &b->file.v[line];
    struct stage *st = &b->stages[b->n];
    CLEANUP_FREE char *from = NULL;
    char *name = NULL;
    int r = check_platform(b, l, e);
    if (r == 0)
        r = from_words(b, l, &from, &name, e);
    if (r == 0 && name && (is_number(name) || !strcasecmp(name, "scratch")))
        r = error_set(e, EINVAL, "FROM .. AS %.60s: is no name for a stage", name);
    if (r == 0 && name && named_stage(b, name, b->n))
        r = error_set(e, EINVAL, "FROM .. AS %.60s: there is a stage of this name", name);
    st->name = name;
    st->first = line;
    b->n++;
    return r;
}

static int plan_stages(struct build *b, struct error *e)
{
    int r = 0;
    b->stages = calloc(b->file.n + 1, sizeof(*b->stages));
    if (!b->stages)
        return error_set(e, ENOMEM, "out of memory");
    for (size_t i = 0; r == 0 && i < b->file.n; i++) {
        const struct docker_line *l = &b->file.v[i];
        struct docker_scope scope = global_scope(b);
        struct error why = {0};
        if (l->kind == DOCKER_FROM)
            r = add_stage(b, i, &why);
        else if (!b->n && l->kind == DOCKER_ARG)
            r = build_arg(b, b->globals, &scope, l->rest, true, &why);
        else if (!b->n)
            r = error_set(&why, EINVAL, "%s: stands before the first FROM", docker_keyword(l->kind));
        if (b->n)
            b->stages[b->n - 1].end = i + 1;
        r = at_line(b, l, r, &why, e);
    }
    return r == 0 && !b->n ? error_set(e, EINVAL, "%.200s: has no FROM", b->context.file) : r;
}

/* What a stage is built upon, or copies from, is needed too: all of these stand before it. */
static int mark_needed(struct build *b, size_t index, struct error *e)
{
    struct stage *st = &b->stages[index], *other;
    CLEANUP_FREE char *from = NULL, *name = NULL;
    int r = st->needed ? 0 : from_words(b, &b->file.v[st->first], &from, &name, e);
    if (r < 0 || st->needed)
        return r;
    st->needed = true;
    b->steps += (unsigned)(st->end - st->first);
    if ((other = named_stage(b, from, index)))
        r = mark_needed(b, (size_t)(other - b->stages), e);
    for (size_t i = st->first; r == 0 && i < st->end; i++) {
        const char *source = b->file.v[i].kind == DOCKER_COPY ? docker_flag(&b->file.v[i], "from") : NULL;
        if (source && (other = build_find_stage(b, source, index)))
            r = mark_needed(b, (size_t)(other - b->stages), e);
    }
    return r;
}

/* --- instructions --- */

static char *line_text(const struct docker_line *l)
{
    char *out = NULL;
    size_t size;
    FILE *f = open_memstream(&out, &size);
    if (!f)
        return NULL;
    fputs(docker_keyword(l->kind), f);
    for (size_t i = 0; i < l->flags.n; i++)
        fprintf(f, " %s", l->flags.v[i]);
    fprintf(f, " %s", l->rest);
    return fclose(f) == 0 ? out : (free(out), NULL);
}

static void tell(struct build *b, const char *text, bool done, bool cached, const char *layer)
{
    const struct build_report report = {.step = b->step,
                                        .steps = b->steps,
                                        .stage = b->stage_label,
                                        .text = text,
                                        .done = done,
                                        .cached = cached,
                                        .layer = layer};
    if (b->o->tell)
        b->o->tell(b->o->arg, &report);
}

/* The step becomes part of the stage: its layer, and a line of history. */
int stage_record(struct stage *st, const struct build_entry *made, const char *text, struct error *e)
{
    json_t *row = json_pack("{s:s,s:s}", "created", made->created, "created_by", text);
    json_t *ids = json_object_get(json_object_get(st->config, "rootfs"), "diff_ids");
    if (!row)
        return error_set(e, ENOMEM, "out of memory");
    if (!made->has_layer)
        json_object_set_new(row, "empty_layer", json_true());
    json_array_append_new(json_object_get(st->config, "history"), row);
    json_object_set_new(st->config, "created", json_string(made->created));
    if (!made->has_layer)
        return 0;
    if (st->manifest.n_layers >= IMAGE_LAYERS_MAX)
        return error_set(e, E2BIG, "an image has %d layers at most: put instructions together", IMAGE_LAYERS_MAX);
    st->manifest.layers[st->manifest.n_layers++] = made->layer;
    memcpy(st->chain, made->chain, sizeof(st->chain));
    return json_array_append_new(ids, json_string(made->diff_id));
}

/* Only the configuration: remembered for the time of it, so that the same build makes the same image. */
static int config_step(struct build *b, struct stage *st, const struct docker_line *l, struct build_entry *out,
                       bool *cached, struct error *e)
{
    struct digester d;
    char key[DIGEST_TEXT];
    int r = build_config_line(b, st, l, b->file.escape, e);
    if (r < 0)
        return r;
    digester_begin(&d, NULL);
    build_key_add(&d, "trapeze build 1 configuration");
    build_key_add(&d, st->chain);
    build_key_json(&d, st->run);
    build_key_json(&d, l->kind == DOCKER_ARG ? st->args : NULL);
    build_key_add(&d, docker_keyword(l->kind));
    build_key_add(&d, l->rest);
    digester_end(&d, key);
    *cached = !b->o->no_cache && build_cache_find(&b->store, key, out) == 0 && !out->has_layer;
    if (*cached)
        return 0;
    memset(out, 0, sizeof(*out));
    build_now(out->created);
    return build_cache_put(&b->store, key, out, e);
}

static bool changes_files(enum docker_kind kind)
{
    return kind == DOCKER_RUN || kind == DOCKER_COPY || kind == DOCKER_ADD || kind == DOCKER_WORKDIR;
}

static int do_line(struct build *b, struct stage *st, const struct docker_line *l, struct error *e)
{
    struct build_entry made;
    bool cached = false;
    CLEANUP_FREE char *text = line_text(l);
    if (!text)
        return error_set(e, ENOMEM, "out of memory");
    tell(b, text, false, false, "");
    int r = changes_files(l->kind) ? build_step(b, st, l, &made, &cached, e) : config_step(b, st, l, &made, &cached, e);
    if (r == 0)
        r = stage_record(st, &made, text, e);
    if (r == 0)
        tell(b, text, true, cached, made.has_layer ? made.layer.digest : "");
    return r;
}

/* What the image below asked for: done once, and not by those that are built upon this one. */
static int do_triggers(struct build *b, struct stage *st, struct error *e)
{
    size_t i;
    json_t *v, *triggers = json_incref(json_object_get(st->run, "OnBuild"));
    int r = 0;
    json_object_del(st->run, "OnBuild");
    json_array_foreach(triggers, i, v)
    {
        struct dockerfile inner = {0};
        const char *text = json_string_value(v);
        if (r == 0)
            r = dockerfile_parse(&inner, "ONBUILD of the image", text ? text : "", text ? strlen(text) : 0, e);
        for (size_t k = 0; r == 0 && k < inner.n; k++) {
            enum docker_kind kind = inner.v[k].kind;
            r = kind == DOCKER_FROM || kind == DOCKER_ONBUILD || kind == DOCKER_MAINTAINER
                    ? error_set(e, EINVAL, "ONBUILD %s of the image: is not possible", docker_keyword(kind))
                    : do_line(b, st, &inner.v[k], e);
        }
        if (inner.name)
            dockerfile_free(&inner);
    }
    json_decref(triggers);
    return r;
}

static int do_from(struct build *b, size_t index, struct error *e)
{
    struct stage *st = &b->stages[index];
    const struct docker_line *l = &b->file.v[st->first];
    CLEANUP_FREE char *from = NULL, *name = NULL, *text = line_text(l);
    int r = from_words(b, l, &from, &name, e);
    if (r < 0 || !text)
        return r < 0 ? r : error_set(e, ENOMEM, "out of memory");
    tell(b, text, false, false, "");
    struct stage *base = named_stage(b, from, index);
    if (base && !base->done)
        r = build_stage(b, (size_t)(base - b->stages), e);
    if (r == 0)
        r = base                       ? from_stage(st, base, e)
            : !strcmp(from, "scratch") ? adopt(st, scratch(), e)
                                       : from_image(b, st, from, e);
    if (r == 0)
        tell(b, text, true, false, "");
    return r == 0 ? do_triggers(b, st, e) : r;
}

int build_stage(struct build *b, size_t index, struct error *e)
{
    struct stage *st = &b->stages[index];
    char number[24];
    const char *before = b->stage_label;
    int r = 0;
    snprintf(number, sizeof(number), "%zu", index);
    b->stage_label = st->name ? st->name : number;
    for (size_t i = st->first; r == 0 && i < st->end; i++) {
        const struct docker_line *l = &b->file.v[i];
        struct error why = {0};
        b->step++;
        r = i == st->first ? do_from(b, index, &why) : do_line(b, st, l, &why);
        r = at_line(b, l, r, &why, e);
    }
    st->done = r == 0;
    b->stage_label = before;
    return r;
}

/* --- beginning and end --- */

static int take_args(struct build *b, struct error *e)
{
    for (int i = 0; i < b->o->args.n; i++) {
        const char *text = b->o->args.v[i], *equals = strchr(text, '=');
        CLEANUP_FREE char *name = strndup(text, equals ? (size_t)(equals - text) : strlen(text));
        const char *value = equals ? equals + 1 : name ? getenv(name) : NULL;
        if (!name || !*name)
            return error_set(e, EINVAL, "--build-arg %.60s: write NAME=VALUE, or NAME", text);
        if (value && json_object_set_new(b->given, name, json_string(value)) < 0)
            return error_set(e, EINVAL, "--build-arg %.60s: is no UTF-8", name);
    }
    return 0;
}

static void warn_unused(const struct build *b)
{
    const char *name;
    json_t *v;
    json_object_foreach(b->given, name, v)
    {
        if (!json_object_get(b->used, name))
            fprintf(stderr, "trapeze: --build-arg %.60s: no ARG of the Dockerfile asks for it\n", name);
    }
}

static int find_target(struct build *b, size_t *out, struct error *e)
{
    const struct stage *st = b->o->target ? build_find_stage(b, b->o->target, b->n) : &b->stages[b->n - 1];
    if (!st)
        return error_set(e, EINVAL, "--target %.60s: %.200s has no such stage", b->o->target, b->context.file);
    *out = (size_t)(st - b->stages);
    return 0;
}

/* Names are checked before anything is built. */
static int full_names(const struct build_options *o, char (*out)[REFERENCE_TEXT], struct error *e)
{
    int r = 0;
    for (int i = 0; r == 0 && i < o->tags.n; i++) {
        struct reference ref;
        r = reference_parse(&ref, o->tags.v[i], e);
        if (r == 0 && ref.digest[0])
            r = error_set(e, EINVAL, "--tag %.100s: a digest can not be given", o->tags.v[i]);
        if (r == 0)
            reference_full(&ref, out[i]);
    }
    return r;
}

static int finish(struct build *b, const struct stage *st, char (*names)[REFERENCE_TEXT], char id[DIGEST_TEXT],
                  struct error *e)
{
    struct image_descriptor top;
    struct image image;
    int r = image_make(&b->store, b->o->tags.n ? names[0] : NULL, st->config, st->manifest.layers,
                       st->manifest.n_layers, &top, e);
    for (int i = 1; r == 0 && i < b->o->tags.n; i++)
        r = image_tag(&b->store, names[i], &top, e);
    if (r == 0)
        r = image_read(&b->store, &top, &image, e);
    if (r < 0)
        return r;
    memcpy(id, image.manifest.config.digest, DIGEST_TEXT);
    image_free(&image);
    return 0;
}

static int build_all(struct build *b, char id[DIGEST_TEXT], struct error *e)
{
    size_t target = 0;
    CLEANUP_FREE char(*names)[REFERENCE_TEXT] = calloc((size_t)b->o->tags.n + 1, sizeof(*names));
    int r = names ? full_names(b->o, names, e) : error_set(e, ENOMEM, "out of memory");
    if (r == 0)
        r = take_args(b, e);
    if (r == 0)
        r = build_context_open(&b->context, b->o, &b->store, e);
    if (r == 0)
        r = dockerfile_parse(&b->file, b->context.file, b->context.text, b->context.size, e);
    if (r == 0)
        r = plan_stages(b, e);
    if (r == 0)
        r = find_target(b, &target, e);
    if (r == 0)
        r = mark_needed(b, target, e);
    /* Those that are needed stand in their order, so each finds what it needs. */
    for (size_t i = 0; r == 0 && i <= target; i++)
        if (b->stages[i].needed && !b->stages[i].done)
            r = build_stage(b, i, e);
    if (r == 0)
        warn_unused(b);
    return r == 0 ? finish(b, &b->stages[target], names, id, e) : r;
}

int box_build(struct build_options *o, char id[DIGEST_TEXT], struct error *e)
{
    struct build b = {.o = o, .given = json_object(), .used = json_object(), .globals = json_object()};
    b.context.dir = b.context.work = -1;
    umask(022);
    o->signal = 0;
    int r = image_store_open(&b.store, NULL, false, e);
    if (r < 0)
        return r;
    r = build_all(&b, id, e);
    for (size_t i = 0; i < b.n; i++) {
        stage_free(&b.stages[i]);
        free((char *)b.stages[i].name);
    }
    free(b.stages);
    dockerfile_free(&b.file);
    build_context_close(&b.context, &b.store);
    json_decref(b.given);
    json_decref(b.used);
    json_decref(b.globals);
    image_store_close(&b.store);
    return r;
}
