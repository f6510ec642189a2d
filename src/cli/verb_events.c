/*
 * `trapeze events`: what happened to machines and containers. The registry writes it down where it happens, in the transaction that
 * makes it so (vm/registry.c); here it is read, and with -f waited for: by the changes of the registry's file, and once a second
 * for keepers that are gone without a word.
 */
#include "box/box.h"
#include "cli/json.h"
#include "cli/machine.h"
#include "host/host.h"
#include "vm/paths.h"

#include <errno.h>
#include <poll.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOOK_MS 1000

struct teller {
    const struct args *a;
    s64 last; /* that was seen */
};

static bool wanted(const struct args *a, const struct machine_event *v)
{
    for (int i = 0; i < a->n_operands; i++)
        if (!strcmp(a->operands[i], v->name) || !strcmp(a->operands[i], v->id))
            return true;
    return !a->n_operands;
}

/* Local time with milliseconds, as ISO 8601 has it. */
static void time_text(s64 ms, char out[40])
{
    time_t seconds = (time_t)(ms / 1000);
    struct tm t;
    char zone[8] = "";
    localtime_r(&seconds, &t);
    size_t n = strftime(out, 40, "%Y-%m-%dT%H:%M:%S", &t);
    strftime(zone, sizeof(zone), "%z", &t);
    snprintf(out + n, 40 - n, ".%03d%s", (int)(ms % 1000), zone);
}

static void print_json(const struct machine_event *v, const char *when)
{
    json_t *j = json_pack("{s:s,s:s,s:s,s:s,s:s,s:o*,s:s}", "time", when, "kind", registry_kind_name(v->kind), "name",
                          v->name, "id", v->id, "event", v->what, "exit_code",
                          v->has_code ? json_integer(v->exit_code) : NULL, "reason", v->reason);
    json_dumpf(j, stdout, JSON_COMPACT);
    json_decref(j);
    puts("");
}

static int tell(void *arg, const struct machine_event *v)
{
    struct teller *t = arg;
    char when[40];
    t->last = v->seq;
    if (!wanted(t->a, v))
        return 0;
    time_text(v->time_ms, when);
    if (t->a->number[OPT_FORMAT])
        print_json(v, when);
    else if (v->has_code)
        printf("%s %s %s %s: %s (status %d)\n", when, registry_kind_name(v->kind), v->name, v->what, v->reason,
               v->exit_code);
    else
        printf("%s %s %s %s\n", when, registry_kind_name(v->kind), v->name, v->what);
    return 0;
}

static int sweep(struct registry *r, struct error *e)
{
    int rc = box_sweep(r, e);
    return rc == 0 ? registry_sweep(r, e) : rc;
}

/* Until somebody ends us, or nobody reads any more. */
static int follow(struct registry *r, struct teller *t, int changes, struct error *e)
{
    struct pollfd p = {.fd = changes, .events = POLLIN};
    for (;;) {
        if (fflush(stdout) != 0)
            return 0; /* main says why, unless the reader has had enough */
        if (poll(&p, 1, LOOK_MS) < 0 && errno != EINTR)
            return error_set(e, errno, "poll: %s", strerror(errno));
        host_changes_take(changes);
        int rc = p.revents ? 0 : sweep(r, e);
        if (rc == 0)
            rc = registry_events(r, t->last, tell, t, e);
        if (rc < 0)
            return rc;
    }
}

static int open_changes(struct error *e)
{
    char dir[PATH_MAX];
    int rc = paths_state_dir(dir, sizeof(dir), e);
    return rc < 0 ? rc : host_changes_open(dir, e);
}

int verb_events(const struct args *a, struct error *e)
{
    struct teller t = {.a = a};
    struct registry *r = machine_registry(e);
    int changes = r && a->given[OPT_FOLLOW_EVENTS] ? open_changes(e) : -1;
    int rc = !r || (a->given[OPT_FOLLOW_EVENTS] && changes < 0) ? -EIO : registry_events(r, 0, tell, &t, e);
    if (rc == 0 && changes >= 0)
        rc = follow(r, &t, changes, e);
    if (changes >= 0)
        close(changes);
    registry_close(r);
    return rc < 0 ? cli_status_of(e) : CLI_OK;
}
