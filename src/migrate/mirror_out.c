/* Disks at the source: read while the guest writes to them, and sent. */
#include "base/bytes.h"
#include "migrate/mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define CHUNK_BLOCKS 16u /* that are read at once */
#define CHUNK        ((size_t)CHUNK_BLOCKS * BLOCKMAP_BLOCK)
#define ALIGN        4096u
#define RAW          0u /* encoding of a block */
#define LZ4          1u

bool mirror_size_good(u64 bytes)
{
    return bytes && bytes % DISK_SECTOR == 0 && bytes <= MIRROR_BYTES_MAX;
}

static int no_memory(struct error *e)
{
    return error_set(e, ENOMEM, "disks: out of memory");
}

static unsigned number_of(const struct mirror_out *m, const struct mirror_source *d)
{
    return (unsigned)(d - m->disk);
}

/* --- opening --- */

/* What is no hole. A file system that knows none says that all is data; a block device can not be asked. */
static void mark_data(struct mirror_source *d)
{
    off_t at = lseek(d->fd, 0, SEEK_DATA), hole;
    if (at < 0 && errno != ENXIO) {
        blockmap_mark(&d->todo, 0, d->todo.bytes);
        d->data = d->todo.bytes;
        return;
    }
    for (; at >= 0 && (u64)at < d->todo.bytes; at = lseek(d->fd, hole, SEEK_DATA)) {
        hole = lseek(d->fd, at, SEEK_HOLE);
        if (hole <= at) /* it was cut short: reading it tells */
            hole = (off_t)d->todo.bytes;
        blockmap_mark(&d->todo, (u64)at, (u64)(hole - at));
        d->data += MIN((u64)hole, d->todo.bytes) - (u64)at;
    }
}

int mirror_add(struct mirror_out *m, int file, u64 bytes, bool direct, struct error *e)
{
    char path[32];
    struct mirror_source *d = &m->disk[m->n];
    if (m->n == DISK_COUNT_MAX || !mirror_size_good(bytes))
        return error_set(e, EFBIG, "disk %u: has %llu bytes; at most %llu can be moved", m->n,
                         (unsigned long long)bytes, MIRROR_BYTES_MAX);
    if (!m->chunk && (!(m->chunk = aligned_alloc(ALIGN, CHUNK)) ||
                      !(m->record = malloc(STREAM_BLOCK_HEAD + LZ4_COMPRESSBOUND(BLOCKMAP_BLOCK)))))
        return no_memory(e);
    snprintf(path, sizeof(path), "/proc/self/fd/%d", file); /* the same file, whatever its name means now */
    d->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | (direct ? O_DIRECT : 0));
    if (d->fd < 0 && direct && errno == EINVAL)
        d->fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY);
    if (d->fd < 0)
        return error_set(e, errno, "disk %u: can not be read: %s", m->n, strerror(errno));
    m->n++;
    if (blockmap_init(&d->todo, bytes) < 0)
        return no_memory(e);
    mark_data(d);
    return sums_init_blocks(&d->sums, d->todo.blocks, e);
}

void mirror_out_free(struct mirror_out *m)
{
    for (unsigned i = 0; i < m->n; i++) {
        close(m->disk[i].fd);
        blockmap_free(&m->disk[i].todo);
        sums_free(&m->disk[i].sums);
    }
    free(m->chunk);
    free(m->record);
    *m = (struct mirror_out){0};
}

u64 mirror_left(const struct mirror_out *m)
{
    u64 blocks = 0;
    for (unsigned i = 0; i < m->n; i++)
        blocks += blockmap_count(&m->disk[i].todo);
    return blocks * BLOCKMAP_BLOCK;
}

/* --- reading --- */

/* Blocks [first, first + n) into the chunk; behind the end of the disk are zeros. */
static int read_chunk(struct mirror_out *m, const struct mirror_source *d, u64 first, u64 n, struct error *e)
{
    u64 at = first * BLOCKMAP_BLOCK, len = n * BLOCKMAP_BLOCK, want = MIN(len, d->todo.bytes - at), got = 0;
    while (got < want) {
        ssize_t r = pread(d->fd, m->chunk + got, len - got, (off_t)(at + got));
        int flags = r < 0 && errno == EINVAL ? fcntl(d->fd, F_GETFL) : 0;
        if (r < 0 && errno == EINTR)
            continue;
        if (r < 0 && flags > 0 && flags & O_DIRECT && fcntl(d->fd, F_SETFL, flags & ~O_DIRECT) == 0)
            continue; /* not so aligned as it wants; the page cache shows the same */
        if (r <= 0)
            return error_set(e, r < 0 ? errno : EIO, "disk %u: can not be read at byte %llu: %s", number_of(m, d),
                             (unsigned long long)(at + got), r < 0 ? strerror(errno) : "its file was cut short");
        got += (u64)r;
    }
    memset(m->chunk + want, 0, len - want);
    return 0;
}

/* --- sending --- */

static bool is_zero(const u8 *block)
{
    for (unsigned i = 0; i < BLOCKMAP_BLOCK; i += PAGE_SIZE)
        if (!page_is_zero(block + i))
            return false;
    return true;
}

