/*
 * The keeper's part of a handover (migrate/handover.h). It writes the record of its own side, so that the death of a verb
 * changes nothing that was decided.
 *
 *   source   running, held ──commit──> committed ──back──> as before the hold
 *                                          └──────left───> it ends: "moved"  (with post-copy by way of "serving": keeper_paging.c)
 *   target   incoming ──load──> prepared ──activate──> running
 *                └──────────────────┴──abandon──> it ends
 *
 * A machine that comes in ends by itself when the connection that holds it closes before it is prepared, and when the word does not
 * come for the length of its lifetime. Disks are locked by whoever may run the machine: the source gives them up with
 * its record, the target takes them before it writes its own.
 */
#include "vm/keeper.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_S      1000000000ull
#define LIFETIME_MAX  86400
#define ANNOUNCEMENTS 5
#define ANNOUNCE_NS   100000000ull /* grows with each */
#define HOLD_SECONDS  60           /* until somebody holds a machine that comes in */

int keeper_open_handover(struct keeper *k, struct error *e)
{
    struct handover_record h;
    k->handover_fd = handover_open(k->dir, e);
    int r = k->handover_fd < 0 ? k->handover_fd : handover_read(k->handover_fd, &h, e);
    if (r < 0)
        return error_prefix(e, "%s", k->cfg.name), r;
    if (h.role == HANDOVER_COMMITTED)
        return error_set(e, EBUSY, "%s: has been handed over to %s, which has not said that it runs there", k->cfg.name,
                         h.to);
    if (h.role == HANDOVER_MOVED)
        return error_set(e, EBUSY, "%s: has moved to %s; `trapeze rm %s` forgets it here", k->cfg.name, h.to,
                         k->cfg.name);
    if (!k->incoming || k->incoming->records)
        return 0;
    snprintf(k->handover_id, sizeof(k->handover_id), "%s", k->incoming->id);
    k->expire_at = host_ns(NULL) + HOLD_SECONDS * NS_PER_S;
    return handover_prepare(k->handover_fd, e);
}

bool keeper_comes_in(const struct keeper *k)
{
    return k->state == KEEPER_INCOMING || k->state == KEEPER_PREPARED;
}

void keeper_abandon_incoming(struct keeper *k, const char *why)
{
    if (!k->ended && keeper_comes_in(k))
        keeper_end(k, VM_EXIT_HOST, NULL, "%s", why);
}

void keeper_prepared(struct keeper *k)
{
    keeper_set_state(k, KEEPER_PREPARED);
    k->expire_at = host_ns(NULL) + k->incoming_lifetime * NS_PER_S;
}

/* At once, then a few times more: a frame may be lost, and a bridge's port may not forward yet. */
void keeper_announce(struct keeper *k, u64 now)
{
    keeper_tell(k, DOWN_ANNOUNCE, NULL, 0);
    k->announced++;
    k->announce_at = k->announced < ANNOUNCEMENTS ? now + k->announced * ANNOUNCE_NS : UINT64_MAX;
}

/* --- requests --- */

static void refuse(struct client *c, const struct error *e)
{
    keeper_refuse(c, e->code ? e->code : EIO, "%s", e->msg);
}

/* Whether the request is of the handover at hand. */
static bool same(struct keeper *k, struct client *c, const json_t *j)
{
    const char *id = json_string_value(json_object_get(j, "id"));
    bool is = id && k->handover_id[0] && !strcmp(id, k->handover_id);
    if (!is)
        keeper_refuse(c, ESTALE, "%s: knows no handover of that id", k->cfg.name);
    return is;
}

static void do_prepare(struct keeper *k, struct client *c, const json_t *j)
{
    struct error e = {0};
    if (keeper_lacks_pages(k, c))
        return;
    if (handover_prepare(k->handover_fd, &e) < 0)
        refuse(c, &e);
    else
        keeper_accept_request(c);
}

static int take_text(char *out, size_t size, const json_t *j, const char *name)
{
    const char *text = json_string_value(json_object_get(j, name));
    if (!text || strlen(text) >= size)
        return -1;
    snprintf(out, size, "%s", text);
    return 0;
}

static int take_record(struct handover_record *h, const json_t *j)
{
    *h = (struct handover_record){.role = HANDOVER_COMMITTED,
                                  .insecure = json_is_true(json_object_get(j, "insecure")),
                                  .postcopy = json_is_true(json_object_get(j, "postcopy"))};
    if (take_text(h->id, sizeof(h->id), j, "id") < 0 || take_text(h->host, sizeof(h->host), j, "host") < 0 ||
        take_text(h->to, sizeof(h->to), j, "to") < 0 || take_text(h->tls, sizeof(h->tls), j, "tls") < 0)
        return -1;
    return handover_id_good(h->id) && handover_id_good(h->host) ? 0 : -1;
}

