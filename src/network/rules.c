/*
 * The table `trapeze` of nftables. Its rules never change; networks and containers are elements of its sets.
 *
 *     come, own   what is for this host and a published port goes to the container instead: from outside, and from here
 *     leave       what a container sends into the world has this host's address; so has what this host's loopback sends to a
 *                 container, and what a container sends to a published port of its own network: the answer must come back here
 *     pass        answers, published ports, containers of one network among themselves, and containers to the world pass. What
 *                 else is for a container does not: networks are apart, and a neighbour that routes to us reaches no container
 *     guard       containers do not reach this host's loopback addresses, though the bridge takes answers to them
 *
 * An empty chain of the bridge's name says that the network's elements are there: asking for it costs one message, and needs no
 * library. The library (libnftables) is loaded when there is something to change.
 */
#include "network/state.h"

#include <arpa/inet.h>
#include <dlfcn.h>
#include <errno.h>
#include <nftables/libnftables.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* X-macro: what is used of the library. */
#define FUNCTIONS(X)             \
    X(nft_ctx_new)               \
    X(nft_ctx_free)              \
    X(nft_ctx_buffer_error)      \
    X(nft_ctx_get_error_buffer)  \
    X(nft_ctx_buffer_output)     \
    X(nft_ctx_get_output_buffer) \
    X(nft_run_cmd_from_buffer)

struct library {
#define X(name) __typeof__(&name) name;
    FUNCTIONS(X)
#undef X
};

static const char table[] =
    "add table ip trapeze\n"
    "add set ip trapeze bridges { type ifname; }\n"
    "add set ip trapeze same { type ifname . ifname; }\n"
    "add set ip trapeze inside { type ipv4_addr; flags interval; }\n"
    "add map ip trapeze ports { type inet_proto . inet_service : ipv4_addr . inet_service; }\n"
    "add map ip trapeze ports_at { type inet_proto . ipv4_addr . inet_service : ipv4_addr . inet_service; }\n"
    "add chain ip trapeze guard { type filter hook prerouting priority -300; }\n"
    "add chain ip trapeze come { type nat hook prerouting priority -100; }\n"
    "add chain ip trapeze own { type nat hook output priority -100; }\n"
    "add chain ip trapeze leave { type nat hook postrouting priority 100; }\n"
    "add chain ip trapeze pass { type filter hook forward priority 0; }\n"
    "flush chain ip trapeze guard\n"
    "flush chain ip trapeze come\n"
    "flush chain ip trapeze own\n"
    "flush chain ip trapeze leave\n"
    "flush chain ip trapeze pass\n"
    "add rule ip trapeze guard iifname @bridges ip daddr 127.0.0.0/8 drop\n"
    "add rule ip trapeze come ip daddr != 127.0.0.0/8 fib daddr type local "
    "dnat ip to meta l4proto . ip daddr . th dport map @ports_at\n"
    "add rule ip trapeze come ip daddr != 127.0.0.0/8 fib daddr type local "
    "dnat ip to meta l4proto . th dport map @ports\n"
    "add rule ip trapeze own fib daddr type local dnat ip to meta l4proto . ip daddr . th dport map @ports_at\n"
    "add rule ip trapeze own fib daddr type local dnat ip to meta l4proto . th dport map @ports\n"
    "add rule ip trapeze leave ip saddr 127.0.0.0/8 oifname @bridges masquerade\n"
    "add rule ip trapeze leave ip saddr @inside oifname != @bridges oifname != \"lo\" masquerade\n"
    "add rule ip trapeze leave ip saddr @inside oifname @bridges ct status dnat masquerade\n"
    "add rule ip trapeze pass ct state established,related accept\n"
    "add rule ip trapeze pass ct status dnat accept\n"
    "add rule ip trapeze pass iifname . oifname @same accept\n"
    "add rule ip trapeze pass oifname @bridges drop\n"
    "add rule ip trapeze pass iifname @bridges accept\n";

void rules_add(struct rules_text *t, const char *format, ...)
{
    va_list args;
    va_start(args, format);
    int n = vsnprintf(NULL, 0, format, args);
    va_end(args);
    if (t->size + (size_t)n + 1 > t->room) {
        size_t room = 2 * t->room + (size_t)n + 1024;
        char *more = realloc(t->text, room);
        if (!more) {
            t->failed = true;
            return;
        }
        t->text = more;
        t->room = room;
    }
    va_start(args, format);
    vsnprintf(t->text + t->size, t->room - t->size, format, args);
    va_end(args);
    t->size += (size_t)n;
}

