#include "container/userns.h"
#include "container/idmap.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <pwd.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

/* The first range of at least `least` numbers that a file (subuid(5)) gives a user, by name or number. */
static bool find_range(const char *file, const char *name, uid_t uid, u32 least, struct spec_id_map *out)
{
    char line[256], owner[128], number[16];
    u32 start, count;
    bool found = false;
    FILE *f = fopen(file, "re");
    snprintf(number, sizeof(number), "%u", (unsigned)uid);
    while (f && !found && fgets(line, sizeof(line), f)) {
        found = sscanf(line, "%127[^:]:%u:%u", owner, &start, &count) == 3 &&
                (!strcmp(owner, name) || !strcmp(owner, number)) && count >= least && count;
        if (found)
            *out = (struct spec_id_map){1, start, MIN(count, USERNS_RANGE)};
    }
    if (f)
        fclose(f);
    return found;
}

void userns_ids(struct userns_ids *out, u32 least)
{
    const struct passwd *pw = getpwuid(geteuid());
    char number[16];
    snprintf(number, sizeof(number), "%u", (unsigned)geteuid());
    const char *name = pw ? pw->pw_name : number;
    memset(out, 0, sizeof(*out));
    out->uid[0] = (struct spec_id_map){0, geteuid(), 1};
    out->gid[0] = (struct spec_id_map){0, getegid(), 1};
    out->n = 1;
    if (find_range("/etc/subuid", name, geteuid(), least, &out->uid[1]) &&
        find_range("/etc/subgid", name, geteuid(), least, &out->gid[1]))
        out->n = 2;
    else
        snprintf(out->why, sizeof(out->why), "user %.60s has no range of numbers in /etc/subuid and /etc/subgid", name);
}

static int make(const struct userns_ids *ids, struct error *e)
{
    const struct spec_id_maps uid = {(struct spec_id_map *)(uintptr_t)ids->uid, ids->n};
    const struct spec_id_maps gid = {(struct spec_id_map *)(uintptr_t)ids->gid, ids->n};
    return idmap_namespace(&uid, &gid, e);
}

/* With all numbers; with the own one alone, where the others can not be had. */
static int make_any(struct userns_ids *ids, struct error *e)
{
    struct error why = {0};
    int fd = make(ids, &why);
    if (fd < 0 && ids->n == 2) {
        ids->n = 1;
        snprintf(ids->why, sizeof(ids->why), "%.190s", why.msg);
        fd = make(ids, &why);
    }
    if (fd < 0)
        return error_set(
            e, why.code,
            "%.200s: containers need a user namespace when it is not root who starts them; see the sysctls "
            "user.max_user_namespaces and kernel.unprivileged_userns_clone; in a chroot there can be none",
            why.msg);
    return fd;
}

static int keep_home(struct error *e)
{
    const char *home = getenv("HOME");
    const struct passwd *pw = home && home[0] == '/' ? NULL : getpwuid(getuid());
    return pw && setenv("HOME", pw->pw_dir, 1) < 0 ? error_set(e, ENOMEM, "out of memory") : 0;
}

int userns_enter(char *why, struct error *e)
{
    struct userns_ids ids;
    if (why)
        why[0] = 0;
    if (geteuid() == 0)
        return 0;
    userns_ids(&ids, 1);
    int r = keep_home(e);
    CLEANUP_FD int fd = r < 0 ? r : make_any(&ids, e);
    if (fd < 0)
        return fd;
    if (setns(fd, CLONE_NEWUSER) < 0)
        return sys_error(e, "user namespace: entering it");
    if (why)
        memcpy(why, ids.why, sizeof(ids.why));
    return 0;
}

int userns_join(pid_t pid, struct error *e)
{
    char path[64];
    struct stat mine, theirs;
    snprintf(path, sizeof(path), "/proc/%d/ns/user", (int)pid);
    CLEANUP_FD int fd = open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0 || fstat(fd, &theirs) < 0 || stat("/proc/self/ns/user", &mine) < 0)
        return geteuid() == 0 ? 0 : sys_error(e, "user namespace of process %d", (int)pid);
    if (mine.st_ino == theirs.st_ino || geteuid() == 0)
        return 0;
    int r = keep_home(e);
    return r == 0 && setns(fd, CLONE_NEWUSER) < 0 ? sys_error(e, "user namespace: entering it") : r;
}

/* Whether a file of mappings has a number; *count of all in it. */
static bool maps(const char *file, u32 wanted, u64 *count)
{
    char text[4096];
    bool found = false;
    *count = 0;
    if (sys_read_small(AT_FDCWD, file, text, sizeof(text)) <= 0)
        return false;
    for (const char *line = text; line; line = strchr(line, '\n'), line += line != NULL) {
        unsigned inside, outside, size;
        if (sscanf(line, "%u %u %u", &inside, &outside, &size) != 3)
            continue;
        found |= wanted >= inside && wanted - inside < size;
        *count += size;
    }
    return found;
}

bool userns_has(u32 uid, u32 gid)
{
    u64 n;
    return maps("/proc/self/uid_map", uid, &n) && maps("/proc/self/gid_map", gid, &n);
}

bool userns_single(void)
{
    u64 n;
    maps("/proc/self/uid_map", 0, &n);
    return n == 1;
}
