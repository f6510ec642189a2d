#include "container/cgroup.h"
#include "container/idmap.h"
#include "container/sys.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/magic.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <time.h>
#include <unistd.h>

#define CGROUP_DEPTH 32 /* of cgroups that a container made below its own */

/* --- finding --- */

/* The n-th field (from 0) of a line, up to the next blank: its length. */
static size_t field(const char *line, int n, const char **out)
{
    while (n-- > 0 && *line) {
        line += strcspn(line, " \n");
        line += *line == ' ';
    }
    *out = line;
    return strcspn(line, " \n");
}

/* Undo the escapes of mountinfo: \040 is a blank. */
static void unescape(char *s)
{
    char *out = s;
    for (; *s; s++) {
        if (s[0] == '\\' && s[1] >= '0' && s[1] <= '3' && isdigit(s[2]) && isdigit(s[3])) {
            *out++ = (char)((s[1] - '0') * 64 + (s[2] - '0') * 8 + (s[3] - '0'));
            s += 3;
        } else {
            *out++ = *s;
        }
    }
    *out = 0;
}

/* Whether `word` is in the comma-separated `list`. */
static bool in_list(const char *list, const char *word)
{
    size_t n = strlen(word);
    for (const char *p = list; *p; p += strcspn(p, ","), p += *p == ',')
        if (strcspn(p, ",") == n && !strncmp(p, word, n))
            return true;
    return false;
}

/* One line of /proc/self/cgroup: ID:controllers:path. */
static void parse_own(struct cgroup *g, const char *line)
{
    const char *controllers = strchr(line, ':'), *path = controllers ? strchr(controllers + 1, ':') : NULL;
    size_t end = strcspn(line, "\n");
    if (!path || g->n == CGROUP_HIERARCHIES || path > line + end)
        return;
    struct cgroup_hierarchy *h = &g->h[g->n];
    int n = (int)(path - controllers - 1), len = (int)(line + end - path - 1);
    memset(h, 0, sizeof(*h));
    h->dir = h->tasks = -1;
    h->v2 = line[0] == '0' && line[1] == ':';
    if (n >= (int)sizeof(h->controllers) || len >= (int)sizeof(h->path) || len < 1)
        return;
    memcpy(h->controllers, controllers + 1, (size_t)n);
    memcpy(h->path, path + 1, (size_t)len);
    g->n++;
}

/* One line of mountinfo: give the hierarchy that it mounts its place. The first mount of each counts. */
static void parse_mount(struct cgroup *g, const char *line)
{
    const char *root, *point, *type, *options, *dash = strstr(line, " - ");
    const char *end = line + strcspn(line, "\n");
    char super[256];
    if (!dash || dash > end)
        return;
    size_t root_n = field(line, 3, &root), point_n = field(line, 4, &point);
    size_t type_n = field(dash + 3, 0, &type), options_n = field(dash + 3, 2, &options);
    bool v2 = type_n == 7 && !strncmp(type, "cgroup2", 7);
    if (!v2 && !(type_n == 6 && !strncmp(type, "cgroup", 6)))
        return;
    snprintf(super, sizeof(super), "%.*s", (int)options_n, options);
    for (size_t i = 0; i < g->n; i++) {
        struct cgroup_hierarchy *h = &g->h[i];
        char first[sizeof(h->controllers)];
        snprintf(first, sizeof(first), "%.*s", (int)strcspn(h->controllers, ","), h->controllers);
        if (h->v2 != v2 || h->mount[0] || point_n >= sizeof(h->mount) || (!v2 && !in_list(super, first)))
            continue;
        memcpy(h->mount, point, point_n);
        unescape(h->mount);
        /* In a container the mount shows a part of the hierarchy: paths count from there. */
        if (root_n > 1 && !strncmp(h->path, root, root_n) && (h->path[root_n] == '/' || !h->path[root_n]))
            memmove(h->path, h->path + root_n, strlen(h->path + root_n) + 1);
    }
}

