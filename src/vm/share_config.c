/* A shared directory as a person names it: "DIR:TAG[:ro]", and as the registry's JSON has it. */
#include "vm/config.h"

#include <ctype.h>
#include <errno.h>
#include <string.h>

/* Copy `len` bytes of text; -1 if there is no room. */
static int put(char *out, size_t size, const char *s, size_t len)
{
    if (len >= size)
        return -1;
    memcpy(out, s, len);
    out[len] = 0;
    return 0;
}

static bool good_tag(const char *tag)
{
    for (const char *p = tag; *p; p++)
        if (!isalnum((unsigned char)*p) && !strchr("._-", *p))
            return false;
    return *tag && strcmp(tag, "ro");
}

int vm_share_parse(struct vm_share *s, const char *text, struct error *e)
{
    const char *tag = strchr(text, ':'), *mode = tag ? strchr(tag + 1, ':') : NULL;
    *s = (struct vm_share){0};
    if (!tag || tag == text || !tag[1])
        return error_set(e, EINVAL, "--share %.100s: write DIR:TAG[:ro]; the guest mounts it by its tag", text);
    if (mode && strcmp(mode, ":ro"))
        return error_set(e, EINVAL,
                         "--share %.100s: write DIR:TAG[:ro]; a directory with a colon in its name can be given by a "
                         "symbolic link to it",
                         text);
    size_t tag_len = mode ? (size_t)(mode - tag) - 1 : strlen(tag + 1);
    if (put(s->dir, sizeof(s->dir), text, (size_t)(tag - text)) < 0)
        return error_set(e, EINVAL, "--share %.60s..: the directory's name is too long", text);
    if (put(s->tag, sizeof(s->tag), tag + 1, tag_len) < 0)
        return error_set(e, EINVAL, "--share %.100s: the tag has %zu bytes; %u are possible", s->dir, tag_len,
                         SHARE_TAG_MAX);
    s->read_only = mode;
    return 0;
}

struct share_info vm_share_info(const struct vm_share *s)
{
    struct share_info i = {.read_only = s->read_only};
    memcpy(i.tag, s->tag, SHARE_TAG_MAX); /* not ended when it is full */
    return i;
}

int vm_shares_check(const struct vm_config *c, struct error *e)
{
    if (c->n_shares > SHARE_COUNT_MAX)
        return error_set(e, EINVAL, "--share: %u of them; %u are possible", c->n_shares, SHARE_COUNT_MAX);
    for (unsigned i = 0; i < c->n_shares; i++) {
        const struct vm_share *s = &c->shares[i];
        if (!good_tag(s->tag))
            return error_set(e, EINVAL,
                             "--share %.100s: tag \"%s\": letters, digits, dot, dash and underline make a tag, and "
                             "\"ro\" is none",
                             s->dir, s->tag);
        for (unsigned k = 0; k < i; k++)
            if (!strcmp(c->shares[k].tag, s->tag))
                return error_set(e, EINVAL, "--share %.100s: tag %s: another share has it; take another", s->dir,
                                 s->tag);
    }
    return 0;
}

json_t *vm_shares_to_json(const struct vm_config *c)
{
    json_t *a = json_array();
    for (unsigned i = 0; a && i < c->n_shares; i++) {
        const struct vm_share *s = &c->shares[i];
        json_array_append_new(a,
                              json_pack("{s:s,s:s,s:b}", "directory", s->dir, "tag", s->tag, "readonly", s->read_only));
    }
    return a;
}

int vm_shares_from_json(struct vm_config *c, const json_t *a)
{
    if (!a)
        return 0;
    if (!json_is_array(a) || json_array_size(a) > SHARE_COUNT_MAX)
        return -1;
    for (; c->n_shares < json_array_size(a); c->n_shares++) {
        struct vm_share *s = &c->shares[c->n_shares];
        const char *dir, *tag;
        int read_only = 0;
        if (json_unpack(json_array_get(a, c->n_shares), "{s:s,s:s,s?b}", "directory", &dir, "tag", &tag, "readonly",
                        &read_only) < 0)
            return -1;
        s->read_only = read_only;
        if (put(s->dir, sizeof(s->dir), dir, strlen(dir)) < 0 || put(s->tag, sizeof(s->tag), tag, strlen(tag)) < 0)
            return -1;
    }
    return 0;
}
