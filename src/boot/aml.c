#include "boot/aml.h"

#include "base/bytes.h"

enum {
    AML_ZERO = 0x00,
    AML_ONE = 0x01,
    AML_NAME = 0x08,
    AML_BYTE = 0x0a,
    AML_WORD = 0x0b,
    AML_DWORD = 0x0c,
    AML_STRING = 0x0d,
    AML_QWORD = 0x0e,
    AML_SCOPE = 0x10,
    AML_BUFFER = 0x11,
    AML_PACKAGE = 0x12,
    AML_METHOD = 0x14,
    AML_NOTIFY = 0x86,
    AML_EXT = 0x5b,
    AML_ARG0 = 0x68,
    AML_LEQUAL = 0x93,
    AML_IF = 0xa0,
    AML_ELSE = 0xa1,
    AML_EXT_DEVICE = 0x82,
    RES_IRQ = 0x22, /* two bytes follow: no flags, so edge, active high, exclusive */
    RES_IO = 0x47,
    RES_END = 0x79,
    RES_MEMORY32 = 0x86,
    RES_DWORD = 0x87,
    RES_WORD = 0x88,
    RES_INTERRUPT = 0x89,
    RES_FIXED = 0x0c, /* both ends of a window are fixed */
};

void aml_bytes(struct aml *a, const void *data, size_t len)
{
    if (a->full || len > a->cap - a->len) {
        a->full = true;
        return;
    }
    memcpy(a->data + a->len, data, len);
    a->len += len;
}

void aml_u8(struct aml *a, u8 v)
{
    aml_bytes(a, &v, 1);
}

void aml_int(struct aml *a, u64 v)
{
    static const struct {
        u64 max;
        u8 op, bytes;
    } forms[] = {{0xff, AML_BYTE, 1}, {0xffff, AML_WORD, 2}, {0xffffffff, AML_DWORD, 4}, {UINT64_MAX, AML_QWORD, 8}};
    if (v <= 1) {
        aml_u8(a, v ? AML_ONE : AML_ZERO);
        return;
    }
    size_t i = 0;
    while (v > forms[i].max)
        i++;
    aml_u8(a, forms[i].op);
    aml_bytes(a, &v, forms[i].bytes);
}

static void aml_path(struct aml *a, const char *name)
{
    aml_bytes(a, name, strlen(name));
}

size_t aml_begin_scope(struct aml *a, const char *name)
{
    aml_u8(a, AML_SCOPE);
    size_t mark = a->len;
    aml_path(a, name);
    return mark;
}

size_t aml_begin_device(struct aml *a, const char *name)
{
    aml_u8(a, AML_EXT);
    aml_u8(a, AML_EXT_DEVICE);
    size_t mark = a->len;
    aml_path(a, name);
    return mark;
}

/*
 * Insert PkgLength at `mark`, which counts its own bytes:
 *
 *   one byte        00llllll                       up to 63
 *   1 + n bytes     nn00llll  llllllll ...         up to 2^(4+8n) - 1, the low four bits first
 */
void aml_end(struct aml *a, size_t mark)
{
    if (a->full)
        return;
    size_t body = a->len - mark, extra = 0;
    while (body + 1 + extra >= (extra ? (size_t)1 << (4 + 8 * extra) : 64))
        extra++;
    size_t total = body + 1 + extra;
    u8 head[4] = {(u8)(extra ? extra << 6 | (total & 0xf) : total)};
    for (size_t i = 0; i < extra; i++)
        head[1 + i] = (u8)(total >> (4 + 8 * i));
    aml_bytes(a, head, 1 + extra); /* makes room, or finds that there is none */
    if (a->full)
        return;
    memmove(a->data + mark + 1 + extra, a->data + mark, body);
    memcpy(a->data + mark, head, 1 + extra);
}

static void aml_begin_name(struct aml *a, const char *name)
{
    aml_u8(a, AML_NAME);
    aml_path(a, name);
}

void aml_name_int(struct aml *a, const char *name, u64 value)
{
    aml_begin_name(a, name);
    aml_int(a, value);
}

/* Three letters of five bits, four hexadecimal digits, as a big-endian dword (ACPI 6.4, 19.3.4). */
void aml_name_eisa(struct aml *a, const char *name, const char *id)
{
    u32 v = 0;
    for (int i = 0; i < 3; i++)
        v = v << 5 | (id[i] & 0x1f);
    for (int i = 3; i < 7; i++)
        v = v << 4 | (u32)(id[i] <= '9' ? id[i] - '0' : id[i] - 'A' + 10);
    v = __builtin_bswap32(v);
    aml_begin_name(a, name);
    aml_u8(a, AML_DWORD);
    aml_bytes(a, &v, 4);
}

void aml_name_string(struct aml *a, const char *name, const char *value)
{
    aml_begin_name(a, name);
    aml_u8(a, AML_STRING);
    aml_bytes(a, value, strlen(value) + 1);
}

