#include "container/launch.h"
#include "container/hook.h"
#include "container/idmap.h"
#include "container/init.h"
#include "container/netdevice.h"
#include "container/notify.h"
#include "container/procfs.h"
#include "container/rdt.h"
#include "container/spawn.h"
#include "container/sync.h"
#include "container/sys.h"

#include <errno.h>
#include <poll.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/close_range.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define CONFIG_MAX (64u << 20)

int launch_check_fds(u32 preserve, struct error *e)
{
    for (u32 i = 0; i < preserve; i++)
        if (fcntl(3 + (int)i, F_GETFD) < 0)
            return error_set(e, EBADF, "--preserve-fds %u: descriptor %u is not open", preserve, 3 + i);
    /* What the caller left open beyond is nobody's business inside. */
    return close_range(3 + preserve, ~0u, CLOSE_RANGE_CLOEXEC) < 0 ? sys_error(e, "close_range") : 0;
}

u32 launch_listen_fds(void)
{
    const char *n = getenv("LISTEN_FDS"), *pid = getenv("LISTEN_PID");
    char *end;
    unsigned long v = n ? strtoul(n, &end, 10) : 0;
    if (!n || *end || !*n || v > 1024 || (pid && strtoul(pid, NULL, 10) != (unsigned long)getpid()))
        return 0;
    return (u32)v;
}

static void set_created(struct record *r)
{
    struct timespec now;
    struct tm tm;
    char text[24];
    clock_gettime(CLOCK_REALTIME, &now);
    gmtime_r(&now.tv_sec, &tm);
    strftime(text, sizeof(text), "%Y-%m-%dT%H:%M:%S", &tm);
    snprintf(r->created, sizeof(r->created), "%s.%09uZ", text, (u32)now.tv_nsec);
}

int launch_read(struct launch *l, const struct container_launch *how, struct error *e)
{
    struct record *r = &l->record;
    const char *bundle = how->bundle ? how->bundle : ".";
    l->cwd = open(".", O_PATH | O_DIRECTORY | O_CLOEXEC);
    l->pidfd = l->sync = l->store.dir = -1;
    const char *config = how->config;
    if (config) { /* given relative to where the caller is */
        int bad = sys_read_at(l->cwd, config, CONFIG_MAX, &l->config, &l->config_size);
        if (bad < 0)
            return error_set(e, -bad, "%s: %s", config, strerror(-bad));
    }
    if (chdir(bundle) < 0 || !getcwd(r->bundle, sizeof(r->bundle)))
        return sys_error(e, "bundle %s", bundle);
    int bad = config ? 0 : sys_read_at(AT_FDCWD, "config.json", CONFIG_MAX, &l->config, &l->config_size);
    if (bad < 0)
        return error_set(e, -bad, "%s/config.json: %s", r->bundle, strerror(-bad));
    bad = spec_parse(&l->spec, l->config, l->config_size, e);
    if (bad < 0)
        return bad;
    if (!l->spec.has_process)
        return error_set(e, EINVAL, "config.json: process: is missing");
    const char *root = l->spec.root_path;
    int n = snprintf(r->rootfs, sizeof(r->rootfs), "%s%s%s", root[0] == '/' ? "" : r->bundle, root[0] == '/' ? "" : "/",
                     root);
    snprintf(r->id, sizeof(r->id), "%s", how->id);
    set_created(r);
    r->owner = geteuid();
    return n >= (int)sizeof(r->rootfs) ? error_set(e, ENAMETOOLONG, "config.json: root.path: too long") : 0;
}

json_t *launch_state(const struct record *r, const struct spec *s, enum container_status status)
{
    json_t *notes = json_object();
    for (size_t i = 0; s && i + 1 < s->annotations.n; i += 2)
        json_object_set_new(notes, s->annotations.v[i], json_string(s->annotations.v[i + 1]));
    json_t *j = json_pack("{s:s,s:s,s:s,s:s,s:o}", "ociVersion", s && s->version ? s->version : SPEC_VERSION_MAX, "id",
                          r->id, "status", store_status_name(status), "bundle", r->bundle, "annotations", notes);
    /* The number means nothing once the process is gone. */
    json_object_set_new(j, "pid", json_integer(status == STATUS_STOPPED ? 0 : r->pid));
    return j;
}

