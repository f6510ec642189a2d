#include "vm/cell_log.h"
#include "machine/mem/mem.h"

#include <errno.h>
#include <stdlib.h>

int cell_log_start(struct board *b, struct error *e)
{
    return board_log_start(b) < 0 ? error_set(e, ENOMEM, "log: no memory for it in the guest's process") : 0;
}

s64 cell_log_take(struct board *b, const struct log_ask *ask, u64 **out, struct error *e)
{
    if (!log_ask_fits(ask, board_mem(b)->size))
        return error_set(e, EPROTO, "log: pages that are not there");
    if (!board_log_on(b))
        return error_set(e, EINVAL, "log: is not on");
    *out = malloc(ask->pages / 8);
    if (!*out)
        return error_set(e, ENOMEM, "log: out of memory");
    board_log_take(b, ask->first, ask->pages, *out);
    return (s64)(ask->pages / 8);
}
