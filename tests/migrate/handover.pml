/*
 * The handover as a model for spin: the same states, events and actions as src/migrate/handover.h, with what surrounds them in the
 * program: processes that die, records that stay, connections that lose and delay. docs/migration.md, "The model", says more.
 *
 * One machine goes from a source to a target in up to ATTEMPTS attempts, each with an id of its own. What is modelled, and
 * where the program does it:
 *
 *   verb            `trapeze migrate`                                 src/vm/move.c
 *   source_keeper   the machine's keeper, with the record COMMITTED   src/vm/keeper_handover.c
 *   watcher         what the verb leaves behind before it commits     leave_watcher in src/vm/move.c
 *   recover         `trapeze system recover` after a restart          resolve_sweep in src/vm/resolve.c
 *   other_verb      any other verb at the source, at any time         the same
 *   receive_child   `trapeze receive`: a process for each connection  src/vm/arrive.c, src/vm/resolve.c
 *   target_keeper   the keeper there, with the record RUNS            src/vm/keeper_handover.c
 *   fault           up to FAULTS of them: the link is cut (it heals), a connection breaks (what is in it arrives or does not),
 *                   an answer takes too long, another host answers, a write to stable storage fails, a process or a host dies
 *
 * That costs no fault: before COMMITTED a verb may lose its patience or be called off at any moment, and after it end with the machine
 * committed; a target may refuse, and expire whenever it waits; persons may end and remove the machine at the target, and start it
 * at the source if its record lets them.
 *
 * Assumed: what was written and synced is there after a crash; a keeper does one request after the other; a host that has died comes
 * back, there `receive` is started, and `system recover` again until it has nothing left to ask; a watcher that was killed or whose hour
 * is over is replaced by some verb, which recover stands for; an order of a dead verb reaches the keeper while the watcher still
 * looks for it; what nobody kills goes on.
 *
 * Lines of a trace (printf), which tests/migrate/handover.c reads:
 *   step SIDE ID STATE EVENT NEXT   one step of the table
 *   act SIDE ID ACTION              it is done
 *   crash SIDE ID NEXT              what the records say when the process is gone, or the number is forgotten
 *
 * With POSTCOPY what is left when the machine stops is named and not sent, in all attempts; the pages come in one piece, or not at all.
 *
 * A mutant (-DNAME) changes one place, marked with #ifdef; handover_model.py lists them.
 */
#ifndef ATTEMPTS
#define ATTEMPTS 2
#endif
#ifndef FAULTS
#define FAULTS 1
#endif
#define SLOTS 2 /* connections at a time */

mtype = {SOURCE_ASKING, SOURCE_COPYING, SOURCE_STOPPED, SOURCE_COMMITTED, SOURCE_SERVING, SOURCE_BEREFT, SOURCE_MOVED, SOURCE_BACK};
mtype = {TARGET_FREE, TARGET_FILLING, TARGET_PREPARED, TARGET_PARTLY, TARGET_PAGING, TARGET_RUNNING, TARGET_GONE};
mtype = {EVENT_ACCEPT, EVENT_REFUSE, EVENT_STOP, EVENT_READY, EVENT_RECORDED, EVENT_RUNS, EVENT_LACKS, EVENT_NEVER, EVENT_LOST, EVENT_HELLO,
         EVENT_COMPLETE, EVENT_NAMED, EVENT_FULL, EVENT_PERISHED, EVENT_COMMIT, EVENT_ABORT, EVENT_EXPIRED, EVENT_DONE};
mtype = {ACT_RECORD, ACT_SEND_ACCEPT, ACT_SEND_READY, ACT_SEND_COMMIT, ACT_SEND_ABORT, ACT_RELEASE, ACT_UNRECORD, ACT_LEAVE, ACT_RUN,
         ACT_SEND_LACKS, ACT_SEND_RUNS, ACT_DISCARD, ACT_SEND_NEVER, ACT_SERVE, ACT_SEND_GONE, ACT_END, ACT_SEND_DONE, ACT_FORGET};
mtype = {HELO, OKAY, NOPE, PAGES, REDY, COMT, ABRT, RUNS, NEVR, DONE, STRANGER}; /* STRANGER: NEVR of another host */
mtype = {LACK, SERV, GONE}; /* LACK: RUNS of who lacks pages; SERV: all that it lacks */

#define N (ATTEMPTS + 1) /* attempts are counted from 1; 0: none */

/* --- the source's host --- */

mtype s[N] = SOURCE_ASKING; /* of each attempt, as who acts for it sees it */

#define K_GONE      0
#define K_RUNS      1
#define K_HELD      2
#define K_COMMITTED 3
byte keeper = K_RUNS;
byte committed; /* the record: COMMITTED of that attempt; 0: none */
bit moved;      /* the record: MOVED */
byte order;     /* "commit" of that attempt lies at the keeper */
bit held;       /* the connection that holds the machine is open */

#define TOLD_NOTHING 1
#define TOLD_DONE    2
#define TOLD_REFUSED 3
byte told; /* the keeper's answer to the order; 0: none was given */