char *launch_state_text(const struct record *r, const struct spec *s, enum container_status status)
{
    json_t *j = launch_state(r, s, status);
    char *text = json_dumps(j, JSON_COMPACT);
    json_decref(j);
    return text;
}

int launch_pid_file(int cwd, const char *path, pid_t pid, struct error *e)
{
    char temporary[PATH_MAX], text[16];
    const char *name = path ? strrchr(path, '/') : NULL;
    if (!path)
        return 0;
    name = name ? name + 1 : path;
    if (snprintf(temporary, sizeof(temporary), "%.*s.%s.new", (int)(name - path), path, name) >= (int)sizeof(temporary))
        return error_set(e, ENAMETOOLONG, "--pid-file: too long");
    int n = snprintf(text, sizeof(text), "%d", (int)pid);
    CLEANUP_FD int fd = openat(cwd, temporary, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0666);
    int r = fd < 0 ? -errno : sys_write_all(fd, text, (size_t)n);
    if (r == 0 && renameat(cwd, temporary, cwd, path) < 0)
        r = -errno;
    return r < 0 ? error_set(e, -r, "--pid-file %s: %s", path, strerror(-r)) : 0;
}

int launch_send_pidfd(const char *path, int pidfd, struct error *e)
{
    static const char name[] = "pidfd";
    if (!path)
        return 0;
    CLEANUP_FD int fd = sys_connect(path, SOCK_STREAM, e);
    if (fd < 0)
        return fd;
    return sys_send_fds(fd, name, sizeof(name) - 1, &pidfd, 1) < 0 ? sys_error(e, "--pidfd-socket %s", path) : 0;
}

int launch_listener(const struct spec_seccomp *s, struct error *e)
{
    if (!s->given || !s->listener_path)
        return -1;
    int fd = sys_connect(s->listener_path, SOCK_STREAM, e);
    if (fd < 0)
        error_prefix(e, "linux.seccomp.listenerPath");
    return fd;
}

char *launch_listener_state(const struct record *r, const struct spec *s, pid_t pid)
{
    json_t *j = json_pack("{s:s,s:[s],s:i,s:o}", "ociVersion", s->version, "fds", "seccompFd", "pid", (int)pid, "state",
                          launch_state(r, s, STATUS_CREATING));
    if (s->seccomp.listener_metadata)
        json_object_set_new(j, "metadata", json_string(s->seccomp.listener_metadata));
    char *text = json_dumps(j, JSON_COMPACT);
    json_decref(j);
    return text;
}

int launch_add_env(struct spec_process *p, struct arena *arena, const char *const *more)
{
    size_t n = 0;
    while (more && more[n])
        n++;
    char **v = arena_array(arena, p->env.n + n + 1, sizeof(char *));
    if (!v)
        return -ENOMEM;
    if (p->env.n)
        memcpy(v, p->env.v, p->env.n * sizeof(char *));
    for (size_t i = 0; i < n; i++)
        v[p->env.n + i] = (char *)more[i];
    p->env = (struct strings){v, p->env.n + n};
    return 0;
}

/* --- making --- */

static bool has_ended(int pidfd)
{
    struct pollfd p = {.fd = pidfd, .events = POLLIN};
    return poll(&p, 1, 0) == 1;
}

/* Everything that must be there before the process is born. */
struct birth {
    struct init init;
    struct rootfs rootfs;
    struct spawn spawn;
    char *state, *listener_state;
};

static int prepare_cgroup(struct launch *l, struct error *e)
{
    struct cgroup *g = &l->record.cgroup;
    int r = cgroup_find(g, e);
    if (r == 0)
        r = cgroup_place(g, l->spec.cgroups_path, l->record.id, l->host->systemd_cgroup, e);
    if (r == 0)
        r = cgroup_create(g, e);
    return r < 0 ? r : cgroup_limit(g, &l->spec.resources, false, e);
}

