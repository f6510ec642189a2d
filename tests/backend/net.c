/*
 * Back ends of network cards, in their own sealed processes, from the other end of the wire: frames made by hand against
 * libslirp and real servers on this host's loopback, machines on a switch, and what an adapter does for a driver.
 */
#include "backend/net/net.h"
#include "base/bytes.h"

#include <setjmp.h>
#include <stdarg.h>
#include <arpa/inet.h>
#include <errno.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>
#include <cmocka.h>

#define PATIENCE_MS 10000
#define GUEST       0x0a00020fu /* 10.0.2.15 */
#define ROUTER      0x0a000202u

static const u8 guest_mac[6] = {0x52, 0x54, 0, 0x11, 0x22, 0x33};
static char dir[] = "/tmp/trapeze-test-net-XXXXXX";

/* --- a card's end of a wire --- */

struct card {
    struct net_backend back;
    struct wire wire;
    int wake;
    u8 mac[6];
    u8 frame[NET_FRAME_MAX];
    struct net_header h;
    u32 len;
};

static int card_start(struct card *c, const struct net_job *job, struct error *e)
{
    memset(c, 0, sizeof(*c));
    c->wake = host_event_create(e);
    memcpy(c->mac, guest_mac, sizeof(c->mac));
    int r = net_backend_start(&c->back, job, c->wake, dir, e);
    if (r < 0) {
        close(c->wake);
        return r;
    }
    wire_attach(&c->wire, c->back.wire, true);
    return 0;
}

static void card_stop(struct card *c)
{
    net_backend_stop(&c->back);
    close(c->wake);
}

static bool have_user(void)
{
    struct card c;
    struct error e = {0};
    const struct net_job job = {.kind = NET_USER};
    int r = card_start(&c, &job, &e);
    if (r == 0)
        card_stop(&c);
    else if (r != -ENOSYS)
        fail_msg("%s", e.msg);
    return r == 0;
}

static void put_frame(struct card *c, const struct net_header *h, const u8 *data, u32 len)
{
    u8 *p = wire_reserve(&c->wire, len);
    assert_non_null(p);
    memcpy(p, data, len);
    wire_commit(&c->wire, h, len);
    if (wire_news(&c->wire))
        host_event_signal(c->back.wake_fd);
}

/* The next frame, waiting for at most `ms`; false: none came. */
static bool get_frame(struct card *c, int ms)
{
    u64 limit = host_ns(NULL) + (u64)ms * 1000000;
    struct wire_frame f;
    for (;;) {
        ring_door_close(c->wire.own);
        wire_look(&c->wire);
        if (wire_peek(&c->wire, &f)) {
            ring_door_open(c->wire.own);
            memcpy(c->frame, f.data, f.len);
            c->len = f.len;
            c->h = f.h;
            wire_release(&c->wire, &f);
            if (wire_news(&c->wire))
                host_event_signal(c->back.wake_fd);
            return true;
        }
        if (host_ns(NULL) >= limit)
            return false;
        host_event_wait(c->wake, limit);
    }
}

/* --- frames by hand --- */

static void be16(u8 *p, u32 v)
{
    p[0] = (u8)(v >> 8);
    p[1] = (u8)v;
}

static void be32(u8 *p, u32 v)
{
    be16(p, v >> 16);
    be16(p + 2, v & 0xffff);
}

static u32 get16(const u8 *p)
{
    return (u32)(p[0] << 8 | p[1]);
}

static u32 get32(const u8 *p)
{
    return get16(p) << 16 | get16(p + 2);
}

static u32 add_up(const u8 *p, u32 len, u32 s)
{
    for (u32 i = 0; i < len; i++)
        s += i & 1 ? p[i] : (u32)p[i] << 8;
    return s;
}

static u32 fold(u32 s)
{
    s = (s & 0xffff) + (s >> 16);
    return (s & 0xffff) + (s >> 16);
}

