/* Limits as files of cgroup version 2; fields that were made for version 1 are converted as all runtimes do it. */
#include "container/cgroup.h"
#include "container/sys.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

u64 cgroup_weight_of_shares(u64 shares)
{
    /* Linear from 2..262144 to 1..10000, as Kubernetes fixed it: 1024 shares become a weight of 39. */
    if (shares < 2)
        shares = 2;
    return shares >= 262144 ? 10000 : 1 + (shares - 2) * 9999 / 262142;
}

u64 cgroup_io_weight(u64 weight)
{
    /* 10..1000 to 1..10000 */
    return weight <= 10 ? 1 : 1 + (MIN(weight, 1000ull) - 10) * 9999 / 990;
}

static int put(const struct cgroup_hierarchy *h, const char *file, bool set, u64 v, struct error *e)
{
    char text[24];
    snprintf(text, sizeof(text), "%" PRIu64, v);
    return set ? cgroup_write(h, file, text, e) : 0;
}

/* -1 is "max" */
static int put_max(const struct cgroup_hierarchy *h, const char *file, bool set, s64 v, struct error *e)
{
    return set && v < 0 ? cgroup_write(h, file, "max", e) : put(h, file, set, (u64)v, e);
}

static int limit_cpu(const struct cgroup_hierarchy *h, const struct spec_resources *r, struct error *e)
{
    char text[64];
    int bad = 0;
    if (r->cpu_idle.set)
        bad = put(h, "cpu.idle", true, (u64)r->cpu_idle.v, e);
    if (bad == 0 && !(r->cpu_idle.set && r->cpu_idle.v))
        bad = put(h, "cpu.weight", r->cpu_shares.set && r->cpu_shares.v, cgroup_weight_of_shares(r->cpu_shares.v), e);
    if (bad == 0 && ((r->cpu_quota.set && r->cpu_quota.v) || (r->cpu_period.set && r->cpu_period.v))) {
        u64 period = r->cpu_period.v ? r->cpu_period.v : 100000;
        if (r->cpu_quota.set && r->cpu_quota.v > 0)
            snprintf(text, sizeof(text), "%" PRId64 " %" PRIu64, r->cpu_quota.v, period);
        else
            snprintf(text, sizeof(text), "max %" PRIu64, period);
        bad = cgroup_write(h, "cpu.max", text, e);
    }
    if (bad == 0)
        bad = put(h, "cpu.max.burst", r->cpu_burst.set, r->cpu_burst.v, e);
    if (bad == 0 && (r->cpu_rt_period.v || r->cpu_rt_runtime.v))
        bad =
            error_set(e, ENOTSUP, "resources.cpu.realtimePeriod, realtimeRuntime: cgroup version 2 has no such limit");
    if (bad == 0 && r->cpus)
        bad = cgroup_write(h, "cpuset.cpus", r->cpus, e);
    if (bad == 0 && r->mems)
        bad = cgroup_write(h, "cpuset.mems", r->mems, e);
    return bad;
}

static int limit_memory(const struct cgroup_hierarchy *h, const struct spec_resources *r, struct error *e)
{
    s64 memory = r->memory.v, both = r->memory_swap.v;
    if (r->memory_check && memory > 0) {
        char text[32];
        s64 usage = 0;
        if (sys_read_small(h->dir, "memory.current", text, sizeof(text)) > 0 && sscanf(text, "%" SCNd64, &usage) == 1 &&
            usage > memory)
            return error_set(e, EBUSY, "resources.memory.limit: %" PRId64 " is below what is in use (%" PRId64 ")",
                             memory, usage);
    }
    /* swap counts both in the specification, swap alone in version 2 */
    if (r->memory_swap.set && both > 0 && (!r->memory.set || memory <= 0 || both < memory))
        return error_set(e, EINVAL,
                         "resources.memory.swap: is below memory.limit (it counts memory and swap together)");
    int bad = 0;
    if (r->memory_swap.set && both != 0)
        bad = put_max(h, "memory.swap.max", true, both < 0 ? -1 : both - memory, both < 0 || both == memory ? NULL : e);
    if (bad < 0 && (both < 0 || both == memory))
        bad = 0; /* a kernel without swap accounting: nothing to limit */
    if (bad == 0)
        bad = put_max(h, "memory.max", r->memory.set && memory, memory, e);
    if (bad == 0)
        bad =
            put_max(h, "memory.low", r->memory_reservation.set && r->memory_reservation.v, r->memory_reservation.v, e);
    return bad;
}

