/*
 * Inside the room: the file of a network, DIR/NAME. Mapped by everybody who is concerned; integers of the host; one writer at a
 * time, the holder of LOCK_HEADER.
 *
 *     0      header: subnet, bridge, servers of the host
 *     4096   slots, one an address: slot n is address n + 2 of the subnet
 *
 * Locks are those of open file descriptions (fcntl(2), F_OFD_SETLK), on bytes far behind the end. Slot n is somebody's as long as
 * there is a lock on byte LOCK_SLOTS + n: the kernel takes it away with its owner. A slot that is used and has no lock is one whose
 * owner was killed: network_sweep.
 */
#ifndef TRAPEZE_NETWORK_STATE_H
#define TRAPEZE_NETWORK_STATE_H

#include "network/network.h"

#include <limits.h>
#include <net/if.h>

#define STATE_MAGIC    0x6e7a7274u /* "trzn" */
#define STATE_VERSION  1u
#define STATE_SLOTS    1021u /* of a /22, without network, bridge and broadcast */
#define STATE_HEADER   4096u
#define STATE_NAME_MAX 32u

#define LOCK_BASE      (1ll << 40)
#define LOCK_HEADER    LOCK_BASE
#define LOCK_NAMES     (LOCK_BASE + 1) /* the process that answers for names */
#define LOCK_SLOTS     (LOCK_BASE + 16)

struct state_server {
    u8 family; /* 0: none, 4, 6 */
    u8 bytes[16];
};

struct state_port {
    u32 address; /* of the host, 0: any */
    u16 host_port, port;
    u8 udp;
};

struct state_slot {
    u32 sequence; /* odd: being written */
    u8 used;
    u8 connected; /* its ports are in the table */
    u8 n_ports;
    u8 spare;
    char id[16], name[64], hostname[64];
    char link[IFNAMSIZ]; /* the cable's end on the host */
    struct state_server servers[NETWORK_DNS_MAX];
    struct state_port ports[NETWORK_PORTS_MAX];
};

struct state_header {
    u32 magic, version;
    u32 subnet;
    u8 prefix;
    u8 chosen; /* the subnet is ours to change while nobody is in */
    u16 mtu;
    u32 next; /* slot to try next: addresses come back late */
    char bridge[IFNAMSIZ];
    s64 created;
    u32 names;                                    /* process that answers for names, when LOCK_NAMES is held */
    struct state_server servers[NETWORK_DNS_MAX]; /* of the host, when the last one joined */
};

struct state_file {
    struct state_header header;
    u8 padding[STATE_HEADER - sizeof(struct state_header)];
    struct state_slot slot[STATE_SLOTS];
};

/* Slots that the subnet has addresses for. */
static inline u32 state_slots(const struct state_header *h)
{
    u32 hosts = (h->prefix ? 1u << (32 - h->prefix) : 4) - 3;
    return MIN(hosts, STATE_SLOTS);
}

static inline u32 state_address(const struct state_header *h, u32 slot)
{
    return h->subnet + 2 + slot;
}

/* --- state.c --- */

/* The directory, made if `make`; a descriptor or -errno. */
int state_directory(const char *path, bool make, struct error *e);
int state_check_name(const char *name, struct error *e);
/*
 * Open and map; `create`: an empty one if there is none (magic 0). With `lock` the header's lock is held; then it is the file of
 * that name, not one that was removed in between. -ENOENT without `e`.
 */
int state_open(int dir, const char *name, bool create, bool lock, struct state_file **map, struct error *e);
void state_close(int *file, struct state_file **map);

/* Locks: 0, -EAGAIN when somebody else has it, -errno. */
int state_lock(int file, s64 byte, bool wait);
void state_unlock(int file, s64 byte);
/* Whether another open file has a lock in [from, from + n), n 0: to the end. */
bool state_locked(int file, s64 from, s64 n);