/* Ethernet and IPv4 header for `len` bytes of `protocol`; the place behind them. */
static u8 *ip_frame(u8 *f, u32 to, u8 protocol, u32 len)
{
    memset(f, 0, 34);
    memset(f, 0x52, 6); /* 52:55:0a:00:02:02, libslirp's own */
    f[1] = 0x55;
    be32(f + 2, ROUTER);
    memcpy(f + 6, guest_mac, 6);
    be16(f + 12, 0x0800);
    f[14] = 0x45;
    be16(f + 16, 20 + len);
    f[22] = 64;
    f[23] = protocol;
    be32(f + 26, GUEST);
    be32(f + 30, to);
    be16(f + 24, (u16)~fold(add_up(f + 14, 20, 0)));
    return f + 34;
}

static u32 pseudo(const u8 *f, u32 len)
{
    return add_up(f + 26, 8, f[23] + len);
}

/* A TCP segment whose checksum is left to the back end. */
static void send_tcp(struct card *c, u32 to, u16 from_port, u16 to_port, u32 seq, u32 ack, u8 flags, const void *data,
                     u32 len)
{
    static u8 f[NET_FRAME_MAX];
    u8 *t = ip_frame(f, to, 6, 20 + len);
    const struct net_header h = {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 16};
    memset(t, 0, 20);
    be16(t, from_port);
    be16(t + 2, to_port);
    be32(t + 4, seq);
    be32(t + 8, ack);
    t[12] = 0x50;
    t[13] = flags;
    be16(t + 14, 65000);
    be16(t + 16, fold(pseudo(f, 20 + len)));
    if (len)
        memcpy(t + 20, data, len);
    put_frame(c, &h, f, 54 + len);
}

enum { FIN = 1, SYN = 2, RST = 4, ACK = 16 };

/* Wait for a segment to this port with all of these flags; others are passed over. */
static const u8 *await_tcp(struct card *c, u16 port, u8 flags, int ms)
{
    u64 limit = host_ns(NULL) + (u64)ms * 1000000;
    while (host_ns(NULL) < limit && get_frame(c, ms)) {
        const u8 *t = c->frame + 34;
        if (c->len < 54 || get16(c->frame + 12) != 0x0800 || c->frame[23] != 6 || get16(t + 2) != port)
            continue;
        u32 len = get16(c->frame + 16) - 20;
        assert_true(34 + len <= c->len);
        assert_int_equal(fold(add_up(t, len, pseudo(c->frame, len))), 0xffff);
        if ((t[13] & flags) == flags)
            return t;
    }
    return NULL;
}

/* The guest's neighbours have to know it before they answer. */
static void announce(struct card *c)
{
    u8 f[42] = {0};
    const struct net_header plain = {0};
    memset(f, 0xff, 6);
    memcpy(f + 6, guest_mac, 6);
    be16(f + 12, 0x0806);
    static const u8 ask[] = {0, 1, 8, 0, 6, 4, 0, 1};
    memcpy(f + 14, ask, sizeof(ask));
    memcpy(f + 22, guest_mac, 6);
    be32(f + 28, GUEST);
    be32(f + 38, ROUTER);
    put_frame(c, &plain, f, sizeof(f));
    do
        assert_true(get_frame(c, PATIENCE_MS));
    while (get16(c->frame + 12) != 0x0806);
    assert_int_equal(get16(c->frame + 20), 2); /* a reply, from the router */
    assert_int_equal(get32(c->frame + 28), ROUTER);
    assert_memory_equal(c->frame, guest_mac, 6);
}

static int server(int type, u16 *port)
{
    struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
    socklen_t len = sizeof(a);
    int s = socket(AF_INET, type | SOCK_CLOEXEC, 0);
    assert_true(s >= 0 && bind(s, (struct sockaddr *)&a, sizeof(a)) == 0);
    if (type == SOCK_STREAM)
        assert_int_equal(listen(s, 4), 0);
    assert_int_equal(getsockname(s, (struct sockaddr *)&a, &len), 0);
    *port = ntohs(a.sin_port);
    return s;
}

