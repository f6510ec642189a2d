/*
 * User mode for containers: no bridge and no privileges. Frames of the container's eth0 go to libslirp in the sealed process that
 * machines have for it (backend/net/user.c), which makes the connections anew with sockets of this user.
 *
 *   container: eth0, 10.0.2.15 ──descriptor──> trapeze-net: libslirp ──sockets──> the host's network
 *                                              10.0.2.2 router, 10.0.2.3 names
 *
 * Its end of eth0 is a tap where this user may open /dev/net/tun. Where not, eth0 is an end of a veth cable whose other end lies in a
 * network namespace that has nothing else, with a packet socket on it: that takes no device of the host's. Either is a descriptor
 * of which frames are read, and to which they are written, behind a header of 10 bytes.
 *
 * All is made before the container, by a child that makes the namespace as well: who has left the host's network namespace without
 * privileges there can not come back. It sends both descriptors and ends. Ports of the host are bound when network_user_connect
 * returns.
 */
#include "network/network.h"
#include "container/sys.h"
#include "network/state.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/ethtool.h>
#include <linux/if_ether.h>
#include <linux/if_packet.h>
#include <linux/if_tun.h>
#include <linux/netlink.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define INTERFACE "eth0"
#define FAR_END   "far"
#define TUN       "/dev/net/tun"

/* What the child says; with the descriptors when code is 0. */
struct made {
    struct error e;
};
enum { FD_END, FD_NAMESPACE, FD_COUNT };

static int open_tun(struct error *e)
{
    int fd = open(TUN, O_RDWR | O_NONBLOCK | O_CLOEXEC);
    return fd < 0 ? sys_error(e, TUN) : fd;
}

/* Of a socket for ioctls about eth0. */
static int ask_interface(unsigned long what, struct ifreq *r, struct error *e)
{
    CLEANUP_FD int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
    memcpy(r->ifr_name, INTERFACE, sizeof(INTERFACE));
    return fd < 0 || ioctl(fd, what, r) < 0 ? sys_error(e, "--network user: " INTERFACE) : 0;
}

static int make_tap(int fd, struct error *e)
{
    struct ifreq r = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR}, mtu = {.ifr_mtu = NET_MTU_MAX};
    memcpy(r.ifr_name, INTERFACE, sizeof(INTERFACE));
    /* libslirp finishes checksums; large segments need not be cut because the MTU is theirs. */
    if (ioctl(fd, TUNSETIFF, &r) < 0 || ioctl(fd, TUNSETOFFLOAD, TUN_F_CSUM) < 0)
        return sys_error(e, "--network user: a tap in the container");
    return ask_interface(SIOCSIFMTU, &mtu, e);
}

/* What its own kernel would say at the far end of the cable is nobody's to hear. */
static void be_silent(void)
{
    sys_write_at(AT_FDCWD, "/proc/sys/net/ipv6/conf/all/disable_ipv6", "1", 1);
    sys_write_at(AT_FDCWD, "/proc/sys/net/ipv6/conf/default/disable_ipv6", "1", 1);
}

static int open_packets(struct error *e)
{
    const int on = 1, room = 4 << 20; /* as much as the host lets who is not root have */
    struct sockaddr_ll at = {.sll_family = AF_PACKET, .sll_protocol = htons(ETH_P_ALL)};
    at.sll_ifindex = (int)if_nametoindex(FAR_END);
    /* No protocol yet: it would hear of all interfaces. */
    CLEANUP_FD int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC | SOCK_NONBLOCK, 0);
    if (fd < 0 || setsockopt(fd, SOL_PACKET, PACKET_VNET_HDR, &on, sizeof(on)) < 0 ||
        setsockopt(fd, SOL_PACKET, PACKET_IGNORE_OUTGOING, &on, sizeof(on)) < 0)
        return sys_error(e, "--network user: a packet socket");
    setsockopt(fd, SOL_SOCKET, SO_SNDBUF, &room, sizeof(room));
    setsockopt(fd, SOL_SOCKET, SO_RCVBUF, &room, sizeof(room));
    return bind(fd, (const struct sockaddr *)&at, sizeof(at)) < 0 ? sys_error(e, "--network user: a packet socket")
                                                                  : sys_take(&fd);
}

/* libslirp takes no segments that are still to be cut. */
static int cut_segments(struct error *e)
{
    static const u32 off[] = {ETHTOOL_STSO, ETHTOOL_SGSO};
    int bad = 0;
    for (size_t i = 0; i < ARRAY_LEN(off) && bad == 0; i++) {
        struct ethtool_value v = {.cmd = off[i]};
        struct ifreq r = {.ifr_data = (void *)&v};
        bad = ask_interface(SIOCETHTOOL, &r, e);
    }
    return bad;
}

