/* `trapeze snapshot ACTION NAME [TAG...]`: states of a machine, kept in files beside it. */
#include "cli/bar.h"
#include "cli/json.h"
#include "cli/machine.h"
#include "cli/terminal.h"
#include "vm/snapshot.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define PATIENCE 120 /* seconds for one answer of the keeper */

struct request {
    const struct args *a;
    struct registry *r;
    struct machine_row *row;
    int dir; /* of the machine */
    const char **tags;
    int n_tags;
};

/* TAG.snapshot; a tag is spelled like a machine's name. */
static int file_name(const char *tag, char *out, size_t size, struct error *e)
{
    if (registry_check_name(tag, NULL) < 0)
        return error_set(
            e, EINVAL,
            "tag %.70s: has to be letters, digits, `.`, `_` and `-`, 63 at most, beginning with a letter or "
            "digit",
            tag);
    snprintf(out, size, "%s%s", tag, SNAPSHOT_SUFFIX);
    return 0;
}

static int create(const struct request *q, struct error *e)
{
    char tag[32], name[NAME_MAX];
    struct bar bar;
    time_t now = time(NULL);
    struct tm t;
    strftime(tag, sizeof(tag), "%Y%m%d-%H%M%S", gmtime_r(&now, &t));
    const char *which = q->n_tags ? q->tags[0] : tag;
    int rc = file_name(which, name, sizeof(name), e);
    if (rc < 0)
        return rc;
    if (faccessat(q->dir, name, F_OK, 0) == 0)
        return error_set(e, EEXIST,
                         "snapshot %s: is there already; `trapeze snapshot rm %s %s` first, or choose another tag",
                         which, q->row->name, which);
    int control = machine_connect(q->row, PATIENCE, e);
    if (control < 0)
        return control;
    const struct snapshot_progress p = {bar_begin_pages(&bar, q->row->name), &bar};
    rc = snapshot_create(control, q->dir, name, &p, e);
    terminal_status("");
    close(control);
    if (rc == 0)
        puts(which);
    return rc;
}

