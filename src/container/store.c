#include "container/store.h"
#include "container/idmap.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define ID_CHARACTERS "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_+.-"

int store_check_id(const char *id, struct error *e)
{
    if (!id || !*id || id[strspn(id, ID_CHARACTERS)] || strlen(id) > 255 || !strcmp(id, ".") || !strcmp(id, ".."))
        return error_set(e, EINVAL, "container name \"%.60s\": use letters, digits and _ + . -", id ? id : "");
    return 0;
}

int store_root(const struct container_host *h, char *out, size_t size, struct error *e)
{
    const char *runtime = getenv("XDG_RUNTIME_DIR");
    int n;
    if (h->root)
        n = snprintf(out, size, "%s", h->root);
    else if (runtime && runtime[0] == '/' && (geteuid() != 0 || idmap_nested()))
        n = snprintf(out, size, "%s/trapeze-oci", runtime);
    else
        n = snprintf(out, size, "/run/trapeze-oci");
    return n < 0 || (size_t)n >= size ? error_set(e, ENAMETOOLONG, "--root: too long") : 0;
}

/* mkdir -p of the directory of all states. */
static int make_root(char *path, struct error *e)
{
    if (mkdir(path, 0700) == 0 || errno == EEXIST)
        return 0;
    for (char *p = path + 1; *p; p++) {
        if (*p != '/')
            continue;
        *p = 0;
        int r = mkdir(path, 0711);
        *p = '/';
        if (r < 0 && errno != EEXIST)
            break;
    }
    return mkdir(path, 0700) < 0 && errno != EEXIST ? sys_error(e, "%s (where states are kept)", path) : 0;
}

static int set_path(struct store *s, const struct container_host *h, const char *id, bool make, struct error *e)
{
    s->dir = -1;
    int r = store_check_id(id, e);
    if (r == 0)
        r = store_root(h, s->path, sizeof(s->path) - 300, e);
    if (r == 0 && make)
        r = make_root(s->path, e);
    if (r == 0) {
        size_t n = strlen(s->path);
        snprintf(s->path + n, sizeof(s->path) - n, "/%s", id);
    }
    return r;
}

