#include "vm/handover_wire.h"
#include "migrate/message.h"

#include <errno.h>
#include <string.h>

#define BODY_MAX   (128u << 10)
#define FRAMES_MAX (1u << 20)

static const char types[WIRE_COUNT][5] = {
#define X(id, type) [id] = type,
    WIRE_MESSAGES(X)
#undef X
};

int wire_send(struct channel *c, enum wire_message m, json_t *body, struct error *e)
{
    int r = body ? message_send_json(c, types[m], body, e) : error_set(e, ENOMEM, "message: out of memory");
    json_decref(body);
    return r < 0 ? r : channel_flush(c, e);
}

int wire_send_frames(struct channel *c, const u8 *data, size_t len, struct error *e)
{
    int r = message_send(c, types[WIRE_FRAMES], data, len, e);
    return r < 0 ? r : channel_flush(c, e);
}

int wire_receive(struct channel *c, unsigned which, json_t **body, struct error *e)
{
    u8 *none;
    size_t len;
    return wire_receive_bytes(c, which & ~WIRE(WIRE_FRAMES), body, &none, &len, e);
}

int wire_receive_bytes(struct channel *c, unsigned which, json_t **body, u8 **data, size_t *len, struct error *e)
{
    struct message_kind kinds[WIRE_COUNT];
    enum wire_message of[WIRE_COUNT];
    struct message m = {0};
    unsigned n = 0;
    for (unsigned i = 0; i < WIRE_COUNT; i++) {
        if (!(which & WIRE(i)))
            continue;
        kinds[n] = (struct message_kind){.json = i != WIRE_FRAMES, .most = i != WIRE_FRAMES ? BODY_MAX : FRAMES_MAX};
        memcpy(kinds[n].type, types[i], sizeof(types[i]));
        of[n++] = (enum wire_message)i;
    }
    int r = message_receive(c, kinds, n, &m, e);
    *body = r == 0 ? json_incref(m.json) : NULL;
    *data = NULL;
    *len = 0;
    r = r == 0 ? (int)of[m.kind] : r;
    if (r == WIRE_FRAMES) {
        *data = m.data;
        *len = m.len;
        m.data = NULL;
        m.cap = 0;
    }
    message_free(&m);
    return r;
}

json_t *wire_id(const char *id, const char *host)
{
    return host ? json_pack("{s:s,s:s}", "id", id, "host", host) : json_pack("{s:s}", "id", id);
}

bool wire_lacks(const json_t *body)
{
    return json_is_true(json_object_get(body, WIRE_LACKS));
}

bool wire_is_of(const json_t *body, const char *id)
{
    const char *of = json_string_value(json_object_get(body, "id"));
    return of && !strcmp(of, id);
}
