#include "migrate/handover.h"

#include <errno.h>

struct step {
    u8 known; /* 0: can not happen */
    u8 next;
    u32 acts;
};

#define TO(state, acts) \
    {                   \
        1, state, acts  \
    }

static const struct step source[SOURCE_STATES][HANDOVER_EVENT_COUNT] = {
    [SOURCE_ASKING] = {[EVENT_ACCEPT] = TO(SOURCE_COPYING, 0),
                       [EVENT_REFUSE] = TO(SOURCE_BACK, 0),
                       [EVENT_LOST] = TO(SOURCE_BACK, ACT(ACT_SEND_ABORT))},
    [SOURCE_COPYING] = {[EVENT_STOP] = TO(SOURCE_STOPPED, 0), [EVENT_LOST] = TO(SOURCE_BACK, ACT(ACT_SEND_ABORT))},
    [SOURCE_STOPPED] = {[EVENT_READY] = TO(SOURCE_STOPPED, ACT(ACT_RECORD)),
                        [EVENT_RECORDED] = TO(SOURCE_COMMITTED, ACT(ACT_SEND_COMMIT)),
                        [EVENT_LOST] = TO(SOURCE_BACK, ACT(ACT_SEND_ABORT) | ACT(ACT_RELEASE))},
    /* A record may be there that could not be told of: what is read at recovery counts. */
    [SOURCE_COMMITTED] = {[EVENT_RECORDED] = TO(SOURCE_COMMITTED, ACT(ACT_SEND_COMMIT)),
                          [EVENT_LOST] = TO(SOURCE_COMMITTED, ACT(ACT_SEND_COMMIT)),
                          [EVENT_RUNS] = TO(SOURCE_MOVED, ACT(ACT_LEAVE) | ACT(ACT_SEND_DONE)),
                          [EVENT_LACKS] = TO(SOURCE_SERVING, ACT(ACT_SERVE)),
                          [EVENT_NEVER] = TO(SOURCE_BACK, ACT(ACT_UNRECORD))},
    /* It runs there for good: there is no way back. */
    [SOURCE_SERVING] = {[EVENT_LOST] = TO(SOURCE_SERVING, ACT(ACT_SEND_COMMIT)),
                        [EVENT_LACKS] = TO(SOURCE_SERVING, ACT(ACT_SERVE)),
                        [EVENT_RUNS] = TO(SOURCE_MOVED, ACT(ACT_LEAVE) | ACT(ACT_SEND_DONE))},
    [SOURCE_BEREFT] = {[EVENT_LOST] = TO(SOURCE_BEREFT, ACT(ACT_SEND_ABORT)),
                       [EVENT_LACKS] = TO(SOURCE_BEREFT, ACT(ACT_SEND_GONE)),
                       [EVENT_RUNS] = TO(SOURCE_MOVED, ACT(ACT_LEAVE) | ACT(ACT_SEND_DONE)),
                       [EVENT_NEVER] = TO(SOURCE_BACK, ACT(ACT_UNRECORD))},
    [SOURCE_MOVED] = {[EVENT_LOST] = TO(SOURCE_MOVED, 0), [EVENT_RUNS] = TO(SOURCE_MOVED, ACT(ACT_SEND_DONE))},
    [SOURCE_BACK] = {[EVENT_LOST] = TO(SOURCE_BACK, 0), [EVENT_NEVER] = TO(SOURCE_BACK, 0)},
};

