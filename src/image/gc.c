/*
 * Garbage: mark what rows of the index reach (indexes, manifests, configurations, layers) and which unpacked layers images
 * and containers are made of; sweep the rest. Under the exclusive lock: nobody adds or uses anything meanwhile. A manifest
 * that can not be read keeps everything: what it needs is not known, so nothing may go. The cache of builds (build_cache.h) holds
 * its layers, too, but against `prune`.
 */
#include "image/image.h"
#include "image/build_cache.h"
#include "image/layer.h"
#include "image/tree.h"
#include "container/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* Sets of names, as keys of an object. */
struct marks {
    json_t *blobs, *chains;
};

static void mark(json_t *set, const char *name)
{
    json_object_set_new(set, name, json_true());
}

static int mark_image(const struct image_store *s, struct marks *m, const struct image_descriptor *top, struct error *e)
{
    struct image i;
    char chain[DIGEST_TEXT] = "";
    int r = image_read(s, top, &i, e);
    if (r < 0)
        return r;
    mark(m->blobs, top->digest);
    mark(m->blobs, i.manifest.config.digest);
    for (size_t k = 0; k < i.manifest.n_layers; k++) {
        mark(m->blobs, i.manifest.layers[k].digest);
        layer_chain(chain, i.config.diff_ids[k]);
        mark(m->chains, chain);
    }
    image_free(&i);
    return 0;
}

static int mark_rows(const struct image_store *s, struct marks *m, struct error *e)
{
    json_t *row, *index = image_index(s, e);
    size_t i;
    int r = index ? 0 : -EBADMSG;
    json_array_foreach(json_object_get(index, "manifests"), i, row)
    {
        struct image_descriptor top;
        if (r == 0)
            r = image_descriptor_parse(&top, row, "index.json", e);
        if (r == 0)
            r = mark_image(s, m, &top, e);
    }
    json_decref(index);
    if (r < 0)
        error_prefix(e, "nothing was removed, because an image can not be read (`trapeze image rm` it first)");
    return r;
}

/* The cache of builds is needed until somebody prunes; then only what of it images hold as well. */
struct caching {
    struct marks *m;
    bool partial;
};

static bool keep_entry(void *arg, const struct build_entry *b)
{
    const struct caching *k = arg;
    if (k->partial)
        return b->has_layer && json_object_get(k->m->blobs, b->layer.digest);
    if (b->has_layer) {
        mark(k->m->blobs, b->layer.digest);
        mark(k->m->chains, b->chain);
    }
    return true;
}

/* Call `act` for the names in a directory. */
static int each(int dir, const char *path, void (*act)(int fd, const char *name, void *arg), void *arg, struct error *e)
{
    int fd = openat(dir, path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *d = fd >= 0 ? fdopendir(fd) : NULL;
    const struct dirent *entry;
    if (!d) {
        sys_close(&fd);
        return sys_error(e, "%s", path);
    }
    while ((entry = readdir(d)))
        if (strcmp(entry->d_name, ".") && strcmp(entry->d_name, ".."))
            act(dirfd(d), entry->d_name, arg);
    closedir(d);
    return 0;
}

struct sweep {
    const struct image_store *store;
    const char *algorithm;
    const struct marks *marks;
    json_t *kept; /* directories that links name */
    bool partial;
    struct image_gc *out;
};

static void sweep_blob(int fd, const char *name, void *arg)
{
    struct sweep *w = arg;
    char digest[DIGEST_TEXT + 256];
    struct stat st;
    snprintf(digest, sizeof(digest), "%s:%s", w->algorithm, name);
    if (json_object_get(w->marks->blobs, digest) || fstatat(fd, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return;
    if (unlinkat(fd, name, 0) == 0) {
        w->out->blobs++;
        w->out->bytes += (u64)st.st_size;
    }
}

static void sweep_link(int fd, const char *name, void *arg)
{
    struct sweep *w = arg;
    char target[64], chain[NAME_MAX + 1];
    ssize_t n = readlinkat(fd, name, target, sizeof(target) - 1);
    target[n > 0 ? n : 0] = 0;
    snprintf(chain, sizeof(chain), "%s", name);
    size_t length = strlen(chain), more = sizeof(LAYER_ONE_OWNER) - 1;
    if (length > more && !strcmp(chain + length - more, LAYER_ONE_OWNER))
        chain[length - more] = 0;
    if (json_object_get(w->marks->chains, chain) && !strncmp(target, "../d/", 5))
        mark(w->kept, target + 5);
    else
        unlinkat(fd, name, 0);
}

static void sweep_layer(int fd, const char *name, void *arg)
{
    struct sweep *w = arg;
    if (json_object_get(w->kept, name))
        return;
    u64 bytes = tree_usage(fd, name);
    if (tree_remove(fd, name, NULL) == 0) {
        w->out->layers++;
        w->out->bytes += bytes;
    }
}

static void sweep_temporary(int fd, const char *name, void *arg)
{
    struct sweep *w = arg;
    size_t n = strlen(name);
    if (w->partial || n < 5 || strcmp(name + n - 5, ".part"))
        tree_remove(fd, name, NULL);
}

int image_collect(const struct image_store *s, const char *const *chains, size_t n, bool partial, struct image_gc *out,
                  struct error *e)
{
    struct marks m = {.blobs = json_object(), .chains = json_object()};
    struct sweep w = {.store = s, .marks = &m, .kept = json_object(), .partial = partial, .out = out};
    memset(out, 0, sizeof(*out));
    for (size_t i = 0; i < n; i++)
        mark(m.chains, chains[i]);
    struct caching k = {.m = &m, .partial = partial};
    int r = mark_rows(s, &m, e);
    if (r == 0)
        r = build_cache_sweep(s, keep_entry, &k, e);
    static const char *const algorithms[] = {"sha256", "sha512"};
    for (size_t i = 0; r == 0 && i < ARRAY_LEN(algorithms); i++) {
        char path[20];
        snprintf(path, sizeof(path), "blobs/%s", algorithms[i]);
        w.algorithm = algorithms[i];
        r = each(s->dir, path, sweep_blob, &w, e);
    }
    if (r == 0)
        r = each(s->dir, "layers/c", sweep_link, &w, e);
    if (r == 0)
        r = each(s->dir, "layers/d", sweep_layer, &w, e);
    if (r == 0)
        r = each(s->dir, "tmp", sweep_temporary, &w, e);
    json_decref(m.blobs);
    json_decref(m.chains);
    json_decref(w.kept);
    return r;
}

int image_verify(const struct image_store *s, struct error *e)
{
    struct marks m = {.blobs = json_object(), .chains = json_object()};
    const char *digest;
    json_t *yes;
    int r = mark_rows(s, &m, e);
    json_object_foreach(m.blobs, digest, yes)
    {
        if (r == 0)
            r = image_check_blob(s, digest, e);
    }
    json_decref(m.blobs);
    json_decref(m.chains);
    return r;
}
