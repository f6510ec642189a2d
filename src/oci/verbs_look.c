/* The verbs that print, and update with its command line made into a resources object. */
#include "oci/oci.h"

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

static int print(json_t *j, size_t flags, struct error *e)
{
    if (!j)
        return -EINVAL;
    json_dumpf(j, stdout, flags | JSON_PRESERVE_ORDER);
    putchar('\n');
    json_decref(j);
    return fflush(stdout) ? error_set(e, errno, "standard output: %s", strerror(errno)) : 0;
}

static bool wants_json(const struct oci_args *a)
{
    return a->format && !strcmp(a->format, "json");
}

static int check_format(const struct oci_args *a, struct error *e)
{
    if (a->format && strcmp(a->format, "json") && strcmp(a->format, "table"))
        return error_set(e, EINVAL, "--format %.20s: is table or json", a->format);
    return 0;
}

int oci_verb_state(struct oci_args *a, int *status, struct error *e)
{
    return print(container_state(&a->host, a->operands[0], true, e), JSON_INDENT(2), e);
}

int oci_verb_features(struct oci_args *a, int *status, struct error *e)
{
    return print(container_features(), JSON_INDENT(2), e);
}

int oci_verb_list(struct oci_args *a, int *status, struct error *e)
{
    json_t *one;
    size_t i;
    int r = check_format(a, e);
    json_t *list = r == 0 ? container_list(&a->host, e) : NULL;
    if (!list)
        return -EINVAL;
    if (wants_json(a))
        return print(list, JSON_COMPACT, e);
    if (!a->quiet)
        printf("%-24s %-8s %-9s %-40s %s\n", "ID", "PID", "STATUS", "BUNDLE", "CREATED");
    json_array_foreach(list, i, one)
    {
        const char *id = json_string_value(json_object_get(one, "id"));
        if (a->quiet)
            printf("%s\n", id);
        else
            printf("%-24s %-8d %-9s %-40s %s\n", id, (int)json_integer_value(json_object_get(one, "pid")),
                   json_string_value(json_object_get(one, "status")), json_string_value(json_object_get(one, "bundle")),
                   json_string_value(json_object_get(one, "created")));
    }
    json_decref(list);
    return 0;
}

/* ps(1) with the caller's options, and of what it prints the lines of the container's processes. */
static int print_table(json_t *pids, char **options, int n_options, struct error *e)
{
    int pipes[2];
    char *argv[32] = {"ps", "-ef", NULL};
    for (int i = 0; i < n_options && i < 30; i++)
        argv[1 + i] = options[i];
    if (pipe2(pipes, O_CLOEXEC) < 0)
        return error_set(e, errno, "pipe: %s", strerror(errno));
    pid_t child = fork();
    if (child == 0) {
        dup2(pipes[1], 1);
        execvp("ps", argv);
        _exit(127);
    }
    close(pipes[1]);
    FILE *f = fdopen(pipes[0], "r");
    char line[4096];
    int column = -1, status = -1;
    for (size_t n = 0; f && fgets(line, sizeof(line), f); n++) {
        char copy[sizeof(line)], *rest = copy, *word;
        int field = 0;
        bool ours = n == 0;
        memcpy(copy, line, sizeof(copy));
        while ((word = strsep(&rest, " \t\n"))) {
            if (!*word)
                continue;
            if (n == 0 && !strcmp(word, "PID"))
                column = field;
            for (size_t i = 0; n && field == column && i < json_array_size(pids); i++)
                ours |= json_integer_value(json_array_get(pids, i)) == strtol(word, NULL, 10);
            field++;
        }
        if (ours)
            fputs(line, stdout);
    }
    if (f)
        fclose(f);
    while (child > 0 && waitpid(child, &status, 0) < 0 && errno == EINTR)
        ;
    if (status || column < 0)
        return error_set(e, EIO, "ps: it failed, or prints no column PID; is procps there?");
    return 0;
}

int oci_verb_ps(struct oci_args *a, int *status, struct error *e)
{
    /* An engine gives no --format and its options after the name. */
    int r = check_format(a, e);
    json_t *list = r == 0 ? container_processes(&a->host, a->operands[0], e) : NULL;
    if (!list)
        return -EINVAL;
    if (wants_json(a))
        return print(list, JSON_COMPACT, e);
    r = print_table(list, a->operands + 1, a->n_operands - 1, e);
    json_decref(list);
    return r;
}

static int emit(void *arg, json_t *event)
{
    json_dumpf(event, stdout, JSON_COMPACT | JSON_PRESERVE_ORDER);
    json_decref(event);
    return putchar('\n') == EOF || fflush(stdout) ? -EPIPE : 0;
}

