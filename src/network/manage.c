/* `trapeze network`: networks themselves. */
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
#include <time.h>
#include <unistd.h>

static bool is_reserved(const char *name)
{
    static const char *const words[] = {NETWORK_DEFAULT, "none", "host", "user", "tap", "switch", "default"};
    for (size_t i = 0; i < ARRAY_LEN(words); i++)
        if (!strcmp(words[i], name))
            return true;
    return false;
}

bool network_exists(const char *state, const char *name)
{
    if (!strcmp(name, NETWORK_DEFAULT))
        return true;
    CLEANUP_FD int dir = state_check_name(name, NULL) < 0 ? -1 : state_directory(state, false, NULL);
    return dir >= 0 && faccessat(dir, name, F_OK, AT_SYMLINK_NOFOLLOW) == 0;
}

static int set_subnet(int nl, int dir, struct state_header *h, const char *name, const char *subnet, struct error *e)
{
    struct network_subnet s;
    if (!subnet)
        return bridge_choose(nl, dir, h, e);
    int r = network_subnet_parse(&s, subnet, e);
    if (r == 0)
        r = bridge_check_subnet(nl, dir, &s, name, e);
    h->subnet = s.address;
    h->prefix = s.prefix;
    return r;
}

static int fill(int dir, struct state_header *h, const char *name, const char *subnet, struct error *e)
{
    CLEANUP_FD int nl = nl_open(NETLINK_ROUTE, e);
    if (h->magic)
        return error_set(e, EEXIST, "network %s: is there already", name);
    int r = nl < 0 ? nl : set_subnet(nl, dir, h, name, subnet, e);
    if (r == 0 && bridge_name(dir, h->bridge) < 0)
        r = error_set(e, ENFILE, "bridge: every name from trapeze0 on is taken");
    if (r < 0)
        return r;
    h->chosen = !subnet;
    h->version = STATE_VERSION;
    h->created = time(NULL);
    h->magic = STATE_MAGIC;
    return 0;
}

int network_create(const char *state, const char *name, const char *subnet, struct error *e)
{
    struct state_file *map;
    int r = state_check_name(name, e);
    if (r == 0 && is_reserved(name))
        return error_set(e, EINVAL, "network name \"%s\": has a meaning of its own; choose another", name);
    if (r == 0 && network_missing())
        return error_set(e, EPERM, "network %s: %s", name, network_missing());
    CLEANUP_FD int dir = r < 0 ? r : state_directory(state, true, e);
    if (dir < 0)
        return dir;
    int file = state_open(dir, name, true, true, &map, e);
    if (file < 0)
        return file;
    bool is_new = map->header.magic == 0;
    r = fill(dir, &map->header, name, subnet, e);
    if (r < 0 && is_new)
        unlinkat(dir, name, 0);
    state_close(&file, &map);
    return r;
}

/* --- looking --- */

static json_t *describe_member(const struct state_header *h, const struct state_slot *s, u32 slot)
{
    char address[INET_ADDRSTRLEN], text[64];
    const struct in_addr a = {htonl(state_address(h, slot))};
    json_t *ports = json_array();
    for (u32 i = 0; i < s->n_ports; i++) {
        ports_text(&s->ports[i], text);
        json_array_append_new(ports, json_string(text));
    }
    inet_ntop(AF_INET, &a, address, sizeof(address));
    return json_pack("{s:s,s:s,s:s,s:s,s:o}", "id", s->id, "name", s->name, "hostname", s->hostname, "address", address,
                     "ports", ports);
}

static json_t *describe(const char *name, int file, const struct state_file *map)
{
    const struct state_header *h = &map->header;
    char net[INET_ADDRSTRLEN], gateway[INET_ADDRSTRLEN], subnet[24];
    const struct in_addr a = {htonl(h->subnet)}, g = {htonl(h->subnet + 1)};
    struct state_slot s;
    json_t *members = json_array();
    for (u32 i = 0; i < STATE_SLOTS; i++)
        if (state_read(&map->slot[i], &s) && state_locked(file, LOCK_SLOTS + i, 1))
            json_array_append_new(members, describe_member(h, &s, i));
    inet_ntop(AF_INET, &a, net, sizeof(net));
    inet_ntop(AF_INET, &g, gateway, sizeof(gateway));
    snprintf(subnet, sizeof(subnet), "%s/%u", net, h->prefix);
    return json_pack("{s:s,s:s,s:s,s:s,s:b,s:I,s:o}", "name", name, "subnet", subnet, "gateway", gateway, "bridge",
                     h->bridge, "up", if_nametoindex(h->bridge) != 0, "created", (json_int_t)h->created, "containers",
                     members);
}

