#include "base/record.h"
#include "base/bytes.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define HEADER REC_HEADER

void rec_buf_free(struct rec_buf *b)
{
    free(b->data);
    *b = (struct rec_buf){0};
}

static int reserve(struct rec_buf *b, size_t more)
{
    if (more <= b->cap - b->len)
        return 0;
    size_t cap = b->cap ? b->cap : 4096;
    while (cap - b->len < more) {
        if (cap > SIZE_MAX / 2)
            return -ENOMEM;
        cap *= 2;
    }
    u8 *p = realloc(b->data, cap);
    if (!p)
        return -ENOMEM;
    b->data = p;
    b->cap = cap;
    return 0;
}

/* Bytes that the fields of `version` take. */
static u32 payload_size(const struct rec_desc *d, u16 version)
{
    u32 n = 0;
    for (u32 i = 0; i < d->n_fields; i++)
        if (d->fields[i].since <= version)
            n += d->fields[i].size;
    return n;
}

void rec_put_header(u8 *p, u32 type, u16 version, u16 instance, const void *payload, u32 len)
{
    put_le32(p, type);
    put_le16(p + 4, version);
    put_le16(p + 6, instance);
    put_le32(p + 8, len);
    put_le32(p + 12, crc32c(0, payload, len));
}

int rec_save_raw(struct rec_buf *out, u32 type, u16 version, u16 instance, const void *payload, size_t len)
{
    if (len > UINT32_MAX)
        return -EOVERFLOW;
    if (reserve(out, HEADER + len))
        return -ENOMEM;
    u8 *p = out->data + out->len;
    if (len)
        memcpy(p + HEADER, payload, len);
    rec_put_header(p, type, version, instance, p + HEADER, (u32)len);
    out->len += HEADER + len;
    return 0;
}

int rec_save(struct rec_buf *out, const struct rec_desc *d, u16 instance, const void *object)
{
    u32 len = payload_size(d, d->version);
    if (reserve(out, HEADER + len))
        return -ENOMEM;
    u8 *p = out->data + out->len, *q = p + HEADER;
    for (u32 i = 0; i < d->n_fields; i++) {
        memcpy(q, (const u8 *)object + d->fields[i].offset, d->fields[i].size);
        q += d->fields[i].size;
    }
    rec_put_header(p, d->type, d->version, instance, p + HEADER, len);
    out->len += HEADER + len;
    return 0;
}

void rec_get_header(const u8 *p, struct rec_view *v)
{
    *v = (struct rec_view){
        .type = get_le32(p), .version = get_le16(p + 4), .instance = get_le16(p + 6), .len = get_le32(p + 8)};
}

bool rec_intact(const u8 *header, const void *payload)
{
    return crc32c(0, payload, get_le32(header + 8)) == get_le32(header + 12);
}

int rec_next(const u8 *data, size_t len, size_t *pos, struct rec_view *v, struct error *e)
{
    if (*pos == len)
        return 0;
    if (*pos > len || len - *pos < HEADER)
        return error_set(e, EINVAL, "record at byte %zu: its header is cut short; the stream is damaged", *pos);
    const u8 *p = data + *pos;
    u32 n = get_le32(p + 8);
    if (len - *pos - HEADER < n)
        return error_set(e, EINVAL, "record at byte %zu: %u bytes announced, fewer there; the stream is damaged", *pos,
                         n);
    if (!rec_intact(p, p + HEADER))
        return error_set(e, EINVAL, "record at byte %zu: wrong checksum; the stream is damaged", *pos);
    rec_get_header(p, v);
    v->payload = p + HEADER;
    *pos += HEADER + n;
    return 1;
}

/* Make the candidate: a copy of the object with the record's fields in place, checked. The caller frees it. */
static int candidate(const struct rec_view *v, const struct rec_desc *d, const void *object, u8 **out, struct error *e)
{
    if (v->type != d->type)
        return error_set(e, EINVAL, "record %s: another type of record stands in its place", d->name);
    if (v->version < 1 || v->version > d->version)
        return error_set(e, EINVAL, "record %s: version %u is not known here (1 to %u are)", d->name, v->version,
                         d->version);
    if (v->len != payload_size(d, v->version))
        return error_set(e, EINVAL, "record %s: %u bytes where version %u has %u", d->name, v->len, v->version,
                         payload_size(d, v->version));
    /* Objects may hold 64-byte aligned register files. */
    u8 *copy = aligned_alloc(64, (d->object_size + 63) & ~63u);
    if (!copy)
        return error_set(e, ENOMEM, "record %s: out of memory", d->name);
    memcpy(copy, object, d->object_size);
    const u8 *p = v->payload;
    for (u32 i = 0; i < d->n_fields; i++) {
        if (d->fields[i].since > v->version)
            continue;
        memcpy(copy + d->fields[i].offset, p, d->fields[i].size);
        p += d->fields[i].size;
    }
    int r = d->check ? d->check(copy, e) : 0;
    if (r < 0) {
        error_prefix(e, "record %s", d->name);
        free(copy);
        return r;
    }
    *out = copy;
    return 0;
}

int rec_check(const struct rec_view *v, const struct rec_desc *d, const void *object, struct error *e)
{
    u8 *copy;
    int r = candidate(v, d, object, &copy, e);
    if (r == 0)
        free(copy);
    return r;
}

int rec_load(const struct rec_view *v, const struct rec_desc *d, void *object, struct error *e)
{
    u8 *copy;
    int r = candidate(v, d, object, &copy, e);
    if (r < 0)
        return r;
    for (u32 i = 0; i < d->n_fields; i++) {
        const struct rec_field *f = &d->fields[i];
        memcpy((u8 *)object + f->offset, copy + f->offset, f->size);
    }
    free(copy);
    if (d->loaded)
        d->loaded(object);
    return 0;
}