/* Of a file that may be no snapshot at all: then there is no row. */
static json_t *describe(int dir, const char *file, size_t tag_len)
{
    struct snapshot s;
    struct stat st;
    struct error e = {0};
    json_t *j = NULL;
    if (fstatat(dir, file, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return NULL;
    if (snapshot_open(&s, dir, file, &e) == 0) {
        const char *version = json_string_value(json_object_get(s.meta, "trapeze"));
        j = json_pack("{s:s%,s:o,s:I,s:I,s:s}", "tag", file, tag_len, "created", cli_json_time(s.in.head.created),
                      "memory", (json_int_t)s.in.head.ram_size, "bytes", (json_int_t)st.st_size, "trapeze",
                      version ? version : "");
    } else {
        j = json_pack("{s:s%,s:I,s:s}", "tag", file, tag_len, "bytes", (json_int_t)st.st_size, "error", e.msg);
    }
    snapshot_close(&s);
    return j;
}

static int by_tag(const struct dirent **a, const struct dirent **b)
{
    return strcmp((*a)->d_name, (*b)->d_name);
}

static json_t *all(const struct request *q, struct error *e)
{
    struct dirent **names = NULL;
    json_t *list = json_array();
    int n = scandirat(q->dir, ".", &names, NULL, by_tag);
    if (n < 0)
        error_set(e, errno, "%s: %s", q->row->dir, strerror(errno));
    for (int i = 0; i < n; i++) {
        const char *name = names[i]->d_name;
        size_t len = strlen(name), suffix = strlen(SNAPSHOT_SUFFIX);
        json_t *j =
            len > suffix && !strcmp(name + len - suffix, SNAPSHOT_SUFFIX) ? describe(q->dir, name, len - suffix) : NULL;
        if (j)
            json_array_append_new(list, j);
        free(names[i]);
    }
    free(names);
    if (n < 0) {
        json_decref(list);
        return NULL;
    }
    return list;
}

static void print_row(const json_t *row)
{
    char memory[24], size[24];
    const char *error = json_string_value(json_object_get(row, "error"));
    const char *created = json_string_value(json_object_get(row, "created"));
    printf("%-24s %-21s %10s %10s%s%s\n", json_string_value(json_object_get(row, "tag")), created ? created : "-",
           error ? "-" : cli_size_name((u64)json_integer_value(json_object_get(row, "memory")), memory),
           cli_size_name((u64)json_integer_value(json_object_get(row, "bytes")), size), error ? "  " : "",
           error ? error : "");
}

static int list(const struct request *q, struct error *e)
{
    size_t i;
    json_t *row, *rows = all(q, e);
    if (!rows)
        return -EIO;
    if (q->a->number[OPT_FORMAT])
        return cli_json_print(rows, e) == CLI_OK ? 0 : -EIO;
    printf("%-24s %-21s %10s %10s\n", "TAG", "CREATED", "MEMORY", "FILE");
    json_array_foreach(rows, i, row) print_row(row);
    json_decref(rows);
    return 0;
}

/* One that runs is ended only if that was asked for. */
static int end_first(const struct request *q, struct error *e)
{
    if (!machine_lives(q->row))
        return 0;
    if (!q->a->given[OPT_FORCE])
        return error_set(e, EINVAL,
                         "machine %s: it runs; `trapeze stop %s` first, or -f: what it does now is lost then",
                         q->row->name, q->row->name);
    int rc = machine_call(q->row, 10, json_pack("{s:s}", "do", "kill"), NULL, e);
    if (rc < 0 || (rc = machine_await_end(q->row, 5, e)) < 0)
        return rc;
    char id[sizeof(q->row->id)];
    snprintf(id, sizeof(id), "%s", q->row->id);
    if ((rc = registry_sweep(q->r, e)) < 0)
        return rc;
    registry_row_free(q->row);
    return registry_find(q->r, id, q->row, e);
}

static int restore(const struct request *q, struct error *e)
{
    char name[NAME_MAX];
    struct stat st;
    int rc = file_name(q->tags[0], name, sizeof(name), e);
    if (rc < 0)
        return rc;
    if (fstatat(q->dir, name, &st, AT_SYMLINK_NOFOLLOW) < 0)
        return error_set(e, errno, "snapshot %s: machine %s has none of that tag; `trapeze snapshot list %s`",
                         q->tags[0], q->row->name, q->row->name);
    if (machine_suspended(q->row) && !q->a->given[OPT_FORCE])
        return error_set(e, EINVAL,
                         "machine %s: is suspended; `trapeze resume %s` first, or -f: what it did is lost then",
                         q->row->name, q->row->name);
    if ((rc = end_first(q, e)) < 0 || (rc = machine_restore(q->r, q->row, name, false, e)) < 0)
        return rc;
    unlinkat(q->dir, SNAPSHOT_SUSPENDED, 0);
    machine_freshen(q->row, NULL);
    machine_set_clock(q->row);
    return 0;
}

static int forget(const struct request *q, struct error *e)
{
    int worst = 0;
    for (int i = 0; i < q->n_tags; i++) {
        char name[NAME_MAX];
        int rc = file_name(q->tags[i], name, sizeof(name), e);
        if (rc == 0 && unlinkat(q->dir, name, 0) < 0)
            rc = error_set(e, errno, "snapshot %s: %s", q->tags[i], strerror(errno));
        worst = rc < 0 ? rc : worst;
    }
    return worst;
}

static const struct action {
    const char *name, *operands;
    int min, max; /* tags */
    int (*run)(const struct request *q, struct error *e);
} actions[] = {
    {"create", "NAME [TAG]", 0, 1, create},
    {"list", "NAME", 0, 0, list},
    {"restore", "NAME TAG", 1, 1, restore},
    {"rm", "NAME TAG...", 1, 1000, forget},
};

static const struct action *find_action(const struct args *a, struct error *e)
{
    for (size_t i = 0; i < ARRAY_LEN(actions); i++) {
        if (strcmp(actions[i].name, a->operands[0]))
            continue;
        int n = a->n_operands - 2;
        if (n >= actions[i].min && n <= actions[i].max)
            return &actions[i];
        error_set(e, EINVAL, "snapshot %s: is written `trapeze snapshot %s %s`", a->operands[0], a->operands[0],
                  actions[i].operands);
        return NULL;
    }
    error_set(e, EINVAL, "snapshot %.60s: no such action; `trapeze snapshot --help` lists them", a->operands[0]);
    return NULL;
}

static int run(const struct args *a, const struct action *action, struct machine_row *row, struct registry *r,
               struct error *e)
{
    struct request q = {.a = a, .r = r, .row = row, .tags = a->operands + 2, .n_tags = a->n_operands - 2};
    if (row->kind != KIND_MACHINE)
        return error_set(e, ENOTSUP, "container %s: there are no snapshots of containers", row->name);
    q.dir = open(row->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (q.dir < 0)
        return error_set(e, errno, "%s: %s", row->dir, strerror(errno));
    int rc = action->run(&q, e);
    close(q.dir);
    return rc;
}

int verb_snapshot(const struct args *a, struct error *e)
{
    struct machine_row row;
    const struct action *action = find_action(a, e);
    struct registry *r = action ? machine_registry(e) : NULL;
    if (!r)
        return cli_status_of(e);
    int rc = registry_find(r, a->operands[1], &row, e);
    if (rc == 0) {
        rc = run(a, action, &row, r, e);
        registry_row_free(&row);
    }
    registry_close(r);
    return rc < 0 ? cli_status_of(e) : CLI_OK;
}
