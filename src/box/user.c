/* Users and groups by the files of the container's root: anybody may have written them, so they are read, not trusted. */
#include "box/parts.h"
#include "container/inroot.h"
#include "container/sys.h"
#include "container/userns.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define FILE_MAX (1u << 20)

/* A plain file of the root, "" when there is none; free it. */
static char *read_file(int root, const char *path)
{
    struct stat st;
    char *text = NULL, name[SYS_FD_PATH];
    size_t size;
    CLEANUP_FD int fd = inroot_open(root, path, O_PATH);
    if (fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode) &&
        sys_read_at(AT_FDCWD, sys_fd_path(fd, name), FILE_MAX, &text, &size) == 0)
        return text;
    return strdup("");
}

static bool number(const char *s, u32 *out)
{
    char *end;
    if (!*s || strspn(s, "0123456789") != strlen(s) || strlen(s) > 10)
        return false;
    unsigned long long v = strtoull(s, &end, 10);
    *out = (u32)v;
    return v < UINT32_MAX;
}

/* Cut a line of "a:b:c" at its colons: the number of fields. */
static size_t cut(char *line, char **field, size_t max)
{
    size_t n = 0;
    while (n < max && line)
        field[n++] = strsep(&line, ":");
    return n;
}

/* By name, or by number when no line has that name. The home comes from the line. */
static bool find_user(char *passwd, const char *name, struct box_user *u)
{
    u32 wanted = 0;
    bool numeric = number(name, &wanted);
    for (char *line; (line = strsep(&passwd, "\n"));) {
        char *field[7];
        u32 uid, gid;
        if (cut(line, field, 7) < 6 || !number(field[2], &uid) || !number(field[3], &gid))
            continue;
        if (numeric ? uid != wanted : strcmp(field[0], name) != 0)
            continue;
        u->uid = uid;
        u->gid = gid;
        snprintf(u->home, sizeof(u->home), "%s", field[5][0] == '/' ? field[5] : "/");
        return true;
    }
    u->uid = wanted;
    return numeric;
}

static bool in_list(char *list, const char *name)
{
    for (char *one; (one = strsep(&list, ","));)
        if (!strcmp(one, name))
            return true;
    return false;
}

/* The number of a group; with `member`, more groups of that user are added. */
static bool find_groups(char *text, const char *name, const char *member, struct box_user *u)
{
    u32 gid;
    bool found = name && number(name, &u->gid);
    for (char *line; (line = strsep(&text, "\n"));) {
        char *field[4];
        size_t n = cut(line, field, 4);
        if (n < 3 || !number(field[2], &gid))
            continue;
        if (name && !found && !strcmp(field[0], name)) {
            u->gid = gid;
            found = true;
        }
        if (member && n == 4 && u->n_groups < BOX_GROUPS && gid != u->gid && in_list(field[3], member))
            u->groups[u->n_groups++] = gid;
    }
    return found || !name;
}

int box_user_find(int root, const char *text, struct box_user *u, struct error *e)
{
    char name[256];
    memset(u, 0, sizeof(*u));
    snprintf(u->home, sizeof(u->home), "/");
    if (snprintf(name, sizeof(name), "%s", *text ? text : "0") >= (int)sizeof(name))
        return error_set(e, EINVAL, "user \"%.60s..\": too long", text);
    char *group = strchr(name, ':');
    if (group)
        *group++ = 0;
    CLEANUP_FREE char *passwd = read_file(root, "etc/passwd"), *groups = read_file(root, "etc/group");
    if (!passwd || !groups)
        return error_set(e, ENOMEM, "out of memory");
    if (!find_user(passwd, name, u))
        return error_set(e, EINVAL, "user \"%.60s\": is not in the image's /etc/passwd", name);
    if (!find_groups(groups, group && *group ? group : NULL, group || number(name, &(u32){0}) ? NULL : name, u))
        return error_set(e, EINVAL, "group \"%.60s\": is not in the image's /etc/group", group);
    if (!userns_has(u->uid, u->gid))
        return error_set(e, EPERM,
                         "user \"%.60s\": is %u:%u, which containers of this host's user do not have; /etc/subuid and "
                         "/etc/subgid give ranges, by newuidmap and newgidmap",
                         text, u->uid, u->gid);
    return 0;
}
