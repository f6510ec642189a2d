/*
 * User mode: a network without privileges. libslirp ends the guest's connections here and makes them again with sockets of
 * this user; it also is the guest's router, its DHCP server and its way to the host's DNS.
 *
 *   10.0.2.15    the guest (of the first card; the next one's network is 10.0.3.0/24, ...)      fec0::/64, by advertisement
 *   10.0.2.2     router; with `host`, what the host serves on its loopback addresses             fec0::2
 *   10.0.2.3     DNS: goes to the first server of the host's /etc/resolv.conf                    fec0::3
 *
 *   wire ──copy──> private ──filter, checksum──> slirp_input ──> sockets
 *   wire <──────── queue (bounded) <──────────── send_packet <── poll
 *
 * Large frames make it fast. Both sides' TCP ends here, so nothing beyond sees the size of frames: the guest is told an MTU of
 * 65520, and a segment crosses each step at once. Checksums of what the guest sends are finished here, and what it gets is
 * marked as valid.
 *
 * Theory: trust. libslirp parses what a hostile guest sends, so it lives in this process alone, which has the seal of
 * host_seal_net_user: internet sockets, and no file. Should it be taken over, the attacker has what a guest has by design, a
 * network with this user's addresses, and the host's loopback. That is why addresses in 127.0.0.0/8 and ::1, with which a
 * guest could name the host's loopback itself, are dropped before libslirp sees them, always; `host` opens 10.0.2.2 and fec0::2 only.
 *
 * A container has an interface in its network namespace instead of a card (network/user.c): its frames come and go behind the same
 * header, read and written by this process, on a tap or a packet socket. They are trusted no more than a guest's.
 *
 *   tap ──readv──> private ──filter, checksum──> slirp_input        tap <──writev── send_packet, or the queue
 *
 * The library is opened when the process starts (dlopen): the sealed cell, which is the same program, does not carry it.
 *
 * Not done: ports on IPv6 addresses of the host; a change of the host's DNS server while a machine runs (the copy of resolv.conf stays), multicast, TFTP.
 */
#include "backend/net/net.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <netinet/in.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#ifdef HAVE_SLIRP
#include <slirp/libslirp.h>

#define LIBRARY     "libslirp.so.0"
#define QUEUE_MAX   (4u << 20) /* bytes that wait for room on the wire */
#define BATCH       64u
#define TAP_HEADER  10u /* of a tap or a packet socket: net_header without num_buffers */
#define RESOLV_CONF "/etc/resolv.conf"
#define NS_PER_MS   1000000ull

/* X-macro: what is used of the library */
#define FUNCTIONS(X) \
    X(slirp_new) X(slirp_pollfds_fill) X(slirp_pollfds_poll) X(slirp_input) X(slirp_handle_timer) X(slirp_add_hostxfwd)

struct library {
#define X(name) __typeof__(&name) name;
    FUNCTIONS(X)
#undef X
};

/* A frame that found no room on the wire. */
struct waiting {
    struct waiting *next;
    u32 len;
    u8 data[];
};

struct user {
    struct net_life *life;
    struct library lib;
    Slirp *slirp;
    struct pollfd *fds; /* wake, control, then libslirp's */
    unsigned n_fds, cap_fds;
    u64 timer_at[SLIRP_TIMER_NUM]; /* ms; UINT64_MAX: off */
    void *timer_opaque[SLIRP_TIMER_NUM];
    struct waiting *first, **last;
    u32 queued; /* bytes */
    int tap;    /* instead of the wire; -1: none, or gone with its namespace */
    u8 frame[NET_FRAME_MAX];
};

enum { POLL_WAKE, POLL_CONTROL, POLL_SLIRP };

/* --- to the guest --- */

/* What the kernel does not take (a container that ends) is lost as on any cable. */
static bool put_tap(struct user *u, const void *data, u32 len)
{
    struct net_count *n = u->life->port.count;
    struct net_header h = {.flags = NET_DATA_VALID};
    const struct iovec v[] = {{&h, TAP_HEADER}, {(void *)(uintptr_t)data, len}};
    ssize_t r = u->tap < 0 ? -1 : writev(u->tap, v, 2);
    if (r < 0 && u->tap >= 0 && errno == EAGAIN)
        return false;
    n->received += r > 0;
    n->received_bytes += r > 0 ? len : 0;
    n->dropped += r < 0;
    return true;
}

