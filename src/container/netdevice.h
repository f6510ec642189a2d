/* linux.netDevices: interfaces of the host that move into the container's network namespace. */
#ifndef TRAPEZE_CONTAINER_NETDEVICE_H
#define TRAPEZE_CONTAINER_NETDEVICE_H

#include "container/spec.h"

/* Move each into the network namespace of `pid`, under its new name, and up. 0 or -errno with `e`. */
int netdevice_move(const struct spec *s, pid_t pid, struct error *e);

#endif
