/*
 * exec: one more process in a container that runs.
 *
 * It is made by a process in between, which enters all namespaces of the container's first process at once through its pidfd,
 * and is not dumpable from there on: who is inside can not look at its descriptors (CVE-2016-9962). Descriptors of the host
 * are not many by then: the trusted /proc, the cgroups to join, sockets.
 */
#include "container/container.h"
#include "container/init.h"
#include "container/launch.h"
#include "container/relay.h"
#include "container/spawn.h"
#include "container/sync.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

/* The part of `text` up to `end` as a number: decimal digits and nothing else. */
static bool whole_number(const char *text, const char *end, u32 *out)
{
    u64 v = 0;
    if (text == end || end - text > 10)
        return false;
    for (; text < end; text++) {
        if (*text < '0' || *text > '9')
            return false;
        v = v * 10 + (u64)(*text - '0');
    }
    *out = (u32)v;
    return v < UINT32_MAX;
}

/* "UID" or "UID:GID"; names are the engine's to look up. Nothing is guessed (CVE-2026-30892). */
static int set_user(struct spec_process *p, const char *user, struct error *e)
{
    const char *colon = strchr(user, ':');
    const char *end = colon ? colon : user + strlen(user);
    u32 uid, gid = 0;
    if (!whole_number(user, end, &uid) || (colon && !whole_number(colon + 1, colon + strlen(colon), &gid)))
        return error_set(e, EINVAL, "--user \"%.40s\": wanted is UID or UID:GID, in digits", user);
    p->uid = uid;
    p->gid = gid;
    return 0;
}

static int add_capabilities(struct spec_process *p, const char *const *names, struct error *e)
{
    u64 number;
    for (; names && *names; names++) {
        if (!word_value(spec_capability_words, *names, &number))
            return error_set(e, EINVAL, "--cap %.40s: is no capability", *names);
        /* Never inheritable: CVE-2022-29162. */
        p->capabilities.given = true;
        p->capabilities.bounding |= BIT(number);
        p->capabilities.effective |= BIT(number);
        p->capabilities.permitted |= BIT(number);
    }
    return 0;
}

static int add_groups(struct spec_process *p, struct arena *arena, const struct container_exec *x, struct error *e)
{
    u32 *groups = arena_array(arena, p->n_groups + x->n_groups, sizeof(u32));
    if (!groups)
        return error_set(e, ENOMEM, "out of memory");
    if (p->n_groups)
        memcpy(groups, p->groups, p->n_groups * sizeof(u32));
    if (x->n_groups)
        memcpy(groups + p->n_groups, x->groups, x->n_groups * sizeof(u32));
    p->groups = groups;
    p->n_groups += x->n_groups;
    return 0;
}

/* The container's own process with the command line's changes. */
static int from_options(struct launch *l, const struct container_exec *x, struct spec_process *p, struct error *e)
{
    size_t n = 0;
    *p = l->spec.process;
    while (x->args && x->args[n])
        n++;
    if (!n)
        return error_set(e, EINVAL, "exec: there is no command to run");
    p->args = (struct strings){x->args, n};
    p->terminal = x->terminal == 1;
    p->cwd = x->cwd ? x->cwd : p->cwd;
    p->apparmor_profile = x->apparmor ? x->apparmor : p->apparmor_profile;
    p->selinux_label = x->selinux_label ? x->selinux_label : p->selinux_label;
    if (x->no_new_privileges >= 0)
        p->no_new_privileges = x->no_new_privileges;
    int r = x->user ? set_user(p, x->user, e) : 0;
    if (r == 0)
        r = add_capabilities(p, x->capabilities, e);
    if (r == 0)
        r = add_groups(p, &l->spec.arena, x, e);
    if (r == 0 && launch_add_env(p, &l->spec.arena, x->env) < 0)
        r = error_set(e, ENOMEM, "out of memory");
    return r;
}

static int read_process(struct launch *l, const struct container_exec *x, struct spec_process *p, json_t **json,
                        struct error *e)
{
    char *text;
    size_t size;
    if (!x->process_file)
        return from_options(l, x, p, e);
    int r = sys_read_at(AT_FDCWD, x->process_file, 64 << 20, &text, &size);
    if (r < 0)
        return error_set(e, -r, "--process %s: %s", x->process_file, strerror(-r));
    r = spec_parse_process(p, json, &l->spec.arena, text, size, e);
    free(text);
    if (r == 0 && x->terminal >= 0)
        p->terminal = x->terminal;
    return r;
}

static u64 namespaces_of(const struct spec *s)
{
    u64 flags = 0;
    for (size_t i = 0; i < s->n_namespaces; i++)
        flags |= s->namespaces[i].flag;
    return flags;
}

/* A cgroup below the container's. */
static int set_cgroup(struct cgroup *g, const char *below, struct error *e)
{
    if (below && (strstr(below, "..") || strlen(below) > 200))
        return error_set(e, EINVAL, "--cgroup %.60s: is no path below the container's", below);
    for (size_t i = 0; below && i < g->n; i++) {
        size_t n = strlen(g->h[i].path);
        if (n + strlen(below) + 2 > sizeof(g->h[i].path))
            return error_set(e, ENAMETOOLONG, "--cgroup %.60s: too long", below);
        snprintf(g->h[i].path + n, sizeof(g->h[i].path) - n, "/%s", below + strspn(below, "/"));
    }
    int r = cgroup_open(g, e);
    if (r == 0 && below)
        for (size_t i = 0; i < g->n; i++)
            if (g->h[i].dir >= 0)
                return 0;
    return r == 0 && below && g->n ? error_set(e, ENOENT, "--cgroup %.60s: does not exist", below) : r;
}

