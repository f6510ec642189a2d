/* Connections to a guest's sockets: their life, their credit to the byte, and what a guest may try. */
#include "backend/vsock/vsock.h"

#include <errno.h>
#include <setjmp.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>

#define PORT   1024u
#define SECOND 1000000000ull
#define CAUGHT 256u
#define ALL    (VSOCK_SHUTDOWN_RECEIVE | VSOCK_SHUTDOWN_SEND)

/* The way down, and owners: remembered. */
struct world {
    struct vsock_host *h;
    bool full;
    struct vsock_packet p[CAUGHT];
    unsigned n;
    unsigned opened, refused, closed, shuts;
    int why;
    u32 shut;
    u64 bytes;
    struct vsock_connection *c;
};

static bool put(void *ctx, const struct vsock_packet *p, const u8 *data)
{
    struct world *w = ctx;
    assert_true(vsock_packet_check(p) && p->kind == VSOCK_PACKET);
    if (w->full || w->n == CAUGHT)
        return false;
    w->p[w->n++] = *p;
    return true;
}

static void opened(void *ctx, void *owner)
{
    ((struct world *)ctx)->opened++;
    assert_ptr_equal(owner, ctx);
}

static void refused(void *ctx, void *owner, int why)
{
    struct world *w = ctx;
    w->refused++;
    w->why = why;
    w->c = NULL;
}

static void data(void *ctx, void *owner, const u8 *bytes, u32 len)
{
    ((struct world *)ctx)->bytes += len;
}

static void shut(void *ctx, void *owner, u32 flags)
{
    struct world *w = ctx;
    w->shuts++;
    w->shut = flags;
}

static void closed(void *ctx, void *owner)
{
    struct world *w = ctx;
    w->closed++;
    w->c = NULL;
}

static const struct vsock_ops ops = {put, opened, refused, data, shut, closed};

static void make(struct world *w)
{
    memset(w, 0, sizeof(*w));
    w->h = vsock_create(&ops, w);
    assert_non_null(w->h);
}

static struct vsock_packet from_guest(const struct world *w, u16 op)
{
    return (struct vsock_packet){.kind = VSOCK_PACKET,
                                 .src_cid = VSOCK_GUEST_CID,
                                 .dst_cid = VSOCK_HOST_CID,
                                 .src_port = PORT,
                                 .dst_port = w->p[0].src_port,
                                 .type = VSOCK_TYPE_STREAM,
                                 .op = op,
                                 .buf_alloc = 1000};
}

static void receive(struct world *w, struct vsock_packet p)
{
    static const u8 zeros[VSOCK_DATA_MAX];
    assert_true(vsock_packet_check(&p));
    vsock_receive(w->h, &p, zeros);
}

static void say(struct world *w, u16 op)
{
    receive(w, from_guest(w, op));
}

static const struct vsock_packet *last(const struct world *w)
{
    assert_true(w->n);
    return &w->p[w->n - 1];
}

/* A connection that the guest has accepted. */
static void open_one(struct world *w)
{
    make(w);
    w->c = vsock_open(w->h, w, PORT, 0);
    assert_non_null(w->c);
    assert_int_equal(last(w)->op, VSOCK_OP_REQUEST);
    assert_int_equal(last(w)->dst_port, PORT);
    assert_int_equal(last(w)->dst_cid, VSOCK_GUEST_CID);
    assert_int_equal(last(w)->buf_alloc, VSOCK_BUFFER);
    assert_int_equal(vsock_room(w->c), 0);
    say(w, VSOCK_OP_RESPONSE);
    assert_int_equal(w->opened, 1);
    assert_int_equal(vsock_room(w->c), 1000);
}

static void end(struct world *w)
{
    vsock_destroy(w->h);
}

