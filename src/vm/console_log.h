/* The log of a console: a file with the last 1 to 2 MiB that the guest printed. */
#ifndef TRAPEZE_VM_CONSOLE_LOG_H
#define TRAPEZE_VM_CONSOLE_LOG_H

#include "base/error.h"
#include "base/types.h"

#define CONSOLE_LOG_KEEP (1u << 20) /* bytes that are never dropped */
#define CONSOLE_LOG_MAX  (2u << 20) /* bytes at which the file is cut down to CONSOLE_LOG_KEEP */

struct console_log {
    int fd;
    u64 size;
    u64 lost; /* bytes that could not be written (a full disk): the guest goes on */
};

/* Create `name` (mode 0600, empty) in the directory `dir`. 0 or -errno. */
int console_log_open(struct console_log *l, int dir, const char *name, struct error *e);
void console_log_append(struct console_log *l, const u8 *data, size_t len);
/* Copy the last bytes, at most `len`. Returns how many. */
size_t console_log_tail(const struct console_log *l, u8 *out, size_t len);

#endif
