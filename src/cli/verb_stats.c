/*
 * What the engine counts (ENGINE_COUNTERS of engine/engine.h), for people: in groups, with shares; or a line an interval,
 * as vmstat does. The numbers come from the cell, so nothing is taken for granted about them: differences and sums end
 * at their bounds.
 */
#include "cli/json.h"
#include "cli/machine.h"
#include "cli/memory.h"
#include "cli/stats_container.h"
#include "cli/terminal.h"
#include "engine/engine.h"

#include <errno.h>
#include <string.h>
#include <time.h>

#define PATIENCE     5  /* seconds that a keeper may take to answer */
#define HEADER_EVERY 20 /* lines of an interval's table */

enum counter {
#define X(name, text) COUNTER_##name,
    ENGINE_COUNTERS(X)
#undef X
        COUNTERS
};

static const struct {
    const char *name, *text;
} counters[COUNTERS] = {
#define X(name, text) [COUNTER_##name] = {#name, text},
    ENGINE_COUNTERS(X)
#undef X
};

/* What stands beside a number. */
enum share { SHARE_NONE, SHARE_PERCENT, SHARE_MILLION };

static const struct group {
    const char *title;
    enum share share;
    u8 first, last; /* enum counter */
} groups[] = {
    {"Instructions", SHARE_PERCENT, COUNTER_instructions, COUNTER_quick},
    {"Code cache", SHARE_NONE, COUNTER_blocks_made, COUNTER_unlinks},
    {"Exits from translated code, and how many to a million instructions", SHARE_MILLION, COUNTER_entries,
     COUNTER_exit_killed},
    {"Memory, and how many to a million instructions", SHARE_MILLION, COUNTER_tlb_misses, COUNTER_code_writes},
    {"Events, and how many to a million instructions", SHARE_MILLION, COUNTER_exceptions, COUNTER_mmio},
};

/* Every counter is in one group, and they stand in the order of the table. */
_Static_assert(COUNTER_quick + 1 == COUNTER_blocks_made && COUNTER_unlinks + 1 == COUNTER_entries &&
                   COUNTER_exit_killed + 1 == COUNTER_tlb_misses && COUNTER_code_writes + 1 == COUNTER_exceptions &&
                   COUNTER_instructions == 0 && COUNTER_mmio + 1 == COUNTERS,
               "the groups are all counters");

struct sample {
    char state[16], engine[16];
    double uptime; /* seconds */
    u64 count[COUNTERS];
};

/* --- from the keeper --- */

static int take_sample(const struct machine_row *row, struct sample *s, struct error *e)
{
    json_t *status = NULL, *stats = NULL;
    const char *state, *engine;
    *s = (struct sample){0};
    int rc = machine_call(row, PATIENCE, json_pack("{s:s}", "do", "stats"), &stats, e);
    if (rc == 0)
        rc = machine_call(row, PATIENCE, json_pack("{s:s}", "do", "status"), &status, e);
    if (rc == 0 && json_unpack(status, "{s:s, s:s, s:F}", "state", &state, "engine", &engine, "uptime", &s->uptime) < 0)
        rc = error_set(e, EPROTO, "machine %s: its keeper does not say how it is; is it another version?", row->name);
    for (size_t i = 0; rc == 0 && i < COUNTERS; i++)
        s->count[i] = (u64)MAX(0, json_integer_value(json_object_get(stats, counters[i].name)));
    if (rc == 0) {
        snprintf(s->state, sizeof(s->state), "%s", state);
        snprintf(s->engine, sizeof(s->engine), "%s", engine);
    }
    json_decref(status);
    json_decref(stats);
    return rc;
}

/* Measures of what the cache holds now: they have no difference. */
static bool is_level(size_t counter)
{
    return counter == COUNTER_code_bytes || counter == COUNTER_code_limit;
}

static void subtract(struct sample *s, const struct sample *before)
{
    s->uptime = MAX(s->uptime - before->uptime, 0);
    for (size_t i = 0; i < COUNTERS; i++)
        if (!is_level(i))
            s->count[i] -= MIN(s->count[i], before->count[i]);
}

/* --- what follows from the counters --- */