static void await_fd(int fd)
{
    struct pollfd p = {.fd = fd, .events = POLLIN};
    assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
}

static void read_all(int fd, u8 *out, size_t len)
{
    for (size_t got = 0; got < len;) {
        await_fd(fd);
        ssize_t n = read(fd, out + got, len - got);
        assert_true(n > 0);
        got += (size_t)n;
    }
}

/* --- user mode --- */

static void user_card(struct card *c, bool host)
{
    struct error e = {0};
    const struct net_job job = {.kind = NET_USER, .host_loopback = host};
    if (!have_user()) {
        print_message("# skipped: no libslirp\n");
        skip();
    }
    if (card_start(c, &job, &e) < 0)
        fail_msg("%s", e.msg);
    announce(c);
}

static void dhcp(void **state)
{
    static struct card c;
    u8 f[400] = {0};
    user_card(&c, false);
    const struct net_header plain = {0};
    u8 *u = ip_frame(f, 0xffffffff, 17, 8 + 244 + 8);
    be32(f + 26, 0);
    be16(f + 24, 0);
    be16(f + 24, (u16)~fold(add_up(f + 14, 20, 0)));
    be16(u, 68);
    be16(u + 2, 67);
    be16(u + 4, 8 + 244 + 8);
    u8 *d = u + 8;
    d[0] = 1;
    d[1] = 1;
    d[2] = 6;
    be32(d + 4, 0x12345678);
    memcpy(d + 28, guest_mac, 6);
    be32(d + 236, 0x63825363);
    static const u8 discover[] = {53, 1, 1, 255};
    memcpy(d + 240, discover, sizeof(discover));
    put_frame(&c, &plain, f, 34 + 8 + 244 + 8);
    do
        assert_true(get_frame(&c, PATIENCE_MS));
    while (get16(c.frame + 12) != 0x0800 || get16(c.frame + 36) != 68);
    const u8 *r = c.frame + 42;
    assert_int_equal(r[0], 2);
    assert_int_equal(get32(r + 4), 0x12345678);
    assert_int_equal(get32(r + 16), GUEST);
    card_stop(&c);
}

/* Much data both ways, in segments larger than any Ethernet has; the checksums of ours are left to the back end. */
static void tcp(void **state)
{
    static struct card c;
    static u8 data[40000], back[40000];
    u16 port;
    user_card(&c, true);
    wire_set_takes(&c.wire, NET_TAKES_CSUM);
    int s = server(SOCK_STREAM, &port);
    for (u32 i = 0; i < sizeof(data); i++)
        data[i] = (u8)(i * 7 + i / 256);
    send_tcp(&c, ROUTER, 4000, port, 1000, 0, SYN, NULL, 0);
    const u8 *t = await_tcp(&c, 4000, SYN | ACK, PATIENCE_MS);
    assert_non_null(t);
    assert_int_equal(c.h.flags, NET_DATA_VALID);
    u32 theirs = get32(t + 4) + 1;
    assert_int_equal(get32(t + 8), 1001);
    send_tcp(&c, ROUTER, 4000, port, 1001, theirs, ACK, NULL, 0);
    await_fd(s);
    int a = accept(s, NULL, NULL);
    assert_true(a >= 0);
    send_tcp(&c, ROUTER, 4000, port, 1001, theirs, ACK, data, sizeof(data));
    read_all(a, back, sizeof(back));
    assert_memory_equal(data, back, sizeof(data));
    assert_int_equal(write(a, data, sizeof(data)), sizeof(data));
    memset(back, 0, sizeof(back));
    for (u32 got = 0; got < sizeof(data);) {
        t = await_tcp(&c, 4000, ACK, PATIENCE_MS);
        assert_non_null(t);
        u32 head = 4u * (t[12] >> 4), len = get16(c.frame + 16) - 20 - head, at = get32(t + 4) - theirs;
        if (!len)
            continue;
        assert_true(at + len <= sizeof(back));
        memcpy(back + at, t + head, len);
        got = MAX(got, at + len);
        send_tcp(&c, ROUTER, 4000, port, 1001 + sizeof(data), theirs + got, ACK, NULL, 0);
    }
    assert_memory_equal(data, back, sizeof(data));
    close(a);
    assert_non_null(await_tcp(&c, 4000, FIN, PATIENCE_MS));
    close(s);
    /* what is sent to a peer that has gone is refused by it, twice; libslirp lives */
    for (u32 i = 0; i < 3; i++) {
        send_tcp(&c, ROUTER, 4000, port, 1001 + sizeof(data) + i, theirs + sizeof(data) + 1, ACK, "x", 1);
        get_frame(&c, 100);
    }
    announce(&c);
    card_stop(&c);
}