static bool put(struct user *u, const void *data, u32 len)
{
    struct net_port *p = &u->life->port;
    if (u->life->job.on_tap)
        return put_tap(u, data, len);
    const struct net_header h = {.flags = wire_takes(&p->wire) & NET_TAKES_CSUM ? NET_DATA_VALID : 0};
    u8 *place = wire_reserve(&p->wire, len);
    if (!place)
        return false;
    memcpy(place, data, len);
    wire_commit(&p->wire, &h, len);
    p->count->received++;
    p->count->received_bytes += len;
    return true;
}

static ssize_t send_packet(const void *data, size_t len, void *opaque)
{
    struct user *u = opaque;
    if (len < NET_FRAME_MIN || len > NET_FRAME_MAX)
        return -1;
    if (!u->first && put(u, data, (u32)len))
        return (ssize_t)len;
    struct waiting *w = u->queued + len <= QUEUE_MAX ? malloc(sizeof(*w) + len) : NULL;
    if (!w) {
        u->life->port.count->dropped++;
        return (ssize_t)len;
    }
    w->next = NULL;
    w->len = (u32)len;
    memcpy(w->data, data, len);
    *u->last = w;
    u->last = &w->next;
    u->queued += w->len;
    return (ssize_t)len;
}

/* What waits goes first; whether nothing waits any more. */
static bool drain(struct user *u)
{
    while (u->first && put(u, u->first->data, u->first->len)) {
        struct waiting *w = u->first;
        u->first = w->next;
        u->queued -= w->len;
        if (!u->first)
            u->last = &u->first;
        free(w);
    }
    return !u->first;
}

/* --- from the guest --- */

/* Whether a frame names the host's loopback as where it goes. */
static bool names_loopback(const u8 *f, u32 len)
{
    static const u8 mapped[12] = {[10] = 0xff, [11] = 0xff}, zero[15] = {0};
    unsigned type = (unsigned)(f[12] << 8 | f[13]);
    if (type == 0x0800 && len >= 34)
        return f[30] == 127 || f[30] == 0;
    if (type != 0x86dd || len < 54)
        return false;
    const u8 *to = f + 38;
    return !memcmp(to, zero, 15) || !memcmp(to, mapped, 12); /* :: and ::1, ::ffff:a.b.c.d */
}

/* A frame that is in u->frame. */
static void take(struct user *u, struct net_header *h, u32 len)
{
    struct net_count *n = u->life->port.count;
    if (!net_header_check(h, len, NET_TAKES_CSUM) || names_loopback(u->frame, len)) {
        n->dropped++;
        return;
    }
    if (h->flags & NET_NEEDS_CSUM)
        net_finish_checksum(u->frame, len, h);
    n->sent++;
    n->sent_bytes += len;
    u->lib.slirp_input(u->slirp, u->frame, (int)len);
}

/* Whether a batch's worth was there. */
static bool take_from_tap(struct user *u)
{
    struct net_header h = {0};
    const struct iovec v[] = {{&h, TAP_HEADER}, {u->frame, sizeof(u->frame)}};
    unsigned n = 0;
    for (; n < BATCH && !u->first && u->tap >= 0; n++) {
        ssize_t r = readv(u->tap, v, 2);
        if (r < 0 && errno != EAGAIN && errno != EINTR)
            u->tap = -1; /* its namespace has ended */
        if (r < 0)
            break;
        u32 len = (u32)(r - (ssize_t)MIN((size_t)r, TAP_HEADER));
        if (len >= NET_FRAME_MIN)
            take(u, &h, len);
        else
            u->life->port.count->dropped++;
    }
    return n == BATCH;
}

/* Whether a batch's worth was there. */
static bool take_frames(struct user *u)
{
    struct net_port *p = &u->life->port;
    struct wire_frame f;
    unsigned n = 0;
    if (u->life->job.on_tap)
        return take_from_tap(u);
    wire_look(&p->wire);
    for (; n < BATCH && !u->first && wire_peek(&p->wire, &f); n++) {
        struct net_header h = f.h;
        memcpy(u->frame, f.data, f.len);
        take(u, &h, f.len);
        wire_release(&p->wire, &f);
    }
    return n == BATCH;
}

