/*
 * Back ends of network cards: what is on the far end of a card's wire (base/wire.h). Each is a process of its own, this program
 * run again with NET_ARG, that holds one end of the wire, and what it needs of the host: nothing of the machine.
 *
 *   keeper ──job──> back end: opens, binds      user    libslirp: DHCP, DNS, TCP, UDP, ICMP through sockets of this user
 *          <─ready─ sealed                      tap     a network interface of the host
 *          ──(closed)──> ends                   switch  other machines of this user: one process for all of them (hub)
 */
#ifndef TRAPEZE_BACKEND_NET_H
#define TRAPEZE_BACKEND_NET_H

#include "base/error.h"
#include "base/net.h"
#include "base/wire.h"
#include "host/host.h"

/* First argument of such a process; cli/main.c hands over to net_main. */
#define NET_ARG         "--trapeze-net"

#define NET_FORWARDS    64u
#define NET_NAME_MAX    32u
#define NET_ADDRESS_MAX 46u

/* X-macro: kind, name, whether it has a name behind a colon, MTU, takes, gives */
#define NET_KINDS(X)                                                                          \
    X(NET_USER, "user", false, NET_MTU_MAX, NET_TAKES_CSUM, NET_TAKES_CSUM)                   \
    X(NET_TAP, "tap", true, 0, NET_TAKES_ALL, NET_TAKES_ALL)       /* tap:IFNAME */           \
    X(NET_BRIDGE, "bridge", true, 0, NET_TAKES_ALL, NET_TAKES_ALL) /* a tap that is a port */ \
    X(NET_SWITCH, "switch", true, 0, NET_TAKES_ALL, NET_TAKES_ALL)

enum net_kind {
#define X(kind, name, named, mtu, takes, gives) kind,
    NET_KINDS(X)
#undef X
        NET_KIND_COUNT
};

const char *net_kind_name(enum net_kind k);
bool net_kind_named(enum net_kind k);
/* The kind of that name (`len` bytes), or -1. */
int net_kind_find(const char *name, size_t len);
/* What a card of this kind is; the address is left alone. */
void net_describe(enum net_kind k, struct net_info *i);

/* A port of the host that leads to one of the guest. */
struct net_forward {
    char address[NET_ADDRESS_MAX]; /* of the host: IPv4 or IPv6; "": any IPv4 */
    bool udp;
    u16 host_port, guest_port;
};

/* What a back end is told, once. */
struct net_job {
    enum net_kind kind;
    unsigned number;         /* of the card: users' networks differ by it */
    char name[NET_NAME_MAX]; /* interface, bridge */
    bool on_tap;             /* NET_USER: no wire, but a tap: a container's (net_backend_start_on) */
    bool host_loopback;      /* the guest may reach what the host serves on its loopback addresses */
    unsigned n_forwards;
    struct net_forward forward[NET_FORWARDS];
};

/* Descriptors of such a process; a tap is in the wire's place. */
enum net_fd { NET_FD_CONTROL = HOST_FIRST_FD, NET_FD_WIRE, NET_FD_WAKE, NET_FD_WAKE_CELL, NET_FD_COUNT, NET_FD_END };

/* The back end's end of a card. */
struct net_port {
    struct wire wire;
    int wake, wake_peer; /* events: slept on, signalled */
    struct net_count *count;
};

/* --- for the keeper, before its seal --- */

struct net_backend {
    enum net_kind kind;
    char name[NET_NAME_MAX]; /* of the interface or switch in use */
    struct host_child child; /* pid -1: none of our own */
    int control;             /* socket; closing it ends the back end, or leaves the switch */
    int wire_fd, wake_cell_fd, wake_fd;
    void *wire; /* the mapping */
    struct net_count *count;
};

/*
 * Start the back end of a card: everything is open and bound when this returns. `wake_cell` is the event that it signals; `dir` is
 * where switches have their sockets (it exists). 0, or a negative errno with an `e` that names option, cause and what to do; then
 * nothing is left.
 */
int net_backend_start(struct net_backend *b, const struct net_job *job, int wake_cell, const char *dir,
                      struct error *e);
/* The same in user mode, for who holds a tap or a packet socket, with virtio headers of 10 bytes, instead of a wire. The tap stays the caller's. */
int net_backend_start_on(struct net_backend *b, const struct net_job *job, int tap, struct error *e);
void net_backend_stop(struct net_backend *b);

/* The life of a back end: called by main() when argv[1] is NET_ARG. Returns the process's exit status. */
int net_main(int argc, char **argv);

/* --- kinds, in their process --- */

/* Open, bind, seal; then `ready` is called, and the call returns when the keeper has closed the control socket. */
struct net_life {
    struct net_port port;
    int control;
    struct net_job job;
    char name[NET_NAME_MAX]; /* of what was opened: reported to the keeper */
};
/* Tell the keeper how it went: ready, or why not. */
void net_ready(struct net_life *l, const struct error *e);
/* Each: opens what it needs and seals itself, net_ready, then serves. -errno with `e` before net_ready only. */
int net_user_run(struct net_life *l, struct error *e);
int net_tap_run(struct net_life *l, struct error *e);

/* Why there is no user mode here, or NULL: there is. */
const char *net_user_missing(void);

/* Send what wire_news says. */
void net_port_signal(struct net_port *p);

/* --- offload.c --- */

/* Finish the checksum of a frame whose header says that it is not. Its places were checked (net_header_check). */
void net_finish_checksum(u8 *frame, u32 len, const struct net_header *h);
/*
 * Cut a large TCP segment into frames for those who don't take it, each complete, and give them to `out`. False: it is no TCP
 * segment that could be cut. `buf` has room for NET_FRAME_MAX.
 */
bool net_segment(const u8 *frame, u32 len, const struct net_header *h, u8 *buf,
                 void (*out)(void *ctx, const u8 *frame, u32 len), void *ctx);

/* --- holder.c --- */

/* Who listens on a port of this host: "NAME (pid N)", or "" when it is not known. */
void net_port_holder(bool udp, u16 port, char *out, size_t size);

/* --- switch.c --- */

/*
 * Join the switch `name`, whose socket is in `dir`; starts it when nobody runs it. The descriptors go to the switch. A socket, closed
 * to leave, or -errno.
 */
int net_switch_join(const char *dir, const char *name, int wire, int wake, int wake_cell, int count, struct error *e);

#endif
