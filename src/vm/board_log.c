/*
 * The dirty log of a board: memory's (machine/mem/mem.h), and its engines told to give up what they may no longer write unseen.
 * The CPUs may run meanwhile.
 */
#include "vm/board_internal.h"

int board_log_start(struct board *b)
{
    int r = mem_log_start(&b->mem);
    if (r == 0)
        coherence_retrace(&b->coherence);
    return r;
}

bool board_log_on(const struct board *b)
{
    return b->mem.logging;
}

void board_log_take(struct board *b, u64 first, u64 pages, u64 *out)
{
    if (mem_log_take(&b->mem, first, pages, out))
        coherence_retrace(&b->coherence);
}

void board_log_all(struct board *b)
{
    mem_log_all(&b->mem);
}

void board_log_stop(struct board *b)
{
    mem_log_stop(&b->mem);
}
