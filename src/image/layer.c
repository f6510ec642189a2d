/* Which layers an image is made of, and making those that are missing. */
#include "image/layer.h"
#include "image/tree.h"
#include "container/sys.h"
#include "container/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void layer_chain(char chain[DIGEST_TEXT], const char *diff_id)
{
    char both[2 * DIGEST_TEXT + 2];
    if (!chain[0]) {
        snprintf(chain, DIGEST_TEXT, "%s", diff_id);
        return;
    }
    int n = snprintf(both, sizeof(both), "%s %s", chain, diff_id);
    digest_of(both, (size_t)n, chain);
}

static const char *link_path(const char *chain, char out[DIGEST_TEXT + 16])
{
    snprintf(out, DIGEST_TEXT + 16, "layers/c/%s%s", chain, userns_single() ? LAYER_ONE_OWNER : "");
    return out;
}

int layer_find(const struct image_store *s, const char *chain)
{
    char path[DIGEST_TEXT + 16], target[32], *end;
    ssize_t n = readlinkat(s->dir, link_path(chain, path), target, sizeof(target) - 1);
    target[n > 0 ? n : 0] = 0;
    if (n <= 5 || strncmp(target, "../d/", 5))
        return -ENOENT;
    unsigned long v = strtoul(target + 5, &end, 10);
    return *end || v > 1u << 30 ? -ENOENT : (int)v;
}

/* A new numbered directory: the first number that is free. */
static int make_directory(const struct image_store *s, u32 *number, struct error *e)
{
    CLEANUP_FD int d = openat(s->dir, "layers/d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    struct stat st;
    char name[16];
    if (d < 0 || fstat(d, &st) < 0)
        return sys_error(e, "%s/layers/d", s->path);
    /* Where counting begins does not matter: the number of directories there is near. */
    for (u32 n = (u32)st.st_nlink; n < 1u << 30; n++) {
        snprintf(name, sizeof(name), "%u", n);
        if (mkdirat(d, name, 0755) == 0) {
            *number = n;
            int fd = openat(d, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
            return fd < 0 ? sys_error(e, "layers/d/%s", name) : fd;
        }
        if (errno != EEXIST)
            return sys_error(e, "layers/d/%s", name);
    }
    return error_set(e, ENOSPC, "%s/layers/d: no number is free", s->path);
}

static int open_number(const struct image_store *s, u32 n, struct error *e)
{
    char path[32];
    snprintf(path, sizeof(path), "layers/d/%u", n);
    int fd = openat(s->dir, path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return fd < 0 ? sys_error(e, "%s/%s", s->path, path) : fd;
}

/* All of it on the disk, then the link. Who was faster with the same layer has made the link: ours goes. */
static int publish(const struct image_store *s, int root, const char *chain, u32 *number, struct error *e)
{
    char path[DIGEST_TEXT + 16], target[32], name[16];
    snprintf(target, sizeof(target), "../d/%u", *number);
    if (syncfs(root) < 0)
        return sys_error(e, "%s: syncfs", s->path);
    if (symlinkat(target, s->dir, link_path(chain, path)) == 0)
        return 0;
    int other = errno == EEXIST ? layer_find(s, chain) : -errno;
    if (other < 0)
        return error_set(e, -other, "%s/%s: %s", s->path, path, strerror(-other));
    CLEANUP_FD int d = openat(s->dir, "layers/d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(name, sizeof(name), "%u", *number);
    tree_remove(d, name, NULL);
    *number = (u32)other;
    return 0;
}

static int unpack_into(const struct image_store *s, const struct image_descriptor *blob, const char *diff_id,
                       const u32 *lower, size_t n_lower, int root, struct error *e)
{
    int below[IMAGE_LAYERS_MAX];
    size_t n = 0;
    char is[DIGEST_TEXT];
    struct layer_input in = {.lower = below,
                             .bytes_max = s->layer_bytes_max,
                             .entries_max = s->layer_entries_max,
                             .fd = image_open_blob(s, blob->digest, e)};
    int r = MIN(in.fd, 0);
    snprintf(is, sizeof(is), "%s", diff_id);
    for (; r == 0 && n < n_lower; n++) /* topmost first */
        if ((below[n] = open_number(s, lower[n_lower - 1 - n], e)) < 0)
            r = below[n];
    in.n_lower = n_lower;
    if (r == 0)
        r = layer_unpack(root, &in, is, e);
    if (r == 0 && strcmp(is, diff_id))
        r = error_set(e, EBADMSG, "layer %s: its files have digest %s, the image's configuration says %s: refused",
                      blob->digest, is, diff_id);
    for (size_t i = 0; i < n; i++)
        sys_close(&below[i]);
    sys_close(&in.fd);
    return r;
}

static int unpack_one(const struct image_store *s, const struct image *i, size_t k, const char *chain, u32 *numbers,
                      struct error *e)
{
    u32 number = 0;
    char name[16];
    CLEANUP_FD int root = make_directory(s, &number, e);
    if (root < 0)
        return root;
    int r = unpack_into(s, &i->manifest.layers[k], i->config.diff_ids[k], numbers, k, root, e);
    if (r == 0) {
        r = publish(s, root, chain, &number, e);
        numbers[k] = number;
    }
    if (r == 0)
        return 0;
    CLEANUP_FD int d = openat(s->dir, "layers/d", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    snprintf(name, sizeof(name), "%u", number);
    tree_remove(d, name, NULL);
    return r;
}

int layer_unpack_all(const struct image_store *s, const struct image *i, u32 out[IMAGE_LAYERS_MAX],
                     char (*chains)[DIGEST_TEXT], struct error *e)
{
    u32 numbers[IMAGE_LAYERS_MAX];
    char chain[DIGEST_TEXT] = "";
    for (size_t k = 0; k < i->manifest.n_layers; k++) {
        layer_chain(chain, i->config.diff_ids[k]);
        int n = layer_find(s, chain);
        int r = n >= 0 ? 0 : unpack_one(s, i, k, chain, numbers, e);
        if (r < 0)
            return r;
        if (n >= 0)
            numbers[k] = (u32)n;
        if (chains)
            memcpy(chains[k], chain, sizeof(chain));
    }
    if (out)
        memcpy(out, numbers, i->manifest.n_layers * sizeof(*out));
    return 0;
}
