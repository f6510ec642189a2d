/*
 * The tables of the handover (src/migrate/handover.c).
 *
 *   handover                 explore: all that two sides can come to that go by the tables, over a network that delivers whatever was ever
 *                            sent as often and as late as it likes, with crashes anywhere
 *   handover replay          a trace of handover.pml on standard input: each step must be what the table says (its head tells the lines)
 *   handover steps SIDES..   steps alone, in any order: each must be in the table, and each of the table must be among them but for those
 *                            named as SIDE:STATE:EVENT
 */
#include "migrate/handover.h"

#include <errno.h>
#include <stdarg.h>
#include <stdbool.h>
#include <setjmp.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include <cmocka.h>

#define ATTEMPTS 8 /* that a trace can have */
#define STATES   MAX((unsigned)SOURCE_STATES, (unsigned)TARGET_STATES)
#define SENDS                                                                                                       \
    (ACT(ACT_SEND_ACCEPT) | ACT(ACT_SEND_READY) | ACT(ACT_SEND_COMMIT) | ACT(ACT_SEND_ABORT) | ACT(ACT_SEND_RUNS) | \
     ACT(ACT_SEND_NEVER) | ACT(ACT_SEND_DONE) | ACT(ACT_SEND_LACKS) | ACT(ACT_SERVE) | ACT(ACT_SEND_GONE))

/* --- names --- */

#define X(id, name) #id,
static const char *const source_ids[] = {HANDOVER_SOURCE_STATES(X)};
static const char *const target_ids[] = {HANDOVER_TARGET_STATES(X)};
#undef X
#define X(id, name) #id,
static const char *const event_ids[] = {HANDOVER_EVENTS(X)};
static const char *const action_ids[] = {HANDOVER_ACTIONS(X)};
#undef X

static int find(const char *const *names, size_t n, const char *name)
{
    for (size_t i = 0; i < n; i++)
        if (!strcmp(names[i], name))
            return (int)i;
    return -1;
}

static int find_state(bool at_target, const char *name)
{
    return at_target ? find(target_ids, ARRAY_LEN(target_ids), name) : find(source_ids, ARRAY_LEN(source_ids), name);
}

static const char *state_id(bool at_target, int state)
{
    return at_target ? target_ids[state] : source_ids[state];
}

/* The actions, or -EPROTO; *state is what follows. */
static int take_step(bool at_target, int *state, int event)
{
    int acts;
    if (at_target) {
        enum handover_target t = (enum handover_target) * state;
        acts = handover_target_step(&t, (enum handover_event)event);
        *state = (int)t;
    } else {
        enum handover_source s = (enum handover_source) * state;
        acts = handover_source_step(&s, (enum handover_event)event);
        *state = (int)s;
    }
    return acts;
}

/* --- explore --- */

/* What is under way, for good: nothing that was sent is ever forgotten by the network. */
enum word {
    HELO = 1u << 0,
    OKAY = 1u << 1,
    NOPE = 1u << 2,
    PAGES = 1u << 3,
    REDY = 1u << 4,
    COMT = 1u << 5,
    ABRT = 1u << 6,
    SAYS_RUNS = 1u << 7,
    SAYS_NEVR = 1u << 8,
    DONE = 1u << 9,
    SAYS_LACKS = 1u << 10,
    SERV = 1u << 11,
    GONE = 1u << 12
};

struct world {
    u8 source, target;
    u16 sent;
    u8 committed, runs; /* the records */
    u8 to_record;       /* ACT_RECORD is being done */
    u8 here, there;     /* whether it runs */
    u8 ran_there;       /* an instruction was executed */
    u8 memory;          /* the source has the guest's */
    u8 copy;            /* so has the target, all of it */
    u8 postcopy;        /* when it stops, pages are named instead of sent */
    u8 lacks;           /* the target runs without them, and says so in its record */
};

_Static_assert(sizeof(struct world) == 14, "no padding: worlds are compared byte by byte");

struct search {
    struct world *all;
    size_t n, size, *table, slots;
    size_t two, none; /* worlds where two run; from which none ever does */
};

static size_t hash(const struct world *w)
{
    const u8 *p = (const u8 *)w;
    size_t h = 1469598103934665603u;
    for (size_t i = 0; i < sizeof(*w); i++)
        h = (h ^ p[i]) * 1099511628211u;
    return h;
}

