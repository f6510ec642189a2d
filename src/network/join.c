/* Members: how one comes, is connected, goes, and is taken away when nobody is there any more who could. */
#include "network/state.h"
#include "container/idmap.h"
#include "container/sys.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/netlink.h>
#include <linux/nsfs.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <time.h>
#include <unistd.h>

#define RESOLV_CONF "/etc/resolv.conf"
#define INTERFACE   "eth0"

/* Root of a user namespace may change networks of that namespace, and not the one of the host's that he is in. */
static bool owns_network(void)
{
    CLEANUP_FD int own = idmap_nested() ? open("/proc/self/ns/net", O_RDONLY | O_CLOEXEC) : -1;
    CLEANUP_FD int owner = own < 0 ? -1 : ioctl(own, NS_GET_USERNS);
    return own < 0 || owner >= 0 || errno != EPERM;
}

const char *network_missing(void)
{
    return geteuid() != 0 || !owns_network() ? "a bridge needs root" : NULL;
}

/* Locally administered, and the address: who had it before is not mistaken for it. */
static void mac_of(u32 address, u8 mac[6])
{
    const u8 bytes[6] = {0x7a, 0x52, (u8)(address >> 24), (u8)(address >> 16), (u8)(address >> 8), (u8)address};
    memcpy(mac, bytes, sizeof(bytes));
}

/* --- taking away --- */

static void free_slot(struct state_slot *s)
{
    state_begin(s);
    s->used = s->connected = s->n_ports = 0;
    state_end(s);
}

static void close_ports(const struct state_header *h, struct state_slot *s, u32 slot)
{
    struct rules_text t = {0};
    if (!s->connected || !s->n_ports)
        return;
    rules_ports(&t, "delete", s, state_address(h, slot));
    rules_apply(&t, NULL); /* they are gone already if somebody flushed the rules */
}

void network_sweep(int file, struct state_file *map, const char *id)
{
    for (u32 i = 0; i < STATE_SLOTS; i++) {
        struct state_slot *s = &map->slot[i];
        if (!s->used || (id && strncmp(s->id, id, sizeof(s->id))) || state_lock(file, LOCK_SLOTS + i, false) < 0)
            continue;
        CLEANUP_FD int nl = nl_open(NETLINK_ROUTE, NULL);
        s->link[IFNAMSIZ - 1] = 0;
        s->n_ports = (u8)MIN(s->n_ports, NETWORK_PORTS_MAX);
        if (nl >= 0) /* its container may run still */
            nl_delete(nl, s->link);
        close_ports(&map->header, s, i);
        free_slot(s);
        state_unlock(file, LOCK_SLOTS + i);
    }
}

static void forget_in(int dir, const char *name, const char *id)
{
    struct state_file *map;
    int file = state_open(dir, name, false, true, &map, NULL);
    if (file >= 0)
        network_sweep(file, map, id);
    state_close(&file, &map);
}

static void each(const char *state, void (*call)(int dir, const char *name, void *arg), void *arg)
{
    const struct dirent *d;
    CLEANUP_FD int dir = state_directory(state, false, NULL);
    int fd = dir < 0 ? -1 : openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    while (list && (d = readdir(list)))
        if (d->d_name[0] != '.')
            call(dir, d->d_name, arg);
    if (list)
        closedir(list);
}

static void forget_one(int dir, const char *name, void *arg)
{
    forget_in(dir, name, arg);
}

void network_forget(const char *state, const char *id)
{
    char text[16];
    snprintf(text, sizeof(text), "%s", id);
    each(state, forget_one, text);
}

void network_leave(struct network_link *l)
{
    struct state_file *map = l->map;
    if (!map)
        return;
    if (l->slot < STATE_SLOTS && state_lock(l->file, LOCK_HEADER, true) == 0) {
        close_ports(&map->header, &map->slot[l->slot], l->slot);
        free_slot(&map->slot[l->slot]);
    }
    ports_release(l);
    state_close(&l->file, &map); /* and the locks */
    sys_close(&l->state_dir);
    l->state_dir = -1;
    l->map = NULL;
    l->slot = STATE_SLOTS;
}

/* --- joining --- */

static void read_servers(struct state_header *h)
{
    CLEANUP_FREE char *text = NULL;
    size_t size;
    if (sys_read_at(AT_FDCWD, RESOLV_CONF, 1 << 16, &text, &size) < 0)
        return;
    memset(h->servers, 0, sizeof(h->servers));
    names_servers(text, h->servers);
}

