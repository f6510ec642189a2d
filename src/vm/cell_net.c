#include "vm/cell_net.h"
#include "host/host.h"

#include <unistd.h>

static void wake_back_end(void *ctx, unsigned i)
{
    const struct cell_nets *n = ctx;
    host_event_signal(n->wake[i]);
}

int cell_net_setup(struct cell_nets *n, struct board_config *b, const struct link_config *cfg,
                   struct host_cell_seal *seal, struct error *e)
{
    n->n = cfg->n_nets;
    for (unsigned i = 0; i < n->n; i++) {
        int fd = LINK_FD_END + (int)(n->n + i);
        void *p = host_map_shared(fd, wire_size(), e);
        if (!p)
            return -1;
        close(fd);
        wire_attach(&n->wire[i], p, true);
        n->wake[i] = LINK_FD_END + (int)i;
        seal->wake_back[seal->n_wake_back++] = n->wake[i];
    }
    b->nets = cfg->nets;
    b->wires = n->wire;
    b->n_nets = n->n;
    b->net_signal = wake_back_end;
    b->net_ctx = n;
    return 0;
}

void cell_net_doors(struct cell_nets *n, bool closed)
{
    for (unsigned i = 0; i < n->n; i++)
        (closed ? ring_door_close : ring_door_open)(n->wire[i].own);
}

bool cell_net_serve(struct board *b)
{
    board_lock_devices(b);
    bool moved = board_net_settle(b);
    board_unlock_devices(b);
    return moved;
}
