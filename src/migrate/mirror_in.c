/* Disks at the target: new files, filled with what comes. */
#include "base/bytes.h"
#include "migrate/mirror.h"

#include <errno.h>
#include <fcntl.h>
#include <lz4.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define RAW        0u /* encoding of a block */
#define LZ4        1u
#define SYNC_BYTES (32u << 20) /* more than so much is never left to be synced: the source waits for the end of that */

static int failed(const struct mirror_target *d, int code, const char *what, struct error *e)
{
    return error_set(e, code, "disk %s: %s: %s", d->name, what, strerror(code));
}

/* --- files --- */

int mirror_create(struct mirror_in *m, const char *path, u64 bytes, struct error *e)
{
    struct mirror_target *d = &m->disk[m->n];
    size_t len = strlen(path);
    if (m->n == DISK_COUNT_MAX || !mirror_size_good(bytes))
        return error_set(e, EINVAL, "disk %u: of %llu bytes can not be", m->n, (unsigned long long)bytes);
    if (!m->block && !(m->block = malloc(BLOCKMAP_BLOCK)))
        return error_set(e, ENOMEM, "disks: out of memory");
    *d = (struct mirror_target){
        .size = {.bytes = bytes, .blocks = bytes / BLOCKMAP_BLOCK + (bytes % BLOCKMAP_BLOCK != 0)}};
    snprintf(d->name, sizeof(d->name), "%s", path + (len < MIRROR_NAME ? 0 : len + 1 - MIRROR_NAME));
    d->fd = open(path, O_RDWR | O_CREAT | O_EXCL | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (d->fd < 0)
        return failed(d, errno, "can not be made", e);
    m->n++;
    if (ftruncate(d->fd, (off_t)bytes) < 0)
        return failed(d, errno, "can not be made so large", e);
    return sums_init_blocks(&d->sums, d->size.blocks, e);
}

void mirror_in_free(struct mirror_in *m)
{
    for (unsigned i = 0; i < m->n; i++) {
        close(m->disk[i].fd);
        sums_free(&m->disk[i].sums);
    }
    free(m->block);
    *m = (struct mirror_in){0};
}

static int write_all(const struct mirror_target *d, const u8 *data, size_t len, u64 at, struct error *e)
{
    while (len) {
        ssize_t n = pwrite(d->fd, data, len, (off_t)at);
        if (n < 0 && errno == EINTR)
            continue;
        if (n <= 0)
            return failed(d, n < 0 ? errno : EIO, "can not be written", e);
        data += n;
        at += (u64)n;
        len -= (size_t)n;
    }
    return 0;
}

/* Into a hole: pages that are zero leave it one. */
static int write_into_hole(const struct mirror_target *d, const u8 *data, u32 len, u64 at, struct error *e)
{
    int r = 0;
    for (u32 i = 0, n; i < len && r == 0; i += n) {
        u32 first = i;
        while (first < len && len - first >= PAGE_SIZE && page_is_zero(data + first))
            first += PAGE_SIZE;
        u32 end = first;
        while (end < len && (len - end < PAGE_SIZE || !page_is_zero(data + end)))
            end += MIN((u32)PAGE_SIZE, len - end);
        if (end > first)
            r = write_all(d, data + first, end - first, at + first, e);
        n = end - i;
    }
    return r;
}

/* --- records --- */

static struct mirror_target *find(struct mirror_in *m, const u8 *payload, struct error *e)
{
    u32 i = get_le32(payload);
    if (i < m->n && !m->disk[i].summed)
        return &m->disk[i];
    error_set(e, EBADMSG, "a record of disk %u, %s", i, i < m->n ? "which had ended" : "which was not announced");
    return NULL;
}

/* The block's bytes in m->block, filled up with zeros. */
static int unpack(struct mirror_in *m, const struct mirror_target *d, const u8 *payload, u32 len, u32 want,
                  struct error *e)
{
    u32 encoding = get_le32(payload + 4), have = len - STREAM_BLOCK_HEAD;
    const u8 *data = payload + STREAM_BLOCK_HEAD;
    if (encoding > LZ4)
        return error_set(e, EPROTONOSUPPORT, "disk %s: a block in encoding %u: a later trapeze wrote it", d->name,
                         encoding);
    bool good = encoding == RAW
                    ? have == want
                    : LZ4_decompress_safe((const char *)data, (char *)m->block, (int)have, (int)want) == (int)want;
    if (!good)
        return error_set(e, EBADMSG, "disk %s: a block in %u bytes that can not be", d->name, have);
    if (encoding == RAW)
        memcpy(m->block, data, want);
    memset(m->block + want, 0, BLOCKMAP_BLOCK - want);
    return 0;
}

static int take_block(struct mirror_in *m, const u8 *payload, u32 len, struct error *e)
{
    struct mirror_target *d = find(m, payload, e);
    u64 block = get_le64(payload + 8);
    if (!d)
        return -EBADMSG;
    if (block >= d->size.blocks)
        return error_set(e, EBADMSG, "disk %s: block %llu of %llu", d->name, (unsigned long long)block,
                         (unsigned long long)d->size.blocks);
    u32 want = blockmap_length(&d->size, block);
    int r = unpack(m, d, payload, len, want, e);
    if (r < 0)
        return r;
    bool hole = d->sums.sum[block] == d->sums.zero;
    r = hole ? write_into_hole(d, m->block, want, block * BLOCKMAP_BLOCK, e)
             : write_all(d, m->block, want, block * BLOCKMAP_BLOCK, e);
    d->sums.sum[block] = block_sum(m->block);
    m->received += want;
    return r == 0 && m->received - m->synced >= SYNC_BYTES ? mirror_sync(m, e) : r;
}

/* Where no holes can be made, zeros are written; holes that are there stay. */
static int write_zeros(struct mirror_in *m, const struct mirror_target *d, u64 first, u64 n, struct error *e)
{
    int r = 0;
    memset(m->block, 0, BLOCKMAP_BLOCK);
    for (u64 i = first; i < first + n && r == 0; i++)
        if (d->sums.sum[i] != d->sums.zero)
            r = write_all(d, m->block, blockmap_length(&d->size, i), i * BLOCKMAP_BLOCK, e);
    return r;
}

static int take_zero(struct mirror_in *m, const u8 *payload, u32 len, struct error *e)
{
    struct mirror_target *d = find(m, payload, e);
    u64 first = get_le64(payload + 8), n = get_le64(payload + 16);
    if (!d)
        return -EBADMSG;
    if (!n || first >= d->size.blocks || n > d->size.blocks - first || get_le32(payload + 4))
        return error_set(e, EBADMSG, "disk %s: %llu blocks of zeros from %llu on, of %llu", d->name,
                         (unsigned long long)n, (unsigned long long)first, (unsigned long long)d->size.blocks);
    u64 at = first * BLOCKMAP_BLOCK, bytes = MIN(n * BLOCKMAP_BLOCK, d->size.bytes - at);
    int r = 0;
    if (fallocate(d->fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)bytes) < 0)
        r = write_zeros(m, d, first, n, e);
    for (u64 i = first; i < first + n; i++)
        d->sums.sum[i] = d->sums.zero;
    return r;
}

