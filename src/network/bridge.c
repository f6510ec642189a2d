#include "network/state.h"
#include "container/sys.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define FORWARD   "/proc/sys/net/ipv4/ip_forward"
#define PREFIX    22 /* of subnets that we choose: 1021 containers */
#define MTU_LEAST 576

/* --- subnets --- */

int network_subnet_parse(struct network_subnet *s, const char *text, struct error *e)
{
    unsigned a[4], prefix;
    int end = 0;
    if (sscanf(text, "%3u.%3u.%3u.%3u/%2u%n", &a[0], &a[1], &a[2], &a[3], &prefix, &end) != 5 || text[end] ||
        (a[0] | a[1] | a[2] | a[3]) > 255)
        return error_set(e, EINVAL, "--subnet %.40s: write an IPv4 network, as in 10.1.2.0/24", text);
    s->address = a[0] << 24 | a[1] << 16 | a[2] << 8 | a[3];
    s->prefix = (u8)prefix;
    if (prefix < 16 || prefix > 30)
        return error_set(e, EINVAL, "--subnet %.40s: prefixes of 16 to 30 bits are possible", text);
    if (s->address & (~0u >> prefix))
        return error_set(e, EINVAL, "--subnet %.40s: is the address of a host; the network's ends in zeros", text);
    if (a[0] == 0 || a[0] == 127 || a[0] >= 224)
        return error_set(e, EINVAL, "--subnet %.40s: is no network for hosts", text);
    return 0;
}

bool network_subnets_overlap(const struct network_subnet *a, const struct network_subnet *b)
{
    u8 shorter = MIN(a->prefix, b->prefix);
    return shorter == 0 || (a->address ^ b->address) >> (32 - shorter) == 0;
}

struct search {
    const struct network_subnet *subnet;
    const char *but, *bridge;
    char found[64];
};

static void look_at(int dir, const char *name, struct search *s)
{
    struct state_file *map;
    if (s->but && !strcmp(name, s->but))
        return;
    int file = state_open(dir, name, false, false, &map, NULL);
    if (file < 0)
        return;
    const struct network_subnet theirs = {map->header.subnet, map->header.prefix};
    bool taken = (s->subnet && network_subnets_overlap(&theirs, s->subnet)) ||
                 (s->bridge && !strncmp(map->header.bridge, s->bridge, IFNAMSIZ));
    if (taken && map->header.magic == STATE_MAGIC) /* not the one that is just being made */
        snprintf(s->found, sizeof(s->found), "network %.40s", name);
    state_close(&file, &map);
}

static bool search_networks(int dir, struct search *s)
{
    const struct dirent *d;
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    while (list && !s->found[0] && (d = readdir(list)))
        if (d->d_name[0] != '.')
            look_at(dir, d->d_name, s);
    if (list)
        closedir(list);
    return s->found[0];
}

int bridge_name(int dir, char out[IFNAMSIZ])
{
    for (unsigned i = 0; i < 10000; i++) {
        struct search s = {.bridge = out};
        snprintf(out, IFNAMSIZ, "trapeze%u", i);
        if (!if_nametoindex(out) && !search_networks(dir, &s))
            return 0;
    }
    return -ENFILE;
}

static const struct network_subnet *route_to(const struct nl_routes *routes, const struct network_subnet *s)
{
    for (size_t i = 0; i < routes->n; i++)
        if (network_subnets_overlap(&routes->list[i], s))
            return &routes->list[i];
    return NULL;
}

static const char *subnet_text(const struct network_subnet *s, char out[24])
{
    char a[INET_ADDRSTRLEN];
    const struct in_addr address = {htonl(s->address)};
    inet_ntop(AF_INET, &address, a, sizeof(a));
    snprintf(out, 24, "%s/%u", a, s->prefix);
    return out;
}

static int check_routes(const struct nl_routes *routes, const struct network_subnet *s, struct error *e)
{
    char a[24], b[24];
    const struct network_subnet *r = route_to(routes, s);
    return r ? error_set(e, EEXIST, "subnet %s: this host has a route to %s; choose another by --subnet",
                         subnet_text(s, a), subnet_text(r, b))
             : 0;
}

static int check_with(int dir, const struct nl_routes *routes, const struct network_subnet *s, const char *but,
                      struct error *e)
{
    struct search search = {.subnet = s, .but = but};
    char a[24];
    if (search_networks(dir, &search))
        return error_set(e, EEXIST, "subnet %s: overlaps that of %s; choose another by --subnet", subnet_text(s, a),
                         search.found);
    return check_routes(routes, s, e);
}

int bridge_check_subnet(int nl, int dir, const struct network_subnet *s, const char *but, struct error *e)
{
    struct nl_routes routes;
    int r = nl_routes(nl, NULL, &routes);
    return r < 0 ? error_set(e, -r, "routes of this host: %s", strerror(-r)) : check_with(dir, &routes, s, but, e);
}

