/*
 * The keeper's end of the disk rings: requests of the cell, distrusted, handed to the back end.
 *
 *   LINK_DISK_UP ──> request, segments ──> checked ──> slot ──> engine ──> file <──> guest memory
 *   LINK_DISK_DOWN <── reply <── slot <── completion
 *
 * Each record is copied out of the ring once; what is used is the copy. A request must name a disk of this machine, a tag
 * that is not on its way, sectors inside the disk, an op that the disk can do (read-only ones can not write), and segments
 * that are guest RAM and add up. The device in the cell checks the same before it asks, so a request that fails here comes
 * from a cell that is no longer ours: the machine ends. What the file then does (EIO, no space, cut short) is an answer to
 * the guest.
 *
 * Guest memory stays mapped here while a machine has disks: data goes between it and the file directly. The guest
 * may change data while it is written, as it may on a real disk; nothing of it is interpreted.
 *
 * What must stay true
 *  1. The pieces of a slot are ranges inside the mapping of guest memory for as long as the slot is busy.
 *  2. While somebody mirrors a disk, what a request has written is marked when it has come back from the file, before the guest
 *     hears so: who takes the marks and then reads the file has all of it, or a mark for later.
 *  3. At most DISK_TAGS requests a disk are on their way; a full reply ring holds replies back, never requests up.
 */
#include "vm/keeper.h"
#include "base/vigil.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define REQUESTS_AT_ONCE 64

struct slot {
    bool busy;
    u32 disk, tag;
    struct disk_io io;
    struct iovec iov[DISK_SEGS_MAX];
};

struct keeper_disks {
    unsigned n;
    struct disk *disk[DISK_COUNT_MAX];
    struct disk_info info[DISK_COUNT_MAX];
    struct keeper_disk_count count[DISK_COUNT_MAX];
    struct disk_engine *engine;
    void *ram;
    struct guest_mem mem;
    struct slot *slot;          /* n * DISK_TAGS */
    struct vigil vigil;         /* for the next request or completion */
    struct disk_request taking; /* a request whose segments are being collected; op DISK_NONE: none */
    struct disk_segs segs[DISK_SEGS_MAX / DISK_SEGS_PER_RECORD];
    u32 segs_got;           /* records */
    struct disk_io *unsent; /* complete, the reply ring is full */
};

/* --- before the seal --- */

static int open_disk(struct keeper *k, unsigned i, struct error *e)
{
    const struct vm_disk *c = &k->cfg.disks[i];
    struct keeper_disks *d = k->disks;
    const struct disk_options o = {.path = c->file,
                                   .read_only = c->read_only,
                                   .cache = (enum disk_cache)disk_cache_find(c->cache),
                                   .unlocked = k->incoming && !k->incoming->records};
    int r = disk_format_find(c->format, c->file, e);
    if (r < 0 || (r = disk_open(&d->disk[i], &o, e)) < 0)
        return r;
    disk_describe(d->disk[i], &d->info[i]);
    snprintf(d->info[i].serial, sizeof(d->info[i].serial), "trapeze-%u", i);
    d->n++;
    return 0;
}

int keeper_open_disks(struct keeper *k, struct error *e)
{
    int r = 0;
    if (!k->cfg.n_disks)
        return 0;
    struct keeper_disks *d = k->disks = calloc(1, sizeof(*d));
    if (!d || !(d->slot = calloc((size_t)k->cfg.n_disks * DISK_TAGS, sizeof(*d->slot))))
        return error_set(e, ENOMEM, "disks: out of memory");
    for (unsigned i = 0; i < k->cfg.n_disks && r >= 0; i++)
        r = open_disk(k, i, e);
    return r;
}

int keeper_start_disks(struct keeper *k, struct error *e)
{
    struct keeper_disks *d = k->disks;
    if (!d)
        return 0;
    if (!(d->ram = host_map_shared(k->ram_fd, k->cfg.memory, e)))
        return -ENOMEM;
    int r = mem_init(&d->mem, d->ram, k->cfg.memory, k->ram_fd, e);
    if (r < 0)
        return r;
    return disk_engine_create(&d->engine, DISK_ENGINE_AUTO, d->disk, d->n, MIN(d->n * DISK_TAGS, 1024u), e);
}

void keeper_describe_disks(const struct keeper *k, struct link_config *c)
{
    if (!k->disks)
        return;
    c->n_disks = k->disks->n;
    memcpy(c->disks, k->disks->info, sizeof(c->disks));
}

int keeper_disk_event(const struct keeper *k)
{
    return k->disks ? disk_engine_fd(k->disks->engine) : -1;
}

int keeper_disk_ring(const struct keeper *k)
{
    return k->disks ? disk_engine_ring(k->disks->engine) : -1;
}

