/*
 * Manifests, indexes and configurations (image-spec 1.1), from anybody: text of bounded size, parsed by jansson, which bounds
 * its depth and here refuses keys that stand twice; every member that is used has its type, digests have their form, sizes
 * and numbers of layers their bounds. What is not used is not looked at, but kept byte for byte in the blob.
 */
#include "image/image.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *type, *packing;
} layer_types[] = {
    {TYPE_OCI_LAYER, ""},
    {TYPE_OCI_LAYER "+gzip", "gzip"},
    {TYPE_OCI_LAYER "+zstd", "zstd"},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar", ""},
    {"application/vnd.oci.image.layer.nondistributable.v1.tar+gzip", "gzip"},
    {"application/vnd.docker.image.rootfs.diff.tar", ""},
    {"application/vnd.docker.image.rootfs.diff.tar.gzip", "gzip"},
    {"application/vnd.docker.image.rootfs.diff.tar.zstd", "zstd"},
};

const char *image_layer_packing(const char *type)
{
    for (size_t i = 0; i < ARRAY_LEN(layer_types); i++)
        if (!strcmp(type, layer_types[i].type))
            return layer_types[i].packing;
    return NULL;
}

bool image_type_is_index(const char *type)
{
    return !strcmp(type, TYPE_OCI_INDEX) || !strcmp(type, TYPE_DOCKER_INDEX);
}

bool image_type_is_manifest(const char *type)
{
    return !strcmp(type, TYPE_OCI_MANIFEST) || !strcmp(type, TYPE_DOCKER_MANIFEST);
}

json_t *image_json(const char *text, size_t size, const char *what, struct error *e)
{
    json_error_t why;
    if (size > IMAGE_JSON_MAX) {
        error_set(e, EFBIG, "%s: %zu bytes; a document has %u at most", what, size, IMAGE_JSON_MAX);
        return NULL;
    }
    json_t *j = json_loadb(text, size, JSON_REJECT_DUPLICATES, &why);
    if (j && json_is_object(j))
        return j;
    error_set(e, EBADMSG, "%s: %s", what, j ? "is no object" : why.text);
    json_decref(j);
    return NULL;
}

const char *manifest_type(json_t *j)
{
    const char *type = json_string_value(json_object_get(j, "mediaType"));
    bool index = json_is_array(json_object_get(j, "manifests")), layers = json_is_array(json_object_get(j, "layers"));
    if (index == layers) /* both: what one reader takes for an index is a manifest to another (CVE-2021-41190) */
        return NULL;
    if (type)
        return (image_type_is_index(type) && index) || (image_type_is_manifest(type) && layers) ? type : NULL;
    return index ? TYPE_OCI_INDEX : TYPE_OCI_MANIFEST;
}

int image_descriptor_parse(struct image_descriptor *d, json_t *j, const char *what, struct error *e)
{
    const char *type = json_string_value(json_object_get(j, "mediaType"));
    const char *digest = json_string_value(json_object_get(j, "digest"));
    json_t *size = json_object_get(j, "size");
    memset(d, 0, sizeof(*d));
    if (!json_is_object(j) || !type || strlen(type) >= sizeof(d->type))
        return error_set(e, EBADMSG, "%s: mediaType is missing or too long", what);
    int r = digest_check(digest, what, e);
    if (r < 0)
        return r;
    if (!json_is_integer(size) || json_integer_value(size) < 0 || (u64)json_integer_value(size) > IMAGE_BLOB_MAX)
        return error_set(e, EBADMSG, "%s: size is missing, negative or above %llu", what,
                         (unsigned long long)IMAGE_BLOB_MAX);
    snprintf(d->type, sizeof(d->type), "%s", type);
    snprintf(d->digest, sizeof(d->digest), "%s", digest);
    d->size = (u64)json_integer_value(size);
    return 0;
}

json_t *image_descriptor_json(const struct image_descriptor *d)
{
    return json_pack("{s:s,s:s,s:I}", "mediaType", d->type, "digest", d->digest, "size", (json_int_t)d->size);
}

static int parse_layers(struct manifest *m, json_t *layers, struct error *e)
{
    size_t i;
    json_t *layer;
    if (json_array_size(layers) > IMAGE_LAYERS_MAX)
        return error_set(e, E2BIG, "manifest: %zu layers; %d are possible", json_array_size(layers), IMAGE_LAYERS_MAX);
    json_array_foreach(layers, i, layer)
    {
        char what[40];
        snprintf(what, sizeof(what), "manifest: layers[%zu]", i);
        int r = image_descriptor_parse(&m->layers[i], layer, what, e);
        if (r < 0)
            return r;
        if (!image_layer_packing(m->layers[i].type))
            return error_set(e, ENOTSUP, "%s: type %.80s is no layer of files (an artifact?)", what, m->layers[i].type);
        m->n_layers++;
    }
    return 0;
}

int manifest_parse(struct manifest *m, const char *text, size_t size, struct error *e)
{
    memset(m, 0, sizeof(*m));
    json_t *j = image_json(text, size, "manifest", e);
    if (!j)
        return -EBADMSG;
    const char *type = manifest_type(j);
    int r = 0;
    if (json_integer_value(json_object_get(j, "schemaVersion")) != 2)
        r = error_set(e, ENOTSUP, "manifest: schemaVersion is not 2; older ones have no digests of their layers");
    else if (!type || !image_type_is_manifest(type))
        r = error_set(e, EBADMSG, "manifest: is no image manifest by its mediaType and members");
    if (r == 0)
        r = image_descriptor_parse(&m->config, json_object_get(j, "config"), "manifest: config", e);
    if (r == 0 && strcmp(m->config.type, TYPE_OCI_CONFIG) && strcmp(m->config.type, TYPE_DOCKER_CONFIG))
        r = error_set(e, ENOTSUP, "manifest: config is of type %.80s: an artifact, not an image", m->config.type);
    if (r == 0)
        r = parse_layers(m, json_object_get(j, "layers"), e);
    json_decref(j);
    return r;
}

