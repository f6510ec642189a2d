#include "image/build_cache.h"
#include "image/tree.h"
#include "container/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define ENTRY_MAX 65536

static bool take_text(json_t *j, const char *name, char *out, size_t size)
{
    const char *text = json_string_value(json_object_get(j, name));
    return text && snprintf(out, size, "%s", text) < (int)size;
}

static int parse(json_t *j, struct build_entry *out)
{
    json_t *layer = json_object_get(j, "layer");
    memset(out, 0, sizeof(*out));
    if (!take_text(j, "created", out->created, sizeof(out->created)))
        return -ENOENT;
    if (!layer)
        return 0;
    out->has_layer = true;
    if (image_descriptor_parse(&out->layer, layer, "cache", NULL) < 0 ||
        !take_text(j, "diff_id", out->diff_id, sizeof(out->diff_id)) || !digest_valid(out->diff_id) ||
        !take_text(j, "chain", out->chain, sizeof(out->chain)) || !digest_valid(out->chain))
        return -ENOENT;
    return 0;
}

static int read_entry(const struct image_store *s, int dir, const char *name, struct build_entry *out)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    if (sys_read_at(dir, name, ENTRY_MAX, &text, &size) < 0)
        return -ENOENT;
    json_t *j = json_loadb(text, size, 0, NULL);
    int r = json_is_object(j) ? parse(j, out) : -ENOENT;
    json_decref(j);
    return r == 0 && out->has_layer && image_check_size(s, &out->layer, NULL) < 0 ? -ENOENT : r;
}

int build_cache_find(const struct image_store *s, const char *key, struct build_entry *out)
{
    char path[DIGEST_TEXT + 8];
    snprintf(path, sizeof(path), "build/%s", key + 7);
    return read_entry(s, s->dir, path, out);
}

int build_cache_put(const struct image_store *s, const char *key, const struct build_entry *b, struct error *e)
{
    CLEANUP_FD int dir = tree_make_at(s->dir, "build", 0700, e);
    if (dir < 0)
        return dir;
    json_t *j = json_pack("{s:s}", "created", b->created);
    if (b->has_layer) {
        json_object_set_new(j, "layer", image_descriptor_json(&b->layer));
        json_object_set_new(j, "diff_id", json_string(b->diff_id));
        json_object_set_new(j, "chain", json_string(b->chain));
    }
    CLEANUP_FREE char *text = json_dumps(j, JSON_COMPACT);
    json_decref(j);
    return text ? tree_write(dir, key + 7, text, strlen(text), false, e) : error_set(e, ENOMEM, "out of memory");
}

int build_cache_sweep(const struct image_store *s, bool (*keep)(void *arg, const struct build_entry *b), void *arg,
                      struct error *e)
{
    struct build_entry b;
    const struct dirent *d;
    int fd = openat(s->dir, "build", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    DIR *dir = fd >= 0 ? fdopendir(fd) : NULL;
    if (!dir) {
        int r = errno == ENOENT ? 0 : sys_error(e, "%s/build", s->path);
        sys_close(&fd);
        return r;
    }
    while ((d = readdir(dir)))
        if (strcmp(d->d_name, ".") && strcmp(d->d_name, "..") &&
            !(read_entry(s, dirfd(dir), d->d_name, &b) == 0 && keep(arg, &b)))
            tree_remove(dirfd(dir), d->d_name, NULL);
    closedir(dir);
    return 0;
}
