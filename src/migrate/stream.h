/*
 * The stream: a machine as bytes, in a file or on a wire. docs/migration-stream.md is its specification.
 *
 *     TRPZ  CONF  (PAGE | ZERO | PADD | ABSN | ROUN | DBLK | DZER)...  [INDX... | DSUM...]  MACH  DGST  TEND
 *
 * Everything is a record (base/record.h): type, version, length, checksum. The machine's own records are the payload of MACH.
 * This room knows records and pages; what a configuration or a device's record says, it does not.
 *
 * What must stay true
 *  1. The reader believes nothing: order, versions, lengths, page numbers and checksums are looked at before a byte is used, and a
 *     stream is good only when its end has been read and the digest is that of the memory that was filled.
 *  2. What is read is never larger than STREAM_STATE_MAX, whatever a length says.
 *  3. A stream that has pages twice means the later ones: so rounds of a live migration are a stream, too.
 *  4. A page that is absent has its sum in the stream, and so in the digest: whoever brings it later compares it with that.
 */
#ifndef TRAPEZE_MIGRATE_STREAM_H
#define TRAPEZE_MIGRATE_STREAM_H

#include "base/record.h"
#include "migrate/digest.h"

#define STREAM_CONFIG_MAX 65536u
#define STREAM_STATE_MAX  (16u << 20)
#define STREAM_PAGES      64u /* in one PAGE record, at most */
#define STREAM_RAM_MAX    (1ull << 40)

/* Records of disks (migrate/mirror.h), on a wire only; the bytes that they may have. */
#define STREAM_DISK_BLOCK REC_TYPE('D', 'B', 'L', 'K')
#define STREAM_DISK_ZERO  REC_TYPE('D', 'Z', 'E', 'R')
#define STREAM_DISK_SUM   REC_TYPE('D', 'S', 'U', 'M')
#define STREAM_BLOCK_HEAD 16u
#define STREAM_ZERO_LEN   24u
#define STREAM_SUM_LEN    (16u + DIGEST_LEN)

/* What the stream is of: its first record. */
struct stream_head {
    u32 page_size; /* 4096 */
    u32 flags;     /* none so far: 0 */
    u64 ram_size;  /* bytes, whole pages */
    s64 created;   /* seconds since 1970, UTC */
    u8 id[16];     /* random: names this stream and no other */
};

/* Pages that lie in the stream as they are, one behind the other. */
struct stream_run {
    u64 first, offset; /* page; where it lies, in bytes from the begin of the stream: a multiple of the page size */
    u32 n;             /* pages, STREAM_PAGES at most */
};

/* Where all pages lie that are not zero, in ascending order. */
struct stream_index {
    struct stream_run *run;
    size_t n, cap;
};

/* Told now and then how many pages of how many are done. */
typedef void (*stream_progress)(void *ctx, u64 done, u64 total);

struct stream_out {
    /* set by the caller */
    int (*put)(void *ctx, const void *data, size_t len, struct error *e);
    void *ctx;
    stream_progress progress; /* may be NULL */
    void *progress_ctx;
    bool aligned; /* pages lie at multiples of the page size, for a file that is to be mapped */
    bool pack;    /* pages are packed (LZ4) where that pays; may be changed at any time; not together with aligned */
    bool indexed; /* ends with an index of its pages, so that a file can be read lazily; only together with aligned */
    /* the stream's */
    u64 offset, records;
    u64 pages; /* bytes of pages (and disks) that were put, before they were packed */
    u8 *buf, *packed;
    struct page_sums sums;
    struct stream_index index;
    u64 index_at;
};

/* Begin a stream of a machine with that much memory. Each returns 0 or -errno with `e`; end with stream_out_free in any case. */
int stream_begin(struct stream_out *o, const struct stream_head *head, struct error *e);
/* The configuration: text of STREAM_CONFIG_MAX bytes at most. */
int stream_put_config(struct stream_out *o, const char *text, struct error *e);
/*
 * All pages of `ram` that are not zero. Nobody may write there meanwhile. `fd`: the memfd behind it, whose holes are passed
 * over; -1: none.
 */
