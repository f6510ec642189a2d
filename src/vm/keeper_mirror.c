/*
 * Disks that go along with a machine, as who mirrors them asks: one client at a time, for as long as its connection lasts. It reads
 * the files itself, by descriptors that it gets here; here is remembered what the guest has written since it looked (keeper_disk.c
 * marks it).
 *
 *   start            from now on what is written is marked; nothing is yet
 *   open  disk       the file's descriptor
 *   take  disk, ..   the marks of some blocks, which are clear then
 *   stop
 *
 * What must stay true
 *  1. Nobody's marks are kept: maps go with the client that has them.
 */
#include "vm/keeper.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

static bool mirrors(const struct keeper *k, const struct client *c)
{
    return k->mirror == c - k->clients;
}

static void stop(struct keeper *k)
{
    k->mirror = -1;
    for (unsigned i = 0; i < DISK_COUNT_MAX; i++)
        blockmap_free(&k->written[i]);
}

/* A member that is a number; UINT64_MAX: it is not. */
static u64 number(const json_t *j, const char *name)
{
    const json_t *n = json_object_get(j, name);
    return json_is_integer(n) && json_integer_value(n) >= 0 ? (u64)json_integer_value(n) : UINT64_MAX;
}

static void mirror_start(struct keeper *k, struct client *c, const json_t *j)
{
    u64 bytes;
    bool direct;
    int r = 0;
    stop(k);
    for (unsigned i = 0; i < k->cfg.n_disks && r == 0; i++)
        if (keeper_disk_file(k, i, &bytes, &direct) >= 0)
            r = blockmap_init(&k->written[i], bytes);
    if (r < 0) {
        stop(k);
        keeper_refuse(c, -r, "%s: what is written to its disks can not be remembered: %s", k->cfg.name, strerror(-r));
        return;
    }
    k->mirror = (int)(c - k->clients);
    keeper_accept_request(c);
}

static void mirror_open(struct keeper *k, struct client *c, const json_t *j)
{
    u64 i = number(j, "disk"), bytes;
    bool direct;
    int fd = i < DISK_COUNT_MAX ? keeper_disk_file(k, (unsigned)i, &bytes, &direct) : -1;
    if (fd < 0) {
        keeper_refuse(c, EINVAL, "mirror: \"disk\" has to be one that %s has", k->cfg.name);
        return;
    }
    if (c->pass >= 0) {
        keeper_refuse(c, EBUSY, "mirror: a descriptor is on its way already");
        return;
    }
    keeper_reply(c, json_pack("{s:b,s:I,s:b}", "ok", 1, "bytes", (json_int_t)bytes, "direct", (int)direct));
    if (client_put_fd(c, fd) < 0)
        c->closing = true;
}

static void mirror_take(struct keeper *k, struct client *c, const json_t *j)
{
    u64 i = number(j, "disk"), first = number(j, "first"), blocks = number(j, "blocks");
    if (i >= DISK_COUNT_MAX || blocks > CONTROL_MIRROR_BLOCKS || !blockmap_fits(&k->written[i], first, blocks)) {
        keeper_refuse(c, EINVAL,
                      "mirror: \"first\" and \"blocks\" have to be multiples of 64, at most %u blocks, inside a disk "
                      "that %s has",
                      CONTROL_MIRROR_BLOCKS, k->cfg.name);
        return;
    }
    u64 *words = malloc(blocks / 8);
    if (!words) {
        keeper_refuse(c, ENOMEM, "mirror: out of memory");
        return;
    }
    blockmap_take(&k->written[i], first, blocks, words);
    keeper_answer_bytes(c, words, (u32)(blocks / 8));
    free(words);
}

static void mirror_stop(struct keeper *k, struct client *c, const json_t *j)
{
    stop(k);
    keeper_accept_request(c);
}

static const struct {
    const char *name;
    bool anybody; /* who does not mirror them yet may ask for it */
    void (*fn)(struct keeper *k, struct client *c, const json_t *j);
} actions[] = {{"start", true, mirror_start},
               {"open", false, mirror_open},
               {"take", false, mirror_take},
               {"stop", false, mirror_stop}};

void keeper_mirror_request(struct keeper *k, struct client *c, const json_t *j)
{
    const char *what = json_string_value(json_object_get(j, "action"));
    size_t i = 0;
    while (i < ARRAY_LEN(actions) && (!what || strcmp(what, actions[i].name) != 0))
        i++;
    if (i == ARRAY_LEN(actions))
        keeper_refuse(c, EINVAL, "mirror: \"action\" has to be \"start\", \"open\", \"take\" or \"stop\"");
    else if (k->mirror >= 0 && !mirrors(k, c))
        keeper_refuse(c, EBUSY, "%s: its disks are being mirrored: is it being migrated already?", k->cfg.name);
    else if (!actions[i].anybody && k->mirror < 0)
        keeper_refuse(c, EINVAL, "%s: its disks are not being mirrored: \"start\" comes first", k->cfg.name);
    else
        actions[i].fn(k, c, j);
}

void keeper_mirror_drop(struct keeper *k, const struct client *c)
{
    if (mirrors(k, c))
        stop(k);
}
