/*
 * The root of a container: overlayfs of the image's layers and a directory for what is written.
 *
 * It is mounted in a mount namespace of the keeper's own, so it is gone when keeper and container are, however they end. Lower
 * directories are named by their numbers, relative to the directory of layers: 127 of them fit into the one page that mount(2)
 * takes.
 *
 * Where overlayfs can not be (a store on a file system that it does not take, a kernel without it) the layers are unpacked once
 * more, one onto the other, for each container.
 */
#include "box/parts.h"
#include "container/idmap.h"
#include "container/sys.h"
#include "image/layer.h"
#include "image/tree.h"

#include <errno.h>
#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/stat.h>
#include <unistd.h>

#define IMAGE_FILE "image.json"

int box_open(struct box *b, const char *id, bool make, struct error *e)
{
    char data[PATH_MAX - 64];
    memset(b, 0, sizeof(*b));
    b->dir = -1;
    int r = image_data_dir(data, sizeof(data), e);
    if (r < 0)
        return r;
    snprintf(b->id, sizeof(b->id), "%s", id);
    int n = snprintf(b->data, sizeof(b->data), "%s/containers/%s", data, id);
    int m = snprintf(b->states, sizeof(b->states), "%.*s/oci", (int)sizeof(b->states) - 8, b->data);
    if (n >= (int)sizeof(b->data) || m >= (int)sizeof(b->states))
        return error_set(e, ENAMETOOLONG, "%.80s..: too long", data);
    snprintf(b->filters, sizeof(b->filters), "%s/filters", data);
    b->host.root = b->states;
    b->host.cache = b->filters;
    b->rootless = geteuid() != 0 || idmap_nested();
    b->dir = make ? tree_make(b->data, e) : open(b->data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return make ? MIN(b->dir, 0) : 0;
}

void box_close(struct box *b)
{
    sys_close(&b->dir);
    b->dir = -1;
}

/* The root's own attributes are those of the topmost layer. */
static int make_upper(const struct box *b, const struct image_store *s, const u32 *layers, size_t n, struct error *e)
{
    char top[32];
    struct stat st = {.st_mode = 0755};
    static const char *const dirs[] = {"upper", "work", "root", "empty"};
    for (size_t i = 0; i < ARRAY_LEN(dirs); i++)
        if (mkdirat(b->dir, dirs[i], 0755) < 0 && errno != EEXIST)
            return sys_error(e, "%s/%s", b->data, dirs[i]);
    snprintf(top, sizeof(top), "layers/d/%u", n ? layers[n - 1] : 0);
    if (n && fstatat(s->dir, top, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return sys_error(e, "%s/%s", s->path, top);
    if (fchownat(b->dir, "upper", st.st_uid, st.st_gid, AT_SYMLINK_NOFOLLOW) < 0 ||
        fchmodat(b->dir, "upper", st.st_mode & 07777, 0) < 0)
        return sys_error(e, "%s/upper", b->data);
    return 0;
}

int box_root_prepare(const struct box *b, const struct image_store *s, const struct image *i, u32 *layers,
                     bool *overlay, struct error *e)
{
    size_t n = i->manifest.n_layers;
    char(*chains)[DIGEST_TEXT] = calloc(n + 1, sizeof(*chains));
    struct error why = {0};
    int r = chains ? layer_unpack_all(s, i, layers, chains, &why) : error_set(&why, ENOMEM, "out of memory");
    *overlay = r == 0;
    if (r == -EOPNOTSUPP) {
        r = 0;
        n = 0; /* no layer is needed but those of the image, which are blobs */
    } else if (r < 0) {
        error_set(e, why.code, "%s", why.msg);
    }
    if (r == 0)
        r = make_upper(b, s, layers, n, e);
    json_t *list = json_array(), *numbers = json_array();
    for (size_t k = 0; r == 0 && k < n; k++) {
        json_array_append_new(list, json_string(chains[k]));
        json_array_append_new(numbers, json_integer(layers[k]));
    }
    const char *stop = json_string_value(json_object_get(i->config.run, "StopSignal"));
    json_t *j = json_pack("{s:s,s:s,s:o,s:o,s:s}", "image", i->name, "id", i->manifest.config.digest, "chains", list,
                          "layers", numbers, "stop", stop && *stop ? stop : "TERM");
    CLEANUP_FREE char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    if (r == 0)
        r = text ? tree_write(b->dir, IMAGE_FILE, text, strlen(text), false, e) : error_set(e, ENOMEM, "out of memory");
    free(chains);
    return r;
}

/* In a user namespace the marks are attributes of "user.", and the kernel itself redirects nothing (overlayfs.rst). */
static const char *marks(void)
{
    return idmap_nested() ? "userxattr,index=off" : "redirect_dir=off,index=off,metacopy=off";
}

/* "lowerdir=7:3:1,upperdir=..": topmost first. */
static int make_options(char *out, size_t size, const struct box *b, const u32 *layers, size_t n, bool brief,
                        struct error *e)
{
    size_t at = (size_t)snprintf(out, size, "lowerdir=");
    for (size_t i = n; i-- > 0;)
        at += (size_t)snprintf(out + at, size - at, "%u%s", layers[i], i ? ":" : "");
    if (!n)
        at += (size_t)snprintf(out + at, size - at, "/proc/self/fd/%d/empty", b->dir);
    /* By descriptor: a path may hold what means something in options. */
    at += (size_t)snprintf(out + at, size - at, ",upperdir=/proc/self/fd/%d/upper,workdir=/proc/self/fd/%d/work,%s%s",
                           b->dir, b->dir, marks(), brief ? ",volatile" : "");
    return at < size ? 0 : error_set(e, E2BIG, "overlayfs: options are too long");
}

/* Layer upon layer, from the blobs. */
static int copy_layers(const struct box *b, const struct image *i, struct error *e)
{
    struct image_store store;
    CLEANUP_FD int root = openat(b->dir, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int r = root < 0 ? sys_error(e, "%s/root", b->data) : image_store_open(&store, NULL, false, e);
    if (r < 0)
        return r;
    for (size_t k = 0; r == 0 && k < i->manifest.n_layers; k++) {
        char is[DIGEST_TEXT];
        struct layer_input in = {.fd = image_open_blob(&store, i->manifest.layers[k].digest, e),
                                 .bytes_max = store.layer_bytes_max,
                                 .entries_max = store.layer_entries_max,
                                 .merge = true};
        snprintf(is, sizeof(is), "%s", i->config.diff_ids[k]);
        r = in.fd < 0 ? in.fd : layer_unpack(root, &in, is, e);
        if (r == 0 && strcmp(is, i->config.diff_ids[k]))
            r = error_set(e, EBADMSG, "%s: is damaged", i->manifest.layers[k].digest);
        sys_close(&in.fd);
    }
    image_store_close(&store);
    return r;
}

int box_root_mount(struct box *b, const struct image *i, const char *store, const u32 *layers, size_t n, bool overlay,
                   bool brief, struct error *e)
{
    char options[4096], target[64], below[PATH_MAX];
    if (unshare(CLONE_NEWNS) < 0)
        return error_set(e, errno, "mount namespace: %s", strerror(errno));
    int r = sys_slave_mounts(e);
    if (r < 0)
        return r;
    /* A descriptor from before leads to the mounts of the other namespace. */
    sys_close(&b->dir);
    b->dir = open(b->data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (b->dir < 0)
        return sys_error(e, "%s", b->data);
    r = make_options(options, sizeof(options), b, layers, n, brief, e);
    if (r < 0)
        return r;
    snprintf(target, sizeof(target), "/proc/self/fd/%d/root", b->dir);
    if (snprintf(below, sizeof(below), "%s/layers/d", store) >= (int)sizeof(below) || chdir(below) < 0)
        return sys_error(e, "%s", below);
    if (overlay && mount("overlay", target, "overlay", 0, options) == 0)
        return 0;
    if (!i && !overlay)
        return 0;
    /* No overlayfs in this kernel, or not on this file system. */
    if (i && (!overlay || errno == EINVAL || errno == ENODEV || errno == EOPNOTSUPP || errno == EPERM))
        return copy_layers(b, i, e);
    return sys_error(e, "overlayfs: %s/root", b->data);
}

int box_root_is_overlay(const struct box *b, struct error *e)
{
    struct stat here, below;
    CLEANUP_FD int root = openat(b->dir, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (root < 0 || fstat(root, &below) < 0 || fstat(b->dir, &here) < 0)
        return sys_error(e, "%s/root", b->data);
    /* Mounted, then: copies are on the store's own file system, which may be an overlayfs, too. */
    return below.st_dev != here.st_dev
               ? 0
               : error_set(e, ENOTSUP, "%s: overlayfs can not be there, and without it nothing is built", b->data);
}

int box_root_view(const struct box *b, const char *name, const char *store, const u32 *layers, size_t n,
                  const char *upper, struct error *e)
{
    char options[4096], target[64], below[PATH_MAX];
    if (mkdirat(b->dir, name, 0755) < 0 && errno != EEXIST)
        return sys_error(e, "%s/%s", b->data, name);
    if (!n && !upper) /* nothing is in it */
        return 0;
    CLEANUP_FD int top = upper ? open(upper, O_PATH | O_DIRECTORY | O_CLOEXEC) : -1;
    if (upper && top < 0)
        return sys_error(e, "%s", upper);
    size_t size = sizeof(options), at = (size_t)snprintf(options, size, "lowerdir=");
    if (upper)
        at += (size_t)snprintf(options + at, size - at, "/proc/self/fd/%d:", top);
    for (size_t i = n; i-- > 0;)
        at += (size_t)snprintf(options + at, size - at, "%u:", layers[i]);
    /* Two at least have to be there. What may be some container's upper directory still is only read. */
    at += (size_t)snprintf(options + at, size - at, "/proc/self/fd/%d/empty,index=off%s", b->dir,
                           idmap_nested() ? ",userxattr" : "");
    if (at >= size)
        return error_set(e, E2BIG, "overlayfs: options are too long");
    snprintf(target, sizeof(target), "/proc/self/fd/%d/%.20s", b->dir, name);
    if (snprintf(below, sizeof(below), "%s/layers/d", store) >= (int)sizeof(below) || chdir(below) < 0)
        return sys_error(e, "%s", below);
    return mount("overlay", target, "overlay", MS_RDONLY, options) == 0 ? 0 : sys_error(e, "overlayfs: %s", target);
}

void box_root_unmount(const struct box *b)
{
    char target[64];
    snprintf(target, sizeof(target), "/proc/self/fd/%d/root", b->dir);
    umount2(target, MNT_DETACH);
}

static int remove_files(void *arg, struct error *e)
{
    const struct box *b = arg;
    const char *slash = strrchr(b->data, '/');
    char parent[PATH_MAX];
    snprintf(parent, sizeof(parent), "%.*s", (int)(slash - b->data), b->data);
    CLEANUP_FD int dir = open(parent, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return errno == ENOENT ? 0 : sys_error(e, "%s", parent);
    return tree_remove(dir, b->id, e);
}

int box_root_remove(const struct box *b, struct error *e)
{
    return access(b->data, F_OK) < 0 && errno == ENOENT ? 0 : box_space_do(remove_files, (void *)(uintptr_t)b, e);
}

/* --- what garbage collection must leave --- */

void box_chains_free(char **chains, size_t n)
{
    for (size_t i = 0; i < n; i++)
        free(chains[i]);
    free(chains);
}

static int add_chains(int dir, const char *name, char ***out, size_t *n, struct error *e)
{
    char path[300];
    CLEANUP_FREE char *text = NULL;
    size_t size, i;
    json_t *chain;
    snprintf(path, sizeof(path), "%.255s/" IMAGE_FILE, name);
    int r = sys_read_at(dir, path, 1 << 20, &text, &size);
    if (r == -ENOENT || r == -ENOTDIR)
        return 0; /* killed before it had anything */
    json_t *j = r < 0 ? NULL : json_loadb(text, size, 0, NULL), *list = json_object_get(j, "chains");
    if (!json_is_array(list))
        r = error_set(e, EBADMSG,
                      "containers/%s: is damaged: what it needs is not known, nothing was removed; "
                      "`trapeze rm -f %s` removes it",
                      path, name);
    json_array_foreach(list, i, chain)
    {
        char **more = r == 0 && json_is_string(chain) ? realloc(*out, (*n + 1) * sizeof(*more)) : NULL;
        if (!more)
            continue;
        *out = more;
        more[(*n)++] = strdup(json_string_value(chain));
    }
    json_decref(j);
    return r;
}

int box_chains(char ***out, size_t *n, struct error *e)
{
    char data[PATH_MAX - 64], path[PATH_MAX];
    const struct dirent *d;
    *out = NULL;
    *n = 0;
    int r = image_data_dir(data, sizeof(data), e);
    if (r < 0)
        return r;
    snprintf(path, sizeof(path), "%s/containers", data);
    DIR *dir = opendir(path);
    if (!dir)
        return errno == ENOENT ? 0 : sys_error(e, "%s", path);
    while (r == 0 && (d = readdir(dir)))
        if (d->d_name[0] != '.')
            r = add_chains(dirfd(dir), d->d_name, out, n, e);
    closedir(dir);
    return r;
}