static double ratio(double part, double whole)
{
    return whole > 0 ? part / whole : 0;
}

static double mips(const struct sample *s)
{
    return ratio((double)s->count[COUNTER_instructions], s->uptime * 1e6);
}

/* Share of the instructions that no monitor had a hand in: 0 to 1. */
static double without_monitor(const struct sample *s)
{
    return 1 - MIN(ratio((double)s->count[COUNTER_monitor], (double)s->count[COUNTER_instructions]), 1);
}

static bool translates(const struct sample *s)
{
    return s->count[COUNTER_entries] != 0;
}

static u64 translated(const struct sample *s)
{
    u64 left = s->count[COUNTER_instructions];
    left -= MIN(left, s->count[COUNTER_interpreted]);
    left -= MIN(left, s->count[COUNTER_callouts]);
    return left - MIN(left, s->count[COUNTER_quick]);
}

static double sum(const struct sample *s, enum counter first, enum counter last)
{
    double n = 0;
    for (size_t i = first; i <= last; i++)
        n += (double)s->count[i];
    return n;
}

static json_t *sample_json(const struct machine_row *row, const struct sample *s)
{
    json_t *count = json_object();
    for (size_t i = 0; i < COUNTERS; i++)
        json_object_set_new(count, counters[i].name, json_integer((json_int_t)s->count[i]));
    json_t *o =
        json_pack("{s:s, s:s, s:s, s:f, s:f, s:f, s:o}", "name", row->name, "state", s->state, "engine", s->engine,
                  "seconds", s->uptime, "mips", mips(s), "without_monitor", without_monitor(s), "counters", count);
    if (o && translates(s))
        json_object_set_new(o, "translated", json_integer((json_int_t)translated(s)));
    return o;
}

/* --- everything, for people --- */

/* "1,234,567" */
static const char *grouped(u64 v, char out[32])
{
    char digits[24];
    int n = snprintf(digits, sizeof(digits), "%llu", (unsigned long long)v), at = 0;
    for (int i = 0; i < n; i++) {
        if (i && (n - i) % 3 == 0)
            out[at++] = ',';
        out[at++] = digits[i];
    }
    out[at] = 0;
    return out;
}

/* `text` from column `at` on, continued below itself where the terminal ends. */
static void print_text(const char *text, int at)
{
    int room = (int)terminal_columns() - at;
    while (room > 20 && (int)strlen(text) > room) {
        int n = room;
        while (n && text[n] != ' ')
            n--;
        if (!n)
            break;
        printf("%.*s\n%*s", n, text, at, "");
        text += n + 1;
    }
    puts(text);
}

static void print_count(const struct sample *s, enum share share, u64 v, const char *text)
{
    char number[32], beside[32] = "";
    double all = (double)s->count[COUNTER_instructions];
    if (share == SHARE_PERCENT)
        snprintf(beside, sizeof(beside), "%6.2f %%", 100 * ratio((double)v, all));
    else if (share == SHARE_MILLION)
        snprintf(beside, sizeof(beside), "%.2f", 1e6 * ratio((double)v, all));
    print_text(text, printf("  %17s  %*s%s", grouped(v, number), share ? 9 : 0, beside, share ? "  " : ""));
}

/* The text without what its group's title says already. */
static const char *short_text(size_t counter)
{
    static const char *const heads[] = {"exits: ", "of these, "};
    const char *text = counters[counter].text;
    for (size_t i = 0; i < ARRAY_LEN(heads); i++)
        if (!strncmp(text, heads[i], strlen(heads[i])))
            return text + strlen(heads[i]);
    return text;
}

static void print_group(const struct sample *s, const struct group *g)
{
    if (sum(s, g->first, g->last) == 0)
        return;
    printf("\n%s\n", g->title);
    for (size_t i = g->first; i <= g->last; i++) {
        if (!s->count[i])
            continue;
        print_count(s, g->share, s->count[i], short_text(i));
        if (i == COUNTER_instructions && translates(s))
            print_count(s, g->share, translated(s), "by translated code");
    }
}