int cgroup_parse(struct cgroup *g, const char *mountinfo, const char *own, struct error *e)
{
    size_t kept = 0;
    g->n = 0;
    for (const char *line = own; *line; line += strcspn(line, "\n"), line += *line == '\n')
        parse_own(g, line);
    for (const char *line = mountinfo; *line; line += strcspn(line, "\n"), line += *line == '\n')
        parse_mount(g, line);
    for (size_t i = 0; i < g->n; i++) {
        if (!g->h[i].mount[0])
            continue;
        if (!strcmp(g->h[i].path, "/"))
            g->h[i].path[0] = 0;
        if (kept != i)
            g->h[kept] = g->h[i];
        kept++;
    }
    g->n = kept;
    g->unified = g->n == 1 && g->h[0].v2;
    return 0;
}

int cgroup_find(struct cgroup *g, struct error *e)
{
    CLEANUP_FREE char *mounts = NULL, *own = NULL;
    size_t size;
    int r = sys_read_at(AT_FDCWD, "/proc/self/cgroup", 1 << 20, &own, &size);
    if (r == 0)
        r = sys_read_at(AT_FDCWD, "/proc/self/mountinfo", 64 << 20, &mounts, &size);
    memset(g, 0, sizeof(*g));
    g->rootless = geteuid() != 0 || idmap_nested();
    if (r == -ENOENT)
        return 0; /* a kernel without cgroups */
    if (r < 0)
        return error_set(e, -r, "/proc/self/cgroup: %s", strerror(-r));
    return cgroup_parse(g, mounts, own, e);
}

/* --- placing --- */

int cgroup_systemd_path(char *out, size_t size, const char *triple, struct error *e)
{
    char slice[256], prefix[256];
    const char *one = strchr(triple, ':'), *two = one ? strchr(one + 1, ':') : NULL;
    if (!two || one - triple >= 200 || two - one >= 200 || strchr(triple, '/') || !two[1])
        return error_set(e, EINVAL, "cgroupsPath \"%.80s\": with --systemd-cgroup it is slice:prefix:name", triple);
    snprintf(slice, sizeof(slice), "%.*s", (int)(one - triple), triple);
    snprintf(prefix, sizeof(prefix), "%.*s", (int)(two - one - 1), one + 1);
    if (!slice[0])
        snprintf(slice, sizeof(slice), "system.slice");
    size_t len = strlen(slice), used = 0;
    if (len <= 6 || strcmp(slice + len - 6, ".slice"))
        return error_set(e, EINVAL, "cgroupsPath \"%.80s\": %s is no slice", triple, slice);
    /* a-b.slice lies in a.slice */
    for (size_t i = 1; i <= len - 6; i++)
        if ((slice[i] == '-' || i == len - 6) && used < size)
            used += (size_t)snprintf(out + used, size - used, "/%.*s.slice", (int)i, slice);
    if (used < size)
        used += (size_t)snprintf(out + used, size - used, "/%s%s%s.scope", prefix, prefix[0] ? "-" : "", two + 1);
    return used < size ? 0 : error_set(e, ENAMETOOLONG, "cgroupsPath %.80s: too long", triple);
}

static bool climbs(const char *path)
{
    for (const char *p = path; *p; p += strcspn(p, "/"), p += *p == '/')
        if (!strncmp(p, "..", 2) && (p[2] == '/' || !p[2]))
            return true;
    return false;
}

int cgroup_place(struct cgroup *g, const char *path, const char *id, bool systemd, struct error *e)
{
    char whole[CGROUP_PATH], made[300];
    if (systemd && path && *path && strchr(path, ':')) {
        int r = cgroup_systemd_path(whole, sizeof(whole), path, e);
        if (r < 0)
            return r;
        path = whole;
    }
    if (!path || !*path) {
        snprintf(made, sizeof(made), "trapeze-%.200s", id);
        path = made;
    }
    if (climbs(path))
        return error_set(e, EINVAL, "cgroupsPath %.80s: \"..\" is refused", path);
    if (!path[strspn(path, "/")])
        return error_set(e, EINVAL, "cgroupsPath %.80s: is the root of all cgroups: refused", path);
    for (size_t i = 0; i < g->n; i++) {
        struct cgroup_hierarchy *h = &g->h[i];
        char own[CGROUP_PATH];
        memcpy(h->own, h->path, sizeof(h->own));
        snprintf(own, sizeof(own), "%s", path[0] == '/' ? "" : h->path);
        /* Version 2 has no processes in inner nodes: beside the runtime's own, not below. */
        if (h->v2 && own[0])
            *strrchr(own, '/') = 0;
        int n = snprintf(h->path, sizeof(h->path), "%s/%s", own, path + strspn(path, "/"));
        if (n < 0 || n >= (int)sizeof(h->path))
            return error_set(e, ENAMETOOLONG, "cgroupsPath %.80s: too long", path);
        while (n > 1 && h->path[n - 1] == '/')
            h->path[--n] = 0;
    }
    return 0;
}