#define NOBODY  0
#define VERB    1
#define WATCHER 2
#define RECOVER 3
#define OTHER   4
byte lock; /* who may decide */
bit verb_lives, watcher_lives, recover_due, source_died, start_used, other_used;
bit kill[5]; /* of those */

/* --- the target's host --- */

mtype t[N] = TARGET_FREE;

#define T_NONE     0 /* no row */
#define T_INCOMING 1
#define T_PREPARED 2
#define T_RUNNING  3
#define T_ENDED    4 /* a row without a keeper */
byte there[N];
bit runs[N];   /* the record RUNS in the machine's directory */
bit ran[N];    /* the file of that name that stays when the directory goes */
bit holder[N]; /* who fills it has its connection to the keeper */
bit asked[N];  /* "activate" lies at the keeper */
bit busy[N];   /* it is at it */
bit failed[N]; /* it could not */
bit lacks[N];  /* its machine runs and lacks pages; the record says so */
bit kill_child[SLOTS];

/* --- between them --- */

chan to_target[SLOTS] = [2] of {mtype, byte};
chan to_source[SLOTS] = [2] of {mtype, byte};
bit near[SLOTS], far[SLOTS], broken[SLOTS]; /* the ends that are open */
byte owner[SLOTS];                          /* whose the near end is */
bit up = 1;

/* --- what is to be true --- */

byte faults;
bit ran_there; /* an instruction was executed at the target */
bit bad_disk[N]; /* RUNS could not be written */
bit excused;   /* the guest has ended as any guest does: powered off, or with the last host that had it */

#define is_left (faults < FAULTS)
#if defined(CUT_ONLY) || defined(LATE_ONLY) || defined(SOURCE_ONLY) /* for a short search: one or two kinds alone */
#define may_fault false
#else
#define may_fault is_left
#endif
#ifdef CUT_ONLY /* the link; and nobody ends the guest */
#define may_cut is_left
#else
#define may_cut may_fault
#endif
#ifdef LATE_ONLY /* an answer */
#define may_be_late is_left
#else
#define may_be_late may_fault
#endif
#ifdef SOURCE_ONLY /* a connection, and the source's host */
#define may_end_source is_left
#else
#define may_end_source may_fault
#endif
#define HERE      (keeper == K_RUNS)
#define THERE     ((there[1] == T_RUNNING) + (there[ATTEMPTS] == T_RUNNING && ATTEMPTS > 1))
#define LACKING   (lacks[1] || lacks[ATTEMPTS])
#define ONE       (HERE + THERE == 1 && !LACKING)

/* Who asks has no memory to send: the verb and the watcher have it mapped, others the keeper's alone. */
#ifdef POSTCOPY
#define bereft(who) (keeper == K_GONE && who != VERB && who != WATCHER)
#else
#define bereft(who) false
#endif

#ifdef LIVENESS
ltl one_runs { <> [] (ONE || excused) }
#endif

/* Never two at once, nor the source after the target, which would undo what the guest has done there. Nothing goes on: one runs. */
active proctype monitor()
{
end:
    do
    :: atomic { HERE && ran_there -> printf("two: the source's and the target's\n"); assert(false) }
    :: atomic { THERE > 1 -> printf("two: both at the target\n"); assert(false) }
#ifdef POSTCOPY /* nor does the source leave while the target lacks pages */
    :: atomic { moved && LACKING && !excused -> printf("none will: pages are lacking that nobody has\n"); assert(false) }
#endif
#ifndef LIVENESS
    :: atomic { timeout -> if :: ONE || excused -> break :: else -> printf("none\n"); assert(false) fi }
#endif
    od
}

inline step_s(i, ev, to) { printf("step source %d %e %e %e\n", i, s[i], ev, to); s[i] = to }
inline step_t(i, ev, to) { printf("step target %d %e %e %e\n", i, t[i], ev, to); t[i] = to }
inline act_s(i, a) { printf("act source %d %e\n", i, a) }
inline act_t(i, a) { printf("act target %d %e\n", i, a) }
inline crash_s(i, to) { printf("crash source %d %e\n", i, to); s[i] = to }
inline crash_t(i, to) { printf("crash target %d %e\n", i, to); t[i] = to }
inline mutant() { printf("mutant\n") } /* from here on the trace is not the program's */

/* --- connections --- */

inline take(q)
{
    if
    :: nempty(q) -> q ? _, _
    :: empty(q)
    fi
}

inline drain(q) { take(q); take(q) }

#define free(c)      (!near[c] && !far[c])
#define can_connect  (up && (free(0) || free(1)))
#define heard(c)     (up && nempty(to_source[c]))
#define no_more(c)   (empty(to_source[c]) && (broken[c] || !far[c]))
#define no_source(c) (empty(to_target[c]) && (broken[c] || !near[c]))

inline take_slot(c, who)
{
    if
    :: free(0) -> c = 0
    :: else -> c = 1
    fi;
    near[c] = 1; far[c] = 1; broken[c] = 0; owner[c] = who
}

