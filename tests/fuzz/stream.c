/*
 * A stream of a machine, from whoever: read to its end or refused, and nothing outside of the memory touched. Input: the stream;
 * its checksums are made right first, so that what they cover is reached. It may have records of two disks, which keep their sizes.
 */
#include "base/bytes.h"
#include "fuzz.h"
#include "migrate/mirror.h"

#include <errno.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define RAM_MAX (1u << 20)
#define DISK    (3 * BLOCKMAP_BLOCK + 512u)

struct input {
    const u8 *data;
    size_t len, at;
    struct mirror_in disks;
};

static int take(void *ctx, u32 type, const u8 *payload, u32 len, struct error *e)
{
    struct input *in = ctx;
    return mirror_take(&in->disks, type, payload, len, e);
}

static void make_disks(struct mirror_in *m)
{
    struct error e = {0};
    m->block = malloc(BLOCKMAP_BLOCK);
    for (m->n = 0; m->n < 2; m->n++) {
        struct mirror_target *d = &m->disk[m->n];
        *d = (struct mirror_target){.name = "disk", .fd = memfd_create("disk", MFD_CLOEXEC)};
        d->size = (struct blockmap){.bytes = DISK, .blocks = 4};
        FUZZ_CHECK(m->block && d->fd >= 0 && ftruncate(d->fd, DISK) == 0);
        FUZZ_CHECK(sums_init_blocks(&d->sums, 4, &e) == 0);
    }
}

static void check_disks(struct mirror_in *m)
{
    for (unsigned i = 0; i < m->n; i++)
        FUZZ_CHECK(lseek(m->disk[i].fd, 0, SEEK_END) == DISK);
    mirror_in_free(m);
}

static int get(void *ctx, void *buf, size_t len, struct error *e)
{
    struct input *in = ctx;
    FUZZ_CHECK(len <= STREAM_STATE_MAX);
    if (in->len - in->at < len)
        return error_set(e, EBADMSG, "it is cut short");
    memcpy(buf, in->data + in->at, len);
    in->at += len;
    return 0;
}

static void seal(u8 *data, size_t len)
{
    for (size_t at = 0; len - at >= REC_HEADER;) {
        u32 n = get_le32(data + at + 8);
        if (n > len - at - REC_HEADER)
            return;
        put_le32(data + at + 12, crc32c(0, data + at + REC_HEADER, n));
        at += REC_HEADER + n;
    }
}

static void read_machine(struct stream_in *s)
{
    struct error e = {0};
    struct rec_buf state = {0};
    u64 size = s->head.ram_size, absent[RAM_MAX / PAGE_SIZE / 64] = {0}, n = 0;
    u8 *ram = mmap(NULL, size + 2 * PAGE_SIZE, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
    FUZZ_CHECK(ram != MAP_FAILED && mprotect(ram + PAGE_SIZE, size, PROT_READ | PROT_WRITE) == 0);
    s->absent = s->head.id[0] & 1 ? absent : NULL;
    if (stream_get_machine(s, ram + PAGE_SIZE, &state, &e) < 0)
        FUZZ_CHECK(e.code && e.msg[0]);
    for (unsigned i = 0; i < ARRAY_LEN(absent); i++)
        n += (u64)__builtin_popcountll(absent[i]);
    FUZZ_CHECK(n == s->n_absent && n <= size / PAGE_SIZE);
    rec_buf_free(&state);
    munmap(ram, size + 2 * PAGE_SIZE);
}

int LLVMFuzzerTestOneInput(const u8 *data, size_t size)
{
    u8 *copy = malloc(size + 1);
    char *config = NULL;
    struct error e = {0};
    FUZZ_CHECK(copy);
    memcpy(copy, data, size);
    seal(copy, size);
    struct input in = {.data = copy, .len = size};
    make_disks(&in.disks);
    struct stream_in s = {.get = get, .ctx = &in, .disk = take};
    if (stream_open(&s, &e) == 0 && stream_get_config(&s, &config, &e) == 0 && s.head.ram_size <= RAM_MAX)
        read_machine(&s);
    stream_in_free(&s);
    check_disks(&in.disks);
    free(config);
    free(copy);
    return 0;
}