static void udp(void **state)
{
    static struct card c;
    u8 f[100], got[16];
    u16 port;
    const struct net_header plain = {0};
    struct sockaddr_in from;
    socklen_t len = sizeof(from);
    user_card(&c, true);
    int s = server(SOCK_DGRAM, &port);
    u8 *u = ip_frame(f, ROUTER, 17, 8 + 5);
    be16(u, 5000);
    be16(u + 2, port);
    be16(u + 4, 13);
    be16(u + 6, 0);
    memcpy(u + 8, "hello", 5);
    put_frame(&c, &plain, f, 34 + 13);
    await_fd(s);
    assert_int_equal(recvfrom(s, got, sizeof(got), 0, (struct sockaddr *)&from, &len), 5);
    assert_memory_equal(got, "hello", 5);
    assert_int_equal(sendto(s, "world!", 6, 0, (struct sockaddr *)&from, len), 6);
    do
        assert_true(get_frame(&c, PATIENCE_MS));
    while (get16(c.frame + 12) != 0x0800 || c.frame[23] != 17);
    assert_int_equal(get16(c.frame + 36), 5000);
    assert_memory_equal(c.frame + 42, "world!", 6);
    close(s);
    card_stop(&c);
}

/* Nothing leads to what the host serves for itself, unless asked for; and its own names for it never do. */
static void loopback_is_closed(void **state)
{
    static struct card c;
    u16 port;
    int s = server(SOCK_STREAM, &port);
    struct pollfd p = {.fd = s, .events = POLLIN};
    for (unsigned host = 0; host < 2; host++) {
        static const u32 to[] = {INADDR_LOOPBACK, INADDR_LOOPBACK + 5, 0, ROUTER};
        user_card(&c, host);
        for (u16 i = 0; i < (host ? 3 : 4); i++) {
            send_tcp(&c, to[i], (u16)(4000 + i), port, 1000, 0, SYN, NULL, 0);
            assert_null(await_tcp(&c, (u16)(4000 + i), SYN | ACK, 100));
        }
        assert_int_equal(poll(&p, 1, 0), 0);
        card_stop(&c);
    }
    close(s);
}

/* A port of this host that nobody has: bound once, to know its number. */
static u16 free_port(int type)
{
    u16 port;
    close(server(type, &port));
    return port;
}

