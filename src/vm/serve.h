/*
 * The source's side of post-copy behind the commit: the pages that were named as absent, sent to a machine that runs elsewhere already
 * (migrate/paging.h). Who serves them has them mapped: the verb, and the watcher that it leaves behind, since before the commit;
 * anybody later has what the keeper holds. When neither is there any more the pages are gone, and the guest with them.
 *
 *   source                     target
 *   COMT ────────────────────>
 *        <──────────── RUNS {"lacks":true}
 *   SERV ────────────────────>            or GONE: they are lost
 *        <──────────── LACK, WANT ..
 *   GIVE ────────────────────>
 *        <──────────── FULL               which means RUNS
 */
#ifndef TRAPEZE_VM_SERVE_H
#define TRAPEZE_VM_SERVE_H

#include "vm/handover_wire.h"
#include "vm/registry.h"

struct page_store {
    u8 *ram;
    u64 size;                                /* bytes of it */
    u64 *named;                              /* a bit a page: what may be asked for */
    u64 *left;                               /* as many words: what is still to go */
    u64 rate;                                /* bytes a second, at most; 0: as many as go */
    bool mapped;                             /* `ram` is the store's */
    void (*tell)(void *ctx, u64 left_pages); /* now and then; may be NULL */
    void *ctx;
    u64 sent, wished; /* pages; of them those that somebody waited for */
};

/*
 * A store for a memory that the caller has mapped. Its maps are shared with processes that are forked from this one. 0 or -errno;
 * end with page_store_close.
 */
int page_store_make(struct page_store *s, u8 *ram, u64 size, struct error *e);
/* The keeper's, of a machine that is committed. 0 or -errno. */
int page_store_open(struct page_store *s, const struct machine_row *row, struct error *e);
void page_store_close(struct page_store *s);

/* The target has said that it runs and lacks pages: all of them. WIRE_RUNS: it lacks none any more; -errno: the connection is broken. */
int serve_pages(struct page_store *s, const char *id, struct channel *c, struct error *e);
/* .. but they are gone. WIRE_RUNS: the target has ended it; -errno. */
int serve_gone(const char *id, struct channel *c, struct error *e);

#endif
