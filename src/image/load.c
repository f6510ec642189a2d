/*
 * Archives with images: docker-archive (manifest.json and files that it names) and oci-archive (a layout). Read as a stream,
 * once: every file becomes a blob as it comes, and what the documents make of them is looked at when all are there. What is
 * not named is garbage.
 */
#include "image/tarlib.h"
#include "image/image.h"
#include "image/layer.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define FILES_MAX 20000

struct load {
    struct archive_library lib;
    const struct image_store *store;
    struct archive *in;
    json_t *files;          /* path: {digest, size}, or the path that a link leads to */
    char *manifest, *index; /* texts */
    size_t manifest_size, index_size;
    void (*emit)(void *arg, const char *name);
    void *arg;
    u32 n;
    u64 bytes; /* of all blobs */
    struct error *e;
};

/* "a/./b", "a/x/../b" to "a/b"; false when it leads out. */
static bool clean(const char *raw, const char *below, char out[PATH_MAX])
{
    size_t n = 0;
    const char *slash = below ? strrchr(below, '/') : NULL;
    if (slash) {
        n = (size_t)(slash - below);
        memcpy(out, below, n);
    }
    for (const char *p = raw; *p;) {
        size_t len = strcspn(p, "/");
        if (len == 2 && !memcmp(p, "..", 2)) {
            if (!n)
                return false;
            while (n && out[--n] != '/')
                ;
        } else if (len && !(len == 1 && *p == '.')) {
            if (n + len + 2 > PATH_MAX)
                return false;
            if (n)
                out[n++] = '/';
            memcpy(out + n, p, len);
            n += len;
        }
        p += len + (p[len] == '/');
    }
    out[n] = 0;
    return n > 0;
}

static int broken(struct load *l)
{
    return error_set(l->e, EBADMSG, "archive: %s", l->lib.archive_error_string(l->in));
}

static int read_text(struct load *l, char **text, size_t *size)
{
    free(*text);
    *size = 0;
    *text = malloc(IMAGE_JSON_MAX + 1);
    if (!*text)
        return error_set(l->e, ENOMEM, "out of memory");
    for (;;) {
        ssize_t n = l->lib.archive_read_data(l->in, *text + *size, IMAGE_JSON_MAX + 1 - *size);
        if (n < 0)
            return broken(l);
        if (n == 0)
            return 0;
        *size += (size_t)n;
        if (*size > IMAGE_JSON_MAX)
            return error_set(l->e, EFBIG, "archive: a document of more than %u bytes", IMAGE_JSON_MAX);
    }
}

/* The digest that a path of an OCI layout promises, or NULL. */
static const char *promised(const char *path, char out[DIGEST_TEXT])
{
    if (strncmp(path, "blobs/sha", 9) || strlen(path + 6) >= DIGEST_TEXT)
        return NULL;
    snprintf(out, DIGEST_TEXT, "%s", path + 6);
    char *slash = strchr(out, '/');
    if (!slash)
        return NULL;
    *slash = ':';
    return digest_valid(out) ? out : NULL;
}

static int read_blob(struct load *l, const char *path)
{
    u8 buffer[1 << 16];
    char digest[DIGEST_TEXT];
    struct ingest in;
    ssize_t n;
    int r = ingest_begin(&in, l->store, promised(path, digest), IMAGE_BLOB_MAX - l->bytes, false, l->e);
    if (r < 0)
        return r;
    while (r == 0 && (n = l->lib.archive_read_data(l->in, buffer, sizeof(buffer))) != 0)
        r = n < 0 ? broken(l) : ingest_add(&in, buffer, (size_t)n, l->e);
    if (r < 0) {
        ingest_abort(&in, false);
        return r;
    }
    u64 size = in.size;
    l->bytes += size;
    r = ingest_commit(&in, ~0ull, digest, l->e);
    if (r == 0)
        json_object_set_new(l->files, path, json_pack("{s:s,s:I}", "digest", digest, "size", (json_int_t)size));
    return r;
}