/* --- making --- */

const struct cgroup_hierarchy *cgroup_with(const struct cgroup *g, const char *controller)
{
    for (size_t i = 0; i < g->n; i++)
        if (controller[0] ? in_list(g->h[i].controllers, controller) : g->h[i].v2)
            return &g->h[i];
    return NULL;
}

int cgroup_write(const struct cgroup_hierarchy *h, const char *file, const char *text, struct error *e)
{
    int r = h->dir < 0 ? -ENOENT : sys_write_at(h->dir, file, text, strlen(text));
    return r < 0
               ? error_set(e, -r, "cgroup %s%s/%s: writing \"%.60s\": %s", h->mount, h->path, file, text, strerror(-r))
               : 0;
}

/* A cpuset that version 1 has just made is empty, and nobody may join it: it begins with what its parent has. */
static void fill_cpuset(int dir)
{
    static const char *const files[] = {"cpuset.cpus", "cpuset.mems"};
    char text[4096];
    for (size_t i = 0; i < ARRAY_LEN(files); i++) {
        char parent[32];
        snprintf(parent, sizeof(parent), "../%s", files[i]);
        if (sys_read_small(dir, files[i], text, sizeof(text)) == 0 &&
            sys_read_small(dir, parent, text, sizeof(text)) > 0)
            sys_write_at(dir, files[i], text, strlen(text));
    }
}

/* Let the children of `dir` have the controllers that it has itself. */
static void delegate(int dir)
{
    char have[256], text[512] = "", *rest = have;
    if (sys_read_small(dir, "cgroup.controllers", have, sizeof(have)) <= 0)
        return;
    size_t used = 0;
    for (char *one; (one = strsep(&rest, " ")) && used < sizeof(text) - 32;)
        if (*one)
            used += (size_t)snprintf(text + used, sizeof(text) - used, "+%.20s ", one);
    if (sys_write_at(dir, "cgroup.subtree_control", text, used) == 0)
        return;
    /* One that can not be had (cpu with real-time processes about) must not keep the others out. */
    for (char *one = text; *one; one += strcspn(one, " ") + 1)
        sys_write_at(dir, "cgroup.subtree_control", one, strcspn(one, " "));
}

