#include "image/reference.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#define LOWER  "abcdefghijklmnopqrstuvwxyz"
#define UPPER  "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
#define DIGITS "0123456789"

/* Parts of lower case letters and digits, between them single slashes; inside them . - _ __ and any number of dashes. */
static bool path_valid(const char *p)
{
    while (*p) {
        size_t n = strspn(p, LOWER DIGITS);
        if (!n)
            return false;
        p += n;
        if (*p == '/' && p[1]) {
            p++;
            continue;
        }
        n = strspn(p, "-");
        n = n ? n : *p == '.' ? 1 : *p == '_' && p[1] == '_' ? 2 : *p == '_' ? 1 : 0;
        if (!n)
            return !*p;
        p += n;
        if (!*p || *p == '/')
            return false;
    }
    return false;
}

static bool tag_valid(const char *t)
{
    size_t n = strlen(t);
    return n && n <= 128 && !strchr(".-", t[0]) && strspn(t, LOWER UPPER DIGITS "_.-") == n;
}

static bool port_valid(const char *p)
{
    size_t n = strlen(p);
    return n && n <= 5 && strspn(p, DIGITS) == n;
}

/* A name or IPv4 address with or without port, or an IPv6 address in brackets. */
static bool host_valid(const char *h)
{
    if (h[0] == '[') {
        size_t n = 1 + strspn(h + 1, "0123456789abcdefABCDEF:.");
        return n > 2 && h[n] == ']' && (!h[n + 1] || (h[n + 1] == ':' && port_valid(h + n + 2)));
    }
    size_t n = strspn(h, LOWER UPPER DIGITS ".-");
    if (!n || h[0] == '.' || h[0] == '-' || h[n - 1] == '.' || h[n - 1] == '-')
        return false;
    return !h[n] || (h[n] == ':' && port_valid(h + n + 1));
}

static int bad(const char *text, const char *why, struct error *e)
{
    return error_set(e, EINVAL, "image name \"%.100s\": %s", text, why);
}

/* Cut what follows `at` off into out. */
static bool take(char *text, char *at, char *out, size_t size)
{
    size_t n = strlen(at + 1);
    if (n >= size)
        return false;
    memcpy(out, at + 1, n + 1);
    *at = 0;
    return true;
}

static int split_host(struct reference *r, char *name, const char *text, struct error *e)
{
    char *slash = strchr(name, '/');
    size_t n = slash ? (size_t)(slash - name) : 0;
    bool host = slash && (memchr(name, '.', n) || memchr(name, ':', n) || (n == 9 && !memcmp(name, "localhost", 9)));
    if (host && n >= sizeof(r->host))
        return bad(text, "the host's name is too long", e);
    snprintf(r->host, sizeof(r->host), "%.*s", host ? (int)n : 9, host ? name : "docker.io");
    if (!strcmp(r->host, "index.docker.io"))
        snprintf(r->host, sizeof(r->host), "docker.io");
    const char *path = host ? slash + 1 : name;
    bool library = !strcmp(r->host, "docker.io") && !strchr(path, '/');
    int len = snprintf(r->path, sizeof(r->path), "%s%s", library ? "library/" : "", path);
    if (len >= (int)sizeof(r->path))
        return bad(text, "the path is too long", e);
    if (!host_valid(r->host))
        return bad(text, "the host is no name or address with or without a port", e);
    if (!path_valid(path))
        return bad(text, "the path is made of lower case letters, digits and single . _ - / between them", e);
    return 0;
}

int reference_parse(struct reference *r, const char *text, struct error *e)
{
    char name[REFERENCE_TEXT];
    memset(r, 0, sizeof(*r));
    if (strlen(text) >= sizeof(name))
        return bad(text, "too long", e);
    snprintf(name, sizeof(name), "%s", text);
    char *at = strchr(name, '@');
    if (at && (!take(name, at, r->digest, sizeof(r->digest)) || !digest_valid(r->digest)))
        return bad(text, "what follows @ is no sha256 or sha512 digest", e);
    char *slash = strrchr(name, '/');
    char *colon = strchr(slash ? slash : name, ':');
    if (colon && (!take(name, colon, r->tag, sizeof(r->tag)) || !tag_valid(r->tag)))
        return bad(text, "the tag is 1 to 128 letters, digits, . _ -", e);
    if (!r->tag[0] && !r->digest[0])
        snprintf(r->tag, sizeof(r->tag), "latest");
    return split_host(r, name, text, e);
}

void reference_full(const struct reference *r, char out[REFERENCE_TEXT])
{
    snprintf(out, REFERENCE_TEXT, "%s/%s%s%s%s%s", r->host, r->path, r->tag[0] ? ":" : "", r->tag,
             r->digest[0] ? "@" : "", r->digest);
}

void reference_short(const char *full, char out[REFERENCE_TEXT])
{
    if (!strncmp(full, "docker.io/library/", 18))
        full += 18;
    else if (!strncmp(full, "docker.io/", 10))
        full += 10;
    snprintf(out, REFERENCE_TEXT, "%s", full);
}
