/* config.json: section, but for resources and seccomp. */
#include "container/spec.h"

#include <sched.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mount.h>
#include <sys/personality.h>

static void read_namespaces(struct reader *r, const struct node *section, struct spec *s)
{
    struct node list, n;
    u64 flag = 0, seen = 0;
    s->namespaces = read_list(r, section, "namespaces", sizeof(*s->namespaces), &list, &s->n_namespaces);
    for (size_t i = 0; i < s->n_namespaces && read_element(r, &list, i, &n); i++) {
        if (!read_needed(r, &n, "type") || !read_word(r, &n, "type", spec_namespace_words, &flag))
            return;
        const char *path = read_string(r, &n, "path");
        if (path && *path && path[0] != '/')
            reader_wrong(r, &n, "path", "\"%.100s\" is not absolute", path);
        if (seen & flag)
            reader_wrong(r, &n, "type", "%s is given twice", word_name(spec_namespace_words, flag));
        seen |= flag;
        s->namespaces[i] = (struct spec_namespace){flag, path && *path ? path : NULL};
    }
}

static void read_devices(struct reader *r, const struct node *section, struct spec *s)
{
    struct node list, n;
    s->devices = read_list(r, section, "devices", sizeof(*s->devices), &list, &s->n_devices);
    for (size_t i = 0; i < s->n_devices && read_element(r, &list, i, &n); i++) {
        struct spec_device *d = &s->devices[i];
        const char *type = read_needed(r, &n, "type");
        if (type && (strlen(type) != 1 || !strchr("bcup", type[0])))
            reader_wrong(r, &n, "type", "\"%.20s\" is none of b, c, u, p", type);
        d->type = type ? type[0] : 0;
        d->path = read_needed(r, &n, "path");
        if (d->path && d->path[0] != '/')
            reader_wrong(r, &n, "path", "\"%.100s\" is not absolute", d->path);
        struct opt_s64 major = read_s64(r, &n, "major", 0, UINT32_MAX), minor = read_s64(r, &n, "minor", 0, UINT32_MAX);
        if (d->type != 'p' && (!major.set || !minor.set))
            reader_wrong(r, &n, NULL, "major and minor are missing");
        d->major = (u32)major.v;
        d->minor = (u32)minor.v;
        struct opt_u64 mode = read_u64(r, &n, "fileMode", UINT32_MAX);
        d->has_mode = mode.set;
        d->mode = mode.set ? (u32)mode.v & 07777 : 0666;
        d->uid = (u32)read_u64(r, &n, "uid", UINT32_MAX - 1).v;
        d->gid = (u32)read_u64(r, &n, "gid", UINT32_MAX - 1).v;
    }
}

static void read_net_devices(struct reader *r, const struct node *section, struct spec *s)
{
    struct node map, n;
    if (!read_object(r, section, "netDevices", &map))
        return;
    s->net_devices.v = arena_array(r->arena, 2 * json_object_size(map.json) + 1, sizeof(char *));
    if (!s->net_devices.v)
        return;
    const char *host;
    json_t *value;
    json_object_foreach((json_t *)map.json, host, value)
    {
        n = (struct node){.json = value, .up = &map, .name = host};
        const char *inside = json_is_object(value) ? read_string(r, &n, "name") : NULL;
        inside = inside && *inside ? inside : host;
        if (!json_is_object(value))
            reader_wrong(r, &n, NULL, "is no object");
        if (!*host || strlen(host) > 15 || strlen(inside) > 15 || strpbrk(host, "/: \t\n") ||
            strpbrk(inside, "/: \t\n%"))
            reader_wrong(r, &n, NULL, "is no name of a network interface");
        s->net_devices.v[s->net_devices.n++] = (char *)host;
        s->net_devices.v[s->net_devices.n++] = (char *)inside;
    }
    const struct spec_namespace *net = spec_namespace(s, CLONE_NEWNET);
    if (s->net_devices.n && !net)
        reader_wrong(r, section, "netDevices", "need a namespace of type network in linux.namespaces");
}