static void add(struct search *s, const struct world *w)
{
    size_t i = hash(w) % s->slots;
    for (; s->table[i]; i = (i + 1) % s->slots)
        if (!memcmp(&s->all[s->table[i] - 1], w, sizeof(*w)))
            return;
    assert_true(s->n < s->size);
    s->all[s->n++] = *w;
    s->table[i] = s->n;
}

static void source_acts(struct world *w, int acts)
{
    if (acts & ACT(ACT_RECORD))
        w->to_record = 1;
    if (acts & ACT(ACT_SEND_COMMIT)) {
        assert_true(w->committed); /* it is durable before it is told */
        w->sent |= COMT;
    }
    if (acts & ACT(ACT_SEND_ABORT))
        w->sent |= ABRT;
    if (acts & ACT(ACT_RELEASE))
        w->here = w->memory;
    if (acts & ACT(ACT_UNRECORD)) {
        w->committed = 0;
        w->here = w->memory;
    }
    if (acts & ACT(ACT_LEAVE))
        w->memory = w->here = w->committed = 0;
    if (acts & ACT(ACT_SEND_DONE))
        w->sent |= DONE;
    if (acts & ACT(ACT_SERVE) && w->memory)
        w->sent |= SERV;
    if (acts & ACT(ACT_SEND_GONE)) {
        assert_false(w->memory);
        w->sent |= GONE;
    }
}

static void target_acts(struct world *w, int acts)
{
    if (acts & ACT(ACT_SEND_ACCEPT))
        w->sent |= OKAY;
    if (acts & ACT(ACT_SEND_READY))
        w->sent |= REDY;
    if (acts & ACT(ACT_RUN)) {
        assert_true(w->copy || w->postcopy);
        w->runs = w->there = w->ran_there = 1;
        w->lacks = !w->copy;
    }
    if (acts & ACT(ACT_DISCARD))
        w->copy = 0;
    if (acts & ACT(ACT_SEND_RUNS))
        w->sent |= SAYS_RUNS;
    if (acts & ACT(ACT_SEND_NEVER))
        w->sent |= SAYS_NEVR;
    if (acts & ACT(ACT_SEND_LACKS))
        w->sent |= SAYS_LACKS;
    if (acts & ACT(ACT_END))
        w->there = w->lacks = 0;
}

/* What `event` leads to: false if it can not be. */
static bool source_event(const struct world *w, enum handover_event event, struct world *next)
{
    int state = w->source;
    int acts = take_step(false, &state, event);
    if (acts < 0)
        return false;
    *next = *w;
    next->source = (u8)state;
    if (event == EVENT_STOP) {
        next->here = 0;
        next->sent |= PAGES;
    } else if (event == EVENT_RECORDED) {
        next->committed = 1;
        next->to_record = 0;
    } else if (event == EVENT_LOST) {
        next->to_record = 0;
    }
    source_acts(next, acts);
    return true;
}

static bool target_event(const struct world *w, enum handover_event event, struct world *next)
{
    int state = w->target;
    int acts = take_step(true, &state, event);
    if (acts < 0)
        return false;
    *next = *w;
    next->target = (u8)state;
    if (event == (w->postcopy ? EVENT_COMPLETE : EVENT_NAMED))
        return false;
    next->copy |= event == EVENT_COMPLETE || event == EVENT_FULL;
    next->lacks &= event != EVENT_FULL;
    target_acts(next, acts);
    return true;
}

/* Events that come whenever the network wants them to. */
static const struct {
    enum handover_event event;
    bool at_target;
    u16 after; /* what must have been sent */
} causes[] = {{EVENT_ACCEPT, false, OKAY}, {EVENT_REFUSE, false, NOPE},    {EVENT_STOP, false, OKAY},
              {EVENT_READY, false, REDY},  {EVENT_RUNS, false, SAYS_RUNS}, {EVENT_NEVER, false, SAYS_NEVR},
              {EVENT_LOST, false, 0},      {EVENT_HELLO, true, HELO},      {EVENT_COMPLETE, true, PAGES},
              {EVENT_COMMIT, true, COMT},  {EVENT_ABORT, true, ABRT},      {EVENT_LOST, true, 0},
              {EVENT_EXPIRED, true, 0},    {EVENT_DONE, true, DONE},       {EVENT_LACKS, false, SAYS_LACKS},
              {EVENT_NAMED, true, PAGES},  {EVENT_FULL, true, SERV},       {EVENT_PERISHED, true, GONE}};

