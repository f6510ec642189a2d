/*
 * Connections to a guest's sockets.
 *
 *   FREE --vsock_open--> OPENING --RESPONSE--> OPEN --vsock_leave--> LEAVING --RST--> FREE
 *                           |                   |                       |
 *                           +-- RST, time ------+-- RST, nonsense ------+-- time: we send RST
 *
 * Credit. Each side counts bytes modulo 2^32: what it has sent, and what the other has taken out of its buffer (fwd_cnt).
 * What is between may be no more than the other's buffer (buf_alloc). Every packet carries both words of its sender.
 * A guest that sends more than it was allowed is cut off. A guest that announces a buffer of any size is sent
 * VSOCK_IN_FLIGHT at most, so differences of counters stay far from wrapping around: a fwd_cnt lies between the last
 * one and what was sent, or is an older one that came late (packets of two of the guest's CPUs may overtake each other;
 * ignored), or is nonsense (cut off).
 *
 * Owing. Packets that carry no data are not queued when there is no room: a bit says what a connection owes, and
 * vsock_pump sends it later, in its present form. So a guest that sends and does not receive costs no memory, and what it
 * sends is always taken: it can not bring both directions to a stop. Answers to packets of no connection have a list of
 * fixed length; what does not fit is left out, and hurts who sends such packets in such numbers.
 *
 * The end. A side that sends SHUTDOWN for both directions waits for RST; a side that gets one sends RST. A guest that
 * does not answer within LEAVE_NS gets the RST itself.
 *
 * What must stay true
 *  1. Callbacks come last in a function, or nothing of the connection is looked at after them: they may end it.
 *  2. A connection whose owner has left calls nobody.
 *
 * Not done: connections that the guest begins: they are refused, nobody listens on the host.
 */
#include "backend/vsock/vsock.h"

#include <errno.h>
#include <stdlib.h>

#define OPEN_NS    5000000000ull
#define LEAVE_NS   5000000000ull
#define STRAYS     64u
#define PORT_FIRST 0x40000000u

enum state { FREE, OPENING, OPEN, LEAVING };

enum { OWE_REQUEST = 1, OWE_CREDIT = 2, OWE_SHUTDOWN = 4, OWE_RST = 8 };

struct vsock_connection {
    struct vsock_host *h;
    enum state state;
    void *owner;
    u32 host_port, guest_port;
    u32 owes;
    u32 sent, peer_taken, peer_buffer; /* to the guest */
    u32 received, forwarded, told;     /* from the guest; told: the `forwarded` that it last heard of */
    u32 shut, peer_shut;               /* VSOCK_SHUTDOWN_*: ours, the guest's */
    u64 deadline;
};

/* The address of a packet that gets an RST though it belongs to no connection. */
struct stray {
    u64 src_cid, dst_cid;
    u32 src_port, dst_port;
    u16 type;
};

struct vsock_host {
    const struct vsock_ops *ops;
    void *ctx;
    u32 next_port;
    struct vsock_connection c[VSOCK_CONNECTIONS];
    struct stray stray[STRAYS];
    unsigned n_strays;
};

struct vsock_host *vsock_create(const struct vsock_ops *ops, void *ctx)
{
    struct vsock_host *h = calloc(1, sizeof(*h));
    if (!h)
        return NULL;
    h->ops = ops;
    h->ctx = ctx;
    h->next_port = PORT_FIRST;
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
        h->c[i].h = h;
    return h;
}

void vsock_destroy(struct vsock_host *h)
{
    free(h);
}

/* --- sending --- */

static bool send(struct vsock_connection *c, u16 op, u32 flags, const u8 *data, u32 len)
{
    const struct vsock_packet p = {.kind = VSOCK_PACKET,
                                   .len = len,
                                   .src_cid = VSOCK_HOST_CID,
                                   .dst_cid = VSOCK_GUEST_CID,
                                   .src_port = c->host_port,
                                   .dst_port = c->guest_port,
                                   .type = VSOCK_TYPE_STREAM,
                                   .op = op,
                                   .flags = flags,
                                   .buf_alloc = VSOCK_BUFFER,
                                   .fwd_cnt = c->forwarded};
    if (!c->h->ops->send(c->h->ctx, &p, data))
        return false;
    c->told = c->forwarded;
    return true;
}

/* In the order in which they are sent; an RST ends the connection, whatever else it owed. */
static void pay(struct vsock_connection *c)
{
    static const struct {
        u32 bit;
        u16 op;
    } debts[] = {{OWE_RST, VSOCK_OP_RST},
                 {OWE_REQUEST, VSOCK_OP_REQUEST},
                 {OWE_CREDIT, VSOCK_OP_CREDIT_UPDATE},
                 {OWE_SHUTDOWN, VSOCK_OP_SHUTDOWN}};
    for (unsigned i = 0; i < ARRAY_LEN(debts); i++) {
        if (!(c->owes & debts[i].bit))
            continue;
        if (!send(c, debts[i].op, debts[i].bit == OWE_SHUTDOWN ? c->shut : 0, NULL, 0))
            return;
        c->owes &= ~debts[i].bit;
        if (debts[i].bit == OWE_RST) {
            c->state = FREE;
            c->owes = 0;
            return;
        }
    }
}

