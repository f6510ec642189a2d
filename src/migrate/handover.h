/*
 * The handover: who may run the machine, as two tables without any input or output of their own.
 *
 * A machine that moves has a source and a target, and a record of each on stable storage decides:
 *
 *   COMMITTED  the source's: from then on it does not run the machine, unless the target says that it never will
 *   RUNS       the target's: written before the first instruction there, and only after the source's COMMIT has come
 *
 *      source                                              target
 *      ASKING    ──HELLO──────────────────────────────────> FREE
 *      COPYING   <─ACCEPT─────────────────────────────────  FILLING
 *      STOPPED   ──all pages, all state, their digest─────>
 *                <─READY──────────────────────────────────  PREPARED
 *      COMMITTED ──COMMIT (again after each loss)─────────> RUNNING
 *      MOVED     <─RUNS───────────────────────────────────
 *                ──DONE───────────────────────────────────> forgets the number of this handover
 *
 * Post-copy: what is left when the machine is stopped may be named instead of sent. Then the target is PARTLY where it is PREPARED
 * else, and runs before it has those pages:
 *
 *      COMMITTED ──COMMIT─────────────────────────────────> PAGING
 *      SERVING   <─LACKS──────────────────────────────────
 *                ──the pages (again after each loss)──────>
 *      MOVED     <─RUNS (FULL)──────────────────────────── RUNNING   recorded anew: nothing is lacking
 *
 * From PARTLY to that record the guest needs both hosts. A source that finds its record COMMITTED and the memory gone is BEREFT: it
 * does not commit any more, and a target that runs already is told that the rest will never come.
 *
 * What must stay true
 *  1. The source runs the machine in ASKING, COPYING and BACK only; the target in PAGING and RUNNING only.
 *  2. The target comes to these from PREPARED and PARTLY by COMMIT only, which the source sends in COMMITTED and SERVING only.
 *  3. A target that is not there may give up at any time (its lifetime, a person, a crash). It then answers NEVER to this
 *     number for good: so a COMMIT that is under way meanwhile does no harm.
 *  4. From COMMITTED the source comes back by NEVER only, from the very host that it asked. Until then it keeps the
 *     machine's memory; and longer, until RUNS, if the target LACKS a part of it.
 *  5. A crash leaves what the records say: COMMITTED or BACK, RUNNING or GONE.
 *
 * So never two run. None runs from COMMITTED to RUNNING, and as long as the two can't reach each other in between; when they
 * can, COMMIT is answered and one of them runs. tests/migrate/handover.pml is the same as a model, which spin goes through.
 */
#ifndef TRAPEZE_MIGRATE_HANDOVER_H
#define TRAPEZE_MIGRATE_HANDOVER_H

#include "base/error.h"
#include "base/types.h"

/* X-macros: state, name */
#define HANDOVER_SOURCE_STATES(X)                                                                             \
    X(SOURCE_ASKING, "asking")       /* stages 0 and 1: the machine runs */                                   \
    X(SOURCE_COPYING, "copying")     /* stage 2: it runs */                                                   \
    X(SOURCE_STOPPED, "stopped")     /* stage 3: it is held still */                                          \
    X(SOURCE_COMMITTED, "committed") /* stage 4: recorded; it stays still */                                  \
    X(SOURCE_SERVING, "serving")     /* it runs there, and lacks pages that are here */                       \
    X(SOURCE_BEREFT, "bereft")       /* recorded, and pages that the target lacks are gone with the keeper */ \
    X(SOURCE_MOVED, "moved")         /* stage 5: it runs there, and is gone */                                \
    X(SOURCE_BACK, "back")           /* the handover has failed: it runs */

#define HANDOVER_TARGET_STATES(X)                                                                \
    X(TARGET_FREE, "free")         /* of this number nothing is known */                         \
    X(TARGET_FILLING, "filling")   /* memory is taken, and being filled */                       \
    X(TARGET_PREPARED, "prepared") /* complete and verified; waits */                            \
    X(TARGET_PARTLY, "partly")     /* likewise, but for pages that were named, and come later */ \
    X(TARGET_PAGING, "paging")     /* recorded; it runs, and lacks some of these */              \
    X(TARGET_RUNNING, "running")   /* recorded; it runs, or has run here */                      \
    X(TARGET_GONE, "gone")         /* it never will */