/* What its host finds when it is up again. */
static enum handover_source after_crash(const struct world *w)
{
    if (w->source >= SOURCE_MOVED)
        return (enum handover_source)w->source;
    return !w->committed ? SOURCE_BACK : w->postcopy ? SOURCE_BEREFT : SOURCE_COMMITTED;
}

static void expand(struct search *s, const struct world *w)
{
    struct world next;
    for (size_t i = 0; i < ARRAY_LEN(causes); i++)
        if ((w->sent & causes[i].after) == causes[i].after &&
            (causes[i].at_target ? target_event : source_event)(w, causes[i].event, &next))
            add(s, &next);
    if (w->to_record && source_event(w, EVENT_RECORDED, &next))
        add(s, &next);
    /* The source's host dies; also right after the record, before anybody is told. */
    for (unsigned wrote = 0; wrote <= w->to_record; wrote++) {
        next = *w;
        next.committed |= (u8)wrote;
        next.memory = next.here = next.to_record = 0;
        next.source = after_crash(&next);
        add(s, &next);
    }
    /* The target's. */
    next = *w;
    next.there = next.copy = next.lacks = 0;
    next.target = w->runs ? TARGET_RUNNING : w->target == TARGET_FREE ? TARGET_FREE : TARGET_GONE;
    add(s, &next);
}

/*
 * Nothing fails any more: the source asks until it is answered. Then exactly one runs, unless the guest died with a host that had it
 * alone, or after it ran at the target.
 */
static bool heals(struct world w)
{
    struct world next;
    bool ended = w.ran_there ? !w.there : !w.memory && !(w.committed && w.target == TARGET_PREPARED);
    ended |= !w.memory && w.lacks; /* with the host that had the rest */
    if (w.source < SOURCE_COMMITTED) {
        assert_true(source_event(&w, EVENT_LOST, &next));
        w = next;
    }
    if (w.source >= SOURCE_COMMITTED && w.source < SOURCE_MOVED) {
        bool bereft = w.source == SOURCE_BEREFT;
        assert_true(source_event(&w, EVENT_LOST, &next) && (next.sent & (bereft ? ABRT : COMT)));
        w = next;
        w.sent &= (u16) ~(SAYS_RUNS | SAYS_NEVR | SAYS_LACKS);
        assert_true(target_event(&w, bereft ? EVENT_ABORT : EVENT_COMMIT, &next));
        w = next;
        if (w.sent & SAYS_LACKS) {
            assert_true(source_event(&w, EVENT_LACKS, &next) && (next.sent & (bereft ? GONE : SERV)));
            w = next;
            assert_true(target_event(&w, bereft ? EVENT_PERISHED : EVENT_FULL, &next));
            w = next;
        }
        assert_true(w.sent & (SAYS_RUNS | SAYS_NEVR));
        assert_true(source_event(&w, w.sent & SAYS_RUNS ? EVENT_RUNS : EVENT_NEVER, &next));
        w = next;
    }
    return (w.here + w.there == 1 && !w.lacks) || ended;
}

static void test_explore(void **state)
{
    struct search s = {.size = 1u << 16, .slots = 1u << 18};
    struct world start = {.source = SOURCE_ASKING, .target = TARGET_FREE, .sent = HELO, .here = 1, .memory = 1};
    bool seen[SOURCE_STATES][TARGET_STATES] = {0};
    static const bool reachable[SOURCE_STATES][TARGET_STATES] = {
        [SOURCE_ASKING] = {[TARGET_FREE] = 1, [TARGET_FILLING] = 1, [TARGET_GONE] = 1},
        [SOURCE_COPYING] = {[TARGET_FILLING] = 1, [TARGET_GONE] = 1},
        [SOURCE_STOPPED] = {[TARGET_FILLING] = 1, [TARGET_PREPARED] = 1, [TARGET_PARTLY] = 1, [TARGET_GONE] = 1},
        [SOURCE_COMMITTED] =
            {[TARGET_PREPARED] = 1, [TARGET_PARTLY] = 1, [TARGET_PAGING] = 1, [TARGET_RUNNING] = 1, [TARGET_GONE] = 1},
        [SOURCE_SERVING] = {[TARGET_PAGING] = 1, [TARGET_RUNNING] = 1},
        [SOURCE_BEREFT] = {[TARGET_PARTLY] = 1, [TARGET_PAGING] = 1, [TARGET_RUNNING] = 1, [TARGET_GONE] = 1},
        [SOURCE_MOVED] = {[TARGET_RUNNING] = 1},
        [SOURCE_BACK] = {
            [TARGET_FREE] = 1, [TARGET_FILLING] = 1, [TARGET_PREPARED] = 1, [TARGET_PARTLY] = 1, [TARGET_GONE] = 1}};
    s.all = malloc(s.size * sizeof(*s.all));
    s.table = calloc(s.slots, sizeof(*s.table));
    assert_non_null(s.all);
    assert_non_null(s.table);
    for (unsigned i = 0; i < 4; i++) { /* refused, or not; with post-copy, or not */
        start.sent = i & 1 ? HELO | NOPE : HELO;
        start.postcopy = i >> 1;
        add(&s, &start);
    }
    for (size_t i = 0; i < s.n; i++) {
        const struct world w = s.all[i];
        seen[w.source][w.target] = true;
        s.two += w.here && (w.there || w.ran_there);
        s.none += !heals(w);
        expand(&s, &w);
    }
    unsigned pairs = 0;
    for (unsigned i = 0; i < SOURCE_STATES; i++)
        for (unsigned j = 0; j < TARGET_STATES; j++)
            pairs += seen[i][j];
    print_message("# %zu worlds, %u pairs of states\n", s.n, pairs);
    free(s.all);
    free(s.table);
    assert_int_equal(s.two, 0);
    assert_int_equal(s.none, 0);
    assert_memory_equal(seen, reachable, sizeof(seen));
}