/* A consistent copy of a used slot; false: it is not used, or just being written. */
bool state_read(const struct state_slot *s, struct state_slot *out);
void state_begin(struct state_slot *s);
void state_end(struct state_slot *s);

/* A free slot, locked for `file`, or -EADDRNOTAVAIL. The header's lock is held. */
int state_take(int file, struct state_file *map);

/* --- netlink.c --- */

struct nl_link { /* bridge, peer_mac: may be NULL */
    const char *name, *bridge, *peer;
    int peer_namespace;
    const u8 *peer_mac;
    u32 mtu;
};

/* A socket of rtnetlink or, with NETLINK_NETFILTER, of nftables; in the namespace that the thread is in. */
int nl_open(int protocol, struct error *e);
int nl_bridge_make(int nl, const char *name, u32 mtu);
int nl_cable_make(int nl, const struct nl_link *l);
int nl_delete(int nl, const char *name);
/* Of an interface in the namespace of the socket, which may not be the thread's; -ENODEV. */
int nl_index(int nl, const char *name);
int nl_up(int nl, int index);
int nl_address_add(int nl, int index, u32 address, u8 prefix);
int nl_default_route(int nl, int index, u32 gateway);

struct nl_routes {
    struct network_subnet list[512];
    size_t n;
    u32 default_interface; /* 0: none */
};
/* Destinations of IPv4 routes, but the default one; interfaces named `but` are left out. */
int nl_routes(int nl, const char *but, struct nl_routes *out);
/* Whether our table has the chain `chain`: 1, 0 or -errno. */
int nl_has_chain(int nl, const char *table, const char *chain);

/* --- rules.c --- */

#define RULES_TABLE "trapeze"

struct rules_text {
    char *text;
    size_t size, room;
    bool failed;
};

/* Appends; out of memory shows in `failed`. */
void rules_add(struct rules_text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* The table itself; harmless when it is there. */
void rules_table(struct rules_text *t);
void rules_network(struct rules_text *t, const struct state_header *h);
void rules_network_delete(struct rules_text *t, const struct state_header *h);
/* `verb`: add, delete */
void rules_ports(struct rules_text *t, const char *verb, const struct state_slot *s, u32 address);
/* Make it so, all or nothing, through libnftables; frees the text. */
int rules_apply(struct rules_text *t, struct error *e);
/* Delete the table when no network has elements in it any more. */
void rules_drop_empty(void);

/* --- ports.c --- */

/* Keep the ports of the slot on this host: sockets into l->reserved. */
int ports_reserve(struct network_link *l, const struct state_slot *s, struct error *e);
void ports_release(struct network_link *l);
/* "0.0.0.0:8080->80/tcp" */
void ports_text(const struct state_port *p, char out[64]);

/* --- bridge.c --- */

/* Bridge, address, rules, forwarding: there afterwards. The header's lock is held. */
int bridge_up(struct network_link *l, int nl, struct state_header *h, struct error *e);
void bridge_down(int nl, int file, const struct state_header *h);
/* A subnet that this host has no route to, and no other network. */
int bridge_choose(int nl, int dir, struct state_header *h, struct error *e);
/* Whether the subnet is free, else -EEXIST with who has it. */
int bridge_check_subnet(int nl, int dir, const struct network_subnet *s, const char *but, struct error *e);
/* "trapeze0" or the next that nobody has. */
int bridge_name(int dir, char out[IFNAMSIZ]);

/* --- join.c --- */

/* Free the slots of owners that are gone. The header's lock is held. */
void network_sweep(int file, struct state_file *map, const char *id);

/* --- names.c --- */

/* Servers of resolv.conf(5) text, `out` has NETWORK_DNS_MAX; how many. */
size_t names_servers(const char *text, struct state_server *out);
bool names_server_parse(struct state_server *s, const char *text);
/* Start the process that answers for names on the bridge. The header's lock is held. */
int names_start(struct network_link *l, const char *name, const struct state_header *h, struct error *e);
void names_stop(int file, const struct state_header *h);

#endif
