/*
 * Taps: a card that is a network interface of the host.
 *
 * Frames go between wire and kernel in place: writev from the lane, readv into it, behind a header of which we hold the
 * checked copy. The kernel does what the guest leaves undone (checksums, cutting large segments), and hands over as large as the
 * guest takes; it is told anew whenever that changes (TUNSETOFFLOAD).
 *
 * A tap that does not exist is made when this user may; it goes away with this process. One that an administrator made for this
 * user (ip tuntap add dev NAME mode tap user USER) stays.
 *
 * Not done: several queues, vhost-net.
 */
#include "backend/net/net.h"
#include "base/vigil.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/uio.h>
#include <unistd.h>

#define BATCH          32u
#define LOOKS_AT_A_TAP 16 /* looks for an answer to one at the kernel's queue: that one is a system call */

struct tap {
    struct net_life *life;
    int fd;
    u32 takes;          /* as the kernel was told */
    bool blocked;       /* the kernel's queue is full */
    struct vigil vigil; /* for what the guest answers */
};

/* --- opening --- */

static int explain_open(const char *name, int error, struct error *e)
{
    if (error == EPERM || error == EACCES)
        return error_set(e, EPERM,
                         "--network tap:%s: not permitted to make or use it; as root: ip tuntap add dev %s mode tap "
                         "user %u && ip link set %s up",
                         name, name, (unsigned)getuid(), name);
    if (error == EBUSY)
        return error_set(e, EBUSY, "--network tap:%s: in use by another program; choose another interface", name);
    if (error == EINVAL)
        return error_set(e, EINVAL, "--network tap:%s: an interface of that name is there and is no tap", name);
    return error_set(e, error, "--network tap:%s: %s", name, strerror(error));
}

/* Bring it up, as far as this user may: one that an administrator made is up already, or will be. */
static void bring_up(int sock, const char *name)
{
    struct ifreq r = {0};
    snprintf(r.ifr_name, sizeof(r.ifr_name), "%.15s", name);
    if (ioctl(sock, SIOCGIFFLAGS, &r) == 0 && !(r.ifr_flags & IFF_UP)) {
        r.ifr_flags |= IFF_UP;
        ioctl(sock, SIOCSIFFLAGS, &r);
    }
}

static int add_to_bridge(int sock, const char *bridge, const char *name, struct error *e)
{
    struct ifreq port = {0}, r = {0};
    snprintf(port.ifr_name, sizeof(port.ifr_name), "%.15s", name);
    snprintf(r.ifr_name, sizeof(r.ifr_name), "%.15s", bridge);
    if (ioctl(sock, SIOCGIFINDEX, &port) == 0) {
        r.ifr_ifindex = port.ifr_ifindex;
        if (ioctl(sock, SIOCBRADDIF, &r) == 0)
            return 0;
    }
    if (errno == ENODEV || errno == EOPNOTSUPP)
        return error_set(e, ENODEV,
                         "--network bridge:%s: there is no bridge of that name; as root: ip link add %s type bridge",
                         bridge, bridge);
    return error_set(e, errno, "--network bridge:%s: %s can not become a port of it: %s", bridge, name,
                     strerror(errno));
}

static int explain_bridge(const char *bridge, struct error *e)
{
    return error_set(e, EPERM,
                     "--network bridge:%s: not permitted to make a tap; as root: ip tuntap add dev tap0 mode tap user "
                     "%u && ip link set tap0 master %s up, and then --network tap:tap0",
                     bridge, (unsigned)getuid(), bridge);
}

static int open_tap(struct tap *t, struct error *e)
{
    struct net_life *l = t->life;
    bool bridge = l->job.kind == NET_BRIDGE;
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR};
    int header = sizeof(struct net_header);
    t->fd = open("/dev/net/tun", O_RDWR | O_NONBLOCK | O_CLOEXEC);
    if (t->fd < 0 && (errno == EACCES || errno == EPERM))
        return error_set(e, EPERM, "/dev/net/tun: %s; ask for permission, or use --network user", strerror(errno));
    if (t->fd < 0)
        return error_set(e, errno, "/dev/net/tun: %s; as root: modprobe tun", strerror(errno));
    memcpy(r.ifr_name, bridge ? "trapeze%d" : l->job.name, bridge ? 10 : strnlen(l->job.name, IFNAMSIZ - 1));
    if (ioctl(t->fd, TUNSETIFF, &r) < 0)
        return bridge && errno == EPERM ? explain_bridge(l->job.name, e) : explain_open(l->job.name, errno, e);
    snprintf(l->name, sizeof(l->name), "%.*s", IFNAMSIZ, r.ifr_name);
    if (ioctl(t->fd, TUNSETVNETHDRSZ, &header) < 0 || ioctl(t->fd, TUNSETOFFLOAD, 0) < 0)
        return error_set(e, errno, "--network tap:%s: %s; its driver is too old", l->name, strerror(errno));
    int sock = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0), rc = 0;
    if (sock < 0)
        return error_set(e, errno, "socket: %s", strerror(errno));
    if (bridge)
        rc = add_to_bridge(sock, l->job.name, l->name, e);
    bring_up(sock, l->name);
    close(sock);
    return rc;
}