static int open_network(struct network_link *l, const char *state, const char *name, struct error *e)
{
    struct state_file *map = NULL;
    int r = state_check_name(name, e);
    if (r == 0)
        l->state_dir = state_directory(state, true, e);
    if (r < 0 || l->state_dir < 0)
        return r < 0 ? r : l->state_dir;
    l->file = state_open(l->state_dir, name, !strcmp(name, NETWORK_DEFAULT), true, &map, e);
    l->map = map;
    if (l->file == -ENOENT)
        return error_set(e, ENOENT, "network %s: there is none; `trapeze network create %s` makes it", name, name);
    return MIN(l->file, 0);
}

static int first_use(struct network_link *l, int nl, struct state_header *h, struct error *e)
{
    if (h->magic)
        return 0;
    if (bridge_name(l->state_dir, h->bridge) < 0)
        return error_set(e, ENFILE, "bridge: every name from trapeze0 on is taken");
    int r = bridge_choose(nl, l->state_dir, h, e);
    if (r < 0)
        return r;
    h->version = STATE_VERSION;
    h->created = time(NULL);
    h->magic = STATE_MAGIC;
    return 0;
}

static int fill_slot(struct state_slot *s, const struct network_member *m, struct error *e)
{
    memset(s, 0, sizeof(*s));
    s->used = true;
    snprintf(s->id, sizeof(s->id), "%s", m->id);
    snprintf(s->name, sizeof(s->name), "%s", m->name);
    snprintf(s->hostname, sizeof(s->hostname), "%s", m->hostname);
    snprintf(s->link, sizeof(s->link), "tz%.12s", m->id);
    if (m->n_ports > NETWORK_PORTS_MAX)
        return error_set(e, E2BIG, "--publish: given too often; %u ports are possible", NETWORK_PORTS_MAX);
    if (m->n_dns > NETWORK_DNS_MAX)
        return error_set(e, E2BIG, "--dns: given too often; %u servers are possible", NETWORK_DNS_MAX);
    for (size_t i = 0; i < m->n_ports; i++) {
        const struct net_forward *f = &m->ports[i];
        struct in_addr a = {0};
        if (f->address[0] && inet_pton(AF_INET, f->address, &a) != 1)
            return error_set(e, EINVAL, "--publish: \"%s\" is no IPv4 address", f->address);
        s->ports[s->n_ports++] = (struct state_port){
            .address = ntohl(a.s_addr), .udp = f->udp, .host_port = f->host_port, .port = f->guest_port};
    }
    for (size_t i = 0; i < m->n_dns; i++)
        if (!names_server_parse(&s->servers[i], m->dns[i]))
            return error_set(e, EINVAL, "--dns %.60s: is no address", m->dns[i]);
    return 0;
}

static void write_slot(struct state_slot *to, const struct state_slot *from)
{
    state_begin(to);
    memcpy((u8 *)to + sizeof(to->sequence), (const u8 *)from + sizeof(from->sequence),
           sizeof(*to) - sizeof(to->sequence));
    state_end(to);
}

static int enter(struct network_link *l, const char *network, const struct network_member *m, struct error *e)
{
    struct state_file *map = l->map;
    struct state_header *h = &map->header;
    struct state_slot s;
    int r = fill_slot(&s, m, e);
    CLEANUP_FD int nl = r == 0 ? nl_open(NETLINK_ROUTE, e) : -1;
    if (r < 0 || nl < 0)
        return r < 0 ? r : nl;
    if ((r = first_use(l, nl, h, e)) < 0)
        return r;
    network_sweep(l->file, map, NULL);
    if ((r = bridge_up(l, nl, h, e)) < 0)
        return r;
    if ((r = state_take(l->file, map)) < 0)
        return error_set(e, -r, "network %s: all %u addresses are taken", network, state_slots(h));
    u32 slot = (u32)r;
    if ((r = ports_reserve(l, &s, e)) < 0)
        return r;
    write_slot(&map->slot[slot], &s);
    l->slot = slot;
    l->address = state_address(h, slot);
    l->gateway = h->subnet + 1;
    l->prefix = h->prefix;
    read_servers(h);
    l->names = names_start(l, network, h, NULL) == 0;
    l->server = l->gateway;
    return 0;
}

int network_join(struct network_link *l, const char *state, const char *network, const struct network_member *m,
                 struct error *e)
{
    memset(l, 0, sizeof(*l));
    l->file = l->state_dir = -1;
    l->slot = STATE_SLOTS;
    if (network_missing())
        return error_set(e, EPERM, "--network %s: %s; --network none or host do not", network, network_missing());
    int r = open_network(l, state, network, e);
    if (r == 0)
        r = enter(l, network, m, e);
    if (r == 0) {
        state_unlock(l->file, LOCK_HEADER);
        return 0;
    }
    if (l->map)
        network_leave(l);
    sys_close(&l->state_dir);
    l->state_dir = -1;
    return r;
}

/* --- connecting --- */

