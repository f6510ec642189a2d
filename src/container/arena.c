#include "container/arena.h"

#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ARENA_BLOCK 8192

struct arena_block {
    struct arena_block *next;
    size_t used, size;
    _Alignas(max_align_t) u8 data[];
};

static void *arena_bytes(struct arena *a, size_t bytes)
{
    bytes = (bytes + sizeof(max_align_t) - 1) / sizeof(max_align_t) * sizeof(max_align_t);
    struct arena_block *b = a->first;
    if (!b || b->size - b->used < bytes) {
        size_t size = MAX(bytes, (size_t)ARENA_BLOCK);
        b = calloc(1, sizeof(*b) + size);
        if (!b)
            return NULL;
        b->size = size;
        b->next = a->first;
        a->first = b;
    }
    void *p = b->data + b->used;
    b->used += bytes;
    return p;
}

void *arena_array(struct arena *a, size_t n, size_t size)
{
    size_t bytes;
    if (__builtin_mul_overflow(n, size, &bytes) || bytes > SIZE_MAX / 2)
        return NULL;
    return arena_bytes(a, bytes ? bytes : 1);
}

char *arena_format(struct arena *a, const char *fmt, ...)
{
    va_list ap;
    va_start(ap, fmt);
    int n = vsnprintf(NULL, 0, fmt, ap);
    va_end(ap);
    char *p = n < 0 ? NULL : arena_bytes(a, (size_t)n + 1);
    if (!p)
        return NULL;
    va_start(ap, fmt);
    vsnprintf(p, (size_t)n + 1, fmt, ap);
    va_end(ap);
    return p;
}

char *arena_copy(struct arena *a, const char *text)
{
    size_t n = strlen(text) + 1;
    char *p = arena_bytes(a, n);
    return p ? memcpy(p, text, n) : NULL;
}

void arena_free(struct arena *a)
{
    while (a->first) {
        struct arena_block *b = a->first;
        a->first = b->next;
        free(b);
    }
}
