/*
 * Published ports are rules, no sockets; but a port that is given away must look taken to everybody else. So the owner keeps a
 * socket on it, which never gets a packet: the rules are before it, and a filter drops what should come in spite of them.
 */
#include "network/state.h"
#include "container/sys.h"

#include <arpa/inet.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <linux/filter.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

void ports_text(const struct state_port *p, char out[64])
{
    char at[INET_ADDRSTRLEN];
    const struct in_addr a = {.s_addr = htonl(p->address)};
    inet_ntop(AF_INET, &a, at, sizeof(at));
    snprintf(out, 64, "%s:%u->%u/%s", at, p->host_port, p->port, p->udp ? "udp" : "tcp");
}

/* The container that has it, among all networks of the directory: "container NAME", or "". */
static void find_member(int dir, const struct state_port *p, char *out, size_t size);

static int explain(const struct network_link *l, const struct state_port *p, int why, struct error *e)
{
    char holder[128] = "", text[64];
    ports_text(p, text);
    if (why == EADDRINUSE) {
        find_member(l->state_dir, p, holder, sizeof(holder));
        if (!holder[0])
            net_port_holder(p->udp, p->host_port, holder, sizeof(holder));
        return error_set(e, why, "--publish %s: %s port %u of this host is in use%s%s; choose another", text,
                         p->udp ? "UDP" : "TCP", p->host_port, holder[0] ? " by " : "", holder);
    }
    if (why == EADDRNOTAVAIL)
        return error_set(e, why, "--publish %s: this host has no such address", text);
    return error_set(e, why, "--publish %s: %s", text, strerror(why));
}

static int reserve(const struct state_port *p)
{
    struct sock_filter drop = BPF_STMT(BPF_RET | BPF_K, 0);
    const struct sock_fprog program = {.len = 1, .filter = &drop};
    const struct sockaddr_in a = {
        .sin_family = AF_INET, .sin_port = htons(p->host_port), .sin_addr.s_addr = htonl(p->address)};
    int one = 1;
    CLEANUP_FD int fd = socket(AF_INET, (p->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);
    if (fd < 0 || setsockopt(fd, SOL_SOCKET, SO_ATTACH_FILTER, &program, sizeof(program)) < 0)
        return -errno;
    /* Connections that a server before us has closed do not keep it from us; without listening, we would not keep it from others. */
    if (!p->udp)
        setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &one, sizeof(one));
    if (bind(fd, (const struct sockaddr *)&a, sizeof(a)) < 0 || (!p->udp && listen(fd, 1) < 0))
        return -errno;
    return sys_take(&fd);
}

int ports_reserve(struct network_link *l, const struct state_slot *s, struct error *e)
{
    for (u32 i = 0; i < s->n_ports; i++) {
        int fd = reserve(&s->ports[i]);
        if (fd < 0)
            return explain(l, &s->ports[i], -fd, e);
        l->reserved[l->n_reserved++] = fd;
    }
    return 0;
}

void ports_release(struct network_link *l)
{
    while (l->n_reserved)
        sys_close(&l->reserved[--l->n_reserved]);
}

/* --- who has it --- */

static void look_in(int dir, const char *name, const struct state_port *p, char *out, size_t size)
{
    struct state_file *map;
    struct state_slot s;
    int file = state_open(dir, name, false, false, &map, NULL);
    if (file < 0)
        return;
    for (u32 i = 0; i < STATE_SLOTS && !out[0]; i++) {
        if (!state_read(&map->slot[i], &s) || !state_locked(file, LOCK_SLOTS + i, 1))
            continue;
        for (u32 k = 0; k < s.n_ports; k++)
            if (s.ports[k].host_port == p->host_port && s.ports[k].udp == p->udp &&
                (s.ports[k].address == p->address || !s.ports[k].address || !p->address))
                snprintf(out, size, "container %s", s.name);
    }
    state_close(&file, &map);
}

static void find_member(int dir, const struct state_port *p, char *out, size_t size)
{
    const struct dirent *d;
    int fd = openat(dir, ".", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    DIR *list = fd < 0 ? NULL : fdopendir(fd);
    while (list && !out[0] && (d = readdir(list)))
        if (d->d_name[0] != '.')
            look_in(dir, d->d_name, p, out, size);
    if (list)
        closedir(list);
}
