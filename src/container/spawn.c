#include "container/spawn.h"
#include "container/sync.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>

int spawn_plan(struct spawn *s, const struct spec *spec, struct error *e)
{
    memset(s, 0, sizeof(*s));
    s->target = s->cgroup = -1;
    for (size_t i = 0; i < spec->n_namespaces; i++) {
        const struct spec_namespace *n = &spec->namespaces[i];
        if (n->path) {
            int fd = open(n->path, O_RDONLY | O_CLOEXEC);
            if (fd < 0) {
                sys_error(e, "namespace %s: %s", word_name(spec_namespace_words, n->flag), n->path);
                spawn_close(s);
                return -EINVAL;
            }
            s->join[s->n_joins].flag = n->flag;
            s->join[s->n_joins].path = n->path;
            s->join[s->n_joins++].fd = fd;
        } else if (n->flag != CLONE_NEWCGROUP && n->flag != CLONE_NEWTIME) {
            s->create |= n->flag;
        }
    }
    return 0;
}

void spawn_close(struct spawn *s)
{
    for (size_t i = 0; i < s->n_joins; i++)
        close(s->join[i].fd);
    s->n_joins = 0;
}

/* Enter those of `wanted` flags; `quiet`: what fails is left for the next round. */
static int enter(struct spawn *s, u64 wanted, bool quiet, struct error *e)
{
    for (size_t i = 0; i < s->n_joins; i++) {
        if (!(s->join[i].flag & wanted) || s->join[i].fd < 0)
            continue;
        if (setns(s->join[i].fd, (int)s->join[i].flag) == 0) {
            close(s->join[i].fd);
            s->join[i].fd = -1;
        } else if (!quiet) {
            return sys_error(e, "namespace %s: joining %s", word_name(spec_namespace_words, s->join[i].flag),
                             s->join[i].path);
        }
    }
    return 0;
}

/*
 * A namespace may belong to the host's user namespace or to the one that is joined: tried before, and again after. The mount
 * namespace comes last, because paths change their meaning.
 */
static int enter_all(struct spawn *s, struct error *e)
{
    u64 most = ~(u64)(CLONE_NEWUSER | CLONE_NEWNS);
    enter(s, most, true, NULL);
    int r = enter(s, CLONE_NEWUSER, false, e);
    if (r == 0)
        r = enter(s, most, false, e);
    if (r == 0)
        r = enter(s, CLONE_NEWNS, false, e);
    if (r == 0 && s->target >= 0 && setns(s->target, (int)s->target_flags) < 0)
        r = sys_error(e, "joining the container's namespaces");
    return r;
}

static pid_t clone_here(struct spawn *s, u64 more, int *pidfd, struct error *e)
{
    pid_t pid = sys_clone(s->create | more, pidfd, s->cgroup);
    if (pid < 0 && s->cgroup >= 0 &&
        (errno == EACCES || errno == EPERM || errno == EBUSY || errno == EOPNOTSUPP || errno == EINVAL)) {
        pid = sys_clone(s->create | more, pidfd, -1);
        s->cgroup_refused = true;
    }
    if (pid < 0)
        return sys_error(
            e, "making the container's process%s",
            errno == EPERM && !(s->create & CLONE_NEWUSER) ? " (without root a new user namespace is needed)" : "");
    return pid;
}

/* The process in between. It returns only in the process that it makes. */
static void between(struct spawn *s, int sync)
{
    struct error e = {0};
    /*
     * It holds descriptors of the host while it is in the container's namespaces: nobody there may look. Before a new user
     * namespace has its mappings it has to stay dumpable, for who is not root would not be let write them.
     */
    int r = enter_all(s, &e);
    if (!(s->create & CLONE_NEWUSER))
        prctl(PR_SET_DUMPABLE, 0);
    if (r == 0) {
        pid_t pid = clone_here(s, CLONE_PARENT, NULL, &e);
        if (pid == 0) {
            close(sync);
            return;
        }
        if (pid > 0) {
            sync_send(sync, SYNC_PROCESS, pid, NULL);
            _exit(s->cgroup_refused);
        }
    }
    sync_send(sync, SYNC_ERROR, 0, &e);
    _exit(2);
}

static pid_t spawn_joined(struct spawn *s, int *pidfd, struct error *e)
{
    int pair[2], status = 0;
    struct sync_message m;
    int r = sync_pair(pair, e);
    if (r < 0)
        return r;
    pid_t middle = fork();
    if (middle < 0) {
        r = sys_error(e, "fork");
    } else if (middle == 0) {
        close(pair[0]);
        between(s, pair[1]);
        return 0;
    }
    close(pair[1]);
    if (middle > 0) {
        r = sync_receive(pair[0], &m, e);
        while (waitpid(middle, &status, 0) < 0 && errno == EINTR)
            ;
        if (r == 1 || (r == 0 && m.kind != SYNC_PROCESS))
            r = error_set(e, EPIPE, "the process that joins namespaces ended (signal %d)",
                          WIFSIGNALED(status) ? WTERMSIG(status) : 0);
    }
    close(pair[0]);
    if (r < 0)
        return r;
    s->cgroup_refused = WIFEXITED(status) && WEXITSTATUS(status) == 1;
    /* It is our child and nobody has waited for it: its number can not have been given to another. */
    *pidfd = sys_pidfd_open(m.value);
    if (*pidfd < 0) {
        r = sys_error(e, "pidfd_open");
        kill(m.value, SIGKILL);
        return r;
    }
    return m.value;
}

pid_t spawn_process(struct spawn *s, int *pidfd, struct error *e)
{
    if (s->n_joins || s->target >= 0)
        return spawn_joined(s, pidfd, e);
    return clone_here(s, 0, pidfd, e);
}
