/* Images as archives: what load.c reads, written with blobs as they are. */
#include "image/tarlib.h"
#include "image/image.h"
#include "container/sys.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

struct save {
    struct archive_library lib;
    const struct image_store *store;
    struct archive *out;
    json_t *written; /* digests */
    int fd;
    bool docker;
    struct error *e;
};

static ssize_t write_out(struct archive *a, void *arg, const void *data, size_t size)
{
    struct save *s = arg;
    if (sys_write_all(s->fd, data, size) == 0)
        return (ssize_t)size;
    s->lib.archive_set_error(a, errno, "%s", strerror(errno));
    return -1;
}

static int failed(struct save *s)
{
    return error_set(s->e, EIO, "archive: %s", s->lib.archive_error_string(s->out));
}

static int begin_file(struct save *s, const char *path, u64 size)
{
    struct archive_entry *entry = s->lib.archive_entry_new();
    if (!entry)
        return error_set(s->e, ENOMEM, "out of memory");
    s->lib.archive_entry_set_pathname(entry, path);
    s->lib.archive_entry_set_filetype(entry, AE_IFREG);
    s->lib.archive_entry_set_perm(entry, 0644);
    s->lib.archive_entry_set_size(entry, (s64)size);
    int r = s->lib.archive_write_header(s->out, entry) == ARCHIVE_OK ? 0 : failed(s);
    s->lib.archive_entry_free(entry);
    return r;
}

static int put_text(struct save *s, const char *path, const char *text)
{
    int r = text ? begin_file(s, path, strlen(text)) : error_set(s->e, ENOMEM, "out of memory");
    return r == 0 && s->lib.archive_write_data(s->out, text, strlen(text)) < 0 ? failed(s) : r;
}

static const char *file_name(const struct save *s, const char *digest, bool config, char out[DIGEST_TEXT + 16])
{
    char path[DIGEST_TEXT];
    if (s->docker)
        snprintf(out, DIGEST_TEXT + 16, "%s.%s", digest + 7, config ? "json" : "tar");
    else
        snprintf(out, DIGEST_TEXT + 16, "blobs/%s", digest_path(digest, path));
    return out;
}

static int put_blob(struct save *s, const struct image_descriptor *d, bool config)
{
    u8 buffer[1 << 16];
    char path[DIGEST_TEXT + 16];
    u64 left = d->size;
    ssize_t n;
    if (json_object_get(s->written, d->digest))
        return 0;
    json_object_set_new(s->written, d->digest, json_true());
    CLEANUP_FD int fd = image_open_blob(s->store, d->digest, s->e);
    int r = fd < 0 ? fd : begin_file(s, file_name(s, d->digest, config, path), d->size);
    while (r == 0 && left && (n = read(fd, buffer, MIN(left, sizeof(buffer)))) > 0) {
        left -= (u64)n;
        if (s->lib.archive_write_data(s->out, buffer, (size_t)n) != n)
            r = failed(s);
    }
    return r == 0 && left ? error_set(s->e, EBADMSG, "%s: is damaged: too short", d->digest) : r;
}

static json_t *docker_row(const struct save *s, const struct image *i)
{
    char path[DIGEST_TEXT + 16], shown[REFERENCE_TEXT];
    json_t *j = json_pack("{s:s,s:[],s:[]}", "Config", file_name(s, i->manifest.config.digest, true, path), "RepoTags",
                          "Layers");
    reference_short(i->name, shown);
    if (i->name[0] && !strchr(i->name, '@'))
        json_array_append_new(json_object_get(j, "RepoTags"), json_string(shown));
    for (size_t k = 0; k < i->manifest.n_layers; k++)
        json_array_append_new(json_object_get(j, "Layers"),
                              json_string(file_name(s, i->manifest.layers[k].digest, false, path)));
    return j;
}

static json_t *layout_row(const struct image *i)
{
    json_t *j = image_descriptor_json(&i->top);
    if (i->name[0])
        json_object_set_new(
            j, "annotations",
            json_pack("{s:s,s:s}", "io.containerd.image.name", i->name, "org.opencontainers.image.ref.name", i->name));
    return j;
}

static int put_image(struct save *s, const struct image *i, json_t *rows)
{
    int r = s->docker ? 0 : put_blob(s, &i->top, false);
    if (r == 0)
        r = put_blob(s, &i->manifest.config, true);
    for (size_t k = 0; r == 0 && k < i->manifest.n_layers; k++)
        r = put_blob(s, &i->manifest.layers[k], false);
    json_array_append_new(rows, s->docker ? docker_row(s, i) : layout_row(i));
    return r;
}

static int put_documents(struct save *s, json_t *rows)
{
    json_t *index = json_pack("{s:i,s:s,s:O}", "schemaVersion", 2, "mediaType", TYPE_OCI_INDEX, "manifests", rows);
    CLEANUP_FREE char *text = json_dumps(s->docker ? rows : index, JSON_COMPACT);
    json_decref(index);
    int r = put_text(s, s->docker ? "manifest.json" : "index.json", text);
    return r == 0 && !s->docker ? put_text(s, "oci-layout", "{\"imageLayoutVersion\":\"1.0.0\"}") : r;
}

int image_save(const struct image_store *store, const struct image *const *images, size_t n, bool docker, int fd,
               struct error *e)
{
    struct save s = {.store = store, .fd = fd, .docker = docker, .e = e};
    int r = archive_library(&s.lib, e);
    if (r < 0)
        return r;
    json_t *rows = json_array();
    s.written = json_object();
    s.out = s.lib.archive_write_new();
    s.lib.archive_write_set_format_pax_restricted(s.out);
    s.lib.archive_write_set_bytes_in_last_block(s.out, 1);
    if (s.lib.archive_write_open(s.out, &s, NULL, write_out, NULL) != ARCHIVE_OK)
        r = failed(&s);
    for (size_t i = 0; r == 0 && i < n; i++)
        r = put_image(&s, images[i], rows);
    if (r == 0)
        r = put_documents(&s, rows);
    if (s.lib.archive_write_close(s.out) != ARCHIVE_OK && r == 0)
        r = failed(&s);
    s.lib.archive_write_free(s.out);
    json_decref(s.written);
    json_decref(rows);
    return r;
}
