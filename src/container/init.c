/*
 * Theory of operation.
 *
 *     parent (runtime)                              this process
 *     clone3 ------------------------------------>  waits, if a user namespace is new
 *     writes mappings, SYNC_GO ------------------>  becomes root in it
 *                                                   joins cgroups; cgroup and time namespace; session; mounts, devices
 *     runs prestart, createRuntime  <-- SYNC_HOOKS  waits, if there are such hooks
 *     SYNC_GO ----------------------------------->  createContainer hooks; terminal; enters its root; limits, labels
 *     pid file, state, returns      <-- SYNC_READY
 *     (somebody) start  ------------------------->  startContainer hooks; identity: nothing is left to it but what the
 *                                                   configuration gives; execve. The connection closes by that: it is
 *                                                   how `start` hears that all went well. Errors come as SYNC_ERROR.
 *
 * What must stay true:
 *  1. It never is dumpable while somebody hostile can see it (CVE-2016-9962), but between birth and mappings.
 *  2. Descriptors of the host are closed or close-on-exec, and the working directory is below the root, before execve
 *     (CVE-2024-21626).
 *  3. Nothing is written through the container's own /proc: `proc` is the host's, opened before.
 */
#include "container/init.h"
#include "container/console.h"
#include "container/hook.h"
#include "container/identity.h"
#include "container/procfs.h"
#include "container/sync.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <limits.h>
#include <linux/keyctl.h>
#include <linux/mempolicy.h>
#include <net/if.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/personality.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

static int enter_user_namespace(struct init *in, struct error *e)
{
    int r = 0;
    if (in->wait_maps)
        r = sync_expect(in->sync, SYNC_GO, e);
    if (r == 0 && in->user_namespace) {
        /* Root of the namespace, if it has one; else who we are mapped to. */
        if (setresgid(0, 0, 0) < 0 && errno != EINVAL)
            return sys_error(e, "becoming root of the user namespace");
        if (syscall(SYS_setgroups, 0, NULL) < 0 && errno != EPERM && errno != EINVAL)
            return sys_error(e, "leaving the host's groups");
        if (setresuid(0, 0, 0) < 0 && errno != EINVAL)
            return sys_error(e, "becoming root of the user namespace");
    }
    return r;
}

static int set_time(struct init *in, struct error *e)
{
    const struct {
        const struct spec_time_offset *offset;
        const char *name;
    } clocks[] = {{&in->spec->time_monotonic, "monotonic"}, {&in->spec->time_boottime, "boottime"}};
    char text[80];
    if (unshare(CLONE_NEWTIME) < 0)
        return sys_error(e, "namespace time");
    /* The file belongs to whom a dumpable process belongs to. In a new user namespace nobody else is there yet. */
    if (in->user_namespace)
        prctl(PR_SET_DUMPABLE, 1);
    int r = 0;
    for (size_t i = 0; i < ARRAY_LEN(clocks) && r == 0; i++) {
        snprintf(text, sizeof(text), "%s %" PRId64 " %u\n", clocks[i].name, clocks[i].offset->secs,
                 clocks[i].offset->nanosecs);
        if (clocks[i].offset->given)
            r = procfs_write(in->proc, "self/timens_offsets", text, e);
    }
    prctl(PR_SET_DUMPABLE, 0);
    CLEANUP_FD int fd = openat(in->proc, "self/ns/time_for_children", O_RDONLY | O_CLOEXEC);
    if (r == 0 && (fd < 0 || setns(fd, CLONE_NEWTIME) < 0))
        r = sys_error(e, "namespace time: entering it");
    return r;
}

static void loopback_up(void)
{
    struct ifreq q = {.ifr_name = "lo", .ifr_flags = IFF_UP | IFF_RUNNING | IFF_LOOPBACK};
    CLEANUP_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    if (fd >= 0)
        ioctl(fd, SIOCSIFFLAGS, &q);
}

