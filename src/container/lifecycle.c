/* kill, delete, pause, resume, and what is asked about containers: state, list, processes. */
#include "container/container.h"
#include "container/hook.h"
#include "container/launch.h"
#include "container/rdt.h"
#include "container/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

int container_signal(const char *name)
{
    u64 number;
    char *end;
    long n = strtol(name, &end, 10);
    if (*name && !*end)
        return n >= 0 && n <= SIGRTMAX ? (int)n : -EINVAL;
    if (!strncasecmp(name, "SIG", 3))
        name += 3;
    char upper[16] = "";
    for (size_t i = 0; name[i] && i < sizeof(upper) - 1; i++)
        upper[i] = name[i] >= 'a' && name[i] <= 'z' ? (char)(name[i] - 32) : name[i];
    if (word_value(spec_signal_words, upper, &number))
        return (int)number;
    if (!strncmp(upper, "RTMIN", 5) || !strncmp(upper, "RTMAX", 5)) {
        n = strtol(upper + 5, &end, 10);
        n += upper[4] == 'N' ? SIGRTMIN : SIGRTMAX;
        return !*end && n >= SIGRTMIN && n <= SIGRTMAX ? (int)n : -EINVAL;
    }
    return -EINVAL;
}

/* A descriptor of the process, after making sure that the number is still its own; -ESRCH otherwise. */
static int open_process(const struct record *r)
{
    CLEANUP_FD int fd = r->pid > 0 ? sys_pidfd_open(r->pid) : -1;
    if (fd < 0 || !store_alive(r))
        return -ESRCH;
    return sys_take(&fd);
}

int container_kill(const struct container_host *h, const char *id, int signal, bool all, struct error *e)
{
    struct launch l;
    int r = launch_open(&l, h, id, false, false, e);
    if (r == 0 && all) {
        cgroup_open(&l.record.cgroup, e);
        r = cgroup_kill(&l.record.cgroup, signal, e);
    } else if (r == 0) {
        CLEANUP_FD int fd = open_process(&l.record);
        if (fd < 0)
            r = error_set(e, ESRCH, "container %s: is not running", id);
        else if (sys_pidfd_signal(fd, signal) < 0)
            r = sys_error(e, "container %s: signal %d", id, signal);
        /* A frozen one would get it only when resumed; who kills means now. */
        if (r == 0 && signal == SIGKILL) {
            cgroup_open(&l.record.cgroup, NULL);
            if (cgroup_frozen(&l.record.cgroup) == 1)
                cgroup_freeze(&l.record.cgroup, false, NULL);
        }
    }
    launch_free(&l);
    return r;
}

/* Wait for its end, for a while: a process in the kernel's hands may take its time. */
static void await_end(int pidfd)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    while (poll(&p, 1, 10000) < 0 && errno == EINTR)
        ;
}

int launch_remove(struct launch *l, struct error *e)
{
    struct cgroup *g = &l->record.cgroup;
    int r = cgroup_remove(g, e);
    rdt_leave(&l->spec.rdt, l->record.id);
    if (r == 0)
        r = store_remove(&l->store, e);
    if (r < 0)
        return r;
    /* A failing poststop hook changes nothing about the container, which is gone (runtime.md). */
    char *text = l->spec.hooks[HOOK_POSTSTOP].n ? launch_state_text(&l->record, &l->spec, STATUS_STOPPED) : NULL;
    if (text) {
        struct error said = {0};
        if (hook_run(&l->spec.hooks[HOOK_POSTSTOP], "poststop", text, "/", &said) < 0)
            dprintf(2, "trapeze-oci: warning: %s\n", said.msg);
    }
    free(text);
    return 0;
}

/* What a killed creation has left: no state, perhaps cgroups, which are found by the configuration. */
static int remove_unborn(struct launch *l, struct error *e)
{
    struct error ignored = {0};
    if (sys_read_at(l->store.dir, STORE_CONFIG, 64 << 20, &l->config, &l->config_size) == 0 &&
        spec_parse(&l->spec, l->config, l->config_size, &ignored) == 0) {
        struct cgroup *g = &l->record.cgroup;
        const char *id = strrchr(l->store.path, '/') + 1;
        if (cgroup_find(g, &ignored) == 0 &&
            cgroup_place(g, l->spec.cgroups_path, id, l->host->systemd_cgroup, &ignored) == 0) {
            /* Only empty ones: others may belong to somebody who uses the same path. */
            for (size_t i = 0; i < g->n; i++) {
                char path[sizeof(g->h[i].mount) + sizeof(g->h[i].path)];
                snprintf(path, sizeof(path), "%s%s", g->h[i].mount, g->h[i].path);
                rmdir(path);
            }
        }
    }
    return store_remove(&l->store, e);
}

int container_delete(const struct container_host *h, const char *id, bool force, struct error *e)
{
    struct launch l;
    struct error mine = {0};
    int r = launch_open(&l, h, id, true, true, &mine);
    if (r == -ENOENT && l.store.dir < 0 && force) {
        launch_free(&l);
        return 0;
    }
    if (r < 0 && l.store.dir >= 0 && (force || r == -ENOENT) && !l.record.pid) {
        r = remove_unborn(&l, e);
        launch_free(&l);
        return r;
    }
    if (r < 0 && !(force && l.record.pid))
        error_set(e, mine.code, "%s", mine.msg);
    else
        r = 0;
    enum container_status status = r == 0 ? store_status(&l.store, &l.record) : STATUS_STOPPED;
    if (r == 0 && status != STATUS_STOPPED && status != STATUS_CREATED && !force)
        r = error_set(e, EBUSY, "container %s: is %s; stop it first, or use --force", id, store_status_name(status));
    if (r == 0) {
        cgroup_open(&l.record.cgroup, NULL);
        CLEANUP_FD int fd = open_process(&l.record);
        if (fd >= 0) {
            sys_pidfd_signal(fd, SIGKILL);
            if (status == STATUS_PAUSED)
                cgroup_freeze(&l.record.cgroup, false, NULL);
            await_end(fd);
        }
        /* Without a PID namespace of its own its other processes live on. */
        cgroup_kill(&l.record.cgroup, SIGKILL, NULL);
        cgroup_close(&l.record.cgroup);
        r = launch_remove(&l, e);
    }
    launch_free(&l);
    return r;
}

