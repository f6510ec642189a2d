/* The network of a container: which one, its ports, and the files that tell its programs about it. */
#include "box/parts.h"
#include "container/sys.h"
#include "image/tree.h"
#include "vm/config.h"
#include "vm/paths.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define RESOLV_CONF "/etc/resolv.conf"
#define FILE_MAX    65536

int box_networks(char *out, size_t size, struct error *e)
{
    char state[PATH_MAX];
    int r = paths_state_dir(state, sizeof(state), e);
    return r == 0 ? paths_join(out, size, state, "networks", e) : r;
}

static const char *dotted(u32 address, char out[INET_ADDRSTRLEN])
{
    const struct in_addr a = {htonl(address)};
    inet_ntop(AF_INET, &a, out, INET_ADDRSTRLEN);
    return out;
}

static bool is(const struct box_options *o, const char *network)
{
    return o->network && !strcmp(o->network, network);
}

bool box_net_is_host(const struct box_options *o)
{
    return is(o, "host");
}

static bool is_user(const struct box_options *o)
{
    return is(o, NETWORK_USER) || is(o, NETWORK_USER ",host");
}

/* --- checks --- */

/* "NAME:ADDRESS" */
static int check_host(const char *text, struct error *e)
{
    struct in6_addr a;
    const char *colon = strchr(text, ':');
    if (!colon || colon == text || colon - text > 255 || text[strcspn(text, " \t\n#")] ||
        (inet_pton(AF_INET, colon + 1, &a) != 1 && inet_pton(AF_INET6, colon + 1, &a) != 1))
        return error_set(e, EINVAL, "--add-host %.60s: write NAME:ADDRESS", text);
    return 0;
}

static int check_ports(const struct box_options *o, struct error *e)
{
    struct net_forward f;
    int r = 0;
    if (o->ports.n && (is(o, "none") || is(o, "host")))
        return error_set(e, EINVAL, "--publish: with --network %s there is nothing to publish to", o->network);
    if (o->ports.n > (int)NETWORK_PORTS_MAX)
        return error_set(e, E2BIG, "--publish: given too often; %u ports are possible", NETWORK_PORTS_MAX);
    for (int i = 0; r == 0 && i < o->ports.n; i++)
        r = vm_forward_parse(&f, o->ports.v[i], e);
    return r;
}

int box_net_check(const struct box_options *o, struct error *e)
{
    char state[PATH_MAX];
    struct in6_addr a;
    int r = check_ports(o, e);
    for (int i = 0; r == 0 && i < o->hosts.n; i++)
        r = check_host(o->hosts.v[i], e);
    for (int i = 0; r == 0 && i < o->dns.n; i++)
        if (inet_pton(AF_INET, o->dns.v[i], &a) != 1 && inet_pton(AF_INET6, o->dns.v[i], &a) != 1)
            r = error_set(e, EINVAL, "--dns %.60s: is no address", o->dns.v[i]);
    if (r == 0 && o->dns.n && (is(o, "none") || is(o, "host")))
        r = error_set(e, EINVAL, "--dns: with --network %s nobody would be asked", o->network);
    if (r < 0 || !o->network || is(o, "none") || is(o, "host"))
        return r;
    if (is_user(o))
        return network_user_missing() ? error_set(e, ENOSYS, "--network user: %s", network_user_missing()) : 0;
    if (network_missing())
        return error_set(e, EPERM, "--network %.40s: %s; user (the default then), none and host do not", o->network,
                         network_missing());
    r = box_networks(state, sizeof(state), e);
    if (r == 0 && !network_exists(state, o->network))
        r = error_set(e, ENOENT,
                      "--network %.40s: there is no such network for containers; bridge (the default), user, host and "
                      "none are always there, `trapeze network create %.40s` makes one",
                      o->network, o->network);
    return r;
}

/* --- joining --- */

/* User mode: all that is known before there is a namespace. */
static int join_user(struct network_link *l, struct network_user *u, const struct box_options *o,
                     const struct net_forward *ports)
{
    u->host_loopback = is(o, NETWORK_USER ",host");
    u->n_ports = (size_t)o->ports.n;
    memcpy(u->ports, ports, u->n_ports * sizeof(*ports));
    *l = (struct network_link){.user = true,
                               .address = NETWORK_USER_ADDRESS,
                               .gateway = NETWORK_USER_GATEWAY,
                               .prefix = NETWORK_USER_PREFIX,
                               .names = !o->dns.n,
                               .server = NETWORK_USER_NAMES};
    return 0;
}

/*
 * Whether user mode takes the place of a bridge that can not be: for who is not root, who never has one; for root when nothing
 * was asked for that differs between the two.
 */
static bool user_will_do(const struct box_options *o, int why)
{
    bool plain = !o->ports.n && !o->dns.n && why != -EADDRNOTAVAIL;
    return !o->network && (network_missing() || plain) && !network_user_missing();
}

static bool can_do_without(const struct box_options *o, int why)
{
    return !o->network && !o->ports.n && !o->dns.n && why != -EADDRNOTAVAIL;
}

