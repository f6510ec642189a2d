/* What a running container uses, and may use. */
#include "box/parts.h"
#include "container/sys.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

static int open_running(struct box *b, const struct machine_row *row, struct error *e)
{
    bool lives = row->keeper_start && sys_start_time(row->keeper_pid) == row->keeper_start;
    return lives ? box_open(b, row->id, false, e) : error_set(e, ESRCH, "container %s: does not run", row->name);
}

/* What `ps` shows of it. */
static int note_limits(struct registry *r, const struct machine_row *row, u64 memory, u64 cpus, struct error *e)
{
    json_t *j = json_loads(row->config ? row->config : "{}", 0, NULL);
    if (memory)
        json_object_set_new(j, "memory", json_integer((json_int_t)memory));
    if (cpus)
        json_object_set_new(j, "cpus", json_integer((json_int_t)cpus));
    CLEANUP_FREE char *text = j ? json_dumps(j, JSON_COMPACT) : NULL;
    json_decref(j);
    return text ? registry_configure(r, row->id, text, e) : error_set(e, ENOMEM, "out of memory");
}

int box_update(struct registry *r, const struct machine_row *row, u64 memory, u64 cpus, struct error *e)
{
    struct box b;
    int rc = open_running(&b, row, e);
    if (rc < 0)
        return rc;
    json_t *j = json_object();
    if (memory)
        json_object_set_new(j, "memory", json_pack("{s:I}", "limit", (json_int_t)memory));
    if (cpus)
        json_object_set_new(
            j, "cpu",
            json_pack("{s:I,s:I}", "period", (json_int_t)BOX_CPU_PERIOD, "quota", (json_int_t)(cpus * BOX_CPU_PERIOD)));
    CLEANUP_FREE char *text = json_dumps(j, JSON_COMPACT);
    json_decref(j);
    rc = text ? container_update(&b.host, b.id, text, strlen(text), e) : error_set(e, ENOMEM, "out of memory");
    if (rc < 0)
        error_prefix(e, "container %s", row->name);
    box_close(&b);
    return rc < 0 ? rc : note_limits(r, row, memory, cpus, e);
}

json_t *box_stats(const struct machine_row *row, struct error *e)
{
    struct box b;
    if (open_running(&b, row, e) < 0)
        return NULL;
    json_t *j = container_stats(&b.host, b.id, e), *data = json_incref(json_object_get(j, "data"));
    json_decref(j);
    box_close(&b);
    return data;
}

/* --- processes --- */

/* Its words with blanks between; a kernel's thread or a zombie has none, only a name. What is not printable becomes "?". */
static json_t *command_of(int proc, const char *name)
{
    char text[1024];
    CLEANUP_FD int fd = openat(proc, "cmdline", O_RDONLY | O_CLOEXEC);
    ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
    if (n <= 0)
        n = snprintf(text, sizeof(text), "[%.64s]", name);
    while (n && !text[n - 1])
        n--;
    for (ssize_t i = 0; i < n; i++)
        text[i] = !text[i] ? ' ' : text[i] < ' ' || text[i] > '~' ? '?' : text[i];
    return json_stringn(text, (size_t)n);
}

/* proc(5), stat: the name may hold anything, but the last ")" ends it. */
static json_t *process_row(pid_t pid)
{
    char path[32], text[1024], name[65];
    struct stat st;
    int parent;
    unsigned long user, kernel;
    long pages;
    snprintf(path, sizeof(path), "/proc/%d", (int)pid);
    CLEANUP_FD int proc = open(path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (proc < 0 || fstat(proc, &st) < 0 || sys_read_small(proc, "stat", text, sizeof(text)) <= 0)
        return NULL;
    const char *open_at = strchr(text, '('), *end = strrchr(text, ')');
    if (!open_at || !end ||
        sscanf(end + 1, " %*c %d %*d %*d %*d %*d %*u %*u %*u %*u %*u %lu %lu %*d %*d %*d %*d %*d %*d %*u %*u %ld",
               &parent, &user, &kernel, &pages) != 4)
        return NULL;
    snprintf(name, sizeof(name), "%.*s", (int)MIN(end - open_at - 1, 64), open_at + 1);
    return json_pack("{s:i,s:i,s:I,s:f,s:I,s:o}", "pid", (int)pid, "ppid", parent, "uid", (json_int_t)st.st_uid,
                     "seconds", (double)(user + kernel) / (double)sysconf(_SC_CLK_TCK), "memory",
                     (json_int_t)pages * sysconf(_SC_PAGESIZE), "command", command_of(proc, name));
}

json_t *box_processes(const struct machine_row *row, struct error *e)
{
    struct box b;
    size_t i;
    json_t *v, *list = NULL;
    if (open_running(&b, row, e) < 0)
        return NULL;
    json_t *pids = container_processes(&b.host, b.id, e);
    if (pids)
        list = json_array();
    json_array_foreach(pids, i, v)
    {
        json_t *one = process_row((pid_t)json_integer_value(v));
        if (one) /* it may have ended in between */
            json_array_append_new(list, one);
    }
    json_decref(pids);
    box_close(&b);
    return list;
}
