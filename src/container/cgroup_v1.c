/* Limits as files of cgroup version 1. */
#include "container/cgroup.h"
#include "container/sys.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

/* The hierarchy of a controller that a limit needs, or NULL with an error that names both. */
static const struct cgroup_hierarchy *needed(const struct cgroup *g, const char *controller, const char *what,
                                             struct error *e)
{
    const struct cgroup_hierarchy *h = cgroup_with(g, controller);
    if (!h)
        error_set(e, ENOTSUP, "resources.%s: this host has no cgroup controller %s", what, controller);
    else if (h->dir < 0)
        error_set(e, EPERM, "resources.%s: the cgroup %s%s is not ours to make: none is delegated to this user", what,
                  h->mount, h->path);
    return h && h->dir >= 0 ? h : NULL;
}

static int put_text(const struct cgroup *g, const char *controller, const char *file, const char *what,
                    const char *text, struct error *e)
{
    const struct cgroup_hierarchy *h = needed(g, controller, what, e);
    return h ? cgroup_write(h, file, text, e) : -ENOTSUP;
}

static int put_u64(const struct cgroup *g, const char *controller, const char *file, const char *what, struct opt_u64 v,
                   struct error *e)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, v.v);
    return v.set ? put_text(g, controller, file, what, text, e) : 0;
}

static int put_s64(const struct cgroup *g, const char *controller, const char *file, const char *what, struct opt_s64 v,
                   struct error *e)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRId64, v.v);
    return v.set ? put_text(g, controller, file, what, text, e) : 0;
}

static int limit_cpu(const struct cgroup *g, const struct spec_resources *r, struct error *e)
{
    int bad = put_u64(g, "cpu", "cpu.shares", "cpu.shares", r->cpu_shares.v ? r->cpu_shares : (struct opt_u64){0}, e);
    if (bad == 0)
        bad = put_u64(g, "cpu", "cpu.rt_period_us", "cpu.realtimePeriod",
                      r->cpu_rt_period.v ? r->cpu_rt_period : (struct opt_u64){0}, e);
    if (bad == 0)
        bad = put_s64(g, "cpu", "cpu.rt_runtime_us", "cpu.realtimeRuntime",
                      r->cpu_rt_runtime.v ? r->cpu_rt_runtime : (struct opt_s64){0}, e);
    /* A burst must fit the quota at each step: away with an old one first. */
    if (bad == 0 && r->cpu_burst.set && r->cpu_quota.set)
        put_u64(g, "cpu", "cpu.cfs_burst_us", "cpu.burst", (struct opt_u64){true, 0}, NULL);
    struct opt_u64 period = r->cpu_period.v ? r->cpu_period : (struct opt_u64){0};
    struct opt_s64 quota = r->cpu_quota.v ? r->cpu_quota : (struct opt_s64){0};
    if (bad == 0 && put_u64(g, "cpu", "cpu.cfs_period_us", "cpu.period", period, NULL) < 0) {
        /* A shorter period may need the smaller quota first. */
        bad = put_s64(g, "cpu", "cpu.cfs_quota_us", "cpu.quota", quota, e);
        if (bad == 0)
            bad = put_u64(g, "cpu", "cpu.cfs_period_us", "cpu.period", period, e);
    }
    if (bad == 0)
        bad = put_s64(g, "cpu", "cpu.cfs_quota_us", "cpu.quota", quota, e);
    if (bad == 0)
        bad = put_u64(g, "cpu", "cpu.cfs_burst_us", "cpu.burst", r->cpu_burst, e);
    if (bad == 0)
        bad = put_s64(g, "cpu", "cpu.idle", "cpu.idle", r->cpu_idle, e);
    if (bad == 0 && r->cpus)
        bad = put_text(g, "cpuset", "cpuset.cpus", "cpu.cpus", r->cpus, e);
    if (bad == 0 && r->mems)
        bad = put_text(g, "cpuset", "cpuset.mems", "cpu.mems", r->mems, e);
    return bad;
}