int bridge_choose(int nl, int dir, struct state_header *h, struct error *e)
{
    static const u32 pools[] = {10u << 24 | 90u << 16, 172u << 24 | 29u << 16, 192u << 24 | 168u << 16};
    struct nl_routes routes;
    int r = nl_routes(nl, NULL, &routes);
    if (r < 0)
        return error_set(e, -r, "routes of this host: %s", strerror(-r));
    for (u32 i = 0; i < ARRAY_LEN(pools) * 64; i++) {
        const struct network_subnet s = {pools[i / 64] + (i % 64 << (32 - PREFIX)), PREFIX};
        if (check_with(dir, &routes, &s, NULL, NULL) < 0)
            continue;
        h->subnet = s.address;
        h->prefix = s.prefix;
        h->chosen = true;
        return 0;
    }
    return error_set(e, EEXIST,
                     "network: this host has routes to every subnet that we would choose; give one: "
                     "`trapeze network create NAME --subnet 10.1.2.0/24`");
}

/* --- the bridge --- */

static bool write_switch(const char *path, const char *value)
{
    return sys_write_at(AT_FDCWD, path, value, strlen(value)) == 0;
}

/* So much as the way into the world takes. */
static u16 find_mtu(u32 interface)
{
    char name[IFNAMSIZ], path[64], text[16];
    if (!interface || !if_indextoname(interface, name))
        return 0;
    snprintf(path, sizeof(path), "/sys/class/net/%s/mtu", name);
    if (sys_read_small(AT_FDCWD, path, text, sizeof(text)) < 0)
        return 0;
    unsigned long mtu = strtoul(text, NULL, 10);
    return mtu >= MTU_LEAST && mtu < 1500 ? (u16)mtu : 0;
}

/* It may be long ago that the subnet was chosen. */
static int make_bridge(struct network_link *l, int nl, struct state_header *h, struct error *e)
{
    struct nl_routes routes;
    const struct network_subnet s = {h->subnet, h->prefix};
    int r = nl_routes(nl, h->bridge, &routes);
    if (r == 0 && route_to(&routes, &s))
        r = h->chosen && !state_locked(l->file, LOCK_SLOTS, 0) ? bridge_choose(nl, l->state_dir, h, e)
                                                               : check_routes(&routes, &s, e);
    if (r < 0)
        return r;
    h->mtu = find_mtu(routes.default_interface);
    r = nl_bridge_make(nl, h->bridge, h->mtu);
    return r < 0 && r != -EEXIST ? error_set(e, -r, "bridge %s: %s", h->bridge, strerror(-r)) : 0;
}

static void forward(struct network_link *l)
{
    char text[8] = "";
    if (sys_read_small(AT_FDCWD, FORWARD, text, sizeof(text)) > 0 && text[0] != '0')
        return;
    if (write_switch(FORWARD, "1"))
        snprintf(l->note, sizeof(l->note), "net.ipv4.ip_forward was off on this host; it is on now, for containers");
    else
        snprintf(l->note, sizeof(l->note),
                 "net.ipv4.ip_forward is off on this host and can not be changed: the world is not reached");
}

/* Elements of the network and of members that lost theirs when somebody flushed the rules. */
static int make_rules(struct network_link *l, const struct state_header *h, struct error *e)
{
    const struct state_file *map = l->map;
    struct rules_text t = {0};
    struct state_slot s;
    rules_table(&t);
    rules_network(&t, h);
    for (u32 i = 0; i < STATE_SLOTS; i++)
        if (state_read(&map->slot[i], &s) && s.connected)
            rules_ports(&t, "add", &s, state_address(h, i));
    return rules_apply(&t, e);
}

int bridge_up(struct network_link *l, int nl, struct state_header *h, struct error *e)
{
    char path[80];
    int r = if_nametoindex(h->bridge) ? 0 : make_bridge(l, nl, h, e);
    if (r < 0)
        return r;
    CLEANUP_FD int nft = nl_open(NETLINK_NETFILTER, e);
    r = nft < 0 ? nft : nl_has_chain(nft, RULES_TABLE, h->bridge);
    if (r < 0)
        return error_set(e, -r, "nftables: %s; the kernel needs nf_tables", strerror(-r));
    /* Rules first: there is no moment in which the switch is on and rule 3 of network.h is not true. */
    if (r == 0 && (r = make_rules(l, h, e)) < 0)
        return r;
    snprintf(path, sizeof(path), "/proc/sys/net/ipv4/conf/%s/route_localnet", h->bridge);
    if (!write_switch(path, "1"))
        snprintf(l->note, sizeof(l->note), "%s can not be changed: published ports are not reached at 127.0.0.1", path);
    forward(l);
    r = nl_address_add(nl, (int)if_nametoindex(h->bridge), h->subnet + 1, h->prefix);
    return r < 0 && r != -EEXIST ? error_set(e, -r, "bridge %s: address: %s", h->bridge, strerror(-r)) : 0;
}

void bridge_down(int nl, int file, const struct state_header *h)
{
    struct rules_text t = {0};
    names_stop(file, h);
    nl_delete(nl, h->bridge);
    CLEANUP_FD int nft = nl_open(NETLINK_NETFILTER, NULL);
    if (nft < 0 || nl_has_chain(nft, RULES_TABLE, h->bridge) <= 0)
        return;
    rules_network_delete(&t, h);
    rules_apply(&t, NULL);
    rules_drop_empty();
}