/* What can not happen changes nothing. */
static void test_impossible(void **state)
{
    enum handover_target t = TARGET_FILLING;
    enum handover_source s = SOURCE_STOPPED;
    assert_int_equal(handover_target_step(&t, EVENT_COMMIT), -EPROTO);
    assert_int_equal(t, TARGET_FILLING);
    assert_int_equal(handover_source_step(&s, EVENT_RUNS), -EPROTO);
    assert_int_equal(s, SOURCE_STOPPED);
}

/* --- replay --- */

struct side {
    int state;
    int due;       /* actions that were ordered and not yet done */
    bool recorded; /* ACT_RECORD was ordered */
    bool forgotten;
};

struct replay {
    struct side sides[2][ATTEMPTS]; /* source, target */
    unsigned line, steps;
};

__attribute__((format(printf, 2, 3))) static int wrong(const struct replay *r, const char *fmt, ...)
{
    va_list ap;
    fprintf(stderr, "line %u: ", r->line);
    va_start(ap, fmt);
    vfprintf(stderr, fmt, ap);
    va_end(ap);
    fputc('\n', stderr);
    return -1;
}

static int replay_step(struct replay *r, bool at_target, unsigned id, char word[3][64])
{
    struct side *s = &r->sides[at_target][id];
    int event = find(event_ids, ARRAY_LEN(event_ids), word[1]), was = s->state;
    if (find_state(at_target, word[0]) != was)
        return wrong(r, "%u is %s, not %s", id, state_id(at_target, was), word[0]);
    if (s->due & ~(int)SENDS)
        return wrong(r, "%u: not done of what was ordered: %s", id,
                     action_ids[__builtin_ctz((unsigned)s->due & ~SENDS)]);
    int acts = event < 0 ? -EPROTO : take_step(at_target, &s->state, event);
    if (acts < 0)
        return wrong(r, "%s can not be when %u is %s", word[1], id, word[0]);
    if (find_state(at_target, word[2]) != s->state)
        return wrong(r, "%s %s leads to %s, not to %s", word[0], word[1], state_id(at_target, s->state), word[2]);
    s->due = acts;
    s->recorded = acts & ACT(ACT_RECORD) || (s->recorded && s->state == was);
    r->steps++;
    return 0;
}

static int replay_act(struct replay *r, bool at_target, unsigned id, const char *name)
{
    struct side *s = &r->sides[at_target][id];
    int act = find(action_ids, ARRAY_LEN(action_ids), name);
    if (act < 0 || !(s->due & (int)ACT(act)))
        return wrong(r, "%u does %s, which it has not to do when it is %s", id, name, state_id(at_target, s->state));
    s->due &= ~(int)ACT(act);
    s->forgotten |= act == ACT_FORGET;
    return 0;
}

/* Rule 5: what the records say. */
static bool may_crash(const struct side *s, bool at_target, int next)
{
    bool committed = s->state == SOURCE_COMMITTED || s->state == SOURCE_SERVING,
         runs = s->state == TARGET_PAGING || s->state == TARGET_RUNNING;
    if (!at_target && (next == SOURCE_COMMITTED || next == SOURCE_BEREFT))
        return s->recorded || (next == SOURCE_COMMITTED ? s->state == SOURCE_COMMITTED : committed);
    if (!at_target)
        return next == SOURCE_BACK && !committed && s->state != SOURCE_BEREFT && s->state != SOURCE_MOVED;
    if (next == TARGET_FREE)
        return s->forgotten;
    return next == TARGET_RUNNING ? runs : next == TARGET_GONE && !runs && s->state != TARGET_FREE;
}

