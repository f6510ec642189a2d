/* update, events: limits and usage of a container that is there. */
#include "container/container.h"
#include "container/launch.h"
#include "container/sys.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

int container_update(const struct container_host *h, const char *id, const char *resources, size_t size,
                     struct error *e)
{
    struct launch l;
    struct spec_resources res;
    struct arena arena = {0};
    json_t *json = NULL;
    int r = launch_open(&l, h, id, true, false, e);
    if (r == 0 && store_status(&l.store, &l.record) == STATUS_STOPPED)
        r = error_set(e, ESRCH, "container %s: is stopped: update needs a running one", id);
    if (r == 0)
        r = spec_parse_resources(&res, &json, &arena, resources, size, e);
    if (r == 0) {
        cgroup_open(&l.record.cgroup, e);
        r = cgroup_limit(&l.record.cgroup, &res, true, e);
    }
    json_decref(json);
    arena_free(&arena);
    launch_free(&l);
    return r;
}

/* --- reading --- */

static u64 number_in(const struct cgroup_hierarchy *h, const char *file)
{
    char text[64];
    if (!h || h->dir < 0 || sys_read_small(h->dir, file, text, sizeof(text)) <= 0)
        return 0;
    /* "max" and what version 1 calls no limit */
    return strcmp(text, "max") ? strtoull(text, NULL, 10) : UINT64_MAX;
}

/* "name value" lines. */
static u64 named_in(const char *text, const char *name)
{
    size_t n = strlen(name);
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n')
        if (!strncmp(line, name, n) && line[n] == ' ')
            return strtoull(line + n + 1, NULL, 10);
    return 0;
}

static char *text_in(const struct cgroup_hierarchy *h, const char *file)
{
    char *text = NULL;
    size_t size;
    if (!h || h->dir < 0 || sys_read_at(h->dir, file, 1 << 20, &text, &size) < 0)
        return strdup("");
    return text;
}

static json_t *big(u64 v)
{
    return json_integer(v > INT64_MAX ? INT64_MAX : (json_int_t)v);
}

static json_t *stats_cpu_v1(const struct cgroup *g)
{
    const struct cgroup_hierarchy *acct = cgroup_with(g, "cpuacct"), *cpu = cgroup_with(g, "cpu");
    CLEANUP_FREE char *each = text_in(acct, "cpuacct.usage_percpu"), *stat = text_in(cpu, "cpu.stat"),
                      *both = text_in(acct, "cpuacct.stat");
    json_t *list = json_array();
    for (char *p = each, *end; p && *p; p = end) {
        unsigned long long v = strtoull(p, &end, 10);
        if (end == p)
            break;
        json_array_append_new(list, big(v));
    }
    /* cpuacct.stat counts in clock ticks: 10 ms */
    return json_pack("{s:{s:o,s:o,s:o,s:o},s:{s:o,s:o,s:o}}", "usage", "total", big(number_in(acct, "cpuacct.usage")),
                     "percpu", list, "kernel", big(named_in(both, "system") * 10000000), "user",
                     big(named_in(both, "user") * 10000000), "throttling", "periods", big(named_in(stat, "nr_periods")),
                     "throttledPeriods", big(named_in(stat, "nr_throttled")), "throttledTime",
                     big(named_in(stat, "throttled_time")));
}

static json_t *stats_cpu_v2(const struct cgroup_hierarchy *h)
{
    CLEANUP_FREE char *stat = text_in(h, "cpu.stat");
    return json_pack("{s:{s:o,s:o,s:o},s:{s:o,s:o,s:o}}", "usage", "total", big(named_in(stat, "usage_usec") * 1000),
                     "kernel", big(named_in(stat, "system_usec") * 1000), "user",
                     big(named_in(stat, "user_usec") * 1000), "throttling", "periods",
                     big(named_in(stat, "nr_periods")), "throttledPeriods", big(named_in(stat, "nr_throttled")),
                     "throttledTime", big(named_in(stat, "throttled_usec") * 1000));
}

static json_t *raw_lines(const char *text)
{
    json_t *raw = json_object();
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        char name[64];
        u64 value;
        if (sscanf(line, "%63s %" SCNu64, name, &value) == 2)
            json_object_set_new(raw, name, big(value));
    }
    return raw;
}

