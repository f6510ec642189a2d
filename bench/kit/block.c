/*
 * kit --block: what a disk can do. Past the page cache, so that each operation is one of the device.
 *
 *   blk_seqwrite, blk_seqread    1 MiB at a time, one after the other
 *   blk_read4k, blk_write4k      4 KiB anywhere, one at a time
 *   blk_read4k_32, blk_write4k_32    ... 32 at a time: Linux's own asynchronous I/O (io_submit(2)), in one thread
 *   blk_sync4k                   4 KiB written, then fdatasync
 *
 * Each begins with a fifth of its time unmeasured. Every block holds its number, and what is read is looked at: `BAD` when it
 * is not that.
 *
 * kit --records: blocks written one after the other, from number 1 on, round and round: number n lies in place (n - 1) modulo
 * the number of places. A few are written, then flushed, then "flushed N" says so of all up to N. So the machine may be killed
 * at any time, and what was said can be held against what is there. Words of 8 bytes, little endian:
 *
 *   | n | n + the sum of words 2 to 511, modulo 2^64 | word i: n * RECORD_STEP + i * (n | 1) ... |
 */
#include "kit.h"

#include <fcntl.h>
#include <linux/aio_abi.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/syscall.h>
#include <unistd.h>

#define BLOCK 4096u
#define LARGE MIB
#define DEPTH 32u
#define AREA  (256ull * MIB) /* so much of the device is used, at most */

enum op { READ, WRITE, SYNC };

struct disk {
    int fd;
    u8 *buffer; /* LARGE bytes, DEPTH blocks of which are those on their way */
    u64 blocks; /* that are used */
    u64 seed, next;
    aio_context_t aio;
    struct iocb cb[DEPTH];
    u64 wrong; /* blocks read that held something else */
};

/* A row: `length` bytes a time, `depth` at once. */
struct row {
    const char *name;
    enum op op;
    u32 length;
    unsigned depth;
};

static const struct row rows[] = {
    {"blk_seqwrite", WRITE, LARGE, 1}, {"blk_seqread", READ, LARGE, 1},       {"blk_read4k", READ, BLOCK, 1},
    {"blk_write4k", WRITE, BLOCK, 1},  {"blk_read4k_32", READ, BLOCK, DEPTH}, {"blk_write4k_32", WRITE, BLOCK, DEPTH},
    {"blk_sync4k", SYNC, BLOCK, 1},
};

/* The next block to work on. */
static u64 choose(struct disk *d, const struct row *r)
{
    if (r->length == LARGE || r->op == SYNC) {
        u64 n = r->length / BLOCK;
        if (d->next + n > d->blocks)
            d->next = 0;
        d->next += n;
        return d->next - n;
    }
    return kit_random(&d->seed) % d->blocks;
}

static void stamp(u8 *p, u64 block, u32 length)
{
    for (u32 i = 0; i < length / BLOCK; i++)
        *(volatile u64 *)(p + (size_t)i * BLOCK) = block + i;
}

static void look(struct disk *d, const u8 *p, u64 block, u32 length)
{
    for (u32 i = 0; i < length / BLOCK; i++)
        d->wrong += *(const volatile u64 *)(p + (size_t)i * BLOCK) != block + i;
}

/* One operation, and wait for it; how many were done, or -1. */
static int one(struct disk *d, const struct row *r)
{
    u64 block = choose(d, r);
    off_t at = (off_t)(block * BLOCK);
    ssize_t n;
    if (r->op == READ) {
        n = pread(d->fd, d->buffer, r->length, at);
        look(d, d->buffer, block, r->length);
    } else {
        stamp(d->buffer, block, r->length);
        n = pwrite(d->fd, d->buffer, r->length, at);
    }
    return n != (ssize_t)r->length || (r->op == SYNC && fdatasync(d->fd)) ? -1 : 1;
}

/* Send the operations in `cb`. */
static int send_all(struct disk *d, struct iocb **cb, long n)
{
    for (long done = 0; done < n;) {
        long r = syscall(SYS_io_submit, d->aio, n - done, cb + done);
        if (r <= 0)
            return -1;
        done += r;
    }
    return 0;
}

static void prepare(struct disk *d, const struct row *r, struct iocb *cb)
{
    u64 block = choose(d, r);
    u8 *p = d->buffer + (size_t)(cb - d->cb) * BLOCK;
    if (r->op == WRITE)
        stamp(p, block, BLOCK);
    *cb = (struct iocb){.aio_lio_opcode = r->op == READ ? IOCB_CMD_PREAD : IOCB_CMD_PWRITE,
                        .aio_fildes = (u32)d->fd,
                        .aio_buf = (uintptr_t)p,
                        .aio_nbytes = BLOCK,
                        .aio_offset = (int64_t)(block * BLOCK),
                        .aio_data = block};
}

