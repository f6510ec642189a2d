/*
 * What all machines and containers of this user use, by the processes that work for them.
 *
 * A machine's are its keeper and all that descends from it: cell, back ends. A container's are those in it, and its keeper's, which
 * are few and small. Numbers are those of proc(5), which are there for everybody, whatever a process lets others see.
 *
 * Memory: what each process has for itself, and what they share counted once, as the largest such part. Guest memory lies in several
 * processes of a machine, and is its own only once.
 */
#include "cli/top_all.h"
#include "box/box.h"
#include "cli/json.h"
#include "cli/machine.h"

#include <ctype.h>
#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

struct process {
    int pid, parent;
    u64 ticks;            /* of user and kernel time */
    u64 resident, shared; /* pages */
    bool chosen;
};

struct processes {
    struct process *v;
    size_t n, room;
};

/* What one machine or container uses. */
struct use {
    char id[MACHINE_ID_LEN + 1], name[MACHINE_NAME_MAX + 1];
    enum machine_kind kind;
    u64 ticks, pages;
    size_t n;
};

struct uses {
    struct use *v;
    size_t n;
    struct timespec at;
};

/* --- the host's processes --- */

static bool read_small(int pid, const char *file, char *out, size_t size)
{
    char path[64];
    snprintf(path, sizeof(path), "/proc/%d/%s", pid, file);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, out, size - 1);
    if (fd >= 0)
        close(fd);
    out[MAX(n, 0)] = 0;
    return n > 0;
}

