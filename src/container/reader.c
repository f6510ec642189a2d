#include "container/reader.h"

#include <errno.h>
#include <inttypes.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* What marks an integer that the library could not hold; see widen(). */
#define WIDE_MARK '#'

/* Append ".name" and "[3]" from the root down to `n`. */
static void append_path(char *out, size_t size, const struct node *n)
{
    if (!n || (!n->up && !n->name))
        return;
    append_path(out, size, n->up);
    size_t len = strlen(out);
    if (n->name)
        snprintf(out + len, size - len, "%s%s", len ? "." : "", n->name);
    else
        snprintf(out + len, size - len, "[%zu]", n->index);
}

void reader_wrong(struct reader *r, const struct node *up, const char *name, const char *fmt, ...)
{
    char path[192] = "", what[256];
    struct node field = {.up = up, .name = name};
    append_path(path, sizeof(path), name ? &field : up);
    va_list ap;
    va_start(ap, fmt);
    vsnprintf(what, sizeof(what), fmt, ap);
    va_end(ap);
    error_set(r->e, EINVAL, "%s: %s%s%s", r->file, path, path[0] ? ": " : "", what);
}

static const char *kind_name(const json_t *j)
{
    static const char *const names[] = {"an object", "an array",       "a string",  "a number",
                                        "a number",  "true (boolean)", "a boolean", "null"};
    return names[json_typeof(j)];
}

/* The member, or NULL: absent, null, or an error has been reported before. */
static const json_t *member(struct reader *r, const struct node *up, const char *name)
{
    if (r->e->code)
        return NULL;
    const json_t *j = json_object_get(up->json, name);
    return json_is_null(j) ? NULL : j;
}

static bool read_container(struct reader *r, const struct node *up, const char *name, bool array, struct node *out)
{
    const json_t *j = member(r, up, name);
    if (!j)
        return false;
    if (array ? !json_is_array(j) : !json_is_object(j)) {
        reader_wrong(r, up, name, "is %s, wanted is %s", kind_name(j), array ? "an array" : "an object");
        return false;
    }
    *out = (struct node){.json = j, .up = up, .name = name};
    return true;
}

bool read_object(struct reader *r, const struct node *up, const char *name, struct node *out)
{
    return read_container(r, up, name, false, out);
}

bool read_array(struct reader *r, const struct node *up, const char *name, struct node *out)
{
    return read_container(r, up, name, true, out);
}

size_t read_length(const struct node *array)
{
    return json_array_size(array->json);
}

bool read_element(struct reader *r, const struct node *array, size_t i, struct node *out)
{
    if (r->e->code)
        return false;
    *out = (struct node){.json = json_array_get(array->json, i), .up = array, .index = i};
    if (!json_is_object(out->json))
        reader_wrong(r, out, NULL, "is %s, wanted is an object", kind_name(out->json));
    return !r->e->code;
}

void *read_list(struct reader *r, const struct node *up, const char *name, size_t size, struct node *array, size_t *n)
{
    *n = 0;
    if (!read_array(r, up, name, array))
        return NULL;
    void *list = arena_array(r->arena, read_length(array), size);
    if (!list)
        error_set(r->e, ENOMEM, "%s: out of memory", r->file);
    else
        *n = read_length(array);
    return list;
}

/* The string of `j`, which stands at `name` of `up`. */
static const char *string_of(struct reader *r, const struct node *up, const char *name, const json_t *j)
{
    if (!json_is_string(j)) {
        reader_wrong(r, up, name, "is %s, wanted is a string", kind_name(j));
        return NULL;
    }
    const char *s = json_string_value(j);
    if (strlen(s) != json_string_length(j)) {
        reader_wrong(r, up, name, "holds a NUL character");
        return NULL;
    }
    return s;
}

const char *read_string(struct reader *r, const struct node *up, const char *name)
{
    const json_t *j = member(r, up, name);
    return j ? string_of(r, up, name, j) : NULL;
}

const char *read_needed(struct reader *r, const struct node *up, const char *name)
{
    const char *s = read_string(r, up, name);
    if (!s)
        reader_wrong(r, up, name, "is missing");
    else if (!*s)
        reader_wrong(r, up, name, "is empty");
    return s && *s ? s : NULL;
}

bool read_bool(struct reader *r, const struct node *up, const char *name, bool preset)
{
    const json_t *j = member(r, up, name);
    if (j && !json_is_boolean(j))
        reader_wrong(r, up, name, "is %s, wanted is true or false", kind_name(j));
    return j ? json_is_true(j) : preset;
}

static bool wide_number(const json_t *j, u64 *out)
{
    const char *s = json_string_value(j);
    if (!s || s[0] != WIDE_MARK)
        return false;
    errno = 0;
    char *end;
    *out = strtoull(s + 1, &end, 10);
    return errno == 0 && end != s + 1 && !*end;
}

struct opt_u64 read_u64(struct reader *r, const struct node *up, const char *name, u64 max)
{
    const json_t *j = member(r, up, name);
    u64 v = 0;
    if (!j)
        return (struct opt_u64){0};
    bool good = json_is_integer(j) ? json_integer_value(j) >= 0 : wide_number(j, &v);
    if (json_is_integer(j))
        v = (u64)json_integer_value(j);
    if (!good || v > max) {
        reader_wrong(r, up, name, "wanted is a number from 0 to %" PRIu64, max);
        return (struct opt_u64){0};
    }
    return (struct opt_u64){true, v};
}

u64 read_needed_u64(struct reader *r, const struct node *up, const char *name, u64 max)
{
    struct opt_u64 v = read_u64(r, up, name, max);
    if (!v.set)
        reader_wrong(r, up, name, "is missing");
    return v.v;
}