/* --- what libslirp asks for --- */

static int64_t clock_get_ns(void *opaque)
{
    return (int64_t)host_ns(NULL);
}

static void guest_error(const char *msg, void *opaque)
{
}

static void *timer_new_opaque(SlirpTimerId id, void *cb_opaque, void *opaque)
{
    struct user *u = opaque;
    u->timer_at[id] = UINT64_MAX;
    u->timer_opaque[id] = cb_opaque;
    return &u->timer_at[id];
}

static void timer_free(void *timer, void *opaque)
{
    *(u64 *)timer = UINT64_MAX;
}

static void timer_mod(void *timer, int64_t expire_time, void *opaque)
{
    *(u64 *)timer = (u64)expire_time;
}

static void poll_fd(int fd, void *opaque)
{
}

static void notify(void *opaque)
{
}

static const SlirpCb callbacks = {
    .send_packet = send_packet,
    .guest_error = guest_error,
    .clock_get_ns = clock_get_ns,
    .timer_new_opaque = timer_new_opaque,
    .timer_free = timer_free,
    .timer_mod = timer_mod,
    .register_poll_fd = poll_fd,
    .unregister_poll_fd = poll_fd,
    .notify = notify,
};

/* libslirp's events and poll's. */
static const struct {
    int slirp;
    short poll;
} events[] = {{SLIRP_POLL_IN, POLLIN},
              {SLIRP_POLL_OUT, POLLOUT},
              {SLIRP_POLL_PRI, POLLPRI},
              {SLIRP_POLL_ERR, POLLERR},
              {SLIRP_POLL_HUP, POLLHUP}};

static int add_poll(int fd, int wanted, void *opaque)
{
    struct user *u = opaque;
    if (u->n_fds == u->cap_fds) {
        unsigned cap = 2 * u->cap_fds;
        struct pollfd *p = realloc(u->fds, cap * sizeof(*p));
        if (!p)
            return -1;
        u->fds = p;
        u->cap_fds = cap;
    }
    struct pollfd *p = &u->fds[u->n_fds];
    *p = (struct pollfd){.fd = fd};
    for (size_t i = 0; i < 3; i++) /* error and hang-up come unasked */
        p->events |= wanted & events[i].slirp ? events[i].poll : (short)0;
    return (int)u->n_fds++;
}

static int get_revents(int i, void *opaque)
{
    const struct user *u = opaque;
    int got = 0;
    for (size_t k = 0; i >= 0 && (unsigned)i < u->n_fds && k < ARRAY_LEN(events); k++)
        got |= u->fds[i].revents & events[k].poll ? events[k].slirp : 0;
    return got;
}

/* --- the loop --- */

static void run_timers(struct user *u)
{
    u64 now = host_ns(NULL) / NS_PER_MS;
    for (unsigned i = 0; i < SLIRP_TIMER_NUM; i++)
        if (u->timer_at[i] <= now) {
            u->timer_at[i] = UINT64_MAX;
            u->lib.slirp_handle_timer(u->slirp, (SlirpTimerId)i, u->timer_opaque[i]);
        }
}

/* Milliseconds until something is due, -1: nothing. */
static int time_left(const struct user *u, u32 limit)
{
    u64 now = host_ns(NULL) / NS_PER_MS, left = limit;
    for (unsigned i = 0; i < SLIRP_TIMER_NUM; i++)
        if (u->timer_at[i] != UINT64_MAX)
            left = MIN(left, u->timer_at[i] > now ? u->timer_at[i] - now : 0);
    return left >= UINT32_MAX ? -1 : (int)MIN(left, (u64)INT32_MAX);
}

