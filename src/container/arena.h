/* Memory that lives as long as one configuration: allocated piecemeal, freed whole. */
#ifndef TRAPEZE_CONTAINER_ARENA_H
#define TRAPEZE_CONTAINER_ARENA_H

#include "base/types.h"

struct arena {
    struct arena_block *first;
};

/* `n` zeroed objects of `size` bytes, aligned for anything; NULL when memory is out or n * size overflows. */
void *arena_array(struct arena *a, size_t n, size_t size);
/* A formatted string; NULL when memory is out. */
char *arena_format(struct arena *a, const char *fmt, ...) __attribute__((format(printf, 2, 3)));
/* A copy of `text`. */
char *arena_copy(struct arena *a, const char *text);
void arena_free(struct arena *a);

#endif