static int take(struct load *l, struct archive_entry *entry)
{
    char path[PATH_MAX], target[PATH_MAX];
    const char *raw = l->lib.archive_entry_pathname(entry), *link = l->lib.archive_entry_symlink(entry);
    if (!raw || !clean(raw, NULL, path))
        return 0;
    if (++l->n > FILES_MAX)
        return error_set(l->e, EFBIG, "archive: more than %d files: refused", FILES_MAX);
    const char *hard = l->lib.archive_entry_hardlink(entry);
    if (hard || l->lib.archive_entry_filetype(entry) == AE_IFLNK) {
        if ((hard && clean(hard, NULL, target)) || (link && clean(link, path, target)))
            json_object_set_new(l->files, path, json_string(target));
        return 0;
    }
    if (l->lib.archive_entry_filetype(entry) != AE_IFREG || !strcmp(path, "oci-layout") ||
        !strcmp(path, "repositories"))
        return 0;
    if (!strcmp(path, "manifest.json"))
        return read_text(l, &l->manifest, &l->manifest_size);
    if (!strcmp(path, "index.json"))
        return read_text(l, &l->index, &l->index_size);
    return read_blob(l, path);
}

static int read_all(struct load *l, int fd)
{
    struct archive_entry *entry;
    int r;
    l->in = l->lib.archive_read_new();
    if (!l->in)
        return error_set(l->e, ENOMEM, "out of memory");
    l->lib.archive_read_support_filter_gzip(l->in);
    l->lib.archive_read_support_filter_zstd(l->in);
    l->lib.archive_read_support_format_tar(l->in);
    if (l->lib.archive_read_open_fd(l->in, fd, 1 << 16) != ARCHIVE_OK)
        return broken(l);
    while ((r = l->lib.archive_read_next_header(l->in, &entry)) == ARCHIVE_OK || r == ARCHIVE_WARN)
        if ((r = take(l, entry)) < 0)
            return r;
    return r == ARCHIVE_EOF ? 0 : broken(l);
}

/* --- docker-archive --- */

/* The blob that a path of the archive became, through two links at most. */
static int find_file(struct load *l, const char *raw, struct image_descriptor *d)
{
    char path[PATH_MAX];
    json_t *f = raw && clean(raw, NULL, path) ? json_object_get(l->files, path) : NULL;
    for (int i = 0; i < 2 && json_is_string(f); i++)
        f = json_object_get(l->files, json_string_value(f));
    if (!json_is_object(f))
        return error_set(l->e, ENOENT, "archive: manifest.json names \"%.100s\", which is not in it", raw ? raw : "");
    memset(d, 0, sizeof(*d));
    snprintf(d->digest, sizeof(d->digest), "%s", json_string_value(json_object_get(f, "digest")));
    d->size = (u64)json_integer_value(json_object_get(f, "size"));
    return 0;
}

/* The type of a layer by its first bytes. */
static int sniff(struct load *l, struct image_descriptor *d)
{
    u8 head[4] = {0};
    CLEANUP_FD int fd = image_open_blob(l->store, d->digest, l->e);
    if (fd < 0)
        return fd;
    ssize_t n = read(fd, head, sizeof(head));
    bool gzip = n >= 2 && head[0] == 0x1f && head[1] == 0x8b, zstd = n == 4 && !memcmp(head, "\x28\xb5\x2f\xfd", 4);
    snprintf(d->type, sizeof(d->type), TYPE_OCI_LAYER "%s", gzip ? "+gzip" : zstd ? "+zstd" : "");
    return 0;
}

static int name_image(struct load *l, const char *raw, const struct image_descriptor *top)
{
    struct reference ref;
    char full[REFERENCE_TEXT];
    int r = raw ? reference_parse(&ref, raw, l->e) : 0;
    if (r == 0 && raw && ref.digest[0]) /* a digest is what something is, not what somebody calls it */
        r = error_set(l->e, EINVAL, "archive: an image is named \"%.200s\": a name with a digest, refused", raw);
    if (r < 0)
        return r;
    if (raw)
        reference_full(&ref, full);
    r = image_tag(l->store, raw ? full : NULL, top, l->e);
    if (r == 0 && l->emit)
        l->emit(l->arg, raw ? full : top->digest);
    return r;
}