static void read_time(struct reader *r, const struct node *section, struct spec *s)
{
    struct node all, n;
    if (!read_object(r, section, "timeOffsets", &all))
        return;
    const struct {
        const char *name;
        struct spec_time_offset *out;
    } clocks[] = {{"monotonic", &s->time_monotonic}, {"boottime", &s->time_boottime}};
    for (size_t i = 0; i < ARRAY_LEN(clocks); i++) {
        if (!read_object(r, &all, clocks[i].name, &n))
            continue;
        clocks[i].out->given = true;
        clocks[i].out->secs = read_s64(r, &n, "secs", INT64_MIN, INT64_MAX).v;
        clocks[i].out->nanosecs = (u32)read_u64(r, &n, "nanosecs", 999999999).v;
    }
    const struct spec_namespace *time = spec_namespace(s, 0x80 /* CLONE_NEWTIME */);
    if ((s->time_monotonic.given || s->time_boottime.given) && (!time || time->path))
        reader_wrong(r, section, "timeOffsets", "need a new namespace of type time in linux.namespaces");
}

static void read_rdt(struct reader *r, const struct node *section, struct spec *s)
{
    struct node n;
    if (!read_object(r, section, "intelRdt", &n))
        return;
    s->rdt.given = true;
    s->rdt.clos = read_string(r, &n, "closID");
    s->rdt.l3 = read_string(r, &n, "l3CacheSchema");
    s->rdt.bandwidth = read_string(r, &n, "memBwSchema");
    s->rdt.schemata = read_strings(r, &n, "schemata");
    s->rdt.monitoring = read_bool(r, &n, "enableMonitoring", false);
    if (s->rdt.clos && strcmp(s->rdt.clos, "/") && (strchr(s->rdt.clos, '/') || s->rdt.clos[0] == '.'))
        reader_wrong(r, &n, "closID", "\"%.60s\" is no name of a directory", s->rdt.clos);
    if (s->rdt.bandwidth && (strncmp(s->rdt.bandwidth, "MB:", 3) || strchr(s->rdt.bandwidth, '\n')))
        reader_wrong(r, &n, "memBwSchema", "does not begin with MB:, or is more than a line");
    if (s->rdt.l3 && strchr(s->rdt.l3, '\n'))
        reader_wrong(r, &n, "l3CacheSchema", "is more than a line");
}

static void read_memory_policy(struct reader *r, const struct node *section, struct spec *s)
{
    struct node n;
    u64 mode = 0;
    if (!read_object(r, section, "memoryPolicy", &n))
        return;
    s->memory_policy.given = true;
    if (read_needed(r, &n, "mode") && read_word(r, &n, "mode", spec_memory_mode_words, &mode))
        s->memory_policy.mode = (u32)mode;
    s->memory_policy.flags = (u32)read_words(r, &n, "flags", spec_memory_flag_words);
    s->memory_policy.nodes = read_string(r, &n, "nodes");
}

static void read_personality(struct reader *r, const struct node *section, struct spec *s)
{
    static const struct word domains[] = {{"LINUX", PER_LINUX}, {"LINUX32", PER_LINUX32}, {NULL, 0}};
    struct node n;
    u64 domain = 0;
    if (!read_object(r, section, "personality", &n))
        return;
    if (read_needed(r, &n, "domain") && read_word(r, &n, "domain", domains, &domain))
        s->personality = (struct opt_u64){true, domain};
    if (read_strings(r, &n, "flags").n)
        reader_wrong(r, &n, "flags", "no flag is known");
}

static struct strings read_paths(struct reader *r, const struct node *section, const char *name)
{
    struct strings s = read_strings(r, section, name);
    for (size_t i = 0; i < s.n; i++)
        if (s.v[i][0] != '/')
            reader_wrong(r, section, name, "\"%.100s\" is not absolute", s.v[i]);
    return s;
}