struct opt_s64 read_s64(struct reader *r, const struct node *up, const char *name, s64 min, s64 max)
{
    const json_t *j = member(r, up, name);
    if (!j)
        return (struct opt_s64){0};
    s64 v = json_is_integer(j) ? json_integer_value(j) : 0;
    if (!json_is_integer(j) || v < min || v > max) {
        reader_wrong(r, up, name, "wanted is a number from %" PRId64 " to %" PRId64, min, max);
        return (struct opt_s64){0};
    }
    return (struct opt_s64){true, v};
}

static struct strings strings_for(struct reader *r, size_t n)
{
    char **v = arena_array(r->arena, n + 1, sizeof(char *));
    if (!v)
        error_set(r->e, ENOMEM, "%s: out of memory", r->file);
    return (struct strings){v, v ? n : 0};
}

struct strings read_strings(struct reader *r, const struct node *up, const char *name)
{
    struct node array;
    if (!read_array(r, up, name, &array))
        return (struct strings){0};
    struct strings s = strings_for(r, read_length(&array));
    for (size_t i = 0; i < s.n; i++) {
        struct node item = {.json = json_array_get(array.json, i), .up = &array, .index = i};
        s.v[i] = (char *)string_of(r, &item, NULL, item.json);
    }
    return r->e->code ? (struct strings){0} : s;
}

struct strings read_map(struct reader *r, const struct node *up, const char *name)
{
    struct node map;
    if (!read_object(r, up, name, &map))
        return (struct strings){0};
    struct strings s = strings_for(r, 2 * json_object_size(map.json));
    size_t i = 0;
    const char *key;
    json_t *value;
    json_object_foreach((json_t *)map.json, key, value)
    {
        if (i + 2 > s.n)
            break;
        s.v[i++] = (char *)key;
        s.v[i++] = (char *)string_of(r, &map, key, value);
    }
    return r->e->code ? (struct strings){0} : s;
}

bool word_value(const struct word *table, const char *name, u64 *value)
{
    for (; table->name; table++)
        if (!strcmp(table->name, name)) {
            *value = table->value;
            return true;
        }
    return false;
}

const char *word_name(const struct word *table, u64 value)
{
    while (table->name && table->value != value)
        table++;
    return table->name;
}

bool read_word(struct reader *r, const struct node *up, const char *name, const struct word *table, u64 *value)
{
    const char *s = read_string(r, up, name);
    if (s && !word_value(table, s, value))
        reader_wrong(r, up, name, "\"%.80s\" is unknown", s);
    return s && !r->e->code;
}

u64 read_words(struct reader *r, const struct node *up, const char *name, const struct word *table)
{
    struct strings s = read_strings(r, up, name);
    u64 all = 0, one = 0;
    for (size_t i = 0; i < s.n; i++) {
        if (!word_value(table, s.v[i], &one))
            reader_wrong(r, up, name, "\"%.80s\" is unknown", s.v[i]);
        else
            all |= one;
    }
    return all;
}

/* The end of the string that begins at text[i] == '"'. */
static size_t skip_string(const char *text, size_t size, size_t i)
{
    for (i++; i < size && text[i] != '"'; i++)
        if (text[i] == '\\')
            i++;
    return MIN(i + 1, size);
}

/* Length of the run of digits at text[i], if it is an integer from 2^63 on and not part of a fraction; else 0. */
static size_t wide_digits(const char *text, size_t size, size_t i)
{
    size_t n = 0;
    while (i + n < size && text[i + n] >= '0' && text[i + n] <= '9')
        n++;
    char next = i + n < size ? text[i + n] : ' ';
    if (n < 19 || n > 20 || next == '.' || next == 'e' || next == 'E' ||
        (i && (text[i - 1] == '-' || text[i - 1] == '.')))
        return 0;
    return n == 20 || memcmp(text + i, "9223372036854775808", 19) >= 0 ? n : 0;
}

/*
 * A copy of the document in which integers from 2^63 on stand as strings: 18446744073709551615 becomes
 * "#18446744073709551615", which read_u64 understands. NULL when there is none (then nothing was copied) or no memory.
 */
static char *widen(const char *text, size_t size, size_t *out_size)
{
    char *out = NULL;
    size_t o = 0, copied = 0;
    for (size_t i = 0; i < size;) {
        if (text[i] == '"') {
            i = skip_string(text, size, i);
            continue;
        }
        if (text[i] < '0' || text[i] > '9') {
            i++;
            continue;
        }
        size_t wide = wide_digits(text, size, i), digits = 1;
        while (i + digits < size && text[i + digits] >= '0' && text[i + digits] <= '9')
            digits++;
        if (wide) {
            if (!out && !(out = malloc(size + size / 4 + 4))) /* 3 more for each 19 */
                return NULL;
            memcpy(out + o, text + copied, i - copied);
            o += i - copied;
            o += (size_t)sprintf(out + o, "\"%c%.*s\"", WIDE_MARK, (int)wide, text + i);
            copied = i + wide;
        }
        i += digits;
    }
    if (out)
        memcpy(out + o, text + copied, size - copied);
    *out_size = o + size - copied;
    return out;
}

json_t *reader_parse(const char *text, size_t size, const char *file, struct error *e)
{
    json_error_t je;
    size_t wide_size;
    char *wide = widen(text, size, &wide_size);
    json_t *j = json_loadb(wide ? wide : text, wide ? wide_size : size, JSON_REJECT_DUPLICATES, &je);
    free(wide);
    if (!j)
        error_set(e, EINVAL, "%s: line %d: no JSON: %.150s", file, je.line, je.text);
    return j;
}
