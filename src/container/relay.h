/* The caller's own terminal as that of a container that runs in the foreground. */
#ifndef TRAPEZE_CONTAINER_RELAY_H
#define TRAPEZE_CONTAINER_RELAY_H

#include "base/error.h"

#include <sys/types.h>
#include <termios.h>

struct relay {
    int socket, child_socket; /* the master comes by this pair; -1: no relay */
    int master;
    bool raw; /* the terminal was changed, `before` is what it was */
    struct termios before;
};

int relay_open(struct relay *r, struct error *e);
/* Copy both ways until the process has ended. Signals are blocked by the caller. *status as for container_run. */
int relay_run(struct relay *r, pid_t pid, int pidfd, int *status, struct error *e);
void relay_close(struct relay *r);

#endif