static void owe(struct vsock_connection *c, u32 bit)
{
    c->owes |= bit;
    pay(c);
}

static void pay_strays(struct vsock_host *h)
{
    while (h->n_strays) {
        const struct stray *s = &h->stray[h->n_strays - 1];
        const struct vsock_packet p = {.kind = VSOCK_PACKET,
                                       .src_cid = s->dst_cid,
                                       .dst_cid = s->src_cid,
                                       .src_port = s->dst_port,
                                       .dst_port = s->src_port,
                                       .type = s->type,
                                       .op = VSOCK_OP_RST};
        if (!h->ops->send(h->ctx, &p, NULL))
            return;
        h->n_strays--;
    }
}

static void refuse_stray(struct vsock_host *h, const struct vsock_packet *p)
{
    if (p->op == VSOCK_OP_RST || h->n_strays == STRAYS)
        return;
    h->stray[h->n_strays++] = (struct stray){p->src_cid, p->dst_cid, p->src_port, p->dst_port, p->type};
    pay_strays(h);
}

/* --- ends --- */

/* Tell the owner, who does not own it any more. */
static void tell_end(struct vsock_connection *c, enum state was, int why)
{
    struct vsock_host *h = c->h;
    void *owner = c->owner;
    c->owner = NULL;
    if (was == OPENING)
        h->ops->refused(h->ctx, owner, why);
    else if (was == OPEN)
        h->ops->closed(h->ctx, owner);
}

/* The guest knows nothing of it any more. */
static void over(struct vsock_connection *c, int why)
{
    enum state was = c->state;
    c->state = FREE;
    c->owes = 0;
    tell_end(c, was, why);
}

/* End it from our side. Until the RST is out the place is taken. */
static void cut_off(struct vsock_connection *c, int why)
{
    enum state was = c->state;
    c->state = LEAVING;
    c->deadline = UINT64_MAX;
    c->owes = 0;
    owe(c, OWE_RST);
    tell_end(c, was, why);
}

/* --- the owner's calls --- */

static bool port_in_use(const struct vsock_host *h, u32 port)
{
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
        if (h->c[i].state != FREE && h->c[i].host_port == port)
            return true;
    return false;
}

struct vsock_connection *vsock_open(struct vsock_host *h, void *owner, u32 port, u64 now)
{
    struct vsock_connection *c = NULL;
    for (unsigned i = 0; i < VSOCK_CONNECTIONS && !c; i++)
        if (h->c[i].state == FREE)
            c = &h->c[i];
    if (!c)
        return NULL;
    while (port_in_use(h, h->next_port))
        h->next_port++;
    *c = (struct vsock_connection){.h = h,
                                   .state = OPENING,
                                   .owner = owner,
                                   .host_port = h->next_port++,
                                   .guest_port = port,
                                   .deadline = now + OPEN_NS};
    owe(c, OWE_REQUEST);
    return c;
}

u32 vsock_room(const struct vsock_connection *c)
{
    u32 on_way = c->sent - c->peer_taken, buffer = MIN(c->peer_buffer, VSOCK_IN_FLIGHT);
    bool may = c->state == OPEN && !(c->shut & VSOCK_SHUTDOWN_SEND) && !(c->peer_shut & VSOCK_SHUTDOWN_RECEIVE);
    return may && buffer > on_way ? buffer - on_way : 0;
}

bool vsock_send(struct vsock_connection *c, const u8 *data, u32 len)
{
    len = MIN(len, VSOCK_DATA_MAX);
    if (!send(c, VSOCK_OP_RW, 0, data, len))
        return false;
    c->sent += len;
    return true;
}

void vsock_forwarded(struct vsock_connection *c, u64 total)
{
    c->forwarded = (u32)total;
    if (c->state == OPEN && c->forwarded - c->told >= VSOCK_BUFFER / 4)
        owe(c, OWE_CREDIT);
}

void vsock_finish(struct vsock_connection *c)
{
    if (c->state != OPEN || c->shut & VSOCK_SHUTDOWN_SEND)
        return;
    c->shut |= VSOCK_SHUTDOWN_SEND;
    owe(c, OWE_SHUTDOWN);
}

void vsock_leave(struct vsock_connection *c, u64 now)
{
    enum state was = c->state;
    c->owner = NULL;
    c->state = LEAVING;
    c->deadline = now + LEAVE_NS;
    c->shut = VSOCK_SHUTDOWN_SEND | VSOCK_SHUTDOWN_RECEIVE;
    if (was == OPENING)
        cut_off(c, 0);
    else
        owe(c, OWE_SHUTDOWN);
}

/* --- from the guest --- */

static struct vsock_connection *find(struct vsock_host *h, u32 host_port, u32 guest_port)
{
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
        if (h->c[i].state != FREE && h->c[i].host_port == host_port && h->c[i].guest_port == guest_port)
            return &h->c[i];
    return NULL;
}

