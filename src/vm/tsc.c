#include "vm/tsc.h"
#include "host/host.h"
#include "vm/paths.h"

#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define BOOT_ID 36 /* characters */

struct remembered {
    char boot[BOOT_ID + 1];
    unsigned long long hz;
};

/* The first line of a file, or an empty one. */
static void read_line(const char *path, char *out, size_t size)
{
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd >= 0 ? read(fd, out, size - 1) : 0;
    if (fd >= 0)
        close(fd);
    out[MAX(n, 0)] = 0;
    out[strcspn(out, "\n")] = 0;
}

static u64 recall(const char *path, const char *boot)
{
    char text[80];
    struct remembered r = {.hz = 0};
    read_line(path, text, sizeof(text));
    if (sscanf(text, "%36s %llu", r.boot, &r.hz) != 2 || strcmp(r.boot, boot) != 0)
        return 0;
    return host_tsc_is(r.hz) ? r.hz : 0;
}

/* Whole or not at all; that it can not be written is nobody's trouble. */
static void remember(const char *path, const char *boot, u64 hz)
{
    char text[80], part[PATH_MAX + 16];
    int len = snprintf(text, sizeof(text), "%s %llu\n", boot, (unsigned long long)hz);
    snprintf(part, sizeof(part), "%s.%d", path, (int)getpid());
    int fd = open(part, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return;
    bool written = write(fd, text, (size_t)len) == len;
    close(fd);
    if (!written || rename(part, path) < 0)
        unlink(part);
}

u64 tsc_hz(void)
{
    char dir[PATH_MAX], path[PATH_MAX], boot[BOOT_ID + 1];
    u64 hz = host_tsc_told();
    if (hz)
        return hz;
    read_line("/proc/sys/kernel/random/boot_id", boot, sizeof(boot));
    if (!*boot || paths_state_dir(dir, sizeof(dir), NULL) < 0 || paths_join(path, sizeof(path), dir, "tsc", NULL) < 0)
        return host_tsc_hz();
    if (!(hz = recall(path, boot))) {
        hz = host_tsc_hz();
        remember(path, boot, hz);
    }
    return hz;
}