/* Again and again, until the link is up. */
inline open_connection(c, who)
{
    do
    :: atomic { can_connect -> take_slot(c, who); break }
    :: !up -> skip
    od
}

inline close_near(c)
{
    d_step { near[c] = 0; owner[c] = 0; drain(to_source[c]) }
}

/* The system closes what the dead had open. */
inline close_of(who)
{
    if
    :: owner[0] == who -> near[0] = 0; owner[0] = 0; drain(to_source[0])
    :: else
    fi;
    if
    :: owner[1] == who -> near[1] = 0; owner[1] = 0; drain(to_source[1])
    :: else
    fi
}

inline send_target(c, m, i)
{
    if
    :: broken[c] || !far[c] || full(to_target[c])
    :: !broken[c] && far[c] && nfull(to_target[c]) -> to_target[c] ! m, i
    fi
}

inline send_source(c, m, i)
{
    if
    :: broken[c] || !near[c] || full(to_source[c])
    :: !broken[c] && near[c] && nfull(to_source[c]) -> to_source[c] ! m, i
    fi
}

/* --- the source's keeper --- */

/* A guest of which no copy is left has ended with its host. */
inline source_dies()
{
    keeper = K_GONE;
    if
    :: order && !verb_lives && committed == order -> crash_s(order, SOURCE_COMMITTED)
    :: order && !verb_lives && committed != order -> crash_s(order, SOURCE_BACK)
    :: else
    fi;
    order = 0; held = 0;
    if
    :: !committed && !moved && !ran_there -> excused = 1
    :: committed && t[committed] == TARGET_GONE -> excused = 1
    :: else
    fi
}

active proctype source_keeper()
{
end:
    do
    :: d_step {
        keeper == K_HELD && order && may_fault -> /* it can not be written */
        faults++;
        if
        :: verb_lives -> told = TOLD_REFUSED
        :: else -> crash_s(order, SOURCE_BACK)
        fi;
        order = 0
       }
#ifdef COMMITTED_LATE
    :: d_step { keeper == K_HELD && order -> mutant(); keeper = K_COMMITTED; told = TOLD_DONE };
       if
       :: d_step { keeper == K_COMMITTED -> committed = order; order = 0 }
       :: keeper != K_COMMITTED -> order = 0
       fi
#else
    :: d_step { keeper == K_HELD && order -> committed = order };
       if
       :: d_step {
           keeper == K_HELD -> keeper = K_COMMITTED;
           if
           :: verb_lives -> told = TOLD_DONE
           :: else -> crash_s(order, SOURCE_COMMITTED)
           fi;
           order = 0
          }
       :: keeper != K_HELD
       fi
#endif
    :: d_step { keeper == K_HELD && !order && !held && !committed -> keeper = K_RUNS }
    od
}

/* --- the source's word --- */

/* What the target has said is done; `ok`: it is on stable storage. */
inline settle(k, word, ok)
{
    if
    :: d_step { may_fault && keeper == K_COMMITTED && word == RUNS -> faults++;
#ifdef LEFT_UNRECORDED
                mutant(); step_s(k, EVENT_RUNS, SOURCE_MOVED); keeper = K_GONE; ok = 1
#else
                ok = 0
#endif
              }
    :: d_step { may_fault && keeper == K_COMMITTED && word == NEVR -> faults++; ok = 0 }
    :: d_step {
        word == RUNS && keeper != K_HELD -> /* not while it writes the record */
        step_s(k, EVENT_RUNS, SOURCE_MOVED);
        act_s(k, ACT_LEAVE);
        keeper = K_GONE; committed = 0; moved = 1; ok = 1
       }
    :: d_step {
        word == NEVR && keeper != K_HELD ->
        if
        :: s[k] == SOURCE_BEREFT -> excused = 1
        :: else
        fi;
        step_s(k, EVENT_NEVER, SOURCE_BACK);
        act_s(k, ACT_UNRECORD);
        committed = 0; ok = 1;
        if
        :: keeper == K_COMMITTED -> keeper = K_RUNS
        :: else -> skip
        fi
       }
    fi
}

/* What the target says on connection `c`; `word` is 0 if it says nothing. */
inline hear(c, k, word, m, x)
{
    word = 0;
    do
    :: d_step {
        heard(c) -> to_source[c] ? m, x;
        if
        :: (m == RUNS || m == NEVR || m == LACK) && x == k -> word = m
#ifdef HOST_NOT_COMPARED
        :: m == STRANGER -> mutant(); word = NEVR
#endif
        :: else
        fi;
        x = 0
       }
       if
       :: word || m == STRANGER -> m = 0; break
       :: else -> m = 0
       fi
    :: no_more(c) || !up -> break
    :: d_step { may_be_late -> faults++ } -> break
    od
}