/* mkdir -p below the mount, a level at a time where something is to be done on each. The last directory or -errno. */
static int make_path(struct cgroup_hierarchy *h, bool delegates)
{
    bool cpuset = in_list(h->controllers, "cpuset");
    char path[CGROUP_PATH];
    CLEANUP_FD int dir = open(h->mount, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return -errno;
    h->made = mkdirat(dir, h->path + 1, 0755) == 0;
    if (!h->made && errno != EEXIST && errno != ENOENT)
        return -errno;
    bool parents = !h->made && errno == ENOENT;
    snprintf(path, sizeof(path), "%s", h->path + 1);
    for (char *p = path; (parents || cpuset || delegates) && *p;) {
        if (delegates)
            delegate(dir);
        size_t n = strcspn(p, "/");
        char *next = p + n + strspn(p + n, "/");
        p[n] = 0;
        if (mkdirat(dir, p, 0755) == 0)
            h->made = !*next;
        else if (errno != EEXIST)
            return -errno;
        int below = openat(dir, p, O_PATH | O_DIRECTORY | O_CLOEXEC);
        if (below < 0)
            return -errno;
        close(dir);
        dir = below;
        if (cpuset)
            fill_cpuset(dir);
        p = next;
    }
    if (parents || cpuset || delegates)
        return sys_take(&dir);
    int last = openat(dir, h->path + 1, O_PATH | O_DIRECTORY | O_CLOEXEC);
    return last < 0 ? -errno : last;
}

static bool is_denied(int r)
{
    return r == -EACCES || r == -EPERM || r == -EROFS;
}

int cgroup_create(struct cgroup *g, struct error *e)
{
    for (size_t i = 0; i < g->n; i++) {
        struct cgroup_hierarchy *h = &g->h[i];
        h->dir = make_path(h, g->unified);
        if (h->dir < 0) {
            int r = h->dir;
            h->dir = -1;
            if (g->rootless && is_denied(r))
                continue; /* stays where it is; a limit that needs it will say so */
            return error_set(e, -r, "cgroup %s%s: %s", h->mount, h->path, strerror(-r));
        }
        h->used = true;
        if (!h->v2)
            h->tasks = openat(h->dir, "tasks", O_WRONLY | O_CLOEXEC);
    }
    return 0;
}

int cgroup_open(struct cgroup *g, struct error *e)
{
    for (size_t i = 0; i < g->n; i++) {
        struct cgroup_hierarchy *h = &g->h[i];
        if (!h->used)
            continue;
        char path[sizeof(h->mount) + sizeof(h->path)];
        snprintf(path, sizeof(path), "%s%s", h->mount, h->path);
        h->dir = open(path, O_PATH | O_DIRECTORY | O_CLOEXEC);
        h->tasks = h->dir < 0 || h->v2 ? -1 : openat(h->dir, "tasks", O_WRONLY | O_CLOEXEC);
    }
    return 0;
}

void cgroup_close(struct cgroup *g)
{
    for (size_t i = 0; i < g->n; i++) {
        sys_close(&g->h[i].dir);
        sys_close(&g->h[i].tasks);
        g->h[i].dir = g->h[i].tasks = -1;
    }
}

bool cgroup_is_used(const struct cgroup *g)
{
    bool used = false;
    for (size_t i = 0; i < g->n; i++)
        used |= g->h[i].used;
    return used;
}

int cgroup_into(const struct cgroup *g)
{
    const struct cgroup_hierarchy *h = cgroup_with(g, "");
    return h ? h->dir : -1;
}

int cgroup_join(struct cgroup *g, struct error *e)
{
    for (size_t i = 0; i < g->n; i++) {
        struct cgroup_hierarchy *h = &g->h[i];
        if (h->tasks < 0)
            continue;
        if (write(h->tasks, "0", 1) < 0 && !(g->rootless && (errno == EACCES || errno == EPERM)))
            return sys_error(e, "cgroup %s%s: joining it", h->mount, h->path);
        close(h->tasks);
        h->tasks = -1;
    }
    return 0;
}

int cgroup_move(const struct cgroup *g, pid_t pid, struct error *e)
{
    const struct cgroup_hierarchy *h = cgroup_with(g, "");
    char text[16];
    if (!h || h->dir < 0)
        return 0;
    snprintf(text, sizeof(text), "%d", (int)pid);
    int r = sys_write_at(h->dir, "cgroup.procs", text, strlen(text));
    if (r < 0 && !(g->rootless && is_denied(r)))
        return error_set(e, -r, "cgroup %s%s: joining it: %s", h->mount, h->path, strerror(-r));
    return 0;
}

/* --- its processes --- */

struct process_list {
    pid_t *v;
    size_t n, room;
};

static int add_processes(struct process_list *list, int dir)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    int r = sys_read_at(dir, "cgroup.procs", 16 << 20, &text, &size);
    if (r < 0)
        return r == -ENOENT || r == -EOPNOTSUPP ? 0 : r;
    for (char *p = text, *end; *p; p = end + (*end == '\n')) {
        long pid = strtol(p, &end, 10);
        if (end == p)
            break;
        if (list->n == list->room) {
            size_t room = list->room ? 2 * list->room : 64;
            pid_t *v = realloc(list->v, room * sizeof(*v));
            if (!v)
                return -ENOMEM;
            list->v = v;
            list->room = room;
        }
        list->v[list->n++] = (pid_t)pid;
    }
    return 0;
}

