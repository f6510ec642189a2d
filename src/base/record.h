/*
 * Records: how a part of a machine is saved, checked and loaded.
 *
 * A machine's state is a sequence of records. Each has a type (four letters), an instance number, a version, a length
 * and a checksum, and a payload that is a list of fields in the order of a table. The table is the single description:
 * save, check and load all follow it. The same bytes serve a snapshot file, the migration stream and the tests.
 *
 *   offset  size  record header, little-endian
 *        0     4  type        four ASCII letters
 *        4     2  version     of the field table
 *        6     2  instance    0 unless a machine has several of a kind
 *        8     4  length      of the payload in bytes
 *       12     4  crc32c      of the payload
 *
 * What must stay true
 *  1. Loading never changes an object before its candidate passed the check: load fills a copy, checks the copy, commits.
 *  2. A payload is a peer's word: every length is compared with the table before a byte is copied.
 *  3. A field, once released, keeps its place; a later version appends fields and says from which version they are.
 */
#ifndef TRAPEZE_BASE_RECORD_H
#define TRAPEZE_BASE_RECORD_H

#include "base/error.h"
#include "base/types.h"

/* One field: `size` bytes at `offset` of the object, present since `since` (1 for the first version). */
struct rec_field {
    const char *name;
    u32 offset;
    u32 size;
    u16 since;
};

#define REC_FIELD(type, member)                                                                            \
    {                                                                                                      \
        .name = #member, .offset = offsetof(type, member), .size = sizeof(((type *)0)->member), .since = 1 \
    }
#define REC_FIELD_SINCE(type, member, version)                                                                     \
    {                                                                                                              \
        .name = #member, .offset = offsetof(type, member), .size = sizeof(((type *)0)->member), .since = (version) \
    }

#define REC_TYPE(a, b, c, d) ((u32)(a) | (u32)(b) << 8 | (u32)(c) << 16 | (u32)(d) << 24)

/* The description of one kind of record: a part of a machine declares one, `static const`. */
struct rec_desc {
    const char *name; /* "i8254", for messages */
    u32 type;         /* REC_TYPE('P','I','T',' ') */
    u16 version;      /* the version that save writes */
    u32 object_size;  /* sizeof the object the fields live in */
    const struct rec_field *fields;
    u32 n_fields;
    /*
     * Optional: refuse a candidate whose values can not be (an index out of range, reserved bits). `candidate` is a copy
     * of the object with the fields of the record in place. May normalise nothing; 0 or -EINVAL with `e` filled.
     */
    int (*check)(const void *candidate, struct error *e);
    /* Optional: called on the object after the commit, to rebuild what is derived (timers, caches, lines). */
    void (*loaded)(void *object);
};

#define REC_HEADER 16u /* bytes */

/* Write the header of a record with that payload to p[0..REC_HEADER). */
void rec_put_header(u8 *p, u32 type, u16 version, u16 instance, const void *payload, u32 len);

/* A growing byte buffer that owns its bytes; zero-initialise, free with rec_buf_free. */
struct rec_buf {
    u8 *data;
    size_t len, cap;
};

/* Free what the buffer holds and make it empty again. */
void rec_buf_free(struct rec_buf *b);

/* Append one record made from `object`. 0 or -ENOMEM. */
int rec_save(struct rec_buf *out, const struct rec_desc *d, u16 instance, const void *object);

/* Append one record with a raw payload (variable-length kinds: memory pages, CPUID tables). 0 or -ENOMEM. */
int rec_save_raw(struct rec_buf *out, u32 type, u16 version, u16 instance, const void *payload, size_t len);

/* A view of one record inside a buffer that somebody else owns. */
struct rec_view {
    u32 type;
    u16 version;
    u16 instance;
    const u8 *payload;
    u32 len;
};

/*
 * For who reads header and payload one after the other: what the header p[0..REC_HEADER) says (payload stays NULL), and whether
 * the payload that came behind it is the one that it was made for.
 */
void rec_get_header(const u8 *p, struct rec_view *v);
bool rec_intact(const u8 *header, const void *payload);

/*
 * Take the next record at *pos of data[0..len). Returns 1 and advances *pos, 0 at the end, -EINVAL (with `e`) when the
 * header or payload is cut short or the checksum is wrong.
 */
int rec_next(const u8 *data, size_t len, size_t *pos, struct rec_view *v, struct error *e);

/*
 * Check a record against its description and an object of that kind, without changing the object. 0 or -EINVAL
 * (wrong type, unknown version, wrong length, refused values), -ENOMEM.
 */
int rec_check(const struct rec_view *v, const struct rec_desc *d, const void *object, struct error *e);

/* rec_check, and when it passes, commit the fields to the object and call `loaded`. */
int rec_load(const struct rec_view *v, const struct rec_desc *d, void *object, struct error *e);

#endif