static int put_devices(const struct cgroup_hierarchy *h, const struct spec_resources *r, struct error *e)
{
    static const char *const keys[THROTTLES] = {[THROTTLE_READ_BPS] = "rbps",
                                                [THROTTLE_WRITE_BPS] = "wbps",
                                                [THROTTLE_READ_IOPS] = "riops",
                                                [THROTTLE_WRITE_IOPS] = "wiops"};
    int bad = 0;
    for (size_t k = 0; k < THROTTLES; k++)
        for (size_t i = 0; i < r->throttle[k].n && bad == 0; i++) {
            const struct spec_block_device *d = &r->throttle[k].v[i];
            char text[80];
            /* 0 is "no limit" in the specification's list, "max" here */
            if (d->rate.v)
                snprintf(text, sizeof(text), "%u:%u %s=%" PRIu64, d->major, d->minor, keys[k], d->rate.v);
            else
                snprintf(text, sizeof(text), "%u:%u %s=max", d->major, d->minor, keys[k]);
            bad = cgroup_write(h, "io.max", text, e);
        }
    return bad;
}

static int limit_io(const struct cgroup_hierarchy *h, const struct spec_resources *r, struct error *e)
{
    char text[64];
    int bad = 0;
    if (r->block_weight.set) {
        /* BFQ's weight where BFQ is, else the cost model's. */
        bad = put(h, "io.bfq.weight", true, r->block_weight.v, NULL);
        if (bad < 0) {
            snprintf(text, sizeof(text), "default %" PRIu64, cgroup_io_weight(r->block_weight.v));
            bad = cgroup_write(h, "io.weight", text, e);
        }
    }
    for (size_t i = 0; i < r->block_weights.n && bad == 0; i++) {
        const struct spec_block_device *d = &r->block_weights.v[i];
        snprintf(text, sizeof(text), "%u:%u %" PRIu64, d->major, d->minor, cgroup_io_weight(d->weight.v));
        if (d->weight.set)
            bad = cgroup_write(h, "io.weight", text, e);
    }
    return bad < 0 ? bad : put_devices(h, r, e);
}

static int limit_rest(const struct cgroup_hierarchy *h, const struct spec_resources *r, struct error *e)
{
    char file[96], text[96];
    int bad = put_max(h, "pids.max", r->pids.set && r->pids.v, r->pids.v, e);
    for (size_t i = 0; i < r->n_huge && bad == 0; i++) {
        snprintf(file, sizeof(file), "hugetlb.%.32s.max", r->huge[i].page_size);
        bad = put(h, file, true, r->huge[i].limit, e);
    }
    if (bad == 0 && (r->class_id.v || r->n_priorities))
        bad = error_set(e, ENOTSUP, "resources.network: cgroup version 2 has no such controller");
    for (size_t i = 0; i < r->n_rdma && bad == 0; i++) {
        int n = snprintf(text, sizeof(text), "%.48s", r->rdma[i].device);
        if (r->rdma[i].handles.set)
            n += snprintf(text + n, sizeof(text) - (size_t)n, " hca_handle=%u", (u32)r->rdma[i].handles.v);
        if (r->rdma[i].objects.set)
            snprintf(text + n, sizeof(text) - (size_t)n, " hca_object=%u", (u32)r->rdma[i].objects.v);
        bad = cgroup_write(h, "rdma.max", text, e);
    }
    for (size_t i = 0; i < r->unified.n && bad == 0; i += 2)
        bad = cgroup_write(h, r->unified.v[i], r->unified.v[i + 1], e);
    return bad;
}

static bool wants(const struct spec_resources *r)
{
    return r->cpu_shares.v || r->cpu_quota.v || r->cpu_period.v || r->cpu_burst.set || r->cpu_idle.set || r->cpus ||
           r->mems || r->memory.v || r->memory_swap.v || r->memory_reservation.v || r->pids.v || r->block_weight.set ||
           r->block_weights.n || r->n_huge || r->n_rdma || r->unified.n || r->throttle[0].n || r->throttle[1].n ||
           r->throttle[2].n || r->throttle[3].n;
}

int cgroup_limit_v2(const struct cgroup_hierarchy *h, const struct spec_resources *r, struct error *e)
{
    if (h->dir < 0)
        return wants(r) ? error_set(e, EPERM,
                                    "resources: the cgroup %s%s is not ours to make: none is delegated to this user",
                                    h->mount, h->path)
                        : 0;
    int bad = limit_cpu(h, r, e);
    if (bad == 0)
        bad = limit_memory(h, r, e);
    if (bad == 0)
        bad = limit_io(h, r, e);
    return bad < 0 ? bad : limit_rest(h, r, e);
}