inline settle_and_thank(c, k, word, ok)
{
    ok = 0;
    if
    :: word ->
#ifdef DONE_BEFORE_SETTLED
        d_step { mutant(); send_target(c, DONE, k) };
#endif
        settle(k, word, ok)
    :: else
    fi;
    if
    :: d_step { ok && word == RUNS -> act_s(k, ACT_SEND_DONE); send_target(c, DONE, k) }
    :: !ok || word != RUNS
    fi;
    close_near(c)
}

#ifdef POSTCOPY
/* The memory is gone. */
inline lament(k)
{
    if
    :: s[k] != SOURCE_BEREFT -> crash_s(k, SOURCE_BEREFT)
    :: else
    fi
}

/* The target runs it and lacks pages: they are sent, if they are here. */
inline serve_pages(c, who, k, word, m, x)
{
    if
    :: word == LACK ->
#ifdef LEFT_LACKING
       d_step { mutant(); word = RUNS }
#else
       d_step {
        if
        :: bereft(who) ->
            lament(k);
            step_s(k, EVENT_LACKS, SOURCE_BEREFT);
            act_s(k, ACT_SEND_GONE);
            excused = 1;
            send_target(c, GONE, k)
        :: else ->
            step_s(k, EVENT_LACKS, SOURCE_SERVING);
            act_s(k, ACT_SERVE);
            send_target(c, SERV, k)
        fi
       };
       hear(c, k, word, m, x)
#endif
    :: word != LACK
    fi
}
#endif

/* The question on a new connection. */
inline ask(c, who, k, word, ok, m, x)
{
    open_connection(c, who);
    atomic {
        if
#ifdef POSTCOPY
        :: bereft(who) -> lament(k); step_s(k, EVENT_LOST, SOURCE_BEREFT); act_s(k, ACT_SEND_ABORT); send_target(c, ABRT, k)
#endif
        :: !bereft(who) -> step_s(k, EVENT_LOST, s[k]); act_s(k, ACT_SEND_COMMIT); send_target(c, COMT, k)
        fi
    };
    hear(c, k, word, m, x);
#ifdef POSTCOPY
    serve_pages(c, who, k, word, m, x);
#endif
    settle_and_thank(c, k, word, ok)
}

/* --- the verb --- */

/* Before the record: the machine goes on, the target is told. */
inline call_off(i, c)
{
    d_step {
        if
        :: s[i] == SOURCE_STOPPED -> step_s(i, EVENT_LOST, SOURCE_BACK); act_s(i, ACT_RELEASE)
        :: else -> step_s(i, EVENT_LOST, SOURCE_BACK)
        fi;
        act_s(i, ACT_SEND_ABORT);
        held = 0; told = 0; watcher_lives = 0;
        send_target(c, ABRT, i)
    };
    close_near(c);
    if
    :: d_step { can_connect -> take_slot(c, VERB); send_target(c, ABRT, i) };
       if
       :: heard(c)
       :: no_more(c)
       :: true /* it does not wait longer */
       fi;
       close_near(c)
    :: true
    fi
}

inline reserve(i, c, m, x)
{
    open_connection(c, VERB);
    atomic { send_target(c, HELO, i) };
    if
    :: d_step {
        heard(c) -> to_source[c] ? m, x;
        if
        :: m == OKAY -> step_s(i, EVENT_ACCEPT, SOURCE_COPYING)
        :: m == NOPE -> step_s(i, EVENT_REFUSE, SOURCE_BACK)
        :: else
        fi;
        m = 0; x = 0
       }
    :: true
    fi
}

inline stop_and_copy(i, c, m, x)
{
    if
    :: d_step { keeper == K_RUNS -> step_s(i, EVENT_STOP, SOURCE_STOPPED); keeper = K_HELD; held = 1; send_target(c, PAGES, i) };
       if
#ifdef COMMIT_UNREADY
       :: d_step {
           mutant(); step_s(i, EVENT_READY, SOURCE_STOPPED); told = TOLD_NOTHING; watcher_lives = 1; order = i }
#endif
       :: d_step {
           heard(c) -> to_source[c] ? m, x;
           if
           :: m == REDY && keeper == K_HELD ->
               step_s(i, EVENT_READY, SOURCE_STOPPED);
               act_s(i, ACT_RECORD);
               told = TOLD_NOTHING; watcher_lives = 1; order = i
           :: else
           fi;
           m = 0; x = 0
          }
       :: true
       fi
    :: true
    fi
}

/* The keeper has been told to write the record: what came of it. */
inline commit(i, c)
{
    if
    :: d_step { told == TOLD_DONE -> told = 0; step_s(i, EVENT_RECORDED, SOURCE_COMMITTED) }
    :: told == TOLD_REFUSED
    :: keeper == K_GONE && told == TOLD_NOTHING ->
#ifndef ABORT_UNREAD
        d_step { /* its last word is in the file */
            if
            :: committed == i -> step_s(i, EVENT_RECORDED, SOURCE_COMMITTED)
            :: else
            fi
        }
#else
        mutant()
#endif
    fi
}

