/*
 * Memory that is still elsewhere while the machine runs, as the cell sees it.
 *
 * In a file: a page that somebody touches is read there and then (machine/mem/absent.h), and a thread of low priority brings the rest,
 * in the order in which it lies in the file. Then the file is let go.
 *
 * At the host that the machine came from (post-copy): who touches a page notes his wish in the table, wakes the pager (vm/pager.h), another
 * process, and sleeps until that has put the page there. He may hold any lock meanwhile, and if the link is cut, for as long as
 * that takes: then the machine stands still, and the keeper (keeper_paging.c) speaks for it.
 *
 * The cell may read that one descriptor (its seal compares it); the file holds nothing but what is the guest's. A page that can not
 * be had ends the machine: whoever wanted it says why in the table that the keeper shares, wakes the keeper, and never goes on.
 *
 * What must stay true
 *  1. The thread holds no lock while it reads, and keeps nobody waiting who wants a page that it is about to bring.
 *  2. When the keeper loads a kernel again no page is absent: the memory of before a reset is worth nothing.
 */
#ifndef TRAPEZE_VM_CELL_LAZY_H
#define TRAPEZE_VM_CELL_LAZY_H

#include "host/host.h"
#include "machine/mem/absent.h"
#include "migrate/lazy.h"
#include "vm/link.h"

struct cell_lazy {
    bool on; /* there is a table */
    struct lazy file;
    struct mem_absent absent;
    struct guest_mem *mem;
    int wake_keeper;
    int pager;     /* the event that wakes who brings pages of a peer; -1: they are in a file */
    u32 ready, go; /* words that are slept on */
    u8 *buf;       /* the thread's: STREAM_PAGES pages */
};

/*
 * If the configuration says so: map the table, and start the thread, which waits. Before the seal, to which its descriptor is added.
 * 0 or -errno.
 */
int cell_lazy_setup(struct cell_lazy *z, const struct link_config *cfg, struct guest_mem *mem,
                    struct host_cell_seal *seal, struct error *e);
/* Bring the rest: when the guest has had a moment of its own, or now, because somebody waits for it. */
void cell_lazy_go(struct cell_lazy *z, bool now);
/* The guest stops: what is still in the file is worth nothing. */
void cell_lazy_drop(struct cell_lazy *z);

#endif
