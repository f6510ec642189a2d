/* config.json: linux.resources; also the document that `update --resources` reads. */
#include "container/spec.h"

#include <string.h>

static void read_rules(struct reader *r, const struct node *up, struct spec_resources *res)
{
    struct node list, n;
    res->devices = read_list(r, up, "devices", sizeof(*res->devices), &list, &res->n_devices);
    for (size_t i = 0; i < res->n_devices && read_element(r, &list, i, &n); i++) {
        struct spec_device_rule *d = &res->devices[i];
        const char *type = read_string(r, &n, "type");
        if (!json_object_get(n.json, "allow"))
            reader_wrong(r, &n, "allow", "is missing");
        d->allow = read_bool(r, &n, "allow", false);
        type = type && *type ? type : "a";
        if (strlen(type) != 1 || !strchr("abc", type[0]))
            reader_wrong(r, &n, "type", "\"%.20s\" is none of a, b, c", type);
        d->type = type[0];
        struct opt_s64 major = read_s64(r, &n, "major", -1, UINT32_MAX),
                       minor = read_s64(r, &n, "minor", -1, UINT32_MAX);
        d->major = major.set ? major.v : -1;
        d->minor = minor.set ? minor.v : -1;
        d->access = read_string(r, &n, "access");
        if (!d->access || !*d->access)
            d->access = "rwm";
        if (d->access[strspn(d->access, "rwm")] || strlen(d->access) > 3)
            reader_wrong(r, &n, "access", "\"%.20s\" is not made of r, w, m", d->access);
    }
}

static const char *read_set(struct reader *r, const struct node *n, const char *name)
{
    const char *s = read_string(r, n, name);
    if (s && s[strspn(s, "0123456789,-\n ")])
        reader_wrong(r, n, name, "\"%.60s\" is no list like 0-3,7", s);
    return s && *s ? s : NULL;
}

static void read_cpu(struct reader *r, const struct node *up, struct spec_resources *res)
{
    struct node n;
    if (!read_object(r, up, "cpu", &n))
        return;
    res->cpu_shares = read_u64(r, &n, "shares", UINT64_MAX);
    res->cpu_quota = read_s64(r, &n, "quota", INT64_MIN, INT64_MAX);
    res->cpu_burst = read_u64(r, &n, "burst", UINT64_MAX);
    res->cpu_period = read_u64(r, &n, "period", UINT64_MAX);
    res->cpu_rt_runtime = read_s64(r, &n, "realtimeRuntime", INT64_MIN, INT64_MAX);
    res->cpu_rt_period = read_u64(r, &n, "realtimePeriod", UINT64_MAX);
    res->cpu_idle = read_s64(r, &n, "idle", 0, 1);
    res->cpus = read_set(r, &n, "cpus");
    res->mems = read_set(r, &n, "mems");
}

static void read_memory(struct reader *r, const struct node *up, struct spec_resources *res)
{
    struct node n;
    if (!read_object(r, up, "memory", &n))
        return;
    res->memory = read_s64(r, &n, "limit", -1, INT64_MAX);
    res->memory_reservation = read_s64(r, &n, "reservation", -1, INT64_MAX);
    res->memory_swap = read_s64(r, &n, "swap", -1, INT64_MAX);
    res->memory_kernel = read_s64(r, &n, "kernel", -1, INT64_MAX);
    res->memory_kernel_tcp = read_s64(r, &n, "kernelTCP", -1, INT64_MAX);
    res->swappiness = read_u64(r, &n, "swappiness", UINT64_MAX);
    /* containerd writes 2^64 - 1 for "as it is" */
    if (res->swappiness.set && res->swappiness.v == UINT64_MAX)
        res->swappiness.set = false;
    else if (res->swappiness.v > 200)
        reader_wrong(r, &n, "swappiness", "is above 200");
    if (json_object_get(n.json, "disableOOMKiller"))
        res->oom_disable = (struct opt_u64){true, read_bool(r, &n, "disableOOMKiller", false)};
    read_bool(r, &n, "useHierarchy", true); /* the only way of kernels since 5.11 */
    res->memory_check = read_bool(r, &n, "checkBeforeUpdate", false);
}

static struct spec_block_devices read_block_list(struct reader *r, const struct node *up, const char *name)
{
    struct node list, n;
    struct spec_block_devices d;
    d.v = read_list(r, up, name, sizeof(*d.v), &list, &d.n);
    for (size_t i = 0; i < d.n && read_element(r, &list, i, &n); i++) {
        d.v[i].major = (u32)read_needed_u64(r, &n, "major", UINT32_MAX);
        d.v[i].minor = (u32)read_needed_u64(r, &n, "minor", UINT32_MAX);
        d.v[i].weight = read_u64(r, &n, "weight", 1000);
        d.v[i].leaf_weight = read_u64(r, &n, "leafWeight", 1000);
        d.v[i].rate = read_u64(r, &n, "rate", UINT64_MAX);
    }
    return d;
}

