#include "migrate/message.h"
#include "base/bytes.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define VERSION 1

static u32 type_code(const char *type)
{
    return get_le32(type);
}

void message_free(struct message *m)
{
    json_decref(m->json);
    free(m->data);
    *m = (struct message){0};
}

/* --- sending --- */

int message_send_parts(struct channel *c, const char *type, const struct message_part *parts, unsigned n,
                       struct error *e)
{
    u8 header[REC_HEADER];
    size_t len = 0;
    u32 crc = 0;
    for (unsigned i = 0; i < n; i++) {
        if (parts[i].len > MESSAGE_BYTES_MAX - len)
            return error_set(e, EMSGSIZE, "%s: message %s of more than %u bytes", c->peer, type, MESSAGE_BYTES_MAX);
        len += parts[i].len;
        crc = crc32c(crc, parts[i].data, parts[i].len);
    }
    rec_put_header(header, type_code(type), VERSION, 0, NULL, 0);
    put_le32(header + 8, (u32)len);
    put_le32(header + 12, crc);
    int r = channel_send(c, header, sizeof(header), e);
    for (unsigned i = 0; i < n && r == 0; i++)
        r = channel_send(c, parts[i].data, parts[i].len, e);
    return r;
}

int message_send(struct channel *c, const char *type, const void *payload, size_t len, struct error *e)
{
    const struct message_part part = {payload, len};
    return message_send_parts(c, type, &part, len ? 1 : 0, e);
}

int message_send_json(struct channel *c, const char *type, const json_t *object, struct error *e)
{
    char *text = json_dumps(object, JSON_COMPACT);
    if (!text)
        return error_set(e, ENOMEM, "%s: message %s: out of memory", c->peer, type);
    size_t len = strlen(text);
    int r = len <= MESSAGE_JSON_MAX ? message_send(c, type, text, len, e)
                                    : error_set(e, EMSGSIZE, "%s: message %s of %zu bytes; %u are allowed", c->peer,
                                                type, len, MESSAGE_JSON_MAX);
    free(text);
    return r;
}

/* --- receiving --- */

/* The letters of a type, for a person: whatever the peer has put there. */
static void name_type(u32 type, char out[16])
{
    for (unsigned i = 0; i < 4; i++) {
        u8 b = (u8)(type >> 8 * i);
        if (b < 0x20 || b > 0x7e) {
            snprintf(out, 16, "%08x", type);
            return;
        }
        out[i] = (char)b;
    }
    out[4] = 0;
}

static int unexpected(const struct channel *c, u32 type, const struct message_kind *kinds, unsigned n, struct error *e)
{
    char name[16], list[120] = "";
    size_t at = 0;
    name_type(type, name);
    for (unsigned i = 0; i < n && at < sizeof(list) - 8; i++)
        at += (size_t)snprintf(list + at, sizeof(list) - at, "%s%s", i ? ", " : "", kinds[i].type);
    return error_set(e, EPROTO, "%s: sent a message \"%s\" where there may be %s: it is no trapeze, or another version",
                     c->peer, name, n ? list : "none");
}

/* Find the row of a header, and look at all that it says but the checksum. Returns the row or -errno. */
static int judge(const struct channel *c, const struct rec_view *v, const struct message_kind *kinds, unsigned n,
                 struct error *e)
{
    unsigned i = 0;
    while (i < n && type_code(kinds[i].type) != v->type)
        i++;
    if (i == n)
        return unexpected(c, v->type, kinds, n, e);
    if (v->version != VERSION)
        return error_set(e, EPROTONOSUPPORT, "%s: message %s of version %u; this trapeze knows version %u", c->peer,
                         kinds[i].type, v->version, VERSION);
    u32 most = kinds[i].most ? kinds[i].most : kinds[i].json ? MESSAGE_JSON_MAX : 0;
    if (v->instance || v->len > most || v->len > MESSAGE_BYTES_MAX)
        return error_set(e, EBADMSG, "%s: message %s, number %u, of %u bytes; %u are allowed", c->peer, kinds[i].type,
                         v->instance, v->len, most);
    return (int)i;
}

/* Room for a payload and a zero behind it. */
static int make_room(struct message *m, size_t len)
{
    if (len + 1 <= m->cap)
        return 0;
    u8 *p = realloc(m->data, len + 1);
    if (!p)
        return -ENOMEM;
    m->data = p;
    m->cap = len + 1;
    return 0;
}

static int parse(const struct channel *c, const char *type, struct message *m, struct error *e)
{
    json_error_t why;
    m->json = json_loadb((const char *)m->data, m->len, JSON_REJECT_DUPLICATES, &why);
    if (!m->json)
        return error_set(e, EBADMSG, "%s: message %s is no JSON: %s", c->peer, type, why.text);
    if (!json_is_object(m->json))
        return error_set(e, EBADMSG, "%s: message %s is no object", c->peer, type);
    return 0;
}

int message_receive(struct channel *c, const struct message_kind *kinds, unsigned n, struct message *m, struct error *e)
{
    u8 header[REC_HEADER];
    struct rec_view v;
    json_decref(m->json);
    m->json = NULL;
    m->len = 0;
    int r = channel_receive(c, header, sizeof(header), e);
    if (r < 0)
        return r;
    rec_get_header(header, &v);
    int row = judge(c, &v, kinds, n, e);
    if (row < 0)
        return row;
    if (make_room(m, v.len) < 0)
        return error_set(e, ENOMEM, "%s: message %s of %u bytes: out of memory", c->peer, kinds[row].type, v.len);
    if (v.len && (r = channel_receive(c, m->data, v.len, e)) < 0)
        return r;
    m->data[v.len] = 0;
    if (!rec_intact(header, m->data))
        return error_set(e, EBADMSG, "%s: message %s is damaged: its checksum is wrong", c->peer, kinds[row].type);
    m->kind = (u32)row;
    m->len = v.len;
    return kinds[row].json ? parse(c, kinds[row].type, m, e) : 0;
}
