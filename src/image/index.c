/* Names: rows of index.json, changed whole under a lock of their own. */
#include "image/image.h"
#include "image/tree.h"
#include "container/sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define NAME_KEY  "org.opencontainers.image.ref.name"
#define INDEX_MAX (64u << 20)

static const char *row_name(json_t *row)
{
    const char *name = json_string_value(json_object_get(json_object_get(row, "annotations"), NAME_KEY));
    return name ? name : "";
}

static const char *row_digest(json_t *row)
{
    const char *digest = json_string_value(json_object_get(row, "digest"));
    return digest ? digest : "";
}

json_t *image_index(const struct image_store *s, struct error *e)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    int r = sys_read_at(s->dir, "index.json", INDEX_MAX, &text, &size);
    json_t *j = r == 0 ? json_loadb(text, size, 0, NULL) : NULL;
    if (j && json_is_array(json_object_get(j, "manifests")))
        return j;
    if (r < 0)
        error_set(e, -r, "%s/index.json: %s", s->path, strerror(-r));
    else
        error_set(e, EBADMSG, "%s/index.json: is damaged; `trapeze image verify` can not help, restore or remove it",
                  s->path);
    json_decref(j);
    return NULL;
}

/* Change the rows by `change` and write them. */
static int update(const struct image_store *s, int (*change)(json_t *rows, void *arg, struct error *e), void *arg,
                  struct error *e)
{
    CLEANUP_FD int lock = tree_lock(s->dir, "index.lock", true, true, e);
    if (lock < 0)
        return lock;
    json_t *j = image_index(s, e);
    if (!j)
        return -EBADMSG;
    int r = change(json_object_get(j, "manifests"), arg, e);
    CLEANUP_FREE char *text = r == 0 ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (r == 0 && !text)
        return error_set(e, ENOMEM, "out of memory");
    return r < 0 ? r : tree_write(s->dir, "index.json", text, strlen(text), true, e);
}

struct tagging {
    const char *name;
    const struct image_descriptor *top;
};

static bool digest_has_row(json_t *rows, const char *digest)
{
    size_t i;
    json_t *row;
    json_array_foreach(rows, i, row) if (!strcmp(row_digest(row), digest)) return true;
    return false;
}

static int tag_row(json_t *rows, void *arg, struct error *e)
{
    const struct tagging *t = arg;
    json_t *row;
    size_t i;
    for (i = json_array_size(rows); i-- > 0;) {
        row = json_array_get(rows, i);
        bool same = !strcmp(row_digest(row), t->top->digest);
        if ((t->name && !strcmp(row_name(row), t->name)) || (same && !row_name(row)[0]))
            json_array_remove(rows, i);
    }
    if (!t->name && digest_has_row(rows, t->top->digest))
        return 0;
    row = image_descriptor_json(t->top);
    if (t->name)
        json_object_set_new(row, "annotations", json_pack("{s:s}", NAME_KEY, t->name));
    return json_array_append_new(rows, row) < 0 ? error_set(e, ENOMEM, "out of memory") : 0;
}

int image_tag(const struct image_store *s, const char *name, const struct image_descriptor *top, struct error *e)
{
    struct tagging t = {.name = name, .top = top};
    return update(s, tag_row, &t, e);
}

static int untag_row(json_t *rows, void *arg, struct error *e)
{
    const char *name = arg;
    size_t before = json_array_size(rows);
    for (size_t i = before; i-- > 0;)
        if (!strcmp(row_name(json_array_get(rows, i)), name))
            json_array_remove(rows, i);
    return json_array_size(rows) < before ? 0 : error_set(e, ENOENT, "image %s: no such image", name);
}

int image_untag(const struct image_store *s, const char *name, struct error *e)
{
    return update(s, untag_row, (void *)name, e);
}

static int forget_rows(json_t *rows, void *arg, struct error *e)
{
    for (size_t i = json_array_size(rows); i-- > 0;)
        if (!strcmp(row_digest(json_array_get(rows, i)), arg))
            json_array_remove(rows, i);
    return 0;
}

int image_forget(const struct image_store *s, const char *digest, struct error *e)
{
    return update(s, forget_rows, (void *)digest, e);
}

int image_read(const struct image_store *s, const struct image_descriptor *top, struct image *out, struct error *e)
{
    CLEANUP_FREE char *text = NULL, *config = NULL;
    size_t size;
    memset(out, 0, sizeof(*out));
    out->top = *top;
    int r = image_read_blob(s, top->digest, top->size, &text, &size, e);
    if (r == 0)
        r = manifest_parse(&out->manifest, text, size, e);
    if (r == 0)
        r = image_read_blob(s, out->manifest.config.digest, out->manifest.config.size, &config, &size, e);
    if (r == 0)
        r = image_config_parse(&out->config, config, size, e);
    if (r == 0 && out->config.n_layers != out->manifest.n_layers)
        r = error_set(e, EBADMSG, "%s: manifest and configuration disagree: %zu and %zu layers", top->digest,
                      out->manifest.n_layers, out->config.n_layers);
    if (r < 0)
        image_free(out);
    return r;
}

void image_free(struct image *i)
{
    image_config_free(&i->config);
}