static void read_block(struct reader *r, const struct node *up, struct spec_resources *res)
{
    static const char *const throttles[THROTTLES] = {
        [THROTTLE_READ_BPS] = "throttleReadBpsDevice",
        [THROTTLE_WRITE_BPS] = "throttleWriteBpsDevice",
        [THROTTLE_READ_IOPS] = "throttleReadIOPSDevice",
        [THROTTLE_WRITE_IOPS] = "throttleWriteIOPSDevice",
    };
    struct node n;
    if (!read_object(r, up, "blockIO", &n))
        return;
    res->block_weight = read_u64(r, &n, "weight", 1000);
    res->block_leaf_weight = read_u64(r, &n, "leafWeight", 1000);
    if (res->block_weight.set && res->block_weight.v == 0)
        res->block_weight.set = false; /* 0: as it is */
    if (res->block_weight.set && res->block_weight.v < 10)
        reader_wrong(r, &n, "weight", "is not from 10 to 1000");
    res->block_weights = read_block_list(r, &n, "weightDevice");
    for (size_t i = 0; i < THROTTLES; i++)
        res->throttle[i] = read_block_list(r, &n, throttles[i]);
}

static void read_huge(struct reader *r, const struct node *up, struct spec_resources *res)
{
    struct node list, n;
    res->huge = read_list(r, up, "hugepageLimits", sizeof(*res->huge), &list, &res->n_huge);
    for (size_t i = 0; i < res->n_huge && read_element(r, &list, i, &n); i++) {
        const char *s = res->huge[i].page_size = read_needed(r, &n, "pageSize");
        size_t digits = s ? strspn(s, "0123456789") : 0;
        if (s &&
            (!digits || s[0] == '0' || strlen(s) != digits + 2 || !strchr("KMG", s[digits]) || s[digits + 1] != 'B'))
            reader_wrong(r, &n, "pageSize", "\"%.20s\" is no size like 2MB", s);
        res->huge[i].limit = read_needed_u64(r, &n, "limit", UINT64_MAX);
    }
}

static void read_network(struct reader *r, const struct node *up, struct spec_resources *res)
{
    struct node n, list, p;
    if (!read_object(r, up, "network", &n))
        return;
    res->class_id = read_u64(r, &n, "classID", UINT32_MAX);
    res->priorities = read_list(r, &n, "priorities", sizeof(*res->priorities), &list, &res->n_priorities);
    for (size_t i = 0; i < res->n_priorities && read_element(r, &list, i, &p); i++) {
        res->priorities[i].name = read_needed(r, &p, "name");
        res->priorities[i].priority = (u32)read_needed_u64(r, &p, "priority", UINT32_MAX);
    }
}

static void read_rdma(struct reader *r, const struct node *up, struct spec_resources *res)
{
    struct node map, n;
    if (!read_object(r, up, "rdma", &map))
        return;
    res->rdma = arena_array(r->arena, json_object_size(map.json), sizeof(*res->rdma));
    const char *device;
    json_t *value;
    json_object_foreach((json_t *)map.json, device, value)
    {
        if (!res->rdma)
            return;
        n = (struct node){.json = value, .up = &map, .name = device};
        if (!json_is_object(value))
            reader_wrong(r, &n, NULL, "is no object");
        struct spec_rdma *d = &res->rdma[res->n_rdma++];
        d->device = device;
        d->handles = read_u64(r, &n, "hcaHandles", UINT32_MAX);
        d->objects = read_u64(r, &n, "hcaObjects", UINT32_MAX);
    }
}

void spec_read_resources(struct reader *r, const struct node *n, struct spec_resources *res)
{
    struct node o;
    res->given = true;
    read_rules(r, n, res);
    read_cpu(r, n, res);
    read_memory(r, n, res);
    if (read_object(r, n, "pids", &o)) {
        res->pids = read_s64(r, &o, "limit", INT64_MIN, INT64_MAX);
        if (!res->pids.set)
            reader_wrong(r, &o, "limit", "is missing");
    }
    read_block(r, n, res);
    read_huge(r, n, res);
    read_network(r, n, res);
    read_rdma(r, n, res);
    res->unified = read_map(r, n, "unified");
    for (size_t i = 0; i < res->unified.n; i += 2)
        if (strchr(res->unified.v[i], '/') || !strchr(res->unified.v[i], '.'))
            reader_wrong(r, n, "unified", "\"%.60s\" is no file of a cgroup", res->unified.v[i]);
}