static int set_sysctl(const struct init *in, struct error *e)
{
    const struct strings *s = &in->spec->sysctl;
    if (!s->n)
        return 0;
    CLEANUP_FD int proc = procfs_open(e);
    for (size_t i = 0; i < s->n && proc >= 0; i += 2) {
        char path[256] = "sys/";
        if (snprintf(path + 4, sizeof(path) - 4, "%s", s->v[i]) >= (int)sizeof(path) - 4)
            return error_set(e, EINVAL, "linux.sysctl: %.60s..: too long", s->v[i]);
        /* net.ipv4.conf.eth0.x, or with slashes: net/ipv4/conf/eth0.100/x, where dots are part of names */
        for (char *p = path + 4; !strchr(s->v[i], '/') && *p; p++)
            if (*p == '.')
                *p = '/';
        int r = procfs_write(proc, path, s->v[i + 1], e);
        if (r < 0)
            return r;
    }
    return proc < 0 ? proc : 0;
}

static int set_names(const struct init *in, struct error *e)
{
    const struct spec *s = in->spec;
    if (s->hostname && sethostname(s->hostname, strlen(s->hostname)) < 0)
        return sys_error(e, "hostname");
    if (s->domainname && setdomainname(s->domainname, strlen(s->domainname)) < 0)
        return sys_error(e, "domainname");
    return 0;
}

/* Namespaces that are entered after birth, and what is done in new ones before the mounts. */
static int enter_namespaces(struct init *in, struct error *e)
{
    int r = 0;
    /* While we are as we were born: a change of user makes the file another's. */
    if (in->process->oom_score_adj.set) {
        char text[16];
        snprintf(text, sizeof(text), "%" PRId64, in->process->oom_score_adj.v);
        r = procfs_write(in->proc, "self/oom_score_adj", text, in->user_namespace || geteuid() != 0 ? NULL : e);
        /* Lowering it takes CAP_SYS_RESOURCE; a user namespace never has that: what cannot be is passed over there. */
        r = r < 0 && (in->user_namespace || geteuid() != 0) ? 0 : r;
    }
    if (r == 0)
        r = enter_user_namespace(in, e);
    if (r == 0 && !in->wait_maps)
        prctl(PR_SET_DUMPABLE, 0);
    if (r == 0)
        r = cgroup_join(in->cgroup, e);
    if (r == 0 && in->new_cgroup_namespace && unshare(CLONE_NEWCGROUP) < 0)
        r = sys_error(e, "namespace cgroup");
    if (r == 0 && in->new_time_namespace)
        r = set_time(in, e);
    prctl(PR_SET_DUMPABLE, 0);
    if (setsid() < 0 && errno != EPERM)
        r = sys_error(e, "setsid");
    if (r == 0 && in->new_net_namespace)
        loopback_up();
    return r;
}

static int wait_hooks(struct init *in, struct error *e)
{
    int r = 0;
    if (in->wait_hooks) {
        r = sync_send(in->sync, SYNC_HOOKS, 0, NULL);
        r = r < 0 ? error_set(e, -r, "the runtime is gone") : sync_expect(in->sync, SYNC_GO, e);
    }
    if (r == 0)
        r = hook_run(&in->spec->hooks[HOOK_CREATE_CONTAINER], "createContainer", in->state, NULL, e);
    return r;
}

/* The terminal: its other end goes to the console socket. *slave -1: none wanted. */
static int open_console(struct init *in, int *slave, struct error *e)
{
    CLEANUP_FD int master = -1;
    CLEANUP_FD int devpts = -1;
    if (!in->process->terminal)
        return 0;
    if (in->rootfs && in->rootfs->devpts >= 0)
        devpts = dup(in->rootfs->devpts);
    else
        devpts = console_devpts(e); /* inside it, or none is mounted and it is the host's */
    if (devpts < 0)
        return devpts;
    int r = console_open(devpts, in->process, &master, slave, e);
    if (r == 0)
        r = console_send(in->console, master, e);
    close(in->console);
    if (r == 0 && in->rootfs && in->mounts)
        r = rootfs_console(in->rootfs, *slave, e);
    return r;
}