static void refusals(void **state)
{
    static const struct {
        u32 kind;
        u16 op;
        int why;
    } ways[] = {{VSOCK_PACKET, VSOCK_OP_RST, ECONNREFUSED},
                {VSOCK_PACKET, VSOCK_OP_RW, EPROTO},
                {VSOCK_PACKET, VSOCK_OP_SHUTDOWN, EPROTO},
                {VSOCK_PACKET, 99, EPROTO},
                {VSOCK_PACKET, 0, EPROTO},
                {VSOCK_PACKET, VSOCK_OP_REQUEST, EPROTO},
                {VSOCK_GONE, 0, ECONNREFUSED}};
    struct world w;
    for (unsigned i = 0; i < ARRAY_LEN(ways); i++) {
        make(&w);
        w.c = vsock_open(w.h, &w, PORT, 0);
        struct vsock_packet p = from_guest(&w, ways[i].op);
        p.kind = ways[i].kind;
        receive(&w, p);
        assert_int_equal(w.refused, 1);
        assert_int_equal(w.why, ways[i].why);
        assert_int_equal(vsock_count(w.h), 0);
        assert_int_equal(last(&w)->op, ways[i].why == EPROTO ? VSOCK_OP_RST : VSOCK_OP_REQUEST);
        end(&w);
    }
    /* No driver: the request comes back as it went. And no answer at all. */
    make(&w);
    w.c = vsock_open(w.h, &w, PORT, 0);
    struct vsock_packet p = w.p[0];
    p.kind = VSOCK_NOBODY;
    receive(&w, p);
    assert_int_equal(w.why, ENODEV);
    w.c = vsock_open(w.h, &w, PORT, 7);
    u64 at = vsock_deadline(w.h);
    assert_true(at > 7 && at < 60 * SECOND);
    vsock_pump(w.h, at - 1);
    assert_int_equal(w.refused, 1);
    vsock_pump(w.h, at);
    assert_int_equal(w.refused, 2);
    assert_int_equal(w.why, ETIMEDOUT);
    assert_int_equal(last(&w)->op, VSOCK_OP_RST);
    assert_true(vsock_deadline(w.h) == UINT64_MAX);
    end(&w);
}

/* What we may send: the guest's buffer, less what is on its way, and never more than VSOCK_IN_FLIGHT. */
static void credit_of_the_guest(void **state)
{
    static const u8 bytes[VSOCK_DATA_MAX];
    struct world w;
    open_one(&w);
    assert_true(vsock_send(w.c, bytes, 600));
    assert_int_equal(vsock_room(w.c), 400);
    assert_true(vsock_send(w.c, bytes, 400));
    assert_int_equal(vsock_room(w.c), 0);
    struct vsock_packet p = from_guest(&w, VSOCK_OP_CREDIT_UPDATE);
    p.fwd_cnt = 700;
    receive(&w, p);
    assert_int_equal(vsock_room(w.c), 700);
    p.fwd_cnt = 650; /* late: an older word */
    receive(&w, p);
    assert_int_equal(vsock_room(w.c), 700);
    p.buf_alloc = 100; /* the buffer shrinks below what is there */
    p.fwd_cnt = 700;
    receive(&w, p);
    assert_int_equal(vsock_room(w.c), 0);
    p.buf_alloc = ~0u;
    receive(&w, p);
    assert_int_equal(vsock_room(w.c), VSOCK_IN_FLIGHT - 300);
    p.fwd_cnt = 1001; /* more than was sent */
    assert_int_equal(w.closed, 0);
    receive(&w, p);
    assert_int_equal(w.closed, 1);
    assert_int_equal(last(&w)->op, VSOCK_OP_RST);
    assert_int_equal(vsock_count(w.h), 0);
    end(&w);
}

/* Counters go round at 2^32. */
static void counters_wrap(void **state)
{
    static const u8 bytes[VSOCK_DATA_MAX];
    struct world w;
    u32 sent = 0;
    u64 taken = 0;
    open_one(&w);
    for (u64 total = 0; total < 5ull << 32; total += VSOCK_DATA_MAX) {
        struct vsock_packet p = from_guest(&w, VSOCK_OP_CREDIT_UPDATE);
        p.buf_alloc = 65536;
        p.fwd_cnt = sent;
        receive(&w, p);
        assert_int_equal(vsock_room(w.c), 65536);
        assert_true(vsock_send(w.c, bytes, VSOCK_DATA_MAX));
        sent += VSOCK_DATA_MAX;
        p.op = VSOCK_OP_RW;
        p.len = VSOCK_DATA_MAX;
        p.fwd_cnt = sent;
        receive(&w, p);
        taken += VSOCK_DATA_MAX;
        assert_true(w.bytes == taken);
        vsock_forwarded(w.c, taken);
        w.n = 1;
    }
    assert_int_equal(w.closed, 0);
    end(&w);
}