static int load_docker_image(struct load *l, json_t *entry)
{
    struct image_descriptor c, layers[IMAGE_LAYERS_MAX], top;
    json_t *names = json_object_get(entry, "RepoTags"), *list = json_object_get(entry, "Layers"), *v;
    CLEANUP_FREE char *text = NULL;
    size_t i, size;
    if (json_array_size(list) > IMAGE_LAYERS_MAX)
        return error_set(l->e, E2BIG, "archive: %zu layers; %d are possible", json_array_size(list), IMAGE_LAYERS_MAX);
    int r = find_file(l, json_string_value(json_object_get(entry, "Config")), &c);
    json_array_foreach(list, i, v)
    {
        if (r == 0)
            r = find_file(l, json_string_value(v), &layers[i]);
        if (r == 0)
            r = sniff(l, &layers[i]);
    }
    if (r == 0)
        r = image_read_blob(l->store, c.digest, c.size, &text, &size, l->e);
    json_t *config = r == 0 ? image_json(text, size, "archive: configuration", l->e) : NULL;
    if (r < 0 || !config)
        return r < 0 ? r : -EBADMSG;
    struct image read;
    const char *first = json_string_value(json_array_get(names, 0));
    json_decref(config);
    /* The configuration stays as it is, byte for byte: its digest is the image's id. */
    snprintf(c.type, sizeof(c.type), "%s", TYPE_OCI_CONFIG);
    json_t *m = json_pack("{s:i,s:s,s:o,s:[]}", "schemaVersion", 2, "mediaType", TYPE_OCI_MANIFEST, "config",
                          image_descriptor_json(&c), "layers");
    for (i = 0; i < json_array_size(list); i++)
        json_array_append_new(json_object_get(m, "layers"), image_descriptor_json(&layers[i]));
    CLEANUP_FREE char *manifest = json_dumps(m, JSON_COMPACT | JSON_SORT_KEYS);
    json_decref(m);
    snprintf(top.type, sizeof(top.type), "%s", TYPE_OCI_MANIFEST);
    top.size = manifest ? strlen(manifest) : 0;
    r = manifest ? image_put_blob(l->store, manifest, top.size, top.digest, l->e)
                 : error_set(l->e, ENOMEM, "out of memory");
    if (r == 0)
        r = image_read(l->store, &top, &read, l->e);
    if (r < 0)
        return r;
    image_free(&read);
    if (!first)
        return name_image(l, NULL, &top);
    json_array_foreach(names, i, v) if (r == 0) r = name_image(l, json_string_value(v), &top);
    return r;
}

static int load_docker(struct load *l)
{
    json_error_t why;
    json_t *entry, *j = json_loadb(l->manifest, l->manifest_size, JSON_REJECT_DUPLICATES, &why);
    size_t i;
    int r = json_is_array(j) && json_array_size(j)
                ? 0
                : error_set(l->e, EBADMSG, "archive: manifest.json: %s", j ? "is no array of images" : why.text);
    json_array_foreach(j, i, entry) if (r == 0) r = load_docker_image(l, entry);
    json_decref(j);
    return r;
}

/* --- oci-archive --- */

/* From an index to the manifest for this host. */
static int descend(struct load *l, struct image_descriptor *d)
{
    for (int depth = 0; image_type_is_index(d->type); depth++) {
        CLEANUP_FREE char *text = NULL;
        size_t size;
        if (depth >= IMAGE_NESTING_MAX)
            return error_set(l->e, ELOOP, "archive: indexes are nested more than %d deep", IMAGE_NESTING_MAX);
        int r = image_read_blob(l->store, d->digest, d->size, &text, &size, l->e);
        if (r == 0)
            r = manifest_choose(text, size, d, l->e);
        if (r < 0)
            return r;
    }
    return 0;
}

static int check_layers(struct load *l, const struct image_descriptor *top)
{
    struct image i;
    int r = image_read(l->store, top, &i, l->e);
    if (r < 0)
        return r;
    for (size_t k = 0; r == 0 && k < i.manifest.n_layers; k++)
        r = image_check_size(l->store, &i.manifest.layers[k], l->e);
    image_free(&i);
    return r;
}

static int load_layout(struct load *l)
{
    json_t *row, *j = image_json(l->index, l->index_size, "archive: index.json", l->e);
    size_t i;
    int r = j ? 0 : -EBADMSG;
    json_array_foreach(json_object_get(j, "manifests"), i, row)
    {
        struct image_descriptor d;
        json_t *notes = json_object_get(row, "annotations");
        const char *name = json_string_value(json_object_get(notes, "io.containerd.image.name"));
        if (!name)
            name = json_string_value(json_object_get(notes, "org.opencontainers.image.ref.name"));
        if (r == 0)
            r = image_descriptor_parse(&d, row, "archive: index.json", l->e);
        if (r == 0)
            r = descend(l, &d);
        if (r == 0)
            r = check_layers(l, &d);
        /* A bare word is a tag (image-layout.md) without the name that it belongs to. */
        if (r == 0)
            r = name_image(l, name && strpbrk(name, ":/") ? name : NULL, &d);
    }
    json_decref(j);
    return r;
}