static int replay_crash(struct replay *r, bool at_target, unsigned id, const char *name)
{
    struct side *s = &r->sides[at_target][id];
    int next = find_state(at_target, name);
    if (next < 0 || !may_crash(s, at_target, next))
        return wrong(r, "%u is %s, and can not be found %s", id, state_id(at_target, s->state), name);
    *s = (struct side){.state = next, .forgotten = s->forgotten};
    return 0;
}

/* 1: the mutant begins. */
static int replay_line(struct replay *r, const char *line)
{
    char kind[16], side[16], word[3][64] = {"", "", ""};
    unsigned id;
    r->line++;
    if (!strncmp(line, "mutant", 6))
        return 1;
    int n = sscanf(line, "%15s %15s %u %63s %63s %63s", kind, side, &id, word[0], word[1], word[2]);
    if (n < 1 || (strcmp(kind, "step") && strcmp(kind, "act") && strcmp(kind, "crash")))
        return 0; /* spin's own */
    bool at_target = !strcmp(side, "target");
    if (n < 4 || id < 1 || id >= ATTEMPTS || (!at_target && strcmp(side, "source")))
        return wrong(r, "is no line of a trace: %s", line);
    return *kind == 's'   ? replay_step(r, at_target, id, word)
           : *kind == 'a' ? replay_act(r, at_target, id, word[0])
                          : replay_crash(r, at_target, id, word[0]);
}

static int replay(void)
{
    char line[256];
    struct replay r = {0};
    int rc = 0;
    while (rc == 0 && fgets(line, sizeof(line), stdin))
        rc = replay_line(&r, line);
    printf("%u steps%s\n", r.steps, rc > 0 ? ", then the mutant's" : "");
    return rc < 0;
}

/* --- steps --- */

static bool is_among(char **names, int n, const char *name)
{
    for (int i = 0; i < n; i++)
        if (!strcmp(names[i], name))
            return true;
    return false;
}

/* Steps of the table that nobody has taken. */
static int missing(const bool (*seen)[STATES][HANDOVER_EVENT_COUNT], char **spared, int n)
{
    int bad = 0;
    for (int at = 0; at < 2; at++)
        for (int i = 0; i < (at ? TARGET_STATES : SOURCE_STATES); i++)
            for (int ev = 0; ev < HANDOVER_EVENT_COUNT; ev++) {
                int next = i;
                char name[96];
                snprintf(name, sizeof(name), "%s:%s", state_id(at, i), event_ids[ev]);
                if (take_step(at, &next, ev) >= 0 && !seen[at][i][ev] && !is_among(spared, n, name))
                    bad++, fprintf(stderr, "the model never does %s\n", name);
            }
    return bad;
}

static int steps(char **spared, int n)
{
    static bool seen[2][STATES][HANDOVER_EVENT_COUNT];
    char line[256], side[16], word[3][64];
    unsigned id, taken = 0, bad = 0;
    while (fgets(line, sizeof(line), stdin)) {
        if (sscanf(line, "step %15s %u %63s %63s %63s", side, &id, word[0], word[1], word[2]) != 5)
            continue;
        bool at = !strcmp(side, "target");
        int was = find_state(at, word[0]), ev = find(event_ids, ARRAY_LEN(event_ids), word[1]), next = was;
        taken++;
        if (was < 0 || ev < 0 || take_step(at, &next, ev) < 0 || next != find_state(at, word[2]))
            bad++, fprintf(stderr, "not in the table: %s", line);
        else
            seen[at][was][ev] = true;
    }
    bad += (unsigned)missing((const bool(*)[STATES][HANDOVER_EVENT_COUNT])seen, spared, n);
    printf("%u steps\n", taken);
    return bad || !taken;
}

int main(int argc, char **argv)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_explore), cmocka_unit_test(test_impossible)};
    if (argc > 1 && !strcmp(argv[1], "replay"))
        return replay();
    if (argc > 1 && !strcmp(argv[1], "steps"))
        return steps(argv + 2, argc - 2);
    return cmocka_run_group_tests_name("handover", tests, NULL, NULL);
}
