/*
 * Virtio devices on one transport or the other, for guests that do what they like with them: an entropy device (1), a disk
 * (2), their rings in memory, and a back end that answers in any order. Input: a byte chooses a deed, what follows are its numbers.
 *
 * A target defines the functions below and includes this file last of all its headers.
 *
 * Must hold: requests to the back end can be asked and lie in memory; no more of them than tags; after a reset that
 * was waited for none is on its way; what is saved when nothing is on its way loads again.
 */
#ifndef TRAPEZE_TESTS_FUZZ_VIRTIO_WORLD_H
#define TRAPEZE_TESTS_FUZZ_VIRTIO_WORLD_H

#include "device/virtio/devices.h"
#include "fuzz.h"

#define RAM     (1u << 20)
#define RINGS   0x1000u /* where the deeds put them: close together, so that they overlap */
#define SECTORS 64u

struct world {
    struct bus bus;
    struct guest_mem mem;
    struct device_env env;
    struct way *way; /* the target's own */
    struct virtio *blk;
    u8 level[24];
    struct disk_info info;
    u8 busy[DISK_TAGS];
    unsigned on_way;
    bool full;
};

/* Put both devices on the transport; take it all away; as after power-up. */
static void way_make(struct world *w, struct virtio *rng);
static void way_destroy(struct world *w);
static void way_reset(struct world *w);
static int way_save(struct world *w, struct rec_buf *out);
static int way_load(struct world *w, const struct rec_view *v, struct error *e);
/* What a driver does: make a queue of 8, whole, so that not each input has to find out how; notify it. */
static void way_bring_up(struct world *w, unsigned device, u64 features);
static void way_kick(struct world *w, unsigned device);
/* Deeds 0 to 4 and 15, which are about registers; what must hold after any. */
static void way_deed(struct world *w, struct fuzz_input *in, unsigned what, unsigned device, unsigned size);
static void way_check(struct world *w);

static void note_irq(void *ctx, unsigned gsi, int level)
{
    FUZZ_CHECK(gsi < 24);
    ((struct world *)ctx)->level[gsi] = level != 0;
}

static void no_msi(void *ctx, u64 address, u32 data)
{
}

static void zeros(void *ctx, u8 *data, size_t len)
{
    memset(data, 0, len);
}

static bool ready(void *ctx)
{
    return !((struct world *)ctx)->full;
}

static void submit(void *ctx, const struct disk_request *r, const struct disk_seg *segs)
{
    struct world *w = ctx;
    u64 bytes = 0;
    FUZZ_CHECK(disk_request_check(r, &w->info) == 0 && r->disk == 0 && !w->busy[r->tag]);
    for (u32 i = 0; i < r->n_segs; i++) {
        FUZZ_CHECK(segs[i].len && mem_at(&w->mem, GPA(segs[i].at), segs[i].len));
        bytes += segs[i].len;
    }
    FUZZ_CHECK(!r->n_segs || bytes == r->sectors * DISK_SECTOR);
    w->busy[r->tag] = 1;
    w->on_way++;
}

static void answer(struct world *w, unsigned tag, unsigned status)
{
    bool asked = tag < DISK_TAGS && w->busy[tag];
    FUZZ_CHECK((virtio_blk_done(w->blk, tag, (enum disk_status)status) == 0) == asked);
    if (asked) {
        w->busy[tag] = 0;
        w->on_way--;
    }
}

static void answer_all(struct world *w)
{
    w->full = true; /* or they would never end */
    for (unsigned i = 0; i < DISK_TAGS; i++)
        answer(w, i, 0);
    virtio_blk_settle(w->blk);
    FUZZ_CHECK(!w->on_way);
    w->full = false;
}

static void make(struct world *w, u8 *ram)
{
    struct error e = {0};
    struct virtio *rng;
    memset(w, 0, sizeof(*w));
    FUZZ_CHECK(mem_init(&w->mem, ram, RAM, -1, &e) == 0);
    w->env = (struct device_env){.bus = &w->bus,
                                 .irq_set = note_irq,
                                 .irq_ctx = w,
                                 .msi = no_msi,
                                 .mem = &w->mem,
                                 .random = zeros,
                                 .ram_low = RAM};
    w->info = (struct disk_info){.sectors = SECTORS, .flags = DISK_WRITE_CACHE | DISK_CAN_DISCARD};
    struct virtio_blk_config c = {.info = w->info, .ready = ready, .submit = submit, .ctx = w};
    FUZZ_CHECK(virtio_rng_create(&rng, &w->env, &e) == 0 && virtio_blk_create(&w->blk, &w->env, &c, &e) == 0);
    way_make(w, rng);
}

