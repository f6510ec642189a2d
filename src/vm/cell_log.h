/* The cell's end of the dirty log: what the keeper asks, done while the guest runs. */
#ifndef TRAPEZE_VM_CELL_LOG_H
#define TRAPEZE_VM_CELL_LOG_H

#include "vm/link.h"

/* All pages are clean from now on. 0 or -ENOMEM, with `e`. */
int cell_log_start(struct board *b, struct error *e);
/*
 * The words of what `ask` asks for into *out, which is the caller's to free; how many bytes that are; -EPROTO for what can not be
 * asked, -EINVAL while there is no log, -ENOMEM, with `e`.
 */
s64 cell_log_take(struct board *b, const struct log_ask *ask, u64 **out, struct error *e);

#endif