/* memory may not be above memory+swap at any moment: which goes first depends on the direction. */
static int limit_memory(const struct cgroup *g, const struct spec_resources *r, struct error *e)
{
    static const char limit[] = "memory.limit_in_bytes", swap[] = "memory.memsw.limit_in_bytes";
    struct opt_s64 memory = r->memory.v ? r->memory : (struct opt_s64){0};
    struct opt_s64 both = r->memory_swap.v ? r->memory_swap : (struct opt_s64){0};
    if (memory.set && memory.v == -1 && !both.set)
        both = memory;
    if (memory.set && both.set && both.v != -1 && memory.v > both.v)
        return error_set(e, EINVAL,
                         "resources.memory.swap: is below memory.limit (it counts memory and swap together)");
    char text[64];
    const struct cgroup_hierarchy *h = cgroup_with(g, "memory");
    if (r->memory_check && memory.set && memory.v >= 0 && h && h->dir >= 0 &&
        sys_read_small(h->dir, "memory.usage_in_bytes", text, sizeof(text)) > 0) {
        s64 usage = 0;
        if (sscanf(text, "%" SCNd64, &usage) == 1 && usage > memory.v)
            return error_set(e, EBUSY, "resources.memory.limit: %" PRId64 " is below what is in use (%" PRId64 ")",
                             memory.v, usage);
    }
    /* Without swap accounting there is no such file: "as much as memory" or "any" is what holds then anyway. */
    bool has_swap = h && h->dir >= 0 && sys_read_small(h->dir, swap, text, sizeof(text)) >= 0;
    if (!has_swap && both.set && (both.v == -1 || both.v == memory.v))
        both.set = false;
    if (both.set && both.v == -1 && put_s64(g, "memory", swap, "memory.swap", both, e) < 0)
        return -EINVAL;
    int bad = put_s64(g, "memory", limit, "memory.limit", memory, both.set && both.v != -1 ? NULL : e);
    if (bad < 0 && both.set && both.v != -1) {
        bad = put_s64(g, "memory", swap, "memory.swap", both, e);
        return bad < 0 ? bad : put_s64(g, "memory", limit, "memory.limit", memory, e);
    }
    return bad < 0 || !both.set || both.v == -1 ? bad : put_s64(g, "memory", swap, "memory.swap", both, e);
}

static int limit_memory_more(const struct cgroup *g, const struct spec_resources *r, struct error *e)
{
    int bad = put_s64(g, "memory", "memory.soft_limit_in_bytes", "memory.reservation",
                      r->memory_reservation.v ? r->memory_reservation : (struct opt_s64){0}, e);
    if (bad == 0)
        bad = put_u64(g, "memory", "memory.swappiness", "memory.swappiness", r->swappiness, e);
    /* Kernel memory has no limit of its own since 5.16: asked for all the same by old engines, so not an error. */
    if (bad == 0)
        put_s64(g, "memory", "memory.kmem.limit_in_bytes", "memory.kernel", r->memory_kernel, NULL);
    if (bad == 0)
        put_s64(g, "memory", "memory.kmem.tcp.limit_in_bytes", "memory.kernelTCP", r->memory_kernel_tcp, NULL);
    if (bad == 0 && r->oom_disable.set && r->oom_disable.v)
        bad = put_u64(g, "memory", "memory.oom_control", "memory.disableOOMKiller", r->oom_disable, e);
    return bad;
}

/* "MAJOR:MINOR VALUE" into a file, a line a device. */
static int put_devices(const struct cgroup *g, const char *file, const char *what,
                       const struct spec_block_devices *list, size_t offset, struct error *e)
{
    int bad = 0;
    for (size_t i = 0; i < list->n && bad == 0; i++) {
        char text[64];
        const struct opt_u64 *v = (const struct opt_u64 *)((const char *)&list->v[i] + offset);
        snprintf(text, sizeof(text), "%u:%u %" PRIu64, list->v[i].major, list->v[i].minor, v->v);
        if (v->set)
            bad = put_text(g, "blkio", file, what, text, e);
    }
    return bad;
}

/* The weight is of the scheduler that the kernel has: BFQ's, or CFQ's of old ones. */
static int limit_weights(const struct cgroup *g, const struct spec_resources *r, struct error *e)
{
    if (!r->block_weight.set && !r->block_weights.n && !r->block_leaf_weight.set)
        return 0;
    const struct cgroup_hierarchy *h = needed(g, "blkio", "blockIO.weight", e);
    char text[64];
    if (!h)
        return -ENOTSUP;
    bool bfq = sys_read_small(h->dir, "blkio.weight", text, sizeof(text)) < 0;
    int bad = put_u64(g, "blkio", bfq ? "blkio.bfq.weight" : "blkio.weight", "blockIO.weight", r->block_weight, e);
    if (bad == 0)
        bad = put_u64(g, "blkio", "blkio.leaf_weight", "blockIO.leafWeight", r->block_leaf_weight, e);
    if (bad == 0)
        bad = put_devices(g, bfq ? "blkio.bfq.weight_device" : "blkio.weight_device", "blockIO.weightDevice",
                          &r->block_weights, offsetof(struct spec_block_device, weight), e);
    if (bad == 0)
        bad = put_devices(g, "blkio.leaf_weight_device", "blockIO.weightDevice", &r->block_weights,
                          offsetof(struct spec_block_device, leaf_weight), e);
    return bad;
}

static int limit_block(const struct cgroup *g, const struct spec_resources *r, struct error *e)
{
    static const char *const files[THROTTLES] = {
        [THROTTLE_READ_BPS] = "blkio.throttle.read_bps_device",
        [THROTTLE_WRITE_BPS] = "blkio.throttle.write_bps_device",
        [THROTTLE_READ_IOPS] = "blkio.throttle.read_iops_device",
        [THROTTLE_WRITE_IOPS] = "blkio.throttle.write_iops_device",
    };
    int bad = limit_weights(g, r, e);
    for (size_t i = 0; i < THROTTLES && bad == 0; i++)
        bad =
            put_devices(g, files[i], "blockIO.throttle", &r->throttle[i], offsetof(struct spec_block_device, rate), e);
    return bad;
}