void aml_name_package(struct aml *a, const char *name, const u8 *values, u8 n)
{
    aml_begin_name(a, name);
    aml_u8(a, AML_PACKAGE);
    size_t mark = a->len;
    aml_u8(a, n);
    for (u8 i = 0; i < n; i++)
        aml_int(a, values[i]);
    aml_end(a, mark);
}

/*
 * Name (_CRS, Buffer (n) {...}): the size n stands before the bytes, so a template begins where they will and aml_end_crs
 * puts the size in front of them.
 */
size_t aml_begin_crs(struct aml *a)
{
    aml_begin_name(a, "_CRS");
    aml_u8(a, AML_BUFFER);
    return a->len;
}

void aml_end_crs(struct aml *a, size_t mark)
{
    const u8 end[2] = {RES_END, 0}; /* a checksum of 0 means: not computed */
    aml_bytes(a, end, sizeof(end));
    size_t body = a->len - mark;
    const u8 size[3] = {AML_WORD, (u8)body, (u8)(body >> 8)};
    aml_bytes(a, size, sizeof(size));
    if (a->full)
        return;
    memmove(a->data + mark + sizeof(size), a->data + mark, body);
    memcpy(a->data + mark, size, sizeof(size));
    aml_end(a, mark);
}

void aml_io(struct aml *a, u16 base, u8 len)
{
    u8 d[8] = {RES_IO, 1 /* 16-bit decode */, 0, 0, 0, 0, 1 /* alignment */, len};
    put_le16(d + 2, base);
    put_le16(d + 4, base);
    aml_bytes(a, d, sizeof(d));
}

void aml_irq(struct aml *a, unsigned irq)
{
    u8 d[3] = {RES_IRQ};
    put_le16(d + 1, (u16)(1u << irq));
    aml_bytes(a, d, sizeof(d));
}

void aml_interrupt(struct aml *a, u32 gsi)
{
    u8 d[9] = {RES_INTERRUPT, 6, 0, 1 | 8 /* the device's own, shared */, 1 /* interrupt */};
    put_le32(d + 5, gsi);
    aml_bytes(a, d, sizeof(d));
}

void aml_memory(struct aml *a, u32 base, u32 len)
{
    u8 d[12] = {RES_MEMORY32, 9, 0, 1 /* writable */};
    put_le32(d + 4, base);
    put_le32(d + 8, len);
    aml_bytes(a, d, sizeof(d));
}

enum window { WINDOW_MEMORY, WINDOW_IO, WINDOW_BUS };

static void word_window(struct aml *a, enum window kind, u8 flags, u16 first, u16 last)
{
    u8 d[16] = {RES_WORD, 13, 0, (u8)kind, RES_FIXED, flags};
    put_le16(d + 8, first);
    put_le16(d + 10, last);
    put_le16(d + 14, (u16)(last - first + 1));
    aml_bytes(a, d, sizeof(d));
}

void aml_bus_window(struct aml *a, u8 first, u8 last)
{
    word_window(a, WINDOW_BUS, 0, first, last);
}

void aml_io_window(struct aml *a, u16 first, u16 last)
{
    word_window(a, WINDOW_IO, 3 /* the whole range */, first, last);
}

void aml_memory_window(struct aml *a, u32 first, u32 last)
{
    u8 d[26] = {RES_DWORD, 23, 0, WINDOW_MEMORY, RES_FIXED, 1 /* writable, uncached */};
    put_le32(d + 10, first);
    put_le32(d + 14, last);
    put_le32(d + 22, last - first + 1);
    aml_bytes(a, d, sizeof(d));
}

size_t aml_begin_method(struct aml *a, const char *name, u8 args)
{
    aml_u8(a, AML_METHOD);
    size_t mark = a->len;
    aml_path(a, name);
    aml_u8(a, args);
    return mark;
}

size_t aml_begin_package(struct aml *a, u8 n)
{
    aml_u8(a, AML_PACKAGE);
    size_t mark = a->len;
    aml_u8(a, n);
    return mark;
}

size_t aml_begin_name_package(struct aml *a, const char *name, u8 n)
{
    aml_begin_name(a, name);
    return aml_begin_package(a, n);
}

size_t aml_begin_if_uuid(struct aml *a, const u8 uuid[16])
{
    aml_u8(a, AML_IF);
    size_t mark = a->len;
    const u8 head[] = {AML_LEQUAL, AML_ARG0, AML_BUFFER};
    aml_bytes(a, head, sizeof(head));
    size_t buffer = a->len;
    aml_int(a, 16);
    aml_bytes(a, uuid, 16);
    aml_end(a, buffer);
    return mark;
}

size_t aml_begin_else(struct aml *a)
{
    aml_u8(a, AML_ELSE);
    return a->len;
}

void aml_notify(struct aml *a, const char *device, u8 value)
{
    aml_u8(a, AML_NOTIFY);
    aml_bytes(a, "\\\x2e_SB_", 6); /* the root, a path of two names */
    aml_path(a, device);
    aml_int(a, value);
}