static json_t *inspect_in(int dir, const char *name, struct error *e)
{
    struct state_file *map;
    int file = state_open(dir, name, false, false, &map, e);
    if (file == -ENOENT)
        error_set(e, ENOENT, "network %.40s: there is none; `trapeze network list` shows them", name);
    if (file < 0)
        return NULL;
    json_t *j = map->header.magic ? describe(name, file, map) : NULL;
    if (!j)
        error_set(e, ENOENT, "network %.40s: is just being made, or was left half made", name);
    state_close(&file, &map);
    return j;
}

json_t *network_inspect(const char *state, const char *name, struct error *e)
{
    if (state_check_name(name, e) < 0)
        return NULL;
    CLEANUP_FD int dir = state_directory(state, false, e);
    if (dir < 0) {
        error_set(e, ENOENT, "network %.40s: there is none", name);
        return NULL;
    }
    return inspect_in(dir, name, e);
}

static int by_name(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static int is_network(const struct dirent *d)
{
    return d->d_name[0] != '.';
}

/* Names of all networks: free each, and the list. */
static int list_names(const char *state, struct dirent ***out)
{
    int n = scandir(state, out, is_network, by_name);
    if (n < 0)
        *out = NULL;
    return MAX(n, 0);
}

json_t *network_list(const char *state, struct error *e)
{
    struct dirent **names;
    int n = list_names(state, &names);
    json_t *list = json_array();
    CLEANUP_FD int dir = state_directory(state, false, NULL);
    for (int i = 0; i < n; i++) {
        json_t *one = inspect_in(dir, names[i]->d_name, e);
        if (one)
            json_array_append_new(list, one);
        free(names[i]);
    }
    free(names);
    return list;
}

/* --- removing --- */

static bool has_members(int file)
{
    return state_locked(file, LOCK_SLOTS, 0);
}

static int remove_locked(int dir, const char *name, int file, struct state_file *map, struct error *e)
{
    if (has_members(file))
        return error_set(e, EINVAL, "network %s: containers are in it; `trapeze network inspect %s` lists them", name,
                         name);
    network_sweep(file, map, NULL);
    CLEANUP_FD int nl = nl_open(NETLINK_ROUTE, e);
    if (nl < 0)
        return nl;
    if (map->header.magic == STATE_MAGIC)
        bridge_down(nl, file, &map->header);
    return unlinkat(dir, name, 0) < 0 && errno != ENOENT ? sys_error(e, "network %s", name) : 0;
}

/* A file that can not be understood has its name still. */
static int remove_damaged(int dir, const char *name, const struct error *why, struct error *e)
{
    if (why->code == EBADMSG && unlinkat(dir, name, 0) == 0)
        return 0;
    return error_set(e, why->code, "%s", why->msg);
}

int network_remove(const char *state, const char *name, struct error *e)
{
    struct state_file *map;
    struct error why = {0};
    int r = state_check_name(name, e);
    CLEANUP_FD int dir = r < 0 ? r : state_directory(state, false, e);
    int file = dir < 0 ? dir : state_open(dir, name, false, true, &map, &why);
    if (r < 0)
        return r;
    if (file == -ENOENT)
        return error_set(e, ENOENT, "network %.40s: there is none; `trapeze network list` shows them", name);
    if (file < 0)
        return remove_damaged(dir, name, &why, e);
    r = remove_locked(dir, name, file, map, e);
    state_close(&file, &map);
    return r;
}

int network_prune(const char *state, json_t *removed, struct error *e)
{
    struct dirent **names;
    struct state_file *map;
    int r = 0, n = list_names(state, &names);
    CLEANUP_FD int dir = state_directory(state, false, NULL);
    for (int i = 0; i < n; i++) {
        int file = r < 0 ? -1 : state_open(dir, names[i]->d_name, false, true, &map, NULL);
        if (file >= 0 && !has_members(file)) {
            r = remove_locked(dir, names[i]->d_name, file, map, e);
            if (r == 0)
                json_array_append_new(removed, json_string(names[i]->d_name));
        }
        if (file >= 0)
            state_close(&file, &map);
        free(names[i]);
    }
    free(names);
    return r;
}
