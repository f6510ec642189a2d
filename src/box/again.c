/*
 * Another life of a container that has ended: `trapeze start`.
 *
 * Its directory is all there is: what it has written ("upper", or the copy in "root"), its layers (image.json), the bundle
 * (config.json), and what of its options is not in the bundle (start.json). The network is joined anew, so the address may be another;
 * hosts and resolv.conf are written again, limits are those of its row, which `update` may have changed.
 */
#include "box/parts.h"
#include "container/sys.h"
#include "image/tree.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define FILE_OPTIONS "start.json"
#define FILE_BUNDLE  "config.json"
#define FILE_IMAGE   "image.json"
#define JSON_MAX     (4u << 20)

static json_t *read_json(const struct box *b, const char *name, struct error *e)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    int r = b->dir < 0 ? -ENOENT : sys_read_at(b->dir, name, JSON_MAX, &text, &size);
    json_t *j = r < 0 ? NULL : json_loadb(text, size, 0, NULL);
    if (json_is_object(j))
        return j;
    json_decref(j);
    error_set(e, r < 0 ? -r : EBADMSG, "%s/%s: %s; `trapeze rm` the container, and run it anew", b->data, name,
              r < 0 ? strerror(-r) : "is damaged");
    return NULL;
}

static int write_json(const struct box *b, const char *name, json_t *j, struct error *e)
{
    CLEANUP_FREE char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return text ? tree_write(b->dir, name, text, strlen(text), false, e)
                : error_set(e, EINVAL, "options: a text is no UTF-8");
}

static json_t *list_json(const struct box_list *l)
{
    json_t *j = json_array();
    for (int i = 0; i < l->n; i++)
        json_array_append_new(j, json_string(l->v[i]));
    return j;
}

int box_again_save(const struct box *b, const struct box_options *o, struct error *e)
{
    return write_json(b, FILE_OPTIONS,
                      json_pack("{s:s*,s:s*,s:b,s:b,s:o,s:o,s:o}", "network", o->network, "hostname", o->hostname,
                                "tty", o->tty, "interactive", o->interactive, "ports", list_json(&o->ports), "dns",
                                list_json(&o->dns), "hosts", list_json(&o->hosts)),
                      e);
}

/* Strings stay those of `j`. */
static struct box_list list_of(json_t *j, const char *name, const char **room, size_t max)
{
    struct box_list l = {.v = room};
    size_t i;
    json_t *v;
    json_array_foreach(json_object_get(j, name), i, v) if ((size_t)l.n < max && json_is_string(v)) room[l.n++] =
        json_string_value(v);
    return l;
}

static int load_layers(struct box_again *a, const struct box *b, struct error *e)
{
    size_t i;
    json_t *v, *j = read_json(b, FILE_IMAGE, e), *made = box_space_json(b);
    const char *root = json_string_value(json_object_get(made, "root"));
    a->overlay = root && !strcmp(root, "overlayfs");
    json_array_foreach(json_object_get(j, "layers"), i, v) if (a->n_layers < IMAGE_LAYERS_MAX)
        a->layers[a->n_layers++] = (u32)json_integer_value(v);
    int r = j ? 0 : -EBADMSG;
    json_decref(made);
    json_decref(j);
    return r;
}

int box_again_load(struct box_again *a, const struct box *b, struct error *e)
{
    json_t *j = a->json = read_json(b, FILE_OPTIONS, e);
    if (!j)
        return -EBADMSG;
    a->o = (struct box_options){.image = "",
                                .detach = true,
                                .tty = json_is_true(json_object_get(j, "tty")),
                                .interactive = json_is_true(json_object_get(j, "interactive")),
                                .network = json_string_value(json_object_get(j, "network")),
                                .hostname = json_string_value(json_object_get(j, "hostname")),
                                .again = b->id,
                                .ports = list_of(j, "ports", a->room[0], BOX_AGAIN_LIST),
                                .dns = list_of(j, "dns", a->room[1], BOX_AGAIN_LIST),
                                .hosts = list_of(j, "hosts", a->room[2], BOX_AGAIN_LIST)};
    int r = load_layers(a, b, e);
    return r < 0 ? r : box_net_check(&a->o, e);
}

void box_again_free(struct box_again *a)
{
    json_decref(a->json);
    a->json = NULL;
}

/* The limits that the row says. */
static void set_limits(json_t *config, const char *row)
{
    json_t *now = row ? json_loads(row, 0, NULL) : NULL;
    json_t *resources = json_object_get(json_object_get(config, "linux"), "resources");
    json_int_t memory = json_integer_value(json_object_get(now, "memory"));
    json_int_t cpus = json_integer_value(json_object_get(now, "cpus"));
    if (memory)
        json_object_set_new(resources, "memory", json_pack("{s:I}", "limit", memory));
    if (cpus)
        json_object_set_new(
            resources, "cpu",
            json_pack("{s:I,s:I}", "period", (json_int_t)BOX_CPU_PERIOD, "quota", cpus * BOX_CPU_PERIOD));
    json_decref(now);
}

int box_again_config(const struct box *b, const char *row, int network, u32 *uid, struct error *e)
{
    json_t *config = read_json(b, FILE_BUNDLE, e);
    if (!config)
        return -EBADMSG;
    *uid = (u32)json_integer_value(json_object_get(json_object_get(json_object_get(config, "process"), "user"), "uid"));
    set_limits(config, row);
    box_config_join(config, "network", network);
    return write_json(b, FILE_BUNDLE, config, e);
}