static void forwarded_port(void **state)
{
    static struct card c;
    struct error e = {0};
    struct net_job job = {.kind = NET_USER, .n_forwards = 1};
    if (!have_user())
        skip();
    struct net_forward *f = &job.forward[0];
    *f = (struct net_forward){.address = "127.0.0.1", .host_port = free_port(SOCK_STREAM), .guest_port = 80};
    if (card_start(&c, &job, &e) < 0)
        fail_msg("%s", e.msg);
    announce(&c);
    struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK), .sin_port = htons(f->host_port)};
    int s = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
    assert_int_equal(connect(s, (struct sockaddr *)&a, sizeof(a)), 0);
    const u8 *t = await_tcp(&c, 80, SYN, PATIENCE_MS);
    assert_non_null(t);
    assert_int_equal(get32(c.frame + 30), GUEST);
    close(s);
    /* a second one can not have it, and is told who does */
    static struct card d;
    assert_int_equal(card_start(&d, &job, &e), -EADDRINUSE);
    char number[16];
    snprintf(number, sizeof(number), "port %u", f->host_port);
    assert_non_null(strstr(e.msg, number));
    assert_non_null(strstr(e.msg, "trapeze-net (pid "));
    card_stop(&c);
    /* and then it can: nothing is left of the first */
    e = (struct error){0};
    if (card_start(&c, &job, &e) < 0)
        fail_msg("%s", e.msg);
    card_stop(&c);
}

/* Junk of every length: the process lives, and answers. */
static void junk(void **state)
{
    static struct card c;
    static u8 f[NET_FRAME_MAX];
    u64 seed = 42;
    user_card(&c, true);
    for (unsigned i = 0; i < 3000; i++) {
        seed = seed * 6364136223846793005ull + 1442695040888963407ull;
        u32 len = NET_FRAME_MIN + (u32)(seed >> 40) % (i % 16 ? 300 : NET_FRAME_MAX - NET_FRAME_MIN);
        static const u16 types[] = {0x0800, 0x0806, 0x86dd, 0x88f8};
        static const u8 protocols[] = {1, 6, 17, 58};
        for (u32 k = 0; k < len; k++)
            f[k] = (u8)(seed >> (k % 57)) ^ (u8)(k * 31);
        ip_frame(f, (u32)(seed >> 20) % 3 ? ROUTER : (u32)seed, protocols[seed >> 33 & 3], len > 34 ? len - 34 : 0);
        be16(f + 12, types[seed >> 35 & 3]);
        if (types[seed >> 35 & 3] == 0x86dd)
            f[14] = 0x60;
        struct net_header h = {
            .flags = (u8)(seed >> 50 & 7), .csum_start = (u16)(seed >> 48), .csum_offset = (u16)(seed >> 60)};
        u8 *p = wire_reserve(&c.wire, len);
        if (p) {
            memcpy(p, f, len);
            wire_commit(&c.wire, &h, len);
        }
        host_event_signal(c.back.wake_fd);
        while (get_frame(&c, p ? 0 : 20))
            ;
    }
    while (get_frame(&c, 200))
        ;
    announce(&c);
    card_stop(&c);
}

/* --- switch --- */

static void join(struct card *c, unsigned n, u32 takes)
{
    struct error e = {0};
    const struct net_job job = {.kind = NET_SWITCH, .name = "test"};
    if (card_start(c, &job, &e) < 0)
        fail_msg("%s", e.msg);
    c->mac[5] = (u8)n;
    wire_set_takes(&c->wire, takes);
    for (int i = 0; i < 1000 && !wire_link(&c->wire); i++)
        poll(NULL, 0, 10);
    assert_true(wire_link(&c->wire));
}

static void send_to(struct card *from, const u8 *to, u32 len, const struct net_header *h)
{
    static u8 f[NET_FRAME_MAX];
    memset(f, (int)len, len);
    memcpy(f, to, 6);
    memcpy(f + 6, from->mac, 6);
    put_frame(from, h, f, len);
}