inline activate(i, c, word, ok, m, x)
{
    d_step { act_s(i, ACT_SEND_COMMIT); send_target(c, COMT, i) };
    hear(c, i, word, m, x);
#ifdef POSTCOPY
    serve_pages(c, VERB, i, word, m, x);
#endif
    settle_and_thank(c, i, word, ok);
#ifdef SETTLE_IGNORED
    if
    :: d_step { word && !ok -> mutant(); ok = 1 }
    :: !word || ok
    fi;
#endif
#ifdef RESUME_ON_TIMEOUT
    if
    :: d_step { !ok && keeper == K_COMMITTED -> mutant(); committed = 0; keeper = K_RUNS; step_s(i, EVENT_LOST, SOURCE_BACK); ok = 1 }
    :: ok || keeper != K_COMMITTED
    fi;
#endif
    do
    :: ok -> watcher_lives = 0; break
    :: !ok -> ask(c, VERB, i, word, ok, m, x)
    :: !ok -> break /* its patience is over */
    od
}

inline attempt(i, c, word, ok, m, x)
{
    reserve(i, c, m, x);
    if
    :: s[i] == SOURCE_COPYING -> stop_and_copy(i, c, m, x)
    :: else
    fi;
    if
    :: told -> commit(i, c)
    :: !told
    fi;
    if
    :: s[i] == SOURCE_COMMITTED -> activate(i, c, word, ok, m, x)
    :: s[i] == SOURCE_BACK -> close_near(c)
    :: else -> call_off(i, c)
    fi
}

/* The verb ends or dies: its connections close, the watcher has the lock if it lives. */
inline verb_ends(i)
{
    verb_lives = 0; held = 0; told = 0;
    close_of(VERB);
    if
    :: s[i] == SOURCE_BACK || s[i] == SOURCE_MOVED || s[i] == SOURCE_COMMITTED || s[i] == SOURCE_SERVING || order == i
    :: else ->
        if
        :: committed == i -> crash_s(i, SOURCE_COMMITTED)
        :: else -> crash_s(i, SOURCE_BACK)
        fi
    fi;
    if
    :: watcher_lives -> lock = WATCHER
    :: else -> lock = NOBODY
    fi;
    i++
}

#ifdef MOVE_COMMITTED
#define may_start (!lock && keeper != K_GONE)
#else
#define may_start (!lock && keeper == K_RUNS && !committed)
#endif

active proctype verb()
{
    byte i = 1, c, x;
    mtype m, word;
    bit ok;
end:
    do
    :: d_step { i <= ATTEMPTS && may_start -> lock = VERB; verb_lives = 1; ok = 0; word = 0; c = 0;
#ifdef MOVE_COMMITTED
               if
               :: committed -> mutant()
               :: else
               fi
#endif
             };
       {
           attempt(i, c, word, ok, m, x);
           atomic { verb_ends(i) }
       } unless {
           d_step { kill[VERB] -> kill[VERB] = 0; verb_ends(i) }
       }
    od
}

/* --- whoever asks after it --- */

inline leave(who)
{
    close_of(who);
    lock = NOBODY
}

active proctype watcher()
{
    byte c, x, k;
    mtype m, word;
    bit ok;
end:
    do
    :: lock == WATCHER && !order ->
       {
           do
           :: committed -> k = committed; ask(c, WATCHER, k, word, ok, m, x)
           :: committed -> recover_due = 1; break /* its hour is over */
           :: !committed -> break
           od;
           atomic { watcher_lives = 0; leave(WATCHER) }
       } unless {
           d_step { kill[WATCHER] -> kill[WATCHER] = 0; watcher_lives = 0; leave(WATCHER) }
       }
    od
}

active proctype recover()
{
    byte c, x, k;
    mtype m, word;
    bit ok;
end:
    do
    :: d_step { recover_due && !lock && committed -> lock = RECOVER; k = committed };
       {
           ask(c, RECOVER, k, word, ok, m, x);
           d_step { leave(RECOVER) }
       } unless {
           d_step { kill[RECOVER] -> kill[RECOVER] = 0; leave(RECOVER) }
       }
    od
}

#ifdef OTHERS
active proctype other_verb()
{
    byte c, x, k;
    mtype m, word;
    bit ok;
end:
    do
    :: d_step { !other_used && !lock && committed && can_connect -> other_used = 1; lock = OTHER; k = committed };
       {
           ask(c, OTHER, k, word, ok, m, x);
           d_step { leave(OTHER) }
       } unless {
           d_step { kill[OTHER] -> kill[OTHER] = 0; leave(OTHER) }
       }
    od
}
#endif

/* --- the target's keeper --- */

inline copy_ends(k)
{
    there[k] = T_ENDED; asked[k] = 0; busy[k] = 0; lacks[k] = 0
}

/* Time, a crash or a bad disk has taken a copy: if it was the last, so the guest has ended. */
inline excuse(k)
{
    if
    :: keeper == K_GONE && committed == k -> excused = 1
    :: else
    fi
}

