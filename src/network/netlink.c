/*
 * Interfaces, addresses and routes by rtnetlink(7), and one question to nftables. Messages are few and small, and each has an
 * answer; a library would be more to load than this is to read.
 */
#include "network/state.h"
#include "container/sys.h"

#include <errno.h>
#include <linux/if_link.h>
#include <linux/netfilter.h>
#include <linux/netfilter/nf_tables.h>
#include <linux/netfilter/nfnetlink.h>
#include <linux/rtnetlink.h>
#include <linux/veth.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#define DEPTH   4
#define REQUEST 512

struct request {
    union {
        struct nlmsghdr header;
        u8 bytes[REQUEST];
    };
    u32 open[DEPTH]; /* where nested attributes begin */
    u32 depth;
};

/* `n` bytes behind what is there. The sizes are known when this is written: no message comes near the room. */
static void *extend(struct request *q, size_t n)
{
    u32 at = NLMSG_ALIGN(q->header.nlmsg_len);
    if (at + n > sizeof(q->bytes))
        __builtin_trap();
    q->header.nlmsg_len = at + (u32)n;
    return q->bytes + at;
}

static void begin(struct request *q, u16 type, u16 flags, const void *body, size_t size)
{
    memset(q, 0, sizeof(*q));
    q->header.nlmsg_len = NLMSG_HDRLEN;
    q->header.nlmsg_type = type;
    q->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_ACK | flags;
    memcpy(extend(q, size), body, size);
}

static void put(struct request *q, u16 type, const void *data, size_t size)
{
    struct rtattr *a = extend(q, RTA_LENGTH(size));
    a->rta_type = type;
    a->rta_len = (u16)RTA_LENGTH(size);
    memcpy(RTA_DATA(a), data, size);
}

static void put32(struct request *q, u16 type, u32 v)
{
    put(q, type, &v, sizeof(v));
}

static void put_text(struct request *q, u16 type, const char *text)
{
    put(q, type, text, strlen(text) + 1);
}

static void nest(struct request *q, u16 type)
{
    struct rtattr *a = extend(q, RTA_LENGTH(0));
    a->rta_type = type;
    q->open[q->depth++] = (u32)((u8 *)a - q->bytes);
}

static void unnest(struct request *q)
{
    u32 at = q->open[--q->depth];
    ((struct rtattr *)(q->bytes + at))->rta_len = (u16)(q->header.nlmsg_len - at);
}

int nl_open(int protocol, struct error *e)
{
    int fd = socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, protocol);
    return fd < 0 ? sys_error(e, "netlink") : fd;
}

/* Send it and read until its answer: what else comes is the answer's body, which nobody wants. */
static int ask(int nl, const struct request *q)
{
    union {
        struct nlmsghdr header;
        u8 bytes[8192];
    } answer;
    if (send(nl, q->bytes, q->header.nlmsg_len, 0) < 0)
        return -errno;
    for (;;) {
        ssize_t n = recv(nl, &answer, sizeof(answer), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        u32 left = (u32)n;
        for (struct nlmsghdr *h = &answer.header; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left))
            if (h->nlmsg_type == NLMSG_ERROR && h->nlmsg_len >= NLMSG_LENGTH(sizeof(int)))
                return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
    }
}

/* --- interfaces --- */

int nl_bridge_make(int nl, const char *name, u32 mtu)
{
    struct request q;
    const struct ifinfomsg up = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    begin(&q, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof(up));
    put_text(&q, IFLA_IFNAME, name);
    if (mtu)
        put32(&q, IFLA_MTU, mtu);
    nest(&q, IFLA_LINKINFO);
    put_text(&q, IFLA_INFO_KIND, "bridge");
    unnest(&q);
    return ask(nl, &q);
}

