/* The top of config.json: version, root, mounts, hooks; process and linux have files of their own. */
#include "container/spec.h"

#include <errno.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

struct spec_id_maps spec_read_id_maps(struct reader *r, const struct node *up, const char *name)
{
    struct node list, n;
    struct spec_id_maps maps;
    maps.v = read_list(r, up, name, sizeof(*maps.v), &list, &maps.n);
    for (size_t i = 0; i < maps.n && read_element(r, &list, i, &n); i++) {
        struct spec_id_map *m = &maps.v[i];
        m->inside = (u32)read_needed_u64(r, &n, "containerID", UINT32_MAX);
        m->outside = (u32)read_needed_u64(r, &n, "hostID", UINT32_MAX);
        m->size = (u32)read_needed_u64(r, &n, "size", UINT32_MAX);
        if (!m->size || (u64)m->inside + m->size > UINT32_MAX + 1ull || (u64)m->outside + m->size > UINT32_MAX + 1ull)
            reader_wrong(r, &n, "size", "the range is empty, or goes beyond 2^32");
    }
    return maps;
}

static void read_mounts(struct reader *r, const struct node *top, struct spec *s)
{
    struct node list, n;
    s->mounts = read_list(r, top, "mounts", sizeof(*s->mounts), &list, &s->n_mounts);
    for (size_t i = 0; i < s->n_mounts && read_element(r, &list, i, &n); i++) {
        struct spec_mount *m = &s->mounts[i];
        m->destination = read_needed(r, &n, "destination");
        m->type = read_string(r, &n, "type");
        m->source = read_string(r, &n, "source");
        m->options = read_strings(r, &n, "options");
        m->uid_maps = spec_read_id_maps(r, &n, "uidMappings");
        m->gid_maps = spec_read_id_maps(r, &n, "gidMappings");
        if (!m->uid_maps.n != !m->gid_maps.n)
            reader_wrong(r, &n, NULL, "uidMappings and gidMappings go together");
    }
}

static void read_hooks(struct reader *r, const struct node *top, struct spec *s)
{
    struct node all, list, n;
    if (!read_object(r, top, "hooks", &all))
        return;
    for (const struct word *w = spec_hook_words; w->name; w++) {
        struct spec_hooks *hooks = &s->hooks[w->value];
        hooks->v = read_list(r, &all, w->name, sizeof(*hooks->v), &list, &hooks->n);
        for (size_t i = 0; i < hooks->n && read_element(r, &list, i, &n); i++) {
            struct spec_hook *h = &hooks->v[i];
            h->path = read_needed(r, &n, "path");
            if (h->path && h->path[0] != '/')
                reader_wrong(r, &n, "path", "\"%.100s\" is not absolute", h->path);
            h->args = read_strings(r, &n, "args");
            h->env = read_strings(r, &n, "env");
            h->has_env = h->env.v != NULL;
            struct opt_u64 timeout = read_u64(r, &n, "timeout", 1000000);
            if (timeout.set && !timeout.v)
                reader_wrong(r, &n, "timeout", "is 0; leave it out for none");
            h->timeout = (u32)timeout.v;
        }
    }
}

/* Versions 1.x are served; what a later 1.x adds and we do not know, the specification says to ignore. */
static void read_version(struct reader *r, const struct node *top, struct spec *s)
{
    s->version = read_needed(r, top, "ociVersion");
    if (s->version && strncmp(s->version, "1.", 2))
        reader_wrong(r, top, "ociVersion", "\"%.40s\" is not served, only 1.x", s->version);
}