static void plan_namespaces(struct init *in, const struct spec *s)
{
    const struct spec_namespace *n;
    in->user_namespace = (n = spec_namespace(s, CLONE_NEWUSER)) != NULL;
    in->wait_maps = n && !n->path;
    in->new_cgroup_namespace = (n = spec_namespace(s, CLONE_NEWCGROUP)) && !n->path;
    in->new_time_namespace = (n = spec_namespace(s, CLONE_NEWTIME)) && !n->path;
    in->new_net_namespace = (n = spec_namespace(s, CLONE_NEWNET)) && !n->path;
    in->mounts = spec_namespace(s, CLONE_NEWNS) != NULL;
    in->wait_hooks = s->hooks[HOOK_PRESTART].n || s->hooks[HOOK_CREATE_RUNTIME].n || s->net_devices.n || s->rdt.given;
}

static int open_console_socket(struct launch *l, const struct container_launch *how, int relay, struct error *e)
{
    const struct spec_process *p = &l->spec.process;
    if (!p->terminal)
        return -1;
    if (relay >= 0)
        return relay;
    if (how->console_fd > 0) {
        int copy = fcntl(how->console_fd, F_DUPFD_CLOEXEC, 3);
        return copy < 0 ? sys_error(e, "console socket") : copy;
    }
    if (!how->console_socket)
        return error_set(e, EINVAL,
                         "process.terminal: a container with a terminal that nobody waits for needs --console-socket");
    char path[PATH_MAX + 32];
    /* Given relative to where the caller was. */
    snprintf(path, sizeof(path), how->console_socket[0] == '/' ? "%.0d%s" : "/proc/self/fd/%d/%s",
             how->console_socket[0] == '/' ? 0 : l->cwd, how->console_socket);
    int fd = sys_connect(path, SOCK_STREAM, e);
    if (fd < 0)
        error_prefix(e, "--console-socket %s", how->console_socket);
    return fd;
}

static int prepare(struct launch *l, const struct container_launch *how, bool started_here, int relay, struct birth *b,
                   struct error *e)
{
    struct init *in = &b->init;
    struct spec *s = &l->spec;
    int r = prepare_cgroup(l, e);
    if (r == 0)
        r = filter_compile(&in->filter, &s->seccomp, l->host->cache, e);
    if (r < 0)
        return r;
    in->console = open_console_socket(l, how, relay, e);
    if (in->console < 0 && s->process.terminal)
        return -EINVAL;
    in->listener = launch_listener(&s->seccomp, e);
    if (in->listener < 0 && s->seccomp.listener_path)
        return -EINVAL;
    in->proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (in->proc < 0 || !procfs_is(in->proc))
        return error_set(e, ENODEV, "/proc: is no procfs; mount one");
    b->rootfs = (struct rootfs){.spec = s, .cgroup = &l->record.cgroup, .arena = &s->arena, .path = l->record.rootfs};
    plan_namespaces(in, s);
    b->rootfs.user_namespace = in->user_namespace || l->record.cgroup.rootless;
    r = rootfs_prepare(&b->rootfs, e);
    if (r == 0)
        r = spawn_plan(&b->spawn, s, e);
    if (r < 0)
        return r;
    b->spawn.cgroup = cgroup_into(&l->record.cgroup);
    in->start = started_here ? -1 : store_bind(&l->store, STORE_START, SOCK_SEQPACKET, e);
    if (!started_here && in->start < 0)
        return in->start;
    in->spec = s;
    in->process = &s->process;
    in->affinity = NULL;
    in->cgroup = &l->record.cgroup;
    in->rootfs = &b->rootfs;
    in->preserve_fds = how->preserve_fds;
    in->pivot = !how->no_pivot;
    in->new_keyring = !how->no_new_keyring;
    return 0;
}