/* What the guest may send: VSOCK_BUFFER beyond what was taken, and not a byte more. */
static void credit_of_ours(void **state)
{
    struct world w;
    open_one(&w);
    struct vsock_packet p = from_guest(&w, VSOCK_OP_RW);
    p.len = VSOCK_DATA_MAX;
    for (u32 i = 0; i < VSOCK_BUFFER / VSOCK_DATA_MAX; i++)
        receive(&w, p);
    assert_int_equal(w.bytes, VSOCK_BUFFER);
    unsigned before = w.n;
    vsock_forwarded(w.c, 100); /* not worth a word */
    assert_int_equal(w.n, before);
    say(&w, VSOCK_OP_CREDIT_REQUEST); /* unless it is asked for */
    assert_int_equal(w.n, before + 1);
    assert_int_equal(last(&w)->op, VSOCK_OP_CREDIT_UPDATE);
    assert_int_equal(last(&w)->fwd_cnt, 100);
    vsock_forwarded(w.c, VSOCK_BUFFER / 2);
    assert_int_equal(w.n, before + 2);
    assert_int_equal(last(&w)->fwd_cnt, VSOCK_BUFFER / 2);
    for (u32 i = 0; i < VSOCK_BUFFER / 2 / VSOCK_DATA_MAX; i++)
        receive(&w, p);
    assert_int_equal(w.closed, 0);
    p.len = 1;
    receive(&w, p);
    assert_int_equal(w.closed, 1);
    assert_int_equal(w.bytes, VSOCK_BUFFER + VSOCK_BUFFER / 2);
    assert_int_equal(last(&w)->op, VSOCK_OP_RST);
    end(&w);
}

static void ends(void **state)
{
    struct world w;
    struct vsock_packet p;
    /* the guest ends one direction, then the other */
    open_one(&w);
    p = from_guest(&w, VSOCK_OP_SHUTDOWN);
    p.flags = VSOCK_SHUTDOWN_SEND;
    receive(&w, p);
    assert_int_equal(w.shuts, 1);
    assert_int_equal(w.shut, VSOCK_SHUTDOWN_SEND);
    assert_int_equal(vsock_room(w.c), 1000);
    p.flags = VSOCK_SHUTDOWN_RECEIVE;
    receive(&w, p);
    assert_int_equal(w.closed, 1);
    assert_int_equal(last(&w)->op, VSOCK_OP_RST);
    end(&w);
    /* data behind its end */
    open_one(&w);
    p.flags = VSOCK_SHUTDOWN_SEND;
    p.dst_port = w.p[0].src_port;
    receive(&w, p);
    p = from_guest(&w, VSOCK_OP_RW);
    p.len = 5;
    receive(&w, p);
    assert_int_equal(w.closed, 1);
    assert_int_equal(w.bytes, 0);
    end(&w);
    /* we end ours, then leave; the guest answers, or does not */
    for (int answers = 0; answers < 2; answers++) {
        open_one(&w);
        vsock_finish(w.c);
        assert_int_equal(last(&w)->op, VSOCK_OP_SHUTDOWN);
        assert_int_equal(last(&w)->flags, VSOCK_SHUTDOWN_SEND);
        assert_int_equal(vsock_room(w.c), 0);
        vsock_leave(w.c, 0);
        assert_int_equal(last(&w)->flags, ALL);
        p = from_guest(&w, VSOCK_OP_RW); /* it does not know yet */
        p.len = 5;
        receive(&w, p);
        assert_int_equal(vsock_count(w.h), 1);
        if (answers)
            say(&w, VSOCK_OP_RST);
        else
            vsock_pump(w.h, vsock_deadline(w.h));
        assert_int_equal(vsock_count(w.h), 0);
        assert_int_equal(last(&w)->op, answers ? VSOCK_OP_SHUTDOWN : VSOCK_OP_RST);
        assert_int_equal(w.closed + w.bytes, 0); /* nobody was told */
        end(&w);
    }
}

