/* Network cards and ports as a person names them, and as the registry's JSON has them. */
#include "host/host.h"
#include "vm/config.h"

#include <ctype.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static bool read_mac(const char *text, u8 mac[6])
{
    int end = 0;
    return sscanf(text, "%2hhx:%2hhx:%2hhx:%2hhx:%2hhx:%2hhx%n", &mac[0], &mac[1], &mac[2], &mac[3], &mac[4], &mac[5],
                  &end) == 6 &&
           end == 17 && !text[17] && !strpbrk(text, " +-");
}

void vm_net_mac(const struct vm_net *n, u8 mac[6])
{
    if (!read_mac(n->mac, mac))
        memset(mac, 0, 6);
}

static bool starts(const char *word, size_t len, const char *with)
{
    size_t n = strlen(with);
    return len >= n && !memcmp(word, with, n);
}

static int parse_word(struct vm_net *n, const char *word, size_t len, struct error *e)
{
    static const char mac[] = "mac=";
    if (n->kind == NET_USER && len == 4 && starts(word, len, "host")) {
        n->host = true;
        return 0;
    }
    if (!starts(word, len, mac))
        return error_set(e, EINVAL, "--network %s: %.*s is not known; mac=52:54:00:12:34:56 is%s",
                         net_kind_name(n->kind), (int)MIN(len, (size_t)60), word,
                         n->kind == NET_USER ? ", and host" : "");
    word += sizeof(mac) - 1;
    len -= sizeof(mac) - 1;
    if (len >= sizeof(n->mac))
        return error_set(e, EINVAL,
                         "--network: mac=%.*s: no address of a card; write six bytes as in 52:54:00:12:34:56",
                         (int)MIN(len, (size_t)40), word);
    memcpy(n->mac, word, len);
    n->mac[len] = 0;
    return 0;
}

static int parse_kind(struct vm_net *n, const char *text, size_t len, struct error *e)
{
    const char *colon = memchr(text, ':', len);
    size_t kind = colon ? (size_t)(colon - text) : len, name = colon ? len - kind - 1 : 0;
    int k = net_kind_find(text, kind);
    if (k < 0)
        return error_set(e, EINVAL,
                         "--network %.*s: no such kind; user, tap:IFNAME, bridge:NAME, switch:NAME and none are",
                         (int)MIN(len, (size_t)60), text);
    n->kind = (enum net_kind)k;
    if (net_kind_named(n->kind) != (name > 0))
        return error_set(e, EINVAL, "--network %.*s: %s", (int)MIN(len, (size_t)60), text,
                         name ? "takes no name" : "needs a name behind a colon");
    if (name >= (n->kind == NET_SWITCH ? sizeof(n->name) : 16u))
        return error_set(e, EINVAL, "--network %.*s..: the name is too long", (int)MIN(len, (size_t)60), text);
    if (name)
        memcpy(n->name, colon + 1, name);
    return 0;
}

int vm_net_parse(struct vm_net *n, const char *text, struct error *e)
{
    size_t len = strcspn(text, ",");
    *n = (struct vm_net){0};
    if (!strcmp(text, "none"))
        return 0;
    int r = parse_kind(n, text, len, e);
    while (r == 0 && text[len]) {
        text += len + 1;
        len = strcspn(text, ",");
        r = parse_word(n, text, len, e);
    }
    return r < 0 ? r : 1;
}

/* A port number at *s, ended by `end`; moves behind that. 0: none. */
static u16 port_at(const char **s, char end)
{
    u32 v = 0;
    const char *p = *s;
    for (; isdigit((unsigned char)*p) && v < 65536; p++)
        v = v * 10 + (u32)(*p - '0');
    if (p == *s || *p != end || v > 65535)
        return 0;
    *s = p + (end != 0);
    return (u16)v;
}

int vm_forward_parse(struct net_forward *f, const char *text, struct error *e)
{
    const char *slash = strchr(text, '/'), *p = text;
    char body[128];
    size_t len = slash ? (size_t)(slash - text) : strlen(text);
    *f = (struct net_forward){.udp = slash && !strcmp(slash, "/udp")};
    if (text[0] == '[')
        return error_set(e, ENOSYS, "--publish %.60s: ports on IPv6 addresses are not there yet; name an IPv4 address",
                         text);
    if (len >= sizeof(body) || (slash && !f->udp && strcmp(slash, "/tcp")))
        goto wrong;
    memcpy(body, text, len);
    body[len] = 0;
    p = body;
    const char *first = strchr(body, ':'), *last = strrchr(body, ':');
    if (first != last) { /* an address before the ports */
        unsigned a[4];
        int end = 0;
        if (sscanf(body, "%3u.%3u.%3u.%3u:%n", &a[0], &a[1], &a[2], &a[3], &end) != 4 || !end ||
            (a[0] | a[1] | a[2] | a[3]) > 255 || first != body + end - 1)
            goto wrong;
        snprintf(f->address, sizeof(f->address), "%u.%u.%u.%u", a[0], a[1], a[2], a[3]);
        p = body + end;
    }
    f->host_port = port_at(&p, ':');
    f->guest_port = f->host_port ? port_at(&p, 0) : 0;
    if (f->guest_port)
        return 0;
wrong:
    return error_set(e, EINVAL, "--publish %.60s: write [HOSTADDR:]HOSTPORT:GUESTPORT[/udp], as in 8080:80", text);
}