int stream_put_memory(struct stream_out *o, const u8 *ram, u64 size, int fd, struct error *e);
/*
 * Pages of `ram` whose bits are set in bits[from..to), a bit a page, 64 pages a word; what has become zero again is told so. Whoever
 * writes there meanwhile has a later round for it.
 */
int stream_put_dirty(struct stream_out *o, const u8 *ram, const u64 *bits, u64 from, u64 to, struct error *e);
/*
 * Likewise, of a machine that stands still, but of what is not zero only the sums (post-copy): its pages are absent at the reader,
 * who asks for them later. Adds to *absent how many; their bits stay set, those of the others are cleared.
 */
int stream_put_absent(struct stream_out *o, const u8 *ram, u64 *bits, u64 from, u64 to, u64 *absent, struct error *e);
/* The end of a round (live migration): `text` is JSON, for who reads. */
int stream_put_round(struct stream_out *o, const char *text, struct error *e);
/* A record of a disk, which is one of the above. `bytes`: of the disk, before they were packed. */
int stream_put_disk(struct stream_out *o, u32 type, const void *payload, u32 len, u64 bytes, struct error *e);
/* The machine's own records. */
int stream_put_state(struct stream_out *o, const void *records, size_t len, struct error *e);
/* Digest and end. */
int stream_put_end(struct stream_out *o, struct error *e);
void stream_out_free(struct stream_out *o);

struct stream_in {
    /* set by the caller */
    int (*get)(void *ctx, void *buf, size_t len, struct error *e); /* exactly `len` bytes, or an error */
    void *ctx;
    stream_progress progress; /* may be NULL */
    void *progress_ctx;
    /* The end of a round has been read; `text` has no zero byte but its last. NULL: rounds are refused. */
    int (*round)(void *ctx, const char *text, struct error *e);
    /* A record of a disk, whose checksum is right and whose length is one that its type may have. NULL: they are refused. */
    int (*disk)(void *ctx, u32 type, const u8 *payload, u32 len, struct error *e);
    /*
     * A bit a page of memory, whole words, all clear (after stream_open its size is known): set for what is absent at the end, whose
     * bytes in memory mean nothing; its sum is in `sums`. NULL: absent pages are refused.
     */
    u64 *absent;
    /* the stream's */
    u64 n_absent;            /* bits of `absent` */
    struct stream_head head; /* after stream_open */
    u64 offset, records;
    u64 done;    /* pages */
    u64 indexed; /* the index has come up to this page */
    u8 header[REC_HEADER];
    u8 *buf, *unpacked;
    struct page_sums sums;
};

/* Read the head. 0 or -errno; end with stream_in_free in any case. */
int stream_open(struct stream_in *s, struct error *e);
/* Read the configuration: a text that the caller frees. */
int stream_get_config(struct stream_in *s, char **text, struct error *e);
/*
 * Read all the rest: pages into `ram`, which has head.ram_size bytes of zeros, the machine's records to the end of `state`. 0: the
 * stream was whole. Else the memory is worth nothing.
 */
int stream_get_machine(struct stream_in *s, u8 *ram, struct rec_buf *state, struct error *e);
void stream_in_free(struct stream_in *s);

/*
 * The same without the memory, of a stream with an index. stream_in_tail: of its last STREAM_TAIL bytes, where the index begins; 0:
 * it has none (an older version wrote it, or no file), and has to be read from its begin. From there on: what pages lie where, their
 * sums in s->sums, the machine's records; 0: all this is whole, and so is the memory whose pages have those sums.
 */
#define STREAM_TAIL (REC_HEADER + 16u)
int stream_in_tail(const u8 tail[STREAM_TAIL], u64 size, u64 *index, struct error *e);
int stream_get_index(struct stream_in *s, u64 at, struct stream_index *x, struct rec_buf *state, struct error *e);
void stream_index_free(struct stream_index *x);

#endif
