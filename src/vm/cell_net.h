/* Network cards in the cell: their wires, and when their frames move. */
#ifndef TRAPEZE_VM_CELL_NET_H
#define TRAPEZE_VM_CELL_NET_H

#include "host/host.h"
#include "vm/link.h"

struct cell_nets {
    unsigned n;
    struct wire wire[NET_COUNT_MAX];
    int wake[NET_COUNT_MAX]; /* the back end's event */
};

/* Map and attach the wires of `cfg`, and put them into the board's configuration. */
int cell_net_setup(struct cell_nets *n, struct board_config *b, const struct link_config *cfg,
                   struct host_cell_seal *seal, struct error *e);
/* Before the last look and sleep, and after: back ends signal while doors are closed. */
void cell_net_doors(struct cell_nets *n, bool closed);
/* Move frames; whether any moved. The machine runs. */
bool cell_net_serve(struct board *b);

#endif