static int build_root(struct init *in, int *slave, struct error *e)
{
    const struct spec *s = in->spec;
    if (!in->mounts) {
        int r = set_names(in, e);
        if (r == 0)
            r = set_sysctl(in, e);
        if (r == 0)
            r = wait_hooks(in, e);
        if (r == 0)
            r = open_console(in, slave, e);
        if (r == 0 && (chroot(in->rootfs->path) < 0 || chdir("/") < 0))
            r = sys_error(e, "root %s", s->root_path);
        return r;
    }
    int r = rootfs_build(in->rootfs, e);
    if (r == 0)
        r = set_names(in, e);
    if (r == 0)
        r = set_sysctl(in, e);
    if (r == 0)
        r = wait_hooks(in, e);
    if (r == 0)
        r = open_console(in, slave, e);
    return r < 0 ? r : rootfs_enter(in->rootfs, in->pivot, e);
}

static int set_memory_policy(const struct spec_memory_policy *m, struct error *e)
{
    unsigned long nodes[16] = {0}; /* 1024 nodes */
    for (const char *p = m->nodes ? m->nodes : ""; *p;) {
        char *end;
        unsigned long from = strtoul(p, &end, 10), to = from;
        if (*end == '-' && end != p) {
            p = end + 1;
            to = strtoul(p, &end, 10);
        }
        if (end == p || to < from || to >= 8 * sizeof(nodes))
            return error_set(e, EINVAL, "linux.memoryPolicy.nodes: \"%.60s\" is no list", m->nodes);
        for (; from <= to; from++)
            nodes[from / 64] |= 1ul << from % 64;
        p = end + strspn(end, ", ");
    }
    if (syscall(SYS_set_mempolicy, m->mode | m->flags, m->nodes ? nodes : NULL, m->nodes ? 8 * sizeof(nodes) : 0) < 0)
        return sys_error(e, "linux.memoryPolicy");
    return 0;
}

/* What does not depend on who we are. */
static int prepare_process(struct init *in, char program[PATH_MAX], struct error *e)
{
    const struct spec *s = in->spec;
    if (in->new_keyring) {
        /* A session keyring of its own; kernels and filters without keys do not matter. */
        syscall(SYS_keyctl, KEYCTL_JOIN_SESSION_KEYRING, "_ses");
    }
    if (s->personality.set && personality(s->personality.v) < 0)
        return sys_error(e, "linux.personality");
    int r = s->memory_policy.given ? set_memory_policy(&s->memory_policy, e) : 0;
    if (r == 0)
        r = identity_limits(in->process, in->affinity, e);
    if (r == 0)
        r = identity_labels(in->process, in->proc, e);
    return r < 0 ? r : identity_program(in->process, program, PATH_MAX, e);
}

/*
 * Rule 2: all but the descriptors that were asked for and the sockets that are still needed, which close at execve. Closed and
 * not marked, so that there is nothing behind /proc/self/fd/N for a working directory to lead to.
 */
static void close_others(const struct init *in)
{
    u32 first = 3 + in->preserve_fds;
    for (;;) {
        u32 next = ~0u;
        const int keep[] = {in->sync, in->start, in->listener};
        for (size_t i = 0; i < ARRAY_LEN(keep); i++)
            if (keep[i] >= 0 && (u32)keep[i] >= first && (u32)keep[i] < next)
                next = (u32)keep[i];
        if (next > first)
            close_range(first, next == ~0u ? next : next - 1, 0);
        if (next == ~0u)
            return;
        first = next + 1;
    }
}