static json_t *memory_entry(const struct cgroup_hierarchy *h, const char *usage, const char *max, const char *limit,
                            const char *fails)
{
    return json_pack("{s:o,s:o,s:o,s:o}", "limit", big(number_in(h, limit)), "usage", big(number_in(h, usage)), "max",
                     big(max ? number_in(h, max) : 0), "failcnt", big(fails ? number_in(h, fails) : 0));
}

static json_t *stats_memory(const struct cgroup *g)
{
    const struct cgroup_hierarchy *h = g->unified ? &g->h[0] : cgroup_with(g, "memory");
    CLEANUP_FREE char *stat = text_in(h, "memory.stat");
    json_t *j = json_object();
    if (g->unified) {
        json_object_set_new(j, "cache", big(named_in(stat, "file")));
        json_object_set_new(j, "usage", memory_entry(h, "memory.current", "memory.peak", "memory.max", NULL));
        json_object_set_new(j, "swap", memory_entry(h, "memory.swap.current", NULL, "memory.swap.max", NULL));
    } else {
        json_object_set_new(j, "cache", big(named_in(stat, "cache")));
        json_object_set_new(j, "usage",
                            memory_entry(h, "memory.usage_in_bytes", "memory.max_usage_in_bytes",
                                         "memory.limit_in_bytes", "memory.failcnt"));
        json_object_set_new(j, "swap",
                            memory_entry(h, "memory.memsw.usage_in_bytes", "memory.memsw.max_usage_in_bytes",
                                         "memory.memsw.limit_in_bytes", "memory.memsw.failcnt"));
        json_object_set_new(j, "kernel",
                            memory_entry(h, "memory.kmem.usage_in_bytes", "memory.kmem.max_usage_in_bytes",
                                         "memory.kmem.limit_in_bytes", "memory.kmem.failcnt"));
        json_object_set_new(j, "kernelTCP",
                            memory_entry(h, "memory.kmem.tcp.usage_in_bytes", "memory.kmem.tcp.max_usage_in_bytes",
                                         "memory.kmem.tcp.limit_in_bytes", "memory.kmem.tcp.failcnt"));
    }
    json_object_set_new(j, "raw", raw_lines(stat));
    return j;
}

/* "8:0 Read 4096" of version 1, "8:0 rbytes=4096 wbytes=0 .." of version 2, as rows. */
static json_t *block_rows(const char *text, const char *read, const char *write)
{
    json_t *rows = json_array();
    for (const char *line = text; *line; line += strcspn(line, "\n"), line += *line == '\n') {
        unsigned major, minor;
        char op[32];
        u64 value, value_write;
        if (!read && sscanf(line, "%u:%u %31s %" SCNu64, &major, &minor, op, &value) == 4) {
            json_array_append_new(
                rows, json_pack("{s:i,s:i,s:s,s:o}", "major", major, "minor", minor, "op", op, "value", big(value)));
        } else if (read && sscanf(line, "%u:%u", &major, &minor) == 2) {
            const char *r = strstr(line, read), *w = strstr(line, write), *end = line + strcspn(line, "\n");
            value = r && r < end ? strtoull(r + strlen(read), NULL, 10) : 0;
            value_write = w && w < end ? strtoull(w + strlen(write), NULL, 10) : 0;
            json_array_append_new(rows, json_pack("{s:i,s:i,s:s,s:o}", "major", major, "minor", minor, "op", "Read",
                                                  "value", big(value)));
            json_array_append_new(rows, json_pack("{s:i,s:i,s:s,s:o}", "major", major, "minor", minor, "op", "Write",
                                                  "value", big(value_write)));
        }
    }
    return rows;
}

static json_t *stats_block(const struct cgroup *g)
{
    const struct cgroup_hierarchy *h = g->unified ? &g->h[0] : cgroup_with(g, "blkio");
    CLEANUP_FREE char *bytes = text_in(h, g->unified ? "io.stat" : "blkio.throttle.io_service_bytes_recursive");
    CLEANUP_FREE char *calls = text_in(h, g->unified ? "io.stat" : "blkio.throttle.io_serviced_recursive");
    return json_pack("{s:o,s:o}", "ioServiceBytesRecursive",
                     block_rows(bytes, g->unified ? "rbytes=" : NULL, "wbytes="), "ioServicedRecursive",
                     block_rows(calls, g->unified ? "rios=" : NULL, "wios="));
}

