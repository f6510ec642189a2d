/*
 * The memory balloon: a guest gives memory back to the host. Source: virtio 1.2, 5.5.
 *
 *   queue 0, inflate    numbers of pages (u32, of 4 KiB) that the guest will not use until it deflates
 *   queue 1, deflate    numbers of pages that it uses again
 *   queue 2, stats      a buffer of {tag u16, value u64}; given back when we want it filled anew
 *   queue 3, reporting  free memory itself: each writable piece of a chain is a range that the guest has no use for now
 *
 * (Drivers number the queues that there are: as free page hints are not offered, reporting is the fourth.)
 *
 * The balloon is a wish: the host says how many pages it is to hold (num_pages), and the guest's driver takes pages from its
 * own system until it does, or can not. Reporting needs no wish: some seconds after memory was freed the guest reports it.
 * Either way the pages are given back to the host by making holes into the machine's memory file (env->give_back). A hole
 * reads as zeros, and is filled with a new page when somebody touches it, so there is nothing to do when pages come back:
 * deflating changes nothing, and a guest may use a page without a word (DEFLATE_ON_OOM; MUST_TELL_HOST is not offered).
 *
 * Pages are collected a batch at a time, sorted, and given back in runs: numbers come one by one, in no order, and each run
 * costs a system call and all processors' look-ups of it.
 *
 * What must stay true
 *  1. Only whole pages of RAM are given back, and none that the guest did not name. What is not RAM is ignored; a page that
 *     is named twice, or is part of a ring, is a page like any other.
 *  2. A page given back counts as written: translations of its code go, the dirty log hears of it (mem_touch).
 *  3. A guest that says to find poison other than zero in free pages (PAGE_POISON) keeps what it reports.
 *  4. A chain takes time by its length only up to the size of RAM: more numbers than pages are a mistake.
 *  5. No chain is ever held between two calls: the buffer of the statistics is put back into its queue until it is wanted.
 *     So records have no chain on its way.
 *
 * Not done: free page hints (for migration); a balloon does not keep a guest from using what it gave away: who wants a limit that
 * holds sets one for the processes of the machine.
 */
#include "base/bytes.h"
#include "device/virtio/devices.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define F_STATS          BIT(1)
#define F_DEFLATE_ON_OOM BIT(2)
#define F_PAGE_POISON    BIT(4)
#define F_REPORTING      BIT(5)

/* Configuration (5.5.4): the number of a free page hint is never other than 0. */
#define CONFIG_NUM_PAGES 0u
#define CONFIG_ACTUAL    4u
#define CONFIG_POISON    12u
#define CONFIG_LEN       16u

#define STAT_LEN         10u
#define BATCH            256u

enum { Q_INFLATE, Q_DEFLATE, Q_STATS, Q_REPORTING, QUEUES };

/* Pages of RAM, by their place in RAM. */
struct run {
    u64 first, n;
};

struct balloon {
    struct virtio v;
    const struct device_env *env;
    u32 target, actual; /* pages, as in the configuration */
    u32 poison;
    struct balloon_info info; /* what is counted; the rest is filled in when somebody asks */
    struct run run[BATCH];
    unsigned runs;
    struct virtq_chain chain;
};

_Static_assert(BATCH >= VIRTQ_SEGS_MAX, "a chain's pieces are one batch");

static u64 ram_pages(const struct balloon *b)
{
    return b->v.mem->size >> PAGE_SHIFT;
}

/* --- giving back --- */

/* By place, in the batch; not qsort, which asks the system for its size of memory, and a sealed cell must not. */
static void sort(struct balloon *b)
{
    for (unsigned i = 1; i < b->runs; i++) {
        struct run r = b->run[i];
        unsigned at = i;
        for (; at && b->run[at - 1].first > r.first; at--)
            b->run[at] = b->run[at - 1];
        b->run[at] = r;
    }
}

/* Bytes that were given back. */
static u64 give_run(struct balloon *b, u64 first, u64 end)
{
    u64 at = first << PAGE_SHIFT, len = (end - first) << PAGE_SHIFT;
    if (!b->env->give_back || !b->env->give_back(b->env->ctx, at, len))
        return 0;
    mem_touch(b->v.mem, at, len);
    return len;
}

