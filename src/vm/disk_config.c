/* A disk as a person names it: "FILE[,format=F][,readonly][,cache=C]", and as the registry's JSON has it. */
#include "backend/disk/disk.h"
#include "vm/config.h"

#include <errno.h>
#include <stdio.h>
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

static int parse_word(struct vm_disk *d, const char *word, size_t len, struct error *e)
{
    static const char format[] = "format=", cache[] = "cache=", readonly[] = "readonly";
    if (len == sizeof(readonly) - 1 && !memcmp(word, readonly, len)) {
        d->read_only = true;
        return 0;
    }
    if (len >= sizeof(format) && !memcmp(word, format, sizeof(format) - 1) &&
        put(d->format, sizeof(d->format), word + sizeof(format) - 1, len - (sizeof(format) - 1)) == 0)
        return 0;
    if (len >= sizeof(cache) && !memcmp(word, cache, sizeof(cache) - 1) &&
        put(d->cache, sizeof(d->cache), word + sizeof(cache) - 1, len - (sizeof(cache) - 1)) == 0)
        return 0;
    return error_set(e, EINVAL, "--disk %.100s: %.*s is not known; format=raw, readonly and cache= are", d->file,
                     (int)MIN(len, (size_t)60), word);
}

int vm_disk_parse(struct vm_disk *d, const char *text, struct error *e)
{
    size_t len = strcspn(text, ",");
    *d = (struct vm_disk){.cache = "auto"};
    if (!len)
        return error_set(e, EINVAL, "--disk %.60s: names no file; write --disk FILE[,readonly]", text);
    if (put(d->file, sizeof(d->file), text, len) < 0)
        return error_set(e, EINVAL, "--disk %.60s..: the file's name is too long", text);
    while (text[len]) {
        text += len + 1;
        len = strcspn(text, ",");
        int r = parse_word(d, text, len, e);
        if (r < 0)
            return r;
    }
    return 0;
}

int vm_disk_check(const struct vm_disk *d, struct error *e)
{
    if (disk_cache_find(d->cache) < 0)
        return error_set(e, EINVAL, "--disk %.100s: cache=%s: no such mode; auto, none, writeback and writethrough are",
                         d->file, d->cache);
    int r = disk_format_find(d->format, d->file, e);
    return MIN(r, 0);
}

json_t *vm_disk_to_json(const struct vm_disk *d)
{
    return json_pack("{s:s,s:s,s:b,s:s}", "file", d->file, "format", d->format, "readonly", d->read_only, "cache",
                     d->cache);
}

int vm_disk_from_json(struct vm_disk *d, const json_t *j)
{
    const char *file, *format = "", *cache = "auto";
    int read_only = 0;
    *d = (struct vm_disk){0};
    if (json_unpack((json_t *)(uintptr_t)j, "{s:s,s?s,s?b,s?s}", "file", &file, "format", &format, "readonly",
                    &read_only, "cache", &cache) < 0)
        return -1;
    d->read_only = read_only;
    return put(d->file, sizeof(d->file), file, strlen(file)) |
           put(d->format, sizeof(d->format), format, strlen(format)) |
           put(d->cache, sizeof(d->cache), cache, strlen(cache));
}
