/* Hooks: programs of the configuration's, run at points of a container's life with its state on standard input. */
#ifndef TRAPEZE_CONTAINER_HOOK_H
#define TRAPEZE_CONTAINER_HOOK_H

#include "container/spec.h"

/*
 * Run the hooks of one kind in turn, `state` (JSON) on the standard input of each. The first that fails, or is not done after
 * its timeout, ends it. 0, or -errno with `e` naming the hook, its status and the end of what it wrote to standard error.
 * `directory`: where they run, NULL: here.
 */
int hook_run(const struct spec_hooks *hooks, const char *kind, const char *state, const char *directory,
             struct error *e);

#endif