/* What happens. The second: to whom. */
#define HANDOVER_EVENTS(X)                                                                   \
    X(EVENT_ACCEPT, "accept")     /* source: the target takes it */                          \
    X(EVENT_REFUSE, "refuse")     /* source: it does not */                                  \
    X(EVENT_STOP, "stop")         /* source: little is left to copy; it is held */           \
    X(EVENT_READY, "ready")       /* source: the target has all of it */                     \
    X(EVENT_RECORDED, "recorded") /* source: COMMITTED is on stable storage */               \
    X(EVENT_RUNS, "runs")         /* source: the target runs it */                           \
    X(EVENT_LACKS, "lacks")       /* source: the target runs it, and lacks pages */          \
    X(EVENT_NEVER, "never")       /* source: the target never will */                        \
    X(EVENT_LOST, "lost")         /* both: link, time or patience has run out */             \
    X(EVENT_HELLO, "hello")       /* target: and there is room for it */                     \
    X(EVENT_COMPLETE, "complete") /* target: all came, the digest is right, it is loaded */  \
    X(EVENT_NAMED, "named")       /* target: likewise, but for pages that were named */      \
    X(EVENT_FULL, "full")         /* target: it lacks none any more, and that is recorded */ \
    X(EVENT_PERISHED, "perished") /* target: those that it lacks will never come */          \
    X(EVENT_COMMIT, "commit")     /* target */                                               \
    X(EVENT_ABORT, "abort")       /* target: the source will not commit */                   \
    X(EVENT_EXPIRED, "expired")   /* target: its lifetime is over, or a person ends it */    \
    X(EVENT_DONE, "done")         /* target: the source will not ask again */

/* What is to be done, in the order of these bits. */
#define HANDOVER_ACTIONS(X)                                                                       \
    X(ACT_RECORD, "record") /* write the record; the next event says that it is there, or LOST */ \
    X(ACT_SEND_ACCEPT, "accept")                                                                  \
    X(ACT_SEND_READY, "ready")                                                                    \
    X(ACT_SEND_COMMIT, "commit") /* on a new connection, if there is none */                      \
    X(ACT_SEND_ABORT, "abort")   /* if there is a connection */                                   \
    X(ACT_RELEASE, "release")    /* the source's machine goes on */                               \
    X(ACT_UNRECORD, "unrecord")  /* take COMMITTED away, then the machine goes on */              \
    X(ACT_LEAVE, "leave")        /* the source's machine is no more */                            \
    X(ACT_RUN, "run")            /* write RUNS, then the first instruction */                     \
    X(ACT_SEND_LACKS, "lacks")                                                                    \
    X(ACT_SEND_RUNS, "runs")                                                                      \
    X(ACT_DISCARD, "discard") /* memory and files of what has come */                             \
    X(ACT_SEND_NEVER, "never")                                                                    \
    X(ACT_SERVE, "serve")    /* send pages to who lacks them */                                   \
    X(ACT_SEND_GONE, "gone") /* there are none */                                                 \
    X(ACT_END, "end")        /* the target's machine, which can not go on */                      \
    X(ACT_SEND_DONE, "done") /* if there is a connection */                                       \
    X(ACT_FORGET, "forget")  /* the number of this handover */

#define X(id, name) id,
enum handover_source { HANDOVER_SOURCE_STATES(X) SOURCE_STATES };
enum handover_target { HANDOVER_TARGET_STATES(X) TARGET_STATES };
enum handover_event { HANDOVER_EVENTS(X) HANDOVER_EVENT_COUNT };
enum handover_action { HANDOVER_ACTIONS(X) HANDOVER_ACTION_COUNT };
#undef X

#define ACT(a) (1u << (a))

/*
 * One step. Sets *state to what follows and returns a set of ACT(..) bits, what is to be done now; -EPROTO when `ev` can not
 * happen in that state: then the state stays, and whoever caused it is not to be believed.
 */
int handover_source_step(enum handover_source *state, enum handover_event ev);
int handover_target_step(enum handover_target *state, enum handover_event ev);

const char *handover_source_name(enum handover_source s);
const char *handover_target_name(enum handover_target s);
const char *handover_event_name(enum handover_event ev);
const char *handover_action_name(enum handover_action a);

#endif
