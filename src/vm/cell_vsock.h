/* The cell's end of the socket rings: packets of the guest's driver go up, packets for it come down. */
#ifndef TRAPEZE_VM_CELL_VSOCK_H
#define TRAPEZE_VM_CELL_VSOCK_H

#include "vm/link.h"

/* What a board_config needs for the socket device; `l` outlives the board. */
void cell_vsock_setup(struct board_config *b, struct link *l);

/* Go on with packets both ways; whether any came down. -EPROTO: the keeper has broken the protocol. */
int cell_vsock_serve(struct link *l, struct board *b);

#endif
