/* What a process is allowed: user, groups, capabilities, limits, priorities, labels. Applied by the process to itself. */
#ifndef TRAPEZE_CONTAINER_IDENTITY_H
#define TRAPEZE_CONTAINER_IDENTITY_H

#include "container/filter.h"
#include "container/spec.h"

/* Resource limits, scheduler, I/O priority, CPU affinity `affinity` (a list or NULL). */
int identity_limits(const struct spec_process *p, const char *affinity, struct error *e);

/* Labels for the program to come, written to `proc` (procfs.h). Nothing to do: 0. */
int identity_labels(const struct spec_process *p, int proc, struct error *e);

/*
 * The point of no return: user, groups, capabilities, no-new-privileges, filter; at once, in the order that lets each still
 * be done. Afterwards only execve is left. Returns the filter's listener, 0, or -errno.
 */
int identity_assume(const struct spec_process *p, const struct filter *filter, struct error *e);

/* Enter cwd, as whoever we are; refused when it lies outside of the root. */
int identity_chdir(const char *cwd, struct error *e);

/*
 * The program that execve will run: args[0] itself if it holds a '/', else looked up in the PATH of the process's own
 * environment. 0 with `out` filled, or -errno: ENOENT "executable file not found in $PATH", EACCES.
 */
int identity_program(const struct spec_process *p, char *out, size_t size, struct error *e);

#endif
