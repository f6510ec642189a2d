#include "cli/memory.h"
#include "base/balloon.h"
#include "cli/machine.h"

#include <string.h>
#include <time.h>

#define PATIENCE 2 /* seconds that a keeper may take to answer */
#define LOOKS    100
#define LOOK_NS  10000000

static json_t *ask(const struct machine_row *row, bool refresh)
{
    json_t *j = NULL;
    if (machine_call(row, PATIENCE, json_pack("{s:s, s:b}", "do", "balloon", "refresh", refresh), &j, NULL) < 0)
        return NULL;
    json_object_del(j, "ok");
    return j;
}

static u64 number(const json_t *j, const char *name)
{
    return (u64)MAX(0, json_integer_value(json_object_get(j, name)));
}

json_t *memory_ask(const struct machine_row *row, bool fresh)
{
    const struct timespec rest = {.tv_nsec = LOOK_NS};
    json_t *j = ask(row, false);
    if (!fresh || !json_is_true(json_object_get(j, "driver")))
        return j;
    u64 before = number(j, "answers");
    for (int i = 0; j && i < LOOKS && number(j, "answers") == before; i++) {
        if (i)
            nanosleep(&rest, NULL);
        json_decref(j);
        j = ask(row, i == 0);
    }
    return j;
}

const char *memory_size_name(u64 actual, u64 target, char out[64])
{
    char from[24], to[24];
    if (actual == target)
        snprintf(out, 64, "%s", cli_size_name(actual, to));
    else
        snprintf(out, 64, "%s > %s", cli_size_name(actual, from), cli_size_name(target, to));
    return out;
}

static void print_size(u64 bytes, const char *text)
{
    char size[24];
    printf("  %17s  %s\n", cli_size_name(bytes, size), text);
}

static void print_guest(const json_t *guest)
{
    static const struct {
        const char *name;
        bool bytes;
        const char *text;
    } stats[] = {
#define X(name, bytes, text) {#name, bytes, text},
        BALLOON_STATS(X)
#undef X
    };
    for (size_t i = 0; i < ARRAY_LEN(stats); i++) {
        u64 v = number(guest, stats[i].name);
        if (v && stats[i].bytes)
            print_size(v, stats[i].text);
        else if (v)
            printf("  %17llu  %s\n", (unsigned long long)v, stats[i].text);
    }
}

void memory_print(const json_t *balloon)
{
    static const struct {
        const char *name, *text;
    } sizes[] = {{"host", "held by the host for it"},
                 {"inflated", "given back by the balloon since the start"},
                 {"reported", "given back as free since the start"},
                 {"kept", "reported to be free, but kept for the guest's poison"}};
    if (!json_is_object(balloon))
        return;
    u64 all = number(balloon, "memory"), target = number(balloon, "memory_target"),
        actual = number(balloon, "memory_actual");
    puts("\nMemory");
    print_size(actual, "the guest's");
    if (target != actual)
        print_size(target, "what it is to have");
    if (all != target)
        print_size(all, "what the machine was started with");
    for (size_t i = 0; i < ARRAY_LEN(sizes); i++)
        if (number(balloon, sizes[i].name))
            print_size(number(balloon, sizes[i].name), sizes[i].text);
    if (!json_is_true(json_object_get(balloon, "driver")))
        puts("The guest has no balloon driver: nothing is known of how it uses its memory.");
    else if (json_object_size(json_object_get(balloon, "guest")))
        puts("\nMemory, as the guest's system counts it");
    print_guest(json_object_get(balloon, "guest"));
}
