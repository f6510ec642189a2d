/* config.json: process. */
#include "container/spec.h"

#include <linux/capability.h>
#include <stdlib.h>
#include <string.h>

static u64 read_capability_set(struct reader *r, const struct node *n, const char *name)
{
    struct strings s = read_strings(r, n, name);
    u64 set = 0, number;
    for (size_t i = 0; i < s.n; i++) {
        /* The specification wants capabilities that this kernel or runtime does not know to be passed over. */
        if (word_value(spec_capability_words, s.v[i], &number))
            set |= BIT(number);
        else if (strncmp(s.v[i], "CAP_", 4))
            reader_wrong(r, n, name, "\"%.60s\" is no capability", s.v[i]);
    }
    return set;
}

static void read_capabilities(struct reader *r, const struct node *up, struct spec_capabilities *c)
{
    struct node n;
    if (!read_object(r, up, "capabilities", &n))
        return;
    c->given = true;
    c->bounding = read_capability_set(r, &n, "bounding");
    c->effective = read_capability_set(r, &n, "effective");
    c->inheritable = read_capability_set(r, &n, "inheritable");
    c->permitted = read_capability_set(r, &n, "permitted");
    c->ambient = read_capability_set(r, &n, "ambient");
    c->effective &= c->permitted;
    c->ambient &= c->permitted & c->inheritable;
}

static void read_rlimits(struct reader *r, const struct node *up, struct spec_process *p)
{
    struct node list, n;
    u64 number = 0, seen = 0;
    p->rlimits = read_list(r, up, "rlimits", sizeof(*p->rlimits), &list, &p->n_rlimits);
    for (size_t i = 0; i < p->n_rlimits && read_element(r, &list, i, &n); i++) {
        struct spec_rlimit *limit = &p->rlimits[i];
        limit->name = read_needed(r, &n, "type");
        if (limit->name && !read_word(r, &n, "type", spec_rlimit_words, &number))
            return;
        limit->resource = (int)number;
        limit->soft = read_needed_u64(r, &n, "soft", UINT64_MAX);
        limit->hard = read_needed_u64(r, &n, "hard", UINT64_MAX);
        if (limit->soft > limit->hard)
            reader_wrong(r, &n, "soft", "is above the hard limit");
        if (seen & BIT(number))
            reader_wrong(r, &n, "type", "%s is given twice", limit->name);
        seen |= BIT(number);
    }
}

static void read_user(struct reader *r, const struct node *up, struct spec_process *p)
{
    struct node n, list;
    if (!read_object(r, up, "user", &n))
        return;
    p->uid = (u32)read_u64(r, &n, "uid", UINT32_MAX - 1).v;
    p->gid = (u32)read_u64(r, &n, "gid", UINT32_MAX - 1).v;
    p->umask = read_u64(r, &n, "umask", 07777);
    p->groups = read_list(r, &n, "additionalGids", sizeof(*p->groups), &list, &p->n_groups);
    for (size_t i = 0; i < p->n_groups; i++) {
        const json_t *j = json_array_get(list.json, i);
        json_int_t v = json_integer_value(j);
        if (!json_is_integer(j) || v < 0 || v >= UINT32_MAX)
            reader_wrong(r, &n, "additionalGids", "element %zu is no group number", i);
        p->groups[i] = (u32)v;
    }
}

static void read_scheduler(struct reader *r, const struct node *up, struct spec_scheduler *s)
{
    /* Numbers of sched_setattr(2). */
    static const struct word flags[] = {
        {"SCHED_FLAG_RESET_ON_FORK", 0x01},  {"SCHED_FLAG_RECLAIM", 0x02},
        {"SCHED_FLAG_DL_OVERRUN", 0x04},     {"SCHED_FLAG_KEEP_POLICY", 0x08},
        {"SCHED_FLAG_KEEP_PARAMS", 0x10},    {"SCHED_FLAG_UTIL_CLAMP_MIN", 0x20},
        {"SCHED_FLAG_UTIL_CLAMP_MAX", 0x40}, {NULL, 0},
    };
    struct node n;
    u64 policy = 0;
    if (!read_object(r, up, "scheduler", &n))
        return;
    s->given = true;
    if (read_needed(r, &n, "policy") && read_word(r, &n, "policy", spec_policy_words, &policy))
        s->policy = (u32)policy;
    s->nice = (s32)read_s64(r, &n, "nice", -20, 19).v;
    s->priority = (s32)read_s64(r, &n, "priority", 0, 99).v;
    s->flags = read_words(r, &n, "flags", flags);
    s->runtime = read_u64(r, &n, "runtime", UINT64_MAX).v;
    s->deadline = read_u64(r, &n, "deadline", UINT64_MAX).v;
    s->period = read_u64(r, &n, "period", UINT64_MAX).v;
}

static void read_io_priority(struct reader *r, const struct node *up, struct spec_process *p)
{
    static const struct word classes[] = {
        {"IOPRIO_CLASS_RT", 1}, {"IOPRIO_CLASS_BE", 2}, {"IOPRIO_CLASS_IDLE", 3}, {NULL, 0}};
    struct node n;
    u64 class = 0;
    if (!read_object(r, up, "ioPriority", &n))
        return;
    if (read_needed(r, &n, "class") && read_word(r, &n, "class", classes, &class))
        p->io_class = (struct opt_s64){true, (s64) class};
    p->io_priority = read_s64(r, &n, "priority", 0, 7);
}

static const char *read_cpu_list(struct reader *r, const struct node *n, const char *name)
{
    const char *s = read_string(r, n, name);
    if (s && s[strspn(s, "0123456789, -")])
        reader_wrong(r, n, name, "\"%.60s\" is no list of CPUs like 0-3,7", s);
    return s && *s ? s : NULL;
}

void spec_read_process(struct reader *r, const struct node *n, struct spec_process *p)
{
    struct node o;
    p->terminal = read_bool(r, n, "terminal", false);
    if (read_object(r, n, "consoleSize", &o)) {
        p->console_rows = (u16)read_needed_u64(r, &o, "height", UINT16_MAX);
        p->console_columns = (u16)read_needed_u64(r, &o, "width", UINT16_MAX);
    }
    read_user(r, n, p);
    p->args = read_strings(r, n, "args");
    if (!p->args.n)
        reader_wrong(r, n, "args", "is missing or empty: there is no command to run");
    p->env = read_strings(r, n, "env");
    for (size_t i = 0; i < p->env.n; i++)
        if (!strchr(p->env.v[i], '=') || p->env.v[i][0] == '=')
            reader_wrong(r, n, "env", "\"%.60s\" is not NAME=VALUE", p->env.v[i]);
    p->cwd = read_needed(r, n, "cwd");
    if (p->cwd && p->cwd[0] != '/')
        reader_wrong(r, n, "cwd", "\"%.100s\" is not absolute", p->cwd);
    read_capabilities(r, n, &p->capabilities);
    read_rlimits(r, n, p);
    p->apparmor_profile = read_string(r, n, "apparmorProfile");
    p->selinux_label = read_string(r, n, "selinuxLabel");
    p->no_new_privileges = read_bool(r, n, "noNewPrivileges", false);
    p->oom_score_adj = read_s64(r, n, "oomScoreAdj", -1000, 1000);
    read_scheduler(r, n, &p->scheduler);
    read_io_priority(r, n, p);
    if (read_object(r, n, "execCPUAffinity", &o)) {
        p->affinity_initial = read_cpu_list(r, &o, "initial");
        p->affinity_final = read_cpu_list(r, &o, "final");
    }
}
