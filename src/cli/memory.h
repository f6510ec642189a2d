/* A machine's memory, as its keeper and the guest's balloon driver tell of it. */
#ifndef TRAPEZE_CLI_MEMORY_H
#define TRAPEZE_CLI_MEMORY_H

#include "vm/registry.h"

#include <jansson.h>

/*
 * What the keeper says of the balloon (vm/control.h), with `fresh` after the guest was asked for its statistics and had a second to
 * answer. The caller's reference, or NULL when the keeper does not say.
 */
json_t *memory_ask(const struct machine_row *row, bool fresh);

/* For people: a paragraph. Nothing without a `balloon`. */
void memory_print(const json_t *balloon);

/* "512 MiB"; "300 > 256 MiB" for memory on its way to another size. */
const char *memory_size_name(u64 actual, u64 target, char out[64]);

#endif