/* Wait until somebody starts us. The descriptor to report to. */
static int wait_start(struct init *in, struct error *e)
{
    int at = in->sync;
    int r = sync_send(in->sync, SYNC_READY, 0, NULL);
    if (r < 0)
        return error_set(e, -r, "the runtime is gone");
    /* A runtime that was killed before it remembered us says nothing: then nobody could ever start or delete us. */
    if (in->start >= 0 && (r = sync_expect(in->sync, SYNC_GO, e)) < 0)
        return r;
    while (in->start >= 0) {
        /* The runtime of `create` leaves; whoever calls `start` connects. Who connects and says nothing is passed over. */
        struct error ignored = {0};
        if (at == in->sync)
            close(in->sync);
        at = accept4(in->start, NULL, NULL, SOCK_CLOEXEC);
        if (at < 0 && errno == EINTR)
            continue;
        if (at < 0)
            return sys_error(e, "accept");
        in->sync = at;
        if (sync_expect(at, SYNC_START, &ignored) == 0)
            break;
        close(at);
        at = in->sync = -1;
    }
    if (in->start < 0 && (r = sync_expect(at, SYNC_START, e)) < 0)
        return r;
    return in->rootfs ? hook_run(&in->spec->hooks[HOOK_START_CONTAINER], "startContainer", in->state, NULL, e) : 0;
}

/*
 * The filter's listener goes to its agent by a second thread, which is not under the filter: so no call need pass it that the
 * configuration may want watched or refused. We wait for it without a call, because execve would end it.
 */
struct helper {
    const struct init *in;
    atomic_int listener; /* 0: not there yet, < 0: there will be none */
    atomic_int sent;     /* 0: not yet, < 0: -errno */
};

static void *send_listener(void *arg)
{
    struct helper *h = arg;
    int fd;
    while (!(fd = atomic_load(&h->listener)))
        usleep(200);
    const char *text = h->in->listener_state;
    int r = fd < 0 ? -ECANCELED : sys_send_fds(h->in->listener, text, strlen(text), &fd, 1) < 0 ? -errno : 1;
    atomic_store(&h->sent, r);
    return NULL;
}

/* 0, or -errno when the agent did not get it. */
static int hand_over(struct helper *h, int listener, struct error *e)
{
    int r;
    atomic_store(&h->listener, listener > 0 ? listener : -1);
    while (!(r = atomic_load(&h->sent)))
        __builtin_ia32_pause();
    return listener > 0 && r < 0 ? error_set(e, -r, "linux.seccomp.listenerPath: %s", strerror(-r)) : 0;
}

_Noreturn static void become(struct init *in, const char *program, struct error *e)
{
    static char *const nothing[] = {NULL};
    struct helper helper = {.in = in};
    bool watched = in->filter.code && in->listener >= 0;
    pthread_t thread = 0;
    int r = watched ? -pthread_create(&thread, NULL, send_listener, &helper) : 0;
    if (r < 0)
        error_set(e, -r, "linux.seccomp: a thread: %s", strerror(-r));
    else
        r = identity_assume(in->process, &in->filter, e);
    if (watched && thread) {
        int handed = hand_over(&helper, r, e);
        r = r < 0 ? r : handed;
    }
    if (r >= 0) {
        execve(program, in->process->args.v, in->process->env.v ? in->process->env.v : nothing);
        sys_error(e, "exec %s", program);
    }
    sync_send(in->sync, SYNC_ERROR, 0, e);
    _exit(1);
}

_Noreturn void init_main(struct init *in)
{
    struct error e = {0};
    char program[PATH_MAX];
    CLEANUP_FD int slave = -1;
    if (in->parent_sync >= 0)
        close(in->parent_sync);
    int r = enter_namespaces(in, &e);
    if (r == 0)
        r = in->rootfs ? build_root(in, &slave, &e) : open_console(in, &slave, &e);
    if (r == 0)
        r = prepare_process(in, program, &e);
    if (r == 0 && slave >= 0)
        r = console_assume(slave, in->process, &e);
    if (r == 0)
        close_others(in);
    if (r == 0)
        r = wait_start(in, &e);
    if (r == 0)
        r = identity_chdir(in->process->cwd, &e);
    sigset_t none;
    sigemptyset(&none);
    sigprocmask(SIG_SETMASK, &none, NULL);
    if (r == 0)
        become(in, program, &e);
    sync_send(in->sync, SYNC_ERROR, 0, &e);
    _exit(1);
}