int keeper_lock_disks(struct keeper *k, struct error *e)
{
    const struct keeper_disks *d = k->disks;
    int r = 0;
    for (unsigned i = 0; d && i < d->n && r == 0; i++)
        r = disk_lock(d->disk[i], e);
    if (r < 0)
        keeper_unlock_disks(k);
    return r;
}

void keeper_unlock_disks(struct keeper *k)
{
    for (unsigned i = 0; k->disks && i < k->disks->n; i++)
        disk_unlock(k->disks->disk[i]);
}

int keeper_sync_disks(struct keeper *k, struct error *e)
{
    const struct keeper_disks *d = k->disks;
    for (unsigned i = 0; d && i < d->n; i++) {
        int r = d->info[i].flags & DISK_READ_ONLY ? 0 : disk_sync(d->disk[i]);
        if (r < 0)
            return error_set(e, -r, "disk %s: what was written could not be put on stable storage: %s",
                             k->cfg.disks[i].file, strerror(-r));
    }
    return 0;
}

int keeper_disk_file(const struct keeper *k, unsigned i, u64 *bytes, bool *direct)
{
    const struct keeper_disks *d = k->disks;
    if (!d || i >= d->n)
        return -1;
    *bytes = d->info[i].sectors * DISK_SECTOR;
    *direct = disk_cache_mode(d->disk[i]) == DISK_CACHE_NONE;
    return disk_descriptor(d->disk[i]);
}

json_t *keeper_disks_json(const struct keeper *k)
{
    const struct keeper_disks *d = k->disks;
    json_t *a = json_array();
    for (unsigned i = 0; d && a && i < d->n; i++) {
        const struct keeper_disk_count *n = &d->count[i];
        json_array_append_new(
            a, json_pack("{s:s,s:I,s:b,s:s,s:s,s:I,s:I,s:I,s:I,s:s}", "file", k->cfg.disks[i].file, "bytes",
                         (json_int_t)(d->info[i].sectors * DISK_SECTOR), "readonly",
                         (int)(d->info[i].flags & DISK_READ_ONLY), "cache",
                         disk_cache_name(disk_cache_mode(d->disk[i])), "works_by", disk_engine_name(d->engine), "read",
                         (json_int_t)n->read, "written", (json_int_t)n->written, "flushes", (json_int_t)n->flushes,
                         "errors", (json_int_t)n->errors, "last_error", n->last_error ? strerror(n->last_error) : ""));
    }
    return a;
}

/* --- requests --- */

static void hostile(struct keeper *k, const char *what)
{
    keeper_end(k, VM_EXIT_HOST, NULL, "the guest's process broke the protocol: a disk request %s", what);
}

/* Whether the request may be asked at all. */
static bool acceptable(struct keeper *k, const struct disk_request *r)
{
    const struct keeper_disks *d = k->disks;
    if (r->disk >= d->n)
        hostile(k, "for a disk that is not there");
    else if (disk_request_check(r, &d->info[r->disk]) < 0)
        hostile(k, "that can not be");
    else if (d->slot[r->disk * DISK_TAGS + r->tag].busy)
        hostile(k, "with a tag that is in use");
    return !k->ended;
}

/* Make pieces of our mapping of the segments that were collected. */
static bool map_segments(struct keeper *k, struct slot *s)
{
    struct keeper_disks *d = k->disks;
    const struct disk_request *r = &d->taking;
    u64 left = r->sectors * DISK_SECTOR;
    for (u32 i = 0; i < r->n_segs; i++) {
        const struct disk_seg *g = &d->segs[i / DISK_SEGS_PER_RECORD].seg[i % DISK_SEGS_PER_RECORD];
        void *p = g->len && g->len <= left ? mem_at(&d->mem, GPA(g->at), g->len) : NULL;
        if (!p) {
            hostile(k, "for memory that is not there");
            return false;
        }
        s->iov[i] = (struct iovec){p, g->len};
        left -= g->len;
    }
    if (r->n_segs && left)
        hostile(k, "whose parts do not add up");
    return !k->ended;
}

/* Begin the request in `taking`; its segments are there. */
static void begin(struct keeper *k)
{
    struct keeper_disks *d = k->disks;
    const struct disk_request *r = &d->taking;
    struct slot *s = &d->slot[r->disk * DISK_TAGS + r->tag];
    struct keeper_disk_count *n = &d->count[r->disk];
    if (map_segments(k, s)) {
        s->busy = true;
        s->disk = r->disk;
        s->tag = r->tag;
        s->io = (struct disk_io){.disk = d->disk[r->disk],
                                 .op = (enum disk_op)r->op,
                                 .offset = r->sector * DISK_SECTOR,
                                 .len = r->sectors * DISK_SECTOR,
                                 .may_unmap = r->flags & DISK_MAY_UNMAP,
                                 .iov = s->iov,
                                 .n_iov = r->n_segs,
                                 .owner = s};
        n->read += r->op == DISK_READ ? s->io.len : 0;
        n->written += r->op == DISK_WRITE ? s->io.len : 0;
        n->flushes += r->op == DISK_FLUSH;
        disk_engine_submit(d->engine, &s->io);
    }
    d->taking.op = DISK_NONE;
    d->segs_got = 0;
}

