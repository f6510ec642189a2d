/*
 * The keeper's part of post-copy: of a machine that runs here while pages of it are still at the host that it came from, and, there,
 * of one that has left but for these pages. Who sends and who takes them are processes of their own (vm/serve.h, vm/pager.h), which
 * come and go with their connections; here is what outlives them.
 *
 *   target   running, lacks ──pagers, one at a time──> "full": recorded, and like any other machine from then on
 *   source   committed ──"serve"──> serving            (the rest is keeper_handover.c's)
 *
 * While it lacks pages nobody else may read its memory or hold it, so it is neither saved nor moved. The guest may stand still for want of a
 * page for as long as the link is cut, with its process, whose threads wait with whatever locks they hold: so questions are answered here
 * as far as they can be, and a pause counts when it has been ordered: nothing runs before it is obeyed but what a page was waited for.
 */
#include "vm/keeper.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

bool keeper_waits_for_pages(const struct keeper *k)
{
    return k->lacks && k->lazy.head && __atomic_load_n(&k->lazy.head->waiting, __ATOMIC_RELAXED);
}

bool keeper_lacks_pages(struct keeper *k, struct client *c)
{
    if (!k->lacks)
        return false;
    keeper_refuse(c, EBUSY,
                  "%s: %llu MiB of its memory are still at the host that it came from%s; try again when they are here",
                  k->cfg.name, (unsigned long long)((keeper_absent(k) + (1 << 20) - 1) >> 20),
                  k->pager < 0 ? ", to which there is no connection" : "");
    return true;
}

void keeper_paging_json(const struct keeper *k, json_t *j)
{
    if (!k->lacks)
        return;
    json_object_set_new(j, "absent", json_integer((json_int_t)keeper_absent(k)));
    json_object_set_new(j, "absent_at", json_string(k->paged_by));
    json_object_set_new(j, "connected", json_boolean(k->pager >= 0));
    json_object_set_new(j, "waits", json_boolean(keeper_waits_for_pages(k)));
}

void keeper_paging_drop(struct keeper *k, const struct client *c)
{
    if (k->pager == c - k->clients)
        k->pager = -1;
}

void keeper_runs_here(struct keeper *k)
{
    k->lacks = k->page_event >= 0 && keeper_absent(k);
    if (k->page_event >= 0 && !k->lacks)
        keeper_tell(k, DOWN_FILL, NULL, 0);
}

/* --- target --- */

static bool is_of(struct keeper *k, struct client *c, const json_t *j)
{
    const char *id = json_string_value(json_object_get(j, "id"));
    bool is = id && k->handover_id[0] && !strcmp(id, k->handover_id);
    if (!is)
        keeper_refuse(c, ESTALE, "%s: knows no handover of that id", k->cfg.name);
    return is;
}

static void do_begin(struct keeper *k, struct client *c, const json_t *j)
{
    const char *from = json_string_value(json_object_get(j, "from"));
    if (!is_of(k, c, j))
        return;
    if (!k->lacks || k->ended) {
        keeper_refuse(c, ENODATA, "%s: lacks no pages", k->cfg.name);
        return;
    }
    if (k->pager >= 0) {
        keeper_refuse(c, EBUSY, "%s: another connection brings its pages", k->cfg.name);
        return;
    }
    k->pager = (int)(c - k->clients);
    snprintf(k->paged_by, sizeof(k->paged_by), "%s", from ? from : "");
    link_clean_text(k->paged_by, strlen(k->paged_by));
    keeper_accept_request(c);
}

/* Whether this client is the pager; else it is told. */
static bool is_pager(struct keeper *k, struct client *c)
{
    bool is = k->pager == c - k->clients && !k->ended;
    if (!is)
        keeper_refuse(c, ESTALE, "%s: its pages are brought by another connection", k->cfg.name);
    return is;
}

static void do_part(struct keeper *k, struct client *c, const json_t *j)
{
    const struct {
        const char *name;
        int fd;
        u64 bytes;
    } parts[] = {{"memory", k->ram_fd, k->cfg.memory},
                 {"table", k->page_table, lazy_size(k->cfg.memory / PAGE_SIZE)},
                 {"event", k->page_event, 0}};
    const char *which = json_string_value(json_object_get(j, "which"));
    if (!is_pager(k, c))
        return;
    for (size_t i = 0; which && i < ARRAY_LEN(parts) && c->pass < 0; i++)
        if (!strcmp(which, parts[i].name)) {
            keeper_reply(c, json_pack("{s:b,s:I}", "ok", 1, "bytes", (json_int_t)parts[i].bytes));
            if (client_put_fd(c, parts[i].fd) < 0)
                c->closing = true;
            return;
        }
    keeper_refuse(c, EINVAL, "paging: \"which\" has to be memory, table or event, one after the other");
}

