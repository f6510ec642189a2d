/*
 * The keeper's part in shared directories: it opens them, starts a back end for each before there is a cell, gives each side its end
 * of the line, and sees them end. No request comes here.
 *
 *   keeper ──directory──> back end (backend/share/)      cell
 *     |  holds the control socket     └────── line ────────┘
 *
 * A back end that ends, by a fault or by its seal, is not started again: its guest gets ENOTCONN, the machine goes on, and
 * `inspect` says so.
 */
#include "vm/keeper.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

_Static_assert(SHARE_COUNT_MAX == HOST_SHARE_MAX, "the seal knows all shares");

struct keeper_share {
    int dir; /* until its back end has it */
    struct share_backend back;
    struct share_line line; /* the back end's end, to take it down when it can not any more */
    bool ended;
};

struct keeper_shares {
    unsigned opened, started;
    struct keeper_share share[SHARE_COUNT_MAX];
};

int keeper_open_shares(struct keeper *k, struct error *e)
{
    if (!k->cfg.n_shares)
        return 0;
    struct keeper_shares *s = k->shares = calloc(1, sizeof(*s));
    if (!s)
        return error_set(e, ENOMEM, "--share: out of memory");
    for (; s->opened < k->cfg.n_shares; s->opened++) {
        int fd = share_open(k->cfg.shares[s->opened].dir, e);
        if (fd < 0)
            return fd;
        s->share[s->opened].dir = fd;
    }
    return 0;
}

int keeper_start_shares(struct keeper *k, int wake_cell, struct error *e)
{
    struct keeper_shares *s = k->shares;
    for (; s && s->started < s->opened; s->started++) {
        struct keeper_share *n = &s->share[s->started];
        int r = share_backend_start(&n->back, n->dir, k->cfg.shares[s->started].read_only, wake_cell, e);
        if (r < 0)
            return r;
        close(n->dir);
        n->dir = -1;
        share_attach(&n->line, n->back.memory, false);
    }
    return 0;
}

unsigned keeper_describe_shares(const struct keeper *k, struct link_config *c, int *fds, unsigned n)
{
    c->n_shares = k->shares ? k->shares->started : 0;
    for (unsigned i = 0; i < c->n_shares; i++) {
        c->shares[i] = vm_share_info(&k->cfg.shares[i]);
        fds[n + i] = k->shares->share[i].back.wake_fd;
        fds[n + c->n_shares + i] = k->shares->share[i].back.line_fd;
    }
    return n + 2 * c->n_shares;
}

int keeper_share_process(const struct keeper *k, unsigned i)
{
    return k->shares && i < k->shares->started ? k->shares->share[i].back.child.pidfd : -1;
}

int keeper_share_gone(const struct keeper *k, unsigned i)
{
    return k->shares && i < k->shares->started && !k->shares->share[i].ended ? k->shares->share[i].back.control : -1;
}

void keeper_share_ended(struct keeper *k, unsigned i)
{
    struct keeper_share *s = &k->shares->share[i];
    int code, sig;
    s->ended = true;
    host_child_kill(&s->back.child); /* dead before the guest is told: it writes nothing any more */
    host_child_reap(&s->back.child, true, &code, &sig);
    share_set_up(&s->line, false);
    host_event_signal(s->back.wake_cell_fd);
}

void keeper_stop_shares(struct keeper *k)
{
    for (unsigned i = 0; k->shares && i < k->shares->started; i++)
        share_backend_stop(&k->shares->share[i].back);
    free(k->shares);
    k->shares = NULL;
}

json_t *keeper_shares_json(const struct keeper *k)
{
    json_t *a = json_array();
    for (unsigned i = 0; k->shares && a && i < k->shares->started; i++) {
        const struct keeper_share *s = &k->shares->share[i];
        const struct vm_share *v = &k->cfg.shares[i];
        struct share_count c = *s->back.count;
        json_array_append_new(a, json_pack("{s:s,s:s,s:b,s:s,s:i,s:I,s:I,s:I,s:I,s:I,s:I}", "directory", v->dir, "tag",
                                           v->tag, "readonly", v->read_only, "state",
                                           s->ended             ? "down: its back end has ended"
                                           : share_up(&s->line) ? "up"
                                                                : "down",
                                           "process", s->back.child.pid > 0 ? s->back.child.pid : 0, "requests",
                                           (json_int_t)c.requests, "errors", (json_int_t)c.errors, "read",
                                           (json_int_t)c.read, "written", (json_int_t)c.written, "files_known",
                                           (json_int_t)c.nodes, "files_open", (json_int_t)c.handles));
    }
    return a;
}
