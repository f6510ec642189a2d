/* `trapeze migrate NAME TO`: a machine goes to another host while it runs (vm/move.h). */
#include "cli/json.h"
#include "cli/machine.h"
#include "cli/terminal.h"
#include "host/host.h"
#include "vm/move.h"
#include "vm/resolve.h"

#include <errno.h>
#include <string.h>
#include <unistd.h>

#define NS_PER_MS 1000000ull
#define LOOK_NS   (100 * NS_PER_MS) /* between two lines of a person's, or of a program's in the same round */

struct view {
    const struct args *a;
    const char *name;
    bool json, person;
    u64 shown; /* status.ns of the last */
    const char *stage;
    unsigned round;
};

static double ms(u64 ns)
{
    return (double)ns / (double)NS_PER_MS;
}

static json_t *status_json(const struct view *v, const struct move_status *s)
{
    const struct precopy_status *c = &s->copy;
    u64 left = c->round ? c->left * PAGE_SIZE : s->disk_left;
    return json_pack("{s:s,s:s,s:s,s:f,s:i,s:I,s:I,s:I,s:I,s:I,s:I,s:f,s:b,s:f}", "event", "progress", "name", v->name,
                     "stage", s->stage, "ms", ms(s->ns), "round", (int)c->round, "left_bytes", (json_int_t)left,
                     "sent_bytes", (json_int_t)(c->sent * PAGE_SIZE + s->disk_sent), "disk_left_bytes",
                     (json_int_t)s->disk_left, "disk_sent_bytes", (json_int_t)s->disk_sent, "dirty_bytes_per_s",
                     (json_int_t)c->dirty_rate, "bandwidth_bytes_per_s", (json_int_t)c->bandwidth,
                     "expected_downtime_ms", ms(c->expected), "converges", c->converges, "throttle_percent",
                     c->throttle / 100.0);
}

static void print_json(json_t *j)
{
    char *text = j ? json_dumps(j, JSON_COMPACT | JSON_REAL_PRECISION(6)) : NULL;
    json_decref(j);
    if (text)
        puts(text);
    free(text);
    fflush(stdout);
}

static void show_person(const struct view *v, const struct move_status *s)
{
    char line[240], left[24], rate[24], dirty[24], slow[40] = "";
    const struct precopy_status *c = &s->copy;
    if (c->throttle)
        snprintf(slow, sizeof(slow), ", slowed down by %.4g %%", c->throttle / 100.0);
    if (s->disk_left)
        snprintf(line, sizeof(line), "%s: %s, disks: %s left, %s sent", v->name, s->stage,
                 cli_size_name(s->disk_left, left), cli_size_name(s->disk_sent, rate));
    else if (!c->round)
        snprintf(line, sizeof(line), "%s: %s ..", v->name, s->stage);
    else
        snprintf(line, sizeof(line), "%s: %s, round %u: %s left, %s/s go, the guest writes %s/s, %.0f ms of downtime%s",
                 v->name, s->stage, c->round, cli_size_name(c->left * PAGE_SIZE, left),
                 cli_size_name(c->bandwidth, rate), cli_size_name(c->dirty_rate, dirty), ms(c->expected), slow);
    terminal_status(line);
}

static void tell(void *ctx, const struct move_status *s)
{
    struct view *v = ctx;
    bool news = v->stage != s->stage || v->round != s->copy.round;
    if (!news && s->ns - v->shown < LOOK_NS)
        return;
    v->stage = s->stage;
    v->round = s->copy.round;
    v->shown = s->ns;
    if (v->json)
        print_json(status_json(v, s));
    else if (v->person)
        show_person(v, s);
}

static json_t *result_json(const struct view *v, const struct move_options *o, const struct move_result *r, int rc,
                           const struct error *e)
{
    static const char *const stages[] = {"pre-migration", "reservation", "pre-copy",
                                         "stop-and-copy", "commitment",  "activation"};
    json_t *times = json_object();
    for (size_t i = 0; times && i < ARRAY_LEN(stages); i++)
        if (r->stage_ns[i])
            json_object_set_new(times, stages[i], json_real(ms(r->stage_ns[i])));
    json_t *j =
        json_pack("{s:s,s:s,s:s,s:b,s:f,s:f,s:f,s:I,s:I,s:I,s:I,s:i,s:f,s:I,s:I,s:o}", "event", "result", "name",
                  v->name, "to", o->to, "moved", r->moved, "ms", ms(r->ns), "downtime_ms", ms(r->downtime),
                  "expected_downtime_ms", ms(r->expected), "bytes", (json_int_t)r->bytes, "disk_bytes",
                  (json_int_t)r->disk_bytes, "resident_bytes", (json_int_t)r->resident, "pages", (json_int_t)r->pages,
                  "rounds", (int)r->rounds, "throttle_percent", r->throttle / 100.0, "dirty_bytes_per_s",
                  (json_int_t)r->dirty_rate, "bandwidth_bytes_per_s", (json_int_t)r->bandwidth, "stage_ms", times);
    if (j && r->postcopy) {
        json_object_set_new(j, "postcopy_bytes", json_integer((json_int_t)r->named_bytes));
        json_object_set_new(j, "postcopy_pages", json_integer((json_int_t)r->paged));
        json_object_set_new(j, "waited_for_pages", json_integer((json_int_t)r->wished));
    }
    if (j && rc < 0) {
        json_object_set_new(j, "error", json_string(e->msg));
        json_object_set_new(j, "errno", json_integer(-rc));
    }
    return j;
}