proctype target_keeper(byte k)
{
end:
    do
    :: d_step { there[k] == T_PREPARED && asked[k] -> busy[k] = 1 };
       if
#ifdef RUNS_LATE
       :: d_step { busy[k] -> mutant(); step_t(k, EVENT_COMMIT, TARGET_RUNNING); there[k] = T_RUNNING; ran_there = 1 };
          if
          :: d_step { busy[k] -> runs[k] = 1; asked[k] = 0; busy[k] = 0 }
          :: !busy[k]
          fi
#else
       :: d_step {
           busy[k] -> runs[k] = 1;
#ifdef POSTCOPY
           step_t(k, EVENT_COMMIT, TARGET_PAGING);
           lacks[k] = 1
#else
           step_t(k, EVENT_COMMIT, TARGET_RUNNING)
#endif
          };
          if
          :: d_step { busy[k] -> act_t(k, ACT_RUN); there[k] = T_RUNNING; ran_there = 1; asked[k] = 0; busy[k] = 0 }
          :: !busy[k]
          fi
#endif
       :: d_step {
           busy[k] && may_fault -> faults++; /* it can not be written, or not for sure */
#ifdef RUNS_UNSURE
           mutant();
           runs[k] = 1;
#endif
           asked[k] = 0; busy[k] = 0; failed[k] = 1; bad_disk[k] = 1
          }
       :: !busy[k]
       fi
    :: d_step {
        there[k] == T_PREPARED || there[k] == T_INCOMING -> /* its lifetime is over, or a person stops it */
        step_t(k, EVENT_EXPIRED, TARGET_GONE);
        act_t(k, ACT_DISCARD);
        excuse(k);
        copy_ends(k)
       }
#ifdef EXPIRED_RUNS
    :: d_step { there[k] == T_ENDED && asked[k] -> mutant(); runs[k] = 1; there[k] = T_RUNNING; ran_there = 1; asked[k] = 0 }
#endif
#ifdef RUN_UNCOMMITTED
    :: d_step { there[k] == T_PREPARED && !holder[k] && !asked[k] -> mutant(); asked[k] = 1 }
#endif
    :: d_step {
        there[k] == T_INCOMING && !holder[k] -> step_t(k, EVENT_LOST, TARGET_GONE);
        act_t(k, ACT_DISCARD);
        copy_ends(k)
       }
#ifndef CUT_ONLY
    :: d_step { /* the guest powers off */
        there[k] == T_RUNNING -> excused = 1;
        if
        :: lacks[k] -> crash_t(k, TARGET_RUNNING)
        :: else
        fi;
        copy_ends(k)
       }
#endif
#ifdef RECORD_LOST
    :: d_step { there[k] == T_ENDED && runs[k] -> mutant(); runs[k] = 0; there[k] = T_NONE }
#else
    :: d_step { there[k] == T_ENDED && runs[k] -> ran[k] = 1 }; /* `rm` */
       d_step { runs[k] = 0; there[k] = T_NONE }
#endif
    od
}

/* --- receive --- */

/* The keeper of a machine that has not been activated ends, for good. `abort`: the event is the source's. */
inline give_up(k, word, abort)
{
    if
    :: d_step {
        (there[k] == T_INCOMING || there[k] == T_PREPARED) && !busy[k] ->
        if
        :: abort -> step_t(k, EVENT_ABORT, TARGET_GONE)
        :: else -> step_t(k, EVENT_EXPIRED, TARGET_GONE)
        fi;
        act_t(k, ACT_DISCARD);
        if
        :: bad_disk[k] -> excuse(k) /* its disk does not work, and the source is no more */
        :: else
        fi;
        copy_ends(k)
       }
#ifdef KILL_RUNNING
    :: d_step { there[k] == T_RUNNING && !busy[k] -> mutant(); copy_ends(k) }
#else
    :: there[k] == T_RUNNING && !busy[k]
#endif
    :: there[k] == T_ENDED || there[k] == T_NONE
    fi;
    d_step {
        if
#ifdef NEVER_AFTER_RUNS
        :: true -> mutant(); word = NEVR
#elif defined(REMOVED_UNSEEN)
        :: runs[k] -> word = RUNS
        :: !runs[k] && ran[k] -> mutant(); word = NEVR
        :: !runs[k] && !ran[k] -> word = NEVR
#else
        :: runs[k] || ran[k] -> word = RUNS
        :: else -> word = NEVR
#endif
        fi
    }
}

/* resolve_commit, resolve_abort: RUNS or NEVR. */
inline resolve(k, word, abort)
{
    word = 0;
    if
    :: ran[k] -> word = RUNS
    :: !ran[k]
    fi;
    if
    :: word
    :: !word && there[k] == T_NONE -> word = (ran[k] -> RUNS : NEVR)
#ifndef NEVER_AFTER_RUNS
    :: !word && runs[k] && there[k] != T_NONE -> word = RUNS
#endif
    :: d_step { !word && !abort && there[k] == T_PREPARED -> asked[k] = 1; failed[k] = 0 };
       if
       :: there[k] == T_RUNNING -> word = RUNS
       :: failed[k] || there[k] == T_ENDED || there[k] == T_NONE -> give_up(k, word, abort)
       fi
#ifdef EXPIRED_RUNS
    :: d_step { !word && !abort && there[k] == T_ENDED -> asked[k] = 1 }; give_up(k, word, abort)
#endif
    :: !word && there[k] != T_NONE && (abort || there[k] != T_PREPARED) -> give_up(k, word, abort)
    fi
}

