#include "container/identity.h"
#include "container/procfs.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

/* struct sched_attr of sched_setattr(2), which the C library does not declare. */
struct scheduler_attributes {
    u32 size, policy;
    u64 flags;
    s32 nice;
    u32 priority;
    u64 runtime, deadline, period;
};

static int set_scheduler(const struct spec_scheduler *s, struct error *e)
{
    struct scheduler_attributes a = {
        .size = sizeof(a),
        .policy = s->policy,
        .flags = s->flags,
        .nice = s->nice,
        .priority = (u32)s->priority,
        .runtime = s->runtime,
        .deadline = s->deadline,
        .period = s->period,
    };
    if (!s->given || syscall(SYS_sched_setattr, 0, &a, 0) == 0)
        return 0;
    return sys_error(e, "process.scheduler: %s", word_name(spec_policy_words, s->policy));
}

/* "0-3,7" into a set. */
static int set_affinity(const char *list, struct error *e)
{
    cpu_set_t set;
    CPU_ZERO(&set);
    for (const char *p = list; *p;) {
        char *end;
        unsigned long from = strtoul(p, &end, 10), to = from;
        if (end == p)
            return error_set(e, EINVAL, "process.execCPUAffinity: \"%.60s\" is no list of CPUs", list);
        if (*end == '-') {
            p = end + 1;
            to = strtoul(p, &end, 10);
        }
        if (to < from || to >= CPU_SETSIZE || end == p)
            return error_set(e, EINVAL, "process.execCPUAffinity: \"%.60s\" is no list of CPUs", list);
        for (; from <= to; from++)
            CPU_SET(from, &set);
        p = end + strspn(end, ", ");
    }
    return sched_setaffinity(0, sizeof(set), &set) < 0 ? sys_error(e, "process.execCPUAffinity: %.60s", list) : 0;
}

int identity_limits(const struct spec_process *p, const char *affinity, struct error *e)
{
    for (size_t i = 0; i < p->n_rlimits; i++) {
        struct rlimit limit = {p->rlimits[i].soft, p->rlimits[i].hard};
        if (setrlimit((enum __rlimit_resource)p->rlimits[i].resource, &limit) < 0)
            return sys_error(e, "process.rlimits: %s", p->rlimits[i].name);
    }
    int r = set_scheduler(&p->scheduler, e);
    if (r == 0 && p->io_class.set) {
        long value = (long)(p->io_class.v << 13 | p->io_priority.v);
        if (syscall(SYS_ioprio_set, 1 /* IOPRIO_WHO_PROCESS */, 0, value) < 0)
            r = sys_error(e, "process.ioPriority");
    }
    return r == 0 && affinity ? set_affinity(affinity, e) : r;
}

int identity_labels(const struct spec_process *p, int proc, struct error *e)
{
    char text[512];
    int r = 0;
    if (p->selinux_label && *p->selinux_label) {
        if (access("/sys/fs/selinux/enforce", F_OK) < 0)
            return error_set(e, ENOTSUP, "process.selinuxLabel: SELinux is not in force on this host");
        r = procfs_write(proc, "self/attr/exec", p->selinux_label, e);
    }
    if (r == 0 && p->apparmor_profile && *p->apparmor_profile) {
        if (snprintf(text, sizeof(text), "exec %s", p->apparmor_profile) >= (int)sizeof(text))
            return error_set(e, EINVAL, "process.apparmorProfile: too long");
        struct error first = {0};
        r = procfs_write(proc, "self/attr/apparmor/exec", text, &first);
        if (r == -ENOENT)
            r = procfs_write(proc, "self/attr/exec", text, &first);
        if (r < 0)
            r = error_set(e, -r, "process.apparmorProfile: %.60s: AppArmor does not take it (%s)", p->apparmor_profile,
                          strerror(-r));
    }
    return r;
}

static int drop_bounding(u64 keep, struct error *e)
{
    for (unsigned long cap = 0; cap < 64; cap++) {
        if (keep & BIT(cap))
            continue;
        if (prctl(PR_CAPBSET_DROP, cap, 0, 0, 0) == 0)
            continue;
        if (errno == EINVAL)
            return 0; /* the kernel's last one is behind us */
        return sys_error(e, "process.capabilities.bounding: dropping %s", word_name(spec_capability_words, cap));
    }
    return 0;
}

