/* The configuration of a container (runtime-spec): the image's words, the options, and what every container has. */
#include "box/parts.h"
#include "container/sys.h"
#include "container/spec.h"
#include "image/tree.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <linux/capability.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define PERIOD BOX_CPU_PERIOD

/* What programs of usual images need, and no more: Docker's set. */
static const u64 capabilities_default = BIT(CAP_CHOWN) | BIT(CAP_DAC_OVERRIDE) | BIT(CAP_FSETID) | BIT(CAP_FOWNER) |
                                        BIT(CAP_MKNOD) | BIT(CAP_NET_RAW) | BIT(CAP_SETGID) | BIT(CAP_SETUID) |
                                        BIT(CAP_SETFCAP) | BIT(CAP_SETPCAP) | BIT(CAP_NET_BIND_SERVICE) |
                                        BIT(CAP_SYS_CHROOT) | BIT(CAP_KILL) | BIT(CAP_AUDIT_WRITE);

/* --- capabilities --- */

static int capability_bits(const char *name, u64 *bits, struct error *e)
{
    char full[40];
    u64 number;
    snprintf(full, sizeof(full), "%s%.30s", strncasecmp(name, "CAP_", 4) ? "CAP_" : "", name);
    for (char *p = full; *p; p++)
        *p = *p >= 'a' && *p <= 'z' ? (char)(*p - 32) : *p;
    if (!word_value(spec_capability_words, full, &number))
        return error_set(e, EINVAL, "capability \"%.40s\": is not known; capabilities(7) lists them", name);
    *bits = BIT(number);
    return 0;
}

static int add_bits(const struct box_list *names, u64 *bits, bool *all, struct error *e)
{
    u64 one = 0;
    int r = 0;
    for (int i = 0; r == 0 && i < names->n; i++) {
        if (!strcasecmp(names->v[i], "all"))
            *all = true;
        else if ((r = capability_bits(names->v[i], &one, e)) == 0)
            *bits |= one;
    }
    return r;
}

/* "all" first, whichever side it stands on; then what is added, then what is taken away. */
static int capabilities(const struct box_options *o, u64 *out, struct error *e)
{
    u64 add = 0, drop = 0, known = 0;
    bool all = false, none = false;
    int r = add_bits(&o->cap_add, &add, &all, e);
    if (r == 0)
        r = add_bits(&o->cap_drop, &drop, &none, e);
    for (const struct word *w = spec_capability_words; w->name; w++)
        known |= BIT(w->value);
    *out = ((none ? 0 : all ? known : capabilities_default) | add) & ~drop;
    return r;
}

static json_t *capability_names(u64 bits)
{
    json_t *list = json_array();
    for (const struct word *w = spec_capability_words; w->name; w++)
        if (bits & BIT(w->value))
            json_array_append_new(list, json_string(w->name));
    return list;
}

/* --- the program --- */

static void append_all(json_t *to, json_t *from)
{
    size_t i;
    json_t *v;
    json_array_foreach(from, i, v) json_array_append(to, v);
}

/* An entry point on the command line takes the image's command away, as it was meant for another. */
static json_t *make_args(const struct box_options *o, const struct image *i, struct error *e)
{
    json_t *args = json_array();
    if (o->entrypoint && *o->entrypoint)
        json_array_append_new(args, json_string(o->entrypoint));
    else if (!o->entrypoint)
        append_all(args, json_object_get(i->config.run, "Entrypoint"));
    for (int k = 0; k < o->args.n; k++)
        json_array_append_new(args, json_string(o->args.v[k]));
    if (!o->args.n && !o->entrypoint)
        append_all(args, json_object_get(i->config.run, "Cmd"));
    const char *first = json_string_value(json_array_get(args, 0));
    if (first && *first)
        return args;
    error_set(e, EINVAL, "image %.100s: names no program to run; give one", o->image);
    json_decref(args);
    return NULL;
}

/* NAME=VALUE, in the place of an earlier one of that name. */
static void put_variable(json_t *env, const char *text)
{
    size_t i, n = strcspn(text, "=") + 1;
    json_t *v;
    json_array_foreach(env, i, v)
    {
        if (!strncmp(json_string_value(v), text, n)) {
            json_array_set_new(env, i, json_string(text));
            return;
        }
    }
    json_array_append_new(env, json_string(text));
}