/* What each packet says of the guest's buffer. False: nonsense. */
static bool take_credit(struct vsock_connection *c, const struct vsock_packet *p)
{
    u32 ahead = p->fwd_cnt - c->peer_taken, late = c->peer_taken - p->fwd_cnt;
    c->peer_buffer = p->buf_alloc;
    if (ahead <= c->sent - c->peer_taken)
        c->peer_taken = p->fwd_cnt;
    else if (late > VSOCK_IN_FLIGHT)
        return false;
    return true;
}

static void got_response(struct vsock_connection *c, const struct vsock_packet *p, const u8 *data)
{
    if (c->state != OPENING) {
        cut_off(c, EPROTO);
        return;
    }
    c->state = OPEN;
    c->deadline = UINT64_MAX;
    c->h->ops->opened(c->h->ctx, c->owner);
}

static void got_rst(struct vsock_connection *c, const struct vsock_packet *p, const u8 *data)
{
    over(c, ECONNREFUSED);
}

static void got_shutdown(struct vsock_connection *c, const struct vsock_packet *p, const u8 *data)
{
    c->peer_shut |= p->flags & (VSOCK_SHUTDOWN_RECEIVE | VSOCK_SHUTDOWN_SEND);
    if (c->state == OPENING || c->peer_shut == (VSOCK_SHUTDOWN_RECEIVE | VSOCK_SHUTDOWN_SEND))
        cut_off(c, EPROTO); /* in the second case this is the answer that is due */
    else if (c->state == OPEN)
        c->h->ops->shut(c->h->ctx, c->owner, c->peer_shut);
}

static void got_data(struct vsock_connection *c, const struct vsock_packet *p, const u8 *data)
{
    if (c->state == LEAVING)
        return; /* it did not know yet that nobody reads */
    if (c->state != OPEN || c->peer_shut & VSOCK_SHUTDOWN_SEND ||
        p->len > VSOCK_BUFFER - (c->received - c->forwarded)) {
        cut_off(c, EPROTO);
        return;
    }
    c->received += p->len;
    c->h->ops->data(c->h->ctx, c->owner, data, p->len);
}

static void got_credit_update(struct vsock_connection *c, const struct vsock_packet *p, const u8 *data)
{
}

static void got_credit_request(struct vsock_connection *c, const struct vsock_packet *p, const u8 *data)
{
    if (c->state == OPEN)
        owe(c, OWE_CREDIT);
}

static void got_packet(struct vsock_host *h, const struct vsock_packet *p, const u8 *data)
{
    static void (*const actions[])(struct vsock_connection *, const struct vsock_packet *, const u8 *) = {
        [VSOCK_OP_RESPONSE] = got_response,           [VSOCK_OP_RST] = got_rst,
        [VSOCK_OP_SHUTDOWN] = got_shutdown,           [VSOCK_OP_RW] = got_data,
        [VSOCK_OP_CREDIT_UPDATE] = got_credit_update, [VSOCK_OP_CREDIT_REQUEST] = got_credit_request,
    };
    bool for_us = p->dst_cid == VSOCK_HOST_CID && p->src_cid == VSOCK_GUEST_CID && p->type == VSOCK_TYPE_STREAM;
    struct vsock_connection *c = for_us ? find(h, p->dst_port, p->src_port) : NULL;
    if (!c)
        refuse_stray(h, p);
    else if (c->owes & OWE_RST)
        return; /* of a connection that is over on our side */
    else if (p->op >= ARRAY_LEN(actions) || !actions[p->op] || (p->op != VSOCK_OP_RST && !take_credit(c, p)))
        cut_off(c, EPROTO);
    else
        actions[p->op](c, p, data);
}

void vsock_receive(struct vsock_host *h, const struct vsock_packet *p, const u8 *data)
{
    if (p->kind == VSOCK_PACKET) {
        got_packet(h, p, data);
    } else if (p->kind == VSOCK_NOBODY) {
        struct vsock_connection *c = find(h, p->src_port, p->dst_port);
        if (c && c->state == OPENING)
            over(c, ENODEV);
    } else {
        h->n_strays = 0;
        for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
            if (h->c[i].state != FREE)
                over(&h->c[i], ECONNREFUSED);
    }
}

/* --- time --- */

void vsock_pump(struct vsock_host *h, u64 now)
{
    pay_strays(h);
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++) {
        struct vsock_connection *c = &h->c[i];
        if (c->state != FREE && c->deadline <= now)
            cut_off(c, ETIMEDOUT);
        else if (c->state != FREE)
            pay(c);
    }
}

bool vsock_owes(const struct vsock_host *h)
{
    bool any = h->n_strays;
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
        any |= h->c[i].state != FREE && h->c[i].owes;
    return any;
}

u64 vsock_deadline(const struct vsock_host *h)
{
    u64 at = UINT64_MAX;
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
        if (h->c[i].state == OPENING || h->c[i].state == LEAVING)
            at = MIN(at, h->c[i].deadline);
    return at;
}

unsigned vsock_count(const struct vsock_host *h)
{
    unsigned n = 0;
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++)
        n += h->c[i].state != FREE;
    return n;
}