/* Wait for some of those on their way, and send others in their place unless `last`; how many came, or -1. */
static int some(struct disk *d, const struct row *r, bool last)
{
    struct io_event ev[DEPTH];
    struct iocb *again[DEPTH];
    long n = syscall(SYS_io_getevents, d->aio, 1, DEPTH, ev, NULL);
    for (long i = 0; i < n; i++) {
        struct iocb *cb = (struct iocb *)(uintptr_t)ev[i].obj;
        if (ev[i].res != BLOCK)
            return -1;
        if (r->op == READ)
            look(d, (const u8 *)(uintptr_t)cb->aio_buf, ev[i].data, BLOCK);
        again[i] = cb;
        if (!last)
            prepare(d, r, cb);
    }
    return n <= 0 || (!last && send_all(d, again, n) < 0) ? -1 : (int)n;
}

/* How many operations in so many seconds; -1: one failed. */
static long repeat(struct disk *d, const struct row *r, double seconds, double *took)
{
    double begin = kit_now();
    long n = 0;
    do {
        int done = r->depth == 1 ? one(d, r) : some(d, r, false);
        if (done < 0)
            return -1;
        n += done;
        *took = kit_now() - begin;
    } while (*took < seconds);
    return n;
}

static int begin_many(struct disk *d, const struct row *r)
{
    struct iocb *all[DEPTH];
    for (unsigned i = 0; i < r->depth; i++) {
        prepare(d, r, &d->cb[i]);
        all[i] = &d->cb[i];
    }
    return send_all(d, all, r->depth);
}

static int end_many(struct disk *d, const struct row *r)
{
    for (unsigned left = r->depth; left;) {
        int n = some(d, r, true);
        if (n < 0)
            return -1;
        left -= (unsigned)n;
    }
    return 0;
}

static int run(struct disk *d, const struct row *r, double seconds)
{
    double took;
    long n = -1;
    d->next = d->wrong = 0;
    if (r->depth == 1 || begin_many(d, r) == 0)
        n = repeat(d, r, seconds / 5, &took);
    if (n >= 0)
        n = repeat(d, r, seconds, &took);
    if (n >= 0 && r->depth > 1 && end_many(d, r) < 0)
        n = -1;
    if (n < 0)
        perror(r->name);
    else if (d->wrong)
        printf("%-14s BAD %llu blocks hold something else\n", r->name, (unsigned long long)d->wrong);
    else if (r->length == LARGE)
        printf("%-14s %.1f MB/s\n", r->name, (double)n * LARGE / took / 1e6);
    else
        printf("%-14s %.0f op/s\n", r->name, (double)n / took);
    fflush(stdout);
    return n < 0 || d->wrong;
}

/* Every block gets its number. */
static int fill(struct disk *d)
{
    const struct row all = {"fill", WRITE, LARGE, 1};
    for (u64 i = 0; i < d->blocks; i += LARGE / BLOCK)
        if (one(d, &all) < 0)
            return -1;
    return fsync(d->fd);
}

int kit_block(const char *device, double seconds, const char *only)
{
    struct disk d = {.fd = open(device, O_RDWR | O_DIRECT), .seed = 9};
    void *buffer = NULL;
    int bad = 0;
    off_t size = d.fd < 0 ? -1 : lseek(d.fd, 0, SEEK_END);
    if (size < 0 || posix_memalign(&buffer, BLOCK, LARGE) || syscall(SYS_io_setup, DEPTH, &d.aio) < 0) {
        perror(device);
        return 1;
    }
    d.buffer = memset(buffer, 0x5a, LARGE);
    d.blocks = ((u64)size < AREA ? (u64)size : AREA) / LARGE * (LARGE / BLOCK);
    if (!d.blocks || fill(&d) < 0) {
        perror(device);
        return 1;
    }
    for (size_t i = 0; i < ARRAY_LEN(rows); i++)
        if (!only || !strcmp(only, rows[i].name))
            bad |= run(&d, &rows[i], seconds);
    syscall(SYS_io_destroy, d.aio);
    free(buffer);
    close(d.fd);
    return bad;
}

/* --- records --- */

#define RECORD_STEP 0x9e3779b97f4a7c15ull
#define RECORDS_MAX 7u /* between two flushes */

/* The check is the sum of all other words: a block that is partly an older one has another. */
static void make_record(u64 *w, u64 n)
{
    w[0] = w[1] = n;
    for (u32 i = 2; i < BLOCK / 8; i++)
        w[1] += w[i] = n * RECORD_STEP + i * (n | 1);
}

int kit_records(const char *device)
{
    int fd = open(device, O_RDWR | O_DIRECT);
    off_t size = fd < 0 ? -1 : lseek(fd, 0, SEEK_END);
    u64 places = size < 0 ? 0 : (u64)size / BLOCK, seed = 11, n = 0;
    void *p = NULL;
    if (!places || posix_memalign(&p, BLOCK, BLOCK)) {
        perror(device);
        return 1;
    }
    for (;;) {
        for (u64 many = 1 + kit_random(&seed) % RECORDS_MAX; many; many--) {
            make_record(p, ++n);
            if (pwrite(fd, p, BLOCK, (off_t)((n - 1) % places * BLOCK)) != BLOCK)
                goto failed;
        }
        if (fdatasync(fd) < 0)
            goto failed;
        printf("flushed %llu\n", (unsigned long long)n);
        fflush(stdout);
    }
failed:
    perror(device);
    free(p);
    return 1;
}