int image_load(const struct image_store *s, int fd, void (*emit)(void *arg, const char *name), void *arg,
               struct error *e)
{
    struct load l = {.store = s, .emit = emit, .arg = arg, .e = e, .files = json_object()};
    int r = archive_library(&l.lib, e);
    if (r == 0)
        r = read_all(&l, fd);
    if (r == 0)
        r = l.manifest ? load_docker(&l)
            : l.index  ? load_layout(&l)
                       : error_set(e, EBADMSG,
                                   "archive: holds no image: neither manifest.json nor index.json; for a root "
                                    "file system use `trapeze image import`");
    if (l.in)
        l.lib.archive_read_free(l.in);
    free(l.manifest);
    free(l.index);
    json_decref(l.files);
    return r;
}

/* --- a root file system --- */

/* Its bytes as a blob; packed or not, as it came. */
static int take_tar(const struct image_store *s, int fd, struct image_descriptor *d, struct error *e)
{
    u8 buffer[1 << 16];
    struct ingest in;
    ssize_t n = 0;
    int r = ingest_begin(&in, s, NULL, IMAGE_BLOB_MAX, false, e);
    if (r < 0)
        return r;
    while (r == 0 && (n = read(fd, buffer, sizeof(buffer))) > 0)
        r = ingest_add(&in, buffer, (size_t)n, e);
    if (r == 0 && n < 0)
        r = sys_error(e, "archive");
    if (r < 0) {
        ingest_abort(&in, false);
        return r;
    }
    d->size = in.size;
    return ingest_commit(&in, ~0ull, d->digest, e);
}

/* Unpack it once for its digest, and for what is wrong with it. The directory goes again: `run` makes it anew. */
static int digest_tar(const struct image_store *s, const struct image_descriptor *d, char diff_id[DIGEST_TEXT],
                      struct error *e)
{
    u8 buffer[1 << 16];
    struct archive_library lib;
    struct archive_entry *entry;
    struct digester digest;
    u64 bytes = 0;
    ssize_t n = 0;
    CLEANUP_FD int fd = image_open_blob(s, d->digest, e);
    int r = fd < 0 ? fd : archive_library(&lib, e);
    if (r < 0)
        return r;
    struct archive *a = lib.archive_read_new();
    digester_begin(&digest, NULL);
    lib.archive_read_support_filter_gzip(a);
    lib.archive_read_support_filter_zstd(a);
    lib.archive_read_support_format_raw(a);
    if (lib.archive_read_open_fd(a, fd, sizeof(buffer)) != ARCHIVE_OK ||
        lib.archive_read_next_header(a, &entry) != ARCHIVE_OK)
        r = error_set(e, EBADMSG, "archive: %s", lib.archive_error_string(a));
    while (r == 0 && (n = lib.archive_read_data(a, buffer, sizeof(buffer))) > 0) {
        digester_add(&digest, buffer, (size_t)n);
        if ((bytes += (u64)n) > s->layer_bytes_max)
            r = error_set(e, EFBIG, "archive: unpacks to more than %llu bytes: refused",
                          (unsigned long long)s->layer_bytes_max);
    }
    if (r == 0 && n < 0)
        r = error_set(e, EBADMSG, "archive: %s", lib.archive_error_string(a));
    digester_end(&digest, diff_id);
    lib.archive_read_free(a);
    return r;
}

int image_import(const struct image_store *s, int fd, const char *name, json_t *changes, struct image_descriptor *top,
                 struct error *e)
{
    struct load l = {.store = s, .e = e};
    struct image_descriptor layer = {0};
    struct image made;
    char diff_id[DIGEST_TEXT], created[32];
    time_t now = time(NULL);
    struct tm tm;
    strftime(created, sizeof(created), "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &tm));
    int r = take_tar(s, fd, &layer, e);
    if (r == 0)
        r = sniff(&l, &layer);
    if (r == 0)
        r = digest_tar(s, &layer, diff_id, e);
    if (r < 0)
        return r;
    json_t *config = json_pack("{s:s,s:s,s:s,s:O,s:{s:s,s:[s]},s:[{s:s,s:s}]}", "created", created, "architecture",
                               "amd64", "os", "linux", "config", changes ? changes : json_object(), "rootfs", "type",
                               "layers", "diff_ids", diff_id, "history", "created", created, "created_by", "import");
    /* Unpacked before it is named: what can not be unpacked is no image. */
    r = image_make(s, NULL, config, &layer, 1, top, e);
    json_decref(config);
    if (r == 0)
        r = image_read(s, top, &made, e);
    if (r < 0)
        return r;
    r = layer_unpack_all(s, &made, NULL, NULL, e);
    image_free(&made);
    if (r == 0)
        return image_tag(s, name, top, e);
    image_forget(s, top->digest, NULL);
    return r;
}