/* A netlink socket in the namespace; this thread is back in its own when it returns. */
static int open_inside(int namespace, struct error *e)
{
    CLEANUP_FD int own = open("/proc/thread-self/ns/net", O_RDONLY | O_CLOEXEC);
    if (own < 0 || setns(namespace, CLONE_NEWNET) < 0)
        return sys_error(e, "network namespace");
    int nl = nl_open(NETLINK_ROUTE, e);
    if (setns(own, CLONE_NEWNET) < 0) /* nothing is right any more when that fails, and it can not */
        abort();
    return nl;
}

static int lay_cable(struct network_link *l, int namespace, struct error *e)
{
    const struct state_file *map = l->map;
    const struct state_slot *s = &map->slot[l->slot];
    u8 mac[6];
    CLEANUP_FD int nl = nl_open(NETLINK_ROUTE, e);
    if (nl < 0)
        return nl;
    mac_of(l->address, mac);
    const struct nl_link cable = {.name = s->link,
                                  .bridge = map->header.bridge,
                                  .peer = INTERFACE,
                                  .peer_namespace = namespace,
                                  .peer_mac = mac,
                                  .mtu = map->header.mtu};
    int r = nl_cable_make(nl, &cable);
    if (r == -EEXIST && nl_delete(nl, s->link) == 0) /* of one before, whose namespace is not gone yet */
        r = nl_cable_make(nl, &cable);
    return r < 0 ? error_set(e, -r, "interface %s at bridge %s: %s", s->link, map->header.bridge, strerror(-r)) : 0;
}

static int set_inside(const struct network_link *l, int namespace, struct error *e)
{
    CLEANUP_FD int nl = open_inside(namespace, e);
    if (nl < 0)
        return nl;
    int index = nl_index(nl, INTERFACE), r = MIN(index, 0);
    if (r == 0)
        r = nl_address_add(nl, index, l->address, l->prefix);
    if (r == 0)
        r = nl_up(nl, index);
    if (r == 0)
        r = nl_default_route(nl, index, l->gateway);
    return r < 0 ? error_set(e, -r, "address and route of the container: %s", strerror(-r)) : 0;
}

static int open_ports(struct network_link *l, struct error *e)
{
    struct state_file *map = l->map;
    struct state_slot *s = &map->slot[l->slot];
    struct rules_text t = {0};
    if (!s->n_ports)
        return 0;
    int r = state_lock(l->file, LOCK_HEADER, true);
    if (r < 0)
        return error_set(e, -r, "network: lock");
    s->connected = true; /* before it is true: rule 1 */
    rules_ports(&t, "add", s, l->address);
    r = rules_apply(&t, e);
    if (r < 0)
        s->connected = false;
    state_unlock(l->file, LOCK_HEADER);
    return r;
}

int network_connect(struct network_link *l, pid_t pid, struct error *e)
{
    char path[40];
    snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
    CLEANUP_FD int namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0)
        return sys_error(e, "%s", path);
    int r = lay_cable(l, namespace, e);
    if (r == 0)
        r = set_inside(l, namespace, e);
    return r == 0 ? open_ports(l, e) : r;
}

/* --- asking --- */

struct wanted {
    const char *id;
    json_t *found;
};

static void find_in(int dir, const char *name, void *arg)
{
    struct wanted *w = arg;
    struct state_file *map;
    struct state_slot s;
    char address[INET_ADDRSTRLEN], gateway[INET_ADDRSTRLEN], hardware[24];
    u8 mac[6];
    int file = w->found ? -1 : state_open(dir, name, false, false, &map, NULL);
    for (u32 i = 0; file >= 0 && i < STATE_SLOTS && !w->found; i++) {
        if (!state_read(&map->slot[i], &s) || strcmp(s.id, w->id))
            continue;
        const struct in_addr a = {htonl(state_address(&map->header, i))}, g = {htonl(map->header.subnet + 1)};
        mac_of(state_address(&map->header, i), mac);
        snprintf(hardware, sizeof(hardware), "%02x:%02x:%02x:%02x:%02x:%02x", mac[0], mac[1], mac[2], mac[3], mac[4],
                 mac[5]);
        inet_ntop(AF_INET, &a, address, sizeof(address));
        inet_ntop(AF_INET, &g, gateway, sizeof(gateway));
        w->found = json_pack("{s:s,s:s,s:i,s:s,s:s}", "network", name, "address", address, "prefix",
                             (int)map->header.prefix, "gateway", gateway, "mac", hardware);
    }
    if (file >= 0)
        state_close(&file, &map);
}

json_t *network_member_json(const char *state, const char *id)
{
    struct wanted w = {.id = id};
    each(state, find_in, &w);
    return w.found;
}
