/* The cell's side of shared directories: the lines, and the events that wake the back ends. */
#ifndef TRAPEZE_VM_CELL_SHARE_H
#define TRAPEZE_VM_CELL_SHARE_H

#include "host/host.h"
#include "vm/link.h"

struct cell_shares {
    unsigned n;
    struct share_line line[SHARE_COUNT_MAX];
    int wake[SHARE_COUNT_MAX];
};

/* Map the lines and tell the board. Before the seal, to which the events are added. */
int cell_share_setup(struct cell_shares *s, struct board_config *b, const struct link_config *cfg,
                     struct host_cell_seal *seal, struct error *e);
/* Close or open the doors at which back ends knock. */
void cell_share_doors(struct cell_shares *s, bool closed);
/* Whether anything moved. */
bool cell_share_serve(struct board *b);
/* No request is on its way when this returns, and none waits; the guest does not run meanwhile. */
void cell_share_drain(struct cell_shares *s, struct board *b, struct link *l);

#endif