static void print_forecast(const struct view *v, const struct move_options *o, const struct move_result *r)
{
    char dirty[24], rate[24], disks[24];
    if (o->with_disks)
        printf("%s: its disks have %s\n", v->name, cli_size_name(r->disk_bytes, disks));
    printf("%s: %s takes it; its guest writes %s/s", v->name, o->to, cli_size_name(r->dirty_rate, dirty));
    if (!o->bandwidth)
        printf("; --bandwidth tells whether it converges\n");
    else if (r->dirty_rate < o->bandwidth)
        printf("; at %s/s it converges\n", cli_size_name(o->bandwidth, rate));
    else
        printf("; at %s/s it will not converge\n", cli_size_name(o->bandwidth, rate));
}

static void print_result(const struct view *v, const struct move_options *o, const struct move_result *r)
{
    char size[24], rest[24], more[60] = "";
    if (o->dry_run)
        print_forecast(v, o, r);
    if (r->postcopy)
        snprintf(more, sizeof(more), ", %s of it fetched when it ran there", cli_size_name(r->named_bytes, rest));
    if (!o->dry_run)
        printf("%s: runs at %s; %u rounds, %s in %.2f s%s, downtime %.1f ms\n", v->name, o->to, r->rounds,
               cli_size_name(r->bytes, size), ms(r->ns) / 1000, more, ms(r->downtime));
}

static int move(const struct args *a, const struct machine_row *row, struct error *e)
{
    struct view v = {.a = a, .name = row->name, .json = a->number[OPT_FORMAT], .person = isatty(STDERR_FILENO)};
    struct move_result result;
    struct move_options o = {.to = a->operands[1],
                             .security = {.tls_dir = a->text[OPT_TLS], .insecure = a->given[OPT_INSECURE]},
                             .downtime = a->number[OPT_DOWNTIME] * NS_PER_MS,
                             .bandwidth = a->number[OPT_BANDWIDTH] / 8,
                             .max_ns = a->number[OPT_MAX_TIME] * NS_PER_MS,
                             .stop_anyway = a->given[OPT_STOP_ANYWAY],
                             .throttle = a->given[OPT_THROTTLE],
                             .postcopy = a->given[OPT_POSTCOPY],
                             .plain = a->given[OPT_NO_PACKING],
                             .with_disks = a->given[OPT_WITH_DISKS],
                             .dry_run = a->given[OPT_DRY_RUN],
                             .verify = a->given[OPT_VERIFY],
                             .tell = tell,
                             .ctx = &v};
    o.cancel = host_term_signals(e);
    if (o.cancel < 0)
        return o.cancel;
    int rc = move_run(row, &o, &result, e);
    terminal_status("");
    error_prefix(e, "machine %s", row->name);
    if (v.json)
        print_json(result_json(&v, &o, &result, rc, e));
    else if (rc == 0)
        print_result(&v, &o, &result);
    return rc;
}

/* What to do with a guest that outruns the link is one thing; and disks are not fetched later. */
static int check_policy(const struct args *a, struct error *e)
{
    static const enum option_id others[] = {OPT_THROTTLE, OPT_STOP_ANYWAY, OPT_WITH_DISKS};
    static const char *const names[] = {"--throttle", "--stop-if-not-converging", "--with-disks"};
    for (size_t i = 0; a->given[OPT_POSTCOPY] && i < ARRAY_LEN(others); i++)
        if (a->given[others[i]])
            return error_set(e, EINVAL, "--postcopy: not together with %s%s", names[i],
                             i == 2 ? ": blocks of disks can not be fetched later" : "");
    return 0;
}

int verb_migrate(const struct args *a, struct error *e)
{
    struct machine_row row;
    char tls[PATH_MAX];
    struct args with = *a;
    if (check_policy(a, e) < 0)
        return CLI_USAGE;
    if (a->text[OPT_TLS]) { /* who asks later may be elsewhere */
        if (!realpath(a->text[OPT_TLS], tls))
            return error_set(e, errno, "--tls %s: %s", a->text[OPT_TLS], strerror(errno)), CLI_USAGE;
        with.text[OPT_TLS] = tls;
    }
    int rc = machine_find(a->operands[0], &row, e);
    if (rc < 0)
        return cli_status_of(e);
    if (row.kind != KIND_MACHINE)
        rc = error_set(e, ENOTSUP, "container %s: only machines can be moved", row.name);
    else if (!machine_lives(&row))
        rc = error_set(e, ESRCH, "machine %s: does not run; there is nothing to move but its files", row.name);
    else
        rc = move(&with, &row, e);
    if (rc == 0 && !a->given[OPT_DRY_RUN])
        machine_await_end(&row, 5, &(struct error){0});
    registry_row_free(&row);
    return rc < 0 ? cli_status_of(e) : CLI_OK;
}