/* The same with a tap: the kernel says when it has frames, or room. */
static bool sleep_on_tap(struct user *u, bool busy, bool open)
{
    u32 limit = UINT32_MAX;
    u->n_fds = POLL_SLIRP;
    u->fds[POLL_WAKE] = (struct pollfd){.fd = u->tap, .events = open ? POLLIN : POLLOUT};
    u->fds[POLL_CONTROL] = (struct pollfd){.fd = u->life->control, .events = POLLIN};
    if (open)
        u->lib.slirp_pollfds_fill(u->slirp, &limit, add_poll, u);
    int n = poll(u->fds, u->n_fds, busy ? 0 : time_left(u, limit));
    if (u->fds[POLL_WAKE].revents & (POLLERR | POLLNVAL))
        u->tap = -1;
    if (open)
        u->lib.slirp_pollfds_poll(u->slirp, n < 0, get_revents, u);
    return !u->fds[POLL_CONTROL].revents;
}

/* Sleep until something happens; libslirp's sockets are looked at unless frames wait. */
static bool sleep_on(struct user *u, bool busy, bool open)
{
    struct net_port *p = &u->life->port;
    u32 limit = UINT32_MAX;
    if (u->life->job.on_tap)
        return sleep_on_tap(u, busy, open);
    u->n_fds = POLL_SLIRP;
    u->fds[POLL_WAKE] = (struct pollfd){.fd = p->wake, .events = POLLIN};
    u->fds[POLL_CONTROL] = (struct pollfd){.fd = u->life->control, .events = POLLIN};
    if (open)
        u->lib.slirp_pollfds_fill(u->slirp, &limit, add_poll, u);
    ring_door_close(p->wire.own);
    bool idle = !busy && !(open ? wire_pending(&p->wire) : wire_reserve(&p->wire, NET_FRAME_MAX) != NULL);
    int n = poll(u->fds, u->n_fds, idle ? time_left(u, limit) : 0);
    ring_door_open(p->wire.own);
    if (u->fds[POLL_WAKE].revents)
        host_event_clear(p->wake);
    if (open)
        u->lib.slirp_pollfds_poll(u->slirp, n < 0, get_revents, u);
    return !u->fds[POLL_CONTROL].revents;
}

static void signal_peer(struct user *u)
{
    if (!u->life->job.on_tap)
        net_port_signal(&u->life->port);
}

static void serve(struct user *u)
{
    bool on = true;
    while (on) {
        bool open = drain(u);
        bool busy = open && take_frames(u);
        run_timers(u);
        signal_peer(u);
        on = sleep_on(u, busy, open && drain(u));
        signal_peer(u);
    }
}

/* --- start --- */

