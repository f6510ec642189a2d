/*
 * Switches: a network of their own for machines of one user on one host.
 *
 * One process a switch, started by the first machine that joins and gone a while after the last has left. Machines bring their
 * wires through its socket; frames go from lane to lane with one copy, without the kernel. It learns addresses by the frames
 * that come, sends to the one port where an address was seen, else to all; a port whose lane is full loses the frame (a queue is
 * WIRE_LANE long). Large segments and unfinished checksums are passed on as they are to those who take them, and cut or
 * finished for those who don't.
 *
 *     machine A                    switch NAME                     machine B
 *     device ──wire──────────> port 0   table   port 1 ──────wire──> device
 *     keeper ──socket─────────────┘        └─────────────────────socket── keeper (closed: the machine leaves)
 *
 * Starting and ending under one lock, a file beside the socket: a machine joins while it holds the lock, and the switch ends
 * while it holds the lock and nobody is at its door.
 *
 * What must stay true
 *  1. Of a frame only its header is believed, after net_header_check, and 14 bytes of it are looked at, in a copy.
 *  2. A machine that brings nonsense, or breaks its lane, loses its port; the others do not notice.
 */
#include "backend/net/net.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>

#define PORTS     32u
#define ADDRESSES 512u
#define BATCH     32u
#define LINGER_MS 2000
#define HELLO     "trapeze switch 1"
#define FDS       4 /* wire, event of the switch, event of the cell, counters */

struct port {
    int socket; /* -1: free */
    struct net_port net;
    void *wire;
};

struct address {
    u8 mac[6];
    u8 known;
    u8 port;
};

struct hub {
    int listener, dir, lock;
    char socket[NET_NAME_MAX + 16];
    unsigned n_ports;
    struct port port[PORTS];
    struct address table[ADDRESSES]; /* by hash; a newer address takes the place of an older one */
    u8 frame[NET_FRAME_MAX], piece[NET_FRAME_MAX];
};

/* --- frames --- */

static struct address *slot_of(struct hub *s, const u8 *mac)
{
    u32 h = 2166136261u;
    for (unsigned i = 0; i < 6; i++)
        h = (h ^ mac[i]) * 16777619u;
    return &s->table[h % ADDRESSES];
}

static void learn(struct hub *s, const u8 *mac, unsigned port)
{
    struct address *a = slot_of(s, mac);
    if (mac[0] & 1)
        return; /* nobody's */
    memcpy(a->mac, mac, sizeof(a->mac));
    a->known = 1;
    a->port = (u8)port;
}

static void put(struct port *to, const struct net_header *h, const u8 *data, u32 len)
{
    u8 *place = wire_reserve(&to->net.wire, len);
    if (!place) {
        to->net.count->dropped++;
        return;
    }
    memcpy(place, data, len);
    wire_commit(&to->net.wire, h, len);
    to->net.count->received++;
    to->net.count->received_bytes += len;
}

static void put_piece(void *ctx, const u8 *data, u32 len)
{
    const struct net_header plain = {0};
    put(ctx, &plain, data, len);
}

static void forward(struct hub *s, struct port *to, const struct wire_frame *f)
{
    u32 takes = wire_takes(&to->net.wire);
    if (net_header_check(&f->h, f->len, takes)) {
        put(to, &f->h, f->data, f->len);
        return;
    }
    memcpy(s->frame, f->data, f->len);
    if (f->h.gso_type != NET_GSO_NONE) {
        if (!net_segment(s->frame, f->len, &f->h, s->piece, put_piece, to))
            to->net.count->dropped++;
        return;
    }
    net_finish_checksum(s->frame, f->len, &f->h);
    put_piece(to, s->frame, f->len);
}

static void spread(struct hub *s, unsigned from, const struct wire_frame *f)
{
    u8 head[12];
    memcpy(head, f->data, sizeof(head));
    learn(s, head + 6, from);
    const struct address *a = slot_of(s, head);
    bool known = !(head[0] & 1) && a->known && !memcmp(a->mac, head, 6) && s->port[a->port].socket >= 0;
    for (unsigned i = 0; i < PORTS; i++)
        if (s->port[i].socket >= 0 && i != from && (!known || a->port == i))
            forward(s, &s->port[i], f);
}

