/*
 * Networks of containers on this host: a bridge each, with NAT to the world, names, and published ports.
 *
 *     container            host                                             world
 *     eth0 ── veth ──┐
 *     10.90.0.2      ├── trapeze0, 10.90.0.1 ──── nftables table "trapeze" ──── its interfaces
 *     eth0 ── veth ──┘     names (a process of its own, port 53)
 *
 * No daemon. All that is known of a network is one file (state.h) below the directory that every function is given; the keeper of
 * a container holds a lock in it, and what no lock stands for any more is free again, however its owner ended.
 *
 * What must stay true
 *  1. A member's record is in the file before anything of it is in the kernel, and goes after it: so it can be taken away by
 *     whoever finds it without its lock.
 *  2. The table's rules are the same for all networks: what belongs to a network or a container is elements of its sets, and only
 *     ours are ever added or deleted. Rules of others are not looked at.
 *  3. The bridge answers 127.0.0.0/8 for the host itself only: no packet that comes in by any interface is sent there, or by it
 *     to a published port.
 *  4. What a container can send is parsed by the sealed process of names.c alone.
 *
 * Needs root. Not done: IPv6 beyond link-local addresses (forwarding it stops a host from taking router advertisements), user mode
 * for containers, CNI plugins, shaping, networks without a way out.
 */
#ifndef TRAPEZE_NETWORK_NETWORK_H
#define TRAPEZE_NETWORK_NETWORK_H

#include "backend/net/net.h"
#include "base/error.h"
#include "base/types.h"

#include <jansson.h>
#include <sys/types.h>

#define NETWORK_DEFAULT   "bridge" /* made when it is first used */
#define NETWORK_PORTS_MAX 32u
#define NETWORK_DNS_MAX   3u
/* First argument of the process that answers for names; cli/main.c hands over to network_names_main. */
#define NETWORK_NAMES_ARG "--trapeze-names"

struct network_subnet {
    u32 address; /* of the network, as a number */
    u8 prefix;   /* its length */
};
/* "10.1.2.0/24": a private or public IPv4 network of 4 to 65536 addresses, without bits of a host. */
int network_subnet_parse(struct network_subnet *s, const char *text, struct error *e);
bool network_subnets_overlap(const struct network_subnet *a, const struct network_subnet *b);

/* Who joins. Texts are copied. */
struct network_member {
    const char *id; /* at most 15 characters */
    const char *name, *hostname;
    const struct net_forward *ports;
    size_t n_ports;
    const char *const *dns; /* servers that are asked for it, instead of the host's */
    size_t n_dns;
};

/* A membership, as its owner holds it. */
struct network_link {
    int file, state_dir;
    void *map;
    u32 slot;
    int reserved[NETWORK_PORTS_MAX]; /* sockets that keep the ports of this host for it */
    size_t n_reserved;
    u32 address, gateway; /* as numbers */
    u8 prefix;
    bool names; /* `server` answers for names */
    u32 server;
    bool user;      /* user mode: only the numbers above count */
    char note[200]; /* what the user should know, "" */
};

/*
 * Join the network `network` ("bridge", or one that was made): its bridge is there, an address taken, the ports of this host are
 * kept. `state`: directory, made if missing. -EADDRINUSE names who has a port.
 */
int network_join(struct network_link *l, const char *state, const char *network, const struct network_member *m,
                 struct error *e);
/* Put the cable into the network namespace of process `pid`, and open the ports. The caller has one thread. */
int network_connect(struct network_link *l, pid_t pid, struct error *e);
/* All of it taken back. Safe on a zeroed or failed link, and twice. */
void network_leave(struct network_link *l);
/* Take away what a member without an owner has left, in any network; one that is not there is no error. */
void network_forget(const char *state, const char *id);

/* --- user mode (user.c): without a bridge and without privileges --- */

#define NETWORK_USER         "user"
#define NETWORK_USER_ADDRESS 0x0a00020fu /* 10.0.2.15, as backend/net/user.c has it for the first card */
#define NETWORK_USER_GATEWAY 0x0a000202u
#define NETWORK_USER_NAMES   0x0a000203u
#define NETWORK_USER_PREFIX  24

struct network_user {
    struct net_forward ports[NETWORK_PORTS_MAX];
    size_t n_ports;
    bool host_loopback; /* the gateway is the host's loopback interface */
    bool connected;
    int namespace; /* the network namespace of the container to be, when connected */
    struct net_backend back;
};
/* A network namespace with eth0 in it, libslirp behind that, ports bound. The caller has one thread. */
int network_user_connect(struct network_user *u, struct error *e);
/* Safe on a zeroed one, and twice. */
void network_user_leave(struct network_user *u);
/* Why this host has no user mode, or NULL. */
const char *network_user_missing(void);

/* {"network","address","gateway","prefix","mac"} of a member or NULL. A new reference. */
json_t *network_member_json(const char *state, const char *id);

/* --- networks themselves --- */

int network_create(const char *state, const char *name, const char *subnet, struct error *e);
/* An array of what network_inspect says. A new reference or NULL with `e`. */
json_t *network_list(const char *state, struct error *e);
json_t *network_inspect(const char *state, const char *name, struct error *e);
/* One that somebody is in is an error. Takes bridge and rules along. */
int network_remove(const char *state, const char *name, struct error *e);
/* All that nobody is in; names are appended to `removed`. */
int network_prune(const char *state, json_t *removed, struct error *e);
/* Whether there is such a network: created, or the default one. */
bool network_exists(const char *state, const char *name);

/* Why this host can have no bridge for this user, or NULL: it can, as far as is known without trying. */
const char *network_missing(void);

/* The process that answers for names: called by main() when argv[1] is NETWORK_NAMES_ARG. Returns its exit status. */
int network_names_main(int argc, char **argv);

#endif