static int set_capabilities(const struct spec_capabilities *c, struct error *e)
{
    struct __user_cap_header_struct header = {.version = _LINUX_CAPABILITY_VERSION_3};
    struct __user_cap_data_struct have[2], want[2];
    if (syscall(SYS_capget, &header, have) < 0)
        return sys_error(e, "process.capabilities");
    /* What we do not have ourselves can not be given: the specification wants that passed over. */
    u64 can = (u64)have[1].permitted << 32 | have[0].permitted;
    u64 sets[3] = {c->effective & can, c->permitted & can, c->inheritable & can};
    for (int i = 0; i < 2; i++) {
        want[i].effective = (u32)(sets[0] >> (32 * i));
        want[i].permitted = (u32)(sets[1] >> (32 * i));
        want[i].inheritable = (u32)(sets[2] >> (32 * i));
    }
    if (syscall(SYS_capset, &header, want) < 0)
        return sys_error(e, "process.capabilities");
    if (prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0) < 0 && errno != EINVAL)
        return sys_error(e, "process.capabilities.ambient");
    for (unsigned long cap = 0; cap < 64; cap++)
        if (c->ambient & sets[1] & sets[2] & BIT(cap) && prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_RAISE, cap, 0, 0) < 0)
            return sys_error(e, "process.capabilities.ambient");
    return 0;
}

static int set_user(const struct spec_process *p, struct error *e)
{
    /* The calls themselves: those of the library would take a helper's thread along. */
    if (syscall(SYS_setgroups, p->n_groups, p->groups) < 0 && (p->n_groups || errno != EPERM))
        return sys_error(e, "process.user.additionalGids");
    if (syscall(SYS_setresgid, p->gid, p->gid, p->gid) < 0)
        return sys_error(e, "process.user.gid: %u", p->gid);
    if (syscall(SYS_setresuid, p->uid, p->uid, p->uid) < 0)
        return sys_error(e, "process.user.uid: %u", p->uid);
    return 0;
}

int identity_assume(const struct spec_process *p, const struct filter *filter, struct error *e)
{
    int listener = 0;
    if (p->umask.set)
        umask((mode_t)p->umask.v);
    /* Without no-new-privileges a filter takes CAP_SYS_ADMIN: while we have it. */
    if (!p->no_new_privileges && (listener = filter_install(filter, e)) < 0)
        return listener;
    int r = drop_bounding(p->capabilities.bounding, e);
    if (r == 0 && prctl(PR_SET_KEEPCAPS, 1, 0, 0, 0) < 0)
        r = sys_error(e, "PR_SET_KEEPCAPS");
    if (r == 0)
        r = set_user(p, e);
    if (r == 0)
        r = set_capabilities(&p->capabilities, e);
    if (r == 0 && p->no_new_privileges && prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
        r = sys_error(e, "process.noNewPrivileges");
    if (r == 0 && p->no_new_privileges)
        r = listener = filter_install(filter, e);
    return r < 0 ? r : listener;
}

int identity_chdir(const char *cwd, struct error *e)
{
    char where[PATH_MAX];
    if (chdir(cwd) < 0)
        return sys_error(e, "process.cwd: %s", cwd);
    /* A way out through a descriptor of the host ends in a directory that has no path from our root. */
    long n = syscall(SYS_getcwd, where, sizeof(where));
    if (n <= 0 || where[0] != '/')
        return error_set(e, EPERM, "process.cwd: %s: lies outside of the container's root: refused", cwd);
    return 0;
}

static const char *variable(const struct strings *env, const char *name)
{
    size_t n = strlen(name);
    for (size_t i = env->n; i-- > 0;)
        if (!strncmp(env->v[i], name, n) && env->v[i][n] == '=')
            return env->v[i] + n + 1;
    return NULL;
}

int identity_program(const struct spec_process *p, char *out, size_t size, struct error *e)
{
    const char *name = p->args.v[0], *path = variable(&p->env, "PATH");
    struct stat st;
    bool denied = false;
    if (!path)
        path = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";
    if (strchr(name, '/')) {
        if (snprintf(out, size, "%s", name) >= (int)size)
            return error_set(e, ENAMETOOLONG, "exec: \"%.100s..\": too long", name);
        if (stat(name, &st) < 0)
            return error_set(e, errno, "exec: \"%s\": stat %s: %s", name, name,
                             errno == ENOENT ? "no such file or directory" : strerror(errno));
        if (S_ISDIR(st.st_mode) || !(st.st_mode & 0111))
            return error_set(e, EACCES, "exec: \"%s\": permission denied", name);
        return 0;
    }
    for (const char *dir = path; *name; dir += strcspn(dir, ":") + 1) {
        int n = (int)strcspn(dir, ":");
        if (snprintf(out, size, "%.*s%s%s", n, dir, n ? "/" : "./", name) < (int)size && stat(out, &st) == 0 &&
            S_ISREG(st.st_mode)) {
            if (st.st_mode & 0111)
                return 0;
            denied = true;
        }
        if (!dir[n])
            break;
    }
    if (denied)
        return error_set(e, EACCES, "exec: \"%s\": permission denied", name);
    return error_set(e, ENOENT, "exec: \"%s\": executable file not found in $PATH", name);
}