/* How well a platform fits: 0 not at all. This is an x86-64 program. */
static int fitness(json_t *platform)
{
    const char *os = json_string_value(json_object_get(platform, "os"));
    const char *arch = json_string_value(json_object_get(platform, "architecture"));
    const char *variant = json_string_value(json_object_get(platform, "variant"));
    if (!platform)
        return 1;
    if (!os || !arch || strcmp(os, "linux"))
        return 0;
    if (!strcmp(arch, "amd64"))
        return variant && strcmp(variant, "v1") ? 3 : 4; /* v2 and above: may need what this processor lacks */
    return !strcmp(arch, "386") ? 2 : 0;
}

int manifest_choose(const char *text, size_t size, struct image_descriptor *out, struct error *e)
{
    int best = 0, r = 0;
    size_t i;
    json_t *entry, *j = image_json(text, size, "index", e);
    if (!j)
        return -EBADMSG;
    const char *type = manifest_type(j);
    if (!type || !image_type_is_index(type))
        r = error_set(e, EBADMSG, "index: is none by its mediaType and members");
    json_array_foreach(json_object_get(j, "manifests"), i, entry)
    {
        struct image_descriptor d;
        int fit = fitness(json_object_get(entry, "platform"));
        if (r < 0 || fit <= best)
            continue;
        r = image_descriptor_parse(&d, entry, "index: manifests", e);
        if (r == 0 && (image_type_is_index(d.type) || image_type_is_manifest(d.type))) {
            best = fit;
            *out = d;
        }
    }
    json_decref(j);
    if (r == 0 && !best)
        r = error_set(e, ENOENT, "index: has no image for linux/amd64");
    return r;
}

/* "config": what a program of ours reads from it later must be of its type now. */
static int check_run(json_t *run, struct error *e)
{
    static const struct {
        const char *name;
        json_type type;
        bool strings; /* an array of them */
    } members[] = {
        {"User", JSON_STRING, false},       {"WorkingDir", JSON_STRING, false},
        {"StopSignal", JSON_STRING, false}, {"Env", JSON_ARRAY, true},
        {"Cmd", JSON_ARRAY, true},          {"Entrypoint", JSON_ARRAY, true},
        {"Shell", JSON_ARRAY, true},        {"Volumes", JSON_OBJECT, false},
        {"Labels", JSON_OBJECT, false},     {"ExposedPorts", JSON_OBJECT, false},
    };
    for (size_t i = 0; i < ARRAY_LEN(members); i++) {
        json_t *v = json_object_get(run, members[i].name), *item;
        size_t k;
        if (!v || json_is_null(v))
            continue;
        if (json_typeof(v) != members[i].type)
            return error_set(e, EBADMSG, "image configuration: config.%s is of a wrong type", members[i].name);
        json_array_foreach(v, k, item) if (members[i].strings && !json_is_string(item)) return error_set(
            e, EBADMSG, "image configuration: config.%s[%zu] is no string", members[i].name, k);
    }
    return 0;
}

static int parse_rootfs(struct image_config *c, struct error *e)
{
    json_t *rootfs = json_object_get(c->json, "rootfs"), *ids = json_object_get(rootfs, "diff_ids"), *id;
    const char *type = json_string_value(json_object_get(rootfs, "type"));
    size_t i;
    if (!type || strcmp(type, "layers") || !json_is_array(ids))
        return error_set(e, EBADMSG, "image configuration: rootfs.type is not \"layers\", or diff_ids are missing");
    if (json_array_size(ids) > IMAGE_LAYERS_MAX)
        return error_set(e, E2BIG, "image configuration: %zu layers; %d are possible", json_array_size(ids),
                         IMAGE_LAYERS_MAX);
    json_array_foreach(ids, i, id)
    {
        int r = digest_check(json_string_value(id), "image configuration: rootfs.diff_ids", e);
        if (r < 0)
            return r;
        c->diff_ids[c->n_layers++] = json_string_value(id);
    }
    return 0;
}

int image_config_parse(struct image_config *c, const char *text, size_t size, struct error *e)
{
    memset(c, 0, sizeof(*c));
    c->json = image_json(text, size, "image configuration", e);
    if (!c->json)
        return -EBADMSG;
    c->os = json_string_value(json_object_get(c->json, "os"));
    c->architecture = json_string_value(json_object_get(c->json, "architecture"));
    c->created = json_string_value(json_object_get(c->json, "created"));
    c->run = json_object_get(c->json, "config");
    if (!c->run || json_is_null(c->run)) {
        json_object_set_new(c->json, "config", json_object());
        c->run = json_object_get(c->json, "config");
    }
    int r = json_is_object(c->run) ? check_run(c->run, e)
                                   : error_set(e, EBADMSG, "image configuration: config is no object");
    if (r == 0)
        r = parse_rootfs(c, e);
    if (r == 0 && c->os && strcmp(c->os, "linux"))
        r = error_set(e, ENOTSUP, "image: is for %.30s, not for linux", c->os);
    if (r == 0 && c->architecture && strcmp(c->architecture, "amd64") && strcmp(c->architecture, "386"))
        r = error_set(e, ENOTSUP, "image: is for processors of type %.30s, not for amd64", c->architecture);
    return r;
}

void image_config_free(struct image_config *c)
{
    json_decref(c->json);
    c->json = NULL;
}
