/* Back ends, the part that all have: kinds, the start from the keeper's side, and the start of their process. */
#include "backend/net/net.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

static const struct {
    const char *name;
    bool named;
    u16 mtu;
    u32 takes, gives;
} kinds[NET_KIND_COUNT] = {
#define X(kind, name, named, mtu, takes, gives) [kind] = {name, named, mtu, takes, gives},
    NET_KINDS(X)
#undef X
};

const char *net_kind_name(enum net_kind k)
{
    return kinds[k].name;
}

bool net_kind_named(enum net_kind k)
{
    return kinds[k].named;
}

int net_kind_find(const char *name, size_t len)
{
    for (int i = 0; i < NET_KIND_COUNT; i++)
        if (strlen(kinds[i].name) == len && !memcmp(kinds[i].name, name, len))
            return i;
    return -1;
}

void net_describe(enum net_kind k, struct net_info *i)
{
    i->mtu = kinds[k].mtu;
    i->takes = kinds[k].takes;
    i->gives = kinds[k].gives;
}

void net_port_signal(struct net_port *p)
{
    if (wire_news(&p->wire))
        host_event_signal(p->wake_peer);
}

/* --- the keeper's side --- */

struct answer {
    struct error e;
    char name[NET_NAME_MAX];
};

static void close_fd(int *fd)
{
    if (*fd >= 0)
        close(*fd);
    *fd = -1;
}

void net_backend_stop(struct net_backend *b)
{
    int code, sig;
    close_fd(&b->control);
    close_fd(&b->wire_fd);
    close_fd(&b->wake_fd);
    close_fd(&b->wake_cell_fd);
    if (b->child.pid > 0) {
        host_child_kill(&b->child);
        host_child_reap(&b->child, true, &code, &sig);
    }
    if (b->wire)
        host_unmap(b->wire, wire_size());
    host_unmap(b->count, PAGE_SIZE);
    b->wire = NULL;
    b->count = NULL;
}

/* A process of its own for the card: it has the job, and has answered. */
static int spawn(struct net_backend *b, const struct net_job *job, int tap, int count, struct error *e)
{
    char *const argv[] = {(char[]){"trapeze"}, (char[]){NET_ARG}, (char *)(uintptr_t)kinds[job->kind].name, NULL};
    struct answer a = {{0}, ""};
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return error_set(e, errno, "socketpair: %s", strerror(errno));
    b->control = pair[0];
    const int fds[] = {pair[1], tap >= 0 ? tap : b->wire_fd, b->wake_fd, b->wake_cell_fd, count};
    int r = host_spawn_self(&b->child, argv, fds, ARRAY_LEN(fds), e);
    close(pair[1]);
    if (r < 0)
        return r;
    if (send(b->control, job, sizeof(*job), MSG_NOSIGNAL) != sizeof(*job) ||
        recv(b->control, &a, sizeof(a), 0) != sizeof(a))
        return error_set(e, EIO, "--network %s: its process ended before it could say why (see the kernel's log)",
                         kinds[job->kind].name);
    a.e.msg[sizeof(a.e.msg) - 1] = a.name[sizeof(a.name) - 1] = 0;
    memcpy(b->name, a.name, sizeof(b->name));
    return a.e.code ? error_set(e, a.e.code, "%s", a.e.msg) : 0;
}

int net_backend_start(struct net_backend *b, const struct net_job *job, int wake_cell, const char *dir, struct error *e)
{
    *b = (struct net_backend){
        .kind = job->kind, .child = {.pid = -1, .pidfd = -1}, .control = -1, .wire_fd = -1, .wake_fd = -1};
    int r = 0, count = host_memfd("trapeze-net-count", PAGE_SIZE, e);
    b->wake_cell_fd = dup(wake_cell);
    b->wire_fd = host_memfd("trapeze-wire", wire_size(), e);
    b->wake_fd = host_event_create(e);
    if (count < 0 || b->wake_cell_fd < 0 || b->wire_fd < 0 || b->wake_fd < 0)
        r = error_set(e, EMFILE, "--network: no descriptors left");
    else if (!(b->wire = host_map_shared(b->wire_fd, wire_size(), e)) ||
             !(b->count = host_map_shared(count, PAGE_SIZE, e)))
        r = -ENOMEM;
    else if (job->kind != NET_SWITCH)
        r = spawn(b, job, -1, count, e);
    else if ((r = net_switch_join(dir, job->name, b->wire_fd, b->wake_fd, b->wake_cell_fd, count, e)) >= 0) {
        b->control = r;
        memcpy(b->name, job->name, sizeof(b->name));
        r = 0;
    }
    close_fd(&count);
    if (r < 0)
        net_backend_stop(b);
    return r;
}

int net_backend_start_on(struct net_backend *b, const struct net_job *job, int tap, struct error *e)
{
    *b = (struct net_backend){.kind = job->kind, .child = {.pid = -1, .pidfd = -1}, .control = -1, .wire_fd = -1};
    int r = 0, count = host_memfd("trapeze-net-count", PAGE_SIZE, e);
    b->wake_fd = host_event_create(e);
    b->wake_cell_fd = b->wake_fd < 0 ? -1 : dup(b->wake_fd); /* nobody is signalled: the kernel wakes */
    if (count < 0 || b->wake_fd < 0 || b->wake_cell_fd < 0)
        r = error_set(e, EMFILE, "--network: no descriptors left");
    else if (!(b->count = host_map_shared(count, PAGE_SIZE, e)))
        r = -ENOMEM;
    else
        r = spawn(b, job, tap, count, e);
    close_fd(&count);
    if (r < 0)
        net_backend_stop(b);
    return r;
}

/* --- the process --- */

void net_ready(struct net_life *l, const struct error *e)
{
    struct answer a = {*e, ""};
    memcpy(a.name, l->name, sizeof(a.name));
    if (!e->code && !l->job.on_tap)
        wire_set_link(&l->port.wire, true);
    if (write(l->control, &a, sizeof(a)) != sizeof(a))
        _exit(1); /* the keeper has gone */
}

static int attach(struct net_life *l, struct error *e)
{
    void *wire = l->job.on_tap ? NULL : host_map_shared(NET_FD_WIRE, wire_size(), e);
    l->port.count = wire || l->job.on_tap ? host_map_shared(NET_FD_COUNT, PAGE_SIZE, e) : NULL;
    if (!l->port.count)
        return -ENOMEM;
    l->port.wake = NET_FD_WAKE;
    l->port.wake_peer = NET_FD_WAKE_CELL;
    close(NET_FD_COUNT);
    if (l->job.on_tap)
        return 0;
    wire_attach(&l->port.wire, wire, false);
    close(NET_FD_WIRE);
    return 0;
}

int net_main(int argc, char **argv)
{
    struct net_life l = {.control = NET_FD_CONTROL};
    struct error e = {0};
    host_process_name("trapeze-net");
    signal(SIGPIPE, SIG_IGN); /* a guest may go on sending to a peer that has closed */
    if (read(l.control, &l.job, sizeof(l.job)) != sizeof(l.job))
        return 1; /* started by hand */
    memcpy(l.name, l.job.name, sizeof(l.name));
    int r = attach(&l, &e);
    if (r == 0)
        r = l.job.kind == NET_USER ? net_user_run(&l, &e) : net_tap_run(&l, &e);
    if (r < 0)
        net_ready(&l, &e);
    return r < 0;
}