static json_t *make_env(const struct box_options *o, const struct image *i, const struct box_user *u,
                        const char *hostname)
{
    char text[PATH_MAX];
    json_t *env = json_array(), *v;
    size_t k;
    put_variable(env, "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin");
    snprintf(text, sizeof(text), "HOSTNAME=%s", hostname);
    put_variable(env, text);
    snprintf(text, sizeof(text), "HOME=%s", u->home);
    put_variable(env, text);
    if (o->tty)
        put_variable(env, "TERM=xterm");
    json_array_foreach(json_object_get(i->config.run, "Env"), k, v) if (strchr(json_string_value(v), '='))
        put_variable(env, json_string_value(v));
    for (int n = 0; n < o->env.n; n++) {
        const char *here = strchr(o->env.v[n], '=') ? NULL : getenv(o->env.v[n]);
        if (!here && !strchr(o->env.v[n], '='))
            continue; /* a name that is not set here is not set there */
        CLEANUP_FREE char *joined = NULL;
        if (here && asprintf(&joined, "%s=%s", o->env.v[n], here) < 0)
            joined = NULL;
        put_variable(env, joined ? joined : o->env.v[n]);
    }
    return env;
}

const char *box_config_cwd(const struct box_options *o, const struct image *i)
{
    const char *dir = o->workdir ? o->workdir : json_string_value(json_object_get(i->config.run, "WorkingDir"));
    return dir && dir[0] == '/' ? dir : "/";
}

const char *box_config_user(const struct box_options *o, const struct image *i)
{
    const char *user = o->user ? o->user : json_string_value(json_object_get(i->config.run, "User"));
    return user ? user : "";
}

const char *box_config_hostname(const struct box *b, const struct box_options *o)
{
    return o->hostname ? o->hostname : b->id;
}

static json_t *make_process(const struct box *b, const struct box_options *o, const struct image *i,
                            const struct box_user *u, u64 caps, struct error *e)
{
    json_t *groups = json_array(), *args = make_args(o, i, e);
    for (size_t k = 0; k < u->n_groups; k++)
        json_array_append_new(groups, json_integer(u->groups[k]));
    if (!args) {
        json_decref(groups);
        return NULL;
    }
    json_t *names = capability_names(caps);
    json_t *j = json_pack("{s:b,s:{s:I,s:I,s:i,s:o},s:o,s:o,s:s,s:{s:O,s:O,s:O}}", "terminal", o->tty, "user", "uid",
                          (json_int_t)u->uid, "gid", (json_int_t)u->gid, "umask", 022, "additionalGids", groups, "args",
                          args, "env", make_env(o, i, u, box_config_hostname(b, o)), "cwd", box_config_cwd(o, i),
                          "capabilities", "bounding", names, "effective", names, "permitted", names);
    json_decref(names);
    if (!j)
        error_set(e, EINVAL, "options: a text is no UTF-8");
    return j;
}

/* --- mounts --- */

/* "/HOST:/DIR[:OPTIONS]" into its parts. */
struct volume {
    char from[PATH_MAX], to[PATH_MAX];
    bool read_only;
};

static int volume_parse(struct volume *v, const char *text, struct error *e)
{
    const char *colon = strchr(text, ':'), *more = colon ? strchr(colon + 1, ':') : NULL;
    size_t n = colon ? (size_t)(colon - text) : 0, m = !colon ? 0
                                                       : more ? (size_t)(more - colon - 1)
                                                              : strlen(colon + 1);
    if (!n || !m || colon[1] != '/' || n >= sizeof(v->from) || m >= sizeof(v->to))
        return error_set(e, EINVAL, "--volume %.100s: write /HOST:/DIR or /HOST:/DIR:ro", text);
    snprintf(v->from, sizeof(v->from), "%.*s", (int)n, text);
    snprintf(v->to, sizeof(v->to), "%.*s", (int)m, colon + 1);
    if (more && strcmp(more, ":ro") && strcmp(more, ":rw"))
        return error_set(e, EINVAL, "--volume %.100s: \"%.20s\" is no option; ro and rw are", text, more + 1);
    v->read_only = more && !strcmp(more, ":ro");
    if (v->from[0] != '/')
        return error_set(e, ENOTSUP, "--volume %.100s: volumes by name are not there yet; give a path from /", text);
    return 0;
}

static json_t *bind_mount(const char *from, const char *to, bool read_only)
{
    return json_pack("{s:s,s:s,s:s,s:[s,s,s]}", "destination", to, "type", "bind", "source", from, "options", "rbind",
                     "rprivate", read_only ? "ro" : "rw");
}

static const char *const own_files[] = {"hosts", "hostname", "resolv.conf"};

