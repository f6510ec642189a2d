/*
 * The registry: which machines there are. One sqlite file under the user's state directory, safe for verbs that run at
 * the same time; no daemon keeps it.
 *
 * What must stay true
 *  1. A row's truth about a living machine is who its keeper is: (pid, start time). Whether it runs or is paused is asked
 *     over its control socket, never stored.
 *  2. A row whose keeper is gone and that has no end recorded is dead: the next verb that sweeps says so in the row and
 *     removes its socket.
 *  3. Names are unique among all rows, ended ones too; ids are never used twice.
 */
#ifndef TRAPEZE_VM_REGISTRY_H
#define TRAPEZE_VM_REGISTRY_H

#include "base/error.h"
#include "base/types.h"

#include <limits.h>
#include <sys/types.h>

#define MACHINE_NAME_MAX 63
#define MACHINE_ID_LEN   12 /* hexadecimal digits */

/* X-macro: state, name in the database and in output */
#define MACHINE_STATES(X)                                                                        \
    X(MACHINE_STARTING, "starting") /* named; the keeper is not up yet: pid is the launcher's */ \
    X(MACHINE_RUNNING, "running")   /* its keeper is up */                                       \
    X(MACHINE_EXITED, "exited")     /* ended, with exit code and reason */                       \
    X(MACHINE_DEAD, "dead")         /* its keeper vanished without a word */

enum machine_state {
#define X(state, name) state,
    MACHINE_STATES(X)
#undef X
        MACHINE_STATE_COUNT
};

/* X-macro: what a row is of, name in the database */
#define MACHINE_KINDS(X)       \
    X(KIND_MACHINE, "machine") \
    X(KIND_CONTAINER, "container")

enum machine_kind {
#define X(kind, name) kind,
    MACHINE_KINDS(X)
#undef X
};

struct machine_row {
    enum machine_kind kind;
    char id[MACHINE_ID_LEN + 1];
    char name[MACHINE_NAME_MAX + 1];
    enum machine_state state;
    pid_t keeper_pid;
    u64 keeper_start; /* paths_process_start of it */
    s64 created;      /* seconds since 1970 */
    s64 ended;        /* 0 while it lives */
    int exit_code;    /* of an exited machine */
    bool auto_remove; /* --rm: the row and the files go when it has ended */
    char reason[200]; /* why it ended, one line */
    char dir[PATH_MAX];
    char log[PATH_MAX];
    char socket[PATH_MAX];
    char *config; /* JSON as given by the launcher; owned by the row */
};

struct registry;

/* Open (and make, and bring up to the schema of this version) the registry. 0 or -errno. */
int registry_open(struct registry **out, struct error *e);
void registry_close(struct registry *r);

/* Release what a row owns. */
void registry_row_free(struct machine_row *row);

const char *registry_state_name(enum machine_state s);
const char *registry_kind_name(enum machine_kind kind);

/*
 * A new id: random, with a letter among its digits always. It is the hostname of a container that has no other, and the C
 * library takes a name of nothing but decimal digits for an address and finds no such host (one id in 280 would be one).
 * 0, or -EIO with `e`.
 */
int registry_make_id(char out[MACHINE_ID_LEN + 1], struct error *e);

/* Letters, digits, `.`, `_`, `-`, beginning with a letter or digit, 63 at most. 0 or -EINVAL with `e`. */
int registry_check_name(const char *name, struct error *e);

/*
 * Take a name for a new machine: inserts a row in state "starting" that belongs to this process, and makes its directory.
 * `name` may be NULL: two words are chosen. `config` is copied. Fills *row. -EEXIST when the name is taken.
 */
int registry_create(struct registry *r, const char *name, const char *config, bool auto_remove, struct machine_row *row,
                    struct error *e);

/* The same for a row of that kind. A container's is made by its keeper, and begins as "running". */
int registry_create_kind(struct registry *r, enum machine_kind kind, const char *name, const char *config,
                         bool auto_remove, struct machine_row *row, struct error *e);

/* The keeper is up: pid and its start time replace the launcher's; state "running". */
int registry_started(struct registry *r, const char *id, pid_t keeper, struct error *e);

/*
 * Take a machine that has ended for another life: state "starting", and its row belongs to this process. -EEXIST when it lives, or
 * somebody else was first.
 */
int registry_restart(struct registry *r, struct machine_row *row, struct error *e);

/*
 * The machine has ended. The first caller's word stays (the keeper's own before a bystander's); a second call changes
 * nothing and is no error.
 */
int registry_ended(struct registry *r, const char *id, int exit_code, const char *reason, struct error *e);

/* What the machine is made of became known later: replaces the configuration of its row. */
int registry_configure(struct registry *r, const char *id, const char *config, struct error *e);

/* Find by name, id, or a beginning of an id that only one row has. 0, -ENOENT (with advice), -errno. */
int registry_find(struct registry *r, const char *name, struct machine_row *row, struct error *e);

/* All rows, oldest first, as an array that the caller frees with registry_rows_free. */
int registry_list(struct registry *r, struct machine_row **rows, size_t *n, struct error *e);
void registry_rows_free(struct machine_row *rows, size_t n);

/* Remove the row and the directory of a machine that does not live. */
int registry_remove(struct registry *r, const struct machine_row *row, struct error *e);

/* The end of it recorded and then the same: what it ended with is seen by who follows events. */
int registry_remove_ended(struct registry *r, const struct machine_row *row, int exit_code, const char *reason,
                          struct error *e);

/* What happened to a row: "create", "start", "end", "remove" by themselves; "pause", "resume" are noted by who did it. */
struct machine_event {
    s64 seq;     /* larger with each */
    s64 time_ms; /* since 1970 */
    enum machine_kind kind;
    char id[MACHINE_ID_LEN + 1], name[MACHINE_NAME_MAX + 1], what[16];
    bool has_code; /* an end whose status is known */
    int exit_code;
    char reason[200];
};
int registry_note(struct registry *r, const struct machine_row *row, const char *what, struct error *e);
/* Those after `after` (0: all that are kept), oldest first, until `take` returns < 0, which is returned. */
int registry_events(struct registry *r, s64 after, int (*take)(void *arg, const struct machine_event *v), void *arg,
                    struct error *e);

/*
 * Look after machines whose keeper is gone: mark them dead, remove their sockets; rows with --rm go altogether.
 * Each verb begins with it. Containers have more to be looked after: box/box.h.
 */
int registry_sweep(struct registry *r, struct error *e);
/* The same for one row, whatever it is of. */
int registry_sweep_row(struct registry *r, const struct machine_row *row, struct error *e);

#endif