static void machines_on_a_switch(void **state)
{
    static struct card a, b, c;
    static const u8 everybody[6] = {255, 255, 255, 255, 255, 255};
    const struct net_header plain = {0};
    join(&a, 1, 0);
    join(&b, 2, NET_TAKES_ALL);
    join(&c, 3, 0);
    send_to(&a, everybody, 100, &plain);
    assert_true(get_frame(&b, PATIENCE_MS) && b.len == 100);
    assert_true(get_frame(&c, PATIENCE_MS) && c.len == 100);
    send_to(&b, a.mac, 200, &plain); /* known: to one port only */
    assert_true(get_frame(&a, PATIENCE_MS) && a.len == 200);
    send_to(&c, b.mac, 300, &plain);
    assert_true(get_frame(&b, PATIENCE_MS) && b.len == 300);
    assert_false(get_frame(&c, 50));
    assert_false(get_frame(&a, 50));
    /* one that brings nonsense loses its port; the others go on */
    struct net_header *lane = (struct net_header *)(void *)c.wire.out.data;
    memset(lane, 0xee, 64);
    __atomic_store_n(&c.wire.out.shared->head, 0x12345678, __ATOMIC_RELEASE);
    host_event_signal(c.back.wake_fd);
    struct pollfd p = {.fd = c.back.control, .events = POLLIN};
    assert_int_equal(poll(&p, 1, PATIENCE_MS), 1);
    send_to(&a, b.mac, 400, &plain);
    assert_true(get_frame(&b, PATIENCE_MS) && b.len == 400);
    card_stop(&c);
    card_stop(&b);
    card_stop(&a);
    /* the last has left: it ends, and takes its socket with it */
    char path[100];
    snprintf(path, sizeof(path), "%s/test.socket", dir);
    for (int i = 0; i < 1000 && access(path, F_OK) == 0; i++)
        poll(NULL, 0, 10);
    assert_int_equal(access(path, F_OK), -1);
    join(&a, 1, 0); /* and comes back */
    card_stop(&a);
}

/* --- large segments --- */

static u32 make_segment(u8 *f, u32 data, struct net_header *h)
{
    u8 *t = ip_frame(f, ROUTER, 6, 32 + data);
    memset(t, 0, 32);
    be16(f + 18, 0xfffe); /* identification: wraps */
    be16(t, 1);
    be16(t + 2, 2);
    be32(t + 4, 0xfffffe00); /* so does the sequence */
    t[12] = 0x80;
    t[13] = FIN | 8 | ACK | 0x80;
    for (u32 i = 0; i < data; i++)
        t[32 + i] = (u8)(i * 11);
    *h = (struct net_header){.flags = NET_NEEDS_CSUM,
                             .gso_type = NET_GSO_TCP4,
                             .hdr_len = 66,
                             .gso_size = 1000,
                             .csum_start = 34,
                             .csum_offset = 16};
    return 66 + data;
}

struct pieces {
    u32 n, bytes, data;
};

static void check_piece(void *ctx, const u8 *f, u32 len)
{
    struct pieces *p = ctx;
    u32 n = MIN(1000u, p->data - p->bytes);
    assert_int_equal(len, 66 + n);
    assert_int_equal(get16(f + 16), len - 14);
    assert_int_equal(get16(f + 18), (0xfffe + p->n) & 0xffff);
    assert_int_equal(fold(add_up(f + 14, 20, 0)), 0xffff);
    assert_int_equal(fold(add_up(f + 34, len - 34, pseudo(f, len - 34))), 0xffff);
    assert_int_equal(get32(f + 38), 0xfffffe00 + p->bytes);
    bool last = p->bytes + n == p->data;
    assert_int_equal(f[47], ACK | (last ? FIN | 8 : 0) | (p->bytes ? 0 : 0x80));
    for (u32 i = 0; i < n; i++)
        assert_int_equal(f[66 + i], (u8)((p->bytes + i) * 11));
    p->bytes += n;
    p->n++;
}

