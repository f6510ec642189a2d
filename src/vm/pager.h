/*
 * The pager: brings what a machine lacks that has come before all its pages did (post-copy; migrate/paging.h). It is the process that
 * serves the source's connection, and lives as long as that: the first is the one that the machine came by, each later one is a
 * connection that the source makes when the one before it is broken.
 *
 *      source ──GIVE──> pager ──puts──> guest memory, table (migrate/lazy.h) <──looks, wishes── cell
 *        ^──────WANT──────┘ └──control── keeper: hands out both, to one pager at a time; writes the record
 *
 * What must stay true
 *  1. Nothing but a page whose sum is that of the digest is put, and only where one is absent (migrate/lazy.h, machine/mem/absent.h).
 *  2. FULL is said when the keeper has recorded that nothing is absent, not before.
 *  3. What the cell writes into the table is believed where it harms its own machine alone.
 */
#ifndef TRAPEZE_VM_PAGER_H
#define TRAPEZE_VM_PAGER_H

#include "migrate/channel.h"
#include "vm/registry.h"

/* Bring all that the machine of `row` lacks, which came by handover `id`. 0: it lacks nothing any more. -errno: the connection is of no use. */
int pager_run(const struct machine_row *row, const char *id, struct channel *c, struct error *e);
/* What it lacks will never come: it ends. 0 when it has. */
int pager_perished(const struct machine_row *row, const char *id, struct error *e);

#endif