/* The answer, as the table has it; unless what was found has changed since: by another connection's HELO, SERV or DONE. */
inline answer(c, k, word, abort)
{
    d_step {
        if
        :: word == RUNS && lacks[k] -> word = LACK
        :: else
        fi;
        if
        :: (word == RUNS) == (t[k] == TARGET_RUNNING) && (word == LACK) == (t[k] == TARGET_PAGING) && t[k] != TARGET_FILLING ->
            if
            :: abort -> step_t(k, EVENT_ABORT, t[k])
            :: else -> step_t(k, EVENT_COMMIT, t[k])
            fi;
            if
            :: word == RUNS -> act_t(k, ACT_SEND_RUNS)
            :: word == LACK -> act_t(k, ACT_SEND_LACKS)
            :: else -> act_t(k, ACT_SEND_NEVER)
            fi
        :: else
        fi;
        send_source(c, word, k)
    }
}

#define is_filled(k) (holder[k] && (there[k] == T_INCOMING || there[k] == T_PREPARED))

#ifdef HELLO_OUT_OF_DATE
#define is_later(k, j) false
#else
#define is_later(k, j) (k > j)
#endif

/* The name is free, or an earlier attempt's that never ran and that nobody fills. */
inline hello(c, j, h, word)
{
    word = NEVR;
    if
#if ATTEMPTS > 1
    :: there[N - j] != T_NONE && (is_filled(N - j) || runs[N - j] || is_later(N - j, j)) -> word = RUNS
    :: there[N - j] != T_NONE && !is_filled(N - j) && !runs[N - j] && !is_later(N - j, j) ->
#ifdef HELLO_OUT_OF_DATE
       if
       :: N - j > j -> mutant()
       :: else
       fi;
#endif
       give_up(N - j, word, 0)
#endif
    :: there[N - j] == T_NONE
    fi;
    if
    :: d_step {
        word == NEVR -> there[j] = T_INCOMING; holder[j] = 1; h = j;
        step_t(j, EVENT_HELLO, TARGET_FILLING);
        act_t(j, ACT_SEND_ACCEPT);
        send_source(c, OKAY, j)
       }
    :: d_step { send_source(c, NOPE, j) } /* the name, or another reason */
    fi;
    word = 0
}

inline lost_there(c, h)
{
    d_step {
        if
        :: h && there[h] == T_INCOMING ->
            step_t(h, EVENT_LOST, TARGET_GONE);
            act_t(h, ACT_DISCARD);
            copy_ends(h);
            send_source(c, NEVR, h)
        :: h && there[h] != T_INCOMING && t[h] != TARGET_FREE -> step_t(h, EVENT_LOST, t[h]) /* it waits for the source's word */
        :: else
        fi
    }
}

inline forget(j)
{
    d_step {
        step_t(j, EVENT_DONE, t[j]);
        if
        :: t[j] == TARGET_RUNNING -> act_t(j, ACT_FORGET)
        :: else
        fi;
        ran[j] = 0;
        if
        :: !runs[j] -> crash_t(j, TARGET_FREE)
        :: else
        fi
    }
}

inline serve(c, h, m, j, word)
{
    do
    :: d_step { up && nempty(to_target[c]) -> to_target[c] ? m, j };
       if
       :: m == HELO -> hello(c, j, h, word)
       :: d_step {
           m == PAGES && h == j && there[j] == T_INCOMING -> there[j] = T_PREPARED;
#ifdef POSTCOPY
           step_t(j, EVENT_NAMED, TARGET_PARTLY);
#else
           step_t(j, EVENT_COMPLETE, TARGET_PREPARED);
#endif
           act_t(j, ACT_SEND_READY);
           send_source(c, REDY, j)
          }
       :: m == PAGES && (h != j || there[j] != T_INCOMING) -> break
       :: m == COMT -> 
#ifdef ID_NOT_COMPARED
          if
          :: ATTEMPTS > 1 && there[N - j] == T_PREPARED -> mutant(); j = N - j
          :: else
          fi;
#endif
          resolve(j, word, 0);
          answer(c, j, word, 0);
          if
          :: word == NEVR -> break
          :: else
          fi
       :: m == ABRT ->
          if
          :: h == j && there[h] == T_INCOMING -> break
          :: else -> resolve(j, word, 1); answer(c, j, word, 1)
          fi;
          if
          :: word == NEVR -> break
          :: else
          fi
#ifdef POSTCOPY
       :: m == SERV ->
          if
          :: d_step { lacks[j] -> lacks[j] = 0; step_t(j, EVENT_FULL, TARGET_RUNNING); act_t(j, ACT_SEND_RUNS); send_source(c, RUNS, j) }
          :: d_step { lacks[j] && may_fault -> faults++ }; break /* it can not be recorded */
          :: d_step { !lacks[j] -> send_source(c, RUNS, j) } /* its guest has ended */
          fi
       :: m == GONE ->
          d_step {
            if
            :: lacks[j] -> step_t(j, EVENT_PERISHED, TARGET_RUNNING); act_t(j, ACT_END); act_t(j, ACT_SEND_RUNS); copy_ends(j)
            :: else
            fi;
            send_source(c, RUNS, j)
          }
#endif
       :: m == DONE -> forget(j); break
       fi;
       word = 0; j = 0; m = 0
    :: no_source(c) -> break
    od;
    lost_there(c, h)
}

