/*
 * The memory that a machine has: what it was started with, less what its balloon is to hold. What the cell tells of the balloon
 * is brought within bounds before anybody sees it.
 */
#include "vm/keeper.h"

#include <errno.h>
#include <string.h>

#define MIB(bytes) ((unsigned long long)((bytes) >> 20))

int keeper_balloon_request(const struct keeper *k, const json_t *j, struct balloon_ask *ask, struct error *e)
{
    const json_t *memory = json_object_get(j, "memory");
    json_int_t size = json_integer_value(memory);
    *ask = (struct balloon_ask){.set = memory != NULL, .refresh = json_is_true(json_object_get(j, "refresh"))};
    if (!memory)
        return 0;
    if (!json_is_integer(memory) || size < 0)
        return error_set(e, EINVAL, "balloon: \"memory\" has to be a number of bytes");
    if ((u64)size > k->cfg.memory)
        return error_set(e, ERANGE, "memory of %llu MiB: it was started with %llu MiB, and can not have more than that",
                         MIB((u64)size), MIB(k->cfg.memory));
    if ((u64)size < MIN(k->cfg.memory, VM_MEMORY_FLOOR))
        return error_set(e, ERANGE, "memory of %llu MiB: a system needs more to live; %llu MiB are the least",
                         MIB((u64)size), MIB(MIN(k->cfg.memory, VM_MEMORY_FLOOR)));
    ask->target = k->cfg.memory - (u64)size;
    return 0;
}

static json_t *number(u64 v)
{
    return json_integer((json_int_t)MIN(v, (u64)INT64_MAX));
}

void keeper_memory_json(const struct keeper *k, const struct balloon_info *b, json_t *j)
{
    json_object_set_new(j, "memory_target", number(k->cfg.memory - MIN(b->target, k->cfg.memory)));
    json_object_set_new(j, "memory_actual", number(k->cfg.memory - MIN(b->actual, k->cfg.memory)));
}

json_t *keeper_balloon_json(const struct keeper *k, const struct balloon_info *b)
{
    static const char *const names[BALLOON_STAT_COUNT] = {
#define X(name, bytes, text) #name,
        BALLOON_STATS(X)
#undef X
    };
    struct stat st;
    u64 held = fstat(k->ram_fd, &st) == 0 ? (u64)st.st_blocks * 512 : 0;
    json_t *j = json_pack("{s:I,s:b,s:o,s:o,s:o,s:o,s:o}", "memory", (json_int_t)k->cfg.memory, "driver",
                          b->driver != 0, "host", number(held), "inflated", number(b->inflated), "reported",
                          number(b->reported), "kept", number(b->kept), "answers", number(b->answers));
    json_t *guest = json_object();
    for (unsigned i = 0; i < BALLOON_STAT_COUNT; i++)
        if (b->have >> i & 1)
            json_object_set_new(guest, names[i], number(b->stat[i]));
    if (j)
        keeper_memory_json(k, b, j);
    json_object_set_new(j, "guest", guest);
    return j;
}