static int put_block(struct mirror_out *m, struct mirror_source *d, struct stream_out *o, u64 block, const u8 *data,
                     struct error *e)
{
    u32 len = blockmap_length(&d->todo, block), packed = 0;
    if (o->pack)
        packed = (u32)LZ4_compress_default((const char *)data, (char *)m->record + STREAM_BLOCK_HEAD, (int)len,
                                           (int)(len * 7 / 8));
    if (!packed)
        memcpy(m->record + STREAM_BLOCK_HEAD, data, len);
    put_le32(m->record, number_of(m, d));
    put_le32(m->record + 4, packed ? LZ4 : RAW);
    put_le64(m->record + 8, block);
    d->sums.sum[block] = block_sum(data);
    m->sent += len;
    return stream_put_disk(o, STREAM_DISK_BLOCK, m->record, STREAM_BLOCK_HEAD + (packed ? packed : len), len, e);
}

/* Blocks [first, first + n) are zero; those that are known as that are not told again. */
static int put_zero(struct mirror_out *m, struct mirror_source *d, struct stream_out *o, u64 first, u64 n,
                    struct error *e)
{
    u8 payload[STREAM_ZERO_LEN];
    while (n && d->sums.sum[first] == d->sums.zero)
        first++, n--;
    while (n && d->sums.sum[first + n - 1] == d->sums.zero)
        n--;
    if (!n)
        return 0;
    put_le32(payload, number_of(m, d));
    put_le32(payload + 4, 0);
    put_le64(payload + 8, first);
    put_le64(payload + 16, n);
    for (u64 i = first; i < first + n; i++)
        d->sums.sum[i] = d->sums.zero;
    return stream_put_disk(o, STREAM_DISK_ZERO, payload, sizeof(payload), 0, e);
}

static int put_chunk(struct mirror_out *m, struct mirror_source *d, struct stream_out *o, u64 first, u64 n,
                     struct error *e)
{
    int r = 0;
    for (u64 i = 0, zeros; i < n && r == 0; i += MAX(zeros, (u64)1)) {
        zeros = 0;
        while (i + zeros < n && is_zero(m->chunk + (i + zeros) * BLOCKMAP_BLOCK))
            zeros++;
        r = zeros ? put_zero(m, d, o, first + i, zeros, e)
                  : put_block(m, d, o, first + i, m->chunk + i * BLOCKMAP_BLOCK, e);
    }
    return r;
}

static int send_disk(struct mirror_out *m, struct mirror_source *d, struct stream_out *o,
                     int (*look)(void *ctx, struct error *e), void *ctx, struct error *e)
{
    int r = 0;
    for (u64 at = 0, first, n; r == 0 && (n = blockmap_run(&d->todo, at, CHUNK_BLOCKS, &first)); at = first + n) {
        blockmap_clear(&d->todo, first, n);
        if ((r = read_chunk(m, d, first, n, e)) == 0 && (r = put_chunk(m, d, o, first, n, e)) == 0 && look)
            r = look(ctx, e);
    }
    return r;
}

int mirror_send(struct mirror_out *m, struct stream_out *o, int (*look)(void *ctx, struct error *e), void *ctx,
                struct error *e)
{
    int r = 0;
    for (unsigned i = 0; i < m->n && r == 0; i++)
        r = send_disk(m, &m->disk[i], o, look, ctx, e);
    return r;
}

int mirror_put_digests(const struct mirror_out *m, struct stream_out *o, struct error *e)
{
    int r = mirror_left(m) ? error_set(e, EIO, "disks: not all of them was sent") : 0;
    for (unsigned i = 0; i < m->n && r == 0; i++) {
        u8 payload[STREAM_SUM_LEN];
        put_le32(payload, i);
        put_le32(payload + 4, 0);
        put_le64(payload + 8, m->disk[i].todo.bytes);
        sums_digest(&m->disk[i].sums, payload + 16);
        r = stream_put_disk(o, STREAM_DISK_SUM, payload, sizeof(payload), 0, e);
    }
    return r;
}

/* --- looking again --- */

static int verify(struct mirror_out *m, struct mirror_source *d, struct error *e)
{
    u64 bad = 0, where = 0;
    for (u64 at = 0, n; at < d->todo.blocks; at += n) {
        n = MIN(d->todo.blocks - at, (u64)CHUNK_BLOCKS);
        int r = read_chunk(m, d, at, n, e);
        if (r < 0)
            return r;
        for (u64 i = 0; i < n; i++)
            if (block_sum(m->chunk + i * BLOCKMAP_BLOCK) != d->sums.sum[at + i] && !bad++)
                where = at + i;
    }
    return bad ? error_set(e, EILSEQ,
                           "disk %u: %llu blocks were changed without being noticed, the first is block %llu",
                           number_of(m, d), (unsigned long long)bad, (unsigned long long)where)
               : 0;
}

int mirror_verify(struct mirror_out *m, struct error *e)
{
    int r = 0;
    for (unsigned i = 0; i < m->n && r == 0; i++)
        r = verify(m, &m->disk[i], e);
    return r;
}