inline child_ends(c, h)
{
    far[c] = 0;
    drain(to_target[c]);
    if
    :: h -> holder[h] = 0
    :: else
    fi;
    h = 0; m = 0; j = 0; word = 0
}

proctype receive_child(byte c)
{
    byte h, j;
    mtype m, word;
end:
    do
    :: far[c] ->
       {
           serve(c, h, m, j, word);
           d_step { child_ends(c, h) }
       } unless {
           d_step { kill_child[c] -> kill_child[c] = 0; child_ends(c, h) }
       }
    od
}

/* --- faults --- */

/* What the record of a target says that is gone. */
inline target_dies(k)
{
    if
    :: there[k] == T_INCOMING || there[k] == T_PREPARED || there[k] == T_RUNNING ->
        if
        :: runs[k] -> excused = 1; crash_t(k, TARGET_RUNNING)
#ifdef RUNS_LATE
        :: there[k] == T_RUNNING && !runs[k] -> excused = 1; crash_t(k, TARGET_GONE)
#endif
        :: else -> excuse(k); crash_t(k, TARGET_GONE)
        fi;
        copy_ends(k)
    :: else
    fi
}

inline break_connection(c)
{
    if
    :: true -> drain(to_source[c])
    :: true
    fi;
    if
    :: true -> drain(to_target[c])
    :: true
    fi;
    broken[c] = 1
}

inline source_host_dies()
{
    if
    :: verb_lives -> kill[VERB] = 1; watcher_lives = 0
    :: else ->
        watcher_lives = 0;
        if
        :: lock -> kill[lock] = 1
        :: else
        fi
    fi;
    if
    :: keeper != K_GONE -> source_dies()
    :: else
    fi;
    recover_due = 1
}

inline target_host_dies()
{
    kill_child[0] = far[0];
    kill_child[1] = far[1];
    target_dies(1);
    if
    :: ATTEMPTS > 1 -> target_dies(ATTEMPTS)
    :: else
    fi
}

active proctype fault()
{
end:
    do
    :: !up -> up = 1
    :: d_step { may_cut && up -> faults++; up = 0 }
    :: atomic { may_end_source && !free(0) && !broken[0] -> faults++; break_connection(0) }
    :: atomic { may_end_source && !free(1) && !broken[1] -> faults++; break_connection(1) }
    :: d_step { may_fault && near[0] && empty(to_source[0]) && owner[0] && lock == owner[0] && committed ->
                faults++; to_source[0] ! STRANGER, committed }
    :: d_step { may_fault && verb_lives && !kill[VERB] -> faults++; kill[VERB] = 1 }
    :: d_step { may_fault && watcher_lives && verb_lives -> faults++; watcher_lives = 0; recover_due = 1 }
    :: d_step { may_fault && lock > VERB && !kill[lock] -> faults++; kill[lock] = 1; recover_due = 1 }
    :: d_step { may_fault && keeper != K_GONE -> faults++; source_dies() }
    :: d_step { may_end_source && !source_died -> faults++; source_died = 1; source_host_dies() }
    :: d_step { may_fault && far[0] -> faults++; kill_child[0] = 1 }
    :: d_step { may_fault && far[1] -> faults++; kill_child[1] = 1 }
    :: d_step { may_fault && there[1] >= T_INCOMING && there[1] <= T_RUNNING -> faults++; target_dies(1) }
    :: d_step { may_fault && ATTEMPTS > 1 && there[ATTEMPTS] >= T_INCOMING && there[ATTEMPTS] <= T_RUNNING ->
                faults++; target_dies(ATTEMPTS) }
    :: d_step { may_fault && (far[0] || far[1] || THERE) -> faults++; target_host_dies() }
    /* A person starts the machine anew: its guest has ended. */
    :: d_step { keeper == K_GONE && !committed && !moved && !lock && !start_used && excused -> start_used = 1; keeper = K_RUNS }
    od
}

init
{
    atomic {
        run receive_child(0);
        run receive_child(1);
        run target_keeper(1);
        if
        :: ATTEMPTS > 1 -> run target_keeper(ATTEMPTS)
        :: else
        fi
    }
}