/* --- frames --- */

static void tell_kernel(struct tap *t)
{
    u32 takes = wire_takes(&t->life->port.wire);
    if (takes == t->takes)
        return;
    unsigned flags = takes & NET_TAKES_CSUM ? TUN_F_CSUM : 0;
    if (flags)
        flags |= (takes & NET_TAKES_TSO4 ? TUN_F_TSO4 : 0) | (takes & NET_TAKES_TSO6 ? TUN_F_TSO6 : 0);
    t->takes = takes;
    ioctl(t->fd, TUNSETOFFLOAD,
          flags); /* refused: it goes on giving what it gave, and the cell drops what it can not use */
}

/* From the guest; whether a batch's worth was there. */
static bool send_frames(struct tap *t)
{
    struct net_port *p = &t->life->port;
    struct wire_frame f;
    unsigned n = 0;
    wire_look(&p->wire);
    for (t->blocked = false; n < BATCH && wire_peek(&p->wire, &f); n++) {
        f.h.num_buffers = 0;
        const struct iovec v[] = {{&f.h, sizeof(f.h)}, {(void *)(uintptr_t)f.data, f.len}};
        bool good = net_header_check(&f.h, f.len, NET_TAKES_ALL);
        ssize_t r = good ? writev(t->fd, v, 2) : -1;
        if (good && r < 0 && errno == EAGAIN) {
            t->blocked = true;
            break;
        }
        p->count->sent += r > 0;
        p->count->sent_bytes += r > 0 ? f.len : 0;
        p->count->dropped += r < 0; /* an interface that is down, a frame that the kernel refuses */
        wire_release(&p->wire, &f);
    }
    return n == BATCH;
}

/* To the guest; whether a batch's worth was there. `full`: the wire had no room. */
static bool receive_frames(struct tap *t, bool *full)
{
    struct net_port *p = &t->life->port;
    struct net_header h;
    unsigned n = 0;
    *full = false;
    for (; n < BATCH; n++) {
        u8 *place = wire_reserve(&p->wire, NET_FRAME_MAX);
        const struct iovec v[] = {{&h, sizeof(h)}, {place, NET_FRAME_MAX}};
        *full = !place;
        ssize_t r = place ? readv(t->fd, v, 2) : -1;
        if (r < 0)
            break;
        u32 len = (u32)(r - (ssize_t)MIN((size_t)r, sizeof(h)));
        if (len < NET_FRAME_MIN) {
            p->count->dropped++;
            continue;
        }
        wire_commit(&p->wire, &h, len);
        p->count->received++;
        p->count->received_bytes += len;
    }
    return n == BATCH;
}

/*
 * The guest has been given something, and its answer is likely to come soon: look on for it, instead of being woken. The door
 * is open, so the cell need not make a system call for it either.
 */
static void attend_guest(struct tap *t)
{
    struct net_port *p = &t->life->port;
    u64 limit = vigil_limit(&t->vigil);
    for (unsigned i = 0; host_ns(NULL) < limit && !wire_pending(&p->wire); i++) {
        struct pollfd f = {.fd = t->fd, .events = POLLIN};
        if (i % LOOKS_AT_A_TAP == LOOKS_AT_A_TAP - 1 && poll(&f, 1, 0) > 0)
            return;
        host_yield();
    }
}

static void serve(struct tap *t)
{
    struct net_port *p = &t->life->port;
    for (bool full, busy;;) {
        u64 sent = p->count->sent, received = p->count->received;
        tell_kernel(t);
        busy = send_frames(t);
        busy |= receive_frames(t, &full);
        net_port_signal(p);
        if (p->count->sent != sent)
            vigil_end(&t->vigil, host_ns(NULL));
        if (p->count->received != received) {
            vigil_begin(&t->vigil, host_ns(NULL));
            attend_guest(t);
        }
        struct pollfd fds[] = {
            {.fd = p->wake, .events = POLLIN},
            {.fd = t->life->control, .events = POLLIN},
            {.fd = t->fd, .events = (short)((full ? 0 : POLLIN) | (t->blocked ? POLLOUT : 0))},
        };
        ring_door_close(p->wire.own);
        bool idle =
            !busy && !(full && wire_reserve(&p->wire, NET_FRAME_MAX)) && (t->blocked || !wire_pending(&p->wire));
        poll(fds, 3, idle ? -1 : 0);
        ring_door_open(p->wire.own);
        if (fds[0].revents)
            host_event_clear(p->wake);
        if (fds[1].revents)
            return;
        if (fds[2].revents & POLLERR && t->fd >= 0) { /* the interface was deleted */
            t->fd = -1;
            wire_set_link(&p->wire, false);
            host_event_signal(p->wake_peer);
        }
    }
}

int net_tap_run(struct net_life *l, struct error *e)
{
    struct tap t = {.life = l};
    int r = open_tap(&t, e);
    if (r < 0 || (r = host_confine(false, e)) < 0 || (r = host_seal_net_tap(t.fd, e)) < 0)
        return r;
    net_ready(l, e);
    serve(&t);
    return 0;
}