int box_net_join(struct network_link *l, struct network_user *u, const struct box *b, const char *name,
                 const struct box_options *o, struct error *e)
{
    struct net_forward ports[NETWORK_PORTS_MAX];
    char state[PATH_MAX];
    struct error why = {0};
    if (is(o, "none") || is(o, "host"))
        return 0;
    for (int i = 0; i < o->ports.n && i < (int)NETWORK_PORTS_MAX; i++)
        vm_forward_parse(&ports[i], o->ports.v[i], NULL);
    if (is_user(o))
        return join_user(l, u, o, ports);
    const struct network_member m = {.id = b->id,
                                     .name = name,
                                     .hostname = box_config_hostname(b, o),
                                     .ports = ports,
                                     .n_ports = (size_t)o->ports.n,
                                     .dns = o->dns.v,
                                     .n_dns = (size_t)o->dns.n};
    int r = box_networks(state, sizeof(state), e);
    if (r == 0)
        r = !o->network && network_missing() && network_user_missing()
                ? error_set(&why, ENOSYS, "--network user: %s", network_user_missing())
                : network_join(l, state, o->network ? o->network : NETWORK_DEFAULT, &m, &why);
    if (r < 0 && user_will_do(o, r)) {
        join_user(l, u, o, ports);
        if (!b->rootless) /* who has no other is not told each time */
            snprintf(l->note, sizeof(l->note), "network in user mode: %.140s", why.msg);
        return 0;
    }
    if (r < 0 && can_do_without(o, r)) {
        snprintf(l->note, sizeof(l->note), "no network but the loopback interface: %.140s", why.msg);
        return 0;
    }
    return r < 0 ? error_set(e, why.code ? why.code : -r, "%s", why.msg) : r;
}

json_t *box_net_user_json(const struct network_link *l)
{
    char address[INET_ADDRSTRLEN], gateway[INET_ADDRSTRLEN], server[INET_ADDRSTRLEN];
    if (!l->user)
        return NULL;
    return json_pack("{s:s,s:s,s:i,s:s,s:s}", "network", NETWORK_USER, "address", dotted(l->address, address), "prefix",
                     (int)l->prefix, "gateway", dotted(l->gateway, gateway), "names", dotted(l->server, server));
}

void box_net_forget(const char *id)
{
    char state[PATH_MAX];
    if (box_networks(state, sizeof(state), NULL) == 0)
        network_forget(state, id);
}

json_t *box_net_json(const char *id)
{
    char state[PATH_MAX];
    return box_networks(state, sizeof(state), NULL) == 0 ? network_member_json(state, id) : NULL;
}

/* --- files --- */

struct text {
    char s[FILE_MAX];
    size_t n;
};

static void add(struct text *t, const char *format, ...) __attribute__((format(printf, 2, 3)));
static void add(struct text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(t->s + t->n, sizeof(t->s) - t->n, format, args);
    va_end(args);
    t->n = MIN(t->n + (size_t)MAX(n, 0), sizeof(t->s) - 1);
}

static int write_file(const struct box *b, const char *name, const struct text *t, struct error *e)
{
    int r = tree_write(b->dir, name, t->s, t->n, false, e);
    /* Whoever the program runs as reads it. */
    return r == 0 && fchmodat(b->dir, name, 0644, 0) < 0 ? sys_error(e, "%s/%s", b->data, name) : r;
}

static void add_file(struct text *t, const char *path)
{
    CLEANUP_FREE char *copy = NULL;
    size_t size;
    if (sys_read_at(AT_FDCWD, path, FILE_MAX / 2, &copy, &size) == 0)
        add(t, "%s%s", copy, size && copy[size - 1] != '\n' ? "\n" : "");
}

static void make_hosts(struct text *t, const struct box *b, const struct box_options *o, const struct network_link *l)
{
    char address[INET_ADDRSTRLEN] = "127.0.1.1";
    if (box_net_is_host(o)) {
        add_file(t, "/etc/hosts");
    } else {
        add(t, "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n%s\t%s\n",
            l->address ? dotted(l->address, address) : address, box_config_hostname(b, o));
    }
    for (int i = 0; i < o->hosts.n; i++) {
        const char *colon = strchr(o->hosts.v[i], ':');
        add(t, "%s\t%.*s\n", colon + 1, (int)(colon - o->hosts.v[i]), o->hosts.v[i]);
    }
}

/* The lines of the host's that are not about its servers, and those too, if the container can reach them. */
static void add_resolver(struct text *t, bool servers)
{
    CLEANUP_FREE char *copy = NULL;
    char *next = NULL;
    size_t size;
    if (sys_read_at(AT_FDCWD, RESOLV_CONF, FILE_MAX / 2, &copy, &size) < 0)
        return;
    for (char *line = strtok_r(copy, "\n", &next); line; line = strtok_r(NULL, "\n", &next)) {
        char server[64] = "";
        bool is_server = sscanf(line, " nameserver %63s", server) == 1;
        bool is_local = !strncmp(server, "127.", 4) || !strcmp(server, "::1");
        if (is_server ? servers && !is_local : line[0] != '#' && line[0] != ';')
            add(t, "%s\n", line);
    }
}

static void make_resolver(struct text *t, const struct box_options *o, const struct network_link *l)
{
    char address[INET_ADDRSTRLEN];
    if (box_net_is_host(o)) {
        add_file(t, RESOLV_CONF);
        return;
    }
    if (!l->address)
        return;
    if (l->names)
        add(t, "nameserver %s\n", dotted(l->server, address));
    for (int i = 0; !l->names && i < o->dns.n; i++)
        add(t, "nameserver %s\n", o->dns.v[i]);
    add_resolver(t, !l->names && !o->dns.n);
    if (l->names && !l->user)
        add(t, "options ndots:0\n"); /* a container's name comes before one of the search domains */
}

int box_net_files(const struct box *b, const struct box_options *o, const struct network_link *l, struct error *e)
{
    struct text *t = calloc(1, sizeof(*t));
    if (!t)
        return error_set(e, ENOMEM, "out of memory");
    make_hosts(t, b, o, l);
    int r = write_file(b, "hosts", t, e);
    t->n = 0;
    add(t, "%s\n", box_config_hostname(b, o));
    if (r == 0)
        r = write_file(b, "hostname", t, e);
    t->n = 0;
    t->s[0] = 0;
    make_resolver(t, o, l);
    if (r == 0)
        r = write_file(b, "resolv.conf", t, e);
    free(t);
    return r;
}