/* Take frames of one port; whether a batch's worth was there. */
static bool serve_port(struct hub *s, unsigned i)
{
    struct net_port *p = &s->port[i].net;
    struct wire_frame f;
    unsigned n = 0;
    wire_look(&p->wire);
    for (; n < BATCH && wire_peek(&p->wire, &f); n++) {
        f.h.num_buffers = 0;
        if (net_header_check(&f.h, f.len, NET_TAKES_ALL)) {
            p->count->sent++;
            p->count->sent_bytes += f.len;
            spread(s, i, &f);
        } else {
            p->count->dropped++;
        }
        wire_release(&p->wire, &f);
    }
    return n == BATCH;
}

/* --- ports --- */

static void leave(struct hub *s, unsigned i)
{
    struct port *p = &s->port[i];
    close(p->socket);
    close(p->net.wake);
    close(p->net.wake_peer);
    host_unmap(p->wire, wire_size());
    host_unmap(p->net.count, PAGE_SIZE);
    *p = (struct port){.socket = -1};
    for (unsigned k = 0; k < ADDRESSES; k++)
        if (s->table[k].port == i)
            s->table[k].known = 0;
    s->n_ports--;
}

/* Take the descriptors that come with the first message; how many, or -1. */
static int receive_fds(int socket, int fds[FDS])
{
    char hello[sizeof(HELLO)] = "";
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(FDS * sizeof(int))];
    } control;
    struct iovec v = {hello, sizeof(hello)};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    ssize_t n = recvmsg(socket, &m, MSG_CMSG_CLOEXEC);
    struct cmsghdr *c = n > 0 ? CMSG_FIRSTHDR(&m) : NULL;
    if (!c || c->cmsg_level != SOL_SOCKET || c->cmsg_type != SCM_RIGHTS)
        return -1;
    int got = (int)((c->cmsg_len - CMSG_LEN(0)) / sizeof(int));
    memcpy(fds, CMSG_DATA(c), (size_t)MIN(got, FDS) * sizeof(int));
    bool good = got == FDS && !memcmp(hello, HELLO, sizeof(HELLO));
    for (int i = 0; i < MIN(got, FDS) && !good; i++)
        close(fds[i]);
    return good ? got : -1;
}

/* A mapping of a memory file whose size can not change any more, or NULL. */
static void *map_sealed(int fd, u64 size)
{
    struct stat st;
    int seals = fcntl(fd, F_GET_SEALS);
    if (seals < 0 || !(seals & F_SEAL_SHRINK) || fstat(fd, &st) < 0 || (u64)st.st_size != size)
        return NULL;
    return host_map_shared(fd, size, NULL);
}

static bool attach(struct port *p, const int fds[FDS])
{
    p->wire = map_sealed(fds[0], wire_size());
    p->net.count = map_sealed(fds[3], PAGE_SIZE);
    p->net.wake = fds[1];
    p->net.wake_peer = fds[2];
    close(fds[0]);
    close(fds[3]);
    if (p->wire && p->net.count) {
        wire_attach(&p->net.wire, p->wire, false);
        wire_set_link(&p->net.wire, true);
        return true;
    }
    close(fds[1]);
    close(fds[2]);
    host_unmap(p->wire, wire_size());
    host_unmap(p->net.count, PAGE_SIZE);
    return false;
}

static bool is_ours(int socket)
{
    struct ucred peer;
    socklen_t len = sizeof(peer);
    return getsockopt(socket, SOL_SOCKET, SO_PEERCRED, &peer, &len) == 0 && peer.uid == geteuid();
}

