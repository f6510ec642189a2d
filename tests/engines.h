/*
 * Which engine a test runs on: `--engine NAME`, and `--test single,nolink,evict,eager` for its switches. Shared by the tests of
 * all rooms.
 */
#ifndef TRAPEZE_TESTS_ENGINES_H
#define TRAPEZE_TESTS_ENGINES_H

#include "engine/engine.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TEST_SKIPPED 77

/* Engines that tests are registered for before they are there. */
static const char *const engines_to_come[] = {"bt"};

static inline bool engine_listed(const char *name)
{
    for (size_t i = 0; engine_at(i); i++)
        if (!strcmp(engine_at(i)->name, name))
            return true;
    return false;
}

static inline const char *engine_unusable(const char *name)
{
    const char *why = "this host can not run it";
    for (size_t i = 0; engine_at(i); i++)
        if (!strcmp(engine_at(i)->name, name) && engine_at(i)->usable)
            engine_at(i)->usable(&why);
    return why;
}

/*
 * The engine of that name. Where there is none the program ends: skipped, if this host can not run it or it is yet to come; as
 * failed for any other name.
 */
static inline const struct engine_ops *test_engine(const char *name)
{
    const struct engine_ops *ops = engine_find(name);
    if (ops)
        return ops;
    if (engine_listed(name)) {
        printf("skipped: engine %s: %s\n", name, engine_unusable(name));
        exit(TEST_SKIPPED);
    }
    for (size_t i = 0; i < ARRAY_LEN(engines_to_come); i++)
        if (!strcmp(engines_to_come[i], name)) {
            printf("skipped: there is no engine %s yet\n", name);
            exit(TEST_SKIPPED);
        }
    fprintf(stderr, "there is no engine %s\n", name);
    exit(1);
}

/* ENGINE_TEST_* of a list of names with commas between them; ends the program if one is unknown. */
static inline u32 test_switches(const char *list)
{
    static const struct {
        const char *name;
        u32 bit;
    } names[] = {{"single", ENGINE_TEST_SINGLE},
                 {"nolink", ENGINE_TEST_NO_LINK},
                 {"evict", ENGINE_TEST_EVICT},
                 {"eager", ENGINE_TEST_EAGER}};
    u32 bits = 0;
    while (*list) {
        size_t len = strcspn(list, ","), i = 0;
        while (i < ARRAY_LEN(names) && (strlen(names[i].name) != len || strncmp(names[i].name, list, len)))
            i++;
        if (i == ARRAY_LEN(names)) {
            fprintf(stderr, "--test: there is no switch %.*s\n", (int)len, list);
            exit(1);
        }
        bits |= names[i].bit;
        list += len + (list[len] == ',');
    }
    return bits;
}

#endif