/* Both ends at once: ours a port of the bridge, if there is one, the other one eth0 of the container, which can not be up before this one is made. */
int nl_cable_make(int nl, const struct nl_link *l)
{
    struct request q;
    const struct ifinfomsg up = {.ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    const struct ifinfomsg down = {0};
    u32 bridge = l->bridge ? if_nametoindex(l->bridge) : 0;
    if (l->bridge && !bridge)
        return -ENODEV;
    begin(&q, RTM_NEWLINK, NLM_F_CREATE | NLM_F_EXCL, &up, sizeof(up));
    put_text(&q, IFLA_IFNAME, l->name);
    if (bridge)
        put32(&q, IFLA_MASTER, bridge);
    if (l->mtu)
        put32(&q, IFLA_MTU, l->mtu);
    nest(&q, IFLA_LINKINFO);
    put_text(&q, IFLA_INFO_KIND, "veth");
    nest(&q, IFLA_INFO_DATA);
    nest(&q, VETH_INFO_PEER);
    memcpy(extend(&q, sizeof(down)), &down, sizeof(down));
    put_text(&q, IFLA_IFNAME, l->peer);
    if (l->peer_mac)
        put(&q, IFLA_ADDRESS, l->peer_mac, 6);
    put32(&q, IFLA_NET_NS_FD, (u32)l->peer_namespace);
    if (l->mtu)
        put32(&q, IFLA_MTU, l->mtu);
    unnest(&q);
    unnest(&q);
    unnest(&q);
    return ask(nl, &q);
}

int nl_delete(int nl, const char *name)
{
    struct request q;
    const struct ifinfomsg none = {0};
    begin(&q, RTM_DELLINK, 0, &none, sizeof(none));
    put_text(&q, IFLA_IFNAME, name);
    return ask(nl, &q);
}

/* --- one interface --- */

int nl_index(int nl, const char *name)
{
    union {
        struct nlmsghdr header;
        u8 bytes[8192];
    } answer;
    struct request q;
    const struct ifinfomsg none = {0};
    begin(&q, RTM_GETLINK, 0, &none, sizeof(none));
    q.header.nlmsg_flags = NLM_F_REQUEST;
    put_text(&q, IFLA_IFNAME, name);
    put32(&q, IFLA_EXT_MASK, RTEXT_FILTER_SKIP_STATS);
    if (send(nl, q.bytes, q.header.nlmsg_len, 0) < 0)
        return -errno;
    ssize_t n = recv(nl, &answer, sizeof(answer), 0);
    if (n < 0)
        return -errno;
    if (!NLMSG_OK(&answer.header, (u32)n) || answer.header.nlmsg_type != RTM_NEWLINK ||
        answer.header.nlmsg_len < NLMSG_LENGTH(sizeof(struct ifinfomsg)))
        return -ENODEV;
    return ((const struct ifinfomsg *)NLMSG_DATA(&answer.header))->ifi_index;
}

int nl_up(int nl, int index)
{
    struct request q;
    const struct ifinfomsg up = {.ifi_index = index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
    begin(&q, RTM_NEWLINK, 0, &up, sizeof(up));
    return ask(nl, &q);
}

int nl_address_add(int nl, int index, u32 address, u8 prefix)
{
    struct request q;
    const struct ifaddrmsg m = {.ifa_family = AF_INET, .ifa_prefixlen = prefix, .ifa_index = (u32)index};
    u32 all = prefix < 32 ? ~0u >> prefix : 0;
    begin(&q, RTM_NEWADDR, NLM_F_CREATE | NLM_F_EXCL, &m, sizeof(m));
    put32(&q, IFA_LOCAL, __builtin_bswap32(address));
    put32(&q, IFA_ADDRESS, __builtin_bswap32(address));
    put32(&q, IFA_BROADCAST, __builtin_bswap32(address | all));
    return ask(nl, &q);
}

int nl_default_route(int nl, int index, u32 gateway)
{
    struct request q;
    const struct rtmsg m = {.rtm_family = AF_INET,
                            .rtm_table = RT_TABLE_MAIN,
                            .rtm_protocol = RTPROT_STATIC,
                            .rtm_scope = RT_SCOPE_UNIVERSE,
                            .rtm_type = RTN_UNICAST};
    begin(&q, RTM_NEWROUTE, NLM_F_CREATE | NLM_F_EXCL, &m, sizeof(m));
    put32(&q, RTA_GATEWAY, __builtin_bswap32(gateway));
    put32(&q, RTA_OIF, (u32)index);
    return ask(nl, &q);
}

/* --- lists --- */

/* Each message of a dump to `take`. 0 or -errno. */
static int dump(int nl, struct request *q, void (*take)(void *arg, const struct nlmsghdr *h), void *arg)
{
    u8 answer[32768] __attribute__((aligned(8)));
    q->header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    if (send(nl, q->bytes, q->header.nlmsg_len, 0) < 0)
        return -errno;
    for (;;) {
        ssize_t n = recv(nl, answer, sizeof(answer), 0);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            return -errno;
        u32 left = (u32)n;
        for (const struct nlmsghdr *h = (const void *)answer; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
            if (h->nlmsg_type == NLMSG_DONE)
                return 0;
            if (h->nlmsg_type == NLMSG_ERROR)
                return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
            take(arg, h);
        }
    }
}

struct route_reader {
    struct nl_routes *out;
    u32 but;
};

static void take_route(void *arg, const struct nlmsghdr *h)
{
    struct route_reader *reader = arg;
    const struct rtmsg *m = NLMSG_DATA(h);
    u32 to = 0, interface = 0;
    if (h->nlmsg_type != RTM_NEWROUTE || h->nlmsg_len < NLMSG_LENGTH(sizeof(*m)) || m->rtm_family != AF_INET)
        return;
    int left = (int)RTM_PAYLOAD(h);
    for (const struct rtattr *a = RTM_RTA(m); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        u32 *where = a->rta_type == RTA_DST ? &to : a->rta_type == RTA_OIF ? &interface : NULL;
        if (where && RTA_PAYLOAD(a) >= 4)
            memcpy(where, RTA_DATA(a), 4);
    }
    if (m->rtm_dst_len == 0 && !reader->out->default_interface)
        reader->out->default_interface = interface;
    if (m->rtm_dst_len == 0 || (reader->but && interface == reader->but) ||
        reader->out->n == ARRAY_LEN(reader->out->list))
        return;
    reader->out->list[reader->out->n++] =
        (struct network_subnet){.address = __builtin_bswap32(to), .prefix = m->rtm_dst_len};
}

int nl_routes(int nl, const char *but, struct nl_routes *out)
{
    struct request q;
    const struct rtmsg m = {.rtm_family = AF_INET};
    struct route_reader reader = {.out = out, .but = but ? if_nametoindex(but) : 0};
    memset(out, 0, sizeof(*out));
    begin(&q, RTM_GETROUTE, 0, &m, sizeof(m));
    return dump(nl, &q, take_route, &reader);
}

/* --- nftables --- */

int nl_has_chain(int nl, const char *table, const char *chain)
{
    struct request q;
    const struct nfgenmsg m = {.nfgen_family = NFPROTO_IPV4, .version = NFNETLINK_V0};
    begin(&q, NFNL_SUBSYS_NFTABLES << 8 | NFT_MSG_GETCHAIN, 0, &m, sizeof(m));
    put_text(&q, NFTA_CHAIN_TABLE, table);
    put_text(&q, NFTA_CHAIN_NAME, chain);
    int r = ask(nl, &q);
    return r == 0 ? 1 : r == -ENOENT ? 0 : r;
}