/* Somebody is at the door; whether somebody was. */
static bool admit(struct hub *s)
{
    int fds[FDS], fd = accept4(s->listener, NULL, NULL, SOCK_CLOEXEC), code = 0;
    unsigned i = 0;
    if (fd < 0)
        return false;
    while (i < PORTS && s->port[i].socket >= 0)
        i++;
    struct pollfd p = {.fd = fd, .events = POLLIN};
    bool came = is_ours(fd) && poll(&p, 1, 1000) == 1 && receive_fds(fd, fds) == FDS;
    if (came && i == PORTS) {
        code = ENOSPC;
        for (unsigned k = 0; k < FDS; k++)
            close(fds[k]);
    } else if (came && !attach(&s->port[i], fds)) {
        code = EINVAL;
    }
    if (!came || send(fd, &code, sizeof(code), MSG_NOSIGNAL) != sizeof(code) || code) {
        if (came && !code) {
            s->port[i].socket = fd;
            s->n_ports++;
            leave(s, i);
        } else {
            close(fd);
        }
        return true;
    }
    s->port[i].socket = fd;
    s->n_ports++;
    return true;
}

/* --- life --- */

/* Nobody has been here for a while: end, unless somebody comes at this moment. */
static bool may_end(struct hub *s)
{
    if (flock(s->lock, LOCK_EX | LOCK_NB) < 0)
        return false;
    if (!admit(s)) {
        unlinkat(s->dir, s->socket, 0);
        return true;
    }
    flock(s->lock, LOCK_UN);
    return false;
}

static void sleep_on(struct hub *s, struct pollfd *p, bool busy)
{
    p[0] = (struct pollfd){.fd = s->listener, .events = POLLIN};
    for (unsigned i = 0; i < PORTS; i++) {
        struct port *q = &s->port[i];
        p[1 + 2 * i] = (struct pollfd){.fd = q->socket, .events = POLLIN};
        p[2 + 2 * i] = (struct pollfd){.fd = q->socket < 0 ? -1 : q->net.wake, .events = POLLIN};
        if (q->socket < 0)
            continue;
        ring_door_close(q->net.wire.own);
        busy |= wire_pending(&q->net.wire);
    }
    poll(p, 1 + 2 * PORTS, busy ? 0 : s->n_ports ? -1 : LINGER_MS);
    for (unsigned i = 0; i < PORTS; i++)
        if (s->port[i].socket >= 0)
            ring_door_open(s->port[i].net.wire.own);
}

__attribute__((noreturn)) static void run(struct hub *s)
{
    struct pollfd p[1 + 2 * PORTS];
    for (bool busy = false;;) {
        sleep_on(s, p, busy);
        if (!s->n_ports && !p[0].revents && may_end(s))
            _exit(0);
        busy = false;
        for (unsigned i = 0; i < PORTS; i++) {
            struct port *q = &s->port[i];
            if (q->socket >= 0 && p[2 + 2 * i].revents)
                host_event_clear(q->net.wake);
            if (q->socket >= 0)
                busy |= serve_port(s, i);
            if (q->socket >= 0 && (p[1 + 2 * i].revents || q->net.wire.in.broken || q->net.wire.out.broken))
                leave(s, i);
        }
        for (unsigned i = 0; i < PORTS; i++)
            if (s->port[i].socket >= 0)
                net_port_signal(&s->port[i].net);
        if (p[0].revents)
            admit(s);
    }
}

__attribute__((noreturn)) static void hub_main(int listener, int dir, const char *socket, const char *lock)
{
    struct hub *s = calloc(1, sizeof(*s));
    struct error e = {0};
    if (!s)
        _exit(1);
    host_process_name("trapeze-switch");
    s->listener = listener;
    s->dir = dir;
    s->lock = openat(dir, lock, O_RDWR | O_CLOEXEC);
    snprintf(s->socket, sizeof(s->socket), "%s", socket);
    for (unsigned i = 0; i < PORTS; i++)
        s->port[i].socket = -1;
    if (s->lock < 0 || chdir("/") < 0 || host_confine(false, &e) < 0 || host_seal_net_switch(listener, dir, &e) < 0)
        _exit(1);
    run(s);
}