/* The name may hold anything, but the last ")" ends it. */
static bool read_process(struct process *p, int pid)
{
    char text[1024];
    unsigned long user, kernel;
    unsigned long long resident, shared;
    *p = (struct process){.pid = pid};
    const char *end = read_small(pid, "stat", text, sizeof(text)) ? strrchr(text, ')') : NULL;
    if (!end || sscanf(end + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu", &p->parent, &user, &kernel) != 3)
        return false;
    p->ticks = (u64)user + kernel;
    if (!read_small(pid, "statm", text, sizeof(text)) || sscanf(text, "%*u %llu %llu", &resident, &shared) != 2)
        return false;
    p->resident = resident;
    p->shared = MIN(shared, resident);
    return true;
}

static int by_number(const void *a, const void *b)
{
    const struct process *x = a, *y = b;
    return x->pid < y->pid ? -1 : x->pid > y->pid;
}

static int read_processes(struct processes *all, struct error *e)
{
    const struct dirent *d;
    DIR *dir = opendir("/proc");
    *all = (struct processes){0};
    if (!dir)
        return error_set(e, errno, "/proc: %s", strerror(errno));
    while ((d = readdir(dir))) {
        struct process p;
        if (!isdigit((unsigned char)d->d_name[0]) || !read_process(&p, atoi(d->d_name)))
            continue;
        if (all->n == all->room) {
            size_t room = all->room ? 2 * all->room : 256;
            struct process *v = realloc(all->v, room * sizeof(*v));
            if (!v)
                break;
            all->v = v;
            all->room = room;
        }
        all->v[all->n++] = p;
    }
    closedir(dir);
    if (all->n)
        qsort(all->v, all->n, sizeof(*all->v), by_number);
    return 0;
}

static struct process *find(const struct processes *all, int pid)
{
    const struct process key = {.pid = pid};
    return all->n ? bsearch(&key, all->v, all->n, sizeof(key), by_number) : NULL;
}

static void choose(struct processes *all, int pid)
{
    struct process *p = find(all, pid);
    if (p)
        p->chosen = true;
}

/* And all that descend from who is chosen: as many rounds as generations. */
static void choose_children(struct processes *all)
{
    for (bool more = true; more;) {
        more = false;
        for (size_t i = 0; i < all->n; i++) {
            struct process *p = &all->v[i];
            const struct process *parent = p->chosen ? NULL : find(all, p->parent);
            if (parent && parent->chosen)
                p->chosen = more = true;
        }
    }
}

/* --- theirs --- */

static void add_up(struct use *u, const struct processes *all)
{
    u64 largest = 0;
    for (size_t i = 0; i < all->n; i++) {
        const struct process *p = &all->v[i];
        if (!p->chosen)
            continue;
        u->n++;
        u->ticks += p->ticks;
        u->pages += p->resident - p->shared;
        largest = MAX(largest, p->shared);
    }
    u->pages += largest;
}

static void measure(struct use *u, const struct machine_row *row, struct processes *all)
{
    size_t i;
    json_t *p, *inside = row->kind == KIND_CONTAINER ? box_processes(row, NULL) : NULL;
    *u = (struct use){.kind = row->kind};
    memcpy(u->id, row->id, sizeof(u->id));
    memcpy(u->name, row->name, sizeof(u->name));
    for (size_t k = 0; k < all->n; k++)
        all->v[k].chosen = false;
    choose(all, (int)row->keeper_pid);
    json_array_foreach(inside, i, p) choose(all, (int)json_integer_value(json_object_get(p, "pid")));
    json_decref(inside);
    choose_children(all);
    add_up(u, all);
}

static int by_time(const void *a, const void *b)
{
    const struct use *x = a, *y = b;
    return x->ticks < y->ticks ? 1 : x->ticks > y->ticks ? -1 : strcmp(x->name, y->name);
}

static int take(struct uses *out, struct error *e)
{
    struct machine_row *rows;
    struct processes all;
    size_t n;
    *out = (struct uses){0};
    struct registry *r = machine_registry(e);
    int rc = r ? registry_list(r, &rows, &n, e) : -EIO;
    registry_close(r);
    if (rc < 0)
        return rc;
    rc = read_processes(&all, e);
    clock_gettime(CLOCK_MONOTONIC, &out->at);
    out->v = rc == 0 ? calloc(n + 1, sizeof(*out->v)) : NULL;
    for (size_t i = 0; out->v && i < n; i++)
        if (machine_lives(&rows[i]))
            measure(&out->v[out->n++], &rows[i], &all);
    registry_rows_free(rows, n);
    free(all.v);
    if (out->n)
        qsort(out->v, out->n, sizeof(*out->v), by_time);
    return rc < 0 || out->v ? rc : error_set(e, ENOMEM, "memory: the host has none left");
}

/* --- shown --- */

/* Of one CPU, in percent since `last`; negative: it was not there then. */
static double percent(const struct use *u, const struct uses *now, const struct uses *last)
{
    double seconds = (double)(now->at.tv_sec - last->at.tv_sec) + (double)(now->at.tv_nsec - last->at.tv_nsec) / 1e9;
    for (size_t i = 0; i < last->n; i++)
        if (!strcmp(last->v[i].id, u->id) && seconds > 0)
            return 100 * (double)(u->ticks - MIN(u->ticks, last->v[i].ticks)) / (double)sysconf(_SC_CLK_TCK) / seconds;
    return -1;
}

static json_t *to_json(const struct uses *now, const struct uses *last)
{
    json_t *list = json_array();
    for (size_t i = 0; i < now->n; i++) {
        const struct use *u = &now->v[i];
        double p = last ? percent(u, now, last) : -1;
        json_array_append_new(
            list, json_pack("{s:s,s:s,s:s,s:f,s:o*,s:I,s:I}", "kind", registry_kind_name(u->kind), "name", u->name,
                            "id", u->id, "seconds", (double)u->ticks / (double)sysconf(_SC_CLK_TCK), "percent",
                            p < 0 ? NULL : json_real(p), "memory", (json_int_t)u->pages * sysconf(_SC_PAGESIZE),
                            "processes", (json_int_t)u->n));
    }
    return list;
}

static void print(const struct uses *now, const struct uses *last)
{
    printf("%-20s %-10s %8s %12s %12s %10s\n", "NAME", "KIND", "CPU", "CPU TIME", "MEMORY", "PROCESSES");
    for (size_t i = 0; i < now->n; i++) {
        const struct use *u = &now->v[i];
        char size[24], share[16] = "-";
        double p = last ? percent(u, now, last) : -1;
        if (p >= 0)
            snprintf(share, sizeof(share), "%.1f%%", p);
        printf("%-20s %-10s %8s %10.2f s %12s %10zu\n", u->name, registry_kind_name(u->kind), share,
               (double)u->ticks / (double)sysconf(_SC_CLK_TCK),
               cli_size_name(u->pages * (u64)sysconf(_SC_PAGESIZE), size), u->n);
    }
}

static int watch(const struct args *a, struct uses *last, struct error *e)
{
    const struct timespec rest = {.tv_sec = (time_t)a->number[OPT_INTERVAL]};
    for (u64 n = 0; !a->given[OPT_LINES] || n < a->number[OPT_LINES]; n++) {
        struct uses now;
        nanosleep(&rest, NULL);
        if (take(&now, e) < 0)
            return cli_status_of(e);
        if (a->number[OPT_FORMAT]) {
            json_t *list = to_json(&now, last);
            json_dumpf(list, stdout, JSON_COMPACT);
            json_decref(list);
            puts("");
        } else {
            if (n)
                puts("");
            print(&now, last);
        }
        free(last->v);
        *last = now;
        if (fflush(stdout) != 0)
            break; /* main says why, unless the reader has had enough */
    }
    return CLI_OK;
}

int top_all(const struct args *a, struct error *e)
{
    struct uses now;
    if (take(&now, e) < 0)
        return cli_status_of(e);
    int status = CLI_OK;
    if (a->given[OPT_INTERVAL])
        status = watch(a, &now, e);
    else if (a->number[OPT_FORMAT])
        status = cli_json_print(to_json(&now, NULL), e);
    else
        print(&now, NULL);
    free(now.v);
    return status;
}