static const struct step target[TARGET_STATES][HANDOVER_EVENT_COUNT] = {
    [TARGET_FREE] = {[EVENT_HELLO] = TO(TARGET_FILLING, ACT(ACT_SEND_ACCEPT)),
                     [EVENT_COMMIT] = TO(TARGET_FREE, ACT(ACT_SEND_NEVER)),
                     [EVENT_ABORT] = TO(TARGET_FREE, ACT(ACT_SEND_NEVER)),
                     [EVENT_DONE] = TO(TARGET_FREE, 0),
                     [EVENT_LOST] = TO(TARGET_FREE, 0)},
    [TARGET_FILLING] = {[EVENT_COMPLETE] = TO(TARGET_PREPARED, ACT(ACT_SEND_READY)),
                        [EVENT_NAMED] = TO(TARGET_PARTLY, ACT(ACT_SEND_READY)),
                        [EVENT_LOST] = TO(TARGET_GONE, ACT(ACT_DISCARD)),
                        [EVENT_EXPIRED] = TO(TARGET_GONE, ACT(ACT_DISCARD)),
                        [EVENT_ABORT] = TO(TARGET_GONE, ACT(ACT_DISCARD) | ACT(ACT_SEND_NEVER))},
    [TARGET_PREPARED] = {[EVENT_COMMIT] = TO(TARGET_RUNNING, ACT(ACT_RUN) | ACT(ACT_SEND_RUNS)),
                         [EVENT_LOST] = TO(TARGET_PREPARED, 0), /* it may have committed: wait for its word */
                         [EVENT_EXPIRED] = TO(TARGET_GONE, ACT(ACT_DISCARD)),
                         [EVENT_ABORT] = TO(TARGET_GONE, ACT(ACT_DISCARD) | ACT(ACT_SEND_NEVER))},
    [TARGET_PARTLY] = {[EVENT_COMMIT] = TO(TARGET_PAGING, ACT(ACT_RUN) | ACT(ACT_SEND_LACKS)),
                       [EVENT_LOST] = TO(TARGET_PARTLY, 0),
                       [EVENT_EXPIRED] = TO(TARGET_GONE, ACT(ACT_DISCARD)),
                       [EVENT_ABORT] = TO(TARGET_GONE, ACT(ACT_DISCARD) | ACT(ACT_SEND_NEVER))},
    [TARGET_PAGING] = {[EVENT_COMMIT] = TO(TARGET_PAGING, ACT(ACT_SEND_LACKS)),
                       [EVENT_ABORT] = TO(TARGET_PAGING, ACT(ACT_SEND_LACKS)),
                       [EVENT_LOST] = TO(TARGET_PAGING, 0),
                       [EVENT_FULL] = TO(TARGET_RUNNING, ACT(ACT_SEND_RUNS)),
                       [EVENT_PERISHED] = TO(TARGET_RUNNING, ACT(ACT_END) | ACT(ACT_SEND_RUNS))},
    [TARGET_RUNNING] = {[EVENT_COMMIT] = TO(TARGET_RUNNING, ACT(ACT_SEND_RUNS)),
                        [EVENT_ABORT] = TO(TARGET_RUNNING, ACT(ACT_SEND_RUNS)),
                        [EVENT_LOST] = TO(TARGET_RUNNING, 0),
                        [EVENT_DONE] = TO(TARGET_RUNNING, ACT(ACT_FORGET))},
    [TARGET_GONE] = {[EVENT_COMMIT] = TO(TARGET_GONE, ACT(ACT_SEND_NEVER)),
                     [EVENT_ABORT] = TO(TARGET_GONE, ACT(ACT_SEND_NEVER)),
                     [EVENT_EXPIRED] = TO(TARGET_GONE, 0),
                     [EVENT_LOST] = TO(TARGET_GONE, 0),
                     [EVENT_DONE] = TO(TARGET_GONE, 0)},
};

int handover_source_step(enum handover_source *state, enum handover_event ev)
{
    const struct step *s = &source[*state][ev];
    if (!s->known)
        return -EPROTO;
    *state = s->next;
    return s->acts;
}

int handover_target_step(enum handover_target *state, enum handover_event ev)
{
    const struct step *s = &target[*state][ev];
    if (!s->known)
        return -EPROTO;
    *state = s->next;
    return s->acts;
}

#define X(id, name) [id] = name,
const char *handover_source_name(enum handover_source s)
{
    static const char *const names[] = {HANDOVER_SOURCE_STATES(X)};
    return names[s];
}

const char *handover_target_name(enum handover_target s)
{
    static const char *const names[] = {HANDOVER_TARGET_STATES(X)};
    return names[s];
}

const char *handover_event_name(enum handover_event ev)
{
    static const char *const names[] = {HANDOVER_EVENTS(X)};
    return names[ev];
}

const char *handover_action_name(enum handover_action a)
{
    static const char *const names[] = {HANDOVER_ACTIONS(X)};
    return names[a];
}
#undef X