/* --- joining, in a keeper --- */

/* Sockets are named by way of the directory's descriptor: the paths of state directories may be longer than a socket's. */
static void name_socket(struct sockaddr_un *a, int dir, const char *socket)
{
    *a = (struct sockaddr_un){.sun_family = AF_UNIX};
    snprintf(a->sun_path, sizeof(a->sun_path), "/proc/self/fd/%d/%s", dir, socket);
}

static int start(int dir, const char *socket_name, const char *lock, struct error *e)
{
    struct sockaddr_un a;
    name_socket(&a, dir, socket_name);
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC | SOCK_NONBLOCK, 0), r;
    if (fd < 0)
        return error_set(e, errno, "socket: %s", strerror(errno));
    unlinkat(dir, socket_name, 0); /* of one that was killed */
    if (bind(fd, (struct sockaddr *)&a, sizeof(a)) < 0 || listen(fd, (int)PORTS) < 0) {
        r = error_set(e, errno, "%s: %s", socket_name, strerror(errno));
    } else {
        const int keep[] = {fd, dir};
        r = host_fork_detached(keep, ARRAY_LEN(keep), e);
        if (r == 1)
            hub_main(fd, dir, socket_name, lock);
    }
    close(fd);
    return r;
}

static int send_fds(int socket, const int fds[FDS])
{
    union {
        struct cmsghdr align;
        char space[CMSG_SPACE(FDS * sizeof(int))];
    } control = {.space = {0}};
    struct iovec v = {(char[]){HELLO}, sizeof(HELLO)};
    struct msghdr m = {.msg_iov = &v, .msg_iovlen = 1, .msg_control = &control, .msg_controllen = sizeof(control)};
    struct cmsghdr *c = CMSG_FIRSTHDR(&m);
    c->cmsg_level = SOL_SOCKET;
    c->cmsg_type = SCM_RIGHTS;
    c->cmsg_len = CMSG_LEN(FDS * sizeof(int));
    memcpy(CMSG_DATA(c), fds, FDS * sizeof(int));
    return sendmsg(socket, &m, MSG_NOSIGNAL) < 0 ? -errno : 0;
}

/* With the lock held. */
static int join(int dir, const char *name, const char *socket_name, const char *lock, const int fds[FDS],
                struct error *e)
{
    struct sockaddr_un a;
    int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0), code = EIO, r = 0;
    if (fd < 0)
        return error_set(e, errno, "socket: %s", strerror(errno));
    name_socket(&a, dir, socket_name);
    if (connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0 && (r = start(dir, socket_name, lock, e)) == 0 &&
        connect(fd, (struct sockaddr *)&a, sizeof(a)) < 0)
        r = error_set(e, errno, "--network switch:%s: %s", name, strerror(errno));
    if (r == 0 && (send_fds(fd, fds) < 0 || recv(fd, &code, sizeof(code), 0) != sizeof(code) || code))
        r = error_set(e, code, "--network switch:%s: %s", name,
                      code == ENOSPC ? "it has no port left" : "its process does not take this machine");
    if (r < 0)
        close(fd);
    return r < 0 ? r : fd;
}

int net_switch_join(const char *dir, const char *name, int wire, int wake, int wake_cell, int count, struct error *e)
{
    const int fds[FDS] = {wire, wake, wake_cell, count};
    char socket_name[NET_NAME_MAX + 16], lock_name[NET_NAME_MAX + 16];
    snprintf(socket_name, sizeof(socket_name), "%s.socket", name);
    snprintf(lock_name, sizeof(lock_name), "%s.lock", name);
    int r, d = open(dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    int lock = d < 0 ? -1 : openat(d, lock_name, O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (lock < 0 || flock(lock, LOCK_EX) < 0)
        r = error_set(e, errno, "--network switch:%s: %s: %s", name, dir, strerror(errno));
    else
        r = join(d, name, socket_name, lock_name, fds, e);
    if (lock >= 0)
        close(lock);
    if (d >= 0)
        close(d);
    return r;
}