/* "5s", "500ms", "1m": milliseconds, 0: none of them. */
static u32 interval_of(const char *text)
{
    char *end;
    unsigned long v = strtoul(text, &end, 10);
    unsigned long unit = !strcmp(end, "ms") ? 1 : !strcmp(end, "s") || !*end ? 1000 : !strcmp(end, "m") ? 60000 : 0;
    return end == text || v > 100000 ? 0 : (u32)(v * unit);
}

int oci_verb_events(struct oci_args *a, int *status, struct error *e)
{
    u32 interval = a->interval ? interval_of(a->interval) : 5000;
    if (!interval)
        return error_set(e, EINVAL, "--interval %.20s: is no time like 5s", a->interval);
    if (a->stats)
        return print(container_stats(&a->host, a->operands[0], e), JSON_COMPACT, e);
    return container_events(&a->host, a->operands[0], interval, emit, NULL, e);
}

int oci_verb_spec(struct oci_args *a, int *status, struct error *e)
{
    if (a->launch.bundle && chdir(a->launch.bundle) < 0)
        return error_set(e, errno, "--bundle %s: %s", a->launch.bundle, strerror(errno));
    int fd = open("config.json", O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0666);
    if (fd < 0)
        return error_set(e, errno, "config.json: %s",
                         errno == EEXIST ? "is there already; remove it first" : strerror(errno));
    json_t *j = container_example(a->rootless, a->filtered);
    int r = json_dumpfd(j, fd, JSON_INDENT(2) | JSON_PRESERVE_ORDER);
    json_decref(j);
    close(fd);
    return r < 0 ? error_set(e, EIO, "config.json: it could not be written") : 0;
}

/* --- update --- */

static const struct limit {
    const char *group, *name;
    bool text;
} limits[] = {
    {"blockIO", "weight", false},
    {"cpu", "period", false},
    {"cpu", "quota", false},
    {"cpu", "burst", false},
    {"cpu", "shares", false},
    {"cpu", "realtimePeriod", false},
    {"cpu", "realtimeRuntime", false},
    {"cpu", "cpus", true},
    {"cpu", "mems", true},
    {"memory", "limit", false},
    {"memory", "reservation", false},
    {"memory", "swap", false},
    {"pids", "limit", false},
    {"cpu", "idle", false},
};

static int add_limit(json_t *all, const struct limit *l, const char *value, struct error *e)
{
    json_t *group = json_object_get(all, l->group);
    char *end;
    if (!group) {
        group = json_object();
        json_object_set_new(all, l->group, group);
    }
    if (l->text)
        return json_object_set_new(group, l->name, json_string(value));
    errno = 0;
    long long v = strtoll(value, &end, 10);
    if (!*value || *end || errno)
        return error_set(e, EINVAL, "update: %s.%s \"%.40s\": is no number", l->group, l->name, value);
    return json_object_set_new(group, l->name, json_integer(v));
}

static char *read_stream(FILE *f, size_t *size)
{
    char *text = NULL;
    size_t room = 0;
    *size = 0;
    for (;;) {
        if (*size + 4096 > room) {
            room = room ? 2 * room : 8192;
            char *more = room > (16u << 20) ? NULL : realloc(text, room);
            if (!more) {
                free(text);
                return NULL;
            }
            text = more;
        }
        size_t n = fread(text + *size, 1, 4096, f);
        if (!n)
            return text;
        *size += n;
    }
}

int oci_verb_update(struct oci_args *a, int *status, struct error *e)
{
    char *text = NULL;
    size_t size = 0;
    int r = 0;
    if (a->resources) {
        FILE *f = strcmp(a->resources, "-") ? fopen(a->resources, "re") : stdin;
        if (!f)
            return error_set(e, errno, "--resources %s: %s", a->resources, strerror(errno));
        text = read_stream(f, &size);
        if (f != stdin)
            fclose(f);
    } else {
        json_t *all = json_object();
        for (size_t i = 0; i < sizeof(limits) / sizeof(limits[0]) && r == 0; i++)
            if (a->limit[i])
                r = add_limit(all, &limits[i], a->limit[i], e);
        text = json_dumps(all, JSON_COMPACT);
        size = text ? strlen(text) : 0;
        json_decref(all);
    }
    if (r == 0)
        r = text ? container_update(&a->host, a->operands[0], text, size, e)
                 : error_set(e, ENOMEM, "--resources: out of memory, or too long");
    free(text);
    return r;
}