/* Packets of nobody's connection: an RST each, never for an RST, and a bounded number of them waits for room. */
static void strays(void **state)
{
    struct world w;
    make(&w);
    w.p[0].src_port = 77;
    struct vsock_packet p = from_guest(&w, VSOCK_OP_REQUEST);
    p.dst_port = 22;
    receive(&w, p);
    assert_int_equal(w.n, 1);
    assert_int_equal(last(&w)->op, VSOCK_OP_RST);
    assert_int_equal(last(&w)->src_port, 22);
    assert_int_equal(last(&w)->dst_port, PORT);
    p.op = VSOCK_OP_RST;
    receive(&w, p);
    assert_int_equal(w.n, 1);
    p.op = VSOCK_OP_REQUEST;
    p.dst_cid = 9; /* another machine */
    receive(&w, p);
    assert_int_equal(last(&w)->op, VSOCK_OP_RST);
    assert_int_equal(last(&w)->src_cid, 9);
    p.dst_cid = VSOCK_HOST_CID;
    p.type = 2; /* no stream */
    receive(&w, p);
    assert_int_equal(last(&w)->op, VSOCK_OP_RST);
    assert_int_equal(last(&w)->type, 2);
    assert_int_equal(w.n, 3);
    w.full = true;
    for (int i = 0; i < 100000; i++)
        receive(&w, p);
    assert_true(vsock_owes(w.h));
    w.full = false;
    vsock_pump(w.h, 0);
    assert_false(vsock_owes(w.h));
    assert_true(w.n > 3 && w.n <= 3 + 64);
    assert_int_equal(vsock_count(w.h), 0);
    end(&w);
}

/* No room on the way: everything is owed, and nothing of the guest is kept waiting. */
static void no_room(void **state)
{
    static const u8 bytes[10];
    struct world w;
    open_one(&w);
    w.full = true;
    unsigned before = w.n;
    assert_false(vsock_send(w.c, bytes, sizeof(bytes)));
    assert_int_equal(vsock_room(w.c), 1000);
    say(&w, VSOCK_OP_CREDIT_REQUEST);
    vsock_finish(w.c);
    assert_true(vsock_owes(w.h));
    w.full = false;
    vsock_pump(w.h, 0);
    assert_int_equal(w.n, before + 2);
    assert_int_equal(w.p[before].op, VSOCK_OP_CREDIT_UPDATE);
    assert_int_equal(w.p[before + 1].op, VSOCK_OP_SHUTDOWN);
    w.full = true;
    say(&w, VSOCK_OP_RESPONSE); /* nonsense: cut off, but the RST can not go yet */
    assert_int_equal(w.closed, 1);
    assert_int_equal(vsock_count(w.h), 1);
    struct vsock_packet p = from_guest(&w, VSOCK_OP_RW);
    p.len = 9;
    receive(&w, p);
    assert_int_equal(w.bytes, 0);
    w.full = false;
    vsock_pump(w.h, 0);
    assert_int_equal(last(&w)->op, VSOCK_OP_RST);
    assert_int_equal(vsock_count(w.h), 0);
    end(&w);
}

static void many(void **state)
{
    struct world w;
    make(&w);
    for (unsigned i = 0; i < VSOCK_CONNECTIONS; i++) {
        assert_non_null(vsock_open(w.h, &w, PORT, 0));
        for (unsigned j = 0; j < i; j++)
            assert_int_not_equal(w.p[i].src_port, w.p[j].src_port);
    }
    assert_null(vsock_open(w.h, &w, PORT, 0));
    const struct vsock_packet gone = {.kind = VSOCK_GONE};
    receive(&w, gone);
    assert_int_equal(w.refused, VSOCK_CONNECTIONS);
    assert_non_null(vsock_open(w.h, &w, PORT, 0));
    end(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(refusals),      cmocka_unit_test(credit_of_the_guest),
        cmocka_unit_test(counters_wrap), cmocka_unit_test(credit_of_ours),
        cmocka_unit_test(ends),          cmocka_unit_test(strays),
        cmocka_unit_test(no_room),       cmocka_unit_test(many),
    };
    return cmocka_run_group_tests(tests, NULL, NULL);
}
