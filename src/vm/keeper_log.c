/*
 * The dirty log, as clients ask for it: one of them at a time, for as long as its connection lasts. What is done is the cell's.
 *
 * What must stay true
 *  1. A log that nobody has is off, or DOWN_LOG_STOP is on its way, or due: it goes as soon as the cell takes messages.
 *  2. Words that were taken and did not reach the one who asked are lost: then the log is over, and it hears so.
 */
#include "vm/keeper.h"

#include <errno.h>
#include <string.h>

static bool has_log(const struct keeper *k, const struct client *c)
{
    return k->logger == c - k->clients;
}

static void stop(struct keeper *k)
{
    k->logger = -1;
    k->log_stop_due = keeper_tell(k, DOWN_LOG_STOP, NULL, 0) < 0 && !k->ended;
}

/* Whether it was sent; else the client is told. */
static bool sent(struct keeper *k, struct client *c, enum link_down kind, const void *data, size_t len)
{
    bool there = k->state == KEEPER_RUNNING || k->state == KEEPER_PAUSED || k->state == KEEPER_RESETTING;
    bool done = there && keeper_ask(k, kind, (int)(c - k->clients), false, data, len) == 0;
    if (!there)
        keeper_refuse(c, EBUSY, "%s: is %s", k->cfg.name, keeper_state_name(k->state));
    else if (!done)
        keeper_refuse(c, EBUSY, "%s: the guest's process takes no messages now", k->cfg.name);
    return done;
}

static void log_start(struct keeper *k, struct client *c, const json_t *j)
{
    if (k->logger >= 0 && !has_log(k, c)) {
        keeper_refuse(c, EBUSY, "%s: its dirty log is in use: is it being migrated already?", k->cfg.name);
    } else if (sent(k, c, DOWN_LOG_START, NULL, 0)) {
        k->logger = (int)(c - k->clients);
        k->log_stop_due = false;
    }
}

/* A member that is a number of pages; UINT64_MAX: it is not. */
static u64 number(const json_t *j, const char *name)
{
    const json_t *n = json_object_get(j, name);
    return json_is_integer(n) && json_integer_value(n) >= 0 ? (u64)json_integer_value(n) : UINT64_MAX;
}

static void log_take(struct keeper *k, struct client *c, const json_t *j)
{
    const struct log_ask what = {.first = number(j, "first"), .pages = number(j, "pages")};
    if (!log_ask_fits(&what, k->cfg.memory))
        keeper_refuse(
            c, EINVAL,
            "log: \"first\" and \"pages\" have to be multiples of 64, at most %u pages, inside the memory of %s",
            LOG_PAGES_MAX, k->cfg.name);
    else
        sent(k, c, DOWN_LOG_TAKE, &what, sizeof(what));
}

static void log_throttle(struct keeper *k, struct client *c, const json_t *j)
{
    const json_t *number = json_object_get(j, "percent");
    double percent = json_number_value(number);
    u32 share;
    if (!json_is_number(number) || !(percent >= 0) || percent * 100 > BOARD_THROTTLE_MAX + 0.5) {
        keeper_refuse(c, EINVAL, "log: \"percent\" has to be 0 to %.2f", BOARD_THROTTLE_MAX / 100.0);
        return;
    }
    share = (u32)(percent * 100 + 0.5);
    sent(k, c, DOWN_THROTTLE, &share, sizeof(share));
}

static void log_stop(struct keeper *k, struct client *c, const json_t *j)
{
    if (sent(k, c, DOWN_LOG_STOP, NULL, 0))
        k->logger = -1;
}

/* X: name, who has no log may ask for it, what is done */
static const struct {
    const char *name;
    bool anybody;
    void (*fn)(struct keeper *k, struct client *c, const json_t *j);
} actions[] = {{"start", true, log_start},
               {"take", false, log_take},
               {"throttle", false, log_throttle},
               {"stop", false, log_stop}};

void keeper_log_request(struct keeper *k, struct client *c, const json_t *j)
{
    const char *what = json_string_value(json_object_get(j, "action"));
    size_t i = 0;
    while (i < ARRAY_LEN(actions) && (!what || strcmp(what, actions[i].name) != 0))
        i++;
    if (i == ARRAY_LEN(actions))
        keeper_refuse(c, EINVAL, "log: \"action\" has to be \"start\", \"take\", \"throttle\" or \"stop\"");
    else if (!actions[i].anybody && !has_log(k, c))
        keeper_refuse(c, k->logger >= 0 ? EBUSY : EINVAL, "%s: its dirty log %s", k->cfg.name,
                      k->logger >= 0 ? "is another's" : "is not on: \"start\" comes first");
    else
        actions[i].fn(k, c, j);
}

void keeper_log_answered(struct keeper *k, const struct keeper_op *op, u32 result)
{
    if (op->kind == DOWN_LOG_START && result && k->logger == op->client)
        k->logger = -1;
}

void keeper_log_silent(struct keeper *k, const struct keeper_op *op)
{
    if ((op->kind == DOWN_LOG_START || op->kind == DOWN_LOG_TAKE) && op->client >= 0 && k->logger == op->client)
        stop(k);
}

void keeper_log_drop(struct keeper *k, const struct client *c)
{
    if (has_log(k, c))
        stop(k);
}

void keeper_log_pump(struct keeper *k)
{
    if (k->log_stop_due && !k->ended)
        stop(k);
}

bool keeper_log_pending(struct keeper *k)
{
    struct ring *r = &k->link.ring[LINK_MSG_DOWN];
    if (!k->log_stop_due)
        return false;
    ring_mark_starved(r); /* the cell knocks for room only while it is marked */
    return ring_room(r) != 0;
}
