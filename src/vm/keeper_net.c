/*
 * The keeper's part in networks: it starts the back ends before there is a cell, gives each side its end of the wire, and sees
 * them end. No frame comes here.
 *
 *   keeper ──job, answer──> back end (backend/net/)      cell
 *     |  holds the control socket     └────── wire ────────┘
 *
 * A back end that ends, by a fault or by its seal, is not started again: its card's link goes down, the machine goes on, and
 * `inspect` says so.
 */
#include "vm/keeper.h"
#include "vm/paths.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

_Static_assert(NET_COUNT_MAX == HOST_NET_MAX, "the seal knows all cards");

struct keeper_net {
    struct net_backend back;
    struct wire wire; /* the back end's end, to take the link down when it can not any more */
    bool ended;
};

struct keeper_nets {
    unsigned n;
    struct keeper_net net[NET_COUNT_MAX];
};

static int switch_dir(char *out, size_t size, struct error *e)
{
    char state[PATH_MAX];
    int r = paths_state_dir(state, sizeof(state), e);
    if (r < 0 || (r = paths_join(out, size, state, "switches", e)) < 0)
        return r;
    if (mkdir(out, 0700) < 0 && errno != EEXIST)
        return error_set(e, errno, "%.200s: %s", out, strerror(errno));
    return 0;
}

/* The first card in user mode has the ports. */
static bool has_ports(const struct keeper *k, unsigned i)
{
    for (unsigned n = 0; n < i; n++)
        if (k->cfg.nets[n].kind == NET_USER)
            return false;
    return k->cfg.nets[i].kind == NET_USER;
}

static int start_net(struct keeper *k, unsigned i, int wake_cell, struct error *e)
{
    const struct vm_net *c = &k->cfg.nets[i];
    struct keeper_net *n = &k->nets->net[i];
    struct net_job *job = calloc(1, sizeof(*job));
    char dir[PATH_MAX] = "";
    if (!job)
        return error_set(e, ENOMEM, "networks: out of memory");
    job->kind = c->kind;
    job->number = i;
    job->host_loopback = c->host;
    memcpy(job->name, c->name, sizeof(job->name));
    if (has_ports(k, i)) {
        job->n_forwards = k->cfg.n_forwards;
        memcpy(job->forward, k->cfg.forwards, sizeof(job->forward));
    }
    int r = c->kind == NET_SWITCH ? switch_dir(dir, sizeof(dir), e) : 0;
    if (r == 0)
        r = net_backend_start(&n->back, job, wake_cell, dir, e);
    free(job);
    if (r < 0)
        return r;
    wire_attach(&n->wire, n->back.wire, false);
    k->nets->n++;
    return 0;
}

int keeper_start_nets(struct keeper *k, int wake_cell, struct error *e)
{
    int r = 0;
    if (!k->cfg.n_nets)
        return 0;
    if (!(k->nets = calloc(1, sizeof(*k->nets))))
        return error_set(e, ENOMEM, "networks: out of memory");
    for (unsigned i = 0; i < k->cfg.n_nets && r >= 0; i++)
        r = start_net(k, i, wake_cell, e);
    return r;
}

unsigned keeper_describe_nets(const struct keeper *k, struct link_config *c, int *fds, unsigned n)
{
    c->n_nets = k->nets ? k->nets->n : 0;
    for (unsigned i = 0; i < c->n_nets; i++) {
        net_describe(k->cfg.nets[i].kind, &c->nets[i]);
        vm_net_mac(&k->cfg.nets[i], c->nets[i].mac);
        fds[n + i] = k->nets->net[i].back.wake_fd;
        fds[n + c->n_nets + i] = k->nets->net[i].back.wire_fd;
    }
    return n + 2 * c->n_nets;
}

int keeper_net_process(const struct keeper *k, unsigned i)
{
    return k->nets && i < k->nets->n ? k->nets->net[i].back.child.pidfd : -1;
}

int keeper_net_gone(const struct keeper *k, unsigned i)
{
    return k->nets && i < k->nets->n && !k->nets->net[i].ended ? k->nets->net[i].back.control : -1;
}

void keeper_net_ended(struct keeper *k, unsigned i)
{
    struct keeper_net *n = &k->nets->net[i];
    int code, sig;
    n->ended = true;
    wire_set_link(&n->wire, false);
    host_event_signal(n->back.wake_cell_fd);
    if (n->back.child.pid > 0) {
        host_child_kill(&n->back.child);
        host_child_reap(&n->back.child, true, &code, &sig);
    }
}

void keeper_stop_nets(struct keeper *k)
{
    for (unsigned i = 0; k->nets && i < k->nets->n; i++)
        net_backend_stop(&k->nets->net[i].back);
    free(k->nets);
    k->nets = NULL;
}

json_t *keeper_nets_json(const struct keeper *k)
{
    json_t *a = json_array();
    for (unsigned i = 0; k->nets && a && i < k->nets->n; i++) {
        const struct keeper_net *n = &k->nets->net[i];
        struct net_count c = *n->back.count;
        json_array_append_new(
            a, json_pack("{s:s,s:s,s:s,s:s,s:i,s:I,s:I,s:I,s:I,s:I}", "kind", net_kind_name(n->back.kind), "name",
                         n->back.name, "mac", k->cfg.nets[i].mac, "link",
                         n->ended              ? "down: its back end has ended"
                         : wire_link(&n->wire) ? "up"
                                               : "down",
                         "process", n->back.child.pid > 0 ? n->back.child.pid : 0, "sent", (json_int_t)c.sent,
                         "sent_bytes", (json_int_t)c.sent_bytes, "received", (json_int_t)c.received, "received_bytes",
                         (json_int_t)c.received_bytes, "dropped", (json_int_t)c.dropped));
    }
    return a;
}