static void add_mounts(json_t *mounts, const struct box *b, const struct box_options *o)
{
    char from[PATH_MAX + 16], to[32];
    struct volume v;
    for (size_t i = 0; i < ARRAY_LEN(own_files); i++) {
        snprintf(from, sizeof(from), "%s/%s", b->data, own_files[i]);
        snprintf(to, sizeof(to), "/etc/%s", own_files[i]);
        json_array_append_new(mounts, bind_mount(from, to, false));
    }
    for (int i = 0; i < o->volumes.n; i++)
        if (volume_parse(&v, o->volumes.v[i], NULL) == 0)
            json_array_append_new(mounts, bind_mount(v.from, v.to, v.read_only));
}

/* --- all of it --- */

static void set_network(json_t *linux_part, const struct box_options *o)
{
    json_t *list = json_object_get(linux_part, "namespaces");
    for (size_t i = json_array_size(list); box_net_is_host(o) && i-- > 0;)
        if (!strcmp(json_string_value(json_object_get(json_array_get(list, i), "type")), "network"))
            json_array_remove(list, i);
}

static void set_limits(json_t *linux_part, const struct box_options *o)
{
    json_t *resources = json_object_get(linux_part, "resources");
    if (o->memory)
        json_object_set_new(resources, "memory", json_pack("{s:I}", "limit", (json_int_t)o->memory));
    if (o->cpus)
        json_object_set_new(
            resources, "cpu",
            json_pack("{s:I,s:I}", "period", (json_int_t)PERIOD, "quota", (json_int_t)(o->cpus * PERIOD)));
}

json_t *box_config_make(const struct box *b, const struct box_options *o, const struct image *i,
                        const struct box_user *u, struct error *e)
{
    char cgroup[BOX_CGROUP_TEXT];
    u64 caps;
    if (capabilities(o, &caps, e) < 0)
        return NULL;
    json_t *process = make_process(b, o, i, u, caps, e);
    json_t *j = process ? container_example(false, false) : NULL;
    if (!j) {
        json_decref(process);
        return NULL;
    }
    json_t *linux_part = json_object_get(j, "linux");
    box_cgroup(b, cgroup);
    json_object_set_new(j, "process", process);
    json_object_set_new(j, "root", json_pack("{s:s,s:b}", "path", "root", "readonly", o->read_only));
    json_object_set_new(j, "hostname", json_string(box_config_hostname(b, o)));
    json_object_set_new(linux_part, "cgroupsPath", json_string(cgroup));
    json_object_set_new(linux_part, "seccomp", container_profile(caps));
    json_object_set_new(json_array_get(json_object_get(j, "mounts"), 0), "options",
                        json_pack("[s,s,s]", "nosuid", "noexec", "nodev")); /* of /proc */
    set_network(linux_part, o);
    set_limits(linux_part, o);
    add_mounts(json_object_get(j, "mounts"), b, o);
    return j;
}

void box_config_join(json_t *config, const char *type, int namespace)
{
    size_t i;
    json_t *one;
    json_array_foreach(json_object_get(json_object_get(config, "linux"), "namespaces"), i, one)
    {
        const char *is = json_string_value(json_object_get(one, "type"));
        if (!is || strcmp(is, type))
            continue;
        json_object_del(one, "path");
        if (namespace >= 0)
            json_object_set_new(one, "path", json_sprintf("/proc/%d/fd/%d", (int)getpid(), namespace));
    }
}

int box_config_check(const struct box_options *o, struct error *e)
{
    struct volume v;
    u64 caps;
    int r = capabilities(o, &caps, e);
    for (int i = 0; r == 0 && i < o->volumes.n; i++) {
        r = volume_parse(&v, o->volumes.v[i], e);
        if (r == 0 && access(v.from, F_OK) < 0)
            r = error_set(e, errno, "--volume %.100s: %s: %s", o->volumes.v[i], v.from, strerror(errno));
    }
    for (int i = 0; r == 0 && i < o->env.n; i++)
        if (o->env.v[i][0] == '=')
            r = error_set(e, EINVAL, "--env %.60s: write NAME=VALUE, or NAME", o->env.v[i]);
    if (r == 0 && o->workdir && o->workdir[0] != '/')
        r = error_set(e, EINVAL, "--workdir %.60s: is no path from /", o->workdir);
    if (r == 0)
        r = box_net_check(o, e);
    if (r == 0 && o->hostname && (!*o->hostname || strlen(o->hostname) > 63))
        r = error_set(e, EINVAL, "--hostname: 1 to 63 letters");
    return r;
}