static void do_commit(struct keeper *k, struct client *c, const json_t *j)
{
    struct error e = {0};
    struct handover_record h;
    if (!keeper_has_hold(k, c))
        return;
    if (take_record(&h, j) < 0) {
        keeper_refuse(c, EINVAL, "handover: \"id\", \"host\", \"to\" and \"tls\" have to be there");
        return;
    }
    if (h.postcopy && !k->named) {
        keeper_refuse(c, EINVAL, "handover: the pages that come later have not been named");
        return;
    }
    if (handover_read(k->handover_fd, &k->before, &e) < 0) {
        refuse(c, &e);
        return;
    }
    keeper_unlock_disks(k);
    if (handover_write(k->handover_fd, &h, &e) < 0) {
        /* What is on the disk is not known; what is read there later must not be this. */
        struct error again = {0};
        if (handover_write(k->handover_fd, &k->before, &again) == 0 && keeper_lock_disks(k, &again) == 0) {
            refuse(c, &e);
            return;
        }
        keeper_end(k, VM_EXIT_HOST, NULL, "its handover could neither be recorded nor be taken back: %s", again.msg);
        return;
    }
    k->handed = h;
    snprintf(k->handover_id, sizeof(k->handover_id), "%s", h.id);
    k->holder = -1; /* from here on no connection decides */
    keeper_set_state(k, KEEPER_COMMITTED);
    keeper_accept_request(c);
}

static void do_back(struct keeper *k, struct client *c, const json_t *j)
{
    struct error e = {0};
    if (!same(k, c, j))
        return;
    if (k->state == KEEPER_SERVING) {
        keeper_refuse(c, EBUSY, "%s: runs at %s", k->cfg.name, k->handed.to);
        return;
    }
    if (k->state != KEEPER_COMMITTED) {
        keeper_accept_request(c);
        return;
    }
    if (keeper_lock_disks(k, &e) < 0 || handover_write(k->handover_fd, &k->before, &e) < 0) {
        refuse(c, &e);
        return;
    }
    k->handover_id[0] = 0;
    keeper_set_state(k, KEEPER_PAUSED);
    if (k->held_runs)
        keeper_ask(k, DOWN_RESUME, -1, false, NULL, 0);
    keeper_accept_request(c);
}

static void do_left(struct keeper *k, struct client *c, const json_t *j)
{
    struct error e = {0};
    if (!same(k, c, j))
        return;
    if (k->state != KEEPER_COMMITTED && k->state != KEEPER_SERVING) {
        keeper_refuse(c, EINVAL, "%s: has not been handed over", k->cfg.name);
        return;
    }
    k->handed.role = HANDOVER_MOVED;
    handover_write(k->handover_fd, &k->handed, &e); /* if that fails it is asked about once more */
    keeper_end(k, VM_EXIT_POWEROFF, NULL, "moved to %s", k->handed.to);
    c->waiting = true;
}

/* RUNS may be there or not: it must not be found, for the machine does not run. */
static void take_back_runs(struct keeper *k, struct client *c, const struct error *why)
{
    const struct handover_record none = {0};
    struct error again = {0};
    keeper_unlock_disks(k);
    if (handover_write(k->handover_fd, &none, &again) < 0)
        keeper_end(k, VM_EXIT_HOST, NULL, "its activation could neither be recorded nor be taken back: %s", again.msg);
    else
        refuse(c, why);
}

static void do_activate(struct keeper *k, struct client *c, const json_t *j)
{
    struct error e = {0};
    struct handover_record h = {.role = HANDOVER_RUNS};
    if (!same(k, c, j))
        return;
    if (k->state == KEEPER_INCOMING) {
        keeper_refuse(c, EAGAIN, "%s: has not come whole", k->cfg.name);
        return;
    }
    if (k->state != KEEPER_PREPARED) { /* asked again */
        keeper_accept_request(c);
        return;
    }
    memcpy(h.id, k->handover_id, sizeof(h.id));
    h.postcopy = k->page_event >= 0 && keeper_absent(k);
    if (keeper_lock_disks(k, &e) < 0) {
        refuse(c, &e);
        return;
    }
    if (handover_write(k->handover_fd, &h, &e) < 0) {
        take_back_runs(k, c, &e);
        return;
    }
    k->expire_at = UINT64_MAX;
    k->holder = -1;
    keeper_runs_here(k);
    keeper_set_state(k, KEEPER_PAUSED);
    if (k->incoming_runs)
        keeper_ask(k, DOWN_RESUME, -1, false, NULL, 0);
    k->announced = 0;
    keeper_announce(k, host_ns(NULL));
    keeper_accept_request(c);
}

/* Nobody wants it any more. What has been activated meanwhile, by another connection's word, stays. */
static void do_abandon(struct keeper *k, struct client *c, const json_t *j)
{
    if (!same(k, c, j))
        return;
    if (!k->ended && !keeper_comes_in(k)) {
        keeper_refuse(c, EBUSY, "%s: runs here", k->cfg.name);
        return;
    }
    keeper_abandon_incoming(k, "the host that sent it does not say that it may run");
    c->waiting = true; /* told when the cell is gone */
}

void keeper_do_handover(struct keeper *k, struct client *c, const json_t *j)
{
    static const struct {
        const char *name;
        void (*fn)(struct keeper *, struct client *, const json_t *);
    } actions[] = {{"prepare", do_prepare}, {"commit", do_commit},     {"back", do_back},
                   {"left", do_left},       {"activate", do_activate}, {"abandon", do_abandon}};
    const char *what = json_string_value(json_object_get(j, "action"));
    for (size_t i = 0; what && i < ARRAY_LEN(actions); i++)
        if (!strcmp(what, actions[i].name)) {
            actions[i].fn(k, c, j);
            return;
        }
    keeper_refuse(c, EINVAL, "handover: \"action\" has to be prepare, commit, back, left, activate or abandon");
}
