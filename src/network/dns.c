#include "network/dns.h"
#include "base/bytes.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define FLAG_RESPONSE  0x8000u
#define FLAG_OPCODE    0x7800u
#define FLAG_AUTHORITY 0x0400u
#define FLAG_WANTED    0x0100u /* recursion desired */
#define FLAG_OFFERED   0x0080u /* and available */
#define LABEL_MAX      63u
#define POINTER_QUERY  0xc00cu /* to the name of the question */

static u16 get16(const u8 *p)
{
    return (u16)(p[0] << 8 | p[1]);
}

static void put16(u8 *p, u32 v)
{
    p[0] = (u8)(v >> 8);
    p[1] = (u8)v;
}

static void put32(u8 *p, u32 v)
{
    put16(p, v >> 16);
    put16(p + 2, v & 0xffff);
}

static char letter(u8 c)
{
    if (c >= 'A' && c <= 'Z')
        return (char)(c + 32);
    return (c >= 'a' && c <= 'z') || (c >= '0' && c <= '9') || c == '-' || c == '_' ? (char)c : '?';
}

/* Labels from *at; a question needs no compression, so none is taken. */
static bool read_name(const u8 *m, size_t n, size_t *at, char out[DNS_NAME_MAX])
{
    size_t i = *at, len = 0;
    for (;;) {
        if (i >= n || m[i] > LABEL_MAX)
            return false;
        u8 size = m[i++];
        if (!size)
            break;
        if (size > n - i || len + size + 1 >= DNS_NAME_MAX)
            return false;
        for (u8 k = 0; k < size; k++)
            out[len++] = letter(m[i++]);
        out[len++] = '.';
    }
    out[len ? len - 1 : 0] = 0;
    *at = i;
    return true;
}

int dns_parse(const u8 *m, size_t n, struct dns_question *q)
{
    memset(q, 0, sizeof(*q));
    if (n < DNS_HEADER)
        return -EBADMSG;
    u16 flags = get16(m + 2);
    q->id = get16(m);
    if (flags & FLAG_RESPONSE)
        return -EBADMSG; /* answering answers would go on for ever */
    if (flags & FLAG_OPCODE)
        return -(int)DNS_NOTIMP;
    size_t at = DNS_HEADER;
    /* Answers and authorities have no place in a question; additional records (EDNS, signatures) are for the server. */
    if (get16(m + 4) != 1 || get16(m + 6) || get16(m + 8) || !read_name(m, n, &at, q->name) || n - at < 4)
        return -(int)DNS_FORMERR;
    q->type = get16(m + at);
    q->class = get16(m + at + 2);
    q->end = at + 4;
    return 0;
}

static size_t begin(u8 *out, size_t room, const u8 *question, size_t end, u32 flags)
{
    if (room < DNS_HEADER || room < end)
        return 0;
    size_t n = end ? end : DNS_HEADER;
    memset(out, 0, DNS_HEADER);
    memcpy(out, question, n);
    put16(out + 2, FLAG_RESPONSE | FLAG_OFFERED | (get16(question + 2) & (FLAG_OPCODE | FLAG_WANTED)) | flags);
    put16(out + 4, end ? 1 : 0);
    memset(out + 6, 0, 6);
    return n;
}

size_t dns_refuse(u8 *out, size_t room, const u8 *question, const struct dns_question *q, unsigned code)
{
    return begin(out, room, question, q->end, code);
}

/* Names come and go: nobody is to remember them. */
static size_t put_record(u8 *out, size_t room, size_t at, u16 type, size_t size)
{
    if (room - at < 12 + size)
        return 0;
    put16(out + at, POINTER_QUERY);
    put16(out + at + 2, type);
    put16(out + at + 4, DNS_IN);
    put32(out + at + 6, 0);
    put16(out + at + 10, (u32)size);
    put16(out + 6, get16(out + 6) + 1u);
    return at + 12;
}

size_t dns_answer(u8 *out, size_t room, const u8 *question, const struct dns_question *q, const u32 *addresses,
                  size_t n)
{
    size_t at = begin(out, room, question, q->end, FLAG_AUTHORITY);
    for (size_t i = 0; at && i < n && i < DNS_ANSWERS; i++) {
        at = put_record(out, room, at, DNS_A, 4);
        if (at)
            put32(out + at, addresses[i]), at += 4;
    }
    return at;
}

size_t dns_answer_name(u8 *out, size_t room, const u8 *question, const struct dns_question *q, const char *name)
{
    size_t len = strnlen(name, LABEL_MAX + 1), at = begin(out, room, question, q->end, FLAG_AUTHORITY);
    if (!at || !len || len > LABEL_MAX || strchr(name, '.'))
        return 0;
    at = put_record(out, room, at, DNS_PTR, len + 2);
    if (!at)
        return 0;
    out[at] = (u8)len;
    memcpy(out + at + 1, name, len);
    out[at + 1 + len] = 0;
    return at + len + 2;
}

static u8 small(u8 c)
{
    return c >= 'A' && c <= 'Z' ? (u8)(c + 32) : c;
}

bool dns_fits(const u8 *question, size_t n, const u8 *answer, size_t m)
{
    struct dns_question q;
    if (dns_parse(question, n, &q) < 0 || m < DNS_HEADER || get16(answer) != q.id ||
        !(get16(answer + 2) & FLAG_RESPONSE))
        return false;
    /* A server that refuses may leave the question out. */
    if (get16(answer + 4) == 0)
        return m == DNS_HEADER || (get16(answer + 2) & 15) != DNS_NOERROR;
    if (get16(answer + 4) != 1 || m < q.end)
        return false;
    for (size_t i = DNS_HEADER; i < q.end; i++)
        if (small(question[i]) != small(answer[i]))
            return false;
    return true;
}

bool dns_reverse(const char *name, u32 *address)
{
    unsigned a[4];
    int end = 0;
    if (sscanf(name, "%3u.%3u.%3u.%3u.in-addr.arpa%n", &a[0], &a[1], &a[2], &a[3], &end) != 4 || !end || name[end] ||
        (a[0] | a[1] | a[2] | a[3]) > 255)
        return false;
    *address = a[3] << 24 | a[2] << 16 | a[1] << 8 | a[0];
    return true;
}
