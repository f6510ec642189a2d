/* `top` without a name: what all machines and containers of this user use. */
#ifndef TRAPEZE_CLI_TOP_ALL_H
#define TRAPEZE_CLI_TOP_ALL_H

#include "cli/cli.h"

/* A line for each that lives: once, or every --interval. */
int top_all(const struct args *a, struct error *e);

#endif