/* Call `visit` for `dir` and all below, the deepest first. */
static int walk(int parent, const char *name, int depth,
                int (*visit)(int parent, const char *name, int dir, void *more), void *more)
{
    if (depth > CGROUP_DEPTH)
        return -ELOOP;
    int fd = openat(parent, name, O_RDONLY | O_DIRECTORY | O_NOFOLLOW | O_CLOEXEC), r = 0;
    if (fd < 0)
        return errno == ENOENT ? 0 : -errno;
    DIR *dir = fdopendir(fd);
    if (!dir) {
        close(fd);
        return -ENOMEM;
    }
    const struct dirent *d;
    while (r == 0 && (d = readdir(dir)))
        if (d->d_type == DT_DIR && strcmp(d->d_name, ".") && strcmp(d->d_name, ".."))
            r = walk(fd, d->d_name, depth + 1, visit, more);
    if (r == 0)
        r = visit(parent, name, fd, more);
    closedir(dir);
    return r;
}

static int visit_processes(int parent, const char *name, int dir, void *more)
{
    return add_processes(more, dir);
}

/* The hierarchy whose membership counts: one that the container surely has a place of its own in. */
static const struct cgroup_hierarchy *main_hierarchy(const struct cgroup *g)
{
    static const char *const order[] = {"freezer", "pids", "memory", "cpu", "name=systemd", ""};
    for (size_t i = 0; i < ARRAY_LEN(order); i++) {
        const struct cgroup_hierarchy *h = cgroup_with(g, order[i]);
        if (h && h->dir >= 0)
            return h;
    }
    return NULL;
}

int cgroup_processes(const struct cgroup *g, pid_t **pids, size_t *n, struct error *e)
{
    struct process_list list = {0};
    const struct cgroup_hierarchy *h = main_hierarchy(g);
    int r = h ? walk(h->dir, ".", 0, visit_processes, &list) : 0;
    *pids = list.v;
    *n = list.n;
    if (r < 0) {
        free(list.v);
        *pids = NULL;
        return error_set(e, -r, "cgroup %s%s: its processes: %s", h->mount, h->path, strerror(-r));
    }
    return 0;
}

int cgroup_kill(const struct cgroup *g, int signal, struct error *e)
{
    const struct cgroup_hierarchy *v2 = cgroup_with(g, "");
    pid_t *pids;
    size_t n;
    if (signal == SIGKILL && g->unified && v2->dir >= 0 && sys_write_at(v2->dir, "cgroup.kill", "1", 1) == 0)
        return 0;
    int r = cgroup_processes(g, &pids, &n, e);
    for (size_t i = 0; r == 0 && i < n; i++)
        if (pids[i] > 0 && pids[i] != getpid())
            kill(pids[i], signal);
    free(pids);
    return r;
}

/* --- removing --- */

static int visit_remove(int parent, const char *name, int dir, void *more)
{
    if (!strcmp(name, "."))
        return 0;
    return unlinkat(parent, name, AT_REMOVEDIR) < 0 && errno != ENOENT ? -errno : 0;
}

static void nap(long milliseconds)
{
    struct timespec t = {.tv_sec = 0, .tv_nsec = milliseconds * 1000000};
    nanosleep(&t, NULL);
}

static int remove_one(const struct cgroup *g, struct cgroup_hierarchy *h)
{
    char path[sizeof(h->mount) + sizeof(h->path)];
    snprintf(path, sizeof(path), "%s%s", h->mount, h->path);
    if (rmdir(path) == 0 || errno == ENOENT)
        return 0;
    /* Processes that were killed leave a moment later: up to about 3 s, asked more and more slowly. */
    int r = -errno;
    for (int i = 0; i < 40 && (r == -EBUSY || r == -ENOTEMPTY); i++) {
        CLEANUP_FD int top = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
        if (top < 0)
            return errno == ENOENT ? 0 : -errno;
        walk(top, ".", 0, visit_remove, NULL);
        if (rmdir(path) == 0 || errno == ENOENT)
            return 0;
        r = -errno;
        nap(MIN(i + 1, 4) * (long)25);
        if (i % 8 == 7)
            cgroup_kill(g, SIGKILL, NULL);
    }
    return r;
}

