#include "migrate/address.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define UNIX "unix:"

static int parse_port(const char *text, u16 *port)
{
    char *end;
    if (text[0] < '0' || text[0] > '9')
        return -EINVAL;
    unsigned long n = strtoul(text, &end, 10);
    if (*end || n > 65535)
        return -EINVAL;
    *port = (u16)n;
    return 0;
}

static int parse_unix(struct channel_address *a, const char *text, struct error *e)
{
    const char *path = text + strlen(UNIX);
    size_t len = strlen(path);
    if (!len || path[len - 1] == '/' || len >= sizeof(a->name))
        return error_set(e, EINVAL, "%.200s: unix:PATH needs the path of a socket, of %zu bytes at most", text,
                         sizeof(a->name) - 1);
    a->local = true;
    memcpy(a->name, path, len + 1);
    return 0;
}

int channel_address_parse(struct channel_address *a, const char *text, struct error *e)
{
    *a = (struct channel_address){0};
    if (strncmp(text, UNIX, strlen(UNIX)) == 0)
        return parse_unix(a, text, e);
    const char *colon = strrchr(text, ':'), *from = text, *to = colon;
    if (!colon || colon == text || parse_port(colon + 1, &a->port) < 0)
        return error_set(e, EINVAL, "%.200s: no address: ADDR:PORT, HOST:PORT, [v6]:PORT or unix:PATH is", text);
    if (*from == '[') {
        from++;
        to--;
    }
    size_t len = to > from ? (size_t)(to - from) : 0;
    if (!len || len > 255 || (from != text && (*to != ']' || !memchr(from, ':', len))))
        return error_set(e, EINVAL, "%.200s: no address: ADDR:PORT, HOST:PORT, [v6]:PORT or unix:PATH is", text);
    if (from == text && memchr(from, ':', len))
        return error_set(e, EINVAL, "%.200s: an IPv6 address stands in brackets: [%.*s]:%u", text, (int)len, from,
                         a->port);
    memcpy(a->name, from, len);
    if (strspn(a->name, from == text ? "0123456789abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ.-_"
                                     : "0123456789abcdefABCDEF:.%-_ghijklmnopqrstuvwxyzGHIJKLMNOPQRSTUVWXYZ") != len)
        return error_set(e, EINVAL, "%.200s: %s can not be a host's %s", text, a->name,
                         from == text ? "name" : "number");
    return 0;
}

const char *channel_address_text(const struct channel_address *a, char *out, size_t size)
{
    if (a->local)
        snprintf(out, size, UNIX "%s", a->name);
    else
        snprintf(out, size, strchr(a->name, ':') ? "[%s]:%u" : "%s:%u", a->name, a->port);
    return out;
}