static int make_cable(int namespace, struct error *e)
{
    const struct nl_link cable = {.name = FAR_END, .peer = INTERFACE, .peer_namespace = namespace, .mtu = NET_MTU_MAX};
    if (unshare(CLONE_NEWNET) < 0)
        return sys_error(e, "--network user: a network namespace");
    be_silent();
    CLEANUP_FD int nl = nl_open(NETLINK_ROUTE, e);
    if (nl < 0)
        return nl;
    int r = nl_cable_make(nl, &cable);
    if (r < 0)
        return error_set(e, -r, "--network user: a veth cable: %s; it takes that, or a " TUN " that this user may open",
                         strerror(-r));
    CLEANUP_FD int fd = open_packets(e);
    r = MIN(fd, 0);
    if (r == 0 && setns(namespace, CLONE_NEWNET) < 0)
        r = sys_error(e, "--network user: the container's network namespace");
    if (r == 0)
        r = cut_segments(e);
    return r < 0 ? r : sys_take(&fd);
}

static int up(int nl, const char *name)
{
    int index = nl_index(nl, name);
    return index < 0 ? index : nl_up(nl, index);
}

static int set_address(struct error *e)
{
    CLEANUP_FD int nl = nl_open(NETLINK_ROUTE, e);
    if (nl < 0)
        return nl;
    int index = nl_index(nl, INTERFACE), r = MIN(index, 0);
    if (r == 0)
        r = nl_address_add(nl, index, NETWORK_USER_ADDRESS, NETWORK_USER_PREFIX);
    if (r == 0)
        r = nl_up(nl, index);
    if (r == 0)
        r = nl_default_route(nl, index, NETWORK_USER_GATEWAY);
    if (r == 0)
        r = up(nl, "lo");
    return r < 0 ? error_set(e, -r, "--network user: address and route of the container: %s", strerror(-r)) : 0;
}

/* The interface in a new namespace that this process is in then. */
static int make_both(int fds[FD_COUNT], struct error *e)
{
    if (unshare(CLONE_NEWNET) < 0)
        return sys_error(e, "--network user: a network namespace");
    CLEANUP_FD int namespace = open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC);
    if (namespace < 0)
        return sys_error(e, "/proc/self/ns/net");
    CLEANUP_FD int end = open_tun(NULL);
    int r = end >= 0 ? make_tap(end, e) : (end = make_cable(namespace, e));
    if (r >= 0)
        r = set_address(e);
    fds[FD_END] = sys_take(&end);
    fds[FD_NAMESPACE] = sys_take(&namespace);
    return r;
}

_Noreturn static void make_inside(int socket)
{
    struct made m = {{0}};
    int fds[FD_COUNT] = {-1, -1}, r = make_both(fds, &m.e);
    sys_send_fds(socket, &m, sizeof(m), fds, r == 0 ? FD_COUNT : 0);
    _exit(0);
}

/* The descriptors, or -errno with what the child says. */
static int receive(int socket, int fds[FD_COUNT], struct error *e)
{
    union {
        struct cmsghdr header;
        char space[CMSG_SPACE(FD_COUNT * sizeof(int))];
    } control;
    struct made m;
    struct iovec part = {&m, sizeof(m)};
    struct msghdr h = {.msg_iov = &part, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(socket, &h, MSG_CMSG_CLOEXEC);
    const struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&h) : NULL;
    if (n == sizeof(m) && m.e.code)
        return error_set(e, m.e.code, "%s", m.e.msg);
    if (!c || c->cmsg_type != SCM_RIGHTS || c->cmsg_len != CMSG_LEN(FD_COUNT * sizeof(int)))
        return error_set(e, EIO, "--network user: the process that makes the interface vanished");
    memcpy(fds, CMSG_DATA(c), FD_COUNT * sizeof(int));
    return 0;
}

static int make_interface(int fds[FD_COUNT], struct error *e)
{
    int pair[2];
    if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, pair) < 0)
        return sys_error(e, "socketpair");
    pid_t child = fork();
    if (child == 0) {
        close(pair[0]);
        make_inside(pair[1]);
    }
    close(pair[1]);
    int r = child < 0 ? sys_error(e, "fork") : receive(pair[0], fds, e);
    close(pair[0]);
    while (child > 0 && waitpid(child, NULL, 0) < 0 && errno == EINTR)
        ;
    return r;
}

int network_user_connect(struct network_user *u, struct error *e)
{
    CLEANUP_FREE struct net_job *job = calloc(1, sizeof(*job));
    int fds[FD_COUNT] = {-1, -1};
    if (!job)
        return error_set(e, ENOMEM, "out of memory");
    job->kind = NET_USER;
    job->on_tap = true;
    job->host_loopback = u->host_loopback;
    for (; job->n_forwards < u->n_ports && job->n_forwards < NET_FORWARDS; job->n_forwards++)
        job->forward[job->n_forwards] = u->ports[job->n_forwards];
    int r = make_interface(fds, e);
    if (r == 0)
        r = net_backend_start_on(&u->back, job, fds[FD_END], e);
    sys_close(&fds[FD_END]);
    u->connected = r == 0;
    u->namespace = fds[FD_NAMESPACE];
    if (r < 0)
        sys_close(&u->namespace);
    return r;
}

void network_user_leave(struct network_user *u)
{
    if (!u->connected)
        return;
    net_backend_stop(&u->back);
    sys_close(&u->namespace);
    u->connected = false;
}

const char *network_user_missing(void)
{
    return net_user_missing();
}