static void do_full(struct keeper *k, struct client *c, const json_t *j)
{
    struct handover_record h = {.role = HANDOVER_RUNS};
    struct error e = {0};
    if (!is_pager(k, c))
        return;
    if (keeper_absent(k)) {
        keeper_refuse(c, EBUSY, "%s: lacks pages", k->cfg.name);
        return;
    }
    memcpy(h.id, k->handover_id, sizeof(h.id));
    if (handover_write(k->handover_fd, &h, &e) < 0) {
        keeper_refuse(c, e.code, "%s", e.msg);
        return;
    }
    k->lacks = false;
    keeper_tell(k, DOWN_FILL, NULL,
                0); /* if it takes no messages: it goes on looking for absent pages, and finds none */
    keeper_accept_request(c);
}

/* The host that had them has lost them. */
static void do_perished(struct keeper *k, struct client *c, const json_t *j)
{
    if (!is_of(k, c, j))
        return;
    if (k->lacks && !k->ended)
        keeper_end(k, VM_EXIT_HOST, NULL,
                   "%llu MiB of its memory were lost with the host that it came from, before they were here",
                   (unsigned long long)((keeper_absent(k) + (1 << 20) - 1) >> 20));
    if (k->ended)
        c->waiting = true; /* told when the cell is gone */
    else
        keeper_accept_request(c);
}

/* --- source --- */

static u64 named_bytes(const struct keeper *k)
{
    return (k->cfg.memory / PAGE_SIZE + 63) / 64 * 8;
}

static void do_name(struct keeper *k, struct client *c, const json_t *j)
{
    json_int_t n = json_integer_value(json_object_get(j, "bytes"));
    if (!keeper_has_hold(k, c))
        return;
    if (n <= 0 || (u64)n != named_bytes(k) || (u64)n > CONTROL_NAMED_MAX)
        keeper_refuse(c, EINVAL, "paging: \"bytes\" has to be %llu", (unsigned long long)named_bytes(k));
    else if (client_begin_body(c, (size_t)n, KEEPER_BODY_NAMED) < 0)
        c->closing = true;
}

void keeper_take_named(struct keeper *k, struct client *c)
{
    if (!keeper_has_hold(k, c))
        return;
    free(k->named);
    k->named = c->body;
    c->body = NULL;
    keeper_accept_request(c);
}

static void do_named(struct keeper *k, struct client *c, const json_t *j)
{
    if (!k->named || !k->handed.postcopy)
        keeper_refuse(c, ENODATA, "%s: has not been handed over but for some pages", k->cfg.name);
    else
        keeper_answer_bytes(c, k->named, (u32)named_bytes(k));
}

static void do_serve(struct keeper *k, struct client *c, const json_t *j)
{
    if (!is_of(k, c, j))
        return;
    if (k->state == KEEPER_COMMITTED && k->handed.postcopy)
        keeper_set_state(k, KEEPER_SERVING);
    if (k->state == KEEPER_SERVING)
        keeper_accept_request(c);
    else
        keeper_refuse(c, EINVAL, "%s: has not been handed over but for some pages", k->cfg.name);
}

void keeper_do_paging(struct keeper *k, struct client *c, const json_t *j)
{
    static const struct {
        const char *name;
        void (*fn)(struct keeper *, struct client *, const json_t *);
    } actions[] = {{"begin", do_begin}, {"part", do_part},   {"full", do_full},  {"perished", do_perished},
                   {"name", do_name},   {"named", do_named}, {"serve", do_serve}};
    const char *what = json_string_value(json_object_get(j, "action"));
    for (size_t i = 0; what && i < ARRAY_LEN(actions); i++)
        if (!strcmp(what, actions[i].name)) {
            actions[i].fn(k, c, j);
            return;
        }
    keeper_refuse(c, EINVAL, "paging: \"action\" has to be begin, part, full, perished, name, named or serve");
}