static void read_top(struct reader *r, const struct node *top, struct spec *s)
{
    struct node n;
    read_version(r, top, s);
    if (read_object(r, top, "vm", &n))
        error_set(r->e, ENOTSUP, "%s: vm: not implemented: running a bundle in a micro-VM", r->file);
    if (read_object(r, top, "root", &n)) {
        s->root_path = read_needed(r, &n, "path");
        s->root_readonly = read_bool(r, &n, "readonly", false);
    } else {
        reader_wrong(r, top, "root", "is missing");
    }
    if (read_object(r, top, "process", &n)) {
        s->has_process = true;
        spec_read_process(r, &n, &s->process);
    }
    s->hostname = read_string(r, top, "hostname");
    s->domainname = read_string(r, top, "domainname");
    read_mounts(r, top, s);
    read_hooks(r, top, s);
    s->annotations = read_map(r, top, "annotations");
    if (read_object(r, top, "linux", &n))
        spec_read_linux(r, &n, s);
}

/* What one field demands of another. */
static void check_top(struct reader *r, const struct node *top, const struct spec *s)
{
    if (s->hostname && !spec_namespace(s, CLONE_NEWUTS))
        reader_wrong(r, top, "hostname", "needs a namespace of type uts in linux.namespaces");
    if (s->domainname && !spec_namespace(s, CLONE_NEWUTS))
        reader_wrong(r, top, "domainname", "needs a namespace of type uts in linux.namespaces");
    if (s->n_mounts && !spec_namespace(s, CLONE_NEWNS))
        reader_wrong(r, top, "mounts", "need a namespace of type mount in linux.namespaces");
}

static int parse_object(json_t **json, const char *text, size_t size, const char *file, struct error *e)
{
    *json = reader_parse(text, size, file, e);
    if (!*json)
        return -EINVAL;
    if (!json_is_object(*json))
        return error_set(e, EINVAL, "%s: is no JSON object", file);
    return 0;
}

int spec_parse(struct spec *s, const char *text, size_t size, struct error *e)
{
    struct error mine = {0};
    memset(s, 0, sizeof(*s));
    int r = parse_object(&s->json, text, size, "config.json", e);
    if (r < 0)
        return r;
    struct reader reader = {.file = "config.json", .arena = &s->arena, .e = &mine};
    struct node top = {.json = s->json};
    read_top(&reader, &top, s);
    check_top(&reader, &top, s);
    return mine.code ? error_set(e, mine.code, "%s", mine.msg) : 0;
}

void spec_free(struct spec *s)
{
    json_decref(s->json);
    arena_free(&s->arena);
    memset(s, 0, sizeof(*s));
}

int spec_parse_process(struct spec_process *p, json_t **json, struct arena *arena, const char *text, size_t size,
                       struct error *e)
{
    struct error mine = {0};
    memset(p, 0, sizeof(*p));
    int r = parse_object(json, text, size, "process", e);
    if (r < 0)
        return r;
    struct reader reader = {.file = "process", .arena = arena, .e = &mine};
    struct node top = {.json = *json};
    spec_read_process(&reader, &top, p);
    return mine.code ? error_set(e, mine.code, "%s", mine.msg) : 0;
}

int spec_parse_resources(struct spec_resources *res, json_t **json, struct arena *arena, const char *text, size_t size,
                         struct error *e)
{
    struct error mine = {0};
    memset(res, 0, sizeof(*res));
    int r = parse_object(json, text, size, "resources", e);
    if (r < 0)
        return r;
    struct reader reader = {.file = "resources", .arena = arena, .e = &mine};
    struct node top = {.json = *json};
    spec_read_resources(&reader, &top, res);
    return mine.code ? error_set(e, mine.code, "%s", mine.msg) : 0;
}

const struct spec_namespace *spec_namespace(const struct spec *s, u64 flag)
{
    for (size_t i = 0; i < s->n_namespaces; i++)
        if (s->namespaces[i].flag == flag)
            return &s->namespaces[i];
    return NULL;
}

const char *spec_annotation(const struct spec *s, const char *name)
{
    for (size_t i = 0; i + 1 < s->annotations.n; i += 2)
        if (!strcmp(s->annotations.v[i], name))
            return s->annotations.v[i + 1];
    return NULL;
}