static void print_all(const struct machine_row *row, const struct sample *s, const json_t *balloon)
{
    printf("machine %s: %s, engine %s, %.1f s since its start\n", row->name, s->state, s->engine, s->uptime);
    printf("%.1f million instructions a second on average; %.3f %% ran without the monitor\n", mips(s),
           100 * without_monitor(s));
    for (size_t i = 0; i < ARRAY_LEN(groups); i++)
        print_group(s, &groups[i]);
    memory_print(balloon);
    puts("\nWhat was counted 0 times is left out; --format json has it all.");
}

/* --- a line an interval --- */

/* Columns of events a second: sums of counters. */
static const struct {
    const char *title;
    u8 first, last;
} columns[] = {
    {"exits", COUNTER_exit_poll, COUNTER_exit_killed},
    {"blocks", COUNTER_blocks_made, COUNTER_blocks_made},
    {"tlbmiss", COUNTER_tlb_misses, COUNTER_tlb_misses},
    {"tlbfill", COUNTER_tlb_fills, COUNTER_tlb_fills},
    {"except", COUNTER_exceptions, COUNTER_exceptions},
    {"intr", COUNTER_interrupts, COUNTER_interrupts},
    {"device", COUNTER_pio, COUNTER_mmio},
};

static void print_header(void)
{
    printf("%7s %8s", "MIPS", "direct");
    for (size_t i = 0; i < ARRAY_LEN(columns); i++)
        printf(" %8s", columns[i].title);
    puts("");
}

static void print_line(const struct sample *s)
{
    printf("%7.2f %7.2f%%", mips(s), 100 * without_monitor(s));
    for (size_t i = 0; i < ARRAY_LEN(columns); i++)
        printf(" %8.0f", ratio(sum(s, columns[i].first, columns[i].last), s->uptime));
    puts("");
}

static void print_step(const struct args *a, const struct machine_row *row, const struct sample *step, u64 n)
{
    if (a->number[OPT_FORMAT]) {
        json_t *o = sample_json(row, step);
        json_dumpf(o, stdout, JSON_COMPACT);
        json_decref(o);
        puts("");
        return;
    }
    if (n % HEADER_EVERY == 0)
        print_header();
    print_line(step);
}

static int watch(const struct args *a, const struct machine_row *row, struct error *e)
{
    const struct timespec rest = {.tv_sec = (time_t)a->number[OPT_INTERVAL]};
    struct sample last, now;
    if (take_sample(row, &last, e) < 0)
        return cli_status_of(e);
    for (u64 n = 0; !a->given[OPT_LINES] || n < a->number[OPT_LINES]; n++) {
        nanosleep(&rest, NULL);
        if (take_sample(row, &now, e) < 0) {
            if (machine_lives(row))
                return cli_status_of(e);
            *e = (struct error){0}; /* that it ends is no failure */
            return CLI_OK;
        }
        struct sample step = now;
        subtract(&step, &last);
        last = now;
        print_step(a, row, &step, n);
        if (fflush(stdout) != 0)
            break; /* main says why, unless the reader has had enough */
    }
    return CLI_OK;
}

static int show(const struct args *a, const struct machine_row *row, struct error *e)
{
    struct sample s;
    int rc = take_sample(row, &s, e);
    if (rc < 0)
        return cli_status_of(e);
    json_t *balloon = memory_ask(row, !strcmp(s.state, "running"));
    if (a->number[OPT_FORMAT]) {
        json_t *o = sample_json(row, &s);
        json_object_set_new(o, "balloon", balloon ? balloon : json_null());
        return cli_json_print(o, e);
    }
    print_all(row, &s, balloon);
    json_decref(balloon);
    return CLI_OK;
}

int verb_stats(const struct args *a, struct error *e)
{
    struct machine_row row;
    if (a->given[OPT_LINES] && !a->given[OPT_INTERVAL]) {
        error_set(e, EINVAL, "--count: counts the lines of --interval SECONDS; give both");
        return CLI_USAGE;
    }
    if (machine_find(a->operands[0], &row, e) < 0)
        return cli_status_of(e);
    int status = row.kind == KIND_CONTAINER ? stats_container(a, &row, e)
                 : a->given[OPT_INTERVAL]   ? watch(a, &row, e)
                                            : show(a, &row, e);
    registry_row_free(&row);
    return status;
}