static int open_library(struct library *lib, struct error *e)
{
    void *so = dlopen(LIBRARY, RTLD_NOW | RTLD_LOCAL);
    if (!so)
        return error_set(e, ENOSYS,
                         "--network user: %s is not on this host; as root: apt-get install libslirp0, or start with "
                         "--network none",
                         LIBRARY);
#define X(name)                                                 \
    if (!(lib->name = (__typeof__(lib->name))dlsym(so, #name))) \
        return error_set(e, ENOSYS, "--network user: %s has no " #name "; 4.7 or newer is needed", LIBRARY);
    FUNCTIONS(X)
#undef X
    return 0;
}

static int make_slirp(struct user *u, struct error *e)
{
    const struct net_job *j = &u->life->job;
    u32 net = 0x0a000200u + (j->number << 8); /* 10.0.2.0 */
    SlirpConfig c = {.version = 4,
                     .in_enabled = true,
                     .vnetwork.s_addr = htonl(net),
                     .vnetmask.s_addr = htonl(0xffffff00u),
                     .vhost.s_addr = htonl(net + 2),
                     .vnameserver.s_addr = htonl(net + 3),
                     .vdhcp_start.s_addr = htonl(net + 15),
                     .in6_enabled = true,
                     .vprefix_len = 64,
                     .vhostname = "trapeze",
                     .if_mtu = NET_MTU_MAX,
                     .if_mru = NET_MTU_MAX,
                     .disable_host_loopback = !j->host_loopback};
    struct in6_addr prefix = {.s6_addr = {0xfe, 0xc0, [7] = (u8)j->number}};
    c.vprefix_addr6 = c.vhost6 = c.vnameserver6 = prefix;
    c.vhost6.s6_addr[15] = 2;
    c.vnameserver6.s6_addr[15] = 3;
    u->slirp = u->lib.slirp_new(&c, &callbacks, u);
    return u->slirp ? 0 : error_set(e, ENOSYS, "--network user: %s does not start; 4.7 or newer is needed", LIBRARY);
}

static int explain_port(const struct net_forward *f, int error, struct error *e)
{
    char holder[64], port[64];
    snprintf(port, sizeof(port), "%s%s%u:%u%s", f->address, f->address[0] ? ":" : "", f->host_port, f->guest_port,
             f->udp ? "/udp" : "");
    if (error == EADDRINUSE) {
        net_port_holder(f->udp, f->host_port, holder, sizeof(holder));
        return error_set(e, error, "--publish %s: port %u is in use%s%s; choose another", port, f->host_port,
                         holder[0] ? " by " : "", holder);
    }
    if (error == EACCES)
        return error_set(e, error, "--publish %s: port %u needs privileges; choose one above 1023", port, f->host_port);
    if (error == EADDRNOTAVAIL)
        return error_set(e, error, "--publish %s: this host has no address %s", port, f->address);
    return error_set(e, error, "--publish %s: %s", port, strerror(error));
}

/* libslirp does not say why it can not; so it is tried before. 0 or an errno. */
static int try_port(const struct net_forward *f, const struct sockaddr_in *host)
{
    int one = 1, why = 0, s = socket(AF_INET, (f->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (s < 0)
        return errno;
    if (!f->udp)
        setsockopt(s, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(s, (const struct sockaddr *)host, sizeof(*host)) < 0 || (!f->udp && listen(s, 1) < 0))
        why = errno;
    close(s);
    return why;
}

static int add_forward(struct user *u, const struct net_forward *f, struct error *e)
{
    struct sockaddr_in host = {.sin_family = AF_INET, .sin_port = htons(f->host_port)};
    struct sockaddr_in guest = {.sin_family = AF_INET, .sin_port = htons(f->guest_port)}; /* who DHCP serves first */
    int why = f->address[0] && inet_pton(AF_INET, f->address, &host.sin_addr) != 1 ? EINVAL : try_port(f, &host);
    if (!why && u->lib.slirp_add_hostxfwd(u->slirp, (struct sockaddr *)&host, sizeof(host), (struct sockaddr *)&guest,
                                          sizeof(guest), f->udp ? SLIRP_HOSTFWD_UDP : 0) < 0)
        why = errno ? errno : EINVAL;
    return why ? explain_port(f, why, e) : 0;
}

const char *net_user_missing(void)
{
    void *so = dlopen(LIBRARY, RTLD_LAZY | RTLD_LOCAL);
    if (so)
        dlclose(so);
    return so ? NULL : LIBRARY " is not on this host";
}

int net_user_run(struct net_life *l, struct error *e)
{
    struct user *u = calloc(1, sizeof(*u));
    if (!u || !(u->fds = calloc(u->cap_fds = 64, sizeof(*u->fds))))
        return error_set(e, ENOMEM, "--network user: out of memory");
    u->life = l;
    u->last = &u->first;
    u->tap = l->job.on_tap ? NET_FD_WIRE : -1;
    for (unsigned i = 0; i < SLIRP_TIMER_NUM; i++)
        u->timer_at[i] = UINT64_MAX;
    int r = open_library(&u->lib, e);
    if (r < 0 || (r = make_slirp(u, e)) < 0)
        return r;
    for (unsigned i = 0; i < l->job.n_forwards; i++)
        if ((r = add_forward(u, &l->job.forward[i], e)) < 0)
            return r;
    if ((r = host_stand_in(RESOLV_CONF, e)) < 0 || (r = host_confine(false, e)) < 0 ||
        (r = host_seal_net_user(u->tap, e)) < 0)
        return r;
    net_ready(l, e);
    serve(u);
    return 0;
}

#else

const char *net_user_missing(void)
{
    return "this program was built without libslirp";
}

int net_user_run(struct net_life *l, struct error *e)
{
    return error_set(
        e, ENOSYS,
        "--network user: this program was built without libslirp; install libslirp-dev and build it again, or "
        "start with --network none");
}

#endif
