/* The part of `run` that is about containers: `trapeze run IMAGE [CMD]`. */
#ifndef TRAPEZE_CLI_RUN_CONTAINER_H
#define TRAPEZE_CLI_RUN_CONTAINER_H

#include "cli/cli.h"

/* An exit status: the program's, or 125, 126, 127 (box/box.h) with `e`. */
int run_container(const struct args *a, struct error *e);

#endif
