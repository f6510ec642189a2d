/*
 * What became of handovers: the answers that a host gives about machines that came to it, and the questions that it asks about those
 * that it gave away. A record (vm/handover_file.h) is all that it goes by, so whoever runs this after a crash comes to the same.
 *
 * What must stay true
 *  1. A host says RUNS to an id if and only if the machine of that id was activated here, also when that machine is long gone: then a
 *     file named by the id stays in the state directory ("handovers") until the source has said DONE.
 *  2. Who says NEVER has made sure that the machine's keeper is not there any more, or never will activate it.
 *  3. At a source one process at a time decides (a lock beside the record).
 */
#ifndef TRAPEZE_VM_RESOLVE_H
#define TRAPEZE_VM_RESOLVE_H

#include "vm/handover_wire.h"
#include "vm/registry.h"
#include "vm/serve.h"

/*
 * Member of a row's configuration: its disks are files that were made for a machine that is to come, under names of this host's making.
 * They go with the row until it has come.
 */
#define CONFIG_DISKS_MADE "disks_made"

/* The name of this user's store of machines on this host, for good. 0 or -errno. */
int resolve_host(char id[HANDOVER_ID + 1], struct error *e);
/* New ones of that kind. */
void resolve_new_id(char id[HANDOVER_ID + 1]);

/* --- target --- */

/* What this host says to COMMIT or ABORT of an id: WIRE_RUNS or WIRE_NEVER, or -errno: it can not tell now. */
int resolve_commit(const char *id, struct error *e);
int resolve_abort(const char *id, struct error *e);
/* Behind RUNS: the row of that machine, if it lives and lacks pages. 0 with *row; -ENOENT, -errno. */
int resolve_lacking(const char *id, struct machine_row *row, struct error *e);
/* The source will not ask again. */
void resolve_done(const char *id);
/* Keep the answer RUNS for an id beyond the machine's directory. 0 or -errno. */
int resolve_remember(const char *id, struct error *e);

/* --- source --- */

/* Take the right to decide about the machine in `dir`: a descriptor to be closed at the end, -EBUSY, -errno. */
int resolve_lock(const char *dir, struct error *e);
/*
 * Ask the target of a committed machine, in `deadline_ms`, and do what it says. WIRE_RUNS: the machine has left; WIRE_NEVER: it goes on
 * here; 0: nothing was committed; -errno: it is not known yet. The lock is held by the caller. If the target lacks pages (post-copy) they
 * are sent first, for as long as that takes: from `store`, or (NULL) by what the keeper has.
 */
int resolve_ask(const struct machine_row *row, int deadline_ms, struct page_store *store, struct error *e);
/* The same again and again, until there is a word, or for `ns` nothing has come of it. -errno of the last try. */
int resolve_ask_again(const struct machine_row *row, u64 ns, struct page_store *store, struct error *e);
/* Do what the target has said. `socket` may be one that nobody serves any more. */
int resolve_settle(const struct machine_row *row, const char *id, bool runs, struct error *e);
/*
 * Look after all of this user's machines: ask about committed ones that nobody looks after (a short time each; a process is left behind to
 * send pages), take away what never came whole. Each verb begins with it, while it has one thread.
 */
void resolve_sweep(struct registry *r, int deadline_ms);

#endif