/* Give the batch back, and begin the next; how many bytes that was. */
static u64 give_batch(struct balloon *b)
{
    u64 given = 0;
    sort(b);
    for (unsigned i = 0; i < b->runs;) {
        u64 first = b->run[i].first, end = first;
        for (; i < b->runs && b->run[i].first <= end; i++)
            end = MAX(end, b->run[i].first + b->run[i].n);
        given += give_run(b, first, end);
    }
    b->runs = 0;
    return given;
}

/* The whole pages of a piece of RAM. */
static void add_piece(struct balloon *b, gpa_t at, u64 len)
{
    u64 offset = mem_offset(b->v.mem, at);
    u64 first = (offset + PAGE_SIZE - 1) >> PAGE_SHIFT, end = (offset + len) >> PAGE_SHIFT;
    if (mem_is_ram(b->v.mem, at, len) && first < end)
        b->run[b->runs++] = (struct run){first, end - first};
}

/* The chain on the inflate queue; whether it makes sense. */
static bool inflate(struct balloon *b)
{
    u8 pfn[4 * BATCH];
    const struct virtq *q = &b->v.queue[Q_INFLATE];
    if (b->chain.out_len / 4 > ram_pages(b))
        return false;
    for (u64 at = 0; at + 4 <= b->chain.out_len; at += sizeof(pfn)) {
        size_t n = virtq_read(q, &b->chain, at, pfn, sizeof(pfn)) / 4;
        for (size_t i = 0; i < n; i++)
            add_piece(b, GPA((u64)get_le32(pfn + 4 * i) << PAGE_SHIFT), PAGE_SIZE);
        b->info.inflated += give_batch(b);
    }
    return true;
}

static bool deflate(struct balloon *b)
{
    return true;
}

/* Whether a page may read as zeros when the guest comes back to it. */
static bool zeros_will_do(const struct balloon *b)
{
    return !(b->v.features & F_PAGE_POISON) || !b->poison;
}

static bool report(struct balloon *b)
{
    if (!zeros_will_do(b)) {
        b->info.kept += b->chain.in_len;
        return true;
    }
    for (unsigned i = 0; i < b->chain.n_in; i++)
        add_piece(b, b->chain.seg[b->chain.n_out + i].at, b->chain.seg[b->chain.n_out + i].len);
    b->info.reported += give_batch(b);
    return true;
}

/* Everything that waits in a queue whose chains are done at once. */
static void serve(struct balloon *b, unsigned n, bool (*take)(struct balloon *))
{
    bool any = false;
    while (virtio_pop(&b->v, n, &b->chain)) {
        if (!take(b)) {
            virtio_needs_reset(&b->v);
            return;
        }
        virtq_push(&b->v.queue[n], b->chain.id, b->chain.descs, 0);
        any = true;
    }
    if (any)
        virtio_interrupt(&b->v, n);
}

/* --- statistics --- */

static void take_stats(struct balloon *b)
{
    u8 s[STAT_LEN];
    const struct virtq *q = &b->v.queue[Q_STATS];
    b->info.have = 0;
    for (u64 i = 0; i < MIN(b->chain.out_len / STAT_LEN, BATCH); i++) {
        u16 tag = virtq_read(q, &b->chain, i * STAT_LEN, s, STAT_LEN) == STAT_LEN ? get_le16(s) : BALLOON_STAT_COUNT;
        if (tag >= BALLOON_STAT_COUNT)
            continue; /* of a later version */
        b->info.stat[tag] = get_le64(s + 2);
        b->info.have |= (u32)BIT(tag);
    }
    b->info.answers++;
}

/* Read what the driver has filled in and leave it there, for the time when it is asked again. */
static void serve_stats(struct balloon *b)
{
    if (!virtio_pop(&b->v, Q_STATS, &b->chain))
        return;
    take_stats(b);
    virtq_unpop(&b->v.queue[Q_STATS], b->chain.descs);
}

bool virtio_balloon_ask(struct virtio *v)
{
    struct balloon *b = v->self;
    if (!(v->features & F_STATS) || !virtio_pop(v, Q_STATS, &b->chain))
        return false;
    virtq_push(&v->queue[Q_STATS], b->chain.id, b->chain.descs, 0);
    virtio_interrupt(v, Q_STATS);
    serve_stats(b); /* it may be there already; else the driver is told that we want to hear of the next */
    return true;
}

