#include "image/digest.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

static const struct {
    const char *prefix;
    size_t digits;
} algorithms[] = {{"sha256:", 64}, {"sha512:", 128}};

bool digest_valid(const char *text)
{
    for (size_t i = 0; text && i < ARRAY_LEN(algorithms); i++) {
        size_t n = strlen(algorithms[i].prefix);
        if (strncmp(text, algorithms[i].prefix, n))
            continue;
        return strlen(text + n) == algorithms[i].digits && strspn(text + n, "0123456789abcdef") == algorithms[i].digits;
    }
    return false;
}

int digest_check(const char *text, const char *what, struct error *e)
{
    return digest_valid(text)
               ? 0
               : error_set(e, EINVAL, "%s: \"%.80s\" is no sha256 or sha512 digest", what, text ? text : "");
}

const char *digest_path(const char *text, char out[DIGEST_TEXT])
{
    snprintf(out, DIGEST_TEXT, "%s", text);
    out[6] = '/';
    return out;
}

void digester_begin(struct digester *d, const char *like)
{
    d->wide = like && !strncmp(like, "sha512:", 7);
    if (d->wide)
        sha512_init(&d->ctx.wide);
    else
        sha256_init(&d->ctx.narrow);
}

void digester_add(struct digester *d, const void *data, size_t size)
{
    if (d->wide)
        sha512_update(&d->ctx.wide, size, data);
    else
        sha256_update(&d->ctx.narrow, size, data);
}

void digester_end(struct digester *d, char out[DIGEST_TEXT])
{
    u8 raw[SHA512_DIGEST_SIZE];
    size_t n = d->wide ? SHA512_DIGEST_SIZE : SHA256_DIGEST_SIZE;
    if (d->wide)
        sha512_digest(&d->ctx.wide, n, raw);
    else
        sha256_digest(&d->ctx.narrow, n, raw);
    memcpy(out, algorithms[d->wide].prefix, 8);
    for (size_t i = 0; i < n; i++)
        snprintf(out + 7 + 2 * i, 3, "%02x", raw[i]);
}

void digest_of(const void *data, size_t size, char out[DIGEST_TEXT])
{
    struct digester d;
    digester_begin(&d, NULL);
    digester_add(&d, data, size);
    digester_end(&d, out);
}
