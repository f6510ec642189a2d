/* Users and groups by /etc/passwd and /etc/group themselves: a static program has no other way (no name service). */
#include "guest.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define FIELDS_MAX 8

/* Cut a line at its colons; how many fields. */
static unsigned cut(char *line, char **field)
{
    unsigned n = 0;
    line[strcspn(line, "\n")] = 0;
    while (line && n < FIELDS_MAX) {
        field[n++] = line;
        line = strchr(line, ':');
        if (line)
            *line++ = 0;
    }
    return n;
}

static bool number(const char *s, u32 *out)
{
    char *end;
    unsigned long v = strtoul(s, &end, 10);
    *out = (u32)v;
    return *s >= '0' && *s <= '9' && !*end && v < UINT32_MAX;
}

/* The line of a file whose first field is `name` or whose third is the number that `name` is. */
static bool find_line(const char *file, const char *name, char *line, size_t size, char **field, unsigned least)
{
    u32 wanted, id;
    bool by_number = number(name, &wanted), found = false;
    FILE *f = fopen(file, "re");
    while (f && !found && fgets(line, (int)size, f))
        found = cut(line, field) >= least &&
                (!strcmp(field[0], name) || (by_number && number(field[2], &id) && id == wanted));
    if (f)
        fclose(f);
    return found;
}

static bool is_member(char *list, const char *name)
{
    for (char *save, *s = strtok_r(list, ",", &save); s; s = strtok_r(NULL, ",", &save))
        if (!strcmp(s, name))
            return true;
    return false;
}

static void find_groups(struct user *u)
{
    char line[4096], *field[FIELDS_MAX];
    u32 gid;
    FILE *f = fopen("/etc/group", "re");
    u->groups[u->n_groups++] = u->gid;
    while (f && u->n_groups < USER_GROUPS_MAX && fgets(line, sizeof(line), f))
        if (cut(line, field) >= 4 && number(field[2], &gid) && gid != u->gid && is_member(field[3], u->name))
            u->groups[u->n_groups++] = gid;
    if (f)
        fclose(f);
}

static int find_user(struct user *u, const char *name, struct error *e)
{
    char line[1024], *field[FIELDS_MAX];
    u32 uid, gid;
    bool known = find_line("/etc/passwd", name, line, sizeof(line), field, 7) && number(field[2], &uid) &&
                 number(field[3], &gid);
    *u = (struct user){.home = "/", .shell = "/bin/sh"};
    if (known) {
        u->uid = uid;
        u->gid = gid;
        snprintf(u->name, sizeof(u->name), "%s", field[0]);
        snprintf(u->home, sizeof(u->home), "%s", *field[5] ? field[5] : "/");
        snprintf(u->shell, sizeof(u->shell), "%s", *field[6] ? field[6] : "/bin/sh");
    } else if (number(name, &uid) || !strcmp(name, "root")) {
        u->uid = strcmp(name, "root") ? uid : 0; /* a guest may have no list of users at all */
        snprintf(u->name, sizeof(u->name), "%s", name);
    } else {
        return error_set(e, ENXIO, "user %.60s: not known in the guest", name);
    }
    return 0;
}

int user_find(struct user *u, const char *text, struct error *e)
{
    char name[64], line[4096], *field[FIELDS_MAX];
    u32 gid;
    size_t len = strcspn(text, ":");
    snprintf(name, sizeof(name), "%.*s", (int)MIN(len, sizeof(name) - 1), len ? text : "root");
    if (!len)
        snprintf(name, sizeof(name), "root");
    int r = find_user(u, name, e);
    if (r < 0)
        return r;
    if (!text[len]) {
        find_groups(u);
        return 0;
    }
    const char *group = text + len + 1;
    if (find_line("/etc/group", group, line, sizeof(line), field, 3) && number(field[2], &gid))
        u->gid = gid;
    else if (number(group, &gid))
        u->gid = gid;
    else
        return error_set(e, ENXIO, "group %.60s: not known in the guest", group);
    u->groups[u->n_groups++] = u->gid;
    return 0;
}
