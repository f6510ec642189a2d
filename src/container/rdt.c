/*
 * Not tested on real hardware: no machine of ours has it. The rules are those of the specification (config-linux.md,
 * IntelRdt), on files below /sys/fs/resctrl.
 */
#include "container/rdt.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/vfs.h>
#include <unistd.h>

#define RDT_MOUNT "/sys/fs/resctrl"
#define RDT_MAGIC 0x7655821

static bool has_schema(const struct spec_rdt *r)
{
    return r->l3 || r->bandwidth || r->schemata.n;
}

/* Each line that is wanted must be among those that a class made by others has. */
static int check_schema(int dir, const char *line, struct error *e)
{
    char text[4096];
    if (!line)
        return 0;
    if (sys_read_small(dir, "schemata", text, sizeof(text)) < 0 || !strstr(text, line))
        return error_set(e, EINVAL, "linux.intelRdt: the class exists and differs: it lacks \"%.60s\"", line);
    return 0;
}

static int write_schema(int dir, const char *line, struct error *e)
{
    char text[512];
    if (!line)
        return 0;
    int n = snprintf(text, sizeof(text), "%s\n", line);
    int r = n >= (int)sizeof(text) ? -E2BIG : sys_write_at(dir, "schemata", text, (size_t)n);
    return r < 0 ? error_set(e, -r, "linux.intelRdt: schemata \"%.60s\": %s", line, strerror(-r)) : 0;
}

static int set_schema(const struct spec_rdt *r, int dir, bool made, struct error *e)
{
    int (*put)(int, const char *, struct error *) = made ? write_schema : check_schema;
    int bad = put(dir, r->l3, e);
    if (bad == 0)
        bad = put(dir, r->bandwidth, e);
    for (size_t i = 0; i < r->schemata.n && bad == 0; i++)
        bad = put(dir, r->schemata.v[i], e);
    return bad;
}

int rdt_join(const struct spec_rdt *r, const char *id, pid_t pid, struct error *e)
{
    struct statfs fs;
    char text[16], group[300];
    if (!r->given)
        return 0;
    CLEANUP_FD int top = open(RDT_MOUNT, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (top < 0 || fstatfs(top, &fs) < 0 || fs.f_type != RDT_MAGIC)
        return error_set(e, ENOTSUP, "linux.intelRdt: no resctrl file system is mounted at " RDT_MOUNT);
    const char *name = !r->clos ? id : strcmp(r->clos, "/") ? r->clos : ".";
    bool made = mkdirat(top, name, 0755) == 0;
    if (!made && errno != EEXIST)
        return sys_error(e, "linux.intelRdt: class %s", name);
    if (made && r->clos && !has_schema(r)) {
        unlinkat(top, name, AT_REMOVEDIR);
        return error_set(e, ENOENT, "linux.intelRdt.closID: %s does not exist", name);
    }
    CLEANUP_FD int dir = openat(top, name, O_PATH | O_DIRECTORY | O_CLOEXEC);
    if (dir < 0)
        return sys_error(e, "linux.intelRdt: class %s", name);
    int bad = has_schema(r) ? set_schema(r, dir, made, e) : 0;
    snprintf(text, sizeof(text), "%d", (int)pid);
    if (bad == 0 && (bad = sys_write_at(dir, "tasks", text, strlen(text))) < 0)
        error_set(e, -bad, "linux.intelRdt: joining class %s: %s", name, strerror(-bad));
    if (bad == 0 && r->monitoring) {
        snprintf(group, sizeof(group), "mon_groups/%.255s", id);
        if (mkdirat(dir, group, 0755) < 0)
            return sys_error(e, "linux.intelRdt.enableMonitoring");
        snprintf(group, sizeof(group), "mon_groups/%.255s/tasks", id);
        bad = sys_write_at(dir, group, text, strlen(text));
        if (bad < 0)
            error_set(e, -bad, "linux.intelRdt.enableMonitoring: %s", strerror(-bad));
    }
    return bad;
}

void rdt_leave(const struct spec_rdt *r, const char *id)
{
    char path[600];
    if (!r->given)
        return;
    snprintf(path, sizeof(path), RDT_MOUNT "/%.255s/mon_groups/%.255s",
             !r->clos               ? id
             : strcmp(r->clos, "/") ? r->clos
                                    : ".",
             id);
    rmdir(path);
    snprintf(path, sizeof(path), RDT_MOUNT "/%.255s", id);
    if (!r->clos)
        rmdir(path);
}
