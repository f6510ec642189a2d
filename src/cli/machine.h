/* What the verbs share that act on machines by name: find it, speak with its keeper, tell why that does not work. */
#ifndef TRAPEZE_CLI_MACHINE_H
#define TRAPEZE_CLI_MACHINE_H

#include "cli/cli.h"
#include "vm/registry.h"

#include <jansson.h>

/* Open the registry and look after machines whose keepers are gone. NULL with `e`. */
struct registry *machine_registry(struct error *e);

/* The row of a machine by name or id, without the registry: free it with registry_row_free. 0 or -errno with `e`. */
int machine_find(const char *name, struct machine_row *row, struct error *e);

/* Whether its keeper runs. */
bool machine_lives(const struct machine_row *row);

/* How an ended one ended: "power-off", "triple fault", ... with the exit code. */
const char *machine_end_text(const struct machine_row *row, char *out, size_t size);

/*
 * Connect to the keeper of a row; the descriptor or -errno with a line that says what became of the machine. Replies
 * that take longer than `seconds` fail with -EAGAIN; 0 waits for ever.
 */
int machine_connect(const struct machine_row *row, unsigned seconds, struct error *e);

/* One request on a connection of its own; `request` is used up, *reply (may be NULL) is the caller's. 0 or -errno. */
int machine_call(const struct machine_row *row, unsigned seconds, json_t *request, json_t **reply, struct error *e);

/*
 * Wait until the keeper process is gone (it has answered and has only to leave): `seconds` at most. 0, or -EBUSY with a
 * line that says so.
 */
int machine_await_end(const struct machine_row *row, unsigned seconds, struct error *e);

/* Copy a machine's console log to standard output; a log that is not there is empty. 0 or -errno. */
int machine_print_log(const struct machine_row *row, struct error *e);

struct vm_config;
struct snapshot;

/*
 * Launch the machine of a row that belongs to this process ("starting"), and hand the row to its keeper. `c` has been checked.
 * When it fails the row is the caller's, and no process is left.
 */
int machine_launch(struct registry *r, const struct vm_config *c, struct machine_row *row, struct error *e);

/* Whether it has ended, and can go on where it was: by machine_restore from SNAPSHOT_SUSPENDED. */
bool machine_suspended(const struct machine_row *row);

/*
 * Let a machine that has ended go on from the file `name` in its directory, which is used up if `consume`. When it fails the machine
 * is what it was, and so is the file.
 */
int machine_restore(struct registry *r, struct machine_row *row, const char *name, bool consume, struct error *e);

/*
 * A new machine of that row (which has a name, and is "starting") goes on from an open snapshot: with an identity of its own, its
 * memory read from the file as it is touched, which other clones do, too. `c` has been checked. `consumed`, or NULL: a file in its
 * directory that goes with the first instruction.
 */
int machine_clone(struct registry *r, struct machine_row *row, struct snapshot *s, const struct vm_config *c,
                  const char *consumed, struct error *e);

/* Tell the guest, where it has an agent, that it is a machine of its own: other random numbers, that host name if not NULL. */
void machine_freshen(const struct machine_row *row, const char *host_name);

/* The guest's clock stood still: where an agent is, it is set. A guest without one finds out by itself, or does not. */
void machine_set_clock(const struct machine_row *row);

/* What a verb does to one of each kind. NULL: not to such ones. */
typedef int machine_act(const struct args *a, struct registry *r, struct machine_row *row, struct error *e);
struct machine_acts {
    machine_act *machine, *container;
};

/*
 * Act on everything named in the operands; each failure is printed in a line of its own and the others go on. The worst exit
 * status.
 */
int machine_each(const struct args *a, const struct machine_acts *acts, struct error *e);

#endif