void rules_table(struct rules_text *t)
{
    rules_add(t, "%s", table);
}

static const char *dotted(u32 address, char out[INET_ADDRSTRLEN])
{
    const struct in_addr a = {.s_addr = htonl(address)};
    inet_ntop(AF_INET, &a, out, INET_ADDRSTRLEN);
    return out;
}

static void elements(struct rules_text *t, const char *verb, const struct state_header *h)
{
    char a[INET_ADDRSTRLEN];
    rules_add(t, "%s element ip trapeze bridges { \"%s\" }\n", verb, h->bridge);
    rules_add(t, "%s element ip trapeze same { \"%s\" . \"%s\" }\n", verb, h->bridge, h->bridge);
    rules_add(t, "%s element ip trapeze inside { %s/%u }\n", verb, dotted(h->subnet, a), h->prefix);
}

void rules_network(struct rules_text *t, const struct state_header *h)
{
    elements(t, "add", h);
    rules_add(t, "add chain ip trapeze %s\n", h->bridge);
}

void rules_network_delete(struct rules_text *t, const struct state_header *h)
{
    elements(t, "delete", h);
    rules_add(t, "delete chain ip trapeze %s\n", h->bridge);
}

void rules_ports(struct rules_text *t, const char *verb, const struct state_slot *s, u32 address)
{
    char at[INET_ADDRSTRLEN], to[INET_ADDRSTRLEN];
    bool value = !strcmp(verb, "add");
    for (u32 i = 0; i < s->n_ports; i++) {
        const struct state_port *p = &s->ports[i];
        rules_add(t, "%s element ip trapeze %s { %s . ", verb, p->address ? "ports_at" : "ports",
                  p->udp ? "udp" : "tcp");
        if (p->address)
            rules_add(t, "%s . ", dotted(p->address, at));
        rules_add(t, "%u", p->host_port);
        if (value)
            rules_add(t, " : %s . %u", dotted(address, to), p->port);
        rules_add(t, " }\n");
    }
}

static int load(struct library *lib, struct error *e)
{
    void *so = dlopen("libnftables.so.1", RTLD_LAZY | RTLD_LOCAL);
    if (!so)
        return error_set(e, ENOSYS, "libnftables is not on this host; as root: apt-get install libnftables1");
#define X(name)                                      \
    lib->name = (__typeof__(&name))dlsym(so, #name); \
    if (!lib->name)                                  \
        return error_set(e, ENOSYS, "libnftables: has no " #name "; it is too old");
    FUNCTIONS(X)
#undef X
    return 0;
}

int rules_apply(struct rules_text *t, struct error *e)
{
    struct library lib;
    int r = t->failed ? error_set(e, ENOMEM, "out of memory") : load(&lib, e);
    struct nft_ctx *c = r == 0 ? lib.nft_ctx_new(NFT_CTX_DEFAULT) : NULL;
    if (r == 0 && !c)
        r = error_set(e, ENOMEM, "libnftables: does not start");
    if (c) {
        lib.nft_ctx_buffer_error(c);
        if (lib.nft_run_cmd_from_buffer(c, t->text) != 0) {
            const char *why = lib.nft_ctx_get_error_buffer(c);
            /* "<cmdline>:1:2-3: Error: Could not process rule: .." and what it was about, on lines of their own */
            const char *text = why ? strstr(why, "Error: ") : NULL;
            text = text ? text + 7 : "the kernel refuses";
            r = error_set(e, EIO, "nftables: %.*s; the kernel needs nf_tables with nat, masquerade and fib",
                          (int)MIN(strcspn(text, "\n"), (size_t)200), text);
        }
        lib.nft_ctx_free(c);
    }
    free(t->text);
    *t = (struct rules_text){0};
    return r;
}

void rules_drop_empty(void)
{
    struct library lib;
    struct nft_ctx *c = load(&lib, NULL) == 0 ? lib.nft_ctx_new(NFT_CTX_DEFAULT) : NULL;
    if (!c)
        return;
    lib.nft_ctx_buffer_error(c);
    lib.nft_ctx_buffer_output(c);
    if (lib.nft_run_cmd_from_buffer(c, "list set ip trapeze bridges") == 0) {
        const char *text = lib.nft_ctx_get_output_buffer(c);
        if (text && !strstr(text, "elements"))
            lib.nft_run_cmd_from_buffer(c, "delete table ip trapeze");
    }
    lib.nft_ctx_free(c);
}