/* In the new process: what hooks and agents are told holds its own number, as the host sees it. */
static void child(struct launch *l, struct birth *b, pid_t pid)
{
    store_close(&l->store);
    l->record.pid = pid;
    b->init.state = launch_state_text(&l->record, &l->spec, STATUS_CREATED);
    b->init.listener_state = launch_listener_state(&l->record, &l->spec, pid);
    if (geteuid() == 0 || !b->init.wait_maps)
        prctl(PR_SET_DUMPABLE, 0);
    init_main(&b->init);
}

/* The process's number in the parent's PID namespace, read by the new process itself. */
static pid_t own_number(int proc)
{
    char text[32];
    ssize_t n = readlinkat(proc, "self", text, sizeof(text) - 1);
    text[n > 0 ? n : 0] = 0;
    return (pid_t)strtol(text, NULL, 10);
}

static int run_hooks(struct launch *l, struct error *e)
{
    char *text = launch_state_text(&l->record, &l->spec, STATUS_CREATING);
    int r = netdevice_move(&l->spec, l->pid, e);
    if (r == 0)
        r = rdt_join(&l->spec.rdt, l->record.id, l->pid, e);
    if (r == 0)
        r = hook_run(&l->spec.hooks[HOOK_PRESTART], "prestart", text, NULL, e);
    if (r == 0)
        r = hook_run(&l->spec.hooks[HOOK_CREATE_RUNTIME], "createRuntime", text, NULL, e);
    free(text);
    if (r == 0)
        sync_send(l->sync, SYNC_GO, 0, NULL);
    return r;
}

static int bring_up(struct launch *l, const struct container_launch *how, struct birth *b, struct error *e)
{
    int pair[2];
    int r = sync_pair(pair, e);
    if (r < 0)
        return r;
    l->sync = pair[0];
    b->init.sync = pair[1];
    b->init.parent_sync = pair[0];
    pid_t pid = spawn_process(&b->spawn, &l->pidfd, e);
    if (pid == 0)
        child(l, b, own_number(b->init.proc));
    close(pair[1]);
    if (pid < 0)
        return pid;
    l->pid = l->record.pid = pid;
    l->record.start_time = sys_start_time(pid);
    /*
     * Before it can be ready: killed earlier than this we take it along (it finds nobody to tell), killed later we leave a
     * state that `delete` can work from.
     */
    r = store_save(&l->store, &l->record, e);
    /* Where nothing is to happen between, it starts when it is ready, without asking: two switches of process less. */
    if (r == 0 && b->init.start < 0 && !l->notify && !b->init.wait_maps && !b->init.wait_hooks && !how->connect) {
        /* Whether it is still there to hear that, what it says next will tell. */
        l->started = sync_send(l->sync, SYNC_START, 0, NULL) == 0;
    }
    if (r == 0 && b->spawn.cgroup_refused)
        r = cgroup_move(&l->record.cgroup, pid, e);
    if (r == 0 && b->init.wait_maps) {
        r = idmap_process(pid, &l->spec.uid_maps, &l->spec.gid_maps, e);
        if (r == 0)
            sync_send(l->sync, SYNC_GO, 0, NULL);
    }
    if (r == 0 && how->connect) {
        r = how->connect(how->connect_arg, pid, e);
        if (r < 0 && has_ended(l->pidfd)) /* so there was nothing to connect: its own words say why */
            r = sync_expect(l->sync, SYNC_READY, e);
    }
    if (r == 0 && b->init.wait_hooks) {
        r = sync_expect(l->sync, SYNC_HOOKS, e);
        if (r == 0)
            r = run_hooks(l, e);
    }
    if (r == 0)
        r = sync_expect(l->sync, SYNC_READY, e);
    /* Who waits for `start` does so only when it knows that it is remembered. */
    if (r == 0 && b->init.start >= 0)
        sync_send(l->sync, SYNC_GO, 0, NULL);
    return r;
}

