/* What a container uses: once, or a line an interval. */
#include "cli/stats_container.h"
#include "box/box.h"
#include "cli/json.h"
#include "cli/machine.h"

#include <string.h>
#include <time.h>

#define HEADER_EVERY 20
#define NO_LIMIT     (1ull << 62) /* version 1 writes a number of this size */

struct usage {
    double cpu; /* seconds */
    u64 memory, limit, processes, read, written;
    struct timespec at;
};

static u64 number(json_t *j, const char *a, const char *b, const char *c)
{
    j = json_object_get(json_object_get(j, a), b);
    return (u64)json_integer_value(c ? json_object_get(j, c) : j);
}

static u64 block_bytes(json_t *stats, const char *op)
{
    size_t i;
    u64 sum = 0;
    json_t *row;
    json_array_foreach(json_object_get(json_object_get(stats, "blkio"), "ioServiceBytesRecursive"), i, row)
    {
        const char *is = json_string_value(json_object_get(row, "op"));
        if (is && !strcmp(is, op))
            sum += (u64)json_integer_value(json_object_get(row, "value"));
    }
    return sum;
}

static struct usage take(json_t *stats)
{
    struct usage u = {.cpu = (double)number(stats, "cpu", "usage", "total") / 1e9,
                      .memory = number(stats, "memory", "usage", "usage"),
                      .limit = number(stats, "memory", "usage", "limit"),
                      .processes = number(stats, "pids", "current", NULL),
                      .read = block_bytes(stats, "Read"),
                      .written = block_bytes(stats, "Write")};
    clock_gettime(CLOCK_MONOTONIC, &u.at);
    return u;
}

static const char *limit_name(u64 limit, char out[24])
{
    return limit && limit < NO_LIMIT ? cli_size_name(limit, out) : "no limit";
}

static void print_all(const struct machine_row *row, const struct usage *u)
{
    char memory[24], limit[24], read[24], written[24];
    printf("container %s: %s\n", row->name, box_state(row));
    printf("%-10s %.2f s\n", "CPU time", u->cpu);
    printf("%-10s %s, %s\n", "memory", cli_size_name(u->memory, memory), limit_name(u->limit, limit));
    printf("%-10s %llu\n", "processes", (unsigned long long)u->processes);
    printf("%-10s %s read, %s written\n", "block I/O", cli_size_name(u->read, read),
           cli_size_name(u->written, written));
}

static void print_step(const struct usage *u, const struct usage *last, u64 n)
{
    char memory[24], read[24], written[24];
    double seconds = (double)(u->at.tv_sec - last->at.tv_sec) + (double)(u->at.tv_nsec - last->at.tv_nsec) / 1e9;
    if (n % HEADER_EVERY == 0)
        printf("%8s %12s %10s %12s %12s\n", "CPU", "MEMORY", "PROCESSES", "READ", "WRITTEN");
    printf("%7.1f%% %12s %10llu %12s %12s\n", 100 * (u->cpu - last->cpu) / seconds, cli_size_name(u->memory, memory),
           (unsigned long long)u->processes, cli_size_name(u->read, read), cli_size_name(u->written, written));
}

static int watch(const struct args *a, const struct machine_row *row, struct error *e)
{
    const struct timespec rest = {.tv_sec = (time_t)a->number[OPT_INTERVAL]};
    json_t *stats = box_stats(row, e);
    if (!stats)
        return cli_status_of(e);
    struct usage last = take(stats), now;
    json_decref(stats);
    for (u64 n = 0; !a->given[OPT_LINES] || n < a->number[OPT_LINES]; n++) {
        nanosleep(&rest, NULL);
        if (!(stats = box_stats(row, e))) {
            if (machine_lives(row))
                return cli_status_of(e);
            *e = (struct error){0}; /* that it ends is no failure */
            return CLI_OK;
        }
        now = take(stats);
        if (a->number[OPT_FORMAT]) {
            json_dumpf(stats, stdout, JSON_COMPACT);
            puts("");
        } else {
            print_step(&now, &last, n);
        }
        json_decref(stats);
        last = now;
        if (fflush(stdout) != 0)
            break;
    }
    return CLI_OK;
}

int stats_container(const struct args *a, const struct machine_row *row, struct error *e)
{
    if (a->given[OPT_INTERVAL])
        return watch(a, row, e);
    json_t *stats = box_stats(row, e);
    if (!stats)
        return cli_status_of(e);
    if (a->number[OPT_FORMAT])
        return cli_json_print(stats, e);
    struct usage u = take(stats);
    json_decref(stats);
    print_all(row, &u);
    return CLI_OK;
}