int cgroup_remove(struct cgroup *g, struct error *e)
{
    int bad = 0;
    for (size_t i = 0; i < g->n; i++) {
        struct cgroup_hierarchy *h = &g->h[i];
        if (!h->made)
            continue;
        int r = remove_one(g, h);
        if (r < 0 && bad == 0)
            bad = error_set(e, -r, "cgroup %s%s: removing it: %s", h->mount, h->path, strerror(-r));
    }
    return bad;
}

/* --- freezing --- */

int cgroup_frozen(const struct cgroup *g)
{
    char text[256];
    const struct cgroup_hierarchy *v1 = cgroup_with(g, "freezer"), *v2 = cgroup_with(g, "");
    if (v1 && v1->dir >= 0)
        return sys_read_small(v1->dir, "freezer.state", text, sizeof(text)) < 0 ? -ENOENT : !strcmp(text, "FROZEN");
    if (!v2 || v2->dir < 0 || sys_read_small(v2->dir, "cgroup.events", text, sizeof(text)) < 0)
        return -ENOENT;
    return strstr(text, "frozen 1") != NULL;
}

int cgroup_freeze(const struct cgroup *g, bool freeze, struct error *e)
{
    const struct cgroup_hierarchy *v1 = cgroup_with(g, "freezer"), *v2 = cgroup_with(g, "");
    const struct cgroup_hierarchy *h = v1 && v1->dir >= 0 ? v1 : v2;
    if (!h || h->dir < 0)
        return error_set(e, ENOTSUP, "pausing: the container is in no cgroup that can be frozen");
    int wanted = freeze, r = 0;
    for (int i = 0; i < 200; i++) {
        /* Version 1 forgets a freeze that a fork runs into: said again until it holds. */
        if (i % 10 == 0)
            r = h->v2 ? cgroup_write(h, "cgroup.freeze", freeze ? "1" : "0", e)
                      : cgroup_write(h, "freezer.state", freeze ? "FROZEN" : "THAWED", e);
        if (r < 0 || cgroup_frozen(g) == wanted)
            return r;
        nap(10);
    }
    return error_set(e, ETIMEDOUT, "%s: not done after 2 s", freeze ? "pausing" : "resuming");
}

/* --- limits --- */

struct spec_device_rule *cgroup_device_rules(const struct spec_resources *r, struct arena *arena, size_t *n)
{
    static const struct spec_device_rule always[] = {
        {true, 'c', -1, -1, "m"}, {true, 'b', -1, -1, "m"}, {true, 'c', 1, 3, "rwm"},    {true, 'c', 1, 5, "rwm"},
        {true, 'c', 1, 7, "rwm"}, {true, 'c', 1, 8, "rwm"}, {true, 'c', 1, 9, "rwm"},    {true, 'c', 5, 0, "rwm"},
        {true, 'c', 5, 1, "rwm"}, {true, 'c', 5, 2, "rwm"}, {true, 'c', 136, -1, "rwm"},
    };
    struct spec_device_rule *all = arena_array(arena, r->n_devices + ARRAY_LEN(always), sizeof(*all));
    *n = 0;
    if (!all)
        return NULL;
    if (r->n_devices)
        memcpy(all, r->devices, r->n_devices * sizeof(*all));
    memcpy(all + r->n_devices, always, sizeof(always));
    *n = r->n_devices + ARRAY_LEN(always);
    return all;
}

int cgroup_limit(const struct cgroup *g, const struct spec_resources *r, bool update, struct error *e)
{
    const struct cgroup_hierarchy *v2 = cgroup_with(g, "");
    if (!r->given && update)
        return 0;
    if (r->unified.n && !v2)
        return error_set(e, ENOTSUP, "resources.unified: this host has no cgroup version 2");
    if (!g->unified)
        return cgroup_limit_v1(g, r, update, e);
    int bad = cgroup_limit_v2(v2, r, e);
    if (bad < 0 || (update && !r->n_devices) || v2->dir < 0)
        return bad;
    struct arena arena = {0};
    size_t n;
    struct spec_device_rule *rules = cgroup_device_rules(r, &arena, &n);
    bad = rules ? cgroup_device_program(v2, rules, n, e) : error_set(e, ENOMEM, "cgroup: out of memory");
    arena_free(&arena);
    /* The kernel gives device programs to root alone; who is not root can make no nodes either. */
    return bad < 0 && g->rootless ? 0 : bad;
}