/* --- the host's side --- */

int virtio_balloon_set(struct virtio *v, u64 bytes, struct error *e)
{
    struct balloon *b = v->self;
    u64 pages = bytes >> PAGE_SHIFT;
    if (!virtio_accepts(v))
        return error_set(e, ENODEV, "the guest has no balloon driver, or not yet (Linux: the module virtio_balloon)");
    if (pages > ram_pages(b))
        return error_set(e, ERANGE, "a balloon of %llu pages in a machine of %llu", (unsigned long long)pages,
                         (unsigned long long)ram_pages(b));
    b->target = (u32)pages;
    virtio_config_changed(v);
    return 0;
}

void virtio_balloon_info(const struct virtio *v, struct balloon_info *out)
{
    const struct balloon *b = v->self;
    *out = b->info;
    out->target = (u64)b->target << PAGE_SHIFT;
    out->actual = MIN(b->actual, ram_pages(b)) << PAGE_SHIFT;
    out->driver = virtio_accepts(v);
}

/* --- what it is --- */

static void kick(void *self, unsigned n)
{
    struct balloon *b = self;
    static bool (*const take[QUEUES])(struct balloon *) = {
        [Q_INFLATE] = inflate, [Q_DEFLATE] = deflate, [Q_REPORTING] = report};
    if (n == Q_STATS)
        serve_stats(b);
    else
        serve(b, n, take[n]);
}

/* What is wanted of the next driver stays; what the last one said does not. */
static void reset(void *self)
{
    struct balloon *b = self;
    b->actual = 0;
    b->poison = 0;
    b->info.have = 0;
}

static void get_config(const void *self, u8 *c)
{
    const struct balloon *b = self;
    put_le32(c + CONFIG_NUM_PAGES, b->target);
    put_le32(c + CONFIG_ACTUAL, b->actual);
    put_le32(c + CONFIG_POISON, b->poison);
}

static void set_config(void *self, unsigned at, unsigned len, const u8 *data)
{
    struct balloon *b = self;
    u8 c[CONFIG_LEN] = {0};
    get_config(b, c);
    memcpy(c + at, data, len);
    b->actual = get_le32(c + CONFIG_ACTUAL);
    b->poison = get_le32(c + CONFIG_POISON);
}

static int check(const void *candidate, struct error *e)
{
    const struct balloon *b = candidate;
    if (b->target <= ram_pages(b))
        return 0;
    return error_set(e, EINVAL, "virtio-balloon: %u pages wanted of %llu", b->target, (unsigned long long)ram_pages(b));
}

static void loaded(void *object)
{
    ((struct balloon *)object)->info.have = 0;
}

static const struct rec_field fields[] = {REC_FIELD(struct balloon, target), REC_FIELD(struct balloon, actual),
                                          REC_FIELD(struct balloon, poison)};

static const struct rec_desc record = {
    .name = "virtio-balloon",
    .type = REC_TYPE('B', 'A', 'L', 'N'),
    .version = 1,
    .object_size = sizeof(struct balloon),
    .fields = fields,
    .n_fields = ARRAY_LEN(fields),
    .check = check,
    .loaded = loaded,
};

static const struct virtio_type type = {
    .name = "virtio-balloon",
    .id = 5,
    .class_code = 0xff0000,
    .queues = QUEUES,
    .config = CONFIG_LEN,
    .record = &record,
    .kick = kick,
    .reset = reset,
    .get_config = get_config,
    .set_config = set_config,
    .destroy = free,
};

_Static_assert(QUEUES <= VIRTIO_QUEUES_MAX, "queues for all");
_Static_assert(BALLOON_STAT_COUNT <= 32, "a bit for each");
_Static_assert(MEM_MAX_SIZE >> PAGE_SHIFT <= UINT32_MAX, "pages are counted in 32 bits");

int virtio_balloon_create(struct virtio **out, const struct device_env *env, struct error *e)
{
    struct balloon *b = calloc(1, sizeof(*b));
    if (!b)
        return error_set(e, ENOMEM, "virtio-balloon: out of memory");
    b->env = env;
    virtio_init(&b->v, &type, b, env->mem, F_STATS | F_DEFLATE_ON_OOM | F_PAGE_POISON | F_REPORTING);
    *out = &b->v;
    return 0;
}
