/* Who has a port: from the kernel's tables of sockets to the process whose descriptor one is. */
#include "backend/net/net.h"

#include <dirent.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* The inode of a socket bound to `port` in one of /proc/net's tables, or 0. */
static unsigned long find_socket(const char *table, bool udp, u16 port)
{
    char path[32], line[512];
    unsigned long found = 0;
    snprintf(path, sizeof(path), "/proc/net/%s", table);
    FILE *f = fopen(path, "re");
    while (f && !found && fgets(line, sizeof(line), f)) {
        unsigned local, state;
        unsigned long inode;
        /* sl: local_address:port remote:port st tx:rx tr:when retrnsmt uid timeout inode */
        if (sscanf(line, " %*d: %*[0-9A-Fa-f]:%x %*[0-9A-Fa-f]:%*x %x %*s %*s %*s %*d %*d %lu", &local, &state,
                   &inode) == 3 &&
            local == port && (udp || state == 10 /* listens */))
            found = inode;
    }
    if (f)
        fclose(f);
    return found;
}

static bool process_has(const char *pid, const char *socket)
{
    char path[300], target[64];
    bool has = false;
    snprintf(path, sizeof(path), "/proc/%.20s/fd", pid);
    DIR *d = opendir(path);
    for (struct dirent *e; d && !has && (e = readdir(d));) {
        snprintf(path, sizeof(path), "/proc/%.20s/fd/%.20s", pid, e->d_name);
        ssize_t n = readlink(path, target, sizeof(target) - 1);
        target[n > 0 ? n : 0] = 0;
        has = !strcmp(target, socket);
    }
    if (d)
        closedir(d);
    return has;
}

void net_port_holder(bool udp, u16 port, char *out, size_t size)
{
    char socket[64], path[64], name[32] = "";
    unsigned long inode = find_socket(udp ? "udp" : "tcp", udp, port);
    if (!inode)
        inode = find_socket(udp ? "udp6" : "tcp6", udp, port);
    out[0] = 0;
    if (!inode)
        return;
    snprintf(socket, sizeof(socket), "socket:[%lu]", inode);
    DIR *d = opendir("/proc");
    for (struct dirent *e; d && (e = readdir(d));) {
        if (e->d_name[0] < '1' || e->d_name[0] > '9' || !process_has(e->d_name, socket))
            continue;
        snprintf(path, sizeof(path), "/proc/%.20s/comm", e->d_name);
        FILE *f = fopen(path, "re");
        if (f && fgets(name, sizeof(name), f))
            name[strcspn(name, "\n")] = 0;
        if (f)
            fclose(f);
        snprintf(out, size, "%s (pid %.20s)", name, e->d_name);
        break;
    }
    if (d)
        closedir(d);
}
