/* Terminals of containers: made inside, from the container's own devpts; the other end goes out by a socket. */
#ifndef TRAPEZE_CONTAINER_CONSOLE_H
#define TRAPEZE_CONTAINER_CONSOLE_H

#include "container/spec.h"

/*
 * A new terminal from the devpts whose root is `devpts`. Looked up there by nothing but the name ptmx and ioctl: what stands
 * in the container's /dev does not matter. 0 with both ends, or -errno.
 */
int console_open(int devpts, const struct spec_process *p, int *master, int *slave, struct error *e);

/* For exec, inside the container: the root of the devpts at /dev/pts, after making sure that it is one. */
int console_devpts(struct error *e);

/* Hand the master to whoever listens on the console socket: one message with its name, the descriptor beside it. */
int console_send(int socket, int master, struct error *e);

/* Make `slave` standard input, output, error and the controlling terminal of this session leader. */
int console_assume(int slave, const struct spec_process *p, struct error *e);

#endif
