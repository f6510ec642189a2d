/*
 * By rtnetlink. A move takes the addresses away, so the permanent ones of global scope are read before, and put back inside.
 *
 * Not done: routes (they are lost, as the specification allows).
 */
#include "container/netdevice.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_addr.h>
#include <linux/rtnetlink.h>
#include <net/if.h>
#include <sched.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define ADDRESSES 16

struct request {
    struct nlmsghdr header;
    union {
        struct ifinfomsg link;
        struct ifaddrmsg address;
    };
    char space[256];
};

struct address {
    u8 family, prefix;
    u8 bytes[16];
};

static void put(struct request *q, u16 type, const void *data, size_t size)
{
    struct rtattr *a = (struct rtattr *)((char *)q + NLMSG_ALIGN(q->header.nlmsg_len));
    a->rta_type = type;
    a->rta_len = (u16)RTA_LENGTH(size);
    memcpy(RTA_DATA(a), data, size);
    q->header.nlmsg_len = NLMSG_ALIGN(q->header.nlmsg_len) + (u32)RTA_ALIGN(a->rta_len);
}

/* Send one request and read the answer's error. 0 or -errno. */
static int ask(int fd, struct request *q)
{
    char answer[1024];
    q->header.nlmsg_flags |= NLM_F_REQUEST | NLM_F_ACK;
    if (send(fd, q, q->header.nlmsg_len, 0) < 0)
        return -errno;
    ssize_t n = recv(fd, answer, sizeof(answer), 0);
    const struct nlmsghdr *h = (const struct nlmsghdr *)answer;
    if (n < (ssize_t)NLMSG_LENGTH(sizeof(struct nlmsgerr)) || h->nlmsg_type != NLMSG_ERROR)
        return n < 0 ? -errno : -EPROTO;
    return ((const struct nlmsgerr *)NLMSG_DATA(h))->error;
}

static int open_netlink(void)
{
    return socket(AF_NETLINK, SOCK_RAW | SOCK_CLOEXEC, NETLINK_ROUTE);
}

static size_t read_address(const struct nlmsghdr *h, int index, struct address *out)
{
    const struct ifaddrmsg *m = NLMSG_DATA(h);
    if (h->nlmsg_type != RTM_NEWADDR || (int)m->ifa_index != index || m->ifa_scope != RT_SCOPE_UNIVERSE ||
        !(m->ifa_flags & IFA_F_PERMANENT))
        return 0;
    int left = (int)IFA_PAYLOAD(h);
    for (const struct rtattr *a = IFA_RTA(m); RTA_OK(a, left); a = RTA_NEXT(a, left)) {
        u16 wanted = m->ifa_family == AF_INET ? IFA_LOCAL : IFA_ADDRESS;
        if (a->rta_type != wanted || RTA_PAYLOAD(a) > sizeof(out->bytes))
            continue;
        *out = (struct address){.family = m->ifa_family, .prefix = m->ifa_prefixlen};
        memcpy(out->bytes, RTA_DATA(a), RTA_PAYLOAD(a));
        return 1;
    }
    return 0;
}

static size_t read_addresses(int fd, int index, struct address out[ADDRESSES])
{
    struct request q = {.header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)), .nlmsg_type = RTM_GETADDR}};
    char answer[16384];
    size_t found = 0;
    q.header.nlmsg_flags = NLM_F_REQUEST | NLM_F_DUMP;
    if (send(fd, &q, q.header.nlmsg_len, 0) < 0)
        return 0;
    for (;;) {
        ssize_t n = recv(fd, answer, sizeof(answer), 0);
        if (n <= 0)
            return found;
        u32 left = (u32)n;
        for (const struct nlmsghdr *h = (const void *)answer; NLMSG_OK(h, left); h = NLMSG_NEXT(h, left)) {
            if (h->nlmsg_type == NLMSG_DONE || h->nlmsg_type == NLMSG_ERROR)
                return found;
            if (found < ADDRESSES)
                found += read_address(h, index, &out[found]);
        }
    }
}

/* In a process of its own, which enters the namespace: addresses back, and up. */
static int finish_inside(int namespace, const char *name, const struct address *addresses, size_t n)
{
    if (setns(namespace, CLONE_NEWNET) < 0)
        return -errno;
    CLEANUP_FD int fd = open_netlink();
    u32 index = if_nametoindex(name);
    int r = fd < 0 || !index ? -errno : 0;
    for (size_t i = 0; i < n && r == 0; i++) {
        size_t size = addresses[i].family == AF_INET ? 4 : 16;
        struct request q = {.header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifaddrmsg)), .nlmsg_type = RTM_NEWADDR}};
        q.header.nlmsg_flags = NLM_F_CREATE | NLM_F_EXCL;
        q.address = (struct ifaddrmsg){
            .ifa_family = addresses[i].family, .ifa_prefixlen = addresses[i].prefix, .ifa_index = index};
        put(&q, IFA_LOCAL, addresses[i].bytes, size);
        put(&q, IFA_ADDRESS, addresses[i].bytes, size);
        r = ask(fd, &q);
    }
    if (r == 0) {
        struct request q = {.header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)), .nlmsg_type = RTM_SETLINK}};
        q.link = (struct ifinfomsg){.ifi_index = (int)index, .ifi_flags = IFF_UP, .ifi_change = IFF_UP};
        r = ask(fd, &q);
    }
    return r;
}

static int move_one(const char *host, const char *name, pid_t pid, int namespace, struct error *e)
{
    struct address addresses[ADDRESSES];
    CLEANUP_FD int fd = open_netlink();
    u32 index = if_nametoindex(host);
    if (fd < 0 || !index)
        return sys_error(e, "linux.netDevices: %s", host);
    size_t n = read_addresses(fd, (int)index, addresses);
    struct request q = {.header = {.nlmsg_len = NLMSG_LENGTH(sizeof(struct ifinfomsg)), .nlmsg_type = RTM_SETLINK}};
    q.link = (struct ifinfomsg){.ifi_index = (int)index};
    u32 number = (u32)pid;
    put(&q, IFLA_NET_NS_PID, &number, sizeof(number));
    put(&q, IFLA_IFNAME, name, strlen(name) + 1);
    int r = ask(fd, &q);
    if (r < 0)
        return error_set(e, -r, "linux.netDevices: moving %s into the container as %s: %s", host, name, strerror(-r));
    pid_t child = fork();
    if (child == 0)
        _exit(-finish_inside(namespace, name, addresses, n));
    int status = 0;
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (child < 0 || status)
        return error_set(e, EIO, "linux.netDevices: %s inside the container: %s", name,
                         WIFEXITED(status) ? strerror(WEXITSTATUS(status)) : "its helper ended");
    return 0;
}

int netdevice_move(const struct spec *s, pid_t pid, struct error *e)
{
    char path[64];
    int r = 0;
    if (!s->net_devices.n)
        return 0;
    snprintf(path, sizeof(path), "/proc/%d/ns/net", (int)pid);
    CLEANUP_FD int namespace = open(path, O_RDONLY | O_CLOEXEC);
    if (namespace < 0)
        return sys_error(e, "linux.netDevices: %s", path);
    for (size_t i = 0; i + 1 < s->net_devices.n && r == 0; i += 2)
        r = move_one(s->net_devices.v[i], s->net_devices.v[i + 1], pid, namespace, e);
    return r;
}