static void segments(void **state)
{
    static u8 f[NET_FRAME_MAX], buf[NET_FRAME_MAX];
    struct net_header h;
    static const u32 sizes[] = {1, 999, 1000, 1001, 5500, 60000};
    for (unsigned i = 0; i < ARRAY_LEN(sizes); i++) {
        struct pieces p = {.data = sizes[i]};
        u32 len = make_segment(f, sizes[i], &h);
        assert_true(net_segment(f, len, &h, buf, check_piece, &p));
        assert_int_equal(p.bytes, sizes[i]);
    }
    /* what is no segment is not cut: every byte of the headers, wrong */
    u32 len = make_segment(f, 3000, &h);
    static const struct {
        u32 at;
        u8 value;
    } wrong[] = {{12, 0x86}, {14, 0x65}, {14, 0x4f}, {14, 0x44}, {23, 17}, {46, 0x40}};
    for (unsigned i = 0; i < ARRAY_LEN(wrong); i++) {
        make_segment(f, 3000, &h);
        f[wrong[i].at] = wrong[i].value;
        assert_false(net_segment(f, len, &h, buf, NULL, NULL));
    }
    make_segment(f, 3000, &h);
    assert_false(net_segment(f, 60, &h, buf, NULL, NULL)); /* its headers are cut short */
    h.gso_type = NET_GSO_TCP6;
    assert_false(net_segment(f, len, &h, buf, NULL, NULL));
}

/* On a switch, between one who sends them and one who does not take them. */
static void segments_on_a_switch(void **state)
{
    static struct card a, b;
    static u8 f[NET_FRAME_MAX];
    struct net_header h;
    join(&a, 1, NET_TAKES_ALL);
    join(&b, 2, 0);
    u32 len = make_segment(f, 5500, &h);
    put_frame(&a, &h, f, len);
    struct pieces p = {.data = 5500};
    while (p.bytes < p.data) {
        assert_true(get_frame(&b, PATIENCE_MS));
        assert_int_equal(b.h.flags | b.h.gso_type, 0);
        check_piece(&p, b.frame, b.len);
    }
    wire_set_takes(&b.wire, NET_TAKES_ALL);
    put_frame(&a, &h, f, len);
    assert_true(get_frame(&b, PATIENCE_MS));
    assert_int_equal(b.len, len);
    assert_memory_equal(&b.h, &h, sizeof(h));
    card_stop(&a);
    card_stop(&b);
}

static void odd_checksums(void **state)
{
    u8 f[64];
    for (u32 len = 40; len <= 61; len++) {
        u8 *u = ip_frame(f, ROUTER, 17, len - 34);
        struct net_header h = {.flags = NET_NEEDS_CSUM, .csum_start = 34, .csum_offset = 4};
        for (u32 i = 0; i < len - 34; i++)
            u[i] = (u8)(250 - i);
        be16(u + 4, fold(pseudo(f, len - 34)));
        net_finish_checksum(f, len, &h);
        assert_int_equal(fold(add_up(u, len - 34, pseudo(f, len - 34))), 0xffff);
    }
}

static int make_dir(void **state)
{
    return mkdtemp(dir) ? 0 : -1;
}

static int remove_dir(void **state)
{
    char path[100];
    for (int i = 0; i < 500; i++) { /* the switch is ending */
        snprintf(path, sizeof(path), "%s/test.socket", dir);
        if (access(path, F_OK) < 0)
            break;
        poll(NULL, 0, 10);
    }
    snprintf(path, sizeof(path), "%s/test.lock", dir);
    unlink(path);
    return rmdir(dir);
}

int main(int argc, char **argv)
{
    if (argc > 1 && !strcmp(argv[1], NET_ARG))
        return net_main(argc, argv);
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(dhcp),
        cmocka_unit_test(tcp),
        cmocka_unit_test(udp),
        cmocka_unit_test(loopback_is_closed),
        cmocka_unit_test(forwarded_port),
        cmocka_unit_test(junk),
        cmocka_unit_test(segments),
        cmocka_unit_test(odd_checksums),
        cmocka_unit_test(machines_on_a_switch),
        cmocka_unit_test(segments_on_a_switch),
    };
    return cmocka_run_group_tests(tests, make_dir, remove_dir);
}
