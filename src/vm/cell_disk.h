/* The cell's end of the disk rings: requests of the board's disks go up, replies come down. */
#ifndef TRAPEZE_VM_CELL_DISK_H
#define TRAPEZE_VM_CELL_DISK_H

#include "vm/link.h"

/* What a board_config needs for the disks of `cfg`; `l` is its disk_ctx. Both outlive the board. */
void cell_disk_setup(struct board_config *b, const struct link_config *cfg, struct link *l);

/* Take replies; whether there were any. -EPROTO: the keeper has broken the protocol. */
int cell_disk_serve(struct link *l, struct board *b);

/*
 * Wait until no request is on its way: before the machine is saved, stops or is reset, so that nothing is written to its
 * memory behind its back. The guest does not run meanwhile. 0 or -EPROTO.
 */
int cell_disk_drain(struct link *l, struct board *b);

#endif
