#include "vm/cell_share.h"

#include <unistd.h>

static void wake_back_end(void *ctx, unsigned i)
{
    const struct cell_shares *s = ctx;
    host_event_signal(s->wake[i]);
}

int cell_share_setup(struct cell_shares *s, struct board_config *b, const struct link_config *cfg,
                     struct host_cell_seal *seal, struct error *e)
{
    int first = LINK_FD_END + 2 * (int)cfg->n_nets; /* behind those of the network cards */
    s->n = cfg->n_shares;
    for (unsigned i = 0; i < s->n; i++) {
        int fd = first + (int)(s->n + i);
        void *p = host_map_shared(fd, share_size(), e);
        if (!p)
            return -1;
        close(fd);
        share_attach(&s->line[i], p, true);
        s->wake[i] = first + (int)i;
        seal->wake_back[seal->n_wake_back++] = s->wake[i];
    }
    b->shares = cfg->shares;
    b->share_lines = s->line;
    b->n_shares = s->n;
    b->share_signal = wake_back_end;
    b->share_ctx = s;
    return 0;
}

void cell_share_doors(struct cell_shares *s, bool closed)
{
    for (unsigned i = 0; i < s->n; i++)
        (closed ? ring_door_close : ring_door_open)(s->line[i].own);
}

bool cell_share_serve(struct board *b)
{
    board_lock_devices(b);
    bool moved = board_share_settle(b);
    board_unlock_devices(b);
    return moved;
}

void cell_share_drain(struct cell_shares *s, struct board *b, struct link *l)
{
    while (board_share_busy(b)) {
        cell_share_doors(s, true);
        if (!cell_share_serve(b))
            host_event_wait(l->wake_self, UINT64_MAX);
        cell_share_doors(s, false);
    }
}
