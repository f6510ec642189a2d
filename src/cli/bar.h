/* A bar on the status line, for who sits at a terminal: how much is done of how much, and the rate over all of it. */
#ifndef TRAPEZE_CLI_BAR_H
#define TRAPEZE_CLI_BAR_H

#include "base/types.h"

#include <time.h>

struct bar {
    const char *name;
    struct timespec start;
    u64 unit; /* bytes */
};

typedef void bar_tell(void *bar, u64 done, u64 total);

/* Begin one: what to call, with the bar, as bytes or pages are done; NULL: nobody looks. terminal_status("") takes it away. */
bar_tell *bar_begin(struct bar *b, const char *name);
bar_tell *bar_begin_pages(struct bar *b, const char *name);

#endif
