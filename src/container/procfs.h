/*
 * The one procfs that is trusted: a fresh mount that belongs to no directory, or, where the kernel gives none, the host's
 * /proc after a look at its file system. What a container has at its own /proc is never used for writing.
 */
#ifndef TRAPEZE_CONTAINER_PROCFS_H
#define TRAPEZE_CONTAINER_PROCFS_H

#include "base/error.h"

/* A directory descriptor of procfs for the caller's PID namespace. Before the root changes. -errno with `e`. */
int procfs_open(struct error *e);

/* Write `text` to the file `path` of `proc`; refused when any part of the way is a symbolic link or no procfs. */
int procfs_write(int proc, const char *path, const char *text, struct error *e);

/* Whether the descriptor is of procfs. */
bool procfs_is(int fd);

#endif