/* An existing directory that has no state and no owner is taken over. */
static int take_over(struct store *s, const char *id, struct error *e)
{
    CLEANUP_FD int fd = open(s->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return sys_error(e, "%s", s->path);
    if (flock(fd, LOCK_EX | LOCK_NB) < 0 || faccessat(fd, STORE_STATE, F_OK, 0) == 0)
        return error_set(e, EEXIST, "container %s: the name is taken; delete it, or choose another", id);
    unlinkat(fd, STORE_START, 0);
    s->dir = sys_take(&fd);
    return 0;
}

int store_create(struct store *s, const struct container_host *h, const char *id, struct error *e)
{
    int r = set_path(s, h, id, true, e);
    if (r < 0)
        return r;
    if (mkdir(s->path, 0700) < 0)
        return errno == EEXIST ? take_over(s, id, e) : sys_error(e, "%s", s->path);
    s->dir = open(s->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (s->dir < 0 || flock(s->dir, LOCK_EX) < 0)
        return sys_error(e, "%s", s->path);
    return 0;
}

int store_open(struct store *s, const struct container_host *h, const char *id, bool lock, struct error *e)
{
    int r = set_path(s, h, id, false, e);
    if (r < 0)
        return r;
    CLEANUP_FD int fd = open(s->path, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC);
    if (fd < 0)
        return error_set(e, errno, "container %s: %s", id, errno == ENOENT ? "does not exist" : strerror(errno));
    s->dir = sys_take(&fd);
    if (lock && (r = store_lock(s, e)) < 0)
        store_close(s);
    return r;
}

int store_lock(struct store *s, struct error *e)
{
    struct stat there, mine;
    while (flock(s->dir, LOCK_EX) < 0)
        if (errno != EINTR)
            return sys_error(e, "%s: locking it", s->path);
    /* Removed while we waited, perhaps made anew. */
    if (fstat(s->dir, &mine) < 0 || stat(s->path, &there) < 0 || there.st_ino != mine.st_ino)
        return error_set(e, ENOENT, "container %s: does not exist", strrchr(s->path, '/') + 1);
    return 0;
}

void store_unlock(struct store *s)
{
    flock(s->dir, LOCK_UN);
}

void store_close(struct store *s)
{
    sys_close(&s->dir);
    s->dir = -1;
}

int store_remove(struct store *s, struct error *e)
{
    static const char *const names[] = {STORE_START, STORE_CONFIG, STORE_STATE ".new", "notify/notify.sock"};
    for (size_t i = 0; i < ARRAY_LEN(names); i++)
        if (unlinkat(s->dir, names[i], 0) < 0 && errno != ENOENT && errno != ENOTDIR)
            return sys_error(e, "%s/%s", s->path, names[i]);
    unlinkat(s->dir, "notify", AT_REMOVEDIR);
    /* The state last: who is killed here can be called again. */
    if (unlinkat(s->dir, STORE_STATE, 0) < 0 && errno != ENOENT)
        return sys_error(e, "%s/" STORE_STATE, s->path);
    return rmdir(s->path) < 0 && errno != ENOENT ? sys_error(e, "%s", s->path) : 0;
}

int store_write(const struct store *s, const char *name, const char *text, size_t size, struct error *e)
{
    /* The state is what makes a container: all else is written before it, and counts only with it. */
    bool whole = !strcmp(name, STORE_STATE);
    char temporary[64];
    snprintf(temporary, sizeof(temporary), "%s%s", name, whole ? ".new" : "");
    CLEANUP_FD int fd = openat(s->dir, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_NOFOLLOW | O_CLOEXEC, 0600);
    int r = fd < 0 ? -errno : sys_write_all(fd, text, size);
    if (r == 0 && whole && renameat(s->dir, temporary, s->dir, name) < 0)
        r = -errno;
    return r < 0 ? error_set(e, -r, "%s/%s: %s", s->path, name, strerror(-r)) : 0;
}

static json_t *cgroups_to_json(const struct cgroup *g)
{
    json_t *list = json_array();
    for (size_t i = 0; i < g->n; i++) {
        const struct cgroup_hierarchy *h = &g->h[i];
        json_array_append_new(list,
                              json_pack("{s:b,s:b,s:b,s:s,s:s,s:s}", "v2", h->v2, "used", h->used, "made", h->made,
                                        "controllers", h->controllers, "mount", h->mount, "path", h->path));
    }
    return json_pack("{s:b,s:b,s:o}", "unified", g->unified, "rootless", g->rootless, "hierarchies", list);
}

int store_save(const struct store *s, const struct record *r, struct error *e)
{
    json_t *j =
        json_pack("{s:s,s:i,s:I,s:s,s:s,s:s,s:I,s:b,s:o}", "id", r->id, "pid", (int)r->pid, "startTime",
                  (json_int_t)r->start_time, "bundle", r->bundle, "rootfs", r->rootfs, "created", r->created, "owner",
                  (json_int_t)r->owner, "systemdCgroup", r->systemd_cgroup, "cgroup", cgroups_to_json(&r->cgroup));
    char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    int bad = text ? store_write(s, STORE_STATE, text, strlen(text), e)
                   : error_set(e, EINVAL, "%s: a name is no UTF-8", s->path);
    free(text);
    return bad;
}

static bool copy(char *out, size_t size, const json_t *j, const char *name)
{
    const char *text = json_string_value(json_object_get(j, name));
    return text && snprintf(out, size, "%s", text) < (int)size;
}

static bool cgroups_from_json(struct cgroup *g, const json_t *j)
{
    const json_t *list = json_object_get(j, "hierarchies");
    memset(g, 0, sizeof(*g));
    g->unified = json_is_true(json_object_get(j, "unified"));
    g->rootless = json_is_true(json_object_get(j, "rootless"));
    if (!json_is_array(list) || json_array_size(list) > CGROUP_HIERARCHIES)
        return false;
    for (g->n = 0; g->n < json_array_size(list); g->n++) {
        struct cgroup_hierarchy *h = &g->h[g->n];
        const json_t *one = json_array_get(list, g->n);
        h->dir = h->tasks = -1;
        h->v2 = json_is_true(json_object_get(one, "v2"));
        h->used = json_is_true(json_object_get(one, "used"));
        h->made = json_is_true(json_object_get(one, "made"));
        if (!copy(h->controllers, sizeof(h->controllers), one, "controllers") ||
            !copy(h->mount, sizeof(h->mount), one, "mount") || !copy(h->path, sizeof(h->path), one, "path"))
            return false;
    }
    return true;
}

int store_load(const struct store *s, struct record *r, struct error *e)
{
    char *text;
    size_t size;
    memset(r, 0, sizeof(*r));
    int bad = sys_read_at(s->dir, STORE_STATE, 1 << 20, &text, &size);
    if (bad < 0)
        return error_set(e, -bad, "%s: %s", s->path,
                         bad == -ENOENT ? "is being created, or its creation was killed" : strerror(-bad));
    json_t *j = json_loadb(text, size, 0, NULL);
    free(text);
    r->pid = (pid_t)json_integer_value(json_object_get(j, "pid"));
    r->start_time = (u64)json_integer_value(json_object_get(j, "startTime"));
    r->owner = (u32)json_integer_value(json_object_get(j, "owner"));
    r->systemd_cgroup = json_is_true(json_object_get(j, "systemdCgroup"));
    bool good = copy(r->id, sizeof(r->id), j, "id") && copy(r->bundle, sizeof(r->bundle), j, "bundle") &&
                copy(r->rootfs, sizeof(r->rootfs), j, "rootfs") && copy(r->created, sizeof(r->created), j, "created") &&
                cgroups_from_json(&r->cgroup, json_object_get(j, "cgroup"));
    json_decref(j);
    return good ? 0
                : error_set(e, EINVAL, "%s/" STORE_STATE ": is damaged; delete the container with --force", s->path);
}

/* /proc/self/fd/N/name: short enough for an address however deep the directory lies. */
static void address_of(const struct store *s, const char *name, struct sockaddr_un *a)
{
    memset(a, 0, sizeof(*a));
    a->sun_family = AF_UNIX;
    snprintf(a->sun_path, sizeof(a->sun_path), "/proc/self/fd/%d/%.60s", s->dir, name);
}

int store_bind(const struct store *s, const char *name, int type, struct error *e)
{
    struct sockaddr_un a;
    address_of(s, name, &a);
    CLEANUP_FD int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0 || bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        return sys_error(e, "%s/%s", s->path, name);
    if (type != SOCK_DGRAM && listen(fd, 8) < 0)
        return sys_error(e, "%s/%s", s->path, name);
    return sys_take(&fd);
}

int store_connect(const struct store *s, const char *name, int type, struct error *e)
{
    struct sockaddr_un a;
    address_of(s, name, &a);
    CLEANUP_FD int fd = socket(AF_UNIX, type | SOCK_CLOEXEC, 0);
    if (fd < 0 || connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        return sys_error(e, "%s/%s", s->path, name);
    return sys_take(&fd);
}

bool store_alive(const struct record *r)
{
    return r->pid > 0 && r->start_time && sys_start_time(r->pid) == r->start_time;
}

enum container_status store_status(const struct store *s, const struct record *r)
{
    if (!store_alive(r))
        return STATUS_STOPPED;
    if (faccessat(s->dir, STORE_START, F_OK, 0) == 0)
        return STATUS_CREATED;
    struct cgroup g = r->cgroup;
    cgroup_open(&g, NULL);
    int frozen = cgroup_frozen(&g);
    cgroup_close(&g);
    return frozen == 1 ? STATUS_PAUSED : STATUS_RUNNING;
}

const char *store_status_name(enum container_status status)
{
    static const char *const names[] = {"creating", "created", "running", "paused", "stopped"};
    return names[status];
}
