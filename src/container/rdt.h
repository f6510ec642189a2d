/* linux.intelRdt: a class of service in the resctrl file system. */
#ifndef TRAPEZE_CONTAINER_RDT_H
#define TRAPEZE_CONTAINER_RDT_H

#include "container/spec.h"

/* Make or check the class, put the process into it. -ENOTSUP: no resctrl is mounted. */
int rdt_join(const struct spec_rdt *r, const char *id, pid_t pid, struct error *e);
/* Remove what rdt_join made for this container. */
void rdt_leave(const struct spec_rdt *r, const char *id);

#endif
