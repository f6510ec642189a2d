/*
 * Reads JSON into C values, and names the field when something is wrong with it:
 *
 *     config.json: linux.resources.cpu.shares: is a string, wanted is a number from 0 to 18446744073709551615
 *
 * A `node` is a place in the document: it lies on the stack of the function that reads it and points to the node above,
 * so the path of a field is put together only when an error wants it. The first error sticks: from then on every function
 * reads nothing and says "absent", so a parser reads all its fields and looks at the error once, at its end. JSON's null
 * counts as absent everywhere (Go's encoders write it for empty lists).
 */
#ifndef TRAPEZE_CONTAINER_READER_H
#define TRAPEZE_CONTAINER_READER_H

#include "base/error.h"
#include "base/types.h"
#include "container/arena.h"

#include <jansson.h>

struct reader {
    const char *file; /* what the document is called in messages */
    struct arena *arena;
    struct error *e; /* not NULL */
};

struct node {
    const json_t *json;
    const struct node *up;
    const char *name; /* NULL: element `index` of the array above */
    size_t index;
};

/* A number that may be left out. */
struct opt_u64 {
    bool set;
    u64 v;
};
struct opt_s64 {
    bool set;
    s64 v;
};

/* NULL-terminated. */
struct strings {
    char **v;
    size_t n;
};

/* One row of a table of words. */
struct word {
    const char *name;
    u64 value;
};

/*
 * Parse `size` bytes. Integers above 2^63 - 1, which the JSON library refuses and RLIM_INFINITY needs, are read as well. A
 * new reference, or NULL with `e`.
 */
json_t *reader_parse(const char *text, size_t size, const char *file, struct error *e);

/* Report the field `name` of `up` (NULL: `up` itself) as wrong. */
void reader_wrong(struct reader *r, const struct node *up, const char *name, const char *fmt, ...)
    __attribute__((format(printf, 4, 5)));

/* The member `name`, if it is there and an object (array). */
bool read_object(struct reader *r, const struct node *up, const char *name, struct node *out);
bool read_array(struct reader *r, const struct node *up, const char *name, struct node *out);
size_t read_length(const struct node *array);
/* Element `i` of an array, which must be an object. */
bool read_element(struct reader *r, const struct node *array, size_t i, struct node *out);
/* `name`'s array of objects: `n` zeroed structs of `size` bytes for it; NULL with *n 0 when it is absent. */
void *read_list(struct reader *r, const struct node *up, const char *name, size_t size, struct node *array, size_t *n);

/* NULL when absent. The string belongs to the document. NUL characters inside are refused. */
const char *read_string(struct reader *r, const struct node *up, const char *name);
const char *read_needed(struct reader *r, const struct node *up, const char *name);
bool read_bool(struct reader *r, const struct node *up, const char *name, bool preset);
struct opt_u64 read_u64(struct reader *r, const struct node *up, const char *name, u64 max);
struct opt_s64 read_s64(struct reader *r, const struct node *up, const char *name, s64 min, s64 max);
u64 read_needed_u64(struct reader *r, const struct node *up, const char *name, u64 max);
struct strings read_strings(struct reader *r, const struct node *up, const char *name);
/* An object whose values are strings: 2 n strings, name and value in turn. */
struct strings read_map(struct reader *r, const struct node *up, const char *name);
/* A word of `table` (ended by a NULL name) into its value. `n` of them in an array: or-ed together. */
bool read_word(struct reader *r, const struct node *up, const char *name, const struct word *table, u64 *value);
u64 read_words(struct reader *r, const struct node *up, const char *name, const struct word *table);

/* Look up in a table of words, without a document: false when it is none of them. */
bool word_value(const struct word *table, const char *name, u64 *value);
const char *word_name(const struct word *table, u64 value);

#endif
