/* `trapeze stats` of a container. */
#ifndef TRAPEZE_CLI_STATS_CONTAINER_H
#define TRAPEZE_CLI_STATS_CONTAINER_H

#include "cli/cli.h"
#include "vm/registry.h"

/* An exit status. */
int stats_container(const struct args *a, const struct machine_row *row, struct error *e);

#endif
