/*
 * NOTIFY_SOCKET (sd_notify(3)): the container says that it is ready, we pass that on to who started us.
 *
 * The container gets a socket of its own, in a directory of the state that is mounted at /run/notify. Without NOTIFY_SOCKET
 * in the environment all of this is nothing.
 */
#ifndef TRAPEZE_CONTAINER_NOTIFY_H
#define TRAPEZE_CONTAINER_NOTIFY_H

#include "container/launch.h"

/* Put the mount and the variable into the configuration. */
int notify_prepare(struct launch *l, struct error *e);
/* Make the directory, when the state is there. */
int notify_directory(struct launch *l, struct error *e);
/* Listen, before the program starts. */
int notify_bind(struct launch *l, struct error *e);
/* After the start: wait for READY=1 and pass it on with the container's process's number; or until that process ends. */
int notify_forward(struct launch *l, struct error *e);

#endif