/* These write to what the host shares with all its containers, unless a namespace of its own holds it. */
static void check_sysctl(struct reader *r, const struct node *section, const struct spec *s)
{
    static const char *const ipc[] = {"kernel.msgmax", "kernel.msgmnb", "kernel.msgmni", "kernel.sem",
                                      "kernel.shmall", "kernel.shmmax", "kernel.shmmni", "kernel.shm_rmid_forced"};
    for (size_t i = 0; i < s->sysctl.n; i += 2) {
        const char *name = s->sysctl.v[i];
        u64 needs = 0;
        if (!strncmp(name, "net.", 4) || !strncmp(name, "net/", 4))
            needs = CLONE_NEWNET;
        if (!strncmp(name, "fs.mqueue.", 10) || !strncmp(name, "fs/mqueue/", 10))
            needs = CLONE_NEWIPC;
        if (!strcmp(name, "kernel.domainname"))
            needs = CLONE_NEWUTS;
        for (size_t k = 0; k < ARRAY_LEN(ipc); k++)
            if (!strcmp(name, ipc[k]))
                needs = CLONE_NEWIPC;
        if (strstr(name, "..") || strstr(name, "//"))
            needs = 0;
        if (!strcmp(name, "kernel.hostname"))
            reader_wrong(r, section, "sysctl", "kernel.hostname: use the field hostname");
        else if (!needs)
            reader_wrong(r, section, "sysctl", "%.100s: would change the host: it belongs to no namespace", name);
        else if (!spec_namespace(s, needs))
            reader_wrong(r, section, "sysctl", "%.100s: needs a namespace of type %s", name,
                         word_name(spec_namespace_words, needs));
    }
}

void spec_read_linux(struct reader *r, const struct node *section, struct spec *s)
{
    static const struct word propagation[] = {
        {"private", MS_PRIVATE},
        {"rprivate", MS_PRIVATE | MS_REC},
        {"shared", MS_SHARED},
        {"rshared", MS_SHARED | MS_REC},
        {"slave", MS_SLAVE},
        {"rslave", MS_SLAVE | MS_REC},
        {"unbindable", MS_UNBINDABLE},
        {"runbindable", MS_UNBINDABLE | MS_REC},
        {"", 0},
        {NULL, 0},
    };
    struct node n;
    read_namespaces(r, section, s);
    s->uid_maps = spec_read_id_maps(r, section, "uidMappings");
    s->gid_maps = spec_read_id_maps(r, section, "gidMappings");
    const struct spec_namespace *user = spec_namespace(s, CLONE_NEWUSER);
    if (s->uid_maps.n && !user)
        reader_wrong(r, section, "uidMappings", "need a namespace of type user in linux.namespaces");
    if (s->gid_maps.n && !user)
        reader_wrong(r, section, "gidMappings", "need a namespace of type user in linux.namespaces");
    if (user && !user->path && (!s->uid_maps.n || !s->gid_maps.n))
        reader_wrong(r, section, s->uid_maps.n ? "gidMappings" : "uidMappings", "a new user namespace needs them");
    read_devices(r, section, s);
    read_net_devices(r, section, s);
    s->cgroups_path = read_string(r, section, "cgroupsPath");
    if (read_object(r, section, "resources", &n))
        spec_read_resources(r, &n, &s->resources);
    if (read_object(r, section, "seccomp", &n))
        spec_read_seccomp(r, &n, &s->seccomp);
    s->sysctl = read_map(r, section, "sysctl");
    check_sysctl(r, section, s);
    s->masked_paths = read_paths(r, section, "maskedPaths");
    s->readonly_paths = read_paths(r, section, "readonlyPaths");
    if ((s->masked_paths.n || s->readonly_paths.n) && !spec_namespace(s, CLONE_NEWNS))
        reader_wrong(r, section, s->masked_paths.n ? "maskedPaths" : "readonlyPaths", "need a namespace of type mount");
    s->mount_label = read_string(r, section, "mountLabel");
    read_word(r, section, "rootfsPropagation", propagation, &s->rootfs_propagation);
    read_personality(r, section, s);
    read_time(r, section, s);
    read_rdt(r, section, s);
    read_memory_policy(r, section, s);
}