static void free_birth(struct birth *b, int relay)
{
    filter_free(&b->init.filter);
    rootfs_close(&b->rootfs);
    spawn_close(&b->spawn);
    if (b->init.console != relay)
        sys_close(&b->init.console);
    sys_close(&b->init.listener);
    sys_close(&b->init.start);
    sys_close(&b->init.proc);
}

int launch_create(struct launch *l, const struct container_launch *how, bool started_here, int relay, struct error *e)
{
    struct birth b;
    memset(&b, 0, sizeof(b));
    b.init.console = b.init.listener = b.init.start = b.init.proc = b.init.sync = b.init.parent_sync = -1;
    b.rootfs.root_tree = -1;
    int r = store_create(&l->store, l->host, how->id, e);
    if (r < 0) {
        store_close(&l->store);
        return r;
    }
    r = store_write(&l->store, STORE_CONFIG, l->config, l->config_size, e);
    if (r == 0)
        r = notify_directory(l, e);
    if (r == 0)
        r = prepare(l, how, started_here, relay, &b, e);
    if (r == 0)
        r = bring_up(l, how, &b, e);
    cgroup_close(&l->record.cgroup);
    free_birth(&b, relay);
    if (r == 0)
        r = launch_send_pidfd(how->pidfd_socket, l->pidfd, e);
    if (r == 0)
        r = launch_pid_file(l->cwd, how->pid_file, l->pid, e);
    if (how->pid)
        *how->pid = l->pid;
    if (r < 0)
        launch_undo(l);
    return r;
}

void launch_undo(struct launch *l)
{
    if (l->pid > 0) {
        sys_pidfd_signal(l->pidfd, SIGKILL);
        while (waitpid(l->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    cgroup_remove(&l->record.cgroup, NULL);
    rdt_leave(&l->spec.rdt, l->record.id);
    if (l->store.dir >= 0)
        store_remove(&l->store, NULL);
}

void launch_free(struct launch *l)
{
    cgroup_close(&l->record.cgroup);
    spec_free(&l->spec);
    free(l->config);
    sys_close(&l->sync);
    sys_close(&l->pidfd);
    sys_close(&l->cwd);
    store_close(&l->store);
}

int launch_open(struct launch *l, const struct container_host *h, const char *id, bool lock, bool with_spec,
                struct error *e)
{
    memset(l, 0, sizeof(*l));
    l->host = h;
    l->cwd = l->pidfd = l->sync = l->store.dir = -1;
    int r = store_open(&l->store, h, id, lock, e);
    if (r == 0)
        r = store_load(&l->store, &l->record, e);
    if (r == 0 && with_spec) {
        r = sys_read_at(l->store.dir, STORE_CONFIG, CONFIG_MAX, &l->config, &l->config_size);
        if (r < 0)
            error_set(e, -r, "%s/" STORE_CONFIG ": %s", l->store.path, strerror(-r));
        else
            r = spec_parse(&l->spec, l->config, l->config_size, e);
    }
    return r;
}

/* --- waiting --- */

void launch_block_signals(void)
{
    sigset_t all;
    sigfillset(&all);
    sigprocmask(SIG_BLOCK, &all, NULL);
}

static int status_of(int status)
{
    return WIFSIGNALED(status) ? 128 + WTERMSIG(status) : WEXITSTATUS(status);
}

int launch_wait(pid_t pid, int pidfd, int *status, struct error *e)
{
    sigset_t all;
    siginfo_t info;
    int raw;
    sigfillset(&all);
    for (;;) {
        /* A child that ended before is found by asking first; SIGCHLD wakes us for the next time. */
        pid_t done = waitpid(pid, &raw, WNOHANG);
        if (done == pid) {
            *status = status_of(raw);
            return 0;
        }
        if (done < 0 && errno != EINTR)
            return sys_error(e, "waiting for the container's process");
        int signal = sigwaitinfo(&all, &info);
        if (signal > 0 && signal != SIGCHLD)
            sys_pidfd_signal(pidfd, signal);
    }
}