/* Read records of `len` bytes in all; how many bytes came. */
static s64 take(struct keeper *k, void *out, size_t len)
{
    s64 n = link_read(&k->link, LINK_DISK_UP, out, len);
    if (n < 0)
        hostile(k, "ring has an impossible index");
    return MAX(n, (s64)0);
}

/* One request, or a part of it; whether to look for more. */
static bool take_request(struct keeper *k)
{
    struct keeper_disks *d = k->disks;
    if (d->taking.op == DISK_NONE) {
        struct disk_request r;
        if (take(k, &r, sizeof(r)) != sizeof(r) || !acceptable(k, &r))
            return false;
        d->taking = r;
    }
    u32 want = disk_seg_records(d->taking.n_segs);
    if (d->segs_got < want)
        d->segs_got +=
            (u32)(take(k, &d->segs[d->segs_got], (want - d->segs_got) * sizeof(d->segs[0])) / (s64)sizeof(d->segs[0]));
    if (d->segs_got < want || k->ended)
        return false;
    begin(k);
    return !k->ended;
}

/* --- replies --- */

static enum disk_status status_of(const struct disk_io *io)
{
    if (!io->result)
        return DISK_OK;
    return io->result == -EOPNOTSUPP && io->op == DISK_DISCARD ? DISK_UNSUPPORTED : DISK_FAILED;
}

static bool writes(enum disk_op op)
{
    return op == DISK_WRITE || op == DISK_DISCARD || op == DISK_ZERO;
}

/* Put one reply; false when there is no room. */
static bool answer(struct keeper *k, struct disk_io *io)
{
    struct keeper_disks *d = k->disks;
    struct slot *s = io->owner;
    if (writes(io->op)) /* it may have done a part of it when it failed */
        blockmap_mark(&k->written[s->disk], io->offset, io->len);
    const struct disk_reply r = {.disk = s->disk, .tag = s->tag, .status = status_of(io)};
    s64 n = ring_write(&k->link.ring[LINK_DISK_DOWN], &r, sizeof(r));
    if (n < 0)
        hostile(k, "ring has an impossible index");
    if (n <= 0)
        return false;
    if (r.status == DISK_FAILED) {
        d->count[s->disk].errors++;
        d->count[s->disk].last_error = -io->result;
    }
    s->busy = false;
    return true;
}

/* Replies for what is complete; whether there were any. */
static bool give_replies(struct keeper *k)
{
    struct keeper_disks *d = k->disks;
    struct disk_io *io;
    bool any = false;
    while (!k->ended && (io = d->unsent ? d->unsent : disk_engine_reap(d->engine))) {
        struct disk_io *rest = d->unsent ? io->next : NULL;
        if (!answer(k, io)) {
            if (!d->unsent)
                io->next = NULL;
            d->unsent = io;
            break;
        }
        d->unsent = rest;
        any = true;
    }
    if (any)
        link_knock(&k->link);
    return any;
}

bool keeper_serve_disks(struct keeper *k)
{
    int n = 0;
    if (!k->disks || !k->ready)
        return false;
    bool any = give_replies(k);
    while (!k->ended && n < REQUESTS_AT_ONCE && take_request(k))
        n++;
    if (n) {
        disk_engine_flush(k->disks->engine);
        any |= give_replies(k); /* what the page cache had is complete at once */
    }
    if (n || any) {
        u64 now = host_ns(NULL);
        vigil_end(&k->disks->vigil, now);
        vigil_begin(&k->disks->vigil, now);
    }
    return !k->ended && (any || n == REQUESTS_AT_ONCE);
}

u64 keeper_disks_vigil(const struct keeper *k)
{
    return k->disks ? vigil_limit(&k->disks->vigil) : 0;
}

bool keeper_disks_pending(struct keeper *k)
{
    struct keeper_disks *d = k->disks;
    if (!d || k->ended)
        return false;
    if (d->unsent) {
        ring_mark_starved(&k->link.ring[LINK_DISK_DOWN]);
        if (ring_room(&k->link.ring[LINK_DISK_DOWN]))
            return true;
    }
    return ring_used(&k->link.ring[LINK_DISK_UP]) != 0;
}