void vm_net_addresses(struct vm_config *c)
{
    u8 r[3];
    for (unsigned i = 0; i < c->n_nets; i++) {
        if (c->nets[i].mac[0])
            continue;
        host_random(r, sizeof(r));
        snprintf(c->nets[i].mac, sizeof(c->nets[i].mac), "52:54:00:%02x:%02x:%02x", r[0], r[1], r[2]);
    }
}

static int check_mac(const struct vm_config *c, unsigned i, struct error *e)
{
    const char *text = c->nets[i].mac;
    u8 mac[6];
    if (!text[0])
        return 0;
    if (!read_mac(text, mac))
        return error_set(e, EINVAL, "--network: mac=%s: no address of a card; write six bytes as in 52:54:00:12:34:56",
                         text);
    if (mac[0] & 1)
        return error_set(e, EINVAL, "--network: mac=%s: an address of many (its first byte is odd); take 52:54:00:..",
                         text);
    for (unsigned k = 0; k < i; k++)
        if (!strcasecmp(c->nets[k].mac, text))
            return error_set(e, EINVAL, "--network: mac=%s: two cards have it; take another", text);
    return 0;
}

int vm_nets_check(const struct vm_config *c, struct error *e)
{
    bool user = false;
    if (c->n_nets > NET_COUNT_MAX || c->n_forwards > NET_FORWARDS)
        return error_set(e, EINVAL, "--network, --publish: given too often; %u cards and %u ports are possible",
                         NET_COUNT_MAX, NET_FORWARDS);
    for (unsigned i = 0; i < c->n_nets; i++) {
        const struct vm_net *n = &c->nets[i];
        int r = check_mac(c, i, e);
        if (r < 0)
            return r;
        if (n->name[strcspn(n->name, "/ \t\n%")] || n->name[0] == '.')
            return error_set(e, EINVAL, "--network %s:%s: no name that an interface or switch can have",
                             net_kind_name(n->kind), n->name);
        user |= n->kind == NET_USER;
    }
    if (c->n_forwards && !user)
        return error_set(e, EINVAL, "--publish: only a card in user mode has ports on the host; add --network user");
    return 0;
}

/* --- JSON --- */

json_t *vm_nets_to_json(const struct vm_config *c)
{
    json_t *a = json_array();
    for (unsigned i = 0; a && i < c->n_nets; i++) {
        const struct vm_net *n = &c->nets[i];
        json_array_append_new(a, json_pack("{s:s,s:s,s:s,s:b}", "kind", net_kind_name(n->kind), "name", n->name, "mac",
                                           n->mac, "host", n->host));
    }
    return a;
}

json_t *vm_forwards_to_json(const struct vm_config *c)
{
    json_t *a = json_array();
    for (unsigned i = 0; a && i < c->n_forwards; i++) {
        const struct net_forward *f = &c->forwards[i];
        json_array_append_new(a, json_pack("{s:s,s:i,s:i,s:s}", "address", f->address, "port", f->host_port,
                                           "guest_port", f->guest_port, "protocol", f->udp ? "udp" : "tcp"));
    }
    return a;
}

static int copy(char *out, size_t size, const char *s)
{
    if (strlen(s) >= size)
        return -1;
    strcpy(out, s);
    return 0;
}

static int net_from_json(struct vm_net *n, json_t *j)
{
    const char *kind, *name = "", *mac = "";
    int host = 0, k;
    if (json_unpack(j, "{s:s,s?s,s?s,s?b}", "kind", &kind, "name", &name, "mac", &mac, "host", &host) < 0 ||
        (k = net_kind_find(kind, strlen(kind))) < 0)
        return -1;
    *n = (struct vm_net){.kind = (enum net_kind)k, .host = host};
    return copy(n->name, sizeof(n->name), name) | copy(n->mac, sizeof(n->mac), mac);
}

static int forward_from_json(struct net_forward *f, json_t *j)
{
    const char *address = "", *protocol = "tcp";
    int port, guest;
    if (json_unpack(j, "{s?s,s:i,s:i,s?s}", "address", &address, "port", &port, "guest_port", &guest, "protocol",
                    &protocol) < 0 ||
        port < 1 || port > 65535 || guest < 1 || guest > 65535)
        return -1;
    *f = (struct net_forward){.udp = !strcmp(protocol, "udp"), .host_port = (u16)port, .guest_port = (u16)guest};
    return copy(f->address, sizeof(f->address), address);
}

int vm_nets_from_json(struct vm_config *c, const json_t *nets, const json_t *forwards)
{
    if ((nets && !json_is_array(nets)) || (forwards && !json_is_array(forwards)) ||
        json_array_size(nets) > NET_COUNT_MAX || json_array_size(forwards) > NET_FORWARDS)
        return -1;
    for (; c->n_nets < json_array_size(nets); c->n_nets++)
        if (net_from_json(&c->nets[c->n_nets], json_array_get(nets, c->n_nets)) < 0)
            return -1;
    for (; c->n_forwards < json_array_size(forwards); c->n_forwards++)
        if (forward_from_json(&c->forwards[c->n_forwards], json_array_get(forwards, c->n_forwards)) < 0)
            return -1;
    return 0;
}