static int prepare(struct launch *l, const struct container_exec *x, const struct spec_process *p, struct init *in,
                   struct spawn *s, int relay, struct error *e)
{
    memset(s, 0, sizeof(*s));
    s->cgroup = s->target = -1;
    int r = set_cgroup(&l->record.cgroup, x->cgroup, e);
    if (r == 0)
        r = filter_compile(&in->filter, &l->spec.seccomp, l->host->cache, e);
    if (r < 0)
        return r;
    s->target = sys_pidfd_open(l->record.pid);
    if (s->target < 0 || !store_alive(&l->record))
        return error_set(e, ESRCH, "container %s: has stopped", l->record.id);
    s->target_flags = namespaces_of(&l->spec);
    s->cgroup = cgroup_into(&l->record.cgroup);
    in->listener = launch_listener(&l->spec.seccomp, e);
    if (in->listener < 0 && l->spec.seccomp.listener_path)
        return -EINVAL;
    in->proc = open("/proc", O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (in->proc < 0)
        return sys_error(e, "/proc");
    if (p->terminal && relay < 0 && !x->console_socket)
        return error_set(e, EINVAL, "exec with a terminal and --detach needs --console-socket");
    if (p->terminal)
        in->console = relay >= 0 ? relay : sys_connect(x->console_socket, SOCK_STREAM, e);
    if (p->terminal && in->console < 0)
        return -EINVAL;
    in->spec = &l->spec;
    in->process = p;
    in->affinity = p->affinity_final;
    in->cgroup = &l->record.cgroup;
    in->user_namespace = spec_namespace(&l->spec, CLONE_NEWUSER) != NULL;
    in->preserve_fds = x->preserve_fds;
    in->new_keyring = false;
    return 0;
}

static int bring_up(struct launch *l, const struct container_exec *x, struct init *in, struct spawn *s, struct error *e)
{
    int pair[2];
    int r = sync_pair(pair, e);
    if (r < 0)
        return r;
    l->sync = in->parent_sync = pair[0];
    in->sync = pair[1];
    in->start = -1;
    in->listener_state = launch_listener_state(&l->record, &l->spec, l->record.pid);
    pid_t pid = spawn_process(s, &l->pidfd, e);
    if (pid == 0)
        init_main(in);
    close(pair[1]);
    if (pid < 0)
        return pid;
    l->pid = pid;
    if (s->cgroup_refused)
        r = cgroup_move(&l->record.cgroup, pid, e);
    if (r == 0)
        r = sync_expect(l->sync, SYNC_READY, e);
    if (r == 0)
        r = launch_send_pidfd(x->pidfd_socket, l->pidfd, e);
    if (r == 0)
        r = launch_pid_file(AT_FDCWD, x->pid_file, pid, e);
    if (r == 0) {
        struct sync_message m;
        sync_send(l->sync, SYNC_START, 0, NULL);
        r = sync_receive(l->sync, &m, e);
        r = r < 0 ? r : 0;
    }
    return r;
}

static int run(struct launch *l, const struct container_exec *x, struct spec_process *p, int *status, struct error *e)
{
    struct relay relay = {.socket = -1, .child_socket = -1, .master = -1};
    struct init in;
    struct spawn s;
    memset(&in, 0, sizeof(in));
    in.console = in.listener = in.start = in.proc = in.sync = in.parent_sync = -1;
    int r = p->terminal && !x->console_socket && !x->detach ? relay_open(&relay, e) : 0;
    if (r == 0)
        r = prepare(l, x, p, &in, &s, relay.child_socket, e);
    if (r == 0) {
        launch_block_signals();
        r = bring_up(l, x, &in, &s, e);
    }
    sys_close(&s.target);
    filter_free(&in.filter);
    free((char *)in.listener_state);
    sys_close(&in.proc);
    sys_close(&in.listener);
    if (in.console != relay.child_socket)
        sys_close(&in.console);
    if (r < 0 && l->pid > 0) {
        sys_pidfd_signal(l->pidfd, SIGKILL);
        while (waitpid(l->pid, NULL, 0) < 0 && errno == EINTR)
            ;
    }
    *status = 0;
    /* Others may look at the container, and change it, while we wait. */
    store_close(&l->store);
    if (r == 0 && !x->detach)
        r = relay.socket >= 0 ? relay_run(&relay, l->pid, l->pidfd, status, e)
                              : launch_wait(l->pid, l->pidfd, status, e);
    relay_close(&relay);
    return r;
}

int container_exec(const struct container_host *h, const struct container_exec *x, int *status, struct error *e)
{
    struct launch l;
    struct spec_process p;
    json_t *json = NULL;
    int r = launch_check_fds(x->preserve_fds, e);
    if (r < 0)
        return r;
    r = launch_open(&l, h, x->id, false, true, e);
    enum container_status now = r == 0 ? store_status(&l.store, &l.record) : STATUS_STOPPED;
    if (r == 0 && now == STATUS_STOPPED)
        r = error_set(e, ESRCH, "container %s: is stopped: exec needs a running one", x->id);
    if (r == 0 && now == STATUS_PAUSED && !x->ignore_paused)
        r = error_set(e, EBUSY, "container %s: is paused: resume it first, or use --ignore-paused", x->id);
    if (r == 0)
        r = read_process(&l, x, &p, &json, e);
    if (r == 0)
        r = run(&l, x, &p, status, e);
    launch_free(&l);
    json_decref(json);
    return r;
}