static void deed(struct world *w, struct fuzz_input *in, u8 *ram)
{
    u8 what = (u8)fuzz_number(in, 1);
    unsigned device = 1 + (what >> 7), size = 1u << (what >> 5 & 3);
    switch (what % 16) {
    case 5:
    case 6: { /* words of the rings */
        u64 at = RINGS + fuzz_number(in, 2) % 1024;
        fuzz_take(in, ram + at, size);
        break;
    }
    case 7: { /* a descriptor */
        u8 *d = ram + RINGS + 16 * (fuzz_number(in, 1) % 24);
        u64 where = RINGS + fuzz_number(in, 2);
        u32 len = (u32)fuzz_number(in, 2);
        memcpy(d, &where, 8);
        memcpy(d + 8, &len, 4);
        fuzz_take(in, d + 12, 4);
        break;
    }
    case 8: { /* one more chain is offered, as drivers do */
        u16 idx;
        memcpy(&idx, ram + RINGS + 130, 2);
        ram[RINGS + 132 + 2 * (idx % 8)] = (u8)fuzz_number(in, 1);
        ram[RINGS + 133 + 2 * (idx % 8)] = 0;
        idx++;
        memcpy(ram + RINGS + 130, &idx, 2);
        way_kick(w, device);
        break;
    }
    case 9:
        way_kick(w, device);
        break;
    case 10:
        way_bring_up(w, device, fuzz_number(in, 1) << 28);
        break;
    case 11:
        answer(w, (unsigned)fuzz_number(in, 1), (unsigned)fuzz_number(in, 1) % 4);
        virtio_blk_settle(w->blk);
        break;
    case 12:
        w->full = fuzz_number(in, 1) & 1;
        break;
    case 13:
        answer_all(w);
        break;
    case 14: /* a request's header, where descriptors may point */
        fuzz_take(in, ram + RINGS + 512 + fuzz_number(in, 1), 16);
        break;
    default:
        way_deed(w, in, what % 16, device, size);
    }
    FUZZ_CHECK(w->on_way <= DISK_TAGS);
    way_check(w);
}

static void save_and_load(struct world *w, struct world *other)
{
    struct rec_buf b = {0}, again = {0};
    struct rec_view v;
    struct error e = {0};
    size_t pos = 0;
    FUZZ_CHECK(way_save(w, &b) == 0);
    while (rec_next(b.data, b.len, &pos, &v, &e) == 1) {
        int r = way_load(other, &v, &e);
        if (r != 1)
            fprintf(stderr, "%s\n", e.msg);
        FUZZ_CHECK(r == 1);
    }
    FUZZ_CHECK(way_save(other, &again) == 0);
    FUZZ_CHECK(b.len == again.len && !memcmp(b.data, again.data, b.len));
    FUZZ_CHECK(!memcmp(w->level, other->level, sizeof(w->level)));
    way_check(other);
    rec_buf_free(&b);
    rec_buf_free(&again);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t len)
{
    struct fuzz_input in = {data, len};
    u8 *ram = aligned_alloc(4096, RAM), *ram2 = aligned_alloc(4096, RAM);
    struct world *w = malloc(sizeof(*w)), *other = malloc(sizeof(*w));
    FUZZ_CHECK(ram && ram2 && w && other);
    memset(ram, 0, RAM);
    memset(ram2, 0, RAM);
    make(w, ram);
    make(other, ram2);
    while (in.len)
        deed(w, &in, ram);
    answer_all(w);
    save_and_load(w, other);
    way_reset(w);
    way_check(w);
    way_destroy(w);
    way_destroy(other);
    mem_destroy(&w->mem);
    mem_destroy(&other->mem);
    free(w);
    free(other);
    free(ram);
    free(ram2);
    return 0;
}

#endif