static int limit_rest(const struct cgroup *g, const struct spec_resources *r, struct error *e)
{
    char file[96], text[96];
    int bad = 0;
    if (r->pids.set && r->pids.v) {
        snprintf(text, sizeof(text), r->pids.v < 0 ? "max" : "%" PRId64, r->pids.v);
        bad = put_text(g, "pids", "pids.max", "pids.limit", text, e);
    }
    for (size_t i = 0; i < r->n_huge && bad == 0; i++) {
        snprintf(file, sizeof(file), "hugetlb.%.32s.limit_in_bytes", r->huge[i].page_size);
        snprintf(text, sizeof(text), "%" PRIu64, r->huge[i].limit);
        bad = put_text(g, "hugetlb", file, "hugepageLimits", text, e);
    }
    if (bad == 0)
        bad = put_u64(g, "net_cls", "net_cls.classid", "network.classID", r->class_id, e);
    for (size_t i = 0; i < r->n_priorities && bad == 0; i++) {
        snprintf(text, sizeof(text), "%.32s %u", r->priorities[i].name, r->priorities[i].priority);
        bad = put_text(g, "net_prio", "net_prio.ifpriomap", "network.priorities", text, e);
    }
    for (size_t i = 0; i < r->n_rdma && bad == 0; i++) {
        int n = snprintf(text, sizeof(text), "%.48s", r->rdma[i].device);
        if (r->rdma[i].handles.set)
            n += snprintf(text + n, sizeof(text) - (size_t)n, " hca_handle=%u", (u32)r->rdma[i].handles.v);
        if (r->rdma[i].objects.set)
            snprintf(text + n, sizeof(text) - (size_t)n, " hca_object=%u", (u32)r->rdma[i].objects.v);
        bad = put_text(g, "rdma", "rdma.max", "rdma", text, e);
    }
    for (size_t i = 0; i < r->unified.n && bad == 0; i += 2) {
        const struct cgroup_hierarchy *h = cgroup_with(g, "");
        bad = cgroup_write(h, r->unified.v[i], r->unified.v[i + 1], e);
    }
    return bad;
}

static void rule_text(char out[64], const struct spec_device_rule *d)
{
    char major[24] = "*", minor[24] = "*";
    if (d->major >= 0)
        snprintf(major, sizeof(major), "%" PRId64, d->major);
    if (d->minor >= 0)
        snprintf(minor, sizeof(minor), "%" PRId64, d->minor);
    snprintf(out, 64, "%c %s:%s %.3s", d->type, major, minor, d->access);
}

/* A rule for everything is one write "a": it replaces the list. Others are added one by one. */
static int limit_devices(const struct cgroup *g, const struct spec_resources *r, struct error *e)
{
    const struct cgroup_hierarchy *h = cgroup_with(g, "devices");
    struct arena arena = {0};
    size_t n;
    int bad = 0;
    if (!h || h->dir < 0)
        return g->rootless || !r->n_devices
                   ? 0
                   : error_set(e, ENOTSUP, "resources.devices: this host has no cgroup controller devices");
    struct spec_device_rule *rules = cgroup_device_rules(r, &arena, &n);
    if (!rules)
        return error_set(e, ENOMEM, "cgroup: out of memory");
    for (size_t i = 0; i < n && bad == 0; i++) {
        char text[64];
        bool all = rules[i].type == 'a' && rules[i].major < 0 && rules[i].minor < 0 && strlen(rules[i].access) == 3;
        if (all)
            strcpy(text, "a");
        else if (rules[i].type != 'a')
            rule_text(text, &rules[i]);
        for (const char *types = all || rules[i].type != 'a' ? "x" : "bc"; *types && bad == 0; types++) {
            struct spec_device_rule one = rules[i];
            one.type = *types;
            if (*types != 'x')
                rule_text(text, &one);
            bad = cgroup_write(h, rules[i].allow ? "devices.allow" : "devices.deny", text, e);
        }
    }
    arena_free(&arena);
    /* As in version 2: rules are for root to set, and who is not root can make no nodes either. */
    return bad == -EPERM && g->rootless ? 0 : bad;
}

int cgroup_limit_v1(const struct cgroup *g, const struct spec_resources *r, bool update, struct error *e)
{
    int bad = update && !r->n_devices ? 0 : limit_devices(g, r, e);
    if (bad == 0)
        bad = limit_cpu(g, r, e);
    if (bad == 0)
        bad = limit_memory(g, r, e);
    if (bad == 0)
        bad = limit_memory_more(g, r, e);
    if (bad == 0)
        bad = limit_block(g, r, e);
    return bad < 0 ? bad : limit_rest(g, r, e);
}