static int take_sum(struct mirror_in *m, const u8 *payload, u32 len, struct error *e)
{
    struct mirror_target *d = find(m, payload, e);
    u8 digest[DIGEST_LEN];
    if (!d)
        return -EBADMSG;
    sums_digest(&d->sums, digest);
    if (get_le64(payload + 8) != d->size.bytes || get_le32(payload + 4))
        return error_set(e, EBADMSG, "disk %s: another size than was promised", d->name);
    if (memcmp(digest, payload + 16, DIGEST_LEN))
        return error_set(e, EBADMSG, "disk %s: is not the one that was sent: its digest is another", d->name);
    d->summed = true;
    return 0;
}

int mirror_take(struct mirror_in *m, u32 type, const u8 *payload, u32 len, struct error *e)
{
    static const struct {
        u32 type;
        int (*take)(struct mirror_in *, const u8 *, u32, struct error *);
    } kinds[] = {{STREAM_DISK_BLOCK, take_block}, {STREAM_DISK_ZERO, take_zero}, {STREAM_DISK_SUM, take_sum}};
    for (size_t i = 0; i < ARRAY_LEN(kinds); i++)
        if (kinds[i].type == type)
            return kinds[i].take(m, payload, len, e);
    return error_set(e, EBADMSG, "a record of a disk that is none");
}

/* --- the end --- */

int mirror_sync(struct mirror_in *m, struct error *e)
{
    for (unsigned i = 0; i < m->n; i++)
        if (fdatasync(m->disk[i].fd) < 0)
            return failed(&m->disk[i], errno, "can not be put on stable storage", e);
    m->synced = m->received;
    return 0;
}

int mirror_complete(struct mirror_in *m, struct error *e)
{
    for (unsigned i = 0; i < m->n; i++) {
        if (!m->disk[i].summed)
            return error_set(e, EBADMSG, "disk %s: has not come whole: there is no digest of it", m->disk[i].name);
        if (fsync(m->disk[i].fd) < 0)
            return failed(&m->disk[i], errno, "can not be put on stable storage", e);
    }
    return 0;
}