json_t *cgroup_stats(const struct cgroup *g)
{
    const struct cgroup_hierarchy *pids = g->unified ? &g->h[0] : cgroup_with(g, "pids");
    u64 limit = number_in(pids, "pids.max");
    return json_pack("{s:o,s:o,s:{s:o,s:o},s:o,s:{}}", "cpu", g->unified ? stats_cpu_v2(&g->h[0]) : stats_cpu_v1(g),
                     "memory", stats_memory(g), "pids", "current", big(number_in(pids, "pids.current")), "limit",
                     big(limit == UINT64_MAX ? 0 : limit), "blkio", stats_block(g), "hugetlb");
}

s64 cgroup_oom_kills(const struct cgroup *g)
{
    const struct cgroup_hierarchy *h = g->unified ? &g->h[0] : cgroup_with(g, "memory");
    char text[512];
    if (!h || h->dir < 0 ||
        sys_read_small(h->dir, g->unified ? "memory.events" : "memory.oom_control", text, sizeof(text)) < 0)
        return -ENOENT;
    return (s64)named_in(text, "oom_kill");
}

/* --- events --- */

static json_t *stats_event(struct launch *l)
{
    cgroup_open(&l->record.cgroup, NULL);
    json_t *j =
        json_pack("{s:s,s:s,s:o}", "type", "stats", "id", l->record.id, "data", cgroup_stats(&l->record.cgroup));
    cgroup_close(&l->record.cgroup);
    return j;
}

json_t *container_stats(const struct container_host *h, const char *id, struct error *e)
{
    struct launch l;
    int r = launch_open(&l, h, id, false, false, e);
    if (r == 0 && store_status(&l.store, &l.record) == STATUS_STOPPED)
        r = error_set(e, ESRCH, "container %s: is stopped", id);
    if (r == 0 && !cgroup_is_used(&l.record.cgroup))
        r = error_set(e, ENOTSUP, "container %s: is in no cgroup of its own, so nobody counts what it uses", id);
    json_t *j = r == 0 ? stats_event(&l) : NULL;
    launch_free(&l);
    return j;
}

/* Version 1 tells of an OOM by an eventfd that is registered with the cgroup. -1 where that can not be had. */
static int oom_eventfd(struct cgroup *g)
{
    const struct cgroup_hierarchy *h = cgroup_with(g, "memory");
    char text[64];
    if (g->unified || !h || h->dir < 0)
        return -1;
    CLEANUP_FD int control = openat(h->dir, "memory.oom_control", O_RDONLY | O_CLOEXEC);
    CLEANUP_FD int fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
    snprintf(text, sizeof(text), "%d %d", fd, control);
    if (control < 0 || fd < 0 || sys_write_at(h->dir, "cgroup.event_control", text, strlen(text)) < 0)
        return -1;
    return sys_take(&fd);
}

int container_events(const struct container_host *h, const char *id, u32 interval_ms,
                     int (*emit)(void *arg, json_t *event), void *arg, struct error *e)
{
    struct launch l;
    int r = launch_open(&l, h, id, false, false, e);
    if (r == 0 && store_status(&l.store, &l.record) == STATUS_STOPPED)
        r = error_set(e, ESRCH, "container %s: is stopped", id);
    if (r < 0) {
        launch_free(&l);
        return r;
    }
    struct cgroup watched = l.record.cgroup;
    cgroup_open(&watched, NULL);
    CLEANUP_FD int pidfd = sys_pidfd_open(l.record.pid);
    CLEANUP_FD int oom = oom_eventfd(&watched);
    s64 kills = cgroup_oom_kills(&watched);
    struct pollfd p[2] = {{.fd = pidfd, .events = POLLIN}, {.fd = oom, .events = POLLIN}};
    while (pidfd >= 0 && store_alive(&l.record)) {
        int n = poll(p, 2, (int)interval_ms);
        s64 now = cgroup_oom_kills(&watched);
        u64 count;
        bool struck = oom >= 0 && read(oom, &count, sizeof(count)) == sizeof(count) && store_alive(&l.record);
        if (struck || now > kills)
            r = emit(arg, json_pack("{s:s,s:s}", "type", "oom", "id", l.record.id));
        kills = MAX(kills, now);
        if (r == 0 && n == 0)
            r = emit(arg, stats_event(&l));
        if (r < 0 || p[0].revents)
            break;
    }
    cgroup_close(&watched);
    launch_free(&l);
    return r < 0 ? 0 : r;
}