int container_pause(const struct container_host *h, const char *id, bool pause, struct error *e)
{
    struct launch l;
    int r = launch_open(&l, h, id, true, false, e);
    enum container_status status = r == 0 ? store_status(&l.store, &l.record) : STATUS_STOPPED;
    bool fits = pause ? status == STATUS_RUNNING || status == STATUS_CREATED : status == STATUS_PAUSED;
    if (r == 0 && !fits)
        r = error_set(e, EINVAL, "container %s: is %s, it can not be %s", id, store_status_name(status),
                      pause ? "paused" : "resumed");
    if (r == 0) {
        cgroup_open(&l.record.cgroup, e);
        r = cgroup_freeze(&l.record.cgroup, pause, e);
        if (r < 0 && pause)
            cgroup_freeze(&l.record.cgroup, false, NULL);
    }
    launch_free(&l);
    return r;
}

static json_t *state_of(struct launch *l, bool more)
{
    enum container_status status = store_status(&l->store, &l->record);
    json_t *j = launch_state(&l->record, &l->spec, status);
    if (more) {
        json_object_set_new(j, "rootfs", json_string(l->record.rootfs));
        json_object_set_new(j, "created", json_string(l->record.created));
        json_object_set_new(j, "owner", json_sprintf("%u", l->record.owner));
        json_object_set_new(j, "systemdCgroup", json_boolean(l->record.systemd_cgroup));
    }
    return j;
}

/* In the making: there, and without a process. */
static json_t *state_unborn(const char *id)
{
    return json_pack("{s:s,s:s,s:s,s:i,s:s}", "ociVersion", SPEC_VERSION_MAX, "id", id, "status", "creating", "pid", 0,
                     "bundle", "");
}

json_t *container_state(const struct container_host *h, const char *id, bool more, struct error *e)
{
    struct launch l;
    struct error mine = {0};
    int r = launch_open(&l, h, id, false, true, &mine);
    json_t *j = NULL;
    if (r == 0)
        j = state_of(&l, more);
    else if (r == -ENOENT && l.store.dir >= 0 && !l.record.pid)
        j = state_unborn(id);
    else
        error_set(e, mine.code, "%s", mine.msg);
    launch_free(&l);
    return j;
}

json_t *container_list(const struct container_host *h, struct error *e)
{
    char root[4096];
    if (store_root(h, root, sizeof(root), e) < 0)
        return NULL;
    json_t *list = json_array();
    DIR *dir = opendir(root);
    const struct dirent *d;
    if (!dir && errno != ENOENT) {
        sys_error(e, "%s", root);
        json_decref(list);
        return NULL;
    }
    while (dir && (d = readdir(dir))) {
        struct error ignored = {0};
        struct launch l;
        if (d->d_name[0] == '.' || store_check_id(d->d_name, &ignored) < 0)
            continue;
        if (launch_open(&l, h, d->d_name, false, true, &ignored) == 0)
            json_array_append_new(list, state_of(&l, true));
        launch_free(&l);
    }
    if (dir)
        closedir(dir);
    return list;
}

static ino_t process_namespace(pid_t pid)
{
    char path[40];
    struct stat st;
    snprintf(path, sizeof(path), "/proc/%d/ns/pid", (int)pid);
    return stat(path, &st) < 0 ? 0 : st.st_ino;
}

/* Without a cgroup: those of its process namespace. Those of namespaces that it has made itself are not among them. */
static json_t *namespace_processes(pid_t first, struct error *e)
{
    const struct dirent *d;
    ino_t own = process_namespace(first);
    DIR *dir = opendir("/proc");
    json_t *list = dir ? json_array() : NULL;
    if (!list)
        sys_error(e, "/proc");
    while (list && own && own != process_namespace(getpid()) && (d = readdir(dir))) {
        pid_t pid = (pid_t)strtol(d->d_name, NULL, 10);
        if (pid > 0 && process_namespace(pid) == own)
            json_array_append_new(list, json_integer(pid));
    }
    if (dir)
        closedir(dir);
    return list;
}

json_t *container_processes(const struct container_host *h, const char *id, struct error *e)
{
    struct launch l;
    pid_t *pids = NULL;
    size_t n = 0;
    int r = launch_open(&l, h, id, false, false, e);
    if (r == 0) {
        cgroup_open(&l.record.cgroup, e);
        r = cgroup_processes(&l.record.cgroup, &pids, &n, e);
    }
    bool none = r == 0 && !cgroup_is_used(&l.record.cgroup);
    json_t *list = none ? namespace_processes(l.record.pid, e) : r == 0 ? json_array() : NULL;
    for (size_t i = 0; list && i < n; i++)
        json_array_append_new(list, json_integer(pids[i]));
    free(pids);
    launch_free(&l);
    return list;
}
