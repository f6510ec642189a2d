/* Images and archives of containers that are there. */
#include "box/build_parts.h"
#include "container/sys.h"
#include "container/userns.h"
#include "image/layer.h"
#include "image/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

/* What a container's mounts needed (config.c): left out where it is empty. */
static const char *const mount_points[] = {"dev", "proc", "sys", "etc/hosts", "etc/hostname", "etc/resolv.conf", NULL};

/* image.json of a container. A new reference. */
static json_t *read_image_file(const struct box *b, const struct machine_row *row, struct error *e)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    json_t *j = b->dir >= 0 && sys_read_at(b->dir, "image.json", 1 << 20, &text, &size) == 0
                    ? json_loadb(text, size, 0, NULL)
                    : NULL;
    if (!json_is_object(j)) {
        error_set(e, EBADMSG, "container %s: what it is made of can not be read", row->name);
        json_decref(j);
        return NULL;
    }
    return j;
}

/* Where overlayfs can not be, the root is a copy, and nobody knows what in it was changed. */
static bool root_is_copy(const struct box *b)
{
    /* What is mounted there is seen by the keeper only. */
    CLEANUP_FD int root = openat(b->dir, "root", O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    return root >= 0 && !build_is_empty(root);
}

static int change(struct stage *st, const char *text, struct error *e)
{
    struct dockerfile d;
    char path[PATH_MAX];
    int r = dockerfile_parse(&d, "--change", text, strlen(text), e);
    for (size_t i = 0; r == 0 && i < d.n; i++) {
        if (d.v[i].kind == DOCKER_WORKDIR) {
            r = build_path(st, d.v[i].rest, path, e);
            if (r == 0)
                json_object_set_new(st->run, "WorkingDir", json_string(path));
            continue;
        }
        r = build_config_line(NULL, st, &d.v[i], '\\', e);
        if (r == -ENOSYS)
            r = error_set(e, EINVAL, "--change %s: does not change a configuration", docker_keyword(d.v[i].kind));
    }
    if (d.name)
        dockerfile_free(&d);
    return r;
}

static int describe(struct stage *st, const struct commit_options *o, struct build_entry *made, struct error *e)
{
    int r = 0;
    for (int i = 0; r == 0 && i < o->changes.n; i++)
        r = change(st, o->changes.v[i], e);
    if (r == 0)
        r = stage_record(st, made, "commit", e);
    json_t *history = json_object_get(st->config, "history");
    json_t *last = json_array_get(history, json_array_size(history) - 1);
    if (r == 0 && ((o->message && json_object_set_new(last, "comment", json_string(o->message)) < 0) ||
                   (o->author && json_object_set_new(st->config, "author", json_string(o->author)) < 0)))
        r = error_set(e, EINVAL, "--message, --author: is no UTF-8");
    return r;
}

/* The layer, while nobody writes. */
static int pack_upper(const struct box *b, const struct machine_row *row, const struct image_store *s,
                      const char *chain, struct build_entry *made, struct error *e)
{
    CLEANUP_FD int upper = openat(b->dir, "upper", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (upper < 0)
        return sys_error(e, "%s/upper", b->data);
    bool paused = !strcmp(box_state(row), "running") && container_pause(&b->host, b->id, true, NULL) == 0;
    int r = build_pack(s, upper, chain, mount_points, made, e);
    if (paused)
        container_pause(&b->host, b->id, false, NULL);
    return r;
}

static int commit(const struct box *b, const struct machine_row *row, const struct image_store *s,
                  const struct commit_options *o, const char *full, char id[DIGEST_TEXT], struct error *e)
{
    struct stage st = {0};
    struct image base, image;
    struct image_descriptor top;
    struct build_entry made;
    json_t *j = read_image_file(b, row, e);
    if (!j)
        return -EBADMSG;
    const char *from = json_string_value(json_object_get(j, "id"));
    int r = root_is_copy(b)
                ? error_set(e, ENOTSUP, "container %s: its root is a copy, not an overlayfs: export and import it",
                            row->name)
            : image_find(s, from ? from : "", &base, NULL) < 0
                ? error_set(e, ENOENT, "container %s: its image is not here any more; export and import it", row->name)
                : 0;
    json_decref(j);
    if (r < 0)
        return r;
    r = stage_from_image(&st, &base, e);
    if (r == 0)
        r = pack_upper(b, row, s, st.chain, &made, e);
    if (r == 0)
        r = describe(&st, o, &made, e);
    if (r == 0)
        r = image_make(s, full, st.config, st.manifest.layers, st.manifest.n_layers, &top, e);
    if (r == 0 && (r = image_read(s, &top, &image, e)) == 0) {
        memcpy(id, image.manifest.config.digest, DIGEST_TEXT);
        image_free(&image);
    }
    image_free(&base);
    stage_free(&st);
    return r;
}

int box_commit(const struct machine_row *row, const struct commit_options *o, char id[DIGEST_TEXT], struct error *e)
{
    struct image_store store;
    struct reference ref;
    struct box b;
    char full[REFERENCE_TEXT];
    int r = o->name ? reference_parse(&ref, o->name, e) : 0;
    if (r == 0 && o->name && ref.digest[0])
        r = error_set(e, EINVAL, "image name \"%.100s\": a digest can not be given", o->name);
    if (r < 0 || (r = box_open(&b, row->id, false, e)) < 0)
        return r;
    if (o->name)
        reference_full(&ref, full);
    r = userns_enter(NULL, e);
    if (r == 0)
        r = image_store_open(&store, NULL, false, e);
    if (r == 0) {
        r = commit(&b, row, &store, o, o->name ? full : NULL, id, e);
        image_store_close(&store);
    }
    box_close(&b);
    return r;
}

/* --- export --- */

/* In the keeper's namespace, where it is mounted: none of the container's own mounts are there. */
static int open_running(const struct box *b, const struct machine_row *row, struct error *e)
{
    char path[PATH_MAX + 40];
    snprintf(path, sizeof(path), "/proc/%d/root%s/root", (int)row->keeper_pid, b->data);
    int fd = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (fd >= 0 && sys_start_time(row->keeper_pid) != row->keeper_start) {
        sys_close(&fd);
        return error_set(e, EAGAIN, "container %s: has just ended; try again", row->name);
    }
    return fd < 0 ? sys_error(e, "%s", path) : fd;
}

static int open_ended(struct box *b, const struct machine_row *row, const char *store, struct error *e)
{
    u32 layers[IMAGE_LAYERS_MAX];
    char upper[PATH_MAX + 8];
    size_t i, n = 0;
    json_t *v, *j = read_image_file(b, row, e);
    if (!j)
        return -EBADMSG;
    json_array_foreach(json_object_get(j, "layers"), i, v) if (n < IMAGE_LAYERS_MAX) layers[n++] =
        (u32)json_integer_value(v);
    json_decref(j);
    if (unshare(CLONE_NEWNS) < 0)
        return sys_error(e, "mount namespace");
    int r = sys_slave_mounts(e);
    snprintf(upper, sizeof(upper), "%s/upper", b->data);
    sys_close(&b->dir); /* it led to the mounts of before */
    b->dir = open(b->data, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (r == 0)
        r = b->dir < 0 ? sys_error(e, "%s", b->data) : box_root_view(b, "root", store, layers, n, upper, e);
    if (r < 0)
        return r;
    int fd = openat(b->dir, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    return fd < 0 ? sys_error(e, "%s/root", b->data) : fd;
}

int box_export(const struct machine_row *row, int fd, struct error *e)
{
    struct image_store store;
    struct box b;
    int r = box_open(&b, row->id, false, e);
    if (r == 0)
        r = image_store_open(&store, NULL, false, e);
    if (r < 0)
        return r;
    bool runs = row->keeper_start && sys_start_time(row->keeper_pid) == row->keeper_start;
    bool copy = !runs && b.dir >= 0 && root_is_copy(&b);
    /* In its user namespace all can be read, and its users have the numbers that they have there. */
    CLEANUP_FD int live = runs ? open_running(&b, row, e) : -1;
    r = runs ? MIN(live, 0) : userns_enter(NULL, e);
    if (r == 0 && runs)
        r = box_space_join(&b, e);
    CLEANUP_FD int root = r < 0 || runs ? sys_take(&live)
                          : copy        ? openat(b.dir, "root", O_RDONLY | O_DIRECTORY | O_CLOEXEC)
                                        : open_ended(&b, row, store.path, e);
    if (r == 0 && root < 0)
        r = copy ? sys_error(e, "%s/root", b.data) : root;
    if (r == 0)
        r = layer_export(root, NULL, fd, e);
    image_store_close(&store);
    box_close(&b);
    return r;
}