/* How a row answers to what somebody typed: 0 not, 1 by a beginning of its id, 2 for certain. */
static int answers(const struct image_store *s, json_t *row, const char *typed, const char *full)
{
    struct image_descriptor top;
    struct image i;
    if (!strcmp(row_name(row), full) && *full)
        return 2;
    if (!strcmp(row_digest(row), typed))
        return 2;
    const char *hex = !strncmp(typed, "sha256:", 7) ? typed + 7 : typed;
    if (strlen(hex) < 4 || strspn(hex, "0123456789abcdef") != strlen(hex) ||
        image_descriptor_parse(&top, row, "index.json", NULL) < 0 || image_read(s, &top, &i, NULL) < 0)
        return 0;
    bool fits = !strncmp(i.manifest.config.digest + 7, hex, strlen(hex));
    image_free(&i);
    return fits;
}

/* NAME@DIGEST without a row of that name: any row with the digest. */
static const char *digest_part(const char *typed)
{
    const char *at = strchr(typed, '@');
    return at ? at + 1 : typed;
}

int image_find(const struct image_store *s, const char *name, struct image *out, struct error *e)
{
    struct reference ref;
    char full[REFERENCE_TEXT] = "", first[DIGEST_TEXT] = "";
    json_t *row, *hit = NULL;
    size_t i;
    int best = 0;
    bool several = false;
    json_t *index = image_index(s, e);
    if (!index)
        return -EBADMSG;
    if (reference_parse(&ref, name, NULL) == 0)
        reference_full(&ref, full);
    json_array_foreach(json_object_get(index, "manifests"), i, row)
    {
        /* The name goes before an id that begins the same. */
        if (best == 2)
            break;
        int fits = answers(s, row, digest_part(name), full);
        several |= fits == 1 && best == 1 && strcmp(first, row_digest(row)) != 0;
        if (fits > best) {
            best = fits;
            hit = row;
            snprintf(first, sizeof(first), "%s", row_digest(row));
        }
    }
    struct image_descriptor top;
    int r =
        !hit                   ? error_set(e, ENOENT,
                                           "image %.100s: no such image here; `trapeze image pull`, `load` or `import` brings one", name)
        : best == 1 && several ? error_set(e, EINVAL, "image %.100s: several ids begin with it; give more of it", name)
                               : image_descriptor_parse(&top, hit, "index.json", e);
    if (r == 0)
        r = image_read(s, &top, out, e);
    if (r == 0)
        snprintf(out->name, sizeof(out->name), "%s", row_name(hit));
    json_decref(index);
    return r;
}

static json_t *list_row(const struct image_store *s, json_t *row)
{
    struct image_descriptor top;
    struct image i;
    u64 size = 0;
    if (image_descriptor_parse(&top, row, "index.json", NULL) < 0)
        return NULL;
    if (image_read(s, &top, &i, NULL) < 0)
        return json_pack("{s:s,s:s,s:s,s:I,s:b}", "name", row_name(row), "id", "", "digest", top.digest, "size",
                         (json_int_t)0, "damaged", true);
    for (size_t k = 0; k < i.manifest.n_layers; k++)
        size += i.manifest.layers[k].size;
    json_t *j =
        json_pack("{s:s,s:s,s:s,s:I,s:I,s:s}", "name", row_name(row), "id", i.manifest.config.digest + 7, "digest",
                  top.digest, "size", (json_int_t)(size + i.manifest.config.size + top.size), "layers",
                  (json_int_t)i.manifest.n_layers, "created", i.config.created ? i.config.created : "");
    image_free(&i);
    return j;
}

json_t *image_list(const struct image_store *s, struct error *e)
{
    json_t *row, *index = image_index(s, e), *list = index ? json_array() : NULL;
    size_t i;
    json_array_foreach(json_object_get(index, "manifests"), i, row)
    {
        json_t *line = list_row(s, row);
        if (line)
            json_array_append_new(list, line);
    }
    json_decref(index);
    return list;
}

static int put_json(const struct image_store *s, json_t *j, const char *type, struct image_descriptor *d,
                    struct error *e)
{
    CLEANUP_FREE char *text = j ? json_dumps(j, JSON_COMPACT | JSON_SORT_KEYS) : NULL;
    if (!text)
        return error_set(e, ENOMEM, "out of memory");
    snprintf(d->type, sizeof(d->type), "%s", type);
    d->size = strlen(text);
    return image_put_blob(s, text, strlen(text), d->digest, e);
}

int image_make(const struct image_store *s, const char *name, json_t *config, const struct image_descriptor *layers,
               size_t n, struct image_descriptor *top, struct error *e)
{
    struct image_descriptor c;
    int r = put_json(s, config, TYPE_OCI_CONFIG, &c, e);
    if (r < 0)
        return r;
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        json_array_append_new(list, image_descriptor_json(&layers[i]));
    json_t *m = json_pack("{s:i,s:s,s:o,s:o}", "schemaVersion", 2, "mediaType", TYPE_OCI_MANIFEST, "config",
                          image_descriptor_json(&c), "layers", list);
    r = put_json(s, m, TYPE_OCI_MANIFEST, top, e);
    json_decref(m);
    return r < 0 ? r : image_tag(s, name, top, e);
}
