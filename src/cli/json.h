/* Writing JSON for --format json. */
#ifndef TRAPEZE_CLI_JSON_H
#define TRAPEZE_CLI_JSON_H

#include "base/error.h"

#include <jansson.h>

/* Print `root` on standard output, indented, and release it. A CLI_* status; NULL means that memory ran out. */
int cli_json_print(json_t *root, struct error *e);

/* Seconds since 1970 as "2024-05-01T12:00:00Z", or null for 0. */
json_t *cli_json_time(s64 seconds);

#endif
