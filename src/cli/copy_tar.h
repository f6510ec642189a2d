/* Trees of files (agent/agent.h) as tar streams: `trapeze cp NAME:PATH -` and `trapeze cp - NAME:PATH`. */
#ifndef TRAPEZE_CLI_COPY_TAR_H
#define TRAPEZE_CLI_COPY_TAR_H

#include "agent/agent.h"

struct copy_tar_out;

/* Write a tree as a tar stream (pax) to `fd`; its root is called `root`, "" for what is in it alone. 0 or -errno. */
int copy_tar_create(struct copy_tar_out **out, int fd, const char *root, struct error *e);
/* A frame: 1 when it was the last, 0, or -errno. */
int copy_tar_put(struct copy_tar_out *t, const struct agent_frame *f, struct error *e);
/* Complete it and free it, in any case. 0 or -errno. */
int copy_tar_finish(struct copy_tar_out *t, struct error *e);

/* Read a tar stream (packed or not) from `fd` and send what is in it as a tree, to the end. 0 or -errno. */
int copy_tar_send(int fd, int agent, struct error *e);

#endif
